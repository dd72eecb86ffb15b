//! Systems without process groups.

use std::{io, process::ExitStatus};

use tokio::process::{Child, Command};

/// A command that is killed when it is dropped. Processes that it started are not known here.
pub(crate) struct Group {
    pub(crate) child: Child,
}

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.kill_on_drop(true).spawn()? })
    }

    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// Kills all running commands. Without process groups there is nothing to do.
pub(crate) fn kill_all() {}
