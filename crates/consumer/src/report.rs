//! The report on a record: for the answer to Lambda, for tests and the laptop, and as one log line with its
//! metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lambda_events::sqs::SqsBatchResponse;
use jiff::Timestamp;
use learnink_telemetry::{Dimensions, Place, Unit, WideEvent};
use learnink_webhook::event::elapsed;
use learnink_webhook::message::LONGEST_EVENT_TYPE_BYTES;
use learnink_webhook::{FailureKind, HandlerError};
use tracing::Level;

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All handlers are done.
    Processed,
    /// All handlers were done before.
    Duplicate,
    /// No handler takes this event.
    Ignored,
    /// Copied to the dead-letter queue, with its reason.
    DeadLettered,
    /// Delivered again after a while.
    Retry,
    /// Sent once more at its last delivery, as a message with deliveries of its own: its list made progress, or
    /// another delivery of it was being handled.
    SentAgain,
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
            Self::SentAgain => "sent_again",
        }
    }

    const fn metric(self) -> &'static str {
        match self {
            Self::Processed => "Handled",
            Self::Duplicate => "Duplicate",
            Self::Ignored => "Ignored",
            Self::DeadLettered => "DeadLettered",
            Self::Retry | Self::SentAgain => "Retried",
        }
    }

    const fn level(self) -> Level {
        match self {
            Self::Processed | Self::Duplicate | Self::Ignored => Level::INFO,
            Self::Retry | Self::SentAgain => Level::WARN,
            Self::DeadLettered => Level::ERROR,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Processed => "handled a message",
            Self::Duplicate => "a message had been handled before",
            Self::Ignored => "no handler takes this event",
            Self::Retry => "a message was not handled and comes back",
            Self::SentAgain => "a message was not handled by its last delivery and was sent again",
            Self::DeadLettered => "a message went to the dead-letter queue",
        }
    }
}

/// How a handler's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The work is done.
    Done,
    /// The list is on the queue in parts. This message is done.
    InParts,
    /// The event was older than the handler wants. Not called, and done.
    TooLate,
    /// The work is not done.
    Failed(HandlerError),
}

impl Ended {
    /// Whether the work counts as done.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::InParts | Self::TooLate)
    }

    /// Why the work is not done.
    pub const fn error(&self) -> Option<&HandlerError> {
        match self {
            Self::Done | Self::InParts | Self::TooLate => None,
            Self::Failed(error) => Some(error),
        }
    }

    /// How the handler failed, if it did.
    pub fn kind(&self) -> Option<FailureKind> {
        self.error().map(HandlerError::kind)
    }

    /// The name of the ending: one of a few, for a filter or a metric's dimension.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::InParts => "in_parts",
            Self::TooLate => "too_late",
            Self::Failed(error) => error.kind().name(),
        }
    }
}

/// What one handler did for one record.
#[derive(Debug)]
pub struct HandlerReport {
    /// The handler's name.
    pub name: &'static str,
    /// The ledger's key of its work: its name, or a replay's.
    pub key: String,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
}

/// Why a record failed outside its handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineFailure {
    /// Another consumer has claimed the message. Nothing failed, and it is delivered again.
    InProgress,
    /// The ledger did not answer.
    Ledger,
    /// The lease ended before the work, so another consumer may work on it now.
    LeaseLost,
    /// The invocation's time was up.
    TimedOut,
    /// The engine itself panicked.
    Panicked,
    /// It was not written by a receiver, or by one of another deploy.
    NoMessage,
    /// The body is not an event.
    NoEvent,
    /// The message id was seen before with another payload.
    PayloadMismatch,
    /// A part of a list whose handler is not registered any more.
    NoHandler,
}

impl EngineFailure {
    /// The class in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Ledger => "ledger",
            Self::LeaseLost => "lease_lost",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::NoMessage => "no_message",
            Self::NoEvent => "no_event",
            Self::PayloadMismatch => "payload_mismatch",
            Self::NoHandler => "no_handler",
        }
    }
}

