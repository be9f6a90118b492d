//! Everything that can happen next: what a consumer does, how each of its requests can go, and what the world does to it.
//!
//! A consumer does what `Consumer::process` does, in the same order and with the same functions. Between two of its steps,
//! anything else may happen.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use learnink_consumer::HandlerReport;
use learnink_consumer::dead_letter::DeadLetterReason;
use learnink_consumer::ending::{Deliveries, Ending, RetryAfter, conclude};
use learnink_consumer::ledger::{
    Claim, ClaimRequest, Entry, EntryId, History, Recorded, Settlement, judge_settlement, payload_sha256,
};
use learnink_consumer::replay::{
    Closing, Coverage, ReplayWindow, Run, SeenMessage, Task, forget_deliveries, note_failed_delivery, tasks,
    tasks_of_run,
};
use learnink_consumer::report::{Ended, EngineFailure, Failure};
use learnink_webhook::idempotency::{replay_key, run_key};
use learnink_webhook::items::ItemLog;
use learnink_webhook::message::Part;
use learnink_webhook::{FailureKind, HandlerError, Message, MessageId};

use crate::explore::World;
use crate::rules::Rules;
use crate::state::{
    Call, Hold, Item, Keys, Kind, Late, Name, Next, Owner, PAYLOAD, Phase, Place, Received, Record, State,
    TaskEnded, TaskRun, Tick, Times, Window, Work, ms, tick,
};

/// The handler with a list.
const PUSH: &str = "push";

/// The replay window's id.
const WINDOW: &str = "w";

/// How long the window is open.
const WINDOW_OPEN_FOR: Tick = 2;

/// Items of the list.
const ITEMS: usize = 2;

/// As many redrives as there are letters.
pub(crate) const UNLIMITED: u8 = u8::MAX;

/// How much of the world is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) rules: Rules,
    pub(crate) handlers: &'static [&'static str],
    /// How the list of `push` is handled.
    pub(crate) list: List,
    /// How many consumers may have a message at the same time.
    pub(crate) owners: usize,
    /// How often LearnInk sends the message.
    pub(crate) sends: u8,
    pub(crate) max_receive_count: u8,
    /// How long an invocation is, and its lease.
    pub(crate) lease: Tick,
    /// How long before that its handlers are cut off.
    pub(crate) margin: Tick,
    /// How far clocks can be ahead of the world's.
    pub(crate) clocks: &'static [Tick],
    /// How requests to the ledger can go.
    pub(crate) requests: Requests,
    /// Whether handlers and items can fail, besides being cut off.
    pub(crate) failures: bool,
    /// Whether handlers and items can be refused for good.
    pub(crate) refusals: bool,
    /// How often an entry's time can be over.
    pub(crate) expiries: u8,
    pub(crate) window: WindowScope,
    pub(crate) redrives: u8,
    /// Whether an end has to be one with all work done, after as many redrives as it takes, and not only one with an
    /// empty queue.
    pub(crate) ends_done: bool,
    /// How many messages there can be before no more copies are made by a fault.
    pub(crate) records: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// It has none: its work is one call.
    None,
    Items,
    /// One item a part. Parts have entries and messages of their own, so one of them is looked at, and the other is only
    /// queued.
    Parts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    AreAnswered,
    /// They are lost, before or after they were carried out, or their callers give them up; so many of these can be
    /// under way at the same time.
    Fail {
        late: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowScope {
    None,
    /// An operator opens a window, under which a message of LearnInk runs again, and perhaps closes it.
    Resend {
        closes: bool,
    },
    /// An operator opens a window, sends the message again under it, and wants this again.
    Run {
        again: bool,
    },
}

/// How a request to the ledger goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Not carried out.
    Lost,
    /// Carried out, and its answer is lost.
    AnswerLost,
    /// Given up by its caller, and carried out at any time after this.
    Late,
}

/// How a copy to a queue goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    Confirmed,
    NotMade,
    NotConfirmed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    /// LearnInk sends the message once more.
    Send,
    OpenWindow,
    CloseWindow,
    /// An operator sends the message again under the window.
    SendRun,
    /// The entry's time is over from the next tick on.
    Expire {
        entry: usize,
    },
    /// DynamoDB deletes an entry whose time is over.
    DeleteEntry {
        entry: usize,
    },
    Deliver {
        record: u8,
        ahead: Tick,
    },
    /// SQS moves a message after its last delivery.
    Move {
        record: u8,
    },
    Redrive {
        record: u8,
        is_deleted: bool,
    },
    /// A request that was given up is carried out.
    Land {
        late: usize,
    },
    Crash {
        owner: usize,
    },
    Claim {
        owner: usize,
        fate: Fate,
    },
    ReadWindows {
        owner: usize,
        is_answered: bool,
    },
    EndTask {
        owner: usize,
        task: usize,
        ended: TaskEnded,
    },
    EndItem {
        owner: usize,
        task: usize,
        item: usize,
        is_refused: bool,
    },
    QueuePart {
        owner: usize,
        task: usize,
        part: u8,
        copy: Copied,
    },
    Note {
        owner: usize,
        fate: Fate,
    },
    Settle {
        owner: usize,
        fate: Fate,
    },
    End {
        owner: usize,
        copy: Copied,
    },
}

const FATES: [Fate; 4] = [Fate::Answered, Fate::Lost, Fate::AnswerLost, Fate::Late];
const COPIES: [Copied; 3] = [Copied::Confirmed, Copied::NotMade, Copied::NotConfirmed];

fn timestamp(tick: Tick) -> Timestamp {
    Timestamp::from_millisecond(ms(tick)).expect("a time of the model")
}

fn message_id() -> MessageId {
    MessageId::parse("msg_1").expect("a message id")
}

fn item_log(keys: Keys) -> ItemLog {
    let log = ItemLog::default();
    for key in keys.iter() {
        log.add(key.to_owned());
    }
    log
}

fn failure() -> Failure {
    Failure { handler: None, class: "retryable", reason: "busy".to_owned() }
}

