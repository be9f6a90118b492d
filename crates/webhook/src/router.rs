//! The router: which handlers an event goes to.
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

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::{HandlerError, HandlerResult};
use crate::event::{Envelope, Event, EventError, Payload};
use crate::idempotency::is_handler_name;

type Call<S> = Arc<dyn Fn(S, Event) -> BoxFuture<'static, HandlerResult> + Send + Sync>;

/// Reads the payload of an event, and drops it.
type ReadPayload = fn(&Envelope) -> Result<(), EventError>;

/// The handlers, in the order in which they were registered. `S` is the state they still need;
/// a `Router<()>` is ready to run.
pub struct Router<S = ()> {
    handlers: Vec<Handler<S>>,
    /// The names of handlers that are switched off.
    off: Vec<&'static str>,
}

/// How long a call of a handler takes at most, unless [`Router::longest_call`] says otherwise.
pub const LONGEST_CALL: Duration = Duration::from_secs(5);

/// One registered handler.
pub struct Handler<S = ()> {
    name: &'static str,
    takes: Pattern,
    max_age: Option<Duration>,
    longest_call: Duration,
    read_payload: ReadPayload,
    call: Call<S>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// Events of one type in one version.
    Type { event_type: &'static str, api_version: &'static str },
    /// Events of these types in any version.
    Types(BTreeSet<String>),
    /// Every event.
    Any,
    /// Every webhook, whether its body is an event or not.
    Webhook,
    /// Every JSON object that no `Type` takes.
    Rest,
}

impl Pattern {
    fn matches_payload(&self, envelope: &Envelope) -> bool {
        matches!(self, Self::Type { event_type, api_version }
            if *event_type == envelope.event_type && *api_version == envelope.api_version)
    }

    fn matches_named_type(&self, envelope: &Envelope) -> bool {
        matches!(self, Self::Types(types) if types.contains(&envelope.event_type))
    }

