//! One line per unit of work: the fields to filter by, and its CloudWatch metrics.
//!
//! The line is a log line and, because of its `_aws` member, a set of metrics in the embedded metric format:
//! CloudWatch reads them from the log, so that a metric needs no call and is not lost in a frozen environment. A
//! dimension is a field of the same line, and has few values.
//! Source: CloudWatch user guide, "Specification: Embedded metric format".

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// The namespace of all metrics.
pub const NAMESPACE: &str = "LearnInkWebhooks";

/// A list of dimension sets. CloudWatch keeps a metric for each set and combination of values.
pub type Dimensions = &'static [&'static [&'static str]];

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// A number of things. The line does not say so, because every byte of it is paid for: CloudWatch shows such a metric
    /// without a unit.
    Count,
    /// Thousandths of a second, with a fraction.
    Milliseconds,
    /// Seconds.
    Seconds,
}

/// Where a unit of work was done.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The Lambda function's name, which distinguishes staging from production.
    pub function: &'a str,
    /// The function's version, which distinguishes new code from old while both run.
    pub version: &'a str,
    /// The code that runs: [`BUILD`](crate::BUILD), except in a test.
    pub build: &'a str,
    /// Lambda's id of the invocation.
    pub invocation_id: &'a str,
    /// Whether it is the first invocation of this environment.
    pub is_cold: bool,
}

/// The line of one unit of work, field by field.
#[derive(Debug)]
pub struct WideEvent {
    level: Level,
    at: Timestamp,
    /// A JSON object without its closing brace.
    json: Vec<u8>,
    metrics: Vec<(Metric, Dimensions)>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    #[serde(skip_serializing_if = "Unit::is_left_out")]
    unit: Unit,
}

impl Unit {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    const fn is_left_out(&self) -> bool {
        matches!(self, Self::Count)
    }
}

impl WideEvent {
    /// Starts a line with this message.
    pub fn new(level: Level, message: &'static str, at: Timestamp) -> Self {
        let mut event = Self { level, at, json: Vec::with_capacity(1024), metrics: Vec::with_capacity(8) };
        // As in the lines of `tracing`: Lambda reads the time and the level from these two.
        event.field("timestamp", format_args!("{at:.3}"));
        event.field("level", level.as_str());
        event.field("message", message);
        event
    }

    /// Adds where the work was done. `function` is a dimension of every metric. The invocation is added if something
    /// failed, and whether it was the first only if it was: most lines report neither.
    pub fn place(&mut self, place: Place<'_>) {
        self.field("function", place.function);
        self.field("version", place.version);
        self.field("build", place.build);
        self.field("invocation.id", (self.level <= Level::WARN).then_some(place.invocation_id));
        self.field("cold", place.is_cold.then_some(true));
    }

    /// Adds a field, unless its value is `None`.
    pub fn field(&mut self, name: &'static str, value: impl Serialize) {
        self.append(name, &value);
    }

    /// Adds a metric, unless its value is `None`. Each dimension is the name of a field of this line
    /// whose value is text.
    pub fn metric(&mut self, name: &'static str, unit: Unit, value: impl Serialize, dimensions: Dimensions) {
        if self.append(name, &value) {
            self.metrics.push((Metric { name, unit }, dimensions));
        }
    }

    /// Whether there was a value to append.
    fn append(&mut self, name: &'static str, value: &impl Serialize) -> bool {
        let before = self.json.len();
        self.json.push(if before == 0 { b'{' } else { b',' });
        let written = serde_json::to_writer(&mut self.json, name).and_then(|()| {
            self.json.push(b':');
            serde_json::to_writer(&mut self.json, value)
        });
        let appended = written.is_ok() && !self.json.ends_with(b":null");
        if !appended {
            self.json.truncate(before);
        }
        appended
    }

    /// The line, with a line feed at its end.
    pub fn into_line(mut self) -> Vec<u8> {
        let metrics = std::mem::take(&mut self.metrics);
        if !metrics.is_empty() {
            let timestamp = self.at.as_millisecond();
            self.field("_aws", Aws { timestamp, cloud_watch_metrics: directives(metrics) });
        }
        self.json.extend_from_slice(b"}\n");
        self.json
    }

    /// Writes the line to standard output in one piece, if its level is logged.
    pub fn write(self) {
        if self.level <= LevelFilter::current() {
            // Like a log line, it must not fail the work that it reports.
            let _ = io::stdout().lock().write_all(&self.into_line());
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aws {
    /// Milliseconds since the epoch.
    timestamp: i64,
    cloud_watch_metrics: Vec<Directive>,
}

/// The metrics that have the same dimensions.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: Dimensions,
    metrics: Vec<Metric>,
}

fn directives(metrics: Vec<(Metric, Dimensions)>) -> Vec<Directive> {
    let mut directives: Vec<Directive> = Vec::with_capacity(2);
    for (metric, dimensions) in metrics {
        match directives.iter_mut().find(|directive| directive.dimensions == dimensions) {
            Some(directive) => directive.metrics.push(metric),
            None => directives.push(Directive { namespace: NAMESPACE, dimensions, metrics: vec![metric] }),
        }
    }
    directives
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: WideEvent) -> String {
        String::from_utf8(event.into_line()).unwrap()
    }

    #[test]
    fn a_line_is_a_log_line_and_its_metrics() {
        let mut event = WideEvent::new(Level::INFO, "accepted a webhook", Timestamp::UNIX_EPOCH);
        event.field("function", "receiver");
        event.field("secret", "current");
        event.field("event.type", None::<&str>);
        event.metric("Accepted", Unit::Count, 1, &[&["function"], &["function", "secret"]]);
        event.metric("EnqueueTime", Unit::Milliseconds, 4.25, &[&["function"]]);
        insta::assert_snapshot!(line(event));
    }

    #[test]
    fn a_line_without_metrics_is_a_log_line() {
        let event = WideEvent::new(Level::WARN, "refused", Timestamp::UNIX_EPOCH);
        assert_eq!(
            line(event),
            "{\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"level\":\"WARN\",\"message\":\"refused\"}\n"
        );
    }

    #[test]
    fn a_line_about_a_failure_names_the_invocation_and_only_a_cold_start_is_said() {
        let place =
            |is_cold| Place { function: "f", version: "7", build: "b", invocation_id: "i-1", is_cold };
        let line = |level, is_cold| {
            let mut event = WideEvent::new(level, "x", Timestamp::UNIX_EPOCH);
            event.place(place(is_cold));
            let line: serde_json::Value = serde_json::from_str(&line(event)).unwrap();
            (line["invocation.id"].clone(), line["cold"].clone())
        };
        assert_eq!(line(Level::INFO, false), (serde_json::Value::Null, serde_json::Value::Null));
        assert_eq!(line(Level::WARN, true), ("i-1".into(), true.into()));
        assert_eq!(line(Level::ERROR, false), ("i-1".into(), serde_json::Value::Null));
    }

    #[test]
    fn whatever_a_value_holds_the_line_stays_one_line_of_json() {
        let mut event = WideEvent::new(Level::INFO, "x", Timestamp::UNIX_EPOCH);
        event.field("odd", "\"\n\u{0}\u{2028}}");
        event.field("not_a_number", f64::NAN);
        event.field("null", "null");
        let line = line(event);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["odd"], "\"\n\u{0}\u{2028}}");
        assert_eq!(parsed["null"], "null");
        assert_eq!((parsed.get("not_a_number"), line.lines().count()), (None, 1));
    }
}
