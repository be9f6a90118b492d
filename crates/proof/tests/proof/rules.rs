//! The deployed rules, and with them faults: most of them past ones, from before the rules were mended.

use jiff::Timestamp;
use learnink_consumer::ledger::{Claim, ClaimRequest, Entry, History, Lease, judge};
use learnink_consumer::replay::{ReplayWindow, SeenMessage};

/// The rules as they are, or with one mend taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    AsDeployed,
    /// A claim that its caller had given up was granted after others had worked on the message and released it.
    GrantLateClaims,
    /// A message that came first while a window was open was run again under it at its next delivery.
    ReplayFirstArrivals,
    /// A replay that failed and came back after its window had expired was taken for a duplicate.
    EndReplaysWithTheWindow,
    /// Where clocks differ, a message that another consumer had finished was taken for a new one.
    CallAFinishedMessageNew,
    /// A lease keeps others out for ever. No version did this: it shows that a message without an end is found.
    NeverEndALease,
}

impl Rules {
    pub(crate) fn judge(self, entry: Option<&Entry>, request: &ClaimRequest) -> Claim {
        if self == Self::GrantLateClaims {
            let entry = entry.map(|entry| Entry { settled_at_ms: 0, ..entry.clone() });
            return judge(entry.as_ref(), request);
        }
        if self == Self::NeverEndALease {
            let for_ever = |lease: Lease| Lease { until_ms: i64::MAX, ..lease };
            let entry = entry.cloned().map(|entry| Entry { lease: entry.lease.map(for_ever), ..entry });
            return judge(entry.as_ref(), request);
        }
        judge(entry, request)
    }

    pub(crate) fn is_new(self, history: &History, at: Timestamp) -> bool {
        if self == Self::CallAFinishedMessageNew {
            return History { first_seen_ms: history.first_seen_ms, ..History::default() }.is_new(at);
        }
        history.is_new(at)
    }

    /// Whether a delivery runs under a window.
    pub(crate) fn asks(
        self,
        window: &ReplayWindow,
        seen: SeenMessage<'_>,
        received_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let takes = match self {
            Self::EndReplaysWithTheWindow => window.is_open(now),
            _ => window.takes(received_at, now),
        };
        let before_ms = window.opened_at.as_millisecond() - 1;
        let seen = match self {
            Self::ReplayFirstArrivals => {
                SeenMessage { first_seen_ms: before_ms.min(seen.first_seen_ms), ..seen }
            }
            _ => seen,
        };
        takes && window.covers(seen)
    }
}
