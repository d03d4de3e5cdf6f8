//! From a request to its answer: the role is checked here, and each command's work is in a module of its own.
//!
//! The work blocks, so it runs on a blocking thread; its answer leaves in parts through an [`Emitter`].

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_host::control::{ControlHandler, ReplyClosed, ReplySender};
use headwater_host::error::{CodedError, codes, find};
use headwater_protocol::trust::{Principal as Peer, Role};
use headwater_quic::work;
use serde_json::Value;
use tokio::runtime::Handle;

use super::federation::Change;
use super::{
    Answer, Done, Request, collections, datasets, export, federation, housekeeping, import, models, people, select,
    upkeep,
};
use crate::catalog::{CatalogError, DatasetRecord, Deletion};
use crate::core::Core;
use crate::rights::check_request;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What logs call it.
    pub who: String,
    /// Its role.
    pub role: Role,
    /// The identity behind it; none on the local socket, whose users own the data folder.
    pub peer: Option<Peer>,
}

impl Asker {
    /// One on the local socket.
    pub fn local() -> Self {
        Self { who: "local".to_owned(), role: Role::Admin, peer: None }
    }

    /// Whether nothing is hidden from it.
    pub fn sees_all(&self) -> bool {
        self.role == Role::Admin
    }

    /// The datasets that it may know of; none: all.
    pub(super) fn readable_names(&self, core: &Core) -> Result<Option<BTreeSet<String>>, CatalogError> {
        if self.sees_all() {
            return Ok(None);
        }
        let datasets = core.catalog.datasets()?.into_iter();
        Ok(Some(datasets.filter(|dataset| self.may_read(core, dataset)).map(|dataset| dataset.name).collect()))
    }

    /// An error that begins with its code, as this asker may hear it: whole, or the code and what that means.
    pub(super) fn told(&self, error: &str) -> String {
        if self.sees_all() {
            return error.to_owned();
        }
        let code = error.split_whitespace().next().unwrap_or_default();
        find(code).map(|row| format!("{} {}", row.code, row.title)).unwrap_or_default()
    }

    /// Whether it may know of `dataset`.
    pub fn may_read(&self, core: &Core, dataset: &DatasetRecord) -> bool {
        self.peer.as_ref().is_none_or(|peer| core.rights.may_read(peer, dataset))
    }
}

/// Where an answer goes, from a thread that may block.
#[derive(Clone, Debug)]
pub struct Emitter {
    reply: ReplySender,
    runtime: Handle,
}

impl Emitter {
    /// Sends a part of the answer, waiting for a slow reader.
    pub fn send(&self, answer: &Answer) -> Result<(), CodedError> {
        self.runtime.block_on(self.reply.progress(answer)).map_err(|ReplyClosed| gone())
    }

    /// Sends progress if the reader keeps up.
    pub fn progress(&self, progress: super::Progress) {
        self.reply.try_progress(Answer::Progress(progress));
    }

    /// Sends the last word: one sentence, and the same as fields.
    pub fn done(&self, said: impl Into<String>, fields: Value) -> Result<(), CodedError> {
        let fields = match fields {
            Value::Object(fields) => fields.into_iter().collect(),
            _ => std::collections::BTreeMap::new(),
        };
        self.send(&Answer::Done(Done { said: said.into(), fields }))
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.reply.is_closed()
    }
}

fn gone() -> CodedError {
    CodedError::new(&codes::SESSION_ENDED, "the one who asked has gone")
}

/// Answers requests from the local socket.
#[derive(Clone)]
pub struct LocalHandler {
    /// The core.
    pub core: Arc<Core>,
}

impl ControlHandler for LocalHandler {
    fn handle(&self, request: Value, reply: ReplySender) -> BoxFuture<'_, Result<Value, CodedError>> {
        answer(self.core.clone(), Asker::local(), request, reply).map(|done| done.map(|()| Value::Null)).boxed()
    }
}

/// Answers one request of `asker`.
pub async fn answer(core: Arc<Core>, asker: Asker, request: Value, reply: ReplySender) -> Result<(), CodedError> {
    let request: Request = serde_json::from_value(request).map_err(|error| {
        CodedError::new(&codes::BAD_FRAME, format!("this core does not understand the request: {error}"))
            .with_hint("use the command line of the core's own release")
    })?;
    check_request(asker.role, &request)?;
    let emitter = Emitter { reply, runtime: Handle::current() };
    let worked = work::spawn_blocking({
        let core = core.clone();
        move || carry_out(&core, &asker, request, &emitter)
    });
    let result = worked.await.unwrap_or_else(|error| {
        Err(CodedError::new(&codes::INTERNAL, "the core made a mistake with this request").with_source(error))
    });
    if let Err(error) = &result {
        core.metrics.error(&error.code);
    }
    result
}

