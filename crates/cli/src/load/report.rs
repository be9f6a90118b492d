//! What a run says at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::other_end::Verdict;
use super::plan::{Kind, Shape};
use crate::milliseconds;
use crate::output::{BAD, GOOD, Line, note, print};
use crate::percentile::percentile;
use crate::table;
use crate::table::Column::{Number, Text};

/// How many message ids of one fault are printed.
const SHOWN: usize = 10;

/// How long answers took, from when the webhook was due: a late start counts, so that a slow receiver cannot hide
/// behind the webhooks that waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p90: Duration,
    pub(super) p99: Duration,
    pub(super) p999: Duration,
    pub(super) max: Duration,
}

impl Latency {
    /// Of these times, which are exact: each is kept.
    pub(super) fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |percent| percentile(&took, percent);
        Self { p50: at(50.0), p90: at(90.0), p99: at(99.0), p999: at(99.9), max: at(100.0) }
    }
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { p50, p90, p99, p999, max } = self;
        let names = ["p50", "p90", "p99", "p99.9", "max"].into_iter();
        let values = [p50, p90, p99, p999, max].into_iter().map(|one| one.as_secs_f64() * 1000.0);
        serializer.collect_map(names.zip(values))
    }
}

/// A run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    /// Part of every message id: `msg_load_RUN_NUMBER`.
    pub(super) run: String,
    pub(super) shape: Shape,
    pub(super) seed: u64,
    /// How many webhooks of each kind were sent.
    pub(super) sent: BTreeMap<Kind, usize>,
    /// Webhooks per second over the whole time in which they were due, as asked and as answered.
    pub(super) asked_per_second: f64,
    pub(super) answered_per_second: f64,
    /// How many answers of each status, or why there was none.
    pub(super) answers: BTreeMap<String, usize>,
    /// In milliseconds.
    pub(super) latency_ms: Latency,
    /// The most messages that waited, by looks at the queue a second apart.
    pub(super) deepest_queue: usize,
    /// How long after the last answer the other end had everything, in seconds; `None` if it never had.
    pub(super) settled_after_s: Option<f64>,
    pub(super) verdict: Verdict,
}

impl Report {
    /// Prints it for a person.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let Latency { p50, p90, p99, p999, max } = self.latency_ms;
        table::print_rows(
            [Text("Answer"), Number("Webhooks")],
            self.answers.iter().map(|(answer, count)| [answer.clone(), count.to_string()]),
        )?;
        print("")?;
        let kinds: Vec<_> =
            self.sent.iter().map(|(kind, count)| format!("{count} {}", name(*kind, *count))).collect();
        for (name, value) in [
            ("sent", kinds.join(", ")),
            (
                "rate",
                format!(
                    "{:.1} per second asked, {:.1} answered",
                    self.asked_per_second, self.answered_per_second
                ),
            ),
            (
                "latency",
                format!(
                    "p50 {}, p90 {}, p99 {}, p99.9 {}, slowest {}",
                    milliseconds(p50),
                    milliseconds(p90),
                    milliseconds(p99),
                    milliseconds(p999),
                    milliseconds(max)
                ),
            ),
            ("queue", format!("{} messages at most", self.deepest_queue)),
            (
                "other end",
                self.settled_after_s.map_or_else(
                    || "not settled when the time was up".to_owned(),
                    |seconds| format!("settled {seconds:.1} s after the last answer"),
                ),
            ),
        ] {
            print(format!("{name:12}{value}"))?;
        }
        let Verdict { delivered, refused, dead_lettered, unconfirmed, .. } = &self.verdict;
        print(format!(
            "{:12}{delivered} arrived once, {refused} refused and nowhere, {dead_lettered} dead letters with a reason, \
             {unconfirmed} not confirmed",
            "found"
        ))?;
        self.print_faults()
    }

    fn print_faults(&self) -> anyhow::Result<()> {
        if self.verdict.is_good() {
            return print(
                Line::default()
                    .styled(GOOD, "✓")
                    .text(" nothing lost, nothing double, nothing wrongly answered"),
            );
        }
        let Verdict { lost, double, wrongly_accepted, wrongly_refused, .. } = &self.verdict;
        for (name, faults) in [
            ("accepted, and missing", lost),
            ("there more than once", double),
            ("wrongly accepted", wrongly_accepted),
            ("wrongly refused", wrongly_refused),
        ] {
            if faults.is_empty() {
                continue;
            }
            print(Line::default().styled(BAD, "✗").text(format!(" {} {name}", faults.len())))?;
            for fault in faults.iter().take(SHOWN) {
                print(format!("  {fault}"))?;
            }
            if faults.len() > SHOWN {
                note("more of them are in the report of --json")?;
            }
        }
        Ok(())
    }
}

/// The name of a kind, for a person.
const fn name(kind: Kind, count: usize) -> &'static str {
    match (kind, count) {
        (Kind::Event, 1) => "event",
        (Kind::Event, _) => "events",
        (Kind::Late, _) => "late",
        (Kind::List, 1) => "list",
        (Kind::List, _) => "lists",
        (Kind::Duplicate, 1) => "duplicate",
        (Kind::Duplicate, _) => "duplicates",
        (Kind::Tampered, _) => "tampered",
        (Kind::Poison, _) => "poison",
    }
}
