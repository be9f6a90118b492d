//! Every event: on an event bus, for the automations of others.
//!
//! Each event becomes one on Amazon EventBridge: `source` is `learnink`, `detail-type` the event's type, the
//! time when it happened, and the detail:
//!
//! ```json
//! {
//!   "id": "msg_2Xb", "key": "msg_2Xb/bus", "type": "user.course.started", "api_version": "2022-11-15",
//!   "timestamp": "2022-11-04T09:58:58.233Z",
//!   "data": { "user_id": "…", "custom_id": "…", "course_id": "…" }
//! }
//! ```
//!
//! An event may come twice; `key` is the same both times.
//!
//! **Personal data stays behind** unless you ask for it: a bus has readers whom nobody here knows. Of `data`, ids
//! (`id` and what ends with `_id`), numbers and booleans are handed on, and no text: a type that nobody has seen
//! yet may hold a name under any name. `LEARNINK_EVENT_BUS_FIELDS` adds fields by their names, separated by
//! commas, at whatever depth; `*` hands on everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::operation::put_events::PutEventsError;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use learnink_webhook::config::{ConfigError, optional};
use learnink_webhook::error::service_code;
use learnink_webhook::{Event, HandlerError, HandlerResult, OrPermanent, Router};
use serde_json::{Map, Value, json};

/// Who puts the events on the bus.
const SOURCE: &str = "learnink";

/// EventBridge takes no longer `detail-type`.
/// Source: Amazon EventBridge API reference, `PutEventsRequestEntry`.
const LONGEST_TYPE_CHARACTERS: usize = 128;

/// The configuration of the bus.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name or ARN: `LEARNINK_EVENT_BUS`.
    pub name: String,
    /// What is handed on: `LEARNINK_EVENT_BUS_FIELDS`.
    pub fields: Fields,
}

/// Which fields of `data` are handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// All of them.
    All,
    /// Ids, numbers and booleans, and the fields of these names with all that is in them.
    IdsAnd(BTreeSet<String>),
}

impl Config {
    /// Reads the configuration; `None` where `LEARNINK_EVENT_BUS` is not set.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let fields = optional(&variable, "LEARNINK_EVENT_BUS_FIELDS");
        let Some(name) = optional(&variable, "LEARNINK_EVENT_BUS") else {
            return match fields {
                Some(_) => Err(ConfigError::unusable(
                    "LEARNINK_EVENT_BUS_FIELDS",
                    "there is no bus to hand them to; set LEARNINK_EVENT_BUS to its name or ARN",
                )),
                None => Ok(None),
            };
        };
        let fields = match fields.as_deref().map(str::trim) {
            Some("*") => Fields::All,
            fields => {
                let names = fields.unwrap_or_default().split(',').map(str::trim);
                Fields::IdsAnd(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
            }
        };
        Ok(Some(Self { name, fields }))
    }
}

/// The event bus.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    config: Arc<Config>,
}

impl Bus {
    /// The bus that `config` names.
    pub fn new(aws: &SdkConfig, config: &Config) -> Self {
        Self { client: Client::new(aws), config: Arc::new(config.clone()) }
    }
}

/// The handler.
pub fn router(bus: Bus) -> Router {
    Router::new().on_any("bus", put).with_state(bus)
}

/// Puts an event on the bus.
async fn put(event: Event, bus: Bus) -> HandlerResult {
    let event_type = &event.envelope.event_type;
    if event_type.is_empty() || event_type.chars().count() > LONGEST_TYPE_CHARACTERS {
        return Err(HandlerError::permanent("the event's type is empty or over 128 characters"));
    }
    let detail = detail(&event, &bus.config.fields).or_permanent("`data` is not JSON that can be read")?;
    let entry = PutEventsRequestEntry::builder()
        .event_bus_name(&bus.config.name)
        .source(SOURCE)
        .detail_type(event_type)
        .time(DateTime::from_millis(event.occurred_at().as_millisecond()))
        .detail(detail.to_string())
        .build();
    let answer = Box::pin(bus.client.put_events().entries(entry).send()).await;
    let answer = answer.map_err(|error| call_failed(&error))?;
    match answer.entries().first() {
        Some(entry) if entry.event_id().is_some() => Ok(()),
        Some(entry) => Err(refused(entry.error_code().unwrap_or("no code"))),
        None => Err(HandlerError::retryable("EventBridge did not say what became of the event")),
    }
}

/// What goes on the bus of an event.
fn detail(event: &Event, fields: &Fields) -> serde_json::Result<Value> {
    let data: Value = serde_json::from_str(event.envelope.raw_data().get())?;
    Ok(json!({
        "id": event.id().as_str(),
        "key": event.key.as_str(),
        "type": event.envelope.event_type,
        "api_version": event.envelope.api_version,
        "timestamp": event.occurred_at(),
        "data": without_personal_data(data, fields).unwrap_or_else(|| json!({})),
    }))
}

/// A value without what is not handed on; `None` where nothing is left.
fn without_personal_data(value: Value, fields: &Fields) -> Option<Value> {
    let Fields::IdsAnd(names) = fields else { return Some(value) };
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter_map(|(name, value)| {
                let is_id = name == "id" || name.ends_with("_id");
                let is_kept = names.contains(&name) || (is_id && !value.is_object() && !value.is_array());
                let value = if is_kept { Some(value) } else { without_personal_data(value, fields) };
                Some((name, value?))
            });
            Some(Value::Object(kept.collect::<Map<_, _>>()))
        }
        Value::Array(items) => {
            Some(items.into_iter().filter_map(|item| without_personal_data(item, fields)).collect())
        }
        Value::Number(_) | Value::Bool(_) => Some(value),
        Value::String(_) | Value::Null => None,
    }
}

