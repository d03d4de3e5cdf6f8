//! Tests of what is SQLite's alone: that it lasts, and what it refuses to open.

use super::*;
use crate::catalog::{NoteTable, Upkeep};

#[test]
fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    SqliteCatalog::open(&path).unwrap().set_note("key", b"value").unwrap();
    let catalog = SqliteCatalog::open(&path).unwrap();
    assert_eq!(catalog.note("key").unwrap().unwrap(), b"value");
    assert_eq!(catalog.check().unwrap(), None);
    catalog.tidy().unwrap();
    assert_eq!(catalog.note("key").unwrap().unwrap(), b"value");
}

#[test]
fn a_newer_catalog_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    SqliteCatalog::open(&path).unwrap().set_note("key", b"value").unwrap();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", (LAYOUT_KNOWN + 1) as i64).unwrap();
    let before = std::fs::read(&path).unwrap();
    match SqliteCatalog::open(&path) {
        Err(CatalogError::Newer { found, known }) => assert_eq!((found, known), (LAYOUT_KNOWN + 1, LAYOUT_KNOWN)),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a newer catalog was opened"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_catalog_is_named_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    std::fs::write(&path, [0x5a; 8192]).unwrap();
    assert!(matches!(SqliteCatalog::open(&path), Err(CatalogError::Damaged { .. })));
}

#[test]
fn readers_and_writers_get_along() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&folder.path().join("catalog.sqlite")).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let catalog = &catalog;
            scope.spawn(move || {
                let key = format!("writer {writer}");
                for number in 0..20u64 {
                    catalog.set_note(&key, &number.to_le_bytes()).unwrap();
                    assert_eq!(catalog.note(&key).unwrap().unwrap(), number.to_le_bytes());
                }
            });
        }
    });
}

#[test]
fn what_was_deleted_leaves_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::open(&path).unwrap();
    for number in 0..200 {
        catalog.set_note(&format!("{number}"), &vec![7; 20_000]).unwrap();
    }
    catalog.tidy().unwrap();
    let length = || std::fs::metadata(&path).unwrap().len();
    assert!(length() > 4_000_000);
    catalog.write::<_, CatalogError>("empty itself", |tx| Ok(tx.execute("DELETE FROM note", [])?)).unwrap();
    catalog.tidy().unwrap();
    assert!(length() < 400_000, "{} bytes are left", length());
    let log = std::fs::metadata(folder.path().join("catalog.sqlite-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "the log was cut");
    assert_eq!(catalog.check().unwrap(), None);
}

#[test]
fn a_damaged_page_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::open(&path).unwrap();
    for number in 0..500 {
        catalog.set_note(&format!("a key of some length, number {number}"), &[7; 100]).unwrap();
    }
    catalog.tidy().unwrap();
    drop(catalog);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 6000..end - 2000].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let found = SqliteCatalog::open(&path).and_then(|catalog| catalog.check());
    assert!(matches!(found, Ok(Some(_)) | Err(CatalogError::Damaged { .. })), "{found:?}");
}
