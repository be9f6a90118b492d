//! The behaviour of a table that the pipeline needs, on every engine that replaces DynamoDB.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use learnink_connectors::progress::{Activity, LearnerAndCourse, Learners};
use learnink_consumer::DynamoDbLedger;
use learnink_consumer::acts::{Act, UnreadableAct};
use learnink_consumer::ledger::{
    Claim, ClaimRequest, Entry, EntryId, History, Lease, Recorded, Settlement, judge,
};
use learnink_consumer::ledger::{Ledger, UnreadableWindow};
use learnink_consumer::replay::{Closing, Coverage, ReplayWindow};
use learnink_tests::engine::Engine;
use learnink_webhook::MessageId;
use learnink_webhook::newest::EventOrder;

use crate::learners::{Event, together_and_separately};

on_both_engines! {
    a_claim_is_exclusive_until_it_is_settled,
    a_lease_that_ended_can_be_taken_over_and_its_owner_cannot_settle,
    an_owner_whose_answer_got_lost_asks_again_and_settles_again,
    a_claim_that_was_under_way_while_another_owner_let_go_is_refused,
    what_is_done_stays_done,
    items_that_were_noted_are_done_though_their_owner_never_settled,
    another_payload_under_the_same_id_is_never_run,
    an_expired_entry_is_replaced,
    a_batch_is_claimed_and_settled_together_and_each_message_gets_its_own_answer,
    the_reason_of_the_last_failure_is_kept_until_the_next_delivery,
    replay_windows_are_opened_once_listed_in_order_and_closed,
    acts_are_kept_by_day_and_do_not_disturb_the_ledger,
    of_many_who_claim_at_once_one_gets_it,
    of_many_who_claim_an_expired_entry_at_once_one_gets_it,
    the_condition_decides_as_the_rule_does,
    the_earliest_start_and_the_latest_activity_stay_whatever_the_order,
    what_a_batch_writes_together_is_what_its_events_write_one_by_one,
    a_try_of_the_statements_leaves_nothing_behind,
}

const NOW_MS: i64 = 1_700_000_000_000;
const NONE: [&str; 0] = [];

fn id() -> MessageId {
    MessageId::parse("msg_1").unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(NOW_MS).unwrap()
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

async fn ledger(engine: &Engine) -> DynamoDbLedger {
    DynamoDbLedger::new(&engine.dynamodb, engine.table("message_id", None).await)
}

fn request(id: &MessageId, owner: &str, handlers: &[&str]) -> ClaimRequest {
    ClaimRequest {
        id: id.into(),
        payload_sha256: "aa".to_owned(),
        keys: keys(handlers),
        owner: owner.to_owned(),
        now: now(),
        lease: Duration::from_secs(20),
        probably_new: true,
    }
}

async fn ask(ledger: &DynamoDbLedger, request: ClaimRequest) -> Claim {
    let mut claims = ledger.claim(vec![request]).await;
    claims.pop().unwrap().unwrap()
}

/// A claim by `owner` for the handlers `progress` and `push`, `later` after the first.
async fn claim(ledger: &DynamoDbLedger, owner: &str, later: Duration) -> Claim {
    let request = request(&id(), owner, &["progress", "push"]);
    ask(ledger, ClaimRequest { now: request.now + later, ..request }).await
}

fn settlement(id: &MessageId, owner: &str, done: &[&str]) -> Settlement {
    let done = keys(done).into_iter().collect();
    Settlement { id: id.into(), owner: owner.to_owned(), done, failure_reason: None, now: now() }
}

async fn settle(ledger: &DynamoDbLedger, owner: &str, done: &[&str]) -> Recorded {
    let mut recorded = ledger.settle(vec![settlement(&id(), owner, done)]).await;
    recorded.pop().unwrap().unwrap()
}

fn history(done: &[&str]) -> History {
    History { done: keys(done).into_iter().collect(), first_seen_ms: NOW_MS }
}

fn acquired(done: &[&str]) -> Claim {
    Claim::Acquired(history(done))
}

fn completed(done: &[&str]) -> Claim {
    Claim::Completed(history(done))
}

async fn a_claim_is_exclusive_until_it_is_settled(engine: Engine) {
    let ledger = ledger(&engine).await;
    assert_eq!(claim(&ledger, "a", Duration::ZERO).await, acquired(&NONE));
    let held = Claim::InProgress { until_ms: NOW_MS + 20_000 };
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, held);

    assert_eq!(settle(&ledger, "a", &["progress", "push"]).await, Recorded::Yes);
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, completed(&["progress", "push"]));
}

