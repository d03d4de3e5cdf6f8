//! Headers of the TCP plane are what they were, byte for byte, and nothing else is taken for one.

use headwater_fabric::tcp::{HELLO_BYTES, Header, Hello, Kind};

#[test]
fn headers_never_change() {
    let hello = Hello { sealed: true, session: 0x0102_0304, proof: [9; 32] };
    let mut bytes = b"HWd1\x01\0\x01\0\x04\x03\x02\x01\0\0\0\0".to_vec();
    bytes.extend_from_slice(&[9; 32]);
    assert_eq!(hello.encode().to_vec(), bytes);
    assert_eq!(Hello::decode(&hello.encode()).expect("a hello"), hello);
    for (kind, number) in [(Kind::Put, 1), (Kind::Done, 2), (Kind::Failed, 3), (Kind::Read, 16)] {
        let header = Header { kind, slot: 5, at: 258, length: if kind == Kind::Done { 0 } else { 77 } };
        let bytes = [number, 0, 0, 0, 5, 0, 0, 0, 2, 1, 0, 0, header.length as u8, 0, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes, true).expect("a header"), header);
    }
}

#[test]
fn what_can_not_be_is_refused() {
    let mut hello = Hello { sealed: false, session: 1, proof: [0; 32] }.encode();
    for at in [0, 4, 6] {
        hello[at] ^= 0x80;
        assert!(Hello::decode(&hello).is_err(), "byte {at}");
        hello[at] ^= 0x80;
    }
    assert!(Hello::decode(&[0; HELLO_BYTES]).is_err());
    let header = |kind: u8, length: u32| {
        let mut bytes = [0; 16];
        bytes[0] = kind;
        bytes[12..].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    for (kind, length, sealed) in [
        (0, 0, false),
        (4, 37, false),
        (5, 1 << 20, false),
        (6, 0, false),
        (17, 37, false),
        (255, 0, false),
        (2, 1, false),
        (1, u32::MAX, false),
        (1, 256 * 1024 + 1, true),
        (3, 1 << 20, false),
        (16, 1 << 20, false),
    ] {
        assert!(Header::decode(&header(kind, length), sealed).is_err(), "kind {kind}, {length} bytes");
    }
}
