//! A batch in, the failed ids out: the engine.
//!
//! Every record is processed independently of the others, and concurrently:
//!
//! 1. **decode** the message, read the event, and find its handlers;
//! 2. **claim** it in the ledger, which says what is done and whether another consumer works on it;
//! 3. **run** the handlers that are not done, each until it ends, panics or the time is up, and queue in parts a
//!    list that is too long for one message;
//! 4. **settle**: record what is done, and release the claim;
//! 5. delete the message, hide it on the queue for a while, or copy it to the dead-letter queue.
//!
//! A message that fails at its last delivery goes to the dead-letter queue at once and with its reason. SQS itself
//! moves a message there only if no consumer could end its last delivery.
//!
//! Several records that ask the ledger at the same time share one call, a [`Group`].

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use futures_util::future::{Either, join_all, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use learnink_webhook::error::with_causes;
use learnink_webhook::group::Group;
use learnink_webhook::idempotency::run_key;
use learnink_webhook::items::ItemLog;
use learnink_webhook::message::Part;
use learnink_webhook::router::Handler;
use learnink_webhook::{Envelope, Event, FailureClass, FailureKind, HandlerError, Message};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::Consumer;
use crate::breaker::Trials;
use crate::claims::{Acquired, Batch, LONGEST_PAUSE};
use crate::dead_letter::PAYLOAD_MISMATCH;
use crate::ending::{Deliveries, Ending, RetryAfter, conclude};
use crate::invocation::Invocation;
use crate::ledger::{Claim, ClaimRequest, EntryId, History, Recorded, payload_sha256};
use crate::ledger::{Ledger, StoredWindow};
use crate::queues::{CopyError, DeadLetter, Queues, to_attribute_value};
use crate::record::Record;
use crate::replay::{
    ReplayWindow, SeenMessage, Task, forget_deliveries, note_failed_delivery, tasks, tasks_of_run,
};
use crate::report::{
    BatchReport, Degraded, Ended, EngineFailure, Failure, HandlerReport, Outcome, RecordReport,
};

/// Time between two writes of finished items to the ledger. After a crash, the items that finished since the last
/// write run again.
const BETWEEN_NOTES: Duration = Duration::from_millis(200);

/// How many parts of a list are sent concurrently. Each may be as large as a message can be.
const PARTS_AT_ONCE: usize = 8;

/// A handler that was cut off earlier than this says nothing about its downstream.
const LEAST_TIME_FOR_A_DOWNSTREAM: Duration = Duration::from_secs(1);

/// The context in which the handlers of a record run.
#[derive(Clone, Copy)]
struct Run<'a> {
    record: Record<'a>,
    delivery: &'a Delivery<'a>,
    done: &'a BTreeSet<String>,
    log: &'a Arc<ItemLog>,
    batch: &'a Batch<'a>,
}

/// The decoded content of a record.
struct Delivery<'a> {
    message: Arc<Message>,
    envelope: Arc<Envelope>,
    /// The handlers that take the event.
    handlers: Vec<&'a Handler>,
    /// Why the message belongs on the dead-letter queue once its handlers are done.
    never: Option<Failure>,
}

impl Delivery<'_> {
    /// The replay windows that it runs under.
    fn windows<'w>(
        &self,
        windows: &'w [StoredWindow],
        history: &History,
        batch: &Batch<'_>,
    ) -> Vec<&'w ReplayWindow> {
        let seen = SeenMessage {
            id: &self.message.id,
            event_type: &self.envelope.event_type,
            first_seen_ms: history.first_seen_ms,
        };
        let (received_at, now) = (self.message.received_at, batch.invocation.now());
        let windows = windows.iter().flatten();
        windows.filter(|window| window.takes(received_at, now) && window.covers(seen)).collect()
    }

    /// The ending once nothing is left to do: the dead-letter queue if the body is not an event, else `otherwise`.
    fn end_without_work(&self, otherwise: Ending) -> Ending {
        self.never.clone().map_or(otherwise, Ending::DeadLetter)
    }

    /// Why the message is not done although a `learnink replay run` has ended with it: the run does not ask for every
    /// handler.
    fn left_by_run(&self, done: &BTreeSet<String>) -> Option<String> {
        let window = self.message.window.as_ref()?;
        let names = self.handlers.iter().map(|handler| handler.name()).filter(|name| !done.contains(*name));
        let names = names.collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| {
            format!("the replay window {window} did not run these handlers, which are not done: {names}")
        })
    }

    /// The task of a part of a list. Replay windows add nothing to it.
    fn task_of_part(&self, part: &Part) -> Option<Task> {
        let handler = self.handlers.first()?.name();
        let key = part.task().to_owned();
        Some(Task { handler, completes: vec![key.clone()], key, is_named: part.is_named() })
    }
}

