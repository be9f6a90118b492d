//! Replay windows: an operator runs finished work again.
//!
//! LearnInk's *Resend* keeps the message id and is not marked, so that the ledger takes it for a duplicate. While a
//! window is open, an arriving message that it covers runs again: each handler once per window, under
//! [keys](learnink_webhook::idempotency) of its own. A window says who opened it and why, and closes by itself.
//!
//! What LearnInk cannot send again, `learnink replay run` does, from the archive or from the table of unknown events.
//! Each message that it sends names its window, so that the window covers exactly these.

use std::collections::BTreeSet;

use jiff::Timestamp;
use learnink_webhook::idempotency::{
    is_of_list, is_refusal_of, replay_key, run_key, split_without_progress, without_progress_key,
    without_progress_of,
};
use learnink_webhook::message::MessageId;
use serde::{Deserialize, Serialize};

/// A permission to run finished work again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayWindow {
    /// The window's name, also in keys: 1 to 32 of `a-z` and `0-9`.
    pub id: String,
    /// The messages it covers.
    pub covers: Coverage,
    /// The handlers that run again; all of them if it is empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub handlers: BTreeSet<String>,
    /// Why it was opened, in the operator's words.
    pub reason: String,
    /// Who opened it.
    pub opened_by: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it closes by itself.
    pub expires_at: Timestamp,
    /// Who closed it early, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closing>,
}

/// The early end of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Who closed it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// The messages that a window covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// The messages with these ids.
    Messages(BTreeSet<String>),
    /// The messages of a type, or of all types, that the consumer first saw in a time range. The times are ours
    /// and not the events': an offline learner's events from before an incident may have arrived during it.
    FirstSeen {
        /// The event type; `None` for every type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event_type: Option<String>,
        /// From this time on.
        from: Timestamp,
        /// Before this time; `None` for up to now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The messages that a `learnink replay run` sends: each has the window's id as an attribute. LearnInk's own
    /// deliveries of them do not.
    Run(Run),
}

/// What a `learnink replay run` was asked to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which messages, as options of the command. The same options go on with the same window.
    pub filter: String,
    /// Messages that were received from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Messages that were received before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whether handlers that are done run again. Otherwise only those run that are not done.
    pub again: bool,
}

/// The properties of a message by which a window covers it or not.
#[derive(Debug, Clone, Copy)]
pub struct SeenMessage<'a> {
    /// The message id.
    pub id: &'a MessageId,
    /// The event's type.
    pub event_type: &'a str,
    /// When the consumer first claimed it, in milliseconds since the epoch.
    pub first_seen_ms: i64,
}

impl ReplayWindow {
    /// Whether it is neither expired nor closed.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closed.is_none() && now < self.expires_at
    }

    /// Whether a delivery that the receiver accepted at `received_at` runs under it. Until the window expires,
    /// every delivery does. After that, only messages do that arrived while it was open, failed, and are delivered
    /// again after backoff or a redrive. Closing it ends both.
    pub fn takes(&self, received_at: Timestamp, now: Timestamp) -> bool {
        let came_in_time = self.opened_at <= received_at && received_at < self.expires_at;
        self.closed.is_none() && (now < self.expires_at || came_in_time)
    }

    /// When it ended, or will end by itself.
    pub fn ends_at(&self) -> Timestamp {
        self.closed.as_ref().map_or(self.expires_at, |closing| closing.at)
    }

    /// What it was asked to send, if it is of a `learnink replay run`.
    pub const fn run(&self) -> Option<&Run> {
        match &self.covers {
            Coverage::Run(run) => Some(run),
            Coverage::Messages(_) | Coverage::FirstSeen { .. } => None,
        }
    }

    /// Whether it covers a message that LearnInk has sent. A message first seen after the window was opened is not a
    /// replay: it runs for the first time.
    pub fn covers(&self, message: SeenMessage<'_>) -> bool {
        if message.first_seen_ms >= self.opened_at.as_millisecond() {
            return false;
        }
        match &self.covers {
            Coverage::Messages(ids) => ids.contains(message.id.as_str()),
            Coverage::FirstSeen { event_type, from, until } => {
                event_type.as_deref().is_none_or(|event_type| event_type == message.event_type)
                    && from.as_millisecond() <= message.first_seen_ms
                    && until.is_none_or(|until| message.first_seen_ms < until.as_millisecond())
            }
            Coverage::Run(_) => false,
        }
    }

    fn asks_for(&self, handler: &str) -> bool {
        self.handlers.is_empty() || self.handlers.contains(handler)
    }
}

