//! JSON as other programs write it.
//!
//! Two correct programs may still not read each other's JSON: RFC 8259 does not define an escape of half a
//! character, a number beyond any double, or a name that occurs twice. `serde_json` refuses the whole text for
//! each of these. [`read`] reads strictly first, which has no extra cost. If that fails, it reads once more over a
//! text in which
//!
//! - `\ud83c` without its other half is `\ufffd`, the replacement character, as in every language whose strings are
//!   Unicode;
//! - a number beyond any double, such as `1e999`, is `null`, as JavaScript would write it;
//! - of several members of one name the last one counts, as in JavaScript, Python and Go.
//!
//! Changed text keeps its length, so that an error still names the right position. All of this is done without
//! recursion: a text may be nested as deep as it is long.

use std::borrow::Cow;

use memchr::memchr2;
use serde::de::{DeserializeOwned, IgnoredAny};

/// Reads a value from JSON text, strictly if possible.
///
/// # Errors
///
/// That of the strict reading if there was nothing to change, and otherwise that of the second one.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match repaired(text, Overflow::Null) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => serde_json::from_str(&text),
    }
}

/// The text of a JSON string with its quotes; `None` if it is not one.
pub fn text(string: &str) -> Option<Cow<'_, str>> {
    let inner = string.strip_prefix('"')?.strip_suffix('"')?;
    // Only with an escape, a quote or a control character does the text differ from its JSON.
    if !inner.bytes().any(|byte| byte == b'\\' || byte == b'"' || byte < b' ') {
        return Some(Cow::Borrowed(inner));
    }
    read(string).ok().map(Cow::Owned)
}

/// How to treat a number that no double can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It stays as it is: the next reader may have larger numbers.
    Keep,
    /// It is `null`.
    Null,
}

/// JSON text with whole characters, one member of each name in an object, and numbers as `overflow` says. Text
/// that needs no change is borrowed. The result has the same length, and each part keeps its position.
///
/// Text that is not JSON is borrowed as well.
pub fn repaired(text: &str, overflow: Overflow) -> Cow<'_, str> {
    let mut repair = Repair { text, bytes: Cow::Borrowed(text.as_bytes()), blanks: Vec::new() };
    repair.walk(overflow);
    repair.blank();
    match repair.bytes {
        // The repaired place may be the reason why the text is not JSON.
        Cow::Owned(bytes) if is_json(text) => {
            String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
        }
        _ => Cow::Borrowed(text),
    }
}

/// Whether it is JSON, even with odd values.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// One token of JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it starts, in bytes.
    pub start: usize,
    /// Where it ends: the next byte is not part of it.
    pub end: usize,
}

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// `{`
    ObjectStart,
    /// `}`
    ObjectEnd,
    /// `[`
    ArrayStart,
    /// `]`
    ArrayEnd,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A string, with its quotes.
    Text,
    /// A number.
    Number,
    /// `true`, `false` or `null`.
    Word,
}

/// The tokens of JSON text, such as that of a [`RawValue`](serde_json::value::RawValue). They do not check it:
/// text that is not JSON ends early, or has meaningless tokens.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    /// The tokens of `text`, from its start.
    pub const fn of(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0 }
    }

    fn rest(&self, from: usize) -> &'a [u8] {
        self.text.get(from..).unwrap_or_default()
    }

    /// Where the string ends that starts at `start`.
    fn end_of_text(&self, start: usize) -> Option<usize> {
        let mut at = start + 1;
        loop {
            let found = at + memchr2(b'"', b'\\', self.rest(at))?;
            match self.text.get(found) {
                Some(b'"') => return Some(found + 1),
                // An escaped character does not end the string.
                _ => at = found + 2,
            }
        }
    }

    fn end_where_not(&self, start: usize, is_inside: impl Fn(u8) -> bool) -> usize {
        start + self.rest(start).iter().take_while(|byte| is_inside(**byte)).count()
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let start = self.end_where_not(self.at, |byte| byte.is_ascii_whitespace());
        let one = |kind| Some((kind, start + 1));
        let (kind, end) = match self.text.get(start)? {
            b'{' => one(TokenKind::ObjectStart),
            b'}' => one(TokenKind::ObjectEnd),
            b'[' => one(TokenKind::ArrayStart),
            b']' => one(TokenKind::ArrayEnd),
            b':' => one(TokenKind::Colon),
            b',' => one(TokenKind::Comma),
            b'"' => self.end_of_text(start).map(|end| (TokenKind::Text, end)),
            b'-' | b'0'..=b'9' => {
                let is_of_a_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                Some((TokenKind::Number, self.end_where_not(start, is_of_a_number)))
            }
            b'a'..=b'z' => {
                Some((TokenKind::Word, self.end_where_not(start, |byte| byte.is_ascii_lowercase())))
            }
            _ => None,
        }?;
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// A text under repair: copied at the first change.
struct Repair<'a> {
    text: &'a str,
    bytes: Cow<'a, [u8]>,
    /// The ranges to blank. Any two are separate, or one is within the other.
    blanks: Vec<(usize, usize)>,
}

