//! What the handlers of a record amount to.

use std::time::Duration;

use learnink_webhook::{FailureClass, HandlerError, backoff};

use crate::report::{Ended, Failure, HandlerReport};

/// What becomes of a message by what its handlers did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every one is done.
    Done,
    /// One at least may succeed later. Those that never will are run again with it, because what
    /// waits for a retry would not run on the dead-letter queue.
    Again { failure: Failure, wait: Wait },
    /// The rest will never succeed.
    Never(Failure),
}

/// How long a message waits before it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all: it got on, and goes on.
    AtOnce,
    /// As long as its receive count says, and this at least.
    Backoff(Duration),
}

impl Wait {
    /// At least so long.
    pub(crate) fn at_least(self, duration: Duration) -> Self {
        match self {
            Self::AtOnce if duration.is_zero() => self,
            Self::AtOnce => Self::Backoff(duration),
            Self::Backoff(minimum) => Self::Backoff(minimum.max(duration)),
        }
    }

    /// What that is after so many deliveries. `random` is uniform in `0..1`.
    pub(crate) fn delay(self, receive_count: u32, random: f64) -> Duration {
        match self {
            Self::AtOnce => backoff::SHORTEST,
            Self::Backoff(minimum) => backoff::delay(receive_count, random, Some(minimum)),
        }
    }
}

impl Verdict {
    /// Why the message is not done.
    pub(crate) const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Done => None,
            Self::Again { failure, .. } | Self::Never(failure) => Some(failure),
        }
    }
}

/// The verdict on what the handlers did.
pub(crate) fn verdict(handlers: &[HandlerReport]) -> Verdict {
    let failures = |class| {
        let failed = handlers.iter().filter_map(|run| Some((run, run.ended.error()?)));
        failed.filter(move |(_, error)| error.class() == class)
    };
    let failure = |(run, error): (&HandlerReport, HandlerError)| Failure {
        handler: Some(run.name),
        class: run.ended.name(),
        reason: error.to_string(),
    };
    if let Some(failure) = failures(FailureClass::Retryable).next().map(failure) {
        let wait = if failures(FailureClass::Retryable).all(|(run, _)| run.ended == Ended::Unfinished) {
            Wait::AtOnce
        } else {
            let asked_for = failures(FailureClass::Retryable).filter_map(|(_, error)| error.minimum_delay());
            Wait::Backoff(asked_for.max().unwrap_or_default())
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
            failure: failure("c", "retryable", "busy"),
            wait: Wait::Backoff(Duration::ZERO),
        };
        assert_eq!(verdict(&runs), again);
        assert_eq!(verdict(&runs[..2]), Verdict::Never(failure("b", "permanent", "no such plan")));
        assert_eq!(verdict(&runs[..1]), Verdict::Done);
    }

    #[test]
    fn what_was_too_late_is_done_and_what_was_spared_panicked_or_cut_off_comes_back() {
        assert_eq!(verdict(&[run("a", Ended::TooLate)]), Verdict::Done);
        for ended in [Ended::Spared, Ended::Panicked, Ended::TimedOut] {
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
        assert_eq!(wait, Wait::Backoff(Duration::from_hours(2)));
    }

    #[test]
    fn a_list_that_got_on_goes_on_at_once_unless_something_else_has_to_wait() {
        let wait = |runs: &[HandlerReport]| match verdict(runs) {
            Verdict::Again { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        let unfinished = || run("push", Ended::Unfinished);
        assert_eq!(wait(&[unfinished()]).delay(7, 1.0), backoff::SHORTEST);
        let busy = run("bus", Ended::Failed(HandlerError::retryable("busy")));
        assert_eq!(wait(&[unfinished(), busy]), Wait::Backoff(Duration::ZERO));
        assert_eq!(Wait::AtOnce.at_least(Duration::from_secs(9)).delay(1, 0.0), Duration::from_secs(9));
    }
}
