//! Commands of the program besides serving.

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
    /// Create an app and print its secret, which is shown this once
    Add {
        /// Id of the app: 1 to 128 of A-Z a-z 0-9 . _ -
        id: AppId,
        /// Give the app what the store has of an earlier app with this id
        #[arg(long)]
        keep_events: bool,
    },
    /// Print the ids of all apps, and `disabled` after those that are
    List,
    /// Give an app a new secret and print it; the old one and its tokens are refused at once
    Rotate {
        /// Id of the app
        id: AppId,
    },
    /// Refuse an app and delete nothing: its clients get 401, its senders 503 (they try again later)
    Disable {
        /// Id of the app
        id: AppId,
    },
    /// End what `disable` did
    Enable {
        /// Id of the app
        id: AppId,
    },
    /// Remove an app, its registration and its stored events, for good
    ///
    /// A running server is asked through a socket in the store's folder, which only its user and root can use. If none runs, the
    /// store is opened here, which only its user can do. An app without credentials, as with `--identity watsonwork`, is purged
    /// as well. Asks on a terminal.
    Remove {
        /// Id of the app
        id: AppId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Remove the credentials even if no server runs and the store has nothing of the app
        #[arg(long)]
        force: bool,
    },
}