/// Why a record was not processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The handler, if one ran.
    pub handler: Option<&'static str>,
    /// [`FailureKind::name`], or if no handler ran, one of `in_progress`, `ledger`, `lease_lost`, `timed_out`,
    /// `panicked`, `no_message`, `no_event`, `payload_mismatch` and `no_handler`.
    pub class: &'static str,
    /// No payload, no personal data.
    pub reason: String,
}

impl Failure {
    /// A failure without a handler.
    pub(crate) fn of_engine(why: EngineFailure, reason: impl Into<String>) -> Self {
        Self { handler: None, class: why.name(), reason: reason.into() }
    }

    /// This failure, with the reason of an earlier one after it.
    pub(crate) fn after(mut self, earlier: Option<&Self>) -> Self {
        if let Some(earlier) = earlier {
            self.reason = format!("{}; before that, {}", self.reason, earlier.text());
        }
        self
    }

    /// This failure, with the reason why the record could not be copied.
    pub(crate) fn and(mut self, copy_error: &str) -> Self {
        self.reason = format!("{}; {copy_error}", self.reason);
        self
    }

    /// The reason with the handler in front.
    pub fn text(&self) -> String {
        match self.handler {
            Some(handler) => format!("{handler}: {}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// A problem that does not change how a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Degraded {
    /// Finished items could not be recorded at once: a crash would have repeated them.
    Notes,
    /// The delay of a retry could not be set.
    Delay,
    /// A replay window could not be read. It may have asked for finished work again.
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
    /// The message id, if a receiver wrote the record.
    pub message_id: Option<String>,
    /// The event's type, if the body is an event.
    pub event_type: Option<String>,
    /// When the event happened, if the body is one.
    pub occurred_at: Option<Timestamp>,
    /// When the receiver accepted it, if one did.
    pub received_at: Option<Timestamp>,
    /// Whether a handler is registered for this type and version.
    pub known: bool,
    /// The event's version, if handlers are registered only for other versions of its type.
    pub another_version: Option<String>,
    /// Which part of a list it is, if it is one.
    pub part: Option<String>,
    /// How often it was delivered.
    pub receive_count: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not processed.
    pub failure: Option<Failure>,
    /// When the consumer first claimed the message, if it did.
    pub first_seen: Option<Timestamp>,
    /// How long it is hidden before it is delivered again. Without it, the queue's visibility timeout applies.
    pub retry_in: Option<Duration>,
    /// The problems that did not change how it ended.
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

/// A record that has to be reported as failed has no id. As an error, it makes Lambda deliver the whole batch
/// again: an empty list would delete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a failed record has no SQS message id; the whole batch has to come back")]
pub struct NoSqsMessageId;

impl BatchReport {
    /// The answer to the event source mapping: the records that must be delivered again.
    ///
    /// # Errors
    ///
    /// [`NoSqsMessageId`] if one of them has no id.
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
const BY_FAILURE: Dimensions = &[&["function"], &["function", "handler", "class"]];

/// Senders' text is cut in a log line: CloudWatch cuts a line of 1 MB, and its metrics would be lost.
const LONGEST_VERSION_BYTES: usize = 64;

/// A reason in a log line is cut to this many bytes.
const LONGEST_REASON_BYTES: usize = 2048;

fn cut(text: &str, longest_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(longest_bytes)]
}

impl RecordReport {
    /// The one log line of this record: the fields to filter by, and its metrics.
    pub fn line(&self, place: Place<'_>) -> WideEvent {
        let level = match self.outcome.level() {
            Level::INFO if self.another_version.is_some() => Level::WARN,
            level => level,
        };
        let mut line = WideEvent::new(level, self.outcome.message(), self.ended_at);
        line.place(place);
        line.field("message.id", &self.message_id);
        // A message that was handled is found by its own id.
        let is_needed = self.message_id.is_none() || self.failure.is_some();
        line.field("sqs.message_id", is_needed.then_some(&self.sqs_message_id));
        line.field("event.type", self.event_type.as_deref().map(|name| cut(name, LONGEST_EVENT_TYPE_BYTES)));
        line.field("event.known", self.known);
        if let Some(version) = &self.another_version {
            line.field("event.other_version", cut(version, LONGEST_VERSION_BYTES));
        }
        if let Some(part) = &self.part {
            line.field("part", part);
        }
        line.field("outcome", self.outcome.name());
        if let Some(failure) = &self.failure {
            line.field("handler", failure.handler.unwrap_or("-"));
            line.field("class", failure.class);
            line.field("reason", cut(&failure.reason, LONGEST_REASON_BYTES));
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
        // So that the metric's average is the share of records that failed. During a gradual rollout, a filter of the
        // log group counts it by version.
        let is_failed =
            self.failure.as_ref().is_some_and(|failure| failure.class != EngineFailure::InProgress.name());
        line.metric("Failed", Unit::Count, u8::from(is_failed), BY_FUNCTION);
        line.metric("Degraded", Unit::Count, (!self.degraded.is_empty()).then_some(1), BY_FUNCTION);
        match self.event_type {
            Some(_) if self.another_version.is_some() => {
                line.metric("UnknownVersion", Unit::Count, 1, BY_FUNCTION);
            }
            Some(_) if !self.known => line.metric("Unknown", Unit::Count, 1, BY_FUNCTION),
            // Still a genuine webhook, such as the sender's own test.
            None if self.message_id.is_some() => line.metric("NotAnEvent", Unit::Count, 1, BY_FUNCTION),
            _ => {}
        }
        let mut count = |name, counts: fn(&Ended) -> bool| {
            let count = self.handlers.iter().filter(|run| counts(&run.ended)).count();
            line.metric(name, Unit::Count, (count > 0).then_some(count), BY_FUNCTION);
        };
        count("TooLate", |ended| *ended == Ended::TooLate);
        count("SkippedByBreaker", |ended| ended.kind() == Some(FailureKind::SkippedByBreaker));
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
            another_version: None,
            part: None,
            receive_count: 1,
            outcome,
            failure: None,
            first_seen: None,
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
            ("g", Outcome::SentAgain),
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
        let place = Place {
            function: "learnink-consumer",
            version: "7",
            build: "0.1.0",
            invocation_id: "i-1",
            is_cold: false,
        };
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
        let skipped = HandlerError::new(FailureKind::SkippedByBreaker, "not called");
        failed.handlers = vec![run("push", "push", Ended::Failed(skipped))];
        failed.failure = Some(Failure {
            handler: Some("push"),
            class: "skipped_by_breaker",
            reason: "not called".to_owned(),
        });
        failed.retry_in = Some(Duration::from_secs(30));
        failed.degraded = BTreeSet::from([Degraded::Notes]);
        insta::assert_snapshot!("failed", line(&failed));
    }
    #[test]
    fn a_known_type_in_another_version_is_a_warning_with_a_metric_of_its_own() {
        let mut unknown = record("sqs-1", Outcome::Processed);
        unknown.known = false;
        assert!(line(&unknown).contains("\"Unknown\":1") && line(&unknown).contains("INFO"));
        unknown.another_version = Some("2031-01-01".to_owned());
        insta::assert_snapshot!("another_version", line(&unknown));
    }

    #[test]
    fn a_genuine_webhook_that_is_not_an_event_is_counted_by_itself() {
        let mut ping = record("sqs-1", Outcome::Processed);
        (ping.known, ping.event_type) = (false, None);
        assert!(line(&ping).contains("\"NotAnEvent\":1") && !line(&ping).contains("\"Unknown\""));
        // Nothing is known about a record that a receiver did not write.
        ping.message_id = None;
        assert!(!line(&ping).contains("NotAnEvent"));
    }

    #[test]
    fn no_text_of_others_makes_a_line_so_long_that_its_metrics_are_lost() {
        let mut long = record("sqs-1", Outcome::Retry);
        long.event_type = Some("é".repeat(300_000));
        long.another_version = Some("é".repeat(300_000));
        long.failure =
            Some(Failure { handler: Some("push"), class: "retryable", reason: "é".repeat(300_000) });
        assert!(line(&long).len() < 5_000);
    }
}
