//! The laptop's pipeline has the numbers of the stack that is deployed.

use learnink_local::pipeline::{LEARNERS_TABLE, LEDGER_TABLE, Numbers, UNKNOWN_EVENTS_TABLE};
use learnink_receiver::aws::OPERATION_TIMEOUT;
use learnink_receiver::secrets::LONGEST_WAIT;
use learnink_tests::read;

/// The number after `key` in the resource `name` of `template.yaml`.
fn number(name: &str, key: &str) -> u32 {
    let template = read("template.yaml");
    let resource = resource(&template, name);
    let line = resource.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
    line.unwrap_or_else(|| panic!("{name} has no {key}")).parse().unwrap()
}

/// The lines of one resource: up to the next line that is indented as its name is.
fn resource<'a>(template: &'a str, name: &str) -> &'a str {
    let (_, from) = template.split_once(&format!("\n  {name}:\n")).unwrap();
    let is_next = |line: &str| line.starts_with("  ") && !line.starts_with("   ");
    let end: usize = from.split_inclusive('\n').take_while(|line| !is_next(line)).map(str::len).sum();
    &from[..end]
}

#[test]
fn the_laptop_has_the_numbers_of_the_template() {
    let numbers = Numbers::TEMPLATE;
    assert_eq!(numbers.consumer_timeout_s, number("ConsumerFunction", "Timeout"));
    assert_eq!(numbers.visibility_timeout_s, number("MessageQueue", "VisibilityTimeout"));
    assert_eq!(numbers.max_receive_count, number("MessageQueue", "maxReceiveCount"));
    assert_eq!(
        learnink_local::event_source::BATCH_SIZE.unsigned_abs(),
        number("ConsumerMapping", "BatchSize")
    );
}

#[test]
fn a_message_stays_hidden_for_six_times_the_consumers_timeout_and_the_batch_window() {
    let window = number("ConsumerMapping", "MaximumBatchingWindowInSeconds");
    let least = 6 * number("ConsumerFunction", "Timeout") + window;
    assert!(number("MessageQueue", "VisibilityTimeout") >= least);
}

#[test]
fn the_receiver_answers_before_lambda_the_gateway_and_svix_give_up_in_that_order() {
    const SVIX_GIVES_UP_S: u64 = 15;
    let longest_s = (LONGEST_WAIT + OPERATION_TIMEOUT).as_secs();
    let lambda_s = u64::from(number("ReceiverFunction", "Timeout"));
    let gateway_ms = u64::from(number("WebhookIntegration", "TimeoutInMillis"));
    assert!(longest_s < lambda_s && lambda_s * 1000 < gateway_ms && gateway_ms < SVIX_GIVES_UP_S * 1000);
}

#[test]
fn the_failures_that_the_consumer_reports_are_read() {
    let template = read("template.yaml");
    let mapping = resource(&template, "ConsumerMapping");
    assert!(mapping.contains("FunctionResponseTypes: [ReportBatchItemFailures]"));
    assert!(!mapping.contains("FilterCriteria:"), "a mapping deletes what it filters out");
}

#[test]
fn the_laptops_tables_have_the_keys_of_the_template() {
    let template = read("template.yaml");
    for (name, table) in [
        ("LedgerTable", LEDGER_TABLE),
        ("LearnersTable", LEARNERS_TABLE),
        ("UnknownEventsTable", UNKNOWN_EVENTS_TABLE),
    ] {
        let (_, schema) = resource(&template, name).split_once("KeySchema:\n").unwrap();
        let keys: Vec<_> = schema
            .lines()
            .take_while(|line| line.starts_with("        "))
            .filter_map(|line| line.trim().strip_prefix("- AttributeName: "))
            .collect();
        let expected: Vec<_> = std::iter::once(table.hash_key).chain(table.range_key).collect();
        assert_eq!(keys, expected, "{name}");
    }
}
