//! Calls to the operating system: CPU time, peak memory, the cores of processes, and signals.
//!
//! The figures are Linux's. On other systems everything compiles, so that the rest of the workspace can be checked
//! there, and the first call fails.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, anyhow};

use crate::interrupt::Running;

pub(crate) use os::{allowed_cores, block_interrupts, cpu_time, kill, move_this_thread, pause, resume};

/// The split of the cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The cores of the functions.
    pub(crate) function: Vec<usize>,
    /// The cores of the services that they call.
    pub(crate) own: Vec<usize>,
}

impl Cores {
    /// Gives functions this many of these cores, and keeps the rest; if none would be left, shares all.
    pub(crate) fn split(cores: &[usize], function: usize) -> Self {
        let own = cores.len().saturating_sub(function);
        let (own, function) = cores.split_at_checked(own).unwrap_or_default();
        Self { function: function.to_vec(), own: if own.is_empty() { cores } else { own }.to_vec() }
    }

    /// Whether functions have cores of their own.
    pub(crate) fn are_apart(&self) -> bool {
        !self.function.iter().any(|core| self.own.contains(core))
    }
}

/// The most memory that a process has held so far, in KiB.
///
/// # Errors
///
/// When the process is gone.
pub(crate) fn peak_memory_kib(pid: u32) -> anyhow::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading peak memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = line.and_then(|line| line.split_whitespace().next());
    peak.and_then(|peak| peak.parse().ok()).context("no peak memory in /proc/<pid>/status")
}

/// The machine's load: the average number of processes that ran or waited for a core, over one minute, five and
/// fifteen.
///
/// # Errors
///
/// When Linux does not say.
pub(crate) fn load_averages() -> anyhow::Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("reading the machine's load")?;
    Ok(load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// Starts a command on these cores.
///
/// # Errors
///
/// When it cannot be started.
pub(crate) fn spawn_on(cores: &[usize], command: &mut Command) -> anyhow::Result<Child> {
    // A process starts on the cores of the thread that starts it, so that thread moves there, and ends.
    thread::scope(|scope| {
        let starter = scope.spawn(|| {
            move_this_thread(cores)?;
            command.spawn().with_context(|| format!("starting {}", command.get_program().display()))
        });
        starter.join().unwrap_or_else(|_| Err(anyhow!("the thread that starts processes panicked")))
    })
}

/// Processes that keep the cores from halting, at a priority at which nothing ever waits for them.
///
/// Without them, waking a virtual machine's core adds as much to an invocation as the function does,
/// and to every function alike.
#[derive(Debug)]
pub(crate) struct Spinners {
    children: Vec<Child>,
    running: Running,
}

/// Spins while the process `$0` exists: it may be killed, and then nothing else would stop this.
const SPIN: &str = r#"
while kill -0 "$0" 2>/dev/null; do
    turn=0
    while [ $turn -lt 100000 ]; do turn=$((turn + 1)); done
done
"#;

impl Spinners {
    /// One on each of these cores.
    ///
    /// # Errors
    ///
    /// When `chrt` (util-linux) is missing. The measurement can go on without it.
    pub(crate) fn start(cores: &[usize], running: &Running) -> anyhow::Result<Self> {
        let own_pid = std::process::id().to_string();
        let mut spinners = Self { children: Vec::new(), running: running.clone() };
        for core in cores {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "sh", "-c", SPIN, &own_pid]).stdin(Stdio::null());
            spinners.children.push(running.start(|| spawn_on(&[*core], &mut command))?);
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for spinner in &mut self.children {
            self.running.forget(spinner.id());
            // It may have ended by itself.
            drop(spinner.kill());
            drop(spinner.wait());
        }
    }
}

#[cfg(target_os = "linux")]
mod os {
    use std::time::Duration;

    use anyhow::Context;
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::sys::signal::{self, SigSet, Signal};
    use nix::time::clock_getcpuclockid;
    use nix::unistd::Pid;

