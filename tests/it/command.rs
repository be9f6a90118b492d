//! The `learnink` command, as a person types it.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::MessageAttributeValue;
use jiff::{SignedDuration, Timestamp};
use learnink_consumer::ledger::Ledger;
use learnink_consumer::ledger::{ClaimRequest, Settlement, payload_sha256};
use learnink_consumer::{DynamoDbLedger, queues};
use learnink_local::pipeline::DEAD_LETTER_QUEUE;
use learnink_local::terminal::{quoted, visible};
use learnink_local::{LocalSqs, sdk_config, state};
use learnink_tests::binaries::binary;
use learnink_tests::engine::{Engine, ministack_endpoint};
use learnink_tests::root;
use learnink_tests::serve;
use learnink_tests::signing::now_s;
use learnink_webhook::{Message, MessageId};
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The body of a message that the tests put on a queue.
const EVENT: &[u8] = br#"{"type":"example.type","timestamp":"2026-01-01T00:00:00Z","data":{}}"#;

/// The variables of the command line.
const VARIABLES: [&str; 5] =
    ["LEARNINK_SIGNING_SECRET", "LEARNINK_STATE", "LEARNINK_URL", "LEARNINK_ARCHIVE", "LEARNINK_STACK"];

/// Text that controls a terminal, forges a line, or is invisible.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{85}\u{9b}1m\u{202e}\u{2066}\u{200e}\u{61c}\u{2028}\u{200b}\u{ad}\u{feff}\u{e0041}";

/// A running `learnink dev`.
pub(crate) struct Dev {
    process: Child,
    lines: mpsc::Receiver<String>,
    url: String,
    pub(crate) folder: String,
}

/// The command, in the checkout.
pub(crate) fn learnink(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("learnink"));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    for variable in VARIABLES.iter().chain(&["RUST_LOG"]) {
        command.env_remove(variable);
    }
    // As the alias `cargo learnink` calls it.
    command.env("CARGO_PKG_NAME", "learnink-cli");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Dev {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start_on(folder, "0", variables)
    }

    /// Starts with its page on this port.
    pub(crate) fn start_on(folder: &Path, console_port: &str, variables: &[(&str, &str)]) -> Self {
        let folder = folder.to_str().unwrap().to_owned();
        let dev = ["dev", "--port", "0", "--console-port", console_port, "--state", &folder];
        let mut command = learnink(&dev);
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
    pub(crate) fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line has `{part}`"));
            if line.contains(part) {
                return line;
            }
        }
    }

    pub(crate) fn send(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["send", "--url", &self.url, "--state", &self.folder];
        all.extend(arguments);
        learnink(&all).output().unwrap()
    }

    /// The output of a command that succeeds.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = learnink(&[arguments, &["--state", &self.folder]].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, command: &str) -> Vec<Value> {
        let command: Vec<_> = command.split(' ').chain(["--json"]).collect();
        serde_json::from_str(&self.run(&command)).unwrap()
    }

    /// Sends a webhook under an id, and returns the line about it.
    pub(crate) fn sent(&self, id: &str) -> String {
        assert!(self.send(&["--id", id]).status.success());
        self.line_with(id)
    }

    /// Opens a replay window for `covers`, and returns its id.
    fn open_window(&self, covers: &[&str]) -> String {
        let window = ["replay", "open", "--by", "kim", "--reason", "its grant was lost"];
        let said = self.run(&[&window, covers].concat());
        let id = said.strip_prefix("opened replay window ").and_then(|said| said.split_once(' '));
        let (id, said) = id.unwrap_or_else(|| panic!("{said}"));
        assert!(said.starts_with(&format!("in {}, until ", self.ledger())), "{said}");
        id.to_owned()
    }

    /// The commands' name for its ledger.
    fn ledger(&self) -> String {
        format!("the ledger of `learnink dev` ({})", self.folder)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Ctrl-C, and the exit code.
    pub(crate) fn interrupt(mut self) -> (Vec<String>, Option<i32>) {
        self.signal("-INT");
        let code = self.process.wait().unwrap().code();
        (self.lines.try_iter().collect(), code)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Fails if the test has ended it already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_dev_prints_is_enough_to_send_a_webhook_and_see_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("it's a st\u{e4}te/$HOME `x` \"y\" p%41 #1");
    let dev = Dev::start(&state);
    assert!(dev.line_with("secret").contains("whsec_"));
    let shown = dev.line_with("state").split_once("state").unwrap().1.trim().to_owned();
    let listed = Command::new("bash").args(["-c", &format!("ls -d {shown}")]).output().unwrap();
    assert_eq!(text(&listed.stdout).trim_end(), state.to_str().unwrap());
    let next = dev.line_with("cargo learnink send");
    let sent = pasted(&next);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    assert!(text(&sent.stdout).starts_with("200  msg_"), "{}", text(&sent.stdout));

    let line = dev.line_with("handled by progress in");
    assert!(line.starts_with("✓ user.course.started") && line.contains("verified in"), "{line}");
    assert!(line.contains("queued in"), "{line}");
    let learners = dev.json("learners");
    assert_eq!(learners[0]["course_id"], "83dc4f73-0e56-4fd5-8cdc-4aa5d53fdfe8");

    let (lines, code) = dev.interrupt();
    assert_eq!(lines.last().unwrap(), "stopped: nothing is left on the queue");
    assert_eq!(code, Some(0));

    let again = Dev::start(&state);
    assert_eq!(again.json("learners"), learners);
    let opened = again.run(&["replay", "open", "--message", "msg_1", "--reason", "why", "--by", "kim"]);
    let (_, close) = opened.split_once("To end it early: ").unwrap();
    let closed = pasted(&format!("{} --by kim", close.trim_end()));
    assert!(text(&closed.stdout).starts_with("closed replay window"), "{}", text(&closed.stderr));
}

/// The output of a command that is pasted into a shell.
fn pasted(command: &str) -> Output {
    let rest = command.trim_start().strip_prefix("cargo learnink").unwrap();
    let command = format!("{} {rest}", quoted(binary("learnink")));
    Command::new("bash").args(["-c", &command]).current_dir(root()).output().unwrap()
}

#[test]
fn what_is_to_be_typed_starts_as_what_was_typed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let said = |command: &mut Command| text(&command.output().unwrap().stdout);
    let by_cargo = said(&mut learnink(&["learners", "--state", state]));
    assert!(by_cargo.contains("; start `cargo dev` and send a webhook"), "{by_cargo}");
    let by_path = said(learnink(&["learners", "--state", state]).env_remove("CARGO_PKG_NAME"));
    let program = quoted(binary("learnink"));
    assert!(by_path.contains(&format!("; start `{program} dev` and send a webhook")), "{by_path}");
    let help = said(learnink(&["send", "--help"]).env_remove("CARGO_PKG_NAME"));
    assert!(help.contains(&format!("  {program} send --tamper ")) && !help.contains("cargo"), "{help}");
    assert!(said(&mut learnink(&["send", "--help"])).contains("Usage: cargo learnink send"));
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
    let by_type = dev.run(&["unknown"]);
    assert!(by_type.contains("First happened") && by_type.ends_with("1 in all\n"), "{by_type}");
    assert!(dev.send(&["events/not-json.txt"]).status.success());
    dev.line_with("dead-lettered: the body is not JSON");
    assert!(dev.send(&["--id", "msg_again"]).status.success());
    dev.line_with("handled by progress");
    assert!(dev.send(&["--id", "msg_again"]).status.success());
    dev.line_with("handled before: nothing done twice");
    assert_eq!(dev.json("learners").len(), 1);
}