/// One handler's part of the work for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The handler.
    pub handler: &'static str,
    /// The ledger's key of it: the handler's name, or a replay's.
    pub key: String,
    /// The keys that are done when it is.
    pub completes: Vec<String>,
    /// Whether a window names this handler. Then no event is too old for it: an operator wants it now.
    pub is_named: bool,
}

impl Task {
    /// Removes this task's list from `done`: once the task is done, the ledger need not keep it.
    pub fn forget_list(&self, done: &mut BTreeSet<String>) {
        done.retain(|key| !is_of_list(&self.key, key));
    }

    /// Removes the refusals from `done`: the next delivery tries every item that is not done.
    pub fn forget_refusals(&self, done: &mut BTreeSet<String>) {
        done.retain(|key| !is_refusal_of(&self.key, key));
    }

    /// Notes in `done` a delivery that did not finish the list, and whether it made progress. For a list that
    /// never made any, nothing is noted: its message's receive count is enough.
    pub fn note_delivery(&self, made_progress: bool, done: &mut BTreeSet<String>) {
        let before = self.without_progress(done);
        self.forget_deliveries(done);
        let deliveries = if made_progress { Some(0) } else { before.map(|before| before.saturating_add(1)) };
        done.extend(deliveries.map(|deliveries| without_progress_key(&self.key, deliveries)));
    }

    /// How many deliveries in a row the list has made no progress, if it made some before.
    pub fn without_progress(&self, done: &BTreeSet<String>) -> Option<u32> {
        without_progress_of(&self.key, done.iter().map(String::as_str))
    }

    /// Removes from `done` the count of deliveries without progress: it starts again.
    pub fn forget_deliveries(&self, done: &mut BTreeSet<String>) {
        done.retain(|key| without_progress_of(&self.key, std::iter::once(key.as_str())).is_none());
    }
}

/// Notes in `done` a delivery that failed before any task of the message was known: every list that made progress has
/// made none in one more. Returns the most deliveries without progress, or `None` where no list made any.
pub fn note_failed_delivery(done: &mut BTreeSet<String>) -> Option<u32> {
    let split = |key: &String| {
        split_without_progress(key).map(|(task, deliveries)| (task.to_owned(), deliveries.saturating_add(1)))
    };
    let lists: Vec<_> = done.iter().filter_map(split).collect();
    forget_deliveries(done);
    done.extend(lists.iter().map(|(task, deliveries)| without_progress_key(task, *deliveries)));
    lists.into_iter().map(|(_, deliveries)| deliveries).max()
}

/// Takes out of `done` how many deliveries the message's lists have made no progress: they are counted anew.
pub fn forget_deliveries(done: &mut BTreeSet<String>) {
    done.retain(|key| split_without_progress(key).is_none());
}

/// The tasks for a message: those of `handlers`, given what is done and the open windows that cover it.
///
/// A handler that is not done runs under its own name. It then counts as done under the windows too, or one replay
/// would run it twice. A handler that is done runs again for the first window that asks for it and that it has not
/// run under.
pub fn tasks(handlers: &[&'static str], done: &BTreeSet<String>, windows: &[&ReplayWindow]) -> Vec<Task> {
    let task = |&handler: &&'static str| {
        let asking = windows.iter().filter(|window| window.asks_for(handler));
        let asking = asking.map(|window| (window, replay_key(handler, &window.id)));
        let asking: Vec<_> = asking.filter(|(_, key)| !done.contains(key)).collect();
        let is_named = asking.iter().any(|(window, _)| window.handlers.contains(handler));
        let own = (!done.contains(handler)).then(|| handler.to_owned());
        let completes: Vec<_> = own.into_iter().chain(asking.into_iter().map(|(_, key)| key)).collect();
        completes.first().cloned().map(|key| Task { handler, key, completes, is_named })
    };
    handlers.iter().filter_map(task).collect()
}

