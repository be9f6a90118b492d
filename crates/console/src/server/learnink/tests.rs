use std::sync::atomic::Ordering;
use std::time::Duration;

use learnink_simulator::{Fault, Outcome, Status};
use serde_json::Value;
use tokio::io::BufReader;

use super::*;
use crate::history::Entry;
use crate::history::tests::{BODY, now, request, time};
use crate::server::tests::{Answer, PERSONAL, World, next_event};
use crate::simulation::tests::handle;

const COURSE: &str = include_str!("../../../../../events/user.course.started.json");
const URL: &str = "http://127.0.0.1:9/webhooks/learnink";

/// A console with a simulator whose attempts the test makes.
struct Rehearsal {
    world: World,
    handle: Handle,
}

impl Rehearsal {
    async fn start(entries: impl IntoIterator<Item = Entry>) -> Self {
        let handle = handle(Simulator::default());
        let samples = samples();
        Self { world: World::start(entries, Some(handle.clone()), samples).await, handle }
    }

    /// With an endpoint in staging, and its id.
    async fn with_endpoint() -> (Self, EndpointId) {
        let rehearsal = Self::start([]).await;
        let id = rehearsal.add(Environment::Staging, 1);
        (rehearsal, id)
    }

    fn add(&self, environment: Environment, secret: u8) -> EndpointId {
        let (url, secret) = (EndpointUrl::parse(URL).unwrap(), Secret::from_random([secret; 24]));
        self.handle
            .change(|simulator, now, random| simulator.add_endpoint(environment, url, secret, now, random))
    }

    /// Sends [`BODY`] at `at`.
    fn send(&self, at: Timestamp) -> String {
        let event = Event { event_type: NOTIFICATIONS.to_owned(), payload: BODY.to_owned() };
        let send = |simulator: &mut Simulator, _, random: &mut fastrand::Rng| {
            simulator.send(Environment::Staging, event, at, random)
        };
        self.handle.change(send).to_string()
    }

    /// Makes the attempts that are due, and has them answered.
    fn answer(&self, status: u16) {
        self.answer_with(status, &[]);
    }

    fn answer_with(&self, status: u16, headers: &[(&str, &str)]) {
        self.handle.change(|simulator, now, _| {
            while let Some(attempt) = simulator.start_attempt(now) {
                let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                let outcome = Outcome::Answered { status, headers: headers.collect() };
                simulator.finish_attempt(&attempt.key, outcome, 0.5, now);
            }
        });
    }

    fn status(&self, message: &str) -> Status {
        let id = MessageId::parse(message).unwrap();
        self.handle.read(|simulator, _| simulator.message(&id).unwrap().destinations[0].status())
    }

