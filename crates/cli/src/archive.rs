//! `learnink archive`: proves the records of the `archive` handler, and makes tables of them.

mod export;
pub(crate) mod verify;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::civil::Date;
use learnink_aws::Env;
use learnink_connectors::archive::{Archive, Listing, Name, Record, Selection, day_of};
use learnink_local::terminal::quoted;
use learnink_webhook::config::ConfigError;

use crate::stack::{InAws, Stack};
use crate::{aws, variable};

/// How many objects are read at a time. Bodies are up to 6 MiB, so this also limits the memory.
pub(crate) const READS_AT_ONCE: usize = 32;

/// How many files of a stream are read at a time. Each is up to 1 GiB, decompressed, and some 64 MiB usually.
pub(crate) const FILES_AT_ONCE: usize = 2;

/// How the commands reach a bucket; below their help.
const IN_S3: &str = "\
For a bucket, region and credentials come from the environment, else from a profile (--profile, AWS_PROFILE), \
which `aws configure export-credentials` reads. They need s3:ListBucket and s3:GetObject, and with --stack \
cloudformation:DescribeStacks. Nothing is ever written or deleted.";

/// The commands of `learnink archive`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prove that LearnInk signed the records
    Verify(verify::Args),
    /// Turn the records of some days into JSON lines or CSV
    Export(export::Args),
}

/// Which archive.
#[derive(Debug, clap::Args)]
struct Source {
    /// Where the records are, in the same form as for the consumer: `s3://bucket/prefix`, or a folder; without it,
    /// the archive of --stack, or else `LEARNINK_ARCHIVE`
    #[arg(long = "archive", value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    in_aws: InAws,
    /// Only this event type, such as user.course.started
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
}

/// Which days.
#[derive(Debug, clap::Args)]
struct Days {
    /// First day on which the records were received, in UTC; without it, from the first record on
    #[arg(long, value_name = "DATE", value_parser = date)]
    from: Option<Date>,
    /// Last day, which is included; without it, up to the last record
    #[arg(long, value_name = "DATE", value_parser = date)]
    to: Option<Date>,
}

impl Days {
    /// The days as part of a text, after a space.
    fn what(&self) -> String {
        let from = self.from.map(|from| format!(" from {from}")).unwrap_or_default();
        let to = self.to.map(|to| format!(" to {to}")).unwrap_or_default();
        format!("{from}{to}")
    }

    /// Whether records of these days may be under a name. What is not a record has no day.
    fn may_be_under(&self, name: &Name) -> bool {
        name.may_have(self.from, self.to)
    }

    fn have(&self, day: Date) -> bool {
        self.from.is_none_or(|from| from <= day) && self.to.is_none_or(|to| day <= to)
    }
}

impl Source {
    async fn open(&self) -> anyhow::Result<OpenArchive> {
        let stack = if self.url.is_none() { self.in_aws.stack().await? } else { None };
        let given = match &self.url {
            Some(url) => url.clone(),
            None => found(stack.as_ref())?,
        };
        // A stack was found with a configuration already, which may have asked the AWS CLI.
        let archive =
            open(&given, || stack.map_or_else(|| self.in_aws.config(), |stack| Ok(stack.aws))).await?;
        Ok(OpenArchive { archive, url: given, event_type: self.event_type.clone() })
    }
}

/// Opens the archive at this location; `aws` is how to reach a bucket.
pub(crate) async fn open(
    given: &str,
    aws: impl FnOnce() -> anyhow::Result<SdkConfig>,
) -> anyhow::Result<Archive> {
    let url = url(given)?;
    let env = if url.starts_with("s3://") {
        let cannot_open = || format!("cannot open {url}");
        let aws = aws().with_context(cannot_open)?;
        Env::new(aws::as_variables(&aws).await.with_context(cannot_open)?)
    } else {
        Env::new(variable)
    };
    Archive::open(&url, &env).map_err(|error| match error {
        // Its text is about the consumer's variable.
        ConfigError::Unusable { problem, .. } => {
            anyhow::anyhow!("--archive (or {VARIABLE}) cannot be used: {problem}")
        }
        error @ ConfigError::Missing(_) => anyhow::Error::from(error),
    })
}

/// The location of the stack's archive, or the one in the environment.
pub(crate) fn found(stack: Option<&Stack>) -> anyhow::Result<String> {
    match stack {
        Some(stack) => {
            let url = stack.optional("ArchiveUrl").with_context(|| {
                format!("{stack} has no archive: it is deployed with Archive=off, or of an older version")
            })?;
            Ok(url.to_owned())
        }
        None => variable(VARIABLE)
            .with_context(|| format!("no archive is named; pass --archive or --stack, or set {VARIABLE}")),
    }
}

/// An archive, and the selected type. Of a stream's file, only some records may be selected.
struct OpenArchive {
    archive: Archive,
    /// As it was given.
    url: String,
    event_type: Option<String>,
}

impl OpenArchive {
    /// The selection as part of a text.
    fn what(&self, days: &Days) -> String {
        let of_type = self.event_type.as_ref().map(|name| format!(" of type {name}")).unwrap_or_default();
        format!("{}{of_type}{}", self.url, days.what())
    }

