//! The signing secrets in Secrets Manager: nothing genuine is lost while they change or cannot be read.

use jiff::{SignedDuration, Timestamp};
use learnink_receiver::{Receipt, Receiver, Refresh, Rotation, SecretSlot, SigningSecrets, SqsQueue};
use learnink_tests::fake_aws::{FakeAws, Fate};
use learnink_tests::signing::{self, OTHER_SECRET as OLD, SECRET as NEW};
use learnink_webhook::error::with_causes;

use crate::faults::event;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// When LearnInk's new secret is made.
const ROTATED_S: i64 = 1_700_000_000;

/// How long Svix signs with both. Source: Svix documentation, "Secret rotation".
const OVERLAP_S: i64 = 24 * HOUR;

/// The pauses before Svix's attempts, in seconds. Source: LearnInk webhook guide, "Retry schedule".
const PAUSES_S: [i64; 8] = [0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

async fn load(aws: &FakeAws, now_s: i64) -> Receiver {
    let secrets = SigningSecrets::load(&aws.sdk_config(), "learnink/test", at(now_s)).await.unwrap();
    Receiver::new(secrets, SqsQueue::new(&aws.sdk_config(), aws.queue_url()))
}

async fn deliver(receiver: &Receiver, id: &str, secret: &str, now_s: i64) -> Receipt {
    receiver.receive(event(secret, id, now_s, "{}"), at(now_s)).await
}

/// One attempt, signed as Svix signs at that time: with the old secret, with both, with the new one.
async fn attempt(receiver: &Receiver, id: &str, now_s: i64) -> Receipt {
    match now_s - ROTATED_S {
        ..0 => deliver(receiver, id, OLD, now_s).await,
        0..OVERLAP_S => {
            // Both signatures in one header, the newest first. Source: `svix-server`, `valid_signing_keys`.
            let headers = [NEW, OLD].map(|secret| signing::headers(secret, id, now_s, b"{}")[2].1.clone());
            let event = serde_json::json!({
                "rawPath": "/webhooks/learnink",
                "headers": {
                    "svix-id": id,
                    "svix-timestamp": now_s.to_string(),
                    "svix-signature": headers.join(" "),
                },
                "requestContext": { "http": { "method": "POST" } },
                "body": "{}",
            });
            receiver.receive(serde_json::from_str(&event.to_string()).unwrap(), at(now_s)).await
        }
        _ => deliver(receiver, id, NEW, now_s).await,
    }
}

/// Events of the whole timeline, one every `every_s`, that reach one execution environment.
async fn refused_at_first(receiver: &Receiver, from_s: i64, until_s: i64, every_s: i64) -> Vec<i64> {
    let mut refused = Vec::new();
    let mut now_s = from_s;
    while now_s < until_s {
        if attempt(receiver, &format!("msg_{every_s}_{now_s}"), now_s).await.outcome.answer().status_code
            != 200
        {
            refused.push(now_s);
        }
        now_s += every_s;
    }
    refused
}

#[tokio::test]
async fn a_rotation_in_time_refuses_nothing_not_even_at_first() {
    for stored_after_s in [1, 6 * HOUR, OVERLAP_S - MINUTE] {
        let aws = FakeAws::start().await;
        aws.set_secret("AWSCURRENT", OLD);
        let start_s = ROTATED_S - HOUR;
        let (busy, rare, asleep) =
            (load(&aws, start_s).await, load(&aws, start_s).await, load(&aws, start_s).await);

        let stored_s = ROTATED_S + stored_after_s;
        for (receiver, every_s) in [(&busy, 2 * MINUTE), (&rare, 3 * HOUR)] {
            assert!(refused_at_first(receiver, start_s, stored_s, every_s).await.is_empty());
        }
        aws.rotate_secret(NEW);
        let fresh = load(&aws, stored_s).await;
        let end_s = ROTATED_S + OVERLAP_S + 2 * HOUR;
        for (receiver, every_s) in [(&busy, 2 * MINUTE), (&rare, 3 * HOUR), (&fresh, 10 * MINUTE)] {
            assert!(refused_at_first(receiver, stored_s, end_s, every_s).await.is_empty());
        }
        // An environment that was frozen during all of it, and holds only the old secret.
        assert_eq!(attempt(&asleep, "msg_asleep", end_s).await.outcome.answer().status_code, 200);
        for receiver in [&busy, &rare, &fresh, &asleep] {
            assert_eq!(attempt(receiver, "msg_last", end_s + MINUTE).await.secret, Some(SecretSlot::Current));
        }
    }
}

#[tokio::test]
async fn a_rotation_is_told_of_from_its_first_webhook_until_the_new_secret_is_stored() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S - HOUR).await;
    let told = async |now_s: i64| {
        let receipt = attempt(&receiver, &format!("msg_{now_s}"), now_s).await;
        assert_eq!(receipt.outcome.answer().status_code, 200);
        receipt.rotation()
    };
    assert_eq!(told(ROTATED_S - 1).await, None);
    for passed_s in [0, MINUTE, HOUR, 6 * HOUR] {
        assert_eq!(told(ROTATED_S + passed_s).await, Some(Rotation::NewSecretMissing));
    }
    aws.rotate_secret(NEW);
    // The request that makes the receiver read old secrets again is still judged by those.
    told(ROTATED_S + 7 * HOUR).await;
    for passed_s in [8 * HOUR, OVERLAP_S - 1, OVERLAP_S + HOUR] {
        assert_eq!(told(ROTATED_S + passed_s).await, None);
    }

    // Stored before LearnInk uses it: only the previous secret matches.
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    aws.rotate_secret(NEW);
    let early = load(&aws, ROTATED_S - HOUR).await;
    let receipt = attempt(&early, "msg_early", ROTATED_S - 1).await;
    assert_eq!(receipt.rotation(), Some(Rotation::PreviousSecretOnly));
    assert_eq!(attempt(&early, "msg_later", ROTATED_S).await.rotation(), None);
}

