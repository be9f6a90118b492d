//! A JSON Schema, and what in an event does not fit it. Nothing is fetched, and no value of an event is repeated.

use std::fmt;

use anyhow::{Context, bail};
use jsonschema::error::ValidationErrorKind;
use jsonschema::{ReferencingError, Validator};
use serde_json::Value;

/// The longest rule that is repeated.
const LONGEST_RULE: usize = 80;

/// A schema whose rules can be checked.
#[derive(Debug)]
pub(crate) struct Schema {
    json: Value,
    validator: Validator,
}

/// A rule that an event breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The JSON pointer to what breaks it.
    pub(crate) pointer: String,
    /// The rule, and where the schema has it.
    pub(crate) rule: String,
}

impl Schema {
    /// Reads a schema, of the draft that its `$schema` names, and of 2020-12 without one.
    ///
    /// # Errors
    ///
    /// When the text is not JSON, not an object, or not a schema; or when it refers to what is not a part of it.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let json: Value = parse_json(text)?;
        if !json.is_object() {
            bail!("it is not a JSON Schema: it must be a JSON object");
        }
        // The text of these errors repeats values, and what is taken for a schema may be an event.
        if let Err(error) = jsonschema::meta::validate(&json) {
            return Err(match error.kind() {
                ValidationErrorKind::Referencing(error) => reference(error),
                _ => anyhow::anyhow!(
                    "it is not a JSON Schema: what is at {} is not allowed there; copy the schema from the Event Catalog",
                    place(error.instance_path().as_str())
                ),
            });
        }
        let validator = jsonschema::options().offline().build(&json).map_err(|error| {
            if let ValidationErrorKind::Referencing(error) = error.kind() {
                return reference(error);
            }
            let at = place(error.schema_path().as_str());
            anyhow::anyhow!("it is not a JSON Schema that can be used: the rule at {at} means nothing")
        })?;
        Ok(Self { json, validator })
    }

    /// The schema as JSON.
    pub(crate) const fn json(&self) -> &Value {
        &self.json
    }

    /// The rules that an event breaks.
    pub(crate) fn violations(&self, event: &Value) -> Vec<Violation> {
        self.validator.iter_errors(event).map(|error| self.violation(&error)).collect()
    }

    fn violation(&self, error: &jsonschema::ValidationError<'_>) -> Violation {
        let at = error.schema_path().as_str();
        let rule = match error.kind() {
            ValidationErrorKind::Required { property } => format!("{property} is missing"),
            kind => {
                let keyword = kind.keyword();
                let value = self.json.pointer(at).map(Value::to_string);
                match value.filter(|value| value.len() <= LONGEST_RULE) {
                    Some(value) => format!("does not fit `\"{keyword}\": {value}`"),
                    None => format!("does not fit `{keyword}`"),
                }
            }
        };
        Violation {
            pointer: error.instance_path().as_str().to_owned(),
            rule: format!("{rule} (schema: {at})"),
        }
    }
}

/// Reads any JSON.
pub(crate) fn parse_json(text: &str) -> anyhow::Result<Value> {
    // `serde_json` says what it expected, and repeats nothing of what it found.
    serde_json::from_str(text).context("it is not JSON")
}

/// A JSON pointer for a text.
pub(crate) fn place(pointer: &str) -> impl fmt::Display {
    if pointer.is_empty() { "the top".to_owned() } else { pointer.to_owned() }
}

fn reference(error: &ReferencingError) -> anyhow::Error {
    const WHAT: &str = "it cannot be used as a JSON Schema";
    match error {
        ReferencingError::Unretrievable { uri, .. }
        | ReferencingError::UnknownSpecification { specification: uri } => {
            anyhow::anyhow!(
                "{WHAT}: it refers to `{uri}`, and nothing is fetched; copy that into its `$defs`"
            )
        }
        ReferencingError::PointerToNowhere { pointer } => {
            anyhow::anyhow!("{WHAT}: it refers to its `{pointer}`, which it does not have")
        }
        _ => anyhow::anyhow!("{WHAT}: one of its `$ref`s leads nowhere"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Schema::parse(text).unwrap_err())
    }

    #[test]
    fn what_is_no_schema_is_refused_without_a_value_of_it() {
        let cases = [
            ("{", "it is not JSON: EOF while parsing an object at line 1 column 1"),
            ("[]", "it is not a JSON Schema: it must be a JSON object"),
            ("true", "it is not a JSON Schema: it must be a JSON object"),
            (
                r#"{"type": "+254705408079"}"#,
                "it is not a JSON Schema: what is at /type is not allowed there; copy the schema from the Event Catalog",
            ),
            (
                r#"{"properties": {"a": {"pattern": "("}}}"#,
                "it is not a JSON Schema that can be used: the rule at /properties/a/pattern means nothing",
            ),
            (
                r##"{"$ref": "#/$defs/none"}"##,
                "it cannot be used as a JSON Schema: it refers to its `/$defs/none`, which it does not have",
            ),
            (
                r#"{"$ref": "https://example.com/a.json"}"#,
                "it cannot be used as a JSON Schema: it refers to `https://example.com/a.json`, and nothing is \
                 fetched; copy that into its `$defs`",
            ),
            (
                r#"{"$ref": "file:///etc/hostname"}"#,
                "it cannot be used as a JSON Schema: it refers to `file:///etc/hostname`, and nothing is fetched; \
                 copy that into its `$defs`",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected);
        }
        assert!(error(r#"{"$schema": "https://example.com/mine"}"#).contains("`https://example.com/mine"));
    }

    #[test]
    fn every_draft_is_read() {
        for draft in [
            "http://json-schema.org/draft-04/schema#",
            "http://json-schema.org/draft-07/schema#",
            "https://json-schema.org/draft/2020-12/schema",
        ] {
            Schema::parse(&json!({ "$schema": draft, "type": "object" }).to_string()).unwrap();
        }
        Schema::parse("{}").unwrap();
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        for schema in [
            r##"{"$ref": "#"}"##,
            r##"{"properties": {"children": {"items": {"$ref": "#"}}}}"##,
            r##"{"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}"##,
        ] {
            if let Ok(schema) = Schema::parse(schema) {
                assert_eq!(schema.violations(&json!({ "children": [{ "children": [] }] })), []);
            }
        }
    }

    #[test]
    fn what_breaks_a_rule_is_named_and_not_repeated() {
        let schema = json!({
            "type": "object",
            "required": ["b"],
            "properties": {
                "a": { "type": ["integer", "null"] },
                "b": {},
                "c": { "$ref": "#/$defs/c" },
                "list": { "items": { "enum": ["x".repeat(100)] } }
            },
            "additionalProperties": false,
            "$defs": { "c": { "maxLength": 3 } }
        });
        let schema = Schema::parse(&schema.to_string()).unwrap();
        let personal = "+254705408079";
        let event = json!({ "a": personal, "c": personal, "list": [personal], personal: personal });
        let mut lines: Vec<_> =
            schema.violations(&event).into_iter().map(|v| format!("{}: {}", v.pointer, v.rule)).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                r#"/a: does not fit `"type": ["integer","null"]` (schema: /properties/a/type)"#,
                r#"/c: does not fit `"maxLength": 3` (schema: /$defs/c/maxLength)"#,
                "/list/0: does not fit `enum` (schema: /properties/list/items/enum)",
                r#": "b" is missing (schema: /required)"#,
                r#": does not fit `"additionalProperties": false` (schema: /additionalProperties)"#,
            ]
        );
        assert_eq!(schema.violations(&json!({ "b": 1 })), []);
    }
}
