//! What the adapters of the DynamoDB tables share: their error, how rows are read, and how the newest event
//! wins.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
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

/// Whether a conditional write changed the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It did.
    Yes,
    /// The row shows what is newer, or this very value.
    Unchanged,
}

/// A row of a table, by its key.
#[derive(Debug, Clone)]
pub struct RowKey<'a> {
    /// The table.
    pub table: &'a str,
    /// The key's attributes with their values, all of them strings.
    pub key: &'a [(&'static str, &'a str)],
}

/// Writes attributes of a row that tell of an event, unless the row has them from a newer one: whatever the
/// order in which events arrive, and however often, the row ends the same. One conditional write; an
/// attribute whose value is `None` is removed, and the row's others stay.
///
/// The row gets two attributes besides, by which the next event is compared with it: `occurred_at_ms` and
/// `message_id`.
///
/// # Errors
///
/// [`TableError`] when DynamoDB did not confirm.
pub async fn set_if_newer(
    client: &Client,
    row: &RowKey<'_>,
    attributes: impl IntoIterator<Item = (&'static str, Option<AttributeValue>)>,
    version: &Version,
) -> Result<Written, TableError> {
    let occurred_at_ms = AttributeValue::N(version.occurred_at_ms.to_string());
    let mut set = vec!["occurred_at_ms = :occurred_at_ms".to_owned(), "message_id = :message_id".to_owned()];
    let mut removed = Vec::new();
    let mut update = row.update(client);
    for (index, (name, value)) in attributes.into_iter().enumerate() {
        update = update.expression_attribute_names(format!("#{index}"), name);
        if let Some(value) = value {
            set.push(format!("#{index} = :{index}"));
            update = update.expression_attribute_values(format!(":{index}"), value);
        } else {
            removed.push(format!("#{index}"));
        }
    }
    let remove = if removed.is_empty() { String::new() } else { format!(" REMOVE {}", removed.join(", ")) };
    let update = update
        .update_expression(format!("SET {}{remove}", set.join(", ")))
        .condition_expression(
            "attribute_not_exists(occurred_at_ms) OR occurred_at_ms < :occurred_at_ms \
             OR (occurred_at_ms = :occurred_at_ms AND message_id < :message_id)",
        )
        .expression_attribute_values(":occurred_at_ms", occurred_at_ms)
        .expression_attribute_values(":message_id", AttributeValue::S(version.message_id.to_string()));
    row.send(update).await
}

/// Writes a number of a row unless the row has a smaller one: the first time of something, say.
///
/// # Errors
///
/// [`TableError`] when DynamoDB did not confirm.
pub async fn set_if_less(
    client: &Client,
    row: &RowKey<'_>,
    attribute: &'static str,
    number: i64,
) -> Result<Written, TableError> {
    let update = row
        .update(client)
        .update_expression("SET #number = :number")
        .condition_expression("attribute_not_exists(#number) OR #number > :number")
        .expression_attribute_names("#number", attribute)
        .expression_attribute_values(":number", AttributeValue::N(number.to_string()));
    row.send(update).await
}

impl RowKey<'_> {
    fn update(&self, client: &Client) -> UpdateItemFluentBuilder {
        let update = client.update_item().table_name(self.table);
        self.key
            .iter()
            .fold(update, |update, (name, value)| update.key(*name, AttributeValue::S((*value).to_owned())))
    }

    async fn send(&self, update: UpdateItemFluentBuilder) -> Result<Written, TableError> {
        match Box::pin(update.send()).await {
            Ok(_) => Ok(Written::Yes),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(Written::Unchanged),
                _ => Err(TableError::write(self.table, error)),
            },
        }
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
