//! Odd events, through the real consumer to every handler: an odd field is refused only by the handlers that need
//! it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::archive::{Archive, Selection};
use learnink_connectors::progress::{Learners, LearnersCourse};
use learnink_connectors::unknown::{UnknownEvent, UnknownEvents};
use learnink_consumer::report::Failure;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_local::sdk_config;
use learnink_tests::engine::Engine;
use learnink_tests::serve;
use learnink_tests::signing::SECRET;
use serde_json::{Value, json};

use crate::records::{RECEIVED_AT_S, batch, record};

/// The requests to the endpoint of the push handler and to the event bus.
#[derive(Debug, Clone, Default)]
struct Received {
    notifications: Arc<Mutex<Vec<Value>>>,
    details: Arc<Mutex<Vec<String>>>,
}

impl Received {
    async fn serve(&self) -> String {
        let received = self.clone();
        let server = axum::Router::new().fallback(async move |headers: HeaderMap, body: String| {
            let body: Value = serde_json::from_str(&body).unwrap();
            match headers.get("x-amz-target").map(|target| target.to_str().unwrap()) {
                Some("AWSEvents.DescribeEventBus") => r#"{"Name":"automations"}"#,
                Some(_) => {
                    let detail = body["Entries"][0]["Detail"].as_str().unwrap().to_owned();
                    received.details.lock().unwrap().push(detail);
                    r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#
                }
                None => {
                    received.notifications.lock().unwrap().push(body);
                    ""
                }
            }
        });
        serve(server).await
    }
}

/// The consumer with all handlers.
struct World {
    learners: Learners,
    unknown_events: UnknownEvents,
    archive: Archive,
    consumer: Consumer,
    received: Received,
    deliveries: u32,
    /// The engine and the archive's folder, kept alive.
    _engine: Engine,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        learnink_aws::install_tls_provider();
        let engine = Engine::embedded().await;
        let received = Received::default();
        let url = received.serve().await;
        let folder = tempfile::tempdir().unwrap();
        let archive = format!("file://{}", folder.path().to_str().unwrap());
        let (learners, unknown_events) =
            (engine.table("user_id", Some("course_id")).await, engine.table("message_id", None).await);
        let aws = sdk_config(&url);
        let env = Env::of([
            ("LEARNINK_LEARNERS_TABLE", &*learners),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", &*unknown_events),
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", &*url),
            ("LEARNINK_PUSH_SECRET", SECRET),
            ("LEARNINK_ARCHIVE", &*archive),
            ("LEARNINK_EVENT_BUS", "automations"),
        ])
        .with_aws(move || Ok(aws.clone()))
        .with_tables(engine.dynamodb.clone());
        let queues = engine.queues(30, 7).await;
        let consumer = Consumer::new(
            learnink_handlers::router(&env).unwrap(),
            DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await),
            SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url),
            7,
            || 0.5,
        );
        let learners = Learners::new(&engine.dynamodb, learners);
        let unknown_events = UnknownEvents::new(&engine.dynamodb, unknown_events);
        let archive = Archive::open(&archive, &env).unwrap();
        Self {
            learners,
            unknown_events,
            archive,
            consumer,
            received,
            deliveries: 0,
            _engine: engine,
            _folder: folder,
        }
    }

    /// Delivers a new message with this body, and returns its outcome and the reason.
    async fn deliver(&mut self, body: &str) -> (Outcome, String) {
        self.deliveries += 1;
        let number = self.deliveries.to_string();
        let record = record(&format!("sqs-{number}"), &format!("msg_{number}"), body.to_owned());
        let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
        let invocation = Invocation::new(number, now, Duration::from_secs(30));
        let report = self.consumer.consume(&batch(vec![record]), &invocation).await;
        let record = &report.records[0];
        (record.outcome, record.failure.as_ref().map(Failure::text).unwrap_or_default())
    }

    async fn processes(&mut self, body: &str) {
        let shown: String = body.chars().take(300).collect();
        assert_eq!(self.deliver(body).await, (Outcome::Processed, String::new()), "{shown}");
    }

    async fn unknown(&self) -> Vec<UnknownEvent> {
        self.unknown_events.all().await.unwrap()
    }

    async fn learners(&self) -> Vec<LearnersCourse> {
        self.learners.all().await.unwrap()
    }

    async fn archived(&self) -> Vec<String> {
        let names = self.archive.list(&Selection::default()).await.unwrap().records;
        names.iter().map(ToString::to_string).collect()
    }

    /// The last detail on the bus.
    fn detail(&self) -> String {
        self.received.details.lock().unwrap().last().unwrap().clone()
    }
}

