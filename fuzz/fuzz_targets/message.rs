//! A message through the queue: every sent message is read back the same, and everything on the queue is either
//! understood or refused, without a panic.

#![no_main]

use std::collections::HashSet;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use learnink_fuzz::{Bytes, Length, is_text_for_sqs, is_usable_id};
use learnink_webhook::error::FailureClass;
use learnink_webhook::message::{
    DecodeError, FORMAT_VERSION, LARGEST_BODY_BYTES, LARGEST_MESSAGE_BYTES, PART_FORMAT_VERSION,
    QueueMessage, REPLAY_FORMAT_VERSION, attribute,
};
use learnink_webhook::{Message, MessageId};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Up to this size a message is billed as one request, and is sent as readable text.
const PLAIN_UP_TO_BYTES: usize = 64 * 1024;

/// More than the size of a message without its body and its signature.
const ENVELOPE_BYTES: usize = 1024;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Sent(Sent<'a>),
    Found(Found<'a>),
}

/// A message of ours.
#[derive(Debug, Arbitrary)]
struct Sent<'a> {
    id: &'a str,
    signed_at_s: i64,
    signature: &'a str,
    received_at_ms: i64,
    event_type: Option<&'a str>,
    length: Length,
    body: Bytes<'a>,
}

/// A message from another program.
#[derive(Debug, Arbitrary)]
struct Found<'a> {
    version: Attribute<'a>,
    id: Attribute<'a>,
    signed_at: Attribute<'a>,
    signature: Attribute<'a>,
    received_at: Attribute<'a>,
    event_type: Attribute<'a>,
    encoding: Attribute<'a>,
    part: Attribute<'a>,
    window: Attribute<'a>,
    body: Body<'a>,
}

#[derive(Debug, Arbitrary)]
enum Attribute<'a> {
    /// As a receiver would have written it; left out, if a receiver may leave it out.
    Usual,
    Missing,
    Text(&'a str),
    Number(i64),
    GzipBase64,
}

