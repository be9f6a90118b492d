//! JSON as another program would have written it: other white space, another order of members, other escapes.
//! Numbers and texts stay as they are written.

use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How the parts of a JSON text are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    /// Without white space: `JSON.stringify(x)`.
    Compact,
    /// One line, with a space after each `,` and `:`: Python's `json.dumps(x)`.
    Spaced,
    /// Two spaces a level: `JSON.stringify(x, null, 2)`.
    TwoSpaces,
    /// Four spaces a level: PHP's `JSON_PRETTY_PRINT`.
    FourSpaces,
    /// A tab a level.
    Tabs,
}

/// An order of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By name, at every level.
    Sorted,
    /// As in the examples of LearnInk's guide.
    OfGuide,
    /// As in LearnInk's page about `notifications.sent`.
    OfNotifications,
}

/// How a JSON text is written again. What is not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rewrite {
    pub(super) spacing: Option<Spacing>,
    pub(super) order: Option<Order>,
    /// Only the escapes that JSON requires.
    pub(super) unescape: bool,
    /// Every `\/` becomes `/`.
    pub(super) unescape_slashes: bool,
    /// Every character beyond ASCII becomes `\uXXXX`.
    pub(super) escape_unicode: bool,
    /// Every `/` becomes `\/`.
    pub(super) escape_slashes: bool,
}

/// The members of LearnInk's public examples. No name occurs at two levels.
const GUIDE: [&str; 5] = ["object", "type", "api_version", "data", "timestamp"];
const NOTIFICATIONS: [&str; 5] = ["api_version", "object", "type", "timestamp", "data"];
const DATA: [&str; 7] = ["title", "body", "path", "user_id", "custom_id", "phone_number", "course_id"];

/// A JSON text, with its parts as they are written.
#[derive(Debug)]
pub(super) struct Json<'t> {
    before: &'t str,
    value: Value<'t>,
    after: &'t str,
    /// The white space between the parts, if it is regular.
    spacing: Option<Spacing>,
}

#[derive(Debug)]
enum Value<'t> {
    /// A number, `true`, `false` or `null`.
    Literal(&'t str),
    /// With its quotes.
    Text(&'t str),
    List(Vec<Self>),
    Object(Vec<(&'t str, Self)>),
}

impl<'t> Json<'t> {
    /// `None` if the text is not a JSON object or list: other values have nothing to write differently.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let written = text.trim_matches(is_space);
        let value = Value::parse(serde_json::from_str(written).ok()?)?;
        if !matches!(value, Value::List(_) | Value::Object(_)) {
            return None;
        }
        let before = text.len() - text.trim_start_matches(is_space).len();
        let (before, rest) = text.split_at(before);
        let mut json = Self { before, value, after: rest.get(written.len()..)?, spacing: None };
        json.spacing =
            Some(likely_spacing(written)).filter(|spacing| json.value.written(*spacing) == written);
        Some(json)
    }

    /// The white space between the parts, if it is regular.
    pub(super) const fn spacing(&self) -> Option<Spacing> {
        self.spacing
    }

    /// Whether there is white space around the value.
    pub(super) const fn has_ends(&self) -> bool {
        !self.before.is_empty() || !self.after.is_empty()
    }

    /// Whether the members of every object are in this order.
    pub(super) fn is_in(&self, order: Order) -> bool {
        self.value.is_in(order)
    }

    /// The value written again, without the white space around it. `None` if its white space is irregular, and
    /// `rewrite` keeps it.
    pub(super) fn rewritten(&self, rewrite: Rewrite) -> Option<String> {
        let spacing = rewrite.spacing.or(self.spacing)?;
        let mut text = String::new();
        self.value.write(&mut text, spacing, rewrite, 0);
        Some(text)
    }

    /// A value with the white space that this one has around it.
    pub(super) fn with_ends(&self, value: &str) -> String {
        [self.before, value, self.after].concat()
    }
}

/// The white space that the beginning of a JSON text has.
fn likely_spacing(text: &str) -> Spacing {
    let Some(inner) = text.get(1..) else { return Spacing::Compact };
    for (start, spacing) in
        [("\n    ", Spacing::FourSpaces), ("\n  ", Spacing::TwoSpaces), ("\n\t", Spacing::Tabs)]
    {
        if inner.starts_with(start) {
            return spacing;
        }
    }
    // The first separator that is not within a text.
    let mut is_text = false;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if is_text => {
                bytes.next();
            }
            b'"' => is_text = !is_text,
            b':' | b',' if !is_text => {
                return if bytes.next() == Some(b' ') { Spacing::Spaced } else { Spacing::Compact };
            }
            _ => {}
        }
    }
    Spacing::Compact
}

