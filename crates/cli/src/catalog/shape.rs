//! What a payload has: from a schema, or from an example.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// So many parts of a schema are looked at. What is below stays JSON.
const MOST_PARTS: u32 = 2_000;

/// So deep are types made. What is below stays JSON.
const DEEPEST: u32 = 8;

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A text, be it one of a few or a date.
    Text,
    /// A number without a fraction.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// An object with these members, by name.
    Object(BTreeMap<String, Member>),
    /// An array of such entries.
    List(Box<Slot>),
    /// Anything else.
    Json,
}

/// A value that may be `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// What it is otherwise.
    pub(crate) shape: Shape,
    /// Whether `null` may be there.
    pub(crate) is_nullable: bool,
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its value.
    pub(crate) slot: Slot,
    /// Whether it is never left out.
    pub(crate) is_required: bool,
    /// What the schema says about it.
    pub(crate) description: Option<String>,
}

impl Slot {
    const fn new(shape: Shape) -> Self {
        Self { shape, is_nullable: false }
    }

    /// What nothing is known of.
    const fn anything() -> Self {
        Self { shape: Shape::Json, is_nullable: true }
    }
}

/// The shape of the `data` of an event, as the schema of its whole body has it; `None` where that says nothing about
/// the members of `data`.
pub(crate) fn data_of_schema(schema: &Value) -> Option<Shape> {
    let mut reader = Reader { root: schema, parts: 0, following: Vec::new() };
    let Shape::Object(mut members) = reader.slot(schema, 0).shape else { return None };
    match members.remove("data")?.slot.shape {
        Shape::Object(members) => Some(Shape::Object(members)),
        Shape::Text | Shape::Integer | Shape::Number | Shape::Bool | Shape::List(_) | Shape::Json => None,
    }
}

/// The shape of a value. One example does not say what may be left out, so that each member may be.
pub(crate) fn of_example(value: &Value) -> Shape {
    example(value, 0).shape
}

/// The same shape, wider where the value would not be read: a schema's integer may be `1.0`, or have a hundred digits.
pub(crate) fn widened(shape: Shape, value: &Value) -> Shape {
    match (shape, value) {
        (shape, Value::Null) => shape,
        (Shape::Integer, value) if value.as_i64().is_none() => {
            if value.is_number() {
                Shape::Number
            } else {
                Shape::Json
            }
        }
        (Shape::Object(members), Value::Object(values)) => {
            let widen = |(name, mut member): (String, Member)| {
                if let Some(value) = values.get(&name) {
                    member.slot = widened_slot(member.slot, value);
                } else {
                    member.is_required = false;
                }
                (name, member)
            };
            Shape::Object(members.into_iter().map(widen).collect())
        }
        (Shape::List(entry), Value::Array(values)) => {
            Shape::List(Box::new(values.iter().fold(*entry, widened_slot)))
        }
        (shape @ Shape::Text, Value::String(_))
        | (shape @ (Shape::Integer | Shape::Number), Value::Number(_))
        | (shape @ Shape::Bool, Value::Bool(_)) => shape,
        (_, _) => Shape::Json,
    }
}

fn widened_slot(slot: Slot, value: &Value) -> Slot {
    Slot { is_nullable: slot.is_nullable || value.is_null(), shape: widened(slot.shape, value) }
}

/// What an example has at `depth`.
fn example(value: &Value, depth: u32) -> Slot {
    let shape = match value {
        Value::Null => return Slot::anything(),
        Value::Bool(_) => Shape::Bool,
        Value::Number(number) if number.is_i64() => Shape::Integer,
        Value::Number(_) => Shape::Number,
        Value::String(_) => Shape::Text,
        Value::Array(entries) => {
            let entries = entries.iter().map(|entry| example(entry, depth));
            Shape::List(Box::new(entries.reduce(unified).unwrap_or_else(Slot::anything)))
        }
        Value::Object(_) if depth >= DEEPEST => Shape::Json,
        Value::Object(values) if values.is_empty() && depth > 0 => Shape::Json,
        Value::Object(values) => {
            let member = |(name, value): (&String, &Value)| {
                let slot = example(value, depth + 1);
                (name.clone(), Member { slot, is_required: false, description: None })
            };
            Shape::Object(values.iter().map(member).collect())
        }
    };
    Slot::new(shape)
}

