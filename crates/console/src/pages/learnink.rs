//! LearnInk's side, in the words of LearnInk's own dashboard.

pub(crate) mod attempted;
pub(crate) mod attempts;
pub(crate) mod changed;
pub(crate) mod endpoints;
pub(crate) mod message;
pub(crate) mod testing;

use jiff::Timestamp;
use learnink_local::terminal::visible;
use learnink_simulator::{Destination, Endpoint, EndpointId, Environment, Simulator, Status};
use maud::{Markup, html};
use serde::Serialize;

use super::{At, encoded};

/// The page of the endpoints.
pub(crate) const ENDPOINTS: &str = "/learnink";
/// *Testing*.
pub(crate) const TESTING: &str = "/learnink/testing";
/// *Attempted Messages*.
pub(crate) const MESSAGES: &str = "/learnink/messages";

/// The path of a message on LearnInk's side.
pub(crate) fn attempted_path(message: &str) -> String {
    format!("{MESSAGES}/{}", encoded(message))
}

/// The path of an act on an endpoint.
fn endpoint_path(endpoint: &EndpointId, act: &str) -> String {
    format!("{ENDPOINTS}/endpoints/{}/{act}", encoded(endpoint.as_str()))
}

/// The links between the pages of LearnInk's side.
fn links(here: &str) -> Markup {
    const LINKS: [(&str, &str); 3] =
        [(ENDPOINTS, "Endpoints"), (TESTING, "Testing"), (MESSAGES, "Attempted Messages")];
    html! {
        nav.strip aria-label="LearnInk" {
            @for (path, name) in LINKS {
                a href=(path) aria-current=[(path == here).then_some("page")] { (name) }
            }
        }
    }
}

/// A status as sign and word; its color only repeats them.
fn badge(status: Status) -> Markup {
    let sign = match status {
        Status::Sending => "▶",
        Status::Pending => "↻",
        Status::Succeeded => "✓",
        Status::Failed => "✕",
        Status::Stopped => "−",
    };
    html! { span.state.(status.name()) { span aria-hidden="true" { (sign) } " " (status.name()) } }
}

/// A real time, and the time that LearnInk's clock would show, if it differs.
fn both(real: Timestamp, simulated: Timestamp) -> Markup {
    html! {
        (At(real))
        @if real.as_second() != simulated.as_second() { " (in LearnInk " (At(simulated)) ")" }
    }
}

/// The next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Next {
    /// By the real clock.
    pub(crate) due_at: Timestamp,
    /// When it would be in LearnInk.
    pub(crate) simulated_at: Timestamp,
}

impl Next {
    /// Of a message at an endpoint: the scheduled attempt.
    pub(crate) fn of(destination: &Destination) -> Option<Self> {
        let next = destination.next_attempt()?;
        Some(Self { due_at: next.due_at, simulated_at: next.simulated_at })
    }
}

/// An endpoint to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Choice {
    pub(crate) id: EndpointId,
    pub(crate) environment: Environment,
    pub(crate) url: String,
}

impl Choice {
    /// The endpoints of the simulator for which `is_one` holds.
    pub(crate) fn all(simulator: &Simulator, is_one: impl Fn(&Endpoint) -> bool) -> Vec<Self> {
        let endpoints = simulator.endpoints().iter().filter(|endpoint| is_one(endpoint));
        let choice = |endpoint: &Endpoint| Self {
            id: endpoint.id.clone(),
            environment: endpoint.environment,
            url: endpoint.url.to_string(),
        };
        endpoints.map(choice).collect()
    }
}

/// The options of a field that chooses an endpoint.
fn options(choices: &[Choice], chosen: &str) -> Markup {
    html! {
        @for Choice { id, environment, url } in choices {
            option value=(id) selected[id.as_str() == chosen] { (environment.name()) ": " (visible(url)) }
        }
    }
}
