//! A message as SQS carries it.
//!
//! The body is the payload as it was signed, so that a person can read the message in the console; attributes
//! carry the rest. A body that is large, or that SQS cannot carry as text, is sent as gzip in base64. Only a
//! message that is still over the limit of SQS is compressed again, with more effort. It is refused only if it
//! does not fit even then.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::{Message, MessageId, Part};
use crate::error::FailureClass;
use crate::idempotency::is_window_id;

/// The encoding of a webhook.
pub const FORMAT_VERSION: &str = "1";

/// The encoding of a part of a webhook's list: a webhook's, with the attribute `part` and without `event-type`. It
/// has a version of its own because a consumer that does not know parts would mistake one for the whole webhook,
/// find that done, and delete it. Such a consumer leaves an unknown version on the queue.
pub const PART_FORMAT_VERSION: &str = "part-1";

/// The encoding of a webhook that an operator sends again under a replay window: a webhook's, with the attribute
/// `replay-window` and without `event-type`. It has a version of its own because a consumer that does not know such
/// windows would take it for a duplicate, or run handlers that nobody asked for.
pub const REPLAY_FORMAT_VERSION: &str = "replay-1";

/// SQS refuses a message whose body and attributes (names, types and values) are larger: 1 MiB.
/// Source: Amazon SQS developer guide, "Amazon SQS message quotas".
const SQS_LIMIT_BYTES: usize = 1024 * 1024;

/// Reserved for the reason, in case the message is dead-lettered.
const RESERVED_BYTES: usize = 2 * 1024;

/// The largest message that is put on the queue.
pub const LARGEST_MESSAGE_BYTES: usize = SQS_LIMIT_BYTES - RESERVED_BYTES;

/// A body is at most as large as Lambda's largest event: 6 MB. A compressed body that claims to be larger was not
/// written by a receiver.
/// Source: AWS Lambda developer guide, "Lambda quotas".
pub const LARGEST_BODY_BYTES: usize = 6 * 1024 * 1024;

/// SQS bills every started 64 KiB as one request, so a message over that is compressed.
/// Source: Amazon SQS pricing.
const PLAIN_UP_TO_BYTES: usize = 64 * 1024;

/// A longer event type is left out of the attributes: it is for people and for filters, and the body has it
/// anyway.
pub const LONGEST_EVENT_TYPE_BYTES: usize = 256;

/// The level of compression for a body that does not fit at the fastest one. It is up to a third smaller, and takes
/// a quarter of a second at worst for 6 MiB on a whole core.
const THOROUGH: Compression = Compression::new(6);

/// The levels that are tried after [`THOROUGH`], cheapest first. Which level compresses best depends on the body:
/// in zlib-rs, 3 for words, 8 for JSON with random ids, 9 for long runs.
const OTHER_LEVELS: [Compression; 3] = [Compression::new(3), Compression::new(8), Compression::new(9)];

/// The other levels are not tried if they would have to save more than one part in this many: none does.
const MOST_SAVED: usize = 5;

/// How long [`OTHER_LEVELS`] may take together. On unusual bodies the last ones take seconds. The receiver has ten
/// seconds in all, of which new secrets may take two and SQS four.
const LONGEST_SEARCH: Duration = Duration::from_secs(1);

/// How much is compressed between two checks of the time.
const CHUNK_BYTES: usize = 64 * 1024;

const GZIP_BASE64: &str = "gzip+base64";
const STRING: &str = "String";
const NUMBER: &str = "Number";

/// The names of the message attributes.
pub mod attribute {
    /// Which encoding the message has: [`FORMAT_VERSION`](super::FORMAT_VERSION),
    /// [`PART_FORMAT_VERSION`](super::PART_FORMAT_VERSION) or
    /// [`REPLAY_FORMAT_VERSION`](super::REPLAY_FORMAT_VERSION).
    pub const FORMAT_VERSION: &str = "format-version";
    /// The message id.
    pub const ID: &str = "svix-id";
    /// Unix seconds at which this delivery was signed.
    pub const TIMESTAMP: &str = "svix-timestamp";
    /// The signature header verbatim.
    pub const SIGNATURE: &str = "svix-signature";
    /// Milliseconds since the epoch at which the receiver accepted it.
    pub const RECEIVED_AT: &str = "received-at";
    /// The event's type, if it could be read.
    pub const EVENT_TYPE: &str = "event-type";
    /// How the body is encoded, if it is not plain.
    pub const ENCODING: &str = "encoding";
    /// Which part of a list the message is: see [`Part`](crate::message::Part).
    pub const PART: &str = "part";
    /// The replay window under which an operator has sent the message again: its id.
    pub const REPLAY_WINDOW: &str = "replay-window";
}

