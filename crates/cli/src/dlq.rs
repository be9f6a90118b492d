//! `learnink dlq`: the dead letters, and why they are there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName};
use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_consumer::dead_letter::DeadLetterReason;
use learnink_consumer::ledger::{Entry, EntryId};
use learnink_consumer::queues::attribute as reason;
use learnink_local::pipeline::DEAD_LETTER_QUEUE;
use learnink_local::terminal::quoted;
use learnink_local::{LocalSqs, sdk_config, state};
use learnink_webhook::event::EnvelopeHead;
use learnink_webhook::message::{self, DecodeError, Part, attribute};
use serde::Serialize;

use crate::aws::{self, IN_AWS};
use crate::ledger::OpenLedger;
use crate::output::note;
use crate::table::Column::{Id, Number, Text};
use crate::{StateFolder, called, table};

/// How long a message that was looked at stays hidden, if it could not be made visible again at once.
const HIDDEN_FOR: Duration = Duration::from_secs(30);

/// Long polling asks all of SQS's servers; short polling may miss messages.
/// Source: Amazon SQS developer guide, "Amazon SQS short and long polling".
const WAIT_S: i32 = 1;

/// How many messages SQS returns, and accepts, at a time. Source: Amazon SQS API reference, `ReceiveMessage`.
const MOST_AT_A_TIME: usize = 10;

/// The commands of `learnink dlq`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the dead letters and why they are there, never their content
    List(ListArgs),
}

/// Options of `learnink dlq list`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
The reason is what the consumer wrote beside the message. One that SQS moved by itself, after its last \
delivery, has the reason of that delivery, from the ledger.

SQS has no way to look at messages without receiving them: while they are read, for {} s at most, \
the dead letters are hidden from others, and their receive counts grow. What is hidden, perhaps because somebody else is \
looking at it, is counted and not listed.

Once the cause is put right, have them tried again in AWS:
  aws sqs start-message-move-task --source-arn DEAD_LETTER_QUEUE_ARN \\
    --destination-arn QUEUE_ARN
These are the outputs DeadLetterQueueArn and QueueArn. The destination has to be named: SQS does not know where \
the consumer's copies came from. `learnink dev` moves none; send it the webhook again, under the same --id.

{IN_AWS}", HIDDEN_FOR.as_secs()))]
pub(crate) struct ListArgs {
    /// URL of the dead-letter queue in AWS; without it, that of `learnink dev`
    #[arg(long, value_name = "URL", requires = "ledger")]
    queue: Option<String>,
    /// Name of the ledger's table in AWS
    #[arg(long, value_name = "TABLE", requires = "queue")]
    ledger: Option<String>,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateFolder,
}

/// Shows the dead letters.
pub(crate) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let (queue, ledger) = open(args).await?;
    let (messages, unseen) = queue.peek(args.limit.into()).await?;
    let may_be_more = messages.len() == usize::from(args.limit);
    let mut letters = Vec::new();
    for message in messages {
        letters.push(read(&message, &ledger).await?);
    }
    letters.sort_by(|a, b| (a.received_at, &a.message_id).cmp(&(b.received_at, &b.message_id)));
    let columns = [
        Id("Message id"),
        Id("Type"),
        Text("Received"),
        Number("Receive count"),
        Id("Handler"),
        Text("Reason"),
    ];
    let rows = letters.iter().map(|letter| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        [
            or_dash(&letter.message_id),
            or_dash(&letter.event_type.as_ref().map(|event_type| match &letter.part {
                Some(part) => format!("{event_type} ({part})"),
                None => event_type.clone(),
            })),
            or_dash(&letter.received_at.map(table::seconds)),
            or_dash(&letter.receive_count.map(|count| count.to_string())),
            or_dash(&letter.handler),
            letter.reason.clone(),
        ]
    });
    if args.json {
        table::print_json(&letters)?;
    } else {
        let empty =
            if unseen > 0 { "all dead letters are in flight; try again shortly" } else { "no dead letters" };
        table::print(columns, rows, letters.len(), empty)?;
    }
    if may_be_more {
        note("there may be more; --limit shows them")?;
    }
    if unseen > 0 {
        let more = if letters.is_empty() { "" } else { " more" };
        let count = if unseen == 1 { format!("1{more} is") } else { format!("{unseen}{more} are") };
        note(format!(
            "{count} on the queue and not shown, perhaps because somebody else is looking; try again in {} s",
            HIDDEN_FOR.as_secs()
        ))?;
    }
    Ok(())
}

