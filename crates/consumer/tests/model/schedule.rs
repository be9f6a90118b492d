//! One schedule: when messages are sent, and the promises that must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use learnink_consumer::dead_letter::DeadLetterReason;
use learnink_consumer::ledger::{Entry, EntryId, payload_sha256};
use learnink_consumer::replay::{Closing, Coverage, ReplayWindow, Run, SeenMessage};
use learnink_webhook::MessageId;
use learnink_webhook::idempotency::run_key;
use tokio::time::{Instant, sleep};

use crate::environment;
use crate::messages::{Content, Sent};
use crate::world::{Seen, State, World};

/// How many environments handle messages at the same time.
const ENVIRONMENTS: u32 = 3;

/// Runs the schedule of `seed`.
pub(crate) fn run(seed: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let world = Arc::new(World::new(seed));
        let is_last = Arc::new(AtomicBool::new(false));
        let mut environments = tokio::task::JoinSet::new();
        for number in 0..ENVIRONMENTS {
            environments.spawn(environment::run(world.clone(), number, is_last.clone()));
        }
        let messages = trouble(&world).await;
        {
            let mut state = world.state();
            state.fault = 0.0;
            state.outage = None;
        }
        // Messages cut off by a fault are delivered again by themselves; the rest get one more try by hand.
        sleep(Duration::from_hours(12)).await;
        redrive(&world);
        is_last.store(true, Ordering::Relaxed);
        while let Some(ended) = environments.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        check(&world, &messages);
        world.state().seen
    })
}

/// Sends messages, and everything that may happen meanwhile.
async fn trouble(world: &World) -> Vec<Sent> {
    let mut messages: Vec<Sent> = Vec::new();
    let events = world.state().random.u32(4..24);
    for number in 0..events {
        sleep(world.up_to(Duration::from_mins(3))).await;
        let choice = world.state().random.usize(..16);
        match choice {
            0..5 => {
                messages.push(world.receive(message(world, number)));
            }
            // The sender's retry, or a resend: the same message, once more.
            5..9 => {
                if let Some(sent) = any_of(world, &messages) {
                    world.receive(sent);
                }
            }
            9 => {
                if let Some(sent) = any_of(world, &messages).filter(|sent| sent.content != Content::NoEvent) {
                    world.receive(Sent { is_forged: true, ..sent });
                }
            }
            10 => redrive(world),
            11 => {
                let mut state = world.state();
                state.outage =
                    if state.fault > 0.0 && state.outage.is_none() { Some("streaks") } else { None };
            }
            12 => {
                for burst in 0..4 {
                    messages.push(world.receive(message(world, 100 * (1 + number) + burst)));
                }
            }
            13 => close_window(world),
            _ => {
                if is_run(world) {
                    run_again(world, number, &messages);
                } else if let Some(sent) = any_of(world, &messages) {
                    open_window(world, number, &sent);
                    world.receive(sent);
                }
            }
        }
    }
    messages
}

fn message(world: &World, number: u32) -> Sent {
    let mut state = world.state();
    let content = [
        Content::Course,
        Content::Course,
        Content::List,
        Content::LongList,
        Content::Unknown,
        Content::NoEvent,
    ][state.random.usize(..6)];
    match content {
        Content::Unknown => state.seen.unknown_events += 1,
        Content::NoEvent => state.seen.bodies_that_are_no_event += 1,
        Content::Course | Content::List | Content::LongList => {}
    }
    let poison = if state.random.u8(..8) == 0 { "-poison" } else { "" };
    let id = MessageId::parse(&format!("msg_{number}{poison}")).unwrap();
    Sent { id, content, is_forged: false, received_at_ms: 0, part: None, window: None }
}

fn any_of(world: &World, messages: &[Sent]) -> Option<Sent> {
    world.state().random.choice(messages).cloned()
}

