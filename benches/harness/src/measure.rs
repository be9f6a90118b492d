//! The measurements: every function in turn, round by round, so that the machine's load affects all of them alike.
//!
//! A run fails if a webhook is lost, a wrong one is queued or a forged one is accepted, or if a record fails, is
//! not claimed and settled, or is lost.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::batch::{RECORD_BYTES, RECORDS, batch, sqs_message_id};
use crate::dynamodb::{Call, LEDGER_TABLE, PowertoolsStep, round_trips};
use crate::events::{Integrity, Webhook, WebhookSender};
use crate::process::{Environment, Function, Input, Process};
use crate::runtime_api::Answer;
use crate::statistics::{median, percentile};
use crate::stub::Stub;
use crate::summary::{AtMemory, Start, Summary, Warm};

/// During this many invocations of the warm-up, round trips are counted.
const COUNTED_ROUND_TRIPS: usize = 10;

/// How long DynamoDB takes to answer then: long enough that independent requests are in flight at the same time.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The time between webhooks when a function has little memory. It gets a new share of a core meanwhile.
const BETWEEN_WEBHOOKS: Duration = Duration::from_millis(40);

/// CPU time is read after this many invocations: on a busy machine, the median of many short intervals is more
/// accurate than one long one.
const CHUNK: usize = 25;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How often everything is repeated.
    pub(crate) rounds: usize,
    /// How often a function is started in each round; the last process continues with the warm invocations.
    pub(crate) cold: usize,
    /// How many invocations of a new size are made before those that count.
    pub(crate) warm_up: usize,
    /// How many warm invocations count, for each size and in each round.
    pub(crate) warm: usize,
    /// The sizes of the receivers' webhooks, in bytes. Batches have their own size.
    pub(crate) sizes_bytes: Vec<usize>,
}

impl Plan {
    /// The number of invocations of a function.
    fn invocations(&self, input: Input) -> usize {
        self.rounds * (self.cold + self.sizes_bytes(input).len() * (self.warm_up + self.warm))
    }

    /// The number of invocations of these functions.
    pub(crate) fn invocations_of(&self, functions: &[Function]) -> usize {
        functions.iter().map(|function| self.invocations(function.input)).sum()
    }

    /// How often each function is started.
    pub(crate) const fn starts(&self) -> usize {
        self.rounds * self.cold
    }

    /// The sizes of a function's webhooks, in bytes.
    fn sizes_bytes(&self, input: Input) -> &[usize] {
        match input {
            Input::Webhook => &self.sizes_bytes,
            Input::Batch | Input::PowertoolsBatch => &[RECORD_BYTES],
        }
    }
}

/// The setup for measuring all functions.
#[derive(Debug)]
pub(crate) struct Bench {
    /// How much is measured.
    pub(crate) plan: Plan,
    /// The environment of the functions.
    pub(crate) environment: Environment,
    /// The services that they call.
    pub(crate) stub: Stub,
    /// The sender of their webhooks.
    pub(crate) sender: WebhookSender,
    /// The progress of the run.
    pub(crate) progress: ProgressBar,
}

/// One function's measurements.
#[derive(Debug, Default)]
struct Samples {
    init_ms: Vec<f64>,
    init_cpu_ms: Vec<f64>,
    first_ms: Vec<f64>,
    first_cpu_ms: Vec<f64>,
    cold_cpu_ms: Vec<f64>,
    /// One for each size, in their order.
    warm: Vec<WarmSamples>,
    peak_memory_mib: Vec<f64>,
}

/// One function's warm invocations with webhooks of one size.
#[derive(Debug, Default)]
struct WarmSamples {
    cpu_us: Vec<f64>,
    latency_us: Vec<f64>,
    dynamodb_calls: Vec<f64>,
    dynamodb_round_trips: Vec<f64>,
}

/// One invocation that succeeded.
#[derive(Debug)]
struct Success {
    latency: Duration,
    calls: Vec<Call>,
}

impl Bench {
    /// Says how many invocations and mere starts there will be, for the progress.
    ///
    /// # Errors
    ///
    /// When the number is out of range.
    pub(crate) fn expect(&self, steps: usize) -> anyhow::Result<()> {
        self.progress.set_length(steps.try_into()?);
        Ok(())
    }

