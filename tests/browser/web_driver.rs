//! Chromium, driven over `WebDriver`.
//!
//! Not by a library: the one for Rust turns on `preserve_order` of `serde_json`, for the whole workspace, and the code
//! that ships would be tested with another order of members than it has.
//! Source: W3C, "`WebDriver`", and Chromium's own commands for its log and its developer tools.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use learnink_tests::read;
use serde_json::{Value, json};

use crate::short;
use crate::stand::eventually;

/// Keys without a character. Source: W3C, "`WebDriver`", "Keyboard actions".
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";
const TAB: &str = "\u{e004}";

/// The member of an element's JSON that has its id.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How often Tab may be pressed to get somewhere.
const MOST_STOPS: usize = 200;

/// Chromium, and the program that drives it. Both end with the test.
pub(crate) struct Browser {
    client: reqwest::Client,
    session: String,
    process: Child,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended. Its browser ends with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    /// Starts both, with more options for Chromium.
    pub(crate) async fn start(options: &[&str]) -> Self {
        learnink_aws::install_tls_provider();
        let mut process = Command::new("chromedriver");
        process.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = process.spawn().unwrap_or_else(|error| {
            panic!("chromedriver cannot be started ({error}); `scripts/check browser` installs it")
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        std::thread::spawn(move || lines.count());
        // Chromium's sandbox does not run as root, as in a container.
        let ours = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1280,900",
        ];
        let arguments: Vec<_> = ours.iter().chain(options).collect();
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let session = format!("http://127.0.0.1:{}/session", port.unwrap());
        let mut browser = Self { client, session, process };
        let started = browser.post("", capabilities).await;
        browser.session = format!("{}/{}", browser.session, started["sessionId"].as_str().unwrap());
        browser
    }

    /// Ends the browser before the program that drives it.
    pub(crate) async fn quit(self) {
        self.client.delete(&self.session).send().await.unwrap();
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}{command}", self.session)).body(body.to_string());
        Self::value(command, request.send().await.unwrap()).await
    }

    async fn get(&self, command: &str) -> Value {
        let request = self.client.get(format!("{}{command}", self.session));
        Self::value(command, request.send().await.unwrap()).await
    }

    async fn value(command: &str, answer: reqwest::Response) -> Value {
        let mut answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{command}: {value}");
        value
    }

    pub(crate) async fn goto(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    pub(crate) async fn url(&self) -> String {
        self.get("/url").await.as_str().unwrap().to_owned()
    }

    /// The ids of the elements of a CSS selector.
    async fn elements(&self, selector: &str) -> Vec<String> {
        let found = self.post("/elements", json!({ "using": "css selector", "value": selector })).await;
        found.as_array().unwrap().iter().map(|one| one[ELEMENT].as_str().unwrap().to_owned()).collect()
    }

    /// The text that a person sees of each element of a CSS selector, all at one moment: between two commands, a
    /// page may give way to the next one.
    async fn texts(&self, selector: &str) -> Vec<String> {
        let script = format!("return [...document.querySelectorAll('{selector}')].map(one => one.innerText)");
        serde_json::from_value(self.js(&script).await).unwrap()
    }

    /// All text of the page.
    pub(crate) async fn text(&self) -> String {
        self.texts("body").await.concat()
    }

    /// The text of each row.
    pub(crate) async fn rows(&self) -> Vec<String> {
        self.texts("[data-row]").await
    }

    pub(crate) async fn click(&self, selector: &str) {
        let element = self.elements(selector).await.remove(0);
        self.post(&format!("/element/{element}/click"), json!({})).await;
    }

    pub(crate) async fn press(&self, key: &str) {
        let strokes = ["keyDown", "keyUp"].map(|stroke| json!({ "type": stroke, "value": key }));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.post("/actions", json!({ "actions": [keyboard] })).await;
    }

    /// Moves the focus with Tab alone until it is on an element of this kind whose text begins so.
    pub(crate) async fn tab_to(&self, element: &str, text: &str) {
        for _ in 0..MOST_STOPS {
            self.press(TAB).await;
            let focused =
                "const focus = document.activeElement; return [focus.localName, focus.textContent.trim()]";
            let focused = self.js(focused).await;
            if focused[0] == element && focused[1].as_str().is_some_and(|focused| focused.starts_with(text)) {
                return;
            }
        }
        panic!("Tab does not reach `{text}`");
    }

    pub(crate) async fn js(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// The result of a script that calls its last argument.
    pub(crate) async fn js_later(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.post("/execute/async", json!({ "script": script, "args": arguments })).await
    }

    /// Whether the page says that there is something new.
    pub(crate) async fn is_new_shown(&self) -> bool {
        self.js("return !document.getElementById('new').hidden").await == Value::Bool(true)
    }

    /// Waits for "1 new", and loads it.
    pub(crate) async fn load_what_is_new(&self) {
        eventually("news", async || self.is_new_shown().await).await;
        self.press("l").await;
        eventually("the new row", async || !self.elements("[data-row]").await.is_empty()).await;
    }

    /// What axe finds on this page that is serious or worse.
    pub(crate) async fn axe(&self) -> Value {
        self.js(&read("tests/browser/node_modules/axe-core/axe.min.js")).await;
        let script = "const done = arguments[arguments.length - 1];
            axe.run().then(found => done(found.violations.map(one => ({
                id: one.id, impact: one.impact, at: one.nodes.map(node => node.html.slice(0, 120)).slice(0, 3) }))));";
        short(&self.js_later(script, Vec::new()).await)
    }

    /// Pretends that the person prefers light or dark.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        let command = json!({ "cmd": "Emulation.setEmulatedMedia", "params": features });
        self.post("/goog/cdp/execute", command).await;
    }

    pub(crate) async fn new_tab(&self) {
        let tab = self.post("/window/new", json!({ "type": "tab" })).await;
        self.post("/window", json!({ "handle": tab["handle"] })).await;
    }

    pub(crate) async fn to_tab(&self, number: usize) {
        let tabs = self.get("/window/handles").await;
        self.post("/window", json!({ "handle": tabs[number] })).await;
    }

    /// What the browser said about the pages.
    pub(crate) async fn browser_log(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }
}
