//! Causes: dead letters grouped by what has to be put right.
//!
//! A cause is a handler and a reason, without what differs from message to message: ids, numbers, times and quoted
//! values. Its short name is a hash of these, so that it is the same tomorrow, on another machine and in another
//! version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jiff::Timestamp;
use learnink_consumer::dead_letter::{DeadLetterReason, SKIPPED};
use learnink_consumer::ledger::payload_sha256;
use regex::{Captures, Regex};
use serde::Serialize;

use super::letter::Letter;

/// Stands for what varies.
const VARIES: &str = "…";

/// How many characters the short name has. Of a hundred causes, two have the same name once in three thousand
/// queues; they are then redriven together.
const NAME_CHARACTERS: usize = 6;

/// Why letters are on the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Cause {
    /// The short name.
    pub(super) name: String,
    /// The handler that failed, if one ran.
    pub(super) handler: Option<String>,
    /// The reason, without what varies.
    pub(super) reason: String,
}

impl Cause {
    /// The cause of a letter with this reason. `handler` is the one that is written beside the letter.
    pub(super) fn of(handler: Option<&str>, reason: &DeadLetterReason) -> Self {
        let (handler, reason) = match reason {
            // The ledger has the handler in front of the reason; beside a letter it has an attribute of its own.
            DeadLetterReason::LastFailure(reason) => match split_handler(reason) {
                Some((handler, reason)) => (Some(handler), reason.to_owned()),
                None => (handler, reason.clone()),
            },
            reason => (handler, reason.to_string()),
        };
        // What was skipped has the cause of what failed before it.
        let reason = stripped(&reason.replace(SKIPPED, ""));
        let mut name = payload_sha256(format!("{}\n{reason}", handler.unwrap_or("-")).as_bytes());
        name.truncate(NAME_CHARACTERS);
        Self { name, handler: handler.map(str::to_owned), reason }
    }
}

/// The handler and the reason of `push: busy`. Only a handler's name is one word in front of a colon.
fn split_handler(reason: &str) -> Option<(&str, &str)> {
    let (handler, rest) = reason.split_once(": ")?;
    let is_of_a_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (!handler.is_empty() && handler.bytes().all(is_of_a_name)).then_some((handler, rest))
}

/// What varies in a reason, or must not be taken for it: the first group. A status is what distinguishes one cause
/// from another.
static PARTS: LazyLock<Regex> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the pattern is constant, and every test here uses it")]
    Regex::new(concat!(
        r#"\b((?:answered|refused it with|status|HTTP|code) [1-5][0-9]{2})\b"#,
        r#"|"[^"]*""#,
        r#"|(?:^|\B)'[^']*'(?:\B|$)"#,
        r#"|[\p{L}\p{N}_+:.@/%#-]+"#,
    ))
    .expect("the pattern is valid")
});

/// Several in a row, such as a list of numbers, are as one.
static LISTS: LazyLock<Regex> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the pattern is constant, and every test here uses it")]
    Regex::new(r"…(?:[\s,;/-]*(?:…|\.\.\.))+").expect("the pattern is valid")
});

/// A reason without what varies: each word with a digit, each id, and each text in quotes is `…`. Text in backticks
/// stays: it is the name of something in the code or in the event's schema.
pub(super) fn stripped(reason: &str) -> String {
    let replaced = PARTS.replace_all(reason, |found: &Captures<'_>| {
        let part = &found[0];
        if found.get(1).is_some() {
            return part.to_owned();
        }
        if part.starts_with(['"', '\'']) {
            return VARIES.to_owned();
        }
        // What ends a sentence or a clause is not part of the word.
        let word = part.trim_end_matches(['.', ':', ',']);
        let end = part.get(word.len()..).unwrap_or_default();
        if varies(word) { format!("{VARIES}{end}") } else { part.to_owned() }
    });
    let words = replaced.split_whitespace().collect::<Vec<_>>().join(" ");
    LISTS.replace_all(&words, VARIES).into_owned()
}

/// Whether a word is a number, a time or an id.
fn varies(word: &str) -> bool {
    // An id such as `msg_pXjNQ`: what is in front of the underscore says what it names.
    let is_id = word.split_once('_').is_some_and(|(kind, id)| {
        let has = |is: fn(char) -> bool| id.chars().any(is);
        kind.len() <= 5 && has(|c| c.is_ascii_uppercase()) && has(|c| c.is_ascii_lowercase())
    });
    is_id || word.contains('@') || word.chars().any(char::is_numeric)
}

/// The letters of one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    #[serde(flatten)]
    pub(super) cause: Cause,
    /// How many letters have it.
    pub(super) count: usize,
    /// The types of their events, as far as they have one.
    pub(super) types: BTreeSet<String>,
    /// When the receiver accepted the oldest of them.
    pub(super) oldest: Option<Timestamp>,
    /// When the first of them expires; missing on a laptop, where none does.
    pub(super) expires_at: Option<Timestamp>,
}

