//! The real template with the real binaries, deployed as a person would, on ministack.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use learnink_connectors::progress::{Learners, LearnersCourse};
use learnink_consumer::DynamoDbLedger;
use learnink_local::sdk_config;
use learnink_tests::binaries::binary;
use learnink_tests::engine::ministack_endpoint;
use learnink_tests::signing::{self, SECRET, now_s};
use learnink_tests::{read, root};
use learnink_webhook::MessageId;
use reqwest::{StatusCode, Url};
use serde_json::Value;

use crate::laptop::started;

/// How long the deployed functions may take. Each starts a process.
const PATIENCE: Duration = Duration::from_mins(2);

const STACK: &str = "deployed-test";

/// The stack's outputs, by name.
pub(crate) struct Stack {
    name: &'static str,
    outputs: BTreeMap<String, String>,
    client: reqwest::Client,
    _temporary: Temporary,
}

pub(crate) fn venv(program: &str) -> PathBuf {
    root().join(".venv/bin").join(program)
}

/// A program that uses ministack as AWS.
pub(crate) fn with_aws(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("AWS_ENDPOINT_URL", ministack_endpoint())
        .env("AWS_ACCESS_KEY_ID", "000000000000")
        .env("AWS_SECRET_ACCESS_KEY", "none")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("SAM_CLI_TELEMETRY", "0");
    command
}

/// The output of a program that did not fail.
pub(crate) fn successful(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{command:?}\n{said}\n{}", String::from_utf8_lossy(&stderr));
    said.into_owned()
}

/// ministack reads a mapping's numbers as text, and then does not poll.
pub(crate) const MAKE_MINISTACK_POLL: &str = "
client = boto3.client('lambda')
for mapping in client.list_event_source_mappings()['EventSourceMappings']:
    client.update_event_source_mapping(UUID=mapping['UUID'], ScalingConfig={'MaximumConcurrency': 10})
print('null')";

/// Runs a few lines of Python against ministack; what they print is JSON.
pub(crate) fn boto3(code: &str) -> Value {
    let mut python = with_aws(&venv("python"));
    python.args(["-c", &format!("import boto3, json\n{code}")]);
    serde_json::from_str(&successful(python)).unwrap()
}

/// ministack refuses an alarm on an expression.
pub(crate) fn without_metric_math(template: &str) -> String {
    let (before, alarm) = template.split_once("\n  MovedBySqsAlarm:\n").unwrap();
    let (alarm, after) = alarm.split_once("\n\n").unwrap();
    assert!(alarm.contains("Expression: "), "ministack takes {alarm}");
    format!("{before}\n\n{after}")
}

/// Copies a program of the workspace without its debug information, which is four fifths of it and would be uploaded.
pub(crate) fn copy_stripped(program: &str, to: &Path) {
    fs::copy(binary(program), to).unwrap();
    let mut strip = Command::new("strip");
    strip.arg(to);
    successful(strip);
}

/// The template as `sam build` leaves it: each function's code is a folder with a `bootstrap`.
pub(crate) fn build(folder: &Path) -> PathBuf {
    let mut template = read("template.yaml");
    for function in ["receiver", "consumer"] {
        let code = folder.join(function);
        fs::create_dir(&code).unwrap();
        let bootstrap = code.join("bootstrap");
        copy_stripped(function, &bootstrap);
        let source = format!("CodeUri: crates/{function}");
        assert!(template.contains(&source));
        template = template.replace(&source, &format!("CodeUri: {}", code.display()));
    }
    let path = folder.join("template.yaml");
    fs::write(&path, without_metric_math(&template)).unwrap();
    path
}

impl Stack {
    /// Deploys it, with the random secret that the template makes.
    pub(crate) fn deploy(name: &'static str) -> Self {
        Self::deploy_edited(name, "", |template| template)
    }

    /// Deploys it with more parameters, and after an edit of the template.
    pub(crate) fn deploy_edited(
        name: &'static str,
        parameters: &str,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let template = build(folder.path());
        fs::write(&template, edit(fs::read_to_string(&template).unwrap())).unwrap();
        let temporary = Temporary { name, region: "us-east-1" };
        let mut deploy = with_aws(&venv("sam"));
        deploy.current_dir(folder.path()).args(["deploy", "--stack-name", name, "--region", "us-east-1"]);
        deploy.args(["--resolve-s3", "--capabilities", "CAPABILITY_IAM", "--no-progressbar"]);
        deploy.args(["--no-confirm-changeset", "--template-file"]).arg(&template);
        let parameters = format!("Stage=staging Architecture=x86_64 {parameters}");
        deploy.args(["--parameter-overrides", parameters.trim()]);
        successful(deploy);
        boto3(MAKE_MINISTACK_POLL);
        let outputs = boto3(&format!(
            "stack = boto3.client('cloudformation').describe_stacks(StackName='{name}')['Stacks'][0]
print(json.dumps({{output['OutputKey']: output['OutputValue'] for output in stack['Outputs']}}))"
        ));
        let outputs: BTreeMap<String, String> = serde_json::from_value(outputs).unwrap();
        learnink_aws::install_tls_provider();
        let host = Url::parse(&outputs["WebhookUrl"]).unwrap().host_str().unwrap().to_owned();
        let address: SocketAddr = ministack_endpoint().strip_prefix("http://").unwrap().parse().unwrap();
        let client = reqwest::Client::builder().no_proxy().resolve(&host, address).build().unwrap();
        Self { name, outputs, client, _temporary: temporary }
    }

