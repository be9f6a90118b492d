//! Every type without a handler: the event is kept until you write one.
//!
//! LearnInk's catalog has more types than are public, and will get more. They must not be lost or cause failures,
//! so an event without a handler goes to a table, as it was signed. So does a genuine webhook without a type, such
//! as the test event of LearnInk's sender, Svix. Once there is a handler, `learnink replay run --from unknown` sends
//! these events again, and the handler runs: the ledger records each handler separately.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::{Event, HandlerError, HandlerResult, MessageId, Router};
use serde::Serialize;

use crate::archive::{Record, Redaction};
use crate::table::{LARGEST_ITEM_BYTES, Row, TableError, each, item_bytes, read_all, read_one};

/// How long such an event is kept, in seconds: 90 days.
const KEPT_FOR_S: i64 = 90 * 24 * 60 * 60;

/// The handler's name in the ledger.
const NAME: &str = "unknown";

/// The handler. Its table is `LEARNINK_UNKNOWN_EVENTS_TABLE`.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let table: String = env.required(
        "LEARNINK_UNKNOWN_EVENTS_TABLE",
        "the name of the DynamoDB table for events without a handler",
    )?;
    Ok(Router::new().fallback(NAME, keep).with_state(UnknownEvents::new(env.tables()?, table)))
}

/// Keeps an event without a handler, or dead-letters one that is too large for the table.
async fn keep(event: Event, unknown_events: UnknownEvents) -> HandlerResult {
    let item = item(&event);
    let bytes = item_bytes(&item);
    if bytes > LARGEST_ITEM_BYTES {
        return Err(HandlerError::permanent(format!(
            "no handler takes this event, and the {bytes} bytes that its item would have are more than the \
             {LARGEST_ITEM_BYTES} that DynamoDB takes: it cannot be kept in the table"
        )));
    }
    unknown_events.put(item).await.map_err(HandlerError::quoting)
}

/// The row of an event.
fn item(event: &Event) -> HashMap<String, AttributeValue> {
    let (message, envelope) = (&event.message, &event.envelope);
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let number = |value: i64| AttributeValue::N(value.to_string());
    let occurred_at_ms = envelope.occurred_at.map(|at| ("occurred_at_ms", number(at.as_millisecond())));
    let always = [
        ("message_id", text(message.id.as_str())),
        ("event_type", text(&envelope.event_type)),
        ("api_version", text(&envelope.api_version)),
        ("svix_timestamp", number(message.signed_at_s)),
        ("svix_signature", text(&message.signature)),
        ("body", AttributeValue::B(Blob::new(message.body.clone()))),
        ("expires_at", number(message.received_at.as_second().saturating_add(KEPT_FOR_S))),
    ];
    always.into_iter().chain(occurred_at_ms).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// When the receiver accepted an event, in whole seconds: the row expires a fixed time after that.
fn received_at(row: &Row) -> Option<Timestamp> {
    Timestamp::from_second(row.number("expires_at")?.checked_sub(KEPT_FOR_S)?).ok()
}

/// A kept event without its payload, which stays in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnknownEvent {
    /// The event type; empty for a webhook that is not an event, such as Svix's test of an endpoint.
    pub event_type: String,
    /// Its `api_version`; empty if it has none.
    pub api_version: String,
    /// When it happened, if it says so.
    pub occurred_at: Option<Timestamp>,
    /// When the receiver accepted it, in whole seconds.
    pub received_at: Timestamp,
    /// The message id, by which LearnInk's dashboard finds it.
    pub message_id: String,
}

/// The table of events without a handler, keyed by `message_id`.
#[derive(Debug, Clone)]
pub struct UnknownEvents {
    client: Client,
    table: String,
}

