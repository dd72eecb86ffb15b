//! Questions on the terminal.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context as _, anyhow};
use tokio::{select, task::spawn_blocking};

use crate::{error::UsageError, secret, shutdown::Shutdown};

/// Asks on the terminal, if both stdin and stderr are one.
pub(crate) struct Prompt {
    interactive: bool,
    shutdown: Shutdown,
}

/// Whether a question can be shown and answered.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

impl Prompt {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self::with_shutdown(Shutdown::on_signal()?))
    }

    pub(crate) fn with_shutdown(shutdown: Shutdown) -> Self {
        Self { interactive: is_interactive(), shutdown }
    }

    /// Asks a yes-or-no question. Only `y` and `yes` confirm.
    pub(crate) async fn confirm(&self, question: &str) -> anyhow::Result<bool> {
        print_question(&format!("{question} [y/N]"));
        let answer = self.answer(read_line).await?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Asks for the value of a flag.
    pub(crate) async fn ask(&self, what: &str, flag: &str) -> anyhow::Result<String> {
        if !self.interactive {
            return Err(UsageError(format!("give {flag}; there is no terminal to ask on")).into());
        }
        print_question(what);
        let answer = self.answer(read_line).await?;
        let answer = Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty());
        Ok(answer.ok_or_else(|| UsageError(format!("there was no answer; give {flag}")))?)
    }

    /// Asks with echo off, or reads stdin if it is not a terminal.
    pub(crate) async fn ask_secret(&self, what: &str, flags: &str) -> anyhow::Result<String> {
        let missing = || UsageError(format!("give {flags}"));
        if !self.interactive {
            if io::stdin().is_terminal() {
                return Err(missing().into());
            }
            return spawn_blocking(|| secret::read_file("-".as_ref(), "the secret"))
                .await?
                .with_context(missing);
        }
        // Before the question, so that no part of the answer is echoed.
        let echo_off = EchoOff::enable().context("cannot ask on this terminal")?;
        print_question(what);
        let secret = self.answer(read_secret).await;
        drop(echo_off);
        // The line end was not echoed either. A closed terminal is no error.
        let _ = writeln!(io::stderr());
        let secret = secret?;
        if secret.is_empty() { Err(missing().into()) } else { Ok(secret) }
    }

    /// Reads on a blocking thread. A signal ends the wait, so that the terminal's echo is restored.
    async fn answer(
        &self,
        read: impl FnOnce() -> io::Result<String> + Send + 'static,
    ) -> anyhow::Result<String> {
        select! {
            answer = spawn_blocking(read) => answer?.context("cannot ask on this terminal"),
            () = self.shutdown.requested() => Err(anyhow!("stopped; nothing was changed")),
        }
    }
}

fn print_question(what: &str) {
    // If stderr is closed, the question can still be answered.
    let _ = write!(io::stderr(), "{what}: ").and_then(|()| io::stderr().flush());
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(line)
}

#[cfg(unix)]
use self::unix::{EchoOff, read_secret};

#[cfg(unix)]
mod unix {
    use std::io;

    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

    pub(super) use super::read_line as read_secret;

    /// Turns the echo of the terminal off until it is dropped.
    pub(super) struct EchoOff(Termios);

    impl EchoOff {
        pub(super) fn enable() -> io::Result<Self> {
            let before = tcgetattr(io::stdin())?;
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // `Now` does not discard input: characters typed ahead are part of the answer.
            tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
            Ok(Self(before))
        }
    }

    impl Drop for EchoOff {
        fn drop(&mut self) {
            // If the terminal is gone, there is nothing to restore.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        }
    }
}

#[cfg(not(unix))]
use self::other::{EchoOff, read_secret};

#[cfg(not(unix))]
mod other {
    use std::io;

    /// `read_secure_line` turns the echo off itself.
    pub(super) struct EchoOff;

    impl EchoOff {
        pub(super) fn enable() -> io::Result<Self> {
            Ok(Self)
        }
    }

    pub(super) fn read_secret() -> io::Result<String> {
        console::Term::stderr().read_secure_line()
    }
}
