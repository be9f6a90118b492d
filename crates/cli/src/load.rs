//! `learnink load`: webhooks at a rate, whatever the answers, and a count of what came of each.

mod archived;
mod endpoint;
mod other_end;
mod plan;
mod plot;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use learnink_connectors::progress::Learners;
use learnink_consumer::ledger::EntryId;
use learnink_local::pipeline::LEARNERS_TABLE;
use learnink_local::{sdk_config, state};
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::archived::Archived;
use self::endpoint::Endpoint;
use self::other_end::{Answers, Found, accepted, judge, refused};
use self::plan::{Ids, Kind, Planned, Shape, Shares, is_done_once, plan};
use self::plot::{Depth, Sample};
use self::report::{Latency, Report};
use crate::client::{client, is_this_machine};
use crate::dlq::queue::Queue;
use crate::dlq::{self, OpenQueues};
use crate::ledger::OpenLedger;
use crate::output::{exit, note, progress};
use crate::send::{ANSWER_TIMEOUT, Signer, attempt, url};
use crate::stack::{Stack, Target};
use crate::{aws, called, doctor, ledger, now, output, replay, stored};

/// How many requests may wait for their answers. One that is due while so many wait starts late, which its latency
/// shows.
const MOST_AT_ONCE: usize = 1024;

/// How many entries of the ledger are read at a time.
const READS_AT_ONCE: usize = 16;

/// Between two looks at the queue, and at the ledger.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Options of `learnink load`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each webhook is sent when it is due, however slowly the others are answered. Its latency counts from then. Nothing is \
sent again, as LearnInk would: what is answered 5xx or not at all is not confirmed, and may be there or not.

At the other end, each webhook that was answered 200 has to be done in the ledger and in the learners' table, or, if \
no handler can read it, on the dead-letter queue with a reason. Each that was refused has to be nowhere. With --listen, \
each notification has to have reached that address once. With an archive, each webhook that is done has to be there \
once; a stream writes up to 15 minutes late, and is looked at only with --archive. The learners of a run stay in the table; their ids begin \
with load-RUN-. Its dead letters stay too.

Ctrl-C stops it at once, and nothing is judged.

The exit code is 0 if nothing was lost, double or wrongly answered, 1 otherwise, and 2 for wrong use.

Examples:
  cargo learnink load --rate 50 --duration 30s
  cargo learnink load --rate 200 --duration 60s --shape burst --svg load.svg
  cargo learnink load --rate 20 --listen 127.0.0.1:8080 --lists 20
  cargo learnink load --archive .learnink/archive")]
pub(crate) struct Args {
    /// Webhooks per second, or the last rate of a ramp and of steps
    #[arg(long, value_name = "R", default_value = "20", value_parser = rate)]
    rate: f64,
    /// How long, up to an hour, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// How the rate changes
    #[arg(long, value_name = "SHAPE", default_value = "constant")]
    shape: Shape,
    /// At most this many webhooks
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Share of webhooks that repeat an earlier one, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    duplicates: u8,
    /// Share of events that happened three days ago, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    late: u8,
    /// Share of lists of three notifications, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    lists: u8,
    /// Share of webhooks that are changed after they were signed, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 2)]
    tampered: u8,
    /// Share of signed webhooks that no handler can read, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 1)]
    poison: u8,
    /// Where to post; without it, the URL of --stack, or of `learnink dev`
    #[arg(long, value_parser = url)]
    url: Option<Url>,
    /// The URL of another machine, once more: you may load it, and it is yours
    #[arg(long, value_name = "URL", value_parser = url)]
    i_own: Option<Url>,
    /// Signing secret; without it, that of --stack, or of `learnink dev`. Others on this machine can read the command
    /// line, but not the variable
    #[arg(long, env = "LEARNINK_SIGNING_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Count the notifications that the push handler posts to this address, which `LEARNINK_PUSH_URL` names
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
    /// Count the records in this archive: `s3://bucket/prefix`, or a folder; without it, in the archive of --stack
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// How long after the last answer the other end has to have everything
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    wait: Duration,
    /// The random choices; the same number makes the same choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write a picture: latency and queue over the time
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0.1 to 10000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    let in_range = duration.filter(|duration| (1..=3600).contains(&duration.as_secs()));
    in_range.ok_or_else(|| "expected a duration from 1s to 1h, such as 30s or 5m".to_owned())
}

