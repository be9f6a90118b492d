//! Text for a terminal: foreign data that cannot control it, and names that can be pasted into a shell.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Characters that control a terminal or are invisible: control characters, those that change the direction of
/// text, line and paragraph separators, and all of zero width that are not marks on a letter.
/// Source: Unicode Standard Annex 44, `General_Category` and `Default_Ignorable_Code_Point`.
static HIDDEN: LazyLock<Regex> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the pattern is constant, and every test here uses it")]
    Regex::new(r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]").expect("the pattern is valid")
});

/// One line of foreign text. Each character that controls a terminal or is invisible is written as an escape, such
/// as `\n` or `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    HIDDEN.replace_all(text, |found: &Captures<'_>| found[0].escape_default().to_string())
}

/// The same JSON without characters that control a terminal or are invisible, except line breaks: in its strings
/// they become escapes, and between its parts, where only white space can be, spaces.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    HIDDEN.replace_all(json, |found: &Captures<'_>| match &found[0] {
        "\n" => "\n".to_owned(),
        "\t" | "\r" => " ".to_owned(),
        hidden => hidden.encode_utf16().fold(String::new(), |mut escapes, unit| {
            // Writing to a `String` does not fail.
            let _ = write!(escapes, "\\u{unit:04x}");
            escapes
        }),
    })
}

/// A word that a shell reads as `word`, for a command or a path that is pasted. It cannot control a terminal.
///
/// Shape: unchanged if a shell reads it so, else in single quotes; with hidden characters or bytes that are not
/// UTF-8, in `$'...'`. Source: POSIX.1-2024, Shell Command Language, section 2.2.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_encoded_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,".contains(byte);
    match str::from_utf8(bytes) {
        Ok(word) if !word.is_empty() && bytes.iter().all(is_plain) => word.to_owned(),
        Ok(word) if !HIDDEN.is_match(word) => format!("'{}'", word.replace('\'', r"'\''")),
        Ok(_) | Err(_) => dollar_quoted(bytes),
    }
}

/// A word as `$'...'`.
fn dollar_quoted(bytes: &[u8]) -> String {
    let mut quoted = "$'".to_owned();
    for part in bytes.utf8_chunks() {
        let valid = part.valid().replace('\\', r"\\").replace('\'', r"\'");
        let valid = HIDDEN.replace_all(&valid, |found: &Captures<'_>| {
            let mut escapes = String::new();
            push_escapes(&mut escapes, found[0].as_bytes());
            escapes
        });
        quoted.push_str(&valid);
        push_escapes(&mut quoted, part.invalid());
    }
    quoted.push('\'');
    quoted
}

fn push_escapes(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a `String` does not fail.
        let _ = write!(quoted, r"\x{byte:02x}");
    }
}

/// An option with its value as a shell reads it. A value that starts like an option is joined to its name.
pub fn option(name: &str, value: impl AsRef<OsStr>) -> String {
    let starts_like_an_option = value.as_ref().as_encoded_bytes().starts_with(b"-");
    let separator = if starts_like_an_option { '=' } else { ' ' };
    format!("{name}{separator}{}", quoted(value))
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;

    /// Unicode's control and format characters, line and paragraph separators, and default ignorable code
    /// points. Source: `UnicodeData.txt` and `DerivedCoreProperties.txt` of Unicode 16.
    const NEVER_PRINTED: [RangeInclusive<u32>; 27] = [
        0x0..=0x1f,
        0x7f..=0x9f,
        0xad..=0xad,
        0x34f..=0x34f,
        0x600..=0x605,
        0x61c..=0x61c,
        0x6dd..=0x6dd,
        0x70f..=0x70f,
        0x890..=0x891,
        0x8e2..=0x8e2,
        0x115f..=0x1160,
        0x17b4..=0x17b5,
        0x180b..=0x180f,
        0x200b..=0x200f,
        0x2028..=0x202e,
        0x2060..=0x206f,
        0x3164..=0x3164,
        0xfe00..=0xfe0f,
        0xfeff..=0xfeff,
        0xffa0..=0xffa0,
        0xfff0..=0xfffb,
        0x110bd..=0x110bd,
        0x110cd..=0x110cd,
        0x13430..=0x1343f,
        0x1bca0..=0x1bca3,
        0x1d173..=0x1d17a,
        0xe0000..=0xe0fff,
    ];

    fn is_never_printed(c: char) -> bool {
        NEVER_PRINTED.iter().any(|range| range.contains(&u32::from(c)))
    }

    #[test]
    fn every_character_that_cannot_be_seen_is_escaped_and_no_other() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}b");
            let expected =
                if is_never_printed(c) { format!("a{}b", c.escape_default()) } else { text.clone() };
            assert_eq!(visible(&text), expected, "{:x}", u32::from(c));
        }
    }

    /// Text with many invisible characters.
    fn hostile() -> impl Strategy<Value = String> {
        let hidden = prop::sample::select(NEVER_PRINTED.to_vec())
            .prop_flat_map(|range| range)
            .prop_filter_map("not a character", char::from_u32);
        let c =
            prop_oneof![any::<char>(), hidden, prop::sample::select(vec!['\'', '\\', '"', '$', ' ', '-'])];
        prop::collection::vec(c, 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nothing_in_a_text_steers_the_terminal(text in hostile()) {
            let shown = visible(&text).into_owned();
            prop_assert!(!shown.contains(is_never_printed), "{shown:?}");
            prop_assert_eq!(visible(&shown), shown.as_str());
        }

        #[test]
        fn json_without_hidden_characters_says_the_same(text in hostile()) {
            let value = serde_json::json!({ "text": text, &text: [text] });
            for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let shown = visible_json(&json);
                prop_assert!(!shown.contains(|c| c != '\n' && is_never_printed(c)), "{shown:?}");
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&shown).unwrap(), &value);
            }
        }

        #[test]
        fn no_word_that_is_pasted_steers_the_terminal(text in hostile()) {
            prop_assert!(!quoted(&text).contains(is_never_printed));
        }
    }

    #[test]
    fn tabs_between_the_parts_of_json_become_spaces() {
        assert_eq!(visible_json("{\t\"a\":\r1}"), "{ \"a\": 1}");
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_something_else() {
        for (word, expected) in [
            ("/tmp/state-1_a.b", "/tmp/state-1_a.b"),
            ("", "''"),
            ("st sp/$x", "'st sp/$x'"),
            ("it's", r"'it'\''s'"),
            ("~/state", "'~/state'"),
            ("http://[::1]:9000/", "'http://[::1]:9000/'"),
            ("Zoë", "'Zoë'"),
            ("a\u{1b}[2J\n'\\", r"$'a\x1b[2J\x0a\'\\'"),
            ("\u{202e}x", r"$'\xe2\x80\xaex'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
        assert_eq!(option("--state", "a b"), "--state 'a b'");
        assert_eq!(option("--state", "-x"), "--state=-x");
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        use std::os::unix::ffi::OsStrExt;
        let words: [&[u8]; 6] = [
            b"a b",
            b"it's $x `y` \"z\"",
            b"\xff\x1b[2J\x80",
            b"a\nb\tc",
            "\u{202e}é".as_bytes(),
            b"*?[a]{b,c}~",
        ];
        for word in words {
            let script = format!("printf %s {}", quoted(OsStr::from_bytes(word)));
            let printed = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(printed.stdout, word, "{script}");
        }
    }
}