#[tokio::test]
async fn a_secret_that_is_stored_too_late_costs_retries_and_nothing_more() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    let end_of_overlap_s = ROTATED_S + OVERLAP_S;
    let stored_s = end_of_overlap_s + 3 * HOUR;
    assert!(refused_at_first(&receiver, ROTATED_S, end_of_overlap_s, 10 * MINUTE).await.is_empty());
    let refused = refused_at_first(&receiver, end_of_overlap_s, stored_s, 10 * MINUTE).await;
    assert_eq!(refused.len(), 18, "nobody can prove these yet");

    aws.rotate_secret(NEW);
    for first_s in refused {
        let mut now_s = first_s;
        let mut accepted = false;
        for pause_s in PAUSES_S {
            now_s += pause_s;
            if now_s >= stored_s && !accepted {
                let receipt = attempt(&receiver, &format!("msg_{first_s}"), now_s).await;
                accepted = receipt.outcome.answer().status_code == 200;
            }
        }
        assert!(accepted, "the event of second {first_s} is lost");
    }
}

#[tokio::test]
async fn while_secrets_manager_is_down_the_secrets_in_hand_stay() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    aws.decide(|operation| match operation {
        "GetSecretValue" => Fate::Failed(500, "InternalServiceError"),
        _ => Fate::Answered,
    });
    let mut failed = 0;
    for minute in 0..120 {
        let receipt = deliver(&receiver, &format!("msg_{minute}"), OLD, ROTATED_S + minute * MINUTE).await;
        assert_eq!(receipt.outcome.answer().status_code, 200);
        failed += usize::from(matches!(receipt.refresh, Some(Refresh::Failed(_))));
    }
    assert_eq!(failed, 115, "from the fifth minute on every event tries again");

    aws.rotate_secret(NEW);
    aws.decide(|_| Fate::Answered);
    let receipt = deliver(&receiver, "msg_new", NEW, ROTATED_S + 3 * HOUR).await;
    assert_eq!((receipt.outcome.answer().status_code, receipt.refresh), (200, Some(Refresh::Read)));
}

#[tokio::test]
async fn the_secrets_are_read_again_of_age_beside_the_call_to_sqs() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    assert_eq!(aws.calls("GetSecretValue"), 2, "the value in use and the one before");
    for (second, calls) in [(0, 2), (299, 2), (300, 4), (301, 4), (599, 4), (600, 6)] {
        deliver(&receiver, &format!("msg_{second}"), OLD, ROTATED_S + second).await;
        assert_eq!(aws.calls("GetSecretValue"), calls, "after {second} s");
    }
}

#[tokio::test]
async fn a_flood_of_forgeries_reads_the_secrets_every_30_seconds_at_most_and_never_calls_sqs() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    for tenth in 0..3000 {
        let receipt = deliver(&receiver, &format!("msg_{tenth}"), NEW, ROTATED_S + tenth / 10).await;
        assert_eq!(receipt.outcome.answer().status_code, 401);
    }
    // Two each time: at the start, at the first mismatch, and after 30, 60, .. 270 s.
    assert_eq!(aws.calls("GetSecretValue"), 2 * 11);
    assert_eq!(aws.calls("SendMessage"), 0);
}

