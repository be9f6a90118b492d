//! Log lines, as CloudWatch keeps them. Source: Amazon CloudWatch Logs API reference, `FilterLogEvents`.

use aws_config::SdkConfig;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::AwsClock;
use super::request::{Client, LOGS, RequestError};

/// CloudWatch Logs, in one region.
#[derive(Debug)]
pub(crate) struct Logs(Client);

/// A log line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogEvent {
    /// Its name, by which it is known again; an emulator has none.
    #[serde(default)]
    pub(crate) event_id: String,
    /// When it was written, in milliseconds since the epoch.
    pub(crate) timestamp: i64,
    pub(crate) message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    events: Vec<LogEvent>,
    next_token: Option<String>,
}

impl Logs {
    pub(crate) fn new(aws: &SdkConfig, clock: &AwsClock) -> anyhow::Result<Self> {
        Client::new(LOGS, aws, clock).map(Self)
    }

    /// The lines of a log group between two times that match `pattern`; none if no line was ever written.
    pub(crate) async fn between(
        &self,
        group: &str,
        since: Timestamp,
        until: Timestamp,
        pattern: &str,
    ) -> Result<Vec<LogEvent>, RequestError> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut body = json!({
                "logGroupName": group,
                "startTime": since.as_millisecond(),
                "endTime": until.as_millisecond(),
                "filterPattern": pattern,
            });
            if let (Some(body), Some(next)) = (body.as_object_mut(), &next) {
                body.insert("nextToken".to_owned(), json!(next));
            }
            let page: Page = match self.0.json("FilterLogEvents", "Logs_20140328", &body).await {
                Err(RequestError::NotFound { .. }) => return Ok(found),
                page => page?,
            };
            found.extend(page.events);
            match page.next_token {
                // A page may be empty before the last one.
                Some(token) => next = Some(token),
                None => return Ok(found),
            }
        }
    }
}
