//! Who works on what, and what is done: the ledger as the engine sees it.
//!
//! The rules are [`learnink_webhook::ledger`]'s. A [`Ledger`] keeps the entries and applies the rules so
//! that of several who ask at once, each gets an answer that takes the others' into account.
//! [`DynamoDbLedger`] is the one in production; the model test has one in memory that fails on purpose.

mod dynamodb;

use std::future::Future;

use learnink_webhook::ledger::{Claim, ClaimRequest, EntryId, Recorded, Settlement};
use learnink_webhook::replay::ReplayWindow;

pub use dynamodb::DynamoDbLedger;

/// The ledger did not answer, or holds what it did not write. Retryable.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} in the ledger")]
pub struct LedgerError {
    operation: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LedgerError {
    /// An error while doing `operation`, such as `claim a message`.
    pub fn new(operation: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { operation, source: source.into() }
    }
}

/// A store of ledger entries. Whatever fails may have been carried out all the same: the caller asks
/// again, under the same owner, or lets the lease run out.
pub trait Ledger: Sync {
    /// Asks for leave to work on messages, all of them different. One answer for each, in order.
    fn claim(
        &self,
        requests: Vec<ClaimRequest>,
    ) -> impl Future<Output = Vec<Result<Claim, LedgerError>>> + Send;

    /// Adds to what is done while the owner is still at work.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the store did not answer.
    fn note(
        &self,
        id: &EntryId,
        owner: &str,
        done: Vec<String>,
    ) -> impl Future<Output = Result<Recorded, LedgerError>> + Send;

    /// Records what is done and lets the claims go. One answer for each, in order.
    fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> impl Future<Output = Vec<Result<Recorded, LedgerError>>> + Send;

    /// The replay windows, closed and expired ones among them, and those that cannot be read.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the store did not answer.
    fn replay_windows(&self) -> impl Future<Output = Result<Vec<StoredWindow>, LedgerError>> + Send;
}

/// A replay window as it is stored.
pub type StoredWindow = Result<ReplayWindow, UnreadableWindow>;

/// A replay window of another version of this program, or changed by hand. It opens nothing: not to do again
/// what is done is the safe side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the replay window {id} cannot be read; another version of `learnink` opened it")]
pub struct UnreadableWindow {
    /// The window's id.
    pub id: String,
}
