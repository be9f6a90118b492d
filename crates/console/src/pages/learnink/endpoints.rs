//! The endpoints of both environments, and how fast and how well they are reached.

use std::collections::BTreeMap;

use jiff::Timestamp;
use learnink_local::terminal::visible;
use learnink_simulator::{
    Destination, Endpoint, EndpointId, EndpointState, Environment, Extent, Fault, FaultRule, Fingerprint,
    MessageFilter, Simulator, Speed, Status,
};
use maud::{Markup, html};
use serde::Serialize;

use super::super::message::REVEALED_FOR_S;
use super::super::{At, Page, counted, encoded};
use super::{ENDPOINTS, MESSAGES, Next, badge, both, endpoint_path, links};

/// The endpoints.
#[derive(Debug, Serialize)]
pub(crate) struct Endpoints {
    /// How much faster than in LearnInk the waits pass.
    pub(crate) speed: Speed,
    pub(crate) fault: Option<InFront>,
    pub(crate) endpoints: Vec<OneEndpoint>,
    /// The secrets of one endpoint, if somebody asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revealed: Option<Revealed>,
    /// The types of the catalog.
    #[serde(skip)]
    pub(crate) event_types: Vec<String>,
}

/// The fault in front of the receiver.
#[derive(Debug, Serialize)]
pub(crate) struct InFront {
    /// What happens, in words.
    pub(crate) answer: String,
    /// To how many requests, from the next one on.
    pub(crate) next: Option<u32>,
    /// To which share of the requests.
    pub(crate) share: Option<f64>,
    /// Until when, by the real clock.
    pub(crate) until: Option<Timestamp>,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub(crate) struct OneEndpoint {
    pub(crate) endpoint: EndpointId,
    pub(crate) environment: Environment,
    pub(crate) url: String,
    /// All, if there are none.
    pub(crate) event_types: Vec<String>,
    pub(crate) is_enabled: bool,
    /// In words, if it is disabled.
    pub(crate) disabled_because: Option<&'static str>,
    /// The secrets that sign now, the newest first.
    pub(crate) secrets: Vec<Signing>,
    pub(crate) created_at: Timestamp,
    /// How many messages have each status.
    pub(crate) counts: BTreeMap<Status, usize>,
    /// The next scheduled attempt.
    pub(crate) next_attempt: Option<Next>,
}

/// A secret, without itself.
#[derive(Debug, Serialize)]
pub(crate) struct Signing {
    pub(crate) fingerprint: Fingerprint,
    /// Until when it signs, if a rotation has replaced it.
    pub(crate) until: Option<Timestamp>,
}

/// The secrets of an endpoint, for the one who asked.
#[derive(Serialize)]
pub(crate) struct Revealed {
    pub(crate) endpoint: EndpointId,
    /// Those that sign now, the newest first.
    pub(crate) secrets: Vec<String>,
}

impl std::fmt::Debug for Revealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revealed").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A situation that LearnInk's customers meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Phone,
    Reminder,
    Flood,
    Night,
}

impl Scene {
    const ALL: [Self; 4] = [Self::Phone, Self::Reminder, Self::Flood, Self::Night];

    /// The scene of this name.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|scene| scene.name() == name);
        found.ok_or_else(|| format!("unknown scene `{name}`: use one of {names}"))
    }

    /// The name in forms and commands.
    const fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Reminder => "reminder",
            Self::Flood => "flood",
            Self::Night => "night",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Phone => "A phone comes online: 20 events of three days, out of order",
            Self::Reminder => "Reminder to 500 learners: one event",
            Self::Flood => "Flood: 2,000 events at once",
            Self::Night => "Down for the night: 503 for eight hours, and 5 events",
        }
    }
}

/// The answers of a fault, by their names in forms and commands.
const ANSWERS: [(&str, &str); 6] = [
    ("503", "503"),
    ("500", "500"),
    ("429", "429 with Retry-After"),
    ("none", "no answer for 16 s"),
    ("close", "connection closed"),
    ("ok", "no fault: the receiver's own answer"),
];

