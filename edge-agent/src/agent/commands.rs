//! What each command does: the same whether the daemon answers or the command itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::federated::RunName;
use headwater_protocol::wire::Refusal;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::Agent;
use crate::catalog::{EventLevel, Role};
use crate::device::Device;
use crate::request::{LogReport, Progress, Request, VerifyReport};
use crate::session::Access;
use crate::session::sync::sync;
use crate::storage::{free, verify};
use crate::training;

/// Most of a program's output that is shown, in bytes.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// How long a sync waits for the daemon to reach the core.
const SESSION_WAIT: Duration = Duration::from_secs(20);

/// Answers a command.
pub(super) async fn answer(agent: &Arc<Agent>, request: Request, reply: ReplySender) -> Result<Value, CodedError> {
    match request {
        Request::Join { token, core, name } => {
            let joining = crate::session::dial::join(agent, &token, core.as_deref(), name.as_deref());
            let device = Box::pin(joining).await?;
            let card = &device.card;
            Ok(json!({
                "device": card.name,
                "labels": card.labels,
                "core": card.addresses,
                "text": format!("joined the core at {} as `{}`", card.addresses.join(", "), card.name),
            }))
        }
        Request::Sync => {
            // The daemon has one session; a second one beside it would only take its place.
            let access =
                if agent.is_daemon() && agent.device().is_some() { Some(wait_for_session(agent)) } else { None };
            to_value(Box::pin(sync(agent, access, reply)).await)
        }
        Request::Publish { folder, dataset, options } => {
            let text = format!("`{}` is published as `{}`", folder.display(), dataset.as_str());
            let name = dataset.as_str().to_owned();
            blocking(agent, move |agent| agent.add_publish(folder, dataset, &options)).await?;
            Ok(json!({ "dataset": name, "text": text }))
        }
        Request::Subscribe { dataset, to, keep } => {
            let text = format!("`{dataset}` comes to `{}`", to.display());
            let name = dataset.clone();
            blocking(agent, move |agent| agent.add_subscribe(&name, to, keep)).await?;
            Ok(json!({ "dataset": dataset, "text": text }))
        }
        Request::Local { folder, dataset } => {
            let text = format!("`{}` is kept as `{dataset}`, on this device alone", folder.display());
            let name = dataset.clone();
            blocking(agent, move |agent| agent.add_local(folder, &name)).await?;
            Ok(json!({ "dataset": dataset, "text": text }))
        }
        Request::Remove { dataset } => {
            let name = dataset.clone();
            blocking(agent, move |agent| agent.remove(&name)).await?;
            Ok(json!({ "dataset": dataset, "text": format!("`{dataset}` is removed; its files stay") }))
        }
        Request::Delete { dataset, paths } => {
            let folder = agent.folder(&dataset)?;
            let _mine = have(agent, folder.dataset.as_str(), &folder.path, &reply).await;
            let work = || {
                let (folder, paths) = (folder.clone(), paths.clone());
                blocking(agent, move |agent| free::delete(agent, &folder, &paths))
            };
            let count = agent.healing(work).await?;
            Ok(
                json!({ "dataset": dataset, "paths": count, "text": format!("{count} paths leave `{dataset}` with its next version") }),
            )
        }
        Request::Free { dataset, paths } => {
            let folder = agent.folder(&dataset)?;
            let _mine = have(agent, folder.dataset.as_str(), &folder.path, &reply).await;
            let work = || async {
                let (folder, paths) = (folder.clone(), paths.clone());
                let covered = blocking(agent, move |agent| free::covered_version(agent, &folder)).await?;
                free::announce(agent, &covered).await?;
                blocking(agent, move |agent| free::free(agent, &covered, &paths)).await
            };
            to_value(agent.healing(work).await?)
        }
        Request::Status => to_value(agent.healing(|| blocking(agent, |agent| agent.status())).await?),
        Request::Log { count } => {
            let read = || blocking(agent, move |agent| Ok(agent.events(count)?));
            to_value(LogReport { events: agent.healing(read).await? })
        }
        Request::Verify => to_value(verify(agent, &reply).await?),
        Request::TrainingList => to_value(agent.training().reports()),
        Request::TrainingLog { run } => {
            let name = run_name(&run)?;
            let text = blocking(agent, move |agent| {
                training::log_of(agent.data(), &name, LOG_BYTES_MAX).map_err(|error| {
                    CodedError::io(&codes::READ_FAILED, format!("there is no output of a program of `{name}`"), error)
                })
            });
            let text = text.await?;
            Ok(json!({ "run": run, "text": text.trim_end() }))
        }
        Request::TrainingAbort { run } => {
            if !agent.training().abort(run_name(&run)?.as_str()) {
                return Err(CodedError::new(&codes::NOT_FOUND, format!("no task of the run `{run}` goes on here"))
                    .with_hint("see `edge-agent training list`"));
            }
            let text = format!("nothing more is done for the task of `{run}`; the core is told");
            Ok(json!({ "run": run, "text": text }))
        }
        Request::Leave => leave(agent).await,
    }
}

