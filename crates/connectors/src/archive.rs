//! Every webhook: the compliance record.
//!
//! Keeps the signed bytes with the three headers that prove them. Switched on by `LEARNINK_ARCHIVE`, a URL:
//!
//! | URL | keeps records in |
//! |---|---|
//! | `s3://bucket/prefix` | a bucket; the function may `s3:PutObject` and `s3:GetObject` in it |
//! | `file:///folder` | a folder: for `learnink dev` |
//!
//! The path is used verbatim, without escapes. The bucket is in the region that `AWS_REGION` names.
//!
//! There are two layouts, and a bucket may have both:
//!
//! | layout | a record is | its cost |
//! |---|---|---|
//! | objects | an object of its own, written once and never again, before the message counts as done | one PUT each |
//! | a stream, named by `LEARNINK_ARCHIVE_STREAM` | a line of a file | by size |
//!
//! The stream is one of Amazon Data Firehose, which writes its files below the URL; the function may
//! `firehose:PutRecordBatch` on it. A message counts as done once Firehose has the record: it keeps the record in three
//! availability zones, writes it within minutes, and tries for a day if it cannot. It may write a record twice, so
//! readers count [copies](Record::fingerprint) once. A record that is too large for a stream, or that was received
//! more than a day ago, becomes an object.
//!
//! As an object, a record is stored under its type and the day on which it was received; [`Name`] says why that day.
//! `learnink archive verify` proves years later, with the signing secret of that time, that LearnInk sent the
//! stored records; `learnink archive export` makes a table of them. They read both layouts, and skip objects that
//! are not named like records, such as a read-me or the empty objects that S3's console makes for folders. Records
//! hold personal data: the bucket's owner decides who may read it, and when its lifecycle deletes records. The
//! bucket of `template.yaml` keeps the old versions of objects that others delete or replace. S3 Object Lock, with a
//! retention that the owner also chooses, prevents the deletion of those.

mod file;
mod firehose;
mod name;
mod place;
mod record;
mod s3;

use std::error::Error;
use std::fmt;
use std::io;
use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use learnink_aws::Env;
use learnink_webhook::config::ConfigError;
use learnink_webhook::error::service_code;
use learnink_webhook::event::elapsed;
use learnink_webhook::{Event, HandlerError, HandlerResult, Router};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

use file::LARGEST_FILE_BYTES;
pub use file::RecordFile;
use firehose::{LARGEST_RECORD_BYTES, Stream};
use name::{Folder, LATE_AFTER, STREAM_FOLDER, around};
pub use name::{Name, day_of};
use place::Place;
use record::LARGEST_BYTES;
pub use record::{Fingerprint, Record, RecordError, Redaction};

/// The handler's name in the ledger.
const NAME: &str = "archive";

/// The variable that switches the handler on.
const VARIABLE: &str = "LEARNINK_ARCHIVE";

/// The variable that names the stream, for records as lines of files.
const STREAM_VARIABLE: &str = "LEARNINK_ARCHIVE_STREAM";

/// How many listings run concurrently.
const LISTINGS_AT_ONCE: usize = 16;

/// The handler; none if `LEARNINK_ARCHIVE` is not set.
///
/// For S3 it reads `AWS_REGION`, the credentials that Lambda sets and, for emulators and private endpoints,
/// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`. For a stream it reaches AWS as `env` says.
///
/// # Errors
///
/// [`ConfigError`] naming the variable and what belongs there.
pub fn router(env: &Env) -> Result<Router, ConfigError> {
    let stream = env.text(STREAM_VARIABLE);
    let Some(url) = env.text(VARIABLE) else {
        return match stream {
            Some(_) => Err(ConfigError::unusable(
                STREAM_VARIABLE,
                "there is no archive; set LEARNINK_ARCHIVE to the URL below which the stream writes, such as \
                 s3://bucket/prefix",
            )),
            None => Ok(Router::off(NAME)),
        };
    };
    let archive = Archive::open(&url, env)?;
    if stream.is_some() && archive.bucket.is_none() {
        let problem = "a stream writes to a bucket, and LEARNINK_ARCHIVE names a folder";
        return Err(ConfigError::unusable(STREAM_VARIABLE, problem));
    }
    let stream = stream.map(|name| Stream::open(&name, env)).transpose()?;
    Ok(Keeper { archive, stream }.router())
}

