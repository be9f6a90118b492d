//! What a person pastes, or the name of a file with it.

use std::io::{self, BufRead};
use std::path::PathBuf;

use serde::de::IgnoredAny;

/// A terminal hands over so much of a line and drops the rest. Source: Linux, `termios(3)`, "canonical mode".
const LONGEST_LINE: usize = 4095;

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing.
    Nothing,
    /// The name of a file.
    File(PathBuf),
    /// JSON, or what was meant to be.
    Text {
        /// As it was pasted.
        text: String,
        /// Whether a line is as long as a terminal lets it be, so that its end may be missing.
        may_be_cut: bool,
    },
}

/// Reads an answer: a line without JSON is a file's name; JSON ends with an empty line, or with the input.
pub(crate) fn answer(input: &mut impl BufRead) -> io::Result<Answer> {
    let mut text = String::new();
    let mut may_be_cut = false;
    loop {
        let mut line = String::new();
        let is_end = input.read_line(&mut line)? == 0;
        let is_blank = line.trim().is_empty();
        if text.is_empty() {
            if is_end || is_blank {
                return Ok(Answer::Nothing);
            }
            if !line.trim_start_matches('\u{feff}').trim_start().starts_with(['{', '[']) {
                return Ok(Answer::File(PathBuf::from(unquoted(line.trim()))));
            }
        } else if is_end || (is_blank && serde_json::from_str::<IgnoredAny>(&text).is_ok()) {
            return Ok(Answer::Text { text, may_be_cut });
        }
        may_be_cut |= line.trim_end_matches(['\n', '\r']).len() >= LONGEST_LINE;
        text.push_str(&line);
    }
}

/// A file's name without the quotes that a file manager puts around it.
fn unquoted(name: &str) -> &str {
    let between = |quote| name.strip_prefix(quote)?.strip_suffix(quote);
    between('\'').or_else(|| between('"')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Answer {
        Answer::Text { text: text.to_owned(), may_be_cut: false }
    }

    #[test]
    fn json_ends_with_an_empty_line_and_the_next_answer_follows() {
        let mut input = "{\n\n \"a\": 1\n}\n\n/tmp/it.json\n'/tmp/a b'\n\n[1".as_bytes();
        let mut next = || answer(&mut input).unwrap();
        assert_eq!(next(), text("{\n\n \"a\": 1\n}\n"));
        assert_eq!(next(), Answer::File("/tmp/it.json".into()));
        assert_eq!(next(), Answer::File("/tmp/a b".into()));
        assert_eq!(next(), Answer::Nothing);
        assert_eq!(next(), text("[1"));
        assert_eq!(next(), Answer::Nothing);
    }

    #[test]
    fn a_line_that_a_terminal_may_have_cut_is_noticed() {
        let cut = format!("{{\"a\": \"{}\n", "x".repeat(LONGEST_LINE - 7));
        assert_eq!(answer(&mut cut.as_bytes()).unwrap(), Answer::Text { text: cut, may_be_cut: true });
    }
}
