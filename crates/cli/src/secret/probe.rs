//! The probe: a signed webhook that shows which secrets the receiver accepts.
//!
//! The receiver answers 200 only to what it has put on the queue, so a probe that is accepted becomes a message. The
//! one that does the least harm is a JSON object without a `type`, as Svix's own test of an endpoint is. It is not an
//! event: no handler of an event type, no event bus and no forwarding gets it. The archive keeps it, with a signature
//! that can be verified, and the table of unknown events keeps it for 90 days. A genuine webhook that is too large for
//! the queue would be verified and not kept, but it raises an alarm. All tries of a probe are the same message, so that
//! the consumer handles it once.

use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::aws::AwsClock;
use crate::client::client;
use crate::now;
use crate::question::Interrupt;
use crate::send::{Signer, alphanumeric, webhook};

/// The body of every probe.
const BODY: &[u8] = br#"{"probe":"learnink secret","success":true}"#;

/// One request may take this long. A function that is not running yet has to start.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The pause between two tries. The receiver looks for a new secret after a signature that does not match, but every
/// 30 s at most.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);

/// The length of a key that nobody has, in bytes.
const KEY_BYTES: usize = 24;

/// Posts probes to a receiver.
pub(crate) struct Probe<'a> {
    client: reqwest::Client,
    url: reqwest::Url,
    receiver: Receiver,
    message_id: String,
    clock: &'a AwsClock,
    limit: Duration,
}

/// Whose receiver it is, which decides where a person looks for the reason of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    OfStack,
    OfDev,
}

impl Receiver {
    /// The name of its URL.
    const fn url(self) -> &'static str {
        match self {
            Self::OfStack => "the stack's output WebhookUrl",
            Self::OfDev => "the URL of `learnink dev`",
        }
    }

    /// Where it is said why it does not read a secret.
    const fn why_unread(self) -> &'static str {
        match self {
            Self::OfStack => {
                "the alarm `secret-refresh` and its log say why, or the stack's WebhookUrl leads to another receiver"
            }
            Self::OfDev => "started with RUST_LOG=learnink_receiver=warn, `learnink dev` says why",
        }
    }
}

/// What the receiver should do with a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Accepted,
    Refused,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Status(u16),
    /// Why there was none.
    None(&'static str),
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Done,
    /// Try again while there is time; afterwards, this is what is wrong.
    Again(String),
    /// Trying again does not help: why.
    Stop(String),
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As expected, after this time.
    AsExpected(Duration),
    /// Not as expected: why.
    Otherwise(String),
    /// Ctrl-C was pressed before.
    Interrupted,
}

impl<'a> Probe<'a> {
    /// A probe for the receiver at `url`, signed by AWS's clock, which ends after `limit`.
    pub(crate) fn new(
        url: &str,
        receiver: Receiver,
        clock: &'a AwsClock,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let url: reqwest::Url = url.parse().with_context(|| format!("{} is not a URL", receiver.url()))?;
        let client = client(&url, ANSWER_TIMEOUT)?;
        let message_id = format!("msg_probe{}", alphanumeric(22));
        Ok(Self { client, url, receiver, message_id, clock, limit })
    }

