//! `learnink replay run`, as an operator types it: what was answered 200 is handled again.

use std::collections::{BTreeSet, HashMap};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::archive::{self, Archive, Selection};
use learnink_connectors::unknown;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, SqsQueues};
use learnink_local::EventSource;
use learnink_local::pipeline::LEARNERS_TABLE;
use learnink_tests::engine::{Engine, QueuePair, ministack_endpoint};
use learnink_tests::fake_firehose::{FakeFirehose, StreamFate, file_name};
use learnink_tests::signing::{self, OTHER_SECRET, SECRET, now_s};
use learnink_webhook::{Event, HandlerError, HandlerResult, Message, MessageId, Router};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::archive::on_stream;
use crate::command::{Dev, PATIENCE, create_stack, in_aws, in_aws_cli, learnink, text};
use crate::records::{events, patience};

/// In the body of every message, and in no output.
const PERSONAL: [&str; 2] = ["254705408079", "Mary"];

/// A handler, and how often it ran for each key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    /// Why it fails; empty if it does not.
    failure: Arc<Mutex<String>>,
    /// Whether it does what it should.
    is_right: Arc<AtomicBool>,
    /// How often each key was asked for.
    keys: Arc<Mutex<HashMap<String, u32>>>,
    /// The messages for which it did the right thing.
    right: Arc<Mutex<BTreeSet<String>>>,
}

impl Runs {
    /// Fails for good from now on, until it is repaired.
    pub(crate) fn fail(&self, reason: &str) {
        reason.clone_into(&mut self.failure.lock().unwrap());
    }

    pub(crate) fn repair(&self) {
        self.failure.lock().unwrap().clear();
        self.is_right.store(true, Ordering::SeqCst);
    }

    fn keys(&self) -> HashMap<String, u32> {
        self.keys.lock().unwrap().clone()
    }

    pub(crate) fn right(&self) -> usize {
        self.right.lock().unwrap().len()
    }
}

/// It answers that all is well, right or wrong.
async fn run(event: Event, runs: Runs) -> HandlerResult {
    *runs.keys.lock().unwrap().entry(event.key.to_string()).or_default() += 1;
    let failure = runs.failure.lock().unwrap().clone();
    if !failure.is_empty() {
        return Err(HandlerError::permanent(failure));
    }
    if runs.is_right.load(Ordering::SeqCst) {
        runs.right.lock().unwrap().insert(event.id().to_string());
    }
    Ok(())
}

/// A stack on ministack with its archive in S3, and a consumer.
pub(crate) struct Stand {
    engine: Engine,
    queues: QueuePair,
    tables: [String; 3],
    stack: String,
    archive: Archive,
    env: Env,
    pub(crate) progress: Runs,
    pub(crate) bus: Runs,
    pollers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// What the consumer of a stand does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handlers {
    /// The two handlers take every webhook.
    All,
    /// No handler takes the events.
    None,
}

fn body(number: u32, event_type: &str) -> String {
    json!({
        "type": event_type, "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z", "n": number,
        "data": { "user_id": "le2bB6", "phone_number": "+254705408079", "title": "Hi Mary!" },
    })
    .to_string()
}

