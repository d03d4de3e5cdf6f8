//! Sealing frames: AES-256-GCM with a key for each direction, and the number of the frame as its nonce.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::frame::HEADER_BYTES;
use crate::invitation::KEY_BYTES;
use crate::plane::LaneError;

/// Bytes after a sealed body.
pub(super) const TAG_BYTES: usize = 16;

/// Seals or opens the frames of one direction, in order.
pub(super) struct Seal {
    key: LessSafeKey,
    frames: u64,
}

impl Seal {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the length of the algorithm");
        Self { key: LessSafeKey::new(key), frames: 0 }
    }

    /// The nonce of the next frame. No key lives for 2^64 frames.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.frames.to_le_bytes());
        self.frames += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `body` where it stands; gives its tag.
    pub(super) fn seal(&mut self, header: &[u8; HEADER_BYTES], body: &mut [u8]) -> Result<[u8; TAG_BYTES], LaneError> {
        let nonce = self.nonce();
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body);
        let tag = sealed.map_err(|_| LaneError::Protocol("a frame is too long to be sealed".to_owned()))?;
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Opens `body` where it stands, if nobody changed it, its header or their order.
    pub(super) fn open(
        &mut self,
        header: &[u8; HEADER_BYTES],
        body: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> Result<(), LaneError> {
        let nonce = self.nonce();
        let opened = self.key.open_in_place_separate_tag(nonce, Aad::from(header), Tag::from(tag), body, 0..);
        opened.map(|_| ()).map_err(|_| LaneError::Protocol("a frame was changed on its way".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_open_in_order_and_unchanged_only() {
        let (header, other) = ([1; HEADER_BYTES], [2; HEADER_BYTES]);
        let mut to = Seal::new(&[7; KEY_BYTES]);
        let seal = |to: &mut Seal, text: &[u8]| {
            let mut body = text.to_vec();
            let tag = to.seal(&header, &mut body).expect("sealed");
            (body, tag)
        };
        let (first, second) = (seal(&mut to, b"one"), seal(&mut to, b"two"));
        let open = |from: &mut Seal, header, (body, tag): &(Vec<u8>, [u8; TAG_BYTES])| {
            let mut body = body.clone();
            from.open(header, &mut body, *tag).map(|()| body)
        };
        let from = || Seal::new(&[7; KEY_BYTES]);
        let mut good = from();
        assert_eq!(open(&mut good, &header, &first).expect("opened"), b"one");
        assert_eq!(open(&mut good, &header, &second).expect("opened"), b"two");
        assert!(open(&mut from(), &header, &second).is_err(), "out of order");
        assert!(open(&mut from(), &other, &first).is_err(), "another header");
        assert!(open(&mut Seal::new(&[8; KEY_BYTES]), &header, &first).is_err(), "another key");
    }
}
