//! What the environment has to say.

use learnink_webhook::config::{MissingVariable, optional, required};

use crate::PATH;
use crate::verify::{SecretError, Verifier};

/// The receiver's configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the signing secrets come from.
    pub secrets: SecretSource,
    /// Where verified webhooks go: `LEARNINK_QUEUE_URL`.
    pub queue_url: String,
    /// The path that LearnInk posts to: `LEARNINK_WEBHOOK_PATH`, or [`PATH`].
    pub path: String,
}

/// Where the signing secrets come from.
#[derive(Debug)]
pub enum SecretSource {
    /// The environment, for sandboxes: `LEARNINK_SIGNING_SECRET`, one or several separated by spaces.
    Environment(Verifier),
    /// AWS Secrets Manager: the name or the ARN in `LEARNINK_SIGNING_SECRET_ID`.
    SecretsManager(String),
}

/// The function cannot start; Lambda shows this and tries again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is not set.
    #[error(transparent)]
    Missing(#[from] MissingVariable),
    /// The signing secret cannot be used.
    #[error("LEARNINK_SIGNING_SECRET cannot be used")]
    Secret(#[from] SecretError),
    /// The path would match other paths as well.
    #[error("LEARNINK_WEBHOOK_PATH is not a path; it starts with `/`, as `{PATH}` does")]
    Path,
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let secrets = match optional(&variable, "LEARNINK_SIGNING_SECRET") {
            Some(secrets) => SecretSource::Environment(Verifier::new(&secrets)?),
            None => SecretSource::SecretsManager(required(
                &variable,
                "LEARNINK_SIGNING_SECRET_ID",
                "the name or ARN of the signing secret in AWS Secrets Manager; \
                 `LEARNINK_SIGNING_SECRET` with the secret itself replaces it",
            )?),
        };
        let path = optional(&variable, "LEARNINK_WEBHOOK_PATH").unwrap_or_else(|| PATH.to_owned());
        if !path.starts_with('/') {
            return Err(ConfigError::Path);
        }
        Ok(Self {
            secrets,
            queue_url: required(&variable, "LEARNINK_QUEUE_URL", "the URL of the SQS queue")?,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::error::with_causes;

    use super::*;

    const SECRET: (&str, &str) = ("LEARNINK_SIGNING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    const SECRET_ID: (&str, &str) = ("LEARNINK_SIGNING_SECRET_ID", "learnink/staging");
    const QUEUE: (&str, &str) = ("LEARNINK_QUEUE_URL", "https://q");

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup).map_err(|error| with_causes(&error))
    }

    #[test]
    fn an_error_names_the_variable_and_what_belongs_there() {
        assert_eq!(
            read(&[QUEUE]).unwrap_err(),
            "LEARNINK_SIGNING_SECRET_ID is not set; set it to the name or ARN of the signing secret in AWS \
             Secrets Manager; `LEARNINK_SIGNING_SECRET` with the secret itself replaces it"
        );
        assert_eq!(
            read(&[SECRET, ("LEARNINK_QUEUE_URL", " ")]).unwrap_err(),
            "LEARNINK_QUEUE_URL is not set; set it to the URL of the SQS queue"
        );
    }

    #[test]
    fn a_bad_secret_is_named_by_its_case_and_never_repeated() {
        for (secret, problem) in [
            ("whsec_c2hvcnQ=", "the signing secret has a key of 5 bytes, fewer than 24"),
            ("whsec_", "the signing secret is empty; it starts with `whsec_`"),
        ] {
            let error = read(&[("LEARNINK_SIGNING_SECRET", secret), QUEUE]).unwrap_err();
            assert_eq!(error, format!("LEARNINK_SIGNING_SECRET cannot be used: {problem}"));
        }
    }

    #[test]
    fn a_secret_in_the_environment_replaces_the_one_in_secrets_manager() {
        let config = read(&[SECRET, SECRET_ID, QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::Environment(_)));
        let config = read(&[SECRET_ID, QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::SecretsManager(id) if id == "learnink/staging"));
    }

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        for empty in ["", " ", "\u{feff}\n"] {
            let path = ("LEARNINK_WEBHOOK_PATH", empty);
            let config = read(&[("LEARNINK_SIGNING_SECRET", empty), SECRET_ID, QUEUE, path]).unwrap();
            assert!(matches!(config.secrets, SecretSource::SecretsManager(_)));
            assert_eq!(config.path, PATH);
            let config = read(&[SECRET, ("LEARNINK_SIGNING_SECRET_ID", empty), QUEUE]).unwrap();
            assert!(matches!(config.secrets, SecretSource::Environment(_)));
            let error = read(&[("LEARNINK_SIGNING_SECRET", empty), QUEUE]).unwrap_err();
            assert!(error.starts_with("LEARNINK_SIGNING_SECRET_ID is not set"), "{error}");
        }
        let config = read(&[("LEARNINK_SIGNING_SECRET_ID", " learnink/staging\n"), QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::SecretsManager(id) if id == "learnink/staging"));
    }

    #[test]
    fn the_path_is_ours_unless_another_is_named() {
        assert_eq!(read(&[SECRET, QUEUE]).unwrap().path, PATH);
        assert_eq!(read(&[SECRET, QUEUE, ("LEARNINK_WEBHOOK_PATH", "/w")]).unwrap().path, "/w");
        for path in ["w", "webhooks/learnink"] {
            let error = read(&[SECRET, QUEUE, ("LEARNINK_WEBHOOK_PATH", path)]).unwrap_err();
            assert!(error.starts_with("LEARNINK_WEBHOOK_PATH is not a path"), "{error}");
        }
    }
}
