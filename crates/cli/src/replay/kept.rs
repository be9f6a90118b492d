//! What is kept of webhooks: the records of the archive, and the rows of the table of unknown events.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use learnink_connectors::archive::{self, Archive, Record, RecordFile};
use learnink_connectors::unknown::UnknownEvents;
use learnink_receiver::Verifier;
use learnink_webhook::{Envelope, Message, MessageId};
use tokio::sync::{Mutex, Semaphore};

use crate::archive::verify::{REDACTED, check, proven};
use crate::archive::{FILES_AT_ONCE, damaged_after, line_of};

/// Where messages are kept.
pub(super) enum Store {
    Archive(Kept),
    Unknown(UnknownEvents),
}

/// The archive, and the files of its stream that were read last: the messages of one file are sent one after another.
pub(super) struct Kept {
    archive: Archive,
    reading: Semaphore,
    files: Mutex<VecDeque<(archive::Name, Arc<RecordFile>)>>,
}

impl Kept {
    pub(super) fn new(archive: Archive) -> Self {
        Self { archive, reading: Semaphore::new(FILES_AT_ONCE), files: Mutex::default() }
    }

    /// A file, read again only if others were read meanwhile.
    async fn file(&self, name: &archive::Name) -> Result<Arc<RecordFile>, String> {
        // Held while a file is read, so that it is read once for all its messages.
        let mut files = self.files.lock().await;
        if let Some((_, file)) = files.iter().find(|(known, _)| known == name) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.archive.read_file(name).await.map_err(|error| error.to_string())?);
        files.truncate(FILES_AT_ONCE - 1);
        files.push_front((name.clone(), file.clone()));
        Ok(file)
    }
}

/// Where one message is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A record of the archive.
    Record(archive::Name),
    /// A file of the archive's stream, whose lines are messages.
    File(archive::Name),
    /// A line of such a file, from 1.
    Line(archive::Name, usize),
    /// A row of the table.
    Row(MessageId),
}

impl Key {
    /// Its name for a person.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Record(name) | Self::File(name) => name.to_string(),
            Self::Line(name, line) => line_of(name, *line, None),
            Self::Row(id) => id.to_string(),
        }
    }
}

/// Where messages are kept that may be wanted.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) keys: Vec<Key>,
    /// How many objects of the archive are not records.
    pub(super) others: usize,
    /// How many files of a stream there are.
    pub(super) files: usize,
}

/// Which messages are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Received at or after this time.
    pub(super) from: Option<Timestamp>,
    /// Received before this time.
    pub(super) until: Option<Timestamp>,
    /// Of these types; all if it is empty.
    pub(super) types: BTreeSet<String>,
    /// With these ids; all if it is empty.
    pub(super) messages: BTreeSet<MessageId>,
}

/// A message that can be sent again, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) id: MessageId,
    pub(super) event_type: String,
    pub(super) received_at: Timestamp,
}

/// What a kept message is to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// It is wanted, and can be sent again.
    Chosen(Candidate),
    /// It is not wanted.
    Other,
    /// It is wanted, and is not an event, so that no handler could run.
    NoEvent(MessageId),
    /// It is wanted, and nothing proves that LearnInk signed it, for this reason.
    Unproven(String),
}

impl Wanted {
    fn has_time(&self, received_at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= received_at) && self.until.is_none_or(|until| received_at < until)
    }

    /// Whether a record of this name may be of a wanted message: the last part of a name is its id's.
    fn may_be(&self, name: &archive::Name) -> bool {
        let file = |name: &archive::Name| name.as_str().rsplit('/').next().map(str::to_owned);
        let of_id = |id: &MessageId| file(&archive::Name::of("", Timestamp::UNIX_EPOCH, id));
        self.messages.is_empty() || self.messages.iter().any(|id| of_id(id) == file(name))
    }

    fn has_id(&self, id: &MessageId) -> bool {
        self.messages.is_empty() || self.messages.contains(id)
    }

    fn has_type(&self, event_type: &str) -> bool {
        self.types.is_empty() || self.types.contains(event_type)
    }

    /// The days on which they were received, if both ends are known.
    fn days(&self) -> Option<(Date, Date)> {
        let day = |time: Timestamp| TimeZone::UTC.to_datetime(time).date();
        Some((day(self.from?), day(self.until?)))
    }
}

