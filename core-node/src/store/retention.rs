//! Which old versions a dataset lets go of. Pure.

use crate::catalog::{Retention, UnixMs, VersionSummary};

const MS_PER_S: u64 = 1000;

/// The numbers of those of `versions` (newest first, all of the dataset) that `retention` doesn't keep at `now`. Tags,
/// collections and leases are the catalog's to know. The newest is always kept.
pub(super) fn unwanted(versions: &[VersionSummary], retention: Retention, now: UnixMs) -> Vec<u64> {
    if retention == Retention::default() {
        return Vec::new();
    }
    let kept = |(position, version): &(usize, &VersionSummary)| {
        let recent = |seconds: u64| version.committed_at.0.saturating_add(seconds.saturating_mul(MS_PER_S)) > now.0;
        *position == 0
            || retention.keep_last.is_some_and(|last| (*position as u64) < last)
            || retention.keep_newer_than_s.is_some_and(recent)
    };
    versions.iter().enumerate().filter(|place| !kept(place)).map(|(_, version)| version.number).collect()
}

#[cfg(test)]
mod tests {
    use headwater_protocol::id::VersionId;
    use headwater_protocol::manifest::Totals;

    use super::*;
    use crate::catalog::Principal;

    #[test]
    fn a_version_is_kept_if_any_rule_says_so() {
        let versions: Vec<_> = (1..=5u64)
            .rev()
            .map(|number| VersionSummary {
                number,
                version: VersionId::default(),
                root: None,
                totals: Totals::default(),
                committed_at: UnixMs(number * 10_000),
                writer: Principal::Core,
            })
            .collect();
        let now = UnixMs(60_000);
        let check = |keep_last, keep_newer_than_s, expected: &[u64]| {
            let retention = Retention { keep_last, keep_newer_than_s };
            assert_eq!(unwanted(&versions, retention, now), expected, "{retention:?}");
        };
        check(None, None, &[]);
        check(Some(2), None, &[3, 2, 1]);
        check(Some(0), None, &[4, 3, 2, 1]);
        check(None, Some(25), &[3, 2, 1]);
        check(Some(1), Some(35), &[2, 1]);
        check(Some(9), Some(1), &[]);
        check(None, Some(u64::MAX), &[]);
    }
}
