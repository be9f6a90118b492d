//! A batch in, the failed ids out.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use learnink_webhook::error::with_causes;
use learnink_webhook::ledger::{Claim, ClaimRequest, payload_sha256};
use learnink_webhook::router::Handler;
use learnink_webhook::{Envelope, FailureClass, HandlerError, HandlerResult, Message, backoff};
use tokio::time::Instant;

use crate::ledger::{Settled, Settlement};
use crate::queues::{DeadLetter, attribute_text};
use crate::record::Record;
use crate::{CALL_LIMIT, Consumer};

/// What is kept free of an invocation's time to record what finished: a quarter, and no more than
/// this, which is enough for a settlement, a dead letter and a delay at their slowest.
const LONGEST_MARGIN: Duration = CALL_LIMIT.saturating_mul(3);

/// What is kept free after that to answer: an answer that comes too late brings the whole batch back.
const LONGEST_ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// One invocation of the consumer.
#[derive(Debug, Clone)]
pub struct Invocation {
    id: String,
    now: Timestamp,
    remaining: Duration,
    started: Instant,
}

impl Invocation {
    /// An invocation that starts now, at `now` by the clock, and that Lambda ends after `remaining`.
    /// `id` is Lambda's request id: part of the name under which claims are made.
    pub fn new(id: impl Into<String>, now: Timestamp, remaining: Duration) -> Self {
        Self { id: id.into(), now, remaining, started: Instant::now() }
    }

    /// From here on nothing is started, and handlers that still run are given up.
    fn end_of_work(&self) -> Instant {
        self.started + self.remaining.saturating_sub((self.remaining / 4).min(LONGEST_MARGIN))
    }

    /// By then the answer is given, whatever is unfinished.
    fn end_of_answers(&self) -> Instant {
        self.started + self.remaining.saturating_sub((self.remaining / 20).min(LONGEST_ANSWER_MARGIN))
    }
}

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
    /// The outcome's name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::DeadLettered => "dead_lettered",
            Self::Retry => "retry",
        }
    }
}

/// What one handler did for one record.
#[derive(Debug)]
pub struct HandlerReport {
    /// The handler's name.
    pub name: &'static str,
    /// Whether it finished.
    pub result: HandlerResult,
    /// How long it took.
    pub took: Duration,
}

/// What happened to one record, for the answer, the log and whoever watches.
#[derive(Debug)]
pub struct RecordReport {
    /// SQS's id of it.
    pub sqs_message_id: String,
    /// The message id, where a receiver wrote the record.
    pub message_id: Option<String>,
    /// The event's type, where the body is an event.
    pub event_type: Option<String>,
    /// Whether a handler is registered for this type and version.
    pub known: bool,
    /// How often it was delivered.
    pub receive_count: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not processed: no payload, no personal data.
    pub reason: Option<String>,
    /// How long it stays hidden, where it comes back.
    pub retry_in: Option<Duration>,
    /// The handlers that ran.
    pub handlers: Vec<HandlerReport>,
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

/// An ending with its reason, before it becomes part of a report.
struct Ending {
    outcome: Outcome,
    reason: Option<String>,
    /// The shortest wait before it comes back.
    minimum_delay: Option<Duration>,
}

impl Ending {
    const fn good(outcome: Outcome) -> Self {
        Self { outcome, reason: None, minimum_delay: None }
    }

    fn retry(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::good(Outcome::Retry) }
    }
}

/// What the handlers of a record amount to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Every one finished.
    Done,
    /// One at least may succeed later. Those that never will are run again with it, because what
    /// waits for a retry would not run on the dead-letter queue.
    Again { reason: String, minimum_delay: Option<Duration> },
    /// The rest will never succeed.
    Never { handler: &'static str, reason: String },
}

fn verdict(handlers: &[HandlerReport]) -> Verdict {
    let failures = |class| {
        let failed = handlers.iter().filter_map(|run| Some((run.name, run.result.as_ref().err()?)));
        failed.filter(move |(_, error)| error.class() == class)
    };
    if let Some((handler, error)) = failures(FailureClass::Retryable).next() {
        let minimum_delay =
            failures(FailureClass::Retryable).filter_map(|(_, error)| error.minimum_delay()).max();
        return Verdict::Again { reason: format!("{handler}: {error}"), minimum_delay };
    }
    match failures(FailureClass::Permanent).next() {
        Some((handler, error)) => Verdict::Never { handler, reason: error.to_string() },
        None => Verdict::Done,
    }
}

impl Consumer {
    /// Handles a batch: every record at the same time, each on its own.
    pub async fn consume(&self, batch: &SqsEvent, invocation: &Invocation) -> BatchReport {
        let records = batch.records.iter().enumerate();
        let records = records.map(|(index, message)| self.consume_record(index, message, invocation));
        BatchReport { records: join_all(records).await }
    }

