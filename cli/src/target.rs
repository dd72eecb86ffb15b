//! Targets of events: a URL or a command.

mod address;
mod exec;
mod forward;
mod http;
mod outcome;
mod retry;
mod routes;

pub(crate) use self::{
    address::Address,
    forward::{is_framing, sender_headers},
    http::{TargetHttp, explain},
    outcome::TryOutcome,
    retry::{Offer, OfferOutcome, Origin, Policy},
    routes::{Routes, Target, Targets},
};
