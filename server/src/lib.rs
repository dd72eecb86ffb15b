//! A proxy that receives webhooks for apps without a public address.
//!
//! It verifies them, keeps them in a [`store`], and hands each to its app's client until the client
//! has accepted it. What it says and hears is laid down in the project's `docs/wire.md`, how it is
//! built in `ARCHITECTURE.md`.
//!
//! ```
//! use std::sync::Arc;
//! use wwproxy_server::{Server, Settings, identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey}};
//! use wwproxy_server::store::{Limits, MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::env::temp_dir().join("wwproxy-doc-example");
//! let apps = Apps::new(folder.join("apps.toml"));
//! let identity = Builtin::new(apps, TokenKey::random()?, DEFAULT_TOKEN_LIFETIME);
//! let store = MemoryStore::new(Limits::default());
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
    http::{Budgets, Context, Refusals},
    identity::IdentityProvider,
    log_limit::LogLimit,
    proxy::Proxy,
    store::Store,
};

/// How long the store has to close, at least: it writes its last deletions.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the server behaves, whatever its store and its platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The longest webhook body, in bytes.
    pub max_body: u64,
    /// How long an event is one client's.
    pub lease: Duration,
    /// How long requests and websockets may take to end when the server stops.
    pub shutdown_grace: Duration,
    /// The most bytes of webhook bodies that are being read or stored at once, at least [`max_body`](Self::max_body). An app has
    /// at most a quarter; if there is no room, the oldest body that is not verified yet is rejected.
    pub max_buffered_bytes: u64,
    /// The most connections at once; further ones wait, and evict those without a valid token or signature.
    pub max_connections: usize,
    /// The most websockets and waiting leases of one app at once; further ones are refused. Taps have a
    /// limit of their own.
    pub max_clients_per_app: usize,
    /// The server's address as its clients see it, if requests do not say it.
    pub public_url: Option<PublicUrl>,
    /// Reverse proxies whose `X-Forwarded-*` headers say how a client reached the server.
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
    /// A proxy over this store and this platform.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, identity: Arc<dyn IdentityProvider>, settings: Settings) -> Self {
        let proxy = Proxy::new(Arc::clone(&store), identity, settings.lease, settings.max_clients_per_app);
        let context = Context {
            proxy: Arc::new(proxy),
            budgets: Budgets::new(&settings),
            settings: Arc::new(settings),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            refusals: Arc::new(Refusals::default()),
            untrusted_forwards: Arc::new(LogLimit::per_minute(1)),
        };
        Self {
            context,
            store,
            #[cfg(unix)]
            control: None,
        }
    }

    /// Also answers the operator's commands on this socket.
    #[cfg(unix)]
    #[must_use]
    pub fn with_control(self, listener: control::ControlListener) -> Self {
        Self { control: Some(listener), ..self }
    }

    /// Serves until `shutdown` is done, then drains: no new connection, requests under way finish,
    /// websockets are told to come again, and the store is closed.
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
        tracing::info!(connections, "draining: requests under way finish, websockets are closed");
        let cut_off = match timeout(settings.shutdown_grace, tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => tasks.len(),
        };
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "connections were cut off: they took longer than the grace"
            );
        }
        match timeout(settings.shutdown_grace.max(CLOSE_TIMEOUT), store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the store could not be closed; some accepted events may be repeated");
            }
            Err(_) => {
                tracing::error!("the store did not close in time; some accepted events may be repeated");
            }
        }
        let took = began.elapsed();
        tracing::info!(drained = connections - cut_off.min(connections), cut_off, ?took, "stopped");
    }
}
