//! Receive webhooks without a public URL: the async client of wwproxy.
//!
//! A wwproxy server takes an app's webhooks on a public address, verifies and stores them. This
//! crate fetches them from behind a firewall: as a [stream over a websocket](Client::listen) that
//! reconnects by itself, or [by polling](Client::lease). What is not acknowledged comes again.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use wwproxy_sdk::{Client, ListenOptions, Secret};
//!
//! # async fn run() -> Result<(), wwproxy_sdk::Error> {
//! let client = Client::builder("https://proxy.example.com")
//!     .app_id("my.bot")
//!     .app_secret(std::env::var("SECRET").unwrap_or_default())
//!     .build()?;
//! client.register(&Secret::new("the webhook's secret")).await?;
//!
//! let mut events = client.listen(ListenOptions::new());
//! while let Some(event) = events.next().await {
//!     let event = event?; // only what no retry will mend
//!     println!("{}: {}", event.id(), event.value()?);
//!     if let Err(error) = event.ack().await {
//!         eprintln!("{} will come again: {error}", event.id());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Everything needs a tokio runtime. State changes are told as [`tracing`] events and to
//! [`ListenOptions::on_state`]. TLS is rustls with ring and the system's certificates;
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured; redirects are never followed.

mod backoff;
mod client;
mod connection;
mod credentials;
mod delivery;
mod error;
mod http;
mod options;
mod run;
mod subscription;
mod tap;
mod tls;
pub mod watson_work;

pub use backoff::Backoff;
pub use client::Client;
pub use delivery::Delivery;
pub use error::{Error, ErrorKind};
pub use http::HttpOptions;
pub use options::{ClientBuilder, LeaseOptions, ListenOptions};
pub use run::Run;
pub use subscription::{State, Subscription};
pub use tap::{Tap, Tapped};

/// The headers of a webhook: those that Watson Work sends, and those that are not handed on.
pub mod hook {
    pub use wwproxy_protocol::api::{HOP_BY_HOP, OUTBOUND_INDEX, OUTBOUND_RETRY_COUNT, OUTBOUND_TOKEN};
}

pub use bytes::Bytes;
pub use wwproxy_protocol::{
    AppId, EventId, Headers, InvalidId, Scheme, Secret,
    api::{
        AckRequest, AckResponse, LeasedEvent, Receipt, RegistrationStatus, Status, path::hook as hook_path,
    },
    message::{EventDetails, EventMessage},
};
