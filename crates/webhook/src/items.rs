//! Events with lists, such as hundreds of notifications in one message, each with its own record of being done.
//!
//! A handler hands its list to [`Event::for_each_item`](crate::Event::for_each_item). Every item has an
//! [idempotency key](crate::idempotency) of its own, by its position: the payload of a message never changes.
//! Finished items are noted in an [`ItemLog`]. The engine records them in the ledger while the handler still runs,
//! so that a crash repeats only the few items in between. A list that is too long for one message is cut into
//! [parts](crate::message::Part), each a message of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::breaker::Breaker;
use crate::error::{FailureClass, HandlerError, HandlerResult};
use crate::idempotency::{
    IdempotencyKey, is_progress_of, item_key, items_of, refusal_key, refusals_of, refused_key, refused_of,
};
use crate::json;
use crate::message::Part;

/// Limits how many items are in flight at once in one execution environment, over all messages of its batch. Keep
/// one in the handler's state; cloned, it is the same limit.
///
/// An item takes its permit before it begins, so that no item begins after the invocation stops starting work. With a
/// limit of the handler's own inside the work, items that wait for it would count as begun.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Semaphore>);

impl Permits {
    /// A limit of `at_once` items; one, if that is 0.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// Waits for a permit. It never fails, because the semaphore is never closed.
    async fn acquire(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.0.clone().acquire_owned().await
    }
}

/// The progress of the lists of one message's handlers under the current claim.
#[derive(Debug)]
pub struct ItemLog {
    /// The ledger's keys, in the order in which they came.
    keys: Mutex<Vec<String>>,
    changed: Notify,
    is_closing: watch::Sender<bool>,
    /// A longer list is cut into parts.
    longest_list: usize,
    /// The lists to cut into parts: the number of items of each, by its task.
    cuts: Mutex<BTreeMap<String, usize>>,
}

impl Default for ItemLog {
    /// A log under which no list is cut into parts, however long it is.
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            changed: Notify::new(),
            is_closing: watch::Sender::new(false),
            longest_list: usize::MAX,
            cuts: Mutex::default(),
        }
    }
}

impl ItemLog {
    /// A log under which a list of more than `longest_list` items is cut into parts of that length instead of
    /// being run.
    pub fn with_parts_of(longest_list: usize) -> Self {
        Self { longest_list: longest_list.max(1), ..Self::default() }
    }

    /// The keys so far, without the first `known`.
    pub fn after(&self, known: usize) -> Vec<String> {
        locked(&self.keys).get(known..).unwrap_or_default().to_vec()
    }

    /// Whether the list of `task` made progress: an item finished, or a part is on the queue.
    pub fn has_progress_of(&self, task: &str) -> bool {
        locked(&self.keys).iter().any(|key| is_progress_of(task, key))
    }

    /// Lets no more items begin, because the time of the invocation ends: those in flight can still finish.
    pub fn close(&self) {
        self.is_closing.send_replace(true);
    }

    fn is_closed(&self) -> bool {
        *self.is_closing.borrow()
    }

    /// Waits until a key was added since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many items the list of `task` has, if it is to be cut into parts.
    pub fn cut_of(&self, task: &str) -> Option<usize> {
        locked(&self.cuts).get(task).copied()
    }

    /// Notes that a part is on the queue.
    pub fn queued(&self, part: &Part) {
        self.add(part.key());
    }

    /// Adds the key of an item that finished, or of another mark of a list.
    pub fn add(&self, key: String) {
        locked(&self.keys).push(key);
        self.changed.notify_one();
    }
}

/// The value stays valid after a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of one handler's list of items.
#[derive(Debug, Clone)]
pub(crate) struct Items {
    task: String,
    /// The part of the list that the message is about; `None` for the whole list.
    part: Option<Part>,
    done: Arc<BTreeSet<usize>>,
    /// The positions of the refused items, each with the reason if the ledger has it.
    refused: Arc<BTreeMap<usize, Option<String>>>,
    log: Arc<ItemLog>,
    /// Whether the handler has begun with a list. It can have only one, because items are identified by position.
    has_begun: Arc<AtomicBool>,
}

