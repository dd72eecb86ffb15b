//! TLS with a certificate authority of one's own, and proxies, over real ports.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use wwproxy_sdk::{Client, Error, ErrorKind, HttpOptions};

const STATUS: &str =
    r#"{"registration":null,"stored":7,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;

/// A server on localhost that tells the status of any app, and the certificate of its authority.
async fn server() -> (u16, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate goes here.
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            });
        }
    });
    (port, authority.pem())
}

async fn head<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.unwrap() > 0 {}
    head
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    head(&mut stream).await;
    let length = STATUS.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{STATUS}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn stored(port: u16, http: HttpOptions) -> Result<u64, Error> {
    let client =
        Client::builder(format!("https://localhost:{port}")).app_id("bot").token("t").http(http).build()?;
    client.status().await.map(|status| status.stored)
}

#[tokio::test]
async fn a_certificate_is_trusted_when_its_authority_is() {
    let (port, authority) = server().await;
    let http = HttpOptions::new().no_proxy();
    assert_eq!(stored(port, http.clone()).await.unwrap_err().kind(), ErrorKind::Unreachable);
    let other = server().await.1;
    let wrong = http.clone().ca_certificates(other).unwrap();
    assert_eq!(stored(port, wrong).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(stored(port, http.clone().ca_certificates(authority).unwrap()).await.unwrap(), 7);
    assert_eq!(stored(port, http.insecure(true)).await.unwrap(), 7);
}

#[tokio::test]
async fn a_proxy_carries_tls_without_a_look_inside() {
    let (port, authority) = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:hunter2@{}", listener.local_addr().unwrap());
    let carried = tokio::spawn(async move {
        let mut client = BufReader::new(listener.accept().await.unwrap().0);
        let asked = head(&mut client).await;
        let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
        // Either side may end it.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        asked
    });
    let http = HttpOptions::new().proxy(&proxy).unwrap().ca_certificates(authority).unwrap();
    assert_eq!(stored(port, http).await.unwrap(), 7);
    let asked = carried.await.unwrap();
    assert!(asked.starts_with(&format!("CONNECT localhost:{port} ")), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("proxy-authorization: basic "), "{asked}");
    assert!(!asked.contains("Bearer"), "the token is the server's alone");
}
