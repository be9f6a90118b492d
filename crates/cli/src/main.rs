//! `learnink`: the pipeline on a laptop, signed webhooks to try it with, and their results.

// Everything is printed through `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod acts;
mod archive;
mod aws;
mod called;
mod catalog;
mod client;
mod completions;
mod dev;
mod dlq;
mod doctor;
mod forget;
mod input;
mod ledger;
mod load;
mod man;
mod output;
mod percentile;
mod question;
mod replay;
mod secret;
mod secrets;
mod send;
mod show;
mod sim;
mod stack;
mod status;
mod stored;
mod table;
mod tail;
mod unread;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use jiff::Timestamp;
use learnink_local::terminal;
use tracing_subscriber::EnvFilter;

/// Receive LearnInk's webhooks: try the pipeline here, send it webhooks, see their results.
#[derive(Parser)]
#[command(name = "learnink", version = learnink_telemetry::BUILD, max_term_width = 100)]
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
    /// Send webhooks at a rate, and count what came of each at the other end
    Load(Box<load::Args>),
    /// Work with LearnInk's side of a running `learnink dev`: endpoints, examples, resends, faults
    #[command(subcommand)]
    Sim(Box<sim::Command>),
    /// Show which learner started which course, as the `progress` handler recorded it
    Learners(stored::Args),
    /// Show the events that no handler took when they arrived
    ///
    /// The table has a row for each type and version, --json one for each event. Events are kept for 90 days. Once
    /// there is a handler for a type, `replay run --from unknown` sends its events again, and the handler runs.
    Unknown(stored::Args),
    /// Show everything that is known of one message
    Show(show::Args),
    /// Handle messages again that are already done: from what is kept, or as LearnInk sends them again
    #[command(subcommand)]
    Replay(replay::Command),
    /// Find out why messages are on the dead-letter queue, send them again, drop and restore them
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Show what operators did: with dead letters, kept webhooks and secrets
    Acts(acts::Args),
    /// Show what waits, what is refused, which alarms ring and which versions are live, on one screen
    Status(status::Args),
    /// Look at each part of a deployed stack, send an event through it, and say what mends what is wrong
    Doctor(doctor::Args),
    /// Print what happens to webhooks in a deployed stack, a line for each
    Tail(tail::Args),
    /// Prove and export the records that the `archive` handler keeps
    #[command(subcommand)]
    Archive(archive::Command),
    /// Erase everything that is stored of a learner who asks for it
    Forget(Box<forget::Args>),
    /// Give a learner what is stored of them
    Export(forget::export::Args),
    /// Say why a webhook's signature fails
    Verify(verify::Args),
    /// Show, store and rotate the signing secret, and store the push sender's
    #[command(subcommand)]
    Secret(secret::Command),
    /// List, add and check the event types of this repository: schemas, examples, handlers
    Catalog(catalog::Args),
    /// Print the script with which a shell completes this command line
    Completions(completions::Args),
    /// Write the manual pages to a folder
    Man(man::Args),
}

/// Where `learnink dev` keeps its state.
#[derive(Debug, Args)]
struct StateFolder {
    /// Folder with the state of `learnink dev`: secret, tables, queues, key and history of its page
    #[arg(long = "state", value_name = "FOLDER", env = "LEARNINK_STATE", default_value = DEFAULT_STATE)]
    folder: PathBuf,
}

impl StateFolder {
    /// The option with the folder, after a space, if it is needed.
    fn option(&self) -> Option<String> {
        let is_default = self.folder == Path::new(DEFAULT_STATE);
        (!is_default).then(|| format!(" {}", terminal::option("--state", &self.folder)))
    }
}

/// Beside the checkout's other generated files.
const DEFAULT_STATE: &str = ".learnink";

