//! What operators did, and the result of an act.

use learnink_consumer::acts::Act;
use learnink_consumer::replay::{Coverage, ReplayWindow};
use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::{At, Page};
use crate::desk::Ran;

/// How many message ids of a window are shown.
const SHOWN_MESSAGES: usize = 3;

/// The acts of the last 30 days, and the replay windows that are open.
#[derive(Debug, Serialize)]
pub(crate) struct Acts {
    pub(crate) windows: Vec<ReplayWindow>,
    /// The newest first.
    pub(crate) acts: Vec<Act>,
}

/// An act that was just done.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) ran: Ran,
    /// The page to go back to.
    pub(crate) back: String,
}

impl Page for Acts {
    fn title(&self) -> String {
        "Acts".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            p { a href="/" data-key="Escape" { "All messages" } }
            h1 { "Acts" }
            (windows(&self.windows))
            h2 { "Of the last 30 days" }
            p { "What operators did, here or with " code { "cargo learnink" } "." }
            @if self.acts.is_empty() { p.empty { "There is no act." } } @else {
                div.scroll tabindex="0" role="region" aria-label="Acts" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Started (UTC)" }
                                th scope="col" { "Action" }
                                th scope="col" { "By" }
                                th scope="col" { "Which" }
                                th.number scope="col" { "Done" }
                                th scope="col" { "Outcome" }
                                th scope="col" { "Reason" }
                            }
                        }
                        tbody {
                            @for act in &self.acts {
                                tr {
                                    td { (At(act.started_at)) }
                                    td { (visible(&act.action)) }
                                    td { (visible(&act.by)) }
                                    td { code { (visible(&act.filter)) } }
                                    td.number { (act.done) " of " (act.selected) }
                                    td {
                                        @if act.ended_at.is_none() { "no end: it is running, or was killed" }
                                        @else { (visible(&act.outcome)) }
                                    }
                                    td { @if let Some(reason) = &act.reason { (visible(reason)) } @else { "-" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The windows that are open, each with a button that closes it.
fn windows(windows: &[ReplayWindow]) -> Markup {
    html! {
        h2 { "Open replay windows" }
        @if windows.is_empty() { p.empty { "No replay window is open." } } @else {
            ul {
                @for window in windows {
                    li {
                        code { (visible(&window.id)) } " for " (visible(&covers(&window.covers)))
                        @if !window.handlers.is_empty() {
                            ", only " (visible(&window.handlers.iter().cloned().collect::<Vec<_>>().join(", ")))
                        }
                        ", opened by " (visible(&window.opened_by)) " at " (At(window.opened_at))
                        ", until " (At(window.expires_at)) ": " (visible(&window.reason))
                        form.act method="post" action="/acts/close" {
                            input type="hidden" name="window" value=(window.id);
                            button { "Close window " (visible(&window.id)) }
                        }
                    }
                }
            }
        }
    }
}

/// The messages of a window, in words.
fn covers(coverage: &Coverage) -> String {
    match coverage {
        Coverage::Messages(ids) => {
            let shown: Vec<_> = ids.iter().take(SHOWN_MESSAGES).map(String::as_str).collect();
            let more = ids.len().saturating_sub(SHOWN_MESSAGES);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("{}{more}", shown.join(", "))
        }
        Coverage::FirstSeen { event_type, from, until } => {
            let event_type = event_type.as_deref().unwrap_or("any type");
            let until = until.map(|until| format!(" and before {until}")).unwrap_or_default();
            format!("messages of {event_type} first seen from {from}{until}")
        }
        Coverage::Run(run) => format!("a replay run with {}", run.filter),
    }
}

impl Page for Done {
    fn title(&self) -> String {
        if self.ran.exit_code == 0 { "Done".to_owned() } else { "Not all of it is done".to_owned() }
    }

    fn main(&self) -> Markup {
        let Ran { command, exit_code, stdout, stderr } = &self.ran;
        html! {
            p { a href=(self.back) data-key="Escape" { "Back" } }
            h1 { (self.title()) }
            p role="status" { "This command was run, and ended with " strong { (exit_code) } ":" }
            pre tabindex="0" role="region" aria-label="Command" { code { (command) } }
            @if !stdout.is_empty() {
                h2 { "It printed" }
                pre tabindex="0" role="region" aria-label="Output" { (stdout) }
            }
            @if !stderr.is_empty() {
                h2 { "It noted" }
                pre tabindex="0" role="region" aria-label="Notes" { (stderr) }
            }
            p { a href="/acts" { "All acts" } }
        }
    }
}
