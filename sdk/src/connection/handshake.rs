//! The websocket handshake (RFC 6455, section 4.1), sent by reqwest.

use std::time::SystemTime;

use reqwest::{Response, StatusCode, Upgraded, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use wwproxy_protocol::api::{MAX_REASON_BYTES, SUBPROTOCOL_V2, path};

use super::MAX_ACK_BATCH;
use crate::{Error, ErrorKind, api_client::ApiClient, failure::transport_error};

/// The size of the codec's read and write buffers, in bytes. The codec's default is 128 KiB each.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024;
/// The limit of unflushed output, in bytes; the codec's default is unlimited. A batch of rejections with the longest reasons, whose
/// characters take 6 bytes each as JSON, a window of lease extensions, and pongs fit into it. Output above the limit ends the
/// connection, except for a pong, which the next one replaces.
const MAX_OUTPUT_BYTES: usize = MAX_ACK_BATCH * (6 * MAX_REASON_BYTES + 512) + 512 * 1024;

/// A websocket that was opened.
pub(crate) struct Opened {
    pub(crate) socket: WebSocketStream<Upgraded>,
    /// Whether the server speaks `wwproxy.v2`.
    pub(crate) v2: bool,
    /// The time of the server, to the second, or of this machine if the server has sent none.
    pub(crate) time: SystemTime,
}

/// Opens a websocket.
pub(crate) async fn connect(
    api: &ApiClient,
    query: &[(&str, String)],
    max_message_bytes: usize,
) -> Result<Opened, Error> {
    let mut url = api.url(&path::webhooks(api.app_id()))?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    api.http().check_websocket(&url)?;
    let (key, now) = (generate_key(), SystemTime::now());
    let request = |http: &reqwest::Client| {
        http.get(url.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL_V2)
    };
    let response = api.send(request).await.map_err(|error| {
        let names_consumer = query.iter().any(|(name, _)| *name == "consumer");
        if names_consumer && error.kind() == ErrorKind::NotRegistered {
            return error.with_kind(ErrorKind::NotRegistered, "the consumer was not found");
        }
        error
    })?;
    let v2 = check_response(&response, &key)?;
    let time = date(&response).unwrap_or(now);
    let upgraded = response.upgrade().await.map_err(|error| transport_error(error, &url))?;
    let config = config(max_message_bytes);
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
    Ok(Opened { socket, v2, time })
}

fn date(response: &Response) -> Option<SystemTime> {
    httpdate::parse_http_date(response.headers().get(header::DATE)?.to_str().ok()?).ok()
}

/// The codec's limits.
pub(super) fn config(max_message_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_write_buffer_size(MAX_OUTPUT_BYTES)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes))
}

/// Checks that the response opens a websocket, and returns whether it has the subprotocol `wwproxy.v2`.
fn check_response(response: &Response, key: &str) -> Result<bool, Error> {
    let fail = |message| Err(Error::new(ErrorKind::Protocol, message));
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Not retried: an intermediary that removes the upgrade turns the request into a poll, which empties the queue.
        return fail(
            "no websocket was opened; a proxy or firewall on the way to the server does not forward websockets",
        );
    }
    let upgrades = header(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if !upgrades || header(header::SEC_WEBSOCKET_ACCEPT) != Some(&derive_accept_key(key.as_bytes())) {
        return fail("the response to the websocket handshake is invalid; check the server's address");
    }
    match header(header::SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL_V2) => Ok(true),
        None => Ok(false),
        Some(_) => fail("the server chose a websocket subprotocol that was not requested; check its address"),
    }
}
