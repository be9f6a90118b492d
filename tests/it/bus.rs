//! Events on an event bus, as its subscribers get them.

use std::time::Duration;

use aws_sdk_eventbridge::types::Target;
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::bus::router;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_tests::engine::Engine;
use serde_json::Value;

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, record};

/// A consumer whose only handler puts events on the bus of this name.
async fn consumer(engine: &Engine, bus: &str) -> Consumer {
    let aws = engine.sqs.clone();
    let env = Env::of([("LEARNINK_EVENT_BUS", bus)]).with_aws(move || Ok(aws.clone()));
    Consumer::new(
        router(&env).unwrap(),
        DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await),
        SqsQueues::new(&engine.sqs, "none", "none"),
        7,
        || 0.5,
    )
}

/// One delivery of the event, in a minute of its own.
async fn consume(consumer: &Consumer, minute: i64) -> Outcome {
    let record = record("sqs-1", "msg_1", started("u", "c", "2022-11-04T09:58:58.233Z"));
    let now = Timestamp::from_second(RECEIVED_AT_S + minute * 60).unwrap();
    let invocation = Invocation::new(minute.to_string(), now, Duration::from_secs(20));
    consumer.consume(&batch(vec![record]), &invocation).await.records[0].outcome
}

/// Makes a bus that forwards its events to the queue.
async fn listen(engine: &Engine, bus: &str, queue: &str) {
    let events = aws_sdk_eventbridge::Client::new(&engine.sqs);
    events.create_event_bus().name(bus).send().await.unwrap();
    let pattern = r#"{ "source": ["learnink"], "detail-type": ["user.course.started"] }"#;
    events.put_rule().name("starts").event_bus_name(bus).event_pattern(pattern).send().await.unwrap();
    let arn = engine.queue_attribute(queue, QueueAttributeName::QueueArn).await;
    let target = Target::builder().id("queue").arn(arn).build().unwrap();
    events.put_targets().rule("starts").event_bus_name(bus).targets(target).send().await.unwrap();
}

/// The next event that arrives on the queue, as text.
async fn next(engine: &Engine, queue: &str) -> String {
    let received = engine.sqs_client().receive_message().queue_url(queue).wait_time_seconds(10).send().await;
    received.unwrap().messages.unwrap().remove(0).body.unwrap()
}

#[tokio::test]
async fn those_who_listen_on_the_bus_get_the_event_without_personal_data() {
    let engine = Engine::ministack().await;
    let queue = engine.queues(30, 7).await.url;
    listen(&engine, "listened-to", &queue).await;

    assert_eq!(consume(&consumer(&engine, "listened-to").await, 0).await, Outcome::Processed);

    let body = next(&engine, &queue).await;
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&event["source"], &event["detail-type"]),
        (&"learnink".into(), &"user.course.started".into())
    );
    assert_eq!(event["detail"]["key"], "msg_1/bus");
    assert_eq!(event["detail"]["data"]["user_id"], "u");
    assert!(!body.contains("+2547"), "{body}");
}

/// EventBridge accepts an event for a bus that does not exist.
#[tokio::test]
async fn an_event_comes_back_until_its_bus_is_there() {
    let engine = Engine::ministack().await;
    let queue = engine.queues(30, 7).await.url;
    let consumer = consumer(&engine, "later").await;
    assert_eq!(consume(&consumer, 0).await, Outcome::Retry);
    listen(&engine, "later", &queue).await;
    assert_eq!(consume(&consumer, 1).await, Outcome::Processed);
    assert!(next(&engine, &queue).await.contains("msg_1/bus"));
}

#[tokio::test]
async fn an_event_that_the_bus_does_not_take_comes_back() {
    let engine = Engine::embedded().await;
    // This engine does not have an event bus.
    assert_eq!(consume(&consumer(&engine, "automations").await, 0).await, Outcome::Retry);
}
