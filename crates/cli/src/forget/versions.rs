//! The archive: every version of every record, and of every file of a stream.

use std::collections::BTreeSet;

use anyhow::Context;
use aws_config::SdkConfig;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use learnink_connectors::archive::{Archive, Name, Record, RecordFile, Selection, Stored};
use tokio::sync::Semaphore;

use super::found::{Found, Webhook};
use super::learner::{Learner, Part};
use crate::archive::{FILES_AT_ONCE, READS_AT_ONCE, damaged_after, line_of};
use crate::aws::s3::{Bucket, NO_VERSION, ObjectVersion};
use crate::output::progress;
use crate::question::Interrupt;

/// An archive, with the old versions that its bucket keeps.
#[derive(Debug)]
pub(crate) struct Versions {
    archive: Archive,
    /// `None` if it is a folder, which keeps none.
    bucket: Option<Bucket>,
}

/// A version of an object of the archive; in a folder, the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    name: Name,
    version: Option<ObjectVersion>,
}

impl Object {
    fn version_id(&self) -> Option<&str> {
        self.version.as_ref().map(|version| version.id.as_str())
    }

    fn is_current(&self) -> bool {
        self.version.as_ref().is_none_or(|version| version.is_latest)
    }

    /// Its name for a person.
    fn place(&self) -> String {
        match &self.version {
            Some(version) if !version.is_latest => format!("{} (old version {})", self.name, version.id),
            _ => self.name.to_string(),
        }
    }

    fn key(&self) -> (&Name, Option<&str>) {
        (&self.name, self.version_id())
    }
}

impl Versions {
    /// The archive at this location; `aws` is how to reach a bucket.
    pub(crate) async fn open(url: &str, aws: impl Fn() -> anyhow::Result<SdkConfig>) -> anyhow::Result<Self> {
        let archive = crate::archive::open(url, &aws).await?;
        let bucket = archive.bucket().map(|(bucket, _)| Bucket::new(bucket, &aws()?)).transpose()?;
        Ok(Self { archive, bucket })
    }

    /// All objects that may have records, and how many others there are.
    pub(crate) async fn list(&self) -> anyhow::Result<(Vec<Object>, usize)> {
        let (Some(bucket), Some((_, prefix))) = (&self.bucket, self.archive.bucket()) else {
            let listing = self.archive.list(&Selection::default()).await?;
            let names = listing.records.into_iter().chain(listing.files);
            let objects = names.map(|name| Object { name, version: None }).collect();
            return Ok((objects, listing.others.len()));
        };
        let spinner = ProgressBar::new_spinner();
        spinner.set_style(ProgressStyle::with_template("{spinner} looking for records, {elapsed}")?);
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let versions = bucket.versions(&prefix).await.context("cannot list the versions in the archive");
        spinner.finish_and_clear();
        let (mut objects, mut others) = (Vec::new(), 0);
        for version in versions? {
            let Some(name) = self.archive.name_of(&version.key) else { continue };
            if name.is_of_a_record() || name.is_of_a_file() {
                objects.push(Object { name, version: Some(version) });
            } else if !version.key.ends_with('/') {
                others += 1;
            }
        }
        Ok((objects, others))
    }

    /// Looks for the learner in these objects.
    pub(crate) async fn search(
        &self,
        objects: &[Object],
        learner: &Learner,
    ) -> anyhow::Result<Found<Object>> {
        let bar = progress(objects.len(), "searched")?;
        let files = Semaphore::new(FILES_AT_ONCE);
        let looks = objects.iter().map(|object| self.search_one(object, learner, &files));
        // In order, so that two runs print the same.
        let mut looks = stream::iter(looks).buffered(READS_AT_ONCE);
        let mut all = Found::default();
        while let Some(found) = looks.next().await {
            bar.inc(1);
            all.merge(found);
        }
        bar.finish_and_clear();
        Ok(all)
    }

    async fn search_one(&self, object: &Object, learner: &Learner, files: &Semaphore) -> Found<Object> {
        let mut found = Found::default();
        let is_file = object.name.is_of_a_file();
        // It is closed only with the last of its users.
        let _permit = if is_file { files.acquire().await.ok() } else { None };
        let stored = match self.archive.read_version(&object.name, object.version_id()).await {
            Ok(stored) => stored,
            Err(error) => {
                found.unread.push(format!("{}: {error}", object.place()));
                return found;
            }
        };
        if is_file {
            search_file(object, &RecordFile::decode(&stored.bytes), learner, &mut found);
            return found;
        }
        match Record::decode(&stored.bytes) {
            Ok(record) => add(&mut found, object, &object.place(), &record, learner),
            Err(error) => found.unread.push(format!("{}: {error}", object.place())),
        }
        found
    }

