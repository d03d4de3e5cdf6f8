//! What a command said, and whether that is what it should have said.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::{LOOK_EVERY, PATIENCE};

/// The outcome of a command that has ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command.
    pub command: String,
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    /// What it printed for people.
    pub stderr: String,
}

/// Runs a command to its end, which must come within [`PATIENCE`].
#[track_caller]
pub fn run(mut command: Command) -> Said {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child has a status") {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(LOOK_EVERY);
    };
    let said = Said {
        command: name,
        status: status.and_then(|status| status.code()),
        stdout: stdout.join().expect("a reader ends"),
        stderr: stderr.join().expect("a reader ends"),
    };
    assert!(status.is_some(), "it took longer than {PATIENCE:?}: {said:#?}");
    said
}

fn gather(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before a broken pipe is all there is to show.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Said {
    /// It must have done what it was asked.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.status, Some(0), "it failed: {self:#?}");
        self
    }

    /// The JSON documents that it printed, one a line.
    #[track_caller]
    pub fn documents(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("`{line}` is no JSON ({error}): {self:#?}"),
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The only JSON document that it printed.
    #[track_caller]
    pub fn document(&self) -> Value {
        let mut documents = self.documents();
        assert_eq!(documents.len(), 1, "not one document: {self:#?}");
        documents.remove(0)
    }

    /// It must have failed with this code, in words that hold all of `words`, and with a hint; and it must not have panicked.
    #[track_caller]
    pub fn failed(self, code: &str, words: &[&str]) -> Self {
        assert!(matches!(self.status, Some(1 | 2)), "it did not fail as commands do: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let marker = format!("error[{code}]: ");
        let mut lines = self.stderr.lines().skip_while(|line| !line.contains(&marker));
        let Some(error) = lines.next() else { panic!("it did not fail with {code}: {self:#?}") };
        for word in words {
            assert!(error.contains(word), "`{error}` does not say `{word}`: {self:#?}");
        }
        let hint = lines.next().and_then(|line| line.trim_start().strip_prefix("hint: ")).unwrap_or_default();
        assert!(!hint.trim().is_empty(), "{code} came without a hint: {self:#?}");
        self
    }

    /// What it said for people must hold all of `words`.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "it does not say `{word}`: {self:#?}");
        }
    }

    /// A sync must have failed in part with this code: as a document, and in words with a hint.
    #[track_caller]
    pub fn problem(&self, code: &str, words: &[&str]) -> Value {
        assert_eq!(self.status, Some(1), "a sync with a problem ends with 1: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let report = self.document();
        let problems = report["problems"].as_array().cloned().unwrap_or_default();
        let Some(problem) = problems.iter().find(|problem| problem["code"] == code) else {
            panic!("no problem with {code}: {self:#?}")
        };
        let message = problem["message"].as_str().unwrap_or_default();
        for word in words {
            assert!(message.contains(word), "`{message}` does not say `{word}`: {self:#?}");
        }
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "no hint: {self:#?}");
        problem.clone()
    }
}
