-- Layout 1 of the core's catalog. Described in docs/storage-format.md.

CREATE TABLE counter (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) VALUES ('epoch', 1), ('root_sequence', 0);

CREATE TABLE pack (
    number    INTEGER PRIMARY KEY,
    state     INTEGER NOT NULL,             -- 0 open, 1 sealed, 2 dropped
    identity  BLOB,                         -- BLAKE3 of the index, once sealed
    end_bytes INTEGER NOT NULL              -- durable and entered
);

CREATE TABLE chunk (
    key          INTEGER PRIMARY KEY,
    id           BLOB NOT NULL UNIQUE,
    pack         INTEGER NOT NULL,
    offset       INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    plain_bytes  INTEGER NOT NULL,
    codec        INTEGER NOT NULL,          -- 0 plain, 1 zstd
    damaged      INTEGER NOT NULL DEFAULT 0,
    epoch        INTEGER NOT NULL           -- of the gc before which it was last stored or pinned
);
CREATE INDEX chunk_by_pack ON chunk (pack, offset);
CREATE INDEX chunk_damaged ON chunk (key) WHERE damaged = 1;

-- Sums over all chunks, so that nobody has to look at each.
CREATE TABLE chunk_total (
    chunks       INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    plain_bytes  INTEGER NOT NULL,
    damaged      INTEGER NOT NULL
);
INSERT INTO chunk_total VALUES (0, 0, 0, 0);
CREATE TRIGGER chunk_added AFTER INSERT ON chunk BEGIN
    UPDATE chunk_total SET chunks = chunks + 1, stored_bytes = stored_bytes + new.stored_bytes,
        plain_bytes = plain_bytes + new.plain_bytes, damaged = damaged + new.damaged;
END;
CREATE TRIGGER chunk_changed AFTER UPDATE OF stored_bytes, plain_bytes, damaged ON chunk BEGIN
    UPDATE chunk_total SET stored_bytes = stored_bytes + new.stored_bytes - old.stored_bytes,
        plain_bytes = plain_bytes + new.plain_bytes - old.plain_bytes, damaged = damaged + new.damaged - old.damaged;
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunk BEGIN
    UPDATE chunk_total SET chunks = chunks - 1, stored_bytes = stored_bytes - old.stored_bytes,
        plain_bytes = plain_bytes - old.plain_bytes, damaged = damaged - old.damaged;
END;

CREATE TABLE member (
    chunk   INTEGER NOT NULL,
    dataset INTEGER NOT NULL,
    page    INTEGER NOT NULL,               -- 1: committed as a page, so it vouches for what is below it
    PRIMARY KEY (chunk, dataset)
) WITHOUT ROWID;
CREATE INDEX member_by_dataset ON member (dataset, chunk);

CREATE TABLE pin (
    chunk      INTEGER NOT NULL,
    principal  BLOB NOT NULL,               -- a device's key; empty for the core
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (chunk, principal)
) WITHOUT ROWID;

CREATE TABLE dataset (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT NOT NULL UNIQUE,
    writer            BLOB NOT NULL,
    keep_last         INTEGER,
    keep_newer_than_s INTEGER,
    created_at        INTEGER NOT NULL,
    last_number       INTEGER NOT NULL DEFAULT 0,
    trim              INTEGER NOT NULL DEFAULT 0
);

-- Datasets that were deleted, by name: a new one of that name goes on with their numbers.
CREATE TABLE ended (
    name        TEXT PRIMARY KEY,
    last_number INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE version (
    dataset      INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    id           BLOB NOT NULL,
    root         BLOB,
    files        INTEGER NOT NULL,
    samples      INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    chunks       INTEGER NOT NULL,
    committed_at INTEGER NOT NULL,
    writer       BLOB NOT NULL,
    sequence     INTEGER NOT NULL,
    manifest     BLOB NOT NULL,
    record       BLOB NOT NULL,
    receipt      BLOB NOT NULL,
    PRIMARY KEY (dataset, number)
);
CREATE INDEX version_by_id ON version (dataset, id);
CREATE INDEX version_by_sequence ON version (sequence);

CREATE TABLE reliance (
    dataset INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    device  BLOB NOT NULL,
    freed   INTEGER NOT NULL,               -- 0 holds a receipt, 1 said that it freed bytes
    PRIMARY KEY (dataset, number, device)
) WITHOUT ROWID;

CREATE TABLE tag (
    dataset   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    number    INTEGER NOT NULL,
    tagged_at INTEGER NOT NULL,
    PRIMARY KEY (dataset, name)
) WITHOUT ROWID;

CREATE TABLE collection (
    name       TEXT PRIMARY KEY,
    pattern    TEXT NOT NULL,
    labels     TEXT NOT NULL,               -- JSON, pairs
    every_s    INTEGER,
    keep       INTEGER,                     -- newest editions that are kept; all if null
    created_at INTEGER NOT NULL,
    last_edition INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE edition (
    collection TEXT NOT NULL,
    number     INTEGER NOT NULL,
    id         BLOB NOT NULL,
    made_at    INTEGER NOT NULL,
    PRIMARY KEY (collection, number)
) WITHOUT ROWID;

CREATE TABLE edition_member (
    collection TEXT NOT NULL,
    edition    INTEGER NOT NULL,
    dataset    TEXT NOT NULL,
    number     INTEGER NOT NULL,
    version    BLOB NOT NULL,
    PRIMARY KEY (collection, edition, dataset)
) WITHOUT ROWID;
CREATE INDEX edition_member_by_dataset ON edition_member (dataset, number);

CREATE TABLE device (
    key                    BLOB PRIMARY KEY,
    name                   TEXT NOT NULL,
    labels                 TEXT NOT NULL,   -- JSON, pairs
    role                   TEXT NOT NULL,
    revoked_at             INTEGER,
    write_patterns         TEXT NOT NULL,   -- JSON
    read_patterns          TEXT NOT NULL,   -- JSON
    nonces                 TEXT NOT NULL,   -- JSON, oldest first
    certificate_expires_at INTEGER NOT NULL,
    joined_at              INTEGER NOT NULL,
    last_seen_at           INTEGER,
    release                TEXT NOT NULL,
    backlog_bytes          INTEGER NOT NULL,
    oldest_unsent_s        INTEGER NOT NULL,
    disk_free_bytes        INTEGER NOT NULL,
    last_error             TEXT NOT NULL
);
CREATE UNIQUE INDEX device_active_name ON device (name) WHERE revoked_at IS NULL;

CREATE TABLE token (
    secret_hash    BLOB PRIMARY KEY,
    uses_left      INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    labels         TEXT NOT NULL,           -- JSON, pairs
    names          TEXT NOT NULL,           -- JSON
    role           TEXT NOT NULL,
    write_patterns TEXT NOT NULL,           -- JSON
    read_patterns  TEXT NOT NULL            -- JSON
);

CREATE TABLE lease (
    id         TEXT PRIMARY KEY,
    version    BLOB NOT NULL,
    root       BLOB,
    expires_at INTEGER NOT NULL,
    sequence   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE note (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE run (
    name          TEXT PRIMARY KEY,
    plan          TEXT NOT NULL,            -- JSON
    model_number  INTEGER NOT NULL,
    model_version BLOB NOT NULL,
    began_at      INTEGER NOT NULL,
    is_over       INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE run_entry (
    run        TEXT NOT NULL,
    number     INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    elapsed_ms INTEGER NOT NULL,
    body       TEXT NOT NULL,               -- JSON
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
