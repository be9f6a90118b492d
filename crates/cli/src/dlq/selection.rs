//! Which dead letters a command is about.

use std::collections::BTreeSet;

use anyhow::Context;
use clap::ArgGroup;
use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;

use super::letter::Letter;
use crate::replay::{Time, parse_time};

/// The options that choose letters. One of them is needed.
#[derive(Debug, Default, clap::Args)]
#[command(group(
    ArgGroup::new("chosen").required(true).multiple(true).args(["names", "types", "handlers", "since", "until", "all"])
))]
pub(super) struct FilterArgs {
    /// Letters with these message ids or SQS message ids, and letters of these causes, as `dlq causes` names them
    #[arg(value_name = "ID_OR_CAUSE", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "EVENT_TYPE", value_parser = NonEmptyStringValueParser::new())]
    types: Vec<String>,
    /// Only letters for which this handler failed; may be repeated
    #[arg(long = "handler", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    handlers: Vec<String>,
    /// Only webhooks that the receiver accepted at or after TIME
    #[arg(long = "received-since", id = "since", value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Only webhooks that the receiver accepted before TIME
    #[arg(long = "received-until", id = "until", value_name = "TIME", value_parser = parse_time)]
    until: Option<Time>,
    /// All letters
    #[arg(long, conflicts_with_all = ["names"])]
    all: bool,
    /// At most this many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Whether letters that no consumer can read are chosen by a filter, or only by their SQS message ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// By a filter too.
    Chosen,
    /// Only by name.
    OnlyNamed,
}

/// A filter with its times.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    names: Vec<String>,
    types: Vec<String>,
    handlers: Vec<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<usize>,
    text: String,
}

/// The chosen letters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection<'a> {
    /// The letters, the oldest first.
    pub(super) letters: Vec<&'a Letter>,
    /// How many letters fit the filter, and were left out because no consumer can read them.
    pub(super) foreign: usize,
}

/// How many names of a filter are kept with an act.
const KEPT_NAMES: usize = 5;

impl FilterArgs {
    /// The filter, at this time.
    pub(super) fn filter(&self, now: Timestamp) -> anyhow::Result<Filter> {
        let at = |time: Option<Time>, option: &str| {
            time.map(|time| time.at(now)).transpose().with_context(|| format!("{option} cannot be used"))
        };
        let (since, until) = (at(self.since, "--received-since")?, at(self.until, "--received-until")?);
        if let (Some(since), Some(until)) = (since, until) {
            anyhow::ensure!(since < until, "--received-until has to be later than --received-since");
        }
        Ok(Filter {
            names: self.names.clone(),
            types: self.types.clone(),
            handlers: self.handlers.clone(),
            since,
            until,
            limit: self.limit.map(usize::try_from).transpose()?,
            text: self.text(since, until),
        })
    }

