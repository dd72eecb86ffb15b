//! The server under measurement, in a process of its own.

use std::{ffi::OsString, future::pending, sync::Arc};

use clap::Parser;
use tokio::net::TcpListener;
use wwproxy_server::{Server, config::Config, store::Store};

use crate::nothing::Nothing;

/// Serves as `wwproxy-server` does with these flags, until it is killed. The ceiling is the same over a
/// store that keeps nothing.
#[tokio::main]
pub(crate) async fn serve(ceiling: bool, flags: &[OsString]) -> anyhow::Result<()> {
    let config = Config::parse_from([OsString::from("wwproxy-server")].iter().chain(flags));
    let store: Arc<dyn Store> = if ceiling { Arc::new(Nothing::default()) } else { config.open_store()? };
    let server = Server::new(store, config.identity_provider()?, config.settings());
    let listener = TcpListener::bind(config.listen).await?;
    println!("{}", listener.local_addr()?);
    server.serve(listener, pending()).await;
    Ok(())
}
