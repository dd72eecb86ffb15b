//! Why there is no answer reads differently for each cause, and says what to do.

mod common;
mod tls;

use common::{Answer, Fake};
use tls::{SERVER, serve, tls, tls_with_alpn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wwproxy_sdk::{Client, ErrorKind, FailureCause, HttpOptions};

/// What a client without a proxy says of this server.
async fn says(server: &str, http: HttpOptions) -> String {
    let client = Client::builder(server).app_id("bot").token("t").http(http).build().unwrap();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    error.to_string()
}

fn direct() -> HttpOptions {
    HttpOptions::new().insecure(true).no_proxy()
}

/// The address of a port where nothing listens.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Reads until the client closes: a socket that is closed with unread bytes in it would take what was written with it.
async fn drain(mut client: TcpStream) -> std::io::Result<()> {
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await.map(drop)
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_host_read_differently() {
    let closed = closed_port().await;
    let said = says(&format!("http://{closed}"), direct()).await;
    assert_eq!(
        said,
        format!(
            "no answer from http://{closed}: connection refused; check the port, and that the server runs"
        )
    );
    let said = says("https://no-such-host.invalid", direct()).await;
    assert!(said.contains("no such host (") && said.contains("check the name"), "{said}");
}

#[tokio::test]
async fn a_refusing_proxy_is_named() {
    let closed = closed_port().await;
    for (scheme, what) in [("http", "connection refused"), ("socks5h", "the proxy cannot be reached")] {
        let http = direct().proxy(&format!("{scheme}://u:hunter2@{closed}")).unwrap();
        let said = says("https://proxy.example", http).await;
        let proxy = format!("{what} (proxy {scheme}://{closed}); check the proxy's address");
        assert!(said.contains(&proxy) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn tls_and_plain_ports_are_told_apart() {
    let plain = serve(async |mut client| {
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await?;
        drain(client).await
    })
    .await;
    let said = says(&format!("https://{plain}"), direct()).await;
    assert!(said.contains("the port does not speak TLS; use http://"), "{said}");

    let fake = Fake::start(|_, _| Answer::status(200)).await;
    let said = says(&format!("http://{}", tls(&fake, SERVER).await), direct()).await;
    assert!(said.contains("the port speaks TLS; use https://"), "{said}");

    // A TLS server that closes without an alert when it is not greeted in TLS, as those of OpenSSL do.
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
    let said = says(&format!("http://{silent}"), direct()).await;
    assert!(said.contains("the port speaks TLS; use https://"), "{said}");
}

#[tokio::test]
async fn http2_only_is_said() {
    let fake = Fake::start(|_, _| Answer::status(200)).await;
    let by_alpn = format!("https://{}", tls_with_alpn(&fake, SERVER, &["h2"]).await);
    let in_clear = serve(async |mut client| {
        // SETTINGS without settings, as soon as a client is there.
        client.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
        drain(client).await
    })
    .await;
    for server in [by_alpn, format!("http://{in_clear}")] {
        let said = says(&server, direct()).await;
        assert!(said.contains("the port speaks HTTP/2 only; enable HTTP/1.1"), "{said}");
    }
}

#[tokio::test]
async fn a_port_that_speaks_neither_is_not_http() {
    let ssh = serve(async |mut client| {
        // Once the request is there: what comes before it is no answer to it.
        client.read_u8().await?;
        client.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?;
        drain(client).await
    })
    .await;
    let said = says(&format!("http://{ssh}"), direct()).await;
    assert!(said.contains("the port does not speak HTTP/1.1; check the port"), "{said}");
}

#[tokio::test]
async fn other_clients_of_the_same_options_get_the_same_explanation() {
    let url = format!("http://{}", closed_port().await);
    let http = direct();
    let error = http.client_builder().unwrap().build().unwrap().get(&url).send().await.unwrap_err();
    let failure = http.explain(&error, &url.parse().unwrap()).await;
    assert_eq!((failure.cause(), failure.is_untrusted()), (&FailureCause::Refused, false));
    assert_eq!(failure.to_string(), "connection refused");
}
