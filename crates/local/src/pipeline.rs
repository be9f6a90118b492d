//! The pipeline: the stack of `template.yaml`, in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_lambda_events::sqs::SqsEvent;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use learnink_aws::Env;
use learnink_consumer::{BatchReport, Consumer, DynamoDbLedger, Invocation, RecordReport, SqsQueues};
use learnink_receiver::verify::SecretError;
use learnink_receiver::{GatewayEvent, Receipt, Receiver, SigningSecrets, SqsQueue, Verifier};
use learnink_webhook::config::ConfigError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::dynamodb::{LocalDynamoDb, LocalDynamoDbError, Table, create_table};
use crate::event_source::EventSource;
use crate::sqs::{LocalSqs, LocalSqsError, QueueSettings};
use crate::state::{State, StateError};
use crate::{front, sdk_config};

/// The queue between the receiver and the consumer.
pub const QUEUE: &str = "messages";
/// The queue for messages that the consumer could not handle.
pub const DEAD_LETTER_QUEUE: &str = "dead-letters";
/// The ledger: what is done, by message.
pub const LEDGER_TABLE: Table<'_> = Table { name: "ledger", hash_key: "message_id", range_key: None };
/// Each learner's progress, by course.
pub const LEARNERS_TABLE: Table<'_> =
    Table { name: "learners", hash_key: "user_id", range_key: Some("course_id") };
/// Webhooks of a type without a handler.
pub const UNKNOWN_EVENTS_TABLE: Table<'_> =
    Table { name: "unknown-events", hash_key: "message_id", range_key: None };

/// How many pollers work concurrently. Lambda starts with five.
const POLLERS: usize = 5;

/// How long the embedded SQS may take to confirm a message. A busy laptop needs longer than AWS; LearnInk waits 15
/// s for an answer. Source: Svix documentation, "Retry Schedule".
const CONFIRMED_WITHIN: Duration = Duration::from_secs(12);

/// The limits of the stack, as `template.yaml` has them; tests make them shorter.
#[derive(Debug, Clone, Copy)]
pub struct StackLimits {
    /// How long one invocation of the consumer may take, in seconds.
    pub consumer_timeout_s: u32,
    /// How long a received message stays hidden, in seconds.
    pub visibility_timeout_s: u32,
    /// How often a message is delivered before it goes to the dead-letter queue.
    pub max_receive_count: u32,
}

impl StackLimits {
    /// The template's limits.
    pub const TEMPLATE: Self =
        Self { consumer_timeout_s: 30, visibility_timeout_s: 180, max_receive_count: 7 };
}

/// How a pipeline is started.
pub struct Options {
    /// The address that webhooks are posted to; with port 0, a free port is chosen.
    pub address: SocketAddr,
    /// The state that is kept between two starts; `None` keeps everything in memory.
    pub state: Option<State>,
    /// The signing secret, or several separated by spaces.
    pub signing_secret: String,
    /// The stack's limits.
    pub limits: StackLimits,
    /// The environment of the handlers, as in Lambda except for its tables, which are here.
    pub env: Env,
    /// Uniform in `0..1`; spreads the retries of messages that failed together.
    pub random: fn() -> f64,
    /// Receives everything that happens.
    pub observer: mpsc::UnboundedSender<Observation>,
}

/// Something that happened to a webhook.
#[derive(Debug)]
pub enum Observation {
    /// The receiver answered a request.
    Received(Receipt),
    /// The consumer was done with a record, for now.
    Consumed(RecordReport),
}

