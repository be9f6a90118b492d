//! The names of event types, and those of the rooms that handle them.

use anyhow::{bail, ensure};

/// The longest name of an event type. Source: Svix API, `EventTypeIn.name`.
const LONGEST_TYPE: usize = 256;

/// The longest name of a handler, which its room has as well.
const LONGEST_ROOM: usize = 64;

/// Words that a module cannot be named. Source: The Rust Reference, "Keywords", edition 2024.
const KEYWORDS: [&str; 53] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "union", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield", "_",
];

/// Whether it is a word of the language.
pub(crate) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

/// Says what is wrong with the name of an event type, if anything is. Source of the characters: Svix documentation,
/// "Event Type Format".
pub(crate) fn check_event_type(name: &str) -> anyhow::Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ensure!(
        (1..=LONGEST_TYPE).contains(&name.len()) && name.bytes().all(is_allowed),
        "invalid event type `{name}`: use 1-{LONGEST_TYPE} characters from a-z A-Z 0-9 - _ ., as the Event Catalog has it"
    );
    // Its example would be taken for the schema of another type, or not be seen in a folder.
    ensure!(
        !name.ends_with(".schema") && !name.starts_with('.'),
        "invalid event type `{name}`: the catalog's files cannot be named after a type that ends in `.schema` or \
         starts with a dot"
    );
    Ok(())
}

/// Says what is wrong with the name of a room, if anything is. The room is a module and a handler of that name.
pub(crate) fn check_room(name: &str) -> anyhow::Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    ensure!(
        (1..=LONGEST_ROOM).contains(&name.len())
            && name.bytes().all(is_allowed)
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('_')
            && !name.contains("__"),
        "invalid name `{name}` for a handler and its module: use words of a-z and 0-9 with one _ between them, a \
         letter first, and {LONGEST_ROOM} characters at most; --name sets it"
    );
    // A module of such a name hides a crate, or is the crate itself.
    let hides =
        ["alloc", "core", "lib", "main", "reqwest", "serde", "serde_json", "std", "test", "tokio", "tracing"];
    if is_keyword(name) || hides.contains(&name) || name.starts_with("learnink_") {
        bail!(
            "invalid name `{name}` for a handler and its module: Rust has another use for it; choose one with --name"
        );
    }
    Ok(())
}

/// The room's name for an event type: its last two words, such as `badge_earned` for `example.badge.earned`.
pub(crate) fn room_of(event_type: &str) -> String {
    let words: Vec<_> = event_type.split('.').map(snake_case).filter(|word| !word.is_empty()).collect();
    let start = words.len().saturating_sub(2);
    let name = words.get(start..).unwrap_or_default().join("_");
    let is_fine = name.starts_with(|first: char| first.is_ascii_lowercase()) && !is_keyword(&name);
    if is_fine { name } else { format!("on_{name}") }
}

/// Words of any kind as `snake_case`, of the characters that every name may have.
pub(crate) fn snake_case(text: &str) -> String {
    let mut name = String::new();
    let mut before = None;
    for (index, c) in text.char_indices() {
        let after = text.get(index..).and_then(|rest| rest.chars().nth(1));
        let is_word = c.is_ascii_uppercase()
            && before.is_some_and(|before: char| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_ascii_uppercase() && after.is_some_and(|after| after.is_ascii_lowercase()))
            });
        if (is_word || !c.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        }
        before = Some(c);
    }
    name.trim_end_matches('_').to_owned()
}

/// A name in `snake_case` as that of a type.
pub(crate) fn camel_case(name: &str) -> String {
    let words = name.split('_').filter(|word| !word.is_empty());
    words
        .flat_map(|word| word.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(word.chars().skip(1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_what_svix_allows() {
        for name in ["user.course.started", "A-b_9", &"x".repeat(256)] {
            check_event_type(name).unwrap();
        }
        for name in ["", "a b", "a/b", "..", ".a", "über", "a\n", &"x".repeat(257), "a.schema"] {
            assert!(check_event_type(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_room_is_named_after_the_last_words_of_its_type() {
        for (event_type, room) in [
            ("example.badge.earned", "badge_earned"),
            ("notifications.sent", "notifications_sent"),
            ("ping", "ping"),
            ("org.HTTPServer-v2.courseCompleted", "http_server_v2_course_completed"),
            ("a.2fa", "a_2fa"),
            ("example.2fa.reset", "on_2fa_reset"),
            ("match", "on_match"),
            ("a..b", "a_b"),
        ] {
            assert_eq!(room_of(event_type), room);
            check_room(room).unwrap();
        }
        // One has to be chosen.
        assert!(check_room(&room_of("-.-")).is_err());
        assert!(check_room(&room_of(&"x".repeat(65))).is_err());
    }

    #[test]
    fn a_room_is_a_module_and_a_handler() {
        for name in [
            "",
            "Badge",
            "1a",
            "_a",
            "a-b",
            "a.b",
            "a_",
            "a__b",
            "type",
            "lib",
            "serde",
            "learnink_aws",
            &"x".repeat(65),
        ] {
            assert!(check_room(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_are_as_rust_has_them() {
        for (text, snake, camel) in [
            ("userId", "user_id", "UserId"),
            ("HTTPStatus", "http_status", "HttpStatus"),
            ("custom id", "custom_id", "CustomId"),
            ("--x__y-", "x_y", "XY"),
            ("straße", "stra_e", "StraE"),
            ("type", "type", "Type"),
            ("9lives", "9lives", "9lives"),
            ("", "", ""),
        ] {
            assert_eq!((snake_case(text).as_str(), camel_case(&snake_case(text)).as_str()), (snake, camel));
        }
    }
}
