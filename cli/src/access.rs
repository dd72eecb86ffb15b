//! The server and the app's credentials. Flags take precedence over the environment, which takes precedence over a profile.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use reqwest::Url;
use wwproxy_sdk::{AppId, Client, HttpOptions, SourceName, is_loopback, sanitize};

use crate::{
    error::UsageError,
    output::print_message,
    profiles::{Profile, Profiles, parse_name},
    secret::{self, variable},
};

const PROFILE_VARIABLE: &str = "WWPROXY_PROFILE";
const SERVER_VARIABLE: &str = "WWPROXY_SERVER";
const APP_VARIABLE: &str = "APPID";
const SECRET_VARIABLE: &str = "SECRET";
const TOKEN_VARIABLE: &str = "WWPROXY_TOKEN";
const TOKEN_ENDPOINT_VARIABLE: &str = "WWPROXY_TOKEN_ENDPOINT";
const CA_CERT_VARIABLE: &str = "WWPROXY_CA_CERT";
const ALLOW_HTTP_VARIABLE: &str = "WWPROXY_ALLOW_HTTP";

/// The server and the app's credentials.
///
/// The environment is read here and not by clap: scripts leave empty variables, which count as unset.
#[derive(clap::Args)]
#[command(next_help_heading = "Server and credentials")]
pub(crate) struct Access {
    /// The saved profile to use, also as `WWPROXY_PROFILE`; without it the default profile is used
    #[arg(long, global = true, value_name = "NAME", value_parser = parse_name)]
    profile: Option<String>,
    /// The server's address, such as `https://proxy.example.com`, also as `WWPROXY_SERVER`
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// The app's id, also as `APPID`
    #[arg(long, global = true, value_name = "ID")]
    app_id: Option<String>,
    /// The app's secret, which is exchanged for tokens; safer in a file, or in the environment as `SECRET`
    #[arg(long, global = true, value_name = "SECRET", group = "credentials")]
    secret: Option<String>,
    /// A file with the app's secret, also as `SECRET_FILE`; `-` is stdin
    #[arg(long, global = true, value_name = "FILE", group = "credentials")]
    secret_file: Option<PathBuf>,
    /// A token, in place of the app's secret; safer in a file, or in the environment as `WWPROXY_TOKEN`
    #[arg(long, global = true, value_name = "TOKEN", group = "credentials")]
    token: Option<String>,
    /// A file with a token, also as `WWPROXY_TOKEN_FILE`; `-` is stdin
    #[arg(long, global = true, value_name = "FILE", group = "credentials")]
    token_file: Option<PathBuf>,
    /// The URL to fetch tokens from, also as `WWPROXY_TOKEN_ENDPOINT`; required if it is on another host than the server, as with
    /// Watson Work
    #[arg(long, global = true, value_name = "URL")]
    token_endpoint: Option<String>,
    /// Allow `http://` to another machine, also as `WWPROXY_ALLOW_HTTP=1`: everyone on the network path can read credentials and
    /// events
    #[arg(long, global = true)]
    allow_http: bool,
    /// Also trust the CA certificates in this PEM file, also as `WWPROXY_CA_CERT`
    #[arg(long, global = true, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Accept any certificate of the server: a machine in the middle can read everything
    #[arg(long, global = true)]
    insecure: bool,
    /// Connect through this proxy: `http://`, `https://` or `socks5h://`; by default the proxy variables of the environment are used,
    /// as curl does
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
    #[arg(skip)]
    loaded_profile: OnceCell<Profile>,
}

impl Access {
    /// Whether the app's secret or a token is given by a flag.
    pub(crate) fn has_credential_flags(&self) -> bool {
        self.secret.is_some()
            || self.secret_file.is_some()
            || self.token.is_some()
            || self.token_file.is_some()
    }

    /// The name of the profile, from the flag or the environment.
    pub(crate) fn profile_name(&self) -> anyhow::Result<Option<String>> {
        if self.profile.is_some() {
            return Ok(self.profile.clone());
        }
        let named = variable(PROFILE_VARIABLE)?.map(|name| parse_name(&name)).transpose();
        Ok(named.map_err(|error| UsageError(format!("{PROFILE_VARIABLE} cannot be used: {error}")))?)
    }

