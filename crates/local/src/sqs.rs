//! SQS on a laptop: `winterbaume-sqs` behind HTTP, with a journal.
//!
//! The engine keeps everything in memory. A webhook that was answered with 200 has to outlive the process, so a
//! message is in the journal from before its send is confirmed until it is deleted. At the next start, the
//! journal's messages are sent again. They have new SQS message ids and receive counts, as after a redrive, and
//! those that SQS itself had moved to the dead-letter queue start again on their source queue. The journal
//! survives a kill of the process, but not a loss of power.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use learnink_webhook::message::attribute::ID as ID_ATTRIBUTE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use winterbaume_core::{MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

use crate::terminal::quoted;

/// SQS takes messages of 1 MiB; in JSON and with attributes a request may be several times that.
const LARGEST_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// An SQS that listens on this machine until it is dropped.
#[derive(Debug)]
pub struct LocalSqs {
    endpoint: String,
    engine: Arc<Engine>,
    server: tokio::task::JoinHandle<()>,
}

/// Something that a caller did to one message, and that the queue has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCall {
    /// When.
    pub at: Timestamp,
    /// The queue's name.
    pub queue: String,
    /// What was done.
    pub call: Call,
    /// The message id, if the message has one.
    pub message_id: Option<String>,
    /// The SQS message id.
    pub sqs_message_id: String,
}

/// What a call does to a message on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Gets each [`QueueCall`], and must not wait.
pub type QueueObserver = Box<dyn Fn(QueueCall) + Send + Sync>;

/// The embedded SQS could not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalSqsError {
    /// No port was available.
    #[error("cannot listen on this machine")]
    Listen(#[source] io::Error),
    /// The engine refused a queue.
    #[error("cannot create the queue `{name}`: the embedded SQS answered {status}")]
    Queue {
        /// The queue's name.
        name: String,
        /// The HTTP status.
        status: u16,
    },
    /// The journal cannot be read or written.
    #[error("cannot use {}", quoted(path))]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the journal is not one that this program writes.
    #[error("{} is damaged in line {line}; move it away to start with empty queues", quoted(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// A queue of [`LocalSqs`].
#[derive(Debug, Clone, Default)]
pub struct QueueSettings {
    /// How long a received message stays hidden, in seconds.
    pub visibility_timeout_s: u32,
    /// The dead-letter queue's name, and how many deliveries come before it.
    pub dead_letters: Option<(String, u32)>,
}

impl LocalSqs {
    /// Starts an SQS with the given queues, and sends their messages in `journal` again. Without a journal, the
    /// messages are lost when the process ends. `observer` gets each call that changes a message.
    ///
    /// # Errors
    ///
    /// [`LocalSqsError`] if no port is available, a queue cannot be made or the journal cannot be used.
    pub async fn start(
        queues: &[(&str, QueueSettings)],
        journal: Option<&Path>,
        observer: Option<QueueObserver>,
    ) -> Result<Self, LocalSqsError> {
        let service = Service(SqsService::new());
        let engine = Arc::new(Engine { service, journal: Mutex::default(), observer: Observer(observer) });
        for (name, settings) in queues {
            let created = engine.call("CreateQueue", settings.create_queue(name).into()).await;
            if created.status != 200 {
                return Err(LocalSqsError::Queue { name: (*name).to_owned(), status: created.status });
            }
        }
        if let Some(path) = journal {
            engine.restore(path).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(LocalSqsError::Listen)?;
        let address = listener.local_addr().map_err(LocalSqsError::Listen)?;
        let router = Router::new().fallback(answer).with_state(engine.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the embedded SQS stopped");
            }
        });
        Ok(Self { endpoint: format!("http://{address}"), engine, server })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many messages were sent to a queue and not deleted, whether they are visible, hidden, or
    /// were moved to the dead-letter queue by SQS itself.
    pub async fn messages_sent_to(&self, queue: &str) -> usize {
        let journal = self.engine.journal.lock().await;
        let url = Self::queue_url(queue);
        journal.live.values().filter(|live| live.queue_url == url).count()
    }

    /// The URL of a queue.
    pub fn queue_url(name: &str) -> String {
        format!("https://sqs.{}.amazonaws.com/{ACCOUNT}/{name}", crate::REGION)
    }
}

/// The account of the engine.
const ACCOUNT: &str = "123456789012";

impl Drop for LocalSqs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl QueueSettings {
    fn create_queue(&self, name: &str) -> String {
        let mut attributes = HashMap::from([("VisibilityTimeout", self.visibility_timeout_s.to_string())]);
        if let Some((queue, most)) = &self.dead_letters {
            let arn = format!("arn:aws:sqs:{}:{ACCOUNT}:{queue}", crate::REGION);
            let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": most });
            attributes.insert("RedrivePolicy", policy.to_string());
        }
        serde_json::json!({ "QueueName": name, "Attributes": attributes }).to_string()
    }
}

async fn answer(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    let response = match to_bytes(request.into_body(), LARGEST_REQUEST_BYTES).await {
        Ok(body) => engine.call(&action, body).await,
        Err(_) => error_response("RequestTooLarge"),
    };
    let mut answer = Response::new(Body::from(response.body));
    *answer.status_mut() = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *answer.headers_mut() = response.headers;
    answer
}

fn error_response(code: &str) -> MockResponse {
    MockResponse::json(500, serde_json::json!({ "__type": code, "message": code }).to_string())
}

#[derive(Debug)]
struct Engine {
    service: Service,
    journal: Mutex<Journal>,
    observer: Observer,
}

struct Observer(Option<QueueObserver>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observer({})", self.0.is_some())
    }
}

