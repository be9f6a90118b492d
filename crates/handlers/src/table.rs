//! What the adapters of the DynamoDB tables share: their error, how rows are read, and how the newest event
//! wins.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_webhook::newest::Version;

/// A table did not answer, or holds a row that this program does not write. Retryable.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} the table `{table}`")]
pub struct TableError {
    operation: &'static str,
    table: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl TableError {
    pub(crate) fn write(table: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { operation: "write to", table: table.to_owned(), source: source.into() }
    }

    fn read(table: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { operation: "read", table: table.to_owned(), source: source.into() }
    }
}

/// What came of [`put_if_newer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The row is there.
    Yes,
    /// The table shows a newer event about the same thing, or this very one.
    NotNewer,
}

/// Writes a row that tells of an event, unless the table has a newer one under the same key: whatever the
/// order in which events arrive, and however often, the row ends the same. One conditional write.
///
/// The row gets two attributes besides its own, by which the next event is compared with it:
/// `occurred_at_ms` and `message_id`.
///
/// # Errors
///
/// [`TableError`] when DynamoDB did not confirm.
pub async fn put_if_newer(
    client: &Client,
    table: &str,
    row: impl IntoIterator<Item = (&str, AttributeValue)>,
    version: &Version,
) -> Result<Written, TableError> {
    let occurred_at_ms = AttributeValue::N(version.occurred_at_ms.to_string());
    let message_id = AttributeValue::S(version.message_id.to_string());
    let put = client
        .put_item()
        .table_name(table)
        .set_item(Some(row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
        .item("occurred_at_ms", occurred_at_ms.clone())
        .item("message_id", message_id.clone())
        .condition_expression(
            "attribute_not_exists(occurred_at_ms) OR occurred_at_ms < :occurred_at_ms \
             OR (occurred_at_ms = :occurred_at_ms AND message_id < :message_id)",
        )
        .expression_attribute_values(":occurred_at_ms", occurred_at_ms)
        .expression_attribute_values(":message_id", message_id);
    match Box::pin(put.send()).await {
        Ok(_) => Ok(Written::Yes),
        Err(error) => match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(Written::NotNewer),
            _ => Err(TableError::write(table, error)),
        },
    }
}

/// A row as DynamoDB returns it.
pub(crate) struct Row(HashMap<String, AttributeValue>);

impl Row {
    /// A string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_s().ok().cloned()
    }

    /// A time in milliseconds since the epoch.
    pub(crate) fn time_ms(&self, name: &str) -> Option<Timestamp> {
        let milliseconds = self.0.get(name)?.as_n().ok()?.parse().ok()?;
        Timestamp::from_millisecond(milliseconds).ok()
    }
}

/// Every row of `scan`, in order; `parse` returns `None` for one that this program does not write.
pub(crate) async fn read_all<T: Ord>(
    table: &str,
    scan: ScanFluentBuilder,
    parse: impl Fn(&Row) -> Option<T>,
) -> Result<Vec<T>, TableError> {
    let mut items = scan.table_name(table).into_paginator().items().send();
    let mut rows = Vec::new();
    while let Some(item) = items.next().await {
        let row = Row(item.map_err(|error| TableError::read(table, error))?);
        let parsed = parse(&row);
        rows.push(
            parsed.ok_or_else(|| TableError::read(table, "a row is not one that this program writes"))?,
        );
    }
    rows.sort();
    Ok(rows)
}
