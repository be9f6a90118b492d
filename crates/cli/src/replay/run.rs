//! `learnink replay run`: what is kept of webhooks is handled again.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_sqs::types::MessageAttributeValue;
use clap::builder::NonEmptyStringValueParser;
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use learnink_consumer::ledger::{Entry, REMEMBERED_FOR, payload_sha256};
use learnink_consumer::replay::{Closing, Coverage, ReplayWindow, Run};
use learnink_local::LocalDynamoDb;
use learnink_local::terminal::option;
use learnink_receiver::Verifier;
use learnink_webhook::idempotency::run_key;
use learnink_webhook::{Message, MessageId};
use tokio::time::MissedTickBehavior;

use super::kept::{Candidate, Judged, Kept, Key, Listed, Store, Wanted, each_once};
use super::{Operator, Time, duration, fresh_id, known_handlers, parse_time};
use crate::acts::{self, OpenAct, Plan};
use crate::aws::IN_AWS;
use crate::dlq::queue::{Outgoing, Queue};
use crate::dlq::trial::{FailedDeliveries, Trial};
use crate::ledger::OpenLedger;
use crate::output::{exit, note, print, progress, say};
use crate::question::{Answer, Consent, Interrupt};
use crate::stack::{Stack, Target};
use crate::table::Column::{Id, Number, Text};
use crate::table::seconds;
use crate::{archive, dlq, secret, secrets, stored, table, variable};

/// How many messages are read, or looked up in the ledger, at a time. Bodies are up to 6 MiB.
const READS_AT_ONCE: usize = 32;

/// How many messages are sent at a time.
const SENDS_AT_ONCE: usize = 16;

/// How often the ledger is asked about the first try.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// How long after its receipt a record may still be on its way to the bucket: 15 minutes in the stream's buffer, as in
/// `template.yaml`, and as long again to be written.
const MOST_DELIVERED_AFTER: SignedDuration = SignedDuration::from_mins(30);

/// How many ids of a filter are part of its text; of more, only a hash is.
const MOST_IDS_IN_TEXT: usize = 5;

/// The variable with signing secrets, as `learnink archive verify` reads it.
const SECRETS: &str = "LEARNINK_SIGNING_SECRET";

/// Options of `learnink replay run`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
LearnInk's dashboard sends again only what failed. It does not send what was answered 200: webhooks that a handler \
got wrong, or that came before there was a handler. This command sends them, from the archive, which has every \
webhook, or from the unknown events of the last 90 days.

Each message goes to the queue as it was signed, with its id and its first time of arrival, under a replay window of \
its own that covers exactly the messages of this run. From the archive, each handler runs again, once, or only those \
that --handler names. From the unknown events, only handlers run that are not done; name one with --handler for \
events that are older than the 30 days for which the ledger remembers what is done. No handler runs that was not \
asked for, and the archive counts no record twice. An archive that is a stream has a record some 15 minutes after \
the webhook: the same command, later, sends the last ones.

One message is tried first, the newest. The rest follows only if the ledger then shows that a handler is done with it. \
If no handler ran, the oldest of its type is tried, and then another type. The same options \
go on with the same run while its window is open, after Ctrl-C or a kill too: what is done under it is not sent \
again. --new starts another run. `replay close` stops what is not handled yet.

Only what LearnInk signed is sent: a secret of the time proves it. The stack's secrets are used, or those of \
`learnink dev`, and those that --secret-file or LEARNINK_SIGNING_SECRET has besides. What is left out is named.

TIME is 2026-01-02T08:00:00Z or with another offset, 2026-01-02T08:00 or 2026-01-02 in UTC, or '2h ago'.

The exit code is 0 if everything that was asked for was sent, now or before, or if it is a dry run; 1 if a message was \
left out or not sent; and 2 if a question has no terminal.

Examples:
  cargo learnink replay run --from archive --since '3h ago' \\
    --handler progress --reason \"its bug is fixed\"
  cargo learnink replay run --from unknown --since 2026-01-02 \\
    --type example.badge.earned --reason \"there is a handler now\"