fn run_name(run: &str) -> Result<RunName, CodedError> {
    RunName::new(run).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))
}

/// Reads everything again, dataset by dataset.
async fn verify(agent: &Arc<Agent>, reply: &ReplySender) -> Result<VerifyReport, CodedError> {
    let mut report = blocking(agent, verify::verify_catalog).await?;
    for row in blocking(agent, |agent| Ok(agent.datasets()?)).await? {
        let _mine = have(agent, &row.name, &row.folder, reply).await;
        report = blocking(agent, move |agent| {
            verify::verify_dataset(agent, &row, &mut report)?;
            Ok(report)
        })
        .await?;
    }
    Ok(report)
}

/// Waits until a dataset is free, and says so if it isn't.
async fn have(agent: &Agent, dataset: &str, folder: &Path, reply: &ReplySender) -> OwnedMutexGuard<()> {
    if let Some(mine) = agent.try_have(dataset, folder) {
        return mine;
    }
    reply.try_progress(Progress::Note {
        text: format!("`{dataset}` is busy; this waits until its scan or fetch is done"),
    });
    agent.have(dataset, folder).await
}

async fn leave(agent: &Arc<Agent>) -> Result<Value, CodedError> {
    let device = agent.joined()?;
    blocking(agent, |agent| Device::leave(agent.data())).await?;
    // First, so that no new session begins as this device when the one there is ends.
    agent.set_device(None);
    if let Some(connected) = agent.link().borrow().connected.clone() {
        connected.link.close("the device leaves");
    }
    // What the old core acknowledged means nothing to another one.
    for row in blocking(agent, |agent| Ok(agent.catalog().datasets()?)).await? {
        if row.role == Role::Local {
            continue;
        }
        let _round = agent.have_round(&row.name, &row.folder).await;
        let _mine = agent.have(&row.name, &row.folder).await;
        blocking(agent, move |agent| Ok(agent.catalog().forget_dataset(row.id)?)).await?;
    }
    let text = format!("`{}` has left its core; files and folder settings stay", device.card.name);
    agent.note(EventLevel::Info, "", "", text.clone());
    Ok(json!({ "device": device.card.name, "text": text }))
}

/// The daemon's session, or the next one: the link is told to try at once.
fn wait_for_session(agent: &Arc<Agent>) -> Access {
    if let Some(access) = agent.current_access() {
        return access;
    }
    let agent = Arc::clone(agent);
    Access::new(async move {
        crate::link::admit(&agent).await?;
        agent.look_again();
        let mut link = agent.link().subscribe();
        let waited =
            link.wait_for(|state| state.refused || state.connected.as_ref().is_some_and(|now| !now.link.has_ended()));
        let connected = match tokio::time::timeout(SESSION_WAIT, waited).await {
            Ok(Ok(state)) => state.connected.clone(),
            _ => None,
        };
        connected.ok_or_else(|| match agent.link().borrow().problem.clone() {
            Some(problem) => Refusal { code: problem.code, message: problem.message, hint: problem.hint }.into(),
            None => CodedError::new(&codes::CORE_UNREACHABLE, "there is no session with the core"),
        })
    })
}

