//! Why a message is on the dead-letter queue.
//!
//! The consumer puts the reason beside a message that will never succeed, or that failed at its last delivery. SQS
//! itself moves a message if no consumer could end its last delivery, and SQS does not know a reason. Then the ledger
//! has the last one, or its lack shows what happened.

use std::fmt;

use learnink_webhook::event::Envelope;
use learnink_webhook::message::{DecodeError, Message};

use crate::ledger::{Entry, payload_sha256};

/// The reason why a message is never run if its id was seen with another payload: one of the two is not genuine.
pub const PAYLOAD_MISMATCH: &str = "the same message id came with another payload before";

/// In front of the reason of a message whose handler was not called: the rest is why its last call for another message
/// failed.
pub const SKIPPED: &str = "skipped, because the circuit breaker is open after this failure: ";

/// Why a message is on the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// The reason that the consumer gave.
    Said(String),
    /// Its last delivery failed for this reason.
    LastFailure(String),
    /// It is not a message of a receiver, or not an event, and the consumer could not copy it to the dead-letter
    /// queue.
    Unreadable(String),
    /// Its consumer stopped before it could record a reason: a crash, or a time-out.
    ConsumerStopped,
    /// The ledger has another payload under its message id.
    PayloadMismatch,
    /// The ledger does not know a failure: it was done, or another delivery of it was in progress.
    NothingFailed,
    /// No consumer has claimed it.
    NeverClaimed,
}

impl DeadLetterReason {
    /// Finds the reason from the attribute `said` beside the message, from the message, and from its ledger entry.
    pub fn find(said: Option<&str>, message: Result<&Message, DecodeError>, entry: Option<&Entry>) -> Self {
        if let Some(said) = said {
            return Self::Said(said.to_owned());
        }
        let message = match message {
            Ok(message) => message,
            Err(error) => return Self::Unreadable(error.to_string()),
        };
        match entry {
            Some(entry) if entry.payload_sha256 != payload_sha256(&message.body) => Self::PayloadMismatch,
            Some(Entry { failure_reason: Some(reason), .. }) => Self::LastFailure(reason.clone()),
            Some(Entry { lease: Some(_), .. }) => Self::ConsumerStopped,
            Some(_) => Self::NothingFailed,
            None => match Envelope::parse(&message.body) {
                Ok(_) => Self::NeverClaimed,
                Err(error) => Self::Unreadable(error.to_string()),
            },
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(reason) | Self::Unreadable(reason) => f.write_str(reason),
            Self::LastFailure(reason) => write!(f, "{reason} (on its last delivery)"),
            Self::ConsumerStopped => f.write_str(
                "the consumer crashed or timed out on its last delivery, before it could say why; see its log",
            ),
            Self::PayloadMismatch => f.write_str(PAYLOAD_MISMATCH),
            Self::NothingFailed => f.write_str(
                "nothing failed that the ledger knows of: it was done before, or another delivery of it was being \
                 handled; a redrive does what is left, if anything is",
            ),
            Self::NeverClaimed => f.write_str(
                "no consumer has claimed it: no handler takes it, the ledger did not answer, or the function was \
                 throttled; see the consumer's log",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ledger::Lease;
    use learnink_webhook::testing;

    fn message(body: &str) -> Message {
        testing::message(body)
    }

    const EVENT: &str = r#"{"type":"t","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;

    fn entry(failure_reason: Option<&str>) -> Entry {
        Entry {
            payload_sha256: payload_sha256(EVENT.as_bytes()),
            done: BTreeSet::new(),
            lease: None,
            settled_at_ms: 0,
            first_seen_ms: 0,
            expires_at_s: 0,
            failure_reason: failure_reason.map(str::to_owned),
        }
    }

    #[test]
    fn there_is_always_a_reason() {
        let event = message(EVENT);
        let no_event = message("no event");
        let busy = entry(Some("push: busy"));
        let text = |said, message, entry| DeadLetterReason::find(said, message, entry).to_string();
        assert_eq!(text(Some("no such plan"), Ok(&event), Some(&busy)), "no such plan");
        assert_eq!(text(None, Ok(&event), Some(&busy)), "push: busy (on its last delivery)");
        assert_eq!(
            DeadLetterReason::find(None, Ok(&event), Some(&entry(None))),
            DeadLetterReason::NothingFailed
        );
        let forged = message(&EVENT.replace("{}", "[]"));
        assert_eq!(DeadLetterReason::find(None, Ok(&forged), Some(&busy)), DeadLetterReason::PayloadMismatch);
        let lease = Some(Lease { owner: "1/0".to_owned(), until_ms: 0 });
        let held = Entry { lease, ..entry(None) };
        assert_eq!(DeadLetterReason::find(None, Ok(&event), Some(&held)), DeadLetterReason::ConsumerStopped);
        assert_eq!(DeadLetterReason::find(None, Ok(&event), None), DeadLetterReason::NeverClaimed);
        assert_eq!(text(None, Ok(&no_event), None), "the body is not JSON (line 1, column 2)");
        let foreign = || Message::decode("", |_| None).unwrap_err();
        assert_eq!(text(None, Err(foreign()), None), foreign().to_string());
    }
}
