//! One signed synthetic event through the public URL, and its three times.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use learnink_consumer::ledger::{Entry, EntryId};
use learnink_webhook::MessageId;
use serde::Serialize;

use super::checks::{Events, Finding, Judgement};
use super::look::{event_body, output, signed_request, status};
use super::remedy::{Remedy, Shell};
use crate::client::client;
use crate::ledger::{self, OpenLedger};
use crate::now;
use crate::output::note;
use crate::replay::fresh_id;
use crate::send::{ANSWER_TIMEOUT, Signer};
use crate::stack::Stack;

/// How long the handlers may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often the ledger is asked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The waits after a 401: the receiver looks for a new secret when a signature does not match, and every 30 s at most.
const WAITS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20)];

/// How an event ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// All handlers are done.
    Done(Times),
    /// The URL did not answer 200.
    NotAccepted(Result<u16, String>),
    /// It was accepted, and no consumer has claimed it.
    NotClaimed,
    /// It was claimed, and its handlers have not ended.
    NotDone(Option<String>),
    /// The ledger could not be read.
    Unknown(String),
}

/// The times of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Times {
    pub(super) message_id: String,
    /// From the request to the answer 200, in milliseconds.
    pub(super) accepted_ms: u64,
    /// From the answer until the ledger showed the claim, in milliseconds: by this machine's clock, and including the
    /// time to ask.
    pub(super) claimed_ms: u64,
    /// From the claim until all handlers were done, in milliseconds: by the consumer's clock.
    pub(super) done_ms: u64,
    /// The handlers that ran.
    pub(super) handlers: Vec<String>,
}

/// Sends an event, and waits for its end.
pub(super) async fn send(stack: &Stack, signer: &Signer) -> anyhow::Result<End> {
    let Ok(table) = output(stack, "LedgerTableName") else { return Ok(End::NotClaimed) };
    let url: reqwest::Url = stack.output("WebhookUrl")?.parse()?;
    let (client, ledger) = (client(&url, ANSWER_TIMEOUT)?, OpenLedger::in_aws(&stack.aws, table));
    let id = MessageId::parse(&format!("msg_doctor{}", fresh_id()))?;
    let body = event_body(now());
    let post = async || {
        let request = signed_request(&client, &url, signer, id.as_str(), now(), body.clone())?;
        let started = Instant::now();
        anyhow::Ok((status(request).await, started.elapsed()))
    };
    let mut waits = WAITS.into_iter();
    let accepted = loop {
        match post().await? {
            (Ok(200), took) => break took,
            (Ok(401), _) => match waits.next() {
                Some(wait) => {
                    note(format!(
                        "the receiver does not have the stored secret yet; trying again in {} s",
                        wait.as_secs()
                    ))?;
                    tokio::time::sleep(wait).await;
                }
                None => return Ok(End::NotAccepted(Ok(401))),
            },
            (answer, _) => return Ok(End::NotAccepted(answer)),
        }
    };
    let end = wait_until_done(&ledger, &id, accepted).await;
    // As LearnInk's retries do. Of what this command sends, as much is accepted as is refused: otherwise the alarm
    // `refused-share` would fire where nobody else sends anything.
    let _ = post().await?;
    Ok(end)
}

