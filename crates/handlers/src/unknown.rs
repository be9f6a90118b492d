//! Every type without a handler: the event is kept until you write one.
//!
//! LearnInk's catalog has more types than are public, and will have more than it has today. None
//! may be lost or fail anything, so an event that nobody handles goes to a table, as it was signed.
//! Once there is a handler, LearnInk's Replay brings such an event back, and it runs: the ledger
//! remembers per handler.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_webhook::{Event, HandlerError, HandlerResult};
use serde::Serialize;

use crate::App;

/// How long such an event is kept, in seconds: 90 days.
const KEPT_FOR_S: i64 = 90 * 24 * 60 * 60;

/// A body over this is dead-lettered instead: DynamoDB takes 400 KB in an item with all its names.
/// Source: DynamoDB developer guide, "Service, account, and table quotas".
const LARGEST_BODY_BYTES: usize = 390 * 1024;

/// Keeps an event that nobody handles.
pub async fn keep(event: Event, app: App) -> HandlerResult {
    let bytes = event.message.body.len();
    if bytes > LARGEST_BODY_BYTES {
        return Err(HandlerError::permanent(format!(
            "no handler takes this event, and its {bytes} bytes are too many to keep it in the table"
        )));
    }
    app.unknown_events.keep(&event).await.map_err(HandlerError::quoting)
}

/// What is shown of a kept event; its payload stays in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnknownEvent {
    /// The event type.
    pub event_type: String,
    /// Its `api_version`.
    pub api_version: String,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The message id, by which LearnInk's dashboard finds it.
    pub message_id: String,
}

/// The table of events without a handler, keyed by `message_id`.
#[derive(Debug, Clone)]
pub struct UnknownEvents {
    client: Client,
    table: String,
}

/// The table did not answer, or holds a row that [`UnknownEvents`] did not write. Retryable.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} the table of unknown events")]
pub struct UnknownEventsError {
    operation: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl UnknownEvents {
    /// The table named `table`.
    pub fn new(aws: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(aws), table: table.into() }
    }

    async fn keep(&self, event: &Event) -> Result<(), UnknownEventsError> {
        let (message, envelope) = (&event.message, &event.envelope);
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let number = |value: i64| AttributeValue::N(value.to_string());
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("message_id", text(message.id.as_str()))
            .item("event_type", text(&envelope.event_type))
            .item("api_version", text(&envelope.api_version))
            .item("occurred_at_ms", number(envelope.occurred_at.as_millisecond()))
            .item("svix_timestamp", number(message.signed_at_s))
            .item("svix_signature", text(&message.signature))
            .item("body", AttributeValue::B(Blob::new(message.body.clone())))
            .item("expires_at", number(message.received_at.as_second().saturating_add(KEPT_FOR_S)));
        let failed = |error| UnknownEventsError { operation: "write to", source: Box::new(error) };
        put.send().await.map_err(failed)?;
        Ok(())
    }

    /// Every kept event, ordered by type, version and time.
    ///
    /// # Errors
    ///
    /// [`UnknownEventsError`] when DynamoDB did not answer, or a row is not one of ours.
    pub async fn all(&self) -> Result<Vec<UnknownEvent>, UnknownEventsError> {
        let failed = |source| UnknownEventsError { operation: "read", source };
        let scan = self
            .client
            .scan()
            .table_name(&self.table)
            .projection_expression("message_id, event_type, api_version, occurred_at_ms");
        let mut items = scan.into_paginator().items().send();
        let mut events = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| failed(error.into()))?;
            let text = |name: &str| item.get(name)?.as_s().ok().cloned();
            let occurred_at = || {
                let milliseconds = item.get("occurred_at_ms")?.as_n().ok()?.parse().ok()?;
                Timestamp::from_millisecond(milliseconds).ok()
            };
            let event = || {
                Some(UnknownEvent {
                    event_type: text("event_type")?,
                    api_version: text("api_version")?,
                    occurred_at: occurred_at()?,
                    message_id: text("message_id")?,
                })
            };
            events.push(event().ok_or_else(|| failed("a row is not one that this program writes".into()))?);
        }
        events.sort();
        Ok(events)
    }
}
