//! Files that a command reads.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use learnink_local::terminal::quoted;

/// The name for standard input or output in place of a file.
pub(crate) const STANDARD: &str = "-";

/// A file's bytes; `-` is standard input.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new(STANDARD) {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", quoted(file)))
}
