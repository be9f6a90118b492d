//! The state of the world: the ledger, the queue, the invocations at work, and the requests under way.

use std::collections::BTreeSet;

use learnink_consumer::ledger::{Entry, Lease};

/// A time, in steps of the clock. Only differences count: see [`State::forget_long_times`].
pub(crate) type Tick = i8;

/// Steps of a clock are seconds, counted from here.
const START_S: i64 = 1_700_000_000;

pub(crate) const PAYLOAD: &str = "aa";

/// Every key that the ledger can hold for the message. The window is `w`.
const KEYS: [&str; 25] = [
    "mark",
    "push",
    "push/0",
    "push/1",
    "push/0!",
    "push/1!",
    "push+0",
    "push+1",
    "push+2",
    "push/0-0",
    "push/1-1",
    "mark@w",
    "push@w",
    "push@w/0",
    "push@w/1",
    "push@w/0!",
    "push@w/1!",
    "push@w+0",
    "push@w+1",
    "push@w+2",
    "push@w/0-0",
    "push@w/1-1",
    "@w",
    "push+3",
    "push@w+3",
];

/// A set of keys of the ledger.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Keys(u32);

impl Keys {
    pub(crate) fn of<T: AsRef<str>>(keys: impl IntoIterator<Item = T>) -> Self {
        keys.into_iter().fold(Self::default(), |set, key| set.with(key.as_ref()))
    }

    fn bit(key: &str) -> u32 {
        let index = KEYS.iter().position(|known| *known == key);
        1 << index.unwrap_or_else(|| panic!("{key} is a key that the model does not know"))
    }

    pub(crate) fn with(self, key: &str) -> Self {
        Self(self.0 | Self::bit(key))
    }

    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(crate) fn has(self, key: &str) -> bool {
        self.0 & Self::bit(key) != 0
    }

    pub(crate) const fn has_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'static str> {
        KEYS.into_iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0).map(|(_, key)| key)
    }

    pub(crate) fn to_set(self) -> BTreeSet<String> {
        self.iter().map(str::to_owned).collect()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A time as the ledger has it.
pub(crate) fn ms(tick: Tick) -> i64 {
    (START_S + i64::from(tick)) * 1000
}

/// A time as the ledger has it.
pub(crate) fn tick(ms: i64) -> Tick {
    Tick::try_from(ms / 1000 - START_S).expect("no time is far from another")
}

/// The name of an invocation. A name is used again once nothing has it any more.
pub(crate) type Name = u8;

/// An entry of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Item {
    pub(crate) done: Keys,
    pub(crate) hold: Hold,
    pub(crate) first_seen: Tick,
    /// When it is forgotten, once that is near.
    pub(crate) expires: Option<Tick>,
    pub(crate) has_reason: bool,
}

/// Who has an entry, as the item of DynamoDB says it: an owner or none, and one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hold {
    Leased { owner: Name, until: Tick },
    Settled { at: Tick },
}

impl Item {
    /// The entry as the deployed rules see it.
    pub(crate) fn entry(&self) -> Entry {
        let (lease, settled_at_ms) = match self.hold {
            Hold::Leased { owner, until } => {
                (Some(Lease { owner: owner.to_string(), until_ms: ms(until) }), 0)
            }
            Hold::Settled { at } => (None, ms(at)),
        };
        Entry {
            payload_sha256: PAYLOAD.to_owned(),
            done: self.done.to_set(),
            lease,
            settled_at_ms,
            first_seen_ms: ms(self.first_seen),
            expires_at_s: self.expires.map_or(i64::MAX, |tick| START_S + i64::from(tick)),
            failure_reason: self.has_reason.then(|| "busy".to_owned()),
        }
    }

    pub(crate) fn is_of(&self, name: Name) -> bool {
        matches!(self.hold, Hold::Leased { owner, .. } if owner == name)
    }
}

/// Which message: the one that was sent, the same as an operator sends it again, or a part of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Whole,
    Run,
    Part { index: u8, is_replay: bool },
}

impl Kind {
    /// Which entry of the ledger is its own.
    pub(crate) const fn entry(self) -> usize {
        match self {
            Self::Whole | Self::Run => 0,
            Self::Part { index, is_replay } => 1 + index as usize + if is_replay { 2 } else { 0 },
        }
    }
}

/// The number of a message that is not on a queue any more.
const NO_RECORD: u8 = u8::MAX;

/// A message on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub(crate) id: u8,
    pub(crate) kind: Kind,
    pub(crate) received: Received,
    pub(crate) place: Place,
}

