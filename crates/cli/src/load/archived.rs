//! The records of a run in the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::Timestamp;
use learnink_connectors::archive::{Archive, Name, Selection, day_of};

use super::BETWEEN_LOOKS;
use super::plan::Ids;
use crate::output::note;
use crate::stack::{InAws, Stack};
use crate::{archive, now};

/// An archive, and when the run began.
pub(super) struct Archived {
    archive: Archive,
    from: Timestamp,
}

impl Archived {
    /// The archive at `given`, or that of the stack; `None` without one, and for a stack whose archive is a stream, which
    /// it says.
    pub(super) async fn open(
        given: Option<&str>,
        in_aws: &InAws,
        stack: Option<&Stack>,
        from: Timestamp,
    ) -> anyhow::Result<Option<Self>> {
        let of_the_stack = stack.and_then(|stack| stack.optional("ArchiveUrl"));
        let is_late = stack.is_some_and(|stack| stack.optional("ArchiveStreamName").is_some());
        if let (None, Some(url), true) = (given, of_the_stack, is_late) {
            note(format!(
                "the archive is a stream, so its records are not counted; --archive {url} --wait 20m does"
            ))?;
            return Ok(None);
        }
        let Some(url) = given.or(of_the_stack) else { return Ok(None) };
        let aws = || stack.map_or_else(|| in_aws.config(), |stack| Ok(stack.aws.clone()));
        Ok(Some(Self { archive: archive::open(url, aws).await?, from }))
    }

    /// How many records there are of each message, once all of `awaited` have one or the time is up. What a stream keeps
    /// twice counts once.
    pub(super) async fn counts(
        &self,
        ids: &Ids,
        awaited: &BTreeSet<usize>,
        deadline: Instant,
    ) -> anyhow::Result<BTreeMap<String, u32>> {
        let awaited: Vec<_> = awaited.iter().map(|number| ids.message(*number).to_string()).collect();
        let (mut of_files, mut read) = (BTreeSet::new(), BTreeSet::<Name>::new());
        loop {
            let days = Some((day_of(self.from), day_of(now())));
            let listing = self.archive.list(&Selection { event_type: None, days }).await?;
            for name in listing.files {
                // A file does not change any more.
                if !read.contains(&name) {
                    let file = self.archive.read_file(&name).await?;
                    of_files
                        .extend(file.records().filter_map(|(_, record)| Some(record.ok()?.id.to_string())));
                    read.insert(name);
                }
            }
            let mut counts: BTreeMap<_, _> = of_files.iter().map(|id| (id.clone(), 1)).collect();
            for id in listing.records.iter().filter_map(Name::escaped_id) {
                *counts.entry(id.to_owned()).or_default() += 1;
            }
            if awaited.iter().all(|id| counts.contains_key(id)) || Instant::now() > deadline {
                return Ok(counts);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}
