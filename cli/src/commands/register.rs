//! `wwproxy register <webhook-secret>`

use std::io::{self, Read};

use anyhow::Context as _;
use wwproxy_sdk::{Client, Secret};

use crate::{args::Usage, output::say};

/// The longest secret that is read from stdin, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

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
        let secret = if self.webhook_secret == "-" { read(io::stdin().lock())? } else { self.webhook_secret };
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

/// The secret in the input, without the newline that editors and `echo` end it with.
fn read(input: impl Read) -> anyhow::Result<String> {
    let mut secret = String::new();
    input
        .take(MAX_SECRET_BYTES + 1)
        .read_to_string(&mut secret)
        .context("cannot read the secret from stdin")?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(Usage(format!(
            "the webhook secret is longer than {MAX_SECRET_BYTES} bytes; is it the right file?"
        ))
        .into());
    }
    let line = secret.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.unwrap_or(&secret).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_secret() {
        for (input, secret) in
            [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), (" s \n", " s "), ("\n", "")]
        {
            assert_eq!(read(input.as_bytes()).unwrap(), secret, "{input:?}");
        }
        assert!(read(io::repeat(b'x')).is_err());
        assert!(read(&b"\xff"[..]).is_err());
    }
}
