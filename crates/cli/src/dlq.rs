//! `learnink dlq`: the dead letters, why they are there, and how they leave.

mod cause;
mod drop;
pub(crate) mod erase;
pub(crate) mod file;
pub(crate) mod letter;
mod pass;
pub(crate) mod queue;
mod redrive;
mod restore;
mod selection;
pub(crate) mod show;
pub(crate) mod trial;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use learnink_local::pipeline::{DEAD_LETTER_QUEUE, QUEUE};
use learnink_local::terminal::{option, quoted};
use learnink_local::{LocalSqs, sdk_config, state};
use serde::Serialize;

use self::cause::{Group, grouped};
use self::letter::Letter;
use self::queue::{HIDDEN_FOR, Next, Queue};
use crate::aws::IN_AWS;
use crate::ledger::OpenLedger;
use crate::output::{note, print};
use crate::question::Consent;
use crate::replay::Operator;
use crate::stack::{Stack, Target};
use crate::table::Column::{Id, Number, Text};
use crate::{called, now, table, variable};

/// The commands of `learnink dlq`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what has to be put right: the dead letters by handler and reason
    Causes(CausesArgs),
    /// Show the dead letters and why they are there, never their content
    List(ListArgs),
    /// Show one dead letter: its facts, its timeline, and its payload without personal data
    Show(show::Args),
    /// Send dead letters to their source queue again: one first, and the rest if that one is done
    Redrive(Box<redrive::Args>),
    /// Delete dead letters, after they were written to a file
    Drop(Box<drop::Args>),
    /// Put dead letters that were dropped back on the dead-letter queue
    Restore(restore::Args),
}

