//! *Attempted Messages*: the messages of LearnInk's side, with filters in the URL.

use jiff::{SignedDuration, Timestamp};
use learnink_local::terminal::visible;
use learnink_simulator::{EndpointId, Environment, Message, MessageFilter, Simulator, Status};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::super::list::{given, time};
use super::super::{At, Page, encoded};
use super::{Choice, MESSAGES, Next, attempted_path, badge, both, links, options};

/// How many messages a page has.
pub(crate) const MOST_ROWS: usize = 100;

/// The dates to choose from: name in the URL, name on the page, how long ago they start. Messages are kept for seven
/// days, so that a month is all of them.
const DATES: [(&str, &str, SignedDuration); 4] = [
    ("5-hours-ago", "since 5 hours ago", SignedDuration::from_hours(5)),
    ("yesterday", "since yesterday", SignedDuration::from_hours(24)),
    ("last-week", "since last week", SignedDuration::from_hours(7 * 24)),
    ("last-month", "all that is kept", SignedDuration::from_hours(30 * 24)),
];

/// What a URL asks for. All of it is text, as a person may have typed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AskedAttempts {
    /// The name of an environment.
    pub(crate) environment: String,
    /// The id of an endpoint.
    pub(crate) endpoint: String,
    /// An event type.
    pub(crate) r#type: String,
    /// The name of a status.
    pub(crate) status: String,
    /// The name of a date.
    pub(crate) date: String,
    /// A time.
    pub(crate) since: String,
    /// A time.
    pub(crate) until: String,
    /// A cursor.
    pub(crate) before: String,
}

/// The environment of this name.
pub(crate) fn environment(name: &str) -> Result<Environment, String> {
    let found = Environment::ALL.into_iter().find(|environment| environment.name() == name);
    found.ok_or_else(|| format!("unknown environment `{name}`: use staging or production"))
}

impl AskedAttempts {
    /// The filter.
    ///
    /// Fails with what cannot be read, in words.
    pub(crate) fn filter(&self, now: Timestamp) -> Result<MessageFilter, String> {
        let status = |name: String| {
            let names = Status::ALL.map(Status::name).join(", ");
            let found = Status::ALL.into_iter().find(|status| status.name() == name);
            found.ok_or_else(|| format!("unknown status `{name}`: use one of {names}"))
        };
        let date = |name: String| {
            let names = DATES.map(|(name, ..)| name).join(", ");
            let found = DATES.into_iter().find(|(known, ..)| *known == name);
            let (.., ago) = found.ok_or_else(|| format!("unknown date `{name}`: use one of {names}"))?;
            now.checked_sub(ago).map_err(|error| error.to_string())
        };
        let time = |text: &str| given(text).map(|text| time(&text)).transpose();
        let (date, since) = (given(&self.date).map(date).transpose()?, time(&self.since)?);
        if date.is_some() && since.is_some() {
            return Err("`date` and `since` are both given: use one of them".to_owned());
        }
        let before = given(&self.before)
            .map(|before| before.parse().map_err(|_| "`before` is not a cursor of this list".to_owned()));
        Ok(MessageFilter {
            environment: given(&self.environment).map(|name| environment(&name)).transpose()?,
            endpoint: given(&self.endpoint).map(EndpointId::named),
            event_type: given(&self.r#type),
            status: given(&self.status).map(status).transpose()?,
            since: date.or(since),
            until: time(&self.until)?,
            older_than: before.transpose()?,
        })
    }

    /// The URL of this filter, with a cursor.
    fn url(&self, before: &str) -> String {
        let fields = [
            ("environment", self.environment.as_str()),
            ("endpoint", &self.endpoint),
            ("type", &self.r#type),
            ("status", &self.status),
            ("date", &self.date),
            ("since", &self.since),
            ("until", &self.until),
            ("before", before),
        ];
        let parts = fields.into_iter().filter(|(_, value)| !value.is_empty());
        let parts: Vec<_> = parts.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        if parts.is_empty() { MESSAGES.to_owned() } else { format!("{MESSAGES}?{}", parts.join("&")) }
    }
}

/// *Attempted Messages*.
#[derive(Debug, Serialize)]
pub(crate) struct Attempted {
    /// What was asked for.
    pub(crate) asked: AskedAttempts,
    /// The newest first.
    pub(crate) messages: Vec<Line>,
    /// The cursor of the next page.
    pub(crate) before: Option<u64>,
    /// The endpoints to choose from.
    #[serde(skip)]
    pub(crate) endpoints: Vec<Choice>,
    /// The types to choose from.
    #[serde(skip)]
    pub(crate) event_types: Vec<String>,
}

/// A message of the list.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) message: String,
    pub(crate) environment: Environment,
    pub(crate) event_type: String,
    pub(crate) created_at: Timestamp,
    /// By endpoint; of the one that was asked for, if one was.
    pub(crate) destinations: Vec<StatusAt>,
}

/// How far a message is at an endpoint.
#[derive(Debug, Serialize)]
pub(crate) struct StatusAt {
    pub(crate) endpoint: EndpointId,
    pub(crate) status: Status,
    pub(crate) attempts: usize,
    pub(crate) next_attempt: Option<Next>,
}

impl Attempted {
    /// The messages of a filter.
    pub(crate) fn of(
        simulator: &Simulator,
        asked: AskedAttempts,
        filter: &MessageFilter,
        event_types: Vec<String>,
    ) -> Self {
        let page = simulator.messages(filter, MOST_ROWS);
        let before = page.messages.last().filter(|_| page.has_older).map(|last| last.number);
        let endpoint = filter.endpoint.as_ref();
        let messages = page.messages.into_iter().map(|message| Line::of(message, endpoint)).collect();
        Self { asked, messages, before, endpoints: Choice::all(simulator, |_| true), event_types }
    }

