//! Events and notes in SQLite.

use rusqlite::{OptionalExtension, params};

use super::{SqliteCatalog, odd};
use crate::catalog::events::EVENTS_MAX;
use crate::catalog::{CatalogError, Event, EventLog, EventRecord, EventSeverity, UnixMs};

impl EventLog for SqliteCatalog {
    fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        self.write("note an event", |tx| {
            tx.execute(
                "INSERT INTO event (at, severity, kind, subject, message) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![event.at.0 as i64, event.severity as u8, event.kind, event.subject, event.message],
            )?;
            tx.execute("DELETE FROM event WHERE number <= ?1", [tx.last_insert_rowid() - EVENTS_MAX as i64])?;
            Ok(())
        })
    }

    fn events(
        &self,
        subject: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CatalogError> {
        let before = before.map_or(i64::MAX, |number| number as i64);
        self.read("list events", |tx| {
            let filter = if subject.is_some() { "subject = ?1" } else { "?1 IS NULL" };
            let mut statement = tx.prepare_cached(&format!(
                "SELECT number, at, severity, kind, subject, message FROM event
                 WHERE {filter} AND number < ?2 ORDER BY number DESC LIMIT ?3"
            ))?;
            let rows = statement.query_map(params![subject, before, limit as i64], |row| {
                let severity = match row.get::<_, u8>(2)? {
                    0 => EventSeverity::Info,
                    1 => EventSeverity::Warning,
                    2 => EventSeverity::Error,
                    _ => return Err(odd(2, "no severity")),
                };
                let at = UnixMs(row.get::<_, i64>(1)? as u64);
                let event = Event { at, severity, kind: row.get(3)?, subject: row.get(4)?, message: row.get(5)? };
                Ok(EventRecord { number: row.get::<_, i64>(0)? as u64, event })
            })?;
            rows.collect()
        })
    }

    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        self.read("read a note", |tx| {
            tx.query_row("SELECT value FROM note WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
    }

    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.write("write a note", |tx| {
            tx.execute("INSERT OR REPLACE INTO note (key, value) VALUES (?1, ?2)", params![key, value])?;
            Ok(())
        })
    }
}