#[test]
fn what_is_not_handled_yet_is_counted_and_what_is_too_old_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let variables = [
        ("LEARNINK_PUSH", "endpoint"),
        ("LEARNINK_PUSH_URL", "http://127.0.0.1:1/"),
        ("LEARNINK_PUSH_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ];
    let dev = Dev::start_with(folder.path(), &variables);
    assert!(dev.send(&["events/notifications.sent.json"]).status.success());
    assert!(dev.line_with("notifications.sent").ends_with(", push: too old, not called"));
    for (count, waiting) in [("2", "2 messages are"), ("3", "5 messages are")] {
        assert!(dev.send(&["--count", count, "events/notifications.sent.json"]).status.success());
        for command in ["unknown", "learners"] {
            let output = learnink(&[command, "--state", &dev.folder]).output().unwrap();
            let expected = format!("{waiting} still on the queue; their results may be missing here\n");
            assert_eq!(text(&output.stderr), expected);
        }
    }
    assert_eq!(dev.run(&["unknown"]), "no event without a handler has been stored\n");
    assert_eq!(dev.run(&["learners"]), "no course start has been recorded\n");
    let (lines, _) = dev.interrupt();
    assert_eq!(lines.last().unwrap(), "stopped: 5 messages are kept for the next start");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_dev_reach_a_bus_in_aws() {
    Engine::ministack().await;
    let folder = tempfile::tempdir().unwrap();
    let aws = [
        ("LEARNINK_EVENT_BUS", "default"),
        ("AWS_REGION", learnink_local::REGION),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", ministack_endpoint()),
    ];
    let dev = Dev::start_with(folder.path(), &aws);
    let line = dev.sent("msg_1");
    assert!(line.contains("bus in ") && line.contains("progress in "), "{line}");
    // The tables stay on this machine.
    assert_eq!(dev.json("learners").len(), 1);
    assert!(!dev.sent("msg_1").contains("bus"));
}

#[test]
fn a_handler_that_needs_aws_says_so_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let dev = ["dev", "--port", "0", "--console-port", "0", "--state", state.to_str().unwrap()];
    let push = [("LEARNINK_PUSH", "endpoint"), ("LEARNINK_PUSH_URL", "https://example.com/")];
    let cases = [
        (
            &[("LEARNINK_EVENT_BUS", "automations")][..],
            "error: LEARNINK_EVENT_BUS cannot be used: it needs AWS, and AWS_REGION is not set; set it to the stack's \
             region, such as eu-west-1, or give the profile a region",
        ),
        (
            &[push[0], push[1], ("LEARNINK_PUSH_SECRET_ID", "push"), ("AWS_REGION", "eu-west-1")],
            "error: LEARNINK_PUSH_SECRET_ID cannot be used: it needs AWS, and AWS_ACCESS_KEY_ID is not set; set it to an \
             access key, or choose a profile with AWS_PROFILE: ",
        ),
    ];
    for (variables, expected) in cases {
        let mut command = learnink(&dev);
        command.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION").env_remove("AWS_ACCESS_KEY_ID");
        let error = error_of(command.envs(variables.iter().copied()));
        assert!(error.starts_with(expected), "{error}");
    }
    // A room that is half set up fails the start, and names the variable and the fix.
    let mut half = learnink(&dev);
    half.env("LEARNINK_FORWARD_TYPES", "user.course.started");
    assert_eq!(
        error_of(&mut half),
        "error: LEARNINK_FORWARD_TYPES cannot be used: there is no endpoint to use it; set LEARNINK_FORWARD_URL to its \
         address, or leave LEARNINK_FORWARD_TYPES empty"
    );
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
    // The killed one's messages are delivered again once its leases have ended, within half a minute.
    let deadline = Instant::now() + PATIENCE;
    while dev.json("learners").len() < 100 {
        assert!(Instant::now() < deadline, "{} of 100 learners", dev.json("learners").len());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The one line of a `learnink` that fails.
fn error(arguments: &[&str]) -> String {
    error_of(&mut learnink(arguments))
}

pub(crate) fn error_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
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
    let no_secret = error(&["dev", "--port", "0", "--state", other, "--secret", "abc"]);
    assert_eq!(
        no_secret,
        "error: the signing secret cannot be used: the signing secret is not base64, with or without `whsec_` in \
         front; copy it again"
    );
}

#[test]
fn what_the_system_says_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(folder.path().join("queues.jsonl")).unwrap();
    let file = file.to_str().unwrap();
    for (arguments, expected) in [
        (["dev", "--port", "0", "--state", file], format!("error: cannot use {file}: ")),
        (["dev", "--port", "0", "--state", state], format!("error: cannot use {state}/queues.jsonl: ")),
        // An address for documentation, which is never assigned (RFC 5737).
        (
            ["dev", "--host", "192.0.2.1", "--state", state],
            "error: cannot listen on 192.0.2.1:9000: ".to_owned(),
        ),
    ] {
        let error = error(&arguments);
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(error.matches("(os error").count(), 1, "{error}");
    }
}

/// The error about the arguments themselves.
fn usage_error(arguments: &[&str]) -> String {
    let output = learnink(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn an_argument_that_cannot_be_read_says_what_is_expected() {
    let days = ["archive", "export", "--archive", "file:///tmp", "--from", "March", "--to", "2026-03-01"];
    for (arguments, expected) in [
        (
            &["send", "--url", "localhost:9000"][..],
            "expected a URL such as http://127.0.0.1:9000/webhooks/learnink",
        ),
        (&["send", "--age", "soon"], "expected a duration such as 10m"),
        (&days, "expected a date such as 2026-03-01"),
    ] {
        let error = usage_error(arguments);
        assert!(error.contains(expected), "{error}");
    }
    let days = ["--from", "2026-03-01", "--to", "2026-03-01"];
    let elsewhere = error(&[&["archive", "export", "--archive", "ftp://acme"], &days[..]].concat());
    assert!(
        elsewhere.starts_with("error: --archive (or LEARNINK_ARCHIVE) cannot be used: it "),
        "{elsewhere}"
    );
    assert!(elsewhere.ends_with("such as s3://bucket/prefix or file:///folder"), "{elsewhere}");
    let mut in_s3 = learnink(&[&["archive", "export", "--archive", "s3://acme"], &days[..]].concat());
    let error = error_of(in_s3.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION"));
    assert!(
        error.ends_with("AWS_REGION is not set; set it to the stack's region, such as eu-west-1, or give the profile a region"),
        "{error}"
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
            "error: there is no signing secret in {state}; start `cargo dev` there first, or set \
             LEARNINK_SIGNING_SECRET"
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
fn what_may_be_wrong_with_the_secret_or_the_path_is_hinted_at() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let another = ["--secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    let hint = |output: &Output| text(&output.stderr);
    assert!(hint(&dev.send(&another)).starts_with("401: the receiver does not hold this secret"));
    assert_eq!(hint(&dev.send(&["--tamper"])), "");
    let url = dev.url.replace("/webhooks/learnink", "/");
    let elsewhere = learnink(&["send", "--url", &url, "--state", &dev.folder]).output().unwrap();
    assert!(hint(&elsewhere).ends_with("its path is usually /webhooks/learnink\n"), "{}", hint(&elsewhere));
    dev.line_with("answered 404, not queued: webhooks are received at /webhooks/learnink alone");
}

#[test]
fn before_the_first_start_there_is_nothing_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let output = learnink(&["learners", "--state", state]).output().unwrap();
    let nothing = format!(
        "no `learnink dev` has run in {state}; start `cargo dev` and send a webhook, or name a deployed stack with \
         --stack\n"
    );
    assert_eq!(text(&output.stdout), nothing);
    let output = learnink(&["learners", "--json", "--state", state]).output().unwrap();
    assert_eq!(text(&output.stdout), "[]\n");
}

#[test]
fn under_a_replay_window_a_message_is_handled_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    assert!(dev.sent("msg_1").contains("handled by progress"));
    assert!(dev.sent("msg_1").contains("handled before"));
    let window = dev.open_window(&["--message", "msg_1", "msg_2"]);
    let other = ["replay", "open", "--message", "msg_1", "msg_9", "--reason", "why", "--by", "kim"];
    let warned = learnink(&[&other[..], &["--state", &dev.folder]].concat()).output().unwrap();
    let warning =
        format!("warning: {} has no message msg_9, so that the window does nothing for it\n", dev.ledger());
    assert_eq!((text(&warned.stderr), warned.status.code()), (warning, Some(0)));
    for expected in ["handled by progress", "handled before"] {
        let line = dev.sent("msg_1");
        assert!(line.contains(expected), "{line}");
    }
    let listed = dev.run(&["replay", "list"]);
    for part in [&window, "msg_1, msg_2", "all handlers", "kim", "its grant was lost", "open", "2 in all"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
}

#[test]
fn a_replay_window_that_is_closed_lets_nothing_in_and_is_closed_without_dev_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let dev = Dev::start(folder.path());
    for id in ["msg_1", "msg_3"] {
        assert!(dev.sent(id).contains("handled by progress"));
    }
    let range = ["--since", "1h ago", "--type", "user.course.started", "--handler", "progress"];
    let (first, second) = (dev.open_window(&range), dev.open_window(&range));
    assert!(dev.sent("msg_1").contains("handled by progress"));
    // It first arrived after the windows were opened, so it is not a replay.
    assert!(dev.sent("msg_2").contains("handled by progress"));
    assert!(dev.sent("msg_2").contains("handled before"));
    let close = |id: &str| {
        let output = learnink(&["replay", "close", id, "--by", "lee", "--state", state]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let ledger = dev.ledger();
    assert_eq!(close(&first), format!("closed replay window {first} in {ledger}\n"));
    dev.interrupt();
    assert_eq!(close(&second), format!("closed replay window {second} in {ledger}\n"));
    let again = close(&second);
    assert!(
        again.starts_with(&format!("replay window {second} in {ledger} had ended already: closed by lee")),
        "{again}"
    );

    let dev = Dev::start(folder.path());
    assert!(dev.sent("msg_3").contains("handled before"));
    assert_eq!(dev.run(&["replay", "list"]), format!("no replay window is open in {ledger}\n"));
    let all = dev.json("replay list --all");
    assert_eq!(all.len(), 2);
    for window in &all {
        assert_eq!((&window["state"], &window["closed"]["by"]), (&json!("closed"), &json!("lee")));
        assert_eq!(window["handlers"], json!(["progress"]));
    }
}

#[test]
fn what_keeps_a_replay_window_from_being_opened_or_closed_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let open = ["replay", "open", "--message", "msg_1", "--reason", "why", "--by", "kim", "--state", state];
    let nothing = format!(
        "no `learnink dev` has run in {state}; start `cargo dev`, or name a deployed stack with --stack"
    );
    assert_eq!(error(&open), format!("error: {nothing}"));
    assert_eq!(
        text(&learnink(&["replay", "list", "--state", state]).output().unwrap().stdout),
        format!("{nothing}\n")
    );

    let dev = Dev::start(folder.path());
    let unknown = error(&[&open[..], &["--handler", "pusch"]].concat());
    assert!(unknown.starts_with("error: no handler is named `pusch`; there are: progress, "), "{unknown}");
    let unknown = error(&["replay", "close", "zz", "--by", "kim", "--state", state]);
    let nowhere = format!("error: no replay window in {} has the id `zz`; ", dev.ledger());
    assert!(unknown.starts_with(&nowhere), "{unknown}");
    assert!(unknown.ends_with("lists them; add --all for those that ended"), "{unknown}");
    let mut in_aws = learnink(&["replay", "list", "--ledger", "t"]);
    let in_aws = error_of(in_aws.env("AWS_REGION", "eu-west-1").env_remove("AWS_ACCESS_KEY_ID"));
    assert!(in_aws.contains("aws configure export-credentials"), "{in_aws}");
}

#[test]
fn dead_letters_are_listed_with_their_reasons_and_without_what_they_carry() {
    let folder = tempfile::tempdir().unwrap();
    let other_shape = folder.path().join("other-shape.json");
    let event = std::fs::read_to_string(root().join("events/user.course.started.json")).unwrap();
    let mut event: Value = serde_json::from_str(&event).unwrap();
    event["data"]["user_id"] = json!(["secretive"]);
    std::fs::write(&other_shape, event.to_string()).unwrap();
    let dev = Dev::start(folder.path());
    assert_eq!(dev.run(&["dlq", "list"]), "no dead letters\n");
    for (id, file) in [("msg_1", "events/not-json.txt"), ("msg_2", other_shape.to_str().unwrap())] {
        assert!(dev.send(&["--id", id, file]).status.success());
        assert!(dev.line_with(id).contains("dead-lettered"));
    }

    let letters = dev.json("dlq list");
    let [not_json, other_shape] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((&not_json["message_id"], &not_json["event_type"]), (&json!("msg_1"), &Value::Null));
    assert_eq!(not_json["reason"], "the body is not JSON (line 1, column 2)");
    assert_eq!((&other_shape["message_id"], &other_shape["handler"]), (&json!("msg_2"), &json!("progress")));
    assert_eq!(other_shape["event_type"], "user.course.started");
    assert_eq!(other_shape["receive_count"], 1);

    // A look does not hide messages from the next one.
    let table = dev.run(&["dlq", "list"]);
    assert!(table.contains("`data` does not match the payload of `user.course.started`"), "{table}");
    assert!(table.contains("2 in all") && !table.contains("secretive"), "{table}");
    let limited = learnink(&["dlq", "list", "--limit", "1", "--state", &dev.folder]).output().unwrap();
    assert!(text(&limited.stdout).contains("1 in all"), "{}", text(&limited.stdout));
    assert_eq!(text(&limited.stderr), "there may be more; --limit shows them\n");

    let (lines, _) = dev.interrupt();
    assert_eq!(lines.last().unwrap(), "stopped: nothing is left on the queue; 2 dead letters are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_somebody_else_is_looking_at_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    for id in ["msg_1", "msg_2"] {
        assert!(dev.send(&["--id", id, "events/not-json.txt"]).status.success());
        dev.line_with(id);
    }
    let endpoint = state::address(folder.path(), state::Service::Sqs).unwrap().unwrap();
    let sqs = aws_sdk_sqs::Client::new(&sdk_config(&endpoint));
    let list = || {
        let output = learnink(&["dlq", "list", "--state", &dev.folder]).output().unwrap();
        assert!(output.status.success());
        (text(&output.stdout), text(&output.stderr))
    };
    let look_at_one = async || {
        let request = sqs.receive_message().queue_url(LocalSqs::queue_url(DEAD_LETTER_QUEUE));
        let request = request.max_number_of_messages(1).visibility_timeout(600).wait_time_seconds(5);
        assert_eq!(request.send().await.unwrap().messages.unwrap().len(), 1);
    };
    let why = "on the queue and not shown, perhaps because somebody else is looking; try again in 30 s\n";
    look_at_one().await;
    let (shown, hidden) = list();
    assert!(shown.ends_with("1 in all\n"), "{shown}");
    assert_eq!(hidden, format!("1 more is {why}"));
    assert_eq!(list().1, hidden);
    look_at_one().await;
    assert_eq!(
        list(),
        ("all dead letters are in flight; try again shortly\n".to_owned(), format!("2 are {why}"))
    );

    let state = dev.folder.clone();
    dev.signal("-KILL");
    drop(dev);
    assert_eq!(
        error(&["dlq", "list", "--state", &state]),
        format!(
            "error: `learnink dev` is not running in {state}; start `cargo dev`, or name a deployed stack with \
             --stack"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_commands_reach_a_queue_and_a_table_in_aws() {
    let engine = Engine::ministack().await;
    let (pair, table) = (engine.queues(30, 1).await, engine.table("message_id", None).await);
    // Redriven, with its previous reason, and moved by SQS after another delivery.
    send_message(&engine, &pair.url, "msg_00", &[(queues::attribute::REASON, "no such plan")]).await;
    for _ in 0..2 {
        let receive = engine.sqs_client().receive_message().queue_url(&pair.url).visibility_timeout(0);
        receive.send().await.unwrap();
    }
    for number in 1..11 {
        send_message(&engine, &pair.dead_letter_url, &format!("msg_{number:02}"), &[]).await;
    }
    let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
    leave(&ledger, "msg_00", Some("push: busy")).await;
    leave(&ledger, "msg_01", None).await;
    let aws = |arguments: &[&str]| {
        let output = in_aws(&[arguments, &["--ledger", &table]].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };

    let list = aws(&["dlq", "list", "--json", "--queue", &pair.dead_letter_url]);
    let letters: Vec<Value> = serde_json::from_str(&list).unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(letters.len(), 11);
    assert_eq!(reasons[0], "push: busy (on its last delivery)");
    assert!(reasons[1].starts_with("the consumer crashed or timed out"), "{reasons:?}");
    assert!(
        reasons[2..].iter().all(|reason| reason.starts_with("no consumer has claimed it")),
        "{reasons:?}"
    );

    let window = ["replay", "open", "--message", "msg_00", "--reason", "why", "--by", "kim"];
    let opened = aws(&window);
    assert!(
        opened.contains(&format!(" in the ledger `{table}` in {}, until ", learnink_local::REGION)),
        "{opened}"
    );
    assert!(opened.contains("have LearnInk send the messages again"), "{opened}");
    assert!(!opened.contains("--id"), "{opened}");
    assert!(aws(&["replay", "list"]).contains("1 in all"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_aws_is_named_with_the_code_that_aws_answers() {
    let engine = Engine::ministack().await;
    let pair = engine.queues(30, 1).await;
    let error = |arguments: &[&str]| error_of(&mut in_aws(arguments));
    let region = learnink_local::REGION;
    let not_found = "AWS does not know the queue, table or secret (ResourceNotFoundException); check its name, the account and the region";
    let ledger = format!("error: cannot use the ledger `none` in {region}: ");
    let windows = error(&["replay", "list", "--ledger", "none"]);
    assert!(windows.starts_with(&ledger) && windows.ends_with(not_found), "{windows}");
    let no_queue = pair.url.replace("queue", "other");
    assert_eq!(
        error(&["dlq", "list", "--queue", &no_queue, "--ledger", "none"]),
        format!(
            "error: cannot read the queue {no_queue}: AWS does not know the queue, table or secret \
             (AWS.SimpleQueueService.NonExistentQueue); check its name, the account and the region"
        )
    );
    assert_eq!(
        error(&["unknown", "--table", "none"]),
        format!("error: could not read the table `none` in {region}: {not_found}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_a_deployed_stack_are_shown_too() {
    let engine = Engine::ministack().await;
    let (unknown, learners) =
        (engine.table("message_id", None).await, engine.table("user_id", Some("course_id")).await);
    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    for (id, occurred_at_ms) in [("msg_1", "1767225600000"), ("msg_2", "1767312000000")] {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let put = client.put_item().table_name(&unknown).item("message_id", text(id));
        let put = put.item("event_type", text("example.type")).item("api_version", text("2022-11-15"));
        let put = put.item("occurred_at_ms", AttributeValue::N(occurred_at_ms.to_owned()));
        let put = put.item("expires_at", AttributeValue::N("1775001600".to_owned()));
        put.send().await.unwrap();
    }
    let shown = |arguments: &[&str]| {
        let output = in_aws(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let by_type = shown(&["unknown", "--table", &unknown]);
    let row = by_type.lines().find(|line| line.contains("example.type")).unwrap();
    let row: Vec<_> = row.split_whitespace().collect();
    let expected =
        ["example.type", "2022-11-15", "2", "2026-01-01", "00:00:00Z", "2026-01-02", "00:00:00Z", "msg_2"];
    assert_eq!(row, expected, "{by_type}");
    assert!(by_type.ends_with("2 in all\n"), "{by_type}");
    let events: Vec<Value> =
        serde_json::from_str(&shown(&["unknown", "--json", "--table", &unknown])).unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(shown(&["learners", "--table", &learners]), "no course start has been recorded\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_is_found_by_its_name_and_a_profile_by_its_own() {
    let engine = Engine::ministack().await;
    let (learners, unknown) =
        (engine.table("user_id", Some("course_id")).await, engine.table("message_id", None).await);
    let ledger = engine.table("message_id", None).await;
    let name = format!("stack-{ledger}");
    let outputs = [("LearnersTableName", &learners), ("UnknownEventsTableName", &unknown)];
    create_stack(&name, &[&outputs[..], &[("LedgerTableName", &ledger)]].concat());
    let old = format!("{name}-old");
    create_stack(&old, &outputs);

    let shown = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(shown(&mut in_aws(&["learners", "--stack", &name])), "no course start has been recorded\n");
    let none = shown(in_aws(&["unknown"]).env("LEARNINK_STACK", &name));
    assert_eq!(none, "no event without a handler has been stored\n");
    let window = ["replay", "open", "--message", "msg_1", "--reason", "why", "--by", "kim", "--stack", &name];
    let opened = shown(&mut in_aws(&window));
    assert!(opened.contains(&format!(" in the ledger `{ledger}` in ")), "{opened}");
    assert!(opened.trim_end().ends_with(&format!("--stack {name}")), "{opened}");

    // Without an access key in the environment, the AWS CLI reads the profile. This one stands in for version 2, which
    // is not on PyPI.
    let region = learnink_local::REGION;
    let folder = tempfile::tempdir().unwrap();
    let aws = folder.path().join("aws");
    let script = format!(
        r#"#!/bin/sh
case "$*" in
"configure get region --profile on call") echo {region} ;;
"configure export-credentials --format process --profile on call")
    echo '{{"Version":1,"AccessKeyId":"{region}","SecretAccessKey":"{region}"}}' ;;
*) echo "The config profile could not be found" >&2; exit 255 ;;
esac"#
    );
    std::fs::write(&aws, script).unwrap();
    std::fs::set_permissions(&aws, Permissions::from_mode(0o755)).unwrap();
    let without_keys = |arguments: &[&str]| {
        let mut command = in_aws(arguments);
        for variable in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(variable);
        }
        command.env("PATH", folder.path());
        command
    };
    let list = ["replay", "list", "--stack", &name, "--profile"];
    assert!(shown(&mut without_keys(&[&list[..], &["on call"]].concat())).contains("1 in all"));
    let mut nobody = without_keys(&[&list[..], &["nobody"]].concat());
    assert_eq!(
        error_of(nobody.env("AWS_REGION", region)),
        "error: --profile cannot be used: `aws configure export-credentials` failed: The config profile could not be \
         found; a profile of SSO needs `aws sso login`"
    );
    std::fs::remove_file(&aws).unwrap();
    let no_cli = error_of(without_keys(&list[..4]).env("AWS_REGION", region));
    assert_eq!(
        no_cli,
        "error: AWS_ACCESS_KEY_ID is not set; set it to an access key, or choose a profile with AWS_PROFILE: profiles \
         are read by AWS CLI 2, which is not installed"
    );

    let error = |arguments: &[&str]| error_of(&mut in_aws(arguments));
    assert_eq!(
        error(&["learners", "--stack", "none"]),
        format!(
            "error: cannot find the stack none in {region}: it does not exist; check its name, the region and the \
             profile"
        )
    );
    assert_eq!(
        error(&["replay", "list", "--stack", &old]),
        format!(
            "error: the stack {old} in {region} has no output LedgerTableName: it is another stack, or of an older \
             version; deploy this version first"
        )
    );
    let no_archive = error(&["archive", "export", "--stack", &name]);
    assert!(no_archive.contains(" has no archive: "), "{no_archive}");
}

/// Creates a stack on ministack that has these outputs, one resource, and a push sender of type `endpoint`.
pub(crate) fn create_stack(name: &str, outputs: &[(&str, &String)]) {
    let outputs = outputs.iter().map(|(key, value)| ((*key).to_owned(), json!({ "Value": value })));
    let template = json!({
        "Parameters": { "Push": { "Type": "String", "Default": "endpoint" } },
        "Resources": { "Topic": { "Type": "AWS::SNS::Topic" } },
        "Outputs": outputs.collect::<serde_json::Map<_, _>>(),
    });
    let mut aws = in_aws_cli(&["cloudformation", "create-stack", "--stack-name", name]);
    let created = aws.args(["--template-body", &template.to_string()]).output().unwrap();
    assert!(created.status.success(), "{}", text(&created.stderr));
    let mut aws = in_aws_cli(&["cloudformation", "wait", "stack-create-complete", "--stack-name", name]);
    assert!(aws.status().unwrap().success());
}

/// The AWS CLI on ministack.
pub(crate) fn in_aws_cli(arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join(".venv/bin/aws"));
    command.args(["--endpoint-url", ministack_endpoint()]).args(arguments);
    for variable in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env(variable, learnink_local::REGION);
    }
    command
}

/// A command for a stack in AWS, which is ministack.
pub(crate) fn in_aws(arguments: &[&str]) -> Command {
    let mut command = learnink(arguments);
    command.env("AWS_ENDPOINT_URL", ministack_endpoint());
    for variable in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env(variable, learnink_local::REGION);
    }
    command
}

/// Sends a message of a receiver to a queue, with more attributes than the receiver's.
pub(crate) async fn send_message(engine: &Engine, url: &str, id: &str, more: &[(&str, &str)]) {
    let message = Message {
        id: MessageId::parse(id).unwrap(),
        signed_at_s: 0,
        signature: "v1,aa".to_owned(),
        received_at: Timestamp::UNIX_EPOCH,
        event_type: Some("example.type".to_owned()),
        body: EVENT.into(),
        part: None,
        window: None,
    };
    let message = message.encode().unwrap();
    let own = message.attributes.iter().map(|own| (own.name, own.value.as_str()));
    let mut request = engine.sqs_client().send_message().queue_url(url).message_body(message.body);
    for (name, value) in own.chain(more.iter().copied()) {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        request = request.message_attributes(name, value.build().unwrap());
    }
    request.send().await.unwrap();
}

/// The ledger entry of a consumer that failed for a reason, or stopped before it could record one.
async fn leave(ledger: &DynamoDbLedger, id: &str, failure_reason: Option<&str>) {
    let (id, now) = (MessageId::parse(id).unwrap(), Timestamp::UNIX_EPOCH);
    let request = ClaimRequest {
        id: (&id).into(),
        payload_sha256: payload_sha256(EVENT),
        keys: vec!["push".to_owned()],
        owner: "consumer".to_owned(),
        now,
        lease: Duration::from_secs(20),
        probably_new: true,
    };
    ledger.claim(vec![request]).await.remove(0).unwrap();
    if let Some(reason) = failure_reason {
        let settlement = Settlement {
            id: id.into(),
            owner: "consumer".to_owned(),
            done: BTreeSet::new(),
            failure_reason: Some(reason.to_owned()),
            now,
        };
        ledger.settle(vec![settlement]).await.remove(0).unwrap();
    }
}

/// Asserts that an output does not control a terminal, and that no line is split.
fn assert_harmless(output: &Output) {
    for stream in [&output.stdout, &output.stderr] {
        let stream = text(stream);
        // A table without a terminal has tabs between its cells.
        for cell in stream.lines().flat_map(|line| line.split('\t')) {
            assert_eq!(visible(cell), cell);
        }
        assert!(!stream.contains("\nowned") && !stream.starts_with("owned"), "{stream}");
    }
}

#[test]
fn nothing_from_elsewhere_steers_the_terminal_whatever_the_command() {
    let folder = tempfile::tempdir().unwrap();
    // Linux allows every byte in a name except `/` and zero.
    let state = folder.path().join(format!("state{HOSTILE}"));
    let archive = folder.path().join("archive");
    let dev = Dev::start_with(&state, &[("LEARNINK_ARCHIVE", archive.to_str().unwrap())]);
    let file = folder.path().join(HOSTILE);
    let file = file.to_str().unwrap();
    let learner =
        json!({ "user_id": HOSTILE, "custom_id": HOSTILE, "phone_number": null, "course_id": HOSTILE });
    let other_shape = json!({ HOSTILE: HOSTILE });
    let event = |event_type: &str, data: &Value| {
        json!({
            "object": "event", "type": event_type, "api_version": "2022-11-15", "data": data,
            "timestamp": "2026-01-01T00:00:00Z",
        })
    };
    let types = ["user.course.started", HOSTILE, "user.course.started"];
    for (number, (event_type, data)) in
        types.into_iter().zip([&learner, &other_shape, &other_shape]).enumerate()
    {
        std::fs::write(file, event(event_type, data).to_string()).unwrap();
        let id = format!("msg_{number}");
        let sent = dev.send(&["--id", &id, file]);
        assert_harmless(&sent);
        let line = dev.line_with(&id);
        assert_eq!(visible(&line), line);
    }
    // Somebody put it there.
    std::fs::write(archive.join(HOSTILE), "x").unwrap();
    let archive = archive.to_str().unwrap();
    let days = ["--archive", archive, "--type", HOSTILE];
    let state = dev.folder.as_str();
    let by = ["--reason", HOSTILE, "--by", HOSTILE, "--state", state];
    let elsewhere = ["--ledger", HOSTILE, "--queue", HOSTILE];
    let commands: [&[&str]; 32] = [
        &["learners", "--state", state],
        &["learners", "--json", "--state", state],
        &["learners", "--table", HOSTILE],
        &["unknown", "--state", state],
        &["unknown", "--json", "--state", state],
        &["dlq", "list", "--state", state],
        &["dlq", "list", "--json", "--state", state],
        &[&["dlq", "list"][..], &elsewhere].concat(),
        &["dlq", "causes", "--state", state],
        &["dlq", "causes", "--json", "--state", state],
        &["dlq", "show", "msg_1", "--state", state],
        &["dlq", "show", HOSTILE, "--state", state],
        &[&["dlq", "redrive", HOSTILE][..], &by].concat(),
        &[&["dlq", "drop", "--all", "--yes", "--to", file][..], &by].concat(),
        &[&["dlq", "restore", HOSTILE][..], &by].concat(),
        &["acts", "--state", state],
        &[&["replay", "open", "--message", "msg_1"][..], &by].concat(),
        &[&["replay", "open", "--since", "1h ago", "--type", HOSTILE][..], &by].concat(),
        &[&["replay", "open", "--message", "msg_1", "--handler", HOSTILE][..], &by].concat(),
        &["replay", "list", "--state", state],
        &["replay", "list", "--json", "--state", state],
        &["replay", "close", HOSTILE, "--by", HOSTILE, "--state", state],
        &[&["archive", "verify"][..], &days].concat(),
        &["archive", "verify", "--archive", archive],
        &["archive", "export", "--archive", archive],
        &["archive", "export", "--archive", HOSTILE],
        &["archive", "export", "--archive", &format!("s3://{HOSTILE}")],
        &["archive", "verify", "--archive", archive, "--secret-file", HOSTILE],
        &["send", "--state", HOSTILE],
        &["send", "--state", state, &format!("{file}2")],
        &["dev", "--port", "0", "--state", state],
        &["dev", "--port", HOSTILE],
    ];
    for arguments in commands {
        let mut command = learnink(arguments);
        command.env("LEARNINK_SIGNING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", HOSTILE);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        if arguments[0] == "send" {
            command.env_remove("LEARNINK_SIGNING_SECRET");
        }
        let output = command.output().unwrap();
        assert_harmless(&output);
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{arguments:?}");
    }
    // Not `dev`, which takes most of them, and then runs.
    for variable in VARIABLES {
        for arguments in [&["send"][..], &["archive", "verify"], &["archive", "export"], &["send", "--help"]]
        {
            assert_harmless(&learnink(arguments).env(variable, HOSTILE).output().unwrap());
        }
    }
    assert_harmless(&learnink(&["dev"]).env(VARIABLES[0], HOSTILE).output().unwrap());
    // Some of it was shown, escaped.
    assert!(dev.run(&["unknown"]).contains(r"x\u{1b}[2J"), "{}", dev.run(&["unknown"]));
    assert_eq!(dev.json("unknown")[0]["event_type"], HOSTILE);
    assert_eq!(dev.json("learners")[0]["user_id"], HOSTILE);
}

#[test]
fn an_output_that_is_full_is_one_clear_line_and_one_that_is_closed_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    assert!(dev.send(&["--id", "msg_1"]).status.success());
    assert!(dev.send(&["--id", "msg_2", "events/not-json.txt"]).status.success());
    dev.line_with("msg_2");
    let (state, url) = (dev.folder.as_str(), dev.url.as_str());
    let send = ["send", "--state", state, "--url", url];
    let open = ["replay", "open", "--message", "msg_1", "--reason", "why", "--by", "kim", "--state", state];
    let commands: [&[&str]; 15] = [
        &["completions", "bash"],
        &["secret", "status", "--state", state],
        &["learners", "--state", state],
        &["learners", "--json", "--state", state],
        &["unknown", "--state", state],
        &["dlq", "list", "--state", state],
        &["dlq", "list", "--json", "--state", state],
        &["dlq", "show", "msg_2", "--state", state],
        &["acts", "--state", state],
        &open,
        &["replay", "list", "--state", state],
        &send,
        &[&send[..], &["--count", "3"]].concat(),
        &["--help"],
        &["send", "--help"],
    ];
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in commands {
        let output = learnink(arguments).stdout(full()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let end = "cannot print: No space left on device (os error 28)\n";
        // On a slow machine, it comes after the number of messages that are still on the queue.
        let errors = said.lines().filter(|line| !line.contains("still on the queue")).collect::<Vec<_>>();
        assert!(errors.len() == 1 && errors[0].starts_with("error: ") && said.ends_with(end), "{said}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = learnink(arguments).stdout(writer).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success() && !said.contains("error"), "{arguments:?}: {said}");
    }
    // A change that cannot be printed is told on standard error.
    let windows = learnink(&["replay", "list", "--json", "--state", state]).output().unwrap();
    let windows: Vec<serde_json::Value> = serde_json::from_slice(&windows.stdout).unwrap();
    let id = windows[0]["id"].as_str().unwrap();
    let output =
        learnink(&["replay", "close", id, "--by", "you", "--state", state]).stdout(full()).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        said.starts_with(&format!("error: replay window {id} is closed, but this could not be printed: ")),
        "{said}"
    );
    // Nothing can be printed there, and nothing panics, which would be exit code 101.
    for arguments in [&["send", "--state", "/none"][..], &["nonsense"], &[&send[..], &["--tamper"]].concat()]
    {
        assert_eq!(
            learnink(arguments).stderr(full()).output().unwrap().status.code(),
            Some(1),
            "{arguments:?}"
        );
    }
}

#[test]
fn webhooks_are_received_though_nothing_can_be_printed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut dev = learnink(&["dev", "--port", &port, "--console-port", "0", "--state", state]);
    let mut dev = dev.stdout(full()).stderr(full()).spawn().unwrap();
    let url = format!("http://127.0.0.1:{port}/webhooks/learnink");
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..3 {
        let sent = learnink(&["send", "--state", state, "--url", &url]).output().unwrap();
        assert!(text(&sent.stdout).starts_with("200"), "{}{}", text(&sent.stdout), text(&sent.stderr));
    }
    let interrupted = Command::new("kill").args(["-INT", &dev.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(dev.wait().unwrap().code(), Some(1));
}

#[test]
fn a_variable_that_is_blank_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    let (state, archive) = (folder.path().join("state"), folder.path().join("archive"));
    let (state, archive) = (state.to_str().unwrap(), archive.to_str().unwrap());
    let commands: [&[&str]; 8] = [
        &["learners"],
        &["dlq", "list"],
        &["replay", "list"],
        &["send", "--url", "http://127.0.0.1:1/webhooks/learnink", "--state", state],
        &["send"],
        &["archive", "verify"],
        &["archive", "verify", "--archive", archive],
        &["archive", "export", "--archive", archive],
    ];
    // All variables in the help of every command.
    let mut helped: Vec<&[&str]> = vec![&["dev"]];
    helped.extend(
        commands.map(|command| &command[..command.len().min(if command[0] == "send" { 1 } else { 2 })]),
    );
    for command in helped {
        let help = text(&learnink(&[command, &["--help"]].concat()).output().unwrap().stdout);
        for part in help.split("[env: ").skip(1) {
            let name = part.split([']', '=']).next().unwrap();
            assert!(VARIABLES.contains(&name), "{name}");
        }
    }
    let outputs = |blank: Option<&str>| {
        commands.map(|arguments| {
            let mut command = learnink(arguments);
            command.current_dir(folder.path());
            if let Some(blank) = blank {
                command.envs(VARIABLES.map(|name| (name, blank))).env("USER", blank).env("LOGNAME", blank);
            }
            let output = command.output().unwrap();
            (text(&output.stdout), text(&output.stderr), output.status.code())
        })
    };
    let unset = outputs(None);
    assert!(unset[0].0.starts_with("no `learnink dev` has run in .learnink"), "{:?}", unset[0]);
    for blank in ["", " ", "\t\n"] {
        assert_eq!(outputs(Some(blank)), unset);
    }
    let dev = Dev::start_with(folder.path(), &VARIABLES.map(|name| (name, " ")));
    assert!(dev.send(&[]).status.success());
}

#[test]
fn an_archive_is_exported_whole_to_standard_output_and_as_spreadsheets_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("it's p%41 pct%zz #1?");
    let archive = archive.to_str().unwrap();
    let dev = Dev::start_with(folder.path(), &[("LEARNINK_ARCHIVE", archive)]);
    let long = folder.path().join("long.json");
    let event = std::fs::read_to_string(root().join("events/example.unknown.json")).unwrap();
    std::fs::write(&long, event.replace("\"note\"", &format!("\"n\":\"{}\",\"note\"", "x=y ".repeat(9_000))))
        .unwrap();
    assert!(dev.sent("msg_1").contains("archive in"));
    assert!(dev.send(&["--id", "msg_2", long.to_str().unwrap()]).status.success());
    dev.line_with("msg_2");

    let run = |arguments: &[&str]| {
        let mut command = learnink(&[&["archive"], arguments, &["--archive", archive]].concat());
        let output = command.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (jsonl, said) = run(&["export"]);
    assert_eq!((jsonl.lines().count(), said.as_str()), (2, "2 records exported\n"));
    for days in [["--from", "2026-01-01"], ["--to", "9999-12-31"]] {
        assert_eq!(run(&[&["export"], &days[..]].concat()).0, jsonl);
    }
    assert_eq!(run(&["export", "--output", "-"]).0, jsonl);
    assert!(!folder.path().join("-").exists());
    let (csv, said) = run(&["export", "--format", "csv"]);
    assert!(csv.starts_with("\u{feff}id,type,"), "{}", &csv[..40]);
    assert!(said.contains("the data of 1 record has more than 32767 characters, which Excel cuts"), "{said}");

    let secret = folder.path().join("secret");
    let kept = std::fs::read_to_string(state::secret_file(folder.path())).unwrap();
    std::fs::write(&secret, format!("\u{feff}\"{}\"\r\n", kept.trim())).unwrap();
    let (verified, _) = run(&["verify", "--secret-file", secret.to_str().unwrap(), "--from", "2026-01-01"]);
    assert_eq!(verified, "2 records, all signed by LearnInk\n");
    let mut piped = learnink(&["archive", "verify", "--archive", archive, "--secret-file", "-"]);
    let verified = piped.stdin(std::fs::File::open(secret).unwrap()).output().unwrap();
    assert!(text(&verified.stdout).ends_with("all signed by LearnInk\n"), "{}", text(&verified.stderr));
}

#[test]
fn what_is_around_a_secret_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let dev = Dev::start_with(folder.path(), &[("LEARNINK_SIGNING_SECRET", &format!("\u{feff}{secret}"))]);
    for wrapped in [format!("\"{secret}\""), format!("'{secret}'\r\n"), format!("\u{feff}\"{secret}\"")] {
        let sent =
            learnink(&["send", "--url", &dev.url]).env("LEARNINK_SIGNING_SECRET", wrapped).output().unwrap();
        assert!(text(&sent.stdout).starts_with("200"), "{}{}", text(&sent.stdout), text(&sent.stderr));
    }
}

#[test]
fn a_rotation_is_told_once_while_it_can_still_be_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    let dev = Dev::start_with(folder.path(), &[("LEARNINK_SIGNING_SECRET", old)]);
    // Svix signs with the new secret first.
    let both = format!("{new} {old}");
    for id in ["msg_1", "msg_2"] {
        assert!(dev.send(&["--secret", &both, "--id", id]).status.success());
    }
    dev.line_with("! the sender signs with a newer secret as well: a rotation.");
    dev.line_with("msg_2");
    let (lines, _) = dev.interrupt();
    assert!(lines.iter().all(|line| !line.contains("rotation")), "{lines:?}");
}

/// An empty DynamoDB with a clock of its own, which records its requests.
async fn dynamodb_at(time: Timestamp) -> (String, Arc<Mutex<Vec<Value>>>) {
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = asked.clone();
    let answer = async move |body: axum::body::Bytes| {
        kept.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        let date = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        ([("date", date), ("content-type", "application/x-amz-json-1.0".to_owned())], "{}")
    };
    let endpoint = serve(axum::Router::new().fallback(answer)).await;
    (endpoint, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_window_goes_by_the_clock_of_aws() {
    for (hours, side) in [(2, "behind"), (-2, "ahead of")] {
        let there = Timestamp::from_second(now_s()).unwrap() + SignedDuration::from_hours(hours);
        let (endpoint, asked) = dynamodb_at(there).await;
        let open = ["replay", "open", "--since", "1h ago", "--reason", "why", "--by", "kim", "--ledger", "t"];
        let output = in_aws(&open).env("AWS_ENDPOINT_URL", endpoint).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let warning = text(&output.stderr);
        assert!(warning.contains(&format!(" s {side} AWS's; the window goes by AWS's")), "{warning}");

        let asked = asked.lock().unwrap();
        let mut written =
            asked.iter().filter_map(|asked| asked["ExpressionAttributeValues"][":window"]["S"].as_str());
        let window: Value = serde_json::from_str(written.next_back().unwrap()).unwrap();
        let is_about = |field: &Value, expected: Timestamp| {
            let time: Timestamp = field.as_str().unwrap().parse().unwrap();
            time.duration_since(expected).abs() < SignedDuration::from_secs(90)
        };
        let seen = &window["covers"]["first_seen"];
        assert!(is_about(&window["opened_at"], there), "{window}");
        assert!(is_about(&seen["until"], there), "{window}");
        assert!(is_about(&seen["from"], there - SignedDuration::from_hours(1)), "{window}");
    }
}
