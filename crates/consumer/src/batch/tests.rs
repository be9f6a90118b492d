//! One invocation of the engine: what the report of a record says, and what the ledger and the queues are asked. The
//! model test has many invocations, and looks at what becomes of the messages.

use std::collections::HashMap;
use std::sync::MutexGuard;

use aws_lambda_events::sqs::SqsMessageAttribute;
use learnink_webhook::breaker::OPENS_AFTER;
use learnink_webhook::event::NotificationsSent;
use learnink_webhook::{HandlerResult, Permits, Router};

use super::*;
use crate::ledger::{Entry, Lease, LedgerError, Settlement, UnreadableWindow, judge, judge_settlement};
use crate::replay::{Coverage, Run as ReplayRun};

const BODY: &str = r#"{"object":"event","type":"user.course.started","api_version":"2022-11-15","data":{},
    "timestamp":"2026-01-02T09:59:59Z"}"#;

const NOW_S: i64 = 1_767_348_000;

const MAX_RECEIVE_COUNT: u32 = 7;

const INVOCATION: Duration = Duration::from_secs(30);

/// A ledger and two queues in memory.
#[derive(Debug, Clone, Default)]
struct Stores(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<EntryId, Entry>,
    windows: Vec<StoredWindow>,
    /// How many calls of these names fail from now on.
    failing: HashMap<&'static str, u32>,
    /// After so many copies to the source queue, the next is never answered.
    hangs_after: Option<usize>,
    claims: Vec<ClaimRequest>,
    settled: Vec<Settlement>,
    /// What was noted while handlers ran.
    notes: Vec<Vec<String>>,
    /// Reason, handler, and when the message was first seen.
    dead_letters: Vec<(String, Option<String>, Option<Timestamp>)>,
    /// The part, and the delay.
    sent_again: Vec<(Option<String>, Duration)>,
    delays: Vec<Duration>,
}

impl Stores {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn fail(&self, call: &'static str, times: u32) {
        self.state().failing.insert(call, times);
    }

    /// An error if this call is to fail.
    fn called(&self, call: &'static str) -> Result<(), LedgerError> {
        match self.state().failing.get_mut(call) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Err(LedgerError::new(call, "it fails on purpose"))
            }
            _ => Ok(()),
        }
    }

    fn copied(&self, call: &'static str) -> Result<(), CopyError> {
        self.called(call).map_err(|error| CopyError::Send(error.into()))
    }
}

impl Ledger for Stores {
    async fn claim(&self, requests: Vec<ClaimRequest>) -> Vec<Result<Claim, LedgerError>> {
        let claim = |request: ClaimRequest| {
            self.called("claim")?;
            let state = &mut *self.state();
            let claim = judge(state.entries.get(&request.id), &request);
            if let Claim::Acquired(_) = claim {
                let entry = state.entries.entry(request.id.clone()).or_insert_with(|| request.new_entry());
                entry.failure_reason = None;
                entry.lease =
                    Some(Lease { owner: request.owner.clone(), until_ms: request.lease_until_ms() });
            }
            state.claims.push(request);
            Ok(claim)
        };
        requests.into_iter().map(claim).collect()
    }

    async fn note(&self, id: &EntryId, owner: &str, done: Vec<String>) -> Result<Recorded, LedgerError> {
        self.called("note")?;
        let state = &mut *self.state();
        let entry = state.entries.get_mut(id).unwrap();
        if entry.lease.as_ref().is_none_or(|lease| lease.owner != owner) {
            return Ok(Recorded::LeaseLost);
        }
        entry.done.extend(done.iter().cloned());
        state.notes.push(done);
        Ok(Recorded::Yes)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Recorded, LedgerError>> {
        let settle = |settlement: Settlement| {
            self.called("settle")?;
            let state = &mut *self.state();
            let entry = state.entries.get_mut(&settlement.id).unwrap();
            if entry.lease.as_ref().is_none_or(|lease| lease.owner != settlement.owner) {
                return Ok(judge_settlement(entry, &settlement));
            }
            (entry.done, entry.lease) = (settlement.done.clone(), None);
            entry.failure_reason.clone_from(&settlement.failure_reason);
            state.settled.push(settlement);
            Ok(Recorded::Yes)
        };
        settlements.into_iter().map(settle).collect()
    }

    async fn replay_windows(&self) -> Result<Vec<StoredWindow>, LedgerError> {
        self.called("replay_windows")?;
        Ok(self.state().windows.clone())
    }
}

impl Queues for Stores {
    async fn dead_letter(&self, _: Record<'_>, why: DeadLetter<'_>) -> Result<(), CopyError> {
        self.copied("dead_letter")?;
        let letter = (why.reason.to_owned(), why.handler.map(str::to_owned), why.first_seen);
        self.state().dead_letters.push(letter);
        Ok(())
    }

