//! Algorithms, their keys, and the comparison of signatures.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, PAD, STANDARD},
    },
};
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::TemplateError;
use crate::Secret;

/// Keys are given with and without padding; signatures must have it.
pub(super) const BASE64_KEY: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent));
/// How much of a body is hashed or searched between pauses, in bytes: about 10 µs of work.
const PIECE_BYTES: usize = 16 << 10;
/// What precedes the point of a P-256 public key in its DER encoding (RFC 5480).
pub(super) const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The length of an uncompressed point of P-256, in bytes.
const P256_POINT_BYTES: usize = 65;

/// How a signature is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    HmacSha1,
    HmacSha256,
    HmacSha512,
    Ed25519,
    EcdsaP256,
    /// Equality with a shared token. It covers no part of the request.
    Token,
}

impl Algorithm {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        match text {
            "hmac-sha1" => Ok(Self::HmacSha1),
            "hmac-sha256" => Ok(Self::HmacSha256),
            "hmac-sha512" => Ok(Self::HmacSha512),
            "ed25519" => Ok(Self::Ed25519),
            "ecdsa-p256-sha256" => Ok(Self::EcdsaP256),
            "token" => Ok(Self::Token),
            _ => Err(TemplateError::new(
                "algorithm",
                "must be hmac-sha256, hmac-sha1, hmac-sha512, ed25519, ecdsa-p256-sha256 or token",
            )),
        }
    }

    /// Whether the secret is a public key.
    pub(super) fn is_public_key(self) -> bool {
        matches!(self, Self::Ed25519 | Self::EcdsaP256)
    }

    /// Whether a signature can have this many bytes.
    pub(super) fn accepts_length(self, bytes: usize) -> bool {
        match self {
            Self::HmacSha1 => bytes == 20,
            Self::HmacSha256 => bytes == 32,
            Self::HmacSha512 | Self::Ed25519 => bytes == 64,
            // A DER sequence of two integers.
            Self::EcdsaP256 => (8..=72).contains(&bytes),
            Self::Token => bytes > 0,
        }
    }

    /// Whether one of the signatures is right for `content`. `key` is the decoded secret. `pause` is called between the
    /// pieces of a large content, and between signatures of public keys, whose content must be in one part.
    pub(super) fn verify(self, key: &[u8], content: &[&[u8]], signatures: &[Vec<u8>], pause: fn()) -> bool {
        let verify_public = |algorithm: &'static dyn VerificationAlgorithm| {
            let key = UnparsedPublicKey::new(algorithm, key);
            let content = match content {
                [part] => Cow::Borrowed(*part),
                parts => Cow::Owned(parts.concat()),
            };
            signatures.iter().any(|signature| {
                pause();
                key.verify(&content, signature).is_ok()
            })
        };
        match self {
            Self::HmacSha1 => verify_mac::<Hmac<Sha1>>(key, content, signatures, pause),
            Self::HmacSha256 => verify_mac::<Hmac<Sha256>>(key, content, signatures, pause),
            Self::HmacSha512 => verify_mac::<Hmac<Sha512>>(key, content, signatures, pause),
            Self::Ed25519 => verify_public(&ED25519),
            Self::EcdsaP256 => verify_public(&ECDSA_P256_SHA256_ASN1),
            Self::Token => signatures.iter().any(|token| token.as_slice().ct_eq(key).into()),
        }
    }
}

fn verify_mac<M: Mac + KeyInit>(key: &[u8], content: &[&[u8]], signatures: &[Vec<u8>], pause: fn()) -> bool {
    let expected = compute_mac::<M>(key, content, pause);
    signatures.iter().any(|signature| expected.ct_eq(signature).into())
}

/// Computes the MAC of the parts of a content.
pub(super) fn compute_mac<M: Mac + KeyInit>(key: &[u8], content: &[&[u8]], pause: fn()) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in content {
        in_pieces(part, pause, |piece| mac.update(piece));
    }
    mac.finalize().into_bytes().to_vec()
}

/// Hashes bytes in pieces, and calls `pause` between the pieces.
pub(super) fn in_pieces(bytes: &[u8], pause: fn(), mut hash: impl FnMut(&[u8])) {
    for piece in bytes.chunks(PIECE_BYTES) {
        hash(piece);
        if piece.len() == PIECE_BYTES {
            pause();
        }
    }
}

