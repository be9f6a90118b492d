//! A step in words, with the ledger after it: one line for each.

use std::fmt::Write;

use crate::state::{Hold, Item, Kind, Owner, Phase, Place, State};
use crate::steps::{Action, Copied, Fate};

/// One step, and what it left in the ledger if it changed that.
pub(crate) fn step(before: &State, action: &Action, after: &State) -> String {
    let mut told = what(before, action);
    // Names are given anew after each step: what follows is about the state after it.
    if before.entries != after.entries || before.owners.len() != after.owners.len() {
        for (index, item) in after.entries.iter().enumerate() {
            if let Some(item) = item {
                let _ = write!(told, "\n       ledger{}: {}", part(index), entry(item, after));
            }
        }
    }
    told
}

fn part(entry: usize) -> &'static str {
    ["", ", part 0", ", part 1", ", part 0 of the replay", ", part 1 of the replay"][entry]
}

fn entry(item: &Item, state: &State) -> String {
    let hold = match item.hold {
        Hold::Settled { at } => format!("released at {at}"),
        Hold::Leased { owner, until } => {
            let is_alive = state.owners.iter().any(|other| other.name == owner);
            format!("leased until {until} to {}", if is_alive { "a consumer" } else { "nobody at work" })
        }
    };
    format!("done {:?}, {hold}, by the world's clock it is {}", item.done, state.now)
}

fn what(state: &State, action: &Action) -> String {
    let who = |index: usize| consumer(&state.owners[index], state);
    let fate = |fate: Fate| match fate {
        Fate::Answered => "and is answered",
        Fate::Lost => "and the request is lost",
        Fate::AnswerLost => "which is carried out, but the answer is lost",
        Fate::Late => "and gives up; the request is still under way",
    };
    let copied = |copy: Copied| match copy {
        Copied::Confirmed => "",
        Copied::NotMade => ", which fails",
        Copied::NotConfirmed => ", which succeeds and is not confirmed",
    };
    match *action {
        Action::Tick => format!("time goes on, from {}", state.now),
        Action::Send => "LearnInk sends the message again".to_owned(),
        Action::OpenWindow => format!("an operator opens the replay window at {}", state.now),
        Action::CloseWindow => "an operator closes the replay window".to_owned(),
        Action::SendRun => "an operator sends the message again under the window".to_owned(),
        Action::Expire { entry } => {
            format!("the time of the entry{} is over with the next tick", part(entry))
        }
        Action::DeleteEntry { entry } => format!("DynamoDB deletes the entry{}", part(entry)),
        Action::Deliver { record, ahead } => {
            let count = state.records.iter().find(|other| other.id == record).map(|record| record.place);
            let count = match count {
                Some(Place::Queue { receive_count }) => receive_count + 1,
                Some(Place::Dead { .. }) | None => 0,
            };
            let clock = state.now + ahead;
            format!(
                "SQS delivers message {record} for the {count}. time, to a consumer whose clock is at {clock}"
            )
        }
        Action::Move { record } => format!("SQS moves message {record} to the dead-letter queue"),
        Action::Redrive { record, is_deleted } => {
            let copy = if is_deleted { "" } else { ", and is killed before the letter is deleted" };
            format!("an operator redrives message {record}{copy}")
        }
        Action::Land { late } => {
            let late = &state.late[late];
            format!("DynamoDB carries out a request whose caller had given up: {:?}", late.call)
        }
        Action::Crash { owner } => format!("{} crashes", who(owner)),
        Action::Claim { owner, fate: how } => format!("{} claims, {}", who(owner), fate(how)),
        Action::ReadWindows { owner, is_answered: true } => format!("{} reads the windows", who(owner)),
        Action::ReadWindows { owner, .. } => format!("{} cannot read the windows", who(owner)),
        Action::EndTask { owner, task, ended } => {
            format!("{}: {} ends: {ended:?}", who(owner), key(&state.owners[owner], task))
        }
        Action::EndItem { owner, task, item, is_refused } => {
            let how = if is_refused { "is refused" } else { "is done" };
            format!("{}: item {item} of {} {how}", who(owner), key(&state.owners[owner], task))
        }
        Action::QueuePart { owner, part, copy, .. } => {
            format!("{} queues part {part}{}", who(owner), copied(copy))
        }
        Action::Note { owner, fate: how } => format!("{} notes what finished, {}", who(owner), fate(how)),
        Action::Settle { owner, fate: how } => format!("{} settles, {}", who(owner), fate(how)),
        Action::End { owner, copy } => {
            let Phase::Ends(next) = state.owners[owner].phase else { return String::new() };
            format!("{} ends its record: {next:?}{}", who(owner), copied(copy))
        }
    }
}

fn key(owner: &Owner, task: usize) -> String {
    let Phase::Works(work) = &owner.phase else { return String::new() };
    work.tasks[task].map(|run| format!("{:?}", run.key)).unwrap_or_default()
}

fn consumer(owner: &Owner, state: &State) -> String {
    let of = match owner.kind {
        Kind::Whole => String::new(),
        Kind::Run => " of the run".to_owned(),
        Kind::Part { index, .. } => format!(" of part {index}"),
    };
    format!("the consumer{of} that began at {} (clock at {})", owner.started, state.now + owner.ahead)
}