/// When the receiver accepted a message, as far as a replay window asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Received {
    BeforeTheWindow,
    WhileItWasOpen,
    AfterItExpired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// The source queue. It may be delivered at any time, also while a consumer is at work on an earlier delivery of it.
    Queue { receive_count: u8 },
    /// The dead-letter queue, with a reason of the consumer or, moved by SQS itself, without.
    Dead { is_said: bool },
}

/// An invocation of the consumer, as far as it is about one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    pub(crate) kind: Kind,
    pub(crate) record: u8,
    pub(crate) received: Received,
    pub(crate) receive_count: u8,
    /// How far its clock is ahead of the world's.
    pub(crate) ahead: Tick,
    /// When it began, by its own clock.
    pub(crate) started: Tick,
    pub(crate) phase: Phase,
    pub(crate) name: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// It asks the ledger for this work.
    Claims { keys: Keys, is_second: bool },
    /// It has an answer, and reads the replay windows.
    Reads { done: Keys, first_seen: Tick, is_ours: bool },
    /// Its handlers run.
    Works(Work),
    /// It records what is done.
    Settles { done: Keys, next: Next, is_second: bool, has_reason: bool },
    /// It takes the last step.
    Ends(Next),
}

/// How handlers get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Work {
    pub(crate) done: Keys,
    pub(crate) tasks: [Option<TaskRun>; 2],
    /// The finished items, and those of them that are in the ledger.
    pub(crate) log: Keys,
    pub(crate) noted: Keys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskRun {
    /// Its place in the list of handlers.
    pub(crate) handler: u8,
    pub(crate) key: Keys,
    pub(crate) completes: Keys,
    pub(crate) ended: TaskEnded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TaskEnded {
    NotYet,
    Done,
    InParts,
    Again,
    Never,
    Unfinished,
    TimedOut,
}

/// The last step of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Next {
    Delete,
    Again,
    /// Another consumer has the message.
    Held,
    SendAgain,
    DeadLetter,
}

/// A request that its caller has given up, and that may still be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Late {
    pub(crate) entry: u8,
    pub(crate) owner: Name,
    pub(crate) call: Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    Claim { keys: Keys, now: Tick },
    Note { keys: Keys },
    Settle { done: Keys, has_reason: bool, now: Tick },
}

/// The operator's replay window, with what was done when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Window {
    NotYet,
    Open { opened: Tick, expires: Tick, done: Keys },
    Closed { opened: Tick, expires: Tick },
}

/// Which times a rule of the scope can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// The clocks, leases and requests alone.
    Leases,
    /// Also when the message was seen first.
    Entries,
    /// Also when the window was opened, and when it ends.
    Windows,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) now: Tick,
    /// Of the message, of the two parts of its list, and of those of its replay.
    pub(crate) entries: [Option<Item>; 5],
    pub(crate) records: Vec<Record>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) late: Vec<Late>,
    pub(crate) window: Window,
    pub(crate) sends_left: u8,
    pub(crate) redrives_left: u8,
    pub(crate) expiries_left: u8,
    pub(crate) broken: Option<&'static str>,
}

impl State {
    pub(crate) fn first(sends: u8, redrives: u8, expiries: u8) -> Self {
        let place = Place::Queue { receive_count: 0 };
        Self {
            now: 0,
            entries: [None; 5],
            records: vec![Record { id: 0, kind: Kind::Whole, received: Received::BeforeTheWindow, place }],
            owners: Vec::new(),
            late: Vec::new(),
            window: Window::NotYet,
            sends_left: sends - 1,
            redrives_left: redrives,
            expiries_left: expiries,
            broken: None,
        }
    }

    /// Notes a broken promise, if none was broken before.
    pub(crate) fn promise(&mut self, holds: bool, broken: &'static str) {
        if !holds {
            self.broken.get_or_insert(broken);
        }
    }

    /// Puts a message on the source queue.
    pub(crate) fn send(&mut self, kind: Kind, received: Received) {
        let place = Place::Queue { receive_count: 0 };
        // A part that is sent twice before its first delivery is as good as one that is sent once.
        let is_it = |record: &Record| record.kind == kind && record.place == place;
        if !matches!(kind, Kind::Part { .. }) || !self.records.iter().any(is_it) {
            self.add(kind, received, place);
        }
    }

    /// Puts a message on a queue.
    pub(crate) fn add(&mut self, kind: Kind, received: Received, place: Place) {
        let used = |id: u8| {
            self.records.iter().any(|record| record.id == id)
                || self.owners.iter().any(|owner| owner.record == id)
        };
        let id = (0..=u8::MAX).find(|id| !used(*id)).expect("few records");
        self.records.push(Record { id, kind, received, place });
    }

