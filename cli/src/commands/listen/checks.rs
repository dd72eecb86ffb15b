//! What the server's status says at the start: whether the app is registered, and who else is connected.

use std::future::pending;

use wwproxy_sdk::{Client, Status};

use super::reporter::Reporter;
use crate::error::NotRegistered;

/// What `listen` was asked to do, as far as the checks depend on it.
pub(super) struct Checks {
    /// Whether some events may not match, and so are not handled.
    pub(super) selects: bool,
    pub(super) leave_unmatched: bool,
    pub(super) require_registered: bool,
}

impl Checks {
    /// Reports an app that is not registered, and once that other clients are connected while this one skips or leaves events.
    /// Checks after the first connection, and again at the first event that does not match. Ends only with an error.
    pub(super) async fn run(&self, client: &Client, reporter: &Reporter) -> anyhow::Error {
        reporter.first_connection().await;
        let mut warned = false;
        match client.status().await {
            Ok(status) => {
                if status.registration.is_none() {
                    let error = NotRegistered::new(client);
                    if self.require_registered {
                        return error.into();
                    }
                    reporter.print_message(&format!("{error}; waiting for events"));
                }
                warned = self.warn(client, reporter, &status);
            }
            Err(error) if self.require_registered => return error.into(),
            // Older servers have no status; everything else is an error of the connection, too.
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

    /// Warns if another client is connected, and returns whether it did.
    fn warn(&self, client: &Client, reporter: &Reporter, status: &Status) -> bool {
        if !self.selects || status.clients < 2 {
            return false;
        }
        let consequence = if self.leave_unmatched {
            "this one leaves events that do not match, which reach the others later"
        } else {
            "this one acknowledges events that do not match, and the others never get them; --leave-unmatched leaves them on the server"
        };
        let (clients, app) = (status.clients, client.app_id());
        reporter.print_message(&format!("warning: {clients} clients are connected to {app}, and each event goes to one of them: {consequence}"));
        true
    }
}
