//! `GET /.well-known/oauth-authorization-server` (RFC 8414): the URL of the token endpoint.

use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderValue, Method, header},
    reply::Response,
};
use wwproxy_protocol::api::{AuthorizationServer, path};

use super::{
    Context,
    error::ApiError,
    forwarded::{PeerAddress, public_url},
    request::{Request, answer, json_of, request},
    with,
};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!(".well-known" / "oauth-authorization-server")
        .and(with(context))
        .and(warp::ext::get())
        .and(request())
        .then(|context, peer, request| async move { answer(metadata(&context, peer, request).await) })
        .boxed()
}

async fn metadata(context: &Context, peer: PeerAddress, request: Request) -> Result<Response, ApiError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(request.refuse_method(&[Method::GET, Method::HEAD]).await);
    }
    let issuer = public_url(context, peer, &request.headers)?.to_string();
    let platform = context.proxy.platform_url().unwrap_or(&issuer);
    let server = AuthorizationServer {
        token_endpoint: format!("{platform}{}", path::TOKEN),
        issuer,
        token_endpoint_auth_methods_supported: vec![
            "client_secret_basic".into(),
            "client_secret_post".into(),
        ],
        grant_types_supported: vec!["client_credentials".into()],
        response_types_supported: Vec::new(),
    };
    let mut response = json_of(&server);
    // A cache must not return the address that another client used.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
