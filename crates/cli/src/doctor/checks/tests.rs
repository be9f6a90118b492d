use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::aws::cloudwatch::Alarm;
use crate::aws::lambda::{AccountLimit, Alias};
use crate::aws::sns::Subscriptions;
use crate::doctor::facts::{Queue, Redrive, Topic, Url};

const RECEIVER: &str = "learnink-webhooks-staging-receiver";
const CONSUMER: &str = "learnink-webhooks-staging-consumer";

fn configuration() -> Configuration {
    Configuration {
        code_size: 3_000_000,
        state: Some("Active".to_owned()),
        state_reason_code: None,
        last_update_status: Some("Successful".to_owned()),
        last_update_status_reason_code: None,
        architectures: vec!["arm64".to_owned()],
    }
}

fn function(name: &str) -> Function {
    Function {
        name: name.to_owned(),
        live: Ok(Some(Alias::of_test("7"))),
        live_version: Ok(Some(configuration())),
        newest: Ok(Some(configuration())),
        reserved: Ok(None),
    }
}

fn secret(state: SecretState) -> Read<NamedSecret> {
    Ok(NamedSecret { name: "learnink-webhooks-staging/signing_secret".to_owned(), state })
}

/// A stack with nothing to mend.
fn healthy() -> Facts {
    Facts {
        status: "UPDATE_COMPLETE".to_owned(),
        missing_outputs: vec![],
        receiver_concurrency: Some(200),
        consumer_concurrency: Some(10),
        clock_ahead: Some(SignedDuration::from_millis(-900)),
        signing_secret: secret(SecretState::Usable),
        push_secret: None,
        forward_secret: None,
        push_sender: Some("off".to_owned()),
        receiver: Ok(function(RECEIVER)),
        consumer: Ok(function(CONSUMER)),
        account_limit: Ok(AccountLimit {
            concurrent_executions: 1000,
            unreserved_concurrent_executions: 800,
        }),
        mappings: Ok(vec![mapping_of(0)]),
        queue: Ok(Queue {
            url: "https://sqs/1/messages".to_owned(),
            arn: "arn:aws:sqs:eu-west-1:1:messages".to_owned(),
            expected_target: "arn:aws:sqs:eu-west-1:1:dead-letters".to_owned(),
            visibility_timeout_s: Some(180),
            redrive: Some(Redrive {
                target_arn: "arn:aws:sqs:eu-west-1:1:dead-letters".to_owned(),
                max_receive_count: 7,
            }),
        }),
        dead_letters: Ok(0),
        ledger: Ok(()),
        url: Ok(Url {
            url: "https://x.test/webhooks/learnink".to_owned(),
            unsigned: Ok(401),
            wrong_method: Ok(404),
            wrong_path: Ok(404),
            old: Some(Ok(401)),
        }),
        topic: Ok(Topic {
            arn: "arn:aws:sns:eu-west-1:1:alarms".to_owned(),
            subscriptions: Subscriptions { confirmed: 1, pending: 0 },
        }),
        alarms: Ok(vec![]),
    }
}

fn mapping_of(filters: usize) -> Mapping {
    let arn = format!("arn:aws:lambda:eu-west-1:1:function:{CONSUMER}:live");
    Mapping::of_test(&arn, filters)
}

/// The findings of every check, with their checks' names.
fn found_in(facts: &Facts) -> Vec<(&'static str, Finding)> {
    let found = CHECKS.iter().flat_map(|check| match (check.judge)(facts, &Shell::of_test()) {
        Judgement::Found(findings) => findings.into_iter().map(|found| (check.name, found)).collect(),
        Judgement::Good(_) | Judgement::NotLooked(_) => vec![],
    });
    found.collect()
}

