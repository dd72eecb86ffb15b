//! Whom to talk to, and as whom.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use reqwest::Url;
use wwproxy_sdk::{AppId, Client, HttpOptions};

use crate::{args::Usage, output::say};

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
    /// Trust the certificates of this file too, in PEM
    #[arg(long, global = true, env = "WWPROXY_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Accept any certificate: whoever sits in between reads everything
    #[arg(long, global = true)]
    insecure: bool,
    /// Go through this proxy; where not said, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
}

impl Access {
    /// The app, where it is given.
    pub(crate) fn app_id(&self) -> anyhow::Result<Option<AppId>> {
        let given = self.app_id.as_deref().filter(|id| !id.is_empty());
        Ok(given
            .map(str::parse)
            .transpose()
            .map_err(|error| Usage(format!("the app id cannot be used: {error}")))?)
    }

    /// The app's hook on the server: to post there needs no credentials but the webhook secret.
    pub(crate) fn hook(&self) -> anyhow::Result<Url> {
        let missing = || Usage("give where to: --to URL, or --server and --app-id for the app's hook".into());
        let server = self.server.as_deref().filter(|server| !server.is_empty()).ok_or_else(missing)?;
        let path = wwproxy_sdk::hook_path(&self.app_id()?.ok_or_else(missing)?);
        let url = Url::parse(&format!("{}{path}", server.trim_end_matches('/')));
        Ok(url.map_err(|error| Usage(format!("the server's address cannot be used: {error}")))?)
    }

    /// How connections are made.
    pub(crate) fn http(&self) -> anyhow::Result<HttpOptions> {
        let mut http = HttpOptions::new();
        if let Some(path) = &self.ca_cert {
            let pem =
                fs::read(path).with_context(|| format!("cannot read the CA file {}", path.display()))?;
            http = http.ca_certificates(pem)?;
        }
        if let Some(url) = &self.proxy {
            http = http.proxy(url)?;
        }
        if self.insecure {
            say(
                "warning: certificates are not checked (--insecure): whoever sits in between reads everything",
            );
        }
        Ok(http.insecure(self.insecure))
    }

    /// A client for them, or what is missing.
    pub(crate) fn client(self, http: HttpOptions) -> anyhow::Result<Client> {
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let missing = |what| Usage(format!("give {what} (flag or environment variable); see wwproxy --help"));
        let server =
            given(self.server).ok_or_else(|| missing("the server's address: --server or WWPROXY_SERVER"))?;
        let app_id = given(self.app_id).ok_or_else(|| missing("the app's id: --app-id or APPID"))?;
        let builder = Client::builder(server).app_id(app_id).http(http);
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
