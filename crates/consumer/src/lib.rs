//! The consumer: a batch from the queue becomes finished work, or a message with a next step.
//!
//! Each record stands alone: it is parsed, claimed, handled and settled beside the others, and
//! its failure, or its panic, costs only itself. The engine names no event: what runs for which
//! is the [`Router`]'s business.
//!
//! | module | holds |
//! |---|---|
//! | [`batch`] | a batch in, the failed ids out |
//! | [`record`] | one record as SQS delivers it |
//! | [`ledger`] | claims and completions in DynamoDB |
//! | [`queues`] | the dead-letter queue, and how long a failed message waits |
//! | [`config`] | what the environment has to say |

pub mod batch;
pub mod config;
pub mod ledger;
pub mod queues;
pub mod record;

pub use batch::{BatchReport, HandlerReport, Invocation, Outcome, RecordReport};
pub use config::Config;
pub use ledger::Ledger;
pub use queues::Queues;

use std::time::Duration;

use aws_sdk_sqs::config::timeout::TimeoutConfig;
use learnink_webhook::Router;

/// One call to AWS may take this long, with its second attempt.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// The time limits of the consumer's calls to AWS: short, so that what finished is recorded within
/// the invocation. The queue brings back what they cut off.
fn call_limits() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(CALL_LIMIT / 2).operation_timeout(CALL_LIMIT).build()
}

/// Runs the handlers of a [`Router`] for batches of messages, each once per message.
#[derive(Debug)]
pub struct Consumer {
    router: Router,
    ledger: Ledger,
    queues: Queues,
    /// Uniform in `0..1`; spreads the retries of messages that failed together.
    random: fn() -> f64,
}

impl Consumer {
    /// A consumer that runs `router`'s handlers and remembers in `ledger` what is done.
    pub const fn new(router: Router, ledger: Ledger, queues: Queues, random: fn() -> f64) -> Self {
        Self { router, ledger, queues, random }
    }
}
