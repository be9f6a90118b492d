//! The driver: it makes the attempts that the [`Simulator`] says are due.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use reqwest::redirect::Policy;
use tokio::sync::{Notify, watch};

use crate::fault::{Fault, Front};
use crate::message::Outcome;
use crate::schedule::TIME_LIMIT;
use crate::simulator::{AttemptRequest, Simulator};

/// Attempts at the same time, at most.
const MOST_AT_ONCE: usize = 16;

/// The longest sleep. The clock of a machine goes on while the machine is suspended, and the timer of a sleep may not.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// Headers of an answer that are kept, at most.
const MOST_HEADERS: usize = 64;

/// Characters of a header's value that are kept, at most.
const LONGEST_VALUE: usize = 1_024;

/// Posts what is due.
#[derive(Debug)]
pub struct Driver {
    handle: Handle,
    clients: Clients,
}

/// Reads and changes the simulator of a [`Driver`], from pages, commands and a store. A clone is the same handle.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Locked for an instant only, also by whoever has locked `state`.
    front: Mutex<Front>,
    /// The real time.
    clock: fn() -> Timestamp,
    /// Wakes the driver, because something else may be due.
    wake: Notify,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    simulator: Simulator,
    random: fastrand::Rng,
}

impl Handle {
    /// Reads the simulator. `read` also gets the time. It must not use the handle, except [`Handle::take_fault`].
    pub fn read<T>(&self, read: impl FnOnce(&Simulator, Timestamp) -> T) -> T {
        let mut state = locked(&self.shared.state);
        self.meet_front(&mut state.simulator);
        read(&state.simulator, (self.shared.clock)())
    }

    /// Changes the simulator, and wakes the driver for what is due then. `change` also gets the time, and a source of
    /// randomness. It must not use the handle, except [`Handle::take_fault`].
    pub fn change<T>(&self, change: impl FnOnce(&mut Simulator, Timestamp, &mut fastrand::Rng) -> T) -> T {
        let changed = self.change_without_waking(change);
        self.shared.wake.notify_one();
        changed
    }

    /// A receiver that is notified when there is something for [`Simulator::take_changes`]. The driver makes changes
    /// too. Several changes may be one notification.
    pub fn follow(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The fault for a request that has arrived at the front, if there is one, and counts it. `svix_id` is the header
    /// of the request. If it names a message that is being attempted, the attempt is marked as answered by the fault.
    ///
    /// It does not wait for those who read or change the simulator, who see the count and the mark afterwards.
    pub fn take_fault(&self, svix_id: &str) -> Option<Fault> {
        let now = (self.shared.clock)();
        let (fault, has_changes) = locked(&self.shared.front).take_fault(svix_id, now);
        if has_changes {
            self.shared.changed.send_replace(());
        }
        fault
    }

    /// Tells the simulator what the front has done, and the front which fault there is.
    fn meet_front(&self, simulator: &mut Simulator) {
        let answered = {
            let mut front = locked(&self.shared.front);
            simulator.exchange_fault(&mut front);
            front.take_answered()
        };
        for (message, fault) in answered {
            simulator.mark_injected(&message, fault);
        }
    }

    fn change_without_waking<T>(
        &self,
        change: impl FnOnce(&mut Simulator, Timestamp, &mut fastrand::Rng) -> T,
    ) -> T {
        let (changed, has_changes) = {
            let mut state = locked(&self.shared.state);
            let State { simulator, random } = &mut *state;
            self.meet_front(simulator);
            let changed = change(simulator, (self.shared.clock)(), random);
            self.meet_front(simulator);
            (changed, simulator.has_changes())
        };
        // Not for the caller that takes the changes: it would notify itself.
        if has_changes {
            self.shared.changed.send_replace(());
        }
        changed
    }
}

/// The lock of a mutex, also after a panic of somebody who had it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// A driver that has not started, and its handle. `clock` is the real time; `random` is for ids and jitter, not for
    /// secrets.
    ///
    /// # Errors
    ///
    /// The error of `reqwest` if no HTTP client can be made: it needs a TLS provider of the process.
    pub fn new(
        simulator: Simulator,
        clock: fn() -> Timestamp,
        mut random: fastrand::Rng,
    ) -> reqwest::Result<(Self, Handle)> {
        let front = Front::new(simulator.settings().fault, random.fork());
        let shared = Shared {
            state: Mutex::new(State { simulator, random }),
            front: Mutex::new(front),
            clock,
            wake: Notify::new(),
            changed: watch::Sender::new(()),
        };
        let handle = Handle { shared: Arc::new(shared) };
        Ok((Self { handle: handle.clone(), clients: Clients::new()? }, handle))
    }

