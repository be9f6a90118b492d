//! The ledger in DynamoDB: one item per message, one with the replay windows, and one for each day's acts.
//!
//! A batch of fresh messages is claimed with one request, and settled with one: `BatchExecuteStatement` carries
//! out up to 25 statements, each on its own and each with its own condition. Only a message that the ledger knows
//! is claimed with an `UpdateItem`. Its condition is the rule of [`judge`]: when it fails, DynamoDB returns the
//! item because of which it failed, and `judge` interprets it.
//! Source: DynamoDB developer guide, "Running batch operations with `PartiQL`".

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, BatchStatementResponse, ReturnValue,
    ReturnValuesOnConditionCheckFailure,
};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use learnink_aws::CallError;

use super::{Ledger, LedgerError, StoredWindow, UnreadableWindow};
use crate::acts::{Act, StoredAct, UnreadableAct};
use crate::call_limits;
use crate::ledger::{
    Claim, ClaimRequest, Entry, EntryId, Lease, Recorded, Settlement, expires_at_s, judge, judge_settlement,
};
use crate::replay::{Closing, ReplayWindow};

/// The attributes of an item.
mod attribute {
    pub(super) const MESSAGE_ID: &str = "message_id";
    pub(super) const PAYLOAD_SHA256: &str = "payload_sha256";
    pub(super) const DONE: &str = "done_keys";
    /// Empty while the message is not claimed.
    pub(super) const LEASE_OWNER: &str = "lease_owner";
    /// When the lease ends; while the message is not claimed, when the last owner released it.
    pub(super) const LEASE_UNTIL_MS: &str = "lease_until_ms";
    pub(super) const FIRST_SEEN_MS: &str = "first_seen_ms";
    pub(super) const FAILURE_REASON: &str = "failure_reason";
    pub(super) const EXPIRES_AT: &str = "expires_at";
    pub(super) const WINDOWS: &str = "replay_windows";
    pub(super) const ACTS: &str = "acts";
}

/// A placeholder in a set without keys, because DynamoDB does not have empty sets. It is not a valid key. Without
/// it, the previous keys would stay.
const NO_KEYS: &str = "+";

/// The item does not exist; or it has this payload, is not expired, has work left, and nobody works on it or has
/// since the request.
const MAY_CLAIM: &str = "attribute_not_exists(message_id) OR (expires_at > :now_s \
    AND payload_sha256 = :payload AND NOT (all_done) AND lease_until_ms <= :now_ms)";

/// The key of the item with the replay windows. No message has it: it has a full stop.
const WINDOWS_ID: &str = "replay.windows";

/// How long ended windows are kept, to show who replayed what.
const WINDOWS_REMEMBERED_FOR: Duration = Duration::from_hours(90 * 24);

/// How long acts are kept: longer than a year, so that an audit sees the one before.
const ACTS_REMEMBERED_FOR: Duration = Duration::from_hours(400 * 24);

/// How many days' acts are read concurrently.
const DAYS_AT_ONCE: usize = 20;

/// How many statements fit into one request.
const MOST_STATEMENTS: usize = 25;

/// The ledger's table, keyed by `message_id`.
#[derive(Debug, Clone)]
pub struct DynamoDbLedger {
    client: Client,
    table: String,
}

impl DynamoDbLedger {
    /// The ledger in `table`, with the consumer's time limits instead of those in `config`.
    pub fn new(config: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(config).timeout_config(call_limits()).build();
        Self { client: Client::from_conf(config), table: table.into() }
    }

