//! `learnink load`: a run on the laptop's pipeline, and runs on receivers that break a promise.

use std::net::TcpListener as StdListener;

use axum::Router;
use axum::http::StatusCode;
use learnink_tests::serve;
use serde_json::{Value, json};

use crate::command::{Dev, learnink, text};

/// A run of a few seconds with some of everything.
const SHORT: [&str; 13] = [
    "load",
    "--rate",
    "30",
    "--duration",
    "3s",
    "--duplicates",
    "10",
    "--tampered",
    "10",
    "--poison",
    "5",
    "--lists=20",
    "--json",
];

/// The exit code of a run, and its report.
fn run(dev: &Dev, options: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&SHORT[..], &["--state", &dev.folder], options].concat();
    let output = learnink(&arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| panic!("{}", text(&output.stderr))))
}

#[test]
fn a_load_arrives_once_at_the_other_end_and_what_was_changed_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let address = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let archive = folder.path().join("archive").to_str().unwrap().to_owned();
    let variables = [
        ("LEARNINK_ARCHIVE", archive.as_str()),
        ("LEARNINK_PUSH", "endpoint"),
        ("LEARNINK_PUSH_URL", &format!("http://{address}/")),
        ("LEARNINK_PUSH_SECRET", "whsec_c2hvd24gdG8gbm9ib2R5LCBvZiB0aGUgdGVzdA=="),
    ];
    let dev = Dev::start_with(folder.path(), &variables);
    let picture = folder.path().join("load.svg");
    let places = ["--listen", &address, "--archive", &archive, "--svg", picture.to_str().unwrap()];
    let (code, report) = run(&dev, &places);
    assert_eq!(code, Some(0), "{report:#}");

    let (sent, verdict) = (&report["sent"], &report["verdict"]);
    let count = |value: &Value| value.as_u64().unwrap();
    let all = sent.as_object().unwrap().values().map(count).sum::<u64>();
    assert_eq!(all, 90);
    assert_eq!(report["answers"]["401"], sent["tampered"]);
    assert_eq!(count(&report["answers"]["200"]), all - count(&sent["tampered"]));
    assert_eq!((&verdict["refused"], &verdict["dead_lettered"]), (&sent["tampered"], &sent["poison"]));
    let handled = ["event", "late", "list"].map(|kind| count(&sent[kind])).iter().sum::<u64>();
    assert_eq!(count(&verdict["delivered"]), handled);
    assert!(std::fs::read_to_string(picture).unwrap().contains("messages on the queue"));
}

#[test]
fn what_is_missing_in_the_archive_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // Without LEARNINK_ARCHIVE, the handler is off.
    let dev = Dev::start(folder.path());
    let archive = folder.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let (code, report) = run(&dev, &["--archive", archive.to_str().unwrap(), "--wait", "5s"]);
    let lost: Vec<_> = report["verdict"]["lost"].as_array().unwrap().iter().collect();
    assert!(code == Some(1) && !lost.is_empty(), "{report:#}");
    assert!(lost.iter().all(|line| line.as_str().unwrap().ends_with(": the archive")), "{lost:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_everything_and_keeps_nothing_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let (code, report) = tokio::task::spawn_blocking({
        let url = answering(StatusCode::OK).await;
        move || run(&dev, &["--url", &url, "--wait", "1s"])
    })
    .await
    .unwrap();
    let (sent, verdict) = (&report["sent"], &report["verdict"]);
    assert_eq!(code, Some(1), "{report:#}");
    let length = |name: &str| verdict[name].as_array().unwrap().len() as u64;
    let genuine = ["event", "late", "list", "poison"].map(|kind| sent[kind].as_u64().unwrap());
    assert_eq!(length("lost"), genuine.iter().sum::<u64>());
    assert_eq!(json!(length("wrongly_accepted")), sent["tampered"]);
    assert_eq!(report["settled_after_s"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_confirmed_is_not_called_lost_and_what_was_refused_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let urls = [answering(StatusCode::SERVICE_UNAVAILABLE).await, answering(StatusCode::UNAUTHORIZED).await];
    let [unavailable, unauthorized] =
        tokio::task::spawn_blocking(move || urls.map(|url| run(&dev, &["--url", &url]))).await.unwrap();
    assert_eq!(unavailable.0, Some(0), "{:#}", unavailable.1);
    assert_eq!(unavailable.1["verdict"]["delivered"], 0);
    assert_eq!(unauthorized.0, Some(1));
    assert!(!unauthorized.1["verdict"]["wrongly_refused"].as_array().unwrap().is_empty());
}

/// The URL of a server that gives one answer to everything.
async fn answering(status: StatusCode) -> String {
    format!("{}/", serve(Router::new().fallback(async move || status)).await)
}

#[test]
fn a_load_that_may_not_be_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    for (options, says) in [
        (&["--url", "https://hooks.example.com/"][..], "add --i-own https://hooks.example.com/"),
        (&["--tampered", "60", "--poison", "50"], "the shares are more than 100 per cent together"),
        (&["--rate", "0"], "expected a number from 0.1 to 10000"),
        (&["--duration", "2h"], "expected a duration from 1s to 1h"),
    ] {
        let output = learnink(&[&["load", "--state", &dev.folder], options].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    assert!(dev.json("learners").is_empty());
}
