//! Where a message stands, from the entries about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Call, Happening, QueueName, RequestFacts};

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The receiver refused every attempt so far with a 4xx status.
    Refused,
    /// The last attempt was not answered 200, through no fault of the request: the sender tries again.
    NotStored,
    /// On the queue, and no consumer has it.
    Waiting,
    /// A consumer works on it.
    InFlight,
    /// A handler failed; SQS delivers it again later.
    ComingBack,
    /// On the dead-letter queue.
    Dead,
    /// It was a dead letter, and was deleted.
    Dropped,
    /// Nothing is left to do.
    Done,
}

impl State {
    /// All of them, in the order in which a message goes through them.
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::NotStored,
        Self::Waiting,
        Self::InFlight,
        Self::ComingBack,
        Self::Dead,
        Self::Dropped,
        Self::Done,
    ];

    /// The name in URLs, JSON and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NotStored => "not_stored",
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::ComingBack => "coming_back",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
            Self::Done => "done",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more happens to the message by itself.
    pub const fn is_settled(self) -> bool {
        match self {
            Self::Refused | Self::Dead | Self::Dropped | Self::Done => true,
            Self::NotStored | Self::Waiting | Self::InFlight | Self::ComingBack => false,
        }
    }
}

/// A state, and when time alone changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: State,
    /// When SQS shows the message again: from then on it waits.
    pub(super) until: Option<Timestamp>,
}

/// A message on the source queue.
#[derive(Debug, Clone, Copy)]
enum Place {
    Waiting,
    InFlight,
    ComingBack { until: Timestamp },
}

/// What the entries say so far.
#[derive(Debug, Default)]
struct Tally<'a> {
    /// Of the last request, and whether any was accepted.
    last_request: Option<&'a RequestFacts>,
    is_accepted: bool,
    /// By SQS message id. A message may be on the queue several times: its parts, and duplicates.
    queued: BTreeMap<&'a str, Place>,
    dead: BTreeSet<&'a str>,
    /// How it ended last, since it was last sent to the queue.
    ended: Option<State>,
}

/// Where a message stands after `happenings`, which are in the order of their time.
///
/// A dead letter counts more than another copy of its message that is on its way, because it needs a person.
pub(super) fn standing<'a>(happenings: impl IntoIterator<Item = &'a Happening>) -> Standing {
    let mut tally = Tally::default();
    for happening in happenings {
        tally.add(happening);
    }
    tally.standing()
}

impl<'a> Tally<'a> {
    fn add(&mut self, happening: &'a Happening) {
        match happening {
            Happening::Request(request) => {
                self.is_accepted |= request.is_accepted();
                self.last_request = Some(request);
            }
            Happening::Record(record) => {
                let id = record.sqs_message_id.as_str();
                self.queued.remove(id);
                match record.outcome.as_str() {
                    "processed" | "duplicate" | "ignored" => self.ended = Some(State::Done),
                    "dead_lettered" => self.ended = Some(State::Dead),
                    // Sent again: the new SQS message has an entry of its own.
                    "sent_again" => self.ended = None,
                    _ => {
                        let place = hidden(record.at, record.comes_back_in.unwrap_or_default());
                        self.queued.insert(id, place);
                    }
                }
            }
            Happening::Queue(call) => {
                let id = call.sqs_message_id.as_str();
                match (call.queue, call.call) {
                    (QueueName::Messages, Call::Sent) => {
                        self.queued.insert(id, Place::Waiting);
                        // What ended before, such as the dead letter of a redrive, is history.
                        self.ended = None;
                    }
                    (QueueName::Messages, Call::Received) => {
                        self.queued.insert(id, Place::InFlight);
                    }
                    (QueueName::Messages, Call::Hidden { for_s }) => {
                        let place = hidden(call.at, Duration::from_secs(for_s.into()));
                        self.queued.insert(id, place);
                    }
                    (QueueName::Messages, Call::Deleted) => {
                        self.queued.remove(id);
                    }
                    // SQS moves a message under its own id, and tells nobody: the first call that is known may be
                    // one of a person who looks at it.
                    (QueueName::DeadLetters, Call::Sent | Call::Received | Call::Hidden { .. }) => {
                        self.queued.remove(id);
                        self.dead.insert(id);
                        self.ended = Some(State::Dead);
                    }
                    (QueueName::DeadLetters, Call::Deleted) => {
                        self.queued.remove(id);
                        self.dead.remove(id);
                        // A redrive sends before it deletes, and the consumer may be done in between.
                        if self.ended != Some(State::Done) {
                            self.ended = Some(State::Dropped);
                        }
                    }
                }
            }
        }
    }

