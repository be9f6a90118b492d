//! The HTTP client of the connectors, and the results of calls as plain data.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use learnink_aws::HttpsUrl;
use learnink_aws::http::builder;
use learnink_webhook::HandlerError;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Url};

/// One request may take this long, from the connection to the last byte of the answer. A consumer has some twenty
/// seconds for all items of a message, so one that hangs must not delay the others.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How much of an answer is read. The documented ones are a few hundred bytes.
const LARGEST_ANSWER_BYTES: usize = 64 * 1024;

/// A POST to send. `Debug` shows neither headers nor body: they hold secrets and personal data.
pub(crate) struct Request {
    pub(crate) url: Url,
    /// Beside `content-type`.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("body_bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// The answer to a request. `Debug` leaves the body out: it may quote the request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The wait that the sender asks for.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The outcome of a request. Reasons are fragments that fit after "failed:", and do not quote the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    /// The sender accepted it.
    Sent,
    /// The push sender does not know a device that would show it.
    NoDevice,
    /// It will never be sent.
    Refused(String),
    /// It may be sent later, after this wait at least.
    Again(String, Option<Duration>),
    /// It may be sent once somebody has changed our configuration, or the secret.
    Misconfigured(String),
}

impl SendOutcome {
    /// The answer of a sender that is busy or broken.
    pub(crate) fn again(who: &str, answer: &Answer) -> Self {
        Self::Again(format!("{who} answered {}", answer.status), answer.retry_after)
    }

    /// The answer of a sender that denies us access, or does not exist. `check` says where to look.
    pub(crate) fn misconfigured(who: &str, answer: &Answer, check: &str) -> Self {
        Self::Misconfigured(format!("{who} answered {}; check {check}", answer.status))
    }
}

/// The error of a handler whose request may be sent later, after this wait at least.
pub(crate) fn retry_later(reason: String, wait: Option<Duration>) -> HandlerError {
    let error = HandlerError::retryable(reason);
    match wait {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// Why there is no answer, as a phrase that follows the sender's name. The HTTP client's own text is left out: it
/// contains the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpCallError {
    #[error("did not answer in time")]
    TimedOut,
    #[error("could not be reached; check the address, and that the function may reach it")]
    Unreachable,
    #[error("broke the connection")]
    Broken,
    #[error("was not called: there are no root certificates, or a header is not sendable")]
    NotSent,
}

impl From<reqwest::Error> for HttpCallError {
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
pub(crate) struct Http(Option<Client>);

impl Http {
    /// Connections for `at_once` requests to `address`. Panics if the program has not installed a TLS provider.
    pub(crate) fn new(address: &HttpsUrl, at_once: usize, time_limit: Duration) -> Self {
        let client = builder(address, time_limit).pool_max_idle_per_host(at_once);
        // Fails without root certificates; then every call reports it.
        Self(client.build().ok())
    }

    /// Sends, and reads the answer.
    pub(crate) async fn call(&self, request: Request, now: Timestamp) -> Result<Answer, HttpCallError> {
        let client = self.0.as_ref().ok_or(HttpCallError::NotSent)?;
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
        // To the end, so that the connection can be used again. An answer that breaks off still has its status,
        // which says whether the request was accepted.
        while let Ok(Some(part)) = response.chunk().await {
            answer.body.extend_from_slice(&part);
            if answer.body.len() > LARGEST_ANSWER_BYTES {
                break;
            }
        }
        Ok(answer)
    }
}

/// The longest wait that is read, in seconds: over a century. A longer one is cut to this, and the queue waits for
/// half a day at most.
const LONGEST_WAIT_S: u32 = u32::MAX;

/// The wait that a `Retry-After` header asks for: seconds, or until a date. `None` if it is neither, or the date
/// has passed.
/// Source: RFC 9110, section 10.2.3.
pub(crate) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits for the type is longer than the longest wait.
        let seconds = value.parse().unwrap_or(LONGEST_WAIT_S);
        return Some(Duration::from_secs(seconds.into()));
    }
    let of_mail = || Some(jiff::fmt::rfc2822::parse(value).ok()?.timestamp());
    let at = http_date(value, now).or_else(of_mail)?;
    Duration::try_from(at.duration_since(now)).ok()
}

