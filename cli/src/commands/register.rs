//! `wwproxy register`

mod settings;
pub(crate) mod steps;

use std::path::PathBuf;

use anyhow::anyhow;
use serde_json::json;
use wwproxy_sdk::{
    Client, Secret, Source, SourceName, SourceSettings,
    scheme::{Covers, MAX_TOLERANCE_SECONDS, Scheme},
    source_hook_path,
};

use self::{settings::Settings, steps::Sender};
use crate::output::{print_data, print_message};

/// Register a source of webhooks: the sender's scheme and its secret
///
/// From now on the server accepts the webhooks of this sender, and only those that it has verified.
#[derive(clap::Args)]
#[command(after_help = "\
Without --scheme, webhooks are those of Watson Work. `wwproxy schemes` lists the senders. Prints the
hook's URL, and what to click at the sender.

A source is replaced as a whole: the server never gives secrets back. To change a secret without a
gap, register the old and the new one together, change it at the sender, then register the new one.

Examples:
  wwproxy register --scheme github --source repo --generate-secret > github-secret.txt
  wwproxy register --scheme stripe --source stripe --webhook-secret-file stripe-secret.txt
  wwproxy register --scheme github --source repo \\
    --webhook-secret-file github-secret.txt --generate-secret > new-secret.txt
  wwproxy register --scheme meta --source meta --webhook-secret-file app-secret.txt \\
    --challenge-secret-file verify-token.txt
  wwproxy register - < webhook-secret.txt
  WEBHOOK_SECRET=... wwproxy register")]
pub(crate) struct Register {
    /// The secret that the sender signs webhooks with, also as `WEBHOOK_SECRET`; `-` reads it from stdin. Safer in a file or in the
    /// environment: everyone who can list processes sees arguments. With --scheme or --source only `-` is allowed
    #[arg(value_name = "WEBHOOK-SECRET")]
    webhook_secret: Option<String>,
    /// The sender's scheme, such as `github` or `stripe`; `wwproxy schemes` lists them. `none` verifies nothing
    #[arg(long, value_name = "NAME")]
    scheme: Option<String>,
    /// The name of the source. Its hook is `/hook/APP/NAME`, and `/hook/APP` for the source `default`
    #[arg(long, value_name = "NAME", default_value = "default")]
    source: SourceName,
    /// A file with a webhook secret, also as `WEBHOOK_SECRET_FILE`; `-` is stdin. Repeatable, up to 4: a webhook of any of them is
    /// accepted
    #[arg(long, value_name = "FILE", conflicts_with = "webhook_secret")]
    webhook_secret_file: Vec<PathBuf>,
    /// Generate a secret, also in addition to given ones, and print it on stdout: this once only
    #[arg(long)]
    generate_secret: bool,
    /// How far a signed timestamp may be from the server's clock, in seconds; by default as the sender says
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TOLERANCE_SECONDS))]
    tolerance: Option<u64>,
    /// The hook's URL exactly as registered with the sender, for senders that sign it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file with the template of a sender that has no scheme (JSON of at most 1 KiB)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// A file with the second secret of senders whose challenge has one of its own, such as Meta's verify token; `-` is stdin
    #[arg(long, value_name = "FILE")]
    challenge_secret_file: Option<PathBuf>,
    /// Print the source as JSON: its name, scheme and hook, and the generated secret
    #[arg(long)]
    json: bool,
}

