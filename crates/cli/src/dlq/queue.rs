//! A queue in SQS: looking at its messages, sending to it, deleting from it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName, QueueAttributeName,
};
use futures_util::{StreamExt, stream};
use learnink_aws::CallError;

use crate::aws;
use crate::output::note;

/// How long a message that was looked at stays hidden, if it could not be made visible again at once.
pub(super) const HIDDEN_FOR: Duration = Duration::from_secs(30);

/// Long polling asks all of SQS's servers; short polling may miss messages.
/// Source: Amazon SQS developer guide, "Amazon SQS short and long polling".
const WAIT_S: i32 = 1;

/// How many messages SQS returns, and accepts, at a time. Source: Amazon SQS API reference, `ReceiveMessage`.
pub(super) const MOST_AT_A_TIME: usize = 10;

/// How many requests that make messages visible again are made concurrently.
const SHOWN_AT_ONCE: usize = 8;

/// A queue, for what an operator does with it.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) client: Client,
    pub(crate) url: String,
}

/// The body and the attributes of a message to send.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, MessageAttributeValue>,
}

impl Queue {
    /// Receives up to `most` messages, and hides them.
    pub(super) async fn receive(&self, most: usize) -> anyhow::Result<Vec<Message>> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(most.min(MOST_AT_A_TIME))?)
            .visibility_timeout(HIDDEN_FOR.as_secs().try_into()?)
            .wait_time_seconds(WAIT_S)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let received = request.send().await.map_err(|error| CallError::from(&error));
        let received = received.with_context(|| format!("cannot read the queue {}", self.url))?;
        Ok(received.messages.unwrap_or_default())
    }

    /// Receives the visible messages, up to `limit`, hands each of them to `each` once, and makes them visible again. If
    /// there are fewer, returns how many more the queue has, which another receiver hides.
    pub(super) async fn look(
        &self,
        limit: usize,
        mut each: impl AsyncFnMut(Vec<Message>) -> anyhow::Result<Next>,
    ) -> anyhow::Result<usize> {
        let mut known = Received::default();
        let mut news = News::new();
        loop {
            let received = self.receive(limit - known.0.len()).await?;
            let is_empty = received.is_empty();
            let new = known.add(received);
            if !new.is_empty() {
                news.came();
                if each(new).await? == Next::Stop {
                    break;
                }
            }
            if known.0.len() >= limit || is_empty || news.are_over() {
                break;
            }
        }
        let seen = known.0.len();
        // Before they are made visible again: the embedded SQS does not count those.
        let count = if seen < limit { self.count().await } else { Ok(seen) };
        self.show_again(&known.0.into_values().collect::<Vec<_>>()).await?;
        Ok(count?.saturating_sub(seen))
    }

    /// Makes messages visible again, by their receipts. If it fails, they become visible by themselves.
    pub(super) async fn show_again(&self, receipts: &[String]) -> anyhow::Result<()> {
        let requests = receipts.chunks(MOST_AT_A_TIME).map(|receipts| {
            let entry = |(index, receipt): (usize, &String)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout(0);
                entry.build().ok()
            };
            let entries = receipts.iter().enumerate().filter_map(entry).collect();
            let request = self.client.change_message_visibility_batch().queue_url(&self.url);
            request.set_entries(Some(entries)).send()
        });
        let answers: Vec<_> = stream::iter(requests).buffer_unordered(SHOWN_AT_ONCE).collect().await;
        if answers.iter().any(Result::is_err) {
            note(format!("the messages stay hidden from others for up to {} s", HIDDEN_FOR.as_secs()))?;
        }
        Ok(())
    }

    /// How many messages it has, visible or not.
    pub(super) async fn count(&self) -> anyhow::Result<usize> {
        aws::count_messages(&self.client, &self.url).await
    }

    /// How long it keeps a message.
    pub(super) async fn retention(&self) -> anyhow::Result<Duration> {
        let name = QueueAttributeName::MessageRetentionPeriod;
        let request = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(name.clone());
        let answer = request.send().await.map_err(|error| CallError::from(&error));
        let answer = answer.with_context(|| format!("cannot read the attributes of {}", self.url))?;
        let seconds = answer.attributes.as_ref().and_then(|found| found.get(&name)?.parse().ok());
        seconds
            .map(Duration::from_secs)
            .with_context(|| format!("{} does not say how long it keeps", self.url))
    }

    /// Sends a message, and returns once SQS has confirmed it.
    pub(crate) async fn send(&self, message: Outgoing) -> anyhow::Result<()> {
        let request = self.client.send_message().queue_url(&self.url).message_body(message.body);
        let request = request.set_message_attributes(Some(message.attributes.into_iter().collect()));
        let sent = request.send().await.map_err(|error| CallError::from(&error));
        sent.with_context(|| format!("cannot send to the queue {}", self.url))?;
        Ok(())
    }

    /// Deletes ten messages at most, by their receipts.
    pub(super) async fn delete(&self, receipts: &[String]) -> anyhow::Result<()> {
        let entry = |(index, receipt): (usize, &String)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            entry.receipt_handle(receipt).build().ok()
        };
        let entries = receipts.iter().enumerate().filter_map(entry).collect();
        let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|error| CallError::from(&error));
        let answer = answer.with_context(|| format!("cannot delete from the queue {}", self.url))?;
        let Some(failed) = answer.failed.first() else { return Ok(()) };
        let count = answer.failed.len();
        anyhow::bail!(
            "cannot delete {count} of {} messages from the queue {} ({})",
            receipts.len(),
            self.url,
            failed.code
        )
    }
}

/// The name of a message for SQS; without one it cannot be told from others.
pub(super) fn sqs_id(message: &Message) -> String {
    message.message_id.clone().unwrap_or_default()
}

/// The receipt with which a message is deleted or made visible again.
pub(super) fn receipt(message: &Message) -> String {
    message.receipt_handle.clone().unwrap_or_default()
}

/// The messages that were received from a queue, with the receipt of each. A message is received again once it is no
/// longer hidden.
#[derive(Debug, Default)]
struct Received(HashMap<String, String>);

impl Received {
    /// Adds messages, and returns those that are new. For a known one, the newer receipt is kept: an older one cannot
    /// make it visible again.
    fn add(&mut self, messages: Vec<Message>) -> Vec<Message> {
        let is_new = |message: &Message| self.0.insert(sqs_id(message), receipt(message)).is_none();
        messages.into_iter().filter(is_new).collect()
    }
}

/// Whether a look at a queue goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Stop,
}

/// How long ago something new was seen on a queue.
#[derive(Debug)]
pub(super) struct News(Instant);

impl News {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    pub(super) fn came(&mut self) {
        self.0 = Instant::now();
    }

    /// Whether every message that was hidden by a look has been visible again since.
    pub(super) fn are_over(&self) -> bool {
        self.0.elapsed() > HIDDEN_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_comes_again_is_seen_once_and_shown_again_by_its_newest_receipt() {
        let message =
            |id: &str, receipt: &str| Message::builder().message_id(id).receipt_handle(receipt).build();
        let mut received = Received::default();
        assert_eq!(received.add(vec![message("a", "1"), message("b", "2")]).len(), 2);
        assert_eq!(received.add(vec![message("a", "3"), message("c", "4")]), [message("c", "4")]);
        assert!(received.add(vec![message("b", "5")]).is_empty());
        let mut receipts: Vec<_> = received.0.into_values().collect();
        receipts.sort();
        assert_eq!(receipts, ["3", "4", "5"]);
    }
}
