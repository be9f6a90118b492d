//! `learnink archive export`: the records of some days as JSON lines or CSV.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::civil::Date;
use learnink_connectors::archive::{Fingerprint, Name, Record, day_of};
use learnink_local::terminal::{quoted, visible, visible_json};
use learnink_webhook::Envelope;
use serde::Serialize;
use serde_json::value::RawValue;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::Semaphore;

use super::{
    Days, FILES_AT_ONCE, IN_S3, OpenArchive, READS_AT_ONCE, Source, beside, by_day, damaged_after, line_of,
    records,
};
use crate::input::STANDARD;
use crate::output::{self, CANNOT_PRINT, note};

/// The columns, which are the fields of a JSON line.
const COLUMNS: [&str; 6] = ["id", "type", "api_version", "occurred_at", "received_at", "data"];

/// Options of `learnink archive export`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Each record becomes a line with id, type, api_version, occurred_at (when it happened), received_at
and data (the payload as LearnInk wrote it), in the order in which they were received. A learner
who was offline sends events late: those of March that arrived in April are in April's export.

As CSV (RFC 4180) data is one column of JSON, and a byte order mark stands in front, by which Excel
knows UTF-8. A type or id that a spreadsheet would take for a formula has an apostrophe in front;
LearnInk's own never need one. Excel keeps 32,767 characters of a cell: a list of some hundred
learners is longer. Such a cell is written whole, for programs that take it, and counted.

Characters that cannot be seen are escapes in data, as JSON has them: \\u200d.

What is exported holds personal data; a new FILE is readable by you alone. Nothing is verified
here: `learnink archive verify` does that. An object that cannot be read is named, and the exit
code is 1. It is 1 as well when there is nothing to export; FILE is not touched then. A record that
a stream keeps twice is one line.

Examples:
  cargo learnink archive export --archive s3://acme-archive/learnink \\
    --from 2026-03-01 --to 2026-03-31 --format csv --output march.csv
  cargo learnink archive export --archive .learnink/archive \\
    --from 2026-03-01 --to 2026-03-01 | jq .data.course_id

{IN_S3}"))]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    days: Days,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Where to write it; without it, or with -, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// A JSON object per line
    Jsonl,
    /// A header and a line per record, as spreadsheets open it
    Csv,
}

/// Writes the records.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let archive = args.source.open().await?;
    let listing = archive.list(&args.days).await?;
    let others = listing.others.clone();
    let names = by_day(listing);
    // A typo in the URL or the type must not look like a month without events.
    let nothing =
        || anyhow::anyhow!("there is nothing to export in {}{}", archive.what(&args.days), beside(&others));
    anyhow::ensure!(!names.is_empty(), nothing());
    let file = args.output.as_deref().filter(|file| *file != Path::new(STANDARD));
    let mut output = Output::open(file)?;
    let written = write(&archive, &args.days, names, args.format, &mut output).await;
    if written.as_ref().is_ok_and(|written| written.rows + written.unreadable == 0) {
        return Err(nothing());
    }
    match written.and_then(|written| output.keep().map(|()| written)) {
        Ok(Written { rows, unreadable, too_long, redacted }) => {
            let unread = if unreadable == 0 { String::new() } else { format!(", {unreadable} unreadable") };
            say(format!("{} exported{unread}", records(rows)));
            if redacted > 0 {
                say(format!("{} redacted: a learner was removed, and has null there", records(redacted)));
            }
            if too_long > 0 {
                say(format!(
                    "the data of {} has more than {LONGEST_CELL} characters, which Excel cuts; other programs, and \
                     --format jsonl, have it whole",
                    records(too_long)
                ));
            }
            Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // As after `learnink archive export | head`.
        Err(error) if is_closed(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).with_context(|| {
            file.map_or_else(|| CANNOT_PRINT.to_owned(), |file| format!("cannot write {}", quoted(file)))
        }),
    }
}

/// Says something beside the rows. If standard error cannot be written to, the export is made all the same.
fn say(line: String) {
    let _ = note(line);
}

