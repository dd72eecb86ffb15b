//! The identity provider for IBM Watson Work: queries its GraphQL endpoint with the client's own token.
//!
//! Source: `docs/wire.md`, "Identity". The token is sent to that address only: redirects are not followed.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use futures_util::{StreamExt, future::BoxFuture};
use reqwest::{Client, StatusCode, Url, header, redirect::Policy};
use serde_json::Value;
use wwproxy_protocol::{AppId, Secret, api::path};

use super::{IdentityError, IdentityProvider};

/// How long a query may take. A client waits meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The GraphQL query for the owner of a token.
const QUERY: &str = "{ me { id } }";

/// Queries a Watson Work platform.
#[derive(Debug)]
pub struct WatsonWork {
    base: String,
    client: Client,
    /// The apps that are served, or `None` for all.
    allowed: Option<HashSet<AppId>>,
}

/// Why a platform cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlatform {
    /// The URL is not valid.
    #[error("the platform's address must be like https://api.watsonwork.ibm.com")]
    Address,
    /// Tokens would be sent unencrypted.
    #[error(
        "the platform's address is http:// to a host that is not loopback, so every token would be sent unencrypted: use \
         https://, or allow it with --allow-http-platform"
    )]
    Unencrypted,
    /// TLS connections are not possible.
    #[error("no TLS connection can be made to the platform: check the system's CA certificates")]
    Tls(#[source] reqwest::Error),
}

impl WatsonWork {
    /// The URL of the production platform.
    pub const DEFAULT_URL: &'static str = "https://api.watsonwork.ibm.com";

    /// The platform at this URL. `http://` is for loopback only, unless `allow_http` is set.
    pub fn new(url: &str, allow_http: bool) -> Result<Self, InvalidPlatform> {
        // Sets the TLS provider of the process, unless another one is set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parsed = Url::parse(url).map_err(|_| InvalidPlatform::Address)?;
        let bare = parsed.query().is_none() && parsed.username().is_empty() && parsed.password().is_none();
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() || !bare {
            return Err(InvalidPlatform::Address);
        }
        if parsed.scheme() == "http" && !allow_http && !is_loopback(&parsed) {
            return Err(InvalidPlatform::Unencrypted);
        }
        let builder = Client::builder()
            .timeout(TIMEOUT)
            .redirect(Policy::none())
            .https_only(parsed.scheme() == "https");
        // Without TLS the system's CA certificates are not read: it would fail on a system without any.
        let builder = if parsed.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(InvalidPlatform::Tls)?;
        Ok(Self { base: parsed.as_str().trim_end_matches('/').to_owned(), client, allowed: None })
    }

    /// Serves these apps only. By default every app of the platform is served.
    #[must_use]
    pub fn only(mut self, apps: impl IntoIterator<Item = AppId>) -> Self {
        self.allowed = Some(apps.into_iter().collect());
        self
    }

    async fn query_owner(&self, token: &Secret) -> Result<String, IdentityError> {
        let request = self
            .client
            .post(format!("{}{}", self.base, path::GRAPHQL))
            .header(header::CONTENT_TYPE, "application/graphql")
            .bearer_auth(token.expose())
            .body(QUERY);
        let answer = request.send().await.map_err(|error| IdentityError::unavailable(error.without_url()))?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(IdentityError::Refused),
            StatusCode::OK => {}
            status => return Err(IdentityError::unavailable(Unexpected::Status(status))),
        }
        let mut body = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.map_err(|error| IdentityError::unavailable(error.without_url()))?);
            if body.len() > MAX_ANSWER {
                return Err(IdentityError::unavailable(Unexpected::TooLong));
            }
        }
        read_owner(&body)
    }
}

/// Whether the URL's host is this machine: `localhost` or a loopback address.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// Answers of the platform from which the owner cannot be determined.
#[derive(Debug, thiserror::Error)]
enum Unexpected {
    #[error("the platform answered {0}")]
    Status(StatusCode),
    #[error("the platform's answer has more than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the platform's answer names no owner")]
    NoOwner,
    #[error("the platform's answer is not JSON")]
    Json(#[source] serde_json::Error),
}

fn read_owner(body: &[u8]) -> Result<String, IdentityError> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|error| IdentityError::unavailable(Unexpected::Json(error)))?;
    match answer.pointer("/data/me") {
        // `errors` of any shape, even empty, is a refusal.
        _ if answer.get("errors").is_some() => Err(IdentityError::Refused),
        Some(Value::Null) => Err(IdentityError::Refused),
        Some(me) => match me.get("id").and_then(Value::as_str) {
            Some(id) => Ok(id.to_owned()),
            None => Err(IdentityError::unavailable(Unexpected::NoOwner)),
        },
        None => Err(IdentityError::unavailable(Unexpected::NoOwner)),
    }
}

impl IdentityProvider for WatsonWork {
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        Box::pin(self.query_owner(token))
    }

    fn serves(&self, app: &AppId) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(app))
    }

    /// The platform's apps have no credentials here that could be disabled.
    fn is_suspended(&self, _app: &AppId) -> bool {
        false
    }

    fn platform_url(&self) -> Option<&str> {
        Some(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_confused_with_an_unavailable_platform() {
        assert_eq!(read_owner(br#"{"data":{"me":{"id":"bot","x":1}},"more":{}}"#).unwrap(), "bot");
        for refusal in [
            r#"{"data":{"me":null}}"#,
            r#"{"data":{"me":null},"errors":[{"message":"no"}]}"#,
            r#"{"errors":[{}]}"#,
            r#"{"data":{"me":{"id":"bot"}},"errors":["late"]}"#,
            r#"{"data":{"me":{"id":"bot"}},"errors":[]}"#,
            r#"{"data":{"me":{"id":"bot"}},"errors":{"message":"no"}}"#,
            r#"{"data":{"me":{"id":"bot"}},"errors":"no"}"#,
            r#"{"errors":null,"data":{"me":{"id":"bot"}}}"#,
        ] {
            assert!(matches!(read_owner(refusal.as_bytes()), Err(IdentityError::Refused)), "{refusal}");
        }
        for nonsense in
            ["", "<html>", "{}", "null", r#"{"data":null}"#, r#"{"data":{}}"#, r#"{"data":{"me":{}}}"#]
        {
            let owner = read_owner(nonsense.as_bytes());
            assert!(matches!(owner, Err(IdentityError::Unavailable(_))), "{nonsense}");
        }
    }

    #[test]
    fn the_url_is_checked_at_start() {
        for good in ["http://127.0.0.1:1", "http://localhost:80/base/", "http://[::1]:1"] {
            assert!(!WatsonWork::new(good, false).unwrap().base.ends_with('/'), "{good}");
        }
        for bad in ["", "localhost", "ftp://x", "http://u:p@x", "http://x/?q"] {
            assert!(matches!(WatsonWork::new(bad, false), Err(InvalidPlatform::Address)), "{bad}");
        }
        for plain in
            ["http://platform.example", "http://10.0.0.1", "http://localhost.example", "http://0.0.0.0"]
        {
            assert!(matches!(WatsonWork::new(plain, false), Err(InvalidPlatform::Unencrypted)), "{plain}");
            assert!(WatsonWork::new(plain, true).is_ok(), "{plain}");
        }
    }
}
