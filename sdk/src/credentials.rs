//! The app's token: where it comes from, and when a new one is due.

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
    address::{at, given_endpoint, own_endpoint},
    client::read_json,
    http::Http,
};

/// A token is renewed this long before it runs out, or at half its life if that is later.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);
/// No token is trusted to live longer than this, whatever its `expires_in`.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest answer of a token endpoint, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How the caller proves to be the app.
#[derive(Debug, Clone)]
pub(crate) enum Given {
    AppSecret(Secret),
    Token(Secret),
}

/// Gives out tokens that are good, and fetches them one at a time.
#[derive(Debug)]
pub(crate) struct Credentials {
    server: Url,
    app_id: AppId,
    given: Given,
    /// Held while a token is fetched, so that those who come meanwhile wait for that one.
    state: Mutex<State>,
    /// How many fetches have ended: tells those who waited that the last one was also theirs.
    ended: AtomicU64,
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

impl Credentials {
    pub(crate) fn new(
        server: Url,
        app_id: AppId,
        given: Given,
        endpoint: Option<&str>,
        allow_http: bool,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let endpoint = endpoint.map(|url| given_endpoint(&server, url, allow_http)).transpose()?;
        if let Given::Token(token) = &given {
            let unusable = |error: Error| {
                error.meaning(ErrorKind::Usage, "the token cannot be sent; check that it was copied whole")
            };
            bearer(token).map_err(unusable)?;
        }
        let state = Mutex::new(State { endpoint, ..State::default() });
        Ok(Self { server, app_id, given, state, ended: AtomicU64::new(0), timeout })
    }

    /// The token endpoint that was given, or the one of the server's metadata once it has given a token.
    pub(crate) async fn endpoint(&self) -> Option<String> {
        self.state.lock().await.endpoint.as_ref().map(ToString::to_string)
    }

    /// A token that is good for a while.
    pub(crate) async fn token(&self, http: &Http) -> Result<Secret, Error> {
        match &self.given {
            Given::Token(token) => Ok(token.clone()),
            Given::AppSecret(secret) => self.fetched(http, secret, None).await,
        }
    }

    /// Another token than the refused one, or `None` where there can be no other.
    pub(crate) async fn renewed(&self, http: &Http, refused: &Secret) -> Result<Option<Secret>, Error> {
        match &self.given {
            Given::Token(_) => Ok(None),
            Given::AppSecret(secret) => self.fetched(http, secret, Some(refused)).await.map(Some),
        }
    }

    async fn fetched(&self, http: &Http, secret: &Secret, refused: Option<&Secret>) -> Result<Secret, Error> {
        let asked_at = self.ended.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        // A fetch that ended while this caller waited was for all who waited, also if it failed.
        let shared = self.ended.load(Ordering::Acquire) != asked_at;
        state.token.take_if(|token| refused == Some(&token.secret));
        if let Some(token) = &state.token {
            if shared || Instant::now() < token.renew_at {
                return Ok(token.secret.clone());
            }
        } else if let Some(failure) = state.failure.as_ref().filter(|_| shared) {
            return Err(failure.clone());
        }
        let result = self.fetch(http, secret, &mut state.endpoint).await;
        self.ended.fetch_add(1, Ordering::Release);
        match result {
            Ok(token) => {
                let secret = token.secret.clone();
                (state.token, state.failure) = (Some(token), None);
                Ok(secret)
            }
            Err(error) => {
                state.failure = Some(error.clone());
                // Within the margin the old token still works: a platform that is down for a minute goes unnoticed.
                state.still_good().filter(|_| error.is_transient()).ok_or(error)
            }
        }
    }

    async fn fetch(&self, http: &Http, secret: &Secret, known: &mut Option<Url>) -> Result<Token, Error> {
        let endpoint = match known {
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
            return Err(refusal(Error::answer(response).await));
        }
        let answer: TokenResponse = read_json(response, MAX_ANSWER_BYTES).await?;
        // Only one that gave a token is remembered: a wrong one would be asked for ever.
        *known = Some(endpoint);
        Token::new(&answer, requested_at)
    }

    async fn discover(&self, http: &Http) -> Result<Url, Error> {
        let url = at(&self.server, path::AUTHORIZATION_SERVER)?;
        let response = http.send(http.client.get(url).timeout(self.timeout)).await?;
        match response.status() {
            StatusCode::OK => {
                let answer: AuthorizationServer = read_json(response, MAX_ANSWER_BYTES).await?;
                own_endpoint(&self.server, &answer)
            }
            StatusCode::NOT_FOUND => Err(Error::answer(response).await.meaning(
                ErrorKind::Protocol,
                "the server has no metadata that names its token endpoint; check its address, or give a token or the token endpoint",
            )),
            _ => Err(Error::answer(response).await),
        }
    }
}

impl State {
    fn still_good(&self) -> Option<Secret> {
        self.token
            .as_ref()
            .filter(|token| Instant::now() < token.expires_at)
            .map(|token| token.secret.clone())
    }
}

impl Token {
    fn new(answer: &TokenResponse, requested_at: Instant) -> Result<Self, Error> {
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the token endpoint gave a token that is no bearer token",
            ));
        }
        let secret = Secret::new(&*answer.access_token);
        bearer(&secret)?;
        let life = Duration::from_secs(answer.expires_in).min(MAX_TOKEN_LIFE);
        let renew_after = life.saturating_sub(RENEWAL_MARGIN).max(life / 2);
        Ok(Self { secret, renew_at: requested_at + renew_after, expires_at: requested_at + life })
    }
}

/// The `Authorization` header of a token, marked so that nobody logs it.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, Error> {
    // The cause is left out: it must not show what it could not take.
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
        Error::new(ErrorKind::Protocol, "the token endpoint gave a token that cannot be sent")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// RFC 6749, section 5.2: wrong credentials may come as 400 too.
fn refusal(error: Error) -> Error {
    match error.status() {
        Some(400 | 401 | 403) => error.meaning(
            ErrorKind::Refused,
            "the app id and secret were refused; check both (no token was given for them)",
        ),
        Some(404) => error.meaning(
            ErrorKind::Protocol,
            "there is nothing at the token endpoint; check it if it was given, or tell the server's operator",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_token_is_renewed() {
        let now = Instant::now();
        let token = |expires_in| {
            let answer =
                serde_json::json!({"access_token": "t", "token_type": "Bearer", "expires_in": expires_in});
            Token::new(&serde_json::from_value(answer).unwrap(), now).unwrap()
        };
        for (life, renewed) in [(3600, 3540), (100, 50), (120, 60), (2, 1), (0, 0)] {
            assert_eq!(token(life).renew_at - now, Duration::from_secs(renewed), "{life}");
            assert_eq!(token(life).expires_at - now, Duration::from_secs(life));
        }
        assert_eq!(token(u64::MAX).expires_at - now, MAX_TOKEN_LIFE);
    }

    #[test]
    fn a_token_that_is_no_header_is_not_shown() {
        let error = bearer(&Secret::new("hunter2\r\nX-Evil: 1")).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        assert!(!format!("{:?}", bearer(&Secret::new("hunter2")).unwrap()).contains("hunter2"));
    }
}
