//! What the environment has to say to the handlers.

use learnink_webhook::config::{ConfigError, required};

use crate::{archive, bus, push};

/// The handlers' configuration. What is `None` is switched off and costs nothing.
#[derive(Debug, Clone)]
pub struct Config {
    /// The learners' progress: `LEARNINK_LEARNERS_TABLE`.
    pub learners_table: String,
    /// Events without a handler: `LEARNINK_UNKNOWN_EVENTS_TABLE`.
    pub unknown_events_table: String,
    /// Where notifications are sent: `LEARNINK_PUSH`, and what it asks for.
    pub push: Option<push::Config>,
    /// Where every event is kept: `LEARNINK_ARCHIVE`.
    pub archive: Option<archive::Config>,
    /// The event bus that every event is put on: `LEARNINK_EVENT_BUS`.
    pub bus: Option<bus::Config>,
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let table = |name, holds| required(&variable, name, holds);
        Ok(Self {
            learners_table: table("LEARNINK_LEARNERS_TABLE", "the name of the learners' DynamoDB table")?,
            unknown_events_table: table(
                "LEARNINK_UNKNOWN_EVENTS_TABLE",
                "the name of the DynamoDB table for events without a handler",
            )?,
            push: push::Config::read(&variable)?,
            archive: archive::Config::read(&variable)?,
            bus: bus::Config::read(&variable)?,
        })
    }
}