impl Agent {
    /// The daemon's session, if it has one.
    pub fn current_access(&self) -> Option<Access> {
        self.link().borrow().connected.clone().filter(|connected| !connected.link.has_ended()).map(Access::ready)
    }
}

async fn blocking<T: Send + 'static>(
    agent: &Arc<Agent>,
    work: impl FnOnce(&Arc<Agent>) -> Result<T, CodedError> + Send + 'static,
) -> Result<T, CodedError> {
    let agent = Arc::clone(agent);
    crate::blocking::blocking(move || work(&agent)).await
}

fn to_value(answer: impl serde::Serialize) -> Result<Value, CodedError> {
    serde_json::to_value(answer)
        .map_err(|error| CodedError::new(&codes::INTERNAL, "the answer can't be written down").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::collect::Collector;
    use crate::session::publish::{Rounds, publish};

    /// How long a thing that must not wait may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    // One thread: what blocks it stops everything.
    #[tokio::test]
    async fn a_catalog_in_use_keeps_nobody_waiting_who_does_not_need_it() {
        let data = tempfile::tempdir().expect("a folder");
        let agent = Agent::open(data.path(), None).expect("opened");
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel();
        let busy = {
            let catalog = agent.catalog();
            std::thread::spawn(move || catalog.occupy(&begun, &stopped, PATIENCE))
        };
        has_begun.recv().expect("begun");
        let asking = [Request::Status, Request::Log { count: 1 }, Request::Verify].map(|request| {
            let agent = Arc::clone(&agent);
            tokio::spawn(async move { answer(&agent, request, ReplySender::ignored()).await })
        });
        agent.note(EventLevel::Info, "", "", "something happened");
        let collector = Collector::new(ReplySender::ignored());
        collector.with(|report| report.wire.wasted = 7);
        crate::session::sync::count_wire(&agent, &collector);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = stop.send(());
        assert!(busy.join().expect("ended"), "everything waited for the catalog");
        for asking in asking {
            tokio::time::timeout(PATIENCE, asking).await.expect("in time").expect("ran").expect("answered");
        }
        assert!(agent.status().expect("a status").wire_bytes.contains(&("received in vain".to_owned(), 7)));
        assert_eq!(agent.events(1).expect("read")[0].text, "something happened");
    }

    #[tokio::test]
    async fn a_running_transfer_keeps_no_command_waiting() {
        let root = tempfile::tempdir().expect("a folder");
        let (files, data) = (root.path().join("files"), root.path().join("agent"));
        std::fs::create_dir_all(&files).expect("made");
        std::fs::create_dir_all(&data).expect("made");
        std::fs::write(files.join("a"), "a").expect("written");
        let agent = Agent::open(&data, None).expect("opened");
        let name = headwater_protocol::name::NameTemplate::new("data").expect("a name");
        agent.add_publish(files.clone(), name, &crate::settings::PublishOptions::default()).expect("added");
        let folder = agent.folder("data").expect("configured");
        // A core that never answers stands for a transfer that takes its time.
        let round = tokio::spawn({
            let (agent, folder) = (Arc::clone(&agent), folder.clone());
            async move {
                let access = Access::new(std::future::pending());
                let collector = Collector::new(ReplySender::ignored());
                publish(&agent, &folder, Some(&access), Rounds { settle: false }, &collector).await
            }
        });
        while tokio::time::timeout(Duration::from_millis(20), agent.have_round("data", &files)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let request = Request::Delete { dataset: "data".to_owned(), paths: vec!["a".to_owned()] };
        let answered = tokio::time::timeout(PATIENCE, answer(&agent, request, ReplySender::ignored())).await;
        assert_eq!(answered.expect("in time").expect("deleted")["paths"], 1);
        assert!(!round.is_finished() && !files.join("a").exists());
        round.abort();
    }
}
