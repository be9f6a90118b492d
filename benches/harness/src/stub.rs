//! A replacement for the AWS services that a function calls: quick, and over TLS, because the handshake is a large
//! part of a cold start's cost.
//!
//! It answers SQS, Secrets Manager and DynamoDB, in AWS JSON 1.0 and 1.1. It does not check signatures.
//! Source: Smithy, "AWS JSON 1.0 protocol" and "AWS JSON 1.1 protocol".

use std::mem;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::crypto::ring::default_provider;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dynamodb::{self, Call};
use crate::http::{Connection, Request};
use crate::sqs::Message;

/// The name of the secret that the stub knows.
pub(crate) const SECRET_ID: &str = "learnink/bench";

/// The stub, which runs until the process ends.
#[derive(Debug)]
pub(crate) struct Stub {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The functions' requests since the last look, and how they are answered.
#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    calls: Vec<Call>,
    dynamodb_takes: Duration,
}

impl Stub {
    /// Listens on a free port, with the certificate in this folder. `secret` is what Secrets Manager has.
    ///
    /// # Errors
    ///
    /// When the certificate or its key cannot be used, or there is no port.
    pub(crate) fn start(certificates: &Path, secret: &'static str) -> anyhow::Result<Self> {
        let tls = Arc::new(tls_config(certificates)?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the AWS stub")?;
        let port = listener.local_addr()?.port();
        let state = Arc::<Mutex<State>>::default();
        let services = Services { secret, state: state.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, services) = (tls.clone(), services.clone());
                // A connection ends with an error when the process is killed, which is the normal end.
                thread::spawn(move || drop(serve(stream, tls, &services)));
            }
        });
        Ok(Self { port, state })
    }

    /// The value of the `AWS_ENDPOINT_URL_*` variables. The certificate is for this name.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The messages that were sent since the last time.
    pub(crate) fn take_messages(&self) -> Vec<Message> {
        mem::take(&mut lock(&self.state).messages)
    }

    /// The requests to DynamoDB since the last time.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        mem::take(&mut lock(&self.state).calls)
    }

    /// From now on, DynamoDB's answers take this long.
    pub(crate) fn slow_down_dynamodb(&self, takes: Duration) {
        lock(&self.state).dynamodb_takes = takes;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tls_config(certificates: &Path) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificates.join("chain.pem"))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("no certificates in {}", certificates.display()))?;
    let key = PrivateKeyDer::from_pem_file(certificates.join("server.key"))
        .with_context(|| format!("no key in {}", certificates.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn serve(stream: TcpStream, tls: Arc<ServerConfig>, services: &Services) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(StreamOwned::new(ServerConnection::new(tls)?, stream));
    while let Some(request) = connection.read_request()? {
        let (status, body) = match services.answer(&request) {
            Ok(body) => (200, body),
            Err(body) => (400, body),
        };
        let headers = [
            // As in the request: SQS and DynamoDB use 1.0, Secrets Manager 1.1.
            ("content-type", request.header("content-type").unwrap_or("application/x-amz-json-1.0")),
            ("x-amzn-requestid", "b25f48e8-84fd-11e6-80d9-574e0c4664cb"),
        ];
        connection.respond(status, &headers, body.to_string().as_bytes())?;
    }
    Ok(())
}

#[derive(Debug, Clone)]
struct Services {
    secret: &'static str,
    state: Arc<Mutex<State>>,
}

impl Services {
    /// The answer: a result, or an error.
    fn answer(&self, request: &Request) -> Result<Value, Value> {
        let target = request.header("x-amz-target").unwrap_or_default();
        if let Some(operation) = target.strip_prefix("DynamoDB_20120810.") {
            return self.dynamodb(operation, &request.body);
        }
        match target {
            "AmazonSQS.SendMessage" => self.send_message(&request.body),
            "AmazonSQS.GetQueueAttributes" => Ok(json!({"Attributes": {}})),
            "AmazonSQS.ChangeMessageVisibility" => Ok(json!({})),
            "secretsmanager.GetSecretValue" => self.secret_value(&request.body),
            operation => Err(error("UnknownOperationException", operation)),
        }
    }

    fn dynamodb(&self, operation: &str, body: &[u8]) -> Result<Value, Value> {
        let arrived = Instant::now();
        let answer = dynamodb::answer(operation, body);
        let takes = lock(&self.state).dynamodb_takes;
        thread::sleep(takes);
        // Noted before it is sent, so that a request that follows the answer cannot arrive earlier.
        lock(&self.state).calls.push(Call { arrived, answered: Instant::now(), body: body.to_vec() });
        answer
    }

    fn send_message(&self, body: &[u8]) -> Result<Value, Value> {
        let message: Message = parse(body)?;
        let sent = json!(message.sent());
        lock(&self.state).messages.push(message);
        Ok(sent)
    }

    /// A secret that was never changed: it does not have a previous value.
    fn secret_value(&self, body: &[u8]) -> Result<Value, Value> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct GetSecretValue {
            secret_id: String,
            #[serde(default = "current")]
            version_stage: String,
        }

        fn current() -> String {
            "AWSCURRENT".to_owned()
        }

        let request: GetSecretValue = parse(body)?;
        if request.secret_id != SECRET_ID || request.version_stage != current() {
            let problem = "Secrets Manager can't find the specified secret value for staging label";
            return Err(error("ResourceNotFoundException", problem));
        }
        Ok(json!({
            "ARN": format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{SECRET_ID}-a1b2c3"),
            "CreatedDate": 1_762_423_138.233,
            "Name": SECRET_ID,
            "SecretString": self.secret,
            "VersionId": "a1b2c3d4-5678-90ab-cdef-111112222233",
            "VersionStages": [current()],
        }))
    }
}

