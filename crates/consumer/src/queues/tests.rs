//! What SQS is asked, by the SDK's own client, with SQS in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::RetryConfig;
use serde_json::{Value, json};

use super::*;

/// Keeps what it is asked, and answers with this status.
#[derive(Debug, Clone)]
struct Sqs {
    status: u16,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl HttpConnector for Sqs {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let operation = request.headers().get("x-amz-target").unwrap_or_default();
        let input: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        self.asked.lock().unwrap().push(json!({ operation: input }));
        let body = SdkBody::from(r#"{"MessageId":"sqs-2"}"#);
        let answer = HttpResponse::new(self.status.try_into().unwrap(), body);
        HttpConnectorFuture::ready(Ok(answer))
    }
}

/// The queues, with SQS answering like this.
fn queues(status: u16) -> (SqsQueues, Sqs) {
    let sqs = Sqs { status, asked: Arc::default() };
    let connector = SharedHttpConnector::new(sqs.clone());
    let credentials = Credentials::new("AKID", "key", None, None, "tests");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::disabled())
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .build();
    (SqsQueues::new(&config, "https://sqs.test/1/source", "https://sqs.test/1/dead"), sqs)
}

impl Sqs {
    /// The only request, as operation and input.
    fn asked(&self) -> (String, Value) {
        let asked = self.asked.lock().unwrap();
        let [asked] = asked.as_slice() else { panic!("{asked:?}") };
        let (operation, input) = asked.as_object().unwrap().iter().next().unwrap();
        (operation.clone(), input.clone())
    }

    /// The attributes of the only message that was sent.
    fn attributes(&self) -> BTreeMap<String, String> {
        let (operation, input) = self.asked();
        assert_eq!(operation, "AmazonSQS.SendMessage");
        let attributes = input["MessageAttributes"].as_object().unwrap();
        let value = |value: &Value| value["StringValue"].as_str().unwrap().to_owned();
        attributes.iter().map(|(name, attribute)| (name.clone(), value(attribute))).collect()
    }
}

/// The third delivery of a message with these attributes.
fn delivered(attributes: &[(&str, &str)]) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.body = Some("{}".to_owned());
    record.receipt_handle = Some("receipt".to_owned());
    record.attributes.insert("ApproximateReceiveCount".to_owned(), "3".to_owned());
    for (name, value) in attributes {
        let mut attribute = SqsMessageAttribute::default();
        attribute.data_type = Some("String".to_owned());
        attribute.string_value = Some((*value).to_owned());
        record.message_attributes.insert((*name).to_owned(), attribute);
    }
    record
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const WHY: DeadLetter<'static> =
    DeadLetter { reason: "no such plan", handler: Some("push"), first_seen: None };

#[tokio::test]
async fn a_dead_letter_is_the_message_with_its_reason_in_place_of_an_earlier_one() {
    let record = delivered(&[("svix-id", "msg_1"), ("event-type", "a"), (attribute::REASON, "earlier")]);
    for (why, handler, deliveries) in [
        (WHY, "push", "3"),
        (DeadLetter { handler: None, ..WHY }, "-", "3"),
        (
            DeadLetter { first_seen: Some(Timestamp::UNIX_EPOCH), ..WHY },
            "push",
            "3 since 1970-01-01T00:00:00Z",
        ),
    ] {
        let (queues, sqs) = queues(200);
        queues.dead_letter(Record(&record), why).await.unwrap();
        let expected = [
            ("svix-id", "msg_1"),
            ("event-type", "a"),
            (attribute::REASON, "no such plan"),
            (attribute::HANDLER, handler),
            (attribute::DELIVERIES, deliveries),
        ];
        assert_eq!(sqs.attributes(), pairs(&expected));
        let (_, input) = sqs.asked();
        assert_eq!(
            (&input["QueueUrl"], &input["MessageBody"]),
            (&json!("https://sqs.test/1/dead"), &json!("{}"))
        );
    }
}

