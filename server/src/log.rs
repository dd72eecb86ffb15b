//! The log on stderr, and the line on stdout that announces the address.

use std::{
    env, io,
    io::{IsTerminal, Write},
    net::SocketAddr,
};

use humantime::format_duration;
use wwproxy_server::{
    Settings,
    config::{Config, Identity, LogFormat, StoreAddress},
};

/// Starts the log on stderr. In JSON, panics are logged, too.
pub(crate) fn start(format: LogFormat, level: tracing::Level) {
    // Logging must not panic if stderr is closed, for example with its terminal.
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            log.json().init();
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task panicked")));
        }
    }
}

/// Whether the command line or the environment asks for JSON. For flags that could not be parsed as a whole.
pub(crate) fn is_json_wanted() -> bool {
    let args: Vec<_> = env::args_os().collect();
    // The commands have no log.
    if args.iter().any(|arg| arg == "app" || arg == "store") {
        return false;
    }
    let last = args.iter().enumerate().rev().find_map(|(n, arg)| match arg.to_str()? {
        "--log" => args.get(n + 1).cloned(),
        arg => arg.strip_prefix("--log=").map(Into::into),
    });
    last.or_else(|| env::var_os("WWPROXY_LOG")).is_some_and(|format| format == "json")
}

/// Prints the only line on stdout: the bound address, which callers need that start the server with port 0.
pub(crate) fn announce(config: &Config, address: SocketAddr, store: &StoreAddress) {
    let (url, identity) = (format!("http://{address}"), config.identity);
    let line = match config.log {
        LogFormat::Text => format!("listening on {url}, store {store}, identity {identity}"),
        LogFormat::Json => serde_json::json!({
            "listening": url,
            "store": store.to_string(),
            "identity": identity.to_string(),
        })
        .to_string(),
    };
    // The server also works if stdout is closed.
    let _ = print_line(&line);
}

/// Prints a line on stdout.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Logs the settings. None of them is a secret.
pub(crate) fn log_start(config: &Config, settings: &Settings, address: SocketAddr, store: &StoreAddress) {
    let apps = config.apps().ok().filter(|_| config.identity == Identity::Builtin);
    let watson_work = config.identity == Identity::WatsonWork;
    let restricted = watson_work && !config.allowed_apps.is_empty();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        public_url = config.public_url.as_ref().map(tracing::field::display),
        %store,
        identity = %config.identity,
        apps_file = apps.as_ref().map(|apps| tracing::field::display(apps.path().display())),
        apps = apps.as_ref().and_then(|apps| apps.list().ok()).map(|apps| apps.len()),
        platform_url = watson_work.then_some(&config.platform_url),
        allowed_apps = restricted.then(|| list(&config.allowed_apps)),
        trusted_proxies = (!config.trusted_proxy.is_empty()).then(|| list(&config.trusted_proxy)),
        "started"
    );
    for network in config.trusted_proxy.iter().filter(|network| network.is_everyone()) {
        tracing::warn!(
            %network,
            "every peer is a trusted proxy, so any client can forge X-Forwarded-* headers: give the addresses of the reverse \
             proxies with --trusted-proxy"
        );
    }
    if settings.allow_unverified {
        tracing::warn!(
            "sources of the scheme none accept any request without verification: start without --allow-unverified if no app \
             needs them"
        );
    }
    if config.history > config.retention {
        tracing::warn!(
            history = %format_duration(config.history),
            retention = %format_duration(config.retention),
            "--history is longer than --retention, which removes acknowledged events as well: the retention counts"
        );
    }
    tracing::info!(
        max_body = config.max_body.0,
        max_buffered_bytes = config.max_buffered_bytes.0,
        max_connections = settings.max_connections,
        max_clients_per_app = settings.max_clients_per_app,
        max_queued_events = config.max_queued_events,
        max_queued_bytes = config.max_queued_bytes.0,
        overflow = %config.overflow,
        retention = %format_duration(config.retention),
        history = %format_duration(config.history),
        max_history_bytes = config.max_history_bytes.0,
        consumer_idle_expiry = %format_duration(config.consumer_idle_expiry),
        dedupe_window = %format_duration(config.dedupe_window),
        lease = %format_duration(config.lease),
        token_lifetime = %format_duration(config.token_lifetime),
        shutdown_grace = %format_duration(config.shutdown_grace),
        "limits"
    );
}

fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