/// The fault of a name; `None` for no fault.
pub(crate) fn fault(name: &str, retry_after_s: u32) -> Result<Option<Fault>, String> {
    match name {
        "503" => Ok(Some(Fault::Unavailable)),
        "500" => Ok(Some(Fault::InternalError)),
        "429" => Ok(Some(Fault::TooManyRequests { retry_after_s })),
        "none" => Ok(Some(Fault::NoAnswer)),
        "close" => Ok(Some(Fault::ConnectionClosed)),
        "ok" => Ok(None),
        _ => Err(format!("unknown answer `{name}`: use one of {}", ANSWERS.map(|(name, _)| name).join(", "))),
    }
}

impl InFront {
    pub(crate) fn of(rule: &FaultRule) -> Self {
        let (next, share) = match rule.extent {
            Extent::Next(next) => (Some(next), None),
            Extent::Share(share) => (None, Some(share)),
        };
        Self { answer: rule.fault.to_string(), next, share, until: rule.until }
    }
}

impl Endpoints {
    /// All endpoints.
    pub(crate) fn of(simulator: &Simulator, event_types: Vec<String>, now: Timestamp) -> Self {
        let endpoints = simulator.endpoints().iter().map(|endpoint| OneEndpoint::of(endpoint, now));
        let mut endpoints: Vec<_> = endpoints.collect();
        // All messages once, and not once for each endpoint: the pipeline waits for this.
        for message in simulator.messages(&MessageFilter::default(), usize::MAX).messages {
            for at in &message.destinations {
                if let Some(endpoint) = endpoints.iter_mut().find(|one| one.endpoint == at.endpoint) {
                    endpoint.add(at);
                }
            }
        }
        Self {
            speed: simulator.settings().speed,
            fault: simulator.settings().fault.as_ref().map(InFront::of),
            endpoints,
            revealed: None,
            event_types,
        }
    }
}

impl OneEndpoint {
    /// An endpoint without its messages.
    fn of(endpoint: &Endpoint, now: Timestamp) -> Self {
        let current = Signing { fingerprint: endpoint.secrets.current().fingerprint(), until: None };
        let previous = endpoint.secrets.previous(now).map(|previous| Signing {
            fingerprint: previous.secret.fingerprint(),
            until: Some(previous.until),
        });
        Self {
            endpoint: endpoint.id.clone(),
            environment: endpoint.environment,
            url: endpoint.url.to_string(),
            event_types: endpoint.event_types.iter().cloned().collect(),
            is_enabled: endpoint.is_enabled(),
            disabled_because: match endpoint.state {
                EndpointState::Enabled => None,
                EndpointState::Disabled => Some("somebody disabled it"),
                EndpointState::DisabledByFailures => Some("all its attempts failed for five days"),
            },
            secrets: std::iter::once(current).chain(previous).collect(),
            created_at: endpoint.created_at,
            counts: BTreeMap::new(),
            next_attempt: None,
        }
    }

    /// Counts a message at this endpoint.
    fn add(&mut self, at: &Destination) {
        let status = at.status();
        *self.counts.entry(status).or_default() += 1;
        if status == Status::Pending {
            let next = self.next_attempt.into_iter().chain(Next::of(at));
            self.next_attempt = next.min_by_key(|next| next.due_at);
        }
    }
}

impl Page for Endpoints {
    fn title(&self) -> String {
        "LearnInk: endpoints".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            (links(ENDPOINTS))
            h1 { "Endpoints" }
            @if let Some(revealed) = &self.revealed { (shown(revealed)) }
            div #live data-live data-path=(ENDPOINTS) {
                (self.conditions())
                @if self.endpoints.is_empty() { p.empty { "There is no endpoint yet." } } @else { (self.table()) }
            }
            @for endpoint in &self.endpoints { (self.acts(endpoint)) }
            (self.add())
            (self.speed())
            (self.faults())
            (scenes())
        }
    }
}