fn carry_out(core: &Arc<Core>, asker: &Asker, request: Request, out: &Emitter) -> Result<(), CodedError> {
    match request {
        Request::Status => upkeep::status(core, asker, out),
        Request::Doctor => upkeep::doctor(core, out),
        Request::Verify => housekeeping::verify(core, out),
        Request::Gc { last_copy, dry_run } => housekeeping::gc(core, last_copy, dry_run, out),
        Request::TokenCreate(token) => people::create_token(core, token, out),
        Request::TokenList => people::list_tokens(core, out),
        Request::TokenRevoke { id } => people::revoke_token(core, &id, out),
        Request::DeviceList => people::list_devices(core, asker, out),
        Request::DeviceShow { name } => people::show_device(core, asker, &name, out),
        Request::DeviceLabel { name, set, remove } => people::label_device(core, &name, set, &remove, out),
        Request::DeviceRevoke { name } => people::revoke_device(core, &name, out),
        Request::DatasetList { pattern } => datasets::list(core, asker, pattern.as_deref(), out),
        Request::DatasetNext { dataset } => datasets::next_version(core, asker, &dataset, out),
        Request::DatasetShow { version } => datasets::show(core, asker, &version, out),
        Request::DatasetLog { dataset, limit } => datasets::log(core, asker, &dataset, limit, out),
        Request::DatasetFiles { version, under, limit } => datasets::files(core, asker, &version, &under, limit, out),
        Request::DatasetSelect { version, patterns, labels } => {
            select::samples(core, asker, &version, (&patterns, &labels), out)
        }
        Request::DatasetDiff { from, to } => datasets::diff(core, asker, &from, &to, out),
        Request::DatasetExport { version, to } => export::export(core, asker, &version, &to, out),
        Request::DatasetSamples { dataset, rule } => datasets::samples(core, asker, &dataset, rule.as_deref(), out),
        Request::DatasetTag { version, tag } => datasets::tag(core, asker, &version, &tag, out),
        Request::DatasetUntag { dataset, tag } => datasets::untag(core, asker, &dataset, &tag, out),
        Request::DatasetDelete { dataset, last_copy, from_collections } => {
            let with = Deletion { last_copy, collected: from_collections, ..Deletion::default() };
            datasets::delete(core, asker, &dataset, with, out)
        }
        Request::DatasetHandOver { dataset, to } => datasets::hand_over(core, asker, &dataset, to.as_deref(), out),
        Request::DatasetRetention { dataset, keep_last, keep_days, reset } => {
            datasets::retention(core, asker, &dataset, keep_last, keep_days, reset, out)
        }
        Request::CollectionCreate(asked) => collections::create(core, asker, asked, out),
        Request::CollectionDelete { name } => collections::delete(core, asker, &name, out),
        Request::CollectionList => collections::list(core, asker, out),
        Request::CollectionShow { name, number } => collections::show(core, asker, &name, number, out),
        Request::ModelPublish { file, model } => models::publish(core, &file, &model, out),
        Request::ModelList => models::list(core, asker, out),
        Request::ModelShow { version } => models::show(core, asker, &version, out),
        Request::ModelLog { model, limit } => models::log(core, asker, &model, limit, out),
        Request::ModelExport { version, to } => models::export(core, asker, &version, &to, out),
        Request::ModelVerify { version } => models::verify(core, asker, &version, out),
        Request::ModelWithout { version, device, to } => models::without(core, asker, &version, &device, &to, out),
        Request::FederationStart(settings) => federation::start(core, asker, &settings, out),
        Request::FederationStatus { run } => federation::status(core, asker, run.as_deref(), out),
        Request::FederationLog { run } => federation::log(core, asker, &run, out),
        Request::FederationPause { run } => federation::change(core, asker, &run, Change::Pause, out),
        Request::FederationResume { run } => federation::change(core, asker, &run, Change::Resume, out),
        Request::FederationAbort { run } => federation::change(core, asker, &run, Change::Abort, out),
        Request::FederationExplain { run } => federation::explain(core, asker, &run, out),
        Request::Import { folder, dataset, mode, samples } => {
            let rule = samples.as_deref().map(datasets::parse_rule).transpose()?;
            import::import(core, &folder, &dataset, mode, rule.as_ref(), out)
        }
    }
}

/// A failed catalog, as a person meets it.
pub(crate) fn catalog_failed(error: CatalogError) -> CodedError {
    let code = match &error {
        CatalogError::Newer { .. } => &codes::CATALOG_TOO_NEW,
        CatalogError::Full { .. } => &codes::DISK_FULL,
        CatalogError::Damaged { .. } => &codes::CATALOG_DAMAGED,
        CatalogError::Failed { .. } => &codes::CATALOG_FAILED,
    };
    CodedError::new(code, "the core's catalog failed").with_source(error)
}

/// There is no `what` of this name, or one may not know of it.
pub(crate) fn not_found(what: &str, name: &str) -> CodedError {
    CodedError::new(&codes::NOT_FOUND, format!("there is no {what} `{name}`"))
}
