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
//! to us comes back; one that the sender refuses, or whose `path` is not one, never will, and does not stop the
//! others. One log line per run counts them.

mod config;
mod endpoint;
mod fcm;
mod http;
mod onesignal;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use jiff::Timestamp;
use learnink_webhook::event::{Notification, NotificationsSent};
use learnink_webhook::{Event, HandlerError, HandlerResult, IdempotencyKey, Router};
use ring::digest::{SHA256, digest};

use config::{Address, SenderConfig};
use endpoint::SigningKeys;
use fcm::{Access, ServiceAccount, Tokens};
use http::{Answer, Http, Request, TIME_LIMIT, Verdict};
use onesignal::ApiKey;
use secret::{Credential, Secret};

pub use config::Config;

/// How the ledger remembers the handler.
const NAME: &str = "push";

/// How many notifications of one message are under way at once. `OneSignal`'s free plan takes 150 requests a
/// second, which 16 at a time with 100 ms each stay close to.
const AT_ONCE: usize = 16;

/// Who sends notifications, with its connections and what it knows us by. Cloned, these are shared. `Debug`
/// shows no secret.
#[derive(Clone)]
pub struct Push(Arc<Inner>);

struct Inner {
    sender: Sender,
    http: Http,
    max_age: Duration,
}

enum Sender {
    Endpoint { address: Address, secret: Secret<SigningKeys> },
    OneSignal { address: Address, app_id: String, secret: Secret<ApiKey> },
    Fcm { address: Address, topic_prefix: String, secret: Secret<ServiceAccount>, tokens: Tokens },
}

impl Push {
    /// The sender that `config` asks for. Nothing is read or connected to before it is needed. `aws` is how
    /// AWS Secrets Manager is reached, where the secret lies there.
    ///
    /// # Panics
    ///
    /// When the program has not installed a TLS provider.
    pub fn new(aws: &SdkConfig, config: &Config) -> Self {
        Self::with_time_limit(aws, config, TIME_LIMIT)
    }

    fn with_time_limit(aws: &SdkConfig, config: &Config, time_limit: Duration) -> Self {
        let (address, sender) = match config.sender.clone() {
            SenderConfig::Endpoint { address, secret } => {
                let secret = Secret::new(&secret, aws);
                (address.clone(), Sender::Endpoint { address, secret })
            }
            SenderConfig::OneSignal { address, app_id, secret } => {
                let secret = Secret::new(&secret, aws);
                (address.clone(), Sender::OneSignal { address, app_id, secret })
            }
            SenderConfig::Fcm { address, topic_prefix, secret } => {
                let (secret, tokens) = (Secret::new(&secret, aws), Tokens::default());
                (address.clone(), Sender::Fcm { address, topic_prefix, secret, tokens })
            }
        };
        let http = Http::new(&address, AT_ONCE, time_limit);
        Self(Arc::new(Inner { sender, http, max_age: config.max_age }))
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

/// The handler, which is not called for events that are too old.
pub fn router(push: Push) -> Router {
    let max_age = push.0.max_age;
    Router::new().on(NAME, send).max_age(NAME, max_age).with_state(push)
}

/// Sends what is not sent yet.
async fn send(event: Event<NotificationsSent>, push: Push) -> HandlerResult {
    let inner = &*push.0;
    let session = inner.sender.session(&inner.http, event.now).await?;
    let tally = Tally::default();
    let run = Run { inner, session: &session, tally: &tally, now: event.now };
    let result = event.for_each_item(&event.data.notifications, AT_ONCE, |one, key| run.send(one, key)).await;
    let [sent, unreachable, without_id, refused] =
        [&tally.sent, &tally.unreachable, &tally.without_id, &tally.refused]
            .map(|count| count.load(Ordering::Relaxed));
    tracing::info!(
        message.id = %event.id(),
        push.sent = sent,
        push.unreachable = unreachable,
        push.without_id = without_id,
        push.refused = refused,
        "handed {sent} notifications to {}",
        inner.sender.name(),
    );
    result
}

/// What became of the notifications of one run, but for those that come back: they are in its result.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicUsize,
    /// The sender knows no device of the learner's.
    unreachable: AtomicUsize,
    /// The learner has no id that the sender could know.
    without_id: AtomicUsize,
    /// The sender will never send it, or it has no path.
    refused: AtomicUsize,
}

/// What one run sends with.
#[derive(Clone, Copy)]
struct Run<'a> {
    inner: &'a Inner,
    session: &'a Session<'a>,
    tally: &'a Tally,
    now: Timestamp,
}