    /// A name that nothing has.
    pub(crate) fn new_name(&self) -> Name {
        let used = |name: Name| {
            self.owners.iter().any(|owner| owner.name == name)
                || self.late.iter().any(|late| late.owner == name)
                || self.entries.iter().flatten().any(|item| item.is_of(name))
        };
        (0..=Name::MAX).find(|name| !used(*name)).expect("few owners")
    }

    /// Gives equal states one form: an order, names by that order, no request that can have no effect any more, and no
    /// time further from the next than matters.
    pub(crate) fn simplify(&mut self, longest_gap: Tick, matters: Times) {
        self.forget_dead_requests();
        self.renumber();
        self.owners.sort_unstable();
        self.late.sort_unstable();
        self.late.dedup();
        self.rename();
        self.forget_long_times(longest_gap, matters);
    }

    /// A note or a settlement does nothing unless its owner has the lease, and no owner gets one without a claim.
    fn forget_dead_requests(&mut self) {
        let late = self.late.clone();
        let may_own = |late_call: &Late| {
            let entry = usize::from(late_call.entry);
            self.entries[entry].is_some_and(|item| item.is_of(late_call.owner))
                || late
                    .iter()
                    .any(|other| other.owner == late_call.owner && matches!(other.call, Call::Claim { .. }))
                || self.owners.iter().any(|owner| owner.name == late_call.owner)
        };
        self.late.retain(may_own);
    }

    /// Numbers the messages by their content, and forgets which one an owner had if it is gone.
    fn renumber(&mut self) {
        self.records.sort_unstable_by_key(|record| (record.kind, record.place, record.received, record.id));
        for owner in &mut self.owners {
            let index = self.records.iter().position(|record| record.id == owner.record);
            owner.record = index.map_or(NO_RECORD, |index| u8::try_from(index).expect("few records"));
        }
        for (record, id) in self.records.iter_mut().zip(0..) {
            record.id = id;
        }
    }

    fn rename(&mut self) {
        let mut names: Vec<Name> = Vec::new();
        let mut name = |old: Name| {
            let known = names.iter().position(|known| *known == old);
            let index = known.unwrap_or_else(|| {
                names.push(old);
                names.len() - 1
            });
            Name::try_from(index).expect("few names")
        };
        for owner in &mut self.owners {
            owner.name = name(owner.name);
        }
        for item in self.entries.iter_mut().flatten() {
            if let Hold::Leased { owner, .. } = &mut item.hold {
                *owner = name(*owner);
            }
        }
        for late in &mut self.late {
            late.owner = name(late.owner);
        }
        self.late.sort_unstable();
    }

    /// Rules add at most the length of a lease and the difference of two clocks to a time, before they compare it with
    /// another. So a longer time between two that follow each other is as good as `longest_gap`; of two that every clock
    /// has left behind, only the order counts; and it does not matter when the first one was. With that, time goes on
    /// without end, and the states are finite.
    fn forget_long_times(&mut self, longest_gap: Tick, matters: Times) {
        let started = self.owners.iter().map(|owner| owner.started);
        let claimed = self.late.iter().filter_map(|late| match late.call {
            Call::Claim { now, .. } => Some(now),
            Call::Note { .. } | Call::Settle { .. } => None,
        });
        let first_clock = started.chain(claimed).fold(self.now, Tick::min);
        let mut times: Vec<&mut Tick> = vec![&mut self.now];
        for item in self.entries.iter_mut().flatten() {
            match &mut item.hold {
                Hold::Leased { until, .. } => times.push(until),
                Hold::Settled { at } => times.push(at),
            }
            times.extend(item.expires.as_mut());
            if matters == Times::Leases {
                item.first_seen = 0;
            } else {
                times.push(&mut item.first_seen);
            }
        }
        for owner in &mut self.owners {
            times.push(&mut owner.started);
            match &mut owner.phase {
                Phase::Reads { first_seen, .. } if matters != Times::Leases => times.push(first_seen),
                _ => {}
            }
        }
        for late in &mut self.late {
            match &mut late.call {
                Call::Claim { now, .. } | Call::Settle { now, .. } => times.push(now),
                Call::Note { .. } => {}
            }
        }
        match &mut self.window {
            Window::NotYet => {}
            Window::Open { opened, expires, .. } | Window::Closed { opened, expires } => {
                if matters == Times::Windows {
                    times.extend([opened, expires]);
                } else {
                    (*opened, *expires) = (0, 0);
                }
            }
        }
        times.sort_unstable();
        let (mut last, mut new): (Option<Tick>, Tick) = (None, 0);
        for time in times {
            let longest_gap = if *time < first_clock - 1 { 1 } else { longest_gap };
            let gap = last.map_or(0, |last| (*time - last).min(longest_gap));
            last = Some(*time);
            new += gap;
            *time = new;
        }
    }
}
