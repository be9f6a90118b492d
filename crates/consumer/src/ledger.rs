//! Claims and completions in DynamoDB.
//!
//! One item per message. The rules are [`judge`]'s; here they stand once more as a condition, so
//! that a claim takes one round trip. When the condition fails, DynamoDB returns the item that
//! made it fail, and `judge` says what that means.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use learnink_webhook::MessageId;
use learnink_webhook::ledger::{Claim, ClaimRequest, Entry, Lease, expires_at_s, judge};

use crate::call_limits;

/// The attributes of an item; `failure_reason` besides them is for people.
mod attribute {
    pub(super) const MESSAGE_ID: &str = "message_id";
    pub(super) const PAYLOAD_SHA256: &str = "payload_sha256";
    pub(super) const DONE: &str = "done_handlers";
    pub(super) const LEASE_OWNER: &str = "lease_owner";
    pub(super) const LEASE_UNTIL_MS: &str = "lease_until_ms";
    pub(super) const EXPIRES_AT: &str = "expires_at";
}

/// An item that is not there, or expired, or of this payload with work left that nobody is at.
const MAY_CLAIM: &str = "attribute_not_exists(message_id) OR (expires_at > :now_s \
    AND payload_sha256 = :payload AND NOT (all_done) \
    AND (attribute_not_exists(lease_owner) OR lease_until_ms <= :now_ms))";

/// The ledger's table.
#[derive(Debug, Clone)]
pub struct Ledger {
    client: Client,
    table: String,
}

/// The ledger did not answer, or holds an item that it did not write. Retryable.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} in the ledger")]
pub struct LedgerError {
    operation: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What an owner leaves behind.
#[derive(Debug, Clone, Copy)]
pub struct Settlement<'a> {
    /// The message.
    pub id: &'a MessageId,
    /// Who claimed it.
    pub owner: &'a str,
    /// The handlers that finished under this claim.
    pub done: &'a [&'static str],
    /// Why the rest did not, for the person on call: no payload, no personal data.
    pub reason: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// Whether a [`Settlement`] was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Recorded, and the claim let go.
    Recorded,
    /// The lease ended and somebody else has claimed it: nothing was recorded.
    LeaseLost,
}

impl Ledger {
    /// The ledger in `table`, with the consumer's time limits instead of those in `config`.
    pub fn new(config: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(config).timeout_config(call_limits()).build();
        Self { client: Client::from_conf(config), table: table.into() }
    }

