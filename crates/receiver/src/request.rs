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
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A request as API Gateway sends it. `Debug` shows neither headers nor body.
#[derive(Default)]
pub struct Request {
    /// The HTTP method, in capitals.
    pub method: String,
    /// The path, after the stage or a custom domain's base path, if there is one.
    pub path: String,
    /// The headers that sign the body: see [`signature_headers`].
    pub headers: HeaderMap,
    /// The payload exactly as it was sent, or `None` if it claims to be base64 and is not.
    pub body: Option<Vec<u8>>,
}

/// The headers that sign a body, as Svix names them: message id, Unix seconds of the delivery, and the signatures,
/// separated by spaces.
pub const SVIX_HEADERS: [&str; 3] = ["svix-id", "svix-timestamp", "svix-signature"];

/// The same headers without a brand. Source: Standard Webhooks specification, "Webhook headers".
pub const WEBHOOK_HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// The signature headers among `headers`, including repeated ones. Names may be in any case. A value that is not
/// printable ASCII becomes empty, which no check accepts.
pub fn signature_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut signed = HeaderMap::new();
    for (name, value) in headers {
        if let Some(name) = signature_header(name) {
            signed.append(name, header_value(value));
        }
    }
    signed
}

fn signature_header(name: &str) -> Option<HeaderName> {
    let mut known = SVIX_HEADERS.into_iter().chain(WEBHOOK_HEADERS);
    known.find(|known| known.eq_ignore_ascii_case(name)).map(HeaderName::from_static)
}

fn header_value(value: &str) -> HeaderValue {
    let value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok());
    value.unwrap_or_else(|| HeaderValue::from_static(""))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
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
            #[serde(default, deserialize_with = "read_headers")]
            headers: HeaderMap,
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

/// The signature headers of an event. All others are skipped, so that nothing else from the sender is passed on.
fn read_headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderMap, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = HeaderMap;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("headers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderMap, A::Error> {
            let mut headers = HeaderMap::new();
            while let Some(Name(name)) = map.next_key()? {
                match name {
                    Some(name) => {
                        headers.append(name, header_value(&map.next_value::<String>()?));
                    }
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

/// The name of a signature header, recognised without being copied; `None` for every other header.
struct Name(Option<HeaderName>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl Visitor<'_> for Names {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(signature_header(name)))
            }
        }

        deserializer.deserialize_str(Names)
    }
}
