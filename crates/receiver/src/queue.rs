//! The queue that verified webhooks go to.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message::SendMessageError;
use aws_sdk_sqs::types::MessageAttributeValue;
use learnink_webhook::message::QueueMessage;

/// One attempt to reach SQS may take this long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// All attempts together. Svix gives up on an answer after 15 s, so a 503 must come well before.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often one message is tried; the sender's own retries do the rest.
const ATTEMPTS: u32 = 2;

/// An SQS queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

/// SQS did not confirm a message. Retryable: the sender is asked to come back.
#[derive(Debug, thiserror::Error)]
#[error("SQS did not confirm the message: {problem}")]
pub struct EnqueueError {
    problem: String,
}

impl SqsQueue {
    /// The queue at `url`, with the receiver's time limits instead of those in `config`.
    pub fn new(config: &aws_config::SdkConfig, url: impl Into<String>) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let config = aws_sdk_sqs::config::Builder::from(config)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .build();
        Self { client: Client::from_conf(config), url: url.into() }
    }

    /// Sends one message and returns once SQS has confirmed it.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`] when it was not confirmed in time. It may be on the queue all the same;
    /// the consumer recognises the sender's retry by its message id.
    pub async fn send(&self, message: QueueMessage) -> Result<(), EnqueueError> {
        let mut request = self.client.send_message().queue_url(&self.url).message_body(message.body);
        for attribute in message.attributes {
            let value = MessageAttributeValue::builder()
                .data_type(attribute.data_type)
                .string_value(attribute.value)
                .build()
                .map_err(|_| EnqueueError { problem: "an attribute has no type".to_owned() })?;
            request = request.message_attributes(attribute.name, value);
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(EnqueueError { problem: describe(&error) }),
        }
    }
}

/// What went wrong, without anything of the request in it.
fn describe(error: &SdkError<SendMessageError>) -> String {
    match error {
        SdkError::TimeoutError(_) => "timed out".to_owned(),
        SdkError::DispatchFailure(_) => "could not connect".to_owned(),
        SdkError::ServiceError(failure) => {
            let code = failure.err().code().unwrap_or("without a code");
            format!("{} {code}", failure.raw().status())
        }
        SdkError::ResponseError(failure) => format!("unreadable answer {}", failure.raw().status()),
        _ => "the request could not be built".to_owned(),
    }
}