/// Why a URL may not be loaded.
fn is_allowed(url: &Url, i_own: Option<&Url>) -> Result<(), String> {
    if is_this_machine(url) || i_own == Some(url) {
        return Ok(());
    }
    Err(format!(
        "{url} is not this machine; a load costs money and may stop others. If it is yours, add --i-own {url}"
    ))
}

/// The looks at the queue so far.
type Depths = Arc<Mutex<Vec<Depth>>>;

/// Where the webhooks go, and how they are signed.
struct Way {
    url: Url,
    signer: Signer,
    client: reqwest::Client,
}

/// Sends webhooks, waits for the other end, and reports.
#[expect(clippy::cast_precision_loss, reason = "a run has far fewer webhooks than a float counts exactly")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shares = Shares {
        duplicates: args.duplicates,
        late: args.late,
        lists: args.lists,
        tampered: args.tampered,
        poison: args.poison,
    };
    if !shares.fit() {
        note("the shares are more than 100 per cent together")?;
        return Ok(ExitCode::from(output::WRONG_USE));
    }
    let stack = args.target.in_aws.stack().await?;
    let way = way(&args, stack.as_ref()).await?;
    if let Err(why) = is_allowed(&way.url, args.i_own.as_ref()) {
        note(why)?;
        return Ok(ExitCode::from(output::WRONG_USE));
    }
    let queues = dlq::open_in(stack.as_ref(), &args.target.state.folder).await?;
    let archived =
        Archived::open(args.archive.as_deref(), &args.target.in_aws, stack.as_ref(), now()).await?;
    let endpoint = match args.listen {
        Some(address) => Some(Endpoint::listen(address).await?),
        None => None,
    };

    let run = replay::fresh_id();
    let ids = Ids::of(&run);
    let most = usize::try_from(args.limit)?;
    let times = args.shape.times(args.rate, args.duration, most);
    anyhow::ensure!(!times.is_empty(), "nothing is due in that time; ask for a longer one or a higher rate");
    let due_last = times.last().copied().unwrap_or_default();
    let plan = plan(times, shares, &mut fastrand::Rng::with_seed(args.seed));

    let started = Instant::now();
    let depths = Depths::default();
    let looks = tokio::spawn(look(queues.source()?.clone(), depths.clone(), started));
    let sent = send(way.clone(), &plan, &ids, started).await?;
    let answered = started.elapsed();
    let mut answers = vec![Answers::default(); plan.len()];
    for one in &sent {
        if let Some(answers) = answers.get_mut(one.number) {
            answers.add(one.status);
        }
    }
    let awaited = accepted(&plan, &answers, is_done_once);
    let deadline = Instant::now() + args.wait;
    let ledger = settle(&queues.ledger, &ids, &awaited, deadline).await?;
    let settled = ledger.len() == awaited.len() && ledger.values().all(|is_done| *is_done);
    let settled_after_s = settled.then(|| started.elapsed().saturating_sub(answered).as_secs_f64());
    looks.abort();
    let poison = accepted(&plan, &answers, |kind| kind == Kind::Poison);
    let refused = refused(&plan, &answers);
    let found = Found {
        ledger: ledger.into_iter().chain(read(&queues.ledger, &ids, refused).await?).collect(),
        rows: rows(&args, stack.as_ref()).await?,
        letters: letters(&queues, &ids, &poison, deadline).await?,
        notified: endpoint.map(|endpoint| endpoint.counts()),
        archived: match archived {
            Some(archived) => Some(archived.counts(&ids, &awaited, deadline).await?),
            None => None,
        },
    };
    let depths = depths.lock().unwrap_or_else(PoisonError::into_inner).clone();

    let seconds = due_last.as_secs_f64().max(1.0);
    let mut kinds = BTreeMap::new();
    for one in &plan {
        *kinds.entry(one.kind).or_default() += 1;
    }
    let mut by_answer = BTreeMap::new();
    for one in &sent {
        *by_answer.entry(one.answer.clone()).or_default() += 1;
    }
    let report = Report {
        url: way.url.to_string(),
        run,
        shape: args.shape,
        seed: args.seed,
        sent: kinds,
        asked_per_second: plan.len() as f64 / seconds,
        answered_per_second: sent.len() as f64 / answered.as_secs_f64(),
        answers: by_answer,
        latency_ms: Latency::of(sent.iter().map(|one| one.sample.took).collect()),
        deepest_queue: depths.iter().map(|one| one.messages).max().unwrap_or_default(),
        settled_after_s,
        verdict: judge(&plan, &ids, &answers, &found),
    };
    if let Some(file) = &args.svg {
        let title =
            format!("{} webhooks, {:?}, {} per second", plan.len(), args.shape, args.rate).to_lowercase();
        let samples: Vec<_> = sent.iter().map(|one| one.sample).collect();
        std::fs::write(file, plot::svg(&title, &samples, &depths))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        output::print_json(&serde_json::to_string_pretty(&report)?)?;
    } else {
        report.print()?;
    }
    Ok(exit(report.verdict.is_good()))
}

