//! One line for each delivery, from what the receiver and the consumer report of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anstyle::Style;
use learnink_aws::CallError;
use learnink_consumer::report::{Ended, Failure};
use learnink_consumer::{Outcome as ConsumerOutcome, RecordReport};
use learnink_local::terminal::visible;
use learnink_local::{AnsweredBy, Observation, Received};
use learnink_receiver::{Outcome as ReceiverOutcome, PATH, Receipt, SecretSlot};
use learnink_simulator::Fault;
use learnink_webhook::MessageId;

use crate::output::{BAD, DIM, GOOD, Line, PENDING};
use crate::{called, milliseconds};

/// How long news of the sender's secrets is not repeated, even if it changes at every delivery.
const QUIET_FOR: Duration = Duration::from_mins(10);

/// How much earlier than the receiver's news of a message the consumer's may arrive.
const LONGEST_LAG: Duration = Duration::from_secs(1);

/// Joins the receiver's and the consumer's news of one delivery into one line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The receiver's part, by message id, until the consumer's comes.
    waiting: HashMap<String, Vec<String>>,
    /// Messages that the consumer finished before the receiver's news of them, and when. Kept only for a moment:
    /// messages of an earlier start have no receipt to wait for.
    early: HashMap<String, Instant>,
    rotation: Rotation,
}

impl Lines {
    /// Without news so far. `is_kept` says whether the receiver's secret is kept in the state.
    pub(super) fn new(is_kept: bool) -> Self {
        Self { rotation: Rotation { is_kept, ..Rotation::default() }, ..Self::default() }
    }
}

impl Lines {
    /// The lines to print: one for the delivery, once both ends are known, and news of the secrets.
    pub(super) fn lines(&mut self, observation: Observation) -> Vec<Line> {
        let mut lines = Vec::new();
        match observation {
            Observation::Received(received) => match &received.answered_by {
                AnsweredBy::Receiver(receipt) => {
                    lines.extend(self.rotation.news(receipt, Instant::now()));
                    match (&receipt.outcome, &receipt.message_id) {
                        (ReceiverOutcome::Accepted, Some(id)) => {
                            if self.early.remove(id).is_none_or(|since| since.elapsed() > LONGEST_LAG) {
                                self.waiting.entry(id.clone()).or_default().push(accepted(receipt));
                            }
                        }
                        _ => lines.push(not_accepted(receipt)),
                    }
                }
                AnsweredBy::Gateway => lines.push(not_passed_on(&received)),
                AnsweredBy::Fault(fault) => lines.push(faulty(&received, *fault)),
            },
            Observation::Queue(_) => {}
            Observation::Consumed(record) => {
                let received = record.message_id.as_ref().and_then(|id| self.take(id));
                if let (None, Some(id), 1) = (&received, &record.message_id, record.receive_count) {
                    self.early.retain(|_, since| since.elapsed() <= LONGEST_LAG);
                    self.early.insert(id.clone(), Instant::now());
                }
                lines.push(consumed(&record, received.as_deref()));
            }
        }
        lines
    }

    fn take(&mut self, id: &str) -> Option<String> {
        let waiting = self.waiting.get_mut(id)?;
        let received = waiting.pop();
        if waiting.is_empty() {
            self.waiting.remove(id);
        }
        received
    }
}

/// Which secret the sender signs with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum SignedWith {
    /// The first one here, and none that is newer.
    #[default]
    Current,
    /// A newer one than any here, too.
    Newer,
    /// Another one of those here, and not the first.
    Previous,
}

