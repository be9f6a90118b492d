//! The template after SAM's transform, which nobody can weaken unnoticed. And the laptop's pipeline has its
//! numbers.
//!
//! | file | holds |
//! |---|---|
//! | `promises.txt` | fixed values of the template |
//! | `weakened.txt` | templates that break each rule that is code |
//! | `unneeded.txt` | rights of resource types that the deploy role does not need |

mod alarms;
mod deploy_role;
mod metrics;
mod rights;
mod rules;
mod transformed;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use learnink_aws::Env;
use learnink_connectors::{forward, push};
use learnink_local::pipeline::{LEARNERS_TABLE, LEDGER_TABLE, StackLimits, UNKNOWN_EVENTS_TABLE};
use serde_json::Value;

use transformed::{Rule, Template, Violations, short};

const PROMISES: &str = include_str!("template/promises.txt");
const WEAKENED: &str = include_str!("template/weakened.txt");

/// The stack if a deploy moves all work at once, and if it moves a part first, as in production.
static SHAPES: LazyLock<[Template; 2]> =
    LazyLock::new(|| [false, true].map(|is_gradual| Template::transformed(is_gradual, "")));

/// The lines `path = JSON -> sentence` of a text. An indented line continues the one above, and `[path]` is a
/// prefix of each path that follows.
fn lines(text: &str) -> impl Iterator<Item = (String, Value, String)> {
    let mut section = String::new();
    let lines: Vec<_> = text.replace("\n  ", " ").lines().map(str::to_owned).collect();
    lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(move |line| {
        if let Some(path) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            path.clone_into(&mut section);
            return None;
        }
        let (path, rest) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let (value, sentence) = rest.rsplit_once(" -> ").unwrap_or_else(|| panic!("{line}"));
        let value = serde_json::from_str(value).unwrap_or_else(|error| panic!("{line}: {error}"));
        let path = format!("{section}/{path}");
        Some((path.trim_start_matches('/').to_owned(), value, sentence.to_owned()))
    })
}

/// The fixed values, for each resource that they are about.
fn promises(template: &Template) -> Vec<(String, Value, String)> {
    let promises = lines(PROMISES).flat_map(|(path, value, why)| {
        let (first, rest) = path.split_once('/').unwrap();
        let mut paths: Vec<_> = template.of_type(first).map(|(name, _)| format!("{name}/{rest}")).collect();
        // A name must match a resource; so must a type, if a deploy moves a part first.
        if paths.is_empty() && (template.is_gradual || !first.contains("::")) {
            paths.push(path);
        }
        paths.into_iter().map(move |path| (path, value.clone(), why.clone()))
    });
    promises.collect()
}

fn fixed(template: &Template, violations: &mut Violations) {
    for (path, value, why) in promises(template) {
        let found = template.at(&path).unwrap_or(&Value::Null);
        violations.require(*found == value, format!("{path} is {found}, not {value}: {why}"));
    }
}

fn violations(template: &Template) -> Violations {
    let mut violations = Violations::default();
    for rules in [fixed, rules::rules, rights::rules, alarms::rules, metrics::rules] {
        rules(template, &mut violations);
    }
    violations
}

fn sentences(template: &Template) -> String {
    let broken = violations(template).broken.into_iter();
    broken.map(|(_, sentence)| sentence + "\n").collect()
}

#[test]
fn the_template_keeps_every_promise_about_it() {
    for shape in SHAPES.iter() {
        let sentences = sentences(shape);
        assert!(sentences.is_empty(), "{sentences}");
    }
}

#[test]
fn an_alarm_rings_when_it_always_has() {
    insta::assert_snapshot!(alarms::told(&SHAPES[1]));
}

