//! The acts of an operator, as lines of the `learnink` command.
//!
//! An act on the pipeline is a command. A [`Desk`] runs it with this very program, so that nothing is written twice,
//! and `learnink acts` lists it. An act on LearnInk's side is not a command: it changes the simulator directly, and
//! `learnink acts` does not list it.

use std::io;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use learnink_local::terminal::{quoted, visible};
use serde::{Deserialize, Serialize};

use crate::history::{Content, RequestFacts};

/// Runs `learnink` commands for the state folder of this console.
pub trait Desk: Send + Sync + 'static {
    /// Runs `learnink` with these arguments, without a terminal, and `input` as its standard input. The desk adds
    /// `--state`; no argument here is `--`, so that it may do so at the end.
    ///
    /// Fails if the program cannot be run at all.
    fn run(&self, arguments: Vec<String>, input: Vec<u8>) -> BoxFuture<'_, io::Result<CommandOutput>>;
}

/// What a command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// The exit code; 0 is success.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The most bytes of an output on a page.
const MOST_SHOWN: usize = 64 * 1024;

/// A command that was run, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ran {
    /// The line to type for the same, without `--state`.
    pub command: String,
    /// The exit code; 0 is success.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// The output of the command of these arguments.
    pub fn new(arguments: &[String], output: &CommandOutput) -> Self {
        Self {
            command: line(arguments),
            exit_code: output.exit_code,
            stdout: shown(&output.stdout),
            stderr: shown(&output.stderr),
        }
    }
}

/// A command as it is typed.
pub fn line(arguments: &[String]) -> String {
    let quoted: Vec<_> = arguments.iter().map(quoted).collect();
    format!("cargo learnink {}", quoted.join(" "))
}

/// An output, line by line without characters that cannot be seen, up to [`MOST_SHOWN`].
fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output.get(..MOST_SHOWN).unwrap_or(output));
    let lines: Vec<_> = text.lines().map(visible).collect();
    lines.join("\n")
}

/// Who acts, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Consent<'a> {
    /// The operator's name; without it, the command takes that of the system's account.
    pub by: Option<&'a str>,
    /// Why; empty if nothing was written.
    pub reason: &'a str,
}

impl Consent<'_> {
    fn options(self) -> impl Iterator<Item = String> {
        // Joined, because a value may start like an option.
        let reason = Some(self.reason.trim()).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!("--reason={reason}"));
        reason.into_iter().chain(self.by.map(|by| format!("--by={by}")))
    }
}

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterAct {
    /// They go back to their source queue.
    Redrive,
    /// They are deleted, after they were written to a file.
    Drop,
}

impl LetterAct {
    /// The subcommand of `learnink dlq`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Drop => "drop",
        }
    }
}

/// The command that acts on the letters of `id_or_cause`: a message id, an SQS message id, or the name of a cause.
pub fn letters(act: LetterAct, id_or_cause: &str, consent: Consent<'_>) -> Vec<String> {
    let mut arguments = words(["dlq", act.name(), id_or_cause, "--yes"]);
    arguments.extend(consent.options());
    arguments
}

/// The command that opens a replay window for one message.
pub fn replay(message_id: &str, consent: Consent<'_>) -> Vec<String> {
    let mut arguments = words(["replay", "open"]);
    arguments.push(format!("--message={message_id}"));
    arguments.extend(consent.options());
    arguments
}

/// The command that closes a replay window.
pub fn close(window: &str, by: Option<&str>) -> Vec<String> {
    let mut arguments = words(["replay", "close", window]);
    arguments.extend(Consent { by, reason: "" }.options());
    arguments
}

/// The command that lists the replay windows that are open.
pub fn windows() -> Vec<String> {
    words(["replay", "list", "--json"])
}

/// The command that lists the causes.
pub fn causes() -> Vec<String> {
    words(["dlq", "causes", "--json"])
}

/// The command that shows what the ledger knows of a message.
pub fn show(message_id: &str) -> Vec<String> {
    words(["show", message_id, "--json"])
}

/// The command that lists the acts of the last 30 days.
pub fn acts() -> Vec<String> {
    words(["acts", "--json"])
}

