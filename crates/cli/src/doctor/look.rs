//! Reads everything that the checks judge, concurrently.

use std::error::Error;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::{SignedDuration, Timestamp};
use learnink_aws::secret::{CURRENT, ReadError};
use learnink_aws::{CallError, SecretsManager};
use learnink_connectors::push;
use learnink_consumer::DynamoDbLedger;
use learnink_consumer::ledger::LedgerError;
use learnink_webhook::error::with_causes;
use serde::Deserialize;

use super::facts::{
    Answer, Facts, Function, NamedSecret, Queue, Redrive, SecretState, Topic, Url, signing_secret_state,
};
use crate::aws::QueueCounts;
use crate::aws::cloudwatch::{Alarm, CloudWatch};
use crate::aws::lambda::{LIVE, Lambda};
use crate::aws::request::RequestError;
use crate::aws::sns::Sns;
use crate::client::client;
use crate::replay::fresh_id;
use crate::secrets::without_wrapping;
use crate::send::{ANSWER_TIMEOUT, Signer, webhook};
use crate::stack::Stack;
use crate::unread::{Read, Unread};
use crate::{aws, now};

/// The outputs that every stack of this version has.
const OUTPUTS: [&str; 12] = [
    "WebhookUrl",
    "SigningSecretName",
    "QueueUrl",
    "QueueArn",
    "DeadLetterQueueUrl",
    "DeadLetterQueueArn",
    "LedgerTableName",
    "LearnersTableName",
    "UnknownEventsTableName",
    "AlarmTopicArn",
    "ReceiverFunctionName",
    "ConsumerFunctionName",
];

/// The age of a signature that has to be refused: twice the tolerance.
const OLD: SignedDuration = SignedDuration::from_mins(10);

/// What was found, and what an event is signed with if there is a secret for it.
pub(super) struct Look {
    pub(super) facts: Facts,
    pub(super) signer: Option<Signer>,
}

/// Reads everything about a stack. What is skipped is not tried if that would write or send something.
pub(super) async fn look(stack: &Stack, is_skipped: impl Fn(&str) -> bool) -> anyhow::Result<Look> {
    let aws = &stack.aws;
    let (lambda, sns) = (Lambda::new(aws, &stack.clock)?, Sns::new(aws, &stack.clock)?);
    let cloudwatch = CloudWatch::new(aws, &stack.clock)?;
    let secrets = async {
        let (signing, signer) = signing_secret(aws, output(stack, "SigningSecretName")).await;
        let address = if is_skipped("url") { Err(Unread::Skipped) } else { output(stack, "WebhookUrl") };
        let url = url(address, signer.as_ref()).await;
        (signing, signer, url)
    };
    let push_sender = stack.parameter("Push").map(str::to_owned);
    let (
        receiver,
        consumer,
        account_limit,
        mappings,
        queue,
        dead_letters,
        ledger,
        topic,
        alarms,
        secrets,
        others,
    ) = tokio::join!(
        function(&lambda, output(stack, "ReceiverFunctionName")),
        function(&lambda, output(stack, "ConsumerFunctionName")),
        async { unread("lambda:GetAccountSettings", lambda.account_limit().await) },
        async {
            let arn = output(stack, "QueueArn")?;
            unread("lambda:ListEventSourceMappings", lambda.mappings(arn).await)
        },
        queue(stack),
        dead_letters(stack),
        async {
            let table =
                if is_skipped("ledger") { Err(Unread::Skipped) } else { output(stack, "LedgerTableName") };
            ledger(aws, table).await
        },
        topic(stack, &sns),
        alarms(stack, &cloudwatch),
        secrets,
        async {
            tokio::join!(
                async {
                    let name = stack.optional("PushSecretName")?;
                    let sender = push_sender.as_deref().unwrap_or_default();
                    Some(secret(aws, name, |value| usable(push::check_secret(sender, value))).await)
                },
                async {
                    let name = stack.optional("ForwardSecretName")?;
                    // A random one is as good as another.
                    Some(secret(aws, name, |value| usable(push::check_secret("endpoint", value))).await)
                },
            )
        },
    );
    let (signing_secret, signer, url) = secrets;
    let (push_secret, forward_secret) = others;
    let number = |name| stack.parameter(name).and_then(|value| value.parse().ok());
    let facts = Facts {
        status: stack.status().to_owned(),
        missing_outputs: OUTPUTS.into_iter().filter(|name| stack.optional(name).is_none()).collect(),
        receiver_concurrency: number("ReceiverConcurrency"),
        consumer_concurrency: number("ConsumerConcurrency"),
        clock_ahead: stack.clock.difference(),
        signing_secret,
        push_secret,
        forward_secret,
        push_sender,
        receiver,
        consumer,
        account_limit,
        mappings,
        queue,
        dead_letters,
        ledger,
        url,
        topic,
        alarms,
    };
    Ok(Look { facts, signer })
}

