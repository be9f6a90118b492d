//! The side of Lambda that a function talks to: the Runtime API, version 2018-06-01, for one process.
//! Source: AWS Lambda developer guide, "Using the Lambda runtime API for custom runtimes".

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::Clock;
use crate::http::{Connection, Request};

/// How long a function may take to start or to answer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often a wait checks whether the process is alive.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How much time an invocation is told that it has.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The prefix of every path.
const ROOT: &str = "/2018-06-01/runtime/";

/// The Runtime API of one process. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeApi {
    address: SocketAddr,
    events: Sender<Vec<u8>>,
    signals: Receiver<Signal>,
    closed: Arc<AtomicBool>,
}

/// The result of an invocation.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The function's answer.
    pub(crate) answer: Answer,
    /// The time from passing the event until the answer.
    pub(crate) latency: Duration,
}

/// A function's answer to an event. Both are JSON.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Its response.
    Response(Vec<u8>),
    /// The error that it reported instead.
    Error(Vec<u8>),
}

/// A step of the process.
#[derive(Debug)]
enum Signal {
    /// It asks for the next event: it is ready.
    Asked(Instant),
    /// It gets an event.
    HandedOver(Instant),
    /// It has answered one.
    Answered(Instant, Answer),
    /// It cannot start, and reports why.
    InitFailed(String),
}

impl RuntimeApi {
    /// Listens on a free port.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub(crate) fn start(clock: Clock) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the Runtime API")?;
        let address = listener.local_addr()?;
        let (events, pending) = mpsc::channel();
        let (sender, signals) = mpsc::channel();
        let closed = Arc::new(AtomicBool::new(false));
        let pending = Arc::new(Mutex::new(pending));
        let is_closed = closed.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_closed.load(Ordering::Relaxed) {
                    break;
                }
                let server = Server { pending: pending.clone(), signals: sender.clone(), clock };
                // A connection ends with an error when the process is killed, which is the normal end.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        Ok(Self { address, events, signals, closed })
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits until the process asks for its first event, and returns when it did.
    ///
    /// # Errors
    ///
    /// When the process ends, reports that it cannot start, or takes too long.
    pub(crate) fn wait_until_ready(&self, is_alive: impl FnMut() -> bool) -> anyhow::Result<Instant> {
        match self.signal(is_alive)? {
            Signal::Asked(at) => Ok(at),
            other => bail!("expected the function to ask for an event, not {other:?}"),
        }
    }

    /// Passes an event to a process that is ready, and waits until it is ready again.
    ///
    /// # Errors
    ///
    /// When the process ends or takes too long.
    pub(crate) fn invoke(
        &self,
        event: Vec<u8>,
        mut is_alive: impl FnMut() -> bool,
    ) -> anyhow::Result<Invocation> {
        self.events.send(event)?;
        let Signal::HandedOver(handed_over) = self.signal(&mut is_alive)? else {
            bail!("the function did not wait for its event");
        };
        let Signal::Answered(answered, answer) = self.signal(&mut is_alive)? else {
            bail!("the function asked for another event before it answered one");
        };
        self.wait_until_ready(is_alive)?;
        Ok(Invocation { answer, latency: answered.duration_since(handed_over) })
    }

    fn signal(&self, mut is_alive: impl FnMut() -> bool) -> anyhow::Result<Signal> {
        let started = Instant::now();
        loop {
            match self.signals.recv_timeout(BETWEEN_LOOKS) {
                Ok(Signal::InitFailed(report)) => bail!("the function cannot start: {report}"),
                Ok(signal) => return Ok(signal),
                Err(RecvTimeoutError::Timeout) if !is_alive() => bail!("the function ended"),
                Err(RecvTimeoutError::Timeout) if started.elapsed() < LONGEST_WAIT => {}
                Err(RecvTimeoutError::Timeout) => bail!("nothing from the function within {LONGEST_WAIT:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the Runtime API ended"),
            }
        }
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over. It may have ended before.
        drop(TcpStream::connect(self.address));
    }
}

/// The server of one connection.
struct Server {
    pending: Arc<Mutex<Receiver<Vec<u8>>>>,
    signals: Sender<Signal>,
    clock: Clock,
}

