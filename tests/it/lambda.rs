//! The real Lambda binaries under a Runtime API, with ministack as their AWS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use futures_util::FutureExt;
use learnink_connectors::progress::Learners;
use learnink_local::EventSource;
use learnink_telemetry::BUILD;
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, QueuePair, ministack_endpoint};
use learnink_tests::fake_aws::{FakeAws, Fate, TestCertificate};
use learnink_tests::read;
use learnink_tests::runtime_api::{Function, Outcome};
use learnink_tests::serve;
use learnink_tests::signing::{self, OTHER_SECRET, SECRET, now_s};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

struct Stack {
    engine: Engine,
    queues: QueuePair,
    ledger: String,
    learners: String,
    unknown_events: String,
}

impl Stack {
    async fn start() -> Self {
        let engine = Engine::ministack().await;
        Self {
            queues: engine.queues(180, 7).await,
            ledger: engine.table("message_id", None).await,
            learners: engine.table("user_id", Some("course_id")).await,
            unknown_events: engine.table("message_id", None).await,
            engine,
        }
    }

    async fn receiver(&self) -> Function {
        let variables = [
            ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
            ("AWS_ENDPOINT_URL", ministack_endpoint()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_SIGNING_SECRET", SECRET),
        ];
        Function::start(binary("receiver"), &variables).await
    }

    async fn consumer(&self) -> Function {
        self.consumer_with(&[]).await
    }

    async fn consumer_with(&self, others: &[(&str, &str)]) -> Function {
        let variables = [
            ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
            ("AWS_ENDPOINT_URL", ministack_endpoint()),
            ("LEARNINK_QUEUE_URL", &self.queues.url),
            ("LEARNINK_DEAD_LETTER_QUEUE_URL", &self.queues.dead_letter_url),
            ("LEARNINK_MAX_RECEIVE_COUNT", "7"),
            ("LEARNINK_LEDGER_TABLE", &self.ledger),
            ("LEARNINK_LEARNERS_TABLE", &self.learners),
            ("LEARNINK_UNKNOWN_EVENTS_TABLE", &self.unknown_events),
        ];
        Function::start(binary("consumer"), &[&variables, others].concat()).await
    }

    /// Passes the messages on the queue to the consumer, as the event source mapping does.
    async fn poll(&self, consumer: &Mutex<Function>) -> usize {
        let source = EventSource::new(self.engine.sqs_client(), &self.queues.url);
        let invoke = async |batch| match consumer.lock().await.invoke(json!(batch)).await {
            Outcome::Response(answer) => Some(answer),
            Outcome::Error(_) => None,
        };
        source.poll(1, &invoke).await.unwrap()
    }
}

/// One of the inputs in `events/lambda`.
fn sample(name: &str) -> Value {
    serde_json::from_str(&read(&format!("events/lambda/{name}.json"))).unwrap()
}

/// An HTTP API request with `body`, signed now.
fn request(id: &str, body: &str) -> Value {
    signed_request(SECRET, id, body)
}

fn signed_request(secret: &str, id: &str, body: &str) -> Value {
    let mut request = sample("http-api-request");
    for (name, value) in signing::headers(secret, id, now_s(), body.as_bytes()) {
        request["headers"][name] = value.into();
    }
    request["body"] = body.into();
    request
}

fn status(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Response(answer) => answer["statusCode"].as_u64().unwrap(),
        other @ Outcome::Error(_) => panic!("no response but {other:?}"),
    }
}

/// Text that a log must not contain, at any level.
fn assert_is_private(output: &str) {
    for private in ["254705408079", "Mary", "training today", &SECRET["whsec_".len()..], "v1,"] {
        assert!(!output.contains(private), "`{private}` was logged: {output}");
    }
}

/// Each line of a log says which code wrote it.
fn assert_names_its_build(output: &str) {
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["build"] == BUILD), "{output}");
}

