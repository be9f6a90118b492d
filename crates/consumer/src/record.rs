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