/// The value of an output.
pub(super) fn output<'a>(stack: &'a Stack, name: &'static str) -> Read<&'a str> {
    stack.optional(name).ok_or(Unread::NoOutput(name))
}

fn unread<T>(action: &'static str, answer: Result<T, RequestError>) -> Read<T> {
    answer.map_err(|error| Unread::call(action, &error))
}

fn usable<E: ToString>(checked: Result<(), E>) -> SecretState {
    checked.map_or_else(|problem| SecretState::Unusable(problem.to_string()), |()| SecretState::Usable)
}

async fn secret(aws: &SdkConfig, name: &str, parse: impl Fn(&str) -> SecretState) -> Read<NamedSecret> {
    let answer = SecretsManager::new(aws, name).value(CURRENT).await;
    NamedSecret::of(name, answer.as_deref().map_err(ReadError::clone), parse)
}

/// The signing secret, and what it signs with if it is LearnInk's.
pub(super) async fn signing_secret(aws: &SdkConfig, name: Read<&str>) -> (Read<NamedSecret>, Option<Signer>) {
    let name = match name {
        Ok(name) => name,
        Err(unread) => return (Err(unread), None),
    };
    let answer = SecretsManager::new(aws, name).value(CURRENT).await;
    let secret = NamedSecret::of(name, answer.as_deref().map_err(ReadError::clone), signing_secret_state);
    let is_usable = secret.as_ref().is_ok_and(|secret| secret.state == SecretState::Usable);
    // The first is the current one.
    let first = answer.ok().filter(|_| is_usable).map(|value| without_wrapping(&value));
    let signer =
        first.as_deref().and_then(|value| value.split(' ').next()).and_then(|one| Signer::new(one).ok());
    (secret, signer)
}

async fn function(lambda: &Lambda, name: Read<&str>) -> Read<Function> {
    const CONFIGURATION: &str = "lambda:GetFunctionConfiguration";
    let name = name?;
    let found = async |qualifier| match lambda.configuration(name, qualifier).await {
        Ok(configuration) => Ok(Some(configuration)),
        Err(RequestError::NotFound { .. }) => Ok(None),
        Err(error) => Err(Unread::call(CONFIGURATION, &error)),
    };
    let (live, live_version, newest, reserved) = tokio::join!(
        async { unread("lambda:GetAlias", lambda.live(name).await) },
        found(Some(LIVE)),
        found(None),
        async { unread("lambda:GetFunctionConcurrency", lambda.reserved(name).await) },
    );
    Ok(Function { name: name.to_owned(), live, live_version, newest, reserved })
}

const QUEUE_ATTRIBUTES: &str = "sqs:GetQueueAttributes";

