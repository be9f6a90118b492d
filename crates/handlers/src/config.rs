//! What the environment has to say to the handlers.

use learnink_webhook::config::{MissingVariable, required};

/// The handlers' configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The learners' progress: `LEARNINK_LEARNERS_TABLE`.
    pub learners_table: String,
    /// Events without a handler: `LEARNINK_UNKNOWN_EVENTS_TABLE`.
    pub unknown_events_table: String,
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`MissingVariable`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, MissingVariable> {
        let table = |name, holds| required(&variable, name, holds);
        Ok(Self {
            learners_table: table("LEARNINK_LEARNERS_TABLE", "the name of the learners' DynamoDB table")?,
            unknown_events_table: table(
                "LEARNINK_UNKNOWN_EVENTS_TABLE",
                "the name of the DynamoDB table for events without a handler",
            )?,
        })
    }
}
