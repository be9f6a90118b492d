//! An SQS and a DynamoDB: the embedded ones, or ministack's.
//!
//! `ministack` is a local AWS with a faithful SQS, and a second implementation: behaviour that both share is
//! probably AWS's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_sdk_sqs::types::QueueAttributeName;
use learnink_local::dynamodb::{Table, create_table};
use learnink_local::{LocalDynamoDb, LocalSqs, sdk_config};
use serde_json::json;

/// An SQS and a DynamoDB.
#[derive(Debug)]
pub struct Engine {
    /// How to reach the SQS.
    pub sqs: SdkConfig,
    /// How to reach the DynamoDB.
    pub dynamodb: SdkConfig,
    _embedded: Option<(LocalSqs, LocalDynamoDb)>,
}

/// A queue and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct QueuePair {
    /// The source queue's URL.
    pub url: String,
    /// The dead-letter queue's URL.
    pub dead_letter_url: String,
}

impl Engine {
    /// The engines that `learnink dev` embeds, in memory and only for this test.
    pub async fn embedded() -> Self {
        let sqs = LocalSqs::start(&[], None, None).await.expect("the embedded SQS starts");
        let dynamodb = LocalDynamoDb::start(None).await.expect("the embedded DynamoDB starts");
        Self {
            sqs: sdk_config(sqs.endpoint()),
            dynamodb: sdk_config(dynamodb.endpoint()),
            _embedded: Some((sqs, dynamodb)),
        }
    }

    /// ministack, which all tests of this process share.
    #[expect(clippy::unused_async, reason = "started as the embedded ones are")]
    pub async fn ministack() -> Self {
        let config = sdk_config(ministack_endpoint());
        Self { sqs: config.clone(), dynamodb: config, _embedded: None }
    }

    /// A client of the SQS.
    pub fn sqs_client(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sqs)
    }

    /// Makes a queue whose messages stay hidden for `visibility_timeout_s` seconds, and go to a
    /// dead-letter queue after `max_receive_count` deliveries.
    pub async fn queues(&self, visibility_timeout_s: u32, max_receive_count: u32) -> QueuePair {
        let name = unique("queue");
        let dead_letter_url = self.create_queue(&format!("{name}-dead-letters"), &[]).await;
        let arn = self.queue_attribute(&dead_letter_url, QueueAttributeName::QueueArn).await;
        let redrive = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": max_receive_count });
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, visibility_timeout_s.to_string()),
            (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        ];
        QueuePair { url: self.create_queue(&name, &attributes).await, dead_letter_url }
    }

    async fn create_queue(&self, name: &str, attributes: &[(QueueAttributeName, String)]) -> String {
        let mut request = self.sqs_client().create_queue().queue_name(name);
        for (attribute, value) in attributes {
            request = request.attributes(attribute.clone(), value);
        }
        let created = request.send().await.expect("a queue can be made");
        created.queue_url.expect("a queue has a URL")
    }

    /// One attribute of a queue.
    pub async fn queue_attribute(&self, url: &str, name: QueueAttributeName) -> String {
        let request = self.sqs_client().get_queue_attributes().queue_url(url).attribute_names(name.clone());
        let answer = request.send().await.expect("a queue has attributes");
        answer.attributes().and_then(|found| found.get(&name)).expect("the attribute is there").clone()
    }

    /// How many messages a queue has, hidden ones included.
    pub async fn messages(&self, url: &str) -> u32 {
        let mut count = 0;
        for name in [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ] {
            count += self.queue_attribute(url, name).await.parse::<u32>().expect("it is a number");
        }
        count
    }

    /// Makes a table with these keys and returns its name, which is unique.
    pub async fn table(&self, hash_key: &str, range_key: Option<&str>) -> String {
        let name = unique("table");
        let client = aws_sdk_dynamodb::Client::new(&self.dynamodb);
        let table = Table { name: &name, hash_key, range_key };
        create_table(&client, table).await.expect("a table can be made");
        name
    }
}

/// A name that is unique in this process.
fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// How long ministack may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

struct Ministack {
    endpoint: String,
    /// The system closes its input whenever this process ends, and it then ends ministack.
    _shell: Child,
}

/// Where ministack listens.
pub fn ministack_endpoint() -> &'static str {
    static MINISTACK: LazyLock<Ministack> = LazyLock::new(start_ministack);
    &MINISTACK.endpoint
}

fn start_ministack() -> Ministack {
    let program = crate::root().join(".venv/bin/ministack");
    assert!(program.exists(), "{} is missing; `scripts/check tools` installs it", program.display());
    // Another program may take the port between its choice and its use.
    let mut attempts = std::iter::repeat_with(|| try_ministack(&program)).take(3);
    attempts.find_map(|ministack| ministack).expect("ministack starts")
}

fn try_ministack(program: &Path) -> Option<Ministack> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    drop(listener);
    let endpoint = format!("http://{address}");
    let shell = Command::new("sh")
        .args(["-c", r#""$0" & child=$!; cat >/dev/null; kill "$child""#])
        .arg(program)
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", address.port().to_string())
        .env("AWS_ENDPOINT_URL", &endpoint)
        .env("IOT_MTLS_ENABLED", "0")
        // AWS's default; otherwise it depends on this machine's memory.
        .env("LAMBDA_ACCOUNT_CONCURRENCY", "1000")
        .env("LOG_LEVEL", "ERROR")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell can be run");
    let ministack = Ministack { endpoint, _shell: shell };
    let deadline = Instant::now() + START_TIMEOUT;
    while !answers_health(&address.to_string()) {
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(ministack)
}

fn answers_health(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let request = format!("GET /_ministack/health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