    /// Measures the functions, and returns the results in the same order.
    ///
    /// # Errors
    ///
    /// When a function does not do what it should.
    pub(crate) fn run(&mut self, functions: &[Function]) -> anyhow::Result<Vec<Summary>> {
        let mut measured: Vec<_> = functions.iter().map(|function| (function, Samples::default())).collect();
        for round in 1..=self.plan.rounds {
            for start in 1..=self.plan.cold {
                for (function, samples) in &mut measured {
                    let what = format!("round {round} of {}, {}", self.plan.rounds, function.name);
                    self.progress.set_message(what.clone());
                    let is_last = start == self.plan.cold;
                    self.run_process(function, samples, is_last).with_context(|| what)?;
                }
                measured.reverse();
            }
            // Only the last start of a round has warm invocations. Each round ends in the order opposite to the one before,
            // so that no function is always measured first, or always after the same other one.
            if self.plan.cold.is_multiple_of(2) {
                measured.reverse();
            }
        }
        // The turns may have left them in reverse.
        let mut summaries = Vec::new();
        for function in functions {
            let samples = measured.iter().find(|(known, _)| known.name == function.name);
            let (_, samples) = samples.context("a function was not measured")?;
            summaries.push(self.summarize(function, samples)?);
        }
        Ok(summaries)
    }

    /// Starts the functions without invoking them, and returns the time until they ask for work, in the same
    /// order.
    ///
    /// # Errors
    ///
    /// When a function does not start.
    pub(crate) fn run_starts(&mut self, functions: &[Function]) -> anyhow::Result<Vec<Start>> {
        let mut starts = vec![(Vec::new(), Vec::new()); functions.len()];
        for _ in 0..self.plan.starts() {
            for (function, (init_ms, init_cpu_ms)) in functions.iter().zip(&mut starts) {
                let (process, init) = Process::start(function, &self.environment)?;
                init_ms.push(milliseconds(init));
                init_cpu_ms.push(milliseconds(process.settled_cpu_time()?));
                self.progress.inc(1);
            }
        }
        let start = |(function, (init_ms, init_cpu_ms)): (&Function, (Vec<f64>, Vec<f64>))| {
            let median = |values: &[f64]| median(values).context("nothing was started");
            let (init_ms, init_cpu_ms) = (median(&init_ms)?, median(&init_cpu_ms)?);
            Ok(Start { name: function.name, init_ms, init_cpu_ms })
        };
        functions.iter().zip(starts).map(start).collect()
    }

    /// Cold starts of the receivers with this much memory, each with a first webhook, and with `warm` more once the
    /// function is warm. Returns the results in the same order.
    ///
    /// Init has the whole core, as on Lambda, and so has the warm-up, to save time. The rest has the memory's share.
    /// Source: Serverless Land, "Effectively running Java on Serverless", "Utilize initialization phase".
    ///
    /// # Errors
    ///
    /// When a function does not do what it should.
    pub(crate) fn run_at_memory(
        &mut self,
        functions: &[Function],
        memory_mb: u32,
        warm: usize,
    ) -> anyhow::Result<Vec<AtMemory>> {
        let size_bytes = *self.plan.sizes_bytes.first().context("no sizes")?;
        let mut samples = vec![(Vec::new(), Vec::new(), Vec::new(), Vec::new()); functions.len()];
        for _ in 0..self.plan.starts() {
            for (function, (init, first, cold, later)) in functions.iter().zip(&mut samples) {
                self.progress.set_message(format!("{memory_mb} MB, {}", function.name));
                let (mut process, start) = Process::start(function, &self.environment)?;
                process.throttle(memory_mb);
                let webhook = self.invoke(function, &mut process, size_bytes)?.latency;
                process.unthrottle();
                for _ in 0..self.plan.warm_up {
                    self.invoke(function, &mut process, size_bytes)?;
                }
                process.throttle(memory_mb);
                init.push(milliseconds(start));
                first.push(milliseconds(webhook));
                cold.push(milliseconds(start + webhook));
                for _ in 0..warm {
                    thread::sleep(BETWEEN_WEBHOOKS);
                    later.push(milliseconds(self.invoke(function, &mut process, size_bytes)?.latency));
                }
            }
        }
        let at_memory =
            |(function, (init, first, cold, later)): (&Function, (Vec<_>, Vec<_>, Vec<_>, Vec<_>))| {
                let median = |values: &[f64]| median(values).context("nothing was measured");
                Ok(AtMemory {
                    name: function.name,
                    memory_mb,
                    init_ms: median(&init)?,
                    first_request_ms: median(&first)?,
                    cold_ms: median(&cold)?,
                    warm_ms: median(&later)?,
                    warm_p99_ms: percentile(&later, 99).context("nothing was measured")?,
                })
            };
        functions.iter().zip(samples).map(at_memory).collect()
    }

