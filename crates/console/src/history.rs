//! What happened to each message, in one file of the state folder.
//!
//! The observer of the pipeline hands an [`Entry`] to a [`Recorder`], which never waits: one thread writes the
//! entries to `SQLite`, several in a transaction, and what it cannot take is dropped and counted. Readers open
//! connections of their own ([`History`]).
//!
//! The file has signed bodies and signatures, so that only its owner can read it. It keeps the newest
//! [`MOST_MESSAGES`] messages, [`MOST_BYTES`] and [`LONGEST`].

mod query;
mod rewrite;
mod state;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use learnink_local::terminal::quoted;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::query::{Counts, Filter, History, MessageHistory, Page, Row, Summary};
pub use self::rewrite::{BodyChange, each_body, rewrite, vacuum};
pub use self::state::State;
use self::store::Store;

/// The most messages that are kept.
pub const MOST_MESSAGES: usize = 10_000;
/// The most bytes of entries that are kept, without the file's own overhead.
pub const MOST_BYTES: usize = 256 * 1024 * 1024;
/// How long entries are kept.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);

/// How many entries may wait for the writer.
const MOST_WAITING: usize = 4096;
/// How many bytes of entries may wait for the writer.
const MOST_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// How many jobs one transaction takes.
const BATCH: usize = 500;
/// The time between two transactions, if so much happens. The entries of one message come within some milliseconds:
/// together, they cost one commit and one look at the message. What happens after a pause is written at once.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// The receiver was asked.
    Request(Box<Request>),
    /// The consumer was done with one delivery of SQS.
    Record(Record),
    /// A queue was called.
    Queue(QueueCall),
}

/// A request to the receiver: what is known of it, and its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What may be shown.
    pub facts: RequestFacts,
    /// What may only be shown on demand.
    pub content: Content,
}

/// The content of a request. It has personal data and a signature, and `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The headers in their order, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it was signed.
    pub body: Vec<u8>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} headers, {} bytes)", self.headers.len(), self.body.len())
    }
}

/// What is known of a request to the receiver. None of it is personal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// When it arrived.
    pub at: Timestamp,
    /// How long the answer took.
    #[serde(rename = "took_ms", with = "milliseconds")]
    pub took: Duration,
    /// The status of the answer; `None` if the connection was closed, or nothing was answered.
    pub status: Option<u16>,
    /// The fault that was injected in front of the receiver, in words.
    pub injected: Option<String>,
    /// The message id, if the signature proves it.
    pub message_id: Option<String>,
    /// The message id that an unverified request claims, if it looks like one of Svix's.
    pub claimed_message_id: Option<String>,
    /// The event's type, if the body has one.
    pub event_type: Option<String>,
    /// The name of the receiver's outcome, such as `accepted`; `None` if the receiver was not asked.
    pub outcome: Option<String>,
    /// The name of the reason, such as `signature_mismatch`.
    pub reason: Option<String>,
    /// The reason in words.
    pub detail: Option<String>,
    /// Which secret the signature was made with: `current` or `previous`.
    pub secret: Option<String>,
    /// Whether the newest signature is of an unknown secret.
    pub has_unknown_signature: bool,
    /// How long the headers, the time and the signature took.
    #[serde(rename = "verify_took_ms", with = "milliseconds")]
    pub verify_took: Duration,
    /// How long SQS took to confirm or fail, if it was asked.
    #[serde(rename = "enqueue_took_ms", with = "milliseconds::optional")]
    pub enqueue_took: Option<Duration>,
    /// The method.
    pub method: String,
    /// The path, without a query.
    pub path: String,
}

impl RequestFacts {
    /// Whether the answer was 2xx.
    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether the receiver itself answered 4xx: an injected fault says nothing about the request.
    pub fn is_refused(&self) -> bool {
        self.injected.is_none() && self.status.is_some_and(|status| (400..500).contains(&status))
    }
}

/// One delivery of SQS that the consumer was done with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was done.
    pub at: Timestamp,
    /// The message id, if the record could be read.
    pub message_id: Option<String>,
    /// The SQS message id.
    pub sqs_message_id: String,
    /// How often SQS has delivered it.
    pub receive_count: u32,
    /// The name of the consumer's outcome, such as `processed`.
    pub outcome: String,
    /// Why it is not done.
    pub reason: Option<String>,
    /// The handler that failed.
    pub handler: Option<String>,
    /// What each handler did.
    pub handlers: Vec<HandlerRun>,
    /// How long SQS hides it before the next delivery, if there is one.
    #[serde(rename = "comes_back_in_ms", with = "milliseconds::optional")]
    pub comes_back_in: Option<Duration>,
}