/// Keeps records, in one of the two layouts.
#[derive(Debug, Clone)]
struct Keeper {
    archive: Archive,
    stream: Option<Stream>,
}

impl Keeper {
    fn router(self) -> Router {
        Router::new().on_any_webhook(NAME, keep).with_state(self)
    }

    /// Keeps the record of a message: on the stream, or as an object.
    async fn keep(&self, event: &Event) -> Result<(), ArchiveError> {
        let message = event.message.as_ref();
        let record = Record::from(message);
        if let Some(stream) = &self.stream
            && elapsed(message.received_at, event.now) < LATE_AFTER
        {
            let line = record.to_line();
            if line.len() <= LARGEST_RECORD_BYTES {
                return stream.put(line).await;
            }
        }
        let name = Name::of(&event.envelope.event_type, message.received_at, &message.id);
        self.archive.keep(&name, &record).await
    }
}

/// Keeps the record of a message.
async fn keep(event: Event, keeper: Keeper) -> HandlerResult {
    match keeper.keep(&event).await {
        Ok(()) => Ok(()),
        // Trying again cannot help, and overwriting the object would defeat its purpose.
        Err(error @ (ArchiveError::Taken(_) | ArchiveError::TooLarge { .. })) => {
            Err(HandlerError::permanent(error.to_string()))
        }
        Err(error @ (ArchiveError::Store { .. } | ArchiveError::Stream { .. })) => {
            Err(HandlerError::quoting(error))
        }
    }
}

/// The archive could not be written to or read.
///
/// Its text has only our own words, names of objects and error codes: a store's answer may quote the request, and
/// with it the session's token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The store refused or did not answer. Retryable.
    #[error("could not {operation} the archive: {problem}")]
    Store {
        /// The operation.
        operation: &'static str,
        /// The problem.
        problem: String,
    },
    /// The stream did not take the record, or did not say so. Retryable.
    #[error("the archive's stream did not take the record: {problem}")]
    Stream {
        /// The problem.
        problem: String,
    },
    /// Another object has the record's name. Permanent.
    #[error("the archive has an object of other content under this record's name: {0}")]
    Taken(Name),
    /// An object is too large for a record, perhaps for memory: it is not read. Permanent.
    #[error("it has {bytes} bytes, more than any record")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Records of one type; without it, of all.
    pub event_type: Option<String>,
    /// Records received from one day to another, both included, in UTC; without it, all.
    pub days: Option<(Date, Date)>,
}

/// The objects of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// All objects that are named like records, including those that somebody has emptied.
    pub records: Vec<Name>,
    /// All files of a stream that may have selected records; [`Name::may_have`] says which. A file has records of all
    /// types.
    pub files: Vec<Name>,
    /// Other objects: a read-me, an inventory, a file of the system's. The empty objects that S3's console makes
    /// for folders are left out.
    pub others: Vec<Name>,
}

/// The store of records. `Debug` shows its location, and no credentials.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
    /// The bucket's name; `None` in a folder.
    bucket: Option<String>,
}

