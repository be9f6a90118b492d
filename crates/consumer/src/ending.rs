//! How a record ends, decided from how its handlers ended and from the deliveries it has left.

use std::collections::BTreeSet;
use std::time::Duration;

use learnink_webhook::error::with_causes;
use learnink_webhook::items::ItemLog;
use learnink_webhook::{FailureClass, FailureKind, HandlerError};

use crate::backoff;
use crate::ledger::LedgerError;
use crate::replay::Task;
use crate::report::{Ended, EngineFailure, Failure, HandlerReport};

/// The next step of a record. The engine decides it, records it in the ledger, and then carries it out on the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every handler is done.
    Processed,
    /// Every handler was done before.
    Duplicate,
    /// No handler takes the event.
    Ignored,
    /// At least one handler may succeed later. Those that never will run again with it, because a handler that waits
    /// for a retry would not run from the dead-letter queue.
    Again {
        /// Why.
        failure: Failure,
        /// How long it is hidden.
        wait: RetryAfter,
        /// How many deliveries in a row it has failed, if that is not its receive count because a list made progress.
        failures: Option<u32>,
    },
    /// It has used its deliveries, and gets more: its list made progress, or nothing failed.
    SendAgain {
        /// Why.
        failure: Failure,
        /// How long the new message is hidden.
        wait: RetryAfter,
    },
    /// The rest will never succeed, or its deliveries are used up.
    DeadLetter(Failure),
}

/// How long a message waits before it is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Not at all: it made progress.
    Now,
    /// By its receive count, and at least this long.
    Backoff(Duration),
}

impl RetryAfter {
    /// At least so long.
    pub(crate) fn at_least(self, duration: Duration) -> Self {
        match self {
            Self::Now if duration.is_zero() => self,
            Self::Now => Self::Backoff(duration),
            Self::Backoff(minimum) => Self::Backoff(minimum.max(duration)),
        }
    }

    /// The delay after `receive_count` deliveries. `random` is uniform in `0..1`.
    pub(crate) fn delay(self, receive_count: u32, random: f64) -> Duration {
        match self {
            Self::Now => backoff::SHORTEST,
            Self::Backoff(minimum) => backoff::delay(receive_count, random, Some(minimum)),
        }
    }

    const fn minimum(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Backoff(minimum) => minimum,
        }
    }
}

/// The deliveries that a failed message has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliveries {
    /// SQS delivers it again.
    Left,
    /// SQS does not, but it gets more: its list made progress.
    SendAgain,
    /// It has had all deliveries that a message gets without progress.
    UsedUp,
}

impl Deliveries {
    /// By its receive count, and for each unfinished task by the number of deliveries since its list last made
    /// progress, if it made some.
    pub fn of(
        receive_count: u32,
        max_receive_count: u32,
        without_progress: impl IntoIterator<Item = Option<u32>>,
    ) -> Self {
        let is_used_up = |count: Option<u32>| count.unwrap_or(receive_count) >= max_receive_count;
        if without_progress.into_iter().all(is_used_up) {
            Self::UsedUp
        } else if receive_count >= max_receive_count {
            Self::SendAgain
        } else {
            Self::Left
        }
    }
}