{IN_AWS} It needs sqs:SendMessage on the queue, dynamodb:GetItem and UpdateItem on the ledger, \
secretsmanager:GetSecretValue, and to read the archive, or dynamodb:Scan and GetItem on the table."))]
pub(crate) struct Args {
    /// Where the messages are kept
    #[arg(long = "from", value_name = "STORE", value_enum)]
    store: StoreName,
    /// Only messages that the receiver accepted at or after TIME
    #[arg(long, value_name = "TIME", value_parser = typed_time, required_unless_present = "messages")]
    since: Option<TypedTime>,
    /// Only messages that the receiver accepted before TIME; without it, before now
    #[arg(long, value_name = "TIME", requires = "since", value_parser = typed_time)]
    until: Option<TypedTime>,
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "EVENT_TYPE", value_parser = NonEmptyStringValueParser::new())]
    types: Vec<String>,
    /// Only these messages
    #[arg(long = "message", value_name = "ID", num_args = 1.., value_parser = MessageId::parse)]
    messages: Vec<MessageId>,
    /// Run only these handlers
    #[arg(long = "handler", value_name = "NAME", num_args = 1..)]
    handlers: Vec<String>,
    /// At most this many messages, the oldest first; the same command without it goes on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// At most so many messages a second
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    rate: u32,
    /// How long to wait for the end of the first try, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=900))]
    wait: u64,
    /// For how long the same options go on with this run, such as 90m, 2h or 3d; at most 7d
    #[arg(long = "for", value_name = "DURATION", default_value = "1d", value_parser = duration)]
    lasts: SignedDuration,
    /// Start another run, under which what is done runs again
    #[arg(long)]
    new: bool,
    /// Send also what no secret proves
    #[arg(long)]
    unproven: bool,
    /// File with further signing secrets, separated by spaces or lines, or - for standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<std::path::PathBuf>,
    /// The archive's location, `s3://bucket/prefix` or a folder; without it, that of --stack, or else `LEARNINK_ARCHIVE`
    #[arg(long = "archive", value_name = "URL")]
    archive: Option<String>,
    /// Why, for people who see the run
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Print the act as JSON, or the number of messages if nothing is done
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    target: Target,
}

/// Where messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StoreName {
    /// The records of the `archive` handler
    Archive,
    /// The events that no handler took
    Unknown,
}

/// A time, and how it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TypedTime {
    text: String,
    time: Time,
}

fn typed_time(text: &str) -> Result<TypedTime, String> {
    Ok(TypedTime { text: text.to_owned(), time: parse_time(text)? })
}

/// Everything that a run reaches.
struct Place {
    queue: Queue,
    ledger: OpenLedger,
    store: Store,
    verifier: Option<Verifier>,
    /// Whether the messages are kept in the archive of a stack that writes it as a stream.
    has_stream: bool,
    /// Holds the engine of the tables of `learnink dev`.
    _tables: Option<LocalDynamoDb>,
}

/// The messages that may be sent, and how many cannot.
#[derive(Debug, Default)]
struct Found {
    candidates: Vec<Candidate>,
    no_event: usize,
    unproven: usize,
    unreadable: usize,
    others: usize,
    /// How many files of a stream there are.
    files: usize,
}

/// What the ledger knows of the candidates.
#[derive(Debug, Default)]
struct Split {
    left: Vec<Candidate>,
    done: usize,
    /// Those of which the ledger does not know any more what is done.
    forgotten: usize,
}

/// Sends again what is kept.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let handlers = known_handlers(&args.handlers)?;
    let place = args.open().await?;
    // Its answer shows the time by which the consumer works.
    let windows: Vec<_> = place.ledger.replay_windows().await?.into_iter().flatten().collect();
    let at = place.ledger.now()?;
    let filter = args.filter();
    let open = windows.iter().rfind(|window| is_this_run(window, &filter, &handlers, at)).cloned();
    let known = open.filter(|_| !args.new);
    let (window, is_new) = match known {
        Some(window) => (window, false),
        None => (args.window(filter, handlers, at)?, true),
    };
    let asked = window.run().with_context(|| format!("the window {} is not of a run", window.id))?;
    if !is_new {
        say(args.json, || print(goes_on(&window, asked)))?;
    }
    for other in windows.iter().filter(|other| other.id != window.id && other.is_open(at)) {
        note(format!(
            "the replay window {} is open as well ({}): a message of both is handled once under each",
            other.id,
            super::covers(&other.covers)
        ))?;
    }
    let wanted = Wanted {
        from: asked.from,
        until: asked.until,
        types: args.types.iter().cloned().collect(),
        messages: args.messages.iter().cloned().collect(),
    };
    let found = find(&place, &wanted).await?;
    if let Some(warning) = place.on_their_way(&found, asked.until, at) {
        note(warning)?;
    }
    let skips_forgotten = !asked.again && window.handlers.is_empty();
    let mut split = look_up(&place.ledger, found.candidates, &window.id, skips_forgotten).await?;
    let Found { no_event, unproven, unreadable, others, .. } = found;
    let limit = args.limit.map_or(Ok(usize::MAX), usize::try_from)?;
    let over_limit = split.left.len().saturating_sub(limit);
    split.left.truncate(limit);
    let counts = Counts {
        done: split.done,
        forgotten: split.forgotten,
        no_event,
        unproven,
        unreadable,
        others,
        over_limit,
    };
    let is_all = counts.left_out() == 0;
    say(args.json, || print_found(&split.left, &counts, &window, &place.name_of_store(args)))?;
    let selected = split.left.len();
    if selected == 0 || args.consent.dry_run {
        if args.json {
            crate::output::print_json(&serde_json::to_string_pretty(
                &counts.json(selected, &window, is_new),
            )?)?;
        } else if selected > 0 {
            print("dry run: nothing was sent, and no window was opened")?;
        }
        return Ok(exit(is_all));
    }
    if let Err(no_terminal) = args.consent.check() {
        note(no_terminal.to_string())?;
        return Ok(ExitCode::from(2));
    }
    let known = windows.iter().map(|window| window.id.as_str()).collect();
    send(args, &place, Under { window, known, is_new }, split.left, is_all).await
}

