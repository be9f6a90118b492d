//! Rows as a person reads them, or as JSON.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use learnink_local::terminal::visible;
use serde::Serialize;

use crate::output;

/// Prints rows that tell of `count` things; `empty` is what to say without any.
pub(crate) fn print<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    count: usize,
    empty: &str,
) -> anyhow::Result<()> {
    if count == 0 {
        return output::print(empty);
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table.add_rows(rows.map(|row| row.map(|cell| visible(&cell).into_owned())));
    table.to_string().lines().try_for_each(output::print)?;
    output::print(format!("{count} in all"))
}

/// Prints rows as a JSON array.
pub(crate) fn print_json<T: Serialize>(rows: &[T]) -> anyhow::Result<()> {
    output::print_json(&serde_json::to_string_pretty(rows)?)
}

/// A time for a person, with a space at which a narrow column may break it.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
