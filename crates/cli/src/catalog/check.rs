//! What is wrong with the files of the catalog. A line says where and which rule; it repeats no value of an event.

use std::fmt;

use learnink_webhook::Router;
use learnink_webhook::event::{Envelope, EventError};
use serde_json::Value;

use super::folder::{Catalog, Files, example_file, schema_file};
use super::schema::{Schema, parse_json, place};
use super::{handlers, name, pointer};

/// So many broken rules of a file are listed.
const MOST: usize = 20;

/// Something that is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file, as the repository has it.
    pub(crate) file: String,
    /// What is wrong, and where in the file.
    pub(crate) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// Everything that is wrong with the catalog.
pub(crate) fn problems(catalog: &Catalog, router: &Router) -> Vec<Problem> {
    catalog.types.iter().flat_map(|(event_type, files)| of_type(event_type, files, router)).collect()
}

fn of_type(event_type: &str, files: &Files, router: &Router) -> Vec<Problem> {
    let (schema_file, example_file) = (schema_file(event_type), example_file(event_type));
    let is_named_right = name::check_event_type(event_type);
    if let Err(error) = is_named_right {
        let file = if files.example.is_some() { example_file } else { schema_file };
        return vec![Problem { file, what: format!("{error:#}") }];
    }
    let mut problems = Vec::new();
    let mut add = |file: &str, whats: Vec<String>| {
        problems.extend(whats.into_iter().map(|what| Problem { file: file.to_owned(), what }));
    };
    let schema = files.schema.as_deref().map(|bytes| utf8(bytes).and_then(Schema::parse));
    let schema = match schema.transpose() {
        Ok(schema) => schema,
        Err(error) => {
            add(&schema_file, vec![format!("{error:#}")]);
            None
        }
    };
    if let Some(bytes) = &files.example {
        match utf8(bytes).and_then(|text| Example::parse(event_type, text)) {
            Ok(example) => {
                add(&example_file, example.violations(schema.as_ref()));
                add(&example_file, example.unread(router));
            }
            Err(error) => add(&example_file, vec![format!("{error:#}")]),
        }
    }
    problems
}

