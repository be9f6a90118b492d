//! Errors of failed calls to AWS, without the text of the service.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use learnink_webhook::error::service_code;

use crate::connections::RequestError;

/// Why a call to AWS failed. The SDK's own text is left out: it repeats the service's message, which can quote an
/// item, a receipt handle or a whole request.
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
    /// The call was not sent: no credentials, or no trust in the endpoint's certificate.
    #[error("the call could not be made; check the credentials and the endpoint's certificate")]
    NotSent,
    /// The connection could not be made, or broke.
    #[error("AWS could not be reached, or broke the connection")]
    Unreachable,
    /// The role lacks the right, or the credentials are not accepted.
    #[error("AWS denied the call ({code}); check the credentials and their rights")]
    Denied {
        /// AWS's code for it.
        code: String,
    },
    /// The queue, the table or the secret does not exist.
    #[error(
        "AWS does not know the queue, table or secret ({code}); check its name, the account and the region"
    )]
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
    /// AWS's answer was not a success that could be read.
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

    /// Whether the same call may succeed a moment later.
    pub(crate) const fn may_pass(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::TimedOut | Self::Unreachable => true,
            Self::Failed { status, .. } => matches!(status, 500 | 502 | 503 | 504),
            Self::NotSent | Self::Denied { .. } | Self::NotFound { .. } | Self::Unconfirmed => false,
        }
    }
}

impl<E: ProvideErrorMetadata> From<&SdkError<E, HttpResponse>> for CallError {
    fn from(error: &SdkError<E, HttpResponse>) -> Self {
        match error {
            SdkError::TimeoutError(_) => Self::TimedOut,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::TimedOut,
            // An error of the HTTP client, such as a broken connection, has a kind; an earlier error does not.
            SdkError::DispatchFailure(failure) if failure.is_other() && failure.as_other().is_none() => {
                Self::NotSent
            }
            SdkError::ConstructionFailure(_) => Self::NotSent,
            SdkError::DispatchFailure(_) => Self::Unreachable,
            // A success that could not be read. The SDK counts it among the service's errors.
            SdkError::ServiceError(failure) if failure.raw().status().is_success() => Self::Unconfirmed,
            SdkError::ServiceError(failure) => {
                by_code(failure.raw().status().as_u16(), failure.err().code().unwrap_or("none"))
            }
            // An answer that is not the service's.
            _ => Self::Unconfirmed,
        }
    }
}

impl From<&RequestError> for CallError {
    fn from(error: &RequestError) -> Self {
        match error {
            RequestError::Endpoint | RequestError::NoRoots | RequestError::Tls(_) => Self::NotSent,
            RequestError::Unreachable(_) | RequestError::Broken(_) => Self::Unreachable,
        }
    }
}

/// Reads an error code. Services spell the same failure differently, and older codes have a prefix.
/// Source: Amazon SQS API reference, "Common Errors"; AWS Secrets Manager API reference, `GetSecretValue`.
pub(crate) fn by_code(status: u16, code: &str) -> CallError {
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
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    fn answered(code: &str) -> String {
        let metadata = ErrorMetadata::builder().code(code).message("no such item: +254705408079").build();
        let response = HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::from("+254705408079"));
        let error = CallError::from(&SdkError::service_error(metadata, response));
        format!("{error} {error:?}")
    }

    #[test]
    fn of_an_answer_only_status_and_code_are_said() {
        let said = answered("ValidationException");
        assert!(said.starts_with("AWS answered 400 (ValidationException) "), "{said}");
        assert!(!said.contains("2547"), "{said}");
        let said = answered("<html>+254705408079</html>");
        assert!(said.starts_with("AWS answered 400 (none) "), "{said}");
        assert!(!said.contains("2547"), "{said}");
    }

    #[test]
    fn a_call_without_an_answer_says_so() {
        let late = SdkError::<ErrorMetadata, _>::timeout_error("+254705408079");
        assert_eq!(CallError::from(&late), CallError::TimedOut);
        let unmade = SdkError::<ErrorMetadata, _>::construction_failure("+254705408079");
        assert_eq!(CallError::from(&unmade), CallError::NotSent);
    }

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
            assert_eq!(by_code(status, code).name(), name, "{status} {code}");
        }
    }

    #[test]
    fn what_is_no_code_is_not_repeated() {
        let error = by_code(500, "<html>+254705408079</html>");
        assert_eq!(error.to_string(), "AWS answered 500 (none)");
    }
}
