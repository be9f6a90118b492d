//! The simulator: everything that LearnInk's side knows, and the rules by which it changes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use learnink_webhook::MessageId;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, EndpointId, EndpointState, EndpointUrl, Environment};
use crate::event::{Event, fresh_message_id};
use crate::fault::{Fault, FaultRule, Front};
use crate::message::{Destination, Message, Outcome, Status, StopReason};
use crate::schedule::Speed;
use crate::secret::Secret;

/// The most messages that are kept. A new one takes the place of the oldest one, whose attempts stop.
/// It is also the most that LearnInk recovers at once, so that a recovery is never too large.
pub const MOST_MESSAGES: usize = 10_000;

/// The most bytes of messages that are kept, of payloads and attempts. A new message or attempt takes the place of the
/// oldest messages; the newest message is always kept.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;

/// How long a message is kept. The schedule of a message is over before that.
pub const KEPT_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How far back messages can be recovered or replayed. Source: Svix documentation, "Recover Failed Messages".
pub const RECOVERABLE_FOR: SignedDuration = SignedDuration::from_hours(14 * 24);

/// LearnInk's side of the webhooks.
///
/// Each method that changes something notes what has changed, for [`Simulator::take_changes`]. A `now` is the real
/// time, and a `random` of type `f64` is uniform in `0..1`.
#[derive(Debug, Default)]
pub struct Simulator {
    /// In the order in which they were added.
    endpoints: Vec<Endpoint>,
    /// By number: the oldest first.
    messages: BTreeMap<u64, Message>,
    numbers: HashMap<MessageId, u64>,
    /// The sum of [`Message::bytes`].
    bytes: usize,
    /// When the next attempt of a message at an endpoint is due: the same as `Destination::due_at` of each.
    due: BTreeSet<(Timestamp, u64, EndpointId)>,
    settings: Settings,
    /// How many faults have been set since the start: a front knows from it whether its own is the current one.
    fault_number: u64,
    changes: Changes,
}

/// What is neither an endpoint nor a message.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// How fast the waits pass.
    pub speed: Speed,
    /// The fault in front of the receiver, if there is one.
    pub fault: Option<FaultRule>,
}

/// What has changed, for a store that writes nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Messages that are new, or that have changed.
    pub messages: BTreeSet<MessageId>,
    /// Messages that are not kept any more: the oldest ones.
    pub dropped_messages: BTreeSet<MessageId>,
    /// Endpoints that are new, or that have changed.
    pub endpoints: BTreeSet<EndpointId>,
    /// Endpoints that do not exist any more.
    pub removed_endpoints: BTreeSet<EndpointId>,
    /// Whether the settings have changed.
    pub settings: bool,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An attempt that somebody asked for and that is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No endpoint has the id.
    #[error("there is no endpoint `{0}`")]
    NoEndpoint(EndpointId),
    /// The endpoint gets no messages.
    #[error("endpoint `{0}` is disabled; enable it first")]
    Disabled(EndpointId),
    /// No message has the id, or it is not kept any more.
    #[error(
        "there is no message `{0}`; the newest {MOST_MESSAGES} of the last seven days are kept, up to 64 MiB"
    )]
    NoMessage(MessageId),
    /// The message was not for the endpoint.
    #[error("message `{message}` was not sent to endpoint `{endpoint}`")]
    NotSentTo {
        /// The message.
        message: MessageId,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// There is no wait that could be ended.
    #[error("message `{0}` does not wait for an attempt; resend it")]
    NotWaiting(MessageId),
    /// A window that LearnInk does not accept.
    #[error("the window starts more than 14 days ago; choose a later start")]
    TooLongAgo,
}

/// Names an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptKey {
    /// The message.
    pub message: MessageId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The number among the message's attempts at the endpoint.
    pub number: u32,
}

/// The request of an attempt that has started: post it, and tell [`Simulator::finish_attempt`] how it ended.
///
/// `Debug` shows neither the signature nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct AttemptRequest {
    /// Which attempt it is. Its message is the value of the header `svix-id`.
    pub key: AttemptKey,
    /// Where to post it.
    pub url: EndpointUrl,
    /// The value of the header `svix-timestamp`, in Unix seconds: the real time of the start.
    pub signed_at_s: i64,
    /// The value of the header `svix-signature`.
    pub signature: String,
    /// The body, which is `application/json`.
    pub body: String,
}

