//! What the handlers share whose downstream takes the work of several records with one call.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;

/// How many calls of one piece of work follow each other at most.
const CALLS_IN_A_ROW: u32 = 3;

/// The time limits of each call, so that the calls that follow each other take at most this long together. There is
/// time for a second attempt.
pub(crate) fn limits(together: Duration) -> TimeoutConfig {
    let limit = together / CALLS_IN_A_ROW;
    TimeoutConfig::builder().operation_attempt_timeout(limit / 2).operation_timeout(limit).build()
}

/// The items of each call, in order: at most `most` items and `most_bytes` bytes, but always one item.
pub(crate) fn in_calls<T>(
    items: Vec<T>,
    most: usize,
    most_bytes: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut calls: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += bytes_of(&item);
        match calls.last_mut() {
            Some(call) if call.len() < most && bytes <= most_bytes => call.push(item),
            _ => {
                bytes = bytes_of(&item);
                calls.push(vec![item]);
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_calls_in_a_row_take_no_longer_than_all_of_them_may_and_each_has_two_attempts() {
        let limits = limits(Duration::from_secs(9));
        assert_eq!(limits.operation_timeout(), Some(Duration::from_secs(3)));
        assert_eq!(limits.operation_attempt_timeout(), Some(Duration::from_millis(1_500)));
    }
}
