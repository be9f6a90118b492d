use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fault::Extent;
use crate::message::{Attempt, MOST_KEPT_ATTEMPTS, Schedule, Trigger};
use crate::schedule::{JITTER, SHORTEST_AFTER_OVERLOAD, TIME_LIMIT, WAITS};
use crate::secret::OVERLAP;

/// A simulator with one endpoint in staging, and a clock.
struct World {
    simulator: Simulator,
    endpoint: EndpointId,
    random: fastrand::Rng,
    now: Timestamp,
}

fn secret(byte: u8) -> Secret {
    Secret::from_random([byte; 24])
}

fn url() -> EndpointUrl {
    EndpointUrl::parse("http://127.0.0.1:9000/webhooks/learnink").unwrap()
}

fn event(event_type: &str) -> Event {
    Event { event_type: event_type.to_owned(), payload: r#"{"type":"t"}"#.to_owned() }
}

fn status(status: u16) -> Outcome {
    Outcome::Answered { status, headers: Vec::new() }
}

fn speed(factor: u32) -> Speed {
    Speed::try_from(factor).unwrap()
}

impl World {
    fn new() -> Self {
        let mut simulator = Simulator::default();
        let mut random = fastrand::Rng::with_seed(1);
        let now = "2026-11-23T14:20:00Z".parse().unwrap();
        let endpoint = simulator.add_endpoint(Environment::Staging, url(), secret(1), now, &mut random);
        Self { simulator, endpoint, random, now }
    }

    fn send(&mut self) -> MessageId {
        self.simulator.send(Environment::Staging, event("t"), self.now, &mut self.random)
    }

    /// Starts what is due at the next time at which something is.
    fn start(&mut self) -> AttemptKey {
        self.now = self.now.max(self.simulator.next_due_at().expect("an attempt is due"));
        self.simulator.start_attempt(self.now).unwrap().key
    }

    /// Makes the next attempt, which ends at once.
    fn attempt(&mut self, outcome: &Outcome) -> AttemptKey {
        let key = self.start();
        self.simulator.finish_attempt(&key, outcome.clone(), 0.5, self.now);
        key
    }

    fn resend(&mut self, message: &MessageId) {
        self.simulator.resend(message, &self.endpoint, self.now).unwrap();
    }

    fn destination(&self, message: &MessageId) -> &Destination {
        self.simulator.message(message).unwrap().destination(&self.endpoint).unwrap()
    }

    fn attempts(&self, message: &MessageId) -> &[Attempt] {
        &self.destination(message).attempts
    }

    fn status(&self, message: &MessageId) -> Status {
        self.destination(message).status()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn a_message_is_attempted_by_the_schedule_of_the_guide_and_then_failed() {
    let mut world = World::new();
    let message = world.send();
    let (mut ended_at, mut waits) = (world.now, Vec::new());
    for _ in 0..=WAITS.len() {
        assert_eq!(world.status(&message), Status::Pending);
        let key = world.start();
        waits.push(world.now.duration_since(ended_at).as_secs());
        assert_eq!(world.status(&message), Status::Sending);
        // Each wait begins when the previous attempt has failed.
        world.pass(Duration::from_secs(2));
        ended_at = world.now;
        world.simulator.finish_attempt(&key, status(503), 0.5, world.now);
    }
    assert_eq!(waits, [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]);
    assert_eq!(world.status(&message), Status::Failed);
    assert_eq!(world.simulator.next_due_at(), None);
    let attempts = world.attempts(&message);
    assert!(attempts.iter().all(|attempt| attempt.trigger == Trigger::Scheduled));
    assert!(attempts.iter().all(|attempt| attempt.finished.as_ref().unwrap().took.as_secs() == 2));
}

#[test]
fn only_200_is_a_success() {
    for (outcome, expected) in [
        (status(200), Status::Succeeded),
        (status(204), Status::Pending),
        (status(302), Status::Pending),
        (status(401), Status::Pending),
        (Outcome::TimedOut, Status::Pending),
        (Outcome::NotConnected, Status::Pending),
    ] {
        let mut world = World::new();
        let message = world.send();
        world.attempt(&outcome);
        assert_eq!(world.status(&message), expected, "{outcome:?}");
    }
}

#[test]
fn the_speed_divides_waits_and_not_attempts() {
    let mut world = World::new();
    world.simulator.set_speed(speed(600), world.now);
    let message = world.send();
    let sent_at = world.now;
    for _ in 0..3 {
        let key = world.start();
        world.pass(TIME_LIMIT);
        world.simulator.finish_attempt(&key, status(503), 0.5, world.now);
    }
    // Three attempts of 15 s, and waits of 5 s and 5 min.
    let real = |attempt: &Attempt| attempt.started_at.duration_since(sent_at).as_millis();
    let simulated = |attempt: &Attempt| attempt.simulated_at.duration_since(sent_at).as_millis();
    assert_eq!(world.attempts(&message).iter().map(real).collect::<Vec<_>>(), [0, 15_008, 30_508]);
    assert_eq!(world.attempts(&message).iter().map(simulated).collect::<Vec<_>>(), [0, 20_000, 335_000]);
    let next = world.destination(&message).next_attempt().unwrap();
    assert_eq!(next.due_at.duration_since(world.now), SignedDuration::from_secs(3));
    assert_eq!(next.simulated_at.duration_since(sent_at), SignedDuration::from_secs(350 + 30 * 60));
}

#[test]
fn a_change_of_the_speed_is_for_the_rest_of_a_wait() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    world.attempt(&status(503));
    let before = world.destination(&message).next_attempt().unwrap();
    world.pass(Duration::from_mins(2));
    world.simulator.set_speed(speed(60), world.now);
    let next = world.destination(&message).next_attempt().unwrap();
    assert_eq!(next.due_at.duration_since(world.now), SignedDuration::from_secs(3));
    assert_eq!(next.simulated_at, before.simulated_at);
    world.pass(Duration::from_secs(1));
    world.simulator.set_speed(Speed::REAL, world.now);
    let next = world.destination(&message).next_attempt().unwrap();
    assert_eq!(next.due_at.duration_since(world.now), SignedDuration::from_mins(2));
    assert_eq!(next.simulated_at, before.simulated_at);
    assert_eq!(world.simulator.next_due_at(), Some(next.due_at));
}

#[test]
fn an_attempt_is_signed_at_the_real_time_with_every_secret_that_is_valid() {
    let mut world = World::new();
    world.simulator.set_speed(speed(3600), world.now);
    world.simulator.rotate(&world.endpoint, secret(2), OVERLAP, world.now).unwrap();
    world.send();
    let request = world.simulator.start_attempt(world.now).unwrap();
    assert_eq!(request.signed_at_s, world.now.as_second());
    assert_eq!(request.signature.split(' ').count(), 2);
    let message = request.key.message;
    let signed_with = [2, 1].map(|byte| secret(byte).fingerprint());
    assert_eq!(world.attempts(&message)[0].signed_with, signed_with);
    world.pass(Duration::from_hours(24));
    world.send();
    assert_eq!(world.simulator.start_attempt(world.now).unwrap().signature.split(' ').count(), 1);
}

#[test]
fn a_disabled_endpoint_stops_at_once() {
    let mut world = World::new();
    let (waiting, under_way) = (world.send(), world.send());
    world.attempt(&status(503));
    let key = world.start();
    world.simulator.disable(&world.endpoint).unwrap();
    assert_eq!(world.simulator.next_due_at(), None);
    assert_eq!(world.status(&waiting), Status::Stopped);
    assert_eq!(world.status(&under_way), Status::Sending);
    world.simulator.finish_attempt(&key, status(503), 0.5, world.now);
    assert_eq!(world.destination(&under_way).schedule, Schedule::Stopped(StopReason::Disabled));
    let none = world.send();
    assert!(world.simulator.message(&none).unwrap().destinations.is_empty());
    let refused = world.simulator.resend(&waiting, &world.endpoint, world.now);
    assert_eq!(refused, Err(RequestError::Disabled(world.endpoint.clone())));

    world.simulator.enable(&world.endpoint).unwrap();
    assert_eq!(world.simulator.next_due_at(), None);
    world.resend(&waiting);
    world.attempt(&status(200));
    assert_eq!(world.status(&waiting), Status::Succeeded);
}

#[test]
fn a_removed_endpoint_stops_at_once_and_its_messages_stay() {
    let mut world = World::new();
    let message = world.send();
    let key = world.start();
    world.simulator.remove_endpoint(&world.endpoint).unwrap();
    world.simulator.finish_attempt(&key, status(503), 0.5, world.now);
    assert_eq!(world.destination(&message).schedule, Schedule::Stopped(StopReason::Removed));
    assert_eq!(world.simulator.next_due_at(), None);
    assert!(world.simulator.endpoints().is_empty());
}

#[test]
fn five_days_of_failures_only_disable_an_endpoint() {
    let mut world = World::new();
    let state = |world: &World| world.simulator.endpoint(&world.endpoint).unwrap().state;
    world.send();
    world.attempt(&status(503));
    world.pass(Duration::from_hours(4 * 24));
    world.attempt(&status(200));
    // A success starts the five days again.
    world.send();
    world.attempt(&status(503));
    world.pass(Duration::from_hours(4 * 24));
    world.attempt(&status(503));
    assert_eq!(state(&world), EndpointState::Enabled);
    // The rest of them, sixty times as fast.
    world.simulator.set_speed(speed(60), world.now);
    world.pass(Duration::from_mins(24));
    let last = world.attempt(&status(503));
    assert_eq!(state(&world), EndpointState::DisabledByFailures);
    assert_eq!(world.status(&last.message), Status::Stopped);
    world.simulator.enable(&world.endpoint).unwrap();
    world.send();
    world.attempt(&status(503));
    assert_eq!(state(&world), EndpointState::Enabled);
}

#[test]
fn a_message_is_for_the_enabled_endpoints_of_its_environment_that_take_its_type() {
    let mut world = World::new();
    let (simulator, random) = (&mut world.simulator, &mut world.random);
    let mut add = |environment| simulator.add_endpoint(environment, url(), secret(2), world.now, random);
    let (course, production) = (add(Environment::Staging), add(Environment::Production));
    simulator.subscribe(&course, ["course".to_owned()].into()).unwrap();
    let mut sent = |environment, event_type: &str| {
        let id = simulator.send(environment, event(event_type), world.now, random);
        let destinations = simulator.message(&id).unwrap().destinations.iter();
        destinations.map(|destination| destination.endpoint.clone()).collect::<Vec<_>>()
    };
    assert_eq!(sent(Environment::Staging, "t"), std::slice::from_ref(&world.endpoint));
    assert_eq!(sent(Environment::Staging, "course"), [world.endpoint.clone(), course.clone()]);
    assert_eq!(sent(Environment::Production, "t"), std::slice::from_ref(&production));
    let example = simulator.send_example(&course, event("t"), world.now, random).unwrap();
    assert_eq!(simulator.message(&example).unwrap().destinations.len(), 1);
}

#[test]
fn a_manual_attempt_that_fails_is_not_retried_and_leaves_the_schedule_alone() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    let next = world.destination(&message).next_attempt();
    world.resend(&message);
    world.resend(&message);
    world.attempt(&status(503));
    let triggers = |world: &World| world.attempts(&message).iter().map(|one| one.trigger).collect::<Vec<_>>();
    assert_eq!(triggers(&world), [Trigger::Scheduled, Trigger::Manual]);
    assert_eq!(world.destination(&message).next_attempt(), next);
    for _ in WAITS {
        world.attempt(&status(503));
    }
    assert_eq!(world.status(&message), Status::Failed);
    world.resend(&message);
    world.attempt(&status(503));
    assert_eq!((world.status(&message), world.simulator.next_due_at()), (Status::Failed, None));
}

#[test]
fn a_manual_attempt_that_succeeds_ends_the_schedule() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    world.resend(&message);
    world.attempt(&status(200));
    assert_eq!((world.status(&message), world.simulator.next_due_at()), (Status::Succeeded, None));
    // A resend of something done: its failure does not take the success back.
    world.resend(&message);
    world.attempt(&status(503));
    assert_eq!((world.status(&message), world.simulator.next_due_at()), (Status::Succeeded, None));
}

