//! The report: Markdown tables that are also readable in a terminal.

use std::fmt;

use crate::batch::{RECORD_BYTES, RECORDS};
use crate::statistics::ratio;
use crate::summary::{AtMemory, Start, Summary, Warm};
use crate::targets::Verdict;

/// The placeholder for an empty cell.
const NOTHING: &str = "–";

/// Cold starts, memory and size, one function a row; `×` is the share of the baseline.
pub(crate) fn cold_table(summaries: &[Summary], baseline: &Summary) -> String {
    let mut table = Table::new(&[
        "function",
        "init ms",
        "first request ms",
        "cold CPU ms",
        "×",
        "first request CPU ms",
        "×",
        "peak MiB",
        "×",
        "zip kB",
        "×",
    ]);
    for summary in summaries {
        let share = |figure: fn(&Summary) -> f64| times(ratio(figure(summary), figure(baseline)));
        table.row(vec![
            summary.name.to_owned(),
            format!("{:.1}", summary.init_ms),
            format!("{:.1}", summary.first_request_ms),
            format!("{:.1}", summary.cold_cpu_ms),
            share(|summary| summary.cold_cpu_ms),
            format!("{:.2}", summary.first_request_cpu_ms),
            share(|summary| summary.first_request_cpu_ms),
            format!("{:.1}", summary.peak_memory_mib),
            share(|summary| summary.peak_memory_mib),
            format!("{:.0}", summary.zip_kb),
            share(|summary| summary.zip_kb),
        ]);
    }
    table.render()
}

/// Warm invocations with webhooks of one size, one function a row.
pub(crate) fn warm_table(size_bytes: usize, summaries: &[Summary], baseline: &Summary) -> String {
    const FIGURES: [fn(&Warm) -> f64; 3] =
        [|warm| warm.cpu_us, |warm| warm.latency_us, |warm| warm.latency_p99_us];

    let first = format!("warm, {}", size(size_bytes));
    let mut table = Table::new(&[&first, "CPU µs", "×", "p50 µs", "×", "p99 µs", "×"]);
    for summary in summaries {
        let mut row = vec![summary.name.to_owned()];
        for figure in FIGURES {
            let value = summary.warm(size_bytes).map(figure);
            let compared = baseline.warm(size_bytes).map(figure);
            row.push(value.map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.0}")));
            row.push(times(value.zip(compared).and_then(|(value, compared)| ratio(value, compared))));
        }
        table.row(row);
    }
    table.render()
}

/// Consumers, which are not compared with anything, one a row.
pub(crate) fn batch_table(summaries: &[Summary]) -> String {
    let first = format!("batches of {RECORDS} × {}", size(RECORD_BYTES));
    let mut table = Table::new(&[
        &first,
        "init ms",
        "cold CPU ms",
        "CPU ms",
        "p50 ms",
        "p99 ms",
        "peak MiB",
        "zip kB",
        "DynamoDB calls",
        "round trips",
    ]);
    for summary in summaries {
        let warm = |figure: fn(&Warm) -> String| {
            summary.warm(RECORD_BYTES).map_or_else(|| NOTHING.to_owned(), figure)
        };
        table.row(vec![
            summary.name.to_owned(),
            format!("{:.1}", summary.init_ms),
            format!("{:.1}", summary.cold_cpu_ms),
            warm(|warm| format!("{:.2}", warm.cpu_us / 1e3)),
            warm(|warm| format!("{:.2}", warm.latency_us / 1e3)),
            warm(|warm| format!("{:.2}", warm.latency_p99_us / 1e3)),
            format!("{:.1}", summary.peak_memory_mib),
            format!("{:.0}", summary.zip_kb),
            warm(|warm| format!("{:.0}", warm.dynamodb_calls)),
            warm(|warm| format!("{:.0}", warm.dynamodb_round_trips)),
        ]);
    }
    table.render()
}

/// Starts of the consumer, one a row, with the difference to the first.
pub(crate) fn start_table(starts: &[Start]) -> String {
    let mut table = Table::new(&["consumer with", "init ms", "init CPU ms", "added"]);
    for start in starts {
        let added = starts.first().map(|first| start.init_cpu_ms - first.init_cpu_ms);
        table.row(vec![
            start.name.to_owned(),
            format!("{:.1}", start.init_ms),
            format!("{:.2}", start.init_cpu_ms),
            added.map_or_else(|| NOTHING.to_owned(), |added| format!("{added:.2}")),
        ]);
    }
    table.render()
}

/// A row of a table of functions side by side.
pub(crate) struct Figure {
    name: String,
    digits: usize,
    value: Box<Value>,
}

/// A function's figure, if it was measured.
type Value = dyn Fn(&Summary) -> Option<f64>;

