//! Secrets of the handlers: from a variable, or from AWS Secrets Manager while the program runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use jiff::Timestamp;
use learnink_webhook::HandlerError;
use learnink_webhook::config::{ConfigError, unquoted};
use learnink_webhook::error::with_causes;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::cached::{Cached, RefreshCause};
use crate::env::Env;
use crate::error::CallError;
use crate::json_service::{CallLimits, JsonService, Protocol, domain};

/// How long a handler waits for a secret.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// A secret in the shape that its user needs.
pub trait Credential: Sized + Send + Sync + 'static {
    /// Completes "set it to ...", such as `the API token from the shop's settings`.
    const HOLDS: &'static str;

    /// Checks and reads the secret as it is stored.
    ///
    /// # Errors
    ///
    /// [`Unusable`], with the problem.
    fn parse(text: &str) -> Result<Self, Unusable>;
}

/// The problem with a secret, without quoting the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub &'static str);

/// An API key or a token: printable ASCII characters without spaces, so that it fits into an HTTP header. `Debug`
/// does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token itself, only for the request that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Credential for Token {
    const HOLDS: &'static str = "the token or API key alone";

    fn parse(text: &str) -> Result<Self, Unusable> {
        let token = unquoted(text);
        if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(token.to_owned()))
        } else {
            Err(Unusable(
                "it has a space, an invisible character or another character that a key cannot have",
            ))
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([secret])")
    }
}

/// A secret of a handler; [`Env::secret`] makes it. Cloned, it is shared. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret<T>(Arc<Inner<T>>);

struct Inner<T> {
    /// The variable that holds the secret. The same name with `_ID` holds its name in Secrets Manager.
    variable: &'static str,
    source: Source<T>,
}

enum Source<T> {
    /// The secret itself was in the variable, and never changes.
    Variable(Arc<T>),
    SecretsManager {
        store: Box<SecretsManager>,
        /// Empty until the secret is needed.
        cached: OnceCell<Cached<T>>,
        is_doubted: AtomicBool,
    },
}

impl<T: Credential> Secret<T> {
    /// Checks the variable. A secret in Secrets Manager is not read yet.
    pub(crate) fn from_env(env: &Env, variable: &'static str) -> Result<Self, ConfigError> {
        let source = if let Some(secret) = env.text(variable) {
            let unusable = |Unusable(problem)| {
                ConfigError::unusable(variable, format!("{problem}; set it to {}", T::HOLDS))
            };
            Source::Variable(Arc::new(T::parse(&secret).map_err(unusable)?))
        } else {
            let id_variable = format!("{variable}_ID");
            let id = env.text(&id_variable).ok_or_else(|| {
                let holds = format!(
                    "the name or ARN of a secret in AWS Secrets Manager, or set {variable} to the secret itself"
                );
                ConfigError::missing(id_variable.clone(), holds)
            })?;
            let store = Box::new(SecretsManager::new(env.aws(id_variable)?, id));
            Source::SecretsManager { store, cached: OnceCell::new(), is_doubted: AtomicBool::new(false) }
        };
        Ok(Self(Arc::new(Inner { variable, source })))
    }

