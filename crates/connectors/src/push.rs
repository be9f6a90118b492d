//! `notifications.sent`: the customer's own push sender gets each notification.
//!
//! LearnInk cannot push to learners who use it inside another app, so each entry of the event goes to whoever
//! can. The environment chooses:
//!
//! | `LEARNINK_PUSH` | sends through | to | `LEARNINK_PUSH_SECRET` |
//! |---|---|---|---|
//! | `endpoint` | your endpoint, `LEARNINK_PUSH_URL` | whom you find by the ids | `whsec_...`, or several |
//! | `onesignal` | `OneSignal`, app `LEARNINK_ONESIGNAL_APP_ID` | the external id `custom_id` | App API key |
//! | `fcm` | Firebase Cloud Messaging | a topic per learner | JSON of a service account's key |
//! | not set | nobody: the handler is switched off | | |
//!
//! `LEARNINK_PUSH_SECRET_ID` with the name of a secret in AWS Secrets Manager replaces the secret in the
//! environment. It is read when it is first needed, when it is five minutes old, and after the sender has not
//! accepted it. `LEARNINK_PUSH_URL` is another base address for `onesignal` and `fcm` too, such as a proxy's.
//! An event older than `LEARNINK_PUSH_MAX_AGE` hours, 24 unless set, is recorded and not sent. So is the sample
//! in `events/`: `learnink send --count 2` gives it fresh times.
//!
//! # What your endpoint gets
//!
//! One POST per notification, signed as [Standard Webhooks](https://www.standardwebhooks.com) says:
//!
//! ```text
//! webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek/push/17
//! webhook-timestamp: 1762423138
//! webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=
//!
//! {"title":"Hi Mary!","body":"Don't forget to complete your training today","path":"/learning",
//!  "user_id":"le2bB6Fi4CMgrIOIqMCJryZb9PR2","custom_id":"3c2143e4-3e8e-478a-bf0b-9dc6e284fa33"}
//! ```
//!
//! `custom_id` is `null` for a learner whom you created without one. `path` is where the `WebView` opens on a
//! tap: always a path of one `/` and more, never another site. The id is the same at every attempt; remember
//! those of a day, and a notification whose answer was lost is not shown twice. A phone number is never sent.
//!
//! Answer within five seconds: 2xx for done, 400, 413 or 422 for never, 429 or 503 for later, with `Retry-After`
//! if you know when. 401, 403, 404, 405, 410 and redirects count as our configuration's fault and come back.
//!
//! # What the topics of FCM are
//!
//! `LEARNINK_FCM_TOPIC_PREFIX`, `learner-` unless set, and `custom_id`, or `user_id` where there is none; other
//! characters than letters, digits, `-`, `_`, `.` and `~` percent-encoded. The app subscribes each learner to
//! theirs, and nobody needs to keep a registry of device tokens. **Whoever knows an id can subscribe an app of
//! yours to its topic**, so that this is for ids that cannot be guessed, as random UUIDs cannot. A topic takes
//! messages of 2048 bytes.
//!
//! # What becomes of each
//!
//! An item that was sent is recorded and not sent again. So is one that cannot reach anybody: without an id
//! that the sender knows, or to a learner who has no subscription. One whose sender is busy, broken or closed
//! to us comes back. One that the sender refuses, or that has another shape or no proper `path`, is recorded as
//! refused and does not stop the others: once they are sent, the message goes to the dead-letter queue, with
//! the positions of the refused in the reason, and a redrive tries those alone. One log line per run counts
//! them all.
//!
//! More than 100 notifications travel on in parts of 100, each a message of its own, which all execution
//! environments send side by side. The ids stay those of the whole list.

mod config;
mod endpoint;
mod fcm;
mod onesignal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use learnink_aws::{Env, HttpsUrl, Secret};
use learnink_webhook::config::ConfigError;
use learnink_webhook::event::{Notification, NotificationsSent};
use learnink_webhook::items::Item;
use learnink_webhook::{
    Event, FailureClass, HandlerError, HandlerResult, IdempotencyKey, MessageId, Permits, Router,
};
use ring::digest::{SHA256, digest};

