//! `learnink doctor` on a deployed stack: what is broken is found, and the remedy that is printed mends it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use learnink_tests::engine::{Engine, ministack_endpoint};
use learnink_tests::serve;
use serde_json::{Value, json};

use crate::command::{create_stack, in_aws, send_message, text};
use crate::deploy_page::{stand_ins, write_program};
use crate::deployed::{Stack, boto3, build, venv, with_aws};
use crate::recorded::Recorded;
use crate::status;

const STACK: &str = "doctor-test";

/// The actions of IAM that `doctor` and `status` need on a stack without a push sender.
pub(crate) const ACTIONS: [&str; 16] = [
    "cloudformation:DescribeStacks",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:GetMetricData",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PartiQLInsert",
    "dynamodb:PartiQLUpdate",
    "dynamodb:UpdateItem",
    "lambda:GetAccountSettings",
    "lambda:GetAlias",
    "lambda:GetFunctionConcurrency",
    "lambda:GetFunctionConfiguration",
    "lambda:ListEventSourceMappings",
    "secretsmanager:GetSecretValue",
    "sns:ListSubscriptionsByTopic",
    "sqs:GetQueueAttributes",
];

/// Something that is broken in a stack.
struct Break {
    /// The check that finds it.
    check: &'static str,
    /// Lines of Python that break it.
    code: &'static str,
    /// What a person types into the remedy.
    typed: &'static str,
}

const fn broken(check: &'static str, code: &'static str) -> Break {
    Break { check, code, typed: "" }
}

/// A topic without a subscription, and a dead letter, are two more.
const BREAKS: &[Break] = &[
    broken("mapping", "aws('lambda').update_event_source_mapping(UUID=mapping(), Enabled=False)"),
    broken("mapping", "aws('lambda').update_event_source_mapping(UUID=mapping(), FunctionResponseTypes=[])"),
    broken("mapping", "aws('lambda').delete_event_source_mapping(UUID=mapping())"),
    broken(
        "queue",
        "aws('sqs').set_queue_attributes(QueueUrl=outputs['QueueUrl'], Attributes={'VisibilityTimeout': '30'})",
    ),
    broken(
        "queue",
        "policy = json.dumps({'deadLetterTargetArn': outputs['DeadLetterQueueArn'], 'maxReceiveCount': '3'})
aws('sqs').set_queue_attributes(QueueUrl=outputs['QueueUrl'], Attributes={'RedrivePolicy': policy})",
    ),
    broken(
        "concurrency",
        "aws('lambda').put_function_concurrency(FunctionName=consumer, ReservedConcurrentExecutions=0)",
    ),
    broken(
        "signing-secret",
        "aws('secretsmanager').delete_secret(SecretId=outputs['SigningSecretName'], RecoveryWindowInDays=7)",
    ),
    broken(
        "receiver",
        "code = io.BytesIO()
with zipfile.ZipFile(code, 'w') as archive:
    archive.writestr('bootstrap', 'placeholder')
version = aws('lambda').update_function_code(FunctionName=receiver, ZipFile=code.getvalue(), Publish=True)['Version']
aws('lambda').update_alias(FunctionName=receiver, Name='live', FunctionVersion=version)",
    ),
    broken("consumer", "aws('lambda').delete_alias(FunctionName=consumer, Name='live')"),
];

/// A deployed stack, and a folder that looks like a checkout.
struct Patient {
    stack: Stack,
    folder: tempfile::TempDir,
}

impl Patient {
    fn deploy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in [".aws-sam/build", "bin"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        build(&folder.path().join(".aws-sam/build"));
        for (name, script) in stand_ins(folder.path()) {
            write_program(&folder.path().join("bin").join(name), &script);
        }
        Self { stack: Stack::deploy(STACK), folder }
    }

