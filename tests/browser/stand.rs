//! A pipeline with its page, and a browser.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use learnink_tests::binaries::binary;
use learnink_tests::{read, root};
use serde_json::{Value, json};
use thirtyfour::{
    By, ChromiumLikeCapabilities, DesiredCapabilities, Key, LoggingPrefsLogLevel, TypingData, WebDriver,
};

use crate::short;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A running `learnink dev`.
pub(crate) struct Dev {
    folder: tempfile::TempDir,
    process: Child,
    /// The link that it prints.
    pub(crate) link: String,
    /// Where its page is.
    pub(crate) console: String,
    endpoint: String,
}

impl Dev {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let mut dev = learnink(&folder);
        dev.args(["dev", "--port", "0", "--console-port", "0"]).stdout(Stdio::piped());
        let mut process = dev.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.find(|line| line.as_ref().unwrap().trim_start().starts_with(name));
            line.unwrap().unwrap().trim().trim_start_matches(name).trim().to_owned()
        };
        let (endpoint, link) = (value("endpoint"), value("page"));
        let (console, _) = link.split_once("/?").unwrap();
        let console = console.to_owned();
        // What is not read would end it.
        std::thread::spawn(move || lines.count());
        Self { folder, process, link, console, endpoint }
    }

    /// Stops it, as Ctrl-C does, and starts it again with the same state.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        *self = Self::start_in(folder);
    }

    /// Sends a webhook, whatever the answer.
    pub(crate) fn send(&self, options: &[&str]) {
        let sample = root().join("events/user.course.started.json");
        let mut send = learnink(&self.folder);
        send.args(["send", "--url", &self.endpoint]).args(options).arg(sample).stdout(Stdio::null());
        send.status().unwrap();
    }

    /// *Send Example*, and the message id.
    pub(crate) fn send_example(&self) -> String {
        let mut sim = learnink(&self.folder);
        sim.args(["sim", "send-example", "user.course.started", "--json"]);
        let sent: Value = serde_json::from_slice(&sim.output().unwrap().stdout).unwrap();
        sent["message"].as_str().unwrap().to_owned()
    }

    fn stop(&mut self) {
        let interrupted =
            Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap();
        assert!(interrupted.success());
        self.process.wait().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn learnink(folder: &tempfile::TempDir) -> Command {
    let mut learnink = Command::new(binary("learnink"));
    learnink.current_dir(folder.path()).env("USER", "kim").env_remove("LEARNINK_SIGNING_SECRET");
    learnink.env_remove("LEARNINK_STATE").env_remove("LEARNINK_STACK");
    learnink
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Chromium, and the program that drives it.
pub(crate) struct Browser {
    driver: WebDriver,
    _process: ChromeDriver,
}

/// It and its browser end with the test.
struct ChromeDriver(Child);

impl Drop for ChromeDriver {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
        let mut capabilities = DesiredCapabilities::chrome();
        // Chromium's sandbox does not run as root, as in a container.
        let ours = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1280,900",
        ];
        for option in ours.iter().chain(options) {
            capabilities.add_arg(option).unwrap();
        }
        capabilities.set_browser_log_level(LoggingPrefsLogLevel::All).unwrap();
        let url = format!("http://127.0.0.1:{}", port.unwrap());
        let process = ChromeDriver(process);
        let driver = WebDriver::new(url, capabilities).await.unwrap();
        Self { driver, _process: process }
    }

    pub(crate) async fn quit(self) {
        self.driver.quit().await.unwrap();
    }

    pub(crate) async fn goto(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    pub(crate) async fn url(&self) -> String {
        self.driver.current_url().await.unwrap().to_string()
    }

    /// All text of the page.
    pub(crate) async fn text(&self) -> String {
        self.driver.find(By::Css("body")).await.unwrap().text().await.unwrap()
    }

    /// The text of each row.
    pub(crate) async fn rows(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for row in self.driver.find_all(By::Css("[data-row]")).await.unwrap() {
            texts.push(row.text().await.unwrap());
        }
        texts
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.driver.find(By::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Moves the focus with Tab alone until it is on an element of this kind whose text begins so.
    pub(crate) async fn tab_to(&self, element: &str, text: &str) {
        const MOST_STOPS: usize = 200;
        for _ in 0..MOST_STOPS {
            self.press(Key::Tab).await;
            let focused =
                "const focus = document.activeElement; return [focus.localName, focus.textContent.trim()]";
            let focused = self.js(focused).await;
            if focused[0] == element && focused[1].as_str().is_some_and(|focused| focused.starts_with(text)) {
                return;
            }
        }
        panic!("Tab does not reach `{text}`");
    }

    pub(crate) async fn press(&self, key: impl Into<TypingData>) {
        self.driver.action_chain().send_keys(key).perform().await.unwrap();
    }

    pub(crate) async fn js(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// The result of a script that calls its last argument.
    pub(crate) async fn js_later(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.driver.execute_async(script, arguments).await.unwrap().json().clone()
    }

    /// Whether the page says that there is something new.
    pub(crate) async fn is_new_shown(&self) -> bool {
        self.js("return !document.getElementById('new').hidden").await == Value::Bool(true)
    }

    /// Waits for "1 new", which comes within a second, and loads it.
    pub(crate) async fn load_what_is_new(&self) {
        eventually("news", async || self.is_new_shown().await).await;
        self.press("l").await;
        eventually("the new row", async || !self.rows().await.is_empty()).await;
    }

    /// What axe finds on this page that is serious or worse.
    pub(crate) async fn axe(&self) -> Value {
        let axe = read("tests/browser/node_modules/axe-core/axe.min.js");
        self.driver.execute(&axe, Vec::new()).await.unwrap();
        let script = "const done = arguments[arguments.length - 1];
            axe.run().then(found => done(found.violations.map(one => ({
                id: one.id, impact: one.impact, at: one.nodes.map(node => node.html.slice(0, 120)).slice(0, 3) }))));";
        short(&self.js_later(script, Vec::new()).await)
    }

    /// Pretends that the person prefers light or dark.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.driver.cdp().send_raw("Emulation.setEmulatedMedia", features).await.unwrap();
    }

    pub(crate) async fn new_tab(&self) {
        let tab = self.driver.new_tab().await.unwrap();
        self.driver.switch_to_window(tab).await.unwrap();
    }

    pub(crate) async fn to_tab(&self, number: usize) {
        let tabs = self.driver.windows().await.unwrap();
        self.driver.switch_to_window(tabs[number].clone()).await.unwrap();
    }

    /// What the browser said about the pages.
    pub(crate) async fn browser_log(&self) -> Vec<String> {
        let log = self.driver.browser_log().await.unwrap();
        log.into_iter().map(|entry| entry.message).collect()
    }
}
