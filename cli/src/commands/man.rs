//! `wwproxy man`

use std::{fs, io, path::Path, path::PathBuf};

use anyhow::Context as _;

use crate::{error::UsageError, output::Output};

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
            return write_pages(command, &dir)
                .with_context(|| format!("cannot write the pages into {}", dir.display()));
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        // A closed stdout is no error.
        Output::stdout().write(&page).await.map(drop)
    }
}

/// Writes the page of each command. Pages of an earlier run are replaced; anything else in their place, such as a symbolic link,
/// is an error.
fn write_pages(command: clap::Command, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    // On the same file system, so that each page is renamed to its place: a rename follows no link.
    let drafts = tempfile::Builder::new().prefix(".wwproxy-").suffix(".tmp").tempdir_in(dir)?;
    clap_mangen::generate_to(command, drafts.path())?;
    let pages = fs::read_dir(drafts.path())?.collect::<io::Result<Vec<_>>>()?;
    for page in pages {
        let target = dir.join(page.file_name());
        if fs::symlink_metadata(&target).is_ok_and(|existing| !existing.is_file()) {
            return Err(UsageError(format!("{} is not a regular file; remove it", target.display())).into());
        }
        fs::rename(page.path(), &target)?;
    }
    Ok(())
}
