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
//! **Personal data stays behind** unless you ask for it: a bus has readers whom nobody here knows. Of `data`,
//! the ids `id`, `user_id`, `custom_id` and `course_id` are handed on, at whatever depth, and nothing else: a type
//! that nobody has seen yet may hold a phone number as text, as a number, as another id, or as the name under which
//! something is filed. So of what leads to an id, only names of lower-case letters and `_` are handed on, as
//! LearnInk's fields have them. `LEARNINK_EVENT_BUS_FIELDS` adds fields by their names, separated by commas, with
//! all that is in them; `*` hands on everything.
//!
//! **The bus has to be there.** EventBridge answers for a bus that does not exist as for any other, with an id for
//! the event, and drops it. So the bus is asked for before the first event, and until it is found, events
//! come back. One that is deleted later is missed by the next execution environment only.
//! Source: Amazon EventBridge user guide, "Sending events with `PutEvents`".

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use learnink_webhook::config::{ConfigError, optional};
use learnink_webhook::error::service_code;
use learnink_webhook::{Event, HandlerError, HandlerResult, OrPermanent, Router};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

/// Who puts the events on the bus.
const SOURCE: &str = "learnink";

/// EventBridge takes no longer `detail-type`.
/// Source: Amazon EventBridge API reference, `PutEventsRequestEntry`.
const LONGEST_TYPE_CHARACTERS: usize = 128;

/// The ids that are handed on always: LearnInk's, and the one that the customer gave a learner.
const IDS: [&str; 4] = ["id", "user_id", "custom_id", "course_id"];

/// The variable that switches the handler on.
const VARIABLE: &str = "LEARNINK_EVENT_BUS";

/// The configuration of the bus.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name or ARN: `LEARNINK_EVENT_BUS`. The function needs `events:DescribeEventBus` and
    /// `events:PutEvents` on it, also where it is another account's.
    pub name: String,
    /// What is handed on: `LEARNINK_EVENT_BUS_FIELDS`.
    pub fields: Fields,
}

/// Which fields of `data` are handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// All of them.
    All,
    /// LearnInk's ids, and the fields of these names with all that is in them.
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
        let Some(name) = optional(&variable, VARIABLE) else {
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
        let name = name.trim().to_owned();
        if !is_name_or_arn(&name) {
            let problem = "it must be the name of an event bus, of letters, digits, `.`, `-`, `_` and `/`, or an \
                           ARN such as arn:aws:events:eu-west-1:123456789012:event-bus/name";
            return Err(ConfigError::unusable(VARIABLE, problem));
        }
        Ok(Some(Self { name, fields }))
    }
}

/// Whether EventBridge takes it for the name of a bus. Otherwise it would refuse every event, as if that were
/// the event's fault.
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
pub struct Bus {
    client: Client,
    config: Arc<Config>,
    /// Set once the bus has been found, for all clones.
    found: Arc<OnceCell<()>>,
}

impl Bus {
    /// The bus that `config` names.
    pub fn new(aws: &SdkConfig, config: &Config) -> Self {
        Self { client: Client::new(aws), config: Arc::new(config.clone()), found: Arc::default() }
    }

    /// Asks for the bus, unless it has been found before. A failure is not remembered.
    async fn find(&self) -> HandlerResult {
        let describe = || async {
            let asked = Box::pin(self.client.describe_event_bus().name(&self.config.name).send()).await;
            asked.map(|_| ()).map_err(|error| call_failed(&error, not_described))
        };
        self.found.get_or_try_init(describe).await.copied()
    }
}

/// The handler.
pub fn router(bus: Bus) -> Router {
    Router::new().on_any("bus", put).with_state(bus)
}