impl Endpoints {
    /// Speed and fault.
    fn conditions(&self) -> Markup {
        html! {
            p {
                "Waits between attempts pass "
                strong { @if self.speed == Speed::REAL { "as in LearnInk" } @else { (self.speed.factor()) " times faster" } }
                ". SQS's own times stay real."
            }
            @if let Some(fault) = &self.fault {
                p.warning role="status" {
                    strong.injected { "Injected: " (fault.answer) }
                    @if let Some(next) = fault.next { ", for the next " (counted(next.into(), "request")) }
                    @if let Some(share) = fault.share { ", for a share of " (share) " of the requests" }
                    @if let Some(until) = fault.until { ", until " (At(until)) }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            div.scroll tabindex="0" role="region" aria-label="Endpoints" {
                table.rows {
                    thead {
                        tr {
                            th scope="col" { "Environment" }
                            th scope="col" { "URL" }
                            th scope="col" { "Types" }
                            th scope="col" { "State" }
                            th scope="col" { "Secret" }
                            th scope="col" { "Messages" }
                            th scope="col" { "Next attempt (UTC)" }
                        }
                    }
                    tbody { @for endpoint in &self.endpoints { (endpoint.row()) } }
                }
            }
        }
    }

    fn acts(&self, endpoint: &OneEndpoint) -> Markup {
        let id = &endpoint.endpoint;
        let types = endpoint.event_types.join(" ");
        let act = |name: &str, title: &str, what: &str| {
            html! {
                form.act method="post" action=(endpoint_path(id, name)) { button { (title) } " " (what) }
            }
        };
        html! {
            section aria-label={ "Endpoint " (visible(&endpoint.url)) } {
                h2 { (endpoint.environment.name()) ": " (visible(&endpoint.url)) }
                p { code { (id) } }
                (reveal(id, "Reveal the secret"))
                @if endpoint.is_enabled {
                    (act("disable", "Disable", "Attempts at it stop immediately."))
                } @else {
                    (act("enable", "Enable", "It gets the messages that are sent from now on. Recover the others."))
                }
                details.act {
                    summary { "Recover Failed Messages" }
                    form method="post" action=(endpoint_path(id, "recover")) {
                        p { "Each message of the window with a failed attempt and no success is attempted once more." }
                        label { "Since " input type="text" name="since" required placeholder="2026-01-02T08:00" size="17"; }
                        " "
                        label { "Until " input type="text" name="until" placeholder="now" size="17"; }
                        " "
                        button { "Recover" }
                    }
                }
                details.act {
                    summary { "Rotate the secret" }
                    form method="post" action=(endpoint_path(id, "rotate")) {
                        p {
                            "Attempts are signed with both secrets until the overlap ends. Then the receiver has to \
                             have the new one: store it with " code { "cargo learnink secret rotate" } "."
                        }
                        label { "Overlap " input type="text" name="overlap" value="24h" size="6"; }
                        " "
                        (secret_field())
                        " "
                        button { "Rotate" }
                    }
                }
                details.act {
                    summary { "Change URL and types" }
                    form method="post" action=(endpoint_path(id, "change")) {
                        label { "URL " input type="url" name="url" required value=(endpoint.url) size="45"; }
                        " "
                        (self.types_field(&types))
                        " "
                        button { "Change" }
                    }
                }
                details.act {
                    summary { "Remove" }
                    form method="post" action=(endpoint_path(id, "remove")) {
                        p { "Attempts at it stop immediately. Its messages stay in the list." }
                        button { "Remove" }
                    }
                }
            }
        }
    }

    fn types_field(&self, value: &str) -> Markup {
        html! {
            label {
                "Types, all if blank "
                input type="text" name="types" value=(value) size="45" autocomplete="off"
                    placeholder=(visible(&self.event_types.join(" ")));
            }
        }
    }

    fn add(&self) -> Markup {
        html! {
            section aria-labelledby="add" {
                h2 #add { "Add an endpoint" }
                form.filter method="post" action={ (ENDPOINTS) "/endpoints" } {
                    (environments())
                    label {
                        "URL "
                        input type="url" name="url" required size="45"
                            placeholder="http://127.0.0.1:9000/webhooks/learnink";
                    }
                    (self.types_field(""))
                    (secret_field())
                    button { "Add" }
                }
                p {
                    "The environments share nothing. If the pipeline of this " code { "dev" } " is added to production \
                     with a secret of its own, it answers 401."
                }
            }
        }
    }

    fn speed(&self) -> Markup {
        html! {
            section aria-labelledby="speed" {
                h2 #speed { "Speed" }
                form.act method="post" action={ (ENDPOINTS) "/speed" } {
                    label {
                        "Waits pass this many times faster "
                        select name="speed" {
                            @for speed in Speed::ALL {
                                option value=(speed.factor()) selected[speed == self.speed] { (speed.factor()) }
                            }
                        }
                    }
                    " "
                    button { "Set" }
                    " SQS's own times stay real, and so do attempts, their time limit and the overlap of a rotation."
                }
            }
        }
    }

    fn faults(&self) -> Markup {
        html! {
            section aria-labelledby="faults" {
                h2 #faults { "Faults" }
                p { "They answer in place of the receiver, and are marked as injected everywhere." }
                form.filter method="post" action={ (ENDPOINTS) "/fault" } {
                    label {
                        "Answer "
                        select name="answer" { @for (name, text) in ANSWERS { option value=(name) { (text) } } }
                    }
                    label { "The next " input type="text" name="next" inputmode="numeric" size="4"; }
                    label { "or a share " input type="text" name="share" inputmode="decimal" placeholder="0.5" size="4"; }
                    label { "Retry-After, in seconds " input type="text" name="retry_after" inputmode="numeric" value="60" size="4"; }
                    button { "Set" }
                }
                @if self.fault.is_some() {
                    form.act method="post" action={ (ENDPOINTS) "/fault" } {
                        input type="hidden" name="answer" value="ok";
                        button { "Clear" }
                    }
                }
            }
        }
    }
}

impl OneEndpoint {
    fn row(&self) -> Markup {
        let messages = format!("{MESSAGES}?endpoint={}", encoded(self.endpoint.as_str()));
        html! {
            tr {
                td { (self.environment.name()) }
                td { a data-row href=(messages) { (visible(&self.url)) } }
                td {
                    @if self.event_types.is_empty() { "all" } @else { (visible(&self.event_types.join(", "))) }
                }
                td {
                    @match self.disabled_because {
                        None => { span.state.succeeded { span aria-hidden="true" { "✓" } " enabled" } }
                        Some(because) => {
                            span.state.stopped { span aria-hidden="true" { "−" } " disabled" } ": " (because)
                        }
                    }
                }
                td {
                    @for Signing { fingerprint, until } in &self.secrets {
                        div {
                            code { (fingerprint) }
                            @if let Some(until) = until { " until " (At(*until)) }
                        }
                    }
                }
                td {
                    @if self.counts.is_empty() { "none" }
                    @for (status, count) in &self.counts {
                        div { a href={ (messages) "&status=" (status.name()) } { (count) " " (badge(*status)) } }
                    }
                }
                td {
                    @match &self.next_attempt {
                        Some(next) => { (both(next.due_at, next.simulated_at)) }
                        None => { "-" }
                    }
                }
            }
        }
    }
}

/// The button that shows the secret of an endpoint.
pub(super) fn reveal(endpoint: &EndpointId, title: &str) -> Markup {
    html! {
        form.act method="post" action=(endpoint_path(endpoint, "reveal")) {
            button { (title) } " for " (REVEALED_FOR_S) " s"
        }
    }
}

fn shown(revealed: &Revealed) -> Markup {
    html! {
        section aria-labelledby="revealed" {
            h2 #revealed { "Secret of " code { (revealed.endpoint) } }
            p.warning role="status" {
                "It is hidden again after " (REVEALED_FOR_S) " s. " a href=(ENDPOINTS) data-key="Escape" { "Hide it now" }
            }
            ul { @for secret in &revealed.secrets { li { code { (secret) } } } }
        }
    }
}

fn environments() -> Markup {
    html! {
        label {
            "Environment "
            select name="environment" {
                @for one in Environment::ALL { option value=(one.name()) { (one.name()) } }
            }
        }
    }
}

fn secret_field() -> Markup {
    html! {
        label {
            "Secret, made if blank "
            input type="password" name="secret" autocomplete="off" placeholder="whsec_..." size="20";
        }
    }
}

fn scenes() -> Markup {
    html! {
        section aria-labelledby="scenes" {
            h2 #scenes { "Scenes" }
            @for scene in Scene::ALL {
                form.act method="post" action={ (ENDPOINTS) "/scene" } {
                    input type="hidden" name="scene" value=(scene.name());
                    (environments())
                    " "
                    button { (scene.title()) }
                }
            }
        }
    }
}
