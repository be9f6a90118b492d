//! From the signed request to the learner's row, on the laptop's pipeline.

use aws_sdk_sqs::types::MessageAttributeValue;
use learnink_consumer::Outcome;
use learnink_local::LocalSqs;
use learnink_local::pipeline::{QUEUE, StackLimits};
use learnink_tests::read;
use reqwest::StatusCode;

use crate::laptop::{Laptop, QUICK, started};

#[tokio::test]
async fn a_signed_webhook_ends_as_a_learners_row() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    assert_eq!(laptop.post("msg_1", read("events/user.course.started.json")).await, StatusCode::OK);
    let record = laptop.next_record().await;
    assert_eq!((record.outcome, record.handlers[0].name), (Outcome::Processed, "progress"));

    let learners = laptop.learners().await;
    assert_eq!(learners.len(), 1);
    assert_eq!(learners[0].course_id, "83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8");
    assert_eq!(learners[0].last_activity_at.to_string(), "2022-11-04T09:58:58.233Z");
    laptop.drained().await;
    assert_eq!(laptop.queued().await, (0, 0));
}

#[tokio::test]
async fn the_same_webhook_again_is_answered_200_and_applied_once() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let body = read("events/user.course.started.json");
    assert_eq!(laptop.post("msg_1", body.clone()).await, StatusCode::OK);
    assert_eq!(laptop.next_record().await.outcome, Outcome::Processed);
    assert_eq!(laptop.post("msg_1", body).await, StatusCode::OK);

    let again = laptop.next_record().await;
    assert_eq!(again.outcome, Outcome::Duplicate);
    assert!(again.handlers.is_empty(), "no handler ran");
    assert_eq!(laptop.learners().await.len(), 1);
}

#[tokio::test]
async fn the_same_id_with_another_body_is_dead_lettered_and_not_applied() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    laptop.post("msg_1", started("first", "c", "2026-01-01T00:00:00Z")).await;
    assert_eq!(laptop.next_record().await.outcome, Outcome::Processed);
    laptop.post("msg_1", started("second", "c", "2026-01-01T00:00:00Z")).await;
    assert_eq!(laptop.next_record().await.outcome, Outcome::DeadLettered);

    assert_eq!(laptop.dead_letter().await.reason(), "the same message id came with another payload before");
    assert_eq!(laptop.learners().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_webhooks_all_are_applied_and_none_again_once_recorded_though_the_pollers_are_killed()
{
    const WEBHOOKS: usize = 2_000;
    let mut laptop = Laptop::start(QUICK).await;
    let kill_at = [WEBHOOKS / 4, WEBHOOKS / 2, WEBHOOKS * 3 / 4];
    for first in (0..WEBHOOKS).step_by(20) {
        let posts = (first..first + 20).map(|number| {
            let body = started(&format!("learner-{number}"), "c", "2026-01-01T00:00:00Z");
            let laptop = &laptop;
            async move { laptop.post(&format!("msg_{number}"), body).await }
        });
        let answers = futures_util::future::join_all(posts).await;
        assert!(answers.iter().all(|answer| *answer == StatusCode::OK));
        if kill_at.contains(&first) {
            laptop.pipeline.kill_pollers().await;
            laptop.pipeline.start_pollers();
        }
    }
    laptop.drained().await;

    assert_eq!(laptop.queued().await, (0, 0));
    assert_eq!(laptop.learners().await.len(), WEBHOOKS);
    for (id, outcomes) in laptop.outcomes() {
        let processed = outcomes.iter().filter(|outcome| **outcome == Outcome::Processed).count();
        assert!(processed <= 1, "{id} was recorded as done and done again: {outcomes:?}");
    }
}

#[tokio::test]
async fn an_unknown_type_is_kept_as_it_was_signed() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    assert_eq!(laptop.post("msg_1", read("events/example.unknown.json")).await, StatusCode::OK);
    let record = laptop.next_record().await;
    assert_eq!((record.outcome, record.known), (Outcome::Processed, false));

    let kept = laptop.unknown_events().await;
    assert_eq!((kept[0].event_type.as_str(), kept[0].message_id.as_str()), ("example.unknown", "msg_1"));
}

