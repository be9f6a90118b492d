//! Bytes to an outcome: the receiver answers every event, never with text of the sender. A request that it admits
//! is genuine by a second computation, and it admits every genuine one.
//!
//! An input is an API Gateway event or, after a zero byte, a [`Delivery`] from which one is made.

#![no_main]

mod delivery;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt;
use jiff::Timestamp;
use learnink_fuzz::{Bytes, is_text_for_sqs, is_usable_id, signature};
use learnink_receiver::request::{SVIX_HEADERS, WEBHOOK_HEADERS};
use learnink_receiver::{
    GatewayEvent, Outcome, PATH, Receipt, Receiver, Refusal, SecretSlot, SigningSecrets, SqsQueue, Verifier,
};
use learnink_telemetry::Place;
use learnink_webhook::message::{
    EncodeError, LARGEST_BODY_BYTES, LARGEST_MESSAGE_BYTES, QueueMessage, attribute,
};
use learnink_webhook::{Envelope, Message};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::Value;

use crate::delivery::Delivery;

const CURRENT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PREVIOUS: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const UNKNOWN: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The time of the second vector in `crates/receiver/src/verify/tests.rs`, made outside our code.
const NOW_S: i64 = 1_614_265_330;

const PLACE: Place<'_> =
    Place { function: "receiver", version: "1", build: "0", invocation_id: "invocation", is_cold: false };

/// A receiver whose queue cannot be reached, and is not called.
static RECEIVER: LazyLock<Receiver> = LazyLock::new(|| {
    let aws = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .build();
    let verifier = Verifier::new(&format!("{CURRENT} {PREVIOUS}")).expect("both are usable");
    Receiver::new(SigningSecrets::fixed(verifier), SqsQueue::new(&aws, "http://127.0.0.1:1"))
});

fuzz_target!(|input: Input<'_>| match input {
    Input::Event(event) => drop(judged(event.0)),
    Input::Delivery(delivery) => is_judged_fairly(&delivery),
});

#[derive(Debug)]
enum Input<'a> {
    Event(Bytes<'a>),
    Delivery(Box<Delivery<'a>>),
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let rest = u.bytes(u.len())?;
        Ok(match rest {
            [0, delivery @ ..] => {
                Self::Delivery(Box::new(Delivery::arbitrary_take_rest(Unstructured::new(delivery))?))
            }
            event => Self::Event(Bytes(event)),
        })
    }
}

/// Checks that a genuine request is admitted, unless it is too large, and no other.
fn is_judged_fairly(delivery: &Delivery<'_>) {
    let body = delivery.body();
    let signatures = delivery.signatures(&body);
    let outcome = judged(&delivery.event(&body, &signatures));
    if delivery.is_damaged() {
        return;
    }

    let is_genuine = delivery.is_genuine() && std::str::from_utf8(&body).is_ok();
    match outcome {
        Ok(_) => assert!(is_genuine && body.len() <= LARGEST_BODY_BYTES),
        Err(Outcome::BodyTooLarge) => assert!(body.len() > LARGEST_BODY_BYTES),
        Err(Outcome::TooLarge(_)) => {
            // Base64 of gzip, the signatures, and everything else.
            let at_most = body.len() + body.len() / 2 + signatures.len() + 1024;
            assert!(is_genuine && at_most > LARGEST_MESSAGE_BYTES);
        }
        Err(Outcome::Refused(refusal)) => assert!(!is_genuine, "{refusal}"),
        Err(outcome) => panic!("{outcome:?}"),
    }
}

/// Passes an event to the receiver as `lambda_runtime` does, and checks the outcome.
fn judged(event: &[u8]) -> Result<QueueMessage, Outcome> {
    let now = Timestamp::from_second(NOW_S).expect("a second of our time");
    let mut receipt = Receipt::new(now);
    let admitted = RECEIVER.admit(read(event), &mut receipt).now_or_never().expect("nothing is waited for");
    assert!(receipt.refresh.is_none());
    // Measured, so it differs each time.
    receipt.verify_took = Duration::ZERO;

    match admitted {
        Ok(message) => {
            let webhook = decoded(&message);
            is_genuine(&webhook, &message);
            is_what_was_sent(&webhook, event);
            is_labelled_rightly(&webhook, &message, &receipt);
            receipt.outcome = Outcome::Accepted;
            says_nothing_but(&receipt, &[receipt.message_id.as_deref(), receipt.event_type.as_deref()]);
            Ok(message)
        }
        Err(outcome) => {
            receipt.outcome = outcome;
            is_refused_briefly(&receipt);
            Err(receipt.outcome)
        }
    }
}

