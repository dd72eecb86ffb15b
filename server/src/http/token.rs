//! `POST /oauth/token`: issues a token to an app, given its secret (RFC 6749, section 4.4: client credentials).
//!
//! The credentials are in HTTP Basic or in the form. The error codes of section 5.2 are extension members of the problem.

use base64::{Engine, engine::general_purpose::STANDARD};
use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderValue, Method, StatusCode, header},
    reply::{Reply, Response},
};
use wwproxy_protocol::Secret;

use super::{
    Context,
    error::ApiError,
    request::{Request, answer, json_of, request},
    with,
};
use crate::proxy::ProxyError;

/// The longest form, in bytes. Anyone can send one.
const MAX_FORM: u64 = 16 << 10;

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("oauth" / "token")
        .and(with(context))
        .and(request())
        .then(|context, request| async move { answer(token(&context, request).await) })
        .boxed()
}

async fn token(context: &Context, request: Request) -> Result<Response, ApiError> {
    if !context.proxy.issues_tokens() {
        return Err(request.refuse(ApiError::not_found()).await);
    }
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    let Request { headers, body, connection, .. } = request;
    let form = Form::parse(&body.collect(MAX_FORM, &context.budgets.forms, None).await?.bytes);
    if form.get("grant_type") != Some("client_credentials") {
        return Err(ApiError::bad_request("The form must have grant_type=client_credentials.")
            .oauth("unsupported_grant_type"));
    }
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let (app, secret) = match (authorizations.next(), authorizations.next()) {
        (Some(basic), None) => basic_credentials(basic).ok_or_else(refused)?,
        // Ambiguous: a reverse proxy may have checked either of the two.
        (Some(_), Some(_)) => return Err(refused()),
        (None, _) => match (form.get("client_id"), form.get("client_secret")) {
            (Some(app), Some(secret)) => (app.to_owned(), Secret::new(secret)),
            _ => return Err(refused()),
        },
    };
    let token = context.proxy.issue_token(&app, &secret).map_err(|error| match error {
        ProxyError::Refused => refused(),
        error => error.into(),
    })?;
    connection.authorise()?;
    let mut response = json_of(&token);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response.into_response())
}

fn refused() -> ApiError {
    // One text for all reasons, so that it does not reveal which apps exist.
    let detail = "The app id or its secret is wrong, or the operator has disabled the app: use HTTP Basic with the \
                  app id and the secret that `wwproxy-server app add` printed.";
    ApiError::new(StatusCode::UNAUTHORIZED, detail)
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"wwproxy\""))
        .oauth("invalid_client")
}

fn basic_credentials(value: &HeaderValue) -> Option<(String, Secret)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (app, secret) = decoded.split_once(':')?;
    Some((app.to_owned(), Secret::new(secret)))
}

/// The decoded fields of a form (RFC 6749, appendix B).
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body.trim_ascii()).into_owned().collect())
    }

    /// Returns the first value of a field.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