/// An object's bytes, and what they are replaced by. `Debug` does not show them.
pub struct Stored {
    /// Its bytes.
    pub bytes: Bytes,
    e_tag: Option<String>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Archive {
    /// The archive at `url`, with region, credentials and endpoint from `env`; see [`router`].
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the variable and what belongs there.
    pub fn open(url: &str, env: &Env) -> Result<Self, ConfigError> {
        let unusable = |problem: &str| ConfigError::unusable(VARIABLE, problem);
        let url = url.trim();
        let place = Place::parse(url).map_err(unusable)?;
        let (store, root, bucket): (Arc<dyn ObjectStore>, _, _) = match place {
            Place::Bucket { bucket, prefix } => {
                (Arc::new(s3::client(&bucket, |name| env.text(name))?), prefix, Some(bucket))
            }
            Place::Folder(_) if env.text("AWS_LAMBDA_FUNCTION_NAME").is_some() => {
                return Err(unusable("a Lambda keeps no files; it must be a URL such as s3://bucket/prefix"));
            }
            Place::Folder(folder) => (Arc::new(LocalFileSystem::new().with_fsync(true)), folder, None),
        };
        Ok(Self { store, root, url: url.to_owned(), bucket })
    }

    /// Writes a record, once: an existing object under its name is never changed. If that object keeps the same
    /// message, the result is success: an earlier attempt wrote it, and its answer was lost.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Taken`] if it is another object, and [`ArchiveError::Store`].
    pub async fn keep(&self, name: &Name, record: &Record) -> Result<(), ArchiveError> {
        let path = self.path(name)?;
        let put = self.store.put_opts(&path, record.encode().into(), PutMode::Create.into());
        match put.await {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::AlreadyExists { .. }) if !is_conflict(&error) => {
                let is_the_same = match self.read(name).await {
                    Ok(kept) => Record::decode(&kept).is_ok_and(|kept| kept.is_of_the_message_of(record)),
                    Err(ArchiveError::TooLarge { .. }) => false,
                    Err(error) => return Err(error),
                };
                if is_the_same { Ok(()) } else { Err(ArchiveError::Taken(name.clone())) }
            }
            Err(error) => Err(failed("write to", &error)),
        }
    }

    /// The bytes of an object; [`Record::decode`] reads them.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::TooLarge`] and [`ArchiveError::Store`].
    pub async fn read(&self, name: &Name) -> Result<Bytes, ArchiveError> {
        // A compressed record is smaller than the limit of its JSON.
        self.read_at_most(name, LARGEST_BYTES).await
    }

    /// A stream's file. It is in memory as a whole, decompressed.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::TooLarge`] and [`ArchiveError::Store`].
    pub async fn read_file(&self, name: &Name) -> Result<RecordFile, ArchiveError> {
        Ok(RecordFile::decode(&self.read_at_most(name, LARGEST_FILE_BYTES).await?))
    }

    async fn read_at_most(&self, name: &Name, limit_bytes: usize) -> Result<Bytes, ArchiveError> {
        Ok(self.get(name, GetOptions::default(), limit_bytes).await?.bytes)
    }

    async fn get(
        &self,
        name: &Name,
        options: GetOptions,
        limit_bytes: usize,
    ) -> Result<Stored, ArchiveError> {
        let path = self.path(name)?;
        let object = self.store.get_opts(&path, options).await.map_err(|error| failed("read", &error))?;
        let (bytes, e_tag) = (object.meta.size, object.meta.e_tag.clone());
        if bytes > limit_bytes as u64 {
            return Err(ArchiveError::TooLarge { bytes });
        }
        Ok(Stored { bytes: object.bytes().await.map_err(|error| failed("read", &error))?, e_tag })
    }

    /// The bucket, and the prefix in it; `None` if the archive is a folder.
    pub fn bucket(&self) -> Option<(&str, &str)> {
        Some((self.bucket.as_deref()?, self.root.as_ref()))
    }

    /// The name of the object with this key in the bucket; `None` if it is not below the prefix.
    pub fn name_of(&self, key: &str) -> Option<Name> {
        let root = self.root.as_ref();
        let below = if root.is_empty() { key } else { key.strip_prefix(root)?.strip_prefix('/')? };
        Some(Name::found(below))
    }

    /// A version of a record or of a stream's file, by the id that the bucket gave it; without one, the current one.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::TooLarge`] and [`ArchiveError::Store`].
    pub async fn read_version(&self, name: &Name, version: Option<&str>) -> Result<Stored, ArchiveError> {
        let options = GetOptions { version: version.map(str::to_owned), ..GetOptions::default() };
        let limit_bytes = if name.is_of_a_file() { LARGEST_FILE_BYTES } else { LARGEST_BYTES };
        self.get(name, options, limit_bytes).await
    }