impl Register {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let Settings { source, generated } = self.settings(&own_hook(client, &self.source))?;
        let (is_new, hook) = self.put(client, source.settings()).await?;
        self.report(client, &source, is_new, &hook);
        if self.json {
            let registered = json!({
                "source": self.source,
                "scheme": source.scheme().name(),
                "secrets": source.settings().secrets.len(),
                "hook": hook,
                "generatedSecret": generated.as_ref().map(Secret::expose),
            });
            return print(&format!("{registered}\n"), generated.is_some()).await;
        }
        match generated {
            Some(secret) => {
                print_message("the generated secret is on stdout; it is not shown again");
                print(&format!("{}\n", secret.expose()), true).await
            }
            None => Ok(()),
        }
    }

    /// Registers the source. Returns whether it is new, if the server says so, and its hook.
    async fn put(
        &self,
        client: &Client,
        settings: &SourceSettings,
    ) -> anyhow::Result<(Option<bool>, String)> {
        if let ([secret], true) = (&settings.secrets[..], self.source.is_default())
            && *settings == (SourceSettings { secrets: vec![secret.clone()], ..SourceSettings::default() })
        {
            // Servers of version 0.1 know this request only.
            client.register(secret).await?;
            return Ok((None, own_hook(client, &self.source)));
        }
        let is_new = client.put_source(&self.source, settings).await.map_err(|error| {
            // The operator does not allow this scheme: the credentials are valid.
            let detail = error.detail().filter(|_| settings.scheme == "none" && error.status() == Some(403));
            detail.map_or_else(|| error.clone().into(), |detail| anyhow!("the server refused it: {detail}"))
        })?;
        Ok((Some(is_new), hook(client, &self.source).await))
    }

    fn report(&self, client: &Client, source: &Source, is_new: Option<bool>, hook: &str) {
        let (app, name, scheme) = (client.app_id(), &self.source, source.scheme());
        let what = match is_new {
            None => format!("registered {app}"),
            Some(true) => format!("registered source {name} of {app} for {}", scheme.name()),
            Some(false) => format!("replaced source {name} of {app}, now for {}", scheme.name()),
        };
        print_message(&format!("{what}; its webhooks go to {hook}"));
        if is_new == Some(false) {
            print_message("its former secrets are no longer accepted, unless they were given again");
        }
        if is_new.is_none() {
            return;
        }
        warn_of_coverage(scheme);
        if scheme.has_challenge_secret() && source.settings().challenge_secret.is_none() {
            print_message(
                "warning: the sender checks the hook with a verify token, which will fail: register again with --challenge-secret-file",
            );
        }
        print_steps(source, name);
    }
}

/// Warns of webhooks that are not verified, or whose body is not.
fn warn_of_coverage(scheme: &Scheme) {
    if scheme.is_unverified() {
        print_message(
            "warning: nothing is verified: everyone who knows the hook's URL can post events. The server receives them only if it \
             runs with --allow-unverified",
        );
    } else if scheme.covers() == Covers::Nothing {
        print_message(
            "note: this sender does not sign the body: whoever knows the secret, or has seen one webhook, can send any body",
        );
    }
}

/// Prints what to do at the sender.
fn print_steps(source: &Source, name: &SourceName) {
    let scheme = source.scheme();
    let Some(sender) = Sender::of(scheme.name()) else {
        if scheme.name() != "watsonwork" {
            print_message("at the sender: enter this URL as the address of the webhook");
        }
        return;
    };
    if scheme.learns_secret() && source.settings().secrets.is_empty() {
        print_message(&format!(
            "{} sends its secret when the webhook is created: run `wwproxy sources arm {name}` first",
            sender.name
        ));
    }
    print_message(&format!("at {}:", sender.name));
    for (number, step) in (1..).zip(sender.steps()) {
        print_message(&format!("  {number}. {step}"));
    }
}

/// The hook of a source: as the server says, otherwise below the server's address.
pub(crate) async fn hook(client: &Client, name: &SourceName) -> String {
    // Only the public URL is unknown if it cannot be asked for.
    let source = client.source(name).await.ok();
    source.and_then(|source| source.hook).unwrap_or_else(|| own_hook(client, name))
}

/// The hook of a source below the address of the server that the client uses.
pub(crate) fn own_hook(client: &Client, name: &SourceName) -> String {
    format!("{}{}", client.server().trim_end_matches('/'), source_hook_path(client.app_id(), name))
}

async fn print(text: &str, is_secret: bool) -> anyhow::Result<()> {
    let is_open = print_data(text).await?;
    if !is_open && is_secret {
        return Err(anyhow!("the generated secret could not be written: stdout is closed; register again"));
    }
    Ok(())
}