    /// Posts for JSON, and expects that it is done.
    async fn done(&self, path: &str, form: &str) -> Value {
        let answer = self.world.post_json(path, form).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// Posts for JSON, and expects this status and an error with this text.
    async fn refused(&self, path: &str, form: &str, status: u16, error: &str) {
        let answer = self.world.post_json(path, form).await;
        assert_eq!(answer.status, status, "{path} {form}: {}", answer.body);
        assert!(answer.json()["error"].as_str().unwrap().contains(error), "{}", answer.body);
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.world.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    async fn json(&self, path: &str) -> Value {
        self.world.get_json(path).await.json()
    }
}

fn samples() -> Vec<Event> {
    let event = |event_type: &str, payload: &str| Event {
        event_type: event_type.to_owned(),
        payload: payload.to_owned(),
    };
    vec![event(NOTIFICATIONS, BODY), event("user.course.started", COURSE)]
}

fn secret_of(byte: u8) -> String {
    Secret::from_random([byte; 24]).reveal().to_owned()
}

#[tokio::test]
async fn without_a_simulator_its_pages_say_so() {
    let world = World::start([], None, Vec::new()).await;
    for path in ["/learnink", "/learnink/testing", "/learnink/messages", "/learnink/messages/msg_1"] {
        let answer = world.get_json(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("not simulated"), "{path}");
    }
}

#[tokio::test]
async fn an_endpoint_is_added_changed_disabled_enabled_and_removed() {
    let rehearsal = Rehearsal::start([]).await;
    let form = "environment=production&url=http%3A%2F%2F127.0.0.1%3A9%2Fx&types=notifications.sent";
    let added = rehearsal.done("/learnink/endpoints", form).await;
    let id = added["endpoint"].as_str().unwrap();
    let endpoint = async || rehearsal.json("/learnink").await["endpoints"][0].clone();
    let before = endpoint().await;
    assert_eq!((&before["endpoint"], &before["environment"]), (&id.into(), &"production".into()));
    assert_eq!((&before["url"], &before["is_enabled"]), (&"http://127.0.0.1:9/x".into(), &true.into()));
    assert_eq!(before["event_types"], serde_json::json!(["notifications.sent"]));
    let path = |act: &str| format!("/learnink/endpoints/{id}/{act}");

    rehearsal.done(&path("change"), "url=http%3A%2F%2F127.0.0.1%3A9%2Fy&types=").await;
    rehearsal.done(&path("disable"), "").await;
    let changed = endpoint().await;
    assert_eq!((&changed["url"], &changed["is_enabled"]), (&"http://127.0.0.1:9/y".into(), &false.into()));
    assert_eq!(changed["disabled_because"], "somebody disabled it");
    assert_eq!(changed["event_types"], serde_json::json!([]));
    assert!(rehearsal.page("/learnink").await.contains("somebody disabled it"));
    rehearsal.done(&path("enable"), "").await;
    assert_eq!(endpoint().await["is_enabled"], true);
    rehearsal.done(&path("remove"), "").await;
    assert_eq!(endpoint().await, Value::Null);
    for act in ["enable", "disable", "remove", "reveal"] {
        rehearsal.refused(&path(act), "", 404, "there is no endpoint").await;
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_is_refused_with_the_reason() {
    let rehearsal = Rehearsal::start([]).await;
    let url = "url=http%3A%2F%2F127.0.0.1%3A9%2Fx";
    let odd_secret = "whsec_c2hvcnQ";
    for (form, status, error) in [
        ("url=ftp%3A%2F%2Fx", 400, "not the URL of an endpoint"),
        ("", 400, "not the URL of an endpoint"),
        (&format!("{url}&environment=test"), 400, "unknown environment `test`"),
        (&format!("{url}&types=order.paid"), 404, "the catalog has no type `order.paid`"),
        (&format!("{url}&secret={odd_secret}"), 400, "the signing secret is not"),
    ] {
        rehearsal.refused("/learnink/endpoints", form, status, error).await;
        assert!(!rehearsal.world.post("/learnink/endpoints", form).await.body.contains(odd_secret));
    }
    assert!(rehearsal.json("/learnink").await["endpoints"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_secret_is_shown_by_a_reveal_only_and_hidden_again() {
    let rehearsal = Rehearsal::start([]).await;
    let given = secret_of(7);
    let form = format!(
        "url=http%3A%2F%2F127.0.0.1%3A9%2Fx&secret={}",
        given.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
    );
    let added = rehearsal.done("/learnink/endpoints", &form).await;
    let path = format!("/learnink/endpoints/{}/", added["endpoint"].as_str().unwrap());
    let fingerprint = Secret::parse(&given).unwrap().fingerprint().to_string();
    assert!(rehearsal.page("/learnink").await.contains(&fingerprint));
    let revealed = rehearsal.done(&format!("{path}reveal"), "").await;
    assert_eq!(revealed["revealed"]["secrets"], serde_json::json!([given]));

    let rotated = rehearsal.done(&format!("{path}rotate"), "overlap=2m").await;
    assert!(rotated["done"].as_str().unwrap().contains("until 2026-01-01 01:02:00Z"), "{rotated}");
    assert!(!rotated.to_string().contains("whsec_"));
    let secrets = rehearsal.json("/learnink").await["endpoints"][0]["secrets"].clone();
    assert_eq!(secrets[1]["fingerprint"], fingerprint);
    assert_eq!(secrets[1]["until"], "2026-01-01T01:02:00Z");
    let revealed = rehearsal.world.post(&format!("{path}reveal"), "").await;
    assert_eq!(revealed.header("refresh"), Some("30; url=/learnink"));
    // The new one is the first.
    let new = revealed.body.split("whsec_").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(!given.contains(&new) && revealed.body.contains(&given));
    rehearsal.refused(&format!("{path}rotate"), "overlap=soon", 400, "not a duration").await;
    rehearsal.refused(&format!("{path}rotate"), "secret=x", 400, "the signing secret is not").await;
}

#[tokio::test]
async fn speed_and_faults_are_set_and_shown() {
    let rehearsal = Rehearsal::start([]).await;
    rehearsal.done("/learnink/speed", "speed=600").await;
    let page = rehearsal.page("/learnink").await;
    assert!(page.contains("600 times faster") && page.contains("SQS's own times stay real"), "{page}");
    rehearsal.refused("/learnink/speed", "speed=2", 400, "has no speed 2").await;
    rehearsal.refused("/learnink/speed", "speed=x", 400, "not a number").await;
    rehearsal.refused("/learnink/speed", "", 400, "say which speed").await;

    let fault = async || rehearsal.json("/learnink").await["fault"].clone();
    for (form, answer, next, share) in [
        ("answer=503&next=3", "503", Some(3), None),
        ("answer=500&share=0.5", "500", None, Some(0.5)),
        ("answer=429&next=1", "429 with Retry-After: 60", Some(1), None),
        ("answer=429&next=1&retry_after=5", "429 with Retry-After: 5", Some(1), None),
        ("answer=none&next=1", "no answer for 16 s", Some(1), None),
        ("answer=close&share=1", "connection closed", None, Some(1.0)),
    ] {
        rehearsal.done("/learnink/fault", form).await;
        let expected = serde_json::json!({ "answer": answer, "next": next, "share": share, "until": null });
        assert_eq!(fault().await, expected, "{form}");
        assert!(rehearsal.page("/learnink").await.contains(&format!("Injected: {answer}")));
    }
    rehearsal.done("/learnink/fault", "answer=ok").await;
    assert_eq!(fault().await, Value::Null);
    for (form, error) in [
        ("answer=404&next=1", "unknown answer `404`"),
        ("answer=503", "the `next` ones, or a `share`"),
        ("answer=503&next=1&share=1", "the `next` ones, or a `share`"),
        ("answer=503&next=0", "1 or more"),
        ("answer=503&share=2", "from 0 to 1"),
        ("answer=503&share=NaN", "from 0 to 1"),
        ("answer=503&next=-1", "not a number"),
    ] {
        rehearsal.refused("/learnink/fault", form, 400, error).await;
    }
}

#[tokio::test]
async fn a_scene_sends_its_events() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    for (scene, count) in [("phone", 20), ("reminder", 1), ("night", 5), ("flood", 2_000)] {
        let played = rehearsal.done("/learnink/scene", &format!("scene={scene}&environment=staging")).await;
        assert_eq!(played["count"], count, "{scene}");
    }
    let fault = rehearsal.json("/learnink").await["fault"].clone();
    assert_eq!((&fault["answer"], &fault["until"]), (&"503".into(), &"2026-01-01T09:00:00Z".into()));
    rehearsal.refused("/learnink/scene", "scene=storm", 400, "unknown scene `storm`").await;
}

#[tokio::test]
async fn the_numbers_of_an_endpoint_are_its_own() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    rehearsal.add(Environment::Production, 2);
    rehearsal.send(time(3600));
    rehearsal.answer(503);
    rehearsal.send(time(3600));
    rehearsal.answer(200);
    let endpoints = rehearsal.json("/learnink").await["endpoints"].clone();
    assert_eq!(endpoints[0]["counts"], serde_json::json!({ "pending": 1, "succeeded": 1 }));
    assert!(endpoints[0]["next_attempt"]["due_at"].is_string(), "{endpoints}");
    assert_eq!(endpoints[1]["counts"], serde_json::json!({}));
    assert_eq!(endpoints[1]["next_attempt"], Value::Null);
}

#[tokio::test]
async fn a_page_that_waits_for_learninks_side_holds_no_thread_of_the_runtime() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    let (held, holds) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let handle = rehearsal.handle.clone();
    let holder = std::thread::spawn(move || {
        handle.read(|_, _| {
            held.send(()).unwrap();
            released.recv_timeout(Duration::from_mins(1)).unwrap();
        });
    });
    holds.recv().unwrap();
    // The runtime of this test has one thread.
    let waiting = rehearsal.world.get("/learnink");
    let another = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(rehearsal.world.get("/keys").await.status, 200);
        release.send(()).unwrap();
    };
    let (waiting, ()) = tokio::join!(waiting, another);
    assert_eq!(waiting.status, 200);
    holder.join().unwrap();
}

#[tokio::test]
async fn an_example_can_be_changed_before_it_is_sent() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let list = rehearsal.json("/learnink/testing").await;
    assert_eq!(list["event_types"], serde_json::json!([NOTIFICATIONS, "user.course.started"]));
    let page = rehearsal.page("/learnink/testing?type=user.course.started").await;
    assert!(page.contains("<textarea") && page.contains("83dc4f73-0e56"), "{page}");

    let payload = async |form: &str| {
        let sent = rehearsal.done("/learnink/testing", form).await;
        let id = MessageId::parse(sent["message"].as_str().unwrap()).unwrap();
        assert_eq!(sent["endpoint"], endpoint.as_str());
        rehearsal.handle.read(|simulator, _| simulator.message(&id).unwrap().payload.clone())
    };
    assert_eq!(payload("type=user.course.started").await, COURSE);
    let fresh = payload("type=user.course.started&fresh=1").await;
    assert!(fresh.contains("2026-01-01T01:00:00Z"), "{fresh}");
    let typed = payload("type=user.course.started&payload=%7B%0D%0A%22a%22%3A1%7D").await;
    assert_eq!(typed, "{\n\"a\":1}");
    // A payload that is as large as a queue takes.
    let large = "x".repeat(1 << 20);
    assert_eq!(payload(&format!("type=user.course.started&payload={large}")).await, large);
    let larger = format!("type=user.course.started&payload={large}x");
    rehearsal.refused("/learnink/testing", &larger, 413, "1048577 bytes").await;

    rehearsal.refused("/learnink/testing", "type=order.paid", 404, "the catalog has no type").await;
    rehearsal.refused("/learnink/testing", "type=notifications.sent&endpoint=ep_x", 404, "no endpoint").await;
    rehearsal.add(Environment::Production, 2);
    rehearsal.refused("/learnink/testing", "type=notifications.sent", 400, "there are several").await;
    let disable = format!("/learnink/endpoints/{endpoint}/disable");
    rehearsal.done(&disable, "").await;
    let form = format!("type=notifications.sent&endpoint={endpoint}");
    rehearsal.refused("/learnink/testing", &form, 409, "is disabled").await;
}

#[tokio::test]
async fn attempted_messages_are_filtered_by_everything_in_the_url() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let hours = |hours: i64| time(3600 - hours * 3600);
    let failed = rehearsal.send(hours(48));
    rehearsal.answer(503);
    let done = rehearsal.send(hours(6));
    rehearsal.answer(200);
    let waiting = rehearsal.send(hours(1));
    let other = rehearsal.add(Environment::Production, 2);
    rehearsal.done("/learnink/testing", &format!("type=user.course.started&endpoint={other}")).await;
    let ids = async |query: &str| {
        let list = rehearsal.json(&format!("/learnink/messages?{query}")).await;
        let ids = list["messages"].as_array().unwrap().iter();
        ids.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await.len(), 4);
    assert_eq!(ids("environment=staging").await, [&*waiting, &done, &failed]);
    assert_eq!(ids("environment=production").await.len(), 1);
    assert_eq!(ids(&format!("endpoint={endpoint}")).await.len(), 3);
    assert_eq!(ids("type=user.course.started").await.len(), 1);
    assert_eq!(ids("status=succeeded").await, [&*done]);
    assert_eq!(ids(&format!("status=pending&endpoint={endpoint}")).await, [&*waiting, &failed]);
    assert_eq!(ids("environment=staging&date=5-hours-ago").await, [&*waiting]);
    assert_eq!(ids("environment=staging&date=yesterday").await, [&*waiting, &done]);
    assert_eq!(ids("environment=staging&date=last-week").await.len(), 3);
    assert_eq!(ids("environment=staging&date=last-month").await.len(), 3);
    assert_eq!(ids("until=2025-12-31T12:00").await, [&*failed]);
    assert_eq!(ids("since=2025-12-31T12:00&until=2025-12-31T20:00").await, [&*done]);
    for (query, error) in [
        ("environment=test", "unknown environment `test`"),
        ("status=odd", "unknown status `odd`: use one of sending, "),
        ("date=soon", "unknown date `soon`"),
        ("since=soon", "is not a time"),
        ("date=yesterday&since=2026-01-01", "use one of them"),
        ("before=x", "not a cursor"),
    ] {
        let answer = rehearsal.world.get_json(&format!("/learnink/messages?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error"].as_str().unwrap().contains(error), "{}", answer.body);
    }
    let page = rehearsal.page("/learnink/messages?status=pending&environment=staging").await;
    assert!(page.contains(&waiting) && !page.contains(&done), "{page}");
    assert!(page.contains("<option value=\"pending\" selected>"));
}

#[tokio::test]
async fn a_long_list_has_pages() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    rehearsal.done("/learnink/scene", "scene=flood").await;
    let first = rehearsal.json("/learnink/messages").await;
    assert_eq!(first["messages"].as_array().unwrap().len(), 100);
    let before = first["before"].as_u64().unwrap();
    let second = rehearsal.json(&format!("/learnink/messages?before={before}")).await;
    assert_eq!(
        (second["messages"].as_array().unwrap().len(), &second["before"]),
        (100, &(before - 100).into())
    );
    assert_eq!(rehearsal.json(&format!("/learnink/messages?before={}", 101)).await["before"], Value::Null);
}

