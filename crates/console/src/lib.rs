//! The page in the browser of `learnink dev`: what happened to each message, and the acts on it.
//!
//! | module | has |
//! |---|---|
//! | [`history`] | what happened, in one file of the state folder |
//! | [`guard`] | who may use it |
//! | [`payload`] | a payload as people see it |
//! | [`desk`] | the acts, as lines of the `learnink` command |
//! | [`simulation`] | LearnInk's side between two starts |
//!
//! The pages are made here, of HTML, one style sheet and one script, and need nothing from elsewhere. Without the
//! script they do the same, and have to be loaded again to show what is new. Every page also answers JSON, to
//! `Accept: application/json`, and so does every refusal, as `{"error": "..."}`.

pub mod desk;
pub mod guard;
pub mod history;
mod live;
mod pages;
pub mod payload;
mod server;
pub mod simulation;

pub use pages::encoded;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::desk::Desk;
use crate::guard::{KEY_PARAMETER, Key, Session};
use crate::history::History;

/// What a console works with.
pub struct Options {
    /// What happened.
    pub history: History,
    /// Carries out the acts.
    pub desk: Arc<dyn Desk>,
    /// LearnInk's side, if this program has it.
    pub simulator: Option<learnink_simulator::Handle>,
    /// The Event Catalog: an example for each type, in the order in which they are shown.
    pub samples: Vec<learnink_simulator::Event>,
    /// What lets the operator in.
    pub key: Key,
    /// The operator's name, which is kept with an act; without it, the command takes that of the system's account.
    pub operator: Option<String>,
    /// The clock.
    pub now: fn() -> Timestamp,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("history", &self.history).finish_non_exhaustive()
    }
}

/// A running console.
#[derive(Debug)]
pub struct Console {
    address: SocketAddr,
    key: Key,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Console {
    /// Serves the pages on `listener` until [`stop`](Self::stop).
    ///
    /// # Errors
    ///
    /// If the listener is not one of this machine's loopback: nobody else may reach the console. Or if the system gives
    /// no random bytes.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            let why = format!("the console is for this machine only, and {address} is not its loopback");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let key = options.key.clone();
        let (stop, stopped) = watch::channel(false);
        let session = Session::start(&key)?;
        let router = server::router(options, session, address.port(), stopped.clone());
        let server = tokio::spawn(async move {
            let mut stopped = stopped;
            let stopped = async move {
                // An error means that the console is gone, which stops the server too.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the console stopped");
            }
        });
        Ok(Self { address, key, stop, server })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The link that lets the operator in. It has the key, so that it is for the operator's terminal only.
    pub fn link(&self) -> String {
        format!("http://{}/?{KEY_PARAMETER}={}", self.address, self.key.expose())
    }

    /// Ends the streams, answers the requests that are under way, for up to `patience`, and stops.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(patience, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}
