//! `docs/on-call.md`, followed on ministack: all its commands. And the role in `docs/deploy.md`, whose rights are those
//! that the commands need.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use learnink_tests::binaries::binary;
use learnink_tests::read;
use serde_json::Value;

use crate::command::{in_aws, text};
use crate::deploy_page::{blocks, write_program};
use crate::doctor;
use crate::recorded::Recorded;
use crate::replay_run::{Handlers, Stand, said};
use crate::secret;
use crate::tail;

/// The name of the stack on the page, and that of the test's.
const ON_THE_PAGE: &str = "learnink-webhooks-production";
const STACK: &str = "on-call-page";

/// The actions of a role that a page has.
pub(crate) fn allowed(page: &str, role: &str) -> BTreeSet<String> {
    let page = read(page);
    let (_, policy) = page.split_once(&format!("--policy-name {role} --policy-document '")).unwrap();
    let policy: Value = serde_json::from_str(policy.split_once('\'').unwrap().0).unwrap();
    let statements = policy["Statement"].as_array().unwrap().iter();
    let actions = statements.flat_map(|statement| match &statement["Action"] {
        Value::Array(actions) => actions.clone(),
        action => vec![action.clone()],
    });
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}

/// The page's commands as one script. Its `cargo` is the command itself, whose questions are answered with yes; an exit
/// code of 1 says that something was found.
fn script(folder: &Path) -> String {
    let cargo = format!(
        "[ \"$1\" = learnink ] || exit 2
        shift
        case \"$* \" in
            *--dry-run*) ;;
            'tail '*) set -- \"$@\" --no-follow ;;
            'dlq redrive'* | 'replay run'*) set -- \"$@\" --yes --rate 100 ;;
        esac
        echo \"\\$ learnink $*\"
        {} \"$@\" || [ $? = 1 ]",
        binary("learnink").display()
    );
    write_program(&folder.join("cargo"), &cargo);
    let page = read("docs/on-call.md").replace(ON_THE_PAGE, STACK);
    let blocks = blocks(&page).into_iter().map(|block| block.commands);
    format!("set -euo pipefail\nPATH={}:$PATH\n{}", folder.display(), blocks.collect::<String>())
}

#[tokio::test]
async fn whoever_follows_the_on_call_page_repairs_what_it_is_about_and_needs_no_right_but_the_roles() {
    let mut stand = Stand::start(STACK).await;
    stand.deploy(Handlers::None).await;
    stand.receive_all(0..6).await;
    stand.wait_until_handled(0..6).await;
    stand.deploy(Handlers::All).await;
    stand.bus.fail("the event bus does not exist");
    stand.receive_all(6..18).await;
    stand.wait_for("the letters", async || stand.letters().await == 12).await;
    stand.bus.repair();
    stand.progress.repair();

    let (recorded, endpoint) = Recorded::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut bash =
        in_aws(&[]).get_envs().fold(std::process::Command::new("bash"), |mut bash, (name, value)| {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
            bash
        });
    bash.env("AWS_ENDPOINT_URL", &endpoint).env("USER", "kim").arg("-c").arg(script(folder.path()));
    let output = tokio::task::spawn_blocking(move || bash.output().unwrap()).await.unwrap();
    let (page, code) = said(&output);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("12 of 12 dead letters redriven: done"), "{page}");
    assert!(page.contains("bus") && page.contains("the event bus does not exist"), "{page}");
    assert!(page.contains("18 messages in the archive are to be sent; progress will run"), "{page}");
    assert!(page.contains("18 of 18 messages sent under the replay window "), "{page}");
    assert!(page.contains("18 messages in the table of unknown events are to be sent"), "{page}");
    assert!(page.contains("opened replay window "), "{page}");
    stand.wait_for("the handlers", async || stand.bus.right() == 18 && stand.progress.right() == 18).await;

    // The commands that the page only mentions.
    let kept = folder.path().join("letters.jsonl");
    let kept = kept.to_str().unwrap();
    stand.receive_bytes("msg_99", "not json").await;
    stand.wait_for("the letter", async || stand.letters().await == 1).await;
    for command in [
        &["dlq", "show", "msg_99"][..],
        &["dlq", "drop", "--all", "--yes", "--to", kept],
        &["dlq", "restore", kept, "--yes"],
        &["replay", "close", "none"],
        &["show", "msg_99"],
        &["learners"],
        &["archive", "export"],
        &["acts"],
    ] {
        let mut command = in_aws(&[command, &["--stack", STACK]].concat());
        command.env("AWS_ENDPOINT_URL", &endpoint).env("USER", "kim");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!said.contains("cannot find") && !said.contains("has no output"), "{said}");
    }
    // The page's stack is not made from the template: those of the other commands are tested with them.
    let mut needed = recorded.actions();
    needed.extend(doctor::ACTIONS.into_iter().chain(secret::ACTIONS).chain(tail::ACTIONS).map(str::to_owned));
    assert_eq!(
        needed,
        allowed("docs/deploy.md", "learnink-webhooks-on-call"),
        "the rights that the commands need, and those of the role"
    );
}

#[test]
fn each_command_in_the_on_call_page_is_one_that_the_page_runs() {
    // What is shown as an output or needs a file of the reader's is marked as text.
    let page = read("docs/on-call.md");
    let run: String = blocks(&page).into_iter().map(|block| block.commands).collect();
    for line in page.lines().filter(|line| line.trim_start().starts_with("cargo learnink")) {
        assert!(run.contains(line.trim()) || line.contains("verify delivery.txt"), "not run: {line}");
    }
    assert!(fs::metadata(binary("learnink")).is_ok());
}