/// Adds to `done` what the handlers of a claim finished, and says how the record ends. `log` has what finished of their
/// lists. `receive_count` is the record's, and `max_receive_count` the queue's.
pub fn conclude(
    tasks: &[Task],
    handlers: &[HandlerReport],
    log: &ItemLog,
    receive_count: u32,
    max_receive_count: u32,
    done: &mut BTreeSet<String>,
) -> Ending {
    done.extend(log.after(0));
    let ended_of = |task: &Task| handlers.iter().find(|run| run.key == task.key).map(|run| &run.ended);
    let (ended, unfinished): (Vec<_>, Vec<_>) =
        tasks.iter().partition(|task| ended_of(task).is_some_and(Ended::is_done));
    let kind_of = |task: &Task| ended_of(task).and_then(Ended::kind);
    for task in ended {
        task.forget_list(done);
        done.extend(task.completes.iter().cloned());
    }
    for task in &unfinished {
        let made_progress = log.has_progress_of(&task.key);
        // If nothing failed, the delivery does not count.
        if made_progress || kind_of(task) != Some(FailureKind::Unfinished) {
            task.note_delivery(made_progress, done);
        }
    }
    let without_progress = unfinished.iter().filter_map(|task| match kind_of(task) {
        Some(FailureKind::Permanent) => None,
        Some(FailureKind::Unfinished) => Some(Some(0)),
        _ => Some(task.without_progress(done)),
    });
    let without_progress: Vec<_> = without_progress.collect();
    // After progress, a list does not wait longer because of its earlier deliveries.
    let failures =
        without_progress.iter().map(|failed| failed.map_or(receive_count, |failed| failed + 1)).max();
    let deliveries = Deliveries::of(receive_count, max_receive_count, without_progress);
    let ending = Ending::of(handlers).failed(failures).within(deliveries);
    if let Ending::DeadLetter(_) = ending {
        // A redrive tries everything that is not done, with as many attempts as a new message.
        for task in unfinished {
            task.forget_refusals(done);
            task.forget_deliveries(done);
        }
    }
    ending
}

impl Ending {
    /// The ending that the handlers ask for.
    pub(crate) fn of(handlers: &[HandlerReport]) -> Self {
        let failed = |class| {
            let failed = handlers.iter().filter_map(|run| Some((run, run.ended.error()?)));
            failed.filter(move |(_, error)| error.class() == class)
        };
        // The first gives its name, and the others add their reasons, so that none is lost.
        let failure = |(run, error): (&HandlerReport, &HandlerError)| {
            let others = handlers.iter().filter(|other| other.key != run.key);
            let others =
                others.filter_map(|other| Some(format!("; {}: {}", other.name, other.ended.error()?)));
            let reason = others.fold(error.to_string(), |reason, other| reason + &other);
            Failure { handler: Some(run.name), class: error.kind().name(), reason }
        };
        if let Some(failure) = failed(FailureClass::Retryable).next().map(failure) {
            let mut errors = failed(FailureClass::Retryable).map(|(_, error)| error);
            let wait = if errors.all(|error| error.kind() == FailureKind::Unfinished) {
                RetryAfter::Now
            } else {
                let asked_for =
                    failed(FailureClass::Retryable).filter_map(|(_, error)| error.minimum_delay());
                RetryAfter::Backoff(asked_for.max().unwrap_or_default())
            };
            return Self::Again { failure, wait, failures: None };
        }
        let never = failed(FailureClass::Permanent).next().map(failure);
        never.map_or(Self::Processed, Self::DeadLetter)
    }

    /// This ending, given how many deliveries the message has left. Only deliveries without progress count.
    #[must_use]
    pub fn within(self, deliveries: Deliveries) -> Self {
        match (self, deliveries) {
            (Self::Again { failure, .. }, Deliveries::UsedUp) => Self::DeadLetter(failure),
            (Self::Again { failure, wait, .. }, Deliveries::SendAgain) => Self::SendAgain { failure, wait },
            (ending, _) => ending,
        }
    }

    /// This ending, for a message that has failed so many deliveries in a row, if not as often as it was received.
    pub(crate) fn failed(self, failures: Option<u32>) -> Self {
        match self {
            Self::Again { failure, wait, .. } => Self::Again { failure, wait, failures },
            ending => ending,
        }
    }

    /// This ending, for a delivery after which SQS does not deliver the record again.
    #[must_use]
    pub fn at_last_delivery(self) -> Self {
        match self {
            // Nothing failed.
            Self::Again { failure, wait, .. } if failure.class == EngineFailure::InProgress.name() => {
                Self::SendAgain { failure, wait }
            }
            Self::Again { failure, .. } => Self::DeadLetter(failure),
            ending => ending,
        }
    }

    /// The ending of a record that is delivered again after backoff.
    pub const fn retry(failure: Failure) -> Self {
        Self::Again { failure, wait: RetryAfter::Backoff(Duration::ZERO), failures: None }
    }

