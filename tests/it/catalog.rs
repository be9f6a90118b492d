//! `learnink catalog`, in the checkout and in copies of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use learnink_tests::{read, root};
use serde_json::{Value, json};

use crate::command::{learnink, text};

/// Personal data, which no line may repeat.
const PERSONAL: &str = "+254705408079";

const LIB: &str = "crates/handlers/src/lib.rs";

/// A folder with what the catalog is about, and beside it a schema and an example of an invented type.
struct Checkout(tempfile::TempDir);

impl Checkout {
    fn new() -> Self {
        let checkout = Self(tempfile::tempdir().unwrap());
        for folder in ["events", "crates/handlers/src"] {
            fs::create_dir_all(checkout.0.path().join(folder)).unwrap();
            for entry in fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
                let file = format!("{folder}/{}", entry.file_name().to_str().unwrap());
                if entry.file_type().unwrap().is_file() {
                    checkout.write(&file, &read(&file));
                }
            }
        }
        checkout.write("badge.schema.json", &schema().to_string());
        checkout.write("badge.json", &event().to_string());
        checkout
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap()
    }

    fn run(&self, arguments: &str) -> Output {
        let arguments: Vec<_> = ["catalog"].into_iter().chain(arguments.split_whitespace()).collect();
        let mut command = learnink(&arguments);
        command.current_dir(self.0.path().join("crates/handlers")).output().unwrap()
    }

    /// What a command that succeeds prints.
    fn printed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Why a command fails, which has changed nothing.
    fn failure(&self, arguments: &str) -> String {
        let before = files(self.0.path());
        let output = self.run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {error}");
        assert_eq!(files(self.0.path()), before, "{arguments}");
        assert!(!error.contains(PERSONAL), "{error}");
        error
    }

    /// The arguments that add the invented type.
    fn add(options: &str) -> String {
        format!(
            "add example.test.added --schema ../../badge.schema.json --example ../../badge.json {options}"
        )
    }
}

/// All files below a folder, and what is in them.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.to_str().unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
    all
}

fn schema() -> Value {
    let data = json!({
        "type": "object",
        "required": ["user_id", "points"],
        "properties": {
            "user_id": { "type": "string" },
            "badge_name": { "type": ["string", "null"] },
            "points": { "type": "integer" }
        }
    });
    json!({ "type": "object", "required": ["type", "data"], "properties": { "data": data } })
}

fn event() -> Value {
    json!({
        "object": "event", "type": "example.test.added", "api_version": "2022-11-15",
        "data": { "user_id": "u", "badge_name": PERSONAL, "points": 50 }, "timestamp": "2025-11-06T09:58:58.233Z"
    })
}

#[test]
fn the_catalog_of_this_repository_is_right() {
    let output = learnink(&["catalog", "check"]).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).starts_with("`events/` is fine: "), "{}", text(&output.stdout));
}

#[test]
fn the_catalog_says_what_there_is_of_each_type() {
    let checkout = Checkout::new();
    checkout.write("events/example.schema-only.schema.json", "{}");
    let table = checkout.printed("");
    assert_eq!(table, checkout.printed("list"));
    for line in [
        "Type\tSchema\tExample\tHandler",
        "example.unknown\tno\tyes\tunknown",
        "example.schema-only\tyes\tno\tunknown",
        "notifications.sent\tyes\tyes\tpush",
    ] {
        assert!(table.lines().any(|other| other == line), "{line}:\n{table}");
    }
    assert!(table.contains("user.course.started\tyes\tyes\tprogress"), "{table}");

    let rows: Vec<Value> = serde_json::from_str(&checkout.printed("--json")).unwrap();
    let sent = json!({ "type": "notifications.sent", "schema": true, "example": true, "handlers": ["push"] });
    assert!(rows.contains(&sent), "{rows:?}");
    assert_eq!(checkout.printed("list --json"), checkout.printed("--json"));
}