#[test]
fn a_wait_can_be_ended_and_has_passed_in_simulated_time() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    world.attempt(&status(503));
    let next = world.destination(&message).next_attempt().unwrap();
    let now = world.now;
    world.simulator.attempt_now(&message, &world.endpoint, now).unwrap();
    world.attempt(&status(200));
    let attempt = &world.attempts(&message)[2];
    assert_eq!((attempt.started_at, attempt.simulated_at), (now, next.simulated_at));
    assert_eq!(attempt.trigger, Trigger::Scheduled);
    let refused = world.simulator.attempt_now(&message, &world.endpoint, now);
    assert_eq!(refused, Err(RequestError::NotWaiting(message)));
}

#[test]
fn recovery_is_for_each_message_of_the_window_with_a_failure_and_no_success() {
    let mut world = World::new();
    // Sends a message that is attempted with these outcomes. All are sent before the first retry is due.
    let mut sent = |outcomes: &[u16]| {
        world.pass(Duration::from_millis(500));
        let message = world.send();
        for (index, outcome) in outcomes.iter().enumerate() {
            if index > 0 {
                world.resend(&message);
            }
            world.attempt(&status(*outcome));
        }
        message
    };
    let sent = [&[503][..], &[503], &[503, 200], &[503, 429], &[503], &[]].map(&mut sent);
    let [_, since, succeeded, until, _, _] = &sent;
    let created_at = |message: &MessageId| world.simulator.message(message).unwrap().created_at;
    let attempted_again = |simulator: &Simulator| {
        let is_wanted =
            |id: &MessageId| simulator.message(id).unwrap().destinations[0].manual_due_at.is_some();
        (0..sent.len()).filter(|index| is_wanted(&sent[*index])).collect::<Vec<_>>()
    };

    let mut simulator = restored(&world.simulator, world.now);
    let window = (created_at(since), Some(created_at(until)));
    assert_eq!(simulator.recover(&world.endpoint, window.0, window.1, world.now), Ok(2));
    assert_eq!(attempted_again(&simulator), [1, 3]);

    let mut simulator = restored(&world.simulator, world.now);
    assert_eq!(simulator.replay_failed_since(succeeded, &world.endpoint, world.now), Ok(2));
    assert_eq!(attempted_again(&simulator), [3, 4]);

    let long_ago = world.now - Duration::from_hours(14 * 24 + 1);
    let refused = simulator.recover(&world.endpoint, long_ago, None, world.now);
    assert_eq!(refused, Err(RequestError::TooLongAgo));
}

