//! What a wwproxy server and its clients say to each other.
//!
//! Ids, websocket messages, REST bodies and webhook signatures, as laid down in the project's
//! `docs/wire.md`. Nothing here does I/O or knows about a runtime.
//!
//! An event's body is never parsed into a value and written again: it travels as the bytes that
//! its sender signed, and every codec in this crate keeps them (see [`json`]).

pub mod api;
mod id;
pub mod json;
pub mod message;
mod signature;
pub mod text;

pub use id::{AppId, EventId, InvalidId};
pub use message::{ClientMessage, Event, Headers, ServerMessage};
pub use signature::{Scheme, Secret, Signer, UnknownScheme};

// Its example is run with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