/// What an error code of EventBridge means for the message. What is wrong with the event itself stays wrong;
/// what is wrong with the bus, or with our rights, somebody can put right.
/// Source: Amazon EventBridge API reference, `PutEventsResultEntry` and "Common Error Types".
fn refused(code: &str) -> HandlerError {
    let code = service_code(code).unwrap_or("no code");
    match code {
        "InvalidArgument"
        | "MalformedDetail"
        | "ValidationException"
        | "ValidationError"
        | "RequestEntityTooLargeException" => {
            HandlerError::permanent(format!("EventBridge refuses the event ({code})"))
        }
        "ResourceNotFoundException" => {
            HandlerError::retryable("EventBridge does not know the bus; check LEARNINK_EVENT_BUS")
        }
        "AccessDeniedException" | "NotAuthorizedForSourceException" => HandlerError::retryable(format!(
            "EventBridge denies the event ({code}); the function's role needs events:PutEvents on the bus"
        )),
        _ => HandlerError::retryable(format!("EventBridge did not take the event ({code})")),
    }
}

fn call_failed(error: &SdkError<PutEventsError>) -> HandlerError {
    match error {
        SdkError::ServiceError(failure) => refused(failure.err().code().unwrap_or("no code")),
        SdkError::TimeoutError(_) => HandlerError::retryable("EventBridge did not answer in time"),
        _ => HandlerError::retryable("EventBridge could not be reached"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use learnink_webhook::items::ItemLog;
    use learnink_webhook::{Envelope, FailureClass, Message, MessageId};

    use super::*;

    fn event(data: &Value) -> Event {
        let body = json!({
            "type": "example.badge.earned", "api_version": "2022-11-15",
            "timestamp": "2022-11-04T09:58:58.233Z", "data": data,
        });
        let body = body.to_string().into_bytes();
        let envelope = Arc::new(Envelope::parse(&body).unwrap());
        let message = Arc::new(Message {
            id: MessageId::parse("msg_1").unwrap(),
            signed_at_s: 0,
            signature: String::new(),
            received_at: Timestamp::UNIX_EPOCH,
            event_type: None,
            body,
        });
        let log = Arc::new(ItemLog::default());
        Event::new(message, envelope, "bus", Timestamp::UNIX_EPOCH, &BTreeSet::new(), log)
    }

    fn personal() -> Value {
        json!({
            "user_id": "u", "custom_id": null, "course_id": "c", "phone_number": "+254705408079",
            "score": 0.9, "passed": true, "badge": { "id": 7, "name": "Mary's" },
            "notifications": [{ "title": "Hi Mary!", "path": "/learning", "user_id": "u" }],
        })
    }

    fn fields(names: &[&str]) -> Fields {
        Fields::IdsAnd(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn personal_data_stays_behind() {
        let detail = detail(&event(&personal()), &fields(&[])).unwrap();
        insta::assert_json_snapshot!(detail);
        assert!(!detail.to_string().contains("Mary") && !detail.to_string().contains("2547"));
    }

    #[test]
    fn fields_are_handed_on_by_name_or_all_of_them() {
        let data = |fields| detail(&event(&personal()), &fields).unwrap()["data"].clone();
        let with_path = data(fields(&["path", "badge"]));
        assert_eq!(with_path["notifications"], json!([{ "path": "/learning", "user_id": "u" }]));
        assert_eq!(with_path["badge"], json!({ "id": 7, "name": "Mary's" }));
        assert_eq!(data(Fields::All), personal());
    }

    #[test]
    fn data_that_is_text_alone_becomes_an_empty_object() {
        assert_eq!(detail(&event(&json!("Mary")), &fields(&[])).unwrap()["data"], json!({}));
    }

    #[test]
    fn each_error_has_its_class() {
        for (code, class) in [
            ("InternalFailure", FailureClass::Retryable),
            ("ThrottlingException", FailureClass::Retryable),
            ("AccessDeniedException", FailureClass::Retryable),
            ("NotAuthorizedForSourceException", FailureClass::Retryable),
            ("ResourceNotFoundException", FailureClass::Retryable),
            ("InvalidArgument", FailureClass::Permanent),
            ("MalformedDetail", FailureClass::Permanent),
            ("ValidationException", FailureClass::Permanent),
            ("<html>+254705408079", FailureClass::Retryable),
        ] {
            let error = refused(code);
            assert_eq!(error.class(), class, "{code}");
            assert!(!error.to_string().contains("2547"));
        }
    }

    fn read(variables: &[(&str, &str)]) -> Result<Option<Config>, String> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn the_bus_is_off_until_it_is_named() {
        assert!(read(&[]).unwrap().is_none());
        let named = read(&[("LEARNINK_EVENT_BUS", "automations")]).unwrap().unwrap();
        assert_eq!((named.name.as_str(), named.fields), ("automations", fields(&[])));
        let with_fields = |names| {
            let variables = [("LEARNINK_EVENT_BUS", "automations"), ("LEARNINK_EVENT_BUS_FIELDS", names)];
            read(&variables).unwrap().unwrap().fields
        };
        assert_eq!(with_fields("path, score ,"), fields(&["path", "score"]));
        assert_eq!(with_fields("*"), Fields::All);
        assert_eq!(
            read(&[("LEARNINK_EVENT_BUS_FIELDS", "*")]).unwrap_err(),
            "LEARNINK_EVENT_BUS_FIELDS cannot be used: there is no bus to hand them to; \
             set LEARNINK_EVENT_BUS to its name or ARN"
        );
    }
}
