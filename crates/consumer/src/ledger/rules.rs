//! The ledger's rules: who may do which part of the work for a message.
//!
//! The ledger has one entry per message, under its message id, which survives retries, resends, replays and
//! redrives. The entry records the [keys](learnink_webhook::idempotency) of what is done: of each finished handler, of the
//! finished items of an unfinished one, of replays. It says who works on the rest, and until when. A store keeps
//! entries and applies these rules with conditional writes; see `ledger` in the consumer. `docs/ledger.md` has the whole
//! protocol, and `crates/proof` visits every state of it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use learnink_webhook::message::{Message, MessageId, Part};
use sha2::{Digest, Sha256};

/// How long an entry is remembered. It must outlive every automatic path by which a message returns: 28 hours of
/// the sender's retries, 4 days on the queue, 14 days on the dead-letter queue.
pub const REMEMBERED_FOR: Duration = Duration::from_hours(720);

/// A lease is never shorter than this, so that a claim made in the last moments of an invocation still ends in the
/// future.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// The key of an entry: the message id, or for a [`Part`] of a list the message id, a full stop, and which part it
/// is: `msg_2Xb.push/100-199`. Message ids do not have full stops, so that a part is not mistaken for another
/// message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(String);

impl EntryId {
    /// The entry of a message, or of the part that it is.
    pub fn of(message: &Message) -> Self {
        message.part.as_ref().map_or_else(|| Self::from(&message.id), |part| Self::of_part(&message.id, part))
    }

    /// The entry of a part of a message's list.
    pub fn of_part(id: &MessageId, part: &Part) -> Self {
        Self(format!("{id}.{}", part.key()))
    }

    /// An entry that no message has, to try a ledger with.
    pub(crate) fn of_trial(name: &str) -> Self {
        Self(format!("trial.{name}"))
    }

    /// The key as the table has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&MessageId> for EntryId {
    fn from(id: &MessageId) -> Self {
        Self(id.as_str().to_owned())
    }
}

impl From<MessageId> for EntryId {
    fn from(id: MessageId) -> Self {
        Self::from(&id)
    }
}

impl From<&Self> for EntryId {
    fn from(id: &Self) -> Self {
        id.clone()
    }
}

/// A request to start work on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The message, or the part of its list.
    pub id: EntryId,
    /// [`payload_sha256`] of its body.
    pub payload_sha256: String,
    /// The keys of the work that may be left, such as handlers' names; at least one.
    pub keys: Vec<String>,
    /// Names the invocation and the record in it. It must be unique.
    pub owner: String,
    /// The time.
    pub now: Timestamp,
    /// How long the owner may work: the rest of its invocation.
    pub lease: Duration,
    /// Whether the ledger probably does not know the message yet. It decides how the ledger is asked, and never
    /// changes the answer.
    pub probably_new: bool,
}

impl ClaimRequest {
    /// When the lease ends, in milliseconds since the epoch.
    pub fn lease_until_ms(&self) -> i64 {
        self.now.as_millisecond().saturating_add(millis(self.lease.max(SHORTEST_LEASE)))
    }

    /// When the entry is forgotten, in seconds since the epoch.
    pub fn expires_at_s(&self) -> i64 {
        expires_at_s(self.now)
    }

    /// The entry of a message that is claimed for the first time.
    pub fn new_entry(&self) -> Entry {
        Entry {
            payload_sha256: self.payload_sha256.clone(),
            done: BTreeSet::new(),
            lease: Some(Lease { owner: self.owner.clone(), until_ms: self.lease_until_ms() }),
            settled_at_ms: 0,
            first_seen_ms: self.now.as_millisecond(),
            expires_at_s: self.expires_at_s(),
            failure_reason: None,
        }
    }
}

