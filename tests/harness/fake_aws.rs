//! An AWS that fails on purpose: the calls of SQS and Secrets Manager that the receiver uses.
//!
//! It speaks HTTP over a bare socket, because it has to break the rules of HTTP servers: close a connection in the
//! middle, announce more than it sends, answer twice, keep a caller waiting.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use learnink_local::sdk_config;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

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
    /// The answer breaks off before its headers have ended.
    HeadCutOff,
    /// The answer is not HTTP.
    NotHttp,
    /// The answer goes on and on, a byte at a time.
    Endless,
    /// The answer is 1 TB long.
    Huge,
    /// It is carried out, and the answer comes in chunks of a few bytes.
    Chunked,
    /// It is carried out, and the answer is HTTP/1.0, which ends with the connection.
    Http10,
    /// It is carried out, and the connection closes after the answer, which says so.
    Closing,
    /// It is carried out and answered twice.
    AnsweredTwice,
}

impl Fate {
    /// Whether a message is on the queue after it.
    pub const fn stores(self) -> bool {
        matches!(
            self,
            Self::Answered
                | Self::DoneThenFailed(..)
                | Self::DoneThenDropped
                | Self::DoneThenSilent
                | Self::Chunked
                | Self::Http10
                | Self::Closing
                | Self::AnsweredTwice
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
    closed: usize,
    /// How many of the next requests are not read to their end.
    unread: usize,
    /// How long a connection may be idle before it is closed.
    idle: Duration,
}

/// A running AWS.
#[derive(Clone)]
pub struct FakeAws {
    endpoint: String,
    state: Arc<Mutex<State>>,
    tls: Option<TlsAcceptor>,
    /// Ends the connections that wait for a request.
    closing: Arc<Notify>,
}

/// A certificate that nobody trusts unless they are told to.
pub struct TestCertificate {
    /// The certificate as PEM, for those who trust it.
    pub pem: String,
    tls: TlsAcceptor,
}

impl TestCertificate {
    /// One for this machine: by name, and by address.
    pub fn for_this_machine() -> Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("the names are valid");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("the key was just made");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)
            });
        let config = config.expect("the certificate was just made");
        Self { pem: made.cert.pem(), tls: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl FakeAws {
    /// Starts one that answers every call.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1", None).await
    }

    /// The same at another address of this machine, with TLS if it has a certificate.
    pub async fn start_at(address: &str, certificate: Option<&TestCertificate>) -> Self {
        let listener = TcpListener::bind(format!("{address}:0")).await.expect("a port is free");
        let aws = Self::at(&listener, certificate.map(|certificate| certificate.tls.clone()));
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
                let aws = Self::at(&listener, None);
                // If nobody waits for it, the test has ended.
                let _ = sender.send(aws.clone());
                aws.accept(listener).await;
            });
        });
        started.recv().expect("it starts")
    }

    fn at(listener: &TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let state = State {
            destiny: Box::new(|_| Fate::Answered),
            stored: Vec::new(),
            secrets: HashMap::new(),
            calls: HashMap::new(),
            connections: 0,
            closed: 0,
            unread: 0,
            idle: Duration::from_mins(1),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self {
            endpoint: format!("{scheme}://{address}"),
            state: Arc::new(Mutex::new(state)),
            tls,
            closing: Arc::default(),
        }
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            self.lock().connections += 1;
            // Or a second answer would wait until the next request is sent, and pass for its answer.
            let _ = stream.set_nodelay(true);
            let aws = self.clone();
            tokio::spawn(async move {
                // Connections that end badly are the purpose of this.
                let _ = match &aws.tls {
                    None => aws.serve(stream).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => aws.serve(stream).await,
                        Err(error) => Err(error),
                    },
                };
                aws.lock().closed += 1;
            });
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

    /// Closes the connections that wait for a request.
    pub fn close_connections(&self) {
        self.closing.notify_waiters();
    }

    /// Reads only a part of the next `requests` requests, and then closes their connections.
    pub fn leave_unread(&self, requests: usize) {
        self.lock().unread = requests;
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

    /// How many of them it has closed.
    pub fn closed(&self) -> usize {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut received = Vec::new();
        loop {
            let idle = self.lock().idle;
            let read = tokio::select! {
                read = self.read_request(&mut stream, &mut received) => read,
                () = tokio::time::sleep(idle) => Ok(None),
                () = self.closing.notified() => Ok(None),
            };
            let Ok(Some((operation, body))) = read else { return Ok(()) };
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
                Fate::HeadCutOff => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-").await,
                Fate::NotHttp => stream.write_all(b"220 mail.example.org ready\r\n").await?,
                Fate::Endless => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                    loop {
                        stream.write_all(b"1\r\n \r\n").await?;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                Fate::Huge => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n").await?;
                    loop {
                        stream.write_all(&[b' '; 8 * 1024]).await?;
                    }
                }
                Fate::Chunked => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                    for chunk in answer.to_string().as_bytes().chunks(7) {
                        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
                        stream.write_all(&framed).await?;
                    }
                    stream.write_all(b"0\r\n\r\n").await?;
                }
                Fate::Http10 => {
                    return stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{answer}").as_bytes()).await;
                }
                Fate::Closing => {
                    let head = format!("content-length: {}\r\nconnection: close", answer.to_string().len());
                    return stream
                        .write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{answer}").as_bytes())
                        .await;
                }
                Fate::AnsweredTwice => {
                    respond(&mut stream, status, &answer.to_string(), 0).await?;
                    respond(&mut stream, status, &answer.to_string(), 0).await?;
                }
            }
        }
    }

    /// The operation and the JSON of the next call, or `None` if the connection ends.
    async fn read_request(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        received: &mut Vec<u8>,
    ) -> io::Result<Option<(String, Value)>> {
        loop {
            if let Some((head, length)) = head(received) {
                if let Some(others) = self.unread_left() {
                    self.lock().unread = others;
                    return Ok(None);
                }
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

    /// How many requests are left unread after this one, if this one is.
    fn unread_left(&self) -> Option<usize> {
        self.lock().unread.checked_sub(1)
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

/// The head of a request or an answer with its blank line, and the length of the body after it.
pub(crate) fn head(received: &[u8]) -> Option<(String, usize)> {
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
pub(crate) async fn respond(
    stream: &mut (impl AsyncWrite + Unpin),
    status: u16,
    body: &str,
    missing: usize,
) -> io::Result<()> {
    let length = body.len() + missing;
    let answer = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await
}
