//! `LEARNINK_PUSH=fcm`: Firebase Cloud Messaging, HTTP v1, a topic per learner.
//!
//! Source: Firebase reference, "REST Resource: projects.messages" and "Error codes"; Firebase guides, "Send
//! messages to topics" and "Best practices when sending FCM messages at scale"; Google Identity, "Using OAuth
//! 2.0 for Server to Server Applications".

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use jiff::{SignedDuration, Timestamp};
use learnink_aws::{Credential, HttpsUrl, Unusable};
use learnink_webhook::config::{is_invisible, unquoted};
use learnink_webhook::error::service_code;
use learnink_webhook::event::Notification;
use learnink_webhook::{HandlerError, IdempotencyKey};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use crate::http::{Answer, Http, Request, SendOutcome};

use super::config::{URL, WHERE_TO_LOOK};
use super::{learner_id, uuid_of};

/// The address of the API.
pub(super) const BASE_URL: &str = "https://fcm.googleapis.com";

/// The default prefix of topics.
pub(super) const TOPIC_PREFIX: &str = "learner-";

/// The longest prefix of a topic, in bytes. Our own limit, which leaves room for the id.
pub(super) const LONGEST_TOPIC_PREFIX_BYTES: usize = 100;

/// FCM's name in reasons.
pub(super) const NAME: &str = "FCM";

/// What a token may do. Source: Firebase, "Authorize send requests".
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// How long a requested token is valid: an hour, the longest that Google grants.
const ASKED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// A token is not used in the last minutes of its life: the run that it starts may take some.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// One request may take this long. FCM's own calls take up to 10 s. A shorter limit would send twice, because FCM
/// does not support idempotency keys. Source: "Best practices when sending FCM messages at scale".
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The wait after an answer that does not name one, or after no answer. Source: the same.
pub(super) const SHORT_WAIT: Duration = Duration::from_secs(10);

/// The wait after a 429 that does not name one. Source: "Best practices when sending FCM messages at scale".
const LONG_WAIT: Duration = Duration::from_mins(1);

/// A service account's key, from the JSON file that Google hands out.
pub(super) struct ServiceAccount {
    project_id: String,
    client_email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
    token_address: HttpsUrl,
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceAccount([secret])")
    }
}

#[derive(Deserialize)]
struct KeyFile {
    project_id: String,
    client_email: String,
    private_key_id: Option<String>,
    private_key: String,
    token_uri: String,
}

impl Credential for ServiceAccount {
    const HOLDS: &'static str =
        "the JSON of a service account's key, from Firebase's Project settings, Service accounts";

    fn parse(text: &str) -> Result<Self, Unusable> {
        let incomplete = "it is not JSON with project_id, client_email, private_key and token_uri";
        let text = unquoted(text);
        let file: KeyFile = serde_json::from_str(text).map_err(|_| {
            let is_odd = |c: char| is_invisible(c) || (c.is_whitespace() && !c.is_ascii());
            Unusable(if text.starts_with(r#"{\""#) {
                "it is JSON within a text, with a backslash before each quote; store the file as it is"
            } else if text.contains(is_odd) {
                "it is not JSON: there are invisible characters or spaces of another kind in it; store the file as it is"
            } else {
                incomplete
            })
        })?;
        let der =
            pkcs8(&file.private_key).ok_or(Unusable("its private_key is not a PEM of a `PRIVATE KEY`"))?;
        let key = RsaKeyPair::from_pkcs8(&der);
        let key = key.map_err(|_| Unusable("its private_key is not an RSA key of 2048 bits or more"))?;
        let token_address = file.token_uri.parse().ok();
        Ok(Self {
            project_id: file.project_id,
            client_email: file.client_email,
            key_id: file.private_key_id,
            key,
            token_address: token_address.ok_or(Unusable("its token_uri is not an HTTPS address"))?,
        })
    }
}

