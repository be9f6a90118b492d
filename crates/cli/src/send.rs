//! `learnink send`: signs webhooks as LearnInk does, and posts them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use learnink_local::StateError;
use learnink_local::state::read_signing_secret;
use learnink_receiver::Verifier;
use learnink_simulator::{Event, Learner, fresh_message_id, freshened};
use learnink_webhook::MessageId;
use svix::webhooks::Webhook;
use tokio::time::MissedTickBehavior;

use crate::client::{client, is_this_machine};
use crate::output::{note, print};
use crate::percentile::percentile;
use crate::table::Column::{Number, Text};
use crate::{StateFolder, called, input, milliseconds, now, secrets, table};

/// The payload if no file is named.
const SAMPLE: &str = include_str!("../../../events/user.course.started.json");

/// The event that is sent if no file is named.
pub(crate) fn sample() -> Event {
    Event { event_type: "user.course.started".to_owned(), payload: SAMPLE.to_owned() }
}

/// LearnInk waits this long for an answer. Source: Svix documentation, "Retry Schedule".
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Options of `learnink send`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo learnink send events/user.course.started.json
  cargo learnink send --count 2000 --concurrency 16
  cargo learnink send --tamper                      # expect 401
  cargo learnink send --age 10m                     # expect 401
  cargo learnink send --same-id                     # a retry: applied once

The exit code is 0 when every answer was 200, and 1 otherwise.")]
pub(crate) struct Args {
    /// Payloads to send, in turn, - for standard input; without any, a learner starting a course
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to post
    #[arg(long, env = "LEARNINK_URL", default_value = "http://127.0.0.1:9000/webhooks/learnink", value_parser = url)]
    url: reqwest::Url,
    /// Signing secret, or several separated by spaces; without it, that of `learnink dev`. Others on this machine
    /// can read the command line, but not the variable
    #[arg(long, env = "LEARNINK_SIGNING_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// How many webhooks to send. Without it, or with as many as there are files, each is sent as its
    /// file has it; otherwise with fresh learners and times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Webhooks per second, at most
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Requests at a time, at most
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Message id of every webhook, instead of a fresh one each
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Send one webhook again and again, as retries do; twice unless --count says otherwise, and a
    /// second apart unless --rate does
    #[arg(long)]
    same_id: bool,
    /// Change the body after signing it
    #[arg(long)]
    tamper: bool,
    /// Date the signature this far back, such as 10m; -10m dates it ahead
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = age)]
    age: Option<SignedDuration>,
    #[command(flatten)]
    state: StateFolder,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0.001 to 100000".to_owned()),
    }
}

pub(crate) fn url(text: &str) -> Result<reqwest::Url, String> {
    let url = text.parse::<reqwest::Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "expected a URL such as http://127.0.0.1:9000/webhooks/learnink".to_owned())
}

fn age(text: &str) -> Result<SignedDuration, String> {
    text.parse().map_err(|_| "expected a duration such as 10m".to_owned())
}

/// Signs and posts, then prints the answers.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let signer = Signer::given_or_of_dev(args.secret.as_deref(), &args.state)?;
    let payloads = read_payloads(&args.files)?;
    if let Some(id) = &args.id {
        MessageId::parse(id).context("--id cannot be used")?;
    }
    let again = args.same_id || args.id.is_some();
    anyhow::ensure!(!again || payloads.len() == 1, "one id means one payload: name one file, or none");
    let signed_at = now().checked_sub(args.age.unwrap_or_default()).context("--age cannot be used")?;
    // Each webhook is signed when it is sent, or as long before as --age says.
    let age = now().duration_since(signed_at);
    let files = u32::try_from(payloads.len()).context("too many files")?;
    let count = args.count.unwrap_or(if args.same_id { 2 } else { files });
    let client = client(&args.url, ANSWER_TIMEOUT)?;

    let progress = if count > 1 { ProgressBar::new(count.into()) } else { ProgressBar::hidden() };
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} sent, {rate} per second, {eta} left")?;
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        // It does no harm if the progress bar cannot be drawn.
        let _ = write!(text, "{:.0}", state.per_sec());
    };
    progress.set_style(style.with_key("rate", rate));
    let first_id = args.id.clone().unwrap_or_else(fresh_id);
    let webhook = |number: u32| {
        let payload = payloads.get(number as usize % payloads.len()).map(Vec::as_slice).unwrap_or_default();
        let id = if again { first_id.clone() } else { fresh_id() };
        let body = if count == files || again { payload.to_vec() } else { fresh(payload, now()) };
        (id, body)
    };
    // LearnInk's retries come after a pause too.
    let rate = args.rate.or(args.same_id.then_some(1.0));
    let pace = rate.map(|rate| {
        let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        // After a slow answer the rate stays the same; missed ticks are not caught up.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    let numbers = stream::unfold((0, pace), |(number, mut pace)| async move {
        if number == count {
            return None;
        }
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        Some((number, (number + 1, pace)))
    });
    let attempts = numbers.map(|number| {
        let (id, body) = webhook(number);
        let (client, signer, args, progress) = (&client, &signer, &args, &progress);
        async move {
            let attempt = post(client, signer, args, now() - age, id, body).await;
            progress.inc(1);
            attempt
        }
    });
    let attempts: Vec<_> = attempts.buffer_unordered(args.concurrency.into()).collect().await;
    progress.finish_and_clear();

    if let [attempt] = attempts.as_slice() {
        print(format!("{}  {}  {}", attempt.answer, attempt.id, milliseconds(attempt.took)))?;
    } else {
        let columns = [
            Text("Answer"),
            Number("Webhooks"),
            Number("p50"),
            Number("p90"),
            Number("p99"),
            Number("Slowest"),
        ];
        table::print_rows(columns, summary(&attempts).into_iter())?;
    }
    for hint in hints(&attempts, args.tamper || args.age.is_some()) {
        note(hint)?;
    }
    let good = attempts.iter().all(|attempt| attempt.answer == "200");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Adds what to do if there is no secret.
