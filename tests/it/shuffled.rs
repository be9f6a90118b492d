//! The learners' table ends the same for any order and repetition of arrivals.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use learnink_aws::Env;
use learnink_connectors::progress::{Learners, LearnersCourse};
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_tests::engine::Engine;
use proptest::prelude::*;

use crate::laptop::started;
use crate::records::{RECEIVED_AT_S, batch, record};

const LEARNERS: usize = 100;
const DELIVERIES: usize = 10_000;

/// One event: who started which course when, and its message id.
#[derive(Debug, Clone)]
struct Start {
    id: String,
    user_id: String,
    course_id: String,
    at_ms: i64,
}

/// Deliveries of which about half are duplicates, in any order. There are so few times that some are equal, and
/// some are of clocks that are ahead: later than every receipt.
fn deliveries(seed: u64) -> Vec<Start> {
    let mut random = fastrand::Rng::with_seed(seed);
    let events: Vec<_> = (0..DELIVERIES / 2)
        .map(|number| Start {
            id: format!("msg_{number}"),
            user_id: format!("learner-{}", random.usize(0..LEARNERS)),
            course_id: format!("course-{}", random.u8(0..3)),
            at_ms: RECEIVED_AT_S * 1_000 - random.i64(-5..40) * 1_000,
        })
        .collect();
    let mut deliveries = events.clone();
    deliveries.extend((events.len()..DELIVERIES).map(|_| events[random.usize(0..events.len())].clone()));
    random.shuffle(&mut deliveries);
    deliveries
}

/// For each learner and course, the first start and the last activity.
type Progress = BTreeMap<(String, String), (i64, i64)>;

/// The result of applying each event once and in order.
fn in_order(deliveries: &[Start]) -> Progress {
    let mut state = BTreeMap::new();
    for start in deliveries {
        let key = (start.user_id.clone(), start.course_id.clone());
        let (first, last) = state.entry(key).or_insert((i64::MAX, i64::MIN));
        let at_ms = start.at_ms.min(RECEIVED_AT_S * 1_000);
        *first = at_ms.min(*first);
        *last = at_ms.max(*last);
    }
    state
}

async fn deliver(deliveries: &[Start]) -> Progress {
    let engine = Engine::embedded().await;
    let (learners, unknown_events) =
        (engine.table("user_id", Some("course_id")).await, engine.table("message_id", None).await);
    let env = Env::of([
        ("LEARNINK_LEARNERS_TABLE", &*learners),
        ("LEARNINK_UNKNOWN_EVENTS_TABLE", &*unknown_events),
    ])
    .with_tables(engine.dynamodb.clone());
    let consumer = Consumer::new(
        learnink_handlers::router(&env).unwrap(),
        DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await),
        SqsQueues::new(&engine.sqs, "none", "none"),
        7,
        fastrand::f64,
    );
    let record = |(number, start): (usize, &Start)| {
        let timestamp = Timestamp::from_millisecond(start.at_ms).unwrap().to_string();
        let body = started(&start.user_id, &start.course_id, &timestamp);
        record(&format!("sqs-{number}"), &start.id, body)
    };
    let records: Vec<_> = deliveries.iter().enumerate().map(record).collect();
    let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
    for (number, records) in records.chunks(10).enumerate() {
        let mut left = batch(records.to_vec());
        // A duplicate in the same batch finds the other one's claim; SQS would deliver it again.
        for attempt in 0..5 {
            let invocation = Invocation::new(format!("{number}-{attempt}"), now, Duration::from_secs(30));
            let report = consumer.consume(&left, &invocation).await;
            let mut outcomes = report.records.iter().map(|record| record.outcome);
            left.records.retain(|_| outcomes.next() == Some(Outcome::Retry));
            if left.records.is_empty() {
                break;
            }
        }
        assert!(left.records.is_empty());
    }
    let rows = Learners::new(&engine.dynamodb, learners).all().await.unwrap();
    let times = |row: LearnersCourse| {
        let (first, last) = (row.first_started_at.unwrap(), row.last_activity_at);
        ((row.user_id, row.course_id), (first.as_millisecond(), last.as_millisecond()))
    };
    rows.into_iter().map(times).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn shuffled_and_duplicated_deliveries_end_in_the_in_order_state(seed in any::<u64>()) {
        let deliveries = deliveries(seed);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let state = runtime.block_on(deliver(&deliveries));
        prop_assert_eq!(state, in_order(&deliveries));
    }
}
