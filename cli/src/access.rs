//! Whom to talk to, and as whom.

use wwproxy_sdk::Client;

use crate::args::Usage;

/// Whom to talk to, and as whom.
#[derive(clap::Args)]
#[command(next_help_heading = "Server and credentials")]
pub(crate) struct Access {
    /// The server's address, such as `https://proxy.example.com`
    #[arg(long, global = true, env = "WWPROXY_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The app's id
    #[arg(long, global = true, env = "APPID", value_name = "ID")]
    app_id: Option<String>,
    /// The app's secret, which tokens are fetched with; safer in the environment
    #[arg(long, global = true, env = "SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
    /// A ready token, used instead of the app's secret; safer in the environment
    #[arg(long, global = true, env = "WWPROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl Access {
    /// A client for them, or what is missing.
    pub(crate) fn client(self) -> anyhow::Result<Client> {
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let missing = |what| Usage(format!("give {what} (flag or environment variable); see wwproxy --help"));
        let server =
            given(self.server).ok_or_else(|| missing("the server's address: --server or WWPROXY_SERVER"))?;
        let app_id = given(self.app_id).ok_or_else(|| missing("the app's id: --app-id or APPID"))?;
        let builder = Client::builder(server).app_id(app_id);
        let builder = match (given(self.token), given(self.secret)) {
            (Some(token), _) => builder.token(token),
            (None, Some(secret)) => builder.app_secret(secret),
            (None, None) => {
                return Err(missing(
                    "the app's secret, --secret or SECRET, or a token, --token or WWPROXY_TOKEN",
                )
                .into());
            }
        };
        Ok(builder.build()?)
    }
}
