//! The receiver's Lambda binary: reads the configuration and wires.

use jiff::Timestamp;
use lambda_http::{Error, Request, run, service_fn};
use learnink_receiver::{Config, Receiver, SqsQueue};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "the edge, where the environment and the clock are read")]
async fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    learnink_telemetry::init(variable);
    let config = Config::read(variable)?;
    let aws = aws_config::load_from_env().await;
    let receiver = &Receiver::new(config.verifier, SqsQueue::new(&aws, config.queue_url));
    run(service_fn(move |request: Request| async move {
        Ok::<_, Error>(receiver.receive(request, Timestamp::now()).await.response())
    }))
    .await
    .map_err(anyhow::Error::from_boxed)
}