    fn break_with(&self, code: &str) {
        let outputs = ["QueueUrl", "QueueArn", "DeadLetterQueueArn", "SigningSecretName"];
        let outputs: serde_json::Map<_, _> =
            outputs.map(|name| (name.to_owned(), json!(self.stack.output(name)))).into_iter().collect();
        boto3(&format!(
            "import io, zipfile
aws = boto3.client
outputs = json.loads('{}')
receiver, consumer = '{STACK}-receiver', '{STACK}-consumer'
def mapping():
    listed = aws('lambda').list_event_source_mappings(EventSourceArn=outputs['QueueArn'])
    return listed['EventSourceMappings'][0]['UUID']
{code}
print('null')",
            Value::Object(outputs)
        ));
    }

    /// What `doctor` prints as JSON, and its exit code.
    fn doctor(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        let all = [&["doctor", "--stack", self.stack.name(), "--json"], arguments].concat();
        let output = in_aws(&all).output().unwrap();
        let parsed = serde_json::from_slice(&output.stdout);
        (parsed.unwrap_or_else(|_| panic!("{}", text(&output.stderr))), output.status.code())
    }

    /// The only finding, and its check.
    fn only_finding(&self) -> (String, Value) {
        let (report, code) = self.doctor(&[]);
        let mut found = found_in(&report);
        assert_eq!((found.len(), code), (1, Some(1)), "{report:#}");
        found.remove(0)
    }

    /// Types a remedy into a terminal, as it is printed, and what it asks for.
    fn type_remedy(&self, finding: &Value, typed: &str) -> Output {
        let commands: Vec<_> = finding["remedy"]["commands"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap())
            .collect();
        assert!(!commands.is_empty(), "{finding}");
        // As they are printed without --json, too.
        let printed = in_aws(&["doctor", "--stack", self.stack.name(), "--no-event"]).output().unwrap();
        let printed = text(&printed.stdout);
        for command in &commands {
            assert!(printed.lines().any(|line| line.trim_start() == *command), "{command}: {printed}");
        }
        let script = self.folder.path().join("remedy");
        fs::write(&script, format!("PATH=$PWD/bin:$PATH\n{}\n", commands.join("\n"))).unwrap();
        in_terminal(with_aws(&venv("python")), &["bash", script.to_str().unwrap()], self.folder.path(), typed)
    }

    fn assert_healthy(&self, after: &str) {
        let (report, code) = self.doctor(&[]);
        assert_eq!((&report["healthy"], code), (&json!(true), Some(0)), "{after}: {report:#}");
        assert!(report["event"]["done_ms"].is_u64() && report["event"]["accepted_ms"].is_u64(), "{report:#}");
    }
}

/// Runs a program in a terminal of 40 columns.
fn in_terminal(mut python: Command, program: &[&str], folder: &Path, typed: &str) -> Output {
    let code = "
import fcntl, os, pty, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 40, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
os.write(terminal, sys.stdin.buffer.read())
while True:
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    if not read:
        break
    sys.stdout.buffer.write(read)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))";
    let input = folder.join("typed");
    fs::write(&input, typed).unwrap();
    python.args(["-c", code]).args(program).current_dir(folder);
    python.env("CARGO_PKG_NAME", "learnink-cli").env("USER", "kim").stdin(fs::File::open(input).unwrap());
    python.output().unwrap()
}