const AT: &str = "2023-11-14T20:00:00Z";

/// The body of an event of this type with this `data`.
fn event(event_type: &str, data: &str) -> String {
    format!(r#"{{"type":"{event_type}","api_version":"2022-11-15","timestamp":"{AT}","data":{data}}}"#)
}

/// A value of each kind, and values that few parsers accept.
fn odd_values() -> Vec<String> {
    let mut values: Vec<_> =
        ["null", "true", "254705408079", "-1.5", "1e999", "-1E+999", "12345678901234567890123"]
            .into_iter()
            .chain([
                "[]",
                "{}",
                r#""""#,
                r#""cut \ud83d""#,
                r#""\udc00\ud83d""#,
                r#""\u0000""#,
                r#"{"\ud83d":[1e999]}"#,
            ])
            .chain([r#"{"a":1,"a":2}"#])
            .map(str::to_owned)
            .collect();
    values.extend([128, 2_000].map(|levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels))));
    values
}

#[tokio::test]
async fn an_odd_value_that_nobody_needs_fails_nothing() {
    let mut world = World::start().await;
    let odd = odd_values();
    for odd in &odd {
        world
            .processes(&event(
                "example.new",
                &format!(r#"{{"user_id":"u","text":{odd},"te\ud83cxt":{odd}}}"#),
            ))
            .await;
        assert!(world.detail().ends_with(r#""data":{"user_id":"u"}}"#), "{}", world.detail());
        let start = format!(
            r#"{{"user_id":"u","course_id":"c","custom_id":{odd},"phone_number":{odd},"more":{odd}}}"#
        );
        world.processes(&event("user.course.started", &start)).await;
        let one = format!(
            r#"{{"title":"t","body":"b","path":"/l","user_id":"u","phone_number":{odd},"more":{odd}}}"#
        );
        world
            .processes(&event("notifications.sent", &format!(r#"{{"notifications":[{one}],"more":{odd}}}"#)))
            .await;
        world.processes(&event("example.new", odd)).await;
    }
    assert_eq!(world.unknown().await.len(), 2 * odd.len());
    assert_eq!(world.archived().await.len(), 4 * odd.len());
    assert_eq!(world.received.notifications.lock().unwrap().len(), odd.len());
    assert_eq!(world.received.details.lock().unwrap().len(), 4 * odd.len());
    assert_eq!(world.learners().await.len(), 1);
}

#[tokio::test]
async fn an_envelope_that_is_odd_is_handled_or_kept() {
    let mut world = World::start().await;
    let odd = odd_values();
    for odd in &odd {
        for field in ["api_version", "object", "data", "more", "\\ud83d"] {
            let body = event("example.new", "{}").replacen('{', &format!(r#"{{"{field}":{odd},"#), 1);
            world.processes(&body).await;
        }
        let of_another_version = event("notifications.sent", r#"{"notifications":[]}"#);
        let body = of_another_version.replace(r#""2022-11-15""#, odd);
        world.processes(&body).await;
        world.processes(&event("example.new", "{}").replace(&format!("\"{AT}\""), odd)).await;
    }
    assert_eq!(world.unknown().await.len(), 7 * odd.len());
    assert_eq!(world.archived().await.len(), 7 * odd.len());
    assert!(world.received.notifications.lock().unwrap().is_empty());
}

#[tokio::test]
async fn half_a_character_reaches_the_learner_as_the_replacement_character() {
    let mut world = World::start().await;
    let one = r#"{"title":"Well done \ud83c","body":"\udf89 b \\ud83c","path":"/l","user_id":"u\ud83c","custom_id":null}"#;
    world.processes(&event("notifications.sent", &format!(r#"{{"notifications":[{one}]}}"#))).await;
    let sent = world.received.notifications.lock().unwrap().remove(0);
    let expected = json!({
        "title": "Well done \u{FFFD}", "body": "\u{FFFD} b \\ud83c", "path": "/l",
        "user_id": "u\u{FFFD}", "custom_id": null,
    });
    assert_eq!(sent, expected);
    world
        .processes(&event("user.course.started", r#"{"user_id":"u","course_id":"c","custom_id":"\ud83c"}"#))
        .await;
    assert_eq!(world.learners().await[0].custom_id.as_deref(), Some("\u{FFFD}"));
}

#[tokio::test]
async fn an_id_that_is_a_number_is_its_digits_and_one_of_another_kind_refuses_only_its_notification() {
    let mut world = World::start().await;
    let one = |ids: &str| format!(r#"{{"title":"t","body":"b","path":"/l",{ids}}}"#);
    let list = [
        one(r#""user_id":7,"custom_id":42"#),
        one(r#""user_id":"u","custom_id":{}"#),
        one(r#""user_id":"v""#),
    ];
    let (outcome, reason) = world
        .deliver(&event("notifications.sent", &format!(r#"{{"notifications":[{}]}}"#, list.join(","))))
        .await;
    assert_eq!(outcome, Outcome::DeadLettered);
    assert!(reason.contains("1 of 3 items will never succeed (1)"), "{reason}");
    assert!(reason.ends_with("`custom_id` is not an id: it must be text or an integer"), "{reason}");
    let mut sent: Vec<_> = world.received.notifications.lock().unwrap().clone();
    sent.sort_by_key(ToString::to_string);
    let ids: Vec<_> = sent.iter().map(|sent| (sent["user_id"].clone(), sent["custom_id"].clone())).collect();
    assert_eq!(ids, [(json!("7"), json!("42")), (json!("v"), json!(null))]);

    world.processes(&event("user.course.started", r#"{"user_id":7,"course_id":8,"custom_id":9}"#)).await;
    let learner = world.learners().await.remove(0);
    let ids = (learner.user_id.as_str(), learner.course_id.as_str(), learner.custom_id.as_deref());
    assert_eq!(ids, ("7", "8", Some("9")));
}

#[tokio::test]
async fn a_custom_id_that_cannot_be_one_is_as_none() {
    let mut world = World::start().await;
    // The second would make the row too large for DynamoDB.
    for (course, odd) in [("a", "{}".to_owned()), ("b", format!("\"{}\"", "x".repeat(500_000)))] {
        let data = format!(r#"{{"user_id":"u","course_id":"{course}","custom_id":{odd}}}"#);
        world.processes(&event("user.course.started", &data)).await;
    }
    let custom_ids: Vec<_> = world.learners().await.into_iter().map(|row| row.custom_id).collect();
    assert_eq!(custom_ids, [None, None]);
}

#[tokio::test]
async fn only_a_handler_that_needs_what_is_missing_refuses_the_event() {
    let mut world = World::start().await;
    let started = event("user.course.started", r#"{"user_id":"u","course_id":"c"}"#);
    let time = format!("\"{AT}\"");
    for (body, expected) in [
        (
            started.replace(&time, "null"),
            "progress: `timestamp` is missing, or not a time as RFC 3339 has it",
        ),
        (
            started.replace(&time, "\"yesterday\""),
            "progress: `timestamp` is missing, or not a time as RFC 3339 has it",
        ),
        (
            started.replace("\"u\"", "null"),
            "progress: `data` does not match the payload of `user.course.started`",
        ),
        (
            started.replace("\"c\"", "1e999"),
            "progress: `data` does not match the payload of `user.course.started`",
        ),
        (
            started.replace("\"data\"", "\"more\""),
            "progress: `data` does not match the payload of `user.course.started`",
        ),
        (
            event("notifications.sent", r#"{"notifications":null}"#),
            "push: `data` does not match the payload of `notifications.sent`",
        ),
        (
            event("notifications.sent", "{}"),
            "push: `data` does not match the payload of `notifications.sent`",
        ),
    ] {
        let (outcome, reason) = world.deliver(&body).await;
        assert_eq!(outcome, Outcome::DeadLettered, "{body}");
        assert!(reason.starts_with(expected), "{reason}");
    }
    // The other handlers have it.
    assert_eq!(world.archived().await.len(), 7);
    assert_eq!(world.received.details.lock().unwrap().len(), 7);
    // The age of a push without a time counts from its receipt.
    let one = r#"{"title":"t","body":"b","path":"/l","user_id":"u"}"#;
    let sent = event("notifications.sent", &format!(r#"{{"notifications":[{one}]}}"#));
    world.processes(&sent.replace(&time, "null")).await;
    assert_eq!(world.received.notifications.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_time_after_the_largest_counts_as_any_future_one() {
    let mut world = World::start().await;
    let body = event("user.course.started", r#"{"user_id":"u","course_id":"c"}"#);
    world.processes(&body.replace(AT, "9999-12-31T23:59:59.999Z")).await;
    let learner = world.learners().await.remove(0);
    assert_eq!(learner.last_activity_at, Timestamp::from_second(RECEIVED_AT_S).unwrap());
    world.processes(&event("example.new", "{}").replace(AT, "9999-12-31T23:59:59.999Z")).await;
    let kept = world.unknown().await.remove(0);
    assert_eq!(kept.occurred_at.unwrap().to_string(), "9999-12-30T22:00:00Z");
}

#[tokio::test]
async fn the_senders_test_event_is_kept_and_fails_nothing() {
    let mut world = World::start().await;
    world.processes(r#"{"success": true}"#).await;
    let kept = world.unknown().await.remove(0);
    assert_eq!((kept.event_type.as_str(), kept.api_version.as_str(), kept.occurred_at), ("", "", None));
    assert_eq!(world.archived().await, ["!/2023/11/14/msg_1.json.gz"]);
    assert!(world.received.details.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_an_object_is_dead_lettered_and_in_the_archive() {
    let mut world = World::start().await;
    let bodies = ["", "not json", "[1]", "\u{FEFF}", r#"{"type":"a"} {}"#, "{\"type\":\"a\u{0}\"}"];
    for body in bodies {
        assert_eq!(world.deliver(body).await.0, Outcome::DeadLettered, "{body:?}");
    }
    let expected: Vec<_> = (1..=bodies.len()).map(|n| format!("!/2023/11/14/msg_{n}.json.gz")).collect();
    assert_eq!(world.archived().await, expected);
    assert!(world.unknown().await.is_empty());
}

#[tokio::test]
async fn an_event_that_the_table_has_no_room_for_is_dead_lettered_at_once() {
    let mut world = World::start().await;
    for (body, is_kept) in [
        (event(&"t".repeat(300_000), "{}"), false),
        (event("example.new", "{}").replace("2022-11-15", &"v".repeat(300_000)), false),
        (event("example.new", &format!("\"{}\"", "x".repeat(420_000))), false),
        (event("example.new", &format!("\"{}\"", "x".repeat(400_000))), true),
    ] {
        let (outcome, reason) = world.deliver(&body).await;
        let expected = if is_kept { Outcome::Processed } else { Outcome::DeadLettered };
        assert_eq!(outcome, expected, "{}", reason.chars().take(300).collect::<String>());
        assert_eq!(reason.contains("unknown: no handler takes this event, and the "), !is_kept, "{reason}");
    }
}
