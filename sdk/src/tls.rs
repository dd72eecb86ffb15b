//! The TLS configuration for reqwest: rustls with ring, and the trusted certificates.

use std::sync::Arc;

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;

use crate::{Error, ErrorKind};

/// The trusted certificates.
#[derive(Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Certificates issued by the system's authorities or by these, and these certificates themselves.
    Authorities(&'a [CertificateDer<'static>]),
    /// All certificates.
    Any,
}

/// The ALPN names of HTTP/1.1 and HTTP/2.
pub(crate) const HTTP_1: &[u8] = b"http/1.1";
#[cfg(feature = "reqwest")]
pub(crate) const HTTP_2: &[u8] = b"h2";

/// Builds the TLS configuration. `https`: fail without the system's certificates. `protocols`: the ALPN protocols, in order of
/// preference.
///
/// reqwest does not build it, for two reasons: it would use the process-wide crypto provider, which belongs to the application, and
/// it would fail without system certificates even for `http://`.
pub(crate) fn config(trust: Trust<'_>, https: bool, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
    let failed = |error| Error::new(ErrorKind::Usage, "cannot set up TLS").with_source(error);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match trust {
        Trust::Any => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Trust::Authorities(extra) => match Verifier::new_with_extra_roots(extra.iter().cloned(), provider) {
            Ok(verifier) => {
                let verifier = PinningVerifier { verifier, pinned: extra.to_vec() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Err(error) if https => {
                let message = "cannot read the system's CA certificates; install them (package ca-certificates) or set SSL_CERT_FILE";
                return Err(Error::new(ErrorKind::Usage, message).with_source(error));
            }
            // Trusts no certificate, so that only requests to an `https://` token endpoint fail.
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        },
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Parses the certificates of a PEM file, each of which must be usable as a trust anchor.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable = "a CA certificate cannot be read; give it in PEM form, as its issuer does";
    // The source is omitted, as it may show lines of the file, which may be a private key by mistake.
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::new(ErrorKind::Usage, unreadable))?;
    if certificates.is_empty() {
        let message = "there is no CA certificate in the file; it must contain -----BEGIN CERTIFICATE-----";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|error| Error::new(ErrorKind::Usage, unreadable).with_source(error))?;
    }
    Ok(certificates)
}

/// Returns a TLS `ClientHello` message.
pub(crate) fn client_hello() -> Option<Vec<u8>> {
    let config = config(Trust::Any, false, &[HTTP_1]).ok()?;
    let mut connection =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").ok()?).ok()?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}

/// Accepts a chain to a trusted authority, or a server certificate that is itself pinned, if it is valid now and for the name.
///
/// The second case is for self-signed certificates of `openssl req -x509`: they are CA certificates, which webpki rejects as
/// server certificates.
#[derive(Debug)]
struct PinningVerifier {
    verifier: Verifier,
    pinned: Vec<CertificateDer<'static>>,
}

impl PinningVerifier {
    /// Whether the certificate is pinned, and only rejected because it is a CA certificate. webpki checks the validity before that.
    fn is_pinned_ca(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Some(pinned) = self.pinned.iter().find(|pinned| *pinned == certificate) else { return false };
        let (Ok(anchor), Ok(server)) =
            (webpki::anchor_from_trusted_cert(pinned), webpki::EndEntityCert::try_from(certificate))
        else {
            return false;
        };
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        let (anchors, usage) = ([anchor], webpki::KeyUsage::server_auth());
        let verified = server.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None);
        matches!(verified, Err(webpki::Error::CaUsedAsEndEntity))
    }
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_pinned_ca(certificate, now) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.verifier.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Accepts every certificate, but still verifies that the peer has its private key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
