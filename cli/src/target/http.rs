//! HTTP clients for targets, as tolerant as curl and browsers are.

use std::time::Duration;

use anyhow::Context as _;
use wwproxy_sdk::{FailureCause, HttpOptions};

use super::address::Address;
use crate::output::print_message;

/// How long a kept connection may be idle: less than Node.js (5 s) and most other servers keep it.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(4);

/// Why a request to a target got no answer, and what to do. `probes`: the target may be asked which protocol it speaks.
pub(crate) async fn explain(
    address: &Address,
    options: &HttpOptions,
    error: &reqwest::Error,
    probes: bool,
) -> String {
    let is_socket = address.socket.is_some();
    let failure = if probes && !is_socket {
        options.explain(error, &address.url).await
    } else {
        options.classify(error, &address.url)
    };
    let advice = match failure.cause() {
        FailureCause::Http2Only => "give --http2",
        _ if is_socket && error.is_connect() => "check the socket's path, and that the app runs",
        _ => failure.advice(),
    };
    format!("{failure}; {advice}")
}

/// How connections to targets differ from those to the server.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Targets")]
pub(crate) struct TargetHttp {
    /// Accept any certificate of a target; `--insecure` is for the server
    #[arg(long)]
    insecure_target: bool,
    /// Speak HTTP/2 to `http://` targets from the start (h2c); with `https://` it is negotiated without this
    #[arg(long)]
    http2: bool,
}

impl TargetHttp {
    /// Warns once of what the flags expose.
    pub(crate) fn warn(self) {
        if self.insecure_target {
            print_message("warning: certificates of targets are not checked (--insecure-target)");
        }
    }

    /// How connections to a target are made, from how those to the server are.
    pub(crate) fn options(self, address: &Address, server: &HttpOptions) -> HttpOptions {
        let options = server.clone().insecure(self.insecure_target);
        // A local target is behind no proxy, whatever the flags say.
        if address.is_local() { options.no_proxy() } else { options }
    }

    /// A client for a target, with its options.
    pub(crate) fn client(self, address: &Address, http: &HttpOptions) -> anyhow::Result<reqwest::Client> {
        self.builder(address, http)?.build().context("cannot set up HTTP")
    }

    /// A client that opens a connection for each request.
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
            // What hand-written servers get wrong: they look for `Content-Length` in this case, and write loose heads.
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
