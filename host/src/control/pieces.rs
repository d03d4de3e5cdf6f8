//! Parts of an answer in messages of the control protocol, whose length is bounded.
//!
//! Each part is one JSON document: `{"progress": ...}`, at last `{"done": null}` or `{"failed": ...}`. One that is too long
//! for a message travels as several `{"piece": TEXT}` and an empty body: the texts joined are the part.

use headwater_protocol::wire::CONTROL_FRAME_BYTES_MAX;
use serde_json::{Value, json};

use super::FRAME_BYTES_MAX;
use crate::error::{CodedError, codes};

/// Bytes of JSON that one message carries. As a text within JSON they become twice as many at most, because JSON has no
/// control characters left to escape.
const PIECE_BYTES_MAX: usize = 192 * 1024;
const _: () = assert!(2 * PIECE_BYTES_MAX + 1024 <= CONTROL_FRAME_BYTES_MAX);

/// The bodies of the messages that carry the part `text`.
pub fn bodies(text: String) -> Vec<String> {
    if text.len() <= PIECE_BYTES_MAX {
        return vec![text];
    }
    let mut bodies = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES_MAX));
        bodies.push(json!({ "piece": piece }).to_string());
        rest = after;
    }
    bodies.push(String::new());
    bodies
}

/// Joins what [`bodies`] has taken apart. It holds one part at most, and no more of it than the local socket would carry.
#[derive(Debug, Default)]
pub struct Pieces {
    text: String,
}

impl Pieces {
    /// Takes the body of one message; gives the part that it makes whole.
    pub fn take(&mut self, body: &str) -> Result<Option<Value>, CodedError> {
        let broken =
            |error: String| CodedError::new(&codes::BAD_FRAME, format!("the answer is not understood: {error}"));
        let text = if body.is_empty() { &std::mem::take(&mut self.text) } else { body };
        let part: Value = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        let Some(piece) = part.get("piece").and_then(Value::as_str) else { return Ok(Some(part)) };
        if self.text.len() + piece.len() > FRAME_BYTES_MAX {
            return Err(broken(format!("a part of it has over {FRAME_BYTES_MAX} bytes")));
        }
        self.text.push_str(piece);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use headwater_protocol::wire::Message;

    use super::*;

    #[test]
    fn a_part_of_any_length_arrives_in_messages_that_fit() {
        let long = "a\"\\\u{1}ü\u{1f4a1}".repeat(100_000);
        for value in ["", "short", &long] {
            let part = json!({ "progress": value });
            let bodies = bodies(part.to_string());
            let mut pieces = Pieces::default();
            for (at, body) in bodies.iter().enumerate() {
                let whole = pieces.take(body).expect("JSON");
                let message = Message::ControlReply { request: 1, body: body.clone(), last: true };
                assert!(message.encode().len() <= CONTROL_FRAME_BYTES_MAX);
                assert_eq!(whole.as_ref(), (at + 1 == bodies.len()).then_some(&part));
            }
        }
    }

    #[test]
    fn pieces_without_end_are_refused() {
        let mut pieces = Pieces::default();
        let body = json!({ "piece": "x".repeat(1 << 20) }).to_string();
        assert!((0..64).any(|_| pieces.take(&body).is_err()));
        assert!(Pieces::default().take("").is_err());
    }
}
