//! `wwproxy status`

use wwproxy_sdk::Client;

use crate::output::Output;

pub(crate) async fn run(client: &Client, one_line: bool) -> anyhow::Result<()> {
    let status = client.status().await?;
    let print = if one_line { serde_json::to_string } else { serde_json::to_string_pretty };
    // A reader that is gone wants no status.
    Output::stdout().write(format!("{}\n", print(&status)?).as_bytes()).await.map(drop)
}
