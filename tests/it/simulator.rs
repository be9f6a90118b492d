//! LearnInk's side of `learnink dev`, as a person rehearses it: `learnink sim`, and the page's JSON.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use learnink_local::state::{Service, address};
use learnink_tests::signing::SECRET;
use serde_json::Value;

use crate::command::{Dev, PATIENCE, learnink, text};

/// Parts of what each sample carries. No page and no output has them.
const PERSONAL: [&str; 3] = ["254705408079", "Mary", "Don't forget"];

/// Fast enough for a schedule of 28 hours to pass in half a minute.
const FAST: &str = "3600";

/// A pipeline, and what a person types beside it.
struct Rehearsal {
    dev: Dev,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Rehearsal {
    fn start(folder: &Path) -> Self {
        Self::beside(Dev::start(folder))
    }

    fn beside(dev: Dev) -> Self {
        learnink_aws::install_tls_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { dev, runtime: tokio::runtime::Runtime::new().unwrap(), client }
    }

    fn output(&self, command: &[&str]) -> Output {
        let mut sim = learnink(&[&["sim"], command, &["--state", &self.dev.folder]].concat());
        sim.env("USER", "kim");
        sim.output().unwrap()
    }

    /// What `sim` prints as JSON.
    fn sim(&self, command: &[&str]) -> Value {
        let output = self.output(&[command, &["--json"]].concat());
        assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Sends an example, and returns its message id.
    fn send_example(&self, options: &[&str]) -> String {
        let sent = self.sim(&[&["send-example", "user.course.started", "--fresh"], options].concat());
        sent["message"].as_str().unwrap().to_owned()
    }

    /// How far a message is at its only endpoint.
    fn destination(&self, id: &str) -> Value {
        self.sim(&["message", id])["attempts"]["destinations"][0].clone()
    }

    /// Waits until a message has this status, and returns how far it is.
    fn until(&self, id: &str, status: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let destination = self.destination(id);
            if destination["status"] == status {
                return destination;
            }
            assert!(Instant::now() < deadline, "waited for {status}: {destination}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A page as JSON.
    fn page(&self, path: &str) -> Value {
        self.get(path, "application/json").1.parse().unwrap()
    }

    /// The status and the text of a page.
    fn get(&self, path: &str, accept: &str) -> (u16, String) {
        let folder = Path::new(&self.dev.folder);
        let url = address(folder, Service::Console).unwrap().unwrap();
        let key = fs::read_to_string(folder.join("console-key")).unwrap();
        let request =
            self.client.get(format!("{url}{path}")).bearer_auth(key.trim()).header("accept", accept);
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    /// What the consumer did with a message, delivery by delivery, once it has ended.
    fn outcomes(&self, id: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.page(&format!("/messages/{id}?until=settled&wait=10s"));
            let entries = page["history"]["entries"].as_array().unwrap().iter();
            let records = entries.map(|row| &row["entry"]).filter(|entry| entry["kind"] == "record");
            let outcomes: Vec<_> =
                records.map(|record| record["outcome"].as_str().unwrap().to_owned()).collect();
            if outcomes.len() >= count {
                return outcomes;
            }
            assert!(Instant::now() < deadline, "waited for {count} deliveries: {outcomes:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn statuses(destination: &Value) -> Vec<u64> {
    let attempts = destination["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| attempt["status"].as_u64().unwrap_or_default()).collect()
}

/// The waits between the attempts as they would be in LearnInk, in seconds.
fn waits_s(destination: &Value) -> Vec<f64> {
    let at = |attempt: &Value| attempt["simulated_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let times: Vec<_> = destination["attempts"].as_array().unwrap().iter().map(at).collect();
    times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect()
}

#[test]
fn after_three_faults_the_fourth_attempt_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    rehearsal.sim(&["speed", FAST]);
    rehearsal.sim(&["answer", "503", "--next", "3"]);
    let id = rehearsal.send_example(&[]);
    let destination = rehearsal.until(&id, "succeeded");
    assert_eq!(statuses(&destination), [503, 503, 503, 200]);
    let injected = |attempt: &Value| attempt["injected"].is_string();
    assert!(destination["attempts"].as_array().unwrap().iter().take(3).all(injected));
    for (wait, scheduled) in waits_s(&destination).into_iter().zip([5.0, 300.0, 1_800.0]) {
        // The jitter, and at this speed a second more for each tick of a quarter of a millisecond.
        assert!(wait >= scheduled * 0.8 && wait <= scheduled * 1.2 + 900.0, "{wait} s, not {scheduled}");
    }
    assert_eq!(rehearsal.outcomes(&id, 1), ["processed"]);
    let learners = rehearsal.dev.json("learners");
    assert_eq!(learners.len(), 1, "{learners:?}");
}

#[test]
fn what_has_failed_eight_times_is_recovered_and_what_is_done_is_run_again_only_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    rehearsal.sim(&["speed", FAST]);
    rehearsal.sim(&["answer", "503", "--share", "1"]);
    let id = rehearsal.send_example(&[]);
    let destination = rehearsal.until(&id, "failed");
    assert_eq!(statuses(&destination), [503; 8]);

    rehearsal.sim(&["answer", "ok"]);
    rehearsal.sim(&["recover", "--since", "1h ago"]);
    let destination = rehearsal.until(&id, "succeeded");
    assert_eq!(destination["attempts"][8]["trigger"], "manual");
    assert_eq!(rehearsal.outcomes(&id, 1), ["processed"]);

    rehearsal.sim(&["resend", &id]);
    assert_eq!(rehearsal.outcomes(&id, 2), ["processed", "duplicate"]);
    rehearsal.sim(&["resend", &id, "--again", "--reason", "its grant was lost"]);
    assert_eq!(rehearsal.outcomes(&id, 3), ["processed", "duplicate", "processed"]);
}

#[test]
fn a_rotation_is_survived_until_the_overlap_ends_and_then_by_the_new_secret() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    rehearsal.until(&rehearsal.send_example(&[]), "succeeded");

    let rotated = rehearsal.output(&["rotate", "--overlap", "8s", "--reveal"]);
    let new_secret = text(&rotated.stdout);
    assert!(new_secret.starts_with("whsec_"), "{new_secret}{}", text(&rotated.stderr));
    let id = rehearsal.send_example(&[]);
    let destination = rehearsal.until(&id, "succeeded");
    assert_eq!(destination["attempts"][0]["signed_with"].as_array().unwrap().len(), 2);
    rehearsal.dev.line_with("! the sender signs with a newer secret as well");

    std::thread::sleep(Duration::from_secs(9));
    let id = rehearsal.send_example(&[]);
    assert_eq!(statuses(&rehearsal.until(&id, "pending")).pop(), Some(401));

    let mut put =
        learnink(&["secret", "put", "--replace", "--yes", "--by", "kim", "--state", &rehearsal.dev.folder]);
    put.args(["--secret-file", "-"]).stdin(std::process::Stdio::piped());
    let mut put = put.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut put.stdin.take().unwrap(), new_secret.as_bytes()).unwrap();
    assert!(put.wait().unwrap().success());
    // The schedule may be faster.
    rehearsal.output(&["now", &id]);
    let statuses = statuses(&rehearsal.until(&id, "succeeded"));
    assert_eq!((statuses[0], statuses.last()), (401, Some(&200)));
}

#[test]
fn production_is_refused_because_its_secret_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    let url = rehearsal.sim(&["endpoints"])["endpoints"][0]["url"].as_str().unwrap().to_owned();
    let added = rehearsal.sim(&["endpoint", "add", &url, "--environment", "production"]);
    let endpoint = added["endpoint"].as_str().unwrap();
    let id = rehearsal.send_example(&["--endpoint", endpoint]);
    assert_eq!(statuses(&rehearsal.until(&id, "pending")), [401]);
}

#[test]
fn what_waits_for_an_attempt_waits_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    rehearsal.sim(&["answer", "503", "--next", "1"]);
    let id = rehearsal.send_example(&[]);
    rehearsal.until(&id, "pending");
    let (_, code) = rehearsal.dev.interrupt();
    assert_eq!(code, Some(0));

    let rehearsal = Rehearsal::start(folder.path());
    let url = rehearsal.sim(&["endpoints"])["endpoints"][0]["url"].as_str().unwrap().to_owned();
    let now = address(folder.path(), Service::Webhooks).unwrap().unwrap();
    assert_eq!(url, now, "the port is another one");
    assert_eq!(statuses(&rehearsal.until(&id, "succeeded")), [503, 200]);
}

#[test]
fn no_page_shows_what_is_personal_or_secret() {
    let folder = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    let id = rehearsal.send_example(&[]);
    rehearsal.until(&id, "succeeded");
    let sample = ["send-example", "notifications.sent"];
    let list = rehearsal.sim(&sample)["message"].as_str().unwrap().to_owned();
    rehearsal.outcomes(&list, 1);
    let secret = fs::read_to_string(folder.path().join("signing-secret")).unwrap();
    let secret = secret.trim().trim_start_matches("whsec_");
    let mut paths: Vec<_> = ["/", "/dead-letters", "/acts", "/keys", "/learnink", "/learnink/testing"]
        .into_iter()
        .chain(["/learnink/messages", "/status"])
        .map(str::to_owned)
        .collect();
    for id in [&id, &list] {
        paths.extend([format!("/messages/{id}"), format!("/learnink/messages/{id}")]);
    }
    for path in paths {
        for accept in ["text/html", "application/json"] {
            let (status, page) = rehearsal.get(&path, accept);
            assert_eq!(status, 200, "{path}");
            assert!(!page.contains(secret), "{path} as {accept} has the secret");
            // A form for a payload has the sample that is in the repository.
            if path == "/learnink/testing" {
                continue;
            }
            let found: Vec<_> = PERSONAL.iter().filter(|personal| page.contains(**personal)).collect();
            assert!(found.is_empty(), "{path} as {accept} has {found:?}");
            assert!(!page.contains("v1,"), "{path} as {accept} has a signature");
        }
    }
}

#[test]
fn a_page_that_cannot_be_served_stops_no_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dev = Dev::start_on(folder.path(), &port, &[]);
    let notice = dev.line_with("! no page");
    assert!(notice.contains(&format!("port {port} is taken by another program")), "{notice}");
    assert!(dev.sent("msg_1").contains("handled by progress"));
}

#[test]
fn a_history_that_is_damaged_or_of_another_version_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("history.sqlite"), "SQLite format 3\0 and then nothing of the kind")
        .unwrap();
    let rehearsal = Rehearsal::start(folder.path());
    let notice = rehearsal.dev.line_with("! the history starts anew");
    assert!(notice.contains("history.sqlite.damaged-"), "{notice}");
    let id = rehearsal.send_example(&[]);
    assert_eq!(rehearsal.outcomes(&id, 1), ["processed"]);
    let kept = fs::read_dir(folder.path()).unwrap().filter_map(Result::ok);
    assert!(kept.map(|file| file.file_name()).any(|name| name.to_string_lossy().contains("damaged-")));
}

#[test]
fn a_given_secret_is_the_one_that_learninks_side_signs_with() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(folder.path(), &[("LEARNINK_SIGNING_SECRET", SECRET)]);
    let rehearsal = Rehearsal::beside(dev);
    let id = rehearsal.send_example(&[]);
    assert_eq!(statuses(&rehearsal.until(&id, "succeeded")), [200]);
}

#[test]
fn without_a_running_pipeline_sim_says_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        learnink(&["sim", "endpoints", "--state", folder.path().to_str().unwrap()]).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("start") && said.contains("dev"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
