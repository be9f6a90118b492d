//! `learnink dlq show`: one dead letter, without personal data.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use aws_sdk_sqs::types::Message;
use jiff::Timestamp;
use learnink_connectors::bus::{MASK, masked};
use learnink_consumer::ledger::Entry;
use learnink_local::terminal::quoted;
use learnink_webhook::{Envelope, event::EnvelopeHead};
use serde::Serialize;
use serde_json::value::RawValue;

use super::file::create;
use super::letter::{self, Facts, Letter, decode};
use super::queue::Next;
use super::{OpenQueues, Place, left, open, or_dash};
use crate::aws::IN_AWS;
use crate::output::{note, print, print_json};
use crate::table::seconds;
use crate::{now, table};

/// Options of `learnink dlq show`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Of the payload, only what the `bus` handler passes on by default is shown: the ids. {MASK} stands for \
everything else, and for the names of fields that LearnInk does not document.

The exit code is 0 if there is such a letter, and 1 if not.

{IN_AWS}"))]
pub(crate) struct Args {
    /// The message id, or the SQS message id
    #[arg(value_name = "ID")]
    id: String,
    /// Write the payload as it is to a new file, which only you can read. It has personal data
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// A letter as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    facts: Facts,
    cause: String,
    moved_by_sqs: bool,
    expires_at: Option<Timestamp>,
    /// The handlers that are done.
    done: Vec<String>,
    /// How many items of lists are done, of handlers that are not.
    items_done: usize,
    timeline: Vec<Moment>,
    body_bytes: usize,
    /// The event, masked; missing if the body is not an event.
    payload: Option<Box<RawValue>>,
    /// The line to type once the cause is put right.
    next: String,
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) what: String,
}

