//! Endpoints: where an environment sends its messages.

use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::alphanumeric;
use crate::schedule::Speed;
use crate::secret::{Secret, Secrets};

/// An endpoint whose attempts have all failed for this long is disabled. Its clock is as fast as the waits.
///
/// Svix starts to count only when failures are twelve hours apart, which is not simulated.
/// Source: Svix documentation, "Disabling failing endpoints".
pub const DISABLED_AFTER: SignedDuration = SignedDuration::from_hours(5 * 24);

/// One of LearnInk's two environments, which share nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// Where an endpoint is tried out.
    Staging,
    /// Where learners are real.
    Production,
}

impl Environment {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Staging, Self::Production];

    /// The name on pages and in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// Names an endpoint. Shape: `ep_` and 27 letters and digits, as Svix's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(String);

impl EndpointId {
    /// A new one.
    pub fn fresh(random: &mut fastrand::Rng) -> Self {
        Self(format!("ep_{}", alphanumeric(27, random)))
    }

    /// One that a page or a command names, which may not exist.
    pub fn named(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of an endpoint: `http` or `https`, and a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointUrl(reqwest::Url);

/// A text that is not the address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the URL of an endpoint; use one such as http://127.0.0.1:9000/webhooks/learnink")]
pub struct UnusableUrl;

impl EndpointUrl {
    /// Checks a URL.
    ///
    /// # Errors
    ///
    /// [`UnusableUrl`] if it is not one of `http` or `https`.
    pub fn parse(text: &str) -> Result<Self, UnusableUrl> {
        let url = text.parse::<reqwest::Url>().ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https")).map(Self).ok_or(UnusableUrl)
    }

    /// The URL.
    pub const fn get(&self) -> &reqwest::Url {
        &self.0
    }

    /// Whether only this machine can have the address.
    pub fn is_this_machine(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        matches!(host, "127.0.0.1" | "localhost" | "[::1]") || host.ends_with(".localhost")
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for EndpointUrl {
    type Error = UnusableUrl;

    fn try_from(text: String) -> Result<Self, UnusableUrl> {
        Self::parse(&text)
    }
}

impl From<EndpointUrl> for String {
    fn from(url: EndpointUrl) -> Self {
        url.0.into()
    }
}

/// Where an environment sends messages. `Debug` hides its secrets; serde writes them in full, for a file that only its
/// owner reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub id: EndpointId,
    /// Whose messages it gets.
    pub environment: Environment,
    /// Its address.
    pub url: EndpointUrl,
    /// The types that it subscribes to; all, if there are none.
    pub event_types: BTreeSet<String>,
    /// Whether it gets messages.
    pub state: EndpointState,
    /// What its messages are signed with.
    pub secrets: Secrets,
    /// When it was added.
    pub created_at: Timestamp,
    /// When the first attempt failed since one last succeeded. A change of the speed moves it, so that the time since
    /// then, multiplied by the speed, is what has passed in LearnInk.
    #[serde(default)]
    failing_since: Option<Timestamp>,
}

/// Whether an endpoint gets messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It does.
    Enabled,
    /// Somebody disabled it.
    Disabled,
    /// All its attempts failed for [`DISABLED_AFTER`].
    DisabledByFailures,
}

impl Endpoint {
    /// One that is enabled and subscribes to every type.
    pub(crate) fn new(
        id: EndpointId,
        environment: Environment,
        url: EndpointUrl,
        secret: Secret,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            environment,
            url,
            event_types: BTreeSet::new(),
            state: EndpointState::Enabled,
            secrets: Secrets::new(secret),
            created_at: now,
            failing_since: None,
        }
    }

    /// Whether it gets messages.
    pub fn is_enabled(&self) -> bool {
        self.state == EndpointState::Enabled
    }

    /// Whether it subscribes to a type.
    pub fn takes(&self, event_type: &str) -> bool {
        self.event_types.is_empty() || self.event_types.contains(event_type)
    }

    pub(crate) fn enable(&mut self) {
        self.state = EndpointState::Enabled;
        self.failing_since = None;
    }

    /// Notes how an attempt ended, which may disable the endpoint. Returns whether the endpoint has changed.
    pub(crate) fn note_attempt(&mut self, is_success: bool, speed: Speed, now: Timestamp) -> bool {
        let before = (self.failing_since, self.state);
        if is_success {
            self.failing_since = None;
        } else {
            let since = *self.failing_since.get_or_insert(now);
            let limit = DISABLED_AFTER.mul_f64(1.0 / f64::from(speed.factor()));
            if now.duration_since(since) >= limit {
                self.state = EndpointState::DisabledByFailures;
            }
        }
        before != (self.failing_since, self.state)
    }

    pub(crate) fn change_speed(&mut self, from: Speed, to: Speed, now: Timestamp) {
        if let Some(since) = &mut self.failing_since {
            let factor = f64::from(from.factor()) / f64::from(to.factor());
            *since = now.checked_sub(now.duration_since(*since).mul_f64(factor)).unwrap_or(Timestamp::MIN);
        }
    }
}
