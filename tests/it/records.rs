//! Records as the event source mapping passes them to the consumer.

use std::time::Duration;

use aws_lambda_events::sqs::{SqsEvent, SqsMessage, SqsMessageAttribute};
use aws_sdk_sqs::types::Message as SqsSdkMessage;
use jiff::Timestamp;
use learnink_tests::engine::Engine;
use learnink_webhook::{Message, MessageId};

/// When the receiver accepted every message here, in seconds since the epoch.
pub(crate) const RECEIVED_AT_S: i64 = 1_700_000_000;

/// How many events a test is about: `EVENTS`, or else `default`, which keeps the check short.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
pub(crate) fn events(default: u32) -> u32 {
    std::env::var("EVENTS").map_or(default, |events| events.parse().unwrap())
}

/// How long to wait for something that so many events take part in.
pub(crate) fn patience(default: Duration) -> Duration {
    default.max(Duration::from_millis(500) * events(0))
}

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
        window: None,
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

/// The record, with this receive count.
pub(crate) fn counted(mut record: SqsMessage, receive_count: u32) -> SqsMessage {
    record.attributes.insert("ApproximateReceiveCount".to_owned(), receive_count.to_string());
    record
}

/// A delivery of a message from a queue.
pub(crate) fn delivery(message: &SqsSdkMessage, receive_count: u32) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.message_id.clone_from(&message.message_id);
    record.body.clone_from(&message.body);
    for (name, value) in message.message_attributes.iter().flatten() {
        let mut attribute = SqsMessageAttribute::default();
        attribute.data_type = Some(value.data_type.clone());
        attribute.string_value.clone_from(&value.string_value);
        record.message_attributes.insert(name.clone(), attribute);
    }
    counted(record, receive_count)
}

/// Receives all messages of a queue.
pub(crate) async fn drain(engine: &Engine, url: &str) -> Vec<SqsSdkMessage> {
    let client = engine.sqs_client();
    let mut all = Vec::new();
    loop {
        let receive = client.receive_message().queue_url(url).max_number_of_messages(10);
        let received = receive.message_attribute_names("All").send().await.unwrap();
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            return all;
        }
        for message in &messages {
            let delete = client.delete_message().queue_url(url);
            delete.set_receipt_handle(message.receipt_handle.clone()).send().await.unwrap();
        }
        all.extend(messages);
    }
}
