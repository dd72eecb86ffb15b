//! The protocol between a wwproxy server and its clients.
//!
//! Ids, websocket messages, REST bodies, webhook signatures and schemes of senders, as specified in the project's
//! `docs/wire.md`. This crate does no I/O and needs no runtime.
//!
//! An event's body is never parsed and serialized again: every codec in this crate keeps the bytes that its sender signed
//! (see [`json`]).

pub mod api;
mod consumer;
mod covers;
mod encoding;
mod event;
mod id;
mod invalid_message;
pub mod json;
pub mod message;
mod redact;
pub mod scheme;
mod signature;
mod source;
pub mod text;

pub use consumer::{ConsumerName, ConsumerSettings, InvalidConsumer, InvalidStart, Overflow, Start};
pub use event::{Encoding, Event, Headers, Origin, Verification};
pub use id::{AppId, EventId, InvalidId};
pub use message::{ClientMessage, ServerMessage};
pub use signature::{Secret, hex, sha256_hex, sign_watson_work, verify_watson_work};
pub use source::{InvalidSource, Source, SourceName, SourceSettings};

// Tests the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
