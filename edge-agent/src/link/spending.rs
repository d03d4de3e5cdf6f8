//! What was spent in a month, kept in the catalog so that a restart forgets none of it.
//!
//! A month is what the device believes it to be: each has a count of its own, so a clock that was wrong for a while neither
//! gives anything back nor takes anything from the month that it really was.

use super::policy::Month;
use crate::catalog::{Catalog, CatalogError};

/// The count in the catalog runs so far ahead: a process that is killed has then counted too much, never too little.
const AHEAD_BYTES: u64 = 1 << 20;

/// Counts the bytes of one process.
#[derive(Debug, Default)]
pub(super) struct Spending {
    month: Option<Month>,
    spent_bytes: u64,
    /// What the catalog says.
    kept_bytes: u64,
    /// What had gone over the sockets when it was last counted.
    counted_bytes: u64,
    /// The process ends: what is kept stays exact from now on, whoever still looks.
    is_ending: bool,
}

impl Spending {
    /// Counts what has travelled since the last time to `month`, and gives what was spent in it.
    pub(super) fn count(&mut self, catalog: &Catalog, month: Month, travelled_bytes: u64) -> Result<u64, CatalogError> {
        if self.month != Some(month) {
            self.keep_exactly(catalog)?;
            let known_bytes = kept(catalog, month)?;
            (self.month, self.spent_bytes, self.kept_bytes) = (Some(month), known_bytes, known_bytes);
        }
        self.add(travelled_bytes);
        if self.is_ending {
            self.keep_exactly(catalog)?;
        } else if self.spent_bytes > self.kept_bytes.saturating_sub(AHEAD_BYTES / 2) && travelled_bytes > 0 {
            self.keep(catalog, self.spent_bytes.saturating_add(AHEAD_BYTES))?;
        }
        Ok(self.spent_bytes)
    }

    /// Counts what has travelled, and keeps what was really spent, as before the process ends.
    pub(super) fn settle(&mut self, catalog: &Catalog, travelled_bytes: u64) -> Result<(), CatalogError> {
        self.is_ending = true;
        self.add(travelled_bytes);
        self.keep_exactly(catalog)
    }

    /// Leaves out what has travelled since the last time: it cost nothing.
    pub(super) fn pass(&mut self, travelled_bytes: u64) {
        self.counted_bytes = travelled_bytes;
    }

    fn add(&mut self, travelled_bytes: u64) {
        self.spent_bytes = self.spent_bytes.saturating_add(travelled_bytes.saturating_sub(self.counted_bytes));
        self.counted_bytes = travelled_bytes;
    }

    fn keep_exactly(&mut self, catalog: &Catalog) -> Result<(), CatalogError> {
        if self.kept_bytes == self.spent_bytes { Ok(()) } else { self.keep(catalog, self.spent_bytes) }
    }

    /// What was spent in a month, as far as it was counted, be it by an earlier process.
    pub(super) fn spent_in(&self, catalog: &Catalog, month: Month) -> Result<u64, CatalogError> {
        if self.month == Some(month) { Ok(self.spent_bytes) } else { kept(catalog, month) }
    }

    fn keep(&mut self, catalog: &Catalog, bytes: u64) -> Result<(), CatalogError> {
        let Some(month) = self.month else { return Ok(()) };
        catalog.put_meta(&key(month), &bytes.to_le_bytes())?;
        self.kept_bytes = bytes;
        Ok(())
    }
}

/// What the catalog says of a month.
fn kept(catalog: &Catalog, month: Month) -> Result<u64, CatalogError> {
    let known = catalog.meta(&key(month))?.and_then(|value| <[u8; 8]>::try_from(value).ok());
    Ok(known.map_or(0, u64::from_le_bytes))
}

fn key(month: Month) -> String {
    format!("spent/{month}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: Month = Month { year: 2026, month: 2 };
    const EPOCH: Month = Month { year: 1970, month: 1 };

    #[test]
    fn a_restart_forgets_nothing_that_was_spent() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(folder.path()).expect("opened");
        let mut spending = Spending::default();
        assert_eq!(spending.count(&catalog, MONTH, 0).expect("counted"), 0);
        assert_eq!(spending.count(&catalog, MONTH, 700_000).expect("counted"), 700_000);
        assert_eq!(spending.count(&catalog, MONTH, 900_000).expect("counted"), 900_000);
        // Killed: what was not written down is counted as spent, and a bit more.
        let mut killed = Spending::default();
        let found = killed.count(&catalog, MONTH, 0).expect("counted");
        assert!((900_000..=900_000 + AHEAD_BYTES).contains(&found), "{found}");
        // Ended as it should be: to the byte.
        spending.settle(&catalog, 950_000).expect("kept");
        assert_eq!(Spending::default().spent_in(&catalog, MONTH).expect("read"), 950_000);
        // A look at the link that was under way changes nothing of that but by what travelled.
        assert_eq!(spending.count(&catalog, MONTH, 950_010).expect("counted"), 950_010);
        assert_eq!(Spending::default().spent_in(&catalog, MONTH).expect("read"), 950_010);
        assert_eq!(Spending::default().count(&catalog, MONTH, 0).expect("counted"), 950_010);
    }

    #[test]
    fn what_cost_nothing_is_not_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(folder.path()).expect("opened");
        let mut spending = Spending::default();
        assert_eq!(spending.count(&catalog, MONTH, 1000).expect("counted"), 1000);
        spending.pass(5000);
        assert_eq!(spending.count(&catalog, MONTH, 5500).expect("counted"), 1500);
    }

    #[test]
    fn a_wrong_clock_gives_nothing_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(folder.path()).expect("opened");
        let mut spending = Spending::default();
        for (month, travelled, spent) in
            [(MONTH, 5000, 5000), (EPOCH, 7000, 2000), (MONTH, 8000, 6000), (EPOCH, 8000, 2000)]
        {
            assert_eq!(spending.count(&catalog, month, travelled).expect("counted"), spent, "{month}");
        }
    }
}
