use learnink_simulator::{
    Driver, EndpointUrl, Environment, Event, MessageFilter, Outcome, Schedule, Secret, Speed, Status,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::history::tests::{BODY, history, now, time};
use crate::history::{self, Entry, Opened};

/// A simulator whose driver does not run, and its store.
struct Stored {
    handle: Handle,
    stop: oneshot::Sender<()>,
    store: JoinHandle<()>,
    recorder: Recorder,
}

impl Stored {
    fn start(simulator: Simulator, opened: &Opened) -> Self {
        let handle = handle(simulator);
        let (stop, stopped) = oneshot::channel();
        let recorder = opened.recorder.clone();
        let store = tokio::spawn(store(handle.clone(), recorder.clone(), async { drop(stopped.await) }));
        Self { handle, stop, store, recorder }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.store.await.unwrap();
        assert!(self.recorder.flush(Duration::from_mins(1)));
    }
}

/// A handle to a simulator whose attempts nobody makes.
pub(crate) fn handle(simulator: Simulator) -> Handle {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Driver::new(simulator, now, fastrand::Rng::with_seed(1)).unwrap().1
}

fn event() -> Event {
    Event { event_type: "notifications.sent".to_owned(), payload: BODY.to_owned() }
}

fn url() -> EndpointUrl {
    EndpointUrl::parse("http://127.0.0.1:9/webhooks/learnink").unwrap()
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (folder, opened) = history([]);
    let stored = Stored::start(restore(&opened.history, now()).unwrap().0, &opened);
    let (endpoint, removed, message) = stored.handle.change(|simulator, now, random| {
        simulator.set_speed(Speed::try_from(60).unwrap(), now);
        let mut add = |byte| {
            simulator.add_endpoint(Environment::Staging, url(), Secret::from_random([byte; 24]), now, random)
        };
        let [endpoint, removed] = [1, 2].map(&mut add);
        let message = simulator.send(Environment::Staging, event(), now, random);
        (endpoint, removed, message)
    });
    tokio::task::yield_now().await;
    stored.handle.change(|simulator, now, _| {
        let request = simulator.start_attempt(now).unwrap();
        let outcome = Outcome::Answered { status: 503, headers: Vec::new() };
        simulator.finish_attempt(&request.key, outcome, 0.5, now);
        simulator.remove_endpoint(&removed).unwrap();
        simulator
            .rotate(&endpoint, Secret::from_random([3; 24]), jiff::SignedDuration::from_hours(1), now)
            .unwrap();
    });
    let before = stored.handle.read(|simulator, _| {
        (simulator.endpoints().to_vec(), simulator.message(&message).unwrap().clone(), *simulator.settings())
    });
    stored.stop().await;
    drop(opened);

    let opened = history::open(folder.path(), now).unwrap();
    let (simulator, left_out) = restore(&opened.history, now()).unwrap();
    assert_eq!(left_out, None);
    let after =
        (simulator.endpoints().to_vec(), simulator.message(&message).unwrap().clone(), *simulator.settings());
    assert_eq!(after, before);
    let destination = after.1.destination(&endpoint).unwrap();
    assert!(matches!(destination.schedule, Schedule::Waiting(_)));
    assert_eq!(destination.status(), Status::Pending);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_removed_from_the_file() {
    let (_folder, opened) = history([]);
    let stored = Stored::start(Simulator::default(), &opened);
    stored.handle.change(|simulator, _, random| {
        // Longer ago than a message is kept.
        simulator.send(Environment::Staging, event(), time(-8 * 24 * 3600), random);
        simulator.send(Environment::Staging, event(), time(0), random);
    });
    stored.handle.change(|simulator, now, _| simulator.drop_old_messages(now));
    stored.stop().await;
    assert_eq!(opened.history.documents(MESSAGE).unwrap().len(), 1);
    let (simulator, _) = restore(&opened.history, now()).unwrap();
    assert_eq!(simulator.messages(&MessageFilter::default(), 10).messages.len(), 1);
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_left_out_and_counted() {
    let (_folder, opened) = history([]);
    let stored = Stored::start(Simulator::default(), &opened);
    stored.handle.change(|simulator, now, random| {
        simulator.add_endpoint(Environment::Staging, url(), Secret::from_random([1; 24]), now, random);
    });
    stored.stop().await;
    for kind in [ENDPOINT, MESSAGE, SETTINGS] {
        assert!(opened.recorder.document(kind, "odd", r#"{"id":"odd"}"#.to_owned()));
    }
    assert!(opened.recorder.flush(Duration::from_mins(1)));
    let (simulator, left_out) = restore(&opened.history, now()).unwrap();
    assert_eq!((simulator.endpoints().len(), left_out), (1, Some(LeftOut { documents: 3 })));
    let text = left_out.unwrap().to_string();
    assert_eq!(
        text,
        "3 of the stored endpoints and messages of LearnInk's side cannot be read and are left out"
    );
}

#[tokio::test]
async fn a_full_history_gets_the_change_later() {
    let (folder, opened) = history([]);
    // Another program holds the file for a while, and the writer waits for it.
    let holder = rusqlite::Connection::open(folder.path().join("history.sqlite")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let call = history::tests::call(0, "msg_1", history::QueueName::Messages, history::Call::Sent);
    let fill = || (0..20_000).for_each(|_| opened.recorder.record(Entry::clone(&call)));
    fill();
    assert!(opened.recorder.dropped() > 0);
    let stored = Stored::start(Simulator::default(), &opened);
    stored.handle.change(|simulator, now, random| {
        simulator.add_endpoint(Environment::Staging, url(), Secret::from_random([1; 24]), now, random);
    });
    tokio::task::yield_now().await;
    holder.execute_batch("ROLLBACK").unwrap();
    stored.stop().await;
    assert_eq!(restore(&opened.history, now()).unwrap().0.endpoints().len(), 1);
}
