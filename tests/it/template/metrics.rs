//! Alarms and dashboard against the lines that the functions write: each watched metric is published, and each
//! field in a query is in a line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_consumer::report::{Degraded, Ended, Failure};
use learnink_consumer::{HandlerReport, Outcome as End, RecordReport};
use learnink_receiver::{Outcome, Receipt, Refresh, Refusal, SecretSlot};
use learnink_telemetry::Place;
use learnink_tests::read;
use learnink_webhook::message::EncodeError;
use learnink_webhook::{FailureKind, HandlerError};
use serde_json::{Value, json};

use super::transformed::{Template, Violations, arn, cases, short};

/// A line of each outcome, with the function that writes it.
static LINES: LazyLock<Vec<(&'static str, Value)>> = LazyLock::new(|| {
    let place =
        |function| Place { function, version: "7", build: "0.1.0", invocation_id: "i-1", is_cold: false };
    let (receiver, consumer) = ("ReceiverFunction", "ConsumerFunction");
    let received = receipts().map(|receipt| (receiver, receipt.line(place(receiver))));
    let lines = received.chain(reports().map(|report| (consumer, report.line(place(consumer)))));
    lines.map(|(function, line)| (function, serde_json::from_slice(&line.into_line()).unwrap())).collect()
});

fn receipts() -> impl Iterator<Item = Receipt> {
    let outcomes = [
        Outcome::Accepted,
        Outcome::Refused(Refusal::NoMatchingSignature),
        Outcome::TooLarge(EncodeError { bytes: 1 }),
        Outcome::BodyTooLarge,
        Outcome::Unavailable(CallError::TimedOut),
        Outcome::NotFound,
        Outcome::MethodNotAllowed,
        Outcome::NoRequest,
    ];
    outcomes.into_iter().map(|outcome| Receipt {
        outcome,
        message_id: Some("msg_1".to_owned()),
        event_type: Some("notifications.sent".to_owned()),
        occurred_at: Some(Timestamp::UNIX_EPOCH),
        signed_at_s: Some(0),
        secret: Some(SecretSlot::Current),
        refresh: Some(Refresh::Failed(CallError::TimedOut.into())),
        enqueue_took: Some(Duration::ZERO),
        ..Receipt::new(Timestamp::UNIX_EPOCH)
    })
}

fn reports() -> impl Iterator<Item = RecordReport> {
    let outcomes =
        [End::Processed, End::Duplicate, End::Ignored, End::DeadLettered, End::Retry, End::SentAgain];
    let run = |ended| HandlerReport { name: "push", key: "push".to_owned(), ended, took: Duration::ZERO };
    let skipped = || Ended::Failed(HandlerError::new(FailureKind::SkippedByBreaker, "not called"));
    let failure = Failure { handler: Some("push"), class: "permanent", reason: "no such plan".to_owned() };
    // An event without a handler, one in another version, and a webhook that is not an event.
    let sent = Some("notifications.sent");
    let heads = [(sent, None), (sent, Some("2031-01-01")), (None, None)];
    let reports = outcomes.into_iter().flat_map(move |outcome| heads.map(|head| (outcome, head)));
    reports.map(move |(outcome, (event_type, another_version))| RecordReport {
        sqs_message_id: "sqs-1".to_owned(),
        message_id: Some("msg_1".to_owned()),
        event_type: event_type.map(str::to_owned),
        occurred_at: Some(Timestamp::UNIX_EPOCH),
        received_at: Some(Timestamp::UNIX_EPOCH),
        known: false,
        another_version: another_version.map(str::to_owned),
        part: None,
        receive_count: 1,
        outcome,
        failure: matches!(outcome, End::DeadLettered | End::Retry).then(|| failure.clone()),
        first_seen: None,
        retry_in: Some(Duration::ZERO),
        degraded: BTreeSet::from([Degraded::Delay]),
        handlers: [Ended::TooLate, skipped()].map(run).into(),
        ended_at: Timestamp::UNIX_EPOCH,
    })
}

