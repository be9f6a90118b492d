//! `learnink forget` and `learnink export`, as an operator types them: events of 50 learners, one of whom is in lists with
//! others, asks for their data and is then forgotten.
//!
//! `EVENTS=10000` makes as many events; see [`events`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use flate2::read::MultiGzDecoder;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::{archive, progress, unknown};
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_local::pipeline::{DEAD_LETTER_QUEUE, LEARNERS_TABLE, QUEUE};
use learnink_local::state::{Service, address, read_signing_secret};
use learnink_local::{LocalSqs, sdk_config};
use learnink_tests::engine::{Engine, QueuePair, ministack_endpoint};
use learnink_tests::fake_firehose::{FakeFirehose, file_name};
use learnink_tests::signing::{self, SECRET, now_s};
use learnink_webhook::event::NotificationsSent;
use learnink_webhook::items::Permits;
use learnink_webhook::message::attribute;
use learnink_webhook::{Event, HandlerError, HandlerResult, Message, MessageId, Router};
use serde_json::{Value, json};

use crate::archive::on_stream;
use crate::command::{Dev, PATIENCE, create_stack, in_aws, learnink, text};
use crate::on_call_page::allowed;
use crate::recorded::Recorded;
use crate::records::{batch, delivery, drain, events, patience, record};

/// How many learners there are.
const LEARNERS: u32 = 50;

/// The learner who is forgotten: the one of the samples.
const USER_ID: &str = "le2bB6Fi4CMgrIOIqMCJryZb9PR2";
const CUSTOM_ID: &str = "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33";
const PHONE_NUMBER: &str = "+254705408079";

/// What no store may have afterwards, and no output ever.
const PERSONAL: [&str; 4] = [USER_ID, CUSTOM_ID, "254705408079", "Mary"];

/// The ids of a learner: `user_id`, `custom_id`, `phone_number`.
fn ids(learner: u32) -> [String; 3] {
    match learner % LEARNERS {
        0 => [USER_ID, CUSTOM_ID, PHONE_NUMBER].map(str::to_owned),
        other => [format!("learner-{other:04}"), format!("custom-{other:04}"), format!("+2547000{other:05}")],
    }
}

fn notification(learner: u32, body: &str) -> Value {
    let [user_id, custom_id, phone_number] = ids(learner);
    let name = if learner.is_multiple_of(LEARNERS) { "Mary" } else { "Bob" };
    json!({
        "title": format!("Hi {name}!"), "body": body, "path": format!("/learners/{user_id}"),
        "user_id": user_id, "custom_id": custom_id, "phone_number": phone_number,
    })
}

/// One event, and whether the learner is in it: alone, or with others.
struct Sample {
    id: String,
    body: String,
    learners: BTreeSet<u32>,
}

impl Sample {
    fn is_alone(&self) -> bool {
        self.learners == BTreeSet::from([0])
    }

    fn is_with_others(&self) -> bool {
        self.learners.contains(&0) && !self.is_alone()
    }
}

/// The events, of all kinds: of one learner, of types that nobody knows, and lists.
fn samples(count: u32) -> Vec<Sample> {
    (0..count).map(sample).collect()
}

fn sample(number: u32) -> Sample {
    // Ten events of one learner after another. Of every hundred, ten are of the one who is forgotten.
    let group = number / 10;
    let learner = if group % 10 == 3 { 0 } else { group * 7 % LEARNERS };
    let [user_id, custom_id, phone_number] = ids(learner);
    let of_one = BTreeSet::from([learner]);
    let (event_type, data, learners) = match number % 10 {
        0..5 => {
            let data = json!({
                "user_id": user_id, "custom_id": custom_id, "phone_number": phone_number,
                "course_id": format!("course-{}", number % 7),
            });
            ("user.course.started", data, of_one)
        }
        5 => ("example.badge.earned", json!({ "user_id": user_id, "badge": "first" }), of_one),
        6 => ("example.call.ended", json!({ "phone_number": phone_number, "minutes": 3 }), of_one),
        kind @ 7..10 => {
            // Some lists have items that cannot be sent.
            let body = if group.is_multiple_of(2) && kind < 9 { "broken" } else { "Go on" };
            if kind == 7 {
                let items = [notification(learner, body)];
                return sample_of(number, "notifications.sent", &json!({ "notifications": items }), of_one);
            }
            let others = [learner, learner + 1, learner + 2];
            let items = others.map(|one| notification(one, if one == learner { "Go on" } else { body }));
            let learners = others.map(|one| one % LEARNERS).into();
            ("notifications.sent", json!({ "notifications": items }), learners)
        }
        _ => unreachable!("it is a remainder"),
    };
    sample_of(number, event_type, &data, learners)
}

fn sample_of(number: u32, event_type: &str, data: &Value, learners: BTreeSet<u32>) -> Sample {
    let event = json!({
        "object": "event", "type": event_type, "api_version": "2022-11-15", "data": data,
        "timestamp": "2026-02-27T09:58:58.233Z",
    });
    Sample { id: format!("msg_{number}"), body: event.to_string(), learners }
}

