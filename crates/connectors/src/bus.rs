//! Every event: on an event bus, for other teams' automations.
//!
//! Each event becomes one on Amazon EventBridge: `source` is `learnink`, `detail-type` is the event's type, the
//! time is when it happened, and the detail is:
//!
//! ```json
//! {
//!   "id": "msg_2Xb", "key": "msg_2Xb/bus", "type": "user.course.started", "api_version": "2022-11-15",
//!   "timestamp": "2022-11-04T09:58:58.233Z",
//!   "data": { "user_id": "…", "custom_id": "…", "course_id": "…" }
//! }
//! ```
//!
//! An event may arrive twice; `key` is the same both times.
//!
//! **Personal data is left out** unless you ask for it: the readers of a bus are not known here. An unknown type
//! may hold a phone number as text, as a number, as another id, or as the name of a field, and the first name
//! `mary` cannot be distinguished from the name of a field. So only known fields are passed on: of `data`, and of
//! the entries of its `notifications`, the ids `id`, `user_id`, `custom_id` and `course_id`, if they look like
//! ids: integers, `null`, and texts of one word that are neither a phone number with its `+` nor an e-mail
//! address. `LEARNINK_EVENT_BUS_FIELDS` adds fields by their names, separated by commas, with their whole content;
//! `*` passes on everything.
//!
//! Values are passed on as they were sent, digit by digit, with two exceptions: an integer beyond 64 bits becomes
//! a text of the same digits, because EventBridge does not have such integers, and half a character becomes
//! U+FFFD, because text cannot have such halves. Of several fields of one name the last is passed on. A webhook
//! without a `type` is not an event, and is not put on the bus. An event that does not say when it happened has no
//! `timestamp`, and its time is when it was received.
//!
//! **EventBridge has a limit.** AWS documents 256 KB for an event, and since January 2026 1 MB. With the default
//! fields, a `notifications.sent` comes to 256 KB with about 2,500 learners. An event that is too large for
//! EventBridge is dead-lettered, with its size as the reason.
//!
//! The events of a batch share requests: up to ten events and 256 KB each. EventBridge answers for each event.
//!
//! **The bus has to exist.** For a bus that does not exist, EventBridge answers as for any other, with an id for
//! the event, and drops the event. So the handler looks up the bus before the first event, and until it is found,
//! events are retried. If the bus is deleted later, only the next execution environment notices.
//! Source: Amazon EventBridge user guide, "Sending events with `PutEvents`".

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::operation::put_events::PutEventsError;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use futures_util::future::join_all;
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::error::service_code;
use learnink_webhook::group::Group;
use learnink_webhook::json::{self, Overflow, Token, TokenKind, Tokens};
use learnink_webhook::router::LONGEST_CALL;
use learnink_webhook::{Event, FailureClass, HandlerError, HandlerResult, Router};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;

use crate::calls::{in_calls, limits};

/// The `source` of the events on the bus.
const SOURCE: &str = "learnink";

/// The longest `detail-type` that EventBridge accepts.
/// Source: Amazon EventBridge API reference, `PutEventsRequestEntry`.
const LONGEST_TYPE_CHARACTERS: usize = 128;

/// The largest entry in bytes. The older limit of 256 KB may still apply: EventBridge then says so itself.
/// Source: AWS Compute blog, January 2026.
const LARGEST_ENTRY_BYTES: usize = 1024 * 1024;

/// How many entries fit into one request.
/// Source: Amazon EventBridge API reference, `PutEvents`.
const MOST_ENTRIES: usize = 10;

/// Up to this size together, entries share a request, also under the older limit.
const LARGEST_REQUEST_BYTES: usize = 256 * 1024;

/// The three calls of an event follow each other: to look up the bus, with others, and alone. Together they take at
/// most this long.
const LONGEST_CALLS: Duration = LONGEST_CALL.saturating_mul(2);

/// How many bytes the time of an entry counts.
/// Source: Amazon EventBridge user guide, "Calculating `PutEvents` event entry size".
const TIME_BYTES: usize = 14;

/// The deepest JSON that EventBridge accepts. Its older documentation says 1,000; for levels in between, its
/// answer decides.
/// Source: Amazon EventBridge API reference, `PutEvents`.
const DEEPEST_LEVELS: usize = 1100;

/// The ids that are always passed on: LearnInk's, and the one that the customer gave a learner.
const IDS: [&str; 4] = ["id", "user_id", "custom_id", "course_id"];

/// The lists and objects, documented by LearnInk, that may hold such ids.
const HOLDERS: [&str; 1] = ["notifications"];

/// The longest text that counts as an id, in bytes.
const LONGEST_ID_BYTES: usize = 256;

/// The handler's name in the ledger.
const NAME: &str = "bus";

/// The variable that switches the handler on: the bus's name or ARN.
const VARIABLE: &str = "LEARNINK_EVENT_BUS";

/// The variable that names the fields to pass on.
const FIELDS: &str = "LEARNINK_EVENT_BUS_FIELDS";

/// Which fields of `data` are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fields {
    /// All of them.
    All,
    /// The known ids, and the fields of these names with their whole content.
    IdsAnd(BTreeSet<String>),
}

/// The handler; none if `LEARNINK_EVENT_BUS` is not set. The function needs `events:DescribeEventBus` and
/// `events:PutEvents` on the bus, even if it is in another account.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(bus) = Bus::from_env(env)? else { return Ok(Router::off(NAME)) };
    Ok(bus.router())
}

/// Whether EventBridge accepts it as the name of a bus. Otherwise it would refuse every event, as if the events
/// were at fault.
/// Source: Amazon EventBridge API reference, `PutEventsRequestEntry`, `EventBusName`.
fn is_name_or_arn(text: &str) -> bool {
    let name = match text.split_once(":event-bus/") {
        Some((bus, name)) => {
            let parts: Vec<_> = bus.split(':').collect();
            let ["arn", partition, "events", region, account] = parts.as_slice() else { return false };
            let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
            let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let is_place = partition.starts_with("aws") && is_word(partition) && region.contains('-');
            if !is_account || !is_place || !is_word(region) {
                return false;
            }
            name
        }
        None => text,
    };
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte);
    !name.is_empty() && text.len() <= 1600 && name.bytes().all(is_of_a_name)
}

