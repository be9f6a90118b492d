//! Faults in front of the receiver.
//!
//! Whatever serves the front asks [`Handle::take_fault`](crate::Handle::take_fault) about each request, and answers in
//! place of the receiver if there is a fault.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use learnink_webhook::MessageId;
use serde::{Deserialize, Serialize};

use crate::schedule::Speed;

/// How long the front waits with [`Fault::NoAnswer`]: longer than LearnInk does.
pub const NO_ANSWER_FOR: Duration = Duration::from_secs(16);

/// What happens to a request in place of the receiver's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is answered 500.
    InternalError,
    /// It is answered 503.
    Unavailable,
    /// It is answered 429, with a `Retry-After`.
    TooManyRequests {
        /// The value of `Retry-After`, in seconds.
        retry_after_s: u32,
    },
    /// It is not answered for [`NO_ANSWER_FOR`].
    NoAnswer,
    /// The connection is closed without an answer.
    ConnectionClosed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InternalError => f.write_str("500"),
            Self::Unavailable => f.write_str("503"),
            Self::TooManyRequests { retry_after_s } => write!(f, "429 with Retry-After: {retry_after_s}"),
            Self::NoAnswer => write!(f, "no answer for {} s", NO_ANSWER_FOR.as_secs()),
            Self::ConnectionClosed => f.write_str("connection closed"),
        }
    }
}

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// This many requests, from the next one on.
    Next(u32),
    /// Each request with this probability, from 0 to 1.
    Share(f64),
}

/// A fault, and which requests it is for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// To which requests.
    pub extent: Extent,
    /// Until when, by the real clock; `None` if it does not end by itself.
    pub until: Option<Timestamp>,
}

impl FaultRule {
    /// The fault for a request that arrives at `now`, if there is one, and counts it. A rule that is over becomes
    /// `None`. `random` is uniform in `0..1`.
    pub(crate) fn take(rule: &mut Option<Self>, random: f64, now: Timestamp) -> Option<Fault> {
        *rule = rule.filter(|rule| !rule.is_over(now));
        let fault = rule.as_mut().and_then(|rule| rule.take_next(random));
        *rule = rule.filter(|rule| !rule.is_over(now));
        fault
    }

    fn take_next(&mut self, random: f64) -> Option<Fault> {
        match &mut self.extent {
            Extent::Next(0) => None,
            Extent::Next(left) => {
                *left -= 1;
                Some(self.fault)
            }
            Extent::Share(share) => (random < *share).then_some(self.fault),
        }
    }

    /// Whether there is nothing left of it.
    fn is_over(&self, now: Timestamp) -> bool {
        self.extent == Extent::Next(0) || self.until.is_some_and(|until| until <= now)
    }

    /// Ends it sooner or later, as the waits between attempts.
    pub(crate) fn change_speed(&mut self, from: Speed, to: Speed, now: Timestamp) {
        if let Some(until) = &mut self.until {
            let rest = Duration::try_from(until.duration_since(now)).unwrap_or_default() * from.factor();
            *until = now.checked_add(to.real(rest)).unwrap_or(Timestamp::MAX);
        }
    }
}

/// Requests that a fault has answered and that the simulator does not know of yet, at most. The attempts of further ones
/// are not marked as injected.
const MOST_UNTOLD: usize = 1_000;

/// The fault as the front has it, which must not wait for the simulator: a page may be reading it.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) rule: Option<FaultRule>,
    /// Which of the faults that the simulator has had.
    pub(crate) fault_number: u64,
    /// What the simulator does not know of yet.
    answered: Vec<(MessageId, Fault)>,
    random: fastrand::Rng,
}

impl Front {
    pub(crate) fn new(rule: Option<FaultRule>, random: fastrand::Rng) -> Self {
        Self { rule, fault_number: 0, answered: Vec::new(), random }
    }

    /// The fault for a request, if there is one, and whether there is something to tell the simulator.
    pub(crate) fn take_fault(&mut self, svix_id: &str, now: Timestamp) -> (Option<Fault>, bool) {
        let before = self.rule;
        let fault = before.and_then(|_| FaultRule::take(&mut self.rule, self.random.f64(), now));
        if let Some(fault) = fault
            && self.answered.len() < MOST_UNTOLD
            && let Ok(message) = MessageId::parse(svix_id)
        {
            self.answered.push((message, fault));
        }
        (fault, fault.is_some() || self.rule != before)
    }

    /// The messages whose requests a fault has answered since the last call.
    pub(crate) fn take_answered(&mut self) -> Vec<(MessageId, Fault)> {
        std::mem::take(&mut self.answered)
    }
}