impl Next {
    fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Processed | Ending::Duplicate | Ending::Ignored => Self::Delete,
            Ending::Again { failure, .. } if failure.class == EngineFailure::InProgress.name() => Self::Held,
            Ending::Again { .. } => Self::Again,
            Ending::SendAgain { .. } => Self::SendAgain,
            Ending::DeadLetter(_) => Self::DeadLetter,
        }
    }

    fn ending(self) -> Ending {
        match self {
            Self::Delete => Ending::Processed,
            Self::Again => Ending::retry(failure()),
            Self::Held => Ending::in_progress(Duration::ZERO),
            Self::SendAgain => Ending::SendAgain { failure: failure(), wait: RetryAfter::Now },
            Self::DeadLetter => Ending::DeadLetter(failure()),
        }
    }
}

impl Owner {
    /// Whether the message stays where it is, which takes no step.
    const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ends(Next::Again | Next::Held))
    }
}

impl TaskRun {
    fn task(&self, handlers: &[&'static str]) -> Task {
        let key = self.key.iter().next().expect("a task has a key").to_owned();
        let completes = self.completes.iter().map(str::to_owned).collect();
        Task { handler: handlers[usize::from(self.handler)], key, completes, is_named: false }
    }

    fn key(&self) -> &'static str {
        self.key.iter().next().expect("a task has a key")
    }
}

/// A scope, and what the rules have answered in it so far. They are plain functions: the same question has the same answer.
#[derive(Debug)]
pub(crate) struct Model {
    scope: Scope,
    judged: Answers<Asked, (Verdict, Option<Item>)>,
    found: Answers<Question, (Keys, [Option<TaskRun>; 2])>,
    concluded: Answers<(Work, Kind, u8), Phase>,
    told: Answers<(Keys, Option<Item>), bool>,
}

/// A claim: the entry, the owner, the keys of the work, and the time of the request.
type Asked = (Option<Item>, Name, Keys, Tick);

/// What `tasks`, or its like for parts and runs, is asked.
type Question = (Keys, Kind, u8, Window, Received, [Tick; 3]);

/// Answers by their questions.
#[derive(Debug)]
struct Answers<Q, A>(Mutex<HashMap<Q, A>>);

impl<Q: Eq + Hash, A: Copy> Answers<Q, A> {
    fn get(&self, question: Q, answer: impl FnOnce(&Q) -> A) -> A {
        let known = self.0.lock().expect("no answer panics").get(&question).copied();
        known.unwrap_or_else(|| {
            let answer = answer(&question);
            self.0.lock().expect("no answer panics").insert(question, answer);
            answer
        })
    }
}

impl<Q, A> Default for Answers<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The ledger's answer to a claim.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Acquired { done: Keys, first_seen: Tick },
    Completed { done: Keys, first_seen: Tick },
    InProgress,
    PayloadMismatch,
}

impl Deref for Model {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}

impl From<Scope> for Model {
    fn from(scope: Scope) -> Self {
        Self {
            scope,
            judged: Answers::default(),
            found: Answers::default(),
            concluded: Answers::default(),
            told: Answers::default(),
        }
    }
}

impl Scope {
    const fn has_window(&self) -> bool {
        !matches!(self.window, WindowScope::None)
    }

    fn window(&self, window: Window) -> Option<ReplayWindow> {
        let (opened, expires, is_closed) = match window {
            Window::NotYet => return None,
            Window::Open { opened, expires, .. } => (opened, expires, false),
            Window::Closed { opened, expires } => (opened, expires, true),
        };
        let covers = match self.window {
            WindowScope::None | WindowScope::Resend { .. } => {
                Coverage::Messages(BTreeSet::from(["msg_1".to_owned()]))
            }
            WindowScope::Run { again } => {
                Coverage::Run(Run { filter: String::new(), from: None, until: None, again })
            }
        };
        Some(ReplayWindow {
            id: WINDOW.to_owned(),
            covers,
            handlers: BTreeSet::new(),
            reason: String::new(),
            opened_by: String::new(),
            opened_at: timestamp(opened),
            expires_at: timestamp(expires),
            closed: is_closed.then(|| Closing { by: String::new(), at: timestamp(opened) }),
        })
    }
}

impl Model {
    /// The parts of the list of a task.
    fn parts(task: &str) -> Vec<Part> {
        Part::all_of(task, ITEMS, 1, false).collect()
    }

    fn part(kind: Kind) -> Option<Part> {
        let Kind::Part { index, is_replay } = kind else { return None };
        let task = if is_replay { "push@w" } else { PUSH };
        Self::parts(task).into_iter().nth(usize::from(index))
    }

    /// The keys that a delivery asks the ledger for.
    fn keys(&self, kind: Kind) -> Keys {
        match (Self::part(kind), kind) {
            (Some(part), _) => Keys::of([part.task()]),
            (None, Kind::Run) => Keys::of([run_key(WINDOW)]),
            (None, _) => Keys::of(self.handlers),
        }
    }

    fn request(&self, owner: Name, keys: Keys, now: Tick) -> ClaimRequest {
        ClaimRequest {
            id: EntryId::from(message_id()),
            payload_sha256: PAYLOAD.to_owned(),
            keys: keys.iter().map(str::to_owned).collect(),
            owner: owner.to_string(),
            now: timestamp(now),
            lease: Duration::from_secs(self.lease.unsigned_abs().into()),
            probably_new: false,
        }
    }

    /// Carries out a claim, as `DynamoDbLedger` does.
    fn claim(&self, state: &mut State, entry: usize, owner: Name, keys: Keys, now: Tick) -> Verdict {
        let question = (state.entries[entry], owner, keys, now);
        let (verdict, item) =
            self.judged.get(question, |&(item, owner, keys, now)| self.judge(item, owner, keys, now));
        state.entries[entry] = item;
        verdict
    }