impl fmt::Debug for AttemptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptRequest").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Which messages to list. A field without a value does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageFilter {
    /// Sent from this environment.
    pub environment: Option<Environment>,
    /// For this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of this type.
    pub event_type: Option<String>,
    /// With this status at the endpoint; without an endpoint, at any.
    pub status: Option<Status>,
    /// Sent at this time or later.
    pub since: Option<Timestamp>,
    /// Sent before this time.
    pub until: Option<Timestamp>,
    /// Older than the message with this number: the last one of the previous page.
    pub older_than: Option<u64>,
}

impl MessageFilter {
    fn matches(&self, message: &Message) -> bool {
        let is_here = |destination: &&Destination| {
            self.endpoint.as_ref().is_none_or(|endpoint| destination.endpoint == *endpoint)
        };
        let has_status =
            |destination: &Destination| self.status.is_none_or(|status| destination.status() == status);
        // A message may have been for no endpoint at all.
        let at_endpoint = (self.endpoint.is_none() && self.status.is_none())
            || message.destinations.iter().filter(is_here).any(has_status);
        at_endpoint
            && self.environment.is_none_or(|environment| message.environment == environment)
            && self.event_type.as_ref().is_none_or(|event_type| message.event_type == *event_type)
            && self.since.is_none_or(|since| message.created_at >= since)
            && self.until.is_none_or(|until| message.created_at < until)
    }
}

/// A page of a list of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<'a> {
    /// The newest first.
    pub messages: Vec<&'a Message>,
    /// Whether there are older ones.
    pub has_older: bool,
}

/// What is stored.
impl Simulator {
    /// The simulator as it was stored; endpoints and messages may come in any order. Attempts that were under way are
    /// made again: nobody knows whether they arrived.
    pub fn restore(
        settings: Settings,
        mut endpoints: Vec<Endpoint>,
        messages: impl IntoIterator<Item = Message>,
        now: Timestamp,
    ) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.created_at);
        let messages: BTreeMap<_, _> =
            messages.into_iter().map(|message| (message.number, message)).collect();
        let numbers = messages.values().map(|message| (message.id.clone(), message.number)).collect();
        let bytes = messages.values().map(Message::bytes).sum();
        let mut simulator = Self { endpoints, messages, numbers, bytes, settings, ..Self::default() };
        let dues = simulator.messages.values().flat_map(|message| {
            let due = |destination: &Destination| {
                Some((destination.due_at()?, message.number, destination.endpoint.clone()))
            };
            message.destinations.iter().filter_map(due)
        });
        simulator.due = dues.collect();
        simulator.put_back_attempts(now);
        simulator.drop_old_messages(now);
        simulator
    }

    /// Whether [`Simulator::take_changes`] would return any.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What has changed since the last call, or since the start.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Drops the messages that are older than [`KEPT_FOR`], and the oldest of more than [`MOST_MESSAGES`] or
    /// [`MOST_BYTES`].
    pub fn drop_old_messages(&mut self, now: Timestamp) {
        while let Some(oldest) = self.messages.first_entry() {
            let age = now.duration_since(oldest.get().created_at);
            let count = self.numbers.len();
            let is_too_much = count > MOST_MESSAGES || (self.bytes > MOST_BYTES && count > 1);
            if age <= KEPT_FOR && !is_too_much {
                return;
            }
            let message = oldest.remove();
            self.bytes = self.bytes.saturating_sub(message.bytes());
            for destination in message.destinations {
                if let Some(due_at) = destination.due_at() {
                    self.due.remove(&(due_at, message.number, destination.endpoint));
                }
            }
            self.numbers.remove(&message.id);
            self.changes.messages.remove(&message.id);
            self.changes.dropped_messages.insert(message.id);
        }
    }

    fn change_endpoint(&mut self, id: &EndpointId) -> Result<&mut Endpoint, RequestError> {
        let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.id == *id);
        let endpoint = endpoint.ok_or_else(|| RequestError::NoEndpoint(id.clone()))?;
        self.changes.endpoints.insert(id.clone());
        Ok(endpoint)
    }

    /// Changes a message at an endpoint, and what is due.
    fn change_destination<T>(
        &mut self,
        number: u64,
        endpoint: &EndpointId,
        change: impl FnOnce(&mut Destination) -> T,
    ) -> Option<T> {
        let message = self.messages.get_mut(&number)?;
        let destination =
            message.destinations.iter_mut().find(|destination| destination.endpoint == *endpoint)?;
        let due_before = destination.due_at();
        let bytes_before = destination.bytes();
        let changed = change(destination);
        self.bytes = self.bytes.saturating_sub(bytes_before) + destination.bytes();
        let due_after = destination.due_at();
        if due_before != due_after {
            due_before.map(|due_at| self.due.remove(&(due_at, number, endpoint.clone())));
            due_after.map(|due_at| self.due.insert((due_at, number, endpoint.clone())));
        }
        self.changes.messages.insert(message.id.clone());
        Some(changed)
    }

    /// Changes each message at an endpoint for which `is_meant` holds. Returns how many there are.
    fn change_destinations(
        &mut self,
        is_meant: impl Fn(&Message, &Destination) -> bool,
        mut change: impl FnMut(&mut Destination),
    ) -> usize {
        let of_message = |message: &Message| {
            let meant = message.destinations.iter().filter(|destination| is_meant(message, destination));
            let meant = meant.map(|destination| (message.number, destination.endpoint.clone()));
            meant.collect::<Vec<_>>()
        };
        let meant: Vec<_> = self.messages.values().flat_map(of_message).collect();
        for (number, endpoint) in &meant {
            self.change_destination(*number, endpoint, &mut change);
        }
        meant.len()
    }
}

