//! What the pipeline relies on of a table, on every engine that stands in for DynamoDB.

use std::collections::HashSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_consumer::Ledger;
use learnink_consumer::ledger::{Settled, Settlement};
use learnink_handlers::progress::{Learners, StartedCourse};
use learnink_tests::engine::Engine;
use learnink_webhook::MessageId;
use learnink_webhook::ledger::{Claim, ClaimRequest, Entry, Lease, judge};

on_both_engines! {
    a_claim_is_exclusive_until_it_is_settled,
    a_lease_that_ended_can_be_taken_over_and_its_owner_cannot_settle,
    an_owner_whose_answer_got_lost_asks_again_and_settles_again,
    handlers_that_finished_stay_finished,
    another_payload_under_the_same_id_is_never_run,
    an_expired_entry_is_replaced,
    of_many_who_claim_at_once_one_gets_it,
    of_many_who_claim_an_expired_entry_at_once_one_gets_it,
    the_condition_decides_as_the_rule_does,
    the_latest_start_of_a_course_stays_whatever_the_order,
}

const NOW_MS: i64 = 1_700_000_000_000;
const NONE: [&str; 0] = [];

fn id() -> MessageId {
    MessageId::parse("msg_1").unwrap()
}

async fn ledger(engine: &Engine) -> Ledger {
    Ledger::new(&engine.dynamodb, engine.table("message_id", None).await)
}

fn request<'a>(id: &'a MessageId, owner: &'a str, handlers: &'a [&'static str]) -> ClaimRequest<'a> {
    ClaimRequest {
        id,
        payload_sha256: "aa",
        handlers,
        owner,
        now: Timestamp::from_millisecond(NOW_MS).unwrap(),
        lease: Duration::from_secs(20),
    }
}

/// A claim by `owner` for the handlers `progress` and `push`, `later` after the first.
async fn claim(ledger: &Ledger, owner: &str, later: Duration) -> Claim {
    let id = id();
    let request = request(&id, owner, &["progress", "push"]);
    ledger.claim(&ClaimRequest { now: request.now + later, ..request }).await.unwrap()
}

async fn settle(ledger: &Ledger, owner: &str, done: &[&'static str]) -> Settled {
    let now = Timestamp::from_millisecond(NOW_MS).unwrap();
    let settlement = Settlement { id: &id(), owner, done, reason: None, now };
    ledger.settle(&settlement).await.unwrap()
}

fn acquired(done: &[&str]) -> Claim {
    Claim::Acquired { done: done.iter().map(ToString::to_string).collect() }
}

async fn a_claim_is_exclusive_until_it_is_settled(engine: Engine) {
    let ledger = ledger(&engine).await;
    assert_eq!(claim(&ledger, "a", Duration::ZERO).await, acquired(&NONE));
    let held = Claim::InProgress { until_ms: NOW_MS + 20_000 };
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, held);

    assert_eq!(settle(&ledger, "a", &["progress", "push"]).await, Settled::Recorded);
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, Claim::Completed);
}

async fn a_lease_that_ended_can_be_taken_over_and_its_owner_cannot_settle(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    assert!(matches!(claim(&ledger, "b", Duration::from_millis(19_999)).await, Claim::InProgress { .. }));
    assert_eq!(claim(&ledger, "b", Duration::from_secs(20)).await, acquired(&NONE));

    assert_eq!(settle(&ledger, "a", &["progress", "push"]).await, Settled::LeaseLost);
    assert_eq!(settle(&ledger, "b", &["push"]).await, Settled::Recorded);
    assert_eq!(claim(&ledger, "c", Duration::ZERO).await, acquired(&["push"]));
}

async fn an_owner_whose_answer_got_lost_asks_again_and_settles_again(engine: Engine) {
    let ledger = ledger(&engine).await;
    for _ in 0..2 {
        assert_eq!(claim(&ledger, "a", Duration::ZERO).await, acquired(&NONE));
    }
    for _ in 0..2 {
        assert_eq!(settle(&ledger, "a", &["progress"]).await, Settled::Recorded);
    }
}

async fn handlers_that_finished_stay_finished(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &["progress"]).await;
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, acquired(&["progress"]));
    settle(&ledger, "b", &NONE).await;
    assert_eq!(claim(&ledger, "c", Duration::ZERO).await, acquired(&["progress"]));
    settle(&ledger, "c", &["push"]).await;
    assert_eq!(claim(&ledger, "d", Duration::ZERO).await, Claim::Completed);

    let id = id();
    let later = request(&id, "e", &["progress", "push", "archive"]);
    assert_eq!(ledger.claim(&later).await.unwrap(), acquired(&["progress", "push"]));
}

async fn another_payload_under_the_same_id_is_never_run(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &NONE).await;
    let id = id();
    let other = ClaimRequest { payload_sha256: "bb", ..request(&id, "b", &["progress"]) };
    assert_eq!(ledger.claim(&other).await.unwrap(), Claim::PayloadMismatch);
}

