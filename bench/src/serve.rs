//! The server under test, as a child process.

use std::{ffi::OsString, sync::Arc};

use clap::Parser;
use wwproxy_server::{Server, config::Config, store::Store};

use crate::null_store::NullStore;

/// Serves like `wwproxy-server` with these flags, until SIGTERM. The ceiling is the same server with the null store.
#[tokio::main]
pub(crate) async fn serve(ceiling: bool, flags: &[OsString]) -> anyhow::Result<()> {
    let config = Config::parse_from([OsString::from("wwproxy-server")].iter().chain(flags));
    let store: Arc<dyn Store> =
        if ceiling { Arc::new(NullStore::default()) } else { config.open_store().await? };
    let server = Server::new(store, config.identity_provider()?, config.settings()?);
    let listener = config.listen.bind().await?;
    println!("{}", listener.local_addr()?);
    server.serve(listener, stop_signal()?).await;
    Ok(())
}

#[cfg(unix)]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        terminate.recv().await;
    })
}

#[cfg(not(unix))]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(std::future::pending())
}
