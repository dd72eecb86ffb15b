//! Secrets, and the signature of Watson Work webhooks.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A webhook secret, an app secret or a token.
///
/// `Debug` redacts it, drop zeroises it, and it is compared in constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret text, for the code that sends or stores it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// Computes a Watson Work signature: the lower-case hex HMAC-SHA256 of the body, keyed with the secret's bytes.
///
/// ```
/// use wwproxy_protocol::{Secret, sign_watson_work, verify_watson_work};
///
/// let secret = Secret::new("webhook secret");
/// let signature = sign_watson_work(&secret, b"{}");
/// assert!(verify_watson_work(&secret, b"{}", signature.as_bytes()));
/// ```
#[must_use]
pub fn sign_watson_work(secret: &Secret, body: &[u8]) -> String {
    hex(&hmac_sha256(secret, body))
}

/// Whether `signature` is the Watson Work signature of `body`. Compares in constant time.
#[must_use]
pub fn verify_watson_work(secret: &Secret, body: &[u8], signature: &[u8]) -> bool {
    sign_watson_work(secret, body).as_bytes().ct_eq(signature).into()
}

/// Computes the HMAC-SHA256 of some bytes, keyed with the secret's bytes.
pub(crate) fn hmac_sha256(secret: &Secret, bytes: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// The SHA-256 of bytes in lower-case hexadecimal: it identifies a body without showing it.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Encodes bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn published_test_vectors_match() {
        // watsonwork-echo, src/test/test.js
        let secret = Secret::new("testwsecret");
        for (body, signature) in [
            (
                r#"{"type":"verification","challenge":"testchallenge"}"#,
                "f51ff5c91e99c63b6fde9e396bb6ea3023727f74f1853f29ab571cfdaaba4c03",
            ),
            (
                r#"{"response":"testchallenge"}"#,
                "876d1f9de1b36514d30bcf48d8c4731a69500730854a964e31764159d75b88f1",
            ),
        ] {
            assert_eq!(sign_watson_work(&secret, body.as_bytes()), signature);
            assert!(verify_watson_work(&secret, body.as_bytes(), signature.as_bytes()));
        }
    }

    #[test]
    fn debug_redacts_a_secret() {
        let shown = format!("{:?} {:#?}", Secret::new("hunter2"), Some(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn only_the_signature_of_this_body_and_secret_verifies(
            secret in "\\PC{1,80}", body in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(), flip in 1..=255u8,
        ) {
            let secret = Secret::new(secret);
            let signature = sign_watson_work(&secret, &body);
            prop_assert!(verify_watson_work(&secret, &body, signature.as_bytes()));

            let mut forged = signature.clone().into_bytes();
            forged[at.index(64)] ^= flip;
            prop_assert!(!verify_watson_work(&secret, &body, &forged));
            prop_assert!(!verify_watson_work(&secret, &body, &signature.as_bytes()[..63]));

            let mut other = body.clone();
            other.push(flip);
            prop_assert!(!verify_watson_work(&secret, &other, signature.as_bytes()));
            let other = Secret::new(format!("{}x", secret.expose()));
            prop_assert!(!verify_watson_work(&other, &body, signature.as_bytes()));
        }
    }
}
