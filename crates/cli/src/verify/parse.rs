//! A delivery from a text in which people find it: HTTP, an event of API Gateway, a HAR file.
//!
//! An error never quotes the input, which may have personal data.

use http::HeaderMap;
use jiff::Timestamp;
use learnink_receiver::request::{SVIX_HEADERS, WEBHOOK_HEADERS};
use learnink_receiver::{Request, signature_headers};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::diagnose::Delivery;

/// A larger input is refused: a recording of a browser may be long, but not that long.
pub(super) const LARGEST_INPUT_BYTES: usize = 64 * 1024 * 1024;

/// What an input was read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Headers, an empty line and a body.
    Http,
    /// Headers as a JSON object, and a body.
    JsonHeaders,
    /// An event of an HTTP API, payload format 2.0.
    GatewayEvent,
    /// An entry of a HAR file.
    HarEntry {
        /// From 1.
        entry: usize,
        /// How many the file has.
        of: usize,
    },
}

/// An input that is not a delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    #[error("is empty; put the headers, an empty line and the body into it")]
    Empty,
    #[error("has {bytes} bytes, more than {LARGEST_INPUT_BYTES}; keep only the delivery")]
    TooLarge { bytes: usize },
    #[error("is UTF-16, which PowerShell's `>` writes; save it as UTF-8")]
    Utf16,
    #[error(
        "is neither headers and a body, nor an event of an HTTP API, nor a HAR file; write svix-id, svix-timestamp and \
         svix-signature on a line each, then an empty line, then the body"
    )]
    UnknownFormat,
    #[error(
        "has something else than a header in line {line}; after the headers, leave a line empty before the body"
    )]
    NotAHeader { line: usize },
    #[error("has headers and no body; leave a line empty after the headers, and put the body behind it")]
    NoBody,
    #[error("starts like JSON and is not; copy it again, from the first `{{` to the last `}}`")]
    NotJson,
    #[error(
        "is an event of a REST API (payload format 1.0), which the receiver does not read; write its headers, an empty \
         line and its body instead"
    )]
    RestApiEvent,
    #[error("looks like an event of an HTTP API, and a part of it is missing; copy all of it")]
    HalfAnEvent,
    #[error("has no POST with signature headers (entries: {of}); record the request that LearnInk sends")]
    NoEntry { of: usize },
    #[error("has several deliveries, the entries {entries}; name one with --entry")]
    SeveralEntries { entries: String },
    #[error("has {of} entries; --entry is from 1 to {of}")]
    NoSuchEntry { of: usize },
    #[error("is not a HAR file; --entry is for HAR files")]
    EntryOfNoHar,
    #[error("has no body in entry {entry}; export it with content")]
    EntryWithoutBody { entry: usize },
}

/// Reads a delivery, the one of entry `entry` (from 1) of a HAR file if that is given.
pub(super) fn parse(input: &[u8], entry: Option<usize>) -> Result<(Delivery, Format), ParseError> {
    if input.len() > LARGEST_INPUT_BYTES {
        return Err(ParseError::TooLarge { bytes: input.len() });
    }
    if is_utf16(input) {
        return Err(ParseError::Utf16);
    }
    let input = input.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input);
    match input.trim_ascii_start().first() {
        None => Err(ParseError::Empty),
        Some(b'{' | b'[') => {
            let text = str::from_utf8(input).map_err(|_| ParseError::NotJson)?;
            parse_json(text.trim_ascii_start(), entry)
        }
        Some(_) if entry.is_some() => Err(ParseError::EntryOfNoHar),
        Some(_) => Ok((parse_http(input)?, Format::Http)),
    }
}

/// With a byte order mark, or with a zero byte in each of the first characters.
fn is_utf16(input: &[u8]) -> bool {
    input.starts_with(b"\xff\xfe")
        || input.starts_with(b"\xfe\xff")
        || matches!(input, [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..])
}