use config::{URL, WHERE_TO_LOOK};
use fcm::{Access, ServiceAccount, Tokens};
use onesignal::ApiKey;

use crate::endpoint::{NAME as ENDPOINT, SigningKeys, judge};
use crate::http::{Answer, Http, Request, SendOutcome, TIME_LIMIT};

/// How the ledger remembers the handler.
const NAME: &str = "push";

/// How many notifications are under way at once in one execution environment, of all its messages. With the ten
/// environments that `template.yaml` allows that is 160; FCM takes 1,000 at once for a project.
/// Source: Firebase guides, "Throttling and quotas".
const AT_ONCE: usize = 16;

/// The handler; none where `LEARNINK_PUSH` is not set.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there, and never its value.
///
/// # Panics
///
/// When the program has not installed a TLS provider.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(sender) = config::sender(env)? else { return Ok(Router::off(NAME)) };
    Ok(Push::new(sender, config::max_age(env)?).router())
}

/// Who sends notifications, with its connections and what it knows us by. Cloned, these are shared. `Debug`
/// shows no secret.
#[derive(Clone)]
struct Push(Arc<Inner>);

struct Inner {
    sender: Sender,
    http: Http,
    /// For [`AT_ONCE`] requests.
    permits: Permits,
    /// One request takes this long at most.
    time_limit: Duration,
    /// Older events are recorded, and not sent.
    max_age: Duration,
}

enum Sender {
    Endpoint { address: HttpsUrl, secret: Secret<SigningKeys> },
    OneSignal { address: HttpsUrl, app_id: String, secret: Secret<ApiKey> },
    Fcm { address: HttpsUrl, topic_prefix: String, secret: Secret<ServiceAccount>, tokens: Tokens },
}

impl Push {
    /// Nothing is read or connected to before it is needed.
    fn new(sender: Sender, max_age: Duration) -> Self {
        let time_limit = match sender {
            Sender::Fcm { .. } => fcm::TIME_LIMIT,
            Sender::Endpoint { .. } | Sender::OneSignal { .. } => TIME_LIMIT,
        };
        Self::with_time_limit(sender, max_age, time_limit)
    }

    fn with_time_limit(sender: Sender, max_age: Duration, time_limit: Duration) -> Self {
        let http = Http::new(sender.address(), AT_ONCE, time_limit);
        let permits = Permits::new(AT_ONCE);
        Self(Arc::new(Inner { sender, http, permits, time_limit, max_age }))
    }

    /// The handler, which is not called for events that are too old.
    fn router(self) -> Router {
        let (max_age, time_limit) = (self.0.max_age, self.0.time_limit);
        let router = Router::new().on(NAME, send).max_age(NAME, max_age).longest_call(NAME, time_limit);
        router.with_state(self)
    }
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = self.0.sender.name();
        f.debug_struct("Push")
            .field("sender", &sender)
            .field("max_age", &self.0.max_age)
            .finish_non_exhaustive()
    }
}

/// Sends what is not sent yet.
async fn send(event: Event<NotificationsSent>, push: Push) -> HandlerResult {
    let inner = &*push.0;
    let session = inner.sender.session(&inner.http, event.now).await?;
    let tally = Tally::new(&event, inner.sender.name());
    let is_doubtful = AtomicBool::new(false);
    let run = Run { inner, session: &session, tally: &tally, is_doubtful: &is_doubtful, now: event.now };
    let notifications = &event.data.notifications;
    let result = event.for_each_item(notifications, &inner.permits, |one, key| run.send(one, key)).await;
    if is_doubtful.into_inner() {
        // Not with a permit in hand: it may wait for Google's token.
        inner.sender.doubt().await;
    }
    result
}