/// The event bus.
#[derive(Debug, Clone)]
struct Bus {
    /// Its name or ARN.
    name: Arc<str>,
    fields: Arc<Fields>,
    /// Joins the events of a batch's records.
    puts: Arc<Group<Entry, HandlerResult>>,
}

/// Puts events on a bus.
#[derive(Debug, Clone)]
struct Sender {
    client: Client,
    bus: Arc<str>,
    /// Set once the bus has been found, for all clones.
    found: Arc<OnceCell<()>>,
}

/// An event on its way to the bus.
#[derive(Debug, Clone)]
struct Entry {
    request: PutEventsRequestEntry,
    /// Its size, as EventBridge counts it.
    bytes: usize,
}

impl Bus {
    fn from_env(env: &Env) -> Result<Option<Self>, ConfigError> {
        let fields = env.text(FIELDS);
        let Some(name) = env.text(VARIABLE) else {
            return match fields {
                Some(_) => Err(ConfigError::unusable(
                    FIELDS,
                    "there is no bus to hand them to; set LEARNINK_EVENT_BUS to its name or ARN",
                )),
                None => Ok(None),
            };
        };
        let fields = match fields.as_deref() {
            Some("*") => Fields::All,
            fields => {
                let names = fields.unwrap_or_default().split(',').map(str::trim);
                Fields::IdsAnd(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
            }
        };
        if !is_name_or_arn(&name) {
            let problem = "it must be the name of an event bus, of letters, digits, `.`, `-`, `_` and `/`, or an \
                           ARN such as arn:aws:events:eu-west-1:123456789012:event-bus/name";
            return Err(ConfigError::unusable(VARIABLE, problem));
        }
        Ok(Some(Self::new(env.aws(VARIABLE)?, &name, fields)))
    }

    fn new(aws: &SdkConfig, name: &str, fields: Fields) -> Self {
        let config = aws_sdk_eventbridge::config::Builder::from(aws).timeout_config(limits(LONGEST_CALLS));
        let name: Arc<str> = name.into();
        let sender =
            Sender { client: Client::from_conf(config.build()), bus: name.clone(), found: Arc::default() };
        let puts = Group::new(move |entries| {
            let sender = sender.clone();
            async move { sender.put(entries).await }
        });
        Self { name, fields: Arc::new(fields), puts: Arc::new(puts) }
    }

    fn router(self) -> Router {
        Router::new().on_any(NAME, put).longest_call(NAME, LONGEST_CALLS).with_state(self)
    }
}

/// Puts an event on the bus.
async fn put(event: Event, bus: Bus) -> HandlerResult {
    if !event.envelope.is_event() {
        return Ok(());
    }
    let event_type = &event.envelope.event_type;
    if event_type.chars().count() > LONGEST_TYPE_CHARACTERS {
        return Err(HandlerError::permanent(
            "the event's type is longer than 128 characters, which EventBridge takes",
        ));
    }
    let detail = detail(&event, &bus.fields)?;
    let bytes = TIME_BYTES + SOURCE.len() + event_type.len() + detail.len();
    if bytes > LARGEST_ENTRY_BYTES {
        return Err(too_large(bytes));
    }
    // All attempts at an event have the same time.
    let time = event.occurred_at().unwrap_or(event.message.received_at);
    let request = PutEventsRequestEntry::builder()
        .event_bus_name(&*bus.name)
        .source(SOURCE)
        .detail_type(event_type)
        .time(DateTime::from_millis(time.as_millisecond()))
        .detail(detail)
        .build();
    bus.puts.ask(Entry { request, bytes }).await.unwrap_or_else(|| Err(unanswered()))
}

impl Sender {
    /// Looks up the bus, unless it was found before. A failure is not remembered.
    async fn find(&self) -> HandlerResult {
        let describe = || async {
            let asked = Box::pin(self.client.describe_event_bus().name(&*self.bus).send()).await;
            asked.map(|_| ()).map_err(|error| call_failed(&error, not_described))
        };
        self.found.get_or_try_init(describe).await.copied()
    }

    /// Puts events on the bus, in as few requests as EventBridge takes. One result for each, in order.
    async fn put(&self, entries: Vec<Entry>) -> Vec<HandlerResult> {
        if let Err(error) = self.find().await {
            return entries.iter().map(|_| Err(error.clone())).collect();
        }
        let requests = in_calls(entries, MOST_ENTRIES, LARGEST_REQUEST_BYTES, |entry| entry.bytes);
        let results = requests.iter().map(async |entries| {
            let results = self.put_with_one_request(entries).await;
            let is_refused = |result: &HandlerResult| {
                result.as_ref().is_err_and(|error| error.class() == FailureClass::Permanent)
            };
            if entries.len() > 1 && results.iter().all(is_refused) {
                // The request was refused as a whole, perhaps because of one event.
                let alone = entries.chunks(1).map(|entry| self.put_with_one_request(entry));
                return join_all(alone).await.concat();
            }
            results
        });
        join_all(results).await.concat()
    }

