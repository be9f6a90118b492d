//! The workspace's programs, built and up to date.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// The program `name`: `receiver`, `consumer` or `learnink`.
pub fn binary(name: &str) -> &'static Path {
    static BINARIES: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(build);
    BINARIES.get(name).unwrap_or_else(|| panic!("the workspace has no program named `{name}`"))
}

/// Cargo, as a person starts it: without the variables with which `cargo test` describes the package of the tests.
/// The build script of `ring` depends on them, so that with others half of the workspace would be compiled again, and
/// once more by the next `cargo test`.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_A_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// How the variables begin that describe a package.
/// Source: The Cargo Book, "Environment variables Cargo sets for crates".
const OF_A_PACKAGE: [&str; 5] =
    ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// Builds with the same features as `cargo test --workspace`, so that nothing is compiled after it.
fn build() -> HashMap<String, PathBuf> {
    let output = cargo()
        .args(["build", "--locked", "--workspace", "--all-targets", "--message-format", "json"])
        .current_dir(crate::root())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let artifacts = output.stdout.split(|byte| *byte == b'\n');
    let artifacts = artifacts.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    artifacts
        .filter(|artifact| artifact.pointer("/profile/test") == Some(&Value::Bool(false)))
        .filter_map(|artifact| {
            let executable = artifact.get("executable")?.as_str()?;
            let name = artifact.pointer("/target/name")?.as_str()?;
            Some((name.to_owned(), PathBuf::from(executable)))
        })
        .collect()
}
