//! How a handler says *again* or *never*.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What a failure means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// May succeed later: the message is delivered again.
    Retryable,
    /// Never will: the message goes to the dead-letter queue at once.
    Permanent,
}

/// What a handler returns.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a handler did not finish, and whether trying again can help.
///
/// `?` on any error means *again*, because a wasted attempt is cheaper than a lost message.
/// [`OrPermanent::or_permanent`] means *never*.
///
/// Like `anyhow::Error` it is not itself a [`std::error::Error`], so that `?` can convert from
/// every type that is.
#[derive(Debug)]
pub struct HandlerError {
    class: FailureClass,
    reason: String,
    retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl HandlerError {
    /// The work may succeed later. `reason` is logged: no payload, no personal data.
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { class: FailureClass::Retryable, reason: reason.into(), retry_after: None, source: None }
    }

    /// The work will never succeed. `reason` is logged and travels with the message to the
    /// dead-letter queue: no payload, no personal data.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { class: FailureClass::Permanent, ..Self::retryable(reason) }
    }

    /// Asks for at least `delay` before the next attempt, as a downstream's `Retry-After` does.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Again or never.
    pub const fn class(&self) -> FailureClass {
        self.class
    }

    /// The shortest wait the handler asked for, if it did.
    pub const fn minimum_delay(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// The reason, then its causes, joined by colons.
impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        let mut source = self.source.as_deref().map(|error| error as &dyn Error);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable("the handler failed").caused_by(error)
    }
}

/// `.or_permanent("why")`: turns a failure, or a missing value, into *never*.
pub trait OrPermanent<T> {
    /// Says that trying again cannot help, and why.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlerError`] when there is no value; the cause, if any, is kept.
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError>;
}

impl<T, E: Error + Send + Sync + 'static> OrPermanent<T> for Result<T, E> {
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError> {
        self.map_err(|error| HandlerError::permanent(reason).caused_by(error))
    }
}

impl<T> OrPermanent<T> for Option<T> {
    fn or_permanent(self, reason: &'static str) -> Result<T, HandlerError> {
        self.ok_or_else(|| HandlerError::permanent(reason))
    }
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
    fn or_permanent_means_never_and_keeps_the_cause() {
        let error = "x".parse::<u8>().or_permanent("the plan is not a number").unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(error.to_string(), "the plan is not a number: invalid digit found in string");
    }

    #[test]
    fn a_missing_value_can_be_permanent() {
        let error = None::<u8>.or_permanent("no plan").unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
    }
}
