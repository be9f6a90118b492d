//! A message, and its attempts at each endpoint.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use learnink_webhook::MessageId;
use serde::{Deserialize, Serialize};

use crate::endpoint::{EndpointId, Environment};
use crate::fault::Fault;
use crate::schedule::{Speed, wait_after};
use crate::secret::Fingerprint;

/// The most attempts of a message at an endpoint that are kept. A new one takes the place of the oldest manual one; the
/// scheduled ones, eight at most, are all kept.
pub const MOST_KEPT_ATTEMPTS: usize = 100;

/// One event that LearnInk sends, to each endpoint that takes its type. `Debug` hides the payload.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its position among all messages: a newer one has a higher number.
    pub number: u64,
    /// The `svix-id` of each of its attempts.
    #[serde(with = "message_id")]
    pub id: MessageId,
    /// Where it was sent from.
    pub environment: Environment,
    /// As in the payload.
    pub event_type: String,
    /// The body of each of its attempts: usually JSON with personal data.
    pub payload: String,
    /// When it was sent, by the real clock.
    pub created_at: Timestamp,
    /// The endpoints that it is for, in the order in which they were added.
    pub destinations: Vec<Destination>,
}

impl Message {
    /// How far it is at an endpoint; `None` if it was not for this one.
    pub fn destination(&self, endpoint: &EndpointId) -> Option<&Destination> {
        self.destinations.iter().find(|destination| destination.endpoint == *endpoint)
    }

    /// What it takes, about: its payload, and its attempts.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + self.destinations.iter().map(Destination::bytes).sum::<usize>()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("number", &self.number)
            .field("id", &self.id)
            .field("environment", &self.environment)
            .field("event_type", &self.event_type)
            .field("payload_bytes", &self.payload.len())
            .field("created_at", &self.created_at)
            .field("destinations", &self.destinations)
            .finish()
    }
}

/// A message at one endpoint: its attempts so far, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The endpoint, which may have been removed since.
    pub endpoint: EndpointId,
    /// What the retry schedule does next.
    pub schedule: Schedule,
    /// The first one first; [`MOST_KEPT_ATTEMPTS`] at most.
    pub attempts: Vec<Attempt>,
    /// Since when somebody wants a manual attempt that has not started.
    #[serde(default)]
    pub manual_due_at: Option<Timestamp>,
    /// How far its simulated time is ahead of the real one, without the wait that is going on.
    ahead: SignedDuration,
}

/// What the retry schedule does with a message at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It waits for the next scheduled attempt.
    Waiting(NextAttempt),
    /// A scheduled attempt is under way.
    InProgress,
    /// An attempt was answered 200, scheduled or manual. There are no more scheduled attempts.
    Succeeded,
    /// All scheduled attempts failed.
    Failed,
    /// There are no more scheduled attempts, because of the endpoint.
    Stopped(StopReason),
}

/// Why the scheduled attempts of a message stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The endpoint was disabled. Enabling it does not start them again. A resend attempts the message once more, and
    /// so does a recovery, if an attempt has failed.
    Disabled,
    /// The endpoint was removed.
    Removed,
}

/// When the schedule attempts a message again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAttempt {
    /// By the real clock.
    pub due_at: Timestamp,
    /// When it would be in LearnInk, where nothing makes the waits shorter.
    pub simulated_at: Timestamp,
    /// When the wait for it began, by the real clock.
    waits_since: Timestamp,
}

/// How far a message is at an endpoint, in the words of LearnInk's dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An attempt is under way, or a manual one is about to start.
    Sending,
    /// It waits for the next scheduled attempt.
    Pending,
    /// An attempt was answered 200.
    Succeeded,
    /// All scheduled attempts failed.
    Failed,
    /// Its attempts stopped before that, because the endpoint was disabled or removed.
    Stopped,
}

impl Status {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Sending, Self::Pending, Self::Succeeded, Self::Failed, Self::Stopped];

    /// The name on pages and in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// One request to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1, in the order in which they started. One is missing if it is not kept any more.
    pub number: u32,
    /// Why it was made.
    pub trigger: Trigger,
    /// By the real clock, which it was also signed by.
    pub started_at: Timestamp,
    /// When it would have been in LearnInk.
    pub simulated_at: Timestamp,
    /// The secrets that it was signed with, the newest first.
    pub signed_with: Vec<Fingerprint>,
    /// The fault that answered it in place of the receiver, if one did.
    #[serde(default)]
    pub injected: Option<Fault>,
    /// `None` while it is under way.
    pub finished: Option<Finished>,
}

