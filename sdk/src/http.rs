//! The HTTP client: TLS, proxies, and explained failures.

use std::{fmt, time::Duration};

use reqwest::{Proxy, RequestBuilder, Response, Url, redirect};
use rustls::pki_types::CertificateDer;

use crate::{
    Error, ErrorKind,
    failure::Failure,
    proxy::{self, EnvironmentProxies, ProxyServer},
    tls::{self, Trust},
};

/// The default of [`HttpOptions::connect_timeout`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS and proxy options of connections: see [`ClientBuilder::http`](crate::ClientBuilder::http).
///
/// By default the system's certificates are trusted, and the proxies of the environment are used as in curl: `https_proxy`,
/// `HTTPS_PROXY`, `http_proxy` (in lower case only), `all_proxy`, `ALL_PROXY`, except to the hosts of `no_proxy` and
/// `NO_PROXY` and, unlike curl, to loopback. With the feature `reqwest`, `client_builder` builds an HTTP client for other servers
/// with the same options.
///
/// ```
/// use wwproxy_sdk::{Client, HttpOptions};
///
/// let http = HttpOptions::new().proxy("http://user:password@gateway.example.com:3128")?;
/// assert!(!format!("{http:?}").contains("password"));
/// let client = Client::builder("https://proxy.example.com").app_id("my.bot").token("…").http(http).build()?;
/// # let _ = client;
/// # Ok::<(), wwproxy_sdk::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct HttpOptions {
    authorities: Vec<CertificateDer<'static>>,
    insecure: bool,
    proxy: ProxyChoice,
    connect_timeout: Duration,
}

/// The configured proxy.
#[derive(Debug, Clone)]
enum ProxyChoice {
    /// The proxies of the environment.
    Environment,
    /// No proxy.
    None,
    /// This proxy.
    One(ProxyServer),
}

/// The proxies of a client, by URL.
#[derive(Debug, Clone)]
pub(crate) enum Proxies {
    Environment(EnvironmentProxies),
    Fixed(Option<ProxyServer>),
}

impl ProxyChoice {
    fn resolve(&self) -> Result<Proxies, Error> {
        Ok(match self {
            Self::Environment => Proxies::Environment(EnvironmentProxies::read()?),
            Self::None => Proxies::Fixed(None),
            Self::One(proxy) => Proxies::Fixed(Some(proxy.clone())),
        })
    }
}

impl Proxies {
    fn proxy(&self, url: &Url) -> Option<&ProxyServer> {
        match self {
            Self::Environment(environment) => environment.proxy(url),
            Self::Fixed(proxy) => proxy.as_ref(),
        }
    }
}

