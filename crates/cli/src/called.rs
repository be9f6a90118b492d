//! How this program was called, so that the commands that it prints can be typed in the same way.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::LazyLock;

use learnink_local::terminal::quoted;

use crate::variable;

/// The program's names in the texts of `--help`; see [`in_text`].
const IN_TEXTS: (&str, &str) = ("cargo learnink", "cargo dev");

static NAMES: LazyLock<(String, String)> =
    LazyLock::new(|| names(variable("CARGO_PKG_NAME").as_deref(), std::env::args_os().next()));

/// The words before the name of a command: `cargo learnink`, or the program as it was typed.
pub(crate) fn learnink() -> &'static str {
    &NAMES.0
}

/// The command that starts the pipeline: `cargo dev`, or the program and `dev`.
pub(crate) fn dev() -> &'static str {
    &NAMES.1
}

/// The error's text if no `learnink dev` runs whose state is in this folder.
pub(crate) fn not_running(folder: &Path) -> String {
    format!(
        "`learnink dev` is not running in {}; start `{}`, or name a deployed stack with --stack",
        quoted(folder),
        dev()
    )
}

/// Cargo says for which package it runs a program. A program that was started by another package's, such as a
/// test, was not called by the alias.
fn names(package: Option<&str>, program: Option<OsString>) -> (String, String) {
    if package == Some(env!("CARGO_PKG_NAME")) {
        return (IN_TEXTS.0.to_owned(), IN_TEXTS.1.to_owned());
    }
    let program = program.filter(|program| !program.is_empty());
    let learnink = quoted(program.as_deref().unwrap_or(OsStr::new("learnink")));
    let dev = format!("{learnink} dev");
    (learnink, dev)
}

/// A text of `--help` with the names under which the program was called.
pub(crate) fn in_text(text: &str, learnink: &str, dev: &str) -> String {
    text.replace(IN_TEXTS.0, learnink).replace(IN_TEXTS.1, dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_starts_as_what_was_typed() {
        let names = |package, program: &str| names(package, Some(program.into()));
        let pair = |learnink: &str, dev: &str| (learnink.to_owned(), dev.to_owned());
        let by_cargo = names(Some("learnink-cli"), "target/debug/learnink");
        assert_eq!(by_cargo, pair("cargo learnink", "cargo dev"));
        assert_eq!(names(None, "learnink"), pair("learnink", "learnink dev"));
        let by_path = pair("'/opt/learn ink/learnink'", "'/opt/learn ink/learnink' dev");
        assert_eq!(names(Some("learnink-tests"), "/opt/learn ink/learnink"), by_path);
        assert_eq!(names(None, ""), pair("learnink", "learnink dev"));
    }

    #[test]
    fn the_texts_of_the_help_follow() {
        let text = "cargo learnink send, `learnink dev`, cargo dev";
        assert_eq!(in_text(text, "learnink", "learnink dev"), "learnink send, `learnink dev`, learnink dev");
        assert_eq!(in_text(text, IN_TEXTS.0, IN_TEXTS.1), text);
    }
}
