//! Reads HTTP responses: bodies within a limit, and the error that an unexpected status means.

use std::{error::Error as StdError, time::Duration};

use reqwest::{Response, header};
use serde::de::DeserializeOwned;
use wwproxy_protocol::api::Problem;

use crate::{Error, ErrorKind, error::sanitize, failure::transport_error};

/// The longest error body that is read for its `detail`, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let url = response.url().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(error, &url))? {
        if body.len() + chunk.len() > limit {
            let message = format!("the response is larger than {limit} bytes; request fewer events at once");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads a UTF-8 body of at most `limit` bytes.
pub(crate) async fn read_text(response: Response, limit: usize) -> Result<String, Error> {
    String::from_utf8(read_body(response, limit).await?).map_err(|error| unreadable(error.utf8_error()))
}

/// Reads a JSON body of at most `limit` bytes.
pub(crate) async fn read_json<T: DeserializeOwned>(response: Response, limit: usize) -> Result<T, Error> {
    serde_json::from_slice(&read_body(response, limit).await?).map_err(unreadable)
}

/// The error for a body that violates the protocol.
pub(crate) fn unreadable(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Protocol, NOT_A_WWPROXY_SERVER).with_source(error)
}

const NOT_A_WWPROXY_SERVER: &str = "this does not look like a wwproxy server; check the server's address";

/// The error for a response with an unexpected status. The status decides the kind.
pub(crate) async fn into_error(response: Response) -> Error {
    let status = response.status();
    let (kind, message) = match status.as_u16() {
        401 | 403 => (
            ErrorKind::Refused,
            "the server refused the credentials; check the app id and its secret or token",
        ),
        404 => (
            ErrorKind::NotRegistered,
            "the server knows no such app; check its address and the app id, and register the app",
        ),
        // Not implemented, HTTP version not supported: a retry does not help.
        501 | 505 => (ErrorKind::Protocol, NOT_A_WWPROXY_SERVER),
        408 | 429 | 500.. => (ErrorKind::Unavailable, "the server cannot serve this now; try again later"),
        400..=499 => (ErrorKind::InvalidRequest, "the server rejected the request; check what was sent"),
        300..=399 => (
            ErrorKind::Protocol,
            "the server answered with a redirect, which is not followed; use its final address",
        ),
        _ => (ErrorKind::Protocol, NOT_A_WWPROXY_SERVER),
    };
    let retry_after = retry_after(&response);
    let detail = problem_detail(response).await;
    Error::new(kind, message).with_response(status, detail, retry_after)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn problem_detail(response: Response) -> Option<String> {
    let content_type = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    if !content_type.contains("json") {
        return None;
    }
    // An error body that cannot be read is ignored: the status is the error.
    let body = read_body(response, MAX_PROBLEM_BYTES).await.ok()?;
    let problem: Problem = serde_json::from_slice(&body).ok()?;
    let texts = [problem.detail, problem.error_description.unwrap_or_default(), problem.title];
    texts.iter().map(|text| sanitize(text)).find(|text| !text.is_empty())
}
