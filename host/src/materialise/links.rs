//! Links, made when all else stands, and only those that stay inside the folder.

use std::os::fd::AsFd;
use std::path::Path;

use headwater_protocol::record::FileKind;
use headwater_protocol::tree::Tree;
use rustix::fs::{AtFlags, Timestamps};
use rustix::io::Errno;

use super::write::{enter_folder, timespec};
use super::{MaterialiseError, MaterialiseOptions, MaterialiseReport, Version};
use crate::beneath;

/// Makes the links of `version` in the folder `partial`.
pub(super) fn make_links(
    partial: &Path,
    version: Version<'_>,
    options: &MaterialiseOptions,
    report: &mut MaterialiseReport,
) -> Result<(), MaterialiseError> {
    let root = beneath::root(partial).map_err(|error| MaterialiseError::write(partial)(error.into()))?;
    for record in Tree::new(version.manifest, version.pages).records() {
        let record = record?;
        if record.kind != FileKind::Symlink {
            continue;
        }
        options.cancel.check()?;
        let shown = || String::from_utf8_lossy(&record.path).into_owned();
        if !stays_inside(&record.path, &record.link_target) {
            let target = String::from_utf8_lossy(&record.link_target).into_owned();
            report.note(format!("the link `{}` to `{target}` leads out of the folder and was left out", shown()));
            continue;
        }
        let failed = |error: Errno| MaterialiseError::write(partial.join(shown()))(error.into());
        let (folder, name) = enter_folder(root.as_fd(), &record.path).map_err(failed)?;
        match rustix::fs::symlinkat(&record.link_target[..], &folder, name) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(failed)?;
                rustix::fs::symlinkat(&record.link_target[..], &folder, name).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        let time = timespec(record.mtime_ns);
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        report.others += 1;
    }
    Ok(())
}

/// Whether a link at `path` with this target stays inside the folder, whatever other links there are: `..` may only lead
/// the target, for only there it certainly climbs real folders, and not further than the link is deep.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.first().is_none_or(|&byte| byte == b'/') {
        return false;
    }
    let depth = path.split(|&byte| byte == b'/').count() - 1;
    let mut climbed = 0;
    let mut descended = false;
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if descended => return false,
            b".." => climbed += 1,
            _ => descended = true,
        }
    }
    climbed <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_leads_out() {
        for (path, target) in
            [("a", "b"), ("a", "b/c"), ("d/a", "../b"), ("d/e/a", "../../x/y"), ("a", "./b"), ("d/a", "..")]
        {
            assert!(stays_inside(path.as_bytes(), target.as_bytes()), "{path} -> {target}");
        }
        for (path, target) in
            [("a", "/etc"), ("a", ".."), ("d/a", "../../x"), ("a", "x/../.."), ("a", "d/../b"), ("a", "")]
        {
            assert!(!stays_inside(path.as_bytes(), target.as_bytes()), "{path} -> {target}");
        }
    }
}
