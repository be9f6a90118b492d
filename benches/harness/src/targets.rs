//! The limits of the receiver's cost, as shares of the tutorial's cost; those of the consumer's engine, as figures; those
//! of the deployed consumer, as shares of its engine; and those of the engine as shares of what peers cost.

use crate::batch::RECORD_BYTES;
use crate::statistics::ratio;
use crate::summary::Summary;

/// One limit.
#[derive(Debug)]
pub(crate) struct Target {
    /// The limited value.
    pub(crate) name: &'static str,
    /// The largest share of the baseline, or the largest figure.
    pub(crate) limit: f64,
    figure: fn(&Summary) -> Option<f64>,
}

/// A target with the measured value.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The target.
    pub(crate) target: &'static Target,
    /// The share of the baseline, or the figure; `None` if that size was not measured.
    pub(crate) measured: Option<f64>,
}

/// The receiver's limits, as shares of the baseline.
static RECEIVER: [Target; 7] = [
    at_most("cold start, CPU", 0.10, |summary| Some(summary.cold_cpu_ms)),
    at_most("first request, CPU", 0.05, |summary| Some(summary.first_request_cpu_ms)),
    at_most("400 B, CPU", 0.38, |summary| warm_cpu(summary, 400)),
    at_most("10 kB, CPU", 0.48, |summary| warm_cpu(summary, 10_000)),
    at_most("200 kB, CPU", 0.52, |summary| warm_cpu(summary, 200_000)),
    at_most("peak memory", 0.55, |summary| Some(summary.peak_memory_mib)),
    at_most("zip", 0.38, |summary| Some(summary.zip_kb)),
];

/// The consumer's limits. The first is the only one in a unit of time, and depends on the machine.
static CONSUMER: [Target; 2] = [
    at_most("CPU per batch, ms", 2.5, |summary| warm_cpu(summary, RECORD_BYTES).map(|cpu_us| cpu_us / 1e3)),
    at_most("round trips to DynamoDB per batch", 2.0, |summary| {
        summary.warm(RECORD_BYTES).map(|warm| warm.dynamodb_round_trips)
    }),
];

/// The deployed consumer's limits, as shares of the engine with a no-op handler.
static DEPLOYED_CONSUMER: [Target; 2] = [
    at_most("CPU per batch", 2.0, |summary| warm_cpu(summary, RECORD_BYTES)),
    // Claims, rows and settlements follow each other.
    at_most("round trips to DynamoDB per batch", 1.5, |summary| {
        summary.warm(RECORD_BYTES).map(|warm| warm.dynamodb_round_trips)
    }),
];

/// The consumer's limit, as a share of the cost of a consumer with Powertools on Node.js, and on Python.
static CONSUMER_BESIDE_NODE: Target =
    at_most("CPU per batch, × Powertools on Node.js", 0.10, |summary| warm_cpu(summary, RECORD_BYTES));
static CONSUMER_BESIDE_PYTHON: Target =
    at_most("CPU per batch, × Powertools on Python", 0.08, |summary| warm_cpu(summary, RECORD_BYTES));

const fn at_most(name: &'static str, limit: f64, figure: fn(&Summary) -> Option<f64>) -> Target {
    Target { name, limit, figure }
}

fn warm_cpu(summary: &Summary, size_bytes: usize) -> Option<f64> {
    summary.warm(size_bytes).map(|warm| warm.cpu_us)
}

impl Verdict {
    /// The verdicts on a receiver compared with the baseline, one for each target.
    pub(crate) fn on_receiver(summary: &Summary, baseline: &Summary) -> Vec<Self> {
        Self::on_shares(&RECEIVER, summary, baseline)
    }

    /// The verdicts on a consumer compared with the peers.
    pub(crate) fn on_consumer_beside(summary: &Summary, node: &Summary, python: &Summary) -> Vec<Self> {
        vec![
            Self::on_share(&CONSUMER_BESIDE_NODE, summary, node),
            Self::on_share(&CONSUMER_BESIDE_PYTHON, summary, python),
        ]
    }

