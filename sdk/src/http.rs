//! How connections are made: whom they trust, which proxy they go through.

use std::{fmt, time::Duration};

use reqwest::{Proxy, Url, redirect};
use rustls::pki_types::CertificateDer;

use crate::{
    Error, ErrorKind,
    tls::{self, Trust},
};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are made: see [`ClientBuilder::http`](crate::ClientBuilder::http).
///
/// By default the system's certificates are trusted, and `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the environment
/// are honoured. With the feature `reqwest`, `client_builder` makes an HTTP client for other servers that connects in the
/// same way.
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

/// Which way connections go.
#[derive(Clone)]
enum Route {
    /// As the environment says.
    Environment,
    /// Straight there.
    Direct,
    /// Through this HTTP proxy.
    Proxy(Url),
}

impl HttpOptions {
    /// The usual choices.
    pub fn new() -> Self {
        Self {
            authorities: Vec::new(),
            insecure: false,
            route: Route::Environment,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Trusts these certificate authorities too, beside the system's and those given before: one or more certificates
    /// as PEM.
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

    /// Accepts any certificate: whoever sits between here and the server can read everything and take its place.
    /// For a first try against a server of one's own; [`ca_certificates`](Self::ca_certificates) is the way to stay.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Sends everything through this proxy, `http://` or `https://`, whatever the environment says. User and password may
    /// stand in the URL, percent-encoded; they are shown nowhere.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: no URL of such a proxy.
    pub fn proxy(mut self, url: &str) -> Result<Self, Error> {
        // Without the cause and the text: what is no URL may hold a password all the same.
        let wrong = || {
            let message =
                "the proxy's address cannot be used; give one such as http://proxy.example.com:3128";
            Error::new(ErrorKind::Usage, message)
        };
        let url = Url::parse(url).map_err(|_| wrong())?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !bare {
            return Err(wrong());
        }
        self.route = Route::Proxy(url);
        Ok(self)
    }

    /// Goes through no proxy, whatever the environment says. This or [`proxy`](Self::proxy): the later call counts.
    pub fn no_proxy(mut self) -> Self {
        self.route = Route::Direct;
        self
    }

    /// How long a connection may take to come up, TLS included: 10 s where not said.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A client that connects in this way, still to be built: rustls with ring, HTTP/1.1 only, redirects never followed.
    /// Where the system has no certificates and none were given, `http://` works and `https://` trusts nobody.
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

    /// The same, which fails where `https://` is `required` and could trust nobody.
    pub(crate) fn builder(&self, required: bool) -> Result<reqwest::ClientBuilder, Error> {
        let trust = if self.insecure { Trust::Anybody } else { Trust::Authorities(&self.authorities) };
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(trust, required)?)
            // A websocket's handshake is HTTP/1.1; the few other requests need no more.
            .http1_only()
            // Secret and token go to where the caller sent them and nowhere else.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true);
        Ok(match &self.route {
            Route::Environment => builder,
            Route::Direct => builder.no_proxy(),
            // The cause is left out: it may show the URL.
            Route::Proxy(url) => builder.proxy(
                Proxy::all(url.clone())
                    .map_err(|_| Error::new(ErrorKind::Usage, "the proxy's address cannot be used"))?,
            ),
        })
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

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Direct => f.write_str("Direct"),
            // Its origin only: there may be a password before it.
            Self::Proxy(url) => write!(f, "Proxy({})", url.origin().ascii_serialization()),
        }
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
    pub(crate) fn client(self, https: bool) -> Result<reqwest::Client, Error> {
        match self {
            Self::Options(options) => options
                .builder(https)?
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| {
                    Error::new(ErrorKind::Usage, "cannot set up HTTP").because(error.without_url())
                }),
            #[cfg(feature = "reqwest")]
            Self::Client(client) => Ok(client),
        }
    }
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
        for bad in [
            "",
            "hunter2",
            "ada:hunter2@h",
            "socks5://u:hunter2@h",
            "http://h/hunter2",
            "http://u:hunter2@",
            "file:///hunter2",
        ] {
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
