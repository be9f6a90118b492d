//! Shared code of the adapters of DynamoDB tables: the error, reading rows, and writes by which the newest event
//! wins.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::get_item::builders::GetItemFluentBuilder;
use aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_webhook::newest::EventOrder;

/// A table did not answer, or holds a row that this program does not write. Retryable.
///
/// It has the operation, the table and DynamoDB's error code. It does not quote the answer, which may quote the
/// row: handlers pass its text on with [`HandlerError::quoting`](learnink_webhook::HandlerError::quoting).
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not {operation} the table `{table}`")]
pub struct TableError {
    operation: &'static str,
    table: String,
    source: TableFailure,
}

/// The cause.
#[derive(Debug, Clone, thiserror::Error)]
enum TableFailure {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the write has no answer")]
    Unanswered,
    #[error("a row is not one that this program writes")]
    ForeignRow,
}

impl TableError {
    pub(crate) fn write<E: ProvideErrorMetadata>(table: &str, error: &SdkError<E>) -> Self {
        Self { operation: "write to", table: table.to_owned(), source: CallError::from(error).into() }
    }

    pub(crate) fn unanswered(table: &str) -> Self {
        Self { operation: "write to", table: table.to_owned(), source: TableFailure::Unanswered }
    }

    pub(crate) fn unread<E: ProvideErrorMetadata>(table: &str, error: &SdkError<E>) -> Self {
        Self::read(table, CallError::from(error).into())
    }

    fn read(table: &str, source: TableFailure) -> Self {
        Self { operation: "read", table: table.to_owned(), source }
    }

    pub(crate) fn foreign_row(table: &str) -> Self {
        Self::read(table, TableFailure::ForeignRow)
    }
}

/// The largest item that DynamoDB accepts. It would refuse a larger one at every attempt.
/// Source: DynamoDB developer guide, "Service, account, and table quotas".
pub(crate) const LARGEST_ITEM_BYTES: usize = 400 * 1024;

/// The largest size of a number, with its sign.
/// Source: DynamoDB developer guide, "DynamoDB item sizes and formats".
const LARGEST_NUMBER_BYTES: usize = 21;

/// The largest possible size of an item of texts, numbers and bytes, by DynamoDB's count: names and values.
/// Source: as above.
pub(crate) fn item_bytes(item: &HashMap<String, AttributeValue>) -> usize {
    let value_bytes = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => LARGEST_NUMBER_BYTES,
    };
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

/// Whether a conditional write changed the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It did.
    Yes,
    /// The row has a newer value, or this one already.
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

/// Writes attributes of a row from an event, unless the row has them from a newer one: for any order and any
/// repetition of events, the row ends the same. One conditional write; an attribute whose value is `None` is
/// removed, and the row's others stay.
///
/// The row also gets two attributes with which the next event is compared: `occurred_at_ms` and `message_id`.
///
/// # Errors
///
/// [`TableError`] when DynamoDB did not confirm.
pub async fn set_if_newer(
    client: &Client,
    row: &RowKey<'_>,
    attributes: impl IntoIterator<Item = (&'static str, Option<AttributeValue>)>,
    version: &EventOrder,
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

/// Writes a number of a row unless the row has a smaller one, such as the first time of something.
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
                _ => Err(TableError::write(self.table, &error)),
            },
        }
    }
}

/// How many statements fit into one request.
/// Source: Amazon DynamoDB API reference, `BatchExecuteStatement`.
pub(crate) const MOST_STATEMENTS: usize = 25;

/// A statement of a batch. If its condition fails, DynamoDB returns the row.
pub(crate) fn statement(text: String, parameters: Vec<AttributeValue>) -> BatchStatementRequest {
    let request = BatchStatementRequest::builder()
        .statement(text)
        .set_parameters(Some(parameters))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    match request.build() {
        Ok(request) => request,
        // Fails only without a statement.
        Err(_) => unreachable!("the statement is set"),
    }
}