async fn a_lease_that_ended_can_be_taken_over_and_its_owner_cannot_settle(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    assert!(matches!(claim(&ledger, "b", Duration::from_millis(19_999)).await, Claim::InProgress { .. }));
    assert_eq!(claim(&ledger, "b", Duration::from_secs(20)).await, acquired(&NONE));

    assert_eq!(settle(&ledger, "a", &["progress", "push"]).await, Recorded::LeaseLost);
    assert_eq!(ledger.note(&EntryId::from(id()), "a", keys(&["push/0"])).await.unwrap(), Recorded::LeaseLost);
    assert_eq!(settle(&ledger, "b", &["push"]).await, Recorded::Yes);
    assert_eq!(claim(&ledger, "c", Duration::ZERO).await, acquired(&["push"]));
}

async fn an_owner_whose_answer_got_lost_asks_again_and_settles_again(engine: Engine) {
    let ledger = ledger(&engine).await;
    for _ in 0..2 {
        assert_eq!(claim(&ledger, "a", Duration::ZERO).await, acquired(&NONE));
    }
    for _ in 0..2 {
        assert_eq!(settle(&ledger, "a", &["progress"]).await, Recorded::Yes);
    }
    // An owner that has settled cannot note anything more.
    assert_eq!(ledger.note(&EntryId::from(id()), "a", keys(&["push/0"])).await.unwrap(), Recorded::LeaseLost);
}

async fn a_claim_that_was_under_way_while_another_owner_let_go_is_refused(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    let later = now() + Duration::from_millis(5);
    let settlement = Settlement { now: later, ..settlement(&id(), "a", &["progress"]) };
    ledger.settle(vec![settlement]).await;
    let was_at_work = Claim::InProgress { until_ms: later.as_millisecond() };
    assert_eq!(claim(&ledger, "b", Duration::from_millis(4)).await, was_at_work);
    assert_eq!(claim(&ledger, "b", Duration::from_millis(5)).await, acquired(&["progress"]));
}

async fn what_is_done_stays_done(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &["progress"]).await;
    assert_eq!(claim(&ledger, "b", Duration::ZERO).await, acquired(&["progress"]));
    settle(&ledger, "b", &["progress"]).await;
    assert_eq!(claim(&ledger, "c", Duration::ZERO).await, acquired(&["progress"]));
    settle(&ledger, "c", &["progress", "push"]).await;
    assert_eq!(claim(&ledger, "d", Duration::ZERO).await, completed(&["progress", "push"]));

    let later = request(&id(), "e", &["progress", "push", "archive"]);
    assert_eq!(ask(&ledger, later).await, acquired(&["progress", "push"]));
}

async fn items_that_were_noted_are_done_though_their_owner_never_settled(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    assert_eq!(
        ledger.note(&EntryId::from(id()), "a", keys(&["push/0", "push/7"])).await.unwrap(),
        Recorded::Yes
    );
    assert_eq!(ledger.note(&EntryId::from(id()), "a", keys(&["push/1"])).await.unwrap(), Recorded::Yes);
    let later = claim(&ledger, "b", Duration::from_secs(20)).await;
    assert_eq!(later, acquired(&["push/0", "push/1", "push/7"]));
    // Once the handler is done, its items are forgotten.
    settle(&ledger, "b", &["progress", "push"]).await;
    assert_eq!(claim(&ledger, "c", Duration::ZERO).await, completed(&["progress", "push"]));
}