    fn judge(&self, item: Option<Item>, owner: Name, keys: Keys, now: Tick) -> (Verdict, Option<Item>) {
        let request = self.request(owner, keys, now);
        let before = item.as_ref().map(Item::entry);
        let is_known = before.as_ref().is_some_and(|entry| !entry.has_expired(request.now));
        let facts = |history: &History| (Keys::of(&history.done), tick(history.first_seen_ms));
        match self.rules.judge(before.as_ref(), &request) {
            Claim::Acquired(history) => {
                let (done, first_seen) = facts(&history);
                let hold = Hold::Leased { owner, until: tick(request.lease_until_ms()) };
                let item = match item {
                    // The same owner asks again: the condition of the update does not hold, and nothing is written.
                    Some(item) if is_known && item.hold == hold => item,
                    Some(item) if is_known => Item { hold, expires: None, has_reason: false, ..item },
                    _ => {
                        let done = Keys::of(&request.new_entry().done);
                        Item { done, hold, first_seen, expires: None, has_reason: false }
                    }
                };
                (Verdict::Acquired { done, first_seen }, Some(item))
            }
            Claim::Completed(history) => {
                let (done, first_seen) = facts(&history);
                (Verdict::Completed { done, first_seen }, item)
            }
            Claim::InProgress { .. } => (Verdict::InProgress, item),
            Claim::PayloadMismatch => (Verdict::PayloadMismatch, item),
        }
    }

    fn note(state: &mut State, entry: usize, owner: Name, keys: Keys) -> Recorded {
        match &mut state.entries[entry] {
            Some(item) if item.is_of(owner) => {
                item.done = item.done.and(keys);
                Recorded::Yes
            }
            _ => Recorded::LeaseLost,
        }
    }

    fn settle(
        state: &mut State,
        entry: usize,
        owner: Name,
        done: Keys,
        has_reason: bool,
        now: Tick,
    ) -> Recorded {
        let Some(item) = state.entries[entry] else { return Recorded::LeaseLost };
        if !item.is_of(owner) {
            let settlement = Settlement {
                id: EntryId::from(message_id()),
                owner: owner.to_string(),
                done: done.to_set(),
                failure_reason: None,
                now: timestamp(now),
            };
            return judge_settlement(&item.entry(), &settlement);
        }
        // The items of a finished list are forgotten, and with each send its refusals and the count of its deliveries.
        let is_covered = |key: &str| {
            let list = key.split('/').next().unwrap_or_default();
            key.contains(['!', '+']) || done.has(key) || (list != key && done.has(list))
        };
        let is_kept = item.done.iter().all(is_covered);
        state.promise(is_kept, "a mark is lost");
        state.entries[entry] =
            Some(Item { done, hold: Hold::Settled { at: now }, expires: None, has_reason, ..item });
        Recorded::Yes
    }

    /// One request with its fate: its answer, if it comes.
    fn call<T>(
        state: &mut State,
        fate: Fate,
        late: Late,
        carry_out: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        match fate {
            Fate::Answered => Some(carry_out(state)),
            Fate::Lost => None,
            Fate::AnswerLost => {
                carry_out(state);
                None
            }
            Fate::Late => {
                state.late.push(late);
                None
            }
        }
    }

    fn ends(&self, owner: &mut Owner, ending: Ending) {
        let is_last = owner.receive_count >= self.max_receive_count;
        let ending = if is_last { ending.at_last_delivery() } else { ending };
        owner.phase = Phase::Ends(Next::of(&ending));
    }

    /// Takes the ledger's answer to a claim.
    fn answered(&self, state: &mut State, owner: &mut Owner, verdict: Verdict) {
        let (done, first_seen, is_ours) = match verdict {
            Verdict::Acquired { done, first_seen } => (done, first_seen, true),
            Verdict::Completed { done, first_seen } => (done, first_seen, false),
            Verdict::InProgress => return self.ends(owner, Ending::in_progress(Duration::ZERO)),
            Verdict::PayloadMismatch => return state.promise(false, "a message is taken for another"),
        };
        owner.phase =
            Phase::Reads { done, first_seen: if self.has_window() { first_seen } else { 0 }, is_ours };
        if self.has_window() {
            let history = History { done: done.to_set(), first_seen_ms: ms(first_seen) };
            if self.reads_windows(owner, &history) {
                return;
            }
        }
        self.begin(state, owner, Window::NotYet);
    }

    /// Whether the replay windows matter for this delivery.
    fn reads_windows(&self, owner: &Owner, history: &History) -> bool {
        match owner.kind {
            Kind::Run => true,
            Kind::Whole => !self.rules.is_new(history, timestamp(owner.started)),
            Kind::Part { is_replay, .. } => {
                is_replay || !self.rules.is_new(history, timestamp(owner.started))
            }
        }
    }

    /// The tasks that are left, as `Consumer::acquire` finds them, and what is done without the refusals that are forgotten.
    fn tasks(&self, question: &Question) -> (Keys, [Option<TaskRun>; 2]) {
        let &(done, kind, receive_count, window, received, [first_seen, started, now]) = question;
        let mut done = done.to_set();
        let windows: Vec<_> = self.window(window).into_iter().collect();
        let history = History { done: done.clone(), first_seen_ms: ms(first_seen) };
        let found = match kind {
            Kind::Whole => {
                let id = message_id();
                let seen = SeenMessage { id: &id, event_type: "t", first_seen_ms: history.first_seen_ms };
                let asks = |window: &&ReplayWindow| {
                    let received_at = match received {
                        Received::BeforeTheWindow => timestamp(-1),
                        Received::WhileItWasOpen => window.opened_at,
                        Received::AfterItExpired => window.expires_at,
                    };
                    self.rules.asks(window, seen, received_at, timestamp(now))
                };
                tasks(self.handlers, &done, &windows.iter().filter(asks).collect::<Vec<_>>())
            }
            Kind::Run => {
                let is_forgotten = self.rules.is_new(&history, timestamp(started));
                let window = windows.first().expect("the window under which it was sent");
                tasks_of_run(self.handlers, &done, window, is_forgotten)
            }
            Kind::Part { is_replay, .. } => {
                let part = Self::part(kind).expect("it is a part");
                let is_closed = is_replay && windows.iter().any(|window| window.closed.is_some());
                if done.contains(part.task()) || is_closed {
                    Vec::new()
                } else {
                    let key = part.task().to_owned();
                    vec![Task { handler: PUSH, completes: vec![key.clone()], key, is_named: false }]
                }
            }
        };
        if receive_count <= 1 {
            for task in &found {
                task.forget_refusals(&mut done);
            }
        }
        let handler = |task: &Task| self.handlers.iter().position(|name| *name == task.handler);
        let run = |task: Task| TaskRun {
            handler: u8::try_from(handler(&task).expect("one of them")).expect("few handlers"),
            key: Keys::of([&task.key]),
            completes: Keys::of(&task.completes),
            ended: TaskEnded::NotYet,
        };
        let mut runs = found.into_iter().map(run);
        (Keys::of(&done), [runs.next(), runs.next()])
    }

