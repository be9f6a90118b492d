//! One record: the bytes that LearnInk signed, and their proof.
//!
//! Records outlive every deploy, and perhaps this program. So a record is JSON with the headers' own names, on one
//! line, in gzip: `gunzip` and a dozen lines in any language read and prove one. An object of its own has one such
//! line, and a file of a stream has many. A change of shape gets another version number, and the code that reads
//! version 1 stays.
//!
//! Version 2 is a record from which a learner's items were removed. It has no signature, because nothing proves the rest,
//! and says in `redacted` when that was and how many places were changed.

use std::fmt;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use learnink_webhook::message::{LARGEST_BODY_BYTES, Message, MessageId};
use ring::digest;
use serde::{Deserialize, Serialize};

/// The shape of a record as it is kept.
const VERSION: u32 = 1;

/// The shape of a record from which something was removed.
const REDACTED_VERSION: u32 = 2;

/// The largest record in bytes of JSON: each byte of a body may take six, as `\u0000` does, and the headers
/// are small.
pub(super) const LARGEST_BYTES: usize = 6 * LARGEST_BODY_BYTES + 64 * 1024;

/// The gzip header of every record: no flags, no time, no extra flags, no operating system. Programs that read
/// gzip do not check these bytes, so without this check a record with other bytes would pass.
/// Source: RFC 1952, "File format specification".
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, NO_OPERATING_SYSTEM];
const NO_OPERATING_SYSTEM: u8 = 255;

/// The length of gzip's trailer in bytes: a checksum and a length.
const TRAILER_BYTES: usize = 8;

/// The record of a message. `Debug` shows neither the signature nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The `svix-id` header.
    pub id: MessageId,
    /// The `svix-timestamp` header: when this delivery was signed, in Unix seconds.
    pub signed_at_s: i64,
    /// The `svix-signature` header verbatim; empty if the record is redacted.
    pub signature: String,
    /// When the receiver accepted it. It is not signed, but this system's own statement. It is within five minutes
    /// of `svix-timestamp`, because the receiver accepts nothing else.
    pub received_at: Timestamp,
    /// The body exactly as it was signed, unless the record is redacted.
    pub body: Vec<u8>,
    /// What was removed from it, if anything was. Such a record cannot be proven.
    pub redaction: Option<Redaction>,
}

/// What was removed from a record because a learner asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    /// When, the last time.
    pub at: Timestamp,
    /// How many places of the body have `null` since, over all times.
    pub places: u64,
}

/// Tells whether two records are copies of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

/// Bytes that are not a record. The error never quotes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They are not gzip as [`Record::encode`] writes it, or a byte was changed.
    #[error("it is not gzip, or damaged")]
    NotGzip,
    /// Decompressed, they are larger than any record.
    #[error("it is larger than any record")]
    TooLarge,
    /// They are gzip, but not of a record.
    #[error("the record has missing or unexpected fields (line {line}, column {column})")]
    NotARecord {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Another version of this program wrote it.
    #[error("it has version {0}, which this program does not read")]
    Version(u32),
    /// `svix-id` or `svix-timestamp` does not have the form that the receiver accepts, or the signature is not there;
    /// a redacted record has none.
    #[error("its header `{0}` is malformed")]
    Header(&'static str),
    /// It has no body, two bodies, or one that is not base64.
    #[error("it does not have one body")]
    Body,
}

/// The record as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    version: u32,
    received_at: Timestamp,
    headers: Headers,
    /// In version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redacted: Option<Redaction>,
    /// The body, if it is UTF-8, as JSON text: the same characters, so the same bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Any other body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers {
    #[serde(rename = "svix-id")]
    id: String,
    #[serde(rename = "svix-timestamp")]
    timestamp: String,
    /// In version 1.
    #[serde(rename = "svix-signature", default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// The version, whatever the other fields are.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl From<&Message> for Record {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id.clone(),
            signed_at_s: message.signed_at_s,
            signature: message.signature.clone(),
            received_at: message.received_at,
            body: message.body.clone(),
            redaction: None,
        }
    }
}

impl Record {
    /// The record with this body in place of its own, and without the signature, which does not prove it.
    #[must_use]
    pub fn redacted(self, body: Vec<u8>, at: Timestamp, places: usize) -> Self {
        let before = self.redaction.map_or(0, |redaction| redaction.places);
        let redaction = Redaction { at, places: before.saturating_add(places as u64) };
        Self { signature: String::new(), body, redaction: Some(redaction), ..self }
    }

