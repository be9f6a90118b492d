//! What is said in several files about the project: its toolchain, its updates, its pages.

use std::collections::BTreeSet;
use std::process::Command;

use learnink_tests::{read, root};
use serde_json::Value;

use crate::deployed::{successful, venv};

/// A YAML file as JSON, whose values are all text.
pub(crate) fn yaml(path: &str) -> Value {
    let mut python = Command::new(venv("python"));
    let code = "import json, sys, yaml; print(json.dumps(yaml.load(sys.argv[1], yaml.BaseLoader)))";
    python.args(["-c", code, &read(path)]);
    serde_json::from_str(&successful(python)).unwrap()
}

/// The files of the repository, with those that are not committed yet.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    successful(git).lines().map(str::to_owned).collect()
}

/// The value of the first line `name = "value"`.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{name} = \"")).unwrap();
    rest.split('"').next().unwrap()
}

#[test]
fn there_is_one_version_of_rust_and_the_readme_says_it() {
    let (manifest, toolchain) = (read("Cargo.toml"), read("rust-toolchain.toml"));
    let (oldest, used) = (value(&manifest, "rust-version"), value(&toolchain, "channel"));
    assert!(used.starts_with(&format!("{oldest}.")), "rust-version is {oldest}, and the toolchain is {used}");
    assert!(read("docs/pictures/badge-rust.svg").contains(&format!("aria-label=\"Rust: {oldest}\"")));
    assert!(read("README.md").contains(&format!("![Rust {oldest}](docs/pictures/badge-rust.svg)")));
    let licence = value(&manifest, "license");
    assert!(read("docs/pictures/badge-licence.svg").contains(&format!("aria-label=\"licence: {licence}\"")));
}

#[test]
fn a_bot_proposes_updates_of_everything_that_is_locked_or_pinned() {
    let config = yaml(".github/dependabot.yml");
    let mut covered = BTreeSet::new();
    for update in config["updates"].as_array().unwrap() {
        let folders =
            update["directories"].as_array().cloned().unwrap_or_else(|| vec![update["directory"].clone()]);
        for folder in folders {
            covered.insert((
                update["package-ecosystem"].as_str().unwrap().to_owned(),
                folder.as_str().unwrap().to_owned(),
            ));
        }
    }
    let mut locked = BTreeSet::new();
    for file in files() {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", &file));
        let ecosystem = match name {
            "Cargo.lock" => "cargo",
            "package-lock.json" => "npm",
            "requirements.txt" => "pip",
            // Beside the file that it was compiled from.
            _ if name
                .strip_suffix(".txt")
                .is_some_and(|name| files().contains(&format!("{folder}/{name}.in"))) =>
            {
                "pip"
            }
            "rust-toolchain.toml" => "rust-toolchain",
            "devcontainer.json" => "devcontainers",
            // GitHub looks for these in their folders by itself.
            _ if folder == ".github/workflows" => "github-actions",
            _ => continue,
        };
        let is_of_the_root = ["devcontainers", "github-actions"].contains(&ecosystem);
        locked.insert((
            ecosystem.to_owned(),
            if is_of_the_root { "/".to_owned() } else { format!("/{folder}") },
        ));
    }
    assert_eq!(covered, locked);
}

#[test]
fn each_job_has_only_the_rights_that_it_names() {
    let workflows: Vec<_> =
        files().into_iter().filter(|file| file.starts_with(".github/workflows/")).collect();
    assert!(workflows.len() > 1);
    for path in workflows {
        let workflow = yaml(&path);
        assert!(workflow["permissions"].as_object().is_some_and(serde_json::Map::is_empty), "{path}");
        for (name, job) in workflow["jobs"].as_object().unwrap() {
            let rights = job["permissions"].as_object().unwrap();
            let steps = job["steps"].to_string();
            let needs_role = steps.contains("configure-aws-credentials");
            let (attests, publishes) =
                (steps.contains("actions/attest@"), steps.contains("gh release create"));
            let builds =
                steps.contains("scripts/check") || steps.contains("--target") || steps.contains("build");
            let allowed =
                rights.iter().all(|(right, level)| match (right.as_str(), level.as_str().unwrap()) {
                    ("contents", "read") => true,
                    ("contents", "write") => publishes && !builds,
                    ("id-token", "write") => needs_role || attests && !builds,
                    ("attestations", "write") => attests && !builds,
                    _ => false,
                });
            assert!(allowed, "{path}, {name}: {rights:?}");
        }
    }
}
