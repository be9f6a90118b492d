//! How long a failed delivery waits before the next one.

use std::time::Duration;

/// The wait after the first failed delivery, before jitter.
pub const FIRST_DELAY: Duration = Duration::from_secs(5);

/// No wait is longer than this, so that the attempts before the dead-letter queue take hours, not
/// days, and stay well within SQS's 12 hours from the first receive.
/// Source: Amazon SQS developer guide, "Amazon SQS visibility timeout".
pub const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// How long a message that failed its `receive_count`th delivery (from 1) stays hidden.
///
/// Exponential with full jitter: a random share of a ceiling that doubles with each delivery, so
/// that messages which failed together do not come back together. `random` is uniform in `0..1`.
/// `minimum` is what a handler asked for; it wins where it is longer. Never under one second,
/// because a visibility timeout of 0 would bring the message back at once.
pub fn delay(receive_count: u32, random: f64, minimum: Option<Duration>) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(16);
    let ceiling = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
    ceiling.mul_f64(random.clamp(0.0, 1.0)).max(Duration::from_secs(1)).max(minimum.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_doubles_until_it_is_capped() {
        let ceilings = [1, 2, 3, 8, 9, u32::MAX].map(|count| delay(count, 1.0, None).as_secs());
        assert_eq!(ceilings, [5, 10, 20, 640, 900, 900]);
    }

    #[test]
    fn a_longer_wait_asked_for_by_the_handler_wins() {
        let asked = Duration::from_hours(1);
        assert_eq!(delay(1, 1.0, Some(asked)), asked);
        assert_eq!(delay(3, 1.0, Some(Duration::from_secs(1))).as_secs(), 20);
    }

    proptest! {
        #[test]
        fn every_wait_is_between_a_second_and_the_cap(count in any::<u32>(), random in 0.0..1.0) {
            let wait = delay(count, random, None);
            prop_assert!(wait >= Duration::from_secs(1) && wait <= LONGEST_DELAY);
        }
    }
}
