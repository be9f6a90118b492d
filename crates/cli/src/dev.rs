//! `learnink dev`: the pipeline, with one line for every delivery, and a page in the browser.

mod desk;
mod entries;
mod lines;
mod page;
mod sender;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anstyle::Style;
use learnink_aws::Env;
use learnink_local::pipeline::{StackLimits, Unprocessed};
use learnink_local::state::read_previous_secret;
use learnink_local::terminal::{option, quoted};
use learnink_local::{Options, Pipeline, SigningSecret, StartError, State, state};
use tokio::sync::{mpsc, oneshot};

use self::lines::Lines;
use self::page::{Contents, Page, PageArgs};
use self::sender::{Own, Sender};
use crate::archive::variable_for_handlers;
use crate::output::{self, DIM, Line, PENDING, note};
use crate::{DEFAULT_STATE, StateFolder, aws, called, secrets};

const DEFAULT_PORT: u16 = 9000;

/// How long Ctrl-C waits for acknowledged webhooks.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many observations may wait for the terminal.
const MOST_UNPRINTED: usize = 10_000;

const SAMPLE: &str = "events/user.course.started.json";

const BOLD: Style = Style::new().bold();

/// Options of `learnink dev`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; with 0, a free one is chosen
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Signing secret, or several separated by spaces; without it, one is made and kept. Others on this machine
    /// can read the command line, but not the variable
    #[arg(long, env = "LEARNINK_SIGNING_SECRET", hide_env_values = true)]
    secret: Option<String>,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    state: StateFolder,
}

/// Runs the pipeline until Ctrl-C.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut interrupts = interrupts()?;
    let folder = args.state.folder;
    let state = State::open(&folder)?;
    let given = args.secret.as_deref().map(secrets::without_wrapping);
    let secret = given.clone().map_or_else(|| state.signing_secret(), Ok)?;
    let secret_is_given = given.is_some();
    // A given secret is not printed.
    let shown_secret = if secret_is_given { "the one you gave".to_owned() } else { secret.clone() };
    let signing_secret = given.map_or(SigningSecret::Kept, SigningSecret::Given);
    let shown_folder = std::path::absolute(&folder).unwrap_or_else(|_| folder.clone());
    let (observer, unkept) = mpsc::unbounded_channel();
    let (shown, mut observations) = mpsc::channel(MOST_UNPRINTED);
    let (mut page, history) = args.page.history(&folder);
    let sender = history.as_ref().and_then(|history| Sender::restore(history, &mut page.notices));
    let (stop_keeper, stopped) = oneshot::channel();
    let keeper = tokio::spawn(Page::keep(page.recorder(), unkept, shown, stopped));
    let options = Options {
        address: SocketAddr::new(args.host, args.port),
        state: Some(state),
        signing_secret,
        limits: StackLimits::TEMPLATE,
        env: Env::new(variable_for_handlers).with_aws(|| aws::config(None)),
        random: fastrand::f64,
        fault: sender.as_ref().map(Sender::faults),
        observer,
    };
    let mut pipeline =
        Pipeline::start(options).await.map_err(|error| explain(error, &folder, secret_is_given))?;
    let url = pipeline.url();
    if let Some(history) = history {
        let simulator = sender.as_ref().map(Sender::handle);
        let contents = Contents { history, simulator, given: secret_is_given.then(|| secret.clone()) };
        args.page.serve(&mut page, contents, &pipeline, &folder).await;
    }
    let mut accepted = vec![secret];
    if !secret_is_given {
        accepted.extend(read_previous_secret(&folder)?);
    }
    let own = Own { url: &url, secrets: &accepted, is_given: secret_is_given };
    let sending =
        sender.zip(page.recorder()).map(|(sender, recorder)| sender.start(&own, recorder, &mut page.notices));
    let mut screen = Screen::default();
    screen.print(Line::default().styled(BOLD, "LearnInk webhooks, on this machine"));
    screen.print("");
    screen.print(format!("  endpoint  {url}"));
    screen.print(format!("  secret    {shown_secret}"));
    screen.print(format!("  state     {}", quoted(shown_folder)));
    if let Some(link) = page.link() {
        screen.print(format!("  page      {link}"));
    }
    for notice in &page.notices {
        screen.print(Line::default().styled(PENDING, "!").text(format!(" {notice}")));
    }
    screen.print("");
    screen.print("Next, in a second terminal:");
    screen.print("");
    let next = next_command(called::learnink(), &url, &folder, secret_is_given);
    screen.print(Line::new("  ").styled(BOLD, next));
    screen.print("");
    screen.print(Line::default().styled(DIM, "One line for every delivery; Ctrl-C stops."));
    screen.print("");

    let mut lines = Lines::new(!secret_is_given);
    loop {
        tokio::select! {
            Some(observation) = observations.recv() => screen.print_all(lines.lines(observation)),
            _ = interrupts.recv() => break,
        }
    }
    screen.print("");
    screen.print("stopping: no more requests; finishing what was acknowledged (Ctrl-C again to leave it)");
    // Until the history is on the disk, no other pipeline starts in this folder.
    let _locked = pipeline.hold_state();
    let end = async {
        page.stop().await;
        if let Some(sending) = sending {
            sending.stop().await;
        }
        let left = pipeline.stop(PATIENCE).await;
        drop(stop_keeper);
        // Fails if it panicked: then the rest is not shown.
        let _ = keeper.await;
        (left, page.flush().await)
    };
    tokio::pin!(end);
    let (left, problem) = loop {
        tokio::select! {
            ended = &mut end => break ended,
            Some(observation) = observations.recv() => screen.print_all(lines.lines(observation)),
            _ = interrupts.recv() => anyhow::bail!("left unfinished; the messages are kept for the next start"),
        }
    };
    while let Ok(observation) = observations.try_recv() {
        screen.print_all(lines.lines(observation));
    }
    if let Some(problem) = problem {
        screen.print(Line::default().styled(PENDING, "!").text(format!(" {problem}")));
    }
    screen.print(format!("stopped: {}", kept(left)));
    screen.problem.map_or(Ok(()), Err)
}

