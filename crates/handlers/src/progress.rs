//! `user.course.started`: a learner's courses, in a table.
//!
//! Events arrive out of order and days late, so a row changes only for an event that happened
//! later than the one it shows. Whatever the order of arrival, the row ends the same.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::newest::Version;
use learnink_webhook::{Event, HandlerError, HandlerResult, MessageId};
use serde::Serialize;

use crate::App;
use crate::table::{Row, TableError, Written, put_if_newer, read_all};

/// Records that a learner started a course.
pub async fn course_started(event: Event<CourseStarted>, app: App) -> HandlerResult {
    let course = StartedCourse {
        user_id: event.data.user_id.clone(),
        course_id: event.data.course_id.clone(),
        custom_id: event.data.custom_id.clone(),
        started_at: event.occurred_at(),
    };
    if !is_key(&course.user_id, 2048) || !is_key(&course.course_id, 1024) {
        return Err(HandlerError::permanent("`user_id` or `course_id` is empty or too long to be a key"));
    }
    app.learners.record(&course, event.id()).await.map_err(HandlerError::quoting)?;
    Ok(())
}

/// Whether DynamoDB takes it as a part of a key.
/// Source: DynamoDB developer guide, "Constraints in Amazon DynamoDB".
const fn is_key(value: &str, longest_bytes: usize) -> bool {
    !value.is_empty() && value.len() <= longest_bytes
}

/// One course of one learner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StartedCourse {
    /// LearnInk's id of the learner.
    pub user_id: String,
    /// LearnInk's id of the course.
    pub course_id: String,
    /// The id in the customer's own system, where there is one.
    pub custom_id: Option<String>,
    /// When the learner last started it; milliseconds are kept.
    pub started_at: Timestamp,
}

/// The learners' table, keyed by `user_id` and `course_id`.
#[derive(Debug, Clone)]
pub struct Learners {
    client: Client,
    table: String,
}

impl Learners {
    /// The table named `table`.
    pub fn new(aws: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(aws), table: table.into() }
    }

    /// Writes the row unless it shows a later event.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm.
    pub async fn record(&self, course: &StartedCourse, id: &MessageId) -> Result<Written, TableError> {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let row = [("user_id", text(&course.user_id)), ("course_id", text(&course.course_id))];
        let row = row.into_iter().chain(course.custom_id.iter().map(|id| ("custom_id", text(id))));
        put_if_newer(&self.client, &self.table, row, &Version::new(course.started_at, id)).await
    }

    /// Every row, ordered by learner and course.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer, or a row is not one of ours.
    pub async fn all(&self) -> Result<Vec<StartedCourse>, TableError> {
        let course = |row: &Row| {
            Some(StartedCourse {
                user_id: row.text("user_id")?,
                course_id: row.text("course_id")?,
                custom_id: row.text("custom_id"),
                started_at: row.time_ms("occurred_at_ms")?,
            })
        };
        read_all(&self.table, self.client.scan(), course).await
    }
}
