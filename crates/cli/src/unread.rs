//! Something that a command reads beside other things: if it cannot be read, the command says why, and goes on.

use std::fmt;

use learnink_aws::CallError;

use crate::aws::request::RequestError;

/// Something that was read, or why not.
pub(crate) type Read<T> = Result<T, Unread>;

/// Why something was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The stack has no such output.
    NoOutput(&'static str),
    /// It was not asked for.
    Skipped,
    /// The call failed.
    Call {
        /// The right that it needs, such as `lambda:GetAlias`.
        action: &'static str,
        /// Whether that right is missing.
        is_denied: bool,
        why: String,
    },
}

impl Unread {
    pub(crate) fn call(action: &'static str, error: &RequestError) -> Self {
        let is_denied = matches!(error, RequestError::Denied { .. });
        Self::Call { action, is_denied, why: error.to_string() }
    }

    /// The failure of an SDK's call.
    pub(crate) fn sdk(action: &'static str, error: CallError) -> Self {
        Self::call(action, &RequestError::of_sdk(action, error))
    }

    /// A failure that is not one of a single call.
    pub(crate) fn other(action: &'static str, why: impl fmt::Display) -> Self {
        Self::Call { action, is_denied: false, why: why.to_string() }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOutput(output) => write!(f, "the stack has no output {output}"),
            Self::Skipped => f.write_str("not asked for"),
            Self::Call { is_denied: true, why, .. } => f.write_str(why),
            Self::Call { action, why, .. } => write!(f, "{action} failed: {why}"),
        }
    }
}
