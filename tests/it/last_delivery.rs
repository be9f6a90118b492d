//! A message at its last delivery, and a list that is too long for one message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_sqs::types::Message as SqsSdkMessage;
use jiff::Timestamp;
use learnink_consumer::ledger::{Claim, ClaimRequest, EntryId, Recorded, Settlement};
use learnink_consumer::ledger::{Ledger, LedgerError, StoredWindow};
use learnink_consumer::report::Ended;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, RecordReport, SqsQueues};
use learnink_local::sdk_config;
use learnink_tests::engine::{Engine, QueuePair};
use learnink_webhook::event::{NotificationsSent, Payload};
use learnink_webhook::message::{LONGEST_PART, Part};
use learnink_webhook::{Event, FailureKind, HandlerError, HandlerResult, MessageId, Permits, Router};
use serde_json::json;

use crate::records::{RECEIVED_AT_S, batch, counted, delivery, drain, record};

/// How many deliveries a message has.
const MAX_RECEIVE_COUNT: u32 = 7;

/// The push sender's answer to each notification, by its position. It accepts those that are not named.
#[derive(Debug, Clone, Default)]
struct Sender {
    answers: Arc<Mutex<BTreeMap<usize, HandlerResult>>>,
    /// The keys of its requests.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Sender {
    fn answers(&self, item: usize, answer: HandlerResult) {
        self.answers.lock().unwrap().insert(item, answer);
    }

    /// The requests since the last look.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn push(event: Event<NotificationsSent>, (sender, permits): (Sender, Permits)) -> HandlerResult {
    let sender = &sender;
    let items: Vec<usize> = (0..event.data.notifications.len()).collect();
    let send = |&item: &usize, key: learnink_webhook::IdempotencyKey| async move {
        sender.asked.lock().unwrap().push(key.to_string());
        sender.answers.lock().unwrap().get(&item).cloned().unwrap_or(Ok(()))
    };
    event.for_each_item(&items, &permits, send).await
}

async fn keep(event: Event, (sender, _): (Sender, Permits)) -> HandlerResult {
    sender.asked.lock().unwrap().push(format!("{}", event.key));
    Ok(())
}

struct Stand {
    engine: Engine,
    queues: QueuePair,
    ledger: DynamoDbLedger,
    consumer: Consumer,
    sender: Sender,
    invocations: i64,
}

impl Stand {
    async fn start() -> Self {
        let engine = Engine::embedded().await;
        let queues = engine.queues(600, MAX_RECEIVE_COUNT).await;
        let ledger = DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await);
        let sender = Sender::default();
        let router = Router::new().on("push", push).on_any_webhook("keep", keep);
        let router = router.with_state((sender.clone(), Permits::new(4)));
        let sqs = SqsQueues::new(&engine.sqs, &queues.url, &queues.dead_letter_url);
        let consumer = Consumer::new(router, ledger.clone(), sqs, MAX_RECEIVE_COUNT, || 0.0);
        Self { engine, queues, ledger, consumer, sender, invocations: 0 }
    }

    /// One delivery of a record, after earlier leases have ended.
    async fn deliver(&mut self, record: SqsMessage) -> RecordReport {
        self.invocations += 1;
        let now = Timestamp::from_second(RECEIVED_AT_S + self.invocations * 60).unwrap();
        let invocation = Invocation::new(self.invocations.to_string(), now, Duration::from_secs(20));
        self.consumer.consume(&batch(vec![record]), &invocation).await.records.remove(0)
    }

    async fn drain(&self, url: &str) -> Vec<SqsSdkMessage> {
        drain(&self.engine, url).await
    }

    async fn dead_letters(&self) -> Vec<SqsSdkMessage> {
        self.drain(&self.queues.dead_letter_url).await
    }

    async fn done(&self, id: impl Into<EntryId>) -> BTreeSet<String> {
        self.ledger.entry(id).await.unwrap().map(|entry| entry.done).unwrap_or_default()
    }
}

fn id() -> MessageId {
    MessageId::parse("msg_1").unwrap()
}

/// A delivery of a list.
fn list(items: usize, receive_count: u32) -> SqsMessage {
    let event = json!({
        "type": NotificationsSent::TYPE, "api_version": "2022-11-15", "timestamp": "2026-01-01T00:00:00Z",
        "data": { "notifications": vec![json!({}); items] },
    });
    counted(record("sqs-1", "msg_1", event.to_string()), receive_count)
}

fn attribute<'a>(message: &'a SqsSdkMessage, name: &str) -> Option<&'a str> {
    message.message_attributes.as_ref()?.get(name)?.string_value()
}