/// The output of the rows. A file is written under another name first, so that a failed export does not change the
/// previous one.
struct Output {
    writer: BufWriter<Box<dyn Write>>,
    progress: ProgressBar,
    /// The file under its temporary name, which is deleted unless it is kept, and its final name.
    unfinished: Option<(TempPath, PathBuf)>,
}

impl Output {
    fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else {
            // Rows in a terminal show the progress themselves.
            let writer = BufWriter::new(Box::new(io::stdout()) as Box<dyn Write>);
            return Ok(Self { writer, progress: ProgressBar::hidden(), unfinished: None });
        };
        let cannot_write = || format!("cannot write {}", quoted(file));
        let (writer, unfinished): (Box<dyn Write>, _) = if file.exists() && !file.is_file() {
            // A device or a pipe must not be replaced by a file.
            (Box::new(File::create(file).with_context(cannot_write)?), None)
        } else {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let unfinished =
                NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(cannot_write)?;
            let (unfinished, path) = unfinished.into_parts();
            (Box::new(unfinished), Some((path, file.to_owned())))
        };
        let style = "{bar:40} {human_pos}/{human_len} exported, {per_sec}, {eta} left";
        let progress = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
        Ok(Self { writer: BufWriter::new(writer), progress, unfinished })
    }

    /// Gives the file its name.
    fn keep(&mut self) -> anyhow::Result<()> {
        self.progress.finish_and_clear();
        if let Some((path, file)) = self.unfinished.take() {
            path.persist(&file)?;
        }
        Ok(())
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(output::is_closed)
}

/// The result of an export.
#[derive(Default)]
struct Written {
    rows: usize,
    unreadable: usize,
    /// How many rows are of redacted records.
    redacted: usize,
    /// How many rows of CSV have data longer than a cell of Excel.
    too_long: usize,
}

/// Writes day by day; the records of one day are in memory together, to be sorted. With a stream, the days around it
/// are too, because a file has records of several days.
async fn write(
    archive: &OpenArchive,
    days: &Days,
    names: Vec<Name>,
    format: Format,
    Output { writer: output, progress, .. }: &mut Output,
) -> anyhow::Result<Written> {
    let mut written = Written::default();
    progress.set_length(names.len().try_into()?);
    let files = Semaphore::new(FILES_AT_ONCE);
    // The last day of which no later name has records.
    let complete_day = if names.iter().any(Name::is_of_a_file) { Name::complete_day } else { Name::day };
    let mut rows: BTreeMap<Date, Vec<Row>> = BTreeMap::new();
    for day in names.chunk_by(|a, b| a.day() == b.day()) {
        let reads = day.iter().map(|name| read(archive, days, name, &files));
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some(Read { found, unreadable }) = reads.next().await {
            progress.inc(1);
            for (day, row) in found {
                rows.entry(day).or_default().push(row);
            }
            written.unreadable += unreadable.len();
            progress.suspend(|| {
                for (place, reason) in &unreadable {
                    say(format!("{place}: {reason}"));
                }
            });
        }
        let complete = day.first().and_then(complete_day);
        while let Some(entry) = rows.first_entry().filter(|entry| Some(*entry.key()) <= complete) {
            written.add(entry.remove(), format, output)?;
        }
    }
    for rows in rows.into_values() {
        written.add(rows, format, output)?;
    }
    if written.rows == 0 && written.unreadable > 0 {
        format.header(output)?;
    }
    output.flush()?;
    Ok(written)
}

/// What one object or file has.
#[derive(Default)]
struct Read {
    /// The rows, each with the day of its record.
    found: Vec<(Date, Row)>,
    /// Where, and why.
    unreadable: Vec<(String, String)>,
}

