//! **Your code**: what happens for each event.
//!
//! One file per concern, each with a handler and what it needs; [`router`] is the list of them.
//! A handler is an `async fn` that takes an [`Event`](learnink_webhook::Event) and the [`App`]:
//! the type of the event's data says which events it gets. It may run again after a failure or a
//! crash, so it either writes conditionally, as [`progress`] does with [`put_if_newer`], or passes the
//! event's key on as the idempotency key of whatever it calls. `docs/add-an-event.md` shows how to add one.
//!
//! | module | takes | does |
//! |---|---|---|
//! | [`progress`] | `user.course.started` | keeps a learner's courses in a table |
//! | [`unknown`] | every type without a handler | keeps the event until you write one |

pub mod config;
pub mod progress;
mod table;
pub mod unknown;

use learnink_webhook::Router;

pub use config::Config;
pub use table::{TableError, Written, put_if_newer};

#[cfg(doctest)]
#[doc = include_str!("../../../docs/add-an-event.md")]
struct AddAnEvent;

/// What the handlers work with. Cloned for every call: clients and names only.
#[derive(Debug, Clone)]
pub struct App {
    /// The learners' progress.
    pub learners: progress::Learners,
    /// The events that nobody handles yet.
    pub unknown_events: unknown::UnknownEvents,
}

impl App {
    /// The handlers' adapters, over the tables that `config` names.
    pub fn new(aws: &aws_config::SdkConfig, config: &Config) -> Self {
        Self {
            learners: progress::Learners::new(aws, &config.learners_table),
            unknown_events: unknown::UnknownEvents::new(aws, &config.unknown_events_table),
        }
    }
}

/// Which handler takes which event.
pub fn router(app: App) -> Router {
    Router::new().on("progress", progress::course_started).fallback("unknown", unknown::keep).with_state(app)
}
