//! The one place that prints. Foreign text cannot control the terminal, and an output that cannot be written is an
//! error instead of a panic.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use learnink_local::terminal::{visible, visible_json};

/// How parts of a line look on a terminal.
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const PENDING: Style = AnsiColor::Yellow.on_default();

/// The exit code of wrong use, as clap has it.
pub(crate) const WRONG_USE: u8 = 2;

/// One line to print. Only [`styled`](Self::styled) adds control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(String);

impl Line {
    /// A line that starts with `text`.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::default().text(text)
    }

    /// A row of cells with a tab between them.
    pub(crate) fn row(cells: &[String]) -> Self {
        let cells: Vec<_> = cells.iter().map(|cell| visible(cell)).collect();
        Self(cells.join("\t"))
    }

    /// Adds text from anywhere.
    pub(crate) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.0.push_str(&visible(text.as_ref()));
        self
    }

    /// Adds text in a style.
    pub(crate) fn styled(mut self, style: Style, text: impl AsRef<str>) -> Self {
        // Writing to a `String` does not fail.
        let _ = write!(self.0, "{style}{}{style:#}", visible(text.as_ref()));
        self
    }

    /// The line without styles.
    #[cfg(test)]
    pub(crate) fn plain(&self) -> String {
        anstream::adapter::strip_str(&self.0).to_string()
    }
}

impl<T: AsRef<str>> From<T> for Line {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Prints a line. A reader that stops early, such as `head`, is not an error.
pub(crate) fn print(line: impl Into<Line>) -> anyhow::Result<()> {
    write(&mut anstream::stdout(), &line.into().0).context(CANNOT_PRINT)
}

/// Prints valid JSON, on lines of its own.
pub(crate) fn print_json(json: &str) -> anyhow::Result<()> {
    write(&mut io::stdout(), &visible_json(json)).context(CANNOT_PRINT)
}

/// Prints a script of this program's own, as it is.
pub(crate) fn print_script(script: &str) -> anyhow::Result<()> {
    write(&mut io::stdout(), script.trim_end()).context(CANNOT_PRINT)
}

/// Prints a note on standard error, beside the command's output.
pub(crate) fn note(line: impl Into<Line>) -> anyhow::Result<()> {
    write(&mut anstream::stderr(), &line.into().0).context("cannot write to standard error")
}

/// A progress bar on a terminal.
pub(crate) fn progress(count: usize, done: &str) -> anyhow::Result<ProgressBar> {
    let progress = ProgressBar::new(count.try_into()?);
    let template = format!("{{bar:40}} {{human_pos}}/{{human_len}} {done}, {{per_sec}}, {{eta}} left");
    progress.set_style(ProgressStyle::with_template(&template)?);
    Ok(progress)
}

/// Does something unless the output is JSON.
pub(crate) fn say(json: bool, say: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if json { Ok(()) } else { say() }
}

/// The exit code by whether everything is done.
pub(crate) fn exit(is_all: bool) -> ExitCode {
    if is_all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints why the command failed. If that cannot be written, it is lost.
pub(crate) fn error(error: &anyhow::Error) {
    let red = AnsiColor::Red.on_default().bold();
    let _ = note(Line::default().styled(red, "error:").text(format!(" {error:#}")));
}

/// The error's text if standard output is full.
pub(crate) const CANNOT_PRINT: &str = "cannot print";

fn write(output: &mut impl Write, text: &str) -> io::Result<()> {
    let written = writeln!(output, "{text}").and_then(|()| output.flush());
    written.or_else(|error| if is_closed(&error) { Ok(()) } else { Err(error) })
}

/// Whether nobody reads the output any more.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Help, or the problem with the arguments. It is the text of `clap`, which quotes the arguments.
pub(crate) fn usage(mut error: clap::Error) -> anyhow::Result<()> {
    let typed: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in typed {
        if let Some(shown) = shown(value) {
            error.insert(kind, shown);
        }
    }
    let text = error.render().ansi().to_string();
    let text = text.trim_end();
    if error.use_stderr() {
        write(&mut anstream::stderr(), text).context("cannot write to standard error")
    } else {
        write(&mut anstream::stdout(), text).context(CANNOT_PRINT)
    }
}

/// A part of the text of `clap`, if it must not be printed as it is.
fn shown(value: clap::error::ContextValue) -> Option<clap::error::ContextValue> {
    use clap::error::ContextValue as V;
    let is_hidden = |text: &str| matches!(visible(text), Cow::Owned(_));
    match value {
        V::String(text) => Some(V::String(visible(&text).into_owned())),
        V::Strings(texts) => Some(V::Strings(texts.iter().map(|text| visible(text).into_owned()).collect())),
        // Suggestions, which `clap` makes from the arguments, with its own styles in between.
        V::StyledStrs(texts) => {
            let texts = texts.into_iter().filter(|text| !is_hidden(&unstyled(&text.ansi().to_string())));
            Some(V::StyledStrs(texts.collect()))
        }
        V::None | V::Bool(_) | V::StyledStr(_) | V::Number(_) => None,
        // `clap` may add more kinds.
        _ => Some(V::None),
    }
}

/// Text without the styles of `clap`, and otherwise unchanged.
fn unstyled(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        match part.split_once('m') {
            Some((style, rest)) if style.bytes().all(|byte| byte.is_ascii_digit() || byte == b';') => {
                text.push_str(rest);
            }
            _ => {
                text.push_str("\u{1b}[");
                text.push_str(part);
            }
        }
        text
    })
}

/// Standard error for the logs of libraries, one line for each event.
#[derive(Debug)]
pub(crate) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        writeln!(io::stderr(), "{}", visible(text.trim_end_matches('\n')))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints a panic on one line, like everything else. The output may be full then, too.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = note(panic.to_string().replacen(":\n", ": ", 1));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            for line in trace.to_string().lines() {
                let _ = note(line);
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let bold = Style::new().bold();
        let line = Line::new("busy\u{1b}[2J\nnow").styled(bold, "\u{1b}[0m\u{202e}x");
        assert_eq!(line.0, "busy\\u{1b}[2J\\nnow\u{1b}[1m\\u{1b}[0m\\u{202e}x\u{1b}[0m");
        assert_eq!(line.plain(), "busy\\u{1b}[2J\\nnow\\u{1b}[0m\\u{202e}x");
    }

    #[test]
    fn what_was_typed_cannot_steer_the_terminal() {
        for arguments in [
            ["learnink", "send", "--url", "\u{1b}[2J\n\u{202e}"],
            ["learnink", "send", "--count", "1\u{1b}]0;x\u{7}"],
            ["learnink", "send", "--\u{1b}[2J", "x"],
            ["learnink", "\u{1b}[2J\u{202e}", "x", "y"],
            ["learnink", "learners", "extra\u{1b}[2J", "\u{202e}"],
            ["learnink", "archive", "export\u{1b}[31mx", "y"],
        ] {
            let mut error =
                crate::command("learnink", "learnink dev").try_get_matches_from(arguments).unwrap_err();
            let typed: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
            for (kind, value) in typed {
                if let Some(shown) = shown(value) {
                    error.insert(kind, shown);
                }
            }
            let text = unstyled(&error.render().ansi().to_string());
            assert!(text.lines().all(|line| matches!(visible(line), Cow::Borrowed(_))), "{text:?}");
            assert!(text.contains("error:"), "{text:?}");
        }
    }
}
