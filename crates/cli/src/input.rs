//! Files that a command reads.

use std::path::Path;

use anyhow::Context;
use learnink_local::terminal::quoted;

/// A file's bytes.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", quoted(file)))
}
