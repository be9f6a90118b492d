//! The signing secrets: where they come from, how long they are kept, when they are read again.
//!
//! A rotation needs no deploy. In Secrets Manager the new value becomes `AWSCURRENT` and the old one
//! `AWSPREVIOUS`, and both are accepted. What is held is read again when it is five minutes old, and
//! when a signature does not match, at most every 30 s, so that a flood of forgeries costs next to
//! nothing. Whatever fails, the secrets in hand stay.
//!
//! All of it happens within an invocation, because Lambda freezes what is left over: of age beside the
//! call to SQS, so that nobody waits, and after a mismatch before the answer, so that the first webhook
//! with a new signature is not refused.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};

use crate::aws::{CallError, within_limits};
use crate::verify::{SecretError, Verifier};

/// Secrets that are held for longer are read again.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_mins(5);

/// No two readings follow each other more closely, whatever asks for them.
pub const BETWEEN_READINGS: SignedDuration = SignedDuration::from_secs(30);

/// How long a request may wait for a reading.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The signing secrets in use.
pub struct SigningSecrets {
    store: Option<SecretsManager>,
    held: Mutex<Held>,
}

/// What is held, and since when.
struct Held {
    verifier: Arc<Verifier>,
    read_at: Timestamp,
    tried_at: Timestamp,
}

/// What asks for the secrets to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// They may have been held for long enough.
    Age,
    /// A signature matched none of them.
    Mismatch,
}

/// What came of reading the secrets again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refresh {
    /// There are new ones, or the same ones again.
    Read,
    /// They could not be read; the old ones stay.
    Failed(LoadError),
}

/// The signing secrets could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Secrets Manager did not hand them over.
    #[error("reading the signing secret from Secrets Manager: {0}")]
    Call(#[from] CallError),
    /// The value is binary.
    #[error("the signing secret in Secrets Manager is binary; store `whsec_...` as plain text")]
    NotText,
    /// The value is no signing secret.
    #[error("the signing secret in Secrets Manager: {0}")]
    Unusable(#[from] SecretError),
}

impl SigningSecrets {
    /// Secrets that never change.
    pub fn fixed(verifier: Verifier) -> Self {
        Self::holding(None, verifier, Timestamp::UNIX_EPOCH)
    }

    /// The secrets in `store`, read now and from time to time.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when there are none: better no receiver than one that refuses everybody.
    pub async fn load(store: SecretsManager, now: Timestamp) -> Result<Self, LoadError> {
        let verifier = store.read().await?;
        Ok(Self::holding(Some(store), verifier, now))
    }

    fn holding(store: Option<SecretsManager>, verifier: Verifier, now: Timestamp) -> Self {
        let held = Held { verifier: Arc::new(verifier), read_at: now, tried_at: now };
        Self { store, held: Mutex::new(held) }
    }

    /// The secrets in hand.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.with_held(|held| held.verifier.clone())
    }

    /// Reads the secrets again where it is time to. Of several that ask at once, one reads.
    pub async fn refresh(&self, occasion: Occasion, now: Timestamp) -> Option<Refresh> {
        let store = self.store.as_ref()?;
        let due = self.with_held(|held| {
            let due = is_due(occasion, held.read_at, held.tried_at, now);
            if due {
                held.tried_at = now;
            }
            due
        });
        if !due {
            return None;
        }
        let read = tokio::time::timeout(LONGEST_WAIT, Box::pin(store.read())).await;
        Some(match read.unwrap_or(Err(LoadError::Call(CallError::TimedOut))) {
            Ok(verifier) => {
                self.with_held(|held| {
                    held.verifier = Arc::new(verifier);
                    held.read_at = now;
                });
                Refresh::Read
            }
            Err(error) => {
                tracing::warn!(%error, "could not read the signing secret again; the one in hand stays");
                Refresh::Failed(error)
            }
        })
    }

    fn with_held<T>(&self, work: impl FnOnce(&mut Held) -> T) -> T {
        // Nothing that is done under the lock can panic halfway.
        work(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether it is time to read the secrets again. A clock that went backwards makes it so.
fn is_due(occasion: Occasion, read_at: Timestamp, tried_at: Timestamp, now: Timestamp) -> bool {
    let elapsed = |since: Timestamp| now.duration_since(since).abs();
    let rested = elapsed(tried_at) >= BETWEEN_READINGS;
    match occasion {
        Occasion::Age => rested && elapsed(read_at) >= FRESH_FOR,
        Occasion::Mismatch => rested,
    }
}

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningSecrets").field("store", &self.store).finish_non_exhaustive()
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

/// A secret in AWS Secrets Manager: the signing secret as plain text, or several separated by spaces.
#[derive(Debug, Clone)]
pub struct SecretsManager {
    client: Client,
    secret_id: String,
}

impl SecretsManager {
    /// The secret with this name or ARN, with the receiver's time limits instead of those in `config`.
    pub fn new(config: &SdkConfig, secret_id: impl Into<String>) -> Self {
        Self { client: Client::new(&within_limits(config)), secret_id: secret_id.into() }
    }

    /// Reads the value in use and, where there is one, the value that it has replaced.
    async fn read(&self) -> Result<Verifier, LoadError> {
        let (current, previous) = join(self.value("AWSCURRENT"), self.value("AWSPREVIOUS")).await;
        let mut verifier = Verifier::new(&current?)?;
        let previous = match previous {
            // A secret that was never changed has one value.
            Err(LoadError::Call(CallError::NotFound { .. })) => return Ok(verifier),
            Err(LoadError::Call(error)) => return Err(error.into()),
            Err(error) => Err(error),
            Ok(previous) => verifier.add_previous(&previous).map_err(LoadError::from),
        };
        // The value that was replaced may be what was wrong. Nothing is signed with it.
        if let Err(error) = previous {
            tracing::warn!(%error, "ignored the value that the signing secret had before");
        }
        Ok(verifier)
    }

    async fn value(&self, stage: &str) -> Result<String, LoadError> {
        let request = self.client.get_secret_value().secret_id(&self.secret_id).version_stage(stage);
        let answer = request.send().await.map_err(|error| CallError::from(&error))?;
        answer.secret_string.ok_or(LoadError::NotText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(occasion: Occasion, read_s: i64, tried_s: i64) -> bool {
        let ago = |seconds| Timestamp::from_second(1_700_000_000 - seconds).unwrap();
        is_due(occasion, ago(read_s), ago(tried_s), ago(0))
    }

    #[test]
    fn secrets_are_read_again_when_they_are_five_minutes_old() {
        assert!(!due(Occasion::Age, 299, 299));
        assert!(due(Occasion::Age, 300, 300));
        assert!(!due(Occasion::Age, 300, 29), "a failed reading is not repeated at once");
        assert!(due(Occasion::Age, 300, 30));
    }

    #[test]
    fn a_mismatch_has_them_read_again_every_30_seconds_at_most() {
        assert!(!due(Occasion::Mismatch, 29, 29));
        assert!(due(Occasion::Mismatch, 30, 30));
    }

    #[test]
    fn a_clock_that_went_back_does_not_keep_them_forever() {
        assert!(due(Occasion::Age, -300, -300) && due(Occasion::Mismatch, -30, -30));
    }

    #[test]
    fn nothing_prints_a_secret() {
        let verifier = Verifier::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let printed = format!("{:?}", SigningSecrets::fixed(verifier));
        assert!(!printed.contains("MfKQ9r8G"), "{printed}");
    }
}
