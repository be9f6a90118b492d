//! The receiver's configuration, from environment variables.

use learnink_webhook::config::{ConfigError, optional, required};

use crate::verify::{SecretError, Verifier};

/// The variable that holds the signing secret itself.
const SECRET: &str = "LEARNINK_SIGNING_SECRET";

/// The receiver's configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the signing secrets come from.
    pub secrets: SecretSource,
    /// The queue for verified webhooks: `LEARNINK_QUEUE_URL`.
    pub queue_url: String,
}

/// Where the signing secrets come from.
#[derive(Debug)]
pub enum SecretSource {
    /// The environment, for sandboxes: `LEARNINK_SIGNING_SECRET`, one or several separated by spaces.
    Environment(Verifier),
    /// AWS Secrets Manager: the name or the ARN in `LEARNINK_SIGNING_SECRET_ID`.
    SecretsManager(String),
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with the variable and the value that it takes.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let unusable = |error: SecretError| ConfigError::unusable(SECRET, error.to_string());
        let secrets = match optional(&variable, SECRET) {
            Some(secrets) => SecretSource::Environment(Verifier::new(&secrets).map_err(unusable)?),
            None => SecretSource::SecretsManager(required(
                &variable,
                "LEARNINK_SIGNING_SECRET_ID",
                "the name or ARN of the signing secret in AWS Secrets Manager, or set LEARNINK_SIGNING_SECRET to the \
                 secret itself",
            )?),
        };
        Ok(Self {
            secrets,
            queue_url: required(&variable, "LEARNINK_QUEUE_URL", "the URL of the SQS queue")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: (&str, &str) = ("LEARNINK_SIGNING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    const SECRET_ID: (&str, &str) = ("LEARNINK_SIGNING_SECRET_ID", "learnink/staging");
    const QUEUE: (&str, &str) = ("LEARNINK_QUEUE_URL", "https://q");

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn an_error_names_the_variable_and_what_belongs_there() {
        assert_eq!(
            read(&[QUEUE]).unwrap_err(),
            "LEARNINK_SIGNING_SECRET_ID is not set; set it to the name or ARN of the signing secret in AWS \
             Secrets Manager, or set LEARNINK_SIGNING_SECRET to the secret itself"
        );
        assert_eq!(
            read(&[GIVEN, ("LEARNINK_QUEUE_URL", " ")]).unwrap_err(),
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
        let config = read(&[GIVEN, SECRET_ID, QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::Environment(_)));
        let config = read(&[SECRET_ID, QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::SecretsManager(id) if id == "learnink/staging"));
    }

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        for empty in ["", " ", "\u{feff}\n"] {
            let config = read(&[("LEARNINK_SIGNING_SECRET", empty), SECRET_ID, QUEUE]).unwrap();
            assert!(matches!(config.secrets, SecretSource::SecretsManager(_)));
            let config = read(&[GIVEN, ("LEARNINK_SIGNING_SECRET_ID", empty), QUEUE]).unwrap();
            assert!(matches!(config.secrets, SecretSource::Environment(_)));
            let error = read(&[("LEARNINK_SIGNING_SECRET", empty), QUEUE]).unwrap_err();
            assert!(error.starts_with("LEARNINK_SIGNING_SECRET_ID is not set"), "{error}");
        }
        let config = read(&[("LEARNINK_SIGNING_SECRET_ID", " learnink/staging\n"), QUEUE]).unwrap();
        assert!(matches!(config.secrets, SecretSource::SecretsManager(id) if id == "learnink/staging"));
    }
}
