//! *Testing*: an example of the Event Catalog, which can be changed before it is sent.

use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::super::{Page, encoded};
use super::{Choice, TESTING, links, options};

/// *Testing*.
#[derive(Debug, Serialize)]
pub(crate) struct Testing {
    /// The types of the catalog.
    pub(crate) event_types: Vec<String>,
    /// Endpoints that get messages.
    pub(crate) endpoints: Vec<Choice>,
    /// The chosen type and its example.
    pub(crate) example: Option<Example>,
    /// The chosen endpoint; empty if none is.
    #[serde(skip)]
    pub(crate) endpoint: String,
}

/// An example, which is a file of the repository.
#[derive(Debug, Serialize)]
pub(crate) struct Example {
    pub(crate) event_type: String,
    pub(crate) payload: String,
}

impl Page for Testing {
    fn title(&self) -> String {
        "Testing".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            (links(TESTING))
            h1 { "Testing" }
            section aria-labelledby="catalog" {
                h2 #catalog { "Event Catalog" }
                p { "Its types are those of the folder " code { "events" } "." }
                @if self.event_types.is_empty() { p.empty { "There is no example." } }
                ul {
                    @for event_type in &self.event_types {
                        @let is_chosen =
                            self.example.as_ref().is_some_and(|example| example.event_type == *event_type);
                        li {
                            a data-row href={ (TESTING) "?type=" (encoded(event_type)) }
                                aria-current=[is_chosen.then_some("true")] {
                                (visible(event_type))
                            }
                        }
                    }
                }
            }
            @if let Some(example) = &self.example { (self.form(example)) }
        }
    }
}

impl Testing {
    fn form(&self, example: &Example) -> Markup {
        html! {
            section aria-labelledby="example" {
                h2 #example { "Send Example: " (visible(&example.event_type)) }
                @if self.endpoints.is_empty() {
                    p.empty { "No endpoint is enabled. Add or enable one first." }
                } @else {
                    form method="post" action=(TESTING) {
                        input type="hidden" name="type" value=(example.event_type);
                        p {
                            label {
                                "Endpoint "
                                select name="endpoint" { (options(&self.endpoints, &self.endpoint)) }
                            }
                        }
                        p {
                            label {
                                "Payload, which is sent and signed as it is here"
                                // The parser of HTML drops the first line break.
                                textarea name="payload" rows="20" spellcheck="false" autocomplete="off" {
                                    "\n" (example.payload)
                                }
                            }
                        }
                        p {
                            label {
                                input type="checkbox" name="fresh" value="1";
                                " Use a new learner and the current time, because some handlers skip old events."
                            }
                        }
                        button { "Send Example" }
                    }
                }
            }
        }
    }
}
