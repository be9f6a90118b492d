//! Notifies open pages of changes: server-sent events, or an answer that waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// How many streams are open at a time. A browser opens six connections to a host: with a stream in each of seven
/// tabs, the seventh would hang, and no act would get through.
pub(crate) const MOST_STREAMS: usize = 4;

/// The shortest time between two events of a stream.
const BETWEEN_EVENTS: Duration = Duration::from_millis(200);

/// A stream sends an event this often even without a change, because some states change with time.
const BETWEEN_BEATS: Duration = Duration::from_secs(10);

/// The longest that an answer waits.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The state of a stream.
struct Stream {
    changes: watch::Receiver<i64>,
    /// The changes of LearnInk's side, which are no entries.
    simulator: Option<watch::Receiver<()>>,
    stopped: watch::Receiver<bool>,
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

/// A stream of the numbers of newest entries: one at once, and one after each change, also of LearnInk's side. If too
/// many are open, 204, which tells a browser not to try again; that page then asks now and then.
pub(crate) fn stream(
    streams: &Arc<Semaphore>,
    changes: watch::Receiver<i64>,
    simulator: Option<watch::Receiver<()>>,
    stopped: watch::Receiver<bool>,
) -> Response {
    let Ok(permit) = streams.clone().try_acquire_owned() else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let start = Stream { changes, simulator, stopped, is_first: true, _permit: permit };
    Sse::new(unfold(start, |mut stream| async move {
        let newest = stream.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(newest.to_string())), stream))
    }))
    .into_response()
}

impl Stream {
    /// The next number; `None` at the end.
    async fn next(&mut self) -> Option<i64> {
        if !std::mem::take(&mut self.is_first) {
            let of_simulator = async {
                let is_change = match &mut self.simulator {
                    Some(simulator) => simulator.changed().await.is_ok(),
                    None => false,
                };
                // Without a simulator, or after its end, there is nothing to wait for.
                if !is_change {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                end = self.changes.changed() => if end.is_err() { return None },
                () = of_simulator => {}
                () = sleep(BETWEEN_BEATS) => {}
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            }
            sleep(BETWEEN_EVENTS).await;
        }
        if let Some(simulator) = &mut self.simulator {
            simulator.mark_unchanged();
        }
        if *self.stopped.borrow() { None } else { Some(*self.changes.borrow_and_update()) }
    }
}

/// How long a request wants to wait: `10s`, `500ms`, or seconds; [`LONGEST_WAIT`] at most.
pub(crate) fn wait(text: &str) -> Option<Duration> {
    let number = |digits: &str| digits.parse::<u64>().ok();
    let wait = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(milliseconds), _) => Duration::from_millis(number(milliseconds)?),
        (None, Some(seconds)) => Duration::from_secs(number(seconds)?),
        (None, None) => Duration::from_secs(number(text)?),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Waits for the next change, until `deadline`; false if there is none any more.
pub(crate) async fn changed(
    changes: &mut watch::Receiver<i64>,
    stopped: &mut watch::Receiver<bool>,
    deadline: Instant,
) -> bool {
    tokio::select! {
        end = timeout_at(deadline, changes.changed()) => matches!(end, Ok(Ok(()))),
        _ = stopped.wait_for(|stopped| *stopped) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_unit_and_a_limit() {
        for (text, expected) in [
            ("10s", Some(Duration::from_secs(10))),
            ("250ms", Some(Duration::from_millis(250))),
            ("7", Some(Duration::from_secs(7))),
            ("9999999s", Some(LONGEST_WAIT)),
            ("s", None),
            ("-1s", None),
            ("1h", None),
            ("", None),
        ] {
            assert_eq!(wait(text), expected, "{text}");
        }
    }
}
