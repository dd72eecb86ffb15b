//! A webhook: whether it is what its sender's signature says, and what it is then.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use wwproxy_protocol::{Headers, Secret, api, json};

use super::{BadSignature, ProxyError};
use crate::{
    coop::yield_if_due,
    store::{DedupeKey, NewEvent, Registration},
};

/// How much of a body is hashed in one go, in bytes: some 10 us.
const PIECE_BYTES: usize = 16 << 10;

/// A webhook as it came in.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
    pub(crate) body: Bytes,
}

/// What a verified webhook is.
#[derive(Debug)]
pub(crate) enum Verified {
    Event(NewEvent, Option<DedupeKey>),
    /// The body to answer with, and that body's signature.
    Challenge {
        body: String,
        signature: String,
    },
}

impl Webhook {
    /// Verifies it. Nothing unverified is looked into.
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

/// The secret that signed the body. A request with two signatures has none.
fn signing_secret<'a>(
    registration: &'a Registration,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<&'a Secret> {
    let mut signatures = headers.get_all(api::OUTBOUND_TOKEN).iter();
    let (Some(signature), None) = (signatures.next(), signatures.next()) else { return None };
    let fits = |secret: &&Secret| {
        let mut signer = registration.scheme.signer(secret);
        in_pieces(body, |piece| signer.update(piece));
        signer.verify(signature.as_bytes())
    };
    registration.secrets.iter().find(fits)
}

/// Hashes a body, and lets others go first after each piece of a large one.
fn in_pieces(body: &[u8], mut hash: impl FnMut(&[u8])) {
    for piece in body.chunks(PIECE_BYTES) {
        hash(piece);
        if piece.len() == PIECE_BYTES {
            yield_if_due();
        }
    }
}

/// The JSON string to answer, where the body is a challenge: as the sender wrote it.
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

/// What makes a delivery the same as an earlier one of the app: its index and its body. The index
/// counts per space, and the space stands in the body.
fn dedupe_key(headers: &HeaderMap, body: &[u8]) -> Option<DedupeKey> {
    let index = headers.get(api::OUTBOUND_INDEX)?.as_bytes();
    let mut hash = Sha256::new();
    hash.update((index.len() as u64).to_be_bytes());
    hash.update(index);
    in_pieces(body, |piece| hash.update(piece));
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied()
}

/// What is kept of a request's head: nothing that is meant for one connection, and no credentials.
fn kept_headers(headers: &HeaderMap) -> Headers {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let kept = |name: &str| {
        let for_one_connection = api::HOP_BY_HOP.contains(&name) || named.iter().any(|other| other == name);
        !for_one_connection && name != header::AUTHORIZATION
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
    fn hop_by_hop_headers_and_credentials_are_not_kept() {
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
    fn a_delivery_is_named_by_index_and_body() {
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
    fn all_of_a_large_body_is_signed_and_named() {
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
