//! The rules of trust, as tables.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::id::PublicKey;
use crate::name::{DatasetName, NamePattern};

fn pattern(text: &str) -> NamePattern {
    NamePattern::new(text).expect(text)
}

fn token() -> Token {
    let addresses = vec!["core.example:4733".to_owned(), "[::1]:4733".to_owned()];
    Token::new(addresses, Fingerprint([0xa5; 32]), [7; 16]).expect("a token")
}

#[test]
fn a_token_survives_as_text() {
    let text = token().to_text();
    assert_eq!(Token::parse(&text), Ok(token()));
    assert_eq!(
        Token::parse(&format!("  {}\n", text.to_ascii_uppercase())),
        Ok(token()),
        "case and space do not matter"
    );
    assert_eq!(text.parse::<Token>().expect("parsed").digest(), SecretDigest::of(&[7; 16]));
    assert!(!format!("{:?}", token()).contains("secret"), "the secret must not get into logs");
}

#[test]
fn a_token_from_before_is_still_read() {
    let golden = include_str!("../../tests/fixtures/token-v1.txt");
    assert_eq!(Token::parse(golden), Ok(token()));
    assert_eq!(golden.trim(), token().to_text());
}

/// Writes the fixture of the newest form of a token; run it only for a new one, under a new name.
#[test]
#[ignore = "writes fixtures"]
#[expect(clippy::disallowed_methods, reason = "fixtures are files, and only this writes them")]
fn write_fixtures() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/token-v1.txt");
    std::fs::write(path, format!("{}\n", token().to_text())).expect("written");
}