    /// Finds the tasks, and begins with them if there are any.
    fn begin(&self, state: &mut State, owner: &mut Owner, window: Window) {
        let Phase::Reads { done, first_seen, is_ours } = owner.phase else { return };
        let times = [first_seen, owner.started, state.now + owner.ahead];
        let times = if window == Window::NotYet { [0; 3] } else { times };
        let question = (done, owner.kind, owner.receive_count.min(2), window, owner.received, times);
        let (done, tasks) = self.found.get(question, |question| self.tasks(question));
        let found: Vec<_> = tasks.iter().flatten().collect();
        if !is_ours {
            if found.is_empty() {
                return self.ends(owner, Ending::Duplicate);
            }
            let keys = found.into_iter().fold(Keys::default(), |keys, task| keys.and(task.key));
            owner.phase = Phase::Claims { keys, is_second: false };
            return;
        }
        let entry = owner.kind.entry();
        let is_at_work = |other: &Owner| {
            other.kind.entry() == entry
                && matches!(&other.phase, Phase::Works(work) if work.tasks.iter().any(Option::is_some))
        };
        let is_alone = found.is_empty() || !state.owners.iter().any(is_at_work);
        state.promise(is_alone, "two consumers are at work on a message");
        owner.phase = Phase::Works(Work { done, tasks, log: Keys::default(), noted: Keys::default() });
        self.conclude_if_ended(owner);
    }

    /// The windows could not be read, so that no task is known.
    fn fail_to_read(&self, owner: &mut Owner) {
        let Phase::Reads { done, is_ours, .. } = owner.phase else { return };
        let mut done = done.to_set();
        let without_progress = note_failed_delivery(&mut done);
        let (count, most) = (owner.receive_count.into(), self.max_receive_count.into());
        let deliveries = Deliveries::of(count, most, [without_progress]);
        if deliveries == Deliveries::UsedUp {
            forget_deliveries(&mut done);
        }
        let ending = Ending::retry(failure()).within(deliveries);
        if is_ours {
            let next = Next::of(&ending);
            owner.phase = Phase::Settles { done: Keys::of(&done), next, is_second: false, has_reason: true };
        } else {
            self.ends(owner, ending);
        }
    }

    /// Once every handler has ended: what is done, and how the record ends.
    fn conclude_if_ended(&self, owner: &mut Owner) {
        let Phase::Works(work) = owner.phase else { return };
        if work.tasks.iter().flatten().any(|run| run.ended == TaskEnded::NotYet) {
            return;
        }
        let work = Work { noted: Keys::default(), ..work };
        let question = (work, owner.kind, owner.receive_count);
        owner.phase = self.concluded.get(question, |(work, kind, count)| self.conclude(work, *kind, *count));
    }

    fn conclude(&self, work: &Work, kind: Kind, receive_count: u8) -> Phase {
        let runs: Vec<_> = work.tasks.iter().flatten().collect();
        let failed = |kind| Ended::Failed(HandlerError::new(kind, "busy"));
        let report = |run: &&TaskRun| HandlerReport {
            name: self.handlers[usize::from(run.handler)],
            key: run.key().to_owned(),
            ended: match run.ended {
                TaskEnded::NotYet | TaskEnded::Done => Ended::Done,
                TaskEnded::InParts => Ended::InParts,
                TaskEnded::Again => failed(FailureKind::Retryable),
                TaskEnded::Never => failed(FailureKind::Permanent),
                TaskEnded::Unfinished => failed(FailureKind::Unfinished),
                TaskEnded::TimedOut => failed(FailureKind::TimedOut),
            },
            took: Duration::ZERO,
        };
        let reports: Vec<_> = runs.iter().map(report).collect();
        let tasks: Vec<_> = runs.iter().map(|run| run.task(self.handlers)).collect();
        let log = item_log(work.log);
        let mut done = work.done.to_set();
        let (count, most) = (receive_count.into(), self.max_receive_count.into());
        let ending = conclude(&tasks, &reports, &log, count, most, &mut done);
        if kind == Kind::Run && ending.failure().is_none() {
            done.insert(run_key(WINDOW));
        }
        let is_left = kind == Kind::Run && self.handlers.iter().any(|name| !done.contains(*name));
        Phase::Settles {
            done: Keys::of(&done),
            next: Next::of(&ending),
            is_second: false,
            has_reason: ending.failure().is_some() || is_left,
        }
    }

    /// What an item or a handler does: it must not be recorded as done.
    fn promise_not_done(state: &mut State, owner: &Owner, task: &TaskRun, item: Option<usize>) {
        let entry = state.entries[owner.kind.entry()];
        let Some(entry) = entry
            .filter(|item| item.expires.is_none() || !item.entry().has_expired(timestamp(owner.started)))
        else {
            return;
        };
        let is_done = item.is_some_and(|item| entry.done.has(&format!("{}/{item}", task.key())));
        state.promise(!is_done && !entry.done.has(task.key()), "something recorded as done runs again");
        if let Window::Open { opened, .. } | Window::Closed { opened, .. } = state.window {
            let is_replay = task.key().contains('@') && owner.kind == Kind::Whole;
            let came_before = entry.first_seen < opened;
            state.promise(!is_replay || came_before, "a message that came first under a window is replayed");
        }
    }

