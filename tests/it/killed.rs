//! The real consumer, killed again and again in the middle of its batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::{StreamExt, stream};
use learnink_consumer::DynamoDbLedger;
use learnink_handlers::progress::Learners;
use learnink_local::EventSource;
use learnink_receiver::SqsQueue;
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_tests::runtime_api::{Function, Outcome};
use learnink_webhook::MessageId;
use serde_json::json;
use tokio::sync::{Mutex, watch};

use crate::laptop::started;
use crate::records::message;

on_both_engines! {
    of_five_thousand_messages_none_is_lost_though_the_consumer_is_killed_fifty_times,
}

const MESSAGES: u32 = 5_000;
const KILLS: u32 = 50;

/// How many processes handle batches side by side.
const PROCESSES: u32 = 3;

/// How long an invocation may take, and so a dead one's lease.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a message stays hidden, in seconds: until the lease of a killed process has ended.
const VISIBILITY_TIMEOUT_S: u32 = 4;

/// A killed process dies at most this long after it got its batch.
const LONGEST_LIFE: Duration = Duration::from_millis(40);

struct Stack {
    engine: Engine,
    queues: QueuePair,
    ledger: String,
    learners: String,
    kills: AtomicU32,
}

impl Stack {
    async fn consumer(&self) -> Function {
        let variables = [
            ("AWS_ENDPOINT_URL_SQS", self.engine.sqs.endpoint_url().unwrap()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.engine.dynamodb.endpoint_url().unwrap()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_DEAD_LETTER_QUEUE_URL", &self.queues.dead_letter_url),
            ("LEARNINK_LEDGER_TABLE", &self.ledger),
            ("LEARNINK_LEARNERS_TABLE", &self.learners),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", "none"),
        ];
        Function::start_with_timeout(binary("consumer"), &variables, TIMEOUT).await
    }

    /// Whether one more process is to be killed.
    fn takes_a_kill(&self) -> bool {
        let more = |kills| (kills < KILLS).then_some(kills + 1);
        fastrand::u8(..4) == 0 && self.kills.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Polls, and hands each batch to a process that may be killed over it.
    async fn work(&self, stopped: watch::Receiver<bool>) {
        let process = Mutex::new(Some(self.consumer().await));
        let invoke = async |batch| {
            let mut process = process.lock().await;
            let mut function = process.take().unwrap();
            if self.takes_a_kill() {
                let life = LONGEST_LIFE.mul_f64(fastrand::f64());
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

    async fn is_empty(&self) -> bool {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let counts = names.map(|name| self.engine.queue_attribute(&self.queues.url, name));
        futures_util::future::join_all(counts).await.iter().all(|count| count == "0")
    }
}

fn id(number: u32) -> String {
    format!("msg_{number}")
}

async fn of_five_thousand_messages_none_is_lost_though_the_consumer_is_killed_fifty_times(engine: Engine) {
    let stack = Arc::new(Stack {
        queues: engine.queues(VISIBILITY_TIMEOUT_S, 100).await,
        ledger: engine.table("message_id", None).await,
        learners: engine.table("user_id", Some("course_id")).await,
        kills: AtomicU32::new(0),
        engine,
    });
    let queue = SqsQueue::new(&stack.engine.sqs, &stack.queues.url);
    let sends = stream::iter(0..MESSAGES).map(|number| {
        let body = started(&format!("learner-{number}"), "c", "2026-01-01T00:00:00Z");
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
    while !stack.is_empty().await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.send_replace(true);
    while let Some(ended) = processes.join_next().await {
        ended.unwrap();
    }
    assert_eq!(stack.kills.load(Ordering::Relaxed), KILLS);
    let dead_letters = QueueAttributeName::ApproximateNumberOfMessages;
    assert_eq!(stack.engine.queue_attribute(&stack.queues.dead_letter_url, dead_letters).await, "0");

    let learners = Learners::new(&stack.engine.dynamodb, &stack.learners).all().await.unwrap();
    let mut learners: Vec<_> = learners.into_iter().map(|course| course.user_id).collect();
    learners.sort();
    let mut expected: Vec<_> = (0..MESSAGES).map(|number| format!("learner-{number}")).collect();
    expected.sort();
    assert_eq!(learners, expected);

    // And the ledger knows of each, and of nobody who is still at work.
    let ledger = DynamoDbLedger::new(&stack.engine.dynamodb, &stack.ledger);
    for number in 0..MESSAGES {
        let entry = ledger.entry(&MessageId::parse(&id(number)).unwrap()).await.unwrap().unwrap();
        assert!(entry.done.contains("progress") && entry.lease.is_none(), "{number}: {entry:?}");
    }
}
