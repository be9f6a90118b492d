//! LearnInk's side of `learnink dev`: it is restored, has this pipeline as an endpoint, posts what is due, and is stored.

use std::sync::Arc;

use jiff::SignedDuration;
use learnink_console::history::{History, Recorder};
use learnink_console::simulation;
use learnink_local::pipeline::FaultSource;
use learnink_simulator::{Driver, EndpointId, EndpointUrl, Environment, Event, Handle, Secret};
use learnink_webhook::config::listed_secrets;
use learnink_webhook::error::with_causes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::catalog::{Files, Repository};
use crate::{called, now, send};

/// The kind and the id of the document that names the endpoint which is this pipeline.
const OWN_ENDPOINT: (&str, &str) = ("own-endpoint", "own-endpoint");

/// LearnInk's side, before it posts anything.
pub(super) struct Sender {
    driver: Driver,
    handle: Handle,
    /// The endpoint that this pipeline was at an earlier start.
    own: Option<EndpointId>,
}

/// This pipeline, as an endpoint of LearnInk's side.
pub(super) struct Own<'a> {
    /// Where it receives webhooks.
    pub(super) url: &'a str,
    /// The signing secrets that the receiver accepts. The first is the current one.
    pub(super) secrets: &'a [String],
    /// Whether they were given at the start: then LearnInk's side signs with the first of them.
    pub(super) is_given: bool,
}

/// LearnInk's side, while it posts what is due.
pub(super) struct Sending {
    stop_driver: oneshot::Sender<()>,
    driver: JoinHandle<()>,
    stop_store: oneshot::Sender<()>,
    store: JoinHandle<()>,
}

impl Sender {
    /// Restores LearnInk's side. Documents that cannot be read become a notice.
    pub(super) fn restore(history: &History, notices: &mut Vec<String>) -> Option<Self> {
        let restored = simulation::restore(history, now())
            .and_then(|restored| Ok((restored, history.documents(OWN_ENDPOINT.0)?)));
        let ((simulator, left_out), own) = match restored {
            Ok(restored) => restored,
            Err(error) => {
                // Not without what was stored: it would be overwritten.
                notices.push(format!("LearnInk's side cannot be simulated: {}", with_causes(&error)));
                return None;
            }
        };
        notices.extend(left_out.map(|left_out| left_out.to_string()));
        let own = own.into_iter().next().and_then(|(_, json)| serde_json::from_str::<String>(&json).ok());
        match Driver::new(simulator, now, fastrand::Rng::new()) {
            Ok((driver, handle)) => Some(Self { driver, handle, own: own.map(EndpointId::named) }),
            Err(error) => {
                notices.push(format!("LearnInk's side cannot be simulated: {}", with_causes(&error)));
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
        Arc::new(move |svix_id| handle.take_fault(svix_id))
    }

    /// Makes this pipeline an endpoint of staging, if staging has none, and starts. The endpoint that it was at an
    /// earlier start gets its address.
    pub(super) fn start(self, own: &Own<'_>, recorder: Recorder, notices: &mut Vec<String>) -> Sending {
        match register(&self.handle, self.own, own) {
            Ok(Registered { id, signs_with_another }) => {
                if let Some(id) = id {
                    let json = serde_json::Value::from(id.as_str()).to_string();
                    // If it is not stored, the next start does not follow the endpoint to another port.
                    let _ = recorder.document(OWN_ENDPOINT.0, OWN_ENDPOINT.1, json);
                }
                if signs_with_another {
                    notices.push(format!(
                        "LearnInk's side signs with a secret that the receiver does not have, so that it answers 401. \
                         Hand the secret over: `{learnink} sim rotate --reveal | {learnink} secret put --replace --yes`",
                        learnink = called::learnink()
                    ));
                }
            }
            Err(problem) => {
                notices.push(format!("this pipeline is not an endpoint of LearnInk's side: {problem}"));
            }
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

/// The endpoint that is this pipeline.
struct Registered {
    id: Option<EndpointId>,
    /// Whether the receiver has none of the secrets that LearnInk signs with there.
    signs_with_another: bool,
}

fn register(handle: &Handle, own: Option<EndpointId>, pipeline: &Own<'_>) -> Result<Registered, String> {
    let url = EndpointUrl::parse(pipeline.url).map_err(|error| error.to_string())?;
    let secrets = pipeline.secrets.iter().flat_map(|secrets| listed_secrets(secrets)).map(Secret::parse);
    let secrets = secrets.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let current = secrets.first().ok_or("there is no signing secret")?;
    handle.change(|simulator, now, random| {
        let has_staging =
            simulator.endpoints().iter().any(|endpoint| endpoint.environment == Environment::Staging);
        let mut id = own.filter(|id| simulator.endpoint(id).is_ok());
        if id.is_none() && !has_staging {
            let (url, secret) = (url.clone(), current.clone());
            id = Some(simulator.add_endpoint(Environment::Staging, url, secret, now, random));
        }
        let Some(id) = id else { return Ok(Registered { id: None, signs_with_another: false }) };
        let endpoint = simulator.endpoint(&id).map_err(|error| error.to_string())?;
        let is_known =
            |secret: &Secret| secrets.iter().any(|known| known.fingerprint() == secret.fingerprint());
        let signs_with_another = !endpoint.secrets.signing(now).any(is_known);
        if endpoint.url != url {
            simulator.set_url(&id, url.clone()).map_err(|error| error.to_string())?;
        }
        if signs_with_another && pipeline.is_given {
            let rotated = simulator.rotate(&id, current.clone(), SignedDuration::ZERO, now);
            rotated.map_err(|error| error.to_string())?;
        }
        Ok(Registered { id: Some(id), signs_with_another: signs_with_another && !pipeline.is_given })
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