    /// The items that are left of a task's list.
    fn items_left(owner: &Owner, work: &Work, task: &TaskRun) -> Vec<usize> {
        let range = Self::part(owner.kind).map_or(0..ITEMS, |part| part.range().clone());
        let known = work.done.and(work.log);
        let is_left = |item: &usize| {
            !known.has(&format!("{}/{item}", task.key())) && !known.has(&format!("{}/{item}!", task.key()))
        };
        range.filter(is_left).collect()
    }

    fn has_refusals(owner: &Owner, work: &Work, task: &TaskRun) -> bool {
        let range = Self::part(owner.kind).map_or(0..ITEMS, |part| part.range().clone());
        let known = work.done.and(work.log);
        range.into_iter().any(|item| {
            known.has(&format!("{}/{item}!", task.key())) && !known.has(&format!("{}/{item}", task.key()))
        })
    }

    fn is_list(&self, task: &TaskRun) -> bool {
        self.list != List::None && self.handlers[usize::from(task.handler)] == PUSH
    }

    fn is_cut(&self, owner: &Owner, task: &TaskRun) -> bool {
        self.list == List::Parts && self.is_list(task) && !matches!(owner.kind, Kind::Part { .. })
    }

    /// What is done once this message needs no more work.
    fn needed(&self, state: &State, kind: Kind, received: Received) -> Keys {
        let is_closed = matches!(state.window, Window::Closed { .. });
        match kind {
            Kind::Part { is_replay: true, .. } | Kind::Run if is_closed => Keys::default(),
            Kind::Part { .. } | Kind::Run => self.keys(kind),
            Kind::Whole => {
                let own = Keys::of(self.handlers);
                let Window::Open { opened, done, .. } = state.window else { return own };
                // A consumer whose clock is ahead may have seen it only after the window was opened.
                let is_covered = state.entries[0].is_some_and(|item| item.first_seen < opened);
                let is_resend = matches!(self.window, WindowScope::Resend { .. });
                let is_asked_for = is_resend && received == Received::WhileItWasOpen;
                if is_covered && is_asked_for {
                    let again = self.handlers.iter().filter(|name| done.has(name));
                    own.and(Keys::of(again.map(|name| replay_key(name, WINDOW))))
                } else {
                    own
                }
            }
        }
    }

    fn is_done(&self, state: &State, kind: Kind, received: Received) -> bool {
        let done = state.entries[kind.entry()].map_or_else(Keys::default, |item| item.done);
        done.has_all(self.needed(state, kind, received))
    }

    /// The end of a record, as `Consumer::carry_out` has it.
    fn carry_out(&self, state: &mut State, owner: &Owner, next: Next, copy: Copied) {
        let dead = |state: &mut State| state.add(owner.kind, owner.received, Place::Dead { is_said: true });
        let delete = |state: &mut State| {
            let is_it =
                |record: &Record| record.id == owner.record && matches!(record.place, Place::Queue { .. });
            state.records.retain(|record| !is_it(record));
        };
        match (next, copy) {
            (Next::Delete, _) => {
                // An entry whose time is over meanwhile was done when the ledger answered.
                let is_forgotten =
                    state.entries[owner.kind.entry()].is_none_or(|item| item.expires.is_some());
                let is_done = is_forgotten || self.is_done(state, owner.kind, owner.received);
                state.promise(is_done, "a message is deleted that is neither done nor dead-lettered");
                delete(state);
            }
            (Next::Again | Next::Held, _) | (Next::DeadLetter, Copied::NotMade) => {}
            (Next::DeadLetter, Copied::NotConfirmed) => dead(state),
            (Next::SendAgain, Copied::Confirmed) => {
                state.send(owner.kind, owner.received);
                delete(state);
            }
            // Sent again without success, it is dead-lettered. That this copy fails as well is the same as a crash.
            (Next::DeadLetter, Copied::Confirmed) | (Next::SendAgain, Copied::NotMade) => {
                dead(state);
                delete(state);
            }
            (Next::SendAgain, Copied::NotConfirmed) => {
                state.send(owner.kind, owner.received);
                dead(state);
                delete(state);
            }
        }
    }

    fn is_cut_off(&self, owner: &Owner, now: Tick) -> bool {
        now + owner.ahead >= owner.started + self.lease - self.margin
    }

    fn tick(&self, state: &mut State) {
        state.now += 1;
        let now = state.now;
        // Lambda ends an invocation whose time is up.
        state.owners.retain(|owner| now + owner.ahead < owner.started + self.lease);
        let mut owners = std::mem::take(&mut state.owners);
        for owner in owners.iter_mut().filter(|owner| self.is_cut_off(owner, now)) {
            match &mut owner.phase {
                Phase::Claims { .. } | Phase::Reads { .. } => {
                    let ending = Ending::cut_off(EngineFailure::TimedOut, "the time was up", None);
                    self.ends(owner, ending);
                }
                Phase::Works(work) => {
                    for task in work.tasks.iter_mut().flatten().filter(|task| task.ended == TaskEnded::NotYet)
                    {
                        let made_progress = item_log(work.log).has_progress_of(task.key());
                        task.ended = if made_progress { TaskEnded::Unfinished } else { TaskEnded::TimedOut };
                    }
                    self.conclude_if_ended(owner);
                }
                Phase::Settles { .. } | Phase::Ends(_) => {}
            }
        }
        owners.retain(|owner| !owner.has_ended());
        state.owners = owners;
    }