async fn open(args: &ListArgs) -> anyhow::Result<(Queue, OpenLedger)> {
    if let (Some(url), Some(table)) = (&args.queue, &args.ledger) {
        let aws = aws::config(None)?;
        let queue = Queue { client: Client::new(&aws), url: url.clone() };
        return Ok((queue, OpenLedger::in_aws(&aws, table)));
    }
    let folder = &args.state.folder;
    let endpoint = state::sqs_endpoint(folder)?;
    let (Some(endpoint), Some(ledger)) = (endpoint, OpenLedger::of_dev(folder).await?) else {
        anyhow::bail!(
            "`learnink dev` is not running in {}; start `{}`, or name a deployed queue with --queue and --ledger",
            quoted(folder),
            called::dev()
        );
    };
    let client = Client::new(&sdk_config(&endpoint));
    Ok((Queue { client, url: LocalSqs::queue_url(DEAD_LETTER_QUEUE) }, ledger))
}

/// A queue to look into.
struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// Receives the visible messages, up to `limit`, and makes them visible again. If there are fewer, also
    /// returns how many more the queue has, which another receiver hides.
    async fn peek(&self, limit: usize) -> anyhow::Result<(Vec<Message>, usize)> {
        let mut seen = Seen::default();
        let mut news = Instant::now();
        loop {
            let most = MOST_AT_A_TIME.min(limit - seen.messages.len());
            let received = self.receive(i32::try_from(most)?).await?;
            let is_empty = received.is_empty();
            if seen.add(received) > 0 {
                news = Instant::now();
            }
            if seen.messages.len() == limit || is_empty || news.elapsed() > HIDDEN_FOR {
                break;
            }
        }
        let shown = seen.messages.len();
        // Before they are made visible again: the embedded SQS does not count those.
        let count =
            if shown < limit { aws::count_messages(&self.client, &self.url).await } else { Ok(shown) };
        for messages in seen.messages.chunks(MOST_AT_A_TIME) {
            self.show_again(messages).await?;
        }
        Ok((seen.messages, count?.saturating_sub(shown)))
    }

    async fn receive(&self, most: i32) -> anyhow::Result<Vec<Message>> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(most)
            .visibility_timeout(HIDDEN_FOR.as_secs().try_into()?)
            .wait_time_seconds(WAIT_S)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let received = request.send().await.map_err(|error| CallError::from(&error));
        let received = received.with_context(|| format!("cannot read the queue {}", self.url))?;
        Ok(received.messages.unwrap_or_default())
    }

    /// If it fails, the messages become visible by themselves.
    async fn show_again(&self, messages: &[Message]) -> anyhow::Result<()> {
        let entry = |(index, message): (usize, &Message)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .set_receipt_handle(message.receipt_handle.clone())
                .visibility_timeout(0);
            entry.build().ok()
        };
        let entries = messages.iter().enumerate().filter_map(entry).collect();
        let request =
            self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        if request.send().await.is_err() {
            note(format!("the messages stay hidden from others for up to {} s", HIDDEN_FOR.as_secs()))?;
        }
        Ok(())
    }
}

/// The messages received from a queue. A message is received again once it is no longer hidden.
#[derive(Debug, Default)]
struct Seen {
    messages: Vec<Message>,
    /// The position of each, by SQS message id.
    positions: HashMap<Option<String>, usize>,
}

impl Seen {
    /// Returns how many of these are new. For a known message, the newer receipt is kept: an older one cannot make
    /// it visible again.
    fn add(&mut self, received: Vec<Message>) -> usize {
        let known = self.messages.len();
        for message in received {
            let at = *self.positions.entry(message.message_id.clone()).or_insert(self.messages.len());
            match self.messages.get_mut(at) {
                Some(seen) => *seen = message,
                None => self.messages.push(message),
            }
        }
        self.messages.len() - known
    }
}