/// What both are.
fn unified(one: Slot, other: Slot) -> Slot {
    let is_null = |slot: &Slot| *slot == Slot::anything();
    let is_nullable = one.is_nullable || other.is_nullable;
    let shape = match (one.shape, other.shape) {
        (Shape::Integer, Shape::Number) | (Shape::Number, Shape::Integer) => Shape::Number,
        (Shape::Object(mut members), Shape::Object(others)) => {
            for (name, member) in others {
                let slot = match members.remove(&name) {
                    Some(known) => unified(known.slot, member.slot),
                    None => member.slot,
                };
                members.insert(name, Member { slot, ..member });
            }
            Shape::Object(members)
        }
        (Shape::List(one), Shape::List(other)) => Shape::List(Box::new(unified(*one, *other))),
        (one, other) if one == other => one,
        // A `null` in an example says nothing about what is there otherwise.
        (Shape::Json, shape) if is_null(&Slot { shape: Shape::Json, is_nullable }) => shape,
        (shape, Shape::Json) if is_null(&Slot { shape: Shape::Json, is_nullable }) => shape,
        (_, _) => Shape::Json,
    };
    Slot { shape, is_nullable }
}

/// Reads the parts of a schema.
struct Reader<'a> {
    root: &'a Value,
    /// How many parts were looked at.
    parts: u32,
    /// The `$ref`s that lead to here.
    following: Vec<&'a str>,
}

/// What the parts of a schema that hold for one value say about it together.
#[derive(Default)]
struct Facets<'a> {
    /// The names of types that are allowed; `None` where all are.
    types: Option<Vec<&'a str>>,
    /// The values of `enum` and `const`.
    values: Vec<&'a Value>,
    properties: BTreeMap<&'a str, &'a Value>,
    required: Vec<&'a str>,
    items: Option<&'a Value>,
    /// What several variants of it have in common.
    common: Option<Shape>,
    is_nullable: bool,
    /// It says more than a type can.
    is_open: bool,
}

impl<'a> Reader<'a> {
    fn slot(&mut self, schema: &'a Value, depth: u32) -> Slot {
        let followed = self.following.len();
        let mut facets = Facets::default();
        self.gather(schema, &mut facets, depth);
        let slot = if self.parts > MOST_PARTS || depth > DEEPEST || facets.is_open {
            Slot::anything()
        } else {
            self.slot_of(facets, depth)
        };
        self.following.truncate(followed);
        slot
    }

    fn slot_of(&mut self, facets: Facets<'a>, depth: u32) -> Slot {
        let types = facets.types.clone().unwrap_or_else(|| facets.inferred_types());
        let is_nullable = facets.is_nullable || types.contains(&"null");
        let mut others: Vec<_> = types.into_iter().filter(|name| *name != "null").collect();
        others.sort_unstable();
        others.dedup();
        let shape = match others.as_slice() {
            [] => facets.common.unwrap_or(Shape::Json),
            ["string"] => Shape::Text,
            ["integer"] => Shape::Integer,
            ["number"] | ["integer", "number"] => Shape::Number,
            ["boolean"] => Shape::Bool,
            ["array"] => {
                let entry = facets.items.map_or_else(Slot::anything, |items| self.slot(items, depth + 1));
                Shape::List(Box::new(entry))
            }
            ["object"] if !facets.properties.is_empty() => {
                let member = |(name, schema): (&&'a str, &&'a Value)| {
                    let description = schema.get("description").and_then(Value::as_str).map(str::to_owned);
                    let is_required = facets.required.contains(name);
                    let slot = self.slot(schema, depth + 1);
                    ((*name).to_owned(), Member { slot, is_required, description })
                };
                Shape::Object(facets.properties.iter().map(member).collect())
            }
            _ => Shape::Json,
        };
        // Where nothing says what it is, nothing says that it is not `null`.
        let is_anything = shape == Shape::Json && others.is_empty();
        Slot { shape, is_nullable: is_nullable || is_anything }
    }