async fn an_expired_entry_is_replaced(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &["progress", "push"]).await;
    let month = Duration::from_hours(30 * 24);
    let just_under = month.saturating_sub(Duration::from_secs(1));
    assert_eq!(claim(&ledger, "b", just_under).await, Claim::Completed);
    assert_eq!(claim(&ledger, "b", month).await, acquired(&NONE));
    assert!(matches!(claim(&ledger, "c", month).await, Claim::InProgress { .. }));
}

async fn winners(ledger: &Ledger, round: u32, later: Duration) -> usize {
    let id = MessageId::parse(&format!("msg_{round}")).unwrap();
    let claims = (0..4).map(|racer| {
        let (ledger, id) = (ledger.clone(), id.clone());
        tokio::spawn(async move {
            let owner = format!("racer-{round}-{racer}-{}", later.as_secs());
            let request = request(&id, &owner, &["progress"]);
            let request = ClaimRequest { now: request.now + later, ..request };
            ledger.claim(&request).await.unwrap()
        })
    });
    let claims: Vec<_> = claims.collect();
    let mut winners = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Claim::Acquired { .. } => winners += 1,
            Claim::InProgress { .. } => {}
            other => panic!("a race cannot end in {other:?}"),
        }
    }
    winners
}

async fn of_many_who_claim_at_once_one_gets_it(engine: Engine) {
    let ledger = ledger(&engine).await;
    for round in 0..25 {
        assert_eq!(winners(&ledger, round, Duration::ZERO).await, 1);
    }
}

async fn of_many_who_claim_an_expired_entry_at_once_one_gets_it(engine: Engine) {
    let ledger = ledger(&engine).await;
    for round in 0..25 {
        winners(&ledger, round, Duration::ZERO).await;
        assert_eq!(winners(&ledger, round, Duration::from_hours(31 * 24)).await, 1);
    }
}

/// Every combination of what an entry can hold, claimed through DynamoDB and judged by the rule.
async fn the_condition_decides_as_the_rule_does(engine: Engine) {
    let table = engine.table("message_id", None).await;
    let ledger = Ledger::new(&engine.dynamodb, &table);
    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    let mut number = 0;
    for payload_sha256 in ["aa", "bb"] {
        for done in [&NONE[..], &["progress"], &["push"], &["progress", "push"], &["progress", "push", "x"]] {
            for lease in [None, Some(("me", 0)), Some(("other", 0)), Some(("other", 1))] {
                for expires_in_s in [0, 1] {
                    number += 1;
                    let id = MessageId::parse(&format!("msg_{number}")).unwrap();
                    let entry = Entry {
                        payload_sha256: payload_sha256.to_owned(),
                        done: done.iter().map(ToString::to_string).collect(),
                        lease: lease.map(|(owner, left_ms)| Lease {
                            owner: owner.to_owned(),
                            until_ms: NOW_MS + left_ms,
                        }),
                        expires_at_s: NOW_MS / 1000 + expires_in_s,
                    };
                    put(&client, &table, &id, &entry).await;
                    let request = request(&id, "me", &["progress", "push"]);
                    let expected = judge(Some(&entry), &request);
                    assert_eq!(ledger.claim(&request).await.unwrap(), expected, "{entry:?}");
                }
            }
        }
    }
}

async fn put(client: &aws_sdk_dynamodb::Client, table: &str, id: &MessageId, entry: &Entry) {
    let number = |value: i64| AttributeValue::N(value.to_string());
    let mut put = client
        .put_item()
        .table_name(table)
        .item("message_id", AttributeValue::S(id.to_string()))
        .item("payload_sha256", AttributeValue::S(entry.payload_sha256.clone()))
        .item("expires_at", number(entry.expires_at_s));
    if !entry.done.is_empty() {
        put = put.item("done_handlers", AttributeValue::Ss(entry.done.iter().cloned().collect()));
    }
    if let Some(lease) = &entry.lease {
        put = put.item("lease_owner", AttributeValue::S(lease.owner.clone()));
        put = put.item("lease_until_ms", number(lease.until_ms));
    }
    put.send().await.unwrap();
}

async fn the_latest_start_of_a_course_stays_whatever_the_order(engine: Engine) {
    let starts = [(1_000, "a"), (3_000, "b"), (3_000, "c"), (2_000, "d")];
    let mut ends = HashSet::new();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 1, 3, 0], [1, 2, 0, 3]] {
        let learners = Learners::new(&engine.dynamodb, engine.table("user_id", Some("course_id")).await);
        for index in order {
            let (started_at_ms, id) = starts[index];
            let course = StartedCourse {
                user_id: "u".to_owned(),
                course_id: "c".to_owned(),
                custom_id: Some(id.to_owned()),
                started_at: Timestamp::from_millisecond(started_at_ms).unwrap(),
            };
            learners.record(&course, &MessageId::parse(id).unwrap()).await.unwrap();
        }
        let rows = learners.all().await.unwrap();
        assert_eq!(rows.len(), 1);
        ends.insert((rows[0].started_at.as_millisecond(), rows[0].custom_id.clone()));
    }
    assert_eq!(ends, HashSet::from([(3_000, Some("c".to_owned()))]));
}
