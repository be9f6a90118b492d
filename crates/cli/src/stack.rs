//! A deployed stack, found by its name: its outputs say where its queues, tables and secrets are.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use aws_config::SdkConfig;
use learnink_local::terminal::{option, quoted};
use serde::Deserialize;

use crate::aws::AwsClock;
use crate::aws::request::{CLOUDFORMATION, Client, RequestError};
use crate::{StateFolder, aws};

/// A stack in AWS, and how to reach it.
#[derive(Debug, clap::Args)]
pub(crate) struct InAws {
    /// Name of a stack in AWS, to look there
    #[arg(long, value_name = "NAME", env = "LEARNINK_STACK")]
    stack: Option<String>,
    /// Profile of the AWS CLI with the region and the credentials; without it, the environment, then `AWS_PROFILE`
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

impl InAws {
    /// The profile, if one is named.
    pub(crate) fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// The configuration of AWS's clients.
    pub(crate) fn config(&self) -> anyhow::Result<SdkConfig> {
        Ok(aws::config(self.profile.as_deref())?)
    }

    /// The stack, if one is named.
    pub(crate) async fn stack(&self) -> anyhow::Result<Option<Stack>> {
        match &self.stack {
            Some(name) => Stack::find(name, self.config()?).await.map(Some),
            None => Ok(None),
        }
    }

    /// The options that name the same stack, after a space; `None` if none is named.
    pub(crate) fn options(&self) -> Option<String> {
        let stack = self.stack.as_ref()?;
        let profile = self.profile.as_ref().map(|profile| format!(" {}", option("--profile", profile)));
        Some(format!(" {}{}", option("--stack", stack), profile.unwrap_or_default()))
    }
}

/// Where a command looks: in a stack, or in the pipeline of `learnink dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) in_aws: InAws,
    #[command(flatten)]
    pub(crate) state: StateFolder,
}

impl Target {
    /// Whether a stack is named.
    pub(crate) const fn is_stack(&self) -> bool {
        self.in_aws.stack.is_some()
    }

    /// The options that name the same place, after a space, if any are needed.
    pub(crate) fn options(&self) -> String {
        self.in_aws.options().or_else(|| self.state.option()).unwrap_or_default()
    }
}

/// A deployed stack.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    name: String,
    /// The configuration of clients for it.
    pub(crate) aws: SdkConfig,
    /// The clock of AWS, as the answers about this stack show it.
    pub(crate) clock: AwsClock,
    status: String,
    parameters: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
}

impl Stack {
    /// Asks AWS for the stack, with one request: `DescribeStacks`.
    pub(crate) async fn find(name: &str, aws: SdkConfig) -> anyhow::Result<Self> {
        let region = aws::region(&aws).to_owned();
        let doing = || format!("cannot find the stack {} in {region}", quoted(name));
        let clock = AwsClock::default();
        let client = Client::new(CLOUDFORMATION, &aws, &clock).with_context(doing)?;
        let described = client.query("DescribeStacks", "2010-05-15", &[("StackName", name)]).await;
        let described = described.map_err(|error| match error {
            RequestError::NotFound { .. } => anyhow::anyhow!(MISSING),
            error => error.into(),
        });
        let StackXml { status, parameters, outputs } = described.and_then(read).with_context(doing)?;
        let pairs = parameters.member.into_iter().map(|pair| (pair.key, pair.value));
        let parameters = pairs.collect();
        let outputs = outputs.member.into_iter().map(|pair| (pair.key, pair.value)).collect();
        Ok(Self { name: name.to_owned(), aws, clock, status, parameters, outputs })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The state of its last operation, such as `UPDATE_COMPLETE`.
    pub(crate) fn status(&self) -> &str {
        &self.status
    }

    /// The value of a parameter of its template.
    pub(crate) fn parameter(&self, parameter: &str) -> Option<&str> {
        self.parameters.get(parameter).map(String::as_str)
    }

    /// The value of an output that every stack of this version has.
    pub(crate) fn output(&self, output: &str) -> anyhow::Result<&str> {
        self.optional(output).with_context(|| {
            format!(
                "{self} has no output {output}: it is another stack, or of an older version; deploy this version \
                 first"
            )
        })
    }

    /// The value of an output that a stack has only with a parameter set.
    pub(crate) fn optional(&self, output: &str) -> Option<&str> {
        self.outputs.get(output).map(String::as_str)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stack {} in {}", quoted(&self.name), aws::region(&self.aws))
    }
}

#[derive(Debug, Deserialize)]
struct Described {
    #[serde(rename = "DescribeStacksResult")]
    result: DescribeResult,
}

#[derive(Debug, Deserialize)]
struct DescribeResult {
    #[serde(rename = "Stacks", default)]
    stacks: Members<StackXml>,
}

#[derive(Debug, Deserialize)]
struct StackXml {
    #[serde(rename = "StackStatus", default)]
    status: String,
    #[serde(rename = "Parameters", default)]
    parameters: Members<ParameterXml>,
    #[serde(rename = "Outputs", default)]
    outputs: Members<OutputXml>,
}

#[derive(Debug, Deserialize)]
struct ParameterXml {
    #[serde(rename = "ParameterKey")]
    key: String,
    #[serde(rename = "ParameterValue", default)]
    value: String,
}

#[derive(Debug, Deserialize)]
struct OutputXml {
    #[serde(rename = "OutputKey")]
    key: String,
    #[serde(rename = "OutputValue", default)]
    value: String,
}

#[derive(Debug, Deserialize)]
struct Members<T> {
    #[serde(default = "Vec::new")]
    member: Vec<T>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { member: Vec::new() }
    }
}

