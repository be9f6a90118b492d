//! The first try of a redrive: what the ledger shows of it.

use std::collections::BTreeSet;
use std::time::Duration;

use learnink_consumer::ledger::Entry;
use learnink_webhook::idempotency::run_key;

use super::letter::{InLedger, Letter};
use crate::ledger;

/// How a first try stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Every handler is done.
    Done,
    /// A delivery of it failed. It may be delivered again by itself.
    Failed {
        /// The reason.
        reason: String,
        /// When that delivery was settled: another time is another delivery.
        settled_at_ms: i64,
    },
    /// It is on the dead-letter queue again, for this reason.
    CameBack(String),
    /// A consumer works on it.
    InProgress,
    /// No consumer has claimed it yet.
    NotClaimed,
}

/// The deliveries of one try that have failed.
///
/// One of them proves nothing: an execution environment may still have the secret of before, which it reads again after
/// the failure. The second delivery comes within half a minute.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailedDeliveries(BTreeSet<i64>);

/// After so many failed deliveries, a try has failed.
const MOST_FAILED_DELIVERIES: usize = 2;

impl FailedDeliveries {
    /// Notes how the try stands, and says whether there is nothing to wait for.
    pub(crate) fn is_end(&mut self, trial: &Trial) -> bool {
        match trial {
            Trial::Done | Trial::CameBack(_) => true,
            Trial::Failed { settled_at_ms, .. } => {
                self.0.insert(*settled_at_ms);
                self.0.len() >= MOST_FAILED_DELIVERIES
            }
            Trial::InProgress | Trial::NotClaimed => false,
        }
    }
}

impl Trial {
    /// How the message of a `replay run` under `window` stands, by the ledger's entry `before` it was sent and `now`.
    pub(crate) fn of_run(window: &str, before: Option<&Entry>, now: Option<&Entry>) -> Self {
        judge(Some(window), before, now, None)
    }

    /// How it ended, for people; `name` is the message's, and `limit` how long it had.
    pub(crate) fn text(&self, name: &str, limit: Duration) -> String {
        let seconds = limit.as_secs();
        match self {
            Self::Done => format!("{name} is done"),
            Self::Failed { reason, .. } => format!("{name} failed again: {reason}"),
            Self::CameBack(reason) => format!("{name} is a dead letter again: {reason}"),
            Self::InProgress => format!("{name} did not end within {seconds} s: a consumer works on it"),
            Self::NotClaimed => format!("{name} did not end within {seconds} s: no consumer has claimed it"),
        }
    }
}

/// How a try stands, by the ledger's entry `before` it was sent and `now`, and by the letter that came back. Under the
/// replay window of a run, it is done once the ledger says so, whatever handlers the run does not ask for.
pub(super) fn judge(
    window: Option<&str>,
    before: Option<&Entry>,
    now: Option<&Entry>,
    came_back: Option<&Letter>,
) -> Trial {
    if let Some(letter) = came_back {
        return Trial::CameBack(letter.facts.reason.clone());
    }
    let Some(now) = now else { return Trial::NotClaimed };
    if window.is_some_and(|window| now.done.contains(&run_key(window))) {
        return Trial::Done;
    }
    match &now.lease {
        // The lease of a consumer that was killed before the letter came here.
        Some(_) if before.is_some_and(|before| before.lease == now.lease) => Trial::NotClaimed,
        Some(_) => Trial::InProgress,
        // Each settlement has its time.
        None if before
            .is_some_and(|before| before.lease.is_none() && before.settled_at_ms == now.settled_at_ms) =>
        {
            Trial::NotClaimed
        }
        None => match &now.failure_reason {
            Some(reason) => Trial::Failed { reason: reason.clone(), settled_at_ms: now.settled_at_ms },
            None => Trial::Done,
        },
    }
}

