//! A call to another system: it gets the idempotency key, and does nothing when it knows the key.

use std::time::Duration;

use learnink_aws::{Env, HttpsUrl};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::{Event, HandlerError, HandlerResult, OrPermanent, Router};
use serde_json::json;

/// The other system. Cloned for every call: clients and names only.
#[derive(Debug, Clone)]
struct Seats {
    url: HttpsUrl,
    http: reqwest::Client,
}

/// The handler; none if `SEATS_URL` is not set.
///
/// # Errors
///
/// [`ConfigError`] if it is not an address.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(url) = env.optional("SEATS_URL")? else { return Ok(Router::off("seats")) };
    let http = env.http_client(&url)?;
    Ok(Router::new().on("seats", take_seat).with_state(Seats { url, http }))
}

async fn take_seat(event: Event<CourseStarted>, seats: Seats) -> HandlerResult {
    let learner = event.data.custom_id.read("custom_id")?.or_permanent("the learner has no id of ours")?;
    let body = json!({ "learner": learner, "course": event.data.course_id }).to_string();
    // The same at every attempt of this message, whatever happens in between.
    let request = seats.http.post(seats.url.url()).header("idempotency-key", event.key.as_str());
    let response = request.header("content-type", "application/json").body(body).send().await?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        // Never: the same request would be refused again.
        400 | 404 | 422 => Err(HandlerError::permanent("the learner or the course is not known there")),
        429 => Err(HandlerError::retryable("too many requests").retry_after(Duration::from_mins(1))),
        status => Err(HandlerError::retryable(format!("the answer was {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::testing::TestConsumer;

    use super::*;
    use crate::endpoint;

    const STARTED: &str = include_str!("../../events/user.course.started.json");

    #[tokio::test]
    async fn a_call_whose_answer_was_lost_is_repeated_under_the_same_key() {
        let (url, requests) = endpoint::start(201).await;
        let mut consumer = TestConsumer::new(router(&Env::of([("SEATS_URL", &*url)])).unwrap());
        consumer.crash_before_recording();
        consumer.deliver(STARTED).await;
        consumer.deliver_again().await.assert_done();
        consumer.deliver_again().await.assert_not_run();
        let requests = requests.lock().unwrap();
        let keys: Vec<_> = requests.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["msg_1/seats", "msg_1/seats"]);
    }

    #[tokio::test]
    async fn what_the_system_refuses_is_dead_lettered_and_what_it_cannot_do_now_is_tried_again() {
        for (status, reason) in [(422, "is not known there"), (503, "the answer was 503")] {
            let (url, _) = endpoint::start(status).await;
            let mut consumer = TestConsumer::new(router(&Env::of([("SEATS_URL", &*url)])).unwrap());
            let delivered = consumer.deliver(STARTED).await;
            if status == 422 {
                delivered.assert_dead_lettered(reason);
            } else {
                delivered.assert_retried(reason);
            }
        }
    }
}
