//! Builds a [`Client`].

use std::time::Duration;

use wwproxy_protocol::{AppId, Secret};

use crate::{
    Client, Error, ErrorKind, HttpOptions,
    api_client::{ApiClient, Settings},
    credentials::Credential,
    http::Connector,
};

/// The default of [`ClientBuilder::request_timeout`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The default of [`ClientBuilder::max_response_bytes`].
const MAX_RESPONSE_BYTES: usize = 256 << 20;

impl Client {
    /// Starts to build a client of the server at this address, such as `https://proxy.example.com`.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(server.into())
    }
}

/// Builds a [`Client`].
///
/// ```
/// use std::time::Duration;
/// use wwproxy_sdk::Client;
///
/// let client = Client::builder("https://proxy.example.com")
///     .app_id("my.bot")
///     .app_secret("the app's secret")
///     .request_timeout(Duration::from_secs(10))
///     .build()?;
/// assert_eq!(client.app_id().as_str(), "my.bot");
/// # Ok::<(), wwproxy_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ClientBuilder {
    server: String,
    app_id: String,
    credential: Option<Credential>,
    token_endpoint: Option<String>,
    allow_http: bool,
    connector: Connector,
    request_timeout: Duration,
    max_response_bytes: usize,
}

impl ClientBuilder {
    fn new(server: String) -> Self {
        Self {
            server,
            app_id: String::new(),
            credential: None,
            token_endpoint: None,
            allow_http: false,
            connector: Connector::Options(HttpOptions::new()),
            request_timeout: REQUEST_TIMEOUT,
            max_response_bytes: MAX_RESPONSE_BYTES,
        }
    }

    /// The app's id: 1 to 128 of `A-Z a-z 0-9 . _ -`. Required.
    pub fn app_id(mut self, app_id: impl Into<String>) -> Self {
        self.app_id = app_id.into();
        self
    }

    /// The app's secret, with which tokens are fetched. This or [`token`](Self::token) is required; the last call wins.
    pub fn app_secret(mut self, secret: impl Into<String>) -> Self {
        self.credential = Some(Credential::AppSecret(Secret::new(secret)));
        self
    }

    /// A bearer token, which is never renewed.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credential = Some(Credential::Token(Secret::new(token)));
        self
    }

    /// The token endpoint, instead of the one in the server's metadata (RFC 8414). Required if its origin is not the server's, as
    /// with `--identity watsonwork`: metadata alone never causes the app's secret to be sent to another host.
    pub fn token_endpoint(mut self, url: impl Into<String>) -> Self {
        self.token_endpoint = Some(url.into());
        self
    }

    /// Allows `http://` to a host that is not loopback. Credentials and events are then sent unencrypted.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// TLS and proxy options of connections.
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.connector = Connector::Options(options);
        self
    }

    /// An HTTP client to use instead of one that this crate builds. Replaces [`http`](Self::http); the last call wins.
    /// It must speak HTTP/1.1 only (`http1_only`), for the websocket handshake, and follow no redirects
    /// (`redirect::Policy::none()`), which would send the token elsewhere. [`HttpOptions::client_builder`] returns such a client.
    #[cfg(feature = "reqwest")]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.connector = Connector::Client(client);
        self
    }

    /// The timeout of a request, up to the last byte of its response: 30 s by default. A lease adds its `wait`.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The largest response of a drain or a lease, in bytes: 256 MiB by default.
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Builds the client. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the address or the app id is invalid, or there is no credential.
    pub fn build(self) -> Result<Client, Error> {
        let app_id: AppId = self.app_id.parse().map_err(|invalid| {
            Error::new(ErrorKind::Usage, "the app id is invalid; give the one that the platform shows")
                .with_source(invalid)
        })?;
        let credential = self.credential.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "there are no credentials; give the app's secret or a token")
        })?;
        let settings = Settings {
            server: self.server,
            app_id,
            credential,
            token_endpoint: self.token_endpoint,
            allow_http: self.allow_http,
            connector: self.connector,
            request_timeout: self.request_timeout,
            max_response_bytes: self.max_response_bytes,
        };
        ApiClient::new(settings).map(Client::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts_credentials() {
        let builder = Client::builder("https://h").app_id("bot");
        for builder in [builder.clone().app_secret("hunter2"), builder.token("hunter2")] {
            assert!(!format!("{builder:?}").contains("hunter2"));
            assert!(!format!("{:?}", builder.build().unwrap()).contains("hunter2"));
        }
    }

    #[test]
    fn http_to_another_machine_must_be_allowed() {
        let builder = |server: &str| Client::builder(server).app_id("bot").token("t");
        for allowed in
            ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://proxy.example"]
        {
            assert!(builder(allowed).build().is_ok(), "{allowed}");
        }
        for refused in ["http://proxy.example", "http://10.0.0.1:8080", "http://localhost.example"] {
            let error = builder(refused).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{refused}");
            assert!(error.to_string().contains("--allow-http"), "{error}");
            assert!(builder(refused).allow_http(true).build().is_ok(), "{refused}");
        }
    }

    #[test]
    fn an_error_names_the_missing_setting() {
        let text = |builder: ClientBuilder| builder.build().unwrap_err().to_string();
        assert!(text(Client::builder("https://h").token("t")).contains("app id"));
        assert!(text(Client::builder("https://h").app_id("bot")).contains("secret or a token"));
        assert!(text(Client::builder("h").app_id("bot").token("t")).contains("https://"));
    }
}
