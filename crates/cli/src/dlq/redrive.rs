//! `learnink dlq redrive`: dead letters go back to their source queue, one first.

use std::collections::{BTreeSet, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_sqs::types::Message;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use learnink_consumer::ledger::Entry;
use tokio::time::MissedTickBehavior;

use super::cause::grouped;
use super::letter::{self, InLedger, Letter, redriven_attributes};
use super::pass::{PassEnd, Taken, pass};
use super::queue::{MOST_AT_A_TIME, Outgoing, Queue, receipt, sqs_id};
use super::selection::{FilterArgs, Foreign, Selection, candidates};
use super::trial::{FailedDeliveries, Trial, is_done, judge};
use super::{ActArgs, OpenQueues, dead_letters, open, print_groups};
use crate::acts::{self, OpenAct, Plan};
use crate::aws::IN_AWS;
use crate::output::{exit, note, print, progress, say};
use crate::question::{Answer, Interrupt};
use crate::{now, table};

/// Of how many causes one letter is tried first.
const MOST_TRIALS: usize = 5;

/// How many letters of a cause are looked up in the ledger for one that is not done.
const MOST_LOOKUPS: usize = 20;

/// How often the ledger is asked about a first try.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Options of `learnink dlq redrive`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A redrive sends a letter to the source queue as the same message, without the reason, and then deletes it. \
What the ledger knows as done does not run again. If the command is killed in between, a duplicate is left, \
which the ledger deduplicates.

One letter is tried first, the newest of each cause, {MOST_TRIALS} at most. The rest follows only if the ledger \
then shows these as done. If one fails twice, comes back, or has not ended in time, nothing else is redriven. Once the \
tries are done, the command says how many letters are left, and asks. Letters that come meanwhile stay. Ctrl-C stops \
between two letters; the same command goes on.

A letter that no consumer can read comes back at once. It is redriven only if its SQS message id is named; \
`dlq drop` deletes it.

--all does the same with all letters. It does not use the move task of SQS, which cannot try one first, keeps \
the old reason beside the message, and does not know `learnink dev`.

TIME is 2026-01-02T08:00:00Z or with another offset, 2026-01-02T08:00 or 2026-01-02 in UTC, or '2h ago'.

The exit code is 0 if every chosen letter was redriven, 1 if some are left, and 2 if there is nobody to ask.

Examples:
  cargo learnink dlq redrive 3f9a1b --reason \"the secret is stored\"
  cargo learnink dlq redrive --handler push --received-since '3h ago' --dry-run

{IN_AWS}"))]
pub(crate) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many letters a second
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    rate: u32,
    /// How long to wait for the end of the first try, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=900))]
    wait: u64,
    #[command(flatten)]
    act: ActArgs,
    /// Print the act as JSON, or what is chosen if nothing is done
    #[arg(long)]
    json: bool,
}

/// A letter that was tried, and the ledger's entry before.
struct Tried<'a> {
    letter: &'a Letter,
    before: Option<Entry>,
}

/// How a redrive ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Nothing is left to redrive.
    Complete,
    /// Something is left, or a first try is not done: why.
    Stopped(String),
}

/// The state of a redrive.
struct Redrive<'a> {
    queues: &'a OpenQueues,
    source: &'a Queue,
    args: &'a Args,
    /// The SQS message ids of the letters that are left to redrive.
    wanted: BTreeSet<String>,
    done: usize,
    /// How many were not there any more.
    gone: usize,
}