/// Reads a function's request; if it cannot be read, the result is AWS's error answer.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Value> {
    serde_json::from_slice(body).map_err(|problem| error("SerializationException", &problem.to_string()))
}

/// An error answer of AWS.
pub(crate) fn error(code: &str, message: &str) -> Value {
    json!({"__type": code, "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        Services { secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", state: Arc::default() }
    }

    fn get_secret_value(request: &Value) -> Result<Value, Value> {
        services().secret_value(request.to_string().as_bytes())
    }

    #[test]
    fn the_secret_has_a_current_value() {
        for request in
            [json!({"SecretId": SECRET_ID}), json!({"SecretId": SECRET_ID, "VersionStage": "AWSCURRENT"})]
        {
            let secret = get_secret_value(&request).unwrap();
            assert_eq!(secret["SecretString"], "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        }
    }

    #[test]
    fn the_secret_has_no_previous_value_and_there_is_no_other() {
        for request in
            [json!({"SecretId": SECRET_ID, "VersionStage": "AWSPREVIOUS"}), json!({"SecretId": "another"})]
        {
            assert_eq!(get_secret_value(&request).unwrap_err()["__type"], "ResourceNotFoundException");
        }
    }

    #[test]
    fn a_message_is_kept_as_it_was_sent() {
        let services = services();
        services.send_message(br#"{"MessageBody":"{\"a\":1}"}"#).unwrap();
        let state = lock(&services.state);
        let payloads: Vec<_> = state.messages.iter().map(|message| message.payload().unwrap()).collect();
        assert_eq!(payloads, [br#"{"a":1}"#]);
    }

    #[test]
    fn requests_to_dynamodb_are_noted_with_their_times() {
        let services = services();
        lock(&services.state).dynamodb_takes = Duration::from_millis(2);
        services.dynamodb("PutItem", b"{}").unwrap();
        let state = lock(&services.state);
        let [call] = state.calls.as_slice() else { panic!("{:?}", state.calls) };
        assert!(call.answered.duration_since(call.arrived) >= Duration::from_millis(2));
        assert_eq!(call.body, b"{}");
    }
}
