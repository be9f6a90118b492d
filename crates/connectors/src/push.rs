//! `notifications.sent`: the customer's own push sender gets each notification.
//!
//! LearnInk cannot push to learners who use it inside another app, so each entry of the event goes to a sender
//! that can. The environment chooses it:
//!
//! | `LEARNINK_PUSH` | sends through | to | `LEARNINK_PUSH_SECRET` |
//! |---|---|---|---|
//! | `endpoint` | your endpoint, `LEARNINK_PUSH_URL` | the learner, by id | `whsec_...`, or several |
//! | `onesignal` | `OneSignal`, app `LEARNINK_ONESIGNAL_APP_ID` | the external id `custom_id` | App API key |
//! | `fcm` | Firebase Cloud Messaging | a topic per learner | JSON of a service account's key |
//! | not set | nobody: the handler is switched off | | |
//!
//! `LEARNINK_PUSH_SECRET_ID` with the name of a secret in AWS Secrets Manager replaces the secret in the
//! environment. It is read when it is first needed, again when it is five minutes old, and after the sender did
//! not accept it. `LEARNINK_PUSH_URL` is another base address for `onesignal` and `fcm` too, such as a proxy's. An
//! event older than `LEARNINK_PUSH_MAX_AGE` hours (24 by default) is recorded and not sent. That includes the
//! sample in `events/`: `learnink send --count 2` gives it fresh times.
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
//! `custom_id` is `null` for a learner whom you created without one. `path` is where the `WebView` opens on a tap:
//! always a path that begins with a single `/`, never another site. The id is the same at every attempt and
//! after a redrive: remember ids for as long as you may redrive, up to 14 days, so that a notification whose answer
//! was lost is not shown twice. A replay window sends under new ids. A phone number is never sent.
//!
//! Answer within five seconds: 2xx for done, 400, 413 or 422 for never, 429 or 503 for later, with `Retry-After`
//! if you know when. 401, 403, 404, 405, 410 and redirects count as a mistake in our configuration, and are
//! retried.
//!
//! # The topics of FCM
//!
//! A topic is `LEARNINK_FCM_TOPIC_PREFIX` (`learner-` by default), then `custom_id`, or `user_id` if there is
//! none; characters other than letters, digits, `-`, `_`, `.` and `~` are percent-encoded. The app subscribes each
//! learner to their own topic, so that no registry of device tokens is needed. **Anybody who knows an id can
//! subscribe an app of yours to its topic**, so use this only for ids that cannot be guessed, such as random
//! UUIDs. A topic takes messages of 2048 bytes.
//!
//! # The result of each notification
//!
//! An item that was sent is recorded and not sent again. So is an item that cannot reach anybody: it has no id
//! that the sender knows, or its learner has no subscription. If the sender is busy, broken or denies us access,
//! the item is retried. An item that the sender refuses, or that has another shape or no valid `path`, is recorded
//! as refused and does not stop the others: once they are sent, the message goes to the dead-letter queue, with
//! the positions of the refused items in the reason, and a redrive tries only those. One log line per run counts
//! them all.
//!
//! A list of more than 100 notifications is cut into parts of 100, each a message of its own, which all execution
//! environments send concurrently. The ids stay those of the whole list.

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
use learnink_aws::{Credential, Env, HttpsUrl, Secret, Unusable};
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
use crate::http::{Answer, Http, Request, SendOutcome, TIME_LIMIT, retry_later};

/// The handler's name in the ledger.
const NAME: &str = "push";

/// How many notifications are in flight at once in one execution environment, over all its messages. With the ten
/// environments that `template.yaml` allows, that is 160; FCM accepts 1,000 at once for a project.
/// Source: Firebase guides, "Throttling and quotas".
const AT_ONCE: usize = 16;

/// The handler; none if `LEARNINK_PUSH` is not set.
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

