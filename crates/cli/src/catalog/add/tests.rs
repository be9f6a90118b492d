use serde_json::json;

use super::*;

const LIB: &str = include_str!("../../../../handlers/src/lib.rs");

/// The event of an invented type with this payload.
fn event(data: &Value) -> Value {
    json!({
        "object": "event", "type": "example.badge.earned", "api_version": "2022-11-15",
        "timestamp": "2025-11-06T09:58:58.233Z", "data": data
    })
}

fn given(text: &Value) -> Given {
    Given { from: "badge.json".to_owned(), text: text.to_string() }
}

/// The room for a payload, by a schema of `data`, or by the example alone.
fn room(schema: Option<Value>, data: &Value) -> String {
    let schema = schema.map(|data| json!({ "type": "object", "properties": { "data": data } }));
    let schema = schema.map(|schema| (given(&schema), Schema::parse(&schema.to_string()).unwrap()));
    let example = given(&event(data));
    let (files, lib) =
        written("example.badge.earned", "badge_earned", schema.as_ref(), &example, LIB).unwrap();
    assert!(lib.is_some_and(|lib| lib.contains("mod badge_earned;\n")));
    assert_eq!(files.len(), if schema.is_some() { 3 } else { 2 });
    files.into_iter().next_back().unwrap().text
}

/// The types of a room.
fn types(room: &str) -> &str {
    let (_, rest) = room.split_once("use serde::Deserialize;\n").unwrap();
    rest.split_once("/// The handler.").unwrap().0
}

#[test]
fn a_room_is_a_payload_a_handler_and_a_test() {
    let schema = json!({
        "type": "object",
        "required": ["user_id", "badge_name", "points"],
        "properties": {
            "user_id": { "type": "string", "description": "LearnInk's id of the learner." },
            "custom_id": { "type": ["string", "null"] },
            "badge_name": { "type": "string" },
            "points": { "type": "integer" }
        }
    });
    let data = json!({ "user_id": "u", "custom_id": null, "badge_name": "Early bird", "points": 50 });
    insta::assert_snapshot!(room(Some(schema), &data));
}

#[test]
fn names_that_rust_does_not_have_are_told_to_serde() {
    let text = json!({ "type": "string" });
    let schema = json!({
        "required": ["type", "userId", "a-b", "a b"],
        "properties": {
            "type": { "enum": ["gold", "silver"] },
            "userId": text, "a-b": text, "a b": text, "a_b": text, "": text, "1st \"\n\u{202e}": text, "self": text,
            "sport__id": { "type": "integer" }, "Event": { "properties": { "id": { "type": ["integer", "null"] } } }
        }
    });
    let data = json!({ "type": "gold", "userId": "u", "a-b": "x", "a b": "x" });
    insta::assert_snapshot!(types(&room(Some(schema), &data)));
}

#[test]
fn nested_values_have_types_of_their_own_and_what_is_not_known_stays_json() {
    let schema = json!({
        "required": ["course", "list", "flag", "score", "anything"],
        "properties": {
            "course": {
                "required": ["title", "author"],
                "properties": {
                    "title": { "type": "string", "description": "A heading,\nwith `code` and CamelCase, in as many words as it takes to fill more than one line of a hundred and ten.\n\nMore." },
                    "author": { "properties": { "name": { "type": "string" } } }
                }
            },
            "author": { "type": ["object", "null"], "properties": { "age": { "type": "number" } } },
            "list": { "type": "array", "items": { "type": ["object", "null"], "properties": { "at": { "type": "string", "format": "date-time" } } } },
            "matrix": { "items": { "items": { "type": "integer" } } },
            "flag": { "type": "boolean" },
            "score": { "type": "integer" },
            "anything": {},
            "map": { "type": "object", "additionalProperties": { "type": "string" } }
        }
    });
    let data = json!({
        "course": { "title": "t", "author": {} }, "list": [], "flag": true, "score": 1.0, "anything": null
    });
    insta::assert_snapshot!(types(&room(Some(schema), &data)));
}

#[test]
fn without_a_schema_the_example_says_what_there_is() {
    let data = json!({ "user_id": "u", "title": "t", "points": 5, "levels": [{ "rank": 1 }, { "name": "x" }], "none": null });
    let room = room(None, &data);
    insta::assert_snapshot!(types(&room));
    assert_eq!(types(&self::room(Some(json!({ "type": "object" })), &data)), types(&room));
}

#[test]
fn a_payload_without_members_is_one() {
    let room = room(None, &json!({}));
    assert!(types(&room).contains("#[derive(Debug, Clone, Deserialize)]\nstruct BadgeEarned {}\n"), "{room}");
    assert!(!room.contains("Personal"), "{room}");
}

#[test]
fn another_version_of_the_payload_is_named() {
    let mut event = event(&json!({ "id": "b" }));
    event["api_version"] = json!("2031-01-01");
    let (files, _) = written("example.badge.earned", "badge_earned", None, &given(&event), LIB).unwrap();
    let room = &files.last().unwrap().text;
    assert!(room.contains("    const API_VERSION: &'static str = \"2031-01-01\";\n"), "{room}");
}

#[test]
fn an_example_that_no_handler_could_take_is_refused_without_a_value_of_it() {
    let personal = "+254705408079";
    let schema = json!({ "properties": { "data": { "properties": { "points": { "type": "integer" } } } } });
    let schema = (given(&schema), Schema::parse(&schema.to_string()).unwrap());
    let error = |event: &Value| {
        let written = written("example.badge.earned", "badge_earned", Some(&schema), &given(event), LIB);
        let error = format!("{:#}", written.err().unwrap());
        assert!(!error.contains(personal), "{error}");
        error
    };
    let with = |name: &str, value: Value| {
        let mut event = event(&json!({ "points": 1 }));
        event[name] = value;
        error(&event)
    };
    assert_eq!(
        with("type", json!(personal)),
        "cannot use badge.json as an example: /type: it is not `example.badge.earned`, whose example this is"
    );
    assert!(with("type", json!(1)).contains("/type: it has no event type"));
    assert!(with("api_version", Value::Null).contains("/api_version: it has none"));
    assert!(with("data", json!([personal])).contains("/data: it is not an object"));
    assert_eq!(
        with("data", json!({ "points": personal })),
        "cannot use badge.json as an example: it does not fit the schema: /data/points: does not fit `\"type\": \
         \"integer\"` (schema: /properties/data/properties/points/type)"
    );
    assert!(error(&json!([personal])).contains("not an object"));
}

#[test]
fn somebody_is_asked_only_where_there_is_somebody() {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let check = |options: &str, is_terminal| {
        let line = ["add", "a"].into_iter().chain(options.split_whitespace());
        check_input(&Line::try_parse_from(line).unwrap().args, is_terminal).map_err(|error| error.to_string())
    };
    assert_eq!(
        check("", false).unwrap_err(),
        "missing: --schema FILE (or --no-schema) and --example FILE; standard input is not a terminal, so that nobody \
         can be asked"
    );
    assert!(check("--no-schema", false).unwrap_err().starts_with("missing: --example FILE;"));
    assert!(check("--schema - --example -", true).unwrap_err().starts_with("standard input is one file"));
    for fine in ["--no-schema --example -", "--schema - --example b"] {
        check(fine, false).unwrap();
    }
    check("", true).unwrap();
}