async fn queue(stack: &Stack) -> Read<Queue> {
    let (url, arn) = (output(stack, "QueueUrl")?, output(stack, "QueueArn")?);
    let expected_target = output(stack, "DeadLetterQueueArn")?;
    let request = Sqs::new(&stack.aws).get_queue_attributes().queue_url(url);
    let names = vec![QueueAttributeName::VisibilityTimeout, QueueAttributeName::RedrivePolicy];
    let answer = request.set_attribute_names(Some(names)).send().await;
    let answer = answer.map_err(|error| Unread::sdk(QUEUE_ATTRIBUTES, CallError::from(&error)))?;
    let attributes = answer.attributes.unwrap_or_default();
    let timeout = attributes.get(&QueueAttributeName::VisibilityTimeout);
    let redrive = attributes.get(&QueueAttributeName::RedrivePolicy);
    Ok(Queue {
        url: url.to_owned(),
        arn: arn.to_owned(),
        expected_target: expected_target.to_owned(),
        visibility_timeout_s: timeout.and_then(|seconds| seconds.parse().ok()),
        redrive: redrive.and_then(|policy| redrive_policy(policy)),
    })
}

/// A redrive policy. SQS returns its number as it was set: as a number or as text.
fn redrive_policy(policy: &str) -> Option<Redrive> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Policy {
        dead_letter_target_arn: String,
        max_receive_count: serde_json::Value,
    }
    let policy: Policy = serde_json::from_str(policy).ok()?;
    let count = match &policy.max_receive_count {
        serde_json::Value::String(text) => text.parse().ok()?,
        number => u32::try_from(number.as_u64()?).ok()?,
    };
    Some(Redrive { target_arn: policy.dead_letter_target_arn, max_receive_count: count })
}

async fn dead_letters(stack: &Stack) -> Read<usize> {
    let url = output(stack, "DeadLetterQueueUrl")?;
    let counts = aws::queue_counts(&Sqs::new(&stack.aws), url).await;
    counts.map(QueueCounts::all).map_err(|error| Unread::sdk(QUEUE_ATTRIBUTES, error))
}

async fn ledger(aws: &SdkConfig, table: Read<&str>) -> Read<()> {
    let ledger = DynamoDbLedger::new(aws, table?);
    ledger.try_statements(&fresh_id(), now()).await.map_err(|error| ledger_unread(&error))
}

/// Why the ledger did not take a statement. DynamoDB answers for a missing right in each statement's own answer.
fn ledger_unread(error: &LedgerError) -> Unread {
    let text = with_causes(error);
    let action = match error.operation() {
        "record what finished" => "dynamodb:PartiQLUpdate",
        "delete an entry" => "dynamodb:DeleteItem",
        _ => "dynamodb:PartiQLInsert and dynamodb:UpdateItem",
    };
    match error.source().and_then(|source| source.downcast_ref::<CallError>()) {
        Some(call) => match RequestError::of_sdk(action, call.clone()) {
            denied @ RequestError::Denied { .. } => Unread::call(action, &denied),
            _ => Unread::other(action, text),
        },
        None if text.contains("(AccessDenied") => {
            Unread::call(action, &RequestError::Denied { action: action.to_owned() })
        }
        None => Unread::other(action, text),
    }
}

async fn topic(stack: &Stack, sns: &Sns) -> Read<Topic> {
    let arn = output(stack, "AlarmTopicArn")?;
    let subscriptions = unread("sns:ListSubscriptionsByTopic", sns.subscriptions(arn).await)?;
    Ok(Topic { arn: arn.to_owned(), subscriptions })
}

async fn alarms(stack: &Stack, cloudwatch: &CloudWatch) -> Read<Vec<Alarm>> {
    let topic = output(stack, "AlarmTopicArn")?;
    let ringing = cloudwatch.ringing(&format!("{}-", stack.name()), topic).await;
    unread("cloudwatch:DescribeAlarms", ringing)
}

