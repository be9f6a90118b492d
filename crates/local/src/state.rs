//! The state that is kept between two starts: the signing secret, the tables, the messages on the queues.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::terminal::quoted;

/// The length of a new signing secret's key: the same as Svix's.
const KEY_BYTES: usize = 24;

/// The file that is locked while a pipeline is running.
const LOCK: &str = "lock";

/// A folder that one pipeline at a time works in.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// Held while the pipeline runs; the system releases it even after a crash.
    _lock: File,
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process uses it.
    #[error(
        "{} is in use by another `learnink dev`; stop that one, or choose another folder with --state",
        quoted(folder)
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A file in it cannot be read or written.
    #[error("cannot use {}", quoted(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no signing secret yet.
    #[error("there is no signing secret in {}", quoted(folder))]
    NoSecret {
        /// The folder.
        folder: PathBuf,
    },
}

impl State {
    /// Opens the folder, makes it if it does not exist, and locks it.
    ///
    /// # Errors
    ///
    /// [`StateError`] if it cannot be written, or another process uses it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StateError> {
        let folder = folder.into();
        let io_error = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        let mut builder = DirBuilder::new();
        // It holds learners' data.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&folder).map_err(|error| io_error(&folder, error))?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| io_error(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {
                forget_addresses(&folder);
                Ok(Self { folder, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { folder }),
            Err(TryLockError::Error(error)) => Err(io_error(&path, error)),
        }
    }

    /// The signing secret, which is made on the first call and kept.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] when it can be neither read nor written.
    pub fn signing_secret(&self) -> Result<String, StateError> {
        match read_signing_secret(&self.folder) {
            Err(StateError::NoSecret { .. }) => self.make_signing_secret(),
            secret => secret,
        }
    }

    fn make_signing_secret(&self) -> Result<String, StateError> {
        let path = secret_file(&self.folder);
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key)
            .map_err(|error| StateError::Io { path: path.clone(), source: error.into() })?;
        let secret = format!("whsec_{}", BASE64.encode(key));
        write_line(&path, &secret)?;
        Ok(secret)
    }

    /// Publishes for [`address`] where a service of the pipeline listens, until this is dropped.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] when it cannot be written.
    pub fn announce(&self, service: Service, address: &str) -> Result<(), StateError> {
        write_line(&service.file(&self.folder), address)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the tables.
    pub fn database(&self) -> PathBuf {
        database_file(&self.folder)
    }

    /// The file of the messages.
    pub fn journal(&self) -> PathBuf {
        journal_file(&self.folder)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        forget_addresses(&self.folder);
    }
}

/// Writes a line to a file that only its owner may read.
pub(crate) fn write_line(path: &Path, line: &str) -> Result<(), StateError> {
    let io_error = |source| StateError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // Under another name first, so that nobody reads half a line, even after the process was killed.
    let next = path.with_extension("new");
    options.open(&next).and_then(|mut file| writeln!(file, "{line}")).map_err(io_error)?;
    fs::rename(&next, path).map_err(io_error)
}

/// A service of a running pipeline that other processes on this machine may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The embedded SQS: an endpoint for AWS's clients.
    Sqs,
    /// The embedded Secrets Manager: what [`Access`](crate::secrets_manager::Access) announces. There is none if the
    /// secret was given.
    SecretsManager,
    /// The URL that webhooks are posted to.
    Webhooks,
    /// The URL of the page in the browser.
    Console,
}

impl Service {
    const ALL: [Self; 4] = [Self::Sqs, Self::SecretsManager, Self::Webhooks, Self::Console];

    fn file(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Self::Sqs => "sqs-endpoint",
            Self::SecretsManager => "secrets-manager-endpoint",
            Self::Webhooks => "webhook-url",
            Self::Console => "console-url",
        })
    }
}