    /// The secret. One in Secrets Manager is read when it is first needed. Once it is held, it is read again when it is
    /// five minutes old and after [`Secret::doubt`], every 30 s at most, and a reading that fails leaves it in use. A
    /// call takes [`LONGEST_WAIT`] at most.
    ///
    /// # Errors
    ///
    /// A retryable [`HandlerError`] if none is held yet, and Secrets Manager does not return a usable one.
    pub async fn get(&self, now: Timestamp) -> Result<Arc<T>, HandlerError> {
        let (store, cached, is_doubted) = match &self.0.source {
            Source::Variable(secret) => return Ok(secret.clone()),
            Source::SecretsManager { store, cached, is_doubted } => (store, cached, is_doubted),
        };
        let read = async || self.parsed(store.value(CURRENT).await);
        let mut is_new = false;
        let first = async || {
            is_new = true;
            Ok::<_, SecretError>(Cached::new(read().await?, now))
        };
        // Around all of it: who waits for another one's reading waits no longer than for its own.
        let held = tokio::time::timeout(LONGEST_WAIT, cached.get_or_try_init(first)).await;
        let held = held.unwrap_or_else(|_| Err(self.failed(CallError::TimedOut.into())));
        let cached = held.map_err(HandlerError::quoting)?;
        if !is_new {
            let is_not_accepted = is_doubted.load(Ordering::Relaxed);
            let cause = if is_not_accepted { RefreshCause::NotAccepted } else { RefreshCause::Age };
            let read_again = async || {
                let reading = tokio::time::timeout(LONGEST_WAIT, read()).await;
                reading.unwrap_or_else(|_| Err(self.failed(CallError::TimedOut.into())))
            };
            if let Some(refreshed) = cached.refresh(cause, now, read_again).await {
                is_doubted.store(false, Ordering::Relaxed);
                if let Err(error) = refreshed {
                    let reason = with_causes(&error);
                    tracing::warn!(reason, "could not read a secret again; the one in use stays");
                }
            }
        }
        Ok(cached.value())
    }

    fn parsed(&self, value: Result<String, ReadError>) -> Result<T, SecretError> {
        let value = value.map_err(|source| self.failed(source))?;
        T::parse(&value).map_err(|source| SecretError::Unusable { variable: self.0.variable, source })
    }
}

impl<T> Secret<T> {
    fn failed(&self, source: ReadError) -> SecretError {
        SecretError::Read { variable: self.0.variable, source }
    }

    /// Makes the next [`Secret::get`] read the secret again, because it was not accepted: a new one may be stored.
    pub fn doubt(&self) {
        if let Source::SecretsManager { is_doubted, .. } = &self.0.source {
            is_doubted.store(true, Ordering::Relaxed);
        }
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.source {
            Source::Variable(_) => "[secret]",
            Source::SecretsManager { store, .. } => &store.secret_id,
        };
        f.debug_tuple("Secret").field(&self.0.variable).field(&source).finish()
    }
}

/// A secret could not be read, or is not usable. Both are retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum SecretError {
    #[error("cannot read the secret that {variable}_ID names")]
    Read { variable: &'static str, source: ReadError },
    #[error("the secret that {variable}_ID names cannot be used")]
    Unusable { variable: &'static str, source: Unusable },
}

/// The stage of the value in use. Source: AWS Secrets Manager API reference, `GetSecretValue`.
pub const CURRENT: &str = "AWSCURRENT";

/// The stage of the previous value.
pub const PREVIOUS: &str = "AWSPREVIOUS";

/// Source: AWS Secrets Manager API reference, `GetSecretValue`, "Sample Request".
const SECRETS_MANAGER: Protocol = Protocol {
    service_id: "Secrets Manager",
    signing_name: "secretsmanager",
    target: "secretsmanager",
    content_type: "application/x-amz-json-1.1",
};

/// A secret in AWS Secrets Manager.
#[derive(Debug, Clone)]
pub struct SecretsManager {
    service: JsonService,
    secret_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetSecretValue<'a> {
    secret_id: &'a str,
    version_stage: &'a str,
}

/// It has no `Debug`: it is the secret.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SecretValue {
    secret_string: Option<String>,
}

/// Secrets Manager did not return a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The value is binary.
    #[error("the secret is binary; store it as plain text")]
    NotText,
}

impl SecretsManager {
    /// The secret with this name or ARN, with region, credentials and endpoint of `aws`.
    pub fn new(aws: &SdkConfig, secret_id: impl Into<String>) -> Self {
        let region = aws.region().map_or("", AsRef::as_ref);
        let endpoint = format!("https://secretsmanager.{region}.{}", domain(region));
        let service = JsonService::new(aws, SECRETS_MANAGER, &endpoint, CallLimits::USUAL);
        Self { service, secret_id: secret_id.into() }
    }

