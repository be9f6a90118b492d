//! The webhooks that functions are invoked with: LearnInk's envelope, really signed, each with its own id; and the
//! request around one, as API Gateway sends it.
//! Source: Svix documentation, "Verifying webhooks manually"; API Gateway developer guide, "Create AWS
//! Lambda proxy integrations for HTTP APIs", payload format version 2.0.

use std::collections::BTreeMap;
use std::iter;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fastrand::Rng;
use ring::hmac;
use serde::Serialize;
use serde_json::json;

use crate::Clock;

/// Where LearnInk posts to.
const PATH: &str = "/webhooks/learnink";

/// The API's host name.
const DOMAIN: &str = "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com";

/// The sender's user agent.
const USER_AGENT: &str = "Svix-Webhooks/1.75.1 (sender-9YMgn; +https://www.svix.com/http-sender/)";

/// The sender's address.
const SOURCE_IP: &str = "52.215.16.239";

/// A webhook smaller than this says that a learner has started a course; larger ones list messages.
const SMALLEST_LIST_BYTES: usize = 1000;

/// Signs webhooks as LearnInk does.
#[derive(Debug)]
pub(crate) struct WebhookSender {
    key: hmac::Key,
    random: Rng,
    names: Vec<&'static str>,
    words: Vec<&'static str>,
    clock: Clock,
}

/// One webhook.
#[derive(Debug)]
pub(crate) struct Webhook {
    /// Its unique id.
    pub(crate) id: String,
    /// When it was signed, since 1970.
    pub(crate) signed_at: Duration,
    /// The signature header.
    pub(crate) signature: String,
    /// The signed payload, which belongs on the queue.
    pub(crate) payload: String,
}

/// Whether a webhook is unchanged since it was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integrity {
    /// It does.
    Genuine,
    /// One character has changed on the way.
    Tampered,
}

impl WebhookSender {
    /// A sender with this signing secret. The same seed gives the same payloads.
    ///
    /// # Errors
    ///
    /// When the secret is not valid.
    pub(crate) fn new(secret: &str, seed: u64, clock: Clock) -> anyhow::Result<Self> {
        let key = secret.strip_prefix("whsec_").context("a signing secret starts with `whsec_`")?;
        let key = BASE64.decode(key).context("a signing secret is base64")?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            random: Rng::with_seed(seed),
            names: NAMES.split(' ').collect(),
            words: WORDS.split(' ').collect(),
            clock,
        })
    }

    /// A webhook of about that size, signed just now. The smallest has 291 bytes.
    ///
    /// # Errors
    ///
    /// When the clock is before 1970.
    pub(crate) fn webhook(&mut self, size_bytes: usize, integrity: Integrity) -> anyhow::Result<Webhook> {
        let payload = self.payload(size_bytes)?;
        let id = format!("msg_{}", self.alphanumeric(27));
        let signed_at = (self.clock)().duration_since(UNIX_EPOCH)?;
        let signed = format!("{id}.{}.{payload}", signed_at.as_secs());
        let signature = format!("v1,{}", BASE64.encode(hmac::sign(&self.key, signed.as_bytes())));
        let payload = match integrity {
            Integrity::Genuine => payload,
            Integrity::Tampered => payload.replacen("event", "Event", 1),
        };
        Ok(Webhook { id, signed_at, signature, payload })
    }

    fn payload(&mut self, size_bytes: usize) -> serde_json::Result<String> {
        if size_bytes < SMALLEST_LIST_BYTES {
            let data = Course { learner: self.learner(), course_id: self.uuid() };
            return serde_json::to_string(&Envelope::new("user.course.started", data));
        }
        let mut data = Notifications { notifications: Vec::new() };
        let mut left = size_bytes;
        loop {
            let notification = self.notification();
            let Some(rest) = left.checked_sub(serde_json::to_string(&notification)?.len() + 1) else { break };
            data.notifications.push(notification);
            left = rest;
        }
        serde_json::to_string(&Envelope::new("notifications.sent", data))
    }

    fn notification(&mut self) -> Notification {
        let name = self.random.choice(&self.names).copied().unwrap_or_default();
        let length = self.random.usize(6..=18);
        let words = iter::repeat_with(|| self.random.choice(&self.words).copied().unwrap_or_default());
        let words: Vec<&str> = words.take(length).collect();
        Notification {
            title: format!("Hi {name}!"),
            body: words.join(" "),
            path: format!("/learning/{}", self.alphanumeric(8)),
            learner: self.learner(),
        }
    }

    fn learner(&mut self) -> Learner {
        Learner {
            user_id: self.alphanumeric(28),
            custom_id: self.uuid(),
            phone_number: format!("+2547{:08}", self.random.u32(0..100_000_000)),
        }
    }

    fn uuid(&mut self) -> String {
        let digits = format!("{:032x}", self.random.u128(..));
        let part = |range| digits.get(range).unwrap_or_default();
        [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
    }

    fn alphanumeric(&mut self, length: usize) -> String {
        iter::repeat_with(|| self.random.alphanumeric()).take(length).collect()
    }
}

