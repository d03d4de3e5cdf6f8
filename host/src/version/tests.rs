//! Versions of real folders: what is recorded, what is read again, what stays, and what waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::{ChunkRef, Content, FileKind, FileRecord};
use headwater_protocol::tree::{MemoryPages, SinkError, Tree};

use super::*;
use crate::scan::{ScanOptions, SkipReason};

/// A folder and the versions of it.
struct Site {
    folder: tempfile::TempDir,
    pages: Arc<MemoryPages>,
    stamps: MemoryStamps,
    last: Option<(headwater_protocol::id::VersionId, Manifest)>,
    options: BuildOptions,
    absent: Rule,
    chunks: Mutex<BTreeMap<headwater_protocol::id::ChunkId, Vec<u8>>>,
}

/// What a publisher says of what is gone, and what it was told.
#[derive(Default)]
struct Rule {
    mode: PublishMode,
    freed: BTreeSet<String>,
    back: Mutex<Vec<String>>,
}

impl Absent for Rule {
    fn stays(&self, record: &FileRecord) -> bool {
        self.mode.stays(record) || self.freed.contains(&*String::from_utf8_lossy(&record.path))
    }

    fn holds(&self, path: &RelPath) -> bool {
        self.freed.iter().any(|freed| headwater_protocol::path::is_below(freed.as_bytes(), path.as_bytes()))
    }

    fn is_back(&self, path: &RelPath) {
        self.back.lock().unwrap().push(path.to_string());
    }
}

struct Keep<'a>(&'a Mutex<BTreeMap<headwater_protocol::id::ChunkId, Vec<u8>>>);

impl ChunkSink for Keep<'_> {
    fn put_chunk(&self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        assert_eq!(headwater_protocol::id::ChunkId::of(bytes), chunk.id);
        self.0.lock().unwrap().insert(chunk.id, bytes.to_vec());
        Ok(())
    }
}

impl Site {
    fn new() -> Self {
        let scan = ScanOptions { settle: Duration::ZERO, threads: 2, ..ScanOptions::default() };
        Self {
            folder: tempfile::tempdir().unwrap(),
            pages: Arc::new(MemoryPages::new()),
            stamps: MemoryStamps::default(),
            last: None,
            options: BuildOptions { scan, origin: "test".into(), ..BuildOptions::default() },
            absent: Rule::default(),
            chunks: Mutex::default(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), bytes).unwrap();
    }

    /// Waits until what was written is old enough to be remembered by its stamp.
    fn settle() {
        std::thread::sleep(Duration::from_millis(80));
    }

    fn try_build(&mut self) -> Result<(Option<BuiltVersion>, BuildReport), BuildVersionError> {
        let earlier =
            self.last.as_ref().map(|(id, manifest)| Earlier { id: *id, manifest, pages: self.pages.as_ref() });
        let context = BuildContext {
            earlier,
            stamps: &mut self.stamps,
            absent: &self.absent,
            pages: &mut self.pages.as_ref(),
            chunks: &Keep(&self.chunks),
            progress: &mut |_| {},
        };
        build(self.folder.path(), &self.options, context)
    }

    fn build(&mut self) -> BuildReport {
        let (built, report) = self.try_build().unwrap();
        if let Some(built) = built {
            assert_eq!(Manifest::decode(&built.body).unwrap(), built.manifest);
            assert_eq!(built.manifest.parent, self.last.as_ref().map(|(id, _)| *id));
            self.last = Some((built.id, built.manifest));
        }
        report
    }

    fn records(&self) -> Vec<FileRecord> {
        let Some((_, manifest)) = &self.last else { return Vec::new() };
        Tree::new(manifest, self.pages.as_ref()).records().map(|record| record.unwrap().record().clone()).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.records().iter().map(|record| String::from_utf8_lossy(&record.path).into_owned()).collect()
    }

    fn local(&self) -> LocalChunks {
        let (_, manifest) = self.last.as_ref().unwrap();
        LocalChunks::new(self.folder.path(), manifest.clone(), self.pages.clone()).unwrap()
    }

    /// Checks that every chunk of the version can be read back from the folder.
    fn check_local(&self) {
        let local = self.local();
        for place in local.tree().chunks() {
            let place = place.unwrap();
            assert_eq!(local.at(&place).unwrap().len(), place.chunk.length as usize);
            assert_eq!(local.chunk(place.ordinal).unwrap(), local.at(&place).unwrap());
        }
    }

