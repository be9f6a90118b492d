//! The messages that a schedule sends.

use std::collections::BTreeSet;

use aws_lambda_events::sqs::{SqsMessage, SqsMessageAttribute};
use jiff::Timestamp;
use learnink_consumer::ledger::EntryId;
use learnink_webhook::idempotency::run_key;
use learnink_webhook::message::Part;
use learnink_webhook::{Message, MessageId};

use crate::world::START_MS;

/// A longer list is cut into parts of this length.
pub(crate) const LONGEST_PART: usize = 4;

/// The content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A type with two handlers, beside the one for any event.
    Course,
    /// A type with a handler for its items, as many as fit into one message's work.
    List,
    /// The same with more items: it is cut into parts.
    LongList,
    /// A type without a handler, except the one for any webhook.
    Unknown,
    /// Bytes that are not an event.
    NoEvent,
}

/// One message as the receiver stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) id: MessageId,
    pub(crate) content: Content,
    /// Whether another message has the same id and another body: one of the two is not genuine.
    pub(crate) is_forged: bool,
    /// When the receiver accepted it, in milliseconds since the epoch.
    pub(crate) received_at_ms: i64,
    /// The part of the list that it is, if any.
    pub(crate) part: Option<Part>,
    /// The replay window under which an operator has sent it again, if one has.
    pub(crate) window: Option<String>,
}

impl Content {
    /// How many items its list has.
    pub(crate) const fn items(self) -> usize {
        match self {
            Self::List => LONGEST_PART,
            Self::LongList => 2 * LONGEST_PART + 2,
            Self::Course | Self::Unknown | Self::NoEvent => 0,
        }
    }
}

impl Sent {
    /// Its entry in the ledger.
    pub(crate) fn entry_id(&self) -> EntryId {
        EntryId::of(&self.message())
    }

    /// The ledger's keys when all is done.
    pub(crate) fn all_done(&self) -> BTreeSet<String> {
        if let Some(part) = &self.part {
            return BTreeSet::from([part.task().to_owned()]);
        }
        if let Some(window) = &self.window {
            return BTreeSet::from([run_key(window)]);
        }
        self.handlers()
    }

    /// The handlers that take it.
    pub(crate) fn handlers(&self) -> BTreeSet<String> {
        let handlers: &[&str] = match self.content {
            Content::Course => &["progress", "streaks", "audit"],
            Content::List | Content::LongList => &["push", "audit"],
            Content::Unknown | Content::NoEvent => &["audit"],
        };
        handlers.iter().map(ToString::to_string).collect()
    }

    pub(crate) const fn event_type(&self) -> &'static str {
        match self.content {
            Content::Course => "user.course.started",
            Content::List | Content::LongList => "notifications.sent",
            Content::Unknown => "example.unknown",
            Content::NoEvent => "",
        }
    }

    fn body(&self) -> Vec<u8> {
        let event_type = self.event_type();
        let data = match self.content {
            Content::Course => r#"{"user_id":"u","course_id":"c"}"#,
            Content::List => r#"{"notifications":[]}"#,
            Content::LongList => r#"{"notifications":[null]}"#,
            Content::Unknown => "{}",
            Content::NoEvent => return b"no event".to_vec(),
        };
        let forged = if self.is_forged { " " } else { "" };
        let at = "2023-11-14T22:00:00Z";
        format!(
            r#"{{"type":"{event_type}","api_version":"2022-11-15","timestamp":"{at}",{forged}"data":{data}}}"#
        )
        .into_bytes()
    }

    /// The message as the receiver made it.
    pub(crate) fn message(&self) -> Message {
        Message {
            id: self.id.clone(),
            signed_at_s: START_MS / 1000,
            signature: "v1,none".to_owned(),
            received_at: Timestamp::from_millisecond(self.received_at_ms).unwrap(),
            event_type: None,
            body: self.body(),
            part: self.part.clone(),
            window: self.window.clone(),
        }
    }

    /// The record of a delivery.
    pub(crate) fn record(&self, sqs_id: &str, receive_count: u32) -> SqsMessage {
        let encoded = self.message().encode().unwrap();
        let mut record = SqsMessage::default();
        record.message_id = Some(sqs_id.to_owned());
        record.receipt_handle = Some(format!("{sqs_id}/{receive_count}"));
        record.body = Some(encoded.body);
        record.attributes.insert("ApproximateReceiveCount".to_owned(), receive_count.to_string());
        for attribute in encoded.attributes {
            let mut value = SqsMessageAttribute::default();
            value.data_type = Some(attribute.data_type.to_owned());
            value.string_value = Some(attribute.value);
            record.message_attributes.insert(attribute.name.to_owned(), value);
        }
        record
    }
}
