//! Commands of the program other than serving.

use std::path::PathBuf;

use clap::Subcommand;
use wwproxy_protocol::AppId;

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Manage the apps of the builtin identity
    #[command(subcommand)]
    App(AppCommand),
    /// Check, inspect and recover the store
    #[command(subcommand, name = "store")]
    Store(StoreCommand),
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy the store into a new file, with all secrets and bodies; only its owner can read it
    ///
    /// A running server writes the file, as its own user. If none runs, the command opens the store, which only the store's user can do.
    Backup {
        /// File to write, which must not exist
        file: PathBuf,
    },
    /// Print the store's files, apps and consumers, with the numbers and sizes of their events
    ///
    /// Works beside a running server.
    Info {
        /// Folder of the store, or a backup file [default: the folder of --store]
        path: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read the whole store and print what is damaged: ids, never contents; exits 1 if anything is
    ///
    /// Works beside a running server, whose write-ahead log grows meanwhile: for a large store of a busy server check a backup.
    Check {
        /// Folder of the store, or a backup file [default: the folder of --store]
        path: Option<PathBuf>,
    },
    /// Copy what is whole of a damaged store, or of a backup file, into a new folder, and print what is left out
    ///
    /// The damaged store is not changed. A consumer of which something is damaged starts again from the oldest event.
    Recover {
        /// Folder of the damaged store, or a backup file
        from: PathBuf,
        /// Folder of the new store, which must be empty or not exist
        to: PathBuf,
    },
}

/// What to do with the apps.
#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Create an app and print its secret, which is shown only once
    Add {
        /// Id of the app: 1 to 128 of A-Z a-z 0-9 . _ -
        id: AppId,
        /// Keep the registration and events that the store has of an earlier app with this id
        #[arg(long)]
        keep_events: bool,
    },
    /// Print the ids of all apps; disabled ones are marked `disabled`
    List,
    /// Replace an app's secret and print the new one; the old secret and its tokens are refused at once
    Rotate {
        /// Id of the app
        id: AppId,
    },
    /// Disable an app without deleting anything: its clients get 401, its senders 503 (they retry later)
    Disable {
        /// Id of the app
        id: AppId,
    },
    /// Enable an app that was disabled
    Enable {
        /// Id of the app
        id: AppId,
    },
    /// Remove an app permanently, with its registration and its stored events
    ///
    /// A running server executes the command, through a socket in the store's folder, which only its user and root can use. If none
    /// runs, the command opens the store, which only the store's user can do. An app without credentials, as with
    /// `--identity watsonwork`, is purged as well. Asks for confirmation on a terminal.
    Remove {
        /// Id of the app
        id: AppId,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        /// Remove the credentials even if no server runs and the store has no data of the app
        #[arg(long)]
        force: bool,
    },
}
