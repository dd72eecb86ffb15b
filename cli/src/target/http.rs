//! HTTP clients for targets, as tolerant as curl and browsers are.

use std::time::Duration;

use anyhow::Context as _;
use wwproxy_sdk::{FailureCause, HttpOptions};

use super::address::Address;
use crate::output::print_message;

/// How long a pooled connection may be idle: less than the keep-alive timeout of Node.js (5 s) and most other servers.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(4);

/// Describes why a request to a target got no response, with advice. `probes`: the protocol of the target may be probed.
/// `flags`: those of a target that has never answered, as one of them may be missing or wrong.
pub(crate) async fn explain(
    address: &Address,
    options: &HttpOptions,
    error: &reqwest::Error,
    probes: bool,
    flags: Option<TargetHttp>,
) -> String {
    let is_socket = address.socket.is_some();
    let failure = if probes && !is_socket {
        options.explain(error, &address.url).await
    } else {
        options.classify(error, &address.url)
    };
    let advice = match failure.cause() {
        FailureCause::Http2Only => "give --http2",
        FailureCause::Broken | FailureCause::NotHttp if flags.is_some_and(|flags| flags.http2) => {
            return "it does not answer in HTTP/2; leave out --http2".into();
        }
        FailureCause::Untrusted if flags.is_some() => {
            "check the address, or give its certificate or that of its authority (--ca-cert); --insecure-target accepts any"
        }
        _ if is_socket && error.is_connect() => "check the socket's path, and that the app runs",
        _ => failure.advice(),
    };
    format!("{failure}; {advice}")
}

/// The flags for connections to targets.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Targets")]
pub(crate) struct TargetHttp {
    /// Accept any certificate of a target; `--insecure` applies to the server
    #[arg(long)]
    insecure_target: bool,
    /// Use HTTP/2 without negotiation for `http://` targets (h2c); for `https://` it is always negotiated
    #[arg(long)]
    http2: bool,
}

impl TargetHttp {
    /// Warns if certificates are not checked.
    pub(crate) fn warn(self) {
        if self.insecure_target {
            print_message("warning: certificates of targets are not checked (--insecure-target)");
        }
    }

    /// The HTTP options for a target, from those for the server.
    pub(crate) fn options(self, address: &Address, server: &HttpOptions) -> HttpOptions {
        let options = server.clone().insecure(self.insecure_target);
        // A local target is never reached through a proxy.
        if address.is_local() { options.no_proxy() } else { options }
    }

    /// Builds a client for a target.
    pub(crate) fn client(self, address: &Address, http: &HttpOptions) -> anyhow::Result<reqwest::Client> {
        self.builder(address, http)?.build().context("cannot set up HTTP")
    }

    /// Builds a client that opens a connection for each request.
    pub(super) fn unpooled_client(
        self,
        address: &Address,
        http: &HttpOptions,
    ) -> anyhow::Result<reqwest::Client> {
        self.builder(address, http)?.pool_max_idle_per_host(0).build().context("cannot set up HTTP")
    }

    fn builder(self, address: &Address, http: &HttpOptions) -> anyhow::Result<reqwest::ClientBuilder> {
        let mut builder = http
            .http2_client_builder()?
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(MAX_IDLE)
            // Hand-written servers look for `Content-Length` in this case, and write invalid heads.
            .http1_title_case_headers()
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true);
        if self.http2 && address.url.scheme() == "http" {
            builder = builder.http2_prior_knowledge();
        }
        if let Some((host, addresses)) = address.loopback() {
            builder = builder.resolve_to_addrs(host, &addresses);
        }
        #[cfg(unix)]
        if let Some(socket) = &address.socket {
            builder = builder.unix_socket(socket.as_path());
        }
        Ok(builder)
    }
}
