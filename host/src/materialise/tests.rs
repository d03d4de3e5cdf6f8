//! Versions written out: faithful, atomic, resumable, frugal, and safe against what a hostile version could try.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::id::ChunkId;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::{BuildContent, BuildEntry, MemoryPages, NoSharedSink, SinkError, TreeBuilder};

use super::*;
use crate::version::{BuildContext, BuildOptions, ChunkSink, Earlier, MemoryStamps, PublishMode, build};

type Store = std::sync::Mutex<BTreeMap<ChunkId, Vec<u8>>>;

struct Keep<'a>(&'a Store);

impl ChunkSink for Keep<'_> {
    fn put_chunk(&self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        self.0.lock().unwrap().insert(chunk.id, bytes.to_vec());
        Ok(())
    }
}

/// Gives chunks from a store and counts; fails after so many.
struct Give<'a> {
    store: &'a Store,
    given: usize,
    limit: usize,
}

impl ChunkProvider for Give<'_> {
    fn chunk(&mut self, chunk: &ChunkRef) -> Result<Bytes, ProviderError> {
        let found = self.store.lock().unwrap().get(&chunk.id).cloned();
        self.given += 1;
        match found {
            Some(bytes) if self.given <= self.limit => Ok(bytes.into()),
            _ => Err(ProviderError { chunk: *chunk, source: "it is not here".into() }),
        }
    }
}

/// A folder that is published and one that it is written out to.
struct Pair {
    from: tempfile::TempDir,
    to: tempfile::TempDir,
    pages: MemoryPages,
    store: Store,
    stamps: MemoryStamps,
    versions: Vec<(VersionId, Manifest)>,
    keep: usize,
}

impl Pair {
    fn new() -> Self {
        Self {
            from: tempfile::tempdir().unwrap(),
            to: tempfile::tempdir().unwrap(),
            pages: MemoryPages::new(),
            store: Store::default(),
            stamps: MemoryStamps::default(),
            versions: Vec::new(),
            keep: 3,
        }
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.from.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn publish(&mut self) {
        let mut options = BuildOptions::default();
        options.scan.settle = std::time::Duration::ZERO;
        let earlier = self.versions.last().map(|(id, manifest)| Earlier { id: *id, manifest, pages: &self.pages });
        let context = BuildContext {
            earlier,
            stamps: &mut self.stamps,
            absent: &PublishMode::Mirror,
            pages: &mut &self.pages,
            chunks: &Keep(&self.store),
            progress: &mut |_| {},
        };
        let (built, _) = build(self.from.path(), &options, context).unwrap();
        let built = built.unwrap();
        self.versions.push((built.id, built.manifest));
    }

    fn version(&self, number: usize) -> Version<'_> {
        let (id, manifest) = &self.versions[number - 1];
        Version { number: number as u64, id: *id, manifest, pages: &self.pages }
    }

    fn write_out(&self, number: usize, limit: usize) -> Result<(MaterialiseReport, usize), MaterialiseError> {
        let previous = (number > 1).then(|| self.version(number - 1));
        let mut give = Give { store: &self.store, given: 0, limit };
        let options = MaterialiseOptions { keep: self.keep, ..MaterialiseOptions::default() };
        let report = materialise(self.to.path(), self.version(number), previous, &mut give, &options, &mut |_| {})?;
        Ok((report, give.given))
    }

