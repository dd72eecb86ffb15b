//! The contract of the event log, against the SQLite engine on a real disk.
//!
//! A crash is a copy of the store's files while the store is open: what a killed process leaves on its disk. A test never waits
//! for a state by sleeping: it waits in the store, or polls until a deadline.

mod backup;
mod consumers;
mod count;
mod damage;
mod dedupe;
mod delete;
mod delivery;
mod ephemeral;
#[path = "../common/eventually.rs"]
mod eventually;
mod fixture;
mod history;
mod lifecycle;
mod limits;
mod memory;
mod opening;
mod pending;
mod positions;
mod redelivery;
mod registration;
mod replay;
mod restart;
mod retention;
mod settle;
mod tap;
mod wait;