/// The tasks for a message that a `learnink replay run` has sent under `window`.
///
/// Only handlers that the window asks for run: an old message is unknown to the ledger, which would otherwise run all.
/// A handler that is done runs again, if the run wants that. One that is not done runs under its own name, and then
/// counts as done under the window too. Nothing runs under a window that was closed; a run that has merely expired
/// still handles what it has sent. Nor does anything run of what is not done if it `is_forgotten` what is: every handler
/// would run.
pub fn tasks_of_run(
    handlers: &[&'static str],
    done: &BTreeSet<String>,
    window: &ReplayWindow,
    is_forgotten: bool,
) -> Vec<Task> {
    let again = window.run().is_some_and(|run| run.again);
    let is_done = done.contains(&run_key(&window.id));
    if window.closed.is_some() || is_done || (is_forgotten && !again) {
        return Vec::new();
    }
    let is_wanted = |handler: &&'static str| window.asks_for(handler) && (again || !done.contains(*handler));
    let wanted: Vec<_> = handlers.iter().copied().filter(is_wanted).collect();
    tasks(&wanted, done, &[window])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(id: &str, handlers: &[&str]) -> ReplayWindow {
        ReplayWindow {
            id: id.to_owned(),
            covers: Coverage::Messages(BTreeSet::from(["msg_1".to_owned()])),
            handlers: handlers.iter().map(ToString::to_string).collect(),
            reason: "the sender was down".to_owned(),
            opened_by: "kim".to_owned(),
            opened_at: time("2026-01-02T10:00:00Z"),
            expires_at: time("2026-01-02T12:00:00Z"),
            closed: None,
        }
    }

    fn keys(done: &[&str], windows: &[&ReplayWindow]) -> Vec<(String, Vec<String>)> {
        let done = done.iter().map(ToString::to_string).collect();
        let tasks = tasks(&["progress", "push"], &done, windows);
        tasks.into_iter().map(|task| (task.key, task.completes)).collect()
    }

    fn key(key: &str, completes: &[&str]) -> (String, Vec<String>) {
        (key.to_owned(), completes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_delivery_that_failed_early_counts_for_lists_that_made_progress_alone() {
        let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let mut done = keys(&["push/0", "push+0", "sync@w1+4", "bus", "push!7 it is 1+2"]);
        assert_eq!(note_failed_delivery(&mut done), Some(5));
        assert_eq!(done, keys(&["push/0", "push+1", "sync@w1+5", "bus", "push!7 it is 1+2"]));
        forget_deliveries(&mut done);
        assert_eq!(done, keys(&["push/0", "bus", "push!7 it is 1+2"]));
        assert_eq!(note_failed_delivery(&mut done), None);
    }

    #[test]
    fn without_a_window_what_is_done_stays_done() {
        assert_eq!(keys(&[], &[]), [key("progress", &["progress"]), key("push", &["push"])]);
        assert_eq!(keys(&["push"], &[]), [key("progress", &["progress"])]);
        assert_eq!(keys(&["progress", "push"], &[]), []);
    }

    #[test]
    fn under_a_window_what_is_done_runs_again_once() {
        let window = window("w1", &["push"]);
        assert_eq!(keys(&["progress", "push"], &[&window]), [key("push@w1", &["push@w1"])]);
        assert_eq!(keys(&["progress", "push", "push@w1"], &[&window]), []);
    }

    #[test]
    fn what_was_never_done_runs_under_its_own_name_and_not_again_for_the_window() {
        let window = window("w1", &[]);
        let first = keys(&["progress"], &[&window]);
        assert_eq!(first, [key("progress@w1", &["progress@w1"]), key("push", &["push", "push@w1"])]);
        assert_eq!(keys(&["progress", "progress@w1", "push", "push@w1"], &[&window]), []);
    }

    #[test]
    fn the_items_of_what_is_done_are_forgotten_and_no_others() {
        let done = [
            "push/0",
            "push/17",
            "push/18!",
            "push!18 no such plan",
            "push/100-199",
            "push+0",
            "push@w1/0",
            "progress/3",
            "progress",
        ];
        let mut done = done.map(str::to_owned).into();
        let task = tasks(&["push"], &done, &[]).remove(0);
        task.forget_list(&mut done);
        assert_eq!(done.into_iter().collect::<Vec<_>>(), ["progress", "progress/3", "push@w1/0"]);
    }

    #[test]
    fn what_was_refused_can_be_forgotten_and_what_is_done_stays() {
        let done = ["push/0", "push/18!", "push!18 no such plan", "push/100-199", "push+3", "other/1!"];
        let mut done: BTreeSet<_> = done.map(str::to_owned).into();
        let task = tasks(&["push"], &done, &[]).remove(0);
        task.forget_refusals(&mut done);
        assert_eq!(done.into_iter().collect::<Vec<_>>(), ["other/1!", "push+3", "push/0", "push/100-199"]);
    }

    #[test]
    fn deliveries_without_progress_are_counted_once_there_was_some() {
        let mut done = BTreeSet::new();
        let task = tasks(&["push"], &done, &[]).remove(0);
        let mut counts = Vec::new();
        for made_progress in [false, true, false, false, true, false] {
            task.note_delivery(made_progress, &mut done);
            counts.push(task.without_progress(&done));
        }
        assert_eq!(counts, [None, Some(0), Some(1), Some(2), Some(0), Some(1)]);
        assert_eq!(done, BTreeSet::from(["push+1".to_owned()]));
        task.forget_deliveries(&mut done);
        assert!(done.is_empty());
    }

    #[test]
    fn two_windows_that_are_open_together_are_one_replay() {
        let (one, two) = (window("w1", &["push"]), window("w2", &["push"]));
        let both = keys(&["progress", "push"], &[&one, &two]);
        assert_eq!(both, [key("push@w1", &["push@w1", "push@w2"])]);
        assert_eq!(keys(&["progress", "push", "push@w1"], &[&one, &two]), [key("push@w2", &["push@w2"])]);
    }

    #[test]
    fn a_window_covers_ids_or_what_was_first_seen_in_its_range() {
        let id = MessageId::parse("msg_1").unwrap();
        let seen = |at: &str| SeenMessage {
            id: &id,
            event_type: "notifications.sent",
            first_seen_ms: time(at).as_millisecond(),
        };
        assert!(window("w1", &[]).covers(seen("2020-01-01T00:00:00Z")));
        let range = |event_type: Option<&str>, until: Option<&str>| ReplayWindow {
            covers: Coverage::FirstSeen {
                event_type: event_type.map(str::to_owned),
                from: time("2026-01-02T08:00:00Z"),
                until: until.map(time),
            },
            ..window("w1", &[])
        };
        let everything = range(None, None);
        assert!(everything.covers(seen("2026-01-02T08:00:00Z")));
        assert!(!everything.covers(seen("2026-01-02T07:59:59.999Z")));
        assert!(range(Some("notifications.sent"), None).covers(seen("2026-01-02T09:00:00Z")));
        assert!(!range(Some("user.course.started"), None).covers(seen("2026-01-02T09:00:00Z")));
        assert!(!range(None, Some("2026-01-02T09:00:00Z")).covers(seen("2026-01-02T09:00:00Z")));
        assert!(range(None, Some("2026-01-02T09:00:00Z")).covers(seen("2026-01-02T08:59:59.999Z")));
    }

    #[test]
    fn a_message_that_came_first_while_the_window_was_open_is_not_done_again() {
        let id = MessageId::parse("msg_1").unwrap();
        let seen = |ms| SeenMessage { id: &id, event_type: "t", first_seen_ms: ms };
        let window = window("w1", &[]);
        let opened_ms = window.opened_at.as_millisecond();
        assert!(window.covers(seen(opened_ms - 1)));
        assert!(!window.covers(seen(opened_ms)));
    }

    #[test]
    fn a_window_ends_by_itself_or_is_closed() {
        let mut window = window("w1", &[]);
        assert!(window.is_open(time("2026-01-02T11:59:59Z")));
        assert!(!window.is_open(time("2026-01-02T12:00:00Z")));
        assert_eq!(window.ends_at(), window.expires_at);
        window.closed = Some(Closing { by: "lee".to_owned(), at: time("2026-01-02T11:00:00Z") });
        assert!(!window.is_open(time("2026-01-02T11:00:00Z")));
        assert_eq!(window.ends_at(), time("2026-01-02T11:00:00Z"));
    }

    #[test]
    fn what_came_while_a_window_was_open_runs_under_it_whenever_it_comes_back() {
        let mut window = window("w1", &[]);
        let [before, during, after] =
            ["2026-01-02T09:59:59Z", "2026-01-02T11:00:00Z", "2026-01-02T12:00:00Z"].map(time);
        let days_later = time("2026-01-09T12:00:00Z");
        let takes = |window: &ReplayWindow| {
            let mut takes = Vec::new();
            for now in [during, days_later] {
                takes.extend([before, during, after].map(|received_at| window.takes(received_at, now)));
            }
            takes
        };
        assert_eq!(takes(&window), [true, true, true, false, true, false]);
        assert!(!window.takes(before, window.expires_at));
        window.closed = Some(Closing { by: "lee".to_owned(), at: during });
        assert_eq!(takes(&window), [false; 6]);
    }

    #[test]
    fn a_handler_that_a_window_names_is_told_from_one_that_goes_along() {
        let done = BTreeSet::from(["progress", "push"].map(str::to_owned));
        let named = |windows: &[&ReplayWindow]| {
            tasks(&["push"], &done, windows).iter().map(|task| task.is_named).collect::<Vec<_>>()
        };
        let (all, push) = (window("w1", &[]), window("w2", &["push"]));
        assert_eq!(
            (named(&[&all]), named(&[&push]), named(&[&all, &push])),
            (vec![false], vec![true], vec![true])
        );
    }

    fn run_window(handlers: &[&str], again: bool) -> ReplayWindow {
        let run = Run { filter: "--from archive".to_owned(), from: None, until: None, again };
        ReplayWindow { covers: Coverage::Run(run), ..window("w1", handlers) }
    }

    fn keys_of_run(done: &[&str], window: &ReplayWindow) -> Vec<(String, Vec<String>)> {
        let done = done.iter().map(ToString::to_string).collect();
        let tasks = tasks_of_run(&["progress", "push"], &done, window, false);
        tasks.into_iter().map(|task| (task.key, task.completes)).collect()
    }

    #[test]
    fn a_run_runs_what_it_asks_for_and_nothing_else_even_if_the_ledger_has_forgotten_the_message() {
        let named = run_window(&["progress"], true);
        assert_eq!(keys_of_run(&[], &named), [key("progress", &["progress", "progress@w1"])]);
        assert_eq!(keys_of_run(&["progress"], &named), [key("progress@w1", &["progress@w1"])]);
        assert_eq!(keys_of_run(&["progress", "push"], &run_window(&[], true)).len(), 2);
    }

    #[test]
    fn a_run_of_what_is_not_done_leaves_the_rest_as_it_is() {
        let unfinished = run_window(&[], false);
        assert_eq!(keys_of_run(&["push"], &unfinished), [key("progress", &["progress", "progress@w1"])]);
        assert_eq!(keys_of_run(&["progress", "push"], &unfinished), []);
        assert_eq!(keys_of_run(&["progress"], &run_window(&["progress"], false)), []);
    }

    #[test]
    fn of_a_message_that_the_ledger_has_forgotten_nothing_runs_that_is_only_not_known_to_be_done() {
        let none = BTreeSet::new();
        assert_eq!(tasks_of_run(&["push"], &none, &run_window(&[], false), true), []);
        assert_eq!(tasks_of_run(&["push"], &none, &run_window(&["push"], true), true).len(), 1);
    }

    #[test]
    fn a_run_handles_a_message_once_and_nothing_once_its_window_is_closed() {
        let mut window = run_window(&[], true);
        assert_eq!(keys_of_run(&["progress", "push", "@w1"], &window), []);
        assert_eq!(
            keys_of_run(&["progress", "progress@w1", "push"], &window),
            [key("push@w1", &["push@w1"])]
        );
        window.closed = Some(Closing { by: "lee".to_owned(), at: time("2026-01-02T11:00:00Z") });
        assert_eq!(keys_of_run(&["progress", "push"], &window), []);
    }

    #[test]
    fn what_learnink_sends_while_a_run_is_open_stays_a_duplicate() {
        let id = MessageId::parse("msg_1").unwrap();
        let seen = SeenMessage { id: &id, event_type: "t", first_seen_ms: 0 };
        assert!(!run_window(&[], true).covers(seen));
    }

    #[test]
    fn a_window_is_stored_as_json_that_a_person_can_read() {
        let mut window = window("w1", &["push"]);
        insta::assert_json_snapshot!(window);
        window.covers = Coverage::FirstSeen {
            event_type: Some("notifications.sent".to_owned()),
            from: time("2026-01-02T08:00:00Z"),
            until: None,
        };
        window.closed = Some(Closing { by: "lee".to_owned(), at: time("2026-01-02T11:00:00Z") });
        insta::assert_json_snapshot!(window);
        window.covers = Coverage::Run(Run {
            filter: "--from archive --since 2026-01-02T08:00:00Z".to_owned(),
            from: Some(time("2026-01-02T08:00:00Z")),
            until: Some(time("2026-01-02T10:00:00Z")),
            again: true,
        });
        insta::assert_json_snapshot!(window);
        let json = serde_json::to_string(&window).unwrap();
        assert_eq!(serde_json::from_str::<ReplayWindow>(&json).unwrap(), window);
    }
}
