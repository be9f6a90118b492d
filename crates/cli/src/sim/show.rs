//! The answers of the console, as far as tables show them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::output::print;
use crate::table::Column::{Id, Number, Text};
use crate::table::{self, seconds};

/// What was done.
#[derive(Debug, Deserialize)]
pub(super) struct Changed {
    pub(super) done: String,
}

/// The endpoints, the speed and the fault.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    speed: u32,
    fault: Option<Fault>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    answer: String,
    next: Option<u32>,
    share: Option<f64>,
    until: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    endpoint: String,
    environment: String,
    url: String,
    event_types: Vec<String>,
    disabled_because: Option<String>,
    secrets: Vec<Signing>,
    counts: BTreeMap<String, u64>,
    next_attempt: Option<Next>,
}

#[derive(Debug, Deserialize)]
struct Signing {
    fingerprint: String,
    until: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Next {
    due_at: Timestamp,
    simulated_at: Timestamp,
}

/// *Attempted Messages*.
#[derive(Debug, Deserialize)]
pub(super) struct Messages {
    messages: Vec<Line>,
    pub(super) before: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Line {
    message: String,
    environment: String,
    event_type: String,
    created_at: Timestamp,
    destinations: Vec<StatusAt>,
}

#[derive(Debug, Deserialize)]
struct StatusAt {
    status: String,
    attempts: u64,
    next_attempt: Option<Next>,
}

/// One message.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    message: String,
    attempts: Attempts,
    payload: Payload,
}

#[derive(Debug, Deserialize)]
struct Attempts {
    environment: String,
    event_type: String,
    created_at: Timestamp,
    destinations: Vec<AtEndpoint>,
}

#[derive(Debug, Deserialize)]
struct AtEndpoint {
    endpoint: String,
    url: Option<String>,
    status: String,
    stopped_because: Option<String>,
    next_attempt: Option<Next>,
    attempts: Vec<Attempt>,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    number: u32,
    trigger: String,
    started_at: Timestamp,
    simulated_at: Timestamp,
    took_ms: Option<f64>,
    status: Option<u16>,
    no_answer: Option<String>,
    signed_with: Vec<String>,
    injected: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    what: String,
    text: Option<String>,
    body_bytes: u64,
    is_cut: bool,
}

impl Next {
    /// The real time, and the simulated one if it differs.
    fn text(&self) -> String {
        let (real, simulated) = (seconds(self.due_at), seconds(self.simulated_at));
        if real == simulated { real } else { format!("{real}, in LearnInk {simulated}") }
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

impl Endpoints {
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let columns = [
            Id("Endpoint"),
            Text("Environment"),
            Text("URL"),
            Text("Types"),
            Text("State"),
            Text("Secret"),
            Text("Messages"),
            Text("Next attempt"),
        ];
        let rows = self.endpoints.iter().map(Endpoint::row);
        table::print(columns, rows, self.endpoints.len(), "there is no endpoint")?;
        self.conditions().into_iter().try_for_each(print)
    }

    /// Speed and fault, in sentences.
    fn conditions(&self) -> Vec<String> {
        let speed = match self.speed {
            1 => "waits between attempts pass as in LearnInk".to_owned(),
            speed => {
                format!("waits between attempts pass {speed} times faster; SQS's own times stay real")
            }
        };
        let fault = self.fault.as_ref().map(|fault| {
            let next = fault.next.map(|next| match next {
                1 => ", for the next request".to_owned(),
                next => format!(", for the next {next} requests"),
            });
            let share = fault.share.map(|share| format!(", for a share of {share} of the requests"));
            let until = fault.until.map(|until| format!(", until {}", seconds(until)));
            let parts: String = [next, share, until].into_iter().flatten().collect();
            format!("injected: {}{parts}", fault.answer)
        });
        std::iter::once(speed).chain(fault).collect()
    }
}

impl Endpoint {
    fn row(&self) -> [String; 8] {
        let secret = |secret: &Signing| match secret.until {
            Some(until) => format!("{} until {}", secret.fingerprint, seconds(until)),
            None => secret.fingerprint.clone(),
        };
        let secrets: Vec<_> = self.secrets.iter().map(secret).collect();
        let counts: Vec<_> = self.counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
        [
            self.endpoint.clone(),
            self.environment.clone(),
            self.url.clone(),
            if self.event_types.is_empty() { "all".to_owned() } else { self.event_types.join(", ") },
            self.disabled_because
                .as_ref()
                .map_or_else(|| "enabled".to_owned(), |because| format!("disabled: {because}")),
            secrets.join(", "),
            if counts.is_empty() { "none".to_owned() } else { counts.join(", ") },
            or_dash(self.next_attempt.as_ref().map(Next::text)),
        ]
    }
}

impl Messages {
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let columns = [
            Id("Message id"),
            Text("Type"),
            Text("Environment"),
            Text("Sent"),
            Text("Status"),
            Number("Attempts"),
            Text("Next attempt"),
        ];
        let rows = self.messages.iter().flat_map(Line::rows);
        table::print(columns, rows, self.messages.len(), "no message")
    }
}

impl Line {
    /// One for each endpoint, and one for a message that no endpoint got.
    fn rows(&self) -> Vec<[String; 7]> {
        let row = |status: &str, attempts: u64, next: Option<&Next>| {
            [
                self.message.clone(),
                self.event_type.clone(),
                self.environment.clone(),
                seconds(self.created_at),
                status.to_owned(),
                attempts.to_string(),
                or_dash(next.map(Next::text)),
            ]
        };
        if self.destinations.is_empty() {
            return vec![row("no endpoint", 0, None)];
        }
        let at = |at: &StatusAt| row(&at.status, at.attempts, at.next_attempt.as_ref());
        self.destinations.iter().map(at).collect()
    }
}

impl Message {
    pub(super) fn print(&self) -> anyhow::Result<()> {
        self.head().into_iter().try_for_each(print)?;
        let columns = [
            Number("Attempt"),
            Text("Trigger"),
            Text("Started"),
            Text("In LearnInk"),
            Text("Answer"),
            Text("Took"),
            Id("Signed with"),
            Id("Endpoint"),
        ];
        let attempts = self.attempts.destinations.iter().flat_map(AtEndpoint::rows).collect::<Vec<_>>();
        if attempts.is_empty() {
            print("no attempt has started")?;
        } else {
            table::print_rows(columns, attempts.into_iter())?;
        }
        let Payload { what, text, body_bytes, is_cut } = &self.payload;
        let cut = if *is_cut { "; only the start is shown" } else { "" };
        print(format!("payload: {body_bytes} bytes: {what}{cut}"))?;
        text.iter().flat_map(|text| text.lines()).try_for_each(print)
    }

