//! From the alarm to the repair, on the real template on ministack: dead letters of three causes, of which one is put
//! right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::Value;

use crate::command::{in_aws, text};
use crate::deployed::{Stack, venv};
use crate::push::{Endpoint, Fate, OTHER_SECRET, SECRET, now, sent};
use crate::records::{events, patience};

const STACK: &str = "letters-test";

/// Each message starts a receiver and a consumer, and ministack starts them one after another.
const PATIENCE: Duration = Duration::from_mins(5);

/// Parts of what every notification here carries, and of every secret. No output has them.
const HIDDEN: [&str; 5] = ["254705", "Mary", "training", "MfKQ9r8G", "C2FVsBQI"];

/// Runs a program on a terminal, after a line with its process id. Types a yes at its question.
const ANSWERED_YES: &str = r"
import os, pty, sys
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], sys.argv[1:])
print(process, flush=True)
printed, is_answered = b'', False
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    if not part:
        break
    printed += part
    if not is_answered and b'[y/N]' in printed:
        os.write(terminal, b'y\n')
        is_answered = True
sys.stdout.buffer.write(printed)
";

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nothing: only the stored secret of the push sender is wrong.
    Secret,
    /// One notification of two has a path that is none.
    Path,
    /// The body is not JSON.
    Body,
}

impl Trouble {
    /// That of message `number`: seven of ten need only the secret.
    const fn of(number: u32) -> Self {
        match number % 10 {
            0..7 => Self::Secret,
            7..9 => Self::Path,
            _ => Self::Body,
        }
    }

    /// The reason of its cause.
    const fn reason(self) -> &'static str {
        match self {
            Self::Secret => {
                "… of … items failed, the first: the endpoint answered 401; check LEARNINK_PUSH_SECRET, or the secret \
                 that LEARNINK_PUSH_SECRET_ID names"
            }
            Self::Path => {
                "… of … items will never succeed (…), item …: `path` is not a path: one `/` first, then no `\\` and \
                 no control characters"
            }
            Self::Body => "the body is not JSON (line …, column …)",
        }
    }

    fn body(self) -> String {
        let list = sent(1, now());
        match self {
            Self::Secret => list,
            Self::Path => list.replace(r#""/learning""#, r#""https://elsewhere.test""#),
            Self::Body => "no event".to_owned(),
        }
    }
}

fn id(number: u32) -> String {
    format!("msg_{number}")
}

/// A stack whose notifications go to an endpoint of ours.
struct Desk {
    stack: Stack,
    endpoint: Endpoint,
}

impl Desk {
    /// Its endpoint accepts [`SECRET`], and the stack holds another.
    fn deploy() -> Self {
        let endpoint = Endpoint::start(|| Fate::Taken);
        let push = format!("Push=endpoint PushUrl={}", endpoint.url());
        // Between two deliveries of seven pass up to hours. The endpoint is on this machine, where the handler takes
        // plain HTTP.
        let edits =
            [(r#"MaxReceiveCount: "7""#, r#"MaxReceiveCount: "2""#), ("(https://.+)?", "(http://.+)?")];
        let edit = |template: String| {
            edits.iter().fold(template, |template, (from, to)| {
                assert!(template.contains(from), "{from}");
                template.replace(from, to)
            })
        };
        let desk = Self { stack: Stack::deploy_edited(STACK, &push, edit), endpoint };
        desk.stack.store_secret();
        desk.put_push_secret(OTHER_SECRET, &[]);
        desk
    }

    fn put_push_secret(&self, secret: &str, options: &[&str]) {
        let put = ["secret", "put", "push", "--stack", self.stack.name(), "--by", "kim"];
        let mut put = in_aws(&[&put, options].concat());
        put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut put = put.spawn().unwrap();
        put.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
        let said = output(&put.wait_with_output().unwrap());
        assert!(said.contains("secret push: stored"), "{said}");
    }

    /// What a command prints, which has nothing personal in it.
    fn said(&self, command: &[&str]) -> String {
        output(&in_aws(&[command, &["--stack", self.stack.name()]].concat()).output().unwrap())
    }

    fn json(&self, command: &[&str]) -> Value {
        let output = in_aws(&[command, &["--stack", self.stack.name(), "--json"]].concat()).output().unwrap();
        let parsed = serde_json::from_slice(&output.stdout);
        parsed.unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)))
    }

    /// How many letters each reason has, and the short name of its cause.
    fn causes(&self) -> BTreeMap<String, (u64, String)> {
        let causes = self.json(&["dlq", "causes"]);
        let cause = |cause: &Value| {
            let named = ["reason", "name"].map(|name| cause[name].as_str().unwrap().to_owned());
            let [reason, name] = named;
            (reason, (cause["count"].as_u64().unwrap(), name))
        };
        causes.as_array().unwrap().iter().map(cause).collect()
    }

    /// Waits until there are so many letters; their causes.
    fn wait_for_letters(&self, wanted: usize) -> BTreeMap<String, (u64, String)> {
        wait_for("the letters", || {
            let causes = self.causes();
            (causes.values().map(|(count, _)| *count).sum::<u64>() == wanted as u64).then_some(causes)
        })
    }
}

