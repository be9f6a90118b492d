//! Signing secrets: what they sign, and how they are named.

use std::fmt;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use serde::{Deserialize, Serialize};
use svix::webhooks::Webhook;

/// How long LearnInk signs with the previous secret too, after a rotation.
/// Source: Svix documentation, "Rotating secrets".
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// The shortest key in bytes. Source: Standard Webhooks specification, "Signature scheme".
const SHORTEST_KEY_BYTES: usize = 24;

/// What every signing secret of LearnInk's starts with.
const PREFIX: &str = "whsec_";

/// What a fingerprint is made with; see [`Fingerprint`].
const FINGERPRINT_LABEL: &[u8] = b"learnink secret fingerprint";

/// The length of a fingerprint in bytes, which are twice as many digits.
const FINGERPRINT_BYTES: usize = 4;

/// Names a secret, so that two people can see whether they mean the same one.
///
/// Shape: 8 hexadecimal digits, the first 4 bytes of HMAC-SHA-256 with the text `learnink secret fingerprint` as key,
/// over the secret. Of a signing secret, the bytes that its base64 stands for are taken, so that `whsec_` makes no
/// difference. It does not help to find the secret: only secrets that can be used have a fingerprint, and these are
/// random and too long to be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a secret.
    pub fn of(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, FINGERPRINT_LABEL);
        let digest = hmac::sign(&key, secret);
        let mut digits = String::new();
        for byte in digest.as_ref().iter().take(FINGERPRINT_BYTES) {
            // Writing to a `String` does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        Self(digits)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signing secret of an endpoint. `Debug` hides it. Serde writes it in full, for a file that only its owner reads.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret {
    text: String,
    key: Vec<u8>,
}

/// A secret that LearnInk could not have made. It never repeats the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signing secret is not `whsec_` and the base64 of at least {SHORTEST_KEY_BYTES} bytes")]
pub struct UnusableSecret;

impl Secret {
    /// Checks a secret.
    ///
    /// # Errors
    ///
    /// [`UnusableSecret`] if it is not `whsec_` and the base64 of at least 24 bytes.
    pub fn parse(text: &str) -> Result<Self, UnusableSecret> {
        let key = text.strip_prefix(PREFIX).and_then(|key| BASE64.decode(key).ok()).ok_or(UnusableSecret)?;
        if key.len() < SHORTEST_KEY_BYTES {
            return Err(UnusableSecret);
        }
        Ok(Self { text: text.to_owned(), key })
    }

    /// The secret of 24 random bytes, which have to come from the system's source of secure randomness.
    pub fn from_random(key: [u8; SHORTEST_KEY_BYTES]) -> Self {
        Self { text: format!("{PREFIX}{}", BASE64.encode(key)), key: key.into() }
    }

    /// The secret itself, `whsec_...`: for the one person who asks to see it, never for a log or an error.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The name of the secret in front of people.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key)
    }

    /// One signature, `v1,...`.
    #[expect(clippy::expect_used, reason = "the key was checked, and the body is text")]
    fn sign(&self, id: &str, signed_at_s: i64, body: &str) -> String {
        let webhook = Webhook::from_bytes(self.key.clone()).expect("a key is not empty");
        webhook.sign(id, signed_at_s, body.as_bytes()).expect("text can be signed")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl TryFrom<String> for Secret {
    type Error = UnusableSecret;

    fn try_from(text: String) -> Result<Self, UnusableSecret> {
        Self::parse(&text)
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.text
    }
}

/// The signing secrets of an endpoint: the current one, and those that rotations have replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    current: Secret,
    /// The newest first.
    #[serde(default)]
    previous: Vec<PreviousSecret>,
}

/// A secret that a rotation has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: Secret,
    /// It signs before this time, and not from then on.
    pub until: Timestamp,
}

impl Secrets {
    pub(crate) const fn new(current: Secret) -> Self {
        Self { current, previous: Vec::new() }
    }

    /// The one that a new rotation would replace.
    pub const fn current(&self) -> &Secret {
        &self.current
    }

    /// Those that still sign beside the current one at `now`, the newest first.
    pub fn previous(&self, now: Timestamp) -> impl Iterator<Item = &PreviousSecret> {
        self.previous.iter().filter(move |previous| now < previous.until)
    }

    /// Those that sign at `now`, the newest first.
    pub fn signing(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(self.previous(now).map(|previous| &previous.secret))
    }

    pub(crate) fn rotate(&mut self, new: Secret, overlap: SignedDuration, now: Timestamp) {
        let until = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
        self.previous.retain(|previous| now < previous.until);
        let secret = std::mem::replace(&mut self.current, new);
        self.previous.insert(0, PreviousSecret { secret, until });
    }

    /// The value of the header `svix-signature`: a signature for each secret that signs at `now`.
    pub(crate) fn sign(&self, id: &str, body: &str, now: Timestamp) -> String {
        let signatures = self.signing(now).map(|secret| secret.sign(id, now.as_second(), body));
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::from_random([byte; 24])
    }

    #[test]
    fn a_secret_is_shown_only_on_purpose() {
        let secret = secret(7);
        assert_eq!(format!("{:?}", Secrets::new(secret.clone())).matches("whsec_").count(), 0);
        assert_eq!(Secret::parse(secret.reveal()), Ok(secret));
        for text in ["whsec_short", "whsec_", "", "without the prefix", "whsec_a b"] {
            assert_eq!(Secret::parse(text), Err(UnusableSecret), "{text}");
        }
    }

    #[test]
    fn both_secrets_sign_until_the_overlap_ends_the_newest_first() {
        let now: Timestamp = "2026-11-23T14:20:00Z".parse().unwrap();
        let [one, two, three] = [1, 2, 3].map(secret);
        let mut secrets = Secrets::new(one.clone());
        secrets.rotate(two.clone(), OVERLAP, now);
        let hours = |hours| now + SignedDuration::from_hours(hours);
        let signing = |secrets: &Secrets, at| secrets.signing(at).cloned().collect::<Vec<_>>();
        assert_eq!(signing(&secrets, hours(23)), [two.clone(), one]);
        assert_eq!(signing(&secrets, hours(24)), std::slice::from_ref(&two));
        secrets.rotate(three.clone(), OVERLAP, hours(24));
        assert_eq!(signing(&secrets, hours(25)), [three, two]);
    }

    #[test]
    fn svix_accepts_the_signature_of_each_secret() {
        let now: Timestamp = "2026-11-23T14:20:00Z".parse().unwrap();
        let mut secrets = Secrets::new(secret(1));
        secrets.rotate(secret(2), OVERLAP, now);
        let signature = secrets.sign("msg_a", "{}", now);
        let mut headers = HeaderMap::new();
        headers.insert("svix-id", "msg_a".parse().unwrap());
        headers.insert("svix-timestamp", now.as_second().into());
        headers.insert("svix-signature", signature.parse().unwrap());
        let accepts = |byte: u8| {
            let webhook = Webhook::new(secret(byte).reveal()).unwrap();
            webhook.verify_ignoring_timestamp(b"{}", &headers).is_ok()
        };
        assert_eq!([1, 2, 3].map(accepts), [true, true, false]);
    }
}