#[tokio::test]
async fn the_real_binaries_take_a_signed_webhook_to_the_learners_table() {
    let stack = Stack::start().await;
    let mut receiver = stack.receiver().await;
    let started = read("events/user.course.started.json");
    assert_eq!(status(&receiver.invoke(request("msg_1", &started)).await), 200);
    assert_eq!(
        status(&receiver.invoke(request("msg_2", &read("events/notifications.sent.json"))).await),
        200
    );
    assert_eq!(status(&receiver.invoke(request("msg_3", "not json: +254705408079")).await), 200);

    let consumer = Mutex::new(stack.consumer().await);
    let mut found = 0;
    while found < 3 {
        found += stack.poll(&consumer).await;
    }
    let learners = Learners::new(&stack.engine.dynamodb, &stack.learners).all().await.unwrap();
    assert_eq!(learners.len(), 1);
    assert_eq!(learners[0].user_id, "le2bB6Fi4CMgrIOIqMCJryZb9PR2");
    assert_eq!(stack.engine.messages(&stack.queues.url).await, 0);
    assert_eq!(stack.engine.messages(&stack.queues.dead_letter_url).await, 1);

    for output in [receiver.into_output().await, consumer.into_inner().into_output().await] {
        assert!(output.contains(r#""message.id":"msg_1""#), "{output}");
        assert_is_private(&output);
        assert_names_its_build(&output);
    }
}

/// An endpoint that quotes the request in every answer, and accepts one notification in five.
async fn echoing_endpoint() -> String {
    let count = AtomicUsize::new(0);
    let echo = async |State(count): State<Arc<AtomicUsize>>, headers: HeaderMap, body: String| {
        let status = [200, 400, 429, 500, 302][count.fetch_add(1, Ordering::Relaxed) % 5];
        let mut repeated = headers.clone();
        repeated.remove("content-length");
        repeated.insert("x-body", HeaderValue::from_bytes(body.as_bytes()).unwrap());
        (StatusCode::from_u16(status).unwrap(), repeated, body)
    };
    serve(axum::Router::new().fallback(echo).with_state(Arc::new(count))).await
}

#[tokio::test]
async fn with_every_handler_on_nothing_personal_is_logged_at_whatever_level() {
    learnink_aws::install_tls_provider();
    let stack = Stack::start().await;
    let events = aws_sdk_eventbridge::Client::new(&stack.engine.sqs);
    events.create_event_bus().name("automations").send().await.unwrap();
    let bucket = format!("{}/logged", ministack_endpoint());
    assert!(reqwest::Client::new().put(bucket).send().await.unwrap().status().is_success());
    let consumer = stack
        .consumer_with(&[
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", &echoing_endpoint().await),
            ("LEARNINK_PUSH_SECRET", OTHER_SECRET),
            ("LEARNINK_PUSH_MAX_AGE", "1000000"),
            ("LEARNINK_ARCHIVE", "s3://logged/events"),
            ("LEARNINK_EVENT_BUS", "automations"),
            ("LEARNINK_EVENT_BUS_FIELDS", "*"),
        ])
        .await;

    let one = |number: usize, path: &str| {
        json!({
            "title": format!("Hi Mary {number}!"), "body": "training today", "path": path,
            "user_id": "u", "custom_id": null, "phone_number": "+254705408079",
        })
    };
    let event = |event_type: &str, data: Value| {
        json!({
            "type": event_type, "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z", "data": data,
        })
        .to_string()
    };
    let mut notifications: Vec<_> = (0..20).map(|number| one(number, "/learning")).collect();
    notifications.extend([one(20, "+254705408079"), json!({ "title": "Mary", "path": 254_705_408_079_u64 })]);
    let bodies = [
        event("notifications.sent", json!({ "notifications": notifications })),
        event(
            "user.course.started",
            json!({ "user_id": "u", "course_id": "c", "phone_number": "+254705408079" }),
        ),
        event(
            "user.course.started",
            json!({ "user_id": { "number": "+254705408079" }, "course_id": "Mary" }),
        ),
        event("example.unknown", json!({ "name": "Mary", "phone_number": "+254705408079" })),
        "no event: Mary, +254705408079".to_owned(),
    ];
    let mut receiver = stack.receiver().await;
    for (number, body) in bodies.iter().enumerate() {
        assert_eq!(status(&receiver.invoke(request(&format!("msg_{number}"), body)).await), 200);
    }
    let consumer = Mutex::new(consumer);
    let mut found = 0;
    while found < bodies.len() {
        found += stack.poll(&consumer).await;
    }
    let output = consumer.into_inner().into_output().await;
    for handled in ["push=retryable", "archive=done", "bus=done", "progress=permanent", "unknown=done"] {
        assert!(output.contains(handled), "`{handled}` is missing: {output}");
    }
    assert!(output.contains(r#""push.refused":"#), "{output}");
    assert_is_private(&output);
    assert!(!output.contains(&OTHER_SECRET["whsec_".len()..]), "{output}");
}

#[tokio::test]
async fn the_receivers_binary_refuses_what_is_tampered_with_and_queues_nothing() {
    let stack = Stack::start().await;
    let mut receiver = stack.receiver().await;
    let mut tampered = request("msg_1", &read("events/notifications.sent.json"));
    tampered["body"] = tampered["body"].as_str().unwrap().replace("Mary", "Marx").into();
    let outcome = receiver.invoke(tampered).await;
    assert_eq!(status(&outcome), 401);
    let Outcome::Response(answer) = outcome else { unreachable!("it has a status") };
    assert!(answer["body"].as_str().unwrap_or_default().is_empty(), "{answer}");
    assert_eq!(stack.engine.messages(&stack.queues.url).await, 0);

    let output = receiver.into_output().await;
    assert!(output.contains(r#""reason":"no_matching_signature""#), "{output}");
    assert_is_private(&output);
}

#[tokio::test]
async fn a_body_in_base64_is_verified_as_the_bytes_that_were_signed() {
    let stack = Stack::start().await;
    let mut receiver = stack.receiver().await;
    let mut encoded = sample("http-api-request-base64");
    assert_eq!(encoded["isBase64Encoded"], true);
    encoded["headers"] = request("msg_1", r#"{"test": 2432232314}"#)["headers"].clone();
    assert_eq!(status(&receiver.invoke(encoded).await), 200);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_costs_only_itself() {
    let stack = Stack::start().await;
    let mut receiver = stack.receiver().await;
    let mut broken = request("msg_1", "{}");
    broken["body"] = "%".into();
    broken["isBase64Encoded"] = true.into();
    assert_eq!(status(&receiver.invoke(broken).await), 401);
    assert_eq!(status(&receiver.invoke(json!({ "body": { "phone": "+254705408079" } })).await), 400);
    assert_eq!(status(&receiver.invoke(request("msg_2", "{}")).await), 200);
    assert_is_private(&receiver.into_output().await);
}

#[tokio::test]
async fn a_queue_that_is_gone_is_answered_with_503_and_a_time_to_come_back() {
    let mut stack = Stack::start().await;
    stack.queues.url.push_str("-gone");
    let mut receiver = stack.receiver().await;
    let outcome = receiver.invoke(request("msg_1", "{}")).await;
    assert_eq!(status(&outcome), 503);
    let Outcome::Response(answer) = outcome else { unreachable!("it has a status") };
    assert_eq!(answer["headers"]["retry-after"], "5");
}

#[tokio::test]
async fn the_sample_batch_is_answered_with_the_failures_that_lambda_reads() {
    let stack = Stack::start().await;
    let mut consumer = stack.consumer().await;
    let batch = sample("sqs-batch");
    let answer = consumer.invoke(batch).await;
    assert_eq!(answer, Outcome::Response(json!({ "batchItemFailures": [] })));
    assert_eq!(stack.engine.messages(&stack.queues.dead_letter_url).await, 1);
}

#[tokio::test]
async fn without_its_dead_letter_queue_the_consumer_reports_a_hopeless_record_as_failed() {
    let mut stack = Stack::start().await;
    stack.queues.dead_letter_url.push_str("-gone");
    let mut consumer = stack.consumer().await;
    let batch = sample("sqs-batch");
    let hopeless = batch["Records"][1]["messageId"].clone();
    let answer = consumer.invoke(batch).await;
    let failures = json!({ "batchItemFailures": [{ "itemIdentifier": hopeless }] });
    assert_eq!(answer, Outcome::Response(failures));
}

#[tokio::test]
async fn without_its_table_the_consumer_reports_every_claim_as_failed() {
    let mut stack = Stack::start().await;
    stack.ledger.push_str("-gone");
    let mut consumer = stack.consumer().await;
    let mut batch = sample("sqs-batch");
    batch["Records"].as_array_mut().unwrap().truncate(1);
    let failed = batch["Records"][0]["messageId"].clone();
    let answer = consumer.invoke(batch).await;
    let failures = json!({ "batchItemFailures": [{ "itemIdentifier": failed }] });
    assert_eq!(answer, Outcome::Response(failures));
}

#[tokio::test]
async fn a_function_that_is_not_configured_says_which_variable_is_missing() {
    for (name, variable) in [("receiver", "LEARNINK_SIGNING_SECRET_ID"), ("consumer", "LEARNINK_QUEUE_URL")] {
        let function = Function::start(binary(name), &[]).await;
        let output = function.wait_output().await;
        assert!(output.contains(&format!("{variable} is not set; set it to ")), "{output}");
        assert_names_its_build(&output);
    }
}

/// The receiver's binary with its secret in Secrets Manager, at its most talkative.
async fn receiver_on(aws: &FakeAws) -> Function {
    receiver_at_level(aws, "TRACE").await
}

async fn receiver_at_level(aws: &FakeAws, level: &str) -> Function {
    let variables = [
        ("AWS_LAMBDA_LOG_LEVEL", level),
        ("AWS_ENDPOINT_URL", aws.endpoint()),
        ("LEARNINK_QUEUE_URL", &aws.queue_url()),
        ("LEARNINK_SIGNING_SECRET_ID", "learnink/test"),
    ];
    Function::start(binary("receiver"), &variables).await
}

#[tokio::test]
async fn connections_that_close_while_the_environment_is_frozen_cost_no_webhook() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", SECRET);
    let mut receiver = receiver_on(&aws).await;
    for round in 1..=5 {
        assert_eq!(status(&receiver.invoke(request(&format!("msg_{round}"), "{}")).await), 200);
        // At most once, because nothing was written to a connection that was closed.
        assert_eq!((aws.stored().len(), aws.calls("SendMessage")), (round, round));
        receiver.freeze().await;
        aws.close_connections();
        while aws.closed() < aws.connections() {
            tokio::task::yield_now().await;
        }
        receiver.thaw().await;
    }
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    let aws = FakeAws::start().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let mut variables = vec![
        ("AWS_ENDPOINT_URL".to_owned(), aws.endpoint().to_owned()),
        ("LEARNINK_QUEUE_URL".to_owned(), aws.queue_url()),
        ("LEARNINK_SIGNING_SECRET".to_owned(), SECRET.to_owned()),
    ];
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        variables.extend([(name.to_owned(), proxy_url.clone()), (name.to_lowercase(), proxy_url.clone())]);
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut receiver = Function::start(binary("receiver"), &variables).await;
    assert_eq!(status(&receiver.invoke(request("msg_1", "{}")).await), 200);
    assert_eq!(aws.stored().len(), 1);
    assert!(proxy.accept().now_or_never().is_none());
}

#[tokio::test]
async fn the_receivers_binary_trusts_the_certificates_that_it_is_told_to_and_no_others() {
    let certificate = TestCertificate::for_this_machine();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.pem");
    std::fs::write(&file, &certificate.pem).unwrap();
    for address in ["127.0.0.1", "[::1]"] {
        let aws = FakeAws::start_at(address, Some(&certificate)).await;
        let queue_url = aws.queue_url();
        let variables = [
            ("AWS_ENDPOINT_URL", aws.endpoint()),
            ("LEARNINK_QUEUE_URL", &queue_url),
            ("LEARNINK_SIGNING_SECRET", SECRET),
            ("SSL_CERT_FILE", file.to_str().unwrap()),
        ];
        let mut receiver = Function::start(binary("receiver"), &variables).await;
        for round in 1..=3 {
            assert_eq!(status(&receiver.invoke(request(&format!("msg_{round}"), "{}")).await), 200);
            assert_eq!((aws.stored().len(), aws.connections()), (round, 1));
        }

        let mut distrustful = Function::start(binary("receiver"), &variables[..3]).await;
        assert_eq!(status(&distrustful.invoke(request("msg_4", "{}")).await), 503);
        assert_eq!(aws.stored().len(), 3);
        let output = distrustful.into_output().await;
        assert!(output.contains(r#""reason":"not_sent""#), "{output}");
    }
}

#[tokio::test]
async fn the_receivers_binary_takes_its_secret_from_secrets_manager() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OTHER_SECRET);
    aws.rotate_secret(SECRET);
    let mut receiver = receiver_on(&aws).await;
    assert_eq!(status(&receiver.invoke(request("msg_1", "{}")).await), 200);
    let signed_with_the_old_one = signed_request(OTHER_SECRET, "msg_2", "{}");
    assert_eq!(status(&receiver.invoke(signed_with_the_old_one).await), 200);

    let lines = receiver.into_output().await;
    let secrets: Vec<_> = events(&lines).map(|line| line["secret"].clone()).collect();
    assert_eq!(secrets, ["current", "previous"], "{lines}");
}

#[tokio::test]
async fn without_its_secret_the_receivers_binary_does_not_start() {
    for (fate, problem) in [
        (Fate::Answered, "AWS does not know the queue, table or secret (ResourceNotFoundException)"),
        (Fate::Failed(400, "AccessDeniedException"), "AWS denied the call (AccessDeniedException)"),
        (Fate::Silent, "AWS did not answer"),
    ] {
        let aws = FakeAws::start().await;
        aws.decide(move |_| fate);
        let output = receiver_on(&aws).await.wait_output().await;
        assert!(output.contains(problem) && output.contains(r#""level":"ERROR""#), "{output}");
    }
}

#[tokio::test]
async fn a_queue_that_cannot_be_asked_at_first_does_not_keep_the_receiver_from_starting() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", SECRET);
    aws.decide(|operation| match operation {
        "GetQueueAttributes" => Fate::Failed(403, "AccessDenied"),
        _ => Fate::Answered,
    });
    let mut receiver = receiver_on(&aws).await;
    assert_eq!(status(&receiver.invoke(request("msg_1", "{}")).await), 200);
    let output = receiver.into_output().await;
    assert!(output.contains("the first call to SQS failed"), "{output}");
}

#[tokio::test]
async fn a_line_below_the_level_is_not_written() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", SECRET);
    let mut receiver = receiver_at_level(&aws, "WARN").await;
    receiver.invoke(request("msg_1", "{}")).await;
    receiver.invoke(signed_request(OTHER_SECRET, "msg_2", "{}")).await;
    let output = receiver.into_output().await;
    let outcomes: Vec<_> = events(&output).map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["refused"], "{output}");
}

/// The lines about one request each.
fn events(output: &str) -> impl Iterator<Item = Value> {
    let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("outcome").is_some())
}

#[tokio::test]
async fn whatever_happens_no_log_holds_a_payload_a_secret_or_a_signature() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", SECRET);
    let mut receiver = receiver_on(&aws).await;
    let personal = read("events/notifications.sent.json");
    let genuine = |id: &str| request(id, &personal);
    let with = |pointer: &str, value: Value| {
        let mut event = genuine("msg_spoilt");
        *event.pointer_mut(pointer).unwrap() = value;
        event
    };
    let signature = genuine("msg_1")["headers"]["svix-signature"].as_str().unwrap().to_owned();
    let mut expected = Vec::new();
    for (event, outcome, reason) in [
        (genuine("msg_1"), "accepted", Value::Null),
        (request("msg_2", "not json: Mary, +254705408079, training today"), "accepted", Value::Null),
        (with("/headers/svix-id", "+254705408079".into()), "refused", "no_matching_signature".into()),
        (with("/headers/svix-id", "Mary Poppins".into()), "refused", "unusable_id".into()),
        (with("/headers/svix-timestamp", "+254705408079".into()), "refused", "malformed_header".into()),
        (with("/headers/svix-timestamp", "1".into()), "refused", "timestamp_too_old".into()),
        (with("/headers/svix-timestamp", "9999999999".into()), "refused", "timestamp_in_future".into()),
        (
            with("/headers/svix-signature", format!("{signature}{signature}").into()),
            "refused",
            "no_matching_signature".into(),
        ),
        (with("/headers/svix-signature", "v2,+254705408079".into()), "refused", "unsupported_version".into()),
        (with("/headers/svix-signature", "v1,x ".repeat(17).into()), "refused", "too_many_signatures".into()),
        (with("/headers", json!({ "x-name": "Mary" })), "refused", "missing_header".into()),
        (with("/isBase64Encoded", true.into()), "refused", "body_not_base64".into()),
        (with("/rawPath", "/+254705408079".into()), "not_found", Value::Null),
        (with("/requestContext/http/method", "Mary".into()), "method_not_allowed", Value::Null),
        (with("/body", json!({ "phone_number": "+254705408079" })), "no_request", Value::Null),
    ] {
        receiver.invoke(event).await;
        expected.push((outcome.to_owned(), reason));
    }
    for (fate, reason) in [
        (Fate::Failed(500, "<+254705408079>"), "failed"),
        (Fate::Failed(403, "AccessDenied"), "denied"),
        (Fate::Nonsense, "unconfirmed"),
        (Fate::Dropped, "unreachable"),
        (Fate::Silent, "timed_out"),
    ] {
        aws.decide(move |_| fate);
        receiver.invoke(genuine("msg_1")).await;
        expected.push(("unavailable".to_owned(), reason.into()));
    }

    let output = receiver.into_output().await;
    let told: Vec<_> = events(&output)
        .map(|line| (line["outcome"].as_str().unwrap().to_owned(), line["reason"].clone()))
        .collect();
    assert_eq!(told, expected);
    // The id in the sender's dashboard finds the line of a refused request, and text that is not an id is not
    // logged.
    let claimed = events(&output).filter_map(|line| line["claimed.message.id"].as_str().map(str::to_owned));
    assert_eq!(claimed.collect::<Vec<_>>(), ["msg_spoilt"; 7]);
    assert_is_private(&output);
    let bare_signature = signature.trim_start_matches("v1,");
    for key in
        [bare_signature, "le2bB6Fi4CMgrIOIqMCJryZb9PR2", "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33", "/learning"]
    {
        assert!(!output.contains(key), "`{key}` was logged: {output}");
    }
}