/// How long a function's line is, in bytes, that `scripts/cost` computes with.
fn assumed(function: &str) -> usize {
    let script = read("scripts/cost");
    let (_, lines) = script.split_once("\nLINES = {").unwrap();
    let (_, bytes) = lines.split_once(&format!("\"{function}\": ")).unwrap();
    bytes.split([',', '}']).next().unwrap().parse().unwrap()
}

#[test]
fn a_line_of_a_usual_event_is_as_long_as_the_cost_page_says() {
    let place = |function| Place {
        function,
        version: "42",
        build: "0.1.0+1a2b3c4d5e",
        invocation_id: "0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d",
        is_cold: false,
    };
    let id = Some("msg_2Qp7nXkR0VtYw4LmZs8HuJd1CbE".to_owned());
    let event_type = Some("user.course.started".to_owned());
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let receipt = Receipt {
        outcome: Outcome::Accepted,
        message_id: id.clone(),
        event_type: event_type.clone(),
        occurred_at: Some(at("2026-01-02T10:00:00Z")),
        signed_at_s: Some(at("2026-01-02T10:00:12Z").as_second()),
        body_bytes: 412,
        secret: Some(SecretSlot::Current),
        verify_took: Duration::from_micros(48),
        enqueue_took: Some(Duration::from_nanos(6_251_234)),
        ..Receipt::new(at("2026-01-02T10:00:12.345Z"))
    };
    let done = |name| HandlerReport { name, key: name.to_owned(), ended: Ended::Done, took: Duration::ZERO };
    let report = RecordReport {
        sqs_message_id: "0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d".to_owned(),
        message_id: id,
        event_type,
        occurred_at: Some(at("2026-01-02T10:00:00Z")),
        received_at: Some(at("2026-01-02T10:00:12.345Z")),
        known: true,
        another_version: None,
        part: None,
        receive_count: 1,
        outcome: End::Processed,
        failure: None,
        first_seen: None,
        retry_in: None,
        degraded: BTreeSet::new(),
        handlers: ["progress", "archive"].map(done).into(),
        ended_at: at("2026-01-02T10:00:12.496123456Z"),
    };
    let lines = [
        ("receiver", receipt.line(place("learnink-webhooks-production-receiver"))),
        ("consumer", report.line(place("learnink-webhooks-production-consumer"))),
    ];
    for (function, line) in lines {
        let (bytes, assumed) = (line.into_line().len(), assumed(function));
        assert!(bytes <= assumed && assumed < bytes + 30, "{function}: {bytes} bytes, not {assumed}");
    }
}

pub(super) fn rules(template: &Template, violations: &mut Violations) {
    let mut watched: Vec<(&str, String)> = Vec::new();
    for (name, alarm) in template.of_type("AWS::CloudWatch::Alarm") {
        watched.extend(asked(&alarm["Properties"]).into_iter().map(|metric| (name, metric)));
        quiet_hour(template, name, alarm, violations);
    }
    let widgets = template.properties("Dashboard")["DashboardBody"]["widgets"].as_array();
    violations.require(widgets.is_some(), "the dashboard is no JSON with widgets: a deploy would fail");
    for widget in widgets.into_iter().flatten().map(|widget| &widget["properties"]) {
        let title = widget["title"].as_str().unwrap_or_default();
        watched.extend(graphed(&widget["metrics"]).into_iter().map(|metric| (title, metric)));
        let unknown = unknown_fields(template, widget["query"].as_str().unwrap_or_default()).join(", ");
        let why = format!("the widget `{title}` names {unknown}, which no line has: it would show nothing");
        violations.require(unknown.is_empty(), why);
    }
    let published = published(template);
    for (name, metric) in watched.iter().filter(|(_, metric)| !metric.starts_with("AWS/")) {
        let why =
            format!("`{name}` watches {metric}, which nobody publishes: it would show nothing, and not ring");
        violations.require(published.contains(metric), why);
    }
    let is_watched = |metric: &String| watched.iter().any(|(_, watched)| watched == metric);
    let unwatched: Vec<_> =
        published.iter().filter(|metric| !is_watched(metric)).map(String::as_str).collect();
    let why = format!(
        "no alarm and no widget shows {}: CloudWatch would be paid for nothing",
        unwatched.join(", ")
    );
    violations.require(unwatched.is_empty(), why);
    for (name, filter) in template.of_type("AWS::Logs::MetricFilter") {
        let fields = fields_of(template, &short(&filter["Properties"]["LogGroupName"]));
        let pattern = short(&filter["Properties"]["FilterPattern"]);
        let mut asked = pattern.split("$.").skip(1).filter_map(|rest| rest.split([' ', '=', '!']).next());
        let why = format!("{name} asks for a field that no line has: it would count nothing");
        violations.require(asked.all(|field| fields.contains(field)), why);
    }
}

