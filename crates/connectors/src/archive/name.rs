//! The name of a record: `<type>/<yyyy>/<mm>/<dd>/<svix-id>.json.gz`, by the day on which it was received.
//!
//! By that day, and not by the one on which the event happened:
//!
//! - **A day that is over stays as it is.** A learner's phone sends events days late, and its clock may be wrong
//!   by years. Under their own days, nobody would find them, and they would change months that have been verified,
//!   exported and closed. To find events that happened on a day, read from that day on; the events say when they
//!   happened.
//! - **It is written once.** A message carries its time of receipt, so that time and name are the same on every
//!   retry and redrive. A message that the sender posts again has another time, and the ledger deduplicates it by
//!   its id. If the ledger has forgotten it, or a replay window covers it, it either finds its record under the
//!   same name, with the same body, or becomes a second record on another day, of that receipt and with its own
//!   signature.
//!
//! The type comes first, because rights to read and retention are set by prefix.
//!
//! A file of a stream is `layout=stream/<yyyy>/<mm>/<dd>/<any name>.jsonl.gz`. Its day is the one on which its oldest
//! record was put on the stream, because Firehose knows no other. [`LATE_AFTER`] keeps that day near the days on
//! which its records were received.

use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use learnink_webhook::MessageId;
use ring::digest;

/// The ending of every record's name.
const ENDING: &str = ".json.gz";

/// The folder of the files of a stream. No type has it, because [`segment`] escapes `=`.
pub(super) const STREAM_FOLDER: &str = "layout=stream";

/// The ending of a stream's files, which `template.yaml` sets.
const FILE_ENDING: &str = ".jsonl.gz";

/// A message that was received longer ago is not put on a stream. Its record becomes an object of its own, under its
/// day.
pub(super) const LATE_AFTER: Duration = Duration::from_hours(24);

/// How many days may lie between the day of a file and the one on which a record in it was received. Up to a day
/// passes before a record is on the stream. If Firehose cannot write, it tries for another day, and puts records of
/// that time into one file. The second day of each is for clocks that differ, and for midnight.
/// Source: Amazon Data Firehose developer guide, "Handle data delivery failures".
const APART_DAYS: i32 = 2;

/// Longer types and ids are cut, so that a name fits the limits of S3 and file systems: 1024 bytes in all, and 255
/// for a file.
/// Source: Amazon S3 user guide, "Naming Amazon S3 objects"; Linux, `NAME_MAX`.
const LONGEST_SEGMENT_BYTES: usize = 128;

/// How much of a cut type or id remains before its digest.
const CUT_BYTES: usize = 48;

/// The name of an object below the archive's URL: of a record, or of another object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name of a message's record.
    pub fn of(event_type: &str, received_at: Timestamp, id: &MessageId) -> Self {
        let day = day_of(received_at);
        let day = format!("{:04}/{:02}/{:02}", day.year(), day.month(), day.day());
        Self(format!("{}/{day}/{}{ENDING}", segment(event_type), segment(id.as_str())))
    }

    /// The name of an object that was found there.
    pub(super) fn found(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The day in the name; `None` if it has none.
    pub fn day(&self) -> Option<Date> {
        let mut parts = self.0.split('/').skip(1);
        let folder = Folder::OF_A_TYPE;
        let day = folder.below(parts.next()?)?.below(parts.next()?)?.below(parts.next()?)?;
        Some(day.first)
    }

    /// The message id in a record's name; `None` if it is not one. Bytes that are not safe in a name are escaped, which no
    /// id that Svix makes has.
    pub fn escaped_id(&self) -> Option<&str> {
        let last = self.is_of_a_record().then(|| self.0.rsplit('/').next())??;
        last.strip_suffix(ENDING)
    }

    /// Whether it is the name of a stream's file, which has many records.
    pub fn is_of_a_file(&self) -> bool {
        let is_in_the_folder = self.0.split('/').next() == Some(STREAM_FOLDER);
        is_in_the_folder
            && self.day().is_some()
            && self.0.split('/').count() == 5
            && self.0.ends_with(FILE_ENDING)
    }

    /// Whether records that were received between these days may be under it, both included: of an object the day,
    /// and of a stream's file the days around its day.
    pub fn may_have(&self, from: Option<Date>, to: Option<Date>) -> bool {
        let Some(day) = self.day() else { return from.is_none() && to.is_none() };
        let (first, last) = if self.is_of_a_file() { around(day, day) } else { (day, day) };
        from.is_none_or(|from| from <= last) && to.is_none_or(|to| first <= to)
    }

    /// The last day whose records are complete once every name of its own day or an earlier one is read.
    pub fn complete_day(&self) -> Option<Date> {
        self.day().map(|day| around(day, day).0)
    }

    /// Whether it is the name of a record. All names that [`Name::of`] makes are; no object that S3, a system or a
    /// person leaves in an archive has such a name.
    pub fn is_of_a_record(&self) -> bool {
        self.day().is_some() && self.0.split('/').count() == 5 && self.0.ends_with(ENDING)
    }
}

