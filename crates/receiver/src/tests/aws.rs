//! SQS and Secrets Manager on loopback, with the answers of a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::Value;

/// An answer: the status and the body.
pub(super) type Reply = (u16, Value);

/// A server for calls in AWS's JSON protocol, until the process ends.
pub(super) struct Aws {
    /// How to reach it.
    pub(super) config: SdkConfig,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Aws {
    /// Starts it. `reply` has the operation, such as `AmazonSQS.SendMessage`, and its input.
    pub(super) fn start(reply: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "key", "secret", None, None, "tests",
            )))
            .endpoint_url(format!("http://{}", listener.local_addr().unwrap()))
            .build();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (calls.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, reply) = (seen.clone(), reply.clone());
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some((operation, input)) = call(&mut stream) {
                        let (status, body) = reply(&operation, &input);
                        seen.lock().unwrap().push((operation, input));
                        let body = body.to_string();
                        let head = format!("HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n", body.len());
                        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
                    }
                });
            }
        });
        Self { config, calls }
    }

    /// The calls so far: the operation and its input.
    pub(super) fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().unwrap().clone()
    }
}

/// The next call on a connection; `None` at its end.
fn call(stream: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let (mut operation, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "x-amz-target" => value.clone_into(&mut operation),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((operation, serde_json::from_slice(&body).unwrap()))
}
