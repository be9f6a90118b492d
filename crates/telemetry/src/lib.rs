//! What the Lambdas write to CloudWatch: one JSON object per line.
//!
//! Lambda takes `timestamp` and `level` from the line only where `timestamp` is RFC 3339; without
//! it every line counts as INFO and level filters lose errors. `lambda_runtime`'s own subscriber
//! leaves the timestamp out, so the Lambdas use this one.
//! Source: AWS Lambda developer guide, "Configuring JSON and plain text log formats".

use std::io;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Logs JSON lines to standard output, at the level in `AWS_LAMBDA_LOG_LEVEL` (INFO without it).
/// Panics become such a line too, without their message, which may quote a payload.
///
/// Call it once, first thing in `main`; a second call changes nothing.
pub fn init() {
    let level = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("AWS_LAMBDA_LOG_LEVEL")
        .from_env_lossy();
    // A second call finds a subscriber in place and leaves it there.
    if tracing::subscriber::set_global_default(subscriber(level, io::stdout)).is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

fn subscriber<W>(level: EnvFilter, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(level)
        .with_writer(writer)
        .finish()
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

    fn capture(level: &str, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(EnvFilter::new(level), move || writer.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_json_with_an_rfc_3339_timestamp_and_a_level() {
        let line = capture("info", || tracing::warn!(outcome = "refused", "refused a request"));
        let (timestamp, rest) = line.split_at(r#"{"timestamp":"2026-11-23T14:20:00.000000Z""#.len());
        assert!(timestamp.starts_with(r#"{"timestamp":"20"#) && timestamp.ends_with("Z\""), "{line}");
        assert!(
            rest.starts_with(r#","level":"WARN","message":"refused a request","outcome":"refused""#),
            "{line}"
        );
    }

    #[test]
    fn lines_below_the_level_are_left_out() {
        assert_eq!(capture("error", || tracing::info!("accepted a webhook")), "");
    }
}
