//! The built server over a real port, and what senders and clients do to it.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod app;
mod home;
mod raw;
mod server;
mod socket;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Response, header};
use serde_json::Value;
use sha2::Sha256;
use tokio::time::{Instant, sleep};

pub(crate) use self::{
    app::{App, number},
    home::Home,
    raw::{Raw, RawResponse, raw},
    server::Server,
    socket::{Socket, exact_event, handshake_headers, handshake_text, upgrade},
};

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A client that follows no redirect and needs no CA certificates.
pub(crate) fn http_client() -> reqwest::Client {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    // The server closes one that is idle for 30 s, at the very moment that it may be used again.
    let builder = builder.pool_idle_timeout(std::time::Duration::from_secs(10));
    builder.timeout(DEADLINE).tls_certs_only([]).build().unwrap()
}

/// The signature of scheme `watsonwork`, reckoned apart from the server's own code.
pub(crate) fn sign(secret: &str, body: impl AsRef<[u8]>) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_ref());
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap();
    mac.finalize().into_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Checks that an answer is an error of this status in the form of RFC 9457, and gives its `detail`.
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

/// Checks the body of an error.
pub(crate) fn problem_body(body: &str, status: u16) -> String {
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], status, "{body}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
    }
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with('.') && detail.contains(' '), "a sentence: {detail}");
    detail.to_owned()
}

/// Checks that an answer has this status and an empty body.
pub(crate) async fn empty(response: Response, status: u16) {
    let (actual, body) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!((actual, body.as_str()), (status, ""));
}
