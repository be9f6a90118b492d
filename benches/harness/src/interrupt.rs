//! Ctrl-C: no function outlives the bench. One that is stopped by its [throttle](crate::throttle) would not notice
//! that the bench is gone.

use std::collections::BTreeSet;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::system;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// The functions that are running now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeSet<u32>>>);

impl Running {
    /// Kills the functions and ends this process when it is interrupted, terminated or loses its terminal. To be
    /// called before there are other threads, which would take the signal.
    ///
    /// # Errors
    ///
    /// When a system call fails.
    pub(crate) fn kill_on_interrupt() -> anyhow::Result<Self> {
        let running = Self::default();
        let interrupt = system::block_interrupts()?;
        let to_kill = running.clone();
        thread::spawn(move || {
            if interrupt.wait().is_ok() {
                // Held until the end, so that no function starts any more.
                let pids = to_kill.lock();
                for pid in pids.iter() {
                    drop(system::kill(*pid));
                }
                process::exit(INTERRUPTED);
            }
        });
        Ok(running)
    }

    /// Starts a function with `start`, which returns its process id among others.
    ///
    /// # Errors
    ///
    /// When `start` fails.
    pub(crate) fn start<T>(
        &self,
        start: impl FnOnce() -> anyhow::Result<T>,
        pid: impl FnOnce(&T) -> u32,
    ) -> anyhow::Result<T> {
        let mut pids = self.lock();
        let started = start()?;
        pids.insert(pid(&started));
        Ok(started)
    }

    /// Forgets a function. To be called before it is reaped, because another process could get its id.
    pub(crate) fn forget(&self, pid: u32) {
        self.lock().remove(&pid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
