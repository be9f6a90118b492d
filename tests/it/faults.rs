//! A 200 means that the webhook is on the queue, exactly as it was signed, for every fault of SQS.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use learnink_local::sdk_config;
use learnink_receiver::{GatewayEvent, Receipt, Receiver, SigningSecrets, SqsQueue, Verifier};
use learnink_tests::fake_aws::{FakeAws, Fate, StoredMessage, TestCertificate};
use learnink_tests::signing::{self, OTHER_SECRET, SECRET};
use learnink_webhook::Message;
use serde_json::json;

const NOW_S: i64 = 1_700_000_000;

/// A request as API Gateway sends it.
pub(crate) fn event(secret: &str, id: &str, signed_at_s: i64, body: &str) -> GatewayEvent {
    let headers: HashMap<_, _> = signing::headers(secret, id, signed_at_s, body.as_bytes()).into();
    let event = json!({
        "rawPath": "/webhooks/learnink",
        "headers": headers,
        "requestContext": { "http": { "method": "POST" } },
        "body": body,
    });
    serde_json::from_str(&event.to_string()).unwrap()
}

fn receiver(aws: &FakeAws) -> Receiver {
    let secrets = SigningSecrets::fixed(Verifier::new(SECRET).unwrap());
    Receiver::new(secrets, SqsQueue::new(&aws.sdk_config(), aws.queue_url()))
}

async fn receive(receiver: &Receiver, id: &str, body: &str) -> Receipt {
    receiver.receive(event(SECRET, id, NOW_S, body), Timestamp::from_second(NOW_S).unwrap()).await
}

fn decode(stored: &StoredMessage) -> Message {
    Message::decode(&stored.body, |name| stored.attributes.get(name).map(String::as_str)).unwrap()
}

/// The answer and its reason if every call to SQS has this fate.
async fn answer(fate: Fate) -> (Fate, u16, Option<&'static str>, Option<&'static str>) {
    let aws = FakeAws::start().await;
    aws.decide(move |_| fate);
    let receipt = receive(&receiver(&aws), "msg_1", "{}").await;
    let answer = receipt.outcome.answer();
    (fate, answer.status_code, answer.headers.retry_after, receipt.outcome.reason())
}

#[tokio::test]
async fn every_failure_of_sqs_is_answered_503_with_its_reason_and_a_time_to_come_back() {
    let table = [
        (Fate::Failed(400, "RequestThrottled"), "throttled"),
        (Fate::Failed(400, "ThrottlingException"), "throttled"),
        (Fate::Failed(500, "InternalError"), "failed"),
        (Fate::Failed(503, "ServiceUnavailable"), "failed"),
        (Fate::DoneThenFailed(500, "InternalError"), "failed"),
        (Fate::Failed(403, "AccessDenied"), "denied"),
        (Fate::Failed(400, "AccessDeniedException"), "denied"),
        (Fate::Failed(400, "AWS.SimpleQueueService.NonExistentQueue"), "not_found"),
        (Fate::Failed(400, "QueueDoesNotExist"), "not_found"),
        (Fate::Silent, "timed_out"),
        (Fate::DoneThenSilent, "timed_out"),
        (Fate::Dropped, "unreachable"),
        (Fate::DoneThenDropped, "unreachable"),
        (Fate::Nonsense, "unconfirmed"),
        (Fate::CutOff, "unconfirmed"),
        (Fate::HeadCutOff, "unreachable"),
        (Fate::NotHttp, "unreachable"),
        (Fate::Endless, "timed_out"),
        (Fate::Huge, "unconfirmed"),
    ];
    let answers = join_all(table.map(|(fate, _)| answer(fate))).await;
    for ((fate, reason), answer) in table.into_iter().zip(answers) {
        assert_eq!(answer, (fate, 503, Some("5"), Some(reason)));
    }
}

#[tokio::test]
async fn a_queue_where_nobody_listens_is_answered_503() {
    let aws = FakeAws::start().await;
    let closed = sdk_config("http://127.0.0.1:1");
    let secrets = SigningSecrets::fixed(Verifier::new(SECRET).unwrap());
    let receiver = Receiver::new(secrets, SqsQueue::new(&closed, aws.queue_url()));
    let receipt = receive(&receiver, "msg_1", "{}").await;
    assert_eq!((receipt.outcome.answer().status_code, receipt.outcome.reason()), (503, Some("unreachable")));
}