/// A secret that a sender cannot use. It never repeats the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The sender reads it otherwise.
    #[error("{problem}; it has to be {holds}")]
    Unusable {
        /// What is wrong with it.
        problem: Unusable,
        /// What belongs there.
        holds: &'static str,
    },
    /// There is no such sender.
    #[error("there is no push sender of this name; choose `endpoint`, `onesignal` or `fcm`")]
    UnknownSender,
}

/// Checks a secret as the sender reads it, which is a value of `LEARNINK_PUSH`. The secret of
/// [`forward`](crate::forward) is checked as that of `endpoint`.
///
/// # Errors
///
/// [`SecretError`] with what is wrong, and what belongs there.
pub fn check_secret(sender: &str, secret: &str) -> Result<(), SecretError> {
    fn check<T: Credential>(secret: &str) -> Result<(), SecretError> {
        let unusable = |problem| SecretError::Unusable { problem, holds: T::HOLDS };
        T::parse(secret).map(drop).map_err(unusable)
    }
    match sender {
        "endpoint" => check::<SigningKeys>(secret),
        "onesignal" => check::<ApiKey>(secret),
        "fcm" => check::<ServiceAccount>(secret),
        _ => Err(SecretError::UnknownSender),
    }
}

/// The sender of notifications, with its connections and our credentials. Cloned, these are shared. `Debug` does
/// not show secrets.
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
    /// Secrets and connections are used only when they are needed.
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

    /// The handler, which skips events that are too old.
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
        // Not while holding a permit: it may wait for Google's token.
        inner.sender.doubt().await;
    }
    result
}

/// The counts of one run's notifications, except those to be retried, which are in its result. Logged when the run
/// ends, even if it is cut off.
#[derive(Debug)]
struct Tally<'a> {
    message: &'a MessageId,
    sender: &'static str,
    sent: AtomicUsize,
    /// The sender does not know a device of the learner.
    unreachable: AtomicUsize,
    /// The learner has no id that the sender could know.
    without_id: AtomicUsize,
    /// The sender will never send it, or it is not a notification.
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

/// The context of one run.
#[derive(Clone, Copy)]
struct Run<'a> {
    inner: &'a Inner,
    session: &'a Session<'a>,
    tally: &'a Tally<'a>,
    /// Whether the sender did not accept our credentials, which may have been replaced a moment ago.
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
            SendOutcome::NoDevice => count(&self.tally.unreachable),
            SendOutcome::Refused(reason) => refuse(reason),
            SendOutcome::Again(reason, wait) => Err(retry_later(reason, wait)),
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

    /// Prepares to send: reads the secret and the token once for all notifications of a message.
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

    /// Makes the next run read our credentials again.
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

/// A sender, with our current credentials for it.
enum Session<'a> {
    Endpoint { address: &'a HttpsUrl, keys: Arc<SigningKeys> },
    OneSignal { address: &'a HttpsUrl, app_id: &'a str, key: Arc<ApiKey> },
    Fcm { address: &'a HttpsUrl, topic_prefix: &'a str, access: Arc<Access> },
}

impl Session<'_> {
    /// The request for a notification; `None` if the learner has no id that the sender could know.
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

/// Whether a path stays within the app that opens it. Browsers read `//` and `/\` as the start of another host,
/// and skip tabs and line feeds between the two.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("//") && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// The id of a learner: the one in the customer's own system, or LearnInk's if there is none. Permanent if the
/// former is of another kind: the sender may know the learner by it.
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

/// An id, unless it is empty.
fn some_id(id: Option<&str>) -> Option<&str> {
    id.filter(|id| !id.trim().is_empty())
}

/// A UUID that is the same for the same key: from the key's SHA-256, in the shape of version 4, which every check
/// of a UUID accepts.
fn uuid_of(key: &IdempotencyKey) -> String {
    let hash = digest(&SHA256, key.as_str().as_bytes());
    let bytes = hash.as_ref().first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