impl Figure {
    /// A row with this name. `digits` of a value are shown after the point.
    pub(crate) fn new(
        name: impl Into<String>,
        digits: usize,
        value: impl Fn(&Summary) -> Option<f64> + 'static,
    ) -> Self {
        Self { name: name.into(), digits, value: Box::new(value) }
    }
}

impl fmt::Debug for Figure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Figure").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Functions side by side, one figure a row. The last columns are the first function's shares of the others.
pub(crate) fn beside_table(
    name: &str,
    labels: &[&str],
    summaries: &[&Summary],
    figures: &[Figure],
) -> String {
    let compared: Vec<String> = labels.iter().skip(1).map(|label| format!("× {label}")).collect();
    let mut header = vec![name];
    header.extend(labels);
    header.extend(compared.iter().map(String::as_str));
    let mut table = Table::new(&header);
    for figure in figures {
        let values: Vec<_> = summaries.iter().map(|summary| (figure.value)(summary)).collect();
        let ours = values.first().copied().flatten();
        let mut row = vec![figure.name.clone()];
        row.extend(values.iter().map(|value| decimal(*value, figure.digits)));
        let shares = values.iter().skip(1).map(|value| ours.zip(*value));
        row.extend(shares.map(|pair| times(pair.and_then(|(ours, other)| ratio(ours, other)))));
        table.row(row);
    }
    table.render()
}

/// Receivers with little memory, one a row; `×` is the share of the first function's cold start.
pub(crate) fn at_memory_table(labels: &[&str], functions: &[AtMemory]) -> String {
    let memory_mb = functions.first().map_or(0, |function| function.memory_mb);
    let first = format!("at {memory_mb} MB");
    let mut table =
        Table::new(&[&first, "init ms", "first webhook ms", "together ms", "×", "warm p50 ms", "p99 ms"]);
    let ours = functions.first().map(|function| function.cold_ms);
    for (label, function) in labels.iter().zip(functions) {
        table.row(vec![
            (*label).to_owned(),
            format!("{:.1}", function.init_ms),
            format!("{:.1}", function.first_request_ms),
            format!("{:.1}", function.cold_ms),
            times(ours.and_then(|ours| ratio(ours, function.cold_ms))),
            format!("{:.1}", function.warm_ms),
            format!("{:.1}", function.warm_p99_ms),
        ]);
    }
    table.render()
}

/// The headings for the limit and the measured value, in a table of targets that are shares of the baseline.
pub(crate) const SHARES: [&str; 2] = ["at most ×", "×"];

/// The same for targets that are figures.
pub(crate) const ABSOLUTE: [&str; 2] = ["at most", "measured"];

/// The targets, and whether they are met.
pub(crate) fn target_table([limit, measured]: [&str; 2], verdicts: &[Verdict]) -> String {
    let mut table = Table::new(&["target", limit, measured, "met"]);
    for verdict in verdicts {
        let name = verdict.target.name.to_owned();
        let met = match verdict.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        table.row(vec![name, times(Some(verdict.target.limit)), times(verdict.measured), met.to_owned()]);
    }
    table.render()
}

fn times(share: Option<f64>) -> String {
    decimal(share, 2)
}

fn decimal(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.digits$}"))
}

/// A size in the form of the targets: `400 B`, `10 kB`.
pub(crate) fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1000) { format!("{} kB", bytes / 1000) } else { format!("{bytes} B") }
}

