//! How long a failed delivery waits before the next one.

use std::time::Duration;

/// The longest wait after the first failed delivery.
pub const FIRST_CEILING: Duration = Duration::from_secs(30);

/// The factor by which the ceiling grows with each delivery.
const GROWTH: u32 = 4;

/// The longest wait, unless a handler asks for a longer one. From the first of seven deliveries to the last, the
/// waits add up to two to three hours on average, longer than most outages, and five at most. A message that fails
/// the last delivery is dead-lettered at once.
pub const LONGEST: Duration = Duration::from_hours(2);

/// The longest wait that a handler can ask for: SQS hides a message for 12 hours at most, counted from when it was
/// received, which was before the batch ran.
/// Source: Amazon SQS API reference, `ChangeMessageVisibility`.
const LONGEST_ASKED_FOR: Duration = Duration::from_mins(11 * 60 + 50);

/// The shortest wait: with a visibility timeout of 0, SQS would deliver the message again at once.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// How long a message that failed its `receive_count`th delivery (from 1) is hidden.
///
/// Exponential backoff with full jitter: a random share of a ceiling that grows with each delivery, so that
/// messages that failed together are not delivered together again. `random` is uniform in `0..1`. `minimum`, such
/// as a wait that a handler asked for, wins if it is longer.
pub fn delay(receive_count: u32, random: f64, minimum: Option<Duration>) -> Duration {
    let growth = GROWTH.saturating_pow(receive_count.saturating_sub(1));
    let ceiling = FIRST_CEILING.saturating_mul(growth).min(LONGEST);
    ceiling
        .mul_f64(random.clamp(0.0, 1.0))
        .max(SHORTEST)
        .max(minimum.unwrap_or_default())
        .min(LONGEST_ASKED_FOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_grows_fourfold_until_it_is_capped() {
        let ceilings = [1, 2, 3, 4, 5, u32::MAX].map(|count| delay(count, 1.0, None).as_secs());
        assert_eq!(ceilings, [30, 120, 480, 1_920, 7_200, 7_200]);
    }

    #[test]
    fn seven_deliveries_outlast_an_outage_of_two_hours_on_average_and_end_within_five() {
        let total = |random| (1..7).map(|count| delay(count, random, None)).sum::<Duration>();
        assert!(total(0.5) > Duration::from_hours(2));
        assert!(total(1.0) < Duration::from_hours(5));
    }

    #[test]
    fn a_longer_wait_asked_for_by_the_handler_wins() {
        let asked = Duration::from_hours(3);
        assert_eq!(delay(1, 1.0, Some(asked)), asked);
        assert_eq!(delay(2, 1.0, Some(Duration::from_secs(1))).as_secs(), 120);
        assert_eq!(delay(1, 1.0, Some(Duration::from_hours(24))), Duration::from_mins(11 * 60 + 50));
    }

    proptest! {
        #[test]
        fn every_wait_is_between_a_second_and_the_cap(count in any::<u32>(), random in 0.0..1.0) {
            let wait = delay(count, random, None);
            prop_assert!(wait >= SHORTEST && wait <= LONGEST);
        }
    }
}
