//! The attempts of a message, and what can be done with it at an endpoint.

use std::time::Duration;

use jiff::Timestamp;
use learnink_local::terminal::visible;
use learnink_simulator::message::StopReason;
use learnink_simulator::schedule::TIME_LIMIT;
use learnink_simulator::{
    Attempt, Destination, EndpointId, Environment, Fingerprint, Message, Outcome, Schedule, Simulator,
    Status, Trigger,
};
use maud::{Markup, html};
use serde::Serialize;

use super::super::message::Header;
use super::super::{At, duration};
use super::{Next, attempted_path, badge, both};

/// What LearnInk's side knows of a message, without its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attempts {
    pub(crate) environment: Environment,
    pub(crate) event_type: String,
    pub(crate) created_at: Timestamp,
    /// By endpoint.
    pub(crate) destinations: Vec<AtEndpoint>,
}

/// A message at an endpoint.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AtEndpoint {
    pub(crate) endpoint: EndpointId,
    /// `None` if the endpoint was removed.
    pub(crate) url: Option<String>,
    pub(crate) status: Status,
    /// Why there is no next attempt, in words, if it was stopped.
    pub(crate) stopped_because: Option<&'static str>,
    /// Whether an attempt was answered 200.
    pub(crate) has_succeeded: bool,
    /// The next scheduled attempt.
    pub(crate) next_attempt: Option<Next>,
    /// Since when somebody wants a manual attempt that has not started.
    pub(crate) manual_due_at: Option<Timestamp>,
    /// The first one first.
    pub(crate) attempts: Vec<OneAttempt>,
}

/// An attempt.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OneAttempt {
    pub(crate) number: u32,
    pub(crate) trigger: Trigger,
    /// By the real clock.
    pub(crate) started_at: Timestamp,
    /// When it would have been in LearnInk.
    pub(crate) simulated_at: Timestamp,
    /// `None` while it is under way.
    pub(crate) took_ms: Option<f64>,
    /// The status of the answer.
    pub(crate) status: Option<u16>,
    /// Why there was no answer, in words.
    pub(crate) no_answer: Option<String>,
    /// The headers of the answer.
    pub(crate) headers: Vec<Header>,
    /// The secrets that it was signed with, the newest first.
    pub(crate) signed_with: Vec<Fingerprint>,
    /// The fault that answered it in place of the receiver, in words.
    pub(crate) injected: Option<String>,
}

/// The headers of an answer that are shown; others may have anything, such as a cookie.
const SHOWN: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "location",
    "retry-after",
    "server",
    "transfer-encoding",
];

impl Attempts {
    /// Of a message. The values of unusual headers are only there after a reveal.
    pub(crate) fn of(simulator: &Simulator, message: &Message, is_revealed: bool) -> Self {
        let destinations = message.destinations.iter();
        Self {
            environment: message.environment,
            event_type: message.event_type.clone(),
            created_at: message.created_at,
            destinations: destinations
                .map(|destination| AtEndpoint::of(simulator, destination, is_revealed))
                .collect(),
        }
    }

    /// All attempts by the time of their start, each with its endpoint.
    pub(crate) fn by_time(&self) -> Vec<(&AtEndpoint, &OneAttempt)> {
        let of_one =
            |destination| AtEndpoint::attempts(destination).map(move |attempt| (destination, attempt));
        let mut attempts: Vec<_> = self.destinations.iter().flat_map(of_one).collect();
        attempts.sort_by_key(|(_, attempt)| attempt.started_at);
        attempts
    }

    /// What can be done with the message.
    pub(crate) fn acts(&self, message: &str) -> Markup {
        html! { @for destination in &self.destinations { (destination.acts(message)) } }
    }
}

impl AtEndpoint {
    fn of(simulator: &Simulator, destination: &Destination, is_revealed: bool) -> Self {
        let attempts = destination.attempts.iter().map(|attempt| OneAttempt::of(attempt, is_revealed));
        Self {
            endpoint: destination.endpoint.clone(),
            url: simulator.endpoint(&destination.endpoint).ok().map(|endpoint| endpoint.url.to_string()),
            status: destination.status(),
            stopped_because: match destination.schedule {
                Schedule::Stopped(StopReason::Disabled) => Some("the endpoint was disabled"),
                Schedule::Stopped(StopReason::Removed) => Some("the endpoint was removed"),
                Schedule::Waiting(_) | Schedule::InProgress | Schedule::Succeeded | Schedule::Failed => None,
            },
            has_succeeded: destination.schedule == Schedule::Succeeded,
            next_attempt: Next::of(destination),
            manual_due_at: destination.manual_due_at,
            attempts: attempts.collect(),
        }
    }

    fn attempts(&self) -> impl Iterator<Item = &OneAttempt> {
        self.attempts.iter()
    }

    /// The endpoint for a person.
    fn name(&self) -> Markup {
        html! {
            @match &self.url {
                Some(url) => { (visible(url)) }
                None => { "a removed endpoint, " code { (self.endpoint) } }
            }
        }
    }

