//! The result of one request: the answer to the sender, and the log line.

use std::time::Duration;

use jiff::Timestamp;
use learnink_aws::CallError;
use learnink_telemetry::{Dimensions, Place, Unit, WideEvent};
use learnink_webhook::message::{EncodeError, LARGEST_BODY_BYTES};
use serde::Serialize;
use tracing::Level;

use crate::secrets::Refresh;
use crate::verify::{Refusal, SecretSlot};

/// How long a sender has to wait after a 503, in seconds. LearnInk's first retry waits that long.
const RETRY_AFTER_S: &str = "5";

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// Verified, and SQS confirmed the message.
    Accepted,
    /// Not proven to come from LearnInk. The sender is not told why.
    Refused(Refusal),
    /// Genuine, but too large for the queue.
    TooLarge(EncodeError),
    /// Larger than any request that Lambda receives; not verified.
    BodyTooLarge,
    /// Genuine, but the queue did not confirm it.
    Unavailable(CallError),
    /// Not the webhook's path.
    NotFound,
    /// Not a POST.
    MethodNotAllowed,
    /// Not an HTTP API request at all: somebody invoked the function by hand.
    NoRequest,
}

/// What happened to one request. It holds nothing personal: ids, sizes, times, names of reasons.
#[derive(Debug)]
pub struct Receipt {
    /// When it was received.
    pub received_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// The message id, once the signature proved it.
    pub message_id: Option<String>,
    /// The id that an unverified request claims, if it looks like one of Svix's.
    pub claimed_message_id: Option<String>,
    /// The event's type, if the body has one.
    pub event_type: Option<String>,
    /// When the event happened, if the body says so.
    pub occurred_at: Option<Timestamp>,
    /// Unix seconds at which this delivery was signed, once the signature proved it.
    pub signed_at_s: Option<i64>,
    /// The size of the body.
    pub body_bytes: usize,
    /// Which secret the signature was made with.
    pub secret: Option<SecretSlot>,
    /// Whether the newest signature is of an unknown secret, or of an unsupported version.
    pub has_unknown_signature: bool,
    /// The result of reading the secrets again, if it was time to.
    pub refresh: Option<Refresh>,
    /// How long the headers, the time and the signature took.
    pub verify_took: Duration,
    /// How long SQS took to confirm or fail, if it was asked.
    pub enqueue_took: Option<Duration>,
}

/// The state of a rotation of LearnInk's secret, from a genuine webhook's signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The newest signature is of an unknown secret, or of an unsupported version. The new secret has to be stored
    /// before LearnInk signs only with it, which is 24 hours after the rotation.
    NewSecretMissing,
    /// Only the previous secret matched: LearnInk does not sign with the current one, or not yet.
    PreviousSecretOnly,
}

/// The HTTP answer in the shape that API Gateway reads, payload format version 2.0. It has a status, at most one
/// header, no body, and nothing from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The HTTP status.
    pub status_code: u16,
    /// The headers, which tell the sender what to do.
    pub headers: AnswerHeaders,
}

/// The headers of an [`Answer`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AnswerHeaders {
    /// Seconds to wait before the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<&'static str>,
    /// The method to use instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<&'static str>,
}

impl Outcome {
    /// The answer to the sender.
    pub fn answer(&self) -> Answer {
        let status = |status_code| Answer { status_code, headers: AnswerHeaders::default() };
        match self {
            Self::Accepted => status(200),
            Self::NoRequest => status(400),
            Self::Refused(_) => status(401),
            Self::NotFound => status(404),
            Self::MethodNotAllowed => {
                Answer { headers: AnswerHeaders { allow: Some("POST"), retry_after: None }, ..status(405) }
            }
            Self::TooLarge(_) | Self::BodyTooLarge => status(413),
            Self::Unavailable(_) => Answer {
                headers: AnswerHeaders { allow: None, retry_after: Some(RETRY_AFTER_S) },
                ..status(503)
            },
        }
    }

    /// The outcome's name in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused(_) => "refused",
            Self::TooLarge(_) | Self::BodyTooLarge => "too_large",
            Self::Unavailable(_) => "unavailable",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoRequest => "no_request",
        }
    }

    /// The name of the reason: one of a few, for a filter or a metric's dimension.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.name()),
            Self::Unavailable(error) => Some(error.name()),
            Self::Accepted
            | Self::TooLarge(_)
            | Self::BodyTooLarge
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NoRequest => None,
        }
    }

    /// Details of the reason, for the operator; never for the sender.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::TooLarge(error) => Some(error.to_string()),
            Self::BodyTooLarge => Some(format!("the body has more than {LARGEST_BODY_BYTES} bytes")),
            Self::Unavailable(error) => Some(error.to_string()),
            Self::Refused(refusal) => Some(refusal.to_string()),
            Self::Accepted | Self::NotFound | Self::MethodNotAllowed | Self::NoRequest => None,
        }
    }

    const fn level(&self) -> Level {
        match self {
            Self::Accepted => Level::INFO,
            Self::Refused(_)
            | Self::BodyTooLarge
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NoRequest => Level::WARN,
            Self::TooLarge(_) | Self::Unavailable(_) => Level::ERROR,
        }
    }

    const fn message(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted a webhook",
            Self::Refused(_) => "refused a request that is not proven to be LearnInk's",
            Self::TooLarge(_) => "refused a genuine webhook that is too large for the queue",
            Self::Unavailable(_) => "could not queue a genuine webhook; the sender will retry",
            Self::BodyTooLarge | Self::NotFound | Self::MethodNotAllowed | Self::NoRequest => {
                "refused a request that is not a webhook"
            }
        }
    }
}

