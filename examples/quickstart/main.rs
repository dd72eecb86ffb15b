//! A webhook from end to end on one machine: a server, a platform that posts signed webhooks, and an app that
//! listens for them.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

mod platform;

use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use tokio::{net::TcpListener, sync::oneshot};
use wwproxy_sdk::{AppId, Client, ListenOptions, Secret};
use wwproxy_server::{
    Server, Settings,
    identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey},
    store::{Limits, RedbStore},
};

use self::platform::Platform;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Start a server as `wwproxy-server` does, with its store and credentials file in a temporary folder.
    let folder = tempfile::tempdir()?;
    let app: AppId = "my-bot".parse()?;
    let apps = Apps::new(folder.path().join("apps.toml"));
    let app_secret = apps.add(&app)?;
    let identity = Builtin::new(apps, TokenKey::random()?, DEFAULT_TOKEN_LIFETIME);
    let store = RedbStore::open(folder.path().join("store"), Limits::default())?;
    let server = Server::new(Arc::new(store), Arc::new(identity), Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.serve(listener, async { drop(stopped.await) }));
    println!("server:   listening on {address}, events in {}", folder.path().display());

    // The app registers the secret that signs its webhooks. It only makes outgoing connections.
    let client = Client::builder(&address).app_id(app.as_str()).app_secret(app_secret.expose()).build()?;
    let webhook_secret = Secret::new(platform::WEBHOOK_SECRET);
    client.register(&webhook_secret).await?;
    println!("app:      registered as {app}");

    // The platform knows the URL of the hook and the webhook secret.
    let platform = Platform::new(format!("{address}/hook/{app}"))?;
    platform.verify_hook().await?;
    let posted = platform.post_events().await?;

    // The app connects later, and gets the events that were stored meanwhile.
    let mut events = client.listen(ListenOptions::new());
    for _ in 0..posted {
        let event = events.next().await.context("the stream ended")??;
        println!("app:      {} {}", event.id(), event.value()?["type"]);
        event.ack().await?;
    }
    events.close().await;

    let status = client.status().await?;
    println!("server:   {} events left", status.stored);
    anyhow::ensure!(status.stored == 0, "every event was acknowledged");
    drop(stop);
    server.await?;
    Ok(())
}
