//! The verdict on a record, from how its handlers ended.

use std::time::Duration;

use learnink_webhook::{FailureClass, HandlerError};

use crate::backoff;
use crate::report::{Ended, Failure, HandlerReport};

/// What happens to a message, by how its handlers ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every one is done.
    Done,
    /// At least one may succeed later. Those that never will run again with it, because a handler that waits for a
    /// retry would not run from the dead-letter queue.
    Again { failure: Failure, wait: RetryAfter },
    /// As `Again`, but the message has used its deliveries. It is sent again, because its list made progress.
    AgainAfresh { failure: Failure, wait: RetryAfter },
    /// The rest will never succeed, or its deliveries are used up.
    Never(Failure),
}

/// How long a message waits before it is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryAfter {
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
}

/// The deliveries that a failed message has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deliveries {
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
    pub(crate) fn of(
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

impl Verdict {
    /// Why the message is not done.
    pub(crate) const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Done => None,
            Self::Again { failure, .. } | Self::AgainAfresh { failure, .. } | Self::Never(failure) => {
                Some(failure)
            }
        }
    }

    /// The verdict, given how many deliveries the message has left. Only deliveries without progress count.
    pub(crate) fn within(self, deliveries: Deliveries) -> Self {
        match (self, deliveries) {
            (Self::Again { failure, .. }, Deliveries::UsedUp) => Self::Never(failure),
            (Self::Again { failure, wait }, Deliveries::SendAgain) => Self::AgainAfresh { failure, wait },
            (verdict, _) => verdict,
        }
    }
}

/// The verdict on what the handlers did.
pub(crate) fn verdict(handlers: &[HandlerReport]) -> Verdict {
    let failures = |class| {
        let failed = handlers.iter().filter_map(|run| Some((run, run.ended.error()?)));
        failed.filter(move |(_, error)| error.class() == class)
    };
    // The first gives its name, and the others add their reasons, so that none is lost.
    let failure = |(run, error): (&HandlerReport, HandlerError)| {
        let others = handlers.iter().filter(|other| other.key != run.key);
        let others = others.filter_map(|other| Some(format!("; {}: {}", other.name, other.ended.error()?)));
        let reason = others.fold(error.to_string(), |reason, other| reason + &other);
        Failure { handler: Some(run.name), class: run.ended.name(), reason }
    };
    if let Some(failure) = failures(FailureClass::Retryable).next().map(failure) {
        let wait = if failures(FailureClass::Retryable)
            .all(|(run, _)| matches!(run.ended, Ended::Unfinished(_)))
        {
            RetryAfter::Now
        } else {
            let asked_for = failures(FailureClass::Retryable).filter_map(|(_, error)| error.minimum_delay());
            RetryAfter::Backoff(asked_for.max().unwrap_or_default())
        };
        return Verdict::Again { failure, wait };
    }
    match failures(FailureClass::Permanent).next().map(failure) {
        Some(failure) => Verdict::Never(failure),
        None => Verdict::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &'static str, ended: Ended) -> HandlerReport {
        HandlerReport { name, key: name.to_owned(), ended, took: Duration::ZERO }
    }

    fn failure(handler: &'static str, class: &'static str, reason: &str) -> Failure {
        Failure { handler: Some(handler), class, reason: reason.to_owned() }
    }

    #[test]
    fn a_retryable_failure_decides_before_a_permanent_one() {
        let runs = [
            run("a", Ended::Done),
            run("b", Ended::Failed(HandlerError::permanent("no such plan"))),
            run("c", Ended::Failed(HandlerError::retryable("busy"))),
        ];
        let again = Verdict::Again {
            failure: failure("c", "retryable", "busy; b: no such plan"),
            wait: RetryAfter::Backoff(Duration::ZERO),
        };
        assert_eq!(verdict(&runs), again);
        assert_eq!(verdict(&runs[..2]), Verdict::Never(failure("b", "permanent", "no such plan")));
        assert_eq!(verdict(&runs[..1]), Verdict::Done);
    }

    #[test]
    fn what_was_too_late_is_done_and_what_was_skipped_panicked_or_cut_off_comes_back() {
        assert_eq!(verdict(&[run("a", Ended::TooLate)]), Verdict::Done);
        for ended in [Ended::SkippedByBreaker, Ended::Panicked, Ended::TimedOut] {
            let class = ended.name();
            let Verdict::Again { failure, .. } = verdict(&[run("a", ended)]) else { panic!("{class}") };
            assert_eq!(failure.class, class);
        }
    }

    #[test]
    fn the_longest_wait_that_a_handler_asked_for_is_kept() {
        let asked =
            |hours| Ended::Failed(HandlerError::retryable("busy").retry_after(Duration::from_hours(hours)));
        let runs = [
            run("a", Ended::Failed(HandlerError::retryable("busy"))),
            run("b", asked(2)),
            run("c", asked(1)),
        ];
        let Verdict::Again { wait, .. } = verdict(&runs) else { panic!("two may succeed later") };
        assert_eq!(wait, RetryAfter::Backoff(Duration::from_hours(2)));
    }

    #[test]
    fn a_list_that_made_progress_goes_on_at_once_unless_something_else_has_to_wait() {
        let wait = |runs: &[HandlerReport]| match verdict(runs) {
            Verdict::Again { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        let unfinished =
            || run("push", Ended::Unfinished(HandlerError::unfinished("9 of 10 items were not tried")));
        assert_eq!(wait(&[unfinished()]).delay(7, 1.0), backoff::SHORTEST);
        let busy = run("bus", Ended::Failed(HandlerError::retryable("busy")));
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
        let again = || Verdict::Again { failure: busy(), wait: RetryAfter::Now };
        assert_eq!(again().within(Deliveries::Left), again());
        assert_eq!(again().within(Deliveries::UsedUp), Verdict::Never(busy()));
        let afresh = Verdict::AgainAfresh { failure: busy(), wait: RetryAfter::Now };
        assert_eq!(again().within(Deliveries::SendAgain), afresh);
        for deliveries in [Deliveries::Left, Deliveries::SendAgain, Deliveries::UsedUp] {
            assert_eq!(Verdict::Done.within(deliveries), Verdict::Done);
            assert_eq!(Verdict::Never(busy()).within(deliveries), Verdict::Never(busy()));
        }
    }
}
