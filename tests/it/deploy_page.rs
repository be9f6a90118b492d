//! `docs/deploy.md`, followed as far as ministack supports it: all its commands, some of them replaced by a
//! stand-in. And `docs/cost.md`, whose tables a script makes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use learnink_consumer::backoff::delay;
use learnink_local::pipeline::StackLimits;
use learnink_tests::binaries::binary;
use learnink_tests::engine::ministack_endpoint;
use learnink_tests::signing::SECRET;
use learnink_tests::{read, root};
use serde_json::{Value, json};

use crate::deployed::{MAKE_MINISTACK_POLL, Temporary, build, successful, venv, with_aws};
use crate::project::yaml;
use crate::release::packed_for_ministack;

/// The secret of production's endpoint; staging's is [`SECRET`].
const PRODUCTION_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The one that replaces it.
const NEXT_PRODUCTION_SECRET: &str = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD";

/// The page's request to GitHub, and the answer for a repository with ids in its name.
const GITHUB_CALL: &str =
    "api repos/acme/learnink-webhooks/actions/oidc/customization/sub --jq .sub_claim_prefix";
const GITHUB_SUBJECT: &str = "repo:acme@123456/learnink-webhooks@456789";

/// A block of commands, and its heading.
#[derive(Debug)]
pub(crate) struct Block {
    heading: String,
    pub(crate) commands: String,
}

/// The blocks of a page that are marked as commands for a shell.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut heading, mut is_open) = (Vec::<Block>::new(), String::new(), false);
    for line in page.lines() {
        match (is_open, line.trim()) {
            (false, "```sh") => {
                is_open = true;
                blocks.push(Block { heading: heading.clone(), commands: String::new() });
            }
            (true, "```") => is_open = false,
            (true, _) => writeln!(blocks.last_mut().unwrap().commands, "{line}").unwrap(),
            (false, line) if line.starts_with('#') => line.trim_matches(['#', ' ']).clone_into(&mut heading),
            (false, _) => {}
        }
    }
    blocks
}

/// A person's input, if a block asks for it.
fn typed(block: &Block) -> String {
    if block.commands.contains("learnink secret ") {
        let secret = match block.heading.as_str() {
            "Production" => PRODUCTION_SECRET,
            "A new signing secret" => NEXT_PRODUCTION_SECRET,
            _ => SECRET,
        };
        return format!("{secret}\n");
    }
    if block.commands.contains("read -r version") {
        return "1\n".to_owned();
    }
    // `aws configure` keeps what it has for every empty line; sam wants a yes.
    if block.commands.contains("aws configure ") { "\n".repeat(4) } else { "y\n".repeat(4) }
}

/// Stand-ins for steps that this machine cannot do, or should not repeat: a toolchain, a build, a commit to go
/// back to. Everything else is the real program.
pub(crate) fn stand_ins(folder: &Path) -> Vec<(&'static str, String)> {
    let cargo = format!(
        "case \"$1 $2\" in
            'lambda build') exit ;;
            'lambda deploy') cd {root} && exec {lambda} \"$@\" --lambda-dir {build} --endpoint-url {endpoint} ;;
        esac
        [ \"$1\" = learnink ] && shift && exec {learnink} \"$@\"
        exit 2",
        root = root().display(),
        lambda = venv("cargo-lambda").display(),
        build = folder.join(".aws-sam/build").display(),
        endpoint = ministack_endpoint(),
        learnink = binary("learnink").display(),
    );
    let sam = format!(
        "[ \"$1\" = build ] && exit
        [ \"$1\" = deploy ] && set -- \"$@\" --no-progressbar
        {sam} \"$@\" && {python} -c \"import boto3{MAKE_MINISTACK_POLL}\"",
        sam = venv("sam").display(),
        python = venv("python").display(),
    );
    // Version 1 of the CLI does not look for an endpoint for SQS in the environment.
    let aws = format!(
        "case \" $* \" in *' sqs '*) set -- \"$@\" --endpoint-url {endpoint} ;; esac
        exec {aws} \"$@\"",
        endpoint = ministack_endpoint(),
        aws = venv("aws").display(),
    );
    vec![
        ("cargo", cargo),
        ("sam", sam),
        ("aws", aws),
        ("rustup", "[ \"$*\" = 'target add aarch64-unknown-linux-gnu' ]".to_owned()),
        ("git", "[ \"$1\" = switch ]".to_owned()),
        ("gh", format!("[ \"$*\" = '{GITHUB_CALL}' ] && echo {GITHUB_SUBJECT}")),
    ]
}