/// Both streams of a command.
fn output(output: &Output) -> String {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(HIDDEN.iter().all(|hidden| !said.contains(hidden)), "{said}");
    said
}

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a person sees who redrives one cause on a terminal, and answers the question with yes. It is killed once the
/// endpoint has accepted so many notifications; `None` if it ended before.
fn redrive_until_killed(desk: &Desk, cause: &str, accepted: usize) -> Option<String> {
    let learnink =
        in_aws(&["dlq", "redrive", cause, "--stack", STACK, "--by", "kim", "--reason", "secret stored"]);
    let mut terminal = Command::new(venv("python"));
    terminal.args(["-c", ANSWERED_YES]).arg(learnink.get_program()).args(learnink.get_args());
    for (name, value) in learnink.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    let mut terminal = terminal.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(terminal.stdout.take().unwrap());
    let mut process = String::new();
    stdout.read_line(&mut process).unwrap();
    let is_over = wait_for("some notifications", || {
        let is_over = terminal.try_wait().unwrap().is_some();
        (is_over || desk.endpoint.taken().len() >= accepted).then_some(is_over)
    });
    if !is_over {
        let killed = Command::new("kill").args(["-KILL", process.trim()]).status().unwrap();
        assert!(killed.success());
    }
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).unwrap();
    terminal.wait().unwrap();
    let said = text(&said);
    if is_over {
        // Each environment of the consumer has the secret of before until the endpoint has refused it once. So a first
        // try may fail, and the person tries again.
        assert!(said.contains("stopped, because msg_"), "{said}");
        return None;
    }
    Some(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_leads_to_the_causes_and_the_repair_of_one_does_each_of_its_messages_once() {
    // So many that the rest takes two seconds, in which the command can be killed.
    let all = events(60);
    let desk = tokio::task::spawn_blocking(Desk::deploy).await.unwrap();
    let post = async |number| {
        let body = Trouble::of(number).body();
        assert_eq!(desk.stack.post(&id(number), &body, &body).await, StatusCode::OK);
    };
    // First those that never succeed. Once the endpoint has refused the others, the circuit breaker is open, and hides
    // what else is wrong with a message.
    let (secret, other): (Vec<_>, Vec<_>) =
        (0..all).partition(|number| Trouble::of(*number) == Trouble::Secret);
    stream::iter(&other).for_each_concurrent(4, async |number| post(*number).await).await;
    tokio::task::block_in_place(|| desk.wait_for_letters(other.len()));
    stream::iter(&secret).for_each_concurrent(4, async |number| post(*number).await).await;
    tokio::task::spawn_blocking(move || repair(&desk, all)).await.unwrap();
}

fn repair(desk: &Desk, all: u32) {
    let with = |trouble: Trouble| (0..all).filter(move |number| Trouble::of(*number) == trouble);
    let count = |trouble: Trouble| u64::try_from(with(trouble).count()).unwrap();
    let causes = desk.wait_for_letters(all as usize);
    let counts: BTreeMap<_, _> =
        causes.iter().map(|(reason, (count, _))| (reason.as_str(), *count)).collect();
    let troubles = [Trouble::Secret, Trouble::Path, Trouble::Body];
    assert_eq!(counts, troubles.map(|trouble| (trouble.reason(), count(trouble))).into());
    let said = desk.said(&["dlq", "causes"]);
    assert!(said.contains(&format!("{all} dead letters in the queue ")), "{said}");
    assert_eq!(desk.endpoint.taken(), Vec::<String>::new());

    desk.put_push_secret(SECRET, &["--replace", "--yes"]);
    let (_, cause) = &causes[Trouble::Secret.reason()];
    let wanted = with(Trouble::Secret).count();
    let said = wait_for("a first try that is done", || redrive_until_killed(desk, cause, wanted / 3));
    assert!(said.contains(" is done") && said.contains(", at 20 a second"), "{said}");
    let accepted = desk.endpoint.taken().len();
    assert!(accepted < wanted, "everything was sent before the kill");

    // What the killed one has hidden comes back within half a minute.
    let said = wait_for("the rest", || {
        let said = desk.said(&["dlq", "redrive", cause, "--by", "lee", "--yes"]);
        let taken: BTreeSet<_> = desk.endpoint.taken().into_iter().collect();
        (taken.len() == wanted).then_some(said)
    });
    let mut taken = desk.endpoint.taken();
    taken.sort_unstable();
    let mut expected: Vec<_> = with(Trouble::Secret).map(|number| format!("{}/push/0", id(number))).collect();
    expected.sort_unstable();
    assert_eq!(taken, expected, "{said}");

    // The others are where they were.
    let left = wait_for("the end of the redrive", || {
        let causes = desk.causes();
        (!causes.contains_key(Trouble::Secret.reason())).then_some(causes)
    });
    for trouble in [Trouble::Path, Trouble::Body] {
        assert_eq!(left[trouble.reason()], causes[trouble.reason()]);
    }
    let acts = desk.json(&["acts"]);
    let acts: Vec<_> = acts.as_array().unwrap().iter().collect();
    let named: Vec<_> = acts.iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(named[..3], ["secret put", "secret put", "redrive"]);
    let killed = acts.iter().find(|act| act["ended_at"].is_null()).unwrap();
    let facts = ["action", "by", "filter", "reason"].map(|name| killed[name].as_str().unwrap());
    assert_eq!(facts, ["redrive", "kim", cause, "secret stored"]);
    assert_eq!(acts.last().unwrap()["by"], "lee");
}
