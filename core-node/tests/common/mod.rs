//! A core of the test's own: the real binary, a data folder, and free ports on loopback.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_core-node");
const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_mins(1);

/// A core that was made, and runs unless it was stopped.
pub(crate) struct TestCore {
    pub(crate) base: TempDir,
    child: Option<Child>,
}

impl TestCore {
    /// Makes a core on free ports, without starting it.
    pub(crate) fn init() -> Self {
        let base = tempfile::tempdir().expect("a folder");
        let core = Self { base, child: None };
        core.ok(&["init", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        core
    }

    /// Makes a core and starts it.
    pub(crate) fn start() -> Self {
        let mut core = Self::init();
        core.run();
        core
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn run(&mut self) {
        let log = fs::File::create(self.base.path().join("core.log")).expect("a log");
        let address = self.data().join("address");
        let _ = fs::remove_file(&address);
        let child = self.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().expect("the core starts");
        self.child = Some(child);
        let begun = Instant::now();
        while fs::read_to_string(&address).map_or(true, |text| text.trim().is_empty()) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a status"));
            assert!(ended.is_none(), "the core ended: {}", self.log());
            assert!(begun.elapsed() < READY_WITHIN, "the core is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the daemon as systemd does.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a status") {
                break status;
            }
            if begun.elapsed() > STOPPED_WITHIN {
                let _ = child.kill();
                panic!("the core does not stop: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the core ended with {status}: {}", self.log());
    }

    /// Ends the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("a status");
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.base.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.base.path().join("core.log")).unwrap_or_default()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--data").arg(self.data()).args(arguments).env_remove("HEADWATER_CORE_DATA");
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// What a command prints, which must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} failed: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command says on stderr, which must fail with exit status `status`.
    pub(crate) fn fails(&self, arguments: &[&str], status: i32) -> String {
        let output = self.output(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        stderr
    }

    /// The JSON documents that a command prints, one a line.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.ok(&all).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The one JSON document that a command prints.
    pub(crate) fn one(&self, arguments: &[&str]) -> Value {
        let mut all = self.json(arguments);
        assert_eq!(all.len(), 1, "{arguments:?}: {all:?}");
        all.remove(0)
    }

    /// The body of a page of the admin port.
    pub(crate) fn http(&self, path: &str) -> String {
        let admin = self.one(&["status"])["admin"].as_str().expect("an address").to_owned();
        let mut stream = TcpStream::connect(&admin).expect("connected");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }
}

impl Drop for TestCore {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Checks that `stderr` has the code and a hint.
#[track_caller]
pub(crate) fn assert_coded(stderr: &str, code: &str) {
    assert!(stderr.contains(&format!("error[{code}]")), "no {code} in: {stderr}");
    assert!(stderr.contains("hint: "), "no hint in: {stderr}");
}

/// A folder's contents as a listing: path to kind, mode, time and bytes.
pub(crate) fn listing(folder: &Path) -> BTreeMap<PathBuf, (char, u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).expect("listed") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let mode = metadata.permissions().mode() & 0o777;
            use std::os::unix::fs::MetadataExt;
            let time = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
            let shown = path.strip_prefix(folder).expect("below").to_owned();
            if metadata.is_symlink() {
                use std::os::unix::ffi::OsStringExt;
                let target = fs::read_link(&path).expect("a target").into_os_string().into_vec();
                found.insert(shown, ('l', 0, time, target));
            } else if metadata.is_dir() {
                // Times of folders with files in them are not part of a version.
                found.insert(shown, ('d', 0, 0, Vec::new()));
                left.push(path);
            } else {
                found.insert(shown, ('f', mode, time, fs::read(&path).expect("bytes")));
            }
        }
    }
    found
}

/// A folder with small files, large ones, an empty one, a link, an empty folder, odd modes and a name that is no UTF-8.
pub(crate) fn sample(folder: &Path) {
    use std::os::unix::ffi::OsStrExt;
    fs::create_dir_all(folder.join("images/deep")).expect("made");
    fs::create_dir_all(folder.join("empty")).expect("made");
    for n in 0..300u32 {
        fs::write(folder.join(format!("images/{n:04}.txt")), format!("label {}", n % 10)).expect("written");
        fs::write(folder.join(format!("images/{n:04}.bin")), noise(n, 700)).expect("written");
    }
    fs::write(folder.join("large.bin"), noise(7, 3_000_000)).expect("written");
    fs::write(folder.join("images/deep/zeros"), vec![0; 500_000]).expect("written");
    fs::write(folder.join("nothing"), b"").expect("written");
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"odd-\xff-name")), b"odd").expect("written");
    fs::set_permissions(folder.join("large.bin"), fs::Permissions::from_mode(0o750)).expect("set");
    std::os::unix::fs::symlink("images/0001.txt", folder.join("link")).expect("linked");
}

/// Waits until what was written just now is old enough that a scan trusts its times.
pub(crate) fn let_it_settle() {
    std::thread::sleep(Duration::from_millis(2200));
}

/// `length` bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
