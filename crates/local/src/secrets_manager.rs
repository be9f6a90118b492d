//! Secrets Manager on a laptop: the signing secret in the files of the state folder, behind HTTP.
//!
//! The receiver reads it, and `learnink secret` changes it, with the code that they use in AWS. It knows one secret
//! and the three actions that this code calls. The current value is in the file that `learnink send` signs with.
//!
//! Other accounts of this machine reach its port, and so does a web page whose name points to this machine. So it
//! answers only who signs with an access key id that it has made for this start, and that it announces in a file of the
//! state's owner.
//! Source: AWS Secrets Manager API reference, `GetSecretValue`, `PutSecretValue`, `UpdateSecretVersionStage`.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use learnink_consumer::ledger::payload_sha256;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::sdk_config;
use crate::state::{StateError, previous_secret_file, read_secret, secret_file, write_line};

/// The name of the only secret.
pub const SIGNING_SECRET: &str = "signing_secret";

/// Secrets Manager takes secrets of 64 KiB. Source: AWS Secrets Manager user guide, "Quotas".
const LARGEST_REQUEST_BYTES: usize = 128 * 1024;

/// The length of a version id. Source: AWS Secrets Manager API reference, `GetSecretValue`, `VersionId`.
const VERSION_ID_CHARACTERS: usize = 32;

/// The length of the access key id, in random bytes.
const KEY_BYTES: usize = 16;

/// A Secrets Manager that listens on this machine until it is dropped.
#[derive(Debug)]
pub struct LocalSecretsManager {
    access: Access,
    server: tokio::task::JoinHandle<()>,
}

/// Where it listens, and the access key id that it answers. `Debug` hides the latter.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    endpoint: String,
    key_id: String,
}

impl Access {
    /// What is announced: the endpoint and the access key id, separated by a space.
    pub fn announced(&self) -> String {
        format!("{} {}", self.endpoint, self.key_id)
    }

    /// Reads what was announced; `None` if it is something else.
    pub fn parse(announced: &str) -> Option<Self> {
        let (endpoint, key_id) = announced.split_once(' ')?;
        Some(Self { endpoint: endpoint.to_owned(), key_id: key_id.to_owned() })
    }

    /// The configuration of AWS's clients.
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new(&self.key_id, "local", None, None, "local");
        let credentials = SharedCredentialsProvider::new(credentials);
        sdk_config(&self.endpoint).into_builder().credentials_provider(credentials).build()
    }

    /// Whether a request is signed with the access key id. Source: AWS IAM user guide, "Elements of an AWS API request
    /// signature", `Credential`.
    fn allows(&self, headers: &HeaderMap) -> bool {
        let authorization =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (_, credential) = authorization.split_once("Credential=").unwrap_or_default();
        let (key_id, _) = credential.split_once('/').unwrap_or_default();
        // Of hashes, so that the time that it takes says nothing.
        payload_sha256(key_id.as_bytes()) == payload_sha256(self.key_id.as_bytes())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl LocalSecretsManager {
    /// Starts it over the secret in a state folder.
    ///
    /// # Errors
    ///
    /// If no port is available, or the system has no randomness.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key)?;
        let access = Access { endpoint, key_id: format!("{:032x}", u128::from_ne_bytes(key)) };
        let files = Mutex::new(Files { folder: folder.to_owned() });
        let router = Router::new().fallback(answer).with_state(Arc::new((access.clone(), files)));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the embedded Secrets Manager stopped");
            }
        });
        Ok(Self { access, server })
    }

    /// How it is reached.
    pub const fn access(&self) -> &Access {
        &self.access
    }
}

impl Drop for LocalSecretsManager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A label of one value. Source: AWS Secrets Manager user guide, "Secret versions".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Stage {
    #[serde(rename = "AWSCURRENT")]
    Current,
    #[serde(rename = "AWSPREVIOUS")]
    Previous,
    #[serde(rename = "AWSPENDING")]
    Pending,
}

