//! The parts of an HTTP API request that the receiver reads: method, path, signature headers, body.
//!
//! Shape: payload format version 2.0. Source: API Gateway developer guide, "Create AWS Lambda proxy
//! integrations for HTTP APIs".
//!
//! `lambda_http` would read the whole event, copy the body three times, and panic on a body that claims to be
//! base64 and is not; `docs/decisions/own-request.md` compares the costs.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A request as API Gateway sends it. `Debug` shows neither headers nor body.
#[derive(Default)]
pub struct Request {
    /// The HTTP method, in capitals.
    pub method: String,
    /// The path, after the stage or a custom domain's base path, if there is one.
    pub path: String,
    /// The headers that sign the body.
    pub headers: SignatureHeaders,
    /// The payload exactly as it was sent, or `None` if it claims to be base64 and is not.
    pub body: Option<Vec<u8>>,
}

/// One of the headers that carry a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureHeader {
    /// The family of its name.
    pub family: Family,
    /// The part of the signature that it carries.
    pub part: Part,
}

/// Senders use headers named after Svix or without a brand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `svix-*`
    Svix,
    /// `webhook-*`
    Unbranded,
}

/// The part of a signature that a header carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The message id.
    Id,
    /// Unix seconds at which the delivery was signed.
    Timestamp,
    /// The signatures, separated by spaces.
    Signature,
}

impl SignatureHeader {
    /// The signature header of that name in any case, or `None` for every other header.
    pub fn named(name: &str) -> Option<Self> {
        let is =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let (family, prefix) = [(Family::Svix, "svix-"), (Family::Unbranded, "webhook-")]
            .into_iter()
            .find(|(_, prefix)| is(prefix))?;
        let parts = [(Part::Id, "id"), (Part::Timestamp, "timestamp"), (Part::Signature, "signature")];
        let rest = name.get(prefix.len()..)?;
        let (part, _) = parts.into_iter().find(|(_, known)| rest.eq_ignore_ascii_case(known))?;
        Some(Self { family, part })
    }
}

/// The signature headers of one request, including repeated ones. All other headers are left out, so that nothing
/// else from the sender is passed on.
#[derive(Default, Clone)]
pub struct SignatureHeaders(Vec<(SignatureHeader, String)>);

impl SignatureHeaders {
    /// Adds a header if it is a signature header.
    pub fn append(&mut self, name: &str, value: impl Into<String>) {
        if let Some(header) = SignatureHeader::named(name) {
            self.0.push((header, value.into()));
        }
    }

    /// The values of one header, in the order in which they came.
    pub fn values(&self, header: SignatureHeader) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == header).map(|(_, value)| value.as_str())
    }

    /// Whether the request has any header of that family.
    pub fn has(&self, family: Family) -> bool {
        self.0.iter().any(|(header, _)| header.family == family)
    }
}

impl<'name, 'value> FromIterator<(&'name str, &'value str)> for SignatureHeaders {
    fn from_iter<I: IntoIterator<Item = (&'name str, &'value str)>>(headers: I) -> Self {
        let mut collected = Self::default();
        for (name, value) in headers {
            collected.append(name, value);
        }
        collected
    }
}

impl fmt::Debug for SignatureHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(header, _)| header)).finish()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

/// The event that Lambda receives: a request, or something else.
///
/// An event of another shape is `None`, not an error, because a parser's error may quote the payload, and
/// `lambda_runtime` logs it. The parser stops at the first mismatch. Like `lambda_runtime`, its caller must not
/// check whether text is left.
#[derive(Debug)]
pub struct GatewayEvent(pub Option<Request>);

impl<'de> Deserialize<'de> for GatewayEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Request::deserialize(deserializer).ok()))
    }
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            raw_path: String,
            request_context: Context,
            #[serde(default)]
            headers: SignatureHeaders,
            #[serde(default)]
            body: Option<String>,
            #[serde(default)]
            is_base64_encoded: bool,
        }
        #[derive(Deserialize)]
        struct Context {
            http: Http,
        }
        #[derive(Deserialize)]
        struct Http {
            method: String,
        }

        let event = Event::deserialize(deserializer)?;
        let body = event.body.unwrap_or_default();
        Ok(Self {
            method: event.request_context.http.method,
            path: event.raw_path,
            headers: event.headers,
            body: if event.is_base64_encoded { BASE64.decode(body).ok() } else { Some(body.into_bytes()) },
        })
    }
}

impl<'de> Deserialize<'de> for SignatureHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Headers;

        impl<'de> Visitor<'de> for Headers {
            type Value = SignatureHeaders;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SignatureHeaders, A::Error> {
                let mut headers = SignatureHeaders::default();
                while let Some(Name(header)) = map.next_key()? {
                    match header {
                        Some(header) => headers.0.push((header, map.next_value()?)),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_map(Headers)
    }
}

/// A header's name, recognised without being copied.
struct Name(Option<SignatureHeader>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl Visitor<'_> for Names {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(SignatureHeader::named(name)))
            }
        }

        deserializer.deserialize_str(Names)
    }
}