/// The days of the files whose records may have been received between these days, and the other way round.
pub(super) fn around(from: Date, to: Date) -> (Date, Date) {
    let apart = Span::new().days(APART_DAYS);
    (from.saturating_sub(apart), to.saturating_add(apart))
}

/// A folder of the archive, by its range of days: all days of a type, or one of its years, months or days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folder {
    first: Date,
    last: Date,
    period: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Type,
    Year,
    Month,
    Day,
}

impl Folder {
    /// The folder of a type.
    pub(super) const OF_A_TYPE: Self = Self { first: Date::MIN, last: Date::MAX, period: Period::Type };

    /// The folder of that name in it; `None` if it is not one of ours.
    pub(super) fn below(self, name: &str) -> Option<Self> {
        let is_number =
            |digits: usize| name.len() == digits && name.bytes().all(|byte| byte.is_ascii_digit());
        let first = match self.period {
            Period::Type if is_number(4) => Date::new(name.parse().ok()?, 1, 1),
            Period::Year if is_number(2) => Date::new(self.first.year(), name.parse().ok()?, 1),
            Period::Month if is_number(2) => {
                Date::new(self.first.year(), self.first.month(), name.parse().ok()?)
            }
            Period::Type | Period::Year | Period::Month | Period::Day => return None,
        };
        let first = first.ok()?;
        Some(match self.period {
            Period::Type => Self { first, last: first.last_of_year(), period: Period::Year },
            Period::Year => Self { first, last: first.last_of_month(), period: Period::Month },
            Period::Month | Period::Day => Self { first, last: first, period: Period::Day },
        })
    }

    /// The folder in it that has all days between these, and its name, if it is only one.
    pub(super) fn only_one_between(self, from: Date, to: Date) -> Option<(Self, String)> {
        let (from, to) = (from.max(self.first), to.min(self.last));
        let name = |day: Date| match self.period {
            Period::Type => format!("{:04}", day.year()),
            Period::Year => format!("{:02}", day.month()),
            Period::Month | Period::Day => format!("{:02}", day.day()),
        };
        let below = self.below(&name(from))?;
        (below.last >= to).then(|| (below, name(from)))
    }

    /// Whether it can have any of these days.
    pub(super) fn has_any_of(self, from: Date, to: Date) -> bool {
        self.first <= to && from <= self.last
    }

