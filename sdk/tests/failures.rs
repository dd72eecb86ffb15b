//! Each cause of a missing response has its own message, which says what to do.

mod common;
mod tls;

use common::{FakeServer, Reply};
use tls::{SERVER, serve, tls, tls_with_alpn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wwproxy_sdk::{Client, ErrorKind, FailureCause, HttpOptions};

/// The error message of a client of this server.
async fn error_message(server: &str, http: HttpOptions) -> String {
    let client = Client::builder(server).app_id("bot").token("t").http(http).build().unwrap();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    error.to_string()
}

fn direct() -> HttpOptions {
    HttpOptions::new().insecure(true).no_proxy()
}

/// The address of a port without a listener.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Reads until the client closes: closing a socket with unread bytes resets the connection and discards what was written.
async fn drain(mut client: TcpStream) -> std::io::Result<()> {
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await.map(drop)
}

#[tokio::test]
async fn a_refused_connection_and_an_unknown_host_are_distinguished() {
    let closed = closed_port().await;
    let message = error_message(&format!("http://{closed}"), direct()).await;
    assert_eq!(
        message,
        format!(
            "no answer from http://{closed}: connection refused; check the port, and that a server listens on it"
        )
    );
    let message = error_message("https://no-such-host.invalid", direct()).await;
    assert!(message.contains("no such host (") && message.contains("check the name"), "{message}");
}

#[tokio::test]
async fn an_unreachable_proxy_is_named() {
    let closed = closed_port().await;
    for (scheme, what) in [("http", "connection refused"), ("socks5h", "the proxy cannot be reached")] {
        let http = direct().proxy(&format!("{scheme}://u:hunter2@{closed}")).unwrap();
        let message = error_message("https://proxy.example", http).await;
        let proxy = format!("{what} (proxy {scheme}://{closed}); check the proxy's address");
        assert!(message.contains(&proxy) && !message.contains("hunter2"), "{message}");
    }
}

#[tokio::test]
async fn tls_and_plain_ports_are_distinguished() {
    let plain = serve(async |mut client| {
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await?;
        drain(client).await
    })
    .await;
    let message = error_message(&format!("https://{plain}"), direct()).await;
    assert!(message.contains("the port does not speak TLS; use http://"), "{message}");

    let fake = FakeServer::start(|_, _| Reply::status(200)).await;
    let message = error_message(&format!("http://{}", tls(&fake, SERVER).await), direct()).await;
    assert!(message.contains("the port speaks TLS; use https://"), "{message}");

    // A TLS server that, like OpenSSL, closes without an alert if it does not receive a ClientHello.
    let silent = serve(async |mut client| {
        let mut start = [0; 3];
        client.read_exact(&mut start).await?;
        if start == [22, 3, 1] {
            client.write_all(&[22, 3, 3, 0, 90]).await?;
            drain(client).await?;
        }
        Ok(())
    })
    .await;
    let message = error_message(&format!("http://{silent}"), direct()).await;
    assert!(message.contains("the port speaks TLS; use https://"), "{message}");
}

#[tokio::test]
async fn an_http2_only_port_is_reported() {
    let fake = FakeServer::start(|_, _| Reply::status(200)).await;
    let by_alpn = format!("https://{}", tls_with_alpn(&fake, SERVER, &["h2"]).await);
    let in_clear = serve(async |mut client| {
        // An empty SETTINGS frame, as soon as a client connects.
        client.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
        drain(client).await
    })
    .await;
    for server in [by_alpn, format!("http://{in_clear}")] {
        let message = error_message(&server, direct()).await;
        assert!(message.contains("the port speaks HTTP/2 only; enable HTTP/1.1"), "{message}");
    }
}

#[tokio::test]
async fn a_port_of_another_protocol_is_reported() {
    let ssh = serve(async |mut client| {
        // After the request has arrived: earlier bytes are not a response to it.
        client.read_u8().await?;
        client.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?;
        drain(client).await
    })
    .await;
    let message = error_message(&format!("http://{ssh}"), direct()).await;
    assert!(message.contains("the port does not speak HTTP/1.1; check the port"), "{message}");
}

#[tokio::test]
async fn errors_of_other_clients_of_the_options_are_explained() {
    let url = format!("http://{}", closed_port().await);
    let http = direct();
    let error = http.client_builder().unwrap().build().unwrap().get(&url).send().await.unwrap_err();
    let failure = http.explain(&error, &url.parse().unwrap()).await;
    assert_eq!((failure.cause(), failure.is_untrusted()), (&FailureCause::Refused, false));
    assert_eq!(failure.to_string(), "connection refused");
}