/// Moves the dead letters back, except those with a forged twin: there is nothing to try again.
fn redrive(world: &World) {
    let mut state = world.state();
    let letters = std::mem::take(&mut state.dead_letters);
    state.redriven_at = Some(Instant::now());
    for letter in letters {
        if letter.sent.is_forged {
            state.dead_letters.push(letter);
        } else {
            state.seen.redrives += 1;
            state.send(letter.sent);
        }
    }
}

fn is_run(world: &World) -> bool {
    let mut state = world.state();
    state.has_runs && state.random.bool()
}

/// An operator sends some messages again, from what was kept of them, some of them twice.
fn run_again(world: &World, number: u32, messages: &[Sent]) {
    let now = world.now();
    let mut state = world.state();
    let state = &mut *state;
    let kept: Vec<_> = messages.iter().filter(|sent| sent.content != Content::NoEvent).collect();
    let id = format!("w{number}");
    let handlers = [&[][..], &["push"], &["progress", "audit"]][state.random.usize(..3)];
    state.windows.push(ReplayWindow {
        id: id.clone(),
        covers: Coverage::Run(Run {
            filter: "the test's".to_owned(),
            from: None,
            until: None,
            again: state.random.bool(),
        }),
        handlers: handlers.iter().map(ToString::to_string).collect(),
        reason: "a handler was wrong".to_owned(),
        opened_by: "the test".to_owned(),
        opened_at: now,
        expires_at: now + Duration::from_mins(30),
        closed: None,
    });
    state.seen.runs += 1;
    for _ in 0..state.random.u32(..4) {
        if let Some(sent) = state.random.choice(&kept) {
            state.seen.sent_by_runs += 1;
            state.send(Sent { window: Some(id.clone()), ..(*sent).clone() });
        }
    }
}

fn open_window(world: &World, number: u32, sent: &Sent) {
    let now = world.now();
    let mut state = world.state();
    let covers = if state.random.bool() {
        Coverage::Messages(BTreeSet::from([sent.id.to_string()]))
    } else {
        Coverage::FirstSeen { event_type: None, from: now - Duration::from_mins(10), until: None }
    };
    let handlers = if state.random.bool() { BTreeSet::from(["push".to_owned()]) } else { BTreeSet::new() };
    state.windows.push(ReplayWindow {
        id: format!("w{number}"),
        covers,
        handlers,
        reason: "to see it again".to_owned(),
        opened_by: "the test".to_owned(),
        opened_at: now,
        expires_at: now + Duration::from_mins(30),
        closed: None,
    });
}

/// Closes one of the windows, seldom, and perhaps the one that matters.
fn close_window(world: &World) {
    let (now, mut state) = (world.now(), world.state());
    let state = &mut *state;
    if let Some(window) = state.random.choice(&mut state.windows).filter(|window| window.closed.is_none()) {
        window.closed = Some(Closing { by: "the test".to_owned(), at: now });
        state.seen.windows_closed += 1;
    }
}

