//! Verification: the only way to a [`VerifiedWebhook`].
//!
//! `svix` does the cryptography. This module adds the rules that it leaves open: which headers, which ids, the
//! format of a time, the number of signatures.

use std::{fmt, iter};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use learnink_webhook::config::{is_invisible, listed_secrets};
use learnink_webhook::message::{Message, MessageId};
use svix::webhooks::{Webhook, WebhookError};

use crate::request::{SVIX_HEADERS, WEBHOOK_HEADERS};

/// How far the signed time may be from ours, in seconds, either way.
/// Source: Standard Webhooks specification, "Verifying the timestamp"; Svix uses the same.
pub const TOLERANCE_S: i64 = 5 * 60;

/// More signatures than this are refused. A rotation needs two.
pub const MOST_SIGNATURES: usize = 16;

/// The shortest key in bytes. Source: Standard Webhooks specification, "Signature scheme".
pub const SHORTEST_KEY_BYTES: usize = 24;

/// Checks that a request was signed with one of the signing secrets.
pub struct Verifier {
    secrets: Vec<Secret>,
}

struct Secret {
    key: Vec<u8>,
    slot: SecretSlot,
    webhook: Webhook,
}

/// Which of the configured secrets a signature was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretSlot {
    /// The first: the one in use.
    Current,
    /// Any other: a secret that a rotation replaces.
    Previous,
}

impl SecretSlot {
    /// The slot's name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// A signing secret that cannot be used. It never repeats the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing but white space.
    #[error("the signing secret is empty; it starts with `whsec_`")]
    Empty,
    /// A public key, which verifies another kind of signature.
    #[error(
        "this is a public key (`whpk_`), for signatures that are not checked here; ask LearnInk to sign with HMAC, \
         and for the signing secret, which starts with `whsec_`"
    )]
    PublicKey,
    /// A private key, with which the sender makes another kind of signature.
    #[error(
        "this is the sender's private key (`whsk_`), which nobody else may have; tell LearnInk to replace it and to \
         sign with HMAC, and ask for the signing secret, which starts with `whsec_`"
    )]
    PrivateKey,
    /// A JSON object, as the console of Secrets Manager makes of key and value.
    #[error("the signing secret is a JSON object; store `whsec_...` alone, as plain text")]
    Json,
    /// It begins with a version.
    #[error("the signing secret has a version in front; leave out `v1,`")]
    Versioned,
    /// It contains an invisible character.
    #[error("the signing secret has an invisible character in it; copy it again, as plain text")]
    Invisible,
    /// Not standard base64 with padding.
    #[error("the signing secret is not base64, with or without `whsec_` in front; copy it again")]
    NotBase64,
    /// Too short to be safe.
    #[error("the signing secret has a key of {bytes} bytes, fewer than {SHORTEST_KEY_BYTES}")]
    TooShort {
        /// The key's length.
        bytes: usize,
    },
}

/// Why a request is not accepted as genuine. The sender does not learn the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One of the three headers is missing, or they are from both families.
    #[error("a signature header is missing")]
    MissingHeader,
    /// A header occurs twice, is not text, or has the wrong format.
    #[error("a signature header is malformed")]
    MalformedHeader,
    /// The id cannot be an idempotency key.
    #[error("the message id is unusable")]
    UnusableId,
    /// Signed more than five minutes ago.
    #[error("the signature is too old")]
    TimestampTooOld,
    /// Signed more than five minutes from now.
    #[error("the signature is from the future")]
    TimestampInFuture,
    /// More signatures than a rotation needs.
    #[error("there are too many signatures")]
    TooManySignatures,
    /// Only signatures of versions other than `v1`.
    #[error("no signature has a version that is understood")]
    UnsupportedVersion,
    /// The gateway marked the body as base64 and it is not, so the signed bytes are unknown.
    #[error("the body is not base64")]
    BodyNotBase64,
    /// The body is not UTF-8, which no signature covers.
    #[error("the body is not UTF-8")]
    BodyNotUtf8,
    /// No signature was made with a secret of ours over this id, time and body.
    #[error("no signature matches")]
    NoMatchingSignature,
}

impl Refusal {
    /// The reason's name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MissingHeader => "missing_header",
            Self::MalformedHeader => "malformed_header",
            Self::UnusableId => "unusable_id",
            Self::TimestampTooOld => "timestamp_too_old",
            Self::TimestampInFuture => "timestamp_in_future",
            Self::TooManySignatures => "too_many_signatures",
            Self::UnsupportedVersion => "unsupported_version",
            Self::BodyNotBase64 => "body_not_base64",
            Self::BodyNotUtf8 => "body_not_utf8",
            Self::NoMatchingSignature => "no_matching_signature",
        }
    }
}

/// A webhook with a valid signature. Only [`Verifier::verify`] makes one.
pub struct VerifiedWebhook {
    id: MessageId,
    signed_at_s: i64,
    signature: String,
    body: Vec<u8>,
    secret: SecretSlot,
    has_unknown_signature: bool,
}

