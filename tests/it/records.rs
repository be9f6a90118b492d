//! Records as the event source mapping hands them to the consumer.

use aws_lambda_events::sqs::{SqsEvent, SqsMessage, SqsMessageAttribute};
use jiff::Timestamp;
use learnink_webhook::{Message, MessageId};

/// When the receiver took every message here, in seconds since the epoch.
pub(crate) const RECEIVED_AT_S: i64 = 1_700_000_000;

/// A message with this id and body.
pub(crate) fn message(id: &str, body: String) -> Message {
    Message {
        id: MessageId::parse(id).unwrap(),
        signed_at_s: RECEIVED_AT_S,
        signature: "v1,none".to_owned(),
        received_at: Timestamp::from_second(RECEIVED_AT_S).unwrap(),
        event_type: None,
        body: body.into_bytes(),
        part: None,
    }
}

/// The record of such a message, delivered for the third time.
pub(crate) fn record(sqs_message_id: &str, id: &str, body: String) -> SqsMessage {
    let encoded = message(id, body).encode().unwrap();
    let mut record = SqsMessage::default();
    record.message_id = Some(sqs_message_id.to_owned());
    record.body = Some(encoded.body);
    record.attributes.insert("ApproximateReceiveCount".to_owned(), "3".to_owned());
    for attribute in encoded.attributes {
        let mut value = SqsMessageAttribute::default();
        value.data_type = Some(attribute.data_type.to_owned());
        value.string_value = Some(attribute.value);
        record.message_attributes.insert(attribute.name.to_owned(), value);
    }
    record
}

/// A batch of these records.
pub(crate) fn batch(records: Vec<SqsMessage>) -> SqsEvent {
    let mut batch = SqsEvent::default();
    batch.records = records;
    batch
}
