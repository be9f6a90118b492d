//! `docs/privacy.md` says what is stored. This is compared with the rows that the consumer really writes.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use learnink_aws::Env;
use learnink_consumer::{Consumer, DynamoDbLedger, Invocation, Outcome, SqsQueues};
use learnink_tests::engine::Engine;
use learnink_tests::read;

use crate::records::{RECEIVED_AT_S, batch, record};

const STARTED: &str = include_str!("../../events/user.course.started.json");
const UNKNOWN: &str = include_str!("../../events/example.unknown.json");

/// The rows that the page has in its table of what is stored, by the template's name of the store.
fn documented(store: &str) -> String {
    let page = read("docs/privacy.md");
    let rows = page.lines().filter(|line| line.starts_with('|') && line.contains(&format!("`{store}`")));
    rows.map(|row| row.to_owned() + "\n").collect()
}

#[tokio::test]
async fn each_attribute_that_is_stored_is_on_the_page_about_personal_data_and_so_is_its_time() {
    let engine = Engine::embedded().await;
    let learners = engine.table("user_id", Some("course_id")).await;
    let unknown_events = engine.table("message_id", None).await;
    let ledger = engine.table("message_id", None).await;
    let env = Env::of([
        ("LEARNINK_LEARNERS_TABLE", &*learners),
        ("LEARNINK_LEARNERS_RETENTION_DAYS", "730"),
        ("LEARNINK_UNKNOWN_EVENTS_TABLE", &*unknown_events),
    ]);
    let consumer = Consumer::new(
        learnink_handlers::router(&env.with_tables(engine.dynamodb.clone())).unwrap(),
        DynamoDbLedger::new(&engine.dynamodb, ledger.clone()),
        SqsQueues::new(&engine.sqs, "none", "none"),
        7,
        || 0.5,
    );
    let now = Timestamp::from_second(RECEIVED_AT_S).unwrap();
    let records = batch(vec![
        record("sqs-1", "msg_1", STARTED.to_owned()),
        record("sqs-2", "msg_2", UNKNOWN.to_owned()),
    ]);
    let report = consumer.consume(&records, &Invocation::new("1", now, Duration::from_secs(30))).await;
    let outcomes: Vec<_> = report.records.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Processed, Outcome::Processed]);

    let client = aws_sdk_dynamodb::Client::new(&engine.dynamodb);
    for (table, store, most_days) in [
        (&learners, "LearnersTable", None),
        (&unknown_events, "UnknownEventsTable", Some(90)),
        (&ledger, "LedgerTable", Some(30)),
    ] {
        let page = documented(store);
        let rows = client.scan().table_name(table).send().await.unwrap();
        let names: BTreeSet<_> = rows.items().iter().flat_map(|row| row.keys()).collect();
        assert!(!names.is_empty(), "{store}");
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{store}: {name}");
        }
        let Some(most_days) = most_days else { continue };
        assert!(page.contains(&format!("{most_days} days (`expires_at`)")), "{store}: {page}");
        for row in rows.items() {
            let expires_at: i64 = row["expires_at"].as_n().unwrap().parse().unwrap();
            assert_eq!((expires_at - RECEIVED_AT_S) / (24 * 60 * 60), most_days, "{store}");
        }
    }
    // The ledger knows none of the event's values.
    let rows = format!("{:?}", client.scan().table_name(&ledger).send().await.unwrap());
    for value in ["+254705408079", "le2bB6Fi4CMgrIOIqMCJryZb9PR2", "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33"] {
        assert!(STARTED.contains(value) && !rows.contains(value), "{rows}");
    }
}

#[test]
fn the_times_that_the_template_sets_are_on_the_page_about_personal_data() {
    let template = read("template.yaml");
    let (queue, dead_letters) = (documented("MessageQueue"), documented("DeadLetterQueue"));
    assert!(
        template.contains(&format!("MessageRetentionPeriod: {}\n", 4 * 24 * 60 * 60))
            && queue.contains("4 days at most")
    );
    assert!(
        template.contains(&format!("MessageRetentionPeriod: {}\n", 14 * 24 * 60 * 60))
            && dead_letters.contains("14 days at most")
    );
    let page = read("docs/privacy.md");
    for name in ["ArchiveRetentionDays", "LearnersRetentionDays", "LogRetentionDays"] {
        let (_, parameter) = template.split_once(&format!("\n  {name}:\n")).unwrap();
        let default = parameter.split_once("    Default: ").unwrap().1.lines().next().unwrap();
        assert!(page.contains(&format!("| `{name}` | {default} |")), "{name} is {default}");
    }
}