impl Observer {
    /// Reports a call about a message that the journal knows, to the queue at `url`.
    fn report(&self, url: &str, call: Call, sqs_message_id: &str, live: Option<&Live>) {
        let Some(observer) = &self.0 else { return };
        let queue = url.rsplit('/').next().unwrap_or(url).to_owned();
        let message_id = live.and_then(|live| live.message_id.clone());
        observer(QueueCall { at: now(), queue, call, message_id, sqs_message_id: sqs_message_id.to_owned() });
    }
}

struct Service(SqsService);

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqsService")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    message_id: String,
}

/// What is read of a request to send a message.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessage {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    message_attributes: HashMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    string_value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ToQueue {
    queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    #[serde(default)]
    messages: Option<Vec<ReceivedMessage>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    message_id: String,
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeVisibility {
    receipt_handle: String,
    visibility_timeout: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    entries: Vec<T>,
}

/// The entries of an action, or of the action for a batch of them.
fn entries<T: for<'de> Deserialize<'de>>(action: &str, body: &[u8]) -> serde_json::Result<Vec<T>> {
    if action.ends_with("Batch") {
        Ok(serde_json::from_slice::<Batch<T>>(body)?.entries)
    } else {
        Ok(vec![serde_json::from_slice(body)?])
    }
}

impl Engine {
    /// Carries out one SQS action and updates the journal. Only the actions that this program uses are journalled:
    /// a batch of sends is refused, because it would be lost at the next start.
    async fn call(&self, action: &str, body: Bytes) -> MockResponse {
        let result = match action {
            "SendMessageBatch" | "PurgeQueue" | "StartMessageMoveTask" => {
                return error_response("NotOnThisMachine");
            }
            "SendMessage" => self.send(body).await,
            "ReceiveMessage" => self.receive(body).await,
            "DeleteMessage" | "DeleteMessageBatch" => self.delete(action, body).await,
            "ChangeMessageVisibility" | "ChangeMessageVisibilityBatch" => self.hide(action, body).await,
            _ => Ok(self.forward(action, body).await),
        };
        result.unwrap_or_else(|error| {
            // Not confirmed, so that the caller tries again.
            tracing::error!(%error, action, "the journal of the queues cannot be written");
            error_response("JournalNotWritten")
        })
    }

