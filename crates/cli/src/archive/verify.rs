//! `learnink archive verify`: proves each record with the signing secrets of its time.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::civil::Date;
use learnink_connectors::archive::{Fingerprint, Name, Record, RecordFile, day_of};
use learnink_receiver::{Refusal, VerifiedWebhook, Verifier, signature_headers};
use learnink_webhook::Envelope;
use tokio::sync::Semaphore;

use super::{
    Days, FILES_AT_ONCE, IN_S3, OpenArchive, READS_AT_ONCE, Source, beside, by_day, damaged_after, line_of,
    records,
};
use crate::{output, secrets, variable};

/// The variable with the secrets, unless a file has them.
const SECRETS: &str = "LEARNINK_SIGNING_SECRET";

/// Options of `learnink archive verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A record is good when one of the secrets signed its id, time and body, when it was received
within five minutes of that time, and when it stands under the name that its content says, or in a
stream's file of its day or of the two days around it. Its age does not matter: use the secrets that
were valid when it was received. A rotation makes that two or more.

A secret that leaked proves nothing of what was received after it was replaced: verify those days
without it.

Each bad record is one line with its name and the reason, and so is one that cannot be read. Of a
stream's file, the line says the file, the line in it and the message id. A stream may keep a record
twice: copies are counted once. The exit code is 0 when all are good, and 1 when any is not or there
is none. Records from which `learnink forget` has removed a learner cannot be proven, and are counted
by themselves: `learnink acts` says how many there should be. What does not have the name of a record, such as a read-me or an inventory, is counted and
not looked at. This command cannot notice that a record was deleted or moved; the versions that the
bucket keeps show it.

Examples:
  cargo learnink archive verify --archive s3://acme-archive/learnink \\
    --secret-file secrets.txt
  cargo learnink archive verify --archive s3://acme-archive/learnink \\
    --secret-file secrets.txt --from 2026-03-01 --type user.course.started

{IN_S3}"))]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// File with the signing secrets, whsec_..., separated by spaces or lines, or - for standard input; without
    /// it, `LEARNINK_SIGNING_SECRET` has them. The command line cannot have them, because others on this machine
    /// can read it
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    days: Days,
}

