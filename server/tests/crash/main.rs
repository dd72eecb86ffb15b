//! Crash tests: the server is killed, the power is cut, the disk fails. Answered events must survive.

#[path = "../common/mod.rs"]
mod common;
mod kill;
mod ledger;
mod load;
mod random;
