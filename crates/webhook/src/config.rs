//! How configuration is read: through a lookup, so that tests pass a closure over a list.

use std::borrow::Cow;

/// A required variable that is not set, or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not set; set it to {holds}")]
pub struct MissingVariable {
    /// The environment variable.
    pub variable: Cow<'static, str>,
    /// What it has to hold.
    pub holds: Cow<'static, str>,
}

/// A variable because of which a function cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not set.
    #[error(transparent)]
    Missing(#[from] MissingVariable),
    /// Its value cannot be used. The value is left out: it may be a secret.
    #[error("{variable} cannot be used: {problem}")]
    Unusable {
        /// The environment variable.
        variable: Cow<'static, str>,
        /// What is wrong with it, and what to do about it.
        problem: String,
    },
}

impl ConfigError {
    /// A variable is not set; `holds` completes "set it to ...".
    pub fn missing(variable: impl Into<Cow<'static, str>>, holds: impl Into<Cow<'static, str>>) -> Self {
        Self::Missing(MissingVariable { variable: variable.into(), holds: holds.into() })
    }

    /// What is wrong with a variable, and what to do about it.
    pub fn unusable(variable: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self::Unusable { variable: variable.into(), problem: problem.into() }
    }
}

/// The value of `variable`, trimmed; `None` if it is not set, or empty: templates and shells set omitted variables
/// to an empty text.
pub fn optional(lookup: impl Fn(&str) -> Option<String>, variable: &str) -> Option<String> {
    let value = lookup(variable)?;
    Some(trimmed(&value).to_owned()).filter(|value| !value.is_empty())
}

/// The value of `variable`, which holds `holds`, trimmed.
///
/// # Errors
///
/// [`MissingVariable`] when `lookup` finds nothing, or nothing but white space.
pub fn required(
    lookup: impl Fn(&str) -> Option<String>,
    variable: &'static str,
    holds: &'static str,
) -> Result<String, MissingVariable> {
    optional(lookup, variable)
        .ok_or(MissingVariable { variable: Cow::Borrowed(variable), holds: Cow::Borrowed(holds) })
}

/// A text without the white space and the invisible characters around it, such as the byte order mark that
/// PowerShell writes in front of a file.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// The pairs of quotes around a text.
const QUOTES: [(char, char); 5] =
    [('"', '"'), ('\'', '\''), ('`', '`'), ('\u{201c}', '\u{201d}'), ('\u{2018}', '\u{2019}')];

/// A stored secret, without the white space, invisible characters and quotes (of a shell, a JSON text or a word
/// processor) around it.
pub fn unquoted(secret: &str) -> &str {
    let within = |secret: &str| {
        let ends = QUOTES
            .into_iter()
            .find(|(open, close)| secret.strip_prefix(*open).is_some_and(|rest| rest.ends_with(*close)));
        ends.map(|(open, close)| open.len_utf8()..secret.len() - close.len_utf8())
    };
    let mut secret = trimmed(secret);
    while let Some(range) = within(secret) {
        secret = trimmed(secret.get(range).unwrap_or_default());
    }
    secret
}

/// The secrets of a list that is separated by white space, each without quotes and invisible characters around it:
/// base64 contains none of these.
pub fn listed_secrets(secrets: &str) -> impl Iterator<Item = &str> {
    let is_quote = |c: char| QUOTES.iter().any(|(open, close)| c == *open || c == *close);
    let parts = secrets.split_whitespace();
    parts
        .map(move |part| part.trim_matches(|c| is_invisible(c) || is_quote(c)))
        .filter(|part| !part.is_empty())
}

/// Whether a character is invisible and not white space: marks of byte order and of direction, joiners, soft
/// hyphens.
/// Source: Unicode Standard, `Default_Ignorable_Code_Point`, as far as copied text has them.
pub const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        for (value, expected) in [
            (None, None),
            (Some(""), None),
            (Some(" \t\n"), None),
            (Some("\u{feff}\u{200b}\u{a0}"), None),
            (Some("x"), Some("x")),
            (Some("\u{feff}\u{a0}x y\u{2060}\r\n"), Some("x y")),
        ] {
            let lookup = |_: &str| value.map(str::to_owned);
            assert_eq!(optional(lookup, "V").as_deref(), expected, "{value:?}");
            let missing = MissingVariable { variable: "V".into(), holds: "a value".into() };
            assert_eq!(required(lookup, "V", "a value"), expected.map(str::to_owned).ok_or(missing));
        }
    }

    #[test]
    fn a_secret_is_what_is_within_its_quotes() {
        for (stored, secret) in [
            ("whsec_a", "whsec_a"),
            ("\u{feff}whsec_a\n", "whsec_a"),
            ("\"whsec_a\"", "whsec_a"),
            (" '\u{200b}whsec_a ' ", "whsec_a"),
            ("\u{201c}whsec_a\u{201d}", "whsec_a"),
            ("'\"a b\"'", "a b"),
            ("\"a", "\"a"),
            ("a\"b", "a\"b"),
            ("\"", "\""),
            ("''", ""),
            ("", ""),
        ] {
            assert_eq!(unquoted(stored), secret, "{stored:?}");
        }
    }

    #[test]
    fn a_list_of_secrets_may_be_quoted_as_a_whole_or_one_by_one() {
        for stored in
            ["a b", "\"a b\"", "'a' 'b'", "\u{feff}a\r\n\u{200b}\r\n\u{201c}b\u{201d}", "a\u{a0}b\u{2060}"]
        {
            assert_eq!(listed_secrets(stored).collect::<Vec<_>>(), ["a", "b"], "{stored:?}");
        }
        assert_eq!(listed_secrets("\u{feff} \"\"").next(), None);
    }
}
