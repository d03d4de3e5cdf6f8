//! Each checker notices a history that breaks its rule, and nothing in one that breaks none.

use headwater_protocol::id::{ChunkId, VersionId};

use super::*;
use crate::tally::Tally;
use crate::world::history::{Dataset, Fact, Files, GONE};
use crate::world::{LinkBytes, Rules};

fn files(bytes: &[u8]) -> Files {
    [("a".to_owned(), ChunkId::of(bytes))].into()
}

fn wrote(bytes: &[u8]) -> Fact {
    Fact::Wrote { dataset: "cam".into(), path: "a".into(), hash: ChunkId::of(bytes), bytes: bytes.len() as u64 }
}

fn version(number: u64, files: Result<Files, String>) -> Fact {
    Fact::Version { dataset: "cam".into(), number, version: VersionId::of(&[number as u8]), files }
}

fn receipt(number: u64, is_good: bool) -> Fact {
    Fact::Receipt { dataset: "cam".into(), number, version: VersionId::of(&[number as u8]), is_good }
}

fn freed(bytes: &[u8]) -> Fact {
    Fact::Freed { dataset: "cam".into(), path: "a".into(), hash: ChunkId::of(bytes) }
}

fn held(device: u8) -> Fact {
    Fact::Held { device, dataset: "cam".into(), files: files(b"1") }
}

/// A history that ends well, after these facts.
fn history(facts: Vec<Fact>, up_second_max: u64) -> History {
    let ended = Fact::Ended(Ok(()));
    let link = LinkBytes { up: 1000, down: 1000, up_second_max, ..LinkBytes::default() };
    History {
        facts: facts.into_iter().chain([ended]).map(|fact| (0, fact)).collect(),
        datasets: [("cam".to_owned(), Dataset { writer: 0, is_mirror: true, readers: vec![1] })].into(),
        wire: vec![link; 3],
        rules: vec![Rules { up_kbit: Some(4), ..Rules::default() }, Rules::default(), Rules::default()],
        datagrams: Tally::default(),
        dialled: 1,
        took_ms: 1000,
    }
}

#[test]
fn each_checker_notices_what_it_is_for() {
    let good = || vec![wrote(b"1"), version(1, Ok(files(b"1"))), receipt(1, true), freed(b"1"), held(1)];
    assert_eq!(check(&history(good(), 500)), Vec::<String>::new());
    let with = |more: Vec<Fact>| [good(), more].concat();
    let again = Fact::Again { dataset: "cam".into(), number: 1, version: Err(GONE.into()) };
    let passed = || Fact::Passed { dataset: "cam".into(), number: 2 };
    let collected = || Fact::Collected { keep_last: Some(1) };
    let old = || [collected(), passed(), version(3, Ok(files(b"1"))), again.clone()];
    assert_eq!(check(&history(with(old().to_vec()), 500)), Vec::<String>::new());
    let damaged = || Fact::Damaged { pack: 1 };
    let mended = Fact::Again { dataset: "cam".into(), number: 1, version: Ok(VersionId::of(&[1])) };
    assert_eq!(check(&history(with(vec![damaged(), mended]), 500)), Vec::<String>::new());
    let other = Fact::Again { dataset: "cam".into(), number: 1, version: Ok(VersionId::of(b"other")) };
    let cases = [
        ("nothing acknowledged is lost", with(vec![again.clone()])),
        ("nothing acknowledged is lost", with(vec![collected(), again.clone()])),
        ("nothing acknowledged is lost", with(old()[1..].to_vec())),
        ("nothing acknowledged is lost", with(vec![Fact::Started { lost_chunks: 1 }])),
        ("versions are whole", with(vec![version(2, Err("a chunk is missing".into()))])),
        ("versions are whole", with(vec![version(2, Ok(files(b"a mixture")))])),
        ("versions commit once", with(vec![other])),
        ("versions commit once", with(vec![version(3, Ok(files(b"1")))])),
        ("receipts are true", with(vec![receipt(2, true)])),
        ("receipts are true", with(vec![version(2, Ok(files(b"1"))), receipt(2, false)])),
        ("nothing leaves its scope", with(vec![held(2)])),
        ("nothing leaves its scope", with(vec![Fact::Leaked("a diary".into())])),
        ("freed files stay", with(vec![version(2, Ok(Files::new()))])),
        ("freed files stay", vec![wrote(b"1"), version(1, Ok(files(b"1"))), freed(b"1")]),
        ("processes are sound", with(vec![Fact::Broken("a panic".into())])),
        ("damage is mended", with(vec![damaged()])),
        ("damage is mended", with(vec![damaged(), version(2, Err("a chunk is damaged".into()))])),
        ("processes are sound", with(vec![Fact::OverBudget(1 << 30)])),
    ];
    for (checker, facts) in cases {
        let found = check(&history(facts, 500));
        assert!(found.iter().any(|problem| problem.starts_with(checker)), "`{checker}` in {found:?}");
    }
    assert!(check(&history(good(), 501))[0].starts_with("no cap is exceeded"));
    let ruled = |rules, bytes| {
        let mut ruled = history(good(), 500);
        (ruled.rules[1], ruled.wire[1]) = (rules, bytes);
        check(&ruled)
    };
    let down = Rules { down_kbit: Some(8), ..Rules::default() };
    for (sent, is_kept) in [(10_500 + 8192, true), (10_500 + 8193, false)] {
        let found = ruled(down, LinkBytes { down_span_max: sent, ..LinkBytes::default() });
        assert_eq!(found.is_empty(), is_kept, "{sent}: {found:?}");
    }
    let month = Rules { month_mib: Some((12, 2)), ..Rules::default() };
    for (cost, is_kept) in [(10 << 20, true), ((10 << 20) + 1, false)] {
        let found = ruled(month, LinkBytes { month_max: cost, ..LinkBytes::default() });
        assert_eq!(found.is_empty(), is_kept, "{cost}: {found:?}");
    }
    let closed = ruled(Rules::default(), LinkBytes { while_closed: 1, ..LinkBytes::default() });
    assert!(closed[0].starts_with("closed links are silent"), "{closed:?}");
    let mut wasteful = history(good(), 500);
    wasteful.wire[0].up = 1 << 30;
    assert!(check(&wasteful)[0].starts_with("wire bytes are bounded"));
    let mut endless = history(good(), 500);
    endless.facts.pop();
    assert!(check(&endless)[0].starts_with("every run converges"));
}
