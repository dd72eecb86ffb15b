//! The end that a person or a supervisor asks for.

use std::{io, process, time::Duration};

use tokio::{select, sync::watch, time::sleep};

/// How long what has begun may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// What the shell knows of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Comes with the first SIGINT or SIGTERM. The second one ends the process.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens for signals from now on.
    pub(crate) fn on_signals() -> io::Result<Self> {
        let (sender, stop) = watch::channel(false);
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            signals.next().await;
            // Where nobody listens any more it has stopped already.
            let _ = sender.send(true);
            signals.next().await;
            process::exit(INTERRUPTED);
        });
        Ok(Self(stop))
    }

    /// Waits for the first signal.
    pub(crate) async fn wait(&self) {
        if self.0.clone().wait_for(|stopped| *stopped).await.is_err() {
            // The task that waits for signals ends with the process only.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until what had begun at the first signal has had its time.
    pub(crate) async fn wait_out(&self) {
        self.wait().await;
        sleep(GRACE).await;
    }

    pub(crate) fn is_wanted(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        select! { _ = self.terminate.recv() => {} _ = self.interrupt.recv() => {} }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
