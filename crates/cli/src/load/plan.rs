//! What is sent, and when: decided before the first request.

#![expect(clippy::cast_precision_loss, reason = "a run has far fewer webhooks than a float counts exactly")]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use learnink_webhook::MessageId;
use serde::Serialize;
use serde_json::{Value, json};

/// How long ago a late event happened. LearnInk delivers some of them days later.
const LATE: SignedDuration = SignedDuration::from_hours(72);

/// How many notifications a list has.
pub(super) const ITEMS: usize = 3;

/// From how many of the webhooks before it a duplicate is chosen.
const LOOK_BACK: usize = 500;

/// How the rate changes over the time. All but the ramp send `rate` times the duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// The same rate all the time
    Constant,
    /// From zero to the rate, evenly
    Ramp,
    /// Four steps: a quarter, half, three quarters and all of the rate
    Step,
    /// Half the rate, and five and a half times the rate in each tenth second
    Burst,
}

/// A time with one rate at its start and another at its end; in between, the rate changes evenly.
#[derive(Debug, Clone, Copy)]
struct Segment {
    seconds: f64,
    first: f64,
    last: f64,
}

impl Shape {
    fn segments(self, rate: f64, duration: Duration) -> Vec<Segment> {
        let all = duration.as_secs_f64();
        let steady = |seconds: f64, share: f64| Segment { seconds, first: rate * share, last: rate * share };
        match self {
            Self::Constant => vec![steady(all, 1.0)],
            Self::Ramp => vec![Segment { seconds: all, first: 0.0, last: rate }],
            Self::Step => [0.25, 0.5, 0.75, 1.0].map(|share| steady(all / 4.0, share)).to_vec(),
            Self::Burst => {
                let mut segments = Vec::new();
                let mut left = all;
                while left > 0.0 {
                    segments.push(steady(left.min(9.0), 0.5));
                    left -= 9.0;
                    if left > 0.0 {
                        segments.push(steady(left.min(1.0), 5.5));
                        left -= 1.0;
                    }
                }
                segments
            }
        }
    }

    /// When each webhook is due, after the start: at a rate in webhooks per second, for a duration, `most` at most.
    pub(super) fn times(self, rate: f64, duration: Duration, most: usize) -> Vec<Duration> {
        let (mut times, mut start, mut passed) = (Vec::new(), 0.0, 0.0);
        for Segment { seconds, first, last } in self.segments(rate, duration) {
            let slope = (last - first) / seconds;
            let until = passed + f64::midpoint(first, last) * seconds;
            // Only so many are due before this segment.
            while (times.len() as f64) < until && times.len() < most {
                let number = (times.len() as f64 - passed).max(0.0);
                // The root of `first * x + slope * x * x / 2 = number` that does not divide by the slope.
                let root = (first * first + 2.0 * slope * number).max(0.0).sqrt();
                let after = if number > 0.0 { 2.0 * number / (first + root) } else { 0.0 };
                times.push(Duration::from_secs_f64(start + after.min(seconds)));
            }
            passed = until;
            start += seconds;
        }
        times
    }
}

/// What a webhook is, and so what has to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A learner starts a course.
    Event,
    /// The same, three days ago.
    Late,
    /// A list of notifications.
    List,
    /// One of those before, again: with its id, and signed anew.
    Duplicate,
    /// Changed after it was signed: it must be refused.
    Tampered,
    /// Signed, and nothing that a handler can read: it must become a dead letter.
    Poison,
}

/// The shares of what is not an ordinary event, in per cent. Together at most 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Shares {
    pub(super) duplicates: u8,
    pub(super) late: u8,
    pub(super) lists: u8,
    pub(super) tampered: u8,
    pub(super) poison: u8,
}

impl Shares {
    /// Whether they are a part of the whole.
    pub(super) fn fit(self) -> bool {
        let all = [self.duplicates, self.late, self.lists, self.tampered, self.poison];
        all.into_iter().map(u16::from).sum::<u16>() <= 100
    }

