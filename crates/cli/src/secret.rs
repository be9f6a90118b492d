//! `learnink secret`: which secrets are stored, and how new ones get there.

mod change;
mod dev;
mod probe;
mod put;
mod rotate;
mod slots;
mod status;
mod store;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use console::Term;
use learnink_local::StateError;
use learnink_local::state::{read_previous_secret, read_signing_secret};
use learnink_local::terminal::quoted;
use learnink_receiver::Verifier;

use self::slots::{Given, Kind, NotStorable};
use self::store::{Store, Stored};
use crate::input::STANDARD;
use crate::stack::Stack;
use crate::{output, secrets};

/// The commands of `learnink secret`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show which secrets are stored and whether they can be used, never the secrets
    Status(status::Args),
    /// Store a secret, and wait until the receiver takes it
    Put(Box<put::Args>),
    /// Store LearnInk's new signing secret beside the previous one, or stop accepting the previous one
    Rotate(Box<rotate::Args>),
}

/// Carries out one of the commands.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(args) => status::run(&args).await,
        Command::Put(args) => put::run(&args).await,
        Command::Rotate(args) => rotate::run(&args).await,
    }
}

/// The values that the receiver of a stack verifies with, and where each is: the current one, and the one before
/// if it can be used.
pub(crate) async fn signing_values(stack: &Stack) -> anyhow::Result<Vec<(String, String)>> {
    let store = Store::new(&stack.aws, stack.output(SIGNING_OUTPUT)?);
    let Stored { current, previous } = store.read().await?;
    let current = current.and_then(|version| version.value);
    let current = current.with_context(|| format!("{store} has no value that is text"))?;
    let previous = usable(previous.and_then(|version| version.value));
    let previous = previous.map(|value| (format!("the previous value of {store}"), value));
    Ok(std::iter::once((format!("the current value of {store}"), current)).chain(previous).collect())
}

/// The values that `learnink dev` keeps in `folder`, and where each is: the current one, and the one before if it
/// can be used.
pub(crate) fn signing_values_of_dev(folder: &Path) -> Result<Vec<(String, String)>, StateError> {
    let state = format!("the state of `learnink dev` ({})", quoted(folder));
    let previous = usable(read_previous_secret(folder)?);
    let previous = previous.map(|value| (format!("the previous value in {state}"), value));
    Ok(std::iter::once((state, read_signing_secret(folder)?)).chain(previous).collect())
}

/// A previous value, if the receiver can verify with it.
fn usable(previous: Option<String>) -> Option<String> {
    previous.filter(|value| Verifier::new(value).is_ok())
}

/// The output with the name of the signing secret.
const SIGNING_OUTPUT: &str = "SigningSecretName";

/// Where a new secret comes from.
#[derive(Debug, clap::Args)]
struct SecretFile {
    /// File with the new secret, - for standard input; without it, a terminal asks for it, and otherwise it is read
    /// from standard input. The command line cannot have it, because others on this machine can read it
    #[arg(long = "secret-file", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl SecretFile {
    /// Whether it is typed in.
    fn is_asked_for(&self) -> bool {
        let is_standard = self.file.as_deref().is_none_or(|file| file == Path::new(STANDARD));
        is_standard && std::io::stdin().is_terminal() && Term::stderr().is_term()
    }

    /// Reads and checks the secret; `None` if none was given, which is said.
    fn read(&self, kind: &Kind, what: &str) -> anyhow::Result<Option<Given>> {
        let standard = Path::new(STANDARD);
        let (text, source) = if self.is_asked_for() {
            (secrets::ask(what)?, "the prompt".to_owned())
        } else {
            let file = self.file.as_deref().unwrap_or(standard);
            let name = if file == standard { "standard input".to_owned() } else { quoted(file) };
            (secrets::text_in_file(file)?, name)
        };
        match Given::parse(kind, &text) {
            Ok(given) => Ok(Some(given)),
            Err(NotStorable::Empty) => {
                output::error(&anyhow::anyhow!(
                    "nothing was stored: there is no secret in {source}; run it in a terminal, which asks for the \
                     secret, or pipe the secret in"
                ));
                Ok(None)
            }
            Err(problem) => Err(problem)
                .with_context(|| format!("nothing was stored: the secret from {source} cannot be used")),
        }
    }
}
