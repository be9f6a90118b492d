//! `learnink show`: everything that is known of one message, in one timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use jiff::Timestamp;
use learnink_connectors::archive::Record;
use learnink_consumer::ledger::Entry;
use learnink_consumer::replay::{ReplayWindow, SeenMessage};
use learnink_webhook::event::EnvelopeHead;
use learnink_webhook::{Message, MessageId};
use serde::Serialize;

use crate::aws::IN_AWS;
use crate::dlq::letter::Letter;
use crate::dlq::show::{Moment, find};
use crate::dlq::{self, OpenQueues};
use crate::ledger::OpenLedger;
use crate::output::{self, note, print};
use crate::stack::{Stack, Target};
use crate::stored;
use crate::table::seconds;

/// Options of `learnink show`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
It looks into the ledger, the table of unknown events, the replay windows and the dead-letter queue. SQS has no way \
to look for a message on the queue itself. The payload is not shown: `dlq show ID` shows that of a dead letter, without \
personal data.

The exit code is 0 if anything is known of the message, and 1 if not.

Example:
  cargo learnink show msg_2Xb --stack learnink-webhooks-staging

{IN_AWS}"))]
pub(crate) struct Args {
    /// The message id, as LearnInk's message log and the log lines have it
    #[arg(value_name = "ID", value_parser = MessageId::parse)]
    id: MessageId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What is known of a message.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Known {
    message_id: String,
    event_type: Option<String>,
    /// Where it stands, in a sentence.
    state: String,
    /// The handlers that are done.
    done: Vec<String>,
    /// The handlers that have run again, with their replay windows: `push@1f0c`.
    again: Vec<String>,
    /// How many items of each list are done, of handlers that are not.
    items_done: BTreeMap<String, usize>,
    /// How many items of each list are queued as parts, which have entries of their own.
    items_in_parts: BTreeMap<String, usize>,
    /// The replay windows that are open for it.
    windows: Vec<String>,
    /// The SQS message ids of its dead letters.
    dead_letters: Vec<String>,
    timeline: Vec<Moment>,
}

/// Everything that was found about a message.
#[derive(Debug, Default)]
struct Found {
    entry: Option<Entry>,
    letters: Vec<Letter>,
    /// From the table of unknown events.
    unknown: Option<Message>,
    /// The windows that are open.
    windows: Vec<ReplayWindow>,
}

/// Shows a message.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stack = args.target.in_aws.stack().await?;
    let queues = dlq::open_in(stack.as_ref(), &args.target.state.folder).await?;
    let found = look(args, stack.as_ref(), &queues).await?;
    let known = known(&args.id, &found);
    let is_known = found.entry.is_some() || found.unknown.is_some() || !found.letters.is_empty();
    if args.json {
        output::print_json(&serde_json::to_string_pretty(&known)?)?;
    } else if is_known {
        print_known(&known)?;
        print(format!("in {}, and {}", queues.ledger.name, queues.name))?;
        if !known.dead_letters.is_empty() {
            let options = args.target.options();
            let learnink = crate::called::learnink();
            print(format!("Next, once the cause is put right: {learnink} dlq redrive {}{options}", args.id))?;
        }
    } else {
        note(format!(
            "nothing is known of {} in {} and {}: it has not arrived, no consumer has claimed it yet, or it was done \
             more than 30 days ago",
            args.id, queues.ledger.name, queues.name
        ))?;
    }
    Ok(if is_known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(args: &Args, stack: Option<&Stack>, queues: &OpenQueues) -> anyhow::Result<Found> {
    let unknown = Box::pin(async {
        match stored::unknown_events_in(stack, &args.target.state.folder).await? {
            Some((table, _tables)) => anyhow::Ok(table.record(&args.id).await?.map(Record::into_message)),
            None => Ok(None),
        }
    });
    let ledger =
        async { anyhow::Ok((queues.ledger.entry((&args.id).into()).await?, windows(&queues.ledger).await?)) };
    let letters = Box::pin(find(queues, args.id.as_str()));
    let (ledger, unknown, letters) = tokio::join!(ledger, unknown, letters);
    let (entry, windows) = ledger?;
    let letters = letters?.into_iter().map(|(_, letter)| letter).collect();
    Ok(Found { entry, letters, unknown: unknown?, windows })
}

/// The replay windows that are open.
async fn windows(ledger: &OpenLedger) -> anyhow::Result<Vec<ReplayWindow>> {
    let windows = ledger.replay_windows().await?;
    let now = ledger.now()?;
    Ok(windows.into_iter().flatten().filter(|window| window.is_open(now)).collect())
}

/// What is known of the message `id`.
fn known(id: &MessageId, found: &Found) -> Known {
    let at_ms = |ms: i64| Timestamp::from_millisecond(ms).ok();
    let event_type = found.letters.iter().find_map(|letter| letter.facts.event_type.clone());
    let event_type = event_type.or_else(|| EnvelopeHead::read(&found.unknown.as_ref()?.body).event_type);
    let mut known = Known { message_id: id.to_string(), event_type, ..Known::default() };
    let mut timeline = BTreeSet::new();
    let mut add = |at: Option<Timestamp>, what: String| {
        timeline.extend(at.map(|at| (at, what)));
    };
    if let Some(message) = &found.unknown {
        add(
            Timestamp::from_second(message.signed_at_s).ok(),
            "LearnInk signed the delivery that arrived first".to_owned(),
        );
        add(
            Some(message.received_at),
            "the receiver accepted it; no handler took it, and it was kept".to_owned(),
        );
    }
    for letter in &found.letters {
        add(letter.facts.received_at, "the receiver accepted it".to_owned());
        let handler = letter.facts.handler.as_ref().map(|handler| format!("{handler}: ")).unwrap_or_default();
        add(letter.sent_at, format!("it became a dead letter: {handler}{}", letter.facts.reason));
        add(letter.expires_at, "SQS deletes the dead letter".to_owned());
        known.dead_letters.push(letter.sqs_id.clone());
    }
    if let Some(entry) = &found.entry {
        add(at_ms(entry.first_seen_ms), "a consumer first claimed it".to_owned());
        let how = match &entry.failure_reason {
            Some(reason) => format!("the last try ended: {reason}"),
            None => "the last try ended, and nothing failed".to_owned(),
        };
        add(at_ms(entry.settled_at_ms).filter(|_| entry.settled_at_ms > 0), how);
        let lease = entry.lease.as_ref().and_then(|lease| at_ms(lease.until_ms));
        add(lease, "the lease of the consumer that claimed it last ends".to_owned());
        add(Timestamp::from_second(entry.expires_at_s).ok(), "the ledger forgets it".to_owned());
        for key in &entry.done {
            sort_key(key, &mut known);
        }
        let seen = SeenMessage {
            id,
            event_type: known.event_type.as_deref().unwrap_or_default(),
            first_seen_ms: entry.first_seen_ms,
        };
        let covering = found.windows.iter().filter(|window| window.covers(seen));
        known.windows = covering.map(|window| window.id.clone()).collect();
    }
    known.timeline = timeline.into_iter().map(|(at, what)| Moment { at, what }).collect();
    known.state = state(found);
    known
}

/// Sorts a key of the ledger.
/// Source: `learnink_webhook::idempotency`.
fn sort_key(key: &str, known: &mut Known) {
    if key.contains(['!', '+']) {
        // Notes of a list: a refusal, or deliveries without progress.
    } else if let Some((task, items)) = key.split_once('/') {
        let count = items.split_once('-').and_then(|(first, last)| {
            last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
        });
        let items = if count.is_some() { &mut known.items_in_parts } else { &mut known.items_done };
        *items.entry(task.to_owned()).or_default() += count.unwrap_or(1);
    } else if key.starts_with('@') {
        // That a run is through; its handlers have keys of their own.
    } else if key.contains('@') {
        known.again.push(key.to_owned());
    } else {
        known.done.push(key.to_owned());
    }
}

/// Where a message stands.
fn state(found: &Found) -> String {
    let is_dead = !found.letters.is_empty();
    match &found.entry {
        _ if is_dead => "it is on the dead-letter queue".to_owned(),
        Some(entry) if entry.lease.is_some() => {
            "a consumer works on it, or was stopped while it did".to_owned()
        }
        Some(Entry { failure_reason: Some(_), .. }) => {
            "something is not done; it is tried again if the queue has it".to_owned()
        }
        Some(_) => "it is done".to_owned(),
        None if found.unknown.is_some() => {
            "it is kept without a handler, and the ledger does not know it any more".to_owned()
        }
        None => "nothing is known of it".to_owned(),
    }
}

fn print_known(known: &Known) -> anyhow::Result<()> {
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let of_tasks = |items: &BTreeMap<String, usize>| {
        list(&items.iter().map(|(task, count)| format!("{count} of {task}")).collect::<Vec<_>>())
    };
    for (name, value) in [
        ("message id", known.message_id.clone()),
        ("type", dlq::or_dash(known.event_type.clone())),
        ("state", known.state.clone()),
        ("done", list(&known.done)),
        ("done again", list(&known.again)),
        ("items done", of_tasks(&known.items_done)),
        ("items in parts", of_tasks(&known.items_in_parts)),
        ("replay windows", list(&known.windows)),
    ] {
        print(format!("{name:16}{value}"))?;
    }
    print("")?;
    for Moment { at, what } in &known.timeline {
        print(format!("{}  {what}", seconds(*at)))?;
    }
    print("")
}

#[cfg(test)]
mod tests {
    use learnink_consumer::ledger::Lease;
    use learnink_webhook::testing;

    use super::*;

    fn entry(done: &[&str], failure_reason: Option<&str>) -> Entry {
        Entry {
            payload_sha256: "aa".to_owned(),
            done: done.iter().map(ToString::to_string).collect(),
            lease: None,
            settled_at_ms: 1_767_225_650_000,
            first_seen_ms: 1_767_225_610_000,
            expires_at_s: 1_769_817_650,
            failure_reason: failure_reason.map(str::to_owned),
        }
    }

    fn known_of(found: &Found) -> Known {
        known(&MessageId::parse("msg_1").unwrap(), found)
    }

    #[test]
    fn the_ledgers_keys_are_told_apart() {
        let done = [
            "bus",
            "push/0",
            "push/1",
            "push/100-199",
            "push!7 no such plan",
            "push+2",
            "progress@w1",
            "@w1",
        ];
        let known = known_of(&Found { entry: Some(entry(&done, None)), ..Found::default() });
        assert_eq!((known.done, known.again), (vec!["bus".to_owned()], vec!["progress@w1".to_owned()]));
        assert_eq!(known.items_done, BTreeMap::from([("push".to_owned(), 2)]));
        assert_eq!(known.items_in_parts, BTreeMap::from([("push".to_owned(), 100)]));
    }

    #[test]
    fn where_a_message_stands_is_a_sentence() {
        let state = |entry: Option<Entry>, unknown: Option<Message>| {
            known_of(&Found { entry, unknown, ..Found::default() }).state
        };
        assert_eq!(state(Some(entry(&["bus"], None)), None), "it is done");
        assert!(state(Some(entry(&[], Some("bus: busy"))), None).starts_with("something is not done"));
        let lease = Some(Lease { owner: "a".to_owned(), until_ms: 1 });
        assert!(state(Some(Entry { lease, ..entry(&[], None) }), None).starts_with("a consumer works on it"));
        assert!(state(None, Some(testing::message("{}"))).starts_with("it is kept without a handler"));
        assert_eq!(state(None, None), "nothing is known of it");
    }

    #[test]
    fn the_timeline_has_everything_in_order() {
        let body = r#"{"type":"example.type","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;
        let found = Found {
            entry: Some(entry(&[], None)),
            unknown: Some(testing::message(body)),
            ..Found::default()
        };
        let known = known_of(&found);
        assert_eq!(known.event_type.as_deref(), Some("example.type"));
        let lines: Vec<_> =
            known.timeline.iter().map(|moment| format!("{} {}", moment.at, moment.what)).collect();
        assert_eq!(
            lines,
            [
                "2026-01-01T00:00:00Z LearnInk signed the delivery that arrived first",
                "2026-01-01T00:00:00Z the receiver accepted it; no handler took it, and it was kept",
                "2026-01-01T00:00:10Z a consumer first claimed it",
                "2026-01-01T00:00:50Z the last try ended, and nothing failed",
                "2026-01-31T00:00:50Z the ledger forgets it",
            ]
        );
        assert!(known_of(&Found::default()).timeline.is_empty());
    }
}
