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
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::breaker::Breaker;
use crate::error::{FailureClass, HandlerError, HandlerResult};
use crate::idempotency::{IdempotencyKey, item_key, items_of, refused_key, refused_of};

/// The items of one message that finished, or were refused, under the present claim, of all its handlers.
#[derive(Debug, Default)]
pub struct ItemLog {
    /// The ledger's keys, in the order in which the items finished.
    keys: Mutex<Vec<String>>,
    changed: Notify,
    is_closing: AtomicBool,
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

    /// Has no more items started, because the time of the invocation ends: those that are under way may still
    /// finish.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
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
    refused: Arc<BTreeSet<usize>>,
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
        let keys = || done.iter().map(String::as_str);
        Self {
            task: task.to_owned(),
            done: Arc::new(items_of(task, keys()).collect()),
            refused: Arc::new(refused_of(task, keys()).collect()),
            keys_bytes,
            log,
            has_begun: Arc::default(),
        }
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
        let is_pending =
            |(index, _): &(usize, &'a I)| !self.done.contains(index) && !self.refused.contains(index);
        let mut pending: Vec<_> = items.iter().enumerate().filter(is_pending).collect();
        let longest_key = refused_key(&self.task, items.len()).len();
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
        let refused = (*self.refused).clone();
        let mut summary = Summary { items: items.len(), refused, ..Summary::default() };
        loop {
            let most = if self.log.is_closing.load(Ordering::Relaxed) {
                0
            } else if !breaker.is_open() {
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
                Attempt::Failed(_) => breaker.failed(),
                // Says nothing of the downstream, which may not have been called.
                Attempt::Refused(..) | Attempt::Panicked => has_tried = false,
            }
            summary.add(attempt);
        }
        summary.left = pending.len();
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
            Ok(Err(error)) if error.class() == FailureClass::Permanent => {
                // Not tried again with the rest, and with the next redrive.
                self.log.finished(refused_key(&self.task, index));
                Attempt::Refused(index, error)
            }
            Ok(Err(error)) => Attempt::Failed(error),
            Err(_panic) => Attempt::Panicked,
        }
    }
}

enum Attempt {
    Finished,
    /// It may succeed later.
    Failed(HandlerError),
    /// It never will.
    Refused(usize, HandlerError),
    Panicked,
}

/// What the attempts at the items amount to.
#[derive(Default)]
struct Summary {
    items: usize,
    /// How many finished at this attempt.
    finished: usize,
    /// How many may succeed later.
    failed: usize,
    first_failed: Option<HandlerError>,
    longest_wait: Option<Duration>,
    /// The positions of those that never will, at this attempt and at earlier ones.
    refused: BTreeSet<usize>,
    first_refused: Option<HandlerError>,
    /// How many were not tried.
    left: usize,
}

/// So many positions of refused items are named.
const NAMED: usize = 5;

impl Summary {
    fn add(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Finished => self.finished += 1,
            Attempt::Panicked => self.add(Attempt::Failed(HandlerError::retryable("the handler panicked"))),
            Attempt::Failed(error) => {
                self.failed += 1;
                self.longest_wait = self.longest_wait.max(error.minimum_delay());
                self.first_failed.get_or_insert(error);
            }
            Attempt::Refused(index, error) => {
                self.refused.insert(index);
                self.first_refused.get_or_insert(error);
            }
        }
    }

    fn result(self) -> HandlerResult {
        let items = self.items;
        let mut parts = Vec::new();
        if self.failed > 0 {
            parts.push(format!("{} of {items} items failed", self.failed));
        }
        if self.left > 0 {
            parts.push(format!("{} of {items} items were not tried", self.left));
        }
        if !self.refused.is_empty() {
            let mut named: Vec<_> = self.refused.iter().take(NAMED).map(ToString::to_string).collect();
            if self.refused.len() > NAMED {
                named.push("...".to_owned());
            }
            let count = self.refused.len();
            parts.push(format!("{count} of {items} items will never succeed ({})", named.join(", ")));
        }
        if let Some(first) = self.first_failed.as_ref().or(self.first_refused.as_ref()) {
            parts.push(format!("the first: {first}"));
        }
        let reason = parts.join("; ");
        Err(match (self.failed, self.left, self.refused.is_empty()) {
            (0, 0, true) => return Ok(()),
            (0, 0, false) => HandlerError::permanent(reason),
            (0, ..) if self.finished > 0 => HandlerError::unfinished(reason),
            _ => match self.longest_wait {
                Some(wait) => HandlerError::retryable(reason).retry_after(wait),
                None => HandlerError::retryable(reason),
            },
        })
    }
}

