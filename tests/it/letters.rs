//! The desk for dead letters: `learnink dlq` and `learnink acts`, as an operator types them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{Message as SqsSdkMessage, MessageAttributeValue};
use jiff::Timestamp;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, SqsQueues};
use learnink_local::EventSource;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::command::{Dev, PATIENCE, in_aws, learnink, text};
use crate::records::{drain, events, message, patience};

on_both_engines! {
    the_causes_of_dead_letters_are_named,
    after_a_fix_a_redrive_does_every_message_once,
    a_redrive_that_brings_the_same_cause_back_stops,
    a_redrive_that_was_killed_goes_on_and_does_every_message_once,
    two_operators_at_once_do_every_message_once,
    what_is_dropped_is_restored_byte_by_byte,
    an_empty_queue_is_said_to_be_empty,
    without_a_terminal_nothing_is_done_unless_yes_is_said,
    what_nobody_can_read_is_dropped_and_redriven_only_by_its_sqs_message_id,
    a_letter_is_shown_without_what_it_carries,
    what_is_done_already_is_redriven_without_a_first_try,
}

/// In the body of every letter, and in no output.
const PERSONAL: [&str; 3] = ["254705408079", "Mary", "Don't forget"];

/// How many deliveries a message has.
const MAX_RECEIVE_COUNT: u32 = 7;

/// What the handler does, and how often it did it.
#[derive(Debug, Clone, Default)]
struct Downstream {
    is_repaired: Arc<AtomicBool>,
    /// How often each message was done.
    done: Arc<Mutex<HashMap<String, u32>>>,
    /// How often each message was tried.
    tried: Arc<Mutex<HashMap<String, u32>>>,
}

impl Downstream {
    fn repair(&self) {
        self.is_repaired.store(true, Ordering::SeqCst);
    }

    fn done(&self) -> HashMap<String, u32> {
        self.done.lock().unwrap().clone()
    }

    /// How often any message was tried.
    fn tries(&self) -> u32 {
        self.tried.lock().unwrap().values().sum()
    }
}

async fn push(event: Event, downstream: Downstream) -> HandlerResult {
    let id = event.id().as_str().to_owned();
    *downstream.tried.lock().unwrap().entry(id.clone()).or_default() += 1;
    if downstream.is_repaired.load(Ordering::SeqCst) {
        *downstream.done.lock().unwrap().entry(id).or_default() += 1;
        return Ok(());
    }
    let number: u32 = id.rsplit('_').next().unwrap().parse().unwrap();
    Err(HandlerError::permanent(match number % 3 {
        0 => format!("the push sender answered 401 for learner {id}"),
        1 => format!("the plan \"p{number}\" is not one we sell"),
        _ => format!("item {number} of {} has no template", number + 3),
    }))
}

