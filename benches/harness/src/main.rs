//! `bench`: the cost of the receiver, compared with a receiver as in tutorials; and the cost of the consumer,
//! alone and with the deployed handlers. Or the cost of both, compared with peers in Node.js and Python.
//!
//! All functions run as on Lambda, in turn: a Runtime API, a clean environment, and two cores by default, which
//! they share with the AWS stub and this process if there are no more. Times depend on the machine and its load.
//! Ratios inside one run depend on them much less, so the receiver's targets are ratios. The consumer is compared
//! only with peers.
//!
//! | module | holds |
//! |---|---|
//! | [`measure`] | the rounds, and the checks of every invocation |
//! | [`process`], [`throttle`], [`interrupt`] | the functions, and one process as Lambda runs it |
//! | [`peers`] | the functions in Node.js and Python |
//! | [`runtime_api`], [`stub`], [`sqs`], [`dynamodb`], [`http`] | the services that functions call |
//! | [`events`], [`batch`] | the functions' inputs |
//! | [`system`], [`artifact`] | CPU time, memory, cores; the size of the upload |
//! | [`statistics`], [`summary`], [`targets`], [`report`], [`plot`], [`page`] | the evaluation |

mod artifact;
mod batch;
mod dynamodb;
mod events;
mod http;
mod interrupt;
mod measure;
mod page;
mod peers;
mod plot;
mod process;
mod report;
mod runtime_api;
mod sqs;
mod statistics;
mod stub;
mod summary;
mod system;
mod targets;
mod throttle;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use clap::builder::ArgPredicate;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::batch::RECORDS;
use crate::dynamodb::{KNOWN_LEARNERS_TABLE, LEARNERS_TABLE, LEDGER_TABLE};
use crate::events::WebhookSender;
use crate::interrupt::Running;
use crate::measure::{Bench, Plan};
use crate::page::Comparison;
use crate::peers::Peers;
use crate::process::{Code, Environment, Function, Input};
use crate::stub::{SECRET_ID, Stub};
use crate::summary::Summary;
use crate::system::{Cores, Spinners};
use crate::targets::Verdict;

/// The clock.
type Clock = fn() -> SystemTime;

/// The secret that signs the webhooks: the example of the Svix documentation.
const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The function that the others are compared with.
const BASELINE: &str = "tutorial";

/// How many invocations of a new size are made before those that count.
const WARM_UP: usize = 30;

/// The receiver's variable in `template.yaml`, besides those for the queue and the secret.
const MMAP_THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "33554432");
const TRIM_THRESHOLD: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "67108864");

/// The variable with which the receiver does not call Secrets Manager.
const SECRET_IN_ENVIRONMENT: (&str, &str) = ("LEARNINK_SIGNING_SECRET", SIGNING_SECRET);

/// The functions that the targets are about.
const RECEIVER: &str = "receiver";
const CONSUMER: &str = "consumer, no-op handler";
const DEPLOYED_CONSUMER: &str = "consumer";

/// Measure what the Lambdas cost: the receiver beside a receiver as tutorials write it, and the consumer.
///
/// Every function runs as on Lambda: a Runtime API, a clean environment, and TLS to a stub of SQS,
/// Secrets Manager and DynamoDB. They take turns, round by round. Compare ratios (×) inside one run,
/// never times across runs.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench",
    max_term_width = 100,
    after_help = "\
What is measured:
  init                from the start of the process until it asks for its first event
  first request       the first invocation, with a webhook of the first size, or a batch
  cold CPU            user and system time of init and first request together
  warm CPU            user and system time of one invocation, once it is warm
  p50, p99            from handing over the event until the answer is there
  peak                the most memory held (VmHWM), after all sizes
  zip                 the stripped binary as cargo lambda would upload it
  DynamoDB calls      requests for one batch, when each is answered at once
  round trips         the most requests for one batch of which each arrived after the one before
                      had been answered; counted while warming up, when the stub takes 20 ms to
                      answer, so that requests side by side are seen side by side

The receiver is sent webhooks of each size. The consumer is sent batches of ten records of the
smallest webhook there is, `user.course.started`, each with an id of its own: with a handler that does
nothing, which leaves the engine and its ledger; with the handlers that are deployed, one of which
writes a row for each record; and with these once more, for learners who all have a row already.

The receiver's targets are shares of what the tutorial's costs. The consumer's are absolute, for the
handler that does nothing: 2.5 ms of CPU for a batch, the only target that depends on the machine,
and 2 round trips. With the handlers that are deployed, and learners who are new, a batch may cost
twice the CPU, and one round trip more.