impl Attempt {
    fn bytes(&self) -> usize {
        let headers = match self.finished.as_ref().map(|finished| &finished.outcome) {
            Some(Outcome::Answered { headers, .. }) => headers.as_slice(),
            Some(Outcome::TimedOut | Outcome::NotConnected | Outcome::ConnectionBroken) | None => &[],
        };
        let headers = headers.iter().map(|(name, value)| name.len() + value.len());
        size_of::<Self>() + headers.sum::<usize>()
    }

    fn has_failed(&self) -> bool {
        self.finished.as_ref().is_some_and(|finished| !finished.outcome.is_success())
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The retry schedule.
    Scheduled,
    /// Somebody: Resend, Recover Failed Messages or Replay. It is not retried.
    Manual,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// From the start until the answer's head, or until there would be no answer.
    pub took: Duration,
    /// The answer, or why there was none.
    pub outcome: Outcome,
}

/// The answer to an attempt, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The endpoint answered.
    Answered {
        /// 200 is a success, and nothing else.
        status: u16,
        /// Names in lower case, with their values.
        headers: Vec<(String, String)>,
    },
    /// There was no answer within [`TIME_LIMIT`](crate::schedule::TIME_LIMIT).
    TimedOut,
    /// Nothing could be sent: nobody listens at the address, or there is no such host.
    NotConnected,
    /// The connection broke before there was an answer.
    ConnectionBroken,
}

impl Outcome {
    /// Whether it is a 200. Source: LearnInk's webhook guide, "Return a 200 immediately"; Svix by itself takes every
    /// 2xx.
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Answered { status: 200, .. })
    }

    /// Whether the endpoint may have had too much to do.
    pub(crate) const fn is_overload(&self) -> bool {
        matches!(self, Self::Answered { status: 429, .. } | Self::TimedOut)
    }

    /// The value of a header of the answer, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self {
            Self::Answered { headers, .. } => {
                headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
            }
            Self::TimedOut | Self::NotConnected | Self::ConnectionBroken => None,
        }
    }
}

impl Destination {
    /// A message that is attempted at once.
    pub(crate) fn new(endpoint: EndpointId, now: Timestamp) -> Self {
        let next = NextAttempt { due_at: now, simulated_at: now, waits_since: now };
        Self {
            endpoint,
            schedule: Schedule::Waiting(next),
            attempts: Vec::new(),
            manual_due_at: None,
            ahead: SignedDuration::ZERO,
        }
    }

    /// How far the message is.
    pub fn status(&self) -> Status {
        let is_under_way = self.attempts.iter().any(|attempt| attempt.finished.is_none());
        match self.schedule {
            _ if is_under_way || self.manual_due_at.is_some() => Status::Sending,
            Schedule::InProgress => Status::Sending,
            Schedule::Waiting(_) => Status::Pending,
            Schedule::Succeeded => Status::Succeeded,
            Schedule::Failed => Status::Failed,
            Schedule::Stopped(_) => Status::Stopped,
        }
    }

    /// The next scheduled attempt, if there is one.
    pub const fn next_attempt(&self) -> Option<NextAttempt> {
        match self.schedule {
            Schedule::Waiting(next) => Some(next),
            Schedule::InProgress | Schedule::Succeeded | Schedule::Failed | Schedule::Stopped(_) => None,
        }
    }

    /// Whether *Recover Failed Messages* sends it again: an attempt failed, and none succeeded.
    pub fn is_recoverable(&self) -> bool {
        self.schedule != Schedule::Succeeded && self.attempts.iter().any(Attempt::has_failed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.attempts.iter().map(Attempt::bytes).sum()
    }

    /// When the next attempt is due, scheduled or manual.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        self.next_attempt().map(|next| next.due_at).into_iter().chain(self.manual_due_at).min()
    }

    /// What a clock in LearnInk would show, for this message.
    fn simulated(&self, now: Timestamp) -> Timestamp {
        let Some(next) = self.next_attempt() else { return plus(now, self.ahead) };
        if now >= next.due_at {
            return plus(next.simulated_at, now.duration_since(next.due_at));
        }
        let from = plus(next.waits_since, self.ahead);
        let wait = next.due_at.duration_since(next.waits_since);
        let passed = now.duration_since(next.waits_since).div_duration_f64(wait).clamp(0.0, 1.0);
        plus(from, next.simulated_at.duration_since(from).mul_f64(passed))
    }

