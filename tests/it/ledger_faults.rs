//! The ledger over a DynamoDB that carries out one statement of a batch and not the next.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router as HttpRouter;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use learnink_consumer::ledger::{Claim, ClaimRequest, Recorded, Settlement};
use learnink_consumer::ledger::{Ledger, LedgerError};
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_local::sdk_config;
use learnink_tests::serve;
use learnink_webhook::error::with_causes;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::{Event, HandlerResult, MessageId, Router};
use serde_json::{Value, json};

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, record};

/// Statements, by their verb and the message's id.
type Statements = BTreeSet<(String, String)>;

/// A DynamoDB with scripted answers, call by call, or that throttles statements.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(StatusCode, Value)>>>,
    /// The statements to throttle once. If there are or were any, every other statement is carried out.
    throttled: Arc<Mutex<Option<Statements>>>,
    /// The operations that were called.
    calls: Arc<Mutex<Vec<String>>>,
}

impl Script {
    /// Starts it, and returns a ledger that uses it.
    async fn start(&self) -> DynamoDbLedger {
        let endpoint = serve(HttpRouter::new().fallback(answer).with_state(self.clone())).await;
        DynamoDbLedger::new(&sdk_config(&endpoint), "ledger")
    }

    fn will_answer(&self, responses: &Value) {
        self.answers.lock().unwrap().push_back((StatusCode::OK, json!({ "Responses": responses })));
    }

    fn will_throttle_once<const N: usize>(&self, statements: [(&str, usize); N]) {
        let named = statements.map(|(verb, number)| (verb.to_owned(), id(number).to_string()));
        *self.throttled.lock().unwrap() = Some(named.into());
    }

    /// The answers to a batch of statements, if it is known which to throttle.
    fn carry_out(&self, request: &str) -> Option<(StatusCode, Value)> {
        let mut throttled = self.throttled.lock().unwrap();
        let throttled = throttled.as_mut()?;
        let request: Value = serde_json::from_str(request).unwrap();
        let answer = |statement: &Value| {
            let verb = statement["Statement"].as_str().unwrap().split(' ').next().unwrap().to_owned();
            let texts =
                statement["Parameters"].as_array().unwrap().iter().filter_map(|one| one["S"].as_str());
            let id = texts.into_iter().find(|text| text.starts_with("msg_")).unwrap().to_owned();
            if throttled.remove(&(verb, id)) { refused("ThrottlingError") } else { json!({}) }
        };
        let responses: Vec<_> = request["Statements"].as_array().unwrap().iter().map(answer).collect();
        Some((StatusCode::OK, json!({ "Responses": responses })))
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

async fn answer(
    State(script): State<Script>,
    headers: HeaderMap,
    request: String,
) -> (StatusCode, HeaderMap, String) {
    let target = headers["x-amz-target"].to_str().unwrap();
    script.calls.lock().unwrap().push(target.rsplit('.').next().unwrap().to_owned());
    let nothing_more = || (StatusCode::BAD_REQUEST, json!({ "__type": "ValidationException" }));
    let scripted = || script.answers.lock().unwrap().pop_front().unwrap_or_else(nothing_more);
    let (status, body) = script.carry_out(&request).unwrap_or_else(scripted);
    let kind = HeaderValue::from_static("application/x-amz-json-1.0");
    (status, HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]), body.to_string())
}

fn refused(code: &str) -> Value {
    json!({ "Error": { "Code": code, "Message": "+254705408079" } })
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(RECEIVED_AT_S).unwrap()
}

pub(crate) fn id(number: usize) -> MessageId {
    MessageId::parse(&format!("msg_{number}")).unwrap()
}

/// Claims of new messages.
pub(crate) fn requests(count: usize) -> Vec<ClaimRequest> {
    let request = |number| ClaimRequest {
        id: id(number).into(),
        payload_sha256: "aa".to_owned(),
        keys: vec!["progress".to_owned()],
        owner: format!("me/{number}"),
        now: now(),
        lease: Duration::from_secs(20),
        probably_new: true,
    };
    (0..count).map(request).collect()
}