impl SignedWith {
    /// The news, and what to do. A secret that is kept can be changed while the pipeline runs.
    fn news(self, is_kept: bool) -> String {
        let learnink = called::learnink();
        match (self, is_kept) {
            (Self::Current, _) => "the sender signs with the first secret, and with no newer one".to_owned(),
            (Self::Newer, true) => format!(
                "the sender signs with a newer secret as well: a rotation. After at most 24 hours it signs with that \
                 one alone, and all is answered 401. Store the newer one with `{learnink} secret rotate`"
            ),
            (Self::Newer, false) => {
                "the sender signs with a newer secret as well: a rotation. After at most 24 hours it signs with that \
                 one alone, and all is answered 401. Start again with both in LEARNINK_SIGNING_SECRET, the newer first"
                    .to_owned()
            }
            (Self::Previous, true) => format!(
                "the sender does not sign with the current secret, but with the previous one. Check which one the \
                 sender shows, and store that one with `{learnink} secret put --replace`"
            ),
            (Self::Previous, false) => {
                "the sender does not sign with the first secret, but with another one given here. Check which one the \
                 sender shows, and start again with that one first"
                    .to_owned()
            }
        }
    }
}

/// Reports a rotation of the sender's secret: once per change.
#[derive(Debug, Default)]
struct Rotation {
    /// Whether the receiver's secret is kept in the state.
    is_kept: bool,
    signed: SignedWith,
    /// When each was reported last: two senders may take turns.
    told: HashMap<SignedWith, Instant>,
}

impl Rotation {
    fn news(&mut self, receipt: &Receipt, now: Instant) -> Option<Line> {
        let signed = match receipt.secret? {
            _ if receipt.has_unknown_signature => SignedWith::Newer,
            SecretSlot::Previous => SignedWith::Previous,
            SecretSlot::Current => SignedWith::Current,
        };
        let is_news = std::mem::replace(&mut self.signed, signed) != signed;
        let was_told_lately =
            self.told.get(&signed).is_some_and(|told| now.saturating_duration_since(*told) < QUIET_FOR);
        if !is_news || was_told_lately {
            return None;
        }
        self.told.insert(signed, now);
        Some(Line::default().styled(PENDING, "!").text(format!(" {}", signed.news(self.is_kept))))
    }
}

fn accepted(receipt: &Receipt) -> String {
    let queued = receipt.enqueue_took.unwrap_or_default();
    format!("verified in {} µs, queued in {}", receipt.verify_took.as_micros(), milliseconds(queued))
}

fn not_accepted(receipt: &Receipt) -> Line {
    let (queued, why) = match &receipt.outcome {
        ReceiverOutcome::NotFound => ("not queued", format!("webhooks are received at {PATH} alone")),
        ReceiverOutcome::MethodNotAllowed => {
            ("not queued", "method not allowed: webhooks are sent with POST".to_owned())
        }
        ReceiverOutcome::NoRequest => ("not queued", "it is not an HTTP request".to_owned()),
        ReceiverOutcome::Unavailable(error) => ("not confirmed", unconfirmed(error)),
        outcome @ (ReceiverOutcome::Accepted
        | ReceiverOutcome::Refused(_)
        | ReceiverOutcome::TooLarge(_)
        | ReceiverOutcome::BodyTooLarge) => ("not queued", outcome.detail().unwrap_or_default()),
    };
    let status = receipt.outcome.answer().status_code;
    delivery(BAD, "✗", receipt.event_type.as_deref(), receipt.message_id.as_deref())
        .styled(BAD, format!("answered {status}"))
        .text(format!(", {queued}: {why}"))
}

/// A request that the gateway answered by itself.
fn not_passed_on(received: &Received) -> Line {
    let why = match received.status {
        Some(413) => "the body is larger than the 10 MB that API Gateway takes",
        _ => "it is not a request that API Gateway passes on",
    };
    let answered = received.status.map(|status| status.to_string()).unwrap_or_default();
    delivery(BAD, "✗", None, None)
        .styled(BAD, format!("answered {answered}"))
        .text(format!(", not queued: {why}"))
}

/// A request that a fault answered in place of the receiver.
fn faulty(received: &Received, fault: Fault) -> Line {
    let answered = match received.status {
        Some(status) => format!("answered {status}"),
        None => "not answered".to_owned(),
    };
    let id = received.parts.headers.get("svix-id").and_then(|id| id.to_str().ok());
    let id = id.filter(|id| MessageId::parse(id).is_ok());
    delivery(PENDING, "!", None, id)
        .styled(PENDING, answered)
        .text(format!(", not received: a fault that you asked for ({fault})"))
}