#[test]
fn what_was_stopped_is_recovered_after_a_failed_attempt_only() {
    let mut world = World::new();
    let attempted = world.send();
    world.attempt(&status(503));
    let not_attempted = world.send();
    world.simulator.disable(&world.endpoint).unwrap();
    world.simulator.enable(&world.endpoint).unwrap();
    assert_eq!([&attempted, &not_attempted].map(|message| world.status(message)), [Status::Stopped; 2]);
    let since = world.now - Duration::from_hours(1);
    assert_eq!(world.simulator.recover(&world.endpoint, since, None, world.now), Ok(1));
    assert_eq!(world.attempt(&status(200)).message, attempted);
    world.resend(&not_attempted);
    assert_eq!(world.attempt(&status(200)).message, not_attempted);
}

#[test]
fn faults_count_down_and_mark_the_attempt() {
    let mut world = World::new();
    let now = world.now;
    let rule = FaultRule { fault: Fault::Unavailable, extent: Extent::Next(2), until: None };
    world.simulator.set_fault(Some(rule));
    let message = world.send();
    let key = world.start();
    assert_eq!(world.simulator.take_fault(message.as_str(), 0.0, now), Some(Fault::Unavailable));
    world.simulator.finish_attempt(&key, status(503), 0.5, now);
    assert_eq!(world.attempts(&message)[0].injected, Some(Fault::Unavailable));
    // A request of another program counts too.
    assert_eq!(world.simulator.take_fault("msg_other", 0.0, now), Some(Fault::Unavailable));
    assert_eq!(world.simulator.take_fault("msg_other", 0.0, now), None);
    assert_eq!(world.simulator.settings().fault, None);
}