/// Checks that a refusal reveals nothing: it has a status, and a line of our words. The line may name signed
/// values, and a claimed id that has the shape of one.
fn is_refused_briefly(receipt: &Receipt) {
    let outcome = &receipt.outcome;
    let answer = serde_json::to_string(&outcome.answer()).expect("it is a status and a header");
    let expected = match outcome {
        Outcome::Refused(_) => r#"{"statusCode":401,"headers":{}}"#,
        Outcome::TooLarge(_) | Outcome::BodyTooLarge => r#"{"statusCode":413,"headers":{}}"#,
        Outcome::NotFound => r#"{"statusCode":404,"headers":{}}"#,
        Outcome::MethodNotAllowed => r#"{"statusCode":405,"headers":{"allow":"POST"}}"#,
        Outcome::NoRequest => r#"{"statusCode":400,"headers":{}}"#,
        Outcome::Accepted | Outcome::Unavailable(_) => panic!("the queue was not asked: {outcome:?}"),
    };
    assert_eq!(answer, expected);

    if let Outcome::TooLarge(EncodeError { bytes }) = outcome {
        assert!(*bytes > LARGEST_MESSAGE_BYTES);
        let detail = outcome.detail();
        let proven = [&receipt.message_id, &receipt.event_type, &detail];
        says_nothing_but(receipt, &proven.map(Option::as_deref));
    } else {
        let claimed = receipt.claimed_message_id.as_deref();
        assert!(claimed.is_none_or(is_usable_id));
        says_nothing_but(receipt, &[claimed]);
    }
}

fn read(event: &[u8]) -> GatewayEvent {
    let read = GatewayEvent::deserialize(&mut serde_json::Deserializer::from_slice(event));
    read.expect("no parser's error reaches whoever invoked the function")
}

fn decoded(message: &QueueMessage) -> Message {
    let value = |wanted| {
        let found = message.attributes.iter().find(|attribute| attribute.name == wanted);
        found.map(|attribute| attribute.value.as_str())
    };
    Message::decode(&message.body, value).expect("the consumer can read it")
}

/// Checks that the message alone proves its sender, and that SQS accepts it.
fn is_genuine(webhook: &Message, message: &QueueMessage) {
    let id = webhook.id.as_str();
    assert!(is_usable_id(id));
    assert!((webhook.signed_at_s - NOW_S).abs() <= 300);
    assert_eq!(webhook.received_at.as_second(), NOW_S);
    assert!(std::str::from_utf8(&webhook.body).is_ok());

    let mac = |secret| signature(secret, id, &webhook.signed_at_s.to_string(), &webhook.body);
    let macs = [mac(CURRENT), mac(PREVIOUS)];
    let signatures: Vec<_> = webhook.signature.split(' ').filter(|signature| !signature.is_empty()).collect();
    assert!(signatures.iter().any(|signature| macs.iter().any(|mac| mac == signature)));
    assert!(signatures.len() <= 16);

    assert!(message.attributes.len() <= 7);
    assert!(message.bytes() <= LARGEST_MESSAGE_BYTES);
    assert!(is_text_for_sqs(&message.body));
    for attribute in &message.attributes {
        assert!(is_text_for_sqs(&attribute.value), "{}", attribute.name);
        let is_number = [attribute::TIMESTAMP, attribute::RECEIVED_AT].contains(&attribute.name);
        assert_eq!(attribute.data_type, if is_number { "Number" } else { "String" });
    }
}

