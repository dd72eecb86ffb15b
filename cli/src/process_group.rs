//! Process groups of running commands. They are killed when the command line ends, however it ends.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use self::other::{Group, kill_all};
#[cfg(unix)]
pub(crate) use self::unix::{Group, kill_all};
