//! The program's flags and environment, as typed settings.

mod command;
mod error;
mod listen;
mod size;
mod store;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Parser, ValueEnum, builder::BoolishValueParser};
use directories::ProjectDirs;
use wwproxy_protocol::AppId;

use self::size::{body_size, duration, duration_or_zero, token_lifetime};
pub use self::{
    command::{AppCommand, Command, StoreCommand},
    error::ConfigError,
    listen::ListenAddress,
    size::ByteSize,
    store::{Overflow, StoreAddress},
};
use crate::{
    PublicUrl, Settings, TrustedProxy,
    identity::{Apps, Builtin, Cached, IdentityProvider, TokenKey, WatsonWork},
    store::{Limits, SqliteStore, Store},
};

const EXIT_CODES: &str = "\
Exit codes:
  0    stopped after SIGTERM or SIGINT, or the command is done
  1    could not start, or the command failed
  2    wrong usage
  130  ended at once by a second SIGINT
  143  ended at once by a second SIGTERM";

/// Receives webhooks for apps without a public address: verifies them, stores them, and delivers them.
///
/// Each flag can also be set in the environment. Sizes take K, M and G, or KiB, MiB and GiB (powers of 1024), or
/// KB, MB and GB (powers of 1000); times take ms, s, m, h or d.
///
/// SIGTERM and SIGINT drain and exit 0; a second one ends the server at once. SIGHUP has no effect. The credentials file
/// is read again whenever it changes.
#[derive(Debug, Parser)]
#[command(name = "wwproxy-server", version, max_term_width = 100, args_conflicts_with_subcommands = false, after_help = EXIT_CODES)]
pub struct Config {
    /// Address to listen on: IP:PORT, PORT for 127.0.0.1, or :PORT for all addresses; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", env = "WWPROXY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: ListenAddress,

    /// Where events are stored: `file:DIR`, or `memory:`, which loses them when the server stops [default: in the user's
    /// data directory]
    #[arg(long, value_name = "STORE", env = "WWPROXY_STORE", global = true)]
    pub store: Option<StoreAddress>,

    /// Identity provider: which app a token belongs to
    #[arg(long, env = "WWPROXY_IDENTITY", value_enum, default_value_t = Identity::Builtin)]
    pub identity: Identity,

    /// Address of the Watson Work platform
    #[arg(long, value_name = "URL", env = "WWPROXY_PLATFORM_URL", default_value = WatsonWork::DEFAULT_URL)]
    pub platform_url: String,

    /// Allow an http:// address of the platform on another machine: everyone on the way can read the tokens of all clients
    #[arg(long, env = "WWPROXY_ALLOW_HTTP_PLATFORM", value_parser = BoolishValueParser::new())]
    pub allow_http_platform: bool,

    /// App to serve with `--identity watsonwork`; may be repeated; without it every app of the platform is served
    #[arg(long = "allow-app", value_name = "ID", env = "WWPROXY_ALLOW_APP", value_delimiter = ',')]
    pub allowed_apps: Vec<AppId>,

    /// Credentials of the builtin identity's apps [default: apps.toml in the user's data directory]
    #[arg(long, value_name = "FILE", env = "WWPROXY_APPS", global = true)]
    pub apps: Option<PathBuf>,

    /// How long a token of the builtin identity is valid
    #[arg(long, value_name = "TIME", env = "WWPROXY_TOKEN_LIFETIME", default_value = "12h", value_parser = token_lifetime)]
    pub token_lifetime: Duration,

    /// URL of this server as clients see it, if it is behind a reverse proxy
    #[arg(long, value_name = "URL", env = "WWPROXY_PUBLIC_URL")]
    pub public_url: Option<PublicUrl>,

    /// Reverse proxy whose X-Forwarded-Proto, -Host and -Port headers are trusted: an address or a network;
    /// may be repeated, or a list with commas
    #[arg(long, value_name = "CIDR", env = "WWPROXY_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<TrustedProxy>,

    /// Allow sources of the scheme `none`, which accept every request without verification
    #[arg(long, env = "WWPROXY_ALLOW_UNVERIFIED", value_parser = BoolishValueParser::new())]
    pub allow_unverified: bool,

    /// Longest webhook body
    #[arg(long, value_name = "SIZE", env = "WWPROXY_MAX_BODY", default_value = "8MiB", value_parser = body_size)]
    pub max_body: ByteSize,

