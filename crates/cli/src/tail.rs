//! `learnink tail`: the log lines of a deployed stack's functions, joined into the lines that `learnink dev` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use jiff::{SignedDuration, Timestamp};
use learnink_local::terminal::visible;
use learnink_webhook::MessageId;
use serde::Deserialize;

use crate::aws::IN_AWS;
use crate::aws::logs::{LogEvent, Logs};
use crate::output::{BAD, DIM, GOOD, Line, PENDING, WRONG_USE, note, print, print_json};
use crate::question::Interrupt;
use crate::replay::{Time, parse_time};
use crate::stack::{InAws, Stack};
use crate::{called, now};

/// How often CloudWatch is asked. Live Tail would cost by the minute, and leave lines out above 500 a second.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Lines arrive out of order, some of them late: so far back each look begins again.
const LATEST: SignedDuration = SignedDuration::from_secs(30);

/// The outcomes of the consumer, and then those of the receiver.
const OUTCOMES: [&str; 13] = [
    "processed",
    "duplicate",
    "ignored",
    "retry",
    "sent_again",
    "dead_lettered",
    "accepted",
    "refused",
    "too_large",
    "unavailable",
    "not_found",
    "method_not_allowed",
    "no_request",
];

/// How much time's lines are read at once, and are in memory together.
const SLICE: SignedDuration = SignedDuration::from_mins(10);

/// How many accepted webhooks are remembered for the line of the consumer.
const MOST_REMEMBERED: usize = 10_000;

/// Options of `learnink tail`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A line for each message that the consumer has worked on, with the time that the receiver took, and a line for each \
request that the receiver did not accept. CloudWatch is asked every two seconds, and shows a line some seconds after \
it was written. Ctrl-C ends it.

Examples:
  cargo learnink tail --stack learnink-webhooks-production --outcome retry
  cargo learnink tail --since '1h ago' --message msg_2Xb --no-follow

{IN_AWS} It needs logs:FilterLogEvents on the log groups of both functions."))]
pub(crate) struct Args {
    /// Only events of this type
    #[arg(long = "type", value_name = "EVENT_TYPE", value_parser = NonEmptyStringValueParser::new())]
    event_type: Option<String>,
    /// Only lines with this outcome
    #[arg(long, value_name = "OUTCOME", value_parser = PossibleValuesParser::new(OUTCOMES))]
    outcome: Option<String>,
    /// Only lines about this message
    #[arg(long, value_name = "ID", value_parser = MessageId::parse)]
    message: Option<MessageId>,
    /// Begin with the lines of TIME, such as '1h ago'; without it, with those of now
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Print what there is, and end
    #[arg(long)]
    no_follow: bool,
    /// Print the log lines as they are, a JSON object each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    in_aws: InAws,
}

/// The fields of a log line that a person reads. Other lines, such as those of Lambda itself, have no outcome.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Fields {
    outcome: String,
    #[serde(rename = "message.id")]
    id: Option<String>,
    #[serde(rename = "claimed.message.id")]
    claimed_id: Option<String>,
    #[serde(rename = "event.type")]
    event_type: Option<String>,
    handler: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
    handlers: Option<String>,
    part: Option<String>,
    retry_in_s: Option<u64>,
    verify_us: Option<u64>,
    #[serde(rename = "EnqueueTime")]
    enqueue_ms: Option<f64>,
}

/// Which lines are printed.
#[derive(Debug, Clone, Default)]
struct Filter {
    event_type: Option<String>,
    outcome: Option<String>,
    id: Option<String>,
}

/// What was printed already, and what the receiver said of messages that the consumer will work on.
#[derive(Debug, Default)]
struct Seen {
    lines: BTreeMap<(i64, String), BTreeSet<String>>,
    accepted: BTreeMap<String, String>,
}