    fn current(&self, path: &str) -> PathBuf {
        self.to.path().join(CURRENT_LINK).join(path)
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn what_comes_out_is_what_went_in() {
    let mut pair = Pair::new();
    for index in 0..300 {
        pair.write(&format!("small/{index}.txt"), noise(index, 500));
    }
    pair.write("large/file", noise(1, 2_000_000));
    pair.write("empty", "");
    pair.write("script", "#!/bin/sh");
    fs::set_permissions(pair.from.path().join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::create_dir_all(pair.from.path().join("nothing/here")).unwrap();
    pair.write("shut/file", "x");
    fs::set_permissions(pair.from.path().join("shut"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("../large/file", pair.from.path().join("small/link")).unwrap();
    symlink("/etc/passwd", pair.from.path().join("escape")).unwrap();
    pair.publish();
    let (report, _) = pair.write_out(1, usize::MAX).unwrap();
    assert_eq!((report.files_written, report.files_linked), (304, 0));
    assert!(report.notes.len() == 1 && report.notes[0].contains("`escape`"), "{:?}", report.notes);
    for path in ["small/7.txt", "large/file", "empty", "script", "small/link", "shut/file"] {
        assert_eq!(fs::read(pair.current(path)).unwrap(), fs::read(pair.from.path().join(path)).unwrap(), "{path}");
        let (new, old) =
            (fs::metadata(pair.current(path)).unwrap(), fs::metadata(pair.from.path().join(path)).unwrap());
        assert_eq!((new.mtime(), new.mtime_nsec()), (old.mtime(), old.mtime_nsec()), "{path}");
        assert_eq!(new.mode() & 0o7777, old.mode() & 0o555, "{path}");
    }
    assert!(pair.current("nothing/here").is_dir());
    assert_eq!(fs::metadata(pair.current("shut")).unwrap().mode() & 0o777, 0o700);
    assert!(fs::symlink_metadata(pair.current("escape")).is_err());
    assert_eq!(fs::read_link(pair.to.path().join(CURRENT_LINK)).unwrap(), PathBuf::from("versions/1"));
    let (again, given) = pair.write_out(1, 0).unwrap();
    assert!(again.was_complete && given == 0);
}

#[test]
fn unchanged_files_are_linked_and_changed_underneath_are_not() {
    let mut pair = Pair::new();
    pair.keep = 2;
    for name in ["same", "changed", "spoilt", "chmod"] {
        pair.write(name, name.repeat(50));
    }
    pair.write("large", noise(2, 800_000));
    pair.publish();
    pair.write_out(1, usize::MAX).unwrap();
    pair.write("changed", "other");
    fs::set_permissions(pair.from.path().join("chmod"), fs::Permissions::from_mode(0o600)).unwrap();
    pair.publish();
    let spoilt = pair.to.path().join("versions/1/spoilt");
    let time = fs::metadata(&spoilt).unwrap().modified().unwrap();
    fs::set_permissions(&spoilt, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&spoilt, "SPOILT".repeat(50)).unwrap();
    fs::File::options().write(true).open(&spoilt).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&spoilt, fs::Permissions::from_mode(0o444)).unwrap();
    let (report, _) = pair.write_out(2, usize::MAX).unwrap();
    assert_eq!((report.files_linked, report.files_written), (2, 3), "{report:?}");
    assert_eq!(fs::read(pair.current("spoilt")).unwrap(), b"spoilt".repeat(50));
    let inode = |version: &str| fs::metadata(pair.to.path().join(version).join("large")).unwrap().ino();
    assert_eq!(inode("versions/1"), inode("versions/2"));

    pair.write("changed", "third");
    pair.publish();
    let (report, _) = pair.write_out(3, usize::MAX).unwrap();
    assert_eq!(report.versions_removed, [1]);
    assert!(!pair.to.path().join("versions/1").exists() && pair.to.path().join("versions/2").exists());
    assert_eq!(fs::read(pair.current("changed")).unwrap(), b"third");
    let left: Vec<_> = fs::read_dir(pair.to.path().join("versions")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_cut_attempt_is_invisible_and_is_gone_on_with() {
    let mut pair = Pair::new();
    for index in 0..20 {
        pair.write(&format!("{index:02}"), noise(index, 100_000));
    }
    pair.publish();
    let error = pair.write_out(1, 10).unwrap_err();
    assert!(matches!(error, MaterialiseError::Chunk(_)), "{error}");
    assert!(!pair.to.path().join(CURRENT_LINK).exists());
    // The last file of the cut attempt is half written.
    fs::write(pair.to.path().join("versions/.1.partial/15"), "half").unwrap();
    let (report, given) = pair.write_out(1, usize::MAX).unwrap();
    assert_eq!(report.files_resumed + report.files_written, 20);
    assert!(report.files_resumed >= 5 && given <= 30, "{report:?}, {given} chunks");
    for index in 0..20u64 {
        assert_eq!(fs::read(pair.current(&format!("{index:02}"))).unwrap(), noise(index, 100_000));
    }
}

#[test]
fn what_an_attempt_at_another_version_left_is_not_trusted() {
    let mut pair = Pair::new();
    pair.write("a", noise(1, 100_000));
    pair.publish();
    let partial = pair.to.path().join("versions/.1.partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("foreign"), "x").unwrap();
    fs::create_dir_all(pair.to.path().join("versions/1/foreign")).unwrap();
    let other = VersionId::of(b"another version");
    fs::write(pair.to.path().join("versions/.1.version"), format!("{other}\n")).unwrap();
    pair.write_out(1, usize::MAX).unwrap();
    assert_eq!(fs::read_dir(pair.to.path().join("current/")).unwrap().count(), 1);
}

#[test]
fn a_damaged_version_stays_until_what_is_wrong_in_it_was_written_again() {
    let mut pair = Pair::new();
    for index in 0..5 {
        pair.write(&index.to_string(), noise(index, 200_000));
    }
    pair.publish();
    pair.write_out(1, usize::MAX).unwrap();
    let (number, id, _) = current_version(pair.to.path()).unwrap();
    assert!(is_complete(pair.to.path(), number, id));
    let spoilt = pair.current("3");
    fs::remove_file(&spoilt).unwrap();
    fs::write(&spoilt, "spoilt").unwrap();
    doubt(pair.to.path(), 1).unwrap();
    assert!(!is_complete(pair.to.path(), number, id));
    assert_eq!(current_version(pair.to.path()).map(|(number, ..)| number), Some(1));

    // Cut on the way: what is there stays readable.
    assert!(pair.write_out(1, 0).is_err());
    assert_eq!(fs::read(pair.current("2")).unwrap(), noise(2, 200_000));
    assert!(!is_complete(pair.to.path(), number, id));

    let (report, _) = pair.write_out(1, usize::MAX).unwrap();
    assert_eq!((report.files_written, report.files_linked + report.files_resumed), (1, 4), "{report:?}");
    assert_eq!(fs::read(&spoilt).unwrap(), noise(3, 200_000));
    assert!(is_complete(pair.to.path(), number, id));
    assert!(pair.write_out(1, 0).unwrap().0.was_complete);
    let left: Vec<_> = fs::read_dir(pair.to.path().join("versions")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn another_version_of_the_same_number_takes_its_place_in_one_step() {
    let mut pair = Pair::new();
    pair.write("a", "one");
    pair.publish();
    pair.write_out(1, usize::MAX).unwrap();
    fs::rename(pair.from.path().join("a"), pair.from.path().join("b")).unwrap();
    pair.write("b", noise(7, 100_000));
    pair.publish();
    let other = pair.versions.remove(1);
    pair.versions[0] = other;
    assert!(pair.write_out(1, 0).is_err());
    assert_eq!(fs::read(pair.current("a")).unwrap(), b"one");
    pair.write_out(1, usize::MAX).unwrap();
    assert_eq!(fs::read(pair.current("b")).unwrap(), noise(7, 100_000));
    assert!(!pair.current("a").exists());
}

/// A version that no honest builder makes.
fn forged(pair: &mut Pair, entries: &[(&str, FileKind, &str)]) {
    let mut sink = &pair.pages;
    let mut shared = NoSharedSink;
    let (chunker, grouping) = (ChunkerParams::default(), GroupingParams::default());
    let mut builder = TreeBuilder::new(chunker, grouping, &mut sink, &mut shared).unwrap();
    for (path, kind, target) in entries {
        let entry = BuildEntry {
            path: RelPath::new(*path).unwrap(),
            kind: *kind,
            link_target: target.as_bytes().to_vec(),
            mode: 0o777,
            mtime_ns: 0,
            content: BuildContent::Empty,
        };
        builder.push(entry).unwrap();
    }
    let built = builder.finish().unwrap();
    let manifest = Manifest {
        chunker,
        grouping,
        parent: None,
        origin: "evil".into(),
        metadata: Vec::new(),
        height: built.height,
        root: built.root,
    };
    pair.versions.push((Manifest::id_of(&manifest.encode()), manifest));
}

#[test]
fn hostile_versions_are_refused_or_defused() {
    use FileKind::{File, Symlink};
    let mut pair = Pair::new();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    forged(&mut pair, &[("link", Symlink, &target), ("link/planted", File, "")]);
    forged(&mut pair, &[("file", File, ""), ("file/below", File, "")]);
    for number in [1, 2] {
        let error = CodedError::from(pair.write_out(number, usize::MAX).unwrap_err());
        assert!(error.is(&codes::UNSAFE_MANIFEST), "{error}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!pair.to.path().join(CURRENT_LINK).exists());
    forged(&mut pair, &[("a", Symlink, "d/up/../.."), ("d/up", Symlink, ".."), ("e", Symlink, "..")]);
    let (report, _) = pair.write_out(3, usize::MAX).unwrap();
    assert_eq!((report.notes.len(), report.others), (2, 1));
    assert!(fs::symlink_metadata(pair.current("d/up")).unwrap().is_symlink());
}

#[test]
fn wrong_bytes_are_never_written_out() {
    let mut pair = Pair::new();
    pair.write("a", noise(1, 100_000));
    pair.publish();
    for bytes in pair.store.lock().unwrap().values_mut() {
        bytes[0] ^= 1;
    }
    let error = pair.write_out(1, usize::MAX).unwrap_err();
    assert!(matches!(error, MaterialiseError::Mismatch { .. }), "{error}");
    assert!(CodedError::from(error).is(&codes::HASH_MISMATCH));
}

#[test]
fn something_else_named_current_is_left_alone() {
    let mut pair = Pair::new();
    pair.write("a", "a");
    pair.publish();
    fs::create_dir(pair.to.path().join(CURRENT_LINK)).unwrap();
    let error = pair.write_out(1, usize::MAX).unwrap_err();
    assert!(error.to_string().contains("in the way"), "{error}");
    fs::remove_dir(pair.to.path().join(CURRENT_LINK)).unwrap();
    assert!(pair.write_out(1, 0).unwrap().0.was_complete);
}

#[test]
fn folders_that_were_not_written_here_are_left_alone() {
    let mut pair = Pair::new();
    pair.write("a", noise(1, 1000));
    pair.publish();
    pair.write("a", noise(2, 1000));
    pair.publish();
    let theirs = pair.to.path().join("versions/1/notes.txt");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "mine").unwrap();
    let error = pair.write_out(1, usize::MAX).unwrap_err();
    assert!(error.to_string().contains("versions/1"), "{error}");
    pair.write_out(2, usize::MAX).unwrap();
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "mine");
}

#[test]
fn a_version_half_removed_does_not_pass_for_complete() {
    let mut pair = Pair::new();
    pair.keep = 1;
    for text in ["one", "two"] {
        pair.write("a", text);
        pair.publish();
    }
    pair.write_out(1, usize::MAX).unwrap();
    // A folder that can't be removed: the removal of version 1 stops in the middle, as after a kill.
    let stuck = pair.to.path().join("versions/.1.old");
    fs::write(&stuck, "no folder").unwrap();
    assert!(pair.write_out(2, usize::MAX).is_err());
    assert!(pair.to.path().join("versions/1/a").exists(), "it leaves its place in one step or not at all");
    fs::remove_file(&stuck).unwrap();
    pair.write_out(2, usize::MAX).unwrap();
    assert!(!pair.to.path().join("versions/1").exists() && !stuck.exists());
}
