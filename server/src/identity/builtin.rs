//! The builtin identity: this server issues the tokens. Apps authenticate with a secret.
//!
//! A token is a JWT (RFC 7519, HS256), since clients of Watson Work read its `exp`. Its claims name the app and the secret that
//! it was issued for, so removing the app or replacing the secret revokes it. Tokens are not stored.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use wwproxy_protocol::{AppId, Secret, api::TokenResponse};
use zeroize::Zeroizing;

use super::{
    Apps, IdentityError, IdentityProvider, TokenIssuer,
    apps::{self, SecretHash},
    private_file,
};
use crate::log_limit::LogLimit;

/// The default lifetime of a token, the same as Watson Work's.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// `{"alg":"HS256","typ":"JWT"}`. No other header is accepted, so no algorithm is negotiated.
const JWT_HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// How often an unusable credentials file is logged in a minute: anyone can request a token.
const LOGGED: u32 = 10;

/// Authenticates the apps of a credentials file, and issues their tokens.
#[derive(Debug)]
pub struct Builtin {
    apps: Apps,
    key: TokenKey,
    token_lifetime: Duration,
    failures: LogLimit,
}

/// The key that signs the tokens.
#[derive(Clone)]
pub struct TokenKey(Zeroizing<[u8; 32]>);

/// Why there is no [`TokenKey`].
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The system's random number generator failed.
    #[error("the system's random number generator failed: no key was made")]
    Random(#[source] io::Error),
    /// The file cannot be read or written.
    #[error(
        "the key that signs tokens, {0}, cannot be used: check that its folder is writable, and that the file has 32 bytes and belongs to \
         the server's user"
    )]
    File(PathBuf, #[source] io::Error),
    /// Other users can read the file, and forge tokens.
    #[error(
        "the key that signs tokens, {0}, is open to other users (mode {1:03o}), who can forge the tokens of all apps: delete \
         it, so that a new one is made and clients fetch new tokens, or `chmod 600` it if no other user has read it"
    )]
    Exposed(PathBuf, u32),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    client_id: AppId,
    /// The secret that the token was issued for.
    credential: String,
    iat: u64,
    exp: u64,
    jti: String,
}

impl TokenKey {
    /// A random key. Its tokens are valid only within this process.
    pub fn random() -> Result<Self, TokenKeyError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).map_err(|error| TokenKeyError::Random(error.into()))?;
        Ok(Self(key))
    }

    /// Reads the key from this file, or creates the file, readable by its owner only. A file that other users can read or write,
    /// a link, a file that is not regular, and a file of another user are errors.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenKeyError> {
        let failed = |error| TokenKeyError::File(path.to_owned(), error);
        match private_file::open_own(path) {
            Ok(file) => {
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
                    if mode & 0o077 != 0 {
                        return Err(TokenKeyError::Exposed(path.to_owned(), mode));
                    }
                }
                let mut key = Zeroizing::new(Vec::with_capacity(33));
                file.take(33).read_to_end(&mut key).map_err(failed)?;
                let key = key.as_slice().try_into();
                let key = key
                    .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is not 32 bytes")))?;
                Ok(Self(Zeroizing::new(key)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::random()?;
                private_file::write_durably(path, key.0.as_slice()).map_err(failed)?;
                Ok(key)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl Builtin {
    /// The builtin identity of these apps.
    #[must_use]
    pub fn new(apps: Apps, key: TokenKey, token_lifetime: Duration) -> Self {
        Self { apps, key, token_lifetime, failures: LogLimit::per_minute(LOGGED) }
    }

    /// Returns the claims of a token that this server issued, expired or not, if its secret is still the app's.
    fn claims(&self, token: &str) -> Result<Claims, IdentityError> {
        let refused = IdentityError::Refused;
        let Some((signed, signature)) = token.rsplit_once('.') else { return Err(refused) };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return Err(refused) };
        if self.mac(signed).verify_slice(&signature).is_err() {
            return Err(refused);
        }
        // From here on the signature is valid, so this server issued the token.
        let claims = signed.strip_prefix(JWT_HEADER).and_then(|rest| rest.strip_prefix('.'));
        let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        let Some(Ok(claims)) = claims.map(|claims| serde_json::from_slice::<Claims>(&claims)) else {
            return Err(refused);
        };
        match self.secret_hash(&claims.client_id)? {
            Some(hash) if credential(&hash) == claims.credential => Ok(claims),
            _ => Err(refused),
        }
    }

    fn check(&self, token: &str) -> Result<AppId, IdentityError> {
        let claims = self.claims(token)?;
        if claims.exp > unix_time() { Ok(claims.client_id) } else { Err(IdentityError::Refused) }
    }

    fn secret_hash(&self, app: &AppId) -> Result<Option<SecretHash>, IdentityError> {
        self.apps.secret_hash(app).map_err(|error| {
            if let Some(requests) = self.failures.add(1) {
                tracing::error!(requests, %error, "the credentials file cannot be used: no app can be authorised");
            }
            IdentityError::unavailable(error)
        })
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(self.key.0.as_slice()).expect("HMAC takes a key of any length");
        mac.update(signed.as_bytes());
        mac
    }
}

/// Identifies a secret in a token: a hash of its hash.
fn credential(hash: &SecretHash) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(hash)[..12])
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl IdentityProvider for Builtin {
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        let owner = self.check(token.expose()).map(|app| app.as_str().to_owned());
        Box::pin(std::future::ready(owner))
    }

    /// Accepts an expired token: the client fetches a new one for its next connection.
    fn revalidate<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        let owner = self.claims(token.expose()).map(|claims| claims.client_id.as_str().to_owned());
        Box::pin(std::future::ready(owner))
    }

    fn is_suspended(&self, app: &AppId) -> bool {
        self.apps.is_suspended(app)
    }

    fn issuer(&self) -> Option<&dyn TokenIssuer> {
        Some(self)
    }
}

