//! `wwproxy sources`

mod arm;

use std::{
    io::{self, IsTerminal as _},
    time::SystemTime,
};

use anyhow::anyhow;
use wwproxy_sdk::{Client, SourceName, SourceStatus, sanitize, scheme::Covers};

use super::{
    register::{hook, own_hook},
    status::warn_of_problems,
};
use crate::{
    output::{print_data, print_message},
    prompt::{self, Prompt},
    table::{ago, aligned, to_the_second},
};

/// List the sources of the app, show or delete one, or wait for the handshake that sets its secret
#[derive(clap::Args)]
#[command(after_help = "\
A source is a sender with its scheme and its secrets, which are never shown. On a terminal it prints
a table, otherwise JSON, one source a line. The times are known since the server started.

Examples:
  wwproxy sources
  wwproxy sources --json | jq -r 'select(.verified | not) | .name'
  wwproxy sources show github
  wwproxy sources delete github --yes")]
pub(crate) struct Sources {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON, one source a line; the default without a terminal
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show one source
    #[command(after_help = "Example:\n  wwproxy sources show github --json | jq -r .hook")]
    Show {
        /// The name of the source
        #[arg(value_name = "NAME")]
        name: SourceName,
        /// Print JSON; the default without a terminal
        #[arg(long)]
        json: bool,
    },
    /// Delete one source: its webhooks are refused from now on; its stored events stay
    #[command(after_help = "Example:\n  wwproxy sources delete github --yes")]
    Delete {
        /// The name of the source
        #[arg(value_name = "NAME")]
        name: SourceName,
        /// Do not ask for confirmation. Without a terminal it never asks
        #[arg(short, long)]
        yes: bool,
    },
    Arm(arm::Arm),
}

impl Sources {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self.action {
            None => list(client, self.json).await,
            Some(Action::Show { name, json }) => show(client, &name, json || self.json).await,
            Some(Action::Delete { name, yes }) => delete(client, &name, yes).await,
            Some(Action::Arm(arm)) => arm.run(client, self.json).await,
        }
    }
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let mut sources = client.sources().await?;
    if sources.is_empty() {
        print_message(&format!(
            "{} has no source; register one: `wwproxy register --scheme NAME --source NAME`",
            client.app_id()
        ));
        return Ok(());
    }
    for source in &mut sources {
        complete(source, client);
    }
    let text = if as_json || !io::stdout().is_terminal() {
        sources.iter().map(json).collect()
    } else {
        table(&sources, SystemTime::now())
    };
    print_data(&text).await?;
    sources.iter().for_each(warn_of_problems);
    Ok(())
}

async fn show(client: &Client, name: &SourceName, as_json: bool) -> anyhow::Result<()> {
    let mut source = client.source(name).await?;
    complete(&mut source, client);
    let is_json = as_json || !io::stdout().is_terminal();
    print_data(&if is_json { json(&source) } else { page(&source, SystemTime::now()) }).await?;
    warn_of_problems(&source);
    Ok(())
}

async fn delete(client: &Client, name: &SourceName, yes: bool) -> anyhow::Result<()> {
    let app = client.app_id();
    if !yes && prompt::is_interactive() {
        let source = client.source(name).await?;
        let question =
            format!("Delete source {name} of {app} ({}) with its secrets?", sanitize(&source.scheme));
        if !Prompt::new()?.confirm(&question).await? {
            return Err(anyhow!("source {name} is still registered; nothing was deleted"));
        }
    }
    client.delete_source(name).await?;
    print_message(&format!("deleted source {name} of {app}; its webhooks are refused from now on"));
    Ok(())
}

/// Adds the hook below the server's address, if the server does not know its public URL.
fn complete(source: &mut SourceStatus, client: &Client) {
    source.hook.get_or_insert_with(|| own_hook(client, &source.name));
}

fn json(source: &SourceStatus) -> String {
    serde_json::to_string(source).expect("texts and numbers have a JSON form") + "\n"
}

/// What a valid signature vouches for, in words.
fn verifies(source: &SourceStatus) -> &'static str {
    match source.covers {
        _ if !source.verified => "UNVERIFIED",
        Covers::Body => "body",
        Covers::Url => "URL, not the body",
        Covers::Nothing => "not the body",
        Covers::Unknown => "unknown",
    }
}

fn table(sources: &[SourceStatus], now: SystemTime) -> String {
    let heads = ["NAME", "SCHEME", "VERIFIES", "SECRETS", "ACCEPTED", "REFUSED", "HOOK"];
    let age = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), |time| ago(time, now));
    let rows = sources.iter().map(|source| {
        [
            source.name.to_string(),
            source.scheme.clone(),
            verifies(source).to_owned(),
            source.secrets.to_string(),
            age(&source.last_accepted),
            age(&source.last_refused),
            source.hook.clone().unwrap_or_default(),
        ]
    });
    aligned(&[heads.map(str::to_owned)].into_iter().chain(rows).collect::<Vec<_>>())
}

/// One source in full.
fn page(source: &SourceStatus, now: SystemTime) -> String {
    let time = |time: &Option<String>| match time {
        Some(time) => format!("{} ({})", to_the_second(time), ago(time, now)),
        None => "never since the server started".to_owned(),
    };
    let rows = [
        ("name", Some(source.name.to_string())),
        ("scheme", Some(source.scheme.clone())),
        ("verifies", Some(verifies(source).to_owned())),
        ("secrets", Some(source.secrets.to_string())),
        ("tolerance", source.tolerance.map(|seconds| format!("{seconds} s"))),
        ("signed URL", source.url.clone()),
        ("hook", source.hook.clone()),
        ("last accepted", Some(time(&source.last_accepted))),
        ("last refused", Some(time(&source.last_refused))),
    ];
    let rows = rows.into_iter().filter_map(|(name, text)| Some([name.to_owned(), text?]));
    aligned(&rows.collect::<Vec<_>>())
}