/// What became of the notifications of one run, but for those that come back: they are in its result. Written
/// to the log when the run ends, also where it is cut off.
#[derive(Debug)]
struct Tally<'a> {
    message: &'a MessageId,
    sender: &'static str,
    sent: AtomicUsize,
    /// The sender knows no device of the learner's.
    unreachable: AtomicUsize,
    /// The learner has no id that the sender could know.
    without_id: AtomicUsize,
    /// The sender will never send it, or it is no notification.
    refused: AtomicUsize,
}

impl<'a> Tally<'a> {
    fn new(event: &'a Event<NotificationsSent>, sender: &'static str) -> Self {
        let zero = || AtomicUsize::new(0);
        let (sent, unreachable, without_id, refused) = (zero(), zero(), zero(), zero());
        Self { message: event.id(), sender, sent, unreachable, without_id, refused }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let sent = *self.sent.get_mut();
        tracing::info!(
            message.id = %self.message,
            push.sent = sent,
            push.unreachable = *self.unreachable.get_mut(),
            push.without_id = *self.without_id.get_mut(),
            push.refused = *self.refused.get_mut(),
            "handed {sent} notifications to {}",
            self.sender,
        );
    }
}

/// What one run sends with.
#[derive(Clone, Copy)]
struct Run<'a> {
    inner: &'a Inner,
    session: &'a Session<'a>,
    tally: &'a Tally<'a>,
    /// Whether the sender has not accepted what it knows us by, which may have been replaced a moment ago.
    is_doubtful: &'a AtomicBool,
    now: Timestamp,
}

impl Run<'_> {
    async fn send(self, one: &Item<Notification>, key: IdempotencyKey) -> HandlerResult {
        let count = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let refuse = |reason: String| {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
            Err(HandlerError::permanent(reason))
        };
        let one = match one.read() {
            Ok(one) => one,
            Err(error) => return refuse(error.to_string()),
        };
        if !is_path(&one.path) {
            let reason = "`path` is not a path: one `/` first, then no `\\` and no control characters";
            return refuse(reason.to_owned());
        }
        let request = match self.session.request(one, &key, self.now) {
            Ok(Some(request)) => request,
            Ok(None) => return count(&self.tally.without_id),
            Err(error) if error.class() == FailureClass::Permanent => return refuse(error.to_string()),
            Err(error) => return Err(error),
        };
        let outcome = match self.inner.http.call(request, self.now).await {
            Ok(answer) => self.session.judge(&answer),
            Err(error) => {
                let wait = self.inner.sender.wait_without_an_answer();
                SendOutcome::Again(format!("{} {error}", self.inner.sender.name()), wait)
            }
        };
        match outcome {
            SendOutcome::Sent => count(&self.tally.sent),
            SendOutcome::Unreachable => count(&self.tally.unreachable),
            SendOutcome::Refused(reason) => refuse(reason),
            SendOutcome::Again(reason, None) => Err(HandlerError::retryable(reason)),
            SendOutcome::Again(reason, Some(wait)) => Err(HandlerError::retryable(reason).retry_after(wait)),
            SendOutcome::Misconfigured(reason) => {
                self.is_doubtful.store(true, Ordering::Relaxed);
                Err(HandlerError::retryable(reason))
            }
        }
    }
}

impl Sender {
    /// Where it listens.
    const fn address(&self) -> &HttpsUrl {
        match self {
            Self::Endpoint { address, .. } | Self::OneSignal { address, .. } | Self::Fcm { address, .. } => {
                address
            }
        }
    }