impl TokenIssuer for Builtin {
    fn issue(&self, app: &str, secret: &Secret) -> Result<TokenResponse, IdentityError> {
        let id: Option<AppId> = app.parse().ok();
        let known = match &id {
            Some(app) => self.secret_hash(app)?,
            None => None,
        };
        // An unknown app takes as long as a wrong secret, so that response times do not reveal which apps exist.
        let expected = known.unwrap_or_default();
        let same = bool::from(apps::hash(secret.expose()).ct_eq(&expected));
        let (Some(id), Some(hash), true) = (id, known, same) else { return Err(IdentityError::Refused) };

        let now = unix_time();
        let jti = uuid::Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)).to_string();
        let expires_in = self.token_lifetime.as_secs();
        let claims = Claims {
            client_id: id.clone(),
            credential: credential(&hash),
            iat: now,
            exp: now + expires_in,
            jti: jti.clone(),
        };
        let claims = serde_json::to_vec(&claims).expect("texts and numbers have a JSON form");
        let signed = format!("{JWT_HEADER}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&signed).finalize().into_bytes());
        Ok(TokenResponse {
            access_token: format!("{signed}.{signature}"),
            token_type: "bearer".into(),
            expires_in,
            scope: "webhooks".into(),
            id: Some(id),
            jti,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn builtin(folder: &Path) -> Builtin {
        Builtin::new(Apps::new(folder.join("apps.toml")), TokenKey::random().unwrap(), DEFAULT_TOKEN_LIFETIME)
    }

    fn refused<T>(result: &Result<T, IdentityError>) -> bool {
        matches!(result, Err(IdentityError::Refused))
    }

    #[test]
    fn a_token_is_valid_until_its_app_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let builtin = builtin(folder.path());
        let app: AppId = "my-bot".parse().unwrap();
        let secret = builtin.apps.add(&app).unwrap();
        let token = builtin.issue("my-bot", &secret).unwrap();
        assert_eq!(builtin.check(&token.access_token).unwrap(), app);

        assert!(builtin.claims(&token.access_token).is_ok());
        builtin.apps.remove(&app).unwrap();
        assert!(refused(&builtin.claims(&token.access_token)));
        assert!(refused(&builtin.check(&token.access_token)));
        builtin.apps.add(&app).unwrap();
        assert!(refused(&builtin.check(&token.access_token)), "a new secret makes old tokens void");
        assert!(refused(&builtin.claims(&token.access_token)), "and ends what they opened");
    }

    #[test]
    fn other_tokens_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ours = builtin(folder.path());
        let secret = ours.apps.add(&"a".parse().unwrap()).unwrap();
        ours.apps.add(&"b".parse().unwrap()).unwrap();
        assert!(refused(&ours.issue("a", &Secret::new("wrong"))));
        assert!(refused(&ours.issue("b", &secret)));
        assert!(refused(&ours.issue("nobody", &secret)));
        assert!(refused(&ours.issue("no/id", &secret)));

        let token = ours.issue("a", &secret).unwrap().access_token;
        let other_key = Builtin::new(
            Apps::new(folder.path().join("apps.toml")),
            TokenKey::random().unwrap(),
            DEFAULT_TOKEN_LIFETIME,
        );
        assert!(refused(&other_key.check(&token)));
        let (signed, _) = token.rsplit_once('.').unwrap();
        for bad in ["", ".", "..", "a.b.c", signed, &format!("{token}x"), &format!("{signed}.")] {
            assert!(refused(&ours.check(bad)), "{bad}");
        }
        let expired =
            Builtin::new(Apps::new(folder.path().join("apps.toml")), ours.key.clone(), Duration::ZERO);
        let token = expired.issue("a", &secret).unwrap().access_token;
        assert!(ours.claims(&token).is_ok(), "what it opened may stay");
        assert!(refused(&ours.check(&token)));
    }

    #[test]
    fn the_key_is_persistent_and_redacted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let key = TokenKey::load_or_create(&path).unwrap();
        assert_eq!(*TokenKey::load_or_create(&path).unwrap().0, *key.0);
        assert_eq!(format!("{key:?}"), "TokenKey(…)");
        fs::write(&path, "short").unwrap();
        assert!(TokenKey::load_or_create(&path).is_err());
    }
}
