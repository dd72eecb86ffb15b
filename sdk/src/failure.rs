//! Why a request got no answer.

use std::{error::Error as StdError, fmt, io, iter, time::Duration};

use reqwest::Url;
use rustls::{AlertDescription, CertificateError, pki_types::UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{error::harmless, proxy::ProxyServer, tls};

/// How long the question which protocol a port speaks may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many names of a certificate are shown.
const MAX_SHOWN_NAMES: usize = 4;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Why a request got no answer, or not all of it: for the clients of reqwest that `HttpOptions` makes, its method `explain`
/// finds out (feature `reqwest`).
///
/// `Display` says what happened, and through which proxy; [`advice`](Self::advice) what to do. Neither names the server.
#[derive(Debug, Clone)]
pub struct Failure {
    cause: FailureCause,
    proxy: Option<ProxyServer>,
}

/// What a [`Failure`] comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureCause {
    /// The connection was refused: no process listens at the port.
    Refused,
    /// The host's name has no address, or the name server does not answer: the resolver's words.
    UnknownHost(String),
    /// There was no connection in time.
    ConnectTimeout,
    /// There was no answer in time.
    Timeout,
    /// The network is down or has no route: the system's words.
    Network(String),
    /// The certificate, or the authority that issued it, is not trusted.
    Untrusted,
    /// The certificate has expired, so many days ago.
    Expired(u64),
    /// The certificate is not valid yet; mostly a clock is wrong.
    NotYetValid,
    /// The certificate is for these other names.
    WrongName(Vec<String>),
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
    /// There is no connection to the proxy.
    ProxyUnreachable,
    /// The proxy wants other credentials.
    ProxyCredentials,
    /// The proxy refused to connect to the server.
    ProxyRefused,
    /// The connection was closed or reset before the answer was complete.
    Broken,
}

impl Failure {
    /// The failure of a request to `url`, through `proxy`. Finds out which protocol a port speaks that does not answer in HTTP/1.1.
    pub(crate) async fn explain(error: &reqwest::Error, url: &Url, proxy: Option<ProxyServer>) -> Self {
        let mut failure = Self::of(error, url);
        if matches!(failure.cause, FailureCause::NotHttp | FailureCause::Broken)
            && proxy.is_none()
            && url.scheme() == "http"
            && let Ok(Some(cause)) = timeout(PROBE_TIMEOUT, probe(url)).await
        {
            failure.cause = cause;
        }
        failure.through(proxy)
    }

    /// The failure of a request that went through this proxy.
    pub(crate) fn through(self, proxy: Option<ProxyServer>) -> Self {
        Self { proxy, ..self }
    }

    /// What the error says by itself.
    pub(crate) fn of(error: &reqwest::Error, url: &Url) -> Self {
        Self { cause: FailureCause::of(error, url), proxy: None }
    }

    /// What it comes from.
    #[must_use]
    pub fn cause(&self) -> &FailureCause {
        &self.cause
    }

    /// Whether the other side's certificate was refused: no retry helps, and nothing was sent.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        matches!(self.cause, FailureCause::Untrusted | FailureCause::Expired(_) | FailureCause::WrongName(_))
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match &self.cause {
            FailureCause::ProxyUnreachable => "check the proxy's address",
            FailureCause::Refused if self.proxy.is_some() => "check the proxy's address",
            FailureCause::Refused => "check the port, and that the server runs",
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        self.proxy.as_ref().map_or(Ok(()), |proxy| write!(f, " (proxy {proxy})"))
    }
}

impl FailureCause {
    fn of(error: &reqwest::Error, url: &Url) -> Self {
        if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref()) {
            return Self::of_tls(error);
        }
        let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return Self::Refused;
        }
        // The types of these are private to hyper-util: only their words are public.
        let words: Vec<String> = causes(error).map(ToString::to_string).collect();
        let says = |text: &str| words.iter().position(|words| words.starts_with(text));
        if let Some(at) = says("dns error") {
            return Self::UnknownHost(words.get(at + 1).map_or_else(String::new, |words| harmless(words)));
        }
        if says("tunnel error: proxy authorization required").is_some() {
            return Self::ProxyCredentials;
        }
        if says("SOCKS error: failed to create underlying connection").is_some() {
            return Self::ProxyUnreachable;
        }
        if says("tunnel error: unsuccessful").is_some() || says("SOCKS error").is_some() {
            return Self::ProxyRefused;
        }
        if error.is_timeout() {
            return if error.is_connect() { Self::ConnectTimeout } else { Self::Timeout };
        }
        if causes(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) {
            return Self::NotHttp;
        }
        match io {
            Some(io) if error.is_connect() && url.scheme() == "https" && is_cut(io) => Self::Handshake,
            Some(io) if error.is_connect() && !is_cut(io) => Self::Network(harmless(&io.to_string())),
            _ if error.is_connect() => Self::Network("no connection".into()),
            _ => Self::Broken,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
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
            Self::UnknownHost(words) => return write!(f, "no such host ({words})"),
            Self::ConnectTimeout => "no connection in time",
            Self::Timeout => "no answer in time",
            Self::Network(words) => return f.write_str(words),
            Self::Untrusted => "its certificate is not trusted",
            Self::Expired(days) => return write!(f, "its certificate expired {days} days ago"),
            Self::NotYetValid => "its certificate is not valid yet",
            Self::WrongName(names) if names.is_empty() => "its certificate is for another name",
            Self::WrongName(names) => {
                return write!(f, "its certificate is for another name ({})", names.join(", "));
            }
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

/// The error and what caused it, one by one.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    iter::successors(error.source(), |&cause| match cause.downcast_ref::<io::Error>() {
        // As a source it would give the causes of what it wraps, and leave that out itself.
        Some(error) => error.get_ref().map(|inner| inner as _),
        None => cause.source(),
    })
}

fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn days(from: UnixTime, to: UnixTime) -> u64 {
    to.as_secs().saturating_sub(from.as_secs()) / DAY_SECONDS
}

/// A name as the certificate has it, of `DnsName("proxy.example")` and the like.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
    harmless(inner.trim_matches('"'))
}

/// Which protocol the port of an `http://` URL speaks, since it gave no answer in HTTP/1.1: its first bytes after the greeting
/// of a TLS client. A server of HTTP/2 sends its SETTINGS before it looks at the greeting.
async fn probe(url: &Url) -> Option<FailureCause> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((host, url.port_or_known_default()?)).await.ok()?;
    stream.write_all(&tls::client_hello()?).await.ok()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.ok()?;
    match answer {
        // A handshake message or an alert of TLS: content type 22 or 21, version 3.x.
        [21 | 22, 3, ..] => Some(FailureCause::TlsRequired),
        // A frame of HTTP/2 that is SETTINGS, with which a server must begin (RFC 9113, section 3.4).
        [0, _, _, 4] => Some(FailureCause::Http2Only),
        _ => None,
    }
}
