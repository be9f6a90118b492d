//! SQS on a laptop: `winterbaume-sqs` behind HTTP, with a journal.
//!
//! The engine keeps everything in memory. A webhook that was answered with 200 has to outlive the
//! process, so a message is in the journal before its send is confirmed, until it is deleted. At
//! the next start the journal's messages are sent again: they have new SQS message ids and receive
//! counts, as after a redrive.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use winterbaume_core::{MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

/// SQS takes messages of 1 MiB; in JSON and with attributes a request may be several times that.
const LARGEST_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// An SQS that listens on this machine until it is dropped.
#[derive(Debug)]
pub struct LocalSqs {
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

/// The embedded SQS could not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalSqsError {
    /// No port could be had.
    #[error("cannot listen on this machine: {0}")]
    Listen(#[source] io::Error),
    /// The journal cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the journal is not one that this program writes.
    #[error("{} is damaged in line {line}; move it away to start with empty queues", path.display())]
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
    /// Starts an SQS with the given queues, and sends again what `journal` holds for them. Without
    /// a journal the messages end with the process.
    ///
    /// # Errors
    ///
    /// [`LocalSqsError`] when no port can be had or the journal cannot be used.
    pub async fn start(
        queues: &[(&str, QueueSettings)],
        journal: Option<&Path>,
    ) -> Result<Self, LocalSqsError> {
        let engine = Engine { service: SqsService::new(), journal: Mutex::default() };
        for (name, settings) in queues {
            let created = engine.call("CreateQueue", settings.create_queue(name).into()).await;
            debug_assert_eq!(created.status, 200, "a queue that this crate describes can be created");
        }
        if let Some(path) = journal {
            engine.restore(path).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(LocalSqsError::Listen)?;
        let address = listener.local_addr().map_err(LocalSqsError::Listen)?;
        let router = Router::new().fallback(answer).with_state(Arc::new(engine));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the embedded SQS stopped");
            }
        });
        Ok(Self { endpoint: format!("http://{address}"), server })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URL of a queue.
    pub fn queue_url(name: &str) -> String {
        format!("https://sqs.{}.amazonaws.com/{ACCOUNT}/{name}", crate::REGION)
    }
}

/// The engine's own account.
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

struct Engine {
    service: SqsService,
    journal: Mutex<Journal>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    message_id: String,
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
struct DeleteBatch {
    entries: Vec<Delete>,
}

impl Engine {
    /// Carries out one SQS action and keeps the journal. Only the actions that this program uses
    /// are journalled: a batch of sends is refused rather than forgotten at the next start.
    async fn call(&self, action: &str, body: Bytes) -> MockResponse {
        if matches!(action, "SendMessageBatch" | "PurgeQueue" | "StartMessageMoveTask") {
            return error_response("NotOnThisMachine");
        }
        let response = self.forward(action, body.clone()).await;
        if response.status == 200 && self.note(action, &body, &response.body).is_err() {
            // Not confirmed, so that the sender tries again.
            return error_response("JournalNotWritten");
        }
        response
    }

    async fn forward(&self, action: &str, body: Bytes) -> MockResponse {
        let mut headers = http::HeaderMap::new();
        let Ok(target) = format!("AmazonSQS.{action}").parse() else {
            return error_response("InvalidAction");
        };
        headers.insert("x-amz-target", target);
        let uri = format!("https://sqs.{}.amazonaws.com/", crate::REGION);
        self.service.handle(MockRequest { method: "POST".to_owned(), uri, headers, body }).await
    }

    fn note(&self, action: &str, request: &[u8], response: &[u8]) -> io::Result<()> {
        let mut journal = self.journal();
        match action {
            "SendMessage" => {
                let sent: Sent = serde_json::from_slice(response)?;
                journal.sent(sent.message_id, serde_json::from_slice(request)?)
            }
            "ReceiveMessage" => {
                let received: Received = serde_json::from_slice(response)?;
                for message in received.messages.unwrap_or_default() {
                    journal.receipts.insert(message.receipt_handle, message.message_id);
                }
                Ok(())
            }
            "DeleteMessage" => journal.deleted(&serde_json::from_slice::<Delete>(request)?),
            "DeleteMessageBatch" => {
                let batch: DeleteBatch = serde_json::from_slice(request)?;
                batch.entries.iter().try_for_each(|entry| journal.deleted(entry))
            }
            _ => Ok(()),
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends again what the journal holds, into a new journal that then takes its place.
    async fn restore(&self, path: &Path) -> Result<(), LocalSqsError> {
        let io_error = |source| LocalSqsError::Journal { path: path.to_owned(), source };
        let kept = read_journal(path)?;
        let next = path.with_extension("new");
        fs::write(&next, "").map_err(io_error)?;
        let file = OpenOptions::new().append(true).open(&next);
        self.journal().file = Some(file.map_err(io_error)?);
        for request in kept {
            let request = Bytes::from(String::from(Box::<str>::from(request)));
            let sent = self.call("SendMessage", request).await;
            if sent.status != 200 {
                return Err(io_error(io::Error::other("a message cannot be sent again")));
            }
        }
        fs::rename(&next, path).map_err(io_error)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Sent { id: String, request: Box<RawValue> },
    Deleted { id: String },
}

#[derive(Default)]
struct Journal {
    file: Option<File>,
    /// How many messages were sent and not deleted.
    live: usize,
    /// Which message a receipt handle stands for. Those of deleted messages are dropped with them.
    receipts: HashMap<String, String>,
}

impl Journal {
    fn sent(&mut self, id: String, request: Box<RawValue>) -> io::Result<()> {
        self.live += 1;
        self.write(&Line::Sent { id, request })
    }

    fn deleted(&mut self, delete: &Delete) -> io::Result<()> {
        let Some(id) = self.receipts.get(&delete.receipt_handle).cloned() else { return Ok(()) };
        self.receipts.retain(|_, message_id| *message_id != id);
        self.live = self.live.saturating_sub(1);
        match &self.file {
            // Nothing is left to remember: start over, so that the file does not grow for ever.
            Some(file) if self.live == 0 => file.set_len(0),
            _ => self.write(&Line::Deleted { id }),
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        // One write, so that a process that is killed leaves at most one torn line, the last.
        file.write_all(&bytes)
    }
}

/// The requests of the messages that were sent and not deleted, in the order of their sends.
fn read_journal(path: &Path) -> Result<Vec<Box<RawValue>>, LocalSqsError> {
    let io_error = |source| LocalSqsError::Journal { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(error)),
    };
    let mut kept: HashMap<String, (usize, Box<RawValue>)> = HashMap::new();
    let mut reader = BufReader::new(file);
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        if reader.read_line(&mut text).map_err(io_error)? == 0 {
            break;
        }
        match serde_json::from_str(&text) {
            Ok(Line::Sent { id, request }) => {
                kept.insert(id, (line, request));
            }
            Ok(Line::Deleted { id }) => {
                kept.remove(&id);
            }
            // The process was killed in the middle of this line, before the send was confirmed.
            Err(_) if !text.ends_with('\n') => break,
            Err(_) => return Err(LocalSqsError::Damaged { path: path.to_owned(), line }),
        }
    }
    let mut kept: Vec<_> = kept.into_values().collect();
    kept.sort_unstable_by_key(|(line, _)| *line);
    Ok(kept.into_iter().map(|(_, request)| request).collect())
}
