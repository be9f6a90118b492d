//! Notifications to a push sender, through the real consumer and the real `learnink`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsMessage;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::push::router;
use learnink_consumer::ledger::EntryId;
use learnink_consumer::report::Ended;
use learnink_consumer::{BatchReport, Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_local::pipeline::LEDGER_TABLE;
use learnink_local::{LocalDynamoDb, sdk_config, state};
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_tests::fake_aws::{FakeAws, Fate as AwsFate};
use learnink_tests::root;
use learnink_webhook::MessageId;
use learnink_webhook::message::{LONGEST_PART, Part};
use serde_json::json;
use svix::webhooks::Webhook;
use tokio::net::TcpListener;

use crate::records::{batch, delivery, drain, record};

const NOTIFICATIONS: usize = 500;

/// How many notifications of one message the handler has in flight at once.
const AT_ONCE: usize = 16;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Parts of the texts and numbers of every notification here.
const PERSONAL: [&str; 3] = ["Mary", "training", "254705"];

/// The fate of one notification.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    Taken,
    /// It is accepted, and the answer never arrives.
    TakenAndLost,
    /// It is not accepted, and the answer has this status.
    Answered(u16),
}

type Destiny = Box<dyn FnMut() -> Fate + Send>;

struct State {
    secret: &'static str,
    destiny: Destiny,
    /// How long an answer takes.
    delay: Duration,
    /// The ids of accepted notifications, in the order of arrival.
    taken: Vec<String>,
    /// The ids of notifications that were accepted without an answer.
    lost: Vec<String>,
    failed: usize,
    problems: Vec<String>,
}

/// A customer's endpoint, on a thread of its own.
#[derive(Clone)]
pub(crate) struct Endpoint {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Endpoint {
    pub(crate) fn start(destiny: impl FnMut() -> Fate + Send + 'static) -> Self {
        let (sender, started) = std::sync::mpsc::channel();
        let state = State {
            secret: SECRET,
            destiny: Box::new(destiny),
            delay: Duration::ZERO,
            taken: Vec::new(),
            lost: Vec::new(),
            failed: 0,
            problems: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}/push", listener.local_addr().unwrap());
                let endpoint = Self { url, state };
                sender.send(endpoint.clone()).unwrap();
                let router = axum::Router::new().fallback(answer).with_state(endpoint);
                axum::serve(listener, router).await
            })
        });
        started.recv().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The ids of accepted notifications, in the order of arrival.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.state().taken.clone()
    }

    fn env(&self) -> Env {
        env(&[("LEARNINK_PUSH_URL", &self.url), ("LEARNINK_PUSH_SECRET", SECRET)])
    }
}

/// Accepts a notification, if it is as the endpoint's documentation promises.
async fn answer(
    Shared(endpoint): Shared<Endpoint>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap) {
    let delay = endpoint.state().delay;
    tokio::time::sleep(delay).await;
    let fate = {
        let mut state = endpoint.state();
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        if Webhook::new(state.secret).unwrap().verify(&body, &headers).is_err() {
            Fate::Answered(401)
        } else if let Err(problem) = check(&id, &body) {
            state.problems.push(problem);
            Fate::Answered(500)
        } else {
            let fate = (state.destiny)();
            match fate {
                Fate::Taken => state.taken.push(id),
                Fate::TakenAndLost => {
                    state.taken.push(id.clone());
                    state.lost.push(id);
                }
                Fate::Answered(_) => state.failed += 1,
            }
            fate
        }
    };
    let mut wait = HeaderMap::new();
    match fate {
        Fate::Taken => (StatusCode::OK, wait),
        // The connection ends with its task.
        Fate::TakenAndLost => std::panic::resume_unwind(Box::new("lost")),
        Fate::Answered(status) => {
            wait.insert("retry-after", "1".parse().unwrap());
            (StatusCode::from_u16(status).unwrap(), wait)
        }
    }
}

fn check(id: &str, body: &[u8]) -> Result<(), String> {
    let number = id.rsplit('/').next().unwrap();
    let expected = json!({
        "title": format!("Hi Mary {number}!"),
        "body": "Complete your training",
        "path": "/learning",
        "user_id": format!("user-{number}"),
        "custom_id": null,
    });
    let found: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if found == expected { Ok(()) } else { Err(format!("{id} has another body")) }
}

