//! TLS for reqwest: rustls with ring and the system's certificates.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;

use crate::{Error, ErrorKind};

/// Built here instead of by reqwest, for two reasons: reqwest would take its provider from a
/// process-wide setting, which is the application's to make, and it would fail without a store of
/// certificates even where only `http://` is spoken. `required` says that `https://` will be.
pub(crate) fn config(
    extra: &[CertificateDer<'static>],
    insecure: bool,
    required: bool,
) -> Result<ClientConfig, Error> {
    let failed = |error| Error::new(ErrorKind::Usage, "cannot set up TLS").because(error);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let verifier: Result<Arc<dyn ServerCertVerifier>, _> = if insecure {
        Ok(Arc::new(Anyone(provider)))
    } else {
        Verifier::new_with_extra_roots(extra.iter().cloned(), provider)
            .map(|verifier| Arc::new(verifier) as _)
    };
    let mut config = match verifier {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(),
        Err(error) if required => {
            let message = "cannot read the system's CA certificates; install them (package ca-certificates) or set SSL_CERT_FILE";
            return Err(Error::new(ErrorKind::Usage, message).because(error));
        }
        // Trusts nobody: an `https://` token endpoint then fails by itself, with its own error.
        Err(_) => builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any certificate. That its owner is at the other end is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