    fn matches_another_version(&self, envelope: &Envelope) -> bool {
        matches!(self, Self::Type { event_type, api_version }
            if *event_type == envelope.event_type && *api_version != envelope.api_version)
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// A router without handlers.
    pub const fn new() -> Self {
        Self { handlers: Vec::new(), off: Vec::new() }
    }

    /// A router without handlers, because the one of this name is switched off. The name stays known, so that a
    /// replay window for it can be opened where the handler is off: on the laptop of the person on call.
    ///
    /// # Panics
    ///
    /// When the name cannot be a handler's; see [`Router::on`].
    #[track_caller]
    pub fn off(name: &'static str) -> Self {
        assert_is_name(name);
        Self { handlers: Vec::new(), off: vec![name] }
    }

    /// Runs `handler` for the events whose payload is `P`. Several handlers may take the same
    /// type: each runs once per message, and one that fails does not run the others again.
    ///
    /// The ledger records what is done under `name`: after a change of the name, the handler runs again for
    /// messages that are delivered again.
    ///
    /// # Panics
    ///
    /// If a handler of that name is registered already: the cold start fails, so that one handler is not mistaken
    /// for the other. Or if the name is not 1 to 64 of `a-z`, `0-9`, `_`, `-` and `.`, or is only digits, as the
    /// names of items are.
    #[must_use]
    #[track_caller]
    pub fn on<P, F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        P: Payload,
        F: Fn(Event<P>, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let takes = Pattern::Type { event_type: P::TYPE, api_version: P::API_VERSION };
        let read_payload: ReadPayload = |envelope| envelope.data::<P>().map(drop);
        self.register(name, takes, read_payload, move |state, event| match event.envelope.data::<P>() {
            Ok(data) => Box::pin(handler(event.with_data(data), state)),
            Err(error) => {
                let error = HandlerError::permanent(error.to_string());
                Box::pin(std::future::ready(Err(error)))
            }
        })
    }

    /// Runs `handler` for every event of these types, in any version; they count as known.
    ///
    /// # Panics
    ///
    /// When a handler of that name is registered already.
    #[must_use]
    #[track_caller]
    pub fn on_types<F, Fut>(self, name: &'static str, types: BTreeSet<String>, handler: F) -> Self
    where
        F: Fn(Event, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.register(name, Pattern::Types(types), no_payload, move |state, event| {
            Box::pin(handler(event, state))
        })
    }

    /// Runs `handler` for every event, of any type and version.
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
        self.register(name, Pattern::Any, no_payload, move |state, event| Box::pin(handler(event, state)))
    }

    /// Runs `handler` for every webhook, even if its body is not an event: not JSON, or not a JSON object. For
    /// handlers that keep the signed bytes. The envelope of such a body is empty, and its message goes to the
    /// dead-letter queue when the handler is done.
    ///
    /// # Panics
    ///
    /// When a handler of that name is registered already.
    #[must_use]
    #[track_caller]
    pub fn on_any_webhook<F, Fut>(self, name: &'static str, handler: F) -> Self
    where
        F: Fn(Event, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.register(name, Pattern::Webhook, no_payload, move |state, event| Box::pin(handler(event, state)))
    }

    /// Runs `handler` for every event of a type or version that no [`Router::on`] takes, and for every JSON object
    /// that is not an event. Without a fallback, such a webhook is logged as unknown, and is done when the
    /// handlers for any event are.
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
        self.register(name, Pattern::Rest, no_payload, move |state, event| Box::pin(handler(event, state)))
    }

    /// Skips events that happened longer than `max_age` ago: the handler is not called for them, and they count as
    /// done. For effects that nobody wants late, such as push notifications.
    ///
    /// # Panics
    ///
    /// When no handler of that name is registered yet.
    #[must_use]
    #[track_caller]
    pub fn max_age(mut self, name: &str, max_age: Duration) -> Self {
        self.handler_mut(name).max_age = Some(max_age);
        self
    }

    /// Sets how long a call of the handler takes at most, or one item if it has a list: [`LONGEST_CALL`] unless
    /// set. That long before the end of an invocation's time for work, the handler begins nothing more, so that
    /// nothing is cut off between its effect and the record of it.
    ///
    /// # Panics
    ///
    /// When no handler of that name is registered yet.
    #[must_use]
    #[track_caller]
    pub fn longest_call(mut self, name: &str, longest_call: Duration) -> Self {
        self.handler_mut(name).longest_call = longest_call;
        self
    }

    /// Gives every handler its state. It is cloned for each call, so it has to be cheap to clone, as clients and
    /// `Arc`s are.
    #[must_use]
    pub fn with_state(self, state: S) -> Router {
        let handlers = self.handlers.into_iter().map(|handler| {
            let (state, call) = (state.clone(), handler.call);
            Handler {
                name: handler.name,
                takes: handler.takes,
                max_age: handler.max_age,
                longest_call: handler.longest_call,
                read_payload: handler.read_payload,
                call: Arc::new(move |(), event| call(state.clone(), event)) as Call<()>,
            }
        });
        Router { handlers: handlers.collect(), off: self.off }
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "documented: the cold start fails")]
    fn handler_mut(&mut self, name: &str) -> &mut Handler<S> {
        let handler = self.handlers.iter_mut().find(|handler| handler.name == name);
        handler.unwrap_or_else(|| panic!("no handler is named `{name}` yet"))
    }