/// How many different reasons of a list's refusals the ledger keeps.
const MOST_REASONS: usize = 5;

/// A reason in the ledger is cut to this many bytes.
const LONGEST_REASON_BYTES: usize = 200;

impl Items {
    /// The items of `task`. `done` has those that the ledger has recorded.
    pub(crate) fn new(task: &str, part: Option<&Part>, done: &BTreeSet<String>, log: Arc<ItemLog>) -> Self {
        let keys = || done.iter().map(String::as_str);
        let items: BTreeSet<_> = items_of(task, keys()).collect();
        let mut refused: BTreeMap<_, _> = refused_of(task, keys()).map(|index| (index, None)).collect();
        for (index, reason) in refusals_of(task, keys()) {
            refused.insert(index, Some(reason.to_owned()));
        }
        // Refused in an earlier send, and done in a later one that ended before it settled.
        refused.retain(|index, _| !items.contains(index));
        Self {
            task: task.to_owned(),
            part: part.cloned(),
            done: Arc::new(items),
            refused: Arc::new(refused),
            log,
            has_begun: Arc::default(),
        }
    }

    /// The positions of this message's items, in a list of `items` items.
    fn range(&self, items: usize) -> Result<Range<usize>, HandlerError> {
        match &self.part {
            None => Ok(0..items),
            Some(part) if part.items() == items => Ok(part.range().clone()),
            Some(part) => Err(HandlerError::permanent(format!(
                "the list has {items} items, and had {} when it was cut into parts; resend the webhook under a replay \
                 window",
                part.items()
            ))),
        }
    }

    /// Whether the list is to be cut into parts. A list that was begun whole, by a consumer that does not cut
    /// lists, is finished whole.
    fn is_to_be_cut(&self, items: usize) -> bool {
        let is_begun = !self.done.is_empty() || !self.refused.is_empty();
        self.part.is_none() && items > self.log.longest_list && !is_begun
    }

