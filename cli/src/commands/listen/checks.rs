//! Checks of the server's status: is the app registered, and are other clients connected?

use std::future::pending;

use wwproxy_sdk::{Client, Status};

use super::reporter::Reporter;
use crate::error::NotRegistered;

/// The options of `listen` that the checks depend on.
pub(super) struct Checks {
    /// Whether some events may not match.
    pub(super) selects: bool,
    pub(super) leave_unmatched: bool,
    pub(super) require_registered: bool,
}

impl Checks {
    /// Reports an app that is not registered. If this client skips or leaves events, warns once if other clients are connected.
    /// Checks after the first connection, and again at the first event that does not match. Returns only errors.
    pub(super) async fn run(&self, client: &Client, reporter: &Reporter) -> anyhow::Error {
        reporter.first_connection().await;
        let mut warned = false;
        match client.status().await {
            Ok(status) => {
                if !status.is_registered() {
                    let error = NotRegistered::new(client);
                    if self.require_registered {
                        return error.into();
                    }
                    reporter.print_message(&format!("{error}; waiting for events"));
                }
                warned = self.warn(client, reporter, &status);
            }
            Err(error) if self.require_registered => return error.into(),
            // Older servers have no status endpoint; other errors are reported by the connection, too.
            Err(_) => {}
        }
        if self.selects && !warned {
            reporter.first_unmatched().await;
            if let Ok(status) = client.status().await {
                self.warn(client, reporter, &status);
            }
        }
        pending().await
    }

    /// Warns if another client is connected. Returns whether it did.
    fn warn(&self, client: &Client, reporter: &Reporter, status: &Status) -> bool {
        if !self.selects || status.clients < 2 {
            return false;
        }
        let consequence = if self.leave_unmatched {
            "this client leaves events that do not match, and the others get them later"
        } else {
            "this client acknowledges events that do not match, and the others never get them; --leave-unmatched leaves them on the server"
        };
        let (clients, app) = (status.clients, client.app_id());
        reporter.print_message(&format!("warning: {clients} clients are connected to {app}, and each event goes to one of them: {consequence}"));
        true
    }
}
