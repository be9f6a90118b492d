//! The claims of a batch: which record works on which message, and the record of what it did.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use learnink_webhook::group::Group;
use tokio::sync::OnceCell;

use crate::breaker::Trials;
use crate::ending::Ending;
use crate::invocation::Invocation;
use crate::ledger::{Claim, ClaimRequest, EntryId, History, LedgerError, Recorded, Settlement, StoredWindow};
use crate::queues::to_attribute_value;
use crate::replay::Task;

/// The longest pause before a statement that the ledger did not carry out is tried again; the shortest is a
/// quarter of it. All records of a batch pause equally long, so that they ask together again. A statement that was
/// throttled would be throttled again a millisecond later.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What the records of a batch share.
pub(crate) struct Batch<'a> {
    pub(crate) invocation: &'a Invocation,
    pub(crate) claims: Group<ClaimRequest, Result<Claim, LedgerError>>,
    pub(crate) settlements: Group<Settlement, Result<Recorded, LedgerError>>,
    /// The messages, and parts of messages, that a record of the batch has taken.
    pub(crate) taken: Mutex<HashSet<EntryId>>,
    /// Read once, when the first record asks; or the reason why they could not be read.
    pub(crate) windows: &'a OnceCell<Result<Vec<StoredWindow>, String>>,
    pub(crate) trials: &'a Trials<'a>,
    /// Before the ledger is asked once more.
    pub(crate) pause: Duration,
}

impl Batch<'_> {
    /// Takes a message for one record; `false` if another record of the batch has taken it.
    pub(crate) fn take(&self, id: &EntryId) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(id.clone())
    }

    /// Asks the ledger for a claim, and once more if it did not answer: the SDK does not retry a single statement
    /// of a batch that was throttled.
    pub(crate) async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Ending> {
        if let Some(Ok(claim)) = self.claims.ask(request.clone()).await {
            return Ok(claim);
        }
        tokio::time::sleep(self.pause).await;
        match self.claims.ask(request.clone()).await {
            Some(Ok(claim)) => Ok(claim),
            failed => Err(Ending::ledger_failed(failed.and_then(Result::err), self.lease_left(request))),
        }
    }

    /// Records what is done and why the rest is not, and releases the claim. Tries once more if that fails, for
    /// the same reason: without the record, all of it would run again.
    pub(crate) async fn settle(&self, acquired: &Acquired, reason: Option<String>) -> Result<(), Ending> {
        let settlement = || Settlement {
            id: acquired.request.id.clone(),
            owner: acquired.request.owner.clone(),
            done: acquired.history.done.clone(),
            failure_reason: reason.as_deref().map(to_attribute_value),
            now: self.invocation.now(),
        };
        let mut recorded = self.settlements.ask(settlement()).await;
        if !matches!(recorded, Some(Ok(_))) {
            tokio::time::sleep(self.pause).await;
            recorded = self.settlements.ask(settlement()).await;
        }
        match recorded {
            Some(Ok(Recorded::Yes)) => Ok(()),
            Some(Ok(Recorded::LeaseLost)) => Err(Ending::lease_lost()),
            failed => {
                let error = failed.and_then(Result::err);
                Err(Ending::ledger_failed(error, self.lease_left(&acquired.request)))
            }
        }
    }

    /// How long a claim, if it was carried out, still keeps other consumers from the message.
    fn lease_left(&self, request: &ClaimRequest) -> Duration {
        let left_ms = request.lease_until_ms().saturating_sub(self.invocation.now().as_millisecond());
        Duration::from_millis(left_ms.try_into().unwrap_or_default())
    }
}

/// A claimed record: its lease, its history, and the tasks that are left.
pub(crate) struct Acquired {
    pub(crate) request: ClaimRequest,
    pub(crate) history: History,
    pub(crate) tasks: Vec<Task>,
}
