//! The learners' table: what the records of a batch write together, and what happens if DynamoDB does not take it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use axum::Router as HttpRouter;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use futures_util::future::join_all;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::progress::{Activity, LearnerAndCourse, Learners};
use learnink_connectors::{RowKey, TableError, set_if_less, set_if_newer};
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_local::sdk_config;
use learnink_tests::engine::Engine;
use learnink_tests::serve;
use learnink_webhook::MessageId;
use learnink_webhook::error::with_causes;
use learnink_webhook::newest::EventOrder;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, record as record_of};

/// An event about a learner's activity in a course.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) learner: u8,
    pub(crate) is_start: bool,
    pub(crate) at_ms: i64,
    pub(crate) message: usize,
    pub(crate) has_custom_id: bool,
}

impl Event {
    /// The event of the message with this number: a learner, whether it is a start, when, and whether it has an id of
    /// the customer's.
    pub(crate) const fn of(
        (message, (learner, is_start, at_ms, has_custom_id)): (usize, (u8, bool, i64, bool)),
    ) -> Self {
        Self { learner, is_start, at_ms, message, has_custom_id }
    }

    fn user_id(&self) -> String {
        format!("learner-{}", self.learner)
    }

    /// Of the event, so that a row shows whose it is.
    fn custom_id(&self) -> Option<String> {
        self.has_custom_id.then(|| format!("custom-{}", self.message))
    }

    fn version(&self) -> EventOrder {
        let id = MessageId::parse(&format!("msg_{}", self.message)).unwrap();
        EventOrder::new(Timestamp::from_millisecond(self.at_ms).unwrap(), &id)
    }

    pub(crate) async fn record(&self, learners: &Learners) -> Result<(), TableError> {
        let (user_id, custom_id) = (self.user_id(), self.custom_id());
        let who =
            LearnerAndCourse { user_id: &user_id, course_id: "course", custom_id: custom_id.as_deref() };
        let activity = if self.is_start { Activity::Start } else { Activity::Other };
        learners.record(who, activity, &self.version()).await
    }

    /// Records it by itself, with one conditional write for each of its times.
    async fn record_separately(&self, client: &Client, table: &str) {
        let user_id = self.user_id();
        let key = [("user_id", &*user_id), ("course_id", "course")];
        let row = RowKey { table, key: &key };
        let custom_id = self.custom_id().map(AttributeValue::S);
        set_if_newer(client, &row, [("custom_id", custom_id)], &self.version()).await.unwrap();
        if self.is_start {
            set_if_less(client, &row, "first_started_at_ms", self.at_ms).await.unwrap();
        }
    }
}

type Rows = Vec<HashMap<String, AttributeValue>>;

async fn rows(client: &Client, table: &str) -> Rows {
    let mut rows = client.scan().table_name(table).send().await.unwrap().items.unwrap();
    rows.sort_by_key(|row| row["user_id"].as_s().unwrap().clone());
    rows
}

/// The rows after these groups of events, each of which is recorded at once; and after each event by itself, in order.
pub(crate) async fn together_and_separately(engine: &Engine, groups: &[Vec<Event>]) -> [Rows; 2] {
    let client = Client::new(&engine.dynamodb);
    let (together, separately) =
        (engine.table("user_id", Some("course_id")).await, engine.table("user_id", Some("course_id")).await);
    let learners = Learners::new(&engine.dynamodb, &*together);
    for group in groups {
        let recorded = join_all(group.iter().map(|event| event.record(&learners))).await;
        assert!(recorded.iter().all(Result::is_ok), "{recorded:?}");
    }
    let mut in_order: Vec<_> = groups.concat();
    in_order.sort_by_key(|event| event.message);
    for event in in_order {
        event.record_separately(&client, &separately).await;
    }
    [rows(&client, &together).await, rows(&client, &separately).await]
}

/// Events about few learners, at so few times that some are equal; some come more than once, and they arrive in any
/// order and in groups.
fn arrivals() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let event = (0..3_u8, any::<bool>(), 0..6_i64, any::<bool>());
    let events = proptest::collection::vec(event, 1..12);
    let events = events.prop_map(|events| events.into_iter().enumerate().map(Event::of).collect::<Vec<_>>());
    let deliveries = events.prop_flat_map(|events| {
        let again = proptest::sample::subsequence(events.clone(), 0..=events.len());
        again.prop_map(move |again| [events.clone(), again].concat()).prop_shuffle()
    });
    (deliveries, 1..8_usize)
        .prop_map(|(deliveries, size)| deliveries.chunks(size).map(<[Event]>::to_vec).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_groups_of_any_order_of_events_leave_the_rows_that_each_event_alone_leaves(groups in arrivals()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [together, separately] = runtime.block_on(async {
            together_and_separately(&Engine::embedded().await, &groups).await
        });
        prop_assert_eq!(together, separately);
    }
}