#[tokio::test]
async fn an_unknown_event_that_is_too_large_for_a_row_is_dead_lettered() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let padding = format!("\"note\": \"{}\", \"note\"", " ".repeat(400 * 1024));
    let large = read("events/example.unknown.json").replace("\"note\"", &padding);
    assert_eq!(laptop.post("msg_1", large).await, StatusCode::OK);
    assert_eq!(laptop.next_record().await.outcome, Outcome::DeadLettered);
    let dead_letter = laptop.dead_letter().await;
    assert_eq!(dead_letter.attribute("dead-letter-handler"), Some("unknown"));
    assert_eq!(dead_letter.attribute("encoding"), Some("gzip+base64"));
}

#[tokio::test]
async fn a_version_of_the_future_is_kept_and_not_taken_for_todays() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let future = started("u", "c", "2031-01-01T00:00:00Z").replace("2022-11-15", "2031-01-01");
    assert_eq!(laptop.post("msg_1", future).await, StatusCode::OK);
    assert!(!laptop.next_record().await.known);

    let kept = laptop.unknown_events().await;
    assert_eq!(kept[0].api_version, "2031-01-01");
    assert!(laptop.learners().await.is_empty());
}

#[tokio::test]
async fn a_genuine_body_that_is_no_event_is_dead_lettered_with_its_reason_and_headers() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let cases = [
        ("", "the body is empty"),
        ("not json", "the body is not JSON (line 1, column 2)"),
        ("[\"x\"]", "the body is JSON but not an object, as every event is"),
    ];
    for (number, (body, reason)) in cases.into_iter().enumerate() {
        let id = format!("msg_{number}");
        assert_eq!(laptop.post(&id, body).await, StatusCode::OK);
        assert_eq!(laptop.next_record().await.outcome, Outcome::DeadLettered);

        let dead_letter = laptop.dead_letter().await;
        assert_eq!(dead_letter.reason(), reason);
        assert_eq!(dead_letter.attribute("dead-letter-handler"), Some("-"));
        assert_eq!(dead_letter.attribute("dead-letter-deliveries"), Some("1"));
        assert_eq!(dead_letter.attribute("svix-id"), Some(id.as_str()));
        assert!(dead_letter.attribute("svix-signature").is_some());
    }
}

#[tokio::test]
async fn data_of_another_shape_is_dead_lettered_and_the_reason_does_not_quote_it() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let body = started("u", "c", "2026-01-01T00:00:00Z").replace("\"u\"", "{\"phone\":\"+254705408079\"}");
    assert_eq!(laptop.post("msg_1", body).await, StatusCode::OK);
    assert_eq!(laptop.next_record().await.outcome, Outcome::DeadLettered);

    let dead_letter = laptop.dead_letter().await;
    assert_eq!(dead_letter.attribute("dead-letter-handler"), Some("progress"));
    assert!(dead_letter.reason().starts_with("`data` does not match the payload of `user.course.started`"));
    assert!(!dead_letter.reason().contains("2547"));
}

