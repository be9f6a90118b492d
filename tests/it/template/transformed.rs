//! The template as `CloudFormation` gets it, and its access for rules.

use std::collections::BTreeSet;
use std::panic::Location;
use std::process::Command;

use learnink_tests::root;
use serde_json::{Value, json};

/// SAM's transform, with the code at the address where a deploy would put it.
const TRANSFORM: &str = "
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
class NoManagedPolicies:
    def load(self):
        return {}
template = yaml_parse(open('template.yaml').read())
names = ('ReceiverFunction', 'ConsumerFunction')
receiver, consumer = (template['Resources'][name]['Properties'] for name in names)
receiver['CodeUri'] = consumer['CodeUri'] = 's3://bucket/key'
exec(sys.argv[2])
parameters = {'Stage': 'production', 'GradualRollout': sys.argv[1], 'AWS::Region': 'us-east-1'}
print(json.dumps(transform(template, parameters, NoManagedPolicies())))
";

/// The template after SAM's transform.
pub(super) struct Template {
    /// The template for `CloudFormation`; text that has to be JSON is parsed.
    pub(super) json: Value,
    /// Whether a deploy moves a part of the work to new code first.
    pub(super) is_gradual: bool,
    /// SAM's names of the functions' versions, which are in the JSON without their hash.
    pub(super) versions: Vec<String>,
}

impl Template {
    /// The template in one of its shapes. `edit` is Python that changes it before.
    pub(super) fn transformed(is_gradual: bool, edit: &str) -> Self {
        let mut python = Command::new(root().join(".venv/bin/python"));
        python.current_dir(root()).env("AWS_DEFAULT_REGION", "us-east-1");
        let output = python.args(["-c", TRANSFORM, &is_gradual.to_string(), edit]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut text = String::from_utf8(output.stdout).unwrap();
        let mut template =
            Self { json: serde_json::from_str(&text).unwrap(), is_gradual, versions: Vec::new() };
        template.versions =
            template.of_type("AWS::Lambda::Version").map(|(name, _)| name.to_owned()).collect();
        for version in &template.versions {
            text = text.replace(version, version.trim_end_matches(|char: char| char.is_ascii_hexdigit()));
        }
        template.json = serde_json::from_str(&text).unwrap();
        for path in
            ["Dashboard/Properties/DashboardBody", "WebhookApiStage/Properties/AccessLogSettings/Format"]
        {
            let parsed = template.at(path).and_then(|text| serde_json::from_str(&short(text)).ok());
            template = parsed.and_then(|parsed| template.with(path, &parsed)).unwrap_or(template);
        }
        template
    }

    /// The template with another value at a path, or, for `null`, without the value there. `None` if this shape of
    /// the template does not have the path.
    pub(super) fn with(&self, path: &str, value: &Value) -> Option<Self> {
        let mut json = self.json.clone();
        let path = pointer(path);
        let (parent, last) = path.rsplit_once('/')?;
        match json.pointer_mut(parent)? {
            Value::Object(object) if value.is_null() => drop(object.remove(last)?),
            Value::Object(object) => drop(object.insert(last.to_owned(), value.clone())),
            Value::Array(items) if last == items.len().to_string() => items.push(value.clone()),
            parent => *parent.get_mut(last.parse::<usize>().ok()?)? = value.clone(),
        }
        Some(Self { json, is_gradual: self.is_gradual, versions: self.versions.clone() })
    }

    /// The value at a path that starts with a resource's name, or with `Parameters`.
    pub(super) fn at(&self, path: &str) -> Option<&Value> {
        self.json.pointer(&pointer(path))
    }

    /// The value from a mapping, if it refers to one.
    pub(super) fn looked_up<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["Fn::FindInMap"].as_array().map(Vec::as_slice) {
            Some([map, key, name]) => &self.json["Mappings"][short(map)][short(key)][short(name)],
            _ => value,
        }
    }

    pub(super) fn properties(&self, name: &str) -> &Value {
        &self.json["Resources"][name]["Properties"]
    }

    pub(super) fn resources(&self) -> impl Iterator<Item = (&str, &Value)> {
        let resources = self.json["Resources"].as_object().unwrap();
        resources.iter().map(|(name, resource)| (name.as_str(), resource))
    }

    /// The resources of a type, by name.
    pub(super) fn of_type(&self, kind: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.resources().filter(move |(_, resource)| resource["Type"] == kind)
    }

