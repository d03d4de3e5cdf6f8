//! The errors that peers and people met, for `status`: the last of each code and place, with how often.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::control::ErrorRow;

/// Most different errors that are remembered; the one that was quiet longest goes.
const ERRORS_MAX: usize = 64;

/// The errors since the start.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    code: String,
    message: String,
    whom: String,
    last: Instant,
    count: u64,
}

impl Journal {
    /// Remembers that `whom` met this error.
    pub fn note(&self, code: &str, message: &str, whom: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.code == code && entry.whom == whom) {
            message.clone_into(&mut entry.message);
            entry.last = now;
            entry.count += 1;
            return;
        }
        if entries.len() >= ERRORS_MAX
            && let Some((oldest, _)) = entries.iter().enumerate().min_by_key(|(_, entry)| entry.last)
        {
            entries.swap_remove(oldest);
        }
        entries.push(Entry {
            code: code.to_owned(),
            message: message.to_owned(),
            whom: whom.to_owned(),
            last: now,
            count: 1,
        });
    }

    /// The errors, newest first.
    pub fn rows(&self) -> Vec<ErrorRow> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = entries
            .iter()
            .map(|entry| ErrorRow {
                code: entry.code.clone(),
                message: entry.message.clone(),
                whom: entry.whom.clone(),
                ago_s: entry.last.elapsed().as_secs(),
                count: entry.count,
            })
            .collect();
        rows.sort_by_key(|row| row.ago_s);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_repeats_and_stays_bounded() {
        let journal = Journal::default();
        for _ in 0..3 {
            journal.note("HW-1", "again", "cam");
        }
        assert_eq!(journal.rows()[0].count, 3);
        for n in 0..2 * ERRORS_MAX {
            journal.note("HW-2", "other", &n.to_string());
        }
        assert_eq!(journal.rows().len(), ERRORS_MAX);
    }
}
