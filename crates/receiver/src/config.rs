//! What the environment has to say.

use learnink_webhook::config::{MissingVariable, required};

use crate::verify::{SecretError, Verifier};

/// The receiver's configuration.
#[derive(Debug)]
pub struct Config {
    /// Checks signatures: `LEARNINK_SIGNING_SECRET`, one or several separated by spaces.
    pub verifier: Verifier,
    /// Where verified webhooks go: `LEARNINK_QUEUE_URL`.
    pub queue_url: String,
}

/// The function cannot start; Lambda shows this and tries again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is not set.
    #[error(transparent)]
    Missing(#[from] MissingVariable),
    /// The signing secret cannot be used.
    #[error("LEARNINK_SIGNING_SECRET: {0}")]
    Secret(#[from] SecretError),
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let required = |name, holds| required(&variable, name, holds);
        let secrets =
            required("LEARNINK_SIGNING_SECRET", "the signing secret (`whsec_...`) that LearnInk shows")?;
        Ok(Self {
            verifier: Verifier::new(&secrets)?,
            queue_url: required("LEARNINK_QUEUE_URL", "the URL of the SQS queue")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn error(variables: &[(&str, &str)]) -> String {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_variable_and_what_belongs_there() {
        assert_eq!(
            error(&[("LEARNINK_QUEUE_URL", "https://q")]),
            "LEARNINK_SIGNING_SECRET is not set; it holds the signing secret (`whsec_...`) that LearnInk shows"
        );
        assert_eq!(
            error(&[("LEARNINK_SIGNING_SECRET", SECRET), ("LEARNINK_QUEUE_URL", " ")]),
            "LEARNINK_QUEUE_URL is not set; it holds the URL of the SQS queue"
        );
    }

    #[test]
    fn a_bad_secret_is_named_by_its_case_and_never_repeated() {
        let message = error(&[("LEARNINK_SIGNING_SECRET", "whsec_c2hvcnQ="), ("LEARNINK_QUEUE_URL", "q")]);
        assert_eq!(
            message,
            "LEARNINK_SIGNING_SECRET: the signing secret has a key of 5 bytes, fewer than 24"
        );
    }
}