    /// Posts it, signed with `secret`, until the receiver accepts it.
    pub(crate) async fn until_accepted(
        &self,
        secret: &str,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<End> {
        let signer = Signer::new(secret)?;
        self.until(Expected::Accepted, interrupt, async || self.post(&signer).await).await
    }

    /// Posts it, signed with `secret`, until the receiver refuses it. Before each try, a request with a key that
    /// nobody has makes the receiver read its secrets again. Each try that is accepted is a duplicate of the message
    /// that [`until_accepted`](Self::until_accepted) sent.
    pub(crate) async fn until_refused(&self, secret: &str, interrupt: &mut Interrupt) -> anyhow::Result<End> {
        let key: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(KEY_BYTES).collect();
        let (nobodys, signer) =
            (Signer::new(&format!("whsec_{}", BASE64.encode(key)))?, Signer::new(secret)?);
        let post = async || {
            self.post(&nobodys).await?;
            self.post(&signer).await
        };
        self.until(Expected::Refused, interrupt, post).await
    }

    async fn until(
        &self,
        expected: Expected,
        interrupt: &mut Interrupt,
        post: impl AsyncFn() -> anyhow::Result<Answer>,
    ) -> anyhow::Result<End> {
        let started = Instant::now();
        loop {
            let answer = tokio::select! {
                answer = post() => answer?,
                () = interrupt.wait() => return Ok(End::Interrupted),
            };
            let why = match judge(expected, &answer, self.receiver) {
                Step::Done => return Ok(End::AsExpected(started.elapsed())),
                Step::Stop(why) => return Ok(End::Otherwise(why)),
                Step::Again(why) => why,
            };
            if started.elapsed() + BETWEEN_TRIES > self.limit {
                return Ok(End::Otherwise(format!("after {} s, {why}", started.elapsed().as_secs())));
            }
            tokio::select! {
                () = tokio::time::sleep(BETWEEN_TRIES) => {}
                () = interrupt.wait() => return Ok(End::Interrupted),
            }
        }
    }

    async fn post(&self, signer: &Signer) -> anyhow::Result<Answer> {
        let signed_at_s =
            now().checked_add(self.clock.ahead()).context("AWS's clock shows no time")?.as_second();
        let signature = signer.sign(&self.message_id, signed_at_s, BODY)?;
        let request = webhook(&self.client, &self.url, &self.message_id, signed_at_s, &signature);
        Ok(match request.body(BODY).send().await {
            Ok(answer) => Answer::Status(answer.status().as_u16()),
            Err(error) if error.is_timeout() => Answer::None("it does not answer in time"),
            Err(error) if error.is_connect() => Answer::None("it cannot be reached from this machine"),
            Err(_) => Answer::None("it breaks the connection"),
        })
    }
}

/// What an answer means.
fn judge(expected: Expected, answer: &Answer, receiver: Receiver) -> Step {
    match (expected, answer) {
        (Expected::Accepted, Answer::Status(200)) | (Expected::Refused, Answer::Status(401)) => Step::Done,
        (Expected::Accepted, Answer::Status(401)) => {
            Step::Again(format!("it answers 401: it does not read this secret; {}", receiver.why_unread()))
        }
        (Expected::Refused, Answer::Status(200)) => Step::Again(
            "it answers 200: it has not looked for its secrets again, which it does every five minutes"
                .to_owned(),
        ),
        (_, Answer::Status(404)) => {
            Step::Stop(format!("it answers 404: nothing receives webhooks at {}", receiver.url()))
        }
        (_, Answer::Status(status @ (400 | 403 | 405 | 413))) => {
            Step::Stop(format!("it answers {status}, which is not the receiver's answer to a webhook"))
        }
        (_, Answer::Status(status)) => Step::Again(format!("it answers {status}")),
        (_, Answer::None(why)) => Step::Again((*why).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use learnink_webhook::event::EnvelopeHead;

    use super::*;

    #[test]
    fn a_probe_is_not_an_event() {
        assert_eq!(EnvelopeHead::read(BODY).event_type, None);
    }

    #[test]
    fn an_answer_ends_a_probe_or_is_waited_for_again() {
        let step = |expected, status| match judge(expected, &Answer::Status(status), Receiver::OfStack) {
            Step::Done => "done",
            Step::Again(_) => "again",
            Step::Stop(_) => "stop",
        };
        for (status, accepted, refused) in [
            (200, "done", "again"),
            (401, "again", "done"),
            (404, "stop", "stop"),
            (413, "stop", "stop"),
            (429, "again", "again"),
            (503, "again", "again"),
        ] {
            assert_eq!(
                (step(Expected::Accepted, status), step(Expected::Refused, status)),
                (accepted, refused)
            );
        }
    }

    #[test]
    fn the_reason_of_an_answer_is_looked_for_where_the_receiver_is() {
        let said = |status, receiver| match judge(Expected::Accepted, &Answer::Status(status), receiver) {
            Step::Done => panic!("{status} is not what was expected"),
            Step::Again(why) | Step::Stop(why) => why,
        };
        for (status, of_stack, of_dev) in [
            (
                401,
                "it answers 401: it does not read this secret; the alarm `secret-refresh` and its log say why, or \
                 the stack's WebhookUrl leads to another receiver",
                "it answers 401: it does not read this secret; started with RUST_LOG=learnink_receiver=warn, \
                 `learnink dev` says why",
            ),
            (
                404,
                "it answers 404: nothing receives webhooks at the stack's output WebhookUrl",
                "it answers 404: nothing receives webhooks at the URL of `learnink dev`",
            ),
        ] {
            assert_eq!(said(status, Receiver::OfStack), of_stack);
            assert_eq!(said(status, Receiver::OfDev), of_dev);
        }
    }
}
