//! The world of one schedule: its stores, the events so far, and the promises that must always hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use learnink_consumer::dead_letter::DeadLetterReason;
use learnink_consumer::ledger::{Entry, EntryId};
use learnink_consumer::replay::ReplayWindow;
use learnink_webhook::message::Part;
use tokio::time::Instant;

use crate::messages::Sent;

/// When every schedule starts, in milliseconds since the epoch.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// How long an invocation may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a delivered message stays hidden: six times that.
pub(crate) const VISIBILITY_TIMEOUT: Duration = Duration::from_mins(3);

/// After this many deliveries, the queue moves a message to the dead-letter queue.
pub(crate) const MAX_RECEIVE_COUNT: u32 = 7;

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    state: Mutex<State>,
    started: Instant,
}

/// The contents of the stores, and the events so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) random: fastrand::Rng,
    /// How likely a step fails; zero once the faults have stopped.
    pub(crate) fault: f64,
    pub(crate) queue: Vec<Queued>,
    pub(crate) dead_letters: Vec<DeadLettered>,
    pub(crate) ledger: HashMap<EntryId, Entry>,
    pub(crate) windows: Vec<ReplayWindow>,
    /// Whether operators send messages again themselves. They do in one schedule of five, so that the others are as
    /// they were before that was possible.
    pub(crate) has_runs: bool,
    /// When each invocation ends, by its environment's clock, in milliseconds since the epoch.
    pub(crate) deadlines_ms: HashMap<String, i64>,
    /// The handler whose downstream is down.
    pub(crate) outage: Option<&'static str>,
    /// Which environments work on which message or part, once for each handler or item.
    pub(crate) at_work: Vec<(EntryId, usize)>,
    /// Which environments hold the first delivery of a send of which message or part.
    pub(crate) first_deliveries: HashSet<(usize, EntryId)>,
    /// The reasons that the consumer put beside each message, by the queue's id of it.
    pub(crate) reasons: HashMap<String, Vec<String>>,
    /// When each key was refused last.
    pub(crate) refused_at: HashMap<String, Instant>,
    /// When the dead letters were moved back last.
    pub(crate) redriven_at: Option<Instant>,
    /// The queue's ids of messages that the queue itself may move after the last delivery: the consumer was killed
    /// or could not copy the message, or it was delivered twice at the same time.
    pub(crate) excused: HashSet<String>,
    /// How often each effect was requested: the first request is carried out, and the rest are recognised.
    pub(crate) effects: BTreeMap<String, u32>,
    /// Every message that was ever sent, by the queue's id of it.
    pub(crate) sent: HashMap<String, Sent>,
    /// Broken promises. Collected, because the engine would catch a panic.
    pub(crate) broken: Vec<String>,
    pub(crate) seen: Seen,
}

/// A message on the queue.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) sqs_id: String,
    pub(crate) sent: Sent,
    pub(crate) visible_at: Instant,
    pub(crate) receive_count: u32,
}

/// A message on the dead-letter queue.
#[derive(Debug, Clone)]
pub(crate) struct DeadLettered {
    pub(crate) sent: Sent,
    /// The consumer's reason; none if the queue moved it itself.
    pub(crate) reason: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let fault = [0.0, 0.02, 0.1, 0.3][random.usize(..4)];
        let state = State { random, fault, has_runs: seed % 5 == 3, ..State::default() };
        Self { state: Mutex::new(state), started: Instant::now() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no promise was broken while the world was changing")
    }

    /// The time by the world's clock.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(START_MS).unwrap() + self.started.elapsed()
    }

    /// A message as the receiver accepts it now.
    pub(crate) fn receive(&self, sent: Sent) -> Sent {
        let sent = Sent { received_at_ms: self.now().as_millisecond(), ..sent };
        self.state().send(sent.clone());
        sent
    }

    /// Whether a fault happens that has this share of all faults.
    pub(crate) fn fault(&self, share: f64) -> bool {
        let mut state = self.state();
        let probability = state.fault * share;
        state.random.f64() < probability
    }

    pub(crate) fn up_to(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.state().random.f64())
    }
}

impl State {
    /// Puts a message on the queue, as one more send.
    pub(crate) fn send(&mut self, sent: Sent) {
        self.send_later(sent, Duration::ZERO);
    }

    /// Puts a message on the queue that is hidden for a while.
    pub(crate) fn send_later(&mut self, sent: Sent, delay: Duration) {
        let visible_at = Instant::now() + delay;
        let sqs_id = format!("sqs-{}", self.sent.len());
        self.sent.insert(sqs_id.clone(), sent.clone());
        self.queue.push(Queued { sqs_id, sent, visible_at, receive_count: 0 });
    }

    /// Records a promise that does not hold.
    pub(crate) fn promise(&mut self, holds: bool, broken: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(broken());
        }
    }

    /// Whether a part belongs to a replay window that was closed: the rest of its work is never done.
    pub(crate) fn is_called_off(&self, sent: &Sent) -> bool {
        let window = sent.part.as_ref().and_then(Part::window);
        window.is_some_and(|id| self.windows.iter().any(|window| window.id == id && window.closed.is_some()))
    }

    /// Whether an operator has sent this message again under this window.
    pub(crate) fn was_sent_under(&self, sent: &Sent, window: &str) -> bool {
        self.sent.values().any(|other| other.id == sent.id && other.window.as_deref() == Some(window))
    }

    /// The keys that the ledger holds as done for a message, or a part.
    pub(crate) fn done(&self, id: &EntryId) -> BTreeSet<String> {
        self.ledger.get(id).map(|entry| entry.done.clone()).unwrap_or_default()
    }

    /// Why a message is on the dead-letter queue, as the person on call finds out.
    pub(crate) fn why(&self, letter: &DeadLettered) -> DeadLetterReason {
        let entry = self.ledger.get(&letter.sent.entry_id());
        DeadLetterReason::find(letter.reason.as_deref(), Ok(&letter.sent.message()), entry)
    }
}

macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// How often each event happened, over schedules.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Seen {
            $($(#[$doc])* pub(crate) $name: u64,)+
        }

        impl AddAssign for Seen {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        impl Seen {
            pub(crate) fn assert_everything_happened(&self) {
                $(assert!(self.$name > 0, "no schedule has seen: {}", stringify!($name));)+
            }
        }
    };
}

seen! {
    deliveries,
    duplicates,
    deleted,
    crashes,
    ledger_errors,
    lost_answers,
    slow_calls,
    throttled_batches,
    lists_that_made_progress,
    lists_in_parts,
    parts,
    sent_again,
    parts_called_off,
    reasons_of_refusals,
    refusals_tried_again,
    late_calls,
    leases_lost,
    claims_in_progress,
    panics,
    hanging_handlers,
    permanent_failures,
    retries,
    outages,
    calls_after_a_cut_between_effect_and_record,
    items_noted,
    dead_lettered_by_the_consumer,
    dead_lettered_by_the_queue,
    redrives,
    replayed,
    replays_that_were_asked_for,
    runs,
    sent_by_runs,
    handlers_that_a_run_did_not_ask_for,
    windows_closed,
    payload_mismatches,
    unknown_events,
    bodies_that_are_no_event,
    skipped_by_breaker,
}
