//! Batches of records against handlers that misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use aws_sdk_sqs::types::{Message as SqsSdkMessage, MessageAttributeValue, QueueAttributeName};
use futures_util::future::Either;
use jiff::Timestamp;
use learnink_consumer::replay::{Coverage, ReplayWindow};
use learnink_consumer::report::{Ended, Failure};
use learnink_consumer::{
    BatchReport, Consumer, DynamoDbLedger, Invocation, Outcome, RecordReport, SqsQueues,
};
use learnink_local::EventSource;
use learnink_receiver::SqsQueue;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_webhook::event::CourseStarted;
use learnink_webhook::{Event, HandlerError, HandlerResult, MessageId, Router};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, message, record};

/// Records which handler ran for which learner, and how often.
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

/// Does what the learner's name says, up to a hyphen.
async fn moody(event: Event<CourseStarted>, runs: Runs) -> HandlerResult {
    runs.note("moody", &event);
    let name = event.data.user_id.as_str();
    match name.split_once('-').map_or(name, |(mood, _)| mood) {
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
    ledger: DynamoDbLedger,
    consumer: Consumer,
    runs: Runs,
    invocations: u32,
}

impl Stand {
    async fn start() -> Self {
        // Half of the longest wait.
        Self::start_with(|| 0.5).await
    }

    async fn start_with(random: fn() -> f64) -> Self {
        let engine = Engine::embedded().await;
        let queues = engine.queues(600, 7).await;
        let runs = Runs::default();
        let router = Router::new().on("steady", steady).on("moody", moody).with_state(runs.clone());
        let ledger = DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await);
        let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
        let consumer = Consumer::new(router, ledger.clone(), sqs, 7, random);
        Self { engine, queues, ledger, consumer, runs, invocations: 0 }
    }

    fn replace_router(&mut self, router: Router) {
        let sqs = SqsQueues::new(&self.engine.sqs, &self.queues.url, &self.queues.dead_letter_url);
        self.consumer = Consumer::new(router, self.ledger.clone(), sqs, 7, || 0.5);
    }

    /// A record for each learner, in this order, for messages that are really on the queue, delivered for the
    /// third time.
    async fn delivered(&self, learners: &[&str]) -> Vec<SqsMessage> {
        let queue = SqsQueue::new(&self.engine.sqs, &self.queues.url);
        let mut records = Vec::new();
        for learner in learners {
            let message = message(&format!("msg_{learner}"), body(learner));
            queue.send(message.encode().unwrap()).await.unwrap();
            let received =
                self.engine.sqs_client().receive_message().queue_url(&self.queues.url).send().await;
            let received = received.unwrap().messages.unwrap().remove(0);
            let mut record = record_of(learner);
            record.receipt_handle = received.receipt_handle;
            records.push(record);
        }
        records
    }

    /// One invocation, eight seconds long, with a record for each learner.
    async fn consume(&mut self, learners: &[&str]) -> BatchReport {
        self.invocations += 1;
        let id = format!("invocation-{}", self.invocations);
        let batch = batch(self.delivered(learners).await);
        // After the leases of the previous invocation have ended.
        let now = Timestamp::from_second(RECEIVED_AT_S + i64::from(self.invocations) * 60).unwrap();
        let report = self.consumer.consume(&batch, &Invocation::new(id, now, Duration::from_secs(8))).await;
        for (record, report) in batch.records.iter().zip(&report.records) {
            if report.outcome != Outcome::Retry {
                let delete = self.engine.sqs_client().delete_message().queue_url(&self.queues.url);
                delete.set_receipt_handle(record.receipt_handle.clone()).send().await.unwrap();
            }
        }
        report
    }

    async fn dead_letters(&self) -> Vec<SqsSdkMessage> {
        let request = self.engine.sqs_client().receive_message().queue_url(&self.queues.dead_letter_url);
        let received = request.max_number_of_messages(10).message_attribute_names("All").send().await;
        received.unwrap().messages.unwrap_or_default()
    }
}

/// A record whose message id and SQS message id contain the learner.
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

fn reason(record: &RecordReport) -> Option<String> {
    record.failure.as_ref().map(Failure::text)
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

    let reasons: Vec<_> = report.records.iter().map(reason).collect();
    let expected = [
        None,
        Some("moody: the handler panicked"),
        Some("moody: the handler did not finish in time"),
        Some("moody: busy"),
        Some("moody: no such plan"),
    ];
    assert_eq!(reasons, expected.map(|reason| reason.map(str::to_owned)));
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
    // A minute after the receiver accepted it, as in `Stand`.
    let deliveries = attribute(&dead_letters[0], "dead-letter-deliveries");
    assert_eq!(deliveries, "3 since 2023-11-14T22:14:20Z");
    assert_eq!(attribute(&dead_letters[0], "svix-id"), "msg_never");

    // A redrive, before the fix: only the handler that never finished runs again.
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
    let outcomes: Vec<_> = report.records.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Processed, Outcome::Retry]);
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
    let reason = reason(&report.records[0]).unwrap();
    assert!(reason.ends_with("the message has 8 attributes; no room for the reason"), "{reason}");
    assert!(stand.dead_letters().await.is_empty());
}

