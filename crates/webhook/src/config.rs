//! How configuration is read: through a lookup, so that tests pass a closure over a list.

/// A variable that has to be set and isn't, or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not set; it holds {holds}")]
pub struct MissingVariable {
    /// The environment variable.
    pub variable: &'static str,
    /// What belongs there.
    pub holds: &'static str,
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
    let value = lookup(variable).filter(|value| !value.trim().is_empty());
    value.ok_or(MissingVariable { variable, holds })
}
