//! TLS with private certificate authorities, and proxies, over real ports.

mod common;
mod tls;

use std::{env, error::Error as _, process::Command};

use common::{FakeServer, Reply};
use futures_util::{SinkExt, StreamExt};
use tls::{AUTHORITY, EXPIRED, NAMELESS, SELF_SIGNED, SERVER, proxy, serve, tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_sdk::{Client, Error, ErrorKind, HttpOptions, ListenOptions};

const STATUS: &str = r#"{"registration":null,"stored":0,"leased":0,"dropped":0,"storedBytes":0,"oldestAgeMs":null,"clients":0}"#;

/// A server that replies with a status, or opens a websocket.
async fn fake() -> FakeServer {
    FakeServer::start(|request, _| match request.header("upgrade") {
        Some(_) => Reply::Upgrade(Some("wwproxy.v2")),
        None => Reply::json(200, STATUS),
    })
    .await
}

fn client(server: &str, http: HttpOptions) -> Client {
    Client::builder(server).app_id("bot").token("t").http(http).build().unwrap()
}

fn trusting() -> HttpOptions {
    HttpOptions::new().ca_certificates(AUTHORITY).unwrap()
}

/// An error with all its sources, as text.
fn with_sources(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text} {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_if_configured() {
    let mut fake = fake().await;
    let port = tls(&fake, SERVER).await.port();
    let server = format!("https://127.0.0.1:{port}");

    // Built in this way because it also works on a system without certificates.
    let untrusting = HttpOptions::new().no_proxy().client_builder().unwrap().build().unwrap();
    let untrusting =
        Client::builder(&server).app_id("bot").token("t").http_client(untrusting).build().unwrap();
    let error = untrusting.status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(error.to_string().contains("certificate") && error.to_string().contains("--ca-cert"), "{error}");
    assert!(with_sources(&error).contains("UnknownIssuer"), "{error:?}");

    let client = client(&server, trusting().no_proxy());
    client.status().await.unwrap();
    let mut events = client.listen(ListenOptions::new());
    let mut socket = fake.socket().await;
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{}}"#)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), "a");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_rejected() {
    let fake = fake().await;
    let port = tls(&fake, SERVER).await.port();
    let server = format!("https://localhost:{port}");
    let error = client(&server, trusting().no_proxy()).status().await.unwrap_err();
    assert!(with_sources(&error).contains("NotValidForName"), "{error:?}");
    client(&server, HttpOptions::new().insecure(true).no_proxy()).status().await.unwrap();
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_only_if_configured() {
    let fake = fake().await;
    let port = tls(&fake, SELF_SIGNED).await.port();
    let (right, wrong) = (format!("https://127.0.0.1:{port}"), format!("https://localhost:{port}"));
    let pinned = || HttpOptions::new().ca_certificates(SELF_SIGNED).unwrap();
    client(&right, pinned()).status().await.unwrap();
    for (server, http, says) in [
        (
            &right,
            trusting(),
            "its certificate is not trusted; check the address, or give this certificate or",
        ),
        (&wrong, pinned(), "its certificate is for another name (127.0.0.1)"),
    ] {
        let error = client(server, http).status().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Untrusted && error.to_string().contains(says), "{error}");
        // No Rust debug output such as `Other(OtherError(..))` in any cause.
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |&cause| cause.source());
        assert!(causes.map(ToString::to_string).all(|text| !text.contains("OtherError")), "{error:?}");
    }

    let nameless = format!("https://{}", tls(&fake, NAMELESS).await);
    let http = HttpOptions::new().ca_certificates(NAMELESS).unwrap();
    let error = client(&nameless, http).status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    let says = "its certificate has no subjectAltName; make one that has it, with openssl: -addext";
    assert!(error.to_string().contains(says), "{error}");

    let expired = format!("https://{}", tls(&fake, EXPIRED).await);
    let http = HttpOptions::new().ca_certificates(EXPIRED).unwrap();
    let error = client(&expired, http).status().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Untrusted && !error.is_transient(), "{error:?}");
    assert!(
        error.to_string().contains("its certificate expired ") && error.to_string().contains("days ago"),
        "{error}"
    );
}

#[tokio::test]
async fn an_untrusted_certificate_ends_a_subscription() {
    let fake = fake().await;
    let server = format!("https://{}", tls(&fake, SERVER).await);
    let http = HttpOptions::new().ca_certificates(SELF_SIGNED).unwrap();
    let mut events = client(&server, http).listen(ListenOptions::new());
    assert_eq!(events.next().await.unwrap().unwrap_err().kind(), ErrorKind::Untrusted);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn insecure_still_verifies_the_private_key() {
    let fake = fake().await;
    let server = format!("https://{}", tls(&fake, AUTHORITY).await);
    let error = client(&server, HttpOptions::new().insecure(true).no_proxy()).status().await.unwrap_err();
    assert!(with_sources(&error).contains("BadSignature"), "{error:?}");
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn a_websocket_uses_the_configured_proxy() {
    let mut fake = fake().await;
    let (address, heads) = proxy(Some(tls(&fake, SERVER).await)).await;
    // The name does not resolve: the server is reachable only through the proxy.
    let http = trusting().proxy(&format!("http://ada:hunter%202@{address}")).unwrap();
    let mut events = client("https://proxy.example", http).listen(ListenOptions::new());
    let mut socket = fake.socket().await;
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{}}"#)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), "a");
    let heads = heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].starts_with("CONNECT proxy.example:443 HTTP/1.1\r\n"), "{heads:?}");
    // "ada:hunter 2"
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic ywrhomh1bnrlciay\r\n"), "{heads:?}");
    assert!(!heads[0].contains("Bearer"), "the proxy does not get the token");
}

