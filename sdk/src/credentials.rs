//! The token source: fetches, caches and renews the app's bearer token.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::{StatusCode, Url, header::HeaderValue};
use tokio::{sync::Mutex, time::Instant};
use wwproxy_protocol::{
    AppId, Secret,
    api::{AuthorizationServer, TokenResponse, path},
};

use crate::{
    Error, ErrorKind,
    address::{configured_endpoint, join_path, metadata_endpoint},
    http::Http,
    response::{into_error, read_json},
};

/// A token is renewed this long before it expires, or after half its lifetime if that is later.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);
/// The longest lifetime of a token, whatever its `expires_in`.
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest response of a token or metadata endpoint, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The credential with which the caller authenticates as the app.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    AppSecret(Secret),
    Token(Secret),
}

/// Provides valid tokens. Concurrent callers share one fetch.
#[derive(Debug)]
pub(crate) struct TokenSource {
    server: Url,
    app_id: AppId,
    credential: Credential,
    /// Locked during a fetch, so that concurrent callers wait for its result.
    state: Mutex<State>,
    /// The number of completed fetches. A caller that sees it change while it waits for the lock shares that fetch's result.
    completed: AtomicU64,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    endpoint: Option<Url>,
    token: Option<Token>,
    failure: Option<Error>,
}

#[derive(Debug)]
struct Token {
    secret: Secret,
    renew_at: Instant,
    expires_at: Instant,
}

impl TokenSource {
    pub(crate) fn new(
        server: Url,
        app_id: AppId,
        credential: Credential,
        endpoint: Option<&str>,
        allow_http: bool,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let endpoint = endpoint.map(|url| configured_endpoint(&server, url, allow_http)).transpose()?;
        if let Credential::Token(token) = &credential {
            let unusable = |error: Error| {
                error.with_kind(ErrorKind::Usage, "the token cannot be sent; check that it was copied whole")
            };
            bearer(token).map_err(unusable)?;
        }
        let state = Mutex::new(State { endpoint, ..State::default() });
        Ok(Self { server, app_id, credential, state, completed: AtomicU64::new(0), timeout })
    }

    /// The configured token endpoint, or that of the server's metadata after it has issued a token.
    pub(crate) async fn endpoint(&self) -> Option<String> {
        self.state.lock().await.endpoint.as_ref().map(ToString::to_string)
    }

    /// Returns a valid token.
    pub(crate) async fn token(&self, http: &Http) -> Result<Secret, Error> {
        match &self.credential {
            Credential::Token(token) => Ok(token.clone()),
            Credential::AppSecret(secret) => self.cached_or_fetched(http, secret, None).await,
        }
    }

    /// Returns a token other than the refused one, or `None` if the credential is a fixed token.
    pub(crate) async fn renew(&self, http: &Http, refused: &Secret) -> Result<Option<Secret>, Error> {
        match &self.credential {
            Credential::Token(_) => Ok(None),
            Credential::AppSecret(secret) => {
                self.cached_or_fetched(http, secret, Some(refused)).await.map(Some)
            }
        }
    }

    async fn cached_or_fetched(
        &self,
        http: &Http,
        secret: &Secret,
        refused: Option<&Secret>,
    ) -> Result<Secret, Error> {
        let completed_before = self.completed.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        // A failed fetch is shared too, so that callers do not retry one after the other.
        let shared = self.completed.load(Ordering::Acquire) != completed_before;
        state.token.take_if(|token| refused == Some(&token.secret));
        if let Some(token) = &state.token {
            if shared || Instant::now() < token.renew_at {
                return Ok(token.secret.clone());
            }
        } else if let Some(failure) = state.failure.as_ref().filter(|_| shared) {
            return Err(failure.clone());
        }
        let result = self.fetch(http, secret, &mut state.endpoint).await;
        self.completed.fetch_add(1, Ordering::Release);
        match result {
            Ok(token) => {
                let secret = token.secret.clone();
                (state.token, state.failure) = (Some(token), None);
                Ok(secret)
            }
            Err(error) => {
                state.failure = Some(error.clone());
                // Within the renewal margin the old token is still valid and bridges a short outage of the token endpoint.
                state.unexpired_token().filter(|_| error.is_transient()).ok_or(error)
            }
        }
    }