fn failure<T: std::fmt::Debug>(answer: &Result<T, LedgerError>) -> String {
    with_causes(answer.as_ref().unwrap_err())
}

#[tokio::test]
async fn one_statement_that_is_throttled_or_has_no_answer_fails_alone() {
    let script = Script::default();
    let ledger = script.start().await;
    script.will_answer(&json!([{}, refused("ThrottlingError"), {}]));
    let claims = ledger.claim(requests(4)).await;
    for claimed in [0, 2] {
        assert!(matches!(claims[claimed], Ok(Claim::Acquired(_))), "{claims:?}");
    }
    assert_eq!(
        failure(&claims[1]),
        "could not claim a message in the ledger: DynamoDB refused the statement (ThrottlingError)"
    );
    assert_eq!(failure(&claims[3]), "could not claim a message in the ledger: a statement has no answer");
    assert_eq!(script.calls(), ["BatchExecuteStatement"]);
}

#[tokio::test]
async fn one_settlement_that_is_throttled_fails_alone_and_one_of_another_owner_is_not_taken() {
    let script = Script::default();
    let ledger = script.start().await;
    let theirs = json!({
        "message_id": { "S": "msg_2" }, "payload_sha256": { "S": "aa" }, "lease_owner": { "S": "they" },
        "lease_until_ms": { "N": "1" }, "first_seen_ms": { "N": "1" }, "expires_at": { "N": "1" },
    });
    let mut lost = refused("ConditionalCheckFailed");
    lost["Error"]["Item"] = theirs;
    script.will_answer(&json!([{}, refused("ThrottlingError"), lost]));
    let settlement = |number| Settlement {
        id: id(number).into(),
        owner: format!("me/{number}"),
        done: ["progress".to_owned()].into(),
        failure_reason: None,
        now: now(),
    };
    let recorded = ledger.settle((0..3).map(settlement).collect()).await;
    assert_eq!(recorded[0].as_ref().unwrap(), &Recorded::Yes);
    assert_eq!(
        failure(&recorded[1]),
        "could not record what finished in the ledger: DynamoDB refused the statement (ThrottlingError)"
    );
    assert_eq!(recorded[2].as_ref().unwrap(), &Recorded::LeaseLost);
}

#[tokio::test]
async fn what_is_throttled_is_asked_once_more_and_nothing_runs_twice() {
    async fn handle(_: Event<CourseStarted>, runs: Arc<Mutex<u32>>) -> HandlerResult {
        *runs.lock().unwrap() += 1;
        Ok(())
    }
    let script = Script::default();
    let ledger = script.start().await;
    // A claim and its settlement, a claim, and a settlement.
    script.will_throttle_once([("INSERT", 0), ("UPDATE", 0), ("INSERT", 1), ("UPDATE", 2)]);
    let runs = Arc::new(Mutex::new(0));
    let router = Router::new().on("progress", handle).with_state(runs.clone());
    let queues = SqsQueues::new(&sdk_config("http://127.0.0.1:1"), "none", "none");
    let consumer = Consumer::new(router, ledger, queues, 7, || 0.5);
    let records = (0..3).map(|number| {
        let mut record = record("sqs", id(number).as_str(), started("u", "c", "2026-01-01T00:00:00Z"));
        record.attributes.insert("ApproximateReceiveCount".to_owned(), "1".to_owned());
        record
    });
    let invocation = Invocation::new("1", now(), Duration::from_secs(20));
    let report = consumer.consume(&batch(records.collect()), &invocation).await;
    assert!(report.records.iter().all(|record| record.outcome == Outcome::Processed), "{report:?}");
    assert_eq!(*runs.lock().unwrap(), 3);
    assert_eq!(script.throttled.lock().unwrap().as_ref().map(Statements::len), Some(0));
}