/// Where a service of the pipeline that runs in `folder` listens; `None` if none runs, or it has no such service.
///
/// # Errors
///
/// [`StateError::Io`] when the files cannot be read.
pub fn address(folder: &Path, service: Service) -> Result<Option<String>, StateError> {
    let path = service.file(folder);
    let io_error = |source| StateError::Io { path: path.clone(), source };
    let address = match fs::read_to_string(&path) {
        Ok(address) => address,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    // The pipeline may have been killed, and another program may have its port now.
    let lock = File::open(folder.join(LOCK)).map_err(io_error)?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(address.trim().to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

fn forget_addresses(folder: &Path) {
    for service in Service::ALL {
        // Fails if there is nothing to remove.
        let _ = fs::remove_file(service.file(folder));
    }
}

/// The signing secret that `learnink dev` made in `folder`; needs no lock.
///
/// # Errors
///
/// [`StateError`] when there is none, or it cannot be read.
pub fn read_signing_secret(folder: &Path) -> Result<String, StateError> {
    read_secret(&secret_file(folder))?.ok_or_else(|| StateError::NoSecret { folder: folder.to_owned() })
}

/// The signing secret before the current one in `folder`, which is accepted until it is dropped; `None` if there is
/// none. Needs no lock.
///
/// # Errors
///
/// [`StateError::Io`] when it cannot be read.
pub fn read_previous_secret(folder: &Path) -> Result<Option<String>, StateError> {
    read_secret(&previous_secret_file(folder))
}

/// The secret in a file; `None` if the file does not exist.
pub(crate) fn read_secret(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read_to_string(path) {
        Ok(secret) => Ok(Some(secret.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { path: path.to_owned(), source }),
    }
}

/// The file of the tables of the pipeline in `folder`.
pub fn database_file(folder: &Path) -> PathBuf {
    folder.join("tables.sqlite")
}

/// The file of the messages on the queues of the pipeline in `folder`.
pub fn journal_file(folder: &Path) -> PathBuf {
    folder.join("queues.jsonl")
}

/// The file of the signing secret of the pipeline in `folder`.
pub fn secret_file(folder: &Path) -> PathBuf {
    folder.join("signing-secret")
}

/// The file of the signing secret before the current one.
pub fn previous_secret_file(folder: &Path) -> PathBuf {
    folder.join("signing-secret.previous")
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use learnink_webhook::error::with_causes;

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = State::open(folder.path()).unwrap().signing_secret().unwrap();
        assert!(first.starts_with("whsec_"));
        assert_eq!(State::open(folder.path()).unwrap().signing_secret().unwrap(), first);
        assert_eq!(read_signing_secret(folder.path()).unwrap(), first);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_look_into_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        State::open(&folder).unwrap().signing_secret().unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(secret_file(&folder)), 0o600);
        assert_eq!(mode(folder), 0o700);
    }

    #[test]
    fn two_pipelines_cannot_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = State::open(folder.path()).unwrap();
        let second = State::open(folder.path()).unwrap_err();
        assert!(matches!(second, StateError::InUse { .. }), "{second}");
    }

    #[test]
    fn the_endpoint_is_known_while_the_pipeline_runs_and_not_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let known = || address(folder.path(), Service::Sqs).unwrap();
        assert_eq!(known(), None);
        let state = State::open(folder.path()).unwrap();
        assert_eq!(known(), None);
        state.announce(Service::Sqs, "http://127.0.0.1:1").unwrap();
        assert_eq!(known().as_deref(), Some("http://127.0.0.1:1"));
        drop(state);
        assert_eq!(known(), None);

        let left_by_a_kill = || fs::write(Service::Sqs.file(folder.path()), "http://127.0.0.1:1").unwrap();
        left_by_a_kill();
        assert_eq!(known(), None);
        left_by_a_kill();
        let _next = State::open(folder.path()).unwrap();
        assert_eq!(known(), None);
    }

    #[test]
    fn a_folder_that_is_a_file_is_one_clear_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = State::open(file.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot use {}", file.path().display()));
        // The system's text is the cause's, so that printing both repeats nothing.
        assert_eq!(with_causes(&error), format!("{error}: {}", error.source().unwrap()));
    }
}