/// What is refused, as the code in the answer.
#[derive(Debug)]
enum Refusal {
    Denied,
    NotFound,
    InvalidParameter,
    InvalidRequest,
    /// The files cannot be read or written.
    Internal(StateError),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    secret_id: String,
    version_stage: Option<Stage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Put {
    secret_id: String,
    secret_string: String,
    version_stages: Option<Vec<Stage>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MoveStage {
    secret_id: String,
    version_stage: Stage,
    remove_from_version_id: Option<String>,
    move_to_version_id: Option<String>,
}

/// The values, a file for each stage.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn path(&self, stage: Stage) -> PathBuf {
        match stage {
            Stage::Current => secret_file(&self.folder),
            Stage::Previous => previous_secret_file(&self.folder),
            Stage::Pending => self.folder.join("signing-secret.pending"),
        }
    }

    fn value(&self, stage: Stage) -> Result<Option<String>, Refusal> {
        read_secret(&self.path(stage)).map_err(Refusal::Internal)
    }

    /// Writes the value of a stage, or takes it away.
    fn set(&self, stage: Stage, value: Option<&str>) -> Result<(), Refusal> {
        let path = self.path(stage);
        match value {
            Some(value) => write_line(&path, value).map_err(Refusal::Internal),
            None => match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Refusal::Internal(StateError::Io { path, source }))
                }
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }

    /// When the value of a stage was stored.
    fn stored_at(&self, stage: Stage) -> Option<SystemTime> {
        fs::metadata(self.path(stage)).and_then(|file| file.modified()).ok()
    }

    fn get(&self, get: &Get) -> Result<Value, Refusal> {
        let stage = get.version_stage.unwrap_or(Stage::Current);
        let value = self.value(stage)?.ok_or(Refusal::NotFound)?;
        let stored_at = self.stored_at(stage).and_then(|time| Timestamp::try_from(time).ok());
        Ok(json!({
            "Name": SIGNING_SECRET,
            "VersionId": version_id(&value),
            "SecretString": value,
            "CreatedDate": stored_at.map(Timestamp::as_second),
        }))
    }

    /// The first value of all is the current one at once, as in AWS.
    fn put(&self, put: &Put) -> Result<Value, Refusal> {
        let value = put.secret_string.trim();
        let is_first = self.value(Stage::Current)?.is_none();
        let (stage, name) = match put.version_stages.as_deref() {
            Some([Stage::Pending]) if !is_first => (Stage::Pending, "AWSPENDING"),
            Some([Stage::Pending]) | None => (Stage::Current, "AWSCURRENT"),
            Some(_) => return Err(Refusal::InvalidParameter),
        };
        if stage == Stage::Current && !is_first {
            self.make_current(value)?;
        } else {
            self.set(stage, Some(value))?;
        }
        Ok(json!({ "Name": SIGNING_SECRET, "VersionId": version_id(value), "VersionStages": [name] }))
    }

    /// The current value becomes the previous one.
    fn make_current(&self, value: &str) -> Result<(), Refusal> {
        let before = self.value(Stage::Current)?;
        if before.as_deref() == Some(value) {
            return Ok(());
        }
        let stored_at = self.stored_at(Stage::Current);
        // In this order, so that a kill in between loses neither.
        self.set(Stage::Previous, before.as_deref())?;
        if let Some(stored_at) = stored_at {
            let previous = File::options().write(true).open(self.path(Stage::Previous));
            // Otherwise it only looks newer than it is.
            let _ = previous.and_then(|file| file.set_modified(stored_at));
        }
        self.set(Stage::Current, Some(value))
    }

    fn move_stage(&self, change: &MoveStage) -> Result<Value, Refusal> {
        let held = self.value(change.version_stage)?;
        // AWS refuses a move from a version that does not have the stage.
        if held.as_deref().map(version_id) != change.remove_from_version_id {
            return Err(Refusal::InvalidParameter);
        }
        match (change.version_stage, &change.move_to_version_id) {
            (Stage::Current, Some(id)) => {
                let stages = [Stage::Pending, Stage::Previous, Stage::Current];
                let mut values = Vec::new();
                for stage in stages {
                    values.extend(self.value(stage)?);
                }
                let value = values.iter().find(|value| version_id(value) == *id).ok_or(Refusal::NotFound)?;
                self.make_current(value)?;
                self.set(Stage::Pending, None)?;
            }
            (Stage::Previous | Stage::Pending, None) => self.set(change.version_stage, None)?,
            (Stage::Current, None) | (Stage::Previous | Stage::Pending, Some(_)) => {
                return Err(Refusal::InvalidRequest);
            }
        }
        Ok(json!({ "Name": SIGNING_SECRET }))
    }
}

