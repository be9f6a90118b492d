//! The alarms: when they fire, and who is notified.

use serde_json::Value;

use super::transformed::{Template, Violations, cases, short};

/// Where each alarm is explained.
const ON_CALL: &str = include_str!("../../../docs/on-call.md");

/// Properties with rules of their own, or that do not affect when an alarm fires.
const UNTOLD: [&str; 5] = ["AlarmName", "AlarmDescription", "AlarmActions", "OKActions", "ActionsEnabled"];

pub(super) fn rules(template: &Template, violations: &mut Violations) {
    for (name, alarm) in template.of_type("AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        violations.require(
            properties["AlarmDescription"].as_str().is_some_and(|text| !text.is_empty()),
            format!("{name} has no description: nobody would know what to do"),
        );
        let condition = alarm["Condition"].as_str().unwrap_or_default();
        if template.parameters_of(condition).contains("GradualRollout") {
            let mut groups = template.of_type("AWS::CodeDeploy::DeploymentGroup");
            let is_asked = groups.any(|(_, group)| {
                let alarms = cases(&group["Properties"]["AlarmConfiguration"]["Alarms"]);
                alarms.iter().any(|alarm| alarm["Name"]["Ref"] == name)
            });
            let why =
                format!("{name} is there for rollouts, and none asks it: bad code would not be taken back");
            violations.require(is_asked || !template.is_gradual, why);
        } else {
            let is_heard =
                cases(&properties["AlarmActions"]).iter().any(|topic| topic["Ref"] == "AlarmTopic")
                    && [&Value::Null, &Value::Bool(true)].contains(&&properties["ActionsEnabled"]);
            violations.require(is_heard, format!("{name} would ring, and nobody hear"));
            let called = properties["AlarmName"]["Fn::Sub"].as_str().unwrap_or_default();
            let called = called.strip_prefix("${AWS::StackName}-").unwrap_or_default();
            let says_where = properties["AlarmDescription"]
                .as_str()
                .is_some_and(|text| text.ends_with("See docs/on-call.md."));
            let is_explained = ON_CALL.contains(&format!("\n## {called}\n"));
            violations.require(
                says_where && is_explained,
                format!("{name} does not lead to its section of docs/on-call.md, or there is none"),
            );
        }
    }
}

/// The alarms, a line each: what each watches, and when it fires.
pub(super) fn told(template: &Template) -> String {
    let alarms = template.of_type("AWS::CloudWatch::Alarm").map(|(name, alarm)| {
        let properties = alarm["Properties"].as_object().unwrap().iter();
        let told = properties.filter(|(key, _)| !UNTOLD.contains(&key.as_str()));
        let told = told.map(|(key, value)| format!("{key}={}", short(value)));
        let condition = alarm["Condition"].as_str().map(|condition| format!("if {condition}"));
        [name.to_owned()].into_iter().chain(told).chain(condition).collect::<Vec<_>>().join(" ")
    });
    alarms.collect::<Vec<_>>().join("\n")
}
