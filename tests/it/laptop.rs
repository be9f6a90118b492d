//! The pipeline of `learnink dev`, in memory, with a LearnInk to post to it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use learnink_aws::Env;
use learnink_connectors::progress::{Learners, LearnersCourse};
use learnink_connectors::unknown::{UnknownEvent, UnknownEvents};
use learnink_consumer::{Outcome, RecordReport};
use learnink_local::pipeline::{DEAD_LETTER_QUEUE, LEARNERS_TABLE, QUEUE, StackLimits, UNKNOWN_EVENTS_TABLE};
use learnink_local::{LocalSqs, Observation, Options, Pipeline, SigningSecret, State, sdk_config};
use learnink_tests::signing::{self, SECRET, now_s};
use reqwest::StatusCode;
use tokio::sync::mpsc;

/// Longer than anything here takes, but short enough to wait for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Retries within seconds instead of minutes.
pub(crate) const QUICK: StackLimits =
    StackLimits { consumer_timeout_s: 2, visibility_timeout_s: 2, max_receive_count: 20 };

pub(crate) struct Laptop {
    pub(crate) pipeline: Pipeline,
    observations: mpsc::UnboundedReceiver<Observation>,
    client: reqwest::Client,
}

impl Laptop {
    /// Starts with everything in memory.
    pub(crate) async fn start(limits: StackLimits) -> Self {
        Self::start_in(None, limits).await
    }

    /// Starts with the state that an earlier one left in `folder`.
    pub(crate) async fn start_in(folder: Option<&Path>, limits: StackLimits) -> Self {
        Self::start_with(Env::of([]), folder, limits).await
    }

    /// Starts with these variables for the handlers.
    pub(crate) async fn start_with(env: Env, folder: Option<&Path>, limits: StackLimits) -> Self {
        learnink_aws::install_tls_provider();
        let (observer, observations) = mpsc::unbounded_channel();
        // The shortest of retries.
        let random = || 0.0;
        let options = Options {
            address: ([127, 0, 0, 1], 0).into(),
            state: folder.map(|folder| State::open(folder).unwrap()),
            signing_secret: SigningSecret::Given(SECRET.to_owned()),
            limits,
            env,
            random,
            fault: None,
            observer,
        };
        let pipeline = Pipeline::start(options).await.unwrap();
        Self { pipeline, observations, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// Posts `body` as LearnInk would.
    pub(crate) async fn post(&self, id: &str, body: impl Into<Vec<u8>>) -> StatusCode {
        let body = body.into();
        let mut request = self.client.post(self.pipeline.url()).header("content-type", "application/json");
        for (name, value) in signing::headers(SECRET, id, now_s(), &body) {
            request = request.header(name, value);
        }
        request.body(body).send().await.unwrap().status()
    }

    /// A request to change before it is sent.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = reqwest::Url::parse(&self.pipeline.url()).unwrap().join(path).unwrap();
        self.client.request(method, url)
    }

    /// The next record that the consumer has finished, for now.
    pub(crate) async fn next_record(&mut self) -> RecordReport {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.observations.recv()).await;
            if let Observation::Consumed(record) = next.unwrap().unwrap() {
                return *record;
            }
        }
    }

    /// What has been consumed so far: outcomes by message id.
    pub(crate) fn outcomes(&mut self) -> HashMap<String, Vec<Outcome>> {
        let mut outcomes: HashMap<String, Vec<Outcome>> = HashMap::new();
        while let Ok(observation) = self.observations.try_recv() {
            if let Observation::Consumed(record) = observation
                && let RecordReport { message_id: Some(id), outcome, .. } = *record
            {
                outcomes.entry(id).or_default().push(outcome);
            }
        }
        outcomes
    }

    /// Waits until nothing is left on the queue.
    pub(crate) async fn drained(&self) {
        let empty = async {
            while self.pipeline.messages_sent_to(QUEUE).await > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.unwrap();
    }

    /// How many messages are on the queue and on the dead-letter queue.
    pub(crate) async fn queued(&self) -> (usize, usize) {
        let count = async |queue| self.pipeline.messages_sent_to(queue).await;
        (count(QUEUE).await, count(DEAD_LETTER_QUEUE).await)
    }

    pub(crate) async fn learners(&self) -> Vec<LearnersCourse> {
        Learners::new(self.pipeline.tables(), LEARNERS_TABLE.name).all().await.unwrap()
    }

    pub(crate) async fn unknown_events(&self) -> Vec<UnknownEvent> {
        UnknownEvents::new(self.pipeline.tables(), UNKNOWN_EVENTS_TABLE.name).all().await.unwrap()
    }

    /// A client of the embedded SQS.
    pub(crate) fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&sdk_config(self.pipeline.sqs_endpoint()))
    }

    /// The next message on the dead-letter queue.
    pub(crate) async fn dead_letter(&self) -> DeadLetter {
        let request = self
            .sqs()
            .receive_message()
            .queue_url(LocalSqs::queue_url(DEAD_LETTER_QUEUE))
            .wait_time_seconds(20)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All);
        DeadLetter(request.send().await.unwrap().messages.unwrap().remove(0))
    }
}

pub(crate) struct DeadLetter(pub(crate) Message);

impl DeadLetter {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.0.message_attributes.as_ref()?.get(name)?.string_value.as_deref()
    }

    pub(crate) fn reason(&self) -> &str {
        self.attribute("dead-letter-reason").unwrap()
    }
}

/// A `user.course.started` event at `timestamp`.
pub(crate) fn started(user_id: &str, course_id: &str, timestamp: &str) -> String {
    serde_json::json!({
        "object": "event",
        "type": "user.course.started",
        "api_version": "2022-11-15",
        "data": { "user_id": user_id, "custom_id": null, "phone_number": "+254705408079", "course_id": course_id },
        "timestamp": timestamp,
    })
    .to_string()
}
