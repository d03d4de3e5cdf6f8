//! Import: a folder on this machine becomes the next version of a dataset, whose writer is the token's identity.
//!
//! The folder is scanned as an agent would scan it, on top of the version before, whose pages come from the core. What the core
//! lacks is sent as an agent sends it, so a cut costs what was under way, and an import that is begun again sends only what is
//! missing. Nothing is kept here but the stamps of the files, which may be lost.

mod folder;
mod pages;
mod parent;
mod send;

use std::path::PathBuf;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::version::{BuildReport, PublishMode};
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::DatasetName;
use headwater_protocol::samples::Rule;
use headwater_quic::Identity;
use headwater_quic::transfer::{DestinationError, SourceError, TransferError};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::Options;
use crate::control::{Control, identity_of};
use crate::retry::Retry;
use folder::Built;
use pages::Pages;
use send::Sent;

/// How often the folder is read before the import gives up because files change while they are sent.
const BUILDS_MAX: u32 = 3;

/// How a folder is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// The folder.
    pub folder: PathBuf,
    /// The dataset that it becomes.
    pub dataset: String,
    /// What it means that a file of the version before is gone from the folder.
    pub mode: PublishMode,
    /// What its samples are from now on, as `core-node dataset samples` spells it; none leaves that as it is.
    pub samples: Option<String>,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportProgress {
    /// The folder is read.
    Reading {
        /// Paths looked at.
        paths: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// The version is sent.
    Sending {
        /// Bytes of its files that are at the core.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
}

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The number of the dataset's newest version.
    pub number: u64,
    /// Whether the import made it; else the folder was as it is.
    pub is_new: bool,
    /// Its id.
    pub version: VersionId,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its samples, if the import says what they are.
    pub samples: Option<u64>,
    /// Payload that travelled.
    pub wire_bytes: u64,
    /// What the scan found.
    pub report: BuildReport,
}

/// Makes the next version of a dataset from a folder, with a token of the role `writer`. `told` hears how far it is, and must
/// not block. A core that goes away is waited for, as reads do.
pub async fn import(
    options: &Options,
    import: &Import,
    told: impl Fn(ImportProgress) + Send + Sync + 'static,
) -> Result<Imported, CodedError> {
    let name = DatasetName::new(import.dataset.as_str())
        .map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    if let Some(rule) = &import.samples {
        Rule::parse(rule).map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
    }
    if !import.folder.is_dir() {
        return Err(CodedError::new(&codes::FOLDER_MISSING, format!("`{}` is no folder", import.folder.display()))
            .with_hint("give the path of a folder on this machine"));
    }
    let identity = Arc::new(identity_of(&options.token).await?);
    let control = Arc::new(Control::open(&options.token.addresses, &identity).await?);
    let importer = Importer {
        options,
        identity,
        control: Mutex::new(control),
        import,
        name,
        told: Arc::new(told),
        pages: Arc::default(),
    };
    let imported = Box::pin(importer.run()).await;
    importer.control.into_inner().close().await;
    imported
}

/// One import.
struct Importer<'a> {
    options: &'a Options,
    identity: Arc<Identity>,
    /// The last session that was opened.
    control: Mutex<Arc<Control>>,
    import: &'a Import,
    name: DatasetName,
    told: Arc<dyn Fn(ImportProgress) + Send + Sync>,
    /// Of the version before and of those that are built.
    pages: Arc<Pages>,
}

/// A version at the core, on which the next one follows.
#[derive(Clone, Debug)]
struct Before {
    number: u64,
    id: VersionId,
    manifest: Manifest,
}

