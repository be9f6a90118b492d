//! `learnink status`: the state of a deployed stack, or of the pipeline on this machine, on one screen.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use aws_sdk_sqs::Client;
use jiff::{SignedDuration, Timestamp};
use learnink_aws::CallError;
use learnink_aws::SecretsManager;
use learnink_aws::secret::{CURRENT, PREVIOUS, ReadError};
use learnink_consumer::ledger::LedgerError;
use learnink_local::pipeline::{DEAD_LETTER_QUEUE, QUEUE};
use learnink_local::state::{Service, address, read_previous_secret, read_signing_secret};
use learnink_local::terminal::quoted;
use learnink_local::{LocalSqs, StateError, sdk_config};
use learnink_webhook::config::listed_secrets;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::aws::cloudwatch::{Alarm, CloudWatch, Datapoint, Metric};
use crate::aws::lambda::{Alias, Lambda};
use crate::aws::{IN_AWS, QueueCounts, queue_counts};
use crate::dlq::{self, Sample};
use crate::output::{self, Line, print};
use crate::stack::{Stack, Target};
use crate::table::seconds;
use crate::unread::{Read, Unread};
use crate::{called, now};

/// How many messages of a queue may be in flight. Source: Amazon SQS API reference, `ReceiveMessage`, `OverLimit`.
const MOST_IN_FLIGHT: usize = 120_000;

/// Of how many dead letters the causes are shown.
const MOST_LETTERS: usize = 100;

/// How many causes are shown.
const MOST_CAUSES: usize = 5;

/// How far back the metrics are read.
const METRICS_FROM: SignedDuration = SignedDuration::from_hours(24);

/// A value of a queue's age that is older says nothing of now.
const AGE_IS_OF_NOW: SignedDuration = SignedDuration::from_mins(15);

/// Options of `learnink status`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A message that backs off after a failure counts as in flight. In AWS, the counts are up to a minute old, and the \
metrics are of the last 24 hours.

If there are dead letters, up to {MOST_LETTERS} are looked at for their causes, as `dlq causes` does it: they are \
hidden from others meanwhile, and their receive counts grow.

A part that cannot be read says so on its line.

The exit code is 0 if nothing is to be done, and 1 if alarms ring, dead letters wait, or a part cannot be read.

{IN_AWS}"))]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// All that is shown. What does not exist on a laptop is `None`.
#[derive(Debug, Clone)]
struct Status {
    /// Where it was looked.
    place: String,
    /// The options that name the same place.
    options: String,
    queue: Read<QueueCounts>,
    dead_letters: Read<DeadLetters>,
    secrets: Read<Secrets>,
    /// Only of a deployed stack.
    deployed: Option<Deployed>,
}

/// What only a deployed stack has.
#[derive(Debug, Clone)]
struct Deployed {
    /// The version of the template, if the template is not older than this output.
    build: Option<String>,
    metrics: Read<Metrics>,
    alarms: Read<Vec<Alarm>>,
    receiver: Read<Option<Alias>>,
    consumer: Read<Option<Alias>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DeadLetters {
    count: usize,
    /// Their causes, if there are any letters.
    sample: Option<Read<Sample>>,
}

/// How many secrets the receiver accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Secrets {
    current: usize,
    previous: usize,
}

/// What the metrics say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Metrics {
    /// When the newest period with an accepted webhook began.
    last_accepted: Option<Timestamp>,
    refused: f64,
    /// Those that were accepted or refused.
    requests: f64,
    /// The age of the oldest message that was received fewer than three times, in seconds.
    oldest_s: Option<f64>,
}

