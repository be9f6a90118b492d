//! What all changes of a secret share: options, the act, the probe, the report.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use learnink_simulator::Fingerprint;
use serde::Serialize;

use super::SIGNING_OUTPUT;
use super::dev::{self, NotChangeable, Running};
use super::probe::{End, Probe, Receiver};
use super::slots::Kind;
use super::store::{Change, Store};
use crate::acts::{OpenAct, Plan};
use crate::ledger::OpenLedger;
use crate::output::{self, note, print};
use crate::question::{Consent, Interrupt};
use crate::replay::Operator;
use crate::stack::{Stack, Target};
use crate::{called, variable};

/// How probes work, for the help.
pub(super) const PROBES: &str = "\
The probe is a genuine webhook without an event type: no handler of an event, event bus or forwarding gets it. \
The archive keeps it, and `learnink unknown` shows it for 90 days. All tries have one message id, so that it is \
handled once. An answer shows what one execution environment of the receiver does; each other one reads its \
secrets again after a signature that does not match, at most every 30 s, or after five minutes. --no-probe leaves \
it out.";

/// Where a secret is changed, and which rights that needs, for the help.
pub(super) const RIGHTS: &str = "\
Without --stack, the secret is that of the `learnink dev` that runs with its state in --state. It takes a new \
secret without a restart.

Each change leaves an act with the fingerprint in the ledger, which `learnink acts` lists. If somebody else changes \
the secret after it was read, the change is refused, and nothing is done. In AWS, a change needs \
secretsmanager:GetSecretValue, PutSecretValue and UpdateSecretVersionStage on the secret, and dynamodb:UpdateItem \
on the ledger.";

/// Options of commands that change a secret.
#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// Do not post a probe
    #[arg(long)]
    pub(super) no_probe: bool,
    /// How long to wait for the receiver, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=900))]
    wait: u64,
    /// Why, for people who see the act
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    #[command(flatten)]
    pub(super) consent: Consent,
    #[command(flatten)]
    operator: Operator,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

impl ChangeArgs {
    /// Whether a question can be asked; if not, this is said.
    pub(super) fn can_ask(&self) -> anyhow::Result<bool> {
        if self.consent.dry_run {
            return Ok(true);
        }
        match self.consent.check() {
            Ok(()) => Ok(true),
            Err(no_terminal) => note(no_terminal.to_string()).map(|()| false),
        }
    }

    /// Another command of `learnink secret` at the same place.
    pub(super) fn command(&self, command: &str) -> String {
        format!("{} secret {command}{}", called::learnink(), self.target.options())
    }
}

/// A secret that is about to be changed.
pub(super) struct Secret<'a> {
    args: &'a ChangeArgs,
    pub(super) kind: Kind,
    pub(super) store: Store,
    ledger: OpenLedger,
    webhook_url: String,
    receiver: Receiver,
    by: String,
}

/// A change of a secret that is under way.
pub(super) struct Changing<'a> {
    secret: &'a Secret<'a>,
    act: OpenAct<'a>,
    pub(super) interrupt: Interrupt,
}

/// How a change ended; the output with `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    secret: &'static str,
    name: String,
    /// What was done: `stored`, `stored_already`, `dropped`, or `nothing`.
    pub(super) change: &'static str,
    fingerprint: Fingerprint,
    /// `as_expected`, `otherwise`, `interrupted` or `not_sent`.
    probe: &'static str,
    seconds: Option<f64>,
    problem: Option<String>,
    act: Option<String>,
}

impl<'a> Secret<'a> {
    /// The signing secret; `None` if that of `learnink dev` cannot be changed now, which is said.
    pub(super) async fn signing(args: &'a ChangeArgs) -> anyhow::Result<Option<Self>> {
        if let Some(stack) = args.target.in_aws.stack().await? {
            return Self::of_stack(&stack, Kind::Signing, stack.output(SIGNING_OUTPUT)?, args).map(Some);
        }
        let folder = &args.target.state.folder;
        let Running { secrets_manager, webhook_url } = match dev::running(&args.target)? {
            Ok(running) => running,
            Err(why) => return Ok(not_changeable(why)),
        };
        let Some(ledger) = OpenLedger::of_dev(folder).await? else {
            return Ok(not_changeable(NotChangeable::not_running(&args.target)));
        };
        Ok(Some(Self {
            args,
            kind: Kind::Signing,
            store: Store::of_dev(&secrets_manager, folder),
            ledger,
            webhook_url,
            receiver: Receiver::OfDev,
            by: args.operator.name(variable)?,
        }))
    }

    /// The secret of the push sender; `None` without a stack, which is said.
    pub(super) async fn push(args: &'a ChangeArgs) -> anyhow::Result<Option<Self>> {
        let Some(stack) = args.target.in_aws.stack().await? else {
            return Ok(not_changeable(NotChangeable::push(&args.target)));
        };
        let name = stack.optional("PushSecretName").with_context(|| {
            format!("{stack} sends no push notifications; deploy it with the parameter Push first")
        })?;
        let sender = stack.parameter("Push").unwrap_or_default().to_owned();
        Self::of_stack(&stack, Kind::Push { sender }, name, args).map(Some)
    }