    async fn fetch(
        &self,
        http: &Http,
        secret: &Secret,
        cached_endpoint: &mut Option<Url>,
    ) -> Result<Token, Error> {
        let endpoint = match cached_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.discover(http).await?,
        };
        let request = http
            .client
            .post(endpoint.clone())
            .timeout(self.timeout)
            .basic_auth(&self.app_id, Some(secret.expose()))
            .form(&[("grant_type", "client_credentials")]);
        let requested_at = Instant::now();
        let response = http.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(token_error(into_error(response).await));
        }
        let issued: TokenResponse = read_json(response, MAX_RESPONSE_BYTES).await?;
        // Cached only after it has issued a token, so that a wrong endpoint is discovered again.
        *cached_endpoint = Some(endpoint);
        Token::new(&issued, requested_at)
    }

    async fn discover(&self, http: &Http) -> Result<Url, Error> {
        let url = join_path(&self.server, path::AUTHORIZATION_SERVER)?;
        let response = http.send(http.client.get(url).timeout(self.timeout)).await?;
        match response.status() {
            StatusCode::OK => {
                let metadata: AuthorizationServer = read_json(response, MAX_RESPONSE_BYTES).await?;
                metadata_endpoint(&self.server, &metadata)
            }
            StatusCode::NOT_FOUND => Err(into_error(response).await.with_kind(
                ErrorKind::Protocol,
                "the server has no metadata that names its token endpoint; check its address, or give a token or the token endpoint",
            )),
            _ => Err(into_error(response).await),
        }
    }
}

impl State {
    fn unexpired_token(&self) -> Option<Secret> {
        self.token
            .as_ref()
            .filter(|token| Instant::now() < token.expires_at)
            .map(|token| token.secret.clone())
    }
}

impl Token {
    fn new(response: &TokenResponse, requested_at: Instant) -> Result<Self, Error> {
        if !response.token_type.eq_ignore_ascii_case("bearer") {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the token endpoint issued a token that is not a bearer token",
            ));
        }
        let secret = Secret::new(&*response.access_token);
        bearer(&secret)?;
        let lifetime = Duration::from_secs(response.expires_in).min(MAX_TOKEN_LIFETIME);
        let renew_after = lifetime.saturating_sub(RENEWAL_MARGIN).max(lifetime / 2);
        Ok(Self { secret, renew_at: requested_at + renew_after, expires_at: requested_at + lifetime })
    }
}

/// Builds the `Authorization` header of a token, marked as sensitive.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, Error> {
    // The source is omitted: it could show the token.
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
        Error::new(ErrorKind::Protocol, "the token endpoint issued a token that cannot be sent")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Explains an error of the token endpoint. Invalid credentials may be a 400 too (RFC 6749, section 5.2).
fn token_error(error: Error) -> Error {
    match error.status() {
        Some(400 | 401 | 403) => error.with_kind(
            ErrorKind::Refused,
            "the app id and secret were refused; check both (no token was issued)",
        ),
        Some(404) => error.with_kind(
            ErrorKind::Protocol,
            "the token endpoint does not exist; check it if you configured it, otherwise ask the server's operator",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_expires() {
        let now = Instant::now();
        let token = |expires_in| {
            let response =
                serde_json::json!({"access_token": "t", "token_type": "Bearer", "expires_in": expires_in});
            Token::new(&serde_json::from_value(response).unwrap(), now).unwrap()
        };
        for (lifetime, renewed) in [(3600, 3540), (100, 50), (120, 60), (2, 1), (0, 0)] {
            assert_eq!(token(lifetime).renew_at - now, Duration::from_secs(renewed), "{lifetime}");
            assert_eq!(token(lifetime).expires_at - now, Duration::from_secs(lifetime));
        }
        assert_eq!(token(u64::MAX).expires_at - now, MAX_TOKEN_LIFETIME);
    }

    #[test]
    fn an_invalid_token_is_not_shown_in_errors() {
        let error = bearer(&Secret::new("hunter2\r\nX-Evil: 1")).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        assert!(!format!("{:?}", bearer(&Secret::new("hunter2")).unwrap()).contains("hunter2"));
    }
}