    /// The kind for a number from 0 to 99.
    fn kind(self, number: u8) -> Kind {
        let mut below = 0;
        for (share, kind) in [
            (self.duplicates, Kind::Duplicate),
            (self.late, Kind::Late),
            (self.lists, Kind::List),
            (self.tampered, Kind::Tampered),
            (self.poison, Kind::Poison),
        ] {
            below += share;
            if number < below {
                return kind;
            }
        }
        Kind::Event
    }
}

/// A webhook to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    /// When it is due, after the start.
    pub(super) at: Duration,
    pub(super) kind: Kind,
    /// Which webhook it is. A duplicate has the number of the one that it repeats.
    pub(super) number: usize,
}

/// Everything that is sent, in the order in which it is due.
pub(super) fn plan(times: Vec<Duration>, shares: Shares, random: &mut fastrand::Rng) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::with_capacity(times.len());
    for (number, at) in times.into_iter().enumerate() {
        let mut planned = Planned { at, kind: shares.kind(random.u8(0..100)), number };
        if planned.kind == Kind::Duplicate {
            let earlier = plan.iter().rev().take(LOOK_BACK);
            let earlier: Vec<_> = earlier.filter(|one| is_done_once(one.kind)).collect();
            match random.choice(earlier) {
                Some(repeated) => planned.number = repeated.number,
                None => planned.kind = Kind::Event,
            }
        }
        plan.push(planned);
    }
    plan
}

/// Whether a webhook of this kind is handled, and no duplicate.
pub(super) const fn is_done_once(kind: Kind) -> bool {
    matches!(kind, Kind::Event | Kind::Late | Kind::List)
}

/// The ids of one run, which no other run has.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    run: String,
}

impl Ids {
    /// Of the run with this name: letters and digits.
    pub(super) fn of(run: &str) -> Self {
        Self { run: run.to_owned() }
    }

    /// The message id of a webhook.
    pub(super) fn message(&self, number: usize) -> MessageId {
        let id = format!("msg_load_{}_{number}", self.run);
        // Letters, digits and `_` are usable.
        MessageId::parse(&id).unwrap_or_else(|error| unreachable!("{id}: {error}"))
    }

    /// The learner of a webhook.
    pub(super) fn learner(&self, number: usize) -> String {
        format!("load-{}-{number}", self.run)
    }

    /// The learner of a notification of a list.
    pub(super) fn item(&self, number: usize, item: usize) -> String {
        format!("{}-{item}", self.learner(number))
    }