    /// The parameters and conditions that a value names.
    pub(super) fn inputs(&self, value: &Value) -> BTreeSet<String> {
        let is_input = |name: &String| !self.json["Parameters"][name].is_null() || self.is_condition(name);
        names(value).into_iter().filter(is_input).collect()
    }

    /// The parameters and conditions whose change changes a text: those that it names, and those in the
    /// description of a managed policy that it names. A new description replaces such a policy, and gives it
    /// another name.
    /// Source: `CloudFormation` template reference, `AWS::IAM::ManagedPolicy`.
    pub(super) fn said_by(&self, text: &Value) -> BTreeSet<String> {
        let of_policies = names(text).into_iter().flat_map(|name| {
            let resource = &self.json["Resources"][&name];
            let is_policy = resource["Type"] == "AWS::IAM::ManagedPolicy";
            if is_policy { self.inputs(&resource["Properties"]["Description"]) } else { BTreeSet::new() }
        });
        self.inputs(text).into_iter().chain(of_policies).collect()
    }

    pub(super) fn is_condition(&self, name: &str) -> bool {
        !self.json["Conditions"][name].is_null()
    }

    /// The parameters of a condition; for a parameter, itself.
    pub(super) fn parameters_of(&self, name: &str) -> BTreeSet<String> {
        if !self.is_condition(name) {
            return BTreeSet::from([name.to_owned()]);
        }
        let inputs = self.inputs(&self.json["Conditions"][name]);
        inputs.iter().flat_map(|input| self.parameters_of(input)).collect()
    }
}

fn pointer(path: &str) -> String {
    let sections = ["Parameters/", "Mappings/", "Outputs/"];
    let is_whole = sections.iter().any(|section| path.starts_with(section));
    if is_whole { format!("/{path}") } else { format!("/Resources/{path}") }
}

/// A rule, by its place in these files.
pub(super) type Rule = &'static Location<'static>;

/// The broken rules of a template.
#[derive(Default)]
pub(super) struct Violations {
    /// All rules that were checked.
    pub(super) asked: BTreeSet<Rule>,
    /// The broken rules, and what would happen.
    pub(super) broken: Vec<(Rule, String)>,
}

impl Violations {
    /// A rule, and what would happen if it is broken.
    #[track_caller]
    pub(super) fn require(&mut self, holds: bool, sentence: impl Into<String>) {
        self.asked.insert(Location::caller());
        if !holds {
            self.broken.push((Location::caller(), sentence.into()));
        }
    }
}

pub(super) fn arn(name: &str) -> Value {
    json!({"Fn::GetAtt": [name, "Arn"]})
}

/// A value in every case: the items of a list, and both branches of a conditional one.
pub(super) fn cases(value: &Value) -> Vec<&Value> {
    match (value, &value["Fn::If"]) {
        (Value::Null, _) => Vec::new(),
        (Value::Array(items), _) => items.iter().flat_map(cases).collect(),
        (_, Value::Array(branches)) => branches.iter().skip(1).flat_map(cases).collect(),
        _ if value["Ref"] == "AWS::NoValue" => Vec::new(),
        _ => vec![value],
    }
}

/// A value in a few words: the name that it refers to, its text, or a list of them.
pub(super) fn short(value: &Value) -> String {
    let list = |items: &Vec<Value>, between: &str| items.iter().map(short).collect::<Vec<_>>().join(between);
    match (value, &value["Fn::GetAtt"]) {
        (Value::String(text), _) => text.clone(),
        (Value::Array(items), _) => list(items, ","),
        (_, Value::Array(path)) => list(path, "."),
        _ if value["Name"].is_string() => format!("{}={}", short(&value["Name"]), short(&value["Value"])),
        _ => match value["Ref"].as_str().or_else(|| value["Fn::Sub"].as_str()) {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        },
    }
}

/// A number, or text that is one, as in a mapping.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Visits every member of every object in a value.
pub(super) fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(object) => {
            for (key, member) in object {
                visit(key, member);
                walk(member, visit);
            }
        }
        _ => {}
    }
}

/// The parameters, resources and conditions that a value names.
pub(super) fn names(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |key, value| match (key, value) {
        ("Ref" | "Condition", Value::String(name)) => drop(names.insert(name.clone())),
        ("Fn::GetAtt" | "Fn::If", Value::Array(path)) => names.extend(path[0].as_str().map(str::to_owned)),
        ("Fn::Sub", text) => {
            let text = text[0].as_str().or(text.as_str()).unwrap_or_default();
            let found = text.split("${").skip(1).filter_map(|rest| rest.split(['}', '.']).next());
            names.extend(found.map(str::to_owned));
        }
        _ => {}
    });
    names
}