/// Whether a value contains a text that is not empty. `pause` is called between the pieces of a large value.
pub(super) fn contains(value: &[u8], text: &[u8], pause: fn()) -> bool {
    (0..value.len()).step_by(PIECE_BYTES).any(|start| {
        let piece = &value[start..value.len().min(start + PIECE_BYTES + text.len() - 1)];
        if piece.len() >= PIECE_BYTES {
            pause();
        }
        piece.windows(text.len()).any(|window| window == text)
    })
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Text,
    Hex,
    Base64,
}

/// How the key is made from the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFormat {
    /// The prefix that is removed from the secret.
    pub(super) strip: String,
    /// Whether the secret must have the prefix.
    pub(super) requires_prefix: bool,
    pub(super) encoding: Encoding,
}

impl KeyFormat {
    /// Parses `[strip:PREFIX] [text|base64|hex]`.
    pub(super) fn parse(text: &str, algorithm: Algorithm) -> Result<Self, TemplateError> {
        let invalid = |reason| TemplateError::new("key", reason);
        let requires_prefix = algorithm.is_public_key();
        let mut format = Self { strip: String::new(), requires_prefix, encoding: Encoding::Text };
        let mut words = text.split_ascii_whitespace().peekable();
        if let Some(prefix) = words.peek().and_then(|word| word.strip_prefix("strip:")) {
            prefix.clone_into(&mut format.strip);
            words.next();
        }
        match words.next() {
            None | Some("text") => {}
            Some("hex") => format.encoding = Encoding::Hex,
            Some("base64") => format.encoding = Encoding::Base64,
            Some(_) => return Err(invalid("must be text, base64 or hex, after strip:PREFIX if wanted")),
        }
        if words.next().is_some() {
            return Err(invalid("must be one of text, base64 and hex"));
        }
        if algorithm.is_public_key() && format.encoding == Encoding::Text {
            return Err(invalid("must be base64 or hex for a public key"));
        }
        Ok(format)
    }

    /// Decodes a secret to the key. The error says what is wrong without a part of the secret.
    pub(super) fn decode(
        &self,
        algorithm: Algorithm,
        secret: &Secret,
    ) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let text = secret.expose();
        if algorithm.is_public_key() && text.starts_with("whsec_") {
            return Err("a secret of whsec_ is not a public key");
        }
        // A secret that is used as text may begin with anything.
        if !algorithm.is_public_key() && self.encoding != Encoding::Text && text.starts_with("whpk_") {
            return Err("a public key of whpk_ is not a shared secret");
        }
        let stripped = text.strip_prefix(&self.strip);
        if self.requires_prefix && stripped.is_none() {
            return Err("it must begin with the prefix of its kind, such as whsec_ or whpk_");
        }
        let text = stripped.unwrap_or(text);
        let key = match self.encoding {
            Encoding::Text => text.as_bytes().to_vec(),
            Encoding::Hex => decode_hex(text.as_bytes()).ok_or("it is not hexadecimal")?,
            Encoding::Base64 => BASE64_KEY.decode(text).map_err(|_| "it is not base64")?,
        };
        let key = Zeroizing::new(key);
        match algorithm {
            _ if key.is_empty() => Err("it is empty"),
            Algorithm::Ed25519 if key.len() != 32 => Err("an Ed25519 public key has 32 bytes"),
            Algorithm::EcdsaP256 => match key.strip_prefix(&P256_SPKI) {
                Some(point) if point.len() == P256_POINT_BYTES => Ok(Zeroizing::new(point.to_vec())),
                _ => Err("it is not the DER encoding of a P-256 public key"),
            },
            _ => Ok(key),
        }
    }
}

/// Decodes a signature. `None` if it is not in this encoding.
pub(super) fn decode(encoding: Encoding, text: &[u8]) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Text => Some(text.to_vec()),
        Encoding::Hex => decode_hex(text),
        // Padding is required and unused bits must be zero, so each signature has one text.
        Encoding::Base64 => STANDARD.decode(text).ok(),
    }
}

/// Decodes hexadecimal in either case.
pub(super) fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| hex_pair(*high, *low)).collect())?
}

/// Decodes two hex digits in either case.
pub(super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}
