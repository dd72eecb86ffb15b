//! The end that a person, a supervisor or a closed terminal asks for.

use std::{io, process, time::Duration};

use tokio::{select, sync::watch, time::sleep};

use crate::process_group::kill_all;

/// How long what has begun may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// The exit code that shells give a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Comes with the first SIGINT, SIGTERM or SIGHUP. The second one ends the process and the commands that it runs.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for signals from now on.
    pub(crate) fn on_signal() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(false);
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            signals.next().await;
            // Fails if everything has stopped already.
            let _ = sender.send(true);
            signals.next().await;
            kill_all();
            process::exit(INTERRUPTED);
        });
        Ok(Self(receiver))
    }

    /// Waits for the first signal.
    pub(crate) async fn requested(&self) {
        if self.0.clone().wait_for(|stopped| *stopped).await.is_err() {
            // The task that waits for signals ends with the process only.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until what had begun at the first signal has had its time.
    pub(crate) async fn grace_expired(&self) {
        self.requested().await;
        sleep(GRACE).await;
    }

    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// The terminal is closed. `None` if that is ignored, as `nohup` does, or if it is unknown whether it is: then it
    /// has its default effect.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if ignores_hangup() == Some(false) { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        select! { _ = self.terminate.recv() => {} _ = self.interrupt.recv() => {} _ = hangup => {} }
    }
}

/// Whether SIGHUP, signal 1, is ignored. Linux says so in the `SigIgn` mask of proc(5); `None` elsewhere.
#[cfg(unix)]
fn ignores_hangup() -> Option<bool> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    Some(u64::from_str_radix(mask.trim(), 16).ok()? & 1 == 1)
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
