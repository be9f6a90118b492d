//! An execution environment of the consumer: it polls, handles, answers, and may die at any step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use jiff::SignedDuration;
use learnink_consumer::report::Ended;
use learnink_consumer::{BatchReport, Consumer, Invocation, Outcome, RecordReport};
use learnink_webhook::FailureKind;
use learnink_webhook::Permits;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::handlers::{App, router};
use crate::messages::{Content, LONGEST_PART};
use crate::stores::Stores;
use crate::world::{DeadLettered, MAX_RECEIVE_COUNT, Queued, State, TIMEOUT, VISIBILITY_TIMEOUT, World};

/// Whether an environment is alive.
#[derive(Debug, Default)]
pub(crate) struct Life {
    is_over: AtomicBool,
    ended: Notify,
}

impl Life {
    /// A point at which the environment may be killed; nothing happens in it after that.
    pub(crate) async fn step(&self, world: &World) {
        if world.fault(0.1) {
            world.state().seen.crashes += 1;
            self.is_over.store(true, Ordering::Relaxed);
            self.ended.notify_one();
        }
        if self.is_over.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs environments, each after the death of the previous one, until the queue is empty and `is_last` is set.
pub(crate) async fn run(world: Arc<World>, number: u32, is_last: Arc<AtomicBool>) {
    for life in 0.. {
        let environment = Environment::new(&world);
        for batch in 0.. {
            let records = loop {
                let records = receive(&world);
                if !records.is_empty() {
                    break records;
                }
                let next = world.state().queue.iter().map(|queued| queued.visible_at).min();
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None if is_last.load(Ordering::Relaxed) => return,
                    None => sleep(Duration::from_mins(10)).await,
                }
            };
            if !environment.invoke(&format!("{number}-{life}-{batch}"), &records).await {
                break;
            }
        }
    }
}

/// Receives up to ten messages, which are hidden for a while. Those without deliveries left leave the queue.
fn receive(world: &World) -> Vec<Queued> {
    let mut state = world.state();
    let state = &mut *state;
    let now = Instant::now();
    let over = |queued: &mut Queued| queued.visible_at <= now && queued.receive_count >= MAX_RECEIVE_COUNT;
    let moved: Vec<_> = state.queue.extract_if(.., over).collect();
    state.seen.dead_lettered_by_the_queue += moved.len() as u64;
    for Queued { sqs_id, sent, .. } in moved {
        let is_excused = state.excused.contains(&sqs_id);
        state.promise(is_excused, || {
            format!("{sqs_id} was left to the queue, which knows no reason: {sent:?}")
        });
        state.dead_letters.push(DeadLettered { sent, reason: None });
    }

    let mut records = Vec::new();
    let most = state.random.usize(1..=10);
    for queued in state.queue.iter_mut().filter(|queued| queued.visible_at <= now).take(most) {
        queued.receive_count += 1;
        queued.visible_at = now + VISIBILITY_TIMEOUT;
        records.push(queued.clone());
        // At least once: another environment may get the very same delivery.
        if state.random.f64() < state.fault * 0.3 {
            queued.visible_at = now + Duration::from_millis(state.random.u64(..500));
            state.excused.insert(queued.sqs_id.clone());
            state.seen.duplicates += 1;
        }
    }
    state.seen.deliveries += records.len() as u64;
    records
}

/// How far an environment's clock may be off, either way: more than Lambda's ever are.
const LARGEST_SKEW_MS: i64 = 2_000;

struct Environment {
    world: Arc<World>,
    life: Arc<Life>,
    skew_ms: i64,
    consumer: Consumer<Stores, Stores>,
}

impl Environment {
    fn new(world: &Arc<World>) -> Self {
        let life = Arc::new(Life::default());
        let stores = Stores { world: world.clone(), life: life.clone() };
        let router = router(App { world: world.clone(), life: life.clone(), permits: Permits::new(2) });
        // The jitter is the world's: a wait of half the ceiling is as good as any.
        let consumer = Consumer::new(router, stores.clone(), stores, MAX_RECEIVE_COUNT, || 0.5);
        let consumer = consumer.with_parts_of(LONGEST_PART);
        let skew_ms = world.state().random.i64(-LARGEST_SKEW_MS..=LARGEST_SKEW_MS);
        Self { world: world.clone(), life, skew_ms, consumer }
    }

