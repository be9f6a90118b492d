//! `scripts/release`: what it packs and what it refuses, the workflow that runs it, and the commit that a program says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use learnink_tests::{read, root};
use serde_json::Value;

use crate::command::text;
use crate::deployed::{copy_stripped, successful, without_metric_math};
use crate::project::yaml;
use crate::update::Repository;

/// The version of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Packed without a build, and without Apple's tools.
const TARGETS: [&str; 2] = ["lambda-x86_64", "x86_64-unknown-linux-gnu"];

/// A repository of its own to release from, and programs for it.
struct Rehearsal {
    repository: Repository,
    /// Outside the repository, which must not have changes.
    folder: tempfile::TempDir,
}

impl Rehearsal {
    /// With short texts as programs.
    fn new() -> Self {
        let rehearsal =
            Self { repository: Repository::of_the_product(), folder: tempfile::tempdir().unwrap() };
        let programs = rehearsal.path("programs");
        fs::create_dir(&programs).unwrap();
        for name in ["receiver", "consumer", "learnink"] {
            fs::write(programs.join(name), format!("the program {name}")).unwrap();
        }
        rehearsal
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the script, with these words and folders of the rehearsal after `@`.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut script = Command::new(self.repository.0.path().join("scripts/release"));
        for argument in arguments {
            match argument.strip_prefix('@') {
                Some(folder) => script.arg(self.path(folder)),
                None => script.arg(argument),
            };
        }
        script.output().unwrap()
    }

    /// Packs the targets into a folder.
    fn pack(&self, targets: &[&str], out: &str) -> PathBuf {
        let targets = targets.iter().flat_map(|target| ["--target", target]);
        let out = format!("@{out}");
        let arguments: Vec<_> = targets.chain(["--programs", "@programs", &out]).collect();
        let Output { status, stdout, stderr } = self.run(&arguments);
        assert!(status.success(), "{}{}", text(&stdout), text(&stderr));
        self.path(&out[1..])
    }

    /// What the script says when it refuses.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    }
}

/// Packs the programs of this build for ministack, into `out`.
pub(crate) fn packed_for_ministack(out: &Path) {
    let rehearsal = Rehearsal::new();
    for program in ["receiver", "consumer", "learnink"] {
        copy_stripped(program, &rehearsal.path("programs").join(program));
    }
    rehearsal.repository.edit("template.yaml", without_metric_math);
    rehearsal.repository.commit("Leave out what ministack refuses");
    let packed = rehearsal.pack(&["lambda-arm64", "x86_64-unknown-linux-gnu"], "out");
    for file in files(&packed) {
        fs::copy(packed.join(&file), out.join(&file)).unwrap();
    }
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// A command in a folder.
fn inside(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments);
    command
}

#[test]
fn two_runs_of_a_release_give_the_same_bytes_and_its_checksums_find_a_changed_one() {
    let rehearsal = Rehearsal::new();
    let [first, second] = ["first", "second"].map(|out| rehearsal.pack(&TARGETS, out));
    let names = files(&first);
    assert_eq!(
        names,
        [
            "NOTES.md",
            "SHA256SUMS",
            "learnink-0.1.0-x86_64-unknown-linux-gnu.cdx.json",
            "learnink-0.1.0-x86_64-unknown-linux-gnu.tar.gz",
            "learnink-webhooks-0.1.0-x86_64.cdx.json",
            "learnink-webhooks-0.1.0-x86_64.zip",
        ]
        .map(|name| name.replace("0.1.0", VERSION))
    );
    for name in &names {
        assert!(fs::read(first.join(name)).unwrap() == fs::read(second.join(name)).unwrap(), "{name}");
    }
    let notes = fs::read_to_string(first.join("NOTES.md")).unwrap();
    assert!(notes.contains("What you have to do") && !notes.contains("](docs/"), "{notes}");

    let verify = || inside(&first, "sha256sum", &["--check", "--strict", "SHA256SUMS"]);
    assert_eq!(successful(verify()).lines().count(), 4);
    let archive = first.join(&names[5]);
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let output = verify().output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains(&format!("{}: FAILED", names[5])), "{}", text(&output.stdout));
}

