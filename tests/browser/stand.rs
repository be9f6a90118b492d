//! A pipeline with its page.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use learnink_tests::binaries::binary;
use learnink_tests::root;
use serde_json::Value;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A running `learnink dev`.
pub(crate) struct Dev {
    folder: tempfile::TempDir,
    process: Child,
    /// The link that it prints.
    pub(crate) link: String,
    /// Where its page is.
    pub(crate) console: String,
    /// Where it takes webhooks.
    pub(crate) endpoint: String,
    /// What they are signed with.
    pub(crate) secret: String,
}

impl Dev {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with variables of handlers.
    pub(crate) fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), variables)
    }

    fn start_in(folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        let mut dev = learnink(&folder);
        dev.envs(variables.iter().copied());
        dev.args(["dev", "--port", "0", "--console-port", "0"]).stdout(Stdio::piped());
        let mut process = dev.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.find(|line| line.as_ref().unwrap().trim_start().starts_with(name));
            line.unwrap().unwrap().trim().trim_start_matches(name).trim().to_owned()
        };
        let (endpoint, secret, link) = (value("endpoint"), value("secret"), value("page"));
        let (console, _) = link.split_once("/?").unwrap();
        let console = console.to_owned();
        // What is not read would end it.
        std::thread::spawn(move || lines.count());
        Self { folder, process, link, console, endpoint, secret }
    }

    /// Stops it, as Ctrl-C does, and starts it again with the same state.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        *self = Self::start_in(folder, &[]);
    }

    /// Sends a webhook, whatever the answer.
    pub(crate) fn send(&self, options: &[&str]) {
        self.send_file(&root().join("events/user.course.started.json"), options);
    }

    /// Sends a body, whatever the answer.
    pub(crate) fn send_body(&self, body: &str, options: &[&str]) {
        let file = self.folder.path().join("body");
        std::fs::write(&file, body).unwrap();
        self.send_file(&file, options);
    }

    fn send_file(&self, file: &Path, options: &[&str]) {
        let mut send = learnink(&self.folder);
        send.args(["send", "--url", &self.endpoint]).args(options).arg(file).stdout(Stdio::null());
        send.status().unwrap();
    }

    /// What a command of `learnink` prints.
    pub(crate) fn learnink(&self, arguments: &[&str]) -> String {
        let output = learnink(&self.folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Files in the folder where it was started whose names begin so.
    pub(crate) fn files(&self, start: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start)).collect()
    }

    /// *Send Example*, and the message id.
    pub(crate) fn send_example(&self) -> String {
        let mut sim = learnink(&self.folder);
        sim.args(["sim", "send-example", "user.course.started", "--json"]);
        let sent: Value = serde_json::from_slice(&sim.output().unwrap().stdout).unwrap();
        sent["message"].as_str().unwrap().to_owned()
    }

    fn stop(&mut self) {
        let interrupted =
            Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap();
        assert!(interrupted.success());
        self.process.wait().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn learnink(folder: &tempfile::TempDir) -> Command {
    let mut learnink = Command::new(binary("learnink"));
    learnink.current_dir(folder.path()).env("USER", "kim").env_remove("LEARNINK_SIGNING_SECRET");
    learnink.env_remove("LEARNINK_STATE").env_remove("LEARNINK_STACK");
    learnink
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
