//! The page of `learnink dev`, in a real browser.
//!
//! `scripts/check browser` runs these tests, one after another: each starts a pipeline and Chromium.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed, and says why"
)]

mod stand;
mod web_driver;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use learnink_tests::{serve, signing};
use serde_json::{Value, json};

use crate::stand::{Dev, eventually};
use crate::web_driver::{Browser, ENTER, ESCAPE};

/// Parts of what every sample carries, and of the secret.
const PERSONAL: [&str; 3] = ["254705408079", "Mary", "whsec_"];

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_a_row_within_a_second_and_still_there_after_a_restart() {
    let mut dev = Dev::start();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    assert_eq!(browser.rows().await, Vec::<String>::new());

    dev.send(&["--id", "msg_first"]);
    browser.load_what_is_new().await;
    let rows = browser.rows().await;
    assert!(rows.len() == 1 && rows[0].contains("msg_first"), "{rows:?}");
    browser.goto(&format!("{}/messages/msg_first", dev.console)).await;
    eventually("the end of the message", async || browser.text().await.contains("done")).await;
    let text = browser.text().await;
    for part in ["user.course.started", "progress", "accepted", "200"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(PERSONAL.iter().all(|personal| !text.contains(personal)), "{text}");

    dev.restart();
    browser.goto(&dev.link).await;
    let rows = browser.rows().await;
    assert!(rows.len() == 1 && rows[0].contains("msg_first"), "{rows:?}");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cause_of_a_refusal_is_on_the_page_of_the_request() {
    let dev = Dev::start();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    for (id, options, cause) in [
        ("msg_tampered", &["--tamper"][..], "no signature matches"),
        ("msg_late", &["--age", "10m"][..], "the signature is too old"),
    ] {
        dev.send(&[&["--id", id], options].concat());
        browser.goto(&format!("{}/messages/{id}", dev.console)).await;
        eventually("the refusal", async || browser.text().await.contains("401")).await;
        let text = browser.text().await;
        assert!(text.contains("refused") && text.contains(cause), "{cause}: {text}");
    }
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_break_that_was_not_signed_is_named_on_the_page_of_the_request() {
    let dev = Dev::start();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    let signed = learnink_tests::read("events/user.course.started.json");
    let headers = signing::headers(&dev.secret, "msg_longer", signing::now_s(), signed.as_bytes());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = headers
        .iter()
        .fold(client.post(&dev.endpoint), |request, (name, value)| request.header(*name, value));
    assert_eq!(request.body(format!("{signed}\n")).send().await.unwrap().status(), 401);

    browser.goto(&format!("{}/messages/msg_longer", dev.console)).await;
    eventually("the refusal", async || browser.text().await.contains("401")).await;
    browser.tab_to("button", "Check the signature").await;
    browser.press(ENTER).await;
    eventually("the diagnosis", async || {
        browser.text().await.contains("The body has a line break at its end that was not signed")
    })
    .await;
    browser.quit().await;
}

/// How many letters the page has of each of three causes; `LETTERS=430` has ten times as many.
fn letters() -> [usize; 3] {
    let all: usize = std::env::var("LETTERS").map_or(43, |letters| letters.parse().unwrap());
    [all * 7 / 10, all * 2 / 10, all - all * 7 / 10 - all * 2 / 10]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cause_of_three_is_redriven_and_another_is_dropped_and_restored() {
    let is_repaired = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route(
        "/",
        post({
            let (is_repaired, sent) = (is_repaired.clone(), sent.clone());
            async move || {
                if !is_repaired.load(Ordering::SeqCst) {
                    return StatusCode::UNPROCESSABLE_ENTITY;
                }
                sent.fetch_add(1, Ordering::SeqCst);
                StatusCode::OK
            }
        }),
    );
    let url = format!("{}/", serve(router).await);
    let secret = "whsec_c2hvd24gdG8gbm9ib2R5LCBvZiB0aGUgdGVzdA==";
    let variables =
        [("LEARNINK_PUSH", "endpoint"), ("LEARNINK_PUSH_URL", &url), ("LEARNINK_PUSH_SECRET", secret)];
    let dev = Dev::start_with(&variables);
    let [refused, unreadable, empty] = letters();
    let many =
        |count: usize| ["--concurrency".to_owned(), "16".to_owned(), "--count".to_owned(), count.to_string()];
    for (body, count) in [
        (&*learnink_tests::read("events/notifications.sent.json"), refused),
        ("not JSON", unreadable),
        (r#"{"object":"event","type":"user.course.started","api_version":"2022-11-15","data":{}}"#, empty),
    ] {
        dev.send_body(body, &many(count).each_ref().map(String::as_str));
    }

    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    let look = async || {
        browser.goto(&format!("{}/dead-letters", dev.console)).await;
        browser.tab_to("button", "Look at the queue").await;
        browser.press(ENTER).await;
        eventually("the queue", async || browser.text().await.contains("On the queue")).await;
        browser.text().await
    };
    // Two counts may be alike.
    let has = |text: &str, verb: &str, count: usize| {
        text.contains(&format!("{verb} {count} dead letters of cause"))
    };
    eventually("all letters", async || {
        let text = look().await;
        letters().iter().all(|count| has(&text, "Redrive", *count))
    })
    .await;

    is_repaired.store(true, Ordering::SeqCst);
    let act = async |verb: &str, count: usize| {
        let title = format!("{verb} {count} dead letters of cause");
        browser.tab_to("summary", &title).await;
        browser.press(ENTER).await;
        browser.tab_to("button", &title).await;
        browser.press(ENTER).await;
    };
    act("Redrive", refused).await;
    eventually("every notification", async || sent.load(Ordering::SeqCst) == refused).await;
    eventually("the others alone", async || {
        let text = look().await;
        !has(&text, "Redrive", refused) && has(&text, "Redrive", unreadable) && has(&text, "Redrive", empty)
    })
    .await;

    act("Drop", unreadable).await;
    eventually("one cause", async || !has(&look().await, "Drop", unreadable)).await;
    let files = dev.files("dead-letters-");
    assert_eq!(files.len(), 1, "{files:?}");
    dev.learnink(&["dlq", "restore", &files[0], "--yes"]);
    eventually("two causes", async || has(&look().await, "Drop", unreadable)).await;
    assert_eq!(sent.load(Ordering::SeqCst), refused, "nothing is sent twice");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_leads_through_the_list_to_a_message_and_back() {
    let dev = Dev::start();
    for id in ["msg_a", "msg_b", "msg_c"] {
        dev.send(&["--id", id]);
    }
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    eventually("three rows", async || {
        browser.goto(&dev.console).await;
        browser.rows().await.len() == 3
    })
    .await;
    for key in ["j", "j", "k"] {
        browser.press(key).await;
    }
    assert!(browser.js("return document.activeElement.textContent").await.to_string().contains("msg_c"));
    browser.press(ENTER).await;
    eventually("the message", async || browser.url().await.ends_with("/messages/msg_c")).await;
    browser.press(ESCAPE).await;
    eventually("the list", async || !browser.url().await.contains("/messages/")).await;
    browser.press("/").await;
    assert_eq!(browser.js("return document.activeElement.name").await, "text");
    browser.press(ESCAPE).await;
    browser.press("?").await;
    eventually("the keys", async || browser.url().await.ends_with("/keys")).await;
    browser.quit().await;
}

/// Each page that a link leads to; `SENT` is the message id of an example.
const PAGES: [&str; 11] = [
    "/",
    "/messages/msg_done",
    "/messages/msg_refused",
    "/messages/SENT",
    "/dead-letters",
    "/acts",
    "/learnink",
    "/learnink/testing",
    "/learnink/messages",
    "/learnink/messages/SENT",
    "/keys",
];

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_serious_on_any_page_in_light_and_dark() {
    let dev = Dev::start();
    dev.send(&["--id", "msg_done"]);
    dev.send(&["--id", "msg_refused", "--tamper"]);
    let sent = dev.send_example();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for path in PAGES.map(|path| path.replace("SENT", &sent)) {
            browser.goto(&format!("{}{path}", dev.console)).await;
            let found = browser.axe().await;
            assert_eq!(found, json!([]), "{path} in {scheme}");
        }
    }
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_sends_an_example_and_sends_it_again() {
    let dev = Dev::start();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    browser.goto(&format!("{}/learnink/testing?type=user.course.started", dev.console)).await;
    browser.tab_to("button", "Send Example").await;
    browser.press(ENTER).await;
    eventually("the message", async || {
        browser.goto(&dev.console).await;
        !browser.rows().await.is_empty()
    })
    .await;
    browser.press("j").await;
    browser.press(ENTER).await;
    eventually("its end", async || browser.text().await.contains("done")).await;
    browser.tab_to("summary", "Resend to").await;
    browser.press(ENTER).await;
    browser.tab_to("button", "Resend").await;
    browser.press(ENTER).await;
    eventually("the duplicate", async || {
        browser.goto(&dev.console).await;
        browser.press("j").await;
        browser.press(ENTER).await;
        browser.text().await.contains("duplicate")
    })
    .await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_in_and_nothing_leaves_the_machine() {
    let dev = Dev::start();
    dev.send(&["--id", "msg_secret"]);
    let browser = Browser::start(&["--host-resolver-rules=MAP rebound.test 127.0.0.1"]).await;
    browser.goto(&dev.link).await;
    let origins = browser
        .js("return [...new Set(performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin))]")
        .await;
    assert_eq!(origins, json!([dev.console]), "only the page's own files are loaded");

    // A name of somebody else's that points to this machine.
    browser.goto(&dev.console.replace("127.0.0.1", "rebound.test")).await;
    let rebound = browser.text().await;
    assert!(!rebound.contains("msg_secret"), "{rebound}");

    // A page on another port is of the same site, and the browser sends the cookie along.
    let page = HOSTILE.replace("CONSOLE", &dev.console);
    let router = Router::new().route("/", get(async move || Html(page)));
    let url = format!("{}/", serve(router).await);
    browser.goto(&url).await;
    let read = browser
        .js_later(
            "const done = arguments[arguments.length - 1];
             const url = arguments[0];
             const events = new EventSource(url + '/live', { withCredentials: true });
             let got = 'nothing';
             events.onmessage = () => { got = 'an event'; };
             fetch(url + '/', { credentials: 'include' })
                 .then(answer => answer.text()).catch(() => 'nothing')
                 .then(text => setTimeout(() => done([text, got, window.frames[0].length]), 1000));",
            vec![json!(dev.console)],
        )
        .await;
    assert_eq!(read, json!(["nothing", "nothing", 0]), "another page reads nothing");
    browser.js("document.forms[0].submit()").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = browser.text().await;
    assert!(!answer.contains("msg_secret"), "a form of another page is refused: {answer}");
    let framed = browser.browser_log().await;
    let is_refused =
        framed.iter().any(|line| line.contains("frame-ancestors") || line.contains("ERR_BLOCKED"));
    assert!(is_refused, "a frame is refused: {framed:?}");
    browser.quit().await;
}

/// A page of somebody else's, with a form, and a frame around the console.
const HOSTILE: &str = r#"<!doctype html><title>other</title>
<form method="post" action="CONSOLE/messages/msg_secret/reveal"><button>go</button></form>
<iframe src="CONSOLE/"></iframe>"#;

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_show_what_is_new() {
    let dev = Dev::start();
    let browser = Browser::start(&[]).await;
    browser.goto(&dev.link).await;
    for _ in 0..7 {
        browser.new_tab().await;
        browser.goto(&dev.console).await;
    }
    dev.send(&["--id", "msg_new"]);
    for tab in 0..8 {
        browser.to_tab(tab).await;
        eventually(&format!("news in tab {tab}"), async || browser.is_new_shown().await).await;
    }
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts_the_pages_say_the_same() {
    let dev = Dev::start();
    dev.send(&["--id", "msg_plain"]);
    let browser = Browser::start(&["--blink-settings=scriptEnabled=false"]).await;
    browser.goto(&dev.link).await;
    eventually("the row", async || {
        browser.goto(&dev.console).await;
        browser.rows().await.iter().any(|row| row.contains("msg_plain"))
    })
    .await;
    browser.click("[data-row]").await;
    assert!(browser.url().await.ends_with("/messages/msg_plain"));
    browser.quit().await;
}

/// What axe found, as short as a person needs it.
fn short(found: &Value) -> Value {
    let serious = ["serious", "critical"];
    let violations = found.as_array().unwrap().iter();
    violations
        .filter(|one| one["impact"].as_str().is_some_and(|impact| serious.contains(&impact)))
        .cloned()
        .collect()
}
