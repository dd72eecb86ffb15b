//! Graceful shutdown on signals.

use std::{io, process, sync::mpsc, thread, time::Duration};

use tokio::{runtime, select, sync::watch, time::sleep};

use crate::process_group::kill_all;

/// How long work in progress may take after the first signal.
const GRACE: Duration = Duration::from_secs(2);
/// The exit code of a process that SIGINT ended, by shell convention.
const INTERRUPTED: i32 = 130;

/// Is requested by the first SIGINT, SIGTERM or SIGHUP. A second signal kills the running commands and exits at once; so
/// does the first one after the last `Shutdown` is dropped.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Installs the signal handlers.
    ///
    /// Signals have a thread and a runtime of their own, as the runtime of the caller may be blocked, such as by a write to a
    /// stderr that no process reads.
    pub(crate) fn on_signal() -> io::Result<Self> {
        let (requested, shutdown) = watch::channel(false);
        let (started, result) = mpsc::sync_channel(1);
        thread::Builder::new().name("signals".into()).spawn(move || {
            let runtime = match runtime::Builder::new_current_thread().enable_io().build() {
                Ok(runtime) => runtime,
                Err(error) => return started.send(Err(error)),
            };
            runtime.block_on(async {
                let mut signals = match Signals::new() {
                    Ok(signals) => signals,
                    Err(error) => return started.send(Err(error)),
                };
                started.send(Ok(()))?;
                signals.next().await;
                // Fails if no receiver is left: no task would stop, so that the process exits at once.
                if requested.send(true).is_ok() {
                    signals.next().await;
                }
                kill_all();
                process::exit(INTERRUPTED)
            })
        })?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self(shutdown))
    }

    /// Waits until a signal requests the shutdown.
    pub(crate) async fn requested(&self) {
        if self.0.clone().wait_for(|stopped| *stopped).await.is_err() {
            // The sender lives as long as the signal thread, which ends with the process.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the grace period after the first signal is over.
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
    /// `None` if SIGHUP is ignored, as under `nohup`, or if that is unknown: then SIGHUP keeps its disposition.
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

/// Whether SIGHUP (signal 1) is ignored, from the `SigIgn` mask of proc(5). `None` on systems without it.
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
