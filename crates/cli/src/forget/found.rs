//! What a store has of a learner.

use std::fmt;

use jiff::Timestamp;
use learnink_webhook::Envelope;
use serde::Serialize;
use serde_json::value::RawValue;

use super::learner::{Finding, Ids, Part};

/// What a store has of a learner, by its keys. `Debug` shows counts.
#[derive(Clone)]
pub(crate) struct Found<K> {
    /// What is about the learner alone.
    pub(crate) whole: Vec<K>,
    /// What is about others too.
    pub(crate) items: Vec<K>,
    /// The learner's own data in both.
    pub(crate) own: Vec<Own>,
    /// What was not looked at, and why.
    pub(crate) unread: Vec<String>,
    pub(crate) beside: Ids,
    pub(crate) shared: usize,
}

/// A webhook that a store has, without what only that store knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Webhook<'a> {
    /// Its name for a person.
    pub(crate) place: &'a str,
    pub(crate) message_id: Option<&'a str>,
    pub(crate) received_at: Option<Timestamp>,
}

/// The learner's own data in one webhook. It has no `Debug`.
#[derive(Clone, Serialize)]
pub(crate) struct Own {
    place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_at: Option<Timestamp>,
    /// The event's data; of a list with others, the learner's items.
    data: Vec<Box<RawValue>>,
}

impl<K> Default for Found<K> {
    fn default() -> Self {
        Self {
            whole: Vec::new(),
            items: Vec::new(),
            own: Vec::new(),
            unread: Vec::new(),
            beside: Ids::default(),
            shared: 0,
        }
    }
}

impl<K> fmt::Debug for Found<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("whole", &self.whole.len())
            .field("items", &self.items.len())
            .field("unread", &self.unread.len())
            .finish_non_exhaustive()
    }
}

impl<K> Found<K> {
    /// Adds what was found in the body of a webhook.
    pub(crate) fn add(&mut self, key: K, webhook: Webhook<'_>, body: &[u8], finding: Finding) {
        let Finding { part, beside, shared } = finding;
        self.beside.add_all(beside);
        self.shared += shared;
        match part {
            Part::Nothing => {}
            Part::Whole => {
                self.whole.push(key);
                self.own.push(Own::of(webhook, body, None));
            }
            Part::Items(items) => {
                self.items.push(key);
                if !items.own.is_empty() {
                    self.own.push(Own::of(webhook, body, Some(items.own)));
                }
            }
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.whole.extend(other.whole);
        self.items.extend(other.items);
        self.own.extend(other.own);
        self.unread.extend(other.unread);
        self.beside.add_all(other.beside);
        self.shared += other.shared;
    }

    pub(crate) fn count(&self) -> Count {
        Count { whole: self.whole.len(), redacted: self.items.len() }
    }
}

/// How much a store has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    /// What is about the learner alone.
    #[serde(rename = "erase")]
    pub(crate) whole: usize,
    /// What is about others too, and is redacted.
    #[serde(rename = "redact")]
    pub(crate) redacted: usize,
}

impl Count {
    pub(crate) const fn all(self) -> usize {
        self.whole + self.redacted
    }
}

impl Own {
    /// Of the whole webhook, or of these items in it.
    fn of(webhook: Webhook<'_>, body: &[u8], items: Option<Vec<String>>) -> Self {
        let envelope = Envelope::parse(body).ok();
        let raw = |json: String| RawValue::from_string(json).ok();
        // Text that is not JSON becomes a string.
        let text = |text: &str| raw(serde_json::Value::from(text).to_string());
        let data: Vec<_> = match (items, &envelope) {
            (Some(items), _) => {
                items.into_iter().filter_map(|item| raw(item.clone()).or_else(|| text(&item))).collect()
            }
            (None, Some(envelope)) => vec![envelope.raw_data().to_owned()],
            (None, None) => text(&String::from_utf8_lossy(body)).into_iter().collect(),
        };
        let (event_type, occurred_at) =
            envelope.map(|envelope| (envelope.event_type, envelope.occurred_at)).unwrap_or_default();
        let Webhook { place, message_id, received_at } = webhook;
        Self {
            place: place.to_owned(),
            message_id: message_id.map(str::to_owned),
            event_type,
            occurred_at,
            received_at,
            data,
        }
    }
}
