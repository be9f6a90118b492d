//! One webhook as it was signed, and its encoding for the queue.
//!
//! Messages outlive deploys. A change of the encoding has to answer three questions: does the old consumer read
//! the new message, the new consumer the old one, and which deploys first?

mod encoding;
mod part;

use std::fmt;

use jiff::Timestamp;

pub use encoding::{
    Attribute, DecodeError, EncodeError, FORMAT_VERSION, LARGEST_BODY_BYTES, LARGEST_MESSAGE_BYTES,
    LONGEST_EVENT_TYPE_BYTES, PART_FORMAT_VERSION, QueueMessage, REPLAY_FORMAT_VERSION, attribute,
};
pub use part::{LONGEST_PART, Part, UnusablePart};

/// The longest message id in bytes. Svix's own are about 30; the limit allows other senders of the same scheme
/// longer ids.
pub const LONGEST_ID_BYTES: usize = 256;

/// The sender's id for one webhook: the same on every retry, resend, replay and redrive.
///
/// Shape: the `svix-id` header verbatim, such as `msg_p5jXN8AQM9LWM0D4loKWxJek`; 1 to 256 visible
/// ASCII characters and no full stop, which separates the parts of the signed content.
/// Source: Standard Webhooks specification, "Webhook headers".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(crate) String);

/// An id that could not be used as an idempotency key, a queue attribute or part of the signed content. The id
/// itself is left out: anybody may have sent the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message id is empty, over 256 bytes, or has a character other than visible ASCII without `.`")]
pub struct UnusableId;

impl MessageId {
    /// Checks an id.
    ///
    /// # Errors
    ///
    /// [`UnusableId`] if it is empty, too long, or has a full stop, a space, a control character or a character
    /// beyond ASCII.
    pub fn parse(id: &str) -> Result<Self, UnusableId> {
        let usable = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
        if id.is_empty() || id.len() > LONGEST_ID_BYTES || !id.as_bytes().iter().all(usable) {
            return Err(UnusableId);
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as the sender wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One verified webhook: the signed bytes and their proof. Or a [`Part`] of the work for one.
///
/// `Debug` shows neither the signature nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The sender's id, which is also the idempotency key.
    pub id: MessageId,
    /// The `svix-timestamp` of the delivery that was accepted, in Unix seconds.
    pub signed_at_s: i64,
    /// The `svix-signature` header verbatim: with the id, the time, the body and the secret of that time, it
    /// proves the sender even years later.
    pub signature: String,
    /// When the receiver accepted it, in milliseconds since the epoch once it is on the queue.
    pub received_at: Timestamp,
    /// The event's `type`, if the body is JSON and has one.
    pub event_type: Option<String>,
    /// The payload exactly as it was signed.
    pub body: Vec<u8>,
    /// Which part of a list it is, if a consumer has cut the list into parts.
    pub part: Option<Part>,
    /// The id of the replay window under which `learnink replay run` has sent it again, if it has. A part has none.
    pub window: Option<String>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("signed_at_s", &self.signed_at_s)
            .field("received_at", &self.received_at)
            .field("event_type", &self.event_type)
            .field("body_bytes", &self.body.len())
            .field("part", &self.part)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_up_to_256_visible_characters_without_a_full_stop() {
        for id in ["msg_p5jXN8AQM9LWM0D4loKWxJek", "!", "~", &"x".repeat(256)] {
            assert_eq!(MessageId::parse(id).unwrap().as_str(), id);
        }
        for id in ["", "a.b", "a b", "a\n", "\u{7f}", "\u{e9}", &"x".repeat(257)] {
            assert_eq!(MessageId::parse(id), Err(UnusableId), "{id:?}");
        }
    }
}
