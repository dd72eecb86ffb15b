//! An event given to a command.

use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::{Instant, timeout},
};
use wwproxy_sdk::EventMessage;

use super::Try;

/// Runs a command for each event: its body on stdin, what is known of it in the environment.
pub(crate) struct Exec {
    command: String,
}

impl Exec {
    pub(crate) fn new(command: String) -> Self {
        Self { command }
    }

    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, limit: Duration) -> Try {
        let start = Instant::now();
        let (accepted, said) = match timeout(limit, self.run(event, attempt)).await {
            Ok(Ok(status)) => (status.success(), said(status)),
            Ok(Err(error)) => (false, format!("cannot run ({error})")),
            // The future that was dropped has killed it.
            Err(_) => (false, "killed after its time".into()),
        };
        Try {
            accepted,
            answer: format!("{said} from {}", self.command),
            took: start.elapsed(),
            retry_after: None,
        }
    }

    async fn run(&self, event: &EventMessage, attempt: u32) -> io::Result<std::process::ExitStatus> {
        let mut child = Killed(self.command(event, attempt).spawn()?);
        let mut stdin = child.0.stdin.take().expect("stdin is piped");
        let written = stdin.write_all(&event.body).await;
        drop(stdin);
        match written {
            // It may take the event without reading it to the end.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => child.0.wait().await,
        }
    }

    fn command(&self, event: &EventMessage, attempt: u32) -> Command {
        let mut command = shell(&self.command);
        command.stdin(Stdio::piped()).env("WWPROXY_EVENT_ID", event.id.as_str());
        command.env("WWPROXY_ATTEMPT", attempt.to_string());
        // The environment holds no NUL.
        if let Some(kind) = event.event_type().filter(|kind| !kind.contains('\0')) {
            command.env("WWPROXY_EVENT_TYPE", kind);
        }
        for (name, value) in &event.details.headers {
            if !value.contains('\0') {
                command.env(variable(name), value);
            }
        }
        command
    }
}

/// The variable of a header. Its prefix keeps senders from setting variables that mean something, such as `HTTP_PROXY`.
fn variable(header: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("WWPROXY_HEADER_{}", header.chars().map(letter).collect::<String>())
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    // A group of its own: what it starts can be ended with it, and Ctrl-C leaves it the time to end by itself.
    shell.arg("-c").arg(command).process_group(0);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command);
    shell
}

/// A command that does not outlive the wait for it, nor does what it started.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?)) {
            // One that has gone meanwhile needs no killing.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.start_kill();
    }
}

fn said(status: std::process::ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_variables_that_mean_nothing_else() {
        assert_eq!(variable("x-outbound-token"), "WWPROXY_HEADER_X_OUTBOUND_TOKEN");
        assert_eq!(variable("proxy"), "WWPROXY_HEADER_PROXY");
        assert_eq!(variable("a=b c"), "WWPROXY_HEADER_A_B_C");
    }
}
