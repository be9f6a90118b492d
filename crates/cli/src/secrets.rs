//! Signing secrets as people hand them over.

use std::path::Path;

use anyhow::Context;
use console::Term;
use learnink_local::terminal::quoted;
use learnink_webhook::config::listed_secrets;

use crate::input;

/// Secrets without what editors, shells and `.env` files put around them: a byte order mark, quotes.
pub(crate) fn without_wrapping(secrets: &str) -> String {
    listed_secrets(secrets).collect::<Vec<_>>().join(" ")
}

/// The secrets in a file; `-` is standard input.
pub(crate) fn in_file(file: &Path) -> anyhow::Result<String> {
    Ok(without_wrapping(&text_in_file(file)?))
}

/// The text of a file; `-` is standard input.
pub(crate) fn text_in_file(file: &Path) -> anyhow::Result<String> {
    let bytes = input::read(file)?;
    anyhow::ensure!(
        !bytes.starts_with(b"\xff\xfe") && !bytes.starts_with(b"\xfe\xff"),
        "{} is UTF-16, which PowerShell's `>` writes; save it as UTF-8",
        quoted(file)
    );
    String::from_utf8(bytes).ok().with_context(|| format!("{} is not text", quoted(file)))
}

/// Asks for `what` on the terminal, which does not show it.
pub(crate) fn ask(what: &str) -> anyhow::Result<String> {
    let terminal = Term::stderr();
    terminal.write_str(&format!("{what} (not shown): ")).context("cannot write to standard error")?;
    terminal.read_secure_line().context("cannot read the secret from the terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_secret_is_left_out() {
        for text in ["\u{feff}whsec_a", "\"whsec_a\"", "'whsec_a'\r\n", "\u{feff}\"whsec_a\"", " whsec_a\t"] {
            assert_eq!(without_wrapping(text), "whsec_a", "{text:?}");
        }
        assert_eq!(without_wrapping("\"whsec_a whsec_b\"\n'whsec_c'"), "whsec_a whsec_b whsec_c");
        assert_eq!(without_wrapping("\u{feff} \"\""), "");
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret file");
        std::fs::write(&file, b"\xff\xfew\0h\0").unwrap();
        let error = in_file(&file).unwrap_err().to_string();
        assert!(
            error.ends_with("secret file' is UTF-16, which PowerShell's `>` writes; save it as UTF-8"),
            "{error}"
        );
        std::fs::write(&file, b"whsec_\xc3").unwrap();
        assert!(in_file(&file).unwrap_err().to_string().ends_with("is not text"));
    }
}
