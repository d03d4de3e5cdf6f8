//! Fuzzes the stamps of an imported folder, behind their checksum.

#![no_main]

use core_node::control::stamps::{decode, seal};
use headwater_host::scan::Stamp;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = [7; 32];
    assert!(decode(bytes, &folder).is_none(), "no sum of these bytes stands in them");
    for kept in decode(&seal(&folder, bytes), &folder).unwrap_or_default().values() {
        let _ = Stamp::decode_all(kept);
    }
});