/// Shows one letter, or each letter of one message.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let queues = open(&args.place).await?;
    let found = find(&queues, &args.id).await?;
    if found.is_empty() {
        note(format!(
            "no dead letter in {} has the id `{}`, or somebody else is looking at it",
            queues.name, args.id
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    if let Some(path) = &args.raw {
        let [(message, _)] = found.as_slice() else {
            anyhow::bail!(
                "{} letters have this message id; name one by its SQS message id for --raw",
                found.len()
            );
        };
        let body = decode(message)
            .map_or_else(|_| message.body().unwrap_or_default().into(), |webhook| webhook.body);
        let written = create(path)?.write_all(&body);
        written.with_context(|| format!("cannot write {}", quoted(path)))?;
        note(format!("wrote {} bytes to {}; they have personal data", body.len(), quoted(path)))?;
    }
    let mut shown = Vec::new();
    for (message, letter) in found {
        let entry = match &letter.in_ledger {
            Some(message) => queues.ledger.entry(message.id.clone()).await?,
            None => None,
        };
        let next = if letter.is_foreign { "drop" } else { "redrive" };
        let next = args.place.command(&format!("{next} {}", letter.sqs_id));
        shown.push(show(&message, letter, entry.as_ref(), next)?);
    }
    if args.json {
        table::print_json(&shown)?;
    } else {
        shown.iter().try_for_each(print_letter)?;
        print(format!("in {}, and {}", queues.name, queues.ledger.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The letters with this id, and their messages.
pub(crate) async fn find(queues: &OpenQueues, id: &str) -> anyhow::Result<Vec<(Message, Letter)>> {
    let kept_for = queues.kept_for().await?;
    let mut found = Vec::new();
    queues
        .letters
        .look(usize::MAX, async |messages| {
            let letters = letter::read(&messages, &queues.ledger, kept_for).await?;
            let is_it =
                |letter: &Letter| letter.sqs_id == id || letter.facts.message_id.as_deref() == Some(id);
            found.extend(messages.into_iter().zip(letters).filter(|(_, letter)| is_it(letter)));
            // A message may have several letters, but only one has an SQS message id.
            let is_all = found.iter().any(|(_, letter): &(Message, Letter)| letter.sqs_id == id);
            Ok(if is_all { Next::Stop } else { Next::GoOn })
        })
        .await?;
    Ok(found)
}

/// A letter as it is shown, given its ledger entry.
fn show(message: &Message, letter: Letter, entry: Option<&Entry>, next: String) -> anyhow::Result<Shown> {
    let webhook = decode(message).ok();
    let body_bytes = webhook
        .as_ref()
        .map_or_else(|| message.body().unwrap_or_default().len(), |webhook| webhook.body.len());
    let signed_at = webhook.as_ref().and_then(|webhook| Timestamp::from_second(webhook.signed_at_s).ok());
    let occurred_at = webhook.as_ref().and_then(|webhook| EnvelopeHead::read(&webhook.body).occurred_at);
    let done = entry.map(|entry| &entry.done).into_iter().flatten();
    let (items, handlers): (Vec<_>, Vec<_>) = done.partition(|key| key.contains(['/', '!', '+']));
    Ok(Shown {
        timeline: timeline(&letter, occurred_at, signed_at, entry),
        cause: letter.cause.name,
        moved_by_sqs: letter.moved_by_sqs,
        expires_at: letter.expires_at,
        // Without that a replay run is through, whose handlers have keys of their own.
        done: handlers.into_iter().filter(|key| !key.starts_with('@')).cloned().collect(),
        // Of a refused item, or of deliveries without progress, the key has another sign.
        items_done: items.into_iter().filter(|key| !key.contains(['!', '+'])).count(),
        facts: letter.facts,
        body_bytes,
        payload: webhook.map(|webhook| payload(&webhook.body)).transpose()?.flatten(),
        next,
    })
}

/// The event with its `data` masked; `None` if the body is not an event.
fn payload(body: &[u8]) -> anyhow::Result<Option<Box<RawValue>>> {
    #[derive(Serialize)]
    struct Payload<'a> {
        r#type: &'a str,
        api_version: &'a str,
        timestamp: Option<Timestamp>,
        data: Box<RawValue>,
    }
    let Ok(envelope) = Envelope::parse(body) else { return Ok(None) };
    if !envelope.is_event() {
        return Ok(None);
    }
    let data = RawValue::from_string(masked(envelope.raw_data()))?;
    let payload = Payload {
        r#type: &envelope.event_type,
        api_version: &envelope.api_version,
        timestamp: envelope.occurred_at,
        data,
    };
    Ok(Some(serde_json::value::to_raw_value(&payload)?))
}

/// What is known of the way of a message, by time.
fn timeline(
    letter: &Letter,
    occurred_at: Option<Timestamp>,
    signed_at: Option<Timestamp>,
    entry: Option<&Entry>,
) -> Vec<Moment> {
    let at_ms = |ms: i64| Timestamp::from_millisecond(ms).ok();
    let first_seen = letter.facts.first_seen.or_else(|| entry.and_then(|entry| at_ms(entry.first_seen_ms)));
    let settled_at =
        entry.filter(|entry| entry.settled_at_ms > 0).and_then(|entry| at_ms(entry.settled_at_ms));
    let last_try = match entry.and_then(|entry| entry.failure_reason.as_ref()) {
        Some(reason) => format!("the last try ended: {reason}"),
        None => "the last try ended; nothing failed".to_owned(),
    };
    let lease = entry.and_then(|entry| entry.lease.as_ref()).and_then(|lease| at_ms(lease.until_ms));
    let sent = if letter.moved_by_sqs {
        "the receiver queued it; SQS moved it here later"
    } else {
        "it was put on the dead-letter queue"
    };
    let moments = [
        (occurred_at, "the event happened".to_owned()),
        (signed_at, "LearnInk signed this delivery".to_owned()),
        (letter.facts.received_at, "the receiver accepted it".to_owned()),
        (first_seen, "a consumer first claimed it".to_owned()),
        (settled_at, last_try),
        (lease, "the lease of the consumer that claimed it last ends".to_owned()),
        (letter.sent_at, sent.to_owned()),
        (letter.expires_at, "SQS deletes it".to_owned()),
    ];
    let mut moments: Vec<_> =
        moments.into_iter().filter_map(|(at, what)| Some(Moment { at: at?, what })).collect();
    // Stable: of two at one time, the cause is first.
    moments.sort_by_key(|moment| moment.at);
    moments
}

fn print_letter(shown: &Shown) -> anyhow::Result<()> {
    let facts = &shown.facts;
    let expires = shown.expires_at.map_or_else(
        || "never".to_owned(),
        |at| format!("{}, in {}", seconds(at), left(at.duration_since(now()))),
    );
    let done = match (shown.done.as_slice(), shown.items_done) {
        ([], 0) => "nothing".to_owned(),
        (done, 0) => done.join(", "),
        ([], items) => format!("{items} items of a list"),
        (done, items) => format!("{}, and {items} items of a list", done.join(", ")),
    };
    for (name, value) in [
        ("message id", or_dash(facts.message_id.clone())),
        ("SQS message id", or_dash(facts.sqs_message_id.clone())),
        ("type", or_dash(facts.event_type.clone())),
        ("part", or_dash(facts.part.clone())),
        ("deliveries", or_dash(facts.receive_count.map(|count| count.to_string()))),
        ("cause", shown.cause.clone()),
        ("handler", or_dash(facts.handler.clone())),
        ("reason", facts.reason.clone()),
        ("done", done),
        ("expires", expires),
        ("payload", format!("{} bytes", shown.body_bytes)),
    ] {
        print(format!("{name:16}{value}"))?;
    }
    print("")?;
    for Moment { at, what } in &shown.timeline {
        print(format!("{}  {what}", seconds(*at)))?;
    }
    print("")?;
    match &shown.payload {
        Some(payload) => {
            // The names of masked fields are the same, so that a map would lose some: printed as it is.
            print_json(payload.get())?;
        }
        None => print("the body is not an event; --raw FILE writes it to a file")?,
    }
    print("")?;
    print(format!("Next, once the cause is put right: {}", shown.next))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use learnink_consumer::ledger::Lease;
    use proptest::prelude::*;

    use super::super::letter::tests::letter;
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn entry(failure_reason: Option<&str>, lease: bool) -> Entry {
        Entry {
            payload_sha256: "aa".to_owned(),
            done: BTreeSet::new(),
            lease: lease.then(|| Lease { owner: "a".to_owned(), until_ms: 1_767_225_690_000 }),
            settled_at_ms: if lease { 0 } else { 1_767_225_650_000 },
            first_seen_ms: 1_767_225_610_000,
            expires_at_s: 0,
            failure_reason: failure_reason.map(str::to_owned),
        }
    }

    #[test]
    fn a_timeline_is_in_the_order_in_which_things_happened() {
        let letter = letter("msg_1", "push", "busy");
        let occurred_at = Some(time("2025-12-24T00:00:00Z"));
        let signed_at = Some(time("2026-01-01T00:00:00Z"));
        let lines = |entry: &Entry| {
            let moments = timeline(&letter, occurred_at, signed_at, Some(entry));
            moments.iter().map(|moment| format!("{} {}", moment.at, moment.what)).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(&entry(Some("push: busy"), false)),
            [
                "2025-12-24T00:00:00Z the event happened",
                "2026-01-01T00:00:00Z LearnInk signed this delivery",
                "2026-01-01T00:00:00.123Z the receiver accepted it",
                "2026-01-01T00:00:10Z a consumer first claimed it",
                "2026-01-01T00:00:50Z the last try ended: push: busy",
                "2026-01-01T00:01:40Z it was put on the dead-letter queue",
            ]
        );
        let killed = lines(&entry(None, true));
        assert!(killed.contains(
            &"2026-01-01T00:01:30Z the lease of the consumer that claimed it last ends".to_owned()
        ));
    }

    #[test]
    fn a_payload_is_masked_and_what_is_not_an_event_is_not_shown() {
        let body = br#"{"type":"t","api_version":"v","timestamp":"2026-01-01T00:00:00Z","note":"Mary","data":{"user_id":"u1","phone_number":"+254705408079"}}"#;
        let shown = payload(body).unwrap().unwrap();
        assert_eq!(
            shown.get(),
            r#"{"type":"t","api_version":"v","timestamp":"2026-01-01T00:00:00Z","data":{"user_id":"u1","phone_number":"***"}}"#
        );
        assert!(payload(b"+254705408079").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn a_timeline_never_goes_back(occurred in prop::option::of(-9_i64..9_999_999_999), signed in prop::option::of(-9_i64..9_999_999_999), lease in any::<bool>()) {
            let at = |seconds: Option<i64>| seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
            let moments = timeline(&letter("msg_1", "push", "busy"), at(occurred), at(signed), Some(&entry(None, lease)));
            prop_assert!(moments.is_sorted_by_key(|moment| moment.at));
            prop_assert!(moments.len() >= 4);
        }
    }
}