#[tokio::test]
async fn a_message_without_room_for_the_reason_is_not_copied() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let attributes = names.map(|name| (name, "1"));
    let (with_room, _) = queues(200);
    assert!(with_room.dead_letter(Record(&delivered(&attributes[..7])), WHY).await.is_ok());
    let (without, sqs) = queues(200);
    let error = without.dead_letter(Record(&delivered(&attributes)), WHY).await.unwrap_err();
    assert_eq!(error.to_string(), "the message has 8 attributes; no room for the reason");
    assert!(sqs.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_is_sent_again_without_what_made_it_a_dead_letter() {
    let of_window = [("event-type", "a"), ("replay-window", "w1"), ("format-version", "replay-1")];
    let of_dead_letter =
        [(attribute::REASON, "r"), (attribute::HANDLER, "push"), (attribute::DELIVERIES, "3")];
    let record = delivered(&[&of_window[..], &of_dead_letter].concat());
    for (delay, seconds) in [(Duration::from_millis(1_200), 2), (Duration::from_hours(1), 900)] {
        let (queues, sqs) = queues(200);
        queues.send_again(Record(&record), None, delay).await.unwrap();
        assert_eq!(sqs.attributes(), pairs(&of_window));
        let (_, input) = sqs.asked();
        assert_eq!(
            (&input["QueueUrl"], &input["DelaySeconds"]),
            (&json!("https://sqs.test/1/source"), &json!(seconds))
        );
    }
}

#[tokio::test]
async fn a_part_says_which_one_it_is_and_leaves_out_what_its_body_and_its_task_have() {
    let record = delivered(&[
        ("svix-id", "msg_1"),
        ("event-type", "a"),
        ("replay-window", "w1"),
        ("format-version", "replay-1"),
        (attribute::REASON, "r"),
    ]);
    let part = Part::all_of("push@w1", 5, 2, false).next();
    let (queues, sqs) = queues(200);
    queues.send_again(Record(&record), part.as_ref(), Duration::ZERO).await.unwrap();
    let expected = [("svix-id", "msg_1"), ("format-version", "part-1"), ("part", "push@w1/0-1/5")];
    assert_eq!(sqs.attributes(), pairs(&expected));
}

#[tokio::test]
async fn a_copy_that_sqs_refuses_is_an_error() {
    let (queues, _) = queues(400);
    let record = delivered(&[]);
    let dead_letter = queues.dead_letter(Record(&record), WHY).await;
    assert!(matches!(dead_letter, Err(CopyError::Send(_))), "{dead_letter:?}");
    let again = queues.send_again(Record(&record), None, Duration::ZERO).await;
    assert!(matches!(again, Err(CopyError::Send(_))), "{again:?}");
}

#[tokio::test]
async fn a_message_is_hidden_for_whole_seconds_and_at_least_as_long_as_asked_for() {
    let (queues, sqs) = queues(200);
    assert!(queues.back_off(Record(&delivered(&[])), Duration::from_millis(1_200)).await);
    let expected = json!({
        "QueueUrl": "https://sqs.test/1/source",
        "ReceiptHandle": "receipt",
        "VisibilityTimeout": 2,
    });
    assert_eq!(sqs.asked(), ("AmazonSQS.ChangeMessageVisibility".to_owned(), expected));
}

#[tokio::test]
async fn a_delay_that_was_not_set_is_reported_as_not_set() {
    let (refused, _) = queues(400);
    assert!(!refused.back_off(Record(&delivered(&[])), Duration::ZERO).await);
    let mut without_handle = delivered(&[]);
    without_handle.receipt_handle = None;
    let (queues, sqs) = queues(200);
    assert!(!queues.back_off(Record(&without_handle), Duration::ZERO).await);
    assert!(sqs.asked.lock().unwrap().is_empty());
}

#[test]
fn any_reason_becomes_one_that_sqs_takes() {
    assert_eq!(to_attribute_value("the plan is not one we sell"), "the plan is not one we sell");
    assert_eq!(to_attribute_value("red \u{1b}[31m\0\u{FFFF}"), "red  [31m  ");
    assert_eq!(to_attribute_value(" \n"), "no reason given");
    assert_eq!(to_attribute_value(&"é".repeat(2_000)).len(), 1_024);
}