/// An alarm's state after an hour without a webhook. If its metric is 0 while all is well, the alarm keeps its
/// state until the next number, because the hour proves nothing. If its metric is never 0, it would keep the state
/// forever, so it returns to OK by itself; that OK would be sent although nobody has done anything.
fn quiet_hour(template: &Template, name: &str, alarm: &Value, violations: &mut Violations) {
    const A_DAY_S: u64 = 86_400;
    let is_rollout = template.parameters_of(alarm["Condition"].as_str().unwrap_or_default());
    let alarm = &alarm["Properties"];
    let metrics = asked(alarm);
    let [metric] = metrics.as_slice() else { return };
    if is_rollout.contains("GradualRollout") || !published(template).contains(metric) {
        return;
    }
    let asks_for_silence = short(&alarm["ComparisonOperator"]).starts_with("LessThan");
    let can_be_zero = zeros().contains(metric);
    let expected = match (asks_for_silence, can_be_zero) {
        (true, _) => "breaching",
        (false, true) => "ignore",
        (false, false) => "notBreaching",
    };
    violations.require(
        alarm["TreatMissingData"] == expected,
        format!(
            "{name} does not treat missing data as {expected}: it would go back in a quiet hour, or never"
        ),
    );
    let seconds = alarm["Period"].as_u64().zip(alarm["EvaluationPeriods"].as_u64());
    let is_soon = seconds.is_some_and(|(period, periods)| period * periods < A_DAY_S);
    violations.require(
        can_be_zero || asks_for_silence || !is_soon || alarm["OKActions"].is_null(),
        format!("{name} would mail OK after a quiet hour, although nobody has done anything"),
    );
}

/// What CloudWatch asks of the member `_aws`. It drops the metrics of a line that does not fit, and says so nowhere near
/// the function.
/// Source: CloudWatch user guide, "Specification: Embedded metric format", and its JSON schema.
fn embedded_metric_format() -> Value {
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 1024 });
    let unit = "^(Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|\
                Megabits|Gigabits|Terabits|Percent|Count|None|((Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|\
                Kilobits|Megabits|Gigabits|Terabits|Count)/Second))$";
    let metric = json!({
        "type": "object",
        "required": ["Name"],
        "properties": {
            "Name": name,
            "Unit": { "type": "string", "pattern": unit },
            "StorageResolution": { "enum": [1, 60] },
        },
        "additionalProperties": false,
    });
    let dimension = json!({ "type": "string", "minLength": 1, "maxLength": 250 });
    let directive = json!({
        "type": "object",
        "required": ["Namespace", "Dimensions", "Metrics"],
        "properties": {
            "Namespace": name,
            "Dimensions": {
                "type": "array",
                "minItems": 1,
                "items": { "type": "array", "maxItems": 30, "items": dimension },
            },
            "Metrics": { "type": "array", "minItems": 1, "maxItems": 100, "items": metric },
        },
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "required": ["Timestamp", "CloudWatchMetrics"],
        "properties": {
            "Timestamp": { "type": "integer", "minimum": 0 },
            "CloudWatchMetrics": { "type": "array", "minItems": 1, "items": directive },
        },
        "additionalProperties": false,
    })
}

