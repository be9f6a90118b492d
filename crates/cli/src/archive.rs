//! `learnink archive`: proves what the `archive` handler kept, and makes tables of it.

mod export;
mod verify;

use std::process::ExitCode;

use anyhow::Context;
use jiff::civil::Date;
use learnink_handlers::archive::{Archive, Config, Selection};
use learnink_webhook::config::ConfigError;

use crate::{aws, variable};

/// How many objects are read at a time. Bodies are up to 6 MiB, so it bounds the memory, too.
const READS_AT_ONCE: usize = 32;

/// How the commands reach a bucket; below their help.
const IN_S3: &str = "\
For a bucket, region and credentials come from the environment alone. Where a profile has them:
  export AWS_REGION=eu-west-1
  eval \"$(aws configure export-credentials --format env)\"
They may s3:ListBucket and s3:GetObject; nothing is ever written or deleted.";

/// The commands of `learnink archive`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prove that LearnInk signed what is kept
    Verify(verify::Args),
    /// Turn the records of some days into JSON lines or CSV
    Export(export::Args),
}

/// Which archive.
#[derive(Debug, clap::Args)]
struct Source {
    /// Where the records are, as the consumer has it: `s3://bucket/prefix` or `file:///folder`
    #[arg(long = "archive", value_name = "URL", env = "LEARNINK_ARCHIVE")]
    url: String,
    /// Only this event type, such as user.course.started
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
}

impl Source {
    fn open(&self) -> anyhow::Result<Archive> {
        if self.url.starts_with("s3://") {
            aws::check_environment(variable).with_context(|| format!("cannot open {}", self.url))?;
        }
        let config = Config::at(&self.url, variable).map_err(|error| match error {
            // It speaks of the consumer's variable.
            ConfigError::Unusable { problem, .. } => {
                anyhow::anyhow!("--archive (or LEARNINK_ARCHIVE) cannot be used: {problem}")
            }
            error @ ConfigError::Missing(_) => anyhow::Error::from(error),
        })?;
        Ok(Archive::open(&config))
    }

    /// What is selected, for a text.
    fn what(&self) -> String {
        let of_type = self.event_type.as_ref().map(|name| format!(" of type {name}")).unwrap_or_default();
        format!("{}{of_type}", self.url)
    }

    fn selection(&self, days: Option<(Date, Date)>) -> anyhow::Result<Selection> {
        if let Some((from, to)) = days {
            anyhow::ensure!(from <= to, "--from {from} is after --to {to}");
        }
        Ok(Selection { event_type: self.event_type.clone(), days })
    }
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

/// What a count is of.
fn records(count: usize) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}
