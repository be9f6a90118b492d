//! One process of a function, as Lambda runs it: a clean environment, a Runtime API, cores of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::interrupt::Running;
use crate::runtime_api::{Invocation, RuntimeApi};
use crate::throttle::Throttle;
use crate::{Clock, system};

/// The memory that every function is told to have, in MB: the smallest usual size for webhooks.
const MEMORY_MB: &str = "512";

/// The environment of a function.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The AWS stub, such as `https://localhost:40123`.
    pub(crate) aws_url: String,
    /// The root certificates: the system's, and the stub's.
    pub(crate) root_certificates: PathBuf,
    /// The folder for the functions' output.
    pub(crate) logs: PathBuf,
    /// The function's cores.
    pub(crate) cores: Vec<usize>,
    /// The processes that an interrupt has to kill.
    pub(crate) running: Running,
    /// The time.
    pub(crate) clock: Clock,
}

/// A function that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Its code.
    pub(crate) code: Code,
    /// Its input.
    pub(crate) input: Input,
    /// The table in which it has to write something of each record, besides the ledger.
    pub(crate) writes_to: Option<&'static str>,
    /// Its variables besides Lambda's.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// What is uploaded, and how Lambda starts it.
#[derive(Debug, Clone)]
pub(crate) enum Code {
    /// A binary, for an OS-only runtime.
    Binary(PathBuf),
    /// A folder with a handler, for a managed runtime.
    Handler {
        /// The folder.
        folder: PathBuf,
        /// The handler's name, such as `receiver.handler`.
        handler: &'static str,
        /// The interpreter.
        interpreter: PathBuf,
        /// Its arguments before the handler's name: AWS's client of the Runtime API.
        runtime: Vec<OsString>,
    },
}

impl Code {
    /// The command that runs it, and its working folder.
    fn command(&self) -> anyhow::Result<(Command, PathBuf)> {
        let absolute = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("no function at {}", path.display()))
        };
        match self {
            Self::Binary(program) => {
                let program = absolute(program)?;
                let folder = program.parent().unwrap_or(Path::new("/")).to_owned();
                Ok((Command::new(program), folder))
            }
            Self::Handler { folder, handler, interpreter, runtime } => {
                let mut command = Command::new(absolute(interpreter)?);
                command.args(runtime).arg(handler);
                Ok((command, absolute(folder)?))
            }
        }
    }

    /// The value of `_HANDLER`.
    fn handler(&self) -> &'static str {
        match self {
            Self::Binary(_) => "bootstrap",
            Self::Handler { handler, .. } => handler,
        }
    }
}

/// A function's input, and its expected result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// One webhook, which has to be on the queue when it is answered with 200.
    Webhook,
    /// A batch of records, all of which have to be claimed and settled when the answer names none.
    Batch,
    /// The same for a function that claims and settles as Powertools for AWS Lambda does.
    PowertoolsBatch,
}

/// A running process. It is killed when this value is dropped, as Lambda does.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    api: RuntimeApi,
    log: PathBuf,
    running: Running,
    throttle: Option<Throttle>,
}

impl Process {
    /// Starts the function and waits until it is ready. Returns how long that took, too.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not get ready; the error names the file with its output.
    pub(crate) fn start(function: &Function, environment: &Environment) -> anyhow::Result<(Self, Duration)> {
        let (mut command, folder) = function.code.command()?;
        let log = environment.logs.join(format!("{}.log", function.name.replace([' ', ','], "-")));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let api = RuntimeApi::start(environment.clock)?;
        command
            .current_dir(&folder)
            .env_clear()
            .envs(lambda_variables(&folder, function.code.handler(), &api.address()))
            .envs(stub_variables(environment))
            .envs(function.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let started = Instant::now();
        let running = environment.running.clone();
        let child = running.start(|| system::spawn_on(&environment.cores, &mut command))?;
        let mut process = Self { child, api, log, running, throttle: None };
        let is_alive = || matches!(process.child.try_wait(), Ok(None));
        let ready = process.api.wait_until_ready(is_alive).with_context(|| wrote(&process.log))?;
        Ok((process, ready.duration_since(started)))
    }

    /// Lets the function handle one event.
    ///
    /// # Errors
    ///
    /// When it ends or takes too long; the error names the file with its output.
    pub(crate) fn invoke(&mut self, event: Vec<u8>) -> anyhow::Result<Invocation> {
        let is_alive = || matches!(self.child.try_wait(), Ok(None));
        self.api.invoke(event, is_alive).with_context(|| wrote(&self.log))
    }

    /// From now on, the process has only the share of a core that Lambda gives with this much memory.
    pub(crate) fn throttle(&mut self, memory_mb: u32) {
        self.throttle = Some(Throttle::start(self.child.id(), memory_mb));
    }

    /// From now on, the process has all of its cores again.
    pub(crate) fn unthrottle(&mut self) {
        self.throttle = None;
    }

    /// CPU time so far.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        system::cpu_time(self.child.id())
    }

    /// CPU time so far, once the process is idle: asking for an event is not its last step.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn settled_cpu_time(&self) -> anyhow::Result<Duration> {
        /// A process that is never idle is measured all the same.
        const LOOKS: usize = 50;

        let mut cpu = self.cpu_time()?;
        for _ in 0..LOOKS {
            thread::sleep(Duration::from_micros(200));
            let now = self.cpu_time()?;
            if now == cpu {
                break;
            }
            cpu = now;
        }
        Ok(cpu)
    }

    /// The most memory held so far, in KiB.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) fn peak_memory_kib(&self) -> anyhow::Result<u32> {
        system::peak_memory_kib(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Before the process is reaped, because another one could get its id.
        self.unthrottle();
        self.running.forget(self.child.id());
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn wrote(log: &Path) -> String {
    format!("what the function wrote is in {}", log.display())
}

/// The variables that Lambda sets on every runtime.
/// Source: AWS Lambda developer guide, "Defined runtime environment variables".
fn lambda_variables(folder: &Path, handler: &str, runtime_api: &str) -> Vec<(&'static str, String)> {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MB),
        ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/bench"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2025/11/06/[$LATEST]0123456789abcdef0123456789abcdef"),
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("TZ", ":UTC"),
        ("_HANDLER", handler),
    ];
    let mut variables = variables.map(|(name, value)| (name, value.to_owned())).to_vec();
    // As long as a real one: it is part of every request and its signature.
    variables.push(("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEXAMPLETOKEN".repeat(32)));
    variables.push(("LAMBDA_TASK_ROOT", folder.display().to_string()));
    variables
}

/// The variables that make a function call only the stub.
fn stub_variables(environment: &Environment) -> Vec<(&'static str, String)> {
    let url = || environment.aws_url.clone();
    let certificates = || environment.root_certificates.display().to_string();
    vec![
        ("AWS_CA_BUNDLE", certificates()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", url()),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", url()),
        ("AWS_ENDPOINT_URL_SQS", url()),
        ("SSL_CERT_FILE", certificates()),
    ]
}