    pub(crate) fn output(&self, name: &str) -> &str {
        &self.outputs[name]
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Stores the secret of the tests.
    pub(crate) fn store_secret(&self) {
        boto3(&format!(
            "boto3.client('secretsmanager').put_secret_value(SecretId='{}', SecretString='{SECRET}')
print('null')",
            self.output("SigningSecretName")
        ));
    }

    pub(crate) async fn post(&self, id: &str, body: &str, signed: &str) -> StatusCode {
        let headers = signing::headers(SECRET, id, now_s(), signed.as_bytes());
        let request = self.client.post(self.output("WebhookUrl")).body(body.to_owned());
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send().await.unwrap().status()
    }

    async fn learners(&self) -> Vec<LearnersCourse> {
        let table = Learners::new(&sdk_config(ministack_endpoint()), self.output("LearnersTableName"));
        table.all().await.unwrap()
    }

    /// The dead letters that are visible now, and hidden after that for half a minute.
    fn dead_letters(&self) -> Vec<Value> {
        let letters = boto3(&format!(
            "sqs = boto3.client('sqs')
letters = sqs.receive_message(QueueUrl='{}', MaxNumberOfMessages=10, MessageAttributeNames=['All'])
print(json.dumps(letters.get('Messages', []), default=str))",
            self.output("DeadLetterQueueUrl")
        ));
        letters.as_array().unwrap().clone()
    }

    async fn one_dead_letter(&self) -> Value {
        eventually(async || self.dead_letters().into_iter().next()).await
    }
}

/// A stack that is deleted whenever the test ends: ministack ends a function's processes with the function, but
/// leaves them behind when it is killed itself.
pub(crate) struct Temporary {
    /// The stack's name.
    pub(crate) name: &'static str,
    /// Its region.
    pub(crate) region: &'static str,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Self { name, region } = self;
        let mut delete = with_aws(&venv("python"));
        let code = format!(
            "import boto3\nboto3.client('cloudformation', '{region}').delete_stack(StackName='{name}')"
        );
        delete.args(["-c", &code]);
        // A failure must not hide the test's own.
        let _ = delete.output();
    }
}

/// Asks until there is an answer.
async fn eventually<T>(question: impl AsyncFn() -> Option<T>) -> T {
    let answer = async {
        loop {
            match question().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap()
}

fn attribute<'a>(letter: &'a Value, name: &str) -> &'a str {
    letter["MessageAttributes"][name]["StringValue"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_that_is_deployed_takes_a_webhook_to_the_learners_and_a_hopeless_one_to_the_dead_letters() {
    let deploy = || Stack::deploy_edited(STACK, "Archive=stream", |template| template);
    let stack = tokio::task::spawn_blocking(deploy).await.unwrap();
    let body = started("u", "c", "2026-01-01T00:00:00Z");

    // Until LearnInk's secret is stored, every webhook is refused; after that they are accepted without a deploy.
    assert_eq!(stack.post("msg_early", &body, &body).await, StatusCode::UNAUTHORIZED);
    stack.store_secret();
    eventually(async || (stack.post("msg_1", &body, &body).await == StatusCode::OK).then_some(())).await;
    let learners = eventually(async || Some(stack.learners().await).filter(|rows| !rows.is_empty())).await;
    assert_eq!((learners[0].user_id.as_str(), learners.len()), ("u", 1));
    let ledger = DynamoDbLedger::new(&sdk_config(ministack_endpoint()), stack.output("LedgerTableName"));
    let entry = ledger.entry(&MessageId::parse("msg_1").unwrap()).await.unwrap().unwrap();
    assert!(entry.done.contains("progress") && entry.lease.is_none(), "{entry:?}");

    let mut doctor = with_aws(binary("learnink"));
    doctor.args(["doctor", "--stack", STACK, "--skip", "alarm-mail"]);
    let said = tokio::task::spawn_blocking(|| successful(doctor)).await.unwrap();
    assert!(said.contains(" and done by archive, unknown after another "), "{said}");
    assert!(said.ends_with(&format!("the stack {STACK} in us-east-1 is healthy\n")), "{said}");

    // ministack's Firehose writes each record as a file of its own, at once.
    let mut verify = with_aws(binary("learnink"));
    verify.args(["archive", "verify", "--stack", STACK]).env("LEARNINK_SIGNING_SECRET", SECRET);
    let said = tokio::task::spawn_blocking(|| successful(verify)).await.unwrap();
    assert_eq!(said, "2 records, all signed by LearnInk\n", "of the webhook, and of the doctor's");

    let other = started("intruder", "c", "2026-01-01T00:00:00Z");
    assert_eq!(stack.post("msg_2", &other, &body).await, StatusCode::UNAUTHORIZED);
    assert_eq!(stack.post("msg_3", "no event", "no event").await, StatusCode::OK);
    let letter = stack.one_dead_letter().await;
    assert_eq!(attribute(&letter, "svix-id"), "msg_3");
    assert_eq!(attribute(&letter, "dead-letter-reason"), "the body is not JSON (line 1, column 2)");
    assert_eq!(stack.learners().await, learners, "the tampered one has changed nothing");

    // A redrive by hand, because ministack does not have move tasks: a message that can never succeed comes back
    // with its reason.
    boto3(&format!(
        "sqs = boto3.client('sqs')
letter = json.loads({:?})
keep = ('StringValue', 'DataType')
attributes = {{name: {{key: value[key] for key in keep}} for name, value in letter['MessageAttributes'].items()}}
sqs.send_message(QueueUrl='{}', MessageBody=letter['Body'], MessageAttributes=attributes)
sqs.delete_message(QueueUrl='{}', ReceiptHandle=letter['ReceiptHandle'])
print('null')",
        letter.to_string(),
        stack.output("QueueUrl"),
        stack.output("DeadLetterQueueUrl"),
    ));
    assert_eq!(attribute(&stack.one_dead_letter().await, "svix-id"), "msg_3");
    tokio::task::spawn_blocking(move || drop(stack)).await.unwrap();
}