impl<'t> Value<'t> {
    /// `None` cannot happen for valid JSON, of which `RawValue` is.
    fn parse(raw: &'t RawValue) -> Option<Self> {
        let text = raw.get();
        Some(match text.as_bytes().first()? {
            b'{' => {
                let Members(members) = serde_json::from_str(text).ok()?;
                let members =
                    members.into_iter().map(|(name, value)| Some((name.get(), Self::parse(value)?)));
                Self::Object(members.collect::<Option<_>>()?)
            }
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                Self::List(items.into_iter().map(Self::parse).collect::<Option<_>>()?)
            }
            b'"' => Self::Text(text),
            _ => Self::Literal(text),
        })
    }

    fn written(&self, spacing: Spacing) -> String {
        let mut text = String::new();
        self.write(&mut text, spacing, Rewrite::default(), 0);
        text
    }

    fn write(&self, text: &mut String, spacing: Spacing, rewrite: Rewrite, level: usize) {
        match self {
            Self::Literal(literal) => text.push_str(literal),
            Self::Text(written) => write_text(text, written, rewrite),
            Self::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    separate(text, spacing, index, level + 1);
                    item.write(text, spacing, rewrite, level + 1);
                }
                close(text, spacing, items.is_empty(), level);
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, value)) in ordered(members, rewrite.order).into_iter().enumerate() {
                    separate(text, spacing, index, level + 1);
                    write_text(text, name, rewrite);
                    text.push_str(if spacing == Spacing::Compact { ":" } else { ": " });
                    value.write(text, spacing, rewrite, level + 1);
                }
                close(text, spacing, members.is_empty(), level);
                text.push('}');
            }
        }
    }

    fn is_in(&self, order: Order) -> bool {
        match self {
            Self::Literal(_) | Self::Text(_) => true,
            Self::List(items) => items.iter().all(|item| item.is_in(order)),
            Self::Object(members) => {
                let is_ordered = match order {
                    Order::Sorted => members.is_sorted_by_key(|(name, _)| unquoted(name)),
                    Order::OfGuide => members.is_sorted_by_key(|(name, _)| position(GUIDE, name)),
                    Order::OfNotifications => {
                        members.is_sorted_by_key(|(name, _)| position(NOTIFICATIONS, name))
                    }
                };
                is_ordered && members.iter().all(|(_, value)| value.is_in(order))
            }
        }
    }
}

/// The members in an order; those that it does not know stay in theirs, at the end.
fn ordered<'v, 't>(
    members: &'v [(&'t str, Value<'t>)],
    order: Option<Order>,
) -> Vec<&'v (&'t str, Value<'t>)> {
    let mut members: Vec<_> = members.iter().collect();
    match order {
        None => {}
        Some(Order::Sorted) => members.sort_by_key(|(name, _)| unquoted(name)),
        Some(Order::OfGuide) => members.sort_by_key(|(name, _)| position(GUIDE, name)),
        Some(Order::OfNotifications) => members.sort_by_key(|(name, _)| position(NOTIFICATIONS, name)),
    }
    members
}

fn unquoted(name: &str) -> &str {
    name.trim_matches('"')
}

/// Where a member is in the examples; one that they do not have is behind them.
fn position(envelope: [&str; 5], name: &str) -> usize {
    envelope.iter().chain(&DATA).position(|known| *known == unquoted(name)).unwrap_or(usize::MAX)
}

/// The text before an item or a member.
fn separate(text: &mut String, spacing: Spacing, index: usize, level: usize) {
    if index > 0 {
        text.push(',');
    }
    match spacing {
        Spacing::Spaced if index > 0 => text.push(' '),
        Spacing::Compact | Spacing::Spaced => {}
        Spacing::TwoSpaces | Spacing::FourSpaces | Spacing::Tabs => break_line(text, spacing, level),
    }
}

fn close(text: &mut String, spacing: Spacing, is_empty: bool, level: usize) {
    if !is_empty {
        break_line(text, spacing, level);
    }
}

fn break_line(text: &mut String, spacing: Spacing, level: usize) {
    let indent = match spacing {
        Spacing::Compact | Spacing::Spaced => return,
        Spacing::TwoSpaces => "  ",
        Spacing::FourSpaces => "    ",
        Spacing::Tabs => "\t",
    };
    text.push('\n');
    (0..level).for_each(|_| text.push_str(indent));
}

/// Writes a text with its quotes.
fn write_text(text: &mut String, written: &str, rewrite: Rewrite) {
    let unescaped;
    let mut written = written;
    // Half an emoji cannot be unescaped, and stays as it is.
    if rewrite.unescape
        && written.contains('\\')
        && let Some(plain) = unescape(written)
    {
        unescaped = plain;
        written = &unescaped;
    }
    let is_changed = (rewrite.escape_unicode && !written.is_ascii())
        || ((rewrite.escape_slashes || rewrite.unescape_slashes) && written.contains('/'));
    if !is_changed {
        return text.push_str(written);
    }
    let mut chars = written.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('/') if rewrite.unescape_slashes => text.push('/'),
                escaped => text.extend([Some(c), escaped].into_iter().flatten()),
            },
            '/' if rewrite.escape_slashes => text.push_str("\\/"),
            c if rewrite.escape_unicode && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a `String` does not fail.
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            c => text.push(c),
        }
    }
}

