//! The consumer's Lambda binary: reads the configuration and wires.

use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use learnink_consumer::{Config, Consumer, Invocation, Ledger, Queues};
use learnink_handlers::App;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "the edge, where the environment and the clock are read")]
async fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    learnink_telemetry::init(variable);
    let config = Config::read(variable)?;
    let handlers = learnink_handlers::Config::read(variable)?;
    let aws = learnink_aws::sdk_config(variable)?;
    let consumer = &Consumer::new(
        learnink_handlers::router(App::new(&aws, &handlers)),
        Ledger::new(&aws, config.ledger_table),
        Queues::new(&aws, config.queue_url, config.dead_letter_queue_url),
        fastrand::f64,
    );
    run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        let now = Timestamp::now();
        let left_ms = event.context.deadline.saturating_sub(now.as_millisecond().unsigned_abs());
        let invocation = Invocation::new(event.context.request_id, now, Duration::from_millis(left_ms));
        Ok::<_, Error>(consumer.consume(&event.payload, &invocation).await.response()?)
    }))
    .await
    .map_err(anyhow::Error::from_boxed)
}
