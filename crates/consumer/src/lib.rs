//! The consumer: a batch from the queue becomes finished work, or a message with a next step.
//!
//! Each record is independent: it is parsed, claimed, handled and settled concurrently with the others, and its
//! failure or panic affects only itself. The engine knows no event types: the [`Router`] finds the handlers of
//! each.
//!
//! | module | holds |
//! |---|---|
//! | [`batch`] | the engine: a batch in, the failed ids out |
//! | [`report`] | what happened to a record: its line, its metrics, the answer |
//! | [`record`] | one record as SQS delivers it |
//! | [`ledger`] | who may run which handler for which message: the rules, and their store in DynamoDB |
//! | [`acts`] | what operators did with messages |
//! | [`replay`] | replay windows, under which an operator runs finished work again |
//! | [`backoff`] | how long a failed delivery waits |
//! | [`ending`] | how a record ends, from how its handlers ended |
//! | [`dead_letter`] | why a message is on the dead-letter queue |
//! | [`queues`] | the dead-letter queue, what is sent again, and how long a failed message waits |
//! | [`config`] | the configuration, from environment variables |
//! | [`lambda`] | all of it as a Lambda function |

pub mod acts;
pub mod backoff;
pub mod batch;
mod breaker;
mod claims;
pub mod config;
pub mod dead_letter;
pub mod ending;
mod invocation;
pub mod lambda;
pub mod ledger;
pub mod queues;
pub mod record;
pub mod replay;
pub mod report;

pub use config::Config;
pub use invocation::Invocation;
pub use ledger::DynamoDbLedger;
pub use queues::SqsQueues;
pub use report::{BatchReport, HandlerReport, Outcome, RecordReport};

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::config::timeout::TimeoutConfig;
use learnink_webhook::Router;
use learnink_webhook::message::LONGEST_PART;

use crate::breaker::Breakers;

/// One call to AWS may take this long, with a second attempt if the first failed quickly.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// The time limits of the consumer's calls to AWS: short, so that finished work is recorded within the invocation.
/// Messages whose calls are cut off are delivered again.
fn call_limits() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(CALL_LIMIT / 2).operation_timeout(CALL_LIMIT).build()
}

/// Runs the handlers of a [`Router`] for batches of messages. A handler that is recorded as done for a message does
/// not run again for it, except once per replay window.
#[derive(Debug)]
pub struct Consumer<L = DynamoDbLedger, Q = SqsQueues> {
    router: Router,
    /// Shared with the calls that it answers.
    ledger: Arc<L>,
    queues: Q,
    /// After this many deliveries, a message that is not done goes to the dead-letter queue.
    max_receive_count: u32,
    /// A longer list is cut into parts of this length.
    longest_part: usize,
    /// Uniform in `0..1`; spreads the retries of messages that failed together.
    random: fn() -> f64,
    breakers: Breakers,
}

impl<L, Q> Consumer<L, Q> {
    /// A consumer that runs `router`'s handlers and remembers in `ledger` what is done. `max_receive_count` is the
    /// source queue's. `random` is uniform in `0..1`.
    pub fn new(router: Router, ledger: L, queues: Q, max_receive_count: u32, random: fn() -> f64) -> Self {
        let (breakers, longest_part) = (Breakers::default(), LONGEST_PART);
        let ledger = Arc::new(ledger);
        Self { router, ledger, queues, max_receive_count, longest_part, random, breakers }
    }

    /// Cuts lists into parts of this length instead of [`LONGEST_PART`]'s.
    #[must_use]
    pub fn with_parts_of(self, longest_part: usize) -> Self {
        Self { longest_part, ..self }
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::Router;

    use super::*;

    #[test]
    fn a_call_leaves_time_for_a_second_attempt() {
        let limits = call_limits();
        assert_eq!(limits.operation_timeout(), Some(Duration::from_secs(2)));
        assert_eq!(limits.operation_attempt_timeout(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn lists_are_cut_into_parts_of_the_length_that_is_asked_for() {
        let consumer = Consumer::new(Router::new(), (), (), 7, || 0.0);
        assert_eq!(consumer.longest_part, LONGEST_PART);
        assert_eq!(consumer.with_parts_of(5).longest_part, 5);
    }
}