    fn search(&self) -> Markup {
        let AskedAttempts { environment, endpoint, r#type, status, date, since, until, before: _ } =
            &self.asked;
        html! {
            form.filter action=(MESSAGES) method="get" role="search" {
                label {
                    "Environment "
                    select name="environment" {
                        option value="" { "both" }
                        @for one in Environment::ALL {
                            option value=(one.name()) selected[one.name() == environment] { (one.name()) }
                        }
                    }
                }
                label {
                    "Endpoint "
                    select name="endpoint" {
                        option value="" { "all" }
                        (options(&self.endpoints, endpoint))
                    }
                }
                label {
                    "Type "
                    select name="type" {
                        option value="" { "all" }
                        @for one in &self.event_types { option value=(one) selected[one == r#type] { (visible(one)) } }
                        @if !r#type.is_empty() && !self.event_types.contains(r#type) {
                            option value=(r#type) selected { (visible(r#type)) }
                        }
                    }
                }
                label {
                    "Status "
                    select name="status" {
                        option value="" { "all" }
                        @for one in Status::ALL {
                            option value=(one.name()) selected[one.name() == status] { (one.name()) }
                        }
                    }
                }
                label {
                    "Date "
                    select name="date" {
                        option value="" { "all, or as below" }
                        @for (name, text, _) in DATES { option value=(name) selected[name == date] { (text) } }
                    }
                }
                label { "Since " input type="text" name="since" value=(since) placeholder="2026-01-02T08:00" size="17"; }
                label { "Until " input type="text" name="until" value=(until) placeholder="in UTC" size="17"; }
                button { "Show" }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            div.scroll tabindex="0" role="region" aria-label="Attempted Messages" {
                table.rows {
                    thead {
                        tr {
                            th scope="col" { "Status" }
                            th scope="col" { "Message" }
                            th scope="col" { "Type" }
                            th scope="col" { "Environment" }
                            th scope="col" { "Sent (UTC)" }
                            th scope="col" { "Attempts and next attempt (UTC)" }
                        }
                    }
                    tbody {
                        @for line in &self.messages {
                            tr {
                                td {
                                    @for at in &line.destinations { (badge(at.status)) " " }
                                    @if line.destinations.is_empty() { "no endpoint" }
                                }
                                td { a data-row href=(attempted_path(&line.message)) { (visible(&line.message)) } }
                                td { (visible(&line.event_type)) }
                                td { (line.environment.name()) }
                                td { (At(line.created_at)) }
                                td {
                                    @for at in &line.destinations {
                                        div {
                                            (at.attempts)
                                            @if let Some(next) = &at.next_attempt {
                                                ", next at " (both(next.due_at, next.simulated_at))
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
}

impl Line {
    fn of(message: &Message, endpoint: Option<&EndpointId>) -> Self {
        let destinations =
            message.destinations.iter().filter(|at| endpoint.is_none_or(|id| at.endpoint == *id));
        let destinations = destinations.map(|at| StatusAt {
            endpoint: at.endpoint.clone(),
            status: at.status(),
            attempts: at.attempts.len(),
            next_attempt: Next::of(at),
        });
        Self {
            message: message.id.to_string(),
            environment: message.environment,
            event_type: message.event_type.clone(),
            created_at: message.created_at,
            destinations: destinations.collect(),
        }
    }
}

impl Page for Attempted {
    fn title(&self) -> String {
        "Attempted Messages".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            (links(MESSAGES))
            h1 { "Attempted Messages" }
            (self.search())
            div #live data-live data-path=(self.asked.url(&self.asked.before)) {
                @if self.messages.is_empty() { p.empty { "No message fits this filter." } } @else { (self.table()) }
            }
            @if let Some(before) = self.before {
                p { a href=(self.asked.url(&before.to_string())) rel="next" { "Older messages" } }
            }
        }
    }
}
