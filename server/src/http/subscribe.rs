//! `GET /webhooks/{appId}` with an upgrade: a websocket.
//!
//! The handshake is done here (RFC 6455, section 4.2) and not by warp, whose websockets cost 136 KiB
//! each while idle.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self,
        error::ProtocolError,
        handshake::server::create_response,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{
    http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, StatusCode, header},
    reply::Response,
};
use wwproxy_protocol::{
    AppId,
    api::{DEFAULT_WINDOW, MAX_WINDOW, SUBPROTOCOL_V2},
};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty},
};
use crate::session::{self, MAX_FRAME, SessionConfig};

/// Read and write buffers of one websocket, in bytes: it has both for as long as it is open.
const BUFFER: usize = 8 << 10;
/// The longest message of a client, in bytes. It has acknowledgements to say.
const MAX_MESSAGE: usize = 256 << 10;
/// The most output of one websocket that stands in its write buffer, in bytes: what is written together, one frame,
/// and pongs.
const MAX_WRITE_BUFFER: usize = MAX_FRAME + 2 * BUFFER;

/// Whether the request is for a websocket. Half an upgrade is one too, and gets an error: answered as
/// a poll it would take events that its client never sees.
pub(super) fn is_wanted(request: &Request) -> bool {
    let lists = |name, token: &str| {
        let values =
            request.headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(token))
    };
    lists(header::UPGRADE, "websocket") || request.headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

pub(super) async fn subscribe(app: AppId, context: Context, request: Request) -> Result<Response, ApiError> {
    let revocations = context.proxy.revocations();
    let (request, token) = request.authorise(&context.proxy, &app).await?;
    let window = request.count("window")?.unwrap_or(DEFAULT_WINDOW).min(MAX_WINDOW);
    let is_tap = request.flag("tap")?;
    let handshake = shake_hands(&request.headers)?;
    let upgrade = request.upgrade.ok_or_else(|| incomplete("the connection cannot be upgraded"))?;
    let v2 = speaks_v2(&request.headers);
    // Before the answer: a tap sees every event from then on, and a client beyond the limit is refused.
    let tap = if is_tap { Some(context.proxy.tap(&app).await?) } else { None };
    let client = if is_tap { None } else { Some(context.proxy.connect(&app)?) };

    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().extend(handshake);
    if v2 {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL_V2));
    }
    let session = SessionConfig { app, token, revocations, window, v2, tap: is_tap };
    let (proxy, shutdown) = (Arc::clone(&context.proxy), context.shutdown.clone());
    context.tasks.spawn(async move {
        let _counted = client;
        // A client that went away before it was upgraded has missed nothing.
        let Ok(upgraded) = upgrade.await else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(MAX_WRITE_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        match tap {
            Some(tap) => session::run_tap(proxy, session, tap, socket, shutdown).await,
            None => session::run(proxy, session, socket, shutdown).await,
        }
    });
    Ok(response)
}

/// The headers of the answer to a well-formed upgrade.
fn shake_hands(headers: &HeaderMap) -> Result<HeaderMap, ApiError> {
    let mut request = HttpRequest::new(());
    *request.method_mut() = Method::GET;
    request.headers_mut().clone_from(headers);
    match create_response(&request) {
        Ok(response) => Ok(response.into_parts().0.headers),
        Err(tungstenite::Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader)) => {
            let detail = "This websocket version is not spoken here: use version 13.";
            Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, detail)
                .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
                .header(header::UPGRADE, HeaderValue::from_static("websocket")))
        }
        Err(error) => Err(incomplete(&error.to_string())),
    }
}

fn incomplete(why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "This is no complete websocket upgrade ({why}): a proxy on the way must pass on Upgrade and Connection."
    ))
}

fn speaks_v2(headers: &HeaderMap) -> bool {
    let offers =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == SUBPROTOCOL_V2)
}
