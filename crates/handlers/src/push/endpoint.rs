//! `LEARNINK_PUSH=endpoint`: the customer's own HTTPS endpoint, called as a webhook.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use learnink_webhook::config::{is_invisible, listed_secrets};
use learnink_webhook::event::Notification;
use learnink_webhook::{HandlerError, IdempotencyKey, OrPermanent};
use serde::Serialize;
use svix::webhooks::Webhook;

use super::config::{Address, URL};
use super::http::{Answer, Request, Verdict};
use super::secret::{Credential, Unusable, WHERE_TO_LOOK};
use super::{custom_id, learner_id, user_id};

/// How the endpoint is called in reasons.
pub(super) const NAME: &str = "the endpoint";

/// A signing secret has this many bytes at least.
/// Source: Standard Webhooks specification, "Signature scheme".
const SHORTEST_KEY_BYTES: usize = 24;

/// The keys that requests are signed with: one, or several while the endpoint moves from one to another.
#[derive(Debug)]
pub(super) struct SigningKeys(Vec<Webhook>);

impl Credential for SigningKeys {
    const HOLDS: &'static str = "the signing secret that the endpoint verifies with, `whsec_` and 24 bytes or \
                                 more in base64, or several separated by spaces";

    fn parse(text: &str) -> Result<Self, Unusable> {
        let keys: Vec<_> = listed_secrets(text).map(signing_key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(Unusable("it is empty")) } else { Ok(Self(keys)) }
    }
}

fn signing_key(text: &str) -> Result<Webhook, Unusable> {
    if text.contains(is_invisible) {
        return Err(Unusable("it has an invisible character in it"));
    }
    let key = text.strip_prefix("whsec_").ok_or(Unusable("it does not start with `whsec_`"))?;
    let key = BASE64.decode(key).map_err(|_| Unusable("it is not base64 after `whsec_`"))?;
    if key.len() < SHORTEST_KEY_BYTES {
        return Err(Unusable("its key is shorter than 24 bytes"));
    }
    Webhook::from_bytes(key).map_err(|_| Unusable("it is empty"))
}

/// The body, whose shape the documentation of [`push`](super) promises.
#[derive(Serialize)]
struct Posted<'a> {
    title: &'a str,
    body: &'a str,
    path: &'a str,
    user_id: Option<&'a str>,
    custom_id: Option<&'a str>,
}

/// The request for one notification, signed as of `now`; none where the learner has no id at all.
pub(super) fn request(
    address: &Address,
    keys: &SigningKeys,
    one: &Notification,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<Request>, HandlerError> {
    let (user_id, custom_id) = (user_id(one)?, custom_id(one)?);
    if learner_id(one)?.is_none() {
        return Ok(None);
    }
    let body = serde_json::to_string(&Posted {
        title: one.title.expose(),
        body: one.body.expose(),
        path: &one.path,
        user_id,
        custom_id,
    })?;
    // A full stop separates the parts of what is signed. Today no key has one.
    let id = key.as_str().replace('.', "_");
    let sign = |key: &Webhook| key.sign(&id, now.as_second(), body.as_bytes());
    let signatures = keys.0.iter().map(sign).collect::<Result<Vec<_>, _>>();
    let signatures = signatures.or_permanent("the notification could not be signed")?.join(" ");
    let headers = vec![
        ("webhook-timestamp", now.as_second().to_string()),
        ("webhook-signature", signatures),
        ("webhook-id", id),
    ];
    Ok(Some(Request { url: address.url(), headers, content_type: "application/json", body }))
}

/// What the endpoint's answer means; the body does not matter.
/// Source: Standard Webhooks specification, "Delivery success and failure".
pub(super) fn judge(answer: &Answer) -> Verdict {
    match answer.status {
        200..=299 => Verdict::Sent,
        401 | 403 => Verdict::misconfigured(NAME, answer, WHERE_TO_LOOK),
        // It is not there, or moved; a wrong address must not use up the notifications.
        300..=399 | 404 | 405 | 410 => Verdict::misconfigured(NAME, answer, URL),
        status @ (400 | 413 | 422) => Verdict::Refused(format!("{NAME} refused it with {status}")),
        // A conflict with an attempt under way, a proxy's word, and whatever else does not say never.
        _ => Verdict::again(NAME, answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_with_what_surrounds_them() {
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for (stored, count) in [
            (format!("\u{feff}{one}\r\n"), 1),
            (format!("\"{one}\""), 1),
            (format!("'{one} {one}'"), 2),
            (format!("{one}\u{a0}\u{200b}{one}"), 2),
        ] {
            assert_eq!(SigningKeys::parse(&stored).unwrap().0.len(), count, "{stored:?}");
        }
        let Unusable(said) = SigningKeys::parse(&one.replace('K', "\u{200b}K")).unwrap_err();
        assert_eq!(said, "it has an invisible character in it");
        assert!(SigningKeys::parse("\u{feff}\"\"").is_err());
    }
}
