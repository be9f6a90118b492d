//! Long lists through the real consumer, with a slow sender, answers of 429, and killed consumers.
//!
//! `LISTS=20000,10x2000 ANSWER_MS=300 ENVIRONMENTS=10 cargo test --release -p learnink-tests --test it -- lists`
//! makes it larger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use learnink_consumer::DynamoDbLedger;
use learnink_consumer::ledger::EntryId;
use learnink_local::EventSource;
use learnink_receiver::SqsQueue;
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_tests::runtime_api::{Function, Outcome};
use learnink_tests::serve;
use learnink_webhook::MessageId;
use learnink_webhook::message::{LONGEST_PART, Part};
use serde_json::json;
use tokio::sync::watch;

use crate::records::message;

/// After this many deliveries without progress a message is dead-lettered, as on AWS.
const MAX_RECEIVE_COUNT: u32 = 7;

/// How many consumers are killed in the middle of a batch.
const KILLS: u32 = 3;

/// The secret that notifications are signed with.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The size of the test.
struct Scale {
    /// The lengths of the lists.
    lists: Vec<usize>,
    /// How long the sender takes for a notification.
    answer: Duration,
    /// The share of requests that it answers 429.
    busy: f64,
    /// How many environments work concurrently.
    environments: u32,
    /// How long an invocation may take and, in seconds, how long a message is hidden: until a killed one's lease
    /// ends.
    timeout: Duration,
    visibility_timeout_s: u32,
}

#[expect(clippy::disallowed_methods, reason = "a test's own switches")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Scale {
    /// The scale of `scripts/check`, or that of the environment's variables.
    fn read() -> Self {
        let number = |name: &str, default: u64| variable(name).map_or(default, |text| text.parse().unwrap());
        let Some(lists) = variable("LISTS") else {
            return Self {
                lists: vec![1_050, 250, 250],
                answer: Duration::from_millis(20),
                // Each delays its part by up to half a minute.
                busy: 0.003,
                environments: 3,
                timeout: Duration::from_secs(3),
                visibility_timeout_s: 4,
            };
        };
        let lists = lists.split(',').flat_map(|list| {
            let (count, items) = list.split_once('x').unwrap_or(("1", list));
            vec![items.parse().unwrap(); count.parse().unwrap()]
        });
        Self {
            lists: lists.collect(),
            answer: Duration::from_millis(number("ANSWER_MS", 300)),
            busy: 0.05,
            environments: number("ENVIRONMENTS", 4).try_into().unwrap(),
            timeout: Duration::from_secs(30),
            visibility_timeout_s: 35,
        }
    }
}

/// A sender that deduplicates by key.
#[derive(Clone)]
struct Sender {
    answer: Duration,
    busy: f64,
    /// How often each notification arrived, by its key.
    arrivals: Arc<Mutex<BTreeMap<String, u32>>>,
}