/// The command that judges a signature, at the time when the request arrived, and the request as its input.
pub fn verify(facts: &RequestFacts, content: &Content) -> (Vec<String>, Vec<u8>) {
    let mut arguments = words(["verify", "-", "--json"]);
    arguments.push(format!("--now={}", facts.at));
    let mut input = format!("{} {} HTTP/1.1\r\n", facts.method, facts.path).into_bytes();
    for (name, value) in &content.headers {
        input.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    input.extend_from_slice(b"\r\n");
    input.extend_from_slice(&content.body);
    (arguments, input)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// A cause, as `learnink dlq causes --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The short name.
    pub name: String,
    /// The handler that failed, if one ran.
    pub handler: Option<String>,
    /// The reason, without what varies.
    pub reason: String,
    /// How many letters have it.
    pub count: u64,
    /// The types of their events.
    pub types: Vec<String>,
    /// When the receiver accepted the oldest of them.
    pub oldest: Option<Timestamp>,
}

/// What the ledger and the queues know of a message, as `learnink show --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where it stands, in a sentence.
    pub state: String,
    /// The handlers that are done.
    pub done: Vec<String>,
    /// The handlers that have run again, with their replay windows.
    pub again: Vec<String>,
    /// The replay windows that are open for it.
    pub windows: Vec<String>,
    /// What is known of its way, by time.
    pub timeline: Vec<Moment>,
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// What, in words.
    pub what: String,
}

/// A diagnosis, as `learnink verify --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Whether the receiver accepts it.
    pub verified: bool,
    /// Such as `verified` or `mistaken`.
    pub verdict: String,
    /// The receiver's checks, in their order.
    pub checks: Vec<Check>,
    /// What is wrong with it, if that is known.
    pub mistakes: Vec<Mistake>,
    /// What to look at next.
    pub advice: Vec<String>,
}

/// One check of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is checked.
    pub check: String,
    /// `ok`, `failed`, `not_judged` or `not_reached`.
    pub result: String,
    /// More, in words.
    pub detail: Option<String>,
}

/// Something without which the signature matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// What is wrong.
    pub explanation: String,
    /// What mends it.
    pub remedy: String,
}

#[cfg(test)]
mod tests {
    use super::super::history::Entry;
    use super::super::history::tests::{SIGNATURE, request};
    use super::*;

    #[test]
    fn acts_are_lines_that_can_be_typed() {
        let consent = Consent { by: Some("Zoë"), reason: "  --the \"secret\" is stored " };
        assert_eq!(
            line(&letters(LetterAct::Redrive, "3f9a1b", consent)),
            "cargo learnink dlq redrive 3f9a1b --yes '--reason=--the \"secret\" is stored' '--by=Zoë'"
        );
        assert_eq!(
            line(&letters(LetterAct::Drop, "msg_1", Consent::default())),
            "cargo learnink dlq drop msg_1 --yes"
        );
        let because = Consent { by: None, reason: "lost" };
        assert_eq!(
            line(&replay("msg_1", because)),
            "cargo learnink replay open '--message=msg_1' '--reason=lost'"
        );
        assert_eq!(line(&close("1f0c", Some("zoe"))), "cargo learnink replay close 1f0c '--by=zoe'");
    }

    #[test]
    fn a_signature_is_judged_at_its_time_and_goes_through_standard_input() {
        let Entry::Request(request) = request(0, "msg_1", 200) else { unreachable!() };
        let (arguments, input) = verify(&request.facts, &request.content);
        assert_eq!(line(&arguments), "cargo learnink verify - --json '--now=2026-01-01T00:00:00Z'");
        let input = String::from_utf8(input).unwrap();
        let start = "POST /webhooks/learnink HTTP/1.1\r\nsvix-id: msg_1\r\nsvix-timestamp: 1767225600\r\n";
        assert!(input.starts_with(start), "{input}");
        assert!(input.contains(&format!("svix-signature: {SIGNATURE}\r\n\r\n{{\n")), "{input}");
    }

    #[test]
    fn an_output_is_shown_without_control_characters_and_not_without_end() {
        let arguments = ["acts".to_owned()];
        let output = CommandOutput {
            exit_code: 1,
            stdout: b"a\x1b[2J\nb\xff\n".to_vec(),
            stderr: vec![b'x'; 1 << 20],
        };
        let ran = Ran::new(&arguments, &output);
        assert_eq!(ran.stdout, "a\\u{1b}[2J\nb\u{fffd}");
        assert_eq!(ran.stderr.len(), MOST_SHOWN);
    }
}