/// A DynamoDB that answers from a script, and records its calls.
#[derive(Clone, Default)]
struct Script {
    /// The answers to requests with statements.
    batches: Arc<Mutex<VecDeque<(StatusCode, Value)>>>,
    /// The learner whose separate writes are refused.
    refused: Option<&'static str>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Script {
    fn of<const N: usize>(batches: [Value; N]) -> Self {
        let answers = batches.map(|responses| (StatusCode::OK, json!({ "Responses": responses })));
        Self { batches: Arc::new(Mutex::new(answers.into())), ..Self::default() }
    }

    /// Starts it, and returns how to reach it.
    async fn start(&self) -> SdkConfig {
        let endpoint = serve(HttpRouter::new().fallback(answer).with_state(self.clone())).await;
        sdk_config(&endpoint)
    }

    /// Starts it, and returns a table of learners there.
    async fn learners(&self) -> Learners {
        Learners::new(&self.start().await, "learners")
    }

    /// The operations that were called, each with the first words of its statements.
    fn calls(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let call = |(operation, body): &(String, Value)| match body["Statements"].as_array() {
            None => operation.clone(),
            Some(statements) => {
                let verb = |one: &Value| one["Statement"].as_str().unwrap()[..6].to_owned();
                statements.iter().map(verb).collect::<Vec<_>>().join(" ")
            }
        };
        calls.iter().map(call).collect()
    }
}

async fn answer(
    State(script): State<Script>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap, String) {
    let operation = headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let request: Value = serde_json::from_str(&body).unwrap();
    let is_batch = operation == "BatchExecuteStatement";
    let is_refused = script.refused.is_some_and(|learner| body.contains(learner));
    script.calls.lock().unwrap().push((operation, request));
    let refusal =
        || (StatusCode::BAD_REQUEST, json!({ "__type": "ValidationException", "message": "+254705408079" }));
    let (status, answer) = if is_batch {
        script.batches.lock().unwrap().pop_front().unwrap_or_else(refusal)
    } else if is_refused {
        refusal()
    } else {
        (StatusCode::OK, json!({}))
    };
    let kind = HeaderValue::from_static("application/x-amz-json-1.0");
    (status, HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]), answer.to_string())
}

fn refused(code: &str) -> Value {
    json!({ "Error": { "Code": code, "Message": "+254705408079" } })
}

/// A condition that failed because of a row with these times.
fn found(last_ms: i64, first_ms: i64) -> Value {
    let mut refused = refused("ConditionalCheckFailed");
    refused["Error"]["Item"] = json!({
        "user_id": { "S": "learner-0" }, "course_id": { "S": "course" }, "message_id": { "S": "msg_x" },
        "occurred_at_ms": { "N": last_ms.to_string() }, "first_started_at_ms": { "N": first_ms.to_string() },
    });
    refused
}

/// The start of a course at this time.
fn start(learner: u8, at_ms: i64) -> Event {
    Event { learner, is_start: true, at_ms, message: learner.into(), has_custom_id: true }
}

async fn record(learners: &Learners, events: &[Event]) -> Vec<Result<(), String>> {
    let recorded = join_all(events.iter().map(|event| event.record(learners))).await;
    recorded.into_iter().map(|result| result.map_err(|error| with_causes(&error))).collect()
}

#[tokio::test]
async fn a_batch_of_new_messages_is_claimed_written_and_settled_with_one_request_each() {
    let all = || json!(vec![json!({}); 10]);
    let script = Script::of([all(), all(), all()]);
    let aws = script.start().await;
    let tables =
        [("LEARNINK_LEARNERS_TABLE", "learners"), ("LEARNINK_UNKNOWN_EVENTS_TABLE", "unknown-events")];
    let consumer = Consumer::new(
        learnink_handlers::router(&Env::of(tables).with_tables(aws.clone())).unwrap(),
        DynamoDbLedger::new(&aws, "ledger"),
        SqsQueues::new(&aws, "none", "none"),
        7,
        || 0.5,
    );
    let records = (0..10).map(|number| {
        let body = started(&format!("learner-{number}"), "course", "2022-11-04T09:58:58.233Z");
        let mut record = record_of(&format!("sqs-{number}"), &format!("msg_{number}"), body);
        record.attributes.insert("ApproximateReceiveCount".to_owned(), "1".to_owned());
        record
    });
    let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
    let invocation = Invocation::new("1", now, Duration::from_secs(20));
    let report = consumer.consume(&batch(records.collect()), &invocation).await;
    assert!(report.records.iter().all(|record| record.outcome == Outcome::Processed), "{report:?}");
    assert_eq!(script.calls(), ["INSERT", "INSERT", "UPDATE"].map(|verb| [verb; 10].join(" ")));
}