    /// Makes attempts until `stop` is ready. Then those under way are cancelled and due again, as if they had not
    /// started.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut under_way = FuturesUnordered::new();
        // Another driver of this simulator may have been dropped before its end.
        self.put_back();
        loop {
            while under_way.len() < MOST_AT_ONCE
                && let Some(request) = self.start()
            {
                under_way.push(self.attempt(request));
            }
            let has_room = under_way.len() < MOST_AT_ONCE;
            tokio::select! {
                () = &mut stop => break,
                Some(()) = under_way.next() => {}
                () = self.handle.shared.wake.notified() => {}
                () = tokio::time::sleep(self.until_due()), if has_room => {}
            }
        }
        drop(under_way);
        self.put_back();
    }

    fn start(&self) -> Option<AttemptRequest> {
        self.handle.change_without_waking(|simulator, now, _| {
            simulator.drop_old_messages(now);
            simulator.start_attempt(now)
        })
    }

    async fn attempt(&self, request: AttemptRequest) {
        let key = request.key.clone();
        let outcome = self.clients.post(request).await;
        self.handle.change_without_waking(|simulator, now, random| {
            simulator.finish_attempt(&key, outcome, random.f64(), now);
        });
    }

    fn put_back(&self) {
        self.handle.change_without_waking(|simulator, now, _| simulator.put_back_attempts(now));
    }

    fn until_due(&self) -> Duration {
        self.handle.read(|simulator, now| {
            let wait = simulator.next_due_at().map(|due_at| due_at.duration_since(now));
            let wait = wait.map(|wait| Duration::try_from(wait).unwrap_or_default());
            wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
        })
    }
}

/// The HTTP clients of the driver. As Svix, they do not follow redirects.
#[derive(Debug)]
struct Clients {
    /// For this machine, which is reached without the environment's proxy.
    near: reqwest::Client,
    far: reqwest::Client,
}

impl Clients {
    fn new() -> reqwest::Result<Self> {
        let client = || reqwest::Client::builder().timeout(TIME_LIMIT).redirect(Policy::none());
        Ok(Self { near: client().no_proxy().build()?, far: client().build()? })
    }

    async fn post(&self, request: AttemptRequest) -> Outcome {
        let client = if request.url.is_this_machine() { &self.near } else { &self.far };
        let sent = client
            .post(request.url.get().clone())
            .header("content-type", "application/json")
            .header("svix-id", request.key.message.as_str())
            .header("svix-timestamp", request.signed_at_s)
            .header("svix-signature", request.signature)
            .body(request.body)
            .send();
        match sent.await {
            Ok(answer) => Outcome::Answered { status: answer.status().as_u16(), headers: headers(&answer) },
            Err(error) if error.is_timeout() => Outcome::TimedOut,
            Err(error) if error.is_connect() => Outcome::NotConnected,
            Err(_) => Outcome::ConnectionBroken,
        }
    }
}

fn headers(answer: &reqwest::Response) -> Vec<(String, String)> {
    let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), value.chars().take(LONGEST_VALUE).collect())
    };
    answer.headers().iter().take(MOST_HEADERS).map(header).collect()
}
