//! The whole stack: receivers and consumers as Lambda runs them, an AWS that fails, and LearnInk, which tries again.
//!
//! `EVENTS=100000 cargo test --workspace --test it -- whole_stack --nocapture` is the long run. It prints its figures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use futures_util::{StreamExt, stream};
use learnink_connectors::progress::Learners;
use learnink_consumer::DynamoDbLedger;
use learnink_local::EventSource;
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_tests::faulty::{Fault, Faulty};
use learnink_tests::read;
use learnink_tests::runtime_api::{Function, Outcome};
use learnink_tests::signing::{OTHER_SECRET, SECRET, headers, now_s};
use learnink_webhook::MessageId;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, watch};

use crate::killed::{Arrivals, endpoint};
use crate::laptop::started;
use crate::records::events;

/// How many environments of each function there are. The first of each is never killed: its memory is watched.
const ENVIRONMENTS: usize = 3;

/// How many webhooks LearnInk sends at a time.
const AT_ONCE: usize = 6;

/// How often LearnInk tries at most.
const ATTEMPTS: u32 = 8;

/// How long an invocation of the consumer may take, and so a dead one's lease.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a message stays hidden, in seconds: until the lease of a killed consumer has ended.
const VISIBILITY_TIMEOUT_S: u32 = 4;

/// How many deliveries SQS makes before it gives up by itself, which it never has to.
const MAX_RECEIVE_COUNT: &str = "100";

/// How long a connection may be idle. A frozen environment is frozen for longer.
const LONGEST_IDLE: Duration = Duration::from_millis(150);

/// The most that a process may grow in the second half of a run, in KiB. One that kept the bodies of a long run would
/// grow by several times as much.
const MOST_GROWTH_KIB: i64 = 8 * 1024;

/// What a webhook is, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A learner starts a course.
    Started,
    /// Two notifications in a list.
    List,
    /// Signed, and no handler can read it.
    Poison,
    /// Changed after it was signed.
    Tampered,
}

const fn kind(number: u32) -> Kind {
    match number % 20 {
        3 | 9 | 15 => Kind::List,
        7 => Kind::Poison,
        11 => Kind::Tampered,
        _ => Kind::Started,
    }
}

fn id(number: u32) -> String {
    format!("msg_{number}")
}

fn of_kind(events: u32, wanted: Kind) -> impl Iterator<Item = u32> {
    (0..events).filter(move |number| kind(*number) == wanted)
}

fn body(number: u32) -> String {
    match kind(number) {
        Kind::Started | Kind::Tampered => started(&format!("learner-{number}"), "c", "2026-01-01T00:00:00Z"),
        Kind::Poison => "not JSON".to_owned(),
        Kind::List => {
            let one = json!({ "title": "t", "body": "b", "path": "/", "user_id": "u", "custom_id": null });
            json!({
                "type": "notifications.sent", "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z",
                "data": { "notifications": [one, one] },
            })
            .to_string()
        }
    }
}

/// Three calls in a hundred fail in some way, and one is late.
fn fault() -> Fault {
    match fastrand::u32(0..100) {
        0 => Fault::Throttled,
        1 => Fault::Failed,
        2 => Fault::AnswerLost,
        3 => Fault::Late,
        _ => Fault::None,
    }
}

/// What was done to the environments.
#[derive(Debug, Default)]
struct Interruptions {
    kills: AtomicU32,
    freezes: AtomicU32,
}

/// The memory of a process, each time that it was looked at.
#[derive(Debug, Default)]
struct Memory(StdMutex<Vec<u64>>);

impl Memory {
    fn look(&self, function: &Function) {
        self.0.lock().unwrap().extend(function.resident_kib());
    }

    /// How much it grew from the second quarter to the last one, on average, in KiB; and the last size.
    fn growth_kib(&self) -> Option<(i64, u64)> {
        let sizes = self.0.lock().unwrap();
        let quarters: Vec<_> = sizes.chunks_exact((sizes.len() / 4).max(1)).collect();
        let mean = |sizes: &[u64]| (sizes.iter().sum::<u64>() / sizes.len() as u64).cast_signed();
        let [_, second, _, last, ..] = quarters.as_slice() else { return None };
        Some((mean(last) - mean(second), *sizes.last()?))
    }
}

