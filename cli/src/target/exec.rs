//! `--exec`: runs a command for each event.

mod environment;

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    process::Command,
    time::{Instant, timeout},
};
use wwproxy_sdk::EventMessage;

use self::environment::MAX_EVENT_BYTES;
use super::outcome::TryOutcome;
use crate::process_group::Group;

/// Runs a command for each event, with the body on stdin and the metadata in the environment.
pub(crate) struct Exec {
    command: String,
}

impl Exec {
    pub(crate) fn new(command: String) -> Self {
        Self { command }
    }

    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, limit: Duration) -> TryOutcome {
        let start = Instant::now();
        let (accepted, describe_status) = match timeout(limit, self.run(event, attempt)).await {
            Ok(Ok(status)) => (status.success(), describe_status(status)),
            Ok(Err(error)) => (false, format!("cannot run ({error})")),
            // Dropping the future has killed it.
            Err(_) => (false, "killed after the timeout".into()),
        };
        let took = start.elapsed();
        TryOutcome {
            accepted,
            took,
            reason: Some(describe_status.clone()),
            ..TryOutcome::failed(format!("{describe_status} from `{}`", self.command))
        }
    }

    async fn run(&self, event: &EventMessage, attempt: u32) -> io::Result<ExitStatus> {
        let spawn = |max_bytes| Group::spawn(&mut self.command(event, attempt, max_bytes));
        let mut group = match spawn(MAX_EVENT_BYTES) {
            // If the system allows less (a small stack, a large environment), only the required variables are set.
            Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => spawn(0)?,
            spawned => spawned?,
        };
        let mut stdin = group.child.stdin.take().expect("stdin is piped");
        let written = stdin.write_all(&event.body).await;
        drop(stdin);
        match written {
            // The command may succeed without reading all of stdin.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => group.wait().await,
        }
    }

    fn command(&self, event: &EventMessage, attempt: u32, max_bytes: usize) -> Command {
        let mut command = shell(&self.command);
        command.stdin(Stdio::piped());
        environment::set(&mut command, event, attempt, max_bytes);
        command
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command);
    shell
}

fn describe_status(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}
