//! The table of codes and its pages agree; errors survive the wire.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn every_code_has_its_page_and_every_page_its_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(code) = name.strip_suffix(".md").filter(|name| name.starts_with("HW-")) {
            pages.insert(code.to_owned());
        }
    }
    let codes: BTreeSet<_> = codes::CATALOGUE.iter().map(|row| row.code.to_owned()).collect();
    assert_eq!(codes.len(), codes::CATALOGUE.len(), "a code stands twice in the table");
    assert_eq!(codes, pages);
    for row in codes::CATALOGUE {
        let page = std::fs::read_to_string(folder.join(format!("{}.md", row.code))).unwrap();
        assert!(page.starts_with(&format!("# {}: {}\n", row.code, row.title)), "title of {}", row.code);
        assert!(page.contains("## What to do"), "{} says nothing about what to do", row.code);
    }
}

#[test]
fn survives_the_wire() {
    let error = CodedError::new(&codes::SECOND_WRITER, "`a` is written by `b`");
    let back = CodedError::from(error.refusal());
    assert_eq!(back.to_string(), error.to_string());
    assert!(back.is(&codes::SECOND_WRITER));
    let json = serde_json::to_string(&error).unwrap();
    let back: CodedError = serde_json::from_str(&json).unwrap();
    assert!(back.is(&codes::SECOND_WRITER));
}

#[test]
fn shows_code_cause_and_hint() {
    let error =
        CodedError::new(&codes::READ_FAILED, "can't read `x`").with_source(std::io::Error::other("disk on fire"));
    assert_eq!(error.to_string(), "error[HW-4008]: can't read `x`: disk on fire\nhint: check the disk (`dmesg`)");
    let missing = CodedError::io(&codes::READ_FAILED, "can't read `x`", std::io::ErrorKind::NotFound.into());
    assert!(missing.to_string().ends_with("hint: check the path: there is nothing of that name"), "{missing}");
}

#[test]
fn a_hostile_refusal_can_not_paint_the_terminal() {
    let refusal = Refusal { code: "HW-9999\x1b".into(), message: "\x1b[2J".repeat(10_000), hint: "a\nb".into() };
    let error = CodedError::from(refusal);
    assert!(!error.to_string().replace('\n', "").contains(char::is_control));
    assert!(error.message.len() < FOREIGN_TEXT_BYTES_MAX + 8);
}

#[test]
fn a_refusal_fits_into_a_message_whatever_name_stands_in_it() {
    let error = CodedError::new(&codes::NAME_INVALID, "x".repeat(4096) + " is no name");
    let message = headwater_protocol::wire::Message::Refused { transfer: None, refusal: error.refusal() };
    message.check().unwrap();
}
