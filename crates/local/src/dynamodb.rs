//! DynamoDB on a laptop: `dynoxide`, on `SQLite`, behind HTTP.

use std::io;
use std::path::Path;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use dynoxide::Database;
use tokio::net::TcpListener;

use crate::terminal::quoted;

/// A DynamoDB that listens on this machine until it is dropped.
#[derive(Debug)]
pub struct LocalDynamoDb {
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

/// The embedded DynamoDB could not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalDynamoDbError {
    /// The file is not our database, or cannot be written.
    #[error("cannot use {path}: {problem}; move it away to start with empty tables")]
    Database {
        /// The file, or `memory`.
        path: String,
        /// What the engine said.
        problem: String,
    },
    /// No port was available.
    #[error("cannot listen on this machine")]
    Listen(#[from] io::Error),
    /// A table could not be made.
    #[error("cannot create the table `{table}`")]
    Table {
        /// The table's name.
        table: String,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LocalDynamoDb {
    /// Starts a DynamoDB over the file `database`, or in memory.
    ///
    /// # Errors
    ///
    /// [`LocalDynamoDbError`] if the file cannot be used or no port is available.
    pub async fn start(database: Option<&Path>) -> Result<Self, LocalDynamoDbError> {
        let path = database.map_or_else(|| "memory".to_owned(), quoted);
        let opened = database.map_or_else(Database::memory, |path| Database::new(&path.to_string_lossy()));
        let database =
            opened.map_err(|error| LocalDynamoDbError::Database { path, problem: error.to_string() })?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(dynoxide::server::serve_on(listener, database));
        Ok(Self { endpoint, server })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for LocalDynamoDb {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A table: its name, its hash key and its range key, both strings.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// The table's name.
    pub name: &'a str,
    /// The hash key's name.
    pub hash_key: &'a str,
    /// The range key's name, if it has one.
    pub range_key: Option<&'a str>,
}

/// Makes a table, unless it exists.
///
/// # Errors
///
/// [`LocalDynamoDbError::Table`] when DynamoDB refuses.
pub async fn create_table(client: &Client, table: Table<'_>) -> Result<(), LocalDynamoDbError> {
    let failed = |source| LocalDynamoDbError::Table { table: table.name.to_owned(), source };
    let keys = [(Some(table.hash_key), KeyType::Hash), (table.range_key, KeyType::Range)];
    let mut request = client.create_table().table_name(table.name).billing_mode(BillingMode::PayPerRequest);
    for (name, key_type) in keys.into_iter().filter_map(|(name, key_type)| Some((name?, key_type))) {
        let key = KeySchemaElement::builder().attribute_name(name).key_type(key_type).build();
        let definition = AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build();
        request = request
            .key_schema(key.map_err(|error| failed(error.into()))?)
            .attribute_definitions(definition.map_err(|error| failed(error.into()))?);
    }
    match request.send().await {
        Ok(_) => Ok(()),
        Err(error)
            if error.as_service_error().is_some_and(
                aws_sdk_dynamodb::operation::create_table::CreateTableError::is_resource_in_use_exception,
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error.into())),
    }
}
