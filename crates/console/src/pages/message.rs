//! One message: its timeline, its payload, its headers, its signature, its handlers, and the acts on it.

use std::time::Duration;

use jiff::Timestamp;
use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::Serialize;

use super::learnink::attempted_path;
use super::learnink::attempts::{AtEndpoint, Attempts, OneAttempt};
use super::{At, Page, badge, counted, duration, message_path, sign};
use crate::desk::{Diagnosis, Known};
use crate::history::{
    Call, HandlerRun, Happening, MessageHistory, QueueName, Record, RequestFacts, Row, State, Summary,
};
use crate::payload::Payload;

/// How many messages are in the list beside one.
pub(crate) const MOST_BESIDE: usize = 30;

/// How long a reveal lasts, in seconds.
pub(crate) const REVEALED_FOR_S: u32 = 30;

/// A header, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Header {
    pub(crate) name: String,
    /// The value; `None` if it is only shown on demand.
    pub(crate) value: Option<String>,
}

/// The request that a page shows.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// The number of its entry.
    pub(crate) seq: i64,
    pub(crate) request: RequestFacts,
    pub(crate) headers: Vec<Header>,
    pub(crate) payload: Payload,
    /// Whether signature and payload are shown as they were received.
    pub(crate) is_revealed: bool,
}

/// What a command said about the message, if one was asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// Its signature, check by check.
    Diagnosis(Diagnosis),
    /// What ledger and queues know.
    Known(Known),
}

/// A message.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    /// Whether nothing more happens to it by itself.
    pub(crate) is_settled: bool,
    pub(crate) history: MessageHistory,
    /// What LearnInk's side knows of it; `None` if it did not send it.
    pub(crate) learnink: Option<Attempts>,
    pub(crate) shown: Option<Shown>,
    pub(crate) said: Option<Said>,
    /// The newest messages, for the list beside it. A program asks for the list itself.
    #[serde(skip)]
    pub(crate) newest: Vec<Summary>,
}

/// The headers of a request; the values of signatures and of unknown headers only after a reveal. Unknown ones may
/// have anything, such as a token that a proxy adds.
pub(crate) fn headers(headers: &[(String, String)], is_revealed: bool) -> Vec<Header> {
    const SHOWN: [&str; 10] = [
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "svix-id",
        "svix-timestamp",
        "user-agent",
        "webhook-id",
        "webhook-timestamp",
    ];
    let header = |(name, value): &(String, String)| {
        let is_shown = is_revealed || SHOWN.contains(&name.to_ascii_lowercase().as_str());
        Header { name: visible(name).into_owned(), value: is_shown.then(|| visible(value).into_owned()) }
    };
    headers.iter().map(header).collect()
}

impl Page for Message {
    fn title(&self) -> String {
        format!("{}: {}", self.history.summary.message, sign(self.history.summary.state).1)
    }

    fn main(&self) -> Markup {
        html! {
            p { a href="/" data-key="Escape" { "All messages" } }
            div.beside {
                div { (self.detail()) }
                (self.list())
            }
        }
    }
}

/// A step of the timeline.
enum Step<'a> {
    /// LearnInk's side sent it to an endpoint.
    Sent(&'a AtEndpoint, &'a OneAttempt),
    /// The pipeline did something.
    Entry(&'a Row),
}

impl Step<'_> {
    const fn at(&self) -> Timestamp {
        match self {
            Self::Sent(_, attempt) => attempt.started_at,
            Self::Entry(row) => row.entry.at(),
        }
    }
}

fn deliveries(count: u64) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") }
}

impl Message {
    fn path(&self) -> String {
        message_path(&self.history.summary.message)
    }

