//! Idempotency keys: each names one piece of work.
//!
//! A message id alone is too coarse: a message goes to several handlers, a handler may send hundreds of
//! notifications for it, and an operator may replay all of it. So a key names the message, the handler, the
//! replay window if there is one, and the item:
//!
//! ```text
//! msg_2Xb/push          msg_2Xb/push/17          msg_2Xb/push@1f0c/17
//! ```
//!
//! Every attempt at the same work has the same key. If the success of a call did not reach the ledger and the call
//! is repeated, the called system can recognise the same work. The ledger keeps the part after the message id. For
//! a list that is not done, it also keeps:
//!
//! | key | says |
//! |---|---|
//! | `push/17!` | item 17 was refused |
//! | `push!17 no such learner` | why item 17 was refused; kept once for each reason |
//! | `push/100-199` | these items are on the queue, as a [part](crate::message::Part) |
//! | `push+2` | the list made progress, and none in the last two deliveries |
//!
//! And for a message that an operator has sent again under a replay window, `@1f0c`, once it is done.

use std::fmt;

use crate::message::MessageId;

/// Separates the message id, the handler and the item.
const PART: char = '/';

/// Follows an item that was refused.
pub(crate) const REFUSED: char = '!';

/// Separates a handler from the replay window that runs it again.
const REPLAY: char = '@';

/// Separates a task whose list made progress from the number of deliveries without progress since.
const WITHOUT_PROGRESS: char = '+';

/// Names one piece of work, globally unique. Pass it on as the idempotency key of the calls that the work makes:
/// an `Idempotency-Key` header, an id to write under, a condition.
///
/// Visible ASCII, at most 400 bytes: 256 for the message id, and a handler's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key of the work of `task`, such as `push` or `push@1f0c`, for a message.
    pub fn new(id: &MessageId, task: &str) -> Self {
        Self(format!("{id}{PART}{task}"))
    }

    /// The key of one item of it, by its position in the payload.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self(item_key(&self.0, index))
    }

    /// The key as text.
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
pub fn replay_key(handler: &str, window: &str) -> String {
    format!("{handler}{REPLAY}{window}")
}

/// The ledger's key of a message that `learnink replay run` has sent again under a window: every handler that the
/// window asks for has ended.
pub fn run_key(window: &str) -> String {
    replay_key("", window)
}

/// Whether a text can be the id of a replay window: 1 to 32 of `a-z` and `0-9`.
pub(crate) fn is_window_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The handler of a task, and the replay window that runs it again, if one does.
pub(crate) fn window_of(task: &str) -> (&str, Option<&str>) {
    task.split_once(REPLAY).map_or((task, None), |(handler, window)| (handler, Some(window)))
}

/// The ledger's key of one item of a task.
pub(crate) fn item_key(task: &str, index: usize) -> String {
    format!("{task}{PART}{index}")
}

/// The ledger's key of an item that will never succeed.
pub(crate) fn refused_key(task: &str, index: usize) -> String {
    format!("{task}{PART}{index}{REFUSED}")
}

/// The ledger's key of why an item will never succeed.
pub(crate) fn refusal_key(task: &str, index: usize, reason: &str) -> String {
    format!("{task}{REFUSED}{index} {reason}")
}

/// The ledger's key of a list that made progress, but not in the last `deliveries` deliveries.
pub fn without_progress_key(task: &str, deliveries: u32) -> String {
    format!("{task}{WITHOUT_PROGRESS}{deliveries}")
}

/// The number of deliveries without progress since a task's list last made some, from the keys of what is done.
pub fn without_progress_of<'a>(task: &str, mut done: impl Iterator<Item = &'a str>) -> Option<u32> {
    done.find_map(|key| key.strip_prefix(task)?.strip_prefix(WITHOUT_PROGRESS)?.parse().ok())
}

/// Splits the ledger's key of a list that made progress into its task, and the deliveries without progress since.
pub fn split_without_progress(key: &str) -> Option<(&str, u32)> {
    let (task, deliveries) = key.split_once(WITHOUT_PROGRESS)?;
    // The reason of a refusal may have anything in it.
    if task.contains(REFUSED) { None } else { Some((task, deliveries.parse().ok()?)) }
}

