//! What is chosen is the oldest, enough, and no file more.

use proptest::prelude::*;

use super::*;

fn candidate(mtime_ns: i64, path: &str, disk_bytes: u64) -> Candidate {
    Candidate { mtime_ns, path: path.as_bytes().to_vec(), disk_bytes }
}

fn choose(excess_bytes: u64, candidates: impl IntoIterator<Item = Candidate>) -> Vec<Candidate> {
    let mut choice = Choice::new(excess_bytes);
    candidates.into_iter().for_each(|candidate| choice.offer(candidate));
    choice.finish()
}

#[test]
fn what_is_too_much_follows_from_both_limits() {
    let usage = Usage { folder_bytes: 1000, free_bytes: 300 };
    for (quota_bytes, free_bytes_min, excess) in [
        (None, None, 0),
        (Some(1000), None, 0),
        (Some(900), None, 100),
        (None, Some(300), 0),
        (None, Some(450), 150),
        (Some(900), Some(450), 150),
        (Some(0), Some(450), 1000),
    ] {
        let limits = Limits { quota_bytes, free_bytes_min };
        assert_eq!(limits.excess_bytes(&usage), excess, "{limits:?}");
    }
}

#[test]
fn the_oldest_go_first_and_then_by_path() {
    let files = [candidate(9, "new", 10), candidate(5, "b", 10), candidate(5, "a", 10), candidate(1, "empty", 0)];
    let chosen = choose(15, files);
    assert_eq!(chosen.iter().map(|file| file.path.as_slice()).collect::<Vec<_>>(), [b"a", b"b"]);
    assert!(choose(0, [candidate(1, "a", 10)]).is_empty());
}

proptest! {
    /// The choice is the shortest beginning of the candidates by age that makes enough room; all that make room if that is
    /// not enough.
    #[test]
    fn no_file_more_than_is_needed_goes(
        sizes in prop::collection::vec((0i64..20, 0u64..50), 0..40),
        excess in 0u64..600,
    ) {
        let files: Vec<_> =
            sizes.iter().enumerate().map(|(at, (mtime, size))| candidate(*mtime, &format!("{at:02}"), *size)).collect();
        let chosen = choose(excess, files.clone());
        let mut by_age: Vec<_> = files.into_iter().filter(|file| file.disk_bytes > 0).collect();
        by_age.sort();
        prop_assert_eq!(&chosen[..], &by_age[..chosen.len()]);
        let room: u64 = chosen.iter().map(|file| file.disk_bytes).sum();
        match chosen.last() {
            Some(last) => prop_assert!(room - last.disk_bytes < excess),
            None => prop_assert!(excess == 0 || by_age.is_empty()),
        }
        prop_assert!(room >= excess || chosen.len() == by_age.len());
    }
}