Every webhook has to be answered with 200 and leave exactly its own payload on the queue, and a
tampered one has to be refused. Every batch has to be answered with `{\"batchItemFailures\":[]}` after
each of its records was claimed and settled in the ledger, and a record of another format version has
to come back. Anything else ends the run.

With --peers, the receivers and consumers of benches/peers take turns with ours instead, in one run:
Svix's package and the AWS SDK, and Powertools for AWS Lambda with batch processing and idempotency,
in Node.js and in Python. All do the same work, and every answer is checked in the same way. The
receivers are also started with 128 MB: init has a whole core, as on Lambda, and what follows has
128/1769 of one, in periods of 20 ms.

The exit code is 0 when every target is met, 1 when one is missed, and 2 when there is no measurement."
)]
struct Arguments {
    /// How often everything is repeated
    #[arg(
        long,
        value_name = "N",
        default_value = "5",
        default_value_if("quick", ArgPredicate::IsPresent, "2")
    )]
    #[arg(value_parser = at_least_one)]
    rounds: usize,
    /// Cold starts of each function in each round
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        default_value_ifs([("quick", ArgPredicate::IsPresent, "3"), ("peers", ArgPredicate::IsPresent, "3")])
    )]
    #[arg(value_parser = at_least_one)]
    cold: usize,
    /// Warm invocations of each function in each round, for each size
    #[arg(long, value_name = "N", default_value = "300")]
    #[arg(default_value_ifs([
        ("quick", ArgPredicate::IsPresent, "100"),
        ("peers", ArgPredicate::IsPresent, "100"),
    ]))]
    #[arg(value_parser = at_least_one)]
    warm: usize,
    /// Sizes of the receiver's webhooks; a target is judged when its size is among them
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "400,10000,200000")]
    #[arg(value_parser = size)]
    sizes: Vec<usize>,
    /// Cores of a function: 2 is what Lambda shows to functions under 3 GB, so that a runtime starts two
    /// threads; 1 is a pinned core
    #[arg(long, value_name = "N", default_value = "2")]
    #[arg(value_parser = at_least_one)]
    cores: usize,
    /// A first impression: fewer rounds, cold starts and invocations, unless they are given
    #[arg(long)]
    quick: bool,
    /// Write the medians to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure another build's receiver, consumer and bench-consumer beside ours, such as the
    /// target/release of the version before
    #[arg(long, value_name = "FOLDER", conflicts_with = "peers")]
    before: Option<PathBuf>,
    /// Measure beside functions in Node.js and Python, which scripts/bench installs
    #[arg(long)]
    peers: bool,
    /// Draw the comparison with the peers into this file
    #[arg(long, value_name = "FILE", requires = "peers")]
    svg: Option<PathBuf>,
    /// Replace the comparison with the peers in this Markdown file, between its markers
    #[arg(long, value_name = "FILE", requires = "peers")]
    page: Option<PathBuf>,
    /// The installed peers; scripts/bench gives it
    #[arg(long, value_name = "FOLDER", hide = true)]
    peers_folder: PathBuf,
    /// Our binary; scripts/bench gives it
    #[arg(long, value_name = "FILE", hide = true)]
    receiver: PathBuf,
    /// The tutorial's binary; scripts/bench gives it
    #[arg(long, value_name = "FILE", hide = true)]
    tutorial: PathBuf,
    /// Our binary; scripts/bench gives it
    #[arg(long, value_name = "FILE", hide = true)]
    consumer: PathBuf,
    /// The consumer with a handler that does nothing; scripts/bench gives it
    #[arg(long, value_name = "FILE", hide = true)]
    bench_consumer: PathBuf,
    /// chain.pem, server.key and bundle.pem; scripts/bench makes them
    #[arg(long, value_name = "FOLDER", hide = true)]
    certificates: PathBuf,
    /// Takes what the functions write
    #[arg(long, value_name = "FOLDER", hide = true)]
    logs: PathBuf,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number from 1".to_owned())
}

