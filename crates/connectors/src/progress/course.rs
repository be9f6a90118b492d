//! A learner's progress in a course, and the statements that write it.

use std::fmt::Write as _;

use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementError, BatchStatementErrorCodeEnum, BatchStatementRequest,
};
use learnink_webhook::MessageId;
use learnink_webhook::newest::EventOrder;

use crate::table::{Row, TableError, statement};

/// Who, and where: the key of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CourseKey {
    pub(super) user_id: String,
    pub(super) course_id: String,
}

/// A learner's progress in a course, as far as a row or some events know it. Of several, the latest activity and the
/// earliest start count, whatever their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) latest: Option<LatestActivity>,
    pub(super) first_started_at_ms: Option<i64>,
}

/// The latest activity of a learner in a course.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LatestActivity {
    pub(super) version: EventOrder,
    pub(super) custom_id: Option<String>,
    /// When the row expires, in seconds since the epoch; `None` for never.
    pub(super) expires_at_s: Option<i64>,
}

impl Progress {
    /// Adds what others know.
    pub(super) fn join(&mut self, other: Self) {
        let Self { latest, first_started_at_ms } = other.beyond(self);
        self.latest = latest.or(self.latest.take());
        self.first_started_at_ms = first_started_at_ms.or(self.first_started_at_ms);
    }

    /// The part of it that `stored` does not have: a later activity, an earlier start.
    fn beyond(self, stored: &Self) -> Self {
        let is_later = |latest: &LatestActivity| {
            stored.latest.as_ref().is_none_or(|stored| latest.version > stored.version)
        };
        let is_earlier = |start: &i64| stored.first_started_at_ms.is_none_or(|stored| *start < stored);
        Self {
            latest: self.latest.filter(is_later),
            first_started_at_ms: self.first_started_at_ms.filter(is_earlier),
        }
    }

    fn of(row: &Row) -> Self {
        let latest = || {
            let message_id = MessageId::parse(&row.text("message_id")?).ok()?;
            let version = EventOrder { occurred_at_ms: row.number("occurred_at_ms")?, message_id };
            let (custom_id, expires_at_s) = (row.text("custom_id"), row.number("expires_at"));
            Some(LatestActivity { version, custom_id, expires_at_s })
        };
        Self { latest: latest(), first_started_at_ms: row.number("first_started_at_ms") }
    }

    fn is_empty(&self) -> bool {
        self.latest.is_none() && self.first_started_at_ms.is_none()
    }
}

/// The write of a row, step by step.
#[derive(Debug)]
pub(super) struct RowWrite {
    pub(super) key: CourseKey,
    /// What is not written yet.
    pub(super) progress: Progress,
    pub(super) step: Step,
}

/// The next step of a write.
#[derive(Debug)]
pub(super) enum Step {
    /// A statement for a learner who is new in the course, as nearly everyone is who starts it.
    Insert,
    /// A statement for a row that has both times: the activity is its latest, and the start is not its first.
    Update,
    /// Two conditional writes, one for each time, which are right for every row.
    Separately,
    /// None: the row has it, or DynamoDB did not confirm.
    Ended(Result<(), TableError>),
}

impl RowWrite {
    /// The write of what events say.
    pub(super) fn new(key: CourseKey, progress: Progress) -> Self {
        let step = if progress.first_started_at_ms.is_some() { Step::Insert } else { Step::Update };
        Self { key, progress, step }
    }

    /// The statement of the next step, if that is one.
    pub(super) fn statement(&self, table: &str) -> Option<BatchStatementRequest> {
        let LatestActivity { version, custom_id, expires_at_s } = self.progress.latest.as_ref()?;
        let (user_id, course_id) = (string(&self.key.user_id), string(&self.key.course_id));
        let (occurred_at_ms, message_id) =
            (number(version.occurred_at_ms), string(version.message_id.as_str()));
        let custom_id = custom_id.as_deref().map(string);
        let expires_at = expires_at_s.map(number);
        let first_started_at_ms = self.progress.first_started_at_ms.map(number);
        match self.step {
            Step::Insert => {
                let mut text = format!(
                    "INSERT INTO \"{table}\" VALUE {{'user_id': ?, 'course_id': ?, 'occurred_at_ms': ?, \
                     'message_id': ?"
                );
                let mut parameters = vec![user_id, course_id, occurred_at_ms, message_id];
                let optional = [
                    ("first_started_at_ms", first_started_at_ms),
                    ("custom_id", custom_id),
                    ("expires_at", expires_at),
                ];
                for (name, value) in optional {
                    if let Some(value) = value {
                        // Writing to a `String` does not fail.
                        let _ = write!(text, ", '{name}': ?");
                        parameters.push(value);
                    }
                }
                text.push('}');
                Some(statement(text, parameters))
            }
            Step::Update => {
                let mut text = format!("UPDATE \"{table}\" SET occurred_at_ms = ? SET message_id = ?");
                let mut parameters = vec![occurred_at_ms.clone(), message_id];
                for (name, value) in [("custom_id", custom_id), ("expires_at", expires_at)] {
                    // Writing to a `String` does not fail.
                    let _ = match value {
                        Some(_) => write!(text, " SET {name} = ?"),
                        None => write!(text, " REMOVE {name}"),
                    };
                    parameters.extend(value);
                }
                text.push_str(" WHERE user_id = ? AND course_id = ? AND occurred_at_ms < ?");
                parameters.extend([user_id, course_id, occurred_at_ms]);
                if let Some(start) = first_started_at_ms {
                    text.push_str(" AND first_started_at_ms <= ?");
                    parameters.push(start);
                }
                Some(statement(text, parameters))
            }
            Step::Separately | Step::Ended(_) => None,
        }
    }

    /// Goes on after DynamoDB's answer to the statement.
    pub(super) fn answered(&mut self, refusal: Option<BatchStatementError>) {
        let Some(refusal) = refusal else {
            self.step = Step::Ended(Ok(()));
            return;
        };
        self.step = match (&self.step, refusal.code) {
            (Step::Insert, Some(BatchStatementErrorCodeEnum::DuplicateItem)) => Step::Update,
            (_, Some(BatchStatementErrorCodeEnum::ConditionalCheckFailed)) => {
                let stored = refusal.item.map(|item| Progress::of(&Row::from(item))).unwrap_or_default();
                self.progress = std::mem::take(&mut self.progress).beyond(&stored);
                if self.progress.is_empty() { Step::Ended(Ok(())) } else { Step::Separately }
            }
            // Throttled, perhaps: the SDK tries a single write again, but not a statement of a batch.
            _ => Step::Separately,
        };
    }
}

fn string(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
