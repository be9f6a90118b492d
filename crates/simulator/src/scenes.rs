//! Scenes: events as they come in a situation that LearnInk's customers meet.

use std::time::Duration;

use jiff::Timestamp;

use crate::event::{Event, Learner, with_notifications};
use crate::fault::{Extent, Fault, FaultRule};
use crate::schedule::Speed;

/// The type of the events that LearnInk itself sends, and not a learner's phone.
pub const NOTIFICATIONS: &str = "notifications.sent";

/// How many events the phone has kept.
const EVENTS_OF_A_PHONE: usize = 20;

/// How long the phone was offline.
const OFFLINE_FOR: Duration = Duration::from_hours(3 * 24);

/// How many learners get the reminder.
const REMINDED_LEARNERS: usize = 500;

/// How many events come at once.
const FLOOD: usize = 2_000;

/// How long the receiver is down, by the clock of the waits.
const NIGHT: Duration = Duration::from_hours(8);

/// How many events come while the receiver is down.
const EVENTS_OF_A_NIGHT: usize = 5;

/// *A phone comes online*: 20 events of one learner, who was offline for three days until `now`. They come out of
/// order. `notifications.sent` is left out, because phones do not send it. Without another sample there is nothing.
pub fn phone_comes_online(samples: &[Event], now: Timestamp, random: &mut fastrand::Rng) -> Vec<Event> {
    let learner = Learner::fresh(random);
    let samples = samples.iter().filter(|sample| sample.event_type != NOTIFICATIONS).cycle();
    let step = OFFLINE_FOR / u32::try_from(EVENTS_OF_A_PHONE).unwrap_or(1);
    let mut at = now.checked_sub(OFFLINE_FOR).unwrap_or(Timestamp::MIN);
    let event = |sample: &Event| {
        let event = sample.freshened(at, &mut || learner.clone());
        at = at.checked_add(step).unwrap_or(now);
        event
    };
    let mut events: Vec<_> = samples.take(EVENTS_OF_A_PHONE).map(event).collect();
    random.shuffle(&mut events);
    events
}

/// *Reminder to 500 learners*: one `notifications.sent` with a notification for each. `None` if `sample` has no
/// notification to copy.
pub fn reminder(sample: &Event, now: Timestamp, random: &mut fastrand::Rng) -> Option<Event> {
    let payload = with_notifications(&sample.payload, REMINDED_LEARNERS)?;
    let event = Event { event_type: sample.event_type.clone(), payload };
    Some(event.freshened(now, &mut || Learner::fresh(random)))
}

/// *Flood*: 2,000 events of as many learners at once. Without samples there is nothing.
pub fn flood(samples: &[Event], now: Timestamp, random: &mut fastrand::Rng) -> Vec<Event> {
    fresh(samples, FLOOD, now, random)
}

/// *Down for the night*: the fault, which ends after eight hours, and a few events that meet it. By the schedule
/// they succeed at the sixth or seventh attempt.
pub fn down_for_the_night(
    samples: &[Event],
    speed: Speed,
    now: Timestamp,
    random: &mut fastrand::Rng,
) -> (FaultRule, Vec<Event>) {
    let until = now.checked_add(speed.real(NIGHT)).unwrap_or(Timestamp::MAX);
    let rule = FaultRule { fault: Fault::Unavailable, extent: Extent::Share(1.0), until: Some(until) };
    (rule, fresh(samples, EVENTS_OF_A_NIGHT, now, random))
}

fn fresh(samples: &[Event], count: usize, now: Timestamp, random: &mut fastrand::Rng) -> Vec<Event> {
    let samples = samples.iter().cycle().take(count);
    samples.map(|sample| sample.freshened(now, &mut || Learner::fresh(random))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::schedule::WAITS;

    const COURSE: &str = include_str!("../../../events/user.course.started.json");
    const NOTIFICATION: &str = include_str!("../../../events/notifications.sent.json");

    fn now() -> Timestamp {
        "2026-11-23T14:20:00Z".parse().unwrap()
    }

    fn samples() -> Vec<Event> {
        let event = |event_type: &str, payload: &str| Event {
            event_type: event_type.to_owned(),
            payload: payload.to_owned(),
        };
        vec![event("user.course.started", COURSE), event("notifications.sent", NOTIFICATION)]
    }

    fn json(event: &Event) -> Value {
        serde_json::from_str(&event.payload).unwrap()
    }

    #[test]
    fn a_phone_sends_three_days_of_one_learner_out_of_order() {
        let events = phone_comes_online(&samples(), now(), &mut fastrand::Rng::with_seed(1));
        assert_eq!(events.len(), 20);
        assert!(events.iter().all(|event| event.event_type == "user.course.started"));
        let learners: BTreeSet<_> =
            events.iter().map(|event| json(event)["data"]["user_id"].to_string()).collect();
        assert_eq!(learners.len(), 1);
        let times: Vec<Timestamp> =
            events.iter().map(|event| json(event)["timestamp"].as_str().unwrap().parse().unwrap()).collect();
        assert!(!times.is_sorted());
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert_eq!(now().duration_since(*first).as_hours(), 72);
        assert!(*last < now());
    }

    #[test]
    fn a_reminder_is_one_event_for_500_learners() {
        let mut random = fastrand::Rng::with_seed(1);
        let [course, notifications] = &samples()[..] else { panic!("there are two samples") };
        let event = json(&reminder(notifications, now(), &mut random).unwrap());
        let notifications = event["data"]["notifications"].as_array().unwrap();
        let learners: BTreeSet<_> = notifications.iter().map(|one| one["user_id"].to_string()).collect();
        assert_eq!((notifications.len(), learners.len()), (500, 500));
        assert_eq!(notifications[499]["title"], "Hi Mary!");
        assert_eq!(reminder(course, now(), &mut random), None);
    }

    #[test]
    fn a_flood_is_2_000_learners() {
        let events = flood(&samples()[..1], now(), &mut fastrand::Rng::with_seed(1));
        let learners: BTreeSet<_> =
            events.iter().map(|event| json(event)["data"]["user_id"].to_string()).collect();
        assert_eq!(learners.len(), 2_000);
    }

    #[test]
    fn a_night_ends_before_the_attempts_do() {
        let speed = Speed::try_from(3600).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let (rule, events) = down_for_the_night(&samples(), speed, now(), &mut random);
        assert_eq!((rule.extent, events.len()), (Extent::Share(1.0), 5));
        assert_eq!(rule.until.unwrap().duration_since(now()).as_secs(), 8);
        let before: std::time::Duration = WAITS[..6].iter().sum();
        assert!(before.as_secs() > 8 * 3600);
    }
}
