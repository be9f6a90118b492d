//! `learnink tail` on ministack's CloudWatch Logs.

use std::process::Stdio;

use learnink_tests::signing::now_s;
use serde_json::json;

use crate::command::{create_stack, error_of, in_aws, in_aws_cli, text};
use crate::recorded::Recorded;

/// The actions of IAM that the command needs.
pub(crate) const ACTIONS: [&str; 2] = ["cloudformation:DescribeStacks", "logs:FilterLogEvents"];

fn aws(arguments: &[&str]) {
    let output = in_aws_cli(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Writes log lines of a function, a second apart.
fn write(group: &str, lines: &[serde_json::Value]) {
    aws(&["logs", "create-log-group", "--log-group-name", group]);
    aws(&["logs", "create-log-stream", "--log-group-name", group, "--log-stream-name", "s"]);
    let first = (now_s() - 60) * 1000;
    let events = lines
        .iter()
        .zip(0_i64..)
        .map(|(line, number)| json!({ "timestamp": first + 1000 * number, "message": line.to_string() }));
    let events = json!(events.collect::<Vec<_>>()).to_string();
    let stream = ["--log-group-name", group, "--log-stream-name", "s"];
    aws(&[&["logs", "put-log-events"], &stream[..], &["--log-events", &events]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_both_functions_are_joined_and_filtered() {
    let names = ["tail-receiver", "tail-consumer"].map(str::to_owned);
    create_stack("tail", &[("ReceiverFunctionName", &names[0]), ("ConsumerFunctionName", &names[1])]);
    let (recorded, endpoint) = Recorded::start().await;
    let tail = |options: &[&str]| {
        let mut command =
            in_aws(&[&["tail", "--stack", "tail", "--since", "1h ago", "--no-follow"], options].concat());
        let output = command.env("AWS_ENDPOINT_URL", &endpoint).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(tail(&[]), "", "a function that has never run has no log group");

    let accepted = |id: &str| json!({ "outcome": "accepted", "message.id": id, "event.type": "a.b", "verify_us": 85, "EnqueueTime": 4.0 });
    write("/aws/lambda/tail-receiver", &[accepted("msg_1"), accepted("msg_2"), json!({ "record": {} })]);
    let consumed = |outcome: &str, id: &str| json!({ "outcome": outcome, "message.id": id, "event.type": "a.b", "handler": "push", "reason": "busy", "retry_in_s": 30 });
    write("/aws/lambda/tail-consumer", &[consumed("processed", "msg_1"), consumed("retry", "msg_2")]);
    let all = tail(&[]);
    let lines: Vec<_> = all.lines().collect();
    assert_eq!(lines.len(), 2, "{all}");
    assert!(
        lines[0].contains(" ✓ a.b ")
            && lines[0].contains("msg_1  verified in 85 µs, queued in 4.0 ms, handled"),
        "{all}"
    );
    assert!(lines[1].contains("comes back in 30 s: push: busy"), "{all}");
    assert_eq!(tail(&["--outcome", "retry"]).lines().count(), 1);
    assert_eq!(tail(&["--message", "msg_1"]).lines().count(), 1);
    assert_eq!(tail(&["--type", "c.d"]), "");
    assert_eq!(tail(&["--json", "--outcome", "retry"]).lines().count(), 1);
    assert_eq!(recorded.actions().iter().map(String::as_str).collect::<Vec<_>>(), ACTIONS);
}

#[test]
fn what_keeps_it_from_reading_is_one_clear_line() {
    let no_stack = in_aws(&["tail"]).output().unwrap();
    assert_eq!(no_stack.status.code(), Some(2));
    assert!(text(&no_stack.stderr).starts_with("`tail` is about a deployed stack: name it with --stack"));
    create_stack("tail-of-older-version", &[]);
    let error = error_of(&mut in_aws(&["tail", "--stack", "tail-of-older-version"]));
    assert!(error.contains("has no output ReceiverFunctionName: "), "{error}");
    let error = error_of(&mut in_aws(&["tail", "--stack", "tail-of-older-version", "--since", "2999-01-01"]));
    assert!(error.contains("ReceiverFunctionName") || error.contains("--since cannot be used"), "{error}");
}

#[test]
fn it_follows_until_ctrl_c_and_a_closed_output_is_no_error() {
    let names = ["follow-receiver", "follow-consumer"].map(str::to_owned);
    create_stack("follow", &[("ReceiverFunctionName", &names[0]), ("ConsumerFunctionName", &names[1])]);
    let mut tail = in_aws(&["tail", "--stack", "follow"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let process = tail.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &process]).status().unwrap().success());
    assert_eq!(tail.wait().unwrap().code(), Some(0));
}
