//! Personal data that cannot be printed by accident.

use std::fmt;

use serde::Deserialize;

/// Personal data: a phone number, a name, the text of a notification.
///
/// It deserialises like the value inside. `Debug` hides it, and `Display` and `Serialize` are missing on purpose.
/// So it reaches a log, a metric or an error only by an explicit [`Personal::expose`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Personal<T>(T);

impl<T> Personal<T> {
    /// Marks `value` as personal.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it: never for a log, metric or error.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[personal]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_personal_is_read_and_never_printed() {
        let name: Personal<String> = serde_json::from_str(r#""Mary""#).unwrap();
        assert_eq!((format!("{name:?}"), name.expose().as_str()), ("[personal]".to_owned(), "Mary"));
    }
}