    /// The ledger in `table`, with the time limits in `config`: for a person, who may be far from AWS.
    pub fn with_limits_of(config: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(config), table: table.into() }
    }

    /// Carries out statements independently: one answer for each, in order.
    async fn execute(
        &self,
        operation: &'static str,
        statements: Vec<BatchStatementRequest>,
    ) -> Vec<Result<BatchStatementResponse, LedgerError>> {
        let chunks = statements.chunks(MOST_STATEMENTS).map(async |statements| {
            let request = self.client.batch_execute_statement().set_statements(Some(statements.to_vec()));
            let answers = Box::pin(request.send()).await.map(|answer| answer.responses.unwrap_or_default());
            let mut answers = answers.map(Vec::into_iter);
            let answer = |_: &BatchStatementRequest| match &mut answers {
                Ok(answers) => {
                    answers.next().ok_or_else(|| LedgerError::new(operation, "a statement has no answer"))
                }
                Err(error) => Err(failed(operation, error)),
            };
            statements.iter().map(answer).collect::<Vec<_>>()
        });
        join_all(chunks).await.into_iter().flatten().collect()
    }

    /// Claims messages that are probably new; `None` for those that are not.
    async fn insert(&self, requests: &[&ClaimRequest]) -> Vec<Result<Option<Claim>, LedgerError>> {
        const OPERATION: &str = "claim a message";
        if requests.is_empty() {
            return Vec::new();
        }
        let statement = format!(
            "INSERT INTO \"{}\" VALUE {{'message_id': ?, 'payload_sha256': ?, 'lease_owner': ?, \
             'lease_until_ms': ?, 'first_seen_ms': ?, 'expires_at': ?}}",
            self.table
        );
        let statements = requests.iter().map(|request| {
            let parameters = [
                string(request.id.as_str()),
                string(&request.payload_sha256),
                string(&request.owner),
                number(request.lease_until_ms()),
                number(request.now.as_millisecond()),
                number(request.expires_at_s()),
            ];
            batch_statement(&statement, parameters.into())
        });
        let answers = self.execute(OPERATION, statements.collect()).await;
        let claim =
            |(answer, request): (Result<BatchStatementResponse, _>, &&ClaimRequest)| match answer?.error {
                None => Ok(Some(judge(None, request))),
                Some(error) if error.code == Some(BatchStatementErrorCodeEnum::DuplicateItem) => Ok(None),
                Some(error) => Err(LedgerError::new(OPERATION, StatementFailed::from(error.code))),
            };
        answers.into_iter().zip(requests).map(claim).collect()
    }

    /// Claims a message that the ledger probably knows.
    async fn update(&self, request: &ClaimRequest) -> Result<Claim, LedgerError> {
        const OPERATION: &str = "claim a message";
        let placeholders: Vec<_> = (0..request.keys.len()).map(|n| format!(":key{n}")).collect();
        let all_done: Vec<_> =
            placeholders.iter().map(|name| format!("contains(done_keys, {name})")).collect();
        let update = self
            .update_item(request.id.as_str())
            .update_expression(
                "SET payload_sha256 = :payload, lease_owner = :owner, lease_until_ms = :until_ms, \
                 expires_at = :expires_at, first_seen_ms = if_not_exists(first_seen_ms, :now_ms) \
                 REMOVE failure_reason",
            )
            .condition_expression(MAY_CLAIM.replace("all_done", &all_done.join(" AND ")))
            .expression_attribute_values(":payload", string(&request.payload_sha256))
            .expression_attribute_values(":owner", string(&request.owner))
            .expression_attribute_values(":until_ms", number(request.lease_until_ms()))
            .expression_attribute_values(":expires_at", number(request.expires_at_s()))
            .expression_attribute_values(":now_ms", number(request.now.as_millisecond()))
            .expression_attribute_values(":now_s", number(request.now.as_second()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update = placeholders
            .into_iter()
            .zip(&request.keys)
            .fold(update, |update, (name, key)| update.expression_attribute_values(name, string(key)));
        let entry = match Box::pin(update.send()).await {
            Ok(written) => stored(OPERATION, written.attributes.as_ref())?,
            Err(error) => conflict(OPERATION, &error, blocking_item)?,
        };
        match judge(Some(&entry), request) {
            Claim::Acquired(_) if entry.has_expired(request.now) => self.replace(request).await,
            claim => Ok(claim),
        }
    }

    /// Replaces an item that expired and that DynamoDB has not deleted yet, unless another consumer did so first.
    async fn replace(&self, request: &ClaimRequest) -> Result<Claim, LedgerError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(attribute::MESSAGE_ID, string(request.id.as_str()))
            .item(attribute::PAYLOAD_SHA256, string(&request.payload_sha256))
            .item(attribute::LEASE_OWNER, string(&request.owner))
            .item(attribute::LEASE_UNTIL_MS, number(request.lease_until_ms()))
            .item(attribute::FIRST_SEEN_MS, number(request.now.as_millisecond()))
            .item(attribute::EXPIRES_AT, number(request.expires_at_s()))
            .condition_expression("expires_at <= :now_s")
            .expression_attribute_values(":now_s", number(request.now.as_second()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match Box::pin(put.send()).await {
            Ok(_) => Ok(judge(None, request)),
            Err(error) => {
                let entry = conflict("replace an expired entry", &error, |error| match error {
                    PutItemError::ConditionalCheckFailedException(failure) => failure.item.as_ref(),
                    _ => None,
                })?;
                Ok(judge(Some(&entry), request))
            }
        }
    }

    /// The ledger's entry of a message, or of a part of its list, for the person on call.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn entry(&self, id: impl Into<EntryId>) -> Result<Option<Entry>, LedgerError> {
        const OPERATION: &str = "read an entry";
        match self.get(OPERATION, id.into().as_str()).await? {
            Some(item) => stored(OPERATION, Some(&item)).map(Some),
            None => Ok(None),
        }
    }

    /// Lets the entry of a message, or of a part of its list, be of another payload: `learnink forget` has removed a
    /// learner from its dead letter. Both are [`payload_sha256`](crate::ledger::payload_sha256)s. Without it, a redrive
    /// would be taken for another message with the same id. An entry of a third payload stays as it is.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn replace_payload(&self, id: &EntryId, from: &str, to: &str) -> Result<(), LedgerError> {
        let update = self
            .update_item(id.as_str())
            .update_expression("SET payload_sha256 = :to")
            .condition_expression("payload_sha256 = :from")
            .expression_attribute_values(":from", string(from))
            .expression_attribute_values(":to", string(to));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(failed("change an entry", &error)),
            },
        }
    }

    /// Claims and settles an entry that no message has, with the statements of every message, and deletes it. `name`
    /// is unique. It is for the person on call: nothing else proves that this DynamoDB takes the statements.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when a statement was refused, or answered differently than the rules say.
    pub async fn try_statements(&self, name: &str, now: Timestamp) -> Result<(), LedgerError> {
        let id = EntryId::of_trial(name);
        let tried = self.try_with(&id, now).await;
        let delete = self.client.delete_item().table_name(&self.table);
        let deleted = delete.key(attribute::MESSAGE_ID, string(id.as_str())).send().await;
        tried.and(deleted.map(|_| ()).map_err(|error| failed("delete an entry", &error)))
    }

    async fn try_with(&self, id: &EntryId, now: Timestamp) -> Result<(), LedgerError> {
        const CLAIM: &str = "claim a message";
        const SETTLE: &str = "record what finished";
        let claim = async |owner: &str| {
            let request = ClaimRequest {
                id: id.clone(),
                payload_sha256: "none".to_owned(),
                keys: vec!["trial".to_owned()],
                owner: owner.to_owned(),
                now,
                lease: Duration::from_mins(1),
                probably_new: true,
            };
            self.claim(vec![request]).await.pop().unwrap_or_else(|| Err(unanswered()))
        };
        let settle = async |owner: &str, done: &str| {
            let done = BTreeSet::from([done.to_owned()]);
            let settlement =
                Settlement { id: id.clone(), owner: owner.to_owned(), done, failure_reason: None, now };
            self.settle(vec![settlement]).await.pop().unwrap_or_else(|| Err(unanswered()))
        };
        let unexpected =
            |operation, answer: &str| Err(LedgerError::new(operation, format!("the answer was {answer}")));
        match claim("first").await? {
            Claim::Acquired(_) => {}
            other => return unexpected(CLAIM, &format!("{other:?}")),
        }
        match claim("second").await? {
            Claim::InProgress { .. } => {}
            other => return unexpected(CLAIM, &format!("{other:?}")),
        }
        match settle("second", "other").await? {
            Recorded::LeaseLost => {}
            Recorded::Yes => return unexpected(SETTLE, "that of the owner"),
        }
        match settle("first", "trial").await? {
            Recorded::Yes => {}
            Recorded::LeaseLost => return unexpected(SETTLE, "that the lease is lost"),
        }
        match claim("second").await? {
            Claim::Completed(_) => Ok(()),
            other => unexpected(CLAIM, &format!("{other:?}")),
        }
    }

    fn update_item(&self, id: &str) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).key(attribute::MESSAGE_ID, string(id))
    }

    async fn get(&self, operation: &'static str, id: &str) -> Result<Option<Item>, LedgerError> {
        let get = self.client.get_item().table_name(&self.table).consistent_read(true);
        let got = get.key(attribute::MESSAGE_ID, string(id)).send().await;
        Ok(got.map_err(|error| failed(operation, &error))?.item)
    }

    /// Opens a replay window. Opening the same one twice changes nothing. Windows that ended more than 90 days
    /// ago are forgotten: together they have to fit into one item, which takes 400 KB.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer, or another window has the same id.
    pub async fn open_replay_window(&self, window: &ReplayWindow) -> Result<(), LedgerError> {
        const OPERATION: &str = "open a replay window";
        // The item comes first: an attribute inside a map cannot be set before the map exists.
        let create = self
            .update_item(WINDOWS_ID)
            .update_expression("SET replay_windows = if_not_exists(replay_windows, :none)")
            .expression_attribute_values(":none", AttributeValue::M(HashMap::new()));
        create.send().await.map_err(|error| failed(OPERATION, &error))?;
        for old in self.replay_windows().await?.into_iter().flatten() {
            if old.ends_at() + WINDOWS_REMEMBERED_FOR < window.opened_at {
                self.forget_window(OPERATION, &old.id).await?;
            }
        }
        self.write_window(
            OPERATION,
            window,
            "attribute_not_exists(replay_windows.#id) OR replay_windows.#id = :window",
        )
        .await
    }

    /// Closes a replay window, so that nothing runs under it any more; `None` if no readable window has that id. A
    /// window that was closed before stays as it is.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn close_replay_window(
        &self,
        id: &str,
        closing: Closing,
    ) -> Result<Option<ReplayWindow>, LedgerError> {
        let mut windows = self.replay_windows().await?.into_iter().flatten();
        let Some(mut window) = windows.find(|window| window.id == id) else { return Ok(None) };
        if window.closed.is_none() {
            window.closed = Some(closing);
            let condition = "attribute_exists(replay_windows.#id)";
            self.write_window("close a replay window", &window, condition).await?;
        }
        Ok(Some(window))
    }

    /// Keeps an act, in place of an earlier one with its id. The acts of a day are in one item, which takes 400 KB:
    /// several hundred acts.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn record_act(&self, act: &Act) -> Result<(), LedgerError> {
        const OPERATION: &str = "record an act";
        let id = acts_id(TimeZone::UTC.to_datetime(act.started_at).date());
        let expires_at_s = act.started_at.as_second().saturating_add_unsigned(ACTS_REMEMBERED_FOR.as_secs());
        let json = serde_json::to_string(act).map_err(|error| LedgerError::new(OPERATION, error))?;
        // The item comes first: an attribute inside a map cannot be set before the map exists.
        let create = self
            .update_item(&id)
            .update_expression("SET acts = if_not_exists(acts, :none), expires_at = :expires_at")
            .expression_attribute_values(":none", AttributeValue::M(HashMap::new()))
            .expression_attribute_values(":expires_at", number(expires_at_s));
        create.send().await.map_err(|error| failed(OPERATION, &error))?;
        let update = self
            .update_item(&id)
            .update_expression("SET acts.#id = :act")
            .expression_attribute_names("#id", &act.id)
            .expression_attribute_values(":act", string(&json));
        update.send().await.map_err(|error| failed(OPERATION, &error))?;
        Ok(())
    }

    /// The acts of the days from `first` to `last` in UTC, oldest first, and then those that cannot be read.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when DynamoDB did not answer.
    pub async fn acts(&self, first: Date, last: Date) -> Result<Vec<StoredAct>, LedgerError> {
        let days = first.series(jiff::Span::new().days(1)).take_while(|day| *day <= last);
        let days = stream::iter(days.map(|day| self.acts_of(day))).buffered(DAYS_AT_ONCE);
        let mut acts = days.try_concat().await?;
        acts.sort_by(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => (a.started_at, &a.id).cmp(&(b.started_at, &b.id)),
            (a, b) => b.is_ok().cmp(&a.is_ok()),
        });
        Ok(acts)
    }

    async fn acts_of(&self, day: Date) -> Result<Vec<StoredAct>, LedgerError> {
        let item = self.get("read the acts", &acts_id(day)).await?.unwrap_or_default();
        let acts = item.get(attribute::ACTS).and_then(|acts| acts.as_m().ok());
        let read = |(id, act): (&String, &AttributeValue)| {
            let act = act.as_s().ok().and_then(|json| serde_json::from_str(json).ok());
            act.ok_or_else(|| UnreadableAct { id: id.clone() })
        };
        Ok(acts.into_iter().flatten().map(read).collect())
    }

    async fn forget_window(&self, operation: &'static str, id: &str) -> Result<(), LedgerError> {
        let update = self
            .update_item(WINDOWS_ID)
            .update_expression("REMOVE replay_windows.#id")
            .expression_attribute_names("#id", id);
        update.send().await.map_err(|error| failed(operation, &error))?;
        Ok(())
    }

    async fn write_window(
        &self,
        operation: &'static str,
        window: &ReplayWindow,
        condition: &str,
    ) -> Result<(), LedgerError> {
        let json = serde_json::to_string(window).map_err(|error| LedgerError::new(operation, error))?;
        let update = self
            .update_item(WINDOWS_ID)
            .update_expression("SET replay_windows.#id = :window")
            .condition_expression(condition)
            .expression_attribute_names("#id", &window.id)
            .expression_attribute_values(":window", string(&json));
        update.send().await.map_err(|error| failed(operation, &error))?;
        Ok(())
    }
}

