//! The pipeline: the stack of `template.yaml`, in one process.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_lambda_events::sqs::SqsEvent;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use learnink_aws::{CallLimits, Env};
use learnink_consumer::{BatchReport, Consumer, DynamoDbLedger, Invocation, RecordReport, SqsQueues};
use learnink_receiver::secrets::LoadError;
use learnink_receiver::verify::SecretError;
use learnink_receiver::{GatewayEvent, Receipt, Receiver, SigningSecrets, SqsQueue, Verifier};
use learnink_simulator::Fault;
use learnink_simulator::fault::NO_ANSWER_FOR;
use learnink_webhook::config::ConfigError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::dynamodb::{LocalDynamoDb, LocalDynamoDbError, Table, create_table};
use crate::event_source::EventSource;
use crate::secrets_manager::{LocalSecretsManager, SIGNING_SECRET};
use crate::sqs::{LocalSqs, LocalSqsError, QueueCall, QueueObserver, QueueSettings};
use crate::state::{Service, State, StateError};
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

/// The limits of the receiver's calls. It tries once: if the first try stored a message but was not confirmed in time,
/// a second try would store it twice.
const PATIENT: CallLimits =
    CallLimits { attempts: 1, attempt: CONFIRMED_WITHIN, call: CONFIRMED_WITHIN, pause: Duration::ZERO };

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
    /// Where the receiver's signing secret comes from.
    pub signing_secret: SigningSecret,
    /// The stack's limits.
    pub limits: StackLimits,
    /// The environment of the handlers, as in Lambda except for its tables, which are here.
    pub env: Env,
    /// Uniform in `0..1`; spreads the retries of messages that failed together.
    pub random: fn() -> f64,
    /// Asked about each request by its `svix-id`, or by an empty text without one: the fault with which it is answered
    /// in place of the receiver.
    pub fault: Option<FaultSource>,
    /// Receives everything that happens.
    pub observer: mpsc::UnboundedSender<Observation>,
}

/// Says whether a request meets a fault.
pub type FaultSource = Arc<dyn Fn(&str) -> Option<Fault> + Send + Sync>;

/// Where the receiver's signing secret comes from.
#[derive(Clone)]
pub enum SigningSecret {
    /// This one, or several separated by spaces, until the pipeline stops.
    Given(String),
    /// The one that the state keeps, which is made if there is none. The receiver reads it again as in Lambda, so that
    /// another one can be stored while the pipeline runs. Without a state, the start fails.
    Kept,
}

/// Something that happened to a webhook.
#[derive(Debug)]
pub enum Observation {
    /// A request was answered.
    Received(Box<Received>),
    /// The consumer was done with a record, for now.
    Consumed(Box<RecordReport>),
    /// A queue was called about a message.
    Queue(QueueCall),
}

/// A request that was answered, with its content, which only the laptop keeps. `Debug` does not show the content.
pub struct Received {
    /// When it arrived.
    pub at: Timestamp,
    /// How long the answer took.
    pub took: Duration,
    /// The method, the path and the headers.
    pub parts: Parts,
    /// The body as it was signed; empty if it is larger than the gateway takes.
    pub body: Bytes,
    /// The status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// Who answered.
    pub answered_by: AnsweredBy,
}

/// Who answered a request.
#[derive(Debug)]
pub enum AnsweredBy {
    /// The receiver.
    Receiver(Box<Receipt>),
    /// The gateway, because the request is too large or is not one.
    Gateway,
    /// A fault, in place of the receiver.
    Fault(Fault),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, status, answered_by, .. } = self;
        f.debug_struct("Received")
            .field("at", at)
            .field("status", status)
            .field("by", answered_by)
            .finish_non_exhaustive()
    }
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
    /// The embedded Secrets Manager did not start.
    #[error("cannot listen on this machine")]
    SecretsManager(#[source] std::io::Error),
    /// The receiver could not read its secret.
    #[error(transparent)]
    LoadSecret(#[from] LoadError),
    /// There is no state that could keep a secret.
    #[error("a secret cannot be kept without a state")]
    NothingKept,
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
    _secrets: Option<LocalSecretsManager>,
    // Last, because its lock covers the engines' files.
    state: Option<State>,
}

impl Pipeline {
    /// Starts everything and returns once webhooks can be posted.
    ///
    /// # Errors
    ///
    /// [`StartError`] with the part that did not start.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { address, state, signing_secret, limits, env, random, fault, observer } = options;
        let env = on_this_machine(env);
        // Made only to report its errors before anything starts.
        learnink_handlers::router(&env.clone().with_tables(sdk_config("http://127.0.0.1:1")))?;
        // Before anything starts, for its errors alone.
        let given = match (&signing_secret, &state) {
            (SigningSecret::Given(secret), _) => secret.clone(),
            (SigningSecret::Kept, Some(state)) => state.signing_secret()?,
            (SigningSecret::Kept, None) => return Err(StartError::NothingKept),
        };
        let verifier = Verifier::new(&given)?;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let dead_letters = Some((DEAD_LETTER_QUEUE.to_owned(), limits.max_receive_count));
        let source = QueueSettings { visibility_timeout_s: limits.visibility_timeout_s, dead_letters };
        let target = QueueSettings { visibility_timeout_s: 30, dead_letters: None };
        let journal = state.as_ref().map(State::journal);
        let calls = observer.clone();
        let calls: QueueObserver = Box::new(move |call| {
            // Nobody receives it any more once the program is ending.
            let _ = calls.send(Observation::Queue(call));
        });
        let queues = [(DEAD_LETTER_QUEUE, target), (QUEUE, source)];
        let sqs = LocalSqs::start(&queues, journal.as_deref(), Some(calls)).await?;
        if let Some(state) = &state {
            state.announce(Service::Sqs, sqs.endpoint())?;
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
        let queue = SqsQueue::new(&sqs_config, &queue_url).with_limits(PATIENT);
        let (secrets, secrets_manager) = match (signing_secret, &state) {
            (SigningSecret::Kept, Some(state)) => {
                let manager = LocalSecretsManager::start(state.folder()).await;
                let manager = manager.map_err(StartError::SecretsManager)?;
                state.announce(Service::SecretsManager, &manager.access().announced())?;
                let aws = manager.access().sdk_config();
                (SigningSecrets::load(&aws, SIGNING_SECRET, now()).await?, Some(manager))
            }
            (SigningSecret::Given(_) | SigningSecret::Kept, _) => (SigningSecrets::fixed(verifier), None),
        };
        let receiver = Receiver::new(secrets, queue);
        let (stop_front, stopped) = watch::channel(false);
        let gateway = Gateway { receiver, fault, observer: observer.clone() };
        let front = tokio::spawn(serve(listener, Arc::new(gateway), stopped));
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
            _secrets: secrets_manager,
            state,
        };
        pipeline.announce(Service::Webhooks, &pipeline.url())?;
        pipeline.start_pollers();
        Ok(pipeline)
    }

    /// Where LearnInk would post.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, learnink_receiver::PATH)
    }

    /// Publishes where a service that belongs to this pipeline listens, until the pipeline stops. Does nothing without a
    /// state.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] when it cannot be written.
    pub fn announce(&self, service: Service, address: &str) -> Result<(), StateError> {
        self.state.as_ref().map_or(Ok(()), |state| state.announce(service, address))
    }

    /// Keeps the state locked after the end of the pipeline, until what is returned is dropped. `None` without a state.
    pub const fn hold_state(&mut self) -> Option<State> {
        self.state.take()
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
        let _ = observer.send(Observation::Consumed(Box::new(record)));
    }
    answer
}

