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
use tokio_util::sync::CancellationToken;
use warp::{
    http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, StatusCode, header},
    reply::Response,
};
use wwproxy_protocol::{
    AppId, ConsumerName, Start,
    api::{DEFAULT_WINDOW, MAX_WINDOW, SUBPROTOCOL_V2},
};

use super::{
    Context,
    error::ApiError,
    request::{Request, empty},
};
use crate::{
    proxy::Client,
    session::{self, MAX_FRAME, SessionConfig},
    store::{Ephemeral, Tap},
};

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
    let (consumer, since) = (request.consumer()?, request.since()?);
    let handshake = accept_handshake(&request.headers)?;
    let upgrade = request.upgrade.ok_or_else(|| incomplete("the connection cannot be upgraded"))?;
    let v2 = speaks_v2(&request.headers);
    let opened = open(&app, &context, is_tap, consumer, since).await?;

    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().extend(handshake);
    if v2 {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL_V2));
    }
    let Opened { tap, consumer, ephemeral, client } = opened;
    let (client, consumer_ended) = client.unzip();
    let session = SessionConfig {
        app,
        consumer,
        consumer_ended: consumer_ended.unwrap_or_default(),
        missed: ephemeral.as_ref().map(|ephemeral| ephemeral.missed),
        token,
        revocations,
        window,
        v2,
        tap: is_tap,
    };
    let (proxy, shutdown) = (Arc::clone(&context.proxy), context.shutdown.clone());
    context.tasks.spawn(async move {
        // Count the client, and keep its consumer, until the session ends.
        let _opened = (client, ephemeral);
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

/// What a websocket receives its events from.
struct Opened {
    tap: Option<Tap>,
    consumer: ConsumerName,
    /// The consumer of this websocket only.
    ephemeral: Option<Ephemeral>,
    client: Option<(Client, CancellationToken)>,
}

/// Opens a tap or a consumer, before the answer: a tap sees every event from now on, and a client beyond the limit is rejected.
async fn open(
    app: &AppId,
    context: &Context,
    is_tap: bool,
    consumer: Option<ConsumerName>,
    since: Option<Start>,
) -> Result<Opened, ApiError> {
    let proxy = &context.proxy;
    if usize::from(is_tap) + usize::from(consumer.is_some()) + usize::from(since.is_some()) > 1 {
        return Err(ApiError::bad_request(
            "\"tap\", \"consumer\" and \"since\" exclude each other: send one of them.",
        ));
    }
    if is_tap {
        let tap = Some(proxy.tap(app).await?);
        return Ok(Opened { tap, consumer: ConsumerName::default(), ephemeral: None, client: None });
    }
    let ephemeral = match since {
        Some(start) => Some(proxy.open_ephemeral(app, start).await?),
        None => None,
    };
    let consumer = match &ephemeral {
        Some(ephemeral) => ephemeral.name.clone(),
        None => consumer.unwrap_or_default(),
    };
    proxy.check_readable(app, &consumer).await?;
    let client = Some(proxy.connect(app, &consumer)?);
    Ok(Opened { tap: None, consumer, ephemeral, client })
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
