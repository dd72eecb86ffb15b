//! The server's own address as a client sees it: configured, or derived from the request.

use std::net::IpAddr;

use warp::http::{HeaderMap, uri::Authority};

use super::{Context, error::ApiError};
use crate::PublicUrl;

const HOST: &str = "host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PORT: &str = "x-forwarded-port";

/// The IP address of the peer of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) IpAddr);

/// The address under which the client of this request reached the server: `--public-url`, otherwise derived from the
/// request. `X-Forwarded-*` is used from trusted proxies only, since any client can send it.
pub(super) fn public_url(
    context: &Context,
    peer: PeerAddress,
    headers: &HeaderMap,
) -> Result<PublicUrl, ApiError> {
    let settings = &context.settings;
    if let Some(url) = &settings.public_url {
        return Ok(url.clone());
    }
    if settings.trusted_proxies.iter().any(|proxy| proxy.contains(peer.0)) {
        return forwarded(headers);
    }
    if [FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT].iter().any(|name| headers.contains_key(*name))
        && let Some(count) = context.untrusted_forwards.add(1)
    {
        tracing::warn!(
            peer = %peer.0, count,
            "X-Forwarded-* headers were ignored: if this peer is your reverse proxy, set --public-url or --trusted-proxy"
        );
    }
    base_url("http", (HOST, single(headers, HOST)?), None)
}

/// The address that a trusted proxy reports. A port in the host is the one that the client used, so it takes precedence over
/// `X-Forwarded-Port`.
fn forwarded(headers: &HeaderMap) -> Result<PublicUrl, ApiError> {
    let scheme = match single(headers, FORWARDED_PROTO)? {
        None => "http",
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(_) => return Err(invalid(FORWARDED_PROTO)),
    };
    let port = single(headers, FORWARDED_PORT)?;
    let port = port.map(|port| port_number(port).ok_or_else(|| invalid(FORWARDED_PORT))).transpose()?;
    let host = match single(headers, FORWARDED_HOST)? {
        Some(host) => (FORWARDED_HOST, Some(host)),
        None => (HOST, single(headers, HOST)?),
    };
    base_url(scheme, host, port)
}

fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| is_number && port > 0)
}

/// Builds the URL from a host and the name of its header. `port` is used if the host has none.
fn base_url(
    scheme: &str,
    (name, host): (&str, Option<&str>),
    port: Option<u16>,
) -> Result<PublicUrl, ApiError> {
    let authority: Authority = host.and_then(|host| host.parse().ok()).ok_or_else(|| invalid(name))?;
    let url = match port {
        Some(port) if authority.port().is_none() => format!("{scheme}://{authority}:{port}"),
        _ => format!("{scheme}://{authority}"),
    };
    url.parse().map_err(|_| invalid(name))
}

/// The value of a header that may occur once. A repeated header or a list is an error, since some of its values may be the
/// client's and not the proxy's.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(value) if !value.contains(',') => Ok(Some(value.trim())),
            _ => Err(invalid(name)),
        },
        (Some(_), Some(_)) => Err(invalid(name)),
    }
}

fn invalid(name: &str) -> ApiError {
    ApiError::bad_request(match name {
        FORWARDED_PROTO => {
            "X-Forwarded-Proto must be http or https, once: have the reverse proxy set it, not append to it."
        }
        FORWARDED_HOST => {
            "X-Forwarded-Host must be one host, with or without a port: have the reverse proxy set it, not append to it."
        }
        FORWARDED_PORT => {
            "X-Forwarded-Port must be one port number: have the reverse proxy set it, not append to it."
        }
        _ => "The Host header must name this server, as in \"Host: proxy.example.com\".",
    })
}
