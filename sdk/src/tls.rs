//! TLS for reqwest: rustls with ring, and which certificates are trusted.

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

/// Which certificates are trusted.
#[derive(Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Those of the system's authorities, those of these authorities, and these certificates themselves.
    Authorities(&'a [CertificateDer<'static>]),
    /// Any.
    Any,
}

/// The names of HTTP/1.1 and HTTP/2 in ALPN.
pub(crate) const HTTP_1: &[u8] = b"http/1.1";
#[cfg(feature = "reqwest")]
pub(crate) const HTTP_2: &[u8] = b"h2";

/// Built here instead of by reqwest, for two reasons: reqwest would take its provider from a
/// process-wide setting, which is the application's to make, and it would fail without a store of
/// certificates even where only `http://` is spoken. `required` says that `https://` will be, `protocols` what ALPN offers, the first choice first.
pub(crate) fn config(trust: Trust<'_>, required: bool, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
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
                let verifier = TrustedCertificate { verifier, given: extra.to_vec() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Err(error) if required => {
                let message = "cannot read the system's CA certificates; install them (package ca-certificates) or set SSL_CERT_FILE";
                return Err(Error::new(ErrorKind::Usage, message).with_source(error));
            }
            // Trusts no certificate: an `https://` token endpoint then fails by itself, with its own error.
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        },
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The certificates of a PEM file, each one that a chain can end in.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable = "a CA certificate cannot be read; give it in PEM form, as its issuer does";
    // The cause is left out where it may show lines of what was given: it may be the wrong file, with a key.
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::new(ErrorKind::Usage, unusable))?;
    if certificates.is_empty() {
        let message =
            "there is no CA certificate in what was given; it must hold -----BEGIN CERTIFICATE-----";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|error| Error::new(ErrorKind::Usage, unusable).with_source(error))?;
    }
    Ok(certificates)
}

/// The first message of a TLS client.
pub(crate) fn client_hello() -> Option<Vec<u8>> {
    let config = config(Trust::Any, false, &[HTTP_1]).ok()?;
    let mut connection =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").ok()?).ok()?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}

/// Verifies a chain up to a trusted authority; or that the server's certificate is itself one that was given, with its
/// validity and name. The ordinary self-signed certificate (`openssl req -x509`) says that it is an authority, and webpki
/// accepts no authority as a server's certificate.
#[derive(Debug)]
struct TrustedCertificate {
    verifier: Verifier,
    given: Vec<CertificateDer<'static>>,
}

impl TrustedCertificate {
    /// Whether nothing is wrong with the certificate but that it is an authority. webpki checks the validity before that.
    fn is_given_authority(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Some(given) = self.given.iter().find(|given| *given == certificate) else { return false };
        let (Ok(anchor), Ok(server)) =
            (webpki::anchor_from_trusted_cert(given), webpki::EndEntityCert::try_from(certificate))
        else {
            return false;
        };
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        let (anchors, usage) = ([anchor], webpki::KeyUsage::server_auth());
        let verified = server.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None);
        matches!(verified, Err(webpki::Error::CaUsedAsEndEntity))
    }
}

impl ServerCertVerifier for TrustedCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_given_authority(certificate, now) {
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

/// Accepts every certificate, but still asks for proof that the peer holds its key.
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
