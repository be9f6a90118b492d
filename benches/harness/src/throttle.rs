//! The share of a core that Lambda gives to a function with little memory.
//!
//! A thread watches the process's CPU clock, stops the process with a signal when its share is used up, and lets it
//! continue in the next period. That needs neither root nor cgroups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::system;

/// At this much memory, a function has one vCPU; with less, its share of one is smaller in proportion.
/// Source: AWS Lambda developer guide, "Configure Lambda function memory".
const MEMORY_OF_ONE_CORE_MB: u32 = 1769;

/// A share is given for this long, then again.
const PERIOD: Duration = Duration::from_millis(20);

/// How often the CPU clock is read.
const BETWEEN_LOOKS: Duration = Duration::from_micros(100);

/// Limits a process until this value is dropped; then the process has all of its cores again.
#[derive(Debug)]
pub(crate) struct Throttle {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Limits the process to the share of a function with this much memory. It must not be reaped before this value
    /// is dropped: another process could get its id.
    pub(crate) fn start(pid: u32, memory_mb: u32) -> Self {
        let ended = Arc::<AtomicBool>::default();
        let until = ended.clone();
        let thread = thread::spawn(move || {
            // It ends with an error when the process is gone.
            drop(limit(pid, memory_mb, &until));
            drop(system::resume(pid));
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, nothing would follow from that here.
            drop(thread.join());
        }
    }
}

fn limit(pid: u32, memory_mb: u32, ended: &AtomicBool) -> anyhow::Result<()> {
    let mut quota = Quota::new(memory_mb);
    let mut used = system::cpu_time(pid)?;
    while !ended.load(Ordering::Relaxed) {
        let period_ends = Instant::now() + PERIOD;
        quota.refill();
        if !quota.is_used_up() {
            system::resume(pid)?;
        }
        while Instant::now() < period_ends && !ended.load(Ordering::Relaxed) {
            if quota.is_used_up() {
                system::pause(pid)?;
                thread::sleep(period_ends.saturating_duration_since(Instant::now()));
            } else {
                thread::sleep(BETWEEN_LOOKS);
            }
            let now = system::cpu_time(pid)?;
            quota.spend(now.saturating_sub(used));
            used = now;
        }
    }
    Ok(())
}

/// The CPU time that a process has left in this period.
#[derive(Debug)]
struct Quota {
    for_a_period_us: i64,
    /// Below zero when the process used more than its share: the next periods pay for it.
    left_us: i64,
}

impl Quota {
    fn new(memory_mb: u32) -> Self {
        let period_us = i64::try_from(PERIOD.as_micros()).unwrap_or(i64::MAX);
        let for_a_period_us = period_us.saturating_mul(memory_mb.into()) / i64::from(MEMORY_OF_ONE_CORE_MB);
        Self { for_a_period_us, left_us: 0 }
    }

    /// A new period. What is left of the last one is lost, as in the kernel's scheduler.
    fn refill(&mut self) {
        self.left_us = (self.left_us + self.for_a_period_us).min(self.for_a_period_us);
    }

    fn spend(&mut self, cpu: Duration) {
        self.left_us = self.left_us.saturating_sub(i64::try_from(cpu.as_micros()).unwrap_or(i64::MAX));
    }

    fn is_used_up(&self) -> bool {
        self.left_us <= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 100 periods a process may run in that uses this much whenever it runs.
    fn periods(memory_mb: u32, uses: Duration) -> usize {
        let mut quota = Quota::new(memory_mb);
        let runs = |_: &usize| {
            quota.refill();
            let runs = !quota.is_used_up();
            if runs {
                quota.spend(uses);
            }
            runs
        };
        (0..100).filter(runs).count()
    }

    #[test]
    fn the_share_is_that_of_the_memory() {
        assert_eq!(Quota::new(1769).for_a_period_us, 20_000);
        assert_eq!(Quota::new(128).for_a_period_us, 1447);
    }

    #[test]
    fn a_process_that_uses_too_much_pays_for_it_in_the_next_periods() {
        assert_eq!(periods(128, Duration::from_micros(1447)), 100);
        assert_eq!(periods(128, Duration::from_micros(2 * 1447)), 50);
        assert_eq!(periods(128, Duration::from_micros(10 * 1447)), 10);
    }

    #[test]
    fn what_is_left_of_a_period_is_lost() {
        let mut quota = Quota::new(128);
        quota.refill();
        quota.refill();
        quota.spend(Duration::from_micros(1447));
        assert!(quota.is_used_up());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_runs_again_after_its_throttle() {
        use std::io::Read;
        use std::process::{Command, Stdio};

        // Without CPU time from the first period on.
        let mut child =
            Command::new("sh").args(["-c", "while :; do echo; done"]).stdout(Stdio::piped()).spawn().unwrap();
        let throttle = Throttle::start(child.id(), 0);
        while !is_stopped(child.id()) {
            thread::yield_now();
        }
        drop(throttle);
        assert!(!is_stopped(child.id()));
        // More than a pipe holds.
        child.stdout.take().unwrap().read_exact(&mut vec![0; 1_000_000]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[cfg(target_os = "linux")]
    fn is_stopped(pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().any(|line| line.starts_with("State:") && line.contains("stopped"))
    }
}