/// Why items of a task were refused, by their positions, among the keys of what is done.
pub(crate) fn refusals_of<'a>(
    task: &'a str,
    done: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = (usize, &'a str)> {
    done.filter_map(move |key| {
        let (index, reason) = key.strip_prefix(task)?.strip_prefix(REFUSED)?.split_once(' ')?;
        Some((index.parse().ok()?, reason))
    })
}

/// Whether a key belongs to the list of an unfinished task: an item, a part, a refusal or a mark.
pub fn is_of_list(task: &str, key: &str) -> bool {
    key.strip_prefix(task).is_some_and(|rest| rest.starts_with([PART, REFUSED, WITHOUT_PROGRESS]))
}

/// Whether a key records progress of a task's list: an item finished, or a part is on the queue.
pub(crate) fn is_progress_of(task: &str, key: &str) -> bool {
    let rest = key.strip_prefix(task).and_then(|rest| rest.strip_prefix(PART));
    rest.is_some_and(|rest| !rest.ends_with(REFUSED))
}

/// Whether a key records that an item of a task's list was refused, or why.
pub fn is_refusal_of(task: &str, key: &str) -> bool {
    let rest = key.strip_prefix(task);
    rest.is_some_and(|rest| rest.starts_with(REFUSED) || (rest.starts_with(PART) && rest.ends_with(REFUSED)))
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
/// because items are named by numbers.
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
        assert_eq!((run_key("1f0c"), run_key("1f0d")), ("@1f0c".to_owned(), "@1f0d".to_owned()));
        assert_eq!(window_of("push"), ("push", None));
        assert_eq!(window_of("push@1f0c"), ("push", Some("1f0c")));
    }

    #[test]
    fn the_deliveries_without_progress_are_read_from_their_key_alone() {
        for (key, expected) in [
            ("push+2", Some(("push", 2))),
            ("push@1f0c+11", Some(("push@1f0c", 11))),
            ("push", None),
            ("push/1", None),
            ("push+", None),
            ("push+two", None),
            ("push!7 asked for +1", None),
        ] {
            assert_eq!(split_without_progress(key), expected, "{key}");
        }
    }

    #[test]
    fn the_id_of_a_window_is_up_to_32_small_letters_and_digits() {
        for id in ["1f0c", "a", &"x".repeat(32)] {
            assert!(is_window_id(id), "{id}");
        }
        for id in ["", "A", "1f-0c", "1f0c ", &"x".repeat(33)] {
            assert!(!is_window_id(id), "{id}");
        }
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
    fn what_the_ledger_keeps_of_a_list_is_told_apart() {
        let list = ["push/1", "push/0-99", "push/7!", "push!7 no such plan!", "push+2"];
        let others = ["push", "push@1f0c/3", "pushes/4", "push@1f0c+1", "push-all!1 x"];
        for key in list {
            assert!(is_of_list("push", key), "{key}");
            assert_eq!(is_progress_of("push", key), ["push/1", "push/0-99"].contains(&key), "{key}");
            assert_eq!(is_refusal_of("push", key), key.contains('!'), "{key}");
        }
        for key in others {
            assert!(!is_of_list("push", key) && !is_progress_of("push", key), "{key}");
            assert!(!is_refusal_of("push", key), "{key}");
        }
        let refusals: Vec<_> = refusals_of("push", list.into_iter().chain(others)).collect();
        assert_eq!(refusals, [(7, "no such plan!")]);
        // A consumer that does not know these keys still reads the same items and refusals.
        assert_eq!(items_of("push", list.into_iter()).collect::<Vec<_>>(), [1]);
        assert_eq!(refused_of("push", list.into_iter()).collect::<Vec<_>>(), [7]);
        assert_eq!(refusal_key("push", 7, "busy"), "push!7 busy");
        assert_eq!(without_progress_key("push@1f0c", 2), "push@1f0c+2");
        assert_eq!(without_progress_of("push", list.into_iter().chain(others)), Some(2));
        assert_eq!(without_progress_of("push", others.into_iter()), None);
    }

    #[test]
    fn a_name_that_would_blur_keys_is_refused() {
        for name in ["push", "course-progress", "v2.audit_log", "x", &"x".repeat(64)] {
            assert!(is_handler_name(name), "{name}");
        }
        for name in ["", "a/b", "a@b", "Push", "push it", "17", &"x".repeat(65)] {
            assert!(!is_handler_name(name), "{name}");
        }
    }
}
