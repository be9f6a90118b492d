//! What a webhook says: LearnInk's envelope and the payloads whose shape is public.
//!
//! Only two payloads are documented outside the customer's dashboard. Every other type is a normal
//! event with its `data` kept raw, so that an unknown type or field never fails anything.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::HandlerResult;
use crate::idempotency::IdempotencyKey;
use crate::items::{Item, ItemLog, Items, Permits};
use crate::message::{LONGEST_EVENT_TYPE_BYTES, Message, MessageId};
use crate::personal::Personal;

/// The `api_version` of all events today. Source: LearnInk webhook guide, step 2.
pub const API_VERSION: &str = "2022-11-15";

/// What every event has around its `data`. `Debug` leaves the payload out.
#[derive(Deserialize)]
pub struct Envelope {
    /// The event type, such as `user.course.started`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The version of the payload's shape, such as `2022-11-15`; empty where the sender left it
    /// out, which no handler is registered for.
    #[serde(default)]
    pub api_version: String,
    /// When it happened, which may be days before it was sent: a learner's phone queues events
    /// while it is offline.
    #[serde(rename = "timestamp")]
    pub occurred_at: Timestamp,
    /// The payload, not parsed yet.
    data: Box<RawValue>,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("event_type", &self.event_type)
            .field("api_version", &self.api_version)
            .field("occurred_at", &self.occurred_at)
            .field("data_bytes", &self.data.get().len())
            .finish_non_exhaustive()
    }
}

/// A body that is not an event, or `data` that is not what its type says.
///
/// It says where, and never repeats what stands there: payloads hold personal data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    /// The body has no bytes.
    #[error("the body is empty")]
    Empty,
    /// The body is not JSON at all.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON, but not LearnInk's envelope.
    #[error(
        "the body is JSON but not an event: `type`, `timestamp` or `data` is missing or of another kind (line {line}, column {column})"
    )]
    NotAnEvent {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An event whose `data` does not have the shape that its handler expects.
    #[error("`data` is not what `{event_type}` has (line {line}, column {column} of `data`)")]
    Data {
        /// The type whose payload was expected.
        event_type: &'static str,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
}

impl Envelope {
    /// Reads the envelope and leaves `data` raw.
    ///
    /// # Errors
    ///
    /// [`EventError`] when the body is empty, not JSON, or lacks `type`, `timestamp` or `data`.
    pub fn parse(body: &[u8]) -> Result<Self, EventError> {
        if body.is_empty() {
            return Err(EventError::Empty);
        }
        serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            if error.is_data() {
                EventError::NotAnEvent { line, column }
            } else {
                EventError::NotJson { line, column }
            }
        })
    }

    /// INTERIM
    pub fn of_no_event() -> Self {
        Self {
            event_type: String::new(),
            api_version: String::new(),
            occurred_at: Timestamp::UNIX_EPOCH,
            data: RawValue::from_string("null".to_owned()).unwrap_or_else(|_| unreachable!()),
        }
    }

    /// INTERIM
    pub fn is_event(&self) -> bool {
        !self.event_type.is_empty()
    }

    /// The payload as it was sent.
    pub fn raw_data(&self) -> &RawValue {
        &self.data
    }

    /// The payload as a type.
    ///
    /// # Errors
    ///
    /// [`EventError::Data`] when `data` does not have that shape.
    pub fn data<P: Payload>(&self) -> Result<P, EventError> {
        serde_json::from_str(self.data.get()).map_err(|error| EventError::Data {
            event_type: P::TYPE,
            line: error.line(),
            column: error.column(),
        })
    }
}

/// What a body says of itself, as far as it says so: for logs, metrics and filters.
///
/// It reads bodies that [`Envelope::parse`] refuses, and stops as soon as it knows, so that a long
/// `data` behind both costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// The `type` of the event, unless it is longer than any name.
    pub event_type: Option<String>,
    /// The `timestamp` of the event: when it happened.
    pub occurred_at: Option<Timestamp>,
}

impl Label {
    /// Reads what there is.
    pub fn read(body: &[u8]) -> Self {
        let mut label = Self::default();
        // An error ends the reading, and so does knowing both; what was read by then stays.
        let _ = serde_json::Deserializer::from_slice(body).deserialize_map(Labels(&mut label));
        label
    }
}

struct Labels<'a>(&'a mut Label);

impl<'de> Visitor<'de> for Labels<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Label { event_type, occurred_at } = self.0;
        while event_type.is_none() || occurred_at.is_none() {
            match map.next_key()? {
                Some(Field::Type) => {
                    let name: Option<String> = map.next_value()?;
                    *event_type = name.filter(|name| name.len() <= LONGEST_EVENT_TYPE_BYTES);
                }
                Some(Field::Timestamp) => {
                    let text: Option<String> = map.next_value()?;
                    *occurred_at = text.and_then(|text| text.parse().ok());
                }
                Some(Field::Other) => {
                    map.next_value::<IgnoredAny>()?;
                }
                None => break,
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Type,
    Timestamp,
    #[serde(other)]
    Other,
}

/// The `data` of one event type in one version.
pub trait Payload: DeserializeOwned + Send + 'static {
    /// The event type whose `data` this is.
    const TYPE: &'static str;
    /// The version whose shape this is. An event of another version goes to the fallback.
    const API_VERSION: &'static str = API_VERSION;
}