#[tokio::test]
async fn a_message_shows_each_attempt_with_both_times() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    rehearsal.done("/learnink/speed", "speed=60").await;
    rehearsal.done("/learnink/fault", "answer=503&next=1").await;
    let id = rehearsal.send(now());
    rehearsal.handle.change(|simulator, now, _| {
        let attempt = simulator.start_attempt(now).unwrap();
        assert_eq!(simulator.take_fault(&id, 0.5, now), Some(Fault::Unavailable));
        let headers = [("content-type", "text/plain"), ("set-cookie", "token=abc")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let outcome = Outcome::Answered { status: 503, headers };
        simulator.finish_attempt(&attempt.key, outcome, 0.5, now);
    });
    let path = format!("/learnink/messages/{id}");
    let json = rehearsal.json(&path).await;
    let at = &json["attempts"]["destinations"][0];
    assert_eq!((&at["status"], &at["endpoint"]), (&"pending".into(), &endpoint.as_str().into()));
    let attempt = &at["attempts"][0];
    assert_eq!((&attempt["number"], &attempt["trigger"]), (&1.into(), &"scheduled".into()));
    assert_eq!((&attempt["status"], &attempt["injected"]), (&503.into(), &"503".into()));
    assert_eq!(attempt["signed_with"][0], Secret::from_random([1; 24]).fingerprint().to_string());
    let headers = serde_json::json!([
        { "name": "content-type", "value": "text/plain" }, { "name": "set-cookie", "value": null },
    ]);
    assert_eq!(attempt["headers"], headers);
    let next = &at["next_attempt"];
    assert_eq!(
        (&next["due_at"], &next["simulated_at"]),
        (&"2026-01-01T01:00:00.083333333Z".into(), &"2026-01-01T01:00:05Z".into())
    );
    let page = rehearsal.page(&path).await;
    for text in ["attempt 1 (scheduled)", "answered <strong>503", "injected: 503", "in LearnInk", "01:00:05"]
    {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    let revealed = rehearsal.world.post(&format!("{path}/reveal"), "").await;
    assert!(
        revealed.body.contains("+254705408079") && revealed.body.contains("token=abc"),
        "{}",
        revealed.body
    );
    assert_eq!(revealed.header("refresh"), Some(format!("30; url={path}").as_str()));
    assert_eq!(rehearsal.world.get_json("/learnink/messages/msg_9").await.status, 404);
    assert_eq!(rehearsal.world.get_json("/learnink/messages/a%20b").await.status, 400);
}

#[tokio::test]
async fn messages_are_resent_recovered_replayed_and_attempted_now() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let [first, second] = [3_000, 3_300].map(|at| rehearsal.send(time(at)));
    rehearsal.answer(503);
    let path = |id: &str, act: &str| format!("/learnink/messages/{id}/{act}");

    rehearsal.done(&path(&first, "now"), "").await;
    rehearsal.answer(503);
    rehearsal.done(&path(&first, "resend"), &format!("endpoint={endpoint}")).await;
    assert_eq!(rehearsal.status(&first), Status::Sending);
    rehearsal.answer(503);
    let json = rehearsal.json(&format!("/learnink/messages/{first}")).await;
    let triggers = json["attempts"]["destinations"][0]["attempts"].as_array().unwrap().iter();
    let triggers: Vec<_> = triggers.map(|attempt| attempt["trigger"].as_str().unwrap()).collect();
    assert_eq!(triggers, ["scheduled", "scheduled", "manual"]);

    assert_eq!(rehearsal.done(&path(&second, "replay"), "").await["count"], 1);
    assert_eq!(rehearsal.done(&path(&first, "replay"), "").await["count"], 2);
    rehearsal.answer(503);
    let recover = format!("/learnink/endpoints/{endpoint}/recover");
    assert_eq!(rehearsal.done(&recover, "since=2026-01-01T00:50:00Z").await["count"], 2);
    assert_eq!(
        rehearsal.done(&recover, "since=2026-01-01T00:50:00Z&until=2026-01-01T00:52:00Z").await["count"],
        1
    );
    rehearsal.answer(200);
    assert_eq!(rehearsal.status(&second), Status::Succeeded);
    assert_eq!(rehearsal.done(&recover, "since=2026-01-01").await["count"], 0);

    rehearsal.refused(&path(&second, "now"), "", 409, "does not wait for an attempt").await;
    rehearsal.refused(&path("msg_9", "resend"), "", 404, "there is no message").await;
    rehearsal.refused(&path(&second, "replay"), "endpoint=ep_x", 404, "was not sent to").await;
    rehearsal.refused(&recover, "since=2025-01-01", 400, "more than 14 days ago").await;
    rehearsal.refused(&recover, "", 400, "say since when").await;
    rehearsal.refused(&recover, "since=soon", 400, "is not a time").await;
    rehearsal.done(&format!("/learnink/endpoints/{endpoint}/disable"), "").await;
    for (act, form) in [("resend", ""), ("replay", "")] {
        rehearsal.refused(&path(&second, act), form, 409, "is disabled").await;
    }
    rehearsal.refused(&recover, "since=2026-01-01", 409, "is disabled").await;
}

