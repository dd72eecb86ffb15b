//! Why an HTTP request got no response.

use std::{error::Error as StdError, fmt, io, iter, time::Duration};

use reqwest::Url;
use rustls::{AlertDescription, CertificateError, pki_types::UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{Error, ErrorKind, error::sanitize, proxy::ProxyServer, tls};

/// The timeout of the probe that finds out which protocol a port speaks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most names of a certificate that are shown.
const MAX_SHOWN_NAMES: usize = 4;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Why an HTTP request got no response, or an incomplete one. With the feature `reqwest`, `HttpOptions::explain` returns it for
/// errors of clients that `HttpOptions` builds.
///
/// `Display` says what happened and through which proxy, [`advice`](Self::advice) what to do. Neither names the server.
#[derive(Debug, Clone)]
pub struct Failure {
    cause: FailureCause,
    proxy: Option<ProxyServer>,
}

/// The cause of a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureCause {
    /// The connection was refused: no process listens on the port.
    Refused,
    /// The host name does not resolve: the resolver's message.
    UnknownHost(String),
    /// The connect timeout has passed.
    ConnectTimeout,
    /// The request timeout has passed.
    Timeout,
    /// The network is down or has no route: the system's message.
    Network(String),
    /// The certificate, or the authority that issued it, is not trusted.
    Untrusted,
    /// The certificate expired this number of days ago.
    Expired(u64),
    /// The certificate is not valid yet. Usually a clock is wrong.
    NotYetValid,
    /// The certificate is for these other names.
    WrongName(Vec<String>),
    /// The certificate has no `subjectAltName`, and so no name. The common name of its subject does not count.
    NoName,
    /// `https://` to a port that does not speak TLS.
    NotTls,
    /// The TLS handshake failed for another reason.
    Handshake,
    /// `http://` to a port that speaks TLS.
    TlsRequired,
    /// The port speaks HTTP/2 only.
    Http2Only,
    /// The port speaks something other than HTTP.
    NotHttp,
    /// The proxy cannot be reached.
    ProxyUnreachable,
    /// The proxy requires other credentials.
    ProxyCredentials,
    /// The proxy refused to connect to the server.
    ProxyRefused,
    /// The connection was closed or reset before the response was complete.
    Broken,
}

impl Failure {
    /// Classifies the error of a request to `url` through `proxy`. Probes a port that does not speak HTTP/1.1 for its protocol.
    pub(crate) async fn diagnose(error: &reqwest::Error, url: &Url, proxy: Option<ProxyServer>) -> Self {
        let mut failure = Self::classify(error, url);
        if matches!(failure.cause, FailureCause::NotHttp | FailureCause::Broken)
            && proxy.is_none()
            && url.scheme() == "http"
            && let Ok(Some(cause)) = timeout(PROBE_TIMEOUT, probe(url)).await
        {
            failure.cause = cause;
        }
        failure.with_proxy(proxy)
    }

    /// Adds the proxy that the request went through.
    pub(crate) fn with_proxy(self, proxy: Option<ProxyServer>) -> Self {
        Self { proxy, ..self }
    }

    /// Classifies the error without a probe.
    pub(crate) fn classify(error: &reqwest::Error, url: &Url) -> Self {
        Self { cause: FailureCause::classify(error, url), proxy: None }
    }

    /// Converts the failure of a request to `url`.
    pub(crate) fn into_error(self, error: reqwest::Error, url: &Url) -> Error {
        let kind = if self.is_untrusted() { ErrorKind::Untrusted } else { ErrorKind::Unreachable };
        // Path and query may contain secrets of the server: only the origin is shown.
        let origin = url.origin().ascii_serialization();
        let message = format!("no answer from {origin}: {self}; {}", self.advice());
        let has_debug_text = causes(&error).any(|cause| {
            matches!(
                cause.downcast_ref(),
                Some(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
            )
        });
        let described = Error::new(kind, message);
        // rustls shows such an error as Rust debug output.
        if has_debug_text { described } else { described.with_source(error.without_url()) }
    }

    /// The cause.
    #[must_use]
    pub fn cause(&self) -> &FailureCause {
        &self.cause
    }

    /// Whether the peer's certificate was rejected: a retry does not help, and nothing was sent.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        matches!(
            self.cause,
            FailureCause::Untrusted
                | FailureCause::Expired(_)
                | FailureCause::WrongName(_)
                | FailureCause::NoName
        )
    }

    /// What to do about the failure.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match &self.cause {
            FailureCause::ProxyUnreachable => "check the proxy's address",
            FailureCause::Refused if self.proxy.is_some() => "check the proxy's address",
            FailureCause::Refused => "check the port, and that a server listens on it",
            FailureCause::UnknownHost(_) => "check the name and the network's DNS",
            FailureCause::ConnectTimeout => "check the address, the network and its firewall",
            FailureCause::Timeout | FailureCause::Network(_) => "check the address and the network",
            FailureCause::Untrusted => {
                "check the address, or give this certificate or that of its authority (--ca-cert, ca_certificates)"
            }
            FailureCause::Expired(_) => {
                "the server's operator has to renew it, unless this machine's clock is wrong"
            }
            FailureCause::NotYetValid => "check this machine's clock",
            FailureCause::WrongName(_) => "use a name that is in it, or have one made for this name",
            FailureCause::NoName => {
                "make one that has it, with openssl: -addext subjectAltName=DNS:NAME (or IP:ADDRESS)"
            }
            FailureCause::NotTls => "use http:// for this port, or the port that speaks TLS",
            FailureCause::Handshake => "check that the port speaks TLS 1.2 or newer",
            FailureCause::TlsRequired => "use https://",
            FailureCause::Http2Only => "enable HTTP/1.1 there, or use a port that speaks it",
            FailureCause::NotHttp => "check the port",
            FailureCause::ProxyCredentials => "give user and password in the proxy's address",
            FailureCause::ProxyRefused => "check the address, and what the proxy allows",
            FailureCause::Broken => "try again",
        }
    }
}

