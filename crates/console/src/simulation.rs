//! LearnInk's side between two starts: its endpoints, messages and settings, as documents of the history.
//!
//! They have signing secrets and payloads, in a file that only its owner can read.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use learnink_simulator::{Changes, Endpoint, Handle, Message, RequestError, Settings, Simulator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::history::{History, HistoryError, Recorder};

/// The kinds of the documents.
const ENDPOINT: &str = "endpoint";
const MESSAGE: &str = "message";
const SETTINGS: &str = "settings";

/// The id of the one document of [`SETTINGS`].
const THE_SETTINGS: &str = "settings";

/// How long the store waits before it offers again what the history did not take.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How often it tries that at the end.
const LAST_TRIES: usize = 50;

/// Documents that cannot be read, and are left out. They stay in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// How many they are.
    pub documents: usize,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, verb) = (self.documents, if self.documents == 1 { "is" } else { "are" });
        write!(
            f,
            "{count} of the stored endpoints and messages of LearnInk's side cannot be read and {verb} left out"
        )
    }
}

/// LearnInk's side as [`store`] left it, and what cannot be read of it. It blocks.
///
/// # Errors
///
/// [`HistoryError`] if the file cannot be read.
pub fn restore(history: &History, now: Timestamp) -> Result<(Simulator, Option<LeftOut>), HistoryError> {
    let mut left_out = LeftOut { documents: 0 };
    let settings: Vec<Settings> = read(history, SETTINGS, &mut left_out)?;
    let endpoints: Vec<Endpoint> = read(history, ENDPOINT, &mut left_out)?;
    let messages: Vec<Message> = read(history, MESSAGE, &mut left_out)?;
    let settings = settings.into_iter().next().unwrap_or_default();
    let simulator = Simulator::restore(settings, endpoints, messages, now);
    Ok((simulator, Some(left_out).filter(|left_out| left_out.documents > 0)))
}

fn read<T: DeserializeOwned>(
    history: &History,
    kind: &str,
    left_out: &mut LeftOut,
) -> Result<Vec<T>, HistoryError> {
    let documents = history.documents(kind)?;
    let count = documents.len();
    let readable = documents.into_iter().filter_map(|(_, json)| serde_json::from_str(&json).ok());
    let readable: Vec<T> = readable.collect();
    left_out.documents += count - readable.len();
    Ok(readable)
}

/// Writes each change of LearnInk's side to the history until `stop` is ready, and what is left then. What the history
/// does not take is offered again. Stop the driver first, and call [`Recorder::flush`] afterwards.
pub async fn store(handle: Handle, recorder: Recorder, stop: impl Future<Output = ()>) {
    let mut changed = handle.follow();
    let mut stop = pin!(stop);
    let mut unwritten = Changes::default();
    loop {
        // Before the changes are taken, so that one that comes meanwhile is seen.
        changed.borrow_and_update();
        write(&handle, &recorder, &mut unwritten);
        let again = async {
            if unwritten.is_empty() {
                // An error means that there is no simulator any more; the handle here keeps it.
                let _ = changed.changed().await;
            } else {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        };
        tokio::select! {
            () = &mut stop => break,
            () = again => {}
        }
    }
    for _ in 0..LAST_TRIES {
        write(&handle, &recorder, &mut unwritten);
        if unwritten.is_empty() {
            return;
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    tracing::warn!("the last changes of LearnInk's side are not stored: the disk does not take them");
}

/// Offers all changes to the history. Those that it does not take stay in `unwritten`.
fn write(handle: &Handle, recorder: &Recorder, unwritten: &mut Changes) {
    let new = handle.change(|simulator, _, _| simulator.take_changes());
    merge(unwritten, new);
    // Once one is not taken, the others are not even made: there may be thousands.
    let mut is_full = false;
    let mut stays = |take: &dyn Fn() -> bool| {
        is_full = is_full || !take();
        is_full
    };
    // Endpoints first: a message without its endpoint would not be attempted after a restart.
    unwritten.endpoints.retain(|id| {
        stays(&|| {
            let json = handle.read(|simulator, _| json(simulator.endpoint(id)));
            json.is_none_or(|json| recorder.document(ENDPOINT, id.as_str(), json))
        })
    });
    unwritten.messages.retain(|id| {
        stays(&|| {
            let json = handle.read(|simulator, _| json(simulator.message(id)));
            json.is_none_or(|json| recorder.document(MESSAGE, id.as_str(), json))
        })
    });
    unwritten.settings = unwritten.settings
        && stays(&|| {
            let json = handle.read(|simulator, _| json(Ok(simulator.settings())));
            json.is_none_or(|json| recorder.document(SETTINGS, THE_SETTINGS, json))
        });
    unwritten.dropped_messages.retain(|id| stays(&|| recorder.remove_document(MESSAGE, id.as_str())));
    unwritten.removed_endpoints.retain(|id| stays(&|| recorder.remove_document(ENDPOINT, id.as_str())));
}

fn merge(changes: &mut Changes, new: Changes) {
    let Changes { messages, dropped_messages, endpoints, removed_endpoints, settings } = new;
    changes.messages.extend(messages);
    changes.messages.retain(|id| !dropped_messages.contains(id));
    changes.dropped_messages.extend(dropped_messages);
    changes.endpoints.extend(endpoints);
    changes.endpoints.retain(|id| !removed_endpoints.contains(id));
    changes.removed_endpoints.extend(removed_endpoints);
    changes.settings |= settings;
}

/// What is stored; `None` if it does not exist any more, which is a change of its own.
fn json<T: Serialize>(stored: Result<&T, RequestError>) -> Option<String> {
    stored.ok().and_then(|stored| serde_json::to_string(stored).ok())
}

#[cfg(test)]
pub(crate) mod tests;