/// Checks the promises once the faults have stopped and the queue is empty.
fn check(world: &World, messages: &[Sent]) {
    let mut state = world.state();
    let state = &mut *state;
    assert!(state.broken.is_empty(), "{:#?}", state.broken);
    assert!(state.queue.is_empty());
    let mut parts: BTreeMap<EntryId, Sent> = BTreeMap::new();
    for sent in state.sent.values().filter(|sent| sent.part.is_some() && !sent.is_forged) {
        parts.insert(sent.entry_id(), sent.clone());
    }
    for sent in messages.iter().chain(parts.values()) {
        let entry = state.ledger.get(&sent.entry_id());
        let is_done = sent.all_done().is_subset(&state.done(&sent.entry_id()));
        // Of two payloads under one id, the first is the message.
        let letters = state.dead_letters.iter().filter(|letter| letter.sent.entry_id() == sent.entry_id());
        let letters: Vec<_> = letters.collect();
        let reasons: Vec<_> = letters.iter().map(|letter| state.why(letter)).collect();
        let is_dead = sent.content == Content::NoEvent;
        if state.is_called_off(sent) {
            continue;
        }
        assert!(
            (is_done && !is_dead) || !reasons.is_empty(),
            "{sent:?} is neither done nor dead-lettered: {entry:?}"
        );
        for why in reasons {
            assert!(!why.to_string().trim().is_empty(), "{sent:?} is dead-lettered without a reason");
            // An entry or a reason that exists is never reported as missing.
            assert!(why != DeadLetterReason::NeverClaimed || entry.is_none(), "{sent:?}: {entry:?}");
            assert!(
                why != DeadLetterReason::NothingFailed || (is_done && !is_dead),
                "{sent:?} was let go without a reason: {entry:?}"
            );
        }
        let is_poison = sent.id.as_str().ends_with("-poison");
        let is_doubtful = state.sent.values().any(|other| other.is_forged && other.id == sent.id);
        if !is_poison && !is_doubtful {
            assert!(is_done, "{sent:?} has nothing that keeps it from being done: {entry:?}");
        }
        // A redrive follows a fix: everything that was refused is tried again.
        if is_poison && !is_doubtful && !letters.is_empty() && !is_dead && !is_done {
            let prefix = format!("{}/", sent.id);
            let is_tried = state.refused_at.iter().any(|(key, at)| {
                key.starts_with(&prefix) && state.redriven_at.is_some_and(|redriven_at| *at >= redriven_at)
            });
            assert!(is_tried, "{sent:?} was redriven, and what was refused was not tried again: {entry:?}");
            state.seen.refusals_tried_again += 1;
        }
        // If the twin came first, it is the message, and the redrive leaves its dead parts where they are.
        let has_a_dead_part_of_its_twin = state
            .dead_letters
            .iter()
            .any(|letter| letter.sent.is_forged && letter.sent.part.is_some() && letter.sent.id == sent.id);
        if is_done && sent.part.is_none() && !is_poison && !has_a_dead_part_of_its_twin {
            let covers = |window: &&ReplayWindow| {
                window.covers(known(sent, entry.unwrap())) || state.was_sent_under(sent, &window.id)
            };
            check_effects(sent, &state.effects, state.windows.iter().filter(covers).count());
        }
    }
    check_replays(state);
    check_runs(state);
}

const fn known<'a>(sent: &'a Sent, entry: &Entry) -> SeenMessage<'a> {
    SeenMessage { id: &sent.id, event_type: sent.event_type(), first_seen_ms: entry.first_seen_ms }
}

/// Checks that a message sent again under an open window has run each handler that the window asks for, unless the
/// window was closed.
fn check_replays(state: &mut State) {
    for sent in state.sent.values() {
        let is_poison = sent.id.as_str().ends_with("-poison");
        if is_poison || sent.part.is_some() || sent.window.is_some() {
            continue;
        }
        let Some(entry) = state.ledger.get(&sent.entry_id()) else { continue };
        // Of two payloads under one id, only the first runs.
        if entry.payload_sha256 != payload_sha256(&sent.message().body) {
            continue;
        }
        // The redrive leaves the letters of the other payload under an id where they are.
        let is_its_letter =
            |letter: &Sent| letter.id == sent.id && letter.received_at_ms == sent.received_at_ms;
        if sent.is_forged && state.dead_letters.iter().any(|letter| is_its_letter(&letter.sent)) {
            continue;
        }
        // One that came first after the window was opened is not a replay, even if a slow clock saw it before that.
        let sends = state.sent.values().filter(|other| other.entry_id() == sent.entry_id());
        let came_first_at_ms = sends.map(|other| other.received_at_ms).min().unwrap_or_default();
        let came_in_time = |window: &&ReplayWindow| {
            let (opened, expires) = (window.opened_at.as_millisecond(), window.expires_at.as_millisecond());
            let is_a_replay = came_first_at_ms < opened;
            window.closed.is_none() && is_a_replay && (opened..expires).contains(&sent.received_at_ms)
        };
        let windows = state.windows.iter().filter(came_in_time);
        for window in windows.filter(|window| window.covers(known(sent, entry))) {
            let is_asked_for =
                |handler: &&String| window.handlers.is_empty() || window.handlers.contains(*handler);
            for handler in sent.all_done().iter().filter(is_asked_for) {
                let key = format!("{handler}@{}", window.id);
                assert!(entry.done.contains(&key), "{sent:?} was not replayed under {window:?}: {entry:?}");
                state.seen.replays_that_were_asked_for += 1;
            }
        }
    }
}

