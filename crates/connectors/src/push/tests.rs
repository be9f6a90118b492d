//! Each sender, as a server on this machine that checks its requests, and misbehaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Seek;
use std::sync::Mutex;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::serve::ListenerExt;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use learnink_webhook::FailureClass;
use learnink_webhook::event::Envelope;
use learnink_webhook::items::ItemLog;
use learnink_webhook::testing;
use proptest::prelude::*;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use svix::webhooks::Webhook;
use tokio::net::TcpListener;

use super::*;

const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SIGNING_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const API_KEY: &str = "os_v2_app_secret";
const APP_ID: &str = "fcfd4df3-d387-49e8-a8a1-0a36084b0813";

/// The key of a service account that does not exist. PKCS#8, 2048 bits.
const TEST_KEY: &[u8] = include_bytes!("test-key.pk8");

/// Shorter than the real limits, longer than anything here takes.
const SHORT_TIME_LIMIT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
struct Received {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Everything but the host, and without secrets.
    fn shown(&self) -> Value {
        let ours = |name: &str| !["host", "accept", "content-length", "webhook-timestamp"].contains(&name);
        let shown = |name: &str, value: &str| match name {
            "authorization" => format!("{} [secret]", value.split_once(' ').unwrap().0),
            "webhook-signature" => "v1,[verified elsewhere]".to_owned(),
            "user-agent" => value.split_once('/').unwrap().0.to_owned(),
            _ => value.to_owned(),
        };
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let headers: BTreeMap<_, _> =
            headers.filter(|(name, _)| ours(name)).map(|(name, value)| (name, shown(name, value))).collect();
        let (method, uri) = (self.method.as_str(), self.uri.to_string());
        json!({ "method": method, "path": uri, "headers": headers, "body": self.json() })
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
enum Reply {
    Answer(u16, &'static [(&'static str, &'static str)], String),
    /// Closes the connection instead of an answer.
    Close,
    /// Does not answer within any time limit.
    Never,
}

fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(status, &[], body.to_owned())
}

#[derive(Debug, Default)]
struct Log {
    /// What it does next; the last one stays.
    replies: VecDeque<Reply>,
    received: Vec<Received>,
    connections: usize,
}

#[derive(Debug, Clone)]
struct Server {
    url: String,
    log: Arc<Mutex<Log>>,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Log { replies: replies.into_iter().collect(), ..Log::default() };
        let server = Self { url, log: Arc::new(Mutex::new(log)) };
        let router = axum::Router::new().fallback(serve).with_state(server.clone());
        let connected = server.log.clone();
        let listener = listener.tap_io(move |_| connected.lock().unwrap().connections += 1);
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn received(&self) -> Vec<Received> {
        self.log.lock().unwrap().received.clone()
    }
}

async fn serve(
    State(server): State<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let reply = {
        let mut log = server.log.lock().unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        log.received.push(Received { method, uri: uri.clone(), headers, body });
        match &uri {
            // Google's answer, unless a test sets another.
            uri if uri.path() == "/token" => answer(200, r#"{"access_token":"a-token","expires_in":3599}"#),
            _ if log.replies.len() > 1 => log.replies.pop_front().unwrap(),
            _ => log.replies.front().cloned().unwrap(),
        }
    };
    match reply {
        Reply::Answer(status, headers, body) => {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            (StatusCode::from_u16(status).unwrap(), headers.collect(), body)
        }
        // Without the output of a panic.
        Reply::Close => std::panic::resume_unwind(Box::new("the connection ends with its task")),
        Reply::Never => std::future::pending().await,
    }
}

fn service_account(token_uri: &str) -> String {
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        BASE64
            .encode(TEST_KEY)
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    );
    json!({
        "type": "service_account",
        "project_id": "learnink-test",
        "private_key_id": "key-1",
        "private_key": pem,
        "client_email": "push@learnink-test.iam.gserviceaccount.com",
        "token_uri": token_uri,
    })
    .to_string()
}

fn push(sender: &str, server: &Server, secret: &str) -> Push {
    learnink_aws::install_tls_provider();
    let env = Env::of([
        ("LEARNINK_PUSH", sender),
        ("LEARNINK_PUSH_URL", &server.url),
        ("LEARNINK_PUSH_SECRET", secret),
        ("LEARNINK_ONESIGNAL_APP_ID", APP_ID),
    ]);
    let sender = config::sender(&env).unwrap().unwrap();
    Push::with_time_limit(sender, config::max_age(&env).unwrap(), SHORT_TIME_LIMIT)
}

/// A sender of each kind that talks to `server`.
fn all(server: &Server) -> [Push; 3] {
    [
        push("endpoint", server, SIGNING_SECRET),
        push("onesignal", server, API_KEY),
        push("fcm", server, &service_account(&format!("{}/token", server.url))),
    ]
}

fn notification(user_id: &str, custom_id: Option<&str>, path: &str) -> Value {
    json!({
        "title": "Hi Mary!",
        "body": "Don't forget to complete your training today",
        "path": path,
        "user_id": user_id,
        "custom_id": custom_id,
        "phone_number": "+254705408079",
    })
}

fn mary() -> Value {
    let custom_id = Some("3c2143e4-3e8e-478a-bf0b-9dc6e284fa33");
    notification("le2bB6Fi4CMgrIOIqMCJryZb9PR2", custom_id, "/learning")
}

#[expect(clippy::disallowed_methods, reason = "signatures are verified against the real clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// One run of the handler for these notifications, and the positions of those that are done.
async fn run(push: &Push, notifications: &[Value]) -> (HandlerResult, Vec<String>) {
    let body = json!({
        "object": "event",
        "type": "notifications.sent",
        "api_version": "2022-11-15",
        "data": { "notifications": notifications },
        "timestamp": "2025-11-06T09:58:58.233Z",
    });
    let message = testing::message(body.to_string());
    let envelope = Arc::new(Envelope::parse(&message.body).unwrap());
    let log = Arc::new(ItemLog::default());
    let event = Event::new(Arc::new(message), envelope.clone(), NAME, now(), &BTreeSet::new(), log.clone());
    let router = push.clone().router();
    let result = router.route(&envelope).handlers[0].call(event).await;
    let mut done = log.after(0);
    done.sort();
    (result, done)
}

/// The reason of a run of one notification that failed, its class and its wait.
async fn failure(push: &Push) -> (String, FailureClass, Option<Duration>) {
    let (result, done) = run(push, &[mary()]).await;
    assert_eq!(done, [""; 0]);
    let error = result.unwrap_err();
    let text = error.to_string();
    let reason = text.rsplit_once(", the first: ").unwrap().1.to_owned();
    (reason, error.class(), error.minimum_delay())
}

#[test]
fn a_secret_is_checked_as_its_sender_reads_it_and_never_repeated() {
    let service_account = service_account("https://oauth2.test/token");
    for (sender, secret, is_usable) in [
        ("endpoint", SIGNING_SECRET, true),
        ("endpoint", API_KEY, false),
        ("onesignal", API_KEY, true),
        ("onesignal", "Key pigeons", false),
        ("fcm", &service_account, true),
        ("fcm", r#"{"private_key":"pigeons"}"#, false),
        ("pigeons", SIGNING_SECRET, false),
    ] {
        let checked = check_secret(sender, secret);
        assert_eq!(checked.is_ok(), is_usable, "{sender}");
        let said = checked.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!said.contains("pigeons") && !said.contains(API_KEY), "{said}");
    }
    let error = check_secret("onesignal", "Key pigeons").unwrap_err().to_string();
    assert!(
        error.ends_with("; it has to be the App API key alone, from OneSignal's Settings, Keys & IDs"),
        "{error}"
    );
}

#[tokio::test]
async fn the_endpoint_gets_what_its_documentation_says_and_can_verify_it() {
    let server = Server::start([answer(204, "")]).await;
    let secrets = format!("{SIGNING_SECRET} {OTHER_SIGNING_SECRET}");
    let (result, done) = run(&push("endpoint", &server, &secrets), &[mary()]).await;
    assert_eq!((result, done), (Ok(()), vec!["push/0".to_owned()]));
    let received = server.received().remove(0);
    for secret in [SIGNING_SECRET, OTHER_SIGNING_SECRET] {
        Webhook::new(secret).unwrap().verify(received.body.as_bytes(), &received.headers).unwrap();
    }
    insta::assert_json_snapshot!(received.shown());
}

#[tokio::test]
async fn onesignal_gets_a_message_for_the_external_id() {
    let server = Server::start([answer(200, r#"{"id":"515c0de5-2223-49d6-9eda-684b9051f5a8"}"#)]).await;
    let (result, done) = run(&push("onesignal", &server, API_KEY), &[mary()]).await;
    assert_eq!((result, done), (Ok(()), vec!["push/0".to_owned()]));
    let received = server.received().remove(0);
    assert_eq!(received.header("authorization"), "Key os_v2_app_secret");
    insta::assert_json_snapshot!(received.shown());
}

#[tokio::test]
async fn fcm_gets_a_message_for_the_learners_topic_with_a_token_that_google_granted() {
    let server = Server::start([answer(200, r#"{"name":"projects/learnink-test/messages/1"}"#)]).await;
    let token_uri = format!("{}/token", server.url);
    let push = push("fcm", &server, &service_account(&token_uri));
    // Once by the customer's id, once by LearnInk's.
    let both = [mary(), notification("u/1", None, "/")];
    assert_eq!(run(&push, &both).await.0, Ok(()));
    assert_eq!(run(&push, &both).await.0, Ok(()));

    let received = server.received();
    let paths: Vec<_> = received.iter().map(|request| request.uri.path()).collect();
    let send = "/v1/projects/learnink-test/messages:send";
    assert_eq!(paths, ["/token", send, send, send, send], "one token is enough");
    assert_eq!(received[1].header("authorization"), "Bearer a-token");
    let topics: BTreeSet<_> =
        received[1..].iter().map(|request| request.json()["message"]["topic"].to_string()).collect();
    let expected = ["\"learner-3c2143e4-3e8e-478a-bf0b-9dc6e284fa33\"", "\"learner-u%2F1\""];
    assert_eq!(topics, expected.map(str::to_owned).into());
    let first = received[1..].iter().find(|request| request.body.contains("3c2143e4")).unwrap();
    insta::assert_json_snapshot!(first.shown());
}

#[tokio::test]
async fn the_token_is_asked_for_as_google_verifies_it() {
    let server = Server::start([answer(200, "{}")]).await;
    let token_uri = format!("{}/token", server.url);
    run(&push("fcm", &server, &service_account(&token_uri)), &[mary()]).await.0.unwrap();
    let asked = server.received().remove(0);
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let assertion = asked.body.strip_prefix(grant).unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let key = RsaKeyPair::from_pkcs8(TEST_KEY).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public().as_ref());
    key.verify(signed.as_bytes(), &BASE64_URL.decode(signature).unwrap()).unwrap();

    let (header, claims) = signed.split_once('.').unwrap();
    let parsed = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL.decode(part).unwrap()).unwrap();
    assert_eq!(parsed(header), json!({ "alg": "RS256", "typ": "JWT", "kid": "key-1" }));
    let mut claims = parsed(claims);
    let [issued, expires] = ["iat", "exp"].map(|name| claims[name].take().as_i64().unwrap());
    assert!((now().as_second() - issued).abs() < 60);
    assert_eq!(expires - issued, 3600);
    let expected = json!({
        "iss": "push@learnink-test.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": token_uri,
        "iat": null,
        "exp": null,
    });
    assert_eq!(claims, expected);
}

#[tokio::test]
async fn a_token_is_not_used_in_the_last_five_minutes_of_its_life() {
    let server = Server::start([]).await;
    let push = push("fcm", &server, &service_account(&format!("{}/token", server.url)));
    let granted_at = now();
    for (after_s, asked) in [(0, 1), (3_298, 1), (3_299, 2)] {
        let now = granted_at + Duration::from_secs(after_s);
        push.0.sender.session(&push.0.http, now).await.unwrap();
        assert_eq!(server.received().len(), asked, "after {after_s} s");
    }
}

#[tokio::test]
async fn a_token_that_fcm_does_not_accept_is_replaced_at_the_next_attempt() {
    let server = Server::start([answer(401, ""), answer(200, "{}")]).await;
    let push = push("fcm", &server, &service_account(&format!("{}/token", server.url)));
    let (reason, class, _) = failure(&push).await;
    assert_eq!(class, FailureClass::Retryable);
    assert_eq!(
        reason,
        "FCM answered 401; check LEARNINK_PUSH_SECRET, or the secret that LEARNINK_PUSH_SECRET_ID names"
    );
    assert_eq!(run(&push, &[mary()]).await.0, Ok(()));
    let asked = server.received().iter().filter(|request| request.uri.path() == "/token").count();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn a_sender_that_is_busy_broken_slow_or_gone_is_tried_again() {
    for (reply, expected, wait_s) in [
        (Reply::Answer(429, &[("retry-after", "7")], String::new()), "answered 429", Some(7)),
        (
            Reply::Answer(503, &[("retry-after", "Fri, 01 Jan 2027 00:00:00 GMT")], String::new()),
            "answered 503",
            None,
        ),
        (answer(500, "+254705408079"), "answered 500", None),
        (Reply::Close, "broke the connection", None),
        (Reply::Never, "did not answer in time", None),
    ] {
        let server = Server::start([reply]).await;
        for push in all(&server) {
            let (reason, class, wait) = failure(&push).await;
            let expected = format!("{} {expected}", push.0.sender.name());
            assert_eq!((reason, class), (expected, FailureClass::Retryable));
            if let Some(wait_s) = wait_s {
                assert_eq!(wait, Some(Duration::from_secs(wait_s)));
            }
        }
    }
    let nobody = Server { url: "http://127.0.0.1:1".to_owned(), log: Arc::default() };
    let (reason, ..) = failure(&push("endpoint", &nobody, SIGNING_SECRET)).await;
    assert!(reason.starts_with("the endpoint could not be reached"), "{reason}");
}

#[tokio::test]
async fn only_fcm_has_a_shortest_wait_after_a_request_without_an_answer() {
    let server = Server::start([Reply::Close]).await;
    let mut waits = Vec::new();
    for push in all(&server) {
        waits.push(failure(&push).await.2);
    }
    assert_eq!(waits, [None, None, Some(fcm::SHORT_WAIT)]);
}

/// The counts in the line of a run: sent, unreachable, without an id, refused.
async fn counts(push: &Push, notifications: &[Value]) -> [u64; 4] {
    let mut log = tempfile::tempfile().unwrap();
    let writer = Arc::new(log.try_clone().unwrap());
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(writer);
    let guard = tracing::subscriber::set_default(subscriber.finish());
    let _ = run(push, notifications).await;
    drop(guard);
    log.rewind().unwrap();
    let text = std::io::read_to_string(log).unwrap();
    let line: Value =
        serde_json::from_str(text.lines().find(|line| line.contains("push.sent")).unwrap()).unwrap();
    ["sent", "unreachable", "without_id", "refused"]
        .map(|name| line[format!("push.{name}")].as_u64().unwrap())
}

#[tokio::test]
async fn the_line_of_a_run_counts_what_became_of_each_notification() {
    let mut of_another_kind = mary();
    of_another_kind["custom_id"] = json!([]);
    let items = [
        mary(),
        mary(),
        notification("u", None, "/"),
        notification("u", Some("1"), "//evil.test"),
        of_another_kind,
        json!({ "title": "Hi Mary!" }),
    ];
    let server = Server::start([answer(200, r#"{"id":"515c0de5"}"#)]).await;
    assert_eq!(counts(&push("onesignal", &server, API_KEY), &items).await, [2, 0, 1, 3]);

    let nobody = r#"{"id":"","errors":["All included players are not subscribed"]}"#;
    let server = Server::start([answer(200, nobody)]).await;
    assert_eq!(counts(&push("onesignal", &server, API_KEY), &[mary()]).await, [0, 1, 0, 0]);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([answer(200, "")]).await;
    let location: &'static str = elsewhere.url.clone().leak();
    let headers: &'static [_] = vec![("location", location)].leak();
    let server = Server::start([Reply::Answer(307, headers, String::new())]).await;
    for push in all(&server) {
        let (reason, class, _) = failure(&push).await;
        assert_eq!(class, FailureClass::Retryable);
        assert!(reason.ends_with("answered 307; check LEARNINK_PUSH_URL"), "{reason}");
    }
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn an_item_that_will_never_be_sent_does_not_stop_the_others() {
    let server = Server::start([answer(200, r#"{"id":"515c0de5"}"#)]).await;
    let items = [
        notification("u", Some("1"), "//evil.test"),
        notification("u", Some("2"), "https://evil.test"),
        notification("u", Some("3"), "/learning?tab=1#top"),
        json!({ "title": "Hi Mary!", "body": "+254705408079", "path": null, "user_id": "u" }),
    ];
    for push in all(&server) {
        let (result, done) = run(&push, &items).await;
        let error = result.unwrap_err();
        let no_path = "`path` is not a path: one `/` first, then no `\\` and no control characters";
        let (reasons, done): (Vec<_>, Vec<_>) = done.into_iter().partition(|key| key.starts_with("push!"));
        let expected = ["push/0!", "push/1!", "push/2", "push/3!"].map(str::to_owned);
        assert_eq!((error.class(), done), (FailureClass::Permanent, expected.to_vec()));
        let reasons = reasons.iter().map(|key| key.split_once(' ').unwrap().1).collect::<BTreeSet<_>>();
        let no_notification = "the item does not have the expected shape (line 1, column 35 of the item)";
        assert_eq!(reasons, BTreeSet::from([no_path, no_notification]));
        let expected = format!("3 of 4 items will never succeed (0, 1, 3), item 0: {no_path}");
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_learner_whom_the_sender_cannot_know_is_done_without_a_request() {
    let server = Server::start([answer(200, r#"{"id":"515c0de5"}"#)]).await;
    let [endpoint, onesignal, fcm] = all(&server);
    assert_eq!(run(&endpoint, &[notification(" ", None, "/")]).await.1, ["push/0"]);
    let items = [notification("u", None, "/"), notification("u", Some(" "), "/")];
    assert_eq!(run(&onesignal, &items).await, (Ok(()), vec!["push/0".to_owned(), "push/1".to_owned()]));
    assert_eq!(run(&fcm, &[notification("", None, "/")]).await.1, ["push/0"]);
    assert!(server.received().iter().all(|request| request.uri.path() == "/token"));
}

#[tokio::test]
async fn a_learner_without_a_subscription_is_done() {
    let body = r#"{"id":"","errors":["All included players are not subscribed"]}"#;
    let server = Server::start([answer(200, body)]).await;
    let (result, done) = run(&push("onesignal", &server, API_KEY), &[mary()]).await;
    assert_eq!((result, done), (Ok(()), vec!["push/0".to_owned()]));
}

#[tokio::test]
async fn what_was_sent_and_not_recorded_goes_out_again_under_the_same_id() {
    for (number, name) in ["endpoint", "onesignal", "fcm"].into_iter().enumerate() {
        // The first request is accepted, but its answer never arrives.
        let server = Server::start([Reply::Close, answer(200, r#"{"id":"515c0de5"}"#)]).await;
        let push = all(&server).into_iter().nth(number).unwrap();
        assert!(run(&push, &[mary()]).await.0.is_err());
        assert_eq!(run(&push, &[mary()]).await.0, Ok(()));
        let sent = server.received().into_iter().filter(|request| request.uri.path() != "/token");
        let ids: Vec<_> = sent
            .map(|request| match name {
                "endpoint" => request.header("webhook-id").to_owned(),
                "onesignal" => request.json()["idempotency_key"].to_string(),
                _ => request.json()["message"]["android"]["notification"]["tag"].to_string(),
            })
            .collect();
        assert_eq!((ids.len(), &ids[0]), (2, &ids[1]), "{name}");
    }
}

#[tokio::test]
async fn connections_are_used_again_and_every_notification_has_an_id_of_its_own() {
    let server = Server::start([answer(200, "{}")]).await;
    let items: Vec<_> = (0..100).map(|number| notification("u", Some(&number.to_string()), "/")).collect();
    let push = push("endpoint", &server, SIGNING_SECRET);
    assert_eq!(run(&push, &items).await.1.len(), 100);
    let ids: BTreeSet<_> =
        server.received().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.contains("msg_1/push/17"));
    let connections = server.log.lock().unwrap().connections;
    assert!(connections <= AT_ONCE, "{connections}");
}

/// The outcome of an answer: a word, and the reason.
fn judged(judge: fn(&Answer) -> SendOutcome, status: u16, body: &str) -> (&'static str, String) {
    let wait = Some(Duration::from_secs(7));
    match judge(&Answer { status, retry_after: wait, body: body.into() }) {
        SendOutcome::Sent => ("sent", String::new()),
        SendOutcome::NoDevice => ("unreachable", String::new()),
        SendOutcome::Refused(reason) => ("never", reason),
        SendOutcome::Again(reason, after) if after == wait => ("after 7 s", reason),
        SendOutcome::Again(reason, _) => ("again", reason),
        SendOutcome::Misconfigured(reason) => ("our configuration", reason),
    }
}

fn table(judge: fn(&Answer) -> SendOutcome, answers: &[(u16, &str)]) -> String {
    let lines = answers.iter().map(|(status, body)| {
        let (word, reason) = judged(judge, *status, body);
        let separator = if reason.is_empty() { "" } else { ": " };
        format!("{}\n    {word}{separator}{reason}\n", format!("{status} {body}").trim_end())
    });
    lines.collect()
}

fn judge_endpoint(answer: &Answer) -> SendOutcome {
    judge(answer, WHERE_TO_LOOK, URL)
}

#[test]
fn every_answer_of_the_endpoint_has_a_meaning() {
    let statuses =
        [200, 204, 301, 307, 400, 401, 403, 404, 405, 408, 409, 410, 413, 422, 425, 429, 500, 502, 503, 504];
    insta::assert_snapshot!(table(judge_endpoint, &statuses.map(|status| (status, ""))));
}

#[test]
fn every_documented_answer_of_onesignal_has_a_meaning() {
    let answers = [
        (200, r#"{"id":"515c0de5","external_id":null}"#),
        (200, r#"{"id":"","errors":["All included players are not subscribed"]}"#),
        (200, r#"{"id":"515c0de5","errors":{"invalid_aliases":{"external_id":["3c2143e4"]}}}"#),
        (200, r#"{"errors":{"invalid_aliases":{"external_id":["3c2143e4"]}}}"#),
        (200, r#"{"id":"515c0de5","errors":[]}"#),
        (200, "{}"),
        (200, "<html>welcome</html>"),
        (400, r#"{"errors":["Message Notifications must have English language content"]}"#),
        (400, r#"{"errors":["app_id not found"]}"#),
        (400, "no JSON"),
        (401, r#"{"errors":["Access denied."]}"#),
        (403, r#"{"errors":["Access denied.  Please include an 'Authorization: ...' header"]}"#),
        (404, ""),
        (413, ""),
        (429, r#"{"errors":["API rate limit exceeded."]}"#),
        (500, ""),
        (503, r#"{"errors":["Service temporarily unavailable"]}"#),
    ];
    insta::assert_snapshot!(table(onesignal::judge, &answers));
}

#[test]
fn every_documented_answer_of_fcm_has_a_meaning() {
    fn own(status: &str, code: &str) -> String {
        let kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
        json!({ "error": { "status": status, "details": [{ "@type": kind, "errorCode": code }] } })
            .to_string()
    }
    let bodies = [
        own("INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        own("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
        own("PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        own("NOT_FOUND", "UNREGISTERED"),
        own("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
        own("INTERNAL", "INTERNAL"),
        own("UNAVAILABLE", "UNAVAILABLE"),
        own("UNKNOWN", "UNSPECIFIED_ERROR"),
    ];
    let [invalid, apns, mismatch, unregistered, quota, internal, unavailable, unspecified] = &bodies;
    let violation = json!({ "fieldViolations": [{ "field": "message.data[0].value" }] });
    let violation = json!({ "error": { "status": "INVALID_ARGUMENT", "details": [violation] } }).to_string();
    let answers = [
        (200, r#"{"name":"projects/learnink-test/messages/1"}"#),
        (400, invalid),
        (400, &violation),
        (401, r#"{"error":{"status":"UNAUTHENTICATED"}}"#),
        (401, apns),
        (403, mismatch),
        (403, r#"{"error":{"status":"PERMISSION_DENIED"}}"#),
        (404, unregistered),
        (404, r#"{"error":{"status":"NOT_FOUND"}}"#),
        (429, quota),
        (500, internal),
        (503, unavailable),
        (500, unspecified),
        (502, "<html>+254705408079</html>"),
    ];
    insta::assert_snapshot!(table(fcm::judge, &answers));
    let busy = Answer { status: 429, retry_after: None, body: Vec::new() };
    assert_eq!(
        fcm::judge(&busy),
        SendOutcome::Again("FCM answered 429".to_owned(), Some(Duration::from_mins(1)))
    );
}

#[test]
fn a_path_stays_within_the_app() {
    for path in ["/", "/learning", "/learning/a%2F?b=//c#d", "/ü"] {
        assert!(is_path(path), "{path}");
    }
    for path in [
        "",
        "learning",
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "/\n/evil.test",
        "/\t",
        "/\u{85}",
        " /",
    ] {
        assert!(!is_path(path), "{path}");
    }
}

proptest! {
    #[test]
    fn an_idempotency_key_has_one_uuid(one in 0_usize..1_000, other in 0_usize..1_000) {
        let key = IdempotencyKey::new(&MessageId::parse("msg_1").unwrap(), NAME);
        let [one_uuid, other_uuid] = [one, other].map(|index| uuid_of(&key.item(index)));
        prop_assert_eq!(one_uuid == other_uuid, one == other);
        let groups: Vec<_> = one_uuid.split('-').map(str::len).collect();
        prop_assert_eq!(groups, [8, 4, 4, 4, 12]);
        prop_assert_eq!(one_uuid.as_bytes()[14], b'4');
        prop_assert!(b"89ab".contains(&one_uuid.as_bytes()[19]));
    }
}

#[tokio::test]
async fn nothing_that_is_printed_has_personal_data_or_a_secret_in_it() {
    let server = Server::start([answer(400, "Hi Mary! +254705408079")]).await;
    for push in all(&server) {
        let (result, _) = run(&push, &[mary()]).await;
        let printed = format!("{push:?} {:?}", result.unwrap_err());
        for hidden in ["Mary", "training", "254705408079", "MfKQ9r8G", "os_v2", "a-token", "PRIVATE KEY"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
    }
}

#[tokio::test]
async fn a_push_prints_which_sender_it_has() {
    let server = Server::start([]).await;
    for push in all(&server) {
        let sender = format!("Push {{ sender: {:?}, ", push.0.sender.name());
        assert!(format!("{push:?}").starts_with(&sender), "{push:?}");
    }
}

#[tokio::test]
async fn an_id_of_another_kind_refuses_its_notification_only_where_the_sender_needs_it() {
    let server = Server::start([answer(200, r#"{"id":"515c0de5"}"#)]).await;
    let one = |ids: Value| {
        let mut one = json!({ "title": "t", "body": "b", "path": "/", "phone_number": 254_705_408_079_u64 });
        one.as_object_mut().unwrap().append(&mut ids.as_object().unwrap().clone());
        one
    };
    let items = [
        one(json!({ "user_id": {}, "custom_id": "c" })),
        one(json!({ "user_id": "u", "custom_id": [] })),
        one(json!({ "custom_id": null })),
        one(json!({ "custom_id": 7 })),
    ];
    let refused = [&[0, 1][..], &[1], &[1]];
    for (push, refused) in all(&server).iter().zip(refused) {
        let (result, mut done) = run(push, &items).await;
        // Beside the positions, the ledger keeps the reasons.
        done.retain(|key| key.starts_with("push/"));
        let mark = |index: usize| if refused.contains(&index) { "!" } else { "" };
        let expected: Vec<_> = (0..4).map(|index| format!("push/{index}{}", mark(index))).collect();
        assert_eq!(done, expected, "{push:?}");
        let text = result.unwrap_err().to_string();
        assert!(text.ends_with("is not an id: it must be text or an integer"), "{text}");
    }
}
