//! A deployed stack, found by its name: its outputs say where its queues, tables and secrets are, its parameters what
//! it was deployed with.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use learnink_local::terminal::{option, quoted};
use learnink_webhook::error::service_code;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::client::client;
use crate::{StateFolder, aws, now, variable};

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

/// One call to AWS may take this long.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The service that knows stacks.
const SERVICE: &str = "cloudformation";

/// A deployed stack.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    name: String,
    /// The configuration of clients for it.
    pub(crate) aws: SdkConfig,
    described: Facts,
}

/// What `DescribeStacks` says about a stack.
#[derive(Debug, Clone, Default)]
struct Facts {
    outputs: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
}

impl Stack {
    /// Asks AWS for the stack, with one request: `DescribeStacks`. For one request, its SDK crate is too much to
    /// compile.
    pub(crate) async fn find(name: &str, aws: SdkConfig) -> anyhow::Result<Self> {
        let region = aws::region(&aws).to_owned();
        let doing = || format!("cannot find the stack {} in {region}", quoted(name));
        let (status, answer) = describe(name, &aws).await.with_context(doing)?;
        let described = read(status, &answer).with_context(doing)?;
        Ok(Self { name: name.to_owned(), aws, described })
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
        self.described.outputs.get(output).map(String::as_str)
    }

    /// The value of a parameter, if the stack has it.
    pub(crate) fn parameter(&self, parameter: &str) -> Option<&str> {
        self.described.parameters.get(parameter).map(String::as_str)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stack {} in {}", quoted(&self.name), aws::region(&self.aws))
    }
}

/// The status and the text of the answer to `DescribeStacks`.
async fn describe(name: &str, aws: &SdkConfig) -> anyhow::Result<(u16, String)> {
    let region = aws::region(aws);
    let endpoint = ["AWS_ENDPOINT_URL_CLOUDFORMATION", "AWS_ENDPOINT_URL"].into_iter().find_map(variable);
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{SERVICE}.{region}.{}", domain(region)));
    let url: reqwest::Url = endpoint.trim().parse().context("the endpoint of CloudFormation is not a URL")?;
    let query = [("Action", "DescribeStacks"), ("Version", "2010-05-15"), ("StackName", name)];
    let body = reqwest::Url::parse_with_params("http://body", query)?.query().unwrap_or_default().to_owned();

    let provider = aws.credentials_provider().context("no credentials")?;
    let identity = provider.provide_credentials().await.context("no credentials")?.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(aws::system_time(now()))
        .settings(SigningSettings::default())
        .build()?
        .into();
    let content_type = "application/x-www-form-urlencoded";
    let headers = [(CONTENT_TYPE.as_str(), content_type)];
    let signable = SignableRequest::new(
        "POST",
        url.as_str(),
        headers.into_iter(),
        SignableBody::Bytes(body.as_bytes()),
    )?;
    let (signature, _) = sign(signable, &params)?.into_parts();
    let mut request = http::Request::post(url.as_str()).header(CONTENT_TYPE, content_type).body(body)?;
    signature.apply_to_request_http1x(&mut request);

    let answer =
        client(&url, TIME_LIMIT)?.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(reqwest::Error::without_url)?))
}