/// A message on the dead-letter queue, without its payload. Fields that cannot be read are missing.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DeadLetter {
    message_id: Option<String>,
    event_type: Option<String>,
    /// Which part of its list it is, if it is one: `push/100-199`.
    part: Option<String>,
    /// When the receiver accepted it.
    received_at: Option<Timestamp>,
    /// How often it was delivered before it came here. If SQS moved the message itself, it continues to count:
    /// each look at the queue is one more.
    receive_count: Option<u32>,
    /// When the consumer first claimed it, if it did.
    first_seen: Option<Timestamp>,
    /// The handler that said *never*, if one ran.
    handler: Option<String>,
    reason: String,
    sqs_message_id: Option<String>,
}

async fn read(message: &Message, ledger: &OpenLedger) -> anyhow::Result<DeadLetter> {
    let decoded = message::Message::decode(message.body().unwrap_or_default(), |name| text(message, name));
    let webhook = match decoded {
        Ok(webhook) => webhook,
        Err(error) => return Ok(dead_letter(message, Err(error), None)),
    };
    let entry = match said(message, reason::REASON) {
        Some(_) => None,
        None => ledger.entry(EntryId::of(&webhook)).await?,
    };
    Ok(dead_letter(message, Ok(&webhook), entry.as_ref()))
}

/// A message as it is shown, given its ledger entry.
fn dead_letter(
    message: &Message,
    decoded: Result<&message::Message, DecodeError>,
    entry: Option<&Entry>,
) -> DeadLetter {
    let own = |name| text(message, name).map(str::to_owned);
    let received_at_ms = text(message, attribute::RECEIVED_AT).and_then(|ms| ms.parse().ok());
    let deliveries = said(message, reason::DELIVERIES);
    let (counted, since) = match deliveries.map(|said| said.split_once(" since ").unwrap_or((said, ""))) {
        Some((counted, since)) => (Some(counted), since.parse().ok()),
        None => (system(message, &MessageSystemAttributeName::ApproximateReceiveCount), None),
    };
    let in_ledger = entry.and_then(|entry| Timestamp::from_millisecond(entry.first_seen_ms).ok());
    DeadLetter {
        message_id: own(attribute::ID),
        // A part of a list has its type only in the body.
        event_type: own(attribute::EVENT_TYPE).or_else(|| {
            decoded.as_ref().ok().and_then(|webhook| EnvelopeHead::read(&webhook.body).event_type)
        }),
        part: decoded.as_ref().ok().and_then(|webhook| webhook.part.as_ref()).map(Part::key),
        received_at: received_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        receive_count: counted.and_then(|count| count.parse().ok()),
        first_seen: since.or(in_ledger),
        handler: said(message, reason::HANDLER).filter(|handler| *handler != "-").map(str::to_owned),
        reason: DeadLetterReason::find(said(message, reason::REASON), decoded, entry).to_string(),
        sqs_message_id: message.message_id.clone(),
    }
}

/// The consumer's text from when it put the message here. `None` if SQS moved it: then such an attribute is from
/// before a redrive.
fn said<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    match system(message, &MessageSystemAttributeName::DeadLetterQueueSourceArn) {
        Some(_) => None,
        None => text(message, name),
    }
}

fn text<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.message_attributes.as_ref()?.get(name)?.string_value()
}

