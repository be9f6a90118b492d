//! `learnink dlq drop`: dead letters are deleted, after they were written to a file.

use std::path::PathBuf;
use std::process::ExitCode;

use learnink_local::terminal::quoted;

use super::cause::grouped;
use super::file::Kept;
use super::pass::{PassEnd, Taken, pass};
use super::queue::{receipt, sqs_id};
use super::redrive::{print_selection, unknown_names};
use super::selection::{FilterArgs, Foreign};
use super::{ActArgs, dead_letters, open};
use crate::acts::{self, OpenAct, Plan};
use crate::aws::IN_AWS;
use crate::output::{exit, note, print, progress, say};
use crate::question::{Answer, Interrupt};
use crate::replay::fresh_id;
use crate::{now, table};

/// Options of `learnink dlq drop`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Each letter is first written to a file that only you can read, with its body and every attribute, and is \
deleted once it is on the disk. `dlq restore` puts the letters of such a file back. The file has personal data: \
delete it when it is not needed any more. Letters that no consumer can read are dropped too.

Ctrl-C stops between two batches of ten; the same command goes on, with another file.

The exit code is 0 if every chosen letter was dropped, 1 if some are left, and 2 if there is nobody to ask.

Examples:
  cargo learnink dlq drop 3f9a1b --reason \"test events of staging\"
  cargo learnink dlq drop --received-until 2026-01-02 --to before-january.jsonl

{IN_AWS}"))]
pub(crate) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// The file to keep the letters in, which must not exist; without it, dead-letters-DATE-ID.jsonl
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    act: ActArgs,
    /// Print the act as JSON, or what is chosen if nothing is done
    #[arg(long)]
    json: bool,
}

/// Drops dead letters.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.filter(now())?;
    let queues = open(&args.act.place).await?;
    let look = queues.look().await?;
    let selection = match filter.select(&look.letters, Foreign::Chosen) {
        Ok(selection) => selection,
        Err(unknown) => return unknown_names(&unknown, &look, &queues),
    };
    say(args.json, || print_selection(&selection, &look, &queues, "dropped"))?;
    let count = selection.letters.len();
    if args.json && (count == 0 || args.act.consent.dry_run) {
        table::print_json(&grouped(selection.letters.iter().copied()))?;
    }
    if count == 0 {
        look.note_unseen()?;
        return Ok(exit(look.unseen == 0));
    }
    if args.act.consent.dry_run {
        say(args.json, || print("dry run: nothing was dropped"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(by) = args.act.by()? else { return Ok(ExitCode::from(2)) };
    let path = args.to.clone().unwrap_or_else(|| {
        format!("dead-letters-{}-{}.jsonl", now().strftime("%Y-%m-%d"), fresh_id()).into()
    });
    let question = format!("Drop {}, and keep them in {}?", dead_letters(count), quoted(&path));
    if args.act.consent.ask(&question).await? == Answer::No {
        note("nothing was dropped")?;
        return Ok(ExitCode::FAILURE);
    }
    let mut kept = Kept::create(&path)?;
    let plan = Plan {
        action: "drop",
        by,
        place: queues.name.clone(),
        filter: filter.text().to_owned(),
        reason: args.act.reason.clone(),
        selected: count,
    };
    let act = OpenAct::start(&queues.ledger, plan).await?;
    let interrupt = Interrupt::watch();
    let bar = progress(count, "dropped")?;
    let mut wanted = selection.letters.iter().map(|letter| letter.sqs_id.clone()).collect();
    let end = pass(&queues.letters, &mut wanted, &interrupt, async |messages| {
        let receipts: Vec<_> = messages.iter().map(receipt).collect();
        let dropped = match kept.write(&messages) {
            Ok(()) => queues.letters.delete(&receipts).await,
            Err(error) => Err(error),
        };
        match dropped {
            Ok(()) => {
                bar.inc(messages.len() as u64);
                Taken { done: messages.iter().map(sqs_id).collect(), error: None }
            }
            Err(error) => Taken { done: Vec::new(), error: Some(error) },
        }
    })
    .await;
    bar.finish_and_clear();
    let (left, done) = (wanted.len(), count - wanted.len());
    let outcome = match end? {
        PassEnd::All => "done".to_owned(),
        PassEnd::Gone => format!(
            "done, except {left} that {} not there any more: expired, or taken or looked at by somebody else",
            if left == 1 { "is" } else { "are" }
        ),
        PassEnd::Interrupted => "interrupted; the same command goes on".to_owned(),
        PassEnd::Failed(error) => format!("failed: {error:#}"),
    };
    let act = act.end(done, &outcome).await?;
    if args.json {
        acts::print_json(&act)?;
    } else {
        print(format!("{done} of {} dropped: {outcome}", dead_letters(count)))?;
    }
    note(format!("to put them back: {}", args.act.place.command(&format!("restore {}", quoted(&path)))))?;
    look.note_unseen()?;
    Ok(exit(wanted.is_empty() && look.unseen == 0))
}
