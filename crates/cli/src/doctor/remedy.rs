//! What mends a finding: commands that can be typed as they are printed.

use learnink_local::terminal::{option, quoted};
use serde::Serialize;

use crate::stack::Stack;
use crate::{aws, called};

/// What mends a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Remedy {
    /// What a person has to know or do besides the commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// Commands for a shell, one after the other.
    pub(super) commands: Vec<String>,
}

impl Remedy {
    /// One command.
    pub(super) fn command(command: String) -> Self {
        Self::commands([command])
    }

    /// Several commands, one after the other.
    pub(super) fn commands(commands: impl IntoIterator<Item = String>) -> Self {
        Self { note: None, commands: commands.into_iter().collect() }
    }

    /// Something that no command does.
    pub(super) fn note(note: impl Into<String>) -> Self {
        Self::default().with_note(note)
    }

    pub(super) fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

/// What the commands for one stack have in common.
#[derive(Debug, Clone)]
pub(super) struct Shell {
    stack: String,
    /// `staging` or `production`, if the stack says so.
    stage: Option<String>,
    region: String,
    profile: Option<String>,
    /// The words in front of a command of this program.
    learnink: String,
}

impl Shell {
    pub(super) fn new(stack: &Stack, profile: Option<&str>) -> Self {
        Self {
            stack: stack.name().to_owned(),
            stage: stack.parameter("Stage").map(str::to_owned),
            region: aws::region(&stack.aws).to_owned(),
            profile: profile.map(str::to_owned),
            learnink: called::learnink().to_owned(),
        }
    }

    /// The name of the stack as one word.
    pub(super) fn stack(&self) -> String {
        quoted(&self.stack)
    }

    /// The options that choose region and profile, with a space in front.
    fn place(&self) -> String {
        let profile = self.profile.as_ref().map(|profile| format!(" {}", option("--profile", profile)));
        format!(" {}{}", option("--region", &self.region), profile.unwrap_or_default())
    }

    /// A command of the AWS CLI.
    pub(super) fn aws(&self, command: &str) -> String {
        format!("aws{} {command}", self.place())
    }

    /// A command of this program for the stack.
    pub(super) fn learnink(&self, command: &str) -> String {
        let profile = self.profile.as_ref().map(|profile| format!(" {}", option("--profile", profile)));
        let stack = option("--stack", &self.stack);
        format!("{} {command} {stack}{}", self.learnink, profile.unwrap_or_default())
    }

    /// Builds and deploys the checkout.
    pub(super) fn deploy(&self) -> Remedy {
        let by_stage = self.stage.as_ref().filter(|stage| self.stack == format!("learnink-webhooks-{stage}"));
        let deploy = match (by_stage, &self.stage) {
            // As samconfig.toml names it.
            (Some(stage), _) => format!("sam deploy {}{}", option("--config-env", stage), self.place()),
            (None, Some(stage)) => {
                let stack = option("--stack-name", &self.stack);
                format!("sam deploy {} {stack}{}", option("--config-env", stage), self.place())
            }
            (None, None) => return Remedy::note("deploy this version from a checkout: docs/deploy.md"),
        };
        Remedy::commands(["sam build".to_owned(), deploy])
    }

    /// Builds and deploys the code of one function, and moves the alias to it.
    pub(super) fn deploy_code(&self, binary: &str, function: &str, architecture: &str) -> Remedy {
        let architecture = if architecture == "arm64" { " --arm64" } else { "" };
        Remedy::commands([
            format!("cargo lambda build --release{architecture} --bin {binary}"),
            format!(
                "cargo lambda deploy{} --binary-name {binary} --alias live {}",
                self.place(),
                quoted(function)
            ),
        ])
    }

    /// Stores a secret that is pasted.
    pub(super) fn store_secret(&self, name: &str) -> Remedy {
        let put = format!(
            "secretsmanager put-secret-value {} --secret-string file:///dev/stdin <<<\"$secret\"",
            option("--secret-id", name)
        );
        Remedy::commands(["read -rs secret".to_owned(), self.aws(&put)])
    }

    #[cfg(test)]
    pub(super) fn of_test() -> Self {
        Self {
            stack: "learnink-webhooks-staging".to_owned(),
            stage: Some("staging".to_owned()),
            region: "eu-west-1".to_owned(),
            profile: None,
            learnink: "learnink".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_region_profile_and_stack_and_can_be_pasted() {
        let shell = Shell { profile: Some("on call".to_owned()), ..Shell::of_test() };
        assert_eq!(shell.aws("sns x"), "aws --region eu-west-1 --profile 'on call' sns x");
        let stack = "--stack learnink-webhooks-staging";
        assert_eq!(shell.learnink("dlq causes"), format!("learnink dlq causes {stack} --profile 'on call'"));
        assert_eq!(Shell::of_test().learnink("dlq causes"), format!("learnink dlq causes {stack}"));
    }

    #[test]
    fn a_deploy_never_gives_a_stack_the_parameters_of_another_stage() {
        let deploy = |stack: &str, stage: Option<&str>| {
            let shell =
                Shell { stack: stack.to_owned(), stage: stage.map(str::to_owned), ..Shell::of_test() };
            shell.deploy().commands.pop()
        };
        let named = "sam deploy --config-env production --region eu-west-1";
        assert_eq!(deploy("learnink-webhooks-production", Some("production")).as_deref(), Some(named));
        let other = "sam deploy --config-env production --stack-name x --region eu-west-1";
        assert_eq!(deploy("x", Some("production")).as_deref(), Some(other));
        assert_eq!(deploy("x", None), None);
    }
}
