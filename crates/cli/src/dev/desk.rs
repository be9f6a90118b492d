//! The acts of the page: this very program, with the commands that an operator types.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use futures_util::future::BoxFuture;
use learnink_console::desk::{CommandOutput, Desk};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs `learnink` for the pipeline with its state in a folder.
#[derive(Clone)]
pub(super) struct Learnink {
    program: PathBuf,
    folder: PathBuf,
    /// The signing secret, if it was given at the start.
    given: Option<String>,
}

impl Learnink {
    /// For the state in `folder`, and the signing secret, if it was given at the start.
    ///
    /// # Errors
    ///
    /// The system's, if it does not say where this program is.
    pub(super) fn new(folder: PathBuf, given: Option<String>) -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, folder, given })
    }

    async fn output(self, arguments: Vec<String>, input: Vec<u8>) -> io::Result<CommandOutput> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--state").arg(&self.folder);
        // The pipeline that this page belongs to, and no stack.
        command.env_remove("LEARNINK_STACK").env_remove("LEARNINK_STATE").env("NO_COLOR", "1");
        if let Some(given) = &self.given {
            command.env("LEARNINK_SIGNING_SECRET", given);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input ends the pipe.
                let _ = stdin.write_all(&input).await;
            }
        };
        let (output, ()) = futures_util::future::join(child.wait_with_output(), write).await;
        let output = output?;
        // Without a code, a signal ended it.
        let exit_code = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { exit_code, stdout: output.stdout, stderr: output.stderr })
    }
}

impl Desk for Learnink {
    fn run(&self, arguments: Vec<String>, input: Vec<u8>) -> BoxFuture<'_, io::Result<CommandOutput>> {
        // In a task: an act goes on to its end although the browser has left the page.
        let output = tokio::spawn(self.clone().output(arguments, input));
        Box::pin(async move { output.await.map_err(io::Error::other)? })
    }
}
