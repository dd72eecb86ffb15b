//! One file per command: its arguments and its code.

pub(crate) mod completions;
pub(crate) mod consumers;
pub(crate) mod get;
pub(crate) mod listen;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod profile;
pub(crate) mod refusals;
pub(crate) mod register;
pub(crate) mod replay;
pub(crate) mod schemes;
pub(crate) mod send;
pub(crate) mod sign;
pub(crate) mod sources;
pub(crate) mod status;
pub(crate) mod tail;
pub(crate) mod token;
pub(crate) mod unregister;
pub(crate) mod verify;