#[tokio::test]
async fn a_resend_of_a_success_says_it_is_a_duplicate_or_opens_a_replay_window_first() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    let id = rehearsal.send(now());
    let path = format!("/learnink/messages/{id}");
    assert!(!rehearsal.page(&path).await.contains("counts a resend as a duplicate"));
    rehearsal.answer(200);
    let page = rehearsal.page(&path).await;
    assert!(page.contains("counts a resend as a duplicate") && page.contains("run the handlers again"));

    let resend = format!("{path}/resend");
    let done = rehearsal.done(&resend, "").await;
    assert!(done["done"].as_str().unwrap().contains("counts as a duplicate"), "{done}");
    assert!(rehearsal.world.ran().is_empty());
    rehearsal.answer(200);

    let done = rehearsal.done(&resend, "again=1&reason=its+grant+was+lost").await;
    let command = format!("replay open --message={id} --reason=its grant was lost --by=zoe");
    assert_eq!(rehearsal.world.ran(), [command]);
    assert!(done["ran"]["command"].as_str().unwrap().starts_with("cargo learnink replay open"));
    assert_eq!(rehearsal.status(&id), Status::Sending);
    rehearsal.answer(200);

    rehearsal.world.desk.exit_code.store(1, Ordering::Relaxed);
    rehearsal.refused(&resend, "again=1", 502, "nothing was resent").await;
    assert!(rehearsal.world.ran()[1].contains("--reason=resent, to run the handlers again"));
    assert_eq!(rehearsal.status(&id), Status::Succeeded);
    // No window is opened for what cannot be resent.
    rehearsal.refused("/learnink/messages/msg_9/resend", "again=1", 404, "there is no message").await;
    assert_eq!(rehearsal.world.ran().len(), 2);
}

