//! Which of two events about the same thing is the newer one.
//!
//! Events arrive out of order and days late. Whoever keeps a state writes it with the [`Version`] of the
//! event that it comes from, and only over an older one: whatever the order of arrival, the state ends
//! the same.

use jiff::Timestamp;

use crate::error::{HandlerError, OrPermanent};
use crate::event::Event;
use crate::message::MessageId;

/// The place of an event in the order of events: first by when it happened, then by message id, so that
/// of two in the same millisecond the same one always wins.
///
/// Nothing happens after it was received. An event that says so comes from a device whose clock is ahead, and
/// would be newer than everything until that time has come: its place is when it was received. A clock that
/// is behind cannot be told from an event that comes late, and is believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// When it happened, or was received where that is earlier, in milliseconds since the epoch.
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
    ///
    /// # Errors
    ///
    /// Permanent, where the event does not say when it happened: it may be older or newer than any other.
    pub fn of<T>(event: &Event<T>) -> Result<Self, HandlerError> {
        let occurred_at = event.occurred_at();
        let occurred_at =
            occurred_at.or_permanent("`timestamp` is missing, or not a time as RFC 3339 has it")?;
        // As the message carries it, so that every delivery of it leads to the same version.
        Ok(Self::new(occurred_at.min(event.message.received_at), event.id()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::error::FailureClass;
    use crate::event::Envelope;
    use crate::message::Message;
    use crate::testing;

    const RECEIVED_AT: &str = "2026-03-01T12:00:00Z";

    /// The version of an event that says it happened then.
    fn of_event(occurred_at: &str) -> Result<Version, HandlerError> {
        let body =
            format!(r#"{{"type":"example.type","timestamp":"{occurred_at}","data":{{}}}}"#).into_bytes();
        let envelope = Arc::new(Envelope::parse(&body).unwrap());
        let message = Message { received_at: RECEIVED_AT.parse().unwrap(), ..testing::message(body) };
        let now = "2040-01-01T00:00:00Z".parse().unwrap();
        Version::of(&Event::new(message.into(), envelope, "a", now, &BTreeSet::new(), Arc::default()))
    }

    #[test]
    fn an_event_from_the_future_is_as_new_as_its_arrival() {
        let at = |time: &str| time.parse::<Timestamp>().unwrap().as_millisecond();
        for late in ["2031-01-01T00:00:00Z", "2026-03-01T12:00:00.001Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(of_event(late).unwrap().occurred_at_ms, at(RECEIVED_AT), "{late}");
        }
        for early in ["2026-03-01T12:00:00Z", "2026-03-01T11:59:59.999Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(of_event(early).unwrap().occurred_at_ms, at(early), "{early}");
        }
    }

    #[test]
    fn an_event_that_does_not_say_when_it_happened_has_no_place() {
        let error = of_event("yesterday").unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "`timestamp` is missing, or not a time as RFC 3339 has it");
    }

    #[test]
    fn the_later_event_is_the_newer_and_the_message_id_decides_between_equals() {
        let version =
            |ms, id| Version::new(Timestamp::from_millisecond(ms).unwrap(), &MessageId::parse(id).unwrap());
        assert!(version(2, "a") > version(1, "b"));
        assert!(version(1, "b") > version(1, "a"));
        assert_eq!(version(1, "a"), version(1, "a"));
    }
}
