//! The queue for verified webhooks.

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use learnink_aws::CallError;
use learnink_webhook::message::QueueMessage;

use crate::aws::{unlimited_retries, within_limits};

/// An SQS queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

impl SqsQueue {
    /// The queue at `url`, with the receiver's time limits instead of those in `config`.
    pub fn new(config: &SdkConfig, url: impl Into<String>) -> Self {
        let config = Builder::from(&within_limits(config)).retry_partition(unlimited_retries()).build();
        Self { client: Client::from_conf(config), url: url.into() }
    }

    /// The queue at `url`, with the time limits in `config`: for a queue on a laptop, which is slow when the
    /// laptop is busy.
    pub fn with_limits_of(config: &SdkConfig, url: impl Into<String>) -> Self {
        Self { client: Client::new(config), url: url.into() }
    }

    /// Makes a call that changes nothing, so that the connection and the client's lazy parts are ready before the
    /// first webhook.
    ///
    /// # Errors
    ///
    /// [`CallError`] if SQS could not be asked. The function can start all the same.
    pub async fn prime(&self) -> Result<(), CallError> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let asked = Box::pin(request.attribute_names(QueueAttributeName::QueueArn).send()).await;
        asked.map(|_| ()).map_err(|error| CallError::from(&error))
    }

    /// Sends one message and returns once SQS has confirmed it.
    ///
    /// # Errors
    ///
    /// [`CallError`] when it was not confirmed in time. The message may still be on the queue; the consumer
    /// deduplicates the sender's retry by its message id.
    pub async fn send(&self, message: QueueMessage) -> Result<(), CallError> {
        let mut request = self.client.send_message().queue_url(&self.url).message_body(message.body);
        for attribute in message.attributes {
            let value = MessageAttributeValue::builder()
                .data_type(attribute.data_type)
                .string_value(attribute.value)
                .build()
                // Fails only without a type.
                .map_err(|_| CallError::Unconfirmed)?;
            request = request.message_attributes(attribute.name, value);
        }
        // Boxed, because the client's future has kilobytes, which every future around it would move too:
        // `docs/performance.md`.
        let sent = Box::pin(request.send()).await.map_err(|error| CallError::from(&error))?;
        // SQS gives every message that it stores an id. A 200 without one comes from something else.
        sent.message_id().map(|_| ()).ok_or(CallError::Unconfirmed)
    }
}
