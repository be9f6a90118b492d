//! A picture of a run: how long answers took, and how many messages waited, over the time.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a picture is not that precise, and its times are not negative"
)]

use std::fmt::Write as _;
use std::time::Duration;

use crate::percentile::percentile;

/// The size of the picture and of its two plots, in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const PLOT_HEIGHT: f64 = 180.0;

/// How many points a line has at most.
const MOST_POINTS: u64 = 300;

/// One answer: when it was due after the start, and how long after that it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) took: Duration,
}

/// One count of the queue: when, and how many messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    pub(super) at: Duration,
    pub(super) messages: usize,
}

/// The picture as SVG. Its colours follow the reader's preference for light or dark.
pub(super) fn svg(title: &str, samples: &[Sample], depths: &[Depth]) -> String {
    let end =
        samples.iter().map(|one| one.at).chain(depths.iter().map(|one| one.at)).max().unwrap_or_default();
    let end = end.as_secs_f64().max(1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\">\n<title>{title}</title>\n<style>\n\
         svg{{color:#1f2328;background:#fff;font:13px system-ui,sans-serif}}\n\
         .p50{{stroke:#1a7f37}}.p99{{stroke:#0969da}}.max{{stroke:#9a6700}}.depth{{stroke:#8250df}}\n\
         .p50,.p99,.max,.depth{{fill:none;stroke-width:1.5}}\n\
         @media(prefers-color-scheme:dark){{svg{{color:#e6edf3;background:#0d1117}}\
         .p50{{stroke:#3fb950}}.p99{{stroke:#58a6ff}}.max{{stroke:#d29922}}.depth{{stroke:#bc8cff}}}}\n\
         </style>\n<text x=\"{LEFT}\" y=\"24\" fill=\"currentColor\" font-weight=\"600\">{title}</text>\n",
        title = escaped(title)
    );
    let latencies = quantiles(samples, end);
    let milliseconds = |index: usize| -> Vec<(f64, f64)> {
        latencies.iter().filter_map(|(at, values)| Some((*at, *values.get(index)?))).collect()
    };
    plot(
        &mut svg,
        60.0,
        end,
        "answer, ms after it was due",
        &[("p50", milliseconds(0)), ("p99", milliseconds(1)), ("max", milliseconds(2))],
    );
    let depths = depths.iter().map(|one| (one.at.as_secs_f64(), one.messages as f64)).collect();
    plot(&mut svg, 60.0 + PLOT_HEIGHT + 60.0, end, "messages on the queue", &[("depth", depths)]);
    svg.push_str("</svg>\n");
    svg
}

/// The median, the 99th percentile and the slowest answer of each part of the time, in milliseconds.
fn quantiles(samples: &[Sample], end: f64) -> Vec<(f64, [f64; 3])> {
    // A second, or longer if there would be too many points.
    let parts = (end.ceil() as u64).clamp(1, MOST_POINTS);
    let length = end / parts as f64;
    let mut sorted = samples.to_vec();
    sorted.sort_by_key(|one| one.at);
    let part = |one: &Sample| (one.at.as_secs_f64() / length).min(parts as f64 - 1.0) as u64;
    let of_part = |samples: &[Sample]| {
        let mut took: Vec<_> = samples.iter().map(|one| one.took).collect();
        took.sort_unstable();
        let at = |percent| percentile(&took, percent).as_secs_f64() * 1000.0;
        let number = samples.first().map(part).unwrap_or_default();
        ((number as f64 + 0.5) * length, [at(50.0), at(99.0), at(100.0)])
    };
    sorted.chunk_by(|a, b| part(a) == part(b)).map(of_part).collect()
}

fn plot<const LINES: usize>(
    svg: &mut String,
    top: f64,
    end: f64,
    name: &str,
    lines: &[(&str, Vec<(f64, f64)>); LINES],
) {
    let most = lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value).fold(1.0, f64::max);
    let (bottom, right) = (top + PLOT_HEIGHT, WIDTH - RIGHT);
    let x = |at: f64| LEFT + at / end * (right - LEFT);
    let y = |value: f64| bottom - value / most * PLOT_HEIGHT;
    // Writing to a `String` does not fail.
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" fill=\"currentColor\">{name}</text>", top - 8.0);
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"currentColor\" opacity=\"0.4\"/>"
    );
    for share in [0.0, 0.5, 1.0] {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"currentColor\">{:.0}</text>",
            LEFT - 6.0,
            y(most * share) + 4.0,
            most * share
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"currentColor\">{:.0} s</text>",
            x(end * share).min(right - 14.0),
            bottom + 18.0,
            end * share
        );
    }
    for (index, (class, points)) in lines.iter().enumerate() {
        let path: Vec<_> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(" "));
        let from_right = (LINES - index) as f64 * 60.0;
        let (at, above) = (right - from_right, top - 12.0);
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{at} {above}h16\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" fill=\"currentColor\">{class}</text>",
            at + 20.0,
            above + 4.0
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, took_ms: u64) -> Sample {
        Sample { at: Duration::from_millis(at_ms), took: Duration::from_millis(took_ms) }
    }

    #[test]
    fn each_second_has_its_own_quantiles() {
        let samples: Vec<_> =
            (0..100).map(|n| sample(n * 10, n + 1)).chain([sample(1500, 7), sample(1999, 9)]).collect();
        let found = quantiles(&samples, 2.0);
        assert_eq!(found, [(0.5, [50.0, 99.0, 100.0]), (1.5, [7.0, 9.0, 9.0])]);
    }

    #[test]
    fn a_long_run_has_no_more_points_than_can_be_seen() {
        let samples: Vec<_> = (0..7200).map(|second| sample(second * 1000, 1)).collect();
        assert!(quantiles(&samples, 7200.0).len() <= MOST_POINTS as usize);
    }

    #[test]
    fn a_title_cannot_end_its_element_and_a_run_without_answers_is_a_picture() {
        let picture = svg("\"><script>", &[], &[]);
        assert!(!picture.contains("<script>") && picture.contains("&quot;&gt;&lt;script&gt;"), "{picture}");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        assert!(picture.ends_with("</svg>\n"));
    }
}
