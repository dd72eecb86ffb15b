//! The operator's access to a store's files, beside the running engine: check, info and recover. Only reads the store.

mod check;
mod info;
mod read_only;
mod recover;
mod recover_consumers;
mod recovery;
mod report;
mod scan;

pub use self::{
    check::{Checked, check},
    info::{AppInfo, ConsumerInfo, StoreInfo, info},
    recover::recover,
    recovery::{RecoverError, Recovered},
    report::Report,
};
