//! `wwproxy-server store …`, on stores that the engine wrote.

#[path = "../common/eventually.rs"]
mod eventually;
#[path = "../log_contract/fixture.rs"]
#[allow(dead_code, unused_imports, reason = "each test binary uses its own part")]
mod fixture;

mod check;
mod info;
mod recover;
mod sample;
