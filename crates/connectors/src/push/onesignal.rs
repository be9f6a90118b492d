//! `LEARNINK_PUSH=onesignal`: `OneSignal`'s "Push notification" message, to an external id.
//!
//! Source: `OneSignal` REST API reference 11.6, "Push notification", "Rate limits and error handling" and
//! "Idempotent requests"; the error catalog of `OneSignal`'s own clients for the texts of its answers.

use learnink_aws::{Credential, HttpsUrl, Token, Unusable};
use learnink_webhook::event::Notification;
use learnink_webhook::{HandlerError, IdempotencyKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Answer, Request, SendOutcome};

use super::config::{APP_ID, URL, WHERE_TO_LOOK};
use super::{custom_id, some_id, uuid_of};

/// The address of the API.
pub(super) const BASE_URL: &str = "https://api.onesignal.com";

/// The name of `OneSignal` in reasons.
pub(super) const NAME: &str = "OneSignal";

/// The App API key, without the scheme before it in the header.
pub(super) struct ApiKey(Token);

impl Credential for ApiKey {
    const HOLDS: &'static str = "the App API key alone, from OneSignal's Settings, Keys & IDs";

    fn parse(text: &str) -> Result<Self, Unusable> {
        Token::parse(text).map(Self)
    }
}

/// The request for one notification; `None` if the learner has no id in the customer's own system, the only one
/// that `OneSignal` knows.
pub(super) fn request(
    address: &HttpsUrl,
    app_id: &str,
    key: &ApiKey,
    one: &Notification,
    idempotency_key: &IdempotencyKey,
) -> Result<Option<Request>, HandlerError> {
    let Some(external_id) = some_id(custom_id(one)?) else { return Ok(None) };
    let body = json!({
        "app_id": app_id,
        "include_aliases": { "external_id": [external_id] },
        "target_channel": "push",
        "headings": { "en": one.title.expose() },
        "contents": { "en": one.body.expose() },
        "data": { "path": one.path },
        "idempotency_key": uuid_of(idempotency_key),
    });
    let mut url = address.below(&["notifications"]);
    url.set_query(Some("c=push"));
    Ok(Some(Request {
        url,
        headers: vec![("authorization", format!("Key {}", key.0.expose()))],
        content_type: "application/json",
        body: serde_json::to_vec(&body)?,
    }))
}

/// The body of a 200 of `OneSignal`, and in part of a 400.
#[derive(Deserialize)]
struct AnswerBody {
    /// The message's id; absent or empty if none was made.
    id: Option<String>,
    /// Texts, or `invalid_aliases` with unknown ids.
    errors: Option<Value>,
}

impl AnswerBody {
    fn says_not_subscribed(&self) -> bool {
        self.errors.as_ref().is_some_and(|errors| errors.to_string().contains("not subscribed"))
    }

    fn names_our_app(&self) -> bool {
        self.errors.as_ref().is_some_and(|errors| errors.to_string().contains("app_id"))
    }

    fn names_an_unknown_learner(&self) -> bool {
        let aliases = self.errors.as_ref().and_then(|errors| errors.get("invalid_aliases"));
        aliases.and_then(Value::as_object).is_some_and(|aliases| !aliases.is_empty())
    }
}

/// What `OneSignal`'s answer means.
pub(super) fn judge(answer: &Answer) -> SendOutcome {
    let said: Option<AnswerBody> = serde_json::from_slice(&answer.body).ok();
    match answer.status {
        200..=299 => match said {
            // Even beside `invalid_aliases`: an id means that at least one subscription gets it.
            Some(AnswerBody { id: Some(id), .. }) if !id.is_empty() => SendOutcome::Sent,
            Some(said) if said.names_an_unknown_learner() => SendOutcome::NoDevice,
            // "All included players are not subscribed".
            Some(said) if said.says_not_subscribed() => SendOutcome::NoDevice,
            Some(_) | None => SendOutcome::Again(format!("{NAME}'s answer could not be understood"), None),
        },
        401 | 403 => SendOutcome::misconfigured(NAME, answer, WHERE_TO_LOOK),
        300..=399 | 404 | 405 | 410 => SendOutcome::misconfigured(NAME, answer, URL),
        400 if said.is_some_and(|said| said.names_our_app()) => {
            SendOutcome::misconfigured(NAME, answer, APP_ID)
        }
        status @ (400 | 413 | 422) => SendOutcome::Refused(format!("{NAME} refused it with {status}")),
        _ => SendOutcome::again(NAME, answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_with_what_surrounds_it() {
        for stored in [
            "os_v2_app_key",
            "\u{feff}os_v2_app_key\r\n",
            "'os_v2_app_key'",
            "\u{200b}\"os_v2_app_key\"\u{a0}",
        ] {
            assert_eq!(ApiKey::parse(stored).unwrap().0.expose(), "os_v2_app_key", "{stored:?}");
        }
        for stored in ["", "\"\"", "Key os_v2_app_key", "os_v2\u{200b}_app_key", "os_v2\u{ad}_app_key"] {
            assert!(ApiKey::parse(stored).is_err(), "{stored:?}");
        }
    }
}
