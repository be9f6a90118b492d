//! `learnink export`: what is stored of a learner, for the learner.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use learnink_local::terminal::quoted;
use serde::Serialize;
use serde_json::value::RawValue;

use super::learner::Ids;
use super::stores::Stores;
use super::{HOW, LearnerArgs, waiting};
use crate::aws::IN_AWS;
use crate::input::STANDARD;
use crate::output::{self, exit, note};
use crate::stack::Target;
use crate::{dlq, now};

/// Options of `learnink export`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
One JSON object: the learner's ids, and by store what each has, as it is stored. Of a list with others it has only the \
learner's items. A webhook that several stores have is in each of them.

{HOW}

What is exported is personal data; a new FILE is readable by you alone. Messages on the queue are not looked at. The \
exit code is 0 if something was found and everything was looked at, and 1 otherwise.

Examples:
  cargo learnink export --user-id - --output request-17.json

{IN_AWS} It needs s3:ListBucketVersions and GetObjectVersion on the archive; dynamodb:Query and Scan on the \
tables; and sqs:ReceiveMessage, ChangeMessageVisibility and GetQueueAttributes on the queues."))]
pub(crate) struct Args {
    #[command(flatten)]
    learner: LearnerArgs,
    /// The archive's location, `s3://bucket/prefix` or a folder; without it, that of --stack, or else `LEARNINK_ARCHIVE`
    #[arg(long = "archive", value_name = "URL")]
    archive: Option<String>,
    /// Where to write it, a file that does not exist; without it, or with -, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// What is written.
#[derive(Serialize)]
struct Export<'a> {
    place: &'a str,
    exported_at: Timestamp,
    /// The learner's ids, typed and found; of a phone number the digits.
    learner: Ids,
    stores: BTreeMap<&'static str, Box<RawValue>>,
}

/// Writes a learner's data.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut learner = args.learner.learner()?;
    let stores = Stores::open(&args.target, args.archive.as_deref()).await?;
    let search = stores.search(&mut learner).await?;
    for unread in &search.unread {
        note(format!("not looked at: {unread}"))?;
    }
    if search.waiting > 0 {
        note(waiting(search.waiting))?;
    }
    let is_found = search.total().all() > 0;
    if !is_found {
        note(format!("nothing of this learner is stored in {}", stores.name))?;
        return Ok(ExitCode::FAILURE);
    }
    let mut ids = learner.asked;
    ids.add_all(learner.further);
    let export = Export {
        place: &stores.name,
        exported_at: now(),
        learner: ids,
        stores: search.own()?.into_iter().collect(),
    };
    let json = serde_json::to_string_pretty(&export)?;
    match args.output.as_deref().filter(|file| *file != Path::new(STANDARD)) {
        None => output::print_json(&json)?,
        Some(path) => {
            let mut file = dlq::file::create(path)?;
            let written = writeln!(file, "{json}").and_then(|()| file.sync_all());
            written.with_context(|| format!("cannot write {}", quoted(path)))?;
            note(format!("written to {}", quoted(path)))?;
        }
    }
    Ok(exit(search.unread.is_empty() && search.waiting == 0))
}
