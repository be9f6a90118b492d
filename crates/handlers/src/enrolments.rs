//! `user.course.started`: tells your own system that a learner has started a course.
//!
//! A worked example, for you to change or to delete: this file, its `mod` and its line in `lib.rs`. It is switched
//! off until `ENROLMENTS_URL` is set. `ENROLMENTS_TOKEN` holds your system's API token, or `ENROLMENTS_TOKEN_ID`
//! the name of a secret in AWS Secrets Manager with the token.

use std::time::Duration;

use learnink_aws::secret::LONGEST_WAIT;
use learnink_aws::{Env, HttpsUrl, Secret, Token};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::router::LONGEST_CALL;
use learnink_webhook::{Event, HandlerError, HandlerResult, OrPermanent, Router};
use serde_json::json;

/// Your system's API. Cloned for every call: clients and names only.
#[derive(Debug, Clone)]
struct Enrolments {
    url: HttpsUrl,
    http: reqwest::Client,
    token: Secret<Token>,
}

/// The handler; none if `ENROLMENTS_URL` is not set.
pub(crate) fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(url) = env.optional("ENROLMENTS_URL")? else { return Ok(Router::off("enrolments")) };
    let http = env.http_client(&url)?;
    let enrolments = Enrolments { url, http, token: env.secret("ENROLMENTS_TOKEN")? };
    // Reading the token, and then the call.
    let router =
        Router::new().on("enrolments", enrol).longest_call("enrolments", LONGEST_WAIT + LONGEST_CALL);
    Ok(router.with_state(enrolments))
}

async fn enrol(event: Event<CourseStarted>, enrolments: Enrolments) -> HandlerResult {
    let learner = event.data.custom_id.read("custom_id")?;
    // Never: a missing id will still be missing at the next attempt.
    let learner = learner.or_permanent("the learner has no id of our own")?;
    let token = enrolments.token.get(event.now).await?;
    let body = json!({ "learner": learner, "course": event.data.course_id }).to_string();
    let request = enrolments.http.post(enrolments.url.url()).bearer_auth(token.expose());
    // The same key at every attempt, so that your system can recognise a repetition.
    let request = request.header("idempotency-key", event.key.as_str());
    let response = request.header("content-type", "application/json").body(body).send().await?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        401 | 403 => {
            enrolments.token.doubt();
            Err(HandlerError::retryable("the token was not accepted"))
        }
        // Never, not again before a minute, and again.
        400 | 404 | 422 => Err(HandlerError::permanent("the learner or the course is not known there")),
        429 => Err(HandlerError::retryable("too many requests").retry_after(Duration::from_mins(1))),
        status => Err(HandlerError::retryable(format!("the answer was {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, StatusCode};
    use learnink_webhook::testing::{TestConsumer, with};
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;

    const STARTED: &str = include_str!("../../../events/user.course.started.json");

    /// A consumer with only this handler, whose requests are answered with this status.
    async fn consumer(status: u16) -> TestConsumer {
        learnink_aws::install_tls_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = move |headers: HeaderMap, body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            let is_right = headers["authorization"] == "Bearer secret"
                && headers["idempotency-key"] == "msg_1/enrolments"
                && body["learner"] == "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33";
            if is_right { StatusCode::from_u16(status).unwrap() } else { StatusCode::NOT_IMPLEMENTED }
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        let env = Env::of([("ENROLMENTS_URL", &*url), ("ENROLMENTS_TOKEN", "secret")]);
        TestConsumer::new(router(&env).unwrap())
    }

    #[tokio::test]
    async fn a_started_course_is_an_enrolment_and_a_duplicate_is_none() {
        let mut consumer = consumer(201).await;
        consumer.deliver(STARTED).await.assert_done();
        consumer.deliver_again().await.assert_not_run();
    }

    #[tokio::test]
    async fn what_the_system_answers_decides_what_becomes_of_the_event() {
        consumer(503).await.deliver(STARTED).await.assert_retried("the answer was 503");
        consumer(401).await.deliver(STARTED).await.assert_retried("the token was not accepted");
        consumer(422).await.deliver(STARTED).await.assert_dead_lettered("is not known there");
        let delivered = consumer(429).await.deliver(STARTED).await;
        assert_eq!(delivered.retry_after(), Some(Duration::from_mins(1)));
    }

    #[tokio::test]
    async fn a_learner_without_an_id_of_ours_is_dead_lettered() {
        let nobody = with(STARTED, "/data/custom_id", Value::Null);
        consumer(201).await.deliver(nobody).await.assert_dead_lettered("no id of our own");
    }
}