    /// See [`Event::for_each_item`](crate::Event::for_each_item). `start` is any number: the attempt begins there
    /// in the list and wraps around, so that a few items at its head that always fail do not block the others.
    pub(crate) async fn for_each<'a, I, F, Fut>(
        &self,
        key: &IdempotencyKey,
        items: &'a [I],
        permits: &Permits,
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
        let range = self.range(items.len())?;
        if self.is_to_be_cut(items.len()) {
            locked(&self.log.cuts).insert(self.task.clone(), items.len());
            return Err(HandlerError::unfinished("the list is cut into parts"));
        }
        let is_pending = |(index, _): &(usize, &'a I)| {
            range.contains(index) && !self.done.contains(index) && !self.refused.contains_key(index)
        };
        let mut pending: Vec<_> = items.iter().enumerate().filter(is_pending).collect();
        if !pending.is_empty() {
            let start = start % pending.len();
            pending.rotate_left(start);
        }
        let mut pending = pending.into_iter();
        let mut running = FuturesUnordered::new();
        let mut breaker = Breaker::default();
        let mut has_tried = false;
        let mut closing = self.log.is_closing.subscribe();
        let mut summary =
            Summary { items: range.len(), refused: (*self.refused).clone(), ..Summary::default() };
        // One wait for a permit at a time, kept over several turns: it keeps its place in the queue.
        let mut permit = pin!(Fuse::terminated());
        loop {
            // While the breaker is open, one item tries once all items in flight have ended.
            let may_begin = !self.log.is_closed()
                && pending.len() > 0
                && (!breaker.is_open() || (running.is_empty() && !has_tried));
            if !may_begin {
                // Dropped, so that others can use a permit that it may have got meanwhile.
                permit.set(Fuse::terminated());
            } else if permit.is_terminated() {
                permit.set(permits.acquire().fuse());
            }
            let attempt = tokio::select! {
                biased;
                _ = closing.wait_for(|is_closing| *is_closing), if may_begin => continue,
                Some(attempt) = running.next(), if !running.is_empty() => attempt,
                permit = permit.as_mut(), if may_begin => {
                    // Checked again: the items polled just now may have taken until the end.
                    if !self.log.is_closed() && let Some((index, item)) = pending.next() {
                        has_tried = breaker.is_open();
                        running.push(self.attempt(index, item, key, &work, permit));
                    }
                    continue;
                }
                else => break,
            };
            match &attempt {
                Attempt::Finished => breaker.answered(),
                Attempt::Failed(_) => breaker.failed(),
                // Says nothing about the downstream, which may not have been called.
                Attempt::Refused(..) | Attempt::Panicked => has_tried = false,
            }
            if let Attempt::Refused(index, error) = &attempt {
                self.note_refusal(*index, &error.to_string(), &summary);
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
        permit: Result<OwnedSemaphorePermit, AcquireError>,
    ) -> Attempt
    where
        F: Fn(&'a I, IdempotencyKey) -> Fut,
        Fut: Future<Output = HandlerResult>,
    {
        let work = async { work(item, key.item(index)).await };
        let ended = AssertUnwindSafe(work).catch_unwind().await;
        drop(permit);
        match ended {
            Ok(Ok(())) => {
                self.log.add(item_key(&self.task, index));
                Attempt::Finished
            }
            Ok(Err(error)) if error.class() == FailureClass::Permanent => {
                // Tried again only when the message is sent again.
                self.log.add(refused_key(&self.task, index));
                Attempt::Refused(index, error)
            }
            Ok(Err(error)) => Attempt::Failed(error),
            Err(_panic) => Attempt::Panicked,
        }
    }

    /// Lets the ledger keep why an item was refused, if it is the first for this reason: the delivery that
    /// dead-letters the message does not try the item again, but reports the reason.
    fn note_refusal(&self, index: usize, reason: &str, before: &Summary) {
        let reason = short(reason);
        let reasons: BTreeSet<_> = before.refused.values().flatten().map(|known| short(known)).collect();
        if reasons.len() < MOST_REASONS && !reasons.contains(reason) {
            self.log.add(refusal_key(&self.task, index, reason));
        }
    }
}

fn short(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(LONGEST_REASON_BYTES)]
}

enum Attempt {
    Finished,
    /// It may succeed later.
    Failed(HandlerError),
    /// It will never succeed.
    Refused(usize, HandlerError),
    Panicked,
}

/// The result of the attempts at the items.
#[derive(Default)]
struct Summary {
    items: usize,
    /// How many may succeed later.
    failed: usize,
    first_failed: Option<HandlerError>,
    longest_wait: Option<Duration>,
    /// The positions of those that never will, at this attempt and at earlier ones, with the known reasons.
    refused: BTreeMap<usize, Option<String>>,
    /// How many were not tried.
    left: usize,
}

/// How many positions of refused items are named.
const NAMED: usize = 5;

impl Summary {
    fn add(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Finished => {}
            Attempt::Panicked => self.add(Attempt::Failed(HandlerError::retryable("the handler panicked"))),
            Attempt::Failed(error) => {
                self.failed += 1;
                self.longest_wait = self.longest_wait.max(error.minimum_delay());
                self.first_failed.get_or_insert(error);
            }
            Attempt::Refused(index, error) => {
                self.refused.insert(index, Some(error.to_string()));
            }
        }
    }

