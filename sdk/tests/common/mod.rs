//! A fake server: HTTP/1.1 on port 0, one request per connection, replies from a closure. The test gets the websockets.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and target, such as `GET /webhooks/bot`.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The reply to a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Http(u16, Vec<(&'static str, String)>, String),
    /// A websocket with this subprotocol.
    Upgrade(Option<&'static str>),
    /// Closes the connection without a response.
    Close,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Http(status, Vec::new(), String::new())
    }

    pub(crate) fn json(status: u16, body: impl std::fmt::Display) -> Self {
        Self::Http(status, vec![("content-type", "application/json".into())], body.to_string())
    }
}

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// The running server. It stops with the test's runtime.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    pub(crate) sockets: mpsc::UnboundedReceiver<Socket>,
}

impl FakeServer {
    /// Starts the server. The closure gets each request and the server's own address.
    pub(crate) async fn start(reply: impl Fn(&Request, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (sender, sockets) = mpsc::unbounded_channel();
        let (reply, log, own) = (Arc::new(reply), requests.clone(), url.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (reply, log, own, sender) = (reply.clone(), log.clone(), own.clone(), sender.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    log.lock().unwrap().push(request.clone());
                    let reply = reply(&request, &own);
                    // The client has closed the connection; ignore.
                    let _ = write(stream, &request, reply, &sender).await;
                });
            }
        });
        Self { url, requests, sockets }
    }

    /// The number of requests with this method and target.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.line == line).count()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The next websocket that a client opens.
    pub(crate) async fn socket(&mut self) -> Socket {
        self.sockets.recv().await.unwrap()
    }
}

/// Checks that the client reads all that was sent to it.
pub(crate) async fn assert_reads_on(socket: &mut Socket) {
    socket.send(Message::Ping("read?".into())).await.unwrap();
    let message = timeout(Duration::from_secs(30), socket.next()).await.expect("the client does not read");
    assert!(matches!(message, Some(Ok(Message::Pong(_)))), "{message:?}");
}

/// Replies to metadata and token requests, with `token-N` for the next N. `None` for other requests.
pub(crate) fn platform(
    request: &Request,
    own: &str,
    expires_in: u64,
    next: impl FnOnce() -> usize,
) -> Option<Reply> {
    match request.line.as_str() {
        "GET /.well-known/oauth-authorization-server" => {
            Some(Reply::json(200, format!(r#"{{"issuer":"{own}","token_endpoint":"{own}/oauth/token"}}"#)))
        }
        "POST /oauth/token" => {
            let token = format!(r#""access_token":"token-{}","token_type":"bearer""#, next());
            Some(Reply::json(200, format!(r#"{{{token},"expires_in":{expires_in}}}"#)))
        }
        _ => None,
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut request = Request { line, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8(bytes[head + 4..].to_vec()).unwrap();
    Some(request)
}

async fn write(
    mut stream: TcpStream,
    request: &Request,
    reply: Reply,
    sockets: &mpsc::UnboundedSender<Socket>,
) -> std::io::Result<()> {
    let (status, mut headers, body) = match reply {
        Reply::Close => return Ok(()),
        Reply::Http(status, headers, body) => (status, headers, body),
        Reply::Upgrade(protocol) => {
            let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or("").as_bytes());
            let mut headers = vec![
                ("upgrade", "websocket".into()),
                ("sec-websocket-accept", accept),
                ("date", "Sun, 09 Sep 2001 01:46:40 GMT".into()),
            ];
            headers.extend(protocol.map(|protocol| ("sec-websocket-protocol", protocol.to_owned())));
            (101, headers, String::new())
        }
    };
    headers.push(("connection", if status == 101 { "upgrade" } else { "close" }.into()));
    if status != 101 {
        headers.push(("content-length", body.len().to_string()));
    }
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    stream.write_all(format!("HTTP/1.1 {status} X\r\n{headers}\r\n{body}").as_bytes()).await?;
    if status == 101 {
        let _ = sockets.send(WebSocketStream::from_raw_socket(stream, Role::Server, None).await);
    }
    Ok(())
}
