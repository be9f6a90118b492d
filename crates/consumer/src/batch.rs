//! A batch in, the failed ids out.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use learnink_webhook::ledger::{Claim, ClaimRequest, payload_sha256};
use learnink_webhook::router::Handler;
use learnink_webhook::{Envelope, FailureClass, HandlerError, HandlerResult, Message, backoff};

use crate::Consumer;
use crate::ledger::{Settled, Settlement};
use crate::queues::DeadLetter;
use crate::record::Record;

/// What is kept free of the time that an invocation has, to record what finished and to answer:
/// a tenth, and no more than this.
const LONGEST_MARGIN: Duration = Duration::from_secs(2);

/// One invocation of the consumer.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Lambda's request id: part of the name under which claims are made.
    pub id: String,
    /// When it started.
    pub now: Timestamp,
    /// How much time it has.
    pub remaining: Duration,
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
    /// The shortest wait that a handler asked for.
    minimum_delay: Option<Duration>,
}

impl Ending {
    const fn good(outcome: Outcome) -> Self {
        Self { outcome, reason: None, minimum_delay: None }
    }

    fn retry(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Retry, reason: Some(reason.into()), minimum_delay: None }
    }
}

impl Consumer {
    /// Handles a batch: every record at the same time, each on its own.
    pub async fn consume(&self, batch: &SqsEvent, invocation: &Invocation) -> BatchReport {
        let records = batch.records.iter().map(|message| self.consume_record(message, invocation));
        BatchReport { records: join_all(records).await }
    }

    async fn consume_record(&self, message: &SqsMessage, invocation: &Invocation) -> RecordReport {
        let record = Record(message);
        let mut report = RecordReport {
            sqs_message_id: record.sqs_message_id().to_owned(),
            message_id: None,
            event_type: None,
            known: false,
            receive_count: record.receive_count(),
            outcome: Outcome::Retry,
            reason: None,
            handlers: Vec::new(),
        };
        let work = AssertUnwindSafe(self.process(record, invocation, &mut report)).catch_unwind();
        let ending = work.await.unwrap_or_else(|_| Ending::retry("the consumer panicked"));
        if ending.outcome == Outcome::Retry {
            let delay = backoff::delay(report.receive_count, (self.random)(), ending.minimum_delay);
            self.queues.back_off(record, delay).await;
        }
        report.outcome = ending.outcome;
        report.reason = ending.reason;
        report.log();
        report
    }

    /// Decodes, routes, claims, runs and settles one record.
    async fn process(
        &self,
        record: Record<'_>,
        invocation: &Invocation,
        report: &mut RecordReport,
    ) -> Ending {
        let message = match record.decode() {
            Ok(message) => Arc::new(message),
            Err(error) => {
                return match error.class() {
                    FailureClass::Retryable => Ending::retry(error.to_string()),
                    FailureClass::Permanent => self.dead_letter(record, &error.to_string(), None).await,
                };
            }
        };
        report.message_id = Some(message.id.to_string());
        let envelope = match Envelope::parse(&message.body) {
            Ok(envelope) => Arc::new(envelope),
            Err(error) => return self.dead_letter(record, &error.to_string(), None).await,
        };
        report.event_type = Some(envelope.event_type.clone());
        let route = self.router.route(&envelope);
        report.known = route.known;
        if route.handlers.is_empty() {
            return Ending::good(Outcome::Ignored);
        }

        let names: Vec<_> = route.handlers.iter().map(|handler| handler.name()).collect();
        let owner = format!("{}/{}", invocation.id, record.sqs_message_id());
        let request = ClaimRequest {
            id: &message.id,
            payload_sha256: &payload_sha256(&message.body),
            handlers: &names,
            owner: &owner,
            now: invocation.now,
            lease: invocation.remaining,
        };
        let done = match self.ledger.claim(&request).await {
            Ok(Claim::Acquired { done }) => done,
            Ok(Claim::Completed) => return Ending::good(Outcome::Duplicate),
            Ok(Claim::InProgress { .. }) => return Ending::retry("another delivery of it is being handled"),
            Ok(Claim::PayloadMismatch) => {
                let reason = "the same message id came with another payload before";
                return self.dead_letter(record, reason, None).await;
            }
            Err(error) => return Ending::retry(with_causes(&error)),
        };

        let pending = route.handlers.into_iter().filter(|handler| !done.contains(handler.name()));
        let runs = pending.map(|handler| run(handler, &message, &envelope, invocation));
        report.handlers = join_all(runs).await;
        self.settle(record, &message, &request, &report.handlers).await
    }

