//! What operators did, and the result of an act.

use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::{At, Page};
use crate::desk::{Act, Ran};

/// The acts of the last 30 days.
#[derive(Debug, Serialize)]
pub(crate) struct Acts {
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
            p { "What operators did in the last 30 days, here or with " code { "cargo learnink" } "." }
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
