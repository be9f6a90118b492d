//! `learnink`: the pipeline on a laptop, signed webhooks to try it with, and what came of them.

mod archive;
mod aws;
mod dev;
mod dlq;
mod ledger;
mod replay;
mod send;
mod stored;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use tracing_subscriber::EnvFilter;

/// Receive LearnInk's webhooks: try the pipeline here, send it webhooks, see what came of them.
#[derive(Parser)]
#[command(name = "learnink", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole pipeline on this machine, without an AWS account
    Dev(dev::Args),
    /// Sign webhooks as LearnInk does, and post them
    Send(send::Args),
    /// Show which learner started which course, as the `progress` handler recorded it
    Learners(stored::Args),
    /// Show the events that no handler took when they arrived
    ///
    /// The table has a row for each type and version, --json one for each event. Events are kept for 90 days.
    /// Once there is a handler for them, LearnInk's Replay brings them back, and it runs.
    Unknown(stored::Args),
    /// Handle messages again that are already done: open, list and close replay windows
    #[command(subcommand)]
    Replay(replay::Command),
    /// Look at the dead-letter queue
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Prove and export the records that the `archive` handler keeps
    #[command(subcommand)]
    Archive(archive::Command),
}

/// Where `learnink dev` keeps its state.
#[derive(Debug, Args)]
struct StateFolder {
    /// Folder with the state of `learnink dev`: secret, tables, queues
    #[arg(long = "state", value_name = "FOLDER", env = "LEARNINK_STATE", default_value = DEFAULT_STATE)]
    folder: PathBuf,
}

/// Beside the checkout's other generated files.
const DEFAULT_STATE: &str = ".learnink";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    learnink_aws::install_tls_provider();
    // What the pipeline does is told line by line; its own logs are for those who ask.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off,learnink_local=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let result = match cli.command {
        Command::Dev(args) => dev::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Send(args) => send::run(args).await,
        Command::Learners(args) => stored::learners(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Unknown(args) => stored::unknown_events(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Replay(command) => replay::run(command).await.map(|()| ExitCode::SUCCESS),
        Command::Dlq(dlq::Command::List(args)) => dlq::list(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Archive(command) => archive::run(command).await,
    };
    result.unwrap_or_else(|error| {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}error:{red:#} {error:#}");
        ExitCode::FAILURE
    })
}

/// A duration as a person reads it.
fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[expect(clippy::disallowed_methods, reason = "the command is an edge, where the clock is read")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[expect(clippy::disallowed_methods, reason = "the command is an edge, where the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
