//! `learnink status`, on the laptop and on a deployed stack.

use std::time::{Duration, Instant};

use learnink_tests::signing::now_s;
use serde_json::{Value, json};

use crate::command::{Dev, create_stack, in_aws, learnink, text};
use crate::deployed::{Stack, boto3};

#[test]
fn on_a_laptop_it_shows_what_waits_and_why_letters_are_dead() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let status = |arguments: &[&str]| {
        let all = [&["status", "--state", &dev.folder], arguments].concat();
        let output = learnink(&all).output().unwrap();
        (text(&output.stdout), output.status.code())
    };
    let (shown, code) = status(&[]);
    assert!(shown.starts_with(&format!("the pipeline of `learnink dev` ({})\n", dev.folder)), "{shown}");
    for part in ["waiting        no messages", "dead letters   none", "signing secret 1 current, no previous"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("alarms") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(code, Some(0));

    assert!(dev.send(&["--id", "msg_1", "events/not-json.txt"]).status.success());
    dev.line_with("msg_1");
    let (shown, code) = status(&[]);
    let next = format!("1; next: cargo learnink dlq causes --state {}\n", dev.folder);
    assert!(shown.contains(&format!("dead letters   {next}")), "{shown}");
    assert!(shown.contains(" the body is not JSON (line …, column …)\n"), "{shown}");
    assert_eq!(code, Some(1));
    let (printed, code) = status(&["--json"]);
    let json: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&json["dead_letters"]["count"], code), (&json!(1), Some(1)));
    assert_eq!(json["dead_letters"]["sample"]["causes"][0]["count"], 1);
    assert_eq!((&json["alarms"], &json["queue"]["waiting"]), (&Value::Null, &json!(0)));

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = learnink(&["status", "--state", &dev.folder]).stdout(full).output().unwrap();
    assert!(
        text(&output.stderr).starts_with("error: cannot print: No space left"),
        "{}",
        text(&output.stderr)
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = learnink(&["status", "--state", &dev.folder]).stdout(writer).output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(1)));

    let state = dev.folder.clone();
    drop(dev);
    let output = learnink(&["status", "--state", &state]).output().unwrap();
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: `learnink dev` is not running in {state}; start `cargo dev`, or name a deployed stack with \
             --stack\n"
        )
    );
    assert_eq!(output.status.code(), Some(1));
}

/// What is printed about a stack, and the exit code.
fn of_stack(stack: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let output = in_aws(&[&["status", "--stack", stack], arguments].concat()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    (text(&output.stdout), output.status.code())
}

/// A deployed stack without a dead letter.
pub(crate) fn it_is_calm(stack: &Stack) {
    boto3(&format!(
        "def put(name, value, minutes_ago):
    boto3.client('cloudwatch').put_metric_data(Namespace='LearnInkWebhooks', MetricData=[dict(
        MetricName=name, Value=value, Timestamp={} - 60 * minutes_ago,
        Dimensions=[dict(Name='function', Value='{}')])])
for minutes_ago in (7, 9, 11):
    put('Accepted', 1, minutes_ago), put('Refused', 0, minutes_ago)
put('Refused', 1, 8)
print('null')",
        now_s(),
        stack.output("ReceiverFunctionName")
    ));
    let started = Instant::now();
    let (shown, code) = of_stack(stack.name(), &[]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(shown.starts_with(&format!("the stack {} in us-east-1\nwaiting  ", stack.name())), "{shown}");
    for part in ["dead letters   none", "alarms         none rings", "receiver       version ", "m ago\n"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("refused        25.0% of 4 requests in the last 24 hours\n"), "{shown}");
    assert_eq!(code, Some(0), "{shown}");
    let (printed, _) = of_stack(stack.name(), &["--json"]);
    let json: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&json["metrics"]["requests"], &json["alarms"]), (&json!(4.0), &json!([])));
    assert!(
        json["metrics"]["last_accepted"].is_string() && json["consumer"]["version"].is_string(),
        "{json:#}"
    );
    assert_eq!(json["signing_secrets"]["current"], 1);
}

/// A deployed stack with one dead letter.
pub(crate) fn it_says_that_a_letter_is_dead(stack: &Stack) {
    let started = Instant::now();
    let (shown, code) = of_stack(stack.name(), &[]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let next = format!("dead letters   1; next: cargo learnink dlq causes --stack {}\n", stack.name());
    assert!(shown.contains(&next) && shown.contains("no consumer has claimed it"), "{shown}");
    assert_eq!(code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_of_an_older_version_shows_what_it_has() {
    let engine = learnink_tests::engine::Engine::ministack().await;
    let ledger = engine.table("message_id", None).await;
    let name = format!("stack-{ledger}-without-a-queue");
    create_stack(&name, &[("LedgerTableName", &ledger)]);
    let (shown, code) = of_stack(&name, &[]);
    assert!(shown.contains("waiting        not read: the stack has no output QueueUrl\n"), "{shown}");
    assert!(shown.contains("alarms         not read: the stack has no output AlarmTopicArn\n"), "{shown}");
    assert_eq!(code, Some(1));
    let error = in_aws(&["status", "--stack", "none"]).output().unwrap();
    assert!(
        text(&error.stderr).starts_with("error: cannot find the stack none in us-east-1: it does not exist;")
    );
}