#[test]
fn a_share_of_the_requests_fails_until_the_fault_ends() {
    let mut world = World::new();
    let now = world.now;
    let until = Some(now + Duration::from_hours(1));
    world.simulator.set_fault(Some(FaultRule { fault: Fault::NoAnswer, extent: Extent::Share(0.3), until }));
    assert_eq!(world.simulator.take_fault("", 0.29, now), Some(Fault::NoAnswer));
    assert_eq!(world.simulator.take_fault("", 0.3, now), None);
    world.simulator.set_speed(speed(60), now);
    assert!(world.simulator.take_fault("", 0.0, now + Duration::from_secs(59)).is_some());
    assert_eq!(world.simulator.take_fault("", 0.0, now + Duration::from_mins(1)), None);
    assert_eq!(world.simulator.settings().fault, None);
}

#[test]
fn the_list_is_filtered_and_comes_in_pages() {
    let mut world = World::new();
    let sent: Vec<_> = (0..5)
        .map(|index| {
            world.pass(Duration::from_hours(1));
            let environment = if index == 4 { Environment::Production } else { Environment::Staging };
            let event = event(if index % 2 == 0 { "even" } else { "odd" });
            world.simulator.send(environment, event, world.now, &mut world.random)
        })
        .collect();
    world.attempt(&status(200));
    let list = |filter: MessageFilter| {
        let page = world.simulator.messages(&filter, 2);
        let position = |message: &&Message| sent.iter().position(|id| *id == message.id).unwrap();
        (page.messages.iter().map(position).collect::<Vec<_>>(), page.has_older)
    };
    let all = MessageFilter::default;
    assert_eq!(list(all()), (vec![4, 3], true));
    let number = world.simulator.message(&sent[3]).unwrap().number;
    assert_eq!(list(MessageFilter { older_than: Some(number), ..all() }), (vec![2, 1], true));
    assert_eq!(list(MessageFilter { environment: Some(Environment::Production), ..all() }), (vec![4], false));
    assert_eq!(list(MessageFilter { event_type: Some("odd".to_owned()), ..all() }), (vec![3, 1], false));
    assert_eq!(list(MessageFilter { status: Some(Status::Succeeded), ..all() }), (vec![0], false));
    let here = Some(world.endpoint.clone());
    let pending = MessageFilter { endpoint: here, status: Some(Status::Pending), ..all() };
    assert_eq!(list(pending), (vec![3, 2], true));
    let at = |index: usize| Some(world.simulator.message(&sent[index]).unwrap().created_at);
    assert_eq!(list(MessageFilter { since: at(1), until: at(3), ..all() }), (vec![2, 1], false));
    let counts = world.simulator.counts(&world.endpoint);
    assert_eq!(counts, [(Status::Pending, 3), (Status::Succeeded, 1)].into());
}