    /// Every step of one owner.
    fn actions_of(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let owner = &state.owners[index];
        let fates = || {
            let most = match self.requests {
                Requests::AreAnswered => 1,
                Requests::Fail { late } if state.late.len() < late => FATES.len(),
                Requests::Fail { .. } => FATES.len() - 1,
            };
            FATES.into_iter().take(most)
        };
        actions.push(Action::Crash { owner: index });
        match &owner.phase {
            // A second request is made after a pause.
            Phase::Claims { is_second: true, .. } if state.now + owner.ahead <= owner.started => {}
            Phase::Claims { .. } => actions.extend(fates().map(|fate| Action::Claim { owner: index, fate })),
            Phase::Reads { .. } => {
                actions.push(Action::ReadWindows { owner: index, is_answered: true });
                if self.requests != Requests::AreAnswered {
                    actions.push(Action::ReadWindows { owner: index, is_answered: false });
                }
            }
            Phase::Works(work) => {
                for (task, run) in
                    work.tasks.iter().enumerate().filter_map(|(task, run)| Some((task, (*run)?)))
                {
                    if run.ended == TaskEnded::NotYet {
                        self.actions_of_task(state, index, work, task, &run, actions);
                    }
                }
                if self.list == List::Items && !work.noted.has_all(work.log) {
                    actions.extend(fates().map(|fate| Action::Note { owner: index, fate }));
                }
            }
            Phase::Settles { .. } => {
                actions.extend(fates().map(|fate| Action::Settle { owner: index, fate }));
            }
            Phase::Ends(Next::Again | Next::Held) => {}
            Phase::Ends(Next::Delete) => {
                actions.push(Action::End { owner: index, copy: Copied::Confirmed });
            }
            Phase::Ends(Next::SendAgain | Next::DeadLetter) => {
                let copies = COPIES.into_iter().filter(|copy| self.has_room(state, *copy));
                actions.extend(copies.map(|copy| Action::End { owner: index, copy }));
            }
        }
    }

    /// Whether one more copy of a message that was not meant to be can be made.
    fn has_room(&self, state: &State, copy: Copied) -> bool {
        copy != Copied::NotConfirmed || state.records.len() < usize::from(self.records)
    }

    fn actions_of_task(
        &self,
        state: &State,
        owner: usize,
        work: &Work,
        task: usize,
        run: &TaskRun,
        actions: &mut Vec<Action>,
    ) {
        let end = |ended| Action::EndTask { owner, task, ended };
        let of = &state.owners[owner];
        if self.is_cut(of, run) {
            let known = work.done.and(work.log);
            let missing = Self::parts(run.key()).into_iter().position(|part| !known.has(&part.key()));
            let Some(part) = missing else { return actions.push(end(TaskEnded::InParts)) };
            let part = u8::try_from(part).expect("two parts");
            actions.extend(COPIES.map(|copy| Action::QueuePart { owner, task, part, copy }));
        } else if self.is_list(run) {
            let left = Self::items_left(of, work, run);
            for item in left.iter().copied() {
                actions.push(Action::EndItem { owner, task, item, is_refused: false });
                if self.refusals {
                    actions.push(Action::EndItem { owner, task, item, is_refused: true });
                }
            }
            if !left.is_empty() {
                if self.failures {
                    actions.push(end(TaskEnded::Again));
                }
            } else if Self::has_refusals(of, work, run) {
                actions.push(end(TaskEnded::Never));
            } else {
                actions.push(end(TaskEnded::Done));
            }
        } else {
            actions.push(end(TaskEnded::Done));
            if self.failures {
                actions.push(end(TaskEnded::Again));
            }
            if self.refusals {
                actions.push(end(TaskEnded::Never));
            }
        }
    }

    pub(crate) fn actions_from(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if state.broken.is_some() {
            return actions;
        }
        actions.push(Action::Tick);
        // A second send before the window is opened is one of the scopes without a window.
        let is_in_turn = !self.has_window() || state.window != Window::NotYet;
        if state.sends_left > 0 && is_in_turn {
            actions.push(Action::Send);
        }
        match (self.window, state.window) {
            (WindowScope::None, _)
            | (_, Window::Closed { .. })
            | (WindowScope::Resend { closes: false }, Window::Open { .. }) => {}
            (_, Window::NotYet) => actions.push(Action::OpenWindow),
            (_, Window::Open { .. }) => actions.push(Action::CloseWindow),
        }
        let is_run = matches!(self.window, WindowScope::Run { .. });
        let is_sent = || state.records.iter().any(|record| record.kind == Kind::Run);
        if is_run && matches!(state.window, Window::Open { .. }) && !is_sent() && state.sends_left > 0 {
            actions.push(Action::SendRun);
        }
        for (entry, item) in state.entries.iter().enumerate() {
            let Some(item) = item else { continue };
            let is_ended = match item.hold {
                Hold::Leased { until, .. } => until < state.now,
                Hold::Settled { .. } => true,
            };
            let is_free = is_ended && state.owners.iter().all(|owner| owner.kind.entry() != entry);
            match item.expires {
                None if state.expiries_left > 0 && is_free => actions.push(Action::Expire { entry }),
                Some(expires) if expires < state.now => actions.push(Action::DeleteEntry { entry }),
                _ => {}
            }
        }
        for record in &state.records {
            match record.place {
                Place::Queue { receive_count } if receive_count >= self.max_receive_count => {
                    // It is hidden for longer than an invocation.
                    if state.owners.iter().all(|owner| owner.record != record.id) {
                        actions.push(Action::Move { record: record.id });
                    }
                }
                Place::Queue { .. } if state.owners.len() < self.owners => {
                    actions.extend(
                        self.clocks.iter().map(|ahead| Action::Deliver { record: record.id, ahead: *ahead }),
                    );
                }
                Place::Dead { .. } if state.redrives_left > 0 => {
                    let record = record.id;
                    actions.push(Action::Redrive { record, is_deleted: true });
                    if self.has_room(state, Copied::NotConfirmed) {
                        actions.push(Action::Redrive { record, is_deleted: false });
                    }
                }
                Place::Queue { .. } | Place::Dead { .. } => {}
            }
        }
        actions.extend((0..state.late.len()).map(|late| Action::Land { late }));
        for owner in 0..state.owners.len() {
            self.actions_of(state, owner, &mut actions);
        }
        actions
    }

    pub(crate) fn after(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        self.carry(&mut next, action);
        self.promise_reasons(&mut next);
        let matters = match self.window {
            WindowScope::None => Times::Leases,
            WindowScope::Run { .. } => Times::Entries,
            WindowScope::Resend { .. } => Times::Windows,
        };
        next.simplify(self.lease + 3, matters);
        next
    }

