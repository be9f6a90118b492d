//! The real consumer, killed again and again in the middle of its batches.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::types::QueueAttributeName;
use axum::extract::State;
use axum::http::HeaderMap;
use futures_util::{StreamExt, stream};
use learnink_connectors::progress::Learners;
use learnink_consumer::DynamoDbLedger;
use learnink_local::EventSource;
use learnink_receiver::SqsQueue;
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_tests::runtime_api::{Function, Outcome};
use learnink_tests::serve;
use learnink_webhook::MessageId;
use serde_json::json;
use tokio::sync::{Mutex, watch};

use crate::laptop::started;
use crate::records::message;

const MESSAGES: u32 = 5_000;
const KILLS: u32 = 50;

/// How many processes handle batches concurrently.
const PROCESSES: u32 = 3;

/// How long an invocation may take, and so a dead one's lease.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a message stays hidden, in seconds: until the lease of a killed process has ended.
const VISIBILITY_TIMEOUT_S: u32 = 4;

/// The assumed duration of a batch, until one is measured.
const FIRST_GUESS: Duration = Duration::from_millis(40);

/// The secret that notifications are signed with.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How often a notification arrived, by its `webhook-id`.
pub(crate) type Arrivals = Arc<StdMutex<HashMap<String, u32>>>;

struct Stack {
    engine: Engine,
    queues: QueuePair,
    ledger: DynamoDbLedger,
    ledger_table: String,
    learners: String,
    /// A sender of notifications that does not deduplicate.
    endpoint: String,
    arrivals: Arrivals,
    /// How long the last batch took that was not killed.
    took: StdMutex<Duration>,
    /// How often a process was killed while it held a claim.
    kills: AtomicU32,
    /// How often each notification had arrived when it was found recorded as done after a kill.
    done: StdMutex<HashMap<String, u32>>,
}

/// Accepts every notification, and counts.
pub(crate) async fn endpoint(arrivals: Arrivals) -> String {
    let count = async |State(arrivals): State<Arrivals>, headers: HeaderMap| {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        *arrivals.lock().unwrap().entry(id).or_default() += 1;
    };
    serve(axum::Router::new().fallback(count).with_state(arrivals)).await
}