#[tokio::test]
async fn a_record_that_no_receiver_wrote_is_dead_lettered_and_its_batch_is_not() {
    let mut laptop = Laptop::start(QUICK).await;
    laptop.pipeline.kill_pollers().await;
    let color = MessageAttributeValue::builder().data_type("String").string_value("red").build().unwrap();
    let request = laptop.sqs().send_message().queue_url(LocalSqs::queue_url(QUEUE)).message_body("hello");
    request.message_attributes("color", color).send().await.unwrap();
    laptop.post("msg_1", started("u", "c", "2026-01-01T00:00:00Z")).await;
    laptop.pipeline.start_pollers();

    let mut outcomes = [laptop.next_record().await, laptop.next_record().await];
    outcomes.sort_by_key(|record| record.message_id.clone());
    assert_eq!(outcomes[0].outcome, Outcome::DeadLettered);
    assert_eq!(outcomes[1].outcome, Outcome::Processed);
    let dead_letter = laptop.dead_letter().await;
    assert_eq!(dead_letter.0.body.as_deref(), Some("hello"));
    assert_eq!(dead_letter.attribute("color"), Some("red"));
    assert_eq!(dead_letter.reason(), "not written by a receiver: the attribute `format-version` is missing");
}

#[tokio::test]
async fn a_message_of_another_format_version_comes_back_and_is_dead_lettered_at_its_last_delivery() {
    let limits = StackLimits { max_receive_count: 2, ..QUICK };
    let mut laptop = Laptop::start(limits).await;
    let two = MessageAttributeValue::builder().data_type("String").string_value("2").build().unwrap();
    let request = laptop.sqs().send_message().queue_url(LocalSqs::queue_url(QUEUE)).message_body("?");
    request.message_attributes("format-version", two).send().await.unwrap();

    for (delivery, outcome) in [(1, Outcome::Retry), (2, Outcome::DeadLettered)] {
        let record = laptop.next_record().await;
        assert_eq!((record.outcome, record.receive_count), (outcome, delivery));
    }
    let dead_letter = laptop.dead_letter().await;
    assert_eq!(dead_letter.0.body.as_deref(), Some("?"));
    assert!(dead_letter.reason().starts_with("written in format version `2`"), "{}", dead_letter.reason());
    assert_eq!(dead_letter.attribute("format-version"), Some("2"));
}

#[tokio::test]
async fn two_megabytes_pass_where_they_fit_the_queue_compressed() {
    let mut laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let body = started(&"u".repeat(1_000), "c", "2026-01-01T00:00:00Z");
    let body = body.replace("\"object\"", &format!("\"padding\":\"{}\",\"object\"", " ".repeat(2_000_000)));
    assert_eq!(laptop.post("msg_1", body).await, StatusCode::OK);
    assert_eq!(laptop.next_record().await.outcome, Outcome::Processed);

    let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(2_000_000).collect();
    assert_eq!(laptop.post("msg_2", noise).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(laptop.queued().await, (0, 0));
}

#[tokio::test]
async fn whatever_is_not_proven_to_be_learninks_is_refused_with_an_empty_answer_and_not_queued() {
    let laptop = Laptop::start(StackLimits::TEMPLATE).await;
    let cases = crate::refusals::all();
    for case in &cases {
        let response = case.send(&laptop).await;
        assert_eq!(response.status(), case.status, "{}", case.name);
        let headers = response.headers().clone();
        assert!(!headers.contains_key("svix-id"), "{}", case.name);
        assert!(response.bytes().await.unwrap().is_empty(), "{}", case.name);
    }
    assert_eq!(laptop.queued().await, (0, 0));
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut laptop = Laptop::start_in(Some(folder.path()), QUICK).await;
    laptop.post("msg_dead", "not json").await;
    assert_eq!(laptop.next_record().await.outcome, Outcome::DeadLettered);
    laptop.drained().await;
    laptop.pipeline.kill_pollers().await;
    for number in 0..20 {
        let body = started(&format!("learner-{number}"), "c", "2026-01-01T00:00:00Z");
        assert_eq!(laptop.post(&format!("msg_{number}"), body).await, StatusCode::OK);
    }
    drop(laptop);

    let laptop = Laptop::start_in(Some(folder.path()), QUICK).await;
    laptop.drained().await;
    assert_eq!(laptop.learners().await.len(), 20);
    assert_eq!(laptop.dead_letter().await.reason(), "the body is not JSON (line 1, column 2)");
}
