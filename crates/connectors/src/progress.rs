//! `user.course.*`: the progress of each learner in each course, in a table.
//!
//! Events arrive out of order and days late, so a row keeps the earliest start and the latest activity, and ends
//! the same for any order of arrival. An event with a time in the future, from a phone whose clock is ahead,
//! counts from when it was received, as [`EventOrder`] says. An event that does not say when it happened has no place
//! in that order, and is dead-lettered.
//!
//! Of LearnInk's course events only `user.course.started` is documented in public. When you find another
//! one in your Event Catalog, describe its payload, implement [`CourseEvent`] for it, and register
//! `progress::record::<…>` under a name of its own.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::newest::EventOrder;
use learnink_webhook::{Event, HandlerError, HandlerResult, Payload, Router};
use serde::Serialize;

use crate::table::{Row, RowKey, TableError, read_all, set_if_less, set_if_newer};

/// The handler's name in the ledger.
const NAME: &str = "progress";

/// The variable that holds how long a row is kept after the learner's last activity in the course, in days.
const RETENTION: &str = "LEARNINK_LEARNERS_RETENTION_DAYS";

/// The seconds of a day.
const DAY_S: i64 = 24 * 60 * 60;

/// The handler. Its table is `LEARNINK_LEARNERS_TABLE`. `LEARNINK_LEARNERS_RETENTION_DAYS` says how long a row is kept
/// after its last activity; without it, and with 0, rows are kept forever.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let table: String =
        env.required("LEARNINK_LEARNERS_TABLE", "the name of the learners' DynamoDB table")?;
    let retention_days = env.text(RETENTION).map_or(Ok(0), |days| days.parse::<u16>());
    let retention_days = retention_days.map_err(|_| {
        ConfigError::unusable(RETENTION, "it is not a whole number of days, from 0 to 65535".to_owned())
    })?;
    let learners = Learners::new(env.tables()?, table).kept_for_days(retention_days);
    Ok(Router::new().on(NAME, record::<CourseStarted>).with_state(learners))
}

/// The payload of an event about a learner's activity in a course.
pub trait CourseEvent: Payload {
    /// What the learner did.
    const ACTIVITY: Activity;

    /// Who did it, and where.
    fn learner_and_course(&self) -> LearnerAndCourse<'_>;
}

/// A learner's activity in a course, as the table distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Started it.
    Start,
    /// Anything else.
    Other,
}

/// A learner and a course.
#[derive(Debug, Clone, Copy)]
pub struct LearnerAndCourse<'a> {
    /// LearnInk's id of the learner.
    pub user_id: &'a str,
    /// LearnInk's id of the course.
    pub course_id: &'a str,
    /// The learner's id in the customer's own system, if there is one.
    pub custom_id: Option<&'a str>,
}

impl CourseEvent for CourseStarted {
    const ACTIVITY: Activity = Activity::Start;

    fn learner_and_course(&self) -> LearnerAndCourse<'_> {
        // It is not part of the row's key, so an id of another kind is ignored.
        let custom_id = self.custom_id.read("custom_id").ok().flatten();
        LearnerAndCourse { user_id: &self.user_id, course_id: &self.course_id, custom_id }
    }
}

/// Records what a learner did in a course.
pub async fn record<P: CourseEvent + Sync>(event: Event<P>, learners: Learners) -> HandlerResult {
    let who = event.data.learner_and_course();
    if !is_key(who.user_id, LONGEST_ID_BYTES) || !is_key(who.course_id, 1024) {
        return Err(HandlerError::permanent("`user_id` or `course_id` is empty or too long to be a key"));
    }
    let version = EventOrder::of(&event)?;
    learners.record(who, P::ACTIVITY, &version).await.map_err(HandlerError::quoting)
}

/// The longest id of a learner in bytes: DynamoDB's limit for a key.
const LONGEST_ID_BYTES: usize = 2048;

/// Whether DynamoDB accepts it as part of a key.
/// Source: DynamoDB developer guide, "Constraints in Amazon DynamoDB".
const fn is_key(value: &str, longest_bytes: usize) -> bool {
    !value.is_empty() && value.len() <= longest_bytes
}

/// One course of one learner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LearnersCourse {
    /// LearnInk's id of the learner.
    pub user_id: String,
    /// LearnInk's id of the course.
    pub course_id: String,
    /// The id in the customer's own system, if there is one.
    pub custom_id: Option<String>,
    /// When the learner first started it, if an event says so, and never later than that event was received; with
    /// millisecond precision.
    pub first_started_at: Option<Timestamp>,
    /// When the learner was last active in it, and never later than that event was received; with millisecond
    /// precision.
    pub last_activity_at: Timestamp,
}

/// The learners' table, keyed by `user_id` and `course_id`.
#[derive(Debug, Clone)]
pub struct Learners {
    client: Client,
    table: String,
    /// How long a row is kept after its last activity; 0 is forever.
    retention_days: u16,
}

impl Learners {
    /// The table named `table`.
    pub fn new(aws: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(aws), table: table.into(), retention_days: 0 }
    }

    /// The same table, in which a row expires this many days after the learner's last activity in the course; 0 keeps
    /// it forever. A row gets its time, or loses it, with the next activity.
    #[must_use]
    pub fn kept_for_days(self, retention_days: u16) -> Self {
        Self { retention_days, ..self }
    }

    /// When the row of an activity expires, in seconds since the epoch; `None` for never.
    fn expires_at_s(&self, activity: &EventOrder) -> Option<i64> {
        let kept_s = i64::from(self.retention_days) * DAY_S;
        (kept_s > 0).then(|| activity.occurred_at_ms.div_euclid(1000).saturating_add(kept_s))
    }

    /// Records an activity, as two conditional writes that may be repeated, or arrive in any order: the latest
    /// activity and the earliest start are kept.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm both.
    pub async fn record(
        &self,
        who: LearnerAndCourse<'_>,
        activity: Activity,
        version: &EventOrder,
    ) -> Result<(), TableError> {
        let key = [("user_id", who.user_id), ("course_id", who.course_id)];
        let row = RowKey { table: &self.table, key: &key };
        // A longer one could make the row too large to be written, and is ignored.
        let custom_id = who.custom_id.filter(|id| id.len() <= LONGEST_ID_BYTES);
        let custom_id = custom_id.map(|id| AttributeValue::S(id.to_owned()));
        let expires_at = self.expires_at_s(version).map(|at| AttributeValue::N(at.to_string()));
        let attributes = [("custom_id", custom_id), ("expires_at", expires_at)];
        let latest = set_if_newer(&self.client, &row, attributes, version);
        let earliest = async {
            if activity == Activity::Start {
                set_if_less(&self.client, &row, "first_started_at_ms", version.occurred_at_ms).await?;
            }
            Ok(())
        };
        try_join(latest, earliest).await?;
        Ok(())
    }

    /// Every row, ordered by learner and course.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer, or a row is not one of ours.
    pub async fn all(&self) -> Result<Vec<LearnersCourse>, TableError> {
        let course = |row: &Row| {
            Some(LearnersCourse {
                user_id: row.text("user_id")?,
                course_id: row.text("course_id")?,
                custom_id: row.text("custom_id"),
                first_started_at: row.time_ms("first_started_at_ms"),
                // For a row that has only its start so far, because the other write has failed.
                last_activity_at: row
                    .time_ms("occurred_at_ms")
                    .or_else(|| row.time_ms("first_started_at_ms"))?,
            })
        };
        read_all(&self.table, self.client.scan(), course).await
    }
}
