//! A proxy in front of an engine: it fails some calls, loses some answers, and forgets idle connections, as AWS does.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::fake_aws::{head, respond};

/// What the proxy does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It passes the call and the answer on.
    None,
    /// It answers that there are too many calls.
    Throttled,
    /// It answers 500.
    Failed,
    /// The call is carried out. The connection closes before the answer.
    AnswerLost,
    /// The call is carried out half a second later.
    Late,
}

/// A running proxy.
#[derive(Debug)]
pub struct Faulty {
    endpoint: String,
    calls: Arc<Mutex<BTreeMap<Fault, u32>>>,
}

impl Faulty {
    /// Starts one in front of the emulator at `endpoint`. It closes connections that are idle for `idle`, and asks
    /// `choose` about each call.
    pub async fn start(endpoint: &str, idle: Duration, choose: fn() -> Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let emulator = endpoint.trim_start_matches("http://").to_owned();
        let calls = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let counts = calls.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (emulator, counts) = (emulator.clone(), counts.clone());
                let count = move |fault| {
                    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(fault).or_default() += 1;
                };
                tokio::spawn(async move {
                    // Connections that end badly are the purpose of this.
                    let _ = serve(client, &emulator, idle, || {
                        let fault = choose();
                        count(fault);
                        fault
                    })
                    .await;
                });
            }
        });
        Self { endpoint: format!("http://{address}"), calls }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many calls had each fault.
    pub fn calls(&self) -> BTreeMap<Fault, u32> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    mut client: TcpStream,
    emulator: &str,
    idle: Duration,
    mut choose: impl FnMut() -> Fault,
) -> io::Result<()> {
    let mut server = TcpStream::connect(emulator).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (mut of_client, mut of_server) = (Vec::new(), Vec::new());
    loop {
        let Ok(request) = timeout(idle, read_message(&mut client, &mut of_client)).await else {
            return Ok(());
        };
        let Some(request) = request? else { return Ok(()) };
        let refusal = |code: &str| json!({ "__type": code, "message": "on purpose" }).to_string();
        let fault = choose();
        match fault {
            Fault::Throttled => {
                respond(&mut client, 400, &refusal("ThrottlingException"), 0).await?;
                continue;
            }
            Fault::Failed => {
                respond(&mut client, 500, &refusal("InternalServerError"), 0).await?;
                continue;
            }
            Fault::Late => sleep(Duration::from_millis(500)).await,
            Fault::None | Fault::AnswerLost => {}
        }
        server.write_all(&request).await?;
        let answer = read_message(&mut server, &mut of_server).await?;
        match answer {
            Some(answer) if fault != Fault::AnswerLost => client.write_all(&answer).await?,
            Some(_) | None => return Ok(()),
        }
    }
}

/// The next request or answer, whose body has a stated length; `None` if the connection ends before it.
async fn read_message(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some((head, length)) = head(received) {
            assert!(!head.contains("transfer-encoding"), "the length is not stated: {head}");
            let end = head.len() + length;
            if received.len() >= end {
                return Ok(Some(received.drain(..end).collect()));
            }
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}