/// A dead letter as the person on call would see it, ordered by name.
fn as_json(letter: &SqsSdkMessage) -> Value {
    let attributes = letter.message_attributes.iter().flatten();
    let attributes: BTreeMap<_, _> =
        attributes.map(|(name, value)| (name, value.string_value.as_deref().unwrap())).collect();
    json!({ "body": letter.body, "attributes": attributes })
}

#[tokio::test]
async fn a_batch_of_everything_ends_as_designed_in_the_answer_the_queue_and_the_ledger() {
    let mut stand = Stand::start().await;
    stand.consume(&["good-before"]).await;
    stand.runs.take();
    let learners =
        ["good-1", "never", "good-2", "panic", "good-3", "hang", "good-4", "good-before", "good-5", "good-6"];
    let queue = SqsQueue::new(&stand.engine.sqs, &stand.queues.url);
    for learner in learners {
        let mut message = message(&format!("msg_{learner}"), body(learner)).encode().unwrap();
        if learner == "good-6" {
            // Written by a receiver of another deploy.
            let version = message.attributes.iter_mut().find(|attribute| attribute.name == "format-version");
            version.unwrap().value = "99".to_owned();
        }
        queue.send(message).await.unwrap();
    }

    let source = EventSource::new(stand.engine.sqs_client(), &stand.queues.url);
    let handled = Mutex::new(None);
    let invoke = async |mut batch: SqsEvent| {
        let name = |record: &SqsMessage| {
            let id = record.message_attributes["svix-id"].string_value.as_deref();
            id.unwrap().trim_start_matches("msg_").to_owned()
        };
        batch.records.sort_by_key(|record| learners.iter().position(|learner| *learner == name(record)));
        let ids = batch.records.iter().map(|record| (record.message_id.clone().unwrap(), name(record)));
        let names: BTreeMap<_, _> = ids.collect();
        let now = Timestamp::from_second(RECEIVED_AT_S + 600).unwrap();
        let invocation = Invocation::new("everything", now, Duration::from_secs(8));
        let report = stand.consumer.consume(&batch, &invocation).await;
        let answer = json!(report.response().unwrap());
        *handled.lock().unwrap() = Some((report, names));
        Some(answer)
    };
    assert_eq!(source.poll(1, &invoke).await.unwrap(), learners.len());
    let (report, names) = handled.into_inner().unwrap().unwrap();

    let ends = report.records.iter().map(|record| {
        json!({
            "record": names[&record.sqs_message_id],
            "outcome": record.outcome.name(),
            "hidden for s": record.retry_in.map(|wait| wait.as_secs()),
            "reason": reason(record),
        })
    });
    // The answer's ids are random: replaced by names.
    let mut response = json!(report.response().unwrap());
    for item in response["batchItemFailures"].as_array_mut().unwrap() {
        let id = item["itemIdentifier"].as_str().unwrap().to_owned();
        item["itemIdentifier"] = json!(names[&id]);
    }
    let visible = QueueAttributeName::ApproximateNumberOfMessages;
    let hidden = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
    let mut ledger = Vec::new();
    for learner in learners {
        let id = MessageId::parse(&format!("msg_{learner}")).unwrap();
        let entry = stand.ledger.entry(&id).await.unwrap();
        ledger.push(json!({
            "message": id.as_str(),
            "done": entry.as_ref().map(|entry| &entry.done),
            "somebody is at work": entry.as_ref().map(|entry| entry.lease.is_some()),
            "failure": entry.as_ref().and_then(|entry| entry.failure_reason.as_deref()),
        }));
    }
    insta::assert_json_snapshot!(json!({
        "response": response,
        "source queue": {
            "visible": stand.engine.queue_attribute(&stand.queues.url, visible).await,
            "hidden": stand.engine.queue_attribute(&stand.queues.url, hidden).await,
        },
        "records": ends.collect::<Vec<_>>(),
        "dead letters": stand.dead_letters().await.iter().map(as_json).collect::<Vec<_>>(),
        "ledger": ledger,
        "handlers ran": stand.runs.take(),
    }));
}

/// Waits for `leave`, so that both racers have asked before one is done.
async fn patient(_: Event<CourseStarted>, (runs, leave): (Arc<AtomicU32>, Arc<Notify>)) -> HandlerResult {
    runs.fetch_add(1, Ordering::Relaxed);
    leave.notified().await;
    Ok(())
}

