//! `learnink verify`: why a signature fails.

mod bodies;
mod diagnose;
mod json_text;
mod keys;
mod mistake;
mod parse;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use console::Term;
use jiff::Timestamp;
use learnink_local::StateError;
use learnink_local::terminal::quoted;
use learnink_receiver::{claimed_id, signature_headers};
use serde::Serialize;

use self::diagnose::{Delivery, Diagnosis, Judgement, Role, SecretName, SecretSource, Verdict};
use self::parse::{Format, LARGEST_INPUT_BYTES, ParseError};
use crate::output::{self, Line, WRONG_USE};
use crate::stack::Target;
use crate::{called, input, now, secret, secrets, variable};

/// The variable with the secrets, unless a file has them.
const SECRETS: &str = "LEARNINK_SIGNING_SECRET";

/// Options of `learnink verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FILE has one delivery, as text:
  svix-id: msg_...
  svix-timestamp: 1700000000
  svix-signature: v1,...

  {\"object\": ...}
above it, a line such as `POST /webhooks/learnink HTTP/1.1`; or the headers as a JSON object, as \
LearnInk's guide has them; or an event of an HTTP API (payload format 2.0); or a HAR file.

First come the receiver's own checks. If the signature does not match, the known mistakes are tried, \
alone and two at a time: another secret, a secret or a timestamp in another form, a body that was \
re-indented, decoded or saved by an editor. A mistake is named only if the signature is valid without \
it. Secrets and signatures are never printed.

The exit code is 0 if the receiver accepts the delivery, 1 if not, and 2 if it cannot be read. The secrets \
of a stack need cloudformation:DescribeStacks and secretsmanager:GetSecretValue.

Examples:
  cargo learnink verify delivery.txt
  cargo learnink verify delivery.har --entry 3 --secret-file secret.txt
  cargo learnink verify delivery.txt --stack learnink-webhooks-production \\
    --other-secret-file staging.txt
  cargo learnink verify --id msg_2Xb --timestamp 1700000000 \\
    --signature v1,... --body body.json")]
pub(crate) struct Args {
    /// The delivery, - for standard input
    #[arg(value_name = "FILE", required_unless_present = "body")]
    file: Option<PathBuf>,
    /// The header svix-id
    #[arg(long, value_name = "ID", conflicts_with = "file", requires_all = ["timestamp", "signature", "body"])]
    id: Option<String>,
    /// The header svix-timestamp
    #[arg(long, value_name = "SECONDS", conflicts_with = "file", requires_all = ["id", "signature", "body"])]
    timestamp: Option<String>,
    /// The header svix-signature
    #[arg(long, value_name = "SIGNATURES", conflicts_with = "file", requires_all = ["id", "timestamp", "body"])]
    signature: Option<String>,
    /// File with the body alone, - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "file", requires_all = ["id", "timestamp", "signature"])]
    body: Option<PathBuf>,
    /// Entry of a HAR file, from 1; without it, the only POST with signature headers
    #[arg(long, value_name = "N", requires = "file", value_parser = clap::value_parser!(u32).range(1..))]
    entry: Option<u32>,
    /// Judge the signature's age at TIME, such as 2026-01-02T08:00:00Z, 1700000000 or now; without it, at the time
    /// that the file says, or not at all
    #[arg(long, value_name = "TIME", value_parser = time)]
    now: Option<Timestamp>,
    /// File with the receiver's signing secret, or several separated by spaces or lines, the current one first; -
    /// for standard input, a terminal asks for it. Without it, the stack of --stack has them; without a stack,
    /// `LEARNINK_SIGNING_SECRET`, or else the state of `learnink dev`. The command line cannot have them, because
    /// others on this machine can read it
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with secrets that the receiver does not have, such as the other environment's or a replaced one, to see
    /// whether one of them signed; may be given several times
    #[arg(long = "other-secret-file", value_name = "FILE")]
    other_secret_files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn time(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now());
    }
    let seconds = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let time = seconds.or_else(|| text.parse().ok());
    time.ok_or_else(|| "expected a time such as 2026-01-02T08:00:00Z, Unix seconds, or now".to_owned())
}