/// When an entry written at `now` is forgotten, in seconds since the epoch.
pub fn expires_at_s(now: Timestamp) -> i64 {
    now.as_second().saturating_add(millis(REMEMBERED_FOR) / 1000)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The hash by which the ledger recognises a payload: lower-case hexadecimal SHA-256.
pub fn payload_sha256(body: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        // Writing to a `String` does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The ledger's record of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The payload of the first delivery, as [`payload_sha256`].
    pub payload_sha256: String,
    /// The keys of what is done.
    pub done: BTreeSet<String>,
    /// Who works on it, if anybody.
    pub lease: Option<Lease>,
    /// When the last owner settled, in milliseconds since the epoch; 0 while it is claimed, and before.
    pub settled_at_ms: i64,
    /// When the message was claimed for the first time, in milliseconds since the epoch.
    pub first_seen_ms: i64,
    /// When the entry expires, in seconds since the epoch. DynamoDB deletes it up to days later, so every rule
    /// compares it. Source: DynamoDB developer guide, "Time to Live".
    pub expires_at_s: i64,
    /// Why the last delivery did not finish, for the person on call.
    pub failure_reason: Option<String>,
}

impl Entry {
    /// Whether the entry has expired at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at_s <= now.as_second()
    }

    /// Its history, for the next owner.
    fn history(&self) -> History {
        History { done: self.done.clone(), first_seen_ms: self.first_seen_ms }
    }
}

/// The right to work on a message until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub owner: String,
    /// When it expires, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// The history of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The keys of what is done.
    pub done: BTreeSet<String>,
    /// When it was claimed for the first time, in milliseconds since the epoch.
    pub first_seen_ms: i64,
}

impl History {
    /// Whether a claim at `at` was the first, as far as the ledger remembers. Another consumer, whose clock differs, may
    /// have claimed it first in the very same millisecond: then something is done, or nothing is lost.
    pub fn is_new(&self, at: Timestamp) -> bool {
        self.done.is_empty() && self.first_seen_ms == at.as_millisecond()
    }

    /// When it was claimed for the first time; `None` if the entry does not hold a valid time.
    pub fn first_seen(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.first_seen_ms).ok()
    }
}

/// The ledger's answer to a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The claim succeeded: run everything that is not done.
    Acquired(History),
    /// All of it was done before: a duplicate.
    Completed(History),
    /// Another owner works on it, or did after the request was made.
    InProgress {
        /// When its lease ends, or ended, in milliseconds since the epoch.
        until_ms: i64,
    },
    /// The same id was seen with another payload. Never run: one of the two is not genuine.
    PayloadMismatch,
}

/// Decides about a claim. `entry` is the ledger's, `None` for a message that it does not know.
pub fn judge(entry: Option<&Entry>, request: &ClaimRequest) -> Claim {
    let Some(entry) = entry.filter(|entry| !entry.has_expired(request.now)) else {
        return Claim::Acquired(request.new_entry().history());
    };
    if entry.payload_sha256 != request.payload_sha256 {
        return Claim::PayloadMismatch;
    }
    if request.keys.iter().all(|key| entry.done.contains(key)) {
        return Claim::Completed(entry.history());
    }
    match &entry.lease {
        // The same owner: its first request was carried out, and the answer was lost.
        Some(lease) if lease.owner != request.owner && lease.until_ms > request.now.as_millisecond() => {
            Claim::InProgress { until_ms: lease.until_ms }
        }
        // A request that was in flight for so long that others have worked on the message since. Its sender has
        // given up. With the lease, its later requests could still undo the others' marks.
        None if entry.settled_at_ms > request.now.as_millisecond() => {
            Claim::InProgress { until_ms: entry.settled_at_ms }
        }
        _ => Claim::Acquired(entry.history()),
    }
}

/// An owner's record when it stops, finished or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The message, or the part of its list.
    pub id: EntryId,
    /// Who claimed it.
    pub owner: String,
    /// The keys of all that is done, under this claim and before.
    pub done: BTreeSet<String>,
    /// Why the rest is not done, for the person on call: no payload, no personal data.
    pub failure_reason: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// Whether a settlement was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the ledger.
    Yes,
    /// The lease ended and another owner has claimed the message: nothing was written.
    LeaseLost,
}

