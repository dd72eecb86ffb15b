//! `--ready-file`: a file that exists once the server is ready to deliver events.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context as _;

use crate::{error::UsageError, private::private};

const CONTENT: &str = "ready\n";

/// The path of a ready file that does not exist yet.
pub(super) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// Removes the ready file of an earlier run, which would report readiness too early. Anything else at the path is kept and is an
    /// error: a symbolic link could lead to another file.
    pub(super) fn prepare(path: PathBuf) -> anyhow::Result<Self> {
        let failed = || format!("cannot use the ready file {}", path.display());
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(path)),
            Err(error) => return Err(error).with_context(failed),
            Ok(file) if file.is_file() && file.len() <= CONTENT.len() as u64 => {
                let content = fs::read(&path).with_context(failed)?;
                // `mktemp` creates empty files.
                if content.is_empty() || content == CONTENT.as_bytes() {
                    fs::remove_file(&path).with_context(failed)?;
                    return Ok(Self(path));
                }
            }
            Ok(_) => {}
        }
        let what = "exists and is not a ready file of an earlier run; remove it, or give another path";
        Err(UsageError(format!("{} {what}", path.display())).into())
    }

    /// Creates the file.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        let file = private(OpenOptions::new().create_new(true).write(true)).open(&self.0);
        let written = file.and_then(|mut file| file.write_all(CONTENT.as_bytes()));
        written.with_context(|| format!("cannot write the ready file {}", self.0.display()))
    }
}