async fn another_payload_under_the_same_id_is_never_run(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &NONE).await;
    let other = ClaimRequest { payload_sha256: "bb".to_owned(), ..request(&id(), "b", &["progress"]) };
    assert_eq!(ask(&ledger, other).await, Claim::PayloadMismatch);
}

async fn an_expired_entry_is_replaced(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    settle(&ledger, "a", &["progress", "push"]).await;
    let month = Duration::from_hours(30 * 24);
    let just_under = month.saturating_sub(Duration::from_secs(1));
    assert_eq!(claim(&ledger, "b", just_under).await, completed(&["progress", "push"]));
    let Claim::Acquired(anew) = claim(&ledger, "b", month).await else { panic!("it has expired") };
    assert_eq!((anew.done.len(), anew.first_seen_ms), (0, (now() + month).as_millisecond()));
    assert!(matches!(claim(&ledger, "c", month).await, Claim::InProgress { .. }));
}

async fn a_try_of_the_statements_leaves_nothing_behind(engine: Engine) {
    let table = engine.table("message_id", None).await;
    let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
    for _ in 0..2 {
        ledger.try_statements("1", now()).await.unwrap();
        let scanned = aws_sdk_dynamodb::Client::new(&engine.dynamodb).scan().table_name(&table).send().await;
        assert_eq!(scanned.unwrap().count(), 0);
    }
    let other_key = engine.table("user_id", None).await;
    let refused = DynamoDbLedger::new(&engine.dynamodb, other_key).try_statements("1", now()).await;
    assert!(refused.unwrap_err().to_string().starts_with("could not claim a message"));
}

async fn a_batch_is_claimed_and_settled_together_and_each_message_gets_its_own_answer(engine: Engine) {
    let ledger = ledger(&engine).await;
    // More than fit into one request to DynamoDB.
    let ids: Vec<_> = (0..30).map(|n| MessageId::parse(&format!("msg_{n}")).unwrap()).collect();
    ask(&ledger, request(&ids[3], "other", &["push"])).await;
    ask(&ledger, request(&ids[27], "other", &["push"])).await;
    ledger.settle(vec![settlement(&ids[27], "other", &["push"])]).await;

    let requests = ids.iter().enumerate().map(|(n, id)| {
        // Claimed in both ways.
        ClaimRequest { probably_new: n % 2 == 1, ..request(id, "me", &["push"]) }
    });
    let claims: Vec<_> = ledger.claim(requests.collect()).await.into_iter().map(Result::unwrap).collect();
    for (n, claim) in claims.into_iter().enumerate() {
        let expected = match n {
            3 => Claim::InProgress { until_ms: NOW_MS + 20_000 },
            27 => completed(&["push"]),
            _ => acquired(&NONE),
        };
        assert_eq!(claim, expected, "{n}");
    }
    let settlements = ids.iter().map(|id| settlement(id, "me", &["push"])).collect();
    let recorded: Vec<_> = ledger.settle(settlements).await.into_iter().map(Result::unwrap).collect();
    for (n, recorded) in recorded.into_iter().enumerate() {
        // The one that another owner settled before is completely done.
        let expected = if n == 3 { Recorded::LeaseLost } else { Recorded::Yes };
        assert_eq!(recorded, expected, "{n}");
    }
}

async fn the_reason_of_the_last_failure_is_kept_until_the_next_delivery(engine: Engine) {
    let ledger = ledger(&engine).await;
    claim(&ledger, "a", Duration::ZERO).await;
    let failed = Settlement {
        failure_reason: Some("push: the sender answered 503".to_owned()),
        ..settlement(&id(), "a", &NONE)
    };
    ledger.settle(vec![failed]).await.pop().unwrap().unwrap();
    let entry = ledger.entry(&id()).await.unwrap().unwrap();
    assert_eq!(entry.failure_reason.as_deref(), Some("push: the sender answered 503"));
    // If this delivery crashed, the reason would be another.
    let known = ClaimRequest { probably_new: false, ..request(&id(), "b", &["progress", "push"]) };
    ask(&ledger, known).await;
    assert_eq!(ledger.entry(&id()).await.unwrap().unwrap().failure_reason, None);
    settle(&ledger, "b", &["progress", "push"]).await;
    assert_eq!(ledger.entry(&id()).await.unwrap().unwrap().failure_reason, None);
    assert_eq!(ledger.entry(&MessageId::parse("msg_2").unwrap()).await.unwrap(), None);
}

