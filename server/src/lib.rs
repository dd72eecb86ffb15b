//! A proxy that receives webhooks for apps without a public address.
//!
//! It verifies webhooks, keeps them in a durable [`store`], and delivers each at least once to the app's client, by polling,
//! lease and acknowledgement, or websocket. The protocol is specified in the project's `docs/wire.md`, the design is
//! described in `ARCHITECTURE.md`.
//!
//! The feature `cli` (default) adds `config`: the flags and environment of the program. A server that is embedded in
//! another program needs only `default-features = false`.
//!
//! ```
//! use std::sync::Arc;
//! use wwproxy_server::{Server, Settings, identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey}};
//! use wwproxy_server::store::{Limits, SqliteStore};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::env::temp_dir().join("wwproxy-doc-example");
//! let apps = Apps::new(folder.join("apps.toml"));
//! let identity = Builtin::new(apps, TokenKey::random()?, DEFAULT_TOKEN_LIFETIME);
//! let store = SqliteStore::in_memory(Limits::default()).await?;
//! let server = Server::new(Arc::new(store), Arc::new(identity), Settings::default());
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! server.serve(listener, std::future::ready(())).await;
//! # Ok(()) }
//! ```

mod address;
#[cfg(feature = "cli")]
pub mod config;
pub mod control;
mod coop;
mod http;
pub mod identity;
mod log_limit;
pub mod open_files;
mod proxy;
mod session;
pub mod store;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::address::{PublicUrl, TrustedProxy};
use self::{
    http::{Budgets, Context, Rejections},
    identity::IdentityProvider,
    log_limit::LogLimit,
    proxy::Proxy,
    store::Store,
};

/// The shortest timeout for closing the store, which flushes its last deletions.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the server that do not depend on its store or identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The longest webhook body, in bytes.
    pub max_body: u64,
    /// The default duration of a lease: events that are not acknowledged within it are redelivered.
    pub lease: Duration,
    /// The deadline for draining requests and websockets when the server stops.
    pub shutdown_grace: Duration,
    /// The most bytes of webhook bodies that are being read or stored at once, at least [`max_body`](Self::max_body). One
    /// app may use a quarter; if there is no room, the oldest unverified body is rejected.
    pub max_buffered_bytes: u64,
    /// The most connections at once; further ones wait, and evict those without a valid token or signature.
    pub max_connections: usize,
    /// The most websockets and waiting leases of one app at once; further ones are rejected. Taps have a separate limit.
    pub max_clients_per_app: usize,
    /// Whether sources of the scheme `none`, which is not verified, receive webhooks.
    pub allow_unverified: bool,
    /// The server's address as its clients see it, if it cannot be taken from requests.
    pub public_url: Option<PublicUrl>,
    /// Reverse proxies whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: Vec<TrustedProxy>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_body: 8 << 20,
            lease: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
            max_buffered_bytes: 256 << 20,
            max_connections: 20_000,
            max_clients_per_app: 256,
            allow_unverified: false,
            public_url: None,
            trusted_proxies: Vec::new(),
        }
    }
}

/// A proxy, ready to serve.
#[derive(Debug)]
pub struct Server {
    context: Context,
    store: Arc<dyn Store>,
    #[cfg(unix)]
    control: Option<control::ControlListener>,
}

impl Server {
    /// Creates a proxy over a store and an identity provider.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, identity: Arc<dyn IdentityProvider>, settings: Settings) -> Self {
        let proxy = Proxy::new(Arc::clone(&store), identity, &settings);
        let context = Context {
            proxy: Arc::new(proxy),
            budgets: Budgets::new(&settings),
            settings: Arc::new(settings),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            rejections: Arc::new(Rejections::default()),
            untrusted_forwards: Arc::new(LogLimit::per_minute(1)),
        };
        Self {
            context,
            store,
            #[cfg(unix)]
            control: None,
        }
    }

    /// Adds the control socket, on which the server executes the operator's commands.
    #[cfg(unix)]
    #[must_use]
    pub fn with_control(self, listener: control::ControlListener) -> Self {
        Self { control: Some(listener), ..self }
    }

    /// Serves until `shutdown` completes, then drains: no connection is accepted, requests in progress finish, websockets are
    /// closed with code 1012 (service restart), and the store is closed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let Self { context, store, .. } = self;
        let Context { proxy, shutdown: stop, tasks, settings, .. } = context.clone();
        let control = async {
            #[cfg(unix)]
            if let Some(control) = self.control {
                control.serve(proxy, stop.clone(), tasks.clone()).await;
            }
            #[cfg(not(unix))]
            drop(proxy);
        };
        tokio::join!(http::serve(listener, context), control, async {
            shutdown.await;
            stop.cancel();
        });
        tasks.close();
        let (began, connections) = (Instant::now(), tasks.len());
        tracing::info!(connections, "draining: requests in progress finish, websockets are closed");
        let cut_off = match timeout(settings.shutdown_grace, tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => tasks.len(),
        };
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "connections were closed because the shutdown grace period ended"
            );
        }
        match timeout(settings.shutdown_grace.max(CLOSE_TIMEOUT), store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "closing the store failed; some acknowledged events may be redelivered");
            }
            Err(_) => {
                tracing::error!(
                    "the store did not close in time; some acknowledged events may be redelivered"
                );
            }
        }
        let took = began.elapsed();
        tracing::info!(drained = connections - cut_off.min(connections), cut_off, ?took, "stopped");
    }
}