    async fn send(&self, body: Bytes) -> io::Result<MockResponse> {
        // Held across the send, so that no delete of the message comes before it in the journal.
        let mut journal = self.journal.lock().await;
        let response = self.forward("SendMessage", body.clone()).await;
        if response.status == 200 {
            let sent: Sent = serde_json::from_slice(&response.body)?;
            let live = journal.sent(&sent.message_id, serde_json::from_slice(&body)?)?;
            self.observer.report(&live.queue_url, Call::Sent, &sent.message_id, Some(live));
        }
        Ok(response)
    }

    async fn receive(&self, body: Bytes) -> io::Result<MockResponse> {
        // Without the lock, because it may wait for a message for seconds.
        let response = self.forward("ReceiveMessage", body.clone()).await;
        if response.status == 200 {
            let received: Received = serde_json::from_slice(&response.body)?;
            let to: ToQueue = serde_json::from_slice(&body)?;
            let mut journal = self.journal.lock().await;
            for message in received.messages.unwrap_or_default() {
                let ReceivedMessage { message_id, receipt_handle } = message;
                let live = journal.live.get(&message_id);
                self.observer.report(&to.queue_url, Call::Received, &message_id, live);
                journal.received(receipt_handle, message_id);
            }
        }
        Ok(response)
    }

    async fn delete(&self, action: &str, body: Bytes) -> io::Result<MockResponse> {
        let mut journal = self.journal.lock().await;
        let response = self.forward(action, body.clone()).await;
        if response.status == 200 {
            let to: ToQueue = serde_json::from_slice(&body)?;
            for delete in entries::<Delete>(action, &body)? {
                let Some(id) = journal.receipts.get(&delete.receipt_handle).cloned() else { continue };
                let live = journal.deleted(&id)?;
                self.observer.report(&to.queue_url, Call::Deleted, &id, live.as_ref());
            }
        }
        Ok(response)
    }

    async fn hide(&self, action: &str, body: Bytes) -> io::Result<MockResponse> {
        let response = self.forward(action, body.clone()).await;
        if response.status == 200 && self.observer.0.is_some() {
            let to: ToQueue = serde_json::from_slice(&body)?;
            let journal = self.journal.lock().await;
            for change in entries::<ChangeVisibility>(action, &body)? {
                let Some(id) = journal.receipts.get(&change.receipt_handle) else { continue };
                let call = Call::Hidden { for_s: change.visibility_timeout };
                self.observer.report(&to.queue_url, call, id, journal.live.get(id));
            }
        }
        Ok(response)
    }

    async fn forward(&self, action: &str, body: Bytes) -> MockResponse {
        let mut headers = http::HeaderMap::new();
        let Ok(target) = format!("AmazonSQS.{action}").parse() else {
            return error_response("InvalidAction");
        };
        headers.insert("x-amz-target", target);
        let uri = format!("https://sqs.{}.amazonaws.com/", crate::REGION);
        self.service.0.handle(MockRequest { method: "POST".to_owned(), uri, headers, body }).await
    }

