//! `wwproxy register`

use std::path::PathBuf;

use wwproxy_sdk::Client;

use crate::{error::UsageError, output::print_message, secret};

/// Register the app's webhook secret, so that the server accepts its webhooks
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wwproxy register --webhook-secret-file webhook-secret.txt
  wwproxy register - < webhook-secret.txt
  WEBHOOK_SECRET=... wwproxy register")]
pub(crate) struct Register {
    /// The secret that the sender signs webhooks with, also as `WEBHOOK_SECRET`; `-` reads it from stdin. Safer in a file or in the
    /// environment: everyone who can list processes sees arguments
    #[arg(value_name = "WEBHOOK-SECRET")]
    webhook_secret: Option<String>,
    /// A file with the webhook secret, also as `WEBHOOK_SECRET_FILE`; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "webhook_secret")]
    webhook_secret_file: Option<PathBuf>,
}

impl Register {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let (text, file) = match self.webhook_secret.as_deref() {
            Some("-") => (None, Some("-".into())),
            text => (text, self.webhook_secret_file),
        };
        let secret = secret::webhook_secret(text, file.as_deref())?;
        let missing = "give the webhook secret: --webhook-secret-file FILE, WEBHOOK_SECRET, or - for stdin";
        client.register(&secret.ok_or_else(|| UsageError(missing.into()))?).await?;
        print_message(&format!(
            "registered {}; its webhooks go to {}/hook/{0}",
            client.app_id(),
            client.server().trim_end_matches('/')
        ));
        Ok(())
    }
}