#[test]
fn the_oldest_of_too_many_messages_is_dropped_with_what_is_due() {
    let mut world = World::new();
    let first = world.send();
    let key = world.start();
    for _ in 0..MOST_MESSAGES {
        world.send();
    }
    assert_eq!(world.simulator.message(&first), Err(RequestError::NoMessage(first.clone())));
    world.simulator.finish_attempt(&key, status(503), 0.5, world.now);
    let changes = world.simulator.take_changes();
    assert_eq!(changes.dropped_messages, [first].into());
    assert_eq!(changes.messages.len(), MOST_MESSAGES);
    world.pass(Duration::from_hours(7 * 24 + 1));
    world.simulator.drop_old_messages(world.now);
    assert_eq!(world.simulator.take_changes().dropped_messages.len(), MOST_MESSAGES);
    assert_eq!(world.simulator.next_due_at(), None);
}

#[test]
fn the_oldest_of_too_many_bytes_is_dropped_and_the_newest_is_kept() {
    let mut world = World::new();
    let send = |world: &mut World, bytes: usize| {
        let event = Event { event_type: "t".to_owned(), payload: "x".repeat(bytes) };
        world.simulator.send(Environment::Staging, event, world.now, &mut world.random)
    };
    let first = send(&mut world, MOST_BYTES / 2);
    let second = send(&mut world, MOST_BYTES / 2);
    assert!(world.simulator.take_changes().dropped_messages.is_empty());
    // The headers of an answer count too.
    world.attempt(&Outcome::Answered { status: 200, headers: vec![("x".to_owned(), "x".repeat(100))] });
    world.simulator.drop_old_messages(world.now);
    assert_eq!(world.simulator.take_changes().dropped_messages, [first].into());
    let third = send(&mut world, MOST_BYTES + 1);
    assert_eq!(world.simulator.take_changes().dropped_messages, [second].into());
    world.pass(Duration::from_hours(7 * 24 + 1));
    world.simulator.drop_old_messages(world.now);
    assert_eq!(world.simulator.take_changes().dropped_messages, [third].into());
    assert_eq!(world.simulator.bytes, 0);
}