#[tokio::test]
async fn learners_who_are_new_in_a_course_are_one_request_with_one_write_each() {
    let script = Script::of([json!(vec![json!({}); 10])]);
    let events: Vec<_> = (0..10).map(|learner| start(learner, 5)).collect();
    assert_eq!(record(&script.learners().await, &events).await, vec![Ok(()); 10]);
    assert_eq!(script.calls(), [["INSERT"; 10].join(" ")]);
}

#[tokio::test]
async fn events_about_the_same_learner_and_course_are_one_write() {
    let script = Script::of([json!([{}])]);
    let events = [5, 4, 6].into_iter().enumerate();
    let events: Vec<_> = events.map(|(message, at_ms)| Event { message, ..start(0, at_ms) }).collect();
    assert_eq!(record(&script.learners().await, &events).await, vec![Ok(()); 3]);
    let calls = script.calls.lock().unwrap();
    // The latest activity and the earliest start.
    let expected = json!([
        { "S": "learner-0" }, { "S": "course" }, { "N": "6" }, { "S": "msg_2" }, { "N": "4" }, { "S": "custom-2" },
    ]);
    assert_eq!(calls[0].1["Statements"][0]["Parameters"], expected);
    assert_eq!(calls.len(), 1);
}

#[tokio::test]
async fn a_learner_who_starts_a_course_again_is_an_insert_and_an_update() {
    let script = Script::of([json!([refused("DuplicateItem"), {}]), json!([{}])]);
    assert_eq!(record(&script.learners().await, &[start(0, 5), start(1, 5)]).await, vec![Ok(()); 2]);
    assert_eq!(script.calls(), ["INSERT INSERT", "UPDATE"]);
}

#[tokio::test]
async fn an_event_that_says_nothing_new_is_written_no_further_and_one_that_does_is() {
    for (last_ms, first_ms, separate) in [
        // The latest activity of the row, its first start, and how many writes are left.
        (6, 4, 0),
        (5, 5, 0),
        (6, 6, 1),
        (4, 6, 2),
    ] {
        let script = Script::of([json!([refused("DuplicateItem")]), json!([found(last_ms, first_ms)])]);
        assert_eq!(record(&script.learners().await, &[start(0, 5)]).await, [Ok(())]);
        let expected = [&["INSERT", "UPDATE"][..], &["UpdateItem"].repeat(separate)].concat();
        assert_eq!(script.calls(), expected, "{last_ms} {first_ms}");
    }
}

#[tokio::test]
async fn a_statement_that_is_not_carried_out_is_written_separately() {
    for answers in [json!([{}, refused("ThrottlingError"), {}]), json!([{}, refused("AccessDenied"), {}])] {
        let script = Script::of([answers]);
        let events = [start(0, 5), start(1, 5), start(2, 5)];
        assert_eq!(record(&script.learners().await, &events).await, [Ok(()), Ok(()), Ok(())]);
        assert_eq!(script.calls(), ["INSERT INSERT INSERT", "UpdateItem", "UpdateItem"]);
    }
    // And one without an answer.
    let script = Script::of([json!([{}])]);
    assert_eq!(record(&script.learners().await, &[start(0, 5), start(1, 5)]).await, [Ok(()), Ok(())]);
    assert_eq!(script.calls(), ["INSERT INSERT", "UpdateItem", "UpdateItem"]);
}

#[tokio::test]
async fn a_row_that_dynamodb_does_not_take_fails_its_own_event_alone() {
    // The request is refused as a whole.
    let script = Script { refused: Some("learner-1"), ..Script::default() };
    let recorded = record(&script.learners().await, &[start(0, 5), start(1, 5), start(2, 5)]).await;
    let error = "could not write to the table `learners`: AWS answered 400 (ValidationException)";
    assert_eq!(recorded, [Ok(()), Err(error.to_owned()), Ok(())]);
}

#[tokio::test]
async fn without_an_answer_every_event_is_tried_again() {
    let learners = Learners::new(&sdk_config("http://127.0.0.1:1"), "learners");
    let recorded = record(&learners, &[start(0, 5), start(1, 5)]).await;
    let error = "could not write to the table `learners`: AWS could not be reached, or broke the connection";
    assert_eq!(recorded, [Err(error.to_owned()), Err(error.to_owned())]);
}
