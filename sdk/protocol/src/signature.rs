//! Secrets, and the schemes that sign webhooks with them.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
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

/// How a sender signs its webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// IBM Watson Work: `X-OUTBOUND-TOKEN` is the lower-case hex HMAC-SHA256 of the raw body,
    /// keyed with the secret's bytes.
    #[default]
    WatsonWork,
}

impl Scheme {
    /// The scheme's name in requests and responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WatsonWork => "watsonwork",
        }
    }

    /// Computes the value of the signature header for `body`.
    #[must_use]
    pub fn sign(self, secret: &Secret, body: &[u8]) -> String {
        let mut signer = self.signer(secret);
        signer.update(body);
        signer.sign()
    }

    /// Whether `signature` is the signature of `body`. Compares in constant time.
    #[must_use]
    pub fn verify(self, secret: &Secret, body: &[u8], signature: &[u8]) -> bool {
        let mut signer = self.signer(secret);
        signer.update(body);
        signer.verify(signature)
    }

    /// Returns an incremental signer, for a body that arrives in chunks.
    ///
    /// ```
    /// use wwproxy_protocol::{Scheme, Secret};
    ///
    /// let secret = Secret::new("webhook secret");
    /// let mut signer = Scheme::WatsonWork.signer(&secret);
    /// signer.update(b"{\"type\":");
    /// signer.update(b"\"message-created\"}");
    /// let whole = Scheme::WatsonWork.sign(&secret, br#"{"type":"message-created"}"#);
    /// assert!(signer.verify(whole.as_bytes()));
    /// ```
    #[must_use]
    pub fn signer(self, secret: &Secret) -> Signer {
        match self {
            Self::WatsonWork => Signer(
                Hmac::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length"),
            ),
        }
    }
}

/// Signs or verifies a body incrementally: see [`Scheme::signer`].
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// Adds the next chunk of the body.
    pub fn update(&mut self, chunk: &[u8]) {
        self.0.update(chunk);
    }

    /// Computes the value of the signature header.
    #[must_use]
    pub fn sign(self) -> String {
        hex(&self.0.finalize().into_bytes())
    }

    /// Whether `signature` is the signature of the body. Compares in constant time.
    #[must_use]
    pub fn verify(self, signature: &[u8]) -> bool {
        self.sign().as_bytes().ct_eq(signature).into()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Self, UnknownScheme> {
        match name {
            "watsonwork" => Ok(Self::WatsonWork),
            _ => Err(UnknownScheme),
        }
    }
}

/// The name does not belong to a [`Scheme`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signature scheme must be \"watsonwork\"")]
pub struct UnknownScheme;

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
            assert_eq!(Scheme::WatsonWork.sign(&secret, body.as_bytes()), signature);
            assert!(Scheme::WatsonWork.verify(&secret, body.as_bytes(), signature.as_bytes()));
        }
    }

    #[test]
    fn debug_redacts_a_secret() {
        let shown = format!("{:?} {:#?}", Secret::new("hunter2"), Some(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_scheme_parses_from_its_exact_name() {
        assert_eq!("watsonwork".parse(), Ok(Scheme::WatsonWork));
        assert_eq!("WatsonWork".parse::<Scheme>(), Err(UnknownScheme));
        assert_eq!(serde_json::to_string(&Scheme::WatsonWork).unwrap(), "\"watsonwork\"");
    }

    proptest! {
        #[test]
        fn only_the_signature_of_this_body_and_secret_verifies(
            secret in "\\PC{1,80}", body in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(), flip in 1..=255u8,
        ) {
            let secret = Secret::new(secret);
            let signature = Scheme::WatsonWork.sign(&secret, &body);
            prop_assert!(Scheme::WatsonWork.verify(&secret, &body, signature.as_bytes()));

            let mut signer = Scheme::WatsonWork.signer(&secret);
            let (before, after) = body.split_at(at.index(body.len() + 1));
            signer.update(before);
            signer.update(after);
            prop_assert!(signer.verify(signature.as_bytes()));

            let mut forged = signature.clone().into_bytes();
            forged[at.index(64)] ^= flip;
            prop_assert!(!Scheme::WatsonWork.verify(&secret, &body, &forged));
            prop_assert!(!Scheme::WatsonWork.verify(&secret, &body, &signature.as_bytes()[..63]));

            let mut other = body.clone();
            other.push(flip);
            prop_assert!(!Scheme::WatsonWork.verify(&secret, &other, signature.as_bytes()));
            let other = Secret::new(format!("{}x", secret.expose()));
            prop_assert!(!Scheme::WatsonWork.verify(&other, &body, signature.as_bytes()));
        }
    }
}