fn explain(error: StateError) -> anyhow::Error {
    match error {
        StateError::NoSecret { .. } => {
            anyhow::anyhow!("{error}; start `{}` there first, or set LEARNINK_SIGNING_SECRET", called::dev())
        }
        error @ (StateError::InUse { .. } | StateError::Io { .. }) => error.into(),
    }
}

/// One webhook and its answer.
#[derive(Debug)]
struct Attempt {
    id: String,
    /// The status, or why there is none.
    answer: String,
    took: Duration,
}

async fn post(
    client: &reqwest::Client,
    signer: &Signer,
    args: &Args,
    signed_at: Timestamp,
    id: String,
    body: Vec<u8>,
) -> Attempt {
    let started = Instant::now();
    let answer = attempt(client, signer, &args.url, signed_at, &id, body, args.tamper).await;
    let answer = answer.map_or_else(|why| why, |status| status.to_string());
    Attempt { id, answer, took: started.elapsed() }
}

/// Signs a webhook, and posts it; changed after it was signed if it is tampered with. The status, or why none
/// came.
pub(crate) async fn attempt(
    client: &reqwest::Client,
    signer: &Signer,
    url: &reqwest::Url,
    signed_at: Timestamp,
    id: &str,
    mut body: Vec<u8>,
    is_tampered: bool,
) -> Result<u16, String> {
    let signed_at_s = signed_at.as_second();
    let signature = signer.sign(id, signed_at_s, &body).map_err(|error| format!("not signed: {error}"))?;
    if is_tampered {
        tamper(&mut body);
    }
    let request = webhook(client, url, id, signed_at_s, &signature).body(body);
    let answer = request.send().await.map_err(|error| no_answer(&error, url))?;
    Ok(answer.status().as_u16())
}

fn no_answer(error: &reqwest::Error, url: &reqwest::Url) -> String {
    if error.is_connect() && is_this_machine(url) {
        format!("no connection (is `{}` running?)", called::dev())
    } else if error.is_connect() {
        "no connection".to_owned()
    } else if error.is_timeout() {
        format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
    } else {
        "no answer".to_owned()
    }
}

/// Hints from the answers; none about a 401 if that is expected.
fn hints(attempts: &[Attempt], expects_401: bool) -> Vec<&'static str> {
    let mut hints = Vec::new();
    if !expects_401 && attempts.iter().all(|attempt| attempt.answer == "401") {
        hints.push(
            "401: the receiver does not hold this secret, or its clock and this one are five minutes apart",
        );
    }
    if attempts.iter().any(|attempt| attempt.answer == "404") {
        hints.push("404: nothing receives webhooks at this URL; its path is usually /webhooks/learnink");
    }
    hints
}

/// A webhook as LearnInk posts it, without its body.
pub(crate) fn webhook(
    client: &reqwest::Client,
    url: &reqwest::Url,
    id: &str,
    signed_at_s: i64,
    signature: &str,
) -> reqwest::RequestBuilder {
    let request = client.post(url.clone()).header("content-type", "application/json");
    let request = request.header("svix-id", id).header("svix-timestamp", signed_at_s);
    request.header("svix-signature", signature)
}

/// Changes one byte, so that the signature is not valid any more.
fn tamper(body: &mut Vec<u8>) {
    match body.last_mut() {
        Some(last) => *last ^= 1,
        None => body.push(b' '),
    }
}

/// Signs with every secret, as LearnInk does during a rotation.
pub(crate) struct Signer {
    secrets: Vec<Webhook>,
}

