//! Cached values, and when they are read again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// A value that is cached for longer is read again, so that a rotation needs no deploy.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(5);

/// The shortest time between two refreshes, whatever their cause.
const BETWEEN_REFRESHES: SignedDuration = SignedDuration::from_secs(30);

/// Why a value is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshCause {
    /// It may be too old.
    Age,
    /// It was not accepted: a signature does not match it, or a service refuses it. A new value may be stored.
    NotAccepted,
}

/// A value that is read again from time to time, within an invocation: Lambda freezes work that continues after
/// one.
///
/// It is read again when it is five minutes old, and after it was not accepted, but every 30 seconds at most. A
/// refresh that fails leaves the value in use.
pub struct Cached<T>(Mutex<Held<T>>);

struct Held<T> {
    value: Arc<T>,
    read_at: Timestamp,
    /// The last refresh, successful or not.
    refreshed_at: Option<Timestamp>,
}

impl<T> Cached<T> {
    /// Keeps a value that was read at `read_at`.
    pub fn new(value: T, read_at: Timestamp) -> Self {
        Self(Mutex::new(Held { value: Arc::new(value), read_at, refreshed_at: None }))
    }

    /// The value in use.
    pub fn value(&self) -> Arc<T> {
        self.with_held(|held| held.value.clone())
    }

    /// Reads the value again with `read`, if it is time to; `None` if it is not. Of several concurrent callers,
    /// one reads, and the others use the current value.
    ///
    /// # Errors
    ///
    /// The error of `read`. The value in use stays.
    pub async fn refresh<E>(
        &self,
        cause: RefreshCause,
        now: Timestamp,
        read: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Option<Result<(), E>> {
        let is_due = self.with_held(|held| {
            let is_due = is_due(cause, held.read_at, held.refreshed_at, now);
            if is_due {
                held.refreshed_at = Some(now);
            }
            is_due
        });
        if !is_due {
            return None;
        }
        let value = match read().await {
            Ok(value) => Arc::new(value),
            Err(error) => return Some(Err(error)),
        };
        self.with_held(|held| (held.value, held.read_at) = (value, now));
        Some(Ok(()))
    }

    fn with_held<R>(&self, work: impl FnOnce(&mut Held<T>) -> R) -> R {
        // Code under the lock cannot panic halfway.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cached(..)")
    }
}

/// Whether it is time to read a value again. It is, too, if the clock went backwards.
fn is_due(cause: RefreshCause, read_at: Timestamp, refreshed_at: Option<Timestamp>, now: Timestamp) -> bool {
    let elapsed = |since: Timestamp| now.duration_since(since).abs();
    let has_rested = refreshed_at.is_none_or(|refreshed_at| elapsed(refreshed_at) >= BETWEEN_REFRESHES);
    match cause {
        RefreshCause::Age => has_rested && elapsed(read_at) >= FRESH_FOR,
        RefreshCause::NotAccepted => has_rested,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(cause: RefreshCause, read_s: i64, refreshed_s: impl Into<Option<i64>>) -> bool {
        let ago = |seconds| Timestamp::from_second(1_700_000_000 - seconds).unwrap();
        is_due(cause, ago(read_s), refreshed_s.into().map(ago), ago(0))
    }

    #[test]
    fn a_value_is_read_again_when_it_is_five_minutes_old() {
        assert!(!due(RefreshCause::Age, 299, None));
        assert!(due(RefreshCause::Age, 300, 300));
        assert!(!due(RefreshCause::Age, 300, 29), "a failed refresh is not repeated at once");
        assert!(due(RefreshCause::Age, 300, 30));
    }

    #[test]
    fn a_value_that_is_not_accepted_is_read_again_every_30_seconds_at_most() {
        assert!(!due(RefreshCause::NotAccepted, 29, 29));
        assert!(due(RefreshCause::NotAccepted, 30, 30));
        assert!(due(RefreshCause::NotAccepted, 1, None), "a new value may have been stored just now");
    }

    #[test]
    fn a_clock_that_went_back_does_not_keep_a_value_forever() {
        assert!(due(RefreshCause::Age, -300, -300) && due(RefreshCause::NotAccepted, -30, -30));
    }

    #[tokio::test]
    async fn a_refresh_that_fails_leaves_the_value_in_use_and_is_tried_again_after_30_seconds() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let cached = Cached::new("old", at(0));
        let refresh = async |now, read| cached.refresh(RefreshCause::Age, at(now), async || read).await;
        assert_eq!(refresh(299, Ok("new")).await, None);
        assert_eq!(refresh(300, Err("down")).await, Some(Err("down")));
        assert_eq!((refresh(329, Ok("new")).await, *cached.value()), (None, "old"));
        assert_eq!((refresh(330, Ok("new")).await, *cached.value()), (Some(Ok(())), "new"));
        assert_eq!(refresh(629, Ok("newer")).await, None);
    }
}
