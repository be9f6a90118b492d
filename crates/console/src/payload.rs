//! A payload as people see it: from the text itself, and without personal data.
//!
//! Nothing here reads a number or a string as a value: 30 digits stay 30 digits, `1e400` stays `1e400`, and a member
//! that occurs twice occurs twice.

use learnink_connectors::bus::masked;
use learnink_local::terminal::visible_json;
use learnink_webhook::Envelope;
use learnink_webhook::json::{TokenKind, Tokens};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// The most bytes of a payload on a page.
pub const MOST_SHOWN: usize = 64 * 1024;

/// The deepest level that is indented; more levels are on the same column.
const DEEPEST: usize = 40;

/// A payload, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payload {
    /// What it is, in words.
    pub what: &'static str,
    /// The text; `None` if nothing of it can be shown like this.
    pub text: Option<String>,
    /// The size of the body.
    pub body_bytes: usize,
    /// Whether the text is cut at [`MOST_SHOWN`].
    pub is_cut: bool,
}

/// What a body is.
enum Read<'a> {
    Event(Envelope),
    Json(&'a str),
    Other(&'static str),
}

/// The payload with everything in it after a reveal, and without personal data otherwise.
pub(crate) fn masked_unless(body: &[u8], is_revealed: bool) -> Payload {
    if is_revealed { as_signed(body) } else { without_personal_data(body) }
}

/// The payload without personal data: ids, the type and the times, and `***` for everything else.
pub fn without_personal_data(body: &[u8]) -> Payload {
    let (what, text) = match read(body) {
        Read::Event(envelope) => ("an event, without personal data", Some(masked_event(&envelope))),
        Read::Json(text) => {
            let masked = serde_json::from_str::<&RawValue>(text).ok().map(masked);
            ("JSON, but not an event of LearnInk's; without personal data", masked)
        }
        Read::Other(what) => (what, None),
    };
    shown(what, text.as_deref(), body.len())
}

/// The payload with everything in it. Bytes that are not text are written as `\x00`.
pub fn as_signed(body: &[u8]) -> Payload {
    let what = match read(body) {
        Read::Event(_) => "an event",
        Read::Json(_) => "JSON, but not an event of LearnInk's",
        Read::Other(what) => what,
    };
    let text = match str::from_utf8(body) {
        Ok(text) if is_json(text) => return shown(what, Some(text), body.len()),
        Ok(text) => text.to_owned(),
        Err(_) => body.utf8_chunks().fold(String::new(), |mut text, chunk| {
            use std::fmt::Write;
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                // Writing to a `String` does not fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
            text
        }),
    };
    let (text, is_cut) = visible(&text);
    Payload { what, text: Some(text), body_bytes: body.len(), is_cut }
}

fn read(body: &[u8]) -> Read<'_> {
    if body.is_empty() {
        return Read::Other("empty");
    }
    if body.starts_with(b"\x1f\x8b") {
        return Read::Other("compressed (gzip); LearnInk does not compress");
    }
    if body.starts_with(b"\xff\xfe") || body.starts_with(b"\xfe\xff") {
        return Read::Other("UTF-16, not UTF-8");
    }
    let Ok(text) = str::from_utf8(body) else { return Read::Other("not UTF-8") };
    match Envelope::parse(body) {
        Ok(envelope) if envelope.is_event() => Read::Event(envelope),
        Ok(_) | Err(_) if is_json(text) => Read::Json(text),
        Ok(_) | Err(_) => Read::Other("not JSON"),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The event with its `data` masked, as `learnink dlq show` has it.
fn masked_event(envelope: &Envelope) -> String {
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let timestamp = envelope.occurred_at.map_or_else(|| "null".to_owned(), |at| string(&at.to_string()));
    format!(
        r#"{{"type":{},"api_version":{},"timestamp":{timestamp},"data":{}}}"#,
        string(&envelope.event_type),
        string(&envelope.api_version),
        masked(envelope.raw_data())
    )
}

fn shown(what: &'static str, json: Option<&str>, body_bytes: usize) -> Payload {
    let Some(json) = json else { return Payload { what, text: None, body_bytes, is_cut: false } };
    let (text, is_short) = pretty(json);
    let (text, is_cut) = visible(&text);
    Payload { what, text: Some(text), body_bytes, is_cut: is_cut || is_short }
}

/// JSON with a line for each value, and whether it is cut. The tokens are as they were written.
fn pretty(json: &str) -> (String, bool) {
    let mut text = String::new();
    let mut level = 0_usize;
    let mut previous = None;
    for token in Tokens::of(json) {
        let is_end = matches!(token.kind, TokenKind::ObjectEnd | TokenKind::ArrayEnd);
        let after_start = matches!(previous, Some(TokenKind::ObjectStart | TokenKind::ArrayStart));
        if is_end {
            level = level.saturating_sub(1);
        }
        // A line ends after a comma, and at both ends of what is not empty.
        if previous == Some(TokenKind::Comma) || is_end != after_start {
            text.push('\n');
            text.extend(std::iter::repeat_n("  ", level.min(DEEPEST)));
        }
        text.push_str(json.get(token.start..token.end).unwrap_or_default());
        if text.len() > MOST_SHOWN {
            let (text, _) = cut(&text);
            return (text.to_owned(), true);
        }
        match token.kind {
            TokenKind::ObjectStart | TokenKind::ArrayStart => level += 1,
            TokenKind::Colon => text.push(' '),
            _ => {}
        }
        previous = Some(token.kind);
    }
    (text, false)
}

/// The text with hidden characters as escapes, and whether it is cut: before, so that little work is done for a large
/// body, and after, because escapes are longer.
fn visible(text: &str) -> (String, bool) {
    let (text, is_cut) = cut(text);
    let shown = visible_json(text);
    let (shown, is_cut_again) = cut(&shown);
    (shown.to_owned(), is_cut || is_cut_again)
}

/// The text up to [`MOST_SHOWN`], and whether that is not all of it.
fn cut(text: &str) -> (&str, bool) {
    let end = text.floor_char_boundary(MOST_SHOWN);
    (text.get(..end).unwrap_or(text), end < text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::history::tests::BODY;
    use super::*;

    fn text(payload: Payload) -> String {
        payload.text.unwrap()
    }

    #[test]
    fn a_masked_payload_has_the_ids_and_nothing_personal() {
        let payload = without_personal_data(BODY.as_bytes());
        assert_eq!(payload.what, "an event, without personal data");
        assert_eq!(payload.body_bytes, BODY.len());
        let text = text(payload);
        assert_eq!(
            text,
            r#"{
  "type": "notifications.sent",
  "api_version": "2022-11-15",
  "timestamp": "2025-11-06T09:58:58.233Z",
  "data": {
    "notifications": [
      {
        "title": "***",
        "body": "***",
        "path": "***",
        "user_id": "le2bB6Fi4CMgrIOIqMCJryZb9PR2",
        "custom_id": "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33",
        "phone_number": "***"
      }
    ]
  }
}"#
        );
    }

    #[test]
    fn a_revealed_payload_is_exact() {
        let body = br#"{"n":123456789012345678901234567890,"big":1e400,"a":1,"a":2,"half":"\ud83c","e":{},"l":[ ],"s":"<script>"}"#;
        assert_eq!(
            text(as_signed(body)),
            r#"{
  "n": 123456789012345678901234567890,
  "big": 1e400,
  "a": 1,
  "a": 2,
  "half": "\ud83c",
  "e": {},
  "l": [],
  "s": "<script>"
}"#
        );
    }

    #[test]
    fn an_id_with_many_digits_stays_exact_without_a_reveal() {
        let body = br#"{"type":"t","data":{"user_id":123456789012345678901234567890,"phone_number":1e400}}"#;
        let text = text(without_personal_data(body));
        assert!(text.contains("123456789012345678901234567890"), "{text}");
        assert!(!text.contains("1e400"), "{text}");
    }

    #[test]
    fn what_is_not_an_event_is_said_in_words_and_shows_nothing() {
        for (body, what) in [
            (&b""[..], "empty"),
            (b"\x1f\x8b\x08\x00Mary", "compressed (gzip); LearnInk does not compress"),
            (b"\xff\xfeM\0", "UTF-16, not UTF-8"),
            (b"Mary \xff", "not UTF-8"),
            (b"Mary", "not JSON"),
            (b"{\"type\":\"t\"", "not JSON"),
        ] {
            let payload = without_personal_data(body);
            assert_eq!((payload.what, payload.text), (what, None));
        }
        let other = without_personal_data(br#"{"success":true,"name":"Mary"}"#);
        assert!(other.what.starts_with("JSON, but not an event"));
        assert!(!text(other).contains("Mary"));
        assert_eq!(text(without_personal_data(b"\"Mary\"")), "\"***\"");
    }

    #[test]
    fn bytes_that_are_not_text_are_visible_after_a_reveal() {
        assert_eq!(text(as_signed(b"a\x00\xff\xfe<b>")), r"a\u0000\xff\xfe<b>");
        assert_eq!(text(as_signed("{\"a\":\"\u{202e}x\"}".as_bytes())), "{\n  \"a\": \"\\u202ex\"\n}");
    }

    #[test]
    fn a_long_payload_is_cut() {
        let long = format!(
            r#"{{"type":"t","data":{{"user_id":"u","notifications":[{}]}}}}"#,
            vec!["{}"; 60_000].join(",")
        );
        for payload in [without_personal_data(long.as_bytes()), as_signed(long.as_bytes())] {
            assert!(payload.is_cut);
            assert!(payload.text.unwrap().len() <= MOST_SHOWN);
        }
        for byte in [0xff, 0] {
            let binary = as_signed(&vec![byte; 1024 * 1024]);
            assert!(binary.is_cut && binary.text.unwrap().len() <= MOST_SHOWN);
        }
    }

    #[test]
    fn a_payload_may_be_nested_as_deep_as_it_is_long() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(as_signed(deep.as_bytes()).text.unwrap().len() <= MOST_SHOWN);
        let event = format!(r#"{{"type":"t","data":{deep}}}"#);
        assert!(without_personal_data(event.as_bytes()).text.is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_shown(body in prop::collection::vec(any::<u8>(), 0..200)) {
            without_personal_data(&body);
            as_signed(&body);
        }

        #[test]
        fn pretty_printing_changes_only_white_space(json in "[\\[\\]{},:\"a1 ]{0,40}") {
            if serde_json::from_str::<IgnoredAny>(&json).is_ok() {
                let tokens = |text: &str| {
                    Tokens::of(text).map(|token| text[token.start..token.end].to_owned()).collect::<Vec<_>>()
                };
                prop_assert_eq!(tokens(&pretty(&json).0), tokens(&json));
            }
        }
    }
}