    async fn consume_record(
        &self,
        index: usize,
        message: &SqsMessage,
        invocation: &Invocation,
    ) -> RecordReport {
        let record = Record(message);
        let mut report = RecordReport {
            sqs_message_id: record.sqs_message_id().to_owned(),
            message_id: None,
            event_type: None,
            known: false,
            receive_count: record.receive_count(),
            outcome: Outcome::Retry,
            reason: None,
            retry_in: None,
            handlers: Vec::new(),
        };
        // By index: should SQS ever put the same message into a batch twice, only one may claim it.
        let owner = format!("{}/{index}", invocation.id);
        let end = invocation.end_of_answers();
        let work = AssertUnwindSafe(self.process(record, &owner, invocation, &mut report)).catch_unwind();
        let ending = match tokio::time::timeout_at(end, work).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(_panic)) => Ending::retry("the consumer panicked"),
            Err(_elapsed) => Ending::retry("the invocation's time was up"),
        };
        report.outcome = ending.outcome;
        report.reason = ending.reason;
        if report.outcome == Outcome::Retry {
            let delay = backoff::delay(report.receive_count, (self.random)(), ending.minimum_delay);
            report.retry_in = Some(delay);
            // Given up at the end: then the queue's visibility timeout applies.
            let _ = tokio::time::timeout_at(end, self.queues.back_off(record, delay)).await;
        }
        report.log();
        report
    }

    /// Decodes, routes, claims, runs and settles one record.
    async fn process(
        &self,
        record: Record<'_>,
        owner: &str,
        invocation: &Invocation,
        report: &mut RecordReport,
    ) -> Ending {
        let message = match record.decode() {
            Ok(message) => Arc::new(message),
            Err(error) => {
                return match error.class() {
                    FailureClass::Retryable => Ending::retry(error.to_string()),
                    FailureClass::Permanent => self.dead_letter(record, None, &error.to_string()).await,
                };
            }
        };
        report.message_id = Some(message.id.to_string());
        let envelope = match Envelope::parse(&message.body) {
            Ok(envelope) => Arc::new(envelope),
            Err(error) => return self.dead_letter(record, None, &error.to_string()).await,
        };
        report.event_type = Some(envelope.event_type.clone());
        let route = self.router.route(&envelope);
        report.known = route.known;
        if route.handlers.is_empty() {
            return Ending::good(Outcome::Ignored);
        }
        if Instant::now() >= invocation.end_of_work() {
            return Ending::retry("the invocation has no time left for it");
        }

        let names: Vec<_> = route.handlers.iter().map(|handler| handler.name()).collect();
        let request = ClaimRequest {
            id: &message.id,
            payload_sha256: &payload_sha256(&message.body),
            handlers: &names,
            owner,
            now: invocation.now,
            lease: invocation.remaining,
        };
        let done = match self.ledger.claim(&request).await {
            Ok(Claim::Acquired { done }) => done,
            Ok(Claim::Completed) => return Ending::good(Outcome::Duplicate),
            Ok(Claim::InProgress { until_ms }) => {
                let left_ms = until_ms.saturating_sub(invocation.now.as_millisecond());
                // Sooner it would meet the same lease, and use up a delivery.
                let minimum_delay = Some(Duration::from_millis(left_ms.unsigned_abs()));
                return Ending { minimum_delay, ..Ending::retry("another delivery of it is being handled") };
            }
            Ok(Claim::PayloadMismatch) => {
                let reason = "the same message id came with another payload before";
                return self.dead_letter(record, None, reason).await;
            }
            Err(error) => return Ending::retry(with_causes(&error)),
        };

        let pending = route.handlers.into_iter().filter(|handler| !done.contains(handler.name()));
        let runs = pending.map(|handler| run(handler, &message, &envelope, invocation.end_of_work()));
        report.handlers = join_all(runs).await;
        self.settle(record, &request, &report.handlers).await
    }

    /// Records what finished, and then sends the record where it goes: a copy on the dead-letter
    /// queue must not make a redrive run again what was done.
    async fn settle(
        &self,
        record: Record<'_>,
        request: &ClaimRequest<'_>,
        handlers: &[HandlerReport],
    ) -> Ending {
        let verdict = verdict(handlers);
        let reason = match &verdict {
            Verdict::Done => None,
            Verdict::Again { reason, .. } => Some(attribute_text(reason)),
            Verdict::Never { handler, reason } => Some(attribute_text(&format!("{handler}: {reason}"))),
        };
        let finished = handlers.iter().filter(|handler| handler.result.is_ok());
        let settlement = Settlement {
            id: request.id,
            owner: request.owner,
            done: &finished.map(|handler| handler.name).collect::<Vec<_>>(),
            reason: reason.as_deref(),
            now: request.now,
        };
        match self.ledger.settle(&settlement).await {
            Ok(Settled::Recorded) => {}
            Ok(Settled::LeaseLost) => return Ending::retry("the lease ended before the work did"),
            Err(error) => return Ending::retry(with_causes(&error)),
        }
        match verdict {
            Verdict::Done => Ending::good(Outcome::Processed),
            Verdict::Again { minimum_delay, .. } => Ending { outcome: Outcome::Retry, reason, minimum_delay },
            Verdict::Never { handler, reason } => self.dead_letter(record, Some(handler), &reason).await,
        }
    }

    /// Puts a record on the dead-letter queue, or leaves it where it is when that fails.
    async fn dead_letter(&self, record: Record<'_>, handler: Option<&str>, reason: &str) -> Ending {
        let reason = attribute_text(reason);
        match self.queues.dead_letter(record, DeadLetter { reason: &reason, handler }).await {
            Ok(()) => Ending {
                reason: Some(match handler {
                    Some(handler) => format!("{handler}: {reason}"),
                    None => reason,
                }),
                ..Ending::good(Outcome::DeadLettered)
            },
            Err(error) => Ending::retry(format!("{reason}; {}", with_causes(&error))),
        }
    }
}