/// The window of a run.
struct Under<'a> {
    window: ReplayWindow,
    /// The windows that there were before.
    known: BTreeSet<&'a str>,
    is_new: bool,
}

/// Opens the window if it is new, and sends the messages under it.
async fn send(
    args: &Args,
    place: &Place,
    under: Under<'_>,
    left: Vec<Candidate>,
    is_all: bool,
) -> anyhow::Result<ExitCode> {
    let Under { mut window, known, is_new } = under;
    let selected = left.len();
    let by = args.operator.name(variable)?;
    // Otherwise the question comes after the first try.
    if selected == 1 && args.consent.ask("Send 1 message?").await? == Answer::No {
        note("nothing was sent")?;
        return Ok(ExitCode::FAILURE);
    }
    if is_new {
        window.opened_by.clone_from(&by);
        place.ledger.open_replay_window(&window).await?;
        place.give_way(&window, &args.filter(), &known).await?;
    }
    let plan = Plan {
        action: "replay run",
        by,
        place: place.queue.url.clone(),
        filter: format!("{} (window {})", args.filter(), window.id),
        reason: Some(args.reason.clone()),
        selected,
    };
    let mut act = OpenAct::start(&place.ledger, plan).await?;
    let mut sending = Sending { place, args, window: &window.id, left, done: 0, not_sent: 0 };
    let ended = sending.carry_out(&mut act).await;
    let outcome = ended.unwrap_or_else(|error| Some(format!("failed: {error:#}")));
    let (done, not_sent) = (sending.done, sending.not_sent);
    let left = selected - done - not_sent;
    let is_complete = outcome.is_none() && not_sent == 0;
    let outcome = outcome.unwrap_or_else(|| match not_sent {
        0 => "done".to_owned(),
        count => format!("done, except {} no longer kept", messages(count)),
    });
    let act = act.end(done, &outcome).await?;
    if args.json {
        acts::print_json(&act)?;
    } else {
        print(format!(
            "{} of {} sent under the replay window {}: {outcome}",
            done,
            messages(selected),
            window.id
        ))?;
    }
    if left > 0 {
        note(format!("{} left; the same command goes on", are(left)))?;
    } else if is_complete {
        note("the consumer handles them now; the same command says which are done")?;
    }
    Ok(exit(is_all && is_complete))
}

/// Whether a window is of a run with these options, and still open.
fn is_this_run(window: &ReplayWindow, filter: &str, handlers: &BTreeSet<String>, at: Timestamp) -> bool {
    window.run().is_some_and(|run| run.filter == filter) && window.handlers == *handlers && window.is_open(at)
}

fn goes_on(window: &ReplayWindow, run: &Run) -> String {
    let from = run.from.map(|from| format!(" from {}", seconds(from))).unwrap_or_default();
    let until = run.until.map(|until| format!(" to {}", seconds(until))).unwrap_or_default();
    let received =
        if from.is_empty() && until.is_empty() { String::new() } else { format!(", received{from}{until}") };
    format!(
        "going on with the run of {} under the replay window {}, which {} opened{received}; --new starts another",
        seconds(window.opened_at),
        window.id,
        window.opened_by
    )
}

impl Args {
    async fn open(&self) -> anyhow::Result<Place> {
        let stack = self.target.in_aws.stack().await?;
        let verifier = self.verifier(stack.as_ref()).await?;
        let queues = dlq::open_in(stack.as_ref(), &self.target.state.folder).await?;
        let (store, tables) = self.store(stack.as_ref()).await?;
        let is_of_the_stack = self.store == StoreName::Archive && self.archive.is_none();
        let has_stream = is_of_the_stack
            && stack.as_ref().is_some_and(|stack| stack.optional("ArchiveStreamName").is_some());
        let queue = queues.source()?.clone();
        Ok(Place { queue, ledger: queues.ledger, store, verifier, has_stream, _tables: tables })
    }

    /// Where the messages are kept, and the engine of the tables if that runs on this machine.
    async fn store(&self, stack: Option<&Stack>) -> anyhow::Result<(Store, Option<LocalDynamoDb>)> {
        match (self.store, stack) {
            (StoreName::Archive, _) => {
                let url = match &self.archive {
                    Some(url) => url.clone(),
                    None => archive::found(stack)?,
                };
                let aws = || stack.map_or_else(|| self.target.in_aws.config(), |stack| Ok(stack.aws.clone()));
                Ok((Store::Archive(Kept::new(archive::open(&url, aws).await?)), None))
            }
            (StoreName::Unknown, _) => {
                let table = stored::unknown_events_in(stack, &self.target.state.folder).await?;
                let (table, tables) = table.context("there are no tables yet")?;
                Ok((Store::Unknown(table), tables))
            }
        }
    }

