//! Rules of compression: nothing grows, nothing is lost, nothing exceeds what was stated.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Bytes that no compressor makes shorter.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(length: usize) -> Vec<u8> {
    (0u32..).flat_map(|line| format!("{line:06},label_{},0.5\n", line % 7).into_bytes()).take(length).collect()
}

#[test]
fn compression_pays_or_is_not_done() {
    for (plain, pays) in [
        (noise(1, 300_000), false),
        (noise(2, PLAIN_BYTES_MAX), false),
        (text(300_000), true),
        (text(PLAIN_BYTES_MAX), true),
        (text(200), true),
        (text(COMPRESS_BYTES_MIN - 1), false),
        (vec![0; 5000], true),
    ] {
        let frame = compress(&plain, 1);
        assert_eq!(frame.is_some(), pays, "{} bytes", plain.len());
        if let Some(frame) = frame {
            assert!(frame.len() <= plain.len() - plain.len() / SAVING_PARTS);
            assert_eq!(decompress(&frame, plain.len()).unwrap(), plain);
        }
    }
}

#[test]
fn a_frame_never_gives_more_than_was_stated() {
    let bomb = compress(&vec![0; PLAIN_BYTES_MAX], 3).unwrap();
    assert_eq!(
        decompress(&bomb, 1000),
        Err(DecompressError::Length { stated: PLAIN_BYTES_MAX as u64, expected: 1000 })
    );
    assert_eq!(decompress(&bomb, PLAIN_BYTES_MAX + 1), Err(DecompressError::TooLong(PLAIN_BYTES_MAX + 1)));
    let frame = compress(&text(5000), 1).unwrap();
    for wrong in [[&frame[..], &frame[..]].concat(), [&frame[..], b"x"].concat(), frame[..frame.len() - 1].to_vec()] {
        assert_eq!(decompress(&wrong, 5000), Err(DecompressError::Frame));
    }
    assert_eq!(decompress(b"", 0), Err(DecompressError::Frame));
}

#[test]
fn a_small_change_is_a_small_delta_wherever_its_base_lies() {
    let prefix = noise(3, DELTA_PREFIX_BYTES_MAX);
    for first in [0, 123_457, 700_001, 1_300_000, DELTA_PREFIX_BYTES_MAX - 400_000] {
        let mut plain = prefix[first..first + 400_000].to_vec();
        plain.splice(200_000..200_500, noise(4, 600));
        let frame = encode_delta(&prefix, &plain).unwrap();
        assert!(frame.len() < 1200, "a delta of 600 new bytes took {} from {first}", frame.len());
        assert_eq!(decode_delta(&prefix, &frame, plain.len()).unwrap(), plain);
    }
}

#[test]
fn a_delta_needs_its_own_prefix() {
    let plain = noise(5, 20_000);
    let frame = encode_delta(&plain.clone(), &plain).unwrap();
    assert!(frame.len() < 100);
    assert!(decode_delta(&noise(6, 20_000), &frame, 20_000).is_ok_and(|got| got != plain));
    assert!(decode_delta(&[], &frame, 20_000).is_err());
    assert!(encode_delta(&vec![0; DELTA_PREFIX_BYTES_MAX + 1], &plain).is_none());
    assert!(encode_delta(&[], &plain).is_none());
}

#[test]
fn the_first_part_of_a_frame_is_worth_something() {
    let plain = text(PLAIN_BYTES_MAX);
    let frame = compress(&plain, 1).unwrap();
    let kept = decompress_part(&frame[..frame.len() / 2], plain.len());
    assert!(kept.len() > plain.len() / 4, "{} of {}", kept.len(), plain.len());
    assert_eq!(kept, plain[..kept.len()]);
    assert_eq!(decompress_part(&frame, plain.len()), plain);
    assert!(decompress_part(&frame[..3], plain.len()).is_empty());
    assert!(decompress_part(&frame, 1000).is_empty());
}

proptest! {
    #[test]
    fn frames_come_back(plain in vec(any::<u8>(), 0..4000), level in 1..6i32) {
        if let Some(frame) = compress(&plain, level) {
            prop_assert_eq!(decompress(&frame, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn deltas_come_back(prefix in vec(0..4u8, 1..4000), plain in vec(0..4u8, 1..4000)) {
        if let Some(frame) = encode_delta(&prefix, &plain) {
            prop_assert!(frame.len() <= plain.len());
            prop_assert_eq!(decode_delta(&prefix, &frame, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..600), length in 0..2000usize) {
        let _ = decompress(&bytes, length);
        let _ = decode_delta(b"some prefix", &bytes, length);
        prop_assert!(decompress_part(&bytes, length).len() <= length);
    }
}
