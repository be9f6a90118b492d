//! The `learnink` command, as a person types it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use learnink_tests::binaries::binary;
use learnink_tests::root;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

/// A running `learnink dev`.
struct Dev {
    process: Child,
    lines: mpsc::Receiver<String>,
    url: String,
    folder: String,
}

fn learnink(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("learnink"));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    for variable in ["LEARNINK_SIGNING_SECRET", "LEARNINK_STATE", "LEARNINK_URL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Dev {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    fn start_with(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let folder = folder.to_str().unwrap().to_owned();
        let mut command = learnink(&["dev", "--port", "0", "--state", &folder]);
        let mut process = command.envs(variables.iter().copied()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut dev = Self { process, lines, url: String::new(), folder };
        dev.url.push_str(dev.line_with("endpoint").split_whitespace().nth(1).unwrap());
        dev
    }

    /// The next line that has `part` in it.
    fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line has `{part}`"));
            if line.contains(part) {
                return line;
            }
        }
    }

    fn send(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["send", "--url", &self.url, "--state", &self.folder];
        all.extend(arguments);
        learnink(&all).output().unwrap()
    }

    fn json(&self, command: &str) -> Vec<Value> {
        let output = learnink(&[command, "--json", "--state", &self.folder]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Ctrl-C, and the exit code.
    fn interrupt(mut self) -> (Vec<String>, Option<i32>) {
        self.signal("-INT");
        let code = self.process.wait().unwrap().code();
        (self.lines.try_iter().collect(), code)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Fails where the test has ended it already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_dev_prints_is_enough_to_send_a_webhook_and_see_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    assert!(dev.line_with("secret").contains("whsec_"));
    assert!(dev.line_with("state").ends_with(folder.path().to_str().unwrap()));
    let next = dev.line_with("cargo learnink send");
    let arguments: Vec<_> = next.split_whitespace().skip(2).collect();
    let sent = learnink(&arguments).output().unwrap();
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    assert!(text(&sent.stdout).starts_with("200  msg_"), "{}", text(&sent.stdout));

    let line = dev.line_with("handled by progress in");
    assert!(line.starts_with("✓ user.course.started") && line.contains("verified in"), "{line}");
    assert!(line.contains("queued in"), "{line}");
    let learners = dev.json("learners");
    assert_eq!(learners[0]["course_id"], "83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8");

    let (lines, code) = dev.interrupt();
    assert_eq!(lines.last().unwrap(), "stopped: everything that was acknowledged is handled");
    assert_eq!(code, Some(0));

    let again = Dev::start(folder.path());
    assert_eq!(again.json("learners"), learners);
}

#[test]
fn the_bad_cases_can_be_made_and_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let cases = [
        ("--tamper", "answered 401, not queued: no signature matches"),
        ("--age=10m", "answered 401, not queued: the signature is too old"),
        ("--age=-10m", "answered 401, not queued: the signature is from the future"),
    ];
    for (option, line) in cases {
        let sent = dev.send(&[option]);
        assert_eq!(sent.status.code(), Some(1));
        assert!(text(&sent.stdout).starts_with("401  msg_"), "{}", text(&sent.stdout));
        dev.line_with(line);
    }
    assert!(dev.send(&["events/example.unknown.json"]).status.success());
    dev.line_with("no handler for this type or version: left to unknown");
    assert_eq!(dev.json("unknown")[0]["event_type"], "example.unknown");
    assert!(dev.send(&["events/not-json.txt"]).status.success());
    dev.line_with("dead-lettered: the body is not JSON");
    assert!(dev.send(&["--id", "msg_again"]).status.success());
    dev.line_with("handled by progress");
    assert!(dev.send(&["--id", "msg_again"]).status.success());
    dev.line_with("handled before: nothing done twice");
    assert_eq!(dev.json("learners").len(), 1);
}

#[test]
fn no_proxy_stands_between_the_parts_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(folder.path(), &[("http_proxy", "http://127.0.0.1:1")]);
    let mut command = learnink(&["send", "--url", &dev.url, "--state", &dev.folder]);
    let sent = command.env("http_proxy", "http://127.0.0.1:1").output().unwrap();
    assert!(text(&sent.stdout).starts_with("200"), "{}", text(&sent.stdout));
    dev.line_with("handled by progress");
}