/// Where the dead letters are.
#[derive(Debug, clap::Args)]
struct Place {
    /// URL of the dead-letter queue in AWS, for one that is not part of a stack
    #[arg(long, value_name = "URL", requires = "ledger", hide = true)]
    queue: Option<String>,
    /// URL of its source queue in AWS, where a redrive sends to
    #[arg(long, value_name = "URL", requires = "queue", hide = true)]
    source_queue: Option<String>,
    /// Name of the ledger's table in AWS
    #[arg(long, value_name = "TABLE", requires = "queue", hide = true)]
    ledger: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Options of the commands that move or delete letters.
#[derive(Debug, clap::Args)]
struct ActArgs {
    /// Why, for people who see the act
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    place: Place,
}

impl ActArgs {
    /// The name of the operator; `None` if there is nobody to ask, which is said.
    fn by(&self) -> anyhow::Result<Option<String>> {
        if let Err(no_terminal) = self.consent.check() {
            note(no_terminal.to_string())?;
            return Ok(None);
        }
        self.operator.name(variable).map(Some)
    }
}

/// The dead-letter queue, its source queue and the ledger.
pub(crate) struct OpenQueues {
    letters: Queue,
    /// Where a redrive sends to, if it was named.
    source: Option<Queue>,
    pub(crate) ledger: OpenLedger,
    /// The dead-letter queue's name for people.
    pub(crate) name: String,
    /// Whether its messages never expire.
    is_local: bool,
}

/// Options of `learnink dlq list`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
The reason is what the consumer wrote beside the message. One that SQS moved by itself, after its last \
delivery, has the reason of that delivery, from the ledger.

{}

`dlq causes` groups them by what has to be put right, and `dlq redrive` sends them again.

{IN_AWS}", looking()))]
pub(crate) struct ListArgs {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Options of `learnink dlq causes`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A cause is a handler and a reason, without ids, numbers, times and quoted values. Its short name is the same \
tomorrow. A letter expires 14 days after SQS got it: one that the consumer put here starts anew, and one that \
SQS moved here counts from when the receiver queued it.

{}

The exit code is 0 if there is none, and 1 if there are dead letters.

Examples:
  cargo learnink dlq causes
  cargo learnink dlq redrive 3f9a1b

{IN_AWS}", looking()))]
pub(crate) struct CausesArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// What a look at the queue does, for the help.
fn looking() -> String {
    format!(
        "SQS has no way to look at messages without receiving them: while they are read, for {} s at most, the \
         dead letters are hidden from others, and their receive counts grow. What is hidden, perhaps because \
         somebody else is looking at it, is counted and not listed.",
        HIDDEN_FOR.as_secs()
    )
}

/// Carries out one of the commands.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Causes(args) => causes(&args).await,
        Command::List(args) => list(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Show(args) => show::run(&args).await,
        Command::Redrive(args) => redrive::run(&args).await,
        Command::Drop(args) => drop::run(&args).await,
        Command::Restore(args) => restore::run(&args).await,
    }
}

/// The one place that knows where the queues and the ledger are.
async fn open(place: &Place) -> anyhow::Result<OpenQueues> {
    if let (Some(url), Some(table)) = (&place.queue, &place.ledger) {
        let aws = place.target.in_aws.config()?;
        return Ok(in_aws(&aws, url, place.source_queue.as_deref(), table));
    }
    let stack = place.target.in_aws.stack().await?;
    open_in(stack.as_ref(), &place.target.state.folder).await
}

/// The queues and the ledger of a stack, or else of the `learnink dev` that runs in `folder`.
pub(crate) async fn open_in(stack: Option<&Stack>, folder: &Path) -> anyhow::Result<OpenQueues> {
    match stack {
        Some(stack) => of_stack(stack),
        None => of_dev(folder).await,
    }
}

/// The queues of a deployed stack.
fn of_stack(stack: &Stack) -> anyhow::Result<OpenQueues> {
    let [letters, source, ledger] = ["DeadLetterQueueUrl", "QueueUrl", "LedgerTableName"];
    let (letters, source) = (stack.output(letters)?, stack.output(source)?);
    Ok(in_aws(&stack.aws, letters, Some(source), stack.output(ledger)?))
}

/// The queues of the pipeline that runs in `folder`.
async fn of_dev(folder: &Path) -> anyhow::Result<OpenQueues> {
    let endpoint = state::address(folder, state::Service::Sqs)?;
    let (Some(endpoint), Some(ledger)) = (endpoint, OpenLedger::of_dev(folder).await?) else {
        anyhow::bail!(called::not_running(folder));
    };
    let queue = |name| Queue { client: Client::new(&sdk_config(&endpoint)), url: LocalSqs::queue_url(name) };
    Ok(OpenQueues {
        letters: queue(DEAD_LETTER_QUEUE),
        source: Some(queue(QUEUE)),
        ledger,
        name: format!("the dead-letter queue of `learnink dev` ({})", quoted(folder)),
        is_local: true,
    })
}

/// The queues of these URLs, and the ledger in the table.
fn in_aws(aws: &SdkConfig, letters: &str, source: Option<&str>, table: &str) -> OpenQueues {
    let queue = |url: &str| Queue { client: Client::new(aws), url: url.to_owned() };
    OpenQueues {
        letters: queue(letters),
        source: source.map(queue),
        ledger: OpenLedger::in_aws(aws, table),
        name: format!("the queue {letters}"),
        is_local: false,
    }
}

impl Place {
    /// The line to type for another command on the same queue.
    fn command(&self, command: &str) -> String {
        let mut line = format!("{} dlq {command}", called::learnink());
        let named =
            [("--queue", &self.queue), ("--source-queue", &self.source_queue), ("--ledger", &self.ledger)];
        for (name, value) in named {
            if let Some(value) = value {
                line.push(' ');
                line.push_str(&option(name, value));
            }
        }
        if self.queue.is_none() {
            line.push_str(&self.target.options());
        }
        line
    }
}

/// The letters that a look found.
struct Look {
    letters: Vec<Letter>,
    /// How many more the queue has, which another receiver hides.
    unseen: usize,
}

impl OpenQueues {
    /// How long a letter is kept; `None` on a laptop, where none expires.
    async fn kept_for(&self) -> anyhow::Result<Option<SignedDuration>> {
        if self.is_local {
            return Ok(None);
        }
        Ok(Some(self.letters.retention().await?.try_into()?))
    }

    /// Reads all letters, with their times of expiry.
    async fn look(&self) -> anyhow::Result<Look> {
        let kept_for = self.kept_for().await?;
        self.look_at(usize::MAX, kept_for).await
    }

    /// Receives the visible messages, up to `limit`, and makes them visible again.
    async fn look_at(&self, limit: usize, kept_for: Option<SignedDuration>) -> anyhow::Result<Look> {
        let progress = ProgressBar::new_spinner();
        progress.set_style(ProgressStyle::with_template("{human_pos} dead letters read")?);
        let mut letters = Vec::new();
        let unseen = self.letters.look(limit, async |messages| {
            // Without the bodies, which may not fit into memory together.
            letters.extend(letter::read(&messages, &self.ledger, kept_for).await?);
            progress.set_position(letters.len() as u64);
            Ok(Next::GoOn)
        });
        let unseen = unseen.await;
        progress.finish_and_clear();
        Ok(Look { letters, unseen: unseen? })
    }

