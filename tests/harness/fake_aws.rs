//! An AWS that fails on purpose: the calls of SQS and Secrets Manager that the receiver uses.
//!
//! It speaks HTTP over a bare socket, because it has to break the rules of HTTP servers: close a connection in the
//! middle, announce more than it sends, keep a caller waiting.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use learnink_local::sdk_config;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The fate of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// It is refused with this status and error code.
    Failed(u16, &'static str),
    /// It is carried out, but the answer is an error.
    DoneThenFailed(u16, &'static str),
    /// The connection closes without an answer.
    Dropped,
    /// It is carried out, then the connection closes without an answer.
    DoneThenDropped,
    /// There is no answer, and the connection stays open.
    Silent,
    /// It is carried out, and there is no answer.
    DoneThenSilent,
    /// The answer is a 200 that is not AWS's.
    Nonsense,
    /// The answer breaks off.
    CutOff,
}

impl Fate {
    /// Whether a message is on the queue after it.
    pub const fn stores(self) -> bool {
        matches!(
            self,
            Self::Answered | Self::DoneThenFailed(..) | Self::DoneThenDropped | Self::DoneThenSilent
        )
    }
}

/// A message that was stored.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its body.
    pub body: String,
    /// Its attributes' values.
    pub attributes: HashMap<String, String>,
}

/// Decides the fate of each call by its operation, such as `SendMessage`.
type Destiny = Box<dyn FnMut(&str) -> Fate + Send>;

struct State {
    destiny: Destiny,
    stored: Vec<StoredMessage>,
    secrets: HashMap<&'static str, String>,
    calls: HashMap<String, usize>,
    connections: usize,
    /// How long a connection may be idle before it is closed.
    idle: Duration,
}

/// A running AWS.
#[derive(Clone)]
pub struct FakeAws {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeAws {
    /// Starts one that answers every call.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let aws = Self::at(&listener);
        tokio::spawn(aws.clone().accept(listener));
        aws
    }

    /// The same on a thread of its own: it continues while the test's thread sleeps, as AWS does while an
    /// execution environment is frozen.
    pub fn start_apart() -> Self {
        let (sender, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                let aws = Self::at(&listener);
                // If nobody waits for it, the test has ended.
                let _ = sender.send(aws.clone());
                aws.accept(listener).await;
            });
        });
        started.recv().expect("it starts")
    }

    fn at(listener: &TcpListener) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let state = State {
            destiny: Box::new(|_| Fate::Answered),
            stored: Vec::new(),
            secrets: HashMap::new(),
            calls: HashMap::new(),
            connections: 0,
            idle: Duration::from_mins(1),
        };
        Self { endpoint: format!("http://{address}"), state: Arc::new(Mutex::new(state)) }
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            self.lock().connections += 1;
            let aws = self.clone();
            // Connections that end badly are the purpose of this.
            tokio::spawn(async move { aws.serve(stream).await });
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How to reach it.
    pub fn sdk_config(&self) -> SdkConfig {
        sdk_config(&self.endpoint)
    }

    /// The URL of its queue.
    pub fn queue_url(&self) -> String {
        format!("{}/000000000000/messages", self.endpoint)
    }

    /// Lets `destiny` decide about the calls from now on.
    pub fn decide(&self, destiny: impl FnMut(&str) -> Fate + Send + 'static) {
        self.lock().destiny = Box::new(destiny);
    }

    /// Sets the value that `GetSecretValue` returns for that stage.
    pub fn set_secret(&self, stage: &'static str, value: &str) {
        self.lock().secrets.insert(stage, value.to_owned());
    }

    /// As `PutSecretValue` does: the current value becomes the previous one.
    pub fn rotate_secret(&self, value: &str) {
        let mut state = self.lock();
        if let Some(replaced) = state.secrets.insert("AWSCURRENT", value.to_owned()) {
            state.secrets.insert("AWSPREVIOUS", replaced);
        }
    }

    /// Closes connections that have been idle that long.
    pub fn close_idle_after(&self, idle: Duration) {
        self.lock().idle = idle;
    }

    /// What was stored, in order.
    pub fn stored(&self) -> Vec<StoredMessage> {
        self.lock().stored.clone()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        self.lock().calls.get(operation).copied().unwrap_or_default()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut received = Vec::new();
        loop {
            let idle = self.lock().idle;
            let read = tokio::time::timeout(idle, read_request(&mut stream, &mut received)).await;
            let Ok(Some((operation, body))) = read.unwrap_or(Ok(None)) else { return Ok(()) };
            let (fate, status, answer) = self.decide_and_do(&operation, &body);
            let error = |code: &str| json!({ "__type": code, "message": "on purpose" }).to_string();
            match fate {
                Fate::Answered => respond(&mut stream, status, &answer.to_string(), 0).await?,
                Fate::Failed(status, code) | Fate::DoneThenFailed(status, code) => {
                    respond(&mut stream, status, &error(code), 0).await?;
                }
                Fate::Nonsense => respond(&mut stream, 200, "<html>welcome</html>", 0).await?,
                Fate::CutOff => return respond(&mut stream, 200, &answer.to_string(), 100).await,
                Fate::Dropped | Fate::DoneThenDropped => return Ok(()),
                Fate::Silent | Fate::DoneThenSilent => std::future::pending().await,
            }
        }
    }

    fn decide_and_do(&self, operation: &str, body: &Value) -> (Fate, u16, Value) {
        let mut state = self.lock();
        *state.calls.entry(operation.to_owned()).or_default() += 1;
        let fate = (state.destiny)(operation);
        let (status, answer) = match operation {
            "SendMessage" => {
                if fate.stores() {
                    state.stored.push(stored(body));
                }
                (200, json!({ "MessageId": "5fea7756-0ea4-451a-a703-a558b933e274" }))
            }
            "GetSecretValue" => match state.secrets.get(body["VersionStage"].as_str().unwrap_or_default()) {
                Some(value) => (200, json!({ "Name": "learnink/test", "SecretString": value })),
                None => (400, json!({ "__type": "ResourceNotFoundException" })),
            },
            _ => (200, json!({})),
        };
        (fate, status, answer)
    }
}

fn stored(body: &Value) -> StoredMessage {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let none = Map::new();
    let attributes = body["MessageAttributes"].as_object().unwrap_or(&none);
    let attributes = attributes.iter().map(|(name, value)| (name.clone(), text(&value["StringValue"])));
    StoredMessage { body: text(&body["MessageBody"]), attributes: attributes.collect() }
}

/// The operation and the JSON of the next call, or `None` if the connection ends.
async fn read_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<(String, Value)>> {
    loop {
        if let Some((head, length)) = head(received) {
            let end = head.len() + length;
            if let Some(body) = received.get(head.len()..end) {
                let body = serde_json::from_slice(body).unwrap_or_default();
                let target = header(&head, "x-amz-target").unwrap_or_default();
                let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
                received.drain(..end);
                return Ok(Some((operation, body)));
            }
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

/// The head of a request with its blank line, and the length of the body after it.
fn head(received: &[u8]) -> Option<(String, usize)> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(received.get(..end)?).into_owned();
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    Some((head, length))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut named = headers.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.trim())
}

/// Answers, and announces `missing` bytes more than it sends.
async fn respond(stream: &mut TcpStream, status: u16, body: &str, missing: usize) -> io::Result<()> {
    let length = body.len() + missing;
    let answer = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await
}
