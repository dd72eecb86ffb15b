//! How connections are made: which certificates they trust, which proxy they go through.

use std::{fmt, time::Duration};

use reqwest::{Proxy, RequestBuilder, Response, Url, redirect};
use rustls::pki_types::CertificateDer;

use crate::{
    Error, ErrorKind,
    failure::Failure,
    proxy::{self, Environment, ProxyServer},
    tls::{self, Trust},
};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are made: see [`ClientBuilder::http`](crate::ClientBuilder::http).
///
/// By default the system's certificates are trusted, and the proxies of the environment are used as curl does: `https_proxy`,
/// `HTTPS_PROXY`, `http_proxy` (in lower case only), `all_proxy`, `ALL_PROXY`, except to the hosts of `no_proxy` and
/// `NO_PROXY` and, unlike curl, to loopback. With the feature `reqwest`, `client_builder` makes an HTTP client for other servers
/// that connects in the same way.
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
    route: Route,
    connect_timeout: Duration,
}

/// Which proxies connections go through.
#[derive(Debug, Clone)]
enum Route {
    /// Through the proxies of the environment.
    Environment,
    /// Through no proxy.
    Direct,
    /// Through this proxy.
    Proxy(ProxyServer),
}

/// Which proxy each connection of a client goes through.
#[derive(Debug, Clone)]
pub(crate) enum Proxies {
    Environment(Environment),
    One(Option<ProxyServer>),
}

impl Route {
    fn proxies(&self) -> Result<Proxies, Error> {
        Ok(match self {
            Self::Environment => Proxies::Environment(Environment::read()?),
            Self::Direct => Proxies::One(None),
            Self::Proxy(proxy) => Proxies::One(Some(proxy.clone())),
        })
    }
}

impl Proxies {
    fn proxy(&self, url: &Url) -> Option<&ProxyServer> {
        match self {
            Self::Environment(environment) => environment.proxy(url),
            Self::One(proxy) => proxy.as_ref(),
        }
    }
}

