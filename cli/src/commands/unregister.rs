//! `wwproxy unregister`

use wwproxy_sdk::Client;

use crate::output::say;

pub(crate) async fn run(client: &Client) -> anyhow::Result<()> {
    client.unregister().await?;
    say(&format!("unregistered {}; its stored events are deleted", client.app_id()));
    Ok(())
}