    /// Records what finished and decides where the record goes.
    async fn settle(
        &self,
        record: Record<'_>,
        message: &Message,
        request: &ClaimRequest<'_>,
        handlers: &[HandlerReport],
    ) -> Ending {
        let ending = match worst_failure(handlers) {
            None => Ending::good(Outcome::Processed),
            Some((handler, error)) => match error.class() {
                FailureClass::Permanent => self.dead_letter(record, &error.to_string(), Some(handler)).await,
                FailureClass::Retryable => Ending {
                    minimum_delay: error.minimum_delay(),
                    ..Ending::retry(format!("{handler}: {error}"))
                },
            },
        };
        let finished: Vec<_> =
            handlers.iter().filter(|handler| handler.result.is_ok()).map(|handler| handler.name).collect();
        let settlement = Settlement {
            id: &message.id,
            owner: request.owner,
            done: &finished,
            reason: ending.reason.as_deref(),
            now: request.now,
        };
        match self.ledger.settle(&settlement).await {
            Ok(Settled::Recorded) => ending,
            // A copy is on the dead-letter queue; nothing else has to be remembered for it.
            Ok(Settled::LeaseLost) if ending.outcome == Outcome::DeadLettered => ending,
            Ok(Settled::LeaseLost) => Ending::retry("the lease ended before the work did"),
            Err(error) if ending.outcome == Outcome::DeadLettered => {
                tracing::warn!(
                    message.id = %message.id,
                    error = with_causes(&error),
                    "dead-lettered a message and could not record it"
                );
                ending
            }
            Err(error) => Ending::retry(with_causes(&error)),
        }
    }

    /// Puts a record on the dead-letter queue, or leaves it where it is when that fails.
    async fn dead_letter(&self, record: Record<'_>, reason: &str, handler: Option<&str>) -> Ending {
        match self.queues.dead_letter(record, DeadLetter { reason, handler }).await {
            Ok(()) => Ending {
                outcome: Outcome::DeadLettered,
                reason: Some(match handler {
                    Some(handler) => format!("{handler}: {reason}"),
                    None => reason.to_owned(),
                }),
                minimum_delay: None,
            },
            Err(error) => Ending::retry(format!("{reason}; {}", with_causes(&error))),
        }
    }
}

/// Runs one handler until it finishes, fails, panics or the invocation's time is nearly up.
async fn run(
    handler: &Handler,
    message: &Arc<Message>,
    envelope: &Arc<Envelope>,
    invocation: &Invocation,
) -> HandlerReport {
    let started = Instant::now();
    let limit = invocation.remaining.saturating_sub((invocation.remaining / 10).min(LONGEST_MARGIN));
    // `async`, so that a panic while the handler builds its future is caught as well.
    let work = async { handler.call(message.clone(), envelope.clone()).await };
    let result = match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(HandlerError::retryable("the handler panicked")),
        Err(_elapsed) => Err(HandlerError::retryable("the handler did not finish in time")),
    };
    HandlerReport { name: handler.name(), result, took: started.elapsed() }
}

/// The failure that decides: a retryable one where there is one, because what it waits for would
/// not run on the dead-letter queue.
fn worst_failure(handlers: &[HandlerReport]) -> Option<(&'static str, &HandlerError)> {
    let failures =
        || handlers.iter().filter_map(|handler| Some((handler.name, handler.result.as_ref().err()?)));
    failures().find(|(_, error)| error.class() == FailureClass::Retryable).or_else(|| failures().next())
}

/// An error and what caused it, joined by colons.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

    #[test]
    fn a_retryable_failure_decides_before_a_permanent_one() {
        let run = |name, result| HandlerReport { name, result, took: Duration::ZERO };
        let runs = [
            run("a", Ok(())),
            run("b", Err(HandlerError::permanent("never"))),
            run("c", Err(HandlerError::retryable("again"))),
        ];
        assert_eq!(worst_failure(&runs).map(|(name, _)| name), Some("c"));
        assert_eq!(worst_failure(&runs[..2]).map(|(name, _)| name), Some("b"));
        assert!(worst_failure(&runs[..1]).is_none());
    }
}