async fn read(archive: &OpenArchive, days: &Days, name: &Name, files: &Semaphore) -> Read {
    let mut read = Read::default();
    if !name.is_of_a_file() {
        let bytes = archive.archive.read(name).await.map_err(|error| error.to_string());
        let record = bytes.and_then(|bytes| Record::decode(&bytes).map_err(|error| error.to_string()));
        match record.and_then(|record| Row::of(&record)) {
            // Under another day than it says, it is exported as well: to verify it is another command's task.
            Ok(row) => read.found.extend(name.day().map(|day| (day, row))),
            Err(reason) => read.unreadable.push((name.to_string(), reason)),
        }
        return read;
    }
    // It is closed only with the last of its users.
    let _permit = files.acquire().await;
    let file = match archive.archive.read_file(name).await {
        Ok(file) => file,
        Err(error) => {
            read.unreadable.push((name.to_string(), error.to_string()));
            return read;
        }
    };
    for (line, record) in file.records() {
        let row = record.as_ref().map_err(ToString::to_string).and_then(Row::of);
        let record = record.ok();
        match (row, &record) {
            (Ok(row), Some(record)) if archive.selects(days, record, &row.r#type) => {
                read.found.push((day_of(record.received_at), row));
            }
            (Ok(_), _) => {}
            (Err(reason), record) => {
                read.unreadable.push((line_of(name, line, record.as_ref()), reason));
            }
        }
    }
    if file.is_damaged() {
        read.unreadable.push((name.to_string(), damaged_after(file.lines())));
    }
    read
}

impl Written {
    /// Writes the rows of a day, each once, with the header before the first.
    fn add(&mut self, mut rows: Vec<Row>, format: Format, output: &mut dyn Write) -> io::Result<()> {
        rows.sort_by(|a, b| {
            (a.received_at, &a.id, a.fingerprint).cmp(&(b.received_at, &b.id, b.fingerprint))
        });
        rows.dedup_by_key(|row| row.fingerprint);
        if self.rows == 0 && !rows.is_empty() {
            format.header(output)?;
        }
        for row in &rows {
            format.row(row, output)?;
            self.too_long += usize::from(format.is_too_long(row));
            self.redacted += usize::from(row.is_redacted);
        }
        self.rows += rows.len();
        Ok(())
    }
}

/// An exported record. Its fields are [`COLUMNS`].
#[derive(Serialize)]
struct Row {
    id: String,
    r#type: String,
    api_version: String,
    occurred_at: Option<Timestamp>,
    received_at: Timestamp,
    data: Box<RawValue>,
    #[serde(skip)]
    fingerprint: Fingerprint,
    #[serde(skip)]
    is_redacted: bool,
}

impl Row {
    fn of(record: &Record) -> Result<Self, String> {
        // A genuine webhook that is not an event has a row too, without an event's values.
        let envelope = Envelope::parse(&record.body).unwrap_or_else(|_| Envelope::of_no_event());
        // Between JSON's parts, a line break can be a space; its strings do not contain any.
        let data = envelope.raw_data().get().replace(['\r', '\n'], " ");
        Ok(Self {
            id: record.id.to_string(),
            data: RawValue::from_string(data).map_err(|_| "its `data` is not JSON".to_owned())?,
            r#type: envelope.event_type,
            api_version: envelope.api_version,
            occurred_at: envelope.occurred_at,
            received_at: record.received_at,
            fingerprint: record.fingerprint(),
            is_redacted: record.redaction.is_some(),
        })
    }
}

impl Format {
    fn header(self, output: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Jsonl => Ok(()),
            Self::Csv => {
                output.write_all(BYTE_ORDER_MARK.as_bytes())?;
                csv_line(output, COLUMNS.map(Cow::Borrowed))
            }
        }
    }

    fn row(self, row: &Row, output: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Jsonl => {
                let json = serde_json::to_string(row)?;
                output.write_all(visible_json(&json).as_bytes())?;
                output.write_all(b"\n")
            }
            Self::Csv => {
                let fields = [
                    no_formula(&row.id),
                    no_formula(&row.r#type),
                    no_formula(&row.api_version),
                    row.occurred_at.map(|at| at.to_string()).unwrap_or_default().into(),
                    row.received_at.to_string().into(),
                    data_cell(row.data.get()).into(),
                ];
                csv_line(output, fields)
            }
        }
    }

    /// Whether Excel cuts the row's data.
    fn is_too_long(self, row: &Row) -> bool {
        match self {
            Self::Jsonl => false,
            // By Excel's count: in units of UTF-16.
            Self::Csv => data_cell(row.data.get()).encode_utf16().count() > LONGEST_CELL,
        }
    }
}