async fn replay_windows_are_opened_once_listed_in_order_and_closed(engine: Engine) {
    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let table = engine.table("message_id", None).await;
    let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
    assert_eq!(ledger.replay_windows().await.unwrap(), []);
    let window = |id: &str, opened_at_s: i64| ReplayWindow {
        id: id.to_owned(),
        covers: Coverage::Messages(BTreeSet::from(["msg_1".to_owned()])),
        handlers: BTreeSet::new(),
        reason: "the sender was down".to_owned(),
        opened_by: "kim".to_owned(),
        opened_at: now() + Duration::from_secs(opened_at_s.unsigned_abs()),
        expires_at: now() + Duration::from_hours(2),
        closed: None,
    };
    let (later, first) = (window("a", 5), window("b", 1));
    for window in [&later, &first, &first] {
        ledger.open_replay_window(window).await.unwrap();
    }
    assert!(ledger.open_replay_window(&window("a", 9)).await.is_err(), "another one has the id");
    assert_eq!(ledger.replay_windows().await.unwrap(), [Ok(first), Ok(later.clone())]);

    let closing = |by: &str| Closing { by: by.to_owned(), at: now() + Duration::from_mins(1) };
    let closed = ledger.close_replay_window("a", closing("lee")).await.unwrap().unwrap();
    assert_eq!(closed, ReplayWindow { closed: Some(closing("lee")), ..later });
    let again = ledger.close_replay_window("a", closing("ann")).await.unwrap();
    assert_eq!(again, Some(closed));
    assert_eq!(ledger.close_replay_window("z", closing("lee")).await.unwrap(), None);

    // A window of another version of this program opens nothing, and does not disturb the others.
    let foreign = client.update_item().table_name(&table).key("message_id", text("replay.windows"));
    let foreign = foreign.update_expression("SET replay_windows.f = :json");
    foreign.expression_attribute_values(":json", text(r#"{"id":"f"}"#)).send().await.unwrap();
    let unreadable = || Err(UnreadableWindow { id: "f".to_owned() });
    assert_eq!(ledger.replay_windows().await.unwrap()[2], unreadable());

    // A year later the other windows are not needed any more.
    let next_year = ReplayWindow { opened_at: now() + Duration::from_hours(365 * 24), ..window("c", 0) };
    ledger.open_replay_window(&next_year).await.unwrap();
    assert_eq!(ledger.replay_windows().await.unwrap(), [Ok(next_year), unreadable()]);
}

async fn winners(ledger: &DynamoDbLedger, round: u32, later: Duration) -> usize {
    let id = MessageId::parse(&format!("msg_{round}")).unwrap();
    let claims = (0..4).map(|racer| {
        let (ledger, id) = (ledger.clone(), id.clone());
        tokio::spawn(async move {
            let owner = format!("racer-{round}-{racer}-{}", later.as_secs());
            let request = request(&id, &owner, &["progress"]);
            ask(&ledger, ClaimRequest { now: request.now + later, ..request }).await
        })
    });
    let claims: Vec<_> = claims.collect();
    let mut winners = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Claim::Acquired(_) => winners += 1,
            Claim::InProgress { .. } => {}
            other => panic!("a race cannot end in {other:?}"),
        }
    }
    winners
}