/// The same for the same value, so that a retried call changes nothing.
fn version_id(value: &str) -> String {
    let mut id = payload_sha256(value.as_bytes());
    id.truncate(VERSION_ID_CHARACTERS);
    id
}

async fn answer(Shared(shared): Shared<Arc<(Access, Mutex<Files>)>>, request: Request) -> Response {
    let (access, files) = &*shared;
    let is_allowed = access.allows(request.headers());
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    let result = match to_bytes(request.into_body(), LARGEST_REQUEST_BYTES).await {
        _ if !is_allowed => Err(Refusal::Denied),
        Ok(body) => carry_out(&lock(files), &action, &body),
        Err(_) => Err(Refusal::InvalidRequest),
    };
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            if let Refusal::Internal(error) = &refusal {
                tracing::error!(%error, "the signing secret cannot be read or written");
            }
            refusal.answer()
        }
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    // The state is in the files.
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry_out(files: &Files, action: &str, body: &[u8]) -> Result<Value, Refusal> {
    match action {
        "GetSecretValue" => {
            let get: Get = read(body)?;
            known(&get.secret_id)?;
            files.get(&get)
        }
        "PutSecretValue" => {
            let put: Put = read(body)?;
            known(&put.secret_id)?;
            files.put(&put)
        }
        "UpdateSecretVersionStage" => {
            let change: MoveStage = read(body)?;
            known(&change.secret_id)?;
            files.move_stage(&change)
        }
        _ => Err(Refusal::InvalidRequest),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::InvalidParameter)
}

fn known(secret_id: &str) -> Result<(), Refusal> {
    if secret_id == SIGNING_SECRET { Ok(()) } else { Err(Refusal::NotFound) }
}

