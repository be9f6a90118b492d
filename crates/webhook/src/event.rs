//! The content of a webhook: LearnInk's envelope and the payloads whose shape is public.
//!
//! Only two payloads are documented outside the customer's dashboard. Every other type is a normal event with its
//! `data` kept raw, so that an unknown type or field never causes a failure. Each known field is read only where
//! it is needed: if it is missing or malformed, only the code that reads it fails.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{HandlerError, HandlerResult};
use crate::idempotency::IdempotencyKey;
use crate::items::{Item, ItemLog, Items, Permits};
use crate::json;
use crate::message::{LONGEST_EVENT_TYPE_BYTES, Message, MessageId};
use crate::personal::Personal;

/// The `api_version` of all events today. Source: LearnInk webhook guide, step 2.
pub const API_VERSION: &str = "2022-11-15";

/// The fields that every event has around its `data`. `Debug` leaves the payload out.
///
/// Any JSON object can be read as one: a field that is missing, or of another kind, fails only the code that needs
/// it. Of several fields with one name the first counts, so that [`EnvelopeHead`] need not read a long `data` to its end.
pub struct Envelope {
    /// The event type, such as `user.course.started`; empty if it is missing, or not text.
    pub event_type: String,
    /// The version of the payload's shape, such as `2022-11-15`; of a number, its digits; empty if it is missing,
    /// or of another kind. No handler is registered for an empty one.
    pub api_version: String,
    /// When it happened, which may be days before it was sent: a learner's phone queues events while it is
    /// offline. `None` if it is missing, or not in RFC 3339. A time beyond the latest representable one becomes
    /// that one.
    pub occurred_at: Option<Timestamp>,
    /// The payload, not parsed yet; `null` if there is none.
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

/// A body that is not an event, or `data` that does not have the shape of its type.
///
/// It names the position, and never quotes the text there: payloads hold personal data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    /// The body has no bytes.
    #[error("the body is empty")]
    Empty,
    /// The body is not JSON at all, or not UTF-8.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An array, a text, a number, `true`, `false` or `null`.
    #[error("the body is JSON but not an object, as every event is")]
    NotAnObject,
    /// An event whose `data` does not have the shape that its handler expects.
    #[error("`data` does not match the payload of `{event_type}` (line {line}, column {column} of `data`)")]
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
    /// Reads the envelope of any JSON object, and leaves `data` raw.
    ///
    /// # Errors
    ///
    /// [`EventError`] when the body is empty, not JSON, or not an object. A byte order mark before the JSON is
    /// skipped.
    pub fn parse(body: &[u8]) -> Result<Self, EventError> {
        if body.is_empty() {
            return Err(EventError::Empty);
        }
        let text = std::str::from_utf8(body).map_err(|error| {
            let (before, _) = body.split_at_checked(error.valid_up_to()).unwrap_or_default();
            let last_line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let line_ends = memchr::memchr_iter(b'\n', before).count();
            EventError::NotJson { line: line_ends + 1, column: last_line.len() + 1 }
        })?;
        let text = without_bom(text);
        let not_json =
            |error: serde_json::Error| EventError::NotJson { line: error.line(), column: error.column() };
        if !text.trim_ascii_start().starts_with('{') {
            return match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Err(EventError::NotAnObject),
                Err(error) => Err(not_json(error)),
            };
        }
        let mut fields = Fields::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = deserializer.deserialize_map(FieldsVisitor { fields: &mut fields, wanted: Wanted::All });
        read.and_then(|()| deserializer.end()).map_err(not_json)?;
        Ok(Self {
            event_type: fields.event_type().unwrap_or_default().into_owned(),
            api_version: fields.api_version().into_owned(),
            occurred_at: fields.occurred_at(),
            data: fields.data.unwrap_or(RawValue::NULL).to_owned(),
        })
    }

    /// A placeholder envelope for a body that is not a JSON object: for handlers that take every webhook and keep
    /// its bytes.
    pub fn of_no_event() -> Self {
        let (event_type, api_version) = (String::new(), String::new());
        Self { event_type, api_version, occurred_at: None, data: RawValue::NULL.to_owned() }
    }

    /// Whether it has a type, without which it is not an event of LearnInk's: Svix's own `{"success": true}`,
    /// which tests an endpoint, has none.
    pub const fn is_event(&self) -> bool {
        !self.event_type.is_empty()
    }

    /// The payload as it was sent; `null` if there is none.
    pub fn raw_data(&self) -> &RawValue {
        &self.data
    }

    /// The payload as a type, read as [`json::read`] reads: fields that the type does not have are ignored.
    ///
    /// # Errors
    ///
    /// [`EventError::Data`] when `data` does not have that shape.
    pub fn data<P: Payload>(&self) -> Result<P, EventError> {
        json::read(self.data.get()).map_err(|error| EventError::Data {
            event_type: P::TYPE,
            line: error.line(),
            column: error.column(),
        })
    }
}