impl VerifiedWebhook {
    /// The message id.
    pub const fn id(&self) -> &MessageId {
        &self.id
    }

    /// The payload exactly as it was signed.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Unix seconds at which this delivery was signed.
    pub const fn signed_at_s(&self) -> i64 {
        self.signed_at_s
    }

    /// Which secret it was signed with.
    pub const fn secret(&self) -> SecretSlot {
        self.secret
    }

    /// Whether its newest signature is of an unknown secret, or of an unsupported version: the sender has rotated,
    /// and will sign only with the new secret once the rotation is over.
    pub const fn has_unknown_signature(&self) -> bool {
        self.has_unknown_signature
    }

    /// The message for the queue.
    pub fn into_message(self, received_at: Timestamp, event_type: Option<String>) -> Message {
        Message {
            id: self.id,
            signed_at_s: self.signed_at_s,
            signature: self.signature,
            received_at,
            event_type,
            body: self.body,
            part: None,
            window: None,
        }
    }
}

impl Verifier {
    /// A verifier for one signing secret or several, separated by white space: the current one first, then those
    /// that a rotation replaces. Quotes and invisible characters around them are ignored.
    ///
    /// # Errors
    ///
    /// [`SecretError`] for the first that cannot be used.
    pub fn new(secrets: &str) -> Result<Self, SecretError> {
        let slots = iter::once(SecretSlot::Current).chain(iter::repeat(SecretSlot::Previous));
        let secrets = listed_secrets(secrets).zip(slots);
        let secrets: Vec<_> =
            secrets.map(|(secret, slot)| parse_secret(secret, slot)).collect::<Result<_, _>>()?;
        if secrets.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self { secrets })
    }

    /// The same, and those of `previous` that it does not have: replaced secrets that senders may still sign with.
    #[must_use]
    pub fn and_previous(mut self, previous: &Self) -> Self {
        for secret in &previous.secrets {
            if self.secrets.iter().all(|known| known.key != secret.key) {
                self.secrets.push(secret.as_previous());
            }
        }
        self
    }

    /// The same secrets, all of them replaced by a rotation.
    #[must_use]
    pub fn as_previous(&self) -> Self {
        Self { secrets: self.secrets.iter().map(Secret::as_previous).collect() }
    }

    /// Checks headers, time and signature, in that order. Other headers than those of the signature are ignored.
    ///
    /// # Errors
    ///
    /// [`Unverified`] with the first rule that is broken, and with the body, which other secrets may still prove.
    pub fn verify(
        &self,
        headers: &HeaderMap,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<VerifiedWebhook, Unverified> {
        let check = || {
            let [id, timestamp, signature] = signed_headers(headers)?;
            let message_id = MessageId::parse(id).map_err(|_| Refusal::UnusableId)?;
            let signed_at_s = signed_at_s(timestamp)?;
            check_age(signed_at_s, now)?;
            let matching = self.matching_secret([id, timestamp, signature], &body)?;
            Ok((message_id, signed_at_s, signature.to_owned(), matching))
        };
        match check() {
            Ok((id, signed_at_s, signature, (secret, has_unknown_signature))) => {
                Ok(VerifiedWebhook { id, signed_at_s, signature, body, secret, has_unknown_signature })
            }
            Err(refusal) => Err(Unverified { refusal, body }),
        }
    }

    /// The secret that the body was signed with, and whether its newest signature is of another.
    fn matching_secret(&self, headers: [&str; 3], body: &[u8]) -> Result<(SecretSlot, bool), Refusal> {
        let [id, timestamp, signature] = headers;
        let Newest { newest, is_first } = newest_signature(signature)?;
        let matching = |signatures| self.secret_of([id, timestamp, signatures], body);
        match matching(newest) {
            Err(Refusal::NoMatchingSignature) if newest != signature => Ok((matching(signature)?, true)),
            secret => Ok((secret?, !is_first)),
        }
    }

    fn secret_of(&self, headers: [&str; 3], body: &[u8]) -> Result<SecretSlot, Refusal> {
        let mut signed = HeaderMap::with_capacity(SVIX_HEADERS.len());
        for (name, value) in SVIX_HEADERS.into_iter().zip(headers) {
            signed.insert(name, HeaderValue::from_str(value).map_err(|_| Refusal::MalformedHeader)?);
        }
        for secret in &self.secrets {
            // The time has been checked against `now`.
            match secret.webhook.verify_ignoring_timestamp(body, &signed) {
                Ok(()) => return Ok(secret.slot),
                Err(WebhookError::InvalidPayload) => return Err(Refusal::BodyNotUtf8),
                Err(_) => {}
            }
        }
        Err(Refusal::NoMatchingSignature)
    }
}

/// A request that was not verified.
#[derive(PartialEq, Eq)]
pub struct Unverified {
    /// Why not.
    pub refusal: Refusal,
    /// The payload as it was received.
    pub body: Vec<u8>,
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unverified({:?})", self.refusal)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} secrets)", self.secrets.len())
    }
}

