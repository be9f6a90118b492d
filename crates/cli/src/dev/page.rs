//! The page in the browser, with the history that it shows.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use learnink_console::guard::Key;
use learnink_console::history::{self, Opened, Recorder};
use learnink_console::{Console, Options};
use learnink_local::state::Service;
use learnink_local::terminal::quoted;
use learnink_local::{Observation, Pipeline};
use learnink_simulator::Handle;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::desk::Learnink;
use super::entries::entry;
use super::sender::samples;
use crate::{now, variable};

/// The port of the page.
pub(super) const DEFAULT_PORT: u16 = 9001;

/// How long the end of the program waits until the history is on the disk.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);

/// How long the end of the program waits for requests of the page.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

/// Options of the page.
#[derive(Debug, clap::Args)]
pub(super) struct PageArgs {
    /// Port of the page in the browser; with 0, a free one is chosen
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    console_port: u16,
    /// Serve no page, keep no history, and do not simulate LearnInk's side
    #[arg(long, conflicts_with_all = ["console_port", "open"])]
    no_console: bool,
    /// Open the page in the browser. For a moment, others on this machine can see its key in the list of processes
    #[arg(long)]
    open: bool,
}

/// What the page shows and does.
pub(super) struct Contents {
    pub(super) history: history::History,
    /// LearnInk's side.
    pub(super) simulator: Option<Handle>,
    /// The signing secret, if it was given at the start.
    pub(super) given: Option<String>,
}

/// The page, or what there is of it.
#[derive(Default)]
pub(super) struct Page {
    recorder: Option<Recorder>,
    console: Option<Console>,
    /// What a person should know about it.
    pub(super) notices: Vec<String>,
}

impl PageArgs {
    /// Opens the history. A problem with it is a notice: webhooks are received all the same.
    pub(super) fn history(&self, folder: &Path) -> (Page, Option<history::History>) {
        if self.no_console {
            return (Page::default(), None);
        }
        match history::open(folder, now) {
            Ok(Opened { recorder, history, notice }) => {
                let notices = notice.iter().map(ToString::to_string).collect();
                (Page { recorder: Some(recorder), console: None, notices }, Some(history))
            }
            Err(error) => {
                let problem = learnink_webhook::error::with_causes(&error);
                let notices = vec![format!("no page, because the history cannot be opened: {problem}")];
                (Page { notices, ..Page::default() }, None)
            }
        }
    }

    /// Serves the page of a pipeline. A problem is a notice: webhooks are received all the same.
    pub(super) async fn serve(
        &self,
        page: &mut Page,
        contents: Contents,
        pipeline: &Pipeline,
        folder: &Path,
    ) {
        match self.console(contents, folder).await {
            Ok(console) => {
                let link = console.link();
                if let Err(error) =
                    pipeline.announce(Service::Console, &format!("http://{}", console.address()))
                {
                    page.notices.push(error.to_string());
                }
                if self.open
                    && let Err(problem) = open(&link)
                {
                    page.notices.push(problem);
                }
                page.console = Some(console);
            }
            Err(problem) => page.notices.push(problem),
        }
    }

    async fn console(&self, contents: Contents, folder: &Path) -> Result<Console, String> {
        let Contents { history, simulator, given } = contents;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.console_port));
        let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "no page, because port {} is taken by another program; choose another one with --console-port",
                address.port()
            ),
            _ => format!("no page, because {address} cannot be listened on: {error}"),
        })?;
        let no_page = |error: std::io::Error| format!("no page: {error}");
        let key = Key::of(folder).map_err(|error| {
            format!("no page, because its key in {} cannot be used: {error}", quoted(folder))
        })?;
        let operator =
            ["USER", "LOGNAME"].into_iter().find_map(variable).is_none().then(|| "console".to_owned());
        let desk = Arc::new(Learnink::new(folder.to_owned(), given).map_err(no_page)?);
        Console::start(listener, Options { history, desk, simulator, samples: samples(), key, operator, now })
            .map_err(no_page)
    }
}

impl Page {
    /// The link with the key, for the operator's terminal alone.
    pub(super) fn link(&self) -> Option<String> {
        self.console.as_ref().map(Console::link)
    }

    /// Keeps what is observed, and passes it on without the content of requests. Once `stop` is ready or gone, only what
    /// has been observed by then.
    pub(super) async fn keep(
        recorder: Option<Recorder>,
        mut observations: mpsc::UnboundedReceiver<Observation>,
        shown: mpsc::Sender<Observation>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut is_stopping = false;
        loop {
            let observation = tokio::select! {
                _ = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    observations.close();
                    continue;
                }
                observation = observations.recv() => observation,
            };
            let Some(mut observation) = observation else { return };
            if let Some(recorder) = &recorder {
                recorder.record(entry(&observation));
            }
            match &mut observation {
                Observation::Received(received) => received.body.clear(),
                Observation::Consumed(_) => {}
                Observation::Queue(_) => continue,
            }
            // A terminal that is paused must neither fill the memory nor hold the history up. Its lines are missing.
            let _ = shown.try_send(observation);
        }
    }

    /// A recorder of the history, if there is one.
    pub(super) fn recorder(&self) -> Option<Recorder> {
        self.recorder.clone()
    }

    /// Stops the page: acts that come later are not confirmed.
    pub(super) async fn stop(&mut self) {
        if let Some(console) = self.console.take() {
            console.stop(STOPPED_WITHIN).await;
        }
    }

    /// Waits until the history is on the disk. Returns what a person should know if it is not.
    pub(super) async fn flush(self) -> Option<&'static str> {
        let recorder = self.recorder?;
        let flushed = tokio::task::spawn_blocking(move || recorder.flush(FLUSHED_WITHIN)).await;
        (!flushed.unwrap_or_default())
            .then_some("the last entries of the history are not stored; look for a full disk")
    }
}

/// Opens a link in the browser.
fn open(link: &str) -> Result<(), String> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = std::process::Command::new(program);
    command.arg(link).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    match command.stderr(std::process::Stdio::null()).spawn() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("cannot open the browser with `{program}` ({error}); open the link yourself"))
        }
    }
}
