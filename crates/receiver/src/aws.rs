//! The receiver's calls to AWS: how long it waits, and how often it tries.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::retry::{RetryPartition, TokenBucket};

/// One attempt of a call may take this long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// A call may not take longer, with all its attempts and the pause between them. Svix waits 15 s for an answer,
/// and Lambda 10 s for the function, so a 503 must come well before.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often one call is tried; the sender's own retries do the rest.
const ATTEMPTS: u32 = 2;

/// Allows every call its second attempt. By default the SDK stops second attempts after some fifty failures, and
/// ten successes pay for one: right for a loop, wrong for one call per request.
pub(crate) fn unlimited_retries() -> RetryPartition {
    RetryPartition::custom("receiver").token_bucket(TokenBucket::unlimited()).build()
}

/// The longest pause between two attempts. Most second attempts follow a connection that AWS closed while the
/// environment was frozen, and then waiting does not help.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The configuration, with the receiver's limits instead of its own.
pub(crate) fn within_limits(config: &SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS)
        .with_initial_backoff(LONGEST_PAUSE)
        .with_max_backoff(LONGEST_PAUSE);
    config.to_builder().timeout_config(timeouts).retry_config(retries).build()
}
