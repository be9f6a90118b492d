//! Events on an event bus, as those who listen there get them.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_eventbridge::types::Target;
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_handlers::bus::{Bus, Config, Fields, router};
use learnink_tests::engine::Engine;
use serde_json::Value;

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, record};

/// A consumer whose one handler puts events on the bus of this name.
async fn consumer(engine: &Engine, bus: &str) -> Consumer {
    let config = Config { name: bus.to_owned(), fields: Fields::IdsAnd(BTreeSet::new()) };
    Consumer::new(
        router(Bus::new(&engine.sqs, &config)),
        DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await),
        SqsQueues::new(&engine.sqs, "none", "none"),
        || 0.5,
    )
}

async fn consume(consumer: &Consumer) -> Outcome {
    let record = record("sqs-1", "msg_1", started("u", "c", "2022-11-04T09:58:58.233Z"));
    let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
    let invocation = Invocation::new("1", now, Duration::from_secs(20));
    consumer.consume(&batch(vec![record]), &invocation).await.records[0].outcome
}

#[tokio::test]
async fn those_who_listen_on_the_bus_get_the_event_without_personal_data() {
    let engine = Engine::ministack().await;
    let queue = engine.queues(30, 7).await.url;
    let events = aws_sdk_eventbridge::Client::new(&engine.sqs);
    events.create_event_bus().name("automations").send().await.unwrap();
    let pattern = r#"{ "source": ["learnink"], "detail-type": ["user.course.started"] }"#;
    let rule = events.put_rule().name("starts").event_bus_name("automations").event_pattern(pattern);
    rule.send().await.unwrap();
    let arn = engine.queue_attribute(&queue, QueueAttributeName::QueueArn).await;
    let target = Target::builder().id("queue").arn(arn).build().unwrap();
    events.put_targets().rule("starts").event_bus_name("automations").targets(target).send().await.unwrap();

    assert_eq!(consume(&consumer(&engine, "automations").await).await, Outcome::Processed);

    let received = engine.sqs_client().receive_message().queue_url(&queue).wait_time_seconds(10).send().await;
    let messages = received.unwrap().messages.unwrap();
    let body = messages[0].body.as_deref().unwrap();
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&event["source"], &event["detail-type"]),
        (&"learnink".into(), &"user.course.started".into())
    );
    assert_eq!(event["detail"]["key"], "msg_1/bus");
    assert_eq!(event["detail"]["data"]["user_id"], "u");
    assert!(!body.contains("+2547"), "{body}");
}

#[tokio::test]
async fn an_event_that_the_bus_does_not_take_comes_back() {
    let engine = Engine::embedded().await;
    // There is no event bus at the other end.
    assert_eq!(consume(&consumer(&engine, "automations").await).await, Outcome::Retry);
}
