//! Random secrets in the form that a scheme wants.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{Scheme, Verification, key::Encoding};
use crate::{Secret, hex};

/// The entropy of a generated secret, in bytes.
const SECRET_BYTES: usize = 32;

/// No secret can be generated for a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The secret is a public key.
    #[error("the secret of {0} is a public key: copy it from the settings of the sender")]
    PublicKey(String),
    /// The secret is set by the sender's handshake.
    #[error("{0} sends its secret in a handshake: register the source without a secret and arm it")]
    Handshake(String),
    /// The scheme has no secret.
    #[error("the scheme none has no secret")]
    Unverified,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
}

impl Scheme {
    /// Generates a secret of 32 random bytes in the form of this scheme: base64 after `whsec_` where the sender writes it so,
    /// otherwise base64 or hexadecimal, which every sender accepts as text.
    ///
    /// ```
    /// use wwproxy_protocol::scheme::Scheme;
    ///
    /// let secret = Scheme::preset("standard-webhooks").unwrap().generate_secret().unwrap();
    /// assert!(secret.expose().starts_with("whsec_"));
    /// assert!(Scheme::preset("discord").unwrap().generate_secret().is_err());
    /// ```
    pub fn generate_secret(&self) -> Result<Secret, GenerateError> {
        if self.is_unverified() {
            return Err(GenerateError::Unverified);
        }
        if self.learns_secret() {
            return Err(GenerateError::Handshake(self.name.clone()));
        }
        let template = if let Verification::Templates(templates) = &self.verification {
            templates.as_slice().first()
        } else {
            None
        };
        if template.is_some_and(|template| template.algorithm.is_public_key()) {
            return Err(GenerateError::PublicKey(self.name.clone()));
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        SystemRandom::new().fill(bytes.as_mut()).map_err(|_| GenerateError::Random)?;
        let key = template.map(|template| &template.key);
        let encoded = Zeroizing::new(match key {
            Some(key) if key.encoding == Encoding::Base64 => STANDARD.encode(bytes.as_ref()),
            _ => hex(bytes.as_ref()),
        });
        let prefix = key.map_or("", |key| &key.strip);
        let text = format!("{prefix}{}", encoded.as_str());
        Ok(Secret::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::presets;

    #[test]
    fn a_generated_secret_is_new_and_can_be_a_key_of_its_scheme() {
        let mut without = Vec::new();
        for preset in presets() {
            let scheme = Scheme::preset(&preset.name).unwrap();
            let Ok(secret) = scheme.generate_secret() else {
                without.push(preset.name.as_str());
                continue;
            };
            assert_eq!(scheme.check_secret(&secret), Ok(()), "{}", preset.name);
            assert_ne!(secret, scheme.generate_secret().unwrap(), "{}", preset.name);
            let text = secret.expose();
            assert!((44..=64).contains(&text.len()) && text.is_ascii(), "{}", preset.name);
            // Telegram and Microsoft Graph limit the characters and the length.
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            let is_base64 = text.starts_with("whsec_") || preset.name == "teams-outgoing";
            assert!(is_base64 || text.bytes().all(word), "{}", preset.name);
        }
        assert_eq!(without, ["asana", "discord", "notion", "sendgrid"]);
        assert_eq!(Scheme::unverified().generate_secret(), Err(GenerateError::Unverified));
    }
}
