//! How configuration is read: through a lookup, so that tests pass a closure over a list.

/// A variable that has to be set and isn't, or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not set; set it to {holds}")]
pub struct MissingVariable {
    /// The environment variable.
    pub variable: &'static str,
    /// What belongs there.
    pub holds: &'static str,
}

/// A variable that keeps a function from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not set.
    #[error(transparent)]
    Missing(#[from] MissingVariable),
    /// It holds something else than it should. Its value is left out: it may be a secret.
    #[error("{variable} cannot be used: {problem}")]
    Unusable {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it, and what to do about it.
        problem: String,
    },
}

impl ConfigError {
    /// What is wrong with a variable, and what to do about it.
    pub fn unusable(variable: &'static str, problem: impl Into<String>) -> Self {
        Self::Unusable { variable, problem: problem.into() }
    }
}

/// The value of `variable`, unless it is not set, or only white space.
pub fn optional(lookup: impl Fn(&str) -> Option<String>, variable: &str) -> Option<String> {
    lookup(variable).filter(|value| !value.trim().is_empty())
}

/// The value of `variable`, which holds `holds`.
///
/// # Errors
///
/// [`MissingVariable`] when `lookup` finds nothing, or only white space.
pub fn required(
    lookup: impl Fn(&str) -> Option<String>,
    variable: &'static str,
    holds: &'static str,
) -> Result<String, MissingVariable> {
    optional(lookup, variable).ok_or(MissingVariable { variable, holds })
}