    fn bytes_of(&self, path: &str) -> Vec<u8> {
        let (_, manifest) = self.last.as_ref().unwrap();
        let tree = Tree::new(manifest, self.pages.as_ref());
        let record = tree.find(&RelPath::new(path).unwrap()).unwrap().unwrap_or_else(|| panic!("no {path}"));
        let chunks = self.chunks.lock().unwrap();
        let mut bytes = Vec::new();
        for stretch in tree.stretches(&record) {
            let stretch = stretch.unwrap();
            let chunk = &chunks[&stretch.chunk.id];
            bytes.extend_from_slice(&chunk[stretch.offset as usize..(stretch.offset + stretch.length) as usize]);
        }
        bytes
    }
}

/// Bytes that don't repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn records_what_is_there_as_it_is() {
    let mut site = Site::new();
    site.write("a/small.txt", "hello");
    site.write("a/empty", "");
    site.write("b/large", noise(1, 3_000_000));
    site.write(".hidden/.file", "x");
    fs::create_dir(site.path("nothing")).unwrap();
    fs::create_dir(site.path("private")).unwrap();
    site.write("private/key", "k");
    fs::set_permissions(site.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(site.path("a/small.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("../b/large", site.path("a/link")).unwrap();
    symlink("b", site.path("folder-link")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe.bin");
    fs::write(site.folder.path().join(odd), "odd").unwrap();
    let fifo =
        rustix::fs::mknodat(rustix::fs::CWD, site.path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0);
    fifo.unwrap();
    let report = site.build();
    assert_eq!(
        site.paths(),
        [
            ".hidden/.file",
            "a/empty",
            "a/link",
            "a/small.txt",
            "b/large",
            "folder-link",
            "nothing",
            "private",
            "private/key",
            "\u{fffd}\u{fffd}.bin"
        ]
    );
    assert_eq!((report.added, report.changed, report.removed), (10, 0, 0));
    assert_eq!(report.skipped.len(), 1);
    assert_eq!((&*report.skipped[0].path, &report.skipped[0].reason), ("pipe", &SkipReason::Special));
    let records = site.records();
    let by = |path: &str| records.iter().find(|record| record.path == path.as_bytes()).unwrap();
    assert_eq!((by("a/link").kind, &*by("a/link").link_target), (FileKind::Symlink, &b"../b/large"[..]));
    assert_eq!(by("a/small.txt").mode, 0o640);
    assert_eq!((by("private").kind, by("private").mode, by("private").mtime_ns), (FileKind::Folder, 0o700, 0));
    let metadata = fs::metadata(site.path("b/large")).unwrap();
    assert_eq!(by("b/large").mtime_ns, metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec());
    assert!(matches!(by("b/large").content, Content::Whole(_)));
    assert_eq!(site.bytes_of("b/large"), noise(1, 3_000_000));
    assert_eq!(site.bytes_of("a/small.txt"), b"hello");
    site.check_local();
}

#[test]
fn an_unchanged_folder_is_neither_read_nor_built() {
    let mut site = Site::new();
    for index in 0..2000 {
        site.write(&format!("d{}/{index}.txt", index % 7), noise(index, 100));
    }
    site.write("large", noise(1, 1_000_000));
    Site::settle();
    let report = site.build();
    assert_eq!((report.added, report.files_read), (2001, 2001));
    let (first, pages) = (site.last.clone(), site.pages.len());
    let report = site.build();
    assert_eq!((report.files_read, report.unchanged), (0, 2001));
    assert_eq!((site.last.clone(), site.pages.len()), (first.clone(), pages));

    // Without stamps everything is read, and found to be the same.
    site.stamps.0.clear();
    let report = site.build();
    assert_eq!((report.files_read, report.unchanged, report.changed), (2001, 2001, 0));
    assert_eq!(site.last, first);
    assert_eq!(site.build().files_read, 0, "its stamps are known again");
}

#[test]
fn a_change_reads_and_builds_what_it_touches() {
    let mut site = Site::new();
    for index in 0..3000 {
        site.write(&format!("d/{index:05}.txt"), noise(index, 200));
    }
    Site::settle();
    site.build();
    let pages = site.pages.len();
    site.write("d/01500.txt", noise(9999, 250));
    site.write("d/01700a.txt", noise(9998, 250));
    fs::remove_file(site.path("d/00010.txt")).unwrap();
    site.absent.mode = PublishMode::Mirror;
    Site::settle();
    let report = site.build();
    assert_eq!((report.added, report.changed, report.removed, report.files_read), (1, 1, 1, 2));
    assert!(site.pages.len() - pages < 8, "{} new pages", site.pages.len() - pages);
    assert_eq!(site.bytes_of("d/01500.txt"), noise(9999, 250));
    assert_eq!(site.build().files_read, 0, "the stamps of rebuilt leaves are known");
    site.check_local();

    // The same folder, built from nothing, has the same tree.
    let mut fresh = Site::new();
    std::mem::swap(&mut fresh.folder, &mut site.folder);
    fresh.build();
    assert_eq!(fresh.last.unwrap().1.root, site.last.unwrap().1.root);
}

#[test]
fn only_metadata_changed() {
    let mut site = Site::new();
    site.write("a.txt", "hello");
    site.write("b.txt", "world");
    site.write("large", noise(3, 500_000));
    Site::settle();
    site.build();
    let before = site.chunks.lock().unwrap().len();
    fs::set_permissions(site.path("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::open(site.path("large")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    Site::settle();
    let report = site.build();
    assert_eq!((report.changed, report.unchanged), (2, 1));
    assert_eq!(site.chunks.lock().unwrap().len(), before, "no new bytes");
    assert_eq!(site.records().iter().find(|record| record.path == b"large").unwrap().mtime_ns, 0);
}

#[test]
fn modes_decide_what_a_missing_file_means() {
    for (mode, expected) in [(PublishMode::Append, vec!["a", "b", "c", "d"]), (PublishMode::Mirror, vec!["a", "c"])] {
        let mut site = Site::new();
        site.absent.mode = mode;
        for name in ["a", "b", "c"] {
            site.write(name, name.repeat(20));
        }
        fs::create_dir(site.path("d")).unwrap();
        Site::settle();
        site.build();
        for name in ["b", "c"] {
            fs::remove_file(site.path(name)).unwrap();
        }
        fs::remove_dir(site.path("d")).unwrap();
        site.absent.freed.insert("c".into());
        let report = site.build();
        assert_eq!(site.paths(), expected, "{mode:?}");
        assert_eq!(report.remote, expected.len() as u64 - 1);

        // What is gone stays readable where it was, also when its neighbours change.
        site.write("a", "a changed");
        Site::settle();
        site.build();
        assert_eq!(site.paths(), expected, "{mode:?}");
        assert_eq!(site.bytes_of("c"), "c".repeat(20).as_bytes());
        assert_eq!(site.bytes_of("a"), b"a changed");
        if mode == PublishMode::Mirror {
            site.absent.freed.clear();
            site.build();
            assert_eq!(site.paths(), ["a"]);
        }
        // A freed file that comes back is a file like others.
        site.write("c", "new");
        Site::settle();
        site.build();
        assert_eq!(site.bytes_of("c"), b"new");
    }
}

#[test]
fn what_stays_is_asked_of_links_and_empty_folders_too() {
    for (mode, expected) in
        [(PublishMode::Append, vec!["empty", "file", "link", "set", "set/file"]), (PublishMode::Mirror, vec![])]
    {
        let mut site = Site::new();
        site.absent.mode = mode;
        site.write("file", "x");
        site.write("set/file", "x");
        fs::set_permissions(site.path("set"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("file", site.path("link")).unwrap();
        fs::create_dir(site.path("empty")).unwrap();
        site.build();
        for path in fs::read_dir(site.folder.path()).unwrap() {
            let path = path.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let report = site.build();
        assert_eq!(site.paths(), expected, "{mode:?}");
        assert_eq!((report.remote, report.removed), if mode == PublishMode::Append { (5, 0) } else { (0, 5) });
        // A folder that has something in it now is no empty one any more.
        site.write("empty/file", "x");
        site.build();
        assert!(!site.paths().contains(&"empty".into()) && site.paths().contains(&"empty/file".into()));
    }
}

#[test]
fn nothing_takes_the_place_of_a_folder_with_freed_files() {
    let mut site = Site::new();
    site.absent.mode = PublishMode::Mirror;
    for path in ["a/freed", "a/gone", "b/gone", "c"] {
        site.write(path, "x".repeat(30));
    }
    Site::settle();
    site.build();
    for path in ["a", "b"] {
        fs::remove_dir_all(site.path(path)).unwrap();
        site.write(path, "a file in its place");
    }
    site.absent.freed.insert("a/freed".into());
    Site::settle();
    let report = site.build();
    assert_eq!(site.paths(), ["a/freed", "b", "c"]);
    assert_eq!((&*report.skipped[0].path, &report.skipped[0].reason), ("a", &SkipReason::PlaceHeld));
    assert_eq!(site.bytes_of("a/freed"), "x".repeat(30).as_bytes());
    site.absent.freed.clear();
    assert_eq!(site.build().skipped, []);
    assert_eq!(site.paths(), ["a", "b", "c"]);
}

#[test]
fn what_is_back_is_told() {
    let mut site = Site::new();
    site.absent.mode = PublishMode::Mirror;
    for path in ["freed", "replaced", "steady"] {
        site.write(path, path);
    }
    Site::settle();
    site.build();
    site.absent.back.lock().unwrap().clear();
    site.absent.freed = ["freed", "replaced"].map(String::from).into();
    for path in ["freed", "replaced"] {
        fs::remove_file(site.path(path)).unwrap();
    }
    site.build();
    assert_eq!(site.paths(), ["freed", "replaced", "steady"]);
    assert_eq!(*site.absent.back.lock().unwrap(), Vec::<String>::new());
    site.write("freed", "freed");
    site.write("replaced/by-a-folder", "x");
    Site::settle();
    site.build();
    assert_eq!(*site.absent.back.lock().unwrap(), ["freed", "replaced", "replaced/by-a-folder"]);
}

#[test]
fn what_is_replaced_by_a_folder_or_replaces_one_leaves() {
    let mut site = Site::new();
    site.write("x", "file");
    site.write("y/1", "1");
    site.write("y/2", "2");
    fs::create_dir(site.path("z")).unwrap();
    Site::settle();
    site.build();
    fs::remove_file(site.path("x")).unwrap();
    site.write("x/inside", "now a folder");
    fs::remove_dir_all(site.path("y")).unwrap();
    site.write("y", "now a file");
    site.write("z/inside", "no longer empty");
    site.build();
    assert_eq!(site.paths(), ["x/inside", "y", "z/inside"]);
}

#[test]
fn what_can_not_be_read_stays() {
    if rustix::process::geteuid().is_root() {
        return as_nobody("version::tests::what_can_not_be_read_stays");
    }
    let mut site = Site::new();
    site.absent.mode = PublishMode::Mirror;
    site.write("a", "a");
    site.write("locked/1", "1");
    site.write("locked/2", "2");
    site.write("secret", "s");
    Site::settle();
    site.build();
    fs::set_permissions(site.path("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    site.write("a", "changed");
    let report = site.build();
    assert_eq!(site.paths(), ["a", "locked/1", "locked/2", "secret"]);
    assert_eq!((report.skipped_count, report.deferred_count, report.unseen), (1, 1, 2));
    fs::set_permissions(site.path("locked"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Root reads everything, so the test runs again as a user who doesn't.
fn as_nobody(test: &str) {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", test]).uid(NOBODY).gid(NOBODY).current_dir("/").env_remove("TMPDIR");
    match command.status() {
        Ok(status) => assert!(status.success()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}"),
    }
}

#[test]
fn files_settle_first() {
    let mut site = Site::new();
    site.write("old", "old");
    Site::settle();
    site.build();
    site.options.scan.settle = Duration::from_millis(200);
    site.write("old", "being written");
    site.write("new", "being written");
    let report = site.build();
    assert_eq!(site.paths(), ["old"]);
    assert_eq!(report.deferred_count, 2);
    assert!(report.settled_in.is_some_and(|left| left <= Duration::from_millis(200)), "{report:?}");
    assert_eq!(site.bytes_of("old"), b"old");
    std::thread::sleep(Duration::from_millis(250));
    let report = site.build();
    assert_eq!((report.deferred_count, report.settled_in), (0, None));
    assert_eq!(site.paths(), ["new", "old"]);
    assert_eq!(site.bytes_of("old"), b"being written");
}

#[test]
fn a_file_that_changes_while_it_is_read_waits() {
    struct Meddler(PathBuf);
    impl ChunkSink for Meddler {
        fn put_chunk(&self, _chunk: ChunkRef, _bytes: &[u8]) -> Result<(), SinkError> {
            use std::io::Write;
            fs::OpenOptions::new().append(true).open(&self.0).unwrap().write_all(b"more").unwrap();
            Ok(())
        }
    }
    let site = Site::new();
    site.write("log", noise(1, 2_000_000));
    site.write("other", "x");
    let mut stamps = MemoryStamps::default();
    let context = BuildContext {
        earlier: None,
        stamps: &mut stamps,
        absent: &PublishMode::Mirror,
        pages: &mut site.pages.as_ref(),
        chunks: &Meddler(site.path("log")),
        progress: &mut |_| {},
    };
    let (built, report) = build(site.folder.path(), &site.options, context).unwrap();
    assert_eq!(built.unwrap().manifest.totals().files, 1);
    assert_eq!(report.deferred[0].reason, DeferredReason::ChangedWhileRead);
}

#[test]
fn ignore_rules_hold_where_they_stand() {
    let mut site = Site::new();
    site.write(".headwaterignore", "*.tmp\n/build\n!keep.tmp\n");
    site.write(".gitignore", "*.log\n");
    site.write("a.tmp", "x");
    site.write("keep.tmp", "x");
    site.write("a.log", "x");
    site.write("build/out", "x");
    site.write("sub/build/out", "x");
    site.write("sub/b.tmp", "x");
    site.write("sub/.headwaterignore", "!b.tmp\nc*\n");
    site.write("sub/c1", "x");
    site.write("only-ignored/x.tmp", "x");
    site.write("data/agent.db", "x");
    site.options.scan.exclude.push(site.path("data"));
    site.options.scan.ignore.push("secret*".into());
    site.write("sub/secret.txt", "x");
    site.build();
    let expected = [
        ".gitignore",
        ".headwaterignore",
        "a.log",
        "keep.tmp",
        "only-ignored",
        "sub/.headwaterignore",
        "sub/b.tmp",
        "sub/build/out",
    ];
    assert_eq!(site.paths(), expected);
    let mut site = { Site { last: None, ..site } };
    site.options.scan.gitignore = true;
    site.build();
    assert!(!site.paths().contains(&"a.log".to_owned()));
}

#[test]
fn what_is_excluded_is_not_walked_from_within_either() {
    let site = Site::new();
    site.write("a", "a");
    symlink(site.folder.path(), site.path("by-another-name")).unwrap();
    let scan = ScanOptions { exclude: vec![site.path("by-another-name")], ..ScanOptions::default() };
    let options = BuildOptions { scan, ..BuildOptions::default() };
    let context = BuildContext {
        earlier: None,
        stamps: &mut NoStamps,
        absent: &PublishMode::Mirror,
        pages: &mut site.pages.as_ref(),
        chunks: &NoChunks,
        progress: &mut |_| {},
    };
    let error = build(site.folder.path(), &options, context).unwrap_err();
    assert!(crate::error::CodedError::from(error).is(&crate::error::codes::PATH_UNSUITABLE));
}

#[test]
fn a_large_first_scan_grows_version_by_version() {
    let mut site = Site::new();
    for index in 0..40 {
        site.write(&format!("{index:03}"), noise(index, 100_000));
    }
    Site::settle();
    site.options.read_bytes_max = Some(1_000_000);
    let mut versions = 0;
    loop {
        let report = site.build();
        versions += 1;
        assert_eq!(site.paths().len() as u64 + report.postponed, 40);
        if report.postponed == 0 {
            break;
        }
    }
    assert_eq!(versions, 4);
    site.check_local();
}

#[test]
fn a_file_changed_underneath_is_never_given_out_wrong() {
    let mut site = Site::new();
    site.write("small1", "first");
    site.write("small2", "second");
    site.write("large", noise(1, 900_000));
    Site::settle();
    site.build();
    site.write("large", noise(2, 900_000));
    site.write("small2", "secund");
    let local = site.local();
    for place in local.tree().chunks() {
        let error = local.at(&place.unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("has changed"), "{error}");
    }
    fs::remove_file(site.path("large")).unwrap();
    site.write("small2", "sec");
    let reasons: Vec<String> = (0..local.tree().chunks().count() as u64)
        .map(|ordinal| local.chunk(ordinal).unwrap_err().to_string())
        .collect();
    assert!(reasons.contains(&"`large` has vanished".into()), "{reasons:?}");
    assert!(reasons.contains(&"`small2` has shrunk".into()), "{reasons:?}");
}

#[test]
fn a_chunk_with_a_gap_is_no_damage_and_damage_beside_a_gap_is_noticed() {
    let mut site = Site::new();
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        site.write(name, noise(number as u64, 2000));
    }
    Site::settle();
    site.build();
    // What was deleted stays in the version, so that its bytes can be taken from nowhere for a new chunk.
    let mtime = fs::metadata(site.path("c")).unwrap().modified().unwrap();
    fs::remove_file(site.path("c")).unwrap();
    site.write("b", noise(10, 3000));
    Site::settle();
    site.build();
    site.write("c", noise(2, 2000));
    fs::File::options().write(true).open(site.path("c")).unwrap().set_modified(mtime).unwrap();

    let local = site.local();
    let damaged = |untouched: &dyn Fn(&FileRecord) -> bool| -> Vec<String> {
        let places = local.tree().chunks().map(|place| place.unwrap());
        let unreadable: Vec<_> = places.filter(|place| local.at(place).is_err()).collect();
        assert!(!unreadable.is_empty(), "no chunk has a gap");
        unreadable.iter().filter_map(|place| local.damaged(place, untouched)).collect()
    };
    assert!(damaged(&|_| true).is_empty(), "every file of the version is as it should be");
    site.write("d", noise(20, 2000));
    assert_eq!(damaged(&|_| true), ["d"]);
    fs::remove_file(site.path("c")).unwrap();
    assert_eq!(damaged(&|record| record.path != b"c"), ["d"], "that a neighbour was deleted explains nothing");
    assert!(damaged(&|record| !matches!(&record.path[..], b"c" | b"d")).is_empty());
}

#[test]
fn a_long_file_pages_its_chunks_and_keeps_them() {
    let mut site = Site::new();
    site.options.chunker =
        headwater_protocol::chunking::ChunkerParams { min_bytes: 4096, average_bytes: 8192, max_bytes: 16384 };
    let mut bytes = noise(1, 4_000_000);
    site.write("video", &bytes);
    site.write("other", "x");
    Site::settle();
    site.build();
    assert!(matches!(site.records()[1].content, Content::Paged { .. }));
    site.check_local();
    let before = site.chunks.lock().unwrap().len();
    site.stamps.0.clear();
    assert_eq!(site.build().changed, 0);
    bytes.insert(0, 7);
    site.write("video", &bytes);
    Site::settle();
    site.build();
    assert!(site.chunks.lock().unwrap().len() - before <= 3);
    assert_eq!(site.bytes_of("video"), bytes);
    site.check_local();
}

#[test]
fn a_missing_folder_is_an_error_and_an_empty_one_is_a_version() {
    let mut site = Site::new();
    site.build();
    assert_eq!(site.last.as_ref().unwrap().1.root, None);
    site.write("a", "a");
    site.build();
    let gone = site.path("..").join("gone-for-sure");
    let context = BuildContext {
        earlier: None,
        stamps: &mut NoStamps,
        absent: &PublishMode::Mirror,
        pages: &mut site.pages.as_ref(),
        chunks: &NoChunks,
        progress: &mut |_| {},
    };
    let error = build(&gone, &site.options, context).unwrap_err();
    let coded = crate::error::CodedError::from(error);
    assert!(coded.is(&crate::error::codes::FOLDER_MISSING), "{coded}");
}

#[test]
fn a_folder_without_its_disk_is_suspect() {
    let mut site = Site::new();
    let check = |site: &Site, device_before| {
        let tree = site.last.as_ref().map(|(_, manifest)| Tree::new(manifest, site.pages.as_ref()));
        standing(site.folder.path(), &site.options.scan, tree, device_before).unwrap()
    };
    let device = check(&site, None).device;
    assert_eq!(check(&site, Some(device + 1)).suspicion, None, "nothing was there before");
    for index in 0..200 {
        site.write(&format!("{index:03}"), "x");
    }
    site.build();
    assert_eq!(check(&site, Some(device + 1)).suspicion, None, "the files are there, whatever the device is called");
    for index in 0..200 {
        fs::remove_file(site.path(&format!("{index:03}"))).unwrap();
    }
    let folder = site.folder.path().to_owned();
    for before in [None, Some(device), Some(device + 1)] {
        assert_eq!(check(&site, before).suspicion, Some(Suspicion::Emptied { folder: folder.clone() }));
    }
    site.write("NOT-MOUNTED", "");
    assert_eq!(check(&site, Some(device + 1)).suspicion, Some(Suspicion::OtherDevice { folder }));
    assert_eq!(check(&site, Some(device)).suspicion, None, "a folder that is not empty is mirrored as it is");
    assert_eq!(check(&site, None).suspicion, None);
}