    async fn put_with_one_request(&self, entries: &[Entry]) -> Vec<HandlerResult> {
        let requests = entries.iter().map(|entry| entry.request.clone()).collect();
        match Box::pin(self.client.put_events().set_entries(Some(requests)).send()).await {
            Ok(answer) => {
                let mut answers = answer.entries.unwrap_or_default().into_iter();
                entries.iter().map(|entry| result(answers.next().as_ref(), entry.bytes)).collect()
            }
            Err(error) => entries.iter().map(|entry| Err(not_put(&error, entry.bytes))).collect(),
        }
    }
}

/// What EventBridge's answer for an event means.
fn result(answer: Option<&PutEventsResultEntry>, bytes: usize) -> HandlerResult {
    match answer {
        Some(entry) if entry.event_id().is_some() => Ok(()),
        Some(entry) => Err(refused(code(entry.error_code()), bytes)),
        None => Err(unanswered()),
    }
}

/// What the failure of a request means for an event in it.
fn not_put(error: &SdkError<PutEventsError>, bytes: usize) -> HandlerError {
    match error.raw_response().map(|answer| answer.status().as_u16()) {
        // The body is empty, or a proxy's.
        Some(413) => too_large(bytes),
        _ => call_failed(error, |code| refused(code, bytes)),
    }
}

fn unanswered() -> HandlerError {
    HandlerError::retryable("EventBridge's answer has no result for the event")
}

fn too_large(bytes: usize) -> HandlerError {
    HandlerError::permanent(format!(
        "the event is too large for EventBridge: {bytes} bytes; LEARNINK_EVENT_BUS_FIELDS chooses the fields to pass on"
    ))
}

/// The detail of an event on the bus.
#[derive(Serialize)]
struct Detail<'a> {
    id: &'a str,
    key: &'a str,
    r#type: &'a str,
    api_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    data: Box<RawValue>,
}

/// The detail of an event on the bus, as JSON.
fn detail(event: &Event, fields: &Fields) -> Result<String, HandlerError> {
    let (data, levels) = handed_on(event.envelope.raw_data().get(), fields);
    // The detail itself is one more level.
    let levels = levels + 1;
    if levels > DEEPEST_LEVELS {
        return Err(HandlerError::permanent(format!(
            "what LEARNINK_EVENT_BUS_FIELDS hands on of the event is {levels} levels deep, and EventBridge takes \
             {DEEPEST_LEVELS}"
        )));
    }
    let not_json = |_| HandlerError::permanent("`data` could not be written as JSON");
    let detail = Detail {
        id: event.id().as_str(),
        key: event.key.as_str(),
        r#type: &event.envelope.event_type,
        api_version: &event.envelope.api_version,
        timestamp: event.occurred_at(),
        data: RawValue::from_string(data).map_err(not_json)?,
    };
    serde_json::to_string(&detail).map_err(not_json)
}

/// JSON of only the values that are passed on, and how many levels it has; `{}` if there are none.
fn handed_on(data: &str, fields: &Fields) -> (String, usize) {
    let data = json::repaired(data, Overflow::Keep);
    let mut selection = Selection::of(&data, fields, Rest::LeftOut);
    selection.select();
    if selection.json.is_empty() {
        return ("{}".to_owned(), 1);
    }
    (selection.json, selection.levels)
}

/// The `data` of an event for a person: what the bus passes on by default, and [`MASK`] in place of every other value
/// and of every name that LearnInk does not document. Numbers that are not ids are masked too: they may be anything.
pub fn masked(data: &RawValue) -> String {
    let data = json::repaired(data.get(), Overflow::Keep);
    let fields = Fields::IdsAnd(BTreeSet::new());
    let mut selection = Selection::of(&data, &fields, Rest::Masked);
    selection.select();
    selection.json
}

/// Stands for a value, or for the name of a field, that is not shown.
pub const MASK: &str = "***";

/// The names of fields that LearnInk documents, beside those whose values are passed on.
const DOCUMENTED: [&str; 4] = ["title", "body", "path", "phone_number"];

/// What becomes of the values that are not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    LeftOut,
    Masked,
}

/// How much of a value is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    All,
    /// The value, if it looks like an id.
    Id,
    /// The known fields in it.
    Known,
    Nothing,
}

/// An object or an array that is being written.
struct Open {
    /// How much of its content is passed on.
    share: Share,
    /// Where it starts in the output, including its name.
    start: usize,
    /// Whether any of its content is written.
    has_any: bool,
}

/// Copies the selected values, token by token: values may be nested as deep as they are long.
struct Selection<'a> {
    fields: &'a Fields,
    rest: Rest,
    text: &'a str,
    /// The output.
    json: String,
    /// The open objects and arrays around the next token.
    open: Vec<Open>,
    /// The deepest nesting in the output.
    levels: usize,
}

impl<'a> Selection<'a> {
    const fn of(text: &'a str, fields: &'a Fields, rest: Rest) -> Self {
        Self { fields, rest, text, json: String::new(), open: Vec::new(), levels: 0 }
    }

    fn select(&mut self) {
        let mut tokens = Tokens::of(self.text).peekable();
        let mut name = None;
        // How deep the next token is in a value that is left out.
        let mut left_out = 0_usize;
        while let Some(token) = tokens.next() {
            let is_start = matches!(token.kind, TokenKind::ObjectStart | TokenKind::ArrayStart);
            let is_end = matches!(token.kind, TokenKind::ObjectEnd | TokenKind::ArrayEnd);
            let is_name = tokens.peek().is_some_and(|next| next.kind == TokenKind::Colon);
            match token.kind {
                _ if left_out > 0 => left_out = left_out + usize::from(is_start) - usize::from(is_end),
                TokenKind::Comma | TokenKind::Colon => {}
                TokenKind::ObjectEnd | TokenKind::ArrayEnd => self.close(token),
                TokenKind::Text if is_name => name = Some(token),
                _ => {
                    let name = name.take();
                    match (self.share(name), is_start) {
                        (share @ (Share::All | Share::Known), true) => self.open(name, token, share),
                        (Share::Id | Share::Nothing, true) => {
                            left_out = 1;
                            self.leave_out(name);
                        }
                        (Share::All, false) => self.write(name, token),
                        (Share::Id, false) if is_id(self.raw(token), token.kind) => self.write(name, token),
                        (Share::Id | Share::Known | Share::Nothing, false) => self.leave_out(name),
                    }
                }
            }
        }
    }