    /// Most bytes of webhook bodies that are being read or stored at once, at least --max-body, a quarter of it for one app;
    /// beyond it the oldest unverified body is rejected with 503
    #[arg(long, value_name = "SIZE", env = "WWPROXY_MAX_BUFFERED_BYTES", default_value = "256MiB")]
    pub max_buffered_bytes: ByteSize,

    /// Most connections at once, within the limit of open files; further ones wait, and evict connections
    /// without a valid token or signature
    #[arg(long, value_name = "N", env = "WWPROXY_MAX_CONNECTIONS", default_value = "20000", value_parser = positive)]
    pub max_connections: usize,

    /// Most websockets and waiting leases of one app at once; further ones are rejected with 429
    #[arg(long, value_name = "N", env = "WWPROXY_MAX_CLIENTS_PER_APP", default_value = "256", value_parser = positive)]
    pub max_clients_per_app: usize,

    /// Most events of an app that its consumer `default` has not acknowledged
    #[arg(long, value_name = "N", env = "WWPROXY_MAX_QUEUED_EVENTS", default_value = "100000", value_parser = positive)]
    pub max_queued_events: usize,

    /// Most bytes of these events
    #[arg(long, value_name = "SIZE", env = "WWPROXY_MAX_QUEUED_BYTES", default_value = "256MiB")]
    pub max_queued_bytes: ByteSize,

    /// What to do with a webhook that finds the consumer `default` at these limits
    #[arg(long, env = "WWPROXY_OVERFLOW", value_enum, default_value_t = Overflow::Reject)]
    pub overflow: Overflow,

    /// How long an event is kept, whether it was acknowledged or not; older events are dropped
    #[arg(long, value_name = "TIME", env = "WWPROXY_RETENTION", default_value = "7d", value_parser = duration)]
    pub retention: Duration,

    /// How long an acknowledged event is kept as history, at most --retention; 0 deletes it at once
    #[arg(long, value_name = "TIME", env = "WWPROXY_HISTORY", default_value = "24h", value_parser = duration_or_zero)]
    pub history: Duration,

    /// Most bytes of stored events of all apps; beyond it acknowledged events are deleted, the oldest first, then those that are not pending for `default`
    #[arg(long, value_name = "SIZE", env = "WWPROXY_MAX_HISTORY_BYTES", default_value = "10GiB")]
    pub max_history_bytes: ByteSize,

    /// How long a consumer may have no client before it is deleted; `default` is never deleted
    #[arg(long, value_name = "TIME", env = "WWPROXY_CONSUMER_IDLE_EXPIRY", default_value = "30d", value_parser = duration)]
    pub consumer_idle_expiry: Duration,

    /// How long a repeated webhook is recognised as a duplicate
    #[arg(long, value_name = "TIME", env = "WWPROXY_DEDUPE_WINDOW", default_value = "10m", value_parser = duration)]
    pub dedupe_window: Duration,

    /// How long a client has to acknowledge an event before it is redelivered
    #[arg(long, value_name = "TIME", env = "WWPROXY_LEASE", default_value = "60s", value_parser = duration)]
    pub lease: Duration,