    /// One process: a cold start, the first invocation, and the warm ones if it is their turn.
    fn run_process(
        &mut self,
        function: &Function,
        samples: &mut Samples,
        goes_on: bool,
    ) -> anyhow::Result<()> {
        let sizes_bytes = self.plan.sizes_bytes(function.input).to_vec();
        let first_size = *sizes_bytes.first().context("no sizes")?;
        let (mut process, init) = Process::start(function, &self.environment)?;
        let init_cpu = process.settled_cpu_time()?;
        let first = self.invoke(function, &mut process, first_size)?;
        let cold_cpu = process.settled_cpu_time()?;
        samples.init_ms.push(milliseconds(init));
        samples.init_cpu_ms.push(milliseconds(init_cpu));
        samples.first_ms.push(milliseconds(first.latency));
        samples.first_cpu_ms.push(milliseconds(cold_cpu.saturating_sub(init_cpu)));
        samples.cold_cpu_ms.push(milliseconds(cold_cpu));
        if goes_on {
            samples.warm.resize_with(sizes_bytes.len(), WarmSamples::default);
            for (size_bytes, samples) in sizes_bytes.into_iter().zip(&mut samples.warm) {
                self.run_warm(function, &mut process, size_bytes, samples)?;
            }
            samples.peak_memory_mib.push(f64::from(process.peak_memory_kib()?) / 1024.0);
            self.check_refusal(function, &mut process, first_size)?;
        }
        Ok(())
    }

    fn run_warm(
        &mut self,
        function: &Function,
        process: &mut Process,
        size_bytes: usize,
        samples: &mut WarmSamples,
    ) -> anyhow::Result<()> {
        let counted = self.plan.warm_up.min(COUNTED_ROUND_TRIPS);
        self.stub.slow_down_dynamodb(ROUND_TRIP);
        for _ in 0..counted {
            let calls = self.invoke(function, process, size_bytes)?.calls;
            samples.dynamodb_round_trips.push(count(round_trips(&calls))?);
        }
        self.stub.slow_down_dynamodb(Duration::ZERO);
        for _ in counted..self.plan.warm_up {
            self.invoke(function, process, size_bytes)?;
        }
        let mut left = self.plan.warm;
        while left > 0 {
            let chunk = left.min(CHUNK);
            let before = process.cpu_time()?;
            for _ in 0..chunk {
                let success = self.invoke(function, process, size_bytes)?;
                samples.latency_us.push(microseconds(success.latency));
                samples.dynamodb_calls.push(count(success.calls.len())?);
            }
            let cpu = process.cpu_time()?.saturating_sub(before);
            samples.cpu_us.push(microseconds(cpu / u32::try_from(chunk)?));
            left -= chunk;
        }
        Ok(())
    }

    /// One invocation that has to succeed.
    fn invoke(
        &mut self,
        function: &Function,
        process: &mut Process,
        size_bytes: usize,
    ) -> anyhow::Result<Success> {
        self.progress.inc(1);
        match function.input {
            Input::Webhook => {
                let webhook = self.sender.webhook(size_bytes, Integrity::Genuine)?;
                let invocation = process.invoke(webhook.request()?)?;
                let status = status(invocation.answer)?;
                ensure!(status == 200, "a genuine webhook was answered with {status}");
                let messages = self.stub.take_messages();
                let [message] = messages.as_slice() else {
                    bail!("an accepted webhook is on the queue {} times", messages.len());
                };
                let is_same = message.payload()? == webhook.payload.as_bytes();
                ensure!(is_same, "what is on the queue is not what was signed");
                Ok(Success { latency: invocation.latency, calls: self.stub.take_calls() })
            }
            Input::Batch => {
                let webhooks = self.webhooks(size_bytes)?;
                let (latency, calls) = self.invoke_with_batch(process, &webhooks)?;
                let to_ledger: Vec<_> = calls.iter().filter(|call| call.names(LEDGER_TABLE)).collect();
                for webhook in &webhooks {
                    let times = to_ledger.iter().filter(|call| call.names(&webhook.id)).count();
                    ensure!(
                        times >= 2,
                        "a record was in {times} requests to the ledger, not claimed and settled"
                    );
                    if let Some(table) = function.writes_to {
                        let is_written =
                            calls.iter().any(|call| call.names(table) && call.names(&webhook.id));
                        ensure!(is_written, "a record was not written to the table `{table}`");
                    }
                }
                Ok(Success { latency, calls })
            }
            Input::PowertoolsBatch => {
                let webhooks = self.webhooks(size_bytes)?;
                let (latency, calls) = self.invoke_with_batch(process, &webhooks)?;
                check_powertools_steps(&calls)?;
                Ok(Success { latency, calls })
            }
        }
    }

