//! An execution environment of the consumer: it polls, handles, answers, and may die at any step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use jiff::SignedDuration;
use learnink_consumer::report::Ended;
use learnink_consumer::{BatchReport, Consumer, Invocation, Outcome};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::handlers::{App, router};
use crate::messages::Content;
use crate::stores::Stores;
use crate::world::{DeadLettered, MAX_RECEIVE_COUNT, Queued, TIMEOUT, VISIBILITY_TIMEOUT, World};

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

/// Runs environments, one after the death of the other, until the queue is empty and `is_last` is set.
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

/// Takes up to ten messages off the queue for a while. Those that have had their deliveries go.
fn receive(world: &World) -> Vec<Queued> {
    let mut state = world.state();
    let state = &mut *state;
    let now = Instant::now();
    let over = |queued: &mut Queued| queued.visible_at <= now && queued.receive_count >= MAX_RECEIVE_COUNT;
    let moved: Vec<_> = state.queue.extract_if(.., over).collect();
    state.seen.dead_lettered_by_the_queue += moved.len() as u64;
    state
        .dead_letters
        .extend(moved.into_iter().map(|queued| DeadLettered { sent: queued.sent, reason: None }));

    let mut records = Vec::new();
    let most = state.random.usize(1..=10);
    for queued in state.queue.iter_mut().filter(|queued| queued.visible_at <= now).take(most) {
        queued.receive_count += 1;
        queued.visible_at = now + VISIBILITY_TIMEOUT;
        records.push(queued.clone());
        // At least once: somebody else may get the very same delivery.
        if state.random.f64() < state.fault * 0.3 {
            queued.visible_at = now + Duration::from_millis(state.random.u64(..500));
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
        let router = router(App { world: world.clone(), life: life.clone() });
        // The jitter is the world's: a wait of half the ceiling is as good as any.
        let consumer = Consumer::new(router, stores.clone(), stores, || 0.5);
        let skew_ms = world.state().random.i64(-LARGEST_SKEW_MS..=LARGEST_SKEW_MS);
        Self { world: world.clone(), life, skew_ms, consumer }
    }

    /// One invocation; whether the environment has outlived it.
    async fn invoke(&self, id: &str, records: &[Queued]) -> bool {
        let mut batch = SqsEvent::default();
        batch.records =
            records.iter().map(|queued| queued.sent.record(&queued.sqs_id, queued.receive_count)).collect();
        let now = self.world.now() + SignedDuration::from_millis(self.skew_ms);
        let deadline_ms = (now + TIMEOUT).as_millisecond();
        self.world.state().deadlines_ms.insert(id.to_owned(), deadline_ms);
        let invocation = Invocation::new(id, now, TIMEOUT);
        let report = tokio::select! {
            biased;
            () = self.life.ended.notified() => return false,
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
            let ended = |how| record.handlers.iter().filter(|run| run.ended == how).count() as u64;
            state.seen.spared += ended(Ended::Spared);
            state.seen.lists_that_got_on += ended(Ended::Unfinished);
            if failures.iter().any(|failure| failure.item_identifier == queued.sqs_id) {
                continue;
            }
            let is_done = queued.sent.all_done().is_subset(&state.done(&queued.sent.id));
            // What nobody handles is done by the handlers for any event, and dead all the same.
            let is_done = is_done && queued.sent.content != Content::Unknown;
            let is_settled = is_done || record.outcome == Outcome::DeadLettered;
            state.promise(is_settled, || format!("{queued:?} is deleted, and is not done: {record:?}"));
            let before = state.queue.len();
            state.queue.retain(|other| other.sqs_id != queued.sqs_id);
            state.seen.deleted += (before - state.queue.len()) as u64;
        }
    }
}