    fn result(self) -> HandlerResult {
        let items = self.items;
        let mut parts = Vec::new();
        if self.failed > 0 {
            let first = self.first_failed.as_ref().map(|error| format!(", the first: {error}"));
            parts.push(format!("{} of {items} items failed{}", self.failed, first.unwrap_or_default()));
        }
        if self.left > 0 {
            parts.push(format!("{} of {items} items were not tried", self.left));
        }
        if !self.refused.is_empty() {
            let mut named: Vec<_> = self.refused.keys().take(NAMED).map(ToString::to_string).collect();
            if self.refused.len() > NAMED {
                named.push("...".to_owned());
            }
            let count = self.refused.len();
            let known = self.refused.iter().find_map(|(index, reason)| Some((index, reason.as_ref()?)));
            let why = known.map(|(index, reason)| format!(", item {index}: {reason}"));
            parts.push(format!(
                "{count} of {items} items will never succeed ({}){}",
                named.join(", "),
                why.unwrap_or_default()
            ));
        }
        let reason = parts.join("; ");
        Err(match (self.failed, self.left, self.refused.is_empty()) {
            (0, 0, true) => return Ok(()),
            (0, 0, false) => HandlerError::permanent(reason),
            // The rest did not fail: the time was up.
            (0, ..) => HandlerError::unfinished(reason),
            _ => match self.longest_wait {
                Some(wait) => HandlerError::retryable(reason).retry_after(wait),
                None => HandlerError::retryable(reason),
            },
        })
    }
}

/// One entry of a list in a payload, read separately: an entry of another shape fails alone.
#[derive(Debug, Clone)]
pub struct Item<T>(Result<T, OfAnotherShape>);

/// An entry without the shape that its list expects. It names the position, and never quotes the text there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the item does not have the expected shape (line {line}, column {column} of the item)")]
struct OfAnotherShape {
    line: usize,
    column: usize,
}