/// Prints why the delivery's signature fails, or that it does not.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let read = async { anyhow::Ok((read_delivery(args)?, read_secrets(args).await?)) };
    let ((delivery, format), sources) = match read.await {
        Ok(read) => read,
        Err(error) => {
            output::error(&error);
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    let diagnosis = diagnose::diagnose(&delivery, &sources, args.now);
    let what = described(&delivery, format);
    if args.json {
        output::print_json(&serde_json::to_string_pretty(&Report::new(&what, &diagnosis))?)?;
    } else {
        let marks = if std::io::stdout().is_terminal() { Marks::Signs } else { Marks::Words };
        lines(&what, &diagnosis, marks).into_iter().try_for_each(output::print)?;
    }
    Ok(if diagnosis.verdict == Verdict::Verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The delivery, and the format of the file that it is from.
fn read_delivery(args: &Args) -> anyhow::Result<(Delivery, Option<Format>)> {
    let standard = [args.file.as_ref(), args.body.as_ref(), args.secret_file.as_ref()];
    let standard = standard.into_iter().flatten().chain(&args.other_secret_files);
    anyhow::ensure!(
        standard.filter(|file| file.as_path() == Path::new(input::STANDARD)).count() <= 1
            || is_asked_for(args),
        "standard input can be only one of FILE, --body and the secrets; put the others into files"
    );
    if let (Some(id), Some(timestamp), Some(signature), Some(body)) =
        (&args.id, &args.timestamp, &args.signature, &args.body)
    {
        let values = [id, timestamp, signature].map(|value| value.trim());
        let headers = signature_headers(learnink_receiver::request::SVIX_HEADERS.into_iter().zip(values));
        let body = input::read(body)?;
        anyhow::ensure!(
            body.len() <= LARGEST_INPUT_BYTES,
            "--body {}",
            ParseError::TooLarge { bytes: body.len() }
        );
        return Ok((Delivery { headers, body: Some(body), ..Delivery::default() }, None));
    }
    let file = args.file.as_deref().context("name a file with the delivery")?;
    let bytes = input::read(file)?;
    let entry = args.entry.and_then(|entry| usize::try_from(entry).ok());
    let name = if file == Path::new(input::STANDARD) { "standard input".to_owned() } else { quoted(file) };
    let (delivery, format) =
        parse::parse(&bytes, entry).map_err(|error| anyhow::anyhow!("{name} {error}"))?;
    Ok((delivery, Some(format)))
}

/// Whether the receiver's secret is typed in: then it does not come from standard input.
fn is_asked_for(args: &Args) -> bool {
    args.secret_file.as_deref() == Some(Path::new(input::STANDARD)) && std::io::stdin().is_terminal()
}

/// The receiver's secrets, and others to compare with.
async fn read_secrets(args: &Args) -> anyhow::Result<Vec<SecretSource>> {
    let receiver = |(label, text): (String, String)| SecretSource { label, text, role: Role::Receiver };
    let own = match &args.secret_file {
        Some(_) if is_asked_for(args) => vec![asked()?],
        Some(file) => vec![(quoted(file), secrets::in_file(file)?)],
        None => match args.target.in_aws.stack().await? {
            Some(stack) => secret::signing_values(&stack).await?,
            None => secrets_of_this_machine(&args.target.state.folder)?,
        },
    };
    let mut sources: Vec<_> = own.into_iter().map(receiver).collect();
    for file in &args.other_secret_files {
        sources.push(SecretSource { label: quoted(file), text: secrets::in_file(file)?, role: Role::Other });
    }
    for source in &sources {
        anyhow::ensure!(
            !secrets::without_wrapping(&source.text).is_empty(),
            "there is no secret in {}; put `whsec_...` there, as LearnInk shows it",
            source.label
        );
    }
    Ok(sources)
}

/// The secrets of this machine: in the variable, in the state of `learnink dev`, or typed in.
fn secrets_of_this_machine(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    if let Some(text) = variable(SECRETS) {
        return Ok(vec![(SECRETS.to_owned(), text)]);
    }
    match secret::signing_values_of_dev(folder) {
        Ok(values) => Ok(values),
        Err(StateError::NoSecret { .. }) if Term::stderr().is_term() => Ok(vec![asked()?]),
        Err(error @ StateError::NoSecret { .. }) => anyhow::bail!(
            "{error}, and no other is given; pass --secret-file or --stack, set {SECRETS}, or start `{}`",
            called::dev()
        ),
        Err(error @ (StateError::InUse { .. } | StateError::Io { .. })) => Err(error.into()),
    }
}

fn asked() -> anyhow::Result<(String, String)> {
    Ok(("the prompt".to_owned(), secrets::ask("signing secret")?))
}

/// A delivery for a person: where it was found, and its id if that looks like one of Svix's.
fn described(delivery: &Delivery, format: Option<Format>) -> String {
    let found = match format {
        None => "options".to_owned(),
        Some(Format::Http) => "headers and body".to_owned(),
        Some(Format::JsonHeaders) => "headers in JSON, and a body".to_owned(),
        Some(Format::GatewayEvent) => "event of an HTTP API".to_owned(),
        Some(Format::HarEntry { entry, of }) => format!("entry {entry} of {of} of a HAR file"),
    };
    match claimed_id(&delivery.headers) {
        Some(id) => format!("{id} ({found})"),
        None => found,
    }
}

/// How the results of checks are shown.
#[derive(Debug, Clone, Copy)]
enum Marks {
    /// `✓` and `✗`, for a terminal.
    Signs,
    Words,
}

impl Marks {
    fn of(self, judgement: &Judgement) -> (Style, &'static str) {
        let (color, sign, word) = match judgement {
            Judgement::Ok(_) => (AnsiColor::Green.on_default(), "✓", "ok         "),
            Judgement::Failed(_) => (AnsiColor::Red.on_default(), "✗", "failed     "),
            Judgement::NotJudged(_) => (Style::new(), "-", "not judged "),
            Judgement::NotReached => (Style::new().dimmed(), "-", "not reached"),
        };
        match self {
            Self::Signs => (color, sign),
            Self::Words => (Style::new(), word),
        }
    }
}

/// The diagnosis for a person.
fn lines(what: &str, diagnosis: &Diagnosis, marks: Marks) -> Vec<Line> {
    let mut lines = vec![Line::new(what)];
    for (check, judgement) in &diagnosis.checks {
        let (style, mark) = marks.of(judgement);
        let detail = match judgement {
            Judgement::Ok(detail) | Judgement::Failed(detail) | Judgement::NotJudged(detail) => detail,
            Judgement::NotReached => "",
        };
        let text = format!("  {:9}  {detail}", check.name());
        lines.push(Line::default().styled(style, mark).text(text.trim_end()));
    }
    lines.push(Line::default());
    let secret = diagnosis.secret.as_ref().map(of_secret).unwrap_or_default();
    match &diagnosis.verdict {
        Verdict::Verified => lines.push(format!("verified: the receiver accepts it, signed with {secret}").into()),
        Verdict::Genuine => lines.push(
            format!("The signature is genuine, made with {secret}. The receiver refuses it because of the check above.")
                .into(),
        ),
        Verdict::Mistaken(mistakes) => {
            let count = if let [_] = mistakes.as_slice() { "one mistake" } else { "two mistakes" };
            lines.push(format!("Without {count}, the signature matches, with {secret}:").into());
            for (index, mistake) in mistakes.iter().enumerate() {
                lines.push(format!("  {}", mistake.explanation()).into());
                let next = mistakes.get(index + 1).map(|next| next.remedy());
                if next != Some(mistake.remedy()) {
                    lines.push(format!("    {}", mistake.remedy()).into());
                }
            }
        }
        Verdict::NotFound => {
            lines.push(
                format!(
                    "No known mistake was found: none of {} combinations matches, with up to two mistakes each. Check \
                     next:",
                    diagnosis.combinations
                )
                .into(),
            );
        }
        Verdict::Incomplete => lines.push("There is nothing to compare. Check next:".into()),
    }
    lines.extend(diagnosis.advice.iter().map(|advice| Line::new(format!("  {advice}"))));
    lines
}

/// A secret by its place.
fn of_secret(SecretName { label, position, of }: &SecretName) -> String {
    if *of > 1 {
        format!("secret {position} of {of} from {label}")
    } else {
        format!("the secret from {label}")
    }
}

/// The diagnosis as JSON.
#[derive(Serialize)]
struct Report<'d> {
    delivery: &'d str,
    verified: bool,
    verdict: &'static str,
    checks: Vec<CheckReport<'d>>,
    mistakes: Vec<MistakeReport>,
    secret: Option<SecretReport<'d>>,
    combinations: usize,
    advice: &'d [String],
}

#[derive(Serialize)]
struct CheckReport<'d> {
    check: &'static str,
    result: &'static str,
    detail: Option<&'d str>,
}

#[derive(Serialize)]
struct MistakeReport {
    mistake: &'static str,
    explanation: String,
    remedy: &'static str,
}

#[derive(Serialize)]
struct SecretReport<'d> {
    from: &'d str,
    position: usize,
    of: usize,
}

