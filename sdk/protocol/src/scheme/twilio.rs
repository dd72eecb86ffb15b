//! Twilio: the URL is signed, followed by the sorted fields of the form.
//!
//! After twilio-python `twilio/request_validator.py` and twilio-node `src/webhooks`. A body that is not a form is covered by
//! its hash in the URL. Twilio puts no separator between the names and values of fields, so the boundary between them is not
//! covered.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::Hmac;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Check, Covers, DeliveryId, Description, Rejection, Request, SignError, Signed, Unsigned, Verified,
    key::{Algorithm, Encoding, compute_mac, decode, decode_hex, in_pieces},
    sign::header_value,
    source::{decode_form, header, is_form, query},
    verify::{MAX_SECRET_BYTES, text_label},
};
use crate::Secret;

pub(super) const SIGNATURE: &str = "X-Twilio-Signature";
/// Names the algorithm, as in `key=…,algorithm=HMAC_SHA256`. Without it, it is HMAC-SHA1.
const SETTINGS: &str = "X-Twilio-Webhooks-Signature-Settings";
pub(super) const DELIVERY_ID: &str = "I-Twilio-Idempotency-Token";
/// The query parameter with the hash of a body that is not a form, as hexadecimal.
const BODY_HASH: &str = "bodySHA256";
/// The most fields of a form: each is sorted.
const MAX_FIELDS: usize = 1000;

/// A name and a value, decoded.
type Field = (Vec<u8>, Vec<u8>);

/// Verifies a request. There must be 1 to 4 secrets.
pub(super) fn verify(secrets: &[Secret], request: &Request<'_>) -> Result<Verified, Rejection> {
    let algorithm = algorithm(request)?;
    let signature = signature(algorithm, request)?;
    let url = signed_url(request)?;
    let fields = fields(request)?;
    check_body_hash(&url, fields.is_some(), request)?;
    let urls = [without_port(&url), with_port(&url)];
    let secret = (1..).zip(secrets).find(|(_, secret)| {
        (1..=MAX_SECRET_BYTES).contains(&secret.expose().len())
            && urls.iter().any(|url| {
                let content = content(url, fields.as_deref().unwrap_or_default());
                let key = secret.expose().as_bytes();
                algorithm.verify(key, &content, std::slice::from_ref(&signature), request.pause)
            })
    });
    let Some((number, _)) = secret else {
        return Err(Rejection::new(
            Check::Signature,
            "the signature does not match the URL and the body under any secret of the source",
        ));
    };
    let signed = if fields.is_some() { "URL, form fields" } else { "URL with the hash of the body" };
    Ok(Verified {
        // The fields differ between products.
        event_type: None,
        delivery_id: delivery_id(request),
        secret: number,
        signed: signed.to_owned(),
        covers: Covers::Body,
    })
}

/// Signs a request with the account's Auth Token. The URL must have the hash of a body that is not a form.
pub(super) fn sign(secret: &Secret, unsigned: &Unsigned<'_>) -> Result<Signed, SignError> {
    let id = header_value("delivery id", unsigned.delivery_id.to_owned())?;
    let (id, mut headers) = ([(DELIVERY_ID.to_owned(), id)], Vec::new());
    let request = unsigned.with(&id, unsigned.body, &mut headers);
    let url = signed_url(&request)?;
    let fields = fields(&request)?;
    check_body_hash(&url, fields.is_some(), &request)?;
    let content = content(&url, fields.as_deref().unwrap_or_default());
    let signature = compute_mac::<Hmac<Sha1>>(secret.expose().as_bytes(), &content, request.pause);
    let [id] = id;
    Ok(Signed { headers: vec![id, (SIGNATURE.to_owned(), STANDARD.encode(signature))], body: None })
}

/// The two algorithms in words.
pub(super) fn describe() -> Vec<Description> {
    [("hmac-sha1", "the Auth Token as text"), ("hmac-sha256", "the shared key as text")]
        .map(|(algorithm, key)| Description {
            algorithm,
            signature: format!("header {SIGNATURE}: base64; {SETTINGS} names hmac-sha256"),
            signed: "URL with query, then the sorted names and values of the form; of other bodies the URL has the \
                     hash bodySHA256"
                .to_owned(),
            covers: Covers::Body,
            timestamp: None,
            tolerance: None,
            key: key.to_owned(),
            id: Some(format!("header {DELIVERY_ID}")),
            event: None,
        })
        .into()
}

fn single<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a [u8]>, Rejection> {
    header(request, name).map_err(|error| Rejection::new(Check::Header, error.to_string()))
}

fn algorithm(request: &Request<'_>) -> Result<Algorithm, Rejection> {
    let settings = single(request, SETTINGS)?.unwrap_or_default();
    let mut names = settings.split(|byte| *byte == b',').filter_map(|item| {
        item.trim_ascii().strip_prefix(b"algorithm")?.trim_ascii().strip_prefix(b"=").map(<[u8]>::trim_ascii)
    });
    match (names.next(), names.next()) {
        (None, _) => Ok(Algorithm::HmacSha1),
        (Some(name), None) if name.eq_ignore_ascii_case(b"HMAC_SHA1") => Ok(Algorithm::HmacSha1),
        (Some(name), None) if name.eq_ignore_ascii_case(b"HMAC_SHA256") => Ok(Algorithm::HmacSha256),
        _ => {
            let detail =
                format!("header {SETTINGS} does not name one algorithm of HMAC_SHA1 and HMAC_SHA256");
            Err(Rejection::new(Check::Header, detail))
        }
    }
}

