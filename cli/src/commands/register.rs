//! `wwproxy register`

mod settings;
pub(crate) mod steps;

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tokio::select;
use wwproxy_sdk::{
    Client, Error, ErrorKind, Secret, Source, SourceName, SourceSettings, SourceStatus, sanitize,
    scheme::{Covers, MAX_TOLERANCE_SECONDS, Scheme},
    source_hook_path,
};

use self::{settings::Settings, steps::Sender};
use crate::{
    error::UsageError,
    output::{counted, print_data, print_message, print_secret},
    prompt::{self, Prompt},
    shutdown::Shutdown,
};

/// Register a source of webhooks: the sender's scheme and its secret
///
/// From now on the server accepts the webhooks of this sender, and only those that it has verified.
#[derive(clap::Args)]
#[command(after_help = "\
Without --scheme and --template, webhooks are those of Watson Work. `wwproxy schemes` lists the
senders. Prints the hook's URL, and what to click at the sender.

A source is replaced as a whole: the server never gives secrets back. To change a secret without a
gap, register the old and the new one together, change it at the sender, then register the new one.
`umask 077` creates files that only you can read.

Examples:
  umask 077
  wwproxy register --scheme github --source repo \\
    --generate-secret > github-secret.txt
  wwproxy register --scheme stripe --source stripe \\
    --webhook-secret-file stripe-secret.txt
  wwproxy register --scheme github --source repo \\
    --webhook-secret-file github-secret.txt --generate-secret > new-secret.txt
  wwproxy register --scheme meta --source meta \\
    --webhook-secret-file app-secret.txt \\
    --challenge-secret-file verify-token.txt
  wwproxy register - < webhook-secret.txt
  WEBHOOK_SECRET_FILE=webhook-secret.txt wwproxy register")]
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
    /// Generate a secret, also in addition to given ones, and print it on stdout, only once, before it is registered
    #[arg(long)]
    generate_secret: bool,
    /// Replace a source of another sender without asking. Without a terminal it is refused otherwise
    #[arg(long)]
    replace: bool,
    /// How far a signed timestamp may be from the server's clock, in seconds; by default as the sender says
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TOLERANCE_SECONDS))]
    tolerance: Option<u64>,
    /// The hook's URL exactly as registered with the sender, for senders that sign it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file with the template of a sender that has no scheme (JSON of at most 1 KiB); `wwproxy schemes template` and
    /// docs/templates.md describe it
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// A file with the second secret of senders whose challenge has one of its own, such as Meta's verify token; `-` is stdin
    #[arg(long, value_name = "FILE")]
    challenge_secret_file: Option<PathBuf>,
    /// Print the source as one JSON object: its name, scheme and hook. A generated secret is an object on a line before it
    #[arg(long)]
    json: bool,
}

