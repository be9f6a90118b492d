//! The template after SAM's transform: nobody can weaken it unnoticed. And the laptop's pipeline has its
//! numbers.

use std::process::Command;
use std::sync::LazyLock;

use learnink_local::pipeline::{LEARNERS_TABLE, LEDGER_TABLE, Numbers, UNKNOWN_EVENTS_TABLE};
use learnink_receiver::aws::OPERATION_TIMEOUT;
use learnink_receiver::secrets::LONGEST_WAIT;
use learnink_tests::{read, root};
use serde_json::{Value, json};

/// The number after `key` in the resource `name` of `template.yaml`.
fn number(name: &str, key: &str) -> u32 {
    let template = read("template.yaml");
    let resource = resource(&template, name);
    let line = resource.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
    line.unwrap_or_else(|| panic!("{name} has no {key}")).parse().unwrap()
}

/// The lines of one resource: up to the next line that is indented as its name is.
fn resource<'a>(template: &'a str, name: &str) -> &'a str {
    let (_, from) = template.split_once(&format!("\n  {name}:\n")).unwrap();
    let is_next = |line: &str| line.starts_with("  ") && !line.starts_with("   ");
    let end: usize = from.split_inclusive('\n').take_while(|line| !is_next(line)).map(str::len).sum();
    &from[..end]
}

#[test]
fn the_laptop_has_the_numbers_of_the_template() {
    let numbers = Numbers::TEMPLATE;
    assert_eq!(numbers.consumer_timeout_s, number("ConsumerFunction", "Timeout"));
    assert_eq!(numbers.visibility_timeout_s, number("MessageQueue", "VisibilityTimeout"));
    assert_eq!(numbers.max_receive_count, number("MessageQueue", "maxReceiveCount"));
    assert_eq!(
        learnink_local::event_source::BATCH_SIZE.unsigned_abs(),
        number("ConsumerMapping", "BatchSize")
    );
}

#[test]
fn the_laptops_tables_have_the_keys_of_the_template() {
    let template = read("template.yaml");
    for (name, table) in [
        ("LedgerTable", LEDGER_TABLE),
        ("LearnersTable", LEARNERS_TABLE),
        ("UnknownEventsTable", UNKNOWN_EVENTS_TABLE),
    ] {
        let (_, schema) = resource(&template, name).split_once("KeySchema:\n").unwrap();
        let keys: Vec<_> = schema
            .lines()
            .take_while(|line| line.starts_with("        "))
            .filter_map(|line| line.trim().strip_prefix("- AttributeName: "))
            .collect();
        let expected: Vec<_> = std::iter::once(table.hash_key).chain(table.range_key).collect();
        assert_eq!(keys, expected, "{name}");
    }
}

