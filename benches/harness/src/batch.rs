//! A batch of records, as the event source mapping passes it to the consumer. Our own library writes the records'
//! content, as the receiver does.
//! Source: AWS Lambda developer guide, "Using Lambda with Amazon SQS", example of a standard queue.

use jiff::Timestamp;
use learnink_webhook::{Envelope, Message, MessageId};
use serde_json::{Map, Value, json};

use crate::events::Webhook;

/// How many records a batch has: as many as `template.yaml` lets it have.
pub(crate) const RECORDS: usize = 10;

/// The approximate size of a record's webhook.
pub(crate) const RECORD_BYTES: usize = 400;

/// The consumer's input: one record for each of these webhooks, each delivered for the first time.
///
/// # Errors
///
/// When one of them is not a message that a receiver would queue.
pub(crate) fn batch(webhooks: &[Webhook]) -> anyhow::Result<Value> {
    let records = webhooks.iter().enumerate().map(|(index, webhook)| record(index, webhook));
    Ok(json!({ "Records": records.collect::<anyhow::Result<Vec<_>>>()? }))
}

/// SQS's id of the record at this place of a batch.
pub(crate) fn sqs_message_id(index: usize) -> String {
    format!("059f36b4-87a3-44ab-83d2-{index:012}")
}

fn record(index: usize, webhook: &Webhook) -> anyhow::Result<Value> {
    let received_ms = i64::try_from(webhook.signed_at.as_millis())?;
    let message = Message {
        id: MessageId::parse(&webhook.id)?,
        signed_at_s: webhook.signed_at.as_secs().try_into()?,
        signature: webhook.signature.clone(),
        received_at: Timestamp::from_millisecond(received_ms)?,
        event_type: Some(Envelope::parse(webhook.payload.as_bytes())?.event_type),
        body: webhook.payload.clone().into_bytes(),
        part: None,
        window: None,
    };
    let encoded = message.encode()?;
    let attributes = encoded.attributes.into_iter().map(|attribute| {
        let value = json!({
            "stringValue": attribute.value,
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": attribute.data_type,
        });
        (attribute.name.to_owned(), value)
    });
    Ok(json!({
        "messageId": sqs_message_id(index),
        // As long as a real one.
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a".repeat(10),
        "body": encoded.body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": received_ms.to_string(),
            "SenderId": "AROA1234567890EXAMPLE:receiver",
            "ApproximateFirstReceiveTimestamp": received_ms.to_string(),
        },
        "messageAttributes": attributes.collect::<Map<_, _>>(),
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:messages",
        "awsRegion": "eu-west-1",
    }))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::events::{Integrity, WebhookSender, paths};

    fn webhooks() -> Vec<Webhook> {
        let clock = || UNIX_EPOCH + Duration::from_secs(1_614_265_330);
        let mut sender = WebhookSender::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 7, clock).unwrap();
        (0..RECORDS).map(|_| sender.webhook(RECORD_BYTES, Integrity::Genuine).unwrap()).collect()
    }

    #[test]
    fn a_record_is_what_the_mapping_hands_over() {
        let sample = include_str!("../../../events/lambda/sqs-batch.json");
        let sample: Value = serde_json::from_str(sample).unwrap();
        let batch = batch(&webhooks()).unwrap();
        assert_eq!(paths(&batch["Records"][0]), paths(&sample["Records"][0]));
    }

    #[test]
    fn every_record_carries_its_webhook() {
        let webhooks = webhooks();
        let batch = batch(&webhooks).unwrap();
        for (index, webhook) in webhooks.iter().enumerate() {
            let record = &batch["Records"][index];
            let attribute = |name| record["messageAttributes"].get(name)?["stringValue"].as_str();
            let message = Message::decode(record["body"].as_str().unwrap(), attribute).unwrap();
            assert_eq!(message.id.as_str(), webhook.id);
            assert_eq!(message.signature, webhook.signature);
            assert_eq!(message.signed_at_s, 1_614_265_330);
            assert_eq!(message.body, webhook.payload.as_bytes());
            assert_eq!(message.event_type.unwrap(), "user.course.started");
            assert_eq!(record["messageId"], sqs_message_id(index));
        }
    }
}
