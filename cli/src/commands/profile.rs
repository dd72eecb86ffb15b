//! `wwproxy profile`

use serde_json::json;
use wwproxy_sdk::sanitize;

use crate::{
    output::{print_data, print_message},
    profiles::{Profiles, parse_name},
};

/// List the profiles, or set the default one
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wwproxy profile list\n  wwproxy profile use test\n  wwproxy --profile test status"
)]
pub(crate) struct Profile {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print name, server and app of each profile, without secrets; `*` marks the default one
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a profile the default
    Use {
        #[arg(value_name = "NAME", value_parser = parse_name)]
        name: String,
    },
}

impl Profile {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::List { json } => list(json).await,
            Action::Use { name } => {
                let mut profiles = Profiles::edit()?;
                profiles.set_default(&name)?;
                profiles.write()?;
                print_message(&format!("profile {name} is now the default"));
                Ok(())
            }
        }
    }
}

async fn list(as_json: bool) -> anyhow::Result<()> {
    let profiles = Profiles::read()?;
    let (all, default) = (profiles.all()?, profiles.default());
    let text = if as_json {
        let all = all.iter().map(|(name, profile)| {
            json!({
                "name": name,
                "server": profile.server,
                "appId": profile.app_id,
                "tokenEndpoint": profile.token_endpoint,
                "default": default == Some(name),
            })
        });
        format!("{}\n", all.collect::<serde_json::Value>())
    } else {
        let line = |(name, profile): &(&str, crate::profiles::Profile)| {
            let star = if default == Some(name) { '*' } else { ' ' };
            let column = |text: &Option<String>| sanitize(text.as_deref().unwrap_or("-"));
            format!("{star} {}  {}  {}\n", sanitize(name), column(&profile.server), column(&profile.app_id))
        };
        all.iter().map(line).collect()
    };
    print_data(&text).await.map(drop)
}