fn busy() -> HandlerResult {
    Err(HandlerError::retryable("busy").retry_after(Duration::from_hours(11)))
}

fn refused() -> HandlerResult {
    Err(HandlerError::permanent("no such template"))
}

fn positions(asked: &[String]) -> Vec<usize> {
    let item = |key: &String| key.strip_prefix("msg_1/push/").and_then(|item| item.parse().ok());
    let mut items: Vec<_> = asked.iter().filter_map(item).collect();
    items.sort_unstable();
    items
}

#[tokio::test]
async fn a_message_that_fails_at_its_last_delivery_is_dead_lettered_at_once_and_with_its_reason() {
    let mut stand = Stand::start().await;
    stand.sender.answers(0, busy());
    for receive_count in 1..MAX_RECEIVE_COUNT {
        assert_eq!(stand.deliver(list(1, receive_count)).await.outcome, Outcome::Retry);
    }
    assert!(stand.dead_letters().await.is_empty());

    let last = stand.deliver(list(1, MAX_RECEIVE_COUNT)).await;
    assert_eq!((last.outcome, last.retry_in), (Outcome::DeadLettered, None));
    let letters = stand.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(attribute(&letters[0], "dead-letter-reason"), Some("1 of 1 items failed, the first: busy"));
    assert_eq!(attribute(&letters[0], "dead-letter-handler"), Some("push"));
    assert!(attribute(&letters[0], "dead-letter-deliveries").unwrap().starts_with("7 since "));
}

#[tokio::test]
async fn a_redrive_tries_all_that_is_not_done_and_the_reason_of_each_refusal_is_kept_until_then() {
    let mut stand = Stand::start().await;
    stand.sender.answers(0, refused());
    stand.sender.answers(1, busy());
    for receive_count in 1..MAX_RECEIVE_COUNT {
        stand.deliver(list(2, receive_count)).await;
    }
    assert_eq!(positions(&stand.sender.take()), [0, 1, 1, 1, 1, 1, 1]);
    let last = stand.deliver(list(2, MAX_RECEIVE_COUNT)).await;
    assert_eq!(last.outcome, Outcome::DeadLettered, "{last:?}");
    let letters = stand.dead_letters().await;
    let reason = attribute(&letters[0], "dead-letter-reason").unwrap();
    assert_eq!(
        reason,
        "1 of 2 items failed, the first: busy; 1 of 2 items will never succeed (0), item 0: no such template"
    );
    assert_eq!(stand.done(&id()).await, BTreeSet::from(["keep".to_owned()]));

    stand.sender.take();
    stand.sender.answers(0, Ok(()));
    stand.sender.answers(1, Ok(()));
    let redriven = stand.deliver(delivery(&letters[0], 1)).await;
    assert_eq!(redriven.outcome, Outcome::Processed);
    assert_eq!(positions(&stand.sender.take()), [0, 1]);
}

#[tokio::test]
async fn what_the_queue_moved_itself_is_tried_again_as_well_when_it_is_sent_again() {
    let mut stand = Stand::start().await;
    stand.sender.answers(0, refused());
    stand.sender.answers(1, busy());
    stand.deliver(list(2, 6)).await;
    // Its consumer is killed during the seventh, so that the refusals stay in the ledger.
    assert!(stand.done(&id()).await.contains("push/0!"));
    stand.sender.take();
    stand.deliver(list(2, 1)).await;
    assert_eq!(positions(&stand.sender.take()), [0, 1]);
}

#[tokio::test]
async fn refusals_are_forgotten_with_the_dead_letter_also_where_nothing_else_is_done() {
    async fn refuse(event: Event<NotificationsSent>, sender: Sender) -> HandlerResult {
        push(event, (sender, Permits::new(1))).await
    }
    let mut stand = Stand::start().await;
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    let router = Router::new().on("push", refuse).with_state(stand.sender.clone());
    stand.consumer = Consumer::new(router, stand.ledger.clone(), sqs, MAX_RECEIVE_COUNT, || 0.0);
    stand.sender.answers(0, refused());
    assert_eq!(stand.deliver(list(1, 3)).await.outcome, Outcome::DeadLettered);
    assert_eq!(stand.done(&id()).await, BTreeSet::new());
    // At any delivery of the redrive: its first may have been lost.
    assert_eq!(stand.deliver(list(1, 2)).await.outcome, Outcome::DeadLettered);
    assert_eq!(positions(&stand.sender.take()), [0, 0]);
}

