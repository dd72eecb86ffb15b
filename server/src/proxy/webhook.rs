//! Verification of a webhook, and its conversion to an event.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use wwproxy_protocol::{
    Encoding, Headers, Origin, Secret, Source, SourceName, Verification, api,
    scheme::{self, Answer, Reception, Request},
};

use super::{ProxyError, rejected::Rejected};
use crate::{
    coop::yield_if_due,
    store::{DedupeKey, NewEvent},
};

/// How much of a body is hashed between yields, in bytes: about 10 µs of work.
const PIECE_BYTES: usize = 16 << 10;

/// A webhook as received, unverified.
pub(crate) struct Webhook {
    pub(crate) method: http::Method,
    /// The path after the source's hook, with its first `/`.
    pub(crate) tail: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// When the sender is answered at the latest if the webhook still waits: for its verification, or to be stored.
    pub(crate) deadline: Instant,
}

impl fmt::Debug for Webhook {
    /// Leaves out the values of headers, which may be tokens, and the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("method", &self.method)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A webhook that was verified. No `Debug`: headers and answers may contain secrets.
pub(crate) enum Verified {
    Event {
        /// The source that verified it.
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
        /// The HTTP status that the sender takes as a success.
        success: u16,
    },
    /// A challenge: the answer to it.
    Challenge(Answer),
    /// A handshake that sets the source's secret.
    Handshake {
        /// The source that it is for.
        source: Arc<Source>,
        secret: Secret,
        answer: Answer,
    },
}

impl Webhook {
    /// Verifies the webhook as one of this source. Nothing of an unverified webhook is parsed but what the scheme asks for.
    pub(super) fn verify(&self, name: &SourceName, source: Arc<Source>) -> Result<Verified, ProxyError> {
        let scheme = source.scheme();
        let verified = match self.receive(&source)? {
            Reception::Event(verified) => verified,
            Reception::Answer(answer) => return Ok(Verified::Challenge(answer)),
            Reception::Secret { secret, answer } => {
                return Ok(Verified::Handshake { source, secret, answer });
            }
        };
        let origin = Origin {
            source: name.clone(),
            tail: self.tail.clone(),
            verification: verification(scheme, &verified),
            event_type: verified.event_type,
            delivery_id: verified.delivery_id.map(|id| id.value),
        };
        let dedupe = dedupe_key(&origin, self.query.as_deref(), &self.body);
        let event = NewEvent {
            origin,
            headers: kept_headers(&self.headers, scheme.keeps_authorization()),
            query: self.query.clone(),
            encoding: Encoding::of(&self.body),
            body: self.body.clone(),
        };
        let success = scheme.success();
        Ok(Verified::Event { source, event, dedupe, success })
    }

    fn receive(&self, source: &Source) -> Result<Reception, ProxyError> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let request = Request {
            query: self.query.as_deref(),
            // Whether it yielded does not matter here.
            pause: || _ = yield_if_due(),
            ..Request::new(self.method.as_str(), &headers, &self.body)
        };
        source.verify(&request, SystemTime::now()).map_err(|rejection| {
            ProxyError::Rejected(Rejected::new(rejection, source.scheme(), &self.headers))
        })
    }
}

fn verification(scheme: &scheme::Scheme, verified: &scheme::Verified) -> Option<Verification> {
    let verification = || Verification {
        scheme: scheme.name().to_owned(),
        secret: verified.secret,
        signed: verified.signed.clone(),
        covers: verified.covers,
    };
    (!scheme.is_unverified()).then(verification)
}