impl Signer {
    /// Signs with the given secrets, or else with that of the `learnink dev` whose state this is.
    pub(crate) fn given_or_of_dev(given: Option<&str>, state: &StateFolder) -> anyhow::Result<Self> {
        let secrets = match given {
            Some(secrets) => secrets.to_owned(),
            None => read_signing_secret(&state.folder).map_err(explain)?,
        };
        Self::new(&secrets::without_wrapping(&secrets))
    }

    /// Fails if the receiver could not use one of them.
    pub(crate) fn new(secrets: &str) -> anyhow::Result<Self> {
        // The receiver's own rules, for an error that names the problem.
        Verifier::new(secrets).context("the signing secret cannot be used")?;
        let secrets = secrets.split_whitespace().map(Webhook::new).collect::<Result<_, _>>()?;
        Ok(Self { secrets })
    }

    /// The value of the header `svix-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> anyhow::Result<String> {
        let signatures = self.secrets.iter().map(|secret| secret.sign(id, timestamp_s, body));
        Ok(signatures.collect::<Result<Vec<_>, _>>()?.join(" "))
    }
}

fn read_payloads(files: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    if files.is_empty() {
        return Ok(vec![SAMPLE.into()]);
    }
    files.iter().map(|file| input::read(file)).collect()
}

/// The payload for another learner and another time, if it has them.
fn fresh(payload: &[u8], now: Timestamp) -> Vec<u8> {
    let Ok(payload) = std::str::from_utf8(payload) else { return payload.to_vec() };
    let mut random = fastrand::Rng::new();
    freshened(payload, now, &mut || Learner::fresh(&mut random)).into_bytes()
}

/// In the shape of Svix's ids.
fn fresh_id() -> String {
    fresh_message_id(&mut fastrand::Rng::new()).to_string()
}

/// Random letters and digits.
pub(crate) fn alphanumeric(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

/// The rows of a table of answers: how many, and how long they took.
fn summary(attempts: &[Attempt]) -> Vec<[String; 6]> {
    let mut answers: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for attempt in attempts {
        answers.entry(&attempt.answer).or_default().push(attempt.took);
    }
    let row = |(answer, mut took): (&str, Vec<Duration>)| {
        took.sort_unstable();
        let at = |share| milliseconds(percentile(&took, share));
        [answer.to_owned(), took.len().to_string(), at(50.0), at(90.0), at(99.0), at(100.0)]
    };
    answers.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_not_text_is_sent_as_it_is() {
        assert_eq!(fresh(b"\xff", Timestamp::UNIX_EPOCH), b"\xff");
        assert_ne!(fresh(SAMPLE.as_bytes(), Timestamp::UNIX_EPOCH), SAMPLE.as_bytes());
    }

    #[test]
    fn what_the_answers_hint_at_is_said_once() {
        let attempts = |answers: &[&str]| {
            let attempt = |answer: &&str| Attempt {
                id: String::new(),
                answer: (*answer).to_owned(),
                took: Duration::ZERO,
            };
            answers.iter().map(attempt).collect::<Vec<_>>()
        };
        assert!(hints(&attempts(&["401", "401"]), false)[0].contains("does not hold this secret"));
        assert!(hints(&attempts(&["404", "404"]), true)[0].contains("/webhooks/learnink"));
        for (answers, expects_401) in
            [(["401", "401"], true), (["401", "200"], false), (["200", "503"], false)]
        {
            assert!(hints(&attempts(&answers), expects_401).is_empty(), "{answers:?}");
        }
    }

    #[test]
    fn a_url_has_a_scheme() {
        for text in ["localhost:9000/webhooks/learnink", "127.0.0.1:9000", "ftp://127.0.0.1/", "http://", ""]
        {
            assert!(url(text).unwrap_err().starts_with("expected a URL such as http://"), "{text}");
        }
        assert!(url("https://example.com/webhooks/learnink").is_ok());
    }

    #[test]
    fn an_age_is_a_duration_back_or_ahead() {
        assert_eq!(age("10m"), Ok(SignedDuration::from_mins(10)));
        assert_eq!(age("-90s"), Ok(SignedDuration::from_secs(-90)));
        assert_eq!(age("10"), Err("expected a duration such as 10m".to_owned()));
    }

    #[test]
    fn names_under_localhost_are_this_machine() {
        let is_this_machine = |text: &str| is_this_machine(&url(text).unwrap());
        for host in ["127.0.0.1", "localhost", "[::1]", "api.localhost"] {
            assert!(is_this_machine(&format!("http://{host}:9000/")), "{host}");
        }
        assert!(!is_this_machine("https://localhost.example.com/"));
    }

    #[test]
    fn a_tampered_body_is_another_body() {
        for body in [&b""[..], b"{}"] {
            let mut tampered = body.to_vec();
            tamper(&mut tampered);
            assert_ne!(tampered, body);
        }
    }
}