/// Puts an event on the bus.
async fn put(event: Event, bus: Bus) -> HandlerResult {
    let event_type = &event.envelope.event_type;
    if !event.envelope.is_event() {
        return Ok(());
    }
    if event_type.chars().count() > LONGEST_TYPE_CHARACTERS {
        return Err(HandlerError::permanent("the event's type is over 128 characters"));
    }
    let detail = detail(&event, &bus.config.fields).or_permanent("`data` is not JSON that can be read")?;
    bus.find().await?;
    let entry = PutEventsRequestEntry::builder()
        .event_bus_name(&bus.config.name)
        .source(SOURCE)
        .detail_type(event_type)
        .time(DateTime::from_millis(event.occurred_at().unwrap_or(event.message.received_at).as_millisecond()))
        .detail(detail.to_string())
        .build();
    let answer = Box::pin(bus.client.put_events().entries(entry).send()).await;
    let answer = answer.map_err(|error| call_failed(&error, refused))?;
    match answer.entries().first() {
        Some(entry) if entry.event_id().is_some() => Ok(()),
        Some(entry) => Err(refused(code(entry.error_code()))),
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

/// A value without what is not handed on; `None` where nothing is left, so that no name stands by itself.
fn without_personal_data(value: Value, fields: &Fields) -> Option<Value> {
    let Fields::IdsAnd(names) = fields else { return Some(value) };
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter_map(|(name, value)| {
                let is_scalar = !value.is_object() && !value.is_array();
                let is_kept = names.contains(&name) || (is_scalar && IDS.contains(&name.as_str()));
                let value = match is_kept {
                    true => value,
                    false if is_of_a_schema(&name) => without_personal_data(value, fields)?,
                    false => return None,
                };
                Some((name, value))
            });
            let kept: Map<_, _> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept = items.into_iter().filter_map(|item| without_personal_data(item, fields));
            let kept: Vec<_> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => None,
    }
}

/// Whether a name is written as LearnInk's fields are, such as `course_id`. Any other may be data, such as the
/// phone number that something is filed under.
fn is_of_a_schema(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// What an error code of EventBridge means for the message. What is wrong with the event itself stays wrong;
/// what is wrong with the bus, or with our rights, somebody can put right.
/// Source: Amazon EventBridge API reference, `PutEventsResultEntry` and "Common Error Types".
fn refused(code: &str) -> HandlerError {
    match code {
        "InvalidArgument"
        | "MalformedDetail"
        | "RedactionFailure"
        | "ValidationException"
        | "ValidationError"
        | "RequestEntityTooLargeException" => {
            HandlerError::permanent(format!("EventBridge refuses the event ({code})"))
        }
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

/// What an error code means where the bus was asked for: never that something is wrong with the event.
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

/// Why a call failed; `meaning` is what the code of an answer means.
fn call_failed<E: ProvideErrorMetadata>(
    error: &SdkError<E>,
    meaning: fn(&str) -> HandlerError,
) -> HandlerError {
    match error {
        SdkError::ServiceError(failure) => meaning(code(failure.err().code())),
        SdkError::TimeoutError(_) => HandlerError::retryable("EventBridge did not answer in time"),
        _ => HandlerError::retryable("EventBridge could not be reached"),
    }
}

/// The code of an error, as far as it is one.
fn code(code: Option<&str>) -> &str {
    code.and_then(service_code).unwrap_or("no code")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router as HttpRouter;
    use axum::http::{HeaderMap, StatusCode};
    use jiff::Timestamp;
    use learnink_webhook::items::ItemLog;
    use learnink_webhook::{Envelope, FailureClass, Message, MessageId};
    use proptest::prelude::*;

    use super::*;
    use crate::tests::aws_with;

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
            part: None,
        });
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
    fn what_may_be_personal_leaves_nothing_behind() {
        for data in [
            json!("Mary"),
            json!(254_705_408_079_u64),
            json!(["Mary", 254_705_408_079_u64]),
            json!({ "phone_number": 254_705_408_079_u64 }),
            json!({ "national_id": "254705408079", "mother_id": 254_705_408_079_u64 }),
            json!({ "user_id": { "name": "Mary" }, "course_id": ["Mary"] }),
            json!({ "scores": { "+254705408079": 3, "Mary": true } }),
            json!({ "scores": { "+254705408079": { "id": 3 }, "Mary": [{ "id": 3 }] } }),
        ] {
            assert_eq!(detail(&event(&data), &fields(&[])).unwrap()["data"], json!({}), "{data}");
        }
    }

    #[test]
    fn a_field_is_handed_on_by_whatever_name_it_has() {
        let data = json!({ "Score 1": 3, "phone_number": 254_705_408_079_u64, "scores": { "2026": 4 } });
        let handed_on = detail(&event(&data), &fields(&["Score 1", "scores"])).unwrap();
        assert_eq!(handed_on["data"], json!({ "Score 1": 3, "scores": { "2026": 4 } }));
    }

    /// JSON in which everything has a name, and the ids' names are frequent.
    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        let name =
            prop_oneof![proptest::sample::select(IDS.as_slice()).prop_map(str::to_owned), any::<String>()];
        scalar.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Whether there is nothing in it but ids that are scalars, and the way to them.
    fn is_way_to_ids(value: &Value) -> bool {
        match value {
            Value::Object(members) => {
                !members.is_empty()
                    && members.iter().all(|(name, value)| {
                        (IDS.contains(&name.as_str()) && !value.is_object() && !value.is_array())
                            || (is_of_a_schema(name) && is_way_to_ids(value))
                    })
            }
            Value::Array(items) => !items.is_empty() && items.iter().all(is_way_to_ids),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn whatever_the_data_only_ids_are_handed_on_unless_more_is_asked_for(data in any_json()) {
            let handed_on = without_personal_data(data.clone(), &fields(&[]));
            prop_assert!(handed_on.as_ref().is_none_or(is_way_to_ids), "{handed_on:?}");
            prop_assert_eq!(without_personal_data(data.clone(), &Fields::All), Some(data));
        }
    }

    /// An EventBridge that answers the calls in turn, and a bus there. Each answer is a status and a body.
    async fn bus(answers: &[(u16, &'static str)]) -> (Bus, Arc<Mutex<Vec<String>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (calls.clone(), answers.to_vec());
        let server = HttpRouter::new().fallback(async move |headers: HeaderMap| {
            let mut seen = seen.lock().unwrap();
            let answer = answers[seen.len()];
            seen.push(headers["x-amz-target"].to_str().unwrap().replace("AWSEvents.", ""));
            (StatusCode::from_u16(answer.0).unwrap(), answer.1)
        });
        let config = Config { name: "automations".to_owned(), fields: fields(&[]) };
        (Bus::new(&aws_with(server).await, &config), calls)
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
            ("<html>+254705408079", FailureClass::Retryable),
        ] {
            let error = refused(super::code(Some(code)));
            assert_eq!(error.class(), class, "{code}");
            assert!(!error.to_string().contains("2547"));
            assert_eq!(not_described(super::code(Some(code))).class(), FailureClass::Retryable, "{code}");
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

    #[test]
    fn what_cannot_be_the_name_of_a_bus_keeps_the_function_from_starting() {
        let arn = "arn:aws:events:eu-west-1:123456789012:event-bus/automations";
        let name = |name: &str| read(&[("LEARNINK_EVENT_BUS", name)]).map(|config| config.unwrap().name);
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