#[tokio::test]
async fn of_two_consumers_that_race_for_a_message_one_runs_it_and_the_other_reports_it_as_failed() {
    let engine = Engine::embedded().await;
    let queues = engine.queues(600, 7).await;
    let ledger = DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await);
    let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
    let (runs, leave) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let consumer = || {
        let router = Router::new().on("patient", patient).with_state((runs.clone(), leave.clone()));
        Consumer::new(router, ledger.clone(), sqs.clone(), 7, || 0.5)
    };
    let (one, other) = (consumer(), consumer());
    for round in 0..1_000_u32 {
        let mut record = record("sqs-1", &format!("msg_{round}"), body("u"));
        // The first delivery is claimed in another way than later ones.
        let receive_count = (1 + round % 2).to_string();
        record.attributes.insert("ApproximateReceiveCount".to_owned(), receive_count);
        let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
        let race = async |consumer: &Consumer, racer: &str| {
            let invocation = Invocation::new(format!("{round}-{racer}"), now, Duration::from_secs(20));
            consumer.consume(&batch(vec![record.clone()]), &invocation).await
        };
        let (first, second) = (Box::pin(race(&one, "one")), Box::pin(race(&other, "other")));
        // The first answer is the loser's, because the winner waits for `leave`.
        let (lost, winner) = match futures_util::future::select(first, second).await {
            Either::Left((lost, winner)) | Either::Right((lost, winner)) => (lost, winner),
        };
        assert_eq!(failed(&lost), ["sqs-1"]);
        assert_eq!(reason(&lost.records[0]).as_deref(), Some("another delivery of it is being handled"));
        leave.notify_one();
        let won = winner.await;
        assert_eq!((won.records[0].outcome, failed(&won)), (Outcome::Processed, vec![]));
        assert_eq!(runs.load(Ordering::Relaxed), round + 1);
    }
}

#[tokio::test]
async fn under_a_replay_window_what_is_done_runs_again_once_and_the_key_is_another() {
    let mut stand = Stand::start().await;
    stand.consume(&["good"]).await;
    stand.runs.take();
    let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
    let window = ReplayWindow {
        id: "w1".to_owned(),
        covers: Coverage::Messages(BTreeSet::from(["msg_good".to_owned()])),
        handlers: BTreeSet::from(["moody".to_owned()]),
        reason: "the sender was down".to_owned(),
        opened_by: "kim".to_owned(),
        opened_at: now + Duration::from_secs(90),
        expires_at: now + Duration::from_mins(4),
        closed: None,
    };
    stand.ledger.open_replay_window(&window).await.unwrap();
    let replayed = stand.consume(&["good"]).await;
    assert_eq!(stand.runs.take(), ["moody good"]);
    assert_eq!(replayed.records[0].handlers[0].key, "moody@w1");
    // Once for the window; at the fifth minute the window has ended.
    for _ in 0..3 {
        let again = stand.consume(&["good"]).await;
        assert_eq!(again.records[0].outcome, Outcome::Duplicate);
    }
    assert!(stand.runs.take().is_empty());
}

#[tokio::test]
async fn a_sick_downstream_is_tried_by_one_record_of_a_batch_until_it_is_well() {
    let mut stand = Stand::start().await;
    stand.consume(&["again-1", "again-2", "again-3"]).await;
    stand.runs.take();
    let skipped = stand.consume(&["again-4", "again-5", "good-1", "good-2"]).await;
    assert_eq!(failed(&skipped).len(), 4);
    let of = |handler: &str, runs: &[String]| runs.iter().filter(|run| run.starts_with(handler)).count();
    let runs = stand.runs.take();
    assert_eq!((of("moody", &runs), of("steady", &runs)), (1, 4), "{runs:?}");
    // After a successful trial, the others run.
    let well = stand.consume(&["good-1", "good-2"]).await;
    assert!(failed(&well).is_empty());
    assert_eq!(of("moody", &stand.runs.take()), 2);
}

#[tokio::test]
async fn what_nobody_wants_late_is_done_without_a_call() {
    let mut stand = Stand::start().await;
    let runs = stand.runs.clone();
    let router = Router::new().on("steady", steady).on("moody", moody);
    stand.replace_router(router.max_age("moody", Duration::from_hours(1)).with_state(runs));
    // Years before the event.
    let early = stand.consume(&["good-1"]).await;
    assert_eq!(stand.runs.take(), ["moody good-1", "steady good-1"]);
    assert_eq!(early.records[0].outcome, Outcome::Processed);

    let now: Timestamp = "2026-01-01T01:00:01Z".parse().unwrap();
    let invocation = Invocation::new("late", now, Duration::from_secs(8));
    let report = stand.consumer.consume(&batch(vec![record_of("good-2")]), &invocation).await;
    assert_eq!(stand.runs.take(), ["steady good-2"]);
    assert_eq!(
        (report.records[0].outcome, &report.records[0].handlers[1].ended),
        (Outcome::Processed, &Ended::TooLate)
    );
}
