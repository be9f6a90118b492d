//! `learnink`: the pipeline on a laptop, signed webhooks to try it with, and what came of them.

mod dev;
mod send;
mod stored;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
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
    /// Show the events that no handler takes yet
    Unknown(stored::Args),
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
    // What the pipeline does is told line by line; its own logs are for those who ask.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off,learnink_local=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let result = match cli.command {
        Command::Dev(args) => dev::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Send(args) => send::run(args).await,
        Command::Learners(args) => stored::learners(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Unknown(args) => stored::unknown_events(&args).await.map(|()| ExitCode::SUCCESS),
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