/// The output of the lines. If it is a file on a full disk, webhooks are still handled.
#[derive(Debug, Default)]
struct Screen {
    /// Why a line could not be printed, the first time.
    problem: Option<anyhow::Error>,
}

impl Screen {
    fn print(&mut self, line: impl Into<Line>) {
        let Err(problem) = output::print(line) else { return };
        if self.problem.is_none() {
            // If this cannot be written either, the exit code shows it.
            let _ = note(format!("{problem:#}; webhooks are received all the same"));
            self.problem = Some(problem);
        }
    }

    fn print_all(&mut self, lines: Vec<Line>) {
        for line in lines {
            self.print(line);
        }
    }
}

/// The messages that are kept for the next start.
fn kept(Unprocessed { messages, dead_letters }: Unprocessed) -> String {
    let messages = match messages {
        0 => "nothing is left on the queue".to_owned(),
        1 => "1 message is kept for the next start".to_owned(),
        messages => format!("{messages} messages are kept for the next start"),
    };
    match dead_letters {
        0 => messages,
        1 => format!("{messages}; 1 dead letter is kept"),
        dead_letters => format!("{messages}; {dead_letters} dead letters are kept"),
    }
}

/// Adds what to do, if the cause allows it.
fn explain(error: StartError, folder: &Path, secret_is_given: bool) -> anyhow::Error {
    match error {
        StartError::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "port {} is taken by another program; stop it, or choose another port with --port",
                address.port()
            )
        }
        StartError::Secret(error) if secret_is_given => {
            anyhow::Error::from(error).context("the signing secret cannot be used")
        }
        StartError::Secret(error) => anyhow::anyhow!(
            "{} holds no usable secret ({error}); remove it to have a new one made",
            quoted(state::secret_file(folder))
        ),
        error @ (StartError::Listen { .. }
        | StartError::State(_)
        | StartError::Sqs(_)
        | StartError::DynamoDb(_)
        | StartError::SecretsManager(_)
        | StartError::LoadSecret(_)
        | StartError::NothingKept
        | StartError::Env(_)) => error.into(),
    }
}

/// Each Ctrl-C or request to end, as they arrive.
fn interrupts() -> anyhow::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            #[cfg(unix)]
            tokio::select! {
                result = tokio::signal::ctrl_c() => if result.is_err() { return },
                _ = terminate.recv() => {}
            }
            #[cfg(not(unix))]
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The command for the second terminal, with only the options that it needs.
fn next_command(learnink: &str, url: &str, folder: &Path, secret_is_given: bool) -> String {
    // Not an option: others on this machine can read those.
    let secret = if secret_is_given { "LEARNINK_SIGNING_SECRET=YOUR_SECRET " } else { "" };
    let mut command = vec![format!("{secret}{learnink} send")];
    if !url.starts_with(&format!("http://127.0.0.1:{DEFAULT_PORT}/")) {
        command.push(option("--url", url));
    }
    if folder != Path::new(DEFAULT_STATE) {
        command.push(option("--state", folder));
    }
    if Path::new(SAMPLE).exists() {
        command.push(SAMPLE.to_owned());
    }
    command.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_counted() {
        let kept = |messages, dead_letters| kept(Unprocessed { messages, dead_letters });
        assert_eq!(kept(0, 0), "nothing is left on the queue");
        assert_eq!(kept(0, 1), "nothing is left on the queue; 1 dead letter is kept");
        assert_eq!(kept(1, 0), "1 message is kept for the next start");
        assert_eq!(kept(2, 3), "2 messages are kept for the next start; 3 dead letters are kept");
    }

    #[test]
    fn the_next_command_shows_no_secret_to_others_and_can_be_pasted() {
        let next = |url: &str, folder: &str, secret_is_given| {
            next_command("cargo learnink", url, Path::new(folder), secret_is_given)
        };
        let here = "http://127.0.0.1:9000/webhooks/learnink";
        let with_secret = next(here, DEFAULT_STATE, true);
        assert_eq!(with_secret, "LEARNINK_SIGNING_SECRET=YOUR_SECRET cargo learnink send");
        let elsewhere = next("http://[::1]:9100/webhooks/learnink", "st sp/$x", false);
        let expected = "cargo learnink send --url 'http://[::1]:9100/webhooks/learnink' --state 'st sp/$x'";
        assert_eq!(elsewhere, expected);
    }
}
