//! The catalog's tables and how older layouts become this one.
//!
//! Nothing here has a row for each file except the freed ones, and the deleted ones until a version without them is
//! committed: files live in pages, some hundreds to a row, and chunks have a row for each 256 KiB. Rows that steer what is sent (`versions`, `stamps`) carry a sum of their own, because SQLite
//! notices a torn page but not a flipped bit inside a value.

use rusqlite_migration::{M, Migrations};

/// Tables that an intact catalog has.
pub(super) const TABLES: &[&str] = &[
    "meta",
    "datasets",
    "versions",
    "pages",
    "stamps",
    "chunks",
    "staged",
    "freed",
    "deletions",
    "events",
    "counters",
];

/// Layouts so far.
pub(super) const LAYOUT: i64 = 1;

const FIRST: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- role: 0 publish, 1 subscribe, 2 local
-- A number is never given twice: what still works on a dataset that was forgotten must not meet another one.
CREATE TABLE datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    role INTEGER NOT NULL,
    folder BLOB NOT NULL,
    UNIQUE (name, role, folder)
);

-- state: 0 built, 1 offered, 2 committed, 3 superseded
CREATE TABLE versions (
    id INTEGER PRIMARY KEY,
    dataset INTEGER NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    version BLOB NOT NULL,
    state INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    record BLOB NOT NULL,
    receipt BLOB NOT NULL,
    sum BLOB NOT NULL,
    UNIQUE (dataset, version)
);

-- Pages are kept per dataset, so what a local dataset holds can never be found by another's lookup.
CREATE TABLE pages (
    dataset INTEGER NOT NULL,
    id BLOB NOT NULL,
    paged INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (dataset, id)
);

-- Stat stamps of a leaf page's records, as the scan left them.
CREATE TABLE stamps (
    dataset INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    sum BLOB NOT NULL,
    stamps BLOB NOT NULL,
    UNIQUE (dataset, leaf)
);

-- Which file on this device holds a chunk: 16 bytes of its id, 8 of the id of a page that names it, the path of a record
-- that has it, and for long files the offset at which it was. A row goes with its page. Local datasets have no rows here.
CREATE TABLE chunks (
    chunk BLOB NOT NULL,
    dataset INTEGER NOT NULL,
    page BLOB NOT NULL,
    path BLOB NOT NULL,
    file_offset INTEGER NOT NULL,
    PRIMARY KEY (chunk, dataset, page)
) WITHOUT ROWID;

-- Chunks of a subscription that have come but are in no finished version yet.
CREATE TABLE staged (
    dataset INTEGER NOT NULL,
    chunk BLOB NOT NULL,
    file_offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (dataset, chunk)
) WITHOUT ROWID;

CREATE TABLE freed (dataset INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY (dataset, path)) WITHOUT ROWID;
CREATE TABLE deletions (dataset INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY (dataset, path)) WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_s INTEGER NOT NULL,
    level TEXT NOT NULL,
    code TEXT NOT NULL,
    dataset TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE counters (reason TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
";

pub(super) fn migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(FIRST)])
}
