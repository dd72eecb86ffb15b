//! A request as the handlers see it: everything but the path, with the body unread.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use hyper::upgrade::OnUpgrade;
use serde::{Serialize, de::DeserializeOwned};
use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderMap, Method, header},
    reply::{Reply, Response},
};
use wwproxy_protocol::{AppId, ConsumerName, InvalidId, Secret, Start};

use super::{
    body::{Body, Pieces},
    connections::{Connection, Evicted},
    error::ApiError,
};
use crate::proxy::Proxy;

pub(super) struct Request {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// The query string without its `?`.
    pub(super) query: Option<String>,
    pub(super) body: Body,
    /// The connection that it came on.
    pub(super) connection: Arc<Connection>,
    /// Upgrades the connection to a websocket.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Extracts a [`Request`].
pub(super) fn request() -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().map(Some).or(warp::any().map(|| None)).unify();
    warp::method()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::body::stream())
        .and(warp::ext::get())
        .and(warp::ext::optional())
        .map(|method, headers: HeaderMap, query: Option<String>, pieces, connection, upgrade| {
            let pieces: Pieces = Box::pin(into_bytes(pieces));
            let body = Body::new(pieces, &headers);
            let query = query.filter(|query| !query.is_empty());
            Request { method, headers, query, body, connection, upgrade }
        })
        .boxed()
}

fn into_bytes<B: Buf>(
    pieces: impl Stream<Item = Result<B, warp::Error>>,
) -> impl Stream<Item = Result<Bytes, warp::Error>> {
    pieces.map(|piece| piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
}

impl Request {
    /// Discards the body and returns the error. Otherwise the sender would see a reset instead of the error.
    pub(super) async fn refuse(self, error: ApiError) -> ApiError {
        self.body.discard().await;
        error
    }

    /// Discards the body and returns the error for a method that the path does not have.
    pub(super) async fn refuse_method(self, allowed: &[Method]) -> ApiError {
        let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
        self.refuse(ApiError::method_not_allowed(&allowed)).await
    }

    /// Returns the decoded value of a query parameter. A repeated one is an error: a reverse proxy could use the other value.
    fn parameter(&self, name: &str) -> Result<Option<Cow<'_, str>>, ApiError> {
        let query = self.query.as_deref().unwrap_or_default();
        let mut values = form_urlencoded::parse(query.as_bytes())
            .filter_map(|(key, value)| (key == name).then_some(value));
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => {
                Err(ApiError::bad_request(format!("The query has \"{name}\" twice: send it once.")))
            }
        }
    }

    /// Parses a query parameter that is a number of at least 1.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let Some(text) = self.parameter(name)? else { return Ok(None) };
        // The parser alone would also accept a sign and leading zeros.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        match text.parse() {
            Ok(count) if is_plain => Ok(Some(count)),
            _ => Err(ApiError::bad_request(format!(
                "The query's \"{name}\" must be a whole number from 1 to {}, in digits only.",
                u32::MAX
            ))),
        }
    }

    /// Parses the query parameter that names a consumer.
    pub(super) fn consumer(&self) -> Result<Option<ConsumerName>, ApiError> {
        let name = self.parameter("consumer")?;
        let name = name.map(|name| name.parse()).transpose();
        name.map_err(|error: InvalidId| {
            ApiError::bad_request(format!("The query's \"consumer\" is not valid: {error}."))
        })
    }

    /// Parses the query parameter that names a position in the app's history.
    pub(super) fn since(&self) -> Result<Option<Start>, ApiError> {
        let since = self.parameter("since")?;
        let since = since.map(|text| Start::since(&text, SystemTime::now())).transpose();
        since.map_err(|_| {
            ApiError::bad_request(
                "The query's \"since\" must be a time before now such as 1h, a time such as 2026-01-31T12:00:00Z, or an event id.",
            )
        })
    }

    /// Parses a query parameter that is `1` for true or `0` for false, the default.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.parameter(name)?.as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(ApiError::bad_request(format!("The query's \"{name}\" must be 0 or 1."))),
        }
    }

    /// Checks that the bearer token belongs to the app, and returns the token.
    pub(super) async fn authorise(self, proxy: &Proxy, app: &AppId) -> Result<(Self, Secret), ApiError> {
        let authorised = async {
            let token = self.bearer_token()?;
            proxy.authorise(app, &token).await?;
            Ok(token)
        };
        match authorised.await {
            Ok(token) => {
                self.connection.authorise()?;
                Ok((self, token))
            }
            Err(refusal) => Err(self.refuse(refusal).await),
        }
    }

    /// The token of the `Authorization` header (RFC 6750, section 2.1).
    pub(super) fn bearer_token(&self) -> Result<Secret, ApiError> {
        let missing = || {
            ApiError::unauthorised(
                "A token is required: send one from the token endpoint as \"Authorization: Bearer TOKEN\".",
            )
        };
        let mut values = self.headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
        let value = value.to_str().map_err(|_| missing())?;
        let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
        let token = token.trim();
        let is_valid = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if scheme.eq_ignore_ascii_case("bearer") && is_valid {
            Ok(Secret::new(token))
        } else {
            Err(missing())
        }
    }
}

/// The connection is closed without an answer, so this one is not sent.
impl From<Evicted> for ApiError {
    fn from(_: Evicted) -> Self {
        Self::unavailable("The server has no free connection: send this again later.")
    }
}

/// Parses a body that is one JSON object. serde alone would also accept an array of the members' values.
pub(super) fn read_object<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    if is_object { serde_json::from_slice(body).ok() } else { None }
}

/// A response without a body.
pub(super) fn empty(status: warp::http::StatusCode) -> Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

/// The response of a handler, also of one that failed.
pub(super) fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(Reply::into_response)
}

/// The text of a body that must be JSON.
pub(super) fn utf8(body: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(body).map_err(|_| ApiError::bad_request("The body must be JSON in UTF-8."))
}

/// A response with a value in JSON.
pub(super) fn json_of(value: &impl Serialize) -> Response {
    json(serde_json::to_vec(value).expect("texts and numbers have a JSON form"))
}

/// A response in JSON.
pub(super) fn json(body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    let json = warp::http::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
