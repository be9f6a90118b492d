//! AWS, where a command looks at a deployed stack.

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use learnink_aws::CallFailed;

use crate::variable;

/// How the commands for AWS are told which; below their help.
pub(crate) const IN_AWS: &str = "\
In AWS, region and credentials come from the environment alone. Where a profile has them:
  export AWS_REGION=eu-west-1
  eval \"$(aws configure export-credentials --format env)\"
The names of queues and tables are outputs of the stack: DeadLetterQueueUrl, LedgerTableName, \
LearnersTableName, UnknownEventsTableName.";

/// The configuration of AWS's clients, from the environment.
pub(crate) fn config() -> anyhow::Result<SdkConfig> {
    check_environment(variable)?;
    Ok(learnink_aws::sdk_config(variable)?)
}

/// Whether the environment names a region and has credentials. Without them a call fails for reasons that
/// nobody would guess from its error.
pub(crate) fn check_environment(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    variable("AWS_REGION").context("AWS_REGION is not set; export the stack's region, such as eu-west-1")?;
    variable("AWS_ACCESS_KEY_ID").context(
        "there are no AWS credentials in the environment; with a profile: \
         eval \"$(aws configure export-credentials --format env)\"",
    )?;
    Ok(())
}

/// The region of a configuration, for texts.
pub(crate) fn region(aws: &SdkConfig) -> &str {
    aws.region().map_or("no region", AsRef::as_ref)
}

/// How many messages are on a queue: visible, hidden and delayed. In AWS the number is up to a minute old.
/// Source: Amazon SQS API reference, `GetQueueAttributes`.
pub(crate) async fn count_messages(client: &Client, queue_url: &str) -> anyhow::Result<usize> {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    let request =
        client.get_queue_attributes().queue_url(queue_url).set_attribute_names(Some(names.to_vec()));
    let answer = request.send().await.map_err(|error| CallFailed::new("SQS", &error));
    let answer = answer.with_context(|| format!("cannot count the messages on {queue_url}"))?;
    let counts = answer.attributes.unwrap_or_default();
    Ok(names.iter().filter_map(|name| counts.get(name)?.parse::<usize>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(set: &[&str]) -> String {
        let variable = |name: &str| set.contains(&name).then(|| "value".to_owned());
        check_environment(variable).unwrap_err().to_string()
    }

    #[test]
    fn what_the_environment_lacks_is_said_with_what_to_do() {
        assert_eq!(missing(&[]), "AWS_REGION is not set; export the stack's region, such as eu-west-1");
        assert!(
            missing(&["AWS_REGION"]).ends_with("eval \"$(aws configure export-credentials --format env)\"")
        );
    }
}
