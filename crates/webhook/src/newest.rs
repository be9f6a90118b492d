//! Which of two events about the same thing is the newer one.
//!
//! Events arrive out of order and days late. Whoever keeps a state writes it with the [`Version`] of the
//! event that it comes from, and only over an older one: whatever the order of arrival, the state ends
//! the same.

use jiff::Timestamp;

use crate::event::Event;
use crate::message::MessageId;

/// The place of an event in the order of events: first by when it happened, then by message id, so that
/// of two in the same millisecond the same one always wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// When it happened, in milliseconds since the epoch.
    pub occurred_at_ms: i64,
    /// The message that told of it.
    pub message_id: MessageId,
}

impl Version {
    /// The version of what happened at a time, as a message told.
    pub fn new(occurred_at: Timestamp, message_id: &MessageId) -> Self {
        Self { occurred_at_ms: occurred_at.as_millisecond(), message_id: message_id.clone() }
    }

    /// The version of a state that `event` leads to.
    pub fn of<T>(event: &Event<T>) -> Self {
        Self::new(event.occurred_at(), event.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_event_is_the_newer_and_the_message_id_decides_between_equals() {
        let version =
            |ms, id| Version::new(Timestamp::from_millisecond(ms).unwrap(), &MessageId::parse(id).unwrap());
        assert!(version(2, "a") > version(1, "b"));
        assert!(version(1, "b") > version(1, "a"));
        assert_eq!(version(1, "a"), version(1, "a"));
    }
}
