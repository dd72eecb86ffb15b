//! Verification of a webhook's signature, and classification: an event or a challenge.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use wwproxy_protocol::{Headers, Secret, api, json};

use super::{BadSignature, ProxyError};
use crate::{
    coop::yield_if_due,
    store::{DedupeKey, NewEvent, Registration},
};

/// How much of a body is hashed between yields, in bytes: about 10 µs of work.
const PIECE_BYTES: usize = 16 << 10;

/// A webhook as received, unverified.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
    pub(crate) body: Bytes,
}

/// A webhook whose signature is valid.
#[derive(Debug)]
pub(crate) enum Verified {
    Event(NewEvent, Option<DedupeKey>),
    /// The body to answer with, and the signature of that body.
    Challenge {
        body: String,
        signature: String,
    },
}

impl Webhook {
    /// Verifies the signature over the raw body. Nothing else of an unverified webhook is parsed.
    pub(super) fn verify(self, registration: &Registration) -> Result<Verified, ProxyError> {
        let Self { headers, query, body } = self;
        let secret = signing_secret(registration, &headers, &body)
            .ok_or_else(|| ProxyError::BadSignature(BadSignature::new(registration.scheme, &headers)))?;
        let text = std::str::from_utf8(&body).map_err(|_| ProxyError::NotJson)?;
        if let Some(challenge) = challenge(text)? {
            let body = format!(r#"{{"response":{challenge}}}"#);
            let signature = registration.scheme.sign(secret, body.as_bytes());
            return Ok(Verified::Challenge { body, signature });
        }
        let dedupe = dedupe_key(&headers, &body);
        Ok(Verified::Event(NewEvent { headers: kept_headers(&headers), query, body }, dedupe))
    }
}

/// Returns the secret that signed the body. A request with two signatures is rejected.
fn signing_secret<'a>(
    registration: &'a Registration,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<&'a Secret> {
    let mut signatures = headers.get_all(api::OUTBOUND_TOKEN).iter();
    let (Some(signature), None) = (signatures.next(), signatures.next()) else { return None };
    let is_signed_with = |secret: &&Secret| {
        let mut signer = registration.scheme.signer(secret);
        in_pieces(body, |piece| signer.update(piece));
        signer.verify(signature.as_bytes())
    };
    registration.secrets.iter().find(is_signed_with)
}

/// Hashes a body in pieces, and yields cooperatively between the pieces of a large one.
fn in_pieces(body: &[u8], mut hash: impl FnMut(&[u8])) {
    for piece in body.chunks(PIECE_BYTES) {
        hash(piece);
        if piece.len() == PIECE_BYTES {
            yield_if_due();
        }
    }
}

/// Returns the challenge as raw JSON, if the body is a verification request.
fn challenge(text: &str) -> Result<Option<&str>, ProxyError> {
    let Ok([kind, challenge]) = json::members(text, ["type", "challenge"]) else {
        return if json::is_object_or_array(text) { Ok(None) } else { Err(ProxyError::NotJson) };
    };
    if kind.and_then(json::string).as_deref() != Some("verification") {
        return Ok(None);
    }
    let challenge = challenge.filter(|raw| json::string(raw).is_some()).ok_or(ProxyError::BadChallenge)?;
    Ok(Some(challenge.get()))
}

/// The dedupe key (idempotency key) of a webhook: a hash of its index and body. The index counts per space, and the space is
/// in the body.
fn dedupe_key(headers: &HeaderMap, body: &[u8]) -> Option<DedupeKey> {
    let index = headers.get(api::OUTBOUND_INDEX)?.as_bytes();
    let mut hash = Sha256::new();
    hash.update((index.len() as u64).to_be_bytes());
    hash.update(index);
    in_pieces(body, |piece| hash.update(piece));
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied()
}

/// The headers that are stored: without hop-by-hop headers and credentials.
fn kept_headers(headers: &HeaderMap) -> Headers {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let kept = |name: &str| {
        let hop_by_hop = api::HOP_BY_HOP.contains(&name) || named.iter().any(|other| other == name);
        !hop_by_hop && name != header::AUTHORIZATION
    };
    let text = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
    let pairs = headers.iter().filter(|(name, _)| kept(name.as_str()));
    pairs.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use wwproxy_protocol::Scheme;

    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn hop_by_hop_headers_and_credentials_are_not_stored() {
        let headers = headers(&[
            ("host", b"proxy.example"),
            ("connection", b"close, X-Secret-Hop"),
            ("x-secret-hop", b"1"),
            ("authorization", b"Bearer hunter2"),
            ("transfer-encoding", b"chunked"),
            ("x-outbound-index", b"7"),
            ("x-latin", b"\xe9"),
        ]);
        let expected = [("host", "proxy.example"), ("x-outbound-index", "7"), ("x-latin", "é")]
            .map(|(n, v)| (n.into(), v.into()));
        assert_eq!(kept_headers(&headers), expected);
    }

    #[test]
    fn the_dedupe_key_is_a_hash_of_index_and_body() {
        let key = |index: &'static [u8], body: &str| {
            dedupe_key(&headers(&[(api::OUTBOUND_INDEX, index)]), body.as_bytes())
        };
        assert_eq!(key(b"7", "{}"), key(b"7", "{}"));
        assert_ne!(key(b"7", "{}"), key(b"8", "{}"));
        assert_ne!(key(b"7", "{}"), key(b"7", "{} "));
        assert_ne!(key(b"7", "7{}"), key(b"77", "{}"));
        assert_eq!(dedupe_key(&HeaderMap::new(), b"{}"), None);
    }

    #[test]
    fn the_signature_and_the_dedupe_key_cover_all_of_a_large_body() {
        let registration = Registration { scheme: Scheme::WatsonWork, secrets: vec![Secret::new("secret")] };
        let verify = |body: &str, signed: &str| {
            let signature = Scheme::WatsonWork.sign(&registration.secrets[0], signed.as_bytes());
            let headers = headers(&[("x-outbound-token", signature.as_bytes()), (api::OUTBOUND_INDEX, b"7")]);
            match (Webhook { headers, query: None, body: body.to_owned().into() }).verify(&registration) {
                Ok(Verified::Event(_, key)) => key,
                Err(ProxyError::BadSignature(_)) => None,
                other => panic!("{other:?}"),
            }
        };
        for length in [PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 3 * PIECE_BYTES + 9] {
            let body = |last: char| format!("[\"{}{last}\"]", "x".repeat(length - 5));
            let (one, other) = (body('a'), body('b'));
            assert_eq!(one.len(), length);
            assert!(verify(&one, &one).is_some());
            assert_eq!(verify(&one, &other), None);
            assert_ne!(verify(&one, &one), verify(&other, &other));
        }
    }

    #[test]
    fn a_challenge_is_a_verification_with_a_string() {
        assert_eq!(
            challenge(r#"{"type":"verification","challenge": "c\u00e9" }"#).unwrap(),
            Some(r#""c\u00e9""#)
        );
        for event in
            [r#"{"type":"message-created","challenge":"c"}"#, "[]", r#"[{"type":"verification"}]"#, "{}"]
        {
            assert_eq!(challenge(event).unwrap(), None, "{event}");
        }
        for bad in [r#"{"type":"verification"}"#, r#"{"type":"verification","challenge":7}"#] {
            assert!(matches!(challenge(bad), Err(ProxyError::BadChallenge)), "{bad}");
        }
        for bad in ["", "7", "\"x\"", "{", "nul"] {
            assert!(matches!(challenge(bad), Err(ProxyError::NotJson)), "{bad}");
        }
    }
}
