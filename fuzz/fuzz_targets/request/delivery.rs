//! A request of LearnInk, and the damage that may happen to it on the way.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use learnink_fuzz::{Bytes, Length, is_usable_id, signature};
use learnink_receiver::PATH;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use serde_json::{Value, json};
use svix::webhooks::Webhook;

use crate::{CURRENT, NOW_S, PREVIOUS, UNKNOWN};

/// A request as LearnInk may send it, and the damage on the way.
///
/// Without any input it is the simplest one, and genuine.
#[derive(Debug, Arbitrary)]
pub(crate) struct Delivery<'a> {
    id: Option<&'a str>,
    signed_s_from_now: i16,
    signers: Signers,
    /// Signatures of other versions or with other secrets, before and after ours.
    other_signatures: [Vec<&'a str>; 2],
    families: Families,
    /// Which letters of the headers' names are capitals.
    capitals: u32,
    other_headers: Vec<(&'a str, &'a str)>,
    stage: Option<&'a str>,
    is_base64: bool,
    damages: Vec<Damage<'a>>,
    length: Length,
    body: Bytes<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
enum Signers {
    Current,
    Previous,
    Both,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
enum Families {
    Svix,
    Unbranded,
    Both,
}

/// Damage to a request. It may have no effect: a changed byte may be the same byte.
#[derive(Debug, Arbitrary)]
enum Damage<'a> {
    Path(&'a str),
    Method(&'a str),
    Without(Header),
    /// Another header, first or last, with the fuzzer's spelling.
    More {
        header: Header,
        first: bool,
        capitals: u32,
        value: &'a str,
    },
    Instead {
        header: Header,
        value: &'a str,
    },
    ByteOfHeader {
        header: Header,
        at: u8,
        with: u8,
    },
    NotText(Header),
    Body {
        at: u16,
        with: Bytes<'a>,
    },
    BodyText(&'a str),
    OtherEncoding,
    CutAt(u16),
    Behind(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
enum Header {
    SvixId,
    SvixTimestamp,
    SvixSignature,
    WebhookId,
    WebhookTimestamp,
    WebhookSignature,
}

impl Header {
    const ALL: [Self; 6] = [
        Self::SvixId,
        Self::SvixTimestamp,
        Self::SvixSignature,
        Self::WebhookId,
        Self::WebhookTimestamp,
        Self::WebhookSignature,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::SvixId => "svix-id",
            Self::SvixTimestamp => "svix-timestamp",
            Self::SvixSignature => "svix-signature",
            Self::WebhookId => "webhook-id",
            Self::WebhookTimestamp => "webhook-timestamp",
            Self::WebhookSignature => "webhook-signature",
        }
    }

    fn is_named(name: &str) -> bool {
        Self::ALL.iter().any(|header| header.name().eq_ignore_ascii_case(name))
    }
}

impl Delivery<'_> {
    /// The payload.
    pub(crate) fn body(&self) -> Cow<'_, [u8]> {
        self.length.of(self.body.0)
    }

    /// Whether it is genuine by its signature, its time and its id.
    pub(crate) fn is_genuine(&self) -> bool {
        let is_recent = self.signed_s_from_now.unsigned_abs() <= 300;
        self.signers != Signers::Unknown && is_recent && is_usable_id(self.id())
    }

    /// Whether it was damaged on the way.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.damages.is_empty()
    }

    fn id(&self) -> &str {
        self.id.unwrap_or("msg_1")
    }

    fn signed_at_s(&self) -> i64 {
        NOW_S + i64::from(self.signed_s_from_now)
    }

    /// The value of the signature header.
    pub(crate) fn signatures(&self, body: &[u8]) -> String {
        let sign = |secret| {
            let ours = signature(secret, self.id(), &self.signed_at_s().to_string(), body);
            let svix = Webhook::new(secret).expect("it is usable");
            // Svix signs text only.
            if let Ok(theirs) = svix.sign(self.id(), self.signed_at_s(), body) {
                assert_eq!(theirs, ours);
            }
            ours
        };
        let right = match self.signers {
            Signers::Current => vec![sign(CURRENT)],
            Signers::Previous => vec![sign(PREVIOUS)],
            Signers::Both => vec![sign(PREVIOUS), sign(CURRENT)],
            Signers::Unknown => vec![sign(UNKNOWN)],
        };
        let [before, after] = self.other_signatures.each_ref().map(|others| {
            let printable = |other: &&str| other.chars().all(|c| c.is_ascii_graphic());
            others.iter().copied().filter(printable).take(7).map(str::to_owned).collect()
        });
        [before, right, after].concat().join(" ")
    }

    /// The event for the receiver.
    pub(crate) fn event(&self, body: &[u8], signatures: &str) -> Vec<u8> {
        let (id, timestamp) = (self.id(), self.signed_at_s().to_string());
        let mut parts = Parts {
            path: format!("{}{PATH}", self.stage.unwrap_or_default()),
            method: "POST".to_owned(),
            headers: Vec::new(),
            body: body.to_vec(),
            body_text: None,
            is_base64: self.is_base64 || std::str::from_utf8(body).is_err(),
            claims_base64: false,
        };
        parts.claims_base64 = parts.is_base64;
        let values = [id, &timestamp, signatures];
        let (svix, unbranded) = Header::ALL.split_at(values.len());
        let signed = match self.families {
            Families::Svix => svix,
            Families::Unbranded => unbranded,
            Families::Both => &Header::ALL,
        };
        for (header, value) in signed.iter().zip(values.iter().cycle()) {
            parts.headers.push((spelt(header.name(), self.capitals), json!(value)));
        }
        for (name, value) in &self.other_headers {
            if !Header::is_named(name) {
                parts.headers.push(((*name).to_owned(), json!(value)));
            }
        }
        for damage in &self.damages {
            parts.suffer(damage);
        }
        let mut event = parts.event();
        for damage in &self.damages {
            match damage {
                Damage::CutAt(at) => event.truncate(usize::from(*at)),
                Damage::Behind(text) => event.extend_from_slice(text.as_bytes()),
                _ => {}
            }
        }
        event
    }
}

/// The parts of an event, each of which may be damaged.
struct Parts {
    path: String,
    method: String,
    headers: Vec<(String, Value)>,
    body: Vec<u8>,
    /// Replaces the body.
    body_text: Option<String>,
    is_base64: bool,
    claims_base64: bool,
}

impl Parts {
    fn suffer(&mut self, damage: &Damage<'_>) {
        let is = |header: &Header| {
            let name = header.name();
            move |(known, _): &(String, Value)| known.eq_ignore_ascii_case(name)
        };
        match damage {
            Damage::Path(path) => (*path).clone_into(&mut self.path),
            Damage::Method(method) => (*method).clone_into(&mut self.method),
            Damage::Without(header) => self.headers.retain(|entry| !is(header)(entry)),
            Damage::More { header, first, capitals, value } => {
                let at = if *first { 0 } else { self.headers.len() };
                self.headers.insert(at, (spelt(header.name(), *capitals), json!(value)));
            }
            Damage::Instead { header, value } => {
                for entry in self.headers.iter_mut().filter(|entry| is(header)(entry)) {
                    entry.1 = json!(value);
                }
            }
            Damage::ByteOfHeader { header, at, with } => {
                for entry in self.headers.iter_mut().filter(|entry| is(header)(entry)) {
                    let mut bytes = entry.1.as_str().unwrap_or_default().as_bytes().to_vec();
                    if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                        *byte = *with;
                    }
                    entry.1 = json!(String::from_utf8_lossy(&bytes));
                }
            }
            Damage::NotText(header) => {
                for entry in self.headers.iter_mut().filter(|entry| is(header)(entry)) {
                    entry.1 = json!([entry.1]);
                }
            }
            Damage::Body { at, with } => {
                let at = usize::from(*at).min(self.body.len());
                let end = (at + with.0.len()).min(self.body.len());
                self.body.splice(at..end, with.0.iter().copied());
            }
            Damage::BodyText(text) => self.body_text = Some((*text).to_owned()),
            Damage::OtherEncoding => self.claims_base64 = !self.claims_base64,
            Damage::CutAt(_) | Damage::Behind(_) => {} // Happens to the whole event.
        }
    }

    /// The event, written by hand, because a map cannot have two members of one name.
    fn event(&self) -> Vec<u8> {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        let body = match &self.body_text {
            Some(text) => text.clone(),
            None if self.is_base64 => BASE64.encode(&self.body),
            None => String::from_utf8_lossy(&self.body).into_owned(),
        };
        format!(
            r#"{{"rawPath":{},"requestContext":{},"headers":{{{}}},"body":{},"isBase64Encoded":{}}}"#,
            json!(self.path),
            json!({ "http": { "method": self.method } }),
            headers.join(","),
            json!(body),
            self.claims_base64,
        )
        .into_bytes()
    }
}

/// A header's name with some of its letters in capitals.
fn spelt(name: &str, capitals: u32) -> String {
    let spell = |(at, c): (usize, char)| if capitals >> at & 1 == 1 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(spell).collect()
}