    /// Adds what a part of the schema says.
    fn gather(&mut self, schema: &'a Value, facets: &mut Facets<'a>, depth: u32) {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return;
        }
        let Value::Object(schema) = schema else { return };
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            match self.target(reference) {
                Some(target) if !self.following.contains(&reference) => {
                    self.following.push(reference);
                    self.gather(target, facets, depth);
                }
                _ => facets.is_open = true,
            }
        }
        facets.add(schema);
        for part in list(schema, "allOf") {
            self.gather(part, facets, depth);
        }
        for keyword in ["anyOf", "oneOf"] {
            // A variant without any of these only limits what is there.
            let says = ["$ref", "type", "properties", "items", "enum", "const", "allOf", "anyOf", "oneOf"];
            let variants = list(schema, keyword)
                .iter()
                .filter(|variant| says.iter().any(|key| variant.get(key).is_some()));
            let (nulls, variants): (Vec<_>, Vec<_>) = variants.partition(|variant| is_null(variant));
            facets.is_nullable |= !nulls.is_empty();
            match variants.as_slice() {
                [] => {}
                [only] => self.gather(only, facets, depth),
                [_, ..] => {
                    let slots = variants
                        .iter()
                        .map(|variant| self.slot(variant, depth + 1))
                        .reduce(|one, other| same(one, &other));
                    let slot = slots.unwrap_or_else(Slot::anything);
                    facets.is_nullable |= slot.is_nullable;
                    facets.is_open |= slot.shape == Shape::Json;
                    facets.common = Some(slot.shape);
                }
            }
        }
    }

    /// What a `$ref` into the schema itself leads to.
    fn target(&self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }
}

impl<'a> Facets<'a> {
    /// Adds what an object of a schema says by itself.
    fn add(&mut self, schema: &'a Map<String, Value>) {
        let types: Option<Vec<_>> = match schema.get("type") {
            Some(Value::String(name)) => Some(vec![name.as_str()]),
            Some(Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).collect()),
            _ => None,
        };
        self.types = match (self.types.take(), types) {
            (Some(known), Some(types)) => {
                Some(known.into_iter().filter(|name| types.contains(name)).collect())
            }
            (known, types) => known.or(types),
        };
        // As OpenAPI has it.
        self.is_nullable |= schema.get("nullable") == Some(&Value::Bool(true));
        self.values.extend(list(schema, "enum").iter().chain(schema.get("const")));
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, property) in properties {
                self.properties.entry(name).or_insert(property);
            }
        }
        self.required.extend(list(schema, "required").iter().filter_map(Value::as_str));
        // An array of schemas is one for each entry: not a list.
        let items =
            schema.get("items").filter(|items| items.is_object() && schema.get("prefixItems").is_none());
        self.items = self.items.or(items);
    }

    /// The types that there can be where none is named.
    fn inferred_types(&self) -> Vec<&'static str> {
        if !self.values.is_empty() {
            return self.values.iter().map(|value| type_of(value)).collect();
        }
        match (self.properties.is_empty(), self.items) {
            (false, _) => vec!["object"],
            (true, Some(_)) => vec!["array"],
            (true, None) => Vec::new(),
        }
    }
}