#[derive(Debug, Arbitrary)]
enum Body<'a> {
    Text(&'a str),
    Base64(Bytes<'a>),
    GzipBase64(Bytes<'a>),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Sent(sent) => comes_back_the_same(&sent.message()),
    Input::Found(found) => found.is_understood_or_refused(),
});

fn comes_back_the_same(sent: &Message) {
    let plain_bytes = sent.body.len() + sent.signature.len();
    let encoded = match sent.clone().encode() {
        Ok(encoded) => encoded,
        Err(error) => {
            assert!(error.bytes > LARGEST_MESSAGE_BYTES);
            assert!(at_most_encoded(sent) > LARGEST_MESSAGE_BYTES, "it would have fitted: {error}");
            return;
        }
    };

    let names: HashSet<_> = encoded.attributes.iter().map(|attribute| attribute.name).collect();
    assert!(names.len() == encoded.attributes.len() && names.len() <= 7, "{names:?}");
    let sizes = encoded.attributes.iter().map(|a| [a.name, a.data_type, &a.value].map(str::len));
    let counted = encoded.body.len() + sizes.flatten().sum::<usize>();
    assert_eq!(encoded.bytes(), counted);
    assert!(counted <= LARGEST_MESSAGE_BYTES);
    assert!(is_text_for_sqs(&encoded.body));
    for attribute in &encoded.attributes {
        // Only printable signatures are verified.
        assert!(attribute.name == attribute::SIGNATURE || is_text_for_sqs(&attribute.value));
    }
    if std::str::from_utf8(&sent.body).is_ok_and(is_text_for_sqs) {
        assert!(counted <= plain_bytes + ENVELOPE_BYTES, "plain it would be smaller");
        if plain_bytes + ENVELOPE_BYTES <= PLAIN_UP_TO_BYTES {
            assert_eq!(encoded.body.as_bytes(), sent.body, "a person should be able to read it");
        }
    }
    match decode(&encoded) {
        Ok(found) => {
            let typed = as_carried(sent.clone());
            let type_bytes =
                typed.event_type.as_ref().map_or(0, |name| "event-typeString".len() + name.len());
            // The type is dropped if the body would not fit beside it.
            let may_be_untyped = counted + type_bytes > LARGEST_MESSAGE_BYTES;
            let untyped = Message { event_type: None, ..typed.clone() };
            assert!(found == typed || (may_be_untyped && found == untyped));
        }
        // The receiver refuses such a body before it is encoded.
        Err(error) => assert!(sent.body.len() > LARGEST_BODY_BYTES, "{error}"),
    }
}

/// The message with only the parts that the queue carries.
fn as_carried(message: Message) -> Message {
    let is_carried = |name: &String| name.len() <= 256 && is_text_for_sqs(name);
    // A part, and what is sent again under a replay window, have their type only in the body.
    let has_room = message.part.is_none() && message.window.is_none();
    let event_type = message.event_type.filter(|_| has_room).filter(is_carried);
    Message { event_type, ..message }
}

/// An upper bound for the size by SQS's count: gzip adds little to data that it cannot compress, base64 a third.
fn at_most_encoded(message: &Message) -> usize {
    let gzip = message.body.len() + message.body.len() / 1000 + 100;
    gzip.div_ceil(3) * 4 + message.signature.len() + ENVELOPE_BYTES
}

fn decode(message: &QueueMessage) -> Result<Message, DecodeError> {
    Message::decode(&message.body, |name| {
        let found = message.attributes.iter().find(|attribute| attribute.name == name);
        found.map(|attribute| attribute.value.as_str())
    })
}

impl Sent<'_> {
    fn message(&self) -> Message {
        let id = MessageId::parse(self.id);
        assert_eq!(id.is_ok(), is_usable_id(self.id));
        Message {
            id: id.unwrap_or_else(|_| MessageId::parse("msg_1").expect("it is usable")),
            signed_at_s: self.signed_at_s,
            signature: self.signature.to_owned(),
            received_at: Timestamp::from_millisecond(self.received_at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            event_type: self.event_type.map(str::to_owned),
            body: self.length.of(self.body.0).into_owned(),
            part: None,
            window: None,
        }
    }
}

impl Found<'_> {
    fn is_understood_or_refused(&self) {
        let attributes = [
            (attribute::FORMAT_VERSION, self.version.value(Some(FORMAT_VERSION))),
            (attribute::ID, self.id.value(Some("msg_1"))),
            (attribute::TIMESTAMP, self.signed_at.value(Some("1614265330"))),
            (attribute::SIGNATURE, self.signature.value(Some("v1,x"))),
            (attribute::RECEIVED_AT, self.received_at.value(Some("1614265330250"))),
            (attribute::EVENT_TYPE, self.event_type.value(None)),
            (attribute::ENCODING, self.encoding.value(None)),
            (attribute::PART, self.part.value(Some("push/0-99/250"))),
            (attribute::REPLAY_WINDOW, self.window.value(Some("1f0c"))),
        ];
        let value = |wanted: &str| attributes.iter().find(|(name, _)| *name == wanted)?.1.as_deref();
        let version = value(attribute::FORMAT_VERSION);

        match Message::decode(&self.body.text(), value) {
            Ok(message) => {
                let expected = match (&message.part, &message.window) {
                    (Some(_), None) => PART_FORMAT_VERSION,
                    (None, Some(_)) => REPLAY_FORMAT_VERSION,
                    (None, None) => FORMAT_VERSION,
                    (Some(_), Some(_)) => panic!("a part has no window of its own"),
                };
                assert_eq!(version, Some(expected));
                assert_eq!(value(attribute::ID), Some(message.id.as_str()));
                assert!(is_usable_id(message.id.as_str()));
                comes_back_the_same(&message);
            }
            Err(error) => {
                let is_other_version = version.is_some_and(|version| {
                    ![FORMAT_VERSION, PART_FORMAT_VERSION, REPLAY_FORMAT_VERSION].contains(&version)
                });
                assert_eq!(error.class() == FailureClass::Retryable, is_other_version, "{error}");
            }
        }
    }
}

impl Attribute<'_> {
    fn value(&self, usual: Option<&str>) -> Option<String> {
        match self {
            Self::Usual => usual.map(str::to_owned),
            Self::Missing => None,
            Self::Text(text) => Some((*text).to_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::GzipBase64 => Some("gzip+base64".to_owned()),
        }
    }
}

impl Body<'_> {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Base64(bytes) => BASE64.encode(bytes.0),
            Self::GzipBase64(bytes) => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(bytes.0).expect("a Vec takes every byte");
                BASE64.encode(encoder.finish().expect("a Vec takes every byte"))
            }
        }
    }
}
