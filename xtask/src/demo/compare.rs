//! Comparing a folder with its copy, byte by byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::data::files_under;

/// What a comparison found.
pub(super) struct Outcome {
    /// Files that were compared.
    pub(super) compared: u64,
    /// Files that differ, are missing, or are in the copy only.
    pub(super) differing: Vec<PathBuf>,
}

/// The newest complete version of a dataset among a subscription's copies.
pub(super) fn current(copies: &Path, dataset: &str) -> PathBuf {
    copies.join(dataset).join("current")
}

/// Compares all regular files under `original` with those under `copy`.
pub(super) fn folders(original: &Path, copy: &Path) -> anyhow::Result<Outcome> {
    let ours: BTreeSet<_> = files_under(original)?.into_iter().collect();
    let theirs: BTreeSet<_> = files_under(copy)?.into_iter().collect();
    let mut differing: Vec<_> = ours.symmetric_difference(&theirs).cloned().collect();
    for path in ours.intersection(&theirs) {
        if fs::read(original.join(path))? != fs::read(copy.join(path))? {
            differing.push(path.clone());
        }
    }
    Ok(Outcome { compared: ours.len() as u64, differing })
}

#[cfg(test)]
mod tests {
    use super::folders;
    use std::fs;

    #[test]
    fn a_changed_a_missing_and_a_surplus_file_differ() {
        let base = std::env::temp_dir().join(format!("headwater-xtask-compare-{}", std::process::id()));
        let (left, right) = (base.join("left"), base.join("right"));
        for folder in [&left, &right] {
            fs::create_dir_all(folder.join("sub")).unwrap();
            fs::write(folder.join("sub/same"), "same").unwrap();
        }
        fs::write(left.join("changed"), "a").unwrap();
        fs::write(right.join("changed"), "b").unwrap();
        fs::write(left.join("missing"), "").unwrap();
        fs::write(right.join("surplus"), "").unwrap();
        let outcome = folders(&left, &right).unwrap();
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(outcome.compared, 3);
        assert_eq!(outcome.differing.len(), 3);
    }
}