impl Webhook {
    /// The receiver's input: the request around the payload, as JSON.
    ///
    /// # Errors
    ///
    /// When its time of signature is out of range.
    pub(crate) fn request(&self) -> anyhow::Result<Vec<u8>> {
        let headers = BTreeMap::from([
            ("accept", "*/*".to_owned()),
            ("content-length", self.payload.len().to_string()),
            ("content-type", "application/json".to_owned()),
            ("host", DOMAIN.to_owned()),
            ("svix-id", self.id.clone()),
            ("svix-signature", self.signature.clone()),
            ("svix-timestamp", self.signed_at.as_secs().to_string()),
            ("user-agent", USER_AGENT.to_owned()),
            ("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793".to_owned()),
            ("x-forwarded-for", SOURCE_IP.to_owned()),
            ("x-forwarded-port", "443".to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
        ]);
        let event = json!({
            "version": "2.0",
            "routeKey": format!("POST {PATH}"),
            "rawPath": PATH,
            "rawQueryString": "",
            "headers": headers,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "a1b2c3d4e5",
                "domainName": DOMAIN,
                "domainPrefix": "a1b2c3d4e5",
                "http": {
                    "method": "POST",
                    "path": PATH,
                    "protocol": "HTTP/1.1",
                    "sourceIp": SOURCE_IP,
                    "userAgent": USER_AGENT,
                },
                "requestId": "JKJaXmPLvHcESHA=",
                "routeKey": format!("POST {PATH}"),
                "stage": "$default",
                "time": "06/Nov/2025:09:58:58 +0000",
                "timeEpoch": u64::try_from(self.signed_at.as_millis())?,
            },
            "body": self.payload,
            "isBase64Encoded": false,
        });
        Ok(event.to_string().into_bytes())
    }
}

/// The fields around the `data` of every LearnInk webhook. The fields are in LearnInk's order.
#[derive(Serialize)]
struct Envelope<D> {
    object: &'static str,
    r#type: &'static str,
    api_version: &'static str,
    data: D,
    timestamp: &'static str,
}

impl<D> Envelope<D> {
    fn new(event_type: &'static str, data: D) -> Self {
        Self {
            object: "event",
            r#type: event_type,
            api_version: "2022-11-15",
            data,
            timestamp: "2025-11-06T09:58:58.233Z",
        }
    }
}

/// The `data` of `user.course.started`.
#[derive(Serialize)]
struct Course {
    #[serde(flatten)]
    learner: Learner,
    course_id: String,
}

/// The `data` of `notifications.sent`.
#[derive(Serialize)]
struct Notifications {
    notifications: Vec<Notification>,
}

#[derive(Serialize)]
struct Notification {
    title: String,
    body: String,
    path: String,
    #[serde(flatten)]
    learner: Learner,
}

#[derive(Serialize)]
struct Learner {
    user_id: String,
    custom_id: String,
    phone_number: String,
}

/// First names.
const NAMES: &str = "Achieng Amina Baraka Chebet Daudi Esther Faith Grace Halima Imani Jabali Joseph Kamau \
    Kiprono Lucy Makena Mary Mwangi Naliaka Njeri Omondi Otieno Peter Rehema Salim Samuel Tabitha Wairimu \
    Wanjiku Yusuf Zawadi Zuri";