#[tokio::test]
async fn a_long_list_goes_to_the_queue_in_parts_and_each_item_is_done_once() {
    let mut stand = Stand::start().await;
    let whole = stand.deliver(list(250, 1)).await;
    assert_eq!(whole.outcome, Outcome::Processed);
    assert_eq!(whole.handlers[0].ended, Ended::InParts);
    assert_eq!(stand.sender.take(), ["msg_1/keep"]);
    assert_eq!(stand.done(&id()).await, BTreeSet::from(["keep", "push"].map(str::to_owned)));

    let parts = stand.drain(&stand.queues.url).await;
    let names: BTreeSet<_> = parts.iter().map(|part| attribute(part, "part").unwrap().to_owned()).collect();
    assert_eq!(
        names,
        BTreeSet::from(["push/0-99/250", "push/100-199/250", "push/200-249/250"].map(str::to_owned))
    );
    // Sent twice, as after a crash in between: nothing is done twice.
    for part in parts.iter().chain(&parts) {
        assert_eq!(attribute(part, "svix-id"), Some("msg_1"));
        let outcome = stand.deliver(delivery(part, 1)).await.outcome;
        assert!(matches!(outcome, Outcome::Processed | Outcome::Duplicate), "{outcome:?}");
    }
    assert_eq!(positions(&stand.sender.take()), (0..250).collect::<Vec<_>>());
    for part in Part::all_of("push", 250, LONGEST_PART, false) {
        assert_eq!(stand.done(EntryId::of_part(&id(), &part)).await, BTreeSet::from(["push".to_owned()]));
    }
    assert_eq!(stand.deliver(list(250, 1)).await.outcome, Outcome::Duplicate);
    assert!(stand.drain(&stand.queues.url).await.is_empty() && stand.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_part_fails_and_is_redriven_alone_and_its_letter_says_which_it_is() {
    let mut stand = Stand::start().await;
    stand.deliver(list(150, 1)).await;
    stand.sender.answers(120, refused());
    let mut letters = Vec::new();
    for part in stand.drain(&stand.queues.url).await {
        stand.deliver(delivery(&part, 1)).await;
        letters.extend(stand.dead_letters().await);
    }
    assert_eq!(letters.len(), 1);
    assert_eq!(attribute(&letters[0], "part"), Some("push/100-149/150"));
    let reason = "1 of 50 items will never succeed (120), item 120: no such template";
    assert_eq!(attribute(&letters[0], "dead-letter-reason"), Some(reason));
    assert!(letters[0].message_attributes.as_ref().unwrap().len() <= 10);

    stand.sender.take();
    stand.sender.answers(120, Ok(()));
    assert_eq!(stand.deliver(delivery(&letters[0], 1)).await.outcome, Outcome::Processed);
    assert_eq!(positions(&stand.sender.take()), [120]);
}

#[tokio::test]
async fn only_deliveries_without_progress_count_and_a_list_gets_as_many_after_it_made_some() {
    let mut stand = Stand::start().await;
    stand.sender.answers(1, busy());
    // Item 0 is accepted at the third delivery, and nothing after that; waits also count from there.
    let mut outcomes = Vec::new();
    for receive_count in (1..=MAX_RECEIVE_COUNT).chain(1..) {
        stand.sender.answers(0, if outcomes.len() < 2 { busy() } else { Ok(()) });
        outcomes.push(stand.deliver(list(2, receive_count)).await.outcome);
        if outcomes.last() == Some(&Outcome::DeadLettered) {
            break;
        }
    }
    // Seven after the third: four of this send, and three of the next.
    assert_eq!(outcomes.len(), 10);
    let afresh = outcomes.iter().position(|outcome| *outcome == Outcome::SentAgain);
    assert_eq!(afresh, Some(6));
    assert_eq!(stand.dead_letters().await.len(), 1);
    // A redrive starts a new count.
    assert_eq!(stand.deliver(list(2, 1)).await.outcome, Outcome::Retry);
}

#[tokio::test]
async fn a_message_whose_ledger_does_not_answer_has_that_as_its_reason() {
    let mut stand = Stand::start().await;
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    let nowhere = DynamoDbLedger::new(&sdk_config("http://127.0.0.1:1"), "none");
    let router = Router::new().on("push", push).with_state((stand.sender.clone(), Permits::new(1)));
    stand.consumer = Consumer::new(router, nowhere, sqs, MAX_RECEIVE_COUNT, || 0.0);
    assert_eq!(stand.deliver(list(1, 6)).await.outcome, Outcome::Retry);
    assert_eq!(stand.deliver(list(1, 7)).await.outcome, Outcome::DeadLettered);
    let letters = stand.dead_letters().await;
    let reason = attribute(&letters[0], "dead-letter-reason").unwrap();
    assert!(reason.starts_with("could not claim a message in the ledger"), "{reason}");
    assert!(stand.sender.take().is_empty());
}

/// A ledger that does not answer where the replay windows are read.
struct WithoutWindows(DynamoDbLedger);

impl Ledger for WithoutWindows {
    async fn claim(&self, requests: Vec<ClaimRequest>) -> Vec<Result<Claim, LedgerError>> {
        self.0.claim(requests).await
    }

    async fn note(&self, id: &EntryId, owner: &str, done: Vec<String>) -> Result<Recorded, LedgerError> {
        self.0.note(id, owner, done).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Recorded, LedgerError>> {
        self.0.settle(settlements).await
    }

    async fn replay_windows(&self) -> Result<Vec<StoredWindow>, LedgerError> {
        Err(LedgerError::new("read the replay windows", "no answer"))
    }
}

#[tokio::test]
async fn a_list_that_made_progress_waits_and_ends_by_its_failures_where_the_ledger_fails_before_it() {
    let mut stand = Stand::start().await;
    stand.sender.answers(0, Err(HandlerError::retryable("busy")));
    // It made progress at the fifth delivery.
    assert_eq!(stand.deliver(list(2, 5)).await.outcome, Outcome::Retry);
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    let router = Router::new().on("push", push).with_state((stand.sender.clone(), Permits::new(1)));
    let ledger = WithoutWindows(stand.ledger.clone());
    let broken = Consumer::new(router, ledger, sqs, MAX_RECEIVE_COUNT, || 0.5);
    let mut minute = 60;
    let mut deliver = async |receive_count| {
        minute += 1;
        let now = Timestamp::from_second(RECEIVED_AT_S + minute * 60).unwrap();
        let invocation = Invocation::new(minute.to_string(), now, Duration::from_secs(20));
        broken.consume(&batch(vec![list(2, receive_count)]), &invocation).await.records.remove(0)
    };
    // The sixth and the seventh are the first two that failed without progress.
    let sixth = deliver(6).await;
    assert_eq!(sixth.outcome, Outcome::Retry);
    assert!(sixth.failure.unwrap().text().contains("could not read the replay windows"));
    assert!(deliver(6).await.outcome == Outcome::Retry && stand.done(&id()).await.contains("push+2"));
    assert_eq!(deliver(7).await.outcome, Outcome::SentAgain);
    assert!(stand.dead_letters().await.is_empty());
    // Without progress it gets as many deliveries as any message, and is then dead-lettered with the reason.
    for receive_count in 1..=3 {
        assert_eq!(deliver(receive_count).await.outcome, Outcome::Retry);
    }
    assert_eq!(deliver(4).await.outcome, Outcome::DeadLettered);
    let letters = stand.dead_letters().await;
    let reason = attribute(&letters[0], "dead-letter-reason").unwrap();
    assert!(reason.starts_with("could not read the replay windows"), "{reason}");
    assert_eq!(stand.done(&id()).await, BTreeSet::from(["push/1".to_owned(), "keep".to_owned()]));
}

#[tokio::test]
async fn a_part_whose_handler_is_gone_is_dead_lettered_and_says_so() {
    let mut stand = Stand::start().await;
    stand.deliver(list(150, 1)).await;
    let part = stand.drain(&stand.queues.url).await.remove(0);
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    let router = Router::new().on_any("keep", keep).with_state((stand.sender.clone(), Permits::new(1)));
    stand.consumer = Consumer::new(router, stand.ledger.clone(), sqs, MAX_RECEIVE_COUNT, || 0.0);
    stand.sender.take();
    assert_eq!(stand.deliver(delivery(&part, 1)).await.outcome, Outcome::DeadLettered);
    let letters = stand.dead_letters().await;
    let reason = "no handler `push` is registered for this part of its list";
    assert_eq!(attribute(&letters[0], "dead-letter-reason"), Some(reason));
    assert!(stand.sender.take().is_empty(), "a part runs no other handler");
}

#[tokio::test]
async fn a_body_that_is_not_an_event_is_kept_before_it_is_dead_lettered() {
    let mut stand = Stand::start().await;
    for body in ["not json", "[1]", "1"] {
        let id = format!("msg_{}", body.len());
        let report = stand.deliver(counted(record("sqs-1", &id, body.to_owned()), 1)).await;
        assert_eq!(report.outcome, Outcome::DeadLettered, "{body}");
        assert_eq!(stand.sender.take(), [format!("{id}/keep")]);
        let letters = stand.dead_letters().await;
        assert!(attribute(&letters[0], "dead-letter-reason").unwrap().starts_with("the body is"), "{body}");
        // A redrive finds it kept.
        assert_eq!(stand.deliver(delivery(&letters[0], 1)).await.outcome, Outcome::DeadLettered);
        assert!(stand.sender.take().is_empty());
        stand.dead_letters().await;
    }
}

#[tokio::test]
async fn a_message_that_somebody_else_is_at_work_on_is_not_dead_lettered() {
    let mut stand = Stand::start().await;
    let now = Timestamp::from_second(RECEIVED_AT_S + 60).unwrap();
    let both = batch(vec![list(1, 7), list(1, 7)]);
    let invocation = Invocation::new("both", now, Duration::from_secs(20));
    let report = stand.consumer.consume(&both, &invocation).await;
    let outcomes: Vec<_> = report.records.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Processed, Outcome::SentAgain]);
    assert!(report.response().unwrap().batch_item_failures.is_empty());
    assert!(stand.dead_letters().await.is_empty());
    stand.invocations += 2;
    assert_eq!(stand.deliver(list(1, 1)).await.outcome, Outcome::Duplicate);
}

#[tokio::test]
async fn a_list_that_had_no_turn_is_neither_kept_waiting_nor_dead_lettered() {
    /// Takes the only permit and keeps it, for the message with the other id.
    async fn greedy(event: Event<NotificationsSent>, permits: Permits) -> HandlerResult {
        let is_other = event.id() != &id();
        let work = async |_: &_, _| {
            if is_other {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        event.for_each_item(&event.data.notifications, &permits, work).await
    }
    let mut stand = Stand::start().await;
    let router = Router::new().on("push", greedy).with_state(Permits::new(1));
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    stand.consumer = Consumer::new(router, stand.ledger.clone(), sqs, MAX_RECEIVE_COUNT, || 1.0);
    let mut other = list(1, 1);
    other.message_attributes.get_mut("svix-id").unwrap().string_value = Some("msg_0".to_owned());
    for receive_count in 6..=MAX_RECEIVE_COUNT {
        stand.invocations += 1;
        let now = Timestamp::from_second(RECEIVED_AT_S + stand.invocations * 60).unwrap();
        let invocation = Invocation::new(receive_count.to_string(), now, Duration::from_secs(2));
        let both = batch(vec![other.clone(), list(1, receive_count)]);
        let report = stand.consumer.consume(&both, &invocation).await.records.remove(1);
        assert_eq!(report.handlers[0].ended.kind(), Some(FailureKind::Unfinished), "{report:?}");
        let expected = if receive_count < MAX_RECEIVE_COUNT { Outcome::Retry } else { Outcome::SentAgain };
        assert_eq!(report.outcome, expected, "{report:?}");
    }
    assert_eq!(stand.deliver(list(1, 1)).await.outcome, Outcome::Processed);
    assert!(stand.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_list_that_gets_further_is_not_kept_waiting_for_the_deliveries_that_it_took() {
    let mut stand = Stand::start().await;
    let router = Router::new().on("push", push).with_state((stand.sender.clone(), Permits::new(4)));
    let sqs = SqsQueues::new(&stand.engine.sqs, &stand.queues.url, &stand.queues.dead_letter_url);
    stand.consumer = Consumer::new(router, stand.ledger.clone(), sqs, MAX_RECEIVE_COUNT, || 1.0);
    // On the queue, so that it can be hidden.
    let send = stand.engine.sqs_client().send_message().queue_url(&stand.queues.url);
    send.message_body("list").send().await.unwrap();
    let receive = stand.engine.sqs_client().receive_message().queue_url(&stand.queues.url);
    let received = receive.send().await.unwrap().messages.unwrap().remove(0);
    let hidden = |receive_count| {
        let mut record = list(2, receive_count);
        record.receipt_handle.clone_from(&received.receipt_handle);
        record
    };
    stand.sender.answers(1, Err(HandlerError::retryable("busy")));
    let mut waits = Vec::new();
    for receive_count in 4..=6 {
        waits.push(stand.deliver(hidden(receive_count)).await.retry_in.unwrap().as_secs());
    }
    // Item 0 is accepted at the fourth delivery: the wait is that after a first failure, and grows from there.
    assert_eq!(waits, [30, 120, 480]);
}
