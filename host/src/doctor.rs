//! Building blocks of `doctor`: each check looks at one thing of the machine and says what to change.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::config::HumanBytes;

/// A clock before this is wrong: 2025-01-01, in seconds since the Unix epoch.
const CLOCK_EARLIEST_S: u64 = 1_735_689_600;
/// A clock after this is wrong: 2100-01-01.
const CLOCK_LATEST_S: u64 = 4_102_444_800;
/// Watches below which a daemon with a few big datasets runs out.
const WATCHES_WANTED: u64 = 65_536;
/// Low bits of a mode that speak of others than the owner.
const GROUP_AND_OTHERS_BITS: u32 = 6;
/// Most folders that are counted when watches are estimated.
const FOLDERS_COUNTED_MAX: u64 = 1_000_000;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change; empty if nothing.
    pub hint: String,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, found: found.into(), hint: String::new() }
    }

    /// It could be better.
    pub fn warn(name: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warn, found: found.into(), hint: hint.into() }
    }

    /// It does not work.
    pub fn fail(name: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Fail, found: found.into(), hint: hint.into() }
    }
}

/// The worst of `checks`.
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}

/// Space on the disk of `folder`, of which `wanted_bytes` should be free.
pub fn disk_space(name: &str, folder: &Path, wanted_bytes: u64) -> Check {
    match free_bytes(folder) {
        Ok((free, total)) => {
            let found = format!("{} of {} free at `{}`", HumanBytes(free), HumanBytes(total), folder.display());
            if free >= wanted_bytes {
                Check::ok(name, found)
            } else if free >= wanted_bytes / 10 {
                Check::warn(name, found, format!("free some space: {} are wanted", HumanBytes(wanted_bytes)))
            } else {
                Check::fail(name, found, format!("free some space: {} are wanted", HumanBytes(wanted_bytes)))
            }
        }
        Err(error) => Check::fail(name, format!("`{}`: {error}", folder.display()), "check that its disk is mounted"),
    }
}

/// Free and all bytes of the disk that `folder` is on, as far as this user may use them.
pub fn free_bytes(folder: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Whether `folder` can be listed, and written where that is needed.
pub fn folder_rights(name: &str, folder: &Path, write: bool) -> Check {
    let shown = folder.display();
    if let Err(error) = fs::read_dir(folder) {
        return Check::fail(name, format!("`{shown}` can't be read: {error}"), "check the path and its rights");
    }
    if write && let Err(error) = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        return Check::fail(name, format!("`{shown}` can't be written: {error}"), "check its owner and rights");
    }
    Check::ok(name, format!("`{shown}` can be {}", if write { "read and written" } else { "read" }))
}

/// Whether others can look into a data folder, which holds keys.
pub fn private_folder(name: &str, folder: &Path) -> Check {
    use std::os::unix::fs::PermissionsExt;
    match fs::metadata(folder) {
        Ok(metadata) if metadata.permissions().mode().trailing_zeros() >= GROUP_AND_OTHERS_BITS => {
            Check::ok(name, format!("`{}` is for its owner only", folder.display()))
        }
        Ok(metadata) => Check::warn(
            name,
            format!("`{}` has mode {:o}", folder.display(), metadata.permissions().mode() & 0o7777),
            format!("close it to others: `chmod 700 {}`", folder.display()),
        ),
        Err(error) => Check::fail(name, format!("`{}`: {error}", folder.display()), "check `--data`"),
    }
}

/// Whether the system allows enough watches for the folders under `roots`.
pub fn watch_limit(name: &str, roots: &[&Path]) -> Check {
    let Some(limit) = number_in("/proc/sys/fs/inotify/max_user_watches") else {
        return Check::warn(name, "the limit of watches can't be read", "changes may be found by rescans only");
    };
    let wanted = roots.iter().map(|root| count_folders(root)).sum::<u64>();
    let found = format!("{limit} watches allowed, {wanted} folders to watch");
    if limit > wanted && (limit >= WATCHES_WANTED || wanted < limit / 2) {
        Check::ok(name, found)
    } else {
        let target = (wanted * 2).max(524_288);
        Check::warn(name, found, format!("raise it: `sysctl fs.inotify.max_user_watches={target}`"))
    }
}

/// Whether this process may have `wanted` files open.
pub fn open_files(name: &str, wanted: u64) -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.current {
        Some(current) if current < wanted => Check::warn(
            name,
            format!("{current} open files allowed, {wanted} wanted"),
            format!("raise it: `LimitNOFILE={wanted}` in the systemd unit, or `ulimit -n {wanted}`"),
        ),
        Some(current) => Check::ok(name, format!("{current} open files allowed")),
        None => Check::ok(name, "any number of open files allowed"),
    }
}

/// Whether the system lets UDP sockets have buffers of `wanted_bytes`.
pub fn udp_buffers(name: &str, wanted_bytes: u64) -> Check {
    let read = |what: &str| number_in(&format!("/proc/sys/net/core/{what}"));
    let (Some(receive), Some(send)) = (read("rmem_max"), read("wmem_max")) else {
        return Check::warn(name, "the limits of socket buffers can't be read", "");
    };
    let found = format!("receive {}, send {}", HumanBytes(receive), HumanBytes(send));
    if receive.min(send) >= wanted_bytes {
        Check::ok(name, found)
    } else {
        let hint = format!("`sysctl net.core.rmem_max={wanted_bytes} net.core.wmem_max={wanted_bytes}`");
        Check::warn(name, found, hint)
    }
}

/// Whether the clock can be right. A device's may be wrong without harm; a core's issues certificates.
pub fn clock(name: &str, matters: bool) -> Check {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if (CLOCK_EARLIEST_S..CLOCK_LATEST_S).contains(&since) {
        return Check::ok(name, "it shows a possible time");
    }
    let found = format!("it shows {since} seconds after 1970");
    let hint = "set it, and let systemd-timesyncd or chrony keep it";
    if matters { Check::fail(name, found, hint) } else { Check::warn(name, found, hint) }
}

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn count_folders(root: &Path) -> u64 {
    let mut stack = vec![root.to_owned()];
    let mut count = 0;
    while let Some(folder) = stack.pop() {
        count += 1;
        if count >= FOLDERS_COUNTED_MAX {
            break;
        }
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        stack.extend(folders.map(|entry| entry.path()));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(disk_space("space", path, 1).verdict, Verdict::Ok);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let full = disk_space("space", path, u64::MAX);
        assert!(full.verdict == Verdict::Fail && full.hint.contains("free some space"), "{full:?}");
        assert_eq!(folder_rights("rights", path, true).verdict, Verdict::Ok);
        assert_eq!(folder_rights("rights", &path.join("none"), true).verdict, Verdict::Fail);
        assert_eq!(private_folder("private", path).verdict, Verdict::Ok);
        assert_eq!(open_files("files", 1).verdict, Verdict::Ok);
        assert_eq!(clock("clock", true).verdict, Verdict::Ok);
        watch_limit("watches", &[path]);
        udp_buffers("udp", 1 << 20);
        assert_eq!(worst(&[Check::ok("a", ""), Check::fail("b", "", ""), Check::warn("c", "", "")]), Verdict::Fail);
    }
}
