//! What the adapters of the DynamoDB tables share: their error, and how rows are read.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::scan::builders::ScanFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

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
