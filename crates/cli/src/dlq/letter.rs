//! A dead letter as it is shown, and found by a filter.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use learnink_consumer::dead_letter::DeadLetterReason;
use learnink_consumer::ledger::{Entry, EntryId, payload_sha256};
use learnink_consumer::queues::attribute as reason;
use learnink_webhook::FailureClass;
use learnink_webhook::event::EnvelopeHead;
use learnink_webhook::message::{self, DecodeError, Part, attribute};
use serde::Serialize;

use super::cause::Cause;
use super::queue::sqs_id;
use crate::ledger::OpenLedger;

/// A message on the dead-letter queue, without its payload. Fields that cannot be read are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    pub(crate) message_id: Option<String>,
    pub(crate) event_type: Option<String>,
    /// Which part of its list it is, if it is one: `push/100-199`.
    pub(crate) part: Option<String>,
    /// When the receiver accepted it.
    pub(crate) received_at: Option<Timestamp>,
    /// How often it was delivered before it came here. If SQS moved the message itself, it continues to count:
    /// each look at the queue is one more.
    pub(crate) receive_count: Option<u32>,
    /// When the consumer first claimed it, if it did.
    pub(crate) first_seen: Option<Timestamp>,
    /// The handler that said *never*, if one ran.
    pub(crate) handler: Option<String>,
    pub(crate) reason: String,
    pub(crate) sqs_message_id: Option<String>,
}

/// A dead letter: its facts, and what a command needs besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) facts: Facts,
    pub(super) cause: Cause,
    /// The name that SQS gave it here.
    pub(crate) sqs_id: String,
    /// When SQS first enqueued it.
    pub(crate) sent_at: Option<Timestamp>,
    /// When SQS deletes it; `None` if never.
    pub(crate) expires_at: Option<Timestamp>,
    /// Whether SQS moved it here itself.
    pub(crate) moved_by_sqs: bool,
    /// Its ledger entry and the hash of its payload, if a receiver wrote it and this version can read it.
    pub(crate) in_ledger: Option<InLedger>,
    /// Whether no version of the consumer can read it.
    pub(crate) is_foreign: bool,
    /// The hash of what a redrive sends.
    pub(crate) fingerprint: String,
}

/// How the ledger knows a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InLedger {
    pub(crate) id: EntryId,
    pub(crate) payload_sha256: String,
    /// The replay window under which `learnink replay run` sent it, if it did.
    pub(crate) window: Option<String>,
}

/// Reads letters as they were received, with their ledger entries where no reason is beside them. `kept_for` is how
/// long the queue keeps a message.
pub(super) async fn read(
    messages: &[Message],
    ledger: &OpenLedger,
    kept_for: Option<SignedDuration>,
) -> anyhow::Result<Vec<Letter>> {
    try_join_all(messages.iter().map(async |message| {
        let decoded = decode(message);
        let entry = match &decoded {
            Ok(webhook) if said(message, reason::REASON).is_none() => {
                ledger.entry(EntryId::of(webhook)).await?
            }
            Ok(_) | Err(_) => None,
        };
        anyhow::Ok(letter(message, decoded, entry.as_ref(), kept_for))
    }))
    .await
}

/// The webhook in a message, if there is one.
pub(super) fn decode(message: &Message) -> Result<message::Message, DecodeError> {
    message::Message::decode(message.body().unwrap_or_default(), |name| text(message, name))
}

