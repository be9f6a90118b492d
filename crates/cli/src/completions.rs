//! `learnink completions`: the script with which a shell completes the command line.

use clap::Command;
use clap_complete::{Shell, generate};

use crate::output;

/// Options of `learnink completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It is for the program `learnink`; docs/quick-start.md says how to install it. An alias of another name is not completed.

Examples:
  learnink completions bash \\
    >~/.local/share/bash-completion/completions/learnink
  learnink completions zsh >~/.zfunc/_learnink
  learnink completions fish >~/.config/fish/completions/learnink.fish")]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, mut command: Command) -> anyhow::Result<()> {
    output::print_script(&script(args.shell, &mut command))
}

fn script(shell: Shell, command: &mut Command) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_has_a_script_that_knows_every_command() {
        for shell in Shell::value_variants() {
            let mut command = crate::command("learnink", "learnink dev");
            let script = script(*shell, &mut command);
            for word in ["learnink", "redrive", "rotate", "drop-previous", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("cargo learnink"), "{shell}");
        }
    }
}