struct Stack {
    engine: Engine,
    sqs: Faulty,
    dynamodb: Faulty,
    queues: QueuePair,
    ledger: String,
    learners: String,
    endpoint: String,
    arrivals: Arrivals,
    interruptions: Interruptions,
    /// Of the first receiver and the first consumer.
    memory: [Memory; 2],
    /// How often each notification had arrived when a kill found it recorded as done.
    done: StdMutex<BTreeMap<String, u32>>,
}

impl Stack {
    async fn start() -> Self {
        let engine = Engine::embedded().await;
        let arrivals = Arrivals::default();
        let faulty = |emulator: &aws_config::SdkConfig| {
            let emulator = emulator.endpoint_url().unwrap().to_owned();
            async move { Faulty::start(&emulator, LONGEST_IDLE, fault).await }
        };
        Self {
            sqs: faulty(&engine.sqs).await,
            dynamodb: faulty(&engine.dynamodb).await,
            queues: engine.queues(VISIBILITY_TIMEOUT_S, MAX_RECEIVE_COUNT.parse().unwrap()).await,
            ledger: engine.table("message_id", None).await,
            learners: engine.table("user_id", Some("course_id")).await,
            endpoint: endpoint(arrivals.clone()).await,
            arrivals,
            interruptions: Interruptions::default(),
            memory: Default::default(),
            done: StdMutex::default(),
            engine,
        }
    }

    async fn receiver(&self) -> Function {
        let variables = [
            ("AWS_LAMBDA_LOG_LEVEL", "ERROR"),
            ("AWS_ENDPOINT_URL_SQS", self.sqs.endpoint()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_SIGNING_SECRET", SECRET),
        ];
        Function::start(binary("receiver"), &variables).await
    }

    async fn consumer(&self) -> Function {
        let variables = [
            ("AWS_LAMBDA_LOG_LEVEL", "ERROR"),
            ("AWS_ENDPOINT_URL_SQS", self.sqs.endpoint()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.endpoint()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_DEAD_LETTER_QUEUE_URL", &self.queues.dead_letter_url),
            ("LEARNINK_MAX_RECEIVE_COUNT", MAX_RECEIVE_COUNT),
            ("LEARNINK_LEDGER_TABLE", &self.ledger),
            ("LEARNINK_LEARNERS_TABLE", &self.learners),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", "none"),
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", &self.endpoint),
            ("LEARNINK_PUSH_SECRET", OTHER_SECRET),
            ("LEARNINK_PUSH_MAX_AGE", "1000000"),
        ];
        Function::start_with_timeout(binary("consumer"), &variables, TIMEOUT).await
    }

    /// Kills a process within so long, if it does not answer before.
    async fn killed(&self, mut function: Function, event: Value, life: Duration) -> Option<Outcome> {
        let answered = tokio::time::timeout(life, function.invoke(event)).await.ok();
        function.kill().await;
        self.interruptions.kills.fetch_add(1, Ordering::Relaxed);
        answered
    }

    /// Freezes an environment between two invocations, longer than its connections may be idle.
    async fn freeze(&self, function: &Function) {
        function.freeze().await;
        tokio::time::sleep(2 * LONGEST_IDLE).await;
        function.thaw().await;
        self.interruptions.freezes.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends one webhook until it is answered 200 or 4xx, or LearnInk gives up. Returns the last status, and how long
    /// each invocation took.
    async fn deliver(&self, number: u32, idle: &Receivers) -> (Option<u64>, Vec<Duration>) {
        let body = body(number);
        let (mut last, mut latencies) = (None, Vec::new());
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(Duration::from_millis(100) * attempt).await;
            let (index, mut function) = idle.take().await;
            let event = request(number, &body);
            if index > 0 && fastrand::u32(0..100) == 0 {
                let outcome = self.killed(function, event, Duration::from_millis(fastrand::u64(0..30))).await;
                idle.put(index, self.receiver().await);
                last = outcome.as_ref().map(status);
            } else {
                let started = Instant::now();
                last = Some(status(&function.invoke(event).await));
                latencies.push(started.elapsed());
                if index == 0 {
                    self.memory[0].look(&function);
                }
                if fastrand::u32(0..100) == 0 {
                    self.freeze(&function).await;
                }
                idle.put(index, function);
            }
            if matches!(last, Some(200 | 400..500)) {
                break;
            }
        }
        (last, latencies)
    }

    /// Polls, and passes each batch to a consumer that may be killed or frozen.
    async fn work(&self, index: usize, stopped: watch::Receiver<bool>) {
        let process = Mutex::new(Some(self.consumer().await));
        let invoke = async |batch: SqsEvent| {
            let mut process = process.lock().await;
            let mut function = process.take().unwrap();
            let outcome = if index > 0 && fastrand::u32(0..15) == 0 {
                let life = Duration::from_millis(fastrand::u64(0..60));
                let outcome = self.killed(function, json!(batch), life).await;
                if outcome.is_none() {
                    self.after_a_kill(&batch).await;
                }
                *process = Some(self.consumer().await);
                outcome
            } else {
                let outcome = function.invoke(json!(batch)).await;
                if index == 0 {
                    self.memory[1].look(&function);
                }
                if fastrand::u32(0..20) == 0 {
                    self.freeze(&function).await;
                }
                *process = Some(function);
                Some(outcome)
            };
            match outcome? {
                Outcome::Response(answer) => Some(answer),
                Outcome::Error(error) => panic!("the consumer failed: {error}"),
            }
        };
        EventSource::new(self.engine.sqs_client(), &self.queues.url).run(invoke, stopped).await;
    }

    /// Notes how often each notification had arrived that is recorded as done.
    async fn after_a_kill(&self, batch: &SqsEvent) {
        let ledger = DynamoDbLedger::new(&self.engine.dynamodb, &self.ledger);
        for record in &batch.records {
            let id = record.message_attributes["svix-id"].string_value.as_deref().unwrap();
            let entry = ledger.entry(&MessageId::parse(id).unwrap()).await.unwrap();
            let done = entry.map(|entry| entry.done).unwrap_or_default();
            for item in 0..2 {
                let key = format!("push/{item}");
                if done.contains("push") || done.contains(&*key) {
                    let arrived = self.arrivals.lock().unwrap()[&format!("{id}/{key}")];
                    self.done.lock().unwrap().insert(format!("{id}/{key}"), arrived);
                }
            }
        }
    }

    /// The message ids of the dead letters. Each has its reason.
    async fn letters(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        loop {
            let request = self.engine.sqs_client().receive_message().queue_url(&self.queues.dead_letter_url);
            let request = request.message_attribute_names("All").max_number_of_messages(10);
            let messages = request.visibility_timeout(600).send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return found;
            }
            for message in messages {
                let attributes = message.message_attributes.unwrap();
                assert!(attributes.contains_key("dead-letter-reason"), "{attributes:?}");
                found.insert(attributes["svix-id"].string_value.clone().unwrap());
            }
        }
    }
}

/// The receivers that do nothing.
struct Receivers {
    put: mpsc::UnboundedSender<(usize, Function)>,
    take: Mutex<mpsc::UnboundedReceiver<(usize, Function)>>,
}

impl Receivers {
    async fn start(stack: &Stack) -> Self {
        let (put, take) = mpsc::unbounded_channel();
        let receivers = Self { put, take: Mutex::new(take) };
        for index in 0..ENVIRONMENTS {
            receivers.put(index, stack.receiver().await);
        }
        receivers
    }

