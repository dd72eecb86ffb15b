//! `wwproxy unregister`

use wwproxy_sdk::Client;

use crate::output::say;

/// End the app's registration and delete its stored events
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy unregister")]
pub(crate) struct Unregister;

impl Unregister {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        client.unregister().await?;
        say(&format!("unregistered {}; its stored events are deleted", client.app_id()));
        Ok(())
    }
}