    /// Another record, in this consumer or another, has claimed this message. A delivery before its lease ends
    /// would be wasted.
    pub fn in_progress(lease_left: Duration) -> Self {
        let reason = "another delivery of it is being handled";
        Self::retry(Failure::of_engine(EngineFailure::InProgress, reason)).at_least(lease_left)
    }

    /// The engine was cut off, perhaps after the handlers had ended.
    pub fn cut_off(why: EngineFailure, reason: &str, handlers: Option<&Failure>) -> Self {
        Self::retry(Failure::of_engine(why, reason).after(handlers))
    }

    /// The ledger did not answer, or not with what was asked for.
    pub fn ledger_failed(error: Option<LedgerError>, lease_left: Duration) -> Self {
        let reason = error.map_or_else(|| "the ledger has no answer".to_owned(), |error| with_causes(&error));
        Self::retry(Failure::of_engine(EngineFailure::Ledger, reason)).at_least(lease_left)
    }

    /// The lease ended before the work did.
    pub fn lease_lost() -> Self {
        Self::retry(Failure::of_engine(EngineFailure::LeaseLost, "the lease ended before the work did"))
    }

    /// What becomes of this ending if the ledger did not record it, which by itself ends in `unrecorded`.
    #[must_use]
    pub fn unrecorded(&self, unrecorded: Self) -> Self {
        let Self::Again { failure, wait, .. } = unrecorded else { return unrecorded };
        let failure = failure.after(self.failure());
        match self {
            // Its progress is recorded, or is repeated under the same keys.
            Self::SendAgain { wait: decided, .. } => {
                Self::SendAgain { failure, wait: wait.at_least(decided.minimum()) }
            }
            Self::Again { wait: decided, .. } => {
                Self::Again { failure, wait: wait.at_least(decided.minimum()), failures: None }
            }
            Self::Processed | Self::Duplicate | Self::Ignored | Self::DeadLetter(_) => {
                Self::Again { failure, wait, failures: None }
            }
        }
    }