    #[track_caller]
    fn register<F>(self, name: &'static str, takes: Pattern, read_payload: ReadPayload, call: F) -> Self
    where
        F: Fn(S, Event) -> BoxFuture<'static, HandlerResult> + Send + Sync + 'static,
    {
        assert_is_name(name);
        self.register_handler(Handler {
            name,
            takes,
            max_age: None,
            longest_call: LONGEST_CALL,
            read_payload,
            call: Arc::new(call),
        })
    }

    #[track_caller]
    fn register_handler(mut self, new: Handler<S>) -> Self {
        self.assert_is_free(new.name);
        self.handlers.push(new);
        self
    }

    #[track_caller]
    fn assert_is_free(&self, name: &str) {
        let is_free = !self.known_names().contains(&name);
        assert!(is_free, "two handlers are named `{name}`; give one another name");
    }
}

#[track_caller]
fn assert_is_name(name: &str) {
    assert!(
        is_handler_name(name),
        "invalid handler name `{name}`: use 1-64 characters from a-z 0-9 _ - ., not only digits"
    );
}

/// What is to be read for a handler that takes events with their `data` raw: nothing.
fn no_payload(_: &Envelope) -> Result<(), EventError> {
    Ok(())
}

impl Router {
    /// Adds the handlers of another router, which have a state of their own.
    ///
    /// # Panics
    ///
    /// When both have a handler of the same name, switched on or off.
    #[must_use]
    #[track_caller]
    pub fn merge(mut self, other: Self) -> Self {
        for name in other.off {
            self.assert_is_free(name);
            self.off.push(name);
        }
        other.handlers.into_iter().fold(self, Self::register_handler)
    }
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

    /// The names of all handlers, and of those that are switched off.
    pub fn known_names(&self) -> Vec<&'static str> {
        self.handlers.iter().map(|handler| handler.name).chain(self.off.iter().copied()).collect()
    }

    /// The handlers that an event goes to, or a JSON object that is not an event.
    pub fn route(&self, envelope: &Envelope) -> Route<'_, S> {
        let any = |is: fn(&Pattern, &Envelope) -> bool| self.handlers.iter().any(|h| is(&h.takes, envelope));
        let is_typed = any(Pattern::matches_payload);
        let is_known = is_typed || any(Pattern::matches_named_type);
        let is_another_version = !is_typed && any(Pattern::matches_another_version);
        let takes_it = |handler: &&Handler<S>| match &handler.takes {
            Pattern::Type { .. } => handler.takes.matches_payload(envelope),
            Pattern::Types(_) => handler.takes.matches_named_type(envelope),
            Pattern::Any | Pattern::Webhook => true,
            Pattern::Rest => !is_known || is_another_version,
        };
        Route { is_known, is_another_version, handlers: self.handlers.iter().filter(takes_it).collect() }
    }

    /// The handlers of a webhook whose body is not a JSON object.
    pub fn route_no_event(&self) -> Route<'_, S> {
        let takes_it = |handler: &&Handler<S>| handler.takes == Pattern::Webhook;
        let handlers = self.handlers.iter().filter(takes_it).collect();
        Route { is_known: false, is_another_version: false, handlers }
    }
}

/// The route of one event.
pub struct Route<'a, S = ()> {
    /// Whether a handler is registered for this type and version, or for this type in any version.
    pub is_known: bool,
    /// Whether handlers are registered for the payload of this type, but only for other versions of it. Then an
    /// event that is relied on is not handled: an incident, unlike a type for which nobody has written a handler.
    pub is_another_version: bool,
    /// The handlers to run, if any.
    pub handlers: Vec<&'a Handler<S>>,
}

impl<S> Handler<S> {
    /// The name under which the ledger records it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How long a call that it makes takes at most.
    pub const fn longest_call(&self) -> Duration {
        self.longest_call
    }

    /// Whether it is registered for types by name, with [`Router::on`] or [`Router::on_types`].
    pub const fn is_for_named_types(&self) -> bool {
        matches!(self.takes, Pattern::Type { .. } | Pattern::Types(_))
    }

    /// Whether it is registered with [`Router::fallback`].
    pub const fn is_fallback(&self) -> bool {
        matches!(self.takes, Pattern::Rest)
    }