#[test]
fn a_type_is_added_whole() {
    let checkout = Checkout::new();
    let said = checkout.printed(&Checkout::add(""));
    assert_eq!(
        said,
        "wrote events/example.test.added.schema.json\n\
         wrote events/example.test.added.json\n\
         wrote crates/handlers/src/test_added.rs\n\
         added `mod test_added;` and `.merge(test_added::router(env)?)` to crates/handlers/src/lib.rs\n"
    );
    assert_eq!(checkout.read("events/example.test.added.json"), format!("{}\n", event()));
    assert_eq!(checkout.read("events/example.test.added.schema.json"), format!("{}\n", schema()));
    let room = checkout.read("crates/handlers/src/test_added.rs");
    for part in
        ["badge_name: Option<Personal<String>>,", "points: i64,", "user_id: String,", ".on(\"test_added\","]
    {
        assert!(room.contains(part), "{part}:\n{room}");
    }
    assert!(!room.contains(PERSONAL));
    let lib = checkout.read(LIB);
    let (module, line) =
        ("mod test_added;\n", "        // Yours.\n        .merge(test_added::router(env)?)\n");
    assert!(lib.contains(module) && lib.contains(line), "{lib}");
    assert_eq!(lib.replace(module, "").replace(line, "        // Yours.\n"), read(LIB));

    checkout.printed("check");
    assert!(checkout.printed("").contains("example.test.added\tyes\tyes\tunknown\n"));
    // Once.
    let again = checkout.failure(&Checkout::add("--name added"));
    assert!(again.contains("events/example.test.added.schema.json is there already"), "{again}");
}

#[test]
fn the_lines_are_shown_where_they_cannot_be_added_or_are_not_to_be() {
    let expected = "  mod added;\n  .merge(added::router(env)?)\n";
    let checkout = Checkout::new();
    let said = checkout.printed(&Checkout::add("--name added --print"));
    assert!(said.contains("add these two lines") && said.ends_with(expected), "{said}");
    assert_eq!(checkout.read(LIB), read(LIB));

    let checkout = Checkout::new();
    let lib = read(LIB).replace("// Yours.", "// Mine.");
    checkout.write(LIB, &lib);
    let said = checkout.printed(&Checkout::add("--name added"));
    assert!(said.contains("it does not look as expected") && said.ends_with(expected), "{said}");
    assert_eq!(checkout.read(LIB), lib);
    assert!(checkout.read("crates/handlers/src/added.rs").contains(".on(\"added\","));
}

#[test]
fn a_type_may_have_no_schema_and_its_example_may_be_piped() {
    let checkout = Checkout::new();
    let mut command = learnink(&["catalog", "add", "example.test.added", "--no-schema", "--example", "-"]);
    command.current_dir(checkout.0.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("\u{feff}{}\r\n\r\n", event()).as_bytes()).unwrap();
    assert!(process.wait().unwrap().success());
    assert!(!checkout.0.path().join("events/example.test.added.schema.json").exists());
    assert_eq!(checkout.read("events/example.test.added.json"), format!("{}\n", event()));
    assert!(checkout.read("crates/handlers/src/test_added.rs").contains("points: Option<i64>,"));
}