    /// Writes an object in the place of the current one, which has to be `was` still. In a bucket that keeps versions,
    /// the old one stays as a version. Returns the id of the new version, if there is one.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Store`], also if another program has changed the object since it was read.
    pub async fn replace(
        &self,
        name: &Name,
        was: &Stored,
        bytes: Vec<u8>,
    ) -> Result<Option<String>, ArchiveError> {
        let path = self.path(name)?;
        let mode = match self.bucket {
            Some(_) => PutMode::Update(UpdateVersion { e_tag: was.e_tag.clone(), version: None }),
            // A file system has no conditional writes.
            None => PutMode::Overwrite,
        };
        let put = self.store.put_opts(&path, bytes.into(), mode.into()).await;
        Ok(put.map_err(|error| failed("write to", &error))?.version)
    }

    /// Deletes the object of an archive in a folder. In a bucket that keeps versions, it would only be hidden.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Store`].
    pub async fn delete(&self, name: &Name) -> Result<(), ArchiveError> {
        let path = self.path(name)?;
        self.store.delete(&path).await.map_err(|error| failed("delete from", &error))
    }

    /// The objects of `selection`, ordered by name. It takes at most as many requests as there are days with
    /// records, however many days are selected.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Store`].
    pub async fn list(&self, selection: &Selection) -> Result<Listing, ArchiveError> {
        let folders = self.folders(selection).await.map_err(|error| failed("list", &error))?;
        let listings = folders.into_iter().map(|folder| async move {
            self.store.list(Some(&folder)).try_collect::<Vec<ObjectMeta>>().await
        });
        let objects: Vec<Vec<ObjectMeta>> = stream::iter(listings)
            .buffer_unordered(LISTINGS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|error| failed("list", &error))?;
        let mut listing = Listing::default();
        for object in objects.iter().flatten() {
            let name = self.name(&object.location);
            let (from, to) = selection.days.unzip();
            let is_selected = name.may_have(from, to);
            if is_selected && name.is_of_a_file() {
                listing.files.push(name);
            } else if is_selected && name.is_of_a_record() {
                listing.records.push(name);
            } else if is_selected && object.size > 0 {
                listing.others.push(name);
            }
        }
        listing.records.sort();
        listing.files.sort();
        listing.others.sort();
        Ok(listing)
    }

    /// The folders that contain the whole selection, and little else.
    async fn folders(&self, selection: &Selection) -> object_store::Result<Vec<Path>> {
        let root = &self.root;
        let stream = root.clone().join(STREAM_FOLDER);
        let types = match (&selection.event_type, selection.days) {
            (Some(event_type), _) => {
                vec![root.clone().join(name::segment(event_type).as_str()), stream.clone()]
            }
            (None, Some(_)) => self.subfolders(root).await?,
            (None, None) => vec![root.clone()],
        };
        let Some((from, to)) = selection.days else { return Ok(types) };
        let mut whole = Vec::new();
        let parted = types.into_iter().map(|path| {
            let days = if path == stream { around(from, to) } else { (from, to) };
            Parted { folder: Folder::OF_A_TYPE, path, days }
        });
        let mut parted: Vec<_> = parted.collect();
        while !parted.is_empty() {
            let below = parted.into_iter().map(|parted| self.below(parted));
            let below = stream::iter(below).buffer_unordered(LISTINGS_AT_ONCE);
            parted = below.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
            whole.extend(parted.extract_if(.., |parted| parted.is_listed_whole()).map(|parted| parted.path));
        }
        Ok(whole)
    }

    /// The folders of the next shorter period within these days.
    async fn below(&self, Parted { folder, path, days }: Parted) -> object_store::Result<Vec<Parted>> {
        let (from, to) = days;
        // If only one is possible, it need not be looked for.
        if let Some((folder, name)) = folder.only_one_between(from, to) {
            return Ok(vec![Parted { folder, path: path.join(name), days }]);
        }
        let found = self.subfolders(&path).await?.into_iter().filter_map(|path| {
            let folder = folder.below(path.filename()?)?;
            folder.has_any_of(from, to).then_some(Parted { folder, path, days })
        });
        Ok(found.collect())
    }

