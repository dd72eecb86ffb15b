//! TLS for reqwest: rustls with ring and the system's certificates.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::{Error, ErrorKind};

/// Built here instead of by reqwest, for two reasons: reqwest would take its provider from a
/// process-wide setting, which is the application's to make, and it would fail without a store of
/// certificates even where only `http://` is spoken. `required` says that `https://` will be.
pub(crate) fn config(required: bool) -> Result<ClientConfig, Error> {
    let failed = |error| Error::new(ErrorKind::Usage, "cannot set up TLS").because(error);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = match builder.clone().with_platform_verifier() {
        Ok(builder) => builder.with_no_client_auth(),
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
