//! The Lambdas' logs for CloudWatch: one JSON object per line.
//!
//! [`WideEvent`] is the line of one unit of work, with its metrics; [`init`] sets up `tracing` for all other
//! lines.
//!
//! Lambda reads `timestamp` and `level` from the line only if `timestamp` is RFC 3339; without it every line
//! counts as INFO and level filters lose errors. `lambda_runtime`'s own subscriber leaves the timestamp out, so
//! the Lambdas use this one.
//! Source: AWS Lambda developer guide, "Configuring JSON and plain text log formats".

mod wide_event;

use std::io::{self, Write};
use std::panic::PanicHookInfo;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

pub use wide_event::{Dimensions, NAMESPACE, Place, Unit, WideEvent};

/// The version of the product, and the commit of an optimised build: `0.1.0+1a2b3c4d5e`. `.dirty` follows if the sources
/// differed from that commit. Other builds, and those outside a repository, are only the version.
pub const BUILD: &str = env!("LEARNINK_BUILD");

/// The crates whose lines follow the requested level.
const OURS: [&str; 3] = ["learnink", "receiver", "consumer"];

/// Logs JSON lines to standard output, our own at the level in `AWS_LAMBDA_LOG_LEVEL` and above, or INFO if it is
/// not set or not a level. `variable` looks up an environment variable.
///
/// Libraries log only errors, at any level: the Lambda runtime and the AWS SDK write whole requests at TRACE, with
/// payloads and signatures, and whole responses in some warnings. Panics are logged too, without their message,
/// which may quote a payload.
///
/// Call it once, first in `main`; a second call changes nothing.
pub fn init(variable: impl Fn(&str) -> Option<String>) {
    let subscriber = subscriber(variable("AWS_LAMBDA_LOG_LEVEL").as_deref(), io::stdout);
    // A second call leaves the first subscriber in place.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

fn subscriber<W>(level: Option<&str>, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // An empty text would be read as ERROR, and without INFO the metrics would be lost.
    let level = level.map(str::trim).filter(|level| !level.is_empty());
    let level = level.and_then(|level| level.parse::<LevelFilter>().ok()).unwrap_or(LevelFilter::INFO);
    let ours = OURS.map(|target| (target, level));
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_targets(ours);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(WithBuild(writer));
    tracing_subscriber::registry().with(targets).with(lines)
}

/// Adds [`BUILD`] to the end of each line. The formatter has no fields of its own.
struct WithBuild<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for WithBuild<W> {
    type Writer = WithBuild<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        WithBuild(self.0.make_writer())
    }
}

impl<W: Write> Write for WithBuild<W> {
    /// The formatter passes whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match line.strip_suffix(b"}\n") {
            Some(open) => self.0.write_all(&[open, b",\"build\":\"", BUILD.as_bytes(), b"\"}\n"].concat())?,
            None => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(panic.location = location, "panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(level: Option<&str>, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(level, move || writer.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_json_with_an_rfc_3339_timestamp_and_a_level() {
        let line = capture(None, || tracing::warn!(outcome = "refused", "refused a request"));
        let (timestamp, rest) = line.split_at(r#"{"timestamp":"2026-11-23T14:20:00.000000Z""#.len());
        assert!(timestamp.starts_with(r#"{"timestamp":"20"#) && timestamp.ends_with("Z\""), "{line}");
        assert!(
            rest.starts_with(r#","level":"WARN","message":"refused a request","outcome":"refused""#),
            "{line}"
        );
    }

    #[test]
    fn each_line_says_which_code_wrote_it() {
        for line in [capture(None, || tracing::info!("x")), capture(None, || tracing::error!(at = "}", "}}"))]
        {
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&parsed["build"], line.lines().count()), (&BUILD.into(), 1), "{line}");
        }
        assert!(BUILD.starts_with(env!("CARGO_PKG_VERSION")), "{BUILD}");
    }

    #[test]
    fn our_lines_follow_the_level() {
        let log = || tracing::info!("accepted a webhook");
        assert_eq!(capture(Some("ERROR"), log), "");
        for level in [Some("INFO"), Some(" info\n"), Some("TRACE"), Some("loud"), Some(""), Some(" "), None] {
            assert!(capture(level, log).contains("accepted a webhook"), "{level:?}");
        }
    }

    #[test]
    fn libraries_never_log_whole_requests_or_responses() {
        let log = || {
            tracing::trace!(target: "lambda_runtime::layers", "the request");
            tracing::info!(target: "aws_smithy_runtime", "the request");
            tracing::warn!(target: "aws_config", "the response");
            tracing::error!(target: "lambda_runtime", "an error");
        };
        let lines = capture(Some("TRACE"), log);
        assert!(lines.contains("an error") && lines.lines().count() == 1, "{lines}");
    }
}