    /// The body of a webhook that is not a duplicate.
    pub(super) fn body(&self, kind: Kind, number: usize, now: Timestamp) -> Vec<u8> {
        let happened_at = if kind == Kind::Late { now.checked_sub(LATE).unwrap_or(now) } else { now };
        let phone_number = "+254700000000";
        let (event_type, data) = match kind {
            Kind::List => {
                let notification = |item| {
                    let user_id = self.item(number, item);
                    json!({
                        "title": "Load",
                        "body": "A notification of a load",
                        "path": "/learning",
                        "user_id": user_id,
                        "custom_id": user_id,
                        "phone_number": phone_number,
                    })
                };
                let notifications: Vec<Value> = (0..ITEMS).map(notification).collect();
                ("notifications.sent", json!({ "notifications": notifications }))
            }
            // Half of what nobody can read is not JSON.
            Kind::Poison if number.is_multiple_of(2) => return b"not JSON".to_vec(),
            Kind::Poison => ("user.course.started", json!({})),
            Kind::Event | Kind::Late | Kind::Duplicate | Kind::Tampered => {
                let user_id = self.learner(number);
                let data = json!({
                    "user_id": user_id,
                    "custom_id": user_id,
                    "phone_number": phone_number,
                    "course_id": "load",
                });
                ("user.course.started", data)
            }
        };
        let event = json!({
            "object": "event",
            "type": event_type,
            "api_version": "2022-11-15",
            "timestamp": happened_at.to_string(),
            "data": data,
        });
        event.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const NONE: Shares = Shares { duplicates: 0, late: 0, lists: 0, tampered: 0, poison: 0 };

    fn in_second(times: &[Duration], second: u64) -> usize {
        times.iter().filter(|time| time.as_secs() == second).count()
    }

    #[test]
    fn each_shape_has_its_rate_in_each_second() {
        let times = |shape: Shape| shape.times(100.0, Duration::from_secs(20), usize::MAX);
        let rates = |shape: Shape, seconds: [u64; 4]| seconds.map(|second| in_second(&times(shape), second));
        assert_eq!(rates(Shape::Constant, [0, 7, 12, 19]), [100, 100, 100, 100]);
        assert_eq!(rates(Shape::Step, [2, 7, 12, 17]), [25, 50, 75, 100]);
        assert_eq!(rates(Shape::Burst, [2, 9, 12, 19]), [50, 550, 50, 550]);
        let ramp = rates(Shape::Ramp, [0, 9, 10, 19]);
        assert!(ramp.is_sorted() && ramp[0] <= 4 && (96..=100).contains(&ramp[3]), "{ramp:?}");
    }

    proptest! {
        #[test]
        fn times_never_go_back_stay_in_the_duration_and_are_as_many_as_asked(
            shape in prop::sample::select(vec![Shape::Constant, Shape::Ramp, Shape::Step, Shape::Burst]),
            rate in 0.5..500.0,
            seconds in 1_u64..40,
            most in 1_usize..5_000,
        ) {
            let duration = Duration::from_secs(seconds);
            let times = shape.times(rate, duration, most);
            prop_assert!(times.is_sorted());
            prop_assert!(times.iter().all(|time| *time <= duration + Duration::from_millis(1)));
            let segments = shape.segments(rate, duration);
            let all: f64 = segments.iter().map(|one| f64::midpoint(one.first, one.last) * one.seconds).sum();
            let expected = all.min(most as f64);
            prop_assert!((times.len() as f64 - expected).abs() <= 1.0, "{} instead of {expected}", times.len());
        }

        #[test]
        fn a_duplicate_repeats_one_before_it_that_is_handled(seed: u64) {
            let shares = Shares { duplicates: 30, late: 10, lists: 10, tampered: 10, poison: 10 };
            let times = Shape::Constant.times(100.0, Duration::from_secs(5), usize::MAX);
            let plan = plan(times, shares, &mut fastrand::Rng::with_seed(seed));
            for (index, one) in plan.iter().enumerate() {
                if one.kind == Kind::Duplicate {
                    prop_assert!(one.number < index && is_done_once(plan[one.number].kind));
                } else {
                    prop_assert_eq!(one.number, index);
                }
            }
        }
    }

    #[test]
    fn the_kinds_have_their_shares() {
        let shares = Shares { duplicates: 5, late: 4, lists: 3, tampered: 2, poison: 1 };
        let mut counts = BTreeMap::new();
        for number in 0..100 {
            *counts.entry(shares.kind(number)).or_insert(0) += 1;
        }
        let expected = [
            (Kind::Event, 85),
            (Kind::Late, 4),
            (Kind::List, 3),
            (Kind::Duplicate, 5),
            (Kind::Tampered, 2),
            (Kind::Poison, 1),
        ];
        assert_eq!(counts, expected.into());
        assert!(shares.fit() && NONE.fit());
        assert!(!Shares { duplicates: 60, poison: 41, ..NONE }.fit());
    }

    #[test]
    fn an_event_is_one_that_the_handlers_read_and_poison_is_not() {
        let (ids, now) = (Ids::of("r1"), "2026-01-04T00:00:00Z".parse().unwrap());
        let read = |kind, number| {
            let body = ids.body(kind, number, now);
            serde_json::from_slice::<Value>(&body).ok()
        };
        let event = read(Kind::Event, 7).unwrap();
        assert_eq!(
            (&event["data"]["user_id"], &event["timestamp"]),
            (&json!("load-r1-7"), &json!("2026-01-04T00:00:00Z"))
        );
        assert_eq!(read(Kind::Late, 7).unwrap()["timestamp"], "2026-01-01T00:00:00Z");
        let list = read(Kind::List, 8).unwrap();
        assert_eq!(list["data"]["notifications"][2]["user_id"], "load-r1-8-2");
        assert_eq!(read(Kind::Poison, 2), None);
        assert_eq!(read(Kind::Poison, 3).unwrap()["data"], json!({}));
        assert_eq!(ids.message(7).as_str(), "msg_load_r1_7");
    }
}