/// A queue with a consumer, and an operator's view of it.
struct Stand {
    engine: Engine,
    queues: QueuePair,
    table: String,
    downstream: Downstream,
    _pollers: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

fn body(number: u32) -> String {
    json!({
        "type": "example.type", "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z", "n": number,
        "data": { "user_id": "le2bB6", "phone_number": "+254705408079", "title": "Hi Mary!", "Mary": "Don't forget" },
    })
    .to_string()
}

impl Stand {
    async fn start(engine: Engine) -> Self {
        let queues = engine.queues(30, MAX_RECEIVE_COUNT).await;
        let table = engine.table("message_id", None).await;
        let downstream = Downstream::default();
        let (stop, stopped) = watch::channel(false);
        let mut pollers = JoinSet::new();
        for _ in 0..2 {
            let router = Router::new().on_any_webhook("push", push).with_state(downstream.clone());
            let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
            let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
            let consumer = Consumer::new(router, ledger, sqs, MAX_RECEIVE_COUNT, || 0.0);
            let source = EventSource::new(engine.sqs_client(), &queues.url);
            let stopped = stopped.clone();
            pollers.spawn(async move {
                let invoke = async |batch: SqsEvent| {
                    let id = fastrand::u64(..).to_string();
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "in place of Lambda, which reads the clock"
                    )]
                    let invocation = Invocation::new(id, Timestamp::now(), Duration::from_secs(20));
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
        Self { engine, queues, table, downstream, _pollers: pollers, _stop: stop }
    }

    /// A stand with messages that became dead letters.
    async fn with_letters(engine: Engine, numbers: impl Iterator<Item = u32>) -> Self {
        let stand = Self::start(engine).await;
        let mut count = 0;
        for number in numbers {
            let message = message(&format!("msg_{number}"), body(number)).encode().unwrap();
            let mut request = stand
                .engine
                .sqs_client()
                .send_message()
                .queue_url(&stand.queues.url)
                .message_body(message.body);
            for own in message.attributes {
                let value = MessageAttributeValue::builder().data_type(own.data_type).string_value(own.value);
                request = request.message_attributes(own.name, value.build().unwrap());
            }
            request.send().await.unwrap();
            count += 1;
        }
        stand.wait_for("the letters", async || stand.count().await == count).await;
        stand
    }

    async fn wait_for(&self, what: &str, is_there: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + patience(PATIENCE);
        while !is_there().await {
            assert!(Instant::now() < deadline, "waited for {what}; done: {:?}", self.downstream.done());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many letters `dlq list` shows.
    async fn count(&self) -> usize {
        self.json(&["list", "--limit", "1000"]).await.as_array().unwrap().len()
    }

    fn command(&self, command: &[&str]) -> Command {
        let place: &[&str] = match command[0] {
            "acts" => &["--ledger", &self.table],
            _ => &[
                "--queue",
                &self.queues.dead_letter_url,
                "--source-queue",
                &self.queues.url,
                "--ledger",
                &self.table,
            ],
        };
        let dlq: &[&str] = if command[0] == "acts" { &[] } else { &["dlq"] };
        let mut command = in_aws(&[dlq, command, place].concat());
        command.env_remove("AWS_ENDPOINT_URL");
        command.env("AWS_ENDPOINT_URL_SQS", self.engine.sqs.endpoint_url().unwrap());
        command.env("AWS_ENDPOINT_URL_DYNAMODB", self.engine.dynamodb.endpoint_url().unwrap());
        command
    }

    /// The output of a command, which has nothing personal in it.
    async fn run(&self, command: &[&str]) -> Output {
        let mut command = self.command(command);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_impersonal(&output);
        output
    }

    /// What a command prints, and its exit code.
    async fn said(&self, command: &[&str]) -> (String, Option<i32>) {
        let output = self.run(command).await;
        (format!("{}{}", text(&output.stdout), text(&output.stderr)), output.status.code())
    }

    async fn json(&self, command: &[&str]) -> Value {
        let output = self.run(&[command, &["--json"]].concat()).await;
        let parsed = serde_json::from_slice(&output.stdout);
        parsed.unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)))
    }

    /// The short name of the cause of message `number`.
    async fn cause_of(&self, number: u32) -> String {
        let shown = self.json(&["show", &format!("msg_{number}")]).await;
        shown[0]["cause"].as_str().unwrap().to_owned()
    }

    async fn drain(&self) -> Vec<SqsSdkMessage> {
        drain(&self.engine, &self.queues.dead_letter_url).await
    }

    async fn wait_until_done(&self, count: usize) {
        self.wait_for("the handlers", async || self.downstream.done().len() == count).await;
    }

    fn assert_each_done_once(&self, count: usize) {
        let done = self.downstream.done();
        assert_eq!(done.len(), count);
        assert!(done.values().all(|times| *times == 1), "{done:?}");
    }
}

fn assert_impersonal(output: &Output) {
    for stream in [&output.stdout, &output.stderr] {
        let stream = text(stream);
        for personal in PERSONAL {
            assert!(!stream.contains(personal), "{stream}");
        }
    }
}

async fn the_causes_of_dead_letters_are_named(engine: Engine) {
    let stand = Stand::with_letters(engine, 0..8).await;
    let causes = stand.json(&["causes"]).await;
    let causes: Vec<_> = causes.as_array().unwrap().iter().collect();
    let named: BTreeMap<_, _> = causes
        .iter()
        .map(|cause| (cause["reason"].as_str().unwrap(), cause["count"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("item … of … has no template", 2),
        ("the plan … is not one we sell", 3),
        ("the push sender answered 401 for learner …", 3),
    ];
    assert_eq!(named, BTreeMap::from(expected));
    for cause in &causes {
        assert_eq!((&cause["handler"], &cause["types"]), (&json!("push"), &json!(["example.type"])));
        let next = format!("dlq redrive {} --queue ", cause["name"].as_str().unwrap());
        assert!(cause["next"].as_str().unwrap().contains(&next), "{cause}");
        assert!(cause["expires_at"].is_string() && cause["oldest"].is_string(), "{cause}");
    }
    let (table, code) = stand.said(&["causes"]).await;
    assert!(table.contains("8 dead letters in the queue "), "{table}");
    assert!(table.contains("d 23h") || table.contains("3d ") || table.contains("13d "), "{table}");
    assert_eq!(code, Some(1));
    // A look hides nothing from the next one.
    assert_eq!(stand.count().await, 8);
}

async fn after_a_fix_a_redrive_does_every_message_once(engine: Engine) {
    let stand = Stand::with_letters(engine, (0..12).map(|n| n * 3).chain([1])).await;
    let cause = stand.cause_of(0).await;
    stand.downstream.repair();
    assert_eq!(stand.json(&["redrive", &cause, "--dry-run"]).await[0]["count"], 12);
    let (planned, code) = stand.said(&["redrive", &cause, "--dry-run"]).await;
    assert!(
        planned.contains("12 of 13 dead letters in ") && planned.contains("dry run: 1 would be"),
        "{planned}"
    );
    assert_eq!((code, stand.downstream.done().len()), (Some(0), 0));

    let redrive = ["redrive", &cause, "--yes", "--by", "kim", "--reason", "secret stored", "--rate", "100"];
    let (said, code) = stand.said(&redrive).await;
    assert!(said.contains("12 of 12 dead letters redriven: done"), "{said}");
    assert!(said.contains("is done"), "{said}");
    assert_eq!(code, Some(0), "{said}");
    stand.wait_until_done(12).await;
    stand.assert_each_done_once(12);
    assert_eq!(stand.count().await, 1);

    let (again, code) = stand.said(&redrive).await;
    assert!(again.contains(&format!("has the id or the cause `{cause}`")), "{again}");
    assert_eq!(code, Some(1));
    let act = &stand.json(&["acts"]).await[0];
    let facts = ["action", "by", "filter", "reason", "outcome"].map(|name| act[name].as_str().unwrap());
    assert_eq!(facts, ["redrive", "kim", &cause, "secret stored", "done"]);
    assert_eq!((&act["selected"], &act["done"]), (&json!(12), &json!(12)));
    assert_eq!(act["place"], format!("the queue {}", stand.queues.dead_letter_url));
    let (acts, _) = stand.said(&["acts"]).await;
    assert!(acts.contains("secret stored") && acts.ends_with("1 in all\n"), "{acts}");
}

async fn a_redrive_that_brings_the_same_cause_back_stops(engine: Engine) {
    let stand = Stand::with_letters(engine, (0..8).map(|n| n * 3)).await;
    let tries = stand.downstream.tries();
    let redrive = ["redrive", "--all", "--yes", "--by", "kim", "--wait", "30"];
    let (said, code) = stand.said(&redrive).await;
    let again = said.contains("failed again: push: the push sender answered 401")
        || said.contains("is a dead letter again");
    assert!(again && said.contains("1 of 8 dead letters redriven: stopped, because "), "{said}");
    assert!(said.contains("7 letters are left"), "{said}");
    assert_eq!(code, Some(1));
    // One was tried, and it is back.
    assert_eq!(stand.downstream.tries(), tries + 1);
    stand.wait_for("the letter that came back", async || stand.count().await == 8).await;
    let act = &stand.json(&["acts"]).await[0];
    assert!(act["outcome"].as_str().unwrap().starts_with("stopped, because msg_"), "{act}");
}

async fn a_redrive_that_was_killed_goes_on_and_does_every_message_once(engine: Engine) {
    let all = events(40);
    let stand = Stand::with_letters(engine, 0..all).await;
    stand.downstream.repair();
    let redrive = ["redrive", "--all", "--yes", "--by", "kim", "--rate", "20"];
    let mut killed = stand.command(&redrive).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    stand.wait_for("some letters", async || stand.downstream.done().len() > 5).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let done = stand.downstream.done().len();
    assert!(done < all as usize, "all was done before it was killed");

    // What it hid comes back within 30 s.
    let deadline = Instant::now() + patience(PATIENCE);
    let mut said = Vec::new();
    while stand.downstream.done().len() < all as usize {
        assert!(Instant::now() < deadline, "{said:?}");
        said.push(stand.said(&["redrive", "--all", "--yes", "--by", "kim", "--rate", "200"]).await);
    }
    stand.assert_each_done_once(all as usize);
    let (_, code) = said.last().unwrap();
    assert_eq!(*code, Some(0), "{said:?}");
    let acts = stand.json(&["acts"]).await;
    assert!(acts[0]["ended_at"].is_null(), "{acts}");
    let (listed, _) = stand.said(&["acts"]).await;
    assert!(listed.contains("no end: it is running, or was killed"), "{listed}");
}

async fn two_operators_at_once_do_every_message_once(engine: Engine) {
    let stand = Stand::with_letters(engine, (0..40).map(|n| n * 3)).await;
    stand.downstream.repair();
    let run = async |name: &str| {
        let redrive = ["redrive", "--all", "--yes", "--by", name, "--rate", "50"];
        // Each waits for what the other hides.
        let deadline = Instant::now() + 4 * PATIENCE;
        while stand.downstream.done().len() < 40 {
            assert!(Instant::now() < deadline);
            stand.said(&redrive).await;
        }
    };
    futures_util::future::join(run("kim"), run("lee")).await;
    stand.assert_each_done_once(40);
    assert_eq!(stand.count().await, 0);
    // What one has taken, the other does not count.
    let acts = stand.json(&["acts"]).await;
    let done: u64 = acts.as_array().unwrap().iter().map(|act| act["done"].as_u64().unwrap()).sum();
    assert_eq!(done, 40, "{acts}");
}

/// The letters of a queue, without the names that SQS gives them.
fn contents(messages: &[SqsSdkMessage]) -> Vec<String> {
    let mut contents: Vec<_> = messages
        .iter()
        .map(|message| {
            let attributes: BTreeMap<_, _> = message.message_attributes.iter().flatten().collect();
            let attributes: Vec<_> = attributes
                .into_iter()
                .map(|(name, value)| (name, &value.data_type, &value.string_value, &value.binary_value))
                .collect();
            format!("{:?} {attributes:?}", message.body)
        })
        .collect();
    contents.sort();
    contents
}

async fn what_is_dropped_is_restored_byte_by_byte(engine: Engine) {
    let is_embedded = engine.sqs.endpoint_url() != engine.dynamodb.endpoint_url();
    let stand = Stand::with_letters(engine, 0..5).await;
    let odd = stand.engine.sqs_client().send_message().queue_url(&stand.queues.dead_letter_url);
    let odd = odd.message_body("not from a receiver\n\"\\ \u{e9}\u{1f600}");
    let text_value = MessageAttributeValue::builder().data_type("String.odd").string_value("a\tb \u{e9}");
    let mut odd = odd.message_attributes("note", text_value.build().unwrap());
    if !is_embedded {
        // The embedded engine does not keep bytes.
        let bytes = Blob::new([0_u8, 255, 10, 128]);
        let bytes = MessageAttributeValue::builder().data_type("Binary.x").binary_value(bytes);
        odd = odd.message_attributes("bytes", bytes.build().unwrap());
    }
    odd.send().await.unwrap();
    let look = async || {
        let client = stand.engine.sqs_client();
        let mut seen = BTreeMap::new();
        while seen.len() < 6 {
            let receive = client.receive_message().queue_url(&stand.queues.dead_letter_url);
            let receive = receive.max_number_of_messages(10).message_attribute_names("All");
            for message in receive.send().await.unwrap().messages.unwrap_or_default() {
                let show = client.change_message_visibility().queue_url(&stand.queues.dead_letter_url);
                let show = show.set_receipt_handle(message.receipt_handle.clone()).visibility_timeout(0);
                show.send().await.unwrap();
                seen.insert(message.message_id.clone().unwrap(), message);
            }
        }
        contents(&seen.into_values().collect::<Vec<_>>())
    };
    let before = look().await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a b.jsonl");
    let file = file.to_str().unwrap();
    let by = ["--yes", "--by", "kim", "--reason", "staging"];
    let (said, code) = stand.said(&[&["drop", "--all", "--to", file], &by[..]].concat()).await;
    assert!(said.contains("6 of 6 dead letters dropped: done"), "{said}");
    assert!(said.contains("to put them back: cargo learnink dlq restore '"), "{said}");
    assert_eq!((code, stand.count().await), (Some(0), 0));
    assert_owner_alone_reads(Path::new(file));

    let (said, code) = stand.said(&[&["restore", file], &by[..]].concat()).await;
    assert!(said.contains("6 of 6 dead letters restored: done"), "{said}");
    assert_eq!(code, Some(0));
    assert_eq!(look().await, before);
    let (again, code) = stand.said(&[&["restore", file], &by[..]].concat()).await;
    assert!(again.contains("0 of 6 dead letters in "), "{again}");
    assert_eq!((code, stand.count().await), (Some(0), 6));

    // As after a kill in the middle: only what is missing is put back.
    let one = stand.json(&["list"]).await[0]["sqs_message_id"].as_str().unwrap().to_owned();
    let other = folder.path().join("one");
    let drop_one = ["drop", &one, "--to", other.to_str().unwrap(), "--yes", "--by", "kim", "--json"];
    assert_eq!(stand.json(&drop_one[..drop_one.len() - 1]).await["done"], 1);
    let (said, _) = stand.said(&[&["restore", file], &by[..]].concat()).await;
    assert!(said.contains("1 of 1 dead letter restored: done"), "{said}");
    assert_eq!(look().await, before);
    let acts = stand.json(&["acts"]).await;
    let actions: Vec<_> =
        acts.as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["drop", "restore", "drop", "restore"]);

    std::fs::write(file, "+254705408079\n").unwrap();
    let (said, code) = stand.said(&[&["restore", file], &by[..]].concat()).await;
    assert!(
        said.contains("line 1 of ") && said.contains("is not a dead letter that `dlq drop` wrote"),
        "{said}"
    );
    assert_eq!(code, Some(1));
}

#[cfg(unix)]
fn assert_owner_alone_reads(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(not(unix))]
fn assert_owner_alone_reads(_: &Path) {}

async fn an_empty_queue_is_said_to_be_empty(engine: Engine) {
    let stand = Stand::start(engine).await;
    let said = format!("no dead letters in the queue {}\n", stand.queues.dead_letter_url);
    for command in [&["causes"][..], &["redrive", "--all", "--by", "kim"], &["drop", "--all", "--by", "kim"]]
    {
        assert_eq!(stand.said(command).await, (said.clone(), Some(0)), "{command:?}");
    }
    assert_eq!(stand.json(&["causes"]).await, json!([]));
    let (unknown, code) = stand.said(&["redrive", "msg_1", "--yes", "--by", "kim"]).await;
    assert!(
        unknown.starts_with("nothing was done: no dead letter in ") && unknown.ends_with("`msg_1`\n"),
        "{unknown}"
    );
    assert_eq!(code, Some(1));
    let (unknown, code) = stand.said(&["show", "msg_1"]).await;
    assert!(unknown.contains("has the id `msg_1`"), "{unknown}");
    assert_eq!(code, Some(1));
    let (none, _) = stand.said(&["acts"]).await;
    assert!(none.starts_with("no act since "), "{none}");
}

async fn without_a_terminal_nothing_is_done_unless_yes_is_said(engine: Engine) {
    let stand = Stand::with_letters(engine, 0..3).await;
    let tries = stand.downstream.tries();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let file = file.to_str().unwrap();
    let no_terminal = "there is no terminal to ask on; nothing was done. Add --yes to do it, or --dry-run";
    for command in [&["redrive", "--all", "--by", "kim"][..], &["drop", "--all", "--by", "kim", "--to", file]]
    {
        let (said, code) = stand.said(command).await;
        assert!(said.contains(no_terminal), "{said}");
        assert_eq!(code, Some(2));
        let (said, code) = stand.said(&[command, &["--dry-run"]].concat()).await;
        assert!(said.contains("dry run: "), "{said}");
        assert_eq!(code, Some(0));
    }
    assert!(!Path::new(file).exists());
    assert_eq!((stand.downstream.tries(), stand.count().await), (tries, 3));
    assert!(stand.json(&["acts"]).await.as_array().unwrap().is_empty());
    for wrong in [&["redrive"][..], &["redrive", "--all", "msg_1"], &["drop", "--limit", "3"]] {
        assert_eq!(stand.said(wrong).await.1, Some(2), "{wrong:?}");
    }
}

async fn what_nobody_can_read_is_dropped_and_redriven_only_by_its_sqs_message_id(engine: Engine) {
    let stand = Stand::start(engine).await;
    let send = stand.engine.sqs_client().send_message().queue_url(&stand.queues.dead_letter_url);
    let sqs_id = send.message_body("Mary").send().await.unwrap().message_id.unwrap();
    let (said, code) = stand.said(&["redrive", "--all", "--yes", "--by", "kim"]).await;
    assert!(said.contains("1 dead letter that no consumer can read is left out"), "{said}");
    assert_eq!((code, stand.count().await), (Some(1), 1));
    // It comes back, under another name.
    let (said, code) = stand.said(&["redrive", &sqs_id, "--yes", "--by", "kim", "--wait", "20"]).await;
    assert!(said.contains("is a dead letter again: not written by a receiver"), "{said}");
    assert_eq!(code, Some(1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let (said, code) =
        stand.said(&["drop", "--all", "--to", file.to_str().unwrap(), "--yes", "--by", "kim"]).await;
    assert!(said.contains("1 of 1 dead letter dropped: done"), "{said}");
    assert_eq!((code, stand.drain().await.len()), (Some(0), 0));
}

async fn a_letter_is_shown_without_what_it_carries(engine: Engine) {
    let stand = Stand::with_letters(engine, [7].into_iter()).await;
    let (shown, code) = stand.said(&["show", "msg_7"]).await;
    assert_eq!(code, Some(0));
    for part in [
        "example.type",
        "the plan \"p7\" is not one we sell",
        "the receiver accepted it",
        "the last try ended: push: the plan",
        "it was put on the dead-letter queue",
        "SQS deletes it",
        r#""user_id":"le2bB6""#,
        r#""phone_number":"***""#,
        r#""***":"***""#,
        "Next, once the cause is put right: cargo learnink dlq redrive ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let (said, _) = stand.said(&["show", "msg_7", "--raw", raw.to_str().unwrap()]).await;
    assert!(said.contains("they have personal data"), "{said}");
    assert_eq!(std::fs::read_to_string(&raw).unwrap(), body(7));
    assert_owner_alone_reads(&raw);
    let shown = &stand.json(&["show", "msg_7"]).await[0];
    assert_eq!((&shown["handler"], &shown["payload"]["data"]["user_id"]), (&json!("push"), &json!("le2bB6")));
}

async fn what_is_done_already_is_redriven_without_a_first_try(engine: Engine) {
    let stand = Stand::with_letters(engine, (0..3).map(|n| n * 3)).await;
    stand.downstream.repair();
    // As LearnInk's Resend does it.
    let letters = stand.json(&["list"]).await;
    assert_eq!(letters.as_array().unwrap().len(), 3);
    for number in [0, 3, 6] {
        let message = message(&format!("msg_{number}"), body(number)).encode().unwrap();
        let mut request =
            stand.engine.sqs_client().send_message().queue_url(&stand.queues.url).message_body(message.body);
        for own in message.attributes {
            let value = MessageAttributeValue::builder().data_type(own.data_type).string_value(own.value);
            request = request.message_attributes(own.name, value.build().unwrap());
        }
        request.send().await.unwrap();
    }
    stand.wait_until_done(3).await;
    let (said, code) = stand.said(&["redrive", "--all", "--yes", "--by", "kim"]).await;
    assert!(said.contains("3 of 3 dead letters redriven: done") && !said.contains("tried first"), "{said}");
    assert_eq!((code, stand.count().await), (Some(0), 0));
    stand.assert_each_done_once(3);
}

#[test]
fn on_a_laptop_letters_are_redriven_dropped_and_restored_too() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    for id in ["msg_1", "msg_2"] {
        assert!(dev.send(&["--id", id, "events/not-json.txt"]).status.success());
        assert!(dev.line_with(id).contains("dead-lettered"));
    }
    let run = |arguments: &[&str]| {
        let output = learnink(&[arguments, &["--state", &dev.folder]].concat()).output().unwrap();
        assert_impersonal(&output);
        (format!("{}{}", text(&output.stdout), text(&output.stderr)), output.status.code())
    };
    let (causes, _) = run(&["dlq", "causes"]);
    assert!(
        causes.contains("the body is not JSON (line …, column …)") && causes.contains("never"),
        "{causes}"
    );
    // Still not JSON, and the ledger never hears of it.
    let (said, code) = run(&["dlq", "redrive", "--all", "--yes", "--by", "kim"]);
    assert!(said.contains("is a dead letter again: the body is not JSON"), "{said}");
    assert_eq!(code, Some(1));
    let file = folder.path().join("letters");
    let file = file.to_str().unwrap();
    let (said, code) = run(&["dlq", "drop", "--all", "--to", file, "--yes", "--by", "kim"]);
    assert!(said.contains("2 of 2 dead letters dropped: done"), "{said}");
    assert_eq!(code, Some(0));
    let (said, _) = run(&["dlq", "restore", file, "--yes", "--by", "kim"]);
    assert!(said.contains("2 of 2 dead letters restored: done"), "{said}");
    let (said, _) = run(&["acts"]);
    assert!(said.contains("restore") && said.contains("3 in all"), "{said}");

    // What was redriven, dropped and restored outlives a kill.
    dev.signal("-KILL");
    drop(dev);
    let again = Dev::start(folder.path());
    assert_eq!(again.json("dlq list").len(), 2);
}

#[test]
fn on_a_laptop_a_redrive_after_a_fix_is_handled_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (is_repaired, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = {
        let (is_repaired, arrivals) = (is_repaired.clone(), arrivals.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = async move |headers: axum::http::HeaderMap| {
            if !is_repaired.load(Ordering::SeqCst) {
                return axum::http::StatusCode::UNPROCESSABLE_ENTITY;
            }
            arrivals.lock().unwrap().push(headers["webhook-id"].to_str().unwrap().to_owned());
            axum::http::StatusCode::OK
        };
        runtime.spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        url
    };
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let variables = [("LEARNINK_FORWARD_URL", url.as_str()), ("LEARNINK_FORWARD_SECRET", secret)];
    let dev = Dev::start_with(folder.path(), &variables);
    for number in 0..5 {
        let id = format!("msg_{number}");
        assert!(dev.send(&["--id", &id]).status.success());
        assert!(dev.line_with(&id).contains("dead-lettered"));
    }
    is_repaired.store(true, Ordering::SeqCst);
    let said = dev.run(&["dlq", "redrive", "--handler", "forward", "--yes", "--by", "kim", "--rate", "100"]);
    assert!(said.contains("5 of 5 dead letters redriven: done"), "{said}");
    let deadline = Instant::now() + PATIENCE;
    while arrivals.lock().unwrap().len() < 5 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut arrivals = arrivals.lock().unwrap().clone();
    arrivals.sort();
    arrivals.dedup();
    assert_eq!(arrivals.len(), 5);
    assert_eq!(dev.run(&["dlq", "list"]), "no dead letters\n");
}
