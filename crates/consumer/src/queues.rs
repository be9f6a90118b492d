//! The next step of a record that is not done: it is hidden on the source queue for a while, sent there as a new
//! message, or copied to the dead-letter queue.

use std::future::Future;
use std::time::Duration;

use aws_lambda_events::sqs::SqsMessageAttribute;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::MessageAttributeValue;
use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_webhook::message::{self, PART_FORMAT_VERSION, Part};

use crate::call_limits;
use crate::record::Record;

/// The attributes that a dead letter has besides those of its message. SQS takes ten in all; the receiver writes
/// seven at most.
pub mod attribute {
    /// Why it will never succeed, without payload and personal data.
    pub const REASON: &str = "dead-letter-reason";
    /// The handler that said so; `-` where no handler ran.
    pub const HANDLER: &str = "dead-letter-handler";
    /// How often it had been delivered, and since when, if the ledger knows it: `3` or
    /// `3 since 2026-01-02T10:00:00Z`. One attribute, because SQS does not have room for two.
    pub const DELIVERIES: &str = "dead-letter-deliveries";
}

/// SQS refuses a message with more attributes.
/// Source: Amazon SQS developer guide, "Amazon SQS message metadata".
const MOST_ATTRIBUTES: usize = 10;

/// A longer reason is cut: it has to fit into the space that the receiver leaves free.
const LONGEST_REASON_BYTES: usize = 1024;

/// The queue that the records came from, and its dead-letter queue. [`SqsQueues`] in production; in the model
/// test, two lists that fail on purpose.
pub trait Queues: Sync {
    /// Copies a record to the dead-letter queue, as it is, with the reason beside it.
    ///
    /// # Errors
    ///
    /// [`CopyError`] when the copy was not confirmed: the record has to stay.
    fn dead_letter(
        &self,
        record: Record<'_>,
        why: DeadLetter<'_>,
    ) -> impl Future<Output = Result<(), CopyError>> + Send;

    /// Sends a record to the source queue once more, as a message with deliveries of its own. With a `part`, the
    /// new message is about that part of the list only. It is hidden for `delay` first, 15 minutes at most.
    ///
    /// # Errors
    ///
    /// [`CopyError`] when the copy was not confirmed: the record has to stay.
    fn send_again(
        &self,
        record: Record<'_>,
        part: Option<&Part>,
        delay: Duration,
    ) -> impl Future<Output = Result<(), CopyError>> + Send;

