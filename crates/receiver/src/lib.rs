//! The receiver: an HTTP request becomes a verified message on the queue, or is refused.
//!
//! It answers 200 only once SQS has confirmed the message. The content of a genuine body is for the consumer: an
//! empty body, one that is not JSON and one of an unknown type are all queued, so that nothing genuine is lost.
//!
//! | module | holds |
//! |---|---|
//! | [`request`] | the parts of an HTTP API request that are read |
//! | [`verify`] | who sent it: headers, time, signature |
//! | [`secrets`] | the signing secrets, and when they are read again |
//! | [`queue`] | the SQS client |
//! | [`receipt`] | the result of a request: the answer, the log line, the metrics |
//! | [`config`] | the configuration, from environment variables |

mod aws;
pub mod config;
pub mod queue;
pub mod receipt;
pub mod request;
pub mod secrets;
pub mod verify;

use std::time::Instant;

use futures_util::future::join;
use http::HeaderMap;
use jiff::Timestamp;
use learnink_aws::RefreshCause;
use learnink_webhook::event::EnvelopeHead;
use learnink_webhook::message::{LARGEST_BODY_BYTES, QueueMessage};

pub use aws::OPERATION_TIMEOUT;
pub use config::Config;
pub use queue::SqsQueue;
pub use receipt::{Answer, Outcome, Receipt, Rotation};
pub use request::{GatewayEvent, Request, signature_headers};
pub use secrets::{Refresh, SigningSecrets};
pub use verify::{Refusal, SecretSlot, Unverified, VerifiedWebhook, Verifier, claimed_id};

/// The path that LearnInk posts to. A stage or a custom domain may add a prefix to it.
pub const PATH: &str = "/webhooks/learnink";

/// Verifies webhooks and puts them on the queue.
#[derive(Debug)]
pub struct Receiver {
    secrets: SigningSecrets,
    queue: SqsQueue,
}

impl Receiver {
    /// A receiver at [`PATH`] that verifies webhooks with `secrets` and puts them on `queue`.
    pub const fn new(secrets: SigningSecrets, queue: SqsQueue) -> Self {
        Self { secrets, queue }
    }

    /// Handles one request: path, method, size, headers, time, signature, queue, in that order.
    pub async fn receive(&self, event: GatewayEvent, now: Timestamp) -> Receipt {
        let mut receipt = Receipt::new(now);
        receipt.outcome = match self.admit(event, &mut receipt).await {
            Ok(message) => self.enqueue(message, &mut receipt).await,
            Err(outcome) => outcome,
        };
        receipt
    }

    /// Everything before the queue: turns a genuine request into the message for it. JSON is parsed only after the
    /// signature is verified, and AWS is called only when it is time to look for new secrets.
    ///
    /// # Errors
    ///
    /// The [`Outcome`] of a request that is not queued.
    pub async fn admit(&self, event: GatewayEvent, receipt: &mut Receipt) -> Result<QueueMessage, Outcome> {
        let Request { headers, body, .. } = Self::addressed(event)?;
        let webhook = self.proven(&headers, body, receipt).await;
        if webhook.is_err() {
            receipt.claimed_message_id = claimed_id(&headers).map(|id| id.to_string());
        }
        let webhook = webhook?;

        let EnvelopeHead { event_type, occurred_at } = EnvelopeHead::read(webhook.body());
        receipt.message_id = Some(webhook.id().to_string());
        receipt.event_type.clone_from(&event_type);
        receipt.occurred_at = occurred_at;
        receipt.signed_at_s = Some(webhook.signed_at_s());
        receipt.secret = Some(webhook.secret());
        receipt.has_unknown_signature = webhook.has_unknown_signature();
        webhook.into_message(receipt.received_at, event_type).encode().map_err(Outcome::TooLarge)
    }

    /// Checks the size, the headers, the time and the signature.
    async fn proven(
        &self,
        headers: &HeaderMap,
        body: Option<Vec<u8>>,
        receipt: &mut Receipt,
    ) -> Result<VerifiedWebhook, Outcome> {
        let body = body.ok_or(Outcome::Refused(Refusal::BodyNotBase64))?;
        receipt.body_bytes = body.len();
        if body.len() > LARGEST_BODY_BYTES {
            return Err(Outcome::BodyTooLarge);
        }

        let mut verified = self.verify(headers, body, receipt);
        if let Err(Unverified { refusal: Refusal::NoMatchingSignature, body }) = verified {
            receipt.refresh = self.secrets.refresh(RefreshCause::NotAccepted, receipt.received_at).await;
            verified = match receipt.refresh {
                Some(Refresh::Read) => self.verify(headers, body, receipt),
                Some(Refresh::Failed(_)) | None => {
                    Err(Unverified { refusal: Refusal::NoMatchingSignature, body })
                }
            };
        }
        verified.map_err(|unverified| Outcome::Refused(unverified.refusal))
    }

    fn verify(
        &self,
        headers: &HeaderMap,
        body: Vec<u8>,
        receipt: &mut Receipt,
    ) -> Result<VerifiedWebhook, Unverified> {
        let started = Instant::now();
        let verified = self.secrets.verifier().verify(headers, body, receipt.received_at);
        receipt.verify_took += started.elapsed();
        verified
    }

    /// The request, if its path and method are the webhook's.
    fn addressed(event: GatewayEvent) -> Result<Request, Outcome> {
        let request = event.0.ok_or(Outcome::NoRequest)?;
        if !request.path.ends_with(PATH) {
            Err(Outcome::NotFound)
        } else if request.method == "POST" {
            Ok(request)
        } else {
            Err(Outcome::MethodNotAllowed)
        }
    }

    async fn enqueue(&self, message: QueueMessage, receipt: &mut Receipt) -> Outcome {
        let send = async {
            let started = Instant::now();
            (self.queue.send(message).await, started.elapsed())
        };
        let ((result, took), refresh) =
            join(send, self.secrets.refresh(RefreshCause::Age, receipt.received_at)).await;
        receipt.enqueue_took = Some(took);
        receipt.refresh = refresh.or(receipt.refresh.take());
        result.map_or_else(Outcome::Unavailable, |()| Outcome::Accepted)
    }
}

#[cfg(test)]
mod tests;
