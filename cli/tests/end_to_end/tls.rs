//! Targets behind TLS, and those that speak HTTP/2.

use std::{net::SocketAddr, process::Output, sync::Arc, thread};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::{self, sign::any_ecdsa_type},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        sign::{CertifiedKey, SingleCertAndKey},
    },
};
use tokio_tungstenite::tungstenite::http::{Response, Version};

use crate::{unusual_targets::replay, world::World};

const SELF_SIGNED: &str = include_str!("../../../sdk/tests/tls/self-signed.pem");
const EXPIRED: &str = include_str!("../../../sdk/tests/tls/expired.pem");
const KEY: &str = include_str!("../../../sdk/tests/tls/server-key.pem");

/// A target that speaks HTTP/2 only, over TLS if there is a certificate.
fn http2_target(certificate: Option<&str>) -> SocketAddr {
    let acceptor = certificate.map(acceptor);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        // A client that does not trust the certificate closes the connection.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream).await;
                            }
                        }
                        None => serve(stream).await,
                    }
                });
            }
        });
    });
    address
}

fn acceptor(certificate: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = any_ecdsa_type(&PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap()).unwrap();
    let pair = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(pair));
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    // A client of HTTP/1.1 ends the handshake.
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let status = if request.version() == Version::HTTP_2 { 204 } else { 500 };
        let answer = Response::builder().status(status).body(()).unwrap();
        respond.send_response(answer, true).unwrap();
    }
}

fn forward(target: &str, more: &[&str]) -> Output {
    let args = [&["--max-attempts", "1", "--forward-to", target], more].concat();
    replay(2, 200_000, &args, |_| {})
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn http2_is_negotiated_by_alpn_or_forced_by_a_flag() {
    let target = http2_target(None).to_string();
    let output = forward(&target, &["--http2"]);
    assert!(output.status.success(), "{output:?}");
    let output = forward(&target, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("speaks HTTP/2 only; give --http2"), "{}", printed(&output));
    let target = format!("https://{}", http2_target(Some(SELF_SIGNED)));
    let output = forward(&target, &["--insecure-target"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not checked (--insecure-target)"),
        "{output:?}"
    );
}

#[test]
fn target_certificates_are_checked_without_insecure_target() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = |certificate| {
        let file = folder.path().join("target.pem");
        std::fs::write(&file, certificate).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let target = format!("https://{}", http2_target(Some(SELF_SIGNED)));
    for more in [&[][..], &["--insecure"]] {
        let output = forward(&target, more);
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        assert!(printed(&output).contains("certificate is not trusted"), "{}", printed(&output));
        let advice = "(--ca-cert); --insecure-target accepts any";
        assert!(printed(&output).contains(advice), "{}", printed(&output));
    }
    let output = forward(&target, &["--ca-cert", &trusted(SELF_SIGNED)]);
    assert!(output.status.success(), "{output:?}");
    let target = format!("https://{}", http2_target(Some(EXPIRED)));
    let output = forward(&target, &["--ca-cert", &trusted(EXPIRED)]);
    assert!(printed(&output).contains("certificate expired"), "{}", printed(&output));
}

#[test]
fn send_checks_target_certificates() {
    let world = World::new();
    let target = format!("https://{}", http2_target(Some(SELF_SIGNED)));
    assert!(world.send(&["--to", &target, "--insecure-target"]).contains("1 accepted"));
    let mut command = world.command(&["send", "--to", &target, "--insecure"]);
    let output = command.env("WEBHOOK_SECRET", "s").output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(5) && messages.contains("certificate is not trusted"), "{messages}");
}