/// The domain of AWS's endpoints in a region. Other partitions are reached by `AWS_ENDPOINT_URL_CLOUDFORMATION`.
/// Source: AWS General Reference, "AWS service endpoints"; botocore, `partitions.json`.
fn domain(region: &str) -> &'static str {
    match region.split_once('-') {
        Some(("cn", _)) => "amazonaws.com.cn",
        Some(("eusc", _)) => "amazonaws.eu",
        _ => "amazonaws.com",
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
    #[serde(rename = "Outputs", default)]
    outputs: Members<OutputXml>,
    #[serde(rename = "Parameters", default)]
    parameters: Members<ParameterXml>,
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

#[derive(Debug, Deserialize)]
struct ErrorXml {
    #[serde(rename = "Error")]
    error: ErrorFields,
}

#[derive(Debug, Deserialize)]
struct ErrorFields {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

/// The outputs and parameters in the answer to `DescribeStacks`.
/// Source: `CloudFormation` API reference, `DescribeStacks` and "Common Errors".
fn read(status: u16, answer: &str) -> anyhow::Result<Facts> {
    if status != 200 {
        let error = quick_xml::de::from_str::<ErrorXml>(answer).ok().map(|answer| answer.error);
        let code = error.as_ref().and_then(|error| service_code(&error.code)).unwrap_or("no code");
        let is_missing = error.as_ref().is_some_and(|error| error.message.ends_with("does not exist"));
        anyhow::bail!(match code {
            "ValidationError" if is_missing => {
                "it does not exist; check its name, the region and the profile".to_owned()
            }
            "AccessDenied" | "AccessDeniedException" => {
                "the credentials may not call cloudformation:DescribeStacks".to_owned()
            }
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
                format!(
                    "the credentials have expired ({code}); log in again, for example with `aws sso login`"
                )
            }
            "InvalidClientTokenId" | "SignatureDoesNotMatch" | "UnrecognizedClientException" => {
                format!("AWS does not accept the credentials ({code}); check the access key or the profile")
            }
            _ => format!("AWS answered {status} ({code})"),
        });
    }
    let described: Described = quick_xml::de::from_str(answer).ok().context("AWS's answer cannot be read")?;
    let stack = described.result.stacks.member.into_iter().next();
    let stack = stack.context("it does not exist; check its name, the region and the profile")?;
    anyhow::ensure!(
        stack.status != "REVIEW_IN_PROGRESS",
        "it is not deployed yet: nobody has executed its change set"
    );
    Ok(Facts {
        outputs: stack.outputs.member.into_iter().map(|output| (output.key, output.value)).collect(),
        parameters: stack.parameters.member.into_iter().map(|one| (one.key, one.value)).collect(),
    })
}

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
mod tests {
    use super::*;

    const ANSWER: &str = r#"<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">
  <DescribeStacksResult>
    <Stacks>
      <member>
        <StackName>learnink-webhooks</StackName>
        <Tags/>
        <Parameters><member><ParameterKey>Push</ParameterKey><ParameterValue>fcm</ParameterValue></member></Parameters>
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

    #[test]
    fn the_outputs_and_the_parameters_of_a_stack_are_read() {
        let Facts { outputs, parameters } = read(200, ANSWER).unwrap();
        assert_eq!((outputs.len(), parameters["Push"].as_str()), (2, "fcm"));
        assert_eq!(outputs["QueueUrl"], "https://sqs.eu-west-1.amazonaws.com/1/a?b&c");
        assert_eq!(outputs["LedgerTableName"], "ledger");
    }

    fn refused(status: u16, answer: &str) -> String {
        read(status, answer).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do_and_without_the_text_of_aws() {
        let error = |code: &str, message: &str| {
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>r</RequestId></ErrorResponse>"
            )
        };
        let missing = error("ValidationError", "Stack with id x does not exist");
        assert_eq!(refused(400, &missing), "it does not exist; check its name, the region and the profile");
        let denied = error("AccessDenied", "User: arn:aws:iam::1:user/kim is not authorized");
        assert_eq!(refused(403, &denied), "the credentials may not call cloudformation:DescribeStacks");
        assert!(refused(403, &error("ExpiredToken", "kim")).contains("`aws sso login`"));
        assert!(refused(403, &error("InvalidClientTokenId", "kim")).contains("check the access key"));
        assert_eq!(refused(500, "<html>kim</html>"), "AWS answered 500 (no code)");
        assert_eq!(refused(400, &error("Throttling", "kim")), "AWS answered 400 (Throttling)");
        assert_eq!(refused(200, "kim"), "AWS's answer cannot be read");
    }

    #[test]
    fn a_stack_without_a_deploy_and_one_without_outputs_are_told_apart() {
        let review = ANSWER.replace("UPDATE_COMPLETE", "REVIEW_IN_PROGRESS");
        assert!(refused(200, &review).starts_with("it is not deployed yet"));
        let start = ANSWER.find("<Outputs>").unwrap();
        let end = ANSWER.find("</Outputs>").unwrap() + "</Outputs>".len();
        let none = ANSWER.replace(&ANSWER[start..end], "");
        let aws = SdkConfig::builder().region(aws_config::Region::from_static("eu-west-1")).build();
        let stack = Stack { name: "old".to_owned(), aws, described: read(200, &none).unwrap() };
        assert_eq!(
            stack.output("QueueUrl").unwrap_err().to_string(),
            "the stack old in eu-west-1 has no output QueueUrl: it is another stack, or of an older version; deploy \
             this version first"
        );
    }

    #[test]
    fn the_endpoint_is_in_the_regions_partition() {
        assert_eq!(domain("eu-west-1"), "amazonaws.com");
        assert_eq!(domain("us-gov-west-1"), "amazonaws.com");
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
        assert_eq!(domain("eusc-de-east-1"), "amazonaws.eu");
    }
}
