//! A part of a list that is too long for one message.
//!
//! A list of thousands would take more deliveries than a message has. So the consumer cuts it into parts, each a
//! message of its own on the queue: the same signed body, and an attribute that names the handler and the items.
//! Parts run concurrently, and each has its own ledger entry and receive count. Called systems see no difference:
//! the items have the same idempotency keys as in the whole list.

use std::fmt;
use std::ops::Range;

use crate::idempotency::window_of;

/// The longest list that is not cut, and the length of the parts of a longer one.
///
/// An environment runs some 16 items at a time. Ten parts of 100 in one batch take 19 s at 300 ms an item, which
/// is about one invocation. At a second an item, they take four of their deliveries. A list that makes progress is
/// sent again after its last delivery, so that 100 items, one at each delivery, take 15 sends. Lambda stops a
/// message after some 16 rounds through the same function.
/// Source: AWS Lambda developer guide, "Use Lambda recursive loop detection to prevent infinite loops".
///
/// While only some parts of a list are on the queue, a change of this length, or a rollback to a consumer without
/// parts, cuts that list anew. Items are then sent twice, under the same keys.
pub const LONGEST_PART: usize = 100;

/// Which items of which list a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    task: String,
    range: Range<usize>,
    items: usize,
    is_named: bool,
}

/// A `part` attribute that was not written by a consumer. The value is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a part: expected `task/first-last/items`")]
pub struct UnusablePart;

impl Part {
    /// The parts of at most `longest` items each that a list of `items` items is cut into. `task` is the ledger's
    /// key of the work, such as `push` or `push@1f0c`; `is_named` says whether a replay window asks for its
    /// handler by name.
    pub fn all_of(task: &str, items: usize, longest: usize, is_named: bool) -> impl Iterator<Item = Self> {
        let longest = longest.max(1);
        (0..items).step_by(longest).map(move |first| Self {
            task: task.to_owned(),
            range: first..first.saturating_add(longest).min(items),
            items,
            is_named,
        })
    }

    /// Reads the attribute's value, as [`Display`](fmt::Display) writes it.
    ///
    /// # Errors
    ///
    /// [`UnusablePart`] for any other text.
    pub fn parse(text: &str) -> Result<Self, UnusablePart> {
        let mut fields = text.split('/');
        let (Some(task), Some(range), Some(items)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(UnusablePart);
        };
        let is_named = match fields.next() {
            None => false,
            Some(NAMED) => true,
            Some(_) => return Err(UnusablePart),
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| UnusablePart);
        let (first, last) = range.split_once('-').ok_or(UnusablePart)?;
        let (first, last, items) = (number(first)?, number(last)?, number(items)?);
        if task.is_empty() || first > last || last >= items {
            return Err(UnusablePart);
        }
        let part = Self { task: task.to_owned(), range: first..last + 1, items, is_named };
        // Only this form, because it is part of a ledger's key.
        if part.to_string() == text { Ok(part) } else { Err(UnusablePart) }
    }

    /// The ledger's key of the work: the handler's name, or a replay's.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The handler whose list it is.
    pub fn handler(&self) -> &str {
        window_of(&self.task).0
    }

    /// The replay window that runs the handler again, if one does.
    pub fn window(&self) -> Option<&str> {
        window_of(&self.task).1
    }

    /// The positions of its items in the whole list.
    pub const fn range(&self) -> &Range<usize> {
        &self.range
    }

    /// How many items the whole list has.
    pub const fn items(&self) -> usize {
        self.items
    }

    /// Whether a replay window names its handler. Then no event is too old for it.
    pub const fn is_named(&self) -> bool {
        self.is_named
    }

    /// Which part of the task it is, as a ledger's key has it: `push/100-199`.
    pub fn key(&self) -> String {
        // A part is never empty.
        format!("{}/{}-{}", self.task, self.range.start, self.range.end.saturating_sub(1))
    }
}

/// Ends the attribute of a part whose handler a replay window names.
const NAMED: &str = "named";

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key(), self.items)?;
        if self.is_named { write!(f, "/{NAMED}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_is_cut_into_parts_that_have_each_item_once() {
        let parts: Vec<_> = Part::all_of("push", 250, 100, false).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["push/0-99/250", "push/100-199/250", "push/200-249/250"]);
        assert_eq!(Part::all_of("push", 0, 100, false).count(), 0);
        assert_eq!(
            Part::all_of("push@1f0c", 1, 0, true).next().unwrap().to_string(),
            "push@1f0c/0-0/1/named"
        );
    }

    #[test]
    fn a_part_names_its_handler_and_the_window_that_runs_it_again() {
        let read = |text: &str| {
            let part = Part::parse(text).unwrap();
            let window = part.window().map(str::to_owned);
            (part.task().to_owned(), part.handler().to_owned(), window, part.is_named(), part.items())
        };
        let push = || "push".to_owned();
        assert_eq!(read("push/0-9/10"), (push(), push(), None, false, 10));
        let window = Some("1f0c".to_owned());
        assert_eq!(read("push@1f0c/10-19/25/named"), ("push@1f0c".to_owned(), push(), window, true, 25));
    }

    #[test]
    fn anything_but_a_part_is_refused() {
        for text in [
            "",
            "push",
            "push/0-9",
            "push/9-0/10",
            "push/0-10/10",
            "/0-9/10",
            "push/00-9/10",
            "push/0-9/10/",
            "push/a-9/10",
            "push/0-9/10/named/x",
            "push/+0-9/10",
            "push/0-9/99999999999999999999",
        ] {
            assert_eq!(Part::parse(text), Err(UnusablePart), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_part_is_read_back(items in 1_usize..5_000, longest in 1_usize..300, is_named in any::<bool>()) {
            let mut next = 0;
            for part in Part::all_of("push", items, longest, is_named) {
                prop_assert_eq!(Part::parse(&part.to_string()), Ok(part.clone()));
                prop_assert_eq!(part.range().start, next);
                prop_assert!(part.range().len() <= longest);
                next = part.range().end;
            }
            prop_assert_eq!(next, items);
        }
    }
}
