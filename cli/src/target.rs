//! Targets of events: a URL or a command.

mod address;
mod event_url;
mod exec;
mod forward;
mod http;
mod outcome;
mod retry;
mod routes;

use wwproxy_sdk::EventMessage;

pub(crate) use self::{
    address::Address,
    forward::{is_framing, sender_headers},
    http::{TargetHttp, explain},
    outcome::TryOutcome,
    retry::{Offer, OfferOutcome, Origin, Policy},
    routes::{Routes, Target, Targets},
};

/// The scheme by which the server verified an event, for targets: `none` if it did not, and nothing from a server of version 0.1.
fn verification(event: &EventMessage) -> Option<&str> {
    event.details.has_origin.then(|| event.verification().map_or("none", |verified| &verified.scheme))
}
