//! Ctrl-C: no process outlives the bench. A function that is stopped by its [throttle](crate::throttle) would not
//! notice that the bench is gone.

use std::collections::BTreeSet;
use std::process::{self, Child};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::system;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// The processes that are running now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeSet<u32>>>);

impl Running {
    /// Kills the processes and ends this one when it is interrupted, terminated or loses its terminal. To be
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
                // Held until the end, so that none starts any more.
                let pids = to_kill.lock();
                for pid in pids.iter() {
                    drop(system::kill(*pid));
                }
                process::exit(INTERRUPTED);
            }
        });
        Ok(running)
    }

    /// Starts a process with `start`.
    ///
    /// # Errors
    ///
    /// When `start` fails.
    pub(crate) fn start(&self, start: impl FnOnce() -> anyhow::Result<Child>) -> anyhow::Result<Child> {
        let mut pids = self.lock();
        let child = start()?;
        pids.insert(child.id());
        Ok(child)
    }

    /// Forgets a process. To be called before it is reaped, because another process could get its id.
    pub(crate) fn forget(&self, pid: u32) {
        self.lock().remove(&pid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
