//! A plot as SVG: panels of horizontal bars, ours in colour. The colours follow the reader's light or dark scheme, and
//! the background is the plot's own, so that it is readable on any page.

use std::fmt::Write as _;

/// One measurement of several functions. The first is ours.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// What was measured, and its unit.
    pub(crate) title: String,
    /// How many digits of a value are shown after the point.
    pub(crate) digits: usize,
    /// The functions.
    pub(crate) bars: Vec<Bar>,
}

/// One function's value.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// The function.
    pub(crate) label: &'static str,
    /// Its value.
    pub(crate) value: f64,
}

/// Panels side by side.
const COLUMNS: usize = 2;

/// All of these are in the SVG's units.
const MARGIN: usize = 24;
const PANEL_WIDTH: usize = 392;
const TITLE_HEIGHT: usize = 34;
const BAR_HEIGHT: usize = 18;
const BAR_DISTANCE: usize = 26;
const PANEL_DISTANCE: usize = 26;
const LABEL_WIDTH: usize = 76;
/// As wide as the longest bar.
const BARS_WIDTH: usize = 232;

const STYLE: &str = "\
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.background { fill: #ffffff }
.ours { fill: #0969da }
.peer { fill: #9aa4af }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .background { fill: #0d1117 }
  .ours { fill: #4493f8 }
  .peer { fill: #656d76 }
}";

/// The SVG. `description` is for those who do not see it.
pub(crate) fn svg(description: &str, panels: &[Panel]) -> String {
    let mut content = String::new();
    let mut y = MARGIN;
    for row in panels.chunks(COLUMNS) {
        for (column, panel) in row.iter().enumerate() {
            draw(panel, MARGIN + column * (PANEL_WIDTH + MARGIN), y, &mut content);
        }
        let most_bars = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        y += TITLE_HEIGHT + most_bars * BAR_DISTANCE + PANEL_DISTANCE;
    }
    let width = MARGIN + COLUMNS * (PANEL_WIDTH + MARGIN);
    let height = (y + MARGIN).saturating_sub(PANEL_DISTANCE);
    let description = escape(description);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{description}</title>\n<style>\n{STYLE}\n</style>\n\
         <rect class=\"background\" width=\"{width}\" height=\"{height}\"/>\n{content}</svg>\n"
    )
}

fn draw(panel: &Panel, x: usize, y: usize, content: &mut String) {
    let largest = panel.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    // Writing to a string does not fail.
    let _ =
        writeln!(content, "<text class=\"title\" x=\"{x}\" y=\"{}\">{}</text>", y + 16, escape(&panel.title));
    for (index, bar) in panel.bars.iter().enumerate() {
        let class = if index == 0 { "ours" } else { "peer" };
        let top = y + TITLE_HEIGHT + index * BAR_DISTANCE;
        let (left, baseline) = (x + LABEL_WIDTH, top + 14);
        let width = width(bar.value, largest);
        let _ = writeln!(content, "<text x=\"{x}\" y=\"{baseline}\">{}</text>", escape(bar.label));
        let _ = writeln!(
            content,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>"
        );
        let _ = writeln!(
            content,
            "<text x=\"{:.1}\" y=\"{baseline}\">{:.*}</text>",
            units(left) + width + 6.0,
            panel.digits,
            bar.value
        );
    }
}

/// A bar's width. The smallest is still visible.
fn width(value: f64, largest: f64) -> f64 {
    let share = if largest > 0.0 { value / largest } else { 0.0 };
    (share * units(BARS_WIDTH)).max(1.0)
}

fn units(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_a_bar_as_long_as_its_value() {
        let panel = Panel {
            title: "CPU < 1 ms".to_owned(),
            digits: 1,
            bars: vec![Bar { label: "ours", value: 0.5 }, Bar { label: "Node.js", value: 20.0 }],
        };
        insta::assert_snapshot!(svg("What one costs & another", &[panel]));
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_plot() {
        let panel = Panel { title: String::new(), digits: 0, bars: vec![Bar { label: "ours", value: 0.0 }] };
        for plot in [svg("", &[]), svg("", &[panel])] {
            assert!(
                plot.starts_with("<svg ") && plot.ends_with("</svg>\n") && !plot.contains("NaN"),
                "{plot}"
            );
        }
    }
}
