//! Telling the core which versions have the files that were freed here, so that it drops none of their bytes without a word.
//!
//! What it has noted is known for one session only: a core whose catalog came back from a backup is told again.

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::VersionId;

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, CatalogError, DatasetId, DatasetRow, VersionRow};
use crate::session::Connected;

/// What the core must know of one dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) struct FreedWord {
    /// The newest version that has what was freed here and left the dataset since.
    left: Option<VersionId>,
    /// The newest committed version, if files of it are freed.
    committed: Option<VersionId>,
    /// It has all that was freed of versions from this number on.
    since: u64,
}

/// Tells the core, if bytes of this dataset are freed and it has not noted that in this session: what was freed without a
/// session, and what a new version has now instead of the last.
pub(super) async fn tell(agent: &Agent, connected: &Connected, row: &DatasetRow) -> Result<(), CodedError> {
    let (catalog, id) = (agent.catalog(), row.id);
    let look = move || match catalog.committed(id)? {
        Some(committed) => Ok(Some(word(&catalog, id, &committed, catalog.freed_count(id)? > 0)?)),
        None => Ok(None),
    };
    let Some(word) = blocking(look).await? else { return Ok(()) };
    if !say(connected, row, word).await? {
        tracing::debug!(dataset = row.name, "the core does not know the version that has what was freed");
    }
    Ok(())
}

/// Tells the core before bytes of files that `committed` has are removed. An error if it has not noted that: without its note
/// bytes go only where the session has ended, because the receipt is good without it and the next session tells.
pub(crate) async fn announce(
    agent: &Agent,
    connected: &Connected,
    row: &DatasetRow,
    committed: &VersionRow,
) -> Result<(), CodedError> {
    let (catalog, id, version) = (agent.catalog(), row.id, committed.clone());
    let word = blocking(move || Ok(word(&catalog, id, &version, true)?)).await?;
    let said = say(connected, row, word).await;
    may_go(&row.name, committed.number, said, connected.link.has_ended())
}

/// Whether bytes may go after the core was told: what it said, and whether the session has ended.
fn may_go(dataset: &str, number: u64, said: Result<bool, CodedError>, has_ended: bool) -> Result<(), CodedError> {
    let reason = match said {
        Ok(true) => return Ok(()),
        Ok(false) => format!("the core does not have its version {number}"),
        Err(error) if has_ended => {
            tracing::debug!(%error, dataset, "the core hears of freed files at the next session");
            return Ok(());
        }
        Err(error) => format!("the core has not noted it: {error}"),
    };
    Err(CodedError::new(&codes::LAST_COPY, format!("no file of `{dataset}` can be freed: {reason}"))
        .with_hint("see with `edge-agent status` whether the core answers, and try again when the dataset is in sync"))
}

fn word(
    catalog: &Catalog,
    dataset: DatasetId,
    committed: &VersionRow,
    has_freed: bool,
) -> Result<FreedWord, CatalogError> {
    let known = if has_freed {
        Some(catalog.begin_freed_since(dataset, committed.number)?)
    } else {
        catalog.freed_since(dataset)?
    };
    let (since, left) = known.map_or((committed.number, None), |known| (known.since, known.left));
    Ok(FreedWord { left, committed: has_freed.then_some(committed.version), since })
}

/// Says what this session has not heard yet. False if the core does not have the committed version.
async fn say(connected: &Connected, row: &DatasetRow, word: FreedWord) -> Result<bool, CodedError> {
    if connected.has_heard(&row.name, &word) {
        return Ok(true);
    }
    // First what is in no later version: once the core has dropped it, on a person's word, it has nothing to note.
    if let Some(left) = word.left {
        connected.link.freed(&row.name, left, word.since).await?;
    }
    if let Some(committed) = word.committed
        && !connected.link.freed(&row.name, committed, word.since).await?
    {
        return Ok(false);
    }
    connected.set_heard(&row.name, word);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_only_once_noted_or_without_a_session() {
        let silent = || Err(CodedError::new(&codes::CORE_UNREACHABLE, "the core does not answer any more"));
        assert!(may_go("cam", 3, Ok(true), false).is_ok());
        assert!(may_go("cam", 3, silent(), true).is_ok());
        for said in [Ok(false), silent()] {
            let error = may_go("cam", 3, said, false).expect_err("the file must stay");
            assert!(error.is(&codes::LAST_COPY) && !error.hint.is_empty(), "{error:?}");
        }
        assert!(may_go("cam", 3, Ok(false), true).is_err(), "what the core said counts, however the session went on");
    }
}