#[test]
fn every_line_of_metrics_fits_the_format_that_cloudwatch_reads() {
    let format = jsonschema::validator_for(&embedded_metric_format()).unwrap();
    let mut checked = 0;
    for (_, line) in LINES.iter().filter(|(_, line)| line.get("_aws").is_some()) {
        let found: Vec<_> = format.iter_errors(&line["_aws"]).map(|error| error.to_string()).collect();
        assert!(found.is_empty(), "{found:?} in {line:#}");
        for directive in cases(&line["_aws"]["CloudWatchMetrics"]) {
            for metric in cases(&directive["Metrics"]) {
                assert!(line[&short(&metric["Name"])].is_number(), "{metric} of {line:#}");
            }
            for dimension in cases(&directive["Dimensions"]).into_iter().flat_map(cases) {
                let value = line[&short(dimension)].as_str().unwrap_or_default();
                assert!((1..=1024).contains(&value.len()), "{dimension} of {line:#}");
            }
        }
        checked += 1;
    }
    assert!(checked > 0);
}

/// The metrics that are 0 in some line.
fn zeros() -> BTreeSet<String> {
    let mut zeros = BTreeSet::new();
    each_metric(|made, value| {
        if value.as_f64() == Some(0.0) {
            zeros.insert(made);
        }
    });
    zeros
}

/// The metrics of an alarm: one, or those in its expression.
fn asked(alarm: &Value) -> Vec<String> {
    let stated = cases(&alarm["Metrics"]).into_iter().map(|asked| &asked["MetricStat"]["Metric"]);
    let stated = stated.filter(|metric| metric.is_object());
    let one = alarm["MetricName"].is_string().then_some(alarm);
    let metrics = stated.chain(one).map(|asked| {
        let dimensions = cases(&asked["Dimensions"]).into_iter();
        let dimensions = dimensions.map(|dimension| (short(&dimension["Name"]), short(&dimension["Value"])));
        metric(&short(&asked["Namespace"]), &short(&asked["MetricName"]), dimensions)
    });
    metrics.collect()
}

/// A metric as CloudWatch identifies it, and the function that it is about.
fn metric(namespace: &str, name: &str, dimensions: impl Iterator<Item = (String, String)>) -> String {
    let dimensions: BTreeMap<_, _> = dimensions.collect();
    let function =
        dimensions.get("function").map_or("no function", |name| name.trim_matches(['$', '{', '}']));
    format!("{namespace} {name} by {:?} of {function}", dimensions.keys())
}

/// Shows the metrics in the lines of every outcome, each with its value.
fn each_metric(mut visit: impl FnMut(String, &Value)) {
    for (function, line) in LINES.iter() {
        for directive in cases(&line["_aws"]["CloudWatchMetrics"]) {
            let (sets, made) = (directive["Dimensions"].as_array().unwrap(), cases(&directive["Metrics"]));
            for (set, made) in sets.iter().flat_map(|set| made.iter().map(move |made| (set, made))) {
                let set = cases(set).into_iter().map(|dimension| (short(dimension), (*function).to_owned()));
                let name = short(&made["Name"]);
                visit(metric(&short(&directive["Namespace"]), &name, set), &line[&name]);
            }
        }
    }
}

/// The metrics in the lines of every outcome, and those that filters make of other lines.
fn published(template: &Template) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    each_metric(|made, _| {
        published.insert(made);
    });
    let filters = template.of_type("AWS::Logs::MetricFilter");
    for made in filters.flat_map(|(_, filter)| cases(&filter["Properties"]["MetricTransformations"])) {
        let dimensions = cases(&made["Dimensions"]).into_iter();
        let dimensions = dimensions.map(|dimension| (short(&dimension["Key"]), String::new()));
        published.insert(metric(&short(&made["MetricNamespace"]), &short(&made["MetricName"]), dimensions));
    }
    published
}

