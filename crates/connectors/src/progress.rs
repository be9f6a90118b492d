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

mod course;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::{join_all, try_join};
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::CourseStarted;
use learnink_webhook::group::Group;
use learnink_webhook::newest::EventOrder;
use learnink_webhook::router::LONGEST_CALL;
use learnink_webhook::{Event, HandlerError, HandlerResult, Payload, Router};
use serde::Serialize;

use self::course::{CourseKey, LatestActivity, Progress, RowWrite, Step};
use crate::calls::limits;
use crate::table::{MOST_STATEMENTS, Row, RowKey, TableError, each, read_all, set_if_less, set_if_newer};

/// The handler's name in the ledger.
const NAME: &str = "progress";

/// The variable that holds how long a row is kept after the learner's last activity in the course, in days.
const RETENTION: &str = "LEARNINK_LEARNERS_RETENTION_DAYS";

/// The seconds of a day.
const DAY_S: i64 = 24 * 60 * 60;

/// The three calls of a write follow each other: an insert, an update, and the two conditional writes at the same time.
/// Together they take at most this long.
const LONGEST_CALLS: Duration = LONGEST_CALL.saturating_mul(2);

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
    let aws = env.tables()?.to_builder().timeout_config(limits(LONGEST_CALLS)).build();
    let router = Router::new().on(NAME, record::<CourseStarted>).longest_call(NAME, LONGEST_CALLS);
    Ok(router.with_state(Learners::new(&aws, table).kept_for_days(retention_days)))
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
///
/// What the records of a batch write travels together: one request to DynamoDB, with one write for each learner and
/// course. `docs/decisions/progress-writes-together.md` says why, and why not together with the ledger's requests.
#[derive(Debug, Clone)]
pub struct Learners {
    table: Table,
    writes: Arc<Group<(CourseKey, Progress), Result<(), TableError>>>,
    /// How long a row is kept after its last activity; 0 is forever.
    retention_days: u16,
}

impl Learners {
    /// The table named `table`.
    pub fn new(aws: &SdkConfig, table: impl Into<String>) -> Self {
        let table = Table { client: Client::new(aws), name: table.into().into() };
        let written_to = table.clone();
        let writes = Group::new(move |asked| {
            let table = written_to.clone();
            async move { table.write(asked).await }
        });
        Self { table, writes: Arc::new(writes), retention_days: 0 }
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

    /// Records an activity, with conditional writes that may be repeated, or arrive in any order: the latest activity
    /// and the earliest start are kept.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm that the row has both.
    pub async fn record(
        &self,
        who: LearnerAndCourse<'_>,
        activity: Activity,
        version: &EventOrder,
    ) -> Result<(), TableError> {
        let key = CourseKey { user_id: who.user_id.to_owned(), course_id: who.course_id.to_owned() };
        // A longer one could make the row too large to be written, and is ignored.
        let custom_id = who.custom_id.filter(|id| id.len() <= LONGEST_ID_BYTES).map(str::to_owned);
        let expires_at_s = self.expires_at_s(version);
        let progress = Progress {
            latest: Some(LatestActivity { version: version.clone(), custom_id, expires_at_s }),
            first_started_at_ms: (activity == Activity::Start).then_some(version.occurred_at_ms),
        };
        let written = self.writes.ask((key, progress)).await;
        written.unwrap_or_else(|| Err(TableError::unanswered(&self.table.name)))
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
        read_all(&self.table.name, self.table.client.scan(), course).await
    }

    /// The rows of the learners with these ids, each with all its attributes: texts and numbers as text. A learner's rows
    /// are found by `user_ids` alone; only for `custom_ids` is the whole table read.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer, or a row is not one of ours.
    pub async fn rows_of(
        &self,
        user_ids: &[&str],
        custom_ids: &BTreeSet<String>,
    ) -> Result<Vec<BTreeMap<String, String>>, TableError> {
        let Table { client, name } = &self.table;
        let mut rows = Vec::new();
        for user_id in user_ids {
            let query = client
                .query()
                .table_name(&**name)
                .key_condition_expression("user_id = :id")
                .expression_attribute_values(":id", AttributeValue::S((*user_id).to_owned()));
            let mut items = query.into_paginator().items().send();
            while let Some(item) = items.next().await {
                rows.push(Row::from(item.map_err(|error| TableError::unread(name, &error))?));
            }
        }
        if !custom_ids.is_empty() {
            each(name, client.scan(), |row| {
                let is_theirs = row.text("custom_id").is_some_and(|id| custom_ids.contains(&id));
                let is_known = row.text("user_id").is_some_and(|id| user_ids.contains(&&*id));
                rows.extend((is_theirs && !is_known).then_some(row));
                Ok(())
            })
            .await?;
        }
        Ok(rows.iter().map(Row::texts).collect())
    }

    /// Deletes the row of a learner and a course.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm.
    pub async fn delete(&self, user_id: &str, course_id: &str) -> Result<(), TableError> {
        let delete = self.table.client.delete_item().table_name(&*self.table.name);
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let delete = delete.key("user_id", key(user_id)).key("course_id", key(course_id));
        delete.send().await.map_err(|error| TableError::write(&self.table.name, &error))?;
        Ok(())
    }
}

/// The table, as rows are written to it.
#[derive(Debug, Clone)]
struct Table {
    client: Client,
    name: Arc<str>,
}

impl Table {
    /// Writes what several events say, each row once. One answer for each, in order.
    async fn write(&self, asked: Vec<(CourseKey, Progress)>) -> Vec<Result<(), TableError>> {
        let keys: Vec<_> = asked.iter().map(|(key, _)| key.clone()).collect();
        let mut rows = BTreeMap::<_, Progress>::new();
        for (key, progress) in asked {
            rows.entry(key).or_default().join(progress);
        }
        let mut writes: Vec<_> =
            rows.into_iter().map(|(key, progress)| RowWrite::new(key, progress)).collect();
        // A row that is there already is not inserted, but updated.
        self.write_together(&mut writes).await;
        self.write_together(&mut writes).await;
        let written = writes.into_iter().map(async |write| {
            let written = match write.step {
                Step::Ended(written) => written,
                Step::Insert | Step::Update | Step::Separately => self.write_separately(&write).await,
            };
            (write.key, written)
        });
        let written: BTreeMap<_, _> = join_all(written).await.into_iter().collect();
        let answer =
            |key| written.get(key).cloned().unwrap_or_else(|| Err(TableError::unanswered(&self.name)));
        keys.iter().map(answer).collect()
    }

