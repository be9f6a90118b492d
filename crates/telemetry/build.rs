//! Says which commit an optimised build is from.

use std::path::Path;
use std::process::Command;

/// How many letters of the commit are said, as many as in the name of a deploy from GitHub.
const ABBREVIATED: &str = "--short=10";

/// What the Lambda functions are built from. What is changed elsewhere, such as a page, is not in them.
const SOURCES: [&str; 6] = [".cargo", "Cargo.lock", "Cargo.toml", "crates", "rust-toolchain.toml", "vendor"];

#[expect(clippy::disallowed_methods, reason = "cargo describes the build in the environment")]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut build = variable("CARGO_PKG_VERSION");
    // Only there: a test must not be compiled again because there is another commit.
    if variable("PROFILE") == "release" {
        build += &commit(&Path::new(&variable("CARGO_MANIFEST_DIR")).join("../.."));
    }
    println!("cargo:rustc-env=LEARNINK_BUILD={build}");
}

/// `+`, the commit, and whether the sources differ from it; nothing outside a repository.
fn commit(root: &Path) -> String {
    let Some(commit) = git(root, &["rev-parse", ABBREVIATED, "HEAD"]) else { return String::new() };
    // Git adds a line to this file whenever it moves to another commit.
    if let Some(log) = git(root, &["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    for path in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let changes = git(root, &[&["status", "--porcelain", "--"], SOURCES.as_slice()].concat());
    let is_changed = changes.is_none_or(|changes| !changes.is_empty());
    format!("+{commit}{}", if is_changed { ".dirty" } else { "" })
}

/// What git prints, if it succeeds.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| printed.trim().to_owned())
}
