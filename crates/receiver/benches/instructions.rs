//! Instruction counts by callgrind: the cost of each part of a request, independent of the machine's load.
//!
//! `scripts/bench --instructions` runs it. Counts are the same to the instruction for the same binary. Callgrind
//! does not support SHA instructions, so hashing costs more here than on a processor.

#![expect(
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark that cannot be set up has failed, and its macros write undocumented functions"
)]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use http::HeaderMap;
use jiff::Timestamp;
use learnink_receiver::{GatewayEvent, Unverified, VerifiedWebhook, Verifier, signature_headers};
use learnink_webhook::Message;
use learnink_webhook::event::EnvelopeHead;
use learnink_webhook::message::{DecodeError, EncodeError, MessageId, QueueMessage};
use serde_json::json;
use svix::webhooks::Webhook;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW_S: i64 = 1_700_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW_S).expect("the second is within range")
}

/// A `notifications.sent` event of about `bytes` bytes, with all entries different.
fn body(bytes: usize) -> String {
    let mut body = r#"{"api_version":"2022-11-15","object":"event","type":"notifications.sent","#.to_owned();
    body.push_str(r#""timestamp":"2025-11-06T09:58:58.233Z","data":{"notifications":["#);
    for n in 0_u32.. {
        let mixed = n.wrapping_mul(2_654_435_761);
        let notification = json!({
            "title": format!("Hi learner {mixed:x}!"),
            "body": "Don't forget to complete your training today",
            "path": format!("/learning/{n}"),
            "user_id": format!("{mixed:08x}6Fi4CMgrIOIqMCJryZb9"),
            "custom_id": null,
            "phone_number": format!("+2547{:08}", mixed % 100_000_000),
        })
        .to_string();
        if n > 0 && body.len() + notification.len() > bytes {
            break;
        }
        body.push_str(if n > 0 { "," } else { "" });
        body.push_str(&notification);
    }
    body.push_str("]}}");
    body
}

fn signature(body: &str) -> String {
    let webhook = Webhook::new(SECRET).expect("the secret is usable");
    webhook.sign("msg_1", NOW_S, body.as_bytes()).expect("the body is UTF-8")
}

fn event(bytes: usize) -> String {
    let body = body(bytes);
    json!({
        "version": "2.0",
        "rawPath": "/webhooks/learnink",
        "headers": {
            "accept": "*/*",
            "content-type": "application/json",
            "host": "abcdefghij.execute-api.eu-west-1.amazonaws.com",
            "svix-id": "msg_1",
            "svix-timestamp": NOW_S.to_string(),
            "svix-signature": signature(&body),
            "user-agent": "Svix-Webhooks/1.75.1",
            "x-forwarded-for": "52.215.16.239",
        },
        "requestContext": { "http": { "method": "POST", "path": "/webhooks/learnink" } },
        "body": body,
        "isBase64Encoded": false,
    })
    .to_string()
}

fn delivery(bytes: usize) -> (Verifier, HeaderMap, Vec<u8>) {
    let body = body(bytes);
    let signature = signature(&body);
    let headers = [("svix-id", "msg_1"), ("svix-timestamp", "1700000000"), ("svix-signature", &*signature)];
    let verifier = Verifier::new(SECRET).expect("the secret is usable");
    (verifier, signature_headers(headers), body.into_bytes())
}

fn message(bytes: usize) -> Message {
    let body = body(bytes);
    Message {
        id: MessageId::parse("msg_1").expect("the id is usable"),
        signed_at_s: NOW_S,
        signature: signature(&body),
        received_at: now(),
        event_type: Some("notifications.sent".to_owned()),
        body: body.into_bytes(),
        part: None,
        window: None,
    }
}

fn queued(bytes: usize) -> QueueMessage {
    message(bytes).encode().expect("it fits the queue")
}

#[library_benchmark(setup = event)]
#[benches::bytes(400, 10_000, 200_000)]
fn read_request(event: String) -> serde_json::Result<GatewayEvent> {
    serde_json::from_str(black_box(&event))
}

#[library_benchmark(setup = delivery)]
#[benches::bytes(400, 10_000, 200_000)]
fn verify(delivery: (Verifier, HeaderMap, Vec<u8>)) -> Result<VerifiedWebhook, Unverified> {
    let (verifier, headers, body) = black_box(delivery);
    verifier.verify(&headers, body, now())
}

#[library_benchmark(setup = body)]
#[benches::bytes(400, 10_000, 200_000)]
fn label(body: String) -> EnvelopeHead {
    EnvelopeHead::read(black_box(body.as_bytes()))
}

#[library_benchmark(setup = message)]
#[benches::bytes(400, 10_000, 200_000)]
fn encode(message: Message) -> Result<QueueMessage, EncodeError> {
    black_box(message).encode()
}

#[library_benchmark(setup = queued)]
#[benches::bytes(400, 10_000, 200_000)]
fn decode(queued: QueueMessage) -> Result<Message, DecodeError> {
    let QueueMessage { body, attributes } = black_box(&queued);
    Message::decode(body, |name| {
        attributes.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_str())
    })
}

library_benchmark_group!(name = receiver, benchmarks = [read_request, verify, label, encode, decode]);
main!(library_benchmark_groups = receiver);