/// What both variants are; anything where they differ.
fn same(one: Slot, other: &Slot) -> Slot {
    let is_nullable = one.is_nullable || other.is_nullable;
    let is_same = one.shape == other.shape;
    Slot { shape: if is_same { one.shape } else { Shape::Json }, is_nullable }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a schema is that of `null` alone.
fn is_null(schema: &Value) -> bool {
    let names = |key: &str, value: &Value| schema.get(key) == Some(value);
    let null = Value::String("null".to_owned());
    names("type", &null) || names("const", &Value::Null) || names("enum", &Value::Array(vec![Value::Null]))
}

/// The entries of a member that is an array.
fn list<'a>(schema: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    schema.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A shape in short: `?` after what may be `null`, and after the name of what may be left out.
    fn short(slot: &Slot) -> String {
        let text = match &slot.shape {
            Shape::Text => "text".to_owned(),
            Shape::Integer => "integer".to_owned(),
            Shape::Number => "number".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Json => "json".to_owned(),
            Shape::List(entry) => format!("[{}]", short(entry)),
            Shape::Object(members) => {
                let member = |(name, member): (&String, &Member)| {
                    let mark = if member.is_required { "" } else { "?" };
                    format!("{name}{mark}: {}", short(&member.slot))
                };
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
            }
        };
        format!("{text}{}", if slot.is_nullable { "?" } else { "" })
    }

    fn of_schema(schema: &Value) -> String {
        short(&Reader { root: schema, parts: 0, following: Vec::new() }.slot(schema, 0))
    }

    #[test]
    fn a_schema_has_a_shape() {
        for (schema, expected) in [
            (json!({ "type": "string", "format": "date-time" }), "text"),
            (json!({ "type": ["string", "null"], "enum": ["a", null] }), "text?"),
            (json!({ "enum": ["a", "b"] }), "text"),
            (json!({ "const": 1 }), "integer"),
            (json!({ "enum": [1, 1.5, null] }), "number?"),
            (json!({ "enum": ["a", 1] }), "json"),
            (json!({ "type": ["integer", "number"] }), "number"),
            (json!({ "type": "boolean", "nullable": true }), "bool?"),
            (json!({ "type": ["string", "integer"] }), "json"),
            (json!({}), "json?"),
            (json!(true), "json?"),
            (json!({ "type": "null" }), "json?"),
            (json!({ "type": "object" }), "json"),
            (json!({ "type": "object", "additionalProperties": { "type": "string" } }), "json"),
            (json!({ "type": "array" }), "[json?]"),
            (json!({ "items": { "type": "integer" } }), "[integer]"),
            (json!({ "type": "array", "items": [{ "type": "integer" }] }), "[json?]"),
            (json!({ "anyOf": [{ "type": "null" }, { "type": "integer" }] }), "integer?"),
            (json!({ "oneOf": [{ "const": "a" }, { "const": "b" }, { "const": null }] }), "text?"),
            (json!({ "oneOf": [{ "type": "string" }, { "type": "integer" }] }), "json?"),
            (
                json!({ "properties": { "a": { "type": "string" } }, "anyOf": [{ "required": ["a"] }, { "required": ["b"] }] }),
                "{a?: text}",
            ),
        ] {
            assert_eq!(of_schema(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn references_and_parts_of_a_schema_hold_together() {
        let schema = json!({
            "allOf": [{ "$ref": "#/$defs/base" }, { "properties": { "b": { "$ref": "#/$defs/id" } }, "required": ["b"] }],
            "$defs": {
                "id": { "type": "integer" },
                "base": { "type": "object", "properties": { "a": { "$ref": "#/$defs/id" } } }
            }
        });
        assert_eq!(of_schema(&schema), "{a?: integer, b: integer}");
    }

    #[test]
    fn a_schema_without_an_end_has_one_here() {
        let tree = json!({ "properties": { "children": { "items": { "$ref": "#" } } } });
        assert_eq!(of_schema(&tree), "{children?: [{children?: [json?]}]}");
        // Each level doubles what is below.
        let level = |n: u32| {
            let next = json!({ "$ref": format!("#/$defs/{}", n + 1) });
            (n.to_string(), json!({ "properties": { "a": next, "b": next } }))
        };
        let levels: Map<String, Value> = (0..100).map(level).collect();
        assert!(of_schema(&json!({ "$ref": "#/$defs/0", "$defs": levels })).len() < 100_000);
    }

    #[test]
    fn the_data_of_an_event_is_what_its_schema_says() {
        let data = |data: Value| data_of_schema(&json!({ "properties": { "data": data } }));
        assert!(data(json!({ "properties": { "a": {} } })).is_some());
        for nothing in [json!({}), json!({ "type": "object" }), json!({ "type": "string" })] {
            assert_eq!(data(nothing), None);
        }
        assert_eq!(data_of_schema(&json!({ "type": "object" })), None);
    }

    #[test]
    fn an_example_has_a_shape_in_which_everything_may_be_missing() {
        let example = json!({
            "a": "x", "b": null, "c": 1, "d": 1.5, "e": true, "f": {},
            "list": [{ "x": 1 }, { "x": 1.5, "y": "z" }, null],
            "mixed": [1, "x"], "empty": [], "large": 18_446_744_073_709_551_615_u64
        });
        assert_eq!(
            short(&Slot::new(of_example(&example))),
            "{a?: text, b?: json?, c?: integer, d?: number, e?: bool, empty?: [json?], f?: json, large?: number, \
             list?: [{x?: number, y?: text}?], mixed?: [json]}"
        );
    }

    #[test]
    fn what_would_not_be_read_is_wider() {
        let schema = json!({ "properties": {
            "whole": { "type": "integer" },
            "huge": { "items": { "type": "integer" } },
            "fine": { "type": "integer" },
            "text": { "type": "string" }
        }, "required": ["text", "fine"] });
        let shape = Reader { root: &schema, parts: 0, following: Vec::new() }.slot(&schema, 0).shape;
        let example = json!({ "whole": 1.0, "huge": [1, 1e30, null], "fine": 1, "text": "x" });
        assert_eq!(
            short(&Slot::new(widened(shape, &example))),
            "{fine: integer, huge?: [number?], text: text, whole?: number}"
        );
    }
}