#[test]
fn what_the_longest_values_make_of_a_versions_description_fits() {
    // Source: Lambda API, PublishVersion.
    const LONGEST_DESCRIPTION: usize = 256;
    let template = &SHAPES[1];
    for name in ["ReceiverFunctionVersion", "ConsumerFunctionVersion"] {
        let description = &template.properties(name)["Description"];
        // Only one of the senders' values is there; the longest may be an endpoint's address.
        let is_value = |part: &&Value| {
            let inputs = template.inputs(part);
            !["OneSignalAppId", "FcmTopicPrefix"].iter().any(|name| inputs.contains(*name))
        };
        let longest: usize = if let Some(parts) = description["Fn::Join"][1].as_array() {
            // An empty value has its space too.
            parts.iter().filter(is_value).map(longest_part).sum::<usize>() + parts.len() - 1
        } else {
            let inputs = template.inputs(description);
            inputs.iter().map(|name| longest(&template.json["Parameters"][name]) + 1).sum()
        };
        assert!(longest <= LONGEST_DESCRIPTION, "{name} could be described by {longest} characters");
    }
}

/// The longest text of one part of a version's description.
fn longest_part(part: &Value) -> usize {
    match (part["Ref"].as_str(), part["Fn::If"].as_array(), part["Fn::Join"].as_array()) {
        (Some(parameter), ..) => longest(&SHAPES[1].json["Parameters"][parameter]),
        (_, Some(branches), _) => branches.iter().skip(1).map(longest_part).max().unwrap_or_default(),
        // An address without its scheme.
        (.., Some(join)) => longest_part(&join[1]["Fn::Split"][1]) - "https://".len(),
        // The end of a name that CloudFormation made.
        _ if !part["Fn::Select"].is_null() => 13,
        _ => short(part).len(),
    }
}

/// The longest value that a parameter accepts: of those listed, or by its pattern or its limits.
fn longest(parameter: &Value) -> usize {
    let values = parameter["AllowedValues"].as_array().into_iter().flatten();
    let listed = values.map(|value| value.to_string().trim_matches('"').len()).max();
    let limit = parameter["MaxLength"].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let pattern = parameter["AllowedPattern"].as_str().unwrap_or_default();
    let most = pattern.rsplit_once("{0,").and_then(|(_, most)| most.strip_suffix('}')?.parse().ok());
    let number = parameter["MaxValue"].as_u64().map(|number| number.to_string().len());
    listed.or(limit).or(most).or(number).unwrap_or_else(|| panic!("{parameter} has no longest value"))
}