/// What one handler did for one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerRun {
    /// The handler's name.
    pub name: String,
    /// The name of its ending, such as `done` or `retryable`.
    pub ended: String,
    /// Why it failed.
    pub detail: Option<String>,
    /// How long it took.
    #[serde(rename = "took_ms", with = "milliseconds")]
    pub took: Duration,
}

/// A call to a queue, about one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCall {
    /// When.
    pub at: Timestamp,
    /// Which queue.
    pub queue: QueueName,
    /// What was done.
    pub call: Call,
    /// The message id, if the call has it; otherwise it is known from an earlier call.
    pub message_id: Option<String>,
    /// The SQS message id.
    pub sqs_message_id: String,
}

/// One of the pipeline's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueName {
    /// Between the receiver and the consumer.
    Messages,
    /// The dead-letter queue.
    DeadLetters,
}

/// What a call does to a message on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// It is on the queue from now on.
    Sent,
    /// It was delivered, and is hidden from others.
    Received,
    /// It is gone.
    Deleted,
    /// It stays hidden for so long, in seconds; 0 shows it at once.
    Hidden {
        /// Seconds from the call on.
        for_s: u32,
    },
}

/// An entry without the content of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// The receiver was asked.
    Request(RequestFacts),
    /// The consumer was done with one delivery of SQS.
    Record(Record),
    /// A queue was called.
    Queue(QueueCall),
}

impl Happening {
    /// When.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Request(request) => request.at,
            Self::Record(record) => record.at,
            Self::Queue(call) => call.at,
        }
    }
}

impl Entry {
    /// About how many bytes it has.
    fn bytes(&self) -> usize {
        const FACTS: usize = 512;
        match self {
            Self::Request(request) => {
                let headers = request.content.headers.iter().map(|(name, value)| name.len() + value.len());
                FACTS + headers.sum::<usize>() + request.content.body.len()
            }
            Self::Record(record) => FACTS + record.handlers.len() * FACTS / 4,
            Self::Queue(_) => FACTS / 2,
        }
    }
}

/// The history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file cannot be made, moved or protected.
    #[error("cannot use {}", quoted(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `SQLite` failed.
    #[error("cannot {doing} the history")]
    Sqlite {
        /// Such as `read`.
        doing: &'static str,
        /// Its error.
        source: rusqlite::Error,
    },
    /// Its content is of no use.
    #[error("{} {why}", quoted(path))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why, in words.
        why: &'static str,
    },
    /// A stored entry is not one.
    #[error("an entry of the history cannot be read")]
    Entry(#[from] serde_json::Error),
}

/// The file that cannot be used was moved aside, and a new one was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Why, in words.
    pub why: &'static str,
    /// Where the old file is now.
    pub moved_to: PathBuf,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the history starts anew: the old one {}, and is now {}; delete it when nothing in it is needed",
            self.why,
            quoted(&self.moved_to)
        )
    }
}

/// An open history.
#[derive(Debug)]
pub struct Opened {
    /// For those that observe the pipeline.
    pub recorder: Recorder,
    /// For those that read.
    pub history: History,
    /// Set if an old file was moved aside: for a person.
    pub notice: Option<Notice>,
}

/// The file of the history in a state folder.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("history.sqlite")
}

/// Opens `history.sqlite` in the state folder, which must exist, and starts its writer.
///
/// `now` is asked for what is older than [`LONGEST`], and names a file that is moved aside: one that is damaged, or
/// that another version wrote.
///
/// # Errors
///
/// [`HistoryError`] if neither the old file nor a new one can be used, for example because the disk is full or another
/// program holds a lock. Then the old file stays where it is.
pub fn open(folder: &Path, now: fn() -> Timestamp) -> Result<Opened, HistoryError> {
    let path = file(folder);
    let (mut store, notice) = Store::open(&path, now())?;
    let (sender, receiver) = sync_channel(MOST_WAITING);
    let (publisher, changes) = watch::channel(store.newest()?);
    let dropped = Arc::new(AtomicU64::new(0));
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder { sender, dropped: dropped.clone(), waiting_bytes: waiting_bytes.clone() };
    let history = History::new(path.clone(), changes, dropped.clone());
    let writer = move || write(&receiver, &mut store, now, &publisher, &dropped, &waiting_bytes);
    std::thread::Builder::new()
        .name("history".to_owned())
        .spawn(writer)
        .map_err(|source| HistoryError::Io { path, source })?;
    Ok(Opened { recorder, history, notice })
}

/// What the writer is asked for.
enum Job {
    Entry(Entry),
    /// `None` removes it.
    Document {
        kind: String,
        id: String,
        json: Option<String>,
    },
    /// Answered once all jobs before it are written. Dropped without an answer if they cannot be.
    Flush(SyncSender<()>),
}

