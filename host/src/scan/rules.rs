//! Ignore rules: those of the configuration, and those of the files on the way down to a folder.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::options::IGNORE_FILE;
use crate::beneath;

/// Longest file of ignore rules that is read, in bytes.
const RULES_BYTES_MAX: u64 = 1 << 20;
const GITIGNORE_FILE: &str = ".gitignore";

/// The rules that hold in a folder. Cheap to clone: folders without rules of their own share those of their parent.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    configured: Option<Arc<Gitignore>>,
    innermost: Option<Arc<FolderRules>>,
}

#[derive(Debug)]
struct FolderRules {
    /// Length of the folder's path with its closing slash; 0 for the root.
    prefix_bytes: usize,
    rules: Gitignore,
    outer: Option<Arc<FolderRules>>,
}

/// Checks one ignore rule.
pub fn check_rule(rule: &str) -> Result<(), ignore::Error> {
    let mut builder = GitignoreBuilder::new("");
    builder.add_line(None, rule)?;
    builder.build().map(|_| ())
}

/// Lines that are no rules.
pub(super) type Complaints = Vec<String>;

impl Rules {
    /// The rules of the configuration.
    pub(super) fn configured(lines: &[String], complaints: &mut Complaints) -> Self {
        if lines.is_empty() {
            return Self::default();
        }
        let text = lines.join("\n");
        Self { configured: compile("configuration", &text, complaints).map(Arc::new), innermost: None }
    }

    /// These rules and those of the folder that is open as `folder`; its path with its closing slash has `prefix` bytes.
    pub(super) fn enter(
        &self,
        folder: BorrowedFd<'_>,
        prefix: &[u8],
        gitignore: bool,
        complaints: &mut Complaints,
    ) -> Self {
        let names: &[&str] = if gitignore { &[GITIGNORE_FILE, IGNORE_FILE] } else { &[IGNORE_FILE] };
        let mut entered = self.clone();
        for name in names {
            let shown = format!("{}{name}", String::from_utf8_lossy(prefix));
            let Some(text) = read(folder, name, &shown, complaints) else { continue };
            if let Some(rules) = compile(&shown, &text, complaints) {
                let outer = entered.innermost.take();
                entered.innermost = Some(Arc::new(FolderRules { prefix_bytes: prefix.len(), rules, outer }));
            }
        }
        entered
    }

    /// Whether `path`, in the folder that these rules are of, is to be ignored. The configuration's rules decide first,
    /// then those of the innermost folder that say anything.
    pub(super) fn ignores(&self, path: &[u8], is_folder: bool) -> bool {
        let decide = |rules: &Gitignore, path: &[u8]| {
            let found = rules.matched(Path::new(OsStr::from_bytes(path)), is_folder);
            (!found.is_none()).then(|| found.is_ignore())
        };
        if let Some(decided) = self.configured.as_ref().and_then(|rules| decide(rules, path)) {
            return decided;
        }
        let mut at = self.innermost.as_deref();
        while let Some(folder) = at {
            if let Some(decided) = decide(&folder.rules, &path[folder.prefix_bytes..]) {
                return decided;
            }
            at = folder.outer.as_deref();
        }
        false
    }

    /// Whether there are no rules at all.
    pub(super) fn is_empty(&self) -> bool {
        self.configured.is_none() && self.innermost.is_none()
    }
}

fn read(folder: BorrowedFd<'_>, name: &str, shown: &str, complaints: &mut Complaints) -> Option<String> {
    let file = match beneath::open_file(folder, name.as_bytes()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return None,
        Err(error) => {
            complaints.push(format!("the ignore rules in `{shown}` can't be read: {error}"));
            return None;
        }
    };
    let mut bytes = Vec::new();
    match file.take(RULES_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            complaints.push(format!("the ignore rules in `{shown}` can't be read: {error}"));
            None
        }
    }
}

fn compile(shown: &str, text: &str, complaints: &mut Complaints) -> Option<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    for (number, line) in text.lines().enumerate() {
        if let Err(error) = builder.add_line(Some(PathBuf::from(shown)), line) {
            complaints.push(format!("`{shown}`, line {}: no ignore rule: {error}", number + 1));
        }
    }
    match builder.build() {
        Ok(rules) if rules.is_empty() => None,
        Ok(rules) => Some(rules),
        Err(error) => {
            complaints.push(format!("`{shown}`: {error}"));
            None
        }
    }
}