#[test]
fn a_weakened_template_is_refused_with_a_sentence_that_says_why_and_every_rule_has_been_broken() {
    let (mut asked, mut broken): (BTreeSet<Rule>, BTreeSet<Rule>) = <_>::default();
    let mut unnoticed = Vec::new();
    for (path, value, why) in lines(WEAKENED) {
        let weakened: Vec<_> = SHAPES.iter().filter_map(|shape| shape.with(&path, &value)).collect();
        assert!(!weakened.is_empty(), "{path} is not there");
        for found in weakened.iter().map(violations) {
            let told: Vec<_> = found.broken.iter().filter(|(_, told)| told.contains(&why)).collect();
            if told.is_empty() {
                unnoticed.push(format!("{path} = {value}: {why:?} is not in {:?}", found.broken));
            }
            broken.extend(told.iter().map(|(rule, _)| rule));
            asked.extend(found.asked);
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
    let kept: Vec<_> = asked.difference(&broken).map(ToString::to_string).collect();
    assert!(kept.is_empty(), "no line of weakened.txt breaks the rules at {kept:?}");
}

#[test]
fn what_sam_makes_of_a_weakened_template_is_refused() {
    for (edit, why) in [
        ("del receiver['Role']", "has a managed policy"),
        ("receiver['FunctionUrlConfig'] = {'AuthType': 'NONE'}", "past the API's throttle"),
        ("receiver['DeploymentPreference']['Enabled'] = False", "all the work"),
        ("receiver['DeploymentPreference']['Type'] = 'AllAtOnce'", "a tenth of the work"),
    ] {
        let sentences = sentences(&Template::transformed(true, edit));
        assert!(sentences.contains(why), "{edit}: {sentences}");
    }
}

#[test]
fn whatever_changes_of_a_function_reaches_its_alias() {
    let changed = Template::transformed(true, "receiver['Timeout'] = 9; consumer['Timeout'] = 29");
    let [before, after] = [&SHAPES[1].versions, &changed.versions];
    let kept = before.iter().filter(|version| after.contains(version)).count();
    assert_eq!((before.len(), kept), (2, 0), "no version would be published, for all that is written anew");
}

#[test]
fn what_the_push_parameters_allow_the_consumer_takes() {
    let parameter = |name: &str, limit: &str| SHAPES[1].json["Parameters"][name][limit].clone();
    let ages = ["MinValue", "MaxValue", "Default"].map(|limit| parameter("PushMaxAge", limit).to_string());
    let prefixes =
        [parameter("FcmTopicPrefix", "Default").as_str().unwrap().to_owned(), "aZ9_.~-".to_owned()];
    let longest = longest(&SHAPES[1].json["Parameters"]["FcmTopicPrefix"]);
    for prefix in prefixes.into_iter().chain([String::new(), "p".repeat(longest)]) {
        for age in &ages {
            let env = Env::of([
                ("AWS_REGION", "eu-west-1"),
                ("LEARNINK_PUSH", "fcm"),
                ("LEARNINK_PUSH_SECRET_ID", "push"),
                ("LEARNINK_PUSH_MAX_AGE", age),
                ("LEARNINK_FCM_TOPIC_PREFIX", &prefix),
            ]);
            assert!(push::router(&env).is_ok(), "{prefix} {age}");
        }
    }
}

#[test]
fn what_the_forward_parameters_allow_the_consumer_takes_and_fits_the_description_of_its_policy() {
    // Source: IAM API reference, CreatePolicy.
    const LONGEST_DESCRIPTION: usize = 1_000;
    let template = &SHAPES[1];
    let limit = |name: &str| longest(&template.json["Parameters"][name]);
    let text = short(&template.properties("ForwardPolicy")["Description"]);
    assert!(text.len() + limit("ForwardUrl") + limit("ForwardTypes") <= LONGEST_DESCRIPTION);
    learnink_aws::install_tls_provider();
    for types in ["", "user.course.started", "a,b-c_d.e"] {
        let env = Env::of([
            ("AWS_REGION", "eu-west-1"),
            ("LEARNINK_FORWARD_URL", "https://example.com/"),
            ("LEARNINK_FORWARD_SECRET_ID", "forward"),
            ("LEARNINK_FORWARD_TYPES", types),
        ]);
        assert_eq!(forward::router(&env).unwrap().handler_names(), ["forward"], "{types}");
    }
}

#[test]
fn the_laptop_has_the_numbers_of_the_template() {
    let limits = StackLimits::TEMPLATE;
    let batch_size = learnink_local::event_source::BATCH_SIZE.unsigned_abs();
    for (path, number) in [
        ("ConsumerFunction/Properties/Timeout", limits.consumer_timeout_s),
        ("MessageQueue/Properties/VisibilityTimeout", limits.visibility_timeout_s),
        ("MessageQueue/Properties/RedrivePolicy/maxReceiveCount", limits.max_receive_count),
        (
            "ConsumerFunction/Properties/Environment/Variables/LEARNINK_MAX_RECEIVE_COUNT",
            limits.max_receive_count,
        ),
        ("ConsumerMapping/Properties/BatchSize", batch_size),
    ] {
        let found = SHAPES[1].at(path).and_then(|value| transformed::number(SHAPES[1].looked_up(value)));
        assert_eq!(found, Some(u64::from(number)), "{path}");
    }
}

#[test]
fn the_laptops_tables_have_the_keys_of_the_template() {
    for (name, table) in [
        ("LedgerTable", LEDGER_TABLE),
        ("LearnersTable", LEARNERS_TABLE),
        ("UnknownEventsTable", UNKNOWN_EVENTS_TABLE),
    ] {
        let schema = SHAPES[1].properties(name)["KeySchema"].as_array().unwrap();
        let keys: Vec<_> = schema.iter().map(|key| key["AttributeName"].as_str().unwrap()).collect();
        let expected: Vec<_> = std::iter::once(table.hash_key).chain(table.range_key).collect();
        assert_eq!(keys, expected, "{name}");
    }
}