    async fn take(&self) -> (usize, Function) {
        self.take.lock().await.recv().await.unwrap()
    }

    fn put(&self, index: usize, function: Function) {
        self.put.send((index, function)).unwrap();
    }
}

/// The request of API Gateway for a webhook that is signed now.
fn request(number: u32, body: &str) -> Value {
    let mut request: Value = serde_json::from_str(&read("events/lambda/http-api-request.json")).unwrap();
    for (name, value) in headers(SECRET, &id(number), now_s(), body.as_bytes()) {
        request["headers"][name] = value.into();
    }
    let is_tampered = kind(number) == Kind::Tampered;
    request["body"] = if is_tampered { format!("{body} ") } else { body.to_owned() }.into();
    request
}

fn status(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Response(answer) => answer["statusCode"].as_u64().unwrap(),
        Outcome::Error(error) => panic!("the receiver failed: {error}"),
    }
}

/// The value that so many in a thousand are not above.
fn per_mille(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() * share / 1000).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_was_answered_200_arrives_though_aws_fails_and_environments_die_and_freeze() {
    let events = events(5_000);
    let stack = Arc::new(Stack::start().await);
    let (stop, stopped) = watch::channel(false);
    let mut consumers = tokio::task::JoinSet::new();
    for index in 0..ENVIRONMENTS {
        let (stack, stopped) = (stack.clone(), stopped.clone());
        consumers.spawn(async move { stack.work(index, stopped).await });
    }
    let (idle, began) = (Receivers::start(&stack).await, Instant::now());
    let deliveries = stream::iter(0..events).map(|number| {
        let (stack, idle) = (&stack, &idle);
        async move { (number, stack.deliver(number, idle).await) }
    });
    let mut answers = BTreeMap::<Option<u64>, BTreeSet<u32>>::new();
    let mut latencies = Vec::new();
    let mut deliveries = deliveries.buffer_unordered(AT_ONCE);
    while let Some((number, (status, took))) = deliveries.next().await {
        answers.entry(status).or_default().insert(number);
        latencies.extend(took);
    }
    let sent = began.elapsed();
    while stack.engine.messages(&stack.queues.url).await > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.send_replace(true);
    while let Some(ended) = consumers.join_next().await {
        ended.unwrap();
    }

    latencies.sort_unstable();
    let [p50, p99, p999] = [500, 990, 999].map(|share| per_mille(&latencies, share));
    let growth = stack.memory.each_ref().map(Memory::growth_kib);
    println!(
        "{events} webhooks, sent in {sent:.1?}, all handled after {:.1?}; an invocation of the receiver took {p50:.1?} \
         (p50), {p99:.1?} (p99), {p999:.1?} (p99.9)\n{:?}\nfaults of SQS {:?}, of DynamoDB {:?}\nKiB by which the \
         receiver and the consumer grew in the second half, and have in the end: {growth:?}",
        began.elapsed(),
        stack.interruptions,
        stack.sqs.calls(),
        stack.dynamodb.calls(),
    );

    // Nothing was answered otherwise than it has to be, whatever failed on the way.
    let tampered: BTreeSet<_> = of_kind(events, Kind::Tampered).collect();
    let genuine: BTreeSet<_> = (0..events).filter(|number| !tampered.contains(number)).collect();
    assert_eq!(answers, [(Some(200), genuine), (Some(401), tampered)].into());

    // What was answered 200 is there: learners, notifications, dead letters. What was refused is not.
    let learners = Learners::new(&stack.engine.dynamodb, &stack.learners).all().await.unwrap();
    let learners: Vec<_> = learners.into_iter().map(|course| course.user_id).collect();
    let expected: BTreeSet<_> =
        of_kind(events, Kind::Started).map(|number| format!("learner-{number}")).collect();
    assert_eq!(learners.len(), expected.len());
    assert_eq!(learners.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(stack.letters().await, of_kind(events, Kind::Poison).map(id).collect());
    let arrivals = stack.arrivals.lock().unwrap().clone();
    let lists = of_kind(events, Kind::List)
        .flat_map(|number| [0, 1].map(|item| format!("{}/push/{item}", id(number))));
    assert_eq!(arrivals.keys().cloned().collect::<BTreeSet<_>>(), lists.collect());

    // What was recorded as done was not done again, and the ledger has everything, without a lease.
    let done = stack.done.lock().unwrap().clone();
    for (key, times) in done {
        assert_eq!(arrivals[&key], times, "{key} was recorded as done, and arrived again");
    }
    let ledger = DynamoDbLedger::new(&stack.engine.dynamodb, &stack.ledger);
    for (kind, handler) in [(Kind::Started, "progress"), (Kind::List, "push")] {
        for number in of_kind(events, kind) {
            let entry = ledger.entry(&MessageId::parse(&id(number)).unwrap()).await.unwrap().unwrap();
            assert!(entry.done.contains(handler) && entry.lease.is_none(), "{number}: {entry:?}");
        }
    }
    for number in of_kind(events, Kind::Tampered) {
        assert_eq!(ledger.entry(&MessageId::parse(&id(number)).unwrap()).await.unwrap(), None);
    }

    for (function, growth) in ["receiver", "consumer"].into_iter().zip(growth) {
        let grown = growth.map_or(0, |(kib, _)| kib);
        assert!(grown < MOST_GROWTH_KIB, "the {function} grew by {grown} KiB");
    }
    let interruptions = &stack.interruptions;
    let interrupted =
        [&interruptions.kills, &interruptions.freezes].map(|count| count.load(Ordering::Relaxed));
    assert!(interrupted.iter().all(|count| *count > 0), "{interruptions:?}");
}