async fn send(State(sender): State<Sender>, headers: HeaderMap) -> StatusCode {
    if fastrand::f64() < sender.busy {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    *sender.arrivals.lock().unwrap().entry(id).or_default() += 1;
    tokio::time::sleep(sender.answer).await;
    StatusCode::OK
}

struct Stack {
    engine: Engine,
    queues: QueuePair,
    ledger_table: String,
    endpoint: String,
    timeout: Duration,
    kills: AtomicU32,
}

impl Stack {
    async fn consumer(&self) -> Function {
        let max_receive_count = MAX_RECEIVE_COUNT.to_string();
        let variables = [
            ("AWS_ENDPOINT_URL_SQS", self.engine.sqs.endpoint_url().unwrap()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.engine.dynamodb.endpoint_url().unwrap()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_DEAD_LETTER_QUEUE_URL", &self.queues.dead_letter_url),
            ("LEARNINK_MAX_RECEIVE_COUNT", &max_receive_count),
            ("LEARNINK_LEDGER_TABLE", &self.ledger_table),
            ("LEARNINK_LEARNERS_TABLE", "none"),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", "none"),
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", &self.endpoint),
            ("LEARNINK_PUSH_SECRET", SECRET),
            ("LEARNINK_PUSH_MAX_AGE", "8760"),
        ];
        Function::start_with_timeout(binary("consumer"), &variables, self.timeout).await
    }

    /// One environment: it polls, and may be killed during a batch with parts.
    async fn work(&self, stopped: watch::Receiver<bool>) {
        let process = tokio::sync::Mutex::new(Some(self.consumer().await));
        let invoke = async |batch: aws_lambda_events::sqs::SqsEvent| {
            let mut process = process.lock().await;
            let mut function = process.take().unwrap();
            let has_part = batch.records.iter().any(|record| record.message_attributes.contains_key("part"));
            let takes_a_kill = |kills| (kills < KILLS).then_some(kills + 1);
            // The first batches with parts: on a machine with time to spare there are few.
            let kill = has_part
                && self.kills.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes_a_kill).is_ok();
            if kill {
                let life = self.timeout.mul_f64(0.05 + fastrand::f64() * 0.3);
                let answered = tokio::time::timeout(life, function.invoke(json!(batch))).await;
                function.kill().await;
                *process = Some(self.consumer().await);
                return match answered {
                    Ok(Outcome::Response(answer)) => Some(answer),
                    _ => None,
                };
            }
            let outcome = function.invoke(json!(batch)).await;
            *process = Some(function);
            match outcome {
                Outcome::Response(answer) => Some(answer),
                Outcome::Error(error) => panic!("the consumer failed: {error}"),
            }
        };
        EventSource::new(self.engine.sqs_client(), &self.queues.url).run(invoke, stopped).await;
    }

    /// Whether every list, and every part of one, is done in the ledger. The embedded SQS does not count a message
    /// that was hidden and waits to be received again.
    async fn is_done(&self, lists: &[usize]) -> bool {
        let ledger = DynamoDbLedger::new(&self.engine.dynamodb, &self.ledger_table);
        for (number, items) in lists.iter().enumerate() {
            let id = MessageId::parse(&id(number)).unwrap();
            let parts = Part::all_of("push", *items, LONGEST_PART, false);
            let parts = parts.filter(|_| *items > LONGEST_PART).map(|part| EntryId::of_part(&id, &part));
            for entry in std::iter::once(EntryId::from(&id)).chain(parts) {
                // If it is too busy to answer, the next look will show it.
                let entry = ledger.entry(entry).await.ok().flatten();
                if !entry.is_some_and(|entry| entry.done.contains("push")) {
                    return false;
                }
            }
        }
        true
    }
}

fn id(number: usize) -> String {
    format!("msg_{number}")
}

/// The event with a list of this many notifications.
fn event(items: usize) -> String {
    let one = json!({ "title": "t", "body": "b", "path": "/l", "user_id": "u", "custom_id": null });
    let event = json!({
        "type": "notifications.sent", "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z",
        "data": { "notifications": vec![one; items] },
    });
    event.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_sent_whatever_is_killed_and_nothing_of_them_is_dead_lettered() {
    let scale = Scale::read();
    let engine = Engine::embedded().await;
    let sender = Sender { answer: scale.answer, busy: scale.busy, arrivals: Arc::default() };
    let endpoint = serve(axum::Router::new().fallback(send).with_state(sender.clone())).await;
    let stack = Arc::new(Stack {
        queues: engine.queues(scale.visibility_timeout_s, MAX_RECEIVE_COUNT).await,
        ledger_table: engine.table("message_id", None).await,
        endpoint,
        timeout: scale.timeout,
        kills: AtomicU32::new(0),
        engine,
    });
    let queue = SqsQueue::new(&stack.engine.sqs, &stack.queues.url);
    for (number, items) in scale.lists.iter().enumerate() {
        queue.send(message(&id(number), event(*items)).encode().unwrap()).await.unwrap();
    }

    let began = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let mut environments = tokio::task::JoinSet::new();
    for _ in 0..scale.environments {
        let (stack, stopped) = (stack.clone(), stopped.clone());
        environments.spawn(async move { stack.work(stopped).await });
    }
    while !stack.is_done(&scale.lists).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = began.elapsed();
    stop.send_replace(true);
    while let Some(ended) = environments.join_next().await {
        ended.unwrap();
    }

    let dead_letters = QueueAttributeName::ApproximateNumberOfMessages;
    assert_eq!(stack.engine.queue_attribute(&stack.queues.dead_letter_url, dead_letters).await, "0");
    let arrivals = sender.arrivals.lock().unwrap().clone();
    let expected = scale.lists.iter().enumerate();
    let expected = expected
        .flat_map(|(number, items)| (0..*items).map(move |item| format!("{}/push/{item}", id(number))));
    let expected: BTreeSet<_> = expected.collect();
    let missing: Vec<_> = expected.iter().filter(|key| !arrivals.contains_key(*key)).collect();
    assert!(missing.is_empty() && arrivals.len() == expected.len(), "{} are missing", missing.len());
    // A sender that deduplicates sends each once. A notification that arrives twice was cut off in between by a
    // kill.
    let again: u32 = arrivals.values().map(|times| times - 1).sum();
    let kills = stack.kills.load(Ordering::Relaxed);
    println!(
        "{} lists, {} notifications, {} environments, {kills} kills: {:.1} s, {again} arrived again",
        scale.lists.len(),
        expected.len(),
        scale.environments,
        took.as_secs_f64()
    );
    assert_eq!(kills, KILLS);
    assert!(again <= kills * 400, "{again} arrived again, more than the kills can have cut off");

    let ledger = DynamoDbLedger::new(&stack.engine.dynamodb, &stack.ledger_table);
    for number in 0..scale.lists.len() {
        let entry = ledger.entry(&MessageId::parse(&id(number)).unwrap()).await.unwrap().unwrap();
        assert_eq!(entry.done, BTreeSet::from(["push".to_owned()]), "no entry grows with its list");
    }
}
