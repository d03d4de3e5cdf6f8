//! Paths inside a dataset: relative, `/`-separated bytes that can't point outside, and the order that pages keep.
//!
//! The order is that of the bytes, but with `/` first and `.` second. So a folder's contents follow it directly, and the
//! files that share a stem (`0001.json`, `0001.png`, and a plain `0001`) are neighbours, which lets them be one sample.
//! [`RelPath::sort_key`] is the same order for stores that compare bytes.

use std::cmp::Ordering;
use std::fmt;

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest component of a path, in bytes.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Deepest path, in components.
pub const DEPTH_MAX: usize = 128;

/// Why bytes are not a path inside a dataset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There are no bytes.
    #[error("the path is empty")]
    Empty,
    /// It begins with `/`.
    #[error("`{0}` is absolute; paths in a dataset are relative to its folder")]
    Absolute(String),
    /// A component is empty, `.` or `..`.
    #[error("`{0}` has an empty component, `.` or `..`, which could point outside the dataset's folder")]
    Component(String),
    /// It holds a NUL byte.
    #[error("`{0}` holds a NUL byte")]
    Nul(String),
    /// The path or one of its components is too long, or it is too deep.
    #[error("`{0}…` is too long: at most {PATH_BYTES_MAX} bytes, {COMPONENT_BYTES_MAX} a component, {DEPTH_MAX} deep")]
    TooLong(String),
}

/// A path inside a dataset that can't point outside it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// Checks that `bytes` are a relative path without `.`, `..`, empty components or NUL, of bounded length and depth.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        check(&bytes)?;
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The path's bytes. They need not be UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes whose plain comparison orders paths as [`RelPath`] does: `/` becomes 0, `.` becomes 1, and the bytes 1 and 2
    /// are escaped with a leading 2.
    pub fn sort_key(&self) -> Vec<u8> {
        sort_key(&self.0)
    }

    /// The path whose [`sort_key`](Self::sort_key) is `key`.
    pub fn from_sort_key(key: &[u8]) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(key.len());
        let mut rest = key.iter();
        while let Some(&byte) = rest.next() {
            bytes.push(match byte {
                0 => b'/',
                1 => b'.',
                2 => *rest.next().unwrap_or(&2),
                other => other,
            });
        }
        Self::new(bytes)
    }

    /// The part of the path that all files of one sample share: everything up to the first dot of the file name that
    /// does not lead it.
    pub fn stem(&self) -> &[u8] {
        stem(&self.0)
    }
}

/// The stem of `path`; see [`RelPath::stem`].
pub fn stem(path: &[u8]) -> &[u8] {
    let name_start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let name = &path[name_start..];
    let leading_dots = name.iter().take_while(|&&byte| byte == b'.').count();
    name[leading_dots..]
        .iter()
        .position(|&byte| byte == b'.')
        .map_or(path, |dot| &path[..name_start + leading_dots + dot])
}

/// Whether `path` lies below the folder `folder`.
pub fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.len() > folder.len() && path[folder.len()] == b'/' && path.starts_with(folder)
}

/// Whether `path` is `at` or lies below it.
pub fn is_at_or_below(path: &[u8], at: &[u8]) -> bool {
    path == at || is_below(path, at)
}

/// Orders paths as pages do.
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let split = left.iter().zip(right).position(|(l, r)| l != r);
    match split {
        Some(at) => rank(left[at]).cmp(&rank(right[at])),
        None => left.len().cmp(&right.len()),
    }
}

fn sort_key(path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'/' => key.push(0),
            b'.' => key.push(1),
            1 | 2 => key.extend([2, byte]),
            other => key.push(other),
        }
    }
    key
}

fn rank(byte: u8) -> u16 {
    match byte {
        b'/' => 0,
        b'.' => 1,
        other => u16::from(other) + 2,
    }
}

fn check(bytes: &[u8]) -> Result<(), PathError> {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong(shown()));
    }
    if bytes[0] == b'/' {
        return Err(PathError::Absolute(shown()));
    }
    if bytes.contains(&0) {
        return Err(PathError::Nul(shown()));
    }
    let mut depth = 0;
    for component in bytes.split(|&byte| byte == b'/') {
        depth += 1;
        if matches!(component, b"" | b"." | b"..") {
            return Err(PathError::Component(shown()));
        }
        if component.len() > COMPONENT_BYTES_MAX || depth > DEPTH_MAX {
            return Err(PathError::TooLong(shown()));
        }
    }
    Ok(())
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_could_point_outside() {
        for bad in ["", "/etc/passwd", "../../etc/passwd", "a/../b", "a//b", "a/", "./a", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(RelPath::new("x/".repeat(DEPTH_MAX) + "x").is_err());
        assert!(RelPath::new("x".repeat(256)).is_err());
        assert!(RelPath::new(vec![0xff, 0xfe, b'/', 0x80]).is_ok(), "names need not be UTF-8");
    }

    #[test]
    fn what_lies_below_a_folder_is_not_what_only_begins_like_it() {
        let below = |path: &str| (is_below(path.as_bytes(), b"a/b"), is_at_or_below(path.as_bytes(), b"a/b"));
        assert_eq!(below("a/b/c"), (true, true));
        assert_eq!(below("a/b"), (false, true));
        for other in ["a/bc", "a/b.c", "a", "a/c/b", "b"] {
            assert_eq!(below(other), (false, false), "{other}");
        }
    }

    #[test]
    fn stems_are_neighbours() {
        let mut paths = ["d/a!x", "d/a", "d/a.png", "d/a-b.png", "d/a.json", "d/.hidden", "d.txt"]
            .map(|p| RelPath::new(p).expect("valid"));
        paths.sort();
        let shown: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["d/.hidden", "d/a", "d/a.json", "d/a.png", "d/a!x", "d/a-b.png", "d.txt"]);
        assert_eq!(stem(b"d/a.tar.gz"), b"d/a");
        assert_eq!(stem(b"d.x/.hidden"), b"d.x/.hidden");
    }

    proptest! {
        #[test]
        fn sort_keys_keep_the_order(left in path(), right in path()) {
            prop_assert_eq!(left.cmp(&right), left.sort_key().cmp(&right.sort_key()));
            prop_assert_eq!(RelPath::from_sort_key(&left.sort_key()).expect("a key of a path"), left);
        }
    }

    fn path() -> impl Strategy<Value = RelPath> {
        proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), 1u8..6, any::<u8>()], 1..12)
            .prop_filter_map("not a path", |bytes| RelPath::new(bytes).ok())
    }
}
