//! `wwproxy register <webhook-secret>`

use wwproxy_sdk::{Client, Secret};

use crate::{args::Usage, output::say, secret};

/// Register the app's webhook secret, so that its webhooks are taken
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy register - < webhook-secret.txt")]
pub(crate) struct Register {
    /// The secret that the sender signs webhooks with; `-` reads it from stdin, which keeps it from the process list
    #[arg(value_name = "WEBHOOK-SECRET")]
    webhook_secret: String,
}

impl Register {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let secret = match &*self.webhook_secret {
            "-" => secret::read_file("-".as_ref())?,
            _ => self.webhook_secret,
        };
        if secret.is_empty() {
            return Err(
                Usage("the webhook secret is empty; give the one that the sender signs with".into()).into()
            );
        }
        client.register(&Secret::new(secret)).await?;
        say(&format!(
            "registered {}; its webhooks go to {}/hook/{0}",
            client.app_id(),
            client.server().trim_end_matches('/')
        ));
        Ok(())
    }
}
