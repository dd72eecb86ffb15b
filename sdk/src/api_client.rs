//! Authenticated HTTP requests to one server on behalf of one app.

use std::{sync::Arc, time::Duration};

use reqwest::{RequestBuilder, Response, StatusCode, Url, header};
use wwproxy_protocol::{AppId, Secret};

use crate::{
    Error,
    address::{check_cleartext, join_path, server_url},
    credentials::{Credential, TokenSource, bearer},
    http::{self, Connector, Http},
    response::into_error,
};

/// What requests need: the HTTP client, the server, the app and its token. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiClient(Arc<Inner>);

struct Inner {
    http: Http,
    server: Url,
    app_id: AppId,
    tokens: TokenSource,
    request_timeout: Duration,
    max_response_bytes: usize,
}

/// The settings that a [`ClientBuilder`](crate::ClientBuilder) collects.
pub(crate) struct Settings {
    pub(crate) server: String,
    pub(crate) app_id: AppId,
    pub(crate) credential: Credential,
    pub(crate) token_endpoint: Option<String>,
    pub(crate) allow_http: bool,
    pub(crate) connector: Connector,
    pub(crate) request_timeout: Duration,
    pub(crate) max_response_bytes: usize,
}

impl ApiClient {
    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let server = server_url(&settings.server)?;
        check_cleartext(&server, settings.allow_http, "server's address")?;
        let http = settings.connector.client(server.scheme() == "https")?;
        let tokens = TokenSource::new(
            server.clone(),
            settings.app_id.clone(),
            settings.credential,
            settings.token_endpoint.as_deref(),
            settings.allow_http,
            settings.request_timeout,
        )?;
        Ok(Self(Arc::new(Inner {
            http,
            server,
            app_id: settings.app_id,
            tokens,
            request_timeout: settings.request_timeout,
            max_response_bytes: settings.max_response_bytes,
        })))
    }

    pub(crate) fn app_id(&self) -> &AppId {
        &self.0.app_id
    }

    pub(crate) fn server(&self) -> &Url {
        &self.0.server
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    pub(crate) fn max_response_bytes(&self) -> usize {
        self.0.max_response_bytes
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        join_path(&self.0.server, path)
    }

    pub(crate) async fn token(&self) -> Result<Secret, Error> {
        self.0.tokens.token(&self.0.http).await
    }

    pub(crate) async fn token_endpoint(&self) -> Option<String> {
        self.0.tokens.endpoint().await
    }

    /// Sends a request with the app's token, and once more with a fresh token after a 401. A status other than 2xx and 101 is
    /// an error.
    pub(crate) async fn send(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let Inner { http, tokens, request_timeout, .. } = &*self.0;
        let send = async |token: &Secret| {
            let (client, built) = request(&http.client).build_split();
            let mut built = built.map_err(http::unsendable)?;
            // A timeout of the request itself takes precedence.
            built.timeout_mut().get_or_insert(*request_timeout);
            built.headers_mut().insert(header::AUTHORIZATION, bearer(token)?);
            http.send(RequestBuilder::from_parts(client, built)).await
        };
        let token = tokens.token(http).await?;
        let mut response = send(&token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let Some(token) = tokens.renew(http, &token).await? else {
                return Err(into_error(response).await);
            };
            response = send(&token).await?;
        }
        let accepted = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if accepted { Ok(response) } else { Err(into_error(response).await) }
    }
}