    /// The filter for people, as the command line has it.
    fn text(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> String {
        let mut words: Vec<_> = self.names.iter().take(KEPT_NAMES).cloned().collect();
        if self.names.len() > KEPT_NAMES {
            words.push(format!("and {} more", self.names.len() - KEPT_NAMES));
        }
        let mut option = |name: &str, value: &dyn std::fmt::Display| words.push(format!("{name} {value}"));
        for value in &self.types {
            option("--type", value);
        }
        for value in &self.handlers {
            option("--handler", value);
        }
        if let Some(value) = &since {
            option("--received-since", value);
        }
        if let Some(value) = &until {
            option("--received-until", value);
        }
        if let Some(value) = &self.limit {
            option("--limit", value);
        }
        if self.all {
            words.push("--all".to_owned());
        }
        words.join(" ")
    }
}

impl Filter {
    /// The filter for people.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The letters that the filter chooses.
    ///
    /// # Errors
    ///
    /// The names that no letter has: a letter that was meant is not there, so that nothing should be done.
    pub(super) fn select<'a>(
        &self,
        letters: &'a [Letter],
        foreign: Foreign,
    ) -> Result<Selection<'a>, Vec<String>> {
        let unknown = self.names.iter().filter(|name| letters.iter().all(|letter| !is_named(letter, name)));
        let unknown: Vec<_> = unknown.cloned().collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let mut left_out = 0;
        let mut chosen = Vec::new();
        for letter in letters.iter().filter(|letter| self.fits(letter)) {
            let is_named_alone = self.names.contains(&letter.sqs_id);
            if letter.is_foreign && foreign == Foreign::OnlyNamed && !is_named_alone {
                left_out += 1;
            } else {
                chosen.push(letter);
            }
        }
        chosen.sort_by(|a, b| (age(a), &a.sqs_id).cmp(&(age(b), &b.sqs_id)));
        chosen.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(Selection { letters: chosen, foreign: left_out })
    }

    fn fits(&self, letter: &Letter) -> bool {
        let is_one_of = |wanted: &[String], value: Option<&String>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.contains(value))
        };
        let received_at = letter.facts.received_at;
        (self.names.is_empty() || self.names.iter().any(|name| is_named(letter, name)))
            && is_one_of(&self.types, letter.facts.event_type.as_ref())
            && is_one_of(&self.handlers, letter.cause.handler.as_ref())
            && self.since.is_none_or(|since| received_at.is_some_and(|at| since <= at))
            && self.until.is_none_or(|until| received_at.is_some_and(|at| at < until))
    }
}

/// Whether this is the letter's id, or the name of its cause.
pub(super) fn is_named(letter: &Letter, name: &str) -> bool {
    letter.sqs_id == name || letter.facts.message_id.as_deref() == Some(name) || letter.cause.name == name
}

/// By when a letter was received, or else sent.
pub(super) fn age(letter: &Letter) -> Option<Timestamp> {
    letter.facts.received_at.or(letter.sent_at)
}