impl HttpOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            authorities: Vec::new(),
            insecure: false,
            route: Route::Environment,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Trusts these certificates too, in addition to the system's and those given before: one or more as PEM, of authorities or
    /// self-signed ones of servers.
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
    /// [`ErrorKind::Usage`]: there is no certificate in it, or one that cannot be read.
    pub fn ca_certificates(mut self, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.authorities.extend(tls::certificates(pem.as_ref())?);
        Ok(self)
    }

    /// Accepts any certificate: anyone between this machine and the server can read everything and take its place. For a
    /// first try against a server of one's own; use [`ca_certificates`](Self::ca_certificates) otherwise.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Sends everything through this proxy, whatever the environment says: `http://`, `https://`, `socks5://`, `socks5h://`
    /// (which resolves names at the proxy), `socks4://` or `socks4a://`. Without a port it is 1080, or 443 of `https://`, as
    /// in curl. User and password may stand in the URL, percent-encoded; they are shown nowhere.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: no URL of such a proxy.
    pub fn proxy(mut self, url: &str) -> Result<Self, Error> {
        let proxy = ProxyServer::parse(url).ok_or_else(|| {
            let message = format!("the proxy's address cannot be used; {}", proxy::EXAMPLE);
            Error::new(ErrorKind::Usage, message)
        })?;
        self.route = Route::Proxy(proxy);
        Ok(self)
    }

    /// Goes through no proxy, whatever the environment says. This or [`proxy`](Self::proxy): the later call counts.
    pub fn no_proxy(mut self) -> Self {
        self.route = Route::Direct;
        self
    }

    /// How long a connection may take to come up, TLS included: 10 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A client that connects in this way, still to be built: rustls with ring, HTTP/1.1 only, redirects never followed.
    /// Where the system has no certificates and none were given, `http://` works and `https://` trusts no certificate.
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

    /// The same for servers of any kind: over TLS HTTP/2 is negotiated. Not for
    /// [`ClientBuilder::http_client`](crate::ClientBuilder::http_client), as a websocket's handshake is HTTP/1.1.
    ///
    /// # Errors
    /// As for [`client_builder`](Self::client_builder).
    #[cfg(feature = "reqwest")]
    pub fn http2_client_builder(&self) -> Result<reqwest::ClientBuilder, Error> {
        self.builder_of(false, &[tls::HTTP_2, tls::HTTP_1])
    }

    /// The same for HTTP/1.1 only. Fails if `https://` is `required` and there is no certificate to trust.
    pub(crate) fn builder(&self, required: bool) -> Result<reqwest::ClientBuilder, Error> {
        // A websocket's handshake is HTTP/1.1; the few other requests need no more.
        Ok(self.builder_of(required, &[tls::HTTP_1])?.http1_only())
    }

    fn builder_of(&self, required: bool, protocols: &[&[u8]]) -> Result<reqwest::ClientBuilder, Error> {
        let trust = if self.insecure { Trust::Any } else { Trust::Authorities(&self.authorities) };
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(trust, required, protocols)?)
            // Secret and token go to where the caller sent them and nowhere else.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true);
        // Never reqwest's own reading of the environment, which takes `HTTP_PROXY` and knows no loopback.
        let builder = builder.no_proxy();
        Ok(match self.route.proxies()? {
            Proxies::One(None) => builder,
            proxies => {
                builder.proxy(Proxy::custom(move |url| proxies.proxy(url).map(|proxy| proxy.url().clone())))
            }
        })
    }

    /// Why a request of a client of these options to `url` got no answer. Where the other side does not speak HTTP/1.1 this
    /// connects once more to find out what it speaks, for 2 s at most.
    #[cfg(feature = "reqwest")]
    pub async fn explain(&self, error: &reqwest::Error, url: &Url) -> Failure {
        Failure::diagnose(error, url, self.proxy_to(url)).await
    }

    /// The same from the error alone, without another connection.
    #[cfg(feature = "reqwest")]
    #[must_use]
    pub fn classify(&self, error: &reqwest::Error, url: &Url) -> Failure {
        Failure::classify(error, url).with_proxy(self.proxy_to(url))
    }

    #[cfg(feature = "reqwest")]
    fn proxy_to(&self, url: &Url) -> Option<ProxyServer> {
        self.route.proxies().ok().and_then(|proxies| proxies.proxy(url).cloned())
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
            .field("route", &self.route)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// What requests are sent with.
#[derive(Clone)]
pub(crate) enum Connector {
    Options(HttpOptions),
    #[cfg(feature = "reqwest")]
    Client(reqwest::Client),
}

impl Connector {
    /// The client. `https`: the server's address says so.
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
                Ok(Http { client, proxies: options.route.proxies()? })
            }
            // Through which proxies a foreign client goes is not known.
            #[cfg(feature = "reqwest")]
            Self::Client(client) => Ok(Http { client, proxies: Proxies::One(None) }),
        }
    }
}

/// A client that explains its failures.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    proxies: Proxies,
}

impl Http {
    /// Refuses a websocket over `http://` through an HTTP proxy. Such a proxy forwards the request instead of tunnelling it, mostly
    /// without the upgrade, and what the server gets then is a poll, which takes the stored events.
    pub(crate) fn check_websocket(&self, url: &Url) -> Result<(), Error> {
        match self.proxies.proxy(url).filter(|proxy| url.scheme() == "http" && proxy.is_http()) {
            None => Ok(()),
            Some(proxy) => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "a websocket over http:// cannot go through the HTTP proxy {proxy}; \
                     use https://, or name the server in NO_PROXY"
                ),
            )),
        }
    }

    /// Sends a request: its answer, or why there is none.
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

/// A request that could not even be built.
pub(crate) fn unsendable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Usage, "the request cannot be sent").with_source(error.without_url())
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(options) => options.fmt(f),
            #[cfg(feature = "reqwest")]
            // Its own would show the headers that it sends.
            Self::Client(_) => f.write_str("Client"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_credentials() {
        let http = HttpOptions::new().proxy("http://ada:hunter2@gateway.example:3128/").unwrap();
        let shown = format!("{http:?} {:?}", http.builder(false).unwrap());
        assert!(shown.contains("gateway.example:3128"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("ada"), "{shown}");
        for bad in ["", "ftp://u:hunter2@h", "http://h/hunter2", "http://u:hunter2@", "file:///hunter2"] {
            let error = HttpOptions::new().proxy(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(error.source().is_none() && !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn what_holds_no_certificate_is_refused_and_not_shown() {
        let key = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n";
        for bad in ["", "hunter2", key, broken, cut] {
            let error = HttpOptions::new().ca_certificates(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("CA certificate"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVy"), "{shown}");
        }
    }
}