async fn acts_are_kept_by_day_and_do_not_disturb_the_ledger(engine: Engine) {
    let table = engine.table("message_id", None).await;
    let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
    let act = |id: &str, started_at: &str| Act {
        id: id.to_owned(),
        action: "redrive".to_owned(),
        by: "kim".to_owned(),
        place: "the queue".to_owned(),
        filter: "--all".to_owned(),
        reason: None,
        started_at: started_at.parse().unwrap(),
        ended_at: None,
        selected: 3,
        done: 0,
        outcome: String::new(),
    };
    let (late, early) = (act("b", "2026-01-02T23:59:59Z"), act("a", "2026-01-02T08:00:00Z"));
    let next_day = act("c", "2026-01-03T00:00:00Z");
    for act in [&late, &early, &next_day] {
        ledger.record_act(act).await.unwrap();
    }
    let ended = Act { done: 3, outcome: "done".to_owned(), ended_at: Some(late.started_at), ..late };
    ledger.record_act(&ended).await.unwrap();
    let acts = async |first: &str, last: &str| {
        ledger.acts(first.parse().unwrap(), last.parse().unwrap()).await.unwrap()
    };
    assert_eq!(acts("2026-01-02", "2026-01-02").await, [Ok(early.clone()), Ok(ended.clone())]);
    assert_eq!(acts("2025-12-01", "2026-01-04").await, [Ok(early), Ok(ended), Ok(next_day)]);
    assert_eq!(acts("2026-01-04", "2026-02-01").await, []);

    // DynamoDB deletes them, and what another version wrote is named.
    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    let key = AttributeValue::S("acts.2026-01-03".to_owned());
    let item = client
        .get_item()
        .table_name(&table)
        .key("message_id", key.clone())
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let expires_at: i64 = item["expires_at"].as_n().unwrap().parse().unwrap();
    assert_eq!(Timestamp::from_second(expires_at).unwrap(), "2027-02-07T00:00:00Z".parse().unwrap());
    let update = client.update_item().table_name(&table).key("message_id", key);
    let update = update.update_expression("SET acts.d = :d");
    update.expression_attribute_values(":d", AttributeValue::S("{}".to_owned())).send().await.unwrap();
    let acts = acts("2026-01-03", "2026-01-03").await;
    assert_eq!(acts.last(), Some(&Err(UnreadableAct { id: "d".to_owned() })));
    assert_eq!(ledger.replay_windows().await.unwrap(), []);
    assert_eq!(ledger.entry(&id()).await.unwrap(), None);
}

async fn of_many_who_claim_at_once_one_gets_it(engine: Engine) {
    let ledger = ledger(&engine).await;
    for round in 0..25 {
        assert_eq!(winners(&ledger, round, Duration::ZERO).await, 1);
    }
}

async fn of_many_who_claim_an_expired_entry_at_once_one_gets_it(engine: Engine) {
    let ledger = ledger(&engine).await;
    for round in 0..25 {
        winners(&ledger, round, Duration::ZERO).await;
        assert_eq!(winners(&ledger, round, Duration::from_hours(31 * 24)).await, 1);
    }
}

/// Every possible kind of entry, claimed through DynamoDB and judged by the rule.
async fn the_condition_decides_as_the_rule_does(engine: Engine) {
    let table = engine.table("message_id", None).await;
    let ledger = DynamoDbLedger::new(&engine.dynamodb, &table);
    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    let mut number = 0;
    for payload_sha256 in ["aa", "bb"] {
        for done in [&NONE[..], &["progress"], &["push"], &["progress", "push"], &["progress", "push", "x"]] {
            // The owner, and the milliseconds until the lease ends, or since the last one has ended.
            for (owner, left_ms) in [("", -1), ("", 0), ("", 1), ("me", 0), ("other", 0), ("other", 1)] {
                for (expires_in_s, probably_new) in [(0, true), (0, false), (1, true), (1, false)] {
                    number += 1;
                    let id = MessageId::parse(&format!("msg_{number}")).unwrap();
                    let entry = Entry {
                        payload_sha256: payload_sha256.to_owned(),
                        done: done.iter().map(ToString::to_string).collect(),
                        lease: (!owner.is_empty())
                            .then(|| Lease { owner: owner.to_owned(), until_ms: NOW_MS + left_ms }),
                        settled_at_ms: NOW_MS + left_ms,
                        first_seen_ms: NOW_MS,
                        expires_at_s: NOW_MS / 1000 + expires_in_s,
                        failure_reason: None,
                    };
                    put(&client, &table, &id, &entry).await;
                    let request = request(&id, "me", &["progress", "push"]);
                    let request = ClaimRequest { probably_new, ..request };
                    let expected = judge(Some(&entry), &request);
                    assert_eq!(ask(&ledger, request).await, expected, "{entry:?}");
                }
            }
        }
    }
}