/// Shows the state.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stack = args.target.in_aws.stack().await?;
    let options = args.target.options();
    let now = now();
    let status = match &stack {
        Some(stack) => Box::pin(of_stack(stack, options, now)).await?,
        None => of_dev(&args.target.state.folder, options).await?,
    };
    if args.json {
        output::print_json(&serde_json::to_string_pretty(&status.json())?)?;
    } else {
        print(&status.place)?;
        status.lines(now).into_iter().try_for_each(print)?;
    }
    Ok(if status.is_calm() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn of_stack(stack: &Stack, options: String, now: Timestamp) -> anyhow::Result<Status> {
    let lambda = Lambda::new(&stack.aws, &stack.clock)?;
    let cloudwatch = CloudWatch::new(&stack.aws, &stack.clock)?;
    let output = |name: &'static str| stack.optional(name).ok_or(Unread::NoOutput(name));
    let live = async |name| {
        let alias = lambda.live(output(name)?).await;
        alias.map_err(|error| Unread::call("lambda:GetAlias", &error))
    };
    let (queue, dead_letters, secrets, metrics, alarms, receiver, consumer) = tokio::join!(
        async { count(&Client::new(&stack.aws), output("QueueUrl")?).await },
        async {
            let count = count(&Client::new(&stack.aws), output("DeadLetterQueueUrl")?).await?;
            Ok(dead_letters(stack, count).await)
        },
        async { stored_secrets(&SecretsManager::new(&stack.aws, output("SigningSecretName")?)).await },
        async {
            let (receiver, queue) = (output("ReceiverFunctionName")?, output("QueueUrl")?);
            metrics(&cloudwatch, receiver, queue, now).await
        },
        async {
            let ringing = cloudwatch.ringing(&format!("{}-", stack.name()), output("AlarmTopicArn")?).await;
            ringing.map_err(|error| Unread::call("cloudwatch:DescribeAlarms", &error))
        },
        live("ReceiverFunctionName"),
        live("ConsumerFunctionName"),
    );
    let build = stack.optional("Build").map(str::to_owned);
    let deployed = Some(Deployed { build, metrics, alarms, receiver, consumer });
    Ok(Status { place: stack.to_string(), options, queue, dead_letters, secrets, deployed })
}

async fn of_dev(folder: &Path, options: String) -> anyhow::Result<Status> {
    let Some(endpoint) = address(folder, Service::Sqs)? else {
        anyhow::bail!(called::not_running(folder));
    };
    let client = Client::new(&sdk_config(&endpoint));
    let (queue, letters) = (LocalSqs::queue_url(QUEUE), LocalSqs::queue_url(DEAD_LETTER_QUEUE));
    let (queue, letters) = tokio::join!(count(&client, &queue), count(&client, &letters));
    // The embedded SQS does not count the letters that an earlier look has made visible again.
    let sample = dlq::sample_of_dev(folder, MOST_LETTERS).await.map_err(|error| sample_unread(&error));
    let dead_letters = letters.map(|counts| {
        let count = sample.as_ref().map_or(0, |sample| sample.looked_at).max(counts.all());
        DeadLetters { count, sample: Some(sample).filter(|_| count > 0) }
    });
    let secrets = secrets_of_dev(folder).map_err(|error| Unread::other("reading the secret", error));
    let place = format!("the pipeline of `learnink dev` ({})", quoted(folder));
    Ok(Status { place, options, queue, dead_letters, secrets, deployed: None })
}

async fn count(client: &Client, url: &str) -> Read<QueueCounts> {
    queue_counts(client, url).await.map_err(|error| Unread::sdk("sqs:GetQueueAttributes", error))
}

/// The dead letters, and their causes if there are any.
async fn dead_letters(stack: &Stack, counts: QueueCounts) -> DeadLetters {
    let count = counts.all();
    if count == 0 {
        return DeadLetters { count, sample: None };
    }
    let sample = dlq::sample_of_stack(stack, MOST_LETTERS).await;
    DeadLetters { count, sample: Some(sample.map_err(|error| sample_unread(&error))) }
}

/// Why the letters were not read, with the right that a denied call needs.
fn sample_unread(error: &anyhow::Error) -> Unread {
    let is_of_ledger = error.chain().any(<dyn Error>::is::<LedgerError>);
    let action = if is_of_ledger { "dynamodb:GetItem" } else { "sqs:ReceiveMessage" };
    match error.chain().find_map(|cause| cause.downcast_ref::<CallError>()) {
        Some(call) => Unread::sdk(action, call.clone()),
        None => Unread::other(action, format!("{error:#}")),
    }
}

/// How many secrets `learnink dev` keeps in `folder`.
fn secrets_of_dev(folder: &Path) -> Result<Secrets, StateError> {
    let count = |value: &str| listed_secrets(value).count();
    let current = count(&read_signing_secret(folder)?);
    let previous = read_previous_secret(folder)?.as_deref().map_or(0, count);
    Ok(Secrets { current, previous })
}

/// How many secrets are stored, current and previous.
async fn stored_secrets(store: &SecretsManager) -> Read<Secrets> {
    const ACTION: &str = "secretsmanager:GetSecretValue";
    let (current, previous) = tokio::join!(store.value(CURRENT), store.value(PREVIOUS));
    let count = |value: Result<String, ReadError>| match value {
        Ok(value) => Ok(listed_secrets(&value).count()),
        Err(ReadError::Call(CallError::NotFound { .. })) => Ok(0),
        Err(ReadError::Call(error)) => Err(Unread::sdk(ACTION, error)),
        Err(error @ ReadError::NotText) => Err(Unread::other(ACTION, error)),
    };
    Ok(Secrets { current: count(current)?, previous: count(previous)? })
}

async fn metrics(cloudwatch: &CloudWatch, receiver: &str, queue_url: &str, now: Timestamp) -> Read<Metrics> {
    const ACTION: &str = "cloudwatch:GetMetricData";
    let queue = queue_url.rsplit('/').next().unwrap_or_default();
    let own = |name, statistic, period_s| Metric {
        namespace: "LearnInkWebhooks",
        name,
        dimension: ("function", receiver),
        statistic,
        period_s,
    };
    let age = Metric {
        namespace: "AWS/SQS",
        name: "ApproximateAgeOfOldestMessage",
        dimension: ("QueueName", queue),
        statistic: "Maximum",
        period_s: 60,
    };
    let asked =
        [own("Accepted", "Sum", 60), own("Refused", "Sum", 3600), own("Refused", "SampleCount", 3600), age];
    let from = now.checked_sub(METRICS_FROM).map_err(|error| Unread::other(ACTION, error))?;
    let data = cloudwatch.data(&asked, from, now).await.map_err(|error| Unread::call(ACTION, &error))?;
    match data.as_slice() {
        [accepted, refused, requests, age] => Ok(read(accepted, refused, requests, age, now)),
        _ => Err(Unread::other(ACTION, "AWS's answer cannot be read")),
    }
}

/// What the values of the four metrics say, each the newest first.
fn read(
    accepted: &[Datapoint],
    refused: &[Datapoint],
    requests: &[Datapoint],
    age: &[Datapoint],
    now: Timestamp,
) -> Metrics {
    let sum = |points: &[Datapoint]| points.iter().map(|point| point.value).sum();
    let newest = age.iter().max_by_key(|point| point.at);
    let newest = newest.filter(|point| now.duration_since(point.at) <= AGE_IS_OF_NOW);
    Metrics {
        last_accepted: accepted.iter().filter(|point| point.value > 0.0).map(|point| point.at).max(),
        refused: sum(refused),
        requests: sum(requests),
        oldest_s: newest.map(|point| point.value),
    }
}

impl Status {
    /// Whether nothing is to be done, as far as it is known.
    fn is_calm(&self) -> bool {
        let has_letters = self.dead_letters.as_ref().is_ok_and(|letters| letters.count > 0);
        let rings = self
            .deployed
            .as_ref()
            .is_some_and(|deployed| deployed.alarms.as_ref().is_ok_and(|alarms| !alarms.is_empty()));
        !has_letters && !rings && self.unread().is_empty()
    }

    /// The parts that could not be read.
    fn unread(&self) -> Vec<&Unread> {
        let letters = self.dead_letters.as_ref();
        let sample = letters.ok().and_then(|letters| letters.sample.as_ref()?.as_ref().err());
        let own = [self.queue.as_ref().err(), letters.err(), sample, self.secrets.as_ref().err()];
        let deployed = self.deployed.iter().flat_map(|deployed| {
            [
                deployed.metrics.as_ref().err(),
                deployed.alarms.as_ref().err(),
                deployed.receiver.as_ref().err(),
                deployed.consumer.as_ref().err(),
            ]
        });
        own.into_iter().chain(deployed).flatten().collect()
    }

    /// The lines below the place.
    fn lines(&self, now: Timestamp) -> Vec<Line> {
        let mut lines = Vec::new();
        match &self.queue {
            Ok(counts) => {
                lines.push(fine("waiting", &messages(counts.visible)));
                let share = percent(as_f64(counts.in_flight) / as_f64(MOST_IN_FLIGHT));
                let in_flight = format!("{} ({share} of the quota of 120,000)", messages(counts.in_flight));
                lines.push(fine("in flight", &in_flight));
                lines.push(fine("coming back", &messages(counts.delayed)));
            }
            Err(unread) => lines.push(not_read("waiting", unread)),
        }
        if let Some(Deployed { metrics: Ok(metrics), .. }) = &self.deployed {
            let is_empty = self.queue.as_ref().is_ok_and(|counts| counts.all() == 0);
            let oldest = match metrics.oldest_s {
                Some(age) if !is_empty => {
                    format!("{}, without those that were received three times", ago_s(age))
                }
                _ if is_empty => "none".to_owned(),
                _ => "not known: CloudWatch has no value of the last minutes".to_owned(),
            };
            lines.push(fine("oldest", &oldest));
        }
        lines.extend(self.dead_letter_lines());
        if let Some(deployed) = &self.deployed {
            lines.extend(deployed.metric_lines(now));
        }
        lines.push(match &self.secrets {
            Ok(Secrets { current: 0, .. }) => attention("signing secret", "none is stored"),
            Ok(Secrets { current, previous: 0 }) => {
                fine("signing secret", &format!("{current} current, no previous"))
            }
            Ok(Secrets { current, previous }) => {
                fine("signing secret", &format!("{current} current, {previous} previous"))
            }
            Err(unread) => not_read("signing secret", unread),
        });
        if let Some(deployed) = &self.deployed {
            lines.extend(deployed.alarm_lines());
            lines.extend(deployed.build.as_deref().map(|build| fine("build", build)));
            lines.push(version("receiver", &deployed.receiver));
            lines.push(version("consumer", &deployed.consumer));
        }
        lines
    }

    fn dead_letter_lines(&self) -> Vec<Line> {
        let letters = match &self.dead_letters {
            Ok(letters) if letters.count == 0 => return vec![fine("dead letters", "none")],
            Ok(letters) => letters,
            Err(unread) => return vec![not_read("dead letters", unread)],
        };
        let next = format!("{} dlq causes{}", called::learnink(), self.options);
        let mut lines = vec![attention("dead letters", &format!("{}; next: {next}", letters.count))];
        match &letters.sample {
            Some(Ok(sample)) => {
                for cause in sample.causes.iter().take(MOST_CAUSES) {
                    let handler =
                        cause.handler.as_ref().map(|handler| format!("{handler}: ")).unwrap_or_default();
                    lines.push(more(&format!("{} {} {handler}{}", cause.count, cause.name, cause.reason)));
                }
                let others = sample.causes.len().saturating_sub(MOST_CAUSES);
                if others > 0 {
                    lines.push(more(&format!("and {others} more causes")));
                }
                if sample.looked_at < letters.count {
                    lines.push(more(&format!("of {} that were looked at", sample.looked_at)));
                }
            }
            Some(Err(unread)) => lines.push(not_read("", unread)),
            None => {}
        }
        lines
    }

    fn json(&self) -> Value {
        let letters = |letters: &DeadLetters| {
            let sample = letters.sample.as_ref().map(|sample| known(sample, |sample| json!(sample)));
            json!({ "count": letters.count, "sample": sample })
        };
        let mut json = Map::new();
        json.insert("place".to_owned(), json!(self.place));
        json.insert(
            "queue".to_owned(),
            known(&self.queue, |counts| {
                json!({
                    "waiting": counts.visible,
                    "in_flight": counts.in_flight,
                    "in_flight_share": as_f64(counts.in_flight) / as_f64(MOST_IN_FLIGHT),
                    "delayed": counts.delayed,
                })
            }),
        );
        json.insert("dead_letters".to_owned(), known(&self.dead_letters, letters));
        json.insert("signing_secrets".to_owned(), known(&self.secrets, |secrets| json!(secrets)));
        if let Some(deployed) = &self.deployed {
            let metrics = |metrics: &Metrics| {
                json!({
                    "last_accepted": metrics.last_accepted,
                    "refused": metrics.refused,
                    "requests": metrics.requests,
                    "oldest_s": metrics.oldest_s,
                })
            };
            json.insert("build".to_owned(), json!(deployed.build));
            json.insert("metrics".to_owned(), known(&deployed.metrics, metrics));
            let names =
                |alarms: &Vec<Alarm>| json!(alarms.iter().map(|alarm| &alarm.alarm_name).collect::<Vec<_>>());
            json.insert("alarms".to_owned(), known(&deployed.alarms, names));
            let live = |alias: &Option<Alias>| {
                json!(alias.as_ref().map(|alias| json!({
                    "version": alias.function_version,
                    "others": alias.others().collect::<BTreeMap<_, _>>(),
                })))
            };
            json.insert("receiver".to_owned(), known(&deployed.receiver, live));
            json.insert("consumer".to_owned(), known(&deployed.consumer, live));
        }
        Value::Object(json)
    }
}

impl Deployed {
    fn metric_lines(&self, now: Timestamp) -> Vec<Line> {
        let metrics = match &self.metrics {
            Ok(metrics) => metrics,
            Err(unread) => return vec![not_read("last accepted", unread)],
        };
        let accepted = match metrics.last_accepted {
            Some(at) => format!("{}, {} ago", seconds(at), ago(now.duration_since(at))),
            None => "none in the last 24 hours".to_owned(),
        };
        let refused = if metrics.requests > 0.0 {
            let share = percent(metrics.refused / metrics.requests);
            format!("{share} of {} requests in the last 24 hours", metrics.requests)
        } else {
            "no requests in the last 24 hours".to_owned()
        };
        vec![fine("last accepted", &accepted), fine("refused", &refused)]
    }

    fn alarm_lines(&self) -> Vec<Line> {
        match &self.alarms {
            Ok(alarms) if alarms.is_empty() => vec![fine("alarms", "none rings")],
            Ok(alarms) => {
                let line = |alarm: &Alarm| {
                    let since = alarm.state_updated_timestamp.map(|at| format!(" since {}", seconds(at)));
                    attention("alarm rings", &format!("{}{}", alarm.alarm_name, since.unwrap_or_default()))
                };
                alarms.iter().map(line).collect()
            }
            Err(unread) => vec![not_read("alarms", unread)],
        }
    }
}

/// What is known as JSON, or why it is not.
fn known<T>(read: &Read<T>, json: impl FnOnce(&T) -> Value) -> Value {
    match read {
        Ok(value) => json(value),
        Err(unread) => json!({ "not_read": unread.to_string() }),
    }
}

/// The width of the names.
const NAME_WIDTH: usize = 15;

fn fine(name: &str, text: &str) -> Line {
    Line::new(format!("{name:NAME_WIDTH$}{text}"))
}

/// Something to look at.
fn attention(name: &str, text: &str) -> Line {
    Line::default().styled(AnsiColor::Red.on_default(), format!("{name:NAME_WIDTH$}")).text(text)
}

/// More about the line above.
fn more(text: &str) -> Line {
    fine("", text)
}

fn not_read(name: &str, unread: &Unread) -> Line {
    Line::default()
        .styled(Style::new().bold(), format!("{name:NAME_WIDTH$}"))
        .text(format!("not read: {unread}"))
}

fn version(function: &str, live: &Read<Option<Alias>>) -> Line {
    match live {
        Ok(Some(alias)) => {
            let others = alias.others().map(|(version, share)| format!(", {} on {version}", percent(share)));
            fine(function, &format!("version {}{}", alias.function_version, others.collect::<String>()))
        }
        Ok(None) => attention(function, "no version is live"),
        Err(unread) => not_read(function, unread),
    }
}

fn messages(count: usize) -> String {
    match count {
        0 => "no messages".to_owned(),
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.1 { "under 0.1%".to_owned() } else { format!("{percent:.1}%") }
}

#[expect(clippy::cast_possible_truncation, reason = "an age in seconds is far below 2^63")]
fn ago_s(seconds: f64) -> String {
    ago(SignedDuration::from_secs(seconds as i64))
}

/// A duration for a person: one or two units.
fn ago(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, _) => format!("{minutes}m"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
