//! How the receiver talks to AWS: how long it waits, how often it tries, and how failures read.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use learnink_webhook::error::service_code;

/// One attempt of a call may take this long.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// A call may never take longer, whatever its attempts and the pause between them add up to. Svix gives up
/// on an answer after 15 s, and Lambda on the function after 10 s, so a 503 must come well before.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often one call is tried; the sender's own retries do the rest.
const ATTEMPTS: u32 = 2;

/// Lets every call have its second attempt. By default the SDK gives them up after some fifty failures,
/// until ten successes have paid for one: right for a loop, wrong for one call per request.
pub(crate) fn unlimited_retries() -> RetryPartition {
    RetryPartition::custom("receiver").token_bucket(TokenBucket::unlimited()).build()
}

/// The longest pause between two attempts. Most second attempts follow a connection that AWS closed
/// while the environment was frozen, where there is nothing to wait for.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The configuration with the receiver's limits in place of its own.
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

/// What went wrong with a call, without anything of the request or the answer in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// AWS asks for fewer calls.
    #[error("AWS throttled the call ({code})")]
    Throttled {
        /// AWS's code for it.
        code: String,
    },
    /// No answer within the limits.
    #[error("AWS did not answer in time")]
    TimedOut,
    /// The call did not leave: no credentials, or no trust in the endpoint's certificate.
    #[error("the call could not be made; check the credentials and the endpoint's certificate")]
    NotSent,
    /// The connection could not be made, or broke.
    #[error("AWS could not be reached, or broke the connection")]
    Unreachable,
    /// The function's role lacks the right, or its credentials are not accepted.
    #[error("AWS denied the call ({code}); check the function's role and credentials")]
    Denied {
        /// AWS's code for it.
        code: String,
    },
    /// The queue or the secret is not there.
    #[error("AWS does not know the queue or secret ({code}); check the function's variables")]
    NotFound {
        /// AWS's code for it.
        code: String,
    },
    /// AWS answered with another error.
    #[error("AWS answered {status} ({code})")]
    Failed {
        /// The HTTP status.
        status: u16,
        /// AWS's code, or `none`.
        code: String,
    },
    /// AWS's answer was not what it answers on success.
    #[error("AWS's answer could not be understood")]
    Unconfirmed,
}

impl CallError {
    /// The failure's name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::TimedOut => "timed_out",
            Self::NotSent => "not_sent",
            Self::Unreachable => "unreachable",
            Self::Denied { .. } => "denied",
            Self::NotFound { .. } => "not_found",
            Self::Failed { .. } => "failed",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl<E: ProvideErrorMetadata> From<&SdkError<E>> for CallError {
    fn from(error: &SdkError<E>) -> Self {
        match error {
            SdkError::TimeoutError(_) => Self::TimedOut,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::TimedOut,
            // What the HTTP client knows, a broken connection say, has a kind; what happens before has none.
            SdkError::DispatchFailure(failure) if failure.is_other() && failure.as_other().is_none() => {
                Self::NotSent
            }
            SdkError::ConstructionFailure(_) => Self::NotSent,
            SdkError::DispatchFailure(_) => Self::Unreachable,
            // A success that could not be read. The SDK counts it among the service's errors.
            SdkError::ServiceError(failure) if failure.raw().status().is_success() => Self::Unconfirmed,
            SdkError::ServiceError(failure) => {
                answered(failure.raw().status().as_u16(), failure.err().code().unwrap_or("none"))
            }
            // An answer that is no answer of the service.
            _ => Self::Unconfirmed,
        }
    }
}

/// Reads an error code. Services spell the same failure differently, and older codes have a prefix.
/// Source: Amazon SQS API reference, "Common Errors"; AWS Secrets Manager API reference, `GetSecretValue`.
fn answered(status: u16, code: &str) -> CallError {
    let code = service_code(code).unwrap_or("none").to_owned();
    let has = |part: &str| code.contains(part);
    if status == 429 || has("Throttl") || has("OverLimit") {
        CallError::Throttled { code }
    } else if status == 403 || has("AccessDenied") {
        CallError::Denied { code }
    } else if has("NonExistentQueue") || has("QueueDoesNotExist") || has("ResourceNotFound") {
        CallError::NotFound { code }
    } else {
        CallError::Failed { status, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_code_says_what_to_do_about_it() {
        for (status, code, name) in [
            (400, "ThrottlingException", "throttled"),
            (400, "RequestThrottled", "throttled"),
            (403, "KMS.ThrottlingException", "throttled"),
            (429, "none", "throttled"),
            (400, "OverLimit", "throttled"),
            (400, "AccessDeniedException", "denied"),
            (403, "AccessDenied", "denied"),
            (403, "InvalidClientTokenId", "denied"),
            (400, "AWS.SimpleQueueService.NonExistentQueue", "not_found"),
            (400, "QueueDoesNotExist", "not_found"),
            (400, "ResourceNotFoundException", "not_found"),
            (400, "InvalidMessageContents", "failed"),
            (500, "InternalError", "failed"),
        ] {
            assert_eq!(answered(status, code).name(), name, "{status} {code}");
        }
    }

    #[test]
    fn what_is_no_code_is_not_repeated() {
        let error = answered(500, "<html>+254705408079</html>");
        assert_eq!(error.to_string(), "AWS answered 500 (none)");
    }
}
