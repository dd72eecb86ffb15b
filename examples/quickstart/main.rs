//! Webhooks from end to end on one machine: a server, three senders that post signed webhooks, and an app that listens for
//! them.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

mod sender;

use std::sync::Arc;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use tokio::{net::TcpListener, sync::oneshot};
use wwproxy_sdk::{AppId, Client, ListenOptions, SourceName};
use wwproxy_server::{
    Server, Settings,
    identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey},
    store::{Limits, SqliteStore},
};

use self::sender::Sender;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Start a server as `wwproxy-server` does, with its store and credentials file in a temporary folder.
    let folder = tempfile::tempdir()?;
    let app: AppId = "my-bot".parse()?;
    let apps = Apps::new(folder.path().join("apps.toml"));
    let app_secret = apps.add(&app)?;
    let identity = Builtin::new(apps, TokenKey::random()?, DEFAULT_TOKEN_LIFETIME);
    let store = SqliteStore::open(&folder.path().join("store"), Limits::default()).await?;
    let server = Server::new(Arc::new(store), Arc::new(identity), Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.serve(listener, async { drop(stopped.await) }));
    println!("server:     listening on {address}, events in {}", folder.path().display());

    // Each sender has a hook and a secret of its own.
    let github = Sender::new("github", format!("{address}/hook/{app}/repository"))?;
    let stripe = Sender::new("stripe", format!("{address}/hook/{app}/payments"))?;
    let watson_work = Sender::new("watsonwork", format!("{address}/hook/{app}"))?;

    // The app registers them as its sources. It only makes outgoing connections.
    let client = Client::builder(&address).app_id(app.as_str()).app_secret(app_secret.expose()).build()?;
    client.put_source(&"repository".parse()?, &github.settings()).await?;
    client.put_source(&"payments".parse()?, &stripe.settings()).await?;
    client.put_source(&SourceName::default(), &watson_work.settings()).await?;
    println!("app:        registered the sources repository, payments and default as {app}");

    // The senders post while the app is away.
    watson_work.challenge().await?;
    for (sender, event_type) in [
        (&github, "issues.opened"),
        (&github, "push"),
        (&stripe, "invoice.paid"),
        (&watson_work, "message-created"),
    ] {
        ensure!(sender.post(event_type).await? == 201, "the server stored it");
    }
    ensure!(stripe.forger()?.post("invoice.paid").await? == 401, "the signature is wrong");

    // The app connects later, and gets the events that were stored meanwhile.
    let mut events = client.listen(ListenOptions::new());
    for _ in 0..4 {
        let event = events.next().await.context("the stream ended")??;
        println!("app:        {} from {}", event.event_type().unwrap_or_default(), event.source());
        event.ack().await?;
    }
    events.close().await;
    for refusal in client.refusals().await? {
        println!("app:        {} refused a webhook: {}", refusal.source, refusal.detail);
    }

    let status = client.status().await?;
    println!("server:     {} events left", status.stored);
    ensure!(status.stored == 0, "every event was acknowledged");
    drop(stop);
    server.await?;
    Ok(())
}