impl Run<'_> {
    async fn send(self, one: &Notification, key: IdempotencyKey) -> HandlerResult {
        let count = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let refuse = |reason: String| {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
            Err(HandlerError::permanent(reason))
        };
        if !is_path(&one.path) {
            let reason = "`path` is not a path: one `/` first, then no `\\` and no control characters";
            return refuse(reason.to_owned());
        }
        let Some(request) = self.session.request(one, &key, self.now)? else {
            return count(&self.tally.without_id);
        };
        let verdict = match self.inner.http.call(request, self.now).await {
            Ok(answer) => self.session.judge(&answer),
            Err(error) => Verdict::Again(format!("{} {error}", self.inner.sender.name()), None),
        };
        match verdict {
            Verdict::Sent => count(&self.tally.sent),
            Verdict::Unreachable => count(&self.tally.unreachable),
            Verdict::Refused(reason) => refuse(reason),
            Verdict::Again(reason, None) => Err(HandlerError::retryable(reason)),
            Verdict::Again(reason, Some(wait)) => Err(HandlerError::retryable(reason).retry_after(wait)),
            Verdict::Misconfigured(reason) => {
                // It may be a secret that was replaced a moment ago.
                self.inner.sender.doubt().await;
                Err(HandlerError::retryable(reason))
            }
        }
    }
}

impl Sender {
    /// The name in reasons and logs.
    const fn name(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } => endpoint::NAME,
            Self::OneSignal { .. } => onesignal::NAME,
            Self::Fcm { .. } => fcm::NAME,
        }
    }

    /// Gets ready to send: one look at the secret, and at the token, for all notifications of a message.
    async fn session(&self, http: &Http, now: Timestamp) -> Result<Session<'_>, HandlerError> {
        Ok(match self {
            Self::Endpoint { address, secret } => {
                Session::Endpoint { address, keys: held(secret, now).await? }
            }
            Self::OneSignal { address, app_id, secret } => {
                Session::OneSignal { address, app_id, key: held(secret, now).await? }
            }
            Self::Fcm { address, topic_prefix, secret, tokens } => {
                let account = held(secret, now).await?;
                let access = match tokens.get(&account, http, now).await {
                    Ok(access) => access,
                    Err(error) => {
                        secret.doubt().await;
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
            Self::Endpoint { secret, .. } => secret.doubt().await,
            Self::OneSignal { secret, .. } => secret.doubt().await,
            Self::Fcm { secret, tokens, .. } => {
                secret.doubt().await;
                tokens.doubt().await;
            }
        }
    }
}

async fn held<T: Credential>(secret: &Secret<T>, now: Timestamp) -> Result<Arc<T>, HandlerError> {
    secret.get(now).await.map_err(HandlerError::quoting)
}

/// A sender, and what it knows us by at the moment.
enum Session<'a> {
    Endpoint { address: &'a Address, keys: Arc<SigningKeys> },
    OneSignal { address: &'a Address, app_id: &'a str, key: Arc<ApiKey> },
    Fcm { address: &'a Address, topic_prefix: &'a str, access: Arc<Access> },
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
            Self::Endpoint { address, keys } => endpoint::request(address, keys, one, key, now).map(Some),
            Self::OneSignal { address, app_id, key: api_key } => {
                onesignal::request(address, app_id, api_key, one, key)
            }
            Self::Fcm { address, topic_prefix, access } => {
                fcm::request(address, topic_prefix, access, one, key)
            }
        }
    }

    /// What the sender's answer means.
    fn judge(&self, answer: &Answer) -> Verdict {
        match self {
            Self::Endpoint { .. } => endpoint::judge(answer),
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
