//! The ledger: in the state of `learnink dev`, or in AWS.

use std::path::Path;

use anyhow::Context;
use aws_config::SdkConfig;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use learnink_consumer::DynamoDbLedger;
use learnink_consumer::acts::{Act, StoredAct};
use learnink_consumer::ledger::{Entry, EntryId};
use learnink_consumer::ledger::{Ledger, LedgerError, StoredWindow};
use learnink_consumer::replay::{Closing, ReplayWindow};
use learnink_local::pipeline::LEDGER_TABLE;
use learnink_local::terminal::quoted;
use learnink_local::{LocalDynamoDb, sdk_config};

use crate::aws::AwsClock;
use crate::{aws, now, stored};

/// Whether an entry shows that all handlers are done: none has it in hand, and the last try did not fail.
pub(crate) const fn is_done(entry: &Entry) -> bool {
    entry.lease.is_none() && entry.failure_reason.is_none()
}

/// A ledger and its location, which is shown in case another was meant.
pub(crate) struct OpenLedger {
    ledger: DynamoDbLedger,
    /// Such as "the ledger `table` in eu-west-1".
    pub(crate) name: String,
    /// The clock by which the consumer writes into it: this machine's for `learnink dev`, otherwise AWS's.
    clock: AwsClock,
    /// Its engine, if that runs on this machine.
    _dynamodb: Option<LocalDynamoDb>,
}

impl OpenLedger {
    /// The ledger in the DynamoDB table `table`.
    pub(crate) fn in_aws(aws: &SdkConfig, table: &str) -> Self {
        let name = format!("the ledger `{table}` in {}", aws::region(aws));
        let clock = AwsClock::default();
        Self {
            ledger: DynamoDbLedger::with_limits_of(&clock.watch(aws), table),
            name,
            clock,
            _dynamodb: None,
        }
    }

    /// The ledger of `learnink dev`, whether or not it is running; `None` before its first start.
    pub(crate) async fn of_dev(folder: &Path) -> anyhow::Result<Option<Self>> {
        let dynamodb = stored::open(folder).await?;
        Ok(dynamodb.map(|dynamodb| Self {
            ledger: DynamoDbLedger::with_limits_of(&sdk_config(dynamodb.endpoint()), LEDGER_TABLE.name),
            name: format!("the ledger of `learnink dev` ({})", quoted(folder)),
            clock: AwsClock::default(),
            _dynamodb: Some(dynamodb),
        }))
    }

    /// How far its clock is ahead of this machine's, once it has answered.
    pub(crate) fn clock_ahead(&self) -> SignedDuration {
        self.clock.ahead()
    }

    /// The time by its clock, once it has answered.
    pub(crate) fn now(&self) -> anyhow::Result<Timestamp> {
        now().checked_add(self.clock_ahead()).context("the clock of AWS shows an invalid time")
    }

    /// The ledger's entry of a message, or of a part of its list.
    pub(crate) async fn entry(&self, id: EntryId) -> anyhow::Result<Option<Entry>> {
        self.answered(self.ledger.entry(id).await)
    }

    /// The replay windows, and those that cannot be read.
    pub(crate) async fn replay_windows(&self) -> anyhow::Result<Vec<StoredWindow>> {
        self.answered(self.ledger.replay_windows().await)
    }

    /// Opens a replay window.
    pub(crate) async fn open_replay_window(&self, window: &ReplayWindow) -> anyhow::Result<()> {
        self.answered(self.ledger.open_replay_window(window).await)
    }

    /// Closes a replay window; `None` if there is none with this id.
    pub(crate) async fn close_replay_window(
        &self,
        id: &str,
        closing: Closing,
    ) -> anyhow::Result<Option<ReplayWindow>> {
        self.answered(self.ledger.close_replay_window(id, closing).await)
    }

    /// Lets an entry be of another payload.
    pub(crate) async fn replace_payload(&self, id: &EntryId, from: &str, to: &str) -> anyhow::Result<()> {
        self.answered(self.ledger.replace_payload(id, from, to).await)
    }

    /// Keeps an act, in place of an earlier one with its id.
    pub(crate) async fn record_act(&self, act: &Act) -> anyhow::Result<()> {
        self.answered(self.ledger.record_act(act).await)
    }

    /// The acts of these days, and those that cannot be read.
    pub(crate) async fn acts(&self, first: Date, last: Date) -> anyhow::Result<Vec<StoredAct>> {
        self.answered(self.ledger.acts(first, last).await)
    }

    fn answered<T>(&self, answer: Result<T, LedgerError>) -> anyhow::Result<T> {
        answer.with_context(|| format!("cannot use {}", self.name))
    }
}
