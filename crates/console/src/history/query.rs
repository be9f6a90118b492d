//! Reading the history, on connections of one's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, params, params_from_iter};
use serde::Serialize;
use tokio::sync::watch;

use super::state::State;
use super::store::BUSY;
use super::{Content, Happening, HistoryError};

/// The state of a message now: what was hidden until then waits again. `?1` is now.
const STATE_NOW: &str = "CASE WHEN until_us <= ?1 THEN 'waiting' ELSE state END";

/// Reads the history. Its methods block.
#[derive(Debug, Clone)]
pub struct History {
    path: PathBuf,
    changes: watch::Receiver<i64>,
    dropped: Arc<AtomicU64>,
}

/// Which messages are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Of this event type.
    pub event_type: Option<String>,
    /// With this text in the message id.
    pub text: Option<String>,
    /// That arrived last at or after this time.
    pub since: Option<Timestamp>,
    /// That arrived last before this time.
    pub until: Option<Timestamp>,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The message id; of a request without one `request.` and a number, and of an SQS message that nothing else is
    /// known of `sqs.` and its id.
    pub message: String,
    /// The number of the entry with which it arrived last: a cursor.
    pub arrived: i64,
    /// When it arrived last.
    pub at: Timestamp,
    /// The event's type.
    pub event_type: Option<String>,
    /// Where it stands.
    pub state: State,
    /// When it is delivered again, if it is coming back.
    pub until: Option<Timestamp>,
    /// The number of its requests, including those that are no longer kept.
    pub attempts: u64,
    /// The number of its deliveries that the consumer has ended, including those that are no longer kept.
    pub deliveries: u64,
    /// Why it is not done, in words.
    pub why: Option<String>,
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The newest first.
    pub messages: Vec<Summary>,
    /// The cursor for older ones, if there are any.
    pub before: Option<i64>,
}

/// How many messages are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each is the number of messages in the state of its name")]
pub struct Counts {
    pub refused: u64,
    pub not_stored: u64,
    pub waiting: u64,
    pub in_flight: u64,
    pub coming_back: u64,
    pub dead: u64,
    pub dropped: u64,
    pub done: u64,
}

impl Counts {
    /// All messages.
    pub fn all(&self) -> u64 {
        State::ALL.into_iter().map(|state| self.of(state)).sum()
    }

    /// The messages in one state.
    pub const fn of(&self, state: State) -> u64 {
        match state {
            State::Refused => self.refused,
            State::NotStored => self.not_stored,
            State::Waiting => self.waiting,
            State::InFlight => self.in_flight,
            State::ComingBack => self.coming_back,
            State::Dead => self.dead,
            State::Dropped => self.dropped,
            State::Done => self.done,
        }
    }

    const fn of_mut(&mut self, state: State) -> &mut u64 {
        match state {
            State::Refused => &mut self.refused,
            State::NotStored => &mut self.not_stored,
            State::Waiting => &mut self.waiting,
            State::InFlight => &mut self.in_flight,
            State::ComingBack => &mut self.coming_back,
            State::Dead => &mut self.dead,
            State::Dropped => &mut self.dropped,
            State::Done => &mut self.done,
        }
    }
}

/// An entry of a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its number.
    pub seq: i64,
    /// What happened.
    pub entry: Happening,
    /// The size of a request's body.
    pub body_bytes: Option<u64>,
}

/// Everything about one message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageHistory {
    /// Its line in the list.
    pub summary: Summary,
    /// Its entries, in the order of their time; if there are many, only the newest.
    pub entries: Vec<Row>,
    /// How many older entries are left out.
    pub left_out: u64,
}

/// The most entries of one message that are read at once.
const MOST_ENTRIES: u64 = 500;

impl History {
    pub(super) const fn new(path: PathBuf, changes: watch::Receiver<i64>, dropped: Arc<AtomicU64>) -> Self {
        Self { path, changes, dropped }
    }