    fn carry(&self, state: &mut State, action: &Action) {
        match *action {
            Action::Tick => self.tick(state),
            Action::Send => {
                state.sends_left -= 1;
                let received = match state.window {
                    Window::NotYet => Received::BeforeTheWindow,
                    Window::Open { expires, .. } | Window::Closed { expires, .. } if state.now >= expires => {
                        Received::AfterItExpired
                    }
                    Window::Open { .. } | Window::Closed { .. } => Received::WhileItWasOpen,
                };
                state.send(Kind::Whole, received);
            }
            Action::SendRun => {
                state.sends_left -= 1;
                state.send(Kind::Run, Received::WhileItWasOpen);
            }
            Action::OpenWindow => {
                let done = state.entries[0].map_or_else(Keys::default, |item| item.done);
                state.window = Window::Open { opened: state.now, expires: state.now + WINDOW_OPEN_FOR, done };
            }
            Action::CloseWindow => {
                if let Window::Open { opened, expires, .. } = state.window {
                    state.window = Window::Closed { opened, expires };
                }
            }
            Action::Expire { entry } => {
                state.expiries_left -= 1;
                if let Some(item) = &mut state.entries[entry] {
                    item.expires = Some(state.now + 1);
                }
            }
            Action::DeleteEntry { entry } => state.entries[entry] = None,
            Action::Deliver { record, ahead } => self.deliver(state, record, ahead),
            Action::Move { record } => {
                let record = state.records.iter_mut().find(|other| other.id == record).expect("it is there");
                record.place = Place::Dead { is_said: false };
            }
            Action::Redrive { record, is_deleted } => {
                if self.redrives != UNLIMITED {
                    state.redrives_left -= 1;
                }
                let letter = *state.records.iter().find(|other| other.id == record).expect("it is there");
                state.send(letter.kind, letter.received);
                if is_deleted {
                    state.records.retain(|other| other.id != record);
                }
            }
            Action::Land { late } => {
                let Late { entry, owner, call } = state.late.remove(late);
                let entry = usize::from(entry);
                match call {
                    Call::Claim { keys, now } => drop(self.claim(state, entry, owner, keys, now)),
                    Call::Note { keys } => {
                        let _ = Self::note(state, entry, owner, keys);
                    }
                    Call::Settle { done, has_reason, now } => {
                        let _ = Self::settle(state, entry, owner, done, has_reason, now);
                    }
                }
            }
            Action::Crash { owner } => drop(state.owners.remove(owner)),
            Action::Claim { owner, .. }
            | Action::ReadWindows { owner, .. }
            | Action::EndTask { owner, .. }
            | Action::EndItem { owner, .. }
            | Action::QueuePart { owner, .. }
            | Action::Note { owner, .. }
            | Action::Settle { owner, .. }
            | Action::End { owner, .. } => {
                let mut acting = state.owners.remove(owner);
                if self.act(state, &mut acting, action) {
                    state.owners.push(acting);
                }
            }
        }
    }

    fn deliver(&self, state: &mut State, id: u8, ahead: Tick) {
        let name = state.new_name();
        let record = state.records.iter_mut().find(|record| record.id == id).expect("it is there");
        let Place::Queue { receive_count } = &mut record.place else { return };
        *receive_count += 1;
        state.owners.push(Owner {
            kind: record.kind,
            record: record.id,
            received: record.received,
            receive_count: *receive_count,
            ahead,
            started: state.now + ahead,
            phase: Phase::Claims { keys: self.keys(record.kind), is_second: false },
            name,
        });
    }

    /// One step of an owner. Returns whether its invocation goes on.
    fn act(&self, state: &mut State, owner: &mut Owner, action: &Action) -> bool {
        let entry = owner.kind.entry();
        let clock = state.now + owner.ahead;
        let late = |call| Late { entry: u8::try_from(entry).expect("few entries"), owner: owner.name, call };
        match (*action, owner.phase) {
            (Action::Claim { fate, .. }, Phase::Claims { keys, is_second }) => {
                let (name, now) = (owner.name, owner.started);
                let call = late(Call::Claim { keys, now });
                match Self::call(state, fate, call, |state| self.claim(state, entry, name, keys, now)) {
                    Some(claim) => self.answered(state, owner, claim),
                    None if is_second => self.ends(owner, Ending::ledger_failed(None, Duration::ZERO)),
                    None => owner.phase = Phase::Claims { keys, is_second: true },
                }
            }
            (Action::ReadWindows { is_answered, .. }, Phase::Reads { .. }) => {
                if is_answered {
                    self.begin(state, owner, state.window);
                } else {
                    self.fail_to_read(owner);
                }
            }
            (Action::EndTask { task, ended, .. }, Phase::Works(mut work)) => {
                if let Some(run) = &mut work.tasks[task] {
                    if !self.is_list(run) {
                        Self::promise_not_done(state, owner, run, None);
                    }
                    run.ended = ended;
                }
                owner.phase = Phase::Works(work);
                self.conclude_if_ended(owner);
            }
            (Action::EndItem { task, item, is_refused, .. }, Phase::Works(mut work)) => {
                if let Some(run) = &work.tasks[task] {
                    Self::promise_not_done(state, owner, run, Some(item));
                    let mark = if is_refused { "!" } else { "" };
                    work.log = work.log.with(&format!("{}/{item}{mark}", run.key()));
                }
                owner.phase = Phase::Works(work);
            }
            (Action::QueuePart { task, part, copy, .. }, Phase::Works(mut work)) => {
                if let Some(run) = &mut work.tasks[task] {
                    let is_replay = run.key().contains('@');
                    if copy != Copied::NotMade && part == 0 {
                        state.send(Kind::Part { index: part, is_replay }, owner.received);
                    }
                    if copy == Copied::Confirmed {
                        work.log = work.log.with(&Self::parts(run.key())[usize::from(part)].key());
                    } else {
                        run.ended = TaskEnded::Again;
                    }
                }
                owner.phase = Phase::Works(work);
                self.conclude_if_ended(owner);
            }
            (Action::Note { fate, .. }, Phase::Works(work)) => {
                let keys = work.log.without(work.noted);
                let (name, call) = (owner.name, late(Call::Note { keys }));
                match Self::call(state, fate, call, |state| Self::note(state, entry, name, keys)) {
                    Some(Recorded::Yes) => {
                        owner.phase = Phase::Works(Work { noted: work.log, ..work });
                    }
                    Some(Recorded::LeaseLost) => self.ends(owner, Ending::lease_lost()),
                    None => {}
                }
            }
            (Action::Settle { fate, .. }, Phase::Settles { done, next, is_second, has_reason }) => {
                let (name, call) = (owner.name, late(Call::Settle { done, has_reason, now: clock }));
                let carry_out = |state: &mut State| Self::settle(state, entry, name, done, has_reason, clock);
                match Self::call(state, fate, call, carry_out) {
                    Some(Recorded::Yes) => self.ends(owner, next.ending()),
                    Some(Recorded::LeaseLost) => {
                        self.ends(owner, next.ending().unrecorded(Ending::lease_lost()));
                    }
                    None if is_second => {
                        let failed = Ending::ledger_failed(None, Duration::ZERO);
                        self.ends(owner, next.ending().unrecorded(failed));
                    }
                    None => owner.phase = Phase::Settles { done, next, is_second: true, has_reason },
                }
            }
            (Action::End { copy, .. }, Phase::Ends(next)) => {
                self.carry_out(state, owner, next, copy);
                return false;
            }
            _ => {}
        }
        !owner.has_ended()
    }