    /// Reads the payload of an event that goes to this handler, and calls nothing: for checks of examples. A handler
    /// without a payload of its own reads every event.
    ///
    /// # Errors
    ///
    /// [`EventError::Data`] when the handler's payload has another shape.
    pub fn read_payload(&self, envelope: &Envelope) -> Result<(), EventError> {
        (self.read_payload)(envelope)
    }

    /// Whether an event of this age is too old for it.
    pub fn is_too_late(&self, age: Duration) -> bool {
        self.max_age.is_some_and(|max_age| age > max_age)
    }
}

impl Handler {
    /// Starts the work. A payload that does not have the handler's shape is a permanent failure.
    pub fn call(&self, event: Event) -> BoxFuture<'static, HandlerResult> {
        (self.call)((), event)
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.handlers.iter().map(|h| (h.name, &h.takes))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;

    use super::*;
    use crate::FailureClass;
    use crate::event::{API_VERSION, CourseStarted, NotificationsSent};
    use crate::items::ItemLog;
    use crate::testing;

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
        assert!(format!("{:?}", router()).starts_with(r#"[("progress", "#));
    }

    #[test]
    fn an_unknown_type_goes_to_the_fallback() {
        assert_eq!(names(&envelope("example.unknown", "2022-11-15")), ["archive", "unknown"]);
    }

    #[test]
    fn a_version_that_no_handler_knows_goes_to_the_fallback() {
        assert_eq!(names(&envelope("user.course.started", "2031-01-01")), ["archive", "unknown"]);
    }

    #[test]
    fn a_known_type_in_another_version_is_told_from_a_type_without_a_handler() {
        let router = router();
        let told = |event_type, api_version| {
            let route = router.route(&envelope(event_type, api_version));
            (route.is_known, route.is_another_version)
        };
        assert_eq!(told("user.course.started", API_VERSION), (true, false));
        for api_version in ["2031-01-01", "", "2022-11-15 "] {
            assert_eq!(told("user.course.started", api_version), (false, true), "{api_version}");
        }
        assert_eq!(told("example.unknown", API_VERSION), (false, false));
        assert_eq!(told("", ""), (false, false));
    }

    #[test]
    fn a_body_that_is_not_an_event_goes_to_the_handlers_for_every_webhook_alone() {
        let router = router().merge(Router::new().on_any_webhook("keep", any).with_state(()));
        let names = |route: Route<'_>| route.handlers.iter().map(|handler| handler.name).collect::<Vec<_>>();
        assert_eq!(names(router.route_no_event()), ["keep"]);
        let started = envelope("user.course.started", "2022-11-15");
        assert_eq!(names(router.route(&started)), ["progress", "streaks", "archive", "keep"]);
    }

    #[test]
    fn a_handler_says_how_long_its_calls_take() {
        let long = Duration::from_secs(10);
        let router = Router::new().on("progress", started).on("push", sent).longest_call("push", long);
        let router = router.with_state(());
        let calls: Vec<_> = router.handlers.iter().map(Handler::longest_call).collect();
        assert_eq!(calls, [LONGEST_CALL, long]);
    }

    #[test]
    fn a_handler_says_what_it_is_for_and_reads_its_payload_without_being_called() {
        let router = router().merge(Router::new().on_types("forward", BTreeSet::new(), any).with_state(()));
        let of = |is: fn(&Handler) -> bool| {
            router.handlers.iter().filter(|handler| is(handler)).map(Handler::name).collect::<Vec<_>>()
        };
        assert_eq!(of(Handler::is_for_named_types), ["progress", "streaks", "push", "forward"]);
        assert_eq!(of(Handler::is_fallback), ["unknown"]);
        let no_course = envelope("user.course.started", API_VERSION);
        let reads: Vec<_> = router.handlers.iter().map(|h| h.read_payload(&no_course).is_ok()).collect();
        assert_eq!(reads, [false, false, false, true, true, true]);
    }

    #[test]
    #[should_panic(expected = "two handlers are named `progress`")]
    fn two_handlers_of_one_name_fail_the_cold_start() {
        let _ = Router::new().on("progress", started).on("progress", sent).with_state(());
    }

    #[test]
    #[should_panic(expected = "invalid handler name `Push/it`")]
    fn a_name_that_the_ledger_could_not_keep_fails_the_cold_start() {
        let _ = Router::new().on("Push/it", sent).with_state(());
    }

    #[test]
    fn routers_with_states_of_their_own_become_one() {
        async fn counted(_: Event, _: u32) -> HandlerResult {
            Ok(())
        }
        let merged = router().merge(Router::new().on_any("count", counted).with_state(7));
        assert_eq!(merged.handler_names().last(), Some(&"count"));
    }

    #[test]
    fn a_handler_of_named_types_takes_them_in_any_version_and_hides_no_incident() {
        let types = || BTreeSet::from(["notifications.sent".to_owned(), "example.new".to_owned()]);
        let router =
            Router::new().on("push", sent).on_types("forward", types(), any).fallback("unknown", any);
        let router = router.with_state(());
        let names_of = |event_type, version| {
            let envelope = envelope(event_type, version);
            let route = router.route(&envelope);
            let names: Vec<_> = route.handlers.iter().map(|handler| handler.name()).collect();
            (names, route.is_known, route.is_another_version)
        };
        assert_eq!(names_of("notifications.sent", "2022-11-15"), (vec!["push", "forward"], true, false));
        assert_eq!(names_of("notifications.sent", "2031-01-01"), (vec!["forward", "unknown"], true, true));
        assert_eq!(names_of("example.new", "2031-01-01"), (vec!["forward"], true, false));
        assert_eq!(names_of("example.other", "2022-11-15"), (vec!["unknown"], false, false));
    }

    #[test]
    fn a_name_is_taken_once_whether_its_handler_is_on_or_off() {
        let on = || Router::new().on("push", sent).with_state(());
        let off = || Router::off("push");
        assert!(std::panic::catch_unwind(|| on().merge(off())).is_err());
        assert!(std::panic::catch_unwind(|| off().merge(on())).is_err());
        assert!(std::panic::catch_unwind(|| off().merge(off())).is_err());
        assert!(std::panic::catch_unwind(|| Router::<()>::off("Push")).is_err());
    }

    #[test]
    fn a_handler_that_is_switched_off_keeps_its_name() {
        let router = Router::new().on("push", sent).with_state(()).merge(Router::off("archive"));
        assert_eq!((router.handler_names(), router.known_names()), (vec!["push"], vec!["push", "archive"]));
    }

    #[test]
    fn a_handler_with_a_maximum_age_is_too_late_after_it() {
        let router = Router::new().on("push", sent).max_age("push", Duration::from_hours(24));
        let router = router.on_any("archive", any).with_state(());
        let route = router.route(&envelope("notifications.sent", "2022-11-15"));
        let too_late =
            |age| route.handlers.iter().map(|handler| handler.is_too_late(age)).collect::<Vec<_>>();
        assert_eq!(too_late(Duration::from_hours(24)), [false, false]);
        assert_eq!(too_late(Duration::from_hours(25)), [true, false]);
    }

    #[tokio::test]
    async fn a_payload_of_another_shape_is_a_permanent_failure() {
        let envelope = Arc::new(envelope("user.course.started", "2022-11-15"));
        let message = Arc::new(testing::message(Vec::new()));
        let router = router();
        let route = router.route(&envelope);
        let log = Arc::new(ItemLog::default());
        let now = Timestamp::UNIX_EPOCH;
        let event = Event::new(message, envelope.clone(), "progress", now, &BTreeSet::new(), log);
        let error = route.handlers[0].call(event).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert_eq!(
            error.to_string(),
            "`data` does not match the payload of `user.course.started` (line 1, column 2 of `data`)"
        );
    }
}
