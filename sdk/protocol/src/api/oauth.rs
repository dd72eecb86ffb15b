//! OAuth bodies: tokens, and the metadata with the token endpoint.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::AppId;

/// The response of a token endpoint (RFC 6749, section 5.1), with the members of Watson Work.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The token.
    pub access_token: String,
    /// `bearer`.
    pub token_type: String,
    /// The lifetime of the token, in seconds.
    pub expires_in: u64,
    /// The scope of the token.
    #[serde(default)]
    pub scope: String,
    /// The app that the token belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AppId>,
    /// The id of the token.
    #[serde(default)]
    pub jti: String,
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("access_token", &"…")
            .field("expires_in", &self.expires_in)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Authorization server metadata (RFC 8414).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationServer {
    /// The issuer of tokens: the server's own URL.
    pub issuer: String,
    /// The URL of the token endpoint.
    pub token_endpoint: String,
    /// The authentication methods of the token endpoint.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// The grant types of the token endpoint.
    #[serde(default)]
    pub grant_types_supported: Vec<String>,
    /// Empty: there is no authorization endpoint.
    #[serde(default)]
    pub response_types_supported: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts_a_token() {
        let token = TokenResponse {
            access_token: "eyJhunter2".into(),
            token_type: "bearer".into(),
            expires_in: 60,
            scope: String::new(),
            id: None,
            jti: "hunter2".into(),
        };
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