impl UnknownEvents {
    /// The table named `table`.
    pub fn new(aws: &aws_config::SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(aws), table: table.into() }
    }

    async fn put(&self, item: HashMap<String, AttributeValue>) -> Result<(), TableError> {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        put.send().await.map_err(|error| TableError::write(&self.table, &error))?;
        Ok(())
    }

    /// Every kept event, ordered by type, version and time.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer, or a row is not one of ours.
    pub async fn all(&self) -> Result<Vec<UnknownEvent>, TableError> {
        // Without the payloads, which are large and personal.
        let columns = "message_id, event_type, api_version, occurred_at_ms, expires_at";
        let event = |row: &Row| {
            Some(UnknownEvent {
                event_type: row.text("event_type")?,
                api_version: row.text("api_version")?,
                occurred_at: row.time_ms("occurred_at_ms"),
                received_at: received_at(row)?,
                message_id: row.text("message_id")?,
            })
        };
        read_all(&self.table, self.client.scan().projection_expression(columns), event).await
    }

    /// The record of a kept event, as the archive would keep it; `None` if the event is not kept any more.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer, or the row is not one of ours.
    pub async fn record(&self, id: &MessageId) -> Result<Option<Record>, TableError> {
        let key = AttributeValue::S(id.to_string());
        let row = read_one(&self.table, self.client.get_item().key("message_id", key)).await?;
        let record = |row| record(&row).ok_or_else(|| TableError::foreign_row(&self.table));
        row.map(record).transpose()
    }

    /// Hands the record of each kept event to `take`. Of a row that is not one of ours it gets only the key.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not answer.
    pub async fn each_record(&self, mut take: impl FnMut(Result<Record, String>)) -> Result<(), TableError> {
        each(&self.table, self.client.scan(), |row| {
            take(record(&row).ok_or_else(|| row.text("message_id").unwrap_or_default()));
            Ok(())
        })
        .await
    }

    /// Deletes a kept event.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm.
    pub async fn delete(&self, id: &MessageId) -> Result<(), TableError> {
        let key = AttributeValue::S(id.to_string());
        let delete = self.client.delete_item().table_name(&self.table).key("message_id", key);
        delete.send().await.map_err(|error| TableError::write(&self.table, &error))?;
        Ok(())
    }

    /// Writes the redacted record of an event that is kept, without a signature.
    ///
    /// # Errors
    ///
    /// [`TableError`] when DynamoDB did not confirm, or the event is not kept any more.
    pub async fn redact(
        &self,
        id: &MessageId,
        body: Vec<u8>,
        redaction: Redaction,
    ) -> Result<(), TableError> {
        let number = |value: i64| AttributeValue::N(value.to_string());
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("message_id", AttributeValue::S(id.to_string()))
            .update_expression(
                "SET body = :body, redacted_at_ms = :at, redacted_places = :places REMOVE svix_signature",
            )
            .condition_expression("attribute_exists(message_id)")
            .expression_attribute_values(":body", AttributeValue::B(Blob::new(body)))
            .expression_attribute_values(":at", number(redaction.at.as_millisecond()))
            .expression_attribute_values(":places", number(redaction.places.cast_signed()));
        update.send().await.map_err(|error| TableError::write(&self.table, &error))?;
        Ok(())
    }
}