/// One event as a handler receives it. `T` is the payload's type, or `()` for a handler that
/// takes any event.
#[derive(Debug, Clone)]
pub struct Event<T = ()> {
    /// The message that brought it, with the signed bytes and when they were received.
    pub message: Arc<Message>,
    /// Type, version and time.
    pub envelope: Arc<Envelope>,
    /// Names what this handler does for this message, the same on every attempt: hand it on as the
    /// idempotency key of whatever the handler calls.
    pub key: IdempotencyKey,
    /// When the handler was called.
    pub now: Timestamp,
    /// The payload.
    pub data: T,
    items: Items,
}

impl Event {
    /// The event of a message, for the handler that has the ledger's key `task`, such as `push`. Of its
    /// items, those among what is `done` are done; what finishes now is noted in `log`.
    pub fn new(
        message: Arc<Message>,
        envelope: Arc<Envelope>,
        task: &str,
        now: Timestamp,
        done: &BTreeSet<String>,
        log: Arc<ItemLog>,
    ) -> Self {
        let key = IdempotencyKey::new(&message.id, task);
        let items = Items::new(task, message.part.as_ref(), done, log);
        Self { message, envelope, key, now, data: (), items }
    }

    /// The same event with its payload.
    pub(crate) fn with_data<T>(self, data: T) -> Event<T> {
        let Self { message, envelope, key, now, items, .. } = self;
        Event { message, envelope, key, now, data, items }
    }
}

impl<T> Event<T> {
    /// The message id.
    pub fn id(&self) -> &MessageId {
        &self.message.id
    }

    /// When it happened.
    pub fn occurred_at(&self) -> Timestamp {
        self.envelope.occurred_at
    }

    /// How long ago it happened. Zero for an event whose clock is ahead of ours.
    pub fn age(&self) -> Duration {
        elapsed(self.occurred_at(), self.now)
    }

    /// How long after it happened it was received: moments, or days for a learner who was offline.
    pub fn offline_lag(&self) -> Duration {
        elapsed(self.occurred_at(), self.message.received_at)
    }

    /// Does `work` for each item of a list in the payload, each with an idempotency key of its own. `permits` limits
    /// how many are under way at once. What finished is not done again when the message comes back. A handler has
    /// one list.
    ///
    /// A list of more than [`LONGEST_PART`](crate::message::LONGEST_PART) items is cut into parts, each a message of
    /// its own: the handler is called once, which ends here with an error that it returns, and then once for each
    /// part, whose items alone it does. So a list may be as long as a message can be, and what the handler does
    /// beside the list it does for every part.
    ///
    /// An item that fails, panics or is refused does not stop the others, but failures in a row do: after
    /// three, one more item tries, and if it fails as well the rest waits for the next attempt, so that a failing
    /// downstream is called less. Each attempt begins elsewhere in the list. What was refused is not tried again
    /// until the message is sent again, as a redrive does. When the time of the invocation ends, no more is begun,
    /// and the message comes back at once for the rest.
    ///
    /// # Errors
    ///
    /// Retryable when an item may succeed later, with the longest wait that one asked for; permanent when
    /// those that are left never will. Return it as it is.
    pub async fn for_each_item<'a, I, F, Fut>(
        &self,
        items: &'a [I],
        permits: &Permits,
        work: F,
    ) -> HandlerResult
    where
        F: Fn(&'a I, IdempotencyKey) -> Fut,
        Fut: Future<Output = HandlerResult>,
    {
        // Another number at each attempt, and the attempts' own time is one.
        let start = usize::try_from(self.now.as_millisecond()).unwrap_or_default();
        self.items.for_each(&self.key, items, permits, start, work).await
    }
}

/// From one time to a later one; zero to an earlier one.
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// The `data` of `user.course.started`: a learner started a course.
#[derive(Debug, Clone, Deserialize)]
pub struct CourseStarted {
    /// LearnInk's id of the learner.
    pub user_id: String,
    /// The id in the customer's own system, where the learner was created with one.
    pub custom_id: Option<String>,
    /// E.164, such as `+254705408079`.
    pub phone_number: Option<Personal<String>>,
    /// LearnInk's id of the course.
    pub course_id: String,
}

impl Payload for CourseStarted {
    const TYPE: &'static str = "user.course.started";
}

/// The `data` of `notifications.sent`: notifications that the customer's own push sender has to
/// forward. The list can be long.
#[derive(Debug, Clone, Deserialize)]
pub struct NotificationsSent {
    /// One entry per learner and notification, each read by itself.
    pub notifications: Vec<Item<Notification>>,
}

