//! The time of an invocation: when work starts no more, when it ends, and when the answer is due.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::CALL_LIMIT;

/// Time reserved at the end of an invocation for recording results: a quarter of it, at most this. A settlement, a
/// dead letter and a delay take milliseconds. At its slowest each takes two seconds, and a settlement that is tried
/// twice takes four. Work that is not recorded in time is retried by the next delivery.
const LONGEST_MARGIN: Duration = CALL_LIMIT.saturating_mul(3);

/// Added to a handler's longest call for the time in which it finishes what it began.
const DRAIN_MARGIN: Duration = Duration::from_millis(500);

/// Time reserved after a record's work to copy it to a queue or to hide it: a tenth of an invocation, at most this.
const LONGEST_LAST_STEP: Duration = Duration::from_millis(1_500);

/// Time reserved after that to answer: after a late answer, SQS delivers the whole batch again.
const LONGEST_ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// One invocation of the consumer.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub(crate) id: String,
    now: Timestamp,
    remaining: Duration,
    started: Instant,
}

impl Invocation {
    /// An invocation that starts now, at clock time `now`, and that Lambda ends after `remaining`. `id` is
    /// Lambda's request id: part of the name under which claims are made.
    pub fn new(id: impl Into<String>, now: Timestamp, remaining: Duration) -> Self {
        Self { id: id.into(), now, remaining, started: Instant::now() }
    }

    /// The current clock time.
    pub(crate) fn now(&self) -> Timestamp {
        self.now.saturating_add(self.started.elapsed()).unwrap_or(self.now)
    }

    /// How much of the invocation is left.
    pub(crate) fn left(&self) -> Duration {
        self.remaining.saturating_sub(self.started.elapsed())
    }

    /// From here on nothing is started, and handlers that still run are cut off.
    pub(crate) fn end_of_work(&self) -> Instant {
        self.started + self.remaining.saturating_sub((self.remaining / 4).min(LONGEST_MARGIN))
    }

    /// From here on no handler whose calls take up to `longest_call` starts, and no item of its list. Those in
    /// flight can finish by the end of work, so that none is cut off between its effect and the record of it. An
    /// invocation that is too short for that still starts work in the first half of its time for work.
    pub(crate) fn end_of_starts(&self, longest_call: Duration) -> Instant {
        let end = self.end_of_work();
        end - ((end - self.started) / 2).min(longest_call.saturating_add(DRAIN_MARGIN))
    }

    /// By then the work on each record has ended. What remains is to copy or hide it.
    pub(crate) fn end_of_records(&self) -> Instant {
        self.started + self.remaining.saturating_sub((self.remaining / 10).min(LONGEST_LAST_STEP))
    }

    /// By then the answer is given, even if something is unfinished.
    pub(crate) fn end_of_answers(&self) -> Instant {
        self.started + self.remaining.saturating_sub((self.remaining / 20).min(LONGEST_ANSWER_MARGIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_ends_while_there_is_time_to_record_it_and_answers_come_before_lambdas_end() {
        let invocation = |seconds| Invocation::new("1", Timestamp::UNIX_EPOCH, Duration::from_secs(seconds));
        let start = Instant::now();
        let ends = |seconds| {
            let invocation = invocation(seconds);
            [invocation.end_of_work(), invocation.end_of_answers()].map(|end| (end - start).as_millis())
        };
        assert_eq!(ends(30), [24_000, 29_500]);
        assert_eq!(ends(2), [1_500, 1_900]);
        assert_eq!(ends(0), [0, 0]);
        let starts = |seconds, call_s| {
            let end = invocation(seconds).end_of_starts(Duration::from_secs(call_s));
            (end - start).as_millis()
        };
        // Work that began by then has its longest call, and a little more, until the end of work.
        assert_eq!([starts(30, 5), starts(30, 10)], [18_500, 13_500]);
        assert_eq!([starts(2, 5), starts(0, 5)], [750, 0]);
        let records = |seconds| (invocation(seconds).end_of_records() - start).as_millis();
        assert_eq!([30, 2, 0].map(records), [28_500, 1_800, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_while_the_invocation_lasts() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let invocation = Invocation::new("1", second(1_700_000_000), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(invocation.now(), second(1_700_000_010));
        assert_eq!(invocation.left(), Duration::from_secs(20));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(invocation.left(), Duration::ZERO);
    }
}
