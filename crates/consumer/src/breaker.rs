//! Circuit breakers: records skip a handler whose downstream fails.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use learnink_webhook::breaker::Breaker;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use crate::dead_letter::SKIPPED;

/// The breakers of all handlers. They outlive the batch, in the environment's memory: the records of a batch run
/// concurrently, so the first batch of an outage calls its handlers before the outage is known.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<&'static str, State>>);

/// The breaker of one handler.
#[derive(Debug, Default)]
struct State {
    breaker: Breaker,
    /// Why the last call failed that counted.
    last_failure: String,
}

impl Breakers {
    /// Whether the handler's circuit breaker is open.
    pub(crate) fn is_open(&self, handler: &str) -> bool {
        self.states().get(handler).is_some_and(|state| state.breaker.is_open())
    }

    /// Notes a call that succeeded.
    pub(crate) fn note_answer(&self, handler: &'static str) {
        self.states().entry(handler).or_default().breaker.answered();
    }

    /// Notes a call that failed for `reason`.
    pub(crate) fn note_failure(&self, handler: &'static str, reason: &str) {
        let mut states = self.states();
        let state = states.entry(handler).or_default();
        state.breaker.failed();
        reason.clone_into(&mut state.last_failure);
    }

    /// Why a record skips the handler: the failure that all have in common, so that its dead letter names the cause.
    pub(crate) fn reason(&self, handler: &str) -> String {
        let last = self.states().get(handler).map(|state| state.last_failure.clone()).unwrap_or_default();
        format!("{SKIPPED}{last}")
    }

    fn states(&self) -> MutexGuard<'_, HashMap<&'static str, State>> {
        // A count stays valid after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trials of one batch: while a breaker is open, one record of the batch tries, and the others wait for its
/// result.
#[derive(Debug)]
pub(crate) struct Trials<'a> {
    breakers: &'a Breakers,
    /// For each handler, whether its trial has failed.
    failed: HashMap<&'static str, AsyncMutex<bool>>,
}

/// A permit to call a handler. It is kept until the call has ended and is noted.
pub(crate) struct Permit<'a> {
    breakers: &'a Breakers,
    handler: &'static str,
    trial: Option<AsyncMutexGuard<'a, bool>>,
}

impl<'a> Trials<'a> {
    /// Without a trial so far, for these handlers.
    pub(crate) fn new(breakers: &'a Breakers, handlers: impl IntoIterator<Item = &'static str>) -> Self {
        Self { breakers, failed: handlers.into_iter().map(|name| (name, AsyncMutex::default())).collect() }
    }

    /// Asks for a permit to call a handler, which may wait for another record's trial. `None` if the trial has
    /// failed: the handler must not be called.
    pub(crate) async fn ask(&'a self, handler: &'static str) -> Option<Permit<'a>> {
        let permit = |trial| Permit { breakers: self.breakers, handler, trial };
        if !self.breakers.is_open(handler) {
            return Some(permit(None));
        }
        let trial = self.failed.get(handler)?.lock().await;
        if !self.breakers.is_open(handler) {
            Some(permit(None))
        } else if *trial {
            None
        } else {
            Some(permit(Some(trial)))
        }
    }
}

impl Permit<'_> {
    /// Returns the permit unused: the call says nothing about the downstream, and another record may try.
    pub(crate) fn release_unused(mut self) {
        self.trial = None;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(trial) = &mut self.trial {
            **trial = self.breakers.is_open(self.handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use learnink_webhook::breaker::OPENS_AFTER;

    use super::*;

    fn opened() -> Breakers {
        let breakers = Breakers::default();
        for _ in 0..OPENS_AFTER {
            breakers.note_failure("push", "busy");
        }
        breakers
    }

    #[test]
    fn who_is_skipped_says_why_the_last_call_failed() {
        let breakers = opened();
        breakers.note_failure("push", "the endpoint answered 401");
        assert_eq!(breakers.reason("push"), format!("{SKIPPED}the endpoint answered 401"));
    }

    /// How many of ten records call the handler while its breaker is open; `call` is the effect of each.
    async fn calls(call: impl Fn(&Breakers)) -> usize {
        let breakers = opened();
        let trials = Trials::new(&breakers, ["push"]);
        let records = (0..10).map(async |_| {
            let permit = trials.ask("push").await;
            if permit.is_some() {
                tokio::task::yield_now().await;
                call(&breakers);
            }
            permit.is_some()
        });
        join_all(records).await.into_iter().filter(|called| *called).count()
    }

    #[tokio::test]
    async fn while_the_downstream_is_sick_one_record_of_a_batch_tries_it() {
        assert_eq!(calls(|breakers| breakers.note_failure("push", "busy")).await, 1);
    }

    #[tokio::test]
    async fn once_the_trial_succeeds_the_others_go_on() {
        assert_eq!(calls(|breakers| breakers.note_answer("push")).await, 10);
    }

    #[tokio::test]
    async fn a_trial_that_is_given_up_counts_as_failed() {
        let breakers = opened();
        let trials = Trials::new(&breakers, ["push"]);
        drop(trials.ask("push").await);
        assert!(trials.ask("push").await.is_none());
        assert!(Trials::new(&breakers, ["push"]).ask("push").await.is_some());
    }

    #[tokio::test]
    async fn a_trial_that_was_not_used_is_left_to_the_next() {
        let breakers = opened();
        let trials = Trials::new(&breakers, ["push"]);
        trials.ask("push").await.unwrap().release_unused();
        assert!(trials.ask("push").await.is_some());
    }
}
