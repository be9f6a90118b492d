//! `learnink archive verify`: proves each record with the signing secrets of its time.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use learnink_connectors::archive::{Listing, Name, Record};
use learnink_receiver::{Refusal, VerifiedWebhook, Verifier, signature_headers};
use learnink_webhook::Envelope;

use super::{Days, IN_S3, READS_AT_ONCE, Source, beside, records};
use crate::{output, secrets, variable};

/// The variable with the secrets, unless a file has them.
const SECRETS: &str = "LEARNINK_SIGNING_SECRET";

/// Options of `learnink archive verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A record is good when one of the secrets signed its id, time and body, when it was received
within five minutes of that time, and when it stands under the name that its content says. Its age
does not matter: use the secrets that were valid when it was received. A rotation makes that two
or more.

A secret that leaked proves nothing of what was received after it was replaced: verify those days
without it.

Each bad record is one line with its name and the reason, and so is one that cannot be read. The
exit code is 0 when all are good, and 1 when any is not or there is none. What does not have the
name of a record, such as a read-me or an inventory, is counted and not looked at. This command
cannot notice that a record was deleted or moved; the versions that the bucket keeps show it.

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
    let Listing { records: names, others } = archive.list(&args.days).await?;
    // A typo in the URL must not look like a proof.
    let what = archive.what(&args.days);
    anyhow::ensure!(!names.is_empty(), "there is nothing to verify in {what}{}", beside(&others));

    let count = names.len();
    let progress = ProgressBar::new(names.len().try_into()?);
    progress.set_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} verified, {per_sec}, {eta} left",
    )?);
    let checks = names.into_iter().map(|name| {
        let (archive, verifier) = (&archive.archive, &verifier);
        async move {
            // One that cannot be read says nothing about the others.
            let checked = archive.read(&name).await.map(|bytes| {
                let record = Record::decode(&bytes).map_err(|error| error.to_string())?;
                check(&name, &record, verifier)
            });
            (name, checked)
        }
    });
    let mut checks = stream::iter(checks).buffered(READS_AT_ONCE);
    let (mut bad, mut unreadable) = (0_usize, 0_usize);
    while let Some((name, checked)) = checks.next().await {
        progress.inc(1);
        let reason = match checked {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => {
                bad += 1;
                reason
            }
            Err(error) => {
                unreadable += 1;
                error.to_string()
            }
        };
        progress.suspend(|| output::print(format!("{name}: {reason}")))?;
    }
    progress.finish_and_clear();
    let count = records(count);
    output::print(match (bad, unreadable) {
        (0, 0) => format!("{count}, all signed by LearnInk"),
        (_, 0) => format!("{count}, {bad} bad"),
        _ => format!("{count}, {bad} bad, {unreadable} unreadable"),
    })?;
    if let Some(name) = others.first() {
        let name = name.as_str().escape_default();
        output::print(match others.len() {
            1 => format!("1 other object is not a record and was not looked at: {name}"),
            count => format!("{count} other objects are not records and were not looked at, such as {name}"),
        })?;
    }
    Ok(if bad + unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// Why a record under that name is not a valid one, without quoting its content.
pub(crate) fn check(name: &Name, record: &Record, verifier: &Verifier) -> Result<(), String> {
    let webhook = proven(record, verifier)?;
    // A genuine webhook that is not an event is kept too, without a type.
    let envelope = Envelope::parse(webhook.body()).unwrap_or_else(|_| Envelope::of_no_event());
    let expected = Name::of(&envelope.event_type, record.received_at, webhook.id());
    if *name == expected { Ok(()) } else { Err(format!("its content belongs under {expected}")) }
}

/// The webhook of a record that one of the secrets proves, or why none does.
pub(crate) fn proven(record: &Record, verifier: &Verifier) -> Result<VerifiedWebhook, String> {
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
    fn a_record_under_another_name_is_bad() {
        let elsewhere = Name::of("example.type", Timestamp::UNIX_EPOCH, &MessageId::parse("msg_1").unwrap());
        let checked = check(&elsewhere, &record(OLD, BODY), &Verifier::new(OLD).unwrap());
        let reason = "its content belongs under example.type/2023/11/14/msg_1.json.gz";
        assert_eq!(checked, Err(reason.to_owned()));
    }
}
