//! The comparison with peers as Markdown, and its place in a page.

use anyhow::{Context, ensure};

use crate::measure::Plan;
use crate::peers::Group;
use crate::report;
use crate::summary::{AtMemory, Summary};
use crate::targets::Verdict;

/// The lines around the comparison in a page.
const BEGINS: &str = "<!-- scripts/bench --peers -->\n";
const ENDS: &str = "<!-- end of scripts/bench --peers -->\n";

const AT_SMALLEST_MEMORY: &str = "\
### At 128 MB

The receivers with the share of a core that Lambda gives to a function with 128 MB: 128/1769, in periods of 20 ms. Init
has a whole core, as on Lambda. `together` is how long the sender waits for the answer to the first webhook, and `warm`
how long for a later one, when the function is warm and webhooks are further apart than a period.";

/// What a run beside peers has shown.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    /// How much was measured.
    pub(crate) plan: &'a Plan,
    /// The versions of the peers.
    pub(crate) versions: String,
    /// The machine's load averages before the run and after it.
    pub(crate) loads: [String; 2],
    /// The functions, and their medians in the same order.
    pub(crate) groups: Vec<(&'a Group, Vec<&'a Summary>)>,
    /// The receivers with little memory.
    pub(crate) at_memory: (&'a Group, &'a [AtMemory]),
    /// The targets.
    pub(crate) verdicts: &'a [Verdict],
}

/// The tables, and how they were measured.
pub(crate) fn markdown(comparison: &Comparison<'_>) -> String {
    let Comparison { plan, versions, loads: [before, after], groups, at_memory, verdicts } = comparison;
    let mut parts = vec![format!(
        "Medians of {} rounds: {} cold starts, and {} warm invocations of each size. In each round, {} more come before \
         them, to warm up.\nThe machine's load averages (1, 5, 15 minutes) were {before} before the run and {after} \
         after it.\n{versions}",
        plan.rounds,
        plan.starts(),
        plan.rounds * plan.warm,
        plan.warm_up,
    )];
    for (group, summaries) in groups {
        let figures = group.figures(&plan.sizes_bytes);
        parts.push(report::beside_table(group.name, &group.labels, summaries, &figures));
    }
    parts.push(report::target_table(report::SHARES, verdicts));
    let (receivers, functions) = at_memory;
    parts.push(AT_SMALLEST_MEMORY.to_owned());
    parts.push(report::at_memory_table(&receivers.labels, functions));
    parts.join("\n\n")
}

/// The page with this comparison in the place of the one before.
///
/// # Errors
///
/// When the page does not have the markers, in their order.
pub(crate) fn replace(page: &str, comparison: &str) -> anyhow::Result<String> {
    let markers = || format!("the page needs the lines `{}` and `{}`", BEGINS.trim_end(), ENDS.trim_end());
    let (before, rest) = page.split_once(BEGINS).with_context(markers)?;
    let (_, after) = rest.split_once(ENDS).with_context(markers)?;
    ensure!(!after.contains(BEGINS), "the page has more than one place for the comparison");
    Ok(format!("{before}{BEGINS}\n{comparison}\n\n{ENDS}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("before\n\n{BEGINS}old\n{ENDS}\nafter\n");
        let replaced = replace(&page, "| new |").unwrap();
        assert_eq!(replaced, format!("before\n\n{BEGINS}\n| new |\n\n{ENDS}\nafter\n"));
        assert_eq!(replace(&replaced, "| new |").unwrap(), replaced);
    }

    #[test]
    fn a_page_without_its_markers_is_left_alone() {
        for page in
            [String::new(), BEGINS.to_owned(), format!("{ENDS}{BEGINS}"), format!("{BEGINS}{ENDS}{BEGINS}")]
        {
            assert!(replace(&page, "").is_err(), "{page}");
        }
    }
}
