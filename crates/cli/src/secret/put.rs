//! `learnink secret put`: a secret is checked, stored, and proved to be in use.

use std::process::ExitCode;

use clap::ValueEnum;
use learnink_simulator::Fingerprint;

use super::SecretFile;
use super::change::{ChangeArgs, PROBES, RIGHTS, Secret};
use super::slots::{Given, Kind, Place, State, slots};
use super::store::Stored;
use crate::aws::IN_AWS;
use crate::output::{WRONG_USE, note, print};
use crate::question::Answer;

/// Options of `learnink secret put`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
The signing secret is what LearnInk shows on the page of the endpoint. The push sender's is the `whsec_...` with \
which your endpoint verifies, OneSignal's App API key, or the file of a service account's key for Firebase. It is \
checked as its reader checks it, before it is stored. The receiver then accepts this signing secret and no other \
one. If LearnInk's is stored already, another one is refused: `secret rotate` keeps the stored one beside it, and \
--replace does not.

Then a probe that is signed with the secret is posted to the URL for webhooks, until the receiver answers 200. \
{PROBES} A new push secret is not probed, because that would send a notification.

{RIGHTS}

The exit code is 0 if it is stored and the receiver takes it, 1 if not, and 2 if there is no running pipeline, no \
secret, or nobody to ask.

Examples:
  cargo learnink secret put --stack learnink-webhooks-staging
  cargo learnink secret put push --secret-file service-account.json

{IN_AWS}"))]
pub(crate) struct Args {
    /// Which secret
    #[arg(value_enum, default_value_t)]
    which: Which,
    /// Replace a secret that is in use: the receiver then refuses what is signed with it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    secret: SecretFile,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A secret that an operator stores.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Which {
    /// LearnInk's signing secret
    #[default]
    Signing,
    /// The secret of the push sender
    Push,
}

impl Which {
    /// The secret, and everything that is needed to change it; `None` if it cannot be changed, which is said.
    async fn of(self, change: &ChangeArgs) -> anyhow::Result<Option<Secret<'_>>> {
        match self {
            Self::Signing => Secret::signing(change).await,
            Self::Push => Secret::push(change).await,
        }
    }

    const fn question(self) -> &'static str {
        match self {
            Self::Signing => "signing secret",
            Self::Push => "secret of the push sender",
        }
    }
}

/// What to do with a secret that was given.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing that is in use is replaced.
    Store,
    /// It is the current one.
    StoredAlready,
    /// Another one is in use.
    OtherIsInUse(Fingerprint),
}

fn decide(kind: &Kind, stored: &Stored, given: &Given) -> Decision {
    if given.found_in(kind, stored) == Some(Place::Current) {
        return Decision::StoredAlready;
    }
    let current = slots(kind, stored).into_iter().next();
    match current.and_then(|slot| slot.fingerprint.filter(|_| slot.state == State::InUse)) {
        Some(fingerprint) => Decision::OtherIsInUse(fingerprint),
        None => Decision::Store,
    }
}

/// Stores a secret.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let change = &args.change;
    if args.replace && !change.can_ask()? {
        return Ok(ExitCode::from(WRONG_USE));
    }
    let Some(secret) = args.which.of(change).await? else { return Ok(ExitCode::from(WRONG_USE)) };
    let stored = secret.store.read().await?;
    let Some(given) = args.secret.read(&secret.kind, args.which.question())? else {
        return Ok(ExitCode::from(WRONG_USE));
    };
    let fingerprint = &given.fingerprint;
    let decision = decide(&secret.kind, &stored, &given);
    if let Decision::OtherIsInUse(other) = &decision
        && !args.replace
    {
        anyhow::bail!(
            "nothing was stored: {} has another secret, {other}, which is in use. {}",
            secret.store,
            match args.which {
                Which::Signing => format!(
                    "After a rotation in LearnInk, `{}` keeps it for the webhooks that are still signed with it. Add \
                     --replace if it is a wrong one",
                    change.command("rotate")
                ),
                Which::Push => "Add --replace to replace it".to_owned(),
            }
        );
    }
    if change.consent.dry_run {
        let would = match &decision {
            Decision::Store => format!("{fingerprint} would be stored"),
            Decision::StoredAlready => format!("{fingerprint} is stored already"),
            Decision::OtherIsInUse(other) => format!("{fingerprint} would be stored in place of {other}"),
        };
        print(format!("dry run: {would} in {}", secret.store))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Decision::OtherIsInUse(other) = &decision {
        let question =
            format!("Replace {other} with {fingerprint}? What is signed only with {other} is then refused.");
        if change.consent.ask(&question).await? == Answer::No {
            note("nothing was stored")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let probe = secret.probe()?;
    let mut changing = secret.start("secret put", fingerprint).await?;
    let done = match decision {
        Decision::StoredAlready => "stored_already",
        Decision::Store | Decision::OtherIsInUse(_) => match store(&secret, &stored, &given).await {
            Ok(()) => "stored",
            Err(error) => return Err(changing.fail(error).await),
        },
    };
    let end = match &probe {
        Some(probe) => {
            note(format!("{done}; waiting until the receiver takes it", done = done.replace('_', " ")))?;
            Some(probe.until_accepted(&given.text, &mut changing.interrupt).await?)
        }
        None => None,
    };
    let code = changing.end(done, fingerprint, end.as_ref()).await?;
    if code != ExitCode::SUCCESS {
        note(format!("To try again, with the same secret: {}", change.command("put")))?;
    }
    if secret.kind != Kind::Signing {
        note("the consumer reads it when its own is five minutes old, or when the sender refuses that one")?;
    }
    Ok(code)
}

/// Stores the secret as the only one in use.
async fn store(secret: &Secret<'_>, stored: &Stored, given: &Given) -> anyhow::Result<()> {
    secret.check(secret.store.replace(stored, &given.text).await?)?;
    // The receiver accepts the previous value too.
    if let (Kind::Signing, Some(replaced)) = (&secret.kind, &stored.current)
        && let Err(error) = secret.store.drop_previous(&replaced.id).await
    {
        note(format!("warning: it is stored, but the receiver still accepts the value before: {error:#}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::store::Version;
    use super::*;

    #[test]
    fn only_a_secret_that_is_in_use_is_not_replaced_unasked() {
        const ONE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        const TWO: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let given = Given::parse(&Kind::Signing, ONE).ok().unwrap();
        let decided = |value: Option<&str>| {
            let version =
                |value: &str| Version { id: "1".to_owned(), value: Some(value.to_owned()), stored_at: None };
            decide(&Kind::Signing, &Stored { current: value.map(version), previous: None }, &given)
        };
        assert_eq!(decided(None), Decision::Store);
        assert_eq!(decided(Some("k3JdP0aZ8sQwLx5VbNtR2mYcHg7UfEiT")), Decision::Store);
        assert_eq!(decided(Some("changeme")), Decision::Store);
        assert_eq!(decided(Some(ONE)), Decision::StoredAlready);
        assert!(matches!(decided(Some(TWO)), Decision::OtherIsInUse(_)));
    }
}