    /// Erases the learner from what was found. Returns what is left, with the reason. Each object is done on its own,
    /// so that an interrupted run goes on.
    pub(crate) async fn erase(
        &self,
        found: &Found<Object>,
        learner: &Learner,
        now: Timestamp,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<String>> {
        let mut seen = BTreeSet::new();
        let objects: Vec<_> =
            found.whole.iter().chain(&found.items).filter(|object| seen.insert(object.key())).collect();
        let bar = progress(objects.len(), "erased from the archive")?;
        let files = Semaphore::new(FILES_AT_ONCE);
        let (bar, files) = (&bar, &files);
        let changes = objects.into_iter().map(|object| async move {
            if interrupt.came() {
                return Some(format!("{}: interrupted", object.place()));
            }
            let _permit = if object.name.is_of_a_file() { files.acquire().await.ok() } else { None };
            let erased = self.erase_one(object, learner, now).await;
            bar.inc(1);
            erased.err().map(|error| format!("{}: {error:#}", object.place()))
        });
        let left: Vec<_> = stream::iter(changes).buffer_unordered(READS_AT_ONCE).collect().await;
        bar.finish_and_clear();
        Ok(left.into_iter().flatten().collect())
    }

    async fn erase_one(&self, object: &Object, learner: &Learner, now: Timestamp) -> anyhow::Result<()> {
        let stored = self.archive.read_version(&object.name, object.version_id()).await?;
        let without = if object.name.is_of_a_file() {
            without_in_file(&RecordFile::decode(&stored.bytes), learner, now)?
        } else {
            let record = Record::decode(&stored.bytes)?;
            match learner.find(&record.body).part {
                Part::Nothing => return Ok(()),
                Part::Whole => None,
                Part::Items(items) => Some(record.redacted(items.redacted, now, items.places).encode()),
            }
        };
        match without {
            // An old version has no place of its own to write to. What it says of others is in the current one.
            Some(bytes) if object.is_current() => self.replace(object, &stored, bytes).await,
            Some(_) | None => self.delete(object).await,
        }
    }

    /// The new version comes first: if the run ends in between, the next one finds the old version.
    async fn replace(&self, object: &Object, was: &Stored, bytes: Vec<u8>) -> anyhow::Result<()> {
        let new = self.archive.replace(&object.name, was, bytes).await?;
        // A bucket that keeps no versions has put it in the place of the old one.
        let is_overwritten = new.is_none_or(|id| id == NO_VERSION) && object.version_id() == Some(NO_VERSION);
        if object.version.is_some() && !is_overwritten {
            self.delete(object).await?;
        }
        Ok(())
    }

    async fn delete(&self, object: &Object) -> anyhow::Result<()> {
        match (&self.bucket, &object.version) {
            (Some(bucket), Some(version)) => Ok(bucket.delete(version).await?),
            _ => Ok(self.archive.delete(&object.name).await?),
        }
    }
}

fn add(found: &mut Found<Object>, object: &Object, place: &str, record: &Record, learner: &Learner) {
    let webhook =
        Webhook { place, message_id: Some(record.id.as_str()), received_at: Some(record.received_at) };
    found.add(object.clone(), webhook, &record.body, learner.find(&record.body));
}

/// Looks for the learner in the lines of a stream's file.
fn search_file(object: &Object, file: &RecordFile, learner: &Learner, found: &mut Found<Object>) {
    let mut of_file = Found::default();
    for (line, record) in file.records() {
        match record {
            Ok(record) => {
                let place = line_of(&object.name, line, None);
                add(&mut of_file, object, &place, &record, learner);
            }
            Err(_) if mentions(file, line, learner) => of_file.whole.push(object.clone()),
            // `archive verify` says that it is not a record.
            Err(_) => {}
        }
    }
    if file.is_damaged() {
        // Written anew, it would lose what may still be saved from it.
        let has = if of_file.count().all() > 0 { "; the learner is in it" } else { "" };
        found.unread.push(format!("{}: {}{has}", object.place(), damaged_after(file.lines())));
        (of_file.whole, of_file.items) = (Vec::new(), Vec::new());
    }
    found.merge(of_file);
}

/// Whether a line that is not a record names the learner.
fn mentions(file: &RecordFile, line: usize, learner: &Learner) -> bool {
    file.line(line).is_some_and(|line| learner.is_mentioned_in(&String::from_utf8_lossy(line)))
}

/// The file without the learner; `None` if nothing is left of it.
fn without_in_file(file: &RecordFile, learner: &Learner, now: Timestamp) -> anyhow::Result<Option<Vec<u8>>> {
    anyhow::ensure!(!file.is_damaged(), damaged_after(file.lines()));
    Ok(file.rewritten(|line| match file.record(line)? {
        Ok(record) => match learner.find(&record.body).part {
            Part::Nothing => None,
            Part::Whole => Some(Vec::new()),
            Part::Items(items) => Some(record.redacted(items.redacted, now, items.places).to_line()),
        },
        Err(_) => mentions(file, line, learner).then(Vec::new),
    }))
}
