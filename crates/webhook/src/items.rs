//! Events that are lists: hundreds of notifications in one message, each of which is sent once.
//!
//! A handler hands its list to [`Event::for_each_item`](crate::Event::for_each_item). Every item has an
//! [idempotency key](crate::idempotency) of its own, by its position: the payload of a message never
//! changes. What finished is noted in an [`ItemLog`], from which the engine brings it to the ledger while
//! the handler is still at work, so that a crash costs only the few items in between.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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
    log: Arc<ItemLog>,
    /// Whether the handler has begun with a list. Items are known by their positions, so that it has one.
    has_begun: Arc<AtomicBool>,
}

/// A list may not have more items: the ledger keeps the keys of those that are done in one entry, which takes
/// 400 KB.
pub const MOST_ITEMS: usize = 20_000;

impl Items {
    /// The items of `task`, of which the ledger holds some among what is `done`.
    pub(crate) fn new(task: &str, done: &BTreeSet<String>, log: Arc<ItemLog>) -> Self {
        let done = items_of(task, done.iter().map(String::as_str)).collect();
        Self { task: task.to_owned(), done: Arc::new(done), log, has_begun: Arc::default() }
    }

    /// See [`Event::for_each_item`](crate::Event::for_each_item).
    pub(crate) async fn for_each<'a, I, F, Fut>(
        &self,
        key: &IdempotencyKey,
        items: &'a [I],
        at_once: usize,
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
        if items.len() > MOST_ITEMS {
            return Err(HandlerError::permanent(format!("the list has more than {MOST_ITEMS} items")));
        }
        let breaker = Mutex::new(Breaker::default());
        let is_pending = |(index, _): &(usize, &'a I)| !self.done.contains(index);
        let pending: Vec<_> = items.iter().enumerate().filter(is_pending).collect();
        let mut pending = pending.into_iter();
        let mut running = FuturesUnordered::new();
        let mut summary = Summary { items: items.len(), ..Summary::default() };
        loop {
            for (index, item) in pending.by_ref().take(at_once.max(1).saturating_sub(running.len())) {
                running.push(self.attempt(index, item, key, &work, &breaker));
            }
            match running.next().await {
                Some(attempt) => summary.add(attempt),
                None => return summary.result(),
            }
        }
    }

    async fn attempt<'a, I, F, Fut>(
        &self,
        index: usize,
        item: &'a I,
        key: &IdempotencyKey,
        work: &F,
        breaker: &Mutex<Breaker>,
    ) -> Attempt
    where
        F: Fn(&'a I, IdempotencyKey) -> Fut,
        Fut: Future<Output = HandlerResult>,
    {
        let breaker = || breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if breaker().is_open() {
            return Attempt::Withheld;
        }
        match work(item, key.item(index)).await {
            Ok(()) => {
                self.log.finished(item_key(&self.task, index));
                breaker().answered();
                Attempt::Finished
            }
            Err(error) => {
                match error.class() {
                    FailureClass::Permanent => breaker().answered(),
                    FailureClass::Retryable => breaker().failed(),
                }
                Attempt::Failed(error)
            }
        }
    }
}

enum Attempt {
    Finished,
    Failed(HandlerError),
    Withheld,
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
            Attempt::Withheld => self.withheld += 1,
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
            let error = HandlerError::retryable(format!(
                "{retryable} of {items} items failed and {withheld} were not tried; the first: {first}"
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
        let id = MessageId::parse("msg_1").unwrap();
        let log = Arc::new(ItemLog::default());
        let done = done.iter().map(ToString::to_string).collect();
        let tried = Mutex::new(Vec::new());
        let items: Vec<_> = (0..items).collect();
        let result = Items::new("push", &done, log.clone())
            .for_each(&IdempotencyKey::new(&id, "push"), &items, 1, |&item, key| {
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
        assert_eq!(error.to_string(), "1 of 4 items failed and 0 were not tried; the first: busy");
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
        let list = async || items.for_each(&key, &[0, 1], 1, |_, _| std::future::ready(Ok(()))).await;
        assert_eq!(list().await, Ok(()));
        assert_eq!(list().await.unwrap_err().class(), FailureClass::Permanent);
    }

    #[tokio::test]
    async fn a_list_that_the_ledger_could_not_keep_is_refused() {
        let run = run(MOST_ITEMS + 1, &[], |_| Ok(())).await;
        assert_eq!(run.result.unwrap_err().class(), FailureClass::Permanent);
        assert!(run.tried.is_empty());
    }

    #[tokio::test]
    async fn failures_in_a_row_spare_the_downstream_the_rest() {
        let run = run(100, &[], |_| busy()).await;
        assert_eq!(run.tried.len(), OPENS_AFTER as usize);
        let text = run.result.unwrap_err().to_string();
        assert_eq!(text, "3 of 100 items failed and 97 were not tried; the first: busy");
    }
}
