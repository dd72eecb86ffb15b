//! A bot that answers every message, as far as the terminal: the SDK in thirty lines.
//!
//! ```sh
//! WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… cargo run --example echo_bot
//! ```

use std::env::var;

use futures_util::StreamExt;
use wwproxy_sdk::{Client, ListenOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client =
        Client::builder(var("WWPROXY_SERVER")?).app_id(var("APPID")?).app_secret(var("SECRET")?).build()?;
    let mut events = client.listen(ListenOptions::new());
    while let Some(event) = events.next().await {
        let event = event?;
        let message = event.value()?;
        // An app is told of its own messages too; who answers those never stops.
        if message["type"] == "message-created" && message["userId"] != client.app_id().as_str() {
            println!("Hey {}, did you say {}?", message["userName"], message["content"]);
        }
        event.ack().await?;
    }
    Ok(())
}
