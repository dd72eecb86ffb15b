//! Starts the built server on a real port, and drives it as senders and clients do.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod app;
mod consumer;
mod eventually;
mod home;
mod raw;
mod server;
mod socket;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Response, header};
use serde_json::Value;
use sha2::Sha256;

pub(crate) use self::{
    app::{App, number},
    eventually::{DEADLINE, eventually},
    home::Home,
    raw::{Raw, RawResponse, raw},
    server::Server,
    socket::{Socket, handshake_headers, handshake_text, parse_legacy_event, upgrade},
};

/// An HTTP client that follows no redirect and loads no CA certificates.
pub(crate) fn http_client() -> reqwest::Client {
    // The result is ignored: another test of this process may have installed the provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    // Shorter than the server's idle timeout of 30 s: a request on a connection that the server is closing would fail.
    let builder = builder.pool_idle_timeout(Duration::from_secs(10));
    builder.timeout(DEADLINE).tls_certs_only([]).build().unwrap()
}

/// The signature of scheme `watsonwork`, computed without the server's own code.
pub(crate) fn sign(secret: &str, body: impl AsRef<[u8]>) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_ref());
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap();
    mac.finalize().into_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Checks that a response is an RFC 9457 problem of this status, and returns its `detail`.
pub(crate) async fn problem(response: Response, status: u16) -> String {
    let headers = response.headers().clone();
    let (actual, body) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!(actual, status, "{body}");
    assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "application/problem+json", "{body}");
    if status == 401 {
        assert!(headers.contains_key(header::WWW_AUTHENTICATE), "{headers:?}");
    }
    if status == 503 {
        let after = headers[header::RETRY_AFTER].to_str().unwrap();
        assert!(after.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{after}");
    }
    problem_body(&body, status)
}

/// Checks the body of an RFC 9457 problem, and returns its `detail`.
pub(crate) fn problem_body(body: &str, status: u16) -> String {
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], status, "{body}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
    }
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with('.') && detail.contains(' '), "the detail is a sentence: {detail}");
    detail.to_owned()
}

/// Checks that a response has this status and an empty body.
pub(crate) async fn empty(response: Response, status: u16) {
    let (actual, body) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!((actual, body.as_str()), (status, ""));
}
