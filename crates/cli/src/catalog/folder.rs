//! The repository's folder with the catalog, `events/`, and what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use learnink_local::terminal::quoted;

/// The folder of the catalog.
pub(crate) const EVENTS: &str = "events";

/// The file with the list of rooms.
pub(crate) const LIB: &str = "crates/handlers/src/lib.rs";

const SCHEMA: &str = ".schema.json";
const EXAMPLE: &str = ".json";

/// A checkout.
#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
}

impl Repository {
    /// The checkout that a folder is in.
    pub(crate) fn around(folder: &Path) -> anyhow::Result<Self> {
        let is_root = |folder: &&Path| folder.join(EVENTS).is_dir() && folder.join(LIB).is_file();
        let root = folder.ancestors().find(is_root).map(Path::to_owned);
        let root = root.with_context(|| {
            format!(
                "there is no checkout of the repository around {}: no folder with `{EVENTS}/` and `{LIB}`; change to \
                 yours first",
                quoted(folder)
            )
        })?;
        Ok(Self { root })
    }

    /// The checkout that the current folder is in.
    pub(crate) fn here() -> anyhow::Result<Self> {
        Self::around(&std::env::current_dir().context("cannot find the current folder")?)
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// The text of one of its files.
    pub(crate) fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path(file)).with_context(|| format!("cannot read {}", quoted(file)))
    }

    /// What is in the catalog.
    pub(crate) fn catalog(&self) -> anyhow::Result<Catalog> {
        let what = || format!("cannot read `{EVENTS}/`");
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path(EVENTS)).with_context(what)? {
            let entry = entry.with_context(what)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_part(&name) && entry.path().is_file() {
                let content = fs::read(entry.path());
                let content = content.with_context(|| format!("cannot read {EVENTS}/{}", quoted(&name)))?;
                files.push((name, content));
            }
        }
        Ok(Catalog::of(files))
    }
}

/// The path of a type's schema.
pub(crate) fn schema_file(event_type: &str) -> String {
    format!("{EVENTS}/{event_type}{SCHEMA}")
}

/// The path of a type's example.
pub(crate) fn example_file(event_type: &str) -> String {
    format!("{EVENTS}/{event_type}{EXAMPLE}")
}

/// Whether a file is part of the catalog. The folder has others as well.
fn is_part(name: &str) -> bool {
    name.ends_with(EXAMPLE)
}

/// The types that there are files of, by name.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) types: BTreeMap<String, Files>,
}

/// The files of a type.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Its schema as the file has it.
    pub(crate) schema: Option<Vec<u8>>,
    /// Its example as the file has it.
    pub(crate) example: Option<Vec<u8>>,
}

impl Catalog {
    /// The catalog of these files, each a name and what is in it.
    pub(crate) fn of(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let mut catalog = Self::default();
        for (name, content) in files {
            if let Some(event_type) = name.strip_suffix(SCHEMA) {
                catalog.types.entry(event_type.to_owned()).or_default().schema = Some(content);
            } else if let Some(event_type) = name.strip_suffix(EXAMPLE) {
                catalog.types.entry(event_type.to_owned()).or_default().example = Some(content);
            }
        }
        catalog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_found_from_below_and_not_from_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("crates/handlers/src");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("lib.rs"), "").unwrap();
        let error = Repository::around(&below).unwrap_err().to_string();
        assert!(error.starts_with("there is no checkout of the repository around"), "{error}");
        fs::create_dir(folder.path().join("events")).unwrap();
        for inside in [folder.path(), &below] {
            assert_eq!(Repository::around(inside).unwrap().root, folder.path());
        }
    }

    #[test]
    fn the_catalog_is_the_files_of_the_types() {
        let files = ["a.b.json", "a.b.schema.json", "c.schema.json", "not-json.txt", "d.JSON"];
        let catalog = Catalog::of(files.map(|name| (name.to_owned(), Vec::new())));
        let has = |files: &Files| (files.schema.is_some(), files.example.is_some());
        let types: Vec<_> = catalog.types.iter().map(|(name, files)| (name.as_str(), has(files))).collect();
        assert_eq!(types, [("a.b", (true, true)), ("c", (true, false))]);
        assert!(!is_part("not-json.txt"));
    }
}