    /// The name in reasons and logs.
    const fn name(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } => ENDPOINT,
            Self::OneSignal { .. } => onesignal::NAME,
            Self::Fcm { .. } => fcm::NAME,
        }
    }

    /// The wait after a request without an answer.
    const fn wait_without_an_answer(&self) -> Option<Duration> {
        match self {
            Self::Endpoint { .. } | Self::OneSignal { .. } => None,
            Self::Fcm { .. } => Some(fcm::SHORT_WAIT),
        }
    }

    /// Gets ready to send: one look at the secret, and at the token, for all notifications of a message.
    async fn session(&self, http: &Http, now: Timestamp) -> Result<Session<'_>, HandlerError> {
        Ok(match self {
            Self::Endpoint { address, secret } => Session::Endpoint { address, keys: secret.get(now).await? },
            Self::OneSignal { address, app_id, secret } => {
                Session::OneSignal { address, app_id, key: secret.get(now).await? }
            }
            Self::Fcm { address, topic_prefix, secret, tokens } => {
                let account = secret.get(now).await?;
                let access = match tokens.get(&account, http, now).await {
                    Ok(access) => access,
                    Err(error) => {
                        secret.doubt();
                        return Err(error);
                    }
                };
                Session::Fcm { address, topic_prefix, access }
            }
        })
    }

    /// Has what we are known by looked at again by the next run.
    async fn doubt(&self) {
        match self {
            Self::Endpoint { secret, .. } => secret.doubt(),
            Self::OneSignal { secret, .. } => secret.doubt(),
            Self::Fcm { secret, tokens, .. } => {
                secret.doubt();
                tokens.doubt().await;
            }
        }
    }
}

/// A sender, and what it knows us by at the moment.
enum Session<'a> {
    Endpoint { address: &'a HttpsUrl, keys: Arc<SigningKeys> },
    OneSignal { address: &'a HttpsUrl, app_id: &'a str, key: Arc<ApiKey> },
    Fcm { address: &'a HttpsUrl, topic_prefix: &'a str, access: Arc<Access> },
}

impl Session<'_> {
    /// The request for a notification; none where the learner has no id that the sender could know.
    fn request(
        &self,
        one: &Notification,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> Result<Option<Request>, HandlerError> {
        match self {
            Self::Endpoint { address, keys } => endpoint::request(address, keys, one, key, now),
            Self::OneSignal { address, app_id, key: api_key } => {
                onesignal::request(address, app_id, api_key, one, key)
            }
            Self::Fcm { address, topic_prefix, access } => {
                fcm::request(address, topic_prefix, access, one, key)
            }
        }
    }

    /// What the sender's answer means.
    fn judge(&self, answer: &Answer) -> SendOutcome {
        match self {
            Self::Endpoint { .. } => judge(answer, WHERE_TO_LOOK, URL),
            Self::OneSignal { .. } => onesignal::judge(answer),
            Self::Fcm { .. } => fcm::judge(answer),
        }
    }
}

/// Whether a path stays within the app that opens it. Browsers take `//` and `/\` for the start of another
/// host, and skip tabs and line feeds between the two.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("//") && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// The id of a learner: the one in the customer's own system, or LearnInk's where there is none. Permanent, where
/// that is of another kind: the learner may be known by it.
fn learner_id(one: &Notification) -> Result<Option<&str>, HandlerError> {
    match some_id(custom_id(one)?) {
        Some(id) => Ok(Some(id)),
        None => Ok(some_id(user_id(one)?)),
    }
}

fn custom_id(one: &Notification) -> Result<Option<&str>, HandlerError> {
    one.custom_id.read("custom_id")
}

fn user_id(one: &Notification) -> Result<Option<&str>, HandlerError> {
    one.user_id.read("user_id")
}

/// An id that somebody may be known by.
fn some_id(id: Option<&str>) -> Option<&str> {
    id.filter(|id| !id.trim().is_empty())
}

/// A UUID that is the same for the same key: of the key's SHA-256, in the shape of version 4, which is the one
/// that every check of a UUID takes.
fn uuid_of(key: &IdempotencyKey) -> String {
    let hash = digest(&SHA256, key.as_str().as_bytes());
    let bits = u128::from_be_bytes(hash.as_ref().first_chunk().copied().unwrap_or_default());
    let bits = bits & !(0xF << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let part = |from: u32, bits_long: u32| (bits >> from) & ((1 << bits_long) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 16),
        part(48, 16),
        part(0, 48)
    )
}
