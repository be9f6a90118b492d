//! What the environment has to say.

use learnink_webhook::config::{MissingVariable, required};

/// The consumer's configuration; the handlers have their own.
#[derive(Debug)]
pub struct Config {
    /// The queue that the records come from: `LEARNINK_QUEUE_URL`.
    pub queue_url: String,
    /// Where hopeless messages go: `LEARNINK_DEAD_LETTER_QUEUE_URL`.
    pub dead_letter_queue_url: String,
    /// The ledger: `LEARNINK_LEDGER_TABLE`.
    pub ledger_table: String,
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`MissingVariable`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, MissingVariable> {
        let required = |name, holds| required(&variable, name, holds);
        Ok(Self {
            queue_url: required("LEARNINK_QUEUE_URL", "the URL of the SQS queue")?,
            dead_letter_queue_url: required(
                "LEARNINK_DEAD_LETTER_QUEUE_URL",
                "the URL of the dead-letter queue",
            )?,
            ledger_table: required("LEARNINK_LEDGER_TABLE", "the name of the ledger's DynamoDB table")?,
        })
    }
}