/// The pipeline could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, or is not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The signing secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The embedded SQS did not start.
    #[error(transparent)]
    Sqs(#[from] LocalSqsError),
    /// The embedded DynamoDB did not start.
    #[error(transparent)]
    DynamoDb(#[from] LocalDynamoDbError),
    /// The environment of the handlers is not complete.
    #[error(transparent)]
    Env(#[from] ConfigError),
}

/// The messages that a pipeline leaves for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unprocessed {
    /// Messages that wait for a retry or were not finished in time, and those that SQS itself had moved to
    /// the dead-letter queue: the next start delivers them.
    pub messages: usize,
    /// Messages that the consumer has put on the dead-letter queue, which stay there.
    pub dead_letters: usize,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    address: SocketAddr,
    front: JoinHandle<()>,
    stop_front: watch::Sender<bool>,
    stop_pollers: watch::Sender<bool>,
    consumer: Arc<Consumer>,
    limits: StackLimits,
    observer: mpsc::UnboundedSender<Observation>,
    pollers: JoinSet<()>,
    tables: SdkConfig,
    queue: aws_sdk_sqs::Client,
    sqs: LocalSqs,
    _dynamodb: LocalDynamoDb,
    // Last, because its lock covers the engines' files.
    _state: Option<State>,
}

impl Pipeline {
    /// Starts everything and returns once webhooks can be posted.
    ///
    /// # Errors
    ///
    /// [`StartError`] with the part that did not start.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { address, state, signing_secret, limits, env, random, observer } = options;
        let env = on_this_machine(env);
        // Made only to report its errors before anything starts.
        learnink_handlers::router(&env.clone().with_tables(sdk_config("http://127.0.0.1:1")))?;
        let verifier = Verifier::new(&signing_secret)?;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let dead_letters = Some((DEAD_LETTER_QUEUE.to_owned(), limits.max_receive_count));
        let source = QueueSettings { visibility_timeout_s: limits.visibility_timeout_s, dead_letters };
        let target = QueueSettings { visibility_timeout_s: 30, dead_letters: None };
        let journal = state.as_ref().map(State::journal);
        let sqs =
            LocalSqs::start(&[(DEAD_LETTER_QUEUE, target), (QUEUE, source)], journal.as_deref()).await?;
        if let Some(state) = &state {
            state.announce_sqs(sqs.endpoint())?;
        }
        let database = state.as_ref().map(State::database);
        let dynamodb = LocalDynamoDb::start(database.as_deref()).await?;

        let sqs_config = sdk_config(sqs.endpoint());
        let dynamodb_config = sdk_config(dynamodb.endpoint());
        let tables = aws_sdk_dynamodb::Client::new(&dynamodb_config);
        for table in [LEDGER_TABLE, LEARNERS_TABLE, UNKNOWN_EVENTS_TABLE] {
            create_table(&tables, table).await?;
        }
        let env = env.with_tables(dynamodb_config.clone());
        let queue_url = LocalSqs::queue_url(QUEUE);
        let consumer = Consumer::new(
            learnink_handlers::router(&env)?,
            DynamoDbLedger::new(&dynamodb_config, LEDGER_TABLE.name),
            SqsQueues::new(&sqs_config, &queue_url, LocalSqs::queue_url(DEAD_LETTER_QUEUE)),
            limits.max_receive_count,
            random,
        );
        let queue = SqsQueue::with_limits_of(&patient(&sqs_config), &queue_url);
        let receiver = Receiver::new(SigningSecrets::fixed(verifier), queue);
        let (stop_front, stopped) = watch::channel(false);
        let front = tokio::spawn(serve(listener, Arc::new(receiver), observer.clone(), stopped));
        let mut pipeline = Self {
            address,
            front,
            stop_front,
            stop_pollers: watch::channel(false).0,
            consumer: Arc::new(consumer),
            limits,
            observer,
            pollers: JoinSet::new(),
            tables: dynamodb_config,
            queue: aws_sdk_sqs::Client::new(&sqs_config),
            sqs,
            _dynamodb: dynamodb,
            _state: state,
        };
        pipeline.start_pollers();
        Ok(pipeline)
    }

    /// Where LearnInk would post.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, learnink_receiver::PATH)
    }

    /// Where the embedded SQS listens.
    pub fn sqs_endpoint(&self) -> &str {
        self.sqs.endpoint()
    }

    /// How the embedded DynamoDB is reached, where the handlers' tables are.
    pub const fn tables(&self) -> &SdkConfig {
        &self.tables
    }

    /// Starts the pollers that pass batches to the consumer.
    pub fn start_pollers(&mut self) {
        for _ in 0..POLLERS {
            let source = EventSource::new(self.queue.clone(), LocalSqs::queue_url(QUEUE));
            let (consumer, observer) = (self.consumer.clone(), self.observer.clone());
            let timeout = Duration::from_secs(self.limits.consumer_timeout_s.into());
            let stopped = self.stop_pollers.subscribe();
            self.pollers.spawn(async move {
                let invoke = |batch| invoke(&consumer, &observer, batch, timeout);
                source.run(invoke, stopped).await;
            });
        }
    }

    /// Ends the pollers wherever they are, as a crash would.
    pub async fn kill_pollers(&mut self) {
        self.pollers.shutdown().await;
    }

    /// How many messages were sent to a queue and not deleted; see [`LocalSqs::messages_sent_to`].
    pub async fn messages_sent_to(&self, queue: &str) -> usize {
        self.sqs.messages_sent_to(queue).await
    }

    /// Stops taking requests, handles the acknowledged webhooks, for up to `patience`, and stops.
    pub async fn stop(mut self, patience: Duration) -> Unprocessed {
        let until = tokio::time::Instant::now() + patience;
        self.stop_front.send_replace(true);
        // A client that never ends its request must not use up the time for the acknowledged webhooks.
        if tokio::time::timeout(patience / 5, &mut self.front).await.is_err() {
            self.front.abort();
        }
        self.stop_pollers.send_replace(true);
        let polled = async { while self.pollers.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, polled).await.is_err() {
            self.kill_pollers().await;
        }
        Unprocessed {
            messages: self.messages_sent_to(QUEUE).await,
            dead_letters: self.messages_sent_to(DEAD_LETTER_QUEUE).await,
        }
    }
}