/// Letters for a first try: of each cause the newest first, and the causes with most letters first. The newest,
/// because a handler may give up on an event that is old, so that an old letter is done without proving anything.
pub(super) fn candidates<'a>(letters: &[&'a Letter]) -> Vec<Vec<&'a Letter>> {
    let groups = super::cause::grouped(letters.iter().copied());
    let of_cause = |name: &str| {
        let mut of_cause: Vec<_> =
            letters.iter().copied().filter(|letter| letter.cause.name == name).collect();
        // One that the ledger cannot know is tried only if there is no other.
        of_cause.sort_by_key(|letter| (letter.in_ledger.is_none(), std::cmp::Reverse(age(letter))));
        of_cause
    };
    let names: Vec<_> = groups.iter().map(|group| group.cause.name.as_str()).collect();
    let mut taken = BTreeSet::new();
    names.into_iter().filter(|name| taken.insert(*name)).map(of_cause).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::super::letter::tests::letter;
    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn filter(arguments: &[&str]) -> Filter {
        let command = Command::try_parse_from([&["x"], arguments].concat()).unwrap();
        command.filter.filter("2026-06-01T00:00:00Z".parse().unwrap()).unwrap()
    }

    fn letters() -> Vec<Letter> {
        let mut letters = vec![
            letter("msg_1", "push", "busy"),
            letter("msg_2", "progress", "no such plan"),
            letter("msg_3", "push", "busy"),
        ];
        letters[1].facts.event_type = Some("other.type".to_owned());
        letters[2].facts.received_at = Some("2025-12-01T00:00:00Z".parse().unwrap());
        letters
    }

    fn chosen(arguments: &[&str]) -> Vec<String> {
        let letters = letters();
        let selection = filter(arguments).select(&letters, Foreign::OnlyNamed).unwrap();
        selection.letters.iter().map(|letter| letter.facts.message_id.clone().unwrap()).collect()
    }

    #[test]
    fn letters_are_chosen_by_id_cause_type_handler_and_time_the_oldest_first() {
        let busy = letters()[0].cause.name.clone();
        assert_eq!(chosen(&["--all"]), ["msg_3", "msg_1", "msg_2"]);
        assert_eq!(chosen(&["msg_2", "sqs-of-msg_1"]), ["msg_1", "msg_2"]);
        assert_eq!(chosen(&[&busy]), ["msg_3", "msg_1"]);
        assert_eq!(chosen(&["--type", "other.type"]), ["msg_2"]);
        assert_eq!(chosen(&["--handler", "push", "--received-since", "2026-01-01"]), ["msg_1"]);
        assert_eq!(chosen(&["--received-until", "2026-01-01"]), ["msg_3"]);
        assert_eq!(chosen(&["--all", "--limit", "1"]), ["msg_3"]);
        assert_eq!(chosen(&[&busy, "--type", "other.type"]), Vec::<String>::new());
    }

    #[test]
    fn something_has_to_be_chosen_and_all_is_not_some() {
        for arguments in [&["x"][..], &["x", "--limit", "3"], &["x", "--all", "msg_1"], &["x", ""]] {
            assert!(Command::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_name_that_no_letter_has_is_said() {
        let letters = letters();
        let unknown = filter(&["msg_1", "msg_9", "abcdef"]).select(&letters, Foreign::Chosen).unwrap_err();
        assert_eq!(unknown, ["msg_9", "abcdef"]);
    }

    #[test]
    fn what_nobody_can_read_is_redriven_only_by_its_sqs_message_id() {
        let mut letters = letters();
        letters[1].is_foreign = true;
        let cause = letters[1].cause.name.clone();
        for (arguments, foreign, count, left_out) in [
            (vec!["--all"], Foreign::OnlyNamed, 2, 1),
            (vec![cause.as_str()], Foreign::OnlyNamed, 0, 1),
            (vec!["sqs-of-msg_2"], Foreign::OnlyNamed, 1, 0),
            (vec!["--all"], Foreign::Chosen, 3, 0),
        ] {
            let selection = filter(&arguments).select(&letters, foreign).unwrap();
            assert_eq!((selection.letters.len(), selection.foreign), (count, left_out), "{arguments:?}");
        }
    }

    #[test]
    fn the_newest_of_the_largest_cause_is_tried_first() {
        let letters = letters();
        let candidates = candidates(&letters.iter().collect::<Vec<_>>());
        let ids: Vec<Vec<_>> = candidates
            .iter()
            .map(|group| group.iter().map(|letter| letter.sqs_id.as_str()).collect())
            .collect();
        assert_eq!(ids, [vec!["sqs-of-msg_1", "sqs-of-msg_3"], vec!["sqs-of-msg_2"]]);
    }

    #[test]
    fn an_act_says_what_was_asked_for() {
        let many: Vec<_> = (0..7).map(|n| format!("msg_{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(filter(&many).text(), "msg_0 msg_1 msg_2 msg_3 msg_4 and 2 more");
        assert_eq!(
            filter(&["--handler", "push", "--received-since", "1d ago", "--limit", "5"]).text(),
            "--handler push --received-since 2026-05-31T00:00:00Z --limit 5"
        );
    }

    proptest! {
        #[test]
        fn each_letter_is_a_candidate_of_one_cause(reasons in prop::collection::vec("[ab]{1,2}", 0..12)) {
            let letters: Vec<_> = reasons.iter().enumerate().map(|(n, reason)| letter(&format!("msg_{n}"), "push", reason)).collect();
            let letters: Vec<_> = letters.iter().collect();
            let mut ids: Vec<_> = candidates(&letters).iter().flatten().map(|letter| letter.sqs_id.clone()).collect();
            ids.sort();
            let mut all: Vec<_> = letters.iter().map(|letter| letter.sqs_id.clone()).collect();
            all.sort();
            prop_assert_eq!(ids, all);
        }
    }
}