/// Decides about a [`Settlement`] that the ledger refused, by the entry that it found instead. An entry without a
/// lease and with the same marks is our own: the first request was carried out, its answer was lost, and it was
/// sent again.
pub fn judge_settlement(entry: &Entry, settlement: &Settlement) -> Recorded {
    if entry.lease.is_none() && settlement.done.is_subset(&entry.done) {
        Recorded::Yes
    } else {
        Recorded::LeaseLost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn request(keys: &[&str]) -> ClaimRequest {
        ClaimRequest {
            id: MessageId::parse("msg_1").unwrap().into(),
            payload_sha256: "aa".to_owned(),
            keys: keys.iter().map(ToString::to_string).collect(),
            owner: "me".to_owned(),
            now: Timestamp::from_millisecond(NOW_MS).unwrap(),
            lease: Duration::from_secs(20),
            probably_new: true,
        }
    }

    fn entry(done: &[&str], lease: Option<(&str, i64)>) -> Entry {
        Entry {
            payload_sha256: "aa".to_owned(),
            done: done.iter().map(ToString::to_string).collect(),
            lease: lease.map(|(owner, until_ms)| Lease { owner: owner.to_owned(), until_ms }),
            settled_at_ms: 0,
            first_seen_ms: 7,
            expires_at_s: NOW_MS / 1000 + 1,
            failure_reason: None,
        }
    }

    fn judged(entry: &Entry) -> Claim {
        judge(Some(entry), &request(&["progress", "push"]))
    }

    fn history(done: &[&str]) -> History {
        History { done: done.iter().map(ToString::to_string).collect(), first_seen_ms: 7 }
    }

    fn acquired(done: &[&str]) -> Claim {
        Claim::Acquired(history(done))
    }

    fn acquired_anew() -> Claim {
        Claim::Acquired(History { done: BTreeSet::new(), first_seen_ms: NOW_MS })
    }

    #[test]
    fn a_message_never_seen_is_acquired() {
        assert_eq!(judge(None, &request(&["progress"])), acquired_anew());
    }

    #[test]
    fn a_message_is_new_only_if_nothing_is_done_and_this_claim_is_its_first() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert!(history(&[]).is_new(at(7)));
        assert!(!history(&[]).is_new(at(8)));
        assert!(!history(&["push"]).is_new(at(7)));
    }

    #[test]
    fn only_the_handlers_that_are_not_done_are_left() {
        assert_eq!(judged(&entry(&["progress"], None)), acquired(&["progress"]));
        assert_eq!(
            judged(&entry(&["progress", "push"], None)),
            Claim::Completed(history(&["progress", "push"]))
        );
    }

    #[test]
    fn a_handler_added_later_runs_for_a_message_done_before() {
        let before = entry(&["progress", "push"], None);
        let request = request(&["progress", "push", "archive"]);
        assert_eq!(judge(Some(&before), &request), acquired(&["progress", "push"]));
    }

    #[test]
    fn somebody_else_keeps_it_until_the_very_end_of_the_lease() {
        let held = entry(&[], Some(("other", NOW_MS + 1)));
        assert_eq!(judged(&held), Claim::InProgress { until_ms: NOW_MS + 1 });
        assert_eq!(judged(&entry(&[], Some(("other", NOW_MS)))), acquired(&[]));
    }

    #[test]
    fn a_request_made_before_another_owner_let_go_is_refused() {
        let let_go = |settled_at_ms| judged(&Entry { settled_at_ms, ..entry(&["progress"], None) });
        assert_eq!(let_go(NOW_MS + 1), Claim::InProgress { until_ms: NOW_MS + 1 });
        assert_eq!(let_go(NOW_MS), acquired(&["progress"]));
    }

    #[test]
    fn an_owner_whose_answer_got_lost_may_ask_again() {
        assert_eq!(judged(&entry(&[], Some(("me", NOW_MS + 9)))), acquired(&[]));
    }

    #[test]
    fn another_payload_under_the_same_id_is_never_run() {
        let other = Entry { payload_sha256: "bb".to_owned(), ..entry(&[], None) };
        assert_eq!(judged(&other), Claim::PayloadMismatch);
    }

    #[test]
    fn an_expired_entry_counts_as_gone_though_it_is_still_there() {
        let expired = Entry { expires_at_s: NOW_MS / 1000, ..entry(&["progress", "push"], None) };
        assert_eq!(judged(&expired), acquired_anew());
    }

    #[test]
    fn an_entry_is_forgotten_after_30_days() {
        let days_later = |days: i64| Timestamp::from_second(NOW_MS / 1000 + days * 24 * 60 * 60).unwrap();
        let entry = request(&["progress"]).new_entry();
        assert!(!entry.has_expired(days_later(29)));
        assert!(entry.has_expired(days_later(30)));
    }

    #[test]
    fn a_lease_ends_after_now_even_with_no_time_left() {
        let late = ClaimRequest { lease: Duration::ZERO, ..request(&["progress"]) };
        assert_eq!(late.lease_until_ms(), NOW_MS + 1000);
    }

    #[test]
    fn a_settlement_whose_answer_got_lost_is_recognised_and_another_owners_is_not() {
        let settlement = Settlement {
            id: MessageId::parse("msg_1").unwrap().into(),
            owner: "me".to_owned(),
            done: BTreeSet::from(["push".to_owned()]),
            failure_reason: None,
            now: Timestamp::from_millisecond(NOW_MS).unwrap(),
        };
        let judged = |entry| judge_settlement(&entry, &settlement);
        assert_eq!(judged(entry(&["progress", "push"], None)), Recorded::Yes);
        assert_eq!(judged(entry(&["progress"], None)), Recorded::LeaseLost);
        assert_eq!(judged(entry(&["push"], Some(("other", NOW_MS - 1)))), Recorded::LeaseLost);
    }

    #[test]
    fn a_part_has_an_entry_of_its_own_that_no_message_can_have() {
        let id = MessageId::parse("msg_1").unwrap();
        let part = Part::parse("push@1f0c/100-199/250").unwrap();
        let entry = EntryId::of_part(&id, &part);
        assert_eq!(entry.as_str(), "msg_1.push@1f0c/100-199");
        assert!(MessageId::parse(entry.as_str()).is_err());
    }

    #[test]
    fn the_hash_is_sha_256_in_hexadecimal() {
        assert_eq!(
            payload_sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    proptest! {
        #[test]
        fn nothing_done_is_ever_acquired_again_before_it_expires(
            done in proptest::collection::btree_set("[abc]", 0..4),
            wanted in proptest::collection::btree_set(0_usize..3, 1..4),
            lease in proptest::option::of((prop_oneof![Just("me"), Just("other")], -5_i64..5)),
            settled_ms in -5_i64..5,
            left_s in -2_i64..3,
        ) {
            let wanted: Vec<_> = wanted.into_iter().map(|index| ["a", "b", "c"][index]).collect();
            let entry = Entry {
                payload_sha256: "aa".to_owned(),
                done: done.clone(),
                lease: lease.map(|(owner, ms)| Lease { owner: owner.to_owned(), until_ms: NOW_MS + ms }),
                settled_at_ms: NOW_MS + settled_ms,
                first_seen_ms: 7,
                expires_at_s: NOW_MS / 1000 + left_s,
                failure_reason: None,
            };
            let claim = judge(Some(&entry), &request(&wanted));
            let all_done = wanted.iter().all(|key| done.contains(*key));
            match claim {
                Claim::Acquired(history) if left_s > 0 => {
                    prop_assert!(!all_done);
                    prop_assert_eq!(history.done, done);
                }
                Claim::Acquired(history) => prop_assert!(history.done.is_empty()),
                Claim::Completed(history) => prop_assert!(all_done && left_s > 0 && history.done == done),
                Claim::InProgress { until_ms } => prop_assert!(until_ms > NOW_MS && left_s > 0),
                Claim::PayloadMismatch => prop_assert!(false, "the payload is the same"),
            }
        }
    }
}
