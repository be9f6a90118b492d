//! `docs/add-an-event.md`, followed to the letter, and `docs/update.md` after it: a customer's code takes the next
//! version without a conflict, and builds.

use std::fs;
use std::path::Path;
use std::process::Command;

use learnink_tests::binaries::cargo;
use learnink_tests::{read, root};

use crate::deployed::successful;

/// What a checkout has that git does not track.
const NOT_TRACKED: [&str; 6] = [".aws-sam", ".git", ".learnink", ".venv", "node_modules", "target"];

/// The files that a customer changes, by `docs/update.md`.
const THEIRS: [&str; 4] = ["crates/handlers/", "events/", "samconfig.toml", "template.yaml"];

/// A repository of its own, with everything that is in the checkout.
pub(crate) struct Repository(pub(crate) tempfile::TempDir);

impl Repository {
    pub(crate) fn of_the_product() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        copy(&root(), repository.0.path());
        take_out_additions(repository.0.path());
        repository.git(&["init", "--quiet", "--initial-branch", "product"]);
        repository.commit("The product");
        repository
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(self.0.path()).args(["-c", "user.name=you", "-c", "user.email=you@example.com"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").args(arguments);
        successful(git)
    }

    pub(crate) fn commit(&self, title: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", title]);
    }

    pub(crate) fn edit(&self, file: &str, edit: impl FnOnce(&str) -> String) {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let edited = edit(&text);
        assert_ne!(text, edited, "{file}");
        fs::write(path, edited).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        if NOT_TRACKED.iter().any(|other| name == *other) {
            continue;
        }
        // Links are left out: they lead to installed files.
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() => drop(fs::copy(entry.path(), target).unwrap()),
            _ => {}
        }
    }
}

/// Takes out of a copy what a customer has added, so that it is the product again.
fn take_out_additions(repository: &Path) {
    const ROOMS: [&str; 8] =
        ["archive", "bus", "forward", "progress", "push", "unknown", "enrolments", "tests"];
    let handlers = repository.join("crates/handlers/src");
    let lib = fs::read_to_string(handlers.join("lib.rs")).unwrap();
    let mut kept: Vec<String> = Vec::new();
    for line in lib.lines() {
        let text = line.trim();
        let module = text.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        let merged = text.strip_prefix(".merge(").and_then(|rest| rest.split("::").next());
        match module.or(merged).filter(|room| !ROOMS.contains(room)) {
            Some(room) => {
                let _ = fs::remove_file(handlers.join(format!("{room}.rs")));
                // The last one closes the list.
                if let Some(last) = kept.last_mut().filter(|_| text.ends_with("?))")) {
                    last.push(')');
                }
            }
            None => kept.push(line.to_owned()),
        }
    }
    fs::write(handlers.join("lib.rs"), kept.join("\n") + "\n").unwrap();
    for file in ["example.badge.earned.json", "example.badge.earned.schema.json"] {
        let _ = fs::remove_file(repository.join("events").join(file));
    }
    let template = repository.join("template.yaml");
    let mut is_theirs = false;
    let text = fs::read_to_string(&template).unwrap();
    let lines = text.lines().filter(|line| {
        let text = line.trim();
        is_theirs &= !text.starts_with("# --- End of your");
        let is_kept = !is_theirs;
        is_theirs |= text.starts_with("# --- Your");
        is_kept
    });
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    fs::write(template, text).unwrap();
}

/// The blocks of a page in a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A text with the change of a diff that has no line numbers: its lines must be there, once.
fn changed(text: &str, diff: &str) -> String {
    let side = |mark: char| {
        let lines = diff.lines().filter(|line| !line.starts_with(mark));
        lines.flat_map(|line| [&line[1..], "\n"]).collect::<String>()
    };
    let (before, after) = (side('+'), side('-'));
    assert_eq!(text.matches(&before).count(), 1, "{before}");
    text.replacen(&before, &after, 1)
}

