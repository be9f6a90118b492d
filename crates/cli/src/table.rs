//! Rows as a person reads them, or as JSON.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use serde::Serialize;

/// Prints rows that tell of `count` things; `empty` is what to say without any.
pub(crate) fn print<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    count: usize,
    empty: &str,
) -> anyhow::Result<()> {
    if count == 0 {
        return line(empty);
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table.add_rows(rows.map(|row| row.map(|cell| one_line(&cell))));
    line(&format!("{table}\n{count} in all"))
}

/// Prints rows as a JSON array.
pub(crate) fn print_json<T: Serialize>(rows: &[T]) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(rows)?)
}

fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // `learnink learners | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot print"),
    }
}

/// A time for a person, with a space at which a narrow column may break it.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Text from elsewhere, without what a terminal would obey.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        assert_eq!(one_line("busy\u{1b}[2J\nnow"), "busy [2J now");
    }
}