    /// Sends the journal's messages again, into a new journal that then replaces it.
    async fn restore(&self, path: &Path) -> Result<(), LocalSqsError> {
        let io_error = |source| LocalSqsError::Journal { path: path.to_owned(), source };
        let kept = read_journal(path)?;
        let next = path.with_extension("new");
        self.journal.lock().await.file = Some(JournalFile::create(&next).map_err(io_error)?);
        for (id, request) in kept {
            // It gets another id. Whoever follows the calls must not wait for the old one.
            let before = Live::of(request.clone()).map_err(io_error)?;
            self.observer.report(&before.queue_url, Call::Deleted, &id, Some(&before));
            let request = Bytes::from(String::from(Box::<str>::from(request)));
            if self.call("SendMessage", request).await.status != 200 {
                return Err(io_error(io::Error::other("a message cannot be sent again")));
            }
        }
        fs::rename(&next, path).map_err(io_error)?;
        if let Some(file) = &mut self.journal.lock().await.file {
            path.clone_into(&mut file.path);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Sent { id: String, request: Box<RawValue> },
    Deleted { id: String },
}

/// The messages that were sent and not deleted, in memory and in the file.
#[derive(Debug, Default)]
struct Journal {
    file: Option<JournalFile>,
    /// The live messages, by SQS message id.
    live: HashMap<String, Live>,
    /// The message of each receipt handle. Handles of deleted messages are dropped with them.
    receipts: HashMap<String, String>,
}

/// A message that was sent and not deleted.
#[derive(Debug)]
struct Live {
    request: Box<RawValue>,
    /// The queue that it was sent to.
    queue_url: String,
    /// The receiver's message id, if it has one.
    message_id: Option<String>,
    /// The receipt handles of its deliveries.
    receipts: Vec<String>,
}

impl Live {
    /// The message of a request to send it.
    fn of(request: Box<RawValue>) -> io::Result<Self> {
        let mut send: SendMessage = serde_json::from_str(request.get())?;
        let message_id = send.message_attributes.remove(ID_ATTRIBUTE).and_then(|id| id.string_value);
        Ok(Self { request, queue_url: send.queue_url, message_id, receipts: Vec::new() })
    }
}

impl Journal {
    fn sent(&mut self, id: &str, request: Box<RawValue>) -> io::Result<&Live> {
        let live = Live::of(request)?;
        self.write(&Line::Sent { id: id.to_owned(), request: live.request.clone() })?;
        Ok(self.live.entry(id.to_owned()).insert_entry(live).into_mut())
    }

    fn received(&mut self, receipt: String, id: String) {
        if let Some(live) = self.live.get_mut(&id) {
            live.receipts.push(receipt.clone());
        }
        self.receipts.insert(receipt, id);
    }

    /// The message, if it was known.
    fn deleted(&mut self, id: &str) -> io::Result<Option<Live>> {
        self.write(&Line::Deleted { id: id.to_owned() })?;
        let live = self.live.remove(id);
        for receipt in live.iter().flat_map(|live| &live.receipts) {
            self.receipts.remove(receipt);
        }
        self.compact()?;
        Ok(live)
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.append(line))
    }

    /// Rewrites the file once most of its lines are about deleted messages.
    fn compact(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if file.lines < COMPACT_FROM_LINES || file.lines < self.live.len().saturating_mul(4) {
            return Ok(());
        }
        let path = file.path.clone();
        let mut next = JournalFile::create(&path.with_extension("new"))?;
        for (id, live) in &self.live {
            next.append(&Line::Sent { id: id.clone(), request: live.request.clone() })?;
        }
        fs::rename(&next.path, &path)?;
        self.file = Some(JournalFile { path, ..next });
        Ok(())
    }
}

/// A journal with fewer lines is left as it is.
const COMPACT_FROM_LINES: usize = 1_000;

#[derive(Debug)]
struct JournalFile {
    path: PathBuf,
    file: File,
    lines: usize,
    bytes: u64,
}

impl JournalFile {
    fn create(path: &Path) -> io::Result<Self> {
        fs::write(path, "")?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, lines: 0, bytes: 0 })
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // Half a line would damage the next one. If this fails too, so will that one.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.lines += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// What becomes of a message in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalChange {
    /// It stays.
    Kept,
    /// It goes.
    Removed,
    /// This request takes its place.
    Replaced(String),
}

/// Hands each `SendMessage` request in a journal to `take`, as JSON, also those of messages that were deleted since:
/// their bytes are still in the file.
///
/// # Errors
///
/// [`LocalSqsError`] if the journal cannot be read, or is damaged.
pub fn each_in_journal(path: &Path, mut take: impl FnMut(&str)) -> Result<(), LocalSqsError> {
    each_line(path, |_, line| {
        if let Line::Sent { request, .. } = line {
            take(request.get());
        }
    })
}