fn parse_secret(secret: &str, slot: SecretSlot) -> Result<Secret, SecretError> {
    if secret.starts_with('{') {
        return Err(SecretError::Json);
    }
    if secret.starts_with("whpk_") {
        return Err(SecretError::PublicKey);
    }
    if secret.starts_with("whsk_") {
        return Err(SecretError::PrivateKey);
    }
    if secret.contains(is_invisible) {
        return Err(SecretError::Invisible);
    }
    if secret.starts_with("v1,") {
        return Err(SecretError::Versioned);
    }
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    let key = BASE64.decode(encoded).map_err(|_| SecretError::NotBase64)?;
    match key.len() {
        0 => Err(SecretError::Empty),
        bytes @ 1..SHORTEST_KEY_BYTES => Err(SecretError::TooShort { bytes }),
        _ => Ok(Secret::new(key, slot)),
    }
}

impl Secret {
    #[expect(clippy::expect_used, reason = "`svix` refuses an empty key only, and none gets this far")]
    fn new(key: Vec<u8>, slot: SecretSlot) -> Self {
        let webhook = Webhook::from_bytes(key.clone()).expect("the key is not empty");
        Self { key, slot, webhook }
    }

    fn as_previous(&self) -> Self {
        Self::new(self.key.clone(), SecretSlot::Previous)
    }
}

/// The id that a request claims, if it looks like Svix's own: `msg_` and letters, digits, `_` or `-`. It is not
/// proven, and only for finding a refused request. A phone number or a name in its place does not reach the log.
pub fn claimed_id(headers: &HeaderMap) -> Option<MessageId> {
    let [name, ..] = signature_header_names(headers);
    let id = single(headers, name).ok()?;
    let is_of_one = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    id.strip_prefix("msg_").filter(|rest| rest.bytes().all(is_of_one))?;
    MessageId::parse(id).ok()
}

/// The id, the time and the signatures, each from one header.
///
/// # Errors
///
/// [`Refusal::MissingHeader`] or [`Refusal::MalformedHeader`] for the first that is missing, or occurs twice.
pub fn signed_headers(headers: &HeaderMap) -> Result<[&str; 3], Refusal> {
    let [id, timestamp, signature] = signature_header_names(headers);
    Ok([single(headers, id)?, single(headers, timestamp)?, single(headers, signature)?])
}

/// The names of the signature headers: `svix-*` if any of them is present, else `webhook-*`. A request cannot mix
/// the two.
pub fn signature_header_names(headers: &HeaderMap) -> [&'static str; 3] {
    if SVIX_HEADERS.iter().any(|name| headers.contains_key(*name)) { SVIX_HEADERS } else { WEBHOOK_HEADERS }
}

fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Refusal::MissingHeader)?;
    if values.next().is_some() {
        return Err(Refusal::MalformedHeader);
    }
    value.to_str().map_err(|_| Refusal::MalformedHeader)
}

/// The signed time in Unix seconds: plain digits without a leading zero.
///
/// # Errors
///
/// [`Refusal::MalformedHeader`] for anything else.
pub fn signed_at_s(timestamp: &str) -> Result<i64, Refusal> {
    let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || timestamp.starts_with('0') {
        return Err(Refusal::MalformedHeader);
    }
    timestamp.parse().map_err(|_| Refusal::MalformedHeader)
}

/// Checks that a signed time is within [`TOLERANCE_S`] of `now`.
///
/// # Errors
///
/// [`Refusal::TimestampTooOld`] or [`Refusal::TimestampInFuture`].
pub fn check_age(signed_at_s: i64, now: Timestamp) -> Result<(), Refusal> {
    match now.as_second().saturating_sub(signed_at_s) {
        age if age > TOLERANCE_S => Err(Refusal::TimestampTooOld),
        age if age < -TOLERANCE_S => Err(Refusal::TimestampInFuture),
        _ => Ok(()),
    }
}

/// The newest of a request's signatures that can be checked.
struct Newest<'a> {
    newest: &'a str,
    /// Whether it is the newest of all: no signature of another version comes before it.
    is_first: bool,
}

/// The first signature of version 1, if all are printable and not too many. During a rotation, Svix signs with the
/// new secret first, then with those that it replaces. Source: `svix-server`, `valid_signing_keys`.
fn newest_signature(signatures: &str) -> Result<Newest<'_>, Refusal> {
    if !signatures.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(Refusal::MalformedHeader);
    }
    let listed = || signatures.split(' ').filter(|signature| !signature.is_empty());
    if listed().nth(MOST_SIGNATURES).is_some() {
        return Err(Refusal::TooManySignatures);
    }
    let is_understood = |signature: &&str| signature.starts_with("v1,");
    let first = listed().next().ok_or(Refusal::MalformedHeader)?;
    let newest = listed().find(is_understood).ok_or(Refusal::UnsupportedVersion)?;
    Ok(Newest { newest, is_first: is_understood(&first) })
}

#[cfg(test)]
mod tests;