    /// Runs one invocation, and returns whether the environment survived it.
    async fn invoke(&self, id: &str, records: &[Queued]) -> bool {
        let mut batch = SqsEvent::default();
        batch.records =
            records.iter().map(|queued| queued.sent.record(&queued.sqs_id, queued.receive_count)).collect();
        let now = self.world.now() + SignedDuration::from_millis(self.skew_ms);
        let deadline_ms = (now + TIMEOUT).as_millisecond();
        let me = Arc::as_ptr(&self.life).addr();
        {
            let mut state = self.world.state();
            state.deadlines_ms.insert(id.to_owned(), deadline_ms);
            state.first_deliveries.retain(|(who, _)| *who != me);
            let first = records.iter().filter(|queued| queued.receive_count == 1);
            state.first_deliveries.extend(first.map(|queued| (me, queued.sent.entry_id())));
        }
        let invocation = Invocation::new(id, now, TIMEOUT);
        let report = tokio::select! {
            biased;
            () = self.life.ended.notified() => {
                let ids = records.iter().map(|queued| queued.sqs_id.clone());
                self.world.state().excused.extend(ids);
                return false;
            }
            report = tokio::time::timeout(TIMEOUT, self.consumer.consume(&batch, &invocation)) => report,
        };
        let Ok(report) = report else {
            self.world.state().promise(false, || "an invocation had no answer in time".to_owned());
            return false;
        };
        self.delete_all_but_the_failed(records, &report);
        true
    }

    /// What the event source mapping does with the answer.
    fn delete_all_but_the_failed(&self, records: &[Queued], report: &BatchReport) {
        let failures = report.response().unwrap().batch_item_failures;
        let mut state = self.world.state();
        for (queued, record) in records.iter().zip(&report.records) {
            let ended =
                |how: fn(&Ended) -> bool| record.handlers.iter().filter(|run| how(&run.ended)).count() as u64;
            state.seen.skipped_by_breaker +=
                ended(|ended| ended.kind() == Some(FailureKind::SkippedByBreaker));
            state.seen.lists_that_made_progress +=
                ended(|ended| ended.kind() == Some(FailureKind::Unfinished));
            state.seen.lists_in_parts += ended(|ended| *ended == Ended::InParts);
            state.seen.sent_again += u64::from(record.outcome == Outcome::SentAgain);
            if record.outcome == Outcome::DeadLettered {
                check_reason(&mut state, &queued.sqs_id, record);
            }
            let is_left = record.outcome == Outcome::Retry && queued.receive_count >= MAX_RECEIVE_COUNT;
            let is_excused = state.excused.contains(&queued.sqs_id);
            state.promise(!is_left || is_excused, || format!("{queued:?} was left to the queue: {record:?}"));
            if failures.iter().any(|failure| failure.item_identifier == queued.sqs_id) {
                continue;
            }
            let is_done = queued.sent.all_done().is_subset(&state.done(&queued.sent.entry_id()));
            // Handlers for any webhook finish a body that is not an event, and it is dead-lettered all the same.
            let is_done = is_done && queued.sent.content != Content::NoEvent;
            let is_called_off = !is_done && state.is_called_off(&queued.sent);
            state.seen.parts_called_off += u64::from(is_called_off);
            let has_gone_on = matches!(record.outcome, Outcome::DeadLettered | Outcome::SentAgain);
            let is_settled = is_done || has_gone_on || is_called_off;
            state.promise(is_settled, || format!("{queued:?} is deleted, and is not done: {record:?}"));
            let before = state.queue.len();
            state.queue.retain(|other| other.sqs_id != queued.sqs_id);
            state.seen.deleted += (before - state.queue.len()) as u64;
        }
    }
}

/// A dead letter has the whole reason of its last try, including why an item was refused.
fn check_reason(state: &mut State, sqs_id: &str, record: &RecordReport) {
    let why = record.failure.as_ref().map(|failure| failure.reason.clone()).unwrap_or_default();
    let is_said = state.reasons.get(sqs_id).is_some_and(|reasons| reasons.contains(&why));
    state.promise(is_said, || format!("no dead letter of {sqs_id} says {why:?}"));
    for error in record.handlers.iter().filter_map(|run| run.ended.error()) {
        state.promise(why.contains(&error.to_string()), || format!("{why:?} leaves out {error}"));
    }
    if why.contains("will never succeed") {
        state.seen.reasons_of_refusals += 1;
        state.promise(why.contains("no such plan"), || format!("{why:?} does not say why"));
    }
}
