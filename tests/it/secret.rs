//! `learnink secret`, as an operator types it: on ministack's Secrets Manager with the real receiver, and on a laptop.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use learnink_local::front::http_api_request;
use learnink_local::sdk_config;
use learnink_receiver::{GatewayEvent, Receiver, SigningSecrets, SqsQueue};
use learnink_tests::engine::{Engine, QueuePair, ministack_endpoint};
use learnink_tests::serve;
use learnink_tests::signing::{OTHER_SECRET, SECRET, now_s};
use serde_json::{Value, json};

use crate::command::{Dev, create_stack, error_of, in_aws, in_aws_cli, learnink, text};
use crate::deployed::venv;
use crate::recorded::Recorded;
use crate::records::drain;
use crate::verify::ON_A_TERMINAL;

/// The actions of IAM that the commands need.
pub(crate) const ACTIONS: [&str; 5] = [
    "cloudformation:DescribeStacks",
    "dynamodb:UpdateItem",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
];

/// The random secret of a template.
const RANDOM: &str = "k3JdP0aZ8sQwLx5VbNtR2mYcHg7UfEiT";

/// A third secret of LearnInk's.
const THIRD_SECRET: &str = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD";

/// The parts of the secrets that nothing may print.
const HIDDEN: [&str; 4] = ["MfKQ9r8G", "C2FVsBQI", "AAAAsBQI", "k3JdP0aZ"];

/// The fingerprints of [`SECRET`] and [`OTHER_SECRET`].
const FINGERPRINT: &str = "94bbb083";
const OTHER_FINGERPRINT: &str = "7bc24aa7";

/// How far the receiver's clock goes ahead with each request, so that it may read its secrets again at each.
const STEP_S: i64 = 31;

/// A stack with a signing secret and a receiver.
struct Desk {
    engine: Engine,
    stack: String,
    secret: String,
    queues: QueuePair,
}

/// The exit code, standard output and standard error of a command.
#[derive(Debug)]
struct Said(Option<i32>, String, String);

impl Desk {
    /// A stack whose secret has this value, and whose receiver is the real one.
    async fn new(value: &str) -> Self {
        let engine = Engine::ministack().await;
        let queues = engine.queues(30, 5).await;
        let ledger = engine.table("message_id", None).await;
        let secret = format!("{ledger}/signing_secret");
        aws(&["secretsmanager", "create-secret", "--name", &secret, "--secret-string", value]);
        let url = receiver(&secret, &queues.url).await;
        Self::with(engine, queues, &ledger, secret, &[("WebhookUrl", &url)])
    }

    fn with(
        engine: Engine,
        queues: QueuePair,
        ledger: &str,
        secret: String,
        outputs: &[(&str, &String)],
    ) -> Self {
        let stack = format!("stack-{ledger}");
        let own = [("SigningSecretName", &secret), ("LedgerTableName", &ledger.to_owned())];
        create_stack(&stack, &[&own[..], outputs].concat());
        Self { engine, stack, secret, queues }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = in_aws(&[&["secret"], arguments, &["--stack", &self.stack]].concat());
        command.env("USER", "kim");
        command
    }

    /// What a command says to this standard input.
    async fn run(&self, arguments: &[&str], input: &str) -> Said {
        said(self.command(arguments), input).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let Said(_, stdout, stderr) = self.run(&[arguments, &["--json"]].concat(), "").await;
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"))
    }

    /// The slots of the signing secret: slot, state, fingerprint.
    async fn slots(&self) -> Vec<[String; 3]> {
        signing_slots(self.json(&["status"]).await.as_array().unwrap())
    }

    /// The value of a stage, if there is one.
    fn value(&self, stage: &str) -> Option<String> {
        let get = ["secretsmanager", "get-secret-value", "--secret-id", &self.secret];
        let mut command = in_aws_cli(&[&get[..], &["--version-stage", stage]].concat());
        let output = command.args(["--query", "SecretString", "--output", "text"]).output().unwrap();
        output.status.success().then(|| text(&output.stdout).trim_end().to_owned())
    }