impl<'d> Report<'d> {
    fn new(delivery: &'d str, diagnosis: &'d Diagnosis) -> Self {
        let (verdict, mistakes) = match &diagnosis.verdict {
            Verdict::Verified => ("verified", &[][..]),
            Verdict::Genuine => ("genuine", &[][..]),
            Verdict::Mistaken(mistakes) => ("mistaken", mistakes.as_slice()),
            Verdict::NotFound => ("not_found", &[][..]),
            Verdict::Incomplete => ("incomplete", &[][..]),
        };
        let check = |(check, judgement): &'d (diagnose::Check, Judgement)| {
            let (result, detail) = match judgement {
                Judgement::Ok(detail) => ("ok", Some(detail.as_str())),
                Judgement::Failed(detail) => ("failed", Some(detail.as_str())),
                Judgement::NotJudged(detail) => ("not_judged", Some(detail.as_str())),
                Judgement::NotReached => ("not_reached", None),
            };
            CheckReport { check: check.name(), result, detail }
        };
        let mistake = |mistake: &mistake::Mistake| MistakeReport {
            mistake: mistake.name(),
            explanation: mistake.explanation(),
            remedy: mistake.remedy(),
        };
        Self {
            delivery,
            verified: diagnosis.verdict == Verdict::Verified,
            verdict,
            checks: diagnosis.checks.iter().map(check).collect(),
            mistakes: mistakes.iter().map(mistake).collect(),
            secret: diagnosis.secret.as_ref().map(|secret| SecretReport {
                from: &secret.label,
                position: secret.position,
                of: secret.of,
            }),
            combinations: diagnosis.combinations,
            advice: &diagnosis.advice,
        }
    }
}