/// Prints log lines until Ctrl-C.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(stack) = args.in_aws.stack().await? else {
        note(format!(
            "`tail` is about a deployed stack: name it with --stack; `{}` prints the lines of this machine",
            called::dev()
        ))?;
        return Ok(ExitCode::from(WRONG_USE));
    };
    let groups = groups(&stack)?;
    let logs = Logs::new(&stack.aws, &stack.clock)?;
    let started = now().checked_add(stack.clock.ahead())?;
    let since =
        args.since.map_or(Ok(started), |since| since.at(started)).context("--since cannot be used")?;
    let filter = Filter {
        event_type: args.event_type.clone(),
        outcome: args.outcome.clone(),
        id: args.message.as_ref().map(ToString::to_string),
    };
    let mut interrupt = Interrupt::watch();
    let (mut seen, mut from) = (Seen::default(), since);
    loop {
        let pattern = filter.pattern();
        let asked = now().checked_add(stack.clock.ahead())?;
        let until = asked.min(from.checked_add(SLICE)?);
        let read = async {
            let of = |group| logs.between(group, from, until, &pattern);
            tokio::join!(of(&groups[0]), of(&groups[1]))
        };
        let (receiver, consumer) = tokio::select! {
            read = read => read,
            () = interrupt.wait() => return Ok(ExitCode::SUCCESS),
        };
        let mut events = receiver.with_context(|| format!("cannot read {}", groups[0]))?;
        events.extend(consumer.with_context(|| format!("cannot read {}", groups[1]))?);
        events.sort_by_key(|event| event.timestamp);
        for event in events.iter().filter(|event| event.timestamp >= since.as_millisecond()) {
            if let Some(fields) = seen.add(event).filter(|fields| filter.fits(fields)) {
                if args.json {
                    if filter.has_outcome(&fields) {
                        print_json(&event.message)?;
                    }
                } else if let Some(line) = seen.line(event.timestamp, &fields, &filter) {
                    print(line)?;
                }
            }
        }
        if until < asked {
            from = until;
            seen.forget_before(from);
            continue;
        }
        if args.no_follow {
            return Ok(ExitCode::SUCCESS);
        }
        from = from.max(asked - LATEST);
        seen.forget_before(from);
        tokio::select! {
            () = tokio::time::sleep(BETWEEN_LOOKS) => {}
            () = interrupt.wait() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// The log groups of the receiver and of the consumer.
fn groups(stack: &Stack) -> anyhow::Result<[String; 2]> {
    let group = |output: &str| stack.output(output).map(|function| format!("/aws/lambda/{function}"));
    Ok([group("ReceiverFunctionName")?, group("ConsumerFunctionName")?])
}

impl Filter {
    /// The filter for CloudWatch: the words that a line must have. Lines that have them elsewhere are left out here.
    /// Source: Amazon CloudWatch Logs user guide, "Filter pattern syntax".
    fn pattern(&self) -> String {
        // The outcome is not among them: an accepted webhook is joined with the line of the consumer.
        let words = [Some("outcome"), self.event_type.as_deref(), self.id.as_deref()];
        let quoted = words.into_iter().flatten().map(|word| format!("\"{}\"", word.replace('"', "")));
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// Whether a line may be printed, or joined with another one.
    fn fits(&self, fields: &Fields) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(&self.event_type, &fields.event_type)
            && (is(&self.id, &fields.id) || is(&self.id, &fields.claimed_id))
            && (fields.outcome == "accepted" || self.has_outcome(fields))
    }

    fn has_outcome(&self, fields: &Fields) -> bool {
        self.outcome.as_ref().is_none_or(|outcome| *outcome == fields.outcome)
    }
}

impl Seen {
    /// Adds a line. Returns its fields if it is new and has an outcome.
    fn add(&mut self, event: &LogEvent) -> Option<Fields> {
        let lines = self.lines.entry((event.timestamp, event.event_id.clone())).or_default();
        if !lines.insert(event.message.clone()) {
            return None;
        }
        let fields: Fields = serde_json::from_str(&event.message).ok()?;
        (!fields.outcome.is_empty()).then_some(fields)
    }

    /// Forgets the lines from before a time, which are not looked at again.
    fn forget_before(&mut self, time: Timestamp) {
        self.lines = self.lines.split_off(&(time.as_millisecond(), String::new()));
    }

    /// The line for a person; none for a webhook that was accepted, which the consumer's line is about.
    fn line(&mut self, at_ms: i64, fields: &Fields, filter: &Filter) -> Option<Line> {
        let received = received(fields);
        if fields.outcome == "accepted" && filter.outcome.as_deref() != Some("accepted") {
            if self.accepted.len() >= MOST_REMEMBERED {
                self.accepted.clear();
            }
            self.accepted.extend(fields.id.clone().map(|id| (id, received)));
            return None;
        }
        let joined = fields.id.as_ref().and_then(|id| self.accepted.remove(id));
        Some(line(at_ms, fields, joined.as_deref()))
    }
}

/// What the receiver did with a webhook.
fn received(fields: &Fields) -> String {
    let verified = fields.verify_us.map(|took| format!("verified in {took} µs"));
    let queued = fields.enqueue_ms.map(|took| format!("queued in {took:.1} ms"));
    verified.into_iter().chain(queued).collect::<Vec<_>>().join(", ")
}

/// A line, with what the receiver did before if that is known.
fn line(at_ms: i64, fields: &Fields, joined: Option<&str>) -> Line {
    let reason = fields.reason.as_deref().unwrap_or_default();
    let handler = fields.handler.as_deref().filter(|handler| *handler != "-");
    let why = handler.map_or_else(|| reason.to_owned(), |handler| format!("{handler}: {reason}"));
    let handlers = fields.handlers.as_deref().filter(|handlers| !handlers.is_empty());
    let part = fields.part.as_ref().map(|part| format!("part {part}, ")).unwrap_or_default();
    let (style, mark, text) = match fields.outcome.as_str() {
        "accepted" => (GOOD, "→", received(fields)),
        "processed" => {
            (GOOD, "✓", format!("{part}handled: {}", handlers.unwrap_or("nothing was left to do")))
        }
        "duplicate" => (GOOD, "=", "handled before: nothing done twice".to_owned()),
        "ignored" => {
            (PENDING, "?", "no handler ran: none takes it, or its replay window asks for none".to_owned())
        }
        "sent_again" => (PENDING, "↻", format!("{part}sent to the queue again: {why}")),
        "retry" => {
            let when = fields.retry_in_s.map_or_else(
                || "when the queue's visibility timeout ends".to_owned(),
                |seconds| format!("in {seconds} s"),
            );
            (PENDING, "↻", format!("{part}comes back {when}: {why}"))
        }
        "dead_lettered" => (BAD, "✗", format!("{part}dead-lettered: {why}")),
        outcome => {
            let detail = fields.detail.as_deref().unwrap_or(reason);
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            (BAD, "✗", format!("not queued, {outcome}{detail}"))
        }
    };
    let time = Timestamp::from_millisecond(at_ms).map(|at| at.strftime("%H:%M:%S").to_string());
    let id = fields.id.as_ref().or(fields.claimed_id.as_ref()).map_or("-", String::as_str);
    let event_type = visible(fields.event_type.as_deref().unwrap_or("-")).into_owned();
    let line = Line::default().styled(DIM, time.unwrap_or_default()).text(" ").styled(style, mark);
    let line = line.text(format!(" {event_type:<21} {id}  "));
    match joined {
        Some(joined) => line.styled(DIM, joined).text(", ").text(text),
        None => line.text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(timestamp: i64, message: &str) -> LogEvent {
        LogEvent { event_id: String::new(), timestamp, message: message.to_owned() }
    }

    /// The lines for these log lines, each once.
    fn lines(filter: &Filter, messages: &[&str]) -> Vec<String> {
        let mut seen = Seen::default();
        let mut lines = Vec::new();
        for message in messages.iter().chain(messages) {
            if let Some(fields) =
                seen.add(&event(1_767_348_001_500, message)).filter(|fields| filter.fits(fields))
            {
                lines.extend(seen.line(1_767_348_001_500, &fields, filter).map(|line| line.plain()));
            }
        }
        lines
    }

    const ACCEPTED: &str =
        r#"{"outcome":"accepted","message.id":"msg_1","event.type":"a.b","verify_us":85,"EnqueueTime":4.25}"#;
    const PROCESSED: &str = r#"{"outcome":"processed","message.id":"msg_1","event.type":"a.b","handlers":"progress=done push=too_late"}"#;
    const RETRY: &str = r#"{"outcome":"retry","message.id":"msg_2","event.type":"a.b","handler":"push","reason":"busy","retry_in_s":30}"#;
    const REFUSED: &str =
        r#"{"outcome":"refused","claimed.message.id":"msg_3","reason":"no_matching_signature"}"#;
    const DEAD: &str = r#"{"outcome":"dead_lettered","message.id":"msg_4","event.type":"c.d","handler":"-","reason":"the body is empty"}"#;
    const OF_LAMBDA: &str = r#"{"time":"2026-01-02T10:00:01Z","type":"platform.report","record":{}}"#;

    #[test]
    fn the_lines_of_both_functions_are_one_for_each_message() {
        let all = lines(&Filter::default(), &[ACCEPTED, OF_LAMBDA, "START", PROCESSED, RETRY, REFUSED, DEAD]);
        assert_eq!(
            all,
            [
                "10:00:01 ✓ a.b                   msg_1  verified in 85 µs, queued in 4.2 ms, handled: progress=done \
                 push=too_late",
                "10:00:01 ↻ a.b                   msg_2  comes back in 30 s: push: busy",
                "10:00:01 ✗ -                     msg_3  not queued, refused: no_matching_signature",
                "10:00:01 ✗ c.d                   msg_4  dead-lettered: the body is empty",
            ]
        );
    }

    #[test]
    fn only_what_is_asked_for_is_printed() {
        let all = [ACCEPTED, PROCESSED, RETRY, REFUSED, DEAD];
        let count = |filter: Filter| lines(&filter, &all).len();
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(count(Filter { outcome: of("retry"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { outcome: of("accepted"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { event_type: of("c.d"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { id: of("msg_1"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { id: of("msg_3"), ..Filter::default() }), 1);
        let both = Filter { event_type: of("a.b"), id: of("msg_\"1"), outcome: of("retry") };
        assert_eq!(both.pattern(), r#""outcome" "a.b" "msg_1""#);
    }

    #[test]
    fn what_was_printed_is_forgotten_once_it_is_not_looked_at_again() {
        let mut seen = Seen::default();
        assert!(seen.add(&event(1, RETRY)).is_some() && seen.add(&event(1, RETRY)).is_none());
        assert!(seen.add(&event(2, RETRY)).is_some());
        seen.forget_before(Timestamp::from_millisecond(2).unwrap());
        assert_eq!(seen.lines.len(), 1);
    }
}
