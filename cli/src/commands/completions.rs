//! `wwproxy completions`

use clap_complete::Shell;

use crate::output::Output;

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wwproxy completions bash > ~/.local/share/bash-completion/completions/wwproxy
  wwproxy completions zsh > ~/.zfunc/_wwproxy
  wwproxy completions fish > ~/.config/fish/completions/wwproxy.fish")]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) async fn run(self, mut command: clap::Command) -> anyhow::Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "wwproxy", &mut text);
        // A closed stdout is no error.
        Output::stdout().write(&text).await.map(drop)
    }
}
