//! The engine's promises, under schedules of everything that can go wrong.
//!
//! Each schedule is a small world with a clock of its own: a queue, a ledger, a dead-letter queue, three
//! environments of the consumer, and handlers with effects. From one seed come sends, duplicates, crashes between
//! any two steps, answers that get lost, throttles, panics, time-outs, poison, redrives and replay windows. The
//! engine is the real one; so are the ledger's rules. Invariants are checked at every step, and the promises about
//! the end once the faults have stopped.
//!
//! `SCHEDULES=1000000 cargo test --release -p learnink-consumer --test model` runs more of them, with `FIRST=900000`
//! those from there on, and `SEED=42` one of them again.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed, and says why"
)]

mod environment;
mod handlers;
mod messages;
mod schedule;
mod stores;
mod world;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// How many schedules the check runs.
const SCHEDULES: u64 = 10_000;

/// Schedules beyond these in which a promise was once broken, or the checks took it for broken: a dead part of a
/// message's twin; a message that a slow clock had seen before the window under which it came; a dead letter of the twin
/// that came under one; a copy to the source queue that took all the time for a dead letter.
const BROKE_A_PROMISE: [u64; 4] = [51_462, 58_785, 806_219, 909_976];

fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own switches")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a whole number"))
}

#[test]
fn whatever_happens_every_message_ends_done_or_dead_lettered_with_a_reason_and_nothing_done_is_done_again() {
    if let Some(seed) = variable("SEED") {
        println!("{:#?}", schedule::run(seed));
        return;
    }
    let schedules = variable("SCHEDULES").unwrap_or(SCHEDULES);
    let from = variable("FIRST").unwrap_or(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let workers: Vec<_> = (0..threads as u64)
        .map(|worker| {
            thread::spawn(move || {
                let mut seen = world::Seen::default();
                let once = BROKE_A_PROMISE.into_iter().filter(|_| worker == 0);
                for seed in once.chain((from + worker..schedules).step_by(threads)) {
                    match catch_unwind(AssertUnwindSafe(|| schedule::run(seed))) {
                        Ok(of_schedule) => seen += of_schedule,
                        Err(panic) => {
                            eprintln!("the schedule with SEED={seed} broke a promise");
                            resume_unwind(panic);
                        }
                    }
                }
                seen
            })
        })
        .collect();
    let mut seen = world::Seen::default();
    for worker in workers {
        seen += worker.join().unwrap_or_else(|panic| resume_unwind(panic));
    }
    println!("schedules {from} to {schedules}: {seen:#?}");
    // A schedule without trouble would promise nothing.
    if schedules.saturating_sub(from) >= SCHEDULES {
        seen.assert_everything_happened();
    }
}
