//! What each command does: the same whether the daemon answers or the command itself.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::wire::Refusal;
use serde_json::{Value, json};

use super::Agent;
use crate::catalog::EventLevel;
use crate::device::Device;
use crate::request::{LogReport, Request};
use crate::session::Access;
use crate::session::sync::sync;
use crate::storage::{free, verify};

/// How long a sync waits for the daemon to reach the core.
const SESSION_WAIT: Duration = Duration::from_secs(20);

/// Answers a command.
pub(super) async fn answer(agent: &Arc<Agent>, request: Request, reply: ReplySender) -> Result<Value, CodedError> {
    match request {
        Request::Join { token, name } => {
            let device = Box::pin(crate::session::dial::join(agent, &token, name.as_deref())).await?;
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
        Request::Publish { folder, dataset, mode, every } => {
            let text = format!("`{}` is published as `{dataset}`", folder.display());
            agent.add_publish(folder, &dataset, mode, every)?;
            Ok(json!({ "dataset": dataset, "text": text }))
        }
        Request::Subscribe { dataset, to, keep } => {
            let text = format!("`{dataset}` comes to `{}`", to.display());
            agent.add_subscribe(&dataset, to, keep)?;
            Ok(json!({ "dataset": dataset, "text": text }))
        }
        Request::Local { folder, dataset } => {
            let text = format!("`{}` is kept as `{dataset}`, on this device alone", folder.display());
            agent.add_local(folder, &dataset)?;
            Ok(json!({ "dataset": dataset, "text": text }))
        }
        Request::Remove { dataset } => {
            agent.remove(&dataset)?;
            Ok(json!({ "dataset": dataset, "text": format!("`{dataset}` is removed; its files stay") }))
        }
        Request::Delete { dataset, paths } => {
            let _mine = agent.have(&dataset).await;
            let work = || async {
                blocking(agent, {
                    let (dataset, paths) = (dataset.clone(), paths.clone());
                    move |agent| free::delete(agent, &dataset, &paths)
                })
                .await
            };
            let count = agent.healing(work).await?;
            Ok(
                json!({ "dataset": dataset, "paths": count, "text": format!("{count} paths leave `{dataset}` with its next version") }),
            )
        }
        Request::Free { dataset, paths } => {
            let _mine = agent.have(&dataset).await;
            let work = || async {
                blocking(agent, {
                    let (dataset, paths) = (dataset.clone(), paths.clone());
                    move |agent| free::free(agent, &dataset, &paths)
                })
                .await
            };
            to_value(agent.healing(work).await?)
        }
        Request::Status => to_value(agent.healing(|| async { agent.status() }).await?),
        Request::Log { after, count } => {
            to_value(LogReport { events: agent.healing(|| async { Ok(agent.catalog().events(after, count)?) }).await? })
        }
        Request::Verify => to_value(blocking(agent, verify::verify).await?),
        Request::Leave => leave(agent),
    }
}

fn leave(agent: &Arc<Agent>) -> Result<Value, CodedError> {
    let device = agent.joined()?;
    if let Some(connected) = agent.link().borrow().connected.clone() {
        connected.link.close("the device leaves");
    }
    Device::leave(agent.data())?;
    agent.set_device(None);
    // What the old core acknowledged means nothing to another one.
    for row in agent.catalog().datasets()? {
        if row.role != crate::catalog::Role::Local {
            agent.catalog().forget_dataset(row.id)?;
        }
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
        agent.look_again();
        let mut link = agent.link().subscribe();
        let waited = link.wait_for(|state| state.connected.as_ref().is_some_and(|now| !now.link.has_ended()));
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
    tokio::task::spawn_blocking(move || work(&agent))
        .await
        .map_err(|error| CodedError::new(&codes::INTERNAL, "a command failed").with_source(error))?
}

fn to_value(answer: impl serde::Serialize) -> Result<Value, CodedError> {
    serde_json::to_value(answer)
        .map_err(|error| CodedError::new(&codes::INTERNAL, "the answer can't be written down").with_source(error))
}