/// A member of an open object.
struct Member {
    key: Token,
    /// Where it ends, including the comma after it; not known for the last one.
    end: usize,
}

impl Repair<'_> {
    fn walk(&mut self, overflow: Overflow) {
        // The members of all open objects, one object's after another's, and where each object's start; an array
        // has none.
        let mut members: Vec<Member> = Vec::new();
        let mut open: Vec<Option<usize>> = Vec::new();
        let mut previous = None;
        for token in Tokens::of(self.text) {
            match token.kind {
                TokenKind::ObjectStart => open.push(Some(members.len())),
                TokenKind::ArrayStart => open.push(None),
                TokenKind::ArrayEnd => {
                    open.pop();
                }
                TokenKind::ObjectEnd => {
                    if let Some(Some(first)) = open.pop() {
                        self.drop_repeated(members.get_mut(first..).unwrap_or_default());
                        members.truncate(first);
                    }
                }
                TokenKind::Colon => members.extend(previous.map(|key| Member { key, end: token.end })),
                TokenKind::Comma => {
                    if let (Some(Some(_)), Some(last)) = (open.last(), members.last_mut()) {
                        last.end = token.end;
                    }
                }
                TokenKind::Text => self.complete_characters(token),
                TokenKind::Number => {
                    if overflow == Overflow::Null && self.is_beyond_a_double(token) {
                        self.write_null(token);
                    }
                }
                TokenKind::Word => {}
            }
            previous = Some(token);
        }
    }

    /// Blanks all members of an object but the last one of each name.
    fn drop_repeated(&mut self, members: &mut [Member]) {
        if members.len() < 2 {
            return;
        }
        // Stable, so that those of one name stay in their order.
        members.sort_by_cached_key(|member| self.name(member.key));
        let pairs = members.windows(2).filter_map(|pair| match pair {
            [one, next] if self.name(one.key) == self.name(next.key) => Some((one.key.start, one.end)),
            _ => None,
        });
        let repeated: Vec<_> = pairs.collect();
        self.blanks.extend(repeated);
    }

    fn name(&self, key: Token) -> Cow<'_, str> {
        let raw = self.text.get(key.start..key.end).unwrap_or_default();
        text(raw).unwrap_or(Cow::Borrowed(raw))
    }

    /// Writes the replacement character for each lone half of a character in a string.
    fn complete_characters(&mut self, string: Token) {
        let mut at = string.start;
        let escape = |at: usize| code_unit(self.text.as_bytes().get(at..string.end)?);
        let mut alone = Vec::new();
        let rest = |at: usize| self.text.as_bytes().get(at..string.end).unwrap_or_default();
        while let Some(found) = memchr::memchr(b'\\', rest(at)) {
            at += found;
            at += match (escape(at), escape(at + ESCAPE_BYTES)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE_BYTES,
                (Some(0xD800..=0xDFFF), _) => {
                    alone.push(at);
                    ESCAPE_BYTES
                }
                (Some(_), _) => ESCAPE_BYTES,
                (None, _) => 2,
            };
        }
        for at in alone {
            self.write(at, REPLACEMENT);
        }
    }

    fn is_beyond_a_double(&self, number: Token) -> bool {
        // A double can hold any number with few characters and without an exponent.
        let raw = self.text.get(number.start..number.end).unwrap_or_default();
        (raw.len() > 300 || raw.contains(['e', 'E']))
            && is_json(raw)
            && serde_json::from_str::<f64>(raw).is_err()
    }

    fn write_null(&mut self, number: Token) {
        // Every such number is longer than this.
        self.write(number.start, b"null");
        let start = number.start + b"null".len();
        if start < number.end {
            self.blanks.push((start, number.end));
        }
    }

    fn write(&mut self, at: usize, new: &[u8]) {
        if let Some(old) = self.bytes.to_mut().get_mut(at..at + new.len()) {
            old.copy_from_slice(new);
        }
    }

    /// Overwrites the ranges with spaces, and keeps line ends, because positions count lines.
    fn blank(&mut self) {
        if self.blanks.is_empty() {
            return;
        }
        self.blanks.sort_unstable();
        let bytes = self.bytes.to_mut();
        // Each byte once, however deep the blanks are nested.
        let mut done = 0;
        for (start, end) in &self.blanks {
            for byte in bytes.get_mut(done.max(*start)..*end).unwrap_or_default() {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            done = done.max(*end);
        }
    }
}