impl Ledger for DynamoDbLedger {
    async fn claim(&self, requests: Vec<ClaimRequest>) -> Vec<Result<Claim, LedgerError>> {
        let new: Vec<_> = requests.iter().filter(|request| request.probably_new).collect();
        let known = requests.iter().filter(|request| !request.probably_new);
        let known = async { join_all(known.map(|request| self.update(request))).await };
        let new = async {
            let inserted = self.insert(&new).await;
            let claims = inserted.into_iter().zip(&new).map(async |(inserted, request)| match inserted? {
                Some(claim) => Ok(claim),
                None => self.update(request).await,
            });
            join_all(claims).await
        };
        let (new, known) = futures_util::future::join(new, known).await;
        let (mut new, mut known) = (new.into_iter(), known.into_iter());
        let answer = |request: &ClaimRequest| {
            let claims = if request.probably_new { &mut new } else { &mut known };
            claims.next().unwrap_or_else(|| Err(unanswered()))
        };
        requests.iter().map(answer).collect()
    }

    async fn note(&self, id: &EntryId, owner: &str, done: Vec<String>) -> Result<Recorded, LedgerError> {
        let update = self
            .update_item(id.as_str())
            .update_expression("ADD done_keys :done")
            .condition_expression("lease_owner = :owner")
            .expression_attribute_values(":owner", string(owner))
            .expression_attribute_values(":done", AttributeValue::Ss(done));
        match Box::pin(update.send()).await {
            Ok(_) => Ok(Recorded::Yes),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(Recorded::LeaseLost),
                _ => Err(failed("note what finished", &error)),
            },
        }
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Recorded, LedgerError>> {
        const OPERATION: &str = "record what finished";
        // The keys are written as a whole, and not added, so that those of finished items can go. Nobody else
        // writes them: the condition is true only for the owner.
        let statement = format!(
            "UPDATE \"{}\" SET done_keys = ? SET lease_owner = ? SET lease_until_ms = ? SET failure_reason = ? \
             SET expires_at = ? WHERE message_id = ? AND lease_owner = ?",
            self.table
        );
        let statements = settlements.iter().map(|settlement| {
            let parameters = vec![
                keys(&settlement.done),
                string(""),
                number(settlement.now.as_millisecond()),
                string(settlement.failure_reason.as_deref().unwrap_or_default()),
                number(expires_at_s(settlement.now)),
                string(settlement.id.as_str()),
                string(&settlement.owner),
            ];
            batch_statement(&statement, parameters)
        });
        let answers = self.execute(OPERATION, statements.collect()).await;
        let recorded = |(answer, settlement): (Result<BatchStatementResponse, _>, &Settlement)| {
            let Some(error) = answer?.error else { return Ok(Recorded::Yes) };
            if error.code != Some(BatchStatementErrorCodeEnum::ConditionalCheckFailed) {
                return Err(LedgerError::new(OPERATION, StatementFailed::from(error.code)));
            }
            let entry = error.item.as_ref().and_then(entry);
            Ok(entry.map_or(Recorded::LeaseLost, |entry| judge_settlement(&entry, settlement)))
        };
        answers.into_iter().zip(&settlements).map(recorded).collect()
    }