/// What the answer to `DescribeStacks` says of the stack.
/// Source: `CloudFormation` API reference, `DescribeStacks`.
fn read(described: Described) -> anyhow::Result<StackXml> {
    let stack = described.result.stacks.member.into_iter().next().context(MISSING)?;
    anyhow::ensure!(
        stack.status != "REVIEW_IN_PROGRESS",
        "it is not deployed yet: nobody has executed its change set"
    );
    Ok(stack)
}

/// What to do if there is no such stack.
const MISSING: &str = "it does not exist; check its name, the region and the profile";

#[cfg(test)]
impl Target {
    /// The pipeline of `learnink dev` with its state in `folder`.
    pub(crate) fn dev(folder: &str) -> Self {
        let in_aws = InAws { stack: None, profile: None };
        Self { in_aws, state: StateFolder { folder: folder.into() } }
    }

    /// A stack in AWS.
    pub(crate) fn deployed(stack: &str, profile: Option<&str>) -> Self {
        let in_aws = InAws { stack: Some(stack.to_owned()), profile: profile.map(str::to_owned) };
        Self { in_aws, ..Self::dev(crate::DEFAULT_STATE) }
    }
}

#[cfg(test)]
impl Stack {
    /// A stack of these parameters and outputs, as after an update.
    pub(crate) fn of_test(name: &str, parameters: &[(&str, &str)], outputs: &[(&str, &str)]) -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        Self {
            name: name.to_owned(),
            aws: SdkConfig::builder().region(aws_config::Region::from_static("eu-west-1")).build(),
            clock: AwsClock::default(),
            status: "UPDATE_COMPLETE".to_owned(),
            parameters: map(parameters),
            outputs: map(outputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">
  <DescribeStacksResult>
    <Stacks>
      <member>
        <StackName>learnink-webhooks</StackName>
        <Tags/>
        <Parameters><member><ParameterKey>PushUrl</ParameterKey><ParameterValue/></member></Parameters>
        <StackStatus>UPDATE_COMPLETE</StackStatus>
        <Outputs>
          <member>
            <Description>The queue &amp; its URL.</Description>
            <OutputKey>QueueUrl</OutputKey>
            <OutputValue>https://sqs.eu-west-1.amazonaws.com/1/a?b&amp;c</OutputValue>
          </member>
          <member><OutputKey>LedgerTableName</OutputKey><OutputValue>ledger</OutputValue></member>
        </Outputs>
      </member>
    </Stacks>
  </DescribeStacksResult>
  <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
</DescribeStacksResponse>"#;

    fn described(answer: &str) -> anyhow::Result<StackXml> {
        read(quick_xml::de::from_str(answer).unwrap())
    }

    #[test]
    fn the_outputs_and_the_parameters_of_a_stack_are_read() {
        let StackXml { status, parameters, outputs } = described(ANSWER).unwrap();
        assert_eq!((status.as_str(), parameters.member.len()), ("UPDATE_COMPLETE", 1));
        assert_eq!((&*parameters.member[0].key, &*parameters.member[0].value), ("PushUrl", ""));
        let outputs: Vec<_> = outputs.member.iter().map(|output| (&*output.key, &*output.value)).collect();
        let queue = ("QueueUrl", "https://sqs.eu-west-1.amazonaws.com/1/a?b&c");
        assert_eq!(outputs, [queue, ("LedgerTableName", "ledger")]);
    }

    #[test]
    fn a_stack_without_a_deploy_and_one_without_outputs_are_told_apart() {
        let review = described(&ANSWER.replace("UPDATE_COMPLETE", "REVIEW_IN_PROGRESS")).unwrap_err();
        assert!(review.to_string().starts_with("it is not deployed yet"));
        let start = ANSWER.find("<Outputs>").unwrap();
        let end = ANSWER.find("</Outputs>").unwrap() + "</Outputs>".len();
        let none = described(&ANSWER.replace(&ANSWER[start..end], "")).unwrap();
        assert!(none.outputs.member.is_empty());
        let stack = Stack::of_test("old", &[], &[]);
        assert_eq!(
            stack.output("QueueUrl").unwrap_err().to_string(),
            "the stack old in eu-west-1 has no output QueueUrl: it is another stack, or of an older version; deploy \
             this version first"
        );
    }
}
