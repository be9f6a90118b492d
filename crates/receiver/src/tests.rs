//! Whole requests, as API Gateway sends them, up to the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt;
use learnink_aws::CallError;
use learnink_telemetry::Place;
use learnink_webhook::message::Attribute;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use svix::webhooks::Webhook;

use super::*;
use crate::request::{SVIX_HEADERS, WEBHOOK_HEADERS};
use crate::secrets::LoadError;

mod aws;

use aws::{Aws, Reply};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW_S: i64 = 1_700_000_000;
const BODY: &str = include_str!("../../../events/user.course.started.json");

/// A receiver whose queue cannot be reached, and must not be called.
fn receiver() -> Receiver {
    let aws = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .build();
    receiver_at(&aws)
}

/// The queue. Nothing listens at its address: a server of AWS's calls has one of its own.
const QUEUE_URL: &str = "http://127.0.0.1:1/1/q";

/// A receiver whose secrets never change, with the queue of `aws`.
fn receiver_at(aws: &SdkConfig) -> Receiver {
    let secrets = SigningSecrets::fixed(Verifier::new(SECRET).unwrap());
    Receiver::new(secrets, SqsQueue::new(aws, QUEUE_URL))
}

/// A genuine request as API Gateway sends it.
fn genuine(body: &[u8]) -> Value {
    signed_with(SECRET, body)
}