const BY_FUNCTION: Dimensions = &[&["function"]];
const BY_REASON: Dimensions = &[&["function"], &["function", "reason"]];
const BY_SECRET: Dimensions = &[&["function"], &["function", "secret"]];

impl Receipt {
    /// A receipt without a result so far.
    pub const fn new(received_at: Timestamp) -> Self {
        Self {
            received_at,
            outcome: Outcome::NoRequest,
            message_id: None,
            claimed_message_id: None,
            event_type: None,
            occurred_at: None,
            signed_at_s: None,
            body_bytes: 0,
            secret: None,
            has_unknown_signature: false,
            refresh: None,
            verify_took: Duration::ZERO,
            enqueue_took: None,
        }
    }

    /// The state of a rotation; `None` if the signatures show none, or the request was not verified.
    pub const fn rotation(&self) -> Option<Rotation> {
        match (self.secret, self.has_unknown_signature) {
            (None, _) | (Some(SecretSlot::Current), false) => None,
            (Some(_), true) => Some(Rotation::NewSecretMissing),
            (Some(SecretSlot::Previous), false) => Some(Rotation::PreviousSecretOnly),
        }
    }

    /// The one log line of this request: the fields to filter by, and its metrics.
    pub fn line(&self, place: Place<'_>) -> WideEvent {
        let Self { outcome, received_at, .. } = self;
        let mut line = WideEvent::new(outcome.level(), outcome.message(), *received_at);
        line.place(place);
        line.field("message.id", &self.message_id);
        line.field("claimed.message.id", &self.claimed_message_id);
        line.field("event.type", &self.event_type);
        line.field("outcome", outcome.name());
        line.field("reason", outcome.reason());
        line.field("detail", outcome.detail());
        line.field("body_bytes", self.body_bytes);
        line.field("secret", self.secret.map(SecretSlot::name));
        line.field("secret_refresh", self.refresh.as_ref().map(Refresh::name));
        line.field("verify_us", self.verify_took.as_micros());
        let since = |second: i64| received_at.as_second().saturating_sub(second);
        line.field("clock_skew_s", self.signed_at_s.map(since));
        line.field("offline_lag_s", self.occurred_at.map(|at| since(at.as_second())));
        self.add_metrics(&mut line);
        line
    }

    fn add_metrics(&self, line: &mut WideEvent) {
        match self.outcome {
            Outcome::Accepted => {
                line.metric("Accepted", Unit::Count, 1, BY_SECRET);
                // So that the metric's average is the share of refused requests.
                line.metric("Refused", Unit::Count, 0, BY_FUNCTION);
                // So that the metric's minimum shows whether any request matched another secret.
                let is_previous = self.secret == Some(SecretSlot::Previous);
                line.metric("PreviousSecret", Unit::Count, u8::from(is_previous), BY_FUNCTION);
                // Likewise: whether all had a signature newer than all secrets here.
                let is_unknown = u8::from(self.has_unknown_signature);
                line.metric("UnknownSignature", Unit::Count, is_unknown, BY_FUNCTION);
                // During a gradual rollout, a filter of the log group makes a metric of it: its average is the share
                // of a version's webhooks that were not queued.
                line.field("Failed", 0);
            }
            Outcome::Refused(_) => line.metric("Refused", Unit::Count, 1, BY_REASON),
            Outcome::TooLarge(_) => line.metric("TooLarge", Unit::Count, 1, BY_FUNCTION),
            Outcome::Unavailable(_) => {
                line.metric("Unavailable", Unit::Count, 1, BY_REASON);
                line.field("Failed", 1);
            }
            Outcome::BodyTooLarge | Outcome::NotFound | Outcome::MethodNotAllowed | Outcome::NoRequest => {
                line.metric("NoWebhook", Unit::Count, 1, BY_FUNCTION);
            }
        }
        if let Some(Refresh::Failed(_)) = self.refresh {
            line.metric("SecretRefreshFailed", Unit::Count, 1, BY_FUNCTION);
        }
        line.metric("EnqueueTime", Unit::Milliseconds, self.enqueue_took.map(milliseconds), BY_FUNCTION);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