    fn of_stack(stack: &Stack, kind: Kind, name: &str, args: &'a ChangeArgs) -> anyhow::Result<Self> {
        Ok(Self {
            args,
            kind,
            store: Store::new(&stack.aws, name),
            ledger: OpenLedger::in_aws(&stack.aws, stack.output("LedgerTableName")?),
            webhook_url: stack.output("WebhookUrl")?.to_owned(),
            receiver: Receiver::OfStack,
            by: args.operator.name(variable)?,
        })
    }

    /// Records that a change starts.
    pub(super) async fn start(&self, action: &'static str, of: &Fingerprint) -> anyhow::Result<Changing<'_>> {
        let plan = Plan {
            action,
            by: self.by.clone(),
            place: self.store.to_string(),
            filter: format!("{} {of}", self.kind.name()),
            reason: self.args.reason.clone(),
            selected: 1,
        };
        let act = OpenAct::start(&self.ledger, plan).await?;
        Ok(Changing { secret: self, act, interrupt: Interrupt::watch() })
    }

    /// A probe for the receiver; `None` if there is to be none. Only the signing secret can be probed.
    pub(super) fn probe(&self) -> anyhow::Result<Option<Probe<'_>>> {
        if self.args.no_probe || self.kind != Kind::Signing {
            return Ok(None);
        }
        let limit = Duration::from_secs(self.args.wait);
        Probe::new(&self.webhook_url, self.receiver, self.store.clock(), limit).map(Some)
    }

    /// The error if somebody else was faster.
    pub(super) fn check(&self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Done => Ok(()),
            Change::Overtaken => anyhow::bail!(
                "nothing was changed: somebody else has changed {} since this command read it; look at it with `{}`",
                self.store,
                self.args.command("status")
            ),
        }
    }

    /// Prints how a change ended, and returns the exit code.
    pub(super) fn report(
        &self,
        change: &'static str,
        of: &Fingerprint,
        end: Option<&End>,
        act: Option<String>,
    ) -> anyhow::Result<ExitCode> {
        let (probe, seconds, problem) = match end {
            None => ("not_sent", None, None),
            Some(End::AsExpected(took)) => ("as_expected", Some(took.as_secs_f64()), None),
            Some(End::Otherwise(why)) => ("otherwise", None, Some(why.clone())),
            Some(End::Interrupted) => ("interrupted", None, None),
        };
        let name = self.store.name().to_owned();
        let line = format!("secret {}: {}", self.kind.name(), described(change, of, end));
        let printed = if self.args.json {
            let report = Report {
                secret: self.kind.name(),
                name,
                change,
                fingerprint: of.clone(),
                probe,
                seconds,
                problem,
                act,
            };
            output::print_json(&serde_json::to_string_pretty(&report)?)
        } else {
            print(&line)
        };
        printed.with_context(|| format!("{line}; this could not be printed"))?;
        Ok(match end {
            None | Some(End::AsExpected(_)) => ExitCode::SUCCESS,
            Some(End::Otherwise(_) | End::Interrupted) => ExitCode::FAILURE,
        })
    }
}

/// How a change ended, for a person.
pub(super) fn described(change: &str, of: &Fingerprint, end: Option<&End>) -> String {
    let (change, done, not_done) = match change {
        "dropped" => (format!("{of} is dropped"), "refuses it", "does not refuse it yet"),
        "stored" => ("stored".to_owned(), "takes it", "does not take it"),
        _ => ("stored already".to_owned(), "takes it", "does not take it"),
    };
    match end {
        None => format!("{change}; no probe was sent"),
        Some(End::AsExpected(took)) => {
            format!("{change}, and the receiver {done} ({:.1} s)", took.as_secs_f64())
        }
        Some(End::Otherwise(why)) => format!("{change}, but the receiver {not_done}: {why}"),
        Some(End::Interrupted) => format!("{change}; interrupted before the receiver's answer"),
    }
}

impl Changing<'_> {
    /// Records the end of the change and prints it. Returns the exit code.
    pub(super) async fn end(
        self,
        change: &'static str,
        of: &Fingerprint,
        end: Option<&End>,
    ) -> anyhow::Result<ExitCode> {
        let act = self.act.end(1, &described(change, of, end)).await?;
        self.secret.report(change, of, end, Some(act.id))
    }

    /// Records that nothing was changed, and fails.
    pub(super) async fn fail(self, why: anyhow::Error) -> anyhow::Error {
        match self.act.end(0, &format!("failed: {why:#}")).await {
            Ok(_) => why,
            Err(error) => error,
        }
    }
}

/// Says why a secret cannot be changed.
fn not_changeable<T>(why: NotChangeable) -> Option<T> {
    output::error(&why.into());
    None
}
