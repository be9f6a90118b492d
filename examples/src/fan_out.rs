//! A fan-out: another team gets the event on a queue of its own, without personal data.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::MessageAttributeValue;
use learnink_aws::{CallError, Env};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};
use serde_json::json;

/// A queue of another team. The consumer needs `sqs:SendMessage` on it.
#[derive(Debug, Clone)]
struct Reports {
    client: Client,
    queue_url: String,
}

/// The handler; none if `REPORTS_QUEUE_URL` is not set.
///
/// # Errors
///
/// [`ConfigError`] if there is no AWS.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(queue_url) = env.text("REPORTS_QUEUE_URL") else { return Ok(Router::off("reports")) };
    let client = Client::new(env.aws("REPORTS_QUEUE_URL")?);
    Ok(Router::new().on("reports", report).with_state(Reports { client, queue_url }))
}

async fn report(event: Event<CourseStarted>, reports: Reports) -> HandlerResult {
    // The phone number stays here: the readers of the queue are not known.
    let at = event.occurred_at().map(|at| at.to_string());
    let body = json!({ "learner": event.data.user_id, "course": event.data.course_id, "at": at });
    // At least once: the queue may get it twice, with the same key both times.
    let key = MessageAttributeValue::builder().data_type("String").string_value(event.key.as_str()).build();
    let key = key.map_err(|_| HandlerError::permanent("the key cannot be an attribute"))?;
    let send = reports.client.send_message().queue_url(reports.queue_url).message_body(body.to_string());
    send.message_attributes("key", key)
        .send()
        .await
        .map_err(|error| HandlerError::quoting(CallError::from(&error)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use learnink_tests::engine::Engine;
    use learnink_webhook::testing::TestConsumer;

    use super::*;

    const STARTED: &str = include_str!("../../events/user.course.started.json");

    #[tokio::test]
    async fn the_queue_gets_the_event_with_its_key_and_without_the_phone_number() {
        let engine = Engine::embedded().await;
        let queue = engine.queues(30, 5).await;
        let aws = engine.sqs.clone();
        let env = Env::of([("REPORTS_QUEUE_URL", &*queue.url)]).with_aws(move || Ok(aws.clone()));
        TestConsumer::new(router(&env).unwrap()).deliver(STARTED).await.assert_done();
        let receive =
            engine.sqs_client().receive_message().queue_url(&queue.url).message_attribute_names("All");
        let received = receive.send().await.unwrap();
        let [message] = received.messages() else { panic!("{received:?}") };
        assert_eq!(message.message_attributes().unwrap()["key"].string_value(), Some("msg_1/reports"));
        assert!(!message.body().unwrap().contains("+254705408079"));
    }
}