/// Why the queue on this machine did not confirm a message.
fn unconfirmed(error: &CallError) -> String {
    match error {
        CallError::TimedOut | CallError::Unreachable | CallError::Unconfirmed => {
            "the embedded SQS did not answer in time; it may have the message all the same".to_owned()
        }
        CallError::Throttled { .. }
        | CallError::NotSent
        | CallError::Denied { .. }
        | CallError::NotFound { .. }
        | CallError::Failed { .. } => {
            "the embedded SQS failed; RUST_LOG=learnink_local=debug says why".to_owned()
        }
    }
}

/// The start of a delivery's line.
fn delivery(style: Style, mark: &str, event_type: Option<&str>, id: Option<&str>) -> Line {
    let event_type = visible(event_type.unwrap_or("-"));
    Line::default().styled(style, mark).text(format!(" {event_type:<21} {}  ", id.unwrap_or("-")))
}

fn consumed(record: &RecordReport, received: Option<&str>) -> Line {
    let received = match received {
        Some(received) => received.to_owned(),
        None => format!("delivery {} from the queue", record.receive_count),
    };
    let reason = record.failure.as_ref().map(Failure::text).unwrap_or_default();
    let line = |style, mark| {
        let line = delivery(style, mark, record.event_type.as_deref(), record.message_id.as_deref());
        line.styled(DIM, &received).text(", ")
    };
    match record.outcome {
        ConsumerOutcome::Processed if record.known => line(GOOD, "✓").text(handled("handled by", record)),
        ConsumerOutcome::Processed => {
            let left_to = handled("left to", record);
            line(PENDING, "?").text(format!("no handler for this type or version: {left_to}"))
        }
        ConsumerOutcome::Duplicate => line(GOOD, "=").text("handled before: nothing done twice"),
        ConsumerOutcome::Ignored => line(PENDING, "?").text("no handler for this type or version"),
        ConsumerOutcome::SentAgain => line(PENDING, "↻").text(format!("sent to the queue again: {reason}")),
        ConsumerOutcome::Retry => {
            let when = match record.retry_in {
                Some(delay) => format!("in {} s", delay.as_secs_f64().ceil()),
                None => "when the queue's visibility timeout ends".to_owned(),
            };
            line(PENDING, "↻").styled(PENDING, format!("comes back {when}")).text(format!(": {reason}"))
        }
        ConsumerOutcome::DeadLettered => {
            line(BAD, "✗").styled(BAD, "dead-lettered").text(format!(": {reason}"))
        }
    }
}

