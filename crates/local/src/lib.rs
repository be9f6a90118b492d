//! The whole pipeline in one process, on a laptop, without an AWS account.
//!
//! The receiver and the consumer are the same libraries that the Lambda binaries call, and they reach SQS and
//! DynamoDB through the same SDK clients. The replacements for AWS are here:
//!
//! | module | replaces |
//! |---|---|
//! | [`front`] | API Gateway: HTTP in, an HTTP API request with payload format 2.0 out |
//! | [`sqs`] | SQS: `winterbaume-sqs`, with a journal that outlives the process |
//! | [`dynamodb`] | DynamoDB: `dynoxide`, on `SQLite` |
//! | [`secrets_manager`] | Secrets Manager: the files of the state, for the signing secret alone |
//! | [`event_source`] | the event source mapping between SQS and Lambda |
//! | [`state`] | what is kept between two starts |
//! | [`pipeline`] | the stack that connects them |
//!
//! [`terminal`] is for programs that print text from there.

pub mod dynamodb;
pub mod event_source;
pub mod front;
pub mod pipeline;
pub mod secrets_manager;
pub mod sqs;
pub mod state;
pub mod terminal;

pub use dynamodb::LocalDynamoDb;
pub use event_source::EventSource;
pub use pipeline::{AnsweredBy, Observation, Options, Pipeline, Received, SigningSecret, StartError};
pub use secrets_manager::LocalSecretsManager;
pub use sqs::LocalSqs;
pub use state::{State, StateError};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};

/// The region of the embedded engines.
pub const REGION: &str = "us-east-1";

/// The configuration with which AWS's clients talk to an engine at `endpoint`. The credentials have no meaning,
/// and no others are looked up; no proxy is used, even if the environment names one.
pub fn sdk_config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("000000000000", "local", None, None, "local");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}
