//! A state: events arrive late and out of order, and the newest one wins.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use learnink_aws::Env;
use learnink_connectors::{RowKey, set_if_newer};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::newest::EventOrder;
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};

/// A table with the key `user_id`: the course that each learner has started last.
#[derive(Debug, Clone)]
struct LastCourses {
    client: Client,
    table: String,
}

/// The handler; none if `LAST_COURSES_TABLE` is not set.
///
/// # Errors
///
/// [`ConfigError`] if there is no AWS.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(table) = env.text("LAST_COURSES_TABLE") else { return Ok(Router::off("last_course")) };
    let courses = LastCourses { client: Client::new(env.tables()?), table };
    Ok(Router::new().on("last_course", remember).with_state(courses))
}

async fn remember(event: Event<CourseStarted>, courses: LastCourses) -> HandlerResult {
    // By the time when it happened, not by the time when it arrived.
    let order = EventOrder::of(&event)?;
    let key = [("user_id", &*event.data.user_id)];
    let row = RowKey { table: &courses.table, key: &key };
    let course = AttributeValue::S(event.data.course_id.clone());
    // One conditional write. Of an older event, or of the same one again, nothing is written.
    let written = set_if_newer(&courses.client, &row, [("course_id", Some(course))], &order).await;
    written.map(|_| ()).map_err(HandlerError::quoting)
}

#[cfg(test)]
mod tests {
    use learnink_tests::engine::Engine;
    use learnink_webhook::testing::{TestConsumer, with};

    use super::*;

    const STARTED: &str = include_str!("../../events/user.course.started.json");

    fn started(course: &str, at: &str) -> String {
        with(&with(STARTED, "/data/course_id", course), "/timestamp", at)
    }

    #[tokio::test]
    async fn an_event_that_arrives_late_does_not_overwrite_a_newer_one() {
        let engine = Engine::embedded().await;
        let table = engine.table("user_id", None).await;
        let env = Env::of([("LAST_COURSES_TABLE", &*table)]).with_tables(engine.dynamodb.clone());
        let mut consumer = TestConsumer::new(router(&env).unwrap());
        consumer.deliver(started("second", "2026-03-02T10:00:00Z")).await.assert_done();
        consumer.deliver(started("first", "2026-03-01T10:00:00Z")).await.assert_done();
        let rows = Client::new(&engine.dynamodb).scan().table_name(&table).send().await.unwrap();
        let courses: Vec<_> =
            rows.items().iter().map(|row| row["course_id"].as_s().unwrap().as_str()).collect();
        assert_eq!(courses, ["second"]);
    }
}