impl<T> Item<T> {
    /// The entry.
    ///
    /// # Errors
    ///
    /// Permanent, if it has another shape.
    pub fn read(&self) -> Result<&T, HandlerError> {
        self.0.as_ref().map_err(|error| HandlerError::permanent(error.to_string()))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(
            json::read(raw.get())
                .map_err(|error| OfAnotherShape { line: error.line(), column: error.column() }),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::breaker::OPENS_AFTER;
    use crate::error::FailureKind;
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
        run_under(Arc::default(), None, start, items, done, work).await
    }

    async fn run_under(
        log: Arc<ItemLog>,
        part: Option<&Part>,
        start: usize,
        items: usize,
        done: &[&str],
        work: impl Fn(usize) -> HandlerResult,
    ) -> Run {
        let id = MessageId::parse("msg_1").unwrap();
        let done = done.iter().map(ToString::to_string).collect();
        let tried = Mutex::new(Vec::new());
        let items: Vec<_> = (0..items).collect();
        let result = Items::new("push", part, &done, log.clone())
            .for_each(&IdempotencyKey::new(&id, "push"), &items, &Permits::new(1), start, |&item, key| {
                tried.lock().unwrap().push(key.to_string());
                std::future::ready(work(item))
            })
            .await;
        Run { result, tried: tried.into_inner().unwrap(), finished: log.after(0) }
    }

    fn busy() -> HandlerResult {
        Err(HandlerError::retryable("busy").retry_after(Duration::from_secs(9)))
    }

    #[test]
    fn a_log_tells_of_every_new_key_and_whose_progress_it_is() {
        let log = ItemLog::default();
        assert_eq!((log.changed().now_or_never(), log.has_progress_of("push")), (None, false));
        log.add(item_key("push", 0));
        assert_eq!(log.changed().now_or_never(), Some(()));
        assert_eq!(log.changed().now_or_never(), None, "nothing was added since");
        assert_eq!((log.has_progress_of("push"), log.has_progress_of("other")), (true, false));
        let part = Part::all_of("other", 250, 100, false).next().unwrap();
        log.queued(&part);
        assert_eq!((log.changed().now_or_never(), log.after(1)), (Some(()), vec![part.key()]));
        assert!(log.has_progress_of("other"), "a part is on the queue");
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
        assert_eq!(error.to_string(), "1 of 4 items failed, the first: busy");
        assert_eq!(run.finished, ["push/0", "push/2", "push/3"]);
    }

    #[tokio::test]
    async fn an_item_that_will_never_succeed_fails_the_handler_once_the_rest_is_done() {
        let refuse = || Err(HandlerError::permanent("no such learner"));
        let run = run(3, &[], |item| if item == 0 { refuse() } else { Ok(()) }).await;
        let error = run.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        let text = "1 of 3 items will never succeed (0), item 0: no such learner";
        assert_eq!(error.to_string(), text);
        assert_eq!(run.finished, ["push/0!", "push!0 no such learner", "push/1", "push/2"]);
    }

    #[tokio::test]
    async fn a_second_list_would_be_taken_for_the_first_and_is_refused() {
        let id = MessageId::parse("msg_1").unwrap();
        let items = Items::new("push", None, &BTreeSet::new(), Arc::default());
        let key = IdempotencyKey::new(&id, "push");
        let list = async || {
            items.for_each(&key, &[0, 1], &Permits::new(1), 0, |_, _| std::future::ready(Ok(()))).await
        };
        assert_eq!(list().await, Ok(()));
        assert_eq!(list().await.unwrap_err().class(), FailureClass::Permanent);
    }

    #[tokio::test]
    async fn a_list_longer_than_a_part_is_cut_and_none_of_it_is_tried() {
        let log = Arc::new(ItemLog::with_parts_of(100));
        let run = run_under(log.clone(), None, 0, 101, &["other/7"], |_| Ok(())).await;
        assert_eq!(run.result.unwrap_err().kind(), FailureKind::Unfinished);
        assert!(run.tried.is_empty() && run.finished.is_empty());
        assert_eq!((log.cut_of("push"), log.cut_of("other")), (Some(101), None));

        let log = Arc::new(ItemLog::with_parts_of(100));
        assert_eq!(run_under(log.clone(), None, 0, 100, &[], |_| Ok(())).await.finished.len(), 100);
        assert_eq!(log.cut_of("push"), None);
    }

    #[tokio::test]
    async fn a_list_that_was_begun_whole_is_finished_whole() {
        for begun in ["push/0", "push/0!"] {
            let log = Arc::new(ItemLog::with_parts_of(2));
            let run = run_under(log.clone(), None, 0, 4, &[begun], |_| Ok(())).await;
            assert_eq!((run.tried.len(), log.cut_of("push")), (3, None));
        }
        // With a part on the queue, the list was not begun whole: the other parts follow.
        let log = Arc::new(ItemLog::with_parts_of(2));
        let run = run_under(log.clone(), None, 0, 4, &["push/0-1"], |_| Ok(())).await;
        assert_eq!((run.tried.len(), log.cut_of("push")), (0, Some(4)));
    }

    #[tokio::test]
    async fn a_part_has_its_own_items_under_the_keys_of_the_whole_list() {
        let part = Part::all_of("push", 250, 100, false).last().unwrap();
        let log = Arc::new(ItemLog::with_parts_of(100));
        let run = run_under(log, Some(&part), 0, 250, &["push/200"], |_| Ok(())).await;
        assert_eq!(run.result, Ok(()));
        assert_eq!(run.tried.first().map(String::as_str), Some("msg_1/push/201"));
        assert_eq!((run.tried.len(), run.finished.len()), (49, 49));
    }

    #[tokio::test]
    async fn a_part_of_a_list_of_another_length_is_refused() {
        let part = Part::all_of("push", 250, 100, false).next().unwrap();
        let run = run_under(Arc::default(), Some(&part), 0, 249, &[], |_| Ok(())).await;
        assert_eq!(run.result.unwrap_err().class(), FailureClass::Permanent);
        assert!(run.tried.is_empty());
    }

    #[tokio::test]
    async fn failures_in_a_row_and_one_more_try_spare_the_downstream_the_rest() {
        let run = run(100, &[], |_| busy()).await;
        assert_eq!(run.tried.len(), OPENS_AFTER as usize + 1);
        let text = run.result.unwrap_err().to_string();
        assert_eq!(text, "4 of 100 items failed, the first: busy; 96 of 100 items were not tried");
    }

    #[tokio::test(start_paused = true)]
    async fn while_failures_spare_the_downstream_nothing_new_begins_and_no_permit_is_held() {
        let permits = Permits::new(4);
        let key = IdempotencyKey::new(&MessageId::parse("msg_1").unwrap(), "push");
        let begun = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let failing = async {
            let work = async |&item: &u64, _| {
                begun[0].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(if item < 3 { 1 } else { 1_000 })).await;
                busy()
            };
            let items = Items::new("push", None, &BTreeSet::new(), Arc::default());
            items.for_each(&key, &[0, 1, 2, 3, 4, 5], &permits, 0, work).await
        };
        let other = async {
            let work = async |(): &(), _| {
                begun[1].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            };
            let items = Items::new("other", None, &BTreeSet::new(), Arc::default());
            items.for_each(&key, &[(); 9], &permits, 0, work).await
        };
        let look = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            begun.each_ref().map(|begun| begun.load(Ordering::Relaxed))
        };
        let (failed, done, begun) = tokio::join!(failing, other, look);
        assert_eq!(begun, [4, 3], "the fourth is under way, and the other list has the permits of three");
        let text = "5 of 6 items failed, the first: busy; 1 of 6 items were not tried";
        assert_eq!((failed.unwrap_err().to_string(), done), (text.to_owned(), Ok(())));
    }

    #[tokio::test]
    async fn a_few_items_that_fail_every_time_do_not_keep_the_others_from_their_turn() {
        let head_fails = |bad: usize| move |item| if item < bad { busy() } else { Ok(()) };
        assert_eq!(run(100, &[], head_fails(3)).await.finished.len(), 97);
        // More of them in a row end this attempt, and the next begins elsewhere.
        assert!(run(100, &[], head_fails(10)).await.finished.is_empty());
        assert_eq!(run_from(1_010, 100, &[], head_fails(10)).await.finished.len(), 90);
    }

    #[tokio::test]
    async fn a_refusal_says_nothing_of_the_downstream() {
        let refuse = || Err(HandlerError::permanent("no such learner"));
        let run = run(10, &[], |item| if item < 3 { busy() } else { refuse() }).await;
        assert_eq!(run.tried.len(), 10);
        let text = run.result.unwrap_err().to_string();
        let expected = "3 of 10 items failed, the first: busy; 7 of 10 items will never succeed (3, 4, 5, 6, 7, ...), \
                        item 3: no such learner";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn all_refused_items_are_named_if_they_are_few() {
        let run = run(NAMED, &[], |_| Err(HandlerError::permanent("no such learner"))).await;
        let text = "5 of 5 items will never succeed (0, 1, 2, 3, 4), item 0: no such learner";
        assert_eq!(run.result.unwrap_err().to_string(), text);
    }

    #[tokio::test]
    async fn what_was_refused_is_not_tried_again_with_the_rest() {
        let done = ["push/0!", "push!0 no such plan", "push/1"];
        let again = run(3, &done, |_| busy()).await;
        assert_eq!(again.tried, ["msg_1/push/2"]);
        let text = again.result.unwrap_err().to_string();
        assert_eq!(
            text,
            "1 of 3 items failed, the first: busy; 1 of 3 items will never succeed (0), item 0: no such plan"
        );

        let last = run(3, &done, |_| Ok(())).await;
        let error = last.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "1 of 3 items will never succeed (0), item 0: no such plan");
    }

    #[tokio::test]
    async fn an_item_that_was_refused_and_then_done_is_done() {
        let run = run(2, &["push/0!", "push!0 no such plan", "push/0"], |_| Ok(())).await;
        assert_eq!((run.result, run.tried), (Ok(()), vec!["msg_1/push/1".to_owned()]));
    }

    #[tokio::test]
    async fn every_different_reason_of_a_refusal_is_kept_once_and_few_of_them() {
        let reasons = |done: &'static [&'static str], reason: fn(usize) -> String| async move {
            let run = run(20, done, move |item| Err(HandlerError::permanent(reason(item)))).await;
            let is_reason = |key: &&String| key.starts_with("push!");
            run.finished.iter().filter(is_reason).cloned().collect::<Vec<_>>()
        };
        let plan = |item: usize| format!("no such plan {}", item % 2);
        assert_eq!(reasons(&[], plan).await, ["push!0 no such plan 0", "push!1 no such plan 1"]);
        assert_eq!(reasons(&["push/0!", "push!0 no such plan 0"], plan).await, ["push!1 no such plan 1"]);
        assert_eq!(reasons(&[], |item| item.to_string()).await.len(), MOST_REASONS);
        let long = reasons(&[], |_| "é".repeat(300)).await;
        assert_eq!(long, [format!("push!0 {}", "é".repeat(100))]);
    }

    #[tokio::test]
    async fn at_the_end_of_the_time_no_more_is_started_and_what_is_under_way_finishes() {
        let log = Arc::new(ItemLog::default());
        let items = Items::new("push", None, &BTreeSet::new(), log.clone());
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
        let error = items.for_each(&key, &list, &Permits::new(4), 0, work).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unfinished);
        assert_eq!(error.to_string(), "97 of 100 items were not tried");
        assert_eq!(log.after(0).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn items_that_wait_for_a_permit_do_not_begin_after_the_close() {
        let permits = Permits::new(4);
        let logs: Vec<_> = (0..10).map(|_| Arc::new(ItemLog::default())).collect();
        let begun = AtomicUsize::new(0);
        let key = IdempotencyKey::new(&MessageId::parse("msg_1").unwrap(), "push");
        let lists = logs.iter().map(async |log| {
            let items = Items::new("push", None, &BTreeSet::new(), log.clone());
            let work = async |(): &(), _| {
                begun.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(())
            };
            items.for_each(&key, &[(); 20], &permits, 0, work).await
        });
        let close = async {
            tokio::time::sleep(Duration::from_millis(450)).await;
            for log in &logs {
                log.close();
            }
            begun.load(Ordering::Relaxed)
        };
        let (results, before) = tokio::join!(futures_util::future::join_all(lists), close);
        assert_eq!((before, begun.load(Ordering::Relaxed)), (8, 8));
        let finished: usize = logs.iter().map(|log| log.after(0).len()).sum();
        assert_eq!(finished, 8, "what was under way finishes");
        // Lists that began no item have not failed either.
        let is_unfinished = |error: &HandlerError| error.kind() == FailureKind::Unfinished;
        assert!(results.iter().all(|result| result.as_ref().is_err_and(is_unfinished)));
    }

    #[test]
    fn an_item_of_another_shape_fails_alone_and_is_not_repeated() {
        let list: Vec<Item<u8>> = serde_json::from_str(r#"[1, "+254705408079", 3]"#).unwrap();
        assert_eq!((list[0].read(), list[2].read()), (Ok(&1), Ok(&3)));
        let error = list[1].read().unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(
            error.to_string(),
            "the item does not have the expected shape (line 1, column 15 of the item)"
        );
        assert!(!format!("{list:?}").contains("2547"));
    }

    #[tokio::test]
    async fn a_panic_costs_its_item_alone() {
        let run = run(5, &[], |item| if item == 0 { panic!("an item that panics") } else { Ok(()) }).await;
        let error = run.result.unwrap_err();
        assert_eq!(error.class(), FailureClass::Retryable);
        assert_eq!(error.to_string(), "1 of 5 items failed, the first: the handler panicked");
        assert_eq!(run.finished.len(), 4);
    }
}
