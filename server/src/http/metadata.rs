//! `GET /.well-known/oauth-authorization-server` (RFC 8414): where tokens come from.

use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderMap, Method, header, uri::Authority},
    reply::Response,
};
use wwproxy_protocol::api::{AuthorizationServer, path};

use super::{
    Context,
    error::ApiError,
    request::{Request, answer, json, request},
    with,
};
use crate::identity::Platform;

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!(".well-known" / "oauth-authorization-server")
        .and(with(context))
        .and(request())
        .then(|context, request| async move { answer(metadata(&context, request).await) })
        .boxed()
}

async fn metadata(context: &Context, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    let issuer = match (context.proxy.identity().platform(), &context.settings.public_url) {
        (Platform::Elsewhere(base), _) => base.to_owned(),
        (Platform::Here(_), Some(base)) => base.trim_end_matches('/').to_owned(),
        (Platform::Here(_), None) => asked_for(&request.headers)?,
    };
    let server = AuthorizationServer {
        token_endpoint: format!("{issuer}{}", path::TOKEN),
        issuer,
        token_endpoint_auth_methods_supported: vec![
            "client_secret_basic".into(),
            "client_secret_post".into(),
        ],
        grant_types_supported: vec!["client_credentials".into()],
        response_types_supported: Vec::new(),
    };
    Ok(json(serde_json::to_vec(&server).expect("texts have a JSON form")))
}

/// The address under which this client has reached the server, as it or the reverse proxy before it says.
/// It only ever goes back to who said it.
fn asked_for(headers: &HeaderMap) -> Result<String, ApiError> {
    let host: Option<Authority> = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let host = host.filter(|host| !host.as_str().contains('@')).ok_or_else(|| {
        ApiError::bad_request("The Host header must name this server, as in \"Host: proxy.example.com\".")
    })?;
    let forwarded = headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok());
    let secure = forwarded.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"));
    Ok(format!("{}://{host}", if secure { "https" } else { "http" }))
}
