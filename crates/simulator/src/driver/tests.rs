use std::collections::VecDeque;
use std::future;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use jiff::SignedDuration;
use learnink_webhook::MessageId;
use svix::webhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::{Barrier, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::endpoint::{EndpointId, EndpointUrl, Environment};
use crate::event::Event;
use crate::fault::{Extent, FaultRule};
use crate::message::{Destination, Status};
use crate::schedule::Speed;
use crate::secret::{OVERLAP, Secret};
use crate::simulator::Settings;

const BODY: &str = r#"{"type":"t","data":{"name":"Zoë"}}"#;

#[expect(clippy::disallowed_methods, reason = "these tests take real time")]
fn clock() -> Timestamp {
    Timestamp::now()
}

fn secret(byte: u8) -> Secret {
    Secret::from_random([byte; 24])
}

/// A driver that runs, an hour a second, with one endpoint.
struct Running {
    handle: Handle,
    endpoint: EndpointId,
    stop: oneshot::Sender<()>,
    driver: JoinHandle<()>,
}

impl Running {
    fn start(url: &str) -> Self {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let random = fastrand::Rng::with_seed(1);
        let (driver, handle) = Driver::new(Simulator::default(), clock, random).unwrap();
        let url = EndpointUrl::parse(url).unwrap();
        let endpoint = handle.change(|simulator, now, random| {
            simulator.set_speed(Speed::try_from(3600).unwrap(), now);
            simulator.add_endpoint(Environment::Staging, url, secret(1), now, random)
        });
        let (stop, stopped) = oneshot::channel();
        let driver = tokio::spawn(driver.run(async { drop(stopped.await) }));
        Self { handle, endpoint, stop, driver }
    }

    fn send(&self) -> MessageId {
        let event = Event { event_type: "t".to_owned(), payload: BODY.to_owned() };
        self.handle.change(|simulator, now, random| simulator.send(Environment::Staging, event, now, random))
    }

    fn destination(&self, message: &MessageId) -> Destination {
        let destination = |simulator: &Simulator, _| {
            simulator.message(message).unwrap().destination(&self.endpoint).unwrap().clone()
        };
        self.handle.read(destination)
    }

    /// Waits until a message has changed so that `is_done` holds.
    async fn until(&self, message: &MessageId, is_done: impl Fn(&Destination) -> bool) -> Destination {
        let mut changed = self.handle.follow();
        let found = async {
            loop {
                let destination = self.destination(message);
                if is_done(&destination) {
                    return destination;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_mins(1), found).await.expect("it changes in time")
    }

    async fn until_status(&self, message: &MessageId, status: Status) -> Destination {
        self.until(message, |destination| destination.status() == status).await
    }

    async fn stop(self) -> Handle {
        self.stop.send(()).unwrap();
        self.driver.await.unwrap();
        self.handle
    }
}

/// A server on this machine, and its URL.
async fn serve<F>(answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static) -> String
where
    F: Future<Output = Response> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks/learnink", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    url
}

/// A server that gives these answers in turn, and what it was sent.
async fn answering(answers: Vec<Response>) -> (String, Arc<Mutex<Vec<(HeaderMap, Vec<u8>)>>>) {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&requests);
    let url = serve(move |request: Request| {
        let (answers, received) = (Arc::clone(&answers), Arc::clone(&received));
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            received.lock().unwrap().push((head.headers, body.to_vec()));
            answers.lock().unwrap().pop_front().unwrap()
        }
    });
    (url.await, requests)
}

fn answer(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap().into_response()
}

fn statuses(destination: &Destination) -> Vec<Option<u16>> {
    let status = |outcome: &Outcome| match outcome {
        Outcome::Answered { status, .. } => Some(*status),
        Outcome::TimedOut | Outcome::NotConnected | Outcome::ConnectionBroken => None,
    };
    destination.attempts.iter().map(|attempt| status(&attempt.finished.as_ref().unwrap().outcome)).collect()
}

