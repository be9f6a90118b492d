//! The signing secret of `learnink dev`: the files that keep it, and where it is changed while the pipeline runs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use learnink_local::StateError;
use learnink_local::secrets_manager::Access;
use learnink_local::state::{
    Service, address, previous_secret_file, read_previous_secret, read_signing_secret, secret_file,
};
use learnink_local::terminal::quoted;

use super::store::{Stored, Version};
use crate::called;
use crate::stack::Target;

/// A running pipeline that reads its secret again when another one is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// How its Secrets Manager is reached.
    pub(super) secrets_manager: Access,
    /// Where webhooks are posted to.
    pub(super) webhook_url: String,
}

/// Why a secret of `learnink dev` cannot be changed, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotChangeable {
    /// Nothing runs there.
    #[error(
        "`learnink dev` is not running in {}; start `{start}`, or name a deployed stack with --stack",
        quoted(folder)
    )]
    NotRunning {
        /// The folder of its state.
        folder: PathBuf,
        /// The command that starts it there.
        start: String,
    },
    /// It does not read a secret that is stored.
    #[error(
        "the secret of `learnink dev` in {} was given at its start, with --secret or LEARNINK_SIGNING_SECRET, and \
         stays until it stops; start `{start}` without a secret, or name a deployed stack with --stack",
        quoted(folder)
    )]
    Given {
        /// The folder of its state.
        folder: PathBuf,
        /// The command that starts it there.
        start: String,
    },
    /// The secret of the push sender is not stored.
    #[error(
        "the push sender of `learnink dev` reads its secret from the variable LEARNINK_PUSH_SECRET at the start; set \
         it and start `{start}` again, or name a deployed stack with --stack"
    )]
    Push {
        /// The command that starts it.
        start: String,
    },
}

impl NotChangeable {
    /// Nothing runs in the target's folder.
    pub(super) fn not_running(target: &Target) -> Self {
        Self::NotRunning { folder: target.state.folder.clone(), start: start(target) }
    }

    /// The push sender's secret.
    pub(super) fn push(target: &Target) -> Self {
        Self::Push { start: start(target) }
    }
}

/// The command that starts the pipeline in the target's folder.
fn start(target: &Target) -> String {
    format!("{}{}", called::dev(), target.state.option().unwrap_or_default())
}

/// The pipeline that runs in the target's folder.
pub(super) fn running(target: &Target) -> Result<Result<Running, NotChangeable>, StateError> {
    let folder = &target.state.folder;
    // In this order: the URL is announced last.
    let webhook_url = address(folder, Service::Webhooks)?;
    let secrets_manager = address(folder, Service::SecretsManager)?;
    let secrets_manager = secrets_manager.as_deref().and_then(Access::parse);
    Ok(announced(webhook_url, secrets_manager, target))
}

fn announced(
    webhook_url: Option<String>,
    secrets_manager: Option<Access>,
    target: &Target,
) -> Result<Running, NotChangeable> {
    match (webhook_url, secrets_manager) {
        (Some(webhook_url), Some(secrets_manager)) => Ok(Running { secrets_manager, webhook_url }),
        (Some(_), None) => {
            Err(NotChangeable::Given { folder: target.state.folder.clone(), start: start(target) })
        }
        (None, _) => Err(NotChangeable::not_running(target)),
    }
}

/// The values in the files, whether or not the pipeline runs.
pub(super) fn stored(folder: &Path) -> anyhow::Result<Stored> {
    let current = version(read_signing_secret(folder)?, &secret_file(folder))?;
    let previous = read_previous_secret(folder)?;
    let previous = previous.map(|value| version(value, &previous_secret_file(folder))).transpose()?;
    Ok(Stored { current: Some(current), previous })
}

fn version(value: String, file: &Path) -> anyhow::Result<Version> {
    let stored_at = std::fs::metadata(file).and_then(|file| file.modified());
    let stored_at = stored_at.with_context(|| format!("cannot look at {}", quoted(file)))?;
    Ok(Version { id: String::new(), value: Some(value), stored_at: Timestamp::try_from(stored_at).ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_changed_has_a_reason_and_what_to_do() {
        let url = "http://127.0.0.1:1/webhooks".to_owned();
        let endpoint = Access::parse("http://127.0.0.1:2 key").unwrap();
        let here = Target::dev("a folder");
        let said = |url: Option<&String>, endpoint: Option<&Access>| {
            announced(url.cloned(), endpoint.cloned(), &here).map_err(|error| error.to_string())
        };
        let running = Running { secrets_manager: endpoint.clone(), webhook_url: url.clone() };
        assert_eq!(said(Some(&url), Some(&endpoint)), Ok(running));
        let start = format!("start `{} --state 'a folder'`", called::dev());
        // The endpoint alone: it is starting.
        for endpoint in [None, Some(&endpoint)] {
            let expected = format!(
                "`learnink dev` is not running in 'a folder'; {start}, or name a deployed stack with --stack"
            );
            assert_eq!(said(None, endpoint), Err(expected));
        }
        let given = format!(
            "the secret of `learnink dev` in 'a folder' was given at its start, with --secret or \
             LEARNINK_SIGNING_SECRET, and stays until it stops; {start} without a secret, or name a deployed stack \
             with --stack"
        );
        assert_eq!(said(Some(&url), None), Err(given));
        assert_eq!(
            NotChangeable::push(&here).to_string(),
            format!(
                "the push sender of `learnink dev` reads its secret from the variable LEARNINK_PUSH_SECRET at the \
                 start; set it and {start} again, or name a deployed stack with --stack"
            )
        );
    }
}