/// The bytes of a PEM.
fn pkcs8(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (base64, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    // In a file that went through a shell, line feeds may still be `\n`.
    BASE64.decode(base64.replace("\\n", "").split_whitespace().collect::<String>()).ok()
}

impl ServiceAccount {
    /// The request for a token.
    fn token_request(&self, now: Timestamp) -> Result<Request, HandlerError> {
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        Ok(Request {
            url: self.token_address.url(),
            headers: Vec::new(),
            content_type: "application/x-www-form-urlencoded",
            body: format!("grant_type={grant}&assertion={}", self.assertion(now)?).into(),
        })
    }

    /// The assertion of our identity: a JSON web token, signed with RS256.
    fn assertion(&self, now: Timestamp) -> Result<String, HandlerError> {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let (Some(id), Some(header)) = (&self.key_id, header.as_object_mut()) {
            header.insert("kid".to_owned(), json!(id));
        }
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_address.url().as_str(),
            "iat": now.as_second(),
            "exp": (now + ASKED_FOR).as_second(),
        });
        let part = |json: &serde_json::Value| BASE64_URL.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        let outcome = self.key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature);
        outcome.map_err(|_| HandlerError::retryable("the request for Google's token could not be signed"))?;
        Ok(format!("{signed}.{}", BASE64_URL.encode(signature)))
    }
}

/// The access to FCM: a project, and a token for it.
pub(super) struct Access {
    project_id: String,
    token: String,
    /// The owner of the token: another account, or another key of it, needs another token.
    client_email: String,
    key_id: Option<String>,
}

impl Access {
    fn is_of(&self, account: &ServiceAccount) -> bool {
        self.project_id == account.project_id
            && self.client_email == account.client_email
            && self.key_id == account.key_id
    }
}

/// The token in hand.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Option<(Arc<Access>, Timestamp)>>);

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// In seconds.
    expires_in: i64,
}

impl Tokens {
    /// The current token, or a new one if it is about to expire.
    pub(super) async fn get(
        &self,
        account: &ServiceAccount,
        http: &Http,
        now: Timestamp,
    ) -> Result<Arc<Access>, HandlerError> {
        let mut held = self.0.lock().await;
        if let Some((access, until)) = &*held
            && now < *until
            && access.is_of(account)
        {
            return Ok(access.clone());
        }
        let answer = http.call(account.token_request(now)?, now).await;
        let answer =
            answer.map_err(|error| HandlerError::retryable(format!("Google's token server {error}")))?;
        let granted = granted(&answer)?;
        let until = now + SignedDuration::from_secs(granted.expires_in) - MARGIN;
        let access = Access {
            project_id: account.project_id.clone(),
            token: granted.access_token,
            client_email: account.client_email.clone(),
            key_id: account.key_id.clone(),
        };
        let access = Arc::new(access);
        *held = Some((access.clone(), until));
        Ok(access)
    }

    /// Makes the next run request a new token, because FCM did not accept this one.
    pub(super) async fn doubt(&self) {
        *self.0.lock().await = None;
    }
}

/// Reads the answer to a request for a token.
fn granted(answer: &Answer) -> Result<Granted, HandlerError> {
    #[derive(Deserialize)]
    struct Denied {
        error: String,
    }
    let status = answer.status;
    if status == 200 {
        let granted: Result<Granted, _> = serde_json::from_slice(&answer.body);
        let granted = granted.ok().filter(|granted| (0..=86_400).contains(&granted.expires_in));
        return granted.ok_or_else(|| HandlerError::retryable("Google's token could not be understood"));
    }
    let retry = |reason: String| match answer.retry_after {
        Some(wait) => HandlerError::retryable(reason).retry_after(wait),
        None => HandlerError::retryable(reason),
    };
    Err(if (400..500).contains(&status) && status != 429 {
        let denied: Option<Denied> = serde_json::from_slice(&answer.body).ok();
        let code = denied.and_then(|denied| code(&denied.error)).unwrap_or_default();
        retry(format!("Google granted no token, {status}{code}; check {WHERE_TO_LOOK}, and the clock"))
    } else {
        retry(format!("Google's token server answered {status}"))
    })
}

