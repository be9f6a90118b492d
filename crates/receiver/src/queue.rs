//! The queue for verified webhooks.

use aws_config::SdkConfig;
use learnink_aws::{CallError, CallLimits, JsonService, Protocol};
use learnink_webhook::message::{Attribute, QueueMessage};
use serde::{Deserialize, Serialize, Serializer};

use crate::aws::LIMITS;

/// Source: Amazon SQS developer guide, "Making Query API requests using AWS JSON protocol in Amazon SQS".
const SQS: Protocol = Protocol {
    service_id: "SQS",
    signing_name: "sqs",
    target: "AmazonSQS",
    content_type: "application/x-amz-json-1.0",
};

/// An SQS queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    sqs: JsonService,
    url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessage<'a> {
    queue_url: &'a str,
    message_body: &'a str,
    #[serde(serialize_with = "by_name")]
    message_attributes: &'a [Attribute],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttributeValue<'a> {
    data_type: &'a str,
    string_value: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    message_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueAttributes<'a> {
    queue_url: &'a str,
    attribute_names: [&'a str; 1],
}

impl SqsQueue {
    /// The queue at `url`, with region, credentials and endpoint of `config`, and the receiver's time limits.
    pub fn new(config: &SdkConfig, url: impl Into<String>) -> Self {
        let url = url.into();
        Self { sqs: JsonService::new(config, SQS, origin(&url), LIMITS), url }
    }

    /// The same queue with other limits: for one on a laptop, which is slow when the laptop is busy.
    #[must_use]
    pub fn with_limits(self, limits: CallLimits) -> Self {
        Self { sqs: self.sqs.with_limits(limits), ..self }
    }

    /// Makes a call that changes nothing, so that the connection is ready before the first webhook.
    ///
    /// # Errors
    ///
    /// [`CallError`] if SQS could not be asked. The function can start all the same.
    pub async fn prime(&self) -> Result<(), CallError> {
        let input = GetQueueAttributes { queue_url: &self.url, attribute_names: ["QueueArn"] };
        self.sqs.call("GetQueueAttributes", &input).await.map(drop)
    }

    /// Sends one message and returns once SQS has confirmed it.
    ///
    /// # Errors
    ///
    /// [`CallError`] when it was not confirmed in time. The message may still be on the queue; the consumer
    /// deduplicates the sender's retry by its message id.
    pub async fn send(&self, message: QueueMessage) -> Result<(), CallError> {
        let input = SendMessage {
            queue_url: &self.url,
            message_body: &message.body,
            message_attributes: &message.attributes,
        };
        let answer = self.sqs.call("SendMessage", &input).await?;
        // SQS gives every message that it stores an id. A 200 without one comes from something else.
        let sent = serde_json::from_slice(&answer).ok().and_then(|sent: Sent| sent.message_id);
        sent.map(drop).ok_or(CallError::Unconfirmed)
    }
}

/// A queue's URL begins with SQS's own endpoint, in every partition.
fn origin(url: &str) -> &str {
    let path = url.find("://").and_then(|scheme| url.get(scheme + 3..)?.find('/').map(|at| scheme + 3 + at));
    path.and_then(|path| url.get(..path)).unwrap_or(url)
}

fn by_name<S: Serializer>(attributes: &[Attribute], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|attribute| {
        let value = AttributeValue { data_type: attribute.data_type, string_value: &attribute.value };
        (attribute.name, value)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queues_url_begins_with_the_endpoint() {
        for (url, endpoint) in [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "https://sqs.eu-west-1.amazonaws.com"),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "https://sqs.cn-north-1.amazonaws.com.cn"),
            ("http://127.0.0.1:4566/000000000000/q", "http://127.0.0.1:4566"),
            ("https://sqs.eu-west-1.amazonaws.com", "https://sqs.eu-west-1.amazonaws.com"),
            ("none", "none"),
        ] {
            assert_eq!(origin(url), endpoint);
        }
    }

    #[test]
    fn a_message_is_sent_as_sqs_reads_it() {
        let attributes = [Attribute { name: "svix-id", data_type: "String", value: "msg_1".to_owned() }];
        let input = SendMessage {
            queue_url: "https://q",
            message_body: "{\"a\":\"\u{e9}\"}",
            message_attributes: &attributes,
        };
        assert_eq!(
            serde_json::to_value(&input).unwrap(),
            serde_json::json!({
                "QueueUrl": "https://q",
                "MessageBody": "{\"a\":\"\u{e9}\"}",
                "MessageAttributes": { "svix-id": { "DataType": "String", "StringValue": "msg_1" } },
            })
        );
    }
}
