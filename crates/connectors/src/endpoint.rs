//! An HTTPS endpoint of the customer's, called as a webhook: signed by the scheme of
//! [Standard Webhooks](https://www.standardwebhooks.com).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use learnink_aws::{Credential, Unusable};
use learnink_webhook::config::{is_invisible, listed_secrets};
use learnink_webhook::{HandlerError, IdempotencyKey, OrPermanent};
use reqwest::Url;
use svix::webhooks::Webhook;

use crate::http::{Answer, Request, SendOutcome};

/// The endpoint's name in reasons.
pub(crate) const NAME: &str = "the endpoint";

/// A signing secret has this many bytes at least.
/// Source: Standard Webhooks specification, "Signature scheme".
const SHORTEST_KEY_BYTES: usize = 24;

/// The keys that requests are signed with: one, or several while the endpoint rotates its key.
#[derive(Debug)]
pub(crate) struct SigningKeys(Vec<Webhook>);

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
    // Secrets Manager makes random ones without the prefix.
    let key = text.strip_prefix("whsec_").unwrap_or(text);
    let key = BASE64.decode(key).map_err(|_| Unusable("it is not `whsec_` and base64"))?;
    if key.len() < SHORTEST_KEY_BYTES {
        return Err(Unusable("its key is shorter than 24 bytes"));
    }
    Webhook::from_bytes(key).map_err(|_| Unusable("it is empty"))
}

impl SigningKeys {
    /// A signed POST of this JSON, as of `now`. Its `webhook-id` is the key, the same at every attempt.
    pub(crate) fn signed(
        &self,
        url: Url,
        key: &IdempotencyKey,
        now: Timestamp,
        body: Vec<u8>,
    ) -> Result<Request, HandlerError> {
        // A full stop separates the parts of the signed content. Today keys do not have one.
        let id = key.as_str().replace('.', "_");
        let sign = |key: &Webhook| key.sign(&id, now.as_second(), &body);
        let signatures = self.0.iter().map(sign).collect::<Result<Vec<_>, _>>();
        let signatures = signatures.or_permanent("the request could not be signed")?.join(" ");
        let headers = vec![
            ("webhook-timestamp", now.as_second().to_string()),
            ("webhook-signature", signatures),
            ("webhook-id", id),
        ];
        Ok(Request { url, headers, content_type: "application/json", body })
    }
}

/// What the endpoint's answer means; the body does not matter. `secret` and `url` name the variables to check.
/// Source: Standard Webhooks specification, "Delivery success and failure".
pub(crate) fn judge(answer: &Answer, secret: &str, url: &str) -> SendOutcome {
    match answer.status {
        200..=299 => SendOutcome::Sent,
        401 | 403 => SendOutcome::misconfigured(NAME, answer, secret),
        // The endpoint does not exist, or moved; a wrong address must not use up the deliveries.
        300..=399 | 404 | 405 | 410 => SendOutcome::misconfigured(NAME, answer, url),
        status @ (400 | 413 | 422) => SendOutcome::Refused(format!("{NAME} refused it with {status}")),
        // A conflict with an attempt in flight, a proxy's answer, and any other status that does not mean never.
        _ => SendOutcome::again(NAME, answer),
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