    /// What is known of each letter.
    pub(crate) async fn facts(&self) -> anyhow::Result<Vec<letter::Facts>> {
        Ok(self.look().await?.letters.into_iter().map(|letter| letter.facts).collect())
    }

    /// The causes of up to `limit` letters.
    async fn sample(&self, limit: usize) -> anyhow::Result<Sample> {
        let look = self.look_at(limit, None).await?;
        let causes = grouped(&look.letters).into_iter().map(|group| CountedCause {
            name: group.cause.name,
            handler: group.cause.handler,
            reason: group.cause.reason,
            count: group.count,
        });
        Ok(Sample { looked_at: look.letters.len(), causes: causes.collect() })
    }

    /// How many messages wait on the source queue, or are in flight.
    pub(crate) async fn waiting(&self) -> anyhow::Result<usize> {
        self.source()?.count().await
    }

    /// The queue that a redrive sends to.
    pub(crate) fn source(&self) -> anyhow::Result<&Queue> {
        self.source.as_ref().context("name the queue that the letters go back to with --source-queue URL")
    }
}

impl Look {
    /// Says how many letters were not seen.
    fn note_unseen(&self) -> anyhow::Result<()> {
        if self.unseen == 0 {
            return Ok(());
        }
        let more = if self.letters.is_empty() { "" } else { " more" };
        let count =
            if self.unseen == 1 { format!("1{more} is") } else { format!("{}{more} are", self.unseen) };
        note(format!(
            "{count} on the queue and not shown, perhaps because somebody else is looking; try again in {} s",
            HIDDEN_FOR.as_secs()
        ))
    }

    /// The text if no letter was seen.
    const fn empty(&self) -> &'static str {
        if self.unseen > 0 { "all dead letters are in flight; try again shortly" } else { "no dead letters" }
    }
}

/// Shows the dead letters.
async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let queues = open(&args.place).await?;
    let mut look = queues.look_at(args.limit.into(), None).await?;
    let may_be_more = look.letters.len() == usize::from(args.limit);
    look.letters.sort_by(|a, b| {
        let (a, b) = (&a.facts, &b.facts);
        (a.received_at, &a.message_id).cmp(&(b.received_at, &b.message_id))
    });
    let columns = [
        Id("Message id"),
        Id("Type"),
        Text("Received"),
        Number("Receive count"),
        Id("Handler"),
        Text("Reason"),
    ];
    let rows = look.letters.iter().map(|letter| {
        let facts = &letter.facts;
        [
            or_dash(facts.message_id.clone()),
            or_dash(facts.event_type.as_ref().map(|event_type| match &facts.part {
                Some(part) => format!("{event_type} ({part})"),
                None => event_type.clone(),
            })),
            or_dash(facts.received_at.map(table::seconds)),
            or_dash(facts.receive_count.map(|count| count.to_string())),
            or_dash(facts.handler.clone()),
            facts.reason.clone(),
        ]
    });
    if args.json {
        table::print_json(&look.letters.iter().map(|letter| &letter.facts).collect::<Vec<_>>())?;
    } else {
        table::print(columns, rows, look.letters.len(), look.empty())?;
    }
    if may_be_more {
        note("there may be more; --limit shows them")?;
    }
    look.note_unseen()
}

/// The causes of some dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    /// How many letters were looked at.
    pub(crate) looked_at: usize,
    /// Their causes, that of the most letters first.
    pub(crate) causes: Vec<CountedCause>,
}

/// How many letters have a cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CountedCause {
    pub(crate) name: String,
    pub(crate) handler: Option<String>,
    pub(crate) reason: String,
    pub(crate) count: usize,
}

/// The causes of up to `limit` dead letters of a stack.
pub(crate) async fn sample_of_stack(stack: &Stack, limit: usize) -> anyhow::Result<Sample> {
    of_stack(stack)?.sample(limit).await
}

/// The causes of up to `limit` dead letters of the pipeline that runs in `folder`.
pub(crate) async fn sample_of_dev(folder: &Path, limit: usize) -> anyhow::Result<Sample> {
    of_dev(folder).await?.sample(limit).await
}

