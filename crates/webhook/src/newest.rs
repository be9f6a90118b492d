//! Which of two events about the same thing is the newer one.
//!
//! Events arrive out of order and days late. A handler that keeps a state writes it with the [`EventOrder`] of its
//! event, and only over an older one. The final state is then the same for any order of arrival.

use jiff::Timestamp;

use crate::error::{HandlerError, OrPermanent};
use crate::event::Event;
use crate::message::MessageId;

/// The position of an event in the order of events: by the time it happened, then by message id, so that of two in
/// the same millisecond the same one always wins.
///
/// An event cannot happen after it was received. If its timestamp says so, the device's clock is ahead, and the
/// time of receipt is used instead: otherwise it would be the newest until that time. A clock that is behind looks
/// like a late event, and is believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventOrder {
    /// When it happened, or was received if that is earlier, in milliseconds since the epoch.
    pub occurred_at_ms: i64,
    /// The message that brought it.
    pub message_id: MessageId,
}

impl EventOrder {
    /// The version of an event that happened at a time, brought by a message.
    pub fn new(occurred_at: Timestamp, message_id: &MessageId) -> Self {
        Self { occurred_at_ms: occurred_at.as_millisecond(), message_id: message_id.clone() }
    }

    /// The version of the state that results from `event`.
    ///
    /// # Errors
    ///
    /// Permanent, if the event does not say when it happened: it may be older or newer than any other.
    pub fn of<T>(event: &Event<T>) -> Result<Self, HandlerError> {
        let occurred_at = event.occurred_at();
        let occurred_at =
            occurred_at.or_permanent("`timestamp` is missing, or not a time as RFC 3339 has it")?;
        // From the message, so that every delivery of it gives the same version.
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

    /// The version of an event with this timestamp.
    fn of_event(occurred_at: &str) -> Result<EventOrder, HandlerError> {
        let body =
            format!(r#"{{"type":"example.type","timestamp":"{occurred_at}","data":{{}}}}"#).into_bytes();
        let envelope = Arc::new(Envelope::parse(&body).unwrap());
        let message = Message { received_at: RECEIVED_AT.parse().unwrap(), ..testing::message(body) };
        let now = "2040-01-01T00:00:00Z".parse().unwrap();
        EventOrder::of(&Event::new(message.into(), envelope, "a", now, &BTreeSet::new(), Arc::default()))
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
        let version = |ms, id| {
            EventOrder::new(Timestamp::from_millisecond(ms).unwrap(), &MessageId::parse(id).unwrap())
        };
        assert!(version(2, "a") > version(1, "b"));
        assert!(version(1, "b") > version(1, "a"));
        assert_eq!(version(1, "a"), version(1, "a"));
    }
}