/// Sends each notification but the broken ones.
#[derive(Debug, Clone)]
struct Push {
    permits: Permits,
    is_repaired: Arc<AtomicBool>,
    sent: Arc<Mutex<BTreeMap<String, u32>>>,
}

async fn push(event: Event<NotificationsSent>, push: Push) -> HandlerResult {
    let send = async |one: &learnink_webhook::items::Item<_>, key: learnink_webhook::IdempotencyKey| {
        let one: &learnink_webhook::event::Notification = one.read()?;
        if one.body.expose() == "broken" && !push.is_repaired.load(Ordering::SeqCst) {
            return Err(HandlerError::permanent("it is broken"));
        }
        *push.sent.lock().unwrap().entry(key.to_string()).or_default() += 1;
        Ok(())
    };
    event.for_each_item(&event.data.notifications, &push.permits, send).await
}

/// A stack on ministack, with a consumer.
struct Cloud {
    engine: Engine,
    queues: QueuePair,
    /// The ledger, the unknown events, the learners.
    tables: [String; 3],
    stack: String,
    env: Env,
    push: Push,
}

fn http() -> reqwest::Client {
    learnink_aws::install_tls_provider();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The text of an element of S3's answer.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap();
    rest.split_once('<').unwrap().0
}

/// Puts an object or a configuration into ministack's S3, and returns the headers of the answer.
async fn put(path: &str, body: impl Into<reqwest::Body>, headers: &[(&'static str, &str)]) {
    let request = http().put(format!("{}/{path}", ministack_endpoint())).body(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

async fn get(client: &reqwest::Client, path: &str) -> Vec<u8> {
    let answer = client.get(format!("{}/{path}", ministack_endpoint())).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.bytes().await.unwrap().to_vec()
}

async fn keep_versions(bucket: &str) {
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    put(&format!("{bucket}?versioning"), versioning, &[]).await;
}

impl Cloud {
    /// A stack whose archive is in a bucket of its name, which exists.
    async fn start(name: &str) -> Self {
        learnink_aws::install_tls_provider();
        let engine = Engine::ministack().await;
        let queues = engine.queues(30, 7).await;
        let tables = [
            engine.table("message_id", None).await,
            engine.table("message_id", None).await,
            engine.table(LEARNERS_TABLE.hash_key, LEARNERS_TABLE.range_key).await,
        ];
        let url = format!("s3://{name}/events");
        let stream = FakeFirehose::STREAM.to_owned();
        let outputs = [
            ("QueueUrl", &queues.url),
            ("DeadLetterQueueUrl", &queues.dead_letter_url),
            ("LedgerTableName", &tables[0]),
            ("UnknownEventsTableName", &tables[1]),
            ("LearnersTableName", &tables[2]),
            ("ArchiveUrl", &url),
            ("ArchiveStreamName", &stream),
        ];
        create_stack(name, &outputs);
        let env = Env::of([
            ("LEARNINK_ARCHIVE", &*url),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", &*tables[1]),
            ("LEARNINK_LEARNERS_TABLE", &*tables[2]),
            ("AWS_REGION", learnink_local::REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", ministack_endpoint()),
        ]);
        let env = env.with_tables(engine.dynamodb.clone());
        let push = Push { permits: Permits::new(10), is_repaired: Arc::default(), sent: Arc::default() };
        Self { engine, queues, tables, stack: name.to_owned(), env, push }
    }

    fn consumer(&self, env: &Env) -> Consumer {
        let own = Router::new().on("push", push).with_state(self.push.clone());
        let router = own
            .merge(archive::router(env).unwrap())
            .merge(progress::router(env).unwrap())
            .merge(unknown::router(env).unwrap());
        let ledger = DynamoDbLedger::new(&self.engine.dynamodb, &self.tables[0]);
        let sqs = SqsQueues::new(&self.engine.sqs, &self.queues.url, &self.queues.dead_letter_url);
        Consumer::new(router, ledger, sqs, 7, || 0.0)
    }

    /// Handles webhooks that were received now.
    async fn consume(&self, env: &Env, samples: &[Sample]) {
        let consumer = self.consumer(env);
        for samples in samples.chunks(10) {
            consume(&consumer, samples.iter().map(signed).collect()).await;
        }
    }

    async fn receive(&self, samples: &[Sample]) {
        let (objects, stream) = samples.split_at(samples.len() / 2);
        self.consume(&self.env, objects).await;
        let firehose = FakeFirehose::start().await;
        for (number, some) in stream.chunks(stream.len() / 3 + 1).enumerate() {
            self.consume(&on_stream(&self.env, &firehose), some).await;
            let today = Timestamp::from_second(now_s()).unwrap().strftime("%Y/%m/%d").to_string();
            let name = file_name(&today, number);
            put(&format!("{}/events/{name}", self.stack), firehose.deliver().unwrap(), &[]).await;
        }
    }

    /// What a command prints, which is no id, and its exit code.
    async fn said(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let output = run(in_aws(&[arguments, &["--stack", &self.stack]].concat())).await;
        said(&output)
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = run(in_aws(&[arguments, &["--stack", &self.stack]].concat())).await;
        said(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn export(&self, learner: u32) -> Value {
        let [user_id, ..] = ids(learner);
        exported(in_aws(&["export", "--user-id", &user_id, "--stack", &self.stack])).await
    }

    async fn verify(&self) -> (String, Option<i32>) {
        let mut verify = in_aws(&["archive", "verify", "--stack", &self.stack]);
        verify.env("LEARNINK_SIGNING_SECRET", SECRET);
        said(&run(verify).await)
    }

    /// Every version of every object: its key, its id, and its bytes.
    async fn versions(&self) -> Vec<(String, String, Vec<u8>)> {
        let client = &http();
        let (mut versions, mut after) = (Vec::new(), String::new());
        loop {
            let page = get(client, &format!("{}?versions{after}", self.stack)).await;
            let page = String::from_utf8(page).unwrap();
            for version in page.split("<Version>").skip(1) {
                versions.push(["Key", "VersionId"].map(|name| element(version, name).to_owned()));
            }
            if !page.contains("<IsTruncated>true<") {
                break;
            }
            let [key, id] = ["NextKeyMarker", "NextVersionIdMarker"].map(|name| element(&page, name));
            after = format!("&key-marker={key}&version-id-marker={id}");
        }
        let read = versions.into_iter().map(|[key, id]| async move {
            let bytes = get(client, &format!("{}/{key}?versionId={id}", self.stack)).await;
            (key, id, bytes)
        });
        stream::iter(read).buffered(8).collect().await
    }

    /// The bytes of all stores: all versions of all objects, the tables' items, the dead letters.
    async fn bytes(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for (key, id, bytes) in self.versions().await {
            all.push((format!("{key} {id}"), unzipped(&bytes)));
        }
        let client = aws_sdk_dynamodb::Client::new(&self.engine.dynamodb);
        for table in &self.tables {
            let mut items = client.scan().table_name(table).into_paginator().items().send();
            while let Some(item) = items.next().await {
                for (name, value) in item.unwrap() {
                    let bytes = match value {
                        AttributeValue::B(bytes) => bytes.into_inner(),
                        other => format!("{other:?}").into_bytes(),
                    };
                    all.push((format!("{table} {name}"), bytes));
                }
            }
        }
        for message in self.letters().await {
            all.push((
                "a dead letter".to_owned(),
                format!("{:?}{:?}", message.body, message.message_attributes).into_bytes(),
            ));
        }
        all
    }

    /// The dead letters, which stay.
    async fn letters(&self) -> Vec<aws_sdk_sqs::types::Message> {
        let client = self.engine.sqs_client();
        let mut all = Vec::new();
        loop {
            let receive = client.receive_message().queue_url(&self.queues.dead_letter_url);
            let receive =
                receive.max_number_of_messages(10).visibility_timeout(60).message_attribute_names("All");
            let received = receive.send().await.unwrap().messages.unwrap_or_default();
            if received.is_empty() {
                break;
            }
            all.extend(received);
        }
        for message in &all {
            let show = client.change_message_visibility().queue_url(&self.queues.dead_letter_url);
            let show = show.set_receipt_handle(message.receipt_handle.clone()).visibility_timeout(0);
            show.send().await.unwrap();
        }
        all
    }
}

async fn consume(consumer: &Consumer, records: Vec<SqsMessage>) -> Vec<Outcome> {
    let now = Timestamp::from_second(now_s()).unwrap();
    let invocation = Invocation::new(fastrand::u64(..).to_string(), now, Duration::from_secs(30));
    let report = consumer.consume(&batch(records), &invocation).await;
    report.records.iter().map(|record| record.outcome).collect()
}

/// A webhook as the receiver puts it on the queue.
fn signed(sample: &Sample) -> SqsMessage {
    let now_s = now_s();
    let [_, (_, signed_at), (_, signature)] =
        signing::headers(SECRET, &sample.id, now_s, sample.body.as_bytes());
    let mut record = record(&format!("sqs-{}", sample.id), &sample.id, sample.body.clone());
    for (name, value) in [
        (attribute::TIMESTAMP, signed_at),
        (attribute::SIGNATURE, signature),
        (attribute::RECEIVED_AT, format!("{now_s}042")),
    ] {
        record.message_attributes.get_mut(name).unwrap().string_value = Some(value);
    }
    record
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What was printed, which is no id, and the exit code.
fn said(output: &Output) -> (String, Option<i32>) {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    for personal in PERSONAL {
        assert!(!said.contains(personal), "{said}");
    }
    (said, output.status.code())
}

/// What an export prints. If it finds nothing, it is null.
async fn exported(command: Command) -> Value {
    let output = run(command).await;
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// How many webhooks each store of an export has.
fn counts(export: &Value) -> BTreeMap<String, usize> {
    let stores = export["stores"].as_object().cloned().unwrap_or_default();
    stores.into_iter().map(|(name, own)| (name, own.as_array().unwrap().len())).collect()
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match MultiGzDecoder::new(bytes).read_to_end(&mut plain) {
        Ok(_) => plain,
        Err(_) => bytes.to_vec(),
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    // It is ASCII, all of which is kept.
    String::from_utf8_lossy(bytes).contains(text)
}

/// Where the learner still is.
fn with_the_learner(all: &[(String, Vec<u8>)]) -> Vec<&str> {
    let is_there = |bytes: &[u8]| PERSONAL.iter().any(|personal| has(bytes, personal));
    all.iter().filter(|(_, bytes)| is_there(bytes)).map(|(place, _)| place.as_str()).collect()
}

const REASON: [&str; 4] = ["--reason", "request 17", "--by", "kim"];

#[tokio::test]
async fn a_learner_of_a_stack_gets_everything_and_is_then_in_no_byte_of_any_store() {
    let count = events(150);
    let samples = samples(count);
    put("forget", "", &[]).await;
    keep_versions("forget").await;
    let cloud = Cloud::start("forget").await;
    let begin = Instant::now();
    cloud.receive(&samples).await;
    eprintln!("{count} events are stored after {:?}", begin.elapsed());
    // An object that somebody has overwritten, and one that somebody has deleted: their old versions have the learner.
    let versions = cloud.versions().await;
    let with: Vec<_> = versions.iter().filter(|(_, _, bytes)| has(&unzipped(bytes), USER_ID)).collect();
    let (overwritten, deleted) = (&with[0].0, &with[1].0);
    put(&format!("forget/{overwritten}"), with[0].2.clone(), &[]).await;
    let delete = http().delete(format!("{}/forget/{deleted}", ministack_endpoint()));
    assert!(delete.send().await.unwrap().status().is_success());
    put("forget/events/README.txt", "ours", &[]).await;

    // Everything is exported, and only the learner's.
    let alone = samples.iter().filter(|sample| sample.is_alone()).count();
    let with_others = samples.iter().filter(|sample| sample.is_with_others()).count();
    assert!(alone > 0 && with_others > 0);
    let begin = Instant::now();
    let export = cloud.export(0).await;
    eprintln!("exported after {:?}", begin.elapsed());
    let of_type = |event_type: &str| {
        let is_one = |sample: &&Sample| {
            sample.learners.contains(&0) && sample.body.contains(&format!("\"type\":\"{event_type}\""))
        };
        samples.iter().filter(is_one).count()
    };
    let found = counts(&export);
    // The overwritten one is there twice.
    assert_eq!(found["archive"], alone + with_others + 1, "{found:?}");
    assert_eq!(
        found["unknown_events"],
        of_type("example.badge.earned") + of_type("example.call.ended"),
        "{found:?}"
    );
    let is_letter = |sample: &&Sample| sample.learners.contains(&0) && sample.body.contains("broken");
    let letters = samples.iter().filter(is_letter).count();
    assert!(letters > 0 && found["dead_letters"] == letters, "{found:?}");
    assert!(found["learners"] > 0, "{found:?}");
    let exported = export.to_string();
    assert!(
        exported.contains("Hi Mary!") && !exported.contains("Hi Bob!") && !exported.contains("learner-00")
    );
    let others_before = counts(&cloud.export(1).await);
    let objects_before: BTreeMap<_, _> =
        cloud.versions().await.into_iter().map(|(key, _, bytes)| (key, bytes)).collect();

    // A dry run changes nothing.
    let forget = [&["forget", "--user-id", USER_ID], &REASON[..]].concat();
    let (plan, code) = cloud.said(&[&forget[..], &["--dry-run"]].concat()).await;
    assert!(plan.contains("dry run: nothing was erased") && code == Some(1), "{plan}");
    let (refused, code) = cloud.said(&forget).await;
    assert!(refused.contains("no terminal to ask on") && code == Some(2), "{refused}");

    let begin = Instant::now();
    let (erased, code) = cloud.said(&[&forget[..], &["--yes"]].concat()).await;
    eprintln!("forgotten after {:?}\n{erased}", begin.elapsed());
    assert_eq!(code, Some(0), "{erased}");
    assert!(erased.contains("1 custom id, 1 phone number"), "{erased}");
    assert!(erased.contains("not looked at: 1 object in the archive, which is not a record"), "{erased}");
    assert!(erased.contains("the archive's stream writes a record up to 30 minutes after"), "{erased}");
    assert!(erased.contains("LearnInk's own copy"), "{erased}");

    assert_eq!(with_the_learner(&cloud.bytes().await), Vec::<&str>::new());
    // The others' records are proven, and the redacted ones say what they are.
    let (verified, code) = cloud.verify().await;
    let good = samples.len() - alone - with_others;
    assert!(verified.contains(&format!("{good} records, all signed by LearnInk\n")), "{verified}");
    let redacted = format!("{with_others} records are redacted, after `learnink forget`");
    assert!(verified.contains(&redacted) && code == Some(0), "{verified}");
    // What was not about the learner is the same object, byte by byte.
    for (key, _, bytes) in cloud.versions().await {
        let before = &objects_before[&key];
        assert!(has(&unzipped(before), USER_ID) || *before == bytes, "{key}");
    }
    assert_eq!(counts(&cloud.export(1).await), others_before);
    let (exported, code) = cloud.said(&["archive", "export"]).await;
    assert!(
        exported.contains(&format!("{with_others} records redacted: a learner was removed")),
        "{exported}"
    );
    assert_eq!(code, Some(0), "{exported}");

    let (again, code) = cloud.said(&[&forget[..], &["--yes"]].concat()).await;
    assert!(
        again.contains("nothing of this learner is stored in the stack forget") && code == Some(0),
        "{again}"
    );
    let acts = cloud.json(&["acts", "--json"]).await;
    assert_eq!(acts.as_array().unwrap().len(), 1);
    let act = &acts[0];
    assert_eq!((&act["action"], &act["filter"]), (&json!("forget"), &json!("--user-id")));
    assert_eq!((&act["reason"], &act["by"]), (&json!("request 17"), &json!("kim")));
    assert_eq!(act["selected"], act["done"]);
    // By this, somebody sees later how many redacted records there should be.
    let outcome = format!("done; archive: {} erased, {with_others} redacted; ", alone + 1);
    assert!(act["outcome"].as_str().unwrap().starts_with(&outcome), "{act}");

    // Nobody runs a redacted record again, even if nothing has to be proven.
    let replay = ["replay", "run", "--from", "archive", "--since", "1h ago", "--unproven", "--dry-run"];
    let (replay, code) = cloud.said(&[&replay[..], &REASON[..]].concat()).await;
    assert_eq!(replay.matches("a learner was removed from it").count(), with_others, "{replay}");
    assert!(replay.contains(&format!("{good} messages in the archive are to be sent")), "{replay}");
    assert_eq!(code, Some(1), "{replay}");
    what_is_left_of_the_letters_is_done_once(&cloud, &samples).await;
}

/// A redacted letter is redriven: what is left of it is done, once.
async fn what_is_left_of_the_letters_is_done_once(cloud: &Cloud, samples: &[Sample]) {
    cloud.push.is_repaired.store(true, Ordering::SeqCst);
    let before = cloud.push.sent.lock().unwrap().len();
    let letters: Vec<_> = drain(&cloud.engine, &cloud.queues.dead_letter_url)
        .await
        .into_iter()
        .filter(|letter| letter.body.as_ref().is_some_and(|body| body.contains("null")))
        .collect();
    assert_eq!(letters.len(), letters_with_others(samples));
    let consumer = cloud.consumer(&cloud.env);
    let broken: usize =
        letters.iter().map(|letter| letter.body.as_ref().unwrap().matches("broken").count()).sum();
    for letter in &letters {
        let outcomes = consume(&consumer, vec![delivery(letter, 1)]).await;
        // An item that is gone is refused, unless it was done before.
        assert!([Outcome::Processed, Outcome::DeadLettered].contains(&outcomes[0]), "{outcomes:?}");
    }
    let sent = cloud.push.sent.lock().unwrap().clone();
    assert_eq!(sent.len(), before + broken);
    assert!(sent.values().all(|times| *times == 1), "{sent:?}");
}

fn letters_with_others(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| sample.is_with_others() && sample.body.contains("broken")).count()
}

#[tokio::test]
async fn by_a_phone_number_from_standard_input_the_learner_is_found_in_what_has_no_number_too() {
    put("by-phone", "", &[]).await;
    let cloud = Cloud::start("by-phone").await;
    // A bucket that keeps no versions.
    let samples = samples(80);
    cloud.receive(&samples).await;
    let plan =
        cloud.json(&["forget", "--custom-id", CUSTOM_ID, "--reason", "r", "--dry-run", "--json"]).await;
    assert_eq!(plan["further_ids"], json!({ "user_ids": 1, "custom_ids": 0, "phone_numbers": 1 }));
    let with = |is_one: fn(&Sample) -> bool| samples.iter().filter(|sample| is_one(sample)).count();
    let expected = json!({ "erase": with(Sample::is_alone), "redact": with(Sample::is_with_others) });
    assert_eq!(plan["stores"]["archive"], expected);

    // Typed where no shell keeps it.
    let mut forget =
        in_aws(&[&["forget", "--phone-number", "-", "--yes", "--stack", "by-phone"], &REASON[..]].concat());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "+254 705 408 079\n").unwrap();
    forget.stdin(std::fs::File::open(file.path()).unwrap());
    let (erased, code) = said(&run(forget).await);
    assert!(erased.contains("1 user id, 1 custom id") && code == Some(0), "{erased}");
    assert_eq!(with_the_learner(&cloud.bytes().await), Vec::<&str>::new());
    let (verified, code) = cloud.verify().await;
    assert!(
        verified.contains(&format!("{} records are redacted", with(Sample::is_with_others))),
        "{verified}"
    );
    assert_eq!(code, Some(0), "{verified}");
}

#[tokio::test]
async fn what_object_lock_keeps_is_left_and_said_until_when() {
    put("locked", "", &[("x-amz-bucket-object-lock-enabled", "true")]).await;
    let cloud = Cloud::start("locked").await;
    cloud.consume(&cloud.env, &[sample(0), sample(9)]).await;
    let records: Vec<_> = cloud.versions().await;
    let [alone, with_others] = [&sample(0).id, &sample(9).id]
        .map(|id| records.iter().find(|(key, ..)| key.ends_with(&format!("{id}.json.gz"))).unwrap().clone());
    for (key, id, _) in [&alone, &with_others] {
        let retention = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate>\
                         </Retention>";
        put(&format!("locked/{key}?retention&versionId={id}"), retention, &[]).await;
    }
    let forget = [&["forget", "--user-id", USER_ID, "--yes"], &REASON[..]].concat();
    for _ in 0..2 {
        let (erased, code) = cloud.said(&forget).await;
        assert_eq!(code, Some(1), "{erased}");
        let left = format!("left: {}: S3 Object Lock keeps it until 2099-01-01T00:00:00Z", name_of(&alone.0));
        assert!(erased.contains(&left), "{erased}");
        assert_eq!(erased.matches("S3 Object Lock keeps it").count(), 2, "{erased}");
    }
    // The current version is redacted all the same, once.
    let versions = cloud.versions().await;
    let of = |key: &str| versions.iter().filter(|(found, ..)| found == key).count();
    assert_eq!((of(&alone.0), of(&with_others.0)), (1, 2));
    let (verified, _) = cloud.verify().await;
    assert!(verified.contains("1 record is redacted"), "{verified}");
}

/// The name of an object below the archive's URL.
fn name_of(key: &str) -> &str {
    key.strip_prefix("events/").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_on_the_page_has_exactly_the_rights_that_the_commands_need() {
    put("rights", "", &[("x-amz-bucket-object-lock-enabled", "true")]).await;
    let cloud = Cloud::start("rights").await;
    cloud.consume(&cloud.env, &(0..10).map(sample).collect::<Vec<_>>()).await;
    // A kept event that is about others too, and a version that is locked.
    let with_others =
        Sample { body: sample(8).body.replace("notifications.sent", "example.list"), ..sample(11) };
    cloud.consume(&cloud.env, &[with_others]).await;
    let (key, id, _) = cloud.versions().await.into_iter().find(|(key, ..)| key.contains("msg_0.")).unwrap();
    let retention = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate></Retention>";
    put(&format!("rights/{key}?retention&versionId={id}"), retention, &[]).await;
    let (recorded, endpoint) = Recorded::start().await;
    let forget = [&["forget", "--custom-id", CUSTOM_ID, "--yes"], &REASON[..]].concat();
    for arguments in [&["export", "--custom-id", CUSTOM_ID][..], &forget] {
        let mut command = in_aws(&[arguments, &["--stack", "rights"]].concat());
        command.env("AWS_ENDPOINT_URL", &endpoint);
        let output = run(command).await;
        assert!(!text(&output.stderr).contains("error: "), "{}", text(&output.stderr));
    }
    let allowed = allowed("docs/privacy.md", "learnink-webhooks-forget");
    assert_eq!(recorded.actions(), allowed, "the rights that the commands need, and those of the role");
}

#[tokio::test]
async fn a_run_that_was_interrupted_between_two_versions_is_finished_by_the_next() {
    put("interrupted", "", &[]).await;
    keep_versions("interrupted").await;
    let cloud = Cloud::start("interrupted").await;
    cloud.consume(&cloud.env, &[sample(9)]).await;
    let (key, _, original) = cloud.versions().await.remove(0);
    let forget = [&["forget", "--user-id", USER_ID, "--yes"], &REASON[..]].concat();
    assert_eq!(cloud.said(&forget).await.1, Some(0));
    let (_, _, redacted) = cloud.versions().await.remove(0);
    // As if the old version had not been deleted yet.
    put(&format!("interrupted/{key}"), original, &[]).await;
    put(&format!("interrupted/{key}"), redacted.clone(), &[]).await;
    assert_eq!(cloud.versions().await.len(), 3);
    let (said, code) = cloud.said(&forget).await;
    assert!(said.contains("done; archive: ") && code == Some(0), "{said}");
    assert_eq!(with_the_learner(&cloud.bytes().await), Vec::<&str>::new());
    let left = cloud.versions().await;
    assert!(left.len() == 2 && left.iter().all(|(_, _, bytes)| *bytes == redacted));
}

#[tokio::test]
async fn of_several_learners_with_one_number_none_is_erased_unasked_and_one_can_be_named() {
    put("shared", "", &[]).await;
    let cloud = Cloud::start("shared").await;
    let of = |number: u32, user_id: &str| {
        let data = json!({ "user_id": user_id, "phone_number": PHONE_NUMBER, "course_id": "c" });
        sample_of(number, "user.course.started", &data, BTreeSet::new())
    };
    cloud.consume(&cloud.env, &[of(1, USER_ID), of(2, "learner-0002")]).await;
    let yes = [&["--yes"], &REASON[..]].concat();
    let (said, code) = cloud.said(&[&["forget", "--phone-number", PHONE_NUMBER], &yes[..]].concat()).await;
    assert!(
        said.contains("2 user ids") && said.contains("nothing was erased: run it without --yes"),
        "{said}"
    );
    assert_eq!((code, cloud.versions().await.len()), (Some(2), 2));

    let (said, code) = cloud.said(&[&["forget", "--user-id", USER_ID], &yes[..]].concat()).await;
    assert!(said.contains("left, as another learner's: 1 item, which has such a phone number"), "{said}");
    assert_eq!((code, cloud.versions().await.len()), (Some(0), 1));
    assert_eq!(counts(&cloud.export(0).await), BTreeMap::new());
}

#[tokio::test]
async fn what_is_not_known_to_be_erased_makes_the_exit_code_1() {
    put("unsure", "", &[]).await;
    let cloud = Cloud::start("unsure").await;
    cloud.consume(&cloud.env, &[sample(0)]).await;
    // A damaged record, a damaged file of the stream that has the learner, and a message on the queue.
    put("unsure/events/user.course.started/2026/03/01/msg_x.json.gz", "damaged", &[]).await;
    let line = archive::Record::from(&message("msg_y", &sample(0).body)).to_line();
    let mut file = [line.as_slice(), b"{\"version\":1"].concat();
    put("unsure/events/layout=stream/2026/03/01/a.jsonl.gz", file.clone(), &[]).await;
    let send = cloud.engine.sqs_client().send_message().queue_url(&cloud.queues.url);
    send.message_body("waits").send().await.unwrap();
    let forget = [&["forget", "--user-id", USER_ID, "--yes"], &REASON[..]].concat();
    let (said, code) = cloud.said(&forget).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("msg_x.json.gz: it is not gzip, or damaged"), "{said}");
    assert!(said.contains("a.jsonl.gz: it is damaged after line 1; the learner is in it"), "{said}");
    assert!(said.contains("1 message waits on the queue and was not looked at"), "{said}");
    // It was left as it was.
    file.truncate(file.len());
    assert_eq!(get(&http(), "unsure/events/layout=stream/2026/03/01/a.jsonl.gz").await, file);
    assert_eq!(with_the_learner(&cloud.bytes().await).len(), 1);
}

fn message(id: &str, body: &str) -> Message {
    let now_s = now_s();
    let [_, _, (_, signature)] = signing::headers(SECRET, id, now_s, body.as_bytes());
    Message {
        id: MessageId::parse(id).unwrap(),
        signed_at_s: now_s,
        signature,
        received_at: Timestamp::from_second(now_s).unwrap(),
        event_type: None,
        body: body.into(),
        part: None,
        window: None,
    }
}

/// All files below a folder, decompressed.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((path.display().to_string(), unzipped(&std::fs::read(&path).unwrap())));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_of_a_laptop_gets_everything_and_is_then_in_no_byte_of_any_file() {
    let count = events(100);
    let samples = samples(count);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    let variables = [("LEARNINK_ARCHIVE", archive.to_str().unwrap())];
    let dev = Dev::start_with(folder.path(), &variables);
    let begin = Instant::now();
    let (url, secret) = (
        address(folder.path(), Service::Webhooks).unwrap().unwrap(),
        read_signing_secret(folder.path()).unwrap(),
    );
    let client = http();
    let text_alone = Sample {
        id: "msg_text".to_owned(),
        body: format!("call {PHONE_NUMBER}"),
        learners: BTreeSet::from([0]),
    };
    let posts = samples.iter().chain([&text_alone]).map(|sample| {
        let headers = signing::headers(&secret, &sample.id, now_s(), sample.body.as_bytes());
        let request = client.post(&url).body(sample.body.clone());
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let statuses: Vec<_> = stream::iter(posts).buffered(8).collect().await;
    assert!(statuses.iter().all(|status| *status == 200));
    // What LearnInk's side has sent, a letter that is not an event, and one with others.
    let sent = ["sim", "send-example", "user.course.started"];
    let sim = run(learnink(&[&sent[..], &["--state", &dev.folder]].concat())).await;
    assert!(sim.status.success(), "{}", text(&sim.stderr));
    let sqs = aws_sdk_sqs::Client::new(&sdk_config(&address(folder.path(), Service::Sqs).unwrap().unwrap()));
    send_letter(&sqs, "msg_letter", &sample(9).body).await;
    let deadline = Instant::now() + patience(PATIENCE);
    while waiting(&sqs).await > 0 {
        assert!(Instant::now() < deadline, "the queue is not empty");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{count} events are stored after {:?}", begin.elapsed());

    let command = |arguments: &[&str]| {
        let mut command = learnink(&[arguments, &["--state", &dev.folder]].concat());
        command.envs(variables.iter().copied());
        command
    };
    let forget = [&["forget", "--user-id", USER_ID, "--yes"], &REASON[..]].concat();
    let (refused, code) = said(&run(command(&forget)).await);
    assert!(refused.contains("has to be stopped first") && code == Some(1), "{refused}");
    let (forget, again) = (command(&forget), command(&forget));
    let [export, before, after] =
        [0, 1, 1].map(|learner| command(&["export", "--user-id", ids(learner)[0].as_str()]));
    let verify = {
        let mut verify = learnink(&["archive", "verify", "--archive", archive.to_str().unwrap()]);
        verify.env("LEARNINK_SIGNING_SECRET", &secret);
        verify
    };
    let acts = command(&["acts"]);
    drop(dev.interrupt());

    let begin = Instant::now();
    let export = exported(export).await;
    eprintln!("exported after {:?}", begin.elapsed());
    let found = counts(&export);
    let alone = samples.iter().filter(|sample| sample.is_alone()).count();
    let with_others = samples.iter().filter(|sample| sample.is_with_others()).count();
    // With the example of LearnInk's side, and the text that is not an event.
    assert_eq!(found["archive"], alone + with_others + 2, "{found:?}");
    for store in ["unknown_events", "learners", "queues", "history"] {
        assert!(found[store] > 0, "{store}: {found:?}");
    }
    assert!(!export.to_string().contains("Hi Bob!"));
    let of_another = |export: &Value| {
        let mut counts = counts(export);
        // The journal loses what was deleted from the queues.
        counts.remove("queues");
        counts
    };
    let others_before = of_another(&exported(before).await);

    let begin = Instant::now();
    let (erased, code) = said(&run(forget).await);
    eprintln!("forgotten after {:?}\n{erased}", begin.elapsed());
    assert_eq!(code, Some(0), "{erased}");
    assert_eq!(with_the_learner(&files(folder.path())), Vec::<&str>::new());
    let (verified, code) = said(&run(verify).await);
    let good = samples.len() - alone - with_others;
    assert!(verified.contains(&format!("{good} records, all signed by LearnInk\n")), "{verified}");
    assert!(
        verified.contains(&format!("{with_others} records are redacted")) && code == Some(0),
        "{verified}"
    );
    assert_eq!(of_another(&exported(after).await), others_before);
    let (again, code) = said(&run(again).await);
    assert!(again.contains("nothing of this learner is stored in the state of `learnink dev`"), "{again}");
    assert_eq!(code, Some(0), "{again}");
    let (acts, _) = said(&run(acts).await);
    assert!(acts.contains("forget") && acts.contains("request 17"), "{acts}");

    // The pipeline starts on what is left.
    let dev = Dev::start_with(folder.path(), &variables);
    assert_eq!(dev.json("dlq list").len(), 1);
    dev.sent("msg_later");
}

async fn send_letter(client: &aws_sdk_sqs::Client, id: &str, body: &str) {
    let encoded = message(id, body).encode().unwrap();
    let mut request =
        client.send_message().queue_url(LocalSqs::queue_url(DEAD_LETTER_QUEUE)).message_body(encoded.body);
    for own in encoded.attributes {
        let value = MessageAttributeValue::builder().data_type(own.data_type).string_value(own.value);
        request = request.message_attributes(own.name, value.build().unwrap());
    }
    request.send().await.unwrap();
}

/// How many messages are on the laptop's queue.
async fn waiting(client: &aws_sdk_sqs::Client) -> usize {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let request = client.get_queue_attributes().queue_url(LocalSqs::queue_url(QUEUE));
    let counts = request.set_attribute_names(Some(names.to_vec())).send().await.unwrap().attributes.unwrap();
    names.iter().map(|name| counts[name].parse::<usize>().unwrap()).sum()
}

#[test]
fn what_is_typed_wrongly_is_said_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let mut command = learnink(&[arguments, &["--state", folder.path().to_str().unwrap()]].concat());
        said(&command.output().unwrap())
    };
    let (error, code) = said(&["forget", "--phone-number", "0705408079", "--reason", "r", "--dry-run"]);
    assert!(
        error.contains("--phone-number cannot be used: write the phone number with its country code"),
        "{error}"
    );
    assert!(!error.contains("0705408079") && code == Some(1), "{error}");
    let (error, _) =
        said(&["forget", "--user-id", USER_ID, "--reason", &format!("for {USER_ID}"), "--dry-run"]);
    assert!(error.contains("--reason is kept, and must not have an id of the learner"), "{error}");
    let (error, code) = said(&["forget", "--reason", "r"]);
    assert!(error.contains("--user-id") && code == Some(2), "{error}");
    let (error, code) = said(&["export", "--user-id", USER_ID]);
    assert!(error.contains("no `learnink dev` has run in ") && code == Some(1), "{error}");
}
