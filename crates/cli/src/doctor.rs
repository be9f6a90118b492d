//! `learnink doctor`: whether each part of a deployed stack is as it should be, and what mends it if not.

mod checks;
mod event;
mod facts;
mod look;
mod remedy;

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use self::checks::{CHECKS, Events, Finding, Judgement};
use self::event::{End, Times};
use self::look::{Look, look};
use self::remedy::{Remedy, Shell};
use crate::aws::{self, IN_AWS};
use crate::output::{self, Line, WRONG_USE, note, print};
use crate::send::Signer;
use crate::stack::{InAws, Stack};
use crate::{called, now};

/// The name of the last check, which sends something.
const EVENT: &str = "event";
const EVENT_RIGHTS: &[&str] = &["dynamodb:GetItem"];

/// Options of `learnink doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
It looks at:
{}

The ledger is tried with an entry that no message has, which is then deleted.

Then, unless something was found that stops it, it posts one signed event of the invented type `example.smoke` to \
the public URL, and waits until the ledger says that every handler is done, a minute at most. The event is kept \
with those that have no handler, and goes to the archive, the event bus and your endpoint if these are on. It is \
not sent while the signing secret is the random one of the first deploy.

To see that the URL refuses what it should, it sends one request without a signature and one with an old one, and \
to make up for them the event twice. With --no-event, they count for the alarm refused-share where nobody else \
sends anything for two hours.

A command below a finding mends it. It can be typed as it is printed.

The exit code is 0 if nothing was found, 1 if something was, and 2 without a stack.

Examples:
  cargo learnink doctor --stack learnink-webhooks-staging
  cargo learnink doctor --stack learnink-webhooks-production --no-event --json

{IN_AWS}", looks_at()))]
pub(crate) struct Args {
    /// Send no event
    #[arg(long)]
    no_event: bool,
    /// Leave out a check; several are separated by commas
    #[arg(
        long,
        value_name = "CHECK",
        value_delimiter = ',',
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(CHECKS.iter().map(|check| check.name))
    )]
    skip: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    in_aws: InAws,
}

/// What the checks look at, for the help.
fn looks_at() -> String {
    let lines = CHECKS.iter().map(|check| format!("  {:16}{}", check.name, check.looks_at));
    lines.collect::<Vec<_>>().join("\n")
}

/// One check as it is printed as JSON.
#[derive(Debug, Serialize)]
struct CheckReport<'a> {
    check: &'static str,
    /// The rights that it needs.
    rights: &'static [&'static str],
    /// Why it is good, or why it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// `good`, `found` or `not_looked`.
    result: &'static str,
    findings: Vec<FindingReport<'a>>,
}

/// One finding as it is printed as JSON.
#[derive(Debug, Serialize)]
struct FindingReport<'a> {
    what: &'a str,
    /// Whether webhooks are not accepted or not handled because of it.
    stops_events: bool,
    remedy: &'a Remedy,
}

/// The whole answer as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    stack: &'a str,
    region: &'a str,
    healthy: bool,
    checks: Vec<CheckReport<'a>>,
    /// The times of the event, if it was handled.
    event: Option<&'a Times>,
}

/// What a webhook for a stack is signed with: its stored signing secret.
pub(crate) async fn signer(stack: &Stack) -> anyhow::Result<Signer> {
    let (secret, signer) = look::signing_secret(&stack.aws, Ok(stack.output("SigningSecretName")?)).await;
    match (secret, signer) {
        (_, Some(signer)) => Ok(signer),
        (Ok(_), None) => {
            anyhow::bail!("{stack} has no usable signing secret; `{} doctor` says why", called::learnink())
        }
        (Err(unread), None) => anyhow::bail!("cannot read the signing secret of {stack}: {unread}"),
    }
}

/// A check's name and its result.
type Judged = (&'static str, Judgement);

/// Looks at a stack.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(stack) = args.in_aws.stack().await? else {
        note(format!(
            "`doctor` is about a deployed stack: name it with --stack; `{} status` shows the pipeline of `learnink \
             dev`",
            called::learnink()
        ))?;
        return Ok(ExitCode::from(WRONG_USE));
    };
    let shell = Shell::new(&stack, args.in_aws.profile());
    let is_skipped = |name: &str| args.skip.iter().any(|skipped| skipped == name);
    let Look { facts, signer } = Box::pin(look(&stack, is_skipped)).await?;
    let checks = CHECKS.iter().filter(|check| !is_skipped(check.name));
    let mut results: Vec<Judged> = checks.map(|check| (check.name, (check.judge)(&facts, &shell))).collect();
    let mut times = None;
    if !args.json {
        lines(&results).into_iter().try_for_each(print)?;
    }
    if !args.no_event {
        let judgement = match (stoppers(&results), signer) {
            (stoppers, _) if !stoppers.is_empty() => {
                Judgement::NotLooked(format!("not sent, because of {}", stoppers.join(", ")))
            }
            (_, None) => {
                Judgement::NotLooked("not sent, because there is no secret to sign it with".to_owned())
            }
            (_, Some(signer)) => {
                let end = event::send(&stack, &signer).await?;
                let judgement = event::judge(&end, &stack, &shell, now());
                if let End::Done(done) = end {
                    times = Some(done);
                }
                judgement
            }
        };
        let result = (EVENT, judgement);
        if !args.json {
            lines(std::slice::from_ref(&result)).into_iter().try_for_each(print)?;
        }
        results.push(result);
    }
    let count = results.iter().map(|(_, judgement)| findings(judgement).len()).sum::<usize>();
    if args.json {
        let report = Report {
            stack: stack.name(),
            region: aws::region(&stack.aws),
            healthy: count == 0,
            checks: results.iter().map(report).collect(),
            event: times.as_ref(),
        };
        output::print_json(&serde_json::to_string_pretty(&report)?)?;
    } else {
        print(summary(count, &stack))?;
    }
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(count: usize, stack: &Stack) -> String {
    match count {
        0 => format!("{stack} is healthy"),
        1 => format!("1 finding in {stack}"),
        count => format!("{count} findings in {stack}"),
    }
}