async fn way(args: &Args, stack: Option<&Stack>) -> anyhow::Result<Arc<Way>> {
    let folder = &args.target.state.folder;
    let url = match (&args.url, stack) {
        (Some(url), _) => url.clone(),
        (None, Some(stack)) => stack.output("WebhookUrl")?.parse()?,
        (None, None) => {
            let url = state::address(folder, state::Service::Webhooks)?;
            url.with_context(|| called::not_running(folder))?.parse()?
        }
    };
    let signer = match stack {
        Some(stack) if args.secret.is_none() => doctor::signer(stack).await?,
        _ => Signer::given_or_of_dev(args.secret.as_deref(), &args.target.state)?,
    };
    let client = client(&url, ANSWER_TIMEOUT)?;
    Ok(Arc::new(Way { url, signer, client }))
}

/// A webhook and its answer.
struct Sent {
    number: usize,
    status: Option<u16>,
    /// The status, or why there is none.
    answer: String,
    sample: Sample,
}

/// Sends each webhook when it is due, and waits for the last answer.
async fn send(way: Arc<Way>, plan: &[Planned], ids: &Ids, started: Instant) -> anyhow::Result<Vec<Sent>> {
    let progress = progress(plan.len(), "answered")?;
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    // A duplicate has the bytes of the first, down to the time.
    let happened_at = now();
    let mut answers = JoinSet::new();
    for one in plan {
        tokio::time::sleep_until((started + one.at).into()).await;
        let kind = plan.get(one.number).map_or(one.kind, |first| first.kind);
        let (body, id) = (ids.body(kind, one.number, happened_at), ids.message(one.number).to_string());
        let (way, places, progress, one) = (way.clone(), places.clone(), progress.clone(), one.clone());
        answers.spawn(async move {
            // It is never closed.
            let _place = places.acquire_owned().await;
            let is_tampered = kind == Kind::Tampered;
            let answer = attempt(&way.client, &way.signer, &way.url, now(), &id, body, is_tampered).await;
            progress.inc(1);
            let took = started.elapsed().saturating_sub(one.at);
            let (status, answer) = match answer {
                Ok(status) => (Some(status), status.to_string()),
                Err(why) => (None, why),
            };
            Sent { number: one.number, status, answer, sample: Sample { at: one.at, took } }
        });
    }
    let sent = answers.join_all().await;
    progress.finish_and_clear();
    Ok(sent)
}

