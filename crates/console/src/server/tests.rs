//! The server over a real socket, with requests as a browser or somebody else would send them.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::desk::{CommandOutput, Desk};
use crate::guard::Key;
use crate::history::tests::{BODY, SIGNATURE, call, history, now, record, request};
use crate::history::{Call, Entry, Opened, QueueName};

/// What must not be seen without a reveal.
pub(super) const PERSONAL: [&str; 5] =
    ["+254705408079", "Mary", "complete your training", "dGhpcyBpcyBh", "v1,"];

/// A desk that keeps the commands and prints what it is told.
#[derive(Default)]
pub(super) struct FakeDesk {
    ran: Mutex<Vec<(String, Vec<u8>)>>,
    prints: Mutex<Vec<(&'static str, String)>>,
    /// The exit code of every command.
    pub(super) exit_code: AtomicI32,
    /// How long a command takes.
    takes_ms: AtomicU64,
    running: AtomicUsize,
    /// How many ran at a time.
    most_running: AtomicUsize,
}

impl Desk for FakeDesk {
    fn run(&self, arguments: Vec<String>, input: Vec<u8>) -> BoxFuture<'_, io::Result<CommandOutput>> {
        let line = arguments.join(" ");
        let prints = self.prints.lock().unwrap();
        let stdout = prints.iter().find(|(start, _)| line.starts_with(start)).map(|(_, text)| text.clone());
        self.ran.lock().unwrap().push((line, input));
        let stdout = stdout.unwrap_or_default().into_bytes();
        let exit_code = self.exit_code.load(Ordering::Relaxed);
        async move {
            let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_running.fetch_max(running, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(self.takes_ms.load(Ordering::Relaxed))).await;
            self.running.fetch_sub(1, Ordering::Relaxed);
            Ok(CommandOutput { exit_code, stdout, stderr: Vec::new() })
        }
        .boxed()
    }
}

pub(super) struct World {
    pub(super) console: crate::Console,
    pub(super) desk: Arc<FakeDesk>,
    pub(super) key: String,
    cookie: String,
    pub(super) opened: Opened,
    folder: TempDir,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let line =
            self.headers.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
        line.map(|line| line.split_once(": ").unwrap().1)
    }
}

impl World {
    async fn with(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::start(entries, None, Vec::new()).await
    }