/// A row as DynamoDB returns it.
pub(crate) struct Row(HashMap<String, AttributeValue>);

impl From<HashMap<String, AttributeValue>> for Row {
    fn from(item: HashMap<String, AttributeValue>) -> Self {
        Self(item)
    }
}

impl Row {
    /// A string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_s().ok().cloned()
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_n().ok()?.parse().ok()
    }

    /// Bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.0.get(name)?.as_b().ok()?.clone().into_inner())
    }

    /// Its texts and numbers, as text.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        let text = |value: &AttributeValue| value.as_s().or_else(|_| value.as_n()).ok().cloned();
        self.0.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    }

    /// A time in milliseconds since the epoch.
    pub(crate) fn time_ms(&self, name: &str) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.number(name)?).ok()
    }
}

/// The row that `get` asks for, if there is one.
pub(crate) async fn read_one(table: &str, get: GetItemFluentBuilder) -> Result<Option<Row>, TableError> {
    let got = get.table_name(table).consistent_read(true).send().await;
    let got = got.map_err(|error| TableError::unread(table, &error))?;
    Ok(got.item.map(Row))
}

/// Every row of `scan`, in order; `parse` returns `None` for one that this program does not write.
pub(crate) async fn read_all<T: Ord>(
    table: &str,
    scan: ScanFluentBuilder,
    parse: impl Fn(&Row) -> Option<T>,
) -> Result<Vec<T>, TableError> {
    let mut rows = Vec::new();
    each(table, scan, |row| {
        rows.push(parse(&row).ok_or_else(|| TableError::foreign_row(table))?);
        Ok(())
    })
    .await?;
    rows.sort();
    Ok(rows)
}

/// Hands each row of `scan` to `take`, one after another.
pub(crate) async fn each(
    table: &str,
    scan: ScanFluentBuilder,
    mut take: impl FnMut(Row) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let mut items = scan.table_name(table).into_paginator().items().send();
    while let Some(item) = items.next().await {
        take(Row(item.map_err(|error| TableError::unread(table, &error))?))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;
    use axum::Router as HttpRouter;
    use axum::http::StatusCode;
    use learnink_webhook::{HandlerError, MessageId};

    use super::*;
    use crate::tests::aws_with;

    /// A DynamoDB that quotes the request in its answer.
    async fn client() -> Client {
        let answer =
            r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"+254705408079"}"#;
        let server = HttpRouter::new().fallback(async move || (StatusCode::BAD_REQUEST, answer));
        Client::new(&aws_with(server).await)
    }

    #[test]
    fn an_item_has_the_bytes_of_its_names_and_values() {
        let item = [
            ("id", AttributeValue::S("é".to_owned())),
            ("body", AttributeValue::B(Blob::new([0; 7]))),
            ("n", AttributeValue::N("-1".to_owned())),
        ];
        let item = item.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(item_bytes(&item), 2 + 2 + 4 + 7 + 1 + 21);
    }

    #[tokio::test]
    async fn what_dynamodb_says_of_a_row_reaches_no_reason() {
        let client = client().await;
        let row = RowKey { table: "learners", key: &[("user_id", "u")] };
        let version = EventOrder::new(Timestamp::UNIX_EPOCH, &MessageId::parse("msg_1").unwrap());
        let written = set_if_newer(&client, &row, [], &version).await.unwrap_err();
        let put = client.put_item().table_name("unknown").send().await.unwrap_err();
        let read = read_all("learners", client.scan(), |_| Some(())).await.unwrap_err();
        for (error, operation) in [
            (written, "write to the table `learners`"),
            (TableError::write("unknown", &put), "write to the table `unknown`"),
            (read, "read the table `learners`"),
        ] {
            let reason = HandlerError::quoting(&error).to_string();
            let expected = format!("could not {operation}: AWS answered 400 (ValidationException)");
            assert_eq!(reason, expected);
            assert!(!format!("{error:?}").contains("2547"), "{error:?}");
        }
    }
}
