//! The file of a room for an event type: payload, handler and test. It is written once, and then its owner's.

use std::collections::BTreeSet;
use std::fmt::Write;

use learnink_local::terminal::visible;
use learnink_webhook::event::API_VERSION;

use super::name::{camel_case, is_keyword, snake_case};
use super::shape::{Member, Shape, Slot};

/// As in `rustfmt.toml`.
const MAX_WIDTH: usize = 110;

/// Names that a payload's types must not have: they are in use in the file.
const IN_USE: [&str; 19] = [
    "Clone",
    "ConfigError",
    "Debug",
    "Deserialize",
    "Env",
    "Err",
    "Event",
    "HandlerResult",
    "Id",
    "None",
    "Ok",
    "Option",
    "Payload",
    "Personal",
    "Result",
    "Router",
    "Some",
    "String",
    "Vec",
];

/// What a room is made from.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    /// The event type that it handles.
    pub(crate) event_type: &'a str,
    /// The version that its payload is in.
    pub(crate) api_version: &'a str,
    /// The name of the module and of the handler.
    pub(crate) name: &'a str,
    /// The members of the payload, by name.
    pub(crate) data: &'a Shape,
    /// Where they are known from.
    pub(crate) source: Source,
}

/// What the members of a payload are known from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// The schema.
    Schema,
    /// The example alone.
    Example,
}

impl Room<'_> {
    /// The file, as `rustfmt` has it.
    pub(crate) fn file(&self) -> String {
        let mut types = Types { event_type: self.event_type, used: BTreeSet::new(), text: String::new() };
        let payload = types.add_payload(self);
        let Types { text: types, .. } = types;
        let &Self { event_type, name, .. } = self;
        let uses_id = types.contains(": Id,");
        let personal = if types.contains("Personal<") { "Personal, " } else { "" };
        let id = if uses_id { "use learnink_webhook::event::Id;\n" } else { "" };
        let mut constants = constant("const TYPE: &'static str =", &literal(event_type));
        if self.api_version != API_VERSION {
            constants.push_str(&constant("const API_VERSION: &'static str =", &literal(self.api_version)));
        }
        let example = constant(
            "const EXAMPLE: &str =",
            &format!("include_str!({})", literal(&format!("../../../events/{event_type}.json"))),
        );
        format!(
            r#"//! `{event_type}`: logs that it came. What else happens is yours to write.

use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
{id}use learnink_webhook::{{Event, HandlerResult, Payload, {personal}Router}};
use serde::Deserialize;

{types}impl Payload for {payload} {{
{constants}}}

/// The handler. Its name is how the ledger remembers what is done: keep it.
pub(crate) fn router(_env: &Env) -> Result<Router, ConfigError> {{
    Ok(Router::new().on("{name}", handle).with_state(()))
}}

async fn handle(event: Event<{payload}>, (): ()) -> HandlerResult {{
    // What is to happen comes here. `docs/add-an-event.md` shows it, with a client, an address and a secret.
    tracing::info!(message.id = %event.id(), event.type = {payload}::TYPE, "does nothing yet");
    Ok(())
}}

#[cfg(test)]
mod tests {{
    use learnink_webhook::testing::deliver;

    use super::*;

{example}
    #[tokio::test]
    async fn the_example_of_the_catalog_is_handled() {{
        deliver(router(&Env::of([])).unwrap(), EXAMPLE).await.assert_done();
    }}
}}
"#
        )
    }
}

/// A constant on a line, or on two where it is long.
fn constant(start: &str, value: &str) -> String {
    let line = format!("    {start} {value};\n");
    if line.len() <= MAX_WIDTH + 1 { line } else { format!("    {start}\n        {value};\n") }
}

/// A text as Rust has it.
fn literal(text: &str) -> String {
    format!("{text:?}")
}

/// The types of a payload, as they are written.
struct Types<'a> {
    event_type: &'a str,
    used: BTreeSet<String>,
    text: String,
}

