//! The event source mapping between SQS and Lambda, on a laptop.
//!
//! It receives up to a batch, invokes the function, and deletes the messages that the answer does not name as
//! failed. The rest is delivered again when its visibility timeout ends, and SQS moves it to the dead-letter queue
//! after its last delivery.
//! Source: AWS Lambda developer guide, "Handling errors for an SQS event source in Lambda".

use std::future::Future;
use std::time::Duration;

use aws_lambda_events::encodings::Base64Data;
use aws_lambda_events::sqs::{SqsEvent, SqsMessage, SqsMessageAttribute};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use learnink_webhook::error::with_causes;
use serde_json::Value;
use tokio::sync::watch;

/// The most records in a batch without a batching window, and the template's `BatchSize`.
pub const BATCH_SIZE: i32 = 10;

/// How long a poll waits for a message, in seconds: short, so that the program ends quickly.
const WAIT_S: i32 = 1;

/// A pause after a poll that SQS did not answer.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One poller of one queue.
#[derive(Debug, Clone)]
pub struct EventSource {
    client: Client,
    queue_url: String,
}

impl EventSource {
    /// A poller of the queue at `queue_url`.
    pub fn new(client: Client, queue_url: impl Into<String>) -> Self {
        Self { client, queue_url: queue_url.into() }
    }

    /// Polls and invokes `function` until `stopped` is set and no message is visible any more. `function` gets a
    /// batch and returns its answer as JSON, or `None` if it failed.
    pub async fn run<F, Fut>(&self, function: F, stopped: watch::Receiver<bool>)
    where
        F: Fn(SqsEvent) -> Fut,
        Fut: Future<Output = Option<Value>>,
    {
        loop {
            let stopping = *stopped.borrow();
            match self.poll(WAIT_S, &function).await {
                Ok(0) if stopping => return,
                Ok(_) => {}
                Err(problem) => {
                    tracing::error!(problem, "the queue cannot be polled");
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    /// One poll that waits for up to `wait_s` seconds, and one invocation if it found messages. Returns how many
    /// it found.
    ///
    /// # Errors
    ///
    /// The error of SQS, if it could not be polled.
    pub async fn poll<F, Fut>(&self, wait_s: i32, function: &F) -> Result<usize, String>
    where
        F: Fn(SqsEvent) -> Fut,
        Fut: Future<Output = Option<Value>>,
    {
        let received = self
            .client
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(BATCH_SIZE)
            .wait_time_seconds(wait_s)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .map_err(|error| with_causes(&error))?;
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(0);
        }
        let ids: Vec<_> = messages.iter().filter_map(|message| message.message_id.clone()).collect();
        let mut batch = SqsEvent::default();
        batch.records = messages.iter().map(record).collect();
        let answer = function(batch).await;
        let failed = failures(&ids, answer.as_ref());
        self.delete(messages.iter().zip(failed).filter(|(_, failed)| !failed).map(|(message, _)| message))
            .await;
        Ok(ids.len())
    }

    async fn delete(&self, messages: impl Iterator<Item = &Message>) {
        let entry = |(index, message): (usize, &Message)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            entry.set_receipt_handle(message.receipt_handle.clone()).build().ok()
        };
        let entries: Vec<_> = messages.enumerate().filter_map(entry).collect();
        if entries.is_empty() {
            return;
        }
        let request = self.client.delete_message_batch().queue_url(&self.queue_url);
        if let Err(error) = request.set_entries(Some(entries)).send().await {
            // They are delivered again, and the ledger deduplicates them.
            tracing::warn!(error = with_causes(&error), "handled messages could not be deleted");
        }
    }
}

/// Which of the batch's messages failed, as Lambda reads the function's answer: no answer is a
/// failed invocation and fails all; an empty or missing list is complete success; a list with an
/// entry that names none of them fails all.
fn failures(ids: &[String], answer: Option<&Value>) -> Vec<bool> {
    let Some(answer) = answer else { return vec![true; ids.len()] };
    let Some(listed) = answer.get("batchItemFailures").filter(|list| !list.is_null()) else {
        return vec![false; ids.len()];
    };
    let Some(listed) = listed.as_array() else { return vec![true; ids.len()] };
    let named: Vec<_> =
        listed.iter().map(|item| item.get("itemIdentifier").and_then(Value::as_str)).collect();
    let is_ours = |name: Option<&str>| name.is_some_and(|name| ids.iter().any(|id| id == name));
    if !named.iter().copied().all(is_ours) {
        return vec![true; ids.len()];
    }
    ids.iter().map(|id| named.contains(&Some(id.as_str()))).collect()
}

/// The message as Lambda passes it to the function.
fn record(message: &Message) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.message_id.clone_from(&message.message_id);
    record.receipt_handle.clone_from(&message.receipt_handle);
    record.body.clone_from(&message.body);
    record.event_source = Some("aws:sqs".to_owned());
    record.aws_region = Some(crate::REGION.to_owned());
    for (name, value) in message.attributes.iter().flatten() {
        record.attributes.insert(name.as_str().to_owned(), value.clone());
    }
    for (name, value) in message.message_attributes.iter().flatten() {
        let mut attribute = SqsMessageAttribute::default();
        attribute.data_type = Some(value.data_type.clone());
        attribute.string_value.clone_from(&value.string_value);
        attribute.binary_value = value.binary_value.as_ref().and_then(|bytes| base64_data(bytes.as_ref()));
        record.message_attributes.insert(name.clone(), attribute);
    }
    record
}

/// The type has no constructor, only the form in which Lambda sends it.
fn base64_data(bytes: &[u8]) -> Option<Base64Data> {
    serde_json::from_value(Value::String(BASE64.encode(bytes))).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_as_lambda_reads_it() {
        let ids = ["a".to_owned(), "b".to_owned()];
        let named = |id: Value| json!({ "batchItemFailures": [{ "itemIdentifier": id }] });
        let cases = [
            (Some(json!({ "batchItemFailures": [] })), [false, false]),
            (Some(json!({ "batchItemFailures": null })), [false, false]),
            (Some(json!({})), [false, false]),
            (Some(json!(null)), [false, false]),
            (Some(json!({ "batch_item_failures": [{ "itemIdentifier": "a" }] })), [false, false]),
            (Some(named(json!("b"))), [false, true]),
            (Some(named(json!(""))), [true, true]),
            (Some(named(json!(null))), [true, true]),
            (Some(named(json!("unknown"))), [true, true]),
            (Some(json!({ "batchItemFailures": [{ "itemidentifier": "a" }] })), [true, true]),
            (Some(json!({ "batchItemFailures": "a" })), [true, true]),
            (None, [true, true]),
        ];
        for (answer, expected) in cases {
            assert_eq!(failures(&ids, answer.as_ref()), expected, "{answer:?}");
        }
    }
}
