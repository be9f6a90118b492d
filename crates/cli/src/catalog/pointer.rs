//! Where something is in JSON text, as a JSON pointer (RFC 6901).

use std::borrow::Cow;

use learnink_webhook::json::{TokenKind, Tokens, text};

/// What is open at a place in the text.
enum Open {
    /// An object, and the name of the member that is read.
    Object(Option<String>),
    /// An array, and the number of the entry that is read.
    Array(usize),
}

/// The pointer to the innermost value at a place in the text, which `serde_json` counts from 1.
pub(crate) fn at(json: &str, line: usize, column: usize) -> String {
    let line_start: usize = json.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let offset = line_start + column.saturating_sub(1);
    let mut open: Vec<Open> = Vec::new();
    let mut before = None;
    for token in Tokens::of(json) {
        let is_name = |open: &Open| matches!(open, Open::Object(_)) && before != Some(TokenKind::Colon);
        match token.kind {
            TokenKind::Text if open.last().is_some_and(is_name) => {
                let name = json.get(token.start..token.end).and_then(text);
                open.pop();
                open.push(Open::Object(name.map(Cow::into_owned)));
            }
            TokenKind::ObjectStart => open.push(Open::Object(None)),
            TokenKind::ArrayStart => open.push(Open::Array(0)),
            TokenKind::Comma => {
                if let Some(Open::Array(entry)) = open.last_mut() {
                    *entry += 1;
                }
            }
            TokenKind::ObjectEnd | TokenKind::ArrayEnd => {
                open.pop();
            }
            TokenKind::Colon | TokenKind::Text | TokenKind::Number | TokenKind::Word => {}
        }
        if offset < token.end {
            // The value that starts here is meant, and not its first member.
            if matches!(token.kind, TokenKind::ObjectStart | TokenKind::ArrayStart) {
                open.pop();
            }
            break;
        }
        before = Some(token.kind);
    }
    open.iter().map(part).collect()
}

fn part(open: &Open) -> String {
    match open {
        Open::Object(Some(name)) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        Open::Object(None) => String::new(),
        Open::Array(entry) => format!("/{entry}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    fn pointer<T: DeserializeOwned>(json: &str) -> String {
        let Err(error) = serde_json::from_str::<T>(json) else { panic!("{json} is read") };
        at(json, error.line(), error.column())
    }

    #[test]
    fn what_is_of_another_kind_is_pointed_at() {
        #[derive(Debug, Deserialize)]
        struct Inner {
            #[serde(rename = "a/b~")]
            _a: Vec<Option<i64>>,
            _b: BTreeMap<String, i64>,
        }
        type T = BTreeMap<String, Inner>;
        for (json, expected) in [
            (r#"{"x": {"a/b~": [1, null, "2"], "_b": {}}}"#, "/x/a~1b~0/2"),
            ("{\"x\": {\n  \"a/b~\": [\n1,\n 1.5], \"_b\": {}}}", "/x/a~1b~0/1"),
            (r#"{"w": {"a/b~": [], "_b": {}}, "x": {"_b": {}, "a/b~": true}}"#, "/x/a~1b~0"),
            (r#"{"x": {"a/b~": [], "_b": {"k": {"deep": 1}}}}"#, "/x/_b/k"),
            (r#"{"x": {"a/b~": [], "_b": {"k": 1, "l": null}}}"#, "/x/_b/l"),
            // The object that leaves something out.
            (r#"{"x": {"a/b~": []}, "y": {}}"#, "/x"),
            (r"[1]", ""),
        ] {
            assert_eq!(pointer::<T>(json), expected, "{json}");
        }
        assert_eq!(at("", 9, 9), "");
    }
}
