//! The consumer's configuration, from environment variables.

use learnink_webhook::config::{ConfigError, required};

const MAX_RECEIVE_COUNT: &str = "LEARNINK_MAX_RECEIVE_COUNT";

/// The consumer's configuration; the handlers have their own.
#[derive(Debug)]
pub struct Config {
    /// The queue that the records come from: `LEARNINK_QUEUE_URL`.
    pub queue_url: String,
    /// The dead-letter queue: `LEARNINK_DEAD_LETTER_QUEUE_URL`.
    pub dead_letter_queue_url: String,
    /// How often the queue delivers a message, by its redrive policy: `LEARNINK_MAX_RECEIVE_COUNT`. 1 to 1,000.
    /// Source: Amazon SQS API reference, `SetQueueAttributes`, `RedrivePolicy`.
    pub max_receive_count: u32,
    /// The ledger: `LEARNINK_LEDGER_TABLE`.
    pub ledger_table: String,
}

impl Config {
    /// Reads the configuration through `variable`, which looks up an environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with the variable and the value that it takes.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let required = |name, holds| required(&variable, name, holds);
        Ok(Self {
            queue_url: required("LEARNINK_QUEUE_URL", "the URL of the SQS queue")?,
            dead_letter_queue_url: required(
                "LEARNINK_DEAD_LETTER_QUEUE_URL",
                "the URL of the dead-letter queue",
            )?,
            max_receive_count: count(&required(MAX_RECEIVE_COUNT, "the queue's maxReceiveCount")?)?,
            ledger_table: required("LEARNINK_LEDGER_TABLE", "the name of the ledger's DynamoDB table")?,
        })
    }
}

/// The value of [`MAX_RECEIVE_COUNT`].
fn count(text: &str) -> Result<u32, ConfigError> {
    text.trim().parse().ok().filter(|count| (1..=1_000).contains(count)).ok_or_else(|| {
        ConfigError::unusable(
            MAX_RECEIVE_COUNT,
            "it is not a number from 1 to 1000; set it to the queue's maxReceiveCount",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_receive_count: Option<&str>) -> Result<Config, ConfigError> {
        Config::read(|name| match name {
            MAX_RECEIVE_COUNT => max_receive_count.map(str::to_owned),
            _ => Some("set".to_owned()),
        })
    }

    #[test]
    fn the_number_of_deliveries_is_needed_and_one_that_sqs_takes() {
        assert_eq!(config(Some(" 7\n")).unwrap().max_receive_count, 7);
        let text = |value| config(value).unwrap_err().to_string();
        let missing = "LEARNINK_MAX_RECEIVE_COUNT is not set; set it to the queue's maxReceiveCount";
        assert_eq!([None, Some(""), Some(" ")].map(text), [missing; 3]);
        for value in ["0", "1001", "-1", "seven", "7.0", "99999999999"] {
            assert!(text(Some(value)).starts_with("LEARNINK_MAX_RECEIVE_COUNT cannot be used"), "{value}");
        }
    }
}
