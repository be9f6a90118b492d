//! Percentiles and ratios.

/// The value at or above which no more than `100 - percent` percent lie; `None` without values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent + 50) / 100).copied()
}

/// The value in the middle; `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 50)
}

/// How many times the baseline a value is; `None` if the baseline is zero.
pub(crate) fn ratio(value: f64, baseline: f64) -> Option<f64> {
    (baseline > 0.0).then(|| value / baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (0..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0), Some(0.0));
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&values, 100), Some(200.0));
        assert_eq!(percentile(&[1.0, 2.0], 99), Some(2.0));
    }

    #[test]
    fn a_ratio_needs_a_baseline() {
        assert_eq!(ratio(1.0, 4.0), Some(0.25));
        assert_eq!(ratio(1.0, 0.0), None);
    }
}