#[tokio::test]
async fn the_timeline_of_a_message_starts_with_learninks_attempt() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    let id = rehearsal.send(now());
    let early = rehearsal.world.get_json(&format!("/messages/{id}")).await;
    assert_eq!(early.status, 404);
    assert!(early.json()["error"].as_str().unwrap().contains(&format!("/learnink/messages/{id} shows")));
    rehearsal.answer(200);
    // At the same time, by the clock of this test.
    rehearsal.world.opened.recorder.record(request(3600, &id, 200));
    assert!(rehearsal.world.opened.recorder.flush(std::time::Duration::from_mins(1)));
    let page = rehearsal.page(&format!("/messages/{id}")).await;
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not in {page}"));
    assert!(at("<strong>LearnInk</strong>: attempt 1") < at("<strong>Attempt</strong>"));
    assert!(page.contains(&format!("action=\"/learnink/messages/{id}/resend\"")));
    let json = rehearsal.json(&format!("/messages/{id}")).await;
    assert_eq!(json["learnink"]["destinations"][0]["status"], "succeeded");
    let page = rehearsal.page(&format!("/learnink/messages/{id}")).await;
    assert!(page.contains(&format!("href=\"/messages/{id}\"")), "{page}");
}

#[tokio::test]
async fn nothing_personal_and_no_secret_is_shown_without_a_reveal() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let mut answers: Vec<Answer> = Vec::new();
    let id = rehearsal.send(now());
    rehearsal.answer_with(503, &[("x-learner", "Mary")]);
    rehearsal.world.opened.recorder.record(request(3600, &id, 200));
    assert!(rehearsal.world.opened.recorder.flush(std::time::Duration::from_mins(1)));
    let message = format!("/learnink/messages/{id}");
    let example = format!("type=user.course.started&endpoint={endpoint}");
    let endpoint = format!("/learnink/endpoints/{endpoint}");
    for (path, form) in [
        ("/learnink/endpoints", "url=http%3A%2F%2F127.0.0.1%3A9%2Fx"),
        ("/learnink/testing", &example),
        ("/learnink/speed", "speed=60"),
        ("/learnink/fault", "answer=503&next=3"),
        ("/learnink/scene", "scene=reminder"),
        (&format!("{message}/resend"), ""),
        (&format!("{message}/now"), ""),
        (&format!("{message}/replay"), ""),
        (&format!("{endpoint}/recover"), "since=2026-01-01"),
        (&format!("{endpoint}/rotate"), ""),
        (&format!("{endpoint}/change"), "url=http%3A%2F%2F127.0.0.1%3A9%2Fx"),
        (&format!("{endpoint}/disable"), ""),
        (&format!("{endpoint}/enable"), ""),
        (&format!("{endpoint}/rotate"), "secret=whsec_short"),
    ] {
        answers.push(rehearsal.world.post(path, form).await);
        answers.push(rehearsal.world.post_json(path, form).await);
    }
    for path in ["/learnink", "/learnink/messages", "/learnink/testing", &message, &format!("/messages/{id}")]
    {
        let page = rehearsal.world.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        answers.push(page);
        answers.push(rehearsal.world.get_json(path).await);
    }
    answers.push(rehearsal.world.post(&format!("{endpoint}/remove"), "").await);
    let own = secret_of(1);
    for answer in answers {
        for text in PERSONAL.into_iter().chain([own.as_str(), own.trim_start_matches("whsec_")]) {
            assert!(!answer.body.contains(text), "{text}: {}", answer.body);
        }
        // A field may show how a secret starts.
        assert_eq!(
            answer.body.replace("\"whsec_...\"", "").matches("whsec_").count(),
            answer.body.matches("`whsec_` and").count()
        );
    }
    assert!(COURSE.contains(PERSONAL[0]));
}

