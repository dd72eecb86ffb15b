//! A TLS terminator in front of a fake server, and an HTTP proxy.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::{
    ServerConfig,
    crypto::ring::{self, sign::any_ecdsa_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::common::FakeServer;

// Made by tests/tls/make.
pub(crate) const AUTHORITY: &str = include_str!("authority.pem");
pub(crate) const SERVER: &str = include_str!("server.pem");
const SERVER_KEY: &str = include_str!("server-key.pem");
pub(crate) const SELF_SIGNED: &str = include_str!("self-signed.pem");
pub(crate) const NAMELESS: &str = include_str!("nameless.pem");
pub(crate) const EXPIRED: &str = include_str!("expired.pem");

/// Terminates TLS in front of the server, with this certificate and the server's key.
pub(crate) async fn tls(fake: &FakeServer, certificate: &str) -> SocketAddr {
    tls_with_alpn(fake, certificate, &[]).await
}

/// Like [`tls`], with these ALPN protocols.
pub(crate) async fn tls_with_alpn(fake: &FakeServer, certificate: &str, alpn: &[&str]) -> SocketAddr {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = any_ecdsa_type(&PrivateKeyDer::from_pem_slice(SERVER_KEY.as_bytes()).unwrap()).unwrap();
    // Unlike `with_single_cert` this does not check that key and certificate match.
    let pair = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(pair));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let behind = fake.url.trim_start_matches("http://").to_owned();
    serve(move |client| {
        let (acceptor, behind) = (acceptor.clone(), behind.clone());
        async move {
            let mut client = acceptor.accept(client).await?;
            copy_bidirectional(&mut client, &mut TcpStream::connect(behind).await?).await.map(drop)
        }
    })
    .await
}

/// An HTTP proxy: tunnels a `CONNECT` to any host to `target`, or requires authentication. Returns the heads of requests.
pub(crate) async fn proxy(target: Option<SocketAddr>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let log = heads.clone();
    let address = serve(move |mut client: TcpStream| {
        let log = log.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await?);
            }
            log.lock().unwrap().push(String::from_utf8(head).unwrap());
            let Some(target) = target else {
                let refusal = b"HTTP/1.1 407 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                return client.write_all(refusal).await;
            };
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut TcpStream::connect(target).await?).await.map(drop)
        }
    })
    .await;
    (address, heads)
}

/// Accepts connections forever. Errors of a connection are ignored; the client notices them.
pub(crate) async fn serve<F>(handle: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(handle(client));
        }
    });
    address
}