/// The text of a file.
pub(crate) fn utf8(bytes: &[u8]) -> anyhow::Result<&str> {
    let text = str::from_utf8(bytes).map_err(|_| anyhow::anyhow!("it is not UTF-8; save it as UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// An event of a type, as an example of it.
#[derive(Debug)]
pub(crate) struct Example {
    json: Value,
    envelope: Envelope,
}

impl Example {
    /// Reads the whole body of an event of this type.
    ///
    /// # Errors
    ///
    /// When the text is not JSON, not an event, or one of another type.
    pub(crate) fn parse(event_type: &str, text: &str) -> anyhow::Result<Self> {
        let json = parse_json(text)?;
        let envelope = Envelope::parse(text.as_bytes())?;
        anyhow::ensure!(
            envelope.is_event(),
            "/type: it has no event type; an example is the whole body of an event, as the Event Catalog shows it"
        );
        // Not the other type: it is a text of the event.
        anyhow::ensure!(
            envelope.event_type == event_type,
            "/type: it is not `{event_type}`, whose example this is"
        );
        Ok(Self { json, envelope })
    }

    /// The payload.
    pub(crate) fn data(&self) -> Option<&Value> {
        self.json.get("data")
    }

    /// The version of the payload's shape.
    pub(crate) fn api_version(&self) -> &str {
        &self.envelope.api_version
    }

    /// The rules of the schema that it breaks.
    pub(crate) fn violations(&self, schema: Option<&Schema>) -> Vec<String> {
        let violations = schema.map(|schema| schema.violations(&self.json)).unwrap_or_default();
        let count = violations.len();
        let line = |violation: &super::schema::Violation| {
            format!("{}: {}", place(&violation.pointer), violation.rule)
        };
        let mut lines: Vec<_> = violations.iter().take(MOST).map(line).collect();
        if count > MOST {
            lines.push(format!("and {} more rules of the schema that it does not fit", count - MOST));
        }
        lines
    }

    /// What handlers of its type cannot read of it.
    fn unread(&self, router: &Router) -> Vec<String> {
        let route = router.route(&self.envelope);
        if route.is_another_version {
            return vec!["/api_version: the handlers of its type take another version".to_owned()];
        }
        let read = |handler: &&learnink_webhook::router::Handler| {
            let error = handler.read_payload(&self.envelope).err()?;
            let place = match error {
                EventError::Data { line, column, .. } => {
                    let below = pointer::at(self.envelope.raw_data().get(), line, column);
                    format!("/data{below}")
                }
                EventError::Empty | EventError::NotJson { .. } | EventError::NotAnObject => {
                    "/data".to_owned()
                }
            };
            Some(format!(
                "{place}: the handler `{}` cannot read its payload: something here has another shape, or is missing",
                handler.name()
            ))
        };
        handlers::of(&route).iter().filter_map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::event::CourseStarted;
    use learnink_webhook::{Event, HandlerResult};

    use super::*;

    async fn nothing(_: Event<CourseStarted>, (): ()) -> HandlerResult {
        Ok(())
    }

    const STARTED: &str = include_str!("../../../../events/user.course.started.json");
    const SCHEMA: &str = include_str!("../../../../events/user.course.started.schema.json");
    const PERSONAL: &str = "+254705408079";

    fn lines(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        let router = Router::new().on("course", nothing).with_state(());
        let lines: Vec<_> = problems(&Catalog::of(files), &router).iter().map(ToString::to_string).collect();
        assert!(lines.iter().all(|line| !line.contains(PERSONAL)), "{lines:#?}");
        lines
    }

    #[test]
    fn a_catalog_may_have_types_without_a_schema_an_example_or_a_handler() {
        let other = r#"{"type": "example.other"}"#;
        assert_eq!(
            lines(&[
                ("user.course.started.json", &format!("\u{feff}{STARTED}")),
                ("user.course.started.schema.json", SCHEMA),
                ("example.other.json", other),
                ("example.third.schema.json", "{}"),
            ]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_example_is_checked_against_its_schema_and_its_handler() {
        let odd = STARTED.replace(r#""83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8""#, &format!(r#"["{PERSONAL}"]"#));
        assert_eq!(
            lines(&[("user.course.started.json", &odd), ("user.course.started.schema.json", SCHEMA)]),
            [
                "events/user.course.started.json: /data/course_id: does not fit `\"type\": \"string\"` (schema: \
                 /properties/data/properties/course_id/type)",
                "events/user.course.started.json: /data: the handler `course` cannot read its payload: something here \
                 has another shape, or is missing",
            ]
        );
        assert_eq!(
            lines(&[("user.course.started.json", &STARTED.replace("2022-11-15", "2031-01-01"))]),
            ["events/user.course.started.json: /api_version: the handlers of its type take another version"]
        );
    }

    #[test]
    fn each_file_says_what_is_wrong_with_it() {
        let many: Vec<_> = (0..30).map(|_| PERSONAL).collect();
        let many = serde_json::json!({ "type": "example.many", "data": many }).to_string();
        let integers = r#"{"properties": {"data": {"items": {"type": "integer"}}}}"#;
        let lines = lines(&[
            ("a b.json", "{}"),
            ("c d.schema.json", "{}"),
            ("example.broken.json", &format!("{{\n\"{PERSONAL}\"")),
            ("example.event.json", &format!(r#"{{"success": "{PERSONAL}"}}"#)),
            ("example.list.json", "[]"),
            ("example.many.json", &many),
            ("example.many.schema.json", integers),
            ("example.other.json", STARTED),
            ("example.schema.schema.json", "[]"),
            ("example.that.schema.json", STARTED),
        ]);
        assert_eq!(lines.len(), 9 + MOST, "{lines:#?}");
        let short: Vec<_> =
            lines.iter().map(String::as_str).filter(|line| !line.contains("/data/")).collect();
        insta::assert_snapshot!(short.join("\n"));
    }
}