pub(crate) fn write_program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder that looks like a checkout after `sam build`, with the stand-ins in `bin`.
fn checkout(folder: &Path) {
    for name in [".aws-sam/build", "bin", "scripts", "home"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    build(&folder.join(".aws-sam/build"));
    for name in ["samconfig.toml", "deploy-role.yaml"] {
        fs::copy(root().join(name), folder.join(name)).unwrap();
    }
    write_program(&folder.join("scripts/check"), "[ \"$1\" = tools ]");
    symlink(root().join(".venv"), folder.join(".venv")).unwrap();
    // What somebody without a toolchain downloads.
    packed_for_ministack(folder);
    for (name, script) in stand_ins(folder) {
        write_program(&folder.join("bin").join(name), &script);
    }
}

/// The page as one script that stops at the first command that fails.
fn script(folder: &Path, page: &str) -> String {
    let mut script = String::from("set -euo pipefail\nPATH=$PWD/bin:$PATH\n");
    for (number, block) in blocks(page).iter().enumerate() {
        let input = folder.join(format!("typed-{number}"));
        fs::write(&input, typed(block)).unwrap();
        let Block { heading, commands } = block;
        writeln!(script, "echo \"==> {heading}, after $SECONDS s\"\n{{\n{commands}\n}} <{}", input.display())
            .unwrap();
        match heading.as_str() {
            "Production" if commands.contains("learnink doctor") => script.push_str(CROSSWISE),
            "New code" => script.push_str(UNCHANGED),
            "From GitHub" if commands.contains("deploy-role.yaml") => script.push_str(ROLE),
            "Without a Rust toolchain" if commands.contains("sam deploy") => script.push_str(AS_RELEASED),
            _ => {}
        }
    }
    script
}

/// A deploy of only code makes another version, with the configuration that the last full deploy published.
const UNCHANGED: &str = r#"
for version in 5 6; do
    aws lambda get-function-configuration --function-name learnink-webhooks-staging-consumer --qualifier $version \
        --query '[Environment, MemorySize, Timeout, Role, Architectures, LoggingConfig]' >version-$version
done
cmp version-5 version-6
aws lambda get-alias --function-name learnink-webhooks-staging-consumer --name live | grep '"FunctionVersion": "6"'
"#;

/// Lambda has the files of the release as they are.
const AS_RELEASED: &str = r#"
for function in receiver consumer; do
    aws lambda get-function-configuration --function-name "learnink-webhooks-staging-$function" \
        --query CodeSha256 --output text >has
    .venv/bin/python -c 'import base64, hashlib, sys
print(base64.b64encode(hashlib.sha256(sys.stdin.buffer.read()).digest()).decode())' \
        <"learnink-webhooks-$version-arm64/$function.zip" >released
    cmp has released
done
"#;

/// The role that GitHub's jobs assume.
const ROLE: &str = "
aws iam get-role --role-name deploy-learnink-webhooks-staging --query Role.AssumeRolePolicyDocument
";

/// Sends each stack a webhook that the other one would accept.
const CROSSWISE: &str = r#"
for stage in staging production; do
    for secret in "$STAGING_SECRET" "$PRODUCTION_SECRET"; do
        LEARNINK_SIGNING_SECRET=$secret cargo learnink send --url "$(output $stage WebhookUrl)" || true
    done
done
"#;

#[test]
fn whoever_follows_the_deploy_page_gets_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkout(folder);
    let _stacks =
        ["learnink-webhooks-staging", "learnink-webhooks-production", "deploy-learnink-webhooks-staging"]
            .map(|name| Temporary { name, region: "eu-west-1" });
    let mut bash = with_aws(Path::new("bash"));
    bash.current_dir(folder).env("HOME", folder.join("home")).env("USER", "you");
    bash.env("STAGING_SECRET", SECRET).env("PRODUCTION_SECRET", PRODUCTION_SECRET);
    bash.arg("-c").arg(script(folder, &read("docs/deploy.md")));
    let said = successful(bash);

    // The third is of the release.
    assert_eq!(said.matches(" and done by archive, unknown after another ").count(), 3, "{said}");
    assert_eq!(said.matches(" is healthy\n").count(), 3, "{said}");
    let build = format!("\n{}+", env!("CARGO_PKG_VERSION"));
    assert_eq!(said.matches(&build).count(), 1, "{said}");
    // Staging's, production's, and production's next one. The push sender's is not probed.
    assert_eq!(said.matches("secret signing: stored, and the receiver takes it (").count(), 3, "{said}");
    assert_eq!(said.matches("secret push: stored; no probe was sent").count(), 1, "{said}");
    let secrets = [SECRET, PRODUCTION_SECRET, NEXT_PRODUCTION_SECRET];
    assert!(secrets.iter().all(|secret| !said.contains(secret)), "{said}");
    let answers = said.lines().filter_map(|line| line.split_once("  msg_"));
    let answers: Vec<_> =
        answers.map(|(status, _)| status).filter(|status| status.parse::<u16>().is_ok()).collect();
    assert_eq!(answers, ["200", "401", "401", "200"], "{said}");
    let claim =
        format!(r#""token.actions.githubusercontent.com:sub": "{GITHUB_SUBJECT}:environment:staging""#);
    assert!(said.contains(&claim), "{said}");
    assert!(said.contains("Deleted successfully"), "{said}");
}

/// The workflow that deploys, as JSON.
fn workflow() -> Value {
    yaml(".github/workflows/deploy.yaml")
}

#[test]
fn a_repository_that_nobody_has_set_up_deploys_nothing_and_its_checks_pass() {
    let workflow = workflow();
    let page = read("docs/deploy.md");
    let jobs = workflow["jobs"].as_object().unwrap();
    assert_eq!(jobs["check"]["if"], Value::Null);
    let build = jobs["build"]["if"].as_str().unwrap();
    assert!(build.contains("vars.AWS_REGION != ''"), "{build}");
    // GitHub reads a job's condition before the job has an environment, so the variable is the repository's. A job
    // that needs a skipped job is skipped.
    assert!(page.contains("the variable `AWS_REGION`, for the whole repository"));
    assert_eq!(jobs["staging"]["needs"], json!(["check", "build"]));
    assert_eq!(jobs["production"]["needs"], "staging");
    for (name, job) in jobs.iter().filter(|(name, _)| *name != "build") {
        assert_eq!(job["if"], Value::Null, "{name} could run without what it needs");
    }
}

#[test]
fn a_deploy_that_github_runs_again_is_another_release() {
    let workflow = workflow();
    let steps = workflow["jobs"]["staging"]["steps"].as_array().unwrap();
    let named = |step: &&Value| step["name"] == "Name the release";
    let step = steps.iter().find(named).unwrap()["run"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("samconfig.toml");
    let overridden = |attempt: &str| -> Vec<String> {
        fs::copy(root().join("samconfig.toml"), &config).unwrap();
        let mut bash = Command::new("bash");
        bash.current_dir(folder.path()).args(["-euo", "pipefail", "-c", step]);
        bash.env("GITHUB_SHA", "0123456789abcdef0123456789abcdef01234567").env("GITHUB_RUN_ATTEMPT", attempt);
        successful(bash);
        let named = fs::read_to_string(&config).unwrap();
        named
            .lines()
            .filter_map(|line| line.strip_prefix("parameter_overrides = "))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        overridden("2"),
        [
            r#""Release=0123456789.2 Boundary=on Stage=staging""#,
            r#""Release=0123456789.2 Boundary=on Stage=staging""#,
            r#""Release=0123456789.2 Boundary=on Stage=production GradualRollout=true""#,
        ]
    );
    assert_ne!(overridden("1"), overridden("2"));
}

#[test]
fn the_costs_on_their_page_are_those_that_the_script_computes() {
    let page = read("docs/cost.md");
    let deploy_page = read("docs/deploy.md");
    let drawn = tempfile::NamedTempFile::new().unwrap();
    // With the interpreter beside the tools: it has the library that draws.
    let mut cost = Command::new(root().join(".venv/bin/python"));
    cost.arg(root().join("scripts/cost")).arg("--svg").arg(drawn.path());
    let computed = successful(cost);
    assert!(
        std::fs::read_to_string(drawn.path()).unwrap() == read("docs/cost.svg"),
        "another picture is drawn"
    );
    for table in computed.split("\n\n") {
        assert!(page.contains(table.trim()), "`scripts/cost` prints another table:\n{table}");
    }
    let a_month = computed.lines().find(|line| line.starts_with("| **a month**")).unwrap();
    for cost in
        a_month.split('|').map(str::trim).filter(|cell| cell.ends_with(|last: char| last.is_ascii_digit()))
    {
        assert!(deploy_page.contains(&format!("${cost}")), "docs/deploy.md doesn't say ${cost}");
    }
}

#[test]
fn the_limits_on_their_page_are_those_of_the_template_and_the_backoff() {
    // A quota of SQS. Source: Amazon SQS API reference, `ReceiveMessage`, `OverLimit`.
    const MOST_IN_FLIGHT: u64 = 120_000;
    let page = read("docs/limits.md").replace('\n', " ");
    let says = |text: String| assert!(page.contains(&text), "docs/limits.md does not say: {text}");
    let deliveries = StackLimits::TEMPLATE.max_receive_count;
    let waits_s: u64 = (1..deliveries).map(|count| delay(count, 0.5, None).as_secs()).sum();
    says(format!("| deliveries of a message | {deliveries} |"));
    says(format!("add up to {}.{} hours", waits_s / 3_600, (waits_s % 3_600 + 180) / 360));
    says(format!("a rate of {} failing messages a second", MOST_IN_FLIGHT / waits_s));
    says(format!("100 a second do in {} minutes", MOST_IN_FLIGHT / 100 / 60));
    let template = read("template.yaml");
    let default = |name: &str| {
        let (_, parameter) = template.split_once(&format!("\n  {name}:\n")).unwrap();
        let (_, value) = parameter.split_once("    Default: ").unwrap();
        value.lines().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((default("ThrottleRate"), default("ThrottleBurst")), (1_000, 1_000));
    says("| 1,000 a second, and 1,000 at once |".to_owned());
    let environments = default("ReceiverConcurrency");
    says(format!("`ReceiverConcurrency`, {environments}:"));
    assert_eq!(environments * 10, 2_000);
    says("| 2,000 a second |".to_owned());
    says(format!("| {}, of up to 10 messages |", default("ConsumerConcurrency")));
    let page = format!("{} {}", read("docs/deploy.md"), read("docs/on-call.md")).replace('\n', " ");
    for text in [
        format!("Each stack reserves {environments} of them"),
        format!("two stacks in one account need {}", 2 * environments + 100),
        "a stack takes 1,000 webhooks a second, and 1,000 more at once".to_owned(),
        // At 800 a second, which is under the throttle.
        format!("a Recover of 10,000 is in after {} seconds", 10_000_u64.div_ceil(800)),
    ] {
        assert!(page.contains(&text), "neither docs/deploy.md nor docs/on-call.md says: {text}");
    }
}
