//! **Your code**: what happens for each event.
//!
//! One file per concern, each with a handler and what it needs; [`router`] is the list of them.
//! A handler is an `async fn` that takes an [`Event`](learnink_webhook::Event) and the [`App`]:
//! the type of the event's data says which events it gets. It may run again after a failure or a
//! crash, so it either writes conditionally, as [`progress`] does with [`set_if_newer`], or passes the
//! event's key on as the idempotency key of whatever it calls. `docs/add-an-event.md` shows how to add one.
//!
//! | module | takes | does |
//! |---|---|---|
//! | [`progress`] | `user.course.started` | keeps what learners do in their courses in a table |
//! | [`push`] | `notifications.sent` | hands each notification to your own push sender |
//! | [`archive`] | every type | keeps the signed bytes as a compliance record |
//! | [`bus`] | every type | puts it on an event bus for automations |
//! | [`unknown`] | every type without a handler | keeps the event until you write one |

pub mod archive;
pub mod bus;
pub mod config;
pub mod progress;
pub mod push;
mod table;
pub mod unknown;

use learnink_webhook::Router;
use learnink_webhook::event::CourseStarted;

pub use config::Config;
pub use table::{RowKey, TableError, Written, set_if_less, set_if_newer};

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
    /// Who sends notifications, where that is switched on.
    pub push: Option<push::Push>,
    /// The store of records, where that is switched on.
    pub archive: Option<archive::Archive>,
    /// The event bus, where that is switched on.
    pub bus: Option<bus::Bus>,
}

impl App {
    /// The handlers' adapters, over the tables that `config` names.
    pub fn new(aws: &aws_config::SdkConfig, config: &Config) -> Self {
        Self {
            learners: progress::Learners::new(aws, &config.learners_table),
            unknown_events: unknown::UnknownEvents::new(aws, &config.unknown_events_table),
            push: config.push.as_ref().map(|config| push::Push::new(aws, config)),
            archive: config.archive.as_ref().map(archive::Archive::open),
            bus: config.bus.as_ref().map(|config| bus::Bus::new(aws, config)),
        }
    }
}

/// The handlers that are there only where the configuration switches them on.
pub const OPTIONAL_HANDLERS: [&str; 3] = ["push", "archive", "bus"];

/// Which handler takes which event.
pub fn router(app: App) -> Router {
    let optional = [
        app.push.clone().map(push::router),
        app.archive.clone().map(archive::router),
        app.bus.clone().map(bus::router),
    ];
    let router = Router::new()
        .on("progress", progress::record::<CourseStarted>)
        .fallback("unknown", unknown::keep)
        .with_state(app);
    optional.into_iter().flatten().fold(router, Router::merge)
}