#[tokio::test]
async fn a_message_is_attempted_until_it_is_answered_200_and_svix_accepts_each_signature() {
    let busy = (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "400")]).into_response();
    let elsewhere = (StatusCode::FOUND, [("location", "/elsewhere")]).into_response();
    let (url, requests) = answering(vec![answer(503), busy, elsewhere, answer(200)]).await;
    let running = Running::start(&url);
    running
        .handle
        .change(|simulator, now, _| simulator.rotate(&running.endpoint, secret(2), OVERLAP, now))
        .unwrap();
    let message = running.send();

    let destination = running.until_status(&message, Status::Succeeded).await;
    assert_eq!(statuses(&destination), [503, 429, 302, 200].map(Some));
    let outcome = |index: usize| &destination.attempts[index].finished.as_ref().unwrap().outcome;
    assert_eq!(outcome(1).header("retry-after"), Some("400"));
    // It asked for more than 300 s, and the wait took less than a second.
    let [busy, later] = [&destination.attempts[1], &destination.attempts[2]];
    assert!(later.simulated_at.duration_since(busy.simulated_at) >= SignedDuration::from_secs(400 - 1));
    assert!(later.started_at.duration_since(busy.started_at) < SignedDuration::from_secs(5));

    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 4);
    for (headers, body) in &*requests {
        assert_eq!(headers["svix-id"], message.as_str());
        assert_eq!(body, BODY.as_bytes());
        assert_eq!(headers["content-type"], "application/json");
        for byte in [1, 2] {
            // Also within five minutes of the real time.
            Webhook::new(secret(byte).reveal()).unwrap().verify(body, headers).unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_that_fails_is_a_failed_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closes = tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        // Closed after the request, which would otherwise not be sent.
        connection.readable().await.unwrap();
    });
    let running = Running::start(&format!("http://{address}/"));
    let message = running.send();
    let ended = |destination: &Destination| {
        destination.attempts.iter().filter(|attempt| attempt.finished.is_some()).count() >= 2
    };
    let destination = running.until(&message, ended).await;
    let outcomes: Vec<_> =
        destination.attempts.iter().filter_map(|one| Some(&one.finished.as_ref()?.outcome)).collect();
    assert_eq!(outcomes[..2], [&Outcome::ConnectionBroken, &Outcome::NotConnected]);
    closes.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_does_not_answer_times_out() {
    let running = Running::start(&serve(|_| future::pending()).await);
    let message = running.send();
    let has_ended = |destination: &Destination| {
        destination.attempts.first().is_some_and(|attempt| attempt.finished.is_some())
    };
    let started = tokio::time::Instant::now();
    let destination = running.until(&message, has_ended).await;
    assert_eq!(started.elapsed().as_secs(), TIME_LIMIT.as_secs());
    assert_eq!(destination.attempts[0].finished.as_ref().unwrap().outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn at_most_16_attempts_are_under_way_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // None is answered before there are sixteen.
    let all = Arc::new(Barrier::new(MOST_AT_ONCE));
    let highest = Arc::clone(&most);
    let url = serve(move |_| {
        let (now, most, all) = (Arc::clone(&now), Arc::clone(&highest), Arc::clone(&all));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            all.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            answer(200)
        }
    });
    let running = Running::start(&url.await);
    let messages: Vec<_> = (0..3 * MOST_AT_ONCE).map(|_| running.send()).collect();
    for message in &messages {
        running.until_status(message, Status::Succeeded).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), MOST_AT_ONCE);
}

#[tokio::test]
async fn a_stopped_driver_leaves_nothing_under_way() {
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let url = serve(move |_| {
        asks.notify_one();
        future::pending()
    });
    let running = Running::start(&url.await);
    let message = running.send();
    asked.notified().await;
    assert_eq!(running.destination(&message).status(), Status::Sending);
    let handle = running.stop().await;
    handle.read(|simulator, now| {
        let message = simulator.message(&message).unwrap();
        assert!(message.destinations[0].attempts.is_empty());
        assert!(simulator.next_due_at().unwrap() <= now);
    });
}

#[tokio::test]
async fn who_takes_the_changes_is_not_notified_of_that() {
    let running = Running::start("http://127.0.0.1:1/");
    let handle = running.stop().await;
    let mut changed = handle.follow();
    handle.change(|simulator, _, _| simulator.set_fault(None));
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert!(handle.change(|simulator, _, _| simulator.take_changes()).settings);
    assert!(!changed.has_changed().unwrap());
}

#[tokio::test]
async fn a_request_gets_its_fault_while_somebody_reads_or_changes_the_simulator() {
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let url = serve(move |_| {
        asks.notify_one();
        future::pending()
    });
    let running = Running::start(&url.await);
    let rule = FaultRule { fault: Fault::Unavailable, extent: Extent::Next(3), until: None };
    let fault = |_: &Simulator, _| running.handle.take_fault("msg_other");
    assert_eq!(running.handle.read(fault), None);
    running.handle.change(|simulator, _, _| simulator.set_fault(Some(rule)));
    let message = running.send();
    asked.notified().await;

    let settings = |simulator: &Simulator, _| *simulator.settings();
    let mut changed = running.handle.follow();
    running.handle.read(|_, _| {
        assert_eq!(running.handle.take_fault(message.as_str()), Some(Fault::Unavailable));
    });
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert_eq!(running.destination(&message).attempts[0].injected, Some(Fault::Unavailable));
    running.handle.change(|simulator, now, _| {
        assert_eq!(running.handle.take_fault("msg_other"), Some(Fault::Unavailable));
        simulator.set_speed(Speed::REAL, now);
    });
    let left = FaultRule { extent: Extent::Next(1), ..rule };
    assert_eq!(running.handle.read(settings).fault, Some(left));
    // Another fault is not counted by a request that met the previous one.
    running.handle.change(|simulator, _, _| {
        assert_eq!(running.handle.take_fault("msg_other"), Some(Fault::Unavailable));
        simulator.set_fault(Some(left));
    });
    assert_eq!(running.handle.read(settings).fault, Some(left));
    assert_eq!(running.handle.take_fault("msg_other"), Some(Fault::Unavailable));
    assert_eq!(running.handle.take_fault("msg_other"), None);
    assert_eq!(running.handle.read(settings).fault, None);
}

#[tokio::test]
async fn a_fault_that_was_stored_is_still_there_after_a_restart() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let rule = FaultRule { fault: Fault::NoAnswer, extent: Extent::Next(2), until: None };
    let settings = Settings { fault: Some(rule), ..Settings::default() };
    let simulator = Simulator::restore(settings, Vec::new(), Vec::new(), clock());
    let (_driver, handle) = Driver::new(simulator, clock, fastrand::Rng::with_seed(1)).unwrap();
    assert_eq!(handle.read(|simulator, _| simulator.settings().fault), Some(rule));
    assert_eq!([(); 3].map(|()| handle.take_fault("")), [Some(rule.fault), Some(rule.fault), None]);
}