/// Takes entries for the history. It is cheap to clone. Call [`flush`](Self::flush) before the program ends.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Recorder {
    /// Hands an entry to the writer, without waiting. If too many wait already, it is dropped and counted.
    pub fn record(&self, entry: Entry) {
        let bytes = entry.bytes();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = waiting.saturating_add(bytes) <= MOST_WAITING_BYTES
            && self.sender.try_send(Job::Entry(entry)).is_ok();
        if !is_taken {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stores a JSON document in place of the one with the same kind and id, without waiting. False if too many jobs
    /// wait already: try again later. A document that was taken and cannot be written now is written with a later job.
    ///
    /// [`History::documents`] reads them. They have no limit in time or number: the caller removes old ones.
    #[must_use]
    pub fn document(&self, kind: &str, id: &str, json: String) -> bool {
        self.send_document(kind, id, Some(json))
    }

    /// Removes a document, as [`document`](Self::document) stores one. It may not exist.
    #[must_use]
    pub fn remove_document(&self, kind: &str, id: &str) -> bool {
        self.send_document(kind, id, None)
    }

    fn send_document(&self, kind: &str, id: &str, json: Option<String>) -> bool {
        let bytes = json.as_ref().map_or(0, String::len);
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let job = Job::Document { kind: kind.to_owned(), id: id.to_owned(), json };
        // A document that is larger than the limit by itself has to be taken at some time.
        let has_room = waiting == 0 || waiting.saturating_add(bytes) <= MOST_WAITING_BYTES;
        let is_taken = has_room && self.sender.try_send(job).is_ok();
        if !is_taken {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// How many entries were dropped since the start, because the writer or the disk could not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything before is written, for up to `patience`; false if it is not by then, or if the disk or a
    /// lock refused the last of it. It blocks. A crash of the program loses nothing of what is written, but one of the
    /// machine may.
    pub fn flush(&self, patience: Duration) -> bool {
        const BETWEEN_TRIES: Duration = Duration::from_millis(10);
        let (sender, answer) = sync_channel(1);
        let mut job = Job::Flush(sender);
        let mut left = patience;
        loop {
            match self.sender.try_send(job) {
                Ok(()) => return answer.recv_timeout(left).is_ok(),
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => job = back,
            }
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(BETWEEN_TRIES);
            left = left.saturating_sub(BETWEEN_TRIES);
        }
    }
}

/// Writes jobs until the last recorder is gone.
fn write(
    jobs: &Receiver<Job>,
    store: &mut Store,
    now: fn() -> Timestamp,
    publisher: &watch::Sender<i64>,
    dropped: &AtomicU64,
    waiting_bytes: &AtomicUsize,
) {
    // Even without entries, what is too old has to go.
    const BETWEEN_PRUNINGS: Duration = Duration::from_mins(10);
    // Those that could not be written stay, and only the last one of each is of use.
    let mut documents = BTreeMap::new();
    let mut written_at = Instant::now();
    loop {
        let first = match jobs.recv_timeout(BETWEEN_PRUNINGS) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let batch = gather(first, jobs, written_at + BETWEEN_WRITES);
        let (mut flushes, mut entries) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for job in batch {
            match job {
                Job::Entry(entry) => {
                    bytes += entry.bytes();
                    entries.push(entry);
                }
                Job::Document { kind, id, json } => {
                    bytes += json.as_ref().map_or(0, String::len);
                    documents.insert((kind, id), json);
                }
                Job::Flush(sender) => flushes.push(sender),
            }
        }
        let count = entries.len();
        match store.write(entries, &documents, now()) {
            Ok(newest) => {
                if count + documents.len() > 0 {
                    publisher.send_replace(newest);
                }
                documents.clear();
                for sender in flushes {
                    // An error means that nobody waits for it any more.
                    let _ = sender.try_send(());
                }
            }
            // The flushes are dropped, which answers them.
            Err(error) => {
                let source = std::error::Error::source(&error).map(tracing::field::display);
                tracing::warn!(%error, source, entries = count, "entries of the history were dropped");
                dropped.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        written_at = Instant::now();
    }
}

/// The first job, and those that come before `until`; no more once somebody waits for them.
fn gather(first: Option<Job>, jobs: &Receiver<Job>, until: Instant) -> Vec<Job> {
    let mut batch = Vec::from_iter(first);
    while batch.len() < BATCH && !matches!(batch.last(), None | Some(Job::Flush(_))) {
        match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(job) => batch.push(job),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    batch
}

/// A `Duration` as milliseconds, with a fraction.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(serde::de::Error::custom)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Duration, Serializer};

        #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
        pub(in super::super) fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            let milliseconds = Option::<f64>::deserialize(deserializer)?;
            let read = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).map_err(serde::de::Error::custom);
            milliseconds.map(read).transpose()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