#[tokio::test]
async fn a_stale_or_malformed_request_never_has_the_secrets_read() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    let later_s = ROTATED_S + HOUR;
    for event in [event(OLD, "msg_1", ROTATED_S, "{}"), event(OLD, "a.b", later_s, "{}")] {
        assert_eq!(receiver.receive(event, at(later_s)).await.outcome.answer().status_code, 401);
    }
    assert_eq!(aws.calls("GetSecretValue"), 2);
}

#[tokio::test]
async fn without_a_usable_secret_there_is_no_receiver_and_the_reason_is_no_secret() {
    let long = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (value, reason) in [
        (None, "AWS does not know the queue, table or secret (ResourceNotFoundException)"),
        (Some(format!("v1,whsec_{long}")), "the signing secret has a version in front"),
        (Some(format!(r#"{{"key":"whsec_{long}"}}"#)), "the signing secret is a JSON object"),
        (Some("whsec_c2hvcnQ=".to_owned()), "a key of 5 bytes, fewer than 24"),
    ] {
        let aws = FakeAws::start().await;
        if let Some(value) = value {
            aws.set_secret("AWSCURRENT", &value);
        }
        let loaded = SigningSecrets::load(&aws.sdk_config(), "learnink/test", at(ROTATED_S)).await;
        let error = with_causes(&loaded.unwrap_err());
        assert!(error.contains(reason) && !error.contains(long), "{error}");
    }
}

#[tokio::test]
async fn what_the_secret_was_before_may_be_no_secret_at_all() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", "not a secret yet");
    aws.rotate_secret(OLD);
    let receiver = load(&aws, ROTATED_S).await;
    let receipt = deliver(&receiver, "msg_1", OLD, ROTATED_S).await;
    assert_eq!(receipt.secret, Some(SecretSlot::Current));
}

#[tokio::test]
async fn a_new_value_that_is_no_secret_leaves_the_one_before() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let warm = load(&aws, ROTATED_S).await;
    aws.rotate_secret(&format!("v1,{NEW}"));
    for receiver in [warm, load(&aws, ROTATED_S).await] {
        let receipt = deliver(&receiver, "msg_1", OLD, ROTATED_S + HOUR).await;
        assert_eq!(receipt.outcome.answer().status_code, 200);
        let receipt = deliver(&receiver, "msg_2", NEW, ROTATED_S + 2 * HOUR).await;
        assert_eq!(receipt.outcome.answer().status_code, 401);
        assert!(matches!(receipt.refresh, Some(Refresh::Failed(_))));
    }
}

#[tokio::test]
async fn a_secret_that_is_stored_right_after_the_start_is_found_at_its_first_signature() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    aws.rotate_secret(NEW);
    let receipt = deliver(&receiver, "msg_1", NEW, ROTATED_S + 1).await;
    assert_eq!(receipt.secret, Some(SecretSlot::Current));
}

#[tokio::test]
async fn after_a_leak_the_new_secret_is_stored_twice_and_the_old_one_is_worth_nothing() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    aws.rotate_secret(NEW);
    aws.rotate_secret(NEW);
    assert_eq!(deliver(&receiver, "msg_1", NEW, ROTATED_S + HOUR).await.outcome.answer().status_code, 200);
    assert_eq!(deliver(&receiver, "msg_2", OLD, ROTATED_S + HOUR).await.outcome.answer().status_code, 401);
}

#[tokio::test]
async fn a_secret_may_be_several_separated_by_spaces() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", &format!("{NEW} {OLD}\n"));
    let receiver = load(&aws, ROTATED_S).await;
    for (secret, slot) in [(NEW, SecretSlot::Current), (OLD, SecretSlot::Previous)] {
        let receipt = deliver(&receiver, "msg_1", secret, ROTATED_S).await;
        assert_eq!(receipt.secret, Some(slot));
    }
}

#[tokio::test]
async fn a_slow_secrets_manager_delays_an_answer_by_two_seconds_at_most() {
    let aws = FakeAws::start().await;
    aws.set_secret("AWSCURRENT", OLD);
    let receiver = load(&aws, ROTATED_S).await;
    aws.decide(|operation| if operation == "GetSecretValue" { Fate::Silent } else { Fate::Answered });
    let later_s = ROTATED_S + SignedDuration::from_mins(5).as_secs();
    let receipt = deliver(&receiver, "msg_1", OLD, later_s).await;
    assert_eq!(receipt.outcome.answer().status_code, 200);
    assert_eq!(receipt.refresh.map(|refresh| refresh.name()), Some("failed"));
    assert_eq!(aws.stored().len(), 1);
}
