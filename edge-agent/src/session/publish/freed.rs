//! Telling the core which version has the files that were freed here, so that it drops none of their bytes without a word.

use headwater_host::error::{CodedError, codes};

use crate::agent::Agent;
use crate::catalog::{DatasetRow, VersionRow};
use crate::session::Connected;
use crate::session::link::Link;

/// Tells the core, if bytes of this dataset are freed and it has not noted that for the newest committed version: what was
/// freed without a session, and what a new version has now instead of the last.
pub(super) async fn tell(agent: &Agent, link: &Link, row: &DatasetRow) -> Result<(), CodedError> {
    let catalog = agent.catalog();
    if catalog.freed_count(row.id)? == 0 {
        return Ok(());
    }
    if let Some(committed) = catalog.committed(row.id)?
        && !note(agent, link, row, &committed).await?
    {
        tracing::debug!(dataset = row.name, "the core does not know the version that has what was freed");
    }
    Ok(())
}

/// Tells the core before bytes of files that `committed` has are removed. An error if it says that it can't answer for them.
pub(crate) async fn announce(
    agent: &Agent,
    connected: &Connected,
    row: &DatasetRow,
    committed: &VersionRow,
) -> Result<(), CodedError> {
    match note(agent, &connected.link, row, committed).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!(
                "no file of `{}` can be freed: the core does not have its version {}",
                row.name, committed.number
            );
            Err(CodedError::new(&codes::LAST_COPY, message))
        }
        // A session that ended just now: the receipt is good without it, and the next session tells.
        Err(error) => {
            tracing::debug!(%error, dataset = row.name, "the core hears of freed files at the next session");
            Ok(())
        }
    }
}

async fn note(agent: &Agent, link: &Link, row: &DatasetRow, committed: &VersionRow) -> Result<bool, CodedError> {
    let catalog = agent.catalog();
    if catalog.freed_noted(row.id)? == Some(committed.version) {
        return Ok(true);
    }
    let noted = link.freed(&row.name, committed.version).await?;
    if noted {
        catalog.set_freed_noted(row.id, &committed.version)?;
    }
    Ok(noted)
}