impl Register {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let Settings { source, origins, generated } = self.settings(&own_hook(client, &self.source))?;
        let shutdown = Shutdown::on_signal()?;
        let prepare = async {
            let replaced = self.replaced(client, source.settings()).await?;
            self.confirm(client, &source, replaced.as_ref(), &shutdown).await?;
            // Before the request, as the server does not give a secret back.
            if let Some(secret) = &generated {
                self.print_generated(secret).await?;
            }
            anyhow::Ok(replaced)
        };
        let replaced = select! {
            biased;
            replaced = prepare => replaced?,
            () = shutdown.requested() => return Err(anyhow!("stopped; nothing was registered")),
        };
        let put = select! {
            biased;
            put = self.put(client, source.settings(), replaced.is_none()) => put,
            () = shutdown.requested() => Err(anyhow!("stopped before the server answered; the source may be registered")),
        };
        // From now on a signal ends the process at once.
        drop(shutdown);
        let (is_new, hook) =
            put.map_err(|error| if generated.is_some() { explain_generated(error) } else { error })?;
        self.report(client, &source, &origins, replaced.as_ref().filter(|_| !is_new), &hook);
        if generated.is_some() {
            print_message("the generated secret is on stdout; it is not shown again");
        }
        if self.json {
            let registered = json!({
                "source": self.source,
                "scheme": source.scheme().name(),
                "secrets": source.settings().secrets.len(),
                "hook": hook,
            });
            print_data(&format!("{registered}\n")).await?;
        }
        Ok(())
    }

    /// Prints the generated secret, with `--json` as an object of its own.
    async fn print_generated(&self, secret: &Secret) -> anyhow::Result<()> {
        let secret = secret.expose();
        let line =
            if self.json { json!({ "generatedSecret": secret }).to_string() } else { secret.to_owned() };
        print_secret(&(line + "\n")).await.context("nothing was registered")
    }

    /// The source that will be replaced.
    async fn replaced(
        &self,
        client: &Client,
        settings: &SourceSettings,
    ) -> anyhow::Result<Option<SourceStatus>> {
        match client.source(&self.source).await {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.kind() == ErrorKind::NotRegistered => Ok(None),
            // A server of version 0.1 has no sources.
            Err(error) if error.status() == Some(404) && self.as_watson_work(settings) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks before a source of another sender is replaced. Fails without a terminal, unless `--replace` is given.
    async fn confirm(
        &self,
        client: &Client,
        source: &Source,
        replaced: Option<&SourceStatus>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let (app, name, scheme) = (client.app_id(), &self.source, source.scheme().name());
        let Some(other) = replaced.map(|source| &source.scheme).filter(|other| *other != scheme) else {
            return Ok(());
        };
        if self.replace {
            return Ok(());
        }
        if !prompt::is_interactive() {
            let another = if name.is_default() { "" } else { "another " };
            return Err(UsageError(format!(
                "source {name} of {app} receives the webhooks of {other}: give {another}--source NAME to add a source for {scheme}, or \
                 --replace to replace it"
            ))
            .into());
        }
        let question =
            format!("Replace source {name} of {app}, for {}, by one for {scheme}?", sanitize(other));
        if Prompt::with_shutdown(shutdown.clone()).confirm(&question).await? {
            return Ok(());
        }
        Err(anyhow!("source {name} is unchanged; --source NAME adds another source"))
    }

    /// Whether a server of version 0.1 can be asked for this registration: it knows Watson Work with one secret only.
    fn as_watson_work(&self, settings: &SourceSettings) -> bool {
        self.source.is_default()
            && settings.secrets.len() == 1
            && *settings == SourceSettings { secrets: settings.secrets.clone(), ..SourceSettings::default() }
    }

    /// Registers the source. Returns whether it is new, and its hook. The answer for Watson Work does not say whether it is new:
    /// `was_missing`, a moment ago.
    async fn put(
        &self,
        client: &Client,
        settings: &SourceSettings,
        was_missing: bool,
    ) -> anyhow::Result<(bool, String)> {
        if self.as_watson_work(settings) {
            client.register(&settings.secrets[0]).await?;
            return Ok((was_missing, own_hook(client, &self.source)));
        }
        let is_new = client.put_source(&self.source, settings).await.map_err(|error| {
            // The operator does not allow this scheme: the credentials are valid.
            let detail = error.detail().filter(|_| settings.scheme == "none" && error.status() == Some(403));
            detail.map_or_else(|| error.clone().into(), |detail| anyhow!("the server refused it: {detail}"))
        })?;
        Ok((is_new, hook(client, &self.source).await))
    }

    fn report(
        &self,
        client: &Client,
        source: &Source,
        origins: &[String],
        replaced: Option<&SourceStatus>,
        hook: &str,
    ) {
        let (app, name, scheme) = (client.app_id(), &self.source, source.scheme());
        let mut secrets = counted(origins.len() as u64, "secret", "secrets");
        if !origins.is_empty() {
            secrets = format!("{secrets}: {}", origins.join(" and "));
        }
        let what = match replaced {
            None => format!("registered source {name} of {app} for {} with {secrets}", scheme.name()),
            Some(before) if before.scheme != scheme.name() => {
                format!(
                    "replaced source {name} of {app}: {} in place of {}, with {secrets}",
                    scheme.name(),
                    before.scheme
                )
            }
            Some(_) => format!("updated source {name} of {app} ({}), now with {secrets}", scheme.name()),
        };
        print_message(&format!("{what}; its webhooks go to {hook}"));
        if let Some(before) = replaced {
            // A generated secret is new: at most the given ones were registered before.
            let given = origins.len() - usize::from(self.generate_secret);
            report_former_secrets(before.secrets, given);
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

/// Says after a failed registration whether the generated secret, which was printed, may be in force.
fn explain_generated(error: anyhow::Error) -> anyhow::Error {
    let status = error.downcast_ref::<Error>().and_then(Error::status);
    let is_rejected = status.is_some_and(|status| (400..500).contains(&status));
    error.context(if is_rejected {
        "the source was not registered, and the generated secret on stdout is not in force"
    } else {
        "it is unknown whether the source was registered: the generated secret on stdout may be in force; `wwproxy sources` shows it"
    })
}

/// Reports that former secrets are no longer accepted, if fewer secrets were given than there were.
fn report_former_secrets(before: usize, given: usize) {
    let former = counted(before as u64, "former secret", "former secrets");
    match before.saturating_sub(given) {
        0 => {}
        1 if before == 1 => print_message("its former secret is no longer accepted"),
        ended if ended == before => print_message(&format!("its {former} are no longer accepted")),
        1 => print_message(&format!("at least 1 of its {former} is no longer accepted")),
        ended => print_message(&format!("at least {ended} of its {former} are no longer accepted")),
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
