//! `wwproxy token`

use wwproxy_sdk::Client;

use crate::output::Output;

pub(crate) async fn run(client: &Client) -> anyhow::Result<()> {
    let token = client.token().await?;
    // A reader that is gone wants no token.
    Output::stdout().write(format!("{}\n", token.expose()).as_bytes()).await.map(drop)
}