/// Proves the records, and reports those that cannot be proven.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let verifier = verifier(args)?;
    let archive = args.source.open().await?;
    let listing = archive.list(&args.days).await?;
    let others = listing.others.clone();
    let names = by_day(listing);
    // A typo in the URL must not look like a proof.
    let nothing =
        || anyhow::anyhow!("there is nothing to verify in {}{}", archive.what(&args.days), beside(&others));
    anyhow::ensure!(!names.is_empty(), nothing());

    let progress = ProgressBar::new(names.len().try_into()?);
    progress.set_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} verified, {per_sec}, {eta} left",
    )?);
    let files = Semaphore::new(FILES_AT_ONCE);
    let checks = names.into_iter().map(|name| {
        let (archive, verifier, files) = (&archive, &verifier, &files);
        async move {
            let checked = checked(archive, &args.days, verifier, &name, files).await;
            (name, checked)
        }
    });
    let mut checks = stream::iter(checks).buffered(READS_AT_ONCE);
    let (mut good, mut bad, mut unreadable) = (Good::default(), 0_usize, 0_usize);
    let mut redacted = 0_usize;
    while let Some((name, checked)) = checks.next().await {
        progress.inc(1);
        bad += checked.bad.len();
        redacted += checked.redacted;
        unreadable += usize::from(checked.unreadable.is_some());
        let unreadable = checked.unreadable.map(|reason| (name.to_string(), reason));
        for (place, reason) in checked.bad.into_iter().chain(unreadable) {
            progress.suspend(|| output::print(format!("{place}: {reason}")))?;
        }
        good.add(checked.good, name.complete_day());
    }
    progress.finish_and_clear();
    let count = good.count + bad + unreadable;
    anyhow::ensure!(count + redacted > 0, nothing());
    let count = records(count);
    output::print(match (bad, unreadable) {
        (0, 0) => format!("{count}, all signed by LearnInk"),
        (_, 0) => format!("{count}, {bad} bad"),
        _ => format!("{count}, {bad} bad, {unreadable} unreadable"),
    })?;
    match redacted {
        0 => {}
        1 => output::print("1 record is redacted, after `learnink forget`: nothing proves it any more")?,
        count => output::print(format!(
            "{count} records are redacted, after `learnink forget`: nothing proves them any more"
        ))?,
    }
    match good.copies {
        0 => {}
        1 => output::print("1 copy of a record is not counted")?,
        copies => output::print(format!("{copies} copies of records are not counted"))?,
    }
    if let Some(name) = others.first() {
        let name = name.as_str().escape_default();
        output::print(match others.len() {
            1 => format!("1 other object is not a record and was not looked at: {name}"),
            count => format!("{count} other objects are not records and were not looked at, such as {name}"),
        })?;
    }
    Ok(if bad + unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What one object or file has.
#[derive(Debug, Default)]
struct Checked {
    good: Vec<(Date, Fingerprint)>,
    /// Where, and why.
    bad: Vec<(String, String)>,
    /// How many records are where they belong, and redacted.
    redacted: usize,
    /// Why it cannot be read. That says nothing about the others.
    unreadable: Option<String>,
}

/// The good records, each counted once.
#[derive(Debug, Default)]
struct Good {
    count: usize,
    copies: usize,
    /// Those of the days of which more may come: all copies of a record have its day.
    known: BTreeMap<Date, HashSet<Fingerprint>>,
}

impl Good {
    /// Adds those under one name. Names come by day; `complete` is the last day of which no more can come after it.
    fn add(&mut self, records: Vec<(Date, Fingerprint)>, complete: Option<Date>) {
        for (day, fingerprint) in records {
            let is_new = self.known.entry(day).or_default().insert(fingerprint);
            *if is_new { &mut self.count } else { &mut self.copies } += 1;
        }
        if let Some(complete) = complete {
            self.known.retain(|day, _| *day >= complete);
        }
    }
}

async fn checked(
    archive: &OpenArchive,
    days: &Days,
    verifier: &Verifier,
    name: &Name,
    files: &Semaphore,
) -> Checked {
    if name.is_of_a_file() {
        // It is closed only with the last of its users.
        let _permit = files.acquire().await;
        return match archive.archive.read_file(name).await {
            Ok(file) => {
                let is_selected = |record: &Record| archive.selects(days, record, &event_type(record));
                in_file(name, &file, is_selected, verifier)
            }
            Err(error) => Checked { unreadable: Some(error.to_string()), ..Checked::default() },
        };
    }
    let bytes = match archive.archive.read(name).await {
        Ok(bytes) => bytes,
        Err(error) => return Checked { unreadable: Some(error.to_string()), ..Checked::default() },
    };
    let mut checked = Checked::default();
    match Record::decode(&bytes) {
        Ok(record) => checked.add(name, &record, verifier, || name.to_string()),
        Err(error) => checked.bad.push((name.to_string(), error.to_string())),
    }
    checked
}

impl Checked {
    /// Checks a record, which is bad at `place`.
    fn add(&mut self, name: &Name, record: &Record, verifier: &Verifier, place: impl FnOnce() -> String) {
        let checked = match record.redaction {
            None => check(name, record, verifier),
            Some(_) => is_in_place(name, record),
        };
        match (checked, record.redaction) {
            (Ok(()), None) => self.good.push((day_of(record.received_at), record.fingerprint())),
            (Ok(()), Some(_)) => self.redacted += 1,
            (Err(reason), _) => self.bad.push((place(), reason)),
        }
    }
}

/// Checks the selected records of a stream's file. A line that cannot be read has neither a day nor a type, so it is
/// always bad.
fn in_file(
    name: &Name,
    file: &RecordFile,
    is_selected: impl Fn(&Record) -> bool,
    verifier: &Verifier,
) -> Checked {
    let mut checked = Checked::default();
    for (line, record) in file.records() {
        match record {
            Ok(record) if !is_selected(&record) => {}
            Ok(record) => checked.add(name, &record, verifier, || line_of(name, line, Some(&record))),
            Err(error) => checked.bad.push((line_of(name, line, None), error.to_string())),
        }
    }
    if file.is_damaged() {
        checked.bad.push((name.to_string(), damaged_after(file.lines())));
    }
    checked
}

/// The type of a record's event; empty if it is not one.
fn event_type(record: &Record) -> String {
    Envelope::parse(&record.body).unwrap_or_else(|_| Envelope::of_no_event()).event_type
}

fn verifier(args: &Args) -> anyhow::Result<Verifier> {
    let given = match &args.secret_file {
        Some(file) => secrets::in_file(file)?,
        None => variable(SECRETS)
            .map(|secrets| secrets::without_wrapping(&secrets))
            .with_context(|| format!("there is no signing secret; pass --secret-file, or set {SECRETS}"))?,
    };
    Verifier::new(&given).context("the signing secrets cannot be used")
}

/// Why a record under that name, or in that file of a stream, is not a valid one, without quoting its content.
pub(crate) fn check(name: &Name, record: &Record, verifier: &Verifier) -> Result<(), String> {
    proven(record, verifier)?;
    is_in_place(name, record)
}

/// Whether a record is under the name that its content says, or in a file of a stream of its day.
fn is_in_place(name: &Name, record: &Record) -> Result<(), String> {
    if name.is_of_a_file() {
        let day = day_of(record.received_at);
        let is_near = name.may_have(Some(day), Some(day));
        return if is_near {
            Ok(())
        } else {
            Err(format!("it was received on {day}, which is not near the file's day"))
        };
    }
    // A genuine webhook that is not an event is kept too, without a type.
    let expected = Name::of(&event_type(record), record.received_at, &record.id);
    if *name == expected { Ok(()) } else { Err(format!("its content belongs under {expected}")) }
}

/// Why a redacted record is not sent again, or is not proven.
pub(crate) const REDACTED: &str = "a learner was removed from it, and nothing proves the rest";

/// The webhook of a record that one of the secrets proves, or why none does.
pub(crate) fn proven(record: &Record, verifier: &Verifier) -> Result<VerifiedWebhook, String> {
    if record.redaction.is_some() {
        return Err(REDACTED.to_owned());
    }
    let headers = record.headers();
    let headers = signature_headers(headers.iter().map(|(name, value)| (*name, value.as_str())));
    // As it was verified then: by the signature's age at that time, not today's.
    let proven = verifier.verify(&headers, record.body.clone(), record.received_at);
    proven.map_err(|unverified| match unverified.refusal {
        Refusal::TimestampTooOld | Refusal::TimestampInFuture => {
            "it says that it was received more than five minutes from when it was signed".to_owned()
        }
        refusal => refusal.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use learnink_webhook::MessageId;
    use svix::webhooks::Webhook;

    use super::*;

    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &str =
        r#"{"type":"example.type","data":{"n":"+254705408079"},"timestamp":"2022-11-04T09:58:58Z"}"#;
    const SIGNED_AT_S: i64 = 1_700_000_000;

    fn record(secret: &str, body: &str) -> Record {
        let signature = Webhook::new(secret).unwrap().sign("msg_1", SIGNED_AT_S, body.as_bytes()).unwrap();
        Record {
            id: MessageId::parse("msg_1").unwrap(),
            signed_at_s: SIGNED_AT_S,
            signature,
            received_at: Timestamp::from_second(SIGNED_AT_S + 2).unwrap(),
            body: body.into(),
            redaction: None,
        }
    }

    fn checked(secrets: &str, record: &Record) -> Result<(), String> {
        let name = Name::of("example.type", Timestamp::from_second(SIGNED_AT_S).unwrap(), &record.id);
        check(&name, record, &Verifier::new(secrets).unwrap())
    }

    #[test]
    fn a_record_is_good_years_later_with_a_secret_of_its_time() {
        assert_eq!(checked(OLD, &record(OLD, BODY)), Ok(()));
        assert_eq!(checked(&format!("{NEW}\n{OLD}\n"), &record(OLD, BODY)), Ok(()));
        assert_eq!(checked(NEW, &record(OLD, BODY)), Err("no signature matches".to_owned()));
    }

    #[test]
    fn a_record_that_says_anything_else_than_what_was_signed_is_bad() {
        let good = record(OLD, BODY);
        let reason = |record: Record| {
            let reason = checked(OLD, &record).unwrap_err();
            assert!(!reason.contains("2547"), "{reason}");
            reason
        };
        let other_body = BODY.replace("8079", "8070").into_bytes();
        assert_eq!(reason(Record { body: other_body, ..good.clone() }), "no signature matches");
        let other_id = MessageId::parse("msg_2").unwrap();
        assert_eq!(reason(Record { id: other_id, ..good.clone() }), "no signature matches");
        let other_time = Record { signed_at_s: SIGNED_AT_S + 1, ..good.clone() };
        assert_eq!(reason(other_time), "no signature matches");
        let later = Timestamp::from_second(SIGNED_AT_S + 301).unwrap();
        assert_eq!(
            reason(Record { received_at: later, ..good }),
            "it says that it was received more than five minutes from when it was signed"
        );
        let no_event = "its content belongs under !/2023/11/14/msg_1.json.gz";
        assert_eq!(reason(record(OLD, "+254705408079!")), no_event);
    }

    #[test]
    fn a_record_of_what_is_not_an_event_is_good_under_no_type() {
        for body in ["", "not json", "[1]", r#"{"success":true}"#, r#"{"type":null}"#] {
            let record = record(OLD, body);
            let name = Name::of("", record.received_at, &record.id);
            assert_eq!(check(&name, &record, &Verifier::new(OLD).unwrap()), Ok(()), "{body}");
        }
    }

    #[test]
    fn a_redacted_record_is_neither_good_nor_bad_and_has_to_be_in_its_place() {
        let verifier = Verifier::new(OLD).unwrap();
        let redacted =
            record(OLD, BODY).redacted(BODY.replace("+254705408079", "-").into(), Timestamp::UNIX_EPOCH, 1);
        let name = Name::of("example.type", redacted.received_at, &redacted.id);
        let counts = |name: &Name| {
            let mut checked = Checked::default();
            checked.add(name, &redacted, &verifier, || name.to_string());
            (checked.good.len(), checked.redacted, checked.bad.len())
        };
        assert_eq!(counts(&name), (0, 1, 0));
        assert_eq!(counts(&Name::of("other.type", redacted.received_at, &redacted.id)), (0, 0, 1));
        assert_eq!(check(&name, &redacted, &verifier), Err(REDACTED.to_owned()));
    }

    #[test]
    fn a_record_under_another_name_is_bad() {
        let elsewhere = Name::of("example.type", Timestamp::UNIX_EPOCH, &MessageId::parse("msg_1").unwrap());
        let checked = check(&elsewhere, &record(OLD, BODY), &Verifier::new(OLD).unwrap());
        let reason = "its content belongs under example.type/2023/11/14/msg_1.json.gz";
        assert_eq!(checked, Err(reason.to_owned()));
    }
}