/// The type and time of a body, if it has them: for logs, metrics and filters.
///
/// It agrees with [`Envelope::parse`], and also reads bodies that this refuses. It stops as soon as it has both,
/// so that a long `data` after them costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvelopeHead {
    /// The `type` of the event, unless it is empty, or longer than any name.
    pub event_type: Option<String>,
    /// The `timestamp` of the event: when it happened.
    pub occurred_at: Option<Timestamp>,
}

impl EnvelopeHead {
    /// Reads the fields that exist.
    pub fn read(body: &[u8]) -> Self {
        let body = body.strip_prefix(BOM.as_bytes()).unwrap_or(body);
        let mut fields = Fields::default();
        // Reading ends with an error, or once both are known; the fields read by then are kept.
        let visitor = FieldsVisitor { fields: &mut fields, wanted: Wanted::TypeAndTime };
        let _ = serde_json::Deserializer::from_slice(body).deserialize_map(visitor);
        let is_name = |name: &Cow<'_, str>| (1..=LONGEST_EVENT_TYPE_BYTES).contains(&name.len());
        Self {
            event_type: fields.event_type().filter(is_name).map(Cow::into_owned),
            occurred_at: fields.occurred_at(),
        }
    }
}

/// The byte order mark, which some programs write before JSON, and which is not part of it.
/// Source: RFC 8259, section 8.1.
const BOM: &str = "\u{FEFF}";

fn without_bom(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// The raw fields of a body that have a meaning; of several with one name, the first.
#[derive(Default)]
struct Fields<'a> {
    event_type: Option<&'a RawValue>,
    api_version: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn event_type(&self) -> Option<Cow<'a, str>> {
        json::text(self.event_type?.get())
    }

    fn api_version(&self) -> Cow<'a, str> {
        let raw = self.api_version.map_or("", RawValue::get);
        if raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Cow::Borrowed(raw);
        }
        json::text(raw).unwrap_or_default()
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        time(&json::text(self.timestamp?.get())?)
    }
}

/// The fields after which the rest of a body does not matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    TypeAndTime,
}

/// Reads [`Fields`] without parsing any value, so that none fails the others.
struct FieldsVisitor<'f, 'a> {
    fields: &'f mut Fields<'a>,
    wanted: Wanted,
}

