//! `learnink dlq restore`: letters that were dropped go back to the dead-letter queue.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use learnink_local::terminal::quoted;
use tokio::time::MissedTickBehavior;

use super::queue::Next;

use super::{ActArgs, OpenQueues, dead_letters, file, letter, open};
use crate::acts::{self, OpenAct, Plan};
use crate::aws::IN_AWS;
use crate::output::{exit, note, print, progress, say};
use crate::question::{Answer, Interrupt};

/// Options of `learnink dlq restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
The file is one that `dlq drop` wrote. Each of its letters goes back to the dead-letter queue with its body and \
attributes as they were. SQS gives it a new SQS message id and a new age, so that it expires later than before. \
A letter that is on the queue already is not put there twice: after Ctrl-C or a kill, the same command goes on. \
A letter that somebody else hides at that moment is not seen, and is put there twice; that is harmless, because \
the ledger knows what is done.

The exit code is 0 if every letter is back, 1 if some are not, and 2 if there is nobody to ask.

Example:
  cargo learnink dlq restore dead-letters-2026-01-02-k3x9a1b2.jsonl

{IN_AWS}"))]
pub(crate) struct Args {
    /// The file with the letters
    file: PathBuf,
    /// At most so many letters a second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    rate: u32,
    #[command(flatten)]
    act: ActArgs,
    /// Print the act as JSON
    #[arg(long)]
    json: bool,
}

/// Restores letters.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let queues = open(&args.act.place).await?;
    // Read as a whole first, so that nothing is sent of a file that is damaged.
    let mut in_file = Vec::new();
    file::for_each(&args.file, |letter| {
        in_file.push(letter.fingerprint());
        Ok(())
    })?;
    let there = fingerprints(&queues).await?;
    let missing = missing(&in_file, there);
    let count = missing.iter().filter(|is_missing| **is_missing).count();
    let path = quoted(&args.file);
    say(args.json, || {
        print(format!(
            "{} of {} in {path} {} not in {}",
            count,
            dead_letters(in_file.len()),
            if count == 1 { "is" } else { "are" },
            queues.name
        ))
    })?;
    if count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if args.act.consent.dry_run {
        say(args.json, || print("dry run: nothing was restored"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(by) = args.act.by()? else { return Ok(ExitCode::from(2)) };
    if args.act.consent.ask(&format!("Restore {}?", dead_letters(count))).await? == Answer::No {
        note("nothing was restored")?;
        return Ok(ExitCode::FAILURE);
    }
    let plan = Plan {
        action: "restore",
        by,
        place: queues.name.clone(),
        filter: path.clone(),
        reason: args.act.reason.clone(),
        selected: count,
    };
    let act = OpenAct::start(&queues.ledger, plan).await?;
    let interrupt = Interrupt::watch();
    let bar = progress(count, "restored")?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / args.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (sender, mut letters) = tokio::sync::mpsc::channel(1);
    let file = args.file.clone();
    // One at a time: a file may be larger than the memory. It ends once nobody takes the letters any more.
    let reader = std::thread::spawn(move || {
        let mut missing = missing.into_iter();
        file::for_each(&file, |letter| {
            if missing.next() == Some(true) {
                sender.blocking_send(letter)?;
            }
            Ok(())
        })
    });
    let mut done = 0;
    let mut outcome = "done".to_owned();
    while let Some(letter) = letters.recv().await {
        pace.tick().await;
        if interrupt.came() {
            "interrupted; the same command goes on".clone_into(&mut outcome);
            break;
        }
        if let Err(error) = queues.letters.send(letter).await {
            outcome = format!("failed: {error:#}");
            break;
        }
        done += 1;
        bar.inc(1);
    }
    drop(letters);
    bar.finish_and_clear();
    if outcome == "done" && done < count {
        // The file was changed meanwhile.
        let error = reader.join().ok().and_then(Result::err);
        outcome =
            error.map_or_else(|| "the file was changed meanwhile".to_owned(), |error| format!("{error:#}"));
    }
    let act = act.end(done, &outcome).await?;
    if args.json {
        acts::print_json(&act)?;
    } else {
        print(format!("{done} of {} restored: {outcome}", dead_letters(count)))?;
    }
    Ok(exit(done == count))
}

/// How often each letter is on the queue, by the hash of its body and attributes.
async fn fingerprints(queues: &OpenQueues) -> anyhow::Result<HashMap<String, usize>> {
    let mut there: HashMap<String, usize> = HashMap::new();
    let unseen = queues.letters.look(usize::MAX, async |messages| {
        for message in &messages {
            let body = message.body().unwrap_or_default();
            *there.entry(letter::fingerprint(body, &letter::attributes(message))).or_default() += 1;
        }
        Ok(Next::GoOn)
    });
    let unseen = unseen.await?;
    if unseen > 0 {
        note(format!(
            "{} hidden, perhaps because somebody else is looking; those of the file among them will be there twice",
            if unseen == 1 { "1 dead letter is".to_owned() } else { format!("{unseen} dead letters are") }
        ))?;
    }
    Ok(there)
}

/// Which letters of a file are not on the queue: of two that are the same, each has to be there.
fn missing(in_file: &[String], mut there: HashMap<String, usize>) -> Vec<bool> {
    let is_missing = |fingerprint: &String| match there.get_mut(fingerprint) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    in_file.iter().map(is_missing).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_there_the_queue_has_each_letter_of_the_file_afterwards_and_no_more(
            in_file in prop::collection::vec("[abc]", 0..8),
            there in prop::collection::vec("[abcd]", 0..8),
        ) {
            let count = |of: &[String]| of.iter().fold(HashMap::new(), |mut counts, letter| {
                *counts.entry(letter.clone()).or_insert(0_usize) += 1;
                counts
            });
            let before = count(&there);
            let sent = missing(&in_file, before.clone());
            let sent: Vec<_> = in_file.iter().zip(sent).filter(|(_, sent)| *sent).map(|(letter, _)| letter.clone()).collect();
            let sent = count(&sent);
            for (letter, wanted) in count(&in_file) {
                let before = before.get(&letter).copied().unwrap_or_default();
                let sent = sent.get(&letter).copied().unwrap_or_default();
                prop_assert_eq!(before + sent, wanted.max(before));
            }
        }
    }
}
