//! An archive for the kernel's initial file system: cpio in its "newc" form, of which the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst says what it is.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Writes one.
pub(super) struct Archive<W: Write> {
    to: W,
    number: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, number: 0, folders: BTreeSet::new() }
    }

    /// A file that may be run, at `path` in the guest.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, PROGRAM, content)
    }

    /// A file of this machine.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> io::Result<()> {
        self.file(path, &std::fs::read(from)?)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, LINK, target.as_bytes())
    }

    /// An empty folder.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.parents(&format!("{path}/x"))
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.to)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let folder = path[..end].to_owned();
            if self.folders.insert(folder.clone()) {
                self.entry(&folder, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let path = path.trim_start_matches('/');
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("a file is too large for the lab"))?;
        let name_length = path.len() as u32 + 1;
        let fields = [self.number, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        let header: String =
            std::iter::once("070701".to_owned()).chain(fields.map(|field| format!("{field:08x}"))).collect();
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(header.len() + path.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/bin/a", b"12345").unwrap();
        archive.link("/bin/b", "a").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let names = ["bin\0", "bin/a\0", "bin/b\0", "TRAILER!!!\0"];
        let places: Vec<_> = names.iter().map(|name| text.find(name)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), names.len());
    }
}