/// The findings of a report, each with its check.
fn found_in(report: &Value) -> Vec<(String, Value)> {
    let checks = report["checks"].as_array().unwrap().iter();
    let found = checks.flat_map(|check| {
        let name = check["check"].as_str().unwrap();
        check["findings"].as_array().unwrap().iter().map(move |found| (name.to_owned(), found.clone()))
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_broken_in_a_deployed_stack_is_one_finding_whose_remedy_mends_it() {
    let patient = tokio::task::spawn_blocking(Patient::deploy).await.unwrap();
    let engine = Engine::ministack().await;

    // Before the secret is stored, there is no event, and the command that stores it is named.
    let (report, code) = patient.doctor(&["--skip", "alarm-mail"]);
    let (check, secret) = found_in(&report).remove(0);
    assert_eq!((check.as_str(), code, &report["event"]), ("signing-secret", Some(1), &Value::Null));
    let put = format!("cargo learnink secret put --stack {STACK}");
    assert_eq!(secret["remedy"]["commands"], json!([put]));
    assert_eq!(
        report["checks"].as_array().unwrap().last().unwrap()["text"],
        "not sent, because of signing-secret"
    );
    patient.stack.store_secret();

    let topic = Break { check: "alarm-mail", code: "pass", typed: "oncall@example.com\n" };
    for Break { check, code, typed } in std::iter::once(&topic).chain(BREAKS) {
        patient.break_with(code);
        let (found, finding) = patient.only_finding();
        assert_eq!(found, *check, "{finding}");
        let typed = patient.type_remedy(&finding, typed);
        assert!(typed.status.success(), "{finding}: {}", text(&typed.stdout));
        patient.assert_healthy(code);
    }

    send_message(&engine, patient.stack.output("DeadLetterQueueUrl"), "msg_dead", &[]).await;
    status::it_says_that_a_letter_is_dead(&patient.stack);
    let (found, finding) = patient.only_finding();
    assert_eq!((found.as_str(), &finding["what"]), ("dead-letters", &json!("1 dead letter waits")));
    let typed = patient.type_remedy(&finding, "y\n");
    assert!(text(&typed.stdout).contains("1 of 1 dead letter redriven: done"), "{}", text(&typed.stdout));
    patient.assert_healthy("redrive");
    status::it_is_calm(&patient.stack);

    // What rings is found and does not stop the event. No command ends an alarm.
    let state = |state: &str| {
        let name = format!("{STACK}-handlers-fail");
        boto3(&format!(
            "boto3.client('cloudwatch').set_alarm_state(AlarmName='{name}', StateValue='{state}', StateReason='test')
print('null')"
        ));
    };
    state("ALARM");
    let (report, code) = patient.doctor(&[]);
    let found = found_in(&report);
    assert_eq!((found.len(), code), (1, Some(1)), "{report:#}");
    assert!(found[0].1["what"].as_str().unwrap().contains("handlers-fail rings since 2"), "{report:#}");
    assert!(found[0].1["remedy"]["note"].as_str().unwrap().starts_with("More than a tenth"), "{report:#}");
    assert!(report["event"]["done_ms"].is_u64(), "{report:#}");
    assert_eq!(patient.doctor(&["--skip", "alarms"]).1, Some(0));
    state("OK");

    let started = Instant::now();
    let (_, code) = patient.doctor(&["--no-event"]);
    assert!(started.elapsed() < Duration::from_secs(3) && code == Some(0), "{:?}", started.elapsed());
    no_other_right_is_needed(&patient).await;
    what_cannot_be_read_is_named(&patient).await;
    lines_are_never_broken_and_a_closed_output_is_no_error(&patient);
    tokio::task::spawn_blocking(move || drop(patient)).await.unwrap();
}

async fn no_other_right_is_needed(patient: &Patient) {
    let (recorded, endpoint) = Recorded::start().await;
    for command in ["doctor", "status"] {
        let mut command = in_aws(&[command, "--stack", patient.stack.name()]);
        let output = command.env("AWS_ENDPOINT_URL", &endpoint).output().unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
    let needed = recorded.actions();
    assert_eq!(needed.iter().map(String::as_str).collect::<Vec<_>>(), ACTIONS);
}

/// Between `learnink` and ministack: answers a call by itself.
#[derive(Clone)]
struct Between {
    /// A part of the path, the target or the form of that call, and the answer.
    answer: Arc<(&'static str, StatusCode, String)>,
    client: reqwest::Client,
}

async fn pass_on(
    State(between): State<Between>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = headers.get("x-amz-target").map(|target| target.to_str().unwrap()).unwrap_or_default();
    let asked = format!("{uri} {target} {}", String::from_utf8_lossy(&body));
    let (part, status, answer) = &*between.answer;
    if asked.contains(part) {
        return (*status, answer.clone()).into_response();
    }
    let request = between.client.request(method, format!("{}{uri}", ministack_endpoint()));
    let headers = headers.iter().filter(|(name, _)| *name != "host");
    let request = headers.fold(request, |request, (name, value)| request.header(name, value));
    let answer = request.body(body).send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = (status, answer.bytes().await.unwrap()).into_response();
    for (name, value) in
        headers.iter().filter(|(name, _)| !["content-length", "transfer-encoding"].contains(&name.as_str()))
    {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

async fn between(answer: (&'static str, StatusCode, String)) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let state = Between { answer: Arc::new(answer), client };
    serve(Router::new().fallback(pass_on).with_state(state)).await
}

async fn what_cannot_be_read_is_named(patient: &Patient) {
    let denied = || (StatusCode::FORBIDDEN, r#"{"__type":"AccessDeniedException"}"#.to_owned());
    let denied_xml =
        "<ErrorResponse><Error><Code>AuthorizationError</Code><Message>kim</Message></Error></ErrorResponse>";
    let pending = "<ListSubscriptionsByTopicResponse><ListSubscriptionsByTopicResult><Subscriptions><member>
        <SubscriptionArn>PendingConfirmation</SubscriptionArn></member></Subscriptions>
        </ListSubscriptionsByTopicResult></ListSubscriptionsByTopicResponse>";
    let limit = r#"{"AccountLimit":{"ConcurrentExecutions":10,"UnreservedConcurrentExecutions":10}}"#;
    let not_read = |action: &str| format!("not read: the credentials may not call {action}");
    let cases = [
        ("/concurrency", denied(), "concurrency", not_read("lambda:GetFunctionConcurrency")),
        ("/account-settings", denied(), "concurrency", not_read("lambda:GetAccountSettings")),
        ("event-source-mappings", denied(), "mapping", not_read("lambda:ListEventSourceMappings")),
        (".DescribeAlarms", denied(), "alarms", not_read("cloudwatch:DescribeAlarms")),
        (
            "ListSubscriptionsByTopic",
            (StatusCode::FORBIDDEN, denied_xml.to_owned()),
            "alarm-mail",
            not_read("sns:ListSubscriptionsByTopic"),
        ),
        (".GetSecretValue", denied(), "signing-secret", not_read("secretsmanager:GetSecretValue")),
        (".DeleteItem", denied(), "ledger", not_read("dynamodb:DeleteItem")),
        (
            "ListSubscriptionsByTopic",
            (StatusCode::OK, pending.to_owned()),
            "alarm-mail",
            "the alarms reach nobody: 1 recipient did not follow the link that AWS mailed".to_owned(),
        ),
        (
            "/account-settings",
            (StatusCode::OK, limit.to_owned()),
            "concurrency",
            "the account runs 10 environments at once, and ReceiverConcurrency=200 needs 300: the next deploy fails"
                .to_owned(),
        ),
        (
            ".DescribeAlarms",
            (StatusCode::OK, "<html>".to_owned()),
            "alarms",
            "not read: cloudwatch:DescribeAlarms failed: AWS's answer cannot be read".to_owned(),
        ),
    ];
    for (part, (status, answer), check, expected) in cases {
        let endpoint = between((part, status, answer)).await;
        let mut command = in_aws(&["doctor", "--stack", STACK, "--json", "--no-event"]);
        command.env("AWS_ENDPOINT_URL", endpoint);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        let found = found_in(&report);
        assert_eq!(found.len(), 1, "{part}: {report:#}");
        assert_eq!((found[0].0.as_str(), &found[0].1["what"]), (check, &json!(expected)));
        assert_eq!(output.status.code(), Some(1));
    }
    // Without the first right, there is nothing to look at.
    let denied = (StatusCode::FORBIDDEN, denied_xml.to_owned());
    let endpoint = between(("DescribeStacks", denied.0, denied.1)).await;
    let output = in_aws(&["doctor", "--stack", STACK]).env("AWS_ENDPOINT_URL", endpoint).output().unwrap();
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: cannot find the stack {STACK} in us-east-1: the credentials may not call \
             cloudformation:DescribeStacks\n"
        )
    );
    assert_eq!(patient.stack.name(), STACK);
}

fn lines_are_never_broken_and_a_closed_output_is_no_error(patient: &Patient) {
    let folder = patient.folder.path();
    let program = learnink_tests::binaries::binary("learnink").to_str().unwrap();
    patient.break_with(
        "aws('lambda').put_function_concurrency(FunctionName=consumer, ReservedConcurrentExecutions=0)",
    );
    let arguments = [program, "doctor", "--stack", STACK, "--no-event"];
    let shown = in_terminal(with_aws(&venv("python")), &arguments, folder, "");
    let shown = text(&shown.stdout);
    let command = format!(
        "    aws --region us-east-1 lambda delete-function-concurrency --function-name {STACK}-consumer\r\n"
    );
    assert!(shown.contains(&command) && shown.contains("\u{1b}[31m✗"), "{shown}");
    let mut plain = in_aws(&["doctor", "--stack", STACK, "--no-event"]);
    let plain = text(&plain.output().unwrap().stdout);
    assert!(plain.contains("✗ concurrency") && !plain.contains('\u{1b}'), "{plain}");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = in_aws(&["doctor", "--stack", STACK, "--no-event"]).stdout(full).output().unwrap();
    assert!(
        text(&output.stderr).starts_with("error: cannot print: No space left"),
        "{}",
        text(&output.stderr)
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut closed = in_aws(&["doctor", "--stack", STACK, "--no-event"]);
    let output = closed.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_of_an_older_version_has_one_finding_and_nothing_is_sent() {
    let engine = Engine::ministack().await;
    let ledger = engine.table("message_id", None).await;
    let name = format!("stack-{ledger}-of-an-older-version");
    create_stack(&name, &[("LedgerTableName", &ledger)]);
    let output = in_aws(&["doctor", "--stack", &name]).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(said.matches('✗').count(), 1, "{said}");
    assert!(said.contains("it has no output WebhookUrl, SigningSecretName, QueueUrl,"), "{said}");
    assert!(said.contains("- event          not sent, because of outputs"), "{said}");
    assert!(said.contains("✓ ledger "), "{said}");
    assert_eq!(output.status.code(), Some(1));

    // In another region, there is no such stack.
    let mut elsewhere = in_aws(&["doctor", "--stack", &name]);
    let error = text(&elsewhere.env("AWS_REGION", "eu-west-9").output().unwrap().stderr);
    assert!(
        error.contains("in eu-west-9: it does not exist; check its name, the region and the profile"),
        "{error}"
    );

    // Nobody listens there.
    let (nowhere, url) = (format!("{name}-nowhere"), "http://127.0.0.1:1/webhooks/learnink".to_owned());
    create_stack(&nowhere, &[("WebhookUrl", &url)]);
    let said = text(&in_aws(&["doctor", "--stack", &nowhere]).output().unwrap().stdout);
    assert!(said.contains(&format!("✗ url            {url} does not answer: ")), "{said}");
    assert!(said.contains(&format!("    curl -i -X POST {url}\n")), "{said}");

    let output = in_aws(&["doctor"]).output().unwrap();
    assert!(text(&output.stderr).starts_with("`doctor` is about a deployed stack: name it with --stack; "));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(in_aws(&["doctor", "--skip", "nothing"]).output().unwrap().status.code(), Some(2));
}