/// The only finding after one thing was changed.
fn one(change: impl FnOnce(&mut Facts)) -> (&'static str, Finding) {
    let mut facts = healthy();
    change(&mut facts);
    let mut found = found_in(&facts);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// What is found, and what mends it.
fn says(change: impl FnOnce(&mut Facts)) -> (String, String, Events) {
    let (name, Finding { what, remedy, events }) = one(change);
    (format!("{name}: {what}"), remedy.commands.join("\n"), events)
}

#[test]
fn a_healthy_stack_has_no_finding_and_every_check_says_why() {
    for check in CHECKS {
        let judgement = (check.judge)(&healthy(), &Shell::of_test());
        assert!(
            matches!(&judgement, Judgement::Good(text) if !text.is_empty()),
            "{}: {judgement:?}",
            check.name
        );
    }
}

#[test]
fn the_state_of_a_deploy_decides_what_to_do_next() {
    for (status, part, command, stops) in [
        ("CREATE_IN_PROGRESS", "first deploy is under way", "wait stack-create-complete", true),
        ("UPDATE_IN_PROGRESS", "a deploy is under way", "wait stack-update-complete", false),
        ("UPDATE_ROLLBACK_IN_PROGRESS", "being rolled back", "wait stack-rollback-complete", false),
        ("UPDATE_ROLLBACK_COMPLETE", "was rolled back", "sam deploy --config-env staging", false),
        ("UPDATE_ROLLBACK_FAILED", "no deploy is possible", "continue-update-rollback", false),
        ("ROLLBACK_COMPLETE", "its first deploy failed", "delete-stack", true),
        ("DELETE_FAILED", "being deleted", "describe-stack-events", true),
        ("SOMETHING_NEW", "did not end well (SOMETHING_NEW)", "sam deploy", false),
    ] {
        let (said, commands, events) = says(|facts| facts.status = status.to_owned());
        assert!(said.contains(part) && commands.contains(command), "{status}: {said} {commands}");
        assert_eq!(events == Events::Stop, stops, "{status}");
    }
    for status in ["CREATE_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"] {
        assert!(found_in(&Facts { status: status.to_owned(), ..healthy() }).is_empty());
    }
}

#[test]
fn a_stack_of_an_older_version_is_deployed_again_and_says_so_once() {
    let mut facts = healthy();
    facts.missing_outputs = vec!["AlarmTopicArn", "QueueArn"];
    facts.topic = Err(Unread::NoOutput("AlarmTopicArn"));
    facts.alarms = Err(Unread::NoOutput("AlarmTopicArn"));
    facts.queue = Err(Unread::NoOutput("QueueArn"));
    facts.mappings = Err(Unread::NoOutput("QueueArn"));
    let found = found_in(&facts);
    assert_eq!(found.len(), 1, "{found:?}");
    let (name, finding) = &found[0];
    assert_eq!((*name, finding.events), ("outputs", Events::Stop));
    assert!(finding.what.ends_with("it has no output AlarmTopicArn, QueueArn"), "{}", finding.what);
    let judged = alarms(&facts, &Shell::of_test());
    assert_eq!(judged, Judgement::NotLooked("the stack has no output AlarmTopicArn".to_owned()));
}

#[test]
fn a_clock_that_is_off_is_found_before_signatures_are_refused() {
    let off = |seconds| move |facts: &mut Facts| facts.clock_ahead = Some(SignedDuration::from_secs(seconds));
    let (said, command, events) = says(off(-40));
    assert!(said.starts_with("clock: this machine's clock is 40 s ahead of AWS's"), "{said}");
    assert_eq!((command.as_str(), events), ("sudo timedatectl set-ntp true", Events::Pass));
    let (said, _, events) = says(off(295));
    assert!(said.contains("295 s behind AWS's"), "{said}");
    assert_eq!(events, Events::Stop);
    assert!(matches!(
        clock(&Facts { clock_ahead: None, ..healthy() }, &Shell::of_test()),
        Judgement::NotLooked(_)
    ));
}

#[test]
fn each_state_of_the_signing_secret_has_its_remedy_and_stops_the_event() {
    let put = "learnink secret put --stack learnink-webhooks-staging";
    for (state, part, command) in [
        (SecretState::Random, "still the random one", put),
        (SecretState::Unusable("the signing secret is empty".to_owned()), "the signing secret is empty", put),
        (SecretState::NoValue, "does not exist, or has no value", put),
        (
            SecretState::Deleting,
            "scheduled for deletion",
            "aws --region eu-west-1 secretsmanager restore-secret --secret-id \
             learnink-webhooks-staging/signing_secret",
        ),
    ] {
        let (said, commands, events) = says(|facts| facts.signing_secret = secret(state));
        assert!(said.contains(part), "{said}");
        assert_eq!((commands.as_str(), events), (command, Events::Stop));
    }
}

#[test]
fn the_push_senders_secret_is_stored_in_the_form_that_the_sender_has() {
    let stored = |sender: &str, state| {
        let sender = sender.to_owned();
        says(move |facts| {
            facts.push_sender = Some(sender);
            facts.push_secret = Some(secret(state));
        })
    };
    let (said, commands, events) = stored("endpoint", SecretState::NoValue);
    assert!(said.contains("is not stored: notifications wait"), "{said}");
    assert_eq!(commands, "learnink secret put push --stack learnink-webhooks-staging");
    assert_eq!(events, Events::Pass);
    let (said, commands, _) = stored("fcm", SecretState::Unusable("it is not JSON".to_owned()));
    assert!(said.contains("cannot be used, because it is not JSON"), "{said}");
    assert!(commands.contains(" put push --secret-file service-account.json "), "{commands}");
    let (said, _, _) = says(|facts| facts.forward_secret = Some(secret(SecretState::Deleting)));
    assert!(said.starts_with("forward-secret: "), "{said}");
}

/// Changes the receiver.
fn receiver_with(change: impl FnOnce(&mut Function)) -> impl FnOnce(&mut Facts) {
    |facts| change(facts.receiver.as_mut().unwrap())
}

#[test]
fn code_that_cannot_run_is_replaced() {
    let code = |change: fn(&mut Configuration)| {
        receiver_with(move |function| change(function.live_version.as_mut().unwrap().as_mut().unwrap()))
    };
    let deploy = format!(
        "cargo lambda build --release --arm64 --bin receiver\n\
         cargo lambda deploy --region eu-west-1 --binary-name receiver --alias live {RECEIVER}"
    );
    let (said, commands, events) = says(code(|code| code.code_size = 300));
    assert!(said.contains("version 7 of") && said.contains("a placeholder of 300 bytes"), "{said}");
    assert_eq!((&commands, events), (&deploy, Events::Stop));
    let (said, commands, _) = says(code(|code| {
        code.state = Some("Failed".to_owned());
        code.state_reason_code = Some("InvalidRuntime".to_owned());
    }));
    assert!(said.contains("cannot run: it is Failed (InvalidRuntime)"), "{said}");
    assert_eq!(commands, deploy);
    let (said, _, events) = says(receiver_with(|function| {
        let newest = function.newest.as_mut().unwrap().as_mut().unwrap();
        newest.last_update_status = Some("Failed".to_owned());
    }));
    assert!(said.contains("the last update of") && said.contains("the version before it runs"), "{said}");
    assert_eq!(events, Events::Pass);
    let (said, commands, _) = says(receiver_with(|function| function.newest = Ok(None)));
    assert!(said.ends_with("does not exist") && commands.starts_with("sam build\nsam deploy"), "{said}");
    let (said, commands, _) = says(receiver_with(|function| function.live = Ok(None)));
    assert!(said.contains("has no alias `live`"), "{said}");
    assert!(
        commands.contains("lambda create-alias")
            && commands.contains("$(aws --region eu-west-1 lambda publish-version")
    );
}

#[test]
fn a_function_that_may_not_run_gets_back_what_the_stack_gives_it() {
    let (said, commands, events) = says(receiver_with(|function| function.reserved = Ok(Some(0))));
    assert!(said.contains("its reserved concurrency is 0, and every webhook is answered 503"), "{said}");
    assert_eq!(
        commands,
        format!(
            "aws --region eu-west-1 lambda put-function-concurrency --function-name {RECEIVER} \
             --reserved-concurrent-executions 200"
        )
    );
    assert_eq!(events, Events::Stop);
    let (_, commands, _) = says(|facts| facts.consumer.as_mut().unwrap().reserved = Ok(Some(0)));
    assert!(commands.ends_with(&format!("delete-function-concurrency --function-name {CONSUMER}")));
}

#[test]
fn an_account_that_runs_too_few_environments_asks_for_more() {
    let limit = |all, unreserved| {
        Ok(AccountLimit { concurrent_executions: all, unreserved_concurrent_executions: unreserved })
    };
    let (said, commands, events) = says(|facts| facts.account_limit = limit(299, 99));
    assert!(said.contains("ReceiverConcurrency=200 needs 300"), "{said}");
    assert!(commands.contains("--quota-code L-B99A9384"), "{commands}");
    assert_eq!(events, Events::Pass);
    let (said, _, _) = says(|facts| facts.account_limit = limit(300, 9));
    assert!(said.contains("only 9 environments") && said.contains("ConsumerConcurrency=10"), "{said}");
    // As docs/deploy.md has it for a new account.
    let small = |facts: &mut Facts| {
        facts.receiver_concurrency = Some(0);
        facts.consumer_concurrency = Some(2);
        facts.account_limit = limit(10, 10);
    };
    let mut facts = healthy();
    small(&mut facts);
    assert!(found_in(&facts).is_empty());
}

#[test]
fn a_mapping_that_holds_back_or_loses_messages_is_found() {
    let with = |change: fn(&mut Mapping)| {
        move |facts: &mut Facts| facts.mappings.as_mut().unwrap().iter_mut().for_each(change)
    };
    let update = "aws --region eu-west-1 lambda update-event-source-mapping --uuid 6777 ";
    for (change, part, option) in [
        (with(|mapping| mapping.state = "Disabled".to_owned()), "messages wait on the queue", "--enabled"),
        (
            with(|mapping| mapping.function_response_types = None),
            "ignores which messages of a batch failed",
            "--function-response-types ReportBatchItemFailures",
        ),
        (with(|mapping| *mapping = mapping_of(1)), "it deletes the messages", "--filter-criteria '{}'"),
    ] {
        let (said, commands, events) = says(change);
        assert!(said.contains(part), "{said}");
        assert_eq!((commands, events), (format!("{update}{option}"), Events::Stop));
    }
    for mappings in [vec![], vec![Mapping::of_test("arn:aws:lambda:eu-west-1:1:function:other:live", 0)]] {
        let (said, commands, _) = says(|facts| facts.mappings = Ok(mappings));
        assert!(said.contains("no event source mapping"), "{said}");
        assert!(commands.contains("--scaling-config MaximumConcurrency=10"), "{commands}");
    }
}

#[test]
fn a_queue_that_differs_from_the_template_is_set_right() {
    let with = |change: fn(&mut Queue)| move |facts: &mut Facts| change(facts.queue.as_mut().unwrap());
    let (said, commands, _) = says(with(|queue| queue.visibility_timeout_s = Some(30)));
    assert!(said.contains("is 30 s instead of 180 s"), "{said}");
    assert_eq!(
        commands,
        "aws --region eu-west-1 sqs set-queue-attributes --queue-url https://sqs/1/messages --attributes \
         '{\"VisibilityTimeout\":\"180\"}'"
    );
    for (change, part) in [
        (with(|queue| queue.redrive = None), "has no redrive policy"),
        (
            with(|queue| queue.redrive.as_mut().unwrap().target_arn.push('x')),
            "names another dead-letter queue",
        ),
        (
            with(|queue| queue.redrive.as_mut().unwrap().max_receive_count = 3),
            "moves a message after 3 deliveries, and the consumer counts on 7",
        ),
    ] {
        let (said, commands, _) = says(change);
        assert!(said.contains(part), "{said}");
        assert!(commands.contains(r#"\"maxReceiveCount\":\"7\""#), "{commands}");
    }
}

#[test]
fn what_waits_or_rings_is_found_and_stops_nothing() {
    let (said, commands, events) = says(|facts| facts.dead_letters = Ok(2));
    assert_eq!(said, "dead-letters: 2 dead letters wait");
    let stack = "--stack learnink-webhooks-staging";
    assert_eq!(commands, format!("learnink dlq causes {stack}\nlearnink dlq redrive --all {stack}"));
    assert_eq!(events, Events::Pass);
    let (name, ringing) = one(|facts| {
        facts.alarms = Ok(vec![Alarm::of_test("learnink-webhooks-staging-refused-share")]);
    });
    assert_eq!(name, "alarms");
    assert_eq!(ringing.what, "learnink-webhooks-staging-refused-share rings since 2026-01-02 10:00:00Z");
    assert_eq!(ringing.remedy.note.as_deref(), Some("Do this."));
    assert_eq!(ringing.remedy.commands, [format!("learnink secret put {stack}")]);
    let mut facts = healthy();
    facts.alarms = Ok(["a", "b"].map(Alarm::of_test).to_vec());
    assert_eq!(found_in(&facts).len(), 2);
}

#[test]
fn an_alarm_topic_without_recipients_is_told_from_one_that_waits_for_them() {
    let with = |confirmed, pending| {
        move |facts: &mut Facts| {
            facts.topic.as_mut().unwrap().subscriptions = Subscriptions { confirmed, pending };
        }
    };
    let (none, commands, _) = says(with(0, 0));
    assert!(none.contains("has no subscription") && commands.starts_with("read -r address\n"), "{none}");
    let (pending, _, _) = says(with(0, 2));
    assert!(pending.contains("2 recipients did not follow the link"), "{pending}");
    let mut facts = healthy();
    with(1, 1)(&mut facts);
    assert!(found_in(&facts).is_empty());
}

#[test]
fn the_ledger_and_the_url_are_found_to_fail() {
    let refused = |facts: &mut Facts| facts.ledger = Err(Unread::other("dynamodb:PartiQLInsert", "refused"));
    let (said, _, events) = says(refused);
    assert_eq!(said, "ledger: the consumer cannot claim or settle a message: refused");
    assert_eq!(events, Events::Stop);
    let with = |change: fn(&mut Url)| move |facts: &mut Facts| change(facts.url.as_mut().unwrap());
    for (change, part, stops) in [
        (with(|url| url.unsigned = Err("no connection".to_owned())), "does not answer: no connection", true),
        (with(|url| url.unsigned = Ok(200)), "answered 200: nobody checks signatures", true),
        (with(|url| url.unsigned = Ok(503)), "answered 503: the receiver fails", true),
        (with(|url| url.unsigned = Ok(404)), "the API has no such route", true),
        (with(|url| url.unsigned = Ok(429)), "answered 429 instead of 401", true),
        (with(|url| url.old = Some(Ok(200))), "ten minutes ago is answered 200", true),
        (with(|url| url.wrong_method = Ok(200)), "a GET is answered 200", false),
        (with(|url| url.wrong_path = Ok(200)), "another path is answered 200", false),
    ] {
        let (said, commands, events) = says(change);
        assert!(said.contains(part) && !commands.is_empty(), "{said}");
        assert_eq!(events == Events::Stop, stops, "{said}");
    }
}

#[test]
fn a_missing_right_is_one_finding_for_its_check_with_its_name_and_does_not_fail_the_others() {
    let unread = |action: &'static str| Unread::Call {
        action,
        is_denied: true,
        why: format!("the credentials may not call {action}"),
    };
    let (said, _, events) = says(|facts| facts.alarms = Err(unread("cloudwatch:DescribeAlarms")));
    assert_eq!(said, "alarms: not read: the credentials may not call cloudwatch:DescribeAlarms");
    assert_eq!(events, Events::Pass);
    let (said, _, _) = says(|facts| facts.ledger = Err(unread("dynamodb:DeleteItem")));
    assert_eq!(said, "ledger: not read: the credentials may not call dynamodb:DeleteItem");
    let (_, finding) = one(|facts| facts.topic = Err(unread("sns:ListSubscriptionsByTopic")));
    assert!(finding.remedy.note.unwrap().contains("allow sns:ListSubscriptionsByTopic"));
}

#[test]
fn the_page_about_deploying_lists_every_right() {
    let page = include_str!("../../../../../docs/deploy.md");
    let rights: BTreeSet<_> = CHECKS.iter().flat_map(|check| check.actions).collect();
    for right in rights {
        assert!(page.contains(&format!("\"{right}\"")), "docs/deploy.md does not name {right}");
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![Just(Ok(401)), (100_u16..600).prop_map(Ok), Just(Err("no connection".to_owned()))]
}

proptest! {
    #[test]
    fn every_finding_says_what_mends_it_whatever_was_read(
        status in "[A-Z_]{0,30}",
        sizes in (0_u64..2_000_000, 0_u64..2_000_000),
        reserved in prop::option::of(0_u64..3),
        limit in (0_u64..400, 0_u64..30),
        timeout in prop::option::of(0_u32..400),
        answers in prop::array::uniform3(answer()),
        counts in (0_usize..3, 0_usize..3, 0_usize..3),
    ) {
        let mut facts = healthy();
        facts.status = status;
        facts.receiver.as_mut().unwrap().live_version.as_mut().unwrap().as_mut().unwrap().code_size = sizes.0;
        facts.consumer.as_mut().unwrap().live_version.as_mut().unwrap().as_mut().unwrap().code_size = sizes.1;
        facts.consumer.as_mut().unwrap().reserved = Ok(reserved);
        facts.account_limit =
            Ok(AccountLimit { concurrent_executions: limit.0, unreserved_concurrent_executions: limit.1 });
        facts.queue.as_mut().unwrap().visibility_timeout_s = timeout;
        let [unsigned, wrong_method, old] = answers;
        facts.url = Ok(Url { unsigned, wrong_method, old: Some(old), ..facts.url.unwrap() });
        facts.dead_letters = Ok(counts.0);
        facts.topic.as_mut().unwrap().subscriptions = Subscriptions { confirmed: counts.1, pending: counts.2 };
        for (name, Finding { what, remedy, .. }) in found_in(&facts) {
            prop_assert!(!what.is_empty(), "{name}");
            prop_assert!(!remedy.commands.is_empty() || remedy.note.is_some(), "{name}: {what}");
            prop_assert!(remedy.commands.iter().all(|command| !command.contains('\n')), "{name}: {remedy:?}");
        }
    }
}