    /// What proves messages; `None` if nothing has to.
    async fn verifier(&self, stack: Option<&Stack>) -> anyhow::Result<Option<Verifier>> {
        if self.unproven {
            return Ok(None);
        }
        let mut known = match &self.secret_file {
            Some(file) => vec![secrets::in_file(file)?],
            None => variable(SECRETS).into_iter().map(|given| secrets::without_wrapping(&given)).collect(),
        };
        let values = match stack {
            Some(stack) => secret::signing_values(stack).await?,
            None => secret::signing_values_of_dev(&self.target.state.folder)?,
        };
        known.extend(values.into_iter().map(|(_, value)| secrets::without_wrapping(&value)));
        let verifier = Verifier::new(&known.join(" "));
        verifier.map(Some).context(
            "the signing secrets cannot be used; pass the right ones with --secret-file, or --unproven to do without",
        )
    }

    /// The options that say which messages, by which the same run is found again.
    fn filter(&self) -> String {
        let store = match self.store {
            StoreName::Archive => "archive",
            StoreName::Unknown => "unknown",
        };
        let mut words = vec![format!("--from {store}")];
        let times = [("--since", &self.since), ("--until", &self.until)];
        words.extend(times.iter().filter_map(|(name, time)| Some(option(name, &time.as_ref()?.text))));
        let types: BTreeSet<_> = self.types.iter().collect();
        words.extend(types.into_iter().map(|event_type| option("--type", event_type)));
        let ids: BTreeSet<_> = self.messages.iter().map(MessageId::as_str).collect();
        let text = ids.iter().copied().collect::<Vec<_>>().join(" ");
        if ids.len() > MOST_IDS_IN_TEXT {
            let hash = payload_sha256(text.as_bytes());
            words.push(format!("--message ({} ids, {})", ids.len(), hash.get(..12).unwrap_or_default()));
        } else if !ids.is_empty() {
            words.push(format!("--message {text}"));
        }
        words.extend(self.archive.iter().map(|url| option("--archive", url)));
        words.join(" ")
    }

    /// The window of a new run.
    fn window(
        &self,
        filter: String,
        handlers: BTreeSet<String>,
        at: Timestamp,
    ) -> anyhow::Result<ReplayWindow> {
        let time = |typed: &TypedTime, option: &str| {
            typed.time.at(at).with_context(|| format!("{option} cannot be used"))
        };
        let from = self.since.as_ref().map(|typed| time(typed, "--since")).transpose()?;
        let until = self.until.as_ref().map(|typed| time(typed, "--until")).transpose()?;
        // A run without a range still has an end: what arrives later is not part of it.
        let until = until.unwrap_or(at);
        anyhow::ensure!(from.is_none_or(|from| from < until), "--until has to be later than --since");
        // From the unknown events, what is done stays done, unless its handler is named.
        let again = self.store == StoreName::Archive || !handlers.is_empty();
        Ok(ReplayWindow {
            id: fresh_id(),
            covers: Coverage::Run(Run { filter, from, until: Some(until), again }),
            handlers,
            reason: self.reason.clone(),
            // Known once it is opened.
            opened_by: String::new(),
            opened_at: at,
            expires_at: at.checked_add(self.lasts).context("--for cannot be used")?,
            closed: None,
        })
    }
}

impl Place {
    /// Closes the window of a new run if somebody else has opened one of the same run since the `known` windows were
    /// read: under both, each handler would run twice.
    async fn give_way(
        &self,
        window: &ReplayWindow,
        filter: &str,
        known: &BTreeSet<&str>,
    ) -> anyhow::Result<()> {
        let windows = self.ledger.replay_windows().await?.into_iter().flatten();
        let mut others = windows.filter(|other| other.id != window.id && !known.contains(other.id.as_str()));
        let Some(other) = others.find(|other| is_this_run(other, filter, &window.handlers, window.opened_at))
        else {
            return Ok(());
        };
        let closing = Closing { by: window.opened_by.clone(), at: self.ledger.now()? };
        self.ledger.close_replay_window(&window.id, closing).await?;
        anyhow::bail!(
            "{} has just opened the replay window {} for the same run, and nothing was sent; run the same command again, \
             without --new",
            other.opened_by,
            other.id
        )
    }

    /// The warning that wanted records may not be in the bucket yet.
    fn on_their_way(&self, found: &Found, until: Option<Timestamp>, at: Timestamp) -> Option<String> {
        let is_recent = until.is_none_or(|until| at.duration_since(until) < MOST_DELIVERED_AFTER);
        let is_stream = self.has_stream || found.files > 0;
        (is_stream && is_recent).then(|| {
            "the archive is a stream: records of the last half hour may not be there yet; the same command, later, goes \
             on with them"
                .to_owned()
        })
    }