impl Server {
    fn serve(self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = Connection::new(stream);
        while let Some(request) = connection.read_request()? {
            let now = Instant::now();
            match Call::of(&request) {
                Call::Next => self.hand_over(now, &mut connection)?,
                Call::Respond => self.accept(&mut connection, now, Answer::Response(request.body))?,
                Call::Fail => self.accept(&mut connection, now, Answer::Error(request.body))?,
                Call::FailInit => {
                    let report = String::from_utf8_lossy(&request.body).into_owned();
                    self.signals.send(Signal::InitFailed(report))?;
                    connection.respond(202, &[], ACCEPTED)?;
                }
                Call::Unknown => connection.respond(404, &[], b"{}")?,
            }
        }
        Ok(())
    }

    fn hand_over(&self, asked: Instant, connection: &mut Connection<TcpStream>) -> anyhow::Result<()> {
        self.signals.send(Signal::Asked(asked))?;
        // Fails when the bench is done with this process.
        let event = self.pending.lock().unwrap_or_else(PoisonError::into_inner).recv()?;
        let deadline = ((self.clock)() + TIME_LIMIT).duration_since(UNIX_EPOCH)?.as_millis().to_string();
        let headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
            ("lambda-runtime-deadline-ms", &deadline),
            ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:123456789012:function:bench"),
            ("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0"),
        ];
        self.signals.send(Signal::HandedOver(Instant::now()))?;
        Ok(connection.respond(200, &headers, &event)?)
    }

    fn accept(
        &self,
        connection: &mut Connection<TcpStream>,
        answered: Instant,
        answer: Answer,
    ) -> anyhow::Result<()> {
        self.signals.send(Signal::Answered(answered, answer))?;
        Ok(connection.respond(202, &[("content-type", "application/json")], ACCEPTED)?)
    }
}

/// Lambda's answer to everything that it accepts.
const ACCEPTED: &[u8] = br#"{"status":"OK"}"#;

/// A process's call to the Runtime API.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Next,
    Respond,
    Fail,
    FailInit,
    Unknown,
}

impl Call {
    fn of(request: &Request) -> Self {
        let path = request.path.strip_prefix(ROOT).unwrap_or_default();
        let words: Vec<&str> = path.split('/').collect();
        match (request.method.as_str(), words.as_slice()) {
            ("GET", ["invocation", "next"]) => Self::Next,
            ("POST", ["invocation", _, "response"]) => Self::Respond,
            ("POST", ["invocation", _, "error"]) => Self::Fail,
            ("POST", ["init", "error"]) => Self::FailInit,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::SystemTime;

    use super::*;

    /// A function that sends these requests one after the other, with any answers.
    fn function(address: SocketAddr, requests: &'static [&'static str]) -> thread::JoinHandle<Vec<String>> {
        thread::spawn(move || {
            let answers = requests.iter().map(|request| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            });
            answers.collect()
        })
    }

    const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n";
    const RESPONSE: &str =
        "POST /2018-06-01/runtime/invocation/a/response HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
    const INIT_ERROR: &str =
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\ncontent-length: 7\r\n\r\nno disk";

    #[test]
    fn an_event_is_handed_over_and_answered() {
        let api = RuntimeApi::start(|| SystemTime::UNIX_EPOCH).unwrap();
        let function = function(api.address, &[NEXT, RESPONSE, NEXT]);
        api.wait_until_ready(|| true).unwrap();
        let invocation = api.invoke(br#"{"a":1}"#.to_vec(), || true).unwrap();
        assert!(matches!(invocation.answer, Answer::Response(body) if body == b"{}"));
        // The last request is never answered: the bench is done with the function.
        drop(api);
        let answers = function.join().unwrap();
        assert!(answers[0].ends_with("\r\n\r\n{\"a\":1}"), "{}", answers[0]);
        assert!(answers[0].contains("lambda-runtime-deadline-ms: 30000\r\n"), "{}", answers[0]);
    }

    #[test]
    fn a_function_that_cannot_start_says_why() {
        let api = RuntimeApi::start(|| SystemTime::UNIX_EPOCH).unwrap();
        let function = function(api.address, &[INIT_ERROR]);
        let error = api.wait_until_ready(|| true).unwrap_err();
        assert_eq!(error.to_string(), "the function cannot start: no disk");
        function.join().unwrap();
    }

    #[test]
    fn a_function_that_ends_is_not_waited_for() {
        let api = RuntimeApi::start(|| SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(api.wait_until_ready(|| false).unwrap_err().to_string(), "the function ended");
    }
}
