//! The alarms: which there are, when they ring, and who hears them.

use serde_json::Value;

use super::transformed::{Template, Violations, cases, short};

/// The alarms in words, as [`told`] puts them.
const ALARMS: &str = include_str!("alarms.txt");

/// What is told of an alarm, each after its word.
const TOLD: [(&str, &str); 11] = [
    ("", "Namespace"),
    ("", "MetricName"),
    ("", "Dimensions"),
    ("", "Statistic"),
    ("", "ExtendedStatistic"),
    ("", "ComparisonOperator"),
    ("", "Threshold"),
    ("in ", "DatapointsToAlarm"),
    ("of ", "EvaluationPeriods"),
    ("x ", "Period"),
    ("missing is ", "TreatMissingData"),
];

/// What has rules of its own, or says nothing of when an alarm rings.
const UNTOLD: [&str; 5] = ["AlarmName", "AlarmDescription", "AlarmActions", "OKActions", "ActionsEnabled"];

pub(super) fn rules(template: &Template, violations: &mut Violations) {
    let alarms = || template.of_type("AWS::CloudWatch::Alarm");
    for (name, alarm) in alarms() {
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
        }
    }
    let found: Vec<_> = alarms().map(|(name, alarm)| told(name, alarm)).collect();
    let table = ALARMS.replace("\n  ", " ");
    let expected: Vec<_> = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for alarm in &expected {
        let why = format!("an alarm would no longer ring as alarms.txt says: {alarm}");
        violations.require(found.iter().any(|found| found == alarm), why);
    }
    for alarm in &found {
        let why = format!("an alarm would ring that is not in alarms.txt: {alarm}");
        violations.require(expected.contains(&alarm.as_str()), why);
    }
}

/// An alarm in one line.
fn told(name: &str, alarm: &Value) -> String {
    let properties = alarm["Properties"].as_object().unwrap();
    let told = TOLD.iter().filter_map(|(word, key)| Some(format!("{word}{}", short(properties.get(*key)?))));
    let is_told = |key: &str| UNTOLD.contains(&key) || TOLD.iter().any(|(_, told)| *told == key);
    let others = properties.iter().filter(|(key, _)| !is_told(key));
    let others = others.map(|(key, value)| format!("{key}={value}"));
    let condition = alarm["Condition"].as_str().map(|condition| format!("if {condition}"));
    let words = [name.to_owned()].into_iter().chain(told).chain(others).chain(condition);
    words.collect::<Vec<_>>().join(" ")
}
