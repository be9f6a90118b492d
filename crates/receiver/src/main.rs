//! The receiver's Lambda binary: reads the configuration and wires the parts together.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::join;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use learnink_receiver::config::SecretSource;
use learnink_receiver::{Answer, Config, GatewayEvent, Receiver, SigningSecrets, SqsQueue};
use learnink_telemetry::{BUILD, Place};

/// How long the first call to SQS may delay the start of the function. Lambda allows 10 s in all.
const LONGEST_PRIMING: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    learnink_telemetry::init(variable);
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the receiver could not start");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let config = Config::read(variable)?;
    let aws = learnink_aws::config_without_client(variable)?;
    let queue = SqsQueue::new(&aws, config.queue_url);
    // Now, because before the first request Lambda gives a whole core, and no sender waits.
    let (secrets, ()) = join(secrets(config.secrets, &aws), prime(&queue)).await;
    let environment =
        Arc::new(Environment { receiver: Receiver::new(secrets?, queue), is_cold: AtomicBool::new(true) });
    let service = service_fn(move |event: LambdaEvent<GatewayEvent>| {
        let environment = environment.clone();
        async move { environment.answer(event).await }
    });
    // In a task: tokio wakes the future that it blocks on through the kernel, but a task without it.
    let runtime = tokio::spawn(Runtime::new(service).run()).await;
    // The text of the panic is left out: it may quote a payload.
    runtime.map_err(|_| anyhow!("the Lambda runtime panicked"))?.map_err(anyhow::Error::from_boxed)
}

/// The state that an execution environment keeps between two requests.
struct Environment {
    receiver: Receiver,
    is_cold: AtomicBool,
}

impl Environment {
    async fn answer(&self, event: LambdaEvent<GatewayEvent>) -> Result<Answer, Error> {
        let receipt = self.receiver.receive(event.payload, now()).await;
        let place = Place {
            function: &event.context.env_config.function_name,
            version: &event.context.env_config.version,
            build: BUILD,
            invocation_id: &event.context.request_id,
            is_cold: self.is_cold.swap(false, Ordering::Relaxed),
        };
        receipt.line(place).write();
        Ok(receipt.outcome.answer())
    }
}

async fn secrets(source: SecretSource, aws: &aws_config::SdkConfig) -> anyhow::Result<SigningSecrets> {
    Ok(match source {
        SecretSource::Environment(verifier) => SigningSecrets::fixed(verifier),
        SecretSource::SecretsManager(id) => SigningSecrets::load(aws, &id, now()).await?,
    })
}

async fn prime(queue: &SqsQueue) {
    match tokio::time::timeout(LONGEST_PRIMING, queue.prime()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the first call to SQS failed; webhooks may fail as well"),
        Err(_) => tracing::warn!("the first call to SQS took too long; webhooks may fail as well"),
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