    fn name_of_store(&self, args: &Args) -> String {
        match (&self.store, &args.archive) {
            (Store::Archive(_), Some(url)) => url.clone(),
            (Store::Archive(_), None) => "the archive".to_owned(),
            (Store::Unknown(_), _) => "the table of unknown events".to_owned(),
        }
    }
}

/// Reads and judges what is kept.
async fn find(place: &Place, wanted: &Wanted) -> anyhow::Result<Found> {
    let Listed { keys, others, files } = place.store.list(wanted).await?;
    let bar = progress(keys.len(), "read")?;
    let judge = |key: Key| async move { place.store.judge(&key, wanted, place.verifier.as_ref()).await };
    let mut judged = stream::iter(keys).map(judge).buffer_unordered(READS_AT_ONCE);
    let mut found = Found { others, files, ..Found::default() };
    let mut no_events = BTreeSet::new();
    while let Some(of_one_key) = judged.next().await {
        bar.inc(1);
        for (name, judged) in of_one_key {
            let (count, why) = match judged {
                Ok(Judged::Other) => continue,
                Ok(Judged::Chosen(candidate)) => {
                    found.candidates.push(candidate);
                    continue;
                }
                // Two copies are one message.
                Ok(Judged::NoEvent(id)) => {
                    no_events.insert(id);
                    continue;
                }
                Ok(Judged::Unproven(why)) => (&mut found.unproven, why),
                Err(why) => (&mut found.unreadable, why),
            };
            *count += 1;
            bar.suspend(|| note(format!("left out: {name}: {why}")))?;
        }
    }
    found.no_event = no_events.len();
    bar.finish_and_clear();
    found.candidates = each_once(found.candidates);
    Ok(found)
}

/// Sorts the candidates by what the ledger knows of them.
async fn look_up(
    ledger: &OpenLedger,
    candidates: Vec<Candidate>,
    window: &str,
    skips_forgotten: bool,
) -> anyhow::Result<Split> {
    let mut split = Split::default();
    let looks = candidates.into_iter().map(|candidate| async move {
        let entry = ledger.entry((&candidate.id).into()).await;
        entry.map(|entry| (candidate, entry))
    });
    // In their order.
    let mut looks = stream::iter(looks).buffered(READS_AT_ONCE);
    while let Some(looked) = looks.next().await {
        let (candidate, entry) = looked?;
        match entry {
            Some(entry) if entry.done.contains(&run_key(window)) => split.done += 1,
            None if skips_forgotten => split.forgotten += 1,
            // A run that named its handlers has made the entry: of what was done before, it knows nothing.
            Some(entry) if skips_forgotten && was_forgotten(&entry, &candidate) => split.forgotten += 1,
            Some(_) | None => split.left.push(candidate),
        }
    }
    Ok(split)
}

/// Whether the ledger saw a message for the first time only after it had forgotten it.
fn was_forgotten(entry: &Entry, candidate: &Candidate) -> bool {
    let first_seen = Timestamp::from_millisecond(entry.first_seen_ms).unwrap_or(candidate.received_at);
    first_seen.duration_since(candidate.received_at).unsigned_abs() >= REMEMBERED_FOR
}

/// What a run does with the messages.
struct Sending<'a> {
    place: &'a Place,
    args: &'a Args,
    window: &'a str,
    left: Vec<Candidate>,
    done: usize,
    /// How many could not be read any more.
    not_sent: usize,
}