    /// Why the message is not done.
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Processed | Self::Duplicate | Self::Ignored => None,
            Self::Again { failure, .. } | Self::SendAgain { failure, .. } | Self::DeadLetter(failure) => {
                Some(failure)
            }
        }
    }

    /// Waits so long at least, if it waits.
    fn at_least(self, duration: Duration) -> Self {
        match self {
            Self::Again { failure, wait, failures } => {
                Self::Again { failure, wait: wait.at_least(duration), failures }
            }
            ending => ending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Ended;

    fn run(name: &'static str, ended: Ended) -> HandlerReport {
        HandlerReport { name, key: name.to_owned(), ended, took: Duration::ZERO }
    }

    fn failed(name: &'static str, error: HandlerError) -> HandlerReport {
        run(name, Ended::Failed(error))
    }

    fn failure(handler: &'static str, class: &'static str, reason: &str) -> Failure {
        Failure { handler: Some(handler), class, reason: reason.to_owned() }
    }

    fn again(failure: Failure, wait: RetryAfter) -> Ending {
        Ending::Again { failure, wait, failures: None }
    }

    #[test]
    fn the_longer_wait_wins_and_no_wait_stays_none() {
        let second = Duration::from_secs(1);
        assert_eq!(RetryAfter::Now.at_least(Duration::ZERO), RetryAfter::Now);
        assert_eq!(RetryAfter::Now.at_least(second), RetryAfter::Backoff(second));
        assert_eq!(RetryAfter::Backoff(2 * second).at_least(second), RetryAfter::Backoff(2 * second));
        assert_eq!(RetryAfter::Backoff(second).at_least(2 * second), RetryAfter::Backoff(2 * second));
    }

    #[test]
    fn a_retryable_failure_decides_before_a_permanent_one() {
        let runs = [
            run("a", Ended::Done),
            failed("b", HandlerError::permanent("no such plan")),
            failed("c", HandlerError::retryable("busy")),
        ];
        let busy = failure("c", "retryable", "busy; b: no such plan");
        assert_eq!(Ending::of(&runs), again(busy, RetryAfter::Backoff(Duration::ZERO)));
        assert_eq!(Ending::of(&runs[..2]), Ending::DeadLetter(failure("b", "permanent", "no such plan")));
        assert_eq!(Ending::of(&runs[..1]), Ending::Processed);
    }

    #[test]
    fn what_was_too_late_is_done_and_what_was_skipped_panicked_or_cut_off_comes_back() {
        assert_eq!(Ending::of(&[run("a", Ended::TooLate)]), Ending::Processed);
        for kind in [FailureKind::SkippedByBreaker, FailureKind::Panicked, FailureKind::TimedOut] {
            let expected = again(failure("a", kind.name(), "why"), RetryAfter::Backoff(Duration::ZERO));
            assert_eq!(Ending::of(&[failed("a", HandlerError::new(kind, "why"))]), expected);
        }
    }

    #[test]
    fn of_a_list_that_is_done_the_ledger_keeps_the_handler_and_else_what_finished() {
        let concluded = |ended| concluded(&[run("push", ended)], 7, &["push/1"], &["bus", "push/0"]);
        let (ending, done) = concluded(Ended::Done);
        assert_eq!((ending, done), (Ending::Processed, vec!["bus".to_owned(), "push".to_owned()]));
        let (ending, done) = concluded(Ended::Failed(HandlerError::retryable("busy")));
        assert_eq!(done, ["bus", "push+0", "push/0", "push/1"]);
        assert!(matches!(ending, Ending::SendAgain { .. }), "{ending:?}");
    }

    /// The ending of these handlers, each with a task of its own, and what is done then. `finished` has the keys of the
    /// items that finished under this claim.
    fn concluded(
        runs: &[HandlerReport],
        receive_count: u32,
        finished: &[&str],
        done: &[&str],
    ) -> (Ending, Vec<String>) {
        let task = |run: &HandlerReport| Task {
            handler: run.name,
            key: run.key.clone(),
            completes: vec![run.key.clone()],
            is_named: false,
        };
        let tasks: Vec<_> = runs.iter().map(task).collect();
        let log = ItemLog::default();
        for key in finished {
            log.add((*key).to_owned());
        }
        let mut done = done.iter().map(ToString::to_string).collect();
        let ending = conclude(&tasks, runs, &log, receive_count, 7, &mut done);
        (ending, done.into_iter().collect())
    }

    #[test]
    fn a_delivery_in_which_nothing_failed_does_not_count_against_a_list() {
        let unfinished = || HandlerError::unfinished("no time was left");
        for (error, finished, count) in [
            (unfinished(), &[][..], "push+2"),
            (unfinished(), &["push/1"], "push+0"),
            (HandlerError::retryable("busy"), &[], "push+3"),
            (HandlerError::retryable("busy"), &["push/1"], "push+0"),
        ] {
            let (_, done) = concluded(&[failed("push", error)], 4, finished, &["push+2"]);
            assert_eq!(done[0], count);
        }
    }

    #[test]
    fn a_list_without_progress_of_which_nothing_failed_is_sent_again_at_its_last_delivery() {
        let runs = [failed("push", HandlerError::unfinished("no time was left"))];
        assert!(matches!(concluded(&runs, 7, &[], &[]).0, Ending::SendAgain { .. }));
        assert!(matches!(concluded(&runs, 6, &[], &[]).0, Ending::Again { failures: Some(1), .. }));
    }

    #[test]
    fn what_will_never_succeed_does_not_lengthen_the_wait_of_the_rest() {
        let runs = [
            failed("bus", HandlerError::permanent("no such plan")),
            failed("push", HandlerError::retryable("busy")),
        ];
        assert!(matches!(concluded(&runs, 6, &["push/1"], &[]).0, Ending::Again { failures: Some(1), .. }));
        assert!(matches!(concluded(&runs, 6, &[], &[]).0, Ending::Again { failures: Some(6), .. }));
    }

    #[test]
    fn the_longest_wait_that_a_handler_asked_for_is_kept() {
        let busy = || HandlerError::retryable("busy");
        let asked = |hours| busy().retry_after(Duration::from_hours(hours));
        let runs = [failed("a", busy()), failed("b", asked(2)), failed("c", asked(1))];
        let Ending::Again { wait, .. } = Ending::of(&runs) else { panic!("two may succeed later") };
        assert_eq!(wait, RetryAfter::Backoff(Duration::from_hours(2)));
    }

    #[test]
    fn a_list_that_made_progress_goes_on_at_once_unless_something_else_has_to_wait() {
        let wait = |runs: &[HandlerReport]| match Ending::of(runs) {
            Ending::Again { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        let unfinished = || failed("push", HandlerError::unfinished("9 of 10 items were not tried"));
        assert_eq!(wait(&[unfinished()]).delay(7, 1.0), backoff::SHORTEST);
        let busy = failed("bus", HandlerError::retryable("busy"));
        assert_eq!(wait(&[unfinished(), busy]), RetryAfter::Backoff(Duration::ZERO));
        assert_eq!(RetryAfter::Now.at_least(Duration::from_secs(9)).delay(1, 0.0), Duration::from_secs(9));
    }

    #[test]
    fn a_failed_message_is_dead_lettered_after_so_many_deliveries_without_progress() {
        let of = |receive_count, without: &[Option<u32>]| {
            Deliveries::of(receive_count, 7, without.iter().copied())
        };
        for (receive_count, without, expected) in [
            (6, &[None][..], Deliveries::Left),
            (7, &[None], Deliveries::UsedUp),
            // For a list that made progress, deliveries are counted from there, over several sends.
            (7, &[Some(0)], Deliveries::SendAgain),
            (7, &[Some(6)], Deliveries::SendAgain),
            (1, &[Some(7)], Deliveries::UsedUp),
            (1, &[Some(6)], Deliveries::Left),
            (7, &[None, Some(3)], Deliveries::SendAgain),
            (7, &[None, Some(7)], Deliveries::UsedUp),
        ] {
            assert_eq!(of(receive_count, without), expected, "{receive_count} {without:?}");
        }
        let busy = || failure("push", "retryable", "busy");
        let busy_again = || again(busy(), RetryAfter::Now);
        assert_eq!(busy_again().within(Deliveries::Left), busy_again());
        assert_eq!(busy_again().within(Deliveries::UsedUp), Ending::DeadLetter(busy()));
        let send_again = Ending::SendAgain { failure: busy(), wait: RetryAfter::Now };
        assert_eq!(busy_again().within(Deliveries::SendAgain), send_again);
        for deliveries in [Deliveries::Left, Deliveries::SendAgain, Deliveries::UsedUp] {
            assert_eq!(Ending::Processed.within(deliveries), Ending::Processed);
            assert_eq!(Ending::DeadLetter(busy()).within(deliveries), Ending::DeadLetter(busy()));
        }
    }

    #[test]
    fn at_its_last_delivery_a_record_is_dead_lettered_unless_nothing_failed() {
        let lost = Ending::lease_lost().at_last_delivery();
        assert!(matches!(lost, Ending::DeadLetter(failure) if failure.class == "lease_lost"));
        let held = Ending::in_progress(Duration::from_secs(9)).at_last_delivery();
        assert!(
            matches!(held, Ending::SendAgain { wait, .. } if wait == RetryAfter::Backoff(Duration::from_secs(9)))
        );
        assert_eq!(Ending::Duplicate.at_last_delivery(), Ending::Duplicate);
    }

    #[test]
    fn an_ending_that_was_not_recorded_keeps_the_handlers_reason_and_wait() {
        let hour = RetryAfter::Backoff(Duration::from_hours(1));
        let busy = || failure("push", "retryable", "busy");
        let unrecorded = |ending: Ending| ending.unrecorded(Ending::lease_lost());
        let lost = |reason: &str| Failure::of_engine(EngineFailure::LeaseLost, reason);
        let both = || lost("the lease ended before the work did; before that, push: busy");
        assert_eq!(unrecorded(again(busy(), hour)), again(both(), hour));
        let send_again = Ending::SendAgain { failure: busy(), wait: hour };
        assert_eq!(unrecorded(send_again), Ending::SendAgain { failure: both(), wait: hour });
        let now = RetryAfter::Backoff(Duration::ZERO);
        assert_eq!(unrecorded(Ending::DeadLetter(busy())), again(both(), now));
        assert_eq!(unrecorded(Ending::Processed), Ending::lease_lost());
    }
}