    /// The message, and how far it is at each endpoint.
    fn head(&self) -> Vec<String> {
        let Attempts { environment, event_type, created_at, destinations } = &self.attempts;
        let head =
            format!("{}: {event_type}, sent from {environment} at {}", self.message, seconds(*created_at));
        let at = |at: &AtEndpoint| {
            let place = at.url.as_deref().unwrap_or("a removed endpoint");
            let because = at.stopped_because.as_ref().map(|because| format!(", because {because}"));
            let next = at.next_attempt.as_ref().map(|next| format!(", next attempt at {}", next.text()));
            let more: String = [because, next].into_iter().flatten().collect();
            format!("{} at {place}{more}", at.status)
        };
        std::iter::once(head).chain(destinations.iter().map(at)).collect()
    }
}

impl AtEndpoint {
    fn rows(&self) -> Vec<[String; 8]> {
        self.attempts.iter().map(|attempt| attempt.row(&self.endpoint)).collect()
    }
}

impl Attempt {
    fn row(&self, endpoint: &str) -> [String; 8] {
        let answer = self.status.map(|status| status.to_string()).or_else(|| self.no_answer.clone());
        let answer = answer.unwrap_or_else(|| "under way".to_owned());
        let injected = self.injected.as_ref().map(|fault| format!(", injected: {fault}"));
        [
            self.number.to_string(),
            self.trigger.clone(),
            seconds(self.started_at),
            seconds(self.simulated_at),
            format!("{answer}{}", injected.unwrap_or_default()),
            or_dash(self.took_ms.map(|took| format!("{took:.1} ms"))),
            self.signed_with.join(", "),
            endpoint.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_is_a_row_and_speed_and_fault_are_sentences() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "speed": 600,
            "fault": { "answer": "503", "next": 3, "share": null, "until": null },
            "endpoints": [{
                "endpoint": "ep_1", "environment": "staging", "url": "http://127.0.0.1:9000/x",
                "event_types": [], "is_enabled": false, "disabled_because": "somebody disabled it",
                "secrets": [
                    { "fingerprint": "aaaaaaaa", "until": null },
                    { "fingerprint": "bbbbbbbb", "until": "2026-01-01T01:00:00Z" },
                ],
                "created_at": "2026-01-01T00:00:00Z", "counts": { "failed": 2, "pending": 1 },
                "next_attempt": { "due_at": "2026-01-01T00:00:01Z", "simulated_at": "2026-01-01T00:05:00Z" },
            }],
        }))
        .unwrap();
        let expected = [
            "ep_1",
            "staging",
            "http://127.0.0.1:9000/x",
            "all",
            "disabled: somebody disabled it",
            "aaaaaaaa, bbbbbbbb until 2026-01-01 01:00:00Z",
            "2 failed, 1 pending",
            "2026-01-01 00:00:01Z, in LearnInk 2026-01-01 00:05:00Z",
        ];
        assert_eq!(endpoints.endpoints[0].row(), expected);
        let conditions = [
            "waits between attempts pass 600 times faster; SQS's own times stay real",
            "injected: 503, for the next 3 requests",
        ];
        assert_eq!(endpoints.conditions(), conditions);
    }

    #[test]
    fn a_message_without_an_endpoint_has_a_row_too() {
        let line: Line = serde_json::from_value(json!({
            "message": "msg_1", "environment": "production", "event_type": "notifications.sent",
            "created_at": "2026-01-01T00:00:00Z", "destinations": [],
        }))
        .unwrap();
        assert_eq!(line.rows()[0][4..], ["no endpoint", "0", "-"]);
    }

    #[test]
    fn an_attempt_says_what_answered_it() {
        let attempt = |more: serde_json::Value| {
            let mut attempt = json!({
                "number": 2, "trigger": "manual", "started_at": "2026-01-01T00:00:00Z",
                "simulated_at": "2026-01-01T00:00:05Z", "took_ms": 12.0, "status": null, "no_answer": null,
                "headers": [], "signed_with": ["aaaaaaaa", "bbbbbbbb"], "injected": null,
            });
            for (name, value) in more.as_object().unwrap() {
                attempt[name] = value.clone();
            }
            serde_json::from_value::<Attempt>(attempt).unwrap().row("ep_1")
        };
        let row = attempt(json!({ "status": 503, "injected": "503" }));
        let expected = [
            "2",
            "manual",
            "2026-01-01 00:00:00Z",
            "2026-01-01 00:00:05Z",
            "503, injected: 503",
            "12.0 ms",
            "aaaaaaaa, bbbbbbbb",
            "ep_1",
        ];
        assert_eq!(row, expected);
        assert_eq!(attempt(json!({ "no_answer": "no connection" }))[4], "no connection");
        assert_eq!(attempt(json!({ "took_ms": null }))[4..6], ["under way", "-"]);
    }
}