/// API Gateway in front of the receiver.
struct Gateway {
    receiver: Receiver,
    fault: Option<FaultSource>,
    observer: mpsc::UnboundedSender<Observation>,
}

async fn serve(listener: TcpListener, gateway: Arc<Gateway>, mut stopped: watch::Receiver<bool>) {
    let handle = move |request: Request| {
        let gateway = gateway.clone();
        async move { gateway.answer(request).await }
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

impl Gateway {
    /// Passes one request to the receiver in the gateway's shape, and returns the answer.
    async fn answer(&self, request: Request) -> Response {
        let (at, start) = (now(), Instant::now());
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, front::LARGEST_BODY_BYTES).await;
        let fault = self.fault(&parts);
        let (response, answered_by) = match (fault, &body) {
            (Some(fault), _) => (faulty(fault), AnsweredBy::Fault(fault)),
            (None, Err(_)) => (Some(status(StatusCode::PAYLOAD_TOO_LARGE)), AnsweredBy::Gateway),
            (None, Ok(body)) => {
                let (response, answered_by) = self.ask_receiver(&parts, body, at).await;
                (Some(response), answered_by)
            }
        };
        let received = Received {
            at,
            took: start.elapsed(),
            parts,
            body: body.unwrap_or_default(),
            status: response.as_ref().map(|response| response.status().as_u16()),
            answered_by,
        };
        // Before a fault waits: the sender hangs up meanwhile, and with it this ends.
        let _ = self.observer.send(Observation::Received(Box::new(received)));
        if fault == Some(Fault::NoAnswer) {
            tokio::time::sleep(NO_ANSWER_FOR).await;
        }
        // The connection ends with its task.
        response.unwrap_or_else(|| std::panic::resume_unwind(Box::new("a fault closes the connection")))
    }

    fn fault(&self, parts: &Parts) -> Option<Fault> {
        let fault = self.fault.as_ref()?;
        fault(parts.headers.get("svix-id").and_then(|id| id.to_str().ok()).unwrap_or_default())
    }

    async fn ask_receiver(&self, parts: &Parts, body: &[u8], at: Timestamp) -> (Response, AnsweredBy) {
        let event = front::http_api_request(parts, body, &request_id(), at);
        let Ok(event) = serde_json::from_str::<GatewayEvent>(&event.to_string()) else {
            return (status(StatusCode::BAD_REQUEST), AnsweredBy::Gateway);
        };
        let receipt = self.receiver.receive(event, at).await;
        let answer = receipt.outcome.answer();
        let mut response =
            status(StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        for (name, value) in
            [(header::RETRY_AFTER, answer.headers.retry_after), (header::ALLOW, answer.headers.allow)]
        {
            if let Some(value) = value {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        (response, AnsweredBy::Receiver(Box::new(receipt)))
    }
}

/// The answer with a fault; `None` if there is none, and the connection is closed.
fn faulty(fault: Fault) -> Option<Response> {
    match fault {
        Fault::InternalError => Some(status(StatusCode::INTERNAL_SERVER_ERROR)),
        Fault::Unavailable => Some(status(StatusCode::SERVICE_UNAVAILABLE)),
        Fault::TooManyRequests { retry_after_s } => {
            let mut response = status(StatusCode::TOO_MANY_REQUESTS);
            response.headers_mut().insert(header::RETRY_AFTER, retry_after_s.into());
            Some(response)
        }
        Fault::NoAnswer | Fault::ConnectionClosed => None,
    }
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
        let longest = Duration::from_secs(15);
        assert!(PATIENT.call > learnink_receiver::OPERATION_TIMEOUT && PATIENT.call < longest);
        assert_eq!((PATIENT.attempts, PATIENT.attempt), (1, PATIENT.call));
    }
}