    /// The headers that prove the body, by name.
    pub fn headers(&self) -> [(&'static str, String); 3] {
        [
            ("svix-id", self.id.to_string()),
            ("svix-timestamp", self.signed_at_s.to_string()),
            ("svix-signature", self.signature.clone()),
        ]
    }

    /// The message whose record it is, as the receiver accepted it.
    pub fn into_message(self) -> Message {
        let Self { id, signed_at_s, signature, received_at, body, redaction: _ } = self;
        Message { id, signed_at_s, signature, received_at, event_type: None, body, part: None, window: None }
    }

    /// Whether both keep one message. A sender that posts a message again signs it anew, so time and signature may
    /// differ, but both records prove the same.
    pub fn is_of_the_message_of(&self, other: &Self) -> bool {
        self.id == other.id && self.body == other.body
    }

    /// Identifies the record among copies of it: both have the same id, signature and body. A stream may deliver a
    /// record twice.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut digest = digest::Context::new(&digest::SHA256);
        // Neither an id nor a signature, which are values of headers, has this byte.
        for part in [self.id.as_str(), "\0", &self.signature, "\0"] {
            digest.update(part.as_bytes());
        }
        digest.update(&self.body);
        let mut fingerprint = [0; 16];
        fingerprint.iter_mut().zip(digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Fingerprint(fingerprint)
    }

    /// The record as one line of JSON, with its line feed.
    #[expect(clippy::expect_used, reason = "writing fails only where the writer does, and a Vec does not")]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.body.len() * 5 / 4 + 512);
        serde_json::to_writer(&mut line, &self.shape()).expect("a Vec takes every byte");
        line.push(b'\n');
        line
    }

    fn shape(&self) -> Shape {
        let (body, body_base64) = match std::str::from_utf8(&self.body) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(&self.body))),
        };
        let [(_, id), (_, timestamp), (_, signature)] = self.headers();
        let (version, signature) = match self.redaction {
            None => (VERSION, Some(signature)),
            Some(_) => (REDACTED_VERSION, None),
        };
        let headers = Headers { id, timestamp, signature };
        let redacted = self.redaction;
        Shape { version, received_at: self.received_at, headers, redacted, body, body_base64 }
    }

    /// The bytes to store as one object: gzip of the line.
    #[expect(clippy::expect_used, reason = "writing fails only where the writer does, and a Vec does not")]
    pub fn encode(&self) -> Vec<u8> {
        let gzip = Vec::with_capacity(self.body.len() / 2);
        let mut encoder: GzEncoder<_> =
            GzBuilder::new().operating_system(NO_OPERATING_SYSTEM).write(gzip, Compression::default());
        serde_json::to_writer(&mut encoder, &self.shape()).expect("a Vec takes every byte");
        encoder.write_all(b"\n").and_then(|()| encoder.finish()).expect("a Vec takes every byte")
    }

    /// Reads stored bytes. This is not a proof, which needs the signing secret.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if [`Record::encode`] cannot have returned them.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let json = decompressed(bytes, LARGEST_BYTES)?;
        if has_spare_bits(bytes, &json) {
            return Err(RecordError::NotGzip);
        }
        Self::from_line(&json)
    }

    /// Reads one line, with or without its line feed. This is not a proof, which needs the signing secret.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if [`Record::to_line`] cannot have returned it.
    pub fn from_line(json: &[u8]) -> Result<Self, RecordError> {
        if json.len() > LARGEST_BYTES {
            return Err(RecordError::TooLarge);
        }
        let not_a_record =
            |error: serde_json::Error| RecordError::NotARecord { line: error.line(), column: error.column() };
        let version = serde_json::from_slice::<Versioned>(json).map_err(not_a_record)?.version;
        if ![VERSION, REDACTED_VERSION].contains(&version) {
            return Err(RecordError::Version(version));
        }
        let shape: Shape = serde_json::from_slice(json).map_err(not_a_record)?;
        let headers = shape.headers;
        let (signature, redaction) = match (version, headers.signature, shape.redacted) {
            (VERSION, Some(signature), None) => (signature, None),
            (REDACTED_VERSION, None, Some(redaction)) => (String::new(), Some(redaction)),
            _ => return Err(RecordError::Header("svix-signature")),
        };
        let signed_at_s = headers.timestamp.parse().ok();
        // Another spelling of the number would be another header than the kept one.
        let signed_at_s = signed_at_s.filter(|second: &i64| second.to_string() == headers.timestamp);
        Ok(Self {
            id: MessageId::parse(&headers.id).map_err(|_| RecordError::Header("svix-id"))?,
            signed_at_s: signed_at_s.ok_or(RecordError::Header("svix-timestamp"))?,
            signature,
            received_at: shape.received_at,
            redaction,
            body: match (shape.body, shape.body_base64) {
                (Some(text), None) => text.into_bytes(),
                (None, Some(encoded)) => BASE64.decode(encoded).map_err(|_| RecordError::Body)?,
                (None, None) | (Some(_), Some(_)) => return Err(RecordError::Body),
            },
        })
    }
}