/// 429 or 500 for one in `every`, at random.
fn fails_one_in(every: u8) -> impl FnMut() -> Fate + Send {
    move || {
        if fastrand::u8(..every) == 0 {
            Fate::Answered(*fastrand::choice(&[429, 500]).unwrap())
        } else {
            Fate::Taken
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "signatures are verified against the real clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A `notifications.sent` of this length, at `timestamp`.
pub(crate) fn sent(notifications: usize, timestamp: Timestamp) -> String {
    let notification = |number| {
        json!({
            "title": format!("Hi Mary {number}!"),
            "body": "Complete your training",
            "path": "/learning",
            "user_id": format!("user-{number}"),
            "custom_id": null,
            "phone_number": format!("+254705{number:06}"),
        })
    };
    json!({
        "object": "event",
        "type": "notifications.sent",
        "api_version": "2022-11-15",
        "data": { "notifications": (0..notifications).map(notification).collect::<Vec<_>>() },
        "timestamp": timestamp.to_string(),
    })
    .to_string()
}

fn ids(message: &str) -> BTreeSet<String> {
    (0..NOTIFICATIONS).map(|number| format!("{message}/push/{number}")).collect()
}

fn env(variables: &[(&str, &str)]) -> Env {
    Env::of([("LEARNINK_PUSH", "endpoint")].iter().chain(variables).copied())
}

/// The real consumer with only the push handler.
struct Stand {
    engine: Engine,
    queues: QueuePair,
    consumer: Consumer,
    invocations: u32,
}

impl Stand {
    async fn start(env: &Env) -> Self {
        learnink_aws::install_tls_provider();
        let engine = Engine::embedded().await;
        let queues = engine.queues(600, 7).await;
        let ledger = DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await);
        let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
        let consumer = Consumer::new(router(env).unwrap(), ledger, sqs, 7, || 0.5);
        Self { engine, queues, consumer, invocations: 0 }
    }

    /// One delivery of a message, as if a minute had passed since the last.
    async fn deliver(&mut self, id: &str, body: String, now: Timestamp) -> BatchReport {
        self.deliver_record(record("sqs-1", id, body), now).await
    }

    async fn deliver_record(&mut self, record: SqsMessage, now: Timestamp) -> BatchReport {
        self.invocations += 1;
        let invocation = Invocation::new(self.invocations.to_string(), now, Duration::from_secs(20));
        self.consumer.consume(&batch(vec![record]), &invocation).await
    }

    /// The messages that the consumer has put on the queue, as deliveries.
    async fn queued(&self) -> Vec<SqsMessage> {
        let messages = drain(&self.engine, &self.queues.url).await;
        messages.iter().map(|message| delivery(message, 3)).collect()
    }
}

#[tokio::test]
async fn all_of_five_hundred_notifications_arrive_and_none_that_was_recorded_goes_out_again() {
    let endpoint = Endpoint::start(|| match fastrand::u8(..20) {
        0 | 1 => Fate::Answered(429),
        2 | 3 => Fate::Answered(500),
        4 => Fate::TakenAndLost,
        _ => Fate::Taken,
    });
    let mut stand = Stand::start(&endpoint.env()).await;
    let body = sent(NOTIFICATIONS, now());
    let mut printed = Vec::new();
    let whole = stand.deliver("msg_many", body.clone(), now()).await;
    assert_eq!(whole.records[0].outcome, Outcome::Processed, "{whole:?}");
    let mut waiting = VecDeque::from(stand.queued().await);
    assert_eq!(waiting.len(), NOTIFICATIONS.div_ceil(LONGEST_PART));
    while let Some(part) = waiting.pop_front() {
        let report = stand.deliver_record(part.clone(), now()).await;
        printed.push(format!("{report:?}"));
        match report.records[0].outcome {
            Outcome::Processed => {}
            outcome => {
                assert_eq!((outcome, printed.len() < 500), (Outcome::Retry, true), "{report:?}");
                waiting.push_back(part);
            }
        }
    }

    let again = stand.deliver("msg_many", body, now()).await;
    assert_eq!(again.records[0].outcome, Outcome::Duplicate);
    let state = endpoint.state();
    assert_eq!((&state.problems, state.failed > 0), (&vec![], true));
    assert_eq!(state.taken.iter().cloned().collect::<BTreeSet<_>>(), ids("msg_many"));
    let count = |ids: &[String]| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for id in ids {
            *counts.entry(id.clone()).or_default() += 1;
        }
        counts
    };
    let lost = count(&state.lost);
    for (id, times) in count(&state.taken) {
        let lost = lost.get(&id).copied().unwrap_or_default();
        assert_eq!(times, lost + 1, "{id} came again only where its answer was lost");
    }
    let printed = printed.concat();
    assert!(PERSONAL.iter().all(|personal| !printed.contains(personal)), "{printed}");
}

#[tokio::test]
async fn an_event_that_is_too_old_is_recorded_and_not_sent() {
    let endpoint = Endpoint::start(|| Fate::Taken);
    let variables = [
        ("LEARNINK_PUSH_URL", &*endpoint.url),
        ("LEARNINK_PUSH_SECRET", SECRET),
        ("LEARNINK_PUSH_MAX_AGE", "2"),
    ];
    let mut stand = Stand::start(&env(&variables)).await;
    let hour = jiff::SignedDuration::from_hours(1);
    let old = stand.deliver("msg_old", sent(1, now() - hour * 3), now()).await;
    let handler = &old.records[0].handlers[0];
    assert_eq!((old.records[0].outcome, &handler.ended), (Outcome::Processed, &Ended::TooLate));
    assert!(endpoint.taken().is_empty());
    let young = stand.deliver("msg_young", sent(1, now() - hour), now()).await;
    assert_eq!(young.records[0].outcome, Outcome::Processed);
    assert_eq!(endpoint.taken(), ["msg_young/push/0"]);
}

#[tokio::test]
async fn a_secret_in_secrets_manager_is_kept_replaced_and_outlives_an_outage() {
    let aws = FakeAws::start().await;
    let endpoint = Endpoint::start(|| Fate::Taken);
    let variables = [("LEARNINK_PUSH_URL", &*endpoint.url), ("LEARNINK_PUSH_SECRET_ID", "learnink/push")];
    let reached = aws.sdk_config();
    let mut stand = Stand::start(&env(&variables).with_aws(move || Ok(reached.clone()))).await;
    let mut number = 0;
    let mut deliver = async |now: Timestamp| {
        number += 1;
        let report = stand.deliver(&format!("msg_{number}"), sent(1, now), now).await;
        let failure = report.records[0].failure.as_ref().map(|failure| failure.reason.clone());
        (report.records[0].outcome, failure.unwrap_or_default())
    };
    let done = (Outcome::Processed, String::new());
    assert_eq!(aws.calls("GetSecretValue"), 0, "not before it is needed");
    let none = "cannot read the secret that LEARNINK_PUSH_SECRET_ID names: AWS does not know the queue, table or secret \
                (ResourceNotFoundException); check its name, the account and the region";
    assert_eq!(deliver(now()).await, (Outcome::Retry, none.to_owned()));

    aws.set_secret("AWSCURRENT", SECRET);
    // The endpoint accepts signatures that are five minutes off.
    let start = now() - Duration::from_secs(200);
    let at = |second| start + Duration::from_secs(second);
    assert_eq!(deliver(at(0)).await, done);
    assert_eq!(deliver(at(299)).await, done);
    assert_eq!(aws.calls("GetSecretValue"), 2, "it is kept for five minutes");
    // Too old while Secrets Manager refuses: the held secret stays, and the next attempt waits.
    aws.decide(|_| AwsFate::Failed(400, "AccessDeniedException"));
    assert_eq!(deliver(at(300)).await, done);
    assert_eq!(deliver(at(329)).await, done);
    assert_eq!(aws.calls("GetSecretValue"), 3);

    // The endpoint has rotated its secret: an attempt uses the new one from half a minute after the last
    // reading.
    aws.decide(|_| AwsFate::Answered);
    aws.set_secret("AWSCURRENT", OTHER_SECRET);
    endpoint.state().secret = OTHER_SECRET;
    let (outcome, reason) = deliver(at(329)).await;
    assert_eq!(outcome, Outcome::Retry);
    assert!(reason.contains("the endpoint answered 401; check LEARNINK_PUSH_SECRET"), "{reason}");
    assert_eq!(deliver(at(365)).await, done);
}

/// A running `learnink dev`, and all its output.
struct Dev {
    process: Child,
    output: Arc<Mutex<String>>,
}

impl Dev {
    fn start(folder: &Path, endpoint: &Endpoint) -> Self {
        let output: Arc<Mutex<String>> = Arc::default();
        let mut process = learnink()
            .args(["dev", "--port", "0", "--console-port", "0", "--state"])
            .arg(folder)
            .env("LEARNINK_PUSH", "endpoint")
            .env("LEARNINK_PUSH_URL", &endpoint.url)
            .env("LEARNINK_PUSH_SECRET", SECRET)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for stream in streams {
            let output = output.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let mut output = output.lock().unwrap();
                    output.push_str(&line);
                    output.push('\n');
                }
            });
        }
        Self { process, output }
    }

    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The address that webhooks are posted to, once it is printed.
    fn url(&self) -> String {
        loop {
            let output = self.output();
            let line = output.lines().find(|line| line.trim_start().starts_with("endpoint"));
            if let Some(line) = line {
                return line.split_whitespace().nth(1).unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it with SIGKILL, and returns all its output.
    fn kill(mut self) -> String {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.output()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Fails if the test has ended it already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn learnink() -> Command {
    let mut command = Command::new(binary("learnink"));
    command.current_dir(root()).stdin(Stdio::null());
    for variable in ["LEARNINK_SIGNING_SECRET", "LEARNINK_STATE", "LEARNINK_URL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// The ids of the notifications that are sent according to the ledger in `folder`.
fn recorded(folder: &Path, message: &str) -> BTreeSet<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tables = LocalDynamoDb::start(Some(&state::database_file(folder))).await.unwrap();
        let ledger = DynamoDbLedger::new(&sdk_config(tables.endpoint()), LEDGER_TABLE.name);
        let id = MessageId::parse(message).unwrap();
        let mut recorded = BTreeSet::new();
        for part in Part::all_of("push", NOTIFICATIONS, LONGEST_PART, false) {
            let entry = ledger.entry(EntryId::of_part(&id, &part)).await.unwrap();
            let done = entry.map(|entry| entry.done).unwrap_or_default();
            let items = part.range().clone().map(|item| format!("push/{item}"));
            let is_done = |key: &String| done.contains("push") || done.contains(key);
            recorded.extend(items.filter(is_done).map(|key| format!("{message}/{key}")));
        }
        recorded
    })
}

#[test]
fn a_killed_dev_sends_the_rest_of_five_hundred_notifications_and_none_again_that_it_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let payload = folder.path().join("five-hundred.json");
    std::fs::write(&payload, sent(NOTIFICATIONS, now())).unwrap();
    let state = folder.path().join("state");
    let endpoint = Endpoint::start(fails_one_in(12));
    // Slow enough for a kill in the middle.
    endpoint.state().delay = Duration::from_millis(20);

    let mut dev = Dev::start(&state, &endpoint);
    // From here on: the first start may have to build the program. Half a minute is usual, for the lease of the
    // killed process; the rest is for a machine that is busy.
    let deadline = Instant::now() + Duration::from_mins(2);
    let mut send = learnink();
    let arguments = ["send", "--id", "msg_many", "--url", &dev.url(), "--state"];
    let posted = send.args(arguments).arg(&state).arg(&payload).output().unwrap();
    assert!(posted.status.success(), "{}", String::from_utf8_lossy(&posted.stderr));

    let mut output = String::from_utf8_lossy(&posted.stdout).into_owned();
    let mut kills_in_the_middle = 0;
    let mut may_come_again = BTreeSet::new();
    let mut last_taken = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let taken = endpoint.taken();
        assert!(Instant::now() < deadline, "{} were taken\n{output}{}", taken.len(), dev.output());
        if taken.iter().collect::<BTreeSet<_>>().len() == NOTIFICATIONS {
            break;
        }
        if taken.len() != last_taken.0 {
            last_taken = (taken.len(), Instant::now());
        }
        let printed = dev.output();
        let is_in_the_middle = kills_in_the_middle == 0 && taken.len() > 150;
        // The next start cuts a wait of minutes short, because it delivers the messages anew.
        let waits = last_taken.1.elapsed() > Duration::from_millis(500)
            && printed.lines().any(|line| line.contains("items failed"));
        if is_in_the_middle || waits {
            output.push_str(&dev.kill());
            kills_in_the_middle += usize::from(is_in_the_middle);
            let recorded = recorded(&state, "msg_many");
            let taken = endpoint.taken();
            let before = may_come_again.len();
            may_come_again.extend(taken.into_iter().filter(|id| !recorded.contains(id)));
            // In flight, and finished but not yet in the ledger.
            let most = 16 * AT_ONCE;
            assert!(may_come_again.len() - before <= most, "{may_come_again:?}");
            dev = Dev::start(&state, &endpoint);
        }
    }
    output.push_str(&dev.kill());

    let state = endpoint.state();
    assert_eq!((&state.problems, state.failed > 0, kills_in_the_middle), (&vec![], true, 1));
    let mut seen = BTreeSet::new();
    let again: BTreeSet<_> = state.taken.iter().filter(|id| !seen.insert((*id).clone())).cloned().collect();
    assert_eq!(seen, ids("msg_many"));
    assert!(again.is_subset(&may_come_again), "{again:?} came again, {may_come_again:?} was not recorded");
    assert_eq!(state.taken.len(), NOTIFICATIONS + again.len());
    assert!(PERSONAL.iter().all(|personal| !output.contains(personal)), "{output}");
}