    /// Sends a batch in which no record may fail. Returns how long the answer took, and the requests to DynamoDB.
    fn invoke_with_batch(
        &mut self,
        process: &mut Process,
        webhooks: &[Webhook],
    ) -> anyhow::Result<(Duration, Vec<Call>)> {
        let invocation = process.invoke(batch(webhooks)?.to_string().into_bytes())?;
        let failed = failed_records(invocation.answer)?;
        ensure!(failed.is_empty(), "of {RECORDS} records, {} failed", failed.len());
        ensure!(self.stub.take_messages().is_empty(), "a genuine record was dead-lettered");
        Ok((invocation.latency, self.stub.take_calls()))
    }

    fn webhooks(&mut self, size_bytes: usize) -> anyhow::Result<Vec<Webhook>> {
        (0..RECORDS).map(|_| self.sender.webhook(size_bytes, Integrity::Genuine)).collect()
    }

    /// Sends a webhook that must be refused, so that no function is quick because it does not verify.
    fn check_refusal(
        &mut self,
        function: &Function,
        process: &mut Process,
        size_bytes: usize,
    ) -> anyhow::Result<()> {
        match function.input {
            Input::Webhook => {
                let webhook = self.sender.webhook(size_bytes, Integrity::Tampered)?;
                let status = status(process.invoke(webhook.request()?)?.answer)?;
                ensure!((400..500).contains(&status), "a tampered webhook was answered with {status}");
                ensure!(self.stub.take_messages().is_empty(), "a tampered webhook is on the queue");
                Ok(())
            }
            Input::Batch => {
                let mut batch = batch(&self.webhooks(size_bytes)?)?;
                let version = batch.pointer_mut("/Records/3/messageAttributes/format-version/stringValue");
                *version.context("a record has no format version")? = "0".into();
                let failed = failed_records(process.invoke(batch.to_string().into_bytes())?.answer)?;
                ensure!(
                    failed == [sqs_message_id(3)],
                    "a record of another format version was not left alone"
                );
                self.stub.take_calls();
                Ok(())
            }
            Input::PowertoolsBatch => {
                let mut batch = batch(&self.webhooks(size_bytes)?)?;
                *batch.pointer_mut("/Records/3/body").context("a record has no body")? = "{".into();
                let failed = failed_records(process.invoke(batch.to_string().into_bytes())?.answer)?;
                ensure!(failed == [sqs_message_id(3)], "a record that is not JSON was not left alone");
                let calls = self.stub.take_calls();
                let released = calls.iter().filter_map(Call::powertools_step);
                let released = released.filter(|step| matches!(step, PowertoolsStep::Release(_))).count();
                ensure!(released == 1, "a record failed, and {released} were released");
                Ok(())
            }
        }
    }

    fn summarize(&self, function: &Function, samples: &Samples) -> anyhow::Result<Summary> {
        let median = |values: &[f64]| median(values).context("nothing was measured");
        let sizes_bytes = self.plan.sizes_bytes(function.input);
        let warm = sizes_bytes.iter().zip(&samples.warm).map(|(size_bytes, samples)| {
            Ok(Warm {
                size_bytes: *size_bytes,
                cpu_us: median(&samples.cpu_us)?,
                latency_us: median(&samples.latency_us)?,
                latency_p99_us: percentile(&samples.latency_us, 99).context("nothing was measured")?,
                dynamodb_calls: median(&samples.dynamodb_calls)?,
                dynamodb_round_trips: median(&samples.dynamodb_round_trips)?,
            })
        });
        let zip_bytes = crate::artifact::zip_bytes(&function.code, &self.environment.logs)?;
        Ok(Summary {
            name: function.name,
            init_ms: median(&samples.init_ms)?,
            init_cpu_ms: median(&samples.init_cpu_ms)?,
            first_request_ms: median(&samples.first_ms)?,
            first_request_cpu_ms: median(&samples.first_cpu_ms)?,
            cold_cpu_ms: median(&samples.cold_cpu_ms)?,
            warm: warm.collect::<anyhow::Result<_>>()?,
            peak_memory_mib: median(&samples.peak_memory_mib)?,
            zip_kb: f64::from(u32::try_from(zip_bytes)?) / 1000.0,
        })
    }
}

