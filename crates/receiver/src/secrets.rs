//! The signing secrets: their source, how long they are kept, and when they are read again.
//!
//! A rotation needs no deploy. In Secrets Manager the new value becomes `AWSCURRENT` and the old one
//! `AWSPREVIOUS`, and both are accepted. [`Cached`] says when they are read again. A month-long flood of forgeries
//! costs less than a dollar for each busy execution environment: two calls every 30 s, at $0.05 for 10,000.
//!
//! Old secrets are refreshed concurrently with the call to SQS, so that no request waits for both in turn. After a
//! signature mismatch they are refreshed before the answer, so that the first webhook signed with a new secret is
//! accepted.
//!
//! The previous value is accepted until another one is stored. After a leak, store the new secret twice.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join;
use jiff::Timestamp;
use learnink_aws::secret::{CURRENT, PREVIOUS, ReadError};
use learnink_aws::{Cached, CallError, RefreshCause, SecretsManager};
use learnink_webhook::error::with_causes;

use crate::aws::LIMITS;
use crate::verify::{SecretError, Verifier};

/// How long a request may wait for a reading.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The signing secrets in use.
#[derive(Debug)]
pub struct SigningSecrets {
    /// `None` if the secrets never change.
    store: Option<SecretsManager>,
    cached: Cached<Verifier>,
}

/// The result of reading the secrets again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refresh {
    /// They were read, whether new or unchanged.
    Read,
    /// They could not be read; the old ones stay in use.
    Failed(LoadError),
}

/// The signing secrets could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The call to Secrets Manager failed.
    #[error("cannot read the signing secret from Secrets Manager")]
    Read(#[from] ReadError),
    /// The value is not a signing secret.
    #[error("the secret in Secrets Manager is not a valid signing secret")]
    Unusable(#[from] SecretError),
}

impl From<CallError> for LoadError {
    fn from(error: CallError) -> Self {
        Self::Read(error.into())
    }
}

impl SigningSecrets {
    /// Secrets that never change.
    pub fn fixed(verifier: Verifier) -> Self {
        Self { store: None, cached: Cached::new(verifier, Timestamp::UNIX_EPOCH) }
    }

    /// The secret in AWS Secrets Manager of this name or ARN: the signing secret as plain text, or several separated
    /// by spaces. It is read now and from time to time, with the receiver's time limits instead of those in `aws`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if there is none: a receiver that does not start is better than one that refuses every
    /// webhook.
    pub async fn load(aws: &SdkConfig, secret_id: &str, now: Timestamp) -> Result<Self, LoadError> {
        let store = SecretsManager::new(aws, secret_id).with_limits(LIMITS);
        let verifier = read(&store).await.combined(None)?;
        Ok(Self { store: Some(store), cached: Cached::new(verifier, now) })
    }

    /// The secrets in use.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.cached.value()
    }

    /// Reads the secrets again if it is time to. Of several concurrent callers, one reads.
    pub async fn refresh(&self, cause: RefreshCause, now: Timestamp) -> Option<Refresh> {
        let store = self.store.as_ref()?;
        let read_again = async || match tokio::time::timeout(LONGEST_WAIT, Box::pin(read(store))).await {
            Ok(reading) => reading.combined(Some(&self.verifier())),
            Err(_) => Err(CallError::TimedOut.into()),
        };
        Some(match self.cached.refresh(cause, now, read_again).await? {
            Ok(()) => Refresh::Read,
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "could not read the signing secret again; the one in use stays");
                Refresh::Failed(error)
            }
        })
    }
}

impl Refresh {
    /// The result's name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Failed(_) => "failed",
        }
    }
}

/// Reads the current and the previous value.
async fn read(store: &SecretsManager) -> Reading {
    let (current, previous) = join(store.value(CURRENT), store.value(PREVIOUS)).await;
    let parsed = |value: String| Ok(Verifier::new(&value)?);
    Reading {
        current: current.map_err(LoadError::from).and_then(parsed),
        previous: match previous {
            // A secret that was never changed has only one value.
            Err(ReadError::Call(CallError::NotFound { .. })) => Ok(None),
            other => other.map_err(LoadError::from).and_then(parsed).map(Some),
        },
    }
}

/// Secrets Manager's answers for both values.
struct Reading {
    current: Result<Verifier, LoadError>,
    previous: Result<Option<Verifier>, LoadError>,
}

impl Reading {
    /// The secrets to use from now on. If one value cannot be used, the other one and the secrets already held
    /// still are.
    fn combined(self, held: Option<&Verifier>) -> Result<Verifier, LoadError> {
        match (self.current, self.previous, held) {
            (Ok(current), Ok(Some(previous)), _) => Ok(current.and_previous(&previous)),
            (Ok(current), Ok(None), _) => Ok(current),
            (Ok(current), Err(error), held) => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "ignored the value that the signing secret had before");
                Ok(match held {
                    Some(held) => current.and_previous(held),
                    None => current,
                })
            }
            (Err(error), Ok(Some(previous)), None) => {
                let reason = with_causes(&error);
                tracing::error!(reason, "started with the value that the signing secret had before");
                Ok(previous.as_previous())
            }
            (Err(error), _, _) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// How many secrets are in use afterwards.
    fn combined(
        current: Option<&str>,
        previous: Result<Option<&str>, ()>,
        held: Option<&str>,
    ) -> Option<String> {
        let failed = LoadError::from(CallError::TimedOut);
        let verifier = |secret: &str| Verifier::new(secret).unwrap();
        let reading = Reading {
            current: current.map(verifier).ok_or(failed.clone()),
            previous: previous.map(|value| value.map(verifier)).map_err(|()| failed),
        };
        reading.combined(held.map(verifier).as_ref()).ok().map(|verifier| format!("{verifier:?}"))
    }

    #[test]
    fn a_half_that_cannot_be_used_costs_nothing_that_something_else_can_prove() {
        let (one, two) = (Some("Verifier(1 secrets)"), Some("Verifier(2 secrets)"));
        for (current, previous, held, expected) in [
            (Some(NEW), Ok(Some(OLD)), None, two),
            (Some(NEW), Ok(None), None, one),
            (Some(NEW), Ok(None), Some(OLD), one),
            (Some(NEW), Err(()), None, one),
            (Some(NEW), Err(()), Some(OLD), two),
            (Some(NEW), Err(()), Some(NEW), one),
            (None, Ok(Some(OLD)), None, one),
            (None, Ok(Some(OLD)), Some(OLD), None),
            (None, Ok(None), None, None),
            (None, Err(()), None, None),
            (None, Err(()), Some(OLD), None),
        ] {
            assert_eq!(combined(current, previous, held).as_deref(), expected);
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let verifier = Verifier::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let printed = format!("{:?}", SigningSecrets::fixed(verifier));
        assert!(!printed.contains("MfKQ9r8G"), "{printed}");
    }
}
