//! A training program as a process that this agent answers for: in a group of its own, within limits, its output kept, and gone
//! when its task is.
//!
//! Where systemd runs the machine, a program gets a scope of its own; else `prlimit` limits it and `setpriv --pdeathsig` ends it
//! with the agent. What a program starts itself is in its process group and ends with it; what leaves the group on purpose is
//! only caught by a scope.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_quic::work;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit, setpriority_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Names the task's folder to the program.
const TASK_VARIABLE: &str = "HEADWATER_TASK";
/// Most of a program's output that is kept, in bytes.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// So much of its end is told where it fails, in bytes.
const TAIL_BYTES: usize = 1500;
/// Longest line that is looked into, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How often is looked how large the task's folder is.
const DISK_LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the output of a program that has ended is waited for.
const OUTPUT_WAIT: Duration = Duration::from_secs(5);

/// A program that is to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The program and its arguments.
    pub(super) argv: Vec<OsString>,
    /// Its working folder.
    pub(super) folder: PathBuf,
    /// The task's folder.
    pub(super) task: PathBuf,
    /// Where its output is kept.
    pub(super) log: PathBuf,
    /// Memory that it may have.
    pub(super) memory_bytes: Option<u64>,
    /// How long it may run.
    pub(super) time: Duration,
    /// What the task's folder may grow to.
    pub(super) disk_bytes: u64,
    /// How far it stands behind other work.
    pub(super) nice: i32,
}

/// What keeps programs within limits on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// systemd's scopes.
    Scope,
    /// `setpriv` and `prlimit`.
    Utilities,
    /// Neither: only time, disk and the process group.
    Nobody,
}

impl Keeper {
    /// Looks what there is.
    pub(crate) fn of_this_machine() -> Self {
        if Path::new("/run/systemd/system").is_dir() && find("systemd-run").is_some() {
            Self::Scope
        } else if find("setpriv").is_some() && find("prlimit").is_some() {
            Self::Utilities
        } else {
            Self::Nobody
        }
    }