fn signature(algorithm: Algorithm, request: &Request<'_>) -> Result<Vec<u8>, Rejection> {
    let text = single(request, SIGNATURE)?.unwrap_or_default();
    if text.is_empty() {
        return Err(Rejection::new(Check::Header, format!("header {SIGNATURE} is missing or empty")));
    }
    let signature = decode(Encoding::Base64, text).filter(|bytes| algorithm.accepts_length(bytes.len()));
    signature.ok_or_else(|| {
        Rejection::new(Check::Encoding, "the value is not a base64 signature of the right length")
    })
}

/// The configured URL with the query of the request, which Twilio signs.
///
/// A configured query must be there: only [`BODY_HASH`] may follow it. Without a query in the request, the configured URL is
/// the signed one.
fn signed_url<'a>(request: &Request<'a>) -> Result<Cow<'a, str>, Rejection> {
    let reject = |detail| Err(Rejection::new(Check::Content, detail));
    let Some(url) = request.url else { return reject("the source has no URL") };
    // The fragment has settings of the connection, and is not signed.
    let (url, _) = url.split_once('#').unwrap_or((url, ""));
    let Some(received) = request.query else { return Ok(url.into()) };
    let Some((base, configured)) = url.split_once('?') else { return Ok(format!("{url}?{received}").into()) };
    let added = match configured {
        "" => Some(received),
        _ => received.strip_prefix(configured).and_then(|added| added.strip_prefix('&')),
    };
    let is_hash = |added: &str| {
        added
            .strip_prefix(BODY_HASH)
            .and_then(|added| added.strip_prefix('='))
            .is_some_and(|hash| hash.len() == 64)
    };
    if received == configured || added.is_some_and(is_hash) {
        Ok(format!("{base}?{received}").into())
    } else {
        reject("the query is not that of the source's \"url\"")
    }
}

/// Decodes the fields of a form, sorted, equal ones once. `None` if the body is not a form.
fn fields(request: &Request<'_>) -> Result<Option<Vec<Field>>, Rejection> {
    if request.body.is_empty() {
        return Ok(Some(Vec::new()));
    }
    if !is_form(request).map_err(Rejection::content)? {
        return Ok(None);
    }
    let reject = |detail: &str| Rejection::new(Check::Content, detail);
    let invalid = || reject("the body is not a form");
    let mut fields = Vec::new();
    for pair in request.body.split(|byte| *byte == b'&') {
        if fields.len() == MAX_FIELDS {
            return Err(reject("the form has more than 1000 fields"));
        }
        let at = pair.iter().position(|byte| *byte == b'=').ok_or_else(invalid)?;
        let name = decode_form(&pair[..at]).filter(|name| !name.is_empty()).ok_or_else(invalid)?;
        fields.push((name, decode_form(&pair[at + 1..]).ok_or_else(invalid)?));
    }
    fields.sort_unstable();
    fields.dedup();
    Ok(Some(fields))
}

/// Checks the hash of the body in the URL. A body that is not a form must have it, since nothing else covers the body.
fn check_body_hash(url: &str, is_form: bool, request: &Request<'_>) -> Result<(), Rejection> {
    let reject = |detail: &str| Err(Rejection::new(Check::Content, detail));
    let (_, parameters) = url.split_once('?').unwrap_or_default();
    let expected = match query(parameters, BODY_HASH).map_err(Rejection::content)? {
        Some(text) => decode_hex(&text).unwrap_or_default(),
        None if is_form => return Ok(()),
        None => return reject("the body is not a form, and the URL has no bodySHA256"),
    };
    let mut hash = Sha256::new();
    in_pieces(request.body, request.pause, |piece| hash.update(piece));
    let matches: bool = hash.finalize().ct_eq(expected.as_slice()).into();
    if matches { Ok(()) } else { reject("the body does not have the bodySHA256 of the URL") }
}

fn content<'a>(url: &'a str, fields: &'a [Field]) -> Vec<&'a [u8]> {
    let fields = fields.iter().flat_map(|(name, value)| [name.as_slice(), value.as_slice()]);
    std::iter::once(url.as_bytes()).chain(fields).collect()
}

/// Returns where the port of a URL is, from its colon on, and an empty range at its place if there is none.
fn port(url: &str) -> std::ops::Range<usize> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let host = url[start..end].rfind(['@', ']']).map_or(start, |at| start + at + 1);
    url[host..end].find(':').map_or(end, |at| host + at)..end
}

fn without_port(url: &str) -> String {
    let port = port(url);
    [&url[..port.start], &url[port.end..]].concat()
}

fn with_port(url: &str) -> String {
    let port = port(url);
    if !port.is_empty() {
        return url.to_owned();
    }
    let default = if url.starts_with("https:") { ":443" } else { ":80" };
    [&url[..port.start], default, &url[port.end..]].concat()
}

/// The token is not signed.
fn delivery_id(request: &Request<'_>) -> Option<DeliveryId> {
    let value = text_label(header(request, DELIVERY_ID).ok()??.to_vec())?;
    Some(DeliveryId { value, covered: false })
}
