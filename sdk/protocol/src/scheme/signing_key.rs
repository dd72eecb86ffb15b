//! Keys that sign: shared secrets, and the private keys of public-key algorithms.

use base64::Engine as _;
use hmac::Hmac;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use super::{
    SignError,
    key::{Algorithm, BASE64_KEY, Encoding, KeyFormat, P256_SPKI, compute_mac, decode_hex},
};
use crate::Secret;

/// The prefix of a private key in Standard Webhooks.
const PRIVATE_KEY_PREFIX: &str = "whsk_";

/// A key that signs.
pub(super) enum SigningKey {
    Shared(Algorithm, Zeroizing<Vec<u8>>),
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

impl SigningKey {
    /// Decodes a secret to a key. For public-key algorithms it is the private key.
    pub(super) fn new(algorithm: Algorithm, format: &KeyFormat, secret: &Secret) -> Result<Self, SignError> {
        if !algorithm.is_public_key() {
            let key = format.decode(algorithm, secret).map_err(SignError::Secret)?;
            return Ok(Self::Shared(algorithm, key));
        }
        let text = secret.expose();
        if text.starts_with("whpk_") {
            return Err(SignError::Secret("it is a public key: signing needs the private key"));
        }
        let text = text.strip_prefix(PRIVATE_KEY_PREFIX).unwrap_or(text);
        let key = match format.encoding {
            Encoding::Hex => decode_hex(text.as_bytes()),
            _ => BASE64_KEY.decode(text).ok(),
        };
        let key = Zeroizing::new(key.unwrap_or_default());
        if algorithm == Algorithm::Ed25519 {
            ed25519(&key, format.encoding).map(Self::Ed25519)
        } else {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key, &SystemRandom::new());
            pair.map(Self::EcdsaP256)
                .map_err(|_| SignError::Secret("it must be a P-256 private key: PKCS#8 (DER) in base64"))
        }
    }

    /// Signs the parts of a content.
    pub(super) fn sign(&self, content: &[&[u8]]) -> Result<Vec<u8>, SignError> {
        Ok(match self {
            Self::Shared(Algorithm::HmacSha1, key) => compute_mac::<Hmac<Sha1>>(key, content, || {}),
            Self::Shared(Algorithm::HmacSha512, key) => compute_mac::<Hmac<Sha512>>(key, content, || {}),
            Self::Shared(Algorithm::Token, key) => key.to_vec(),
            // Not a public-key algorithm, as `new` says.
            Self::Shared(_, key) => compute_mac::<Hmac<Sha256>>(key, content, || {}),
            Self::Ed25519(pair) => pair.sign(&content.concat()).as_ref().to_vec(),
            Self::EcdsaP256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), &content.concat());
                let signature =
                    signature.map_err(|_| SignError::Secret("the operating system gave no random bytes"))?;
                signature.as_ref().to_vec()
            }
        })
    }

    /// The public key as senders publish it: 32 bytes of Ed25519, the DER encoding of P-256.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::Shared(..) => None,
            Self::Ed25519(pair) => Some(pair.public_key().as_ref().to_vec()),
            Self::EcdsaP256(pair) => Some([&P256_SPKI, pair.public_key().as_ref()].concat()),
        }
    }
}

/// An Ed25519 key from its seed of 32 bytes, or from seed and public key in 64 bytes.
fn ed25519(key: &[u8], encoding: Encoding) -> Result<Ed25519KeyPair, SignError> {
    let pair = match key.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(key),
        64 => Ed25519KeyPair::from_seed_and_public_key(&key[..32], &key[32..]),
        _ => {
            return Err(SignError::Secret(match encoding {
                Encoding::Hex => "it must be an Ed25519 private key: the 32 bytes of its seed in hexadecimal",
                _ => "it must be an Ed25519 private key: the 32 bytes of its seed in base64",
            }));
        }
    };
    pair.map_err(|_| SignError::Secret("its public half does not belong to its private half"))
}