impl Sending<'_> {
    /// Sends one, waits for its end, asks, and sends the rest. Returns why it stopped, if it did.
    async fn carry_out(&mut self, act: &mut OpenAct<'_>) -> anyhow::Result<Option<String>> {
        let mut interrupt = Interrupt::watch();
        let limit = Duration::from_secs(self.args.wait);
        let mut tries = BTreeMap::new();
        loop {
            let Some(next) = next_try(&self.left, &tries) else {
                return Ok((!tries.is_empty()).then(|| {
                    "stopped, because no handler ran: check --handler and --type, and that the handler is deployed"
                        .to_owned()
                }));
            };
            let first = self.left.remove(next);
            let before = self.place.ledger.entry((&first.id).into()).await?;
            match self.place.send(&first, self.window).await? {
                Sent::Yes => self.done += 1,
                Sent::NotKept => {
                    self.not_sent += 1;
                    continue;
                }
            }
            act.note(self.done, "trying one first").await?;
            note(format!("tried first: {}; waiting for its end, {} s at most", first.id, limit.as_secs()))?;
            let (end, has_run) = self.wait_for(&first.id, before.as_ref(), limit, &mut interrupt).await?;
            if interrupt.came() {
                return Ok(Some("interrupted before the first try was done".to_owned()));
            }
            let text = end.text(first.id.as_str(), limit);
            if end != Trial::Done {
                note(&text)?;
                return Ok(Some(format!("stopped, because {text}")));
            }
            if has_run {
                note(&text)?;
                break;
            }
            note(format!("no handler ran for {}", first.id))?;
            *tries.entry(first.event_type).or_default() += 1;
        }
        if self.left.is_empty() {
            return Ok(None);
        }
        act.note(self.done, "the first try is done").await?;
        let (left, rate) = (self.left.len(), self.args.rate);
        let about = left.div_ceil(rate as usize);
        let question = format!("Send the other {}, at {rate} a second (about {about} s)?", messages(left));
        let answer = tokio::select! {
            answer = self.args.consent.ask(&question) => answer?,
            () = interrupt.wait() => return Ok(Some("interrupted before the answer".to_owned())),
        };
        if answer == Answer::No {
            return Ok(Some("the answer was no, after the first try".to_owned()));
        }
        self.send_rest(&interrupt).await
    }

    /// How a try has ended, and whether a handler has run.
    async fn wait_for(
        &self,
        id: &MessageId,
        before: Option<&Entry>,
        limit: Duration,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<(Trial, bool)> {
        let started = Instant::now();
        let mut failed = FailedDeliveries::default();
        loop {
            let entry = self.place.ledger.entry(id.into()).await?;
            let trial = Trial::of_run(self.window, before, entry.as_ref());
            if failed.is_end(&trial) || interrupt.came() || started.elapsed() >= limit {
                return Ok((trial, entry.is_some_and(|entry| has_run(&entry, self.window))));
            }
            tokio::select! {
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
                () = interrupt.wait() => {}
            }
        }
    }

    /// Sends what is left, the oldest first.
    async fn send_rest(&mut self, interrupt: &Interrupt) -> anyhow::Result<Option<String>> {
        let bar = progress(self.left.len(), "sent")?;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.args.rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (kept, window, mut unsent) = (self.place, self.window, self.left.len());
        let paced = stream::unfold((pace, self.left.iter()), |(mut pace, mut left)| async {
            let next = left.next()?;
            pace.tick().await;
            (!interrupt.came()).then_some((next, (pace, left)))
        });
        let sends = paced.map(|candidate| kept.send(candidate, window));
        let mut sends = Box::pin(sends.buffer_unordered(SENDS_AT_ONCE));
        let mut stopped = None;
        while let Some(sent) = sends.next().await {
            match sent {
                Ok(Sent::Yes) => self.done += 1,
                Ok(Sent::NotKept) => self.not_sent += 1,
                Err(error) => {
                    stopped = Some(format!("failed: {error:#}"));
                    break;
                }
            }
            unsent -= 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        if stopped.is_none() && interrupt.came() && unsent > 0 {
            stopped = Some("interrupted".to_owned());
        }
        Ok(stopped)
    }
}

/// The message to try next, after so many tries of each type for which no handler ran: the newest of a type, because
/// handlers give up on old events; then its oldest, for which more may be left to do; and then another type's.
fn next_try(left: &[Candidate], tries: &BTreeMap<String, u32>) -> Option<usize> {
    let has = |count: u32| {
        move |candidate: &Candidate| tries.get(&candidate.event_type).copied().unwrap_or_default() == count
    };
    left.iter().position(has(1)).or_else(|| left.iter().rposition(has(0)))
}

/// Whether a handler has run for a message under this window: each leaves a key of its own.
fn has_run(entry: &Entry, window: &str) -> bool {
    let run = run_key(window);
    entry.done.iter().any(|key| *key != run && key.ends_with(&run))
}

/// Whether a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Yes,
    /// It is not kept any more.
    NotKept,
}

impl Place {
    /// Sends a message under a window, as it was signed.
    async fn send(&self, candidate: &Candidate, window: &str) -> anyhow::Result<Sent> {
        let doing = || format!("cannot send {} again", candidate.id);
        let kept =
            self.store.message(&candidate.key).await.map_err(anyhow::Error::msg).with_context(doing)?;
        let Some(message) = kept else { return Ok(Sent::NotKept) };
        let message = Message { window: Some(window.to_owned()), ..message };
        let encoded = message.encode().with_context(doing)?;
        let attributes = encoded.attributes.into_iter().map(|attribute| {
            let value = MessageAttributeValue::builder();
            let value = value.data_type(attribute.data_type).string_value(attribute.value).build()?;
            Ok((attribute.name.to_owned(), value))
        });
        let attributes = attributes.collect::<anyhow::Result<_>>()?;
        self.queue.send(Outgoing { body: encoded.body, attributes }).await?;
        Ok(Sent::Yes)
    }
}

/// How many messages there are beside those that are left to send.
#[derive(Debug, Clone, Copy)]
struct Counts {
    done: usize,
    forgotten: usize,
    no_event: usize,
    unproven: usize,
    unreadable: usize,
    others: usize,
    over_limit: usize,
}

impl Counts {
    /// How many messages that were asked for cannot be sent.
    const fn left_out(&self) -> usize {
        self.forgotten + self.no_event + self.unproven + self.unreadable
    }