#[test]
fn a_release_has_what_a_deploy_needs_and_an_sbom_lists_what_is_in_the_programs_alone() {
    let rehearsal = Rehearsal::new();
    let out = rehearsal.pack(&TARGETS, "out");
    let commit = rehearsal.repository.git(&["rev-parse", "--short=10", "HEAD"]);
    let build = format!("{VERSION}+{}", commit.trim());
    successful(inside(&out, "unzip", &["-q", "learnink-webhooks-*.zip"]));
    let folder = out.join(format!("learnink-webhooks-{VERSION}-x86_64"));
    let expected = [
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "consumer.zip",
        "deploy-role.yaml",
        "receiver.zip",
        "samconfig.toml",
        "template.yaml",
    ];
    assert_eq!(files(&folder), expected);
    let template = fs::read_to_string(folder.join("template.yaml")).unwrap();
    let changes = [
        "CodeUri: receiver.zip",
        "CodeUri: consumer.zip",
        "AllowedValues: [x86_64]",
        &format!("    Value: {build}"),
    ];
    for change in changes {
        assert_eq!(template.matches(change).count(), 1, "{change}");
    }
    assert!(!template.contains("BuildMethod"), "sam would want to build it");
    successful(inside(&folder, "unzip", &["-q", "receiver.zip"]));
    assert_eq!(fs::read_to_string(folder.join("bootstrap")).unwrap(), "the program receiver");
    let listed = successful(inside(&folder, "unzip", &["-Z", "receiver.zip"]));
    assert!(listed.contains("-rwxr-xr-x"), "Lambda could not start it: {listed}");
    let tarball = format!("learnink-{VERSION}-x86_64-unknown-linux-gnu.tar.gz");
    let listed = successful(inside(&out, "tar", &["-tvzf", &tarball]));
    let program = listed.lines().find(|line| line.ends_with("/learnink")).unwrap();
    assert!(program.starts_with("-rwxr-xr-x"), "{listed}");

    let sbom = fs::read_to_string(out.join(format!("learnink-webhooks-{VERSION}-x86_64.cdx.json"))).unwrap();
    assert!(!sbom.contains(rehearsal.repository.0.path().to_str().unwrap()), "it says where it was built");
    let sbom: Value = serde_json::from_str(&sbom).unwrap();
    assert_eq!(sbom["metadata"]["component"]["version"], build.as_str());
    let components = sbom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    for (name, scope) in
        [("svix", "required"), ("learnink-handlers", "required"), ("serde_derive", "excluded")]
    {
        assert_eq!(named(name).unwrap()["scope"], scope, "{name}");
    }
    // Of tests, of the laptop, and of features that only other programs ask for.
    for name in ["proptest", "learnink-local", "winterbaume-sqs", "aws-sdk-sso", "clap"] {
        assert!(named(name).is_none(), "{name}");
    }
    let locked = read("Cargo.lock");
    for component in components.iter().filter(|component| component.get("purl").is_some()) {
        let hash = component["hashes"][0]["content"].as_str().unwrap();
        assert!(locked.contains(&format!("checksum = \"{hash}\"")), "{component}");
    }
    let references: BTreeSet<_> =
        components.iter().map(|component| &component["bom-ref"]).map(Value::to_string).collect();
    assert_eq!(references.len(), components.len());
    for edge in sbom["dependencies"].as_array().unwrap() {
        let below = edge["dependsOn"].as_array().unwrap();
        assert!(below.iter().all(|reference| references.contains(&reference.to_string())), "{edge}");
    }
}

