//! A bot that prints an answer to every message: the SDK in thirty lines.
//!
//! ```sh
//! WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… cargo run --example echo_bot
//! ```

use std::env::var;

use wwproxy_sdk::{Client, watson_work::Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client =
        Client::builder(var("WWPROXY_SERVER")?).app_id(var("APPID")?).app_secret(var("SECRET")?).build()?;
    let own_id = client.app_id().as_str();
    let answers = client.run(|event| async move {
        match Event::parse(&event.body)? {
            // Messages of the app itself are skipped: a bot that answers them never stops.
            Event::MessageCreated(message) if message.user_id != own_id => {
                let name = message.user_name.as_deref().unwrap_or("there");
                println!("Hey {name:?}, did you say {:?}?", message.content);
            }
            _ => {}
        }
        Ok(())
    });
    answers.stop_on(tokio::signal::ctrl_c()).await?;
    Ok(())
}