impl Store {
    /// Where messages are kept that may be wanted: of the archive, those of the days and types.
    pub(super) async fn list(&self, wanted: &Wanted) -> anyhow::Result<Listed> {
        match self {
            Self::Archive(archive) => {
                let types: Vec<_> = if wanted.types.is_empty() {
                    vec![None]
                } else {
                    wanted.types.iter().cloned().map(Some).collect()
                };
                let mut listed = Listed::default();
                // A file has records of all types.
                let mut files = BTreeSet::new();
                for event_type in types {
                    let selection = archive::Selection { event_type, days: wanted.days() };
                    let found = archive.archive.list(&selection).await?;
                    files.extend(found.files);
                    let records = found.records.into_iter().filter(|name| wanted.may_be(name));
                    listed.keys.extend(records.map(Key::Record));
                    listed.others += found.others.len();
                }
                listed.files = files.len();
                listed.keys.extend(files.into_iter().map(Key::File));
                Ok(listed)
            }
            Self::Unknown(_) if !wanted.messages.is_empty() => {
                let keys = wanted.messages.iter().cloned().map(Key::Row).collect();
                Ok(Listed { keys, ..Listed::default() })
            }
            Self::Unknown(table) => {
                let events = table.all().await?;
                let events = events
                    .into_iter()
                    .filter(|event| wanted.has_time(event.received_at) && wanted.has_type(&event.event_type));
                let ids = events.filter_map(|event| MessageId::parse(&event.message_id).ok());
                let keys = ids.filter(|id| wanted.has_id(id)).map(Key::Row).collect();
                Ok(Listed { keys, ..Listed::default() })
            }
        }
    }

    /// Reads a message, or all messages of a file, and judges each. Without a `verifier`, nothing has to be proven.
    /// What cannot be read is named for a person, with the reason.
    pub(super) async fn judge(
        &self,
        key: &Key,
        wanted: &Wanted,
        verifier: Option<&Verifier>,
    ) -> Vec<(String, Result<Judged, String>)> {
        if let (Self::Archive(archive), Key::File(name)) = (self, key) {
            // It is closed only with the last of its users.
            let _permit = archive.reading.acquire().await;
            return match archive.archive.read_file(name).await {
                Ok(file) => judged_lines(name, &file, wanted, verifier),
                Err(error) => vec![(key.name(), Err(error.to_string()))],
            };
        }
        vec![(key.name(), self.judge_one(key, wanted, verifier).await)]
    }

    async fn judge_one(
        &self,
        key: &Key,
        wanted: &Wanted,
        verifier: Option<&Verifier>,
    ) -> Result<Judged, String> {
        match (self, key) {
            (Self::Archive(archive), Key::Record(name)) => {
                let bytes = archive.archive.read(name).await.map_err(|error| error.to_string())?;
                let record = Record::decode(&bytes).map_err(|error| error.to_string())?;
                let proof = || verifier.map_or(Ok(()), |verifier| check(name, &record, verifier));
                Ok(judged(key, &record, wanted, proof))
            }
            (Self::Unknown(table), Key::Row(id)) => match of_row(table, id).await? {
                Some(record) => {
                    let proof = || verifier.map_or(Ok(()), |verifier| proven(&record, verifier).map(drop));
                    Ok(judged(key, &record, wanted, proof))
                }
                // It expired meanwhile.
                None => Ok(Judged::Other),
            },
            (Self::Archive(_), Key::File(_) | Key::Line(..) | Key::Row(_))
            | (Self::Unknown(_), Key::Record(_) | Key::File(_) | Key::Line(..)) => {
                Err(format!("{} is kept elsewhere", key.name()))
            }
        }
    }

    /// Reads a message; `None` if it is not kept any more.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, for a person.
    pub(super) async fn message(&self, key: &Key) -> Result<Option<Message>, String> {
        match (self, key) {
            (Self::Archive(archive), Key::Record(name)) => {
                let bytes = archive.archive.read(name).await.map_err(|error| error.to_string())?;
                let record = Record::decode(&bytes).map_err(|error| error.to_string())?;
                Ok(Some(record.into_message()))
            }
            (Self::Archive(archive), Key::Line(name, line)) => {
                let record = archive.file(name).await?.record(*line);
                let record = record.transpose().map_err(|error| error.to_string())?;
                Ok(record.map(Record::into_message))
            }
            (Self::Unknown(table), Key::Row(id)) => Ok(of_row(table, id).await?.map(Record::into_message)),
            (Self::Unknown(_), Key::Record(_) | Key::Line(..))
            | (Self::Archive(_), Key::Row(_))
            | (_, Key::File(_)) => Err(format!("{} is kept elsewhere", key.name())),
        }
    }
}