/// Writes a journal anew: without the messages that were deleted, and with `change` applied to each of the others. No
/// pipeline may run on it meanwhile. Does nothing if the journal does not exist.
///
/// # Errors
///
/// [`LocalSqsError`] if the journal cannot be read or written, or is damaged; then it stays as it was.
pub fn rewrite_journal(
    path: &Path,
    mut change: impl FnMut(&str) -> JournalChange,
) -> Result<(), LocalSqsError> {
    let io_error = |source| LocalSqsError::Journal { path: path.to_owned(), source };
    if !path.try_exists().map_err(io_error)? {
        return Ok(());
    }
    let mut next = JournalFile::create(&path.with_extension("new")).map_err(io_error)?;
    for (id, request) in read_journal(path)? {
        let request = match change(request.get()) {
            JournalChange::Kept => request,
            JournalChange::Removed => continue,
            JournalChange::Replaced(request) => {
                RawValue::from_string(request).map_err(|error| io_error(error.into()))?
            }
        };
        next.append(&Line::Sent { id, request }).map_err(io_error)?;
    }
    fs::rename(&next.path, path).map_err(io_error)
}

/// The SQS message ids and the requests of the messages that were sent and not deleted, in the order of their sends.
fn read_journal(path: &Path) -> Result<Vec<(String, Box<RawValue>)>, LocalSqsError> {
    let mut kept: HashMap<String, (usize, Box<RawValue>)> = HashMap::new();
    each_line(path, |index, line| match line {
        Line::Sent { id, request } => {
            kept.insert(id, (index, request));
        }
        Line::Deleted { id } => {
            kept.remove(&id);
        }
    })?;
    let mut kept: Vec<_> = kept.into_iter().collect();
    kept.sort_unstable_by_key(|(_, (index, _))| *index);
    Ok(kept.into_iter().map(|(id, (_, request))| (id, request)).collect())
}

