//! The ledger as the engine sees it: who works on which message, and what is done.
//!
//! The rules are plain functions in `rules`. A [`Ledger`] keeps the entries and applies the rules atomically:
//! each of several concurrent requests gets an answer that takes the others into account. [`DynamoDbLedger`] is
//! the one in production; the model test has one in memory that fails on purpose.

mod dynamodb;
mod rules;

use std::future::Future;

use crate::replay::ReplayWindow;

pub use dynamodb::DynamoDbLedger;
pub use rules::*;

/// The ledger did not answer, or holds an entry that it did not write. Retryable.
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

    /// What was being done, as [`new`](Self::new) has it.
    pub const fn operation(&self) -> &'static str {
        self.operation
    }
}

/// A store of ledger entries. A call that fails may still have been carried out: the caller asks again, under the
/// same owner, or lets the lease expire.
pub trait Ledger: Sync {
    /// Claims messages, all of them different. One answer for each, in order.
    fn claim(
        &self,
        requests: Vec<ClaimRequest>,
    ) -> impl Future<Output = Vec<Result<Claim, LedgerError>>> + Send;

    /// Adds to what is done while the owner still works.
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

    /// Records what is done and releases the claims. One answer for each, in order.
    fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> impl Future<Output = Vec<Result<Recorded, LedgerError>>> + Send;

    /// All replay windows, including closed, expired and unreadable ones.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the store did not answer.
    fn replay_windows(&self) -> impl Future<Output = Result<Vec<StoredWindow>, LedgerError>> + Send;
}

/// A replay window as it is stored.
pub type StoredWindow = Result<ReplayWindow, UnreadableWindow>;

/// A replay window that another version of this program wrote, or that was changed by hand. It opens nothing: not
/// repeating finished work is the safe side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the replay window {id} cannot be read; another version of `learnink` opened it")]
pub struct UnreadableWindow {
    /// The window's id.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use learnink_webhook::error::with_causes;

    use super::*;

    #[test]
    fn an_error_says_what_was_being_done_and_why_it_failed() {
        let error = LedgerError::new("claim a message", "throttled");
        assert_eq!(error.operation(), "claim a message");
        assert_eq!(with_causes(&error), "could not claim a message in the ledger: throttled");
    }
}