impl<L: Ledger + Send + 'static, Q: Queues> Consumer<L, Q> {
    /// Handles a batch: all records concurrently, each independently.
    pub async fn consume(&self, batch: &SqsEvent, invocation: &Invocation) -> BatchReport {
        let (claiming, settling) = (self.ledger.clone(), self.ledger.clone());
        let windows = OnceCell::new();
        let trials = Trials::new(&self.breakers, self.router.handler_names());
        let shared = Batch {
            invocation,
            claims: Group::new(move |requests| {
                let ledger = claiming.clone();
                async move { ledger.claim(requests).await }
            }),
            settlements: Group::new(move |settlements| {
                let ledger = settling.clone();
                async move { ledger.settle(settlements).await }
            }),
            taken: Mutex::default(),
            windows: &windows,
            trials: &trials,
            pause: LONGEST_PAUSE.mul_f64(0.75_f64.mul_add((self.random)(), 0.25)),
        };
        let records = batch.records.iter().enumerate();
        let records = records.map(|(index, message)| self.consume_record(index, message, &shared));
        BatchReport { records: join_all(records).await }
    }

    async fn consume_record(&self, index: usize, message: &SqsMessage, batch: &Batch<'_>) -> RecordReport {
        let invocation = batch.invocation;
        let record = Record(message);
        let mut report = RecordReport {
            sqs_message_id: record.sqs_message_id().to_owned(),
            message_id: None,
            event_type: None,
            occurred_at: None,
            received_at: None,
            known: false,
            another_version: None,
            part: None,
            receive_count: record.receive_count(),
            outcome: Outcome::Retry,
            failure: None,
            first_seen: None,
            retry_in: None,
            degraded: BTreeSet::new(),
            handlers: Vec::new(),
            ended_at: invocation.now(),
        };
        let owner = format!("{}/{index}", invocation.id);
        let work = AssertUnwindSafe(self.process(record, owner, batch, &mut report)).catch_unwind();
        let worked = tokio::time::timeout_at(invocation.end_of_records(), work).await;
        let ending = match worked {
            Ok(Ok(ending)) => ending,
            Ok(Err(_panic)) => {
                Ending::cut_off(EngineFailure::Panicked, "the consumer panicked", report.failure.as_ref())
            }
            Err(_elapsed) => {
                let reason = "the invocation's time was up";
                Ending::cut_off(EngineFailure::TimedOut, reason, report.failure.as_ref())
            }
        };
        let is_last_delivery = report.receive_count >= self.max_receive_count;
        let ending = if is_last_delivery { ending.at_last_delivery() } else { ending };
        self.carry_out(ending, record, invocation, &mut report).await;
        report.ended_at = invocation.now();
        report
    }

    /// Takes one record through all steps but the last, which its ending names.
    async fn process(
        &self,
        record: Record<'_>,
        owner: String,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Ending {
        let delivery = match self.read(record, report) {
            Ok(delivery) => delivery,
            Err(ending) => return ending,
        };
        if delivery.handlers.is_empty() {
            return delivery.end_without_work(Ending::Ignored);
        }
        if Instant::now() >= batch.invocation.end_of_work() {
            let reason = "the invocation has no time left for it";
            return Ending::retry(Failure::of_engine(EngineFailure::TimedOut, reason));
        }
        let mut acquired = match self.acquire(record, owner, &delivery, batch, report).await {
            Ok(acquired) => acquired,
            Err(ending) => return ending,
        };
        let Some(ending) = self.run(record, &mut acquired, &delivery, batch, report).await else {
            return Ending::lease_lost();
        };
        // In case the next step is cut off.
        report.failure = ending.failure().cloned();
        // Recorded first, so that a redrive from the dead-letter queue does not run again what is done.
        let left = || delivery.left_by_run(&acquired.history.done);
        let reason = ending.failure().map(Failure::text).or_else(left);
        match batch.settle(&acquired, reason).await {
            Ok(()) => ending,
            Err(unrecorded) => ending.unrecorded(unrecorded),
        }
    }

    /// Decodes a record and finds its handlers.
    fn read(&self, record: Record<'_>, report: &mut RecordReport) -> Result<Delivery<'_>, Ending> {
        let message = match record.decode() {
            Ok(message) => Arc::new(message),
            Err(error) => {
                let failure = Failure::of_engine(EngineFailure::NoMessage, error.to_string());
                return Err(match error.class() {
                    FailureClass::Retryable => Ending::retry(failure),
                    FailureClass::Permanent => Ending::DeadLetter(failure),
                });
            }
        };
        report.message_id = Some(message.id.to_string());
        report.received_at = Some(message.received_at);
        report.part = message.part.as_ref().map(Part::key);
        let (envelope, route, never) = match Envelope::parse(&message.body) {
            Ok(envelope) => {
                let route = self.router.route(&envelope);
                (envelope, route, None)
            }
            Err(error) => {
                let failure = Failure::of_engine(EngineFailure::NoEvent, error.to_string());
                (Envelope::of_no_event(), self.router.route_no_event(), Some(failure))
            }
        };
        report.event_type = envelope.is_event().then(|| envelope.event_type.clone());
        report.occurred_at = envelope.occurred_at;
        report.known = route.is_known;
        report.another_version = route.is_another_version.then(|| envelope.api_version.clone());
        let mut handlers = route.handlers;
        if let Some(part) = &message.part {
            handlers.retain(|handler| handler.name() == part.handler());
            if handlers.is_empty() {
                let reason =
                    format!("no handler `{}` is registered for this part of its list", part.handler());
                let failure = Failure::of_engine(EngineFailure::NoHandler, reason);
                return Err(Ending::DeadLetter(failure));
            }
        }
        Ok(Delivery { message, envelope: Arc::new(envelope), handlers, never })
    }

    /// Claims a message and finds the tasks that are left.
    async fn acquire(
        &self,
        record: Record<'_>,
        owner: String,
        delivery: &Delivery<'_>,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Result<Acquired, Ending> {
        let names: Vec<_> = delivery.handlers.iter().map(|handler| handler.name()).collect();
        let (part, window) = (delivery.message.part.as_ref(), delivery.message.window.as_deref());
        let now = batch.invocation.now();
        let mut request = ClaimRequest {
            id: EntryId::of(&delivery.message),
            payload_sha256: payload_sha256(&delivery.message.body),
            keys: match (part, window) {
                (Some(part), _) => vec![part.task().to_owned()],
                (None, Some(window)) => vec![run_key(window)],
                (None, None) => names.iter().map(ToString::to_string).collect(),
            },
            owner,
            now,
            lease: batch.invocation.left(),
            probably_new: record.receive_count() == 1 && window.is_none(),
        };
        // SQS may deliver two sends of one message in one batch.
        if !batch.take(&request.id) {
            return Err(Ending::in_progress(request.lease));
        }
        loop {
            let (mut history, is_ours) = match batch.claim(&request).await? {
                Claim::Acquired(history) => (history, true),
                Claim::Completed(history) => (history, false),
                Claim::InProgress { until_ms } => {
                    let left_ms = until_ms.saturating_sub(now.as_millisecond());
                    return Err(Ending::in_progress(Duration::from_millis(left_ms.unsigned_abs())));
                }
                Claim::PayloadMismatch => {
                    let failure = Failure::of_engine(EngineFailure::PayloadMismatch, PAYLOAD_MISMATCH);
                    return Err(Ending::DeadLetter(failure));
                }
            };
            report.first_seen = history.first_seen();
            let found = match (part, window) {
                (Some(part), _) => {
                    self.task_of_part(part, request.now, &history, delivery, batch, report).await
                }
                (None, Some(window)) => {
                    self.tasks_of_run(window, &names, &request, &history, batch, report).await
                }
                (None, None) => self.tasks(&names, &request, &history, delivery, batch, report).await,
            };
            let tasks = match found {
                Ok(tasks) => tasks,
                Err(reason) => {
                    let failure = Failure::of_engine(EngineFailure::Ledger, reason);
                    // A list that made progress has only its deliveries since then counted.
                    let without_progress = note_failed_delivery(&mut history.done);
                    let deliveries =
                        Deliveries::of(record.receive_count(), self.max_receive_count, [without_progress]);
                    if deliveries == Deliveries::UsedUp {
                        forget_deliveries(&mut history.done);
                    }
                    let acquired = Acquired { request, history, tasks: Vec::new() };
                    let settled =
                        if is_ours { batch.settle(&acquired, Some(failure.text())).await } else { Ok(()) };
                    let failures = without_progress.map(|deliveries| deliveries.saturating_add(1));
                    let wait = RetryAfter::Backoff(Duration::ZERO);
                    let ending = Ending::Again { failure, wait, failures }.within(deliveries);
                    return Err(match settled {
                        Err(unrecorded) => ending.unrecorded(unrecorded),
                        Ok(()) => ending,
                    });
                }
            };
            if record.receive_count() <= 1 {
                // Sent again, by a redrive, by LearnInk, or after its last delivery: the cause of a refusal may be gone.
                for task in &tasks {
                    task.forget_refusals(&mut history.done);
                }
            }
            if is_ours {
                return Ok(Acquired { request, history, tasks });
            }
            if tasks.is_empty() {
                return Err(delivery.end_without_work(Ending::Duplicate));
            }
            // All was done, and an operator asks for it again: those tasks have to be claimed too.
            request.keys = tasks.into_iter().map(|task| task.key).collect();
            request.probably_new = false;
        }
    }

    /// The tasks for a message, replays included; or why the replay windows could not be read.
    async fn tasks(
        &self,
        names: &[&'static str],
        request: &ClaimRequest,
        history: &History,
        delivery: &Delivery<'_>,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Result<Vec<Task>, String> {
        // A new message has nothing that could be done again.
        if history.is_new(request.now) {
            return Ok(tasks(names, &history.done, &[]));
        }
        let windows = self.windows(batch, report).await?;
        Ok(tasks(names, &history.done, &delivery.windows(windows, history, batch)))
    }

    /// The tasks for a message that `learnink replay run` has sent under the window of this id; or why the window is not
    /// known.
    async fn tasks_of_run(
        &self,
        id: &str,
        names: &[&'static str],
        request: &ClaimRequest,
        history: &History,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Result<Vec<Task>, String> {
        let is_forgotten = history.is_new(request.now);
        for window in self.windows(batch, report).await? {
            match window {
                Ok(window) if window.id == id => {
                    return Ok(tasks_of_run(names, &history.done, window, is_forgotten));
                }
                Err(unreadable) if unreadable.id == id => return Err(unreadable.to_string()),
                Ok(_) | Err(_) => {}
            }
        }
        Err(format!("the ledger has no replay window {id}, under which this message was sent again"))
    }

    /// The task of a part of a list, unless it is done or belongs to a replay window that was closed meanwhile.
    async fn task_of_part(
        &self,
        part: &Part,
        claimed_at: Timestamp,
        history: &History,
        delivery: &Delivery<'_>,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Result<Vec<Task>, String> {
        if history.done.contains(part.task()) {
            return Ok(Vec::new());
        }
        let Some(mut task) = delivery.task_of_part(part) else { return Ok(Vec::new()) };
        if history.is_new(claimed_at) && part.window().is_none() {
            return Ok(vec![task]);
        }
        let windows = self.windows(batch, report).await?;
        for window in windows {
            match window {
                Ok(window) if part.window() == Some(&window.id) && window.closed.is_some() => {
                    return Ok(Vec::new());
                }
                Err(unreadable) if part.window() == Some(&unreadable.id) => {
                    return Err(unreadable.to_string());
                }
                Ok(_) | Err(_) => {}
            }
        }
        // An operator who names the handler wants the rest of its work, however old the event is.
        let mut asking = delivery.windows(windows, history, batch).into_iter();
        task.is_named |= asking.any(|window| window.handlers.contains(task.handler));
        Ok(vec![task])
    }

    /// The replay windows, read once for the batch.
    async fn windows<'a>(
        &self,
        batch: &Batch<'a>,
        report: &mut RecordReport,
    ) -> Result<&'a Vec<StoredWindow>, String> {
        let read = async {
            let windows = self.ledger.replay_windows().await.map_err(|error| with_causes(&error))?;
            for unreadable in windows.iter().filter_map(|window| window.as_ref().err()) {
                tracing::warn!("{unreadable}; it is ignored");
            }
            Ok(windows)
        };
        let windows = batch.windows.get_or_init(|| read).await.as_ref().map_err(String::clone)?;
        if windows.iter().any(Result::is_err) {
            report.degraded.insert(Degraded::Windows);
        }
        Ok(windows)
    }

    /// Runs the tasks, and adds to the history what they finished. `None` if the lease was lost.
    async fn run(
        &self,
        record: Record<'_>,
        acquired: &mut Acquired,
        delivery: &Delivery<'_>,
        batch: &Batch<'_>,
        report: &mut RecordReport,
    ) -> Option<Ending> {
        let log = Arc::new(ItemLog::with_parts_of(self.longest_part));
        let handler = |task: &Task| delivery.handlers.iter().find(|handler| handler.name() == task.handler);
        let run = Run { record, delivery, done: &acquired.history.done, log: &log, batch };
        let runs = acquired.tasks.iter().filter_map(|task| Some(self.run_handler(handler(task)?, task, run)));
        let notes = self.note_items(&log, &acquired.request, &mut report.degraded);
        let longest_call = acquired.tasks.iter().filter_map(|task| Some(handler(task)?.longest_call()));
        let end_of_starts = batch.invocation.end_of_starts(longest_call.max().unwrap_or_default());
        let close = async {
            tokio::time::sleep_until(end_of_starts).await;
            log.close();
            std::future::pending::<()>().await;
        };
        let beside = async { select(Box::pin(notes), Box::pin(close)).await.factor_first().0 };
        report.handlers = match select(Box::pin(join_all(runs)), Box::pin(beside)).await {
            Either::Left((handlers, _)) => handlers,
            Either::Right(((), _)) => return None,
        };
        let done = &mut acquired.history.done;
        let (count, most) = (record.receive_count(), self.max_receive_count);
        let ending = match conclude(&acquired.tasks, &report.handlers, &log, count, most, done) {
            // The window of a replay was closed, or asks for none of the handlers.
            Ending::Processed if acquired.tasks.is_empty() => delivery.end_without_work(Ending::Ignored),
            Ending::Processed => delivery.end_without_work(Ending::Processed),
            ending => ending,
        };
        if let (None, Some(window)) = (ending.failure(), &delivery.message.window) {
            done.insert(run_key(window));
        }
        Some(ending)
    }

    /// Runs one handler until it ends, panics, or the time is up.
    async fn run_handler(&self, handler: &Handler, task: &Task, run: Run<'_>) -> HandlerReport {
        let Run { delivery, done, log, batch, .. } = run;
        let asked = Instant::now();
        let end_of_starts = batch.invocation.end_of_starts(handler.longest_call());
        let end = batch.invocation.end_of_work();
        let (message, envelope) = (delivery.message.clone(), delivery.envelope.clone());
        let event = Event::new(message, envelope, &task.key, batch.invocation.now(), done, log.clone());
        let report =
            |ended| HandlerReport { name: task.handler, key: task.key.clone(), ended, took: asked.elapsed() };
        if handler.is_too_late(event.age()) && !task.is_named {
            return report(Ended::TooLate);
        }
        let permit = tokio::time::timeout_at(end_of_starts, batch.trials.ask(task.handler)).await;
        let Ok(Some(permit)) = permit else {
            let reason = self.breakers.reason(task.handler);
            return report(Ended::Failed(HandlerError::new(FailureKind::SkippedByBreaker, reason)));
        };
        let called = Instant::now();
        if called >= end_of_starts {
            // Claiming took the time. Nothing was called, so nothing is known about the downstream.
            permit.release_unused();
            let reason = "the invocation had no time left to call the handler";
            return report(Ended::Failed(HandlerError::unfinished(reason)));
        }
        // `async`, so that a panic while the handler builds its future is caught as well.
        let work = AssertUnwindSafe(async { handler.call(event).await }).catch_unwind();
        let work = tokio::time::timeout_at(end, work).await;
        if let Some(items) = log.cut_of(&task.key) {
            permit.release_unused();
            return report(self.queue_parts(task, items, run).await);
        }
        let made_progress = log.has_progress_of(&task.key);
        let result = match work {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => Err(HandlerError::new(FailureKind::Panicked, "the handler panicked")),
            Err(_elapsed) if made_progress => {
                Err(HandlerError::unfinished("the invocation's time was up while the list made progress"))
            }
            Err(_elapsed) => Err(timed_out()),
        };
        match result.as_ref().map_err(|error| (error.kind(), error)) {
            Ok(()) => self.breakers.note_answer(task.handler),
            Err(_) if made_progress => self.breakers.note_answer(task.handler),
            Err((FailureKind::Retryable, error)) => {
                self.breakers.note_failure(task.handler, &error.to_string());
            }
            Err((FailureKind::TimedOut, error)) if called.elapsed() >= LEAST_TIME_FOR_A_DOWNSTREAM => {
                self.breakers.note_failure(task.handler, &error.to_string());
            }
            // A panic comes from the code or the message. So may a refusal, before anything is called.
            Err(_) => permit.release_unused(),
        }
        report(result.map_or_else(Ended::Failed, |()| Ended::Done))
    }

    /// Puts a list on the queue in parts, without those that an earlier delivery has queued. A part that is sent
    /// twice does no harm: both copies have the same entry in the ledger.
    async fn queue_parts(&self, task: &Task, items: usize, run: Run<'_>) -> Ended {
        let Run { done, log, batch, .. } = run;
        let parts: Vec<_> = Part::all_of(&task.key, items, self.longest_part, task.is_named).collect();
        let all = async {
            let mut missing = parts.iter().filter(|part| !done.contains(&part.key()));
            let mut under_way = FuturesUnordered::new();
            loop {
                let room = PARTS_AT_ONCE.saturating_sub(under_way.len());
                under_way.extend(missing.by_ref().take(room).map(|part| self.queue_part(part, run)));
                let Some(sent) = under_way.next().await else { return Ok::<(), CopyError>(()) };
                sent?;
            }
        };
        match tokio::time::timeout_at(batch.invocation.end_of_work(), all).await {
            Ok(Ok(())) => Ended::InParts,
            Ok(Err(error)) => Ended::Failed(HandlerError::retryable(format!(
                "could not put all {} parts of the list on the queue: {}",
                parts.len(),
                with_causes(&error)
            ))),
            Err(_elapsed) if log.has_progress_of(&task.key) => Ended::Failed(HandlerError::unfinished(
                "the invocation's time was up before all parts of the list were on the queue",
            )),
            Err(_elapsed) => Ended::Failed(timed_out()),
        }
    }

    async fn queue_part(&self, part: &Part, run: Run<'_>) -> Result<(), CopyError> {
        self.queues.send_again(run.record, Some(part), Duration::ZERO).await?;
        run.log.queued(part);
        Ok(())
    }

    /// Records in the ledger which items finished, while the handlers run. Ends only when the lease is lost.
    async fn note_items(&self, log: &ItemLog, request: &ClaimRequest, degraded: &mut BTreeSet<Degraded>) {
        let mut noted = 0;
        loop {
            log.changed().await;
            // Collects the items that finish meanwhile: each note is charged for the whole entry.
            tokio::time::sleep(BETWEEN_NOTES).await;
            let finished = log.after(noted);
            let count = finished.len();
            if count == 0 {
                continue;
            }
            match self.ledger.note(&request.id, &request.owner, finished).await {
                Ok(Recorded::Yes) => noted += count,
                Ok(Recorded::LeaseLost) => break,
                // They are recorded with the next note, or with the settlement.
                Err(error) => {
                    degraded.insert(Degraded::Notes);
                    tracing::warn!(
                        message.id = request.id.as_str(),
                        error = with_causes(&error),
                        "could not note what finished; a crash now would repeat it"
                    );
                }
            }
        }
    }

    /// Takes the last step of a record: it is deleted, hidden on the queue for a while, sent again, or copied to the
    /// dead-letter queue. If a copy fails, the record stays where it is.
    async fn carry_out(
        &self,
        ending: Ending,
        record: Record<'_>,
        invocation: &Invocation,
        report: &mut RecordReport,
    ) {
        let (count, end) = (report.receive_count, invocation.end_of_answers());
        let (outcome, failure, delay) = match ending {
            Ending::Processed => (Outcome::Processed, None, None),
            Ending::Duplicate => (Outcome::Duplicate, None, None),
            Ending::Ignored => (Outcome::Ignored, None, None),
            Ending::Again { failure, wait, failures } => {
                (Outcome::Retry, Some(failure), Some(wait.delay(failures.unwrap_or(count), (self.random)())))
            }
            Ending::SendAgain { failure, wait } => {
                let sent = self.queues.send_again(record, None, wait.delay(1, (self.random)()));
                // Time is left to dead-letter it: SQS delivers it no more.
                match copied(sent, invocation.end_of_records()).await {
                    Ok(()) => (Outcome::SentAgain, Some(failure), None),
                    Err(error) => self.dead_letter(failure.and(&error), record, end, report).await,
                }
            }
            Ending::DeadLetter(failure) => self.dead_letter(failure, record, end, report).await,
        };
        report.outcome = outcome;
        report.failure = failure;
        if let Some(delay) = delay {
            if let Ok(true) = tokio::time::timeout_at(end, self.queues.back_off(record, delay)).await {
                report.retry_in = Some(delay);
            } else {
                report.degraded.insert(Degraded::Delay);
            }
        }
    }

    /// Copies a record to the dead-letter queue.
    async fn dead_letter(
        &self,
        failure: Failure,
        record: Record<'_>,
        end: Instant,
        report: &RecordReport,
    ) -> (Outcome, Option<Failure>, Option<Duration>) {
        let reason = to_attribute_value(&failure.reason);
        let why = DeadLetter { reason: &reason, handler: failure.handler, first_seen: report.first_seen };
        let sent = copied(self.queues.dead_letter(record, why), end).await;
        let failure = Failure { reason, ..failure };
        match sent {
            Ok(()) => (Outcome::DeadLettered, Some(failure), None),
            Err(error) => {
                let delay = RetryAfter::Backoff(Duration::ZERO).delay(report.receive_count, (self.random)());
                (Outcome::Retry, Some(failure.and(&error)), Some(delay))
            }
        }
    }
}

/// Waits for a copy until `end`. The error says why it was not confirmed.
async fn copied(copy: impl Future<Output = Result<(), CopyError>>, end: Instant) -> Result<(), String> {
    match tokio::time::timeout_at(end, copy).await {
        Ok(copied) => copied.map_err(|error| with_causes(&error)),
        Err(_elapsed) => Err("the invocation's time was up before SQS confirmed the copy".to_owned()),
    }
}

fn timed_out() -> HandlerError {
    HandlerError::new(FailureKind::TimedOut, "the handler did not finish in time")
}

#[cfg(test)]
mod tests;