fn size(text: &str) -> Result<usize, String> {
    // SQS takes 1 MiB, attributes included; API Gateway 10 MB.
    let size = text.parse().ok().filter(|size| (1..=1_000_000).contains(size));
    size.ok_or_else(|| "expected bytes from 1 to 1000000".to_owned())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(verdicts) if verdicts.iter().any(Verdict::is_failure) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Vec<Verdict>> {
    let running = Running::kill_on_interrupt()?;
    let all_cores = system::allowed_cores()?;
    let cores = Cores::split(&all_cores, arguments.cores);
    let spinners = Spinners::start(&all_cores, &running);
    // Before there are other threads: they stay on their parent's cores.
    system::move_this_thread(&cores.own)?;

    fs::create_dir_all(&arguments.logs).context("creating the folder for logs")?;
    let stub = Stub::start(&arguments.certificates, SIGNING_SECRET)?;
    let environment = Environment {
        aws_url: stub.url(),
        root_certificates: fs::canonicalize(arguments.certificates.join("bundle.pem"))
            .context("no root certificates")?,
        logs: arguments.logs.clone(),
        cores: cores.function.clone(),
        running,
        clock: now,
    };
    let mut bench = Bench {
        plan: Plan {
            rounds: arguments.rounds,
            cold: arguments.cold,
            warm_up: if arguments.peers { peers::WARM_UP } else { WARM_UP },
            warm: arguments.warm,
            sizes_bytes: arguments.sizes.clone(),
        },
        environment,
        stub,
        sender: WebhookSender::new(SIGNING_SECRET, 0, now)?,
        progress: progress()?,
    };
    let verdicts = if arguments.peers {
        run_beside_peers(&mut bench, arguments)
    } else {
        run_beside_tutorial(&mut bench, arguments)
    }?;
    if !cores.are_apart() {
        println!("\nNote: functions shared their cores with what they talk to, which shows in the times.");
    }
    if let Err(error) = &spinners {
        println!("\nNote: idle cores were left to halt, which adds to all times ({error:#}).");
    }
    Ok(verdicts)
}

/// The receivers beside a tutorial's, and the consumers alone.
fn run_beside_tutorial(bench: &mut Bench, arguments: &Arguments) -> anyhow::Result<Vec<Verdict>> {
    let before = arguments.before.as_deref();
    let receivers = receivers(&bench.stub, arguments, before);
    let receiver_count = receivers.len();
    let optional = consumers_with_handlers(&bench.stub, &arguments.consumer);
    let functions = [receivers, consumers(&bench.stub, arguments, before)].concat();
    bench.expect(bench.plan.invocations_of(&functions) + bench.plan.starts() * optional.len())?;
    let summaries = bench.run(&functions)?;
    let starts = bench.run_starts(&optional)?;
    bench.progress.finish_and_clear();

    if let Some(file) = &arguments.json {
        write(file, &(serde_json::to_string_pretty(&summaries)? + "\n"))?;
    }
    let named = |name| {
        let summary = summaries.iter().find(|summary| summary.name == name);
        summary.with_context(|| format!("`{name}` is missing"))
    };
    let (baseline, receiver) = (named(BASELINE)?, named(RECEIVER)?);
    let (consumer, deployed_consumer) = (named(CONSUMER)?, named(DEPLOYED_CONSUMER)?);
    let on_receiver = Verdict::on_receiver(receiver, baseline);
    let on_consumer = Verdict::on_consumer(consumer);
    let on_deployed_consumer = Verdict::on_deployed_consumer(deployed_consumer, consumer);
    let (receivers, consumers) = summaries.split_at_checked(receiver_count).unwrap_or_default();
    print_receivers(&bench.plan, receivers, baseline, &on_receiver);
    print_consumers(&bench.plan, consumers, &on_consumer, &on_deployed_consumer);
    println!("\nStarts of the consumer, by the handlers that are switched on:\n");
    println!("{}", report::start_table(&starts));
    ensure!(receiver.cold_cpu_ms > 0.0, "the CPU clock stands still");
    Ok(on_receiver.into_iter().chain(on_consumer).chain(on_deployed_consumer).collect())
}

/// The receivers and consumers beside peers in other languages.
fn run_beside_peers(bench: &mut Bench, arguments: &Arguments) -> anyhow::Result<Vec<Verdict>> {
    let stub = &bench.stub;
    let queue_url = queue_url(stub, "messages");
    let peers = Peers::new(&arguments.peers_folder, &arguments.certificates, SIGNING_SECRET, &queue_url)?;
    let receivers = peers.receivers(deployed_receiver(stub, arguments), tutorial(stub, arguments));
    let no_op_consumers =
        peers.no_op_consumers(consumer_with(stub, CONSUMER, arguments.bench_consumer.clone(), None, &[]));
    let consumers = peers.consumers_with_table(consumer_with(
        stub,
        DEPLOYED_CONSUMER,
        arguments.consumer.clone(),
        Some(LEARNERS_TABLE),
        &[],
    ));
    let groups = [&receivers, &no_op_consumers, &consumers];
    let functions = groups.map(|group| group.functions.clone()).concat();
    let webhooks = 1 + bench.plan.warm_up + peers::WARM_AT_SMALLEST_MEMORY;
    let at_smallest_memory = webhooks * bench.plan.starts();
    bench.expect(bench.plan.invocations_of(&functions) + at_smallest_memory * receivers.functions.len())?;

    let before = system::load_averages()?;
    let summaries = bench.run(&functions)?;
    let at_memory = bench.run_at_memory(
        &receivers.functions,
        peers::SMALLEST_MEMORY_MB,
        peers::WARM_AT_SMALLEST_MEMORY,
    )?;
    let after = system::load_averages()?;
    bench.progress.finish_and_clear();

    if let Some(file) = &arguments.json {
        let json = json!({ "functions": summaries, "at_memory": at_memory });
        write(file, &(serde_json::to_string_pretty(&json)? + "\n"))?;
    }
    let [ours, node, python] = *no_op_consumers.of(&summaries)? else {
        bail!("the consumer is compared with two peers");
    };
    let verdicts = Verdict::on_consumer_beside(ours, node, python);
    let mut with_summaries = Vec::new();
    for group in groups {
        with_summaries.push((group, group.of(&summaries)?));
    }
    let comparison = page::markdown(&Comparison {
        plan: &bench.plan,
        versions: peers.versions()?,
        loads: [before, after],
        groups: with_summaries,
        at_memory: (&receivers, &at_memory),
        verdicts: &verdicts,
    });
    println!("{comparison}");
    if let Some(file) = &arguments.svg {
        let panels = peers::panels(&receivers, &no_op_consumers, &summaries, &at_memory)?;
        write(file, &plot::svg("What the functions cost, beside peers in Node.js and Python", &panels))?;
    }
    if let Some(file) = &arguments.page {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let text = page::replace(&text, &comparison)
            .with_context(|| format!("replacing the comparison in {}", file.display()))?;
        write(file, &text)?;
    }
    Ok(verdicts)
}

fn write(file: &Path, content: &str) -> anyhow::Result<()> {
    fs::write(file, content).with_context(|| format!("writing {}", file.display()))
}

/// The receivers that are measured, the baseline first.
fn receivers(stub: &Stub, arguments: &Arguments, before: Option<&Path>) -> Vec<Function> {
    let mut receivers = vec![
        tutorial(stub, arguments),
        deployed_receiver(stub, arguments),
        receiver_with(
            stub,
            "receiver, Secrets Manager",
            arguments.receiver.clone(),
            ("LEARNINK_SIGNING_SECRET_ID", SECRET_ID),
        ),
    ];
    receivers.extend(before.map(|folder| {
        receiver_with(stub, "receiver, before", folder.join("receiver"), SECRET_IN_ENVIRONMENT)
    }));
    receivers
}

fn tutorial(stub: &Stub, arguments: &Arguments) -> Function {
    let variables = [("WEBHOOK_SECRET", SIGNING_SECRET), ("QUEUE_URL", &queue_url(stub, "messages"))];
    function(BASELINE, arguments.tutorial.clone(), Input::Webhook, None, &variables)
}

/// Our receiver, with its secret in the environment.
fn deployed_receiver(stub: &Stub, arguments: &Arguments) -> Function {
    receiver_with(stub, RECEIVER, arguments.receiver.clone(), SECRET_IN_ENVIRONMENT)
}

fn receiver_with(
    stub: &Stub,
    name: &'static str,
    program: PathBuf,
    secret: (&'static str, &str),
) -> Function {
    let queue_url = queue_url(stub, "messages");
    let variables = [("LEARNINK_QUEUE_URL", &*queue_url), MMAP_THRESHOLD, TRIM_THRESHOLD, secret];
    function(name, program, Input::Webhook, None, &variables)
}

/// The consumers that are measured, the one that the targets are about first.
fn consumers(stub: &Stub, arguments: &Arguments, before: Option<&Path>) -> Vec<Function> {
    let mut consumers = vec![
        consumer_with(stub, CONSUMER, arguments.bench_consumer.clone(), None, &[]),
        consumer_with(stub, DEPLOYED_CONSUMER, arguments.consumer.clone(), Some(LEARNERS_TABLE), &[]),
        consumer_with(
            stub,
            "consumer, known learners",
            arguments.consumer.clone(),
            Some(KNOWN_LEARNERS_TABLE),
            &[("LEARNINK_LEARNERS_TABLE", KNOWN_LEARNERS_TABLE)],
        ),
    ];
    if let Some(folder) = before {
        for (name, program, writes_to) in [
            ("consumer, no-op handler, before", "bench-consumer", None),
            ("consumer, before", "consumer", Some(LEARNERS_TABLE)),
        ] {
            consumers.push(consumer_with(stub, name, folder.join(program), writes_to, &[]));
        }
    }
    consumers
}

/// The deployed consumer, by which of its optional handlers is on.
fn consumers_with_handlers(stub: &Stub, consumer: &Path) -> Vec<Function> {
    let url = stub.url();
    let push = [
        ("LEARNINK_PUSH", "endpoint"),
        ("LEARNINK_PUSH_URL", &*url),
        ("LEARNINK_PUSH_SECRET", SIGNING_SECRET),
    ];
    let archive = [("LEARNINK_ARCHIVE", "s3://bench/events")];
    let bus = [("LEARNINK_EVENT_BUS", "bench")];
    let all = [&push[..], &archive, &bus].concat();
    let handlers: [(_, &[_]); 5] = [
        ("none of them", &[]),
        ("`push`", &push),
        ("`archive`", &archive),
        ("`bus`", &bus),
        ("all three", &all),
    ];
    let function =
        |(name, variables)| consumer_with(stub, name, consumer.to_owned(), Some(LEARNERS_TABLE), variables);
    handlers.into_iter().map(function).collect()
}

fn consumer_with(
    stub: &Stub,
    name: &'static str,
    program: PathBuf,
    writes_to: Option<&'static str>,
    others: &[(&'static str, &str)],
) -> Function {
    let (queue_url, dead_letter_queue_url) = (queue_url(stub, "messages"), queue_url(stub, "dead-letters"));
    let variables = [
        ("LEARNINK_QUEUE_URL", &*queue_url),
        ("LEARNINK_DEAD_LETTER_QUEUE_URL", &dead_letter_queue_url),
        ("LEARNINK_MAX_RECEIVE_COUNT", "7"),
        ("LEARNINK_LEDGER_TABLE", LEDGER_TABLE),
        ("LEARNINK_LEARNERS_TABLE", LEARNERS_TABLE),
        ("LEARNINK_UNKNOWN_EVENTS_TABLE", "unknown-events"),
    ];
    function(name, program, Input::Batch, writes_to, &[&variables, others].concat())
}

fn function(
    name: &'static str,
    program: PathBuf,
    input: Input,
    writes_to: Option<&'static str>,
    variables: &[(&'static str, &str)],
) -> Function {
    let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Function { name, code: Code::Binary(program), input, writes_to, variables }
}

fn queue_url(stub: &Stub, queue: &str) -> String {
    format!("{}/123456789012/{queue}", stub.url())
}

fn print_receivers(plan: &Plan, summaries: &[Summary], baseline: &Summary, verdicts: &[Verdict]) {
    println!(
        "Medians of {} cold starts and {} warm invocations of each size; × is the share of `{BASELINE}`.\n",
        plan.rounds * plan.cold,
        plan.rounds * plan.warm,
    );
    println!("{}\n", report::cold_table(summaries, baseline));
    for size_bytes in &plan.sizes_bytes {
        println!("{}\n", report::warm_table(*size_bytes, summaries, baseline));
    }
    println!("Targets for `{RECEIVER}`, with the secret in the environment:\n");
    println!("{}\n", report::target_table(report::SHARES, verdicts));
}

fn print_consumers(plan: &Plan, summaries: &[Summary], verdicts: &[Verdict], on_deployed: &[Verdict]) {
    println!("The same of the consumer, in {} batches of {RECORDS} records.\n", plan.rounds * plan.warm);
    println!("{}\n", report::batch_table(summaries));
    println!("Targets for `{CONSUMER}`; that for CPU is absolute, and depends on the machine:\n");
    println!("{}\n", report::target_table(report::ABSOLUTE, verdicts));
    println!("Targets for `{DEPLOYED_CONSUMER}`, as shares of `{CONSUMER}`:\n");
    println!("{}", report::target_table(report::SHARES, on_deployed));
}

/// A bar on standard error, if that is a terminal.
fn progress() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %, {eta} left, {msg}")?;
    Ok(ProgressBar::no_length().with_style(style))
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_quick_run_is_shorter_unless_told_otherwise() {
        let parse = |options: &str| {
            let given = "bench --receiver r --tutorial t --consumer c --bench-consumer b --certificates c --logs l \
                 --peers-folder p";
            Arguments::try_parse_from(given.split(' ').chain(options.split_whitespace())).unwrap()
        };
        assert_eq!((parse("").rounds, parse("").warm), (5, 300));
        assert_eq!((parse("--peers").rounds, parse("--peers").cold, parse("--peers").warm), (5, 3, 100));
        let quick = parse("--quick --warm 7 --sizes 400,1000");
        assert_eq!((quick.rounds, quick.warm), (2, 7));
        assert_eq!(quick.sizes, [400, 1000]);
    }
}