#[test]
fn where_anything_is_wrong_nothing_is_written() {
    let checkout = Checkout::new();
    let path = |file: &str| format!("../../{file}");
    let files = |schema: &str, example: &str| {
        format!("add example.test.added --schema {} --example {}", path(schema), path(example))
    };
    let changed = |pointer: &str, value: Value| {
        let mut event = event();
        *event.pointer_mut(pointer).unwrap() = value;
        checkout.write("other.json", &event.to_string());
        checkout.failure(&files("badge.schema.json", "other.json"))
    };
    let contains = |error: &str, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };

    // The example.
    let error = changed("/type", json!(format!("example.{PERSONAL}")));
    contains(&error, &["other.json as an example: /type: it is not `example.test.added`"]);
    let error = changed("/data/points", json!(PERSONAL));
    contains(
        &error,
        &["/data/points: does not fit `\"type\": \"integer\"`", "schema: /properties/data/properties/points"],
    );
    contains(&changed("/api_version", Value::Null), &["/api_version: it has none"]);
    contains(&changed("/data", json!({})), &["\"user_id\" is missing", "\"points\" is missing", "/data: "]);
    checkout.write("other.json", &format!("{{\"type\": \"{PERSONAL}\","));
    contains(
        &checkout.failure(&files("badge.schema.json", "other.json")),
        &["it is not JSON", "line 1 column"],
    );
    checkout.write("other.json", "");
    contains(&checkout.failure(&files("badge.schema.json", "other.json")), &["it is not JSON"]);
    contains(&checkout.failure(&files("badge.schema.json", "none.json")), &["cannot read ../../none.json"]);

    // The schema. An event is none.
    contains(
        &checkout.failure(&files("badge.json", "badge.json")),
        &["badge.json: it is not a JSON Schema: ", "/type"],
    );
    for (schema, part) in [
        ("[]", "must be a JSON object"),
        ("{", "it is not JSON"),
        (r#"{"$ref": "http://127.0.0.1:1/a.json"}"#, "nothing is fetched"),
        (r##"{"$ref": "#/nowhere"}"##, "which it does not have"),
    ] {
        checkout.write("other.json", schema);
        contains(
            &checkout.failure(&files("other.json", "badge.json")),
            &["cannot use ../../other.json", part],
        );
    }
    contains(&checkout.failure(&files("none.json", "badge.json")), &["cannot read ../../none.json"]);
    fs::write(checkout.0.path().join("other.json"), b"\"\xff\"").unwrap();
    contains(&checkout.failure(&files("other.json", "badge.json")), &["it is not UTF-8"]);

    // The names.
    let as_type =
        |event_type: &str| files("badge.schema.json", "badge.json").replace("example.test.added", event_type);
    for event_type in ["a/b", "über", "../a", &"x".repeat(257)] {
        contains(&checkout.failure(&as_type(event_type)), &["invalid event type", "a-z A-Z 0-9 - _ ."]);
    }
    contains(&checkout.failure(&as_type("example.schema")), &["invalid event type"]);
    contains(
        &checkout.failure(&as_type("user.course.started")),
        &["events/user.course.started.schema.json is there already"],
    );
    for name in ["Badge", "type", "../a", "a-b", "serde"] {
        contains(&checkout.failure(&Checkout::add(&format!("--name {name}"))), &["invalid name", "--name"]);
    }
    for (name, part) in [
        ("enrolments", "crates/handlers/src/enrolments.rs is there already"),
        ("push", "taken in crates/handlers/src/lib.rs"),
    ] {
        contains(&checkout.failure(&Checkout::add(&format!("--name {name}"))), &[part, "--name"]);
    }

    // What is missing.
    let error = checkout.failure("add example.test.added");
    contains(&error, &["missing: --schema FILE (or --no-schema) and --example FILE", "not a terminal"]);
    let error = checkout.failure(&format!("add example.test.added --schema {}", path("badge.schema.json")));
    contains(&error, &["missing: --example FILE"]);
}

#[test]
fn a_type_that_has_a_handler_is_not_added_even_without_files() {
    let checkout = Checkout::new();
    for file in ["events/notifications.sent.json", "events/notifications.sent.schema.json"] {
        fs::remove_file(checkout.0.path().join(file)).unwrap();
    }
    let error = checkout.failure(&Checkout::add("").replace("example.test.added", "notifications.sent"));
    assert!(error.contains("the handler `push` takes it already"), "{error}");
    // One that is not built yet.
    let room = "impl Payload for B {\n    const TYPE: &'static str = \"example.test.added\";\n}\n";
    checkout.write("crates/handlers/src/other.rs", room);
    let error = checkout.failure(&Checkout::add(""));
    assert!(error.contains("other.rs takes it already"), "{error}");
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let checkout = Checkout::new();
    // The schema is written, and the name of the example's file is too long for a file system.
    let event_type = format!("example.{}", "x".repeat(240));
    let mut event = event();
    event["type"] = json!(event_type);
    checkout.write("badge.json", &event.to_string());
    let error = checkout.failure(&Checkout::add("--name long").replace("example.test.added", &event_type));
    assert!(error.contains("cannot write events/example.xxx"), "{error}");
}

#[test]
fn a_catalog_with_mistakes_is_told_line_by_line() {
    let checkout = Checkout::new();
    let mut event = event();
    event["data"]["points"] = json!(PERSONAL);
    checkout.write("events/example.test.added.json", &event.to_string());
    checkout.write("events/example.test.added.schema.json", &schema().to_string());
    let started = read("events/user.course.started.json").replace("\"course_id\"", "\"course\"");
    checkout.write("events/user.course.started.json", &started);
    fs::remove_file(checkout.0.path().join("events/user.course.started.schema.json")).unwrap();
    let output = checkout.run("check");
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(!printed.contains(PERSONAL), "{printed}");
    assert!(
        printed.contains(
            "events/example.test.added.json: /data/points: does not fit `\"type\": \"integer\"` (schema: "
        ),
        "{printed}"
    );
    assert!(
        printed.contains(
            "events/user.course.started.json: /data: the handler `progress` cannot read its payload"
        ),
        "{printed}"
    );
}

#[test]
fn outside_of_a_checkout_the_command_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["catalog"][..], &["catalog", "check"], &["catalog", "add", "a"]] {
        let output = learnink(arguments).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains("no checkout of the repository around"), "{error}");
    }
}