    /// Where SQS itself moved a message and nothing is under way, the ledger says why, or that it is done.
    fn promise_reasons(&self, state: &mut State) {
        if !state.owners.is_empty() || !state.late.is_empty() {
            return;
        }
        // Of a replay whose consumer crashed before its claim, the ledger cannot know: it says that a redrive does what is
        // left.
        let is_it =
            |record: &&Record| record.place == Place::Dead { is_said: false } && record.kind != Kind::Run;
        let letters = state.records.iter().filter(is_it);
        let is_without = |record: &Record| {
            let needed = self.keys(record.kind);
            !self.told.get((needed, state.entries[record.kind.entry()]), |(needed, item)| {
                let body_sha256 = || payload_sha256(&message().body);
                let entry = item.as_ref().map(|item| Entry { payload_sha256: body_sha256(), ..item.entry() });
                let reason = DeadLetterReason::find(None, Ok(&message()), entry.as_ref());
                let done = item.map_or_else(Keys::default, |item| item.done);
                reason != DeadLetterReason::NothingFailed || done.has_all(*needed)
            })
        };
        let is_told = !letters.into_iter().any(is_without);
        state.promise(is_told, "a message is on the dead-letter queue, and nobody can say why");
    }

    /// Whether the message is done, or on a queue.
    fn is_kept(&self, state: &State) -> bool {
        let is_there = || state.records.iter().any(|record| record.kind == Kind::Whole);
        let done = state.entries[0].map_or_else(Keys::default, |item| item.done);
        state.expiries_left < self.expiries || done.has_all(Keys::of(self.handlers)) || is_there()
    }

    /// Whether every part that the ledger calls queued is done, or on a queue.
    fn has_every_part(&self, state: &State) -> bool {
        let Some(whole) = state.entries[0].filter(|_| self.list == List::Parts) else { return true };
        let tasks = [(PUSH, false), ("push@w", true)];
        tasks.into_iter().filter(|(task, _)| whole.done.has(task)).all(|(_, is_replay)| {
            let kind = Kind::Part { index: 0, is_replay };
            let is_queued = || state.records.iter().any(|record| record.kind == kind);
            self.is_done(state, kind, Received::BeforeTheWindow) || is_queued()
        })
    }
}

fn message() -> Message {
    Message {
        id: message_id(),
        signed_at_s: 0,
        signature: String::new(),
        received_at: timestamp(0),
        event_type: None,
        body: br#"{"type":"t","timestamp":"2026-01-01T00:00:00Z","data":{}}"#.to_vec(),
        part: None,
        window: None,
    }
}

impl World for Model {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        State::first(self.sends, self.redrives, self.expiries)
    }

    fn steps(&self, state: &State) -> Vec<(Action, State)> {
        self.actions_from(state).into_iter().map(|action| (action, self.after(state, &action))).collect()
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let is_lost = (!self.is_kept(state)).then_some("a message is lost");
        let is_part_lost = (!self.has_every_part(state)).then_some("a part of a list is lost");
        state.broken.or(is_lost).or(is_part_lost)
    }

    fn is_fair(&self, state: &State, action: &Action) -> bool {
        match action {
            // Where nothing fails, every consumer ends in time.
            Action::Tick => !state.owners.iter().any(|owner| self.is_cut_off(owner, state.now + 1)),
            Action::Crash { .. } | Action::Expire { .. } | Action::CloseWindow => false,
            Action::Redrive { is_deleted, .. } => self.ends_done && *is_deleted,
            Action::Claim { fate, .. } | Action::Note { fate, .. } | Action::Settle { fate, .. } => {
                *fate == Fate::Answered
            }
            Action::QueuePart { copy, .. } | Action::End { copy, .. } => *copy == Copied::Confirmed,
            Action::ReadWindows { is_answered, .. } => *is_answered,
            Action::EndTask { ended, .. } => {
                matches!(ended, TaskEnded::Done | TaskEnded::InParts | TaskEnded::Never)
            }
            Action::EndItem { is_refused, .. } => !is_refused,
            Action::Send
            | Action::OpenWindow
            | Action::SendRun
            | Action::DeleteEntry { .. }
            | Action::Deliver { .. }
            | Action::Move { .. }
            | Action::Land { .. } => true,
        }
    }

    fn is_end(&self, state: &State) -> bool {
        let is_over = |record: &Record| match record.place {
            Place::Queue { .. } => false,
            Place::Dead { .. } => !self.ends_done || self.is_done(state, record.kind, record.received),
        };
        state.owners.is_empty() && state.late.is_empty() && state.records.iter().all(is_over)
    }

    fn describe(&self, before: &State, action: &Action, after: &State) -> String {
        crate::told::step(before, action, after)
    }
}