/// The record of a row; `None` if the row is not one of ours.
fn record(row: &Row) -> Option<Record> {
    let redacted_at = row.time_ms("redacted_at_ms");
    let redaction = redacted_at.and_then(|at| {
        let places = row.number("redacted_places")?.try_into().ok()?;
        Some(Redaction { at, places })
    });
    Some(Record {
        id: MessageId::parse(&row.text("message_id")?).ok()?,
        signed_at_s: row.number("svix_timestamp")?,
        signature: match redaction {
            None => row.text("svix_signature")?,
            Some(_) => String::new(),
        },
        received_at: received_at(row)?,
        body: row.bytes("body")?,
        redaction,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::Router as HttpRouter;
    use axum::http::HeaderMap;
    use learnink_webhook::Envelope;
    use learnink_webhook::testing::{deliver, message};
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::aws_with;

    const BODY: &str =
        r#"{"type":"survey.answered","api_version":"2027-01-01","timestamp":"2027-01-02T03:04:05Z"}"#;

    fn event() -> Event {
        let message = message(BODY);
        let envelope = Envelope::parse(&message.body).unwrap();
        let now = message.received_at;
        Event::new(Arc::new(message), Arc::new(envelope), NAME, now, &BTreeSet::new(), Arc::default())
    }

    /// The handler, and how often DynamoDB was asked to keep something.
    async fn handler() -> (Router, Arc<AtomicUsize>) {
        let puts = Arc::new(AtomicUsize::new(0));
        let counted = puts.clone();
        let server = HttpRouter::new().fallback(async move || {
            counted.fetch_add(1, Ordering::Relaxed);
            "{}"
        });
        let env = Env::of([("LEARNINK_UNKNOWN_EVENTS_TABLE", "unknown")]).with_tables(aws_with(server).await);
        (router(&env).unwrap(), puts)
    }

    #[test]
    fn a_row_is_the_event_as_it_was_signed_and_expires_after_90_days() {
        let event = event();
        let item = item(&event);
        let text = |name: &str| item[name].as_s().unwrap().as_str();
        let number = |name: &str| item[name].as_n().unwrap().as_str();
        assert_eq!(
            ["message_id", "event_type", "api_version", "svix_signature"].map(text),
            ["msg_1", "survey.answered", "2027-01-01", "v1,"]
        );
        assert_eq!(
            ["svix_timestamp", "occurred_at_ms", "expires_at"].map(number),
            ["1798859045", "1798859045000", "1806635045"]
        );
        assert_eq!(item["body"].as_b().unwrap().as_ref(), BODY.as_bytes());
        assert_eq!(received_at(&Row::from(item)), Some(event.message.received_at));
    }

    /// A table in memory that takes only what is said of one row.
    async fn table() -> UnknownEvents {
        let kept: Arc<Mutex<Option<Value>>> = Arc::default();
        let server = HttpRouter::new().fallback(async move |headers: HeaderMap, body: String| {
            let input: Value = serde_json::from_str(&body).unwrap();
            let row = &mut *kept.lock().unwrap();
            assert_eq!(input["TableName"], "unknown");
            let key = json!({ "message_id": { "S": "msg_1" } });
            match headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap() {
                "PutItem" => *row = Some(input["Item"].clone()),
                "DeleteItem" if input["Key"] == key => *row = None,
                "UpdateItem" if input["Key"] == key => {
                    let update = "SET body = :body, redacted_at_ms = :at, redacted_places = :places \
                                  REMOVE svix_signature";
                    assert_eq!(input["UpdateExpression"], update);
                    assert_eq!(input["ConditionExpression"], "attribute_exists(message_id)");
                    let values = &input["ExpressionAttributeValues"];
                    let row = row.as_mut().unwrap();
                    for (name, value) in
                        [("body", ":body"), ("redacted_at_ms", ":at"), ("redacted_places", ":places")]
                    {
                        row[name] = values[value].clone();
                    }
                    row.as_object_mut().unwrap().remove("svix_signature");
                }
                "GetItem" if input["Key"] == key => return json!({ "Item": row }).to_string(),
                "Scan" => return json!({ "Items": row.iter().collect::<Vec<_>>() }).to_string(),
                other => panic!("{other} {input}"),
            }
            "{}".to_owned()
        });
        UnknownEvents::new(&aws_with(server).await, "unknown")
    }

    #[tokio::test]
    async fn a_kept_event_is_listed_read_redacted_and_deleted() {
        let table = table().await;
        let event = event();
        let message = &event.message;
        assert_eq!(table.record(&message.id).await.unwrap(), None);
        table.put(item(&event)).await.unwrap();
        let listed = UnknownEvent {
            event_type: "survey.answered".to_owned(),
            api_version: "2027-01-01".to_owned(),
            occurred_at: Some(message.received_at),
            received_at: message.received_at,
            message_id: "msg_1".to_owned(),
        };
        assert_eq!(table.all().await.unwrap(), [listed]);
        let record = Record {
            id: message.id.clone(),
            signed_at_s: message.signed_at_s,
            signature: "v1,".to_owned(),
            received_at: message.received_at,
            body: message.body.clone(),
            redaction: None,
        };
        assert_eq!(table.record(&message.id).await.unwrap(), Some(record.clone()));

        let redaction = Redaction { at: message.received_at, places: 2 };
        table.redact(&message.id, b"{}".to_vec(), redaction).await.unwrap();
        let redacted =
            Record { signature: String::new(), body: b"{}".to_vec(), redaction: Some(redaction), ..record };
        let mut records = Vec::new();
        table.each_record(|record| records.push(record)).await.unwrap();
        assert_eq!(records, [Ok(redacted)]);

        table.delete(&message.id).await.unwrap();
        assert_eq!(table.all().await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_event_is_kept_if_dynamodb_takes_a_row_of_its_size() {
        let rest = item_bytes(&item(&event())) - BODY.len();
        let padded = |bytes: usize| format!("{}{BODY}", " ".repeat(bytes - BODY.len()));
        let (router, puts) = handler().await;
        deliver(router, padded(LARGEST_ITEM_BYTES - rest)).await.assert_done();
        assert_eq!(puts.load(Ordering::Relaxed), 1);

        let (router, puts) = handler().await;
        let refused = deliver(router, padded(LARGEST_ITEM_BYTES - rest + 1)).await;
        refused.assert_dead_lettered("the 409601 bytes that its item would have are more than the 409600");
        assert_eq!(puts.load(Ordering::Relaxed), 0);
    }
}