/// One message attribute. SQS takes ten at most on a message; [`Message::encode`] writes seven at most, and leaves
/// three for the reason of a dead letter.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Attribute {
    /// One of [`attribute`]'s names.
    pub name: &'static str,
    /// `String` or `Number`.
    pub data_type: &'static str,
    /// The value as text.
    pub value: String,
}

/// The input of `SendMessage`.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct QueueMessage {
    /// The message body.
    pub body: String,
    /// The message attributes.
    pub attributes: Vec<Attribute>,
}

impl QueueMessage {
    /// Its size by SQS's count: the body and every attribute's name, type and value.
    pub fn bytes(&self) -> usize {
        self.body.len() + bytes_of(&self.attributes)
    }
}

/// A message that does not fit the queue, even compressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message has {bytes} bytes once encoded, more than the {LARGEST_MESSAGE_BYTES} that fit the queue"
)]
pub struct EncodeError {
    /// Its size by SQS's count.
    pub bytes: usize,
}

/// A queue message that could not be turned back into a webhook.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It was not written by a receiver.
    #[error("not written by a receiver: the attribute `{missing}` is missing")]
    Foreign {
        /// The attribute that every receiver writes.
        missing: &'static str,
    },
    /// Written by a receiver of another version, newer or older than this consumer. A deploy or a rollback is in
    /// progress, and another consumer will read it.
    #[error(
        "written in format version `{found}`; this consumer reads `{FORMAT_VERSION}`, `{PART_FORMAT_VERSION}` and \
         `{REPLAY_FORMAT_VERSION}`"
    )]
    UnknownVersion {
        /// The version attribute's value.
        found: String,
    },
    /// An attribute has a value that a receiver does not write. The value is left out.
    #[error("the attribute `{name}` is not what a receiver writes")]
    Attribute {
        /// The attribute's name.
        name: &'static str,
    },
    /// The body does not match its `encoding` attribute.
    #[error("the body is not what its encoding says: {problem}")]
    Body {
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl DecodeError {
    /// Whether another delivery can help. It helps only a message of another version, which waits for its
    /// consumer.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::UnknownVersion { .. } => FailureClass::Retryable,
            Self::Foreign { .. } | Self::Attribute { .. } | Self::Body { .. } => FailureClass::Permanent,
        }
    }
}

impl Message {
    /// The message as SQS carries it.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if it is over [`LARGEST_MESSAGE_BYTES`] even when compressed.
    pub fn encode(self) -> Result<QueueMessage, EncodeError> {
        let string = |name, value| Attribute { name, data_type: STRING, value };
        let number = |name, value: i64| Attribute { name, data_type: NUMBER, value: value.to_string() };
        let mut attributes = Vec::with_capacity(7);
        let version = match (&self.part, &self.window) {
            (Some(_), _) => PART_FORMAT_VERSION,
            (None, Some(_)) => REPLAY_FORMAT_VERSION,
            (None, None) => FORMAT_VERSION,
        };
        attributes.push(string(attribute::FORMAT_VERSION, version.to_owned()));
        attributes.push(string(attribute::ID, self.id.0));
        attributes.push(number(attribute::TIMESTAMP, self.signed_at_s));
        attributes.push(string(attribute::SIGNATURE, self.signature));
        attributes.push(number(attribute::RECEIVED_AT, self.received_at.as_millisecond()));
        let usable = |kind: &String| {
            !kind.is_empty() && kind.len() <= LONGEST_EVENT_TYPE_BYTES && is_carried_as_text(kind)
        };
        if let Some(part) = &self.part {
            attributes.push(string(attribute::PART, part.to_string()));
        } else if let Some(window) = self.window {
            attributes.push(string(attribute::REPLAY_WINDOW, window));
        } else if let Some(event_type) = self.event_type.filter(usable) {
            attributes.push(string(attribute::EVENT_TYPE, event_type));
        }

        let mut started = None;
        let is_time_left = || started.get_or_insert_with(Instant::now).elapsed() < LONGEST_SEARCH;
        fitted(as_text(self.body), attributes, is_time_left)
    }