/// Whether a topic may have this byte. Source: "Send messages to topics".
pub(super) const fn is_topic_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'%')
}

/// The topic of a learner: other bytes of the id, and the percent sign, are percent-encoded.
fn topic(prefix: &str, id: &str) -> String {
    let mut topic = prefix.to_owned();
    for byte in id.bytes() {
        if is_topic_byte(byte) && byte != b'%' {
            topic.push(char::from(byte));
        } else {
            // Writing to a `String` does not fail.
            let _ = write!(topic, "%{byte:02X}");
        }
    }
    topic
}

/// The request for one notification; `None` if the learner has no id at all.
pub(super) fn request(
    address: &HttpsUrl,
    topic_prefix: &str,
    access: &Access,
    one: &Notification,
    key: &IdempotencyKey,
) -> Result<Option<Request>, HandlerError> {
    let Some(id) = learner_id(one)? else { return Ok(None) };
    // FCM does not support idempotency keys. With these, a notification that is sent twice replaces the first on
    // the phone.
    let tag = uuid_of(key);
    let body = json!({ "message": {
        "topic": topic(topic_prefix, id),
        "notification": { "title": one.title.expose(), "body": one.body.expose() },
        "data": { "path": one.path },
        "android": { "notification": { "tag": tag } },
        "apns": { "headers": { "apns-collapse-id": tag } },
    }});
    Ok(Some(Request {
        url: address.below(&["v1", "projects", &access.project_id, "messages:send"]),
        headers: vec![("authorization", format!("Bearer {}", access.token))],
        content_type: "application/json",
        body: serde_json::to_vec(&body)?,
    }))
}

/// The body of FCM's error answers.
#[derive(Deserialize)]
struct Failed {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
}

/// The error code in parentheses, FCM's own if there is one, or nothing.
fn error_code(body: &[u8]) -> String {
    let failed: Option<Failed> = serde_json::from_slice(body).ok();
    let found = failed.and_then(|Failed { error: Status { status, details } }| {
        let own = details.into_iter().find_map(|detail| detail.error_code);
        code(&own.unwrap_or(status))
    });
    found.unwrap_or_default()
}

/// A code in parentheses, if it looks like one.
fn code(code: &str) -> Option<String> {
    service_code(code).map(|code| format!(" ({code})"))
}

