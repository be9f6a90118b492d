//! The side of Lambda that a function talks to: the Runtime API, version 2018-06-01.
//! Source: AWS Lambda developer guide, "Using the Lambda runtime API for custom runtimes".

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// How long a function may take to answer before the test gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// How much time an invocation is told that it has, unless the test says otherwise.
const INVOCATION_TIME: Duration = Duration::from_secs(10);

/// One function process, as Lambda runs it.
#[derive(Debug)]
pub struct Function {
    events: mpsc::Sender<Value>,
    outcomes: mpsc::Receiver<Outcome>,
    process: Child,
    /// Its output, read all the time: a full pipe would block it.
    output: [JoinHandle<Vec<u8>>; 2],
}

/// The result of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function's answer.
    Response(Value),
    /// The function reported an error for this invocation.
    Error(Value),
}

impl Function {
    /// Starts `program` with these variables beside those that Lambda sets.
    pub async fn start(program: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start_with_timeout(program, variables, INVOCATION_TIME).await
    }

    /// The same, with this much time for an invocation, which is announced but not enforced.
    pub async fn start_with_timeout(program: &Path, variables: &[(&str, &str)], timeout: Duration) -> Self {
        let (events, receiver) = mpsc::channel(1);
        let (sender, outcomes) = mpsc::channel(1);
        let lambda = Arc::new(Lambda { events: Mutex::new(receiver), outcomes: sender, timeout });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address").to_string();
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(lambda);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut process = Command::new(program)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "test")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "000000000000")
            .env("AWS_SECRET_ACCESS_KEY", "none")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the function can be run");
        let output = [
            tokio::spawn(read_all(process.stdout.take().expect("it is piped"))),
            tokio::spawn(read_all(process.stderr.take().expect("it is piped"))),
        ];
        Self { events, outcomes, process, output }
    }

    /// Ends the process at once, in the middle of its work: SIGKILL.
    pub async fn kill(mut self) {
        self.process.kill().await.expect("the process is ours");
    }

    /// Freezes the process, as Lambda does with an environment between two invocations: SIGSTOP.
    pub async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    /// Lets the process continue: SIGCONT.
    pub async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let id = self.process.id().expect("the process runs").to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await;
        assert!(sent.expect("the machine has `kill`").success());
    }

    /// How much memory it occupies, in KiB; `None` on a system without `/proc`.
    pub fn resident_kib(&self) -> Option<u64> {
        let id = self.process.id().expect("the process runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        resident.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Passes an event to the function and waits for the result.
    pub async fn invoke(&mut self, event: Value) -> Outcome {
        self.events.send(event).await.expect("the Runtime API runs");
        let outcome = tokio::time::timeout(ANSWER_TIMEOUT, self.outcomes.recv()).await;
        outcome.expect("the function answers in time").expect("the Runtime API runs")
    }

    /// Ends the process and returns everything that it wrote.
    pub async fn into_output(mut self) -> String {
        // Fails if the process has ended by itself.
        let _ = self.process.start_kill();
        self.wait_output().await
    }

    /// Waits for the process to end by itself and returns everything that it wrote.
    pub async fn wait_output(mut self) -> String {
        let ended = tokio::time::timeout(ANSWER_TIMEOUT, self.process.wait()).await;
        ended.expect("the process ends in time").expect("the process is ours");
        let mut text = String::new();
        for output in self.output {
            text.push_str(&String::from_utf8_lossy(&output.await.expect("its output can be read")));
        }
        text
    }
}

/// Invocation ids are unique over all processes.
static INVOCATIONS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
struct Lambda {
    events: Mutex<mpsc::Receiver<Value>>,
    outcomes: mpsc::Sender<Outcome>,
    timeout: Duration,
}

async fn read_all(mut output: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).await.expect("a pipe can be read");
    bytes
}

async fn next(State(lambda): State<Arc<Lambda>>) -> Response {
    let Some(event) = lambda.events.lock().await.recv().await else {
        // The test has ended; the process is about to be killed.
        return std::future::pending().await;
    };
    let number = INVOCATIONS.fetch_add(1, Ordering::Relaxed);
    let deadline_ms = crate::signing::now().as_millis() + lambda.timeout.as_millis();
    let headers = [
        ("lambda-runtime-aws-request-id", format!("request-{number}")),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:0:function:test".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0".to_owned()),
    ];
    (headers, event.to_string()).into_response()
}

async fn response(state: State<Arc<Lambda>>, _: UrlPath<String>, body: String) {
    report(state, Outcome::Response, &body).await;
}

async fn error(state: State<Arc<Lambda>>, _: UrlPath<String>, body: String) {
    report(state, Outcome::Error, &body).await;
}

async fn report(State(lambda): State<Arc<Lambda>>, outcome: fn(Value) -> Outcome, body: &str) {
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    // The test may have given up.
    let _ = lambda.outcomes.send(outcome(body)).await;
}
