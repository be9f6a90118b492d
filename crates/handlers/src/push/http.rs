//! The one place that sends, and what came of it as plain data.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::config::Address;

/// One request may take this long, from the connection to the last byte of the answer. A consumer has some
/// twenty seconds for all items of a message, so that one that hangs must not hold up the others.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(5);

/// An idle connection is closed after this time: senders close theirs after a minute or so, and a frozen
/// execution environment does not see it.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// No more of an answer is read. The documented ones are a few hundred bytes.
const LARGEST_ANSWER_BYTES: usize = 64 * 1024;

/// A POST as it goes out. `Debug` shows neither headers nor body: they hold secrets and personal data.
pub(super) struct Request {
    pub(super) url: Url,
    /// Beside `content-type`.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("body_bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// What came back. `Debug` leaves the body out: a sender may repeat in it what it was sent.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The wait that the sender asks for.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What an answer means for a notification. Reasons are fragments that fit after "failed:", without anything
/// of the notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The sender took it.
    Sent,
    /// The sender knows no device that would show it.
    Unreachable,
    /// It will never be sent.
    Refused(String),
    /// It may be sent later, after this wait at least.
    Again(String, Option<Duration>),
    /// It may be sent once somebody has changed our configuration, or the secret.
    Misconfigured(String),
}

impl Verdict {
    /// The answer of a sender that is busy or broken.
    pub(super) fn again(who: &str, answer: &Answer) -> Self {
        Self::Again(format!("{who} answered {}", answer.status), answer.retry_after)
    }

    /// The answer of a sender that does not let us in, or is not there. `check` says where to look.
    pub(super) fn misconfigured(who: &str, answer: &Answer, check: &str) -> Self {
        Self::Misconfigured(format!("{who} answered {}; check {check}", answer.status))
    }
}

/// Why there is no answer, as a phrase that follows the sender's name. The HTTP client's own words are left
/// out: they have the URL in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    #[error("did not answer in time")]
    TimedOut,
    #[error("could not be reached; check the address, and that the function may reach it")]
    Unreachable,
    #[error("broke the connection")]
    Broken,
    #[error("was not called: there are no root certificates, or a header is not sendable")]
    NotSent,
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_builder() {
            Self::NotSent
        } else if error.is_connect() {
            Self::Unreachable
        } else {
            Self::Broken
        }
    }
}

/// The connections to one sender; cloned, they are shared.
#[derive(Debug, Clone)]
pub(super) struct Http(Option<Client>);

impl Http {
    /// Connections for `at_once` requests to `address`. A program that has not installed a TLS provider
    /// panics here.
    pub(super) fn new(address: &Address, at_once: usize, time_limit: Duration) -> Self {
        let client = Client::builder()
            .user_agent(concat!("learnink-webhooks/", env!("CARGO_PKG_VERSION")))
            .timeout(time_limit)
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(at_once)
            // Another address would get personal data, and with OneSignal and FCM the credential.
            .redirect(Policy::none());
        let client = if address.is_this_machine() { client.no_proxy() } else { client };
        // Fails without root certificates, and then there is nobody to send to; a call says so.
        Self(client.build().ok())
    }

    /// Sends, and reads the answer.
    pub(super) async fn call(&self, request: Request, now: Timestamp) -> Result<Answer, CallError> {
        let client = self.0.as_ref().ok_or(CallError::NotSent)?;
        let mut post = client.post(request.url).header("content-type", request.content_type);
        for (name, value) in request.headers {
            post = post.header(name, value);
        }
        let mut response = post.body(request.body).send().await?;
        let asked_for = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let mut answer = Answer {
            status: response.status().as_u16(),
            retry_after: asked_for.and_then(|value| retry_after(value, now)),
            body: Vec::new(),
        };
        // To the end, so that the connection can be used again. An answer that breaks off has its status all
        // the same, and that says whether the notification was taken.
        while let Ok(Some(part)) = response.chunk().await {
            answer.body.extend_from_slice(&part);
            if answer.body.len() > LARGEST_ANSWER_BYTES {
                break;
            }
        }
        Ok(answer)
    }
}

/// The wait that a `Retry-After` header asks for: seconds, or until a date. `None` for what is neither, or
/// over.
/// Source: RFC 9110, section 10.2.3.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_date() {
        let now = "2026-11-25T17:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Wed, 25 Nov 2026 17:01:30 GMT", Some(90)),
            ("Wed, 25 Nov 2026 16:59:59 GMT", None),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn nothing_of_a_request_or_an_answer_is_printed() {
        let request = Request {
            url: "https://push.test/?token=secret".parse().unwrap(),
            headers: vec![("authorization", "Key secret".to_owned())],
            content_type: "application/json",
            body: "secret".to_owned(),
        };
        let answer = Answer { status: 400, retry_after: None, body: b"secret".to_vec() };
        let printed = format!("{request:?} {answer:?}");
        assert_eq!(printed, "Request { body_bytes: 6, .. } Answer { status: 400, .. }");
    }
}
