//! A test kit for handlers: a consumer in memory, which does not wait and calls only the handlers.
//!
//! ```
//! use learnink_webhook::event::CourseStarted;
//! use learnink_webhook::testing::TestConsumer;
//! use learnink_webhook::{Event, HandlerError, HandlerResult, Router};
//!
//! async fn enrol(event: Event<CourseStarted>, courses: Vec<&'static str>) -> HandlerResult {
//!     if courses.contains(&&*event.data.course_id) { Ok(()) } else { Err(HandlerError::retryable("no such course yet")) }
//! }
//! let started = r#"{"type": "user.course.started", "api_version": "2022-11-15",
//!     "timestamp": "2025-11-06T09:58:58.233Z", "data": {"user_id": "u", "course_id": "c"}}"#;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let mut consumer = TestConsumer::new(Router::new().on("enrolment", enrol).with_state(vec!["c"]));
//! consumer.deliver(started).await.assert_done();
//! consumer.deliver_again().await.assert_not_run(); // a duplicate
//!
//! let mut consumer = TestConsumer::new(Router::new().on("enrolment", enrol).with_state(vec![]));
//! consumer.deliver(started).await.assert_retried("no such course yet");
//! # });
//! ```
//!
//! It does the same as the real one in routing, keys, the record of what is done by handler and by item, maximum
//! ages, and the message's next step. It leaves out time limits, waits, the circuit breaker between messages, and
//! the queue. It runs the handlers of a message one after the other, does not cut lists into parts, and a handler's
//! panic fails the test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{FailureClass, HandlerError, HandlerResult};
use crate::event::{Envelope, Event, Payload};
use crate::idempotency::REFUSED;
use crate::items::ItemLog;
use crate::message::{Message, MessageId};
use crate::router::Router;

/// A message as the receiver makes it from this body, with the id `msg_1`. It is received when its event happened,
/// or in 1970 if it does not say when that was. Its signature is not real.
pub fn message(body: impl Into<Vec<u8>>) -> Message {
    let body = body.into();
    let occurred_at = Envelope::parse(&body).ok().and_then(|envelope| envelope.occurred_at);
    let received_at = occurred_at.unwrap_or(Timestamp::UNIX_EPOCH);
    let id = MessageId("msg_1".to_owned());
    let signed_at_s = received_at.as_second();
    Message {
        id,
        signed_at_s,
        signature: "v1,".to_owned(),
        received_at,
        event_type: None,
        body,
        part: None,
        window: None,
    }
}

/// The event of a body, as a handler of this payload gets it at the first call.
///
/// # Panics
///
/// When the body is not an event with such a payload.
#[track_caller]
#[expect(clippy::panic, reason = "documented: the test fails")]
pub fn event<P: Payload>(body: impl Into<Vec<u8>>) -> Event<P> {
    let message = message(body);
    let envelope = Envelope::parse(&message.body).unwrap_or_else(|error| panic!("{error}"));
    let data = envelope.data().unwrap_or_else(|error| panic!("{error}"));
    let now = message.received_at;
    Event::new(Arc::new(message), Arc::new(envelope), "test", now, &BTreeSet::new(), Arc::default())
        .with_data(data)
}

/// A sample with another value at a JSON pointer, such as `/data/custom_id`; `null` removes the field.
///
/// # Panics
///
/// When the sample is not JSON, or does not have the object in which the field is.
#[expect(clippy::panic, reason = "documented: the test fails")]
pub fn with(sample: &str, pointer: &str, value: impl Into<Value>) -> String {
    let mut json: Value = serde_json::from_str(sample).unwrap_or_else(|error| panic!("the sample: {error}"));
    let (parent, field) = pointer.rsplit_once('/').unwrap_or_else(|| panic!("{pointer} has no `/`"));
    match json.pointer_mut(parent) {
        Some(Value::Object(object)) => match value.into() {
            Value::Null => drop(object.remove(field)),
            value => drop(object.insert(field.to_owned(), value)),
        },
        _ => panic!("the sample has no object at {parent}"),
    }
    json.to_string()
}

/// Delivers one message to the handlers of a router.
pub async fn deliver(router: Router, body: impl Into<Vec<u8>>) -> Delivered {
    TestConsumer::new(router).deliver(body).await
}

/// A consumer with its ledger in memory.
#[derive(Debug)]
pub struct TestConsumer {
    router: Router,
    /// The clock. Without one, each message is delivered a second after its event happened.
    now: Option<Timestamp>,
    messages: u32,
    last: Option<Message>,
    /// The ledger's keys of what is done, each behind its message's id.
    done: BTreeSet<(MessageId, String)>,
    crashes: bool,
}

impl TestConsumer {
    /// A consumer of these handlers, without deliveries so far.
    pub const fn new(router: Router) -> Self {
        Self { router, now: None, messages: 0, last: None, done: BTreeSet::new(), crashes: false }
    }