impl HttpOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            authorities: Vec::new(),
            insecure: false,
            proxy: ProxyChoice::Environment,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Trusts these certificates in addition to the system's and those of earlier calls: one or more in PEM format, of certificate
    /// authorities, or self-signed certificates of servers.
    ///
    /// ```no_run
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let http = wwproxy_sdk::HttpOptions::new().ca_certificates(std::fs::read("company-ca.pem")?)?;
    /// # let _ = http;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: there is no certificate in the text, or an unreadable one.
    pub fn ca_certificates(mut self, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.authorities.extend(tls::certificates(pem.as_ref())?);
        Ok(self)
    }

    /// Accepts any certificate. Connections can then be intercepted by a man in the middle. Only for tests; otherwise use
    /// [`ca_certificates`](Self::ca_certificates).
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Uses this proxy instead of those of the environment: `http://`, `https://`, `socks5://`, `socks5h://`
    /// (which resolves names at the proxy), `socks4://` or `socks4a://`. The default port is 1080, or 443 for `https://`, as
    /// in curl. The URL may contain a percent-encoded user and password, which are never shown.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: not the URL of such a proxy.
    pub fn proxy(mut self, url: &str) -> Result<Self, Error> {
        let proxy = ProxyServer::parse(url).ok_or_else(|| {
            let message = format!("the proxy's address is invalid; {}", proxy::EXAMPLE);
            Error::new(ErrorKind::Usage, message)
        })?;
        self.proxy = ProxyChoice::One(proxy);
        Ok(self)
    }

    /// Uses no proxy, not even those of the environment. Replaces [`proxy`](Self::proxy); the last call wins.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::None;
        self
    }

    /// The timeout for opening a connection, TLS handshake included: 10 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Returns a builder of a client with these options: rustls with ring, HTTP/1.1 only, redirects not followed.
    /// If there are no trusted certificates, `http://` works and `https://` trusts no certificate.
    ///
    /// ```
    /// let http = wwproxy_sdk::HttpOptions::new().no_proxy();
    /// let client = http.client_builder()?.build().expect("the options were checked");
    /// # let _ = client;
    /// # Ok::<(), wwproxy_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: TLS or the proxy cannot be set up.
    #[cfg(feature = "reqwest")]
    pub fn client_builder(&self) -> Result<reqwest::ClientBuilder, Error> {
        self.builder(false)
    }

    /// Like [`client_builder`](Self::client_builder), but negotiates HTTP/2 over TLS. Not for
    /// [`ClientBuilder::http_client`](crate::ClientBuilder::http_client), because the websocket handshake requires HTTP/1.1.
    ///
    /// # Errors
    /// As for [`client_builder`](Self::client_builder).
    #[cfg(feature = "reqwest")]
    pub fn http2_client_builder(&self) -> Result<reqwest::ClientBuilder, Error> {
        self.builder_with_alpn(false, &[tls::HTTP_2, tls::HTTP_1])
    }

    /// Returns a builder for HTTP/1.1. Fails if `https` is set and there is no trusted certificate.
    fn builder(&self, https: bool) -> Result<reqwest::ClientBuilder, Error> {
        // The websocket handshake requires HTTP/1.1.
        Ok(self.builder_with_alpn(https, &[tls::HTTP_1])?.http1_only())
    }

    fn builder_with_alpn(&self, https: bool, protocols: &[&[u8]]) -> Result<reqwest::ClientBuilder, Error> {
        let trust = if self.insecure { Trust::Any } else { Trust::Authorities(&self.authorities) };
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(trust, https, protocols)?)
            // A redirect would send secret and token to another server.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true);
        // Disables the environment proxies of reqwest, which reads `HTTP_PROXY` and does not exempt loopback.
        let builder = builder.no_proxy();
        Ok(match self.proxy.resolve()? {
            Proxies::Fixed(None) => builder,
            proxies => {
                builder.proxy(Proxy::custom(move |url| proxies.proxy(url).map(|proxy| proxy.url().clone())))
            }
        })
    }

    /// Explains why a request to `url` got no response. `error` is of a client with these options. If the peer does not speak
    /// HTTP/1.1, this probes its protocol with another connection, for at most 2 s.
    #[cfg(feature = "reqwest")]
    pub async fn explain(&self, error: &reqwest::Error, url: &Url) -> Failure {
        Failure::diagnose(error, url, self.proxy_for(url)).await
    }

    /// Like [`explain`](Self::explain), but without a probe.
    #[cfg(feature = "reqwest")]
    #[must_use]
    pub fn classify(&self, error: &reqwest::Error, url: &Url) -> Failure {
        Failure::classify(error, url).with_proxy(self.proxy_for(url))
    }

    #[cfg(feature = "reqwest")]
    fn proxy_for(&self, url: &Url) -> Option<ProxyServer> {
        self.proxy.resolve().ok().and_then(|proxies| proxies.proxy(url).cloned())
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("ca_certificates", &self.authorities.len())
            .field("insecure", &self.insecure)
            .field("proxy", &self.proxy)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// The configured HTTP client: options to build it, or the caller's own.
#[derive(Clone)]
pub(crate) enum Connector {
    Options(HttpOptions),
    #[cfg(feature = "reqwest")]
    Client(reqwest::Client),
}

impl Connector {
    /// Builds the client. `https` is whether the server's address is `https://`.
    pub(crate) fn client(self, https: bool) -> Result<Http, Error> {
        match self {
            Self::Options(options) => {
                let client = options
                    .builder(https)?
                    .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                    .build()
                    .map_err(|error| {
                        Error::new(ErrorKind::Usage, "cannot set up HTTP").with_source(error.without_url())
                    })?;
                Ok(Http { client, proxies: options.proxy.resolve()? })
            }
            // The proxies of the caller's client are unknown.
            #[cfg(feature = "reqwest")]
            Self::Client(client) => Ok(Http { client, proxies: Proxies::Fixed(None) }),
        }
    }
}

/// An HTTP client that explains its failures.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    proxies: Proxies,
}

impl Http {
    /// Rejects a websocket over `http://` through an HTTP proxy. Such a proxy forwards the request instead of tunnelling it, usually
    /// without the upgrade, so that the server would handle a poll, which deletes the stored events.
    pub(crate) fn check_websocket(&self, url: &Url) -> Result<(), Error> {
        match self.proxies.proxy(url).filter(|proxy| url.scheme() == "http" && proxy.is_http()) {
            None => Ok(()),
            Some(proxy) => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "a websocket over http:// cannot go through the HTTP proxy {proxy}; \
                     use https://, or add the server to NO_PROXY"
                ),
            )),
        }
    }

    /// Sends a request. An error explains why there is no response.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let (client, request) = request.build_split();
        let request = request.map_err(unsendable)?;
        let url = request.url().clone();
        match client.execute(request).await {
            Ok(response) => Ok(response),
            Err(error) => {
                let failure = Failure::diagnose(&error, &url, self.proxies.proxy(&url).cloned()).await;
                Err(failure.into_error(error, &url))
            }
        }
    }
}

/// The error for a request that cannot be built.
pub(crate) fn unsendable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Usage, "the request cannot be sent").with_source(error.without_url())
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(options) => options.fmt(f),
            #[cfg(feature = "reqwest")]
            // Its `Debug` would show default headers.
            Self::Client(_) => f.write_str("Client"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn debug_redacts_the_credentials_of_a_proxy() {
        let http = HttpOptions::new().proxy("http://ada:hunter2@gateway.example:3128/").unwrap();
        let shown = format!("{http:?} {:?}", http.builder(false).unwrap());
        assert!(shown.contains("gateway.example:3128"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("ada"), "{shown}");
        for invalid in ["", "ftp://u:hunter2@h", "http://h/hunter2", "http://u:hunter2@", "file:///hunter2"] {
            let error = HttpOptions::new().proxy(invalid).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{invalid}");
            assert!(error.source().is_none() && !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_invalid_certificate_is_rejected_and_not_shown() {
        let key = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n";
        for invalid in ["", "hunter2", key, broken, cut] {
            let error = HttpOptions::new().ca_certificates(invalid).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{invalid}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("CA certificate"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVy"), "{shown}");
        }
    }
}
