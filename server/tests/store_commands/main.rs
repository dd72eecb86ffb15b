//! `wwproxy-server store …`, on stores that the engine wrote.

#[path = "../common/mod.rs"]
mod common;
/// Where the fixture looks for it.
mod eventually {
    pub(crate) use crate::common::{DEADLINE, eventually};
}
#[path = "../log_contract/fixture.rs"]
#[allow(dead_code, unused_imports, reason = "each test binary uses its own part")]
mod fixture;

mod backup;
mod check;
mod documents;
mod info;
mod recover;
mod sample;
