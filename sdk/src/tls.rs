//! TLS for reqwest: rustls with ring, and whose certificates are believed.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use crate::{Error, ErrorKind};

/// Whose certificates are believed.
#[derive(Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// The system's authorities, and these beside them.
    Authorities(&'a [CertificateDer<'static>]),
    /// Anybody's.
    Anybody,
}

/// Built here instead of by reqwest, for two reasons: reqwest would take its provider from a
/// process-wide setting, which is the application's to make, and it would fail without a store of
/// certificates even where only `http://` is spoken. `required` says that `https://` will be.
pub(crate) fn config(trust: Trust<'_>, required: bool) -> Result<ClientConfig, Error> {
    let failed = |error| Error::new(ErrorKind::Usage, "cannot set up TLS").because(error);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match trust {
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Trust::Authorities(extra) => match Verifier::new_with_extra_roots(extra.iter().cloned(), provider) {
            Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
            Err(error) if required => {
                let message = "cannot read the system's CA certificates; install them (package ca-certificates) or set SSL_CERT_FILE";
                return Err(Error::new(ErrorKind::Usage, message).because(error));
            }
            // Trusts nobody: an `https://` token endpoint then fails by itself, with its own error.
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        },
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
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
            .map_err(|error| Error::new(ErrorKind::Usage, unusable).because(error))?;
    }
    Ok(certificates)
}

/// Believes every certificate, but still asks for proof that the peer holds its key.
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
