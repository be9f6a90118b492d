//! What may be said of a call to AWS that failed.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use learnink_webhook::error::service_code;

/// A call failed, by the status and the code that the service answered with. The SDK's own text is left out: it
/// repeats the service's message, which can quote an item, a receipt handle or a whole request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallFailed(String);

impl CallFailed {
    /// Why a call to `service`, such as `DynamoDB`, failed.
    pub fn new<E: ProvideErrorMetadata>(service: &str, error: &SdkError<E, HttpResponse>) -> Self {
        Self(match error {
            SdkError::TimeoutError(_) => format!("{service} did not answer in time"),
            SdkError::ServiceError(failure) => {
                let code = failure.err().code().and_then(service_code).unwrap_or("no code");
                format!("{service} answered {} ({code})", failure.raw().status().as_u16())
            }
            SdkError::DispatchFailure(_) => format!("{service} could not be reached"),
            _ => format!("the call to {service} could not be made, or its answer not be understood"),
        })
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
        let failed = CallFailed::new("DynamoDB", &SdkError::service_error(metadata, response));
        format!("{failed} {failed:?}")
    }

    #[test]
    fn of_an_answer_only_status_and_code_are_said() {
        let said = answered("ValidationException");
        assert!(said.starts_with("DynamoDB answered 400 (ValidationException) "), "{said}");
        assert!(!said.contains("2547"), "{said}");
        let said = answered("<html>+254705408079</html>");
        assert!(said.starts_with("DynamoDB answered 400 (no code) "), "{said}");
        assert!(!said.contains("2547"), "{said}");
    }

    #[test]
    fn a_call_without_an_answer_says_so() {
        let failed = |error| CallFailed::new("SQS", &error).to_string();
        let late = SdkError::<ErrorMetadata, _>::timeout_error("+254705408079");
        assert_eq!(failed(late), "SQS did not answer in time");
        let unmade = SdkError::construction_failure("+254705408079");
        assert_eq!(failed(unmade), "the call to SQS could not be made, or its answer not be understood");
    }
}
