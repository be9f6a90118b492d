//! The receiver: an HTTP request becomes a verified message on the queue, or is refused.
//!
//! It answers 200 only once SQS has confirmed the message. What a genuine body says is the
//! consumer's business: an empty one, one that isn't JSON and one of an unknown type are all
//! queued, so that nothing genuine is lost.
//!
//! | module | holds |
//! |---|---|
//! | [`verify`] | who sent it: headers, time, signature |
//! | [`queue`] | the SQS client and how its failures read |
//! | [`config`] | what the environment has to say |

pub mod config;
pub mod queue;
pub mod verify;

use std::time::{Duration, Instant};

use http::header::{ALLOW, RETRY_AFTER};
use http::{Method, StatusCode};
use jiff::Timestamp;
use lambda_http::{Body, Request, Response};
use learnink_webhook::event::peek_type;
use learnink_webhook::message::{EncodeError, LARGEST_BODY_BYTES};

pub use config::Config;
pub use queue::{EnqueueError, SqsQueue};
pub use verify::{Refusal, SecretSlot, VerifiedWebhook, Verifier};

/// The path that LearnInk posts to. A stage or a custom domain may put more in front of it.
pub const PATH: &str = "/webhooks/learnink";

/// When a sender may come back after a 503, in seconds. LearnInk's first retry waits that long.
const RETRY_AFTER_S: &str = "5";

/// Verifies webhooks and puts them on the queue.
#[derive(Debug)]
pub struct Receiver {
    verifier: Verifier,
    queue: SqsQueue,
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// Verified, and SQS confirmed the message.
    Accepted,
    /// Not proven to come from LearnInk. The sender is not told why.
    Refused(Refusal),
    /// Genuine, but larger than the queue takes.
    TooLarge(EncodeError),
    /// Larger than any request that Lambda is given; not verified.
    BodyTooLarge,
    /// Genuine, but the queue did not confirm it.
    Unavailable(EnqueueError),
    /// Not the webhook's path.
    NotFound,
    /// Not a POST.
    MethodNotAllowed,
}

/// What happened to one request, for the answer, the log and whoever watches.
#[derive(Debug)]
pub struct Receipt {
    /// How it ended.
    pub outcome: Outcome,
    /// The message id, once the signature proved it.
    pub message_id: Option<String>,
    /// The event's type, where the body has one.
    pub event_type: Option<String>,
    /// The size of the body.
    pub body_bytes: usize,
    /// Which secret the signature was made with.
    pub secret: Option<SecretSlot>,
    /// How long the headers, the time and the signature took.
    pub verify_took: Duration,
    /// How long SQS took to confirm or fail, where it was asked.
    pub enqueue_took: Option<Duration>,
}

impl Receiver {
    /// A receiver that accepts what `verifier` proves and puts it on `queue`.
    pub const fn new(verifier: Verifier, queue: SqsQueue) -> Self {
        Self { verifier, queue }
    }

    /// Handles one request: path, method, size, headers, time, signature, queue, in that order.
    /// AWS is not called and no JSON is parsed before the signature holds.
    pub async fn receive(&self, request: Request, now: Timestamp) -> Receipt {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let body = into_bytes(body);
        let mut receipt = Receipt {
            outcome: Outcome::Accepted,
            message_id: None,
            event_type: None,
            body_bytes: body.len(),
            secret: None,
            verify_took: Duration::ZERO,
            enqueue_took: None,
        };
        if !parts.uri.path().ends_with(PATH) {
            receipt.outcome = Outcome::NotFound;
        } else if parts.method != Method::POST {
            receipt.outcome = Outcome::MethodNotAllowed;
        } else if body.len() > LARGEST_BODY_BYTES {
            receipt.outcome = Outcome::BodyTooLarge;
        } else {
            let verified = self.verifier.verify(&parts.headers, body, now);
            receipt.verify_took = started.elapsed();
            match verified {
                Ok(webhook) => self.enqueue(webhook, now, &mut receipt).await,
                Err(refusal) => receipt.outcome = Outcome::Refused(refusal),
            }
        }
        receipt.log();
        receipt
    }

    async fn enqueue(&self, webhook: VerifiedWebhook, now: Timestamp, receipt: &mut Receipt) {
        receipt.secret = Some(webhook.secret());
        receipt.message_id = Some(webhook.id().to_string());
        let event_type = peek_type(webhook.body());
        receipt.event_type.clone_from(&event_type);
        receipt.outcome = match webhook.into_message(now, event_type).encode() {
            Err(error) => Outcome::TooLarge(error),
            Ok(message) => {
                let started = Instant::now();
                let sent = self.queue.send(message).await;
                receipt.enqueue_took = Some(started.elapsed());
                sent.map_or_else(Outcome::Unavailable, |()| Outcome::Accepted)
            }
        };
    }
}

fn into_bytes(body: Body) -> Vec<u8> {
    match body {
        Body::Text(text) => text.into_bytes(),
        Body::Binary(bytes) => bytes,
        // `Body` may grow variants; none that carries bytes exists today.
        _ => Vec::new(),
    }
}

impl Outcome {
    /// The HTTP status that the sender sees.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Accepted => StatusCode::OK,
            Self::Refused(_) => StatusCode::UNAUTHORIZED,
            Self::TooLarge(_) | Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The outcome's name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused(_) => "refused",
            Self::TooLarge(_) | Self::BodyTooLarge => "too_large",
            Self::Unavailable(_) => "unavailable",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// Why, for the log and the person who watches; never for the sender.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => Some(refusal.name().to_owned()),
            Self::TooLarge(error) => Some(error.to_string()),
            Self::BodyTooLarge => Some(format!("the body has more than {LARGEST_BODY_BYTES} bytes")),
            Self::Unavailable(error) => Some(error.to_string()),
            Self::Accepted | Self::NotFound | Self::MethodNotAllowed => None,
        }
    }
}

impl Receipt {
    /// The answer: a status and an empty body, with nothing in it that came from the sender.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = self.outcome.status();
        match self.outcome {
            Outcome::Unavailable(_) => {
                response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static(RETRY_AFTER_S));
            }
            Outcome::MethodNotAllowed => {
                response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("POST"));
            }
            Outcome::Accepted
            | Outcome::Refused(_)
            | Outcome::TooLarge(_)
            | Outcome::BodyTooLarge
            | Outcome::NotFound => {}
        }
        response
    }

    /// One line per request, with everything one filters by.
    fn log(&self) {
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    message.id = self.message_id,
                    event.type = self.event_type,
                    outcome = self.outcome.name(),
                    reason = self.outcome.reason(),
                    body_bytes = self.body_bytes,
                    secret = self.secret.map(SecretSlot::name),
                    verify_us = micros(self.verify_took),
                    enqueue_us = self.enqueue_took.map(micros),
                    $text
                )
            };
        }
        match self.outcome {
            Outcome::Accepted => line!(info, "accepted a webhook"),
            Outcome::Refused(_) => line!(warn, "refused a request that is not proven to be LearnInk's"),
            Outcome::TooLarge(_) => line!(error, "refused a genuine webhook that is too large for the queue"),
            Outcome::Unavailable(_) => {
                line!(error, "could not queue a genuine webhook; the sender will retry");
            }
            Outcome::BodyTooLarge | Outcome::NotFound | Outcome::MethodNotAllowed => {
                line!(warn, "refused a request that is no webhook");
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
