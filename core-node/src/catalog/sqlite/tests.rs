//! Tests of what is SQLite's alone: that it lasts, and what it refuses to open.

use super::*;
use crate::catalog::{Event, EventLog, EventSeverity, UnixMs};

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
                for number in 0..20 {
                    let event = Event {
                        at: UnixMs(number),
                        severity: EventSeverity::Info,
                        kind: "test".into(),
                        subject: format!("writer {writer}"),
                        message: String::new(),
                    };
                    catalog.add_event(&event).unwrap();
                    assert!(!catalog.events(Some(&event.subject), None, 100).unwrap().is_empty());
                }
            });
        }
    });
    assert_eq!(catalog.events(None, None, 100).unwrap().len(), 60);
}