    /// How much of the value of this name is passed on; without a name, of a list item, or of the whole.
    fn share(&self, name: Option<Token>) -> Share {
        let around = self.open.last().map_or(Share::Known, |open| open.share);
        match (self.fields, name) {
            (Fields::All, _) => Share::All,
            (Fields::IdsAnd(_), _) if around == Share::All => Share::All,
            (Fields::IdsAnd(_), None) => Share::Known,
            (Fields::IdsAnd(names), Some(name)) => {
                let name = json::text(self.raw(name)).unwrap_or_default();
                match &*name {
                    name if names.contains(name) => Share::All,
                    name if IDS.contains(&name) => Share::Id,
                    name if HOLDERS.contains(&name) => Share::Known,
                    _ => Share::Nothing,
                }
            }
        }
    }

    fn raw(&self, token: Token) -> &'a str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    fn open(&mut self, name: Option<Token>, token: Token, share: Share) {
        let start = self.json.len();
        self.write_name(name);
        self.json.push_str(self.raw(token));
        self.open.push(Open { share, start, has_any: false });
    }

    /// Closes an object or array, and removes it if nothing in it is passed on, so that no name is left without a
    /// value.
    fn close(&mut self, token: Token) {
        let levels = self.open.len();
        let Some(closed) = self.open.pop() else { return };
        if closed.has_any || closed.share == Share::All || self.rest == Rest::Masked {
            self.json.push_str(self.raw(token));
            self.levels = self.levels.max(levels);
            self.has_written();
        } else {
            self.json.truncate(closed.start);
        }
    }

    fn write(&mut self, name: Option<Token>, token: Token) {
        self.write_name(name);
        let raw = self.raw(token);
        let is_integer = token.kind == TokenKind::Number && is_integer(raw);
        if is_integer && raw.parse::<i64>().is_err() {
            self.json.extend(["\"", raw, "\""]);
        } else {
            self.json.push_str(raw);
        }
        self.has_written();
    }

    /// Writes nothing of a value, or a mask in its place.
    fn leave_out(&mut self, name: Option<Token>) {
        if self.rest == Rest::LeftOut {
            return;
        }
        let is_documented = |name: &str| [&IDS[..], &HOLDERS, &DOCUMENTED].concat().contains(&name);
        let is_shown = name.is_none_or(|name| json::text(self.raw(name)).is_some_and(|n| is_documented(&n)));
        if is_shown {
            self.write_name(name);
        } else {
            self.write_name(None);
            self.json.extend(["\"", MASK, "\":"]);
        }
        self.json.extend(["\"", MASK, "\""]);
        self.has_written();
    }

    fn write_name(&mut self, name: Option<Token>) {
        if self.open.last().is_some_and(|open| open.has_any) {
            self.json.push(',');
        }
        if let Some(name) = name {
            self.json.extend([self.raw(name), ":"]);
        }
    }

    fn has_written(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.has_any = true;
        }
    }
}

/// Whether a number is written as an integer.
fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

/// Whether a value looks like an id, and not like personal data.
fn is_id(raw: &str, kind: TokenKind) -> bool {
    match kind {
        TokenKind::Number => is_integer(raw),
        TokenKind::Word => raw == "null",
        TokenKind::Text => json::text(raw).is_some_and(|text| {
            let is_apart = |c: char| c.is_whitespace() || c.is_control() || c == '@';
            text.len() <= LONGEST_ID_BYTES && !text.starts_with('+') && !text.contains(is_apart)
        }),
        _ => false,
    }
}

/// What an error code of EventBridge means for the message. A fault of the event is permanent; a fault of the bus,
/// or of our rights, can be fixed.
/// Source: Amazon EventBridge API reference, `PutEventsResultEntry` and "Common Error Types".
fn refused(code: &str, bytes: usize) -> HandlerError {
    match code {
        // Also for an entry that is too large.
        "InvalidArgument"
        | "MalformedDetail"
        | "RedactionFailure"
        | "ValidationException"
        | "ValidationError" => {
            HandlerError::permanent(format!("EventBridge refuses the event of {bytes} bytes ({code})"))
        }
        "RequestEntityTooLargeException" | "RequestEntityTooLarge" | "EntityTooLarge" => too_large(bytes),
        "ResourceNotFoundException" => unknown_bus(),
        "InvalidAccountIdException" => HandlerError::retryable(format!(
            "EventBridge does not take the account of the bus ({code}); check the ARN in {VARIABLE}"
        )),
        "AccessDeniedException" => HandlerError::retryable(format!(
            "EventBridge denies the event ({code}); the function's role needs events:PutEvents on the bus"
        )),
        "NotAuthorizedForSourceException" | "NotAuthorizedForDetailTypeException" => {
            HandlerError::retryable(format!(
                "EventBridge denies the event ({code}); the policies of the function's role and of the bus have to \
                 allow events:PutEvents with the source {SOURCE} and every detail type"
            ))
        }
        _ => HandlerError::retryable(format!("EventBridge did not take the event ({code})")),
    }
}

/// What an error code means in the lookup of the bus: never that the event is wrong.
fn not_described(code: &str) -> HandlerError {
    match code {
        "ResourceNotFoundException" => unknown_bus(),
        "AccessDeniedException" => HandlerError::retryable(format!(
            "EventBridge does not say whether the bus is there ({code}); the function's role needs \
             events:DescribeEventBus on the bus"
        )),
        _ => HandlerError::retryable(format!(
            "EventBridge does not say whether the bus is there ({code}); check {VARIABLE}"
        )),
    }
}

fn unknown_bus() -> HandlerError {
    HandlerError::retryable(format!("EventBridge does not know the bus; check {VARIABLE}"))
}

/// Why a call failed; `meaning` interprets the code of an answer.
fn call_failed<E: ProvideErrorMetadata>(
    error: &SdkError<E>,
    meaning: impl Fn(&str) -> HandlerError,
) -> HandlerError {
    match error {
        SdkError::ServiceError(failure) => meaning(code(failure.err().code())),
        SdkError::TimeoutError(_) => HandlerError::retryable("EventBridge did not answer in time"),
        _ => HandlerError::retryable("EventBridge could not be reached"),
    }
}