    /// Asks for leave to work on a message.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer. The claim may have been made all the same;
    /// it ends with its lease.
    pub async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        const OPERATION: &str = "claim a message";
        let placeholders: Vec<_> = (0..request.handlers.len()).map(|n| format!(":handler{n}")).collect();
        let all_done: Vec<_> =
            placeholders.iter().map(|name| format!("contains(done_handlers, {name})")).collect();
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::MESSAGE_ID, string(request.id.as_str()))
            .update_expression(
                "SET payload_sha256 = :payload, lease_owner = :owner, lease_until_ms = :until_ms, \
                 expires_at = :expires_at",
            )
            .condition_expression(MAY_CLAIM.replace("all_done", &all_done.join(" AND ")))
            .expression_attribute_values(":payload", string(request.payload_sha256))
            .expression_attribute_values(":owner", string(request.owner))
            .expression_attribute_values(":until_ms", number(request.lease_until_ms()))
            .expression_attribute_values(":expires_at", number(request.expires_at_s()))
            .expression_attribute_values(":now_ms", number(request.now.as_millisecond()))
            .expression_attribute_values(":now_s", number(request.now.as_second()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update =
            placeholders.into_iter().zip(request.handlers).fold(update, |update, (name, handler)| {
                update.expression_attribute_values(name, string(handler))
            });
        let entry = match update.send().await {
            Ok(written) => {
                let done = done_handlers(&written.attributes.unwrap_or_default());
                return Ok(Claim::Acquired { done });
            }
            Err(error) => conflict(OPERATION, error, blocking_item)?,
        };
        match judge(Some(&entry), request) {
            Claim::Acquired { .. } if entry.has_expired(request.now) => self.replace(request).await,
            claim => Ok(claim),
        }
    }

    /// Starts anew over an item that expired and that DynamoDB has not deleted yet, unless
    /// somebody else did so first.
    async fn replace(&self, request: &ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(attribute::MESSAGE_ID, string(request.id.as_str()))
            .item(attribute::PAYLOAD_SHA256, string(request.payload_sha256))
            .item(attribute::LEASE_OWNER, string(request.owner))
            .item(attribute::LEASE_UNTIL_MS, number(request.lease_until_ms()))
            .item(attribute::EXPIRES_AT, number(request.expires_at_s()))
            .condition_expression("expires_at <= :now_s")
            .expression_attribute_values(":now_s", number(request.now.as_second()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await {
            Ok(_) => Ok(judge(None, request)),
            Err(error) => {
                let entry = conflict("replace an expired entry", error, |error| match error {
                    PutItemError::ConditionalCheckFailedException(failure) => failure.item.as_ref(),
                    _ => None,
                })?;
                Ok(judge(Some(&entry), request))
            }
        }
    }

    /// Records what finished and lets the claim go, in one write.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn settle(&self, settlement: &Settlement<'_>) -> Result<Settled, LedgerError> {
        const OPERATION: &str = "record what finished";
        let (set_reason, remove_reason) = match settlement.reason {
            Some(_) => (", failure_reason = :reason", ""),
            None => ("", ", failure_reason"),
        };
        let add = if settlement.done.is_empty() { "" } else { " ADD done_handlers :done" };
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::MESSAGE_ID, string(settlement.id.as_str()))
            .update_expression(format!(
                "SET expires_at = :expires_at{set_reason} REMOVE lease_owner, lease_until_ms{remove_reason}{add}"
            ))
            .condition_expression("lease_owner = :owner")
            .expression_attribute_values(":owner", string(settlement.owner))
            .expression_attribute_values(":expires_at", number(expires_at_s(settlement.now)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(reason) = settlement.reason {
            update = update.expression_attribute_values(":reason", string(reason));
        }
        if !settlement.done.is_empty() {
            let done = settlement.done.iter().map(ToString::to_string).collect();
            update = update.expression_attribute_values(":done", AttributeValue::Ss(done));
        }
        match update.send().await {
            Ok(_) => Ok(Settled::Recorded),
            Err(error) => {
                let entry = conflict(OPERATION, error, blocking_item)?;
                // Our first request was carried out and its answer got lost: the SDK asked again.
                let recorded = entry.lease.is_none()
                    && settlement.done.iter().all(|handler| entry.done.contains(*handler));
                Ok(if recorded { Settled::Recorded } else { Settled::LeaseLost })
            }
        }
    }
}

/// The item because of which an update's condition failed.
fn blocking_item(error: &UpdateItemError) -> Option<&Item> {
    match error {
        UpdateItemError::ConditionalCheckFailedException(failure) => failure.item.as_ref(),
        _ => None,
    }
}

/// The entry because of which a condition failed; every other error is passed on.
fn conflict<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
    error: SdkError<E>,
    item: impl Fn(&E) -> Option<&Item>,
) -> Result<Entry, LedgerError> {
    match error.as_service_error().and_then(item).map(entry) {
        Some(Some(entry)) => Ok(entry),
        Some(None) => {
            Err(LedgerError { operation, source: "the item is not one that a ledger writes".into() })
        }
        None => Err(LedgerError { operation, source: error.into() }),
    }
}

type Item = HashMap<String, AttributeValue>;

fn entry(item: &Item) -> Option<Entry> {
    let text = |name| item.get(name)?.as_s().ok();
    let number = |name| item.get(name)?.as_n().ok()?.parse::<i64>().ok();
    let lease = text(attribute::LEASE_OWNER).zip(number(attribute::LEASE_UNTIL_MS));
    Some(Entry {
        payload_sha256: text(attribute::PAYLOAD_SHA256)?.clone(),
        done: done_handlers(item),
        lease: lease.map(|(owner, until_ms)| Lease { owner: owner.clone(), until_ms }),
        expires_at_s: number(attribute::EXPIRES_AT)?,
    })
}

fn done_handlers(item: &Item) -> BTreeSet<String> {
    let done = item.get(attribute::DONE).and_then(|done| done.as_ss().ok());
    done.map(|done| done.iter().cloned().collect()).unwrap_or_default()
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