/// Whether the ledger has this message as done: a redrive of it would prove nothing. It is not if the ledger knows
/// another payload under its id.
pub(super) fn is_done(letter: &InLedger, entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| {
        let has_ended = match &letter.window {
            Some(window) => entry.done.contains(&run_key(window)),
            None => ledger::is_done(entry),
        };
        entry.payload_sha256 == letter.payload_sha256 && has_ended
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use learnink_consumer::ledger::Lease;
    use proptest::prelude::*;

    use super::super::letter::tests::letter;
    use super::*;

    fn entry(lease: Option<&str>, settled_at_ms: i64, failure_reason: Option<&str>) -> Entry {
        Entry {
            payload_sha256: "aa".to_owned(),
            done: BTreeSet::new(),
            lease: lease.map(|owner| Lease { owner: owner.to_owned(), until_ms: 9 }),
            settled_at_ms,
            first_seen_ms: 1,
            expires_at_s: 9,
            failure_reason: failure_reason.map(str::to_owned),
        }
    }

    #[test]
    fn a_try_is_done_only_once_it_was_settled_after_it_was_sent() {
        let before = entry(None, 5, Some("push: busy"));
        let judged = |now: Option<Entry>| judge(None, Some(&before), now.as_ref(), None);
        assert_eq!(judged(None), Trial::NotClaimed);
        assert_eq!(judged(Some(before.clone())), Trial::NotClaimed);
        assert_eq!(judged(Some(entry(Some("a"), 0, None))), Trial::InProgress);
        let failed = Trial::Failed { reason: "push: busy".to_owned(), settled_at_ms: 6 };
        assert_eq!(judged(Some(entry(None, 6, Some("push: busy")))), failed);
        assert_eq!(judged(Some(entry(None, 6, None))), Trial::Done);
    }

    #[test]
    fn a_try_has_failed_once_two_of_its_deliveries_have() {
        let failed = |settled_at_ms| Trial::Failed { reason: "busy".to_owned(), settled_at_ms };
        let mut deliveries = FailedDeliveries::default();
        assert!(!deliveries.is_end(&Trial::NotClaimed) && !deliveries.is_end(&failed(1)));
        assert!(!deliveries.is_end(&failed(1)), "the same delivery, looked at again");
        assert!(!deliveries.is_end(&Trial::InProgress));
        assert!(deliveries.is_end(&failed(2)));
        let mut mended = FailedDeliveries::default();
        assert!(!mended.is_end(&failed(1)));
        assert!(mended.is_end(&Trial::Done) && mended.is_end(&Trial::CameBack("busy".to_owned())));
    }

    #[test]
    fn the_lease_of_a_consumer_that_was_killed_is_not_progress() {
        let killed = entry(Some("old"), 0, None);
        assert_eq!(judge(None, Some(&killed), Some(&killed), None), Trial::NotClaimed);
        assert_eq!(judge(None, Some(&killed), Some(&entry(Some("new"), 0, None)), None), Trial::InProgress);
        assert_eq!(judge(None, Some(&killed), Some(&entry(None, 3, None)), None), Trial::Done);
    }

    #[test]
    fn what_the_ledger_did_not_know_is_done_once_it_does() {
        assert_eq!(judge(None, None, None, None), Trial::NotClaimed);
        assert_eq!(judge(None, None, Some(&entry(None, 3, None)), None), Trial::Done);
    }

    #[test]
    fn a_letter_that_came_back_says_why_whatever_the_ledger_says() {
        let letter = letter("msg_1", "push", "no such plan");
        let judged = judge(None, None, Some(&entry(None, 3, None)), Some(&letter));
        assert_eq!(judged, Trial::CameBack("no such plan".to_owned()));
    }

    #[test]
    fn what_is_done_already_proves_nothing() {
        let message = letter("msg_1", "push", "busy").in_ledger.unwrap();
        let of = |sha: &str, entry: Entry| Entry { payload_sha256: sha.to_owned(), ..entry };
        let is_done = |entry: Entry| is_done(&message, Some(&entry));
        assert!(is_done(of(&message.payload_sha256, entry(None, 3, None))));
        assert!(!is_done(of(&message.payload_sha256, entry(None, 3, Some("push: busy")))));
        assert!(!is_done(of(&message.payload_sha256, entry(Some("a"), 0, None))));
        assert!(!is_done(of("another", entry(None, 3, None))));
        assert!(!super::is_done(&message, None));
    }

    proptest! {
        #[test]
        fn nothing_is_done_that_has_a_reason_a_lease_or_the_time_of_before(
            before in prop::option::of((prop::option::of(Just("a")), 0_i64..3, prop::option::of(Just("busy")))),
            now in (prop::option::of(prop_oneof![Just("a"), Just("b")]), 0_i64..3, prop::option::of(Just("busy"))),
        ) {
            let before = before.map(|(lease, at, reason)| entry(lease, if lease.is_some() { 0 } else { at }, reason));
            let now = entry(now.0, if now.0.is_some() { 0 } else { now.1 }, now.2);
            let is_same = before.as_ref().is_some_and(|before| {
                (&before.lease, before.settled_at_ms) == (&now.lease, now.settled_at_ms)
            });
            let done = judge(None, before.as_ref(), Some(&now), None) == Trial::Done;
            prop_assert_eq!(done, !is_same && now.lease.is_none() && now.failure_reason.is_none());
        }
    }
}
