//! Which handlers an event goes to.
//!
//! ```
//! use learnink_webhook::event::{CourseStarted, Event};
//! use learnink_webhook::{HandlerResult, Router};
//!
//! #[derive(Clone)]
//! struct App;
//!
//! async fn enrol(event: Event<CourseStarted>, _: App) -> HandlerResult {
//!     assert_eq!(event.data.course_id, "c");
//!     Ok(())
//! }
//! async fn audit(_: Event, _: App) -> HandlerResult {
//!     Ok(())
//! }
//! async fn keep(_: Event, _: App) -> HandlerResult {
//!     Ok(())
//! }
//!
//! let router: Router = Router::new()
//!     .on("enrolment", enrol) // the argument's type says which events it takes
//!     .on_any("audit", audit)
//!     .fallback("unknown", keep) // where no `on` matched
//!     .with_state(App);
//! assert_eq!(router.handler_names(), ["enrolment", "audit", "unknown"]);
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::{HandlerError, HandlerResult};
use crate::event::{Envelope, Event, Payload};
use crate::message::Message;

type Call<S> = Arc<dyn Fn(S, Arc<Message>, Arc<Envelope>) -> BoxFuture<'static, HandlerResult> + Send + Sync>;

/// The handlers, in the order in which they were registered. `S` is the state they still need;
/// a `Router<()>` is ready to run.
pub struct Router<S = ()> {
    handlers: Vec<Handler<S>>,
}

/// One registered handler.
pub struct Handler<S = ()> {
    name: &'static str,
    takes: Takes,
    call: Call<S>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Events of one type in one version.
    Type { event_type: &'static str, api_version: &'static str },
    /// Every event.
    Any,
    /// Every event that no `Type` takes.
    Rest,
}

impl Takes {
    fn matches_type(self, envelope: &Envelope) -> bool {
        matches!(self, Self::Type { event_type, api_version }
            if event_type == envelope.event_type && api_version == envelope.api_version)
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// A router without handlers.
    pub const fn new() -> Self {
        Self { handlers: Vec::new() }
    }

    /// Runs `handler` for the events whose payload is `P`. Several handlers may take the same
    /// type: each runs once per message, and one that fails does not run the others again.
    ///
    /// `name` is how the ledger remembers what is done: one that changes runs again for messages
    /// that come back.
    ///
    /// # Panics
    ///
    /// When a handler of that name is registered already, so that a cold start fails rather than
    /// one handler being taken for the other.
    #[must_use]
    #[track_caller]
    pub fn on<P, F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        P: Payload,
        F: Fn(Event<P>, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let takes = Takes::Type { event_type: P::TYPE, api_version: P::API_VERSION };
        self.register(name, takes, move |state, message, envelope| match envelope.data::<P>() {
            Ok(data) => Box::pin(handler(Event { message, envelope, data }, state)),
            Err(error) => {
                let error = HandlerError::permanent(error.to_string());
                Box::pin(std::future::ready(Err(error)))
            }
        })
    }

    /// Runs `handler` for every event, whatever its type or version.
    ///
    /// # Panics
    ///
    /// When a handler of that name is registered already.
    #[must_use]
    #[track_caller]
    pub fn on_any<F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        F: Fn(Event, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.register(name, Takes::Any, untyped(handler))
    }

    /// Runs `handler` for every event of a type or version that no [`Router::on`] takes. Without
    /// a fallback such an event is logged as unknown, and done when the handlers for any event are.
    ///
    /// # Panics
    ///
    /// When a handler of that name is registered already.
    #[must_use]
    #[track_caller]
    pub fn fallback<F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        F: Fn(Event, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.register(name, Takes::Rest, untyped(handler))
    }

    /// Gives every handler its state. Cloned per call: let it be cheap, as clients and `Arc`s are.
    #[must_use]
    pub fn with_state(self, state: S) -> Router {
        let handlers = self.handlers.into_iter().map(|handler| {
            let (state, call) = (state.clone(), handler.call);
            Handler {
                name: handler.name,
                takes: handler.takes,
                call: Arc::new(move |(), message, envelope| call(state.clone(), message, envelope))
                    as Call<()>,
            }
        });
        Router { handlers: handlers.collect() }
    }

    #[track_caller]
    fn register<F>(mut self, name: &'static str, takes: Takes, call: F) -> Self
    where
        F: Fn(S, Arc<Message>, Arc<Envelope>) -> BoxFuture<'static, HandlerResult> + Send + Sync + 'static,
    {
        assert!(
            self.handlers.iter().all(|handler| handler.name != name),
            "two handlers are named `{name}`; give one another name"
        );
        self.handlers.push(Handler { name, takes, call: Arc::new(call) });
        self
    }
}

fn untyped<S, F, Fut>(
    handler: F,
) -> impl Fn(S, Arc<Message>, Arc<Envelope>) -> BoxFuture<'static, HandlerResult> + Send + Sync + 'static
where
    F: Fn(Event, S) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    move |state, message, envelope| Box::pin(handler(Event { message, envelope, data: () }, state))
}

impl<S: Clone + Send + Sync + 'static> Default for Router<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Router<S> {
    /// The names in the order of registration.
    pub fn handler_names(&self) -> Vec<&'static str> {
        self.handlers.iter().map(|handler| handler.name).collect()
    }

    /// The handlers that an event goes to.
    pub fn route(&self, envelope: &Envelope) -> Route<'_, S> {
        let known = self.handlers.iter().any(|handler| handler.takes.matches_type(envelope));
        let takes_it = |handler: &&Handler<S>| match handler.takes {
            Takes::Type { .. } => handler.takes.matches_type(envelope),
            Takes::Any => true,
            Takes::Rest => !known,
        };
        Route { known, handlers: self.handlers.iter().filter(takes_it).collect() }
    }
}