    async fn subfolders(&self, folder: &Path) -> object_store::Result<Vec<Path>> {
        Ok(self.store.list_with_delimiter(Some(folder)).await?.common_prefixes)
    }

    fn path(&self, name: &Name) -> Result<Path, ArchiveError> {
        let root = self.root.as_ref();
        let path = if root.is_empty() { name.to_string() } else { format!("{root}/{name}") };
        Path::parse(path).map_err(|error| failed("address an object of", &error.into()))
    }

    fn name(&self, path: &Path) -> Name {
        let below = path.as_ref().strip_prefix(self.root.as_ref()).unwrap_or(path.as_ref());
        Name::found(below.trim_start_matches('/'))
    }
}

/// A folder of which only some days are wanted.
struct Parted {
    folder: Folder,
    path: Path,
    days: (Date, Date),
}

impl Parted {
    fn is_listed_whole(&self) -> bool {
        self.folder.is_listed_whole(self.days.0, self.days.1)
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("url", &self.url).finish_non_exhaustive()
    }
}

fn failed(operation: &'static str, error: &object_store::Error) -> ArchiveError {
    ArchiveError::Store { operation, problem: problem(error) }
}

/// Whether S3 could not decide on a conditional write, because of a concurrent operation on the object: it answers
/// 409 and asks for another try, which does not mean that the object exists. `object_store` interprets it so.
/// Source: Amazon S3 user guide, "How to prevent object overwrites with conditional writes".
fn is_conflict(error: &object_store::Error) -> bool {
    let object_store::Error::AlreadyExists { source, .. } = error else { return false };
    // For an object that exists, S3 answers 412. A server that is not S3 may answer 409 without a code.
    !source.is::<object_store::Error>() && code(&answer(error)).is_some()
}

/// The problem, with nothing from the store's answer except the error code.
fn problem(error: &object_store::Error) -> String {
    use object_store::Error as E;
    if let Some(elsewhere) = causes(error).find_map(|error| error.downcast_ref::<s3::OtherRegion>()) {
        return elsewhere.to_string();
    }
    let what = match error {
        E::NotFound { .. } => "the bucket or the object is not there",
        E::PermissionDenied { .. } => "access is denied",
        E::Unauthenticated { .. } => "the credentials are not accepted",
        E::InvalidPath { .. } => "an object's name has an empty or invalid part; move it elsewhere",
        E::Precondition { .. } => "another program has changed the object meanwhile",
        E::AlreadyExists { .. } => "another request for the object is under way, and S3 asks to try again",
        _ => "the store refused or did not answer",
    };
    let detail = causes(error).find_map(cause_of_the_system).or_else(|| answered(error));
    detail.map_or_else(|| what.to_owned(), |detail| format!("{what} ({detail})"))
}

/// An error and its causes.
fn causes(error: &object_store::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(Some(error as &dyn Error), |error| (*error).source())
}

/// The kind of a system error or a connection error.
fn cause_of_the_system(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(error.kind().to_string());
    }
    let error = error.downcast_ref::<object_store::client::HttpError>()?;
    Some(format!("{:?}", error.kind()).to_lowercase())
}

/// The error code of S3's answer, or the status if there is no code.
fn answered(error: &object_store::Error) -> Option<String> {
    let answer = answer(error);
    let status = || {
        let (_, rest) = answer.split_once("status code: ")?;
        rest.get(..3).filter(|status| status.bytes().all(|byte| byte.is_ascii_digit()))
    };
    code(&answer).or_else(status).map(str::to_owned)
}

/// The innermost error, which contains S3's answer. The outer errors quote the request and its path.
fn answer(error: &object_store::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn code(answer: &str) -> Option<&str> {
    s3::element(answer, "Code").and_then(service_code)
}

#[cfg(test)]
mod tests;
