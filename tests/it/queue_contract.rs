//! The behaviour of a queue that the pipeline needs, on every engine that replaces SQS.

use std::sync::Mutex;
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use learnink_local::EventSource;
use learnink_tests::engine::{Engine, QueuePair};
use serde_json::json;

on_both_engines! {
    a_message_comes_back_as_it_was_sent,
    a_received_message_is_hidden_and_comes_back_with_a_higher_count,
    a_changed_visibility_brings_a_message_back_at_its_own_time,
    a_deleted_message_does_not_come_back,
    after_its_last_delivery_a_message_goes_to_the_dead_letter_queue_with_its_attributes,
    of_a_batch_only_the_failed_messages_come_back,
    an_invocation_that_fails_brings_the_whole_batch_back,
}

/// Characters that SQS accepts and that are easily lost.
const AWKWARD: &str = "{\"text\": \"tab\t, quote \\\", emoji 🎓, \u{2028}, \r\n, \u{FFFD}, \u{10FFFF}\"}";

async fn send(engine: &Engine, url: &str, body: &str) {
    let attribute = |data_type: &str, value: &str| {
        MessageAttributeValue::builder().data_type(data_type).string_value(value).build().unwrap()
    };
    let request = engine.sqs_client().send_message().queue_url(url).message_body(body);
    let request = request
        .message_attributes("svix-id", attribute("String", "msg_1"))
        .message_attributes("received-at", attribute("Number", "1700000000000"));
    request.send().await.unwrap();
}

async fn receive(engine: &Engine, url: &str, wait_s: i32) -> Option<Message> {
    let request = engine.sqs_client().receive_message().queue_url(url).wait_time_seconds(wait_s);
    let request = request
        .message_attribute_names("All")
        .message_system_attribute_names(MessageSystemAttributeName::All);
    request.send().await.unwrap().messages?.pop()
}

fn receive_count(message: &Message) -> &str {
    &message.attributes.as_ref().unwrap()[&MessageSystemAttributeName::ApproximateReceiveCount]
}

fn assert_is_as_sent(message: &Message, body: &str) {
    assert_eq!(message.body.as_deref(), Some(body));
    let attributes = message.message_attributes.as_ref().unwrap();
    let attribute = |name: &str| {
        let value = &attributes[name];
        (value.data_type.as_str(), value.string_value.as_deref().unwrap())
    };
    assert_eq!(attributes.len(), 2);
    assert_eq!(attribute("svix-id"), ("String", "msg_1"));
    assert_eq!(attribute("received-at"), ("Number", "1700000000000"));
}

async fn a_message_comes_back_as_it_was_sent(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(30, 5).await;
    send(&engine, &url, AWKWARD).await;
    let message = receive(&engine, &url, 5).await.unwrap();
    assert_is_as_sent(&message, AWKWARD);
    assert_eq!(receive_count(&message), "1");
}

async fn a_received_message_is_hidden_and_comes_back_with_a_higher_count(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(4, 5).await;
    send(&engine, &url, "{}").await;
    let first = receive(&engine, &url, 5).await.unwrap();
    assert!(receive(&engine, &url, 0).await.is_none());

    let second = receive(&engine, &url, 15).await.unwrap();
    assert_eq!(second.message_id, first.message_id);
    assert_eq!(receive_count(&second), "2");
}

async fn a_changed_visibility_brings_a_message_back_at_its_own_time(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(600, 5).await;
    send(&engine, &url, "{}").await;
    let message = receive(&engine, &url, 5).await.unwrap();
    let request = engine.sqs_client().change_message_visibility().queue_url(&url).visibility_timeout(4);
    request.receipt_handle(message.receipt_handle.unwrap()).send().await.unwrap();
    assert!(receive(&engine, &url, 0).await.is_none());
    assert_eq!(receive_count(&receive(&engine, &url, 15).await.unwrap()), "2");
}

async fn a_deleted_message_does_not_come_back(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(1, 5).await;
    send(&engine, &url, "{}").await;
    let message = receive(&engine, &url, 5).await.unwrap();
    let request = engine.sqs_client().delete_message().queue_url(&url);
    request.receipt_handle(message.receipt_handle.unwrap()).send().await.unwrap();
    assert!(receive(&engine, &url, 2).await.is_none());
}

async fn after_its_last_delivery_a_message_goes_to_the_dead_letter_queue_with_its_attributes(engine: Engine) {
    let QueuePair { url, dead_letter_url } = engine.queues(1, 2).await;
    send(&engine, &url, AWKWARD).await;
    for delivery in ["1", "2"] {
        assert_eq!(receive_count(&receive(&engine, &url, 5).await.unwrap()), delivery);
    }
    // SQS moves a message when it would be delivered once more.
    assert!(receive(&engine, &url, 3).await.is_none());
    assert_is_as_sent(&receive(&engine, &dead_letter_url, 5).await.unwrap(), AWKWARD);
}

async fn of_a_batch_only_the_failed_messages_come_back(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(4, 5).await;
    for body in ["good", "bad", "also good"] {
        send(&engine, &url, body).await;
    }
    let deliveries = Mutex::new(Vec::new());
    let function = |batch: SqsEvent| {
        let failed = batch.records.iter().filter(|record| record.body.as_deref() == Some("bad"));
        let failed = failed.map(|record| json!({ "itemIdentifier": record.message_id }));
        let answer = json!({ "batchItemFailures": failed.collect::<Vec<_>>() });
        deliveries.lock().unwrap().extend(batch.records.into_iter().map(|record| record.body.unwrap()));
        async { Some(answer) }
    };
    poll_until(&engine, &url, &function, || deliveries.lock().unwrap().len() >= 4).await;
    let mut deliveries = deliveries.into_inner().unwrap();
    deliveries.sort();
    assert_eq!(deliveries, ["also good", "bad", "bad", "good"]);
}

async fn an_invocation_that_fails_brings_the_whole_batch_back(engine: Engine) {
    let QueuePair { url, .. } = engine.queues(1, 5).await;
    for body in ["a", "b"] {
        send(&engine, &url, body).await;
    }
    let deliveries = Mutex::new(Vec::new());
    let function = |batch: SqsEvent| {
        deliveries.lock().unwrap().extend(batch.records.into_iter().map(|record| record.body.unwrap()));
        async { None }
    };
    poll_until(&engine, &url, &function, || deliveries.lock().unwrap().len() >= 4).await;
    let deliveries = deliveries.into_inner().unwrap();
    assert!(["a", "b"].iter().all(|body| deliveries.iter().filter(|seen| seen == body).count() >= 2));
}

/// Polls as the event source mapping does, until `done` or for some seconds.
async fn poll_until<F, Fut>(engine: &Engine, url: &str, function: &F, done: impl Fn() -> bool)
where
    F: Fn(SqsEvent) -> Fut,
    Fut: Future<Output = Option<serde_json::Value>>,
{
    let source = EventSource::new(engine.sqs_client(), url);
    let polls = async {
        while !done() {
            source.poll(1, function).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polls).await.unwrap();
}
