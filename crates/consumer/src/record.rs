//! One record as SQS delivers it.

use aws_lambda_events::sqs::{SqsMessage, SqsMessageAttribute};
use learnink_webhook::message::{DecodeError, Message};

/// A view of one record of a batch.
#[derive(Clone, Copy)]
pub struct Record<'a>(pub &'a SqsMessage);

impl<'a> Record<'a> {
    /// SQS's id of it, new on every send. It only tells SQS which record failed.
    pub fn sqs_message_id(self) -> &'a str {
        self.0.message_id.as_deref().unwrap_or_default()
    }

    /// The receipt handle, for `ChangeMessageVisibility`.
    pub fn receipt_handle(self) -> Option<&'a str> {
        self.0.receipt_handle.as_deref()
    }

    /// How often it was delivered, including this time. SQS counts from the start after a redrive.
    pub fn receive_count(self) -> u32 {
        let count = self.0.attributes.get("ApproximateReceiveCount");
        count.and_then(|count| count.parse().ok()).unwrap_or(1)
    }

    /// The body as SQS carried it.
    pub fn body(self) -> &'a str {
        self.0.body.as_deref().unwrap_or_default()
    }

    /// The attributes as SQS carried them.
    pub fn attributes(self) -> impl ExactSizeIterator<Item = (&'a String, &'a SqsMessageAttribute)> {
        self.0.message_attributes.iter()
    }

    /// The webhook inside.
    pub fn decode(self) -> Result<Message, DecodeError> {
        Message::decode(self.body(), |name| self.0.message_attributes.get(name)?.string_value.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(json: serde_json::Value) -> SqsMessage {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_record_is_what_sqs_said() {
        let message = message(json!({
            "messageId": "059f36b4",
            "receiptHandle": "AQEB",
            "body": "{}",
            "attributes": { "ApproximateReceiveCount": "3" },
            "messageAttributes": { "svix-id": { "dataType": "String", "stringValue": "msg_1" } },
        }));
        let record = Record(&message);
        assert_eq!((record.sqs_message_id(), record.receipt_handle()), ("059f36b4", Some("AQEB")));
        assert_eq!((record.body(), record.receive_count()), ("{}", 3));
        assert_eq!(record.attributes().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["svix-id"]);
    }

    #[test]
    fn a_record_without_a_count_is_delivered_for_the_first_time() {
        let message = message(json!({ "attributes": {}, "messageAttributes": {} }));
        let record = Record(&message);
        assert_eq!((record.sqs_message_id(), record.receipt_handle(), record.body()), ("", None, ""));
        assert_eq!(record.receive_count(), 1);
    }
}