/// The words of messages to learners.
const WORDS: &str = "a about again almost and answer badge before begin between certificate chapter \
    colleagues complete course customers deadline done every finish five for forget friday from hygiene in \
    is it learn lesson minutes missed module monday new next now of on open please points practice questions \
    quiz ready result safety score shift start step team the three to today training two until waiting week \
    your";

/// Every path in a JSON value, without the numbers in lists, for tests.
#[cfg(test)]
pub(crate) fn paths(value: &serde_json::Value) -> std::collections::BTreeSet<String> {
    use serde_json::Value;

    let below: Vec<(&str, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("[]", item)).collect(),
        _ => return std::collections::BTreeSet::from([String::new()]),
    };
    let paths = |(name, value)| paths(value).into_iter().map(move |path| format!("{name}.{path}"));
    below.into_iter().flat_map(paths).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::Value;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn sender() -> WebhookSender {
        WebhookSender::new(SECRET, 7, || UNIX_EPOCH + Duration::from_secs(1_614_265_330)).unwrap()
    }

    fn event(webhook: &Webhook) -> Value {
        serde_json::from_slice(&webhook.request().unwrap()).unwrap()
    }

    /// Whether the signature in the event is that of its body, computed as the documentation says.
    fn is_genuine(event: &Value) -> bool {
        let header = |name: &str| event["headers"][name].as_str().unwrap();
        let key = BASE64.decode(SECRET.trim_start_matches("whsec_")).unwrap();
        let body = event["body"].as_str().unwrap();
        let signed = format!("{}.{}.{body}", header("svix-id"), header("svix-timestamp"));
        let signature = BASE64.decode(header("svix-signature").trim_start_matches("v1,")).unwrap();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes(), &signature).is_ok()
    }

    #[test]
    fn a_webhook_has_about_the_size_that_is_asked_for() {
        for (size_bytes, smallest) in [(400, 280), (10_000, 9_500), (200_000, 195_000)] {
            let payload = sender().webhook(size_bytes, Integrity::Genuine).unwrap().payload;
            assert!((smallest..=size_bytes + 200).contains(&payload.len()), "{}", payload.len());
        }
    }

    #[test]
    fn a_webhook_is_what_learnink_sends() {
        for (size_bytes, sample) in [
            (400, include_str!("../../../events/user.course.started.json")),
            (10_000, include_str!("../../../events/notifications.sent.json")),
        ] {
            let payload = sender().webhook(size_bytes, Integrity::Genuine).unwrap().payload;
            let [payload, sample] =
                [&payload, sample].map(|text| serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(payload["type"], sample["type"]);
            assert_eq!(paths(&payload), paths(&sample));
        }
    }

    #[test]
    fn the_request_carries_the_payload_and_its_signature() {
        let webhook = sender().webhook(10_000, Integrity::Genuine).unwrap();
        let event = event(&webhook);
        assert_eq!(event["rawPath"], "/webhooks/learnink");
        assert_eq!(event["requestContext"]["http"]["method"], "POST");
        assert_eq!(event["headers"]["svix-timestamp"], "1614265330");
        assert_eq!(event["body"], webhook.payload);
        assert!(is_genuine(&event));
    }

    #[test]
    fn a_tampered_webhook_is_not_what_was_signed() {
        let webhook = sender().webhook(400, Integrity::Tampered).unwrap();
        assert!(!is_genuine(&event(&webhook)));
    }

    #[test]
    fn no_two_webhooks_are_alike() {
        let mut sender = sender();
        let [first, second] = [(); 2].map(|()| sender.webhook(400, Integrity::Genuine).unwrap());
        assert_ne!(first.payload, second.payload);
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn a_large_webhook_does_not_compress_to_nothing() {
        let payload = sender().webhook(200_000, Integrity::Genuine).unwrap().payload;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, payload.as_bytes()).unwrap();
        assert!(encoder.finish().unwrap().len() > payload.len() / 4);
    }

    #[test]
    fn a_secret_needs_its_prefix() {
        assert!(
            WebhookSender::new("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0, || SystemTime::UNIX_EPOCH).is_err()
        );
    }
}