/// It tells Excel that a file is UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// How many characters of a cell Excel keeps. Source: Microsoft, "Excel specifications and limits".
const LONGEST_CELL: usize = 32_767;

/// Text that spreadsheets do not read as a formula: text that starts like one gets an apostrophe first.
/// Source: OWASP, "CSV Injection".
fn no_formula(text: &str) -> Cow<'_, str> {
    let text = visible(text);
    let starts_one = |first| matches!(first, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠');
    if text.starts_with(starts_one) { format!("'{text}").into() } else { text }
}

/// The payload as a cell. JSON starts like a formula only with the minus of a number. But text after a semicolon
/// would start a cell in spreadsheets that split there, and so would text after the end of Excel's longest cell.
/// In strings, such characters become escapes; the JSON value is the same.
fn data_cell(data: &str) -> String {
    let data = visible_json(data);
    let is_long = data.len() > LONGEST_CELL;
    let mut cell = String::with_capacity(data.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for c in data.chars() {
        let may_start = is_long && in_string && !is_escaped;
        match c {
            ';' => cell.push_str("\\u003b"),
            '=' if may_start => cell.push_str("\\u003d"),
            '+' if may_start => cell.push_str("\\u002b"),
            '-' if may_start => cell.push_str("\\u002d"),
            '@' if may_start => cell.push_str("\\u0040"),
            c => cell.push(c),
        }
        in_string ^= c == '"' && !is_escaped;
        is_escaped = in_string && c == '\\' && !is_escaped;
    }
    cell
}

/// A line of CSV. Source: RFC 4180, section 2.
fn csv_line(output: &mut dyn Write, fields: [Cow<'_, str>; COLUMNS.len()]) -> io::Result<()> {
    let quoted = fields.map(|field| {
        let needs_quotes = field.contains(['"', ',', '\r', '\n']);
        if needs_quotes { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into_owned() }
    });
    write!(output, "{}\r\n", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use learnink_webhook::MessageId;

    use super::*;

    fn row(event_type: &str, data: &str) -> Row {
        let body = format!(
            r#"{{"type":{event_type:?},"api_version":"2022-11-15","data":{data},"timestamp":"2026-02-27T08:00:00Z"}}"#
        );
        let record = Record {
            id: MessageId::parse("msg_1").unwrap(),
            signed_at_s: 1_772_366_400,
            signature: "v1,none".to_owned(),
            received_at: "2026-03-01T12:00:00.042Z".parse().unwrap(),
            body: body.into_bytes(),
            redaction: None,
        };
        Row::of(&record).unwrap()
    }

    fn line(format: Format, row: &Row) -> String {
        let mut output = Vec::new();
        format.row(row, &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn data_stays_as_it_was_written_on_one_line() {
        let row = row("a", "{ \"n\": 1.50,\r\n  \"t\": \"a\\nb\" }");
        let data = r#"{ "n": 1.50,    "t": "a\nb" }"#;
        assert_eq!(
            line(Format::Jsonl, &row),
            format!(
                "{{\"id\":\"msg_1\",\"type\":\"a\",\"api_version\":\"2022-11-15\",\"occurred_at\":\"2026-02-27T08:00:00Z\",\
                 \"received_at\":\"2026-03-01T12:00:00.042Z\",\"data\":{data}}}\n"
            )
        );
        assert_eq!(
            line(Format::Csv, &row),
            "msg_1,a,2022-11-15,2026-02-27T08:00:00Z,2026-03-01T12:00:00.042Z,\
             \"{ \"\"n\"\": 1.50,    \"\"t\"\": \"\"a\\nb\"\" }\"\r\n"
        );
    }

    #[test]
    fn what_is_not_an_event_has_a_row_without_a_type() {
        let record = |body: &[u8]| Record {
            id: MessageId::parse("msg_1").unwrap(),
            signed_at_s: 1_772_366_400,
            signature: "v1,none".to_owned(),
            received_at: "2026-03-01T12:00:00.042Z".parse().unwrap(),
            body: body.to_vec(),
            redaction: None,
        };
        for body in [&b"not json"[..], b"", b"\xFF", b"[1]", b"{\"success\":true}"] {
            let row = Row::of(&record(body)).unwrap();
            assert_eq!(line(Format::Csv, &row), "msg_1,,,,2026-03-01T12:00:00.042Z,null\r\n");
        }
    }

    #[test]
    fn no_text_in_the_data_starts_a_cell_where_semicolons_part_them() {
        let row = row("a", r#"{"t":";=HYPERLINK(1)"}"#);
        let csv = line(Format::Csv, &row);
        assert!(!csv.contains(';') && csv.contains(r"\u003b=HYPERLINK"), "{csv}");
        assert!(line(Format::Jsonl, &row).contains(r#"";=HYPERLINK"#));
    }

    #[test]
    fn a_cell_that_excel_cuts_is_whole_counted_and_starts_no_formula_where_it_is_cut() {
        let data = format!(r#"{{"n":-1.5e+3,"t":"{}\"=HYPERLINK(1)+@-\\"}}"#, "x".repeat(LONGEST_CELL));
        let long = row("a", &data);
        assert!(Format::Csv.is_too_long(&long) && !Format::Jsonl.is_too_long(&long));
        let cell = data_cell(long.data.get());
        assert!(!cell.contains(['=', '@']) && cell.contains(r#"{"n":-1.5e+3,"#), "{}", &cell[..40]);
        let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(value(&cell), value(&data));
        let short = row("a", r#"{"t":"a-b=c"}"#);
        assert!(!Format::Csv.is_too_long(&short));
        assert_eq!(data_cell(short.data.get()), r#"{"t":"a-b=c"}"#);
    }

    #[test]
    fn nothing_in_a_line_steers_the_terminal_and_the_data_says_the_same() {
        let hidden = "\u{202e}\u{1b}\u{85}\u{200d}\u{feff}";
        let data = serde_json::json!({ "t": hidden }).to_string();
        let mut row = row("a", &data);
        row.r#type = format!("a{hidden}\n");
        for format in [Format::Jsonl, Format::Csv] {
            let line = line(format, &row);
            let line = line.trim_end_matches(['\r', '\n']);
            assert_eq!(visible(line), line);
        }
        let json: serde_json::Value = serde_json::from_str(&line(Format::Jsonl, &row)).unwrap();
        assert_eq!((&json["data"]["t"], &json["type"]), (&hidden.into(), &row.r#type.as_str().into()));
    }

    #[test]
    fn an_export_that_fails_leaves_the_one_before_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("export.csv");
        std::fs::write(&file, "before").unwrap();
        let write = |keeps: bool| {
            let mut output = Output::open(Some(&file)).unwrap();
            output.writer.write_all(b"half of it").unwrap();
            output.writer.flush().unwrap();
            if keeps {
                output.keep().unwrap();
            }
        };
        write(false);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
        write(true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "half of it");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_header_names_the_fields_of_a_json_line() {
        let mut output = Vec::new();
        Format::Csv.header(&mut output).unwrap();
        // Excel reads a file without the mark in the code page of the country.
        assert_eq!(output, b"\xef\xbb\xbfid,type,api_version,occurred_at,received_at,data\r\n");
        let json: serde_json::Map<_, _> =
            serde_json::from_str(&line(Format::Jsonl, &row("a", "{}"))).unwrap();
        assert!(COLUMNS.iter().all(|column| json.contains_key(*column)) && json.len() == COLUMNS.len());
    }

    #[test]
    fn no_field_is_a_formula_to_a_spreadsheet() {
        assert!(line(Format::Csv, &row("=HYPERLINK(1)", "{}")).starts_with("msg_1,'=HYPERLINK(1),"));
        assert!(line(Format::Csv, &row("@SUM(1,2)", "-1")).starts_with("msg_1,\"'@SUM(1,2)\","));
        assert!(line(Format::Csv, &row("a", "-1")).ends_with(",-1\r\n"));
    }
}
