//! The same work in other languages: a receiver and a consumer in Node.js and in Python, written as the documentation
//! of their libraries shows them (`benches/peers`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::batch::{RECORD_BYTES, RECORDS};
use crate::dynamodb::IDEMPOTENCY_TABLE;
use crate::plot::{Bar, Panel};
use crate::process::{Code, Function, Input};
use crate::report::{self, Figure};
use crate::summary::{AtMemory, Summary, Warm};

/// How many invocations of each size come before those that count: Node.js takes long to get quick.
pub(crate) const WARM_UP: usize = 100;

/// The memory of the smallest function, in MB.
pub(crate) const SMALLEST_MEMORY_MB: u32 = 128;

/// How many webhooks count at that memory, once a function is warm.
pub(crate) const WARM_AT_SMALLEST_MEMORY: usize = 10;

/// The functions' names in tables.
const OURS: &str = "ours";
const NODE: &str = "Node.js";
const PYTHON: &str = "Python";

/// Functions that do the same work.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// What they do, such as `receiver`.
    pub(crate) name: &'static str,
    /// The functions, ours first.
    pub(crate) functions: Vec<Function>,
    /// Their names in this group, in the same order.
    pub(crate) labels: Vec<&'static str>,
}

impl Group {
    /// The rows of a table of its functions.
    pub(crate) fn figures(&self, sizes_bytes: &[usize]) -> Vec<Figure> {
        match self.functions.first().map(|function| function.input) {
            Some(Input::Webhook) => receiver_figures(sizes_bytes),
            Some(Input::Batch | Input::PowertoolsBatch) => consumer_figures(),
            None => Vec::new(),
        }
    }

    /// The summaries of its functions, in their order.
    ///
    /// # Errors
    ///
    /// When one of them was not measured.
    pub(crate) fn of<'a>(&self, summaries: &'a [Summary]) -> anyhow::Result<Vec<&'a Summary>> {
        let of = |function: &Function| {
            let summary = summaries.iter().find(|summary| summary.name == function.name);
            summary.with_context(|| format!("`{}` was not measured", function.name))
        };
        self.functions.iter().map(of).collect()
    }
}

/// What `scripts/bench` has installed.
#[derive(Debug)]
pub(crate) struct Peers {
    folder: PathBuf,
    node_certificates: PathBuf,
    /// The variables of a receiver.
    receiver: Vec<(&'static str, String)>,
}

impl Peers {
    /// The peers in this folder, which verify with `secret` and send to the queue at `queue_url`. Node.js has root
    /// certificates of its own, and is given only the stub's.
    ///
    /// # Errors
    ///
    /// When they are not installed.
    pub(crate) fn new(
        folder: &Path,
        certificates: &Path,
        secret: &str,
        queue_url: &str,
    ) -> anyhow::Result<Self> {
        let installed =
            |path: &Path| fs::canonicalize(path).context("`scripts/bench --peers` installs the peers");
        Ok(Self {
            folder: installed(folder)?,
            node_certificates: installed(&certificates.join("root.pem"))?,
            receiver: vec![("WEBHOOK_SECRET", secret.to_owned()), ("QUEUE_URL", queue_url.to_owned())],
        })
    }

    /// The packages and their versions, as the script noted them.
    ///
    /// # Errors
    ///
    /// When it did not.
    pub(crate) fn versions(&self) -> anyhow::Result<String> {
        let versions = fs::read_to_string(self.folder.join("versions"));
        Ok(versions.context("reading the peers' versions")?.trim().to_owned())
    }

    /// The receivers: ours, the tutorial's, and the peers'.
    pub(crate) fn receivers(&self, ours: Function, tutorial: Function) -> Group {
        let node = self.node("receiver, Node.js", "receiver", Input::Webhook, &self.receiver);
        let python =
            self.python("receiver, Python", "receiver", "receiver.handler", Input::Webhook, &self.receiver);
        Group {
            name: "receiver",
            functions: vec![ours, tutorial, node, python],
            labels: vec![OURS, "tutorial", NODE, PYTHON],
        }
    }

    /// The consumers with a no-op handler.
    pub(crate) fn no_op_consumers(&self, ours: Function) -> Group {
        let names = ["consumer, no-op handler, Node.js", "consumer, no-op handler, Python"];
        self.consumers("consumer, no-op handler", names, ours, None)
    }

    /// The consumers that write to the learners' table.
    pub(crate) fn consumers_with_table(&self, ours: Function) -> Group {
        let names = ["consumer, Node.js", "consumer, Python"];
        self.consumers("consumer", names, ours, Some(("LEARNERS_TABLE", "learners".to_owned())))
    }

