//! The websocket handshake (RFC 6455, section 4.1), by reqwest.

use reqwest::{Response, StatusCode, Upgraded, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use wwproxy_protocol::api::{SUBPROTOCOL_V2, path};

use crate::{Client, Error, ErrorKind, ListenOptions, failure::Failure};

/// The codec's buffers, in bytes. Its own default of 128 KiB each is for far more traffic.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024;
/// The most output that waits for the socket, in bytes; the codec's own default is unlimited. A batch of acks and nacks and the
/// pongs beside it need a third of it. What the codec cannot queue ends the connection, except for a pong, which the next replaces.
const MAX_OUTPUT_BYTES: usize = 256 * 1024;

/// Opens a websocket, and tells whether the server speaks `wwproxy.v2`.
pub(crate) async fn connect(
    client: &Client,
    options: &ListenOptions,
    query: Option<&(&str, String)>,
) -> Result<(WebSocketStream<Upgraded>, bool), Error> {
    let mut url = client.url(&path::webhooks(client.app_id()))?;
    if let Some((name, value)) = query {
        url.query_pairs_mut().append_pair(name, value);
    }
    client.http().check_websocket(&url)?;
    let key = generate_key();
    let request = |http: &reqwest::Client| {
        http.get(url.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL_V2)
    };
    let response = client.send(request).await?;
    let v2 = check(&response, &key)?;
    let failed = |error| Error::transport(&Failure::of(&error, &url), error, &url);
    let upgraded = response.upgrade().await.map_err(failed)?;
    let config = config(options.max_message_bytes);
    Ok((WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await, v2))
}

/// The limits of the codec.
pub(super) fn config(max_message_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_write_buffer_size(MAX_OUTPUT_BYTES)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes))
}

/// Whether the answer opens a websocket, and if so whether it speaks `wwproxy.v2`.
fn check(response: &Response, key: &str) -> Result<bool, Error> {
    let wrong = |message| Err(Error::new(ErrorKind::Protocol, message));
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Not tried again: something that takes the upgrade out of the request makes it a poll, which empties the queue.
        return wrong(
            "no websocket was opened; something between here and the server does not pass websockets on",
        );
    }
    let upgrades = header(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if !upgrades || header(header::SEC_WEBSOCKET_ACCEPT) != Some(&derive_accept_key(key.as_bytes())) {
        return wrong("the answer to the websocket handshake is wrong; check the server's address");
    }
    match header(header::SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL_V2) => Ok(true),
        None => Ok(false),
        Some(_) => {
            wrong("the server speaks a websocket subprotocol that was not asked for; check its address")
        }
    }
}