#[test]
fn a_name_under_localhost_is_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let url = dev.url.replace("127.0.0.1", "api.localhost");
    let sent = learnink(&["send", "--url", &url, "--state", &dev.folder]).output().unwrap();
    assert!(text(&sent.stdout).starts_with("200"), "{}", text(&sent.stdout));
}

#[test]
fn many_webhooks_are_summed_up_in_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let sent = dev.send(&["--count", "50", "--concurrency", "8", "--rate", "500"]);
    let table = text(&sent.stdout);
    assert!(sent.status.success(), "{table}");
    let row: Vec<_> = table.lines().find(|line| line.contains("200")).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], ["200", "50"], "{table}");
    for _ in 0..50 {
        dev.line_with("handled by progress");
    }
    assert_eq!(dev.json("learners").len(), 50);
}

#[test]
fn a_killed_dev_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let sent = dev.send(&["--count", "100", "--concurrency", "16"]);
    dev.signal("-KILL");
    assert!(sent.status.success());
    drop(dev);

    let dev = Dev::start(folder.path());
    // What the killed one was at comes back once its leases have ended, within half a minute.
    let deadline = Instant::now() + PATIENCE;
    while dev.json("learners").len() < 100 {
        assert!(Instant::now() < deadline, "{} of 100 learners", dev.json("learners").len());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The one line that `learnink` says before it gives up.
fn error(arguments: &[&str]) -> String {
    let output = learnink(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    error.trim_end().to_owned()
}

#[test]
fn what_keeps_dev_from_starting_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let dev = Dev::start(folder.path());
    let port = dev.url.split([':', '/']).nth(4).unwrap().to_owned();
    assert_eq!(
        error(&["dev", "--port", "0", "--state", state]),
        format!(
            "error: {state} is in use by another `learnink dev`; stop that one, or choose another folder with --state"
        )
    );
    let other = tempfile::tempdir().unwrap();
    let other = other.path().to_str().unwrap();
    assert_eq!(
        error(&["dev", "--port", &port, "--state", other]),
        format!(
            "error: port {port} is taken by another program; stop it, or choose another port with --port"
        )
    );
    let bad_secret = error(&["dev", "--port", "0", "--state", other, "--secret", "whsec_c2hvcnQ="]);
    assert_eq!(
        bad_secret,
        "error: the signing secret cannot be used: the signing secret has a key of 5 bytes, fewer than 24"
    );
}

#[test]
fn damaged_state_is_one_clear_line_that_says_what_to_do() {
    for (file, content, expected) in [
        (
            "queues.jsonl",
            "{\"sent\":\n",
            "queues.jsonl is damaged in line 1; move it away to start with empty queues",
        ),
        (
            "tables.sqlite",
            "this is no database, and long enough to be sure of it\n",
            "move it away to start with empty tables",
        ),
        (
            "signing-secret",
            "\n",
            "signing-secret holds no usable secret (the signing secret is empty; it starts with `whsec_`); remove it",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut damaged = std::fs::File::create(folder.path().join(file)).unwrap();
        damaged.write_all(content.repeat(40).as_bytes()).unwrap();
        let error = error(&["dev", "--port", "0", "--state", folder.path().to_str().unwrap()]);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn send_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    assert_eq!(
        error(&["send", "--state", state]),
        format!(
            "error: there is no signing secret in {state}; start `cargo dev` there first, or pass --secret"
        )
    );
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    assert!(
        error(&["send", "--secret", secret, "events/none.json"])
            .starts_with("error: cannot read events/none.json")
    );

    let closed = "http://127.0.0.1:1/webhooks/learnink";
    let output = learnink(&["send", "--secret", secret, "--url", closed]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("no connection (is `cargo dev` running?)"));
}

#[test]
fn before_the_first_start_there_is_nothing_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let output = learnink(&["learners", "--state", state]).output().unwrap();
    assert_eq!(text(&output.stdout), "nothing is stored here yet; start `cargo dev` and send a webhook\n");
    let output = learnink(&["learners", "--json", "--state", state]).output().unwrap();
    assert_eq!(text(&output.stdout), "[]\n");
}
