//! Circuit breakers: records skip a handler whose downstream fails.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use learnink_webhook::breaker::Breaker;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

/// The breakers of all handlers. They outlive the batch, in the environment's memory: the records of a batch run
/// concurrently, so the first batch of an outage calls its handlers before the outage is known.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<&'static str, Breaker>>);

impl Breakers {
    /// Whether the handler's circuit breaker is open.
    fn is_open(&self, handler: &str) -> bool {
        self.breakers().get(handler).is_some_and(|breaker| breaker.is_open())
    }

    /// Notes how a call ended.
    pub(crate) fn note(&self, handler: &'static str, note: impl Fn(&mut Breaker)) {
        note(self.breakers().entry(handler).or_default());
    }

    fn breakers(&self) -> MutexGuard<'_, HashMap<&'static str, Breaker>> {
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

    /// How many of ten records call the handler while its breaker is open; `call` is the effect of each.
    async fn calls(call: impl Fn(&mut Breaker)) -> usize {
        let breakers = Breakers::default();
        for _ in 0..OPENS_AFTER {
            breakers.note("push", Breaker::failed);
        }
        let trials = Trials::new(&breakers, ["push"]);
        let records = (0..10).map(async |_| {
            let permit = trials.ask("push").await;
            if permit.is_some() {
                tokio::task::yield_now().await;
                breakers.note("push", &call);
            }
            permit.is_some()
        });
        join_all(records).await.into_iter().filter(|called| *called).count()
    }

    #[tokio::test]
    async fn while_the_downstream_is_sick_one_record_of_a_batch_tries_it() {
        assert_eq!(calls(Breaker::failed).await, 1);
    }

    #[tokio::test]
    async fn once_the_trial_succeeds_the_others_go_on() {
        assert_eq!(calls(Breaker::answered).await, 10);
    }

    #[tokio::test]
    async fn a_trial_that_is_given_up_counts_as_failed() {
        let breakers = Breakers::default();
        for _ in 0..OPENS_AFTER {
            breakers.note("push", Breaker::failed);
        }
        let trials = Trials::new(&breakers, ["push"]);
        drop(trials.ask("push").await);
        assert!(trials.ask("push").await.is_none());
        assert!(Trials::new(&breakers, ["push"]).ask("push").await.is_some());
    }
}