/// A letter, given its webhook and its ledger entry.
pub(super) fn letter(
    message: &Message,
    decoded: Result<message::Message, DecodeError>,
    entry: Option<&Entry>,
    kept_for: Option<SignedDuration>,
) -> Letter {
    let own = |name| text(message, name).map(str::to_owned);
    let webhook = decoded.as_ref().ok();
    let received_at_ms = text(message, attribute::RECEIVED_AT).and_then(|ms| ms.parse().ok());
    let deliveries = said(message, reason::DELIVERIES);
    let (counted, since) = match deliveries.map(|said| said.split_once(" since ").unwrap_or((said, ""))) {
        Some((counted, since)) => (Some(counted), since.parse().ok()),
        None => (system(message, &MessageSystemAttributeName::ApproximateReceiveCount), None),
    };
    let in_ledger = entry.and_then(|entry| Timestamp::from_millisecond(entry.first_seen_ms).ok());
    let handler = said(message, reason::HANDLER).filter(|handler| *handler != "-").map(str::to_owned);
    let sent_at = system(message, &MessageSystemAttributeName::SentTimestamp)
        .and_then(|ms| Timestamp::from_millisecond(ms.parse().ok()?).ok());
    let is_foreign = decoded.as_ref().is_err_and(|error| error.class() == FailureClass::Permanent);
    let mut facts = Facts {
        message_id: own(attribute::ID),
        // A part of a list has its type only in the body.
        event_type: own(attribute::EVENT_TYPE)
            .or_else(|| webhook.and_then(|webhook| EnvelopeHead::read(&webhook.body).event_type)),
        part: webhook.and_then(|webhook| webhook.part.as_ref()).map(Part::key),
        received_at: received_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        receive_count: counted.and_then(|count| count.parse().ok()),
        first_seen: since.or(in_ledger),
        handler,
        reason: String::new(),
        sqs_message_id: message.message_id.clone(),
    };
    let in_ledger = webhook.map(|webhook| InLedger {
        id: EntryId::of(webhook),
        payload_sha256: payload_sha256(&webhook.body),
        window: webhook.window.clone(),
    });
    let found = match (decoded, said(message, reason::REASON)) {
        (_, Some(said)) => DeadLetterReason::Said(said.to_owned()),
        (Ok(webhook), None) => DeadLetterReason::find(None, Ok(&webhook), entry),
        (Err(error), None) => DeadLetterReason::find(None, Err(error), entry),
    };
    facts.reason = found.to_string();
    Letter {
        cause: Cause::of(facts.handler.as_deref(), &found),
        facts,
        sqs_id: sqs_id(message),
        sent_at,
        expires_at: sent_at.zip(kept_for).and_then(|(sent_at, kept_for)| sent_at.checked_add(kept_for).ok()),
        moved_by_sqs: system(message, &MessageSystemAttributeName::DeadLetterQueueSourceArn).is_some(),
        in_ledger,
        is_foreign,
        fingerprint: fingerprint(message.body().unwrap_or_default(), &redriven_attributes(message)),
    }
}

/// The attributes with which a letter goes back to its source queue: all but those of the reason.
pub(super) fn redriven_attributes(message: &Message) -> Attributes {
    let mut attributes = attributes(message);
    for name in [reason::REASON, reason::HANDLER, reason::DELIVERIES] {
        attributes.remove(name);
    }
    attributes
}

/// The attributes of a message, as they are sent.
pub(super) type Attributes = BTreeMap<String, MessageAttributeValue>;

/// All attributes of a message.
pub(super) fn attributes(message: &Message) -> Attributes {
    message.message_attributes.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The hash of a body and attributes: the same for two messages that are the same, byte by byte.
pub(super) fn fingerprint(body: &str, attributes: &Attributes) -> String {
    let mut bytes = Vec::new();
    // With its length in front, so that no two lists of fields have the same bytes.
    let mut add = |field: &[u8]| {
        bytes.extend((field.len() as u64).to_be_bytes());
        bytes.extend(field);
    };
    add(body.as_bytes());
    for (name, value) in attributes {
        add(name.as_bytes());
        add(value.data_type.as_bytes());
        add(value.string_value.as_deref().unwrap_or_default().as_bytes());
        add(value.binary_value.as_ref().map(AsRef::as_ref).unwrap_or_default());
    }
    payload_sha256(&bytes)
}

/// The consumer's text from when it put the message here. `None` if SQS moved it: then such an attribute is from
/// before a redrive.
fn said<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    match system(message, &MessageSystemAttributeName::DeadLetterQueueSourceArn) {
        Some(_) => None,
        None => text(message, name),
    }
}

fn text<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.message_attributes.as_ref()?.get(name)?.string_value()
}