/// The record of a row; `None` if it is not kept any more.
async fn of_row(table: &UnknownEvents, id: &MessageId) -> Result<Option<Record>, String> {
    let row = table.record(id).await.map_err(anyhow::Error::from);
    row.context("the row cannot be read").map_err(|error| format!("{error:#}"))
}

/// What the lines of a stream's file are to a run. A line that cannot be read may be wanted, so it is named.
fn judged_lines(
    name: &archive::Name,
    file: &RecordFile,
    wanted: &Wanted,
    verifier: Option<&Verifier>,
) -> Vec<(String, Result<Judged, String>)> {
    let judge = |(line, record): (usize, Result<Record, archive::RecordError>)| match record {
        Ok(record) => {
            let proof = || verifier.map_or(Ok(()), |verifier| check(name, &record, verifier));
            let judged = judged(&Key::Line(name.clone(), line), &record, wanted, proof);
            (judged != Judged::Other).then(|| (line_of(name, line, Some(&record)), Ok(judged)))
        }
        Err(error) => Some((line_of(name, line, None), Err(error.to_string()))),
    };
    let mut lines: Vec<_> = file.records().filter_map(judge).collect();
    if file.is_damaged() {
        lines.push((name.to_string(), Err(damaged_after(file.lines()))));
    }
    lines
}

/// What a record is to a run. `proof` is asked only for what is wanted.
fn judged(key: &Key, record: &Record, wanted: &Wanted, proof: impl FnOnce() -> Result<(), String>) -> Judged {
    if !wanted.has_time(record.received_at) || !wanted.has_id(&record.id) {
        return Judged::Other;
    }
    let envelope = Envelope::parse(&record.body);
    let event_type = envelope.as_ref().map(|envelope| envelope.event_type.clone()).unwrap_or_default();
    if !wanted.has_type(&event_type) {
        return Judged::Other;
    }
    // Even if nothing has to be proven: the ledger would take it for another message with the same id.
    if record.redaction.is_some() {
        return Judged::Unproven(REDACTED.to_owned());
    }
    match (envelope, proof()) {
        (_, Err(reason)) => Judged::Unproven(reason),
        (Err(_), Ok(())) => Judged::NoEvent(record.id.clone()),
        (Ok(_), Ok(())) => Judged::Chosen(Candidate {
            key: key.clone(),
            id: record.id.clone(),
            event_type,
            received_at: record.received_at,
        }),
    }
}