    /// The same secret, read within other limits.
    #[must_use]
    pub fn with_limits(self, limits: CallLimits) -> Self {
        Self { service: self.service.with_limits(limits), ..self }
    }

    /// Reads the value of a stage: [`CURRENT`] or [`PREVIOUS`].
    ///
    /// # Errors
    ///
    /// [`ReadError`] if there is none, or Secrets Manager did not answer within the limits.
    pub async fn value(&self, stage: &str) -> Result<String, ReadError> {
        let input = GetSecretValue { secret_id: &self.secret_id, version_stage: stage };
        let answer = self.service.call("GetSecretValue", &input).await?;
        let value: SecretValue = serde_json::from_slice(&answer).map_err(|_| CallError::Unconfirmed)?;
        value.secret_string.ok_or(ReadError::NotText)
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;

    use super::*;

    #[test]
    fn a_token_is_taken_without_what_surrounds_it_and_never_printed() {
        for stored in ["abc", "\u{feff}abc\n", "\"abc\""] {
            assert_eq!(Token::parse(stored).unwrap().expose(), "abc");
        }
        for stored in ["", "\"\"", "a b", "a\u{200b}b", "ä"] {
            assert!(Token::parse(stored).is_err(), "{stored:?}");
        }
        assert_eq!(format!("{:?}", Token::parse("abc").unwrap()), "Token([secret])");
    }

    #[test]
    fn of_both_variables_the_one_with_the_secret_wins() {
        let env = Env::of([("SHOP_TOKEN", "abc"), ("SHOP_TOKEN_ID", "shop")]);
        let secret = Secret::<Token>::from_env(&env, "SHOP_TOKEN").unwrap();
        assert_eq!(format!("{secret:?}"), r#"Secret("SHOP_TOKEN", "[secret]")"#);
        let env = Env::of([("SHOP_TOKEN_ID", "shop"), ("AWS_REGION", "eu-west-1")]);
        let secret = Secret::<Token>::from_env(&env, "SHOP_TOKEN").unwrap();
        assert_eq!(format!("{secret:?}"), r#"Secret("SHOP_TOKEN", "shop")"#);
    }

    #[test]
    fn what_is_wrong_names_the_variable_and_what_belongs_there() {
        let error = |variables: &[(&str, &str)]| {
            let env = Env::of(variables.iter().copied());
            Secret::<Token>::from_env(&env, "SHOP_TOKEN").unwrap_err().to_string()
        };
        assert_eq!(
            error(&[]),
            "SHOP_TOKEN_ID is not set; set it to the name or ARN of a secret in AWS Secrets Manager, or set SHOP_TOKEN to \
             the secret itself"
        );
        assert_eq!(
            error(&[("SHOP_TOKEN", "a b")]),
            "SHOP_TOKEN cannot be used: it has a space, an invisible character or another character that a key cannot have; set it to \
             the token or API key alone"
        );
        assert_eq!(
            error(&[("SHOP_TOKEN_ID", "shop")]),
            "SHOP_TOKEN_ID cannot be used: it needs AWS, and AWS_REGION is not set; set it to the AWS region, which \
             Lambda sets"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ten_that_wait_for_the_first_reading_wait_no_longer_than_one() {
        // Nobody answers: connections are taken, and nothing more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let aws = crate::sdk_config(move |name| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
            _ => None,
        });
        let key = Credentials::new("key", "secret", None, None, "tests");
        let aws =
            aws.unwrap().into_builder().credentials_provider(SharedCredentialsProvider::new(key)).build();
        let env = Env::of([("SHOP_TOKEN_ID", "shop")]).with_aws(move || Ok(aws.clone()));
        let secret = Secret::<Token>::from_env(&env, "SHOP_TOKEN").unwrap();
        let began = tokio::time::Instant::now();
        let got = futures_util::future::join_all((0..10).map(|_| secret.get(Timestamp::UNIX_EPOCH))).await;
        assert!(got.iter().all(Result::is_err));
        assert!(began.elapsed() <= LONGEST_WAIT + Duration::from_millis(100), "{:?}", began.elapsed());
    }
}