/// Checks that Powertools for AWS Lambda has claimed and settled each record, and released none.
fn check_powertools_steps(calls: &[Call]) -> anyhow::Result<()> {
    let (mut claimed, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for step in calls.iter().filter_map(Call::powertools_step) {
        let is_new = match step {
            PowertoolsStep::Claim(id) => claimed.insert(id),
            PowertoolsStep::Settle(id) => settled.insert(id),
            PowertoolsStep::Release(_) => bail!("a record that did not fail was released"),
        };
        ensure!(is_new, "a record was claimed or settled twice");
    }
    ensure!(
        claimed.len() == RECORDS && claimed == settled,
        "of {RECORDS} records, {} were claimed and {} settled",
        claimed.len(),
        settled.len()
    );
    Ok(())
}

/// The HTTP status in a receiver's answer.
fn status(answer: Answer) -> anyhow::Result<u16> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Response {
        status_code: u16,
    }

    let response = serde_json::from_slice::<Response>(&response(answer)?);
    Ok(response.context("the answer is no response for API Gateway")?.status_code)
}

/// SQS's ids of the failed records, from a consumer's answer. Any other answer is an error: Lambda reads an answer
/// without the list as complete success.
fn failed_records(answer: Answer) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Response {
        batch_item_failures: Vec<Failure>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Failure {
        item_identifier: String,
    }

    let response = serde_json::from_slice::<Response>(&response(answer)?);
    let failures = response.context("the answer is no response to a batch")?.batch_item_failures;
    Ok(failures.into_iter().map(|failure| failure.item_identifier).collect())
}

fn response(answer: Answer) -> anyhow::Result<Vec<u8>> {
    match answer {
        Answer::Response(body) => Ok(body),
        Answer::Error(body) => bail!("the function failed: {}", String::from_utf8_lossy(&body)),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn count(number: usize) -> anyhow::Result<f64> {
    Ok(f64::from(u32::try_from(number)?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    fn response(body: &str) -> Answer {
        Answer::Response(body.as_bytes().to_vec())
    }

    #[test]
    fn the_status_is_that_of_the_response() {
        assert_eq!(status(response(r#"{"statusCode":200,"headers":{}}"#)).unwrap(), 200);
        assert!(status(response(r#""ok""#)).is_err());
        assert!(status(Answer::Error(b"{}".to_vec())).is_err());
    }

    #[test]
    fn only_an_empty_list_says_that_no_record_failed() {
        assert_eq!(failed_records(response(r#"{"batchItemFailures":[]}"#)).unwrap(), [""; 0]);
        let failed = response(r#"{"batchItemFailures":[{"itemIdentifier":"a"}]}"#);
        assert_eq!(failed_records(failed).unwrap(), ["a"]);
        for body in ["{}", "null", r#"{"batchItemFailures":null}"#, r#"{"batchItemFailure":[]}"#] {
            assert!(failed_records(response(body)).is_err(), "{body}");
        }
        assert!(failed_records(Answer::Error(b"{}".to_vec())).is_err());
    }

    #[test]
    fn the_plan_counts_every_invocation() {
        let plan = Plan { rounds: 2, cold: 3, warm_up: 30, warm: 10, sizes_bytes: vec![400, 10_000] };
        assert_eq!(plan.invocations(Input::Webhook), 2 * (3 + 2 * (30 + 10)));
        assert_eq!(plan.invocations(Input::Batch), 2 * (3 + 30 + 10));
    }

    /// Requests to the table of Powertools for AWS Lambda.
    fn powertools_calls(ids: impl IntoIterator<Item = usize>, is_claim: bool) -> Vec<Call> {
        let call = |id: usize| {
            let entry = json!({"id": {"S": id.to_string()}});
            let body = if is_claim {
                json!({"TableName": "idempotency", "Item": entry})
            } else {
                json!({"TableName": "idempotency", "Key": entry, "UpdateExpression": "SET a = :a"})
            };
            let now = Instant::now();
            Call { arrived: now, answered: now, body: body.to_string().into_bytes() }
        };
        ids.into_iter().map(call).collect()
    }

    #[test]
    fn each_record_has_to_be_claimed_and_settled_once() {
        let claims = powertools_calls(0..RECORDS, true);
        let all = [claims, powertools_calls(0..RECORDS, false)].concat();
        check_powertools_steps(&all).unwrap();
        for missing in [0, RECORDS] {
            let mut calls = all.clone();
            calls.remove(missing);
            assert!(check_powertools_steps(&calls).is_err());
        }
        let twice = [all, powertools_calls([3], true)].concat();
        assert!(check_powertools_steps(&twice).is_err());
    }
}