/// A Markdown table: text to the left, figures to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                // At least three, to leave room for `--:`.
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
            })
            .collect();
        let rule = widths.iter().enumerate().map(|(column, width)| {
            if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
        });
        let rule: Vec<String> = rule.collect();
        let mut lines = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(line(row, &widths));
            if index == 0 {
                lines.push(line(&rule, &widths));
            }
        }
        lines.join("\n")
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate();
    let cells = cells.map(
        |(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        },
    );
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summaries() -> [Summary; 2] {
        [Summary::sample("tutorial", 1.0), Summary::sample("receiver", 0.4)]
    }

    #[test]
    fn cold_starts_are_compared_with_the_baseline() {
        let summaries = summaries();
        insta::assert_snapshot!(cold_table(&summaries, &summaries[0]), @r"
        | function | init ms | first request ms | cold CPU ms |    × | first request CPU ms |    × | peak MiB |    × | zip kB |    × |
        | -------- | ------: | ---------------: | ----------: | ---: | -------------------: | ---: | -------: | ---: | -----: | ---: |
        | tutorial |    40.0 |             36.0 |        37.0 | 1.00 |                33.00 | 1.00 |     16.0 | 1.00 |   7000 | 1.00 |
        | receiver |    16.0 |             14.4 |        14.8 | 0.40 |                13.20 | 0.40 |      6.4 | 0.40 |   2800 | 0.40 |
        ");
    }

    #[test]
    fn warm_invocations_are_compared_with_the_baseline() {
        let summaries = summaries();
        insta::assert_snapshot!(warm_table(10_000, &summaries, &summaries[0]), @r"
        | warm, 10 kB | CPU µs |    × | p50 µs |    × | p99 µs |    × |
        | ----------- | -----: | ---: | -----: | ---: | -----: | ---: |
        | tutorial    |    600 | 1.00 |   1200 | 1.00 |   1800 | 1.00 |
        | receiver    |    240 | 0.40 |    480 | 0.40 |    720 | 0.40 |
        ");
    }

    #[test]
    fn a_missed_target_stands_out() {
        let [baseline, receiver] = summaries();
        insta::assert_snapshot!(target_table(SHARES, &Verdict::on_receiver(&receiver, &baseline)), @r"
        | target             | at most × |    × |          met |
        | ------------------ | --------: | ---: | -----------: |
        | cold start, CPU    |      0.10 | 0.40 |           NO |
        | first request, CPU |      0.05 | 0.40 |           NO |
        | 400 B, CPU         |      0.38 | 0.40 |           NO |
        | 10 kB, CPU         |      0.48 | 0.40 |          yes |
        | 200 kB, CPU        |      0.52 |    – | not measured |
        | peak memory        |      0.55 | 0.40 |          yes |
        | zip                |      0.38 | 0.40 |           NO |
        ");
    }

    #[test]
    fn consumers_stand_alone() {
        let summaries = [Summary::sample("consumer, no-op handler", 1.0), Summary::sample("consumer", 4.0)];
        insta::assert_snapshot!(batch_table(&summaries), @r"
        | batches of 10 × 400 B   | init ms | cold CPU ms | CPU ms | p50 ms | p99 ms | peak MiB | zip kB | DynamoDB calls | round trips |
        | ----------------------- | ------: | ----------: | -----: | -----: | -----: | -------: | -----: | -------------: | ----------: |
        | consumer, no-op handler |    40.0 |        37.0 |   0.50 |   1.00 |   1.50 |     16.0 |   7000 |             12 |           3 |
        | consumer                |   160.0 |       148.0 |   2.00 |   4.00 |   6.00 |     64.0 |  28000 |             48 |          12 |
        ");
        insta::assert_snapshot!(target_table(ABSOLUTE, &Verdict::on_consumer(&summaries[0])), @r"
        | target                            | at most | measured | met |
        | --------------------------------- | ------: | -------: | --: |
        | CPU per batch, ms                 |    2.50 |     0.50 | yes |
        | round trips to DynamoDB per batch |    2.00 |     3.00 |  NO |
        ");
    }

    #[test]
    fn peers_stand_side_by_side() {
        let [node, ours] = [Summary::sample("node", 10.0), Summary::sample("ours", 1.0)];
        let figures = [
            Figure::new("cold CPU ms", 1, |summary| Some(summary.cold_cpu_ms)),
            Figure::new("1 kB, CPU µs", 0, |summary| summary.warm(1000).map(|warm| warm.cpu_us)),
        ];
        insta::assert_snapshot!(beside_table("receiver", &["ours", "Node.js"], &[&ours, &node], &figures), @r"
        | receiver     | ours | Node.js | × Node.js |
        | ------------ | ---: | ------: | --------: |
        | cold CPU ms  | 37.0 |   370.0 |      0.10 |
        | 1 kB, CPU µs |    – |       – |         – |
        ");
    }

    #[test]
    fn little_memory_is_a_long_wait() {
        let function = |name, cold_ms| AtMemory {
            name,
            memory_mb: 128,
            init_ms: cold_ms * 0.75,
            first_request_ms: cold_ms * 0.25,
            cold_ms,
            warm_ms: 1.0,
            warm_p99_ms: 2.0,
        };
        let functions = [function("receiver", 8.0), function("receiver, Python", 1600.0)];
        insta::assert_snapshot!(at_memory_table(&["receiver", "Python"], &functions), @r"
        | at 128 MB | init ms | first webhook ms | together ms |    × | warm p50 ms | p99 ms |
        | --------- | ------: | ---------------: | ----------: | ---: | ----------: | -----: |
        | receiver  |     6.0 |              2.0 |         8.0 | 1.00 |         1.0 |    2.0 |
        | Python    |  1200.0 |            400.0 |      1600.0 | 0.01 |         1.0 |    2.0 |
        ");
    }

    #[test]
    fn sizes_are_written_as_people_say_them() {
        assert_eq!([400, 1000, 1500, 200_000].map(size), ["400 B", "1 kB", "1500 B", "200 kB"]);
    }
}