/// The metrics of a widget. `.` repeats the value above, and `...` repeats all values up to the next ones.
/// Source: CloudWatch API, "Dashboard body structure and syntax".
fn graphed(rows: &Value) -> Vec<String> {
    let (mut above, mut metrics): (Vec<&str>, Vec<String>) = <_>::default();
    for row in rows.as_array().into_iter().flatten() {
        if let Some(expression) = row[0]["expression"].as_str() {
            metrics.extend(expression.split("SEARCH('").skip(1).map(searched));
            continue;
        }
        let mut names: Vec<_> = cases(row).into_iter().filter_map(Value::as_str).collect();
        if names.first() == Some(&"...") {
            names.splice(..1, above[..=above.len() - names.len()].iter().copied());
        }
        for (name, above) in names.iter_mut().zip(&above).filter(|(name, _)| **name == ".") {
            *name = above;
        }
        if let [namespace, name, dimensions @ ..] = names.as_slice() {
            let dimensions = dimensions.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
            metrics.push(metric(namespace, name, dimensions));
        }
        above = names;
    }
    metrics
}

/// The metric that an expression searches, from its list of dimensions on.
fn searched(search: &str) -> String {
    let Some((schema, terms)) = search.strip_prefix('{').and_then(|search| search.split_once('}')) else {
        return format!("SEARCH('{search}");
    };
    let term = |name: &str| {
        let after = terms.split_once(&format!("{name}=\"")).map(|(_, after)| after);
        after.and_then(|after| after.split('"').next()).unwrap_or_default().to_owned()
    };
    let (namespace, dimensions) = schema.split_once(',').unwrap_or((schema, ""));
    let dimensions = dimensions.split(',').map(|dimension| (dimension.to_owned(), term(dimension)));
    metric(namespace, &term("MetricName"), dimensions)
}

/// The names of the fields in the lines of a log group.
fn fields_of(template: &Template, group: &str) -> BTreeSet<String> {
    let is_written_by =
        |function: &str| template.properties(function)["LoggingConfig"]["LogGroup"]["Ref"] == group;
    let lines = LINES.iter().filter(|(function, _)| is_written_by(function)).map(|(_, line)| line);
    let access_log = &template.properties("WebhookApiStage")["AccessLogSettings"];
    let lines = lines.chain((access_log["DestinationArn"] == arn(group)).then_some(&access_log["Format"]));
    lines.filter_map(Value::as_object).flat_map(|line| line.keys().cloned()).collect()
}

/// The words of a Logs Insights query that are not fields.
const WORDS: [&str; 12] =
    ["SOURCE", "filter", "stats", "fields", "sort", "by", "as", "in", "and", "or", "asc", "desc"];

/// The fields of a query that are in no line of its log groups.
fn unknown_fields(template: &Template, query: &str) -> Vec<String> {
    let groups = query.split("SOURCE '${").skip(1).filter_map(|rest| rest.split('}').next());
    let mut known: BTreeSet<_> = groups.flat_map(|group| fields_of(template, group)).collect();
    let mut unknown = Vec::new();
    // Every second part is quoted text.
    let code: String = query.split(['"', '\'']).step_by(2).collect();
    let is_part = |char: char| char.is_alphanumeric() || "_.@`".contains(char);
    let (mut rest, mut before) = (code.as_str(), "");
    while let Some(at) = rest.find(is_part) {
        let (word, after) =
            rest[at..].split_at(rest[at..].find(|char| !is_part(char)).unwrap_or(rest.len() - at));
        let is_other = WORDS.contains(&word)
            || after.starts_with('(')
            || word.starts_with(|char: char| char == '@' || char.is_numeric());
        let field = word.trim_matches('`');
        if before == "as" {
            known.insert(field.to_owned());
        } else if !is_other && !known.contains(field) {
            unknown.push(field.to_owned());
        }
        (rest, before) = (after, word);
    }
    unknown
}