    /// The values from flags and the environment, without the profile.
    pub(crate) fn flags_and_environment(&self) -> anyhow::Result<Profile> {
        let token = secret::from_flags(self.token.as_deref(), self.token_file.as_deref(), "--token-file")?;
        let secret =
            secret::from_flags(self.secret.as_deref(), self.secret_file.as_deref(), "--secret-file")?;
        let (token, secret) = if token.is_some() || secret.is_some() {
            (token, secret)
        } else {
            match secret::from_environment(TOKEN_VARIABLE)? {
                Some(token) => (Some(token), None),
                None => (None, secret::from_environment(SECRET_VARIABLE)?),
            }
        };
        Ok(Profile {
            server: flag_or_variable(self.server.as_ref(), SERVER_VARIABLE)?,
            app_id: flag_or_variable(self.app_id.as_ref(), APP_VARIABLE)?,
            secret,
            token,
            token_endpoint: flag_or_variable(self.token_endpoint.as_ref(), TOKEN_ENDPOINT_VARIABLE)?,
            allow_http: self.allow_http()?,
            // Absolute, so that a saved profile works in any working directory.
            ca_cert: self.ca_cert()?.map(std::path::absolute).transpose()?,
        })
    }

    /// Flags and environment, completed from the profile. The profile's credentials are sent to its own server only.
    fn resolve(&self) -> anyhow::Result<Profile> {
        let mut all = self.flags_and_environment()?;
        let complete =
            all.server.is_some() && all.app_id.is_some() && (all.token.is_some() || all.secret.is_some());
        if complete && self.profile_name()?.is_none() {
            return Ok(all);
        }
        let saved = self.saved_profile()?.clone();
        let has_credentials = all.token.is_some() || all.secret.is_some();
        if is_for(&saved, all.server.as_deref()) {
            if !has_credentials {
                (all.token, all.secret) = (saved.token, saved.secret);
            }
            all.token_endpoint = all.token_endpoint.or(saved.token_endpoint);
            all.allow_http |= saved.allow_http;
        } else if !has_credentials && (saved.token.is_some() || saved.secret.is_some()) {
            let server = saved.server.as_deref().unwrap_or("no server");
            return Err(UsageError(format!(
                "the profile is for {}, and its credentials are not sent to another server; leave out --server and {SERVER_VARIABLE}, \
                 give credentials for the other server (--secret-file, SECRET or {TOKEN_VARIABLE}), or save them as a profile of \
                 their own: wwproxy login --profile NAME",
                sanitize(server)
            ))
            .into());
        }
        all.server = all.server.or(saved.server);
        all.app_id = all.app_id.or(saved.app_id);
        Ok(all)
    }

    fn saved_profile(&self) -> anyhow::Result<&Profile> {
        if let Some(profile) = self.loaded_profile.get() {
            return Ok(profile);
        }
        let profile = Profiles::read()?.get(self.profile_name()?.as_deref())?;
        self.note_overriding_variables(&profile)?;
        Ok(self.loaded_profile.get_or_init(|| profile))
    }

    /// Prints a note if a variable overrides a value of the profile that `--profile` names.
    fn note_overriding_variables(&self, profile: &Profile) -> anyhow::Result<()> {
        let Some(name) = &self.profile else { return Ok(()) };
        let flagged = [&self.token, &self.secret].iter().any(|text| text.is_some())
            || [&self.token_file, &self.secret_file].iter().any(|file| file.is_some());
        let remembers_credentials = profile.token.is_some() || profile.secret.is_some();
        for (variable_name, flagged, saved) in [
            (SERVER_VARIABLE, self.server.is_some(), profile.server.as_ref()),
            (APP_VARIABLE, self.app_id.is_some(), profile.app_id.as_ref()),
            (TOKEN_ENDPOINT_VARIABLE, self.token_endpoint.is_some(), profile.token_endpoint.as_ref()),
            (TOKEN_VARIABLE, flagged || !remembers_credentials, profile.token.as_ref()),
            (SECRET_VARIABLE, flagged || !remembers_credentials, profile.secret.as_ref()),
        ] {
            if !flagged && variable(variable_name)?.is_some_and(|given| saved != Some(&given)) {
                print_message(&format!("note: {variable_name} of the environment overrides profile {name}"));
            }
        }
        Ok(())
    }

    /// The flag, otherwise its variable, otherwise the value in the profile.
    fn resolve_one(
        &self,
        flag: Option<&String>,
        variable: &str,
        saved: impl FnOnce(&Profile) -> Option<String>,
    ) -> anyhow::Result<Option<String>> {
        match flag_or_variable(flag, variable)? {
            Some(text) => Ok(Some(text)),
            None => self.saved_profile().map(saved),
        }
    }

    /// The app's id, if one is given or saved.
    pub(crate) fn app_id(&self) -> anyhow::Result<Option<AppId>> {
        let known = self.resolve_one(self.app_id.as_ref(), APP_VARIABLE, |profile| profile.app_id.clone())?;
        let id = known.map(|id| id.parse()).transpose();
        Ok(id.map_err(|error| UsageError(format!("the app id cannot be used: {error}")))?)
    }