    /// CPU time of all threads of a process since it was started, in the kernel and outside.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?)).context("finding the CPU clock")?;
        Ok(Duration::from(clock.now().context("reading the CPU clock")?))
    }

    /// The cores that this process may use.
    ///
    /// # Errors
    ///
    /// When the system call fails.
    pub(crate) fn allowed_cores() -> anyhow::Result<Vec<usize>> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("finding out about the cores")?;
        Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
    }

    /// Limits this thread to these cores, and all threads and processes that it starts from now on.
    ///
    /// # Errors
    ///
    /// When this process may not use the cores.
    pub(crate) fn move_this_thread(cores: &[usize]) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        for core in cores {
            set.set(*core)?;
        }
        sched_setaffinity(Pid::from_raw(0), &set)
            .with_context(|| format!("moving a thread to the cores {cores:?}"))
    }

    /// Stops a process until [`resume`].
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn pause(pid: u32) -> anyhow::Result<()> {
        send(Signal::SIGSTOP, pid)
    }

    /// Lets a stopped process continue. Does nothing to one that is running.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn resume(pid: u32) -> anyhow::Result<()> {
        send(Signal::SIGCONT, pid)
    }

    /// Ends a process, even a stopped one.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn kill(pid: u32) -> anyhow::Result<()> {
        send(Signal::SIGKILL, pid)
    }

    fn send(signal: Signal, pid: u32) -> anyhow::Result<()> {
        signal::kill(Pid::from_raw(pid.try_into()?), signal).with_context(|| format!("sending {signal}"))
    }

    /// The signals that ask this process to end.
    #[derive(Debug)]
    pub(crate) struct Interrupts(SigSet);

    impl Interrupts {
        /// Waits for one of them.
        ///
        /// # Errors
        ///
        /// When the system call fails.
        pub(crate) fn wait(&self) -> anyhow::Result<()> {
            self.0.wait().context("waiting for a signal")?;
            Ok(())
        }
    }

    /// From now on, these signals do not end this process. Threads and processes inherit that.
    ///
    /// # Errors
    ///
    /// When the system call fails.
    pub(crate) fn block_interrupts() -> anyhow::Result<Interrupts> {
        let interrupts = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]);
        interrupts.thread_block().context("blocking signals")?;
        Ok(Interrupts(interrupts))
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    use std::time::Duration;

    use anyhow::bail;

    pub(crate) fn cpu_time(_: u32) -> anyhow::Result<Duration> {
        bail!("CPU time is measured on Linux only")
    }

    pub(crate) fn allowed_cores() -> anyhow::Result<Vec<usize>> {
        bail!("the benchmark runs on Linux only")
    }

    pub(crate) fn move_this_thread(_: &[usize]) -> anyhow::Result<()> {
        bail!("threads are moved on Linux only")
    }

    pub(crate) fn pause(_: u32) -> anyhow::Result<()> {
        bail!("processes are stopped on Linux only")
    }

    pub(crate) fn resume(_: u32) -> anyhow::Result<()> {
        bail!("processes are continued on Linux only")
    }

    pub(crate) fn kill(_: u32) -> anyhow::Result<()> {
        bail!("processes are killed on Linux only")
    }

    #[derive(Debug)]
    pub(crate) struct Interrupts;

    impl Interrupts {
        #[expect(clippy::unused_self, reason = "as on Linux")]
        pub(crate) fn wait(&self) -> anyhow::Result<()> {
            bail!("signals are waited for on Linux only")
        }
    }

    pub(crate) fn block_interrupts() -> anyhow::Result<Interrupts> {
        bail!("signals are blocked on Linux only")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_cores_of_their_own_where_there_are_enough() {
        let split = |cores: &[usize], function| Cores::split(cores, function);
        assert_eq!(split(&[0, 1], 1), Cores { function: vec![1], own: vec![0] });
        assert_eq!(split(&[0, 1, 2, 3], 2), Cores { function: vec![2, 3], own: vec![0, 1] });
        assert_eq!(split(&[0, 1], 2), Cores { function: vec![0, 1], own: vec![0, 1] });
        assert_eq!(split(&[4], 1), Cores { function: vec![4], own: vec![4] });
        assert!(split(&[0, 1], 1).are_apart());
        assert!(!split(&[4], 1).are_apart());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_used_cpu_time_and_memory() {
        let pid = std::process::id();
        assert!(!cpu_time(pid).unwrap().is_zero());
        assert!(peak_memory_kib(pid).unwrap() > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_starts_on_its_core_and_leaves_this_thread_where_it_is() {
        let cores = allowed_cores().unwrap();
        let last = *cores.last().unwrap();
        let mut command = Command::new("cat");
        command.arg("/proc/self/status").stdout(Stdio::piped());
        let output = spawn_on(&[last], &mut command).unwrap().wait_with_output().unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        assert!(status.lines().any(|line| line == format!("Cpus_allowed_list:\t{last}")), "{status}");
        assert_eq!(allowed_cores().unwrap(), cores);
    }
}