impl Types<'_> {
    /// Writes the type of the payload, and those below; and its name.
    fn add_payload(&mut self, room: &Room<'_>) -> String {
        let payload = self.free_name(&camel_case(room.name), "");
        let from = match room.source {
            Source::Schema => "from its schema",
            Source::Example => "from its example, which does not say what may be left out",
        };
        let doc = format!(
            "/// The `data` of `{}`, {from}.\n///\n/// It is yours: leave out the fields that you do not read.\n",
            self.event_type
        );
        self.add(&payload, &doc, "data", room.data);
        payload
    }

    /// Writes one type, with those that it needs behind it.
    fn add(&mut self, name: &str, doc: &str, path: &str, shape: &Shape) {
        let Shape::Object(members) = shape else { return };
        let mut fields = BTreeSet::new();
        let mut body = String::new();
        let mut below = Vec::new();
        for (member_name, member) in members {
            let field = free(field_name(member_name), &fields, "_");
            let path = format!("{path}.{member_name}");
            let (kind, attribute) = self.kind(name, &field, &path, member, &mut below);
            body.push_str(&comment(member.description.as_deref()));
            if attribute == Attribute::Default {
                body.push_str("    #[serde(default)]\n");
            }
            if field != *member_name {
                // Writing to a `String` does not fail.
                let _ = writeln!(body, "    #[serde(rename = {})]", literal(member_name));
            }
            let _ = writeln!(body, "    {field}: {kind},");
            fields.insert(field);
        }
        let text = &mut self.text;
        text.push_str(doc);
        text.push_str("#[derive(Debug, Clone, Deserialize)]\n");
        if body.is_empty() {
            let _ = write!(text, "struct {name} {{}}\n\n");
        } else {
            text.push_str("#[expect(dead_code, reason = \"not every field is read yet\")]\n");
            let _ = write!(text, "struct {name} {{\n{body}}}\n\n");
        }
        for Below { name, path, shape } in below {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-[]".contains(c);
            let doc = if path.chars().all(is_plain) && path.len() + self.event_type.len() < MAX_WIDTH - 20 {
                format!("/// `{path}` of `{}`.\n", self.event_type)
            } else {
                "/// A part of the payload.\n".to_owned()
            };
            self.add(&name, &doc, &path, &shape);
        }
    }

    /// The type of a member, and what its field needs.
    fn kind(
        &mut self,
        parent: &str,
        field: &str,
        path: &str,
        member: &Member,
        below: &mut Vec<Below>,
    ) -> (String, Attribute) {
        let Slot { shape, is_nullable } = &member.slot;
        let is_optional = *is_nullable || !member.is_required;
        let is_id = field == "id" || field.ends_with("_id");
        match shape {
            Shape::Text if is_id && !is_optional => ("String".to_owned(), Attribute::None),
            Shape::Text | Shape::Integer if is_id => ("Id".to_owned(), Attribute::Default),
            shape => {
                let kind = self.value(parent, field, path, shape, below);
                (if is_optional { format!("Option<{kind}>") } else { kind }, Attribute::None)
            }
        }
    }

    fn value(
        &mut self,
        parent: &str,
        field: &str,
        path: &str,
        shape: &Shape,
        below: &mut Vec<Below>,
    ) -> String {
        match shape {
            Shape::Text => "Personal<String>".to_owned(),
            Shape::Integer => "i64".to_owned(),
            Shape::Number => "f64".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Json => "Personal<serde_json::Value>".to_owned(),
            Shape::List(entry) => {
                let path = format!("{path}[]");
                let kind = self.value(parent, &format!("{field}_entry"), &path, &entry.shape, below);
                if entry.is_nullable { format!("Vec<Option<{kind}>>") } else { format!("Vec<{kind}>") }
            }
            Shape::Object(_) => {
                let name = self.free_name(&camel_case(field), parent);
                below.push(Below { name: name.clone(), path: path.to_owned(), shape: shape.clone() });
                name
            }
        }
    }

    /// A name for a type that no other has.
    fn free_name(&mut self, wanted: &str, parent: &str) -> String {
        let is_taken = |name: &str| IN_USE.contains(&name) || self.used.contains(name);
        let name = if is_taken(wanted) { format!("{parent}{wanted}") } else { wanted.to_owned() };
        let name = if IN_USE.contains(&name.as_str()) { format!("{name}Data") } else { name };
        let name = free(name, &self.used, "");
        self.used.insert(name.clone());
        name
    }
}

/// A type that is still to be written.
struct Below {
    name: String,
    path: String,
    shape: Shape,
}

/// What `serde` is to be told of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    None,
    /// It may be left out.
    Default,
}

/// The name, or with a number where it is taken.
fn free(name: String, taken: &BTreeSet<String>, separator: &str) -> String {
    if !taken.contains(&name) {
        return name;
    }
    let mut numbered = (2..).map(|number: u32| format!("{name}{separator}{number}"));
    numbered.find(|name| !taken.contains(name)).unwrap_or(name)
}

/// The field for a member of that name.
fn field_name(member: &str) -> String {
    let is_fine = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(is_allowed)
            && !is_keyword(name)
    };
    if is_fine(member) && !member.ends_with('_') && !member.contains("__") {
        return member.to_owned();
    }
    let name = snake_case(member);
    if is_fine(&name) { name } else { format!("field_{name}").trim_end_matches('_').to_owned() }
}

/// What a schema says about a member, as a comment; no more than its first paragraph.
fn comment(description: Option<&str>) -> String {
    const START: &str = "    //";
    let mut lines = vec![START.to_owned()];
    let words = description.unwrap_or_default().trim();
    let words = words.split("\n\n").next().unwrap_or_default().split_whitespace().map(visible);
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= MAX_WIDTH || line == START => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(format!("{START} {word}")),
        }
    }
    lines.into_iter().filter(|line| line != START).map(|line| line + "\n").collect()
}