/// Checks that the message matches the request: to our path, by POST, with each part from one header of one
/// family.
fn is_what_was_sent(webhook: &Message, event: &[u8]) {
    let request = read(event).0.expect("it was admitted");
    let is_svix = SVIX_HEADERS.iter().any(|name| request.headers.contains_key(*name));
    let [id, timestamp, signature] = if is_svix { SVIX_HEADERS } else { WEBHOOK_HEADERS };
    let values = |name: &str| request.headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(values(id), [webhook.id.as_str()]);
    assert_eq!(values(timestamp), [&*webhook.signed_at_s.to_string()]);
    assert!(values(signature) == [webhook.signature.as_str()]);

    // Read again by a general parser. It refuses some events that we accept, because we skip parts.
    let Some(Ok(event)) = serde_json::Deserializer::from_slice(event).into_iter::<Value>().next() else {
        return;
    };
    let (Some(path), Some(method)) =
        (event["rawPath"].as_str(), event["requestContext"]["http"]["method"].as_str())
    else {
        // Serde also reads a list as a struct.
        return;
    };
    assert!(path.ends_with(PATH) && method == "POST");
    let text = event["body"].as_str().unwrap_or_default();
    let body = if event["isBase64Encoded"] == true {
        BASE64.decode(text).expect("it was admitted")
    } else {
        text.into()
    };
    assert!(body == webhook.body);
    let has = |name: &str, value: &str| {
        let mut headers = event["headers"].as_object().expect("it was admitted").iter();
        headers.any(|(known, text)| known.eq_ignore_ascii_case(name) && text == value)
    };
    assert!(has(id, webhook.id.as_str()));
    assert!(has(signature, &webhook.signature));
}

/// Checks that the receiver has read the same type and time as the consumer, if the consumer can read the event.
fn is_labelled_rightly(webhook: &Message, message: &QueueMessage, receipt: &Receipt) {
    assert_eq!(receipt.message_id.as_deref(), Some(webhook.id.as_str()));
    assert_eq!(receipt.body_bytes, webhook.body.len());
    assert_eq!(receipt.signed_at_s, Some(webhook.signed_at_s));
    if let Ok(event) = Envelope::parse(&webhook.body) {
        let name = Some(event.event_type).filter(|name| (1..=256).contains(&name.len()));
        assert_eq!(receipt.occurred_at, event.occurred_at);
        assert_eq!(receipt.event_type, name);
        let carried = name.filter(|name| is_text_for_sqs(name));
        // The type makes way for what would not fit beside it.
        let type_bytes = carried.as_ref().map_or(0, |name| "event-typeString".len() + name.len());
        let may_be_untyped = message.bytes() + type_bytes > LARGEST_MESSAGE_BYTES;
        assert!(webhook.event_type == carried || (may_be_untyped && webhook.event_type.is_none()));
    }
}

/// Checks that the line is one line of JSON, and that all text in it is ours, except `proven`.
fn says_nothing_but(receipt: &Receipt, proven: &[Option<&str>]) {
    let line = receipt.line(PLACE).into_line();
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
    let line: Value = serde_json::from_slice(&line).expect("a line is JSON");
    for text in texts(&line) {
        assert!(OUR_WORDS.contains(&text) || proven.contains(&Some(text.as_str())), "{text}");
    }
}

/// All of our own text in lines, at our time.
static OUR_WORDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let now = Timestamp::from_second(NOW_S).expect("a second of our time");
    let refusals = [
        Refusal::MissingHeader,
        Refusal::MalformedHeader,
        Refusal::UnusableId,
        Refusal::TimestampTooOld,
        Refusal::TimestampInFuture,
        Refusal::TooManySignatures,
        Refusal::UnsupportedVersion,
        Refusal::BodyNotBase64,
        Refusal::BodyNotUtf8,
        Refusal::NoMatchingSignature,
    ];
    let others = [
        Outcome::Accepted,
        Outcome::TooLarge(EncodeError { bytes: 0 }),
        Outcome::BodyTooLarge,
        Outcome::NotFound,
        Outcome::MethodNotAllowed,
        Outcome::NoRequest,
    ];
    let outcomes = refusals.map(Outcome::Refused).into_iter().chain(others);
    let mut words = BTreeSet::new();
    for outcome in outcomes {
        let mut receipt = Receipt {
            outcome,
            message_id: Some(String::new()),
            claimed_message_id: Some(String::new()),
            event_type: Some(String::new()),
            occurred_at: Some(now),
            signed_at_s: Some(NOW_S),
            ..Receipt::new(now)
        };
        for secret in [SecretSlot::Current, SecretSlot::Previous] {
            receipt.secret = Some(secret);
            let line = receipt.line(PLACE).into_line();
            words.extend(texts(&serde_json::from_slice(&line).expect("a line is JSON")));
        }
    }
    words
});

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => {
            members.iter().flat_map(|(name, value)| [vec![name.clone()], texts(value)].concat()).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}