    /// Takes the next step of all writes for which it is a statement. DynamoDB carries out each on its own, and refuses
    /// a request with two for one row.
    async fn write_together(&self, writes: &mut [RowWrite]) {
        let statements = writes.iter_mut().filter_map(|write| Some((write.statement(&self.name)?, write)));
        let (statements, mut writes): (Vec<_>, Vec<_>) = statements.unzip();
        let requests = statements.chunks(MOST_STATEMENTS).zip(writes.chunks_mut(MOST_STATEMENTS));
        let requests = requests.map(async |(statements, writes)| {
            let request = self.client.batch_execute_statement().set_statements(Some(statements.to_vec()));
            let answers = match Box::pin(request.send()).await {
                Ok(answer) => answer.responses.unwrap_or_default(),
                // It refuses the request as a whole, perhaps because of one row.
                Err(error) if error.as_service_error().is_some() => Vec::new(),
                Err(error) => {
                    let error = TableError::write(&self.name, &error);
                    for write in writes {
                        write.step = Step::Ended(Err(error.clone()));
                    }
                    return;
                }
            };
            let mut answers = answers.into_iter();
            for write in writes {
                match answers.next() {
                    Some(answer) => write.answered(answer.error),
                    None => write.step = Step::Separately,
                }
            }
        });
        join_all(requests).await;
    }

    /// Writes what is left of a row, each of the two times with its own condition.
    async fn write_separately(&self, write: &RowWrite) -> Result<(), TableError> {
        let CourseKey { user_id, course_id } = &write.key;
        let key = [("user_id", &**user_id), ("course_id", &**course_id)];
        let row = RowKey { table: &self.name, key: &key };
        let Progress { latest, first_started_at_ms } = &write.progress;
        let latest = async {
            if let Some(LatestActivity { version, custom_id, expires_at_s }) = latest {
                let custom_id = custom_id.clone().map(AttributeValue::S);
                let expires_at = expires_at_s.map(|at| AttributeValue::N(at.to_string()));
                let attributes = [("custom_id", custom_id), ("expires_at", expires_at)];
                set_if_newer(&self.client, &row, attributes, version).await?;
            }
            Ok(())
        };
        let first = async {
            if let Some(first_started_at_ms) = *first_started_at_ms {
                set_if_less(&self.client, &row, "first_started_at_ms", first_started_at_ms).await?;
            }
            Ok(())
        };
        try_join(latest, first).await?;
        Ok(())
    }
}
