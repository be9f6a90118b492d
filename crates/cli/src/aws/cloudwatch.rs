//! Alarms and metrics. Source: Amazon CloudWatch API reference.

use aws_config::SdkConfig;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::AwsClock;
use super::request::{CLOUDWATCH, Client, RequestError};

/// The prefix of the operations' names.
const TARGET: &str = "GraniteServiceVersion20100801";

/// `CloudWatch`, in one region.
#[derive(Debug)]
pub(crate) struct CloudWatch(Client);

/// An alarm that rings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Alarm {
    pub(crate) alarm_name: String,
    /// What to do.
    #[serde(default)]
    pub(crate) alarm_description: Option<String>,
    /// Since when.
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) state_updated_timestamp: Option<Timestamp>,
    /// The topics that it tells.
    #[serde(default)]
    alarm_actions: Vec<String>,
}

/// A metric of one function or one queue.
#[derive(Debug, Clone)]
pub(crate) struct Metric<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The name and the value of its only dimension.
    pub(crate) dimension: (&'a str, &'a str),
    /// Such as `Sum`.
    pub(crate) statistic: &'a str,
    pub(crate) period_s: u32,
}

/// The value of a metric in a period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Datapoint {
    /// When the period starts.
    pub(crate) at: Timestamp,
    pub(crate) value: f64,
}

/// A time in seconds since the epoch, with a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    Ok(seconds.and_then(timestamp))
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds of a time within a few centuries")]
fn timestamp(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).ok()
}

/// The request for the page of an answer that a token names.
fn continued(body: &Value, token: Option<String>) -> Value {
    let mut body = body.clone();
    if let (Some(fields), Some(token)) = (body.as_object_mut(), token) {
        fields.insert("NextToken".to_owned(), Value::String(token));
    }
    body
}

impl CloudWatch {
    pub(crate) fn new(aws: &SdkConfig, clock: &AwsClock) -> anyhow::Result<Self> {
        Client::new(CLOUDWATCH, aws, clock).map(Self)
    }

    /// The alarms that ring, whose name starts with `prefix` and that tell `topic_arn`; in order of their names.
    pub(crate) async fn ringing(&self, prefix: &str, topic_arn: &str) -> Result<Vec<Alarm>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Described {
            #[serde(default)]
            metric_alarms: Vec<Alarm>,
            next_token: Option<String>,
        }
        let body = json!({ "AlarmNamePrefix": prefix, "StateValue": "ALARM", "MaxRecords": 100 });
        let (mut ringing, mut next) = (Vec::new(), None);
        loop {
            let page: Described = self.0.json("DescribeAlarms", TARGET, &continued(&body, next)).await?;
            // Those of a rollout tell nobody, and another stack's name may start as this one's does.
            let is_ours = |alarm: &Alarm| alarm.alarm_actions.iter().any(|action| action == topic_arn);
            ringing.extend(page.metric_alarms.into_iter().filter(is_ours));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                ringing.sort_by(|a: &Alarm, b| a.alarm_name.cmp(&b.alarm_name));
                return Ok(ringing);
            }
        }
    }

    /// The values of metrics between two times, the newest first; periods without a value are left out.
    pub(crate) async fn data(
        &self,
        metrics: &[Metric<'_>],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Vec<Datapoint>>, RequestError> {
        let queries = metrics.iter().enumerate().map(|(index, metric)| {
            let (name, value) = metric.dimension;
            json!({ "Id": format!("m{index}"), "MetricStat": {
                "Metric": {
                    "Namespace": metric.namespace,
                    "MetricName": metric.name,
                    "Dimensions": [{ "Name": name, "Value": value }],
                },
                "Period": metric.period_s,
                "Stat": metric.statistic,
            } })
        });
        let body = json!({
            "MetricDataQueries": queries.collect::<Vec<_>>(),
            "StartTime": from.as_second(),
            "EndTime": to.as_second(),
            "ScanBy": "TimestampDescending",
        });
        let (mut data, mut next) = (vec![Vec::new(); metrics.len()], None);
        loop {
            let page: Data = self.0.json("GetMetricData", TARGET, &continued(&body, next)).await?;
            for result in page.metric_data_results {
                let index = result.id.strip_prefix('m').and_then(|index| index.parse::<usize>().ok());
                let Some(values) = index.and_then(|index| data.get_mut(index)) else { continue };
                let points = result.timestamps.into_iter().zip(result.values);
                values.extend(points.filter_map(|(at, value)| Some(Datapoint { at: timestamp(at)?, value })));
            }
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(data);
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(default)]
    metric_data_results: Vec<DataResult>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataResult {
    id: String,
    #[serde(default)]
    timestamps: Vec<f64>,
    #[serde(default)]
    values: Vec<f64>,
}

#[cfg(test)]
impl Alarm {
    /// An alarm that rings since 2026.
    pub(crate) fn of_test(name: &str) -> Self {
        Self {
            alarm_name: name.to_owned(),
            alarm_description: Some("Do this.".to_owned()),
            state_updated_timestamp: "2026-01-02T10:00:00Z".parse().ok(),
            alarm_actions: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_next_page() {
        let body = json!({ "a": 1 });
        assert_eq!(continued(&body, None), body);
        assert_eq!(continued(&body, Some("t".to_owned())), json!({ "a": 1, "NextToken": "t" }));
    }

    #[test]
    fn the_time_of_an_alarm_is_in_seconds_with_a_fraction() {
        let json = r#"{"AlarmName":"a","StateUpdatedTimestamp":1767348000.5,"AlarmActions":["t"]}"#;
        let alarm: Alarm = serde_json::from_str(json).unwrap();
        assert_eq!(alarm.state_updated_timestamp.unwrap().to_string(), "2026-01-02T10:00:00.5Z");
        let alarm: Alarm = serde_json::from_str(r#"{"AlarmName":"a"}"#).unwrap();
        assert_eq!((alarm.state_updated_timestamp, alarm.alarm_description), (None, None));
    }
}
