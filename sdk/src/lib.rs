//! Receive webhooks without a public URL: the async client of wwproxy.
//!
//! A wwproxy server takes an app's webhooks on a public address, verifies and stores them. This
//! crate fetches them from behind a firewall: by [a handler that is called for each](Client::run), as
//! a [stream over a websocket](Client::listen) that reconnects by itself, or [by polling](Client::lease).
//! What is not acknowledged comes again. A [tap](Client::tap) watches without taking any.
//!
//! ```no_run
//! use wwproxy_sdk::{Client, Secret, watson_work::Event};
//!
//! # async fn run() -> Result<(), wwproxy_sdk::Error> {
//! let client = Client::builder("https://proxy.example.com")
//!     .app_id("my.bot")
//!     .app_secret(std::env::var("SECRET").unwrap_or_default())
//!     .build()?;
//! client.register(&Secret::new("the webhook's secret")).await?;
//!
//! // Acknowledges what was handled, and hands back what was not.
//! client
//!     .run(|event| async move {
//!         if let Event::MessageCreated(message) = Event::parse(&event.body)? {
//!             println!("{}: {}", message.user_id, message.content);
//!         }
//!         Ok(())
//!     })
//!     .await?; // returns with what no retry will mend
//! # Ok(())
//! # }
//! ```
//!
//! The same with the acknowledgement in one's own hands:
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use wwproxy_sdk::{Client, ListenOptions};
//!
//! # async fn listen(client: Client) -> Result<(), wwproxy_sdk::Error> {
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
//! proxies are those of the environment, as curl reads them, or what [`HttpOptions`] say; redirects are never followed.
//!
//! # Features
//! `reqwest` (off): types of reqwest 0.13 as part of the API. `HttpOptions::client_builder` makes a client for other servers that
//! connects in the same way, `HttpOptions::explain` says why one of its requests got no answer, and
//! `ClientBuilder::http_client` takes a client of the caller's own.

mod address;
mod backoff;
mod client;
mod connection;
mod credentials;
mod delivery;
mod error;
mod failure;
mod feed;
mod http;
mod options;
mod prefetch;
mod proxy;
mod run;
mod subscription;
mod tap;
mod tls;
pub mod watson_work;

pub use backoff::Backoff;
pub use client::Client;
pub use delivery::Delivery;
pub use error::{Error, ErrorKind};
pub use failure::{Failure, FailureCause};
pub use http::HttpOptions;
pub use options::{ClientBuilder, LeaseOptions, ListenOptions};
#[cfg(feature = "reqwest")]
pub use proxy::is_loopback;
pub use run::{HandlerError, Run};
pub use subscription::{State, Subscription};
pub use tap::{Tap, Tapped};

/// The headers of a webhook: those that Watson Work sends, and those that are not handed on.
pub mod hook {
    pub use wwproxy_protocol::api::{HOP_BY_HOP, OUTBOUND_INDEX, OUTBOUND_RETRY_COUNT, OUTBOUND_TOKEN};
}

pub use bytes::Bytes;
pub use wwproxy_protocol::{
    AppId, EventId, Headers, InvalidId, Scheme, Secret, Signer,
    api::{
        AckRequest, AckResponse, LeasedEvent, Receipt, RegistrationStatus, Status, path::hook as hook_path,
    },
    message::{EventDetails, EventMessage},
    text::is_unsafe_to_show,
};

// The Rust of all documents is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../protocol/README.md")]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../ARCHITECTURE.md")]
#[doc = include_str!("../../docs/clients.md")]
#[doc = include_str!("../../docs/reverse-proxy.md")]
#[doc = include_str!("../../docs/wire.md")]
mod documents {}

/// reqwest is not re-exported: its own constructors panic here, as no TLS provider is installed.
///
/// ```compile_fail,E0433
/// let _ = wwproxy_sdk::reqwest::Client::new();
/// ```
#[cfg(doctest)]
mod reqwest_is_private {}