    fn standing(&self) -> Standing {
        let fixed = |state| Standing { state, until: None };
        if !self.dead.is_empty() {
            return fixed(State::Dead);
        }
        let mut coming_back = None;
        let mut is_waiting = false;
        for place in self.queued.values() {
            match place {
                Place::InFlight => return fixed(State::InFlight),
                Place::Waiting => is_waiting = true,
                // The first of several to come back.
                Place::ComingBack { until } => {
                    coming_back = Some(coming_back.map_or(*until, |other: Timestamp| other.min(*until)));
                }
            }
        }
        if is_waiting {
            return fixed(State::Waiting);
        }
        if coming_back.is_some() {
            return Standing { state: State::ComingBack, until: coming_back };
        }
        match (self.ended, self.last_request) {
            (Some(state), _) => fixed(state),
            (None, _) if self.is_accepted => fixed(State::Waiting),
            (None, Some(request)) if request.is_refused() => fixed(State::Refused),
            (None, Some(_)) => fixed(State::NotStored),
            // Only calls to the queue are known, and they took it away.
            (None, None) => fixed(State::Done),
        }
    }
}

/// Hidden from `at` for a while.
fn hidden(at: Timestamp, lasts: Duration) -> Place {
    match at.checked_add(lasts) {
        Ok(until) if until > at => Place::ComingBack { until },
        _ => Place::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use learnink_consumer::report::Outcome;

    use super::super::tests::{call, happenings, record, request, time};
    use super::super::{Call, Entry, QueueName};
    use super::*;

    fn state(entries: &[Entry]) -> State {
        standing(&happenings(entries)).state
    }

    const SOURCE: QueueName = QueueName::Messages;
    const DEAD: QueueName = QueueName::DeadLetters;

    #[test]
    fn a_message_goes_from_waiting_over_in_flight_to_done() {
        let entries = [
            request(0, "msg_1", 200),
            call(1, "msg_1", SOURCE, Call::Sent),
            call(2, "msg_1", SOURCE, Call::Received),
            record(3, "msg_1", "processed"),
            call(4, "msg_1", SOURCE, Call::Deleted),
        ];
        let states: Vec<_> = (1..=5).map(|count| state(&entries[..count])).collect();
        let expected = [State::Waiting, State::Waiting, State::InFlight, State::Done, State::Done];
        assert_eq!(states, expected);
    }

    #[test]
    fn a_message_that_no_call_to_the_queue_is_known_of_waits_until_its_record() {
        assert_eq!(state(&[request(0, "msg_1", 200)]), State::Waiting);
        assert_eq!(state(&[request(0, "msg_1", 200), record(1, "msg_1", "ignored")]), State::Done);
    }

    #[test]
    fn a_retry_comes_back_at_a_known_time() {
        let mut again = record(3, "msg_1", "retry");
        if let Entry::Record(record) = &mut again {
            record.comes_back_in = Some(Duration::from_secs(20));
        }
        let entries = happenings(&[request(0, "msg_1", 200), again]);
        let expected = Standing { state: State::ComingBack, until: Some(time(23)) };
        assert_eq!(standing(&entries), expected);
        let now = [request(0, "msg_1", 200), record(3, "msg_1", "retry")];
        assert_eq!(state(&now), State::Waiting);
    }

    #[test]
    fn a_call_that_hides_a_message_says_when_it_comes_back() {
        let entries =
            [call(0, "msg_1", SOURCE, Call::Sent), call(5, "msg_1", SOURCE, Call::Hidden { for_s: 7 })];
        let expected = Standing { state: State::ComingBack, until: Some(time(12)) };
        assert_eq!(standing(&happenings(&entries)), expected);
    }

    #[test]
    fn a_dead_letter_is_dead_until_it_is_redriven_or_dropped() {
        let dead = vec![
            request(0, "msg_1", 200),
            record(1, "msg_1", "dead_lettered"),
            call(2, "msg_1", DEAD, Call::Sent),
        ];
        assert_eq!(state(&dead), State::Dead);
        let then = |more: Vec<Entry>| state(&[dead.clone(), more].concat());
        assert_eq!(then(vec![call(3, "msg_1", DEAD, Call::Received)]), State::Dead);
        assert_eq!(then(vec![call(4, "msg_1", DEAD, Call::Deleted)]), State::Dropped);
        let redriven = |more: Vec<Entry>| {
            let mut sent = call(4, "msg_1", SOURCE, Call::Sent);
            if let Entry::Queue(call) = &mut sent {
                call.sqs_message_id = "sqs-new".to_owned();
            }
            then([vec![sent, call(5, "msg_1", DEAD, Call::Deleted)], more].concat())
        };
        assert_eq!(redriven(vec![]), State::Waiting);
        let mut done = record(6, "msg_1", "processed");
        if let Entry::Record(record) = &mut done {
            record.sqs_message_id = "sqs-new".to_owned();
        }
        assert_eq!(redriven(vec![done]), State::Done);
    }

    #[test]
    fn a_message_that_sqs_moved_is_dead_once_somebody_receives_it_there() {
        let received = |then: Call| {
            state(&[
                request(0, "msg_1", 200),
                call(0, "msg_1", SOURCE, Call::Sent),
                call(1, "msg_1", SOURCE, Call::Received),
                call(2, "msg_1", DEAD, then),
            ])
        };
        for then in [Call::Sent, Call::Received, Call::Hidden { for_s: 0 }] {
            assert_eq!(received(then), State::Dead, "{then:?}");
        }
        assert_eq!(received(Call::Deleted), State::Dropped);
    }

    /// A call with an SQS message id of its own.
    fn call_of(at: i64, sqs_message_id: &str, queue: QueueName, what: Call) -> Entry {
        let mut entry = call(at, "msg_1", queue, what);
        if let Entry::Queue(call) = &mut entry {
            call.sqs_message_id = sqs_message_id.to_owned();
        }
        entry
    }

    fn record_of(at: i64, sqs_message_id: &str, outcome: &str) -> Entry {
        let mut entry = record(at, "msg_1", outcome);
        if let Entry::Record(record) = &mut entry {
            record.sqs_message_id = sqs_message_id.to_owned();
        }
        entry
    }

    #[test]
    fn a_redriven_message_that_is_done_before_its_letter_is_deleted_is_done() {
        let entries = [
            request(0, "msg_1", 200),
            call_of(1, "letter", DEAD, Call::Received),
            call_of(2, "new", SOURCE, Call::Sent),
            record_of(3, "new", "processed"),
            call_of(4, "new", SOURCE, Call::Deleted),
            call_of(5, "letter", DEAD, Call::Deleted),
        ];
        assert_eq!(state(&entries), State::Done);
    }

    #[test]
    fn a_message_that_a_restart_puts_on_the_queue_again_waits_and_is_done() {
        for before in [Call::Sent, Call::Received, Call::Hidden { for_s: 60 }] {
            let entries = [
                request(0, "msg_1", 200),
                call_of(1, "old", SOURCE, Call::Sent),
                call_of(2, "old", SOURCE, before),
                call_of(10, "old", SOURCE, Call::Deleted),
                call_of(10, "new", SOURCE, Call::Sent),
                record_of(11, "new", "processed"),
                call_of(12, "new", SOURCE, Call::Deleted),
            ];
            assert_eq!(state(&entries[..5]), State::Waiting, "{before:?}");
            assert_eq!(state(&entries), State::Done, "{before:?}");
        }
    }

    #[test]
    fn a_dead_letter_that_a_restart_puts_on_its_queue_again_is_dead_until_it_is_dropped_or_redriven() {
        let restarted = [
            request(0, "msg_1", 200),
            record(1, "msg_1", "dead_lettered"),
            call_of(1, "old", DEAD, Call::Sent),
            call_of(10, "old", DEAD, Call::Deleted),
            call_of(10, "new", DEAD, Call::Sent),
        ];
        let then = |more: &[Entry]| state(&[&restarted[..], more].concat());
        assert_eq!(then(&[]), State::Dead);
        assert_eq!(then(&[call_of(11, "new", DEAD, Call::Deleted)]), State::Dropped);
        let redriven = [call_of(11, "again", SOURCE, Call::Sent), call_of(12, "new", DEAD, Call::Deleted)];
        assert_eq!(then(&redriven), State::Waiting);
        let done = [&redriven[..], &[record_of(13, "again", "processed")]].concat();
        assert_eq!(then(&done), State::Done);
    }

    #[test]
    fn a_dead_letter_without_calls_to_the_queue_is_dead() {
        assert_eq!(state(&[request(0, "msg_1", 200), record(1, "msg_1", "dead_lettered")]), State::Dead);
    }

    #[test]
    fn an_attempt_that_was_refused_does_not_undo_one_that_was_accepted() {
        let entries = [request(0, "msg_1", 200), record(1, "msg_1", "processed"), request(2, "msg_1", 401)];
        assert_eq!(state(&entries), State::Done);
        assert_eq!(state(&[request(0, "msg_1", 401)]), State::Refused);
        assert_eq!(state(&[request(0, "msg_1", 401), request(1, "msg_1", 200)]), State::Waiting);
        assert_eq!(state(&[request(0, "msg_1", 503)]), State::NotStored);
    }

    #[test]
    fn an_injected_fault_is_not_a_refusal() {
        let mut faulty = request(0, "msg_1", 429);
        if let Entry::Request(request) = &mut faulty {
            request.facts.injected = Some("429".to_owned());
        }
        assert_eq!(state(&[faulty]), State::NotStored);
    }

    #[test]
    fn each_outcome_of_the_consumer_has_a_state() {
        let state_after = |outcome: Outcome| {
            let mut record = record(1, "msg_1", outcome.name());
            if let Entry::Record(record) = &mut record {
                record.comes_back_in = Some(Duration::from_secs(5));
            }
            state(&[request(0, "msg_1", 200), record])
        };
        for (outcome, expected) in [
            (Outcome::Processed, State::Done),
            (Outcome::Duplicate, State::Done),
            (Outcome::Ignored, State::Done),
            (Outcome::DeadLettered, State::Dead),
            (Outcome::Retry, State::ComingBack),
            (Outcome::SentAgain, State::Waiting),
        ] {
            assert_eq!(state_after(outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn each_state_has_a_name_of_its_own() {
        for state in State::ALL {
            assert_eq!(State::named(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(State::named("nothing"), None);
    }
}
