//! What happened to a record: for the answer to Lambda, for whoever watches, and as one line with its
//! metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lambda_events::sqs::SqsBatchResponse;
use jiff::Timestamp;
use learnink_telemetry::{Dimensions, Place, Unit, WideEvent};
use learnink_webhook::event::elapsed;
use learnink_webhook::{FailureClass, HandlerError};
use tracing::Level;

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every handler is done.
    Processed,
    /// Every handler was done before.
    Duplicate,
    /// No handler takes this event.
    Ignored,
    /// Copied to the dead-letter queue with its reason.
    DeadLettered,
    /// Comes back after a while.
    Retry,
}

impl Outcome {
    /// The outcome's name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::DeadLettered => "dead_lettered",
            Self::Retry => "retry",
        }
    }

    const fn metric(self) -> &'static str {
        match self {
            Self::Processed => "Handled",
            Self::Duplicate => "Duplicate",
            Self::Ignored => "Ignored",
            Self::DeadLettered => "DeadLettered",
            Self::Retry => "Retried",
        }
    }

    const fn level(self) -> Level {
        match self {
            Self::Processed | Self::Duplicate | Self::Ignored => Level::INFO,
            Self::Retry => Level::WARN,
            Self::DeadLettered => Level::ERROR,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Processed => "handled a message",
            Self::Duplicate => "a message had been handled before",
            Self::Ignored => "no handler takes this event",
            Self::Retry => "a message was not handled and comes back",
            Self::DeadLettered => "a message went to the dead-letter queue",
        }
    }
}

/// How a handler's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The work is done.
    Done,
    /// The event was older than the handler wants: not called, and done.
    TooLate,
    /// The handler said why not.
    Failed(HandlerError),
    /// The handler panicked.
    Panicked,
    /// The invocation's time was up.
    TimedOut,
    /// The invocation's time was up while the items of its list were finishing.
    Unfinished,
    /// Not called, because its downstream is sick.
    Spared,
}

impl Ended {
    /// Whether the work counts as done.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::TooLate)
    }

    /// Why the work is not done.
    pub fn error(&self) -> Option<HandlerError> {
        match self {
            Self::Done | Self::TooLate => None,
            Self::Failed(error) => Some(error.clone()),
            Self::Panicked => Some(HandlerError::retryable("the handler panicked")),
            Self::TimedOut => Some(HandlerError::retryable("the handler did not finish in time")),
            Self::Unfinished => {
                Some(HandlerError::retryable("the list is longer than an invocation; the rest goes on"))
            }
            Self::Spared => Some(HandlerError::retryable(
                "the handler was not called, because its last calls failed one after the other",
            )),
        }
    }

    /// The name of the ending: one of few, for a filter or a metric's dimension.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TooLate => "too_late",
            Self::Failed(error) => match error.class() {
                FailureClass::Retryable => "retryable",
                FailureClass::Permanent => "permanent",
            },
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Unfinished => "unfinished",
            Self::Spared => "spared",
        }
    }
}

/// What one handler did for one record.
#[derive(Debug)]
pub struct HandlerReport {
    /// The handler's name.
    pub name: &'static str,
    /// The ledger's key of what it did: its name, or a replay's.
    pub key: String,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
}

/// Why a record failed without a handler's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineFailure {
    /// Somebody else has claimed the message: nothing failed, and it comes back.
    InProgress,
    /// The ledger did not answer.
    Ledger,
    /// Others may be at work by now, because the lease ended before the work did.
    LeaseLost,
    /// The invocation's time was up.
    TimedOut,
    /// The engine itself panicked.
    Panicked,
    /// No receiver wrote it, or one of another deploy.
    NoMessage,
    /// The body is no event.
    NoEvent,
    /// The message id came with another payload before.
    PayloadMismatch,
    /// No handler takes the event, and the router wants to hear of it.
    Unknown,
}

impl EngineFailure {
    /// The class in logs and metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Ledger => "ledger",
            Self::LeaseLost => "lease_lost",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::NoMessage => "no_message",
            Self::NoEvent => "no_event",
            Self::PayloadMismatch => "payload_mismatch",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a record was not processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The handler, where one ran.
    pub handler: Option<&'static str>,
    /// [`Ended::name`], or where no handler ran one of `in_progress`, `ledger`, `lease_lost`, `timed_out`,
    /// `panicked`, `no_message`, `no_event`, `payload_mismatch` and `unknown`.
    pub class: &'static str,
    /// No payload, no personal data.
    pub reason: String,
}

