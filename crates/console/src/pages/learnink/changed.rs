//! The answer to an act on LearnInk's side.

use learnink_simulator::EndpointId;
use maud::{Markup, html};
use serde::Serialize;

use super::super::{Page, message_path};
use super::{ENDPOINTS, attempted_path, endpoints};
use crate::desk::Ran;

/// What was changed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Changed {
    /// In a sentence.
    pub(crate) done: String,
    /// The endpoint that was added or changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<EndpointId>,
    /// The message that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// How many messages are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
    /// The command that opened a replay window first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ran: Option<Ran>,
    /// Whether the endpoint has a new secret, which a person has to store somewhere.
    #[serde(skip)]
    pub(crate) has_new_secret: bool,
}

impl Changed {
    /// Something about an endpoint.
    pub(crate) fn endpoint(endpoint: EndpointId, done: impl Into<String>) -> Self {
        Self { done: done.into(), endpoint: Some(endpoint), ..Self::default() }
    }
}

impl Page for Changed {
    fn title(&self) -> String {
        "Done".to_owned()
    }

    fn main(&self) -> Markup {
        let back = self.message.as_ref().map_or_else(|| ENDPOINTS.to_owned(), |id| attempted_path(id));
        html! {
            p { a href=(back) data-key="Escape" { "Back" } }
            h1 { (self.title()) }
            p role="status" { (self.done) }
            @if self.has_new_secret && let Some(endpoint) = &self.endpoint {
                (endpoints::reveal(endpoint, "Reveal the new secret"))
            }
            @if let Some(message) = &self.message {
                ul {
                    li { a href=(attempted_path(message)) { "Its attempts" } }
                    li { a href=(message_path(message)) { "What the pipeline did with it" } }
                }
            }
            @if let Some(ran) = &self.ran {
                p { "Before that, this command was run:" }
                pre tabindex="0" role="region" aria-label="Command" { code { (ran.command) } }
                @if !ran.stdout.is_empty() {
                    pre tabindex="0" role="region" aria-label="Output" { (ran.stdout) }
                }
            }
        }
    }
}