/// Checks that each message that an operator sent again has been through the run, with the handlers that it asks for and
/// no others.
fn check_runs(state: &mut State) {
    let runs: Vec<_> =
        state.windows.iter().filter_map(|window| Some((window, window.run()?.again))).collect();
    for (window, again) in runs {
        let of_window = |task: &str| task.split_once('@').is_some_and(|(_, id)| id == window.id);
        for key in state.effects.keys() {
            let mut parts = key.split('/');
            let (id, task) = (parts.next().unwrap(), parts.next().unwrap());
            let is_sent = state
                .sent
                .values()
                .any(|sent| sent.id.as_str() == id && sent.window.as_ref() == Some(&window.id));
            let handler = task.split('@').next().unwrap();
            let is_asked_for = window.handlers.is_empty() || window.handlers.contains(handler);
            assert!(!of_window(task) || (again && is_sent && is_asked_for), "{key} has run under {window:?}");
        }
        if window.closed.is_some() {
            continue;
        }
        for sent in state.sent.values().filter(|sent| sent.window.as_ref() == Some(&window.id)) {
            let entry = state.ledger.get(&sent.entry_id()).unwrap();
            // Of two payloads under one id, only the first runs; and what never succeeds is dead-lettered.
            let is_the_message = entry.payload_sha256 == payload_sha256(&sent.message().body);
            if !is_the_message || sent.id.as_str().ends_with("-poison") {
                continue;
            }
            assert!(
                entry.done.contains(&run_key(&window.id)),
                "{sent:?} was not handled under {window:?}: {entry:?}"
            );
            for handler in sent.handlers() {
                let is_asked_for = window.handlers.is_empty() || window.handlers.contains(&handler);
                let has_run = entry.done.contains(&format!("{handler}@{}", window.id));
                assert!(
                    !is_asked_for || entry.done.contains(&handler),
                    "{handler} is not done for {sent:?}: {entry:?}"
                );
                assert!(
                    !(is_asked_for && again) || has_run,
                    "{handler} has not run again for {sent:?}: {entry:?}"
                );
                assert!(is_asked_for || !has_run, "{handler} was not asked for: {entry:?}");
                state.seen.handlers_that_a_run_did_not_ask_for += u64::from(!is_asked_for);
            }
        }
    }
}

/// Each effect of a finished message happened once, and at most once more for each window.
fn check_effects(sent: &Sent, effects: &BTreeMap<String, u32>, windows: usize) {
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for key in effects.keys() {
        let mut parts = key.split('/');
        if parts.next() == Some(sent.id.as_str()) {
            let handler = parts.next().unwrap().split('@').next().unwrap();
            let item = parts.next().map(|item| format!("/{item}")).unwrap_or_default();
            *runs.entry(format!("{handler}{item}")).or_default() += 1;
        }
    }
    let expected = sent.all_done().into_iter().flat_map(|handler| match handler.as_str() {
        "push" => (0..sent.content.items()).map(|item| format!("push/{item}")).collect(),
        _ => vec![handler],
    });
    for effect in expected {
        let count = runs.get(&effect).copied().unwrap_or_default();
        assert!((1..=1 + windows).contains(&count), "{} has had the effect {effect} {count} times", sent.id);
    }
}
