//! The consumer's Lambda binary with one handler, which does nothing, so that a bench of it measures the
//! engine and its ledger alone. Everything else is as in `crates/consumer/src/main.rs`, and has to stay so.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use learnink_consumer::{Config, Consumer, DynamoDbLedger, Invocation, SqsQueues};
use learnink_telemetry::Place;
use learnink_webhook::event::{CourseStarted, Event};
use learnink_webhook::{HandlerResult, Router};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    learnink_telemetry::init(variable);
    learnink_aws::install_tls_provider();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the consumer could not start");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let config = Config::read(variable)?;
    let aws = learnink_aws::sdk_config(variable)?;
    let consumer = Consumer::new(
        Router::new().on("nothing", nothing),
        DynamoDbLedger::new(&aws, config.ledger_table),
        SqsQueues::new(&aws, config.queue_url, config.dead_letter_queue_url),
        fastrand::f64,
    );
    let function = variable("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let environment = Arc::new(Environment { consumer, function, is_cold: AtomicBool::new(true) });
    let service = service_fn(move |event: LambdaEvent<SqsEvent>| {
        let environment = environment.clone();
        async move { environment.answer(event).await }
    });
    // As a task, because tokio wakes the future that it blocks on through the kernel, and a task not.
    let runtime = tokio::spawn(Runtime::new(service).run()).await;
    // Whatever ended the task, its text may quote a payload.
    runtime.map_err(|_| anyhow!("the Lambda runtime panicked"))?.map_err(anyhow::Error::from_boxed)
}

async fn nothing(_: Event<CourseStarted>, (): ()) -> HandlerResult {
    Ok(())
}

/// What an execution environment keeps between two batches.
struct Environment {
    consumer: Consumer,
    function: String,
    is_cold: AtomicBool,
}

impl Environment {
    async fn answer(&self, event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, Error> {
        let now = now();
        let left_ms = event.context.deadline.saturating_sub(now.as_millisecond().unsigned_abs());
        let id = event.context.request_id;
        let invocation = Invocation::new(&id, now, Duration::from_millis(left_ms));
        let report = self.consumer.consume(&event.payload, &invocation).await;
        let is_cold = self.is_cold.swap(false, Ordering::Relaxed);
        for record in &report.records {
            record.line(Place { function: &self.function, invocation_id: &id, is_cold }).write();
        }
        Ok(report.response()?)
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
fn now() -> Timestamp {
    Timestamp::now()
}
