//! One process of a function, as Lambda runs it: a clean environment, a Runtime API, cores of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::runtime_api::{Invocation, RuntimeApi};
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
    /// The time.
    pub(crate) clock: Clock,
}

/// A binary that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// The binary.
    pub(crate) program: PathBuf,
    /// Its input.
    pub(crate) input: Input,
    /// The table in which it has to write something of each record, besides the ledger.
    pub(crate) writes_to: Option<&'static str>,
    /// Its variables besides Lambda's.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// A function's input, and its expected result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// One webhook, which has to be on the queue when it is answered with 200.
    Webhook,
    /// A batch of records, all of which have to be claimed and settled when the answer names none.
    Batch,
}

/// A running process. It is killed when this value is dropped, as Lambda does.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    api: RuntimeApi,
    log: PathBuf,
}

impl Process {
    /// Starts the function and waits until it is ready. Returns how long that took, too.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not get ready; the error names the file with its output.
    pub(crate) fn start(function: &Function, environment: &Environment) -> anyhow::Result<(Self, Duration)> {
        let program = fs::canonicalize(&function.program)
            .with_context(|| format!("no function at {}", function.program.display()))?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        let log = environment.logs.join(format!("{}.log", function.name.replace([' ', ','], "-")));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let api = RuntimeApi::start(environment.clock)?;
        let mut command = Command::new(&program);
        command
            .current_dir(folder)
            .env_clear()
            .envs(lambda_variables(folder, &api.address()))
            .envs(stub_variables(environment))
            .envs(function.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let started = Instant::now();
        let child = system::spawn_on(&environment.cores, &mut command)?;
        let mut process = Self { child, api, log };
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
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn wrote(log: &Path) -> String {
    format!("what the function wrote is in {}", log.display())
}

/// The variables that Lambda sets on an OS-only runtime.
/// Source: AWS Lambda developer guide, "Defined runtime environment variables".
fn lambda_variables(folder: &Path, runtime_api: &str) -> Vec<(&'static str, String)> {
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
        ("_HANDLER", "bootstrap"),
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
