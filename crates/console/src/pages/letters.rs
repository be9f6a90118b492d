//! The dead letters, by what has to be put right.

use std::collections::BTreeMap;

use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::{At, Page, counted, message_path};
use crate::desk::Cause;
use crate::history::Summary;

/// How many dead letters of one reason are named.
const NAMED: usize = 20;

/// Dead letters with one reason, as the history knows them.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    /// The handler and the reason.
    pub(crate) why: String,
    pub(crate) count: u64,
    /// The newest of them.
    pub(crate) messages: Vec<Summary>,
}

/// The dead letters.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLetters {
    /// From the history: the largest group first.
    pub(crate) groups: Vec<Group>,
    /// From the queue, if somebody asked it.
    pub(crate) causes: Option<Vec<Cause>>,
    /// What a person has to know about the causes.
    pub(crate) note: Option<String>,
}

/// The dead letters by handler and reason.
pub(crate) fn grouped(messages: Vec<Summary>) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for message in messages {
        let why = message.why.clone().unwrap_or_else(|| "no reason is known".to_owned());
        let group =
            groups.entry(why.clone()).or_insert_with(|| Group { why, count: 0, messages: Vec::new() });
        group.count += 1;
        if group.messages.len() < NAMED {
            group.messages.push(message);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

impl Page for DeadLetters {
    fn title(&self) -> String {
        "Dead letters".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            p { a href="/" data-key="Escape" { "All messages" } }
            h1 { "Dead letters" }
            @if let Some(note) = &self.note { p.warning role="alert" { (visible(note)) } }
            @if let Some(causes) = &self.causes { (of_queue(causes)) }
            section aria-labelledby="seen" {
                h2 #seen { "Seen by this console" }
                @if self.groups.is_empty() { p.empty { "No dead letter was seen." } }
                @for group in &self.groups {
                    h3 { (counted(group.count, "dead letter")) ": " (visible(&group.why)) }
                    ul {
                        @for message in &group.messages {
                            li {
                                a data-row href=(message_path(&message.message)) { (visible(&message.message)) }
                                " " (At(message.at))
                                @if let Some(event_type) = &message.event_type { " " (visible(event_type)) }
                            }
                        }
                        @if group.count > group.messages.len() as u64 {
                            li { a href="/?state=dead" { "All dead letters" } }
                        }
                    }
                }
            }
            section aria-labelledby="causes" {
                h2 #causes { "By cause" }
                form.act method="post" action="/dead-letters" {
                    button data-key="r" { "Look at the queue" }
                    " to redrive or drop all dead letters of a cause. SQS hides them from others while it is looked at."
                }
            }
        }
    }
}

fn of_queue(causes: &[Cause]) -> Markup {
    html! {
        section aria-labelledby="on-the-queue" {
            h2 #on-the-queue { "On the queue" }
            @if causes.is_empty() { p.empty { "There is no dead letter on the queue." } }
            @for cause in causes {
                section aria-label={ "Cause " (visible(&cause.name)) } {
                    h3 {
                        code { (visible(&cause.name)) } ": "
                        @if let Some(handler) = &cause.handler { (visible(handler)) ": " }
                        (visible(&cause.reason))
                    }
                    p {
                        (counted(cause.count, "dead letter"))
                        @if !cause.types.is_empty() { " of " (visible(&cause.types.join(", "))) }
                        @if let Some(oldest) = cause.oldest { ", the oldest from " (At(oldest)) }
                    }
                    (bulk(cause, "redrive", "Redrive",
                        "One is tried first, and the rest follows only if it is done. This may take a minute."))
                    (bulk(cause, "drop", "Drop",
                        "They are written to a file in the folder where `dev` was started, and deleted from the queue."))
                }
            }
        }
    }
}

/// A form that acts on all letters of a cause; it says how many, and brings the number along.
fn bulk(cause: &Cause, name: &str, verb: &str, what: &str) -> Markup {
    let title = format!("{verb} {} of cause {}", counted(cause.count, "dead letter"), visible(&cause.name));
    html! {
        details.act {
            summary { (title) }
            form method="post" action={ "/dead-letters/" (name) } {
                input type="hidden" name="cause" value=(cause.name);
                input type="hidden" name="count" value=(cause.count);
                p { (what) }
                label {
                    "Reason, for people who see the act "
                    input type="text" name="reason" maxlength="500" autocomplete="off";
                }
                " "
                button { (title) }
            }
        }
    }
}