/// A cause as it is listed.
#[derive(Debug, Serialize)]
struct ListedCause {
    #[serde(flatten)]
    group: Group,
    /// The line to type once it is put right.
    next: String,
}

/// Shows the causes.
async fn causes(args: &CausesArgs) -> anyhow::Result<ExitCode> {
    let queues = open(&args.place).await?;
    let look = queues.look().await?;
    let next = |group: &Group| {
        let command = if is_redrivable(&look.letters, group) { "redrive" } else { "drop" };
        args.place.command(&format!("{command} {}", group.cause.name))
    };
    let listed: Vec<_> =
        grouped(&look.letters).into_iter().map(|group| ListedCause { next: next(&group), group }).collect();
    if args.json {
        table::print_json(&listed)?;
    } else if listed.is_empty() {
        print(format!("{} in {}", look.empty(), queues.name))?;
    } else {
        let groups: Vec<_> = listed.iter().map(|listed| listed.group.clone()).collect();
        print_groups(&groups, Some(now()), queues.is_local)?;
        print(format!("{} in {}", dead_letters(look.letters.len()), queues.name))?;
        print("Next, once a cause is put right:")?;
        for listed in &listed {
            print(format!("  {}", listed.next))?;
        }
    }
    look.note_unseen()?;
    Ok(if look.letters.is_empty() && look.unseen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a consumer can read any letter of this group.
fn is_redrivable(letters: &[Letter], group: &Group) -> bool {
    letters.iter().any(|letter| letter.cause == group.cause && !letter.is_foreign)
}

/// Prints causes as a table; with the time of expiry if it is known what time it is.
fn print_groups(groups: &[Group], now: Option<Timestamp>, is_local: bool) -> anyhow::Result<()> {
    let columns = [
        Id("Cause"),
        Number("Letters"),
        Id("Handler"),
        Text("Types"),
        Text("Oldest"),
        Text("Expires in"),
        Text("Reason"),
    ];
    let rows = groups.iter().map(|group| {
        let expires_in = match (group.expires_at, now) {
            _ if is_local => "never".to_owned(),
            (Some(at), Some(now)) => left(at.duration_since(now)),
            _ => "-".to_owned(),
        };
        [
            group.cause.name.clone(),
            group.count.to_string(),
            or_dash(group.cause.handler.clone()),
            or_dash(
                Some(group.types.iter().cloned().collect::<Vec<_>>().join(", "))
                    .filter(|types| !types.is_empty()),
            ),
            or_dash(group.oldest.map(table::seconds)),
            expires_in,
            group.cause.reason.clone(),
        ]
    });
    table::print_rows(columns, rows)
}

pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// A number of letters, in words.
fn dead_letters(count: usize) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

/// A time that is left, for a person: days and hours, or hours and minutes.
fn left(duration: SignedDuration) -> String {
    let minutes = duration.as_mins().max(0);
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) if duration.is_positive() => "under 1m".to_owned(),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEFAULT_STATE;

    #[test]
    fn the_time_that_is_left_is_two_units() {
        for (seconds, expected) in [
            (-5, "0m"),
            (0, "0m"),
            (59, "under 1m"),
            (61, "1m"),
            (2 * 3600 + 5 * 60, "2h 5m"),
            (9 * 86_400 + 4 * 3600 + 59 * 60, "9d 4h"),
        ] {
            assert_eq!(left(SignedDuration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn the_next_command_is_for_the_same_place_and_can_be_pasted() {
        let place = |queue: Option<&str>, folder: &str| Place {
            queue: queue.map(str::to_owned),
            source_queue: queue.map(|_| "b c".to_owned()),
            ledger: queue.map(|_| "t".to_owned()),
            target: Target::dev(folder),
        };
        let command =
            |place: Place| place.command("redrive x").strip_prefix(called::learnink()).unwrap().to_owned();
        assert_eq!(command(place(None, DEFAULT_STATE)), " dlq redrive x");
        assert_eq!(command(place(None, "a b")), " dlq redrive x --state 'a b'");
        let in_aws = " dlq redrive x --queue https://q --source-queue 'b c' --ledger t";
        assert_eq!(command(place(Some("https://q"), "a b")), in_aws);
        let stack = Place { target: Target::deployed("staging", None), ..place(None, DEFAULT_STATE) };
        assert_eq!(command(stack), " dlq redrive x --stack staging");
    }
}