impl Refusal {
    fn answer(&self) -> (StatusCode, Value) {
        let (status, code) = match self {
            Self::Denied => (StatusCode::BAD_REQUEST, "AccessDeniedException"),
            Self::NotFound => (StatusCode::BAD_REQUEST, "ResourceNotFoundException"),
            Self::InvalidParameter => (StatusCode::BAD_REQUEST, "InvalidParameterException"),
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "InvalidRequestException"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServiceError"),
        };
        (status, json!({ "__type": code, "message": code }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn call(files: &Files, action: &str, body: &Value) -> Result<Value, String> {
        let answer = carry_out(files, action, body.to_string().as_bytes());
        answer.map_err(|refusal| refusal.answer().1["__type"].as_str().unwrap().to_owned())
    }

    fn value(files: &Files, stage: &str) -> Option<String> {
        let get = json!({ "SecretId": SIGNING_SECRET, "VersionStage": stage });
        let answer = call(files, "GetSecretValue", &get).ok()?;
        Some(answer["SecretString"].as_str().unwrap().to_owned())
    }

    /// As an operator's command stores a value.
    fn store(files: &Files, before: &str, value: &str) -> Result<Value, String> {
        let put = json!({
            "SecretId": SIGNING_SECRET, "SecretString": value, "VersionStages": ["AWSPENDING"],
        });
        let put = call(files, "PutSecretValue", &put)?;
        let change = json!({
            "SecretId": SIGNING_SECRET,
            "VersionStage": "AWSCURRENT",
            "RemoveFromVersionId": version_id(before),
            "MoveToVersionId": put["VersionId"],
        });
        call(files, "UpdateSecretVersionStage", &change)
    }

    fn files(folder: &Path) -> Files {
        fs::write(secret_file(folder), format!("{OLD}\n")).unwrap();
        Files { folder: folder.to_owned() }
    }

    #[test]
    fn a_stored_value_is_current_and_the_one_before_it_is_previous() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        assert_eq!((value(&files, "AWSCURRENT").as_deref(), value(&files, "AWSPREVIOUS")), (Some(OLD), None));
        store(&files, OLD, NEW).unwrap();
        assert_eq!(value(&files, "AWSCURRENT").as_deref(), Some(NEW));
        assert_eq!(value(&files, "AWSPREVIOUS").as_deref(), Some(OLD));
        assert_eq!(value(&files, "AWSPENDING"), None);
        assert_eq!(crate::state::read_signing_secret(folder.path()).unwrap(), NEW);
        assert_eq!(crate::state::read_previous_secret(folder.path()).unwrap().as_deref(), Some(OLD));
    }

    #[test]
    fn the_previous_value_keeps_the_time_when_it_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let stored_at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        File::options()
            .write(true)
            .open(secret_file(folder.path()))
            .unwrap()
            .set_modified(stored_at)
            .unwrap();
        store(&files, OLD, NEW).unwrap();
        let created = |stage: &str| {
            let get = json!({ "SecretId": SIGNING_SECRET, "VersionStage": stage });
            call(&files, "GetSecretValue", &get).unwrap()["CreatedDate"].as_i64().unwrap()
        };
        assert_eq!(created("AWSPREVIOUS"), 1_700_000_000);
        assert!(created("AWSCURRENT") > 1_700_000_000);
    }

    #[test]
    fn of_two_operators_the_second_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        store(&files, OLD, NEW).unwrap();
        let other = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD";
        assert_eq!(store(&files, OLD, other).unwrap_err(), "InvalidParameterException");
        assert_eq!(value(&files, "AWSCURRENT").as_deref(), Some(NEW));
    }

    #[test]
    fn the_previous_value_is_dropped_only_by_its_own_id() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        store(&files, OLD, NEW).unwrap();
        let drop = |value: &str| {
            let change = json!({
                "SecretId": SIGNING_SECRET,
                "VersionStage": "AWSPREVIOUS",
                "RemoveFromVersionId": version_id(value),
            });
            call(&files, "UpdateSecretVersionStage", &change)
        };
        assert_eq!(drop(NEW).unwrap_err(), "InvalidParameterException");
        drop(OLD).unwrap();
        assert_eq!(value(&files, "AWSPREVIOUS"), None);
    }

    #[test]
    fn only_who_knows_the_access_key_id_of_this_start_is_answered() {
        let access = Access::parse("http://127.0.0.1:1 0123").unwrap();
        assert_eq!(Access::parse(&access.announced()), Some(access.clone()));
        assert!(!format!("{access:?}").contains("0123"));
        let allows = |authorization: &str| {
            let headers = [(AUTHORIZATION, authorization.parse().unwrap())].into_iter().collect();
            access.allows(&headers)
        };
        assert!(allows(
            "AWS4-HMAC-SHA256 Credential=0123/20260101/us-east-1/secretsmanager/aws4_request, S=1"
        ));
        for other in ["AWS4-HMAC-SHA256 Credential=0124/2026", "Credential=", "0123", "Bearer 0123"] {
            assert!(!allows(other), "{other}");
        }
        assert!(!access.allows(&HeaderMap::new()));
    }

    #[test]
    fn another_secret_and_another_action_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let other = call(&files, "GetSecretValue", &json!({ "SecretId": "push_secret" }));
        assert_eq!(other.unwrap_err(), "ResourceNotFoundException");
        let delete = call(&files, "DeleteSecret", &json!({ "SecretId": SIGNING_SECRET }));
        assert_eq!(delete.unwrap_err(), "InvalidRequestException");
    }
}