impl Failure {
    /// A failure without a handler.
    pub(crate) fn of_engine(why: EngineFailure, reason: impl Into<String>) -> Self {
        Self { handler: None, class: why.name(), reason: reason.into() }
    }

    /// The reason with the handler in front.
    pub fn text(&self) -> String {
        match self.handler {
            Some(handler) => format!("{handler}: {}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// What may go wrong while a record ends as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Degraded {
    /// Items that finished could not be noted at once: a crash would have repeated them.
    Notes,
    /// The delay of a retry could not be set.
    Delay,
    /// A replay window could not be read: it may have asked for what counts as done.
    Windows,
}

impl Degraded {
    const fn name(self) -> &'static str {
        match self {
            Self::Notes => "notes",
            Self::Delay => "delay",
            Self::Windows => "windows",
        }
    }
}

/// What happened to one record.
#[derive(Debug)]
pub struct RecordReport {
    /// SQS's id of it.
    pub sqs_message_id: String,
    /// The message id, where a receiver wrote the record.
    pub message_id: Option<String>,
    /// The event's type, where the body is an event.
    pub event_type: Option<String>,
    /// When the event happened, where the body is one.
    pub occurred_at: Option<Timestamp>,
    /// When the receiver accepted it, where one did.
    pub received_at: Option<Timestamp>,
    /// Whether a handler is registered for this type and version.
    pub known: bool,
    /// How often it was delivered.
    pub receive_count: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not processed.
    pub failure: Option<Failure>,
    /// How long it stays hidden, where it comes back. Without it, the queue's visibility timeout applies.
    pub retry_in: Option<Duration>,
    /// What went wrong that the message has survived.
    pub degraded: BTreeSet<Degraded>,
    /// The handlers that were to run.
    pub handlers: Vec<HandlerReport>,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// What happened to a batch.
#[derive(Debug)]
pub struct BatchReport {
    /// One report per record, in the order of the batch.
    pub records: Vec<RecordReport>,
}

/// A record that has to be reported as failed has no id. Returned to Lambda it fails the whole
/// batch, which then comes back: an empty list would delete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a failed record has no SQS message id; the whole batch has to come back")]
pub struct NoSqsMessageId;

impl BatchReport {
    /// What the event source mapping is told: the records that come back.
    ///
    /// # Errors
    ///
    /// [`NoSqsMessageId`] when one of them cannot be named.
    pub fn response(&self) -> Result<SqsBatchResponse, NoSqsMessageId> {
        let mut response = SqsBatchResponse::default();
        for record in self.records.iter().filter(|record| record.outcome == Outcome::Retry) {
            if record.sqs_message_id.is_empty() {
                return Err(NoSqsMessageId);
            }
            response.add_failure(&record.sqs_message_id);
        }
        Ok(response)
    }
}

const BY_FUNCTION: Dimensions = &[&["function"]];
const BY_FUNCTION_AND_VERSION: Dimensions = &[&["function"], &["function", "version"]];
const BY_FAILURE: Dimensions = &[&["function"], &["function", "handler", "class"]];

impl RecordReport {
    /// The one line of this record: what one filters by, and its metrics.
    pub fn line(&self, place: Place<'_>) -> WideEvent {
        let mut line = WideEvent::new(self.outcome.level(), self.outcome.message(), self.ended_at);
        line.place(place);
        line.field("message.id", &self.message_id);
        line.field("sqs.message_id", &self.sqs_message_id);
        line.field("event.type", &self.event_type);
        line.field("event.known", self.known);
        line.field("outcome", self.outcome.name());
        if let Some(failure) = &self.failure {
            line.field("handler", failure.handler.unwrap_or("-"));
            line.field("class", failure.class);
            line.field("reason", &failure.reason);
        }
        let handlers = self.handlers.iter();
        let handlers: Vec<_> = handlers.map(|run| format!("{}={}", run.key, run.ended.name())).collect();
        line.field("handlers", handlers.join(" "));
        line.field("receive_count", self.receive_count);
        line.field("retry_in_s", self.retry_in.map(|delay| delay.as_secs()));
        if !self.degraded.is_empty() {
            let names: Vec<_> = self.degraded.iter().map(|what| what.name()).collect();
            line.field("degraded", names.join(" "));
        }
        self.add_metrics(&mut line);
        line
    }

    fn add_metrics(&self, line: &mut WideEvent) {
        let dimensions = if self.failure.is_some() { BY_FAILURE } else { BY_FUNCTION };
        line.metric(self.outcome.metric(), Unit::Count, 1, dimensions);
        // So that its average is the share of records that failed.
        let is_failed =
            self.failure.as_ref().is_some_and(|failure| failure.class != EngineFailure::InProgress.name());
        line.metric("Failed", Unit::Count, u8::from(is_failed), BY_FUNCTION_AND_VERSION);
        line.metric("Degraded", Unit::Count, (!self.degraded.is_empty()).then_some(1), BY_FUNCTION);
        if self.event_type.is_some() && !self.known {
            line.metric("Unknown", Unit::Count, 1, BY_FUNCTION);
        }
        for (name, ended) in [("TooLate", Ended::TooLate), ("Spared", Ended::Spared)] {
            let count = self.handlers.iter().filter(|run| run.ended == ended).count();
            line.metric(name, Unit::Count, (count > 0).then_some(count), BY_FUNCTION);
        }
        if self.outcome == Outcome::Processed {
            let took = self.received_at.map(|at| elapsed(at, self.ended_at).as_secs_f64() * 1000.0);
            line.metric("EndToEndTime", Unit::Milliseconds, took, BY_FUNCTION);
        }
        let lag = self.occurred_at.zip(self.received_at).map(|(from, to)| elapsed(from, to).as_secs());
        line.metric("OfflineLag", Unit::Seconds, lag, BY_FUNCTION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sqs_message_id: &str, outcome: Outcome) -> RecordReport {
        RecordReport {
            sqs_message_id: sqs_message_id.to_owned(),
            message_id: Some("msg_1".to_owned()),
            event_type: Some("notifications.sent".to_owned()),
            occurred_at: Some("2026-01-01T10:00:00Z".parse().unwrap()),
            received_at: Some("2026-01-02T10:00:00Z".parse().unwrap()),
            known: true,
            receive_count: 1,
            outcome,
            failure: None,
            retry_in: None,
            degraded: BTreeSet::new(),
            handlers: Vec::new(),
            ended_at: "2026-01-02T10:00:01.5Z".parse().unwrap(),
        }
    }

    fn report(records: &[(&str, Outcome)]) -> BatchReport {
        BatchReport { records: records.iter().map(|(id, outcome)| record(id, *outcome)).collect() }
    }

    #[test]
    fn only_the_records_that_come_back_are_reported_under_the_names_that_lambda_reads() {
        let report = report(&[
            ("a", Outcome::Processed),
            ("b", Outcome::Retry),
            ("c", Outcome::DeadLettered),
            ("d", Outcome::Duplicate),
            ("e", Outcome::Ignored),
            ("f", Outcome::Retry),
        ]);
        let response = serde_json::to_string(&report.response().unwrap()).unwrap();
        insta::assert_snapshot!(
            response,
            @r#"{"batchItemFailures":[{"itemIdentifier":"b"},{"itemIdentifier":"f"}]}"#
        );
    }

    #[test]
    fn a_batch_without_failures_answers_with_an_empty_list() {
        let response = report(&[("a", Outcome::Processed)]).response().unwrap();
        assert_eq!(serde_json::to_string(&response).unwrap(), r#"{"batchItemFailures":[]}"#);
    }

    #[test]
    fn a_failed_record_that_cannot_be_named_fails_the_batch() {
        assert_eq!(report(&[("", Outcome::Retry)]).response(), Err(NoSqsMessageId));
        assert!(report(&[("", Outcome::Processed)]).response().is_ok());
    }

    fn line(record: &RecordReport) -> String {
        let place =
            Place { function: "learnink-consumer", version: "7", invocation_id: "i-1", is_cold: false };
        String::from_utf8(record.line(place).into_line()).unwrap()
    }

    #[test]
    fn the_line_of_a_record_says_what_each_handler_did_and_is_its_metrics() {
        let run = |name: &'static str, key: &str, ended| HandlerReport {
            name,
            key: key.to_owned(),
            ended,
            took: Duration::ZERO,
        };
        let mut handled = record("sqs-1", Outcome::Processed);
        handled.handlers =
            vec![run("progress", "progress@1f0c", Ended::Done), run("push", "push", Ended::TooLate)];
        insta::assert_snapshot!("handled", line(&handled));

        let mut failed = record("sqs-1", Outcome::Retry);
        failed.known = false;
        failed.handlers = vec![run("push", "push", Ended::Spared)];
        failed.failure =
            Some(Failure { handler: Some("push"), class: "spared", reason: "not called".to_owned() });
        failed.retry_in = Some(Duration::from_secs(30));
        failed.degraded = BTreeSet::from([Degraded::Notes]);
        insta::assert_snapshot!("failed", line(&failed));
    }
}