/// Endpoints.
impl Simulator {
    /// All endpoints, in the order in which they were added.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// An endpoint.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn endpoint(&self, id: &EndpointId) -> Result<&Endpoint, RequestError> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.id == *id);
        endpoint.ok_or_else(|| RequestError::NoEndpoint(id.clone()))
    }

    /// Adds an endpoint, which is enabled and subscribes to every type.
    pub fn add_endpoint(
        &mut self,
        environment: Environment,
        url: EndpointUrl,
        secret: Secret,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> EndpointId {
        let id = EndpointId::fresh(random);
        self.endpoints.push(Endpoint::new(id.clone(), environment, url, secret, now));
        self.changes.endpoints.insert(id.clone());
        id
    }

    /// Removes an endpoint. Attempts at it stop immediately; its messages stay in the list.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn remove_endpoint(&mut self, id: &EndpointId) -> Result<(), RequestError> {
        self.endpoint(id)?;
        self.endpoints.retain(|endpoint| endpoint.id != *id);
        self.changes.endpoints.remove(id);
        self.changes.removed_endpoints.insert(id.clone());
        self.stop(id, StopReason::Removed);
        Ok(())
    }

    /// Changes the address of an endpoint, from the next attempt on.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn set_url(&mut self, id: &EndpointId, url: EndpointUrl) -> Result<(), RequestError> {
        self.change_endpoint(id)?.url = url;
        Ok(())
    }

    /// Subscribes an endpoint to these types and no others, or to all if there are none. It matters for new messages
    /// only.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn subscribe(&mut self, id: &EndpointId, event_types: BTreeSet<String>) -> Result<(), RequestError> {
        self.change_endpoint(id)?.event_types = event_types;
        Ok(())
    }

    /// Enables an endpoint. It gets the messages that are sent from now on. Those whose attempts have stopped are not
    /// attempted, unless somebody resends them. A recovery is only for those with a failed attempt.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn enable(&mut self, id: &EndpointId) -> Result<(), RequestError> {
        self.change_endpoint(id)?.enable();
        Ok(())
    }

    /// Disables an endpoint. Attempts at it stop immediately; one that is under way is finished.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn disable(&mut self, id: &EndpointId) -> Result<(), RequestError> {
        self.change_endpoint(id)?.state = EndpointState::Disabled;
        self.stop(id, StopReason::Disabled);
        Ok(())
    }

    /// Replaces the secret of an endpoint. For `overlap`, by the real clock, attempts are signed with the previous one
    /// too; LearnInk's is [`OVERLAP`](crate::secret::OVERLAP).
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] if it does not exist.
    pub fn rotate(
        &mut self,
        id: &EndpointId,
        new_secret: Secret,
        overlap: SignedDuration,
        now: Timestamp,
    ) -> Result<(), RequestError> {
        self.change_endpoint(id)?.secrets.rotate(new_secret, overlap, now);
        Ok(())
    }

    fn enabled(&self, id: &EndpointId) -> Result<&Endpoint, RequestError> {
        let endpoint = self.endpoint(id)?;
        if endpoint.is_enabled() { Ok(endpoint) } else { Err(RequestError::Disabled(id.clone())) }
    }

    fn stop(&mut self, id: &EndpointId, reason: StopReason) {
        let is_going_on = |_: &Message, destination: &Destination| {
            destination.endpoint == *id && matches!(destination.status(), Status::Sending | Status::Pending)
        };
        self.change_destinations(is_going_on, |destination| destination.stop(reason));
    }
}