    pub(super) async fn start(
        entries: impl IntoIterator<Item = Entry>,
        simulator: Option<learnink_simulator::Handle>,
        samples: Vec<learnink_simulator::Event>,
    ) -> Self {
        let (folder, opened) = history(entries);
        let desk = Arc::new(FakeDesk::default());
        let key = Key::of(folder.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options {
            history: opened.history.clone(),
            desk: desk.clone(),
            simulator,
            samples,
            key: key.clone(),
            operator: Some("zoe".to_owned()),
            now,
        };
        let console = crate::Console::start(listener, options).unwrap();
        let (key, cookie) = (key.expose().to_owned(), String::new());
        let mut world = Self { console, desk, key, cookie, opened, folder };
        world.cookie = world.signed_in().await;
        world
    }

    /// Opens the link, and returns the cookie as a header.
    async fn signed_in(&self) -> String {
        let answer = self.send(&format!("GET /?key={}", self.key), "", "").await;
        let cookie = answer.header("set-cookie").unwrap();
        format!("cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    pub(super) fn prints(&self, command: &'static str, text: impl Into<String>) {
        let mut prints = self.desk.prints.lock().unwrap();
        prints.retain(|(other, _)| *other != command);
        prints.push((command, text.into()));
    }

    pub(super) fn ran(&self) -> Vec<String> {
        self.desk.ran.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    pub(super) fn cookie(&self) -> String {
        self.cookie.clone()
    }

    pub(super) async fn connect(&self, line: &str, headers: &str, body: &str) -> TcpStream {
        let address = self.console.address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let host = if headers.contains("host: ") { String::new() } else { format!("host: {address}\r\n") };
        let request = format!("{line} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    pub(super) async fn send(&self, line: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect(line, headers, body).await;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, headers: headers.to_owned(), body: body.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &self.cookie(), "").await
    }

    pub(super) async fn get_json(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &format!("{}accept: application/json\r\n", self.cookie()), "").await
    }

    pub(super) async fn post(&self, path: &str, form: &str) -> Answer {
        let headers = format!(
            "{}sec-fetch-site: same-origin\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n",
            self.cookie(),
            form.len()
        );
        self.send(&format!("POST {path}"), &headers, form).await
    }

    pub(super) async fn post_json(&self, path: &str, form: &str) -> Answer {
        let headers = format!(
            "authorization: Bearer {}\r\naccept: application/json\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n",
            self.key,
            form.len()
        );
        self.send(&format!("POST {path}"), &headers, form).await
    }
}

/// A request with this body.
fn with_body(at: i64, message: &str, body: &[u8]) -> Entry {
    let mut entry = request(at, message, 200);
    if let Entry::Request(request) = &mut entry {
        request.content.body = body.to_vec();
    }
    entry
}

fn dead(message: &str) -> [Entry; 3] {
    [
        request(0, message, 200),
        record(1, message, "dead_lettered"),
        call(2, message, QueueName::DeadLetters, Call::Sent),
    ]
}

fn cause(count: u64) -> String {
    format!(
        r#"[{{"name":"3f9a1b","handler":"push","reason":"busy","count":{count},"types":["notifications.sent"],"oldest":"2026-01-01T00:00:00Z","expires_at":null,"next":"x"}}]"#
    )
}

#[tokio::test]
async fn the_link_lets_the_operator_in_and_keeps_the_key_out_of_the_address() {
    let world = World::with([]).await;
    let link = world.console.link();
    let path = link.split_once(&world.console.address().to_string()).unwrap().1;
    let answer = world.send(&format!("GET {path}"), "", "").await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/")));
    let cookie = answer.header("set-cookie").unwrap();
    assert!(!cookie.contains(&world.key) && cookie.ends_with("HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(world.send("GET /", &cookie, "").await.status, 200);
    // Not even to another server.
    let answer = world.send(&format!("GET //evil.example/x?a=b&key={}", world.key), "", "").await;
    assert_eq!(answer.header("location"), Some("/evil.example/x?a=b"));
}

#[tokio::test]
async fn a_cookie_ends_with_its_start_and_is_not_the_key() {
    let world = World::with([]).await;
    let address = world.console.address();
    let value = world.cookie().trim_end().split_once('=').unwrap().1.to_owned();
    assert_eq!(world.send("GET /", &format!("authorization: Bearer {value}\r\n"), "").await.status, 401);
    assert_eq!(world.send(&format!("GET /?key={value}"), "", "").await.status, 401);
    // The same key and port, started again.
    let World { console, desk, key, cookie, opened, folder } = world;
    console.stop(Duration::from_secs(20)).await;
    let options = Options {
        history: opened.history.clone(),
        desk: desk.clone(),
        simulator: None,
        samples: Vec::new(),
        key: Key::of(folder.path()).unwrap(),
        operator: None,
        now,
    };
    let console = crate::Console::start(TcpListener::bind(address).await.unwrap(), options).unwrap();
    let world = World { console, desk, key, cookie, opened, folder };
    assert_eq!(world.get("/").await.status, 401);
    assert_eq!(world.send("GET /", &world.signed_in().await, "").await.status, 200);
}

#[tokio::test]
async fn nobody_else_gets_in_and_every_answer_has_its_headers() {
    let world = World::with([request(0, "msg_1", 200)]).await;
    let cookie = world.cookie();
    let port = world.console.address().port();
    let form = "content-length: 0\r\n";
    for (line, headers, status) in [
        ("GET /", String::new(), 401),
        ("GET /console.js", String::new(), 401),
        ("GET /live", String::new(), 401),
        ("GET /", format!("{cookie}host: evil.example:{port}\r\n"), 421),
        ("GET /", format!("{cookie}host: 127.0.0.1:1\r\n"), 421),
        ("POST /messages/msg_1/reveal", format!("{cookie}{form}"), 403),
        ("POST /messages/msg_1/reveal", format!("{cookie}{form}sec-fetch-site: same-site\r\n"), 403),
        ("OPTIONS /", format!("{cookie}origin: http://evil.example\r\n"), 403),
        ("GET /", format!("{cookie}host: localhost:{port}\r\n"), 200),
        ("GET /", format!("authorization: Bearer {}\r\n", world.key), 200),
        ("GET /nothing", cookie.clone(), 404),
    ] {
        let answer = world.send(line, &headers, "").await;
        assert_eq!(answer.status, status, "{line} {headers}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{line}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{line}");
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
        assert!(!answer.headers.to_ascii_lowercase().contains("access-control"), "{}", answer.headers);
        assert!(!answer.body.contains(&world.key));
    }
    assert!(world.ran().is_empty());
}

#[tokio::test]
async fn a_command_posts_with_the_key_and_needs_no_browser() {
    let world = World::with(dead("msg_1")).await;
    let headers = format!(
        "authorization: Bearer {}\r\naccept: application/json\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: 12\r\n",
        world.key
    );
    let answer = world.send("POST /messages/msg_1/redrive", &headers, "reason=fixed").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.json()["ran"]["command"],
        "cargo learnink dlq redrive msg_1 --yes '--reason=fixed' '--by=zoe'"
    );
}

#[tokio::test]
async fn a_refusal_is_json_to_who_asks_for_json() {
    let world = World::with([]).await;
    let json = "accept: application/json\r\n";
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let bearer = format!("authorization: Bearer {}\r\n{json}", world.key);
    for (line, headers, status) in [
        ("GET /", json.to_owned(), 401),
        ("GET /", format!("{json}host: evil.example\r\n"), 421),
        ("POST /acts/close", json.to_owned(), 403),
        ("GET /status?after=x", bearer.clone(), 400),
        ("GET /messages/%ff", bearer.clone(), 400),
        ("GET /acts/close", bearer.clone(), 405),
        ("POST /acts/close", format!("{bearer}{form}content-length: 0\r\n"), 422),
        ("POST /acts/close", format!("{bearer}content-length: 0\r\n"), 415),
    ] {
        let answer = world.send(line, &headers, "").await;
        assert_eq!(answer.status, status, "{line} {headers}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{line}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(!error.is_empty() && !error.ends_with('\n'), "{error:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{line}");
    }
    assert_eq!(world.send("GET /acts/close", &bearer, "").await.header("allow"), Some("POST"));
    let text = world.send("GET /", "", "").await;
    assert!(text.header("content-type").unwrap().starts_with("text/plain"), "{}", text.headers);
}

#[tokio::test]
async fn only_loopback_is_served() {
    let (folder, opened) = history([]);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let options = Options {
        history: opened.history,
        desk: Arc::new(FakeDesk::default()),
        simulator: None,
        samples: Vec::new(),
        key: Key::of(folder.path()).unwrap(),
        operator: None,
        now,
    };
    let error = crate::Console::start(listener, options).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn the_list_has_numbers_that_are_filters() {
    let [a, b, c] = dead("msg_dead");
    let world = World::with([request(0, "msg_1", 401), request(1, "msg_2", 200), a, b, c]).await;
    let page = world.get("/?text=msg").await.body;
    assert!(page.contains("<strong data-count=\"received\">3</strong> received"), "{page}");
    assert!(page.contains("href=\"/?text=msg&amp;state=dead\""), "{page}");
    assert!(page.contains("push: busy"));
    let list = world.get_json("/?state=dead").await.json();
    assert_eq!(list["messages"][0]["message"], "msg_dead");
    assert_eq!(list["messages"].as_array().unwrap().len(), 1);
    assert_eq!((&list["counts"]["refused"], &list["counts"]["waiting"]), (&1.into(), &1.into()));
    let wrong = world.get_json("/?since=yesterday").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.json()["error"].as_str().unwrap().contains("is not a time"));
}

#[tokio::test]
async fn a_page_says_what_is_new_for_its_filter() {
    let world = World::with([request(0, "msg_1", 200)]).await;
    let newest = world.get_json("/").await.json()["newest"].as_i64().unwrap();
    for (at, message, status) in [(1, "msg_2", 200), (2, "msg_3", 401)] {
        world.opened.recorder.record(request(at, message, status));
    }
    assert!(world.opened.recorder.flush(Duration::from_mins(1)));
    let new =
        async |query: &str| world.get(&format!("/status?after={newest}{query}")).await.json()["new"].clone();
    assert_eq!(new("").await, 2);
    assert_eq!(new("&state=refused").await, 1);
    assert_eq!(new("&text=msg_1").await, 0);
    assert_eq!(world.get("/status").await.json()["received"], 3);
}

#[tokio::test]
async fn ten_thousand_messages_are_a_page_of_a_hundred() {
    let world = World::with([]).await;
    for n in 0..10_000_i64 {
        world.opened.recorder.record(call(n % 3000, &format!("msg_{n}"), QueueName::Messages, Call::Sent));
        if n % 1000 == 0 {
            assert!(world.opened.recorder.flush(Duration::from_mins(1)));
        }
    }
    assert!(world.opened.recorder.flush(Duration::from_mins(1)));
    let start = std::time::Instant::now();
    let page = world.get("/").await.body;
    assert!(
        page.contains("10000</strong> received")
            && page.contains("msg_9999")
            && page.contains("Older messages")
    );
    assert_eq!(page.matches("data-row").count(), MOST_ROWS);
    assert!(page.len() < 100_000, "{}", page.len());
    assert!(start.elapsed() < Duration::from_secs(2));
    let before = world.get_json("/").await.json()["before"].as_i64().unwrap();
    let next = world.get_json(&format!("/?before={before}")).await.json();
    assert_eq!(next["messages"][0]["message"], "msg_9899");
}

#[tokio::test]
async fn a_message_has_one_timeline_from_the_attempt_to_the_ledger() {
    let world = World::with([
        request(0, "msg_1", 401),
        request(5, "msg_1", 200),
        call(6, "msg_1", QueueName::Messages, Call::Sent),
        call(7, "msg_1", QueueName::Messages, Call::Received),
        record(8, "msg_1", "processed"),
        call(9, "msg_1", QueueName::Messages, Call::Deleted),
    ])
    .await;
    let page = world.get("/messages/msg_1").await.body;
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not in {page}"));
    let steps = [
        "answered <strong>401",
        "which only claims this id",
        "answered <strong>200",
        "put on the queue",
        "received from the queue",
        "ended <strong>processed",
        "Handler <code>push",
        "deleted from the queue",
    ];
    assert!(steps.map(at).is_sorted(), "{page}");
    let json = world.get_json("/messages/msg_1").await.json();
    assert_eq!(json["is_settled"], true);
    assert_eq!(json["history"]["entries"][4]["entry"]["handlers"][0]["took_ms"], 12.0);
    assert_eq!(json["shown"]["payload"]["what"], "an event, without personal data");
    assert_eq!(world.get_json("/messages/msg_9").await.status, 404);
    // The other attempt.
    let first = json["history"]["entries"][0]["seq"].as_i64().unwrap();
    let other = world.get_json(&format!("/messages/msg_1?request={first}")).await.json();
    assert_eq!(other["shown"]["request"]["status"], 401);
}

#[tokio::test]
async fn nothing_personal_is_on_a_page_without_a_reveal() {
    let [a, b, c] = dead("msg_dead");
    let world = World::with([request(0, "msg_1", 401), request(1, "msg_2", 200), a, b, c]).await;
    world.prints("dlq causes", cause(1));
    world.prints("acts", "[]");
    world.prints("replay list", "[]");
    let mut pages = Vec::new();
    let paths = [
        "/",
        "/status",
        "/messages/msg_1",
        "/messages/msg_2",
        "/messages/msg_dead",
        "/dead-letters",
        "/acts",
        "/keys",
        "/x",
    ];
    for path in paths {
        pages.push(world.get(path).await);
        pages.push(world.get_json(path).await);
    }
    pages.push(world.post("/dead-letters", "").await);
    pages.push(world.post("/messages/msg_dead/redrive", "reason=x").await);
    for page in &pages {
        for personal in PERSONAL {
            assert!(!page.body.contains(personal), "{personal}: {}", page.body);
        }
    }
    assert!(
        BODY.contains(PERSONAL[0]) && SIGNATURE.contains(PERSONAL[3]),
        "the samples have what is looked for"
    );
}

#[tokio::test]
async fn a_reveal_shows_everything_once_by_post_and_ends_by_itself() {
    let world = World::with([request(0, "msg_1", 200)]).await;
    let revealed = world.post("/messages/msg_1/reveal", "request=1").await;
    assert_eq!(revealed.status, 200);
    assert_eq!(revealed.header("refresh"), Some("30; url=/messages/msg_1"));
    for personal in PERSONAL {
        assert!(revealed.body.contains(personal), "{personal}: {}", revealed.body);
    }
    let by_get = world.get("/messages/msg_1/reveal?request=1").await;
    assert_eq!(by_get.status, 405);
    assert!(!world.get("/messages/msg_1").await.body.contains(PERSONAL[0]));
}

#[tokio::test]
async fn hostile_payloads_are_text() {
    let script =
        br#"{"type":"<script>alert(1)</script>","data":{"user_id":"</code><script>alert(2)</script>"}}"#;
    let mut typed = with_body(0, "msg_script", script);
    if let Entry::Request(request) = &mut typed {
        request.facts.event_type = Some("<script>alert(1)</script>\u{202e}".to_owned());
        request.facts.detail = Some("<img src=x onerror=alert(3)>\u{202e}".to_owned());
        request.content.headers.push(("svix-id".to_owned(), "\"><script>alert(4)</script>".to_owned()));
    }
    let world = World::with([typed]).await;
    for path in ["/", "/messages/msg_script", "/?type=%3Cscript%3E&text=%22%3E%3Cscript%3E"] {
        let page = world.get(path).await.body;
        assert_eq!(page.matches("<script").count(), 1, "only our own: {page}");
        // A value has to be the type itself, and is not shown.
        let shown = page.replace("&lt;/script&gt;\u{202e}\"", "");
        assert!(!shown.contains("<img") && !shown.contains('\u{202e}'), "{page}");
    }
    let revealed = world.post("/messages/msg_script/reveal", "").await.body;
    assert_eq!(revealed.matches("<script").count(), 1, "{revealed}");
    assert!(revealed.contains("&lt;script&gt;alert(2)&lt;/script&gt;"), "{revealed}");
    let unknown = world.get("/messages/%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    assert_eq!((unknown.status, unknown.body.matches("<script").count()), (404, 1));
}

#[tokio::test]
async fn any_payload_has_a_page() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, BODY.as_bytes()).unwrap();
    let large = format!(r#"{{"type":"t","data":{{"user_id":"{}"}}}}"#, "Mary ".repeat(200_000));
    let deep = format!(r#"{{"type":"t","data":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let numbers = br#"{"type":"t","data":{"user_id":123456789012345678901234567890,"x":1e400,"x":2}}"#;
    let bodies: [(&[u8], &str, &str); 8] = [
        (b"\0\0\0", "not JSON", r"\u0000\u0000\u0000"),
        (b"\xff\xfe", "UTF-16", r"\xff\xfe"),
        (b"{\"a\":\"\xc3\x28\"}", "not UTF-8", r"\xc3("),
        (&gzip.finish().unwrap(), "compressed", r"\x8b"),
        (large.as_bytes(), "only the start is shown", "Mary"),
        (deep.as_bytes(), "an event", "["),
        (numbers, "123456789012345678901234567890", "1e400"),
        (b"", "0 bytes: empty", "empty"),
    ];
    let world =
        World::with((0_i64..).zip(bodies).map(|(n, (body, ..))| with_body(n, &format!("msg_{n}"), body)))
            .await;
    for (n, (_, masked, revealed)) in bodies.iter().enumerate() {
        let page = world.get(&format!("/messages/msg_{n}")).await;
        assert_eq!(page.status, 200);
        if n != 4 {
            assert!(page.body.contains(masked), "{n} {masked}: {}", page.body);
        }
        assert!(!page.body.contains("Mary"), "{n}");
        assert_eq!(
            world.get_json(&format!("/messages/msg_{n}")).await.json()["history"]["summary"]["attempts"],
            1
        );
        let page = world.post(&format!("/messages/msg_{n}/reveal"), "").await;
        assert!(page.body.contains(revealed), "{n} {revealed}: {}", page.body);
        assert!(page.body.len() < 700_000, "{n}: {}", page.body.len());
    }
}

#[tokio::test]
async fn an_act_is_a_command_whose_output_is_shown() {
    let world = World::with(dead("msg_1")).await;
    world.prints("dlq redrive", "redrove <1> of 1");
    let page = world.post("/messages/msg_1/redrive", "reason=it%27s+stored").await;
    assert!(page.body.contains("cargo learnink dlq redrive msg_1 --yes"), "{}", page.body);
    assert!(page.body.contains("redrove &lt;1&gt; of 1"));
    world.post("/messages/msg_1/drop", "").await;
    world.post("/messages/msg_1/replay", "reason=lost").await;
    assert_eq!(
        world.ran(),
        [
            "dlq redrive msg_1 --yes --reason=it's stored --by=zoe",
            "dlq drop msg_1 --yes --by=zoe",
            "replay open --message=msg_1 --reason=lost --by=zoe",
        ]
    );
    assert_eq!(world.post("/messages/msg_1/replay", "reason=+").await.status, 400);
    for odd in ["-x", "request.1", "a%20b", "%00"] {
        assert_eq!(world.post(&format!("/messages/{odd}/redrive"), "").await.status, 400, "{odd}");
    }
    assert_eq!(world.ran().len(), 3);
    world.post("/messages/sqs.abc-1/redrive", "").await;
    assert_eq!(world.ran()[3], "dlq redrive abc-1 --yes --by=zoe");
}

#[tokio::test]
async fn a_bulk_act_is_refused_if_the_number_has_changed() {
    let world = World::with(dead("msg_1")).await;
    world.prints("dlq causes", cause(5));
    let page = world.post("/dead-letters", "").await.body;
    assert!(page.contains("Redrive 5 dead letters of cause 3f9a1b"), "{page}");
    assert!(page.contains(r#"name="count" value="5""#), "{page}");
    world.prints("dlq causes", cause(7));
    let refused = world.post("/dead-letters/redrive", "cause=3f9a1b&count=5").await;
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("now there are 7"), "{}", refused.body);
    assert!(refused.body.contains(r#"name="count" value="7""#));
    assert!(world.ran().iter().all(|line| line.starts_with("dlq causes")), "{:?}", world.ran());
    let gone = world.post("/dead-letters/drop", "cause=000000&count=5").await;
    assert!(gone.status == 409 && gone.body.contains("now there are 0"));
    let done = world.post("/dead-letters/redrive", "cause=3f9a1b&count=7&reason=fixed").await;
    assert_eq!(done.status, 200);
    assert_eq!(world.ran().last().unwrap(), "dlq redrive 3f9a1b --yes --reason=fixed --by=zoe");
}

#[tokio::test]
async fn dead_letters_are_grouped_without_looking_at_the_queue() {
    let world = World::with([dead("msg_1"), dead("msg_2")].concat()).await;
    let page = world.get_json("/dead-letters").await.json();
    assert_eq!(page["groups"][0]["why"], "push: busy");
    assert_eq!(page["groups"][0]["count"], 2);
    assert_eq!(page["causes"], Value::Null);
    assert!(world.ran().is_empty());
}

#[tokio::test]
async fn a_signature_is_judged_check_by_check() {
    let world = World::with([request(0, "msg_1", 401)]).await;
    let report = serde_json::json!({
        "delivery": "x", "verified": false, "verdict": "mistaken",
        "checks": [
            { "check": "headers", "result": "ok", "detail": "complete" },
            { "check": "signature", "result": "failed", "detail": null },
        ],
        "mistakes": [{ "mistake": "m", "explanation": "signed by <another>", "remedy": "store it" }],
        "secret": null, "combinations": 9, "advice": ["look at LearnInk"],
    });
    world.prints("verify", report.to_string());
    let page = world.post("/messages/msg_1/verify", "request=1").await.body;
    assert!(page.contains("Signature: mistaken"), "{page}");
    assert!(page.contains("signed by &lt;another&gt;: store it") && page.contains("look at LearnInk"));
    let ran = world.desk.ran.lock().unwrap().clone();
    assert_eq!(ran[0].0, "verify - --json --now=2026-01-01T00:00:00Z");
    assert!(ran[0].1.ends_with(BODY.as_bytes()));
    drop(ran);
    world.prints("verify", "no JSON");
    assert_eq!(world.post("/messages/msg_1/verify", "request=1").await.status, 502);
}

#[tokio::test]
async fn the_ledger_and_the_acts_are_asked_by_commands() {
    let world = World::with([request(0, "msg_1", 200)]).await;
    let known = serde_json::json!({
        "message_id": "msg_1", "event_type": null, "state": "it is done", "done": ["push"], "again": [],
        "items_done": {}, "items_in_parts": {}, "windows": [], "dead_letters": [],
        "timeline": [{ "at": "2026-01-01T00:00:00Z", "what": "a consumer first claimed it" }],
    });
    world.prints("show msg_1", known.to_string());
    let page = world.post("/messages/msg_1/show", "").await.body;
    assert!(page.contains("Ledger: it is done") && page.contains("a consumer first claimed it"), "{page}");
    let act = serde_json::json!([{
        "id": "1", "action": "redrive", "by": "zoe", "place": "here", "filter": "<all>", "started_at":
        "2026-01-01T00:00:00Z", "selected": 3, "done": 2, "outcome": "",
    }]);
    world.prints("acts", act.to_string());
    let window = serde_json::json!([{
        "state": "open", "id": "1f0c", "covers": { "messages": ["msg_1", "msg_2"] }, "reason": "<lost>",
        "opened_by": "zoe", "opened_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T02:00:00Z",
    }]);
    world.prints("replay list", window.to_string());
    let page = world.get("/acts").await.body;
    assert!(page.contains("for msg_1, msg_2, opened by zoe") && page.contains("&lt;lost&gt;"), "{page}");
    world.post("/acts/close", "window=1f0c").await;
    assert_eq!(world.ran().last().unwrap(), "replay close 1f0c --by=zoe");
    assert!(page.contains("2 of 3") && page.contains("no end") && page.contains("&lt;all&gt;"), "{page}");
}

#[tokio::test]
async fn pages_in_a_loop_start_no_more_than_two_commands_at_a_time() {
    let world = World::with([]).await;
    world.prints("acts", "[]");
    world.prints("replay list", "[]");
    world.desk.takes_ms.store(20, Ordering::Relaxed);
    let answers = futures_util::future::join_all((0..8).map(|_| world.get("/acts"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.ran().len(), 16);
    assert_eq!(world.desk.most_running.load(Ordering::Relaxed), MOST_COMMANDS);
}

#[tokio::test]
async fn a_test_waits_for_the_end_of_a_message_without_sleeping() {
    let world = World::with([]).await;
    let recorder = world.opened.recorder.clone();
    let waiting = world.get_json("/messages/msg_1?until=settled&wait=20s");
    let happens = async {
        for entry in [request(0, "msg_1", 200), record(1, "msg_1", "processed")] {
            tokio::time::sleep(Duration::from_millis(100)).await;
            recorder.record(entry);
        }
    };
    let start = std::time::Instant::now();
    let (answer, ()) = tokio::join!(waiting, happens);
    assert_eq!(answer.json()["history"]["summary"]["state"], "done");
    assert!(start.elapsed() < Duration::from_secs(10));
    let unsettled = world.get_json("/messages/msg_2?until=settled&wait=50ms").await;
    assert_eq!(unsettled.status, 404);
    recorder.record(request(0, "msg_2", 200));
    assert!(recorder.flush(Duration::from_mins(1)));
    let unsettled = world.get_json("/messages/msg_2?until=settled&wait=50ms").await;
    assert_eq!((unsettled.status, &unsettled.json()["is_settled"]), (200, &false.into()));
    assert_eq!(world.get_json("/messages/msg_2?until=done").await.status, 400);
    assert_eq!(world.get_json("/messages/msg_2?until=settled&wait=x").await.status, 400);
}

pub(super) async fn next_event(stream: &mut BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "the stream ended");
        if let Some(data) = line.trim_end().strip_prefix("data: ") {
            return data.to_owned();
        }
    }
}

#[tokio::test]
async fn four_pages_have_a_stream_and_the_fifth_asks_now_and_then() {
    let world = World::with([]).await;
    let mut streams = Vec::new();
    for _ in 0..live::MOST_STREAMS {
        let mut stream = BufReader::new(world.connect("GET /live", &world.cookie(), "").await);
        assert_eq!(next_event(&mut stream).await, "0");
        streams.push(stream);
    }
    assert_eq!(world.get("/live").await.status, 204);
    world.opened.recorder.record(request(0, "msg_1", 200));
    for stream in &mut streams {
        assert_eq!(next_event(stream).await, "1");
    }
    // A tab that is closed makes room.
    streams.pop();
    let mut left = 100;
    loop {
        let mut stream = BufReader::new(world.connect("GET /live", &world.cookie(), "").await);
        let mut status = String::new();
        stream.read_line(&mut status).await.unwrap();
        if status.contains("200") {
            break;
        }
        left -= 1;
        assert!(left > 0, "the stream of a closed tab stays open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_stop_ends_the_streams_and_the_waits() {
    let world = World::with([]).await;
    let mut stream = BufReader::new(world.connect("GET /live", &world.cookie(), "").await);
    next_event(&mut stream).await;
    let waiting = world.connect("GET /messages/msg_1?until=settled&wait=30s", &world.cookie(), "").await;
    let start = std::time::Instant::now();
    world.console.stop(Duration::from_secs(20)).await;
    assert!(start.elapsed() < Duration::from_secs(10));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    drop(waiting);
}

#[tokio::test]
async fn pages_say_what_screen_readers_need() {
    let world = World::with(dead("msg_1")).await;
    for path in ["/", "/messages/msg_1", "/dead-letters", "/keys"] {
        let page = world.get(path).await.body;
        assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{path}");
        for part in [
            "<title>",
            "<main id=\"main\"",
            "<nav aria-label=\"Pages\"",
            "<h1>",
            "href=\"#main\"",
            "name=\"viewport\"",
        ] {
            assert_eq!(page.matches(part).count(), 1, "{part} in {path}");
        }
        // Nothing that the policy would block.
        for blocked in [" style=", " onclick=", "javascript:", "http://", "https://"] {
            assert!(!page.contains(blocked), "{blocked} in {path}");
        }
        assert_eq!(page.matches("<th ").count(), page.matches("scope=").count(), "{path}");
        // Each field is inside its label.
        let fields = page.matches("<select").count() + page.matches("<input").count();
        let hidden = page.matches("type=\"hidden\"").count();
        assert_eq!(page.matches("<label").count(), fields - hidden, "{path}");
    }
}

#[test]
fn the_style_knows_dark_light_and_less_motion() {
    for part in ["prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible"] {
        assert!(STYLE.contains(part), "{part}");
    }
    assert!(SCRIPT.lines().count() <= 220);
    assert!(!SCRIPT.contains("innerHTML"), "a payload never becomes HTML");
}

/// The contrast of two colors. Source: WCAG 2.2, "contrast ratio".
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |color: &str| {
        let part = |at: usize| f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
        let linear =
            |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
        0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5))
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn every_text_has_enough_contrast_in_dark_and_light() {
    let schemes: Vec<_> = STYLE.split(":root {").skip(1).collect();
    assert_eq!(schemes.len(), 2);
    for scheme in schemes {
        let color = |name: &str| {
            let start = scheme.find(&format!("--{name}: #")).unwrap() + name.len() + 4;
            &scheme[start..start + 7]
        };
        for ground in ["ground", "raised"] {
            for text in ["text", "dim", "link", "good", "bad", "wait", "calm"] {
                let ratio = contrast(color(text), color(ground));
                assert!(ratio >= 4.5, "{text} on {ground}: {ratio:.2}");
            }
            assert!(contrast(color("line"), color(ground)) >= 3.0, "lines on {ground}");
        }
    }
}