/// Follows `docs/add-an-event.md`, and sets a parameter of the stack.
fn follow_the_page(repository: &Repository) {
    let page = read("docs/add-an-event.md");
    let file = |name: &str, text: &str| fs::write(repository.0.path().join(name), text).unwrap();
    file("crates/handlers/src/badges.rs", &blocks(&page, "rust")[0]);
    file("events/example.badge.earned.json", &blocks(&page, "json")[0]);
    let diffs = blocks(&page, "diff");
    let [module, line, variables, rights] = diffs.as_slice() else { panic!("{diffs:#?}") };
    repository.edit("crates/handlers/src/lib.rs", |text| changed(&changed(text, module), line));
    repository.edit("template.yaml", |text| changed(&changed(text, variables), rights));
    repository.edit("samconfig.toml", |text| text.replace("Stage=staging", "Stage=staging QuietHours=72"));
    repository.commit("Add an event");
}

/// Changes every file of the product that changes often, as close to the customer's changes as possible.
fn change_the_product(repository: &Repository) {
    let files = repository.git(&["ls-files", "*.rs", "*.md", "*.toml", "scripts/*"]);
    let is_the_products = |file: &&str| {
        let is_theirs = THEIRS.iter().any(|theirs| file.starts_with(theirs));
        !is_theirs && !file.ends_with("Cargo.toml") && *file != "rustfmt.toml"
    };
    for file in files.lines().filter(is_the_products) {
        let comment = if Path::new(file).extension().is_some_and(|extension| extension == "rs") {
            "\n// Another version."
        } else {
            "\n# Another version."
        };
        repository.edit(file, |text| format!("{text}{comment}\n"));
    }
    // Another version also has other names in `target`, which this build shares with the checkout's.
    // The patched crate is no member. It is the checkout's own, so that neither is built over the other.
    let patched = root().join("vendor");
    repository.edit("Cargo.toml", |text| {
        text.replace("\nversion = \"0.", "\nversion = \"1000.")
            .replace("\"vendor/", &format!("\"{}/", patched.display()))
    });
    repository.edit("template.yaml", |text| {
        let text = text
            .replace("Description: Receives LearnInk webhooks", "Description: Receives webhooks of LearnInk");
        let variable = "          # --- Your variables.\n";
        let right = "              # --- Your rights.\n";
        text.replace(variable, &format!("          LEARNINK_ANOTHER: \"\"\n{variable}"))
            .replace(right, &format!("              - !Ref AWS::NoValue\n{right}"))
    });
    repository.commit("Change everything");
}

#[test]
fn your_code_takes_the_next_version_without_a_conflict() {
    let repository = Repository::of_the_product();
    repository.git(&["checkout", "--quiet", "-b", "yours"]);
    follow_the_page(&repository);
    repository.git(&["checkout", "--quiet", "product"]);
    change_the_product(&repository);
    repository.git(&["checkout", "--quiet", "yours"]);
    repository.git(&["merge", "--quiet", "--no-edit", "product"]);

    let touched = repository.git(&["diff", "--name-only", "product", "yours"]);
    let touched: Vec<_> = touched.lines().collect();
    let expected = [
        "crates/handlers/src/badges.rs",
        "crates/handlers/src/lib.rs",
        "events/example.badge.earned.json",
        "samconfig.toml",
        "template.yaml",
    ];
    assert_eq!(touched, expected);
    // In the template, only the two blocks.
    let lines = repository.git(&["diff", "--unified=0", "product", "yours", "--", "template.yaml"]);
    let lines: Vec<_> = lines.lines().filter(|line| line.starts_with(['+', '-'])).skip(2).collect();
    assert!(lines.iter().all(|line| line.starts_with('+')), "{lines:#?}");
    assert!(lines[0].contains("SHOP_URL") && lines.last().unwrap().contains("shop-token"), "{lines:#?}");

    let mut cargo = cargo();
    cargo.current_dir(repository.0.path()).args([
        "test",
        "--offline",
        "--workspace",
        "--lib",
        "--target-dir",
    ]);
    cargo.arg(root().join("target"));
    let said = successful(cargo);
    assert!(said.contains("test badges::tests::a_badge_is_credited ... ok"), "{said}");
}