    fn json(&self, selected: usize, window: &ReplayWindow, is_new: bool) -> serde_json::Value {
        serde_json::json!({
            "window": (!is_new).then_some(&window.id),
            "selected": selected,
            "done": self.done,
            "forgotten": self.forgotten,
            "no_event": self.no_event,
            "unproven": self.unproven,
            "unreadable": self.unreadable,
            "over_limit": self.over_limit,
        })
    }

    /// A line about each kind of message that is not sent.
    fn lines(&self, window: &ReplayWindow) -> Vec<String> {
        let line = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 message {one}")),
            count => Some(format!("{count} messages {many}")),
        };
        let under = &window.id;
        let lines = [
            line(
                self.done,
                &format!("is done under the replay window {under}, and is not sent again"),
                &format!("are done under the replay window {under}, and are not sent again"),
            ),
            line(
                self.forgotten,
                "is left out: the ledger does not know any more which handlers are done; name one with --handler",
                "are left out: the ledger does not know any more which handlers are done; name one with --handler",
            ),
            line(
                self.unproven,
                "is left out: no secret proves it; pass the secrets of its time with --secret-file",
                "are left out: no secret proves them; pass the secrets of their time with --secret-file",
            ),
            line(self.unreadable, "is left out: it cannot be read", "are left out: they cannot be read"),
            line(self.no_event, "is left out: it is not an event", "are left out: they are not events"),
            line(
                self.over_limit,
                "is over --limit; the same command without it goes on",
                "are over --limit; the same command without it goes on",
            ),
        ];
        let mut lines: Vec<_> = lines.into_iter().flatten().collect();
        match self.others {
            0 => {}
            1 => lines.push("1 other object of the archive is not a record".to_owned()),
            others => lines.push(format!("{others} other objects of the archive are not records")),
        }
        lines
    }
}

/// Prints what is to be sent, by type, and what is not.
fn print_found(
    left: &[Candidate],
    counts: &Counts,
    window: &ReplayWindow,
    store: &str,
) -> anyhow::Result<()> {
    let mut types: BTreeMap<&str, (usize, Timestamp, Timestamp)> = BTreeMap::new();
    for candidate in left {
        let at = candidate.received_at;
        let (count, first, last) = types.entry(&candidate.event_type).or_insert((0, at, at));
        *count += 1;
        *first = (*first).min(at);
        *last = (*last).max(at);
    }
    if !left.is_empty() {
        let columns = [Id("Type"), Number("Messages"), Text("First received"), Text("Last received")];
        let rows = types.iter().map(|(event_type, (count, first, last))| {
            let event_type = if event_type.is_empty() { "(no type)" } else { event_type };
            [event_type.to_owned(), count.to_string(), seconds(*first), seconds(*last)]
        });
        table::print_rows(columns, rows)?;
    }
    counts.lines(window).into_iter().try_for_each(print)?;
    print(match (left.len(), counts.done) {
        (0, 0) => format!("nothing in {store} is to be sent"),
        (0, done) if counts.left_out() > 0 => format!(
            "nothing else in {store} can be sent: {} done under the replay window {}, and the others are left out",
            are(done),
            window.id
        ),
        (0, _) => format!("all that was asked for in {store} is done under the replay window {}", window.id),
        (count, _) => format!(
            "{} in {store} {} to be sent; {} will run",
            messages(count),
            if count == 1 { "is" } else { "are" },
            what_runs(window)
        ),
    })
}

/// Which handlers run under a window.
fn what_runs(window: &ReplayWindow) -> String {
    let again = window.run().is_some_and(|run| run.again);
    match (window.handlers.is_empty(), again) {
        (false, _) => super::handlers_of(window),
        (true, true) => "all handlers".to_owned(),
        (true, false) => "handlers that are not done".to_owned(),
    }
}