/// Redrives dead letters.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.filter(now())?;
    let queues = open(&args.act.place).await?;
    let source = queues.source()?;
    let look = queues.look().await?;
    let selection = match filter.select(&look.letters, Foreign::OnlyNamed) {
        Ok(selection) => selection,
        Err(unknown) => return unknown_names(&unknown, &look, &queues),
    };
    say(args.json, || print_selection(&selection, &look, &queues, "redriven"))?;
    if args.json && (selection.letters.is_empty() || args.act.consent.dry_run) {
        table::print_json(&grouped(selection.letters.iter().copied()))?;
    }
    if selection.letters.is_empty() {
        look.note_unseen()?;
        return Ok(exit(look.unseen == 0 && selection.foreign == 0));
    }
    let groups = candidates(&selection.letters);
    if args.act.consent.dry_run {
        let tries = groups.len().min(MOST_TRIALS);
        say(args.json, || print(format!("dry run: {tries} would be tried first, and nothing was redriven")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(by) = args.act.by()? else { return Ok(ExitCode::from(2)) };
    // Otherwise the question comes after the first tries.
    if selection.letters.len() <= groups.len().min(MOST_TRIALS) {
        let question = format!("Redrive {}?", dead_letters(selection.letters.len()));
        if args.act.consent.ask(&question).await? == Answer::No {
            note("nothing was redriven")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let plan = Plan {
        action: "redrive",
        by,
        place: queues.name.clone(),
        filter: filter.text().to_owned(),
        reason: args.act.reason.clone(),
        selected: selection.letters.len(),
    };
    let mut act = OpenAct::start(&queues.ledger, plan).await?;
    let wanted = selection.letters.iter().map(|letter| letter.sqs_id.clone()).collect();
    let mut redrive = Redrive { queues: &queues, source, args, wanted, done: 0, gone: 0 };
    let known = look.letters.iter().map(|letter| letter.sqs_id.clone()).collect();
    let ended = redrive.carry_out(groups, &known, &mut act).await;
    let end = ended.unwrap_or_else(|error| End::Stopped(format!("failed: {error:#}")));
    let outcome = match &end {
        End::Complete => redrive.summary(),
        End::Stopped(why) => why.clone(),
    };
    let left = redrive.wanted.len();
    let act = act.end(redrive.done, &outcome).await?;
    if args.json {
        acts::print_json(&act)?;
    } else {
        print(format!("{} of {} redriven: {outcome}", redrive.done, dead_letters(selection.letters.len())))?;
    }
    if left > 0 {
        note(format!("{} left; the same command goes on", are(left)))?;
    }
    look.note_unseen()?;
    Ok(exit(end == End::Complete && redrive.gone == 0 && look.unseen == 0))
}

impl<'a> Redrive<'a> {
    /// Tries letters first, asks, and redrives the rest. Returns how it ended.
    async fn carry_out(
        &mut self,
        groups: Vec<Vec<&'a Letter>>,
        known: &BTreeSet<String>,
        act: &mut OpenAct<'a>,
    ) -> anyhow::Result<End> {
        let mut interrupt = Interrupt::watch();
        let tried = self.try_first(groups, &interrupt).await?;
        if interrupt.came() {
            return Ok(End::Stopped("interrupted".to_owned()));
        }
        if !tried.is_empty() {
            act.note(self.done, "trying one first").await?;
            let limit = Duration::from_secs(self.args.wait);
            let names = names(&tried);
            note(format!("tried first: {names}; waiting for its end, {} s at most", limit.as_secs()))?;
            let ends = self.wait_for(&tried, known, limit, &mut interrupt).await;
            let ends = ends.context("the end of the first try is not known")?;
            if interrupt.came() {
                return Ok(End::Stopped("interrupted before the first try was done".to_owned()));
            }
            let mut stopped = None;
            for (tried, end) in tried.iter().zip(&ends) {
                let text = end.text(name(tried.letter), limit);
                note(&text)?;
                if *end != Trial::Done {
                    stopped.get_or_insert(text);
                }
            }
            if let Some(text) = stopped {
                return Ok(End::Stopped(format!("stopped, because {text}")));
            }
        }
        if self.wanted.is_empty() {
            return Ok(End::Complete);
        }
        act.note(self.done, "the first try is done").await?;
        let (left, rate) = (self.wanted.len(), self.args.rate);
        let seconds = left.div_ceil(rate as usize);
        let question =
            format!("Redrive the other {}, at {rate} a second (about {seconds} s)?", dead_letters(left));
        let answer = tokio::select! {
            answer = self.args.act.consent.ask(&question) => answer?,
            () = interrupt.wait() => return Ok(End::Stopped("interrupted before the answer".to_owned())),
        };
        if answer == Answer::No {
            return Ok(End::Stopped("the answer was no, after the first try".to_owned()));
        }
        match self.redrive_rest(&interrupt).await? {
            PassEnd::All => Ok(End::Complete),
            PassEnd::Gone => {
                self.gone += self.wanted.len();
                self.wanted.clear();
                Ok(End::Complete)
            }
            PassEnd::Interrupted => Ok(End::Stopped("interrupted".to_owned())),
            PassEnd::Failed(error) => Err(error),
        }
    }

    fn summary(&self) -> String {
        match self.gone {
            0 => "done".to_owned(),
            gone => format!(
                "done, except {gone} that {} not there any more: expired, or taken or looked at by somebody else",
                if gone == 1 { "is" } else { "are" }
            ),
        }
    }

    /// Redrives one letter of each cause, unless the ledger has all of a cause as done.
    async fn try_first(
        &mut self,
        groups: Vec<Vec<&'a Letter>>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<Tried<'a>>> {
        let mut tried = Vec::new();
        for group in groups.into_iter().take(MOST_TRIALS) {
            let mut group = VecDeque::from(group);
            let mut lookups = 0;
            while let Some(letter) = group.pop_front() {
                if lookups == MOST_LOOKUPS || interrupt.came() {
                    break;
                }
                lookups += 1;
                let before = self.entry(letter.in_ledger.as_ref()).await?;
                if letter.in_ledger.as_ref().is_some_and(|message| is_done(message, before.as_ref())) {
                    continue;
                }
                let mut one = BTreeSet::from([letter.sqs_id.clone()]);
                let end = pass(&self.queues.letters, &mut one, interrupt, async |messages| {
                    self.send_all(messages, interrupt, None).await
                });
                match end.await? {
                    PassEnd::All => {
                        self.wanted.remove(&letter.sqs_id);
                        self.done += 1;
                        tried.push(Tried { letter, before });
                        break;
                    }
                    // Somebody else has taken it. Another one of its cause is tried.
                    PassEnd::Gone => {
                        self.wanted.remove(&letter.sqs_id);
                        self.gone += 1;
                    }
                    PassEnd::Interrupted => break,
                    PassEnd::Failed(error) => return Err(error),
                }
            }
        }
        Ok(tried)
    }

    async fn entry(&self, message: Option<&InLedger>) -> anyhow::Result<Option<Entry>> {
        match message {
            Some(message) => self.queues.ledger.entry(message.id.clone()).await,
            None => Ok(None),
        }
    }

    /// Waits until each first try has ended, or the time is up.
    async fn wait_for(
        &self,
        tried: &[Tried<'_>],
        known: &BTreeSet<String>,
        limit: Duration,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<Vec<Trial>> {
        let started = Instant::now();
        let mut came_back: Vec<Option<Letter>> = tried.iter().map(|_| None).collect();
        let mut failed = vec![FailedDeliveries::default(); tried.len()];
        loop {
            let is_last = started.elapsed() >= limit;
            let found = if is_last {
                // The looks before saw only a sample of a long queue.
                self.queues.look_at(usize::MAX, None).await?.letters
            } else {
                self.sample().await?
            };
            for letter in found.into_iter().filter(|letter| !known.contains(&letter.sqs_id)) {
                for (one, back) in tried.iter().zip(&mut came_back) {
                    if one.letter.fingerprint == letter.fingerprint {
                        *back = Some(letter.clone());
                    }
                }
            }
            let mut trials = Vec::new();
            for (tried, came_back) in tried.iter().zip(&came_back) {
                let entry = self.entry(tried.letter.in_ledger.as_ref()).await?;
                let window = tried.letter.in_ledger.as_ref().and_then(|message| message.window.as_deref());
                trials.push(judge(window, tried.before.as_ref(), entry.as_ref(), came_back.as_ref()));
            }
            let ended: Vec<_> =
                failed.iter_mut().zip(&trials).map(|(failed, trial)| failed.is_end(trial)).collect();
            if ended.iter().all(|ended| *ended) || is_last || interrupt.came() {
                return Ok(trials);
            }
            tokio::select! {
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
                () = interrupt.wait() => {}
            }
        }
    }

    /// Some letters of the queue, which are shown again at once.
    async fn sample(&self) -> anyhow::Result<Vec<Letter>> {
        let queue = &self.queues.letters;
        let messages = queue.receive(MOST_AT_A_TIME).await?;
        queue.show_again(&messages.iter().map(receipt).collect::<Vec<_>>()).await?;
        letter::read(&messages, &self.queues.ledger, None).await
    }

    /// Redrives what is wanted.
    async fn redrive_rest(&mut self, interrupt: &Interrupt) -> anyhow::Result<PassEnd> {
        let progress = progress(self.wanted.len(), "redriven")?;
        let before = self.wanted.len();
        let mut wanted = std::mem::take(&mut self.wanted);
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.args.rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = pass(&self.queues.letters, &mut wanted, interrupt, async |messages| {
            self.send_all(messages, interrupt, Some((&mut pace, &progress))).await
        });
        let end = end.await;
        progress.finish_and_clear();
        self.done += before - wanted.len();
        self.wanted = wanted;
        end
    }

    /// Sends letters at the given pace. Each is deleted once its send is confirmed.
    async fn send_all(
        &self,
        messages: Vec<Message>,
        interrupt: &Interrupt,
        mut paced: Option<(&mut tokio::time::Interval, &ProgressBar)>,
    ) -> Taken {
        let mut taken = Taken::default();
        let mut running = FuturesUnordered::new();
        let mut messages = messages.into_iter();
        while messages.len() > 0 {
            if let Some((pace, progress)) = &mut paced {
                tokio::select! {
                    biased;
                    Some(sent) = running.next(), if !running.is_empty() => {
                        taken.add(sent, Some(progress));
                        continue;
                    }
                    _ = pace.tick() => {}
                }
            }
            if interrupt.came() || taken.error.is_some() {
                break;
            }
            running.extend(messages.next().map(|message| self.send(message)));
        }
        while let Some(sent) = running.next().await {
            taken.add(sent, paced.as_ref().map(|(_, progress)| *progress));
        }
        taken
    }

    /// Sends one letter to the source queue, and then deletes it.
    async fn send(&self, message: Message) -> anyhow::Result<String> {
        let attributes = redriven_attributes(&message);
        let (id, receipt) = (sqs_id(&message), receipt(&message));
        let body = message.body.unwrap_or_default();
        self.source.send(Outgoing { body, attributes }).await?;
        // If this fails, it is there twice, and the ledger deduplicates it.
        self.queues.letters.delete(&[receipt]).await?;
        Ok(id)
    }
}

impl Taken {
    fn add(&mut self, sent: anyhow::Result<String>, progress: Option<&ProgressBar>) {
        match sent {
            Ok(id) => {
                self.done.push(id);
                if let Some(progress) = progress {
                    progress.inc(1);
                }
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }
}

/// Says which names no letter has: then nothing is done.
pub(super) fn unknown_names(
    unknown: &[String],
    look: &super::Look,
    queues: &OpenQueues,
) -> anyhow::Result<ExitCode> {
    let names = unknown.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    note(format!("nothing was done: no dead letter in {} has the id or the cause {names}", queues.name))?;
    look.note_unseen()?;
    Ok(ExitCode::FAILURE)
}

/// Says what was chosen, and of how many.
pub(super) fn print_selection(
    selection: &Selection<'_>,
    look: &super::Look,
    queues: &OpenQueues,
    done: &str,
) -> anyhow::Result<()> {
    let chosen = selection.letters.len();
    if look.letters.is_empty() {
        return print(format!("{} in {}", look.empty(), queues.name));
    }
    if chosen > 0 {
        print_groups(&grouped(selection.letters.iter().copied()), Some(now()), queues.is_local)?;
    }
    let are = if chosen == 1 { "is" } else { "are" };
    print(format!("{chosen} of {} in {} {are} to be {done}", dead_letters(look.letters.len()), queues.name))?;
    if selection.foreign > 0 {
        print(format!(
            "{} that no consumer can read {} left out; name its SQS message id, or drop it",
            dead_letters(selection.foreign),
            if selection.foreign == 1 { "is" } else { "are" }
        ))?;
    }
    Ok(())
}

fn are(count: usize) -> String {
    if count == 1 { "1 letter is".to_owned() } else { format!("{count} letters are") }
}

/// A letter's name for people.
fn name(letter: &Letter) -> &str {
    letter.facts.message_id.as_deref().unwrap_or(&letter.sqs_id)
}

fn names(tried: &[Tried<'_>]) -> String {
    tried.iter().map(|tried| name(tried.letter)).collect::<Vec<_>>().join(", ")
}
