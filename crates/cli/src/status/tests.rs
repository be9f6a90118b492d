use super::*;
use crate::dlq::CountedCause;

fn now() -> Timestamp {
    "2026-01-02T10:00:00Z".parse().unwrap()
}

fn calm() -> Status {
    Status {
        place: "the stack s in eu-west-1".to_owned(),
        options: " --stack s".to_owned(),
        queue: Ok(QueueCounts { visible: 3, in_flight: 12, delayed: 0 }),
        dead_letters: Ok(DeadLetters { count: 0, sample: None }),
        secrets: Ok(Secrets { current: 1, previous: 1 }),
        deployed: Some(Deployed {
            build: Some("0.1.0+1a2b3c4d5e".to_owned()),
            metrics: Ok(Metrics {
                last_accepted: Some("2026-01-02T09:58:00Z".parse().unwrap()),
                refused: 3.0,
                requests: 700.0,
                oldest_s: Some(75.0),
            }),
            alarms: Ok(vec![]),
            receiver: Ok(Some(Alias::of_test("12"))),
            consumer: Ok(Some(Alias::of_test("14"))),
        }),
    }
}

fn shown(status: &Status) -> String {
    let lines = status.lines(now());
    lines.iter().map(|line| line.plain().trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_stack_without_anything_to_do_is_one_screen() {
    let status = calm();
    assert!(status.is_calm());
    insta::assert_snapshot!(shown(&status), @r"
    waiting        3 messages
    in flight      12 messages (under 0.1% of the quota of 120,000)
    coming back    no messages
    oldest         1m, without those that were received three times
    dead letters   none
    last accepted  2026-01-02 09:58:00Z, 2m ago
    refused        0.4% of 700 requests in the last 24 hours
    signing secret 1 current, 1 previous
    alarms         none rings
    build          0.1.0+1a2b3c4d5e
    receiver       version 12
    consumer       version 14
    ");
    let json = status.json();
    assert_eq!((&json["queue"]["waiting"], &json["receiver"]["version"]), (&json!(3), &json!("12")));
    assert_eq!((&json["alarms"], &json["build"]), (&json!([]), &json!("0.1.0+1a2b3c4d5e")));
}

#[test]
fn dead_letters_and_alarms_are_something_to_do() {
    let mut status = calm();
    let cause = |name: &str, count| CountedCause {
        name: name.to_owned(),
        handler: Some("push".to_owned()),
        reason: "busy".to_owned(),
        count,
    };
    let causes: Vec<_> = (0..7).map(|n| cause(&format!("3f9a1{n}"), 10 - n)).collect();
    status.dead_letters = Ok(DeadLetters { count: 150, sample: Some(Ok(Sample { looked_at: 100, causes })) });
    assert!(!status.is_calm());
    let said = shown(&status);
    assert!(
        said.contains("dead letters   150; next: ") && said.contains(" dlq causes --stack s\n"),
        "{said}"
    );
    assert!(said.contains("10 3f9a10 push: busy\n") && said.contains("and 2 more causes\n"), "{said}");
    assert!(said.contains("of 100 that were looked at\n"), "{said}");

    let mut status = calm();
    status.deployed.as_mut().unwrap().alarms = Ok(vec![Alarm::of_test("s-no-events")]);
    assert!(!status.is_calm());
    let said = shown(&status);
    assert!(said.contains("alarm rings    s-no-events since 2026-01-02 10:00:00Z\n"), "{said}");
    assert_eq!(status.json()["alarms"], json!(["s-no-events"]));
}

#[test]
fn what_cannot_be_read_says_so_on_its_line_and_the_rest_is_shown() {
    let mut status = calm();
    let denied = |action: &'static str| Unread::Call {
        action,
        is_denied: true,
        why: format!("the credentials may not call {action}"),
    };
    status.queue = Err(denied("sqs:GetQueueAttributes"));
    status.secrets = Err(denied("secretsmanager:GetSecretValue"));
    let letters = DeadLetters { count: 1, sample: Some(Err(denied("sqs:ReceiveMessage"))) };
    status.dead_letters = Ok(letters);
    let deployed = status.deployed.as_mut().unwrap();
    deployed.metrics = Err(denied("cloudwatch:GetMetricData"));
    deployed.alarms = Err(Unread::NoOutput("AlarmTopicArn"));
    deployed.receiver = Err(denied("lambda:GetAlias"));
    deployed.consumer = Ok(None);
    assert!(!status.is_calm());
    insta::assert_snapshot!(shown(&status).replace(called::learnink(), "learnink"), @r"
    waiting        not read: the credentials may not call sqs:GetQueueAttributes
    dead letters   1; next: learnink dlq causes --stack s
                   not read: the credentials may not call sqs:ReceiveMessage
    last accepted  not read: the credentials may not call cloudwatch:GetMetricData
    signing secret not read: the credentials may not call secretsmanager:GetSecretValue
    alarms         not read: the stack has no output AlarmTopicArn
    build          0.1.0+1a2b3c4d5e
    receiver       not read: the credentials may not call lambda:GetAlias
    consumer       no version is live
    ");
    assert_eq!(status.json()["metrics"]["not_read"], "the credentials may not call cloudwatch:GetMetricData");
    assert_eq!(status.unread().len(), 6);
}

#[test]
fn a_laptop_shows_what_exists_there() {
    let status = Status { deployed: None, queue: Ok(QueueCounts::default()), ..calm() };
    assert!(status.is_calm());
    insta::assert_snapshot!(shown(&status), @r"
    waiting        no messages
    in flight      no messages (0.0% of the quota of 120,000)
    coming back    no messages
    dead letters   none
    signing secret 1 current, 1 previous
    ");
}

#[test]
fn the_metrics_are_read_in_any_order_and_an_old_age_says_nothing() {
    let point =
        |minutes_ago: i64, value| Datapoint { at: now() - SignedDuration::from_mins(minutes_ago), value };
    let accepted = [point(30, 2.0), point(5, 1.0), point(1, 0.0)];
    let read_all =
        |age: &[Datapoint]| read(&accepted, &[point(30, 1.0), point(90, 2.0)], &[point(30, 6.0)], age, now());
    let metrics = read_all(&[point(3, 70.0), point(1, 90.0)]);
    assert_eq!(metrics.last_accepted, Some(now() - SignedDuration::from_mins(5)));
    assert_eq!((metrics.refused, metrics.requests, metrics.oldest_s), (3.0, 6.0, Some(90.0)));
    assert_eq!(read_all(&[point(20, 70.0)]).oldest_s, None);
    assert_eq!(read(&[], &[], &[], &[], now()), Metrics::default());
    let mut empty = calm();
    empty.queue = Ok(QueueCounts::default());
    assert!(shown(&empty).contains("\noldest         none\n"));
    empty.deployed.as_mut().unwrap().metrics = Ok(Metrics::default());
    let said = shown(&empty);
    assert!(
        said.contains("last accepted  none in the last 24 hours\nrefused        no requests in"),
        "{said}"
    );
}

#[test]
fn a_denied_look_at_the_letters_names_the_right() {
    let denied = || CallError::Denied { code: "AccessDenied".to_owned() };
    let queue = anyhow::Error::new(denied()).context("cannot read the queue https://q");
    assert_eq!(sample_unread(&queue).to_string(), "the credentials may not call sqs:ReceiveMessage");
    let ledger =
        anyhow::Error::new(LedgerError::new("read an entry", denied())).context("cannot use the ledger");
    assert_eq!(sample_unread(&ledger).to_string(), "the credentials may not call dynamodb:GetItem");
}