#[test]
fn a_release_that_is_not_ready_is_refused_before_anything_is_written() {
    let rehearsal = Rehearsal::new();
    let repository = &rehearsal.repository;
    let tag = format!("v{VERSION}");
    let tagged = ["--tag", &tag, "--target", "lambda-x86_64", "@out"];
    let refused = |why: &str| {
        let said = rehearsal.refusal(&tagged);
        assert!(said.starts_with("scripts/release: ") && said.contains(why), "{said}");
    };
    refused(&format!("there is no tag {tag}; make it with `git tag {tag}`"));
    repository.git(&["tag", &tag]);
    repository.edit("CHANGELOG.md", |text| text.replacen(", unreleased", ", 2026-12-01", 1));
    refused("the checkout has changes; commit or stash them first: CHANGELOG.md");
    repository.commit("Say the day");
    refused(&format!("the tag {tag} is another commit than the one that is checked out"));
    repository.edit("CHANGELOG.md", |text| text.replacen(", 2026-12-01", ", unreleased", 1));
    repository.commit("Take the day back");
    repository.git(&["tag", "--force", &tag]);
    refused(&format!("CHANGELOG.md says `## {VERSION}, unreleased`; write the day of the release"));
    repository.edit("CHANGELOG.md", |text| text.replace(&format!("## {VERSION}"), "## 0.0.9"));
    repository.commit("Forget the section");
    refused(&format!("CHANGELOG.md has no section `## {VERSION}`"));
    repository.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    repository.edit("template.yaml", |text| text.replace("    Value: 0.1.0\n", "    Value: 0.0.9\n"));
    repository.commit("Forget the template");
    refused(&format!("template.yaml says Build 0.0.9, and Cargo.toml {VERSION}; write the version in both"));
    repository.git(&["reset", "--quiet", "--hard", "HEAD~1"]);

    let said = rehearsal.refusal(&["--tag", "v9.9.9", "--target", "lambda-x86_64", "@out"]);
    assert!(
        said.contains(&format!("the tag is v9.9.9, and the version in Cargo.toml {VERSION}; tag v{VERSION}")),
        "{said}"
    );
    let unknown = rehearsal.run(&["--target", "lambda-riscv", "@out"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("invalid choice: 'lambda-riscv'"), "{}", text(&unknown.stderr));
    let elsewhere = rehearsal.run(&["--tag", &tag, "--programs", "@programs", "@out"]);
    assert!(
        text(&elsewhere.stderr).contains("what it packs was built elsewhere"),
        "{}",
        text(&elsewhere.stderr)
    );
    assert!(!rehearsal.path("out").exists());
}

#[test]
fn a_release_without_a_part_or_with_another_versions_is_not_finished() {
    let rehearsal = Rehearsal::new();
    fs::remove_file(rehearsal.path("programs/consumer")).unwrap();
    let pack = ["--target", "lambda-x86_64", "--programs", "@programs", "@out"];
    let output = rehearsal.run(&pack);
    assert!(text(&output.stderr).ends_with("programs has no program consumer\n"), "{}", text(&output.stderr));
    assert!(files(&rehearsal.path("out")).is_empty());

    fs::write(rehearsal.path("programs/consumer"), "the program consumer").unwrap();
    let out = rehearsal.pack(&["lambda-x86_64"], "out");
    let before = files(&out);
    let output = rehearsal.run(&["--finish", "@out"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    let missing = "lambda-arm64, aarch64-unknown-linux-gnu, x86_64-unknown-linux-gnu, aarch64-apple-darwin, x86_64-apple-darwin";
    assert!(said.ends_with(&format!("does not have every target; build these first: {missing}\n")), "{said}");
    assert_eq!(files(&out), before);
    fs::write(out.join("learnink-0.0.9-x86_64-unknown-linux-gnu.tar.gz"), "old").unwrap();
    let output = rehearsal.run(&["--finish", "@out"]);
    let said = text(&output.stderr);
    assert!(
        said.contains("has files that are not of this release; delete them first: learnink-0.0.9"),
        "{said}"
    );
}

#[test]
fn the_workflow_builds_and_attests_every_target_of_the_script() {
    let unknown = inside(&root(), "scripts/release", &["--target", "x", "target/none"]).output().unwrap();
    let said = text(&unknown.stderr);
    let (_, targets) = said.split_once("choose from ").unwrap();
    let targets: Vec<_> =
        targets.trim().trim_end_matches(')').split(", ").map(|name| name.trim_matches('\'')).collect();
    assert_eq!(targets.len(), 6, "{said}");
    let jobs = &yaml(".github/workflows/release.yaml")["jobs"];
    let built = jobs["build"]["strategy"]["matrix"]["include"].as_array().unwrap();
    let built: Vec<_> = built.iter().map(|target| target["target"].as_str().unwrap()).collect();
    let attested = jobs["attest"]["strategy"]["matrix"]["target"].as_array().unwrap();
    let attested: Vec<_> = attested.iter().map(|target| target.as_str().unwrap()).collect();
    assert_eq!((&built, &attested), (&targets, &targets));
}

#[test]
fn a_deploy_from_github_says_its_commit_in_the_outputs() {
    let workflow = yaml(".github/workflows/deploy.yaml");
    let steps = workflow["jobs"]["build"]["steps"].as_array().unwrap();
    let place = steps.iter().position(|step| step["name"] == "Name the commit").unwrap();
    assert_eq!(steps[place + 1]["run"], "sam build");
    let folder = tempfile::tempdir().unwrap();
    let template = read("template.yaml");
    fs::write(folder.path().join("template.yaml"), &template).unwrap();
    let step = steps[place]["run"].as_str().unwrap();
    let mut bash = inside(folder.path(), "bash", &["-euo", "pipefail", "-c", step]);
    bash.env("GITHUB_SHA", "0123456789abcdef0123456789abcdef01234567");
    successful(bash);
    let named = fs::read_to_string(folder.path().join("template.yaml")).unwrap();
    let line = format!("    Value: {VERSION}\n");
    assert_eq!(named, template.replace(&line, &format!("    Value: {VERSION}+0123456789\n")));
    assert_ne!(named, template);
}

/// What the build script of the telemetry says of a repository.
fn build_said(script: &Path, repository: &Path, profile: &str) -> String {
    let mut build = Command::new(script);
    build.env("CARGO_PKG_VERSION", "1.2.3").env("PROFILE", profile);
    build.env("CARGO_MANIFEST_DIR", repository.join("crates/telemetry"));
    // Not the repository around the temporary folder, if there is one.
    build.env("GIT_CEILING_DIRECTORIES", repository.parent().unwrap());
    let said = successful(build);
    said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=LEARNINK_BUILD=")).unwrap().to_owned()
}

#[test]
fn an_optimised_build_names_its_commit_and_says_if_it_is_not_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let source = root().join("crates/telemetry/build.rs");
    successful(inside(
        folder.path(),
        "rustc",
        &["--edition", "2024", "-o", "script", source.to_str().unwrap()],
    ));
    let repository = folder.path().join("repository");
    fs::create_dir_all(repository.join("crates/telemetry")).unwrap();
    assert_eq!(build_said(&script, &repository, "release"), "1.2.3", "outside a repository");
    let git = |arguments: &[&str]| {
        let mut git =
            inside(&repository, "git", &["-c", "user.name=you", "-c", "user.email=you@example.com"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").args(arguments);
        successful(git)
    };
    git(&["init", "--quiet"]);
    fs::write(repository.join("crates/lib.rs"), "").unwrap();
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "First"]);
    let commit = git(&["rev-parse", "HEAD"]);
    let clean = format!("1.2.3+{}", &commit[..10]);
    assert_eq!(build_said(&script, &repository, "release"), clean);
    assert_eq!(build_said(&script, &repository, "debug"), "1.2.3", "it would be compiled after each commit");
    fs::write(repository.join("README.md"), "A page is not in the program.").unwrap();
    assert_eq!(build_said(&script, &repository, "release"), clean);
    fs::write(repository.join("crates/lib.rs"), "// Changed.").unwrap();
    assert_eq!(build_said(&script, &repository, "release"), format!("{clean}.dirty"));
}
