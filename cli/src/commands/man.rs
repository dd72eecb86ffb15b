//! `wwproxy man`

use std::{fs, path::PathBuf};

use anyhow::Context as _;

use crate::output::Output;

/// Print the manual page, or write one for each command
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wwproxy man | man -l -\n  wwproxy man --dir ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) async fn run(self, command: clap::Command) -> anyhow::Result<()> {
        if let Some(dir) = self.dir {
            let failed = || format!("cannot write the pages into {}", dir.display());
            fs::create_dir_all(&dir).with_context(failed)?;
            return clap_mangen::generate_to(command, &dir).with_context(failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        // A reader that is gone wants no more of it.
        Output::stdout().write(&page).await.map(drop)
    }
}
