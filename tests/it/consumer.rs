//! Batches of records against handlers that misbehave.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use aws_sdk_sqs::types::{Message as SqsSdkMessage, MessageAttributeValue};
use jiff::Timestamp;
use learnink_consumer::{BatchReport, Consumer, Invocation, Ledger, Outcome, Queues};
use learnink_local::EventSource;
use learnink_receiver::SqsQueue;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_webhook::event::CourseStarted;
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, message, record};

/// Remembers which handler ran for which learner, and how often.
#[derive(Debug, Clone, Default)]
struct Runs(Arc<Mutex<Vec<String>>>);

impl Runs {
    fn note(&self, handler: &str, event: &Event<CourseStarted>) {
        self.0.lock().unwrap().push(format!("{handler} {}", event.data.user_id));
    }

    /// What ran since the last look.
    fn take(&self) -> Vec<String> {
        let mut runs = std::mem::take(&mut *self.0.lock().unwrap());
        runs.sort();
        runs
    }
}

/// Always finishes.
async fn steady(event: Event<CourseStarted>, runs: Runs) -> HandlerResult {
    runs.note("steady", &event);
    Ok(())
}

/// Does what the learner is called.
async fn moody(event: Event<CourseStarted>, runs: Runs) -> HandlerResult {
    runs.note("moody", &event);
    match event.data.user_id.as_str() {
        "good" => Ok(()),
        "panic" => panic!("a handler that panics"),
        "hang" => std::future::pending().await,
        "again" => Err(HandlerError::retryable("busy").retry_after(Duration::from_hours(1))),
        "never" => Err(HandlerError::permanent("no such plan")),
        other => panic!("no mood for {other}"),
    }
}

struct Stand {
    engine: Engine,
    queues: QueuePair,
    consumer: Consumer,
    runs: Runs,
    invocations: u32,
}

impl Stand {
    async fn start() -> Self {
        // Half of the longest wait, for want of luck.
        Self::start_with(|| 0.5).await
    }

    async fn start_with(random: fn() -> f64) -> Self {
        let engine = Engine::embedded().await;
        let queues = engine.queues(600, 7).await;
        let runs = Runs::default();
        let router = Router::new().on("steady", steady).on("moody", moody).with_state(runs.clone());
        let ledger = Ledger::new(&engine.dynamodb, engine.table("message_id", None).await);
        let sqs = Queues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
        Self { consumer: Consumer::new(router, ledger, sqs, random), engine, queues, runs, invocations: 0 }
    }

    /// One invocation, eight seconds long, with a record for each learner.
    async fn consume(&mut self, learners: &[&str]) -> BatchReport {
        self.invocations += 1;
        let id = format!("invocation-{}", self.invocations);
        let batch = batch(learners.iter().map(|learner| record_of(learner)).collect());
        // After the leases of the invocation before have ended.
        let now = Timestamp::from_second(RECEIVED_AT_S + i64::from(self.invocations) * 60).unwrap();
        self.consumer.consume(&batch, &Invocation::new(id, now, Duration::from_secs(8))).await
    }

    async fn dead_letters(&self) -> Vec<SqsSdkMessage> {
        let request = self.engine.sqs_client().receive_message().queue_url(&self.queues.dead_letter_url);
        let received = request.max_number_of_messages(10).message_attribute_names("All").send().await;
        received.unwrap().messages.unwrap_or_default()
    }
}

/// A record whose message id and SQS message id tell the learner.
fn record_of(learner: &str) -> SqsMessage {
    record(&format!("sqs-{learner}"), &format!("msg_{learner}"), body(learner))
}

fn body(learner: &str) -> String {
    started(learner, "c", "2026-01-01T00:00:00Z")
}

fn failed(report: &BatchReport) -> Vec<String> {
    let failures = report.response().unwrap().batch_item_failures;
    failures.into_iter().map(|failure| failure.item_identifier).collect()
}

fn attribute<'a>(message: &'a SqsSdkMessage, name: &str) -> &'a str {
    let value: &MessageAttributeValue = &message.message_attributes.as_ref().unwrap()[name];
    value.string_value.as_deref().unwrap()
}

