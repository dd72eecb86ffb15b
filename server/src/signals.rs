//! The signals that the process handles.

use std::io;

/// Installs the signal handlers, and returns a future that completes at the first SIGTERM or SIGINT.
///
/// A second SIGTERM or SIGINT ends the process at once, with the exit code of a process that the signal killed.
/// SIGHUP is logged and has no effect, as there is nothing to reload.
#[cfg(unix)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut stop = Some(stop);
        loop {
            let (signal, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
                _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
                _ = hangup.recv() => {
                    tracing::info!(
                        "SIGHUP has no effect: flags are read at start, the credentials file whenever it changes"
                    );
                    continue;
                }
            };
            let Some(stop) = stop.take() else {
                tracing::warn!(
                    signal,
                    "exiting at once on the second signal; unacknowledged events will be redelivered"
                );
                std::process::exit(128 + number);
            };
            tracing::info!(signal, "stopping; a second signal ends the server at once");
            // The receiver is gone if the server could not start.
            let _ = stop.send(());
        }
    });
    Ok(async move {
        // The task above keeps the sender while the process runs.
        let _ = stopped.await;
    })
}

/// Returns a future that completes at Ctrl-C. A second Ctrl-C ends the process.
#[cfg(not(unix))]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a handler, only killing the process stops the server.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        tracing::info!(signal = "Ctrl-C", "stopping; a second Ctrl-C ends the server at once");
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
    })
}
