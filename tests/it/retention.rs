//! How long a learner's progress is kept.

use aws_sdk_dynamodb::types::AttributeValue;
use learnink_aws::Env;
use learnink_connectors::progress;
use learnink_tests::engine::Engine;
use learnink_webhook::testing::{TestConsumer, with};

const STARTED: &str = include_str!("../../events/user.course.started.json");
const RETENTION: &str = "LEARNINK_LEARNERS_RETENTION_DAYS";

/// A table of learners, and a consumer for each setting.
struct Stand {
    engine: Engine,
    table: String,
}

impl Stand {
    async fn start() -> Self {
        let engine = Engine::embedded().await;
        let table = engine.table("user_id", Some("course_id")).await;
        Self { engine, table }
    }

    fn consumer(&self, retention_days: &str) -> TestConsumer {
        let env = Env::of([("LEARNINK_LEARNERS_TABLE", &*self.table), (RETENTION, retention_days)]);
        TestConsumer::new(progress::router(&env.with_tables(self.engine.dynamodb.clone())).unwrap())
    }

    /// When the only row expires.
    async fn expires_at(&self) -> Option<i64> {
        let client = aws_sdk_dynamodb::Client::new(&self.engine.dynamodb);
        let rows = client.scan().table_name(&self.table).send().await.unwrap();
        let [row] = rows.items() else { panic!("{:?}", rows.items()) };
        row.get("expires_at").map(|at: &AttributeValue| at.as_n().unwrap().parse().unwrap())
    }
}

fn started(at: &str) -> String {
    with(STARTED, "/timestamp", at)
}

#[tokio::test]
async fn a_learners_progress_expires_that_long_after_the_last_activity_and_a_late_event_does_not_change_that()
{
    let stand = Stand::start().await;
    let mut consumer = stand.consumer("730");
    consumer.deliver(started("2026-03-02T10:00:00Z")).await.assert_done();
    // 2028-03-01T10:00:00Z, in a leap year.
    assert_eq!(stand.expires_at().await, Some(1_835_517_600));
    consumer.deliver(started("2026-03-01T10:00:00Z")).await.assert_done();
    assert_eq!(stand.expires_at().await, Some(1_835_517_600));
    consumer.deliver(started("2026-03-03T10:00:00Z")).await.assert_done();
    assert_eq!(stand.expires_at().await, Some(1_835_604_000));
}

#[tokio::test]
async fn a_learners_progress_is_kept_forever_by_default_and_after_the_retention_is_switched_off() {
    let stand = Stand::start().await;
    for (retention_days, at, is_kept_forever) in [
        ("", "2026-03-01T10:00:00Z", true),
        ("30", "2026-03-02T10:00:00Z", false),
        ("0", "2026-03-03T10:00:00Z", true),
    ] {
        stand.consumer(retention_days).deliver(started(at)).await.assert_done();
        assert_eq!(stand.expires_at().await.is_none(), is_kept_forever, "{retention_days:?}");
    }
}

#[test]
fn a_retention_that_is_not_a_number_of_days_fails_the_start() {
    for days in ["forever", "-1", "1.5", "70000"] {
        let env = Env::of([
            ("AWS_REGION", "eu-west-1"),
            ("LEARNINK_LEARNERS_TABLE", "learners"),
            (RETENTION, days),
        ]);
        let error = progress::router(&env).unwrap_err().to_string();
        assert!(error.contains(RETENTION) && error.contains("not a whole number of days"), "{error}");
    }
}