/// The dedupe key (idempotency key) of a webhook, `None` without a delivery id: a hash of all that the client gets but the
/// headers, which differ between the attempts of a sender. The id alone would not do, whether it is signed or not: it may name an
/// object, a batch's first item, or an event that the sender delivers to several endpoints.
fn dedupe_key(origin: &Origin, query: Option<&str>, body: &[u8]) -> Option<DedupeKey> {
    let Origin { source, tail, event_type, delivery_id, verification } = origin;
    let id = delivery_id.as_deref()?;
    let mut hash = Sha256::new();
    for part in [Some(source.as_str()), tail.as_deref(), query, event_type.as_deref(), Some(id)] {
        hash.update(part.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    let secret = verification.as_ref().map_or(0, |verification| verification.secret);
    hash.update((secret as u64).to_be_bytes());
    in_pieces(body, |piece| hash.update(piece));
    let hash: [u8; 32] = hash.finalize().into();
    Some(*hash.first_chunk().expect("32 bytes have a first 16"))
}

/// Hashes a body in pieces, and yields cooperatively between the pieces of a large one.
pub(super) fn in_pieces(body: &[u8], mut hash: impl FnMut(&[u8])) {
    for piece in body.chunks(PIECE_BYTES) {
        hash(piece);
        if piece.len() == PIECE_BYTES {
            yield_if_due();
        }
    }
}

/// The headers that are stored: without hop-by-hop headers, and without credentials unless they are the signature.
///
/// Headers that `Connection` names are stored. Only an intermediary must remove them, and they could be those that were
/// verified.
fn kept_headers(headers: &HeaderMap, keeps_authorization: bool) -> Headers {
    let kept = |name: &str| {
        !api::HOP_BY_HOP.contains(&name) && (keeps_authorization || name != header::AUTHORIZATION)
    };
    let text = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
    let pairs = headers.iter().filter(|(name, _)| kept(name.as_str()));
    pairs.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use wwproxy_protocol::{scheme::Covers, sign_watson_work};

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
            ("connection", b"close, X-Outbound-Index"),
            ("authorization", b"Bearer hunter2"),
            ("transfer-encoding", b"chunked"),
            ("x-outbound-index", b"7"),
            ("x-latin", b"\xe9"),
        ]);
        let expected = [("host", "proxy.example"), ("x-outbound-index", "7"), ("x-latin", "é")]
            .map(|(n, v)| (n.into(), v.into()));
        assert_eq!(kept_headers(&headers, false), expected);
        assert!(kept_headers(&headers, true).contains(&("authorization".into(), "Bearer hunter2".into())));
    }

    #[test]
    fn every_part_of_the_dedupe_key_counts_on_its_own() {
        let text = |text: &str| Some(text.to_owned());
        let origin = |tail, event_type, delivery_id, secret| Origin {
            source: "a".parse().unwrap(),
            tail,
            event_type,
            delivery_id,
            verification: Some(Verification {
                scheme: "github".into(),
                secret,
                signed: "body".into(),
                covers: Covers::Body,
            }),
        };
        let first = || origin(None, None, text("7"), 1);
        let keys = [
            dedupe_key(&first(), None, b"{}"),
            dedupe_key(&Origin { source: "b".parse().unwrap(), ..first() }, None, b"{}"),
            dedupe_key(&Origin { verification: None, ..first() }, None, b"{}"),
            dedupe_key(&origin(text("/a"), None, text("7"), 1), None, b"{}"),
            dedupe_key(&origin(None, text("/a"), text("7"), 1), None, b"{}"),
            dedupe_key(&origin(None, None, text("8"), 1), None, b"{}"),
            dedupe_key(&origin(None, None, text("7"), 2), None, b"{}"),
            dedupe_key(&first(), Some("/a"), b"{}"),
            dedupe_key(&first(), Some(""), b"{}"),
            dedupe_key(&first(), None, b"{} "),
        ];
        assert_eq!(dedupe_key(&first(), None, b"{}"), keys[0]);
        let distinct: std::collections::BTreeSet<_> = keys.iter().flatten().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(dedupe_key(&origin(None, None, None, 1), None, b"{}"), None);
    }

    #[test]
    fn the_signature_and_the_dedupe_key_cover_all_of_a_large_body() {
        let secret = Secret::new("secret");
        let source = Arc::new(Source::watson_work(secret.clone()));
        let verify = |body: &str, signed: &str| {
            let signature = sign_watson_work(&secret, signed.as_bytes());
            let headers = headers(&[("x-outbound-token", signature.as_bytes()), (api::OUTBOUND_INDEX, b"7")]);
            let (method, body) = (http::Method::POST, body.to_owned().into());
            let deadline = Instant::now();
            let webhook = Webhook { method, tail: None, headers, query: None, body, deadline };
            match webhook.verify(&SourceName::default(), Arc::clone(&source)) {
                Ok(Verified::Event { dedupe, .. }) => dedupe,
                Err(ProxyError::Rejected(_)) => None,
                Ok(_) => panic!("a challenge"),
                Err(error) => panic!("{error}"),
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
}
