//! Rows for a person, or as JSON.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use jiff::Timestamp;
use learnink_local::terminal::visible;
use serde::Serialize;

use crate::output::{self, Line};

/// A column's name, and how its cells are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// A value to paste elsewhere, such as an id: never on more than one line.
    Id(&'static str),
    /// Text, which a narrow column wraps between words.
    Text(&'static str),
    /// A number, on the right.
    Number(&'static str),
}

impl Column {
    const fn name(self) -> &'static str {
        match self {
            Self::Id(name) | Self::Text(name) | Self::Number(name) => name,
        }
    }
}

/// Prints rows about `count` things; without any, prints `empty`.
pub(crate) fn print<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    count: usize,
    empty: &str,
) -> anyhow::Result<()> {
    if count == 0 {
        return output::print(empty);
    }
    print_rows(columns, rows)?;
    output::print(format!("{count} in all"))
}

/// Prints rows.
pub(crate) fn print_rows<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> anyhow::Result<()> {
    lay_out(columns, rows, terminal_width()).into_iter().try_for_each(output::print)
}

/// Prints rows as a JSON array.
pub(crate) fn print_json<T: Serialize>(rows: &[T]) -> anyhow::Result<()> {
    output::print_json(&serde_json::to_string_pretty(rows)?)
}

/// A time for a person, with a space at which a narrow column may break it.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The terminal's width in columns; `None` if there is no terminal, or its width is unknown.
fn terminal_width() -> Option<u16> {
    Table::new().width().filter(|width| *width > 0)
}

/// The lines of a table: for a terminal a table that fits, or else a paragraph for each row; without one, cells
/// with tabs between them.
fn lay_out<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    width: Option<u16>,
) -> Vec<Line> {
    let rows: Vec<_> = rows.map(|row| row.map(|cell| visible(&cell).into_owned())).collect();
    let Some(width) = width else {
        let header = columns.map(|column| column.name().to_owned());
        return std::iter::once(&header).chain(&rows).map(|row| Line::row(row)).collect();
    };
    let table = table(columns, &rows, width);
    let fits = table.first().is_none_or(|border| border.chars().count() <= width.into());
    let lines = if fits { table } else { paragraphs(columns, &rows, width.into()) };
    lines.into_iter().map(Line::from).collect()
}

/// A table that is as narrow as `width` if whole words and ids allow it.
fn table<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: &[[String; COLUMNS]],
    width: u16,
) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(columns.map(Column::name)).add_rows(rows);
    for (index, column) in columns.into_iter().enumerate() {
        let Some(laid_out) = table.column_mut(index) else { continue };
        match column {
            Column::Id(_) => {
                laid_out.set_constraint(ColumnConstraint::ContentWidth);
            }
            Column::Text(_) | Column::Number(_) => {
                let cells = rows.iter().filter_map(|row| row.get(index).map(String::as_str));
                let words = cells.chain([column.name()]).flat_map(|cell| cell.split(' '));
                let longest = words.map(|word| word.chars().count()).max().unwrap_or_default();
                // With a space on both sides.
                let narrowest = Width::Fixed(u16::try_from(longest + 2).unwrap_or(u16::MAX));
                laid_out.set_constraint(ColumnConstraint::LowerBoundary(narrowest));
            }
        }
        if let Column::Number(_) = column {
            laid_out.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Each row as a paragraph: a name and a value on a line, or on two if they do not fit on one.
fn paragraphs<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: &[[String; COLUMNS]],
    width: usize,
) -> Vec<String> {
    let names = columns.map(Column::name);
    let indent = names.iter().map(|name| name.len()).max().unwrap_or_default() + 2;
    let mut lines = Vec::new();
    for row in rows {
        for (column, cell) in columns.iter().zip(row) {
            let name = column.name();
            if indent + cell.chars().count() <= width {
                lines.push(format!("{name:indent$}{cell}"));
            } else if let Column::Text(_) = column {
                lines.push(name.to_owned());
                lines.extend(wrapped(cell, width));
            } else {
                lines.extend([name.to_owned(), cell.clone()]);
            }
        }
        lines.push(String::new());
    }
    lines
}

/// The lines of a text, broken only at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::Id("Message id"),
        Column::Text("Received"),
        Column::Number("Receive count"),
        Column::Text("Reason"),
    ];
    const IDS: [&str; 2] = ["msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbE", "msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbF"];
    const REASON: &str = "the endpoint of msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbX answered 503 five times in a row";

    fn rows() -> impl Iterator<Item = [String; 4]> {
        IDS.into_iter().map(|id| [id, "2026-01-02 08:00:00Z", "7", REASON].map(str::to_owned))
    }

    fn lines(rows: impl Iterator<Item = [String; 4]>, width: Option<u16>) -> Vec<String> {
        lay_out(COLUMNS, rows, width).iter().map(Line::plain).collect()
    }

    #[test]
    fn ids_and_words_are_whole_whatever_the_width() {
        for width in 1..=250 {
            let lines = lines(rows(), Some(width));
            let text = lines.join("\n");
            for word in IDS.into_iter().chain(REASON.split(' ')) {
                assert!(text.contains(word), "{word} at {width}:\n{text}");
            }
            let longest = lines.iter().map(|line| line.chars().count()).max().unwrap();
            // A word that is longer than the terminal is wide has its own line.
            assert!(longest <= usize::from(width).max(IDS[0].len()), "{longest} at {width}:\n{text}");
        }
    }

    #[test]
    fn a_table_is_one_where_it_fits_and_paragraphs_where_it_does_not() {
        let wide = lines(rows(), Some(250));
        assert_eq!(wide.len(), 7, "{wide:?}");
        let narrow = lines(rows(), Some(60)).join("\n");
        let paragraph = "Message id     msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbE\n\
            Received       2026-01-02 08:00:00Z\n\
            Receive count  7\n\
            Reason\n\
            the endpoint of msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbX answered 503\n\
            five times in a row\n\n";
        assert!(narrow.starts_with(paragraph), "{narrow}");
    }

    #[test]
    fn without_a_terminal_no_cell_is_padded() {
        let lines = lines(rows(), None);
        assert_eq!(lines[0], "Message id\tReceived\tReceive count\tReason");
        assert_eq!(lines[1], format!("{}\t2026-01-02 08:00:00Z\t7\t{REASON}", IDS[0]));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_cell_is_one_line_and_one_column_whatever_is_in_it() {
        let row = ["a\tb", "c\nd", "1", "\u{1b}[2J\u{202e}"].map(str::to_owned);
        let lines = lines(std::iter::once(row), None);
        assert_eq!(lines[1], "a\\tb\tc\\nd\t1\t\\u{1b}[2J\\u{202e}");
    }
}
