//! `learnink man`: the manual pages, one for each command.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;
use learnink_local::terminal::quoted;
use roff::{Roff, roman};

use crate::output::print;

/// Options of `learnink man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It writes a page for each command, such as learnink-secret-put.1, in place of an earlier one of that name.

Examples:
  learnink man ~/.local/share/man/man1
  man learnink-secret-put")]
pub(crate) struct Args {
    /// Folder to write the pages to; it is made if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(args: &Args, command: Command) -> anyhow::Result<()> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", quoted(folder)))?;
    let pages = pages(command).context("a page cannot be made")?;
    for (name, page) in &pages {
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", quoted(&path)))?;
    }
    print(format!(
        "wrote {} pages to {}; read the first with: {}",
        pages.len(),
        quoted(folder),
        first(folder)
    ))
}

/// The line that shows the first page.
fn first(folder: &Path) -> String {
    format!("man {}", quoted(folder.join("learnink.1")))
}

/// The file name and the text of each page: of the command, and of those below it.
fn pages(command: Command) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    // `help` would have a page for each command once more.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let mut waiting = vec![command];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().filter(|below| !below.is_hide_set()).cloned());
        pages.push(page(&command)?);
    }
    pages.sort();
    Ok(pages)
}

fn page(command: &Command) -> std::io::Result<(String, Vec<u8>)> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone()).source(concat!("learnink ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if !after.is_empty() {
        notes(&after).to_writer(&mut page)?;
    }
    Ok((man.get_filename(), page))
}

/// The text below the help. Its indented lines, which are commands to type, are not joined.
fn notes(text: &str) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["NOTES"]);
    let mut is_indented = false;
    for line in text.lines() {
        if line.starts_with("  ") != is_indented {
            is_indented = !is_indented;
            roff.control(if is_indented { "nf" } else { "fi" }, []);
        }
        if line.trim().is_empty() {
            roff.control("PP", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    if is_indented {
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of each command, with those above it.
    fn names(command: &Command, above: &str) -> Vec<String> {
        let name = format!("{above}{}", command.get_name());
        let below = command.get_subcommands().flat_map(|below| names(below, &format!("{name} ")));
        std::iter::once(name.clone()).chain(below).collect()
    }

    #[test]
    fn each_command_has_a_page_that_names_it() {
        let command = crate::command("learnink", "learnink dev");
        let pages = pages(command.clone()).unwrap();
        let names = names(&command, "");
        assert_eq!(pages.len(), names.len());
        for name in names {
            let file = format!("{}.1", name.replace(' ', "-"));
            let (_, page) = pages.iter().find(|(page, _)| *page == file).unwrap_or_else(|| panic!("{file}"));
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(&format!("\\fB{}\\fR", name.replace('-', "\\-"))), "{name}: {page}");
            assert!(!page.contains("cargo "), "{page}");
            if file == "learnink-secret-put.1" {
                assert!(page.contains("\\fBLEARNINK_STACK\\fR"), "{page}");
            }
        }
    }

    #[test]
    fn an_example_keeps_its_lines() {
        let roff = notes("All of it.\n\nExamples:\n  a b \\\n    --c\n  d\n\nThe end.").to_roff();
        let lines: Vec<_> = roff.lines().collect();
        let start = lines.iter().position(|line| *line == ".nf").unwrap();
        let end = lines.iter().position(|line| *line == ".fi").unwrap();
        assert_eq!(end - start, 4, "{roff}");
        assert!(lines[start + 1].starts_with("  a b") && lines[start + 2].starts_with("    "), "{roff}");
    }
}