#[tokio::test]
async fn a_websocket_over_http_through_an_http_proxy_is_rejected() {
    let (address, heads) = proxy(None).await;
    let http = HttpOptions::new().proxy(&format!("http://ada:hunter2@{address}")).unwrap();
    let client = Client::builder("http://proxy.example").app_id("bot").token("t").allow_http(true).http(http);
    let mut events = client.build().unwrap().listen(ListenOptions::new());
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains(&format!("the HTTP proxy http://{address}; use https://")), "{error}");
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_websocket_uses_a_socks_proxy() {
    let mut fake = fake().await;
    let target = tls(&fake, SERVER).await;
    let proxy = serve(move |mut client: TcpStream| async move {
        // RFC 1928: a greeting without authentication, then a request with the host name.
        let mut greeting = [0; 3];
        client.read_exact(&mut greeting).await?;
        assert_eq!(greeting, [5, 1, 0]);
        client.write_all(&[5, 0]).await?;
        let mut request = vec![0; 4 + 1 + "proxy.example".len() + 2];
        client.read_exact(&mut request).await?;
        assert_eq!(request, [&[5, 1, 0, 3, 13], &b"proxy.example"[..], &443_u16.to_be_bytes()].concat());
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        copy_bidirectional(&mut client, &mut TcpStream::connect(target).await?).await.map(drop)
    })
    .await;
    let http = trusting().proxy(&format!("socks5h://{proxy}")).unwrap();
    let mut events = client("https://proxy.example", http).listen(ListenOptions::new());
    let mut socket = fake.socket().await;
    socket.send(Message::text(r#"{"type":"event","id":"a","data":{}}"#)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().id().as_str(), "a");
}

#[tokio::test]
async fn a_proxy_that_requires_authentication_is_named_without_its_password() {
    let (address, heads) = proxy(None).await;
    let http = trusting().proxy(&format!("http://ada:hunter2@{address}")).unwrap();
    let error = client("https://proxy.example", http).status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let text = with_sources(&error);
    let says = format!("the proxy asks for credentials (proxy http://{address});");
    assert!(error.to_string().contains(&says), "{error}");
    assert!(!text.contains("hunter2") && !text.contains("YWRhOmh1bnRlcjI"), "{text}");
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn configured_proxies_precede_those_of_the_environment() {
    let fake = fake().await;
    let direct = tls(&fake, SERVER).await;
    let (working, heads) = proxy(Some(direct)).await;
    let (dead, unused) = proxy(None).await;
    let (working, dead) = (format!("http://{working}"), format!("http://{dead}"));
    let far = "https://proxy.example";
    let near = format!("https://{direct}");
    // Server, configured proxy, environment, and whether the working proxy is used.
    for (server, configured, environment, used) in [
        (far, "", vec![("HTTPS_PROXY", &*working)], true),
        (far, "", vec![("https_proxy", &*working)], true),
        (far, "", vec![("ALL_PROXY", &*working)], true),
        (far, "", vec![("https_proxy", &*working), ("HTTPS_PROXY", &*dead)], true),
        (far, "", vec![("https_proxy", ""), ("HTTPS_PROXY", &*working), ("HTTP_PROXY", &*dead)], true),
        (&*near, "", vec![("HTTPS_PROXY", &*dead), ("ALL_PROXY", &*dead)], false),
        (&*near, "", vec![("HTTPS_PROXY", &*dead), ("NO_PROXY", "127.0.0.1")], false),
        (&*near, "none", vec![("HTTPS_PROXY", &*dead)], false),
        (far, &*working, vec![("HTTPS_PROXY", &*dead), ("NO_PROXY", "*")], true),
    ] {
        let shown = format!("{server} {configured} {environment:?}");
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "request_in_a_child_process", "--ignored"]).env_clear().envs(environment);
        child.env("TEST_SERVER", server).env("TEST_PROXY", configured);
        let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{shown}: {stdout}");
        assert_eq!(heads.lock().unwrap().drain(..).len(), usize::from(used), "{shown}");
        assert!(unused.lock().unwrap().is_empty(), "{shown}");
    }
}

#[tokio::test]
#[ignore = "started by another test as a process with its own environment"]
async fn request_in_a_child_process() {
    let http = match &*env::var("TEST_PROXY").unwrap() {
        "" => trusting(),
        "none" => trusting().no_proxy(),
        url => trusting().proxy(url).unwrap(),
    };
    client(&env::var("TEST_SERVER").unwrap(), http).status().await.unwrap();
}