/// Classifies the error of a request to `url`, without a probe, and converts it.
pub(crate) fn transport_error(error: reqwest::Error, url: &Url) -> Error {
    Failure::classify(&error, url).into_error(error, url)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        self.proxy.as_ref().map_or(Ok(()), |proxy| write!(f, " (proxy {proxy})"))
    }
}

impl FailureCause {
    fn classify(error: &reqwest::Error, url: &Url) -> Self {
        if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref()) {
            return Self::classify_tls(error);
        }
        let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return Self::Refused;
        }
        // hyper-util's error types are private, only their messages are not.
        let messages: Vec<String> = causes(error).map(ToString::to_string).collect();
        let find = |prefix: &str| messages.iter().position(|message| message.starts_with(prefix));
        if let Some(at) = find("dns error") {
            return Self::UnknownHost(messages.get(at + 1).map_or_else(String::new, |cause| sanitize(cause)));
        }
        if find("tunnel error: proxy authorization required").is_some() {
            return Self::ProxyCredentials;
        }
        if find("SOCKS error: failed to create underlying connection").is_some() {
            return Self::ProxyUnreachable;
        }
        if find("tunnel error: unsuccessful").is_some() || find("SOCKS error").is_some() {
            return Self::ProxyRefused;
        }
        if error.is_timeout() {
            return if error.is_connect() { Self::ConnectTimeout } else { Self::Timeout };
        }
        if causes(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) {
            return Self::NotHttp;
        }
        match io {
            Some(io) if error.is_connect() && url.scheme() == "https" && is_broken(io) => Self::Handshake,
            Some(io) if error.is_connect() && !is_broken(io) => Self::Network(sanitize(&io.to_string())),
            _ if error.is_connect() => Self::Network("no connection".into()),
            _ => Self::Broken,
        }
    }

    fn classify_tls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(error) = error else {
            return match error {
                rustls::Error::InvalidMessage(_) => Self::NotTls,
                rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
                | rustls::Error::NoApplicationProtocol => Self::Http2Only,
                _ => Self::Handshake,
            };
        };
        match error {
            CertificateError::Expired => Self::Expired(0),
            CertificateError::ExpiredContext { time, not_after } => Self::Expired(days(*not_after, *time)),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName => Self::WrongName(Vec::new()),
            CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                Self::NoName
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName(presented.iter().take(MAX_SHOWN_NAMES).map(|name| plain_name(name)).collect())
            }
            _ => Self::Untrusted,
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::UnknownHost(message) => return write!(f, "no such host ({message})"),
            Self::ConnectTimeout => "no connection in time",
            Self::Timeout => "no answer in time",
            Self::Network(message) => return f.write_str(message),
            Self::Untrusted => "its certificate is not trusted",
            Self::Expired(days) => return write!(f, "its certificate expired {days} days ago"),
            Self::NotYetValid => "its certificate is not valid yet",
            Self::WrongName(names) if names.is_empty() => "its certificate is for another name",
            Self::WrongName(names) => {
                return write!(f, "its certificate is for another name ({})", names.join(", "));
            }
            Self::NoName => "its certificate has no subjectAltName",
            Self::NotTls => "the port does not speak TLS",
            Self::Handshake => "the TLS handshake failed",
            Self::TlsRequired => "the port speaks TLS",
            Self::Http2Only => "the port speaks HTTP/2 only",
            Self::NotHttp => "the port does not speak HTTP/1.1",
            Self::ProxyUnreachable => "the proxy cannot be reached",
            Self::ProxyCredentials => "the proxy asks for credentials",
            Self::ProxyRefused => "the proxy refused the connection",
            Self::Broken => "the connection broke",
        })
    }
}

/// Iterates over the sources of the error.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    iter::successors(error.source(), |&cause| match cause.downcast_ref::<io::Error>() {
        // `source` of an `io::Error` skips the error that it wraps.
        Some(error) => error.get_ref().map(|inner| inner as _),
        None => cause.source(),
    })
}

fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn days(from: UnixTime, to: UnixTime) -> u64 {
    to.as_secs().saturating_sub(from.as_secs()) / DAY_SECONDS
}

/// Strips the type from a name such as `DnsName("proxy.example")`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
    sanitize(inner.trim_matches('"'))
}

/// Finds out which protocol the port of an `http://` URL speaks if not HTTP/1.1: sends a TLS `ClientHello` and reads the first bytes
/// of the response. An HTTP/2 server sends its SETTINGS before it reads.
async fn probe(url: &Url) -> Option<FailureCause> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((host, url.port_or_known_default()?)).await.ok()?;
    stream.write_all(&tls::client_hello()?).await.ok()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.ok()?;
    match answer {
        // A TLS record: content type handshake (22) or alert (21), version 3.x.
        [21 | 22, 3, ..] => Some(FailureCause::TlsRequired),
        // An HTTP/2 SETTINGS frame, the first that a server must send (RFC 9113, section 3.4).
        [0, _, _, 4] => Some(FailureCause::Http2Only),
        _ => None,
    }
}
