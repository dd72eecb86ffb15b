//! `wwproxy login`

use std::io::{self, IsTerminal};

use anyhow::Context as _;
use console::Term;

use crate::{
    access::{Access, client_of},
    args::Usage,
    output::say,
    profiles::{Profile, Profiles},
    secret,
};

/// The name of the profile where none is given.
const DEFAULT_NAME: &str = "default";

/// Remember a server, an app and its credentials as a profile
#[derive(clap::Args)]
#[command(after_help = "\
Asks for what is missing where there is a terminal; elsewhere the app's secret can come on stdin. The credentials are checked
before they are saved. The profile is used wherever flags and environment say nothing else.

Examples:
  wwproxy login --server https://proxy.example.com --app-id my-bot
  wwproxy login --profile test --server http://127.0.0.1:8080 --app-id my-bot < app-secret.txt")]
pub(crate) struct Login;

impl Login {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        let name = access.profile_name().unwrap_or(DEFAULT_NAME).to_owned();
        let mut profile = access.given()?;
        ask(&mut profile)?;
        let client = client_of(profile.clone(), access.http_with(profile.ca_cert.as_deref())?)?;
        client.status().await?;
        let mut profiles = Profiles::edit()?;
        profiles.set(&name, &profile);
        let path = profiles.path().display().to_string();
        profiles.write()?;
        say(&format!("saved as profile {name} in {path}"));
        Ok(())
    }
}

/// Asks for what is missing, where there is somebody to ask.
fn ask(profile: &mut Profile) -> anyhow::Result<()> {
    let terminal = Term::stderr();
    let asks = terminal.is_term() && io::stdin().is_terminal();
    let missing = |flag: &str| Usage(format!("give {flag}; there is no terminal to ask on"));
    let read_line = |question: &str, flag: &str| -> anyhow::Result<Option<String>> {
        if !asks {
            return Err(missing(flag).into());
        }
        terminal.write_str(question).and_then(|()| terminal.read_line()).map(Some).context("cannot ask")
    };
    if profile.server.is_none() {
        profile.server = read_line("Server: ", "--server")?;
    }
    if profile.app_id.is_none() {
        profile.app_id = read_line("App id: ", "--app-id")?;
    }
    if profile.secret.is_none() && profile.token.is_none() {
        profile.secret = Some(if asks {
            let secret = terminal.write_str("App secret: ").and_then(|()| terminal.read_secure_line());
            secret.context("cannot ask")?
        } else {
            secret::read_file("-".as_ref())
                .context("give the app's secret: --secret-file, SECRET, or on stdin")?
        });
    }
    Ok(())
}