async fn put(client: &aws_sdk_dynamodb::Client, table: &str, id: &MessageId, entry: &Entry) {
    let number = |value: i64| AttributeValue::N(value.to_string());
    let mut put = client
        .put_item()
        .table_name(table)
        .item("message_id", AttributeValue::S(id.to_string()))
        .item("payload_sha256", AttributeValue::S(entry.payload_sha256.clone()))
        .item("first_seen_ms", number(entry.first_seen_ms))
        .item("lease_owner", AttributeValue::S(String::new()))
        .item("lease_until_ms", number(entry.settled_at_ms))
        .item("expires_at", number(entry.expires_at_s));
    if !entry.done.is_empty() {
        put = put.item("done_keys", AttributeValue::Ss(entry.done.iter().cloned().collect()));
    }
    if let Some(lease) = &entry.lease {
        put = put.item("lease_owner", AttributeValue::S(lease.owner.clone()));
        put = put.item("lease_until_ms", number(lease.until_ms));
    }
    put.send().await.unwrap();
}

async fn the_earliest_start_and_the_latest_activity_stay_whatever_the_order(engine: Engine) {
    // The newest has no id of the customer's: the previous one must not stay.
    let activities = [
        (2_000, Activity::Start, "a", Some("x")),
        (3_000, Activity::Start, "b", Some("y")),
        (4_000, Activity::Other, "d", None),
        (4_000, Activity::Other, "c", Some("z")),
        (1_000, Activity::Other, "e", Some("x")),
    ];
    let mut ends = HashSet::new();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 3, 0, 2, 4]] {
        let learners = Learners::new(&engine.dynamodb, engine.table("user_id", Some("course_id")).await);
        for index in order {
            let (at_ms, activity, id, custom_id) = activities[index];
            let who = LearnerAndCourse { user_id: "u", course_id: "c", custom_id };
            let at = Timestamp::from_millisecond(at_ms).unwrap();
            let version = EventOrder::new(at, &MessageId::parse(id).unwrap());
            learners.record(who, activity, &version).await.unwrap();
        }
        let mut rows = learners.all().await.unwrap();
        assert_eq!(rows.len(), 1);
        let row = rows.remove(0);
        let first = row.first_started_at.unwrap().as_millisecond();
        ends.insert((first, row.last_activity_at.as_millisecond(), row.custom_id));
    }
    assert_eq!(ends, HashSet::from([(2_000, 4_000, None)]));
}

async fn what_a_batch_writes_together_is_what_its_events_write_one_by_one(engine: Engine) {
    let events = [
        // Two who are new, and one twice.
        (0, true, 5, true),
        (1, true, 5, false),
        (0, true, 6, true),
        // Later, with and without an id of the customer's; one who never started.
        (0, true, 8, false),
        (1, true, 7, true),
        (2, false, 3, true),
        // Late: an earlier start, an earlier activity, and one between the two.
        (0, true, 2, true),
        (2, false, 1, false),
        (1, true, 6, true),
        // The start of one who was active before; an activity without an id of the customer's.
        (2, true, 2, true),
        (1, false, 9, false),
        (0, false, 8, true),
    ];
    let events: Vec<_> = events.into_iter().enumerate().map(Event::of).collect();
    let groups: Vec<_> = events.chunks(3).map(<[Event]>::to_vec).collect();
    let [together, separately] = together_and_separately(&engine, &groups).await;
    assert_eq!(together, separately);
    assert_eq!(together.len(), 3);
}
