//! Percentiles of times that are all kept.

use std::time::Duration;

/// The smallest value that `percent` of the sorted values do not exceed (nearest rank).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a run has far fewer answers than a float counts exactly, and the rank is not negative"
)]
pub(crate) fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let ranks = [50.0, 90.0, 99.0, 100.0].map(|percent| percentile(&sorted, percent).as_millis());
        assert_eq!(ranks, [100, 180, 198, 200]);
        assert_eq!(percentile(&sorted[..1], 50.0).as_millis(), 1);
    }

    #[test]
    fn a_part_of_a_percent_counts_and_nothing_has_no_time() {
        let sorted: Vec<_> = (1..=2000).map(Duration::from_millis).collect();
        let found = [50.0, 90.0, 99.0, 99.9, 100.0].map(|percent| percentile(&sorted, percent).as_millis());
        assert_eq!(found, [1000, 1800, 1980, 1998, 2000]);
        assert_eq!(percentile(&sorted[..1], 50.0).as_millis(), 1);
        assert_eq!(percentile(&[], 50.0), Duration::ZERO);
    }
}