/// Messages.
impl Simulator {
    /// Sends an event to each enabled endpoint of the environment that subscribes to its type. Returns the new
    /// message's id; it is listed even if no endpoint gets it.
    pub fn send(
        &mut self,
        environment: Environment,
        event: Event,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> MessageId {
        let takes = |endpoint: &&Endpoint| {
            endpoint.environment == environment && endpoint.is_enabled() && endpoint.takes(&event.event_type)
        };
        let endpoints = self.endpoints.iter().filter(takes).map(|endpoint| endpoint.id.clone()).collect();
        self.add_message(environment, event, endpoints, now, random)
    }

    /// *Send Example*: sends an event to one endpoint only, whatever it subscribes to. Returns the new message's id.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoEndpoint`] or [`RequestError::Disabled`].
    pub fn send_example(
        &mut self,
        endpoint: &EndpointId,
        event: Event,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> Result<MessageId, RequestError> {
        let environment = self.enabled(endpoint)?.environment;
        Ok(self.add_message(environment, event, vec![endpoint.clone()], now, random))
    }

    fn add_message(
        &mut self,
        environment: Environment,
        event: Event,
        endpoints: Vec<EndpointId>,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> MessageId {
        let id = fresh_message_id(random);
        let number = self.messages.last_key_value().map_or(1, |(last, _)| last + 1);
        self.due.extend(endpoints.iter().map(|endpoint| (now, number, endpoint.clone())));
        let destinations = endpoints.into_iter().map(|endpoint| Destination::new(endpoint, now)).collect();
        let Event { event_type, payload } = event;
        let message = Message {
            number,
            id: id.clone(),
            environment,
            event_type,
            payload,
            created_at: now,
            destinations,
        };
        self.bytes += message.bytes();
        self.messages.insert(number, message);
        self.numbers.insert(id.clone(), number);
        self.changes.messages.insert(id.clone());
        self.drop_old_messages(now);
        id
    }

    /// A message, with its attempts.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoMessage`] if it does not exist, or is not kept any more.
    pub fn message(&self, id: &MessageId) -> Result<&Message, RequestError> {
        let message = self.numbers.get(id).and_then(|number| self.messages.get(number));
        message.ok_or_else(|| RequestError::NoMessage(id.clone()))
    }

    /// The newest messages that match, `limit` at most.
    pub fn messages(&self, filter: &MessageFilter, limit: usize) -> Page<'_> {
        let older = self.messages.range(..filter.older_than.unwrap_or(u64::MAX)).rev();
        let mut matching = older.map(|(_, message)| message).filter(|message| filter.matches(message));
        let messages = matching.by_ref().take(limit).collect();
        Page { messages, has_older: matching.next().is_some() }
    }

    /// How many messages of an endpoint have each status.
    pub fn counts(&self, endpoint: &EndpointId) -> BTreeMap<Status, usize> {
        let mut counts = BTreeMap::new();
        for destination in self.messages.values().filter_map(|message| message.destination(endpoint)) {
            *counts.entry(destination.status()).or_default() += 1;
        }
        counts
    }

    /// *Resend*: attempts a message once more, whether or not it has succeeded. The attempt is not retried, and the
    /// schedule goes on if it fails. If a manual attempt has not started yet, there is no second one.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if the endpoint or the message does not exist, or they do not belong together, or the endpoint
    /// is disabled.
    pub fn resend(
        &mut self,
        message: &MessageId,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<(), RequestError> {
        self.enabled(endpoint)?;
        let number = self.number(message, endpoint)?;
        let request = |destination: &mut Destination| {
            destination.manual_due_at.get_or_insert(now);
        };
        self.change_destination(number, endpoint, request);
        Ok(())
    }

    /// *Recover Failed Messages*: attempts once more each message that was sent in the window and that has a failed
    /// attempt and no success. `until` is now if it is `None`. As with a resend, the schedule goes on. Returns how many
    /// there are.
    ///
    /// # Errors
    ///
    /// [`RequestError::TooLongAgo`] if the window starts more than [`RECOVERABLE_FOR`] ago. [`RequestError::NoEndpoint`]
    /// or [`RequestError::Disabled`].
    pub fn recover(
        &mut self,
        endpoint: &EndpointId,
        since: Timestamp,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<usize, RequestError> {
        self.enabled(endpoint)?;
        if now.duration_since(since) > RECOVERABLE_FOR {
            return Err(RequestError::TooLongAgo);
        }
        let window = since..=until.unwrap_or(now);
        let is_meant = |message: &Message, destination: &Destination| {
            destination.endpoint == *endpoint
                && window.contains(&message.created_at)
                && destination.is_recoverable()
        };
        Ok(self.change_destinations(is_meant, |destination| {
            destination.manual_due_at.get_or_insert(now);
        }))
    }

    /// *Replay all failed messages since this time*: recovers this message, if it failed, and the later ones.
    ///
    /// # Errors
    ///
    /// As [`Simulator::recover`], and if the message does not exist or was not for the endpoint.
    pub fn replay_failed_since(
        &mut self,
        message: &MessageId,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<usize, RequestError> {
        self.number(message, endpoint)?;
        let since = self.message(message)?.created_at;
        self.recover(endpoint, since, None, now)
    }

    /// *Next attempt now*: ends the wait of a message, as if it had passed. LearnInk has nothing like it.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotWaiting`] if there is no next scheduled attempt, and if the message does not exist or was not
    /// for the endpoint.
    pub fn attempt_now(
        &mut self,
        message: &MessageId,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<(), RequestError> {
        let number = self.number(message, endpoint)?;
        match self.change_destination(number, endpoint, |destination| destination.attempt_now(now)) {
            Some(true) => Ok(()),
            Some(false) | None => Err(RequestError::NotWaiting(message.clone())),
        }
    }

    /// The number of a message that was for an endpoint.
    fn number(&self, message: &MessageId, endpoint: &EndpointId) -> Result<u64, RequestError> {
        let found = self.message(message)?;
        match found.destination(endpoint) {
            Some(_) => Ok(found.number),
            None => Err(RequestError::NotSentTo { message: message.clone(), endpoint: endpoint.clone() }),
        }
    }
}

/// Attempts.
impl Simulator {
    /// When the next attempt is due. `None` if none is.
    pub fn next_due_at(&self) -> Option<Timestamp> {
        self.due.first().map(|(due_at, ..)| *due_at)
    }

    /// Starts the attempt that has been due for longest. `None` if none is due. It is signed at `now`.
    pub fn start_attempt(&mut self, now: Timestamp) -> Option<AttemptRequest> {
        let (_, number, id) = self.due.first().filter(|(due_at, ..)| *due_at <= now)?.clone();
        // What is due has an enabled endpoint: attempts stop with it.
        let endpoint = self.endpoint(&id).ok()?;
        let (url, secrets) = (endpoint.url.clone(), endpoint.secrets.clone());
        let signed_with = secrets.signing(now).map(Secret::fingerprint).collect();
        let attempt =
            self.change_destination(number, &id, |destination| destination.start(signed_with, now))??;
        let message = self.messages.get(&number)?;
        let signature = secrets.sign(message.id.as_str(), &message.payload, now);
        let key = AttemptKey { message: message.id.clone(), endpoint: id, number: attempt };
        let body = message.payload.clone();
        Some(AttemptRequest { key, url, signed_at_s: now.as_second(), signature, body })
    }

    /// Ends an attempt. Nothing happens if it is not under way, or its message is not kept any more.
    pub fn finish_attempt(&mut self, key: &AttemptKey, outcome: Outcome, random: f64, now: Timestamp) {
        let speed = self.settings.speed;
        let is_success = outcome.is_success();
        if let Some(number) = self.numbers.get(&key.message).copied() {
            let finish =
                |destination: &mut Destination| destination.finish(key.number, outcome, speed, random, now);
            self.change_destination(number, &key.endpoint, finish);
        }
        let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.id == key.endpoint);
        // It may have been removed meanwhile, or disabled.
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.is_enabled()) else { return };
        if endpoint.note_attempt(is_success, speed, now) {
            self.changes.endpoints.insert(key.endpoint.clone());
        }
        if !endpoint.is_enabled() {
            self.stop(&key.endpoint, StopReason::Disabled);
        }
    }

    /// Forgets all attempts that are under way, and makes them due again: for a program that ends, or has ended,
    /// before their answers came.
    pub fn put_back_attempts(&mut self, now: Timestamp) {
        let is_under_way = |_: &Message, destination: &Destination| {
            destination.attempts.iter().any(|attempt| attempt.finished.is_none())
        };
        self.change_destinations(is_under_way, |destination| destination.put_back(now));
        self.stop_without_endpoint();
    }

    /// Stops what is due at an endpoint that gets no messages any more: an attempt that was under way when it was
    /// disabled, or a message that a store wrote before the endpoint.
    fn stop_without_endpoint(&mut self) {
        let ids: BTreeSet<_> = self.due.iter().map(|(_, _, id)| id.clone()).collect();
        for id in ids {
            match self.enabled(&id) {
                Ok(_) => {}
                Err(RequestError::Disabled(_)) => self.stop(&id, StopReason::Disabled),
                Err(_) => self.stop(&id, StopReason::Removed),
            }
        }
    }
}

/// Speed and faults.
impl Simulator {
    /// Speed and fault.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes how fast waits pass, also the rest of those that are going on.
    pub fn set_speed(&mut self, speed: Speed, now: Timestamp) {
        let before = std::mem::replace(&mut self.settings.speed, speed);
        self.changes.settings = true;
        if let Some(rule) = &mut self.settings.fault {
            rule.change_speed(before, speed, now);
        }
        for endpoint in &mut self.endpoints {
            endpoint.change_speed(before, speed, now);
            self.changes.endpoints.insert(endpoint.id.clone());
        }
        let waits = |_: &Message, destination: &Destination| destination.next_attempt().is_some();
        self.change_destinations(waits, |destination| destination.change_speed(speed, now));
    }

    /// Puts a fault in front of the receiver, in place of another one; `None` ends it.
    pub const fn set_fault(&mut self, rule: Option<FaultRule>) {
        self.settings.fault = rule;
        self.fault_number += 1;
        self.changes.settings = true;
    }

    /// The fault for a request that has arrived at the front, if there is one, and counts it. `svix_id` is the header of
    /// the request. If it names a message that is being attempted, the attempt is marked as answered by the fault.
    pub fn take_fault(&mut self, svix_id: &str, random: f64, now: Timestamp) -> Option<Fault> {
        let mut rule = self.settings.fault;
        let fault = FaultRule::take(&mut rule, random, now);
        if self.settings.fault != rule {
            self.set_fault(rule);
        }
        let fault = fault?;
        if let Ok(message) = MessageId::parse(svix_id) {
            self.mark_injected(&message, fault);
        }
        Some(fault)
    }

    /// Takes over which requests the front has counted, and gives it the fault, in case it is another one.
    pub(crate) fn exchange_fault(&mut self, front: &mut Front) {
        if front.fault_number == self.fault_number {
            let counted = |ours: FaultRule| {
                // A change of the speed may have moved the end.
                front.rule.map(|rule| FaultRule { until: ours.until, ..rule })
            };
            let rule = self.settings.fault.and_then(counted);
            self.changes.settings |= rule != self.settings.fault;
            self.settings.fault = rule;
        }
        front.rule = self.settings.fault;
        front.fault_number = self.fault_number;
    }

    /// Marks one attempt of a message that is under way, if it is kept. At two endpoints at once, the requests of a
    /// message cannot be told apart.
    pub(crate) fn mark_injected(&mut self, message: &MessageId, fault: Fault) {
        let Some(number) = self.numbers.get(message).copied() else { return };
        let destinations = self.messages.get(&number).into_iter().flat_map(|message| &message.destinations);
        let endpoints: Vec<_> = destinations.map(|destination| destination.endpoint.clone()).collect();
        endpoints.iter().any(|endpoint| {
            self.change_destination(number, endpoint, |destination| destination.mark_injected(fault))
                == Some(true)
        });
    }
}
