//! What a look at a deployed stack found, before anything is judged.

use jiff::SignedDuration;
use learnink_aws::CallError;
use learnink_aws::secret::ReadError;
use learnink_receiver::Verifier;

use crate::aws::cloudwatch::Alarm;
use crate::aws::lambda::{AccountLimit, Alias, Configuration, Mapping};
use crate::aws::request::RequestError;
use crate::aws::sns::Subscriptions;
use crate::secrets::without_wrapping;
use crate::unread::{Read, Unread};

/// All that was found.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The state of the stack's last operation.
    pub(super) status: String,
    /// The outputs that a stack of this version has and this one has not.
    pub(super) missing_outputs: Vec<&'static str>,
    pub(super) receiver_concurrency: Option<u64>,
    pub(super) consumer_concurrency: Option<u64>,
    /// How far AWS's clock is ahead of this machine's, less up to a second.
    pub(super) clock_ahead: Option<SignedDuration>,
    pub(super) signing_secret: Read<NamedSecret>,
    /// `None` if the stack has none.
    pub(super) push_secret: Option<Read<NamedSecret>>,
    /// `None` if the stack has none.
    pub(super) forward_secret: Option<Read<NamedSecret>>,
    /// The sender of push notifications, as the parameter `Push` has it.
    pub(super) push_sender: Option<String>,
    pub(super) receiver: Read<Function>,
    pub(super) consumer: Read<Function>,
    pub(super) account_limit: Read<AccountLimit>,
    pub(super) mappings: Read<Vec<Mapping>>,
    pub(super) queue: Read<Queue>,
    /// How many messages are on the dead-letter queue.
    pub(super) dead_letters: Read<usize>,
    /// Whether the ledger takes the consumer's statements.
    pub(super) ledger: Read<()>,
    pub(super) url: Read<Url>,
    pub(super) topic: Read<Topic>,
    pub(super) alarms: Read<Vec<Alarm>>,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedSecret {
    pub(super) name: String,
    pub(super) state: SecretState,
}

/// What a stored secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretState {
    Usable,
    /// The stack has made it.
    Random,
    /// The problem, without the value.
    Unusable(String),
    /// It does not exist, or has no value yet.
    NoValue,
    /// Somebody has deleted it, and it can still be restored.
    Deleting,
}

impl NamedSecret {
    /// A secret as Secrets Manager answered for it, judged by `parse`.
    pub(super) fn of(
        name: &str,
        answer: Result<&str, ReadError>,
        parse: impl Fn(&str) -> SecretState,
    ) -> Read<Self> {
        const ACTION: &str = "secretsmanager:GetSecretValue";
        let state = match answer {
            Ok(value) => parse(value),
            Err(ReadError::NotText) => SecretState::Unusable(ReadError::NotText.to_string()),
            Err(ReadError::Call(CallError::NotFound { .. })) => SecretState::NoValue,
            // Source: AWS Secrets Manager API reference, `GetSecretValue`.
            Err(ReadError::Call(CallError::Failed { code, .. })) if code == "InvalidRequestException" => {
                SecretState::Deleting
            }
            Err(ReadError::Call(error)) => {
                return Err(Unread::call(ACTION, &RequestError::of_sdk(ACTION, error)));
            }
        };
        Ok(Self { name: name.to_owned(), state })
    }
}

/// What a signing secret is. The receiver takes one without `whsec_`, but LearnInk shows none: it is the random one.
/// An event that is signed with that one would stay in the archive, and nobody could verify it later.
pub(super) fn signing_secret_state(value: &str) -> SecretState {
    match Verifier::new(value) {
        Err(error) => SecretState::Unusable(error.to_string()),
        Ok(_) if !without_wrapping(value).starts_with("whsec_") => SecretState::Random,
        Ok(_) => SecretState::Usable,
    }
}

/// One of the two functions.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: String,
    /// The alias `live`; `None` if there is none.
    pub(super) live: Read<Option<Alias>>,
    /// The version that the alias names; `None` if there is none.
    pub(super) live_version: Read<Option<Configuration>>,
    /// The newest code; `None` if the function does not exist.
    pub(super) newest: Read<Option<Configuration>>,
    /// The environments that are reserved for it.
    pub(super) reserved: Read<Option<u64>>,
}

/// The queue between receiver and consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) url: String,
    pub(super) arn: String,
    /// The ARN of the queue where its dead letters should go.
    pub(super) expected_target: String,
    pub(super) visibility_timeout_s: Option<u32>,
    pub(super) redrive: Option<Redrive>,
}

/// A queue's rule for messages that are received too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redrive {
    pub(super) target_arn: String,
    pub(super) max_receive_count: u32,
}

/// How the public URL answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) url: String,
    /// A POST without a signature.
    pub(super) unsigned: Answer,
    /// A GET.
    pub(super) wrong_method: Answer,
    /// A POST to another path.
    pub(super) wrong_path: Answer,
    /// A POST with a genuine signature of ten minutes ago; `None` if there is no secret to sign with.
    pub(super) old: Option<Answer>,
}

/// A status, or why there is none.
pub(super) type Answer = Result<u16, String>;

/// The topic of the alarms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) arn: String,
    pub(super) subscriptions: Subscriptions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_secret_is_told_from_the_endpoints_and_from_one_that_cannot_be_used() {
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(signing_secret_state(good), SecretState::Usable);
        assert_eq!(
            signing_secret_state(&format!("{good} whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")),
            SecretState::Usable
        );
        assert_eq!(signing_secret_state("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), SecretState::Random);
        for value in ["", "whsec_c2hvcnQ=", r#"{"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#] {
            let SecretState::Unusable(why) = signing_secret_state(value) else { panic!("{value}") };
            assert!(!why.contains("MfKQ9r8G"), "{why}");
        }
    }

    #[test]
    fn what_secrets_manager_answers_is_told_apart() {
        let of = |answer| NamedSecret::of("s", answer, signing_secret_state).map(|secret| secret.state);
        let failed = |error: CallError| of(Err(ReadError::Call(error)));
        let code = |code: &str| code.to_owned();
        assert_eq!(
            failed(CallError::NotFound { code: code("ResourceNotFoundException") }),
            Ok(SecretState::NoValue)
        );
        let deleting = CallError::Failed { status: 400, code: code("InvalidRequestException") };
        assert_eq!(failed(deleting), Ok(SecretState::Deleting));
        let denied = failed(CallError::Denied { code: code("AccessDeniedException") }).unwrap_err();
        assert_eq!(denied.to_string(), "the credentials may not call secretsmanager:GetSecretValue");
        let late = failed(CallError::TimedOut).unwrap_err();
        assert_eq!(late.to_string(), "secretsmanager:GetSecretValue failed: AWS did not answer in time");
        assert!(matches!(of(Err(ReadError::NotText)), Ok(SecretState::Unusable(_))));
    }
}
