//! LearnInk's side of `learnink dev`: it is restored, has this pipeline as an endpoint, posts what is due, and is stored.

use std::sync::Arc;

use learnink_console::history::{History, Recorder};
use learnink_console::simulation;
use learnink_local::pipeline::FaultSource;
use learnink_receiver::PATH;
use learnink_simulator::{Driver, EndpointUrl, Environment, Event, Handle, Secret, Simulator};
use learnink_webhook::config::listed_secrets;
use learnink_webhook::error::with_causes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::catalog::{Files, Repository};
use crate::{now, send};

/// LearnInk's side, before it posts anything.
pub(super) struct Sender {
    driver: Driver,
    handle: Handle,
}

/// LearnInk's side, while it posts what is due.
pub(super) struct Sending {
    stop_driver: oneshot::Sender<()>,
    driver: JoinHandle<()>,
    stop_store: oneshot::Sender<()>,
    store: JoinHandle<()>,
}

impl Sender {
    /// LearnInk's side as the history has it. What it has not is a notice.
    pub(super) fn restore(history: &History, notices: &mut Vec<String>) -> Option<Self> {
        let simulator = match simulation::restore(history, now()) {
            Ok((simulator, left_out)) => {
                notices.extend(left_out.map(|left_out| left_out.to_string()));
                simulator
            }
            Err(error) => {
                notices.push(format!("LearnInk's side starts anew: {}", with_causes(&error)));
                Simulator::default()
            }
        };
        match Driver::new(simulator, now, fastrand::Rng::new()) {
            Ok((driver, handle)) => Some(Self { driver, handle }),
            Err(error) => {
                notices.push(format!("there is no LearnInk's side: {}", with_causes(&error)));
                None
            }
        }
    }

    /// Reads and changes it.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The faults that somebody has asked for.
    pub(super) fn faults(&self) -> FaultSource {
        let handle = self.handle.clone();
        Arc::new(move |svix_id| {
            handle.change(|simulator, now, random| simulator.take_fault(svix_id, random.f64(), now))
        })
    }

    /// Makes the pipeline at `url` an endpoint of staging, if there is none, and starts. An endpoint that this pipeline
    /// was at an earlier start gets its address.
    pub(super) fn start(
        self,
        url: &str,
        secret: &str,
        recorder: Recorder,
        notices: &mut Vec<String>,
    ) -> Sending {
        if let Err(problem) = register(&self.handle, url, secret) {
            notices.push(format!("this pipeline is not an endpoint of LearnInk's side: {problem}"));
        }
        let (stop_driver, driver_stopped) = oneshot::channel();
        let (stop_store, store_stopped) = oneshot::channel();
        let ended = async |stopped: oneshot::Receiver<()>| {
            // An error means that nobody is left who could say so.
            let _ = stopped.await;
        };
        let driver = tokio::spawn(self.driver.run(ended(driver_stopped)));
        let store = tokio::spawn(simulation::store(self.handle, recorder, ended(store_stopped)));
        Sending { stop_driver, driver, stop_store, store }
    }
}

fn register(handle: &Handle, url: &str, secret: &str) -> Result<(), String> {
    let url = EndpointUrl::parse(url).map_err(|error| error.to_string())?;
    // The first is the one that LearnInk signs with.
    let secret = listed_secrets(secret).next().unwrap_or_default();
    let secret = Secret::parse(secret).map_err(|error| error.to_string())?;
    handle.change(|simulator, now, random| {
        let is_this = |url: &EndpointUrl| url.is_this_machine() && url.get().path() == PATH;
        let ours = simulator.endpoints().iter().filter(|endpoint| is_this(&endpoint.url));
        let ours: Vec<_> = ours.map(|endpoint| (endpoint.id.clone(), endpoint.url == url)).collect();
        if !simulator.endpoints().iter().any(|endpoint| endpoint.environment == Environment::Staging) {
            simulator.add_endpoint(Environment::Staging, url.clone(), secret, now, random);
        }
        for (id, is_current) in ours {
            if !is_current {
                simulator.set_url(&id, url.clone()).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    })
}

impl Sending {
    /// Stops it. What is under way is attempted again at the next start.
    pub(super) async fn stop(self) {
        drop(self.stop_driver);
        // They fail if they panicked: then there is nothing to wait for.
        let _ = self.driver.await;
        drop(self.stop_store);
        let _ = self.store.await;
    }
}

/// The Event Catalog: the examples of this checkout, or one that is built in.
pub(super) fn samples() -> Vec<Event> {
    let files = Repository::here().and_then(|repository| repository.catalog()).map(|catalog| catalog.types);
    let example = |(event_type, files): (String, Files)| {
        let payload = String::from_utf8(files.example?).ok()?;
        Some(Event { event_type, payload })
    };
    let samples: Vec<_> = files.into_iter().flatten().filter_map(example).collect();
    if samples.is_empty() { vec![send::sample()] } else { samples }
}
