//! The consumer as a Lambda function: invocations in, a line per record out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use learnink_telemetry::{BUILD, Place};
use serde::{Deserialize, Deserializer};

use crate::{Consumer, Invocation};

/// The Lambda runtime ended, which it does when the environment cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It panicked. Its text may quote a payload, and is left out.
    #[error("the Lambda runtime panicked")]
    Panicked,
    /// It stopped with an error.
    #[error(transparent)]
    Runtime(Error),
}

/// The invocation's event is not an SQS batch; perhaps somebody invoked the function by hand. The event's text is
/// left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event is not a batch of SQS messages; invoke the consumer through its queue")]
pub struct NotABatch;

/// A batch, if the event is one. Deserializing it never fails: the runtime would log and answer an error that
/// quotes the event.
#[derive(Debug)]
struct Batch(Result<SqsEvent, NotABatch>);

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(SqsEvent::deserialize(deserializer).map_err(|_| NotABatch)))
    }
}

/// Handles the function's invocations, until Lambda ends the environment. `now` reads the clock.
///
/// # Errors
///
/// [`ServeError`] if the runtime ends by itself.
pub async fn serve(consumer: Consumer, now: fn() -> Timestamp) -> Result<(), ServeError> {
    let environment = Arc::new(Environment { consumer, is_cold: AtomicBool::new(true), now });
    let service = service_fn(move |event: LambdaEvent<Batch>| {
        let environment = environment.clone();
        async move { environment.answer(event).await }
    });
    // In a task: tokio wakes the future that it blocks on through the kernel, but a task without it.
    let runtime = tokio::spawn(Runtime::new(service).run()).await;
    runtime.map_err(|_| ServeError::Panicked)?.map_err(ServeError::Runtime)
}

/// The state that an execution environment keeps between two batches.
struct Environment {
    consumer: Consumer,
    is_cold: AtomicBool,
    now: fn() -> Timestamp,
}

impl Environment {
    async fn answer(&self, event: LambdaEvent<Batch>) -> Result<SqsBatchResponse, Error> {
        let batch = event.payload.0?;
        let now = (self.now)();
        let left_ms = event.context.deadline.saturating_sub(now.as_millisecond().unsigned_abs());
        let id = &event.context.request_id;
        let invocation = Invocation::new(id, now, Duration::from_millis(left_ms));
        let report = self.consumer.consume(&batch, &invocation).await;
        let place = Place {
            function: &event.context.env_config.function_name,
            version: &event.context.env_config.version,
            build: BUILD,
            invocation_id: id,
            is_cold: self.is_cold.swap(false, Ordering::Relaxed),
        };
        for record in &report.records {
            record.line(place).write();
        }
        Ok(report.response()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_a_batch_is_named_and_never_quoted() {
        for event in [
            r#""+254705408079""#,
            r#"{"Records":"+254705408079"}"#,
            r#"{"Records":[{"messageId":{"+254705408079":1}}]}"#,
            r#"{"Records":[{"attributes":["+254705408079"]}]}"#,
            "[1]",
            "not json +254705408079",
            "",
        ] {
            let mut deserializer = serde_json::Deserializer::from_str(event);
            let batch = Batch::deserialize(&mut deserializer).unwrap();
            let error = batch.0.expect_err(event).to_string();
            assert_eq!(
                error,
                "the event is not a batch of SQS messages; invoke the consumer through its queue"
            );
        }
        let batch: Batch = serde_json::from_str(r#"{"Records":[]}"#).unwrap();
        assert!(batch.0.unwrap().records.is_empty());
    }
}