    /// The selected objects.
    async fn list(&self, days: &Days) -> anyhow::Result<Listing> {
        let range = days.from.zip(days.to);
        if let Some((from, to)) = range {
            anyhow::ensure!(from <= to, "--from {from} is after --to {to}");
        }
        let progress = ProgressBar::new_spinner();
        progress.set_style(ProgressStyle::with_template("{spinner} looking for records, {elapsed}")?);
        progress.enable_steady_tick(Duration::from_millis(100));
        let selection = Selection { event_type: self.event_type.clone(), days: range };
        let listed = self.archive.list(&selection).await;
        progress.finish_and_clear();
        let mut listing = listed?;
        listing.records.retain(|name| days.may_be_under(name));
        listing.files.retain(|name| days.may_be_under(name));
        listing.others.retain(|name| days.may_be_under(name));
        Ok(listing)
    }

    /// Whether a record of a stream's file is selected; its type is `event_type`.
    fn selects(&self, days: &Days, record: &Record, event_type: &str) -> bool {
        let is_of_type = self.event_type.as_ref().is_none_or(|wanted| wanted == event_type);
        is_of_type && days.have(day_of(record.received_at))
    }
}

/// The variable with the archive's location, which the consumer reads too.
pub(crate) const VARIABLE: &str = "LEARNINK_ARCHIVE";

/// The environment as the handlers read it: an archive in a folder is named by a URL there.
pub(crate) fn variable_for_handlers(name: &str) -> Option<String> {
    let value = variable(name)?;
    // The handler reports one that cannot be used.
    Some(if name == VARIABLE { url(&value).unwrap_or(value) } else { value })
}

/// An archive's location in the handlers' form: the URL itself, or the absolute path of a folder.
fn url(archive: &str) -> anyhow::Result<String> {
    if archive.contains("://") {
        return Ok(archive.to_owned());
    }
    let folder =
        std::path::absolute(archive.trim()).with_context(|| format!("cannot use {}", quoted(archive)))?;
    let folder = folder.into_os_string().into_string().ok();
    folder.with_context(|| format!("cannot use the folder {}", quoted(archive)))
}

/// Runs a command of `learnink archive`.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(args) => verify::run(&args).await,
        Command::Export(args) => export::run(&args).await,
    }
}

/// A day, from the command line.
fn date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "expected a date such as 2026-03-01".to_owned())
}

/// The objects that are there instead of records, for an error: the URL may lack the prefix of the bucket.
fn beside(others: &[Name]) -> String {
    match others {
        [] => String::new(),
        [name] => format!("; the one object there, {}, is not a record", name.as_str().escape_default()),
        [name, ..] => format!(
            "; the {} objects there, such as {}, are not records: is a part of the URL missing?",
            others.len(),
            name.as_str().escape_default()
        ),
    }
}

/// All names under which records are, by day and then by name.
fn by_day(listing: Listing) -> Vec<Name> {
    let mut names = listing.records;
    names.extend(listing.files);
    names.sort_by(|a, b| (a.day(), a).cmp(&(b.day(), b)));
    names
}

/// A line of a stream's file, for a person; with its message id, if it can be read.
pub(crate) fn line_of(file: &Name, line: usize, record: Option<&Record>) -> String {
    let id = record.map(|record| format!(" ({})", record.id)).unwrap_or_default();
    format!("{file} line {line}{id}")
}

/// Why a damaged file of a stream is one.
pub(crate) fn damaged_after(lines: usize) -> String {
    match lines {
        0 => "it is empty, or damaged from its first line on".to_owned(),
        lines => format!("it is damaged after line {lines}"),
    }
}

/// A count with its noun.
fn records(count: usize) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(from: Option<&str>, to: Option<&str>) -> Days {
        let date = |text: Option<&str>| text.map(|text| date(text).unwrap());
        Days { from: date(from), to: date(to) }
    }

    #[test]
    fn days_without_a_bound_have_everything_on_that_side() {
        let have = |from, to| {
            let days = days(from, to);
            ["2026-02-28", "2026-03-01", "2026-03-31", "2026-04-01"].map(|day| days.have(date(day).unwrap()))
        };
        assert_eq!(have(None, None), [true; 4]);
        assert_eq!(have(Some("2026-03-01"), None), [false, true, true, true]);
        assert_eq!(have(None, Some("2026-03-31")), [true, true, true, false]);
        assert_eq!(have(Some("2026-03-01"), Some("2026-03-31")), [false, true, true, false]);
        assert_eq!(days(Some("2026-03-01"), None).what(), " from 2026-03-01");
        assert_eq!(days(None, None).what(), "");
    }

    #[test]
    fn an_archive_in_a_folder_is_where_its_name_says() {
        let here = std::env::current_dir().unwrap();
        for name in ["a", "sp ace/p%41", "h#x?y"] {
            assert_eq!(url(name).unwrap(), here.join(name).to_str().unwrap());
        }
        assert_eq!(url("/tmp/pct%zz").unwrap(), "/tmp/pct%zz");
        for given in ["s3://bucket/prefix", "file:///folder", "ftp://acme"] {
            assert_eq!(url(given).unwrap(), given);
        }
    }
}