fn unescape(written: &str) -> Option<String> {
    let plain: String = serde_json::from_str(written).ok()?;
    serde_json::to_string(&plain).ok()
}

/// The members of an object, as they are written.
struct Members<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const EVENT: &str =
        r#"{"object":"event","data":{"n":1.0,"list":[1,{"b":[],"a":{}}],"t":"a/\u00e9 \"é\" 😀\/"}}"#;

    fn rewritten(text: &str, rewrite: Rewrite) -> String {
        Json::parse(text).unwrap().rewritten(rewrite).unwrap()
    }

    fn spaced(text: &str, spacing: Spacing) -> String {
        rewritten(text, Rewrite { spacing: Some(spacing), ..Rewrite::default() })
    }

    #[test]
    fn a_text_is_written_as_other_programs_write_it() {
        let sample = r#"{"a":[1,2,{"b":null}],"c":{},"d":[],"e":""}"#;
        let value: Value = serde_json::from_str(sample).unwrap();
        let two_spaces = spaced(sample, Spacing::TwoSpaces);
        assert_eq!(two_spaces, serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(spaced(sample, Spacing::FourSpaces), two_spaces.replace("  ", "    "));
        assert_eq!(spaced(sample, Spacing::Tabs), two_spaces.replace("  ", "\t"));
        let dumps = r#"{"a": [1, 2, {"b": null}], "c": {}, "d": [], "e": ""}"#;
        assert_eq!(spaced(sample, Spacing::Spaced), dumps);
        assert_eq!(spaced(&format!(" {dumps}\n"), Spacing::Compact), sample);
    }

    #[test]
    fn the_spacing_of_a_text_is_recognised_if_it_is_regular() {
        for spacing in
            [Spacing::Compact, Spacing::Spaced, Spacing::TwoSpaces, Spacing::FourSpaces, Spacing::Tabs]
        {
            let text = spaced(EVENT, spacing);
            assert_eq!(Json::parse(&format!("{text}\n")).unwrap().spacing(), Some(spacing));
        }
        assert_eq!(Json::parse(r#"{"a":1, "b":2}"#).unwrap().spacing(), None);
    }

    #[test]
    fn escapes_are_added_and_removed_and_nothing_is_escaped_twice() {
        let with = |rewrite| rewritten(r#"["a/\u00e9 \"é\" 😀\/\\/"]"#, rewrite);
        let unescape = Rewrite { unescape: true, ..Rewrite::default() };
        assert_eq!(with(unescape), r#"["a/é \"é\" 😀/\\/"]"#);
        let unicode = Rewrite { escape_unicode: true, ..Rewrite::default() };
        assert_eq!(with(unicode), r#"["a/\u00e9 \"\u00e9\" \ud83d\ude00\/\\/"]"#);
        let slashes = Rewrite { escape_slashes: true, ..Rewrite::default() };
        assert_eq!(with(slashes), r#"["a\/\u00e9 \"é\" 😀\/\\\/"]"#);
        let unescape_slashes = Rewrite { unescape_slashes: true, ..Rewrite::default() };
        assert_eq!(with(unescape_slashes), r#"["a/\u00e9 \"é\" 😀/\\/"]"#);
        assert_eq!(rewritten(r#"["\ud83d\/"]"#, unescape), r#"["\ud83d\/"]"#);
    }

    #[test]
    fn members_are_sorted_at_every_level_or_as_in_the_guide() {
        let sorted = Rewrite { order: Some(Order::Sorted), ..Rewrite::default() };
        let event = r#"{"object":"event","type":"t","api_version":"v","data":{"user_id":"u","course_id":"c"},"timestamp":"x"}"#;
        let by_name = r#"{"api_version":"v","data":{"course_id":"c","user_id":"u"},"object":"event","timestamp":"x","type":"t"}"#;
        assert_eq!(rewritten(event, sorted), by_name);
        for (text, order) in [(by_name, Order::Sorted), (event, Order::OfGuide)] {
            let is_in = [Order::Sorted, Order::OfGuide].map(|order| Json::parse(text).unwrap().is_in(order));
            assert_eq!(is_in, [Order::Sorted, Order::OfGuide].map(|other| other == order));
        }
        let guide = Rewrite { order: Some(Order::OfGuide), ..Rewrite::default() };
        assert_eq!(rewritten(by_name, guide), event);
    }

    #[test]
    fn only_objects_and_lists_are_written_again() {
        for text in ["", "1", "\"a\"", "{", "{}}", "\u{feff}{}"] {
            assert!(Json::parse(text).is_none(), "{text}");
        }
    }
}