/// Looks at the queue until it is stopped.
async fn look(queue: Queue, depths: Depths, started: Instant) {
    loop {
        // A look that fails leaves a gap in the picture, and nothing else.
        if let Ok(messages) = aws::count_messages(&queue.client, &queue.url).await {
            let depth = Depth { at: started.elapsed(), messages };
            depths.lock().unwrap_or_else(PoisonError::into_inner).push(depth);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Waits until the ledger shows all of these webhooks as done, or the time is up. Returns those that it knows, and
/// whether they are done.
async fn settle(
    ledger: &OpenLedger,
    ids: &Ids,
    awaited: &BTreeSet<usize>,
    deadline: Instant,
) -> anyhow::Result<BTreeMap<String, bool>> {
    let progress = progress(awaited.len(), "done")?;
    let (mut found, mut left) = (BTreeMap::new(), awaited.clone());
    while !left.is_empty() {
        found.extend(read(ledger, ids, left.iter().copied()).await?);
        left.retain(|number| found.get(ids.message(*number).as_str()) != Some(&true));
        progress.set_position((awaited.len() - left.len()) as u64);
        if Instant::now() > deadline {
            break;
        }
        if !left.is_empty() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    progress.finish_and_clear();
    Ok(found)
}

/// Which of these webhooks the ledger knows, and whether they are done.
async fn read(
    ledger: &OpenLedger,
    ids: &Ids,
    numbers: impl IntoIterator<Item = usize>,
) -> anyhow::Result<BTreeMap<String, bool>> {
    let entries = stream::iter(numbers).map(|number| {
        let id = ids.message(number);
        async move { anyhow::Ok((id.to_string(), ledger.entry(EntryId::from(&id)).await?)) }
    });
    let entries: Vec<_> = entries.buffer_unordered(READS_AT_ONCE).try_collect().await?;
    let known = entries.into_iter().filter_map(|(id, entry)| Some((id, ledger::is_done(&entry?))));
    Ok(known.collect())
}

/// How many rows each learner has.
async fn rows(args: &Args, stack: Option<&Stack>) -> anyhow::Result<BTreeMap<String, u32>> {
    let courses = match stack {
        Some(stack) => Learners::new(&stack.aws, stack.output("LearnersTableName")?).all().await?,
        None => match stored::open(&args.target.state.folder).await? {
            Some(tables) => Learners::new(&sdk_config(tables.endpoint()), LEARNERS_TABLE.name).all().await?,
            None => Vec::new(),
        },
    };
    let mut rows = BTreeMap::new();
    for course in courses {
        *rows.entry(course.user_id).or_default() += 1;
    }
    Ok(rows)
}

/// The dead letters of a run: how often each message is there, and whether each has a reason. Looks again until those
/// that have to be there are, or the time is up.
async fn letters(
    queues: &OpenQueues,
    ids: &Ids,
    awaited: &BTreeSet<usize>,
    deadline: Instant,
) -> anyhow::Result<BTreeMap<String, (u32, bool)>> {
    loop {
        let mut letters: BTreeMap<String, (u32, bool)> = BTreeMap::new();
        for facts in queues.facts().await? {
            if let Some(id) = facts.message_id {
                let (count, has_reason) = letters.entry(id).or_insert((0, true));
                *count += 1;
                *has_reason &= !facts.reason.is_empty();
            }
        }
        let are_there = awaited.iter().all(|number| letters.contains_key(ids.message(*number).as_str()));
        if are_there || Instant::now() > deadline {
            return Ok(letters);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_loaded_only_by_who_names_it_twice() {
        let allowed = |to: &str, i_own: Option<&str>| {
            let i_own = i_own.map(|text| url(text).unwrap());
            is_allowed(&url(to).unwrap(), i_own.as_ref())
        };
        assert_eq!(allowed("http://127.0.0.1:9000/webhooks/learnink", None), Ok(()));
        let theirs = "https://hooks.example.com/webhooks/learnink";
        assert!(allowed(theirs, None).unwrap_err().ends_with(&format!("add --i-own {theirs}")));
        assert!(allowed(theirs, Some("https://hooks.example.com/")).is_err());
        assert_eq!(allowed(theirs, Some(theirs)), Ok(()));
    }

    #[test]
    fn a_rate_and_a_duration_have_limits() {
        assert!(["0", "-1", "10001", "NaN", "fast"].into_iter().all(|text| rate(text).is_err()));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert!(["0s", "2h", "-5s", "30"].into_iter().all(|text| duration(text).is_err()));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
    }
}