    /// Changes whenever something was written, to the number of the newest entry.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changes.clone()
    }

    /// The number of the newest entry.
    pub fn newest(&self) -> i64 {
        *self.changes.borrow()
    }

    /// How many entries were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Up to `limit` messages that arrived before the cursor `before`, the newest first.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn messages(
        &self,
        filter: &Filter,
        before: Option<i64>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page, HistoryError> {
        let (conditions, mut values) = conditions(filter, now);
        values.push(Value::from(before.unwrap_or(i64::MAX)));
        values.push(Value::from(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)));
        let (cursor, most) = (values.len() - 1, values.len());
        let select = format!(
            "SELECT message, arrived, at_us, event_type, {STATE_NOW}, until_us, attempts, deliveries, why FROM messages \
             WHERE {conditions} AND arrived < ?{cursor} ORDER BY arrived DESC LIMIT ?{most}"
        );
        self.read(|connection| {
            let mut select = connection.prepare(&select)?;
            let rows = select.query_map(params_from_iter(values), summary)?;
            let mut messages = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let has_more = messages.len() > limit;
            messages.truncate(limit);
            let before = messages.last().filter(|_| has_more).map(|last| last.arrived);
            Ok(Page { messages, before })
        })
    }

    /// How many messages that fit `filter` arrived after the entry `after`.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn count_since(&self, filter: &Filter, after: i64, now: Timestamp) -> Result<u64, HistoryError> {
        let (conditions, mut values) = conditions(filter, now);
        values.push(Value::from(after));
        let count =
            format!("SELECT count(*) FROM messages WHERE {conditions} AND arrived > ?{}", values.len());
        self.read(|connection| connection.query_row(&count, params_from_iter(values), |row| unsigned(row, 0)))
    }

    /// How many messages are in each state.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn counts(&self, now: Timestamp) -> Result<Counts, HistoryError> {
        let select = format!("SELECT {STATE_NOW} AS now, count(*) FROM messages GROUP BY now");
        self.read(|connection| {
            let mut counts = Counts::default();
            let mut select = connection.prepare(&select)?;
            let mut rows = select.query([now.as_microsecond()])?;
            while let Some(row) = rows.next()? {
                if let Some(state) = State::named(&row.get::<_, String>(0)?) {
                    *counts.of_mut(state) = unsigned(row, 1)?;
                }
            }
            Ok(counts)
        })
    }

    /// The event types of the messages, by name.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn event_types(&self) -> Result<Vec<String>, HistoryError> {
        const MOST: usize = 200;
        let select =
            "SELECT DISTINCT event_type FROM messages WHERE event_type IS NOT NULL ORDER BY 1 LIMIT ?1";
        self.read(|connection| connection.prepare(select)?.query_map([MOST], |row| row.get(0))?.collect())
    }

    /// One message; `None` if it is not known.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn message(&self, message: &str, now: Timestamp) -> Result<Option<MessageHistory>, HistoryError> {
        let select = format!(
            "SELECT message, arrived, at_us, event_type, {STATE_NOW}, until_us, attempts, deliveries, why FROM messages \
             WHERE message = ?2"
        );
        let newest = "SELECT seq, json, length(body) FROM entries WHERE message = ?1 \
                      ORDER BY at_us DESC, seq DESC LIMIT ?2";
        let found = self.read(|connection| {
            // In one transaction, so that the line fits the entries.
            let transaction = connection.unchecked_transaction()?;
            let found =
                transaction.query_row(&select, params![now.as_microsecond(), message], summary).optional()?;
            let Some(summary) = found else { return Ok(None) };
            let count = "SELECT count(*) FROM entries WHERE message = ?1";
            let count = transaction.query_row(count, [message], |row| unsigned(row, 0))?;
            let mut rows = transaction.prepare(newest)?;
            let rows = rows.query_map(params![message, MOST_ENTRIES], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<i64>>(2)?))
            })?;
            Ok(Some((summary, rows.collect::<rusqlite::Result<Vec<_>>>()?, count)))
        })?;
        let Some((summary, rows, count)) = found else { return Ok(None) };
        let left_out = count.saturating_sub(rows.len() as u64);
        let entries = rows.into_iter().rev().map(|(seq, json, body_bytes)| {
            let body_bytes = body_bytes.and_then(|bytes| u64::try_from(bytes).ok());
            Ok(Row { seq, entry: serde_json::from_str(&json)?, body_bytes })
        });
        let entries = entries.collect::<Result<_, HistoryError>>()?;
        Ok(Some(MessageHistory { summary, entries, left_out }))
    }

    /// The content of the request with this number; `None` if it is not kept.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn content(&self, seq: i64) -> Result<Option<Content>, HistoryError> {
        let select = "SELECT headers, body FROM entries WHERE seq = ?1 AND body IS NOT NULL";
        let found = self.read(|connection| {
            let row = |row: &SqlRow<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
            connection.query_row(select, [seq], row).optional()
        })?;
        let content = |(headers, body): (String, Vec<u8>)| {
            Ok(Content { headers: serde_json::from_str(&headers)?, body })
        };
        found.map(content).transpose()
    }

    /// The documents of one kind, by id, as [`Recorder::document`](super::Recorder::document) stored them: the id
    /// and the JSON.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the file cannot be read.
    pub fn documents(&self, kind: &str) -> Result<Vec<(String, String)>, HistoryError> {
        let select = "SELECT id, json FROM documents WHERE kind = ?1 ORDER BY id";
        self.read(|connection| {
            connection.prepare(select)?.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, HistoryError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            read(&connection)
        });
        connection.map_err(|source| HistoryError::Sqlite { doing: "read", source })
    }
}

/// The conditions of a filter, and the values in them; the first is now.
fn conditions(filter: &Filter, now: Timestamp) -> (String, Vec<Value>) {
    let Filter { state, event_type, text, since, until } = filter;
    let mut conditions = "?1 IS NOT NULL".to_owned();
    let mut values = vec![Value::from(now.as_microsecond())];
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            conditions.push_str(" AND ");
            conditions.push_str(&condition.replace("?N", &format!("?{}", values.len())));
        }
    };
    let time = |time: &Option<Timestamp>| time.map(|time| Value::from(time.as_microsecond()));
    add(&format!("{STATE_NOW} = ?N"), state.map(|state| Value::from(state.name().to_owned())));
    add("event_type = ?N", event_type.clone().map(Value::from));
    add("instr(message, ?N) > 0", text.clone().map(Value::from));
    add("at_us >= ?N", time(since));
    add("at_us < ?N", time(until));
    (conditions, values)
}

fn summary(row: &SqlRow<'_>) -> rusqlite::Result<Summary> {
    let time = |us: i64| Timestamp::from_microsecond(us).unwrap_or_default();
    let state = State::named(&row.get::<_, String>(4)?).unwrap_or(State::Waiting);
    let until = row.get::<_, Option<i64>>(5)?.map(time);
    Ok(Summary {
        message: row.get(0)?,
        arrived: row.get(1)?,
        at: time(row.get(2)?),
        event_type: row.get(3)?,
        state,
        until: until.filter(|_| state == State::ComingBack),
        attempts: unsigned(row, 6)?,
        deliveries: unsigned(row, 7)?,
        why: row.get(8)?,
    })
}

fn unsigned(row: &SqlRow<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(|count| u64::try_from(count).unwrap_or_default())
}
