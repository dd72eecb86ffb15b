//! A websocket client for tests, which checks every message.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Bytes, Message, client::IntoClientRequest, handshake::client::Request, http::HeaderValue},
};

use super::DEADLINE;

pub(crate) struct Socket {
    pub(crate) stream: WebSocketStream<TcpStream>,
    /// The subprotocol that the server chose.
    pub(crate) protocol: Option<String>,
    pings: u32,
}

impl Socket {
    pub(crate) async fn open(address: &str, path: &str, token: &str, protocol: Option<&str>) -> Self {
        let request = upgrade(address, path, token, protocol);
        let stream = TcpStream::connect(address).await.unwrap();
        let (stream, response) = client_async(request, stream).await.unwrap();
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().unwrap().to_owned());
        Self { stream, protocol, pings: 0 }
    }

    async fn message(&mut self) -> Message {
        self.stream.next().await.expect("the connection ended").unwrap()
    }

    /// The next text message.
    pub(crate) async fn next(&mut self) -> String {
        let text = async {
            loop {
                match self.message().await {
                    Message::Text(text) => return text.to_string(),
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(DEADLINE, text).await.expect("no message arrived in time")
    }

    /// The id and body of the next text message, which must be a legacy event.
    pub(crate) async fn event(&mut self) -> (String, String) {
        parse_legacy_event(&self.next().await)
    }

    /// The bodies of the next `count` legacy events.
    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            bodies.push(self.event().await.1);
        }
        bodies
    }

    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.stream.send(message.into()).await.unwrap();
    }

    pub(crate) async fn ack(&mut self, id: &str) {
        self.send(json!({"type": "event_ack", "id": id}).to_string()).await;
    }

    /// Sends a ping, and returns the text messages that arrive before its pong. The server has then handled every
    /// message that was sent before the ping.
    pub(crate) async fn ping(&mut self) -> Vec<String> {
        self.pings += 1;
        let payload = Bytes::copy_from_slice(&self.pings.to_be_bytes());
        self.send(Message::Ping(payload.clone())).await;
        let mut texts = Vec::new();
        let pong = async {
            loop {
                match self.message().await {
                    Message::Text(text) => texts.push(text.to_string()),
                    Message::Pong(pong) if pong == payload => return,
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(DEADLINE, pong).await.expect("no pong arrived in time");
        texts
    }

    /// Waits for the server's close frame, and returns its code.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let closed = async {
            loop {
                if let Message::Close(frame) = self.message().await {
                    return frame.expect("a close frame with a code").code.into();
                }
            }
        };
        timeout(DEADLINE, closed).await.expect("the server did not close the websocket in time")
    }
}

/// An authorized websocket upgrade request.
pub(crate) fn upgrade(address: &str, path: &str, token: &str, protocol: Option<&str>) -> Request {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    if let Some(protocol) = protocol {
        headers.insert("sec-websocket-protocol", HeaderValue::from_str(protocol).unwrap());
    }
    request
}

/// Splits a legacy event message into its id and its body, byte for byte.
pub(crate) fn parse_legacy_event(message: &str) -> (String, String) {
    let rest = message.strip_prefix(r#"{"type":"event","id":""#).unwrap_or_else(|| panic!("{message}"));
    let (id, rest) = rest.split_once(r#"","data":"#).unwrap_or_else(|| panic!("{message}"));
    (id.to_owned(), rest.strip_suffix('}').unwrap().to_owned())
}

/// The headers of a websocket handshake (RFC 6455, section 1.2).
pub(crate) fn handshake_headers() -> Vec<(&'static str, &'static str)> {
    vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
}

/// [`handshake_headers`] as lines of a request.
pub(crate) fn handshake_text() -> String {
    let lines: Vec<_> =
        handshake_headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    lines.concat()
}
