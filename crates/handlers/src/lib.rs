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
//! | [`archive`] | every webhook | keeps the signed bytes as a compliance record |
//! | [`bus`] | every type | puts it on an event bus for automations |
//! | [`unknown`] | every type without a handler | keeps the event until you write one |

pub mod archive;
pub mod bus;
pub mod config;
pub mod progress;
pub mod push;
mod table;
pub mod unknown;

use aws_config::SdkConfig;
use learnink_webhook::Router;
use learnink_webhook::event::CourseStarted;

pub use config::Config;
pub use table::{RowKey, TableError, Written, set_if_less, set_if_newer};

#[cfg(doctest)]
#[doc = include_str!("../../../docs/add-an-event.md")]
struct AddAnEvent;

// The files in that page name the crate, so that they compile there and here.
extern crate self as learnink_handlers;

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
    /// The handlers' adapters, as `config` has them. `tables` is how DynamoDB is reached, and `aws` everything
    /// else that is in AWS; on a laptop, these are two.
    pub fn new(tables: &SdkConfig, aws: &SdkConfig, config: &Config) -> Self {
        Self {
            learners: progress::Learners::new(tables, &config.learners_table),
            unknown_events: unknown::UnknownEvents::new(tables, &config.unknown_events_table),
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

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
    use axum::Router as HttpRouter;
    use learnink_aws::sdk_config;
    use tokio::net::TcpListener;

    use super::*;

    /// How to reach an AWS that `server` plays.
    pub(crate) async fn aws_with(server: HttpRouter) -> SdkConfig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, server).await });
        aws_at(&endpoint)
    }

    fn aws_at(endpoint: &str) -> SdkConfig {
        let endpoint = endpoint.to_owned();
        let config = sdk_config(move |name| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
            _ => None,
        });
        let credentials = Credentials::new("key", "secret", None, None, "tests");
        let config = config.unwrap().into_builder();
        config.credentials_provider(SharedCredentialsProvider::new(credentials)).build()
    }

    /// The handlers' state, with these variables besides those that there always are.
    fn app(variables: &[(&str, &str)]) -> App {
        let tables = [("LEARNINK_LEARNERS_TABLE", "learners"), ("LEARNINK_UNKNOWN_EVENTS_TABLE", "unknown")];
        let config = Config::read(|name| {
            let found = tables.iter().chain(variables).find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let aws = aws_at("http://127.0.0.1:1");
        App::new(&aws, &aws, &config.unwrap())
    }

    #[test]
    fn what_is_optional_is_what_the_configuration_adds() {
        learnink_aws::install_tls_provider();
        let always = router(app(&[])).handler_names();
        let with_all = app(&[
            ("LEARNINK_PUSH", "endpoint"),
            ("LEARNINK_PUSH_URL", "https://example.com/"),
            ("LEARNINK_PUSH_SECRET_ID", "push"),
            ("LEARNINK_ARCHIVE", "file:///tmp/archive"),
            ("LEARNINK_EVENT_BUS", "automations"),
        ]);
        // A handler that is added and not switched on above does not compile here.
        let App { learners: _, unknown_events: _, push, archive, bus } = &with_all;
        assert!(push.is_some() && archive.is_some() && bus.is_some());
        let mut added = router(with_all).handler_names();
        added.retain(|name| !always.contains(name));
        assert_eq!(added, OPTIONAL_HANDLERS);
    }
}
