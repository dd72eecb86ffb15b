//! Raw HTTP over TCP, for requests that no HTTP library sends.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::DEADLINE;

/// A TCP connection to the server.
pub(crate) struct Raw(pub(crate) BufReader<TcpStream>);

/// A parsed HTTP response.
#[derive(Debug)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    /// The status line and the headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    pub(crate) async fn open(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one response that has a `Content-Length`, or no body.
    pub(crate) async fn response(&mut self) -> RawResponse {
        let head = self.read_until("\r\n\r\n").await.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        timeout(DEADLINE, self.0.read_exact(&mut body)).await.unwrap().unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawResponse { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Reads up to and including this delimiter.
    async fn read_until(&mut self, delimiter: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(delimiter.as_bytes()) {
            let byte = timeout(DEADLINE, self.0.read_u8()).await.unwrap();
            head.push(
                byte.unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&head))),
            );
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        rest
    }
}

/// Sends one request on a new connection, and reads the response.
pub(crate) async fn raw(address: &str, request: impl AsRef<[u8]>) -> RawResponse {
    let mut connection = Raw::open(address).await;
    connection.send(request).await;
    connection.response().await
}