#[tokio::test]
async fn a_failure_that_passes_is_tried_again_and_answered_200() {
    for fate in [
        Fate::Failed(500, "InternalError"),
        Fate::Dropped,
        Fate::Silent,
        Fate::Failed(400, "RequestThrottled"),
    ] {
        let aws = FakeAws::start().await;
        let mut fates = [fate].into_iter();
        aws.decide(move |_| fates.next().unwrap_or(Fate::Answered));
        let receipt = receive(&receiver(&aws), "msg_1", "{}").await;
        assert_eq!(receipt.outcome.answer().status_code, 200, "{fate:?}");
        assert_eq!((aws.calls("SendMessage"), aws.stored().len()), (2, 1));
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_the_environment_was_frozen_costs_no_webhook() {
    let aws = FakeAws::start_apart();
    aws.close_idle_after(Duration::from_millis(50));
    let receiver = receiver(&aws);
    for round in 1..=10 {
        let receipt = receive(&receiver, &format!("msg_{round}"), "{}").await;
        assert_eq!(receipt.outcome.answer().status_code, 200);
        assert_eq!((aws.connections(), aws.stored().len()), (round, round));
        // The whole thread, so that nothing here notices what happens to the connection meanwhile.
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[tokio::test]
async fn every_form_of_an_http_1_answer_confirms_its_webhook_and_no_other() {
    for fate in [Fate::Chunked, Fate::Http10, Fate::Closing, Fate::AnsweredTwice] {
        let aws = FakeAws::start().await;
        let receiver = receiver(&aws);
        for round in 1..=3 {
            aws.decide(move |_| fate);
            let id = format!("msg_{round}");
            assert_eq!(receive(&receiver, &id, "{}").await.outcome.answer().status_code, 200, "{fate:?}");
            assert_eq!(aws.stored().len(), round, "{fate:?}");
            // An answer that is still on its way, to another request, confirms nothing.
            aws.decide(|_| Fate::Failed(403, "AccessDenied"));
            let refused = receive(&receiver, "msg_refused", "{}").await;
            assert_eq!(refused.outcome.reason(), Some("denied"), "{fate:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_is_sent_again_whole_or_answered_503() {
    // Incompressible, and larger than what the socket takes at once.
    let mut random = Rng::with_seed(20_261_129);
    let body: String = (0..900_000).map(|_| random.alphanumeric()).collect();
    let aws = FakeAws::start().await;
    let receiver = receiver(&aws);
    aws.leave_unread(1);
    assert_eq!(receive(&receiver, "msg_1", &body).await.outcome.answer().status_code, 200);
    let stored: Vec<_> = aws.stored().iter().map(decode).collect();
    assert_eq!((stored.len(), &stored[0].body), (1, &body.into_bytes()));

    aws.leave_unread(usize::MAX);
    assert_eq!(receive(&receiver, "msg_2", "{}").await.outcome.reason(), Some("unreachable"));
    assert_eq!(aws.stored().len(), 1);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_confirms_nothing() {
    let aws = FakeAws::start().await;
    let receiver = receiver(&aws);
    let mut fates = [Fate::Silent].into_iter();
    aws.decide(move |_| fates.next().unwrap_or(Fate::Answered));
    for round in 1..=3 {
        assert_eq!(receive(&receiver, &format!("msg_{round}"), "{}").await.outcome.answer().status_code, 200);
        // The one that was waited for in vain is not used again.
        assert_eq!((aws.connections(), aws.stored().len()), (2, round));
    }
}

#[tokio::test]
async fn a_queue_at_an_ipv6_address_is_reached() {
    let aws = FakeAws::start_at("[::1]", None).await;
    assert_eq!(receive(&receiver(&aws), "msg_1", "{}").await.outcome.answer().status_code, 200);
    assert_eq!(aws.stored().len(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_gets_no_webhook() {
    let certificate = TestCertificate::for_this_machine();
    let untrusted = FakeAws::start_at("127.0.0.1", Some(&certificate)).await;
    let receipt = receive(&receiver(&untrusted), "msg_1", "{}").await;
    assert_eq!((receipt.outcome.answer().status_code, receipt.outcome.reason()), (503, Some("not_sent")));
    // Once: another attempt would find the same certificate.
    assert_eq!((untrusted.connections(), untrusted.calls("SendMessage")), (1, 0));

    let plain = FakeAws::start().await;
    let https = sdk_config(&plain.endpoint().replace("http:", "https:"));
    let secrets = SigningSecrets::fixed(Verifier::new(SECRET).unwrap());
    let receiver = Receiver::new(secrets, SqsQueue::new(&https, plain.queue_url()));
    plain.close_idle_after(Duration::from_millis(50));
    assert_eq!(receive(&receiver, "msg_1", "{}").await.outcome.answer().status_code, 503);
    assert_eq!(plain.calls("SendMessage"), 0);
}

#[tokio::test]
async fn one_connection_serves_every_webhook() {
    let aws = FakeAws::start().await;
    let receiver = receiver(&aws);
    for round in 0..20 {
        let receipt = receive(&receiver, &format!("msg_{round}"), "{}").await;
        assert_eq!(receipt.outcome.answer().status_code, 200);
    }
    assert_eq!((aws.connections(), aws.stored().len()), (1, 20));
}

/// A fate for a day on which everything fails now and then.
fn bad_day(random: &mut Rng) -> Fate {
    match random.u32(0..1000) {
        0..600 => Fate::Answered,
        600..690 => Fate::Failed(500, "InternalError"),
        690..750 => Fate::DoneThenFailed(500, "InternalError"),
        750..800 => Fate::Failed(400, "RequestThrottled"),
        800..830 => Fate::Failed(403, "AccessDenied"),
        830..850 => Fate::Failed(400, "QueueDoesNotExist"),
        850..890 => Fate::Dropped,
        890..930 => Fate::DoneThenDropped,
        930..960 => Fate::Nonsense,
        960..990 => Fate::CutOff,
        990..995 => Fate::Silent,
        _ => Fate::DoneThenSilent,
    }
}

/// Bodies of every kind: sent as text or compressed.
fn body(number: usize, random: &mut Rng) -> String {
    let event = |data: &str| {
        format!(
            r#"{{"object":"event","type":"user.course.started","api_version":"2022-11-15","data":{data},"timestamp":"2022-11-04T09:58:58.233Z","n":{number}}}"#
        )
    };
    match number % 10 {
        0 => String::new(),
        1 => format!("not json {number}"),
        2 => event("\"\u{FFFE}\u{FFFF}\""),
        3 => event("\"Zoë 🎉 \\\"quoted\\\" \\u00e9\""),
        4 => event(&format!("\"{}\"", "x".repeat(random.usize(60_000..70_000)))),
        _ => event("{}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_webhooks_on_a_bad_day_every_200_is_on_the_queue_as_it_was_signed() {
    const WEBHOOKS: usize = 10_000;
    let seed = 20_261_125;
    let aws = FakeAws::start().await;
    let mut fates = Rng::with_seed(seed);
    aws.decide(move |_| bad_day(&mut fates));
    let receiver = &receiver(&aws);
    let deliver = |number: usize| {
        let body = body(number, &mut Rng::with_seed(seed + number as u64));
        async move {
            let id = format!("msg_{number}");
            let receipt = receive(receiver, &id, &body).await;
            (id, body, receipt.outcome.answer().status_code)
        }
    };
    let answers: Vec<_> = stream::iter(0..WEBHOOKS).map(deliver).buffer_unordered(64).collect().await;

    let mut stored: HashMap<String, Vec<Message>> = HashMap::new();
    for message in aws.stored().iter().map(decode) {
        stored.entry(message.id.to_string()).or_default().push(message);
    }
    let accepted = answers.iter().filter(|(_, _, status)| *status == 200).count();
    for (id, body, status) in &answers {
        let on_queue = stored.get(id).map_or(&[][..], Vec::as_slice);
        assert!(*status == 503 || (*status == 200 && !on_queue.is_empty()), "a false {status} for {id}");
        for message in on_queue {
            assert_eq!(message.body, body.as_bytes(), "{id} was changed on its way");
            let headers = signing::headers(SECRET, id, NOW_S, body.as_bytes());
            assert_eq!((message.signed_at_s, &message.signature), (NOW_S, &headers[2].1));
        }
    }
    // A day this bad has many of each, or nothing was tested.
    assert!((WEBHOOKS / 2..WEBHOOKS - WEBHOOKS / 20).contains(&accepted), "{accepted} accepted");
}

#[tokio::test]
async fn a_refused_request_makes_no_call_to_aws() {
    let aws = FakeAws::start().await;
    let receiver = receiver(&aws);
    let now = Timestamp::from_second(NOW_S).unwrap();
    for number in 0..1000 {
        let id = format!("msg_{number}");
        let event = match number % 4 {
            0 => event(OTHER_SECRET, &id, NOW_S, "{}"),
            1 => event(SECRET, &id, NOW_S - 301, "{}"),
            2 => event(SECRET, "a.b", NOW_S, "{}"),
            _ => GatewayEvent(None),
        };
        let status = receiver.receive(event, now).await.outcome.answer().status_code;
        assert_eq!(status, if number % 4 == 3 { 400 } else { 401 });
    }
    assert_eq!((aws.connections(), aws.calls("SendMessage"), aws.calls("GetSecretValue")), (0, 0, 0));
}
