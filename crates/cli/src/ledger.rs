//! The ledger: in the state of `learnink dev`, or in AWS.

use std::path::Path;

use anyhow::Context;
use aws_config::SdkConfig;
use learnink_consumer::DynamoDbLedger;
use learnink_local::pipeline::LEDGER_TABLE;
use learnink_local::{LocalDynamoDb, sdk_config};

use crate::{stored, variable};

/// How the commands for AWS are told which; below their help.
pub(crate) const IN_AWS: &str = "\
In AWS, region and credentials come from the environment alone. Where a profile has them:
  export AWS_REGION=eu-west-1
  eval \"$(aws configure export-credentials --format env)\"
The names of queue and table are outputs of the stack: DeadLetterQueueUrl, LedgerTableName.";

/// A ledger to ask.
pub(crate) struct OpenLedger {
    pub(crate) ledger: DynamoDbLedger,
    /// What it is kept in, where that is on this machine.
    _dynamodb: Option<LocalDynamoDb>,
}

impl OpenLedger {
    /// The ledger in the DynamoDB table `table`.
    pub(crate) fn in_aws(aws: &SdkConfig, table: &str) -> Self {
        Self { ledger: DynamoDbLedger::new(aws, table), _dynamodb: None }
    }

    /// The ledger of `learnink dev`, whether or not it is running; `None` before its first start.
    pub(crate) async fn of_dev(folder: &Path) -> anyhow::Result<Option<Self>> {
        let dynamodb = stored::open(folder).await?;
        Ok(dynamodb.map(|dynamodb| Self {
            ledger: DynamoDbLedger::new(&sdk_config(dynamodb.endpoint()), LEDGER_TABLE.name),
            _dynamodb: Some(dynamodb),
        }))
    }
}

/// The configuration of AWS's clients, from the environment.
pub(crate) fn aws() -> anyhow::Result<SdkConfig> {
    // Without credentials a call fails for reasons that nobody would guess from its error.
    variable("AWS_ACCESS_KEY_ID").context(
        "there are no AWS credentials in the environment; with a profile: \
         eval \"$(aws configure export-credentials --format env)\"",
    )?;
    learnink_aws::sdk_config(variable).context("AWS cannot be asked")
}
