//! Sessions with the core: dialling, saying hello, and what goes over one in both directions.

pub mod collect;
pub mod dial;
mod incoming;
pub mod link;
pub mod publish;
pub mod subscribe;
pub mod sync;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::VersionId;
use headwater_protocol::wire::Following;
use headwater_quic::transfer::{DestinationError, SourceError, TransferError};
use headwater_quic::work;

use crate::catalog::Catalog;
use link::{Heads, Link};
use publish::FreedWord;

/// Where the core stands with one of this device's own datasets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreHead {
    /// This is its newest version.
    Is(Following),
    /// It has none.
    None {
        /// The last number that was used, if the dataset was deleted; else 0.
        last_number: u64,
    },
}

/// A session with what the core said of this device's own datasets at its start, kept up to date since.
pub struct Connected {
    /// The session.
    pub link: Link,
    /// What was asked, and what the core answered.
    heads: Mutex<HashMap<String, CoreHead>>,
    /// What the core has noted of freed files in this session, by dataset.
    freed: Mutex<HashMap<String, FreedWord>>,
}

impl Connected {
    /// Asks for the heads of `datasets`.
    pub async fn new(link: Link, datasets: &[String]) -> Result<Self, CodedError> {
        let connected = Self { link, heads: Mutex::default(), freed: Mutex::default() };
        if !datasets.is_empty() {
            connected.ask_heads(datasets).await?;
        }
        Ok(connected)
    }

    /// The newest version that the core has of one of this device's own datasets. It is asked if it hasn't been in this
    /// session, as for a dataset that was added since: not having asked must never look like the core having nothing.
    pub async fn head(&self, dataset: &str) -> Result<CoreHead, CodedError> {
        let known = self.known().get(dataset).cloned();
        match known {
            Some(head) => Ok(head),
            None => self.ask_head(dataset).await,
        }
    }

    /// Notes a commit that went over this session.
    pub fn set_head(&self, dataset: &str, number: u64, version: VersionId) {
        let head = Following { dataset: dataset.to_owned(), number, version };
        self.known().insert(dataset.to_owned(), CoreHead::Is(head));
    }

    /// Asks the core again.
    pub async fn ask_head(&self, dataset: &str) -> Result<CoreHead, CodedError> {
        self.ask_heads(&[dataset.to_owned()]).await?;
        Ok(self.known().get(dataset).cloned().unwrap_or(CoreHead::None { last_number: 0 }))
    }

    async fn ask_heads(&self, datasets: &[String]) -> Result<(), CodedError> {
        let Heads { heads, ended } = self.link.heads(datasets).await?;
        let mut known = self.known();
        for dataset in datasets {
            let head = heads.iter().find(|head| head.dataset == *dataset).cloned();
            let ended = ended.iter().find(|ended| ended.dataset == *dataset);
            let none = || CoreHead::None { last_number: ended.map_or(0, |ended| ended.number) };
            let head = head.map_or_else(none, CoreHead::Is);
            known.insert(dataset.clone(), head);
        }
        Ok(())
    }

    /// Whether the core has noted just this of the dataset's freed files, in this session.
    fn has_heard(&self, dataset: &str, word: &FreedWord) -> bool {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).get(dataset) == Some(word)
    }

    /// The core has noted this.
    fn set_heard(&self, dataset: &str, word: FreedWord) {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).insert(dataset.to_owned(), word);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, CoreHead>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that is there or being dialled, for several who wait for it.
#[derive(Clone)]
pub struct Access(Shared<BoxFuture<'static, Result<Arc<Connected>, Arc<CodedError>>>>);

impl Access {
    /// The session that `dialling` gives. It runs as a task of its own.
    pub fn new(dialling: impl Future<Output = Result<Arc<Connected>, CodedError>> + Send + 'static) -> Self {
        let task = work::spawn(dialling);
        let dialled = async move {
            match task.await {
                Ok(result) => result.map_err(Arc::new),
                Err(error) => Err(Arc::new(CodedError::new(&codes::INTERNAL, "dialling failed").with_source(error))),
            }
        };
        Self(dialled.boxed().shared())
    }

    /// A session that is there.
    pub fn ready(connected: Arc<Connected>) -> Self {
        Self(futures_util::future::ready(Ok(connected)).boxed().shared())
    }

    /// The session, or why there is none.
    pub async fn connected(&self) -> Result<Arc<Connected>, CodedError> {
        self.0.clone().await.map_err(|error| CodedError {
            code: error.code.clone(),
            message: crate::agent::one_line(&error),
            hint: error.hint.clone(),
            source: None,
        })
    }
}

/// The end of a transfer as an error for people, and, where it shows one, a finding about the catalog.
pub(crate) fn transfer_error(catalog: &Catalog, error: TransferError) -> CodedError {
    let damaged = |error: &(dyn std::error::Error + 'static)| {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref::<crate::catalog::CatalogError>().is_some_and(crate::catalog::CatalogError::is_damage)
            {
                return true;
            }
            cause = error.source();
        }
        false
    };
    if damaged(&error) || catalog.is_suspect() {
        catalog.suspect();
        return CodedError::new(&codes::CATALOG_DAMAGED, error.to_string());
    }
    match error {
        TransferError::Refused(refusal) | TransferError::Destination(DestinationError::Refused(refusal)) => {
            refusal.into()
        }
        TransferError::Disconnected(reason) => {
            CodedError::new(&codes::SESSION_ENDED, format!("the session with the core ended: {reason}"))
        }
        TransferError::Stalled(_) => {
            CodedError::new(&codes::CORE_UNREACHABLE, format!("the core does not go on with a transfer: {error}"))
        }
        TransferError::Violation(violation) => {
            let mut error = CodedError::from(violation.refusal());
            error.message = format!("the core broke the protocol: {violation}");
            error
        }
        TransferError::Source { source: SourceError::OutOfScope, .. } => {
            CodedError::new(&codes::BAD_FRAME, "the core asked for what was not offered")
        }
        TransferError::Source { .. } => CodedError::new(&codes::READ_FAILED, error.to_string()).with_source(error),
        TransferError::Withdrawn => {
            CodedError::new(&codes::SESSION_ENDED, "the core took its version back; it is asked again")
        }
        other => CodedError::new(&codes::WRITE_FAILED, other.to_string()).with_source(other),
    }
}
