//! `wwproxy login`

use crate::{
    access::{Access, build_client},
    output::print_message,
    profiles::{Profile, Profiles},
    prompt::Prompt,
};

/// The name of the profile if none is given.
const DEFAULT_NAME: &str = "default";

/// Save a server, an app and its credentials as a profile
#[derive(clap::Args)]
#[command(after_help = "\
Asks for missing values on a terminal; without one, it reads the app's secret from stdin. The
credentials are checked before they are saved. The token endpoint is saved with them: the app's
secret is sent only there. Flags and environment override the profile.

Examples:
  wwproxy login --server https://proxy.example.com --app-id my-bot
  wwproxy login --server https://proxy.example.com --app-id my-bot \\
    --token-endpoint https://platform.example.com/oauth/token
  wwproxy login --profile test --server http://127.0.0.1:8080 \\
    --app-id my-bot < app-secret.txt")]
pub(crate) struct Login;

impl Login {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        let name = access.profile_name()?.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let mut profile = access.flags_and_environment()?;
        ask(&mut profile).await?;
        let client = build_client(profile.clone(), access.http_with(profile.ca_cert.as_deref())?)?;
        client.status().await?;
        profile.token_endpoint = client.token_endpoint().await;
        let mut profiles = Profiles::edit()?;
        profiles.set(&name, &profile)?;
        let path = profiles.path().display().to_string();
        profiles.write()?;
        print_message(&format!("saved as profile {name} in {path}"));
        if let Some(endpoint) = profile.token_endpoint {
            // A query may contain a key.
            let shown = endpoint.split('?').next().unwrap_or_default();
            print_message(&format!("its tokens come from {shown}"));
        }
        Ok(())
    }
}

/// Asks for the missing values.
async fn ask(profile: &mut Profile) -> anyhow::Result<()> {
    let prompt = Prompt::new()?;
    if profile.server.is_none() {
        profile.server = Some(prompt.ask("Server", "--server").await?);
    }
    if profile.app_id.is_none() {
        profile.app_id = Some(prompt.ask("App id", "--app-id").await?);
    }
    if profile.secret.is_none() && profile.token.is_none() {
        let flags = "the app's secret: --secret-file, SECRET, or on stdin";
        profile.secret = Some(prompt.ask_secret("App secret", flags).await?);
    }
    Ok(())
}