impl Stack {
    async fn consumer(&self) -> Function {
        let variables = [
            ("AWS_ENDPOINT_URL_SQS", self.engine.sqs.endpoint_url().unwrap()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.engine.dynamodb.endpoint_url().unwrap()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_DEAD_LETTER_QUEUE_URL", &self.queues.dead_letter_url),
            ("LEARNINK_MAX_RECEIVE_COUNT", "100"),
            ("LEARNINK_LEDGER_TABLE", &self.ledger_table),
            ("LEARNINK_LEARNERS_TABLE", &self.learners),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", "none"),
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", &self.endpoint),
            ("LEARNINK_PUSH_SECRET", SECRET),
            ("LEARNINK_PUSH_MAX_AGE", "1000000"),
        ];
        Function::start_with_timeout(binary("consumer"), &variables, TIMEOUT).await
    }

    /// Whether one more process is to be killed.
    fn takes_a_kill(&self) -> bool {
        let is_enough = self.kills.load(Ordering::Relaxed) >= KILLS && !self.done.lock().unwrap().is_empty();
        !is_enough && fastrand::bool()
    }

    /// Checks the ledger after a batch was killed.
    async fn after_a_kill(&self, batch: &SqsEvent) {
        let mut was_at_work = false;
        for record in &batch.records {
            let id = record.message_attributes["svix-id"].string_value.as_deref().unwrap();
            let entry = self.ledger.entry(&MessageId::parse(id).unwrap()).await.unwrap();
            was_at_work |= entry.as_ref().is_some_and(|entry| entry.lease.is_some());
            if entry.is_some_and(|entry| ["push", "push/0"].iter().any(|key| entry.done.contains(*key))) {
                let key = format!("{id}/push/0");
                let arrived = self.arrivals.lock().unwrap()[&key];
                self.done.lock().unwrap().insert(key, arrived);
            }
        }
        self.kills.fetch_add(u32::from(was_at_work), Ordering::Relaxed);
    }

    /// Polls, and passes each batch to a process that may be killed during it.
    async fn work(&self, stopped: watch::Receiver<bool>) {
        let process = Mutex::new(Some(self.consumer().await));
        let invoke = async |batch: SqsEvent| {
            let mut process = process.lock().await;
            let mut function = process.take().unwrap();
            if self.takes_a_kill() {
                // At any moment of a batch, and a little after.
                let life = self.took.lock().unwrap().mul_f64(fastrand::f64() * 1.2);
                let answered = tokio::time::timeout(life, function.invoke(json!(batch))).await;
                function.kill().await;
                *process = Some(self.consumer().await);
                if let Ok(Outcome::Response(answer)) = answered {
                    return Some(answer);
                }
                self.after_a_kill(&batch).await;
                return None;
            }
            let started = Instant::now();
            let outcome = function.invoke(json!(batch)).await;
            *self.took.lock().unwrap() = started.elapsed();
            *process = Some(function);
            match outcome {
                Outcome::Response(answer) => Some(answer),
                Outcome::Error(error) => panic!("the consumer failed: {error}"),
            }
        };
        EventSource::new(self.engine.sqs_client(), &self.queues.url).run(invoke, stopped).await;
    }
}

fn id(number: u32) -> String {
    format!("msg_{number}")
}

/// Every other message has notifications; the rest are of learners who start a course.
const fn has_notification(number: u32) -> bool {
    number.is_multiple_of(2)
}

fn sent() -> String {
    let one = json!({ "title": "t", "body": "b", "path": "/", "user_id": "u", "custom_id": null });
    let event = json!({
        "type": "notifications.sent", "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z",
        "data": { "notifications": [one] },
    });
    event.to_string()
}

/// With ministack; `whole_stack` kills consumers over the embedded engines.
#[tokio::test]
async fn of_five_thousand_messages_none_is_lost_though_the_consumer_is_killed_fifty_times() {
    let engine = Engine::ministack().await;
    let ledger_table = engine.table("message_id", None).await;
    let arrivals = Arrivals::default();
    let stack = Arc::new(Stack {
        queues: engine.queues(VISIBILITY_TIMEOUT_S, 100).await,
        ledger: DynamoDbLedger::new(&engine.dynamodb, &ledger_table),
        ledger_table,
        learners: engine.table("user_id", Some("course_id")).await,
        endpoint: endpoint(arrivals.clone()).await,
        arrivals,
        took: StdMutex::new(FIRST_GUESS),
        kills: AtomicU32::new(0),
        done: StdMutex::default(),
        engine,
    });
    let queue = SqsQueue::new(&stack.engine.sqs, &stack.queues.url);
    let sends = stream::iter(0..MESSAGES).map(|number| {
        let body = if has_notification(number) {
            sent()
        } else {
            started(&format!("learner-{number}"), "c", "2026-01-01T00:00:00Z")
        };
        let message = message(&id(number), body).encode().unwrap();
        let queue = queue.clone();
        async move { queue.send(message).await.unwrap() }
    });
    sends.buffer_unordered(16).collect::<Vec<()>>().await;

    let (stop, stopped) = watch::channel(false);
    let mut processes = tokio::task::JoinSet::new();
    for _ in 0..PROCESSES {
        let (stack, stopped) = (stack.clone(), stopped.clone());
        processes.spawn(async move { stack.work(stopped).await });
    }
    while stack.engine.messages(&stack.queues.url).await > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.send_replace(true);
    while let Some(ended) = processes.join_next().await {
        ended.unwrap();
    }
    let kills = stack.kills.load(Ordering::Relaxed);
    assert!(kills >= KILLS, "only {kills} processes were killed with a claim in hand");
    let dead_letters = QueueAttributeName::ApproximateNumberOfMessages;
    assert_eq!(stack.engine.queue_attribute(&stack.queues.dead_letter_url, dead_letters).await, "0");

    let learners = Learners::new(&stack.engine.dynamodb, &stack.learners).all().await.unwrap();
    let learners: BTreeSet<_> = learners.into_iter().map(|course| course.user_id).collect();
    let starts = (0..MESSAGES).filter(|number| !has_notification(*number));
    assert_eq!(learners, starts.map(|number| format!("learner-{number}")).collect());

    // Each notification has arrived, and those recorded as done did not arrive again.
    let arrivals = stack.arrivals.lock().unwrap().clone();
    let expected = (0..MESSAGES).filter(|number| has_notification(*number));
    let expected: BTreeSet<_> = expected.map(|number| format!("{}/push/0", id(number))).collect();
    assert_eq!(arrivals.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let done = stack.done.lock().unwrap().clone();
    assert!(!done.is_empty(), "no kill has found a notification that was done");
    for (key, times) in done {
        assert_eq!(arrivals[&key], times, "{key} was recorded as done, and arrived again");
    }

    // And the ledger has each of them, without a lease.
    for number in 0..MESSAGES {
        let entry = stack.ledger.entry(&MessageId::parse(&id(number)).unwrap()).await.unwrap().unwrap();
        let handler = if has_notification(number) { "push" } else { "progress" };
        assert!(entry.done.contains(handler) && entry.lease.is_none(), "{number}: {entry:?}");
    }
}
