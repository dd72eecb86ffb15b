//! A bot that answers every message, as far as the terminal: the SDK in thirty lines.
//!
//! ```sh
//! WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… cargo run --example echo_bot
//! ```

use std::env::var;

use wwproxy_sdk::{Client, Error, EventMessage, watson_work::Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client =
        Client::builder(var("WWPROXY_SERVER")?).app_id(var("APPID")?).app_secret(var("SECRET")?).build()?;
    let own_id = client.app_id().as_str();
    let answer = async |event: EventMessage| {
        // An app is told of its own messages too; who answers those never stops.
        if let Ok(Event::MessageCreated(message)) = Event::parse(&event.body)
            && message.user_id != own_id
        {
            println!("Hey {}, did you say {}?", message.user_name.unwrap_or_default(), message.content);
        }
        Ok::<(), Error>(())
    };
    Ok(client.run(answer).await?)
}