    /// Format of the log on stderr; with `json`, the line on stdout that names the address is JSON, too
    #[arg(long, env = "WWPROXY_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,

    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "WWPROXY_LOG_LEVEL", default_value = "info")]
    pub log_level: tracing::Level,

    /// Deadline for requests and websockets to finish when the server stops
    #[arg(long, value_name = "TIME", env = "WWPROXY_SHUTDOWN_GRACE", default_value = "10s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The identity provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Identity {
    /// The server itself, from its credentials file.
    Builtin,
    /// IBM Watson Work.
    #[value(name = "watsonwork")]
    WatsonWork,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable lines.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The address of the store, or the default.
    pub fn store_address(&self) -> Result<StoreAddress, ConfigError> {
        match &self.store {
            Some(address) => Ok(address.clone()),
            None => Ok(StoreAddress::File(data_directory()?.join("store"))),
        }
    }

    /// The apps of the builtin identity.
    pub fn apps(&self) -> Result<Apps, ConfigError> {
        match &self.apps {
            Some(path) => Ok(Apps::new(path)),
            None => Ok(Apps::new(data_directory()?.join("apps.toml"))),
        }
    }

    /// Opens the store.
    pub async fn open_store(&self) -> Result<Arc<dyn Store>, ConfigError> {
        let limits = Limits {
            max_pending_events: self.max_queued_events as u64,
            max_pending_bytes: self.max_queued_bytes.0,
            overflow: self.overflow.into(),
            retention: self.retention,
            history: self.history.min(self.retention),
            max_history_bytes: self.max_history_bytes.0,
            dedupe_window: self.dedupe_window,
            consumer_idle_expiry: self.consumer_idle_expiry,
        };
        Ok(match self.store_address()? {
            StoreAddress::File(folder) => Arc::new(SqliteStore::open(&folder, limits).await?),
            StoreAddress::Memory => Arc::new(SqliteStore::in_memory(limits).await?),
        })
    }

    /// Builds the identity provider. The key that signs builtin tokens is stored with the events. The credentials file must be
    /// valid, since otherwise it is unknown which apps are disabled.
    pub fn identity_provider(&self) -> Result<Arc<dyn IdentityProvider>, ConfigError> {
        Ok(match self.identity {
            Identity::Builtin if !self.allowed_apps.is_empty() => {
                return Err(ConfigError::AllowedAppsOfBuiltin);
            }
            Identity::Builtin => {
                let key = match self.store_address()? {
                    StoreAddress::File(folder) => TokenKey::load_or_create(&folder.join("token.key"))?,
                    StoreAddress::Memory => TokenKey::random()?,
                };
                let apps = self.apps()?;
                apps.list()?;
                Arc::new(Builtin::new(apps, key, self.token_lifetime))
            }
            Identity::WatsonWork => {
                let platform = WatsonWork::new(&self.platform_url, self.allow_http_platform)?;
                let restricted = !self.allowed_apps.is_empty();
                let allowed = self.allowed_apps.iter().cloned();
                Arc::new(Cached::new(if restricted { platform.only(allowed) } else { platform }))
            }
        })
    }

    /// The settings of the server.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let (max_body, max_buffered_bytes) = (self.max_body.0, self.max_buffered_bytes.0);
        if max_buffered_bytes < max_body {
            return Err(ConfigError::TooFewBufferedBytes { max_buffered_bytes, max_body });
        }
        Ok(Settings {
            max_body,
            lease: self.lease,
            shutdown_grace: self.shutdown_grace,
            max_buffered_bytes,
            max_connections: self.max_connections,
            max_clients_per_app: self.max_clients_per_app,
            allow_unverified: self.allow_unverified,
            public_url: self.public_url.clone(),
            trusted_proxies: self.trusted_proxy.clone(),
        })
    }
}

fn data_directory() -> Result<PathBuf, ConfigError> {
    // Without HOME, `directories` uses the home folder of the account database, where operators do not expect a store.
    let is_set = |name| env::var_os(name).is_some_and(|folder| Path::new(&folder).is_absolute());
    if cfg!(unix) && !is_set("HOME") && !is_set("XDG_DATA_HOME") {
        return Err(ConfigError::NoDataDirectory);
    }
    let project = ProjectDirs::from("", "", "wwproxy").ok_or(ConfigError::NoDataDirectory)?;
    Ok(project.data_dir().to_owned())
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builtin => "builtin",
            Self::WatsonWork => "watsonwork",
        })
    }
}

fn positive(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .ok()
        .filter(|&count| count > 0 && count <= tokio::sync::Semaphore::MAX_PERMITS)
        .ok_or("it must be a whole number from 1 on")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let config = Config::parse_from(["wwproxy-server", "--store", "memory:"]);
        assert_eq!(config.settings().unwrap(), Settings::default());
        assert_eq!(config.token_lifetime, crate::identity::DEFAULT_TOKEN_LIFETIME);
        let limits = Limits::default();
        assert_eq!(config.max_queued_events as u64, limits.max_pending_events);
        assert_eq!(config.max_queued_bytes.0, limits.max_pending_bytes);
        assert_eq!(config.retention, limits.retention);
        assert_eq!(config.history, limits.history);
        assert_eq!(config.max_history_bytes.0, limits.max_history_bytes);
        assert_eq!(config.consumer_idle_expiry, limits.consumer_idle_expiry);
        assert_eq!(config.dedupe_window, limits.dedupe_window);
    }
}
