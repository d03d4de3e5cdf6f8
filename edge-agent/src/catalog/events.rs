//! What happened, for `log` and `status`, and bytes by reason. Both are bounded.

use rusqlite::{Row, params};

use super::{Catalog, CatalogError};

/// Events kept.
const EVENTS_MAX: i64 = 2000;
/// Every so many events the oldest are dropped.
const TRIM_EVERY: i64 = 100;

/// How much an event matters to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLevel {
    /// Something went as it should.
    Info,
    /// Something that a person may want to change.
    Warn,
    /// Something that a person must look at.
    Error,
}

impl EventLevel {
    /// The level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Its number; rises.
    pub id: i64,
    /// When, by the device's clock, in seconds since the Unix epoch. For people only.
    pub at_s: i64,
    /// How much it matters.
    pub level: EventLevel,
    /// An error code, or empty.
    pub code: String,
    /// The dataset, or empty.
    pub dataset: String,
    /// What happened.
    pub text: String,
}

impl Catalog {
    /// Keeps an event; its `id` is given here.
    pub fn put_event(&self, event: &Event) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("keep an event", source);
        let connection = self.lock();
        connection
            .prepare_cached("INSERT INTO events (at_s, level, code, dataset, text) VALUES (?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut statement| {
                statement.execute(params![event.at_s, event.level.name(), event.code, event.dataset, event.text])
            })
            .map_err(failed)?;
        let newest = connection.last_insert_rowid();
        if newest % TRIM_EVERY == 0 {
            connection.execute("DELETE FROM events WHERE id <= ?1", [newest - EVENTS_MAX]).map_err(failed)?;
        }
        Ok(())
    }

    /// At most `count` of the newest events, oldest first.
    pub fn events(&self, count: u32) -> Result<Vec<Event>, CatalogError> {
        let failed = |source| CatalogError::sql("list events", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT id, at_s, level, code, dataset, text FROM
                 (SELECT * FROM events ORDER BY id DESC LIMIT ?1) ORDER BY id",
            )
            .map_err(failed)?;
        let rows = statement.query_map([count], event_row).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Adds to the bytes that went over the wire for some reasons, or takes back what was counted too much.
    pub fn count_bytes(&self, spent: &[(&str, i64)]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("count bytes", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        for (reason, bytes) in spent.iter().filter(|(_, bytes)| *bytes != 0) {
            transaction
                .execute(
                    "INSERT INTO counters (reason, bytes) VALUES (?1, ?2)
                     ON CONFLICT (reason) DO UPDATE SET bytes = bytes + excluded.bytes",
                    params![reason, bytes],
                )
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Bytes by reason since the catalog was made.
    pub fn counters(&self) -> Result<Vec<(String, u64)>, CatalogError> {
        let failed = |source| CatalogError::sql("read byte counters", source);
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT reason, bytes FROM counters ORDER BY reason").map_err(failed)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    let level: String = row.get(2)?;
    Ok(Event {
        id: row.get(0)?,
        at_s: row.get(1)?,
        level: match level.as_str() {
            "error" => EventLevel::Error,
            "warn" => EventLevel::Warn,
            _ => EventLevel::Info,
        },
        code: row.get(3)?,
        dataset: row.get(4)?,
        text: row.get(5)?,
    })
}