fn findings(judgement: &Judgement) -> &[Finding] {
    match judgement {
        Judgement::Found(findings) => findings,
        Judgement::Good(_) | Judgement::NotLooked(_) => &[],
    }
}

/// The checks with a finding because of which an event would not be accepted, or not handled.
fn stoppers(results: &[Judged]) -> Vec<&'static str> {
    let stops = |judgement: &Judgement| findings(judgement).iter().any(|found| found.events == Events::Stop);
    results.iter().filter(|(_, judgement)| stops(judgement)).map(|(name, _)| *name).collect()
}

fn report((check, judgement): &Judged) -> CheckReport<'_> {
    let (result, text) = match judgement {
        Judgement::Good(text) => ("good", Some(text.as_str())),
        Judgement::Found(_) => ("found", None),
        Judgement::NotLooked(why) => ("not_looked", Some(why.as_str())),
    };
    let findings = findings(judgement).iter().map(|Finding { what, remedy, events }| FindingReport {
        what,
        stops_events: *events == Events::Stop,
        remedy,
    });
    let rights = CHECKS.iter().find(|known| known.name == *check).map_or(EVENT_RIGHTS, |known| known.actions);
    CheckReport { check, rights, text, result, findings: findings.collect() }
}

/// The width of the longest name.
const NAME_WIDTH: usize = 14;

/// A line for each result and each finding, and the remedies below. A command is never broken.
fn lines(results: &[Judged]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, judgement) in results {
        let marked = |style: Style, mark: &str, text: &str| {
            Line::default().styled(style, mark).text(format!(" {name:NAME_WIDTH$} {text}"))
        };
        match judgement {
            Judgement::Good(text) => lines.push(marked(AnsiColor::Green.on_default(), "✓", text)),
            Judgement::NotLooked(why) => lines.push(marked(Style::new(), "-", why)),
            Judgement::Found(findings) => {
                for Finding { what, remedy, .. } in findings {
                    lines.push(marked(AnsiColor::Red.on_default(), "✗", what));
                    lines.extend(remedy.note.iter().map(|note| Line::new(format!("    ({note})"))));
                    lines.extend(remedy.commands.iter().map(|command| Line::new(format!("    {command}"))));
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_finding_and_the_remedy_below() {
        let found = |what: &str, events| Finding {
            what: what.to_owned(),
            remedy: Remedy::command("aws x".to_owned()).with_note("look first"),
            events,
        };
        let results = [
            ("stack", Judgement::Good("well".to_owned())),
            (
                "alarms",
                Judgement::Found(vec![found("a rings", Events::Pass), found("b\u{1b}", Events::Stop)]),
            ),
            ("url", Judgement::NotLooked("no output".to_owned())),
        ];
        let plain: Vec<_> = lines(&results).iter().map(Line::plain).collect();
        assert_eq!(
            plain,
            [
                "✓ stack          well",
                "✗ alarms         a rings",
                "    (look first)",
                "    aws x",
                r"✗ alarms         b\u{1b}",
                "    (look first)",
                "    aws x",
                "- url            no output",
            ]
        );
        assert_eq!(stoppers(&results), ["alarms"]);
        let json = serde_json::to_value(results.iter().map(report).collect::<Vec<_>>()).unwrap();
        assert_eq!(json[1]["findings"][1]["stops_events"], true);
        assert_eq!(json[1]["findings"][0]["remedy"]["commands"][0], "aws x");
        assert_eq!((&json[0]["result"], &json[2]["text"]), (&"good".into(), &"no output".into()));
    }

    #[test]
    fn no_name_is_longer_than_its_column_and_every_name_is_its_own() {
        let mut names: Vec<_> = CHECKS.iter().map(|check| check.name).chain([EVENT]).collect();
        assert!(names.iter().all(|name| name.len() <= NAME_WIDTH));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