async fn wait_until_done(ledger: &OpenLedger, id: &MessageId, accepted: Duration) -> End {
    let started = Instant::now();
    let mut claimed = None;
    loop {
        let entry = match ledger.entry(EntryId::from(id)).await {
            Ok(entry) => entry,
            Err(error) => return End::Unknown(format!("{error:#}")),
        };
        if entry.is_some() {
            claimed.get_or_insert_with(|| started.elapsed());
        }
        match (progress(entry.as_ref()), claimed) {
            (Progress::Done { took_ms, handlers }, Some(claimed)) => {
                return End::Done(Times {
                    message_id: id.to_string(),
                    accepted_ms: milliseconds(accepted),
                    claimed_ms: milliseconds(claimed),
                    done_ms: took_ms,
                    handlers,
                });
            }
            (Progress::NotClaimed, _) if started.elapsed() > PATIENCE => return End::NotClaimed,
            (Progress::NotDone(reason), _) if started.elapsed() > PATIENCE => return End::NotDone(reason),
            _ => {}
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// How far an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    NotClaimed,
    NotDone(Option<String>),
    Done { took_ms: u64, handlers: Vec<String> },
}

/// How far an event is, by the ledger.
fn progress(entry: Option<&Entry>) -> Progress {
    let Some(entry) = entry else { return Progress::NotClaimed };
    if !ledger::is_done(entry) {
        return Progress::NotDone(entry.failure_reason.clone());
    }
    let took = entry.settled_at_ms.saturating_sub(entry.first_seen_ms);
    Progress::Done {
        took_ms: u64::try_from(took).unwrap_or_default(),
        handlers: entry.done.iter().cloned().collect(),
    }
}

/// Judges how an event ended.
pub(super) fn judge(end: &End, stack: &Stack, shell: &Shell, now: Timestamp) -> Judgement {
    let found = |what: String, remedy| Judgement::Found(vec![Finding { what, remedy, events: Events::Stop }]);
    let log = |function: &'static str| {
        let function = stack.optional(function).unwrap_or_default();
        let since = now.as_millisecond() - 10 * 60 * 1000;
        let group = learnink_local::terminal::option("--log-group-name", format!("/aws/lambda/{function}"));
        Remedy::command(shell.aws(&format!(
            "logs filter-log-events {group} --start-time {since} --query 'events[].message' --output text"
        )))
    };
    match end {
        End::Done(times) => {
            let Times { message_id, accepted_ms, claimed_ms, done_ms, handlers } = times;
            let by = if handlers.is_empty() { String::new() } else { format!(" by {}", handlers.join(", ")) };
            Judgement::Good(format!(
                "{message_id} was accepted in {accepted_ms} ms, claimed within {claimed_ms} ms and done{by} after \
                 another {done_ms} ms"
            ))
        }
        End::NotAccepted(Ok(401)) => found(
            "a signed event is answered 401: the receiver has another secret than the one that is stored"
                .to_owned(),
            Remedy::command(shell.learnink("secret put")),
        ),
        End::NotAccepted(Ok(status)) => {
            found(format!("a signed event is answered {status} instead of 200"), log("ReceiverFunctionName"))
        }
        End::NotAccepted(Err(why)) => {
            found(format!("a signed event is not answered: {why}"), log("ReceiverFunctionName"))
        }
        End::NotClaimed => {
            let what = "a signed event was accepted, and no consumer has claimed it within a minute";
            found(what.to_owned(), log("ConsumerFunctionName"))
        }
        End::NotDone(reason) => {
            let reason = reason.as_deref().unwrap_or("a handler still runs");
            let what = format!("a signed event was accepted, and not done within a minute: {reason}");
            found(what, log("ConsumerFunctionName"))
        }
        End::Unknown(why) => {
            let remedy = Remedy::note("allow dynamodb:GetItem to the role that you use, if it is missing");
            found(format!("a signed event was accepted, and its end is not known: {why}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use learnink_consumer::ledger::Lease;

    use super::*;

    fn entry(lease: Option<&str>, reason: Option<&str>) -> Entry {
        Entry {
            payload_sha256: "aa".to_owned(),
            done: BTreeSet::from(["archive".to_owned(), "unknown".to_owned()]),
            lease: lease.map(|owner| Lease { owner: owner.to_owned(), until_ms: 9 }),
            settled_at_ms: 1_250,
            first_seen_ms: 1_000,
            expires_at_s: 9,
            failure_reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn an_event_is_done_only_without_a_lease_and_without_a_reason() {
        assert_eq!(progress(None), Progress::NotClaimed);
        assert_eq!(progress(Some(&entry(Some("a"), None))), Progress::NotDone(None));
        assert_eq!(
            progress(Some(&entry(None, Some("push: busy")))),
            Progress::NotDone(Some("push: busy".to_owned()))
        );
        let done =
            Progress::Done { took_ms: 250, handlers: vec!["archive".to_owned(), "unknown".to_owned()] };
        assert_eq!(progress(Some(&entry(None, None))), done);
    }

    #[test]
    fn every_end_but_one_is_a_finding_with_a_remedy() {
        let stack = Stack::of_test("s", &[], &[("ConsumerFunctionName", "s-consumer")]);
        let now = Timestamp::from_second(1_000).unwrap();
        let judged = |end: End| judge(&end, &stack, &Shell::of_test(), now);
        let times = Times {
            message_id: "msg_1".to_owned(),
            accepted_ms: 90,
            claimed_ms: 80,
            done_ms: 70,
            handlers: vec!["unknown".to_owned()],
        };
        let Judgement::Good(text) = judged(End::Done(times)) else { panic!("it is done") };
        assert_eq!(
            text,
            "msg_1 was accepted in 90 ms, claimed within 80 ms and done by unknown after another 70 ms"
        );
        for end in [
            End::NotAccepted(Ok(401)),
            End::NotAccepted(Ok(503)),
            End::NotAccepted(Err("no connection".to_owned())),
            End::NotClaimed,
            End::NotDone(Some("archive: busy".to_owned())),
            End::Unknown("no answer".to_owned()),
        ] {
            let Judgement::Found(findings) = judged(end.clone()) else { panic!("{end:?}") };
            let remedy = &findings[0].remedy;
            assert!(!remedy.commands.is_empty() || remedy.note.is_some(), "{end:?}");
        }
    }
}
