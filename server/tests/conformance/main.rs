//! The conformance suite: each test checks a sentence of `docs/wire.md` against the built server, over a
//! real port.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod any_body;
mod arming;
mod auth;
mod bodies;
mod builtin;
mod challenges;
mod clients;
mod consumers;
mod consuming;
mod control;
mod credentials;
mod dedupe;
mod durability;
mod ephemeral;
mod fixtures;
mod hook;
mod identity;
mod lease;
mod limits;
mod log;
mod metadata;
mod operations;
mod overflow;
mod paths;
mod platform;
mod poll;
mod private_files;
mod races;
mod refusals;
mod register;
mod rotation;
mod senders;
mod settling;
mod shapes;
mod sharing;
mod shutdown;
mod signatures;
mod sizes;
mod sources;
mod startup;
mod stored_sources;
mod strict;
mod tap;
mod unverified;
mod v2;
mod vectors;
mod verification;
mod websocket;
