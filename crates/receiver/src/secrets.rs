//! The signing secrets: where they come from, how long they are kept, when they are read again.
//!
//! A rotation needs no deploy. In Secrets Manager the new value becomes `AWSCURRENT` and the old one
//! `AWSPREVIOUS`, and both are accepted. What is held is read again when it is five minutes old, and
//! when a signature does not match, at most every 30 s. A flood of forgeries that lasts a whole month costs less
//! than a dollar for each execution environment that it keeps busy: two calls every 30 s, at $0.05 for 10,000.
//! Whatever fails, the secrets in hand stay.
//!
//! All of it happens within an invocation, because Lambda freezes what is left over: of age beside the
//! call to SQS, so that nobody waits for one after the other, and after a mismatch before the answer, so
//! that a webhook with a new signature need not be refused first.
//!
//! The value before stays good until the next one is stored. After a leak, store the new secret twice.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use learnink_webhook::error::with_causes;

use crate::aws::{CallError, within_limits};
use crate::verify::{SecretError, Verifier};

/// Secrets that are held for longer are read again.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_mins(5);

/// No two readings follow each other more closely, whatever asks for them.
pub const BETWEEN_READINGS: SignedDuration = SignedDuration::from_secs(30);

/// How long a request may wait for a reading.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The signing secrets in use.
pub struct SigningSecrets {
    store: Option<SecretsManager>,
    held: Mutex<Held>,
}

/// What is held, and since when.
struct Held {
    verifier: Arc<Verifier>,
    read_at: Timestamp,
    /// When they were last read again, or could not be.
    tried_at: Option<Timestamp>,
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
    #[error("cannot read the signing secret from Secrets Manager")]
    Call(#[from] CallError),
    /// The value is binary.
    #[error("the signing secret in Secrets Manager is binary; store `whsec_...` as plain text")]
    NotText,
    /// The value is no signing secret.
    #[error("what Secrets Manager holds is no signing secret")]
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
        let verifier = store.read().await.combined(None)?;
        Ok(Self::holding(Some(store), verifier, now))
    }

    fn holding(store: Option<SecretsManager>, verifier: Verifier, now: Timestamp) -> Self {
        let held = Held { verifier: Arc::new(verifier), read_at: now, tried_at: None };
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
                held.tried_at = Some(now);
            }
            due
        });
        if !due {
            return None;
        }
        let reading = tokio::time::timeout(LONGEST_WAIT, Box::pin(store.read())).await;
        let held = self.verifier();
        let read = match reading {
            Ok(reading) => reading.combined(Some(&held)),
            Err(_) => Err(LoadError::Call(CallError::TimedOut)),
        };
        Some(match read {
            Ok(verifier) => {
                self.with_held(|held| {
                    held.verifier = Arc::new(verifier);
                    held.read_at = now;
                });
                Refresh::Read
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "could not read the signing secret again; the one in hand stays");
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
fn is_due(occasion: Occasion, read_at: Timestamp, tried_at: Option<Timestamp>, now: Timestamp) -> bool {
    let elapsed = |since: Timestamp| now.duration_since(since).abs();
    let rested = tried_at.is_none_or(|tried_at| elapsed(tried_at) >= BETWEEN_READINGS);
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

    /// Reads the value in use and the value that it has replaced.
    async fn read(&self) -> Reading {
        let (current, previous) = join(self.value("AWSCURRENT"), self.value("AWSPREVIOUS")).await;
        let parsed = |value: String| Ok(Verifier::new(&value)?);
        Reading {
            current: current.and_then(parsed),
            previous: match previous {
                // A secret that was never changed has one value.
                Err(LoadError::Call(CallError::NotFound { .. })) => Ok(None),
                other => other.and_then(parsed).map(Some),
            },
        }
    }

    async fn value(&self, stage: &str) -> Result<String, LoadError> {
        let request = self.client.get_secret_value().secret_id(&self.secret_id).version_stage(stage);
        let answer = request.send().await.map_err(|error| CallError::from(&error))?;
        answer.secret_string.ok_or(LoadError::NotText)
    }
}

/// What Secrets Manager said to both questions.
struct Reading {
    current: Result<Verifier, LoadError>,
    previous: Result<Option<Verifier>, LoadError>,
}

impl Reading {
    /// The secrets to go on with: a half that cannot be used costs nothing that the other, or what is
    /// held already, can prove.
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

    /// How many secrets there are to go on with.
    fn combined(
        current: Option<&str>,
        previous: Result<Option<&str>, ()>,
        held: Option<&str>,
    ) -> Option<String> {
        let failed = LoadError::Call(CallError::TimedOut);
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

    fn due(occasion: Occasion, read_s: i64, tried_s: impl Into<Option<i64>>) -> bool {
        let ago = |seconds| Timestamp::from_second(1_700_000_000 - seconds).unwrap();
        is_due(occasion, ago(read_s), tried_s.into().map(ago), ago(0))
    }

    #[test]
    fn secrets_are_read_again_when_they_are_five_minutes_old() {
        assert!(!due(Occasion::Age, 299, None));
        assert!(due(Occasion::Age, 300, 300));
        assert!(!due(Occasion::Age, 300, 29), "a failed reading is not repeated at once");
        assert!(due(Occasion::Age, 300, 30));
    }

    #[test]
    fn a_mismatch_has_them_read_again_every_30_seconds_at_most() {
        assert!(!due(Occasion::Mismatch, 29, 29));
        assert!(due(Occasion::Mismatch, 30, 30));
        assert!(due(Occasion::Mismatch, 1, None), "the first may be a secret that was stored just now");
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