#[test]
fn a_bad_token_is_recognised_before_any_use() {
    let text = token().to_text();
    let cases = [
        ("", TokenError::NotAToken),
        ("hello", TokenError::NotAToken),
        ("hw-abc", TokenError::NotAToken),
        ("hwx1-abc", TokenError::NotAToken),
        ("hw2-abcdef", TokenError::FromTheFuture("hw2-".into())),
        ("hw1-", TokenError::Mistyped),
        ("hw1-!!!", TokenError::Mistyped),
        (&text[..text.len() - 1], TokenError::Mistyped),
        (&text[..20], TokenError::Mistyped),
        (&format!("{text}a"), TokenError::Mistyped),
    ];
    for (text, wanted) in cases {
        assert_eq!(Token::parse(text), Err(wanted), "{text}");
    }
    for bad in ["", "core", "core:", ":1", "core:0", "core:99999", "a b:1"] {
        let made = Token::new(vec![bad.to_owned()], Fingerprint([0; 32]), [0; 16]);
        assert!(matches!(made, Err(TokenError::Address(_))), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn one_wrong_letter_is_noticed(at in 4usize..150, to in "[a-z2-7]") {
        let text = token().to_text();
        let at = at % text.len();
        prop_assume!(at >= 4 && text[at..=at] != to);
        let wrong = format!("{}{to}{}", &text[..at], &text[at + 1..]);
        prop_assert_eq!(Token::parse(&wrong), Err(TokenError::Mistyped));
    }

    #[test]
    fn two_swapped_letters_are_noticed(at in 4usize..149) {
        let mut letters: Vec<_> = token().to_text().chars().collect();
        let at = 4 + at % (letters.len() - 5);
        prop_assume!(letters[at] != letters[at + 1]);
        letters.swap(at, at + 1);
        prop_assert_eq!(Token::parse(&letters.into_iter().collect::<String>()), Err(TokenError::Mistyped));
    }

    #[test]
    fn no_text_panics(text in "(hw[0-9]-)?\\PC{0,80}") {
        let _ = Token::parse(&text);
    }
}

fn grant() -> TokenGrant {
    TokenGrant {
        secret: SecretDigest::of(&[7; 16]),
        created_s: 1_000_000,
        lifetime_s: Some(3600),
        uses_left: Some(2),
        revoked: false,
        role: Role::Device,
        labels: vec![("site".into(), "berlin".into())],
        names: NameGrants { read: vec![pattern("models/**")], write: vec![pattern("raw/{device}/**")] },
        device_names: vec![pattern("cam-*"), pattern("gate")],
    }
}

#[test]
fn a_token_grants_what_it_says() {
    const NOW: i64 = 1_000_100;
    let used_up = TokenGrant { uses_left: Some(0), ..grant() };
    let revoked = TokenGrant { revoked: true, ..grant() };
    let endless = TokenGrant { uses_left: None, lifetime_s: None, ..grant() };
    type Case<'a> = (&'a TokenGrant, i64, &'a str, PriorJoin, Result<bool, &'a str>);
    let cases: [Case<'_>; 17] = [
        (&grant(), NOW, "cam-01", PriorJoin::None, Ok(true)),
        (&grant(), NOW, "cam-01", PriorJoin::SameKeyAndToken, Ok(false)),
        (&grant(), 1_003_599, "cam-01", PriorJoin::None, Ok(true)),
        (&grant(), 1_003_600, "cam-01", PriorJoin::None, Err("expired 0 seconds ago")),
        (&grant(), 1_003_700, "cam-01", PriorJoin::SameKeyAndToken, Ok(false)),
        (&grant(), 0, "cam-01", PriorJoin::None, Ok(true)),
        (&endless, i64::MAX, "cam-01", PriorJoin::None, Ok(true)),
        (&used_up, NOW, "cam-01", PriorJoin::None, Err("as often as it may be")),
        (&used_up, NOW, "cam-01", PriorJoin::SameKeyAndToken, Ok(false)),
        (&revoked, NOW, "cam-01", PriorJoin::SameKeyAndToken, Err("was revoked")),
        (&grant(), NOW, "robot-1", PriorJoin::None, Err("only names like `cam-*`, `gate`; `robot-1`")),
        (&grant(), NOW, "a/b", PriorJoin::None, Err("can't be a device's name")),
        (&grant(), NOW, "cam-01", PriorJoin::NameTaken, Err("another device has the name `cam-01`")),
        (&grant(), 1_003_600, "cam-01", PriorJoin::NameTaken, Err("expired 0 seconds ago")),
        (&revoked, NOW, "cam-01", PriorJoin::NameTaken, Err("was revoked")),
        (&grant(), NOW, "robot-1", PriorJoin::NameTaken, Err("only names like")),
        (&grant(), NOW, "cam-01", PriorJoin::Revoked, Err("this device was revoked")),
    ];
    for (grant, now_s, name, prior, wanted) in cases {
        match (grant.decide(now_s, name, prior), wanted) {
            (Ok(admission), Ok(consumes_use)) => {
                assert_eq!(admission.consumes_use, consumes_use, "{name} {prior:?}");
                assert_eq!((admission.role, &admission.labels), (grant.role, &grant.labels));
            }
            (Err(refusal), Err(part)) => assert!(refusal.to_string().contains(part), "{refusal}"),
            (decided, _) => panic!("{name} at {now_s}, {prior:?}: {decided:?}"),
        }
    }
    assert!(
        grant().is_usable(NOW) && !grant().is_usable(2_000_000) && !used_up.is_usable(NOW) && !revoked.is_usable(NOW)
    );
}

#[test]
fn roles() {
    use Action::{Administer, Curate, Federate, Observe, Publish, Read};
    let all = [Read, Publish, Curate, Federate, Observe, Administer];
    let table = [
        (Role::Device, vec![Read, Publish]),
        (Role::Reader, vec![Read, Observe]),
        (Role::Writer, vec![Read, Publish, Curate, Observe]),
        (Role::Coordinator, vec![Read, Publish, Curate, Federate, Observe]),
        (Role::Admin, all.to_vec()),
    ];
    for (role, allowed) in table {
        for action in all {
            assert_eq!(role.allows(action), allowed.contains(&action), "{role} {action:?}");
        }
        assert_eq!(role.as_str().parse(), Ok(role));
    }
    assert!("root".parse::<Role>().is_err());
}

fn principal(role: Role, name: &str, site: &str) -> Principal {
    Principal {
        key: PublicKey([name.len() as u8; 32]),
        name: name.into(),
        role,
        labels: vec![("site".into(), site.into())],
        grants: NameGrants { read: vec![pattern("models/**")], write: vec![pattern("raw/{device}/**")] },
    }
}

#[test]
fn access() {
    let rules = AccessRules {
        rules: vec![
            AccessRule {
                names: pattern("sites/{label.site}/**"),
                who: LabelSelector::parse("site=berlin").expect("a selector"),
                access: Access::Read,
            },
            AccessRule {
                names: pattern("shared/**"),
                who: LabelSelector::parse("role=device").expect("a selector"),
                access: Access::ReadWrite,
            },
        ],
    };
    let (berlin, paris) = (principal(Role::Device, "cam-01", "berlin"), principal(Role::Device, "cam-002", "paris"));
    let (reader, admin) = (principal(Role::Reader, "r", "berlin"), principal(Role::Admin, "a", "x"));
    let cases = [
        // who, dataset, its writer, may read, may write
        (&berlin, "models/a/b", None, true, false),
        (&berlin, "raw/cam-01/left", None, false, true),
        (&berlin, "raw/cam-002/left", None, false, false),
        (&berlin, "raw/cam-01/left", Some(berlin.key), true, true),
        (&paris, "raw/cam-01/left", Some(berlin.key), false, false),
        (&berlin, "sites/berlin/x", None, true, false),
        (&berlin, "sites/paris/x", None, false, false),
        (&paris, "sites/paris/x", None, false, false),
        (&berlin, "shared/x", None, true, true),
        (&paris, "shared/x", None, true, true),
        (&reader, "shared/x", None, false, false),
        (&reader, "models/x", None, true, false),
        (&reader, "raw/r/x", None, false, false),
        (&admin, "anything", None, true, true),
    ];
    for (who, name, writer, reads, writes) in cases {
        let name = DatasetName::new(name).expect(name);
        let facts = DatasetFacts { name: &name, writer };
        assert_eq!(rules.may_read(who, &facts), reads, "{} reads {name}", who.name);
        assert_eq!(rules.may_write(who, &facts), writes, "{} writes {name}", who.name);
        assert_eq!(rules.may_see(who, &facts), reads, "{} sees {name}", who.name);
    }
    assert!(LabelSelector::parse("").expect("all").selects(&berlin));
    assert!(LabelSelector::parse("device=cam-01, site=berlin").expect("a selector").selects(&berlin));
    assert!(!LabelSelector::parse("device=cam-01,site=paris").expect("a selector").selects(&berlin));
    assert!(LabelSelector::parse("site").is_err());
}

/// Whether one of two holders of the same nonce is taken for a clone once each has had two sessions.
fn notices_a_copy(mut ledger: NonceLedger, held: &[u8]) -> bool {
    let mut holders = [held.to_vec(), held.to_vec()];
    let mut noticed = false;
    for (turn, who) in [0usize, 1, 0, 1].into_iter().enumerate() {
        noticed |= ledger.judge(&holders[who]) == NonceVerdict::Clone;
        ledger = ledger.after(&holders[who], [100 + turn as u8; NONCE_RANDOM_BYTES]);
        holders[who] = ledger.newest().to_vec();
    }
    noticed
}

#[test]
fn nonces() {
    let random = |byte: u8| [byte; NONCE_RANDOM_BYTES];
    let fresh = NonceLedger::default();
    assert_eq!(fresh.judge(b""), NonceVerdict::Known);
    assert_eq!(fresh.judge(b"anything"), NonceVerdict::Clone, "a key that never had a session has nothing to show");
    let first = fresh.after(b"", random(1));
    let forged = [&1u64.to_be_bytes()[..], &random(7)].concat();
    for (shown, wanted) in [
        (&b""[..], NonceVerdict::Known),
        (first.newest(), NonceVerdict::Known),
        (&forged, NonceVerdict::Clone),
        (&first.newest()[1..], NonceVerdict::Clone),
    ] {
        assert_eq!(first.judge(shown), wanted, "{shown:?}");
    }
    let second = first.after(first.newest(), random(2));
    assert_eq!(second.judge(b""), NonceVerdict::Known, "it may have been long on its way");
    let answered = second.after(b"", random(5));
    assert_eq!(answered.judge(second.newest()), NonceVerdict::Known, "the answer to it moves nothing");
    assert_eq!(second.after(second.newest(), random(3)).judge(b""), NonceVerdict::Clone);
    let held = first.newest().to_vec();
    assert_eq!(second.judge(&held), NonceVerdict::Known, "the session may have died before the nonce was stored");
    // It did, and again: the device keeps showing the one it has.
    let third = second.after(&held, random(3)).after(&held, random(4));
    assert_eq!(third.judge(&held), NonceVerdict::Known);
}

#[test]
fn a_device_may_keep_any_nonce_of_several_that_it_was_given_at_once() {
    let random = |byte: u8| [byte; NONCE_RANDOM_BYTES];
    let ledger = NonceLedger::default().after(b"", random(0));
    let shown = ledger.newest().to_vec();
    // The link was silent, so it dialled three times with what it had; the second welcome arrived.
    let mut raced = ledger.clone();
    for attempt in 1..=3 {
        assert_eq!(raced.judge(&shown), NonceVerdict::Known);
        raced = raced.after(&shown, random(attempt));
    }
    let kept = raced.given[1].clone();
    assert_eq!(raced.judge(&kept), NonceVerdict::Known);
    // What it did not keep is nobody's any more once it has shown what it kept.
    let next = raced.after(&kept, random(9));
    for lost in [&raced.given[0], &raced.given[2]] {
        assert_eq!(next.judge(lost), NonceVerdict::Clone);
    }
    assert_eq!(next.judge(&shown), NonceVerdict::Known, "a hello of the race may still be on its way");
    // However often it dials, what is kept of it is bounded.
    let many = (0..100).fold(raced, |ledger, turn| ledger.after(&shown, random(turn)));
    assert!(many.given.len() <= 16 && many.judge(many.newest()) == NonceVerdict::Known);
}

proptest! {
    /// However sessions of one device are cut, it is never taken for a clone; once it and a copy have each had two
    /// sessions that stored their nonce, one of them is.
    #[test]
    fn a_clone_is_noticed_and_a_lossy_device_is_not(stored in proptest::collection::vec(any::<bool>(), 1..40)) {
        let mut ledger = NonceLedger::default();
        let mut held = Vec::new();
        for (turn, stored) in stored.into_iter().enumerate() {
            prop_assert_eq!(ledger.judge(&held), NonceVerdict::Known);
            ledger = ledger.after(&held, [turn as u8; NONCE_RANDOM_BYTES]);
            if stored {
                held = ledger.newest().to_vec();
            }
        }
        prop_assert!(notices_a_copy(ledger, &held));
    }

    /// Whatever becomes of the hellos of a race, which all show the nonce that was kept when it began, the device is never
    /// taken for a clone: some are lost, some come in another order, some during the next race; any welcome may arrive
    /// first, or none. Each attempt is where its hello goes and when; each race has one that wins, if it was judged by then.
    #[test]
    fn a_race_never_makes_a_clone(races in proptest::collection::vec(
        (proptest::collection::vec((0u8..3, any::<u8>()), 1..6), 0usize..6), 1..30,
    )) {
        let (mut ledger, mut held, mut late) = (NonceLedger::default(), Vec::new(), Vec::new());
        for (turn, (attempts, winner)) in races.into_iter().enumerate() {
            let mut arriving: Vec<(u8, Option<usize>, Vec<u8>)> = std::mem::take(&mut late);
            for (attempt, (fate, when)) in attempts.into_iter().enumerate() {
                match fate {
                    0 => arriving.push((when, Some(attempt), held.clone())),
                    1 => late.push((when, None, held.clone())),
                    _ => {}
                }
            }
            arriving.sort_by_key(|(when, ..)| *when);
            for (at, (_, attempt, shown)) in arriving.into_iter().enumerate() {
                prop_assert_eq!(ledger.judge(&shown), NonceVerdict::Known, "hello {} of race {}", at, turn);
                ledger = ledger.after(&shown, [turn as u8, at as u8, 0, 0, 0, 0, 0, 0]);
                if attempt == Some(winner) {
                    held = ledger.newest().to_vec();
                }
            }
        }
        prop_assert_eq!(ledger.judge(&held), NonceVerdict::Known);
        prop_assert!(notices_a_copy(ledger, &held));
    }

    /// A copy of the data folder that is used later is noticed once it and the original have had two sessions each, in
    /// whatever order, or sooner.
    #[test]
    fn a_copy_that_is_used_later_is_noticed(
        before in 0usize..4,
        between in 0usize..6,
        order in Just([true, true, false, false, true, false].to_vec()).prop_shuffle(),
    ) {
        let (mut ledger, mut held) = (NonceLedger::default(), Vec::new());
        let mut turn = 0u8;
        let mut session = |held: &mut Vec<u8>| {
            turn += 1;
            let verdict = ledger.judge(held);
            ledger = ledger.after(held, [turn; NONCE_RANDOM_BYTES]);
            *held = ledger.newest().to_vec();
            verdict == NonceVerdict::Clone
        };
        for _ in 0..before {
            prop_assert!(!session(&mut held));
        }
        let mut copied = held.clone();
        for _ in 0..between {
            prop_assert!(!session(&mut held));
        }
        let noticed = order.into_iter().any(|copy| session(if copy { &mut copied } else { &mut held }));
        prop_assert!(noticed);
    }

    /// A core that is restored from a backup knows its devices, and still notices a copy of one.
    #[test]
    fn a_restored_ledger_knows_its_device(sessions in 1usize..20, backup_after in 0usize..20) {
        let (mut ledger, mut backup, mut held) = (NonceLedger::default(), NonceLedger::default(), Vec::new());
        for turn in 0..sessions {
            ledger = ledger.after(&held, [turn as u8; NONCE_RANDOM_BYTES]);
            held = ledger.newest().to_vec();
            if turn < backup_after {
                backup = ledger.clone();
            }
        }
        prop_assert_eq!(backup.judge(&held), NonceVerdict::Known);
        prop_assert!(notices_a_copy(backup, &held));
    }

    #[test]
    fn both_sides_come_to_the_same_revision(a in (0u32..6, 0u32..6), b in (0u32..6, 0u32..6)) {
        prop_assume!(a.0 <= a.1 && b.0 <= b.1);
        match (negotiate(a, b), negotiate(b, a)) {
            (Ok(here), Ok(there)) => {
                prop_assert_eq!(here, there);
                prop_assert!(here >= a.0.max(b.0) && here <= a.1.min(b.1));
            }
            (Err(_), Err(_)) => prop_assert!(a.1 < b.0 || b.1 < a.0),
            (here, there) => prop_assert!(false, "{here:?} against {there:?}"),
        }
    }
}

#[test]
fn revisions() {
    let cases = [
        ((1, 1), (1, 1), Ok(1)),
        ((1, 2), (1, 1), Ok(1)),
        ((1, 2), (2, 3), Ok(2)),
        ((1, 2), (3, 4), Err(RevisionMismatch::TheyAreNewer { ours: 2, theirs: 3 })),
        ((3, 4), (1, 2), Err(RevisionMismatch::TheyAreOlder { ours: 3, theirs: 2 })),
        ((1, 2), (2, 1), Err(RevisionMismatch::NoRange { min: 2, max: 1 })),
    ];
    for (ours, theirs, wanted) in cases {
        assert_eq!(negotiate(ours, theirs), wanted, "{ours:?} {theirs:?}");
    }
}

#[test]
fn signatures_are_strict() {
    let key = SigningKey::from_bytes(&[3; 32]);
    let signature = Signer::sign(&key, b"message");
    assert!(verify(&key.public_key(), b"message", &signature).is_ok());
    assert!(verify(&key.public_key(), b"massage", &signature).is_err());
    // The identity point signs anything under lax verification.
    let mut weak = [0u8; 32];
    weak[0] = 1;
    let mut forged = [0u8; 64];
    forged[0] = 1;
    assert!(verify(&PublicKey(weak), b"message", &Signature(forged)).is_err());
    assert!(verify(&PublicKey([0xff; 32]), b"message", &signature).is_err(), "no point of the curve");
}

#[test]
fn garbage_is_no_certificate() {
    for bad in [&b""[..], b"x", &[0x30, 0x82, 0xff, 0xff], &[0x30; 5000]] {
        assert!(Certificate::parse(bad).is_err());
    }
}

#[test]
fn a_device_that_is_welcomed_out_of_order_keeps_the_newest_nonce() {
    let first = NonceLedger::default().after(b"", [1; NONCE_RANDOM_BYTES]);
    let shown = first.newest().to_vec();
    let second = first.after(&shown, [2; NONCE_RANDOM_BYTES]);
    let third = second.after(&shown, [3; NONCE_RANDOM_BYTES]);
    let (older, newer) = (second.newest(), third.newest());
    assert!(is_older_nonce(older, newer) && !is_older_nonce(newer, older) && !is_older_nonce(older, older));
    assert!(!is_older_nonce(older, b"") && !is_older_nonce(b"", newer), "what has no number is never older");
    let after_newer = third.after(newer, [4; NONCE_RANDOM_BYTES]);
    assert_eq!(after_newer.judge(older), NonceVerdict::Clone, "why it must not go back");
}