    /// The verdicts on the deployed consumer compared with its engine, one for each target.
    pub(crate) fn on_deployed_consumer(summary: &Summary, engine: &Summary) -> Vec<Self> {
        Self::on_shares(&DEPLOYED_CONSUMER, summary, engine)
    }

    fn on_shares(targets: &'static [Target], summary: &Summary, baseline: &Summary) -> Vec<Self> {
        targets.iter().map(|target| Self::on_share(target, summary, baseline)).collect()
    }

    fn on_share(target: &'static Target, summary: &Summary, baseline: &Summary) -> Self {
        let figure = target.figure;
        let measured = figure(summary).zip(figure(baseline));
        Self { target, measured: measured.and_then(|(value, baseline)| ratio(value, baseline)) }
    }

    /// The verdicts on a consumer, one for each target.
    pub(crate) fn on_consumer(summary: &Summary) -> Vec<Self> {
        CONSUMER.iter().map(|target| Self { target, measured: (target.figure)(summary) }).collect()
    }

    /// Whether the target is met, if it was measured.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| measured <= self.target.limit)
    }

    /// Whether the run fails because of it.
    pub(crate) fn is_failure(&self) -> bool {
        self.is_met() == Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(verdicts: &[Verdict]) -> Vec<&'static str> {
        verdicts.iter().filter(|verdict| verdict.is_failure()).map(|verdict| verdict.target.name).collect()
    }

    #[test]
    fn a_limit_holds_up_to_and_including_itself() {
        let baseline = Summary::sample("tutorial", 1.0);
        let on_receiver = |scale| Verdict::on_receiver(&Summary::sample("receiver", scale), &baseline);
        assert_eq!(failures(&on_receiver(0.05)), [""; 0]);
        // Warm CPU is only in the samples for 400 B.
        assert_eq!(failures(&on_receiver(0.38)), ["cold start, CPU", "first request, CPU"]);
        assert_eq!(
            failures(&on_receiver(0.39)),
            ["cold start, CPU", "first request, CPU", "400 B, CPU", "zip"]
        );
    }

    #[test]
    fn a_consumer_is_judged_by_its_own_figures() {
        // 500 µs and 3 round trips, times this.
        let on_consumer = |scale| Verdict::on_consumer(&Summary::sample("consumer", scale));
        assert_eq!(failures(&on_consumer(0.6)), [""; 0]);
        assert_eq!(failures(&on_consumer(5.0)), ["round trips to DynamoDB per batch"]);
        assert_eq!(failures(&on_consumer(5.1)), ["CPU per batch, ms", "round trips to DynamoDB per batch"]);
    }

    #[test]
    fn a_deployed_consumer_is_judged_by_its_engine() {
        let engine = Summary::sample("consumer, no-op handler", 1.0);
        let on_deployed = |scale| Verdict::on_deployed_consumer(&Summary::sample("consumer", scale), &engine);
        assert_eq!(failures(&on_deployed(1.5)), [""; 0]);
        assert_eq!(failures(&on_deployed(2.0)), ["round trips to DynamoDB per batch"]);
        assert_eq!(failures(&on_deployed(2.1)), ["CPU per batch", "round trips to DynamoDB per batch"]);
    }

    #[test]
    fn a_consumer_is_judged_beside_each_peer() {
        let [node, python] = ["Node.js", "Python"].map(|name| Summary::sample(name, 10.0));
        let beside = |scale| {
            let consumer = Summary::sample("consumer", scale);
            failures(&Verdict::on_consumer_beside(&consumer, &node, &python))
        };
        assert_eq!(beside(0.8), [""; 0]);
        assert_eq!(beside(1.0), ["CPU per batch, × Powertools on Python"]);
        assert_eq!(beside(1.1).len(), 2);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let verdicts =
            Verdict::on_receiver(&Summary::sample("receiver", 9.0), &Summary::sample("tutorial", 1.0));
        let large = verdicts.iter().find(|verdict| verdict.target.name == "200 kB, CPU").unwrap();
        assert_eq!(large.is_met(), None);
        assert!(!large.is_failure());
    }
}
