//! Events that are lists: hundreds of notifications in one message, each of which is sent once.
//!
//! A handler hands its list to [`Event::for_each_item`](crate::Event::for_each_item). Every item has an
//! [idempotency key](crate::idempotency) of its own, by its position: the payload of a message never
//! changes. What finished is noted in an [`ItemLog`], from which the engine brings it to the ledger while
//! the handler is still at work, so that a crash costs only the few items in between.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;

use crate::breaker::Breaker;
use crate::error::{FailureClass, HandlerError, HandlerResult};
use crate::idempotency::{IdempotencyKey, item_key, items_of};

/// The items of one message that finished under the present claim, of all its handlers.
#[derive(Debug, Default)]
pub struct ItemLog {
    /// The ledger's keys, in the order in which the items finished.
    keys: Mutex<Vec<String>>,
    changed: Notify,
}

impl ItemLog {
    /// The keys of the items that finished, but for the first `known`.
    pub fn after(&self, known: usize) -> Vec<String> {
        self.keys().get(known..).unwrap_or_default().to_vec()
    }

    /// Whether an item of `task` finished.
    pub fn has_item_of(&self, task: &str) -> bool {
        items_of(task, self.keys().iter().map(String::as_str)).next().is_some()
    }

    /// Waits until something finished since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn finished(&self, key: String) {
        self.keys().push(key);
        self.changed.notify_one();
    }

    fn keys(&self) -> MutexGuard<'_, Vec<String>> {
        // A panic elsewhere leaves a list that is still true.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one handler has to know of the items of its event.
#[derive(Debug, Clone)]
pub(crate) struct Items {
    task: String,
    done: Arc<BTreeSet<usize>>,
    /// How much the entry's keys take already.
    keys_bytes: usize,
    log: Arc<ItemLog>,
    /// Whether the handler has begun with a list. Items are known by their positions, so that it has one.
    has_begun: Arc<AtomicBool>,
}

/// The keys of a message's items may be so long together: they are kept in one entry of the ledger, for which
/// DynamoDB has 400 KB, and each note of what finished costs as much as the whole entry. That is a list of
/// 20,000 items for a handler with a short name, and of half as many under a replay window.
/// Source: DynamoDB developer guide, "Service, account, and table quotas".
pub const LARGEST_KEYS_BYTES: usize = 200_000;

impl Items {
    /// The items of `task`, of which the ledger holds some among what is `done`.
    pub(crate) fn new(task: &str, done: &BTreeSet<String>, log: Arc<ItemLog>) -> Self {
        let keys_bytes = done.iter().map(String::len).sum();
        let done = items_of(task, done.iter().map(String::as_str)).collect();
        Self { task: task.to_owned(), done: Arc::new(done), keys_bytes, log, has_begun: Arc::default() }
    }

    /// See [`Event::for_each_item`](crate::Event::for_each_item). `start` is any number: the attempt begins
    /// there in the list and goes around it, so that a few items at its head that fail every time do not keep
    /// all others from their turn.
    pub(crate) async fn for_each<'a, I, F, Fut>(
        &self,
        key: &IdempotencyKey,
        items: &'a [I],
        at_once: usize,
        start: usize,
        work: F,
    ) -> HandlerResult
    where
        F: Fn(&'a I, IdempotencyKey) -> Fut,
        Fut: Future<Output = HandlerResult>,
    {
        if self.has_begun.swap(true, Ordering::Relaxed) {
            return Err(HandlerError::permanent(
                "the handler has more than one list of items; it may have one",
            ));
        }
        let is_pending = |(index, _): &(usize, &'a I)| !self.done.contains(index);
        let mut pending: Vec<_> = items.iter().enumerate().filter(is_pending).collect();
        let longest_key = item_key(&self.task, items.len()).len();
        if self.keys_bytes.saturating_add(pending.len().saturating_mul(longest_key)) > LARGEST_KEYS_BYTES {
            return Err(HandlerError::permanent(format!(
                "{} items are more than the ledger can remember of a message",
                items.len()
            )));
        }
        if !pending.is_empty() {
            let start = start % pending.len();
            pending.rotate_left(start);
        }
        let mut pending = pending.into_iter();
        let mut running = FuturesUnordered::new();
        let mut breaker = Breaker::default();
        let mut has_tried = false;
        let mut summary = Summary { items: items.len(), ..Summary::default() };
        loop {
            let most = if !breaker.is_open() {
                has_tried = false;
                at_once.max(1)
            } else if running.is_empty() && !has_tried {
                // What was under way has ended, and the downstream still counts as sick: one more tries.
                has_tried = true;
                1
            } else {
                0
            };
            for (index, item) in pending.by_ref().take(most.saturating_sub(running.len())) {
                running.push(self.attempt(index, item, key, &work));
            }
            let Some(attempt) = running.next().await else { break };
            match &attempt {
                Attempt::Finished => breaker.answered(),
                Attempt::Failed(error) if error.class() == FailureClass::Retryable => breaker.failed(),
                // Says nothing of the downstream, which may not have been called.
                Attempt::Failed(_) | Attempt::Panicked => has_tried = false,
            }
            summary.add(attempt);
        }
        summary.withheld = pending.len();
        summary.result()
    }

    async fn attempt<'a, I, F, Fut>(
        &self,
        index: usize,
        item: &'a I,
        key: &IdempotencyKey,
        work: &F,
    ) -> Attempt
    where
        F: Fn(&'a I, IdempotencyKey) -> Fut,
        Fut: Future<Output = HandlerResult>,
    {
        let work = async { work(item, key.item(index)).await };
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(())) => {
                self.log.finished(item_key(&self.task, index));
                Attempt::Finished
            }
            Ok(Err(error)) => Attempt::Failed(error),
            Err(_panic) => Attempt::Panicked,
        }
    }
}