/// Headers on a line each, perhaps below a line with the request, then an empty line, then the body.
fn parse_http(input: &[u8]) -> Result<Delivery, ParseError> {
    let mut headers = Vec::new();
    let mut content_length = None;
    // A name whose value is on the next line, as in a table that was copied.
    let mut name_alone = None;
    let mut rest = input;
    let mut is_body = false;
    for line in 1.. {
        // Without an empty line, JSON is the body.
        if !headers.is_empty() && rest.starts_with(b"{") {
            is_body = true;
            break;
        }
        let Some((text, after)) = next_line(rest) else { break };
        rest = after;
        // As `curl -v` shows what it sends.
        let text = text.strip_prefix(b">").unwrap_or(text).trim_ascii();
        if text.is_empty() {
            if headers.is_empty() || name_alone.is_some() {
                continue;
            }
            is_body = true;
            break;
        }
        let text = String::from_utf8_lossy(text).into_owned();
        if let Some(name) = name_alone.take() {
            headers.push((name, text));
        } else if let Some((name, value)) = header(&text) {
            if name.eq_ignore_ascii_case("content-length") {
                content_length = value.parse().ok();
            }
            headers.push((name.to_owned(), value.to_owned()));
        } else if is_signature_header(text.trim_end_matches(':')) {
            name_alone = Some(text.trim_end_matches(':').to_owned());
        } else if headers.is_empty() || is_first_line(&text) || is_label(&text) {
            // A request line, a status, or a heading of a dashboard.
        } else {
            return Err(ParseError::NotAHeader { line });
        }
    }
    if !headers.iter().any(|(name, _)| is_signature_header(name)) {
        return Err(ParseError::UnknownFormat);
    }
    if !is_body {
        return Err(ParseError::NoBody);
    }
    let headers = signature_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let body = Some(without_added_line_breaks(rest, content_length).to_vec());
    Ok(Delivery { headers, body, content_length, received_at: None })
}

/// A line without its line break, and what follows.
fn next_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let (line, rest) = end.and_then(|end| text.split_at_checked(end)).unwrap_or((text, b""));
    Some((line, rest.strip_prefix(b"\n").unwrap_or(rest)))
}

/// A header's name and value, separated by a colon, or by a tab in a table that was copied.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':').or_else(|| line.split_once('\t'))?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_alone = value.is_empty() && is_signature_header(name);
    (!name.is_empty() && name.bytes().all(is_name) && !is_alone).then_some((name, value))
}

fn is_signature_header(name: &str) -> bool {
    SVIX_HEADERS.iter().chain(&WEBHOOK_HEADERS).any(|known| known.eq_ignore_ascii_case(name))
}

/// `POST /path HTTP/1.1`, or `HTTP/1.1 200 OK`.
fn is_first_line(line: &str) -> bool {
    line.contains("HTTP/")
}

/// A few words, such as *Request headers*.
fn is_label(line: &str) -> bool {
    line.len() <= 32 && line.chars().all(|c| c.is_ascii_alphabetic() || c == ' ')
}

/// The body without the line breaks that an editor added behind it, if its length is known.
fn without_added_line_breaks(body: &[u8], content_length: Option<usize>) -> &[u8] {
    let split = content_length.and_then(|length| body.split_at_checked(length));
    match split {
        Some((body, added)) if added.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => body,
        _ => body,
    }
}

/// The members that tell the formats apart.
#[derive(Deserialize)]
struct Shape<'t> {
    #[serde(borrow, default)]
    log: Option<Log<'t>>,
    /// Of a HAR entry.
    #[serde(borrow, default)]
    request: Option<&'t RawValue>,
    #[serde(borrow, default, rename = "requestContext")]
    request_context: Option<&'t RawValue>,
    #[serde(borrow, default, rename = "httpMethod")]
    http_method: Option<&'t RawValue>,
    #[serde(borrow, default, rename = "rawPath")]
    raw_path: Option<&'t RawValue>,
}

#[derive(Deserialize)]
struct Log<'t> {
    #[serde(borrow, default)]
    entries: Vec<&'t RawValue>,
}

/// An event, a HAR file or entry, or headers as an object with a body behind them.
fn parse_json(text: &str, entry: Option<usize>) -> Result<(Delivery, Format), ParseError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let first = values.next().and_then(Result::ok).ok_or(ParseError::NotJson)?;
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    let shape: Shape<'_> = serde_json::from_str(first.get()).map_err(|_| ParseError::UnknownFormat)?;

    if let Some(log) = shape.log {
        return parse_har(&log.entries, entry);
    }
    if shape.request.is_some() {
        return parse_har(&[first], entry);
    }
    if entry.is_some() {
        return Err(ParseError::EntryOfNoHar);
    }
    if shape.http_method.is_some() {
        return Err(ParseError::RestApiEvent);
    }
    if shape.request_context.is_some() || shape.raw_path.is_some() {
        return parse_event(first.get());
    }
    parse_json_headers(first.get(), rest)
}