/// The template after SAM's transform, with the code where a deploy would have put it.
static TRANSFORMED: LazyLock<Value> = LazyLock::new(|| {
    let code = "
import json
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
class NoManagedPolicies:
    def load(self):
        return {}
template = yaml_parse(open('template.yaml').read())
for name in ('ReceiverFunction', 'ConsumerFunction'):
    template['Resources'][name]['Properties']['CodeUri'] = 's3://bucket/key'
parameters = {'Stage': 'production', 'GradualRollout': 'false', 'AWS::Region': 'us-east-1'}
print(json.dumps(transform(template, parameters, NoManagedPolicies())))
";
    let mut python = Command::new(root().join(".venv/bin/python"));
    let output =
        python.current_dir(root()).env("AWS_DEFAULT_REGION", "us-east-1").args(["-c", code]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

/// The properties of every resource of a type, by name.
fn of_type<'a>(template: &'a Value, kind: &str) -> Vec<(&'a String, &'a Value)> {
    let resources = template["Resources"].as_object().unwrap().iter();
    resources.filter(|(_, resource)| resource["Type"] == kind).collect()
}

/// What is wrong with a template, each in a sentence that says why.
#[expect(clippy::too_many_lines, reason = "a list of rules, one after the other")]
fn violations(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let mut require = |holds: bool, why: &str| {
        if !holds {
            violations.push(why.to_owned());
        }
    };
    let properties = |name: &str| &template["Resources"][name]["Properties"];
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();

    let (queue, dead_letters) = (properties("MessageQueue"), properties("DeadLetterQueue"));
    let (mapping, consumer) = (properties("ConsumerMapping"), properties("ConsumerFunction"));
    let least = 6 * number(&consumer["Timeout"]) + number(&mapping["MaximumBatchingWindowInSeconds"]);
    require(
        number(&queue["VisibilityTimeout"]) >= least,
        "a message is hidden for less than 6 times the consumer's timeout plus the batch window: it would be \
         delivered again while it is being handled",
    );
    require(
        number(&queue["RedrivePolicy"]["maxReceiveCount"]) >= 5,
        "maxReceiveCount is under 5: throttled polls count as deliveries, so that messages would be \
         dead-lettered that nobody has tried",
    );
    require(
        number(&queue["MessageRetentionPeriod"]) == 4 * 86_400
            && number(&dead_letters["MessageRetentionPeriod"]) == 14 * 86_400,
        "messages are kept for other than 4 days, or dead letters for other than 14: a standard queue counts \
         from the first send, so that dead letters would have no time left for a person",
    );
    require(
        mapping["FunctionResponseTypes"] == json!(["ReportBatchItemFailures"]),
        "ReportBatchItemFailures is off: Lambda would delete the messages that the consumer reports as failed",
    );
    require(
        mapping["FilterCriteria"].is_null(),
        "the mapping has a filter: Lambda deletes the messages that it filters out",
    );
    require(
        !mapping["ScalingConfig"]["MaximumConcurrency"].is_null()
            && consumer["ReservedConcurrentExecutions"].is_null(),
        "the consumer is limited by reserved concurrency, or not at all: throttled polls count as deliveries; \
         use the mapping's MaximumConcurrency",
    );
    require(
        dead_letters["RedriveAllowPolicy"]["redrivePermission"] == "byQueue",
        "any queue may use the dead-letter queue; RedriveAllowPolicy names the one that does",
    );

    let receiver = properties("ReceiverFunction");
    let gateway_ms = number(&properties("WebhookIntegration")["TimeoutInMillis"]);
    require(
        1_000 * (LONGEST_WAIT + OPERATION_TIMEOUT).as_secs() < 1_000 * number(&receiver["Timeout"])
            && 1_000 * number(&receiver["Timeout"]) < gateway_ms
            && gateway_ms < 15_000,
        "the receiver's own limits, its function's timeout, the gateway's and the sender's 15 s do not follow \
         one another: the sender would hang up before it has an answer",
    );
    require(
        properties("WebhookIntegration")["PayloadFormatVersion"] == "2.0",
        "the API sends another format than 2.0, which the receiver does not read",
    );
    let throttle = &properties("WebhookApiStage")["DefaultRouteSettings"];
    require(
        !throttle["ThrottlingRateLimit"].is_null() && !throttle["ThrottlingBurstLimit"].is_null(),
        "the API has no throttle: a flood would cost what it likes",
    );
    let access_log = properties("WebhookApiStage")["AccessLogSettings"]["Format"].to_string();
    require(
        !access_log.is_empty() && !access_log.contains("header") && !access_log.contains("body"),
        "the access log holds bodies or headers, which hold personal data and signatures",
    );
    require(
        template["Parameters"]["Architecture"]["Default"] == "arm64",
        "the functions are not built for arm64 by default, which costs a fifth less",
    );

    for (name, role) in of_type(template, "AWS::IAM::Role") {
        for statement in statements(&role["Properties"]["Policies"]) {
            let text = |key: &str| statement[key].to_string();
            let wide =
                text("Action").contains('*') || statement["Resource"] == "*" || text("Resource") == "[\"*\"]";
            let why = format!("the role {name} has a right on everything: `*` in {statement}");
            require(statement["Effect"] != "Allow" || !wide, &why);
        }
    }
    let policies: Vec<_> = ["AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy"]
        .iter()
        .flat_map(|kind| of_type(template, kind))
        .map(|(_, policy)| policy["Properties"].to_string())
        .collect();
    for kind in ["AWS::SQS::Queue", "AWS::S3::Bucket"] {
        for (name, _) in of_type(template, kind) {
            let denied =
                |policy: &String| policy.contains(name.as_str()) && policy.contains("aws:SecureTransport");
            let why = format!("{name} can be reached without TLS: no policy denies it");
            require(policies.iter().any(denied), &why);
        }
    }
    for (name, queue) in of_type(template, "AWS::SQS::Queue") {
        let why = format!("{name} is not encrypted at rest");
        require(queue["Properties"]["SqsManagedSseEnabled"] == true, &why);
    }
    for (name, table) in of_type(template, "AWS::DynamoDB::Table") {
        let properties = &table["Properties"];
        let recovery = &properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"];
        require(
            properties["SSESpecification"]["SSEEnabled"] == true,
            &format!("{name} is not encrypted with a key of ours"),
        );
        require(*recovery == true, &format!("{name} cannot be restored to a point in time"));
        let is_kept = table["DeletionPolicy"].as_str().is_some_and(|policy| policy.starts_with("Retain"));
        require(is_kept, &format!("{name} would be deleted with the stack"));
    }
    require(
        properties("LedgerTable")["TimeToLiveSpecification"]["Enabled"] == true,
        "the ledger forgets nothing: it has no time to live, and grows forever",
    );
    for (name, group) in of_type(template, "AWS::Logs::LogGroup") {
        require(!group["Properties"]["RetentionInDays"].is_null(), &format!("{name} keeps logs forever"));
    }
    for (name, bucket) in of_type(template, "AWS::S3::Bucket") {
        let block = bucket["Properties"]["PublicAccessBlockConfiguration"].to_string();
        require(block.matches("true").count() == 4, &format!("{name} could be made public"));
    }
    for (name, alarm) in of_type(template, "AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        let is_complete = !properties["AlarmDescription"].is_null() && !properties["AlarmActions"].is_null();
        require(is_complete, &format!("{name} tells nobody, or not what to do"));
    }
    violations
}

/// Every statement of a role's policies; a conditional one counts as it is when its condition holds.
fn statements(policies: &Value) -> Vec<Value> {
    let policies = policies.as_array().into_iter().flatten();
    let statements =
        policies.flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().into_iter().flatten());
    statements.map(|statement| statement.pointer("/Fn::If/1").unwrap_or(statement).clone()).collect()
}

#[test]
fn the_template_keeps_every_promise_about_it() {
    assert_eq!(violations(&TRANSFORMED), Vec::<String>::new());
}

#[test]
fn a_weakened_template_is_refused_with_a_sentence_that_says_why() {
    let role = "/Resources/ConsumerRole/Properties/Policies/0/PolicyDocument/Statement/0";
    for (path, value, why) in [
        (
            "/Resources/MessageQueue/Properties/VisibilityTimeout".to_owned(),
            json!(30),
            "delivered again while",
        ),
        (
            "/Resources/MessageQueue/Properties/RedrivePolicy/maxReceiveCount".to_owned(),
            json!(3),
            "maxReceiveCount is under 5",
        ),
        (
            "/Resources/ConsumerMapping/Properties/FunctionResponseTypes".to_owned(),
            json!([]),
            "ReportBatchItemFailures is off",
        ),
        (format!("{role}/Resource"), json!("*"), "the role ConsumerRole has a right on everything"),
        (format!("{role}/Action"), json!(["sqs:*"]), "the role ConsumerRole has a right on everything"),
        (
            "/Resources/DeadLetterQueue/Properties/SqsManagedSseEnabled".to_owned(),
            json!(false),
            "DeadLetterQueue is not encrypted",
        ),
        (
            "/Resources/WebhookIntegration/Properties/TimeoutInMillis".to_owned(),
            json!(29_000),
            "the sender would hang up",
        ),
        (
            "/Resources/ArchiveBucketPolicy/Properties".to_owned(),
            json!({}),
            "ArchiveBucket can be reached without TLS",
        ),
        (
            "/Resources/LearnersTable/DeletionPolicy".to_owned(),
            json!("Delete"),
            "would be deleted with the stack",
        ),
    ] {
        let mut template = TRANSFORMED.clone();
        *template.pointer_mut(&path).unwrap_or_else(|| panic!("{path} is not there")) = value;
        let found = violations(&template);
        assert!(found.len() == 1 && found[0].contains(why), "{path}: {found:?}");
    }
}