impl<'de> Visitor<'de> for FieldsVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, wanted } = self;
        // Raw, because a name may hold half a character.
        while let Some(name) = map.next_key::<&RawValue>()? {
            let name = json::text(name.get()).unwrap_or_default();
            let field = match (&*name, wanted) {
                ("type", _) => &mut fields.event_type,
                ("timestamp", _) => &mut fields.timestamp,
                ("api_version", Wanted::All) => &mut fields.api_version,
                ("data", Wanted::All) => &mut fields.data,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = map.next_value()?;
            field.get_or_insert(value);
            if wanted == Wanted::TypeAndTime && fields.event_type.is_some() && fields.timestamp.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// The time of a text in RFC 3339.
///
/// RFC 3339 has times that [`Timestamp`] does not have. Those after 9999-12-30T22:00:00Z, which mean "never" in
/// many programs, become the latest time there is. More than nine digits of a second are cut.
fn time(text: &str) -> Option<Timestamp> {
    let parsed = |text: &str| text.parse().ok().map(|time: Timestamp| time.min(LATEST));
    if let Some(time) = parsed(text) {
        return Some(time);
    }
    let (to_seconds, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let text = match (rest.get(..digits.min(LONGEST_FRACTION_DIGITS)), rest.get(digits..)) {
        (Some(fraction), Some(offset)) if digits > 0 => format!("{to_seconds}.{fraction}{offset}"),
        _ => text.to_owned(),
    };
    parsed(&text).or_else(|| {
        // Whether it is a time at all is checked on the same day a year earlier.
        let day = text.strip_prefix("9999-")?;
        parsed(&format!("9998-{day}")).map(|_| LATEST)
    })
}

/// The latest time that an event may have. The last second of a [`Timestamp`] has no milliseconds, in which times are
/// stored.
const LATEST: Timestamp = Timestamp::constant(253_402_207_200, 0);

/// How many digits of a second a [`Timestamp`] keeps.
const LONGEST_FRACTION_DIGITS: usize = 9;

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
    /// Names this handler's work for this message, the same on every attempt: pass it on as the idempotency key of
    /// the calls that the handler makes.
    pub key: IdempotencyKey,
    /// When the handler was called.
    pub now: Timestamp,
    /// The payload.
    pub data: T,
    items: Items,
}

impl Event {
    /// The event of a message, for the handler that has the ledger's key `task`, such as `push`. `done` has the
    /// items that are finished; items that finish now are noted in `log`.
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

    /// When it happened, if it says so.
    pub fn occurred_at(&self) -> Option<Timestamp> {
        self.envelope.occurred_at
    }

    /// How long ago it happened, or was received if it does not say when it happened. Zero for an event whose
    /// clock is ahead of ours.
    pub fn age(&self) -> Duration {
        elapsed(self.occurred_at().unwrap_or(self.message.received_at), self.now)
    }

    /// The time from when it happened until it was received: moments, or days for a learner who was offline.
    /// `None` if it does not say when it happened.
    pub fn offline_lag(&self) -> Option<Duration> {
        self.occurred_at().map(|at| elapsed(at, self.message.received_at))
    }

    /// Does `work` for each item of a list in the payload, each with an idempotency key of its own. `permits`
    /// limits how many are in flight at once. Finished items are not done again when the message is delivered
    /// again. A handler has one list.
    ///
    /// A list of more than [`LONGEST_PART`](crate::message::LONGEST_PART) items is cut into parts, each a message
    /// of its own. The first call ends here with an error, which the handler returns. Then the handler is called
    /// once for each part, and does only its items. So a list may be as long as a message can be. Work that the
    /// handler does besides the list is repeated for every part.
    ///
    /// An item that fails, panics or is refused does not stop the others. Failures in a row do: after three, one
    /// more item tries, and if it fails too, the rest waits for the next attempt, so that a failing downstream
    /// gets fewer calls. Each attempt begins elsewhere in the list. A refused item is not tried again until the
    /// message is sent again, as a redrive does. When the time of the invocation ends, no more items begin, and
    /// the message is delivered again at once for the rest.
    ///
    /// # Errors
    ///
    /// Retryable if an item may succeed later, with the longest wait that one asked for; permanent if the
    /// remaining ones never will. Return it as it is.
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
        // Differs at each attempt, as the time does.
        let start = usize::try_from(self.now.as_millisecond()).unwrap_or_default();
        self.items.for_each(&self.key, items, permits, start, work).await
    }
}

/// The time from `from` to `to`; zero if `to` is earlier.
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// An optional id of an event, such as a learner's: a text, or an integer, whose digits are then the id.
///
/// An id of another kind does not fail the event, only the code that [reads](Id::read) it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Id(IdField);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum IdField {
    /// Left out, or `null`.
    #[default]
    Missing,
    Known(String),
    OfAnotherKind,
}