    /// Sets the clock. Until it is set, each message is delivered a second after its event happened.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.set_clock(now);
        self
    }

    /// Sets the clock, to any time.
    pub const fn set_clock(&mut self, now: Timestamp) {
        self.now = Some(now);
    }

    /// Makes the next delivery run the handlers and crash before anything is recorded as done.
    pub const fn crash_before_recording(&mut self) {
        self.crashes = true;
    }

    /// Delivers a new message. The first has the id `msg_1`, the next `msg_2`.
    pub async fn deliver(&mut self, body: impl Into<Vec<u8>>) -> Delivered {
        self.messages += 1;
        let message = Message { id: MessageId(format!("msg_{}", self.messages)), ..message(body) };
        self.run(message).await
    }

    /// Delivers the last message once more, as a duplicate or a retry does.
    ///
    /// # Panics
    ///
    /// When nothing has been delivered.
    #[expect(clippy::expect_used, reason = "documented: the test fails")]
    pub async fn deliver_again(&mut self) -> Delivered {
        let message = self.last.clone().expect("something has been delivered");
        self.run(message).await
    }

    /// Sends the last message again, as a redrive does: refused items are tried again, and what is done is not.
    ///
    /// # Panics
    ///
    /// When nothing has been delivered.
    #[expect(clippy::expect_used, reason = "documented: the test fails")]
    pub async fn redeliver(&mut self) -> Delivered {
        let message = self.last.clone().expect("something has been delivered");
        self.done.retain(|(id, key)| *id != message.id || !key.contains(REFUSED));
        self.run(message).await
    }

    async fn run(&mut self, message: Message) -> Delivered {
        self.last = Some(message.clone());
        let a_second_later = message.received_at.saturating_add(Duration::from_secs(1));
        let now = self.now.unwrap_or_else(|| a_second_later.unwrap_or(message.received_at));
        let message = Arc::new(message);
        let parsed = Envelope::parse(&message.body);
        let no_event = parsed.as_ref().err().map(ToString::to_string);
        let (envelope, route) = match parsed {
            Ok(envelope) => (envelope, None),
            Err(_) => (Envelope::of_no_event(), Some(self.router.route_no_event())),
        };
        let route = route.unwrap_or_else(|| self.router.route(&envelope));
        let envelope = Arc::new(envelope);
        let recorded: BTreeSet<_> =
            self.done.iter().filter(|(id, _)| *id == message.id).map(|(_, key)| key.clone()).collect();
        let mut runs = Vec::new();
        let mut finished = Vec::new();
        for handler in route.handlers {
            let name = handler.name();
            if recorded.contains(name) {
                continue;
            }
            let log = Arc::new(ItemLog::default());
            let event = Event::new(message.clone(), envelope.clone(), name, now, &recorded, log.clone());
            if handler.is_too_late(event.age()) {
                finished.push(name.to_owned());
                continue;
            }
            let result = handler.call(event).await;
            finished.extend(log.after(0));
            if result.is_ok() {
                finished.push(name.to_owned());
            }
            runs.push(Run { handler: name, result });
        }
        if !std::mem::take(&mut self.crashes) {
            self.done.extend(finished.into_iter().map(|key| (message.id.clone(), key)));
        }
        Delivered { runs, no_event }
    }
}

/// What one handler returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub handler: &'static str,
    /// What it returned.
    pub result: HandlerResult,
}

/// The result of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The handlers that ran, in the order in which they are registered.
    pub runs: Vec<Run>,
    /// Why the body is not an event, if it is not.
    no_event: Option<String>,
}

impl Delivered {
    /// Asserts that at least one handler ran and that all that ran are done: the message is deleted.
    ///
    /// # Panics
    ///
    /// When that is not so.
    #[track_caller]
    pub fn assert_done(&self) {
        assert!(!self.runs.is_empty(), "no handler ran: {self:?}");
        assert!(self.no_event.is_none() && self.failures().next().is_none(), "not done: {self:?}");
    }

    /// Asserts that a handler failed, may succeed later, and gave a reason that contains `reason`: the message is
    /// delivered again.
    ///
    /// # Panics
    ///
    /// When that is not so.
    #[track_caller]
    pub fn assert_retried(&self, reason: &str) {
        self.assert_failure(FailureClass::Retryable, reason);
    }

    /// Asserts that a handler will never succeed, that it gave a reason that contains `reason`, and that none may
    /// succeed later: the message goes to the dead-letter queue.
    ///
    /// # Panics
    ///
    /// When that is not so.
    #[track_caller]
    pub fn assert_dead_lettered(&self, reason: &str) {
        assert!(!self.is_retried(), "it comes back first: {self:?}");
        if !self.no_event.as_ref().is_some_and(|text| text.contains(reason)) {
            self.assert_failure(FailureClass::Permanent, reason);
        }
    }

