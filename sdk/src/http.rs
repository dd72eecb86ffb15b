//! How connections are made: whom to trust, and through which proxy.

use std::{fmt, time::Duration};

use reqwest::{Url, redirect};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use wwproxy_protocol::Secret;

use crate::{Error, ErrorKind, tls};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are made, here and in programs that want theirs made the same way.
///
/// TLS is rustls with ring and the system's certificates; `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured; it is
/// HTTP/1.1 only, since a websocket's handshake is, and redirects are never followed, so that secrets go where they were
/// sent and nowhere else.
///
/// ```
/// use wwproxy_sdk::{Client, HttpOptions};
///
/// let http = HttpOptions::new().proxy("http://proxy.intranet:3128")?;
/// let client = Client::builder("https://proxy.example.com").app_id("my.bot").token("…").http(http).build()?;
/// # let _ = client;
/// # Ok::<(), wwproxy_sdk::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct HttpOptions {
    ca_certificates: Vec<CertificateDer<'static>>,
    insecure: bool,
    proxy: Proxy,
    connect_timeout: Duration,
}

#[derive(Clone)]
enum Proxy {
    Environment,
    None,
    /// May hold credentials.
    Given(Secret),
}

impl HttpOptions {
    /// The usual choices.
    pub fn new() -> Self {
        Self {
            ca_certificates: Vec::new(),
            insecure: false,
            proxy: Proxy::Environment,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Trusts these certificates, one or more in PEM, beside the system's.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: there is none in it, or one that cannot be read.
    pub fn ca_certificates(mut self, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let message = "the CA file holds no certificate; give one in PEM, with BEGIN CERTIFICATE";
        let unusable = || Error::new(ErrorKind::Usage, message);
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_ref()).collect();
        let found = found.map_err(|error| unusable().because(error))?;
        if found.is_empty() {
            return Err(unusable());
        }
        self.ca_certificates.extend(found);
        Ok(self)
    }

    /// Accepts any certificate, so that whoever sits in between reads everything, the app's secret too. For tests only.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Goes through this proxy, whatever the environment says. Its URL may hold a user and a password.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: it is no `http://` or `https://` URL.
    pub fn proxy(mut self, url: &str) -> Result<Self, Error> {
        let usable =
            Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            let message = "the proxy's address is no URL; give one such as http://proxy.intranet:3128";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        self.proxy = Proxy::Given(Secret::new(url));
        Ok(self)
    }

    /// Goes through no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = Proxy::None;
        self
    }

    /// How long a connection may take to come up: 10 s where not said.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A client with these choices. Works without a store of certificates too, where only `http://` is spoken.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: TLS cannot be set up.
    pub fn client_builder(&self) -> Result<reqwest::ClientBuilder, Error> {
        self.builder(false)
    }

    /// `tls`: without the system's certificates this is an error, rather than a mystery at the first request.
    pub(crate) fn builder(&self, tls: bool) -> Result<reqwest::ClientBuilder, Error> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(&self.ca_certificates, self.insecure, tls)?)
            .http1_only()
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true);
        match &self.proxy {
            Proxy::Environment => Ok(builder),
            Proxy::None => Ok(builder.no_proxy()),
            Proxy::Given(url) => {
                let proxy = reqwest::Proxy::all(url.expose()).map_err(|error| {
                    Error::new(ErrorKind::Usage, "the proxy cannot be used").because(error.without_url())
                })?;
                Ok(builder.proxy(proxy))
            }
        }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = match self.proxy {
            Proxy::Environment => "environment",
            Proxy::None => "none",
            Proxy::Given(_) => "given",
        };
        f.debug_struct("HttpOptions")
            .field("ca_certificates", &self.ca_certificates.len())
            .field("insecure", &self.insecure)
            .field("proxy", &proxy)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said_and_no_secret_with_it() {
        assert!(HttpOptions::new().ca_certificates("no PEM").is_err());
        assert!(HttpOptions::new().ca_certificates("").is_err());
        for bad in ["", "proxy", "socks5://u:hunter2@h", "http://"] {
            let error = HttpOptions::new().proxy(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let options = HttpOptions::new().proxy("http://u:hunter2@h:1").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(options.client_builder().is_ok());
    }
}