fn parse_event(event: &str) -> Result<(Delivery, Format), ParseError> {
    #[derive(Deserialize)]
    struct Received {
        #[serde(rename = "requestContext")]
        context: Context,
    }
    #[derive(Deserialize)]
    struct Context {
        #[serde(rename = "timeEpoch")]
        time_epoch_ms: i64,
    }

    // The receiver's own reading.
    let Request { headers, body, .. } = serde_json::from_str(event).map_err(|_| ParseError::HalfAnEvent)?;
    let received_at = serde_json::from_str(event)
        .ok()
        .and_then(|Received { context }| Timestamp::from_millisecond(context.time_epoch_ms).ok());
    Ok((Delivery { headers, body, content_length: None, received_at }, Format::GatewayEvent))
}

/// Headers as LearnInk's guide shows them, and the body behind them.
fn parse_json_headers(headers: &str, rest: &str) -> Result<(Delivery, Format), ParseError> {
    let headers: Headers = serde_json::from_str(headers).map_err(|_| ParseError::UnknownFormat)?;
    let headers = headers.signed();
    if headers.is_empty() {
        return Err(ParseError::UnknownFormat);
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let body = rest.trim_start_matches(['\r', '\n']);
    if body.is_empty() {
        return Err(ParseError::NoBody);
    }
    let delivery = Delivery { headers, body: Some(body.into()), ..Delivery::default() };
    Ok((delivery, Format::JsonHeaders))
}

/// A JSON object of headers, in which a number may stand for a timestamp.
struct Headers(Vec<(String, serde_json::Value)>);

impl Headers {
    fn signed(&self) -> HeaderMap {
        let values = self.0.iter().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.as_str(), value)
        });
        let values: Vec<_> = values.filter(|(name, _)| is_signature_header(name)).collect();
        signature_headers(values.iter().map(|(name, value)| (*name, value.as_str())))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> serde::de::Visitor<'de> for Object {
            type Value = Headers;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("headers")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// An entry of a HAR file. Source: HTTP Archive 1.2, "entries", "request", "postData".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    started_date_time: Option<String>,
    request: EntryRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryRequest {
    #[serde(default)]
    method: String,
    #[serde(default)]
    headers: Vec<EntryHeader>,
    #[serde(default)]
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct EntryHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct PostData {
    #[serde(default)]
    text: Option<String>,
    /// Some programs write `base64` here, as responses have it.
    #[serde(default, alias = "_encoding")]
    encoding: Option<String>,
}

fn parse_har(entries: &[&RawValue], entry: Option<usize>) -> Result<(Delivery, Format), ParseError> {
    let of = entries.len();
    if of == 0 {
        return Err(ParseError::NoEntry { of });
    }
    let number = match entry {
        Some(number) => number,
        None => only_delivery(entries)?,
    };
    let chosen = number.checked_sub(1).and_then(|index| entries.get(index));
    let chosen = chosen.ok_or(ParseError::NoSuchEntry { of })?;
    let Entry { started_date_time, request } = read_entry(chosen).ok_or(ParseError::NoEntry { of })?;
    let headers =
        signature_headers(request.headers.iter().map(|header| (header.name.as_str(), header.value.as_str())));
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let content_length = length.and_then(|header| header.value.parse().ok());
    let data = request.post_data.ok_or(ParseError::EntryWithoutBody { entry: number })?;
    let text = data.text.ok_or(ParseError::EntryWithoutBody { entry: number })?;
    let body = match data.encoding.as_deref() {
        Some("base64") => super::keys::lenient(&text),
        _ => Some(text.into_bytes()),
    };
    let received_at = started_date_time.and_then(|time| time.parse().ok());
    let delivery = Delivery { headers, body, content_length, received_at };
    Ok((delivery, Format::HarEntry { entry: number, of }))
}

/// `None` for an entry of another shape.
fn read_entry(entry: &RawValue) -> Option<Entry> {
    serde_json::from_str(entry.get()).ok()
}

/// The number of the only POST with signature headers.
fn only_delivery(entries: &[&RawValue]) -> Result<usize, ParseError> {
    let is_delivery = |entry: &RawValue| {
        read_entry(entry).is_some_and(|Entry { request, .. }| {
            request.method.eq_ignore_ascii_case("POST")
                && request.headers.iter().any(|header| is_signature_header(&header.name))
        })
    };
    let deliveries: Vec<_> =
        (1..).zip(entries).filter(|(_, entry)| is_delivery(entry)).map(|(number, _)| number).collect();
    match deliveries.as_slice() {
        [] => Err(ParseError::NoEntry { of: entries.len() }),
        [number] => Ok(*number),
        several => Err(ParseError::SeveralEntries { entries: listed(several) }),
    }
}

/// Numbers, the first of many.
fn listed(numbers: &[usize]) -> String {
    const MOST: usize = 10;
    let shown: Vec<_> = numbers.iter().take(MOST).map(ToString::to_string).collect();
    match numbers.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