    /// Reads a queue message back. `attribute` looks up a string or number attribute's value.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], whose class says whether the message waits for another consumer or goes
    /// to the dead-letter queue.
    pub fn decode<'a>(
        body: &str,
        attribute: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, DecodeError> {
        let text = |name| attribute(name).ok_or(DecodeError::Foreign { missing: name });
        let number = |name| {
            let parsed = text(name)?.parse::<i64>();
            parsed.map_err(|_| DecodeError::Attribute { name })
        };

        // First, because in another version the other attributes may mean something else.
        let (part, window) = match text(attribute::FORMAT_VERSION)? {
            FORMAT_VERSION => (None, None),
            PART_FORMAT_VERSION => {
                let part = Part::parse(text(attribute::PART)?);
                (Some(part.map_err(|_| DecodeError::Attribute { name: attribute::PART })?), None)
            }
            REPLAY_FORMAT_VERSION => {
                let name = attribute::REPLAY_WINDOW;
                let window = text(name)?;
                if !is_window_id(window) {
                    return Err(DecodeError::Attribute { name });
                }
                (None, Some(window.to_owned()))
            }
            version => return Err(DecodeError::UnknownVersion { found: version.to_owned() }),
        };
        let id = MessageId::parse(text(attribute::ID)?)
            .map_err(|_| DecodeError::Attribute { name: attribute::ID })?;
        let received_at = Timestamp::from_millisecond(number(attribute::RECEIVED_AT)?)
            .map_err(|_| DecodeError::Attribute { name: attribute::RECEIVED_AT })?;
        let body = match attribute(attribute::ENCODING) {
            None => body.as_bytes().to_vec(),
            Some(GZIP_BASE64) => decompressed(body)?,
            Some(_) => {
                return Err(DecodeError::Attribute { name: attribute::ENCODING });
            }
        };
        Ok(Self {
            id,
            signed_at_s: number(attribute::TIMESTAMP)?,
            signature: text(attribute::SIGNATURE)?.to_owned(),
            received_at,
            event_type: attribute(attribute::EVENT_TYPE).map(str::to_owned),
            body,
            part,
            window,
        })
    }
}

/// The body as text that SQS carries unchanged; else the bytes, returned.
fn as_text(body: Vec<u8>) -> Result<String, Vec<u8>> {
    match String::from_utf8(body) {
        Ok(text) if !text.is_empty() && is_carried_as_text(&text) => Ok(text),
        Ok(text) => Err(text.into_bytes()),
        Err(error) => Err(error.into_bytes()),
    }
}

/// Whether SQS takes these characters: tab, line feed, carriage return, and everything from the
/// space on but U+FFFE and U+FFFF. Source: Amazon SQS API reference, `SendMessage`.
fn is_carried_as_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let refused = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    // Not `any`: a loop that cannot end early checks many bytes at once.
    let has_refused_byte = bytes.iter().fold(false, |found, byte| found | refused(byte));
    // U+FFFE and U+FFFF are EF BF BE and EF BF BF in UTF-8.
    let is_noncharacter = |at: usize| matches!(bytes.get(at..), Some([0xEF, 0xBF, 0xBE | 0xBF, ..]));
    !has_refused_byte && !memchr::memchr_iter(0xEF, bytes).any(is_noncharacter)
}

/// The message with this body: plain, or compressed if that costs less or SQS cannot carry it as text.
fn fitted(
    body: Result<String, Vec<u8>>,
    attributes: Vec<Attribute>,
    is_time_left: impl FnMut() -> bool,
) -> Result<QueueMessage, EncodeError> {
    let plain_bytes = body.as_ref().ok().map(|text| text.len() + bytes_of(&attributes));
    let body = match (body, plain_bytes) {
        (Ok(body), Some(0..=PLAIN_UP_TO_BYTES)) => return Ok(QueueMessage { body, attributes }),
        (body, _) => body,
    };
    let gzip = gzip(body.as_ref().map_or_else(Vec::as_slice, String::as_bytes), Compression::fast());
    let gzip_bytes = compressed_bytes(gzip.len(), &attributes);
    match (body, plain_bytes) {
        (Ok(body), Some(bytes)) if bytes <= gzip_bytes && bytes <= LARGEST_MESSAGE_BYTES => {
            Ok(QueueMessage { body, attributes })
        }
        _ if gzip_bytes <= LARGEST_MESSAGE_BYTES => Ok(compressed(&gzip, attributes)),
        (body, _) => with_more_effort(body, attributes, is_time_left),
    }
}