impl Id {
    /// The id; `None` if the event has none. `field` is its name, for the reason.
    ///
    /// # Errors
    ///
    /// Permanent, if it is of another kind.
    pub fn read(&self, field: &str) -> Result<Option<&str>, HandlerError> {
        match &self.0 {
            IdField::Missing => Ok(None),
            IdField::Known(id) => Ok(Some(id)),
            IdField::OfAnotherKind => {
                Err(HandlerError::permanent(format!("`{field}` is not an id: it must be text or an integer")))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor).map(Self)
    }
}

struct IdVisitor;

impl<'de> Visitor<'de> for IdVisitor {
    type Value = IdField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_str<E: de::Error>(self, id: &str) -> Result<IdField, E> {
        Ok(IdField::Known(id.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, id: i64) -> Result<IdField, E> {
        Ok(IdField::Known(id.to_string()))
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<IdField, E> {
        Ok(IdField::Known(id.to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<IdField, E> {
        Ok(IdField::Missing)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<IdField, E> {
        Ok(IdField::OfAnotherKind)
    }

    /// Also an integer of more than 64 bits, whose digits are lost here.
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<IdField, E> {
        Ok(IdField::OfAnotherKind)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<IdField, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(IdField::OfAnotherKind)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<IdField, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(IdField::OfAnotherKind)
    }
}

/// A required id of a payload.
fn needed_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Id::deserialize(deserializer)?.0 {
        IdField::Known(id) => Ok(id),
        IdField::Missing | IdField::OfAnotherKind => {
            Err(de::Error::custom("it is not an id: it must be text or an integer"))
        }
    }
}

/// A personal text, or the digits of an integer; `None` for a value of another kind.
fn text_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Personal<String>>, D::Error> {
    Ok(match Id::deserialize(deserializer)?.0 {
        IdField::Known(text) => Some(Personal::new(text)),
        IdField::Missing | IdField::OfAnotherKind => None,
    })
}

/// The `data` of `user.course.started`: a learner started a course.
#[derive(Debug, Clone, Deserialize)]
pub struct CourseStarted {
    /// LearnInk's id of the learner.
    #[serde(deserialize_with = "needed_id")]
    pub user_id: String,
    /// The id in the customer's own system, where the learner was created with one.
    #[serde(default)]
    pub custom_id: Id,
    /// E.164, such as `+254705408079`; `None` too where it is neither text nor an integer.
    #[serde(default, deserialize_with = "text_or_none")]
    pub phone_number: Option<Personal<String>>,
    /// LearnInk's id of the course.
    #[serde(deserialize_with = "needed_id")]
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
    #[serde(default)]
    pub user_id: Id,
    /// The id in the customer's own system, where the learner was created with one.
    #[serde(default)]
    pub custom_id: Id,
    /// E.164, such as `+254705408079`; `None` too where it is neither text nor an integer.
    #[serde(default, deserialize_with = "text_or_none")]
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
        assert_eq!(envelope.occurred_at.unwrap().to_string(), "2022-11-04T09:58:58.233Z");
        let data: CourseStarted = envelope.data().unwrap();
        assert_eq!(data.course_id, "83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8");

        let data: NotificationsSent = Envelope::parse(SENT.as_bytes()).unwrap().data().unwrap();
        let first = data.notifications[0].read().unwrap();
        assert_eq!((first.path.as_str(), first.title.expose().as_str()), ("/learning", "Hi Mary!"));
    }

    #[test]
    fn an_event_tells_how_long_a_phone_was_offline_and_how_old_it_is_and_prints_no_payload() {
        let received = |body: &str| {
            let at = |text: &str| text.parse::<Timestamp>().unwrap();
            let received_at = at("2022-11-06T09:58:58.233Z");
            let message = Message { received_at, ..crate::testing::message(body) };
            let envelope = Arc::new(Envelope::parse(&message.body).unwrap());
            let now = at("2022-11-06T10:58:58.233Z");
            Event::new(Arc::new(message), envelope, "test", now, &BTreeSet::new(), Arc::default())
        };
        let event = received(STARTED);
        assert_eq!(event.offline_lag(), Some(Duration::from_hours(48)));
        assert_eq!(event.age(), Duration::from_hours(49));
        let printed = format!("{event:?}");
        assert!(printed.contains("user.course.started") && !printed.contains("2547"), "{printed}");
        let event = received("{}");
        assert_eq!((event.offline_lag(), event.age()), (None, Duration::from_hours(1)));
    }

    #[test]
    fn null_and_absent_ids_and_numbers_are_the_same() {
        for data in [
            r#"{"user_id":"u","course_id":"c"}"#,
            r#"{"user_id":"u","course_id":"c","custom_id":null,"phone_number":null}"#,
        ] {
            let data = started(data).unwrap();
            assert_eq!(data.custom_id.read("custom_id"), Ok(None));
            assert!(data.phone_number.is_none());
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
        for body in ["", "hello +254705408079", r#""+254705408079""#] {
            let error = Envelope::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
        let error = started(r#"{"user_id":{"phone":"+254705408079"}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`data` does not match the payload of `user.course.started` (line 1, column 37 of `data`)"
        );
    }

    #[test]
    fn a_body_that_cannot_be_an_event_says_why() {
        let error = |body: &[u8]| Envelope::parse(body).unwrap_err();
        assert_eq!(error(b""), EventError::Empty);
        for body in [
            &b"<xml>"[..],
            b" ",
            b"{\"type\":",
            b"{} {}",
            b"{}]",
            b"[1",
            b"1e",
            b"{\"a\":\"\0\"}",
            b"{\"a\":\"\x1f\"}",
        ] {
            assert!(matches!(error(body), EventError::NotJson { .. }), "{}", body.escape_ascii());
        }
        for body in ["[1]", "\"{}\"", "1e999", "null", " true ", "[{\"type\":\"a\"}]", "[[]]"] {
            assert_eq!(error(body.as_bytes()), EventError::NotAnObject, "{body}");
        }
        assert_eq!(error(b"{\"a\":1,\n\"b\":\"\xFF\"}"), EventError::NotJson { line: 2, column: 6 });
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(error(deep.as_bytes()), EventError::NotAnObject);
        assert!(matches!(error("[".repeat(100_000).as_bytes()), EventError::NotJson { .. }));
    }

    #[test]
    fn what_stands_in_for_no_event_has_no_type_and_no_data() {
        let envelope = Envelope::of_no_event();
        assert!(!envelope.is_event());
        assert_eq!((envelope.occurred_at, envelope.raw_data().get()), (None, "null"));
    }

    /// The envelope of a body with these fields, whose label has to agree about type and time.
    fn envelope(fields: &str) -> Envelope {
        let body = format!("{{{fields}}}");
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        let label = EnvelopeHead::read(body.as_bytes());
        assert_eq!(label.event_type.as_deref().unwrap_or_default(), envelope.event_type, "{fields}");
        assert_eq!(label.occurred_at, envelope.occurred_at, "{fields}");
        envelope
    }

    #[test]
    fn any_json_object_has_an_envelope() {
        let sample = envelope("");
        assert_eq!((&*sample.event_type, &*sample.api_version), ("", ""));
        assert_eq!((sample.occurred_at, sample.raw_data().get()), (None, "null"));
        for odd in ["null", "true", "[]", "{}", "[\"a\"]", "1.5e3", "1e999"] {
            assert!(!envelope(&format!(r#""type":{odd}"#)).is_event(), "{odd}");
            assert_eq!(envelope(&format!(r#""timestamp":{odd}"#)).occurred_at, None, "{odd}");
            assert_eq!(envelope(&format!(r#""data":{odd}"#)).raw_data().get(), odd);
            let others = format!(r#""type":"a","object":{odd},"data":{{}},"more":{odd}"#);
            assert!(envelope(&others).is_event(), "{odd}");
        }
        // Svix's own test of an endpoint.
        assert!(!envelope(r#""success":true"#).is_event());
        assert!(!envelope(r#""type":"""#).is_event());
    }

    #[test]
    fn an_odd_version_is_as_one_that_is_left_out_and_a_number_keeps_its_digits() {
        for odd in ["null", "true", "[]", "{}", "[\"2022-11-15\"]"] {
            assert_eq!(envelope(&format!(r#""type":"a","api_version":{odd}"#)).api_version, "", "{odd}");
        }
        for number in ["20270101", "-1", "2022.11", "1e999", "12345678901234567890123"] {
            assert_eq!(envelope(&format!(r#""api_version":{number}"#)).api_version, number);
        }
    }

    #[test]
    fn half_a_character_anywhere_does_not_fail_the_envelope() {
        let sample = envelope(
            r#""ty\ud83cpe":1,"type":"a\ud83c","api_version":"\udc00","data":"\ud83c","n":"\ud83c""#,
        );
        assert_eq!((&*sample.event_type, &*sample.api_version), ("a\u{FFFD}", "\u{FFFD}"));
        assert_eq!(sample.raw_data().get(), r#""\ud83c""#);
    }

    #[test]
    fn of_several_fields_of_one_name_the_first_counts() {
        let sample = envelope(
            r#""type":"a","api_version":"1","data":1,"timestamp":"2026-01-01T00:00:00Z",
               "type":"b","\u0074ype":"c","api_version":"2","data":2,"timestamp":"2027-01-01T00:00:00Z""#,
        );
        assert_eq!((&*sample.event_type, &*sample.api_version, sample.raw_data().get()), ("a", "1", "1"));
        assert_eq!(sample.occurred_at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(!envelope(r#""type":null,"type":"b""#).is_event());
        assert_eq!(envelope(r#""t\u0079pe":"c""#).event_type, "c");
    }

    #[test]
    fn a_byte_order_mark_is_not_a_part_of_the_body() {
        let body = format!("\u{FEFF}{STARTED}");
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        assert_eq!(EnvelopeHead::read(body.as_bytes()).event_type, Some(envelope.event_type));
        assert!(matches!(Envelope::parse("\u{FEFF}".as_bytes()), Err(EventError::NotJson { .. })));
    }

    #[test]
    fn no_depth_fails_an_event() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
            let sample = envelope(&format!(r#""type":"a","odd":{deep},"api_version":{deep},"data":{deep}"#));
            assert_eq!((&*sample.event_type, sample.raw_data().get()), ("a", &*deep));
            let data = started(&format!(
                r#"{{"user_id":"u","course_id":"c","custom_id":{deep},"phone_number":{deep},"more":{deep}}}"#
            ));
            assert_eq!(data.unwrap().user_id, "u");
        }
    }

    #[test]
    fn a_time_is_read_as_rfc_3339_has_it() {
        let at = |time: &str| envelope(&format!(r#""timestamp":"{time}""#)).occurred_at;
        let same = "2022-11-04T09:58:58.233Z".parse().ok();
        for time in [
            "2022-11-04T11:58:58.233+02:00",
            "2022-11-04t09:58:58.233z",
            "2022-11-04T09:58:58.2330000000009Z",
        ] {
            assert_eq!(at(time), same, "{time}");
        }
        for time in ["2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "2022-11-04T09:58:58-00:00"] {
            assert!(at(time).is_some(), "{time}");
        }
        for odd in
            ["", "yesterday", "2022-13-04T09:58:58Z", "2022-11-04", "1667555938233", "2022-11-04T09:58:58.Z"]
        {
            assert_eq!(at(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_time_after_the_largest_is_the_largest() {
        let at = |time: &str| envelope(&format!(r#""timestamp":"{time}""#)).occurred_at;
        for late in [
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.9999999Z",
            "9999-12-31T23:59:59Z",
            "9999-12-30T22:00:01Z",
            "9999-12-30T22:00:00.5Z",
            "9999-12-31T23:59:59-23:59",
            "9999-12-29T23:59:59.1234567890-23:59",
        ] {
            assert_eq!(at(late), Some(LATEST), "{late}");
        }
        assert_eq!(Timestamp::from_millisecond(LATEST.as_millisecond()).unwrap(), LATEST);
        assert_eq!(LATEST.as_second(), Timestamp::MAX.as_second());
        assert_eq!(at("9999-12-30T20:00:00Z"), "9999-12-30T20:00:00Z".parse().ok());
        for odd in ["9999-12-32T00:00:00Z", "9999-12-31", "9999-12-31T25:00:00Z", "9999-"] {
            assert_eq!(at(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_field_of_another_kind_fails_only_who_needs_it() {
        for odd in ["254705408079", "1e999", "true", "[]", "{}", "\"\\ud83c\"", "1.5", "null"] {
            let data = started(&format!(
                r#"{{"user_id":"u","course_id":"c","custom_id":{odd},"phone_number":{odd},"more":{odd}}}"#
            ));
            assert_eq!(data.unwrap().course_id, "c", "{odd}");
            let list = format!(
                r#"{{"notifications":[{{"title":"t","body":"b","path":"/","user_id":{odd},
                "custom_id":"c","phone_number":{odd}}}]}}"#
            );
            let list: NotificationsSent = json::read(&list).unwrap();
            assert_eq!(
                list.notifications[0].read().unwrap().custom_id.read("custom_id"),
                Ok(Some("c")),
                "{odd}"
            );
        }
        for odd in ["null", "true", "1.5", "1e999", "[]", "{}", "12345678901234567890123"] {
            let error = started(&format!(r#"{{"user_id":{odd},"course_id":"c"}}"#)).unwrap_err();
            assert!(matches!(error, EventError::Data { line: 1, .. }), "{odd}");
        }
    }

    #[test]
    fn an_id_is_text_or_an_integer() {
        let id =
            |json: &str| json::read::<Id>(json).unwrap().read("custom_id").map(|id| id.map(str::to_owned));
        for (json, expected) in
            [("\"c\"", "c"), ("42", "42"), ("-7", "-7"), ("18446744073709551615", "18446744073709551615")]
        {
            assert_eq!(id(json), Ok(Some(expected.to_owned())));
        }
        assert_eq!(id("null"), Ok(None));
        for odd in ["true", "1.5", "12345678901234567890123", "[[1],2]", "{\"a\\ud83c\":{\"b\":1}}"] {
            let error = id(odd).unwrap_err();
            assert_eq!(error.class(), crate::FailureClass::Permanent);
            assert_eq!(error.to_string(), "`custom_id` is not an id: it must be text or an integer");
        }
    }

    #[test]
    fn an_entry_of_another_shape_refuses_only_itself_and_the_list_is_needed() {
        let sent = |data: &str| json::read::<NotificationsSent>(data);
        let good = r#"{"title":"Well done \ud83c","body":"b","path":"/","user_id":"u"}"#;
        let list = format!(
            r#"{{"notifications":[null,1e999,"a",[],{{}},{good},{{"title":1}}],"more\ud83c":1e999}}"#
        );
        let list = sent(&list).unwrap().notifications;
        let read: Vec<_> = list.iter().map(|item| item.read().is_ok()).collect();
        assert_eq!(read, [false, false, false, false, false, true, false]);
        assert_eq!(list[5].read().unwrap().title.expose(), "Well done \u{FFFD}");
        for data in ["{}", r#"{"notifications":null}"#, r#"{"notifications":{}}"#, "null", "[]"] {
            assert!(sent(data).is_err(), "{data}");
        }
        assert_eq!(
            sent(&format!(r#"{{"notifications":1,"notifications":[{good}]}}"#)).unwrap().notifications.len(),
            1
        );
    }

    #[test]
    fn a_body_is_labelled_as_far_as_it_says_what_it_is() {
        let label = EnvelopeHead::read(STARTED.as_bytes());
        assert_eq!(label.event_type.as_deref(), Some("user.course.started"));
        assert_eq!(label.occurred_at, Some("2022-11-04T09:58:58.233Z".parse().unwrap()));
        for body in [&b""[..], b"{}", b"[]", b"{\"type\":1}", b"not json", b"\xFF", b"{\"type\":null}"] {
            assert_eq!(EnvelopeHead::read(body), EnvelopeHead::default());
        }
        for body in [r#"{"timestamp":"yesterday","type":"a"}"#, r#"{"type":"a","data":{"type":"b"},"timest"#]
        {
            let label = EnvelopeHead::read(body.as_bytes());
            assert_eq!((label.event_type.as_deref(), label.occurred_at), (Some("a"), None), "{body}");
        }
        let long =
            |bytes: usize| EnvelopeHead::read(format!(r#"{{"type":"{}"}}"#, "x".repeat(bytes)).as_bytes());
        assert!(long(LONGEST_EVENT_TYPE_BYTES).event_type.is_some());
        assert!(long(LONGEST_EVENT_TYPE_BYTES + 1).event_type.is_none());
    }
}
