//! Secrets Manager on a laptop: the signing secret in the files of the state folder, behind HTTP.
//!
//! The receiver reads it, and `learnink secret` changes it, with the code that they use in AWS. It knows one secret
//! and the three actions that this code calls. The current value is in the file that `learnink send` signs with.
//! Source: AWS Secrets Manager API reference, `GetSecretValue`, `PutSecretValue`, `UpdateSecretVersionStage`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use learnink_consumer::ledger::payload_sha256;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::state::{StateError, previous_secret_file, read_secret, secret_file, write_line};

/// The name of the only secret.
pub const SIGNING_SECRET: &str = "signing_secret";

/// Secrets Manager takes secrets of 64 KiB. Source: AWS Secrets Manager user guide, "Quotas".
const LARGEST_REQUEST_BYTES: usize = 128 * 1024;

/// The length of a version id. Source: AWS Secrets Manager API reference, `GetSecretValue`, `VersionId`.
const VERSION_ID_CHARACTERS: usize = 32;

/// A Secrets Manager that listens on this machine until it is dropped.
#[derive(Debug)]
pub struct LocalSecretsManager {
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

impl LocalSecretsManager {
    /// Starts it over the secret in a state folder.
    ///
    /// # Errors
    ///
    /// If no port is available.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let files = Arc::new(Mutex::new(Files { folder: folder.to_owned() }));
        let router = Router::new().fallback(answer).with_state(files);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the embedded Secrets Manager stopped");
            }
        });
        Ok(Self { endpoint, server })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
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

async fn answer(Shared(files): Shared<Arc<Mutex<Files>>>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    let result = match to_bytes(request.into_body(), LARGEST_REQUEST_BYTES).await {
        Ok(body) => carry_out(&lock(&files), &action, &body),
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
    fn another_secret_and_another_action_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let other = call(&files, "GetSecretValue", &json!({ "SecretId": "push_secret" }));
        assert_eq!(other.unwrap_err(), "ResourceNotFoundException");
        let delete = call(&files, "DeleteSecret", &json!({ "SecretId": SIGNING_SECRET }));
        assert_eq!(delete.unwrap_err(), "InvalidRequestException");
    }
}