fn signed_with(secret: &str, body: &[u8]) -> Value {
    let signature = Webhook::new(secret).unwrap().sign("msg_1", NOW_S, body).unwrap_or_default();
    let text = std::str::from_utf8(body).ok();
    json!({
        "version": "2.0",
        "rawPath": "/webhooks/learnink",
        "headers": {
            "content-type": "application/json",
            "svix-id": "msg_1",
            "svix-timestamp": NOW_S.to_string(),
            "svix-signature": signature,
        },
        "requestContext": { "http": { "method": "POST", "path": "/webhooks/learnink" } },
        "body": text.map_or_else(|| BASE64.encode(body), str::to_owned),
        "isBase64Encoded": text.is_none(),
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// As `lambda_runtime` does, which does not check that an event is complete.
fn read(event: &Value) -> GatewayEvent {
    Deserialize::deserialize(&mut serde_json::Deserializer::from_str(&event.to_string())).unwrap()
}

fn admitted(event: &Value) -> (Result<QueueMessage, Outcome>, Receipt) {
    let mut receipt = Receipt::new(at(NOW_S));
    let admitted = receiver().admit(read(event), &mut receipt).now_or_never();
    (admitted.expect("nothing is waited for"), receipt)
}

/// The answer and its reason, before the queue is called.
fn refused(event: &Value) -> (u16, &'static str, Option<&'static str>) {
    let outcome = admitted(event).0.err().unwrap();
    (outcome.answer().status_code, outcome.name(), outcome.reason())
}

/// A genuine request with another value at `pointer`.
fn with(pointer: &str, value: impl Into<Value>) -> Value {
    let mut event = genuine(BODY.as_bytes());
    *event.pointer_mut(pointer).unwrap() = value.into();
    event
}

fn attribute<'a>(message: &'a QueueMessage, name: &str) -> Option<&'a str> {
    let found = message.attributes.iter().find(|attribute| attribute.name == name);
    found.map(|Attribute { value, .. }| value.as_str())
}

#[test]
fn a_genuine_request_becomes_a_message_with_what_proves_it() {
    let (admitted, receipt) = admitted(&genuine(BODY.as_bytes()));
    let message = admitted.unwrap();
    assert_eq!(message.body, BODY);
    assert_eq!(attribute(&message, "svix-id"), Some("msg_1"));
    assert_eq!(attribute(&message, "svix-timestamp"), Some("1700000000"));
    assert_eq!(attribute(&message, "received-at"), Some("1700000000000"));
    assert_eq!(attribute(&message, "event-type"), Some("user.course.started"));
    assert!(attribute(&message, "svix-signature").unwrap().starts_with("v1,"));
    assert_eq!(receipt.message_id.as_deref(), Some("msg_1"));
    assert_eq!(receipt.occurred_at.unwrap().to_string(), "2022-11-04T09:58:58.233Z");
}

/// SQS as it answers if all is well.
fn confirmed(_: &str, _: &Value) -> Reply {
    (200, json!({ "MessageId": "1" }))
}

#[tokio::test]
async fn a_webhook_is_accepted_once_sqs_has_confirmed_its_message() {
    let aws = Aws::start(confirmed);
    let event = with("/headers/svix-signature", {
        let right = &genuine(BODY.as_bytes())["headers"]["svix-signature"];
        format!("v1,AAAA {}", right.as_str().unwrap())
    });
    let receipt = receiver_at(&aws.config).receive(read(&event), at(NOW_S)).await;
    assert_eq!((receipt.outcome.name(), receipt.outcome.answer().status_code), ("accepted", 200));
    assert!(receipt.has_unknown_signature);
    assert!(!receipt.verify_took.is_zero() && receipt.enqueue_took.is_some(), "{receipt:?}");
    assert_eq!(receipt.refresh, None, "secrets that never change are not read");
    let [(operation, input)] = &*aws.calls() else { panic!("{:?}", aws.calls()) };
    assert_eq!(operation, "AmazonSQS.SendMessage");
    assert_eq!((&input["QueueUrl"], &input["MessageBody"]), (&json!(QUEUE_URL), &json!(BODY)));
}

#[tokio::test]
async fn a_message_that_sqs_does_not_confirm_is_sent_again_by_the_sender() {
    for (reply, expected) in [
        ((200, json!({})), "unconfirmed"),
        ((200, json!({ "MessageId": null })), "unconfirmed"),
        ((200, json!("<html>")), "unconfirmed"),
        ((400, json!({ "__type": "com.amazonaws.sqs#QueueDoesNotExist" })), "not_found"),
    ] {
        let aws = Aws::start(move |_, _| reply.clone());
        let receipt = receiver_at(&aws.config).receive(read(&genuine(BODY.as_bytes())), at(NOW_S)).await;
        assert_eq!((receipt.outcome.reason(), receipt.outcome.answer().status_code), (Some(expected), 503));
        assert!(receipt.enqueue_took.is_some());
    }
}

#[tokio::test]
async fn the_first_call_asks_for_an_attribute_of_the_queue_and_changes_nothing() {
    let aws = Aws::start(|operation, input| {
        let is_right =
            operation == "AmazonSQS.GetQueueAttributes" && input["AttributeNames"] == json!(["QueueArn"]);
        (if is_right { 200 } else { 400 }, json!({}))
    });
    let queue = SqsQueue::new(&aws.config, QUEUE_URL);
    assert_eq!(queue.prime().await, Ok(()));
    assert_eq!(aws.calls().len(), 1);
    let down = Aws::start(|_, _| (403, json!({ "__type": "AccessDenied" })));
    let denied = SqsQueue::new(&down.config, QUEUE_URL).prime().await;
    assert_eq!(denied, Err(CallError::Denied { code: "AccessDenied".to_owned() }));
}

#[test]
fn a_queue_on_a_laptop_has_limits_of_its_own() {
    let aws = SdkConfig::builder().region(Region::from_static("us-east-1")).build();
    let queue = SqsQueue::new(&aws, QUEUE_URL);
    assert!(format!("{queue:?}").contains("attempts: 2"), "{queue:?}");
    let limits = learnink_aws::CallLimits { attempts: 7, ..learnink_aws::CallLimits::USUAL };
    let queue = queue.with_limits(limits);
    assert!(format!("{queue:?}").contains("attempts: 7"), "{queue:?}");
}

const NEW_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Secrets Manager with these values, and SQS. `None` is a value that is not there.
fn with_secrets(values: impl Fn() -> [Option<&'static str>; 2] + Send + Sync + 'static) -> Aws {
    Aws::start(move |operation, input| {
        if operation != "secretsmanager.GetSecretValue" {
            return confirmed(operation, input);
        }
        let [current, previous] = values();
        let value = if input["VersionStage"] == "AWSCURRENT" { current } else { previous };
        let missing = || (400, json!({ "__type": "ResourceNotFoundException" }));
        value.map_or_else(missing, |value| (200, json!({ "SecretString": value })))
    })
}

/// A receiver that read its secrets at this second, and what changes them in Secrets Manager.
async fn receiver_with_secrets(
    before: [Option<&'static str>; 2],
    after: [Option<&'static str>; 2],
    read_at_s: i64,
) -> (Receiver, Arc<AtomicBool>) {
    let are_changed = Arc::new(AtomicBool::new(false));
    let seen = are_changed.clone();
    let aws = with_secrets(move || if seen.load(Ordering::SeqCst) { after } else { before });
    let secrets = SigningSecrets::load(&aws.config, "learnink", at(read_at_s)).await.unwrap();
    (Receiver::new(secrets, SqsQueue::new(&aws.config, QUEUE_URL)), are_changed)
}

#[tokio::test]
async fn a_receiver_without_a_usable_secret_does_not_start() {
    let load = async |values| {
        let aws = with_secrets(move || values);
        SigningSecrets::load(&aws.config, "learnink", at(NOW_S)).await.err()
    };
    assert_eq!(load([Some(SECRET), None]).await, None);
    assert_eq!(load([Some(SECRET), Some(NEW_SECRET)]).await, None);
    assert!(matches!(load([None, None]).await, Some(LoadError::Read(_))));
    assert!(matches!(load([Some("none"), None]).await, Some(LoadError::Unusable(_))));
}

#[tokio::test]
async fn a_webhook_of_a_new_secret_makes_the_receiver_read_it_and_is_accepted() {
    let (old, new) = ([Some(SECRET), None], [Some(NEW_SECRET), Some(SECRET)]);
    let (receiver, is_rotated) = receiver_with_secrets(old, new, NOW_S).await;
    let receive = async |secret: &str, now_s: i64| {
        let receipt = receiver.receive(read(&signed_with(secret, BODY.as_bytes())), at(now_s)).await;
        (receipt.outcome.name(), receipt.secret, receipt.refresh)
    };

    assert_eq!(receive(SECRET, NOW_S).await, ("accepted", Some(SecretSlot::Current), None));
    assert_eq!(receive(NEW_SECRET, NOW_S).await, ("refused", None, Some(Refresh::Read)));
    is_rotated.store(true, Ordering::SeqCst);
    assert_eq!(receive(NEW_SECRET, NOW_S + 1).await, ("refused", None, None), "30 s have not passed");
    let read = Some(Refresh::Read);
    assert_eq!(receive(NEW_SECRET, NOW_S + 30).await, ("accepted", Some(SecretSlot::Current), read));
    assert_eq!(receive(SECRET, NOW_S + 30).await, ("accepted", Some(SecretSlot::Previous), None));
}

#[tokio::test]
async fn secrets_that_are_five_minutes_old_are_read_again_while_a_webhook_is_queued() {
    let (receiver, is_down) = receiver_with_secrets([Some(SECRET), None], [None, None], NOW_S - 300).await;
    is_down.store(true, Ordering::SeqCst);
    let receipt = receiver.receive(read(&genuine(BODY.as_bytes())), at(NOW_S)).await;
    assert!(matches!(receipt.refresh, Some(Refresh::Failed(_))), "{receipt:?}");
    assert_eq!(receipt.outcome.name(), "accepted", "the secret in use stays");
}

#[test]
fn header_names_have_any_case() {
    let mut event = genuine(BODY.as_bytes()).to_string();
    for (name, spelt) in
        [("svix-id", "Svix-Id"), ("svix-timestamp", "SVIX-TIMESTAMP"), ("svix-sig", "sViX-SiG")]
    {
        event = event.replace(name, spelt);
    }
    assert!(admitted(&event.parse().unwrap()).0.is_ok());
}

#[test]
fn two_spellings_of_one_header_are_two_headers() {
    let mut event = genuine(BODY.as_bytes());
    event["headers"]["Svix-Id"] = "msg_1".into();
    assert_eq!(refused(&event), (401, "refused", Some("malformed_header")));
}

#[test]
fn a_body_in_base64_is_the_bytes_that_were_signed() {
    let mut event = genuine(BODY.as_bytes());
    event["body"] = BASE64.encode(BODY).into();
    event["isBase64Encoded"] = true.into();
    assert_eq!(admitted(&event).0.unwrap().body, BODY);
}

#[test]
fn a_body_that_is_not_what_the_gateway_says_is_refused() {
    let mut event = with("/isBase64Encoded", true);
    assert_eq!(refused(&event), (401, "refused", Some("body_not_base64")));
    event["body"] = BASE64.encode(b"\xFF").into();
    assert_eq!(refused(&event), (401, "refused", Some("body_not_utf8")));
}

#[test]
fn genuine_bodies_that_are_no_events_are_admitted_all_the_same() {
    for body in ["", " ", "not json", "[]", r#"{"type":"of.tomorrow","api_version":"2099-01-01"}"#, "\u{0}"] {
        let (admitted, receipt) = admitted(&genuine(body.as_bytes()));
        let message = admitted.unwrap();
        let decoded = learnink_webhook::Message::decode(&message.body, |name| attribute(&message, name));
        assert_eq!(decoded.unwrap().body, body.as_bytes());
        assert_eq!(receipt.body_bytes, body.len());
    }
    let mut event = genuine(b"");
    event["body"] = Value::Null;
    assert!(admitted(&event).0.is_ok(), "the gateway leaves out a body that is empty");
}

#[test]
fn what_is_no_webhook_is_told_so_without_a_look_at_its_signature() {
    for (event, expected) in [
        (with("/rawPath", "/"), (404, "not_found", None)),
        (with("/rawPath", "/webhooks/learnink/"), (404, "not_found", None)),
        (with("/rawPath", "/xwebhooks/learnink"), (404, "not_found", None)),
        (with("/requestContext/http/method", "GET"), (405, "method_not_allowed", None)),
        (with("/requestContext/http/method", "post"), (405, "method_not_allowed", None)),
        (with("/body", "x".repeat(6 * 1024 * 1024 + 1)), (413, "too_large", None)),
    ] {
        assert_eq!(refused(&event), expected);
    }
}

#[test]
fn a_stage_may_stand_before_the_path() {
    assert!(admitted(&with("/rawPath", "/staging/webhooks/learnink")).0.is_ok());
}

#[test]
fn a_genuine_body_that_cannot_fit_the_queue_is_answered_413() {
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + ((random >> 33) % 90) as u8)
    };
    let noise: String = (0..1_500_000).map(|_| next()).collect();
    assert_eq!(refused(&genuine(noise.as_bytes())), (413, "too_large", None));
    assert!(admitted(&genuine("a".repeat(1_500_000).as_bytes())).0.is_ok(), "compressed it fits");
    assert!(
        admitted(&genuine("a".repeat(LARGEST_BODY_BYTES).as_bytes())).0.is_ok(),
        "and so does the largest"
    );
    // A list for twelve thousand learners: too large at the fastest level, but not at the thorough one.
    let mut text = |alphabet: &[u8], length: usize| -> String {
        (0..length).map(|_| char::from(alphabet[next() as usize % alphabet.len()])).collect()
    };
    let alphanumeric: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').collect();
    let list: Vec<String> = (0..12_000)
        .map(|_| {
            let (user_id, custom_id) = (text(&alphanumeric, 28), text(b"0123456789abcdef", 32));
            let number = text(b"0123456789", 8);
            format!(
                r#"{{"title":"Hi Mary!","body":"Don't forget to complete your training today","path":"/learning","user_id":"{user_id}","custom_id":"{custom_id}","phone_number":"+2547{number}"}}"#
            )
        })
        .collect();
    let list = format!("[{}]", list.join(","));
    let message = admitted(&genuine(list.as_bytes())).0.expect("it fits with more effort");
    let decoded = learnink_webhook::Message::decode(&message.body, |name| attribute(&message, name));
    assert!(decoded.unwrap().body == list.as_bytes());
}

#[test]
fn an_event_that_is_no_request_is_told_so_and_never_quoted() {
    for event in [
        json!({}),
        json!({ "key1": "value1" }),
        json!([]),
        json!("+254705408079"),
        with("/body", 254_705_408_079_u64),
        with("/headers", json!({ "svix-id": ["+254705408079"] })),
        with("/requestContext", Value::Null),
    ] {
        assert_eq!(refused(&event), (400, "no_request", None), "{event}");
    }
}

#[test]
fn an_answer_has_a_status_and_nothing_of_the_senders() {
    let answers: Vec<_> = [
        Outcome::Accepted,
        Outcome::Refused(Refusal::MissingHeader),
        Outcome::Refused(Refusal::NoMatchingSignature),
        Outcome::BodyTooLarge,
        Outcome::Unavailable(CallError::TimedOut),
        Outcome::NotFound,
        Outcome::MethodNotAllowed,
        Outcome::NoRequest,
    ]
    .iter()
    .map(|outcome| (outcome.name(), outcome.answer()))
    .collect();
    insta::assert_json_snapshot!(answers);
}

fn place() -> Place<'static> {
    Place {
        function: "learnink-webhooks-staging-receiver",
        version: "7",
        build: "0.1.0+1a2b3c4d5e",
        invocation_id: "req-1",
        is_cold: true,
    }
}

fn line(receipt: &Receipt) -> Value {
    serde_json::from_slice(&receipt.line(place()).into_line()).unwrap()
}

#[test]
fn the_line_of_an_accepted_webhook_has_everything_one_filters_by_and_its_metrics() {
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    let receipt = Receipt {
        outcome: Outcome::Accepted,
        verify_took: std::time::Duration::from_micros(48),
        enqueue_took: Some(std::time::Duration::from_micros(6_250)),
        refresh: Some(Refresh::Read),
        ..receipt
    };
    insta::assert_json_snapshot!(line(&receipt));
}

#[test]
fn the_line_of_a_refused_request_says_why_and_names_nobody() {
    let (refused, receipt) = admitted(&with("/headers/svix-signature", "v1,AAAA"));
    let receipt = Receipt {
        outcome: refused.err().unwrap(),
        verify_took: std::time::Duration::from_micros(48),
        refresh: Some(Refresh::Failed(CallError::TimedOut.into())),
        ..receipt
    };
    insta::assert_json_snapshot!(line(&receipt));
}

#[test]
fn a_forged_id_is_in_the_line_only_where_it_has_the_shape_of_one() {
    let claimed = |event: &Value| {
        let (refused, receipt) = admitted(event);
        let receipt = Receipt { outcome: refused.err().unwrap(), ..receipt };
        let text = String::from_utf8(receipt.line(place()).into_line()).unwrap();
        assert!(text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line.get("message.id"), None);
        line.get("claimed.message.id").cloned()
    };
    // A refused request can always be found by the id in the sender's dashboard.
    for refused in [
        with("/headers/svix-signature", "v1,AAAA"),
        with("/headers/svix-timestamp", "1"),
        with("/isBase64Encoded", true),
        with("/body", "x".repeat(6 * 1024 * 1024 + 1)),
    ] {
        assert_eq!(claimed(&refused), Some(json!("msg_1")));
    }
    for id in [
        "",
        "a.b",
        "a b",
        "msg_1\n{\"level\":\"ERROR\"}",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{202e}msg_1",
        "msg_1\u{0}",
        "+254705408079",
        "Mary",
        &format!("msg_{}", "x".repeat(253)),
    ] {
        assert_eq!(claimed(&with("/headers/svix-id", id)), None, "{id:?}");
    }
    assert_eq!(claimed(&with("/headers/svix-id", "msg_a-B_1")), Some(json!("msg_a-B_1")));
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    assert_eq!(receipt.claimed_message_id, None);
}

#[test]
fn no_line_is_longer_than_a_few_kilobytes_whatever_a_sender_writes() {
    let longest = |event: &Value| {
        let (admitted, receipt) = admitted(event);
        let outcome = admitted.map_or_else(|outcome| outcome, |_| Outcome::Accepted);
        Receipt { outcome, ..receipt }.line(place()).into_line().len()
    };
    let control = "\u{1}".repeat(300_000);
    for event_type in [control.as_str(), &"\u{1}".repeat(256), &"x".repeat(300_000)] {
        let body = json!({ "type": event_type, "timestamp": control }).to_string();
        assert!(longest(&genuine(body.as_bytes())) < 4096);
    }
    for pointer in ["/headers/svix-id", "/headers/svix-timestamp", "/headers/svix-signature", "/rawPath"] {
        for text in [&control, &"x".repeat(256), &"x".repeat(300_000)] {
            assert!(longest(&with(pointer, text.as_str())) < 4096, "{pointer}");
        }
    }
    let code = "<html>".repeat(100_000);
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    let error =
        CallError::Throttled { code: learnink_webhook::error::service_code(&code).unwrap_or("none").into() };
    let receipt = Receipt { outcome: Outcome::Unavailable(error), ..receipt };
    assert!(receipt.line(place()).into_line().len() < 4096);
}

#[test]
fn a_receipt_tells_of_a_rotation() {
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    assert_eq!(receipt.rotation(), None);
    for (secret, has_unknown_signature, expected) in [
        (None, false, None),
        (Some(SecretSlot::Previous), false, Some(Rotation::PreviousSecretOnly)),
        (Some(SecretSlot::Previous), true, Some(Rotation::NewSecretMissing)),
        (Some(SecretSlot::Current), true, Some(Rotation::NewSecretMissing)),
    ] {
        let receipt = Receipt { secret, has_unknown_signature, ..Receipt::new(receipt.received_at) };
        assert_eq!(receipt.rotation(), expected);
    }
}

#[test]
fn the_line_of_a_webhook_that_was_not_queued_says_what_aws_said() {
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    let error = CallError::Throttled { code: "RequestThrottled".to_owned() };
    let line = line(&Receipt { outcome: Outcome::Unavailable(error), ..receipt });
    assert_eq!((&line["level"], &line["reason"]), (&json!("ERROR"), &json!("throttled")));
    assert_eq!(line["detail"], "AWS throttled the call (RequestThrottled)");
}

/// Each way that a request can end.
fn outcomes() -> [Outcome; 8] {
    [
        Outcome::Accepted,
        Outcome::Refused(Refusal::MissingHeader),
        Outcome::TooLarge(learnink_webhook::message::EncodeError { bytes: 1 }),
        Outcome::BodyTooLarge,
        Outcome::Unavailable(CallError::Unreachable),
        Outcome::NotFound,
        Outcome::MethodNotAllowed,
        Outcome::NoRequest,
    ]
}

#[test]
fn every_metric_of_a_line_and_each_of_its_dimensions_is_a_field_of_it() {
    let (_, mut receipt) = admitted(&genuine(BODY.as_bytes()));
    for outcome in outcomes() {
        receipt.outcome = outcome;
        let line = line(&receipt);
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        for directive in directives {
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{line}");
            }
            for dimension in
                directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap())
            {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{line}");
            }
        }
    }
}

