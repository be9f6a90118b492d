//! The circuit breaker: it stops calls to a handler whose downstream fails.

/// This many failures in a row open a breaker. The messages themselves may cause one or two.
pub const OPENS_AFTER: u32 = 3;

/// Counts one handler's failures in a row.
///
/// While it is open, one record at a time tries whether the downstream works again. The first success closes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
}

impl Breaker {
    /// Notes a call that succeeded. A permanent refusal says nothing about the downstream, which may not have been
    /// called: do not note it.
    pub const fn answered(&mut self) {
        self.failures = 0;
    }

    /// Notes a call that failed and may succeed later, or that did not end.
    pub const fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether calls are stopped, because the downstream seems to fail.
    pub const fn is_open(self) -> bool {
        self.failures >= OPENS_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed();
            breaker.failed();
            assert!(!breaker.is_open());
            breaker.answered();
        }
        for _ in 0..OPENS_AFTER {
            breaker.failed();
        }
        assert!(breaker.is_open());
        breaker.answered();
        assert!(!breaker.is_open());
    }
}