    /// How far it is, and what comes next.
    pub(crate) fn facts(&self) -> Markup {
        html! {
            dt { (self.name()) }
            dd {
                (badge(self.status))
                @if let Some(because) = self.stopped_because { ", because " (because) }
                @if let Some(next) = &self.next_attempt {
                    ", next attempt at " (both(next.due_at, next.simulated_at))
                }
                @if let Some(since) = self.manual_due_at { ", a manual attempt is due since " (At(since)) }
            }
        }
    }

    fn acts(&self, message: &str) -> Markup {
        let path = attempted_path(message);
        let endpoint = html! { input type="hidden" name="endpoint" value=(self.endpoint); };
        html! {
            @if self.url.is_some() {
                details.act {
                    summary { "Resend to " (self.name()) }
                    form method="post" action={ (path) "/resend" } {
                        (endpoint)
                        @if self.has_succeeded {
                            p { "It has succeeded. The pipeline counts a resend as a duplicate, and runs no handler." }
                            p {
                                label {
                                    input type="checkbox" name="again" value="1";
                                    " run the handlers again: this opens a replay window for the message first"
                                }
                            }
                            p {
                                label {
                                    "Reason, for people who see the replay window "
                                    input type="text" name="reason" maxlength="500" autocomplete="off";
                                }
                            }
                        } @else {
                            p { "It is attempted once more, now. If that fails, the schedule goes on." }
                        }
                        button { "Resend" }
                    }
                }
                @if self.next_attempt.is_some() {
                    form.act method="post" action={ (path) "/now" } {
                        (endpoint)
                        button { "Next attempt now" }
                        " at " (self.name()) ". LearnInk has no such button."
                    }
                }
                details.act {
                    summary { "Replay all failed messages since this one at " (self.name()) }
                    form method="post" action={ (path) "/replay" } {
                        (endpoint)
                        p { "This message and later ones are attempted once more, if an attempt failed and none succeeded." }
                        button { "Replay" }
                    }
                }
            }
        }
    }
}

impl OneAttempt {
    fn of(attempt: &Attempt, is_revealed: bool) -> Self {
        let finished = attempt.finished.as_ref();
        let (status, headers, no_answer) = match finished.map(|finished| &finished.outcome) {
            Some(Outcome::Answered { status, headers }) => (Some(*status), shown(headers, is_revealed), None),
            Some(Outcome::TimedOut) => {
                (None, Vec::new(), Some(format!("no answer within {} s", TIME_LIMIT.as_secs())))
            }
            Some(Outcome::NotConnected) => (None, Vec::new(), Some("no connection".to_owned())),
            Some(Outcome::ConnectionBroken) => {
                (None, Vec::new(), Some("the connection ended before an answer".to_owned()))
            }
            None => (None, Vec::new(), None),
        };
        Self {
            number: attempt.number,
            trigger: attempt.trigger,
            started_at: attempt.started_at,
            simulated_at: attempt.simulated_at,
            took_ms: finished.map(|finished| finished.took.as_secs_f64() * 1000.0),
            status,
            no_answer,
            headers,
            signed_with: attempt.signed_with.clone(),
            injected: attempt.injected.map(|fault| fault.to_string()),
        }
    }

    /// A step of a timeline, without its time.
    pub(crate) fn step(&self, at: &AtEndpoint) -> Markup {
        let trigger = match self.trigger {
            Trigger::Scheduled => "scheduled",
            Trigger::Manual => "manual",
        };
        let took =
            self.took_ms.and_then(|took| Duration::try_from_secs_f64(took / 1000.0).ok()).map(duration);
        let signed_with: Vec<_> = self.signed_with.iter().map(ToString::to_string).collect();
        html! {
            strong { "LearnInk" } ": attempt " (self.number) " (" (trigger) ") at " (at.name()) ": "
            @match (self.status, &self.no_answer) {
                (Some(status), _) => { "answered " strong { (status) } }
                (None, Some(why)) => { strong { (why) } }
                (None, None) => { "is under way" }
            }
            @if let Some(took) = &took { " after " (took) }
            @if let Some(fault) = &self.injected { " " strong.injected { "injected: " (fault) } }
            ul {
                @if self.started_at.as_second() != self.simulated_at.as_second() {
                    li { "in LearnInk at " (At(self.simulated_at)) }
                }
                li { "signed with " code { (signed_with.join(", ")) } }
                @if !self.headers.is_empty() {
                    li {
                        "headers of the answer: "
                        @for header in &self.headers {
                            code {
                                (header.name) ": "
                                @match &header.value {
                                    Some(value) => { (value) }
                                    None => { em { "hidden" } }
                                }
                            }
                            "; "
                        }
                    }
                }
            }
        }
    }
}

fn shown(headers: &[(String, String)], is_revealed: bool) -> Vec<Header> {
    let header = |(name, value): &(String, String)| {
        let is_shown = is_revealed || SHOWN.contains(&name.as_str());
        Header { name: visible(name).into_owned(), value: is_shown.then(|| visible(value).into_owned()) }
    };
    headers.iter().map(header).collect()
}
