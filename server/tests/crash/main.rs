//! What is left when the server dies, when the power goes, and while the disk fails.

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod faults;
mod kill;
mod ledger;
mod load;
mod power;
mod random;