    fn detail(&self) -> Markup {
        let summary = &self.history.summary;
        html! {
            h1 { code { (visible(&summary.message)) } }
            // The script replaces what is in here when something happens.
            div #live data-live data-path=(self.path()) {
                dl.facts {
                    dt { "State" }
                    dd {
                        (badge(summary.state))
                        @if let Some(until) = summary.until { ", delivered again at " (At(until)) }
                        @if let Some(why) = &summary.why { ": " (visible(why)) }
                    }
                    dt { "Type" }
                    dd { @if let Some(event_type) = &summary.event_type { (visible(event_type)) } @else { "-" } }
                    dt { "So far" }
                    dd { (counted(summary.attempts, "attempt")) ", " (deliveries(summary.deliveries)) }
                    @if let Some(learnink) = &self.learnink {
                        @for destination in &learnink.destinations { (destination.facts()) }
                    }
                }
                (self.timeline())
            }
            @if let Some(said) = &self.said { (said_section(said)) }
            (self.acts())
            @if let Some(shown) = &self.shown { (self.request(shown)) }
        }
    }

    /// The newest messages, beside the one that is read.
    fn list(&self) -> Markup {
        let here = &self.history.summary.message;
        html! {
            nav aria-labelledby="newest" {
                h2 #newest { "Newest messages" }
                ul #list.list data-live {
                    @for message in &self.newest {
                        li {
                            (badge(message.state)) " "
                            a data-row href=(message_path(&message.message))
                                aria-current=[(message.message == *here).then_some("page")] {
                                (visible(&message.message))
                            }
                        }
                    }
                }
            }
        }
    }

    fn timeline(&self) -> Markup {
        let mut before: Option<Timestamp> = None;
        html! {
            section aria-labelledby="timeline" {
                h2 #timeline { "Timeline" }
                @if self.history.left_out > 0 {
                    p { (self.history.left_out) " older entries are not shown." }
                }
                ol.timeline {
                    @for step in self.steps() {
                        @let since = before.replace(step.at()).map(|before| step.at().duration_since(before));
                        li {
                            (At(step.at()))
                            " "
                            span.since {
                                @if let Some(since) = since.and_then(|since| Duration::try_from(since).ok()) {
                                    "+" (duration(since))
                                }
                            }
                            " "
                            div.what {
                                @match step {
                                    Step::Sent(at, attempt) => { (attempt.step(at)) }
                                    Step::Entry(row) => { (self.entry(row)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The attempts of LearnInk's side and the entries by time. Of the same time, the attempt is the first.
    fn steps(&self) -> Vec<Step<'_>> {
        let sent = self.learnink.iter().flat_map(Attempts::by_time);
        let sent = sent.map(|(at, attempt)| Step::Sent(at, attempt));
        let mut steps: Vec<_> = sent.chain(self.history.entries.iter().map(Step::Entry)).collect();
        steps.sort_by_key(Step::at);
        steps
    }

    fn entry(&self, row: &Row) -> Markup {
        match &row.entry {
            Happening::Request(request) => self.attempt(row.seq, request),
            Happening::Record(record) => of_record(record),
            Happening::Queue(call) => {
                let queue = match call.queue {
                    QueueName::Messages => "the queue",
                    QueueName::DeadLetters => "the dead-letter queue",
                };
                html! {
                    strong { "Queue" }
                    ": "
                    @match call.call {
                        Call::Sent => { "put on " (queue) }
                        Call::Received => { "received from " (queue) }
                        Call::Deleted => { "deleted from " (queue) }
                        Call::Hidden { for_s: 0 } => { "visible again on " (queue) }
                        Call::Hidden { for_s } => { "hidden on " (queue) " for " (for_s) " s" }
                    }
                    " " small { "SQS message " code { (visible(&call.sqs_message_id)) } }
                }
            }
        }
    }

    fn attempt(&self, seq: i64, request: &RequestFacts) -> Markup {
        html! {
            strong { "Attempt" }
            ": "
            @match request.status {
                Some(status) => { "answered " strong { (status) } " after " (duration(request.took)) }
                None => { "not answered; the connection ended after " (duration(request.took)) }
            }
            @if let Some(fault) = &request.injected { " " strong.injected { "injected: " (visible(fault)) } }
            @if request.message_id.is_none() && request.claimed_message_id.is_some() {
                ", which only claims this id"
            }
            " " a href={ (self.path()) "?request=" (seq) "#request" } { "Request " (seq) }
            ul {
                @if let Some(outcome) = &request.outcome {
                    li {
                        strong { "Receiver" } ": " (visible(outcome))
                        @if let Some(reason) = &request.reason { ", " code { (visible(reason)) } }
                        @if let Some(detail) = &request.detail { ": " (visible(detail)) }
                        @if let Some(secret) = &request.secret { ", signed with the " (visible(secret)) " secret" }
                        @if request.has_unknown_signature { ", and with one that is not stored here" }
                    }
                    li { "verified in " (duration(request.verify_took)) }
                    @if let Some(took) = request.enqueue_took { li { "stored by SQS in " (duration(took)) } }
                }
            }
        }
    }

    fn acts(&self) -> Markup {
        let summary = &self.history.summary;
        let (message, state) = (&summary.message, summary.state);
        let path = self.path();
        let is_request = message.starts_with("request.");
        let is_known = !is_request && !message.starts_with("sqs.");
        html! {
            section aria-labelledby="acts" {
                h2 #acts { "Acts" }
                @if state == State::Dead {
                    (act(&path, "redrive", "r", "Redrive this dead letter",
                        "It goes back to its queue, and what is not done runs. Redrive it once its cause is put right.", false))
                    (act(&path, "drop", "d", "Drop this dead letter",
                        "It is written to a file in the folder where `dev` was started, and deleted from the queue.", false))
                }
                @if let Some(learnink) = &self.learnink {
                    (learnink.acts(message))
                    p { a href=(attempted_path(message)) { "Its attempts on LearnInk's side" } }
                }
                @if is_known && state != State::Refused {
                    (act(&path, "replay", "p", "Open a replay window",
                        "It is open for two hours. If LearnInk resends the message by then, its handlers run again; without a \
                         window, the message counts as a duplicate.", true))
                    form.act method="post" action={ (path) "/show" } {
                        button { "Ask the ledger" }
                        " what is recorded as done"
                    }
                }
                @if is_request { p { "This request did not become a message, so you cannot redrive, drop or replay it." } }
            }
        }
    }

    fn request(&self, shown: &Shown) -> Markup {
        let path = self.path();
        let payload = &shown.payload;
        html! {
            section aria-labelledby="request" {
                h2 #request { "Request " (shown.seq) }
                p {
                    code { (visible(&shown.request.method)) " " (visible(&shown.request.path)) } " at " (At(shown.request.at))
                }
                form.act method="post" action={ (path) "/verify" } {
                    input type="hidden" name="request" value=(shown.seq);
                    button { "Check the signature step by step" }
                }
                @if shown.is_revealed {
                    p.warning role="status" {
                        "Shown as it was received, with personal data. It is hidden again after " (REVEALED_FOR_S) " s. "
                        a href=(path) data-key="Escape" { "Hide it now" }
                    }
                } @else {
                    form.act method="post" action={ (path) "/reveal" } {
                        input type="hidden" name="request" value=(shown.seq);
                        button { "Reveal for " (REVEALED_FOR_S) " s" }
                        " the signed bytes and the hidden headers, which have personal data and the signature"
                    }
                }
                h3 { "Payload" }
                p {
                    (payload.body_bytes) " bytes: " (payload.what)
                    @if payload.is_cut { "; only the start is shown" }
                }
                @if let Some(text) = &payload.text {
                    pre tabindex="0" role="region" aria-label="Payload" { code { (text) } }
                }
                h3 { "Headers" }
                div.scroll tabindex="0" role="region" aria-label="Headers" {
                    table {
                        thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
                        tbody {
                            @for header in &shown.headers {
                                tr {
                                    th scope="row" { (header.name) }
                                    td {
                                        @match &header.value {
                                            Some(value) => { code { (value) } }
                                            None => { em { "hidden" } }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A form that acts on this message, behind a fold.
fn act(path: &str, name: &str, key: &str, title: &str, what: &str, needs_reason: bool) -> Markup {
    html! {
        details.act {
            summary data-key=(key) { (title) }
            form method="post" action={ (path) "/" (name) } {
                p { (what) }
                label {
                    "Reason, for people who see the act "
                    input type="text" name="reason" required[needs_reason] maxlength="500" autocomplete="off";
                }
                " "
                button { (title) }
            }
        }
    }
}

fn of_record(record: &Record) -> Markup {
    html! {
        strong { "Consumer" }
        ": delivery " (record.receive_count) " ended " strong { (record.outcome.replace('_', " ")) }
        @if let Some(comes_back_in) = record.comes_back_in { ", comes back in " (duration(comes_back_in)) }
        @if let Some(reason) = &record.reason {
            ": "
            @if let Some(handler) = &record.handler { (visible(handler)) ": " }
            (visible(reason))
        }
        @if record.handlers.is_empty() {
            " " small { "No handler ran." }
        } @else {
            ul { @for run in &record.handlers { li { (of_handler(run)) } } }
        }
        @match record.outcome.as_str() {
            "processed" => { " " small { "Recorded in the ledger." } }
            "duplicate" => { " " small { "The ledger had it as done." } }
            _ => {}
        }
    }
}

fn of_handler(run: &HandlerRun) -> Markup {
    html! {
        strong { "Handler " code { (visible(&run.name)) } }
        ": " (run.ended.replace('_', " ")) " after " (duration(run.took))
        @if let Some(detail) = &run.detail { ": " (visible(detail)) }
    }
}

fn said_section(said: &Said) -> Markup {
    match said {
        Said::Diagnosis(diagnosis) => html! {
            section aria-labelledby="diagnosis" {
                h2 #diagnosis { "Signature: " (diagnosis.verdict.replace('_', " ")) }
                ol {
                    @for check in &diagnosis.checks {
                        @let sign = match check.result.as_str() { "ok" => "✓", "failed" => "✕", _ => "−" };
                        li {
                            span aria-hidden="true" { (sign) } " " (visible(&check.check)) ": "
                            strong { (check.result.replace('_', " ")) }
                            @if let Some(detail) = &check.detail { ", " (visible(detail)) }
                        }
                    }
                }
                @if !diagnosis.mistakes.is_empty() {
                    p { "Without these mistakes, the signature matches:" }
                    ul {
                        @for mistake in &diagnosis.mistakes {
                            li { (visible(&mistake.explanation)) ": " (visible(&mistake.remedy)) }
                        }
                    }
                }
                @for advice in &diagnosis.advice { p { (visible(advice)) } }
            }
        },
        Said::Known(known) => html! {
            section aria-labelledby="ledger" {
                h2 #ledger { "Ledger: " (visible(&known.state)) }
                dl.facts {
                    @for (name, values) in
                        [("Done", &known.done), ("Run again", &known.again), ("Replay windows", &known.windows)] {
                        dt { (name) }
                        dd { @if values.is_empty() { "-" } @else { (visible(&values.join(", "))) } }
                    }
                }
                ol.timeline {
                    @for moment in &known.timeline { li { (At(moment.at)) " " (visible(&moment.what)) } }
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_signature_or_an_unknown_header_needs_a_reveal() {
        let given =
            [("svix-id", "msg_1"), ("svix-signature", "v1,x"), ("Authorization", "y"), ("host", "z\u{1b}")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let values = |is_revealed| {
            headers(&given, is_revealed).into_iter().map(|header| header.value).collect::<Vec<_>>()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(values(false), [text("msg_1"), None, None, text("z\\u{1b}")]);
        assert_eq!(values(true), [text("msg_1"), text("v1,x"), text("y"), text("z\\u{1b}")]);
    }
}