enum Attempt {
    Finished,
    Failed(HandlerError),
    Panicked,
}

/// What the attempts at the items amount to.
#[derive(Default)]
struct Summary {
    items: usize,
    retryable: usize,
    permanent: usize,
    withheld: usize,
    first_retryable: Option<HandlerError>,
    first_permanent: Option<HandlerError>,
    longest_wait: Option<Duration>,
}

impl Summary {
    fn add(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Finished => {}
            Attempt::Panicked => self.add(Attempt::Failed(HandlerError::retryable("the handler panicked"))),
            Attempt::Failed(error) => {
                self.longest_wait = self.longest_wait.max(error.minimum_delay());
                let (count, first) = match error.class() {
                    FailureClass::Retryable => (&mut self.retryable, &mut self.first_retryable),
                    FailureClass::Permanent => (&mut self.permanent, &mut self.first_permanent),
                };
                *count += 1;
                first.get_or_insert(error);
            }
        }
    }

    fn result(self) -> HandlerResult {
        let Self { items, retryable, permanent, withheld, .. } = self;
        if let Some(first) = self.first_retryable {
            let refused =
                if permanent > 0 { format!(", {permanent} never will succeed") } else { String::new() };
            let untried = if withheld > 0 { format!(", {withheld} were not tried") } else { String::new() };
            let error = HandlerError::retryable(format!(
                "{retryable} of {items} items failed{refused}{untried}; the first: {first}"
            ));
            return Err(match self.longest_wait {
                Some(wait) => error.retry_after(wait),
                None => error,
            });
        }
        match self.first_permanent {
            Some(first) => Err(HandlerError::permanent(format!(
                "{permanent} of {items} items will never succeed; the first: {first}"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::OPENS_AFTER;
    use crate::message::MessageId;

    struct Run {
        result: HandlerResult,
        tried: Vec<String>,
        finished: Vec<String>,
    }

    /// One attempt at `items` items, one at a time, of which those in `done` are done.
    async fn run(items: usize, done: &[&str], work: impl Fn(usize) -> HandlerResult) -> Run {
        run_from(0, items, done, work).await
    }

    async fn run_from(
        start: usize,
        items: usize,
        done: &[&str],
        work: impl Fn(usize) -> HandlerResult,
    ) -> Run {
        let id = MessageId::parse("msg_1").unwrap();
        let log = Arc::new(ItemLog::default());
        let done = done.iter().map(ToString::to_string).collect();
        let tried = Mutex::new(Vec::new());
        let items: Vec<_> = (0..items).collect();
        let result = Items::new("push", &done, log.clone())
            .for_each(&IdempotencyKey::new(&id, "push"), &items, 1, start, |&item, key| {
                tried.lock().unwrap().push(key.to_string());
                std::future::ready(work(item))
            })
            .await;
        Run { result, tried: tried.into_inner().unwrap(), finished: log.after(0) }
    }

    fn busy() -> HandlerResult {
        Err(HandlerError::retryable("busy").retry_after(Duration::from_secs(9)))
    }

    #[tokio::test]
    async fn what_is_done_is_not_done_again_and_what_finished_is_noted() {
        let run = run(3, &["push/1", "other/0"], |_| Ok(())).await;
        assert_eq!(run.result, Ok(()));
        assert_eq!(run.tried, ["msg_1/push/0", "msg_1/push/2"]);
        assert_eq!(run.finished, ["push/0", "push/2"]);
    }

    #[tokio::test]
    async fn a_failure_does_not_stop_the_others_and_asks_for_the_rest_again() {
        let run = run(4, &[], |item| if item == 1 { busy() } else { Ok(()) }).await;
        let error = run.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Retryable);
        assert_eq!(error.minimum_delay(), Some(Duration::from_secs(9)));
        assert_eq!(error.to_string(), "1 of 4 items failed; the first: busy");
        assert_eq!(run.finished, ["push/0", "push/2", "push/3"]);
    }

    #[tokio::test]
    async fn an_item_that_will_never_succeed_fails_the_handler_once_the_rest_is_done() {
        let refuse = || Err(HandlerError::permanent("no such learner"));
        let run = run(3, &[], |item| if item == 0 { refuse() } else { Ok(()) }).await;
        let error = run.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "1 of 3 items will never succeed; the first: no such learner");
        assert_eq!(run.finished, ["push/1", "push/2"]);
    }

    #[tokio::test]
    async fn a_second_list_would_be_taken_for_the_first_and_is_refused() {
        let id = MessageId::parse("msg_1").unwrap();
        let items = Items::new("push", &BTreeSet::new(), Arc::default());
        let key = IdempotencyKey::new(&id, "push");
        let list = async || items.for_each(&key, &[0, 1], 1, 0, |_, _| std::future::ready(Ok(()))).await;
        assert_eq!(list().await, Ok(()));
        assert_eq!(list().await.unwrap_err().class(), FailureClass::Permanent);
    }

    #[tokio::test]
    async fn a_list_that_the_ledger_could_not_keep_is_refused() {
        // `push/20000` has ten bytes.
        let most = LARGEST_KEYS_BYTES / 10;
        assert_eq!(run(most, &[], |_| Ok(())).await.finished.len(), most);
        for (items, done) in [(most + 1, &[][..]), (most, &["push@w1/0"])] {
            let run = run(items, done, |_| Ok(())).await;
            assert_eq!(run.result.unwrap_err().class(), FailureClass::Permanent);
            assert!(run.tried.is_empty());
        }
    }

    #[tokio::test]
    async fn failures_in_a_row_and_one_more_try_spare_the_downstream_the_rest() {
        let run = run(100, &[], |_| busy()).await;
        assert_eq!(run.tried.len(), OPENS_AFTER as usize + 1);
        let text = run.result.unwrap_err().to_string();
        assert_eq!(text, "4 of 100 items failed, 96 were not tried; the first: busy");
    }

    #[tokio::test]
    async fn a_few_items_that_fail_every_time_do_not_keep_the_others_from_their_turn() {
        let head_fails = |bad: usize| move |item| if item < bad { busy() } else { Ok(()) };
        assert_eq!(run(100, &[], head_fails(3)).await.finished.len(), 97);
        // A longer row of them ends this attempt, and the next begins elsewhere.
        assert!(run(100, &[], head_fails(10)).await.finished.is_empty());
        assert_eq!(run_from(1_010, 100, &[], head_fails(10)).await.finished.len(), 90);
    }

    #[tokio::test]
    async fn a_refusal_says_nothing_of_the_downstream() {
        let refuse = || Err(HandlerError::permanent("no such learner"));
        let run = run(10, &[], |item| if item < 3 { busy() } else { refuse() }).await;
        assert_eq!(run.tried.len(), 10);
        let text = run.result.unwrap_err().to_string();
        assert_eq!(text, "3 of 10 items failed, 7 never will succeed; the first: busy");
    }

    #[tokio::test]
    async fn a_panic_costs_its_item_alone() {
        let run = run(5, &[], |item| if item == 0 { panic!("an item that panics") } else { Ok(()) }).await;
        let error = run.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Retryable);
        assert_eq!(error.to_string(), "1 of 5 items failed; the first: the handler panicked");
        assert_eq!(run.finished.len(), 4);
    }
}
