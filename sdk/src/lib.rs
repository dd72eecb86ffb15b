//! Receive webhooks without a public URL: the async client of wwproxy.
//!
//! A wwproxy server takes an app's webhooks on a public address, verifies and stores them. This
//! crate receives them behind a firewall: with [a handler that is called for each event](Client::run), as
//! [a stream over a websocket](Client::listen) that reconnects automatically, or [by polling](Client::lease).
//! Delivery is at least once: events that are not acknowledged are redelivered. A [tap](Client::tap) watches read-only.
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
//! // An event is acknowledged if the handler returns `Ok`, and redelivered if it fails.
//! client
//!     .run(|event| async move {
//!         if let Event::MessageCreated(message) = Event::parse(&event.body)? {
//!             println!("{}: {}", message.user_id, message.content);
//!         }
//!         Ok(())
//!     })
//!     .await?; // returns only on a permanent error
//! # Ok(())
//! # }
//! ```
//!
//! The same with explicit acknowledgement:
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use wwproxy_sdk::{Client, ListenOptions};
//!
//! # async fn listen(client: Client) -> Result<(), wwproxy_sdk::Error> {
//! let mut events = client.listen(ListenOptions::new());
//! while let Some(event) = events.next().await {
//!     let event = event?; // only a permanent error
//!     println!("{}: {}", event.id(), event.value()?);
//!     if let Err(error) = event.ack().await {
//!         eprintln!("{} will be redelivered: {error}", event.id());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An app receives from any sender: [`Client::put_source`] registers one with its signature scheme. Each event has its body as
//! [bytes](EventMessage::bytes), [JSON](EventMessage::json), [text](EventMessage::text) or a [form](EventMessage::form), with its
//! [type](EventMessage::event_type), [source](EventMessage::source) and [verification](EventMessage::verification).
//!
//! An app's events are a log, and a [consumer](Client::consumer) is a named position in it with a filter: each consumer receives all
//! events that match, and the clients of one consumer share them. Without a name it is the consumer `default`.
//!
//! A tokio runtime is required. State changes are reported as [`tracing`] events and to
//! [`ListenOptions::on_state`]. TLS is rustls with ring and the system's certificates.
//! Proxies come from the environment, as in curl, or from [`HttpOptions`]. Redirects are not followed.
//!
//! # Features
//! `reqwest` (off by default): types of reqwest 0.13 in the API. `HttpOptions::client_builder` builds a client with the same options
//! for other servers, `HttpOptions::explain` says why one of its requests failed, and
//! `ClientBuilder::http_client` uses the caller's client.

mod address;
mod api_client;
mod backoff;
mod builder;
mod client;
mod connection;
mod credentials;
mod delivery;
mod error;
mod failure;
mod http;
mod options;
mod proxy;
mod reconnect;
mod response;
mod run;
mod subscription;
mod tap;
mod tls;
pub mod watson_work;

pub use backoff::Backoff;
pub use builder::ClientBuilder;
pub use client::{Client, Consumer};
pub use delivery::Delivery;
pub use error::{Error, ErrorKind};
pub use failure::{Failure, FailureCause};
pub use http::HttpOptions;
pub use options::{LeaseOptions, ListenOptions, State};
#[cfg(feature = "reqwest")]
pub use proxy::is_loopback;
pub use run::{HandlerError, Run};
pub use subscription::Subscription;
pub use tap::{Tap, TapItem};

/// Headers of a webhook: those of Watson Work, and those that a proxy must not forward.
pub mod hook {
    pub use wwproxy_protocol::api::{HOP_BY_HOP, OUTBOUND_INDEX, OUTBOUND_RETRY_COUNT, OUTBOUND_TOKEN};
}

pub use bytes::Bytes;
pub use wwproxy_protocol::{
    AppId, ConsumerName, ConsumerSettings, Encoding, EventId, Headers, InvalidConsumer, InvalidId,
    InvalidSource, InvalidStart, Origin, Overflow, Secret, Source, SourceName, SourceSettings, Start,
    Verification,
    api::{
        ARMED_SECONDS, AckRequest, AckResponse, ArmStatus, ConsumerStatus, Extension, LeasedEvent,
        LeasedEvents, Receipt, Refusal, RegistrationStatus, Rejection, Release, SourceStatus, Status,
        path::hook as hook_path, path::source_hook as source_hook_path,
    },
    message::{EventDetails, EventMessage, UndecodableEvent},
    scheme, sha256_hex, sign_watson_work,
    text::{is_unsafe_to_show, sanitize},
    verify_watson_work,
};

// Compiles the Rust examples of all documents.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../protocol/README.md")]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../ARCHITECTURE.md")]
#[doc = include_str!("../../docs/clients.md")]
#[doc = include_str!("../../docs/reverse-proxy.md")]
#[doc = include_str!("../../docs/wire.md")]
mod documents {}

/// reqwest is not re-exported: its constructors panic because no TLS provider is installed.
///
/// ```compile_fail,E0433
/// let _ = wwproxy_sdk::reqwest::Client::new();
/// ```
#[cfg(doctest)]
mod reqwest_is_private {}
