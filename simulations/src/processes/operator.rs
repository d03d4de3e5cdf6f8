//! Somebody who asks a core from elsewhere.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{CoreProcess, Said, run};

/// Somebody with an identity of his own, who asks a core over the network.
#[derive(Debug)]
pub struct Operator<'a> {
    core: &'a CoreProcess,
    identity: PathBuf,
}

impl<'a> Operator<'a> {
    /// Gets an identity with a token made with `arguments`.
    #[track_caller]
    pub fn login(core: &'a CoreProcess, name: &str, arguments: &[&str]) -> Self {
        let identity = core.scratch().join(name);
        let token = core.token(arguments);
        let said = core.ask(&["login", &token, "--name", name, "--identity", identity.to_str().expect("text")]);
        assert_eq!((&said["name"], &said["identity"]), (&json!(name), &json!(identity)));
        Self { core, identity }
    }

    /// Runs a command.
    pub fn says(&self, arguments: &[&str]) -> Said {
        let address = self.core.address().to_string();
        let far = ["--core", &address, "--identity", self.identity.to_str().expect("text")];
        run(self.core.command(&[&far, arguments].concat()))
    }

    /// The documents with which a command answers.
    #[track_caller]
    pub fn list(&self, arguments: &[&str]) -> Vec<Value> {
        self.says(&[arguments, &["--json"]].concat()).success().documents()
    }
}