impl Payload for NotificationsSent {
    const TYPE: &'static str = "notifications.sent";
}

/// One notification for one learner.
#[derive(Debug, Clone, Deserialize)]
pub struct Notification {
    /// The heading to show; it often names the learner.
    pub title: Personal<String>,
    /// The text to show.
    pub body: Personal<String>,
    /// Where the customer's `WebView` opens on a tap, such as `/learning`.
    pub path: String,
    /// LearnInk's id of the learner.
    pub user_id: String,
    /// The id in the customer's own system, where the learner was created with one.
    pub custom_id: Option<String>,
    /// E.164, such as `+254705408079`.
    pub phone_number: Option<Personal<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: &str = include_str!("../../../events/user.course.started.json");
    const SENT: &str = include_str!("../../../events/notifications.sent.json");

    fn started(data: &str) -> Result<CourseStarted, EventError> {
        let body = format!(
            r#"{{"object":"event","type":"user.course.started","api_version":"2022-11-15",
                "data":{data},"timestamp":"2022-11-04T09:58:58.233Z"}}"#
        );
        Envelope::parse(body.as_bytes())?.data()
    }

    #[test]
    fn the_documented_payloads_are_read() {
        let envelope = Envelope::parse(STARTED.as_bytes()).unwrap();
        assert_eq!(envelope.event_type, "user.course.started");
        assert_eq!(envelope.api_version, API_VERSION);
        assert_eq!(envelope.occurred_at.to_string(), "2022-11-04T09:58:58.233Z");
        let data: CourseStarted = envelope.data().unwrap();
        assert_eq!(data.course_id, "83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8");

        let data: NotificationsSent = Envelope::parse(SENT.as_bytes()).unwrap().data().unwrap();
        let first = data.notifications[0].read().unwrap();
        assert_eq!((first.path.as_str(), first.title.expose().as_str()), ("/learning", "Hi Mary!"));
    }

    #[test]
    fn null_and_absent_ids_and_numbers_are_the_same() {
        for data in [
            r#"{"user_id":"u","course_id":"c"}"#,
            r#"{"user_id":"u","course_id":"c","custom_id":null,"phone_number":null}"#,
        ] {
            let data = started(data).unwrap();
            assert!(data.custom_id.is_none() && data.phone_number.is_none());
        }
    }

    #[test]
    fn unknown_fields_never_fail() {
        let data = started(r#"{"user_id":"u","course_id":"c","level":{"deep":[1]}}"#);
        assert_eq!(data.unwrap().user_id, "u");
    }

    #[test]
    fn personal_fields_are_not_printed() {
        let started: CourseStarted = Envelope::parse(STARTED.as_bytes()).unwrap().data().unwrap();
        let sent: NotificationsSent = Envelope::parse(SENT.as_bytes()).unwrap().data().unwrap();
        let envelope = Envelope::parse(SENT.as_bytes()).unwrap();
        let printed = format!("{started:?} {sent:?} {envelope:?}");
        for personal in ["254705408079", "Mary", "training today"] {
            assert!(!printed.contains(personal), "{printed}");
        }
        assert!(printed.contains("83dc4f73"), "{printed}");
    }

    #[test]
    fn errors_say_where_and_never_what() {
        let secret = "+254705408079";
        for body in ["", "hello +254705408079", r#"{"type":"+254705408079"}"#] {
            let error = Envelope::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
        let error = started(r#"{"user_id":{"phone":"+254705408079"}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`data` is not what `user.course.started` has (line 1, column 11 of `data`)"
        );
    }

    #[test]
    fn a_body_that_is_no_event_says_which_way() {
        assert_eq!(Envelope::parse(b"").unwrap_err(), EventError::Empty);
        assert!(matches!(Envelope::parse(b"<xml>"), Err(EventError::NotJson { .. })));
        assert!(matches!(Envelope::parse(b"{} {}"), Err(EventError::NotAnEvent { .. })));
        assert!(matches!(Envelope::parse(b"[1]"), Err(EventError::NotAnEvent { .. })));
        assert!(matches!(Envelope::parse(b"{\"type\":"), Err(EventError::NotJson { .. })));
    }

    #[test]
    fn a_body_is_labelled_as_far_as_it_says_what_it_is() {
        let label = Label::read(STARTED.as_bytes());
        assert_eq!(label.event_type.as_deref(), Some("user.course.started"));
        assert_eq!(label.occurred_at, Some("2022-11-04T09:58:58.233Z".parse().unwrap()));
        for body in [&b""[..], b"{}", b"[]", b"{\"type\":1}", b"not json", b"\xFF", b"{\"type\":null}"] {
            assert_eq!(Label::read(body), Label::default());
        }
        for body in [r#"{"timestamp":"yesterday","type":"a"}"#, r#"{"type":"a","data":{"type":"b"},"timest"#]
        {
            let label = Label::read(body.as_bytes());
            assert_eq!((label.event_type.as_deref(), label.occurred_at), (Some("a"), None), "{body}");
        }
    }
}