    /// The message ids on the queue, each once.
    async fn message_ids(&self) -> Vec<String> {
        let messages = drain(&self.engine, &self.queues.url).await;
        let mut ids: Vec<_> = messages
            .iter()
            .map(|message| {
                let attributes = message.message_attributes.as_ref().unwrap();
                attributes["svix-id"].string_value.clone().unwrap()
            })
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The acts: action, filter, outcome.
    async fn acts(&self) -> Vec<[String; 3]> {
        let command = in_aws(&["acts", "--json", "--stack", &self.stack]);
        let Said(_, stdout, _) = said(command, "").await;
        let acts: Vec<Value> = serde_json::from_str(&stdout).unwrap();
        let part = |act: &Value, name: &str| act[name].as_str().unwrap().to_owned();
        acts.iter().map(|act| ["action", "filter", "outcome"].map(|name| part(act, name))).collect()
    }
}

/// The slots of the signing secret in what `secret status` says: slot, state, fingerprint.
fn signing_slots(said: &[Value]) -> Vec<[String; 3]> {
    let slots = said.iter().filter(|slot| slot["secret"] == "signing");
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    slots.map(|slot| ["slot", "state", "fingerprint"].map(|name| text(&slot[name]))).collect()
}

/// `learnink dev` with [`SECRET`], which it keeps.
struct Laptop {
    dev: Dev,
    _folder: tempfile::TempDir,
}

impl Laptop {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("signing-secret"), format!("{SECRET}\n")).unwrap();
        Self { dev: Dev::start(folder.path()), _folder: folder }
    }

    /// What a command says to this standard input.
    async fn run(&self, arguments: &[&str], input: &str) -> Said {
        said(secret_in(&self.dev.folder, arguments), input).await
    }

    fn slots(&self) -> Vec<[String; 3]> {
        signing_slots(&self.dev.json("secret status"))
    }

    /// The answer to a webhook that is signed with this secret.
    fn answer_to(&self, secret: &str) -> String {
        text(&self.dev.send(&["--secret", secret]).stdout).chars().take(3).collect()
    }

    /// The acts: action, filter, place.
    fn acts(&self) -> Vec<[String; 3]> {
        let part = |act: &Value, name: &str| act[name].as_str().unwrap().to_owned();
        let acts = self.dev.json("acts");
        acts.iter().map(|act| ["action", "filter", "place"].map(|name| part(act, name))).collect()
    }
}

/// The command for the `learnink dev` in a folder.
fn secret_in(folder: &str, arguments: &[&str]) -> Command {
    let mut command = learnink(&[&["secret"], arguments, &["--state", folder]].concat());
    command.env("USER", "kim");
    command
}