/// Asks the public URL for what it has to refuse. Two of these requests reach the receiver.
async fn url(url: Read<&str>, signer: Option<&Signer>) -> Read<Url> {
    let text = url?;
    let no_url = |why: &dyn std::fmt::Display| Unread::other("POST", format!("{text}: {why}"));
    let url: reqwest::Url = text.parse().map_err(|_| no_url(&"not a URL"))?;
    let client = client(&url, ANSWER_TIMEOUT).map_err(|error| no_url(&error))?;
    let post = |path: &reqwest::Url| client.post(path.clone()).body("{}");
    let mut other_path = url.clone();
    other_path.set_path(&format!("{}/other", url.path().trim_end_matches('/')));
    let old = async {
        let (id, body) = (format!("msg_doctor{}", fresh_id()), event_body(now()));
        let signed_at = now().checked_sub(OLD).ok()?;
        let request = signed_request(&client, &url, signer?, &id, signed_at, body).ok()?;
        Some(status(request).await)
    };
    let (unsigned, wrong_method, wrong_path, old) =
        tokio::join!(status(post(&url)), status(client.get(url.clone())), status(post(&other_path)), old,);
    Ok(Url { url: text.to_owned(), unsigned, wrong_method, wrong_path, old })
}

/// The status of the answer to a request.
pub(super) async fn status(request: reqwest::RequestBuilder) -> Answer {
    match request.send().await {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) if error.is_timeout() => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        Err(error) => Err(with_causes(&error.without_url())),
    }
}

/// A synthetic event: its type is invented, so that it is kept with the events that have no handler.
pub(super) fn event_body(now: Timestamp) -> String {
    let timestamp = now.round(jiff::Unit::Second).unwrap_or(now);
    let event = serde_json::json!({
        "object": "event",
        "type": "example.smoke",
        "api_version": "2022-11-15",
        "timestamp": timestamp.to_string(),
        "data": {},
    });
    event.to_string()
}

/// A POST as LearnInk makes it.
pub(super) fn signed_request(
    client: &reqwest::Client,
    url: &reqwest::Url,
    signer: &Signer,
    id: &str,
    signed_at: Timestamp,
    body: String,
) -> anyhow::Result<reqwest::RequestBuilder> {
    let signature = signer.sign(id, signed_at.as_second(), body.as_bytes())?;
    Ok(webhook(client, url, id, signed_at.as_second(), &signature).body(body))
}

#[cfg(test)]
mod tests {
    use learnink_consumer::ledger::LedgerError;

    use super::*;

    #[test]
    fn a_redrive_policy_is_read_with_its_number_in_either_form() {
        let expected = Some(Redrive { target_arn: "arn".to_owned(), max_receive_count: 7 });
        for policy in [
            r#"{"deadLetterTargetArn":"arn","maxReceiveCount":7}"#,
            r#"{"deadLetterTargetArn":"arn","maxReceiveCount":"7"}"#,
        ] {
            assert_eq!(redrive_policy(policy), expected);
        }
        assert_eq!(redrive_policy("{}"), None);
    }

    #[test]
    fn a_right_that_is_missing_in_dynamodb_is_named_in_both_forms() {
        let denied = CallError::Denied { code: "AccessDeniedException".to_owned() };
        let call = ledger_unread(&LedgerError::new("delete an entry", denied));
        assert_eq!(call.to_string(), "the credentials may not call dynamodb:DeleteItem");
        let statement = "DynamoDB refused the statement (AccessDenied)";
        let refused = ledger_unread(&LedgerError::new("record what finished", statement));
        assert_eq!(refused.to_string(), "the credentials may not call dynamodb:PartiQLUpdate");
        let other = ledger_unread(&LedgerError::new("claim a message", CallError::TimedOut));
        assert!(other.to_string().contains("could not claim a message in the ledger"), "{other}");
    }

    #[test]
    fn the_synthetic_event_has_a_type_without_a_handler_and_a_time_in_seconds() {
        let body = event_body("2026-01-02T10:00:00.123Z".parse().unwrap());
        assert!(
            body.contains(r#""type":"example.smoke""#) && body.contains(r#""2026-01-02T10:00:00Z""#),
            "{body}"
        );
    }
}