/// The length of `\ufffd`, and of every such escape.
const ESCAPE_BYTES: usize = 6;

/// The replacement character, for a lone half of a character.
const REPLACEMENT: &[u8; ESCAPE_BYTES] = br"\ufffd";

/// The UTF-16 code unit of an escape, such as `\ud83c`, at the start of `text`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        read(text).unwrap()
    }

    #[test]
    fn a_text_without_an_escape_is_borrowed_and_what_is_no_string_is_none() {
        for (json, expected) in
            [(r#""Hi Mary!""#, "Hi Mary!"), (r#""""#, ""), ("\"\u{e9} \u{7f}\"", "\u{e9} \u{7f}")]
        {
            assert!(matches!(text(json), Some(Cow::Borrowed(text)) if text == expected), "{json}");
        }
        for (json, expected) in [
            (r#""a\n\u00e9\"""#, Some("a\n\u{e9}\"")),
            (r#""a\ud800""#, Some("a\u{fffd}")),
            (r#""a"b""#, None),
            ("\"a\u{1}\"", None),
            (r#""a\""#, None),
            (r#""a"#, None),
            (r#"""#, None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(text(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn half_a_character_is_the_replacement_character_and_a_whole_one_stays() {
        for (raw, expected) in [
            (r#""cut \ud83c""#, "cut \u{FFFD}"),
            (r#""\uD83Cx""#, "\u{FFFD}x"),
            (r#""\udf89""#, "\u{FFFD}"),
            (r#""\ud83c\udf89""#, "\u{1F389}"),
            (r#""\uD83C\uDF89""#, "\u{1F389}"),
            // Two halves in the wrong order, and a half before a whole character.
            (r#""\udf89\ud83c""#, "\u{FFFD}\u{FFFD}"),
            (r#""\ud83c\ud83c\udf89""#, "\u{FFFD}\u{1F389}"),
            (r#""\ud83c\u0041""#, "\u{FFFD}A"),
            (r#""\ud83c\n""#, "\u{FFFD}\n"),
            // A backslash, and letters that only look like an escape.
            (r#""\\ud83c""#, r"\ud83c"),
            (r#""\\\ud83c""#, "\\\u{FFFD}"),
            (r#""\ud83c\\udf89""#, "\u{FFFD}\\udf89"),
            (r#""é\ud83cé""#, "é\u{FFFD}é"),
        ] {
            assert_eq!(value(raw), json!(expected), "{raw}");
            assert_eq!(text(raw).unwrap(), expected, "{raw}");
        }
    }

    #[test]
    fn half_a_character_is_mended_in_names_and_at_any_depth() {
        let text = r#"{"a\ud83c":[{"b":"\udc00"}],"c":1}"#;
        assert_eq!(value(text), json!({ "a\u{FFFD}": [{ "b": "\u{FFFD}" }], "c": 1 }));
    }

    #[test]
    fn of_several_members_of_one_name_the_last_counts() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Learner {
            id: String,
            score: Option<u8>,
        }
        let learner = |id: &str| Learner { id: id.to_owned(), score: Some(1) };
        for text in [
            r#"{"id":"a","id":"b","score":1}"#,
            r#"{"id":{"deep":[1,{"id":"x"}]},"score":2,"id":"b","score":1}"#,
            r#"{"id":"a","\u0069d":"b","score":1}"#,
            r#"{"\u0069d":"a", "id" : "c" , "id":"b","score":1}"#,
        ] {
            assert_eq!(read::<Learner>(text).unwrap(), learner("b"), "{text}");
        }
        let nested = r#"{"a":{"a":{"a":1},"a":2},"a":{"b":1,"b":[{"c":1,"c":2}]}}"#;
        assert_eq!(repaired(nested, Overflow::Keep).replace(' ', ""), r#"{"a":{"b":[{"c":2}]}}"#);
    }

    #[test]
    fn a_number_that_nothing_can_hold_is_null_where_somebody_needs_numbers() {
        assert_eq!(
            value(r#"{"score":1e999,"next":-1E+999,"id":1}"#),
            json!({ "score": null, "next": null, "id": 1 })
        );
        let digits = "9".repeat(400);
        assert_eq!(value(&format!("[{digits},0.1e1]")), json!([null, 1.0]));
        let text = r#"[1e999, "\ud83c"]"#;
        assert_eq!(repaired(text, Overflow::Keep), r#"[1e999, "\ufffd"]"#);
        assert_eq!(repaired(text, Overflow::Null), r#"[null , "\ufffd"]"#);
    }

    #[test]
    fn an_error_says_the_place_in_the_text_that_was_sent() {
        #[derive(Debug, Deserialize)]
        struct Learner {
            #[expect(dead_code, reason = "only read")]
            id: String,
        }
        let error = |text: &str| read::<Learner>(text).unwrap_err();
        let plain = error("{\"x\":\"......\",\n\"y\":0.123,\n\"id\":[]}");
        let odd = error("{\"x\":\"\\ud83c\",\n\"y\":1e999,\n\"id\":[]}");
        assert_eq!((odd.line(), odd.column()), (plain.line(), plain.column()));
        let (plain, twice) = (error("{\"x\":\n1, \"id\":[]}"), error("{\"id\":\n1, \"id\":[]}"));
        assert_eq!((twice.line(), twice.column()), (plain.line(), plain.column()));
    }

    #[test]
    fn no_depth_fails_what_does_not_need_it_or_overflows_the_stack() {
        #[derive(Debug, Deserialize)]
        struct Learner {
            id: String,
        }
        for levels in [127, 128, 129, 100_000, 1_000_000] {
            let arrays = format!(r#"{{"deep":{}{},"id":"\ud83c"}}"#, "[".repeat(levels), "]".repeat(levels));
            assert_eq!(read::<Learner>(&arrays).unwrap().id, "\u{FFFD}");
        }
        for levels in [128, 200_000] {
            let objects =
                format!(r#"{{"id":"\ud83c","a":{}1{}}}"#, r#"{"a":"#.repeat(levels), "}".repeat(levels));
            assert_eq!(read::<Learner>(&objects).unwrap().id, "\u{FFFD}");
            // Each object is repeated, and its copy is nested in the next one.
            let inner = format!("{}1{}", r#"{"a":"#.repeat(levels), r#","a":2}"#.repeat(levels));
            assert_eq!(repaired(&inner, Overflow::Keep).replace(' ', ""), r#"{"a":2}"#);
        }
    }

    #[test]
    fn what_is_not_json_stays_refused() {
        for text in [
            "",
            "{",
            "{\"a\":\"\\ud83c\"",
            "[\"\\ud83c\",]",
            "\"\\ud8",
            "\"\\ud83c\0\"",
            "{\"a\":1,\"a\"}",
            "\"\\",
        ] {
            assert!(read::<Value>(text).is_err(), "{text}");
        }
        for text in [
            r#"{"a":1,,"a":2}"#,
            r#"{"a":[1 2],"a":2}"#,
            "[1e  ]",
            "[01e999]",
            "[-1e+ ,1]",
            r#"["\ud83c" 1]"#,
        ] {
            assert!(matches!(repaired(text, Overflow::Null), Cow::Borrowed(_)), "{text}");
            assert!(read::<Value>(text).is_err(), "{text}");
        }
        assert_eq!(text("a"), None);
        assert_eq!(text(r#""a"b""#), None);
        assert_eq!(text("\"a\nb\""), None);
    }

    /// The inside of a string: characters, escapes, and escapes of halves, whole or cut.
    fn any_inside() -> impl Strategy<Value = String> {
        let hex = |unit: u16| prop_oneof![Just(format!("\\u{unit:04x}")), Just(format!("\\u{unit:04X}"))];
        let half = (0xD800_u16..=0xDFFF).prop_flat_map(hex);
        let unit = any::<u16>().prop_flat_map(hex);
        let escape = proptest::sample::select(
            &[r"\\", r#"\""#, r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", "u", "d83c"][..],
        );
        let character = any::<char>()
            .prop_filter("escaped in JSON", |c| *c >= ' ' && *c != '"' && *c != '\\')
            .prop_map(String::from);
        let part = prop_oneof![4 => half, 1 => unit, 2 => escape.prop_map(str::to_owned), 1 => character];
        proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    /// The text as read by a language whose strings are UTF-16 code units, with its halves replaced: in Python,
    /// `json.loads(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")`.
    fn as_elsewhere(inside: &str) -> String {
        let mut units: Vec<u16> = Vec::new();
        let mut rest = inside.chars();
        while let Some(character) = rest.next() {
            let character = match (character, character == '\\') {
                (_, true) => match rest.next().unwrap() {
                    'u' => {
                        let digits: String = rest.by_ref().take(4).collect();
                        units.push(u16::from_str_radix(&digits, 16).unwrap());
                        continue;
                    }
                    'b' => '\u{8}',
                    'f' => '\u{C}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                },
                (character, false) => character,
            };
            units.extend(character.encode_utf16(&mut [0; 2]).iter());
        }
        String::from_utf16_lossy(&units)
    }

    /// Any JSON, without a name twice.
    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_string_is_read_as_others_read_it(inside in any_inside()) {
            let string = format!("\"{inside}\"");
            prop_assert_eq!(read::<String>(&string).unwrap(), as_elsewhere(&inside));
            prop_assert_eq!(text(&string).unwrap(), as_elsewhere(&inside));
            let is_whole = serde_json::from_str::<String>(&string).is_ok();
            prop_assert_eq!(matches!(repaired(&string, Overflow::Null), Cow::Borrowed(_)), is_whole);
        }

        #[test]
        fn json_that_can_be_read_is_not_changed(json in any_json()) {
            for text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                prop_assert!(matches!(repaired(&text, Overflow::Null), Cow::Borrowed(_)));
                let tokens: Vec<_> = Tokens::of(&text).map(|token| &text[token.start..token.end]).collect();
                prop_assert_eq!(value(&tokens.concat()), value(&text));
            }
        }

        #[test]
        fn a_document_with_halves_is_read_whole(
            members in proptest::collection::vec((any_inside(), any_inside()), 0..6),
        ) {
            let text = members.iter().map(|(key, value)| format!("\"{key}\":[\"{value}\"]"));
            let text = format!("{{{}}}", text.collect::<Vec<_>>().join(","));
            let expected: BTreeMap<_, _> = members
                .iter()
                .map(|(key, value)| (as_elsewhere(key), vec![as_elsewhere(value)]))
                .collect();
            prop_assert_eq!(read::<BTreeMap<String, Vec<String>>>(&text).unwrap(), expected);
        }

        #[test]
        fn nothing_panics_and_the_length_stays(text in r#"[\[\]{}:,"a1e\\u0-9dD8\n -]{0,40}"#) {
            let changed = repaired(&text, Overflow::Null);
            prop_assert_eq!(changed.len(), text.len());
            // Text that is JSON stays JSON, and other text does not become JSON.
            prop_assert_eq!(is_json(&changed), is_json(&text));
        }

        #[test]
        fn any_text_is_walked_to_an_end(text in any::<String>()) {
            prop_assert_eq!(repaired(&text, Overflow::Null).len(), text.len());
            let _ = super::text(&text);
        }
    }
}