    /// The hook of a source of the app on the server. Posting to it needs no credentials but the webhook secret.
    pub(crate) fn hook(&self, source: &SourceName) -> anyhow::Result<Url> {
        let missing =
            || UsageError("give a destination: --to URL, or --server and --app-id for the app's hook".into());
        let server =
            self.resolve_one(self.server.as_ref(), SERVER_VARIABLE, |profile| profile.server.clone())?;
        let server = server.ok_or_else(missing)?;
        let path = wwproxy_sdk::source_hook_path(&self.app_id()?.ok_or_else(missing)?, source);
        let url = Url::parse(&format!("{}{path}", server.trim_end_matches('/')));
        let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
            UsageError(
                "the server's address is not a URL; give it with its scheme, such as https://proxy.example.com or \
                 http://127.0.0.1:8080"
                    .into(),
            )
        })?;
        if url.scheme() == "http" && !is_loopback(&url) && !self.is_http_allowed(&server)? {
            let message =
                "the server's address is http:// to another machine; use https://, or give --allow-http";
            return Err(UsageError(message.into()).into());
        }
        Ok(url)
    }

    /// Whether `http://` is allowed for this server, by flag, environment or its profile.
    fn is_http_allowed(&self, server: &str) -> anyhow::Result<bool> {
        if self.allow_http()? {
            return Ok(true);
        }
        let saved = self.saved_profile()?;
        Ok(saved.allow_http && is_for(saved, Some(server)))
    }

    fn allow_http(&self) -> anyhow::Result<bool> {
        let value = variable(ALLOW_HTTP_VARIABLE)?;
        match value.as_deref() {
            _ if self.allow_http => Ok(true),
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => {
                Err(UsageError(format!("{ALLOW_HTTP_VARIABLE} of the environment must be 1 or 0")).into())
            }
        }
    }

    fn ca_cert(&self) -> anyhow::Result<Option<PathBuf>> {
        match &self.ca_cert {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(variable(CA_CERT_VARIABLE)?.map(PathBuf::from)),
        }
    }

    /// The HTTP options for the server.
    pub(crate) fn http(&self) -> anyhow::Result<HttpOptions> {
        let mut ca_cert = self.ca_cert()?;
        let server = flag_or_variable(self.server.as_ref(), SERVER_VARIABLE)?;
        // A profile's CA certificates are for its own server only.
        if ca_cert.is_none()
            && (self.profile_name()?.is_some() || server.is_none())
            && is_for(self.saved_profile()?, server.as_deref())
        {
            ca_cert.clone_from(&self.saved_profile()?.ca_cert);
        }
        self.http_with(ca_cert.as_deref())
    }

    /// The HTTP options with this CA file, without those of a profile.
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
            print_message(
                "warning: certificates are not checked (--insecure): a machine in the middle can read everything",
            );
        }
        Ok(http.insecure(self.insecure))
    }

    /// Builds a client, or reports the first missing value.
    pub(crate) fn client(&self, http: HttpOptions) -> anyhow::Result<Client> {
        build_client(self.resolve()?, http)
    }
}

/// Whether the profile is for this server, or for any command that names no server.
fn is_for(profile: &Profile, server: Option<&str>) -> bool {
    let parse = |text: &str| Url::parse(text.trim_end_matches('/')).ok();
    let Some(server) = server else { return true };
    let server = parse(server);
    server.is_some() && server == profile.server.as_deref().and_then(parse)
}

fn flag_or_variable(flag: Option<&String>, name: &str) -> anyhow::Result<Option<String>> {
    flag.map_or_else(|| variable(name), |flag| Ok(Some(flag.clone())))
}

/// Builds a client from a profile, or reports the first missing value.
pub(crate) fn build_client(profile: Profile, http: HttpOptions) -> anyhow::Result<Client> {
    let missing = |what| {
        UsageError(format!(
            "give {what} (flag or environment variable), or save it with wwproxy login; see wwproxy --help"
        ))
    };
    let server = profile.server.ok_or_else(|| missing("the server's address: --server or WWPROXY_SERVER"))?;
    let app_id = profile.app_id.ok_or_else(|| missing("the app's id: --app-id or APPID"))?;
    let mut builder = Client::builder(server).app_id(app_id).http(http).allow_http(profile.allow_http);
    if let Some(endpoint) = profile.token_endpoint {
        builder = builder.token_endpoint(endpoint);
    }
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