fn messages(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn are(count: usize) -> String {
    if count == 1 { "1 message is".to_owned() } else { format!("{count} messages are") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    const NOW: &str = "2026-01-02T10:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn args(options: &[&str]) -> Args {
        let options = [&["run", "--reason", "because"], options].concat();
        Command::try_parse_from(options).unwrap().args
    }

    /// The window of a new run at [`NOW`], or what is wrong with the options.
    fn window(options: &[&str]) -> Result<ReplayWindow, String> {
        let args = args(options);
        let handlers = args.handlers.iter().cloned().collect();
        args.window(args.filter(), handlers, at(NOW)).map_err(|error| format!("{error:#}"))
    }

    fn run_of(window: &ReplayWindow) -> &Run {
        window.run().unwrap()
    }

    #[test]
    fn the_filter_says_which_messages_in_one_order_and_not_how_they_are_sent() {
        let filter = |options: &[&str]| args(&[&["--from", "archive"], options].concat()).filter();
        let types = ["--type", "b", "--type", "a", "--type", "b"];
        let sent = ["--rate", "5", "--limit", "2", "--wait", "9", "--yes", "--new"];
        let all = [&["--since", "3h ago"][..], &types, &sent].concat();
        assert_eq!(filter(&all), "--from archive --since '3h ago' --type a --type b");
        assert_eq!(filter(&["--message", "msg_2", "msg_1"]), "--from archive --message msg_1 msg_2");
        let many: Vec<_> = (0..20_000).map(|number| format!("msg_{number}")).collect();
        let many = [&["--message"], &*many.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let text = filter(&many);
        assert!(text.starts_with("--from archive --message (20000 ids, ") && text.len() < 60, "{text}");
        // One other id is another filter.
        assert_ne!(filter(&many[..many.len() - 1]).replace("19999", "20000"), text);
    }

    #[test]
    fn a_run_has_an_end_and_what_runs_depends_on_where_the_messages_are_kept() {
        let archive = window(&["--from", "archive", "--since", "3h ago"]).unwrap();
        let run = run_of(&archive);
        assert_eq!((run.from, run.until), (Some(at("2026-01-02T07:00:00Z")), Some(at(NOW))));
        assert!(run.again && what_runs(&archive) == "all handlers");
        assert_eq!(archive.expires_at, at("2026-01-03T10:00:00Z"));
        let unknown = window(&["--from", "unknown", "--since", "2026-01-01"]).unwrap();
        assert!(!run_of(&unknown).again && what_runs(&unknown) == "handlers that are not done");
        let named = window(&["--from", "unknown", "--message", "msg_1", "--handler", "push"]).unwrap();
        assert!(run_of(&named).again && what_runs(&named) == "push");
        assert_eq!((run_of(&named).from, run_of(&named).until), (None, Some(at(NOW))));
    }

    #[test]
    fn times_that_cannot_be_used_are_said() {
        for (options, expected) in [
            (&["--since", "2026-01-02T10:00:01Z"][..], "--since cannot be used: that is in the future"),
            (&["--since", "2026-01-02", "--until", "2026-01-01"], "--until has to be later than --since"),
            (&["--since", "2026-01-01", "--until", "2027-01-01"], "--until cannot be used"),
        ] {
            let error = window(&[&["--from", "archive"], options].concat()).unwrap_err();
            assert!(error.starts_with(expected), "{options:?}: {error}");
        }
    }

    #[test]
    fn the_same_options_go_on_with_a_run_while_its_window_is_open() {
        let options = ["--from", "archive", "--since", "3h ago"];
        let open = window(&options).unwrap();
        let (filter, none) = (args(&options).filter(), BTreeSet::new());
        let push = BTreeSet::from(["push".to_owned()]);
        let hours_later = at("2026-01-02T16:00:00Z");
        assert!(is_this_run(&open, &filter, &none, hours_later));
        assert!(!is_this_run(&open, &filter, &push, hours_later));
        assert!(!is_this_run(&open, "--from archive --since '4h ago'", &none, hours_later));
        assert!(!is_this_run(&open, &filter, &none, at("2026-01-03T10:00:00Z")));
        let closed = Some(Closing { by: "lee".to_owned(), at: hours_later });
        assert!(!is_this_run(&ReplayWindow { closed, ..open.clone() }, &filter, &none, hours_later));
        let open = ReplayWindow { opened_by: "kim".to_owned(), ..open };
        let said = goes_on(&open, run_of(&open));
        assert!(
            said.contains("which kim opened, received from 2026-01-02 07:00:00Z to 2026-01-02 10:00:00Z"),
            "{said}"
        );
    }

    #[test]
    fn the_newest_and_then_the_oldest_of_each_type_is_tried() {
        let candidate = |id: &str, event_type: &str| {
            let id = MessageId::parse(id).unwrap();
            Candidate {
                key: Key::Row(id.clone()),
                id,
                event_type: event_type.to_owned(),
                received_at: at(NOW),
            }
        };
        let mut left =
            [("1", "a"), ("2", "b"), ("3", "a"), ("4", "a")].map(|(id, of)| candidate(id, of)).to_vec();
        let (mut tries, mut ids) = (BTreeMap::new(), Vec::new());
        while let Some(next) = next_try(&left, &tries) {
            let next = left.remove(next);
            *tries.entry(next.event_type).or_default() += 1;
            ids.push(next.id.to_string());
        }
        assert_eq!(ids, ["4", "1", "2"]);
    }

    #[test]
    fn every_kind_of_message_that_is_not_sent_has_its_line() {
        let window = ReplayWindow {
            id: "w1".to_owned(),
            ..window(&["--from", "archive", "--since", "1d ago"]).unwrap()
        };
        let none = Counts {
            done: 0,
            forgotten: 0,
            no_event: 0,
            unproven: 0,
            unreadable: 0,
            others: 0,
            over_limit: 0,
        };
        assert_eq!(none.lines(&window), [""; 0]);
        let some = Counts {
            done: 1,
            forgotten: 2,
            no_event: 1,
            unproven: 2,
            unreadable: 1,
            others: 1,
            over_limit: 3,
        };
        insta::assert_snapshot!(some.lines(&window).join("\n"));
    }
}