    fn consumers(
        &self,
        name: &'static str,
        [node, python]: [&'static str; 2],
        ours: Function,
        table: Option<(&'static str, String)>,
    ) -> Group {
        let variables = [
            Some(("IDEMPOTENCY_TABLE", IDEMPOTENCY_TABLE.to_owned())),
            Some(("POWERTOOLS_SERVICE_NAME", "bench".to_owned())),
            table,
        ];
        let variables: Vec<_> = variables.into_iter().flatten().collect();
        let input = Input::PowertoolsBatch;
        let node = self.node(node, "consumer", input, &variables);
        let python = self.python(python, "consumer", "consumer.handler", input, &variables);
        Group { name, functions: vec![ours, node, python], labels: vec![OURS, NODE, PYTHON] }
    }

    fn node(
        &self,
        name: &'static str,
        folder: &str,
        input: Input,
        variables: &[(&'static str, String)],
    ) -> Function {
        let node = self.folder.join("node");
        let certificates = self.node_certificates.display().to_string();
        let runtime = [
            ("AWS_EXECUTION_ENV", "AWS_Lambda_nodejs24.x".to_owned()),
            ("NODE_EXTRA_CA_CERTS", certificates),
        ];
        let code = Code::Handler {
            folder: node.join(folder),
            handler: "index.handler",
            interpreter: node.join("node"),
            runtime: vec![node.join("node_modules/aws-lambda-ric/index.mjs").into_os_string()],
        };
        Function { name, code, input, writes_to: None, variables: [&runtime, variables].concat() }
    }

    fn python(
        &self,
        name: &'static str,
        folder: &str,
        handler: &'static str,
        input: Input,
        variables: &[(&'static str, String)],
    ) -> Function {
        let python = self.folder.join("python");
        let runtime = [
            ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11".to_owned()),
            ("PYTHONPATH", python.join("runtime").display().to_string()),
        ];
        let code = Code::Handler {
            folder: python.join(folder),
            handler,
            interpreter: python.join("python"),
            runtime: ["-m", "awslambdaric"].map(OsString::from).into(),
        };
        Function { name, code, input, writes_to: None, variables: [&runtime, variables].concat() }
    }
}

fn receiver_figures(sizes_bytes: &[usize]) -> Vec<Figure> {
    let of_size = |&size_bytes: &usize| {
        let size = report::size(size_bytes);
        [
            warm(format!("{size}, CPU µs"), 0, size_bytes, |warm| warm.cpu_us),
            warm(format!("{size}, p50 µs"), 0, size_bytes, |warm| warm.latency_us),
            warm(format!("{size}, p99 µs"), 0, size_bytes, |warm| warm.latency_p99_us),
        ]
    };
    let warm = sizes_bytes.iter().flat_map(of_size);
    cold_figures("webhook").into_iter().chain(warm).chain(size_figures()).collect()
}

fn consumer_figures() -> Vec<Figure> {
    let warm = [
        warm("batch, CPU ms".to_owned(), 2, RECORD_BYTES, |warm| warm.cpu_us / 1e3),
        warm("batch, p50 ms".to_owned(), 2, RECORD_BYTES, |warm| warm.latency_us / 1e3),
        warm("batch, p99 ms".to_owned(), 2, RECORD_BYTES, |warm| warm.latency_p99_us / 1e3),
        warm("DynamoDB calls".to_owned(), 0, RECORD_BYTES, |warm| warm.dynamodb_calls),
        warm("round trips".to_owned(), 0, RECORD_BYTES, |warm| warm.dynamodb_round_trips),
    ];
    cold_figures("batch").into_iter().chain(warm).chain(size_figures()).collect()
}

fn cold_figures(input: &str) -> [Figure; 3] {
    [
        Figure::new("init ms", 1, |summary| Some(summary.init_ms)),
        Figure::new(format!("first {input} ms"), 1, |summary| Some(summary.first_request_ms)),
        Figure::new("cold CPU ms", 1, |summary| Some(summary.cold_cpu_ms)),
    ]
}

fn size_figures() -> [Figure; 2] {
    [
        Figure::new("peak MiB", 1, |summary| Some(summary.peak_memory_mib)),
        Figure::new("zip kB", 0, |summary| Some(summary.zip_kb)),
    ]
}

fn warm(name: String, digits: usize, size_bytes: usize, figure: fn(&Warm) -> f64) -> Figure {
    Figure::new(name, digits, move |summary| summary.warm(size_bytes).map(figure))
}

/// The plot of a run: what a webhook and a batch cost, and what a sender waits for.
///
/// # Errors
///
/// When something was not measured.
pub(crate) fn panels(
    receivers: &Group,
    consumers: &Group,
    summaries: &[Summary],
    at_memory: &[AtMemory],
) -> anyhow::Result<Vec<Panel>> {
    let panel = |group: &Group, title: &str, digits, figure: fn(&Summary) -> Option<f64>| {
        let bars = group.labels.iter().zip(group.of(summaries)?).map(|(label, summary)| {
            let value = figure(summary).context("a plotted size was not measured")?;
            Ok(Bar { label, value })
        });
        let bars = bars.collect::<anyhow::Result<_>>()?;
        Ok::<_, anyhow::Error>(Panel { title: title.to_owned(), digits, bars })
    };
    let Some(smallest) = at_memory.first().map(|function| function.memory_mb) else {
        bail!("nothing was measured with little memory");
    };
    let bars = receivers.labels.iter().zip(at_memory);
    let waits = Panel {
        title: format!("First webhook after a cold start, {smallest} MB: ms"),
        digits: 0,
        bars: bars.map(|(label, function)| Bar { label, value: function.cold_ms }).collect(),
    };
    Ok(vec![
        panel(receivers, "Receiver, cold start: CPU ms", 0, |summary| Some(summary.cold_cpu_ms))?,
        waits,
        panel(receivers, "Receiver, a small webhook: CPU µs", 0, |summary| {
            summary.warm.first().map(|warm| warm.cpu_us)
        })?,
        panel(consumers, &format!("Consumer, a batch of {RECORDS}: CPU ms"), 1, |summary| {
            summary.warm(RECORD_BYTES).map(|warm| warm.cpu_us / 1e3)
        })?,
        panel(receivers, "Receiver, peak memory: MiB", 0, |summary| Some(summary.peak_memory_mib))?,
        panel(consumers, "Consumer, peak memory: MiB", 0, |summary| Some(summary.peak_memory_mib))?,
    ])
}