    /// Whether everything in it is listed at once: a month or a day whose days are all selected. The lists of
    /// years and types would be long, and only one page can be read at a time.
    pub(super) fn is_listed_whole(self, from: Date, to: Date) -> bool {
        match self.period {
            Period::Type | Period::Year => false,
            Period::Month => from <= self.first && self.last <= to,
            Period::Day => true,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The day in UTC.
pub fn day_of(time: Timestamp) -> Date {
    Offset::UTC.to_datetime(time).date()
}

/// A type or an id as one segment of a path. Different texts give different segments.
///
/// Letters, digits, `_`, `-` and full stops stay, except a leading full stop; every other byte becomes `!` and two
/// hexadecimal digits. A type comes from a payload, and might be `../..`. The escape is not `%`, because S3
/// advises against it in names, and many tools would decode it.
pub(super) fn segment(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_later_stop = byte == b'.' && !safe.is_empty();
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || is_later_stop {
            safe.push(char::from(byte));
        } else {
            push_hex(&mut safe, "!", &[byte]);
        }
    }
    match safe.len() {
        // A segment cannot be empty, and no other text becomes this one.
        0 => "!".to_owned(),
        1..=LONGEST_SEGMENT_BYTES => safe,
        _ => {
            safe.truncate(CUT_BYTES);
            push_hex(&mut safe, "!!", digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
            safe
        }
    }
}

fn push_hex(text: &mut String, mark: &str, bytes: &[u8]) {
    text.push_str(mark);
    for byte in bytes {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(event_type: &str, time: &str, id: &str) -> String {
        Name::of(event_type, time.parse().unwrap(), &MessageId::parse(id).unwrap()).to_string()
    }

    #[test]
    fn a_record_stands_under_its_type_and_the_day_it_was_received_in_utc() {
        let expected = "user.course.started/2026/03/01/msg_p5jXN8AQM9LWM0D4loKWxJek.json.gz";
        for time in ["2026-03-01T00:00:00Z", "2026-03-01T23:59:59.999Z", "2026-03-02T01:30:00+02:00"] {
            assert_eq!(name("user.course.started", time, "msg_p5jXN8AQM9LWM0D4loKWxJek"), expected);
        }
    }

    #[test]
    fn types_and_ids_cannot_leave_their_folder() {
        assert_eq!(segment("../../etc"), "!2e.!2f..!2fetc");
        assert_eq!(segment(".."), "!2e.");
        assert_eq!(segment(""), "!");
        assert_eq!(segment("a!2fb"), "a!212fb");
        assert_eq!(segment("kurs gestartet/é#1"), "kurs!20gestartet!2f!c3!a9!231");
    }

    #[test]
    fn the_day_is_read_back_from_the_name() {
        let day = |name: &str| Name::found(name).day().map(|day| day.to_string());
        assert_eq!(day(&name("a", "2026-03-01T12:00:00Z", "msg_1")), Some("2026-03-01".to_owned()));
        for other in ["", "a", "a/2026/03", "a/2026/13/01/b", "a/b/c/d/e", "readme.txt", "a/2026/+3/01/b"] {
            assert_eq!(day(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_of_a_stream_is_told_by_its_name_and_no_record_has_it() {
        let file = Name::found("layout=stream/2026/03/01/archive-1-2026-03-01-11-58-00-0a1b.jsonl.gz");
        assert!(file.is_of_a_file() && !file.is_of_a_record());
        for other in [
            "layout=stream/2026/03/01/a.json.gz",
            "layout=stream/2026/03/01/a.gz",
            "layout=stream/2026/02/30/a.jsonl.gz",
            "layout=stream/2026/03/01/12/a.jsonl.gz",
            "other/2026/03/01/a.jsonl.gz",
        ] {
            assert!(!Name::found(other).is_of_a_file(), "{other}");
        }
        assert!(!name("layout=stream", "2026-03-01T12:00:00Z", "msg_1").starts_with(STREAM_FOLDER));
    }

    #[test]
    fn a_file_may_have_records_of_the_days_around_its_own() {
        let day = |text: &str| Some(text.parse::<Date>().unwrap());
        let file = Name::found("layout=stream/2026/03/01/a.jsonl.gz");
        assert!(file.may_have(day("2026-03-03"), None) && !file.may_have(day("2026-03-04"), None));
        assert!(file.may_have(None, day("2026-02-27")) && !file.may_have(None, day("2026-02-26")));
        let object = Name::found("a/2026/03/01/msg_1.json.gz");
        assert!(object.may_have(day("2026-03-01"), day("2026-03-01")));
        assert!(!object.may_have(day("2026-03-02"), None) && !object.may_have(None, day("2026-02-28")));
        assert!(
            Name::found("readme.txt").may_have(None, None)
                && !Name::found("a").may_have(day("2026-03-01"), None)
        );
        assert_eq!(file.complete_day(), day("2026-02-27"));
    }

    #[test]
    fn a_record_is_told_by_its_name() {
        assert!(Name::found(name("a/../b", "2026-03-01T12:00:00Z", "msg_1")).is_of_a_record());
        for other in [
            "",
            "a/2026/03/01",
            "a/2026/03/01/msg_1",
            "a/2026/03/01/msg_1.json",
            "a/2026/03/01/b/msg_1.json.gz",
            "a/2026/02/29/msg_1.json.gz",
            "2026/03/01/msg_1.json.gz",
        ] {
            assert!(!Name::found(other).is_of_a_record(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_type_and_id_is_one_safe_segment_that_fits(text in any::<String>(), times in 1_usize..20) {
            let segment = segment(&text.repeat(times));
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.!".contains(&byte);
            prop_assert!(segment.bytes().all(is_safe), "{segment}");
            prop_assert!(!segment.is_empty() && !segment.starts_with('.'));
            prop_assert!(segment.len() + ENDING.len() <= 255);
        }

        #[test]
        fn two_texts_never_share_a_segment(
            a in "[a!./#2e]{0,6}",
            b in "[a!./#2e]{0,6}",
            times in 1_usize..60,
        ) {
            let (a, b) = (a.repeat(times), b.repeat(times));
            prop_assume!(a != b);
            prop_assert_ne!(segment(&a), segment(&b));
        }
    }
}