    /// Hides a failed record for `delay`, which is under 12 hours. When that fails, the queue's visibility timeout
    /// applies: the message is delivered later than necessary, and nothing is lost. Returns whether the delay was
    /// set.
    fn back_off(&self, record: Record<'_>, delay: Duration) -> impl Future<Output = bool> + Send;
}

/// The two queues in SQS.
#[derive(Debug, Clone)]
pub struct SqsQueues {
    client: Client,
    source_url: String,
    dead_letter_url: String,
}

/// SQS hides a new message for 15 minutes at most.
/// Source: Amazon SQS API reference, `SendMessage`.
const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// A message that could not be copied. It stays where it is: SQS moves it to the dead-letter queue after its last
/// delivery.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The message has too many attributes for a reason beside them.
    #[error("the message has {attributes} attributes; no room for the reason")]
    NoRoom {
        /// How many it has.
        attributes: usize,
    },
    /// An attribute that SQS delivered cannot be sent again.
    #[error("an attribute has no type")]
    Attribute(#[from] BuildError),
    /// SQS did not confirm the copy.
    #[error("SQS did not confirm the copy")]
    Send(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a message will never succeed.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// No payload, no personal data.
    pub reason: &'a str,
    /// The handler that said so, if one ran.
    pub handler: Option<&'a str>,
    /// When the consumer first claimed it, if it did.
    pub first_seen: Option<Timestamp>,
}

impl SqsQueues {
    /// The two queues by their URLs, with the consumer's time limits instead of those in `config`.
    pub fn new(
        config: &aws_config::SdkConfig,
        source_url: impl Into<String>,
        dead_letter_url: impl Into<String>,
    ) -> Self {
        let config = aws_sdk_sqs::config::Builder::from(config).timeout_config(call_limits()).build();
        Self {
            client: Client::from_conf(config),
            source_url: source_url.into(),
            dead_letter_url: dead_letter_url.into(),
        }
    }
}

impl Queues for SqsQueues {
    async fn dead_letter(&self, record: Record<'_>, why: DeadLetter<'_>) -> Result<(), CopyError> {
        let deliveries = match why.first_seen {
            Some(since) => format!("{} since {since}", record.receive_count()),
            None => record.receive_count().to_string(),
        };
        let added = [
            (attribute::REASON, why.reason),
            (attribute::HANDLER, why.handler.unwrap_or("-")),
            (attribute::DELIVERIES, &deliveries),
        ];
        // A redriven message still has its previous reason: replaced, not kept.
        let kept: Vec<_> =
            record.attributes().filter(|(name, _)| added.iter().all(|(new, _)| name != new)).collect();
        if kept.len() + added.len() > MOST_ATTRIBUTES {
            return Err(CopyError::NoRoom { attributes: kept.len() });
        }
        let request = self.client.send_message().queue_url(&self.dead_letter_url);
        send(request, record.body(), kept, added).await
    }

    async fn send_again(
        &self,
        record: Record<'_>,
        part: Option<&Part>,
        delay: Duration,
    ) -> Result<(), CopyError> {
        let part = part.map(ToString::to_string);
        let added = part.as_deref().map(|part| {
            [(message::attribute::FORMAT_VERSION, PART_FORMAT_VERSION), (message::attribute::PART, part)]
        });
        // Of a redriven dead letter, only the webhook is kept. A part drops the type, which its body has, to leave
        // room for the reason of a dead letter; and the window, which its task has.
        let is_dropped = |name: &str| {
            let is_of_dead_letter =
                [attribute::REASON, attribute::HANDLER, attribute::DELIVERIES].contains(&name);
            let is_of_whole =
                [message::attribute::EVENT_TYPE, message::attribute::REPLAY_WINDOW].contains(&name);
            is_of_dead_letter || (part.is_some() && is_of_whole)
        };
        let is_replaced = |name: &str| added.iter().flatten().any(|(new, _)| *new == name);
        let kept = record.attributes().filter(|(name, _)| !is_dropped(name) && !is_replaced(name)).collect();
        let seconds = delay.min(LONGEST_DELAY).as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, reason = "it is 15 minutes at most")]
        let request = self.client.send_message().queue_url(&self.source_url).delay_seconds(seconds as i32);
        send(request, record.body(), kept, added.into_iter().flatten()).await
    }

    async fn back_off(&self, record: Record<'_>, delay: Duration) -> bool {
        let Some(receipt_handle) = record.receipt_handle() else { return false };
        let seconds = delay.as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, reason = "a backoff is under 12 hours")]
        let request = self
            .client
            .change_message_visibility()
            .queue_url(&self.source_url)
            .receipt_handle(receipt_handle)
            .visibility_timeout(seconds as i32);
        let set = request.send().await;
        if let Err(error) = &set {
            tracing::warn!(
                sqs.message_id = record.sqs_message_id(),
                error = %CallError::from(error),
                "could not set the delay of a retry"
            );
        }
        set.is_ok()
    }
}

/// Sends a record's body with its kept attributes and the added ones.
async fn send<'a>(
    request: SendMessageFluentBuilder,
    body: &str,
    kept: Vec<(&String, &SqsMessageAttribute)>,
    added: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), CopyError> {
    let mut request = request.message_body(body);
    for (name, value) in kept {
        request = request.message_attributes(name, copy(value)?);
    }
    for (name, value) in added {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
        request = request.message_attributes(name, value);
    }
    let sent = Box::pin(request.send()).await;
    sent.map(|_| ()).map_err(|error| CopyError::Send(Box::new(CallError::from(&error))))
}

fn copy(attribute: &SqsMessageAttribute) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder()
        .set_data_type(attribute.data_type.clone())
        .set_string_value(attribute.string_value.clone())
        .set_binary_value(attribute.binary_value.clone().map(|bytes| Blob::new(bytes.0)))
        .build()
}

/// A reason that SQS accepts as an attribute: not empty, not long, without control characters.
pub(crate) fn to_attribute_value(reason: &str) -> String {
    let refused = |char: char| char.is_control() || matches!(char, '\u{FFFE}' | '\u{FFFF}');
    let cut = &reason[..reason.floor_char_boundary(LONGEST_REASON_BYTES)];
    match cut.replace(refused, " ") {
        text if text.trim().is_empty() => "no reason given".to_owned(),
        text => text,
    }
}

#[cfg(test)]
mod tests;
