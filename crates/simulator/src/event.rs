//! Events to send, made from the samples in `events/`.

use std::fmt;

use jiff::Timestamp;
use learnink_webhook::MessageId;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

/// A type, and a payload of it. `Debug` hides the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// As in the payload, such as `user.course.started`.
    pub event_type: String,
    /// What is sent: usually JSON with personal data. Svix does not sign anything that is not text.
    pub payload: String,
}

impl Event {
    /// The same event of another learner, at another time.
    pub(crate) fn freshened(&self, at: Timestamp, learner: &mut dyn FnMut() -> Learner) -> Self {
        Self { event_type: self.event_type.clone(), payload: freshened(&self.payload, at, learner) }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("event_type", &self.event_type).finish_non_exhaustive()
    }
}

/// An invented learner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learner {
    user_id: String,
    custom_id: String,
}

impl Learner {
    /// One with random ids.
    pub fn fresh(random: &mut fastrand::Rng) -> Self {
        Self { user_id: alphanumeric(28, random), custom_id: alphanumeric(20, random) }
    }
}

/// A random message id. Shape: `msg_` and 27 letters and digits, as Svix's.
#[expect(clippy::expect_used, reason = "letters, digits and `_` are usable")]
pub fn fresh_message_id(random: &mut fastrand::Rng) -> MessageId {
    MessageId::parse(&format!("msg_{}", alphanumeric(27, random))).expect("the id is usable")
}

/// Random letters and digits.
pub(crate) fn alphanumeric(length: usize, random: &mut fastrand::Rng) -> String {
    std::iter::repeat_with(|| random.alphanumeric()).take(length).collect()
}

/// The payload at another time, with the ids of other learners, if it has them: one of `learner` for the event, and one
/// for each notification. Everything else is unchanged, to the digit; and so is a payload that is not JSON.
pub fn freshened(payload: &str, at: Timestamp, learner: &mut dyn FnMut() -> Learner) -> String {
    let Some(event) = Members::read(payload) else { return payload.to_owned() };
    event.replace(|name, value| match name {
        "timestamp" => Some(json!(at.to_string()).to_string()),
        "data" => {
            let of_event = learner();
            Some(with_learner(value, &of_event, |name, value| {
                let notifications: Vec<&RawValue> =
                    serde_json::from_str(value).ok().filter(|_| name == "notifications")?;
                let each = notifications.iter().map(|one| with_learner(one.get(), &learner(), |_, _| None));
                Some(format!("[{}]", each.collect::<Vec<_>>().join(",")))
            }))
        }
        _ => None,
    })
}

/// An object with the ids of a learner, and with the values of `other` for its other members.
fn with_learner(
    object: &str,
    learner: &Learner,
    mut other: impl FnMut(&str, &str) -> Option<String>,
) -> String {
    let Some(members) = Members::read(object) else { return object.to_owned() };
    members.replace(|name, value| match name {
        "user_id" => Some(json!(learner.user_id).to_string()),
        "custom_id" if value.starts_with('"') => Some(json!(learner.custom_id).to_string()),
        _ => other(name, value),
    })
}

/// The payload of `notifications.sent` with `count` notifications, each a copy of the first one. `None` if it has none.
pub(crate) fn with_notifications(payload: &str, count: usize) -> Option<String> {
    let mut is_done = false;
    let payload = Members::read(payload)?.replace(|name, data| {
        let data = Members::read(data).filter(|_| name == "data")?;
        Some(data.replace(|name, value| {
            let notifications: Vec<&RawValue> =
                serde_json::from_str(value).ok().filter(|_| name == "notifications")?;
            let first = notifications.first()?.get();
            is_done = true;
            Some(format!("[{}]", vec![first; count].join(",")))
        }))
    });
    is_done.then_some(payload)
}

/// The members of a JSON object, as they are written.
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// `None` if it is not an object.
    fn read(object: &str) -> Option<Self> {
        serde_json::from_str(object).ok()
    }

    /// The object with the values of `value` for members, given the name and the old value.
    fn replace(&self, mut value: impl FnMut(&str, &str) -> Option<String>) -> String {
        let member = |(name, old): &(String, Box<RawValue>)| {
            let new = value(name, old.get()).unwrap_or_else(|| old.get().to_owned());
            format!("{}:{new}", json!(name))
        };
        let members: Vec<_> = self.0.iter().map(member).collect();
        format!("{{{}}}", members.join(","))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SAMPLE: &str = include_str!("../../../events/user.course.started.json");

    fn now() -> Timestamp {
        "2026-11-23T14:20:00Z".parse().unwrap()
    }

    fn fresh(payload: &str) -> String {
        let mut random = fastrand::Rng::with_seed(1);
        freshened(payload, now(), &mut || Learner::fresh(&mut random))
    }

    #[test]
    fn a_freshened_payload_has_another_learner_and_time_and_is_otherwise_the_same() {
        let event: Value = serde_json::from_str(&fresh(SAMPLE)).unwrap();
        let sample: Value = serde_json::from_str(SAMPLE).unwrap();
        assert_eq!(event["timestamp"], "2026-11-23T14:20:00Z");
        assert_ne!(event["data"]["user_id"], sample["data"]["user_id"]);
        assert_eq!(event["data"]["course_id"], sample["data"]["course_id"]);
        assert_eq!(fresh("not json"), "not json");
    }

    #[test]
    fn a_freshened_payload_keeps_what_else_is_written_to_the_digit() {
        let odd = r#"{"type":"t","data":{"id":12345678901234567890123,"text":"\ud83d","n":1e999,"notifications":[{"user_id":"u","x":0.10}]},"timestamp":"x"}"#;
        let fresh = fresh(odd);
        for kept in [r#""id":12345678901234567890123"#, r#""text":"\ud83d""#, r#""n":1e999"#, r#""x":0.10"#] {
            assert!(fresh.contains(kept), "{fresh}");
        }
        assert!(!fresh.contains(r#""user_id":"u""#) && fresh.contains("2026-11-23T14:20:00Z"), "{fresh}");
    }

    #[test]
    fn fresh_ids_have_the_shape_of_svix() {
        let id = fresh_message_id(&mut fastrand::Rng::with_seed(1));
        assert!(id.as_str().starts_with("msg_") && id.as_str().len() == 31);
    }
}
