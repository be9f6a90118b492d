//! The consumer's Lambda binary with one no-op handler, so that a bench of it measures only the engine and its
//! ledger. Everything else is the consumer's own.

use std::process::ExitCode;

use jiff::Timestamp;
use learnink_consumer::lambda::serve;
use learnink_consumer::{Config, Consumer, DynamoDbLedger, SqsQueues};
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
        config.max_receive_count,
        fastrand::f64,
    );
    Ok(serve(consumer, now).await?)
}

async fn nothing(_: Event<CourseStarted>, (): ()) -> HandlerResult {
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
fn now() -> Timestamp {
    Timestamp::now()
}
