//! A message of LearnInk's side: its attempts at each endpoint, and its payload.

use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::super::message::REVEALED_FOR_S;
use super::super::{At, Page, message_path};
use super::attempts::Attempts;
use super::{MESSAGES, attempted_path, links};
use crate::payload::Payload;

/// A message.
#[derive(Debug, Serialize)]
pub(crate) struct AttemptedMessage {
    pub(crate) message: String,
    pub(crate) attempts: Attempts,
    pub(crate) payload: Payload,
    /// Whether everything is shown as it is sent.
    pub(crate) is_revealed: bool,
    /// Whether the pipeline of this console has seen it.
    pub(crate) is_received: bool,
}

impl Page for AttemptedMessage {
    fn title(&self) -> String {
        format!("{}: attempts", self.message)
    }

    fn main(&self) -> Markup {
        let Attempts { environment, event_type, created_at, destinations } = &self.attempts;
        let path = attempted_path(&self.message);
        html! {
            (links(""))
            p { a href=(MESSAGES) data-key="Escape" { "All Attempted Messages" } }
            h1 { code { (visible(&self.message)) } }
            div #live data-live data-path=(path) {
                dl.facts {
                    dt { "Environment" } dd { (environment.name()) }
                    dt { "Type" } dd { (visible(event_type)) }
                    dt { "Sent" } dd { (At(*created_at)) }
                    @for destination in destinations { (destination.facts()) }
                }
                @if destinations.is_empty() {
                    p.empty { "When it was sent, no enabled endpoint of its environment took its type." }
                }
                h2 { "Attempts" }
                ol.timeline {
                    @for (at, attempt) in self.attempts.by_time() {
                        li { (At(attempt.started_at)) " " div.what { (attempt.step(at)) } }
                    }
                }
            }
            @if self.is_received {
                p { a href=(message_path(&self.message)) { "What the pipeline did with it" } }
            }
            section aria-labelledby="acts" {
                h2 #acts { "Acts" }
                (self.attempts.acts(&self.message))
            }
            section aria-labelledby="payload" {
                h2 #payload { "Payload" }
                @if self.is_revealed {
                    p.warning role="status" {
                        "Shown as it is sent, with personal data. It is hidden again after " (REVEALED_FOR_S) " s. "
                        a href=(path) { "Hide it now" }
                    }
                } @else {
                    form.act method="post" action={ (path) "/reveal" } {
                        button { "Reveal for " (REVEALED_FOR_S) " s" }
                        " the payload and the hidden headers of the answers"
                    }
                }
                p {
                    (self.payload.body_bytes) " bytes: " (self.payload.what)
                    @if self.payload.is_cut { "; only the start is shown" }
                }
                @if let Some(text) = &self.payload.text {
                    pre tabindex="0" role="region" aria-label="Payload" { code { (text) } }
                }
            }
        }
    }
}
