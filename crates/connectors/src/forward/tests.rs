//! The endpoint as a server on this machine that verifies its requests, and misbehaves.

use std::sync::Mutex;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use learnink_webhook::Envelope;
use learnink_webhook::testing::{TestConsumer, with};
use svix::webhooks::Webhook;
use tokio::net::TcpListener;

use super::*;

const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STARTED: &str = include_str!("../../../../events/user.course.started.json");
const SENT: &str = include_str!("../../../../events/notifications.sent.json");

type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A consumer with only this handler, and the requests to its endpoint, which answers with this status.
async fn consumer(status: u16, variables: &[(&str, &str)]) -> (TestConsumer, Received) {
    answered_by(variables, move || {
        let headers = [("retry-after", "7"), ("location", "https://elsewhere.test/")];
        (StatusCode::from_u16(status).unwrap(), headers).into_response()
    })
    .await
}

async fn answered_by(
    variables: &[(&str, &str)],
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (TestConsumer, Received) {
    learnink_aws::install_tls_provider();
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/learnink?tenant=7", listener.local_addr().unwrap());
    let take = move |State(received): State<Received>, headers: HeaderMap, body: Bytes| async move {
        received.lock().unwrap().push((headers, body));
        answer()
    };
    let server = axum::Router::new().fallback(take).with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, server).await });
    let ours = [(URL, &*url), (SECRET, SIGNING_SECRET)];
    let env = Env::of(ours.iter().chain(variables).copied());
    (TestConsumer::new(router(&env).unwrap()).at(now()), received)
}

#[expect(clippy::disallowed_methods, reason = "signatures are verified against the real clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[tokio::test]
async fn the_endpoint_gets_the_signed_body_under_the_key_and_can_verify_it() {
    let (mut consumer, received) = consumer(204, &[]).await;
    // White space that no serializer would write.
    let body = STARTED.replace(": ", " :\t");
    consumer.deliver(body.clone()).await.assert_done();
    consumer.deliver_again().await.assert_not_run();
    let received = received.lock().unwrap();
    let [(headers, got)] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(headers["webhook-id"], "msg_1/forward");
    assert_eq!(got, &Bytes::from(body));
    Webhook::new(SIGNING_SECRET).unwrap().verify(got, headers).unwrap();
}

#[test]
fn a_call_may_take_as_long_as_the_secret_and_the_request_together() {
    learnink_aws::install_tls_provider();
    let router = router(&Env::of([(URL, "https://endpoint.test"), (SECRET, SIGNING_SECRET)])).unwrap();
    let envelope = Envelope::parse(STARTED.as_bytes()).unwrap();
    let route = router.route(&envelope);
    // Five for the request, and three for the secret.
    assert_eq!(route.handlers[0].longest_call(), Duration::from_secs(8));
}

#[tokio::test]
async fn a_crash_repeats_an_event_under_the_same_id() {
    let (mut consumer, received) = consumer(200, &[]).await;
    consumer.crash_before_recording();
    consumer.deliver(STARTED).await.assert_done();
    consumer.deliver_again().await.assert_done();
    let received = received.lock().unwrap();
    let ids: Vec<_> = received.iter().map(|(headers, _)| &headers["webhook-id"]).collect();
    assert_eq!(ids, ["msg_1/forward", "msg_1/forward"]);
}

#[tokio::test]
async fn only_the_types_that_are_named_are_forwarded_in_whatever_version() {
    let (mut consumer, received) = consumer(200, &[(TYPES, "example.new, user.course.started")]).await;
    consumer.deliver(SENT).await.assert_not_run();
    consumer.deliver(STARTED).await.assert_done();
    consumer.deliver(with(STARTED, "/api_version", "2031-01-01")).await.assert_done();
    consumer.deliver(with(SENT, "/type", "example.new")).await.assert_done();
    assert_eq!(received.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_not_an_event_is_not_forwarded() {
    let (mut consumer, received) = consumer(200, &[]).await;
    consumer.deliver(r#"{"success":true}"#).await.assert_done();
    assert!(received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn every_answer_has_a_meaning() {
    for status in [200, 201, 204] {
        consumer(status, &[]).await.0.deliver(STARTED).await.assert_done();
    }
    for status in [400, 413, 422] {
        let reason = format!("the endpoint refused it with {status}");
        consumer(status, &[]).await.0.deliver(STARTED).await.assert_dead_lettered(&reason);
    }
    for status in [408, 409, 425, 429, 500, 502, 503, 504] {
        let delivered = consumer(status, &[]).await.0.deliver(STARTED).await;
        delivered.assert_retried(&format!("the endpoint answered {status}"));
        assert_eq!(delivered.retry_after(), Some(Duration::from_secs(7)), "{status}");
    }
    for (status, variable) in [(301, URL), (308, URL), (401, SECRET), (403, SECRET), (404, URL), (410, URL)] {
        let delivered = consumer(status, &[]).await.0.deliver(STARTED).await;
        delivered.assert_retried(&format!("the endpoint answered {status}; check {variable}"));
    }
}

#[tokio::test]
async fn a_gigabyte_for_an_answer_is_not_read_and_nothing_of_it_is_quoted() {
    let gigabyte = || {
        let chunk = Bytes::from(vec![b'+'; 1 << 20]);
        let chunks =
            futures_util::stream::iter((0..1024).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
        (StatusCode::INTERNAL_SERVER_ERROR, Body::from_stream(chunks)).into_response()
    };
    let (mut consumer, _) = answered_by(&[], gigabyte).await;
    let delivered = consumer.deliver(STARTED).await;
    delivered.assert_retried("the endpoint answered 500");
    assert!(!format!("{delivered:?}").contains("++"));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_tried_again_and_not_named() {
    learnink_aws::install_tls_provider();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/?token=s3cr3t", listener.local_addr().unwrap());
    drop(listener);
    let env = Env::of([(URL, &*url), (SECRET, SIGNING_SECRET)]);
    let delivered = TestConsumer::new(router(&env).unwrap()).deliver(STARTED).await;
    delivered.assert_retried("the endpoint could not be reached");
    assert!(!format!("{delivered:?}").contains("s3cr3t"));
}

#[test]
fn what_is_half_set_up_fails_the_start_and_says_what_to_do() {
    let error = |variables: &[(&str, &str)]| {
        router(&Env::of(variables.iter().copied())).map(|_| ()).unwrap_err().to_string()
    };
    learnink_aws::install_tls_provider();
    let url = (URL, "https://example.com/learnink");
    let all = [
        error(&[(TYPES, "a")]),
        error(&[(SECRET, SIGNING_SECRET)]),
        error(&[(URL, "http://example.com/pigeons")]),
        error(&[url]),
        error(&[url, (SECRET, "pigeons")]),
        error(&[url, (SECRET, SIGNING_SECRET), (TYPES, "a,,b")]),
        error(&[url, (SECRET, SIGNING_SECRET), (TYPES, "pigeons are birds")]),
    ];
    assert!(all.iter().all(|error| !error.contains("pigeons")), "{all:#?}");
    insta::assert_snapshot!(all.join("\n"));
}
