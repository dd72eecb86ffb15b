//! `GET /webhooks/{appId}` with an upgrade: opens a websocket.
//!
//! The handshake is implemented here (RFC 6455, section 4.2) and not by warp, whose websockets use 136 KiB each while idle.

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
    AppId, ConsumerName,
    api::{DEFAULT_WINDOW, MAX_WINDOW, SUBPROTOCOL_V2},
};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty},
};
use crate::session::{self, MAX_FRAME, SessionConfig};

/// The size of the read buffer and of the write buffer of one websocket, in bytes.
const BUFFER: usize = 8 << 10;
/// The longest message of a client, in bytes. Clients send only acknowledgements.
const MAX_MESSAGE: usize = 256 << 10;
/// The most bytes in the write buffer of one websocket: one frame, what is written together, and pongs.
const MAX_WRITE_BUFFER: usize = MAX_FRAME + 2 * BUFFER;

/// Whether the request is for a websocket. An incomplete upgrade is, too, and is rejected: answered as a poll, it would take
/// events that its client never sees.
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
    let handshake = accept_handshake(&request.headers)?;
    let upgrade = request.upgrade.ok_or_else(|| incomplete("the connection cannot be upgraded"))?;
    let v2 = speaks_v2(&request.headers);
    // Before the answer: a tap sees every event from now on, and a client beyond the limit is rejected.
    let tap = if is_tap { Some(context.proxy.tap(&app).await?) } else { None };
    let client = if is_tap { None } else { Some(context.proxy.connect(&app)?) };

    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().extend(handshake);
    if v2 {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL_V2));
    }
    let session =
        SessionConfig { app, consumer: ConsumerName::default(), token, revocations, window, v2, tap: is_tap };
    let (proxy, shutdown) = (Arc::clone(&context.proxy), context.shutdown.clone());
    context.tasks.spawn(async move {
        // Counts the client until the session ends.
        let _client = client;
        // The client disconnected before the upgrade; nothing was leased for it.
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

/// Returns the response headers of the handshake.
fn accept_handshake(headers: &HeaderMap) -> Result<HeaderMap, ApiError> {
    let mut request = HttpRequest::new(());
    *request.method_mut() = Method::GET;
    request.headers_mut().clone_from(headers);
    match create_response(&request) {
        Ok(response) => Ok(response.into_parts().0.headers),
        Err(tungstenite::Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader)) => {
            let detail = "This websocket version is not supported: use version 13.";
            Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, detail)
                .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
                .header(header::UPGRADE, HeaderValue::from_static("websocket")))
        }
        Err(error) => Err(incomplete(&error.to_string())),
    }
}

fn incomplete(why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "This websocket upgrade is incomplete ({why}): a reverse proxy must forward Upgrade and Connection."
    ))
}

fn speaks_v2(headers: &HeaderMap) -> bool {
    let offers =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == SUBPROTOCOL_V2)
}