/// Where one event goes.
pub struct Route<'a, S = ()> {
    /// Whether a handler is registered for this type and version.
    pub known: bool,
    /// The handlers to run, which may be none.
    pub handlers: Vec<&'a Handler<S>>,
}

impl<S> Handler<S> {
    /// The name under which the ledger remembers it.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl Handler {
    /// Starts the work. A payload of another shape than the handler's is a permanent failure.
    pub fn call(&self, message: Arc<Message>, envelope: Arc<Envelope>) -> BoxFuture<'static, HandlerResult> {
        (self.call)((), message, envelope)
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.handlers.iter().map(|h| (h.name, h.takes))).finish()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::FailureClass;
    use crate::event::{CourseStarted, NotificationsSent};
    use crate::message::MessageId;

    async fn started(_: Event<CourseStarted>, (): ()) -> HandlerResult {
        Ok(())
    }
    async fn sent(_: Event<NotificationsSent>, (): ()) -> HandlerResult {
        Ok(())
    }
    async fn any(_: Event, (): ()) -> HandlerResult {
        Ok(())
    }

    fn router() -> Router {
        let router = Router::new().on("progress", started).on("streaks", started).on("push", sent);
        router.on_any("archive", any).fallback("unknown", any).with_state(())
    }

    fn envelope(event_type: &str, api_version: &str) -> Envelope {
        let body = format!(
            r#"{{"type":"{event_type}","api_version":"{api_version}","data":{{}},
                "timestamp":"2022-11-04T09:58:58.233Z"}}"#
        );
        Envelope::parse(body.as_bytes()).unwrap()
    }

    fn names(envelope: &Envelope) -> Vec<&'static str> {
        router().route(envelope).handlers.iter().map(|handler| handler.name).collect()
    }

    #[test]
    fn an_event_goes_to_the_handlers_of_its_type_and_to_those_for_any() {
        let started = envelope("user.course.started", "2022-11-15");
        assert_eq!(names(&started), ["progress", "streaks", "archive"]);
    }

    #[test]
    fn an_unknown_type_goes_to_the_fallback() {
        assert_eq!(names(&envelope("example.unknown", "2022-11-15")), ["archive", "unknown"]);
    }

    #[test]
    fn a_version_that_no_handler_knows_goes_to_the_fallback() {
        assert_eq!(names(&envelope("user.course.started", "2031-01-01")), ["archive", "unknown"]);
        assert!(!router().route(&envelope("user.course.started", "2031-01-01")).known);
    }

    #[test]
    #[should_panic(expected = "two handlers are named `progress`")]
    fn two_handlers_of_one_name_fail_the_cold_start() {
        let _ = Router::new().on("progress", started).on("progress", sent).with_state(());
    }

    #[tokio::test]
    async fn a_payload_of_another_shape_is_a_permanent_failure() {
        let envelope = Arc::new(envelope("user.course.started", "2022-11-15"));
        let message = Arc::new(Message {
            id: MessageId::parse("msg_1").unwrap(),
            signed_at_s: 0,
            signature: String::new(),
            received_at: Timestamp::UNIX_EPOCH,
            event_type: None,
            body: Vec::new(),
        });
        let router = router();
        let route = router.route(&envelope);
        let error = route.handlers[0].call(message, envelope.clone()).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(
            error.to_string(),
            "`data` is not what `user.course.started` has (line 1, column 2 of `data`)"
        );
    }
}
