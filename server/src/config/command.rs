//! Commands of the program other than serving.

use clap::Subcommand;
use wwproxy_protocol::AppId;

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Manage the apps of the builtin identity
    #[command(subcommand)]
    App(AppCommand),
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
