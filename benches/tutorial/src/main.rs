//! A receiver as in tutorials, with which `scripts/bench` compares ours.
//!
//! It does its job: verify, queue, answer. Nothing in it is slow on purpose, and nothing is tuned: improving it
//! would make the comparison useless.

use aws_sdk_sqs::Client;
use lambda_http::{Body, Error, Request, Response, run, service_fn, tracing};
use svix::webhooks::Webhook;

async fn receive(
    request: Request,
    webhook: &Webhook,
    client: &Client,
    queue_url: &str,
) -> Result<Response<Body>, Error> {
    let payload = request.body().as_ref();
    if let Err(error) = webhook.verify(payload, request.headers()) {
        tracing::warn!("invalid webhook: {error}");
        return Ok(Response::builder().status(400).body("invalid signature".into())?);
    }

    let body = std::str::from_utf8(payload)?;
    client.send_message().queue_url(queue_url).message_body(body).send().await?;
    Ok(Response::builder().status(200).body("ok".into())?)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();

    let queue_url = std::env::var("QUEUE_URL")?;
    let webhook = Webhook::new(&std::env::var("WEBHOOK_SECRET")?)?;
    let config = aws_config::load_from_env().await;
    let client = Client::new(&config);

    let (webhook, client, queue_url) = (&webhook, &client, queue_url.as_str());
    run(service_fn(move |request| receive(request, webhook, client, queue_url))).await
}