/// The content of gzip, if it is one member with a record's header, and nothing after it.
fn decompressed(gzip: &[u8], limit_bytes: usize) -> Result<Vec<u8>, RecordError> {
    if !gzip.starts_with(&HEADER) {
        return Err(RecordError::NotGzip);
    }
    // One byte more than allowed is enough to detect a larger object, whatever its size.
    let mut json = Vec::new();
    let mut limited = GzDecoder::new(gzip).take(limit_bytes as u64 + 1);
    match limited.read_to_end(&mut json) {
        Err(_) => Err(RecordError::NotGzip),
        Ok(bytes) if bytes > limit_bytes => Err(RecordError::TooLarge),
        Ok(_) if !limited.into_inner().into_inner().is_empty() => Err(RecordError::NotGzip),
        Ok(_) => Ok(json),
    }
}

/// Whether a bit is set after the end of the compressed data. Its last byte is rarely full; the unused bits are
/// zero, and programs that read gzip ignore them.
/// Source: RFC 1951, "Non-compressed blocks" and "Details of block format".
fn has_spare_bits(gzip: &[u8], json: &[u8]) -> bool {
    let mut other = gzip.to_vec();
    let Some(last) = gzip.len().checked_sub(TRAILER_BYTES + 1).and_then(|at| other.get_mut(at)) else {
        return false;
    };
    // The unused bits are the highest ones. If a bit with a meaning is cleared, the decompressed data changes.
    let Some(highest) = last.checked_ilog2() else { return false };
    *last ^= 1 << highest;
    decompressed(&other, json.len()).is_ok_and(|same| same == json)
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("signed_at_s", &self.signed_at_s)
            .field("received_at", &self.received_at)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(body: &[u8]) -> Record {
        Record {
            id: MessageId::parse("msg_p5jXN8AQM9LWM0D4loKWxJek").unwrap(),
            signed_at_s: 1_614_265_330,
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned(),
            received_at: Timestamp::from_millisecond(1_614_265_331_042).unwrap(),
            body: body.to_vec(),
            redaction: None,
        }
    }

    fn json(record: &Record) -> String {
        String::from_utf8(decompressed(&record.encode(), LARGEST_BYTES).unwrap()).unwrap()
    }

    fn gzip(json: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(json.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// Records are read years later: a change here is a new version, beside this one.
    #[test]
    fn a_record_is_json_with_the_headers_own_names() {
        insta::assert_snapshot!(json(&record("{\"test\": 2432232314,\n\"é\":\"\u{0}\"}".as_bytes())), @r#"{"version":1,"received_at":"2021-02-25T15:02:11.042Z","headers":{"svix-id":"msg_p5jXN8AQM9LWM0D4loKWxJek","svix-timestamp":"1614265330","svix-signature":"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},"body":"{\"test\": 2432232314,\n\"é\":\"\u0000\"}"}"#);
        insta::assert_snapshot!(json(&record(b"\xFF\x00")), @r#"{"version":1,"received_at":"2021-02-25T15:02:11.042Z","headers":{"svix-id":"msg_p5jXN8AQM9LWM0D4loKWxJek","svix-timestamp":"1614265330","svix-signature":"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},"body_base64":"/wA="}"#);
    }

    #[test]
    fn a_redacted_record_says_so_and_has_no_signature() {
        let at = |text: &str| text.parse().unwrap();
        let redacted = record(b"{}").redacted(b"[null]".to_vec(), at("2026-01-02T00:00:00Z"), 1);
        insta::assert_snapshot!(json(&redacted), @r#"{"version":2,"received_at":"2021-02-25T15:02:11.042Z","headers":{"svix-id":"msg_p5jXN8AQM9LWM0D4loKWxJek","svix-timestamp":"1614265330"},"redacted":{"at":"2026-01-02T00:00:00Z","places":1},"body":"[null]"}"#);
        assert!(Record::decode(&redacted.encode()).unwrap() == redacted);
        let again = redacted.clone().redacted(b"[]".to_vec(), at("2026-01-03T00:00:00Z"), 2);
        assert_eq!(again.redaction, Some(Redaction { at: at("2026-01-03T00:00:00Z"), places: 3 }));
        // Neither version with a part of the other.
        let signed = json(&record(b"{}"));
        for odd in [
            json(&redacted).replace("\"version\":2", "\"version\":1"),
            signed.replace("\"version\":1", "\"version\":2"),
            json(&redacted).replace("\"svix-timestamp\"", "\"svix-signature\":\"v1,\",\"svix-timestamp\""),
        ] {
            assert_eq!(
                Record::from_line(odd.as_bytes()),
                Err(RecordError::Header("svix-signature")),
                "{odd}"
            );
        }
    }

    #[test]
    fn what_is_no_record_says_why_and_repeats_nothing() {
        let good = json(&record(b"+254705408079"));
        let changed = |from, to| Record::decode(&gzip(&good.replace(from, to))).unwrap_err();
        assert_eq!(Record::decode(b"+254705408079"), Err(RecordError::NotGzip));
        let mut cut = record(b"{}").encode();
        cut.truncate(cut.len() - 9);
        assert_eq!(Record::decode(&cut), Err(RecordError::NotGzip));
        assert_eq!(changed("\"version\":1", "\"version\":3"), RecordError::Version(3));
        assert_eq!(changed("msg_p5", "msg.p5"), RecordError::Header("svix-id"));
        assert_eq!(changed("\"1614265330\"", "\"+1614265330\""), RecordError::Header("svix-timestamp"));
        assert_eq!(changed("\"version\":1,\"received_at\"", "\"version\":3,\"at\""), RecordError::Version(3));
        assert_eq!(changed(",\"body\"", ",\"body_base64\":\"\",\"body\""), RecordError::Body);
        assert_eq!(changed(",\"body\"", ",\"body_base64\""), RecordError::Body);
        let twice = changed(",\"body\"", ",\"body\":\"\",\"body\"");
        assert_eq!(twice.to_string(), "the record has missing or unexpected fields (line 1, column 220)");
        for (from, to) in [(",\"body\"", ",\"bidy\""), ("{\"svix-id\"", "{\"more\":1,\"svix-id\"")] {
            assert!(matches!(changed(from, to), RecordError::NotARecord { .. }), "{to}");
        }
    }

    #[test]
    fn every_record_starts_alike() {
        for body in [&b""[..], b"{}", &[0xFF; 10_000]] {
            assert!(record(body).encode().starts_with(&HEADER));
        }
    }

    #[test]
    fn a_record_in_which_any_bit_is_another_is_damaged() {
        // Long enough to be compressed; the lengths of the bodies move the end to each bit of the last byte.
        for length in 0..16 {
            let body =
                format!(r#"{{"phone_number":"+254705408079","title":"{}"}}"#, "Hi Mary! ".repeat(length));
            let good = record(body.as_bytes()).encode();
            assert!(Record::decode(&good).is_ok());
            for bit in 0..good.len() * 8 {
                let mut damaged = good.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Record::decode(&damaged).is_err(), "bit {bit} of {}", good.len() * 8);
            }
        }
    }

    #[test]
    fn nothing_stands_behind_a_record() {
        let good = record(b"{}").encode();
        for more in [&b"\0"[..], b"more", &gzip(""), &good] {
            assert_eq!(Record::decode(&[&good, more].concat()), Err(RecordError::NotGzip));
        }
    }

    #[test]
    fn a_small_object_that_becomes_a_huge_one_is_refused() {
        let bomb = gzip(&" ".repeat(100_001));
        assert!(bomb.len() < 1_000);
        assert_eq!(decompressed(&bomb, 100_000), Err(RecordError::TooLarge));
        assert_eq!(decompressed(&bomb, 100_001).unwrap().len(), 100_001);
    }

    #[test]
    fn no_body_makes_a_record_that_is_too_large_to_be_read() {
        let around = json(&record(b"")).len();
        assert_eq!(json(&record(&[0; 1000])).len(), 6 * 1000 + around);
        assert!(json(&record(&[0xFF; 1000])).len() < 6 * 1000);
    }

    #[test]
    fn a_record_cannot_print_what_it_keeps() {
        let printed = format!("{:?}", record(b"+254705408079"));
        assert!(!printed.contains("2547") && !printed.contains("v1,"), "{printed}");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_as_they_were(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Record::decode(&record(&body).encode()).unwrap() == record(&body));
        }

        #[test]
        fn any_text_comes_back_as_it_was(body in any::<String>()) {
            let record = record(body.as_bytes());
            prop_assert!(Record::decode(&record.encode()).unwrap() == record);
        }

        #[test]
        fn nothing_that_is_read_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in any::<String>(),
        ) {
            let _ = Record::decode(&bytes);
            let _ = Record::decode(&gzip(&text));
        }
    }
}
