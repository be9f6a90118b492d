//! A question before something is moved or deleted, and Ctrl-C while it is.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Context;
use learnink_local::terminal::visible;
use tokio::sync::{oneshot, watch};

/// Options of commands that move or delete something.
#[derive(Debug, clap::Args)]
pub(crate) struct Consent {
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
}

/// There is nobody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no terminal to ask on; nothing was done. Add --yes to do it, or --dry-run to see what it would do"
)]
pub(crate) struct NoTerminal;

impl Consent {
    /// Whether the answer is given already, so that nobody sees the question.
    pub(crate) const fn is_given(&self) -> bool {
        self.yes
    }

    /// Fails if a question could not be asked.
    pub(crate) fn check(&self) -> Result<(), NoTerminal> {
        if self.yes || io::stdin().is_terminal() { Ok(()) } else { Err(NoTerminal) }
    }

    /// Asks, unless `--yes` has answered.
    pub(crate) async fn ask(&self, question: &str) -> anyhow::Result<Answer> {
        if self.yes {
            return Ok(Answer::Yes);
        }
        self.check()?;
        let mut error = anstream::stderr();
        let asked = write!(error, "{} [y/N] ", visible(question)).and_then(|()| error.flush());
        asked.context("cannot write to standard error")?;
        let (sender, answer) = oneshot::channel();
        // A thread that nobody waits for: Ctrl-C ends the program although it still reads.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = io::stdin().lock().read_line(&mut line).map(|_| line);
            let _ = sender.send(read);
        });
        let line = answer.await.context("the answer was lost")?.context("cannot read the answer")?;
        Ok(understood(&line))
    }
}

/// What a typed line says.
fn understood(line: &str) -> Answer {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Answer::Yes,
        _ => Answer::No,
    }
}

/// Whether Ctrl-C was pressed.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Watches for Ctrl-C from now on. The second one ends the program at once.
    pub(crate) fn watch() -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            // An error means that there is no such signal.
            while tokio::signal::ctrl_c().await.is_ok() {
                if sender.send_replace(true) {
                    std::process::exit(130);
                }
            }
        });
        Self(receiver)
    }

    /// Whether it was pressed.
    pub(crate) fn came(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is pressed.
    pub(crate) async fn wait(&mut self) {
        if self.0.wait_for(|came| *came).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (line, expected) in [
            ("y\n", Answer::Yes),
            (" YES \r\n", Answer::Yes),
            ("", Answer::No),
            ("\n", Answer::No),
            ("n\n", Answer::No),
            ("yesterday\n", Answer::No),
        ] {
            assert_eq!(understood(line), expected, "{line:?}");
        }
    }
}
