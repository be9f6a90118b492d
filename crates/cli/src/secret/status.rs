//! `learnink secret status`: the slots of each secret.

use std::process::ExitCode;

use learnink_local::StateError;
use learnink_local::terminal::quoted;

use super::SIGNING_OUTPUT;
use super::dev::{self, NotChangeable};
use super::slots::{Kind, Slot, State, slots};
use super::store::Store;
use crate::aws::IN_AWS;
use crate::output::print;
use crate::stack::{Stack, Target};
use crate::table::Column::{Id, Text};
use crate::{called, table};

/// Options of `learnink secret status`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
A fingerprint names a secret and says nothing about it: 8 digits of an HMAC-SHA-256 over the secret. Two people \
with the same fingerprint have the same secret.

The receiver accepts the secrets of the current value and of the one before. The secrets of the push sender and \
of forwarding are shown if the stack has them; a request is signed with each secret of their current value. \
When a slot last matched is not shown: only the metrics know it, and they name the slot and not the secret. \
The dashboard's graph \"accepted by secret\" has it.

Without --stack, the secret is that of `learnink dev`, whether or not it runs. In AWS, this needs \
secretsmanager:GetSecretValue on the secrets. The exit code is 0 if every secret is stored and can be used, and 1 \
if not.

{IN_AWS}"))]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A secret that a stack has, and its name in Secrets Manager.
fn of_stack(stack: &Stack) -> anyhow::Result<Vec<(Kind, &str)>> {
    let mut secrets = vec![(Kind::Signing, stack.output(SIGNING_OUTPUT)?)];
    if let Some(name) = stack.optional("PushSecretName") {
        let sender = stack.parameter("Push").unwrap_or_default().to_owned();
        secrets.push((Kind::Push { sender }, name));
    }
    secrets.extend(stack.optional("ForwardSecretName").map(|name| (Kind::Forward, name)));
    Ok(secrets)
}

/// Shows the slots.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (slots, place) = match args.target.in_aws.stack().await? {
        Some(stack) => {
            let mut all = Vec::new();
            for (kind, name) in of_stack(&stack)? {
                all.extend(slots(&kind, &Store::new(&stack.aws, name).read().await?));
            }
            (all, stack.to_string())
        }
        None => {
            (of_dev(args)?, format!("the state of `learnink dev` ({})", quoted(&args.target.state.folder)))
        }
    };
    if args.json {
        table::print_json(&slots)?;
    } else {
        let columns = [Id("Secret"), Id("Slot"), Id("Fingerprint"), Text("Stored"), Text("State")];
        let rows = slots.iter().map(|slot| {
            [
                slot.secret.to_owned(),
                slot.slot.name().to_owned(),
                slot.fingerprint.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                slot.stored_at.map_or_else(|| "-".to_owned(), table::seconds),
                described(slot),
            ]
        });
        table::print_rows(columns, rows)?;
        print(format!("in {place}"))?;
        for next in slots.iter().filter_map(|slot| next(slot, &args.target)) {
            print(next)?;
        }
    }
    Ok(if slots.iter().all(is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The secrets that `learnink dev` keeps. One that was given at its start is not among them.
fn of_dev(args: &Args) -> anyhow::Result<Vec<Slot>> {
    let folder = &args.target.state.folder;
    if let Err(given @ NotChangeable::Given { .. }) = dev::running(&args.target)? {
        return Err(given.into());
    }
    match dev::stored(folder) {
        Ok(stored) => Ok(slots(&Kind::Signing, &stored)),
        Err(error) if matches!(error.downcast_ref(), Some(StateError::NoSecret { .. })) => anyhow::bail!(
            "no `learnink dev` has run in {}; start `{}`, or name a deployed stack with --stack",
            quoted(folder),
            called::dev()
        ),
        Err(error) => Err(error),
    }
}

/// Whether nothing has to be done about a slot. A random secret in the previous slot is harmless.
fn is_good(slot: &Slot) -> bool {
    match slot.state {
        State::InUse | State::AlsoUsed => true,
        State::Generated => slot.slot == super::slots::Place::Previous,
        State::Missing | State::Unusable => false,
    }
}

fn described(slot: &Slot) -> String {
    match &slot.state {
        State::InUse => "in use".to_owned(),
        State::AlsoUsed if slot.secret == Kind::Signing.name() => "still accepted".to_owned(),
        State::AlsoUsed => "also signs".to_owned(),
        State::Generated if is_good(slot) => {
            "the random one of the template; nobody signs with it".to_owned()
        }
        State::Generated => {
            "the random one of the template: LearnInk's is not stored yet, and every webhook is refused"
                .to_owned()
        }
        State::Missing => "not stored yet".to_owned(),
        State::Unusable => {
            format!("cannot be used: {}", slot.problem.as_deref().unwrap_or("it is not known why"))
        }
    }
}

/// The line to type for a slot that is not good.
fn next(slot: &Slot, target: &Target) -> Option<String> {
    let can_be_put = target.is_stack() && slot.secret != Kind::Forward.name();
    let is_current = slot.slot == super::slots::Place::Current;
    (can_be_put && is_current && !is_good(slot))
        .then(|| format!("Next: {} secret put {}{}", called::learnink(), slot.secret, target.options()))
}