fn system<'a>(message: &'a Message, name: &MessageSystemAttributeName) -> Option<&'a str> {
    message.attributes.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use learnink_consumer::ledger::Lease;

    use super::*;

    const EVENT: &str = r#"{"type":"example.type","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;
    const ATTRIBUTES: [(&str, &str); 6] = [
        (attribute::FORMAT_VERSION, message::FORMAT_VERSION),
        (attribute::ID, "msg_1"),
        (attribute::TIMESTAMP, "1767225600"),
        (attribute::SIGNATURE, "v1,aa"),
        (attribute::RECEIVED_AT, "1767225600123"),
        (attribute::EVENT_TYPE, "example.type"),
    ];
    const SAID: [(&str, &str); 3] = [
        (reason::REASON, "no such plan"),
        (reason::HANDLER, "progress"),
        (reason::DELIVERIES, "2 since 2026-01-01T00:00:01Z"),
    ];

    fn message(attributes: &[(&str, &str)], moved_by_sqs: bool) -> Message {
        let mut message = Message::builder()
            .message_id("sqs-1")
            .body(EVENT)
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "9")
            .attributes(MessageSystemAttributeName::SentTimestamp, "1767225700000");
        if moved_by_sqs {
            message = message.attributes(MessageSystemAttributeName::DeadLetterQueueSourceArn, "arn");
        }
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(*value);
            message = message.message_attributes(*name, value.build().unwrap());
        }
        message.build()
    }

    /// A letter of message `id` that the consumer put aside.
    pub(in crate::dlq) fn letter(id: &str, handler: &str, said: &str) -> Letter {
        let mut attributes = ATTRIBUTES;
        attributes[1].1 = id;
        let said = [(reason::REASON, said), (reason::HANDLER, handler), (reason::DELIVERIES, "1")];
        let mut message = message(&[&attributes[..], &said].concat(), false);
        message.message_id = Some(format!("sqs-of-{id}"));
        super::letter(&message, decode(&message), None, None)
    }

    fn shown(message: &Message, failure_reason: Option<&str>) -> Letter {
        let entry = Entry {
            payload_sha256: payload_sha256(EVENT.as_bytes()),
            done: BTreeSet::new(),
            // A consumer that stopped before it could record a reason has not settled either.
            lease: failure_reason.is_none().then(|| Lease { owner: "1/0".to_owned(), until_ms: 0 }),
            settled_at_ms: 0,
            first_seen_ms: 0,
            expires_at_s: 0,
            failure_reason: failure_reason.map(str::to_owned),
        };
        super::letter(message, decode(message), Some(&entry), Some(SignedDuration::from_hours(24)))
    }

    #[test]
    fn a_message_that_the_consumer_put_aside_says_why() {
        let message = message(&[&ATTRIBUTES[..], &SAID].concat(), false);
        let expected = Facts {
            message_id: Some("msg_1".to_owned()),
            event_type: Some("example.type".to_owned()),
            part: None,
            received_at: Some("2026-01-01T00:00:00.123Z".parse().unwrap()),
            receive_count: Some(2),
            first_seen: Some("2026-01-01T00:00:01Z".parse().unwrap()),
            handler: Some("progress".to_owned()),
            reason: "no such plan".to_owned(),
            sqs_message_id: Some("sqs-1".to_owned()),
        };
        let letter = shown(&message, None);
        assert_eq!(letter.facts, expected);
        assert_eq!(letter.expires_at, Some("2026-01-02T00:01:40Z".parse().unwrap()));
        assert!(!letter.moved_by_sqs && !letter.is_foreign);
        assert_eq!(letter.in_ledger.unwrap().id.as_str(), "msg_1");
    }

    #[test]
    fn one_that_sqs_moved_has_its_last_failure_whatever_was_said_before_a_redrive() {
        for attributes in [ATTRIBUTES.to_vec(), [&ATTRIBUTES[..], &SAID].concat()] {
            let letter = shown(&message(&attributes, true), Some("progress: busy"));
            assert_eq!(letter.facts.reason, "progress: busy (on its last delivery)");
            assert_eq!((letter.facts.receive_count, letter.facts.handler), (Some(9), None));
            assert_eq!(
                (letter.cause.handler.as_deref(), letter.cause.reason.as_str()),
                (Some("progress"), "busy")
            );
        }
        let crashed = shown(&message(&ATTRIBUTES, true), None);
        assert_eq!(crashed.facts.reason, DeadLetterReason::ConsumerStopped.to_string());
    }

    #[test]
    fn what_no_receiver_wrote_is_listed_too() {
        let letter = shown(&message(&[], true), None);
        assert_eq!((letter.facts.message_id, letter.facts.received_at), (None, None));
        assert_eq!(
            letter.facts.reason,
            "not written by a receiver: the attribute `format-version` is missing"
        );
        assert!(letter.is_foreign && letter.in_ledger.is_none());
    }

    #[test]
    fn what_waits_for_another_version_is_not_foreign() {
        let mut attributes = ATTRIBUTES;
        attributes[0].1 = "2";
        let letter = shown(&message(&attributes, false), None);
        assert!(!letter.is_foreign && letter.in_ledger.is_none());
    }

    #[test]
    fn a_letter_is_recognised_when_it_comes_back_with_another_reason_and_no_other_is() {
        let fingerprint = |attributes: &[(&str, &str)]| shown(&message(attributes, false), None).fingerprint;
        let known = fingerprint(&[&ATTRIBUTES[..], &SAID].concat());
        assert_eq!(fingerprint(&ATTRIBUTES), known);
        let mut other = ATTRIBUTES;
        other[1].1 = "msg_2";
        assert_ne!(fingerprint(&other), known);
        assert_ne!(fingerprint(&[&ATTRIBUTES[..], &[("note", "")]].concat()), known);
    }
}