/// A date in one of the three forms of HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` and
/// `Sun Nov  6 08:49:37 1994`. The name of the day is not compared with the date.
/// Source: RFC 9110, section 5.6.7, which asks recipients to take all three.
fn http_date(value: &str, now: Timestamp) -> Option<Timestamp> {
    let parts: Vec<_> = value.split([' ', ',', '-']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, time) = match parts.as_slice() {
        [name, day, month, year, time, zone] if is_name(name) && zone.eq_ignore_ascii_case("GMT") => {
            (day, month, year, time)
        }
        [name, month, day, time, year] if is_name(name) => (day, month, year, time),
        _ => return None,
    };
    let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = months.iter().position(|known| known.eq_ignore_ascii_case(month))? + 1;
    let time: Vec<i8> = time.split(':').map(number).collect::<Option<_>>()?;
    let [hour, minute, second] = time[..] else { return None };
    // A leap second is the end of its minute.
    let time = Time::new(hour, minute, second.min(59), 0).ok()?;
    let at = |year: i16| {
        let date = Date::new(year, month.try_into().ok()?, number(day)?).ok()?;
        let at = TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).ok()?;
        Some(at)
    };
    if year.len() != 2 {
        return at(number(year)?);
    }
    // A year of two digits is in this century, unless that is more than 50 years ahead: then it is in the previous one,
    // and the date has passed.
    let this_year = TimeZone::UTC.to_datetime(now).year();
    let year = this_year - this_year % 100 + number::<i16>(year)?;
    if year > this_year + 50 { None } else { at(year) }
}

fn is_name(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// A number of only digits.
fn number<N: FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
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
            ("Wed, 25 Nov 2026 17:01:30 +0000", Some(90)),
            ("wed, 25 nov 2026 17:01:30 gmt", Some(90)),
            ("Wednesday, 25-Nov-26 17:01:30 GMT", Some(90)),
            ("Wednesday, 25-Nov-26 16:59:59 GMT", None),
            ("Wed Nov 25 17:01:30 2026", Some(90)),
            ("Sun Dec  6 17:00:00 2026", Some(11 * 86_400)),
            (" Sun Dec 6 17:00:00 2026 ", Some(11 * 86_400)),
            ("Wed, 25 Nov 2026 17:01:60 GMT", Some(119)),
            // The name of the day does not match the date.
            ("Fri, 25 Nov 2026 17:01:30 GMT", Some(90)),
            // A year of two digits that is more than 50 years ahead is in the previous century.
            ("Tuesday, 25-Nov-77 17:01:30 GMT", None),
            ("Wednesday, 25-Nov-76 17:00:00 GMT", Some(18_263 * 86_400)),
            // A zone of mail.
            ("Wed, 25 Nov 2026 09:01:30 PST", Some(90)),
            // The name of a day has only letters.
            ("7, 25 Nov 2026 17:01:30 GMT", None),
            ("7 Nov 25 17:01:30 2026", None),
            ("Wed, 32 Nov 2026 17:01:30 GMT", None),
            ("Wed, 25 Nov 2026 25:01:30 GMT", None),
            ("Wednesday, 25-Nov-26 17:01 GMT", None),
            ("Wed, 25 Nov 2026 +7:01:30 GMT", None),
            ("Wed, 25 Xyz 2026 17:01:30 GMT", None),
            ("Wed Nov 25 2026", None),
            ("18446744073709551616", Some(LONGEST_WAIT_S.into())),
            ("99999999999999999999999999999999", Some(LONGEST_WAIT_S.into())),
            ("4294967296", Some(LONGEST_WAIT_S.into())),
            ("+5", None),
            ("1 20", None),
            ("١٢", None),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_unless_it_is_far_too_long() {
        learnink_aws::install_tls_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        // As many bytes as its path says.
        let answer = |uri: axum::http::Uri| async move { vec![b' '; uri.path()[1..].parse().unwrap()] };
        let server = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, server).await });
        let http = Http::new(&origin.parse().unwrap(), 1, TIME_LIMIT);
        let read = async |bytes: usize| {
            let url = format!("{origin}/{bytes}").parse().unwrap();
            let request = Request { url, headers: Vec::new(), content_type: "text/plain", body: Vec::new() };
            http.call(request, Timestamp::UNIX_EPOCH).await.unwrap().body.len()
        };
        assert_eq!(read(60_000).await, 60_000);
        let of_a_long_one = read(10_000_000).await;
        assert!((LARGEST_ANSWER_BYTES..5_000_000).contains(&of_a_long_one), "{of_a_long_one}");
    }

    #[test]
    fn nothing_of_a_request_or_an_answer_is_printed() {
        let request = Request {
            url: "https://push.test/?token=secret".parse().unwrap(),
            headers: vec![("authorization", "Key secret".to_owned())],
            content_type: "application/json",
            body: b"secret".to_vec(),
        };
        let answer = Answer { status: 400, retry_after: None, body: b"secret".to_vec() };
        let printed = format!("{request:?} {answer:?}");
        assert_eq!(printed, "Request { body_bytes: 6, .. } Answer { status: 400, .. }");
    }
}