    async fn replay_windows(&self) -> Result<Vec<StoredWindow>, LedgerError> {
        const OPERATION: &str = "read the replay windows";
        let item = self.get(OPERATION, WINDOWS_ID).await?.unwrap_or_default();
        let windows = item.get(attribute::WINDOWS).and_then(|windows| windows.as_m().ok());
        let read = |(id, window): (&String, &AttributeValue)| {
            let window = window.as_s().ok().and_then(|json| serde_json::from_str(json).ok());
            window.ok_or_else(|| UnreadableWindow { id: id.clone() })
        };
        let mut windows: Vec<StoredWindow> = windows.into_iter().flatten().map(read).collect();
        windows.sort_by(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => (a.opened_at, &a.id).cmp(&(b.opened_at, &b.id)),
            (a, b) => b.is_ok().cmp(&a.is_ok()),
        });
        Ok(windows)
    }
}

/// The key of the item with a day's acts, such as `acts.2026-01-02`. No message has it: it has a full stop; and no part,
/// whose key has a slash.
fn acts_id(day: Date) -> String {
    format!("acts.{day}")
}

fn unanswered() -> LedgerError {
    LedgerError::new("claim a message", "the claim has no answer")
}

fn failed<E: ProvideErrorMetadata>(operation: &'static str, error: &SdkError<E>) -> LedgerError {
    LedgerError::new(operation, CallError::from(error))
}

