//! The medians of a function's measurements, which `--json` writes.

use serde::Serialize;

/// One function's medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    /// The function's name.
    pub(crate) name: &'static str,
    /// From the start of the process until it asks for its first event.
    pub(crate) init_ms: f64,
    /// CPU time of the start.
    pub(crate) init_cpu_ms: f64,
    /// How long the first answer takes.
    pub(crate) first_request_ms: f64,
    /// CPU time of the first invocation.
    pub(crate) first_request_cpu_ms: f64,
    /// CPU time of both together: the cost of a cold start.
    pub(crate) cold_cpu_ms: f64,
    /// The warm invocations, one for each size.
    pub(crate) warm: Vec<Warm>,
    /// The most memory held, after all sizes.
    pub(crate) peak_memory_mib: f64,
    /// The size of the upload.
    pub(crate) zip_kb: f64,
}

/// One function's medians for webhooks of one size.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Warm {
    /// The approximate size of the payload.
    pub(crate) size_bytes: usize,
    /// CPU time of one invocation.
    pub(crate) cpu_us: f64,
    /// How long the answer takes.
    pub(crate) latency_us: f64,
    /// The 99th percentile of the time of an answer.
    pub(crate) latency_p99_us: f64,
    /// Requests to DynamoDB.
    pub(crate) dynamodb_calls: f64,
    /// How many of them were sequential.
    pub(crate) dynamodb_round_trips: f64,
}

/// The cost of a function's start, without an invocation: medians.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The function's name.
    pub(crate) name: &'static str,
    /// From the start of the process to its first request for work, in milliseconds.
    pub(crate) init_ms: f64,
    /// Its CPU time, in milliseconds.
    pub(crate) init_cpu_ms: f64,
}

/// A receiver's cold start and its webhooks with little memory: medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AtMemory {
    /// The function's name.
    pub(crate) name: &'static str,
    /// The memory that its share of a core is for.
    pub(crate) memory_mb: u32,
    /// From the start of the process until it asks for its first event.
    pub(crate) init_ms: f64,
    /// How long the first answer takes.
    pub(crate) first_request_ms: f64,
    /// Both together: how long the sender waits for it.
    pub(crate) cold_ms: f64,
    /// How long a later answer takes.
    pub(crate) warm_ms: f64,
    /// Its 99th percentile.
    pub(crate) warm_p99_ms: f64,
}

impl Summary {
    /// The medians for webhooks of that size, if it was measured.
    pub(crate) fn warm(&self, size_bytes: usize) -> Option<&Warm> {
        self.warm.iter().find(|warm| warm.size_bytes == size_bytes)
    }

    /// A summary with round numbers, for tests.
    #[cfg(test)]
    pub(crate) fn sample(name: &'static str, scale: f64) -> Self {
        let warm = |size_bytes, cpu_us| Warm {
            size_bytes,
            cpu_us: cpu_us * scale,
            latency_us: cpu_us * scale * 2.0,
            latency_p99_us: cpu_us * scale * 3.0,
            dynamodb_calls: 12.0 * scale,
            dynamodb_round_trips: 3.0 * scale,
        };
        Self {
            name,
            init_ms: 40.0 * scale,
            init_cpu_ms: 4.0 * scale,
            first_request_ms: 36.0 * scale,
            first_request_cpu_ms: 33.0 * scale,
            cold_cpu_ms: 37.0 * scale,
            warm: vec![warm(400, 500.0), warm(10_000, 600.0)],
            peak_memory_mib: 16.0 * scale,
            zip_kb: 7000.0 * scale,
        }
    }
}
