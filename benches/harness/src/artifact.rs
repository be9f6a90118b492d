//! The size of the upload: a zip archive of the stripped binary, named `bootstrap`, as `cargo lambda` makes it, or of
//! the handler's folder.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::process::Code;

/// The name under which Lambda starts a binary.
const BINARY: &str = "bootstrap";

/// Python's compiled modules, which it makes anew if they are not uploaded.
const COMPILED_PYTHON: &str = "__pycache__";

/// The overhead of a zip archive: the end of its directory; and for each file, a local header, an entry in the
/// directory, and the name twice.
/// Source: PKWARE, "APPNOTE.TXT", sections 4.3.7, 4.3.12 and 4.3.16.
const ARCHIVE_OVERHEAD_BYTES: usize = 22;
const FILE_OVERHEAD_BYTES: usize = 30 + 46;

/// The size of the archive. `folder` takes a binary's stripped copy.
///
/// # Errors
///
/// When `strip` (binutils) is missing or does not know the binary, or a file cannot be read.
pub(crate) fn zip_bytes(code: &Code, folder: &Path) -> anyhow::Result<usize> {
    let files = match code {
        Code::Binary(program) => {
            let stripped = folder.join(BINARY);
            let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).output();
            let strip = strip.context("`strip` is missing; on Debian, `apt-get install binutils`")?;
            ensure!(strip.status.success(), "strip: {}", String::from_utf8_lossy(&strip.stderr).trim());
            let bytes = file_bytes(BINARY, &fs::read(&stripped)?)?;
            fs::remove_file(&stripped)?;
            bytes
        }
        Code::Handler { folder, .. } => folder_bytes("", folder)?,
    };
    Ok(ARCHIVE_OVERHEAD_BYTES + files)
}

/// What the files in a folder take in an archive. `prefix` is the folder's name in there.
fn folder_bytes(prefix: &str, folder: &Path) -> anyhow::Result<usize> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name == COMPILED_PYTHON {
            continue;
        }
        bytes += if path.is_dir() {
            folder_bytes(&format!("{prefix}{name}/"), &path)?
        } else {
            file_bytes(&format!("{prefix}{name}"), &fs::read(&path)?)?
        };
    }
    Ok(bytes)
}

fn file_bytes(name: &str, content: &[u8]) -> anyhow::Result<usize> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    Ok(FILE_OVERHEAD_BYTES + 2 * name.len() + encoder.finish()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_deflates_and_what_does_not_stays() {
        let mut random = vec![0; 10_000];
        fastrand::Rng::with_seed(7).fill(&mut random);
        assert!(file_bytes("a", &[0; 10_000]).unwrap() < 200);
        assert!(file_bytes("a", &random).unwrap() >= 10_000);
    }

    #[test]
    fn a_folder_is_uploaded_with_its_folders_but_without_compiled_modules() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir_all(folder.join("package/__pycache__")).unwrap();
        fs::write(folder.join("receiver.py"), "import package").unwrap();
        fs::write(folder.join("package/__init__.py"), "").unwrap();
        fs::write(folder.join("package/__pycache__/__init__.pyc"), "compiled").unwrap();
        let expected = file_bytes("receiver.py", b"import package").unwrap()
            + file_bytes("package/__init__.py", b"").unwrap();
        assert_eq!(folder_bytes("", folder).unwrap(), expected);
    }
}