/// One statement of several failed.
#[derive(Debug, thiserror::Error)]
#[error("DynamoDB refused the statement ({0})")]
struct StatementFailed(String);

impl From<Option<BatchStatementErrorCodeEnum>> for StatementFailed {
    fn from(code: Option<BatchStatementErrorCodeEnum>) -> Self {
        Self(code.map_or_else(|| "no code".to_owned(), |code| code.as_str().to_owned()))
    }
}

fn batch_statement(statement: &str, parameters: Vec<AttributeValue>) -> BatchStatementRequest {
    let request = BatchStatementRequest::builder()
        .statement(statement)
        .set_parameters(Some(parameters))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    match request.build() {
        Ok(request) => request,
        // Fails only without a statement.
        Err(_) => unreachable!("the statement is set"),
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
fn conflict<E: ProvideErrorMetadata>(
    operation: &'static str,
    error: &SdkError<E>,
    item: impl Fn(&E) -> Option<&Item>,
) -> Result<Entry, LedgerError> {
    match error.as_service_error().and_then(item) {
        Some(item) => stored(operation, Some(item)),
        None => Err(failed(operation, error)),
    }
}

type Item = HashMap<String, AttributeValue>;

fn stored(operation: &'static str, item: Option<&Item>) -> Result<Entry, LedgerError> {
    let entry = item.and_then(entry);
    entry.ok_or_else(|| LedgerError::new(operation, "the item is not one that a ledger writes"))
}

fn entry(item: &Item) -> Option<Entry> {
    let text = |name| item.get(name)?.as_s().ok().filter(|text| !text.is_empty()).cloned();
    let number = |name| item.get(name)?.as_n().ok()?.parse::<i64>().ok();
    let until_ms = number(attribute::LEASE_UNTIL_MS).unwrap_or_default();
    let lease = text(attribute::LEASE_OWNER).map(|owner| Lease { owner, until_ms });
    let done = item.get(attribute::DONE).and_then(|done| done.as_ss().ok());
    let done = done.into_iter().flatten().filter(|key| *key != NO_KEYS);
    Some(Entry {
        payload_sha256: text(attribute::PAYLOAD_SHA256)?,
        done: done.cloned().collect(),
        settled_at_ms: if lease.is_none() { until_ms } else { 0 },
        lease,
        first_seen_ms: number(attribute::FIRST_SEEN_MS)?,
        expires_at_s: number(attribute::EXPIRES_AT)?,
        failure_reason: text(attribute::FAILURE_REASON),
    })
}

/// The keys as a set.
fn keys(done: &BTreeSet<String>) -> AttributeValue {
    if done.is_empty() {
        return AttributeValue::Ss(vec![NO_KEYS.to_owned()]);
    }
    AttributeValue::Ss(done.iter().cloned().collect())
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