impl Stand {
    pub(crate) async fn start(name: &str) -> Self {
        learnink_aws::install_tls_provider();
        let engine = Engine::ministack().await;
        let queues = engine.queues(30, 7).await;
        let tables = [
            engine.table("message_id", None).await,
            engine.table("message_id", None).await,
            engine.table(LEARNERS_TABLE.hash_key, LEARNERS_TABLE.range_key).await,
        ];
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let bucket = format!("{}/{name}", ministack_endpoint());
        assert!(http.put(bucket).send().await.unwrap().status().is_success());
        let url = format!("s3://{name}/events");
        let secret = format!("{name}/signing_secret");
        let mut create = in_aws_cli(&["secretsmanager", "create-secret", "--name", &secret]);
        let created = create.args(["--secret-string", SECRET]).output().unwrap();
        assert!(created.status.success(), "{}", text(&created.stderr));
        let outputs = [
            ("QueueUrl", &queues.url),
            ("DeadLetterQueueUrl", &queues.dead_letter_url),
            ("LedgerTableName", &tables[0]),
            ("UnknownEventsTableName", &tables[1]),
            ("LearnersTableName", &tables[2]),
            ("SigningSecretName", &secret),
            ("ArchiveUrl", &url),
        ];
        create_stack(name, &outputs);
        let env = Env::of([
            ("LEARNINK_ARCHIVE", &*url),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", &*tables[1]),
            ("AWS_REGION", learnink_local::REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", ministack_endpoint()),
        ]);
        let env = env.with_tables(engine.dynamodb.clone());
        let archive = Archive::open(&url, &env).unwrap();
        Self {
            engine,
            queues,
            tables,
            stack: name.to_owned(),
            archive,
            env,
            progress: Runs::default(),
            bus: Runs::default(),
            pollers: JoinSet::new(),
            stop: watch::channel(false).0,
        }
    }

    /// Starts two consumers with these handlers, in place of those before.
    pub(crate) async fn deploy(&mut self, handlers: Handlers) {
        self.stop.send_replace(true);
        while self.pollers.join_next().await.is_some() {}
        self.stop = watch::channel(false).0;
        for _ in 0..2 {
            let own = Router::new()
                .on_any_webhook("progress", run)
                .with_state(self.progress.clone())
                .merge(Router::new().on_any_webhook("bus", run).with_state(self.bus.clone()));
            let own = if handlers == Handlers::All { own } else { Router::new() };
            let router =
                own.merge(archive::router(&self.env).unwrap()).merge(unknown::router(&self.env).unwrap());
            let sqs = SqsQueues::new(&self.engine.sqs, &self.queues.url, &self.queues.dead_letter_url);
            let consumer = Consumer::new(router, self.ledger(), sqs, 7, || 0.0);
            let source = EventSource::new(self.engine.sqs_client(), &self.queues.url);
            let stopped = self.stop.subscribe();
            self.pollers.spawn(async move {
                let invoke = async |batch: SqsEvent| {
                    let id = fastrand::u64(..).to_string();
                    let now = Timestamp::from_second(now_s()).unwrap();
                    let invocation = Invocation::new(id, now, Duration::from_secs(20));
                    let report = consumer.consume(&batch, &invocation).await;
                    report.response().ok().and_then(|response| serde_json::to_value(response).ok())
                };
                while !*stopped.borrow() {
                    if source.poll(1, &invoke).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            });
        }
    }

    fn ledger(&self) -> DynamoDbLedger {
        DynamoDbLedger::new(&self.engine.dynamodb, &self.tables[0])
    }

    /// Queues a message as a receiver does that has verified it.
    async fn receive(&self, number: u32, event_type: &str, secret: &str) {
        self.queue(&format!("msg_{number}"), body(number, event_type), secret).await;
    }

    /// Queues a webhook that need not be an event.
    pub(crate) async fn receive_bytes(&self, id: &str, body: &str) {
        self.queue(id, body.to_owned(), SECRET).await;
    }

    async fn queue(&self, id: &str, body: String, secret: &str) {
        let signed_at_s = now_s();
        let [_, _, (_, signature)] = signing::headers(secret, id, signed_at_s, body.as_bytes());
        let message = Message {
            id: MessageId::parse(id).unwrap(),
            signed_at_s,
            signature,
            received_at: Timestamp::from_second(signed_at_s).unwrap(),
            event_type: None,
            body: body.into_bytes(),
            part: None,
            window: None,
        };
        let encoded = message.encode().unwrap();
        let client = self.engine.sqs_client();
        let mut request = client.send_message().queue_url(&self.queues.url).message_body(encoded.body);
        for own in encoded.attributes {
            let value = MessageAttributeValue::builder().data_type(own.data_type).string_value(own.value);
            request = request.message_attributes(own.name, value.build().unwrap());
        }
        request.send().await.unwrap();
    }

    pub(crate) async fn receive_all(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.receive(number, "example.type", SECRET).await;
        }
    }

    pub(crate) async fn wait_for(&self, what: &str, is_there: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + patience(PATIENCE);
        while !is_there().await {
            assert!(Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until so many messages are done, as the ledger says, and nothing is left on the queue.
    pub(crate) async fn wait_until_handled(&self, numbers: std::ops::Range<u32>) {
        let ledger = self.ledger();
        self.wait_for("the ledger", async || {
            for number in numbers.clone() {
                let id = MessageId::parse(&format!("msg_{number}")).unwrap();
                let entry = ledger.entry(&id).await.unwrap();
                if entry.is_none_or(|entry| entry.lease.is_some() || entry.done.is_empty()) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// How many dead letters there are.
    pub(crate) async fn letters(&self) -> usize {
        let client = self.engine.sqs_client();
        aws_messages(&client, &self.queues.dead_letter_url).await
    }

    /// The ledger's keys of a message.
    async fn done(&self, number: u32) -> BTreeSet<String> {
        let id = MessageId::parse(&format!("msg_{number}")).unwrap();
        self.ledger().entry(&id).await.unwrap().unwrap().done
    }

    fn command(&self, arguments: &[&str]) -> Command {
        in_aws(&[arguments, &["--stack", &self.stack]].concat())
    }

    /// What a command prints, which is nothing personal, and its exit code.
    async fn said(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        said(&output)
    }

    /// `replay run` with these options.
    async fn run(&self, options: &[&str]) -> (String, Option<i32>) {
        let run = ["replay", "run", "--reason", "a bug is fixed", "--by", "kim", "--rate", "500"];
        self.said(&[&run, options].concat()).await
    }

    /// The stream writes what it took, today.
    async fn deliver(&self, firehose: &FakeFirehose) {
        let today = Timestamp::from_second(now_s()).unwrap().strftime("%Y/%m/%d").to_string();
        let (stack, name) = (&self.stack, file_name(&today, firehose.taken().len()));
        let url = format!("{}/{stack}/events/{name}", ministack_endpoint());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let put = http.put(url).body(firehose.deliver().unwrap()).send().await.unwrap();
        assert!(put.status().is_success());
    }

    /// The names of the records in the archive.
    async fn records(&self) -> Vec<String> {
        let listed = self.archive.list(&Selection::default()).await.unwrap();
        listed.records.iter().map(ToString::to_string).collect()
    }
}

/// How many messages a queue has, visible or not.
async fn aws_messages(client: &aws_sdk_sqs::Client, url: &str) -> usize {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let request = client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec()));
    let counts = request.send().await.unwrap().attributes.unwrap();
    names.iter().map(|name| counts[name].parse::<usize>().unwrap()).sum()
}

/// What was printed, which is nothing personal, and the exit code.
pub(crate) fn said(output: &Output) -> (String, Option<i32>) {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    for personal in PERSONAL {
        assert!(!said.contains(personal), "{said}");
    }
    (said, output.status.code())
}

const ALL: [&str; 4] = ["--from", "archive", "--since", "1h ago"];

#[tokio::test]
async fn what_a_handler_did_wrong_is_repaired_from_the_archive_once_and_no_other_handler_runs() {
    let mut stand = Stand::start("replay-archive").await;
    let all = events(60);
    let (all_of_them, twice) = (all as usize, 2 * all as usize);
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..all).await;
    stand.wait_until_handled(0..all).await;
    assert_eq!((stand.progress.right(), stand.progress.keys().len()), (0, all_of_them));
    let (records, bus) = (stand.records().await, stand.bus.keys());

    stand.progress.repair();
    let options = [&ALL[..], &["--handler", "progress", "--yes"]].concat();
    let (plan, code) = stand.run(&[&ALL[..], &["--handler", "progress", "--dry-run"]].concat()).await;
    assert!(
        plan.contains(&format!("{all} messages in the archive are to be sent; progress will run")),
        "{plan}"
    );
    assert!(plan.contains("dry run: nothing was sent") && code == Some(0), "{plan}");
    assert_eq!(stand.progress.keys().len(), all_of_them);

    let (said, code) = stand.run(&options).await;
    assert!(
        said.contains("is done")
            && said.contains(&format!("{all} of {all} messages sent under the replay window ")),
        "{said}"
    );
    assert_eq!(code, Some(0), "{said}");
    stand.wait_for("the handler", async || stand.progress.right() == all as usize).await;
    stand.wait_until_handled(0..all).await;
    let keys = stand.progress.keys();
    assert_eq!(keys.len(), twice, "each ran once more, under a key of its own");
    assert!(keys.values().all(|times| *times == 1), "{keys:?}");
    assert_eq!(stand.bus.keys(), bus, "the other handler did not run");
    assert_eq!(stand.records().await, records, "the archive keeps no second record");
    let done = stand.done(7).await;
    assert!(!done.iter().any(|key| key.starts_with("archive@") || key.starts_with("bus@")), "{done:?}");

    let (again, code) = stand.run(&options).await;
    assert!(again.contains("going on with the run of "), "{again}");
    assert!(again.contains(&format!("{all} messages are done under the replay window ")), "{again}");
    assert!(again.contains("all that was asked for in the archive is done under"), "{again}");
    assert_eq!((code, stand.progress.keys().len()), (Some(0), twice));

    let (acts, _) = stand.said(&["acts"]).await;
    assert!(acts.contains("replay run") && acts.contains("a bug is fixed"), "{acts}");
    let (windows, _) = stand.said(&["replay", "list"]).await;
    assert!(windows.contains("what `replay run --from archive --since '1h ago'` sends"), "{windows}");

    // Another run is another window.
    let (new, _) = stand.run(&[&options[..], &["--new", "--limit", "5"]].concat()).await;
    assert!(new.contains("5 of 5 messages sent"), "{new}");
    stand.wait_for("the handler", async || stand.progress.keys().len() == twice + 5).await;
}

/// The archive of a stack that was switched from objects to a stream.
#[tokio::test]
async fn what_a_stream_keeps_is_handled_again_once_with_what_objects_keep() {
    let mut stand = Stand::start("replay-stream").await;
    let firehose = FakeFirehose::start().await;
    firehose.decide(|| StreamFate::TakenTwice);
    let all = events(60);
    let third = all / 3;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..third).await;
    stand.wait_until_handled(0..third).await;
    stand.env = on_stream(&stand.env, &firehose);
    stand.deploy(Handlers::All).await;
    stand.receive_all(third..2 * third).await;
    stand.wait_until_handled(third..2 * third).await;
    stand.deliver(&firehose).await;
    stand.receive_all(2 * third..all).await;
    stand.wait_until_handled(2 * third..all).await;
    assert_eq!(stand.records().await.len(), third as usize);

    stand.progress.repair();
    let options = [&ALL[..], &["--handler", "progress", "--yes"]].concat();
    let (said, code) = stand.run(&options).await;
    assert!(
        said.contains("the archive is a stream: records of the last half hour may not be there yet"),
        "{said}"
    );
    let sent = 2 * third;
    assert!(said.contains(&format!("{sent} of {sent} messages sent under the replay window ")), "{said}");
    assert_eq!(code, Some(0), "{said}");
    // The last third is written now, and the same command goes on with it.
    stand.deliver(&firehose).await;
    let (said, code) = stand.run(&options).await;
    assert!(said.contains(&format!("{sent} messages are done under the replay window ")), "{said}");
    let left = all - sent;
    assert!(said.contains(&format!("{left} of {left} messages sent under the replay window ")), "{said}");
    assert_eq!(code, Some(0), "{said}");
    stand.wait_for("the handler", async || stand.progress.right() == all as usize).await;
    stand.wait_until_handled(0..all).await;
    let keys = stand.progress.keys();
    assert!(keys.len() == 2 * all as usize && keys.values().all(|times| *times == 1), "{keys:?}");
}

#[tokio::test]
async fn a_run_that_was_killed_goes_on_and_runs_each_handler_once() {
    let mut stand = Stand::start("replay-killed").await;
    let all = events(60);
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..all).await;
    stand.wait_until_handled(0..all).await;
    stand.progress.repair();
    let run =
        ["replay", "run", "--reason", "r", "--by", "kim", "--rate", "30", "--yes", "--handler", "progress"];
    let run = [&run[..], &ALL].concat();
    let mut killed = stand.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    stand.wait_for("some messages", async || stand.progress.right() > 10).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (said, code) = stand.said(&run).await;
    assert!(
        said.contains("going on with the run of ") && said.contains("are done under the replay window"),
        "{said}"
    );
    assert_eq!(code, Some(0), "{said}");
    stand.wait_for("the handler", async || stand.progress.right() == all as usize).await;
    stand.wait_until_handled(0..all).await;
    let keys = stand.progress.keys();
    assert!(keys.len() == 2 * all as usize && keys.values().all(|times| *times == 1), "{keys:?}");
    // The act of the killed one has no end.
    let (acts, _) = stand.said(&["acts"]).await;
    assert!(acts.contains("no end: it is running, or was killed"), "{acts}");
}

#[tokio::test]
async fn events_without_a_handler_are_handled_from_their_table_once_there_is_one() {
    let mut stand = Stand::start("replay-unknown").await;
    let all = events(40);
    let all_of_them = all as usize;
    stand.deploy(Handlers::None).await;
    stand.receive_all(0..all).await;
    stand.wait_until_handled(0..all).await;
    let records = stand.records().await;
    let unknown = ["--from", "unknown", "--since", "1h ago", "--yes"];
    stand.progress.repair();
    stand.bus.repair();
    stand.deploy(Handlers::All).await;
    let (said, code) = stand.run(&unknown).await;
    assert!(
        said.contains(&format!("{all} messages in the table of unknown events are to be sent")),
        "{said}"
    );
    assert!(said.contains("handlers that are not done will run") && code == Some(0), "{said}");
    stand
        .wait_for("the handlers", async || {
            stand.progress.right() == all_of_them && stand.bus.right() == all_of_them
        })
        .await;
    stand.wait_until_handled(0..all).await;
    for runs in [&stand.progress, &stand.bus] {
        let keys = runs.keys();
        assert!(keys.len() == all_of_them && keys.values().all(|times| *times == 1), "{keys:?}");
        assert!(keys.contains_key("msg_7/progress") || keys.contains_key("msg_7/bus"), "{keys:?}");
    }
    assert_eq!(stand.records().await, records);
    let (again, code) = stand.run(&unknown).await;
    assert!(again.contains("all that was asked for in the table of unknown events is done"), "{again}");
    assert_eq!((code, stand.progress.keys().len()), (Some(0), all_of_them));
}

#[tokio::test]
async fn what_the_ledger_has_forgotten_runs_only_what_is_asked_for() {
    let mut stand = Stand::start("replay-forgotten").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..3).await;
    stand.wait_until_handled(0..3).await;
    // Another table stands for one whose entries have expired.
    stand.tables[0] = stand.engine.table("message_id", None).await;
    let outputs = [
        ("QueueUrl", &stand.queues.url),
        ("DeadLetterQueueUrl", &stand.queues.dead_letter_url),
        ("LedgerTableName", &stand.tables[0]),
    ];
    let secret = "replay-forgotten/signing_secret".to_owned();
    let url = "s3://replay-forgotten/events".to_owned();
    let outputs = [&outputs[..], &[("SigningSecretName", &secret), ("ArchiveUrl", &url)]].concat();
    stand.stack = "replay-forgotten-2".to_owned();
    create_stack(&stand.stack, &outputs);
    stand.deploy(Handlers::All).await;
    stand.progress.repair();
    let (said, code) = stand.run(&[&ALL[..], &["--handler", "progress", "--yes"]].concat()).await;
    assert!(said.contains("3 of 3 messages sent") && code == Some(0), "{said}");
    stand.wait_for("the handler", async || stand.progress.right() == 3).await;
    stand.wait_until_handled(0..3).await;
    assert!(stand.bus.keys().values().all(|times| *times == 1), "{:?}", stand.bus.keys());
}

#[tokio::test]
async fn only_what_is_proven_is_sent_and_the_rest_is_named() {
    let mut stand = Stand::start("replay-proof").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..2).await;
    stand.receive(2, "example.type", OTHER_SECRET).await;
    stand.receive(3, "other.type", SECRET).await;
    stand.wait_until_handled(0..4).await;
    // A record that somebody has damaged, and an object that is none.
    let damaged = stand.records().await.into_iter().find(|name| name.ends_with("msg_1.json.gz")).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (name, bytes) in [(&*damaged, "damaged"), ("example.type/read-me.txt", "read me")] {
        let url = format!("{}/replay-proof/events/{name}", ministack_endpoint());
        assert!(http.put(url).body(bytes).send().await.unwrap().status().is_success());
    }
    let (said, code) = stand.run(&[&ALL[..], &["--type", "example.type", "--dry-run"]].concat()).await;
    assert!(said.contains("1 message in the archive is to be sent; all handlers will run"), "{said}");
    assert!(said.contains("msg_2.json.gz: no signature matches"), "{said}");
    assert!(said.contains("1 message is left out: no secret proves it"), "{said}");
    assert!(said.contains(&format!("left out: {damaged}: ")), "{said}");
    assert!(said.contains("1 message is left out: it cannot be read"), "{said}");
    assert_eq!(code, Some(1), "{said}");
    let unproven = [&ALL[..], &["--type", "example.type", "--dry-run", "--unproven"]].concat();
    assert!(stand.run(&unproven).await.0.contains("2 messages in the archive are to be sent"));
    // With the secret of its time, which comes from standard input, the other one is proven as well.
    let mut command = stand.command(&["replay", "run", "--reason", "r", "--secret-file", "-", "--dry-run"]);
    command.args(ALL).args(["--type", "example.type"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), OTHER_SECRET.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(said_by(&output).contains("2 messages in the archive are to be sent"), "{}", said_by(&output));
}

fn said_by(output: &Output) -> String {
    said(output).0
}

#[tokio::test]
async fn a_first_try_that_does_not_end_stops_the_run_and_the_rest_is_not_sent() {
    let mut stand = Stand::start("replay-stopped").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..5).await;
    stand.wait_until_handled(0..5).await;
    // No consumer runs any more.
    stand.stop.send_replace(true);
    while stand.pollers.join_next().await.is_some() {}
    let (said, code) = stand.run(&[&ALL[..], &["--yes", "--wait", "2"]].concat()).await;
    assert!(said.contains("did not end within 2 s: no consumer has claimed it"), "{said}");
    assert!(said.contains("1 of 5 messages sent") && said.contains("4 messages are left"), "{said}");
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn without_a_terminal_nothing_is_sent_unless_yes_is_said() {
    let mut stand = Stand::start("replay-terminal").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..2).await;
    stand.wait_until_handled(0..2).await;
    let (said, code) = stand.run(&ALL).await;
    assert!(said.contains("there is no terminal to ask on; nothing was done"), "{said}");
    assert_eq!((code, stand.progress.keys().len()), (Some(2), 2));
    let (list, _) = stand.said(&["replay", "list"]).await;
    assert!(list.contains("no replay window is open"), "{list}");
    let (none, code) =
        stand.run(&["--from", "archive", "--since", "2020-01-01", "--until", "2020-01-02"]).await;
    assert!(none.contains("nothing in the archive is to be sent") && code == Some(0), "{none}");
}

#[test]
fn what_keeps_a_run_from_starting_is_one_clear_line() {
    let error = |arguments: &[&str]| {
        let output = learnink(&[&["replay", "run", "--reason", "r"], arguments].concat()).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        text(&output.stderr)
    };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    for (arguments, expected) in [
        (&["--from", "archive"][..], "--since <TIME>"),
        (&["--from", "somewhere", "--since", "1h ago"], "[possible values: archive, unknown]"),
        (&["--from", "archive", "--since", "yesterday"], "expected a time such as"),
        (&["--from", "archive", "--since", "1h ago", "--handler", "pus"], "no handler is named `pus`"),
        (&["--from", "archive", "--since", "1h ago", "--state", state], "there is no signing secret in "),
    ] {
        let said = error(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn on_a_laptop_a_run_goes_through_the_pipeline_of_dev() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    let archive = archive.to_str().unwrap();
    let state = folder.path().join("state");
    let dev = Dev::start_with(&state, &[("LEARNINK_ARCHIVE", archive)]);
    assert!(dev.send(&["--count", "12"]).status.success());
    assert!(dev.send(&["events/example.unknown.json", "--id", "msg_unknown"]).status.success());
    dev.line_with("msg_unknown");
    let run = |options: &[&str]| {
        let run = ["replay", "run", "--since", "1h ago", "--reason", "r", "--by", "kim", "--yes"];
        let mut command = learnink(&[&run, options, &["--state", &dev.folder]].concat());
        said(&command.env("LEARNINK_ARCHIVE", archive).output().unwrap())
    };
    let (said, code) = run(&["--from", "archive", "--handler", "progress", "--type", "user.course.started"]);
    assert!(said.contains(" messages sent under the replay window ") && code == Some(0), "{said}");
    let (said, code) = run(&["--from", "unknown"]);
    // There is still no handler for it.
    assert!(said.contains("no handler ran for msg_unknown") && code == Some(1), "{said}");
    let acts: Vec<Value> = dev.json("acts");
    let outcomes: Vec<_> = acts.iter().map(|act| act["outcome"].as_str().unwrap()).collect();
    assert!(outcomes[0] == "done" && outcomes[1].starts_with("stopped, because no handler ran"), "{acts:?}");
    assert!(acts.iter().all(|act| act["action"] == "replay run"), "{acts:?}");
}

#[tokio::test]
async fn everything_that_is_known_of_a_message_is_shown_without_what_it_carries() {
    let mut stand = Stand::start("show-a-message").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..1).await;
    stand.wait_until_handled(0..1).await;
    let (shown, code) = stand.said(&["show", "msg_0"]).await;
    assert!(shown.contains("state           it is done"), "{shown}");
    assert!(shown.contains("done            archive, bus, progress, unknown"), "{shown}");
    assert!(shown.contains("type            example.type"), "{shown}");
    assert!(shown.contains("  the receiver accepted it; no handler took it, and it was kept"), "{shown}");
    assert_eq!(code, Some(0), "{shown}");
    let (run, _) =
        stand.run(&["--from", "archive", "--message", "msg_0", "--handler", "progress", "--yes"]).await;
    assert!(run.contains("1 of 1 message sent"), "{run}");
    let (shown, _) = stand.said(&["show", "msg_0"]).await;
    assert!(shown.contains("done again      progress@"), "{shown}");

    stand.bus.fail("the event bus does not exist");
    stand.receive_all(1..2).await;
    stand.wait_for("the letter", async || stand.letters().await == 1).await;
    let (shown, _) = stand.said(&["show", "msg_1"]).await;
    assert!(shown.contains("state           it is on the dead-letter queue"), "{shown}");
    assert!(shown.contains("it became a dead letter: bus: the event bus does not exist"), "{shown}");
    assert!(shown.contains("dlq redrive msg_1 --stack show-a-message"), "{shown}");
    let (none, code) = stand.said(&["show", "msg_9"]).await;
    assert!(none.contains("nothing is known of msg_9 in the ledger ") && code == Some(1), "{none}");
}

#[tokio::test]
async fn two_operators_at_once_run_each_handler_once() {
    let mut stand = Stand::start("replay-operators").await;
    stand.deploy(Handlers::All).await;
    stand.receive_all(0..20).await;
    stand.wait_until_handled(0..20).await;
    stand.progress.repair();
    let options = [&ALL[..], &["--handler", "progress", "--yes"]].concat();
    let ((one, _), (two, _)) = tokio::join!(stand.run(&options), stand.run(&options));
    for said in [&one, &two] {
        let gave_way =
            said.contains("has just opened the replay window ") && said.contains("nothing was sent");
        assert!(gave_way || said.contains("messages sent under the replay window"), "{said}");
    }
    stand
        .wait_for("the handler", async || {
            let (said, code) = stand.run(&options).await;
            assert!(code == Some(0) || said.contains("has just opened"), "{said}");
            said.contains("all that was asked for in the archive is done")
        })
        .await;
    let keys = stand.progress.keys();
    assert!(keys.len() == 40 && keys.values().all(|times| *times == 1), "{one}{two}{keys:?}");
    // A window of another run is said to overlap.
    let other = [&ALL[..], &["--handler", "bus", "--dry-run"]].concat();
    let (said, _) = stand.run(&other).await;
    assert!(said.contains(" is open as well (what `replay run --from archive "), "{said}");
}
