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
        "{} holds a store of version 0.1, which this version cannot read. Drain it with the old version: start the old server on this \
         folder, block its senders, and let clients fetch until `wwproxy status` says \"stored\": 0 for each app. Then stop it, \
         start this server with an empty folder, and register the apps again: registrations are not carried over",
        .0.display()
    )]
    Former(PathBuf),
    /// A file of the store is missing.
    #[error(
        "the store in {} has no file {}: restore a backup with `wwproxy-server store recover`, or move the folder away to start with an \
         empty store",
        .0.display(), .1
    )]
    Incomplete(PathBuf, &'static str),
    /// The database is not one of this program.
    #[error("{} is not the database of a store: restore a backup with `wwproxy-server store recover`", .0.display())]
    Foreign(PathBuf),
    /// The database was written by another version.
    #[error(
        "{} has format {}, and this server reads format {VERSION}: use the version of wwproxy-server that wrote it",
        .0.display(), .1
    )]
    Version(PathBuf, i64),
    /// The database is damaged.
    #[error("{} cannot be read, it may be damaged: copy what is whole with `wwproxy-server store recover`, or restore a backup", .0.display())]
    Unreadable(PathBuf, #[source] rusqlite::Error),
    /// A thread could not be started.
    #[error("cannot start a thread of the store")]
    Thread(#[source] io::Error),
}