/// Runs one handler until it finishes, fails, panics or `end` comes.
async fn run(
    handler: &Handler,
    message: &Arc<Message>,
    envelope: &Arc<Envelope>,
    end: Instant,
) -> HandlerReport {
    let started = Instant::now();
    // `async`, so that a panic while the handler builds its future is caught as well.
    let work = async { handler.call(message.clone(), envelope.clone()).await };
    let result = match tokio::time::timeout_at(end, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(HandlerError::retryable("the handler panicked")),
        Err(_elapsed) => Err(HandlerError::retryable("the handler did not finish in time")),
    };
    HandlerReport { name: handler.name(), result, took: started.elapsed() }
}

impl RecordReport {
    /// One line per record, with everything one filters by.
    fn log(&self) {
        let done: Vec<_> =
            self.handlers.iter().filter(|run| run.result.is_ok()).map(|run| run.name).collect();
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    message.id = self.message_id,
                    sqs.message_id = self.sqs_message_id,
                    event.type = self.event_type,
                    event.known = self.known,
                    outcome = self.outcome.name(),
                    reason = self.reason,
                    handlers.done = done.join(","),
                    receive_count = self.receive_count,
                    retry_in_s = self.retry_in.map(|delay| delay.as_secs()),
                    $text
                )
            };
        }
        match self.outcome {
            Outcome::Processed => line!(info, "handled a message"),
            Outcome::Duplicate => line!(info, "a message had been handled before"),
            Outcome::Ignored => line!(info, "no handler takes this event"),
            Outcome::Retry => line!(warn, "a message was not handled and comes back"),
            Outcome::DeadLettered => line!(error, "a message went to the dead-letter queue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(records: &[(&str, Outcome)]) -> BatchReport {
        let records = records.iter().map(|(id, outcome)| RecordReport {
            sqs_message_id: (*id).to_owned(),
            message_id: None,
            event_type: None,
            known: true,
            receive_count: 1,
            outcome: *outcome,
            reason: None,
            retry_in: None,
            handlers: Vec::new(),
        });
        BatchReport { records: records.collect() }
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

    fn run(name: &'static str, result: HandlerResult) -> HandlerReport {
        HandlerReport { name, result, took: Duration::ZERO }
    }

    #[test]
    fn a_retryable_failure_decides_before_a_permanent_one() {
        let runs = [
            run("a", Ok(())),
            run("b", Err(HandlerError::permanent("no such plan"))),
            run("c", Err(HandlerError::retryable("busy"))),
        ];
        assert_eq!(verdict(&runs), Verdict::Again { reason: "c: busy".to_owned(), minimum_delay: None });
        let never = Verdict::Never { handler: "b", reason: "no such plan".to_owned() };
        assert_eq!(verdict(&runs[..2]), never);
        assert_eq!(verdict(&runs[..1]), Verdict::Done);
    }

    #[test]
    fn the_longest_wait_that_a_handler_asked_for_is_kept() {
        let asked = |hours| HandlerError::retryable("busy").retry_after(Duration::from_hours(hours));
        let runs = [
            run("a", Err(HandlerError::retryable("busy"))),
            run("b", Err(asked(2))),
            run("c", Err(asked(1))),
        ];
        let Verdict::Again { minimum_delay, .. } = verdict(&runs) else { panic!("two may succeed later") };
        assert_eq!(minimum_delay, Some(Duration::from_hours(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_while_there_is_time_to_record_it_and_answers_come_before_lambdas_end() {
        let invocation = |seconds| Invocation::new("1", Timestamp::UNIX_EPOCH, Duration::from_secs(seconds));
        let start = Instant::now();
        let ends = |seconds| {
            let invocation = invocation(seconds);
            [invocation.end_of_work(), invocation.end_of_answers()].map(|end| (end - start).as_millis())
        };
        assert_eq!(ends(30), [24_000, 29_500]);
        assert_eq!(ends(2), [1_500, 1_900]);
        assert_eq!(ends(0), [0, 0]);
    }
}