/// The code of an error, if it looks like one.
fn code(code: Option<&str>) -> &str {
    code.and_then(service_code).unwrap_or("no code")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router as HttpRouter;
    use axum::http::{HeaderMap, StatusCode};
    use learnink_webhook::items::ItemLog;
    use learnink_webhook::{Envelope, FailureClass, testing};
    use proptest::prelude::*;

    use serde_json::{Value, json};

    use super::*;
    use crate::tests::aws_with;

    fn event(data: &Value) -> Event {
        event_of(&data.to_string())
    }

    /// The event whose `data` is this JSON text.
    fn event_of(data: &str) -> Event {
        let fields = r#""api_version":"2022-11-15","timestamp":"2022-11-04T09:58:58.233Z""#;
        event_of_body(&format!(r#"{{"type":"example.badge.earned",{fields},"data":{data}}}"#))
    }

    fn event_of_body(body: &str) -> Event {
        let envelope = Arc::new(Envelope::parse(body.as_bytes()).unwrap());
        let message = Arc::new(testing::message(body));
        let log = Arc::new(ItemLog::default());
        Event::new(message, envelope, "bus", Timestamp::UNIX_EPOCH, &BTreeSet::new(), log)
    }

    fn personal() -> Value {
        json!({
            "user_id": "u", "custom_id": null, "course_id": "c", "phone_number": "+254705408079",
            "score": 0.9, "passed": true, "badge": { "id": 7, "name": "Mary's" }, "national_id": "254705408079",
            "notifications": [{ "title": "Hi Mary!", "path": "/learning", "user_id": "u" }],
        })
    }

    fn fields(names: &[&str]) -> Fields {
        Fields::IdsAnd(names.iter().map(ToString::to_string).collect())
    }

    /// The bus's version of this `data`, parsed.
    fn on_the_bus(data: &str, fields: &Fields) -> Value {
        serde_json::from_str(&detail(&event_of(data), fields).unwrap()).unwrap()
    }

    /// The bus's version of this `data`, as text.
    fn handed_on(data: &str, fields: &Fields) -> String {
        super::handed_on(data, fields).0
    }

    #[test]
    fn personal_data_stays_behind() {
        let detail = detail(&event(&personal()), &fields(&[])).unwrap();
        insta::assert_snapshot!(detail, @r#"{"id":"msg_1","key":"msg_1/bus","type":"example.badge.earned","api_version":"2022-11-15","timestamp":"2022-11-04T09:58:58.233Z","data":{"course_id":"c","custom_id":null,"notifications":[{"user_id":"u"}],"user_id":"u"}}"#);
        assert!(!detail.contains("Mary") && !detail.contains("2547"));
    }

    fn masked(data: &str) -> String {
        super::masked(&RawValue::from_string(data.to_owned()).unwrap())
    }

    #[test]
    fn a_person_sees_the_ids_and_that_the_rest_is_there() {
        let data = r#"{"notifications":[{"title":"Hi Mary!","user_id":"le2b","phone_number":"+254705408079"},7],
            "mary":{"user_id":"u"},"custom_id":"+254705408079","course_id":["x"],"id":12}"#;
        let expected = r#"{"notifications":[{"title":"***","user_id":"le2b","phone_number":"***"},"***"],"***":"***","custom_id":"***","course_id":"***","id":12}"#;
        assert_eq!(masked(data), expected);
        assert_eq!(masked(r#""Mary""#), r#""***""#);
        assert_eq!(masked("{}"), "{}");
    }

    #[test]
    fn fields_are_handed_on_by_name_or_all_of_them() {
        let data = |fields| on_the_bus(&personal().to_string(), &fields)["data"].clone();
        let with_path = data(fields(&["path", "badge"]));
        assert_eq!(with_path["notifications"], json!([{ "path": "/learning", "user_id": "u" }]));
        assert_eq!(with_path["badge"], json!({ "id": 7, "name": "Mary's" }));
        assert_eq!(data(Fields::All), personal());
    }

    #[test]
    fn what_may_be_personal_leaves_nothing_behind() {
        for data in [
            json!("Mary"),
            json!(254_705_408_079_u64),
            json!(["Mary", 254_705_408_079_u64]),
            json!({ "phone_number": 254_705_408_079_u64 }),
            json!({ "national_id": "254705408079", "mother_id": 254_705_408_079_u64 }),
            json!({ "user_id": { "name": "Mary" }, "course_id": ["Mary"] }),
            json!({ "user_id": "Mary Smith", "custom_id": "+254705408079", "id": "mary@example.com" }),
            json!({ "id": true, "user_id": 0.5, "course_id": "x".repeat(257), "custom_id": "a\nb" }),
            json!({ "scores": { "+254705408079": 3, "Mary": true } }),
            json!({ "scores": { "+254705408079": { "id": 3 }, "Mary": [{ "id": 3 }] } }),
            json!({ "scores": { "mary": { "id": 3 }, "john": { "user_id": "u" } } }),
            json!({ "mary": { "user_id": "u" }, "john": [{ "course_id": "c" }] }),
            json!({ "notifications": { "mary": { "user_id": "u" } } }),
            json!({ "notifications": [{ "mary": { "user_id": "u" } }, "Mary", ["Mary"]] }),
        ] {
            assert_eq!(handed_on(&data.to_string(), &fields(&[])), "{}", "{data}");
        }
    }

    #[test]
    fn a_field_is_handed_on_by_whatever_name_it_has() {
        let data =
            json!({ "Score 1": 3, "phone_number": 254_705_408_079_u64, "scores": { "2026": 4 }, "é\"": 5 });
        let handed_on = on_the_bus(&data.to_string(), &fields(&["Score 1", "scores", "é\""]));
        assert_eq!(handed_on["data"], json!({ "Score 1": 3, "scores": { "2026": 4 }, "é\"": 5 }));
    }

    #[test]
    fn what_is_handed_on_keeps_its_digits_and_an_integer_beyond_64_bits_is_text() {
        for (data, expected) in [
            (r#"{"id":12345678901234567890123}"#, r#"{"id":"12345678901234567890123"}"#),
            (r#"{"id":18446744073709551616}"#, r#"{"id":"18446744073709551616"}"#),
            (r#"{"id":9223372036854775808}"#, r#"{"id":"9223372036854775808"}"#),
            (r#"{"id":-9223372036854775809}"#, r#"{"id":"-9223372036854775809"}"#),
            (r#"{"id":9223372036854775807}"#, r#"{"id":9223372036854775807}"#),
            (r#"{"id":-9223372036854775808}"#, r#"{"id":-9223372036854775808}"#),
        ] {
            assert_eq!(handed_on(data, &fields(&[])), expected);
            assert_eq!(handed_on(data, &Fields::All), expected);
            assert_eq!(
                handed_on(&format!(r#"{{"a":{{"b":[{data}]}}}}"#), &Fields::All),
                format!(r#"{{"a":{{"b":[{expected}]}}}}"#)
            );
        }
        let digits = r#"{"score":[0.10, 1e999,-1E+999,0.30000000000000004,1.0e2]}"#;
        assert_eq!(handed_on(digits, &fields(&["score"])), digits.replace(' ', ""));
    }

    #[test]
    fn what_is_not_handed_on_does_not_matter() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        for odd in [r#""cut \ud83d""#, "1e999", "12345678901234567890123", &deep, &objects] {
            let data = format!(
                r#"{{"text":{odd},"user_id":"u","te\ud83cxt":{odd},"more":[{odd}],"course_id":{{"a":{odd}}}}}"#
            );
            assert_eq!(handed_on(&data, &fields(&[])), r#"{"user_id":"u"}"#);
            let event =
                event_of_body(&format!(r#"{{"type":"a","object":{odd},"data":{data},"api_version":{odd}}}"#));
            assert!(detail(&event, &fields(&[])).unwrap().ends_with(r#""data":{"user_id":"u"}}"#));
        }
    }

    #[test]
    fn half_a_character_and_a_name_that_comes_twice_are_handed_on_as_others_read_them() {
        let data = r#"{"user_id":"u\ud83d","user_id":"v\ud83d", "id":1,"\u0069d":2}"#;
        assert_eq!(handed_on(data, &fields(&[])), r#"{"user_id":"v\ufffd","\u0069d":2}"#);
        assert_eq!(on_the_bus(data, &Fields::All)["data"], json!({ "user_id": "v\u{FFFD}", "id": 2 }));
    }

    #[test]
    fn what_eventbridge_has_no_levels_for_is_refused_before_the_call() {
        let nested = |levels: usize| event_of(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(detail(&nested(1099), &Fields::All).is_ok());
        for levels in [1100, 100_000] {
            let error = detail(&nested(levels), &Fields::All).unwrap_err();
            assert_eq!(error.class(), FailureClass::Permanent);
            let text = format!("is {} levels deep, and EventBridge takes 1100", levels + 1);
            assert!(error.to_string().ends_with(&text), "{error}");
        }
    }

    #[test]
    fn an_event_that_says_little_has_a_detail_that_says_less() {
        let detail = detail(&event_of_body(r#"{"type":"a","timestamp":"yesterday"}"#), &fields(&[])).unwrap();
        let expected = r#"{"id":"msg_1","key":"msg_1/bus","type":"a","api_version":"","data":{}}"#;
        assert_eq!(detail, expected);
    }

    /// JSON in which everything has a name, often a known one.
    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-z+@ ]{0,4}".prop_map(Value::from),
        ];
        let known: Vec<_> = IDS.iter().chain(&HOLDERS).copied().collect();
        let name = prop_oneof![proptest::sample::select(known).prop_map(str::to_owned), any::<String>()];
        scalar.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The part of a value that is passed on by default, computed another way; `None` if nothing is.
    fn known(value: &Value) -> Option<Value> {
        match value {
            Value::Object(members) => {
                let kept = members.iter().filter_map(|(name, value)| {
                    let value = match value {
                        Value::Object(_) | Value::Array(_) if name == "notifications" => known(value)?,
                        Value::Null | Value::Number(_) if IDS.contains(&name.as_str()) => value.clone(),
                        Value::String(text)
                            if IDS.contains(&name.as_str())
                                && text.len() <= 256
                                && !text.starts_with('+')
                                && !text.chars().any(|c| c == '@' || c.is_whitespace() || c.is_control()) =>
                        {
                            value.clone()
                        }
                        _ => return None,
                    };
                    Some((name.clone(), value))
                });
                let kept: serde_json::Map<_, _> = kept.collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(items) => {
                let kept: Vec<_> = items.iter().filter_map(known).collect();
                (!kept.is_empty()).then_some(Value::Array(kept))
            }
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn whatever_the_data_only_ids_are_handed_on_unless_more_is_asked_for(data in any_json()) {
            for text in [data.to_string(), serde_json::to_string_pretty(&data).unwrap()] {
                let by_default: Value = serde_json::from_str(&handed_on(&text, &fields(&[]))).unwrap();
                prop_assert_eq!(by_default, known(&data).unwrap_or_else(|| json!({})));
                let all: Value = serde_json::from_str(&handed_on(&text, &Fields::All)).unwrap();
                prop_assert_eq!(&all, &data);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_masked_is_json_that_says_no_more_than_what_the_bus_passes_on(data in any_json()) {
            let text = data.to_string();
            let shown: Value = serde_json::from_str(&masked(&text)).unwrap();
            let by_default: Value = serde_json::from_str(&handed_on(&text, &fields(&[]))).unwrap();
            let (mut shown_values, mut passed_on) = (Vec::new(), Vec::new());
            leaves(&shown, &mut shown_values);
            leaves(&by_default, &mut passed_on);
            shown_values.retain(|value| value != &json!(MASK));
            passed_on.retain(|value| value != &json!(MASK));
            prop_assert_eq!(shown_values, passed_on);
        }
    }

    /// The values of a document that hold no others.
    fn leaves(value: &Value, found: &mut Vec<Value>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| leaves(field, found)),
            _ => found.push(value.clone()),
        }
    }

    /// An EventBridge with a bus that takes the events whose detail holds no `refused` text. If `is_strict`, it refuses a
    /// request with one that does as a whole. Returns the numbers of entries of its requests.
    async fn bus_of_many(is_strict: bool) -> (Bus, Arc<Mutex<Vec<usize>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let server = HttpRouter::new().fallback(async move |body: String| {
            let body: Value = serde_json::from_str(&body).unwrap();
            let Some(entries) = body["Entries"].as_array() else {
                return (StatusCode::OK, FOUND.1.to_owned());
            };
            seen.lock().unwrap().push(entries.len());
            let is_refused = |entry: &Value| entry["Detail"].as_str().unwrap().contains("refused");
            if is_strict && entries.iter().any(is_refused) {
                return (StatusCode::BAD_REQUEST, r#"{"__type":"ValidationException"}"#.to_owned());
            }
            let answer = |entry| {
                if is_refused(entry) {
                    json!({ "ErrorCode": "MalformedDetail" })
                } else {
                    json!({ "EventId": "1" })
                }
            };
            let answers: Vec<_> = entries.iter().map(answer).collect();
            (StatusCode::OK, json!({ "FailedEntryCount": 0, "Entries": answers }).to_string())
        });
        (Bus::new(&aws_with(server).await, "automations", Fields::All), requests)
    }

    /// Puts events with these texts at the same time. The reasons of those that are refused.
    async fn put_all(bus: &Bus, texts: &[&str]) -> Vec<Option<FailureClass>> {
        let put = texts.iter().map(|text| put(event(&json!({ "text": text })), bus.clone()));
        let results = futures_util::future::join_all(put).await;
        results.into_iter().map(|result| result.err().map(|error| error.class())).collect()
    }

    #[tokio::test]
    async fn the_events_of_a_batch_share_requests_of_ten_and_each_fails_alone() {
        let mut texts = ["taken"; 23];
        texts[4] = "refused";
        let expected: Vec<_> =
            texts.iter().map(|text| (*text == "refused").then_some(FailureClass::Permanent)).collect();
        let (bus, requests) = bus_of_many(false).await;
        assert_eq!(put_all(&bus, &texts).await, expected);
        requests.lock().unwrap().sort_unstable();
        assert_eq!(*requests.lock().unwrap(), [3, 10, 10]);
        // One that makes EventBridge refuse the request harms none of the others.
        let (bus, requests) = bus_of_many(true).await;
        assert_eq!(put_all(&bus, &texts).await, expected);
        let requests = requests.lock().unwrap();
        assert_eq!(requests.iter().filter(|entries| **entries == 1).count(), 10);
        assert_eq!(requests.iter().filter(|entries| **entries > 1).sum::<usize>(), 23);
    }

    #[tokio::test]
    async fn events_that_are_large_together_are_put_by_themselves() {
        let (bus, requests) = bus_of_many(false).await;
        let (large, small) = ("x".repeat(200_000), "x".repeat(50_000));
        let texts = [&*large, &large, &small, &large, &small, "x"];
        assert_eq!(put_all(&bus, &texts).await, [None; 6]);
        requests.lock().unwrap().sort_unstable();
        assert_eq!(*requests.lock().unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn one_failed_request_brings_all_its_events_back() {
        let throttled = (400, r#"{"__type":"ThrottlingException","message":"+254705408079"}"#);
        let (bus, _) = bus(&[FOUND, throttled, throttled, throttled, throttled]).await;
        let results = put_all(&bus, &["a", "b"]).await;
        assert_eq!(results, [Some(FailureClass::Retryable); 2]);
    }

    /// An EventBridge with a bus, which answers the calls in turn. Each answer is a status and a body.
    async fn bus(answers: &[(u16, &'static str)]) -> (Bus, Arc<Mutex<Vec<String>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (calls.clone(), answers.to_vec());
        let server = HttpRouter::new().fallback(async move |headers: HeaderMap| {
            let mut seen = seen.lock().unwrap();
            let answer = answers[seen.len()];
            seen.push(headers["x-amz-target"].to_str().unwrap().replace("AWSEvents.", ""));
            (StatusCode::from_u16(answer.0).unwrap(), answer.1)
        });
        (Bus::new(&aws_with(server).await, "automations", Fields::All), calls)
    }

    const FOUND: (u16, &str) = (200, r#"{"Name":"automations"}"#);
    const TAKEN: (u16, &str) = (200, r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#);

    #[tokio::test]
    async fn the_bus_is_asked_for_once() {
        let (bus, calls) = bus(&[FOUND, TAKEN, TAKEN]).await;
        put(event(&personal()), bus.clone()).await.unwrap();
        put(event(&personal()), bus).await.unwrap();
        assert_eq!(*calls.lock().unwrap(), ["DescribeEventBus", "PutEvents", "PutEvents"]);
    }

    #[tokio::test]
    async fn no_event_is_put_on_a_bus_that_is_not_found_and_a_failure_is_not_remembered() {
        let failures = [
            (
                (400, r#"{"__type":"ResourceNotFoundException","message":"+254705408079"}"#),
                "EventBridge does not know the bus; check LEARNINK_EVENT_BUS",
            ),
            (
                (400, r#"{"__type":"AccessDeniedException","message":"+254705408079"}"#),
                "EventBridge does not say whether the bus is there (AccessDeniedException); the function's role \
                 needs events:DescribeEventBus on the bus",
            ),
            (
                (400, r#"{"__type":"ValidationException","message":"+254705408079"}"#),
                "EventBridge does not say whether the bus is there (ValidationException); check \
                 LEARNINK_EVENT_BUS",
            ),
        ];
        let answers: Vec<_> = failures.iter().map(|(answer, _)| *answer).chain([FOUND, TAKEN]).collect();
        let (bus, calls) = bus(&answers).await;
        for (_, expected) in failures {
            let error = put(event(&personal()), bus.clone()).await.unwrap_err();
            assert_eq!((error.class(), error.to_string()), (FailureClass::Retryable, expected.to_owned()));
        }
        assert_eq!(*calls.lock().unwrap(), ["DescribeEventBus"; 3]);
        put(event(&personal()), bus).await.unwrap();
        assert_eq!(calls.lock().unwrap().last().unwrap(), "PutEvents");
    }

    #[tokio::test]
    async fn an_event_that_is_too_large_is_never_tried_again_and_its_size_is_the_reason() {
        let event = event(&json!({ "text": "x".repeat(300_000) }));
        let bytes = 14 + 8 + 20 + detail(&event, &Fields::All).unwrap().len();
        let too_large = r#"{"__type":"RequestEntityTooLargeException","message":"+254705408079"}"#;
        let refused =
            r#"{"FailedEntryCount":1,"Entries":[{"ErrorCode":"ValidationException","ErrorMessage":"Mary"}]}"#;
        let answers = [
            FOUND,
            (413, ""),
            (413, "<html>+254705408079</html>"),
            (413, too_large),
            (400, too_large),
            (200, refused),
        ];
        let (bus, calls) = bus(&answers).await;
        for _ in 0..answers.len() - 1 {
            let error = put(event.clone(), bus.clone()).await.unwrap_err();
            assert_eq!(error.class(), FailureClass::Permanent, "{error}");
            assert!(error.to_string().contains(&format!(" {bytes} bytes")), "{error}");
            assert!(!error.to_string().contains("2547"), "{error}");
        }
        assert_eq!(calls.lock().unwrap().len(), answers.len());
    }

    #[tokio::test]
    async fn what_can_never_fit_is_refused_before_the_call() {
        let (bus, calls) = bus(&[FOUND, TAKEN]).await;
        let around = 14 + 8 + 20 + detail(&event(&json!("")), &Fields::All).unwrap().len();
        let event = |bytes: usize| event(&json!("x".repeat(bytes - around)));
        let error = put(event(LARGEST_ENTRY_BYTES + 1), bus.clone()).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        assert!(error.to_string().contains("1048577 bytes"), "{error}");
        assert!(calls.lock().unwrap().is_empty());
        put(event(LARGEST_ENTRY_BYTES), bus).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_an_event_is_not_put_on_the_bus() {
        let (bus, calls) = bus(&[]).await;
        for body in [r#"{"success":true}"#, r#"{"type":null}"#, r#"{"type":""}"#] {
            put(event_of_body(body), bus.clone()).await.unwrap();
        }
        assert!(calls.lock().unwrap().is_empty());
    }

    #[test]
    fn each_error_has_its_class() {
        for (code, class) in [
            ("InternalFailure", FailureClass::Retryable),
            ("ThrottlingException", FailureClass::Retryable),
            ("AccessDeniedException", FailureClass::Retryable),
            ("InvalidAccountIdException", FailureClass::Retryable),
            ("NotAuthorizedForSourceException", FailureClass::Retryable),
            ("NotAuthorizedForDetailTypeException", FailureClass::Retryable),
            ("ResourceNotFoundException", FailureClass::Retryable),
            ("InvalidArgument", FailureClass::Permanent),
            ("MalformedDetail", FailureClass::Permanent),
            ("RedactionFailure", FailureClass::Permanent),
            ("ValidationException", FailureClass::Permanent),
            ("RequestEntityTooLargeException", FailureClass::Permanent),
            ("<html>+254705408079", FailureClass::Retryable),
        ] {
            let error = refused(super::code(Some(code)), 7);
            assert_eq!(error.class(), class, "{code}");
            assert!(!error.to_string().contains("2547"));
            assert_eq!(not_described(super::code(Some(code))).class(), FailureClass::Retryable, "{code}");
        }
    }

    fn read(variables: &[(&str, &str)]) -> Result<Option<Bus>, String> {
        let env = Env::of(variables.iter().copied().chain([("AWS_REGION", "eu-west-1")]));
        Bus::from_env(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_bus_is_off_until_it_is_named() {
        assert!(read(&[]).unwrap().is_none());
        let named = read(&[("LEARNINK_EVENT_BUS", "automations")]).unwrap().unwrap();
        assert_eq!((&*named.name, &*named.fields), ("automations", &fields(&[])));
        let with_fields = |names| {
            let variables = [("LEARNINK_EVENT_BUS", "automations"), ("LEARNINK_EVENT_BUS_FIELDS", names)];
            (*read(&variables).unwrap().unwrap().fields).clone()
        };
        assert_eq!(with_fields("path, score ,"), fields(&["path", "score"]));
        assert_eq!(with_fields("*"), Fields::All);
        assert_eq!(
            read(&[("LEARNINK_EVENT_BUS_FIELDS", "*")]).unwrap_err(),
            "LEARNINK_EVENT_BUS_FIELDS cannot be used: there is no bus to hand them to; \
             set LEARNINK_EVENT_BUS to its name or ARN"
        );
    }

    #[test]
    fn what_cannot_be_the_name_of_a_bus_keeps_the_function_from_starting() {
        let arn = "arn:aws:events:eu-west-1:123456789012:event-bus/automations";
        let name =
            |name: &str| read(&[("LEARNINK_EVENT_BUS", name)]).map(|bus| bus.unwrap().name.to_string());
        for good in ["default", "aws.partner/example.com/1/a_b-c", arn, &arn.replace(":aws:", ":aws-us-gov:")]
        {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        assert_eq!(name(" automations\n").as_deref(), Ok("automations"));
        for bad in [
            "my bus",
            "büs",
            "automations,other",
            "https://example.com",
            "arn:aws:sqs:eu-west-1:123456789012:automations",
            "arn:aws:events:eu-west-1:123456789012:event-bus/",
            &arn.replace("123456789012", "12345"),
            &arn.replace(":aws:", ":azure:"),
            &arn.replace("eu-west-1", ""),
            &"x".repeat(1601),
        ] {
            let error = name(bad).unwrap_err();
            assert!(
                error.starts_with("LEARNINK_EVENT_BUS cannot be used: it must be the name"),
                "{bad}: {error}"
            );
        }
    }
}
