//! A stand-in for the AWS services that a function calls: quick, and over TLS, because a handshake is
//! a good part of what a cold start costs.
//!
//! It answers SQS, Secrets Manager and DynamoDB, in AWS JSON 1.0 and 1.1. It checks no signature.
//! Source: Smithy, "AWS JSON 1.0 protocol" and "AWS JSON 1.1 protocol".

use std::mem;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use rustls::crypto::ring::default_provider;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Connection, Request};
use crate::sqs::Message;

/// The name of the secret that the stub knows.
pub(crate) const SECRET_ID: &str = "learnink/bench";

/// The stub, which runs until the process ends.
#[derive(Debug)]
pub(crate) struct Stub {
    port: u16,
    messages: Arc<Mutex<Vec<Message>>>,
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
        let messages = Arc::new(Mutex::new(Vec::new()));
        let services = Services { secret, messages: messages.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, services) = (tls.clone(), services.clone());
                // A connection ends with an error when the process is killed, which is how it ends.
                thread::spawn(move || drop(serve(stream, tls, &services)));
            }
        });
        Ok(Self { port, messages })
    }

    /// What the `AWS_ENDPOINT_URL_*` variables say. The certificate is for this name.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The messages that were sent since the last time.
    pub(crate) fn take_messages(&self) -> Vec<Message> {
        mem::take(&mut self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
            // As it was asked: SQS and DynamoDB speak 1.0, Secrets Manager 1.1.
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
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Services {
    /// The answer: a result, or an error.
    fn answer(&self, request: &Request) -> Result<Value, Value> {
        match request.header("x-amz-target").unwrap_or_default() {
            "AmazonSQS.SendMessage" => self.send_message(&request.body),
            "AmazonSQS.GetQueueAttributes" => Ok(json!({"Attributes": {}})),
            "secretsmanager.GetSecretValue" => self.secret_value(&request.body),
            // A consumer's bench counts these.
            operation if operation.starts_with("DynamoDB_20120810.") => Ok(json!({})),
            operation => Err(error("UnknownOperationException", operation)),
        }
    }

    fn send_message(&self, body: &[u8]) -> Result<Value, Value> {
        let message: Message = parse(body)?;
        let sent = json!(message.sent());
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        Ok(sent)
    }

    /// A secret that has never been changed: there is nothing before the current value.
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

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Value> {
    serde_json::from_slice(body).map_err(|problem| error("SerializationException", &problem.to_string()))
}

fn error(code: &str, message: &str) -> Value {
    json!({"__type": code, "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        Services { secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", messages: Arc::default() }
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
        let messages = services.messages.lock().unwrap();
        let payloads: Vec<_> = messages.iter().map(|message| message.payload().unwrap()).collect();
        assert_eq!(payloads, [br#"{"a":1}"#]);
    }
}
