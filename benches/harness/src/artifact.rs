//! The size of the upload: the stripped binary, named `bootstrap`, in a zip archive, as `cargo lambda` makes it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The name under which Lambda starts the binary.
const NAME: &str = "bootstrap";

/// The overhead of a zip archive of one file: a local header, a directory of one entry, its end, and the name
/// twice.
/// Source: PKWARE, "APPNOTE.TXT", sections 4.3.7, 4.3.12 and 4.3.16.
const ZIP_OVERHEAD_BYTES: usize = 30 + 46 + 22 + 2 * NAME.len();

/// The size of the archive. `folder` takes the stripped copy.
///
/// # Errors
///
/// When `strip` (binutils) is missing or does not know the file.
pub(crate) fn zip_bytes(program: &Path, folder: &Path) -> anyhow::Result<usize> {
    let stripped = folder.join(NAME);
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).output();
    let strip = strip.context("`strip` is missing; on Debian, `apt-get install binutils`")?;
    ensure!(strip.status.success(), "strip: {}", String::from_utf8_lossy(&strip.stderr).trim());
    let binary = fs::read(&stripped)?;
    fs::remove_file(&stripped)?;
    Ok(ZIP_OVERHEAD_BYTES + deflated_bytes(&binary)?)
}

fn deflated_bytes(bytes: &[u8]) -> anyhow::Result<usize> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_deflates_and_what_does_not_stays() {
        let mut random = vec![0; 10_000];
        fastrand::Rng::with_seed(7).fill(&mut random);
        assert!(deflated_bytes(&[0; 10_000]).unwrap() < 100);
        assert!(deflated_bytes(&random).unwrap() >= 10_000);
    }
}
