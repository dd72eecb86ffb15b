//! Twilio: URL and query, JSON bodies, the SHA-256 mode, and what must not be moved between them.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use wwproxy_protocol::{
    Secret, hex,
    scheme::{Check, Covers, Request, Scheme, Verified},
};

use super::vectors::valid;

const SECRET: &str = "12345";
const URL: &str = "https://example.com/hook";
const FORM: &str = "application/x-www-form-urlencoded; charset=UTF-8";

/// A request under test. `signed` is what the signature is made of.
#[derive(Clone, Copy)]
struct Delivery<'a> {
    url: &'a str,
    query: Option<&'a str>,
    content_type: &'a str,
    settings: Option<&'a str>,
    body: &'a [u8],
    signed: &'a str,
}

impl Default for Delivery<'_> {
    fn default() -> Self {
        Self { url: URL, query: None, content_type: FORM, settings: None, body: b"", signed: URL }
    }
}

impl Delivery<'_> {
    fn verify(&self) -> Result<Verified, Check> {
        let signature = if self.settings.is_some_and(|settings| settings.contains("256")) {
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(self.signed.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        } else {
            let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(self.signed.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        };
        let mut headers = vec![
            ("X-Twilio-Signature", signature.as_bytes()),
            ("Content-Type", self.content_type.as_bytes()),
        ];
        headers.extend(
            self.settings.map(|settings| ("X-Twilio-Webhooks-Signature-Settings", settings.as_bytes())),
        );
        let request =
            Request { url: Some(self.url), query: self.query, ..Request::new("POST", &headers, self.body) };
        let twilio = Scheme::preset("twilio").unwrap();
        twilio
            .verify(&[Secret::new("other"), Secret::new(SECRET)], &request, SystemTime::UNIX_EPOCH)
            .map_err(|rejection| rejection.check)
    }
}

fn body_hash(body: &[u8]) -> String {
    format!("bodySHA256={}", hex(&Sha256::digest(body)))
}

#[test]
fn a_form_is_signed_with_the_query_of_the_request() {
    let form = Delivery {
        body: b"b=2&a=1&a=0&a=1",
        signed: "https://example.com/hook?x=1a0a1b2",
        ..Default::default()
    };
    let verified = Delivery { query: Some("x=1"), ..form }.verify().unwrap();
    assert_eq!((verified.secret, verified.covers), (2, Covers::Body));
    for query in [None, Some(""), Some("x=2"), Some("x=1&"), Some("y=1&x=1")] {
        assert_eq!(Delivery { query, ..form }.verify(), Err(Check::Signature), "{query:?}");
    }
}

#[test]
fn a_configured_query_must_be_there() {
    let url = "https://example.com/hook?x=1";
    let form = Delivery { url, body: b"a=1", signed: "https://example.com/hook?x=1a1", ..Default::default() };
    for query in [Some("x=1"), None] {
        assert!(Delivery { query, ..form }.verify().is_ok(), "{query:?}");
    }
    for query in ["", "x=2", "x=12", "x=1&", "x=1&y=2", "y=2&x=1", "x=1bodySHA256=", "x=1&bodySHA256=a1"] {
        assert!(Delivery { query: Some(query), ..form }.verify().is_err(), "{query}");
    }
    // The first parameter cannot be moved into the query.
    let moved = Delivery { query: Some("x=1a1"), body: b"", ..form };
    assert_eq!(moved.verify(), Err(Check::Content));
    let added = format!("x=1&{}", body_hash(b"{}"));
    let signed = format!("https://example.com/hook?{added}");
    let json = Delivery {
        query: Some(&added),
        content_type: "application/json",
        body: b"{}",
        signed: &signed,
        ..form
    };
    assert!(json.verify().is_ok());
}

#[test]
fn a_json_body_is_covered_by_its_hash_in_the_url() {
    let body = br#"{"property": "value", "boolean": true}"#;
    let hash = body_hash(body);
    let signed = format!("{URL}?{hash}");
    let json = Delivery {
        query: Some(&hash),
        content_type: "application/json",
        body,
        signed: &signed,
        ..Default::default()
    };
    assert_eq!(json.verify().unwrap().signed, "URL with the hash of the body");
    for bit in 0..body.len() * 8 {
        let mut body = body.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Delivery { body: &body, ..json }.verify(), Err(Check::Content));
    }
    assert_eq!(Delivery { body: b"", ..json }.verify(), Err(Check::Content), "an empty body");
    assert_eq!(Delivery { body: b"", content_type: FORM, ..json }.verify(), Err(Check::Content));
    assert_eq!(Delivery { query: None, signed: URL, ..json }.verify(), Err(Check::Content), "no hash");
    let twice = format!("{hash}&{hash}");
    let signed = format!("{URL}?{twice}");
    assert_eq!(Delivery { query: Some(&twice), signed: &signed, ..json }.verify(), Err(Check::Content));
}

