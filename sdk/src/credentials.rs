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

use crate::{Error, ErrorKind, client::read_json, error::harmless, http::Http, proxy::is_loopback};

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

/// A path on the server.
pub(crate) fn at(server: &Url, path: &str) -> Result<Url, Error> {
    let url = format!("{}{path}", server.as_str().trim_end_matches('/'));
    Url::parse(&url)
        .map_err(|error| Error::new(ErrorKind::Usage, "the server's address cannot be used").because(error))
}

/// The token endpoint that the caller gave: the app's secret goes there, whatever the server's metadata says.
fn given_endpoint(server: &Url, endpoint: &str, allow_http: bool) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Usage, message);
    let url = Url::parse(endpoint).map_err(|error| {
        wrong("the token endpoint is no URL; give one such as https://proxy.example.com/oauth/token")
            .because(error)
    })?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if server.scheme() == "https" => Err(wrong(
            "the server is https:// and the token endpoint is not; the app's secret is not sent in clear",
        )),
        "http" => check_http(&url, allow_http, "token endpoint").map(|()| url),
        _ => Err(wrong("the token endpoint must start with https:// or http://")),
    }
}

/// The token endpoint of the server's own metadata. It must be on the server's origin, as metadata that an attacker has changed
/// would send the app's secret elsewhere; and the metadata must be this server's (RFC 8414, section 3.3).
fn own_endpoint(server: &Url, metadata: &AuthorizationServer) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Protocol, message);
    let asked = server.as_str().trim_end_matches('/');
    let issuer = Url::parse(&metadata.issuer);
    if issuer.as_ref().map(|issuer| issuer.as_str().trim_end_matches('/')) != Ok(asked) {
        return Err(wrong(format!(
            "the server's metadata says that its address is {}, and not {asked}; use that address if it is right. \
             The operator of a server behind a reverse proxy sets --public-url {asked}. \
             To do without the metadata give the token endpoint (--token-endpoint URL)",
            shown(&metadata.issuer)
        )));
    }
    match Url::parse(&metadata.token_endpoint) {
        Ok(url) if url.origin() == server.origin() => Ok(url),
        _ => Err(wrong(format!(
            "the server's metadata names a token endpoint of another origin, {0}; the app's secret is not sent there \
             because of the metadata alone. If it is right (as with --identity watsonwork), give --token-endpoint {0}",
            shown(&metadata.token_endpoint)
        ))),
    }
}

/// A URL of the metadata as an error shows it: what may be a secret in it is left out.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return harmless(url.split('?').next().unwrap_or_default()) };
    url.set_query(None);
    url.set_fragment(None);
    // Only a URL without a host refuses these.
    let _ = (url.set_username(""), url.set_password(None));
    harmless(url.as_str().trim_end_matches('/'))
}

/// Checks that `http://` goes to this machine only, or that the caller allows more.
pub(crate) fn check_http(url: &Url, allowed: bool, what: &str) -> Result<(), Error> {
    if url.scheme() != "http" || allowed || is_loopback(url) {
        return Ok(());
    }
    let message = format!(
        "the {what} is http:// to another machine, so that credentials and events would cross the network in clear; \
         use https://, or allow it (--allow-http, WWPROXY_ALLOW_HTTP=1)"
    );
    Err(Error::new(ErrorKind::Usage, message))
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

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_secret_never_goes_out_in_clear_from_an_https_server() {
        let (tls, clear) = (url("https://proxy.example"), url("http://localhost:8080"));
        assert!(given_endpoint(&tls, "https://other.example/oauth/token", false).is_ok());
        assert!(given_endpoint(&clear, "http://localhost:8080/oauth/token", false).is_ok());
        for bad in ["http://proxy.example/oauth/token", "ftp://proxy.example", "/oauth/token", ""] {
            assert_eq!(given_endpoint(&tls, bad, true).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(given_endpoint(&clear, "file:///etc/passwd", true).is_err());
        let elsewhere = "http://other.example/oauth/token";
        assert!(given_endpoint(&clear, elsewhere, false).unwrap_err().to_string().contains("--allow-http"));
        assert!(given_endpoint(&clear, elsewhere, true).is_ok());
    }

    #[test]
    fn metadata_names_endpoints_of_the_server_only() {
        let check = |server: &str, issuer: &str, endpoint: &str| {
            let metadata = serde_json::json!({"issuer": issuer, "token_endpoint": endpoint});
            own_endpoint(&url(server), &serde_json::from_value(metadata).unwrap())
                .map_err(|error| error.to_string())
        };
        let server = "https://proxy.example";
        for (server, issuer, endpoint) in [
            (server, server, "https://proxy.example/oauth/token"),
            (server, "https://PROXY.example:443/", "https://proxy.example:443/t"),
            ("https://h/p/", "https://h/p", "https://h/p/oauth/token"),
        ] {
            check(server, issuer, endpoint).unwrap();
        }
        for issuer in
            ["http://proxy.example", "https://proxy.example:8443", "https://proxy.example/p", "", "x"]
        {
            let error = check(server, issuer, "https://proxy.example/oauth/token").unwrap_err();
            assert!(
                error.contains("--public-url https://proxy.example.") && error.contains("metadata"),
                "{error}"
            );
        }
        for (endpoint, shown) in [
            ("https://evil.example/oauth/token", "https://evil.example/oauth/token"),
            ("http://proxy.example/oauth/token", "http://proxy.example/oauth/token"),
            ("https://proxy.example:8443/t", "https://proxy.example:8443/t"),
            ("https://proxy.example:hunter2@evil.example/t?hunter2", "https://evil.example/t"),
            ("/oauth/token?hunter2", "/oauth/token"),
        ] {
            let error = check(server, server, endpoint).unwrap_err();
            assert!(error.ends_with(&format!("give --token-endpoint {shown}")), "{error}");
        }
    }

    #[test]
    fn paths_keep_the_prefix_of_the_server() {
        assert_eq!(at(&url("http://h/p/"), "/oauth/token").unwrap().as_str(), "http://h/p/oauth/token");
        assert_eq!(at(&url("http://h"), "/oauth/token").unwrap().as_str(), "http://h/oauth/token");
    }

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