/// Which handlers ran, and which were not called.
fn handled(by: &str, record: &RecordReport) -> String {
    let ended = |wanted| record.handlers.iter().filter(move |handler| handler.ended == wanted);
    let done: Vec<_> = ended(Ended::Done)
        .map(|handler| format!("{} in {}", handler.name, milliseconds(handler.took)))
        .collect();
    let done = (!done.is_empty()).then(|| match &record.part {
        Some(part) => format!("part {part} {by} {}", done.join(", ")),
        None => format!("{by} {}", done.join(", ")),
    });
    let in_parts =
        ended(Ended::InParts).map(|handler| format!("{}: a long list, queued in parts", handler.name));
    let too_late = ended(Ended::TooLate).map(|handler| format!("{}: too old, not called", handler.name));
    done.into_iter().chain(in_parts).chain(too_late).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use learnink_consumer::HandlerReport;
    use learnink_receiver::Refusal;

    use super::*;

    fn receipt(outcome: ReceiverOutcome) -> Receipt {
        Receipt {
            outcome,
            message_id: Some("msg_1".to_owned()),
            event_type: Some("user.course.started".to_owned()),
            verify_took: Duration::from_micros(85),
            enqueue_took: Some(Duration::from_micros(1_250)),
            ..Receipt::new(Timestamp::UNIX_EPOCH)
        }
    }

    fn answered(status: Option<u16>, answered_by: AnsweredBy) -> Observation {
        let (parts, ()) = http::Request::builder().header("svix-id", "msg_1").body(()).unwrap().into_parts();
        let (at, took) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
        let received = Received { at, took, parts, body: Vec::new().into(), status, answered_by };
        Observation::Received(Box::new(received))
    }

    fn received(outcome: ReceiverOutcome) -> Observation {
        let receipt = receipt(outcome);
        answered(Some(receipt.outcome.answer().status_code), AnsweredBy::Receiver(Box::new(receipt)))
    }

    fn consumed(outcome: ConsumerOutcome) -> Observation {
        Observation::Consumed(Box::new(RecordReport {
            sqs_message_id: "sqs-1".to_owned(),
            message_id: Some("msg_1".to_owned()),
            event_type: Some("user.course.started".to_owned()),
            known: true,
            another_version: None,
            part: None,
            receive_count: 1,
            outcome,
            occurred_at: None,
            received_at: None,
            failure: Some(Failure { handler: None, class: "permanent", reason: "no such plan".to_owned() }),
            first_seen: None,
            retry_in: Some(Duration::from_millis(1_200)),
            degraded: BTreeSet::new(),
            handlers: Vec::new(),
            ended_at: Timestamp::UNIX_EPOCH,
        }))
    }

    /// The lines for these observations, without colours.
    fn lines(observations: impl IntoIterator<Item = Observation>) -> Vec<String> {
        let mut lines = Lines::default();
        observations.into_iter().flat_map(|seen| lines.lines(seen)).map(|line| line.plain()).collect()
    }

    #[test]
    fn a_delivery_is_one_line_once_both_ends_are_known() {
        let both = [received(ReceiverOutcome::Accepted), consumed(ConsumerOutcome::DeadLettered)];
        assert_eq!(
            lines(both),
            [
                "✗ user.course.started   msg_1  verified in 85 µs, queued in 1.2 ms, dead-lettered: no such plan"
            ]
        );
    }

    #[test]
    fn a_message_that_comes_back_says_when_and_why() {
        assert_eq!(
            lines([consumed(ConsumerOutcome::Retry)]),
            ["↻ user.course.started   msg_1  delivery 1 from the queue, comes back in 2 s: no such plan"]
        );
    }

    #[test]
    fn a_refused_request_says_why() {
        assert_eq!(
            lines([received(ReceiverOutcome::Refused(Refusal::TimestampTooOld))]),
            ["✗ user.course.started   msg_1  answered 401, not queued: the signature is too old"]
        );
    }

    #[test]
    fn a_webhook_that_the_queue_did_not_confirm_is_not_said_to_be_lost() {
        let lines = lines([received(ReceiverOutcome::Unavailable(CallError::TimedOut))]);
        let end = "answered 503, not confirmed: the embedded SQS did not answer in time; it may have the message all the same";
        assert!(lines[0].ends_with(end), "{lines:?}");
    }

    #[test]
    fn a_type_or_a_reason_steers_no_terminal_and_is_one_line() {
        let hostile = "a\u{1b}[2J\u{1b}]0;owned\u{7}\r✓ forged\nline\u{202e}";
        let shown = r"a\u{1b}[2J\u{1b}]0;owned\u{7}\r✓ forged\nline\u{202e}";
        for outcome in [ConsumerOutcome::Processed, ConsumerOutcome::Retry, ConsumerOutcome::DeadLettered] {
            let Observation::Consumed(record) = consumed(outcome) else { unreachable!() };
            let failure = Failure { handler: None, class: "permanent", reason: hostile.to_owned() };
            let record =
                RecordReport { event_type: Some(hostile.to_owned()), failure: Some(failure), ..*record };
            let lines = lines([Observation::Consumed(Box::new(record))]);
            assert!(lines.len() == 1 && lines[0].contains(shown), "{lines:?}");
            assert_eq!(visible(&lines[0]), lines[0]);
        }
        let receipt =
            Receipt { event_type: Some(hostile.to_owned()), ..receipt(ReceiverOutcome::BodyTooLarge) };
        assert!(lines([answered(Some(413), AnsweredBy::Receiver(Box::new(receipt)))])[0].contains(shown));
    }

    #[test]
    fn what_the_receiver_never_saw_is_told_apart_from_what_it_refused() {
        let told = |status, by| lines([answered(status, by)]).concat();
        let fault = |fault| AnsweredBy::Fault(fault);
        assert_eq!(
            told(Some(503), fault(Fault::Unavailable)),
            "! -                     msg_1  answered 503, not received: a fault that you asked for (503)"
        );
        let closed = told(None, fault(Fault::ConnectionClosed));
        assert!(closed.contains("msg_1  not answered, not received: "), "{closed}");
        let large = told(Some(413), AnsweredBy::Gateway);
        assert!(
            large.ends_with("not queued: the body is larger than the 10 MB that API Gateway takes"),
            "{large}"
        );
    }

    #[test]
    fn a_rotation_is_told_once_per_change_and_not_per_delivery() {
        let mut rotation = Rotation::default();
        assert!(SignedWith::Newer.news(true).contains(" secret rotate`"));
        assert!(SignedWith::Previous.news(true).contains(" secret put --replace`"));
        let start = Instant::now();
        let mut news = |secret, has_unknown_signature, minutes| {
            let receipt = Receipt { secret, has_unknown_signature, ..Receipt::new(Timestamp::UNIX_EPOCH) };
            rotation.news(&receipt, start + Duration::from_mins(minutes)).map(|line| line.plain())
        };
        let (current, previous) = (Some(SecretSlot::Current), Some(SecretSlot::Previous));
        assert_eq!(news(current, false, 0), None);
        assert!(
            news(current, true, 1).unwrap().starts_with("! the sender signs with a newer secret as well")
        );
        assert_eq!((news(current, true, 2), news(None, false, 3)), (None, None));
        assert!(news(previous, false, 4).unwrap().contains("does not sign with the first secret"));
        assert!(news(current, false, 5).unwrap().contains("and with no newer one"));
        // Two senders take turns.
        assert_eq!((news(current, true, 6), news(current, false, 7)), (None, None));
        assert!(news(current, true, 12).is_some());
    }

    #[test]
    fn what_is_no_webhook_is_told_in_words() {
        for (outcome, line) in [
            (
                ReceiverOutcome::NotFound,
                "answered 404, not queued: webhooks are received at /webhooks/learnink alone",
            ),
            (
                ReceiverOutcome::MethodNotAllowed,
                "answered 405, not queued: method not allowed: webhooks are sent with POST",
            ),
        ] {
            let lines = lines([received(outcome)]);
            assert!(lines[0].ends_with(line), "{lines:?}");
        }
    }

    #[test]
    fn a_handler_for_which_an_event_is_too_old_is_not_said_to_have_handled_it() {
        let handler = |name, ended| HandlerReport {
            name,
            key: name.to_owned(),
            ended,
            took: Duration::from_micros(1_250),
        };
        let line = |handlers| {
            let Observation::Consumed(record) = consumed(ConsumerOutcome::Processed) else { unreachable!() };
            lines([Observation::Consumed(Box::new(RecordReport { handlers, ..*record }))]).remove(0)
        };
        let both = line(vec![handler("push", Ended::TooLate), handler("archive", Ended::Done)]);
        assert!(both.ends_with(", handled by archive in 1.2 ms, push: too old, not called"), "{both}");
        let late = line(vec![handler("push", Ended::TooLate)]);
        assert!(late.ends_with("from the queue, push: too old, not called"), "{late}");
    }

    #[test]
    fn a_late_receipt_is_not_taken_for_that_of_the_next_delivery() {
        let late = [
            consumed(ConsumerOutcome::Duplicate),
            received(ReceiverOutcome::Accepted),
            consumed(ConsumerOutcome::Duplicate),
        ];
        let lines = lines(late);
        assert!(lines.len() == 2 && lines[1].contains("delivery 1 from the queue"), "{lines:?}");
    }
}