/// One entry of a list in a payload, read by itself: one of another shape fails alone.
#[derive(Debug, Clone)]
pub struct Item<T>(Result<T, OfAnotherShape>);

/// An entry that is not what its list has. It says where, and never repeats what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not what the list has (line {line}, column {column} of the item)")]
struct OfAnotherShape {
    line: usize,
    column: usize,
}

impl<T> Item<T> {
    /// The entry.
    ///
    /// # Errors
    ///
    /// Permanent, where it has another shape.
    pub fn read(&self) -> Result<&T, HandlerError> {
        self.0.as_ref().map_err(|error| HandlerError::permanent(error.to_string()))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(
            serde_json::from_str(raw.get())
                .map_err(|error| OfAnotherShape { line: error.line(), column: error.column() }),
        ))
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
        let text = "1 of 3 items will never succeed (0); the first: no such learner";
        assert_eq!(error.to_string(), text);
        assert_eq!(run.finished, ["push/0!", "push/1", "push/2"]);
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
        // `push/10000!` has eleven bytes.
        let most = LARGEST_KEYS_BYTES / 11;
        assert_eq!(run(most, &[], |_| Ok(())).await.finished.len(), most);
        for (items, done) in [(most + 1, &[][..]), (most, &["push@w1/1000"])] {
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
        assert_eq!(text, "4 of 100 items failed; 96 of 100 items were not tried; the first: busy");
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
        let expected =
            "3 of 10 items failed; 7 of 10 items will never succeed (3, 4, 5, 6, 7, ...); the first: busy";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn what_was_refused_is_not_tried_again_with_the_rest() {
        let again = run(3, &["push/0!", "push/1"], |_| busy()).await;
        assert_eq!(again.tried, ["msg_1/push/2"]);
        let text = again.result.unwrap_err().to_string();
        assert_eq!(text, "1 of 3 items failed; 1 of 3 items will never succeed (0); the first: busy");

        let last = run(3, &["push/0!", "push/1"], |_| Ok(())).await;
        let error = last.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "1 of 3 items will never succeed (0)");
    }

    #[tokio::test]
    async fn at_the_end_of_the_time_no_more_is_started_and_what_is_under_way_finishes() {
        let log = Arc::new(ItemLog::default());
        let items = Items::new("push", &BTreeSet::new(), log.clone());
        let key = IdempotencyKey::new(&MessageId::parse("msg_1").unwrap(), "push");
        let list: Vec<_> = (0..100).collect();
        let work = |&item: &usize, _| {
            let log = log.clone();
            async move {
                if item == 2 {
                    log.close();
                }
                tokio::task::yield_now().await;
                Ok(())
            }
        };
        let error = items.for_each(&key, &list, 4, 0, work).await.unwrap_err();
        assert!(error.goes_on());
        assert_eq!(error.to_string(), "96 of 100 items were not tried");
        assert_eq!(log.after(0).len(), 4);
    }

    #[test]
    fn an_item_of_another_shape_fails_alone_and_is_not_repeated() {
        let list: Vec<Item<u8>> = serde_json::from_str(r#"[1, "+254705408079", 3]"#).unwrap();
        assert_eq!((list[0].read(), list[2].read()), (Ok(&1), Ok(&3)));
        let error = list[1].read().unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "it is not what the list has (line 1, column 15 of the item)");
        assert!(!format!("{list:?}").contains("2547"));
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