/// The letters by cause; the largest group first.
pub(super) fn grouped<'a>(letters: impl IntoIterator<Item = &'a Letter>) -> Vec<Group> {
    let mut groups: BTreeMap<&Cause, Group> = BTreeMap::new();
    let earliest = |a: Option<Timestamp>, b: Option<Timestamp>| a.into_iter().chain(b).min();
    for letter in letters {
        let group = groups.entry(&letter.cause).or_insert_with(|| Group {
            cause: letter.cause.clone(),
            count: 0,
            types: BTreeSet::new(),
            oldest: None,
            expires_at: None,
        });
        group.count += 1;
        group.types.extend(letter.facts.event_type.clone());
        group.oldest = earliest(group.oldest, letter.facts.received_at);
        group.expires_at = earliest(group.expires_at, letter.expires_at);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|a, b| (b.count, &a.cause).cmp(&(a.count, &b.cause)));
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::letter::tests::letter;
    use super::*;

    fn said(handler: &str, reason: &str) -> Cause {
        Cause::of(Some(handler), &DeadLetterReason::Said(reason.to_owned()))
    }

    #[test]
    fn what_varies_is_stripped_and_what_has_to_be_put_right_stays() {
        for (reason, expected) in [
            ("no such plan", "no such plan"),
            ("1 of 430 items failed, the first: busy", "… of … items failed, the first: busy"),
            (
                "3 of 50 items will never succeed (120, 121, 130), item 120: no such template",
                "… of … items will never succeed (…), item …: no such template",
            ),
            (
                "12 of 50 items will never succeed (1, 2, ...), item 1: no such template",
                "… of … items will never succeed (…), item …: no such template",
            ),
            ("the endpoint refused it with 422", "the endpoint refused it with 422"),
            ("the endpoint answered 401 after 1.5 s", "the endpoint answered 401 after … s"),
            (
                "the endpoint answered 401; check LEARNINK_PUSH_SECRET",
                "the endpoint answered 401; check LEARNINK_PUSH_SECRET",
            ),
            ("learner le2bB6Fi4C is unknown", "learner … is unknown"),
            ("no learner msg_pXjNQ here.", "no learner … here."),
            ("expired at 2026-01-02T10:00:00Z.", "expired at …."),
            ("the name \"Mary\" and 'Amy P' are refused", "the name … and … are refused"),
            ("it's the sender's fault", "it's the sender's fault"),
            (
                "`data` does not match the payload of `user.course.started`",
                "`data` does not match the payload of `user.course.started`",
            ),
            ("AWS throttled the call (ThrottlingException)", "AWS throttled the call (ThrottlingException)"),
            ("call +254705408079 or mary@example.org", "call … or …"),
            ("plan  83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8\n is gone", "plan … is gone"),
        ] {
            assert_eq!(stripped(reason), expected);
        }
    }

    #[test]
    fn a_cause_has_the_same_name_tomorrow_and_wherever_its_reason_was_written() {
        let beside = said("push", "1 of 2 items failed, the first: busy");
        assert_eq!(beside.name, "03e75e");
        let of_ledger =
            DeadLetterReason::LastFailure("push: 7 of 9 items failed, the first: busy".to_owned());
        assert_eq!(Cause::of(None, &of_ledger), beside);
        let skipped = format!("{SKIPPED}1 of 3 items failed, the first: busy");
        assert_eq!(said("push", &skipped), beside);
        assert_eq!(Cause::of(None, &DeadLetterReason::LastFailure(format!("push: {skipped}"))), beside);
        assert_ne!(said("forward", "1 of 2 items failed, the first: busy").name, beside.name);
        let without = DeadLetterReason::LastFailure("could not claim a message: no answer".to_owned());
        assert_eq!(Cause::of(None, &without).handler, None);
    }

    #[test]
    fn letters_are_grouped_by_cause_the_largest_group_first() {
        let mut letters: Vec<_> =
            (0..3).map(|n| letter(&format!("msg_{n}"), "push", &format!("{n} busy"))).collect();
        letters.insert(1, letter("msg_9", "progress", "no such plan"));
        letters[3].facts.event_type = Some("b".to_owned());
        letters[2].facts.received_at = Some("2025-01-01T00:00:00Z".parse().unwrap());
        let groups = grouped(&letters);
        let counts: Vec<_> = groups.iter().map(|group| (group.cause.reason.as_str(), group.count)).collect();
        assert_eq!(counts, [("… busy", 3), ("no such plan", 1)]);
        assert_eq!(groups[0].types, BTreeSet::from(["b".to_owned(), "example.type".to_owned()]));
        assert_eq!(groups[0].oldest, letters[2].facts.received_at);
    }

    proptest! {
        #[test]
        fn a_stripped_reason_has_no_digits_but_those_of_a_status(reason in "[a-zé\"'`(),:;. 0-9+@_-]{0,60}|\\PC{0,40}") {
            let once = stripped(&reason);
            let rest = Regex::new("(answered|refused it with|status|HTTP|code) [1-5][0-9]{2}").unwrap().replace_all(&once, "").into_owned();
            prop_assert!(!rest.contains(|c: char| c.is_ascii_digit()), "{once:?}");
        }

        #[test]
        fn a_cause_does_not_depend_on_numbers(a in any::<u32>(), b in any::<u32>()) {
            let cause = |n: u32| said("push", &format!("{n} of {n} items failed, item {n}: plan p-{n} is gone"));
            prop_assert_eq!(cause(a), cause(b));
        }

        #[test]
        fn no_letter_is_lost_by_grouping(reasons in prop::collection::vec("[ab]{1,2}", 0..20)) {
            let letters: Vec<_> = reasons.iter().map(|reason| letter("msg_1", "push", reason)).collect();
            prop_assert_eq!(grouped(&letters).iter().map(|group| group.count).sum::<usize>(), letters.len());
        }
    }
}