    /// Asserts that no handler ran: none takes the event, all are done, or it is too old for them.
    ///
    /// # Panics
    ///
    /// When that is not so.
    #[track_caller]
    pub fn assert_not_run(&self) {
        assert!(self.runs.is_empty(), "{self:?}");
    }

    /// The longest wait that a handler asked for before the next delivery.
    pub fn retry_after(&self) -> Option<Duration> {
        self.failures().filter_map(HandlerError::minimum_delay).max()
    }

    fn is_retried(&self) -> bool {
        self.failures().any(|error| error.class() == FailureClass::Retryable)
    }

    #[track_caller]
    fn assert_failure(&self, class: FailureClass, reason: &str) {
        let mut failures = self.failures();
        let found = failures.any(|error| error.class() == class && error.to_string().contains(reason));
        assert!(found, "no handler failed like that ({class:?}, {reason}): {self:?}");
    }

    fn failures(&self) -> impl Iterator<Item = &HandlerError> {
        self.runs.iter().filter_map(|run| run.result.as_ref().err())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use crate::Permits;
    use crate::event::{CourseStarted, NotificationsSent};

    use super::*;

    const STARTED: &str = include_str!("../../../events/user.course.started.json");
    const SENT: &str = include_str!("../../../events/notifications.sent.json");

    type Keys = Arc<Mutex<Vec<String>>>;

    fn moody(answers: Vec<HandlerResult>) -> (Router, Keys) {
        let (answers, keys) = (Arc::new(Mutex::new(answers)), Keys::default());
        let handler = |event: Event<CourseStarted>,
                       (answers, keys): (Arc<Mutex<Vec<HandlerResult>>>, Keys)| async move {
            keys.lock().unwrap().push(event.key.to_string());
            answers.lock().unwrap().pop().unwrap_or(Ok(()))
        };
        (Router::new().on("moody", handler).with_state((answers, keys.clone())), keys)
    }

    #[tokio::test]
    async fn what_is_done_is_not_run_again_and_a_crash_repeats_it_under_the_same_key() {
        let (router, keys) = moody(Vec::new());
        let mut consumer = TestConsumer::new(router);
        consumer.crash_before_recording();
        consumer.deliver(STARTED).await.assert_done();
        consumer.deliver_again().await.assert_done();
        consumer.deliver_again().await.assert_not_run();
        consumer.deliver(STARTED).await.assert_done();
        assert_eq!(*keys.lock().unwrap(), ["msg_1/moody", "msg_1/moody", "msg_2/moody"]);
    }

    #[tokio::test]
    async fn a_failure_says_what_becomes_of_the_message() {
        let again = HandlerError::retryable("busy").retry_after(Duration::from_secs(7));
        let (router, _) = moody(vec![Err(HandlerError::permanent("gone")), Err(again)]);
        let mut consumer = TestConsumer::new(router);
        let delivered = consumer.deliver(STARTED).await;
        delivered.assert_retried("busy");
        assert_eq!(delivered.retry_after(), Some(Duration::from_secs(7)));
        consumer.deliver_again().await.assert_dead_lettered("gone");
        let (router, _) = moody(Vec::new());
        deliver(router, "not json").await.assert_dead_lettered("not JSON");
    }

    #[tokio::test]
    async fn an_event_is_as_old_as_the_clock_says() {
        let (router, _) = moody(Vec::new());
        let router = router.max_age("moody", Duration::from_hours(1));
        let mut consumer = TestConsumer::new(router);
        consumer.deliver(STARTED).await.assert_done();
        consumer.set_clock("2100-01-01T00:00:00Z".parse().unwrap());
        consumer.deliver(STARTED).await.assert_not_run();
        consumer.deliver(with(STARTED, "/data/custom_id", Value::Null)).await.assert_not_run();
    }

    #[tokio::test]
    async fn a_handler_that_is_done_or_too_late_does_not_keep_the_others_from_their_turn() {
        async fn fine(_: Event<CourseStarted>, (): ()) -> HandlerResult {
            Ok(())
        }
        let (moody, _) = moody(vec![Ok(()), Err(HandlerError::retryable("busy"))]);
        let router = Router::new().on("fine", fine).with_state(()).max_age("fine", Duration::from_hours(1));
        let mut consumer = TestConsumer::new(router.merge(moody));
        let ran = |delivered: &Delivered| delivered.runs.iter().map(|run| run.handler).collect::<Vec<_>>();
        assert_eq!(ran(&consumer.deliver(STARTED).await), ["fine", "moody"]);
        assert_eq!(ran(&consumer.deliver_again().await), ["moody"]);

        consumer.set_clock("2100-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(ran(&consumer.deliver(STARTED).await), ["moody"]);
        consumer.set_clock("2022-11-04T10:00:00Z".parse().unwrap());
        consumer.deliver_again().await.assert_not_run();
    }

    /// A delivery to three handlers that end like this.
    fn delivered(results: [HandlerResult; 3]) -> Delivered {
        let runs = ["a", "b", "c"].into_iter().zip(results);
        Delivered { runs: runs.map(|(handler, result)| Run { handler, result }).collect(), no_event: None }
    }

    #[test]
    fn an_assertion_that_does_not_hold_fails_the_test() {
        fn fails(assert: impl FnOnce()) -> bool {
            catch_unwind(AssertUnwindSafe(assert)).is_err()
        }
        let (busy, gone) = (|| Err(HandlerError::retryable("busy")), || Err(HandlerError::permanent("gone")));
        let none = Delivered { runs: Vec::new(), no_event: None };
        let done = delivered([Ok(()), Ok(()), Ok(())]);
        let again = delivered([Ok(()), busy(), gone()]);
        let never = delivered([Ok(()), gone(), Ok(())]);

        done.assert_done();
        assert!([&none, &again, &never].into_iter().all(|other| fails(|| other.assert_done())));
        again.assert_retried("busy");
        assert!(fails(|| again.assert_retried("slow")), "another reason");
        assert!(fails(|| again.assert_retried("gone")), "the reason of another kind of failure");
        assert!(fails(|| done.assert_retried("busy")));
        never.assert_dead_lettered("gone");
        assert!(fails(|| again.assert_dead_lettered("gone")), "it comes back first");
        assert!(fails(|| never.assert_dead_lettered("busy")));
        none.assert_not_run();
        assert!(fails(|| done.assert_not_run()));
    }

    /// Sends each notification except the first one that it tries.
    async fn send(event: Event<NotificationsSent>, (keys, permits): (Keys, Permits)) -> HandlerResult {
        let work = |_: &_, key: crate::IdempotencyKey| {
            let mut keys = keys.lock().unwrap();
            keys.push(key.to_string());
            std::future::ready(if keys.len() == 1 { Err(HandlerError::retryable("busy")) } else { Ok(()) })
        };
        event.for_each_item(&event.data.notifications, &permits, work).await
    }

    #[tokio::test]
    async fn an_item_that_is_done_is_not_begun_again() {
        let keys = Keys::default();
        let router = Router::new().on("push", send).with_state((keys.clone(), Permits::new(1)));
        let mut consumer = TestConsumer::new(router);
        consumer.deliver(SENT).await.assert_retried("busy");
        consumer.deliver_again().await.assert_done();
        let keys = keys.lock().unwrap();
        let different: BTreeSet<_> = keys.iter().collect();
        assert_eq!(keys.len(), different.len() + 1);
    }

    #[tokio::test]
    async fn a_refused_item_is_tried_again_by_a_redrive_alone() {
        async fn send(event: Event<NotificationsSent>, (keys, permits): (Keys, Permits)) -> HandlerResult {
            let work = |_: &_, key: crate::IdempotencyKey| {
                keys.lock().unwrap().push(key.to_string());
                let is_first = key.as_str().ends_with("/0");
                std::future::ready(if is_first {
                    Err(HandlerError::permanent("no template"))
                } else {
                    Ok(())
                })
            };
            event.for_each_item(&event.data.notifications, &permits, work).await
        }
        let keys = Keys::default();
        let router = Router::new().on("push", send).with_state((keys.clone(), Permits::new(1)));
        let mut consumer = TestConsumer::new(router);
        let sent: Value = serde_json::from_str(SENT).unwrap();
        let notification = &sent["data"]["notifications"][0];
        let two = with(SENT, "/data/notifications", vec![notification.clone(), notification.clone()]);
        consumer.deliver(two).await.assert_dead_lettered("no template");
        let tried = keys.lock().unwrap().len();
        consumer.deliver_again().await.assert_dead_lettered("no template");
        assert_eq!(keys.lock().unwrap().len(), tried);
        consumer.redeliver().await.assert_dead_lettered("no template");
        assert_eq!(keys.lock().unwrap().split_off(tried), ["msg_1/push/0"]);
    }

    #[tokio::test]
    async fn an_event_of_the_last_second_is_delivered() {
        let (router, _) = moody(Vec::new());
        deliver(router, with(STARTED, "/timestamp", "9999-12-31T23:59:59Z")).await.assert_done();
    }

    #[test]
    fn an_event_is_read_as_a_handler_gets_it() {
        let event = event::<CourseStarted>(with(STARTED, "/data/course_id", "c"));
        assert_eq!((&*event.data.course_id, event.key.as_str()), ("c", "msg_1/test"));
        assert_eq!(event.age(), Duration::ZERO);
    }
}
