//! Whom to talk to, and as whom: from flags, else from the environment, else from a profile.

use std::{
    cell::OnceCell,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use reqwest::Url;
use wwproxy_sdk::{AppId, Client, HttpOptions};

use crate::{
    args::Usage,
    output::say,
    profiles::{Profile, Profiles, parse_name},
    secret,
};

/// Whom to talk to, and as whom.
#[derive(clap::Args)]
#[command(next_help_heading = "Server and credentials")]
pub(crate) struct Access {
    /// The profile to use, as `wwproxy login` saved it; the default one where not said
    #[arg(long, global = true, env = "WWPROXY_PROFILE", value_name = "NAME", value_parser = parse_name)]
    profile: Option<String>,
    /// The server's address, such as `https://proxy.example.com`
    #[arg(long, global = true, env = "WWPROXY_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The app's id
    #[arg(long, global = true, env = "APPID", value_name = "ID")]
    app_id: Option<String>,
    /// The app's secret, which tokens are fetched with; safer in a file, or in the environment as `SECRET`
    #[arg(long, global = true, value_name = "SECRET", group = "credentials")]
    secret: Option<String>,
    /// A file with the app's secret, also as `SECRET_FILE`; `-` is stdin
    #[arg(long, global = true, value_name = "FILE", group = "credentials")]
    secret_file: Option<PathBuf>,
    /// A ready token, used instead of the app's secret; safer in a file, or in the environment as `WWPROXY_TOKEN`
    #[arg(long, global = true, value_name = "TOKEN", group = "credentials")]
    token: Option<String>,
    /// A file with a ready token, also as `WWPROXY_TOKEN_FILE`; `-` is stdin
    #[arg(long, global = true, value_name = "FILE", group = "credentials")]
    token_file: Option<PathBuf>,
    /// Trust the certificates of this file too, in PEM
    #[arg(long, global = true, env = "WWPROXY_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Accept any certificate: whoever sits in between reads everything
    #[arg(long, global = true)]
    insecure: bool,
    /// Go through this proxy; where not said, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
    #[arg(skip)]
    remembered: OnceCell<Profile>,
}

/// What one source says of credentials: as they are, or in which file.
#[derive(Default)]
struct Credentials {
    token: Option<String>,
    token_file: Option<PathBuf>,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
}

impl Access {
    /// The profile that was named.
    pub(crate) fn profile_name(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// What flags and environment say, without the profile.
    pub(crate) fn given(&self) -> anyhow::Result<Profile> {
        let flags = Credentials {
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            secret: self.secret.clone(),
            secret_file: self.secret_file.clone(),
        };
        let variable = |name| env::var(name).ok();
        let environment = Credentials {
            token: variable("WWPROXY_TOKEN"),
            token_file: variable("WWPROXY_TOKEN_FILE").map(PathBuf::from),
            secret: variable("SECRET"),
            secret_file: variable("SECRET_FILE").map(PathBuf::from),
        };
        let (mut token, mut secret) = flags.read()?;
        if token.is_none() && secret.is_none() {
            (token, secret) = environment.read()?;
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Profile {
            server: given(&self.server),
            app_id: given(&self.app_id),
            secret,
            token,
            // Also good for another folder than this one.
            ca_cert: self.ca_cert.as_deref().map(std::path::absolute).transpose()?,
        })
    }

    /// The same, and what is missing from the profile.
    fn all(&self) -> anyhow::Result<Profile> {
        let mut all = self.given()?;
        let complete =
            all.server.is_some() && all.app_id.is_some() && (all.token.is_some() || all.secret.is_some());
        if complete && self.profile.is_none() {
            return Ok(all);
        }
        let remembered = self.remembered()?.clone();
        if all.token.is_none() && all.secret.is_none() {
            (all.token, all.secret) = (remembered.token, remembered.secret);
        }
        all.server = all.server.or(remembered.server);
        all.app_id = all.app_id.or(remembered.app_id);
        Ok(all)
    }

    fn remembered(&self) -> anyhow::Result<&Profile> {
        if let Some(profile) = self.remembered.get() {
            return Ok(profile);
        }
        let profile = Profiles::read()?.get(self.profile.as_deref())?;
        Ok(self.remembered.get_or_init(|| profile))
    }

    /// The app, where it is known.
    pub(crate) fn app_id(&self) -> anyhow::Result<Option<AppId>> {
        let given = self.app_id.clone().filter(|id| !id.is_empty());
        let known = given
            .map_or_else(|| self.remembered().map(|profile| profile.app_id.clone()), |id| Ok(Some(id)))?;
        let id = known.map(|id| id.parse()).transpose();
        Ok(id.map_err(|error| Usage(format!("the app id cannot be used: {error}")))?)
    }

    /// The app's hook on the server: to post there needs no credentials but the webhook secret.
    pub(crate) fn hook(&self) -> anyhow::Result<Url> {
        let missing = || Usage("give where to: --to URL, or --server and --app-id for the app's hook".into());
        let given = self.server.clone().filter(|server| !server.is_empty());
        let server = given
            .map_or_else(|| self.remembered().map(|profile| profile.server.clone()), |it| Ok(Some(it)))?;
        let server = server.ok_or_else(missing)?;
        let path = wwproxy_sdk::hook_path(&self.app_id()?.ok_or_else(missing)?);
        let url = Url::parse(&format!("{}{path}", server.trim_end_matches('/')));
        Ok(url.map_err(|error| Usage(format!("the server's address cannot be used: {error}")))?)
    }

    /// How connections are made.
    pub(crate) fn http(&self) -> anyhow::Result<HttpOptions> {
        let from_profile = self.ca_cert.is_none() && (self.profile.is_some() || self.server.is_none());
        self.http_with(if from_profile {
            self.remembered()?.ca_cert.as_deref()
        } else {
            self.ca_cert.as_deref()
        })
    }

    /// The same with the certificates of this file, whatever a profile says.
    pub(crate) fn http_with(&self, ca_cert: Option<&Path>) -> anyhow::Result<HttpOptions> {
        let mut http = HttpOptions::new();
        if let Some(path) = ca_cert {
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

    /// A client, or what is missing.
    pub(crate) fn client(&self, http: HttpOptions) -> anyhow::Result<Client> {
        client_of(self.all()?, http)
    }
}

/// A client for these, or what is missing.
pub(crate) fn client_of(profile: Profile, http: HttpOptions) -> anyhow::Result<Client> {
    let missing = |what| {
        Usage(format!(
            "give {what} (flag or environment variable), or save it with wwproxy login; see wwproxy --help"
        ))
    };
    let server = profile.server.ok_or_else(|| missing("the server's address: --server or WWPROXY_SERVER"))?;
    let app_id = profile.app_id.ok_or_else(|| missing("the app's id: --app-id or APPID"))?;
    let builder = Client::builder(server).app_id(app_id).http(http);
    let builder = match (profile.token, profile.secret) {
        (Some(token), _) => builder.token(token),
        (None, Some(secret)) => builder.app_secret(secret),
        (None, None) => {
            return Err(missing(
                "the app's secret, --secret-file or SECRET, or a token, --token or WWPROXY_TOKEN",
            )
            .into());
        }
    };
    Ok(builder.build()?)
}

impl Credentials {
    /// A token and a secret, of which the token counts.
    fn read(self) -> anyhow::Result<(Option<String>, Option<String>)> {
        let read = |text: Option<String>, file: Option<PathBuf>| {
            let text = text.filter(|text| !text.is_empty());
            let file = file.filter(|file| text.is_none() && !file.as_os_str().is_empty());
            file.map_or(Ok(text), |file| secret::read_file(&file).map(Some))
        };
        let token = read(self.token, self.token_file)?;
        let secret = if token.is_some() { None } else { read(self.secret, self.secret_file)? };
        Ok((token, secret))
    }
}