#[tokio::main]
async fn main() -> ExitCode {
    output::report_panics();
    learnink_aws::install_tls_provider();
    let command = command(called::learnink(), called::dev());
    let parsed = command.try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let result = match parsed {
        Ok(cli) => {
            log();
            run(cli.command).await
        }
        Err(error) => {
            let code = error.exit_code();
            output::usage(error).map(|()| ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    };
    result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(args) => dev::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Send(args) => send::run(args).await,
        Command::Load(args) => load::run(*args).await,
        Command::Sim(command) => sim::run(*command).await,
        Command::Learners(args) => stored::learners(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Unknown(args) => stored::unknown_events(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Show(args) => show::run(&args).await,
        Command::Replay(command) => replay::run(command).await,
        Command::Dlq(command) => dlq::run(command).await,
        Command::Acts(args) => acts::run(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Tail(args) => tail::run(&args).await,
        Command::Archive(command) => archive::run(command).await,
        Command::Forget(args) => forget::run(&args).await,
        Command::Export(args) => forget::export::run(&args).await,
        Command::Verify(args) => verify::run(&args).await,
        Command::Secret(command) => secret::run(command).await,
        Command::Catalog(args) => catalog::run(&args),
        Command::Completions(args) => completions::run(&args, installed()).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => man::run(&args, installed()).map(|()| ExitCode::SUCCESS),
    }
}

/// The command line, for a program that is called as `learnink`, and as `dev` to start the pipeline.
fn command(learnink: &str, dev: &str) -> clap::Command {
    prepared(Cli::command(), learnink, dev).bin_name(learnink)
}

/// The command line of the installed program, whatever it is called now.
fn installed() -> clap::Command {
    command("learnink", "learnink dev")
}

/// A command whose blank variables count as unset, whose variables' values are never shown, and whose help has the
/// names under which the program was called.
fn prepared(command: clap::Command, learnink: &str, dev: &str) -> clap::Command {
    let is_blank = |arg: &clap::Arg| {
        let name = arg.get_env().and_then(|name| name.to_str());
        name.is_some_and(|name| std::env::var_os(name).is_some() && is_unset(name))
    };
    let command = command
        .mut_args(|arg| if is_blank(&arg) { arg.env(Resettable::Reset) } else { arg.hide_env_values(true) })
        .mut_subcommands(|command| prepared(command, learnink, dev));
    match command.get_after_help() {
        Some(help) => {
            let help = called::in_text(&help.to_string(), learnink, dev);
            command.after_help(help)
        }
        None => command,
    }
}

/// `learnink dev` prints its own lines; `RUST_LOG` turns on the pipeline's logs.
fn log() {
    let filter = variable("RUST_LOG").and_then(|filter| EnvFilter::try_new(filter).ok());
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("off,learnink_local=warn")))
        .with_ansi(false)
        .with_writer(|| output::LogLines)
        // It would panic if standard error is full.
        .log_internal_errors(false)
        .init();
}

/// A duration for a person.
fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[expect(clippy::disallowed_methods, reason = "the command is an edge, where the clock is read")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// The value of an environment variable. One that is blank counts as unset.
#[expect(clippy::disallowed_methods, reason = "the command is an edge, where the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Whether a variable is not set, or blank. One that is not UTF-8 is set.
fn is_unset(name: &str) -> bool {
    std::env::var_os(name).is_none_or(|value| value.to_str().is_some_and(|value| value.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command below `command`, and itself.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }

    #[test]
    fn the_command_line_is_one_that_clap_takes() {
        command("learnink", "learnink dev").debug_assert();
    }

    #[test]
    fn the_help_of_every_command_shows_no_variables_value_and_the_name_that_was_typed() {
        for mut command in all(&command("/opt/learnink", "/opt/learnink dev")) {
            assert!(
                command.get_arguments().all(|arg| arg.get_env().is_none() || arg.is_hide_env_values_set())
            );
            let help = command.render_long_help().to_string();
            assert!(!help.contains("cargo "), "{help}");
        }
    }

    #[test]
    fn no_example_of_the_help_is_wrapped_in_a_terminal_of_80_columns() {
        for command in all(&command("cargo learnink", "cargo dev")) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter(|line| line.starts_with("  "));
            assert!(examples.clone().all(|line| line.len() <= 80), "{:?}", examples.collect::<Vec<_>>());
        }
    }
}
