//! Why a store does not open.

use std::{io, path::PathBuf};

use super::schema::VERSION;

/// Why a store does not open: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file cannot be read or written.
    #[error("cannot use the store in {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// Another process uses the store.
    #[error("the store in {} is in use by another server: stop it first", .0.display())]
    Locked(PathBuf),
    /// The folder holds a store of the former engine.
    #[error(
        "{} holds a store of version 0.1: let clients drain it with a server of version 0.1, then start this one with an \
         empty folder",
        .0.display()
    )]
    Former(PathBuf),
    /// A file of the store is missing.
    #[error(
        "the store in {} has no file {}: restore the folder from a backup, or move it away to start with an empty store",
        .0.display(), .1
    )]
    Incomplete(PathBuf, &'static str),
    /// The database is not one of this program.
    #[error("{} is not the database of a store: restore the file from a backup", .0.display())]
    Foreign(PathBuf),
    /// The database was written by another version.
    #[error(
        "{} has format {}, and this server reads format {VERSION}: use the version of wwproxy-server that wrote it",
        .0.display(), .1
    )]
    Version(PathBuf, i64),
    /// The database is damaged.
    #[error("{} cannot be read, it may be damaged: restore the file from a backup", .0.display())]
    Unreadable(PathBuf, #[source] rusqlite::Error),
    /// A registration or a consumer is damaged.
    #[error("{} is damaged: {}; restore the file from a backup", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// A thread could not be started.
    #[error("cannot start a thread of the store")]
    Thread(#[source] io::Error),
}