#[tokio::test]
async fn only_the_records_that_may_succeed_later_come_back() {
    let mut stand = Stand::start().await;
    let report = stand.consume(&["good", "panic", "hang", "again", "never"]).await;
    assert_eq!(failed(&report), ["sqs-panic", "sqs-hang", "sqs-again"]);
    let outcomes: Vec<_> = report.records.iter().map(|record| record.outcome).collect();
    assert_eq!(
        outcomes,
        [Outcome::Processed, Outcome::Retry, Outcome::Retry, Outcome::Retry, Outcome::DeadLettered]
    );

    let reasons: Vec<_> = report.records.iter().map(|record| record.reason.as_deref()).collect();
    let expected = [
        None,
        Some("moody: the handler panicked"),
        Some("moody: the handler did not finish in time"),
        Some("moody: busy"),
        Some("moody: no such plan"),
    ];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn a_handler_that_finished_does_not_run_again_with_those_that_did_not() {
    let mut stand = Stand::start().await;
    stand.consume(&["panic"]).await;
    assert_eq!(stand.runs.take(), ["moody panic", "steady panic"]);
    let again = stand.consume(&["panic"]).await;
    assert_eq!(stand.runs.take(), ["moody panic"]);
    assert_eq!(failed(&again), ["sqs-panic"]);
}

#[tokio::test]
async fn a_message_that_will_never_succeed_has_its_reason_beside_it_and_can_be_redriven() {
    let mut stand = Stand::start().await;
    stand.consume(&["never"]).await;
    stand.runs.take();
    let dead_letters = stand.dead_letters().await;
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(attribute(&dead_letters[0], "dead-letter-reason"), "no such plan");
    assert_eq!(attribute(&dead_letters[0], "dead-letter-handler"), "moody");
    assert_eq!(attribute(&dead_letters[0], "dead-letter-receive-count"), "3");
    assert_eq!(attribute(&dead_letters[0], "svix-id"), "msg_never");

    // A redrive, before the fix: what never finished runs again, and nothing else.
    stand.consume(&["never"]).await;
    assert_eq!(stand.runs.take(), ["moody never"]);
}

#[tokio::test]
async fn a_wait_that_a_handler_asks_for_is_longer_than_the_backoff() {
    let mut stand = Stand::start().await;
    let report = stand.consume(&["again", "panic"]).await;
    let waits: Vec<_> = report.records.iter().map(|record| record.retry_in.unwrap()).collect();
    // Half of the third delivery's ceiling of eight minutes.
    assert_eq!(waits, [Duration::from_hours(1), Duration::from_mins(4)]);
}

#[tokio::test]
async fn an_invocation_without_time_starts_nothing() {
    let stand = Stand::start().await;
    let batch = batch(vec![record_of("good")]);
    let invocation = Invocation::new("late", Timestamp::UNIX_EPOCH, Duration::ZERO);
    let report = stand.consumer.consume(&batch, &invocation).await;
    assert_eq!(failed(&report), ["sqs-good"]);
    assert!(stand.runs.take().is_empty());
}

#[tokio::test]
async fn of_two_records_of_one_message_in_a_batch_one_runs() {
    let mut stand = Stand::start().await;
    let report = stand.consume(&["good", "good"]).await;
    assert_eq!(stand.runs.take(), ["moody good", "steady good"]);
    let mut outcomes: Vec<_> = report.records.iter().map(|record| record.outcome.name()).collect();
    outcomes.sort_unstable();
    assert!(matches!(outcomes[..], ["processed", "retry"] | ["duplicate", "processed"]), "{outcomes:?}");
}

#[tokio::test]
async fn a_failed_message_is_back_on_the_queue_when_its_wait_is_over_and_not_before() {
    let stand = Stand::start_with(|| 0.0).await;
    let queue = SqsQueue::new(&stand.engine.sqs, &stand.queues.url);
    for learner in ["panic", "again"] {
        queue.send(message(&format!("msg_{learner}"), body(learner)).encode().unwrap()).await.unwrap();
    }
    let source = EventSource::new(stand.engine.sqs_client(), &stand.queues.url);
    let deliveries = Mutex::new(Vec::new());
    let invoke = async |batch: SqsEvent| {
        let number = deliveries.lock().unwrap().len();
        let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
        let invocation = Invocation::new(format!("invocation-{number}"), now, Duration::from_secs(8));
        let report = stand.consumer.consume(&batch, &invocation).await;
        let ids = report.records.iter().filter_map(|record| record.message_id.clone());
        deliveries.lock().unwrap().extend(ids);
        Some(serde_json::json!(report.response().unwrap()))
    };
    // The queue hides them for ten minutes, the consumer one for a second and one for an hour.
    let polls = async {
        while deliveries.lock().unwrap().len() < 4 {
            source.poll(1, &invoke).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_mins(1), polls).await.unwrap();
    let deliveries = deliveries.into_inner().unwrap();
    assert_eq!(deliveries.iter().filter(|id| *id == "msg_again").count(), 1, "{deliveries:?}");
}

#[tokio::test]
async fn a_record_with_no_room_for_the_reason_stays_until_sqs_moves_it_whole() {
    let stand = Stand::start().await;
    let mut crowded = record_of("good");
    let attribute = crowded.message_attributes["svix-id"].clone();
    crowded.message_attributes.clear();
    for number in 0..8 {
        crowded.message_attributes.insert(format!("color-{number}"), attribute.clone());
    }
    let invocation = Invocation::new("1", Timestamp::UNIX_EPOCH, Duration::from_secs(30));
    let report = stand.consumer.consume(&batch(vec![crowded]), &invocation).await;
    assert_eq!(failed(&report), ["sqs-good"]);
    let reason = report.records[0].reason.as_deref().unwrap();
    assert!(reason.ends_with("the message has 8 attributes; no room for the reason"), "{reason}");
    assert!(stand.dead_letters().await.is_empty());
}