/// The message, made to fit by other levels of compression, or by leaving out its type, which the body has anyway.
fn with_more_effort(
    body: Result<String, Vec<u8>>,
    attributes: Vec<Attribute>,
    is_time_left: impl FnMut() -> bool,
) -> Result<QueueMessage, EncodeError> {
    let mut untyped = attributes.clone();
    untyped.retain(|attribute| attribute.name != attribute::EVENT_TYPE);
    let untyped_bytes = body.as_ref().ok().map(|text| text.len() + bytes_of(&untyped));
    let body = match (body, untyped_bytes) {
        (Ok(body), Some(0..=LARGEST_MESSAGE_BYTES)) => return Ok(QueueMessage { body, attributes: untyped }),
        (body, _) => body,
    };
    let bytes = body.as_ref().map_or_else(Vec::as_slice, String::as_bytes);
    let gzip = smaller(bytes, room(&untyped), is_time_left).map_err(|gzip_bytes| {
        let compressed_bytes = compressed_bytes(gzip_bytes, &untyped);
        EncodeError { bytes: untyped_bytes.map_or(compressed_bytes, |bytes| bytes.min(compressed_bytes)) }
    })?;
    let fits = compressed_bytes(gzip.len(), &attributes) <= LARGEST_MESSAGE_BYTES;
    Ok(compressed(&gzip, if fits { attributes } else { untyped }))
}

/// The body as gzip of at most `room` bytes, or else its size at [`THOROUGH`].
fn smaller(body: &[u8], room: usize, mut is_time_left: impl FnMut() -> bool) -> Result<Vec<u8>, usize> {
    let thorough = gzip(body, THOROUGH);
    let bytes = thorough.len();
    if bytes <= room {
        return Ok(thorough);
    }
    if bytes - bytes / MOST_SAVED > room {
        return Err(bytes);
    }
    OTHER_LEVELS.into_iter().find_map(|level| gzip_within(body, level, room, &mut is_time_left)).ok_or(bytes)
}

/// How many bytes of gzip fit into a message with these attributes.
fn room(attributes: &[Attribute]) -> usize {
    LARGEST_MESSAGE_BYTES.saturating_sub(compressed_bytes(0, attributes)) / 4 * 3
}

/// The size, by SQS's count, of a message with this many bytes of gzip.
fn compressed_bytes(gzip_bytes: usize, attributes: &[Attribute]) -> usize {
    let encoding = attribute::ENCODING.len() + STRING.len() + GZIP_BASE64.len();
    gzip_bytes.div_ceil(3) * 4 + bytes_of(attributes) + encoding
}

fn bytes_of(attributes: &[Attribute]) -> usize {
    attributes.iter().map(|a| a.name.len() + a.data_type.len() + a.value.len()).sum()
}

fn compressed(gzip: &[u8], mut attributes: Vec<Attribute>) -> QueueMessage {
    attributes.push(Attribute {
        name: attribute::ENCODING,
        data_type: STRING,
        value: GZIP_BASE64.to_owned(),
    });
    QueueMessage { body: BASE64.encode(gzip), attributes }
}

fn encoder(body: &[u8], level: Compression) -> GzEncoder<Vec<u8>> {
    // Room for compressed JSON, so that the output is not moved as it grows.
    GzEncoder::new(Vec::with_capacity(body.len() / 2), level)
}

#[expect(clippy::expect_used, reason = "writing fails only where the writer does, and a Vec does not")]
fn gzip(body: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = encoder(body, level);
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("a Vec takes every byte")
}

/// The body as gzip; `None` if it does not fit into `room` bytes, or the time is up first.
fn gzip_within(
    body: &[u8],
    level: Compression,
    room: usize,
    mut is_time_left: impl FnMut() -> bool,
) -> Option<Vec<u8>> {
    let mut encoder = encoder(body, level);
    for chunk in body.chunks(CHUNK_BYTES) {
        if encoder.get_ref().len() > room || !is_time_left() {
            return None;
        }
        encoder.write_all(chunk).ok()?;
    }
    encoder.finish().ok().filter(|gzip| gzip.len() <= room)
}

fn decompressed(body: &str) -> Result<Vec<u8>, DecodeError> {
    let gzip = BASE64.decode(body).map_err(|_| DecodeError::Body { problem: "not base64" })?;
    // One byte more than allowed is enough to detect a larger body, whatever its size.
    let mut bytes = Vec::new();
    GzDecoder::new(gzip.as_slice())
        .take(LARGEST_BODY_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| DecodeError::Body { problem: "not gzip" })?;
    if bytes.len() > LARGEST_BODY_BYTES {
        return Err(DecodeError::Body { problem: "larger than Lambda takes" });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
