//! When LearnInk attempts a message again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::Outcome;

/// The waits between scheduled attempts, each after the previous one failed. The first attempt is made at once. When the
/// one after the last wait has failed too, the message is Failed.
/// Source: LearnInk's webhook guide, "Retry schedule".
pub const WAITS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(10),
];

/// LearnInk waits this long for an answer. Source: Svix documentation, "Retry Schedule".
pub const TIME_LIMIT: Duration = Duration::from_secs(15);

/// The share by which a wait is longer or shorter than in the schedule, at most. Source: `JITTER_DELTA` of
/// Svix's server.
pub const JITTER: f64 = 0.2;

/// The shortest wait after a 429 or a time-out. Source: `OVERLOAD_PENALTY_SECS` of Svix's server, which adds jitter to
/// it.
pub const SHORTEST_AFTER_OVERLOAD: Duration = Duration::from_mins(1);

/// A `Retry-After` makes a wait longer by this factor at most. Source: Svix documentation.
pub const MOST_LENGTHENED: u32 = 2;

/// The wait before the next scheduled attempt of a message, after `failures` scheduled attempts (from 1) have failed,
/// the last of them with `outcome` at `now`. `None` if there is no next one. `random` is uniform in `0..1`.
///
/// It is the wait of [`WAITS`] with jitter. A `Retry-After` counts between this wait and twice this wait. After a 429
/// or a time-out, it is a minute at least.
pub fn wait_after(failures: usize, outcome: &Outcome, random: f64, now: Timestamp) -> Option<Duration> {
    let wait = WAITS.get(failures.checked_sub(1)?)?;
    let wait = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0));
    let asked_for = outcome.header("retry-after").and_then(|value| retry_after(value, now));
    let wait = asked_for.unwrap_or_default().clamp(wait, wait * MOST_LENGTHENED);
    let shortest = if outcome.is_overload() { SHORTEST_AFTER_OVERLOAD } else { Duration::ZERO };
    Some(wait.max(shortest))
}

/// The wait that a `Retry-After` header asks for: seconds, or until a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
/// `None` if it is neither, or the date has passed. Source: RFC 9110, section 10.2.3.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits for the type is longer than the longest wait.
        return Some(Duration::from_secs(value.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    Duration::try_from(date.timestamp().duration_since(now)).ok()
}

/// How many times faster than in LearnInk the waits between attempts pass: 1, 60, 600 or 3600.
///
/// It also divides the time until an endpoint that only fails is disabled, and until a fault ends. An attempt, its time
/// limit and the overlap of a rotation take their real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Speed(u32);

/// A speed that the simulator does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulator has no speed {0}; choose 1, 60, 600 or 3600")]
pub struct UnknownSpeed(u32);

impl Speed {
    /// As in LearnInk.
    pub const REAL: Self = Self(1);

    /// Every speed, the slowest first.
    pub const ALL: [Self; 4] = [Self(1), Self(60), Self(600), Self(3600)];

    /// The factor: an hour of waiting takes an hour divided by it.
    pub const fn factor(self) -> u32 {
        self.0
    }

    /// The real time of a simulated wait.
    pub fn real(self, simulated: Duration) -> Duration {
        simulated / self.0
    }
}

impl Default for Speed {
    fn default() -> Self {
        Self::REAL
    }
}

impl TryFrom<u32> for Speed {
    type Error = UnknownSpeed;

    fn try_from(factor: u32) -> Result<Self, UnknownSpeed> {
        Self::ALL.into_iter().find(|speed| speed.0 == factor).ok_or(UnknownSpeed(factor))
    }
}

impl From<Speed> for u32 {
    fn from(speed: Speed) -> Self {
        speed.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T14:20:00Z".parse().unwrap()
    }

    fn answered(status: u16, retry_after: Option<&str>) -> Outcome {
        let headers = retry_after.map(|value| ("retry-after".to_owned(), value.to_owned()));
        Outcome::Answered { status, headers: headers.into_iter().collect() }
    }

    #[test]
    fn without_jitter_the_waits_are_those_of_the_guide() {
        let waits = (1..=8).map(|failures| wait_after(failures, &answered(503, None), 0.5, now()));
        let waits: Vec<_> = waits.map(|wait| wait.map(|wait| wait.as_secs())).collect();
        let expected = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Some);
        assert_eq!(waits[..7], expected);
        assert_eq!(waits[7], None);
    }

    #[test]
    fn after_a_429_or_a_time_out_a_wait_is_a_minute_at_least() {
        let wait = |outcome: &Outcome| wait_after(1, outcome, 0.0, now()).unwrap().as_secs();
        assert_eq!(wait(&answered(429, None)), 60);
        assert_eq!(wait(&Outcome::TimedOut), 60);
        assert_eq!(wait(&answered(503, None)), 4);
        assert_eq!(wait(&Outcome::ConnectionBroken), 4);
    }

    #[test]
    fn retry_after_counts_between_the_scheduled_wait_and_twice_of_it() {
        for (value, seconds) in [
            ("1", 300),
            ("400", 400),
            ("99999999999999999999999", 600),
            ("Mon, 23 Nov 2026 14:28:20 GMT", 500),
            ("Mon, 23 Nov 2026 18:00:00 GMT", 600),
            ("Mon, 23 Nov 2026 14:00:00 GMT", 300),
            ("soon", 300),
        ] {
            let wait = wait_after(2, &answered(503, Some(value)), 0.5, now()).unwrap();
            assert_eq!(wait.as_secs(), seconds, "{value}");
        }
        // A minute, and not the ten seconds that the schedule would allow.
        assert_eq!(wait_after(1, &answered(429, Some("90")), 0.5, now()).unwrap().as_secs(), 60);
    }

    #[test]
    fn a_speed_is_one_of_four() {
        assert_eq!(Speed::try_from(60).unwrap().real(Duration::from_hours(2)), Duration::from_mins(2));
        let error = Speed::try_from(2).unwrap_err().to_string();
        assert_eq!(error, "the simulator has no speed 2; choose 1, 60, 600 or 3600");
    }

    proptest! {
        #[test]
        fn no_wait_is_out_of_bounds(
            failures in 0_usize..12,
            status in 100_u16..600,
            seconds in proptest::option::of(any::<u64>()),
            random in 0.0..1.0,
        ) {
            let seconds = seconds.map(|seconds| seconds.to_string());
            let wait = wait_after(failures, &answered(status, seconds.as_deref()), random, now());
            prop_assert_eq!(wait.is_some(), (1..=7).contains(&failures));
            if let Some(wait) = wait {
                let scheduled = WAITS[failures - 1];
                let longest = scheduled.mul_f64((1.0 + JITTER) * 2.0).max(SHORTEST_AFTER_OVERLOAD);
                prop_assert!(wait >= scheduled.mul_f64(1.0 - JITTER) && wait <= longest);
            }
        }
    }
}
