//! The key under which a piece of work is done once.
//!
//! A message id alone is too coarse: a message goes to several handlers, a handler may send hundreds of
//! notifications for it, and an operator may ask for all of it again. So a key names the message, the
//! handler, the [replay window](crate::replay) where there is one, and the item:
//!
//! ```text
//! msg_2Xb/push          msg_2Xb/push/17          msg_2Xb/push@1f0c/17
//! ```
//!
//! Every attempt at the same work has the same key, so that whoever is called twice with it, because the
//! first call's success never reached the ledger, can see that it is the same work. The ledger keeps the
//! part after the message id, and `push/17!` for an item that was refused.

use std::fmt;

use crate::message::MessageId;

/// Separates the message id, the handler and the item.
const PART: char = '/';

/// Follows an item that was refused.
const REFUSED: char = '!';

/// Separates a handler from the replay window that runs it again.
const REPLAY: char = '@';

/// Names one piece of work in the whole world. Hand it on as the idempotency key of whatever the work
/// calls: an `Idempotency-Key` header, an id to write under, a condition.
///
/// Visible ASCII, at most 400 bytes: 256 for the message id, and a handler's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key of what `task`, such as `push` or `push@1f0c`, does for a message.
    pub fn new(id: &MessageId, task: &str) -> Self {
        Self(format!("{id}{PART}{task}"))
    }

    /// The key of one item of it, by its position in the payload.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self(item_key(&self.0, index))
    }

    /// The key as it is handed on.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ledger's key of a handler that a replay window runs again.
pub(crate) fn replay_key(handler: &str, window: &str) -> String {
    format!("{handler}{REPLAY}{window}")
}

/// The ledger's key of one item of a task.
pub(crate) fn item_key(task: &str, index: usize) -> String {
    format!("{task}{PART}{index}")
}

/// The ledger's key of an item that will never succeed.
pub(crate) fn refused_key(task: &str, index: usize) -> String {
    format!("{task}{PART}{index}{REFUSED}")
}

/// The items of a task that were refused, by their positions, among the keys of what is done.
pub(crate) fn refused_of<'a>(
    task: &'a str,
    done: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = usize> {
    done.filter_map(move |key| {
        key.strip_suffix(REFUSED)?.strip_prefix(task)?.strip_prefix(PART)?.parse().ok()
    })
}

/// The items of a task, by their positions, among the keys of what is done.
pub(crate) fn items_of<'a>(
    task: &'a str,
    done: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = usize> {
    done.filter_map(move |key| key.strip_prefix(task)?.strip_prefix(PART)?.parse().ok())
}

/// Whether a handler's name can be part of a key: 1 to 64 of `a-z`, `0-9`, `_`, `-` and `.`, and not a number,
/// which is what an item is called.
pub(crate) fn is_handler_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_message_handler_replay_and_item() {
        let id = MessageId::parse("msg_1").unwrap();
        assert_eq!(IdempotencyKey::new(&id, "push").item(17).as_str(), "msg_1/push/17");
        let replayed = IdempotencyKey::new(&id, &replay_key("push", "1f0c"));
        assert_eq!(replayed.item(0).as_str(), "msg_1/push@1f0c/0");
    }

    #[test]
    fn only_the_items_of_the_task_itself_are_found() {
        let done = ["push", "push/1", "push/20", "push/7!", "push@1f0c/3", "pushes/4", "push/x"];
        let items = |task| items_of(task, done.into_iter()).collect::<Vec<_>>();
        assert_eq!(items("push"), [1, 20]);
        assert_eq!(items("push@1f0c"), [3]);
        assert_eq!(refused_of("push", done.into_iter()).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_name_that_would_blur_keys_is_refused() {
        for name in ["push", "course-progress", "v2.audit_log"] {
            assert!(is_handler_name(name), "{name}");
        }
        for name in ["", "a/b", "a@b", "Push", "push it", "17", &"x".repeat(65)] {
            assert!(!is_handler_name(name), "{name}");
        }
    }
}