    async fn send_again(&self, _: Record<'_>, part: Option<&Part>, delay: Duration) -> Result<(), CopyError> {
        self.copied("send_again")?;
        let has_room = {
            let state = self.state();
            state.hangs_after.is_none_or(|most| state.sent_again.len() < most)
        };
        if !has_room {
            std::future::pending::<()>().await;
        }
        self.state().sent_again.push((part.map(Part::key), delay));
        Ok(())
    }

    async fn back_off(&self, _: Record<'_>, delay: Duration) -> bool {
        self.state().delays.push(delay);
        self.called("back_off").is_ok()
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW_S).unwrap()
}

fn webhook() -> Message {
    Message { received_at: now(), ..learnink_webhook::testing::message(BODY) }
}

/// The delivery of a message.
fn delivered(message: Message, receive_count: u32) -> SqsMessage {
    let encoded = message.encode().unwrap();
    let mut record = SqsMessage::default();
    record.message_id = Some("sqs-1".to_owned());
    record.body = Some(encoded.body);
    record.attributes.insert("ApproximateReceiveCount".to_owned(), receive_count.to_string());
    for attribute in encoded.attributes {
        let mut value = SqsMessageAttribute::default();
        value.data_type = Some(attribute.data_type.to_owned());
        value.string_value = Some(attribute.value);
        record.message_attributes.insert(attribute.name.to_owned(), value);
    }
    record
}

/// A handler of every webhook that always ends like this.
fn handler(name: &'static str, result: HandlerResult) -> Router {
    let handler = move |_: Event, ()| std::future::ready(result.clone());
    Router::new().on_any_webhook(name, handler).with_state(())
}

fn consumer(router: Router, stores: &Stores) -> Consumer<Stores, Stores> {
    Consumer::new(router, stores.clone(), stores.clone(), MAX_RECEIVE_COUNT, || 0.5)
}

/// What an invocation of so long does with these records.
async fn consume(
    consumer: &Consumer<Stores, Stores>,
    records: Vec<SqsMessage>,
    lasts: Duration,
) -> Vec<RecordReport> {
    let mut batch = SqsEvent::default();
    batch.records = records;
    consumer.consume(&batch, &Invocation::new("i1", now(), lasts)).await.records
}

/// What one invocation does with one delivery.
async fn report(router: Router, stores: &Stores, message: Message, receive_count: u32) -> RecordReport {
    let records = vec![delivered(message, receive_count)];
    let mut reports = consume(&consumer(router, stores), records, INVOCATION).await;
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

/// The entry of a message that was seen before, with these keys of what is done.
fn entry(message: &Message, done: &[&str]) -> Entry {
    Entry {
        payload_sha256: payload_sha256(&message.body),
        done: done.iter().map(ToString::to_string).collect(),
        lease: None,
        settled_at_ms: 0,
        first_seen_ms: now().as_millisecond() - 1,
        expires_at_s: i64::MAX,
        failure_reason: None,
    }
}

/// The window of a `learnink replay run` for these handlers, and the message that it sends.
fn run_for(handlers: &[&str]) -> (ReplayWindow, Message) {
    let id = "w1";
    let run = ReplayRun { filter: String::new(), from: None, until: None, again: false };
    let window = ReplayWindow {
        id: id.to_owned(),
        covers: Coverage::Run(run),
        handlers: handlers.iter().map(ToString::to_string).collect(),
        opened_at: now(),
        expires_at: now() + Duration::from_hours(1),
        opened_by: "tests".to_owned(),
        reason: "tests".to_owned(),
        closed: None,
    };
    (window, Message { window: Some(id.to_owned()), ..webhook() })
}

#[tokio::test(start_paused = true)]
async fn what_a_run_did_not_ask_for_is_named_in_the_ledger() {
    for (asked, left) in [(&["a"][..], Some("b, c")), (&["a", "c"], Some("b")), (&["a", "b", "c"], None)] {
        let stores = Stores::default();
        let (window, message) = run_for(asked);
        let expected = left.map(|left| {
            format!("the replay window {} did not run these handlers, which are not done: {left}", window.id)
        });
        stores.state().windows.push(Ok(window));
        stores.state().entries.insert(EntryId::of(&message), entry(&message, &[]));
        let router = ["a", "b", "c"].map(|name| handler(name, Ok(())));
        let router = router.into_iter().reduce(Router::merge).unwrap();
        let report = report(router, &stores, message, 1).await;
        assert_eq!(report.outcome, Outcome::Processed);
        assert_eq!(stores.state().settled.last().unwrap().failure_reason, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_claimed_comes_back_and_is_dead_lettered_at_its_last_delivery() {
    for (receive_count, outcome) in
        [(1, Outcome::Retry), (6, Outcome::Retry), (7, Outcome::DeadLettered), (8, Outcome::DeadLettered)]
    {
        let stores = Stores::default();
        stores.fail("claim", 2);
        let report = report(handler("a", Ok(())), &stores, webhook(), receive_count).await;
        assert_eq!(report.outcome, outcome, "delivery {receive_count}");
        assert_eq!(report.failure.unwrap().class, "ledger");
        assert_eq!(stores.state().dead_letters.len(), usize::from(outcome == Outcome::DeadLettered));
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_first_delivery_is_claimed_as_probably_new() {
    for (receive_count, is_of_run, is_new) in [(1, false, true), (2, false, false), (1, true, false)] {
        let stores = Stores::default();
        let (window, message) = run_for(&[]);
        stores.state().windows.push(Ok(window));
        let message = if is_of_run { message } else { webhook() };
        report(handler("a", Ok(())), &stores, message, receive_count).await;
        assert_eq!(stores.state().claims[0].probably_new, is_new, "{receive_count} {is_of_run}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_may_have_been_made_keeps_the_message_until_its_lease_ends() {
    let stores = Stores::default();
    stores.fail("claim", 2);
    let report = report(handler("a", Ok(())), &stores, webhook(), 1).await;
    // Without the lease, 15 s.
    let retry_in = report.retry_in.unwrap();
    assert!((Duration::from_secs(29)..=INVOCATION).contains(&retry_in), "{retry_in:?}");
}

#[tokio::test(start_paused = true)]
async fn two_sends_of_a_message_in_one_batch_are_claimed_once() {
    let stores = Stores::default();
    let records = vec![delivered(webhook(), 1), delivered(webhook(), 1)];
    let reports = consume(&consumer(handler("a", Ok(())), &stores), records, INVOCATION).await;
    let outcomes: Vec<_> = reports.iter().map(|report| report.outcome).collect();
    assert_eq!(outcomes, [Outcome::Processed, Outcome::Retry]);
    assert_eq!(reports[1].failure.as_ref().unwrap().class, "in_progress");
    assert_eq!(stores.state().claims.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_recorded_once_and_at_the_second_try_if_the_first_failed() {
    for (fails, outcome, settled) in
        [(0, Outcome::Processed, 1), (1, Outcome::Processed, 1), (2, Outcome::Retry, 0)]
    {
        let stores = Stores::default();
        stores.fail("settle", fails);
        let report = report(handler("a", Ok(())), &stores, webhook(), 1).await;
        assert_eq!((report.outcome, stores.state().settled.len()), (outcome, settled), "{fails} failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_needs_its_own_window_and_ignores_another_that_is_unreadable() {
    let unreadable = |id: &str| Err(UnreadableWindow { id: id.to_owned() });
    let (window, message) = run_for(&[]);
    for (windows, failure) in [
        (vec![unreadable("w1")], Some("the replay window w1 cannot be read")),
        (vec![unreadable("w2")], Some("the ledger has no replay window w1")),
        (vec![unreadable("w2"), Ok(window)], None),
    ] {
        let stores = Stores::default();
        stores.state().windows = windows;
        stores.state().entries.insert(EntryId::of(&message), entry(&message, &[]));
        let report = report(handler("a", Ok(())), &stores, message.clone(), 1).await;
        match failure {
            None => assert_eq!((report.outcome, report.failure), (Outcome::Processed, None)),
            Some(expected) => {
                let reason = report.failure.unwrap().reason;
                assert!(reason.starts_with(expected), "{reason}");
                assert_eq!((report.outcome, report.handlers.len()), (Outcome::Retry, 0));
            }
        }
        assert!(report.degraded.contains(&Degraded::Windows));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_windows_cannot_be_read_keeps_its_count_of_deliveries_until_they_are_used_up() {
    for (before, outcome, after) in
        [("a+5", Outcome::Retry, &["a+6", "a/0"][..]), ("a+6", Outcome::DeadLettered, &["a/0"])]
    {
        let stores = Stores::default();
        stores.fail("replay_windows", 1);
        let message = webhook();
        stores.state().entries.insert(EntryId::of(&message), entry(&message, &[before, "a/0"]));
        let report = report(handler("a", Ok(())), &stores, message, 1).await;
        assert_eq!(report.outcome, outcome);
        let settled = stores.state().settled.remove(0);
        assert_eq!(settled.done.iter().collect::<Vec<_>>(), after);
        assert_eq!(settled.failure_reason, Some(report.failure.unwrap().text()));
    }
}

fn part_of(task: &str) -> Message {
    let part = Part::all_of(task, 4, 2, false).next();
    Message { part, ..webhook() }
}

#[tokio::test(start_paused = true)]
async fn a_new_part_runs_without_a_look_at_the_windows() {
    let stores = Stores::default();
    stores.fail("replay_windows", 1);
    let report = report(handler("a", Ok(())), &stores, part_of("a"), 1).await;
    assert_eq!(report.outcome, Outcome::Processed);
    assert_eq!(stores.state().failing["replay_windows"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_window_that_was_closed_meanwhile_is_ignored() {
    let (open, _) = run_for(&[]);
    let closing = crate::replay::Closing { by: "tests".to_owned(), at: now() };
    let closed = ReplayWindow { closed: Some(closing), ..open.clone() };
    let other = ReplayWindow { id: "w2".to_owned(), ..closed.clone() };
    for (window, outcome, runs) in
        [(open, Outcome::Processed, 1), (closed, Outcome::Ignored, 0), (other, Outcome::Processed, 1)]
    {
        let stores = Stores::default();
        stores.state().windows.push(Ok(window));
        let report = report(handler("a", Ok(())), &stores, part_of("a@w1"), 1).await;
        assert_eq!((report.outcome, report.handlers.len()), (outcome, runs));
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_comes_back_if_its_own_window_cannot_be_read() {
    for (id, outcome) in [("w1", Outcome::Retry), ("w2", Outcome::Processed)] {
        let stores = Stores::default();
        stores.state().windows.push(Err(UnreadableWindow { id: id.to_owned() }));
        let report = report(handler("a", Ok(())), &stores, part_of("a@w1"), 1).await;
        assert_eq!(report.outcome, outcome, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_part_is_too_old_for_a_window_that_names_its_handler() {
    for (named, ended) in [(&["a"][..], Ended::Done), (&["b"], Ended::TooLate), (&[], Ended::TooLate)] {
        let stores = Stores::default();
        // Seen before the window was opened.
        let (window, _) = run_for(named);
        let window = ReplayWindow {
            covers: Coverage::FirstSeen { event_type: None, from: Timestamp::UNIX_EPOCH, until: None },
            ..window
        };
        stores.state().windows.push(Ok(window));
        let message = part_of("a");
        stores.state().entries.insert(EntryId::of(&message), entry(&message, &[]));
        let late = |_: Event, ()| std::future::ready(Ok(()));
        let router = Router::new().on_any_webhook("a", late).max_age("a", Duration::ZERO).with_state(());
        let report = report(router, &stores, message, 1).await;
        assert_eq!(report.handlers[0].ended, ended, "{named:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_invocation_without_time_claims_nothing() {
    let stores = Stores::default();
    let consumer = consumer(handler("a", Ok(())), &stores);
    let reports = consume(&consumer, vec![delivered(webhook(), 1)], Duration::ZERO).await;
    assert_eq!(reports[0].outcome, Outcome::Retry);
    assert!(stores.state().claims.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_how_long_it_waits_or_that_sqs_was_not_told() {
    let busy = || HandlerError::retryable("busy").retry_after(Duration::from_mins(20));
    for fails in [0, 1] {
        let stores = Stores::default();
        stores.fail("back_off", fails);
        let report = report(handler("a", Err(busy())), &stores, webhook(), 1).await;
        assert_eq!(stores.state().delays, [Duration::from_mins(20)]);
        let (retry_in, is_degraded) = (report.retry_in, report.degraded.contains(&Degraded::Delay));
        let expected = (fails == 0).then_some(Duration::from_mins(20));
        assert_eq!((retry_in, is_degraded), (expected, fails == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_was_not_copied_comes_back_after_backoff() {
    let stores = Stores::default();
    stores.fail("dead_letter", 1);
    let refused = || handler("a", Err(HandlerError::permanent("no such plan")));
    let first = report(refused(), &stores, webhook(), 2).await;
    assert_eq!((first.outcome, first.retry_in), (Outcome::Retry, Some(Duration::from_mins(1))));
    let reason = first.failure.unwrap().reason;
    assert!(reason.starts_with("no such plan; SQS did not confirm the copy"), "{reason}");

    let second = report(refused(), &stores, webhook(), 3).await;
    assert_eq!((second.outcome, second.retry_in), (Outcome::DeadLettered, None));
    let letter = ("no such plan".to_owned(), Some("a".to_owned()), Some(now()));
    assert_eq!(stores.state().dead_letters, [letter]);
}

/// A message with a list of this length.
fn list(items: usize) -> Message {
    let data = serde_json::json!({ "notifications": vec![serde_json::Value::Null; items] });
    let body = serde_json::json!({
        "object": "event",
        "type": "notifications.sent",
        "api_version": "2022-11-15",
        "data": data,
        "timestamp": "2026-01-02T10:00:00Z",
    });
    Message { received_at: now(), ..learnink_webhook::testing::message(body.to_string()) }
}

/// A handler of lists, one item at a time, of which each does this work.
fn list_handler<W, F>(work: W) -> Router
where
    W: Fn(usize) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = HandlerResult> + Send + 'static,
{
    let permits = Permits::new(1);
    let handler = move |event: Event<NotificationsSent>, ()| {
        let permits = permits.clone();
        async move {
            let items: Vec<_> = (0..event.data.notifications.len()).collect();
            event.for_each_item(&items, &permits, |item, _| work(*item)).await
        }
    };
    Router::new().on("push", handler).with_state(())
}

/// An item that takes a while.
async fn slow(_: usize) -> HandlerResult {
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn items_are_noted_while_the_rest_runs_and_once_more_if_that_failed() {
    for fails in [0, 1] {
        let stores = Stores::default();
        stores.fail("note", fails);
        let report = report(list_handler(slow), &stores, list(3), 1).await;
        assert_eq!(report.outcome, Outcome::Processed);
        assert_eq!(report.degraded.contains(&Degraded::Notes), fails == 1);
        let notes =
            if fails == 0 { vec![vec!["push/0"], vec!["push/1"]] } else { vec![vec!["push/0", "push/1"]] };
        assert_eq!(stores.state().notes, notes);
    }
}

async fn report_of_parts(stores: &Stores, message: Message) -> RecordReport {
    let consumer = consumer(list_handler(slow), stores).with_parts_of(2);
    consume(&consumer, vec![delivered(message, 1)], INVOCATION).await.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_queued_in_parts_without_those_that_are_queued_already() {
    let stores = Stores::default();
    stores.state().entries.insert(EntryId::of(&list(5)), entry(&list(5), &["push/2-3"]));
    let report = report_of_parts(&stores, list(5)).await;
    assert_eq!((report.outcome, &report.handlers[0].ended), (Outcome::Processed, &Ended::InParts));
    let parts = ["push/0-1", "push/4-4"].map(|part| (Some(part.to_owned()), Duration::ZERO));
    assert_eq!(stores.state().sent_again, parts);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_not_queued_is_the_reason_why_its_list_comes_back() {
    let stores = Stores::default();
    stores.fail("send_again", 1);
    let report = report_of_parts(&stores, list(5)).await;
    let reason = report.failure.unwrap().reason;
    assert!(
        reason.starts_with("could not put all 3 parts of the list on the queue: SQS did not confirm"),
        "{reason}"
    );
    assert_eq!(report.outcome, Outcome::Retry);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_sqs_does_not_take_in_time_made_progress_by_each_part_and_queues_only_the_rest() {
    for (queued, kind) in [(0, FailureKind::TimedOut), (1, FailureKind::Unfinished)] {
        let stores = Stores::default();
        stores.state().hangs_after = Some(queued);
        let first = report_of_parts(&stores, list(5)).await;
        assert_eq!((first.outcome, first.handlers[0].ended.kind()), (Outcome::Retry, Some(kind)));
        assert_eq!(stores.state().sent_again.len(), queued);

        stores.state().hangs_after = None;
        assert_eq!(report_of_parts(&stores, list(5)).await.outcome, Outcome::Processed);
        let mut parts: Vec<_> =
            stores.state().sent_again.iter().filter_map(|(part, _)| part.clone()).collect();
        parts.sort();
        assert_eq!(parts, ["push/0-1", "push/2-3", "push/4-4"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_off_is_unfinished_only_if_it_made_progress() {
    for (done, kind) in [(0, FailureKind::TimedOut), (1, FailureKind::Unfinished)] {
        let stores = Stores::default();
        let hangs =
            move |item| async move { if item < done { Ok(()) } else { std::future::pending().await } };
        let report = report(list_handler(hangs), &stores, list(2), 1).await;
        assert_eq!(report.handlers[0].ended.kind(), Some(kind), "{done} done");
    }
}

#[tokio::test(start_paused = true)]
async fn the_report_and_the_dead_letter_have_the_same_reason_without_control_characters() {
    let stores = Stores::default();
    let refused = HandlerError::permanent("no plan \u{1b}[31m");
    let report = report(handler("a", Err(refused)), &stores, webhook(), 1).await;
    assert_eq!(report.failure.unwrap().reason, "no plan  [31m");
    assert_eq!(stores.state().dead_letters[0].0, "no plan  [31m");
}

/// Whether records that end like this, one in each invocation, open the breaker of any handler.
async fn opens_for(router: Router, message: Message, lasts: Duration) -> bool {
    let stores = Stores::default();
    let consumer = consumer(router, &stores);
    for _ in 0..OPENS_AFTER {
        consume(&consumer, vec![delivered(message.clone(), 1)], lasts).await;
        // As new, however the last one ended.
        stores.state().entries.clear();
    }
    consumer.router.handler_names().into_iter().any(|name| consumer.breakers.is_open(name))
}

async fn opens(router: Router, lasts: Duration) -> bool {
    opens_for(router, webhook(), lasts).await
}

#[tokio::test(start_paused = true)]
async fn only_what_says_something_about_the_downstream_opens_the_breaker() {
    let hangs = || Router::new().on_any_webhook("a", |_: Event, ()| std::future::pending()).with_state(());
    let panics = |_: Event, ()| async { std::panic::resume_unwind(Box::new("on purpose")) };
    let panics = Router::new().on_any_webhook("a", panics).with_state(());
    assert!(opens(handler("a", Err(HandlerError::retryable("busy"))), INVOCATION).await);
    assert!(opens(hangs(), INVOCATION).await);
    // It is cut off after three quarters of the second.
    assert!(!opens(hangs(), Duration::from_secs(1)).await);
    assert!(!opens(handler("a", Err(HandlerError::permanent("no such plan"))), INVOCATION).await);
    assert!(!opens(panics, INVOCATION).await);
    assert!(!opens(handler("a", Ok(())), INVOCATION).await);
    // Of a list, an item that was done says that the downstream works.
    let busy_after = |done| {
        let busy = || Err(HandlerError::retryable("busy"));
        list_handler(move |item| std::future::ready(if item < done { Ok(()) } else { busy() }))
    };
    assert!(opens_for(busy_after(0), list(2), INVOCATION).await);
    assert!(!opens_for(busy_after(1), list(2), INVOCATION).await);
}