/// Runs a command. Nothing that it says is secret.
async fn said(mut command: Command, input: &str) -> Said {
    let input = input.to_owned();
    let run = move || {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = pipes.spawn().unwrap();
        // It may have ended without reading.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        checked(&process.wait_with_output().unwrap())
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn checked(output: &Output) -> Said {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_not_secret(&format!("{stdout}{stderr}"));
    Said(output.status.code(), stdout, stderr)
}

fn assert_not_secret(said: &str) {
    assert!(HIDDEN.iter().all(|hidden| !said.contains(hidden)), "{said}");
}

/// The AWS CLI on ministack, which succeeds.
fn aws(arguments: &[&str]) {
    let output = in_aws_cli(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Starts a receiver that reads this secret, behind an API Gateway. Returns its URL.
async fn receiver(secret: &str, queue_url: &str) -> String {
    let aws = sdk_config(ministack_endpoint());
    let at = |ahead_s: i64| Timestamp::from_second(now_s() + ahead_s).unwrap();
    let secrets = SigningSecrets::load(&aws, secret, at(0)).await.unwrap();
    let receiver = Arc::new(Receiver::new(secrets, SqsQueue::new(&aws, queue_url)));
    let ahead_s = Arc::new(AtomicI64::new(0));
    server(move |request| {
        let (receiver, ahead_s) = (receiver.clone(), ahead_s.clone());
        async move {
            let now = at(ahead_s.fetch_add(STEP_S, Ordering::SeqCst));
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let event = http_api_request(&parts, &body, "1", now).to_string();
            let event: GatewayEvent = serde_json::from_str(&event).unwrap();
            let status = receiver.receive(event, now).await.outcome.answer().status_code;
            Response::builder().status(status).body(Body::empty()).unwrap()
        }
    })
    .await
}

/// Serves every path and method, and returns the URL of the webhook.
async fn server<F>(answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static) -> String
where
    F: Future<Output = Response> + Send + 'static,
{
    format!("{}/webhooks/learnink", serve(Router::new().fallback(answer)).await)
}

/// Answers every webhook with this status.
async fn answering(status: u16) -> String {
    server(move |_| async move { Response::builder().status(status).body(Body::empty()).unwrap() }).await
}

/// Secrets Manager, with something in between: an operation that is denied, or something that happens before it.
async fn secrets_manager(
    before: impl Fn(&str) -> Result<(), StatusCode> + Clone + Send + Sync + 'static,
) -> String {
    learnink_aws::install_tls_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = server(move |request| {
        let (client, before) = (client.clone(), before.clone());
        async move {
            let target = request.headers()["x-amz-target"].to_str().unwrap().to_owned();
            let operation = target.rsplit('.').next().unwrap().to_owned();
            let checked = tokio::task::spawn_blocking(move || before(&operation)).await.unwrap();
            if let Err(status) = checked {
                let error = json!({ "__type": "AccessDeniedException", "message": "k3JdP0aZ" });
                return Response::builder().status(status).body(error.to_string().into()).unwrap();
            }
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let mut forwarded = client.post(ministack_endpoint()).body(body);
            for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
                forwarded = forwarded.header(name, parts.headers[name].clone());
            }
            let answer = forwarded.send().await.unwrap();
            let (status, body) = (answer.status(), answer.bytes().await.unwrap());
            Response::builder().status(status).body(body.into()).unwrap()
        }
    })
    .await;
    url.replace("/webhooks/learnink", "")
}

fn slot(slot: &str, state: &str, fingerprint: &str) -> [String; 3] {
    [slot, state, fingerprint].map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_put_is_the_only_one_and_the_receiver_takes_it() {
    let desk = Desk::new(RANDOM).await;
    let Said(code, table, _) = desk.run(&["status"], "").await;
    assert!(table.contains("LearnInk's is not stored yet"), "{table}");
    assert!(table.contains(&format!("secret put signing --stack {}", desk.stack)), "{table}");
    assert_eq!(code, Some(1));

    let Said(code, dry, _) = desk.run(&["put", "--dry-run"], SECRET).await;
    assert_eq!((code, desk.value("AWSCURRENT").as_deref()), (Some(0), Some(RANDOM)));
    assert!(dry.starts_with(&format!("dry run: {FINGERPRINT} would be stored in the secret ")), "{dry}");

    let Said(code, stdout, stderr) =
        desk.run(&["put", "--reason", "first"], &format!("\"{SECRET}\"\n")).await;
    assert!(stdout.starts_with("secret signing: stored, and the receiver takes it ("), "{stdout}{stderr}");
    assert_eq!(code, Some(0));
    assert_eq!(desk.value("AWSCURRENT").as_deref(), Some(SECRET));
    assert_eq!(desk.value("AWSPREVIOUS"), None);
    assert_eq!(desk.slots().await, [slot("current", "in_use", FINGERPRINT)]);
    // What was refused is not on the queue; what was accepted is there once.
    assert_eq!(desk.message_ids().await.len(), 1);

    let Said(code, again, _) = desk.run(&["put"], SECRET).await;
    assert!(again.starts_with("secret signing: stored already, and the receiver takes it ("), "{again}");
    assert_eq!(code, Some(0));
    let acts = desk.acts().await;
    assert_eq!(acts.len(), 2);
    assert_eq!(acts[0][..2], ["secret put".to_owned(), format!("signing {FINGERPRINT}")]);
    assert!(acts[0][2].starts_with("stored, and the receiver takes it"), "{acts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_keeps_the_previous_secret_until_it_is_dropped_and_then_refused() {
    let desk = Desk::new(SECRET).await;
    let Said(code, stdout, stderr) = desk.run(&["rotate"], OTHER_SECRET).await;
    assert!(stdout.starts_with("secret signing: stored, and the receiver takes it ("), "{stdout}{stderr}");
    let next = format!("secret rotate --drop-previous --stack {}", desk.stack);
    assert!(stderr.contains(FINGERPRINT) && stderr.contains(&next), "{stderr}");
    assert_eq!(code, Some(0));
    let both = [slot("current", "in_use", OTHER_FINGERPRINT), slot("previous", "also_used", FINGERPRINT)];
    assert_eq!(desk.slots().await, both);
    assert_eq!(desk.value("AWSPREVIOUS").as_deref(), Some(SECRET));

    for (given, expected) in
        [(OTHER_SECRET, "is the current secret already"), (SECRET, "is a previous secret")]
    {
        let Said(code, _, stderr) = desk.run(&["rotate"], given).await;
        assert!(stderr.contains(expected) && stderr.starts_with("error: nothing was stored"), "{stderr}");
        assert_eq!(code, Some(1));
    }

    let drop = ["rotate", "--drop-previous"];
    let Said(code, _, stderr) = desk.run(&drop, "").await;
    assert!(stderr.starts_with("there is no terminal to ask on; nothing was done"), "{stderr}");
    assert_eq!(code, Some(2));
    let Said(_, dry, _) = desk.run(&[&drop[..], &["--dry-run"]].concat(), "").await;
    assert!(dry.starts_with(&format!("dry run: {FINGERPRINT} would be dropped from ")), "{dry}");
    assert_eq!(desk.slots().await, both);

    desk.message_ids().await;
    let Said(code, stdout, stderr) = desk.run(&[&drop[..], &["--yes"]].concat(), "").await;
    let expected = format!("secret signing: {FINGERPRINT} is dropped, and the receiver refuses it (");
    assert!(stdout.starts_with(&expected), "{stdout}{stderr}");
    assert_eq!(code, Some(0));
    assert_eq!(desk.slots().await, both[..1]);
    assert_eq!(desk.message_ids().await.len(), 1, "what the previous secret signed was accepted");
    let Said(code, nothing, _) = desk.run(&[&drop[..], &["--yes"]].concat(), "").await;
    assert_eq!(nothing, format!("nothing to drop: the receiver accepts only {OTHER_FINGERPRINT}\n"));
    assert_eq!(code, Some(0));
    let actions: Vec<_> = desk.acts().await.into_iter().map(|[action, ..]| action).collect();
    assert_eq!(actions, ["secret rotate", "secret drop-previous"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_right_is_needed_but_those_of_the_on_call_role() {
    let desk = Desk::new(RANDOM).await;
    let (recorded, endpoint) = Recorded::start().await;
    let drop = ["rotate", "--drop-previous", "--yes"];
    for (arguments, input) in
        [(&["put"][..], SECRET), (&["rotate"], OTHER_SECRET), (&drop, ""), (&["status"], "")]
    {
        let mut command = desk.command(arguments);
        command.env("AWS_ENDPOINT_URL", &endpoint);
        let Said(code, stdout, stderr) = said(command, input).await;
        assert_eq!(code, Some(0), "{arguments:?}: {stdout}{stderr}");
    }
    let needed = recorded.actions();
    assert_eq!(needed.iter().map(String::as_str).collect::<Vec<_>>(), ACTIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_value_with_several_secrets_the_first_one_remains() {
    let desk = Desk::new(&format!("{SECRET} {OTHER_SECRET}")).await;
    let both = [slot("current", "in_use", FINGERPRINT), slot("previous", "also_used", OTHER_FINGERPRINT)];
    assert_eq!(desk.slots().await, both);
    let Said(code, stdout, stderr) = desk.run(&["rotate", "--drop-previous", "--yes"], "").await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(desk.slots().await, both[..1]);
    assert_eq!((desk.value("AWSCURRENT").as_deref(), desk.value("AWSPREVIOUS")), (Some(SECRET), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_use_is_replaced_only_if_that_is_said() {
    let desk = Desk::new(OTHER_SECRET).await;
    let Said(code, _, stderr) = desk.run(&["put"], SECRET).await;
    assert!(stderr.contains(&format!("{OTHER_FINGERPRINT}, which is in use")), "{stderr}");
    assert!(stderr.contains(&format!("secret rotate --stack {}`", desk.stack)), "{stderr}");
    assert_eq!(code, Some(1));
    let Said(code, ..) = desk.run(&["put", "--replace"], SECRET).await;
    assert_eq!(code, Some(2));
    assert_eq!(desk.value("AWSCURRENT").as_deref(), Some(OTHER_SECRET));
    assert!(desk.acts().await.is_empty());

    let Said(code, stdout, _) = desk.run(&["put", "--replace", "--yes", "--json"], SECRET).await;
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["change"], &report["probe"]), (&json!("stored"), &json!("as_expected")));
    assert_eq!(code, Some(0));
    // It was a wrong one, so it is not accepted any more.
    assert_eq!(desk.slots().await, [slot("current", "in_use", FINGERPRINT)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_secret_is_not_stored() {
    let desk = Desk::new(RANDOM).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a secret");
    std::fs::write(&file, b"\xff\xfew\0").unwrap();
    for (input, code, expected) in [
        (String::new(), 2, "there is no secret in standard input; run it in a terminal"),
        (" \"\" \n".to_owned(), 2, "there is no secret in standard input"),
        (format!("v1,{SECRET}"), 1, "leave out `v1,`"),
        (format!("{SECRET}\n{OTHER_SECRET}\n"), 1, "it has a blank or a line break in it"),
        (SECRET.replace("whsec_", ""), 1, "it does not start with `whsec_`"),
        (format!("{{\"secret\":\"{SECRET}\"}}"), 1, "is a JSON object"),
        (SECRET.replace('r', "\u{200b}"), 1, "an invisible character"),
        ("hunter2".to_owned(), 1, "not base64"),
    ] {
        for command in [&["put"][..], &["put", "--secret-file", "-"]] {
            let Said(exit, _, stderr) = desk.run(command, &input).await;
            assert!(stderr.contains(expected) && !stderr.contains("hunter2"), "{stderr}");
            assert_eq!(exit, Some(code), "{stderr}");
        }
    }
    let Said(_, _, stderr) = desk.run(&["put", "--secret-file", file.to_str().unwrap()], "").await;
    assert!(stderr.contains("a secret' is UTF-16"), "{stderr}");
    let Said(code, _, stderr) = desk.run(&["rotate"], SECRET).await;
    assert!(stderr.contains("has no secret of LearnInk's yet; store it with `"), "{stderr}");
    assert_eq!(code, Some(1));
    assert_eq!(desk.value("AWSCURRENT").as_deref(), Some(RANDOM));
    assert!(desk.acts().await.is_empty());

    // What is stored by hand and cannot be used is named, and a secret that can be used replaces it.
    let put = ["secretsmanager", "put-secret-value", "--secret-id", &desk.secret, "--secret-string"];
    aws(&[&put[..], &[&format!("v1,{SECRET}")]].concat());
    let Said(code, table, _) = desk.run(&["status"], "").await;
    assert!(table.contains("cannot be used: the signing secret has a version in front"), "{table}");
    assert_eq!(code, Some(1));
    let Said(code, ..) = desk.run(&["put"], SECRET).await;
    assert_eq!((code, desk.slots().await.len()), (Some(0), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_at_once_the_second_one_overwrites_nothing() {
    for (before, command) in [(RANDOM, "put"), (SECRET, "rotate")] {
        let desk = Desk::new(before).await;
        let put = ["secretsmanager", "put-secret-value", "--secret-id", &desk.secret];
        let put = [&put[..], &["--secret-string", OTHER_SECRET]].concat();
        let put: Vec<String> = put.into_iter().map(str::to_owned).collect();
        let other = Arc::new(Mutex::new(Some(put)));
        // At the last moment, after the value was written and before it is the current one.
        let endpoint = secrets_manager(move |operation| {
            if operation == "UpdateSecretVersionStage"
                && let Some(put) = other.lock().unwrap().take()
            {
                aws(&put.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Ok(())
        })
        .await;
        let mut late = desk.command(&[command]);
        late.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint);
        let Said(code, stdout, stderr) = said(late, THIRD_SECRET).await;
        assert!(stderr.contains("nothing was changed: somebody else has changed the secret "), "{stderr}");
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(desk.value("AWSCURRENT").as_deref(), Some(OTHER_SECRET));
        assert_eq!(desk.value("AWSPREVIOUS").as_deref(), Some(before));
        assert_eq!(desk.value("AWSPENDING"), None);
        assert!(desk.acts().await[0][2].starts_with("failed: nothing was changed"));
        assert!(desk.message_ids().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_nothing_is_changed() {
    let desk = Desk::new(SECRET).await;
    for (denied, command) in [
        ("GetSecretValue", &["status"][..]),
        ("GetSecretValue", &["put"]),
        ("PutSecretValue", &["rotate"]),
        ("UpdateSecretVersionStage", &["rotate"]),
    ] {
        let endpoint =
            secrets_manager(
                move |operation| {
                    if operation == denied { Err(StatusCode::BAD_REQUEST) } else { Ok(()) }
                },
            )
            .await;
        let mut command = desk.command(command);
        let Said(code, stdout, stderr) =
            said_with(&mut command, "AWS_ENDPOINT_URL_SECRETS_MANAGER", &endpoint, OTHER_SECRET).await;
        let expected =
            format!("the credentials may not call secretsmanager:{denied} on it (AccessDeniedException)");
        assert!(stderr.contains(&expected) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(desk.slots().await, [slot("current", "in_use", FINGERPRINT)]);
    }
    // The act comes first, so that a change without one cannot be.
    let mut command = desk.command(&["rotate"]);
    let nowhere = "http://127.0.0.1:1";
    let Said(code, _, stderr) =
        said_with(&mut command, "AWS_ENDPOINT_URL_DYNAMODB", nowhere, OTHER_SECRET).await;
    assert!(stderr.contains("nothing was done, because the act cannot be recorded"), "{stderr}");
    assert_eq!((code, desk.value("AWSCURRENT").as_deref()), (Some(1), Some(SECRET)));
}

async fn said_with(command: &mut Command, variable: &str, value: &str, input: &str) -> Said {
    command.env(variable, value);
    said(std::mem::replace(command, Command::new("true")), input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_outputs_of_a_stack_it_is_said_what_is_missing() {
    let engine = Engine::ministack().await;
    let ledger = engine.table("message_id", None).await;
    let old = format!("old-{ledger}");
    create_stack(&old, &[("LedgerTableName", &ledger)]);
    for (command, output) in [("status", "SigningSecretName"), ("put", "SigningSecretName")] {
        let error = error_of(&mut in_aws(&["secret", command, "--stack", &old]));
        assert!(error.contains(&format!("has no output {output}: it is another stack, or ")), "{error}");
    }
    let push = error_of(&mut in_aws(&["secret", "put", "push", "--stack", &old]));
    assert!(push.ends_with("sends no push notifications; deploy it with the parameter Push first"), "{push}");
    let mut elsewhere = in_aws(&["secret", "status", "--stack", &old]);
    let error = error_of(elsewhere.env("AWS_REGION", "eu-central-1"));
    assert!(error.ends_with("it does not exist; check its name, the region and the profile"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_receiver_does_not_take_it_it_is_stored_and_said() {
    let engine = Engine::ministack().await;
    for (status, expected) in [
        (401, "after 0 s, it answers 401: it does not read this secret"),
        (404, "it answers 404: nothing receives webhooks"),
        (503, "after 0 s, it answers 503"),
    ] {
        let (queues, ledger) = (engine.queues(30, 5).await, engine.table("message_id", None).await);
        let secret = format!("{ledger}/signing_secret");
        aws(&["secretsmanager", "create-secret", "--name", &secret, "--secret-string", RANDOM]);
        let url = answering(status).await;
        let desk = Desk::with(Engine::ministack().await, queues, &ledger, secret, &[("WebhookUrl", &url)]);
        let Said(code, stdout, stderr) = desk.run(&["put", "--wait", "1"], SECRET).await;
        let expected = format!("secret signing: stored, but the receiver does not take it: {expected}");
        assert!(stdout.starts_with(&expected), "{stdout}{stderr}");
        assert!(stderr.contains("To try again, with the same secret: "), "{stderr}");
        assert_eq!((code, desk.value("AWSCURRENT").as_deref()), (Some(1), Some(SECRET)));
        let Said(code, stdout, _) = desk.run(&["put", "--no-probe"], SECRET).await;
        assert_eq!((code, stdout.as_str()), (Some(0), "secret signing: stored already; no probe was sent\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_probe_and_a_full_output_leave_the_secret_stored_and_said() {
    let engine = Engine::ministack().await;
    let (queues, ledger) = (engine.queues(30, 5).await, engine.table("message_id", None).await);
    let secret = format!("{ledger}/signing_secret");
    aws(&["secretsmanager", "create-secret", "--name", &secret, "--secret-string", RANDOM]);
    let status = Arc::new(AtomicU16::new(401));
    let answer = status.clone();
    let url = server(move |_| {
        let status = answer.load(Ordering::SeqCst);
        async move { Response::builder().status(status).body(Body::empty()).unwrap() }
    })
    .await;
    let desk = Desk::with(engine, queues, &ledger, secret, &[("WebhookUrl", &url)]);
    let mut command = desk.command(&["put"]);
    let run = move || {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(SECRET.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "stored; waiting until the receiver takes it\n");
        assert!(Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap().success());
        checked(&process.wait_with_output().unwrap())
    };
    let Said(code, stdout, _) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(stdout, "secret signing: stored; interrupted before the receiver's answer\n");
    assert_eq!((code, desk.value("AWSCURRENT").as_deref()), (Some(1), Some(SECRET)));
    assert_eq!(desk.acts().await[0][2], "stored; interrupted before the receiver's answer");

    status.store(200, Ordering::SeqCst);
    let mut command = desk.command(&["put", "--replace", "--yes"]);
    command.stdin(Stdio::piped());
    let run = move || {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut process = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(OTHER_SECRET.as_bytes()).unwrap();
        let full = checked(&process.wait_with_output().unwrap());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut process = command.stdout(writer).spawn().unwrap();
        process.stdin.take().unwrap().write_all(OTHER_SECRET.as_bytes()).unwrap();
        (full, checked(&process.wait_with_output().unwrap()))
    };
    let (full, closed) = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(full.2.contains("error: secret signing: stored, and the receiver takes it ("), "{full:?}");
    assert!(full.2.contains("this could not be printed: "), "{full:?}");
    assert_eq!((full.0, closed.0), (Some(1), Some(0)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_the_push_sender_is_checked_as_the_sender_reads_it() {
    let engine = Engine::ministack().await;
    let (queues, ledger) = (engine.queues(30, 5).await, engine.table("message_id", None).await);
    let names = ["signing", "push", "forward"].map(|name| format!("{ledger}/{name}"));
    for (name, value) in [(&names[0], SECRET), (&names[2], RANDOM)] {
        aws(&["secretsmanager", "create-secret", "--name", name, "--secret-string", value]);
    }
    // As CloudFormation makes it: without a value.
    aws(&["secretsmanager", "create-secret", "--name", &names[1]]);
    let url = "http://127.0.0.1:1/webhooks/learnink".to_owned();
    let outputs = [("WebhookUrl", &url), ("PushSecretName", &names[1]), ("ForwardSecretName", &names[2])];
    let desk = Desk::with(engine, queues, &ledger, names[0].clone(), &outputs);
    let states = async || -> Vec<_> {
        let slots = desk.json(&["status"]).await;
        slots.as_array().unwrap().iter().map(|slot| slot["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states().await, ["in_use", "missing", "in_use"]);
    let Said(code, _, stderr) = desk.run(&["put", "push"], "os_v2_app_secret").await;
    assert!(stderr.contains("it is not `whsec_` and base64; it has to be the signing secret"), "{stderr}");
    assert!(!stderr.contains("os_v2"), "{stderr}");
    assert_eq!(code, Some(1));
    // A probe would send a notification: nobody listens at the URL here.
    let Said(code, stdout, stderr) = desk.run(&["put", "push"], OTHER_SECRET).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "secret push: stored; no probe was sent\n"), "{stderr}");
    assert_eq!(states().await, ["in_use"; 3]);
    let Said(code, _, stderr) = desk.run(&["put", "push"], THIRD_SECRET).await;
    assert!(stderr.contains("which is in use. Add --replace to replace it"), "{stderr}");
    assert_eq!(code, Some(1));
    assert_eq!(desk.acts().await[0][1], format!("push {OTHER_FINGERPRINT}"));
}

#[test]
fn the_secret_of_dev_is_named_by_its_fingerprint_too() {
    let folder = tempfile::tempdir().unwrap();
    let status = ["secret", "status", "--state", folder.path().to_str().unwrap()];
    let none = error_of(&mut learnink(&status));
    assert!(none.contains("; start `cargo dev`, or name a deployed stack with --stack"), "{none}");
    std::fs::write(folder.path().join("signing-secret"), format!("{SECRET}\n")).unwrap();
    let Said(code, table, _) = checked_run(&mut learnink(&status));
    assert!(table.contains(&format!("signing\tcurrent\t{FINGERPRINT}\t20")), "{table}");
    assert!(table.contains("in the state of `learnink dev` ("), "{table}");
    assert_eq!(code, Some(0));
    std::fs::write(folder.path().join("signing-secret.previous"), format!("{OTHER_SECRET}\n")).unwrap();
    let Said(code, table, _) = checked_run(&mut learnink(&status));
    assert!(table.contains(&format!("signing\tcurrent\t{FINGERPRINT}\t20")), "{table}");
    assert!(table.contains(&format!("signing\tprevious\t{OTHER_FINGERPRINT}\t20")), "{table}");
    assert_eq!(code, Some(0));
    std::fs::write(folder.path().join("signing-secret"), "whsec_c2hvcnQ=\n").unwrap();
    let Said(code, table, _) = checked_run(&mut learnink(&status));
    assert!(table.contains("cannot be used: the signing secret has a key of 5 bytes"), "{table}");
    assert_eq!(code, Some(1));
}

fn checked_run(command: &mut Command) -> Said {
    checked(&command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_dev_takes_a_new_secret_beside_the_previous_one_until_that_is_dropped() {
    let laptop = Laptop::start();
    let folder = &laptop.dev.folder;
    let Said(code, dry, _) = laptop.run(&["rotate", "--dry-run"], OTHER_SECRET).await;
    let expected = format!(
        "dry run: {OTHER_FINGERPRINT} would be stored in the secret of `learnink dev` in {folder}, and {FINGERPRINT} \
         would stay accepted\n"
    );
    assert_eq!((code, dry), (Some(0), expected));
    let Said(code, stdout, stderr) = laptop.run(&["rotate", "--reason", "practice"], OTHER_SECRET).await;
    assert!(stdout.starts_with("secret signing: stored, and the receiver takes it ("), "{stdout}{stderr}");
    let next = format!("cargo learnink secret rotate --drop-previous --state {folder}\n");
    assert!(stderr.contains(FINGERPRINT) && stderr.ends_with(&next), "{stderr}");
    assert_eq!(code, Some(0));
    assert_eq!([SECRET, OTHER_SECRET].map(|secret| laptop.answer_to(secret)), ["200", "200"]);
    // `send` signs with the new one.
    assert!(laptop.dev.send(&[]).status.success());
    let both = [slot("current", "in_use", OTHER_FINGERPRINT), slot("previous", "also_used", FINGERPRINT)];
    assert_eq!(laptop.slots(), both);
    assert!(laptop.dev.run(&["status"]).contains("signing secret 1 current, 1 previous\n"));

    let drop = ["rotate", "--drop-previous", "--yes"];
    let Said(code, stdout, stderr) = laptop.run(&drop, "").await;
    let expected = format!("secret signing: {FINGERPRINT} is dropped, and the receiver refuses it (");
    assert!(stdout.starts_with(&expected), "{stdout}{stderr}");
    assert_eq!(code, Some(0));
    assert_eq!([SECRET, OTHER_SECRET].map(|secret| laptop.answer_to(secret)), ["401", "200"]);
    assert_eq!(laptop.slots(), both[..1]);
    let Said(code, nothing, _) = laptop.run(&drop, "").await;
    assert_eq!(nothing, format!("nothing to drop: the receiver accepts only {OTHER_FINGERPRINT}\n"));
    assert_eq!(code, Some(0));
    let place = format!("the secret of `learnink dev` in {folder}");
    let expected = [
        ["secret rotate", &format!("signing {OTHER_FINGERPRINT}"), &place].map(str::to_owned),
        ["secret drop-previous", &format!("signing {FINGERPRINT}"), &place].map(str::to_owned),
    ];
    assert_eq!(laptop.acts(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_running_dev_is_replaced_only_if_that_is_said() {
    let laptop = Laptop::start();
    let Said(code, _, stderr) = laptop.run(&["put"], OTHER_SECRET).await;
    assert!(stderr.contains(&format!("another secret, {FINGERPRINT}, which is in use")), "{stderr}");
    assert!(
        stderr.contains(&format!("`cargo learnink secret rotate --state {}`", laptop.dev.folder)),
        "{stderr}"
    );
    assert_eq!((code, laptop.acts().len()), (Some(1), 0));

    let Said(code, stdout, stderr) = laptop.run(&["put", "--replace", "--yes", "--json"], OTHER_SECRET).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["change"], &report["probe"]), (&json!("stored"), &json!("as_expected")));
    assert_eq!([SECRET, OTHER_SECRET].map(|secret| laptop.answer_to(secret)), ["401", "200"]);
    assert_eq!(laptop.slots(), [slot("current", "in_use", OTHER_FINGERPRINT)]);
    assert_eq!(laptop.acts()[0][0], "secret put");

    let Said(code, stdout, _) = laptop.run(&["put", "--no-probe"], OTHER_SECRET).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "secret signing: stored already; no probe was sent\n"));
    // The next start has it too.
    let folder = laptop.dev.folder.clone();
    drop(laptop.dev);
    let again = Dev::start(std::path::Path::new(&folder));
    assert!(again.send(&["--secret", OTHER_SECRET]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_this_machine_that_cannot_be_changed_is_said_to_be_so_with_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().to_str().unwrap();
    let error = async |arguments: &[&str]| {
        let Said(code, stdout, stderr) = said(secret_in(folder, arguments), OTHER_SECRET).await;
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(2), "", 1), "{stderr}");
        stderr
    };
    let start = format!("start `cargo dev --state {folder}`");
    let push = error(&["put", "push"]).await;
    assert!(push.contains("the variable LEARNINK_PUSH_SECRET at the start; set it and start "), "{push}");
    let changes = [&["put"][..], &["rotate"], &["rotate", "--drop-previous", "--yes"]];
    for change in changes {
        let expected = format!(
            "error: `learnink dev` is not running in {folder}; {start}, or name a deployed stack with --stack\n"
        );
        assert_eq!(error(change).await, expected);
    }
    let dev = Dev::start_with(state.path(), &[("LEARNINK_SIGNING_SECRET", SECRET)]);
    for change in changes {
        let given = error(change).await;
        assert!(
            given.contains("was given at its start, with --secret or LEARNINK_SIGNING_SECRET"),
            "{given}"
        );
        assert!(given.contains(&format!("{start} without a secret")), "{given}");
    }
    let status = error_of(&mut secret_in(folder, &["status"]));
    assert!(status.contains("was given at its start"), "{status}");
    assert!(dev.json("acts").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_typed_is_not_shown() {
    let desk = Desk::new(SECRET).await;
    let learnink = desk.command(&["rotate"]);
    let arguments: Vec<_> = learnink.get_args().map(|argument| argument.to_str().unwrap()).collect();
    let mut python = Command::new(venv("python"));
    python
        .args(["-c", ON_A_TERMINAL, OTHER_SECRET, learnink.get_program().to_str().unwrap()])
        .args(&arguments);
    for (name, value) in learnink.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let Said(code, said, stderr) = said(python, "").await;
    assert!(said.contains("For 24 hours, ") && said.contains(FINGERPRINT), "{said}{stderr}");
    assert!(said.contains("new signing secret (not shown): "), "{said}");
    assert!(said.contains("secret signing: stored, and the receiver takes it ("), "{said}");
    assert_eq!((code, desk.value("AWSCURRENT").as_deref()), (Some(0), Some(OTHER_SECRET)));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_takes_the_secrets_of_a_stack_and_names_the_previous_one() {
    let desk = Desk::new(SECRET).await;
    assert_eq!(desk.run(&["rotate", "--no-probe"], OTHER_SECRET).await.0, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("delivery.txt");
    for (secret, place) in [(OTHER_SECRET, "current"), (SECRET, "previous")] {
        let headers = learnink_tests::signing::headers(secret, "msg_1", now_s(), b"{}");
        let headers = headers.map(|(name, value)| format!("{name}: {value}\n")).concat();
        std::fs::write(&file, format!("{headers}\n{{}}")).unwrap();
        let mut verify = in_aws(&["verify", file.to_str().unwrap(), "--stack", &desk.stack]);
        // The stack wins over the variable.
        verify.env("LEARNINK_SIGNING_SECRET", THIRD_SECRET);
        let Said(code, said, stderr) = checked_run(&mut verify);
        let expected = format!("the {place} value of the secret {}", desk.secret);
        assert!(said.contains(&expected), "{said}{stderr}");
        assert_eq!(code, Some(0), "{said}");
    }
    let mut unknown = in_aws(&["verify", file.to_str().unwrap(), "--stack", "none"]);
    let Said(code, _, stderr) = checked_run(&mut unknown);
    assert!(stderr.starts_with("error: cannot find the stack none in "), "{stderr}");
    assert_eq!(code, Some(2));
}