/// What FCM's answer means. For a topic, it does not say whether anybody has subscribed to it.
pub(super) fn judge(answer: &Answer) -> SendOutcome {
    let status = answer.status;
    let code = error_code(&answer.body);
    let check =
        |what: &str| SendOutcome::Misconfigured(format!("{NAME} answered {status}{code}; check {what}"));
    match status {
        200..=299 => SendOutcome::Sent,
        401 if code.contains("THIRD_PARTY_AUTH") => {
            check("the APNs key and the web push certificate in Firebase's Cloud Messaging settings")
        }
        401 => check(WHERE_TO_LOOK),
        403 => check(
            "that the service account may send messages and the project has the Firebase Cloud Messaging API \
             enabled",
        ),
        // About device tokens, which we do not use. If it occurs, there is no device.
        404 if code.contains("UNREGISTERED") => SendOutcome::NoDevice,
        404 => check(&format!("the project_id in {WHERE_TO_LOOK}")),
        300..=399 | 405 | 410 => check(URL),
        429 => {
            let wait = answer.retry_after.unwrap_or(LONG_WAIT);
            SendOutcome::Again(format!("{NAME} answered {status}{code}"), Some(wait))
        }
        408 | 425 | 500.. => {
            let wait = answer.retry_after.unwrap_or(SHORT_WAIT);
            SendOutcome::Again(format!("{NAME} answered {status}{code}"), Some(wait))
        }
        _ => SendOutcome::Refused(format!("{NAME} refused it with {status}{code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_only_characters_that_fcm_takes_and_no_two_learners_share_one() {
        for (id, expected) in [
            ("3c2143e4-3e8e-478a-bf0b-9dc6e284fa33", "learner-3c2143e4-3e8e-478a-bf0b-9dc6e284fa33"),
            ("a/b", "learner-a%2Fb"),
            ("a%2Fb", "learner-a%252Fb"),
            ("ö@~._-", "learner-%C3%B6%40~._-"),
        ] {
            let topic = topic("learner-", id);
            assert_eq!(topic, expected);
            assert!(topic.bytes().all(is_topic_byte));
        }
    }

    /// The key's file, with line feeds as Google writes them.
    fn key_file() -> String {
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            BASE64.encode(include_bytes!("test-key.pk8"))
        );
        json!({
            "type": "service_account",
            "project_id": "acme",
            "client_email": "push@acme.iam.gserviceaccount.com",
            "private_key": pem,
            "token_uri": "https://oauth2.googleapis.com/token",
        })
        .to_string()
    }

    #[test]
    fn a_key_file_is_taken_with_what_surrounds_it() {
        let file = key_file();
        for stored in [
            file.clone(),
            format!("\u{feff}{file}\r\n"),
            format!("\u{200b}{file}\u{a0}"),
            format!("'{file}'"),
            // As from a shell that did not interpret the escapes.
            file.replace("\\n", "\\\\n"),
        ] {
            assert_eq!(ServiceAccount::parse(&stored).unwrap().project_id, "acme", "{stored}");
        }
    }

    #[test]
    fn a_token_is_kept_only_for_the_account_and_the_key_that_it_was_granted_to() {
        let access = Access {
            project_id: "acme".to_owned(),
            token: "a-token".to_owned(),
            client_email: "push@acme.iam.gserviceaccount.com".to_owned(),
            key_id: None,
        };
        let file = key_file();
        for (stored, is_of) in [
            (file.clone(), true),
            (file.replace(r#""acme""#, r#""other""#), false),
            (file.replace("push@acme", "other@acme"), false),
            (file.replacen('{', r#"{"private_key_id":"key-2","#, 1), false),
        ] {
            let account = ServiceAccount::parse(&stored).unwrap();
            assert_eq!(access.is_of(&account), is_of, "{} {:?}", account.client_email, account.key_id);
        }
    }

    #[test]
    fn a_key_file_is_not_printed() {
        let account = ServiceAccount::parse(&key_file()).unwrap();
        assert_eq!(format!("{account:?}"), "ServiceAccount([secret])");
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_named_and_not_repeated() {
        let file = key_file();
        for (stored, problem) in [
            (serde_json::to_string(&file).unwrap(), "JSON within a text"),
            (file.replace(':', ":\u{a0}"), "invisible characters or spaces of another kind"),
            (file.replace(',', ",\u{200b}"), "invisible characters or spaces of another kind"),
            (file.replace("project_id", "project"), "not JSON with project_id"),
            (file.replace("PRIVATE KEY", "KEY"), "is not a PEM"),
        ] {
            let Unusable(said) = ServiceAccount::parse(&stored).unwrap_err();
            assert!(said.contains(problem) && !said.contains("acme"), "{said}");
        }
    }

    #[test]
    fn a_token_that_google_does_not_grant_says_what_to_check() {
        let answer = |status, body: &str| Answer { status, retry_after: None, body: body.into() };
        let reason = |status, body| granted(&answer(status, body)).err().unwrap().to_string();
        assert_eq!(
            reason(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#),
            "Google granted no token, 400 (invalid_grant); check LEARNINK_PUSH_SECRET, or the secret that \
             LEARNINK_PUSH_SECRET_ID names, and the clock"
        );
        assert_eq!(reason(503, "<html>"), "Google's token server answered 503");
        assert_eq!(reason(200, r#"{"id_token":"x"}"#), "Google's token could not be understood");
        assert_eq!(
            reason(200, r#"{"access_token":"x","expires_in":-1}"#),
            "Google's token could not be understood"
        );
    }
}