#[test]
fn the_settings_header_names_the_algorithm() {
    let with = |settings| Delivery { settings, ..Default::default() }.verify();
    assert!(with(None).is_ok());
    for settings in
        ["", "key=k", "key=k,algorithm=HMAC_SHA1", "key=k, algorithm=hmac_sha256", "algorithm=HMAC_SHA256"]
    {
        assert!(with(Some(settings)).is_ok(), "{settings}");
    }
    for settings in ["algorithm=MD5", "algorithm=", "algorithm=HMAC_SHA1,algorithm=HMAC_SHA1"] {
        assert_eq!(with(Some(settings)), Err(Check::Header), "{settings}");
    }
}

#[test]
fn the_port_may_be_signed_or_not() {
    for (url, signed, accepted) in [
        ("https://example.com/hook", "https://example.com:443/hook", true),
        ("http://example.com/hook", "http://example.com:80/hook", true),
        ("https://example.com:8443/hook", "https://example.com/hook", true),
        ("https://example.com:8443/hook", "https://example.com:8443/hook", true),
        ("https://user:pass@example.com/hook", "https://user:pass@example.com:443/hook", true),
        ("https://[::1]/hook", "https://[::1]:443/hook", true),
        ("https://example.com", "https://example.com:443", true),
        ("https://example.com/a:b@c", "https://example.com:443/a:b@c", true),
        ("https://example.com/hook", "https://example.com:80/hook", false),
        ("https://example.com:8443/hook", "https://example.com:443/hook", false),
        ("https://example.com/hook", "http://example.com/hook", false),
        ("https://example.com/hook#rc=3", "https://example.com/hook", true),
    ] {
        assert_eq!(
            Delivery { url, signed, ..Default::default() }.verify().is_ok(),
            accepted,
            "{url} {signed}"
        );
    }
}

#[test]
fn a_form_that_can_be_read_in_two_ways_is_refused() {
    for body in ["a", "a=1&", "&a=1", "=1", "a=%4", "a=%zz"] {
        assert_eq!(
            Delivery { body: body.as_bytes(), ..Default::default() }.verify(),
            Err(Check::Content),
            "{body}"
        );
    }
    let many = "a=1&".repeat(1000) + "a=1";
    assert_eq!(Delivery { body: many.as_bytes(), ..Default::default() }.verify(), Err(Check::Content));
    for content_type in ["text/plain", "multipart/form-data", ""] {
        let other = Delivery { content_type, body: b"a=1", ..Default::default() };
        assert_eq!(other.verify(), Err(Check::Content), "{content_type}");
    }
}

#[test]
fn a_signature_of_another_length_or_twice_is_refused() {
    let twilio = Scheme::preset("twilio").unwrap();
    for (change, check) in [
        (&b""[..], Check::Header),
        (b"RSOYDt4T1cUTdK1PDd93/VVr8A==", Check::Encoding),
        (b"RSOYDt4T1cUTdK1PDd93/VVr8B8", Check::Encoding),
        (b"0ZXoZLH/DfblKGATFgpif+LLRf4=", Check::Signature),
    ] {
        let mut vector = valid("twilio", "SDK test");
        *vector.header("X-Twilio-Signature").unwrap() = change.to_vec();
        assert_eq!(vector.verify(&twilio).unwrap_err().check, check);
    }
    for name in ["X-Twilio-Signature", "Content-Type"] {
        let mut vector = valid("twilio", "SDK test");
        let value = vector.header(name).unwrap().clone();
        vector.headers.push((name.to_lowercase(), value));
        assert!(vector.verify(&twilio).is_err(), "{name}");
    }
}
