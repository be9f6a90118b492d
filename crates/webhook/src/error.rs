//! How a handler says *again* or *never*.

use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What a failure means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// May succeed later: the message is delivered again.
    Retryable,
    /// Will never succeed: the message goes to the dead-letter queue at once.
    Permanent,
}

/// How a handler failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It says that the work may succeed later.
    Retryable,
    /// It says that the work will never succeed.
    Permanent,
    /// Nothing failed, but the work needs another invocation.
    Unfinished,
    /// It panicked.
    Panicked,
    /// The invocation's time was up.
    TimedOut,
    /// It was skipped, because its circuit breaker is open.
    SkippedByBreaker,
}

impl FailureKind {
    /// Again or never.
    pub const fn class(self) -> FailureClass {
        match self {
            Self::Permanent => FailureClass::Permanent,
            Self::Retryable | Self::Unfinished | Self::Panicked | Self::TimedOut | Self::SkippedByBreaker => {
                FailureClass::Retryable
            }
        }
    }

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Permanent => "permanent",
            Self::Unfinished => "unfinished",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::SkippedByBreaker => "skipped_by_breaker",
        }
    }
}

/// What a handler returns.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a handler did not finish, and whether trying again can help.
///
/// `?` on any error means *again*, because a wasted attempt is cheaper than a lost message.
/// [`OrPermanent::or_permanent`] means *never*.
///
/// Its reason reaches logs, the ledger and the dead-letter queue, and the text of another library's error may
/// quote a payload. So `?` and `or_permanent` name that error's type and leave its text out;
/// [`HandlerError::quoting`] includes the text if it is known to be harmless.
///
/// Like `anyhow::Error` it is not itself a [`std::error::Error`], so that `?` can convert from
/// every type that is. `anyhow::Error` and `Box<dyn Error>` aren't either: say what they mean, with
/// `.map_err(|_| HandlerError::retryable("why"))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    kind: FailureKind,
    reason: String,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// A failure of this kind. `reason` is logged: no payload, no personal data.
    pub fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), retry_after: None }
    }

    /// The work may succeed later. `reason` is logged: no payload, no personal data.
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Retryable, reason)
    }

    /// The invocation ended before the work did, and nothing failed. The message is delivered again at once and
    /// continues where it stopped; this delivery does not count. `reason` is logged: no payload, no personal data.
    pub fn unfinished(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Unfinished, reason)
    }

    /// The work will never succeed. `reason` is logged and copied with the message to the dead-letter queue: no
    /// payload, no personal data.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, reason)
    }

    /// The work may succeed later; the reason is the text of `error` and of its causes. Only for
    /// errors that quote no payload, such as those of an adapter of our own.
    pub fn quoting(error: impl Error) -> Self {
        Self::retryable(with_causes(&error))
    }

    /// Asks for at least `delay` before the next attempt, as a downstream's `Retry-After` does; 11 h 50 min at
    /// most, because SQS does not hide a message for longer. A permanent error ignores it.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Again or never.
    pub const fn class(&self) -> FailureClass {
        self.kind.class()
    }

    /// How the handler failed.
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The shortest wait the handler asked for, if it did.
    pub const fn minimum_delay(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(_: E) -> Self {
        Self::retryable(format!("the handler failed with {}", type_name::<E>()))
    }
}

/// `.or_permanent("why")`: turns a failure, or a missing value, into *never*.
pub trait OrPermanent<T> {
    /// States that trying again cannot help, and why.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlerError`] when there is no value.
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError>;
}

impl<T, E: Error + Send + Sync + 'static> OrPermanent<T> for Result<T, E> {
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError> {
        self.map_err(|_| HandlerError::permanent(format!("{reason}: {}", type_name::<E>())))
    }
}

impl<T> OrPermanent<T> for Option<T> {
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError> {
        self.ok_or_else(|| HandlerError::permanent(reason))
    }
}

/// The text of an error and of its causes, joined by colons.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The error code of a service's answer, if it is a code: up to 80 ASCII letters, digits, `_` and `.`. Other text
/// may come from a proxy and quote the request, and must not be repeated.
pub fn service_code(code: &str) -> Option<&str> {
    let is_of_a_code = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    ((1..=80).contains(&code.len()) && code.bytes().all(is_of_a_code)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u8, HandlerError> {
        Ok(text.parse::<u8>()?)
    }

    #[test]
    fn a_question_mark_means_again() {
        assert_eq!(parse("x").unwrap_err().class(), FailureClass::Retryable);
    }

    #[test]
    fn or_permanent_means_never_and_names_the_cause() {
        let error = "x".parse::<u8>().or_permanent("the plan is not a number").unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        let text = error.to_string();
        assert!(
            text.starts_with("the plan is not a number: ") && text.ends_with("::ParseIntError"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_value_can_be_permanent() {
        let error = None::<u8>.or_permanent("no plan").unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
    }

    #[test]
    fn each_kind_of_failure_has_a_name_and_only_one_kind_is_final() {
        use FailureKind::{Panicked, Permanent, Retryable, SkippedByBreaker, TimedOut, Unfinished};
        let kinds = [Retryable, Permanent, Unfinished, Panicked, TimedOut, SkippedByBreaker];
        let names = ["retryable", "permanent", "unfinished", "panicked", "timed_out", "skipped_by_breaker"];
        assert_eq!(kinds.map(FailureKind::name), names);
        let is_final = |kind: &FailureKind| kind.class() == FailureClass::Permanent;
        assert_eq!(kinds.into_iter().filter(is_final).collect::<Vec<_>>(), [Permanent]);
    }

    #[test]
    fn only_a_code_is_repeated() {
        for code in [
            &*"x".repeat(80),
            "ThrottlingException",
            "AWS.SimpleQueueService.NonExistentQueue",
            "INVALID_ARGUMENT",
        ] {
            assert_eq!(service_code(code), Some(code));
        }
        for other in ["", "<html>+254705408079</html>", "Hi Mary!", &"x".repeat(81)] {
            assert_eq!(service_code(other), None, "{other}");
        }
    }

    #[test]
    fn the_text_of_an_error_is_taken_along_only_where_it_is_asked_for() {
        let quote = || serde_json::from_str::<u8>(r#""+254705408079""#).unwrap_err();
        for error in [HandlerError::from(quote()), Err::<u8, _>(quote()).or_permanent("no").unwrap_err()] {
            assert!(!format!("{error} {error:?}").contains("2547"), "{error:?}");
        }
        assert!(HandlerError::quoting(quote()).to_string().contains("2547"));
    }
}
