//! The secret with which the sender knows us: where it comes from, and how long it is kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use jiff::{SignedDuration, Timestamp};
use learnink_webhook::config::{ConfigError, optional, required};
use learnink_webhook::error::{service_code, with_causes};
use tokio::sync::Mutex;

/// The variable that holds the secret itself.
pub(super) const VARIABLE: &str = "LEARNINK_PUSH_SECRET";

/// The variable that names the secret in AWS Secrets Manager.
const ID_VARIABLE: &str = "LEARNINK_PUSH_SECRET_ID";

/// Where to look when the sender does not accept the secret.
pub(super) const WHERE_TO_LOOK: &str =
    "LEARNINK_PUSH_SECRET, or the secret that LEARNINK_PUSH_SECRET_ID names";

/// A secret from Secrets Manager is read again after this time, so that a rotation needs no deploy.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(5);

/// After a reading that failed, the next one waits for this time, as long as there is a secret in hand.
const BETWEEN_FAILURES: SignedDuration = SignedDuration::from_secs(30);

/// How long a reading may take: the notifications wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// A secret in the shape that its sender takes.
pub(super) trait Credential: Sized + Send + Sync {
    /// Completes "set it to ...".
    const HOLDS: &'static str;

    /// Checks and reads it.
    fn parse(text: &str) -> Result<Self, Unusable>;
}

/// What is wrong with a secret, without anything of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) &'static str);

/// Where a secret comes from.
pub(super) enum Source<T> {
    /// `LEARNINK_PUSH_SECRET`.
    Environment(Arc<T>),
    /// AWS Secrets Manager: the name or ARN in `LEARNINK_PUSH_SECRET_ID`.
    SecretsManager(String),
}

impl<T: Credential> Source<T> {
    /// Reads and checks the variables. Of both, the secret itself wins.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        if let Some(secret) = optional(&variable, VARIABLE) {
            let unusable = |Unusable(problem)| {
                ConfigError::unusable(VARIABLE, format!("{problem}; set it to {}", T::HOLDS))
            };
            return Ok(Self::Environment(Arc::new(T::parse(&secret).map_err(unusable)?)));
        }
        let holds = "the name or ARN of the push sender's secret in AWS Secrets Manager; \
                     `LEARNINK_PUSH_SECRET` with the secret itself replaces it";
        Ok(Self::SecretsManager(required(&variable, ID_VARIABLE, holds)?))
    }
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Environment(secret) => Self::Environment(secret.clone()),
            Self::SecretsManager(id) => Self::SecretsManager(id.clone()),
        }
    }
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(_) => f.write_str("Environment([secret])"),
            Self::SecretsManager(id) => f.debug_tuple("SecretsManager").field(id).finish(),
        }
    }
}

/// The secret could not be had. Retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretError {
    /// Secrets Manager did not hand it over; its error code, or `no answer`.
    #[error("cannot read the secret that LEARNINK_PUSH_SECRET_ID names ({0})")]
    Call(String),
    #[error("the secret that LEARNINK_PUSH_SECRET_ID names is binary; store it as text")]
    NotText,
    #[error("the secret that LEARNINK_PUSH_SECRET_ID names cannot be used")]
    Unusable(#[from] Unusable),
}

/// The secret in use.
pub(super) struct Secret<T> {
    /// The client, and the secret's name or ARN; none where the secret never changes.
    store: Option<(Client, String)>,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    value: Option<Arc<T>>,
    /// When it is to be read again.
    due: Timestamp,
}

impl<T: Credential> Secret<T> {
    /// The secret of `source`, which is read when it is first needed.
    pub(super) fn new(source: &Source<T>, aws: &SdkConfig) -> Self {
        let (store, value) = match source {
            Source::Environment(secret) => (None, Some(secret.clone())),
            Source::SecretsManager(id) => (Some((Client::new(aws), id.clone())), None),
        };
        Self { store, held: Mutex::new(Held { value, due: Timestamp::MIN }) }
    }

    /// The secret: the one in hand, or a new one where it is time to read it. A reading that fails leaves the
    /// one in hand in use.
    pub(super) async fn get(&self, now: Timestamp) -> Result<Arc<T>, SecretError> {
        let mut held = self.held.lock().await;
        let in_hand = held.value.clone();
        let store = match (&in_hand, &self.store) {
            (Some(value), None) => return Ok(value.clone()),
            (Some(value), Some(_)) if !is_due(held.due, now) => return Ok(value.clone()),
            (_, Some(store)) => store,
            (None, None) => return Err(SecretError::Call("no answer".to_owned())),
        };
        match (read::<T>(store).await, in_hand) {
            (Ok(value), _) => {
                let value = Arc::new(value);
                *held = Held { value: Some(value.clone()), due: now + FRESH_FOR };
                Ok(value)
            }
            (Err(error), Some(value)) => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "could not read the push secret again; the one in hand stays");
                held.due = now + BETWEEN_FAILURES;
                Ok(value)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Has it read again at the next occasion, because the sender did not accept it.
    pub(super) async fn doubt(&self) {
        self.held.lock().await.due = Timestamp::MIN;
    }
}

/// Whether it is time to read the secret again. A clock that went backwards makes it so.
fn is_due(due: Timestamp, now: Timestamp) -> bool {
    now >= due || due.duration_since(now) > FRESH_FOR
}

async fn read<T: Credential>((client, id): &(Client, String)) -> Result<T, SecretError> {
    let request = client.get_secret_value().secret_id(id).version_stage("AWSCURRENT");
    let Ok(answer) = tokio::time::timeout(LONGEST_WAIT, Box::pin(request.send())).await else {
        return Err(SecretError::Call("no answer".to_owned()));
    };
    let answer = answer.map_err(|error| SecretError::Call(code(error.code())))?;
    let secret = answer.secret_string.ok_or(SecretError::NotText)?;
    Ok(T::parse(&secret)?)
}

fn code(code: Option<&str>) -> String {
    code.and_then(service_code).unwrap_or("no answer").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_again_after_five_minutes_or_when_the_clock_went_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(!is_due(at(300), at(0)) && !is_due(at(300), at(299)));
        assert!(is_due(at(300), at(300)));
        assert!(is_due(at(300), at(-1)));
        assert!(is_due(Timestamp::MIN, at(0)));
    }

    #[test]
    fn what_is_no_error_code_is_not_repeated() {
        assert_eq!(code(Some("AccessDeniedException")), "AccessDeniedException");
        for other in [None, Some("<html>secret</html>")] {
            assert_eq!(code(other), "no answer");
        }
    }
}