#[tokio::test]
async fn no_act_is_for_another_page_or_without_the_key() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let world = &rehearsal.world;
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 0\r\n";
    let disable = format!("/learnink/endpoints/{endpoint}/disable");
    let reveal = format!("/learnink/endpoints/{endpoint}/reveal");
    for path in [&disable, &reveal, "/learnink/speed", "/learnink/testing", "/learnink/messages/msg_1/resend"]
    {
        let line = format!("POST {path}");
        for (headers, status) in [
            (form.to_owned(), 403),
            (format!("{}{form}", world.cookie()), 403),
            (format!("{}sec-fetch-site: same-site\r\n{form}", world.cookie()), 403),
            (format!("sec-fetch-site: same-origin\r\n{form}"), 401),
            (format!("authorization: Bearer 00\r\n{form}"), 401),
        ] {
            let answer = world.send(&line, &headers, "").await;
            assert_eq!(answer.status, status, "{line} {headers}");
            assert!(!answer.body.contains("whsec_"));
        }
    }
    assert_eq!(world.send("GET /learnink", "", "").await.status, 401);
    assert!(rehearsal.handle.read(|simulator, _| simulator.endpoints()[0].is_enabled()));
}

#[tokio::test]
async fn a_change_of_learninks_side_wakes_an_open_page() {
    let (rehearsal, _) = Rehearsal::with_endpoint().await;
    let world = &rehearsal.world;
    let mut stream = BufReader::new(world.connect("GET /live", &world.cookie(), "").await);
    next_event(&mut stream).await;
    rehearsal.send(now());
    let start = std::time::Instant::now();
    next_event(&mut stream).await;
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[tokio::test]
async fn pages_of_learninks_side_say_what_screen_readers_need() {
    let (rehearsal, endpoint) = Rehearsal::with_endpoint().await;
    let id = rehearsal.send(now());
    rehearsal.answer(503);
    let message = format!("/learnink/messages/{id}");
    for path in
        ["/learnink", "/learnink/testing?type=notifications.sent", "/learnink/messages", message.as_str()]
    {
        let page = rehearsal.page(path).await;
        for part in ["<title>", "<main id=\"main\"", "<nav aria-label=\"Pages\"", "<h1>", "href=\"#main\""] {
            assert_eq!(page.matches(part).count(), 1, "{part} in {path}");
        }
        for blocked in [" style=", " onclick=", "javascript:"] {
            assert!(!page.contains(blocked), "{blocked} in {path}");
        }
        assert_eq!(page.matches("<th ").count(), page.matches("scope=").count(), "{path}");
        let fields = ["<select", "<input", "<textarea"].map(|field| page.matches(field).count());
        let hidden = page.matches("type=\"hidden\"").count();
        assert_eq!(page.matches("<label").count(), fields.iter().sum::<usize>() - hidden, "{path}");
    }
    assert!(rehearsal.page("/learnink").await.contains(endpoint.as_str()));
}