impl Importer<'_> {
    async fn run(&self) -> Result<Imported, CodedError> {
        let (number, parent) = self.next().await?;
        let before = match parent {
            Some(parent) => Some(Arc::new(self.before(parent).await?)),
            None => None,
        };
        for _ in 0..BUILDS_MAX {
            let (built, report) = self.build(before.clone()).await?;
            let Built { version, stamps } = built;
            let (id, version, number, wire_bytes, is_new) = match (version, &before) {
                (Some(version), None) if version.manifest.root.is_none() => return Err(self.nothing()),
                (Some(version), _) => match self.send(&version, before.as_deref(), number).await? {
                    Sent::Committed { wire_bytes } => (version.id, version.manifest, number, wire_bytes, true),
                    Sent::Changed(reason) => {
                        tracing::info!(reason, "a file changed while it was sent; the folder is read again");
                        continue;
                    }
                },
                (None, Some(before)) => (before.id, before.manifest.clone(), before.number, 0, false),
                (None, None) => return Err(self.nothing()),
            };
            self.keep(stamps, &version).await;
            let (totals, samples) = (version.totals(), self.read_as().await?);
            return Ok(Imported {
                number,
                is_new,
                version: id,
                files: totals.files,
                bytes: totals.bytes,
                samples,
                wire_bytes,
                report,
            });
        }
        let said = format!("files of `{}` change while they are sent", self.import.folder.display());
        Err(CodedError::new(&codes::FILE_CHANGED, said).with_hint("import the folder when nothing writes there"))
    }

    /// Asks the core, before anything is read, whether this may be; the number of the version, and what it follows on.
    async fn next(&self) -> Result<(u64, Option<(u64, VersionId)>), CodedError> {
        let mut fields = self.ask(json!({ "command": "dataset-next", "dataset": self.import.dataset })).await?;
        let bad = || CodedError::new(&codes::BAD_FRAME, "the core's answer about the dataset can't be used");
        let number = fields["number"].as_u64().ok_or_else(bad)?;
        let parent = match fields["parent"].take() {
            Value::Null => None,
            id => Some((
                fields["parent_number"].as_u64().ok_or_else(bad)?,
                id.as_str().and_then(|id| id.parse().ok()).ok_or_else(bad)?,
            )),
        };
        Ok((number, parent))
    }

    /// Says what the samples are, if that was asked for; how many there are then.
    async fn read_as(&self) -> Result<Option<u64>, CodedError> {
        let Some(rule) = &self.import.samples else { return Ok(None) };
        let request = json!({ "command": "dataset-samples", "dataset": self.import.dataset, "rule": rule });
        Ok(self.ask(request).await?["samples"].as_u64())
    }

    /// The fields of a command's answer.
    async fn ask(&self, request: Value) -> Result<Value, CodedError> {
        let mut fields = Value::Null;
        let control = self.control().await?;
        control.command(&request, |mut part| fields = part["value"]["fields"].take()).await?;
        Ok(fields)
    }

    /// The live session, made anew where the last one has ended.
    async fn control(&self) -> Result<Arc<Control>, CodedError> {
        let mut control = self.control.lock().await;
        let mut retry = Retry::new(self.options.reconnect_for);
        while let Some(why) = control.why_ended() {
            tracing::info!(why, "the session with the core is made again");
            match Control::open(&self.options.token.addresses, &self.identity).await {
                Ok(opened) => *control = Arc::new(opened),
                Err(error) => retry.wait_out(error).await?,
            }
        }
        Ok(control.clone())
    }

    fn nothing(&self) -> CodedError {
        let said = format!("`{}` has no file that can be imported", self.import.folder.display());
        CodedError::new(&codes::FOLDER_MISSING, said)
    }
}

/// Why a transfer came to nothing, for whoever imports.
fn ended(error: TransferError) -> CodedError {
    match error {
        TransferError::Refused(refusal) | TransferError::Destination(DestinationError::Refused(refusal)) => {
            let error = CodedError::from(refusal);
            if error.is(&codes::DISK_FULL) {
                return error.with_hint("have space freed on the core, and import again: only what is missing is sent");
            }
            error
        }
        TransferError::Disconnected(_) | TransferError::Stalled(_) | TransferError::Withdrawn => {
            CodedError::new(&codes::SESSION_ENDED, format!("the import was cut too often: {error}"))
                .with_hint("import again: only what is missing is sent")
        }
        TransferError::Source { source: SourceError::Io(_), .. } => {
            CodedError::new(&codes::READ_FAILED, error.to_string()).with_source(error)
        }
        other => {
            CodedError::new(&codes::BAD_FRAME, format!("the core broke off the import: {other}")).with_source(other)
        }
    }
}
