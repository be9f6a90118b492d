//! `learnink secret rotate`: a new signing secret beside the previous one, and the end of the previous one.

use std::process::ExitCode;

use anyhow::Context;
use learnink_webhook::config::listed_secrets;

use super::SecretFile;
use super::change::{ChangeArgs, PROBES, RIGHTS, Secret};
use super::probe::End;
use super::slots::{InUse, Kind, Place, State, accepted, slots};
use super::store::Stored;
use crate::aws::IN_AWS;
use crate::output::{WRONG_USE, note, print};
use crate::question::Answer;

/// Options of `learnink secret rotate`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
First rotate the secret on the endpoint's page in LearnInk. For 24 hours, LearnInk then signs with both. Store the \
new one within that day: the receiver accepts it and the previous one, so that no webhook is refused. A day later, \
--drop-previous ends the rotation. After a leak, run both at once.

A probe that is signed with the new secret is posted to the URL for webhooks, until the receiver answers 200; after \
--drop-previous, also one that is signed with the previous secret, until the receiver answers 401. {PROBES}

{RIGHTS}

The exit code is 0 if it is done and the receiver shows it, 1 if not, and 2 if there is no running pipeline, no \
secret, or nobody to ask.

Examples:
  cargo learnink secret rotate --stack learnink-webhooks-production
  cargo learnink secret rotate --drop-previous --reason \"it was in a log\"

{IN_AWS}"))]
pub(crate) struct Args {
    /// Store nothing new; accept only the current secret from now on
    #[arg(long, conflicts_with = "file")]
    drop_previous: bool,
    #[command(flatten)]
    secret: SecretFile,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Rotates the signing secret.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let change = &args.change;
    if args.drop_previous && !change.can_ask()? {
        return Ok(ExitCode::from(WRONG_USE));
    }
    let Some(secret) = Secret::signing(change).await? else { return Ok(ExitCode::from(WRONG_USE)) };
    let stored = secret.store.read().await?;
    let first = slots(&Kind::Signing, &stored).into_iter().next();
    let first = first.with_context(|| format!("{} has no value", secret.store))?;
    let (State::InUse, Some(current)) = (first.state, accepted(&stored).0) else {
        anyhow::bail!(
            "nothing was changed: {} has no secret of LearnInk's yet; store it with `{}`",
            secret.store,
            change.command("put")
        );
    };
    if args.drop_previous {
        drop_previous(args, &secret, &stored, &current).await
    } else {
        store_new(args, &secret, &stored, &current).await
    }
}

/// Stores a new secret. The current one stays accepted.
async fn store_new(
    args: &Args,
    secret: &Secret<'_>,
    stored: &Stored,
    current: &InUse,
) -> anyhow::Result<ExitCode> {
    let change = &args.change;
    if args.secret.is_asked_for() {
        note(format!(
            "Rotate the secret in LearnInk, under Settings → Developers → Webhook, on the endpoint's page. For 24 hours, \
             LearnInk then signs with the new one and with {}, which is stored here.",
            current.fingerprint
        ))?;
    }
    let Some(given) = args.secret.read(&Kind::Signing, "new signing secret")? else {
        return Ok(ExitCode::from(WRONG_USE));
    };
    match given.found_in(&Kind::Signing, stored) {
        None => {}
        Some(Place::Current) => anyhow::bail!(
            "nothing was stored: {} is the current secret already; rotate it in LearnInk first, and copy the new one",
            given.fingerprint
        ),
        Some(Place::Previous) => anyhow::bail!(
            "nothing was stored: {} is a previous secret, which {} has replaced; copy the new one from LearnInk",
            given.fingerprint,
            current.fingerprint
        ),
    }
    if change.consent.dry_run {
        print(format!(
            "dry run: {} would be stored in {}, and {} would stay accepted",
            given.fingerprint, secret.store, current.fingerprint
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let probe = secret.probe()?;
    let mut changing = secret.start("secret rotate", &given.fingerprint).await?;
    let replaced = secret.store.replace(stored, &given.text).await;
    if let Err(error) = replaced.and_then(|change| secret.check(change)) {
        return Err(changing.fail(error).await);
    }
    let end = match &probe {
        Some(probe) => {
            note("stored; waiting until the receiver takes it")?;
            Some(probe.until_accepted(&given.text, &mut changing.interrupt).await?)
        }
        None => None,
    };
    let code = changing.end("stored", &given.fingerprint, end.as_ref()).await?;
    if code != ExitCode::SUCCESS {
        note(format!("To try again, with the same secret: {}", change.command("put")))?;
    }
    note(format!(
        "{} is still accepted. A day after the rotation, or at once after a leak: {}",
        current.fingerprint,
        change.command("rotate --drop-previous")
    ))?;
    Ok(code)
}

/// Takes every secret but the current one out of use.
async fn drop_previous(
    args: &Args,
    secret: &Secret<'_>,
    stored: &Stored,
    current: &InUse,
) -> anyhow::Result<ExitCode> {
    let change = &args.change;
    let (_, others) = accepted(stored);
    let Some(dropped) = others.first() else {
        if change.json {
            return secret.report("nothing", &current.fingerprint, None, None);
        }
        print(format!("nothing to drop: the receiver accepts only {}", current.fingerprint))?;
        return Ok(ExitCode::SUCCESS);
    };
    let names = others.iter().map(|other| other.fingerprint.to_string()).collect::<Vec<_>>().join(", ");
    if change.consent.dry_run {
        print(format!("dry run: {names} would be dropped from {}", secret.store))?;
        return Ok(ExitCode::SUCCESS);
    }
    let question = format!(
        "Accept only {} from now on, and drop {names}? What is signed only with {names} is then refused.",
        current.fingerprint
    );
    if change.consent.ask(&question).await? == Answer::No {
        note("nothing was dropped")?;
        return Ok(ExitCode::FAILURE);
    }
    let probe = secret.probe()?;
    let mut changing = secret.start("secret drop-previous", &dropped.fingerprint).await?;
    if let Err(error) = remove(secret, stored, current).await {
        return Err(changing.fail(error).await);
    }
    let end = match &probe {
        Some(probe) => {
            note("dropped; waiting until the receiver refuses it")?;
            // First, so that a 401 afterwards can only mean the other secret, and so that a try that is accepted is
            // a duplicate of this one.
            match probe.until_accepted(&current.text, &mut changing.interrupt).await? {
                End::AsExpected(_) => {
                    Some(probe.until_refused(&dropped.text, &mut changing.interrupt).await?)
                }
                End::Otherwise(why) => Some(End::Otherwise(format!(
                    "the current secret, {}, is not taken: {why}",
                    current.fingerprint
                ))),
                End::Interrupted => Some(End::Interrupted),
            }
        }
        None => None,
    };
    changing.end("dropped", &dropped.fingerprint, end.as_ref()).await
}

/// Leaves only the current secret in use.
async fn remove(secret: &Secret<'_>, stored: &Stored, current: &InUse) -> anyhow::Result<()> {
    let store = &secret.store;
    let value = stored.current.as_ref().and_then(|version| version.value.as_deref());
    let is_alone = value.is_some_and(|value| listed_secrets(value).count() == 1);
    let version = if is_alone {
        &stored.previous
    } else {
        // The current value has others beside it.
        secret.check(store.replace(stored, &current.text).await?)?;
        &stored.current
    };
    match version {
        Some(version) => secret.check(store.drop_previous(&version.id).await?),
        None => Ok(()),
    }
}