#[test]
fn of_too_many_attempts_the_oldest_manual_one_is_dropped() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    let next = world.destination(&message).next_attempt();
    for _ in 1..MOST_KEPT_ATTEMPTS + 2 {
        world.resend(&message);
        world.attempt(&status(503));
    }
    assert_eq!(world.attempts(&message).len(), MOST_KEPT_ATTEMPTS);
    let numbers = world.attempts(&message).iter().map(|attempt| attempt.number);
    assert_eq!(numbers.take(3).collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!(world.destination(&message).next_attempt(), next);
}

#[test]
fn what_has_changed_is_said_once() {
    let mut world = World::new();
    let changes = world.simulator.take_changes();
    assert_eq!(changes.endpoints, [world.endpoint.clone()].into());
    let message = world.send();
    assert_eq!(world.simulator.take_changes().messages, [message.clone()].into());
    assert!(world.simulator.take_changes().is_empty());
    world.start();
    assert_eq!(world.simulator.take_changes().messages, [message].into());
    world.simulator.set_fault(None);
    assert!(world.simulator.take_changes().settings);
    world.simulator.remove_endpoint(&world.endpoint).unwrap();
    assert_eq!(world.simulator.take_changes().removed_endpoints, [world.endpoint].into());
}

/// The simulator as a store writes and reads it.
fn restored(simulator: &Simulator, now: Timestamp) -> Simulator {
    fn copy<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }
    let messages = simulator.messages.values().map(copy).collect::<Vec<_>>();
    Simulator::restore(copy(&simulator.settings), copy(&simulator.endpoints), messages, now)
}

#[test]
fn what_is_stored_comes_back_and_what_was_under_way_is_attempted_again() {
    let mut world = World::new();
    world.simulator.set_speed(speed(60), world.now);
    world.simulator.rotate(&world.endpoint, secret(2), OVERLAP, world.now).unwrap();
    let rule = FaultRule {
        fault: Fault::TooManyRequests { retry_after_s: 5 },
        extent: Extent::Next(3),
        until: None,
    };
    world.simulator.set_fault(Some(rule));
    let (done, waiting, under_way) = (world.send(), world.send(), world.send());
    world.attempt(&status(200));
    world.attempt(&Outcome::Answered {
        status: 429,
        headers: vec![("retry-after".to_owned(), "5".to_owned())],
    });
    world.resend(&done);

    let mut copy = restored(&world.simulator, world.now);
    assert_eq!(copy.endpoints, world.simulator.endpoints);
    assert_eq!(copy.messages, world.simulator.messages);
    assert_eq!((copy.due.clone(), copy.settings), (world.simulator.due.clone(), world.simulator.settings));
    assert!(copy.take_changes().is_empty());

    let (manual, scheduled) = (world.start(), world.start());
    assert_eq!((&scheduled.message, &manual.message), (&under_way, &done));
    let mut copy = restored(&world.simulator, world.now);
    let again = [copy.start_attempt(world.now), copy.start_attempt(world.now)].map(|one| one.unwrap().key);
    assert_eq!(again, [manual, scheduled]);
    assert_eq!(copy.message(&waiting), world.simulator.message(&waiting));
    let attempts = &copy.message(&done).unwrap().destinations[0].attempts;
    assert_eq!(
        attempts.iter().map(|one| one.trigger).collect::<Vec<_>>(),
        [Trigger::Scheduled, Trigger::Manual]
    );
}

#[test]
fn what_is_put_back_is_not_attempted_at_an_endpoint_that_stopped_meanwhile() {
    let mut world = World::new();
    let message = world.send();
    world.attempt(&status(503));
    world.resend(&message);
    world.start();
    world.simulator.disable(&world.endpoint).unwrap();
    world.simulator.put_back_attempts(world.now);
    assert_eq!((world.status(&message), world.simulator.next_due_at()), (Status::Stopped, None));
}

#[test]
fn an_attempt_changes_its_endpoint_only_when_failures_begin_or_end() {
    let mut world = World::new();
    let message = world.send();
    world.simulator.take_changes();
    let mut is_changed = |outcome| {
        world.resend(&message);
        world.attempt(&status(outcome));
        !world.simulator.take_changes().endpoints.is_empty()
    };
    assert_eq!([503, 503, 200, 200].map(&mut is_changed), [true, false, true, false]);
}