#[test]
fn each_way_that_a_request_ends_has_its_level_its_detail_and_its_metrics() {
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    let mut receipt = Receipt { secret: Some(SecretSlot::Previous), ..receipt };
    let ends: Vec<_> = outcomes()
        .into_iter()
        .map(|outcome| {
            receipt.outcome = outcome;
            let Value::Object(mut line) = line(&receipt) else { panic!("a line is an object") };
            // A metric's name begins with a capital; the other fields are the same in every line, or in the other snapshots.
            line.retain(|name, _| {
                ["level", "message", "detail"].contains(&&**name) || name.starts_with(char::is_uppercase)
            });
            line
        })
        .collect();
    insta::assert_json_snapshot!(ends);
}

#[test]
fn nothing_that_can_be_printed_shows_a_payload_or_a_signature() {
    let event = read(&genuine(BODY.as_bytes()));
    let request = format!("{:?}", event.0);
    let names = r#"["svix-id", "svix-signature", "svix-timestamp"]"#;
    let expected = format!(
        r#"Some(Request {{ method: "POST", headers: {names}, body_bytes: Some({}), .. }})"#,
        BODY.len()
    );
    assert_eq!(request, expected);
    let (_, receipt) = admitted(&genuine(BODY.as_bytes()));
    let (refusal, _) = admitted(&with("/headers/svix-id", "msg_2"));
    let printed = format!("{event:?} {receipt:?} {:?} {}", refusal.err(), line(&receipt));
    for secret in ["254705408079", "v1,", "MfKQ9r8G", "le2bB6Fi4CMgrIOIqMCJryZb9PR2"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

proptest! {
    /// `lambda_http` reads whole requests and is widely used; it is the reference here.
    #[test]
    fn a_request_is_read_as_lambda_http_reads_it(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        names in proptest::collection::hash_set("(Svix-|WEBHOOK-)(id|Timestamp|SIGNATURE|x)|Host|accept", 0..6),
        value in "[ -~]{0,30}",
        method in "GET|POST|PUT",
    ) {
        let mut event = genuine(&body);
        event["requestContext"]["http"]["method"] = method.into();
        event["headers"] = json!({});
        for name in names {
            event["headers"][name] = value.as_str().into();
        }
        let theirs = lambda_http::request::from_str(&{
            let mut event = event.clone();
            event["headers"]["host"] = "localhost".into();
            event.to_string()
        });
        let theirs = theirs.unwrap();
        let ours: Request = serde_json::from_str(&event.to_string()).unwrap();
        prop_assert_eq!(ours.body.as_deref(), Some(theirs.body().as_ref()));
        prop_assert_eq!((ours.method.as_str(), ours.path.as_str()), (theirs.method().as_str(), theirs.uri().path()));
        for name in SVIX_HEADERS.into_iter().chain(WEBHOOK_HEADERS) {
            let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            prop_assert_eq!(values(&ours.headers), values(theirs.headers()));
        }
    }
}