    /// The command that runs `program` within its limits.
    fn command(self, program: &Program) -> Vec<OsString> {
        let mut argv: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
        match self {
            Self::Scope => {
                add(&["systemd-run", "--scope", "--quiet", "--collect"]);
                if !rustix::process::geteuid().is_root() {
                    add(&["--user"]);
                }
                if let Some(bytes) = program.memory_bytes {
                    add(&["-p", &format!("MemoryMax={bytes}"), "-p", "MemorySwapMax=0"]);
                }
                add(&["--"]);
            }
            Self::Utilities => {
                if let Some(bytes) = program.memory_bytes {
                    add(&["prlimit", &format!("--data={bytes}"), "--"]);
                }
            }
            Self::Nobody => {}
        }
        if find("setpriv").is_some() {
            add(&["setpriv", "--pdeathsig", "KILL", "--"]);
        }
        argv.extend(program.argv.iter().cloned());
        argv
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Runs a program to its end; an error says why that was none. The program ends with the future. `stepped` hears how far it is.
pub(super) async fn run(
    program: &Program,
    keeper: Keeper,
    stepped: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<(), String> {
    let argv = keeper.command(program);
    let name = program.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let log = File::create(&program.log).map_err(|error| format!("its output can't be kept: {error}"))?;
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .current_dir(&program.folder)
        .env(TASK_VARIABLE, &program.task)
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("`{name}` can't be started: {error}"))?;
    let group = Group::of(&child);
    group.restrain(program);
    let output = Arc::new(Output::new(log));
    let stepped: Arc<Stepped> = Arc::new(stepped);
    let pipes = [
        child.stdout.take().map(|pipe| work::spawn(drain(pipe, Arc::clone(&output), Some(stepped)))),
        child.stderr.take().map(|pipe| work::spawn(drain(pipe, Arc::clone(&output), None))),
    ];
    let ended = tokio::select! {
        ended = child.wait() => ended.map_err(|error| format!("`{name}` can't be waited for: {error}")),
        () = tokio::time::sleep(program.time) => {
            Err(format!("`{name}` ran for {} s, which is all that it may", program.time.as_secs()))
        }
        bytes = outgrown(&program.task, program.disk_bytes) => {
            Err(format!("`{name}` wrote {bytes} bytes, and may write {}", program.disk_bytes))
        }
    };
    // Whatever it has started and left behind ends here, and with it whoever holds its output open.
    drop(group);
    for pipe in pipes.into_iter().flatten() {
        let stop = pipe.abort_handle();
        if tokio::time::timeout(OUTPUT_WAIT, pipe).await.is_err() {
            stop.abort();
        }
    }
    let why = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("`{name}` ended with {status}"),
        Err(why) => why,
    };
    let tail = output.tail();
    Err(if tail.is_empty() { why } else { format!("{why}; it said:\n{tail}") })
}

type Stepped = dyn Fn(u64, u64) + Send + Sync;

/// A process group, which ends when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Group {
    /// Limits that may as well begin a moment after the program: how large its files get, and how far it stands behind other work.
    fn restrain(&self, program: &Program) {
        let Some(leader) = self.0 else { return };
        let bytes = Some(program.disk_bytes);
        let limited = prlimit(Some(leader), Resource::Fsize, Rlimit { current: bytes, maximum: bytes }).map(drop);
        let restrained = limited.and_then(|()| setpriority_process(Some(leader), program.nice));
        // One that has ended already needs no limits.
        if let Err(error) = restrained {
            tracing::debug!(%error, "a training program could not be restrained");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody left in it is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a program says.
struct Output(Mutex<Kept>);

struct Kept {
    log: File,
    bytes: u64,
    tail: VecDeque<u8>,
}

impl Output {
    fn new(log: File) -> Self {
        Self(Mutex::new(Kept { log, bytes: 0, tail: VecDeque::new() }))
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LOG_BYTES_MAX.saturating_sub(kept.bytes).min(bytes.len() as u64) as usize;
        // A log that can't be written is no reason to stop a program.
        let _ = kept.log.write_all(&bytes[..room]);
        kept.bytes += bytes.len() as u64;
        kept.tail.extend(bytes);
        let surplus = kept.tail.len().saturating_sub(TAIL_BYTES);
        kept.tail.drain(..surplus);
    }

    fn tail(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// Reads a pipe to its end, and looks for progress in its lines.
async fn drain(mut pipe: impl AsyncRead + Unpin, output: Arc<Output>, stepped: Option<Arc<Stepped>>) {
    let mut piece = vec![0; 8192];
    let mut line = Vec::new();
    loop {
        let count = match pipe.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        output.add(&piece[..count]);
        let Some(stepped) = &stepped else { continue };
        for byte in &piece[..count] {
            if *byte == b'\n' {
                if let Some((step, steps)) = progress(&line) {
                    stepped(step, steps);
                }
                line.clear();
            } else if line.len() < LINE_BYTES_MAX {
                line.push(*byte);
            }
        }
    }
}

/// How far a line says that the program is: `{"step": 17, "steps": 100}`.
fn progress(line: &[u8]) -> Option<(u64, u64)> {
    let said: serde_json::Value = serde_json::from_slice(line).ok()?;
    Some((said.get("step")?.as_u64()?, said.get("steps").and_then(serde_json::Value::as_u64).unwrap_or(0)))
}

/// Resolves when a folder has more bytes than it may.
async fn outgrown(folder: &Path, bytes_max: u64) -> u64 {
    loop {
        tokio::time::sleep(DISK_LOOK_EVERY).await;
        let folder = folder.to_owned();
        let bytes = work::spawn_blocking(move || size_of(&folder)).await.unwrap_or(0);
        if bytes > bytes_max {
            return bytes;
        }
    }
}

fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { size_of(&entry.path()) } else { metadata.len() })
    };
    entries.filter_map(of).sum()
}

/// The words of a command.
pub(super) fn words<S: AsRef<OsStr>>(command: &[S]) -> Vec<OsString> {
    command.iter().map(|word| word.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    fn program(root: &Path, script: &str) -> Program {
        std::fs::create_dir_all(root.join("task")).expect("made");
        Program {
            argv: words(&["sh", "-c", script]),
            folder: root.join("task"),
            task: root.join("task"),
            log: root.join("log.txt"),
            memory_bytes: None,
            time: Duration::from_mins(1),
            disk_bytes: 1 << 30,
            nice: 5,
        }
    }

    async fn ended(root: &Path, script: &str, change: impl FnOnce(&mut Program)) -> Result<(), String> {
        let mut program = program(root, script);
        change(&mut program);
        run(&program, Keeper::of_this_machine(), |_, _| {}).await
    }

    #[tokio::test]
    async fn what_a_program_says_is_kept_and_its_steps_are_heard() {
        let root = tempfile::tempdir().expect("a folder");
        let script =
            r#"test "$HEADWATER_TASK" = "$PWD" && echo '{"step": 3, "steps": 9, "loss": 0.1}' && echo careful >&2"#;
        let heard = Arc::new(AtomicU64::new(0));
        let step = Arc::clone(&heard);
        let stepped = move |at, of| step.store(at * 100 + of, Ordering::Relaxed);
        run(&program(root.path(), script), Keeper::of_this_machine(), stepped).await.expect("ended well");
        assert_eq!(heard.load(Ordering::Relaxed), 309);
        let log = std::fs::read_to_string(root.path().join("log.txt")).expect("a log");
        assert!(log.contains("careful") && log.contains("\"loss\""), "{log}");
    }

    #[tokio::test]
    async fn bad_programs_are_reported_with_what_they_said() {
        let root = tempfile::tempdir().expect("a folder");
        let error = ended(root.path(), "echo no such camera; exit 3", |_| {}).await.expect_err("failed");
        assert!(error.contains("exit status: 3") && error.contains("no such camera"), "{error}");
        let error = ended(root.path(), "sleep 60", |program| program.time = Duration::from_millis(300)).await;
        assert!(error.expect_err("hung").contains("all that it may"));
        let missing = |program: &mut Program| program.argv = words(&["/no/such/program"]);
        assert!(ended(root.path(), "", missing).await.is_err());
        let fill = "while :; do head -c 1000000 /dev/zero > $HEADWATER_TASK/$((i=i+1)); sleep 0.01; done";
        let error = ended(root.path(), fill, |program| program.disk_bytes = 3_000_000).await.expect_err("filled");
        assert!(error.contains("may write 3000000") || error.contains("signal"), "{error}");
    }

    #[tokio::test]
    async fn nothing_of_a_program_outlives_its_task() {
        let root = tempfile::tempdir().expect("a folder");
        // Grandchildren that hold the output open, and one task that is given up.
        let began = Instant::now();
        ended(root.path(), "sleep 1000 & echo $! > $HEADWATER_TASK/left; exit 0", |_| {}).await.expect("ended well");
        let given_up = ended(root.path(), "sleep 1000 & echo $! > $HEADWATER_TASK/given-up; wait", |_| {});
        let _ = tokio::time::timeout(Duration::from_secs(1), given_up).await.expect_err("it waits");
        assert!(began.elapsed() < Duration::from_secs(30));
        for name in ["left", "given-up"] {
            let pid = std::fs::read_to_string(root.path().join("task").join(name)).expect("a process");
            let is_gone = || match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
                Ok(stat) => stat.contains(") Z "),
                Err(_) => true,
            };
            let patience = Instant::now();
            while !is_gone() && patience.elapsed() < Duration::from_secs(10) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(is_gone(), "{name} {pid}");
        }
    }
}
