//! Any event: posted to your own HTTPS endpoint, in any language.
//!
//! For code that is not Rust: the endpoint gets verified, deduplicated events, with retries, a circuit breaker and
//! dead letters. Each is a webhook signed by the scheme of [Standard Webhooks](https://www.standardwebhooks.com),
//! with a secret of yours, so that Svix's packages verify it:
//!
//! ```text
//! POST LEARNINK_FORWARD_URL
//! content-type: application/json
//! webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek/forward
//! webhook-timestamp: 1762423138
//! webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=
//!
//! {"object":"event","type":"user.course.started","api_version":"2022-11-15","data":{…},"timestamp":"…"}
//! ```
//!
//! The body is the one that LearnInk signed, byte by byte, including personal data. Delivery is at least once: an
//! answer that comes too late, or a crash before it is recorded, repeats an event. The id is the same at every
//! attempt and after a redrive: remember ids for as long as you may redrive, up to 14 days. A replay window sends an
//! event under a new id.
//!
//! Answer within five seconds: 2xx for done, 400, 413 or 422 for never, 429 or 503 for later, with `Retry-After`
//! if you know when. 401, 403, 404, 405, 410 and redirects count as a mistake in our configuration: the event is
//! retried.
//!
//! | variable | holds |
//! |---|---|
//! | `LEARNINK_FORWARD_URL` | the endpoint's address; if it is not set, the handler is switched off |
//! | `LEARNINK_FORWARD_SECRET` | the signing secret, `whsec_...`, or several separated by spaces |
//! | `LEARNINK_FORWARD_SECRET_ID` | in its place, the name of a secret in AWS Secrets Manager |
//! | `LEARNINK_FORWARD_TYPES` | the event types to forward, separated by commas; every event if it is not set |
//!
//! An event whose type is in that list counts as known, and [`unknown`](crate::unknown) does not keep it, unless
//! another handler takes the type only in another version. Without a list of types, every event is forwarded, and events of a type without another handler are also kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use learnink_aws::secret::LONGEST_WAIT;
use learnink_aws::{Env, HttpsUrl, Secret};
use learnink_webhook::config::ConfigError;
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};

use crate::endpoint::{self, SigningKeys};
use crate::http::{Http, SendOutcome, TIME_LIMIT, retry_later};

/// The handler's name in the ledger.
const NAME: &str = "forward";

/// The variable that switches the handler on: the endpoint's address.
const URL: &str = "LEARNINK_FORWARD_URL";
/// The variable that holds the signing secret.
const SECRET: &str = "LEARNINK_FORWARD_SECRET";
/// The variable that names the secret in AWS Secrets Manager.
const SECRET_ID: &str = "LEARNINK_FORWARD_SECRET_ID";
/// The variable that holds the event types.
const TYPES: &str = "LEARNINK_FORWARD_TYPES";
/// Where to look when the endpoint does not accept a signature.
const WHERE_TO_LOOK: &str = "LEARNINK_FORWARD_SECRET, or the secret that LEARNINK_FORWARD_SECRET_ID names";

/// A batch has at most this many messages, and each is one request.
const AT_ONCE: usize = 10;

/// The handler; none if `LEARNINK_FORWARD_URL` is not set.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there.
///
/// # Panics
///
/// When the program has not installed a TLS provider.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let Some(url) = env.optional::<HttpsUrl>(URL)? else { return off(env) };
    let http = Http::new(&url, AT_ONCE, TIME_LIMIT);
    let endpoint = Endpoint { url, http, secret: env.secret(SECRET)? };
    let router = match types(env)? {
        None => Router::new().on_any(NAME, forward),
        Some(types) => Router::new().on_types(NAME, types, forward),
    };
    // Before the request may come a reading of the secret.
    Ok(router.longest_call(NAME, TIME_LIMIT + LONGEST_WAIT).with_state(Arc::new(endpoint)))
}

/// Without an address, the other variables are an error: otherwise somebody would wait for events in vain.
fn off(env: &Env) -> Result<Router, ConfigError> {
    match [SECRET, SECRET_ID, TYPES].into_iter().find(|name| env.text(name).is_some()) {
        Some(name) => {
            let problem =
                format!("there is no endpoint to use it; set {URL} to its address, or leave {name} empty");
            Err(ConfigError::unusable(name, problem))
        }
        None => Ok(Router::off(NAME)),
    }
}

/// The named types; `None` for all.
fn types(env: &Env) -> Result<Option<BTreeSet<String>>, ConfigError> {
    let Some(text) = env.text(TYPES) else { return Ok(None) };
    // As Svix defines it. Source: Svix API reference, "Event Type".
    let is_of_a_type = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let names = || text.split(',').map(str::trim);
    if names().all(|name| !name.is_empty() && name.bytes().all(is_of_a_type)) {
        return Ok(Some(names().map(str::to_owned).collect()));
    }
    let problem = "it must be event types separated by commas, such as user.course.started,notifications.sent; leave it \
                   empty for every event";
    Err(ConfigError::unusable(TYPES, problem))
}

/// The endpoint, with its connections. `Debug` shows only its host.
#[derive(Debug)]
struct Endpoint {
    url: HttpsUrl,
    http: Http,
    secret: Secret<SigningKeys>,
}

/// Posts an event.
async fn forward(event: Event, endpoint: Arc<Endpoint>) -> HandlerResult {
    if !event.envelope.is_event() {
        return Ok(());
    }
    let keys = endpoint.secret.get(event.now).await?;
    let request = keys.signed(endpoint.url.url(), &event.key, event.now, event.message.body.clone())?;
    let outcome = match endpoint.http.call(request, event.now).await {
        Ok(answer) => endpoint::judge(&answer, WHERE_TO_LOOK, URL),
        Err(error) => SendOutcome::Again(format!("{} {error}", endpoint::NAME), None),
    };
    match outcome {
        SendOutcome::Sent | SendOutcome::NoDevice => Ok(()),
        SendOutcome::Refused(reason) => Err(HandlerError::permanent(reason)),
        SendOutcome::Again(reason, wait) => Err(retry_later(reason, wait)),
        SendOutcome::Misconfigured(reason) => {
            endpoint.secret.doubt();
            Err(HandlerError::retryable(reason))
        }
    }
}

#[cfg(test)]
mod tests;