fn system<'a>(message: &'a Message, name: &MessageSystemAttributeName) -> Option<&'a str> {
    message.attributes.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aws_sdk_sqs::types::MessageAttributeValue;
    use learnink_consumer::ledger::{Lease, payload_sha256};

    use super::*;

    const EVENT: &str = r#"{"type":"example.type","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;
    const ATTRIBUTES: [(&str, &str); 6] = [
        (attribute::FORMAT_VERSION, message::FORMAT_VERSION),
        (attribute::ID, "msg_1"),
        (attribute::TIMESTAMP, "1767225600"),
        (attribute::SIGNATURE, "v1,aa"),
        (attribute::RECEIVED_AT, "1767225600123"),
        (attribute::EVENT_TYPE, "example.type"),
    ];
    const SAID: [(&str, &str); 3] = [
        (reason::REASON, "no such plan"),
        (reason::HANDLER, "progress"),
        (reason::DELIVERIES, "2 since 2026-01-01T00:00:01Z"),
    ];

    fn message(attributes: &[(&str, &str)], moved_by_sqs: bool) -> Message {
        let mut message = Message::builder()
            .message_id("sqs-1")
            .body(EVENT)
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "9");
        if moved_by_sqs {
            message = message.attributes(MessageSystemAttributeName::DeadLetterQueueSourceArn, "arn");
        }
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(*value);
            message = message.message_attributes(*name, value.build().unwrap());
        }
        message.build()
    }

    fn shown(message: &Message, failure_reason: Option<&str>) -> DeadLetter {
        let entry = Entry {
            payload_sha256: payload_sha256(EVENT.as_bytes()),
            done: BTreeSet::new(),
            // A consumer that stopped before it could record a reason has not settled either.
            lease: failure_reason.is_none().then(|| Lease { owner: "1/0".to_owned(), until_ms: 0 }),
            settled_at_ms: 0,
            first_seen_ms: 0,
            expires_at_s: 0,
            failure_reason: failure_reason.map(str::to_owned),
        };
        match message::Message::decode(EVENT, |name| text(message, name)) {
            Ok(webhook) => dead_letter(message, Ok(&webhook), Some(&entry)),
            Err(error) => dead_letter(message, Err(error), None),
        }
    }

    #[test]
    fn a_message_that_the_consumer_put_aside_says_why() {
        let message = message(&[&ATTRIBUTES[..], &SAID].concat(), false);
        let expected = DeadLetter {
            message_id: Some("msg_1".to_owned()),
            event_type: Some("example.type".to_owned()),
            part: None,
            received_at: Some("2026-01-01T00:00:00.123Z".parse().unwrap()),
            receive_count: Some(2),
            first_seen: Some("2026-01-01T00:00:01Z".parse().unwrap()),
            handler: Some("progress".to_owned()),
            reason: "no such plan".to_owned(),
            sqs_message_id: Some("sqs-1".to_owned()),
        };
        assert_eq!(shown(&message, None), expected);
    }

    #[test]
    fn one_that_sqs_moved_has_its_last_failure_whatever_was_said_before_a_redrive() {
        for attributes in [ATTRIBUTES.to_vec(), [&ATTRIBUTES[..], &SAID].concat()] {
            let letter = shown(&message(&attributes, true), Some("progress: busy"));
            assert_eq!(letter.reason, "progress: busy (on its last delivery)");
            assert_eq!((letter.receive_count, letter.handler), (Some(9), None));
        }
        let crashed = shown(&message(&ATTRIBUTES, true), None);
        assert_eq!(crashed.reason, DeadLetterReason::ConsumerStopped.to_string());
    }

    #[test]
    fn a_message_that_comes_again_is_listed_once_with_its_newest_receipt() {
        let received =
            |id: &str, receipt: &str| Message::builder().message_id(id).receipt_handle(receipt).build();
        let mut seen = Seen::default();
        assert_eq!(seen.add(vec![received("a", "1"), received("b", "2")]), 2);
        assert_eq!(seen.add(vec![received("a", "3"), received("c", "4")]), 1);
        assert_eq!(seen.add(vec![received("b", "5")]), 0);
        let receipts: Vec<_> = seen.messages.iter().filter_map(Message::receipt_handle).collect();
        assert_eq!(receipts, ["3", "5", "4"]);
    }

    #[test]
    fn what_no_receiver_wrote_is_listed_too() {
        let letter = shown(&message(&[], true), None);
        assert_eq!((letter.message_id, letter.received_at), (None, None));
        assert_eq!(letter.reason, "not written by a receiver: the attribute `format-version` is missing");
    }
}
