//! A secret in Secrets Manager, as an operator reads and changes it: in AWS, or in that of `learnink dev`.
//!
//! `PutSecretValue` alone does not ask which value it replaces: of two operators, the later one would win unnoticed.
//! So a value is first stored with the stage `AWSPENDING`, which no function reads. Then one call moves `AWSCURRENT`
//! from the version that was read before to the new one. AWS refuses this call if another version has the stage by
//! then. Source: AWS Secrets Manager API reference, `UpdateSecretVersionStage`, `RemoveFromVersionId`.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_aws::secret::{CURRENT, PREVIOUS};
use learnink_local::secrets_manager::{Access, SIGNING_SECRET};
use learnink_local::terminal::quoted;

use crate::aws::{self, AwsClock};

/// The stage of a value that is not in use yet.
const PENDING: &str = "AWSPENDING";

/// A secret of a stack, or of `learnink dev`.
pub(crate) struct Store {
    client: Client,
    name: String,
    /// The secret and its place, for people.
    label: String,
    clock: AwsClock,
}

/// A value of the secret.
pub(crate) struct Version {
    pub(crate) id: String,
    /// The text as it is stored; `None` if it is binary.
    pub(crate) value: Option<String>,
    pub(crate) stored_at: Option<Timestamp>,
}

/// The values that are in use.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) current: Option<Version>,
    pub(crate) previous: Option<Version>,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    /// Somebody else changed the secret after it was read, so that nothing was changed.
    Overtaken,
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Store {
    /// The secret with this name in AWS.
    pub(crate) fn new(aws: &SdkConfig, name: &str) -> Self {
        Self::labelled(aws, name, format!("the secret {} in {}", quoted(name), aws::region(aws)))
    }

    /// The signing secret of the `learnink dev` that runs in `folder`, whose Secrets Manager is at `endpoint`.
    pub(crate) fn of_dev(access: &Access, folder: &Path) -> Self {
        let label = format!("the secret of `learnink dev` in {}", quoted(folder));
        Self::labelled(&access.sdk_config(), SIGNING_SECRET, label)
    }

    fn labelled(aws: &SdkConfig, name: &str, label: String) -> Self {
        let clock = AwsClock::default();
        let client = Client::new(&clock.watch(aws));
        Self { client, name: name.to_owned(), label, clock }
    }

    /// The name in Secrets Manager.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// AWS's clock, once it has answered.
    pub(crate) const fn clock(&self) -> &AwsClock {
        &self.clock
    }

    /// Reads the current and the previous value.
    pub(crate) async fn read(&self) -> anyhow::Result<Stored> {
        let current = self.version(CURRENT).await?;
        // Without a value there is none before it.
        let previous = if current.is_some() { self.version(PREVIOUS).await? } else { None };
        Ok(Stored { current, previous })
    }

    /// The version that has a stage.
    async fn version(&self, stage: &str) -> anyhow::Result<Option<Version>> {
        let request = self.client.get_secret_value().secret_id(&self.name).version_stage(stage);
        match request.send().await.map_err(|error| CallError::from(&error)) {
            Ok(answer) => Ok(Some(Version {
                id: answer.version_id.with_context(|| format!("AWS did not name the version of {self}"))?,
                // Some emulators have a version without a value.
                value: answer.secret_string.or_else(|| answer.secret_binary.is_none().then(String::new)),
                stored_at: answer.created_date.and_then(|date| Timestamp::from_second(date.secs()).ok()),
            })),
            // Also if the stack's secret was deleted by hand; then storing a value fails.
            Err(CallError::NotFound { .. }) => Ok(None),
            Err(error) => Err(explained("GetSecretValue", error)).context(format!("cannot read {self}")),
        }
    }

    /// Stores a value in place of the current one, which becomes the previous one. Does nothing if the current one
    /// is not that of `before` any more.
    pub(crate) async fn replace(&self, before: &Stored, value: &str) -> anyhow::Result<Change> {
        let put = self.client.put_secret_value().secret_id(&self.name).secret_string(value);
        let put = put.version_stages(PENDING).send().await.map_err(|error| CallError::from(&error));
        let put = put.map_err(|error| explained("PutSecretValue", error));
        let put = put.with_context(|| format!("nothing was stored in {self}"))?;
        let id = put.version_id.with_context(|| format!("AWS did not name the new version of {self}"))?;
        // The first value of all is the current one at once.
        if put.version_stages.is_some_and(|stages| stages.iter().any(|stage| stage == CURRENT)) {
            return Ok(Change::Done);
        }
        let before_id = before.current.as_ref().map(|version| version.id.as_str());
        let Err(error) = self.move_stage(CURRENT, before_id, Some(&id)).await else {
            return Ok(Change::Done);
        };
        // The answer may have been lost.
        let now = self.version(CURRENT).await;
        let now =
            now.with_context(|| format!("it is not known whether the value is stored in {self}: {error:#}"))?;
        let now_id = now.as_ref().map(|version| version.id.as_str());
        if now_id == Some(&id) {
            return Ok(Change::Done);
        }
        // Without a stage, AWS deletes the version some time. If this fails, the version stays, and nobody reads it.
        let _ = self.move_stage(PENDING, Some(&id), None).await;
        if now_id != before_id {
            return Ok(Change::Overtaken);
        }
        Err(error).with_context(|| format!("nothing was changed in {self}"))
    }

    /// Takes the previous value out of use. Does nothing if it is not the one with this version id any more.
    pub(crate) async fn drop_previous(&self, version_id: &str) -> anyhow::Result<Change> {
        let Err(error) = self.move_stage(PREVIOUS, Some(version_id), None).await else {
            return Ok(Change::Done);
        };
        match self.version(PREVIOUS).await? {
            None => Ok(Change::Done),
            Some(other) if other.id != version_id => Ok(Change::Overtaken),
            Some(_) => Err(error).with_context(|| format!("the previous value is still in use in {self}")),
        }
    }

    /// Moves a stage between versions.
    async fn move_stage(&self, stage: &str, from: Option<&str>, to: Option<&str>) -> anyhow::Result<()> {
        let request = self.client.update_secret_version_stage().secret_id(&self.name).version_stage(stage);
        let request = request
            .set_remove_from_version_id(from.map(str::to_owned))
            .set_move_to_version_id(to.map(str::to_owned));
        let moved = request.send().await.map_err(|error| CallError::from(&error));
        moved.map(drop).map_err(|error| explained("UpdateSecretVersionStage", error))
    }
}

/// A failed call, with the right that is missing.
fn explained(action: &str, error: CallError) -> anyhow::Error {
    match error {
        CallError::Denied { code } => anyhow::anyhow!(
            "the credentials may not call secretsmanager:{action} on it ({code}); ask for this right"
        ),
        CallError::NotFound { .. } => {
            anyhow::anyhow!("AWS does not know it; it was deleted by hand, or the stack is being deleted")
        }
        error => error.into(),
    }
}
