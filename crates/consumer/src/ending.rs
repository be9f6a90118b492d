//! What becomes of one record, on its way to the report.

use std::time::Duration;

use learnink_webhook::error::with_causes;

use crate::ledger::LedgerError;
use crate::report::{EngineFailure, Failure, Outcome};
use crate::verdict::{RetryAfter, Verdict};

/// An ending with its failure, before it becomes part of a report.
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) failure: Option<Failure>,
    /// Why it could not be copied to the queue where it belongs.
    pub(crate) copy_error: Option<String>,
    /// How long it waits, if it is delivered again.
    pub(crate) wait: RetryAfter,
    /// How many deliveries in a row it has failed, if that is not its receive count because a list made progress.
    pub(crate) failures: Option<u32>,
}

impl Ending {
    pub(crate) const fn good(outcome: Outcome) -> Self {
        Self {
            outcome,
            failure: None,
            copy_error: None,
            wait: RetryAfter::Backoff(Duration::ZERO),
            failures: None,
        }
    }

    /// Another record, in this consumer or another, has claimed this message. A delivery before its lease ends
    /// would be wasted.
    pub(crate) fn in_progress(lease_left: Duration) -> Self {
        let reason = "another delivery of it is being handled";
        Self::retry(Failure::of_engine(EngineFailure::InProgress, reason)).at_least(lease_left)
    }

    pub(crate) fn retry(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::good(Outcome::Retry) }
    }

    /// The engine was cut off, perhaps after the handlers' verdict.
    pub(crate) fn cut_off(why: EngineFailure, reason: &str, handlers: Option<Failure>) -> Self {
        let before = handlers.map(|handlers| format!("; before that, {}", handlers.text()));
        Self::retry(Failure::of_engine(why, format!("{reason}{}", before.unwrap_or_default())))
    }

    /// Why the record was not processed, and why it could not be copied.
    pub(crate) fn into_failure(self) -> Option<Failure> {
        let mut failure = self.failure?;
        if let Some(error) = self.copy_error {
            failure.reason = format!("{}; {error}", failure.reason);
        }
        Some(failure)
    }

    pub(crate) fn ledger_failed(error: Option<LedgerError>, lease_left: Duration) -> Self {
        let reason = error.map_or_else(|| "the ledger has no answer".to_owned(), |error| with_causes(&error));
        Self::retry(Failure::of_engine(EngineFailure::Ledger, reason)).at_least(lease_left)
    }

    /// The ending of a record whose handlers' verdict could not be recorded.
    pub(crate) fn after(mut self, verdict: &Verdict) -> Self {
        if let (Some(own), Some(handlers)) = (&mut self.failure, verdict.failure()) {
            own.reason = format!("{}; before that, {}", own.reason, handlers.text());
        }
        match verdict {
            Verdict::Again { wait: RetryAfter::Backoff(minimum), .. }
            | Verdict::AgainAfresh { wait: RetryAfter::Backoff(minimum), .. } => self.at_least(*minimum),
            Verdict::Again { wait: RetryAfter::Now, .. }
            | Verdict::AgainAfresh { wait: RetryAfter::Now, .. }
            | Verdict::Done
            | Verdict::Never(_) => self,
        }
    }

    /// Waits so long at least.
    pub(crate) fn at_least(self, duration: Duration) -> Self {
        Self { wait: self.wait.at_least(duration), ..self }
    }
}

/// The ending of a record whose lease ended.
pub(crate) fn lease_lost() -> Ending {
    Ending::retry(Failure::of_engine(EngineFailure::LeaseLost, "the lease ended before the work did"))
}