/// The configuration of the receiver's client. It tries once: if the first try stored a message but was not
/// confirmed in time, a second try would store it twice.
fn patient(sqs: &SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_timeout(CONFIRMED_WITHIN).build();
    sqs.to_builder().timeout_config(timeouts).retry_config(RetryConfig::disabled()).build()
}

/// The handlers' environment on this machine: with its tables.
pub fn on_this_machine(env: Env) -> Env {
    env.with_variables([
        ("LEARNINK_LEARNERS_TABLE", LEARNERS_TABLE.name.to_owned()),
        ("LEARNINK_UNKNOWN_EVENTS_TABLE", UNKNOWN_EVENTS_TABLE.name.to_owned()),
    ])
}

/// One invocation of the consumer, which ends with its time-out as Lambda's would.
async fn invoke(
    consumer: &Consumer,
    observer: &mpsc::UnboundedSender<Observation>,
    batch: SqsEvent,
    timeout: Duration,
) -> Option<serde_json::Value> {
    let invocation = Invocation::new(request_id(), now(), timeout);
    let Ok(report) = tokio::time::timeout(timeout, consumer.consume(&batch, &invocation)).await else {
        tracing::warn!(
            records = batch.records.len(),
            "the consumer did not answer in time; its batch comes back"
        );
        return None;
    };
    let answer = report.response().ok().and_then(|response| serde_json::to_value(response).ok());
    let BatchReport { records } = report;
    for record in records {
        // Nobody receives it any more once the program is ending.
        let _ = observer.send(Observation::Consumed(record));
    }
    answer
}

async fn serve(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    observer: mpsc::UnboundedSender<Observation>,
    mut stopped: watch::Receiver<bool>,
) {
    let handle = move |request: Request| {
        let (receiver, observer) = (receiver.clone(), observer.clone());
        async move { answer(&receiver, &observer, request).await }
    };
    let stopped = async move {
        // An error means that the pipeline has ended, which stops the front too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let server = axum::serve(listener, axum::Router::new().fallback(handle));
    if let Err(error) = server.with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the HTTP front stopped");
    }
}

/// Passes one request to the receiver in the gateway's shape, and returns the answer.
async fn answer(
    receiver: &Receiver,
    observer: &mpsc::UnboundedSender<Observation>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, front::LARGEST_BODY_BYTES).await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let event = front::http_api_request(&parts, &body, &request_id(), now());
    let Ok(event) = serde_json::from_str::<GatewayEvent>(&event.to_string()) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let receipt = receiver.receive(event, now()).await;
    let answer = receipt.outcome.answer();
    let _ = observer.send(Observation::Received(receipt));
    let mut response =
        status(StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    for (name, value) in
        [(header::RETRY_AFTER, answer.headers.retry_after), (header::ALLOW, answer.headers.allow)]
    {
        if let Some(value) = value {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[expect(clippy::disallowed_methods, reason = "this is the laptop's edge, where Lambda would read the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_queue_may_take_as_long_as_the_sender_waits_and_is_asked_once() {
        let config = patient(&sdk_config("http://127.0.0.1:1"));
        let timeouts = config.timeout_config().unwrap();
        let limit = timeouts.operation_timeout().unwrap();
        assert!(limit > learnink_receiver::OPERATION_TIMEOUT && limit < Duration::from_secs(15));
        assert_eq!(timeouts.operation_attempt_timeout(), None);
        assert_eq!(config.retry_config().unwrap().max_attempts(), 1);
    }
}