#[test]
fn neither_payload_nor_secret_nor_signature_is_shown_by_debug() {
    let mut world = World::new();
    let event = Event { event_type: "t".to_owned(), payload: "+254705408079".to_owned() };
    let shown = format!("{event:?}");
    world.simulator.send(Environment::Staging, event, world.now, &mut world.random);
    let request = world.simulator.start_attempt(world.now);
    let shown = format!("{shown} {request:?} {:?}", world.simulator);
    for hidden in ["+254705408079", "whsec_", "v1,"] {
        assert!(!shown.contains(hidden), "{hidden}");
    }
}

/// What may happen to a message.
#[derive(Debug, Clone)]
enum Step {
    Finish(Outcome),
    Resend,
    Recover,
    AttemptNow,
    Speed(u32),
    Disable,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        8 => prop_oneof![Just(503_u16), Just(429)].prop_map(status),
        2 => Just(Outcome::TimedOut),
        1 => Just(status(200)),
    ];
    let step = prop_oneof![
        12 => outcome.prop_map(Step::Finish),
        1 => Just(Step::Resend),
        1 => Just(Step::Recover),
        1 => Just(Step::AttemptNow),
        1 => prop_oneof![Just(1_u32), Just(60), Just(600), Just(3600)].prop_map(Step::Speed),
        1 => Just(Step::Restart),
    ];
    let rarely = prop_oneof![60 => step, 1 => Just(Step::Disable)];
    proptest::collection::vec(rarely, 0..60)
}

proptest! {
    #[test]
    fn whatever_happens_the_schedule_keeps_its_promises(steps in steps(), random in 0.0..1.0) {
        let mut world = World::new();
        let message = world.send();
        let mut has_succeeded = false;
        for step in steps {
            match step {
                Step::Finish(outcome) => {
                    let Some(due_at) = world.simulator.next_due_at() else { continue };
                    world.now = world.now.max(due_at);
                    let key = world.simulator.start_attempt(world.now).unwrap().key;
                    let trigger = world.attempts(&message).last().unwrap().trigger;
                    prop_assert!(!has_succeeded || trigger == Trigger::Manual);
                    has_succeeded |= outcome.is_success();
                    world.simulator.finish_attempt(&key, outcome, random, world.now);
                }
                // They may be refused.
                Step::Resend => drop(world.simulator.resend(&message, &world.endpoint, world.now)),
                Step::Recover => {
                    drop(world.simulator.recover(&world.endpoint, Timestamp::UNIX_EPOCH.max(world.now), None, world.now));
                }
                Step::AttemptNow => drop(world.simulator.attempt_now(&message, &world.endpoint, world.now)),
                Step::Speed(factor) => world.simulator.set_speed(speed(factor), world.now),
                Step::Disable => {
                    world.simulator.disable(&world.endpoint).unwrap();
                    prop_assert_eq!(world.simulator.next_due_at(), None);
                }
                Step::Restart => world.simulator = restored(&world.simulator, world.now),
            }
            let destination = world.destination(&message);
            let dues: Vec<_> = world.simulator.due.iter().map(|(due_at, ..)| *due_at).collect();
            prop_assert_eq!(dues, destination.due_at().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(world.simulator.bytes, world.simulator.message(&message).unwrap().bytes());
            let scheduled = destination.attempts.iter().filter(|one| one.trigger == Trigger::Scheduled).count();
            prop_assert!(scheduled <= WAITS.len() + 1);
            prop_assert_eq!(has_succeeded, destination.schedule == Schedule::Succeeded);
            let times = |time: fn(&Attempt) -> Timestamp| destination.attempts.iter().map(time).is_sorted();
            prop_assert!(times(|one| one.started_at) && times(|one| one.simulated_at));
            if let Some(next) = destination.next_attempt() {
                let longest = WAITS[6].mul_f64(2.0 * (1.0 + JITTER)).max(SHORTEST_AFTER_OVERLOAD);
                let wait = next.due_at.duration_since(world.now);
                prop_assert!(wait <= SignedDuration::try_from(longest).unwrap());
            }
        }
    }
}