    /// Starts the attempt that is due. `None` if none is.
    pub(crate) fn start(&mut self, signed_with: Vec<Fingerprint>, now: Timestamp) -> Option<u32> {
        let due_at = self.due_at().filter(|due_at| *due_at <= now)?;
        let simulated_at = self.simulated(now);
        let trigger = match self.next_attempt() {
            Some(next) if next.due_at == due_at => {
                self.schedule = Schedule::InProgress;
                self.ahead = simulated_at.duration_since(now);
                Trigger::Scheduled
            }
            _ => {
                self.manual_due_at = None;
                Trigger::Manual
            }
        };
        let number = self.attempts.last().map_or(1, |last| last.number + 1);
        if self.attempts.len() >= MOST_KEPT_ATTEMPTS {
            let is_manual =
                |attempt: &Attempt| attempt.trigger == Trigger::Manual && attempt.finished.is_some();
            self.attempts.iter().position(is_manual).map(|oldest| self.attempts.remove(oldest));
        }
        let started_at = now;
        let attempt = Attempt {
            number,
            trigger,
            started_at,
            simulated_at,
            signed_with,
            injected: None,
            finished: None,
        };
        self.attempts.push(attempt);
        Some(number)
    }

    /// Ends an attempt. Nothing happens if it is not under way.
    pub(crate) fn finish(
        &mut self,
        number: u32,
        outcome: Outcome,
        speed: Speed,
        random: f64,
        now: Timestamp,
    ) {
        // The schedule has one attempt at a time, and this one ends now.
        let failures = self.scheduled_attempts();
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.number == number);
        let Some(attempt) = attempt.filter(|attempt| attempt.finished.is_none()) else { return };
        let trigger = attempt.trigger;
        let took = Duration::try_from(now.duration_since(attempt.started_at)).unwrap_or_default();
        let finished = attempt.finished.insert(Finished { took, outcome });
        if finished.outcome.is_success() {
            self.schedule = Schedule::Succeeded;
        } else if trigger == Trigger::Scheduled && self.schedule == Schedule::InProgress {
            self.schedule = match wait_after(failures, &finished.outcome, random, now) {
                None => Schedule::Failed,
                Some(wait) => {
                    let due_at = now.checked_add(speed.real(wait)).unwrap_or(Timestamp::MAX);
                    let simulated_at = plus(now, self.ahead).checked_add(wait).unwrap_or(Timestamp::MAX);
                    Schedule::Waiting(NextAttempt { due_at, simulated_at, waits_since: now })
                }
            };
        }
    }

    /// How many scheduled attempts have started.
    fn scheduled_attempts(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.trigger == Trigger::Scheduled).count()
    }

    /// Ends the schedule, if it has not ended. Manual attempts that have not started are not made either.
    pub(crate) fn stop(&mut self, reason: StopReason) {
        self.manual_due_at = None;
        match self.schedule {
            Schedule::Waiting(_) | Schedule::InProgress => self.schedule = Schedule::Stopped(reason),
            Schedule::Succeeded | Schedule::Failed | Schedule::Stopped(_) => {}
        }
    }

    /// Makes the rest of a wait shorter or longer.
    pub(crate) fn change_speed(&mut self, speed: Speed, now: Timestamp) {
        let simulated_now = self.simulated(now);
        if let Schedule::Waiting(next) = &mut self.schedule
            && now < next.due_at
        {
            let rest =
                Duration::try_from(next.simulated_at.duration_since(simulated_now)).unwrap_or_default();
            next.due_at = now.checked_add(speed.real(rest)).unwrap_or(Timestamp::MAX);
            next.waits_since = now;
            self.ahead = simulated_now.duration_since(now);
        }
    }

    /// Ends the wait for the next scheduled attempt. `false` if there is none.
    pub(crate) fn attempt_now(&mut self, now: Timestamp) -> bool {
        match &mut self.schedule {
            Schedule::Waiting(next) => {
                next.due_at = next.due_at.min(now);
                true
            }
            Schedule::InProgress | Schedule::Succeeded | Schedule::Failed | Schedule::Stopped(_) => false,
        }
    }

    /// Forgets the attempts that are under way, and makes them due again.
    pub(crate) fn put_back(&mut self, now: Timestamp) {
        let under_way = self.attempts.extract_if(.., |attempt| attempt.finished.is_none());
        if under_way.filter(|attempt| attempt.trigger == Trigger::Manual).count() > 0 {
            self.manual_due_at = Some(now);
        }
        if self.schedule == Schedule::InProgress {
            let simulated_at = plus(now, self.ahead);
            self.schedule = Schedule::Waiting(NextAttempt { due_at: now, simulated_at, waits_since: now });
        }
    }

    /// Marks an attempt that is under way as answered by a fault. `false` if there is none without a mark.
    pub(crate) fn mark_injected(&mut self, fault: Fault) -> bool {
        let is_unmarked = |attempt: &&mut Attempt| attempt.finished.is_none() && attempt.injected.is_none();
        let attempt = self.attempts.iter_mut().find(is_unmarked);
        attempt.map(|attempt| attempt.injected = Some(fault)).is_some()
    }
}

fn plus(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// A message id as text.
mod message_id {
    use learnink_webhook::MessageId;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageId, D::Error> {
        MessageId::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