/// The candidates, each message once, the oldest first.
pub(super) fn each_once(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| (a.received_at, &a.id).cmp(&(b.received_at, &b.id)));
    let mut seen = BTreeSet::new();
    candidates.retain(|candidate| seen.insert(candidate.id.clone()));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"type":"example.type","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;

    fn record(id: &str, received_at: &str, body: &str) -> Record {
        Record {
            id: MessageId::parse(id).unwrap(),
            signed_at_s: 0,
            signature: "v1,".to_owned(),
            received_at: received_at.parse().unwrap(),
            body: body.into(),
            redaction: None,
        }
    }

    fn judge(record: &Record, wanted: &Wanted, proof: Result<(), String>) -> Judged {
        judged(&Key::Row(record.id.clone()), record, wanted, || proof)
    }

    fn wanted() -> Wanted {
        Wanted {
            from: Some("2026-01-01T08:00:00Z".parse().unwrap()),
            until: Some("2026-01-01T10:00:00Z".parse().unwrap()),
            types: BTreeSet::from(["example.type".to_owned()]),
            messages: BTreeSet::new(),
        }
    }

    #[test]
    fn exactly_what_the_filter_names_is_chosen() {
        let chosen = |id: &str, at: &str, body: &str, wanted: &Wanted| {
            matches!(judge(&record(id, at, body), wanted, Ok(())), Judged::Chosen(_))
        };
        for (at, expected) in [
            ("2026-01-01T07:59:59.999Z", false),
            ("2026-01-01T08:00:00Z", true),
            ("2026-01-01T09:59:59.999Z", true),
            ("2026-01-01T10:00:00Z", false),
        ] {
            assert_eq!(chosen("msg_1", at, BODY, &wanted()), expected, "{at}");
        }
        let other_type = BODY.replace("example.type", "other.type");
        assert!(!chosen("msg_1", "2026-01-01T09:00:00Z", &other_type, &wanted()));
        assert!(chosen("msg_1", "2026-01-01T09:00:00Z", &other_type, &Wanted::default()));
        let one = Wanted { messages: BTreeSet::from([MessageId::parse("msg_1").unwrap()]), ..wanted() };
        assert!(chosen("msg_1", "2026-01-01T09:00:00Z", BODY, &one));
        assert!(!chosen("msg_2", "2026-01-01T09:00:00Z", BODY, &one));
    }

    #[test]
    fn what_is_not_proven_or_is_no_event_is_not_chosen() {
        let at = "2026-01-01T09:00:00Z";
        let unproven = judge(&record("msg_1", at, BODY), &wanted(), Err("no signature matches".to_owned()));
        assert_eq!(unproven, Judged::Unproven("no signature matches".to_owned()));
        let all = Wanted { types: BTreeSet::new(), ..wanted() };
        let no_event = record("msg_1", at, "not json");
        assert_eq!(judge(&no_event, &all, Ok(())), Judged::NoEvent(no_event.id.clone()));
        // What is not asked for is not proven either: it may be of a time whose secret nobody has.
        let early = record("msg_1", "2020-01-01T00:00:00Z", BODY);
        assert_eq!(judged(&Key::Row(early.id.clone()), &early, &wanted(), || panic!("asked")), Judged::Other);
    }

    #[test]
    fn a_redacted_record_is_not_chosen_even_if_nothing_has_to_be_proven() {
        let at = "2026-01-01T09:00:00Z";
        let redacted = record("msg_1", at, BODY).redacted(BODY.into(), Timestamp::UNIX_EPOCH, 1);
        assert_eq!(judge(&redacted, &wanted(), Ok(())), Judged::Unproven(REDACTED.to_owned()));
        let early =
            record("msg_1", "2020-01-01T00:00:00Z", BODY).redacted(BODY.into(), Timestamp::UNIX_EPOCH, 1);
        assert_eq!(judge(&early, &wanted(), Ok(())), Judged::Other);
    }

    #[test]
    fn a_message_that_is_kept_twice_is_sent_once() {
        let candidate = |id: &str, at: &str| match judge(&record(id, at, BODY), &wanted(), Ok(())) {
            Judged::Chosen(candidate) => candidate,
            other => panic!("{other:?}"),
        };
        let candidates = vec![
            candidate("msg_1", "2026-01-01T09:30:00Z"),
            candidate("msg_2", "2026-01-01T09:00:00Z"),
            candidate("msg_1", "2026-01-01T08:30:00Z"),
        ];
        let once: Vec<_> =
            each_once(candidates).into_iter().map(|one| (one.id.to_string(), one.received_at)).collect();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(
            once,
            [
                ("msg_1".to_owned(), at("2026-01-01T08:30:00Z")),
                ("msg_2".to_owned(), at("2026-01-01T09:00:00Z"))
            ]
        );
    }

    #[test]
    fn a_record_of_another_message_is_known_by_its_name_and_not_read() {
        let name = |id: &str| {
            let id = MessageId::parse(id).unwrap();
            archive::Name::of("example.type", "2026-01-01T09:00:00Z".parse().unwrap(), &id)
        };
        let odd = "msg/1%";
        let one = Wanted { messages: BTreeSet::from([MessageId::parse(odd).unwrap()]), ..Wanted::default() };
        assert!(one.may_be(&name(odd)) && !one.may_be(&name("msg_2")));
        assert!(Wanted::default().may_be(&name("msg_2")));
    }

    #[test]
    fn only_the_days_of_a_range_are_listed() {
        assert_eq!(Wanted::default().days(), None);
        let wanted = Wanted { until: Some("2026-01-03T00:00:00Z".parse().unwrap()), ..wanted() };
        let day = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(wanted.days(), Some((day("2026-01-01"), day("2026-01-03"))));
    }
}