/// The lines of a journal, from 0; none if it does not exist.
fn each_line(path: &Path, mut take: impl FnMut(usize, Line)) -> Result<(), LocalSqsError> {
    let io_error = |source| LocalSqsError::Journal { path: path.to_owned(), source };
    let journal = match fs::read(path) {
        Ok(journal) => journal,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
    };
    for (index, line) in journal.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(line) => take(index, line),
            // The process was killed in the middle of the last line, before that was confirmed.
            Err(_) if !line.ends_with(b"\n") => break,
            Err(_) => return Err(LocalSqsError::Damaged { path: path.to_owned(), line: index + 1 }),
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is the laptop's edge, where SQS would read the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Box<RawValue> {
        RawValue::from_string(format!("{{\"MessageBody\":\"{body}\"}}")).unwrap()
    }

    fn journal(folder: &Path) -> Journal {
        let file = JournalFile::create(&folder.join("queues.jsonl")).unwrap();
        Journal { file: Some(file), ..Journal::default() }
    }

    fn kept(folder: &Path) -> Vec<String> {
        let kept = read_journal(&folder.join("queues.jsonl")).unwrap();
        kept.iter().map(|(_, request)| request.to_string()).collect()
    }

    fn delete(journal: &mut Journal, id: &str) {
        journal.received("receipt".to_owned(), id.to_owned());
        journal.deleted(id).unwrap();
        assert!(journal.receipts.is_empty());
    }

    #[test]
    fn what_was_sent_and_not_deleted_is_kept_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        for id in ["a", "b", "c"] {
            journal.sent(id, request(id)).unwrap();
        }
        delete(&mut journal, "b");
        assert_eq!(kept(folder.path()), [r#"{"MessageBody":"a"}"#, r#"{"MessageBody":"c"}"#]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_even_within_a_character() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        journal.sent("a", request("a")).unwrap();
        let mut file = OpenOptions::new().append(true).open(folder.path().join("queues.jsonl")).unwrap();
        file.write_all(b"{\"sent\":{\"id\":\"b\",\"request\":{\"MessageBody\":\"\xF0\x9F").unwrap();
        assert_eq!(kept(folder.path()), [r#"{"MessageBody":"a"}"#]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.jsonl");
        fs::write(&path, "{\"deleted\":{\"id\":\"a\"}}\nnonsense\n").unwrap();
        let error = read_journal(&path).unwrap_err().to_string();
        assert!(error.contains("is damaged in line 2"), "{error}");
    }

    #[test]
    fn a_rewritten_journal_has_no_byte_of_what_was_deleted_removed_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.jsonl");
        rewrite_journal(&path, |_| JournalChange::Removed).unwrap();
        assert!(!path.exists());
        let mut journal = journal(folder.path());
        for id in ["first", "second", "third", "fourth"] {
            journal.sent(id, request(id)).unwrap();
        }
        delete(&mut journal, "first");
        let mut all = Vec::new();
        each_in_journal(&path, |request| all.push(request.to_owned())).unwrap();
        assert_eq!(all.len(), 4);
        let change = |request: &str| match request {
            r#"{"MessageBody":"second"}"# => JournalChange::Removed,
            r#"{"MessageBody":"third"}"# => JournalChange::Replaced(r#"{"MessageBody":"3"}"#.to_owned()),
            _ => JournalChange::Kept,
        };
        rewrite_journal(&path, change).unwrap();
        assert_eq!(kept(folder.path()), [r#"{"MessageBody":"3"}"#, r#"{"MessageBody":"fourth"}"#]);
        let bytes = fs::read_to_string(&path).unwrap();
        assert!(!bytes.contains("first") && !bytes.contains("second"), "{bytes}");
        // Its name is the id that SQS gave it.
        assert_eq!(bytes.matches("third").count(), 1, "{bytes}");
        // What is not JSON leaves the journal as it was.
        rewrite_journal(&path, |_| JournalChange::Replaced("{".to_owned())).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn the_messages_of_one_start_are_there_at_the_next_and_the_one_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.jsonl");
        let sent = format!(r#"{{"QueueUrl":"{}","MessageBody":"a"}}"#, LocalSqs::queue_url("q"));
        for start in 1..=3 {
            let queues = [("q", QueueSettings { visibility_timeout_s: 30, dead_letters: None })];
            let sqs = LocalSqs::start(&queues, Some(&path), None).await.unwrap();
            sqs.engine.call("SendMessage", Bytes::from(sent.clone())).await;
            assert_eq!(sqs.messages_sent_to("q").await, start);
            assert_eq!(kept(folder.path()).len(), start);
            let mut journal = sqs.engine.journal.lock().await;
            let file = journal.file.as_mut().unwrap();
            assert_eq!(file.path, path);
            file.lines = COMPACT_FROM_LINES;
            journal.compact().unwrap();
            drop(journal);
            assert_eq!(kept(folder.path()).len(), start);
        }
    }

    #[tokio::test]
    async fn a_send_that_the_journal_cannot_keep_is_not_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.jsonl");
        let queues = [("q", QueueSettings { visibility_timeout_s: 30, dead_letters: None })];
        let sqs = LocalSqs::start(&queues, Some(&path), None).await.unwrap();
        let read_only = File::open(&path).unwrap();
        sqs.engine.journal.lock().await.file.as_mut().unwrap().file = read_only;
        let send = format!(r#"{{"QueueUrl":"{}","MessageBody":"a"}}"#, LocalSqs::queue_url("q"));
        assert_eq!(sqs.engine.call("SendMessage", Bytes::from(send)).await.status, 500);
        assert_eq!(sqs.messages_sent_to("q").await, 0);
    }

    #[tokio::test]
    async fn a_queue_that_cannot_be_made_is_an_error() {
        let error = LocalSqs::start(&[("no name", QueueSettings::default())], None, None).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot create the queue `no name`: the embedded SQS answered 400");
    }

    #[test]
    fn the_file_stays_small_though_a_message_stays_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        journal.sent("stays", request("stays")).unwrap();
        for number in 0..10_000 {
            let id = number.to_string();
            journal.sent(&id, request(&id)).unwrap();
            delete(&mut journal, &id);
        }
        assert_eq!(kept(folder.path()), [r#"{"MessageBody":"stays"}"#]);
        assert!(fs::metadata(folder.path().join("queues.jsonl")).unwrap().len() < 100_000);
    }
}
